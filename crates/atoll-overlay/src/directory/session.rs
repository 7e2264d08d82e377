//! A client's side with each index node: that it is registered there, and what is owed to it.
//!
//! ```text
//! Register ─► Registered: the same token ─► what is owed
//!                         another token  ─► everything
//! ```

use std::collections::BTreeSet;

use super::{
    index::{By, Place},
    message::KEEP_ENTRIES_MAX,
    *,
};
use crate::{Entry, dht::fitting};

/// This node as a client of one index node.
#[derive(Debug, Clone)]
pub(super) struct Session<C> {
    pub(super) index: C,
    /// While this node is registered there, as far as it knows.
    pub(super) token: Option<u64>,
    /// It did not answer when it was last asked.
    pub(super) is_silent: bool,
    pub(super) heard_at: Instant,
    /// What it is still to be sent. Places of entries that are gone are passed over.
    pub(super) owed: BTreeSet<Place>,
}

impl<C> Session<C> {
    pub(super) fn new(index: C, token: Option<u64>) -> Self {
        Self { index, token, is_silent: false, heard_at: Instant::ORIGIN, owed: BTreeSet::new() }
    }
}

impl<C: Contact> Directory<C> {
    pub(super) fn session_mut(&mut self, index: &C) -> Option<&mut Session<C>> {
        self.sessions.iter_mut().find(|session| session.index == *index)
    }

    /// These are the index nodes from now on.
    pub(super) fn appoint(&mut self, now: Instant, indexes: &[C], out: &mut DirectoryOut<C>) {
        let mut indexes: Vec<C> = indexes.to_vec();
        indexes.sort_unstable();
        indexes.dedup();
        indexes.truncate(INDEXES_MAX);
        if indexes == self.indexes {
            return;
        }
        self.indexes = indexes;
        self.neighbourhood = self.neighbourhood.wrapping_add(1);
        let mut former = std::mem::take(&mut self.sessions);
        for index in self.indexes.iter().filter(|index| **index != self.me) {
            let known = former.iter().position(|session| session.index == *index);
            let new = || Session::new(index.clone(), None);
            self.sessions.push(known.map_or_else(new, |known| former.swap_remove(known)));
        }
        for session in former {
            self.write_lost(&session.index, None, out);
        }
        match (self.indexes.contains(&self.me), self.index.take()) {
            (true, None) => self.begin_to_serve(now, out),
            (true, index) => self.index = index,
            // The others have what clients bring; values may have no author to bring them.
            (false, Some(index)) => {
                let values: Vec<Entry> = index.into_values().collect();
                values.into_iter().for_each(|entry| self.own.hand(entry));
                self.owe_everything();
            }
            (false, None) => {}
        }
        self.register(now, out);
    }

    fn owe_everything(&mut self) {
        let places = self.own.places();
        for session in &mut self.sessions {
            session.owed.clone_from(&places);
        }
    }

    /// Says to each index node that this client is here.
    pub(super) fn register(&mut self, now: Instant, out: &mut DirectoryOut<C>) {
        let indexes: Vec<C> = self.sessions.iter().map(|session| session.index.clone()).collect();
        for index in indexes {
            if !self.calls.iter().any(|call| call.to == index && call.purpose == Purpose::Register) {
                self.call(
                    now,
                    index,
                    Purpose::Register,
                    |request| DirectoryMessage::Register { request },
                    out,
                );
            }
        }
    }

    pub(super) fn registered(&mut self, now: Instant, index: &C, token: u64, out: &mut DirectoryOut<C>) {
        let places = self.own.places();
        let Some(session) = self.session_mut(index) else { return };
        if session.token != Some(token) {
            session.token = Some(token);
            session.owed = places;
        }
        if self.phase == Phase::Joining {
            self.phase = Phase::Member;
            out.notify(Notification::Joined);
        }
        self.upload(now, index, out);
    }

    /// Whoever is to be joined through is silent, or has no room.
    pub(super) fn not_registered(&mut self, out: &mut DirectoryOut<C>) {
        let is_asking = self.calls.iter().any(|call| call.purpose == Purpose::Register);
        if self.phase == Phase::Joining && !is_asking {
            out.notify(Notification::JoinFailed);
        }
    }

