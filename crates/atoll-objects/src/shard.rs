//! What runs inside the shards: commands and queries on buckets, objects, uploads and
//! the reclaim epoch. Pure functions of the shard's records, the same on every replica.
//!
//! Conditions, ownership of key ranges and the reclaim epoch are checked in the command
//! that commits, so that no caller compares and retries.

pub mod bucket;
#[cfg(test)]
pub mod fake;
pub mod keys;
pub mod lifecycle;
pub mod list;
pub mod name;
pub mod object;
pub mod records;
pub mod reference;
pub mod restore;
pub mod root_key;
pub mod setting;
pub mod snapshot;
pub mod upload;
pub mod version;

use std::{marker::PhantomData, ops::Bound};

use atoll_disk::StoreError;
use atoll_records::{Command, Pairs, Procedures, Query, ReadView, Verdict, WriteView};
use atoll_runtime::{Broken, is_broken};
use atoll_types::{Format, Revision};
use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{conditions::FailedCondition, names::BucketId, request::Versioning};
use records::{BucketDescriptor, BucketState, NumberRecord};

/// A shard's definite "no". Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refused {
    /// The caller's version of the message is not known here.
    Malformed,
    /// No descriptor here: shard 0 says whether the bucket still has to be opened.
    UnknownBucket,
    /// Found empty and closed, its name about to be freed.
    SealedBucket,
    /// The bucket is gone for good.
    FreedBucket,
    /// Another shard keeps this key.
    WrongShard,
    NotEmpty,
    Condition(FailedCondition),
    /// The caller's reclaim epoch is more than one behind: stamp the chunks again with
    /// this one (rule 9).
    StaleEpoch {
        current: u64,
    },
    /// The segments were swept, or are of another object.
    NoSuchManifest,
    NoSuchUpload,
    InvalidPart {
        number: u16,
    },
    PartTooSmall {
        number: u16,
        size: u64,
    },
    /// The key has no such version.
    NoSuchVersion,
    /// The bucket takes nothing in the clear.
    MustBeSealed,
}

/// Why a procedure stopped.
pub enum Fault {
    Refused(Refused),
    Store(StoreError),
}

impl From<Refused> for Fault {
    fn from(refused: Refused) -> Self {
        Fault::Refused(refused)
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Fault::Store(error)
    }
}

/// What a procedure answers its caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer<T>(pub Result<T, Refused>);

impl<T: Serialize + DeserializeOwned> Format for Answer<T> {
    const NAME: &'static str = "objects answer";
    const VERSION: u8 = 1;
}

/// What a procedure is asked. The procedure's name carries the version of its meaning,
/// this the version of its encoding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask<T>(pub T);

impl<T: Serialize + DeserializeOwned> Format for Ask<T> {
    const NAME: &'static str = "objects request";
    const VERSION: u8 = 1;
}

type CommandFn<I, O> = fn(&mut dyn WriteView, I) -> Result<O, Fault>;
type QueryFn<I, O> = fn(&dyn ReadView, I) -> Result<O, Fault>;

struct TypedCommand<I, O>(CommandFn<I, O>, PhantomData<fn(I) -> O>);
struct TypedQuery<I, O>(QueryFn<I, O>, PhantomData<fn(I) -> O>);

fn answer<O: Serialize + DeserializeOwned>(outcome: Result<O, Fault>) -> Result<(bool, Vec<u8>), StoreError> {
    let answer = match outcome {
        Ok(value) => Answer(Ok(value)),
        Err(Fault::Refused(refused)) => Answer(Err(refused)),
        Err(Fault::Store(error)) => return Err(error),
    };
    Ok((answer.0.is_ok(), answer.encode()))
}

impl<I, O> Command for TypedCommand<I, O>
where
    I: Serialize + DeserializeOwned + 'static,
    O: Serialize + DeserializeOwned + 'static,
{
    fn apply(&self, view: &mut dyn WriteView, input: &[u8]) -> Result<Verdict, StoreError> {
        let outcome = match Ask::<I>::decode(input) {
            Ok(Ask(input)) => (self.0)(view, input),
            Err(_) => Err(Refused::Malformed.into()),
        };
        answer(outcome).map(|(done, bytes)| if done { Verdict::Commit(bytes) } else { Verdict::Abort(bytes) })
    }
}

