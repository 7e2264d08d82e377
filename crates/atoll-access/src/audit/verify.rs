//! Whether a trail is whole. Needs nothing but the links, and what witnesses say: works on
//! an export as well as on a cluster, and trusts neither.

use std::collections::BTreeMap;

use atoll_types::NodeId;

use super::{
    batch::{Hash, Head, LinkedBatch},
    witness::WitnessStatement,
};

/// What is wrong with a trail, and where it shows first.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    #[error("link {expected} is missing: link {found} comes in its place")]
    Missing { expected: u64, found: u64 },
    #[error("link {index} does not continue the one before it")]
    Relinked { index: u64 },
    #[error("the batch of link {index} is not the one that was linked")]
    Altered { index: u64 },
    #[error("the batch of link {index} does not bear the signature of node {}", .node.short())]
    Forged { index: u64, node: NodeId },
    #[error("link {index} has batch {found} of node {}, whose batch {expected} is missing", .node.short())]
    BatchMissing { index: u64, node: NodeId, expected: u64, found: u64 },
    #[error("the batch of link {index} does not continue the one before it of node {}", .node.short())]
    BatchRelinked { index: u64, node: NodeId },
    #[error("the trail ends at link {end}, and node {} has seen link {seen}: its tail was cut off", .witness.short())]
    CutOff { witness: NodeId, seen: u64, end: u64 },
    #[error("link {index} is not the one that node {} has seen: the trail was written anew", .witness.short())]
    Rewritten { witness: NodeId, index: u64 },
    #[error("the statement of witness {} does not bear its signature", .witness.short())]
    ForgedWitness { witness: NodeId },
}

/// What was found whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    pub head: Head,
    pub entries: u64,
    /// Denied requests of which only the number is known.
    pub missed: u64,
    /// Who signed, and up to which batch.
    pub nodes: BTreeMap<NodeId, Head>,
    /// Who confirms how much of it.
    pub witnesses: BTreeMap<NodeId, u64>,
}

/// Takes the links one after another.
#[derive(Debug, Default)]
pub struct Verifier {
    verified: Verified,
    /// By link: what witnesses saw there.
    seen: BTreeMap<u64, Vec<(NodeId, Hash)>>,
}

impl Verifier {
    /// A node may have said several things: each must hold.
    pub fn new(witnesses: &[WitnessStatement]) -> Result<Self, Broken> {
        let mut verifier = Self::default();
        for statement in witnesses {
            if !statement.is_genuine() {
                return Err(Broken::ForgedWitness { witness: statement.node });
            }
            let Head { index, hash } = statement.head;
            let most = verifier.verified.witnesses.entry(statement.node).or_default();
            *most = index.max(*most);
            if index > 0 {
                verifier.seen.entry(index).or_default().push((statement.node, hash));
            }
        }
        Ok(verifier)
    }

    pub fn take(&mut self, linked: &LinkedBatch) -> Result<(), Broken> {
        let verified = &mut self.verified;
        let (link, batch) = (&linked.link, &linked.signed.batch);
        let index = verified.head.index + 1;
        if link.index != index {
            return Err(Broken::Missing { expected: index, found: link.index });
        }
        if link.previous != verified.head.hash {
            return Err(Broken::Relinked { index });
        }
        if link.batch != batch.hash() {
            return Err(Broken::Altered { index });
        }
        let node = batch.node;
        if !linked.signed.is_genuine() {
            return Err(Broken::Forged { index, node });
        }
        let own = verified.nodes.entry(node).or_default();
        if batch.number != own.index + 1 {
            return Err(Broken::BatchMissing { index, node, expected: own.index + 1, found: batch.number });
        }
        if batch.previous != own.hash {
            return Err(Broken::BatchRelinked { index, node });
        }
        *own = Head { index: batch.number, hash: link.batch };
        verified.head = Head { index, hash: link.hash() };
        verified.entries += batch.entries.len() as u64;
        verified.missed += batch.missed;
        for (witness, hash) in self.seen.remove(&index).unwrap_or_default() {
            if hash != verified.head.hash {
                return Err(Broken::Rewritten { witness, index });
            }
        }
        Ok(())
    }

