//! `atoll overlay`

use atoll_gateway::admin::api::{OverlayTrace, OverlayView};

use crate::{
    client::{AdminClient, query},
    failure::Outcome,
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
        }
        Ok(())
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
        "\n{} frames sent, {} received; refused: {} malformed, {} of another kind, {} for want of room",
        frames.sent, frames.received, frames.malformed, frames.other_kind, frames.dropped
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
