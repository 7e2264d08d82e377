//! What happens to a cluster, told in order.

use std::collections::{BTreeMap, BTreeSet};

use atoll_placement::{ChangeError, Layout, NodeState, Reason, SlotProgress, Warning, WriteRefused};
use atoll_types::{DiskId, Format, NodeId, OverlayKind, ReplicaId, ShardId, Slot, Zone};

use crate::world::{SLOT_BYTES, World, id, member, minutes};

fn loads(layout: &Layout) -> BTreeMap<NodeId, usize> {
    layout.nodes().keys().map(|node| (*node, layout.slots_of(node).current.len())).collect()
}

fn voters(layout: &Layout, shard: u32) -> BTreeSet<NodeId> {
    layout.shards()[&ShardId(shard)].current.voters.iter().map(|voter| voter.node).collect()
}

#[test]
fn a_cluster_grows_from_one_to_four() {
    let mut world = World::of(member(1, "a", 100));
    assert_eq!(world.plan().warnings, [Warning::NotFaultTolerant { storage_nodes: 1 }]);

    world.join(member(2, "a", 100));
    let plan = world.plan();
    assert_eq!(plan.reasons, [Reason::Joined { node: id(2) }]);
    assert_eq!(plan.bytes_to_move.0, 4096 * SLOT_BYTES);
    assert_eq!(plan.shard_changes.len(), 65);
    assert_eq!(plan.warnings, [Warning::NotFaultTolerant { storage_nodes: 2 }]);
    // A put waits for the voter's node, as before, and the other gets it too.
    let targets = world.layout.write_targets(Slot(5));
    assert_eq!(targets.nodes, [id(1), id(2)]);
    assert!(targets.is_met(&[id(1)].into()) && !targets.is_met(&[id(2)].into()));
    world.settle();
    let shard = &world.layout.shards()[&ShardId(7)].current;
    assert_eq!((shard.voters.len(), shard.learners.len()), (1, 1));
    let targets = world.layout.write_targets(Slot(5));
    assert!(targets.is_met(&[id(1)].into()) && !targets.is_met(&[id(2)].into()));

    world.join(member(3, "a", 100));
    let plan = world.plan();
    assert_eq!(plan.bytes_to_move.0, 4096 * SLOT_BYTES);
    assert!(plan.warnings.is_empty());
    // While the slot moves: the keeper's word, and two of the three.
    let targets = world.layout.write_targets(Slot(5));
    assert_eq!(targets.quorums.len(), 2);
    assert!(!targets.is_met(&[id(1)].into()) && !targets.is_met(&[id(2), id(3)].into()));
    assert!(targets.is_met(&[id(1), id(3)].into()));
    world.settle();
    let targets = world.layout.write_targets(Slot(5));
    assert!(targets.is_met(&[id(2), id(3)].into()) && !targets.can_be_met(&[id(2), id(3)].into()));
    for shard in 0..=64 {
        assert_eq!(voters(&world.layout, shard), [id(1), id(2), id(3)].into());
        assert!(world.layout.shards()[&ShardId(shard)].current.learners.is_empty());
    }

    world.join(member(4, "a", 100));
    let plan = world.plan();
    assert_eq!(plan.bytes_to_move.0, 3072 * SLOT_BYTES, "a quarter of three copies");
    world.settle();
    assert!(loads(&world.layout).values().all(|load| *load == 3072));
}

#[test]
fn voters_and_leaders_are_spread_over_nodes() {
    let world = World::of_nodes(5);
    let mut of_node: BTreeMap<NodeId, usize> = BTreeMap::new();
    let mut led: BTreeMap<NodeId, usize> = BTreeMap::new();
    let hints = world.layout.leader_hints();
    for (shard, placement) in world.layout.shards() {
        for voter in &placement.current.voters {
            *of_node.entry(voter.node).or_default() += 1;
            if hints[shard] == voter.id {
                *led.entry(voter.node).or_default() += 1;
            }
        }
    }
    assert!(of_node.values().all(|count| (38..=40).contains(count)), "195 voters: {of_node:?}");
    assert_eq!(led.values().copied().collect::<Vec<_>>(), [13; 5]);
}

