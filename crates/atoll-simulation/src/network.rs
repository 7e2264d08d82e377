//! The links between simulated nodes: the transport's in-memory network, its usual
//! links, and what they lack: passages that stall for seconds, and a trace of every
//! passage.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use atoll_transport::memory::{Fate, LinkPolicy, Links, MemoryNetwork, Transit, TransitKind};
use atoll_types::Instant;
use rand::{Rng, rngs::StdRng};

use crate::{
    Simulation,
    executor::{Tracer, lock},
};

/// Passages that take much longer than the others, as a full queue in a switch or a
/// stalled virtual machine makes them. Nothing else is as good at finding code that
/// believes in time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stalls {
    /// The chance of a passage to be stalled.
    pub chance: f64,
    /// Drawn evenly up to this.
    pub longest: Duration,
}

impl Stalls {
    pub const NONE: Stalls = Stalls { chance: 0.0, longest: Duration::ZERO };
}

/// A simulation's network. A clone is another handle on it.
#[derive(Clone)]
pub struct Network {
    memory: MemoryNetwork,
    weather: Arc<Weather>,
}

struct Weather {
    links: Arc<Links>,
    stalls: Mutex<Stalls>,
    tally: Mutex<BTreeMap<&'static str, u64>>,
    tracer: Tracer,
}

impl Network {
    /// Links of one room, to begin with.
    pub fn new(simulation: &Simulation) -> Self {
        let weather = Arc::new(Weather {
            links: Arc::default(),
            stalls: Mutex::new(Stalls::NONE),
            tally: Mutex::default(),
            tracer: simulation.tracer(),
        });
        let memory = MemoryNetwork::new(weather.clone(), simulation.seed().stream("network"));
        Self { memory, weather }
    }

    /// Where nodes get their endpoints.
    pub fn memory(&self) -> &MemoryNetwork {
        &self.memory
    }

    /// Delays, loss, duplicates, bandwidth and cuts, per link and direction.
    pub fn links(&self) -> &Links {
        &self.weather.links
    }

    pub fn set_stalls(&self, stalls: Stalls) {
        *lock(&self.weather.stalls) = stalls;
    }

    /// How many passages went wrong in which way.
    pub fn tally(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.weather.tally).clone()
    }
}

impl Weather {
    fn stalled(&self, rng: &mut StdRng) -> Duration {
        let stalls = *lock(&self.stalls);
        if stalls.chance > 0.0 && rng.random_bool(stalls.chance) {
            rng.random_range(Duration::ZERO..=stalls.longest)
        } else {
            Duration::ZERO
        }
    }
}

impl Weather {
    fn count(&self, what: &'static str) {
        *lock(&self.tally).entry(what).or_default() += 1;
    }
}

impl LinkPolicy for Weather {
    fn transit(&self, now: Instant, rng: &mut StdRng, transit: &Transit) -> Fate {
        let stalled = self.stalled(rng);
        if stalled > Duration::ZERO {
            self.count("network: passages stalled");
        }
        let fate = match self.links.transit(now, rng, transit) {
            Fate::Arrive { after } => Fate::Arrive { after: after + stalled },
            Fate::ArriveOutOfOrder { after } => Fate::ArriveOutOfOrder { after: after + stalled },
            Fate::ArriveTwice { after, again_after } => {
                Fate::ArriveTwice { after, again_after: again_after + stalled }
            }
            gone @ (Fate::Lose | Fate::Break) => gone,
        };
        match fate {
            Fate::Arrive { .. } => {}
            Fate::ArriveOutOfOrder { .. } => self.count("network: datagrams reordered"),
            Fate::ArriveTwice { .. } => self.count("network: datagrams repeated"),
            Fate::Lose => self.count("network: passages lost"),
            Fate::Break => self.count("network: connections broken"),
        }
        self.tracer.note(&record(transit, fate));
        fate
    }
}

/// A passage in the trace. The numbers are part of the hash.
fn record(transit: &Transit, fate: Fate) -> Vec<u8> {
    let kind: u8 = match transit.kind {
        TransitKind::Connect => 1,
        TransitKind::Request => 2,
        TransitKind::Reply => 3,
        TransitKind::Ping => 4,
        TransitKind::Datagram => 5,
    };
    let (what, first, second): (u8, Duration, Duration) = match fate {
        Fate::Arrive { after } => (1, after, Duration::ZERO),
        Fate::ArriveOutOfOrder { after } => (2, after, Duration::ZERO),
        Fate::ArriveTwice { after, again_after } => (3, after, again_after),
        Fate::Lose => (4, Duration::ZERO, Duration::ZERO),
        Fate::Break => (5, Duration::ZERO, Duration::ZERO),
    };
    let mut bytes = vec![kind, what];
    bytes.extend_from_slice(&transit.from.as_bytes()[..8]);
    bytes.extend_from_slice(&transit.to.as_bytes()[..8]);
    bytes.extend_from_slice(&(transit.bytes as u64).to_le_bytes());
    bytes.extend_from_slice(&(first.as_nanos() as u64).to_le_bytes());
    bytes.extend_from_slice(&(second.as_nanos() as u64).to_le_bytes());
    bytes
}
