//! A directory some of whose index nodes lie: they keep nothing of what they say they keep, and
//! answer that there is nothing.

use std::time::Duration;

use atoll_overlay::{Answer, Content, Id, Notification};
use rand::{Rng, rngs::StdRng};

use super::liar::{Liars, WithLiars};
use crate::{
    columns::{Column, Row},
    experiment::{Setup, network, share},
    kinds::{DirectoryRecipe, Settings},
    world::{SimulatedContact, stream},
};

/// Longer than any read takes.
const ENDS_WITHIN: Duration = Duration::from_secs(10);
const LIFETIME: Duration = Duration::from_secs(3600);

/// Stores values at honest nodes, and reads them at others.
pub(super) fn hide(
    seed: u64,
    nodes: usize,
    values: usize,
    lying: usize,
    settings: &Settings,
    row: Row,
) -> Row {
    let honest = DirectoryRecipe::new(settings);
    let recipe = WithLiars::new(&honest, Liars::FirstAppointed(lying));
    let mut world = network(&recipe, nodes, seed, Setup::Converged);
    world.freeze();
    let all: Vec<SimulatedContact> =
        world.living().map(|(contact, _)| contact).filter(|contact| !recipe.is_liar(*contact)).collect();
    if all.is_empty() {
        return row;
    }
    let mut rng = stream(seed, "values");
    let draw = |rng: &mut StdRng| all[rng.random_range(0..all.len())];
    let keys: Vec<Id> = (0..values).map(|_| Id::from_halves(rng.random(), rng.random())).collect();
    for key in &keys {
        let author = draw(&mut rng);
        let stored = world.with(author, |node, now, rng, out| {
            node.core_mut().store(now, rng, *key, b"value".to_vec(), LIFETIME, out)
        });
        stored.expect("few are its own");
        world.run(ENDS_WITHIN);
    }
    world.take_reports();
    let mut missed = 0;
    for key in &keys {
        let reader = draw(&mut rng);
        let read = world.with(reader, |node, now, rng, out| node.core_mut().fetch(now, rng, *key, out));
        read.expect("it has one read at a time");
        world.run(ENDS_WITHIN);
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
