//! `atoll audit`: the trail of what administrators did and of what was denied, and whether
//! it is whole.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{BufRead, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
};

use atoll_access::audit::{LinkedBatch, Verified, Verifier, WitnessStatement};
use atoll_gateway::admin::api::{AuditLink, AuditPage, AuditWitness, AuditWitnesses};
use serde::{Deserialize, Serialize};

use crate::{
    client::AdminClient,
    failure::{Failure, Fault, Outcome},
    output::{Output, table},
};

#[derive(Debug, clap::Subcommand)]
pub enum AuditCommand {
    /// The newest entries: who, what, from where, decided by which rule.
    List {
        /// Of how many batches, at most.
        #[arg(long, default_value_t = 100, value_name = "BATCHES")]
        last: u64,
        /// Only what was denied.
        #[arg(long)]
        denied: bool,
        #[command(flatten)]
        output: Output,
    },
    /// The whole trail and what its witnesses say, a JSON value a line.
    Export {
        /// Where to. [default: standard output]
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
    /// Find any entry that was altered, dropped or moved, a trail that was written anew, or
    /// one whose tail was cut off.
    ///
    /// All is checked here, against the nodes' own keys; neither the node that is asked nor
    /// the file is believed. Without FILE the cluster's trail is verified.
    ///
    /// Ends with 0 if the trail is whole and every member was heard as a witness, with 5 if it is
    /// whole as far as can be seen but a witness was not heard, without whom a trail that was cut
    /// off or written anew may not show, and with 1 if it is broken.
    Verify {
        /// What `atoll audit export` wrote. Needs no node.
        #[arg(value_name = "FILE")]
        export: Option<PathBuf>,
        /// What `atoll audit witness` wrote, on a machine that you trust. May be repeated.
        #[arg(long, value_name = "FILE")]
        witness: Vec<PathBuf>,
        #[command(flatten)]
        output: Output,
    },
    /// What the node that answers has seen of the trail, signed by it: keep it elsewhere, for
    /// `atoll audit verify --witness`.
    Witness,
}

/// A line of an export.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Export(Header),
    Witness(AuditWitness),
    Link(AuditLink),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: String,
    version: u32,
}

const FORMAT: &str = "atoll audit trail";
const VERSION: u32 = 1;

impl AuditCommand {
    pub async fn run(self, client: &AdminClient) -> Outcome {
        match self {
            AuditCommand::List { last, denied, output } => list(client, last, denied, output).await,
            AuditCommand::Export { to } => match to {
                Some(path) => {
                    let file = File::create(&path).map_err(|error| unwritable(&path, &error))?;
                    export(client, BufWriter::new(file)).await
                }
                None => export(client, std::io::stdout().lock()).await,
            },
            AuditCommand::Verify { export, witness, output } => {
                let mut kept = Vec::new();
                for path in &witness {
                    kept.push(read_witness(path)?);
                }
                let found = match export {
                    Some(path) => verify_export(&path, kept)?,
                    None => verify_cluster(client, kept).await?,
                };
                show(&found, output)
            }
            AuditCommand::Witness => {
                let witness: AuditWitness = client.get("/v1/audit/witness").await?;
                println!("{}", serde_json::to_string(&witness).expect("our own types are JSON"));
                Ok(())
            }
        }
    }
}

async fn page(client: &AdminClient, after: u64) -> Result<AuditPage, Failure> {
    client.get(&format!("/v1/audit?after={after}")).await
}

async fn list(client: &AdminClient, last: u64, denied: bool, output: Output) -> Outcome {
    let end = page(client, u64::MAX).await?.end;
    let mut links = Vec::new();
    let mut after = end.saturating_sub(last);
    while after < end {
        let page = page(client, after).await?;
        let Some(newest) = page.links.last() else { break };
        after = newest.index;
        links.extend(page.links);
    }
    if denied {
        for link in &mut links {
            link.entries.retain(|entry| !entry.allowed);
        }
        links.retain(|link| !link.entries.is_empty() || link.missed > 0);
    }
    output.show(&links, |links| {
        let rows = links.iter().flat_map(|link| {
            let node = link.node[..10.min(link.node.len())].to_owned();
            let missed = (link.missed > 0).then(|| {
                let what = format!("{} denied requests more", link.missed);
                [
                    String::new(),
                    String::new(),
                    what,
                    String::new(),
                    String::new(),
                    "no".into(),
                    String::new(),
                    node.clone(),
                ]
            });
            let entries = link.entries.iter().map(move |entry| {
                [
                    atoll_access::iso_time(atoll_types::WallTime::from_millis(entry.at_millis)),
                    entry.who.clone(),
                    entry.what.clone(),
                    entry.on.clone(),
                    entry.from.clone(),
                    if entry.allowed { "yes" } else { "no" }.to_owned(),
                    entry.rule.clone(),
                    node.clone(),
                ]
            });
            entries.chain(missed)
        });
        println!("{}", table(["TIME", "WHO", "WHAT", "ON", "FROM", "ALLOWED", "RULE", "NODE"], rows));
    });
    Ok(())
}

