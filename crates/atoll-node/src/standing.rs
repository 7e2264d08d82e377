//! Whether this node is still a member, by the word of those who refuse it.
//!
//! A node that was removed while it was off, or out of reach, has an old layout that names it,
//! and nobody gives it the newer one: its key is refused. Peers say with the refusal that the key
//! was removed. It is shard 0 that removes nodes, so a majority of its voters, as far as this node
//! knows them, is believed, and the node ends. Fewer are not: one that lies would end honest members.
//! What they say is logged and shown until they say otherwise.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use atoll_membership::View;
use atoll_placement::Layout;
use atoll_runtime::{Runtime, watch};
use atoll_transport::{CallError, Message, Protocol, Refusal, Transport};
use atoll_types::{Format, NodeId, ShardId};

use crate::{
    follower::{Ended, LayoutFollower},
    wire::ClusterRequest,
};

/// Whoever is a member hears of the others within seconds of its start; who does not is asked.
const ASK_EVERY: Duration = Duration::from_secs(3);
const ASK_TIME: Duration = Duration::from_secs(2);
/// Rounds between two warnings: a minute.
const WARN_EVERY: usize = 20;

#[derive(Clone, Default)]
pub struct Standing {
    removed_by: Arc<Mutex<BTreeSet<NodeId>>>,
}

/// What a peer's answer says of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Removed,
    Member,
    Nothing,
}

impl Said {
    fn of(answer: &Result<Message, CallError>) -> Self {
        match answer {
            Ok(_) => Said::Member,
            Err(CallError::Refused(refusal)) if refusal.code == Refusal::REMOVED => Said::Removed,
            // One that does not know of this node yet, or a program that can't tell.
            Err(_) => Said::Nothing,
        }
    }
}

impl Standing {
    /// What operators should know, while too few say it.
    pub fn doubt(&self) -> Option<String> {
        let removed_by = self.lock();
        let names: Vec<String> = removed_by.iter().map(NodeId::short).collect();
        (!names.is_empty()).then(|| {
            format!(
                "node {} says that this node was removed from the cluster; if it was, start it with an empty \
                 data folder and a new ticket",
                names.join(", ")
            )
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<NodeId>> {
        self.removed_by.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True once a majority of shard 0's voters have said that this node was removed.
    fn hear(&self, layout: &Layout, peer: NodeId, said: Said) -> bool {
        let mut removed_by = self.lock();
        match said {
            Said::Removed => removed_by.insert(peer),
            Said::Member => removed_by.remove(&peer),
            Said::Nothing => false,
        };
        is_majority(&voters(layout), &removed_by)
    }

    /// Asks each voter that the membership does not see, until this node is told to end.
    pub async fn watch(
        self,
        runtime: Runtime,
        transport: Arc<dyn Transport>,
        follower: Arc<LayoutFollower>,
        view: watch::Receiver<Arc<View>>,
    ) {
        let me = transport.node_id();
        for round in 0.. {
            runtime.sleep(ASK_EVERY).await;
            let layout = follower.current();
            let view = view.borrow().clone();
            let mut unseen = voters(&layout);
            unseen.retain(|voter| *voter != me && !view.is_reachable(voter));
            // Who is a voter no more has no say, and who is seen again has taken it back.
            self.lock().retain(|voter| unseen.contains(voter));
            for voter in unseen {
                let request = ClusterRequest::Layout { newer_than: u64::MAX }.encode();
                let answer =
                    transport.call(voter, Protocol::Cluster, Message::header(request), ASK_TIME).await;
                if self.hear(&layout, voter, Said::of(&answer)) {
                    return follower.end(Ended::Removed);
                }
            }
            if round % WARN_EVERY == 0
                && let Some(doubt) = self.doubt()
            {
                tracing::warn!("{doubt}");
            }
        }
    }
}

fn voters(layout: &Layout) -> BTreeSet<NodeId> {
    let voters = layout.shards().get(&ShardId::META).map(|shard| &shard.current.voters);
    voters.into_iter().flatten().map(|voter| voter.node).collect()
}

/// Of all voters, this node among them if it is one: it does not say so.
fn is_majority(voters: &BTreeSet<NodeId>, removed_by: &BTreeSet<NodeId>) -> bool {
    2 * voters.intersection(removed_by).count() > voters.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(numbers: &[u8]) -> BTreeSet<NodeId> {
        numbers.iter().map(|number| NodeId([*number; 32])).collect()
    }

    #[test]
    fn only_a_majority_of_the_voters_ends_a_member() {
        for (voters, removed_by, ends) in [
            (&[1, 2, 3][..], &[][..], false),
            (&[1, 2, 3], &[2], false),
            (&[1, 2, 3], &[2, 3], true),
            // Who does not vote has no say.
            (&[1, 2, 3], &[2, 7, 8, 9], false),
            (&[1, 2, 3, 4, 5], &[2, 3], false),
            (&[1, 2, 3, 4, 5], &[2, 3, 4], true),
            // It alone decides who is a member.
            (&[2], &[2], true),
            (&[1], &[2, 3], false),
            (&[], &[2], false),
        ] {
            assert_eq!(is_majority(&nodes(voters), &nodes(removed_by)), ends, "{voters:?} {removed_by:?}");
        }
    }

    #[test]
    fn only_the_refusal_of_a_removed_key_counts() {
        let peer = NodeId([2; 32]);
        let refused = |code| Err(CallError::Refused(Refusal { code, reason: String::new() }));
        assert_eq!(Said::of(&refused(Refusal::REMOVED)), Said::Removed);
        for answer in [refused(Refusal::NOT_ADMITTED), refused(400), Err(CallError::TimedOut { peer })] {
            assert_eq!(Said::of(&answer), Said::Nothing);
        }
        assert_eq!(Said::of(&Ok(Message::default())), Said::Member);
    }
}
