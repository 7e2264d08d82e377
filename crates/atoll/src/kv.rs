//! `atoll kv`

use std::io::{Read, Write};

use atoll_gateway::admin::api::{
    ErrorAnswer, KvCondition, KvDeleteRequest, KvEvent, KvPage, KvPutRequest, KvRecord, KvWritten,
};
use data_encoding::BASE64;
use http::Method;
use http_body_util::BodyExt;

use crate::{
    client::{AdminClient, query},
    failure::{Failure, Fault, Outcome},
    output::{Output, table},
};

#[derive(Debug, clap::Subcommand)]
pub enum KvCommand {
    /// Print a key's value.
    Get {
        key: String,
        #[command(flatten)]
        output: Output,
    },
    /// Write a key.
    Put {
        key: String,
        /// The value; `-` reads it from standard input.
        value: String,
        #[command(flatten)]
        output: Output,
    },
    /// Write a key only if it is as expected: compare and set.
    #[command(group(clap::ArgGroup::new("expected").required(true)))]
    Cas {
        key: String,
        /// The new value; `-` reads it from standard input.
        value: String,
        /// The value that it must have now.
        #[arg(long, group = "expected")]
        expect: Option<String>,
        /// The revision that must have written it last.
        #[arg(long, group = "expected")]
        revision: Option<u64>,
        /// It must not be there.
        #[arg(long, group = "expected")]
        absent: bool,
        #[command(flatten)]
        output: Output,
    },
    /// Delete a key.
    Delete {
        key: String,
        /// Only if this revision wrote it last.
        #[arg(long)]
        revision: Option<u64>,
        #[command(flatten)]
        output: Output,
    },
    /// List keys in order.
    List {
        #[arg(default_value = "")]
        prefix: String,
        #[command(flatten)]
        output: Output,
    },
    /// Print changes as they happen, one a line.
    Watch {
        #[arg(default_value = "")]
        prefix: String,
        /// Begin after this revision instead of now.
        #[arg(long)]
        after: Option<u64>,
        #[command(flatten)]
        output: Output,
    },
}

/// A server's page; the CLI asks until there are no more.
const LIST_PAGE: u32 = 1000;

/// Text as text, anything else as base64.
fn value_fields(value: Vec<u8>) -> (Option<String>, Option<String>) {
    match String::from_utf8(value) {
        Ok(text) => (Some(text), None),
        Err(error) => (None, Some(BASE64.encode(error.as_bytes()))),
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

fn value_bytes(value: Option<&String>, base64: Option<&String>) -> Vec<u8> {
    match (value, base64) {
        (Some(text), _) => text.clone().into_bytes(),
        (None, Some(base64)) => BASE64.decode(base64.as_bytes()).unwrap_or_default(),
        (None, None) => Vec::new(),
    }
}

fn shown(value: Option<&String>, base64: Option<&String>) -> String {
    value.cloned().or_else(|| base64.map(|base64| format!("base64:{base64}"))).unwrap_or_default()
}

impl KvCommand {
    pub async fn run(self, client: &AdminClient) -> Outcome {
        match self {
            KvCommand::Get { key, output } => {
                let record: KvRecord = client.get(&query("/v1/kv/record", &[("key", &key)])).await?;
                output.show(&record, |record| {
                    let mut bytes = value_bytes(record.value.as_ref(), record.value_base64.as_ref());
                    bytes.push(b'\n');
                    // A reader that went away needs no answer.
                    let _ = std::io::stdout().write_all(&bytes);
                });
            }
            KvCommand::Put { key, value, output } => {
                put(client, key, value, KvCondition::default(), output).await?;
            }
            KvCommand::Cas { key, value, expect, revision, absent, output } => {
                let condition = KvCondition { if_absent: absent, if_revision: revision, if_value: expect };
                put(client, key, value, condition, output).await?;
            }
            KvCommand::Delete { key, revision, output } => {
                let condition = KvCondition { if_revision: revision, ..Default::default() };
                let written: KvWritten =
                    client.post("/v1/kv/delete", &KvDeleteRequest { key, condition }).await?;
                output.show(&written, |written| {
                    eprintln!("{}", if written.existed { "deleted" } else { "was not there" });
                });
            }
            KvCommand::List { prefix, output } => list(client, &prefix, output).await?,
            KvCommand::Watch { prefix, after, output } => watch(client, &prefix, after, output).await?,
        }
        Ok(())
    }
}

async fn put(
    client: &AdminClient,
    key: String,
    value: String,
    condition: KvCondition,
    output: Output,
) -> Outcome {
    let (value, value_base64) = value_fields(value_argument(value)?);
    let request = KvPutRequest { key, value, value_base64, condition };
    let written: KvWritten = client.post("/v1/kv/put", &request).await?;
    output.show(&written, |written| eprintln!("revision {}", written.revision));
    Ok(())
}

async fn list(client: &AdminClient, prefix: &str, output: Output) -> Outcome {
    let mut records = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let limit = LIST_PAGE.to_string();
        let mut parameters = vec![("prefix", prefix), ("limit", &limit)];
        parameters.extend(after.as_deref().map(|after| ("after", after)));
        let page: KvPage = client.get(&query("/v1/kv", &parameters)).await?;
        records.extend(page.records);
        after = page.next_after;
        if after.is_none() {
            break;
        }
    }
    output.show(&records, |records| {
        let rows = records.iter().map(|record| {
            let value = shown(record.value.as_ref(), record.value_base64.as_ref());
            [record.key.clone(), record.revision.to_string(), value]
        });
        println!("{}", table(["KEY", "REVISION", "VALUE"], rows));
    });
    Ok(())
}

async fn watch(client: &AdminClient, prefix: &str, after: Option<u64>, output: Output) -> Outcome {
    let after = after.map(|revision| revision.to_string());
    let mut parameters = vec![("prefix", prefix)];
    parameters.extend(after.as_deref().map(|after| ("after_revision", after)));
    let mut body = client.open(Method::GET, &query("/v1/kv/watch", &parameters), None).await?.into_body();
    let mut pending = Vec::new();
    let broken = |reason: String| {
        Failure::new(Fault::Unavailable, format!("the watch broke off: {reason}"))
            .hint("start it again with --after and the last revision you saw")
    };
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| broken(error.to_string()))?;
        pending.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            let line = line.trim_ascii();
            if let Ok(answer) = serde_json::from_slice::<ErrorAnswer>(line) {
                return Err(broken(answer.error.message));
            }
            let Ok(event) = serde_json::from_slice::<KvEvent>(line) else { continue };
            match output.output {
                crate::output::Format::Json => println!("{}", String::from_utf8_lossy(line)),
                crate::output::Format::Table if event.deleted => {
                    println!("{}  {}  deleted", event.revision, event.key)
                }
                crate::output::Format::Table => {
                    println!(
                        "{}  {}  {}",
                        event.revision,
                        event.key,
                        shown(event.value.as_ref(), event.value_base64.as_ref())
                    );
                }
            }
        }
    }
    Err(broken("the node ended it".into()))
}
