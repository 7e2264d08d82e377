//! Raft's own invariants, checked after every step of every replica's driver (Ongaro and
//! Ousterhout, "In search of an understandable consensus algorithm", 2014, figure 3):
//!
//! - *election safety*: at most one leader per term;
//! - *log matching*: where two logs have the same term at an index, they are the same up to
//!   there;
//! - *leader completeness*: a leader has all that was committed before its term;
//! - *state machine safety*: an index is committed with one term only, and replicas that
//!   have applied as much have the same state (by its hash);
//! - *quorum*: what a leader takes for committed is on the disks of a majority of voters;
//! - *votes*: nobody votes for two in one term, across restarts as well, and one that may
//!   have forgotten has no say at all (rule 4).
//!
//! The watch outlives the nodes that it watches: what it once saw on a disk, it expects to
//! be remembered.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use atoll_records::{Observed, Observer};
use atoll_types::{ReplicaId, ShardId};

use super::{Evidence, Problem};
use crate::executor::lock;

pub fn check(evidence: &Evidence<'_>) -> Result<(), Problem> {
    match evidence.violations.first() {
        None => Ok(()),
        Some(first) => Err(format!("{first} ({} in all)", evidence.violations.len())),
    }
}

/// Reports beyond these say nothing new.
const VIOLATIONS_MAX: usize = 20;

/// Watches all replicas of a cluster, through all their lives.
#[derive(Default)]
pub struct RaftWatch {
    seen: Mutex<Seen>,
}

/// A replica at one moment.
struct Step<'a> {
    shard: ShardId,
    replica: ReplicaId,
    term: u64,
    vote: Option<ReplicaId>,
    is_durable: bool,
    leads: bool,
    committed: u64,
    applied: u64,
    hash: [u8; 32],
    first: u64,
    last: u64,
    persisted: u64,
    term_of: &'a dyn Fn(u64) -> Option<u64>,
    voters: Vec<Vec<ReplicaId>>,
}

#[derive(Default)]
struct Seen {
    violations: Vec<String>,
    leaders: BTreeMap<(ShardId, u64), ReplicaId>,
    /// The term of the entry before, by index and term of an entry.
    before: BTreeMap<(ShardId, u64, u64), u64>,
    /// The term of the entry that was committed at an index, and the term in which that
    /// was first seen.
    committed: BTreeMap<(ShardId, u64), (u64, u64)>,
    /// The greatest index committed, by the term in which that was seen.
    states: BTreeMap<(ShardId, u64), ([u8; 32], ReplicaId)>,
    replicas: BTreeMap<ReplicaId, Replica>,
    /// By the node that they are on.
    forgotten: BTreeMap<ReplicaId, usize>,
}

/// What was last seen of a replica.
#[derive(Default)]
struct Replica {
    leads: bool,
    term: u64,
    committed: u64,
    voters: Vec<Vec<ReplicaId>>,
    /// Votes that were seen on its disk, by term.
    votes: BTreeMap<u64, ReplicaId>,
    first: u64,
    /// Its log, index by index.
    terms: BTreeMap<u64, u64>,
    /// Up to here it is on its disk.
    persisted: u64,
}

impl Replica {
    /// Whether it has the entry on its disk, or in its state.
    fn has(&self, index: u64, term: u64) -> bool {
        index < self.first || (index <= self.persisted && self.terms.get(&index) == Some(&term))
    }
}

impl RaftWatch {
    /// What was broken, the first first.
    pub fn violations(&self) -> Vec<String> {
        lock(&self.seen).violations.clone()
    }

    pub fn of(self: &Arc<Self>, node: usize) -> Arc<dyn Observer> {
        Arc::new(NodeWatch { seen: self.clone(), node })
    }

    /// The node has an old disk again, which knows nothing of what was found out since: that
    /// it has no say is from now on up to the others.
    pub fn was_set_back(&self, node: usize) {
        lock(&self.seen).forgotten.retain(|_, of| *of != node);
    }
}