#[test]
fn copies_and_voters_lie_in_different_zones() {
    let mut world = World::of(member(1, "a", 100));
    for (number, zone) in [(2, "a"), (3, "b"), (4, "b"), (5, "c"), (6, "c"), (7, "c")] {
        world.join(member(number, zone, 100));
    }
    world.settle();
    let zones = |nodes: &mut dyn Iterator<Item = NodeId>| -> usize {
        nodes.map(|node| world.layout.node(&node).unwrap().zone.clone()).collect::<BTreeSet<Zone>>().len()
    };
    for slot in Slot::all() {
        assert_eq!(zones(&mut world.layout.holders(slot).map(|holder| holder.node)), 3);
    }
    for placement in world.layout.shards().values() {
        assert_eq!(zones(&mut placement.current.voters.iter().map(|voter| voter.node)), 3);
    }
    // A reader gets its own copy first, or its zone's.
    for slot in Slot::all() {
        let first = world.layout.read_candidates(slot, &id(6))[0];
        assert_eq!(world.layout.node(&first).unwrap().zone, Zone("c".into()));
    }
}

#[test]
fn load_follows_capacity_and_a_join_moves_only_the_newcomers_share() {
    let mut world = World::of(member(1, "a", 100));
    for (number, zone, gigabytes) in
        [(2, "b", 200), (3, "c", 100), (4, "a", 200), (5, "b", 100), (6, "c", 200), (7, "d", 150)]
    {
        world.join(member(number, zone, gigabytes));
    }
    world.settle();
    let check = |world: &World| {
        let total: u64 = world.members.values().map(|member| member.capacity.0).sum();
        for (node, load) in loads(&world.layout) {
            let share = 3.0 * 4096.0 * world.members[&node.0[0]].capacity.0 as f64 / total as f64;
            assert!(
                (load as f64 - share).abs() <= share * 0.02 + 1.0,
                "{node:?} has {load}, its share is {share}"
            );
        }
        total
    };
    check(&world);
    world.join(member(8, "d", 200));
    let plan = world.plan();
    let total: u64 = world.members.values().map(|member| member.capacity.0).sum();
    let least = (u128::from(3 * 4096 * SLOT_BYTES) * (200 << 30) / u128::from(total)) as u64;
    assert!(
        plan.bytes_to_move.0 as f64 <= 1.1 * least as f64,
        "{} moved, {least} needed",
        plan.bytes_to_move
    );
    world.settle();
    check(&world);
}

#[test]
fn a_drained_node_serves_until_others_have_everything_and_then_goes() {
    let mut world = World::of_nodes(5);
    let held = world.layout.slots_of(&id(2)).current.len() as u64;
    world.adopt(world.layout.drain(&id(2)).unwrap());
    let plan = world.plan();
    assert!(plan.bytes_to_move.0 as f64 <= 1.1 * (held * SLOT_BYTES) as f64);
    let slot = world.layout.slots_of(&id(2)).current[0];
    assert!(world.layout.write_targets(slot).nodes.contains(&id(2)));
    assert!(world.layout.read_candidates(slot, &id(1)).contains(&id(2)));
    assert_eq!(world.layout.remove(&id(2), false), Err(ChangeError::NotEmpty { node: id(2) }));

    world.finish_slots(1.0, 0);
    world.finish_shards();
    assert_eq!(world.layout.progress(slot), SlotProgress::Retiring);
    let version = world.layout.version();
    assert_eq!(world.layout.check_write(&id(2), slot, version), Err(WriteRefused::NotAHolder));
    assert!(world.layout.read_candidates(slot, &id(1)).contains(&id(2)), "what it may still have is found");
    assert_eq!(world.layout.remove(&id(2), false), Err(ChangeError::NotEmpty { node: id(2) }));

    world.release();
    assert!(world.layout.is_empty(&id(2)));
    world.adopt(world.layout.remove(&id(2), false).unwrap());
    assert!(world.layout.is_removed(&id(2)));
    let plan = world.plan();
    assert!(plan.reasons.is_empty(), "a removed key does not join again");
}

