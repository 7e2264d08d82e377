//! `atoll lab`: experiments on overlays, in a simulator, from one seed; tables, JSON, a page.

mod real;

use std::{
    io::IsTerminal,
    path::PathBuf,
    time::{Duration, Instant},
};

use atoll_lab::{EXPERIMENTS, Experiment, PRESETS, ParameterError, Preset, Report, columns_of, page};
use atoll_node::{TableSizeError, TableSizes};
use atoll_runtime::Runtime;
use atoll_types::{OverlayKind, ParseOverlayKindError};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rand::Rng;
use serde::Serialize;

use crate::{
    failure::{Failure, Fault, Outcome},
    output::{Output, table, table_of},
};

/// Before that, nobody needs to be told that it takes time.
const PROGRESS_AFTER: Duration = Duration::from_millis(250);

/// In place of an experiment's name.
const EVERY: &str = "all";

#[derive(Debug, clap::Subcommand)]
pub enum LabCommand {
    List(List),
    Presets(Presets),
    Run(Run),
}

/// List the experiments, or one's parameters.
#[derive(Debug, clap::Args)]
pub struct List {
    /// An experiment, whose parameters are listed.
    name: Option<String>,
    #[command(flatten)]
    output: Output,
}

/// List known systems whose published parameters can be run by name.
#[derive(Debug, clap::Args)]
pub struct Presets {
    #[command(flatten)]
    output: Output,
}

/// Run an experiment on simulated networks, and show what it measured.
///
/// The nodes are the protocol code that runs over real connections. The same seed and
/// parameters give the same rows, to the byte.
#[derive(Debug, clap::Args)]
pub struct Run {
    /// An experiment's name, or "all"; `atoll lab list` names them.
    name: String,
    /// A known system's parameters; `atoll lab presets` names them. Other flags come on top.
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// The kinds of overlay. [default: every kind]
    #[arg(long, value_name = "KIND,…")]
    overlay: Option<String>,
    /// How many nodes; several for a row each.
    #[arg(long, value_name = "N,…")]
    nodes: Option<String>,
    /// What the run is made from. Drawn if not given, and always shown.
    #[arg(long)]
    seed: Option<u64>,
    /// Any parameter; may be repeated. `atoll lab list NAME` lists them.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_and_value)]
    set: Vec<(String, String)>,
    /// Also write everything as one HTML page with plots, which needs no network to view.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// For lookup: by nodes in processes of their own (--nodes, 16 if not given, up to 32), next
    /// to the same nodes simulated. Of parameters it knows lookups, networks (how often the nodes
    /// find each other anew) and chord_successors, kademlia_k, pastry_bits_per_digit and
    /// pastry_leaves_each, which are 1 if not given: with larger tables so few nodes all know
    /// each other.
    #[arg(long, conflicts_with_all = ["report", "preset"])]
    real: bool,
    #[command(flatten)]
    output: Output,
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    let (key, value) =
        text.split_once('=').ok_or("it is a parameter's name, =, and a value, such as lookups=500")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

#[derive(Serialize)]
struct ListedExperiment {
    name: &'static str,
    about: &'static str,
}

#[derive(Serialize)]
struct ListedPreset {
    name: &'static str,
    experiments: &'static [&'static str],
    about: &'static str,
}

#[derive(Serialize)]
struct ListedParameter {
    name: &'static str,
    default: String,
    meaning: String,
}

impl LabCommand {
    pub async fn run(self) -> Outcome {
        match self {
            LabCommand::List(list) => list.run(),
            LabCommand::Presets(presets) => presets.run(),
            LabCommand::Run(run) if run.real => run.run_real().await,
            // Off the threads of tokio's tasks: it computes for minutes.
            LabCommand::Run(run) => Runtime::tokio().blocking(move || run.run()).await,
        }
    }
}

fn named(name: &str) -> Result<&'static Experiment, Failure> {
    Experiment::named(name).ok_or_else(|| {
        let known: Vec<&str> = EXPERIMENTS.iter().map(|experiment| experiment.name).collect();
        Failure::new(Fault::Request, format!("there is no experiment {name}"))
            .hint(format!("atoll lab list shows them: {}, or {EVERY}", known.join(", ")))
    })
}

fn preset_named(name: &str) -> Result<&'static Preset, Failure> {
    Preset::named(name).ok_or_else(|| {
        let known: Vec<&str> = PRESETS.iter().map(|preset| preset.name).collect();
        Failure::new(Fault::Request, format!("there is no preset {name}"))
            .hint(format!("atoll lab presets shows them: {}", known.join(", ")))
    })
}