/// Witnesses first: what they saw is then in the links that follow.
async fn export(client: &AdminClient, mut to: impl Write) -> Outcome {
    let mut line = |line: &Line| {
        let text = serde_json::to_string(line).expect("our own types are JSON");
        writeln!(to, "{text}").map_err(|error| unwritable(Path::new("the export"), &error))
    };
    line(&Line::Export(Header { format: FORMAT.into(), version: VERSION }))?;
    let asked: AuditWitnesses = client.get("/v1/audit/witnesses").await?;
    for node in &asked.silent {
        eprintln!("node {node} could not be asked what it has seen");
    }
    for witness in asked.witnesses {
        line(&Line::Witness(witness))?;
    }
    let mut after = 0;
    loop {
        let page = page(client, after).await?;
        let Some(newest) = page.links.last() else { break };
        after = newest.index;
        for link in page.links {
            line(&Line::Link(link))?;
        }
    }
    to.flush().map_err(|error| unwritable(Path::new("the export"), &error))
}

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Fault::Configuration, format!("{} can't be written", path.display())).caused_by(error)
}

fn unreadable(path: &Path, error: &dyn std::error::Error) -> Failure {
    Failure::new(Fault::Configuration, format!("{} can't be read", path.display())).caused_by(error)
}

fn read_witness(path: &Path) -> Result<WitnessStatement, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
    let witness: AuditWitness = serde_json::from_str(&text).map_err(|error| unreadable(path, &error))?;
    WitnessStatement::try_from(&witness).map_err(|error| unreadable(path, &error))
}

/// The trail is not what was written: the one thing that `verify` is there to say.
fn broken(error: &dyn std::error::Error) -> Failure {
    Failure::new(Fault::Request, "the audit trail is broken").caused_by(error)
}

/// A whole trail, and who might say otherwise.
#[derive(Default)]
struct Found {
    verified: Verified,
    /// Members that could not be asked.
    silent: BTreeSet<String>,
    /// As the trail names them, which may be the beginning of an id.
    removed: BTreeSet<String>,
}

/// What the trail says of the removal of nodes.
const REMOVE_NODE: &str = "admin:POST /v1/nodes/{node}/remove";

impl Found {
    fn note_removals(&mut self, linked: &LinkedBatch) {
        let removals =
            linked.signed.batch.entries.iter().filter(|entry| entry.allowed && entry.what == REMOVE_NODE);
        self.removed.extend(removals.filter_map(|entry| Some(entry.on.split_once('/')?.0.to_owned())));
    }

    /// Who signed a part of the trail, was not removed, and has not said what it has seen; and who
    /// could not be asked.
    fn unheard(&self) -> BTreeSet<String> {
        let is_removed = |node: &String| {
            self.removed.iter().any(|beginning| !beginning.is_empty() && node.starts_with(beginning))
        };
        let signers = self.verified.nodes.keys().map(ToString::to_string).filter(|node| !is_removed(node));
        let heard: BTreeSet<String> = self.verified.witnesses.keys().map(ToString::to_string).collect();
        signers.chain(self.silent.iter().cloned()).filter(|node| !heard.contains(node)).collect()
    }
}