impl<I, O> Query for TypedQuery<I, O>
where
    I: Serialize + DeserializeOwned + 'static,
    O: Serialize + DeserializeOwned + 'static,
{
    fn run(&self, view: &dyn ReadView, input: &[u8]) -> Result<Vec<u8>, StoreError> {
        let outcome = match Ask::<I>::decode(input) {
            Ok(Ask(input)) => (self.0)(view, input),
            Err(_) => Err(Refused::Malformed.into()),
        };
        answer(outcome).map(|(_, bytes)| bytes)
    }
}

/// A command's name with the types of what goes in and out, so that callers and the
/// shard can't differ.
pub struct CommandName<I, O> {
    pub name: &'static str,
    apply: CommandFn<I, O>,
}

/// The same for a query.
pub struct QueryName<I, O> {
    pub name: &'static str,
    run: QueryFn<I, O>,
}

impl<I, O> CommandName<I, O>
where
    I: Serialize + DeserializeOwned + 'static,
    O: Serialize + DeserializeOwned + 'static,
{
    const fn new(name: &'static str, apply: CommandFn<I, O>) -> Self {
        Self { name, apply }
    }

    fn register(&self, procedures: &mut Procedures) {
        procedures.command(self.name, TypedCommand(self.apply, PhantomData));
    }
}

impl<I, O> QueryName<I, O>
where
    I: Serialize + DeserializeOwned + 'static,
    O: Serialize + DeserializeOwned + 'static,
{
    const fn new(name: &'static str, run: QueryFn<I, O>) -> Self {
        Self { name, run }
    }

    fn register(&self, procedures: &mut Procedures) {
        procedures.query(self.name, TypedQuery(self.run, PhantomData));
    }
}

/// Registers everything that objects run inside shards. The node calls it once, before
/// it opens its records.
pub fn register_procedures(procedures: &mut Procedures) {
    name::RESERVE.register(procedures);
    name::FREE.register(procedures);
    name::LOOKUP.register(procedures);
    name::LIST.register(procedures);
    bucket::OPEN.register(procedures);
    bucket::SEAL.register(procedures);
    bucket::FREE.register(procedures);
    bucket::SET_VERSIONING.register(procedures);
    bucket::VERSIONING.register(procedures);
    bucket::SET_ENCRYPTED.register(procedures);
    bucket::ENCRYPTED.register(procedures);
    root_key::CLAIM.register(procedures);
    root_key::GET.register(procedures);
    object::PUT.register(procedures);
    object::PUT_SEALED.register(procedures);
    object::DELETE.register(procedures);
    object::PUT_SEGMENT.register(procedures);
    object::GET.register(procedures);
    object::SEGMENTS.register(procedures);
    list::OBJECTS.register(procedures);
    list::UPLOADS.register(procedures);
    version::LIST.register(procedures);
    version::GET.register(procedures);
    version::DELETE.register(procedures);
    setting::SET.register(procedures);
    setting::GET.register(procedures);
    setting::TAG.register(procedures);
    setting::SET_ACL.register(procedures);
    upload::PART_INFOS.register(procedures);
    lifecycle::CLAIM.register(procedures);
    lifecycle::EXPIRE.register(procedures);
    upload::CREATE.register(procedures);
    upload::CREATE_SEALED.register(procedures);
    upload::PUT_PART.register(procedures);
    upload::PUT_SEALED_PART.register(procedures);
    upload::COMPLETE.register(procedures);
    upload::ABORT.register(procedures);
    upload::LIST_PARTS.register(procedures);
    upload::LIST_SEALED_PARTS.register(procedures);
    upload::PARTS.register(procedures);
    reference::CLAIM_SWEEP.register(procedures);
    reference::RAISE_EPOCH.register(procedures);
    reference::SWEEP.register(procedures);
    reference::EPOCH.register(procedures);
    reference::CHANGES.register(procedures);
    reference::REFERENCES.register(procedures);
    reference::ALL_REFERENCES.register(procedures);
    snapshot::CLAIM.register(procedures);
    snapshot::ROUND.register(procedures);
    snapshot::BEGIN.register(procedures);
    snapshot::KEEP.register(procedures);
    snapshot::ABANDON.register(procedures);
    snapshot::EXPIRE.register(procedures);
    snapshot::LIST.register(procedures);
    restore::BEGIN.register(procedures);
    restore::FIND.register(procedures);
    restore::IMPORT.register(procedures);
    restore::OPEN.register(procedures);
    restore::PUBLISH.register(procedures);
}

