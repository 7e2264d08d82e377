//! One member fills a key with values of authors that it makes up, before the owner of the key stores
//! its own. An author is a key pair, which anybody makes by the thousand.

use std::time::Duration;

use atoll_overlay::{Answer, AuthorKey, Body, Content, Id, Notification, Overlay};
use atoll_types::Instant;
use rand::Rng;

use super::AttackParameters;
use crate::{
    columns::{Column, Row},
    experiment::{WALL, share},
    kinds::{Recipe, Task},
    lie::Keeper,
    world::{Links, World, stream},
};

const LIFETIME: Duration = Duration::from_secs(3600);
const TRUE: &[u8] = b"true";

pub(super) struct Stuff<'a> {
    pub(super) seed: u64,
    pub(super) parameters: &'a AttackParameters,
    pub(super) authors: usize,
    pub(super) row: Row,
}

impl Task for Stuff<'_> {
    type Output = Row;

    fn run<R: Recipe>(self, recipe: &R) -> Row {
        let Stuff { seed, parameters, authors, row } = self;
        let mut world: World<Keeper<'_, R>> = World::new(seed, Links::default());
        // One for all who are honest: each key has one owner.
        let honest = AuthorKey::from_seed([1; 32]);
        world.set_up(parameters.nodes.0, |contact, ring, round_trip| {
            let mut core = recipe.with_content(recipe.converged(contact, ring, round_trip), honest.clone());
            core.set_clock(Instant::ORIGIN, WALL);
            core.freeze();
            Keeper::honest(core, recipe)
        });
        let mut rng = stream(seed, "stuff");
        let hostile = world.draw_living().expect("some live");
        let draw = |world: &mut World<Keeper<'_, R>>| loop {
            let drawn = world.draw_living().expect("some live");
            if drawn != hostile {
                break drawn;
            }
        };
        let mut missed = 0;
        for _ in 0..parameters.keys.0 {
            let key = Id::from_halves(rng.random(), rng.random());
            for _ in 0..authors {
                let author = AuthorKey::from_seed(rng.random());
                world.with(hostile, |node, now, rng, out| {
                    node.signs_as = Some(author);
                    let _ = node.core.store(now, rng, key, b"made up".to_vec(), LIFETIME, out);
                    node.forge(out);
                });
                world.run_until_quiet();
            }
            let (owner, reader) = (draw(&mut world), draw(&mut world));
            world.with(owner, |node, now, rng, out| {
                node.core.store(now, rng, key, TRUE.to_vec(), LIFETIME, out).ok()
            });
            world.run_until_quiet();
            world.take_reports();
            world.with(reader, |node, now, rng, out| node.core.fetch(now, rng, key, out).ok());
            world.run_until_quiet();
            let found = world.take_reports().into_iter().any(|reported| match reported.notification {
                Notification::OperationFinished(finished) => match finished.outcome {
                    Ok(Answer::Values(values)) => {
                        values.iter().any(|value| value.body == Body::Value(TRUE.to_vec()))
                    }
                    _ => false,
                },
                _ => false,
            });
            missed += usize::from(!found);
        }
        row.with_some(Column::ValuesMissedShare, share(missed as f64, parameters.keys.0))
    }
}
