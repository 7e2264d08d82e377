//! `atoll cluster`

use atoll_gateway::admin::api::{ClusterSettings, Done};
use http::Method;
use serde_json::json;

use crate::{
    client::{AdminClient, path_segment},
    failure::Outcome,
    output::{Output, table},
};

#[derive(Debug, clap::Subcommand)]
pub enum ClusterCommand {
    /// The settings that all nodes share.
    Settings {
        #[command(flatten)]
        output: Output,
    },
    /// Change one.
    Set { name: String, value: String },
}

impl ClusterCommand {
    pub async fn run(self, client: &AdminClient) -> Outcome {
        match self {
            ClusterCommand::Settings { output } => {
                let settings: ClusterSettings = client.get("/v1/settings").await?;
                output.show(&settings, |settings| {
                    let rows = settings.settings.iter().map(|(name, value)| [name.clone(), value.clone()]);
                    println!("{}", table(["NAME", "VALUE"], rows));
                });
            }
            ClusterCommand::Set { name, value } => {
                let path = format!("/v1/settings/{}", path_segment(&name));
                let Done {} = client
                    .ask(Method::PUT, &path, Some(json!({ "value": value }).to_string().into_bytes()))
                    .await?;
            }
        }
        Ok(())
    }
}
