//! What shard 0 keeps of access: its records, and the procedures that change and read
//! them. All keys begin with `access/`.
//!
//! Every change raises `access/version`, so that a cache asks "anything newer than N?"
//! and gets an empty answer when there is nothing.

use std::ops::Bound;

use atoll_disk::StoreError;
use atoll_records::{Command, Procedures, Query, ReadView, Verdict, WriteView};
use atoll_types::{Format, FormatError, WallTime};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Secret, TokenHash};

const VERSION_KEY: &[u8] = b"access/version";
const KEY_PREFIX: &[u8] = b"access/key/";
const TOKEN_PREFIX: &[u8] = b"access/token/";
/// One past every key that begins with the prefix: `/` + 1 = `0`.
const KEY_END: &[u8] = b"access/key0";
const TOKEN_END: &[u8] = b"access/token0";

pub(crate) const CHANGE: &str = "access/change/1";
pub(crate) const SNAPSHOT: &str = "access/snapshot/1";

/// The user that every key belongs to until there are others.
pub const ROOT_USER: &str = "root";

/// An access key, as kept in shard 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    pub access_key: String,
    pub secret: Secret,
    pub user: String,
    /// The leader's stamp when it was created.
    pub created: WallTime,
}

impl Format for KeyRecord {
    const NAME: &'static str = "access key";
    const VERSION: u8 = 1;
}

/// A token that may use the admin API, as kept in shard 0.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    pub hash: TokenHash,
    /// Who holds it: `node <id>` for the token that a node leaves in its data folder.
    pub name: String,
    pub created: WallTime,
}

impl Format for TokenRecord {
    const NAME: &'static str = "admin token";
    const VERSION: u8 = 1;
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

/// Registers what this crate runs in shard 0.
pub fn register(procedures: &mut Procedures) {
    procedures.command(CHANGE, ChangeAccess).query(SNAPSHOT, TakeSnapshot);
}

fn key_of(prefix: &[u8], name: &str) -> Vec<u8> {
    [prefix, name.as_bytes()].concat()
}

fn version(view: &dyn ReadView) -> Result<u64, StoreError> {
    let bytes = view.get(VERSION_KEY)?;
    Ok(bytes.and_then(|bytes| bytes.as_ref().try_into().ok()).map_or(0, u64::from_be_bytes))
}

struct ChangeAccess;

impl Command for ChangeAccess {
    fn apply(&self, view: &mut dyn WriteView, input: &[u8]) -> Result<Verdict, StoreError> {
        let change = match Change::decode(input) {
            Ok(change) => change,
            Err(error) => return Ok(Verdict::Abort(error.to_string().into_bytes())),
        };
        let created = view.stamp();
        match change {
            Change::FoundRoot { access_key, secret } => {
                if view.range(Bound::Included(KEY_PREFIX), Bound::Excluded(KEY_END)).next().is_some() {
                    return Ok(Verdict::Commit(Vec::new()));
                }
                let record = KeyRecord { access_key, secret, user: ROOT_USER.into(), created };
                view.put(&key_of(KEY_PREFIX, &record.access_key), record.encode().into());
            }
            Change::PutKey { access_key, secret, user } => {
                let record = KeyRecord { access_key, secret, user, created };
                view.put(&key_of(KEY_PREFIX, &record.access_key), record.encode().into());
            }
            Change::DeleteKey { access_key } => view.delete(&key_of(KEY_PREFIX, &access_key)),
            Change::PutToken { hash, name } => {
                let record = TokenRecord { hash, name, created };
                view.put(&key_of(TOKEN_PREFIX, &record.name), record.encode().into());
            }
            Change::DeleteToken { name } => view.delete(&key_of(TOKEN_PREFIX, &name)),
        }
        let next = version(view)? + 1;
        view.put(VERSION_KEY, Bytes::copy_from_slice(&next.to_be_bytes()));
        Ok(Verdict::Commit(Vec::new()))
    }
}

struct TakeSnapshot;

impl Query for TakeSnapshot {
    fn run(&self, view: &dyn ReadView, input: &[u8]) -> Result<Vec<u8>, StoreError> {
        let version = version(view)?;
        // A request that does not decode comes from a newer program: give it everything.
        let known = SnapshotRequest::decode(input).map_or(0, |request| request.newer_than);
        let content = if known == version && version != 0 { None } else { Some(content(view)?) };
        Ok(SnapshotReply { version, content }.encode())
    }
}

fn content(view: &dyn ReadView) -> Result<Content, StoreError> {
    let mut content = Content::default();
    for pair in view.range(Bound::Included(KEY_PREFIX), Bound::Excluded(KEY_END)) {
        content.keys.push(decode(&pair?.1)?);
    }
    for pair in view.range(Bound::Included(TOKEN_PREFIX), Bound::Excluded(TOKEN_END)) {
        content.tokens.push(decode(&pair?.1)?);
    }
    Ok(content)
}

/// Our own records that do not decode are a broken invariant: the replica stops (STYLE).
fn decode<T: Format>(bytes: &[u8]) -> Result<T, StoreError> {
    T::decode(bytes).map_err(|error: FormatError| StoreError { operation: "decode", source: error.into() })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use atoll_records::Pairs;
    use atoll_types::{Revision, TransactionId};

    use super::*;

    /// One shard's records in a map.
    #[derive(Default)]
    struct Shard(BTreeMap<Vec<u8>, Bytes>);

    impl ReadView for Shard {
        fn revision(&self) -> Revision {
            Revision(1)
        }

        fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
            Ok(self.0.get(key).cloned())
        }

        fn range(&self, start: Bound<&[u8]>, end: Bound<&[u8]>) -> Pairs<'_> {
            let pairs = self.0.range::<[u8], _>((start, end));
            Box::new(pairs.map(|(key, value)| Ok((Bytes::copy_from_slice(key), value.clone()))))
        }

