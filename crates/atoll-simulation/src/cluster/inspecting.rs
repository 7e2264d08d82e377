//! What is to be seen of a cluster's disks, from outside.

use std::{collections::BTreeMap, time::Duration};

use atoll_node::Node;
use atoll_runtime::Runtime;

use super::ClusterView;
use crate::{checkers::Census, executor::lock};

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(5);
/// After the last fault, a node that was away is found by gossip, and its walks (every
/// minute here) look at every chunk; twice that.
const COPIES_LIMIT: Duration = Duration::from_secs(180);
/// Four sweeps, of 15 s each here, and what collects and expires after them; twice that.
const SWEEPS_LIMIT: Duration = Duration::from_secs(240);

/// Looks until all copies are where they belong (and, if asked for, everything else is
/// gone), or time is up. `None` if the cluster can't be asked.
pub(super) async fn chunks(view: &ClusterView, runtime: &Runtime, sweeps: bool) -> Option<Census> {
    let limit = if sweeps { SWEEPS_LIMIT } else { COPIES_LIMIT };
    let until = runtime.now() + limit;
    let mut last = None;
    loop {
        let is_late = runtime.now() >= until;
        let nodes: Vec<Node> = lock(&view.nodes).iter().flatten().map(|(_, node)| node.clone()).collect();
        if let Some(census) = look(&nodes).await {
            let whole = Census { after_sweeps: sweeps, ..census };
            let done = if sweeps { whole.is_settled() } else { whole.has_all_copies() };
            if done {
                return Some(whole);
            }
            last = Some(whole);
        }
        if is_late {
            return last;
        }
        drop(nodes);
        runtime.sleep(PAUSE).await;
    }
}

/// At one moment, or nearly: what is referenced is read first, and after that nobody
/// writes.
async fn look(nodes: &[Node]) -> Option<Census> {
    let asked = nodes.first()?;
    let mut census =
        Census { referenced: asked.objects().referenced_chunks().await.ok()?, ..Census::default() };
    let mut held: BTreeMap<_, std::collections::BTreeSet<_>> = BTreeMap::new();
    for node in nodes {
        for chunk in node.objects().held_chunks().await.ok()?.into_iter().filter(|chunk| !chunk.damaged) {
            held.entry(chunk.hash).or_default().insert(node.id());
        }
    }
    census.held = held;
    let layout = asked.layout();
    for chunk in &census.referenced {
        let holders = layout.holders(chunk.slot()).map(|holder| holder.node).collect();
        census.wanted.insert(*chunk, holders);
    }
    Some(census)
}
