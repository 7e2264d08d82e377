//! Keeps this node's replicas as the layout wants them: opens those that it names here,
//! closes those that it names no more, moves the shards led here to their targets, and
//! gives leadership away where the layout would spread it more evenly.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use atoll_placement::{Layout, ReplicaSet};
use atoll_records::{Records, ReplicaStatus, Role};
use atoll_runtime::{Runtime, watch};
use atoll_types::{DiskId, Instant, NodeId, ReplicaId, ShardId};

use crate::follower::shard_replicas;

/// Leadership moves without a word to this task, and a change that it asked for may have
/// been dropped on the way: it looks again.
const AGAIN: Duration = Duration::from_millis(500);

/// Whoever was just given leadership keeps it for a while: a node that stops hands over what
/// it leads, and should not be handed it back before it is gone.
const LEADS_FOR_MIN: Duration = Duration::from_secs(5);
/// Leaderships given away in one round. A write that meets one waits for some milliseconds;
/// 65 shards are spread over three nodes in a few seconds.
const HANDED_AT_ONCE: usize = 4;

pub struct ReplicaKeeper {
    pub runtime: Runtime,
    pub me: NodeId,
    pub disk: DiskId,
    pub records: Records,
    pub layout: watch::Receiver<Arc<Layout>>,
}

impl ReplicaKeeper {
    pub async fn run(mut self) {
        let mut leading = Leading::default();
        loop {
            let layout = self.layout.borrow_and_update().clone();
            let status = self.records.status().await;
            self.open_and_close(&layout, &status).await;
            for (shard, to) in leading.handed_on(self.runtime.now(), &layout, &status) {
                if let Err(error) = self.records.hand_to(shard, to).await {
                    tracing::debug!(%shard, %error, "leadership stays where it is");
                }
            }
            for led in status.iter().filter(|replica| replica.role == Role::Leader) {
                let placement = layout.shards().get(&led.shard);
                let Some(target) = placement.and_then(|placement| placement.target.as_ref()) else {
                    continue;
                };
                if has_reached(led, target) {
                    continue;
                }
                if let Err(error) = self.records.reconfigure(led.shard, shard_replicas(target)).await {
                    tracing::debug!(shard = %led.shard, %error, "a shard's change goes on later");
                }
            }
            tokio::select! {
                biased;
                changed = self.layout.changed() => if changed.is_err() { return },
                () = self.runtime.sleep(AGAIN) => {}
            }
        }
    }

    async fn open_and_close(&self, layout: &Layout, status: &[ReplicaStatus]) {
        let wanted: BTreeSet<(ShardId, ReplicaId)> = layout
            .replicas_on(&self.me)
            .filter(|(_, replica)| replica.disk == self.disk)
            .map(|(shard, replica)| (shard, replica.id))
            .collect();
        let here: BTreeSet<(ShardId, ReplicaId)> =
            status.iter().map(|replica| (replica.shard, replica.replica)).collect();
        for (shard, replica) in wanted.difference(&here) {
            if let Err(error) = self.records.create_replica(*shard, *replica, None).await {
                tracing::error!(%shard, %replica, %error, "a replica can't be opened");
            }
        }
        for (shard, replica) in here.difference(&wanted) {
            match self.records.remove_replica(*replica).await {
                Ok(()) => tracing::debug!(%shard, %replica, "closed a replica that the layout names no more"),
                Err(error) => tracing::error!(%shard, %replica, %error, "a replica can't be closed"),
            }
        }
    }
}

/// What this node leads, and what it had better not.
#[derive(Default)]
struct Leading {
    /// In which term, and since when.
    since: BTreeMap<ShardId, (u64, Instant)>,
    /// Who should lead, by the layout of this version.
    hints: (u64, BTreeMap<ShardId, ReplicaId>),
}

impl Leading {
    fn handed_on(
        &mut self,
        now: Instant,
        layout: &Layout,
        status: &[ReplicaStatus],
    ) -> Vec<(ShardId, ReplicaId)> {
        let led: BTreeMap<ShardId, &ReplicaStatus> = status
            .iter()
            .filter(|replica| replica.role == Role::Leader)
            .map(|replica| (replica.shard, replica))
            .collect();
        self.since.retain(|shard, (term, _)| led.get(shard).is_some_and(|led| led.term == *term));
        for (shard, led) in &led {
            self.since.entry(*shard).or_insert((led.term, now));
        }
        if self.hints.0 != layout.version() {
            self.hints = (layout.version(), layout.leader_hints());
        }
        let settled = |shard: &ShardId| {
            layout.shards().get(shard).is_some_and(|placement| placement.target.is_none())
                && now.saturating_since(self.since[shard].1) >= LEADS_FOR_MIN
        };
        let could_take_over = |led: &ReplicaStatus, to: ReplicaId| {
            led.followers.iter().any(|follower| follower.replica == to && follower.active)
        };
        led.into_iter()
            .filter(|(shard, _)| settled(shard))
            .filter_map(|(shard, led)| Some((shard, led, *self.hints.1.get(&shard)?)))
            .filter(|(_, led, hint)| led.replica != *hint && could_take_over(led, *hint))
            .map(|(shard, _, hint)| (shard, hint))
            .take(HANDED_AT_ONCE)
            .collect()
    }
}

/// Whether a group, as its leader knows it, is what the layout wants.
pub fn has_reached(led: &ReplicaStatus, target: &ReplicaSet) -> bool {
    let ids = |replicas: &[atoll_placement::Replica]| -> BTreeSet<ReplicaId> {
        replicas.iter().map(|replica| replica.id).collect()
    };
    !led.joint
        && led.voters.iter().copied().collect::<BTreeSet<_>>() == ids(&target.voters)
        && led.learners.iter().copied().collect::<BTreeSet<_>>() == ids(&target.learners)
}

/// Whether this node leads `shard` now.
pub async fn leads(records: &Records, shard: ShardId) -> bool {
    records.status().await.iter().any(|replica| replica.shard == shard && replica.role == Role::Leader)
}
