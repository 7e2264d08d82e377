//! What clients do, and how often: the load's mix and strength.

use std::{ops::RangeInclusive, time::Duration};

use rand::{Rng, rngs::StdRng};

use super::Kind;

/// What each client does, again and again. Kinds of operations have weights: a client
/// draws one of weight `w` in `w` of so many cases as all weights together.
#[derive(Debug, Clone, PartialEq)]
pub struct Load {
    /// Few keys that all clients fight for.
    pub keys: usize,
    /// Many keys, some of which sort badly; one in four operations goes there, if any.
    pub cold_keys: usize,
    /// How long a client thinks between two operations.
    pub think: RangeInclusive<Duration>,
    pub gets: u32,
    pub puts: u32,
    pub deletes: u32,
    pub copies: u32,
    pub lists: u32,
    pub uploads: u32,
    pub transactions: u32,
    pub locks: u32,
    pub watches: u32,
    /// Of a hundred writes, how many have a condition.
    pub conditional: u32,
    /// Of a hundred operations, how many go to some other node than the client's own.
    pub elsewhere: u32,
    /// Of a hundred bodies, how many have several chunks.
    pub large: u32,
    /// Of a hundred gets, how many want only some of the bytes.
    pub spans: u32,
    /// Of a hundred writes, how many have an idempotency key, and are asked again, up to
    /// four times, when nobody answers.
    pub again: u32,
    /// Of a hundred uploads, how many wait between their steps for longer than any put.
    pub slow_uploads: u32,
    /// How long a slow upload waits between two steps.
    pub upload_pause: RangeInclusive<Duration>,
    /// For how long an upload that was completed must be known as such to who asks again.
    /// Zero: the system may forget at once, as where sweeps are hurried and clocks jump.
    pub remembered: Duration,
    /// Of a cluster with chunks of usual length, and only what can be asked through S3 and the
    /// admin API: records one at a time and
    /// without ids, copies without a condition on their destination (a 412 does not say
    /// which condition failed), and no key with dots that URLs resolve.
    pub over_http: bool,
}

impl Default for Load {
    /// Gets, puts and deletes on few keys: what every target can do.
    fn default() -> Self {
        Self {
            keys: 5,
            cold_keys: 0,
            think: Duration::ZERO..=Duration::from_millis(200),
            gets: 45,
            puts: 50,
            deletes: 5,
            copies: 0,
            lists: 0,
            uploads: 0,
            transactions: 0,
            locks: 0,
            watches: 0,
            conditional: 60,
            elsewhere: 20,
            large: 10,
            spans: 0,
            again: 0,
            slow_uploads: 0,
            upload_pause: Duration::from_secs(10)..=Duration::from_secs(30),
            remembered: Duration::ZERO,
            over_http: false,
        }
    }
}

impl Load {
    /// How long a client waits for an answer.
    pub const LIMIT: Duration = Duration::from_secs(10);
    /// How long it waits when nobody is there to be asked.
    pub(crate) const REFUSED: Duration = Duration::from_millis(100);

    /// Everything at once.
    pub fn everything() -> Self {
        Self {
            keys: 4,
            cold_keys: 40,
            gets: 30,
            puts: 30,
            deletes: 6,
            copies: 5,
            lists: 6,
            uploads: 4,
            transactions: 12,
            locks: 4,
            watches: 4,
            spans: 25,
            again: 40,
            slow_uploads: 40,
            ..Self::default()
        }
    }

    /// Some kinds of operations and not others, as strong as the seed wants, so that each
    /// also meets the others' absence.
    pub fn drawn(rng: &mut StdRng) -> Self {
        let all = Self::everything();
        let mut some = |weight: u32| if rng.random_bool(0.6) { weight } else { 0 };
        let (copies, lists, uploads) = (some(all.copies), some(all.lists), some(all.uploads));
        let (transactions, locks, watches) = (some(all.transactions), some(all.locks), some(all.watches));
        Self {
            keys: rng.random_range(1..=8),
            cold_keys: if rng.random_bool(0.7) { rng.random_range(1..=200) } else { 0 },
            think: Duration::ZERO..=Duration::from_millis(*pick(rng, &[50, 200, 1000])),
            gets: rng.random_range(10..=50),
            puts: rng.random_range(10..=50),
            deletes: rng.random_range(0..=20),
            copies,
            lists,
            uploads,
            transactions,
            locks,
            watches,
            conditional: rng.random_range(0..=80),
            elsewhere: rng.random_range(0..=50),
            large: *pick(rng, &[0, 5, 20]),
            spans: rng.random_range(0..=50),
            again: *pick(rng, &[0, 50, 100]),
            slow_uploads: rng.random_range(0..=60),
            upload_pause: all.upload_pause,
            remembered: Duration::ZERO,
            over_http: false,
        }
    }

    /// The kinds that it has.
    pub fn kinds(&self) -> Vec<Kind> {
        self.weights().into_iter().filter(|(_, weight)| *weight > 0).map(|(kind, _)| kind).collect()
    }

    fn weights(&self) -> [(Kind, u32); 9] {
        [
            (Kind::Get, self.gets),
            (Kind::Put, self.puts),
            (Kind::Delete, self.deletes),
            (Kind::Copy, self.copies),
            (Kind::List, self.lists),
            (Kind::Upload, self.uploads),
            (Kind::Transact, self.transactions),
            (Kind::Lock, self.locks),
            (Kind::Watch, self.watches),
        ]
    }

    pub(super) fn draw(&self, rng: &mut StdRng) -> Kind {
        let weights = self.weights();
        let mut drawn = rng.random_range(0..weights.iter().map(|(_, weight)| weight).sum());
        for (kind, weight) in weights {
            if drawn < weight {
                return kind;
            }
            drawn -= weight;
        }
        unreachable!("drawn below the sum")
    }
}

pub(super) fn chance(rng: &mut StdRng, of_hundred: u32) -> bool {
    rng.random_range(0..100) < of_hundred
}

pub(super) fn pick<'a, T>(rng: &mut StdRng, from: &'a [T]) -> &'a T {
    &from[rng.random_range(0..from.len())]
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn what_has_no_weight_is_never_drawn_and_all_else_is() {
        let mut rng = StdRng::seed_from_u64(1);
        let load = Load { copies: 1, gets: 0, ..Load::default() };
        let drawn: std::collections::BTreeSet<Kind> = (0..1000).map(|_| load.draw(&mut rng)).collect();
        assert_eq!(drawn.into_iter().collect::<Vec<_>>(), load.kinds());
    }
}
