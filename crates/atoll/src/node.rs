//! `atoll node`

use std::io::{IsTerminal, Write};

use atoll_gateway::admin::api::{Done, RemoveNodeRequest, Status};

use crate::{
    client::{AdminClient, path_segment},
    failure::{Failure, Fault, Outcome},
    output::Output,
    status::print_nodes,
};

#[derive(Debug, clap::Subcommand)]
pub enum NodeCommand {
    /// The nodes, and how they are.
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Move everything away from a node; it serves meanwhile.
    Drain {
        /// Its id, or the beginning of it.
        node: String,
    },
    /// Let a draining node stay after all.
    Undrain {
        /// Its id, or the beginning of it.
        node: String,
    },
    /// Refuse a node's key for good. Drain it first, unless it is dead.
    Remove {
        /// Its id, or the beginning of it.
        node: String,
        /// It is dead and does not come back: others take over from their copies.
        #[arg(long)]
        force: bool,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
}

impl NodeCommand {
    pub async fn run(self, client: &AdminClient) -> Outcome {
        let act = async |node: &str, verb: &str| -> Outcome {
            let Done {} = client.post(&format!("/v1/nodes/{}/{verb}", path_segment(node)), &Done {}).await?;
            Ok(())
        };
        match self {
            NodeCommand::List { output } => {
                let status: Status = client.get("/v1/status").await?;
                output.show(&status.nodes, |nodes| print_nodes(nodes));
            }
            NodeCommand::Drain { node } => {
                act(&node, "drain").await?;
                eprintln!(
                    "draining {node}; `atoll status` shows what is left, then\n\n  atoll node remove {node}"
                );
            }
            NodeCommand::Undrain { node } => {
                act(&node, "undrain").await?;
                eprintln!("{node} stays");
            }
            NodeCommand::Remove { node, force, yes } => {
                if !yes && !confirm(&format!("Refuse the key of {node} for good?"))? {
                    return Err(Failure::new(Fault::Request, "nothing was removed"));
                }
                let path = format!("/v1/nodes/{}/remove", path_segment(&node));
                let Done {} = client.post(&path, &RemoveNodeRequest { force }).await?;
                eprintln!("{node} is removed; its key is refused from now on");
            }
        }
        Ok(())
    }
}

/// Asks on a terminal; without one, somebody must have said `--yes`.
pub fn confirm(question: &str) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(Fault::Request, "this needs a confirmation").hint("add --yes"));
    }
    eprint!("{question} [y/N] ");
    // Only the prompt; a terminal that can't show it can't answer either.
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .map_err(|error| Failure::new(Fault::Request, "no answer").caused_by(&error))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
