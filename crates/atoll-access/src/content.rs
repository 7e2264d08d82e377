//! A node's copy of the access records, kept up to date change by change.

use std::{collections::BTreeMap, sync::Arc};

use atoll_types::{Format, FormatError};

use crate::{
    ROOT_USER, UserRights, canonical_id,
    guard::GuardedBucket,
    records::{BucketId, BucketRules, Changed, KeyRecord, TokenRecord, UserRecord, first},
};

#[derive(Clone, Default)]
pub(crate) struct Content {
    pub(crate) users: BTreeMap<String, Arc<UserRecord>>,
    pub(crate) keys: BTreeMap<String, Arc<KeyRecord>>,
    tokens: BTreeMap<String, TokenRecord>,
    pub(crate) buckets: BTreeMap<BucketId, Arc<GuardedBucket>>,
}

impl Content {
    /// What older programs keep, read as the newest would keep it.
    pub(crate) fn first(content: first::Content) -> Self {
        let root = UserRecord {
            name: ROOT_USER.into(),
            canonical_id: canonical_id(ROOT_USER),
            display_name: ROOT_USER.into(),
            email: String::new(),
            rights: UserRights::ALL,
            created: Default::default(),
        };
        let keys = content.keys.into_iter().map(KeyRecord::from);
        Self {
            users: [(ROOT_USER.into(), Arc::new(root))].into(),
            keys: keys.map(|key| (key.access_key.clone(), Arc::new(key))).collect(),
            tokens: content.tokens.into_iter().map(|token| (token.name.clone(), token)).collect(),
            buckets: BTreeMap::new(),
        }
    }

    /// Takes over one record. Records of a family that is not known here are a newer
    /// program's, and say nothing to this one.
    pub(crate) fn apply(&mut self, changed: &Changed) -> Result<(), FormatError> {
        let Some((family, name)) = split(&changed.name) else { return Ok(()) };
        let value = changed.value.as_deref();
        match family {
            b"access/user/" => put(&mut self.users, text(name)?, read(value)?.map(Arc::new)),
            b"access/key/" => put(&mut self.keys, text(name)?, read(value)?.map(Arc::new)),
            b"access/token/" => put(&mut self.tokens, text(name)?, read(value)?),
            b"access/bucket/" => {
                let malformed = FormatError::Malformed { format: BucketRules::NAME };
                let bucket = name.try_into().map(u64::from_be_bytes).map_err(|_| malformed)?;
                let rules = read::<BucketRules>(value)?;
                put(&mut self.buckets, bucket, rules.map(|rules| Arc::new(GuardedBucket::of(rules))));
            }
            _ => {}
        }
        Ok(())
    }

    pub(crate) fn tokens(&self) -> impl Iterator<Item = &TokenRecord> {
        self.tokens.values()
    }
}

/// The family of a record, up to its second slash, and its name in it.
fn split(key: &[u8]) -> Option<(&[u8], &[u8])> {
    let slash = key.iter().enumerate().filter(|(_, byte)| **byte == b'/').nth(1)?.0;
    Some(key.split_at(slash + 1))
}

fn text(name: &[u8]) -> Result<String, FormatError> {
    String::from_utf8(name.to_vec()).map_err(|_| FormatError::Malformed { format: "access record's name" })
}

fn read<T: Format>(value: Option<&[u8]>) -> Result<Option<T>, FormatError> {
    value.map(T::decode).transpose()
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(key, value)),
        None => drop(map.remove(&key)),
    }
}
