//! Nodes that hide what they should keep: they say that they keep it, keep nothing, and answer that
//! there is nothing. The way to a key they show as honest nodes do.

use std::time::Duration;

use atoll_overlay::{Answer, AuthorKey, Content, Id, Notification, Overlay};
use atoll_types::Instant;
use rand::{Rng, rngs::StdRng};

use super::liar::is_of_share;
use crate::{
    columns::{Column, Row},
    experiment::{Progress, Setup, content_network, hold_still, share},
    kinds::{ContentMessageOf, Recipe, Task},
    world::{Core, OutOf, SimulatedContact, World, stream},
};

const LIFETIME: Duration = Duration::from_secs(3600);

/// Who hides what it should keep.
#[derive(Debug, Clone, Copy)]
pub(super) enum Hiding {
    /// Such a share of all nodes, drawn.
    Share(f64),
    /// So many of those in the middle, the first ones.
    FirstAppointed(usize),
}

/// Stores values at honest nodes, and reads them at others, in one network of which now these and
/// now those hide.
pub(super) struct Hide<'a, 'b> {
    pub(super) seed: u64,
    pub(super) nodes: usize,
    pub(super) setup: Setup,
    pub(super) values: usize,
    /// With the beginning of a row each.
    pub(super) hiding: Vec<(Hiding, Row)>,
    pub(super) progress: &'a mut Progress<'b>,
}

/// A node with content, that is honest or not.
pub(crate) struct Keeper<'a, R: Recipe> {
    pub(crate) core: R::WithContent,
    pub(crate) recipe: &'a R,
    /// Whether it hides what it should keep.
    pub(crate) hides: bool,
    /// With whose name it signs what it stores, if not with its own.
    pub(crate) signs_as: Option<AuthorKey>,
}

impl<'a, R: Recipe> Keeper<'a, R> {
    pub(crate) fn honest(core: R::WithContent, recipe: &'a R) -> Self {
        Self { core, recipe, hides: false, signs_as: None }
    }

    /// Whatever it brings to be kept is signed anew.
    pub(crate) fn forge(&self, out: &mut OutOf<Self>) {
        let Some(author) = &self.signs_as else { return };
        for entries in out.sends.iter_mut().filter_map(|(_, message)| self.recipe.brings(message)) {
            for entry in entries {
                *entry = author.sign(entry.key, entry.sequence, entry.expires, entry.body.clone());
            }
        }
    }
}

impl<R: Recipe> Core for Keeper<'_, R> {
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
        match self.hides.then(|| self.recipe.hide(&message)).flatten() {
            Some(lie) => out.sends.push((from, lie)),
            None => Overlay::handle_message(&mut self.core, now, rng, from, message, out),
        }
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

impl Task for Hide<'_, '_> {
    type Output = Vec<Row>;

    fn run<R: Recipe>(self, recipe: &R) -> Vec<Row> {
        let Hide { seed, nodes, setup, values, hiding, progress } = self;
        // One for all: who signs makes no difference to what is hidden, and keys are dear.
        let author = AuthorKey::from_seed([1; 32]);
        let mut honest = content_network(recipe, nodes, seed, setup, |_| author.clone());
        hold_still(&mut honest);
        let rows = hiding.into_iter().map(|(hiding, row)| {
            progress.add(nodes as f64);
            hidden(recipe, honest.clone(), seed, values, hiding, row)
        });
        rows.collect()
    }
}

/// What those who read do not find.
fn hidden<R: Recipe>(
    recipe: &R,
    honest: World<R::WithContent>,
    seed: u64,
    values: usize,
    hiding: Hiding,
    row: Row,
) -> Row {
    let hides = |contact| match hiding {
        Hiding::Share(share) => is_of_share(contact, share),
        Hiding::FirstAppointed(count) => recipe.appointed().iter().take(count).any(|one| *one == contact),
    };
    let mut world =
        honest.remake(|contact, core| Keeper { hides: hides(contact), ..Keeper::honest(core, recipe) });
    let honest: Vec<SimulatedContact> =
        world.living().filter(|(_, node)| !node.hides).map(|(contact, _)| contact).collect();
    if honest.is_empty() {
        return row;
    }
    let mut rng = stream(seed, "values");
    let draw = |rng: &mut StdRng| honest[rng.random_range(0..honest.len())];
    let keys: Vec<Id> = (0..values).map(|_| Id::from_halves(rng.random(), rng.random())).collect();
    for key in &keys {
        let author = draw(&mut rng);
        let stored = world.with(author, |node, now, rng, out| {
            node.core.store(now, rng, *key, b"value".to_vec(), LIFETIME, out)
        });
        stored.expect("few are its own");
        world.run_until_quiet();
    }
    world.take_reports();
    let mut missed = 0;
    for key in &keys {
        let reader = draw(&mut rng);
        let read = world.with(reader, |node, now, rng, out| node.core.fetch(now, rng, *key, out));
        read.expect("it has one read at a time");
        world.run_until_quiet();
        let found = world.take_reports().into_iter().any(|reported| match reported.notification {
            Notification::OperationFinished(finished) => {
                matches!(finished.outcome, Ok(Answer::Values(values)) if !values.is_empty())
            }
            _ => false,
        });
        missed += usize::from(!found);
    }
    row.with_some(Column::ValuesMissedShare, share(missed as f64, values))
}
