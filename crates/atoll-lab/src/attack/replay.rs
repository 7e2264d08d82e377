//! What others once said, sent again: by an attacker in its own name, as where names are proven, and
//! in the name of who said it first, as where they are not.
//!
//! What follows at once is counted: what whoever gets it sends, what they send who get that, and so
//! on. What timers send later is not.

use std::{collections::BTreeMap, time::Duration};

use super::{
    AttackParameters,
    tap::{Sent, Used},
};
use crate::{
    columns::{Column, Row},
    kinds::{ContentRecipe, ContentTask},
    parameters::words,
    world::SimulatedContact,
};

/// Between one message and the next: its consequences have ended, but for walkers'.
const REPLAY_EVERY: Duration = Duration::from_millis(500);
/// After the last one.
const ENDS_WITHIN: Duration = Duration::from_secs(60);

/// Whose name a message bears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sender {
    Proven,
    Forged,
}

words!(Sender { Proven "proven", Forged "forged" });

pub(super) struct Replay<'a> {
    pub(super) seed: u64,
    pub(super) parameters: &'a AttackParameters,
    pub(super) row: Row,
}

struct Replayed {
    kind: String,
    sender: Sender,
    /// In whose name.
    from: SimulatedContact,
    bytes: u64,
}

/// The most of something, and the kind of message that made it.
#[derive(Default)]
struct Most {
    times: f64,
    kind: Option<String>,
}

impl Most {
    fn see(&mut self, bytes: u64, of: &Replayed) {
        let times = bytes as f64 / of.bytes as f64;
        if times > self.times {
            *self = Most { times, kind: Some(of.kind.clone()) };
        }
    }
}

impl ContentTask for Replay<'_> {
    type Output = Vec<Row>;

    fn run<R: ContentRecipe>(self, recipe: &R) -> Vec<Row> {
        let mut used = Used::new(recipe, self.parameters.joined_nodes.0, self.seed);
        let mut replayed: Vec<Replayed> = Vec::new();
        used.take_sent();
        for (kind, samples) in used.heard() {
            for sample in samples.into_iter().take(self.parameters.samples.0) {
                let attacker = used.drawn();
                // To whom it was sent, who has to do with the matter; and to somebody who knows the attacker.
                let known = used.contact_of(attacker);
                let named = [
                    (Sender::Proven, attacker, Some(sample.to)),
                    (Sender::Proven, attacker, known),
                    (Sender::Forged, sample.from, Some(sample.to)),
                ];
                for (sender, from, to) in named {
                    let Some(to) = to.filter(|to| *to != from && used.world.is_living(*to)) else { continue };
                    if !used.world.is_living(from) {
                        continue;
                    }
                    let bytes = used.inject(replayed.len(), from, to, sample.message.clone());
                    replayed.push(Replayed { kind: kind.clone(), sender, from, bytes });
                    used.world.run(REPLAY_EVERY);
                }
            }
        }
        used.world.run(ENDS_WITHIN);
        let sent = used.take_sent();
        Sender::ALL.iter().map(|sender| row_of(self.row.clone(), *sender, &replayed, &sent)).collect()
    }
}

fn row_of(row: Row, sender: Sender, replayed: &[Replayed], sent: &[Sent]) -> Row {
    let mut answered = vec![0_u64; replayed.len()];
    let mut by_all = vec![0_u64; replayed.len()];
    let mut thirds = vec![BTreeMap::<SimulatedContact, u64>::new(); replayed.len()];
    for Sent { of, from, to, bytes } in sent {
        let attacker = replayed[*of].from;
        if *from == attacker {
            continue;
        }
        by_all[*of] += bytes;
        if *to == attacker {
            answered[*of] += bytes;
        } else {
            *thirds[*of].entry(*to).or_default() += bytes;
        }
    }
    let (mut answer, mut third, mut all) = (Most::default(), Most::default(), Most::default());
    let mut count = 0_usize;
    for (of, one) in replayed.iter().enumerate().filter(|(_, one)| one.sender == sender) {
        count += 1;
        answer.see(answered[of], one);
        all.see(by_all[of], one);
        third.see(thirds[of].values().copied().max().unwrap_or_default(), one);
    }
    row.with(Column::Sender, sender.name())
        .with(Column::SentAgain, count)
        .with(Column::AnswerTimesMax, answer.times)
        .with_some(Column::AnswerWorst, answer.kind.as_deref())
        .with(Column::ThirdTimesMax, third.times)
        .with_some(Column::ThirdWorst, third.kind.as_deref())
        .with(Column::AllTimesMax, all.times)
        .with_some(Column::AllWorst, all.kind.as_deref())
}