    /// The trail ends here.
    pub fn finish(self) -> Result<Verified, Broken> {
        match self.seen.last_key_value() {
            Some((seen, witnesses)) => {
                let (witness, _) = witnesses[0];
                Err(Broken::CutOff { witness, seen: *seen, end: self.verified.head.index })
            }
            None => Ok(self.verified),
        }
    }
}

#[cfg(test)]
mod tests {
    use atoll_types::WallTime;
    use ed25519_dalek::SigningKey;
    use proptest::prelude::*;

    use super::*;
    use crate::audit::{
        batch::{Batch, Entry, Link},
        witness::{NotExtended, Witness, WitnessNote},
    };

    fn key(number: u8) -> SigningKey {
        SigningKey::from_bytes(&[number; 32])
    }

    fn id(key: &SigningKey) -> NodeId {
        NodeId(key.verifying_key().to_bytes())
    }

    fn entry(text: &str) -> Entry {
        Entry {
            at: WallTime::from_millis(1),
            who: "anonymous".into(),
            what: "s3:GetObject".into(),
            on: text.into(),
            from: "192.0.2.1:1".into(),
            allowed: false,
            rule: "no rule allows it".into(),
        }
    }

    /// Links batches as shard 0 does.
    fn link(batches: Vec<crate::audit::SignedBatch>) -> Vec<LinkedBatch> {
        let mut head = Head::default();
        let linked = batches.into_iter().map(|signed| {
            let stamp = WallTime::from_millis(7);
            let link = Link { index: head.index + 1, previous: head.hash, batch: signed.batch.hash(), stamp };
            head = Head { index: link.index, hash: link.hash() };
            LinkedBatch { link, signed }
        });
        linked.collect()
    }

    /// Batches of three nodes in turn.
    fn trail(length: usize) -> Vec<LinkedBatch> {
        let mut heads = [Head::default(); 3];
        let batches = (0..length).map(|at| {
            let node = at % 3;
            let key = key(node as u8);
            let entries = vec![entry(&format!("b/{at}")), entry("b/x")];
            let (number, previous) = (heads[node].index + 1, heads[node].hash);
            let batch = Batch { node: id(&key), number, previous, entries, missed: at as u64 };
            heads[node] = Head { index: number, hash: batch.hash() };
            batch.sign(&key)
        });
        link(batches.collect())
    }

    fn witness(of: &[LinkedBatch], number: u8) -> WitnessStatement {
        let head = of
            .last()
            .map_or(Head::default(), |linked| Head { index: linked.link.index, hash: linked.link.hash() });
        WitnessNote { head }.state(&key(number), WallTime::from_millis(9))
    }

    fn verify(trail: &[LinkedBatch], witnesses: &[WitnessStatement]) -> Result<Verified, Broken> {
        let mut verifier = Verifier::new(witnesses)?;
        for linked in trail {
            verifier.take(linked)?;
        }
        verifier.finish()
    }

    #[test]
    fn a_whole_trail_is_found_whole() {
        let trail = trail(10);
        let witnesses = [witness(&trail, 0), witness(&trail[..4], 1), witness(&[], 2)];
        let verified = verify(&trail, &witnesses).unwrap();
        assert_eq!((verified.head.index, verified.entries, verified.missed), (10, 20, 45));
        assert_eq!(verified.nodes.len(), 3);
        assert_eq!(verified.witnesses[&id(&key(1))], 4);
        assert_eq!(verify(&[], &[]), Ok(Verified::default()));
    }

    #[test]
    fn a_tail_that_was_cut_off_shows_against_any_witness_that_saw_it() {
        let trail = trail(10);
        assert!(verify(&trail[..7], &[]).is_ok(), "the trail alone can't tell");
        let saw = [witness(&trail[..5], 0), witness(&trail[..8], 1)];
        assert!(verify(&trail[..7], &saw[..1]).is_ok());
        let cut = Broken::CutOff { witness: id(&key(1)), seen: 8, end: 7 };
        assert_eq!(verify(&trail[..7], &saw), Err(cut));
    }

