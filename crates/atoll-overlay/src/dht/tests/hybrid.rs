//! Content over the hybrid, whose keepers come and go with the load and with what fails.

use super::*;
use crate::{Hybrid, HybridConfig};

type OnHybrid = Dht<Hybrid<At>>;

const MINUTE: Duration = Duration::from_secs(60);

/// So few leaves are many that sixty nodes have more super-peers than keep a value.
fn on_hybrid(me: At) -> OnHybrid {
    let config = HybridConfig { leaves_high: 24, leaves_low: 6, ..HybridConfig::default() };
    with_content(Hybrid::new(me, Arc::new(config)))
}

/// `count` nodes evenly spread.
fn places(count: u8) -> Vec<u8> {
    (0..count).map(|number| number.wrapping_mul(97).wrapping_add(3)).collect()
}

fn supers(net: &Net<OnHybrid>) -> Vec<u8> {
    net.living().into_iter().filter(|place| net.nodes[place].core().is_super()).collect()
}

/// Every value is found at some nodes, and is with the three super-peers nearest to it.
fn check_found(net: &mut Net<OnHybrid>, numbers: impl IntoIterator<Item = u32>) {
    for number in numbers {
        let mut nearest = supers(net);
        nearest.sort_by_key(|place| at(*place).xor(key(number)));
        nearest.truncate(3);
        let holders = holders(net, key(number));
        assert!(nearest.iter().all(|place| holders.contains(place)), "{number}: {holders:?}, {nearest:?}");
        for place in net.living().into_iter().step_by(7) {
            assert_eq!(net.fetch(place, key(number)), [format!("value {number}")], "{number} at {place}");
        }
    }
}

#[test]
fn values_are_kept_and_found_in_a_hybrid_as_elsewhere() {
    check_values(on_hybrid);
    check_search(on_hybrid);
}

#[test]
fn what_all_super_peers_took_with_them_is_back_as_soon_as_there_are_others() {
    for count in [12, 60] {
        let places = places(count);
        let author = |number: u32| places[number as usize % places.len()];
        let mut net = Net::grown(&places, on_hybrid);
        for number in 0..20 {
            net.store(author(number), key(number), &format!("value {number}"), HOUR * 20);
        }
        let gone = supers(&net);
        net.dead.extend(&gone);
        // A search in vain, the wait of a newcomer, another search; then roles settle.
        net.run(MINUTE * 5);
        check_found(&mut net, (0..20).filter(|number| !gone.contains(&author(*number))));
    }
}

/// The cluster changes its kind, and a message in twenty is lost.
#[test]
fn a_hybrid_takes_over_what_another_kind_kept_though_messages_are_lost() {
    for seed in 0..8 {
        let mut net = grown(on_chord);
        for number in 0..20 {
            net.store(TWELVE[number as usize % 12], key(number), &format!("value {number}"), HOUR * 20);
        }
        let mut other: Net<OnHybrid> = Net::new();
        (other.now, other.loss, other.rng) = (net.now, 0.05, StdRng::seed_from_u64(seed));
        for (index, place) in TWELVE.into_iter().enumerate() {
            let mut node = on_hybrid(At(place));
            net.with(place, |node, now, _, out| node.leave(now, out));
            node.put_shelf(other.now, net.nodes.get_mut(&place).expect("a node").take_shelf());
            // All at once, so that most ask nodes that are no further than they are.
            let known: Vec<u8> = [1, 5, 7].map(|further| TWELVE[(index + further) % 12]).into();
            other.join(node, if index == 0 { &[] } else { &known });
        }
        other.run(MINUTE * 5);
        other.loss = 0.0;
        check_found(&mut other, 0..20);
    }
}
