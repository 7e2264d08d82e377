//! Weather: a random sequence of accidents and repairs.

use std::time::Duration;

use atoll_disk::DiskFaults;
use atoll_transport::memory::LinkProfile;
use rand::{Rng, rngs::StdRng, seq::IndexedRandom};

use super::{World, usual_disk};
use crate::{RunError, Stalls};

/// Which accidents may happen. Drawn anew for each seed, so that each kind also meets
/// the others' absence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Storm {
    /// A machine loses power, and what its disk had not flushed.
    pub crashes: bool,
    /// A process ends.
    pub kills: bool,
    /// All machines lose power at once.
    pub blackouts: bool,
    /// The machines fall into two groups that do not see each other.
    pub cuts: bool,
    pub one_way_cuts: bool,
    /// Two machines do not see each other, while others see both.
    pub pair_cuts: bool,
    /// A node stands still for up to ten seconds.
    pub pauses: bool,
    /// Wall clocks jump by up to an hour.
    pub clock_jumps: bool,
    /// Clocks, the monotonic ones too, run up to [`DRIFT_PPM_MAX`] too fast or too slow.
    pub clock_drift: bool,
    /// All links lose, repeat, reorder and delay.
    pub bad_links: bool,
    /// Single passages take up to five seconds.
    pub stalls: bool,
    /// All ways to and from a node take up to two seconds.
    pub slow_links: bool,
    /// The ways to and from a node carry between 64 KiB and 4 MiB a second.
    pub narrow_links: bool,
    /// Single operations of a disk take a second longer.
    pub slow_disks: bool,
    /// Single pieces of work off the async threads are up to half a second late.
    pub busy_nodes: bool,
    /// A disk has room for a last few kilobytes.
    pub full_disks: bool,
    /// One machine's disk lies, or its ordered store does.
    pub damage: Option<Damage>,
    /// Nodes stand still or lose power at named places in the code.
    pub fault_points: bool,
    /// The longest calm between two accidents or repairs.
    pub calm_max: Duration,
}

/// What goes wrong on the disk of one machine, mostly as chances per operation. The world must keep
/// it to one, for of three copies a majority must be true.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Damage {
    pub node: usize,
    pub read_error: f64,
    pub flipped_bit: f64,
    pub lost_write: f64,
    pub misplaced_write: f64,
    pub sync_error: f64,
    /// What the ordered store keeps is damaged, an entry at a time, and now and then its
    /// journal.
    pub store: bool,
}

/// One per cent: a hundred times what a bad crystal does, as when a time daemon slews.
pub(crate) const DRIFT_PPM_MAX: u32 = 10_000;

/// Long enough for an election now and then, short enough to interrupt one.
const CALM_USUAL: Duration = Duration::from_secs(6);

impl Storm {
    pub const NONE: Storm = Storm {
        crashes: false,
        kills: false,
        blackouts: false,
        cuts: false,
        one_way_cuts: false,
        pair_cuts: false,
        pauses: false,
        clock_jumps: false,
        clock_drift: false,
        bad_links: false,
        stalls: false,
        slow_links: false,
        narrow_links: false,
        slow_disks: false,
        busy_nodes: false,
        full_disks: false,
        damage: None,
        fault_points: false,
        calm_max: CALM_USUAL,
    };

    /// All that spares what was flushed.
    pub const ALL: Storm = Storm {
        crashes: true,
        kills: true,
        blackouts: true,
        cuts: true,
        one_way_cuts: true,
        pair_cuts: true,
        pauses: true,
        clock_jumps: true,
        clock_drift: true,
        bad_links: true,
        stalls: true,
        slow_links: true,
        narrow_links: true,
        slow_disks: true,
        busy_nodes: true,
        ..Storm::NONE
    };

    /// Each kind that spares what was flushed, and leaves room for more, with even odds.
    pub fn drawn(rng: &mut StdRng) -> Storm {
        let calm_max = Duration::from_secs(*[1, 6, 6, 20].choose(rng).expect("not empty"));
        let mut coin = || rng.random_bool(0.5);
        Storm {
            crashes: coin(),
            kills: coin(),
            blackouts: coin(),
            cuts: coin(),
            one_way_cuts: coin(),
            pair_cuts: coin(),
            pauses: coin(),
            clock_jumps: coin(),
            clock_drift: coin(),
            bad_links: coin(),
            stalls: coin(),
            slow_links: coin(),
            narrow_links: coin(),
            slow_disks: coin(),
            busy_nodes: coin(),
            calm_max,
            ..Storm::NONE
        }
    }

    /// Without what would break a bound on passages and on nodes' speeds.
    pub fn bounded(self) -> Storm {
        Storm {
            cuts: false,
            one_way_cuts: false,
            pair_cuts: false,
            pauses: false,
            bad_links: false,
            stalls: false,
            slow_links: false,
            narrow_links: false,
            fault_points: false,
            ..self
        }
    }