#[test]
fn a_write_under_an_older_layout_is_refused_while_the_slot_moves() {
    let mut world = World::of_nodes(3);
    let before = world.layout.version();
    world.join(member(4, "a", 100));
    world.plan();
    let slot = world.layout.slots_of(&id(4)).arriving[0];
    let moving = world.layout.version();
    for node in [id(1), id(2), id(3), id(4)]
        .iter()
        .filter(|node| world.layout.holders(slot).any(|h| h.node == **node))
    {
        assert_eq!(
            world.layout.check_write(node, slot, before),
            Err(WriteRefused::StaleLayout { changed: moving })
        );
        assert_eq!(world.layout.check_write(node, slot, moving), Ok(()));
        assert_eq!(
            world.layout.check_write(node, slot, moving + 1),
            Err(WriteRefused::Behind { have: moving })
        );
    }
    let still = Slot::all().find(|slot| world.layout.progress(*slot) == SlotProgress::Settled).unwrap();
    assert_eq!(world.layout.check_write(&id(1), still, before), Ok(()), "a slot that does not move takes it");
    let stale = [(slot, before)];
    assert_eq!(world.layout.slots_moved(&stale), None, "a report on an earlier move changes nothing");
}

#[test]
fn a_dead_node_is_replaced_after_a_while_and_is_welcome_back() {
    let mut world = World::of_nodes(5);
    let held = world.layout.slots_of(&id(3)).current.len() as u64;
    world.members.get_mut(&3).unwrap().unreachable_for = minutes(9);
    assert!(!world.plan().is_change(&world.layout));
    world.members.get_mut(&3).unwrap().unreachable_for = minutes(10);
    let plan = world.plan();
    assert!(matches!(plan.reasons[..], [Reason::DeclaredDead { node, .. }] if node == id(3)));
    assert!(plan.bytes_to_move.0 as f64 <= 1.1 * (held * SLOT_BYTES) as f64);
    world.settle();
    assert!(world.layout.is_empty(&id(3)));
    assert!(loads(&world.layout).values().filter(|load| **load > 0).all(|load| load.abs_diff(3072) <= 61));

    world.members.get_mut(&3).unwrap().unreachable_for = None;
    let plan = world.plan();
    assert_eq!(plan.reasons, [Reason::Returned { node: id(3) }]);
    world.settle();
    assert_eq!(world.layout.node(&id(3)).unwrap().state, NodeState::Active);
    assert!(loads(&world.layout).values().all(|load| load.abs_diff(3 * 4096 / 5) <= 50));
}

#[test]
fn a_dead_node_that_returns_halfway_keeps_what_was_not_moved_yet() {
    let mut world = World::of_nodes(5);
    world.members.get_mut(&3).unwrap().unreachable_for = minutes(20);
    world.plan();
    world.finish_slots(0.3, 1);
    world.members.get_mut(&3).unwrap().unreachable_for = None;
    let before = world.layout.slots_of(&id(3)).current.len();
    world.plan();
    world.settle();
    let shared = world.layout.slots_of(&id(3)).current.len();
    assert!(before < 2400 && shared.abs_diff(3 * 4096 / 5) <= 50, "{before} {shared}");
}

#[test]
fn nobody_is_replaced_below_three_nodes_or_while_a_third_is_away() {
    let mut world = World::of_nodes(3);
    world.members.get_mut(&2).unwrap().unreachable_for = minutes(60);
    let plan = world.plan();
    assert!(!plan.is_change(&world.layout));
    assert_eq!(plan.warnings, [Warning::TooFewLeft { node: id(2) }]);

    let mut world = World::of_nodes(5);
    for number in [2, 3] {
        world.members.get_mut(&number).unwrap().unreachable_for = minutes(60);
    }
    let plan = world.plan();
    assert!(!plan.is_change(&world.layout));
    assert_eq!(plan.warnings, [Warning::TooManyUnreachable { unreachable: 2, storage_nodes: 5 }]);
}

