//! An index node's side: clients' questions, and what its fellows have.
//!
//! ```text
//! compare   Compare ─► Names, some at a time; what is lacking here: Send ─► Sent
//! ```
//!
//! Clients bring what they provide to each index node themselves, so fellows compare values
//! only, whose authors may be gone. They ask, and are never sent anything that they did not ask
//! for.

use super::{
    index::{By, Index},
    message::NAMES_MAX,
    *,
};
use crate::{
    Entry,
    dht::{Named, fitting},
    entry::Class,
};

/// A comparison under way.
#[derive(Debug, Clone)]
pub(super) struct Comparison<C> {
    with: C,
    /// The last value that it has named.
    after: Option<Named>,
    is_last: bool,
    /// Of those named, what is lacking here; at most `NAMES_MAX`.
    lacking: Vec<Named>,
    /// Fellows that are still to be asked if this one is silent, or has not got everything.
    left: Vec<C>,
}

impl<C: Contact> Directory<C> {
    /// This node is an index node from now on.
    pub(super) fn begin_to_serve(&mut self, now: Instant, out: &mut DirectoryOut<C>) {
        // By then each client has registered once, and brought what it provides.
        let mut index = Index::new(now + 2 * self.config.register_every);
        index.has_compared = self.sessions.is_empty();
        let handed = self.own.take_handed();
        for entry in self.own.entries().cloned().chain(handed) {
            // Of what does not fit, the others may have room.
            let _ = index.put(entry, By::Myself, &self.config);
        }
        self.index = Some(index);
        self.compare(now, out);
    }

    pub(super) fn handle_question(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        from: C,
        message: DirectoryMessage,
        out: &mut DirectoryOut<C>,
    ) {
        let wall = self.wall(now);
        let is_fellow = self.sessions.iter().any(|session| session.index == from);
        let Some(index) = &mut self.index else { return self.decline(from, message, out) };
        match message {
            DirectoryMessage::Register { request } => {
                let token = index.register(now, rng, from.clone(), &self.config);
                out.send(from, DirectoryMessage::Registered { request, token });
            }
            DirectoryMessage::Goodbye => index.forget_client(&from),
            DirectoryMessage::Locate { request, .. } => {
                out.send(from, DirectoryMessage::Located { request, is_index: true });
            }
            DirectoryMessage::Keep { request, token, entries } => {
                let is_registered = index.is_registered(&from, token);
                let keep = |entry: Entry| match (is_registered, entry.check(wall)) {
                    (false, _) => Err(Refused::NoToken),
                    (true, Err(unsound)) => Err(Refused::Unsound(unsound)),
                    (true, Ok(())) => index.put(entry, By::Client(&from), &self.config),
                };
                let entries = entries.into_iter().take(message::KEEP_ENTRIES_MAX);
                let outcomes = entries.map(keep).collect();
                out.send(from, DirectoryMessage::Kept { request, outcomes });
            }
            DirectoryMessage::Get { request, wanted } if wanted.is_sound() => {
                let (entries, is_settled) = (index.find(rng, &wanted, wall), index.is_settled(now));
                out.send(from, DirectoryMessage::Got { request, entries, is_settled });
            }
            DirectoryMessage::Compare { request, after } if is_fellow => {
                let (named, is_last) = index.names_after(after);
                out.send(from, DirectoryMessage::Names { request, named, is_last });
            }
            DirectoryMessage::Send { request, wanted } if is_fellow => {
                let wanted = wanted.iter().take(NAMES_MAX);
                let entries = fitting(wanted.filter_map(|named| index.value(named).cloned()));
                out.send(from, DirectoryMessage::Sent { request, entries });
            }
            _ => {}
        }
    }

    /// This node is no index node, or none yet. Who registers is not told so: it may be right
    /// soon, and hears of it when it asks again.
    fn decline(&self, from: C, message: DirectoryMessage, out: &mut DirectoryOut<C>) {
        let answer = match message {
            DirectoryMessage::Locate { request, .. } => {
                DirectoryMessage::Located { request, is_index: false }
            }
            DirectoryMessage::Keep { request, entries, .. } => {
                let entries = entries.iter().take(message::KEEP_ENTRIES_MAX);
                let outcomes = entries.map(|_| Err(Refused::NotMine)).collect();
                DirectoryMessage::Kept { request, outcomes }
            }
            DirectoryMessage::Get { request, .. } => {
                DirectoryMessage::Got { request, entries: Vec::new(), is_settled: false }
            }
            _ => return,
        };
        out.send(from, answer);
    }

