//! Questions under way: lookups of this node and of others, and the calls of which they and
//! upkeep consist.

use super::*;

/// How long to wait for the answer to a question that somebody took on: five steps of which
/// each goes wrong four times. Whoever gives up earlier only asks a second way.
const RELAYED_TIMEOUT: Duration = Duration::from_secs(20);
/// Nodes that a lookup may go through: four times ⌈log₁₆⌉ of a million, then it is a loop.
const RELAY_HOPS_MAX: u8 = 20;
/// Ways that one node tries for one lookup before it gives up. With half of all nodes dead one
/// lookup in a thousand finds nobody; 8 s at one for each are less than whoever waits for this
/// node waits.
const TRIED_MAX: usize = 8;
/// Of these, ways that may come back without an answer: each of them is a search of its own,
/// and a node that goes on and on makes one question into thousands.
const RETURNED_MAX: u8 = 2;

#[derive(Debug, Clone)]
pub(super) struct Lookup<C> {
    number: u32,
    pub(super) key: Id,
    /// The node before this one on the way, and the number of its request; none: the caller's.
    pub(super) asker: Option<(C, u32)>,
    hops_left: u8,
    /// Who was passed the question.
    tried: Vec<C>,
    /// How many of them took it, and found nothing.
    returned: u8,
    hops: u32,
    timeouts: u32,
    path: Vec<Step<C>>,
}

/// A question that was sent to one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    /// Of the lookup with this number.
    Relay {
        lookup: u32,
        key: Id,
        hops_left: u8,
    },
    /// On the way to this node's own place.
    Ask,
    Leaves,
    Row(u8),
    Probe,
}

#[derive(Debug, Clone)]
pub(super) struct Call<C> {
    request: u32,
    to: C,
    pub(super) question: Question,
    attempts_left: u8,
    /// A lookup that was taken on is waited for longer, and not asked again.
    is_accepted: bool,
    asked_at: Instant,
    pub(super) deadline: Instant,
}

impl<C: Contact> Pastry<C> {
    fn message(&self, question: Question, request: u32) -> PastryMessage<C> {
        match question {
            Question::Relay { key, hops_left, .. } => PastryMessage::Relay { request, key, hops_left },
            Question::Ask => PastryMessage::Ask { request, key: self.tables.me.id() },
            Question::Leaves => PastryMessage::GetLeaves { request },
            Question::Row(row) => PastryMessage::GetRow { request, row },
            Question::Probe => PastryMessage::Ping { request },
        }
    }

    fn number(&mut self) -> u32 {
        self.numbered = self.numbered.wrapping_add(1);
        self.numbered
    }

    pub(super) fn call(&mut self, now: Instant, to: C, question: Question, out: &mut PastryOut<C>) {
        let request = self.number();
        let attempts_left = self.config.attempts.saturating_sub(1);
        let deadline = now + self.config.answer_timeout;
        out.send(to.clone(), self.message(question, request));
        let call = Call { request, to, question, attempts_left, is_accepted: false, asked_at: now, deadline };
        self.calls.push(call);
    }

    pub(super) fn is_asking(&self, wanted: impl Fn(&Question) -> bool) -> bool {
        self.calls.iter().any(|call| wanted(&call.question))
    }

    pub(super) fn start(&mut self, now: Instant, key: Id, out: &mut PastryOut<C>) -> u32 {
        let number = self.number();
        self.advance(now, new_lookup(number, key, None, RELAY_HOPS_MAX), out);
        number
    }

    /// Somebody else's lookup.
    pub(super) fn relay(
        &mut self,
        now: Instant,
        from: C,
        request: u32,
        key: Id,
        hops_left: u8,
        out: &mut PastryOut<C>,
    ) {
        let asker = Some((from.clone(), request));
        // The network repeats messages at times.
        if self.lookups.iter().any(|lookup| lookup.asker == asker) {
            return out.send(from, PastryMessage::Accepted { request });
        }
        let relays = self.lookups.iter().filter(|lookup| lookup.asker.is_some()).count();
        let hops_left = hops_left.min(RELAY_HOPS_MAX);
        if relays >= RELAYS_MAX || hops_left == 0 {
            return out.send(from, PastryMessage::Relayed { request, owner: None, hops: 0, timeouts: 0 });
        }
        let number = self.number();
        let lookup = new_lookup(number, key, asker, hops_left - 1);
        // Whoever is responsible says so at once; the others, that they took it.
        if !self.tables.next(key, |_| false).is_empty() {
            out.send(from, PastryMessage::Accepted { request });
        }
        self.advance(now, lookup, out);
    }