#[test]
fn one_zone_is_replaced_at_a_time() {
    let mut world = World::of(member(1, "a", 100));
    for (number, zone) in [(2, "b"), (3, "c"), (4, "a"), (5, "b"), (6, "c"), (7, "d"), (8, "d"), (9, "a")] {
        world.join(member(number, zone, 100));
    }
    world.settle();
    world.members.get_mut(&1).unwrap().unreachable_for = minutes(30);
    world.members.get_mut(&2).unwrap().unreachable_for = minutes(40);
    world.members.get_mut(&5).unwrap().unreachable_for = minutes(20);
    let plan = world.plan();
    let dead = |number| matches!(world.layout.node(&id(number)).unwrap().state, NodeState::Dead { .. });
    assert_eq!([1, 2, 5].map(dead), [false, true, true], "zone b was away the longest");
    assert!(plan.warnings.contains(&Warning::OneZoneAtATime { node: id(1) }));
    // Slots that were on 1 and on one of the dead may lack what those two acknowledged.
    world.finish_slots(1.0, 0);
    assert!(!world.layout.is_settled());
    world.members.get_mut(&1).unwrap().unreachable_for = None;
    world.settle();
    world.members.get_mut(&1).unwrap().unreachable_for = minutes(30);
    world.plan();
    assert!(matches!(world.layout.node(&id(1)).unwrap().state, NodeState::Dead { .. }), "zone a's turn");
    world.settle();
    assert!(world.layout.is_empty(&id(1)));
}

#[test]
fn a_node_with_an_empty_disk_is_filled_again_under_new_replica_ids() {
    let mut world = World::of_nodes(3);
    let old: BTreeSet<ReplicaId> = world.layout.replicas_on(&id(2)).map(|(_, replica)| replica.id).collect();
    world.members.get_mut(&2).unwrap().disk = DiskId(77);
    let plan = world.plan();
    assert_eq!(plan.reasons, [Reason::DiskReplaced { node: id(2) }]);
    assert_eq!(plan.bytes_to_move.0, 4096 * SLOT_BYTES);
    assert_eq!(world.layout.slots_of(&id(2)).arriving.len(), 4096);
    // Its word on the new disk does not stand in for what the old one had.
    let targets = world.layout.write_targets(Slot(9));
    assert!(!targets.is_met(&[id(1), id(2)].into()) && targets.is_met(&[id(1), id(3)].into()));
    assert!(
        world
            .layout
            .copy_tasks(&id(2))
            .iter()
            .all(|task| task.quorum.members.len() == 2 && task.quorum.needed == 2)
    );
    world.settle();
    assert!(world.layout.replicas_on(&id(2)).all(|(_, replica)| !old.contains(&replica.id)));
    assert_eq!(world.layout.replicas_on(&id(2)).count(), 65);
}

#[test]
fn a_damaged_replica_is_replaced_on_the_same_node() {
    let mut world = World::of_nodes(4);
    let (shard, damaged) = world.layout.replicas_on(&id(1)).nth(3).unwrap();
    world.members.get_mut(&1).unwrap().lost_replicas.insert(damaged.id);
    let plan = world.plan();
    assert_eq!(plan.shard_changes.iter().map(|change| change.shard).collect::<Vec<_>>(), [shard]);
    world.settle();
    let voters = &world.layout.shards()[&shard].current.voters;
    assert!(voters.iter().all(|voter| voter.id != damaged.id));
    assert!(voters.iter().any(|voter| voter.node == id(1)));
}

#[test]
fn removing_a_dead_node_by_force_needs_nothing_from_it() {
    let mut world = World::of_nodes(3);
    world.members.get_mut(&2).unwrap().unreachable_for = minutes(1);
    world.adopt(world.layout.remove(&id(2), true).unwrap());
    assert!(world.layout.is_removed(&id(2)), "refused at once");
    let plan = world.plan();
    assert!(plan.warnings.contains(&Warning::NotFaultTolerant { storage_nodes: 2 }));
    world.settle();
    assert!(world.layout.node(&id(2)).is_none() && world.layout.is_removed(&id(2)));
    let shard = &world.layout.shards()[&ShardId(0)].current;
    assert_eq!((shard.voters.len(), shard.learners.len()), (1, 1));
    assert_ne!(shard.voters[0].node, id(2));
    assert_eq!(world.layout.remove(&id(1), true).unwrap().version(), world.layout.version() + 1);
}

