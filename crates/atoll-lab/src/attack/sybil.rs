//! One adversary with many identities, each let in, who stand around keys that it has chosen.
//!
//! A place is the hash of a node's key, so it draws keys by itself, as many as it likes, until some
//! fall near; each that it uses has to be let in. They show the way as honest nodes do, and hide what
//! they should keep.

use std::time::Duration;

use atoll_overlay::{Answer, AuthorKey, Content, Id, Notification, Overlay};
use atoll_types::Instant;
use rand::Rng;

use super::AttackParameters;
use crate::{
    columns::{Column, Row},
    experiment::{JOIN_EVERY, WALL, share},
    kinds::{Recipe, Task},
    lie::Keeper,
    world::{Links, SimulatedContact, World, ring, stream},
};

const LIFETIME: Duration = Duration::from_secs(20 * 3600);
/// Until all have joined and know their neighbours, what was stored has been handed over, and
/// who had it has let it go.
const SETTLES_IN: Duration = Duration::from_secs(600);
/// Longer than a lookup and a read take.
const ANSWERS_IN: Duration = Duration::from_secs(30);

pub(super) struct Sybil<'a> {
    pub(super) seed: u64,
    pub(super) parameters: &'a AttackParameters,
    /// For each key.
    pub(super) identities: usize,
    /// Node keys for each honest node.
    pub(super) drawn: usize,
    pub(super) row: Row,
}

impl Task for Sybil<'_> {
    type Output = Row;

    fn run<R: Recipe>(self, recipe: &R) -> Row {
        let Sybil { seed, parameters, identities, drawn, row } = self;
        let nodes = parameters.nodes.0;
        let mut world: World<Keeper<'_, R>> = World::new(seed, Links::default());
        let author = AuthorKey::from_seed([1; 32]);
        world.set_up(nodes, |contact, ring, round_trip| {
            let mut core = recipe.with_content(recipe.converged(contact, ring, round_trip), author.clone());
            core.set_clock(Instant::ORIGIN, WALL);
            Keeper::honest(core, recipe)
        });
        let honest: Vec<SimulatedContact> = world.living().map(|(contact, _)| contact).collect();
        let mut rng = stream(seed, "sybil");
        let keys: Vec<Id> =
            (0..parameters.keys.0).map(|_| Id::from_halves(rng.random(), rng.random())).collect();
        for key in &keys {
            let owner = honest[rng.random_range(0..nodes)];
            world.with(owner, |node, now, rng, out| {
                node.core.store(now, rng, *key, b"value".to_vec(), LIFETIME, out).ok()
            });
            world.run(ANSWERS_IN / 10);
        }

        // Numbers that nobody has used yet, of which it uses few.
        let draws = (nodes * drawn).max(keys.len() * identities);
        let all = World::<Keeper<'_, R>>::contacts(seed, nodes + draws);
        let mut candidates = ring(all[nodes..].iter().copied());
        let mut chosen: Vec<SimulatedContact> = Vec::new();
        for key in &keys {
            for _ in 0..identities {
                let nearest = recipe.responsible(*key, &candidates);
                // Where keys are not near to anybody's, whoever it is.
                let place = candidates.iter().position(|(_, candidate)| *candidate == nearest);
                chosen.push(candidates.remove(place.unwrap_or(0)).1);
            }
        }
        chosen.sort_unstable();
        for contact in all[nodes..].iter().copied() {
            if chosen.binary_search(&contact).is_err() {
                world.skip();
                continue;
            }
            let mut core = recipe.newcomer(contact, author.clone());
            core.set_clock(Instant::ORIGIN, WALL);
            let known = honest[rng.random_range(0..nodes)];
            world.add(Keeper { hides: true, ..Keeper::honest(core, recipe) });
            world.with(contact, |node, now, rng, out| node.core.join(now, rng, &[known], out));
            world.run(JOIN_EVERY);
        }
        world.run(SETTLES_IN);

        let (mut owned, mut missed) = (0, 0);
        for key in &keys {
            world.take_reports();
            let reader = honest[rng.random_range(0..nodes)];
            world.with(reader, |node, now, rng, out| {
                let _ = node.core.locate(now, rng, *key, out);
                let _ = node.core.fetch(now, rng, *key, out);
            });
            world.run(ANSWERS_IN);
            let mut found = false;
            for reported in world.take_reports().into_iter().filter(|reported| reported.by == reader) {
                match reported.notification {
                    Notification::LookupFinished(located) if located.key == *key => {
                        let first = located.outcome.ok().and_then(|found| found.first().copied());
                        owned += usize::from(first.is_some_and(|first| chosen.binary_search(&first).is_ok()));
                    }
                    Notification::OperationFinished(finished) => {
                        found |= matches!(finished.outcome, Ok(Answer::Values(values)) if !values.is_empty());
                    }
                    _ => {}
                }
            }
            missed += usize::from(!found);
        }
        row.with_some(Column::KeysOwnedShare, share(owned as f64, keys.len()))
            .with_some(Column::ValuesMissedShare, share(missed as f64, keys.len()))
    }
}
