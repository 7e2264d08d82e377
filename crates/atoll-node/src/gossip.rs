//! Keeps the membership and the layout told of each other: whom the layout names is looked
//! for, what version this node has is spread, and a newer one is fetched from whoever has
//! it.

use std::{sync::Arc, time::Duration};

use atoll_membership::{MemberInfo, Membership};
use atoll_runtime::{Runtime, watch};
use atoll_transport::Transport;
use atoll_types::{NodeId, ShardId};

use crate::{follower::LayoutFollower, reports::fetch_layout};

/// Between two tries to reach nodes that the layout names and nobody has seen, and to
/// fetch a layout that somebody acted on.
const AGAIN: Duration = Duration::from_secs(1);

pub struct Gossip {
    pub runtime: Runtime,
    pub transport: Arc<dyn Transport>,
    pub membership: Membership,
    pub follower: Arc<LayoutFollower>,
    pub me: MemberInfo,
    pub wanted: watch::Receiver<u64>,
}

impl Gossip {
    pub async fn run(mut self) {
        let mut layouts = self.follower.subscribe();
        let mut views = self.membership.view();
        loop {
            let layout = layouts.borrow_and_update().clone();
            let view = views.borrow_and_update().clone();
            let wanted = *self.wanted.borrow_and_update();
            if self.me.layout_version != layout.version() {
                self.me.layout_version = layout.version();
                if let Err(error) = self.membership.update_me(self.me.clone()).await {
                    tracing::error!(%error, "can't tell the others about this node");
                }
            }
            let me = self.me.node;
            let unseen: Vec<NodeId> = layout
                .nodes()
                .keys()
                .filter(|node| **node != me && view.get(node).is_none())
                .copied()
                .collect();
            if !unseen.is_empty() {
                self.membership.join(unseen).await;
            }
            let gone: Vec<NodeId> =
                view.members.keys().filter(|node| layout.is_removed(node)).copied().collect();
            for node in gone {
                self.membership.forget(node).await;
            }
            let newest = view
                .reachable()
                .filter(|member| member.node != me)
                .filter_map(|member| Some((member.info.as_ref()?.layout_version, member.node)))
                .max()
                .filter(|(version, _)| *version > layout.version());
            if let Some((_, node)) = newest {
                fetch_layout(self.transport.as_ref(), &self.follower, node).await;
            } else if wanted > layout.version() {
                // Gossip has not brought it yet; whoever keeps shard 0 has it first.
                let keepers = layout.shards().get(&ShardId::META).into_iter().flat_map(|shard| shard.all());
                for replica in keepers.filter(|replica| replica.node != me) {
                    fetch_layout(self.transport.as_ref(), &self.follower, replica.node).await;
                }
            }
            tokio::select! {
                biased;
                _ = layouts.changed() => {}
                _ = views.changed() => {}
                _ = self.wanted.changed() => {}
                () = self.runtime.sleep(AGAIN) => {}
            }
        }
    }
}
