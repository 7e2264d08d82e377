//! Leases: promises that end by themselves, with the fencing epochs of the locks they hold
//! (rule 14).
//!
//! Granting, keeping, releasing and expiring are entries like any other, so all replicas
//! agree on them, and applying them reads no clock (rule 3). Only the leader looks at its
//! clock, to decide when to propose an expiry; a new leader gives each lease its full time
//! again. An expiry names the keep-alive that it has waited for in vain, and does nothing
//! if another came first.
//!
//! ```text
//! records/lease/<id>            → Stored
//! records/lease-key/<id><key>   → nothing: the record `key` goes with the lease
//! records/lock/<name>           → Lock; stays for good, so that its epoch only grows
//! ```

use std::{collections::BTreeMap, fmt, ops::Bound, sync::Arc, time::Duration};

use atoll_disk::StoreError;
use atoll_runtime::{Broken, Runtime, is_broken};
use atoll_types::{Format, Instant, Revision, ShardId, TransactionId};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::{
    Command, Procedures, Query, ReadView, Records, RecordsError, Verdict, WriteView,
    client::Client,
    driver::Input,
    group::Proposal,
    state::decode,
    transaction::{self, KEY_BYTES_MAX, after_prefix},
};

const GRANT: &str = "records/lease-grant/1";
const KEEP: &str = "records/lease-keep/1";
const RELEASE: &str = "records/lease-release/1";
const EXPIRE: &str = "records/lease-expire/1";
const LOCKS: &str = "records/locks/1";

pub(crate) const LEASE_PREFIX: &[u8] = b"records/lease/";
const LEASE_KEY_PREFIX: &[u8] = b"records/lease-key/";
const LOCK_PREFIX: &[u8] = b"records/lock/";

/// 1 s: shorter ones would end in an election.
pub const TTL_MIN: Duration = Duration::from_secs(1);
/// 1 day.
pub const TTL_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Who holds it, for people.
pub const HOLDER_BYTES_MAX: usize = 1 << 10;
/// Records that one lease holds: they all go in the entry that ends it.
pub const ATTACHED_MAX: usize = 4096;

/// How often the leader looks for leases whose time is up.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// An expiry that had no effect is proposed again after this.
const EXPIRE_AGAIN: Duration = Duration::from_secs(2);

/// A lease's name: the revision that granted it, so it is never used twice in its shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseId(pub u64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stored {
    ttl_millis: u64,
    holder: Bytes,
    lock: Option<Bytes>,
    /// The last grant or keep-alive: what an expiry must have waited for.
    refreshed: Revision,
    /// How many records it holds.
    attached: u32,
}

impl Format for Stored {
    const NAME: &'static str = "lease";
    const VERSION: u8 = 1;
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lock {
    /// Raised by each grant, and never lowered.
    epoch: u64,
    lease: Option<LeaseId>,
}

impl Format for Lock {
    const NAME: &'static str = "lock";
    const VERSION: u8 = 1;
}

/// What is asked of the shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Grant {
    ttl_millis: u64,
    holder: Bytes,
    lock: Option<Bytes>,
}

