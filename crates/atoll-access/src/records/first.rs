//! Access as programs before cluster version 3 keep it: keys of one user, tokens, a
//! version, and no log. These procedures run on every replica as long as one node may be
//! that old, so they write what that one reads; once the records are converted they keep
//! the log, too.

use std::ops::Bound;

use atoll_disk::StoreError;
use atoll_records::{Command, Query, ReadView, Verdict, WriteView};
use atoll_types::{Format, FormatError, WallTime};
use serde::{Deserialize, Serialize};

use super::{ROOT_USER, decode, log, names};
use crate::{Rights, Secret, TokenHash, TokenRecord};

pub(crate) const CHANGE: &str = "access/change/1";
pub(crate) const SNAPSHOT: &str = "access/snapshot/1";

/// An access key in its first shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeyRecord {
    pub access_key: String,
    pub secret: Secret,
    pub user: String,
    pub created: WallTime,
}

impl Format for KeyRecord {
    const NAME: &'static str = "access key";
    const VERSION: u8 = 1;
}

impl KeyRecord {
    /// What follows a version byte that the newest shape does not have.
    pub(crate) fn decode_rest(version: u8, rest: &[u8]) -> Result<Self, FormatError> {
        Self::decode(&[&[version], rest].concat())
    }
}

impl From<KeyRecord> for super::KeyRecord {
    /// Keys had no bounds.
    fn from(key: KeyRecord) -> Self {
        let KeyRecord { access_key, secret, user, created } = key;
        Self { access_key, secret, user, rights: Rights::ALL, requests_per_second: None, created }
    }
}

