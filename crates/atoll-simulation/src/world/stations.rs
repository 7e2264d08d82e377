//! Where clients meet nodes: each operation runs as a task of the node that it is sent to.

use std::sync::{Arc, Mutex};

use atoll_runtime::Runtime;
use atoll_types::Instant;
use futures_util::{FutureExt, future::BoxFuture};
use rand::{Rng, rngs::StdRng};

use super::{Life, World};
use crate::{
    executor::lock,
    load::{Client, Load, Note, Operation, Outcome, Target},
};

/// What a machine's clients see of it.
#[derive(Default)]
pub(super) struct Station {
    /// The present life, once it has started.
    pub life: Mutex<Option<(Runtime, Arc<dyn Life>)>>,
    /// When the last operation was called that got an answer.
    pub answered: Mutex<Option<Instant>>,
}

/// One way between a client and its node, at most, in milliseconds.
const DELAY_MILLIS_MAX: u64 = 2;

/// From one client to one machine.
struct Line {
    station: Arc<Station>,
    /// The client's.
    runtime: Runtime,
    rng: Mutex<StdRng>,
}

impl Line {
    async fn delay(&self) {
        let micros = lock(&self.rng).random_range(0..=DELAY_MILLIS_MAX * 1000);
        self.runtime.sleep(std::time::Duration::from_micros(micros)).await;
    }
}

impl Target for Line {
    fn perform(self: Arc<Self>, operation: Operation) -> BoxFuture<'static, Outcome> {
        async move {
            let Some((runtime, life)) = lock(&self.station.life).clone() else {
                // Connection refused: it was not sent.
                return Outcome::NotDone;
            };
            let called_at = self.runtime.now();
            self.delay().await;
            let Some(outcome) = runtime.spawn("operation", life.perform(operation)).await else {
                return Outcome::Unknown;
            };
            self.delay().await;
            if let Outcome::Answered(_) = outcome {
                *lock(&self.station.answered) = Some(called_at);
            }
            outcome
        }
        .boxed()
    }
}

impl World {
    /// Adds clients of the nodes there are now; they go on until [`World::judge`].
    pub fn clients(&mut self, count: usize, load: Load) {
        self.kinds.extend(load.kinds());
        for _ in 0..count {
            let number = self.clients;
            self.clients += 1;
            let name = format!("client {number}");
            let client = Client::new(
                number,
                load.clone(),
                self.simulation.world_runtime(),
                self.seed().stream(&name),
                self.targets(&name),
                self.history.clone(),
                self.note(),
            );
            let go_on = self.clients_go_on.clone();
            self.simulation.world_runtime().spawn("client", client.run(go_on));
        }
    }

    /// The machines that there are, as somebody's targets.
    pub(super) fn targets(&self, whose: &str) -> Vec<Arc<dyn Target>> {
        let present = self.machines.iter().filter(|machine| !machine.gone).enumerate();
        present
            .map(|(index, machine)| {
                let rng = self.seed().stream(&format!("line of {whose} to {index}"));
                let (station, runtime) = (machine.station.clone(), self.simulation.world_runtime());
                Arc::new(Line { station, runtime, rng: Mutex::new(rng) }) as Arc<dyn Target>
            })
            .collect()
    }

    /// Answers go into the trace.
    pub(super) fn note(&self) -> Note {
        let tracer = self.simulation.tracer();
        Arc::new(move |what| tracer.note(what))
    }
}
