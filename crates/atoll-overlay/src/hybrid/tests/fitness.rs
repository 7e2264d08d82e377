//! Who becomes a super-peer, and who does not.

use super::*;
use crate::hybrid::seat::Seat;

#[test]
fn of_those_who_are_reached_and_prompt_the_longest_there_is_asked_first() {
    let mut seat = Seat::new(Instant::ORIGIN, Centre::new(At(1), 0));
    let standing = |is_reached, prompt_percent| Standing { is_reached, prompt_percent };
    for (place, since, standing) in [
        (10, 0, standing(false, 100)),
        (20, 1, standing(true, 50)),
        (30, 3, standing(true, 95)),
        (40, 2, standing(true, 90)),
        (50, 4, standing(true, 89)),
    ] {
        seat.add_leaf(Instant::ORIGIN + Duration::from_secs(since), At(place), standing);
    }
    let order: Vec<At> = (0..6).filter_map(|_| seat.candidate(true)).collect();
    // Who was asked before is asked again when all who are reached have been.
    assert_eq!(order, [40, 30, 20, 50, 40, 30].map(At));
    // What counts is what a leaf said last.
    seat.add_leaf(Instant::ORIGIN + MINUTE, At(10), standing(true, 100));
    assert_eq!(seat.candidate(true), Some(At(10)));
}

#[test]
fn while_others_may_come_back_nobody_is_asked_whom_no_stranger_reached() {
    let mut seat = Seat::new(Instant::ORIGIN, Centre::new(At(1), 0));
    for place in [10, 20] {
        seat.add_leaf(Instant::ORIGIN, At(place), Standing { is_reached: false, prompt_percent: 100 });
    }
    assert_eq!(seat.candidate(false), None);
    assert!(seat.candidate(true).is_some());
    seat.add_leaf(Instant::ORIGIN, At(30), Standing { is_reached: true, prompt_percent: 0 });
    assert_eq!([false, true, true].map(|unreached| seat.candidate(unreached)), [Some(At(30)); 3]);
}

/// Sixteen nodes, of which ten get nothing from those to whom they have not spoken; long enough for
/// all to have refreshed what they know of each other.
#[test]
fn whom_no_stranger_reaches_is_no_super_peer_while_others_live() {
    let mut net = Net::new();
    let all = places(16);
    let open: BTreeSet<u8> = all.iter().copied().step_by(3).collect();
    net.closed = all.iter().copied().filter(|place| !open.contains(place)).collect();
    for (index, place) in all.iter().enumerate() {
        net.join(node(At(*place)), &all[..index.min(1)]);
        net.run(Duration::from_secs(5));
    }
    net.run(180 * MINUTE);
    let is_reached = |net: &Town, place: &u8| net.nodes[place].is_reached;
    assert!(net.closed.iter().all(|place| !is_reached(&net, place)), "only strangers count");
    let gone = supers(&net);
    let reached = open.iter().filter(|place| !gone.contains(place) && is_reached(&net, place)).count();
    assert!(reached >= SUPERS_MIN, "{reached} of those who are left");
    net.dead = gone;
    net.run(30 * MINUTE);
    let risen = supers(&net);
    assert!(risen.len() >= SUPERS_MIN && risen.is_subset(&open), "{risen:?}");
    // When none of them lives any more it is better than nobody.
    net.dead.extend(open);
    net.run(30 * MINUTE);
    assert!(!supers(&net).is_empty());
}

/// The sixth to the thirtieth of a hundred and twenty, who are there longer than most.
fn early() -> BTreeSet<u8> {
    places(120)[5..30].iter().copied().collect()
}

/// Forty nodes, of which the early leaves are changed; they tell it with their next word, and then a
/// crowd comes. Who became a super-peer meanwhile.
fn crowded(change: impl Fn(&mut Hybrid<At>)) -> BTreeSet<u8> {
    let mut net = grown(40);
    let before = supers(&net);
    for place in early().difference(&before) {
        change(net.nodes.get_mut(place).expect("a leaf"));
    }
    net.run(3 * MINUTE);
    for place in &places(120)[40..] {
        net.join(node(At(*place)), &places(1));
        net.run(Duration::from_secs(5));
    }
    supers(&net).difference(&before).copied().collect()
}

#[test]
fn who_was_there_longest_becomes_a_super_peer() {
    let risen = crowded(|_| ());
    assert!(!risen.is_disjoint(&early()), "{risen:?}");
}

#[test]
fn who_is_slow_to_get_answers_is_passed_by() {
    let risen = crowded(|node| node.asked = (100, 50));
    assert!(!risen.is_empty() && risen.is_disjoint(&early()), "{risen:?}");
}

/// When the centre has failed leaves rise by themselves, and who waits less hinders the others.
#[test]
fn without_a_centre_those_who_are_reached_rise_before_others_and_the_longest_there_first() {
    let mut rng = StdRng::seed_from_u64(1);
    let mut waits = |is_reached, uptime| -> Vec<Duration> {
        let mut leaf = node(At(1));
        leaf.is_reached = is_reached;
        let mut waits: Vec<Duration> =
            (0..100).map(|_| leaf.election_wait(Instant::ORIGIN + uptime, &mut rng)).collect();
        waits.sort_unstable();
        waits
    };
    let (old, new) = (waits(true, 100 * MINUTE), waits(true, MINUTE));
    let unreached = waits(false, 100 * MINUTE);
    assert!(old[99] < unreached[0], "{:?}, {:?}", old[99], unreached[0]);
    // Spread, so that not all rise at once: the middle of the old ones is before the first new ones.
    assert!(old[50] < new[0] && new[0] < old[99], "{:?}, {:?}, {:?}", old[50], new[0], old[99]);
}
