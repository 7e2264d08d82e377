//! Chunks, once the faults have stopped: every referenced one has all its copies, so none
//! was reclaimed; and one that nobody refers to goes.

use std::collections::{BTreeMap, BTreeSet};

use atoll_types::{ChunkHash, NodeId};

use super::{Evidence, Problem};

/// What was found of all chunks of a cluster at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census {
    pub referenced: BTreeSet<ChunkHash>,
    /// Whole copies, and the nodes that have them.
    pub held: BTreeMap<ChunkHash, BTreeSet<NodeId>>,
    /// The nodes that are to hold each referenced chunk.
    pub wanted: BTreeMap<ChunkHash, BTreeSet<NodeId>>,
    /// Whether it was waited for long enough that what nobody refers to must be gone.
    pub after_sweeps: bool,
}

impl Census {
    fn copies(&self, chunk: &ChunkHash) -> usize {
        self.held.get(chunk).map_or(0, BTreeSet::len)
    }

    fn reclaimed(&self) -> Option<Problem> {
        let gone = self.referenced.iter().filter(|chunk| self.copies(chunk) == 0);
        let gone: Vec<_> = gone.collect();
        gone.first().map(|first| format!("{} referenced chunks are gone, such as {first:?}", gone.len()))
    }

    fn lacking(&self) -> Option<Problem> {
        let lacks = |(chunk, wanted): &(&ChunkHash, &BTreeSet<NodeId>)| {
            let held = self.held.get(chunk);
            self.copies(chunk) > 0 && held.is_none_or(|held| !wanted.is_subset(held))
        };
        let lacking: Vec<_> = self.wanted.iter().filter(lacks).collect();
        let (chunk, wanted) = lacking.first()?;
        let copies = self.copies(chunk);
        let of = wanted.len();
        Some(format!(
            "{} chunks lack copies, such as {chunk:?}, which has {copies} for {of} nodes",
            lacking.len()
        ))
    }

    fn garbage(&self) -> Option<Problem> {
        let left: Vec<_> = self.held.keys().filter(|chunk| !self.referenced.contains(*chunk)).collect();
        let first = left.first().filter(|_| self.after_sweeps)?;
        Some(format!("{} chunks stay that nobody refers to, such as {first:?}", left.len()))
    }

    pub fn has_all_copies(&self) -> bool {
        self.reclaimed().is_none() && self.lacking().is_none()
    }

    /// Nothing is left to be done.
    pub fn is_settled(&self) -> bool {
        self.has_all_copies() && self.held.keys().all(|chunk| self.referenced.contains(chunk))
    }
}

pub fn check_references(evidence: &Evidence<'_>) -> Result<(), Problem> {
    evidence.chunks.and_then(Census::reclaimed).map_or(Ok(()), Err)
}

pub fn check_copies(evidence: &Evidence<'_>) -> Result<(), Problem> {
    evidence.chunks.and_then(Census::lacking).map_or(Ok(()), Err)
}

pub fn check_garbage(evidence: &Evidence<'_>) -> Result<(), Problem> {
    evidence.chunks.and_then(Census::garbage).map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(number: u8) -> ChunkHash {
        ChunkHash::of(&[number])
    }

    fn nodes(numbers: &[u8]) -> BTreeSet<NodeId> {
        numbers.iter().map(|number| NodeId([*number; 32])).collect()
    }

    fn census(held: &[(u8, &[u8])]) -> Census {
        Census {
            referenced: [chunk(1), chunk(2)].into(),
            held: held.iter().map(|(number, on)| (chunk(*number), nodes(on))).collect(),
            wanted: [(chunk(1), nodes(&[1, 2])), (chunk(2), nodes(&[2, 3]))].into(),
            after_sweeps: true,
        }
    }

    fn spoke(census: &Census) -> Vec<&'static str> {
        let evidence = Evidence { chunks: Some(census), ..Evidence::default() };
        crate::checkers::Judgement::of(&evidence).findings.into_iter().map(|found| found.checker).collect()
    }

    #[test]
    fn all_copies_where_they_belong_are_fine() {
        let census = census(&[(1, &[1, 2]), (2, &[1, 2, 3])]);
        assert!(spoke(&census).is_empty());
        assert!(census.is_settled());
    }

    #[test]
    fn each_fault_has_its_own_checker() {
        assert_eq!(spoke(&census(&[(1, &[1, 2]), (2, &[2])])), ["copies"]);
        assert_eq!(spoke(&census(&[(1, &[1, 2])])), ["references"]);
        assert_eq!(spoke(&census(&[(1, &[1, 2]), (2, &[2, 3]), (9, &[1])])), ["garbage"]);
    }

    #[test]
    fn garbage_may_stay_until_the_sweeps() {
        let census = Census { after_sweeps: false, ..census(&[(1, &[1, 2]), (2, &[2, 3]), (9, &[1])]) };
        assert!(spoke(&census).is_empty());
        assert!(!census.is_settled());
    }
}