    /// What may happen, by name.
    pub fn names(&self) -> Vec<&'static str> {
        let kinds = [
            (self.crashes, "crashes"),
            (self.kills, "kills"),
            (self.blackouts, "blackouts"),
            (self.cuts, "cuts"),
            (self.one_way_cuts, "one-way cuts"),
            (self.pair_cuts, "pair cuts"),
            (self.pauses, "pauses"),
            (self.clock_jumps, "clock jumps"),
            (self.clock_drift, "clock drift"),
            (self.bad_links, "bad links"),
            (self.stalls, "stalls"),
            (self.slow_links, "slow links"),
            (self.narrow_links, "narrow links"),
            (self.slow_disks, "slow disks"),
            (self.busy_nodes, "busy nodes"),
            (self.full_disks, "full disks"),
            (self.damage.is_some(), "damage"),
            (self.damage.is_some_and(|damage| damage.store), "damaged store"),
            (self.fault_points, "fault points"),
        ];
        kinds.into_iter().filter(|(on, _)| *on).map(|(_, name)| name).collect()
    }

    fn accidents(&self) -> Vec<Accident> {
        let kinds = [
            (self.crashes, Accident::Crash),
            (self.kills, Accident::Kill),
            (self.blackouts, Accident::Blackout),
            (self.cuts, Accident::Cut),
            (self.one_way_cuts, Accident::OneWayCut),
            (self.pair_cuts, Accident::PairCut),
            (self.pauses, Accident::Pause),
            (self.clock_jumps, Accident::ClockJump),
            (self.clock_drift, Accident::ClockDrift),
            (self.slow_links, Accident::SlowLinks),
            (self.narrow_links, Accident::NarrowLinks),
            (self.full_disks, Accident::FullDisk),
            (self.damage.is_some_and(|damage| damage.store), Accident::DamagedStore),
        ];
        kinds.into_iter().filter(|(on, _)| *on).map(|(_, accident)| accident).collect()
    }
}

#[derive(Debug, Clone, Copy)]
enum Accident {
    Crash,
    Kill,
    Blackout,
    Cut,
    OneWayCut,
    PairCut,
    Pause,
    ClockJump,
    ClockDrift,
    SlowLinks,
    NarrowLinks,
    FullDisk,
    DamagedStore,
}

impl World {
    /// Accidents and repairs for this long, and then everything is mended.
    ///
    /// # Panics
    /// With the seed, if the run fails.
    pub fn storm(&mut self, storm: Storm, duration: Duration) {
        let result = self.weather(storm, duration);
        self.must(result);
    }

    /// As [`World::storm`], for who has something to say of a failure.
    pub fn weather(&mut self, storm: Storm, duration: Duration) -> Result<(), RunError> {
        let mut rng = self.seed().stream(&format!("storm {}", self.storms));
        self.storms += 1;
        let end = self.simulation.now() + duration;
        let accidents = storm.accidents();
        self.lay_links(storm.bad_links);
        if storm.stalls {
            self.network.set_stalls(Stalls { chance: 0.002, longest: Duration::from_secs(5) });
        }
        if let Some(damage) = storm.damage {
            self.lies(damage.node);
        }
        for index in 0..self.machines.len() {
            self.set_disk_faults(index, storm.disk(index));
        }
        let busy = Stalls { chance: 0.01, longest: Duration::from_millis(500) };
        self.all_busy(if storm.busy_nodes { busy } else { Stalls::NONE });
        self.fault_points.switch(storm.fault_points);
        while self.simulation.now() < end {
            let calm = rng.random_range(Duration::from_millis(50)..=storm.calm_max);
            self.go_on_for(calm.min(end.saturating_since(self.simulation.now())))?;
            match accidents.choose(&mut rng) {
                Some(&accident) if rng.random_bool(0.6) => self.befall(&storm, accident, &mut rng)?,
                _ => self.repair(&storm, &mut rng),
            }
        }
        self.fault_points.switch(false);
        self.all_busy(Stalls::NONE);
        self.network.set_stalls(Stalls::NONE);
        (0..self.machines.len()).for_each(|index| self.set_disk_faults(index, usual_disk()));
        self.lay_links(false);
        self.heal();
        Ok(())
    }

    fn all_busy(&mut self, busy: Stalls) {
        (0..self.machines.len()).for_each(|index| self.keep_busy(index, busy));
    }

    /// Every link as long as its places are apart, all of them in order or all of them bad.
    pub(super) fn lay_links(&self, bad: bool) {
        let links = self.network.links();
        links.unset_each();
        links.set_all(self.profile(0, 0, bad));
        for from in 0..self.machines.len() {
            for to in 0..self.machines.len() {
                if self.zone(from) != self.zone(to) {
                    links.set(Self::id(from), Self::id(to), self.profile(from, to, bad));
                }
            }
        }
    }

