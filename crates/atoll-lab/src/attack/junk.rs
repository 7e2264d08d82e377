//! One member sends to one node whatever was ever said, without end.

use std::time::Duration;

use atoll_overlay::{Answer, Content, Notification};
use rand::{Rng, seq::IndexedRandom};

use super::{AttackParameters, tap::Used};
use crate::{
    columns::{Column, Row},
    experiment::share,
    kinds::{ContentRecipe, ContentTask},
    world::Core,
};

const EVERY: Duration = Duration::from_millis(10);
/// Longer than a read takes.
const READ_IN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(100);

pub(super) struct Junk<'a> {
    pub(super) seed: u64,
    pub(super) parameters: &'a AttackParameters,
    pub(super) row: Row,
}

impl ContentTask for Junk<'_> {
    type Output = Row;

    fn run<R: ContentRecipe>(self, recipe: &R) -> Row {
        let mut used = Used::new(recipe, self.parameters.joined_nodes.0, self.seed);
        let heard: Vec<_> = used.heard().into_values().collect();
        // Who has most to lose: in kinds with a centre, one of it.
        let states = used.world.living().map(|(contact, node)| (node.state_bytes(), contact));
        let (before, victim) = states.max().expect("some live");
        let attacker = loop {
            let drawn = used.drawn();
            if drawn != victim {
                break drawn;
            }
        };
        let mut most = 0;
        for number in 0..self.parameters.junk.0 {
            let kind = used.rng.random_range(0..heard.len());
            let message = heard[kind].choose(&mut used.rng).expect("one at least").message.clone();
            used.inject(number, attacker, victim, message);
            used.world.run(EVERY);
            used.take_sent();
            most = most.max(used.world.core(victim).map_or(0, Core::state_bytes));
        }
        used.world.take_reports();
        let mut missed = 0;
        for key in used.keys.clone() {
            used.with(victim, |core, now, rng, out| core.fetch(now, rng, key, out).ok());
            let until = used.world.now() + READ_IN;
            let mut found = None;
            while found.is_none() && used.world.now() < until {
                used.world.run(LOOK_EVERY);
                found =
                    used.world.take_reports().into_iter().find_map(|reported| match reported.notification {
                        Notification::OperationFinished(finished) if reported.by == victim => {
                            Some(matches!(finished.outcome, Ok(Answer::Values(values)) if !values.is_empty()))
                        }
                        _ => None,
                    });
            }
            missed += usize::from(found != Some(true));
        }
        self.row
            .with(Column::JunkMessages, self.parameters.junk.0)
            .with(Column::StateBeforeBytes, before)
            .with(Column::StateMeanwhileBytesMax, most)
            .with_some(Column::ValuesMissedShare, share(missed as f64, used.keys.len()))
    }
}