    /// Passes a lookup on; it is put among those under way, or ends.
    fn advance(&mut self, now: Instant, mut lookup: Lookup<C>, out: &mut PastryOut<C>) {
        let is_out = |contact: &C| {
            let is_asker = lookup.asker.as_ref().is_some_and(|(asker, _)| asker == contact);
            is_asker || lookup.tried.contains(contact)
        };
        let next = self.tables.next(lookup.key, is_out).into_iter().next();
        match next {
            // Somebody nearer is alive; that this node is the nearest of the others does not make
            // the key its own.
            None if lookup.returned > 0 => self.finish(lookup, Err(LookupError::Exhausted), out),
            None => {
                let me = self.tables.me.clone();
                self.finish(lookup, Ok(me), out);
            }
            Some(_) if lookup.tried.len() >= TRIED_MAX || lookup.returned >= RETURNED_MAX => {
                self.finish(lookup, Err(LookupError::TooLong), out);
            }
            Some(to) => {
                let question =
                    Question::Relay { lookup: lookup.number, key: lookup.key, hops_left: lookup.hops_left };
                lookup.tried.push(to.clone());
                if lookup.asker.is_none() {
                    lookup.path.push(Step { contact: to.clone(), answered: false });
                }
                self.lookups.push(lookup);
                self.call(now, to, question, out);
            }
        }
    }

    /// Tells whoever asked.
    pub(super) fn finish(
        &mut self,
        lookup: Lookup<C>,
        outcome: Result<C, LookupError>,
        out: &mut PastryOut<C>,
    ) {
        let Lookup { number, key, asker, hops, timeouts, path, .. } = lookup;
        if let Some((asker, request)) = asker {
            let small = |number: u32| u8::try_from(number).unwrap_or(u8::MAX);
            let (hops, timeouts) = (small(hops), small(timeouts));
            return out.send(asker, PastryMessage::Relayed { request, owner: outcome.ok(), hops, timeouts });
        }
        let (lookup, outcome) = (LookupId(number), outcome.map(|owner| vec![owner]));
        out.notify(Notification::LookupFinished(Located { lookup, key, outcome, hops, timeouts, path }));
    }

    fn take_lookup(&mut self, number: u32) -> Option<Lookup<C>> {
        let place = self.lookups.iter().position(|lookup| lookup.number == number)?;
        let lookup = self.lookups.swap_remove(place);
        if self.lookups.is_empty() {
            // Most nodes have none most of the time; a million of them keep no room for it.
            self.lookups = Vec::new();
        }
        Some(lookup)
    }

    fn take_call(&mut self, place: usize) -> Call<C> {
        let call = self.calls.swap_remove(place);
        if self.calls.is_empty() {
            self.calls = Vec::new();
        }
        call
    }