    /// Keeps what is this node's own here if this is an index node, and owes it to the others.
    pub(super) fn publish(&mut self, now: Instant, places: &[Place], out: &mut DirectoryOut<C>) {
        if let Some(index) = &mut self.index {
            for entry in places.iter().filter_map(|place| self.own.entry(place)) {
                // If there is no room, the others may have some; a write asks again.
                let _ = index.put(entry.clone(), By::Myself, &self.config);
            }
        }
        for session in &mut self.sessions {
            session.owed.extend(places);
        }
        if self.phase == Phase::Member {
            let indexes: Vec<C> = self.sessions.iter().map(|session| session.index.clone()).collect();
            indexes.iter().for_each(|index| self.upload(now, index, out));
        }
    }

    /// Sends what is owed, a message at a time: what somebody waits for first.
    pub(super) fn upload(&mut self, now: Instant, to: &C, out: &mut DirectoryOut<C>) {
        let is_keeping = |call: &Call<C>| call.to == *to && matches!(call.purpose, Purpose::Keep(_));
        if self.calls.iter().any(is_keeping) {
            return;
        }
        let Some(session) = self.sessions.iter_mut().find(|session| session.index == *to) else { return };
        let Some(token) = session.token else { return };
        session.owed.retain(|place| self.own.entry(place).is_some());
        let awaited = self.writes.iter().flat_map(|write| write.places_awaited(to));
        let awaited: BTreeSet<Place> = awaited.filter(|place| session.owed.contains(place)).collect();
        let rest = session.owed.iter().filter(|place| !awaited.contains(place));
        let places = awaited.iter().chain(rest).take(KEEP_ENTRIES_MAX).copied();
        let entries = fitting(places.filter_map(|place| self.own.entry(&place).cloned()));
        if entries.is_empty() {
            return;
        }
        let places = entries.iter().map(|entry| (entry.key, entry.tag())).collect();
        let message = |request| DirectoryMessage::Keep { request, token, entries };
        self.call(now, to.clone(), Purpose::Keep(places), message, out);
    }

    pub(super) fn kept_there(
        &mut self,
        now: Instant,
        index: &C,
        places: &[Place],
        outcomes: &[Result<(), Refused>],
        out: &mut DirectoryOut<C>,
    ) {
        let outcome_of = |number: usize| outcomes.get(number).copied().unwrap_or(Err(Refused::Full));
        let is_unknown =
            outcomes.contains(&Err(Refused::NoToken)) || outcomes.contains(&Err(Refused::NotMine));
        let Some(session) = self.session_mut(index) else { return };
        if is_unknown {
            // It has forgotten this client, which registers anew in its next round: not at once,
            // or the two could go on like this for ever.
            session.token = None;
            return self.write_lost(index, outcomes.first().and_then(|outcome| outcome.err()), out);
        }
        for place in places {
            session.owed.remove(place);
        }
        for (number, place) in places.iter().enumerate() {
            if self.own.is_handed(place) && !self.sessions.iter().any(|session| session.owed.contains(place))
            {
                self.own.was_handed(*place);
            }
            self.write_answered(index, *place, outcome_of(number), out);
        }
        self.upload(now, index, out);
    }

    /// It has not answered a question of then. One that was off may have lost that, and be heard
    /// again since.
    pub(super) fn was_silent(&mut self, index: &C, asked_at: Instant) {
        if self.frozen {
            return;
        }
        let is_new = |session: &&mut Session<C>| !session.is_silent && session.heard_at <= asked_at;
        if let Some(session) = self.session_mut(index).filter(is_new) {
            session.is_silent = true;
            self.neighbourhood = self.neighbourhood.wrapping_add(1);
        }
    }

    pub(super) fn was_heard(&mut self, now: Instant, index: &C) {
        let Some(session) = self.session_mut(index) else { return };
        session.heard_at = now;
        if std::mem::take(&mut session.is_silent) {
            self.neighbourhood = self.neighbourhood.wrapping_add(1);
        }
    }
}