    /// By one who has two of the three nodes: their batches say something else, the third never
    /// said anything, and all is linked as it should be.
    fn rewritten() -> Vec<LinkedBatch> {
        let mut heads = [Head::default(); 2];
        let batches = (0..12).map(|at| {
            let node = at % 2;
            let (number, previous) = (heads[node].index + 1, heads[node].hash);
            let entries = vec![entry("nothing happened")];
            let batch = Batch { node: id(&key(node as u8)), number, previous, entries, missed: 0 };
            heads[node] = Head { index: number, hash: batch.hash() };
            batch.sign(&key(node as u8))
        });
        link(batches.collect())
    }

    #[test]
    fn a_trail_that_was_written_anew_shows_against_any_witness() {
        let honest = trail(10);
        let rewritten = rewritten();
        assert!(verify(&rewritten, &[]).is_ok(), "the trail alone can't tell");
        for saw in 1..=10 {
            let broken = verify(&rewritten, &[witness(&honest[..saw], 2)]);
            assert_eq!(broken, Err(Broken::Rewritten { witness: id(&key(2)), index: saw as u64 }));
        }
    }

    #[test]
    fn a_witness_moves_along_one_chain_and_stays_where_something_does_not_continue_it() {
        let (honest, rewritten) = (trail(10), rewritten());
        let mut witness = Witness::default();
        assert_eq!(witness.follow(&honest[..4]), Ok(()));
        let seen = witness.note;
        for (what, shown) in [
            ("links are missing", &honest[5..]),
            ("it is shown again from its beginning", &honest[..4]),
            ("it was written anew", &rewritten[4..]),
        ] {
            assert_eq!(witness.follow(shown), Err(NotExtended { seen: 4 }), "{what}");
            assert_eq!(witness.note, seen, "{what}");
        }
        let forked = [&honest[4..6], &rewritten[6..]].concat();
        assert_eq!(witness.follow(&forked), Err(NotExtended { seen: 6 }));
        assert_eq!(witness.follow(&honest[6..]), Ok(()));
        assert_eq!(witness.note.head.index, 10);
    }

    #[test]
    fn dropping_a_batch_and_linking_the_rest_anew_breaks_its_node_s_chain() {
        let whole = trail(9);
        for gone in 0..6 {
            let rest = whole
                .iter()
                .enumerate()
                .filter(|(at, _)| *at != gone)
                .map(|(_, linked)| linked.signed.clone());
            let broken = verify(&link(rest.collect()), &[]);
            assert!(matches!(broken, Err(Broken::BatchMissing { .. })), "{gone}: {broken:?}");
        }
    }

    #[test]
    fn a_witness_can_t_be_impersonated() {
        let trail = trail(3);
        let mut statement = witness(&trail, 2);
        statement.head.index = 2;
        assert_eq!(verify(&trail, &[statement]), Err(Broken::ForgedWitness { witness: id(&key(2)) }));
    }

    proptest! {
        #[test]
        fn nothing_can_be_altered_dropped_repeated_or_moved(
            length in 2_usize..12,
            at in any::<prop::sample::Index>(),
            to in any::<prop::sample::Index>(),
            what in 0..14,
        ) {
            let mut trail = trail(length);
            let (at, to) = (at.index(length), to.index(length));
            let witnesses = [witness(&trail, 2)];
            let linked = &mut trail[at];
            match what {
                0 => linked.signed.batch.entries[0].who.push('!'),
                1 => linked.signed.batch.entries[1].allowed ^= true,
                2 => linked.signed.batch.entries[0].at = WallTime::from_millis(2),
                3 => drop(linked.signed.batch.entries.remove(1)),
                4 => linked.signed.batch.entries.swap(0, 1),
                5 => linked.signed.batch.missed += 1,
                6 => linked.signed.batch.number += 1,
                7 => linked.signed.batch.previous.0[3] ^= 1,
                8 => linked.signed.signature.0[5] ^= 1,
                9 => linked.link.stamp = WallTime::from_millis(8),
                10 => linked.link.batch.0[0] ^= 1,
                11 => drop(trail.remove(at)),
                12 => {
                    let again = trail[at].clone();
                    trail.insert(to, again);
                }
                _ => {
                    prop_assume!(at != to);
                    trail.swap(at, to);
                }
            }
            prop_assert!(verify(&trail, &witnesses).is_err());
        }
    }
}
