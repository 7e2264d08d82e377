//! Keeps this node's replicas as the layout wants them: opens those that it names here,
//! closes those that it names no more, and moves the shards led here to their targets.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use atoll_placement::Layout;
use atoll_records::Records;
use atoll_runtime::Runtime;
use atoll_types::{DiskId, NodeId, ReplicaId, ShardId};
use tokio::sync::watch;

use crate::follower::shard_replicas;

/// A change that did not go through (no leader, a learner still behind) is tried again.
const AGAIN: Duration = Duration::from_millis(500);
/// Changes under way at once: each fills a learner from a snapshot, which takes disk and
/// network from clients.
const CHANGES_AT_ONCE: usize = 8;

pub struct ReplicaKeeper {
    pub runtime: Runtime,
    pub me: NodeId,
    pub disk: DiskId,
    pub records: Records,
    pub layout: watch::Receiver<Arc<Layout>>,
}

impl ReplicaKeeper {
    pub async fn run(mut self) {
        let changes = Arc::new(tokio::sync::Semaphore::new(CHANGES_AT_ONCE));
        let changing = Arc::new(std::sync::Mutex::new(BTreeSet::<ShardId>::new()));
        loop {
            let layout = self.layout.borrow_and_update().clone();
            self.open_and_close(&layout).await;
            for led in self.records.led() {
                let Some(target) = layout.shards().get(&led.shard).and_then(|placement| placement.target.as_ref())
                else {
                    continue;
                };
                let target = shard_replicas(target);
                if target.is_same(&led.replicas) {
                    continue;
                }
                let shard = led.shard;
                if !changing.lock().expect("nobody panics holding it").insert(shard) {
                    continue;
                }
                let (records, changes, changing) = (self.records.clone(), changes.clone(), changing.clone());
                self.runtime.spawn("shard change", async move {
                    let _permit = changes.acquire().await;
                    if let Err(error) = records.reconfigure(shard, target).await {
                        // Led elsewhere by now, or a learner is behind: the next round sees.
                        tracing::debug!(%shard, %error, "a shard's change goes on later");
                    }
                    changing.lock().expect("nobody panics holding it").remove(&shard);
                });
            }
            tokio::select! {
                biased;
                changed = self.layout.changed() => if changed.is_err() { return },
                () = self.runtime.sleep(AGAIN) => {}
            }
        }
    }

    async fn open_and_close(&self, layout: &Layout) {
        let wanted: BTreeSet<(ShardId, ReplicaId)> = layout
            .replicas_on(&self.me)
            .filter(|(_, replica)| replica.disk == self.disk)
            .map(|(shard, replica)| (shard, replica.id))
            .collect();
        let here: BTreeSet<(ShardId, ReplicaId)> = self.records.replicas().into_iter().collect();
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