        fn range_backwards(&self, start: Bound<&[u8]>, end: Bound<&[u8]>) -> Pairs<'_> {
            let pairs = self.0.range::<[u8], _>((start, end)).rev();
            Box::new(pairs.map(|(key, value)| Ok((Bytes::copy_from_slice(key), value.clone()))))
        }
    }

    impl WriteView for Shard {
        fn stamp(&self) -> WallTime {
            WallTime::from_millis(7)
        }

        fn transaction_id(&self) -> TransactionId {
            TransactionId([0; 16])
        }

        fn put(&mut self, key: &[u8], value: Bytes) {
            self.0.insert(key.to_vec(), value);
        }

        fn delete(&mut self, key: &[u8]) {
            self.0.remove(key);
        }
    }

    impl Shard {
        fn change(&mut self, change: Change) {
            let verdict = ChangeAccess.apply(self, &change.encode()).unwrap();
            assert_eq!(verdict, Verdict::Commit(Vec::new()));
        }

        fn snapshot(&self, newer_than: u64) -> SnapshotReply {
            let input = SnapshotRequest { newer_than }.encode();
            SnapshotReply::decode(&TakeSnapshot.run(self, &input).unwrap()).unwrap()
        }
    }

    fn found(access_key: &str) -> Change {
        Change::FoundRoot { access_key: access_key.into(), secret: Secret::new("secret-secret") }
    }

    #[test]
    fn the_first_root_key_stays_whoever_tries_again() {
        let mut shard = Shard::default();
        shard.change(found("FIRST"));
        shard.change(found("SECOND"));
        let content = shard.snapshot(0).content.unwrap();
        assert_eq!(content.keys.iter().map(|key| key.access_key.as_str()).collect::<Vec<_>>(), ["FIRST"]);
        assert_eq!(content.keys[0].user, ROOT_USER);
    }

    #[test]
    fn a_copy_is_sent_again_only_when_something_changed() {
        let mut shard = Shard::default();
        shard.change(found("FIRST"));
        let first = shard.snapshot(0);
        assert_eq!(shard.snapshot(first.version), SnapshotReply { version: first.version, content: None });
        shard.change(Change::DeleteKey { access_key: "FIRST".into() });
        let second = shard.snapshot(first.version);
        assert!(second.version > first.version);
        assert_eq!(second.content.unwrap().keys, []);
    }

    #[test]
    fn a_token_under_a_taken_name_replaces_the_former() {
        let mut shard = Shard::default();
        for byte in [1, 2] {
            shard.change(Change::PutToken { hash: TokenHash([byte; 32]), name: "node a".into() });
        }
        let tokens = shard.snapshot(0).content.unwrap().tokens;
        assert_eq!(tokens.len(), 1);
        assert!(tokens[0].hash == TokenHash([2; 32]));
    }

    #[test]
    fn a_change_that_does_not_decode_changes_nothing() {
        let mut shard = Shard::default();
        assert!(matches!(ChangeAccess.apply(&mut shard, &[9, 9]), Ok(Verdict::Abort(_))));
        assert!(shard.0.is_empty());
    }
}
