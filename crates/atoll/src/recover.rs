//! `atoll recover`: go on without a majority that is gone for good.

use std::path::PathBuf;

use atoll_node::{
    Losses, RecoverError, examine,
    settings::{self, SettingsSource},
};
use serde::Serialize;

use crate::{
    failure::{Failure, Fault, Outcome},
    node::confirm,
    output::Output,
    up::settings_failure,
};

/// Go on with what survived, when a majority of the nodes is gone for good.
///
/// Run it offline, on one survivor that is stopped: it says what may be lost, and asks.
/// From the next start on this node decides alone, the keys of the nodes given up are
/// refused, and nodes that join get their copies as always. If a majority can be brought
/// back instead, do that: nothing is lost then.
#[derive(Debug, clap::Args)]
pub struct Recover {
    /// Another node that is still there, by its id or the beginning of it; may be repeated.
    /// It has to be started again once this one runs.
    #[arg(long = "survivor", value_name = "NODE")]
    survivors: Vec<String>,
    /// Only say what may be lost.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask.
    #[arg(long, conflicts_with = "dry_run")]
    yes: bool,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Told {
    #[serde(flatten)]
    losses: Losses,
    recovered: bool,
}

impl Recover {
    pub async fn run(self, data: Option<PathBuf>) -> Outcome {
        let flags = SettingsSource { data, ..SettingsSource::default() };
        let data = settings::load(flags, None).map_err(settings_failure)?.data;
        let examination = examine(&data, &self.survivors).await.map_err(failure)?;
        if examination.is_needless() {
            return Err(Failure::new(Fault::Request, "nothing is lost: every node is counted as there")
                .hint(format!("start this one: atoll up --data {}", data.display())));
        }
        let losses = examination.losses();
        let recovered = !self.dry_run && {
            eprint!("{}", told(&losses));
            self.yes || confirm("Go on without the nodes given up?")?
        };
        if recovered {
            examination.recover().await.map_err(failure)?;
        }
        self.output.show(&Told { losses, recovered }, |what| match (self.dry_run, recovered) {
            (true, _) => print!("{}", told(&what.losses)),
            (false, true) => println!(
                "recovered; start this node, then make tickets for new ones:\n\n  atoll up --data {}\n  atoll ticket create",
                data.display()
            ),
            (false, false) => println!("nothing was changed"),
        });
        Ok(())
    }
}

fn told(losses: &Losses) -> String {
    let list = |nodes: &[String]| {
        let short = |node: &String| format!("  {node}\n");
        nodes.iter().map(short).collect::<String>()
    };
    format!(
        "Goes on, as epoch {}:\n{}Is given up, and refused for good:\n{}\
         Shards   {} of {} may lack their newest writes, {} are lost with all they kept\n\
         Chunks   {:.1} % may lack acknowledged ones, {:.1} % are lost\n",
        losses.epoch,
        list(&losses.survivors),
        list(&losses.given_up),
        losses.shards_behind,
        losses.shards,
        losses.shards_lost,
        percent(losses.slots_behind, losses.slots),
        percent(losses.slots_lost, losses.slots),
    )
}

fn percent(part: usize, whole: usize) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}

fn failure(error: RecoverError) -> Failure {
    let failure = Failure::from_error(Fault::Configuration, &error);
    match error {
        RecoverError::Folder(_) => failure.hint("stop the node that uses this folder first"),
        RecoverError::NoMember => failure.hint("name the survivor's data folder with --data"),
        RecoverError::UnknownSurvivor { .. } | RecoverError::AmbiguousSurvivor { .. } => {
            failure.hint("atoll recover --dry-run lists the nodes' ids")
        }
        _ => failure,
    }
}