impl Format for Grant {
    const NAME: &'static str = "lease grant";
    const VERSION: u8 = 1;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Named {
    lease: LeaseId,
    /// In an expiry: the keep-alive that was waited for in vain.
    refreshed: Revision,
}

impl Format for Named {
    const NAME: &'static str = "lease name";
    const VERSION: u8 = 1;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Output {
    Granted(Granted),
    Held(Held),
    /// Kept, released or expired.
    Done,
    Gone,
    Malformed,
}

impl Format for Output {
    const NAME: &'static str = "lease output";
    const VERSION: u8 = 1;
}

/// A lease that was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    pub lease: LeaseId,
    /// The lock's fencing epoch, 0 without a lock: greater than that of any earlier
    /// holder. What the lock protects should remember the greatest it saw, and refuse
    /// what comes with a lower one.
    pub epoch: u64,
}

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    pub holder: Bytes,
    pub lease: LeaseId,
    pub epoch: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// Somebody else holds the lock. Nothing changed.
    #[error("the lock is held by {}, epoch {}", String::from_utf8_lossy(&.0.holder), .0.epoch)]
    Held(Held),
    /// It was released or has expired; what it held is gone.
    #[error("lease {lease} has ended")]
    Gone { lease: LeaseId },
    /// See there.
    #[error(transparent)]
    Records(#[from] RecordsError),
}

pub(crate) fn register(procedures: &mut Procedures) {
    procedures
        .command(GRANT, RunGrant)
        .command(KEEP, RunKeep)
        .command(RELEASE, RunRelease)
        .command(EXPIRE, RunExpire)
        .query(LOCKS, RunLocks)
        .watched(LOCK_PREFIX);
}

fn lease_key(lease: LeaseId) -> Vec<u8> {
    [LEASE_PREFIX, &lease.0.to_be_bytes()].concat()
}

fn attached_key(lease: LeaseId, key: &[u8]) -> Vec<u8> {
    [LEASE_KEY_PREFIX, &lease.0.to_be_bytes(), key].concat()
}

fn lock_key(name: &[u8]) -> Vec<u8> {
    [LOCK_PREFIX, name].concat()
}

fn stored(view: &dyn ReadView, lease: LeaseId) -> Result<Option<Stored>, StoreError> {
    view.get(&lease_key(lease))?.map(|bytes| decode(&bytes)).transpose()
}

fn lock(view: &dyn ReadView, name: &[u8]) -> Result<Lock, StoreError> {
    Ok(view.get(&lock_key(name))?.map(|bytes| decode(&bytes)).transpose()?.unwrap_or_default())
}

/// Lets the record go with the lease; false if there is no such lease, or it has too many.
pub(crate) fn attach(view: &mut dyn WriteView, lease: LeaseId, key: &[u8]) -> Result<bool, StoreError> {
    let Some(mut found) = stored(view, lease)? else { return Ok(false) };
    if found.attached as usize >= ATTACHED_MAX {
        return Ok(false);
    }
    found.attached += 1;
    view.put(&lease_key(lease), found.encode().into());
    view.put(&attached_key(lease, key), Bytes::new());
    Ok(true)
}

/// Undoes [`attach`]. Errors of the store come up again with the next read.
pub(crate) fn detach(view: &mut dyn WriteView, lease: LeaseId, key: &[u8]) {
    if let Ok(Some(mut found)) = stored(view, lease) {
        found.attached = found.attached.saturating_sub(1);
        view.put(&lease_key(lease), found.encode().into());
    }
    view.delete(&attached_key(lease, key));
}

/// Ends a lease and all it holds.
fn end(view: &mut dyn WriteView, lease: LeaseId, found: &Stored) -> Result<(), StoreError> {
    let prefix = attached_key(lease, &[]);
    let end = after_prefix(&prefix).expect("the prefix is not all ones");
    let mut keys = Vec::new();
    for pair in view.range(Bound::Included(&prefix), Bound::Excluded(&end)) {
        keys.push(pair?.0);
    }
    for key in keys {
        transaction::delete(view, &key[prefix.len()..])?;
    }
    if let Some(name) = &found.lock {
        let mut held = lock(view, name)?;
        if held.lease == Some(lease) {
            held.lease = None;
            if is_broken(Broken::EpochLost) {
                held.epoch = 0;
            }
            view.put(&lock_key(name), held.encode().into());
        }
    }
    view.delete(&lease_key(lease));
    Ok(())
}

fn no(output: &Output) -> Result<Verdict, StoreError> {
    Ok(Verdict::Abort(output.encode()))
}

struct RunGrant;

impl Command for RunGrant {
    fn apply(&self, view: &mut dyn WriteView, input: &[u8]) -> Result<Verdict, StoreError> {
        let Ok(grant) = Grant::decode(input) else { return no(&Output::Malformed) };
        let ttl = Duration::from_millis(grant.ttl_millis);
        let name_fits =
            grant.lock.as_ref().is_none_or(|name| !name.is_empty() && name.len() <= KEY_BYTES_MAX);
        if !(TTL_MIN..=TTL_MAX).contains(&ttl) || grant.holder.len() > HOLDER_BYTES_MAX || !name_fits {
            return no(&Output::Malformed);
        }
        let lease = LeaseId(view.revision().0);
        let mut epoch = 0;
        if let Some(name) = &grant.lock {
            let held = lock(view, name)?;
            if let Some(other) = held.lease
                && let Some(found) = stored(view, other)?
            {
                let holder = found.holder;
                return no(&Output::Held(Held { holder, lease: other, epoch: held.epoch }));
            }
            epoch = held.epoch + 1;
            view.put(&lock_key(name), Lock { epoch, lease: Some(lease) }.encode().into());
        }
        let Grant { ttl_millis, holder, lock } = grant;
        let granted = Stored { ttl_millis, holder, lock, refreshed: view.revision(), attached: 0 };
        view.put(&lease_key(lease), granted.encode().into());
        Ok(Verdict::Commit(Output::Granted(Granted { lease, epoch }).encode()))
    }
}

struct RunKeep;

impl Command for RunKeep {
    fn apply(&self, view: &mut dyn WriteView, input: &[u8]) -> Result<Verdict, StoreError> {
        let Ok(named) = Named::decode(input) else { return no(&Output::Malformed) };
        let Some(mut found) = stored(view, named.lease)? else { return no(&Output::Gone) };
        found.refreshed = view.revision();
        view.put(&lease_key(named.lease), found.encode().into());
        Ok(Verdict::Commit(Output::Done.encode()))
    }
}

struct RunRelease;

impl Command for RunRelease {
    fn apply(&self, view: &mut dyn WriteView, input: &[u8]) -> Result<Verdict, StoreError> {
        let Ok(named) = Named::decode(input) else { return no(&Output::Malformed) };
        let Some(found) = stored(view, named.lease)? else { return no(&Output::Gone) };
        end(view, named.lease, &found)?;
        Ok(Verdict::Commit(Output::Done.encode()))
    }
}

struct RunExpire;

impl Command for RunExpire {
    fn apply(&self, view: &mut dyn WriteView, input: &[u8]) -> Result<Verdict, StoreError> {
        let Ok(named) = Named::decode(input) else { return no(&Output::Malformed) };
        let found = stored(view, named.lease)?.filter(|found| found.refreshed == named.refreshed);
        let Some(found) = found else { return no(&Output::Gone) };
        end(view, named.lease, &found)?;
        Ok(Verdict::Commit(Output::Done.encode()))
    }
}

/// A lock that somebody holds, or held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockStatus {
    pub name: Bytes,
    /// Of the newest grant.
    pub epoch: u64,
    pub held: Option<Held>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Locks(Vec<LockStatus>);

impl Format for Locks {
    const NAME: &'static str = "locks";
    const VERSION: u8 = 1;
}

struct RunLocks;

impl Query for RunLocks {
    fn run(&self, view: &dyn ReadView, input: &[u8]) -> Result<Vec<u8>, StoreError> {
        /// A page; names after the last continue.
        const LOCKS_MAX: usize = 1000;
        let start = lock_key(input);
        let end = after_prefix(LOCK_PREFIX).expect("the prefix is not all ones");
        let mut locks = Vec::new();
        for pair in view.range(Bound::Excluded(&start), Bound::Excluded(&end)).take(LOCKS_MAX) {
            let (key, value) = pair?;
            let Lock { epoch, lease } = decode(&value)?;
            let held = match lease {
                Some(lease) => stored(view, lease)?.map(|found| Held { holder: found.holder, lease, epoch }),
                None => None,
            };
            locks.push(LockStatus { name: key.slice(LOCK_PREFIX.len()..), epoch, held });
        }
        Ok(Locks(locks).encode())
    }
}

impl Records {
    /// Grants a lease, and with it the lock of this name if one is given and nobody holds
    /// it. It must be kept ([`Records::keep_lease`]) within each `ttl`, counted by the
    /// holder from before it asked; a third of it is a good rhythm.
    pub async fn grant_lease(
        &self,
        shard: ShardId,
        id: TransactionId,
        ttl: Duration,
        holder: Bytes,
        lock: Option<Bytes>,
        deadline: Instant,
    ) -> Result<Granted, LeaseError> {
        let input = Grant { ttl_millis: ttl.as_millis() as u64, holder, lock }.encode();
        let executed = self.execute(shard, id, GRANT, input.into(), deadline).await?;
        match Output::decode(&executed.output) {
            Ok(Output::Granted(granted)) => Ok(granted),
            Ok(Output::Held(held)) => Err(LeaseError::Held(held)),
            _ => Err(invalid("a lease lasts from 1 s to a day, and its lock's name has 1 to 4,096 bytes")),
        }
    }