#[test]
fn a_shard_whose_target_changes_keeps_everyone_who_may_be_a_voter() {
    let mut world = World::of_nodes(3);
    world.join(member(4, "a", 100));
    world.plan();
    let (shard, placement) =
        world.layout.shards().iter().find(|(_, placement)| !placement.is_settled()).unwrap();
    let (shard, first) = (*shard, placement.target.clone().unwrap());
    // The newcomer is sent away before the change was reported; the group may have made it.
    world.adopt(world.layout.drain(&id(4)).unwrap());
    world.plan();
    // What it was to get, it may have taken writes of: it looks through that before it goes.
    let retiring = world.layout.slots_of(&id(4)).retiring;
    assert_eq!(retiring.len(), 3072);
    assert!(world.layout.read_candidates(retiring[0], &id(1)).contains(&id(4)));
    let version = world.layout.version();
    assert_eq!(world.layout.check_write(&id(4), retiring[0], version), Err(WriteRefused::NotAHolder));
    let now = &world.layout.shards()[&shard];
    assert!(first.all().all(|replica| now.all().any(|other| other == replica)));
    assert_eq!(world.layout.shards_changed(&[(shard, first)].into()), None, "a report on the former target");
    world.settle();
    assert!(world.layout.is_empty(&id(4)));
}

#[test]
fn edge_nodes_are_known_and_hold_nothing() {
    let mut world = World::of_nodes(3);
    let mut edge = member(9, "shop", 100);
    edge.roles = [atoll_types::Role::Edge].into_iter().collect();
    world.join(edge);
    let plan = world.plan();
    assert_eq!(plan.reasons, [Reason::Joined { node: id(9) }]);
    assert!(plan.slot_moves.is_empty() && plan.shard_changes.is_empty());
    assert!(world.layout.is_empty(&id(9)));
}

#[test]
fn a_layout_of_three_hundred_nodes_stays_under_a_mebibyte_in_the_middle_of_a_move() {
    let mut world = World::of(member(0, "zone 0", 100));
    let numbered = |number: u16| {
        let mut member = member(0, &format!("zone {}", number % 5), 100 + u64::from(number % 7));
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&number.to_be_bytes());
        bytes[2..].fill(0xee);
        member.node = NodeId(bytes);
        member.disk = DiskId(u64::MAX - u64::from(number));
        member.addresses = vec!["a-rather-long-name-of-a-machine.example.internal:9100".into(); 2];
        member
    };
    let observed: Vec<_> = world.members.values().cloned().chain((1..300).map(numbered)).collect();
    let settings = atoll_placement::PlanSettings::default();
    world.layout = atoll_placement::plan(&world.layout, &observed, &settings, |_| Default::default()).next;
    assert_eq!(world.layout.progress_counts()[&SlotProgress::Moving], 4096);
    let bytes = world.layout.encode().len();
    assert!(bytes < 1 << 20, "{bytes} bytes");
}

#[test]
fn whoever_stays_looks_through_the_slot_if_it_may_lack_what_the_leaver_acknowledged() {
    let mut world = World::of_nodes(3);
    for _ in 0..5 {
        world.write(); // each on two of three
    }
    world.adopt(world.layout.drain(&id(3)).unwrap());
    world.plan();
    let keeper = world.layout.write_targets(Slot(0)).quorums[1].members[0];
    assert_eq!(world.layout.awaited(Slot(0)), [keeper]);
    let task = &world.layout.copy_tasks(&keeper)[0];
    assert_eq!((task.quorum.members.len(), task.quorum.needed), (2, 1), "itself and one of the others");
    world.settle(); // and every chunk is found
    world.write();
    // The keeper alone acknowledges now; when it leaves, the other takes everything over.
    world.adopt(world.layout.drain(&keeper).unwrap());
    world.plan();
    world.settle();
    assert!(world.layout.is_empty(&keeper));
}