fn verify_export(path: &Path, mut witnesses: Vec<WitnessStatement>) -> Result<Found, Failure> {
    let malformed = |number: usize, error: &dyn std::error::Error| {
        broken(error).hint(format!("line {} of {}", number + 1, path.display()))
    };
    let file = File::open(path).map_err(|error| unreadable(path, &error))?;
    let mut verifier: Option<Verifier> = None;
    let mut found = Found::default();
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(|error| unreadable(path, &error))?;
        let line: Line = serde_json::from_str(&line).map_err(|error| malformed(number, &error))?;
        match (number, line) {
            (0, Line::Export(header)) if header.format == FORMAT && header.version == VERSION => {}
            (0, _) => {
                let message = format!("{} is not an export of an audit trail", path.display());
                return Err(Failure::new(Fault::Configuration, message));
            }
            (_, Line::Witness(witness)) if verifier.is_none() => {
                let statement = WitnessStatement::try_from(&witness);
                witnesses.push(statement.map_err(|error| malformed(number, &error))?);
            }
            (_, Line::Link(link)) => {
                let linked = LinkedBatch::try_from(&link).map_err(|error| malformed(number, &error))?;
                let verifier = match &mut verifier {
                    Some(verifier) => verifier,
                    None => {
                        verifier.insert(Verifier::new(&witnesses).map_err(|error| malformed(number, &error))?)
                    }
                };
                verifier.take(&linked).map_err(|error| malformed(number, &error))?;
                found.note_removals(&linked);
            }
            (number, Line::Export(_) | Line::Witness(_)) => {
                let message = format!("line {} of {} is out of place", number + 1, path.display());
                return Err(Failure::new(Fault::Request, message));
            }
        }
    }
    let verifier = match verifier {
        Some(verifier) => verifier,
        None => Verifier::new(&witnesses).map_err(|error| broken(&error))?,
    };
    found.verified = verifier.finish().map_err(|error| broken(&error))?;
    Ok(found)
}

async fn verify_cluster(
    client: &AdminClient,
    mut witnesses: Vec<WitnessStatement>,
) -> Result<Found, Failure> {
    // Before the trail: what they saw is then in it.
    let asked: AuditWitnesses = client.get("/v1/audit/witnesses").await?;
    let mut found = Found { silent: asked.silent.into_iter().collect(), ..Found::default() };
    for witness in &asked.witnesses {
        witnesses.push(WitnessStatement::try_from(witness).map_err(|error| broken(&error))?);
    }
    let mut verifier = Verifier::new(&witnesses).map_err(|error| broken(&error))?;
    let mut after = 0;
    loop {
        let page = page(client, after).await?;
        let Some(newest) = page.links.last() else { break };
        after = newest.index;
        for link in &page.links {
            let linked = LinkedBatch::try_from(link).map_err(|error| broken(&error))?;
            verifier.take(&linked).map_err(|error| broken(&error))?;
            found.note_removals(&linked);
        }
    }
    found.verified = verifier.finish().map_err(|error| broken(&error))?;
    Ok(found)
}

/// What `verify` says of a whole trail.
#[derive(Serialize)]
struct Report {
    links: u64,
    entries: u64,
    missed: u64,
    head: String,
    signers: Vec<Signer>,
    witnesses: Vec<Seen>,
    /// Members that are witnesses, and were not heard.
    unheard: Vec<String>,
}

#[derive(Serialize)]
struct Signer {
    node: String,
    batches: u64,
}

#[derive(Serialize)]
struct Seen {
    node: String,
    links: u64,
}

fn show(found: &Found, output: Output) -> Outcome {
    let verified = &found.verified;
    let report = Report {
        links: verified.head.index,
        entries: verified.entries,
        missed: verified.missed,
        head: verified.head.hash.to_string(),
        signers: verified
            .nodes
            .iter()
            .map(|(node, head)| Signer { node: node.to_string(), batches: head.index })
            .collect(),
        witnesses: verified
            .witnesses
            .iter()
            .map(|(node, links)| Seen { node: node.to_string(), links: *links })
            .collect(),
        unheard: found.unheard().into_iter().collect(),
    };
    output.show(&report, |report| {
        println!("the trail is whole: {} links, {} entries", report.links, report.entries);
        if report.missed > 0 {
            println!("{} denied requests found no room in it", report.missed);
        }
        for signer in &report.signers {
            println!("  node {} signed {} batches", signer.node, signer.batches);
        }
        for seen in &report.witnesses {
            println!("  node {} has seen {} links of it", seen.node, seen.links);
        }
        for node in &report.unheard {
            println!("  node {node} was not heard as a witness");
        }
    });
    let what = match (report.witnesses.is_empty(), report.unheard.len()) {
        (false, 0) => return Ok(()),
        (true, _) => "no witness was heard".to_owned(),
        (false, unheard) => {
            format!("{} of {} witnesses were not heard", unheard, report.witnesses.len() + unheard)
        }
    };
    let message = format!("{what}: a trail that was cut off or written anew may not show");
    Err(Failure::new(Fault::Incomplete, message).hint(
        "run `atoll audit witness` at each node that is up, and name the files with --witness; try again when \
         the others are",
    ))
}
