//! `atoll key`

use atoll_gateway::admin::api::{
    CreateKeyRequest, CreatedKey, Done, KeyList, LimitKeyRequest, RightsRequest,
};
use http::Method;

use crate::{
    client::{AdminClient, path_segment, query},
    failure::Outcome,
    output::{Output, age, table},
    sure::Sure,
};

#[derive(Debug, clap::Subcommand)]
pub enum KeyCommand {
    /// Make a key. Its secret is shown now and never again.
    Create {
        /// Whom it speaks for.
        #[arg(long)]
        user: String,
        /// The most it may do of what its user may: read, write, manage. [default: all]
        #[arg(long, value_delimiter = ',', value_name = "RIGHTS")]
        rights: Vec<String>,
        #[command(flatten)]
        output: Output,
    },
    /// All keys, without their secrets.
    List {
        /// Only this user's.
        #[arg(long)]
        user: Option<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Let a key do more of what its user may: read, write, manage.
    Grant {
        key: String,
        #[arg(required = true, value_name = "RIGHT")]
        rights: Vec<String>,
    },
    /// Let a key do less, or nothing. It holds on every node within 5 s.
    Revoke {
        key: String,
        /// read, write, manage. [default: all]
        #[arg(value_name = "RIGHT")]
        rights: Vec<String>,
    },
    /// Let a key make at most so many requests a second through each node; more get 503
    /// SlowDown.
    Limit {
        key: String,
        /// A number, or `off`.
        #[arg(value_name = "REQUESTS_PER_SECOND", value_parser = limit)]
        requests_per_second: Limit,
    },
    /// Delete a key. It is refused on every node within 5 s.
    Delete {
        key: String,
        #[command(flatten)]
        sure: Sure,
    },
}

/// `None` is off.
#[derive(Debug, Clone, Copy)]
pub struct Limit(Option<u32>);

fn limit(text: &str) -> Result<Limit, String> {
    match text {
        "off" => Ok(Limit(None)),
        text => match text.parse() {
            Ok(number) if number > 0 => Ok(Limit(Some(number))),
            _ => Err("a number of 1 or more, or `off`".into()),
        },
    }
}

impl KeyCommand {
    pub async fn run(self, client: &AdminClient) -> Outcome {
        match self {
            KeyCommand::Create { user, rights, output } => {
                let created: CreatedKey = client.post("/v1/keys", &CreateKeyRequest { user, rights }).await?;
                output.show(&created, |created| {
                    println!("Access key    {}", created.access_key);
                    println!("Secret key    {}", created.secret_key);
                    println!("Canonical id  {}", created.canonical_id);
                    eprintln!("\nThe secret is not shown again.");
                });
            }
            KeyCommand::List { user, output } => {
                let path = match &user {
                    Some(user) => query("/v1/keys", &[("user", user)]),
                    None => "/v1/keys".into(),
                };
                let list: KeyList = client.get(&path).await?;
                output.show(&list, |list| {
                    let rows = list.keys.iter().map(|key| {
                        let rights = match key.rights.is_empty() {
                            true => "none".into(),
                            false => key.rights.join(","),
                        };
                        let limit =
                            key.requests_per_second.map_or("none".into(), |limit| format!("{limit}/s"));
                        [key.access_key.clone(), key.user.clone(), rights, limit, age(key.created_millis)]
                    });
                    println!("{}", table(["KEY", "USER", "RIGHTS", "LIMIT", "AGE"], rows));
                });
            }
            KeyCommand::Grant { key, rights } => {
                let path = format!("/v1/keys/{}/grant", path_segment(&key));
                let Done {} = client.post(&path, &RightsRequest { rights }).await?;
            }
            KeyCommand::Revoke { key, rights } => {
                let path = format!("/v1/keys/{}/revoke", path_segment(&key));
                let Done {} = client.post(&path, &RightsRequest { rights }).await?;
            }
            KeyCommand::Limit { key, requests_per_second: Limit(requests_per_second) } => {
                let path = format!("/v1/keys/{}/limit", path_segment(&key));
                let Done {} = client.post(&path, &LimitKeyRequest { requests_per_second }).await?;
            }
            KeyCommand::Delete { key, sure } => {
                sure.ask(&format!("delete the key {key}"))?;
                let Done {} =
                    client.ask(Method::DELETE, &format!("/v1/keys/{}", path_segment(&key)), None).await?;
            }
        }
        Ok(())
    }
}