    /// Gives a lease its full time again.
    pub async fn keep_lease(
        &self,
        shard: ShardId,
        id: TransactionId,
        lease: LeaseId,
        deadline: Instant,
    ) -> Result<(), LeaseError> {
        self.named(shard, id, KEEP, lease, deadline).await
    }

    /// Ends a lease: its records and its lock are free at once.
    pub async fn release_lease(
        &self,
        shard: ShardId,
        id: TransactionId,
        lease: LeaseId,
        deadline: Instant,
    ) -> Result<(), LeaseError> {
        self.named(shard, id, RELEASE, lease, deadline).await
    }

    async fn named(
        &self,
        shard: ShardId,
        id: TransactionId,
        command: &'static str,
        lease: LeaseId,
        deadline: Instant,
    ) -> Result<(), LeaseError> {
        let input = Named { lease, refreshed: Revision(0) }.encode();
        let executed = self.execute(shard, id, command, input.into(), deadline).await?;
        match Output::decode(&executed.output) {
            Ok(Output::Done) => Ok(()),
            Ok(Output::Gone) => Err(LeaseError::Gone { lease }),
            _ => Err(invalid("the lease is malformed")),
        }
    }

    /// Up to a thousand of the shard's locks, by name, after the one given (empty: from
    /// the first).
    pub async fn locks(
        &self,
        shard: ShardId,
        after: Bytes,
        deadline: Instant,
    ) -> Result<Vec<LockStatus>, RecordsError> {
        let output = self.query(shard, LOCKS, after, deadline).await?;
        let locks = Locks::decode(&output);
        Ok(locks.map_err(|error| RecordsError::Invalid { reason: error.to_string() })?.0)
    }
}

fn invalid(reason: &str) -> LeaseError {
    LeaseError::Records(RecordsError::Invalid { reason: reason.into() })
}

/// One lease's time, as this leader counts it.
#[derive(Debug, Clone, Copy)]
struct Timer {
    refreshed: Revision,
    ends: Instant,
}

/// What the keeper knows of a shard that this node leads.
struct Led {
    term: u64,
    /// How often leases had changed when they were last read.
    changes: u64,
    timers: BTreeMap<LeaseId, Timer>,
}

/// Proposes the expiry of leases whose time is up, in all shards that this node leads.
pub(crate) struct Keeper {
    pub runtime: Runtime,
    pub client: Arc<Client>,
}

impl Keeper {
    pub async fn run(self) {
        let mut led: BTreeMap<ShardId, Led> = BTreeMap::new();
        loop {
            self.runtime.sleep(LOOK_EVERY).await;
            let locals = self.client.led_here();
            led.retain(|shard, led| locals.iter().any(|local| local.0 == *shard && local.1 == led.term));
            for (shard, term, replica) in locals {
                let known = led.entry(shard).or_insert(Led { term, changes: 0, timers: BTreeMap::new() });
                let changes = replica.leases_changed();
                if known.changes != changes {
                    let Some(leases) = self.client.state(replica, |view, _| all_leases(view)).await else {
                        continue;
                    };
                    let now = self.runtime.now();
                    let before = std::mem::take(&mut known.timers);
                    known.timers = leases
                        .into_iter()
                        .map(|(lease, found)| {
                            let running =
                                before.get(&lease).filter(|timer| timer.refreshed == found.refreshed);
                            let mut ends = now + Duration::from_millis(found.ttl_millis);
                            if is_broken(Broken::LeaseCutShort) && known.changes == 0 {
                                ends = now;
                            }
                            let timer = Timer { refreshed: found.refreshed, ends };
                            (lease, running.copied().unwrap_or(timer))
                        })
                        .collect();
                    known.changes = changes;
                }
                self.expire(shard, &mut known.timers).await;
            }
        }
    }