/// Watches one node's replicas.
struct NodeWatch {
    seen: Arc<RaftWatch>,
    node: usize,
}

impl Observer for NodeWatch {
    fn stepped(&self, replica: &Observed<'_>) {
        lock(&self.seen.seen).step(&Step {
            shard: replica.shard(),
            replica: replica.replica(),
            term: replica.term(),
            vote: replica.vote(),
            is_durable: replica.is_durable(),
            leads: replica.leads(),
            committed: replica.committed(),
            applied: replica.applied(),
            hash: replica.hash(),
            first: replica.first_index(),
            last: replica.last_index(),
            persisted: replica.persisted(),
            term_of: &|index| replica.term_of(index),
            voters: replica.voters(),
        });
    }

    fn forgotten(&self, _shard: ShardId, replica: ReplicaId) {
        lock(&self.seen.seen).forgotten.insert(replica, self.node);
    }

    fn asserted(&self, shard: ShardId, replica: ReplicaId) {
        lock(&self.seen.seen)
            .note(format!("shard {shard}, replica {replica}: an assertion of Raft's failed"));
    }
}

impl Seen {
    fn violated(&mut self, step: &Step<'_>, what: &str) {
        let Step { shard, replica, term, .. } = step;
        self.note(format!("shard {shard}, replica {replica} in term {term}: {what}"));
    }