impl From<super::KeyRecord> for KeyRecord {
    fn from(key: super::KeyRecord) -> Self {
        let super::KeyRecord { access_key, secret, user, created, rights: _, requests_per_second: _ } = key;
        Self { access_key, secret, user, created }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Change {
    /// Creates the first key, or finds that there is one: two nodes of a new cluster may
    /// both try.
    FoundRoot {
        access_key: String,
        secret: Secret,
    },
    PutKey {
        access_key: String,
        secret: Secret,
        user: String,
    },
    DeleteKey {
        access_key: String,
    },
    PutToken {
        hash: TokenHash,
        name: String,
    },
    DeleteToken {
        name: String,
    },
}

impl Format for Change {
    const NAME: &'static str = "access change";
    const VERSION: u8 = 1;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SnapshotRequest {
    /// What the asker has; 0 for nothing.
    pub(crate) newer_than: u64,
}

impl Format for SnapshotRequest {
    const NAME: &'static str = "access snapshot request";
    const VERSION: u8 = 1;
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SnapshotReply {
    pub(crate) version: u64,
    /// `None` if `version` is what the asker has.
    pub(crate) content: Option<Content>,
}

impl Format for SnapshotReply {
    const NAME: &'static str = "access snapshot";
    const VERSION: u8 = 1;
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Content {
    pub(crate) keys: Vec<KeyRecord>,
    pub(crate) tokens: Vec<TokenRecord>,
}

pub(super) struct ChangeAccess;

impl Command for ChangeAccess {
    fn apply(&self, view: &mut dyn WriteView, input: &[u8]) -> Result<Verdict, StoreError> {
        let change = match Change::decode(input) {
            Ok(change) => change,
            Err(error) => return Ok(Verdict::Abort(error.to_string().into_bytes())),
        };
        let created = view.stamp();
        let put_key = |view: &mut dyn WriteView, access_key: String, secret, user| {
            let name = names::of(names::KEY, access_key.as_bytes());
            let record = KeyRecord { access_key, secret, user, created };
            // The newest shape is for replicas that all read it.
            let bytes =
                if log::is_kept(view)? { super::KeyRecord::from(record).encode() } else { record.encode() };
            log::put(view, &name, bytes)
        };
        match change {
            Change::FoundRoot { access_key, secret } => {
                let end = names::end(names::KEY);
                if view.range(Bound::Included(names::KEY), Bound::Excluded(&end)).next().is_some() {
                    return Ok(Verdict::Commit(Vec::new()));
                }
                put_key(view, access_key, secret, ROOT_USER.into())?;
            }
            Change::PutKey { access_key, secret, user } => put_key(view, access_key, secret, user)?,
            Change::DeleteKey { access_key } => {
                log::delete(view, &names::of(names::KEY, access_key.as_bytes()))?;
            }
            Change::PutToken { hash, name } => {
                let record = TokenRecord { hash, name, created };
                log::put(view, &names::of(names::TOKEN, record.name.as_bytes()), record.encode())?;
            }
            Change::DeleteToken { name } => {
                log::delete(view, &names::of(names::TOKEN, name.as_bytes()))?;
            }
        }
        Ok(Verdict::Commit(Vec::new()))
    }
}

pub(super) struct TakeSnapshot;

impl Query for TakeSnapshot {
    fn run(&self, view: &dyn ReadView, input: &[u8]) -> Result<Vec<u8>, StoreError> {
        let version = log::version(view)?;
        // A request that does not decode comes from a newer program: give it everything.
        let known = SnapshotRequest::decode(input).map_or(0, |request| request.newer_than);
        let content = if known == version && version != 0 { None } else { Some(content(view)?) };
        Ok(SnapshotReply { version, content }.encode())
    }
}

fn content(view: &dyn ReadView) -> Result<Content, StoreError> {
    let mut content = Content::default();
    for pair in view.range(Bound::Included(names::KEY), Bound::Excluded(&names::end(names::KEY))) {
        content.keys.push(decode::<super::KeyRecord>(&pair?.1)?.into());
    }
    for pair in view.range(Bound::Included(names::TOKEN), Bound::Excluded(&names::end(names::TOKEN))) {
        content.tokens.push(decode(&pair?.1)?);
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::fake::Shard;

    fn found(access_key: &str) -> Change {
        Change::FoundRoot { access_key: access_key.into(), secret: Secret::new("secret-secret") }
    }

    fn snapshot(shard: &Shard, newer_than: u64) -> SnapshotReply {
        let input = SnapshotRequest { newer_than }.encode();
        SnapshotReply::decode(&TakeSnapshot.run(shard, &input).unwrap()).unwrap()
    }

    #[test]
    fn the_first_root_key_stays_whoever_tries_again() {
        let mut shard = Shard::default();
        shard.change(found("FIRST"));
        shard.change(found("SECOND"));
        let content = snapshot(&shard, 0).content.unwrap();
        assert_eq!(content.keys.iter().map(|key| key.access_key.as_str()).collect::<Vec<_>>(), ["FIRST"]);
        assert_eq!(content.keys[0].user, ROOT_USER);
    }

    #[test]
    fn a_copy_is_sent_again_only_when_something_changed() {
        let mut shard = Shard::default();
        shard.change(found("FIRST"));
        let first = snapshot(&shard, 0);
        assert_eq!(snapshot(&shard, first.version), SnapshotReply { version: first.version, content: None });
        shard.change(Change::DeleteKey { access_key: "FIRST".into() });
        let second = snapshot(&shard, first.version);
        assert!(second.version > first.version);
        assert_eq!(second.content.unwrap().keys, []);
    }

    #[test]
    fn a_token_under_a_taken_name_replaces_the_former() {
        let mut shard = Shard::default();
        for byte in [1, 2] {
            shard.change(Change::PutToken { hash: TokenHash([byte; 32]), name: "node a".into() });
        }
        let tokens = snapshot(&shard, 0).content.unwrap().tokens;
        assert_eq!(tokens.len(), 1);
        assert!(tokens[0].hash == TokenHash([2; 32]));
    }

    #[test]
    fn a_change_that_does_not_decode_changes_nothing() {
        let mut shard = Shard::default();
        assert!(matches!(ChangeAccess.apply(&mut shard, &[9, 9]), Ok(Verdict::Abort(_))));
        assert!(shard.0.is_empty());
    }

    #[test]
    fn before_the_conversion_only_the_first_shapes_are_written() {
        let mut shard = Shard::default();
        shard.change(found("FIRST"));
        let bytes = &shard.0[&names::of(names::KEY, b"FIRST")];
        assert_eq!(KeyRecord::decode(bytes).unwrap().access_key, "FIRST");
        assert_eq!(shard.0.len(), 2, "the key and the version: no log");
    }
}