#[test]
fn a_move_is_finished_when_all_who_copy_have_said_so() {
    let mut world = World::of_nodes(1);
    world.join(member(2, "a", 100));
    world.join(member(3, "a", 100));
    world.plan();
    let mut reports = atoll_placement::MoveReports::default();
    let passes = |world: &World, number| -> Vec<(Slot, u64)> {
        world.layout.copy_tasks(&id(number)).iter().map(|task| (task.slot, task.changed)).collect()
    };
    reports.record(&world.layout, id(2), &passes(&world, 2));
    assert!(reports.finished(&world.layout).is_empty());
    let stale: Vec<(Slot, u64)> =
        passes(&world, 3).iter().map(|(slot, changed)| (*slot, changed - 1)).collect();
    reports.record(&world.layout, id(3), &stale);
    assert!(reports.finished(&world.layout).is_empty());
    reports.record(&world.layout, id(3), &passes(&world, 3)[..7]);
    let finished = reports.finished(&world.layout);
    assert_eq!(finished.len(), 7);
    world.adopt(world.layout.slots_moved(&finished).unwrap());
    assert_eq!(world.layout.progress_counts()[&SlotProgress::Moving], 4096 - 7);
    assert_eq!(world.layout.bytes_outstanding(|_| atoll_types::ByteSize(10)).0, 2 * 10 * (4096 - 7));
}

#[test]
fn a_survivor_goes_on_alone_and_says_what_may_be_lost() {
    let world = World::of_nodes(4);
    let recovery = world.layout.recover(&id(2), &BTreeSet::new(), &BTreeSet::new()).unwrap();
    let layout = recovery.layout;
    assert_eq!(layout.check(), Ok(()));
    assert_eq!(Layout::decode(&layout.encode()).as_ref(), Ok(&layout));
    assert_eq!(layout.epoch(), world.layout.epoch() + 1);
    assert!([1, 3, 4].iter().all(|number| layout.is_removed(&id(*number))));
    let had = world.layout.replicas_on(&id(2)).count();
    assert_eq!(recovery.shards_behind.len(), had, "each had two voters elsewhere");
    assert_eq!(recovery.shards_lost.len(), 65 - had);
    assert_eq!(recovery.slots_lost, 1024, "a quarter lies on the three others");
    assert_eq!(recovery.slots_behind, 3072);
    let targets = layout.write_targets(Slot(1));
    assert!(targets.is_met(&[id(2)].into()));
    let lost: BTreeSet<ReplicaId> =
        layout.shards().values().map(|shard| shard.current.voters[0].id).collect();
    assert_eq!(lost.len(), 65);

    // What shard 0 gave out meanwhile is not given out again.
    let mut later = World::of_nodes(4);
    later.join(member(5, "a", 100));
    later.settle();
    let following = layout.following(&later.layout);
    assert_eq!(following.check(), Ok(()));
    assert!(following.version() > later.layout.version() && following.is_removed(&id(5)));

    // Two survivors of three: nothing is lost, and they grow again.
    let mut world = World::of_nodes(3);
    world.write();
    let recovery = world.layout.recover(&id(1), &[id(3)].into(), &BTreeSet::new()).unwrap();
    assert_eq!((recovery.shards_behind.len(), recovery.slots_behind), (0, 0));
    world.adopt(recovery.layout);
    world.members.remove(&2);
    world.settle();
    world.join(member(4, "a", 100));
    world.settle();
    assert_eq!(voters(&world.layout, 0), [id(1), id(3), id(4)].into());
}

#[test]
fn usable_capacity_is_what_fits_with_all_copies() {
    let world = World::of_nodes(3);
    assert_eq!(world.layout.usable_capacity(), atoll_types::ByteSize::gib(100));
    let world = World::of_nodes(6);
    let usable = world.layout.usable_capacity().0 as f64 / (200u64 << 30) as f64;
    assert!((0.98..=1.0).contains(&usable), "{usable}");
}