impl List {
    fn run(&self) -> Outcome {
        let Some(name) = &self.name else {
            let listed: Vec<ListedExperiment> = EXPERIMENTS
                .iter()
                .map(|experiment| ListedExperiment { name: experiment.name, about: experiment.about })
                .collect();
            self.output.show(&listed, |listed| {
                let rows = listed.iter().map(|one| [one.name.to_owned(), one.about.to_owned()]);
                println!("{}", table(["NAME", "MEASURES"], rows));
            });
            return Ok(());
        };
        let listed: Vec<ListedParameter> = named(name)?
            .parameters()
            .into_iter()
            .map(|described| ListedParameter {
                name: described.name,
                default: described.default.to_string(),
                meaning: described.meaning,
            })
            .collect();
        self.output.show(&listed, |listed| {
            let rows = listed
                .iter()
                .map(|parameter| [parameter.name, &parameter.default, &parameter.meaning].map(str::to_owned));
            println!("{}", table(["NAME", "DEFAULT", "MEANING"], rows));
        });
        Ok(())
    }
}

impl Presets {
    fn run(&self) -> Outcome {
        let listed: Vec<ListedPreset> = PRESETS
            .iter()
            .map(|preset| ListedPreset {
                name: preset.name,
                experiments: preset.experiments,
                about: preset.about,
            })
            .collect();
        self.output.show(&listed, |listed| {
            let rows = listed.iter().map(|preset| {
                [preset.name.to_owned(), preset.experiments.join(","), preset.about.to_owned()]
            });
            println!("{}", table(["NAME", "EXPERIMENTS", "ABOUT"], rows));
        });
        Ok(())
    }
}

impl Run {
    fn run(&self) -> Outcome {
        let every = self.name == EVERY;
        let mut experiments: Vec<&Experiment> =
            if every { EXPERIMENTS.iter().collect() } else { vec![named(&self.name)?] };
        let preset = self.preset.as_deref().map(preset_named).transpose()?;
        if let Some(preset) = preset {
            experiments.retain(|experiment| preset.experiments.contains(&experiment.name));
            if experiments.is_empty() {
                let message = format!("the preset {} says nothing about {}", preset.name, self.name);
                return Err(Failure::new(Fault::Request, message)
                    .hint(format!("it is for: {}", preset.experiments.join(", "))));
            }
        }
        let given = self.given();
        // Before the first runs for minutes.
        if every {
            for (name, _) in &given {
                let is_known = |experiment: &&Experiment| knows(experiment, name);
                if !experiments.iter().any(is_known) {
                    return Err(Failure::new(
                        Fault::Request,
                        format!("no experiment has a parameter {name}"),
                    )
                    .hint("atoll lab list NAME shows an experiment's parameters"));
                }
            }
        }
        let seed = self.seed();
        let mut reports = Vec::new();
        for experiment in experiments {
            let mut all = preset.and_then(|preset| preset.parameters_for(experiment)).unwrap_or_default();
            all.extend(given.iter().filter(|(name, _)| !every || knows(experiment, name)).cloned());
            reports.push(run_one(experiment, seed, &all)?);
        }
        if let Some(file) = &self.report {
            std::fs::write(file, page(&reports)).map_err(|error| {
                Failure::new(Fault::Configuration, format!("can't write {}", file.display()))
                    .caused_by(&error)
                    .hint("name a file in a folder that exists, with --report")
            })?;
            eprintln!("wrote {}", file.display());
        }
        match &reports[..] {
            [report] if !every => self.output.show(report, print),
            _ => self.output.show(&reports, |reports| reports.iter().for_each(print)),
        }
        Ok(())
    }

