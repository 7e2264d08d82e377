//! `atoll ticket`

use std::time::Duration;

use atoll_gateway::admin::api::{CreateTicketRequest, CreatedTicket};

use crate::{
    client::AdminClient,
    failure::{Failure, Outcome},
    output::Output,
};

#[derive(Debug, clap::Subcommand)]
pub enum TicketCommand {
    /// Make a ticket; whoever has it can join nodes to this cluster.
    Create {
        /// How many nodes may join with it.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        uses: u32,
        /// How long it is good for, such as 30m or 1h.
        #[arg(long = "for", default_value = "1h", value_parser = humantime::parse_duration, value_name = "TIME")]
        lifetime: Duration,
        #[command(flatten)]
        output: Output,
    },
}

impl TicketCommand {
    pub async fn run(self, client: &AdminClient) -> Outcome {
        let TicketCommand::Create { uses, lifetime, output } = self;
        let created = client.create_ticket(uses, lifetime).await?;
        output.show(&created, |created| {
            println!("{}", created.ticket);
            eprintln!(
                "\nOn another machine, within {}:\n\n  atoll up --join {}",
                humantime::format_duration(lifetime),
                created.ticket
            );
        });
        Ok(())
    }
}

impl AdminClient {
    pub async fn create_ticket(&self, uses: u32, lifetime: Duration) -> Result<CreatedTicket, Failure> {
        self.post("/v1/tickets", &CreateTicketRequest { uses, for_seconds: lifetime.as_secs().max(1) }).await
    }
}