    pub(super) fn keep_index(&mut self, now: Instant, out: &mut DirectoryOut<C>) {
        let wall = self.wall(now);
        let lapse_after = LAPSE_ROUNDS * self.config.register_every;
        if let Some(index) = &mut self.index {
            index.forget_expired(wall);
            index.forget_lapsed(now, lapse_after);
            if !index.has_compared || self.compared_at + self.config.compare_every <= now {
                self.compare(now, out);
            }
        }
    }

    /// Begins with a fellow that is not held for silent; with another one each time.
    fn compare(&mut self, now: Instant, out: &mut DirectoryOut<C>) {
        if self.comparison.is_some() {
            return;
        }
        self.compared_at = now;
        self.compared = self.compared.wrapping_add(1);
        let mut fellows: Vec<C> = self.sessions.iter().map(|session| session.index.clone()).collect();
        if !fellows.is_empty() {
            let turn = self.compared % fellows.len();
            fellows.rotate_left(turn);
        }
        self.compare_among(now, fellows, out);
    }

    fn compare_among(&mut self, now: Instant, mut left: Vec<C>, out: &mut DirectoryOut<C>) {
        self.comparison = None;
        if left.is_empty() {
            // Whoever could be asked was; what nobody has is lost.
            if let Some(index) = &mut self.index {
                index.has_compared = true;
            }
            return;
        }
        let with = left.remove(0);
        self.comparison =
            Some(Comparison { with: with.clone(), after: None, is_last: false, lacking: Vec::new(), left });
        let message = |request| DirectoryMessage::Compare { request, after: None };
        self.call(now, with, Purpose::Compare, message, out);
    }

    /// The fellow is silent.
    pub(super) fn compare_with_next(&mut self, now: Instant, out: &mut DirectoryOut<C>) {
        if let Some(comparison) = self.comparison.take() {
            self.compare_among(now, comparison.left, out);
        }
    }

    pub(super) fn names_came(
        &mut self,
        now: Instant,
        named: &[Named],
        is_last: bool,
        out: &mut DirectoryOut<C>,
    ) {
        let (Some(comparison), Some(index)) = (&mut self.comparison, &self.index) else { return };
        let named = &named[..named.len().min(NAMES_MAX)];
        // In order and on from where it was: it comes to an end, whoever names them.
        let is_sound = named.is_sorted_by(|one, next| one < next)
            && named.first().is_none_or(|first| comparison.after.is_none_or(|after| after < *first));
        if !is_sound {
            return self.compare_with_next(now, out);
        }
        comparison.after = named.last().copied().or(comparison.after);
        comparison.is_last = is_last || named.is_empty();
        comparison.lacking = named.iter().filter(|named| index.lacks(named)).copied().collect();
        self.go_on_comparing(now, out);
    }

    pub(super) fn values_came(
        &mut self,
        now: Instant,
        from: &C,
        entries: Vec<Entry>,
        out: &mut DirectoryOut<C>,
    ) {
        let wall = self.wall(now);
        let (Some(comparison), Some(index)) = (&mut self.comparison, &mut self.index) else { return };
        let before = comparison.lacking.len();
        for entry in entries.into_iter().take(NAMES_MAX) {
            let named = Named { key: entry.key, tag: entry.tag() };
            let Some(place) = comparison.lacking.iter().position(|lacking| *lacking == named) else {
                continue;
            };
            comparison.lacking.remove(place);
            if entry.class() == Class::Value && entry.check(wall).is_ok() {
                // Too old or too much: then it is not kept.
                let _ = index.put(entry, By::Fellow(from), &self.config);
            }
        }
        if comparison.lacking.len() == before {
            // What it has named it does not send.
            comparison.lacking.clear();
        }
        self.go_on_comparing(now, out);
    }

    fn go_on_comparing(&mut self, now: Instant, out: &mut DirectoryOut<C>) {
        let Some(comparison) = &self.comparison else { return };
        let with = comparison.with.clone();
        if !comparison.lacking.is_empty() {
            let wanted = comparison.lacking.clone();
            let message = |request| DirectoryMessage::Send { request, wanted };
            self.call(now, with, Purpose::Send, message, out);
        } else if !comparison.is_last {
            let after = comparison.after;
            let message = |request| DirectoryMessage::Compare { request, after };
            self.call(now, with, Purpose::Compare, message, out);
        } else {
            // A new index node asks all of its fellows, for one of them may be new as well.
            let has_compared = self.index.as_ref().is_some_and(|index| index.has_compared);
            let left = if has_compared { Vec::new() } else { comparison.left.clone() };
            self.compare_among(now, left, out);
        }
    }
}