    async fn run_real(&self) -> Outcome {
        let wrong = |message: String| Failure::new(Fault::Request, message);
        if self.name != "lookup" {
            return Err(wrong(format!("{} runs on simulated networks only", self.name))
                .hint("atoll lab run lookup --real"));
        }
        let number = |name: &str, text: &str| {
            let number: Result<usize, _> = text.replace('_', "").parse();
            number.map_err(|_| wrong(format!("{name} is one whole number with --real, got {text:?}")))
        };
        let nodes = match &self.nodes {
            Some(text) => number("nodes", text)?,
            None => real::NODES_DEFAULT,
        };
        if !(2..=real::NODES_MAX).contains(&nodes) {
            return Err(wrong(format!("real nodes are 2 to {}", real::NODES_MAX)));
        }
        let (mut lookups, mut networks) = (real::LOOKUPS_DEFAULT, real::NETWORKS_DEFAULT);
        let mut sizes = real::SIZES_DEFAULT;
        for (name, value) in &self.set {
            match name.as_str() {
                "lookups" => lookups = number("lookups", value)?.max(1),
                "networks" => networks = number("networks", value)?.max(1),
                _ => sizes.set(name, value).map_err(|error| match error {
                    TableSizeError::Unknown { .. } => wrong(format!("--real knows no parameter {name}"))
                        .hint(format!("it knows lookups, networks, {}", TableSizes::NAMES.join(", "))),
                    TableSizeError::Invalid { .. } => wrong(error.to_string()),
                })?,
            }
        }
        let kinds = match &self.overlay {
            None => real::KINDS_DEFAULT.to_vec(),
            Some(text) => {
                let kinds = text.split(',').map(|name| {
                    let kind: OverlayKind = name
                        .trim()
                        .parse()
                        .map_err(|error: ParseOverlayKindError| wrong(error.to_string()))?;
                    match kind {
                        OverlayKind::Flood | OverlayKind::Walk => {
                            Err(wrong(format!("in {kind} keys are nobody's: nothing is looked up")))
                        }
                        _ => Ok(kind),
                    }
                });
                kinds.collect::<Result<_, Failure>>()?
            }
        };
        let seed = self.seed();
        let report = real::Real { seed, kinds, nodes, lookups, networks, sizes }.run().await?;
        self.output.show(&report, real::print);
        Ok(())
    }

    fn seed(&self) -> u64 {
        // 32 bits are enough to draw from, and short enough to type.
        let seed = self.seed.unwrap_or_else(|| Runtime::tokio().rng().random::<u32>().into());
        eprintln!("seed {seed}");
        seed
    }

    /// The flags that are parameters by another name come first, so that --set may add to them.
    fn given(&self) -> Vec<(String, String)> {
        let flags = [("overlays", &self.overlay), ("nodes", &self.nodes)];
        let flags = flags.into_iter().filter_map(|(name, text)| Some((name.to_owned(), text.clone()?)));
        flags.chain(self.set.iter().cloned()).collect()
    }
}

fn knows(experiment: &Experiment, name: &str) -> bool {
    experiment.parameters().iter().any(|described| described.name == name)
}

fn run_one(experiment: &Experiment, seed: u64, given: &[(String, String)]) -> Result<Report, Failure> {
    let bar = ProgressBar::with_draw_target(Some(1000), ProgressDrawTarget::hidden());
    bar.set_style(
        ProgressStyle::with_template("{msg} {wide_bar} {percent} %").expect("our own template is valid"),
    );
    bar.set_message(experiment.name);
    let began = Instant::now();
    let on_terminal = std::io::stderr().is_terminal();
    let report = experiment.run(seed, given, &mut |share| {
        if on_terminal && bar.is_hidden() && began.elapsed() >= PROGRESS_AFTER {
            bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        bar.set_position((share * 1000.0) as u64);
    });
    bar.finish_and_clear();
    report.map_err(|error| {
        let failure = Failure::from_error(Fault::Request, &error);
        match &error {
            ParameterError::Unknown { name, known, .. } => {
                let list = format!("atoll lab list {}", experiment.name);
                match nearest(name, known) {
                    Some(near) => failure.hint(format!("did you mean {near}? {list} shows all")),
                    None => failure.hint(format!("{list} shows all: {}", known.join(", "))),
                }
            }
            ParameterError::Invalid { .. } => failure.hint(format!("atoll lab list {}", experiment.name)),
        }
    })
}

/// A known name that the given one may have been meant to be: one contains the other.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    known.iter().copied().find(|known| !name.is_empty() && (known.contains(name) || name.contains(known)))
}

fn print(report: &Report) {
    println!("{}, seed {}", report.experiment, report.seed);
    let columns = columns_of(&report.rows);
    let header = columns.iter().map(|column| column.name().to_uppercase());
    let rows =
        report.rows.iter().map(|row| columns.iter().map(|column| row.shown(*column)).collect::<Vec<_>>());
    println!("{}\n", table_of(header.collect::<Vec<_>>(), rows));
    if !report.winners.is_empty() {
        let rows = report.winners.iter().map(|winner| {
            [&winner.condition, winner.column, &winner.overlay, &winner.shown()].map(str::to_owned)
        });
        println!("{}\n", table(["CONDITION", "BEST BY", "OVERLAY", "WITH"], rows));
    }
    if !report.verdicts.is_empty() {
        let rows = report
            .verdicts
            .iter()
            .map(|verdict| [verdict.claim, verdict.verdict.name(), &verdict.because].map(str::to_owned));
        println!("{}\n", table(["CLAIM", "VERDICT", "BECAUSE"], rows));
    }
}
