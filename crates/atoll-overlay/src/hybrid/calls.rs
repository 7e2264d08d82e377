//! Questions under way, their deadlines, and which answers count.

use super::*;

/// A question that was sent to one node.
#[derive(Debug, Clone)]
pub(super) struct Call<C> {
    pub(super) request: u32,
    pub(super) to: C,
    /// To be sent again.
    message: HybridMessage<C>,
    pub(super) purpose: Purpose,
    attempts_left: u8,
    pub(super) deadline: Instant,
}

/// Who wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The lookup with this number.
    Lookup(u32),
    /// A leaf that has no super-peer asks for some.
    Seek,
    Attach,
    /// A super-peer asks for others that it does not know.
    Discover,
    Promote,
    Compare,
    Ranges,
    Tell,
}

/// Calls of upkeep under way, besides those of lookups. A super-peer of a million nodes that was
/// cut off tells and compares with twelve others at a time.
const CALLS_MAX: usize = 256;

impl<C> Call<C> {
    pub(super) fn bytes(&self) -> usize {
        let heap = match &self.message {
            HybridMessage::Tell { reports, .. } => reports.capacity() * size_of::<Report<C>>(),
            HybridMessage::Ranges { digests, .. } => digests.capacity() * size_of::<u32>(),
            _ => 0,
        };
        size_of::<Self>() + heap
    }
}

impl<C: Contact> Hybrid<C> {
    /// False if too many are under way.
    pub(super) fn call(
        &mut self,
        now: Instant,
        to: C,
        purpose: Purpose,
        message: impl FnOnce(u32) -> HybridMessage<C>,
        out: &mut HybridOut<C>,
    ) -> bool {
        let is_upkeep = |purpose| !matches!(purpose, Purpose::Lookup(_));
        if is_upkeep(purpose) && self.calls.iter().filter(|call| is_upkeep(call.purpose)).count() >= CALLS_MAX
        {
            return false;
        }
        let request = self.number();
        let message = message(request);
        out.send(to.clone(), message.clone());
        let attempts_left = self.config.attempts.saturating_sub(1);
        let deadline = now + self.config.answer_timeout;
        self.calls.push(Call { request, to, message, purpose, attempts_left, deadline });
        true
    }

    pub(super) fn is_calling(&self, wanted: impl Fn(&Call<C>) -> bool) -> bool {
        self.calls.iter().any(wanted)
    }

    /// The purpose of the call that this answers, if it was asked of whom it comes from, and for
    /// something that such an answer is for.
    pub(super) fn answered(
        &mut self,
        from: &C,
        request: u32,
        fits: impl Fn(Purpose) -> bool,
    ) -> Option<Purpose> {
        self.take_call(from, request, fits).map(|call| call.purpose)
    }

    pub(super) fn take_call(
        &mut self,
        from: &C,
        request: u32,
        fits: impl Fn(Purpose) -> bool,
    ) -> Option<Call<C>> {
        let is_it = |call: &Call<C>| call.request == request && call.to == *from && fits(call.purpose);
        let place = self.calls.iter().position(is_it)?;
        let call = self.calls.swap_remove(place);
        if self.calls.is_empty() {
            self.calls = Vec::new();
        }
        if call.purpose == Purpose::Attach {
            self.note_answer(call.attempts_left + 1 >= self.config.attempts);
        }
        Some(call)
    }

    /// Of the last hundred or so.
    fn note_answer(&mut self, is_prompt: bool) {
        let (asked, prompt) = &mut self.asked;
        *asked += 1;
        *prompt += u16::from(is_prompt);
        if *asked >= 128 {
            *asked /= 2;
            *prompt /= 2;
        }
    }

    pub(super) fn drop_calls(&mut self, is_over: impl Fn(&Call<C>) -> bool) {
        self.calls.retain(|call| !is_over(call));
        if self.calls.is_empty() {
            self.calls = Vec::new();
        }
    }

    pub(super) fn handle_deadlines(&mut self, now: Instant, rng: &mut dyn RngCore, out: &mut HybridOut<C>) {
        while let Some(place) = self.calls.iter().position(|call| call.deadline <= now) {
            let call = &mut self.calls[place];
            if call.attempts_left > 0 {
                call.attempts_left -= 1;
                call.deadline = now + self.config.answer_timeout;
                out.send(call.to.clone(), call.message.clone());
                let (to, purpose) = (call.to.clone(), call.purpose);
                if let Purpose::Lookup(number) = purpose {
                    self.was_slow(now, rng, number, &to, out);
                }
            } else {
                let call = self.calls.swap_remove(place);
                if self.calls.is_empty() {
                    self.calls = Vec::new();
                }
                self.was_silent(now, rng, call, out);
            }
        }
    }

    fn was_silent(&mut self, now: Instant, rng: &mut dyn RngCore, call: Call<C>, out: &mut HybridOut<C>) {
        if !self.frozen {
            self.lost(now, &call.to, out);
        }
        match call.purpose {
            Purpose::Lookup(number) => self.silent_in_lookup(now, rng, number, &call.to, out),
            Purpose::Seek | Purpose::Attach => {
                self.note_answer(false);
                self.go_on_seeking(now, out);
            }
            Purpose::Ranges => self.fail_to_rise(&call.to),
            Purpose::Tell => self.undelivered(now, call, out),
            Purpose::Discover | Purpose::Promote | Purpose::Compare => {}
        }
    }

    /// Those who would have heard from it hear from the one behind it.
    pub(super) fn undelivered(&mut self, now: Instant, call: Call<C>, out: &mut HybridOut<C>) {
        if let HybridMessage::Tell { reach, reports, .. } = call.message {
            self.tell_in_its_stead(now, &call.to, reach, reports, out);
        }
    }

    /// Somebody did not answer: a super-peer tells the others, a leaf turns to the next.
    fn lost(&mut self, now: Instant, contact: &C, out: &mut HybridOut<C>) {
        let is_known = self.seat().is_some_and(|seat| seat.centre.has(contact));
        if is_known || self.attached.contains(contact) {
            self.note_failure(now);
        }
        if self.is_super() {
            self.report_gone(now, contact, out);
        } else {
            self.detached_from(now, contact, out);
        }
    }
}
