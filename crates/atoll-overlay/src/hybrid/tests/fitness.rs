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
    let order: Vec<At> = (0..6).filter_map(|_| seat.candidate()).collect();
    // Who was asked before is asked again when all have been.
    assert_eq!(order, [40, 30, 10, 20, 50, 40].map(At));
    // What counts is what a leaf said last.
    seat.add_leaf(Instant::ORIGIN + MINUTE, At(10), standing(true, 100));
    assert_eq!(seat.candidate(), Some(At(10)));
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
