//! `atoll user`

use atoll_gateway::admin::api::{CreateUserRequest, Done, RightsRequest, User, UserList};
use http::Method;

use crate::{
    client::{AdminClient, path_segment},
    failure::Outcome,
    output::{Output, age, table},
    sure::Sure,
};

#[derive(Debug, clap::Subcommand)]
pub enum UserCommand {
    /// Make a user. It may do nothing before it has a key: `atoll key create --user NAME`.
    Create {
        name: String,
        /// What S3 shows beside the canonical id. [default: the name]
        #[arg(long, default_value_t, value_name = "TEXT", hide_default_value = true)]
        display_name: String,
        #[arg(long, default_value_t, value_name = "ADDRESS", hide_default_value = true)]
        email: String,
        #[command(flatten)]
        output: Output,
    },
    /// Everybody.
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Let a user make buckets (`create-buckets`, which new users may), or do everything
    /// with every bucket (`everything`).
    Grant {
        name: String,
        #[arg(required = true, value_name = "RIGHT")]
        rights: Vec<String>,
    },
    /// Take that back.
    Revoke {
        name: String,
        #[arg(required = true, value_name = "RIGHT")]
        rights: Vec<String>,
    },
    /// Delete a user with all its keys and grants. It must own no bucket.
    Delete {
        name: String,
        #[command(flatten)]
        sure: Sure,
    },
}

impl UserCommand {
    pub async fn run(self, client: &AdminClient) -> Outcome {
        match self {
            UserCommand::Create { name, display_name, email, output } => {
                let user: User =
                    client.post("/v1/users", &CreateUserRequest { name, display_name, email }).await?;
                output.show(&user, |user| {
                    println!("{}  {}", user.name, user.canonical_id);
                    eprintln!("\nGive it a key:\n\n  atoll key create --user {}", user.name);
                });
            }
            UserCommand::List { output } => {
                let list: UserList = client.get("/v1/users").await?;
                output.show(&list, |list| {
                    let rows = list.users.iter().map(|user| {
                        [
                            user.name.clone(),
                            user.display_name.clone(),
                            user.email.clone(),
                            user.rights.join(","),
                            user.canonical_id.clone(),
                            age(user.created_millis),
                        ]
                    });
                    let header = ["NAME", "DISPLAY NAME", "EMAIL", "RIGHTS", "CANONICAL ID", "AGE"];
                    println!("{}", table(header, rows));
                });
            }
            UserCommand::Grant { name, rights } => {
                let path = format!("/v1/users/{}/grant", path_segment(&name));
                let Done {} = client.post(&path, &RightsRequest { rights }).await?;
            }
            UserCommand::Revoke { name, rights } => {
                let path = format!("/v1/users/{}/revoke", path_segment(&name));
                let Done {} = client.post(&path, &RightsRequest { rights }).await?;
            }
            UserCommand::Delete { name, sure } => {
                sure.ask(&format!("delete the user {name} with all its keys"))?;
                let path = format!("/v1/users/{}", path_segment(&name));
                let Done {} = client.ask(Method::DELETE, &path, None).await?;
            }
        }
        Ok(())
    }
}
