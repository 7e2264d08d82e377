//! A bucket's life in its data shard: opened, sealed once it is empty, freed for good.

use atoll_records::{ReadView, WriteView};
use atoll_runtime::{Broken, is_broken};
use serde::{Deserialize, Serialize};

use super::{
    CommandName, Fault, QueryName, Refused, keys, live_bucket, open_descriptor, read,
    records::{BucketDescriptor, BucketState, OwnedRange},
    scan, write,
};
use crate::{
    names::BucketId,
    request::{SettingKind, Versioning},
};

pub const OPEN: CommandName<Open, ()> = CommandName::new("objects/bucket-open/1", open);
pub const SEAL: CommandName<BucketId, ()> = CommandName::new("objects/bucket-seal/1", seal);
pub const FREE: CommandName<BucketId, ()> = CommandName::new("objects/bucket-free/1", free);

pub const SET_VERSIONING: CommandName<SetVersioning, ()> =
    CommandName::new("objects/bucket-set-versioning/1", set_versioning);
pub const VERSIONING: QueryName<BucketId, Versioning> =
    QueryName::new("objects/bucket-versioning/1", versioning);

pub const SET_ENCRYPTED: CommandName<SetEncrypted, ()> =
    CommandName::new("objects/bucket-set-encrypted/1", set_encrypted);
pub const ENCRYPTED: QueryName<BucketId, bool> = QueryName::new("objects/bucket-encrypted/1", encrypted);

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
        None => {
            let descriptor = BucketDescriptor::new(BucketState::Open, input.owned);
            write(view, &key, &descriptor);
        }
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
        _ => {
            write(view, &key, &BucketDescriptor::new(BucketState::Freed, Vec::new()));
            for key in SettingKind::ALL.map(|kind| keys::setting(bucket, kind)) {
                // Only what is there: older programs apply this command, too, and delete nothing.
                if view.get(&key)?.is_some() {
                    view.delete(&key);
                }
            }
        }
    }
    Ok(())
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SetVersioning {
    pub bucket: BucketId,
    pub versioning: Versioning,
}

/// Holds from this entry on: what was written before keeps its place. There is no way back
/// to a bucket without versioning, whose writers would not look for versions.
fn set_versioning(view: &mut dyn WriteView, input: SetVersioning) -> Result<(), Fault> {
    let mut descriptor = open_descriptor(view, input.bucket)?;
    if input.versioning == Versioning::Unset {
        return Err(Refused::Malformed.into());
    }
    descriptor.versioning = input.versioning;
    write(view, &keys::of_bucket(keys::BUCKET, input.bucket), &descriptor);
    Ok(())
}

fn versioning(view: &dyn ReadView, bucket: BucketId) -> Result<Versioning, Fault> {
    Ok(live_bucket(view, bucket)?.versioning)
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SetEncrypted {
    pub bucket: BucketId,
    pub encrypted: bool,
}

/// From this entry on, what is to be written in the clear is refused. What was written
/// before stays as it is.
fn set_encrypted(view: &mut dyn WriteView, input: SetEncrypted) -> Result<(), Fault> {
    let mut descriptor = open_descriptor(view, input.bucket)?;
    descriptor.encrypted = input.encrypted;
    write(view, &keys::of_bucket(keys::BUCKET, input.bucket), &descriptor);
    Ok(())
}

fn encrypted(view: &dyn ReadView, bucket: BucketId) -> Result<bool, Fault> {
    // Who is to write asks first; it would hear that the bucket is gone.
    if is_broken(Broken::AnyRange) {
        return Ok(false);
    }
    Ok(live_bucket(view, bucket)?.encrypted)
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;
    use crate::{
        encryption::{CustomerKey, Encryption, Sealing},
        names::UploadId,
        shard::{
            fake::{BUCKET, FakeShard, inline, key},
            object, upload,
        },
    };

    #[test]
    fn a_bucket_that_encrypts_refuses_what_begins_in_the_clear() {
        let mut shard = FakeShard::new();
        let create = || upload::Create {
            upload: upload::Upload {
                bucket: BUCKET,
                key: key(b"k"),
                upload: UploadId(atoll_types::TransactionId([1; 16])),
            },
            headers: Default::default(),
            checksum: None,
        };
        shard.put(b"k", inline("before")).unwrap();
        shard.execute(&SET_ENCRYPTED, SetEncrypted { bucket: BUCKET, encrypted: true }).unwrap();
        assert_eq!(shard.query(&ENCRYPTED, BUCKET), Ok(true));
        assert_eq!(shard.put(b"k", inline("after")), Err(Refused::MustBeSealed));
        assert_eq!(shard.execute(&upload::CREATE, create()), Err(Refused::MustBeSealed));

        let encryption = Encryption::Customer(CustomerKey::new([1; 32]));
        let mut rng = StdRng::seed_from_u64(1);
        let Ok(Sealing { seal, .. }) = Sealing::begin(&mut rng, &encryption, None, b"k") else { panic!() };
        let put = shard.put_input(b"k", inline("sealed"));
        shard.execute(&object::PUT_SEALED, object::PutSealed { put, seal: seal.clone() }).unwrap();
        let sealed = upload::CreateSealed { create: create(), seal };
        shard.execute(&upload::CREATE_SEALED, sealed).unwrap();
        // Versioning is another matter, and stays.
        let versioning = Versioning::Enabled;
        shard.execute(&SET_VERSIONING, SetVersioning { bucket: BUCKET, versioning }).unwrap();
        assert_eq!(shard.put(b"k", inline("after")), Err(Refused::MustBeSealed));
        shard.execute(&SET_ENCRYPTED, SetEncrypted { bucket: BUCKET, encrypted: false }).unwrap();
        assert!(shard.put(b"k", inline("after")).unwrap().version.is_some());
    }
}