#[test]
fn a_slot_whose_holders_are_mostly_dead_waits_until_they_are_back_or_forced_out() {
    let mut world = World::of_nodes(20);
    world.write();
    // Two nodes that share slots, but no shard: one that lost two of three voters is lost
    // to the planner.
    let share_a_shard = |a: u8, b: u8| {
        let votes = |placement: &atoll_placement::ShardPlacement, number| {
            placement.current.voters.iter().any(|voter| voter.node == id(number))
        };
        world.layout.shards().values().any(|shard| votes(shard, a) && votes(shard, b))
    };
    let pairs = (1..=20).flat_map(|a| (a + 1..=20).map(move |b| (a, b)));
    let (a, b) = pairs.into_iter().find(|(a, b)| !share_a_shard(*a, *b)).unwrap();
    for number in [a, b] {
        world.members.get_mut(&number).unwrap().unreachable_for = minutes(30);
    }
    let plan = world.plan();
    let holds =
        |slot: Slot, number| world.layout.complete_holders(slot).any(|holder| holder.node == id(number));
    let slots = Slot::all().filter(|slot| holds(*slot, a) && holds(*slot, b)).count();
    assert!(slots > 0);
    assert_eq!(plan.warnings, [Warning::WaitingForTheDead { slots }]);
    world.finish_slots(1.0, 0);
    assert_eq!(world.layout.progress_counts()[&SlotProgress::Moving], slots);
    world.finish_shards();
    // The operator gives them up: what they alone had is lost, and the rest goes on.
    world.adopt_loss(world.layout.remove(&id(a), true).unwrap());
    world.adopt_loss(world.layout.remove(&id(b), true).unwrap());
    let plan = world.plan();
    assert_eq!(plan.warnings, [Warning::DataMayBeLost { slots }]);
    world.settle();
    assert!([a, b].iter().all(|number| world.layout.node(&id(*number)).is_none()));
}

#[test]
fn removing_by_force_is_refused_where_a_shard_would_lose_its_quorum() {
    let mut world = World::of_nodes(4);
    world.members.get_mut(&1).unwrap().unreachable_for = minutes(30);
    world.plan(); // declared dead; nothing has moved yet
    let with_both = |world: &World, other: u8| {
        let voters = |shard: &ShardId| voters(&world.layout, shard.0);
        world
            .layout
            .shards()
            .keys()
            .copied()
            .find(|shard| [1, other].iter().all(|n| voters(shard).contains(&id(*n))))
    };
    let shard = with_both(&world, 2).unwrap();
    assert_eq!(world.layout.remove(&id(2), true), Err(ChangeError::WithoutQuorum { shard }));
    assert!(world.layout.remove(&id(1), true).is_ok(), "it is dead already");
    world.finish_shards();
    assert!(world.layout.remove(&id(2), true).is_ok());
}

/// Older programs of a cluster can read its layouts until somebody chooses an overlay, which
/// they do not know (rule 18).
#[test]
fn a_layout_is_written_as_before_until_an_overlay_is_chosen() {
    let layout = World::of_nodes(3).layout;
    let bytes = layout.encode();
    assert_eq!(bytes[0], 1);
    assert_eq!(Layout::decode(&bytes).as_ref(), Ok(&layout));
    let chosen = layout.with_overlay(OverlayKind::Kademlia).expect("a change");
    assert_eq!(
        (chosen.version(), chosen.settings().overlay),
        (layout.version() + 1, Some(OverlayKind::Kademlia))
    );
    let bytes = chosen.encode();
    assert_eq!(bytes[0], 2);
    assert_eq!(Layout::decode(&bytes).as_ref(), Ok(&chosen));
    assert!(Layout::decode(&[&[1], &bytes[1..]].concat()).is_err());
    assert_eq!(chosen.with_overlay(OverlayKind::Kademlia), None);
}
