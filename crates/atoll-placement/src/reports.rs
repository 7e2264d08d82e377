//! Collects the nodes' reports on finished passes until a slot's move is finished.

use std::collections::{BTreeMap, BTreeSet};

use atoll_types::{NodeId, Slot};

use crate::layout::Layout;

/// What was reported, per slot and move. Kept in memory by whoever runs the planner: nodes
/// report again as long as the layout still shows the move, so a new keeper learns it all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MoveReports {
    done: BTreeMap<Slot, (u64, BTreeSet<NodeId>)>,
}

impl MoveReports {
    /// `node` has made its passes over these slots ([`Layout::copy_tasks`]); with each
    /// slot goes the task's `changed`.
    pub fn record(&mut self, layout: &Layout, node: NodeId, passes: &[(Slot, u64)]) {
        for (slot, changed) in passes {
            let is_known = usize::from(slot.0) < Slot::COUNT && layout.slot_changed(*slot) == *changed;
            if !is_known {
                continue; // an earlier move, or nonsense
            }
            let entry = self.done.entry(*slot).or_default();
            if entry.0 != *changed {
                *entry = (*changed, BTreeSet::new());
            }
            entry.1.insert(node);
        }
    }

    /// The moves that wait for nobody any more: hand them to [`Layout::slots_moved`].
    /// Forgets reports on moves that are over.
    pub fn finished(&mut self, layout: &Layout) -> Vec<(Slot, u64)> {
        self.done
            .retain(|slot, (changed, _)| layout.is_moving(*slot) && layout.slot_changed(*slot) == *changed);
        let nobody = BTreeSet::new();
        let is_done = |slot: &Slot| {
            let reported = self.done.get(slot).map_or(&nobody, |(_, reported)| reported);
            layout.awaited(*slot).iter().all(|node| reported.contains(node))
        };
        let moving = Slot::all().filter(|slot| layout.is_moving(*slot));
        moving.filter(is_done).map(|slot| (slot, layout.slot_changed(slot))).collect()
    }
}