/// Decodes a record of the shard's own. What is malformed here is a broken invariant:
/// the store's error stops the replica.
pub(crate) fn decode<T: Format>(bytes: &[u8]) -> Result<T, StoreError> {
    T::decode(bytes).map_err(|error| StoreError { operation: "decode a record", source: Box::new(error) })
}

fn read<T: Format>(view: &(impl ReadView + ?Sized), key: &[u8]) -> Result<Option<T>, StoreError> {
    view.get(key)?.map(|bytes| decode(&bytes)).transpose()
}

fn write<T: Format>(view: &mut dyn WriteView, key: &[u8], record: &T) {
    view.put(key, Bytes::from(record.encode()));
}

/// Everything that begins with `prefix`, ascending.
fn scan<'a>(view: &'a (impl ReadView + ?Sized), prefix: &[u8]) -> Pairs<'a> {
    scan_from(view, Bound::Included(prefix), prefix)
}

/// Everything from `start` that begins with `prefix`, ascending.
pub(crate) fn scan_from<'a>(
    view: &'a (impl ReadView + ?Sized),
    start: Bound<&[u8]>,
    prefix: &[u8],
) -> Pairs<'a> {
    match keys::after_prefix(prefix.to_vec()) {
        Some(end) => view.range(start, Bound::Excluded(&end)),
        None => view.range(start, Bound::Unbounded),
    }
}

/// What a command must know of a bucket that it writes to.
#[derive(Debug, Clone, Copy)]
struct OpenBucket {
    versioning: Versioning,
    /// Nothing is taken in the clear.
    encrypted: bool,
    /// Of what this command writes: later than all that is there.
    revision: Revision,
}

impl OpenBucket {
    /// What begins now must be sealed where the bucket asks for it.
    fn check_sealed(&self, sealed: bool) -> Result<(), Refused> {
        if self.encrypted && !sealed { Err(Refused::MustBeSealed) } else { Ok(()) }
    }
}

/// The bucket, if it is open and `key` is owned here.
fn open_bucket(view: &(impl ReadView + ?Sized), bucket: BucketId, key: &[u8]) -> Result<OpenBucket, Fault> {
    if is_broken(Broken::AnyRange) {
        let (versioning, encrypted) = (Versioning::Unset, false);
        return Ok(OpenBucket { versioning, encrypted, revision: view.revision() });
    }
    let descriptor = open_descriptor(view, bucket)?;
    if !descriptor.owns(key) {
        return Err(Refused::WrongShard.into());
    }
    let BucketDescriptor { versioning, encrypted, restored, .. } = descriptor;
    let revision = Revision(view.revision().0 + restored.0);
    Ok(OpenBucket { versioning, encrypted, revision })
}

/// The bucket's descriptor, if it is open.
fn open_descriptor(view: &(impl ReadView + ?Sized), bucket: BucketId) -> Result<BucketDescriptor, Fault> {
    let descriptor = live_bucket(view, bucket)?;
    match descriptor.state {
        BucketState::Sealed => Err(Refused::SealedBucket.into()),
        _ => Ok(descriptor),
    }
}

/// The bucket's descriptor, open or sealed.
fn live_bucket(view: &(impl ReadView + ?Sized), bucket: BucketId) -> Result<BucketDescriptor, Fault> {
    let descriptor: BucketDescriptor =
        read(view, &keys::of_bucket(keys::BUCKET, bucket))?.ok_or(Refused::UnknownBucket)?;
    match descriptor.state {
        BucketState::Freed => Err(Refused::FreedBucket.into()),
        BucketState::Open | BucketState::Sealed => Ok(descriptor),
    }
}

/// The shard's reclaim epoch. It starts at 1; a stamp of 0 is older than any.
fn epoch(view: &(impl ReadView + ?Sized)) -> Result<u64, StoreError> {
    Ok(read::<NumberRecord>(view, &keys::EPOCH)?.map_or(1, |number| number.0))
}

/// Rule 9's check at the commit: chunks stamped with `stamped` can't have been removed.
fn check_epoch(view: &(impl ReadView + ?Sized), stamped: u64) -> Result<u64, Fault> {
    let current = epoch(view)?;
    let is_stale = current > stamped + 1 && !is_broken(Broken::EpochUnchecked);
    if is_stale { Err(Refused::StaleEpoch { current }.into()) } else { Ok(current) }
}