    fn profile(&self, from: usize, to: usize, bad: bool) -> LinkProfile {
        let sound = if self.zone(from) == self.zone(to) {
            LinkProfile::local_network()
        } else {
            LinkProfile::between_sites()
        };
        if !bad {
            return sound;
        }
        let worst = LinkProfile::hostile();
        let delay = *sound.delay.start()..=*sound.delay.end() + *worst.delay.end();
        LinkProfile { delay, tail: 0.1, ..worst }
    }

    /// All ways to and from a node have another profile.
    fn set_links_of(&self, index: usize, change: impl Fn(LinkProfile) -> LinkProfile, bad: bool) {
        let links = self.network.links();
        for other in (0..self.machines.len()).filter(|other| *other != index) {
            for (from, to) in [(index, other), (other, index)] {
                links.set(Self::id(from), Self::id(to), change(self.profile(from, to, bad)));
            }
        }
    }

    fn befall(&mut self, storm: &Storm, accident: Accident, rng: &mut StdRng) -> Result<(), RunError> {
        let victim = rng.random_range(0..self.machines.len());
        let other = rng.random_range(0..self.machines.len());
        let running = self.machines[victim].running;
        match accident {
            Accident::Crash if running => self.crash(victim),
            Accident::Kill if running => self.kill(victim),
            Accident::Crash | Accident::Kill => {}
            Accident::Blackout => {
                for index in 0..self.machines.len() {
                    if self.machines[index].running {
                        self.crash(index);
                    }
                }
            }
            Accident::Cut => {
                let side: Vec<bool> = self.machines.iter().map(|_| rng.random_bool(0.5)).collect();
                let on =
                    |which: bool| (0..side.len()).filter(|&index| side[index] == which).collect::<Vec<_>>();
                self.cut(on(true), on(false));
            }
            Accident::OneWayCut => self.cut_one_way(victim, other),
            Accident::PairCut => self.cut([victim], [other]),
            Accident::Pause => {
                self.pause(victim);
                let stall = rng.random_range(Duration::ZERO..=Duration::from_secs(10));
                self.go_on_for(stall)?;
                self.resume(victim);
            }
            Accident::ClockJump => {
                let by = rng.random_range(Duration::ZERO..=Duration::from_secs(3600));
                self.jump_clock(victim, by, rng.random_bool(0.5));
            }
            Accident::ClockDrift => {
                let most = i64::from(DRIFT_PPM_MAX);
                let ppm = rng.random_range(-most..=most);
                self.drift_clock(victim, ppm);
            }
            Accident::SlowLinks => {
                self.befell("network: slow links");
                let more = rng.random_range(Duration::from_millis(100)..=Duration::from_secs(2));
                let slower = |profile: LinkProfile| LinkProfile {
                    delay: *profile.delay.start() + more / 2..=*profile.delay.end() + more,
                    ..profile
                };
                self.set_links_of(victim, slower, storm.bad_links);
            }
            Accident::NarrowLinks => {
                self.befell("network: narrow links");
                let bandwidth = rng.random_range(64 << 10..=4 << 20);
                let narrower = |profile| LinkProfile { bandwidth: Some(bandwidth), ..profile };
                self.set_links_of(victim, narrower, storm.bad_links);
            }
            Accident::FullDisk => {
                self.befell("disk: full");
                let room = rng.random_range(0..=64 << 10);
                let capacity = Some(self.machines[victim].disk.used() + room);
                self.set_disk_faults(victim, DiskFaults { capacity, ..storm.disk(victim) });
            }
            Accident::DamagedStore => {
                if let Some(Damage { node, .. }) = storm.damage {
                    self.damage_store(node, rng.random_bool(0.1));
                }
            }
        }
        Ok(())
    }

    fn repair(&mut self, storm: &Storm, rng: &mut StdRng) {
        if rng.random_bool(0.5) {
            self.network.links().heal_all();
        }
        if rng.random_bool(0.5) {
            self.lay_links(storm.bad_links);
        }
        for index in 0..self.machines.len() {
            if rng.random_bool(0.5) {
                self.set_disk_faults(index, storm.disk(index));
            }
            if !self.machines[index].running && !self.machines[index].gone && rng.random_bool(0.7) {
                self.restart(index);
            }
        }
    }
}

impl Storm {
    /// What this storm does to a machine's disk all the time.
    fn disk(&self, index: usize) -> DiskFaults {
        let mut faults = usual_disk();
        if self.slow_disks {
            faults = DiskFaults { stall_chance: 0.01, stall: Duration::from_secs(1), ..faults };
        }
        match self.damage {
            Some(damage) if damage.node == index => DiskFaults {
                read_error: damage.read_error,
                flipped_bit: damage.flipped_bit,
                lost_write: damage.lost_write,
                misplaced_write: damage.misplaced_write,
                sync_error: damage.sync_error,
                ..faults
            },
            _ => faults,
        }
    }
}
