//! Linearizable reads by read-index (rule 1): everybody who waits shares one round of
//! heartbeats, which proves that this replica still leads; then the read may run on any
//! state that has applied what was committed when the round began.
//!
//! Raft drops a read-index asked before the term's first commit, and forgets pending ones
//! when it changes its role, so the rounds are kept here and asked again.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use atoll_types::Instant;
use tokio::sync::oneshot;

use crate::{client::Outcome, group::ReplicaShared};

/// Permission to read: the local state holds every write acknowledged before the asking,
/// once it has applied up to `index`.
pub(crate) struct Permit {
    pub replica: Arc<ReplicaShared>,
    pub index: u64,
}

pub(crate) type ReadReply = oneshot::Sender<Outcome<Permit>>;

/// Rounds under way at once. A round lasts a network round trip; with one only, a read
/// would wait for the rest of the running one and then for its own.
const ROUNDS_MAX: usize = 4;
/// After this a round's readers are asked for again. 1 s = 5 heartbeats, each of which
/// repeats the question of the newest round.
const ROUND_LIMIT: Duration = Duration::from_secs(1);

struct Round {
    number: u64,
    began: Instant,
    replies: Vec<ReadReply>,
}

#[derive(Default)]
pub(crate) struct Reads {
    waiting: Vec<ReadReply>,
    rounds: VecDeque<Round>,
    /// Numbers are never used twice in one life of a leader.
    last_number: u64,
}

impl Reads {
    pub fn wait(&mut self, reply: ReadReply) {
        self.waiting.push(reply);
    }

    pub fn wants_round(&self) -> bool {
        !self.waiting.is_empty() && self.rounds.len() < ROUNDS_MAX
    }

    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.rounds.is_empty()
    }

    /// Begins a round for all who wait; returns the context to ask Raft with.
    pub fn begin_round(&mut self, now: Instant) -> Vec<u8> {
        self.last_number += 1;
        let replies = std::mem::take(&mut self.waiting);
        self.rounds.push_back(Round { number: self.last_number, began: now, replies });
        self.last_number.to_be_bytes().to_vec()
    }

    /// Raft confirmed the round asked with `context`.
    pub fn confirmed(&mut self, context: &[u8], index: u64, replica: &Arc<ReplicaShared>) {
        let Ok(number) = context.try_into().map(u64::from_be_bytes) else { return };
        let Some(at) = self.rounds.iter().position(|round| round.number == number) else { return };
        let round = self.rounds.remove(at).expect("its position was just found");
        for reply in round.replies {
            // A reader that gave up needs no permit.
            let _ = reply.send(Outcome::Done(Permit { replica: replica.clone(), index }));
        }
    }

    /// Puts the readers of rounds that were lost back among those who wait.
    pub fn expire(&mut self, now: Instant) {
        while self.rounds.front().is_some_and(|round| now - round.began >= ROUND_LIMIT) {
            let round = self.rounds.pop_front().expect("just seen");
            self.waiting.extend(round.replies.into_iter().filter(|reply| !reply.is_closed()));
        }
    }

    /// Raft forgot all rounds: its role or term changed.
    pub fn forgotten(&mut self) {
        for round in std::mem::take(&mut self.rounds) {
            self.waiting.extend(round.replies);
        }
    }

    pub fn drain(&mut self) -> impl Iterator<Item = ReadReply> + use<> {
        self.forgotten();
        std::mem::take(&mut self.waiting).into_iter()
    }
}