    fn note(&mut self, violation: String) {
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(violation);
        }
    }

    fn step(&mut self, step: &Step<'_>) {
        if self.forgotten.contains_key(&step.replica) {
            self.violated(step, "it takes part, and may have forgotten what it promised");
        }
        self.election(step);
        self.vote(step);
        self.log(step);
        self.commits(step);
        self.state(step);
        let replica = self.replicas.entry(step.replica).or_default();
        (replica.leads, replica.term, replica.committed) = (step.leads, step.term, step.committed);
        replica.voters.clone_from(&step.voters);
    }

    fn election(&mut self, step: &Step<'_>) {
        if !step.leads {
            return;
        }
        let leader = *self.leaders.entry((step.shard, step.term)).or_insert(step.replica);
        if leader != step.replica {
            self.violated(step, &format!("election safety: it leads, and so does replica {leader}"));
        }
        let was = self
            .replicas
            .get(&step.replica)
            .is_some_and(|replica| replica.leads && replica.term == step.term);
        if was {
            return;
        }
        // The newest that was committed in an earlier term; by log matching the rest follows.
        let of_shard = self.committed.range((step.shard, 0)..=(step.shard, u64::MAX)).rev();
        let newest =
            of_shard.filter(|(_, (_, seen_in))| *seen_in < step.term).map(|(at, terms)| (at.1, terms.0));
        if let Some((index, term)) = newest.into_iter().next()
            && index >= step.first
            && (step.term_of)(index) != Some(term)
        {
            let has = (step.term_of)(index);
            self.violated(
                step,
                &format!("leader completeness: it leads without the committed entry {index} of term {term}: {has:?}"),
            );
        }
    }

    fn vote(&mut self, step: &Step<'_>) {
        let Some(vote) = step.vote else { return };
        let replica = self.replicas.entry(step.replica).or_default();
        let before = replica.votes.get(&step.term).copied();
        if step.is_durable {
            replica.votes.entry(step.term).or_insert(vote);
        }
        if let Some(before) = before.filter(|before| *before != vote) {
            self.violated(step, &format!("votes: it voted for replica {vote}, and for {before} before"));
        }
    }

    /// Takes in the log's new entries.
    fn log(&mut self, step: &Step<'_>) {
        let replica = self.replicas.entry(step.replica).or_default();
        replica.terms.split_off(&(step.last + 1));
        let mut wrong = None;
        let mut index = step.last;
        while index >= step.first {
            let Some(term) = (step.term_of)(index) else { break };
            if replica.terms.get(&index) == Some(&term) {
                break;
            }
            replica.terms.insert(index, term);
            if let Some(term_before) = (step.term_of)(index - 1) {
                let known = *self.before.entry((step.shard, index, term)).or_insert(term_before);
                if known != term_before {
                    wrong = Some((index, term, term_before, known));
                }
            }
            index -= 1;
        }
        replica.first = step.first;
        replica.terms = replica.terms.split_off(&step.first.saturating_sub(1));
        replica.persisted = step.persisted;
        if let Some((index, term, before, known)) = wrong {
            self.violated(
                step,
                &format!(
                    "log matching: before entry {index} of term {term} it has one of term {before}, others of {known}"
                ),
            );
        }
    }

    fn commits(&mut self, step: &Step<'_>) {
        let before = self.replicas.get(&step.replica).map_or(0, |replica| replica.committed);
        for index in (before + 1).max(step.first)..=step.committed {
            let Some(term) = (step.term_of)(index) else { continue };
            let (known, _) = *self.committed.entry((step.shard, index)).or_insert((term, step.term));
            if known != term {
                self.violated(
                    step,
                    &format!("state machine safety: entry {index} is committed with term {term} and {known}"),
                );
            }
        }
        let Some(replica) = self.replicas.get(&step.replica) else { return };
        // Right after a change of voters, which majority it was is not to be seen.
        let same_voters = replica.voters == step.voters && replica.leads && replica.term == step.term;
        let (index, term) = (step.committed, (step.term_of)(step.committed));
        let Some(term) = term.filter(|_| step.leads && same_voters && index > before) else { return };
        for voters in &step.voters {
            let has =
                |voter: &&ReplicaId| self.replicas.get(voter).is_some_and(|replica| replica.has(index, term));
            let count = voters.iter().filter(has).count();
            if count <= voters.len() / 2 {
                self.violated(
                    step,
                    &format!("quorum: entry {index} is committed, and on {count} of {} disks", voters.len()),
                );
                return;
            }
        }
    }

    fn state(&mut self, step: &Step<'_>) {
        let (hash, other) =
            *self.states.entry((step.shard, step.applied)).or_insert((step.hash, step.replica));
        if hash != step.hash {
            self.violated(
                step,
                &format!(
                    "state machine safety: at entry {} its state is not that of replica {other}",
                    step.applied
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A replica of three, with a log of terms from index 1 on.
    struct Made {
        replica: u64,
        term: u64,
        terms: Vec<u64>,
        committed: u64,
        leads: bool,
        vote: u64,
        persisted: u64,
        hash: u8,
    }

    impl Made {
        fn new(replica: u64, term: u64, terms: &[u64]) -> Self {
            let (persisted, terms) = (terms.len() as u64, terms.to_vec());
            Self { replica, term, terms, committed: 0, leads: false, vote: 0, persisted, hash: 0 }
        }
    }

    #[derive(Default)]
    struct Test(Seen);

    impl Test {
        fn sees(&mut self, made: &Made) -> &mut Self {
            let term_of = |index: u64| match index {
                0 => Some(0),
                _ => made.terms.get(index as usize - 1).copied(),
            };
            self.0.step(&Step {
                shard: ShardId(1),
                replica: ReplicaId(made.replica),
                term: made.term,
                vote: Some(ReplicaId(made.vote)).filter(|vote| vote.0 > 0),
                is_durable: true,
                leads: made.leads,
                committed: made.committed,
                applied: made.committed,
                hash: [made.hash; 32],
                first: 1,
                last: made.terms.len() as u64,
                persisted: made.persisted,
                term_of: &term_of,
                voters: vec![vec![ReplicaId(1), ReplicaId(2), ReplicaId(3)]],
            });
            self
        }

        fn is_sound(&self) -> bool {
            self.0.violations.is_empty()
        }

        fn found(&self, what: &str) -> bool {
            matches!(&self.0.violations[..], [first, ..] if first.contains(what))
        }
    }

    fn leading(replica: u64, term: u64, terms: &[u64]) -> Made {
        Made { leads: true, ..Made::new(replica, term, terms) }
    }

    #[test]
    fn an_ordinary_life_is_sound() {
        let mut test = Test::default();
        test.sees(&leading(1, 1, &[1])).sees(&Made::new(2, 1, &[1]));
        test.sees(&Made { committed: 1, ..leading(1, 1, &[1, 1]) });
        test.sees(&Made { committed: 1, ..Made::new(2, 1, &[1, 1]) });
        // The uncommitted second entry is replaced by the next leader's.
        test.sees(&leading(3, 2, &[1, 2])).sees(&Made::new(2, 2, &[1, 2])).sees(&Made::new(1, 2, &[1, 2]));
        test.sees(&Made { committed: 2, ..leading(3, 2, &[1, 2]) });
        assert!(test.is_sound(), "{:?}", test.0.violations);
    }

    #[test]
    fn two_leaders_in_a_term_are_found() {
        let mut test = Test::default();
        test.sees(&leading(1, 3, &[1])).sees(&leading(2, 4, &[1]));
        assert!(test.is_sound());
        assert!(test.sees(&leading(2, 3, &[1])).found("election safety"));
    }

    #[test]
    fn logs_that_differ_below_a_common_entry_are_found() {
        let mut test = Test::default();
        test.sees(&Made::new(1, 3, &[1, 1, 3]));
        assert!(test.sees(&Made::new(2, 3, &[1, 2, 3])).found("log matching"));
    }

    #[test]
    fn a_leader_that_lacks_what_was_committed_is_found() {
        let mut test = Test::default();
        test.sees(&leading(1, 1, &[1])).sees(&Made::new(2, 1, &[1]));
        test.sees(&Made { committed: 1, ..leading(1, 1, &[1]) });
        assert!(test.is_sound());
        assert!(test.sees(&leading(3, 2, &[])).found("leader completeness"));
    }

    #[test]
    fn an_entry_that_is_on_one_disk_only_is_not_committed() {
        let mut test = Test::default();
        test.sees(&leading(1, 1, &[1]));
        test.sees(&Made { persisted: 0, ..Made::new(2, 1, &[1]) });
        assert!(test.sees(&Made { committed: 1, ..leading(1, 1, &[1]) }).found("quorum"));
    }

    #[test]
    fn an_index_that_is_committed_twice_is_found() {
        let mut test = Test::default();
        test.sees(&Made { committed: 1, ..Made::new(1, 2, &[1]) });
        assert!(test.sees(&Made { committed: 1, ..Made::new(2, 2, &[2]) }).found("committed with term"));
    }

    #[test]
    fn replicas_whose_states_differ_are_found() {
        let mut test = Test::default();
        test.sees(&Made { committed: 1, ..Made::new(1, 1, &[1]) });
        assert!(test.sees(&Made { committed: 1, hash: 9, ..Made::new(2, 1, &[1]) }).found("its state"));
    }

    #[test]
    fn a_second_vote_in_a_term_is_found() {
        let mut test = Test::default();
        test.sees(&Made { vote: 1, ..Made::new(3, 5, &[1]) });
        test.sees(&Made { vote: 2, ..Made::new(3, 6, &[1]) });
        assert!(test.is_sound());
        assert!(test.sees(&Made { vote: 2, ..Made::new(3, 5, &[1]) }).found("votes"));
    }

    #[test]
    fn one_that_has_forgotten_has_no_say() {
        let mut test = Test::default();
        test.0.forgotten.insert(ReplicaId(2), 1);
        test.sees(&Made::new(1, 1, &[1]));
        assert!(test.is_sound());
        assert!(test.sees(&Made::new(2, 1, &[1])).found("forgotten"));
    }
}
