//! `atoll overlay`

use std::{
    io::{Read, Write},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use atoll_gateway::admin::api::{
    OverlayHits, OverlayProvideRequest, OverlayProviders, OverlayPutRequest, OverlayStopped, OverlayStored,
    OverlayTrace, OverlayValue, OverlayValues, OverlayView,
};
use data_encoding::BASE64;

use crate::{
    client::{AdminClient, query},
    failure::{Failure, Fault, Outcome},
    output::{Output, table},
};

#[derive(Debug, clap::Subcommand)]
pub enum OverlayCommand {
    /// Whom this node knows: fingers, successors, buckets, as its kind has them.
    Show {
        #[command(flatten)]
        output: Output,
    },
    /// Walk a lookup hop by hop.
    Trace {
        key: String,
        #[command(flatten)]
        output: Output,
    },
    /// Store a small value at the nodes responsible for its key, signed by this node.
    Put {
        key: String,
        /// The value, at most 4 KiB; `-` reads it from standard input.
        value: String,
        /// How long it is kept, a day at most.
        #[arg(long = "for", default_value = "1h", value_parser = humantime::parse_duration)]
        lifetime: Duration,
        #[command(flatten)]
        output: Output,
    },
    /// Print the newest value under a key; with `-o json` those of all authors.
    Get {
        key: String,
        #[command(flatten)]
        output: Output,
    },
    /// Let others find out that this node has something, by its name and the name's words.
    Provide {
        name: String,
        /// No longer; what others know of it expires within the hour.
        #[arg(long)]
        stop: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Which nodes have something.
    Providers {
        name: String,
        #[command(flatten)]
        output: Output,
    },
    /// Find what is provided under a name with all these words.
    Find {
        #[arg(required = true)]
        words: Vec<String>,
        #[command(flatten)]
        output: Output,
    },
}

impl OverlayCommand {
    pub async fn run(self, client: &AdminClient) -> Outcome {
        match self {
            OverlayCommand::Show { output } => {
                let view: OverlayView = client.get("/v1/overlay").await?;
                output.show(&view, print_view);
            }
            OverlayCommand::Trace { key, output } => {
                let trace: OverlayTrace = client.get(&query("/v1/overlay/trace", &[("key", &key)])).await?;
                output.show(&trace, print_trace);
            }
            OverlayCommand::Put { key, value, lifetime, output } => {
                let (value, value_base64) = match String::from_utf8(value_argument(value)?) {
                    Ok(text) => (Some(text), None),
                    Err(error) => (None, Some(BASE64.encode(error.as_bytes()))),
                };
                let for_seconds = lifetime.as_secs();
                let request = OverlayPutRequest { key, value, value_base64, for_seconds };
                let stored: OverlayStored = client.post("/v1/overlay/values", &request).await?;
                output.show(&stored, print_stored);
            }
            OverlayCommand::Get { key, output } => {
                let values: OverlayValues =
                    client.get(&query("/v1/overlay/values", &[("key", &key)])).await?;
                output.show(&values, |values| values.values.first().into_iter().for_each(print_value));
            }
            OverlayCommand::Provide { name, stop: false, output } => {
                let request = OverlayProvideRequest { name };
                let stored: OverlayStored = client.post("/v1/overlay/providers", &request).await?;
                output.show(&stored, print_stored);
            }
            OverlayCommand::Provide { name, stop: true, output } => {
                let request = OverlayProvideRequest { name };
                let stopped: OverlayStopped = client.post("/v1/overlay/providers/stop", &request).await?;
                output.show(&stopped, |stopped| {
                    eprintln!("{}", if stopped.was_provided { "stopped" } else { "was not provided" });
                });
            }
            OverlayCommand::Providers { name, output } => {
                let path = query("/v1/overlay/providers", &[("key", &name)]);
                let providers: OverlayProviders = client.get(&path).await?;
                output.show(&providers, |providers| {
                    let rows = providers.providers.iter();
                    let rows = rows.map(|provider| [short(&provider.node), left(provider.expires_millis)]);
                    println!("{}", table(["NODE", "EXPIRES"], rows));
                });
            }
            OverlayCommand::Find { words, output } => {
                let path = query("/v1/overlay/search", &[("words", &words.join(" "))]);
                let hits: OverlayHits = client.get(&path).await?;
                output.show(&hits, |hits| {
                    let rows = hits
                        .hits
                        .iter()
                        .map(|hit| [hit.name.clone(), short(&hit.provider), left(hit.expires_millis)]);
                    println!("{}", table(["NAME", "PROVIDER", "EXPIRES"], rows));
                });
            }
        }
        Ok(())
    }
}

fn value_argument(value: String) -> Result<Vec<u8>, Failure> {
    if value != "-" {
        return Ok(value.into_bytes());
    }
    let mut bytes = Vec::new();
    std::io::stdin()
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::new(Fault::Request, "can't read the value").caused_by(&error))?;
    Ok(bytes)
}

fn print_stored(stored: &OverlayStored) {
    let by: Vec<String> = stored.kept_by.iter().map(|node| short(node)).collect();
    eprintln!("{:?} belongs at {}; kept by {}", stored.key, short(&stored.identifier), by.join(", "));
}

fn print_value(value: &OverlayValue) {
    let mut bytes = match (&value.value, &value.value_base64) {
        (Some(text), _) => text.clone().into_bytes(),
        (None, Some(base64)) => BASE64.decode(base64.as_bytes()).unwrap_or_default(),
        (None, None) => Vec::new(),
    };
    bytes.push(b'\n');
    // A reader that went away needs no answer.
    let _ = std::io::stdout().write_all(&bytes);
    eprintln!("signed by node {}, expires {}", short(&value.author), left(value.expires_millis));
}

/// The time left, by this machine's clock.
fn left(expires_millis: u64) -> String {
    let expires = UNIX_EPOCH + Duration::from_millis(expires_millis);
    match expires.duration_since(SystemTime::now()) {
        Ok(left) => format!("in {}", humantime::format_duration(Duration::from_secs(left.as_secs()))),
        Err(_) => "now".into(),
    }
}

/// The first ten digits, as everywhere.
fn short(id: &str) -> String {
    id.chars().take(10).collect()
}

fn print_view(view: &OverlayView) {
    let standing = if view.is_member { "" } else { ", still looking for others" };
    println!(
        "{} as seen by node {}, which stands at {}{standing}\n",
        view.kind,
        short(&view.seen_by),
        short(&view.identifier)
    );
    let rows = view.tables.iter().flat_map(|known| {
        known.rows.iter().map(|row| {
            [known.name.to_uppercase(), row.place.clone(), short(&row.identifier), short(&row.node)]
        })
    });
    println!("{}", table(["TABLE", "PLACE", "IDENTIFIER", "NODE"], rows));
    let frames = &view.frames;
    println!(
        "\n{} entries kept for others; {} frames sent, {} received; refused: {} malformed, {} of another kind, {} for want of room",
        view.entries_kept, frames.sent, frames.received, frames.malformed, frames.other_kind, frames.dropped
    );
}

fn print_trace(trace: &OverlayTrace) {
    println!(
        "{:?} belongs at {}; asked by node {} ({})\n",
        trace.key,
        short(&trace.identifier),
        short(&trace.seen_by),
        trace.kind
    );
    let rows = trace.steps.iter().enumerate().map(|(number, step)| {
        let answer = if step.answered { "answered" } else { "silent" };
        [(number + 1).to_string(), short(&step.node), short(&step.identifier), answer.into()]
    });
    println!("{}", table(["STEP", "NODE", "IDENTIFIER", "ANSWER"], rows));
    let responsible: Vec<String> = trace.responsible.iter().map(|node| short(node)).collect();
    let millis = trace.micros as f64 / 1000.0;
    println!(
        "\nresponsible: {} ({} hops, {} timeouts, {millis:.1} ms)",
        responsible.join(", "),
        trace.hops,
        trace.timeouts
    );
}
