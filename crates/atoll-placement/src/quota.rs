//! How many copies each zone and each node ought to hold.
//!
//! In proportion to capacity, as far as the rules on zones allow: no node holds an item
//! twice, and a zone holds no more copies of one item than an even spread over zones
//! needs. What a small zone cannot take, the others share in proportion.

/// What the rules on zones say for every item.
pub(crate) struct ZoneRules {
    /// Copies of each item.
    pub(crate) copies: usize,
    /// The fewest and the most copies of one item that each zone may hold.
    pub(crate) bounds: Vec<(usize, usize)>,
}

impl ZoneRules {
    /// `nodes_of_zone`: eligible nodes in each zone, none of them zero.
    pub(crate) fn new(copies_wanted: usize, nodes_of_zone: &[usize]) -> Self {
        let copies = copies_wanted.min(nodes_of_zone.iter().sum());
        // The evenest spread: the smallest ceiling under which all copies find a place.
        let most = (1..=copies.max(1))
            .find(|most| nodes_of_zone.iter().map(|nodes| (*nodes).min(*most)).sum::<usize>() >= copies)
            .unwrap_or(copies);
        let room: usize = nodes_of_zone.iter().map(|nodes| (*nodes).min(most)).sum();
        let everywhere = usize::from(nodes_of_zone.len() <= copies);
        let bounds = nodes_of_zone.iter().map(|nodes| {
            let upper = (*nodes).min(most);
            // What the other zones together have no room for must be here.
            let lower = copies.saturating_sub(room - upper).max(everywhere);
            (lower, upper)
        });
        Self { copies, bounds: bounds.collect() }
    }

    /// Whether an item with these copies per zone can still become complete, or is.
    pub(crate) fn allow(&self, copies_of_zone: &[usize]) -> bool {
        let placed: usize = copies_of_zone.iter().sum();
        let within = self.bounds.iter().zip(copies_of_zone).all(|((_, upper), copies)| copies <= upper);
        let owed: usize = self
            .bounds
            .iter()
            .zip(copies_of_zone)
            .map(|((lower, _), copies)| lower.saturating_sub(*copies))
            .sum();
        within && placed + owed <= self.copies
    }
}

/// Divides `total` in proportion to weights, each share within its bounds. The bounds must
/// leave room for the total.
pub(crate) fn divide(total: u64, parts: &[Part]) -> Vec<u64> {
    let share = |part: &Part, level: f64| (part.weight * level).clamp(part.least as f64, part.most as f64);
    let sum = |level: f64| -> f64 { parts.iter().map(|part| share(part, level)).sum() };
    let smallest = parts.iter().map(|part| part.weight).fold(f64::INFINITY, f64::min);
    // At this level even the lightest part is at its upper bound.
    let (mut low, mut high) =
        (0.0, parts.iter().map(|part| part.most).max().unwrap_or(0) as f64 / smallest + 1.0);
    for _ in 0..200 {
        let middle = (low + high) / 2.0;
        if sum(middle) < total as f64 {
            low = middle;
        } else {
            high = middle;
        }
    }
    let exact: Vec<f64> = parts.iter().map(|part| share(part, high)).collect();
    let mut shares: Vec<u64> = exact.iter().map(|share| share.floor() as u64).collect();
    // The largest remainders get what rounding down left over; the first among equals.
    let mut order: Vec<usize> = (0..parts.len()).collect();
    order.sort_by(|a, b| exact[*b].fract().total_cmp(&exact[*a].fract()));
    let mut left = total.saturating_sub(shares.iter().sum());
    while left > 0 {
        let before = left;
        for at in &order {
            if left > 0 && shares[*at] < parts[*at].most {
                shares[*at] += 1;
                left -= 1;
            }
        }
        if left == before {
            break; // no room: the caller's bounds were too tight
        }
    }
    shares
}

pub(crate) struct Part {
    pub(crate) weight: f64,
    pub(crate) least: u64,
    pub(crate) most: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn divided(total: u64, parts: &[(f64, u64, u64)]) -> Vec<u64> {
        let part = |&(weight, least, most): &(f64, u64, u64)| Part { weight, least, most };
        divide(total, &parts.iter().map(part).collect::<Vec<_>>())
    }

    #[test]
    fn shares_are_in_proportion_and_add_up() {
        assert_eq!(divided(12, &[(1.0, 0, 12), (2.0, 0, 12), (3.0, 0, 12)]), [2, 4, 6]);
        assert_eq!(divided(10, &[(1.0, 0, 10), (1.0, 0, 10), (1.0, 0, 10)]), [4, 3, 3]);
    }

    #[test]
    fn what_a_bounded_part_cannot_take_the_others_share() {
        assert_eq!(divided(12, &[(10.0, 0, 4), (1.0, 0, 12), (3.0, 0, 12)]), [4, 2, 6]);
        assert_eq!(divided(12, &[(10.0, 0, 12), (1.0, 4, 12)]), [8, 4]);
    }

    #[test]
    fn copies_spread_over_zones_as_evenly_as_nodes_allow() {
        assert_eq!(ZoneRules::new(3, &[4, 4, 4, 4]).bounds, [(0, 1); 4]);
        assert_eq!(ZoneRules::new(3, &[4, 4, 4]).bounds, [(1, 1); 3]);
        assert_eq!(ZoneRules::new(3, &[5, 1]).bounds, [(2, 2), (1, 1)]);
        assert_eq!(ZoneRules::new(3, &[5, 5]).bounds, [(1, 2), (1, 2)]);
        assert_eq!(ZoneRules::new(3, &[5]).bounds, [(3, 3)]);
        assert_eq!(ZoneRules::new(3, &[1, 1]).copies, 2);
    }
}