    async fn expire(&self, shard: ShardId, timers: &mut BTreeMap<LeaseId, Timer>) {
        let now = self.runtime.now();
        for (lease, timer) in timers.iter_mut().filter(|(_, timer)| timer.ends <= now) {
            timer.ends = now + EXPIRE_AGAIN;
            let input = Named { lease: *lease, refreshed: timer.refreshed }.encode().into();
            let (reply, outcome) = oneshot::channel();
            let id = self.runtime.transaction_id();
            let proposal = Proposal { id, command: EXPIRE, input, reply };
            // The driver is gone when the node stops.
            let _ = self.client.inbox.send(Input::Propose { shard, proposal }).await;
            // Whether it had an effect shows in the leases; but what nobody waits for is
            // not proposed.
            drop(self.runtime.spawn("records-expiry", outcome));
        }
    }
}

fn all_leases(view: &dyn ReadView) -> Result<Vec<(LeaseId, Stored)>, StoreError> {
    let end = after_prefix(LEASE_PREFIX).expect("the prefix is not all ones");
    let mut leases = Vec::new();
    for pair in view.range(Bound::Included(LEASE_PREFIX), Bound::Excluded(&end)) {
        let (key, value) = pair?;
        let malformed = || StoreError { operation: "decode", source: "a lease's key is malformed".into() };
        let id = key[LEASE_PREFIX.len()..].try_into().map_err(|_| malformed())?;
        leases.push((LeaseId(u64::from_be_bytes(id)), decode(&value)?));
    }
    Ok(leases)
}
