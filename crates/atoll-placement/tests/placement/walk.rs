//! Walks at random through joins, drains, removals, losses, returns and half-finished
//! moves. [`World::adopt`] holds every layout against the one before it; here the end is
//! checked: when all is quiet, everything is where it should be.

use std::collections::BTreeSet;

use atoll_placement::NodeState;
use atoll_types::{DiskId, Slot, Zone};
use proptest::prelude::*;

use crate::world::{World, hash, member, minutes};

struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = hash(self.0);
        self.0 % bound
    }
}

fn step(world: &mut World, dice: &mut Dice) {
    let numbers: Vec<u8> = world.members.keys().copied().collect();
    let number = numbers[dice.below(numbers.len() as u64) as usize];
    let node = world.members[&number].node;
    match dice.below(12) {
        0 | 1 => {
            let newcomer = 1 + dice.below(200) as u8;
            if numbers.len() < 12 && !world.members.contains_key(&newcomer) {
                let zone = ["a", "b", "c", "d"][dice.below(4) as usize];
                world.join(member(newcomer, zone, 50 + dice.below(300)));
            }
        }
        2 => drop(world.layout.drain(&node).map(|next| world.adopt(next))),
        3 => drop(world.layout.undrain(&node).map(|next| world.adopt(next))),
        4 => {
            if world.layout.remove(&node, false).map(|next| world.adopt(next)).is_ok() {
                world.members.remove(&number);
            }
        }
        5 => {
            let away = dice.below(40);
            if let Some(member) = world.members.get_mut(&number) {
                member.unreachable_for = minutes(away);
            }
        }
        6 | 7 => {
            if let Some(member) = world.members.get_mut(&number) {
                member.unreachable_for = None;
            }
        }
        8 => {
            // At most one disk is lost at a time: with more, data is gone for good.
            if world.layout.is_settled() && world.layout.storage_nodes().count() > 3 {
                let disk = DiskId(dice.below(u64::MAX));
                world.members.get_mut(&number).into_iter().for_each(|member| member.disk = disk);
            }
        }
        9 => {
            let part = dice.below(100) as f64 / 100.0;
            let seed = dice.below(u64::MAX);
            world.finish_slots(part, seed);
        }
        10 => world.finish_shards(),
        _ => world.release(),
    }
    world.write();
    world.plan();
    world.write();
}

fn check_end(world: &mut World) {
    for member in world.members.values_mut() {
        member.unreachable_for = None;
    }
    world.settle();
    let layout = &world.layout;
    let nodes: Vec<_> = layout.storage_nodes().collect();
    let copies = nodes.len().min(3);
    let zones: BTreeSet<&Zone> = nodes.iter().map(|(_, node)| &node.zone).collect();
    for slot in Slot::all() {
        let holders: BTreeSet<_> = layout.holders(slot).map(|holder| holder.node).collect();
        assert_eq!(holders.len(), copies);
        assert!(holders.iter().all(|node| layout.node(node).unwrap().state == NodeState::Active));
        let spread: BTreeSet<&Zone> = holders.iter().map(|node| &layout.node(node).unwrap().zone).collect();
        assert_eq!(spread.len(), zones.len().min(copies));
    }
    for placement in layout.shards().values() {
        assert_eq!(placement.current.voters.len(), if nodes.len() < 3 { 1 } else { 3 });
        assert_eq!(placement.current.learners.len(), usize::from(nodes.len() == 2));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn any_walk_keeps_every_write_visible_and_ends_in_order(seed: u64) {
        let mut dice = Dice(seed);
        let mut world = World::of(member(1, "a", 100));
        for _ in 0..30 {
            step(&mut world, &mut dice);
        }
        check_end(&mut world);
    }
}
