//! Shard 0: bucket names, and which shard keeps which of a bucket's keys.

use atoll_records::{ReadView, WriteView};
use atoll_types::ShardId;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{CommandName, Fault, QueryName, keys, read, records::NameRecord, write};
use crate::{
    names::{BucketId, BucketName},
    request::{BucketInfo, KeyRange},
};

pub const RESERVE: CommandName<Reserve, Reserved> = CommandName::new("objects/name-reserve/1", reserve);
pub const FREE: CommandName<Free, ()> = CommandName::new("objects/name-free/1", free);
pub const LOOKUP: QueryName<BucketName, Option<BucketInfo>> = QueryName::new("objects/name/1", lookup);
pub const LIST: QueryName<Names, Vec<BucketInfo>> = QueryName::new("objects/names/1", list);

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reserve {
    pub name: BucketName,
    pub owner: String,
    pub data_shards: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserved {
    pub bucket: BucketInfo,
    /// False if the name was taken before; by whom, `bucket` says.
    pub fresh: bool,
}

fn reserve(view: &mut dyn WriteView, input: Reserve) -> Result<Reserved, Fault> {
    let key = keys::name(&input.name);
    if let Some(NameRecord(bucket)) = read(view, &key)? {
        return Ok(Reserved { bucket, fresh: false });
    }
    let id = BucketId(view.revision().0);
    let shard = shard_for(id, input.data_shards);
    let bucket = BucketInfo {
        id,
        name: input.name,
        owner: input.owner,
        created: view.stamp(),
        ranges: vec![KeyRange { start: Bytes::new(), shard }],
    };
    write(view, &key, &NameRecord(bucket.clone()));
    Ok(Reserved { bucket, fresh: true })
}

/// Which shard a new bucket goes to. Fibonacci hashing: the revisions of creations are near each
/// other, the shards they go to must not be.
pub(super) fn shard_for(id: BucketId, data_shards: u32) -> ShardId {
    let spread = (id.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % u64::from(data_shards.max(1));
    ShardId(1 + spread as u32)
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Free {
    pub name: BucketName,
    /// A bucket made later under the same name stays.
    pub bucket: BucketId,
}

fn free(view: &mut dyn WriteView, input: Free) -> Result<(), Fault> {
    let key = keys::name(&input.name);
    if read::<NameRecord>(view, &key)?.is_some_and(|record| record.0.id == input.bucket) {
        view.delete(&key);
    }
    Ok(())
}

fn lookup(view: &dyn ReadView, name: BucketName) -> Result<Option<BucketInfo>, Fault> {
    Ok(read::<NameRecord>(view, &keys::name(&name))?.map(|record| record.0))
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Names {
    pub after: Option<BucketName>,
    pub limit: u32,
}

fn list(view: &dyn ReadView, input: Names) -> Result<Vec<BucketInfo>, Fault> {
    let start = input.after.as_ref().map(keys::name);
    let start = match &start {
        Some(key) => std::ops::Bound::Excluded(&key[..]),
        None => std::ops::Bound::Included(&keys::NAME[..]),
    };
    let mut buckets = Vec::new();
    for pair in super::scan_from(view, start, &keys::NAME).take(input.limit as usize) {
        buckets.push(super::decode::<NameRecord>(&pair?.1)?.0);
    }
    Ok(buckets)
}
