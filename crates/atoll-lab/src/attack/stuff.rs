//! One member fills a key with values of authors that it makes up, before the owner of the key stores
//! its own. An author is a key pair, which anybody makes by the thousand.

use std::time::Duration;

use atoll_overlay::{Answer, AuthorKey, Body, Content, Id, Notification, Overlay};
use atoll_types::Instant;
use rand::{Rng, rngs::StdRng};

use super::AttackParameters;
use crate::{
    columns::{Column, Row},
    experiment::share,
    kinds::{ContentMessageOf, Recipe, Task},
    search::WALL,
    world::{Core, Links, OutOf, SimulatedContact, World, stream},
};

const LIFETIME: Duration = Duration::from_secs(3600);
const TRUE: &[u8] = b"true";

pub(super) struct Stuff<'a> {
    pub(super) seed: u64,
    pub(super) parameters: &'a AttackParameters,
    pub(super) authors: usize,
    pub(super) row: Row,
}

struct Node<'a, R: Recipe> {
    core: R::WithContent,
    recipe: &'a R,
    /// Of the hostile one: with whose name it signs what it stores.
    signs_as: Option<AuthorKey>,
}

impl<R: Recipe> Node<'_, R> {
    /// Whatever it brings to be kept is signed anew.
    fn forge(&self, out: &mut OutOf<Self>) {
        let Some(author) = &self.signs_as else { return };
        for entries in out.sends.iter_mut().filter_map(|(_, message)| self.recipe.brings(message)) {
            for entry in entries {
                *entry = author.sign(entry.key, entry.sequence, entry.expires, entry.body.clone());
            }
        }
    }
}

impl<R: Recipe> Core for Node<'_, R> {
    type Message = ContentMessageOf<R>;
    type Notification = Notification<SimulatedContact>;

    fn handle_message(
        &mut self,
        now: Instant,
        rng: &mut StdRng,
        from: SimulatedContact,
        message: Self::Message,
        out: &mut OutOf<Self>,
    ) {
        Overlay::handle_message(&mut self.core, now, rng, from, message, out);
        self.forge(out);
    }

    fn handle_timeout(&mut self, now: Instant, rng: &mut StdRng, out: &mut OutOf<Self>) {
        Overlay::handle_timeout(&mut self.core, now, rng, out);
        self.forge(out);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        Overlay::poll_timeout(&self.core)
    }

    fn state_bytes(&self) -> usize {
        Overlay::state_bytes(&self.core)
    }
}

impl Task for Stuff<'_> {
    type Output = Row;

    fn run<R: Recipe>(self, recipe: &R) -> Row {
        let Stuff { seed, parameters, authors, row } = self;
        let mut world: World<Node<'_, R>> = World::new(seed, Links::default());
        // One for all who are honest: each key has one owner.
        let honest = AuthorKey::from_seed([1; 32]);
        world.set_up(parameters.nodes.0, |contact, ring, round_trip| {
            let mut core = recipe.with_content(recipe.converged(contact, ring, round_trip), honest.clone());
            core.set_clock(Instant::ORIGIN, WALL);
            core.freeze();
            Node { core, recipe, signs_as: None }
        });
        let mut rng = stream(seed, "stuff");
        let hostile = world.draw_living().expect("some live");
        let draw = |world: &mut World<Node<'_, R>>| loop {
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
