//! `atoll simulate`: a whole cluster in this process, on virtual time, with everything
//! breaking, from one seed; and the verdict.

use std::{
    collections::BTreeMap,
    process::ExitCode,
    time::{Duration, Instant},
};

use atoll_runtime::Runtime;
use atoll_simulation::{Report, RunOptions, Seed, run};
use rand::Rng;
use serde::Serialize;

use crate::{
    failure::{Failure, Fault, Outcome},
    logs,
    output::{Output, table},
    verify::minutes,
};

/// Run a simulated cluster through storms of faults, and check what its clients saw.
///
/// The nodes are the same code that `atoll up` runs, on virtual time, over a network and
/// disks that fail on purpose. The same seed is the same run, to the byte.
/// ATOLL_LOG=info shows what the nodes log, with virtual times.
#[derive(Debug, clap::Args)]
pub struct Simulate {
    /// What the run is made from; drawn if not given, and always printed.
    #[arg(long)]
    seed: Option<Seed>,
    /// Virtual time under load and faults.
    #[arg(long, default_value = "10", value_parser = minutes, value_name = "MINUTES")]
    minutes: Duration,
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=RunOptions::NODES_MAX as i64))]
    nodes: u32,
    /// Without faults, and with small objects only: measures the simulation itself.
    #[arg(long)]
    calm: bool,
    /// Run seed after seed for so many hours of real time, up to the first that fails.
    #[arg(long, value_name = "HOURS", value_parser = hours)]
    soak: Option<Duration>,
    #[command(flatten)]
    output: Output,
}

/// What `-o json` prints of a run.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    report: &'a Report,
    real_seconds: f64,
}

fn hours(text: &str) -> Result<Duration, String> {
    let hours: f64 = text.parse().map_err(|_| "it is a number of hours, such as 8 or 0.5".to_owned())?;
    // A year: longer is a slip of the finger.
    if hours > 0.0 && hours <= 8766.0 {
        Ok(Duration::from_secs_f64(hours * 3600.0))
    } else {
        Err("it is more than 0 and at most 8766".into())
    }
}

impl Simulate {
    /// Off the threads of tokio's tasks, which would yield now and then by themselves.
    pub async fn run(self) -> ExitCode {
        logs::start_replay();
        let runtime = Runtime::tokio();
        let seed = self.seed.unwrap_or_else(|| Seed(runtime.rng().random()));
        match runtime.blocking(move || self.run_from(seed)).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => failure.print(),
        }
    }

    fn run_from(&self, mut seed: Seed) -> Outcome {
        let started = Instant::now();
        loop {
            self.run_one(seed)?;
            if self.soak.is_none_or(|soak| started.elapsed() >= soak) {
                return Ok(());
            }
            seed = Seed(seed.0.wrapping_add(1));
        }
    }

    fn run_one(&self, seed: Seed) -> Outcome {
        let duration = self.minutes;
        let nodes = self.nodes as usize;
        let options = RunOptions { duration, nodes, calm: self.calm, ..RunOptions::new(seed) };
        // Before it runs, lest a seed that never ends stay unknown.
        eprintln!("seed {seed}");
        let started = Instant::now();
        let report = run(&options);
        let shown = Shown { report: &report, real_seconds: started.elapsed().as_secs_f64() };
        self.output.show(&shown, Shown::print);
        match report.failure() {
            None => Ok(()),
            Some(check) => {
                let replay = format!(
                    "ATOLL_LOG=info atoll simulate --seed {seed} --minutes {} --nodes {}{}",
                    report.minutes,
                    self.nodes,
                    if self.calm { " --calm" } else { "" }
                );
                let message = format!("seed {seed} failed: {}", check.name);
                Err(Failure::new(Fault::Internal, message).hint(format!("replay it with logs: {replay}")))
            }
        }
    }
}

impl Shown<'_> {
    fn print(&self) {
        let report = self.report;
        println!(
            "{} nodes in {} zones, {}, with: {}",
            report.nodes,
            report.zones,
            report.synchrony,
            if report.swarm.is_empty() { "no faults".to_owned() } else { report.swarm.join(", ") },
        );
        println!(
            "{:.0} s of virtual time in {:.1} s ({:.0} times real time), {} storms",
            report.virtual_seconds,
            self.real_seconds,
            report.virtual_seconds / self.real_seconds,
            report.storms,
        );
        println!(
            "{} operations ({:.0} per second of real time)\n",
            report.operations,
            report.operations as f64 / self.real_seconds
        );
        let counted = |counts: &BTreeMap<&'static str, u64>| {
            counts.iter().map(|(what, count)| [(*what).to_owned(), count.to_string()]).collect::<Vec<_>>()
        };
        let outcomes = report.outcomes.iter().map(|(kind, outcomes)| {
            let counts = [outcomes.answered, outcomes.unknown, outcomes.not_done];
            let [answered, unknown, not_done] = counts.map(|count| count.to_string());
            [(*kind).to_owned(), answered, unknown, not_done]
        });
        println!("{}\n", table(["OPERATION", "ANSWERED", "UNKNOWN", "NOT DONE"], outcomes));
        if !report.faults.is_empty() {
            println!("{}\n", table(["FAULT", "TIMES"], counted(&report.faults)));
        }
        let checks = report.checks.iter().map(|check| {
            let holds = if check.failure.is_none() { "holds" } else { "FAILED" };
            [check.name.to_owned(), holds.to_owned()]
        });
        println!("{}\n", table(["CHECK", "RESULT"], checks));
        if let Some(failure) = report.failure().and_then(|check| check.failure.as_ref()) {
            println!("{failure}\n");
        }
        println!("trace {}", report.trace);
    }
}
