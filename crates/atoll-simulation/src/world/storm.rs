//! Weather: a random sequence of accidents and repairs.

use std::time::Duration;

use atoll_disk::DiskFaults;
use atoll_transport::memory::LinkProfile;
use rand::{Rng, rngs::StdRng, seq::IndexedRandom};

use super::{World, usual_disk};
use crate::{RunError, Stalls};

/// Which accidents may happen. Drawn anew for each seed, so that each kind also meets
/// the others' absence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Storm {
    /// A machine loses power, and what its disk had not flushed.
    pub crashes: bool,
    /// A process ends.
    pub kills: bool,
    /// All machines lose power at once.
    pub blackouts: bool,
    pub cuts: bool,
    pub one_way_cuts: bool,
    /// A node stands still for up to ten seconds.
    pub pauses: bool,
    /// Wall clocks jump by up to an hour.
    pub clock_jumps: bool,
    /// All links lose, repeat, reorder and delay.
    pub bad_links: bool,
    /// Single passages take up to five seconds.
    pub stalls: bool,
    /// Single operations of a disk take a second longer.
    pub slow_disks: bool,
}

impl Storm {
    pub const NONE: Storm = Storm {
        crashes: false,
        kills: false,
        blackouts: false,
        cuts: false,
        one_way_cuts: false,
        pauses: false,
        clock_jumps: false,
        bad_links: false,
        stalls: false,
        slow_disks: false,
    };

    pub const ALL: Storm = Storm {
        crashes: true,
        kills: true,
        blackouts: true,
        cuts: true,
        one_way_cuts: true,
        pauses: true,
        clock_jumps: true,
        bad_links: true,
        stalls: true,
        slow_disks: true,
    };

    /// Each kind with even odds.
    pub fn drawn(rng: &mut StdRng) -> Storm {
        let mut coin = || rng.random_bool(0.5);
        Storm {
            crashes: coin(),
            kills: coin(),
            blackouts: coin(),
            cuts: coin(),
            one_way_cuts: coin(),
            pauses: coin(),
            clock_jumps: coin(),
            bad_links: coin(),
            stalls: coin(),
            slow_disks: coin(),
        }
    }

    fn accidents(self) -> Vec<Accident> {
        let kinds = [
            (self.crashes, Accident::Crash),
            (self.kills, Accident::Kill),
            (self.blackouts, Accident::Blackout),
            (self.cuts, Accident::Cut),
            (self.one_way_cuts, Accident::OneWayCut),
            (self.pauses, Accident::Pause),
            (self.clock_jumps, Accident::ClockJump),
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
    Pause,
    ClockJump,
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
        let profile = if storm.bad_links { LinkProfile::hostile() } else { LinkProfile::local_network() };
        self.network.links().set_all(profile);
        if storm.stalls {
            self.network.set_stalls(Stalls { chance: 0.002, longest: Duration::from_secs(5) });
        }
        if storm.slow_disks {
            let slow = DiskFaults { stall_chance: 0.01, stall: Duration::from_secs(1), ..usual_disk() };
            (0..self.machines.len()).for_each(|index| self.set_disk_faults(index, slow.clone()));
        }
        while self.simulation.now() < end {
            // Long enough for an election now and then, short enough to interrupt one.
            let calm = rng.random_range(Duration::from_millis(50)..=Duration::from_secs(6));
            self.go_on_for(calm)?;
            match accidents.choose(&mut rng) {
                Some(&accident) if rng.random_bool(0.6) => self.befall(accident, &mut rng)?,
                _ => self.repair(&mut rng),
            }
        }
        self.network.set_stalls(Stalls::NONE);
        (0..self.machines.len()).for_each(|index| self.set_disk_faults(index, usual_disk()));
        self.network.links().set_all(LinkProfile::local_network());
        self.heal();
        Ok(())
    }

    fn befall(&mut self, accident: Accident, rng: &mut StdRng) -> Result<(), RunError> {
        let victim = rng.random_range(0..self.machines.len());
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
            Accident::OneWayCut => {
                let other = rng.random_range(0..self.machines.len());
                self.cut_one_way(victim, other);
            }
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
        }
        Ok(())
    }

    fn repair(&mut self, rng: &mut StdRng) {
        if rng.random_bool(0.5) {
            self.network.links().heal_all();
        }
        for index in 0..self.machines.len() {
            if !self.machines[index].running && rng.random_bool(0.7) {
                self.restart(index);
            }
        }
    }
}