    /// An answer counts if it comes from whom we asked and fits the question.
    pub(super) fn handle_answer(
        &mut self,
        now: Instant,
        from: C,
        answer: PastryMessage<C>,
        out: &mut PastryOut<C>,
    ) {
        let (PastryMessage::Accepted { request }
        | PastryMessage::Relayed { request, .. }
        | PastryMessage::State { request, .. }
        | PastryMessage::Leaves { request, .. }
        | PastryMessage::Row { request, .. }
        | PastryMessage::Pong { request }) = answer
        else {
            return;
        };
        let is_asked = |call: &Call<C>| call.request == request && call.to == from;
        let Some(place) = self.calls.iter().position(is_asked) else { return };
        let call = &mut self.calls[place];
        let fits = matches!(
            (call.question, &answer),
            (Question::Relay { .. }, PastryMessage::Accepted { .. } | PastryMessage::Relayed { .. })
                | (Question::Ask, PastryMessage::State { .. })
                | (Question::Leaves, PastryMessage::Leaves { .. })
                | (Question::Row(_), PastryMessage::Row { .. })
                | (Question::Probe, PastryMessage::Pong { .. })
        );
        if !fits {
            return;
        }
        // The first answer to a question that was asked once tells the way's length.
        let is_first = !call.is_accepted && call.attempts_left == self.config.attempts.saturating_sub(1);
        let micros = now.saturating_since(call.asked_at).as_micros();
        let round_trip = if is_first { u32::try_from(micros).unwrap_or(FAR - 1) } else { FAR };
        let question = call.question;
        if matches!(answer, PastryMessage::Accepted { .. }) {
            // Once: a node that says so again and again would be waited for for ever.
            if !call.is_accepted {
                call.is_accepted = true;
                call.deadline = now + RELAYED_TIMEOUT;
                self.answered(question, &from);
            }
        } else if !self.take_call(place).is_accepted {
            self.answered(question, &from);
        }
        self.heard(&from, round_trip);
        match answer {
            PastryMessage::Relayed { owner, hops, timeouts, .. } => {
                let Question::Relay { lookup, .. } = question else { return };
                let Some(mut lookup) = self.take_lookup(lookup) else { return };
                lookup.hops += u32::from(hops);
                lookup.timeouts += u32::from(timeouts);
                match owner {
                    Some(owner) => self.finish(lookup, Ok(owner), out),
                    None => {
                        lookup.returned += 1;
                        self.advance(now, lookup, out);
                    }
                }
            }
            PastryMessage::State { next, rows, leaves, neighbours, .. } => {
                self.took_step(now, from, next, [rows, leaves, neighbours], out);
            }
            PastryMessage::Leaves { contacts, .. } => {
                self.doubt(&from, &contacts);
                self.named(now, contacts, false, out);
            }
            PastryMessage::Row { contacts, .. } => self.named(now, contacts, true, out),
            _ => {}
        }
        self.probe_next(now, out);
    }

    /// One more node on the way has answered.
    fn answered(&mut self, question: Question, from: &C) {
        let Question::Relay { lookup, .. } = question else { return };
        if let Some(lookup) = self.lookups.iter_mut().find(|other| other.number == lookup) {
            lookup.hops += 1;
            if let Some(step) = lookup.path.iter_mut().find(|step| step.contact == *from) {
                step.answered = true;
            }
        }
    }

    pub(super) fn handle_deadlines(&mut self, now: Instant, out: &mut PastryOut<C>) {
        while let Some(place) = self.calls.iter().position(|call| call.deadline <= now) {
            let call = &mut self.calls[place];
            let is_relay = matches!(call.question, Question::Relay { .. });
            if call.attempts_left > 0 && !is_relay {
                call.attempts_left -= 1;
                call.deadline = now + self.config.answer_timeout;
                let (to, question, request) = (call.to.clone(), call.question, call.request);
                out.send(to, self.message(question, request));
                continue;
            }
            let call = self.take_call(place);
            // Nobody is asked twice for a lookup, which others take as well; whether this one is
            // there is found out beside it. Who took a lookup and lost it behind itself is alive.
            if !is_relay {
                self.forget(now, &call.to, out);
            } else if !call.is_accepted && !self.frozen {
                self.to_probe.push_front(call.to.clone());
                self.probe_next(now, out);
            }
            match call.question {
                Question::Relay { lookup, .. } => {
                    let Some(mut lookup) = self.take_lookup(lookup) else { continue };
                    lookup.timeouts += 1;
                    if call.is_accepted {
                        // It may still be under way there, so not a second time elsewhere.
                        self.finish(lookup, Err(LookupError::TimedOut), out);
                    } else {
                        self.advance(now, lookup, out);
                    }
                }
                Question::Ask => self.next_step(now, out),
                Question::Probe => self.probe_next(now, out),
                Question::Leaves | Question::Row(_) => {}
            }
        }
    }
}

impl<C> Lookup<C> {
    pub(super) fn heap_bytes(&self) -> usize {
        self.tried.capacity() * size_of::<C>() + self.path.capacity() * size_of::<Step<C>>()
    }
}

fn new_lookup<C>(number: u32, key: Id, asker: Option<(C, u32)>, hops_left: u8) -> Lookup<C> {
    let (tried, path) = (Vec::new(), Vec::new());
    Lookup { number, key, asker, hops_left, tried, returned: 0, hops: 0, timeouts: 0, path }
}

impl<C: Contact> Call<C> {
    pub(super) fn is_to(&self, to: &C, question: Question) -> bool {
        self.question == question && self.to == *to
    }
}
