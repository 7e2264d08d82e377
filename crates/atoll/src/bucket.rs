//! `atoll bucket`

use atoll_gateway::admin::api::{BucketGrant, BucketList, CreateBucketRequest, Done, GrantRequest};
use http::Method;

use crate::{
    client::{AdminClient, path_segment},
    failure::Outcome,
    output::{Output, age, table},
    sure::Sure,
};

#[derive(Debug, clap::Subcommand)]
pub enum BucketCommand {
    /// Make a bucket for a user.
    Create {
        name: String,
        /// Who owns it.
        #[arg(long, value_name = "USER", default_value = "root")]
        owner: String,
    },
    /// All buckets, with their owners and to whom they are granted.
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Let a user do something with a bucket: read, write, manage.
    Grant {
        name: String,
        #[arg(long)]
        user: String,
        #[arg(required = true, value_name = "RIGHT")]
        rights: Vec<String>,
    },
    /// Take that back. It holds on every node within 5 s.
    Revoke {
        name: String,
        #[arg(long)]
        user: String,
        /// [default: all]
        #[arg(value_name = "RIGHT")]
        rights: Vec<String>,
    },
    /// Delete an empty bucket.
    Delete {
        name: String,
        #[command(flatten)]
        sure: Sure,
    },
}

impl BucketCommand {
    pub async fn run(self, client: &AdminClient) -> Outcome {
        match self {
            BucketCommand::Create { name, owner } => {
                let Done {} = client.post("/v1/buckets", &CreateBucketRequest { name, owner }).await?;
            }
            BucketCommand::List { output } => {
                let list: BucketList = client.get("/v1/buckets").await?;
                output.show(&list, |list| {
                    let rows = list.buckets.iter().map(|bucket| {
                        let owner = bucket.owner.clone().unwrap_or(bucket.owner_canonical_id.clone());
                        let grants: Vec<_> = bucket.grants.iter().map(grant).collect();
                        [bucket.name.clone(), owner, grants.join(" "), age(bucket.created_millis)]
                    });
                    println!("{}", table(["NAME", "OWNER", "GRANTS", "AGE"], rows));
                });
            }
            BucketCommand::Grant { name, user, rights } => {
                let path = format!("/v1/buckets/{}/grant", path_segment(&name));
                let Done {} = client.post(&path, &GrantRequest { user, rights }).await?;
            }
            BucketCommand::Revoke { name, user, rights } => {
                let path = format!("/v1/buckets/{}/revoke", path_segment(&name));
                let Done {} = client.post(&path, &GrantRequest { user, rights }).await?;
            }
            BucketCommand::Delete { name, sure } => {
                sure.ask(&format!("delete the bucket {name}"))?;
                let path = format!("/v1/buckets/{}", path_segment(&name));
                let Done {} = client.ask(Method::DELETE, &path, None).await?;
            }
        }
        Ok(())
    }
}

fn grant(grant: &BucketGrant) -> String {
    format!("{}:{}", grant.user, grant.rights.join(","))
}
