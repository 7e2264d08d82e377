//! A bucket's life in its data shard: opened, sealed once it is empty, freed for good.

use atoll_records::WriteView;
use serde::{Deserialize, Serialize};

use super::{
    CommandName, Fault, Refused, keys, live_bucket, read,
    records::{BucketDescriptor, BucketState, OwnedRange},
    scan, write,
};
use crate::names::BucketId;

pub const OPEN: CommandName<Open, ()> = CommandName::new("objects/bucket-open/1", open);
pub const SEAL: CommandName<BucketId, ()> = CommandName::new("objects/bucket-seal/1", seal);
pub const FREE: CommandName<BucketId, ()> = CommandName::new("objects/bucket-free/1", free);

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Open {
    pub bucket: BucketId,
    pub owned: Vec<OwnedRange>,
}

/// Anyone may open a bucket whose name is reserved, any number of times; one that is
/// sealed or freed stays so.
fn open(view: &mut dyn WriteView, input: Open) -> Result<(), Fault> {
    let key = keys::of_bucket(keys::BUCKET, input.bucket);
    match read::<BucketDescriptor>(view, &key)?.map(|descriptor| descriptor.state) {
        None => write(view, &key, &BucketDescriptor { state: BucketState::Open, owned: input.owned }),
        Some(BucketState::Open) => {}
        Some(BucketState::Sealed) => return Err(Refused::SealedBucket.into()),
        Some(BucketState::Freed) => return Err(Refused::FreedBucket.into()),
    }
    Ok(())
}

/// Closes the bucket for writes if no version of any object is in it. From here on it
/// is gone for its users; uploads are aborted and the name is freed next.
fn seal(view: &mut dyn WriteView, bucket: BucketId) -> Result<(), Fault> {
    let mut descriptor = live_bucket(view, bucket)?;
    if let Some(version) = scan(view, &keys::of_bucket(keys::VERSION, bucket)).next() {
        version?;
        return Err(Refused::NotEmpty.into());
    }
    descriptor.state = BucketState::Sealed;
    write(view, &keys::of_bucket(keys::BUCKET, bucket), &descriptor);
    Ok(())
}

/// The last step, after shard 0 has freed the name.
fn free(view: &mut dyn WriteView, bucket: BucketId) -> Result<(), Fault> {
    let key = keys::of_bucket(keys::BUCKET, bucket);
    match read::<BucketDescriptor>(view, &key)? {
        // Not sealed: nobody may free it.
        Some(descriptor) if descriptor.state == BucketState::Open => return Err(Refused::NotEmpty.into()),
        _ => write(view, &key, &BucketDescriptor { state: BucketState::Freed, owned: Vec::new() }),
    }
    Ok(())
}
