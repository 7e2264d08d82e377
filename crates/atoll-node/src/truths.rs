//! The cluster's own truths in shard 0: what it is, its layout, its tickets.
//!
//! The commands only compare and store. What the next layout is, is worked out by whoever
//! proposes it (`atoll-placement`), so that two versions of that code never run inside
//! one shard.

use atoll_disk::StoreError;
use atoll_records::{
    Command, Executed, Procedures, Query, ReadView, Records, RecordsError, Verdict, WriteView,
};
use atoll_runtime::Runtime;
use atoll_types::{ClusterId, Format, Instant, NodeId, OverlayKind, ShardId, WallTime};
use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::ticket::{TicketId, TicketSecret};

const INFO: &[u8] = b"cluster/info";
const LAYOUT: &[u8] = b"cluster/layout";
const TICKETS: &[u8] = b"cluster/ticket/";
const SPENT: &[u8] = b"cluster/spent/";

/// What a cluster is, once and for all, but for its version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterInfo {
    pub id: ClusterId,
    pub created: WallTime,
    /// Formats newer than this are not written yet (rule 18).
    pub version: u32,
}

/// What this program can write and read: raised with each format that older programs
/// do not know.
///
/// 2: a layout that names a kind of overlay. 3: versions of objects; users, grants, bucket
/// policies and the audit trail; the kinds of overlay that older programs sit out. 4: snapshots,
/// and buckets restored from them; objects that are encrypted. 5: owners and ACLs of objects,
/// ownership controls of buckets.
pub const PROGRAM_VERSION: u32 = 5;

const _: () = assert!(PROGRAM_VERSION >= atoll_objects::VERSIONS_SINCE);
const _: () = assert!(PROGRAM_VERSION >= atoll_objects::SNAPSHOTS_SINCE);
const _: () = assert!(PROGRAM_VERSION >= atoll_objects::ENCRYPTION_SINCE);
const _: () = assert!(PROGRAM_VERSION >= atoll_objects::ACLS_SINCE);

/// From this cluster version on a layout may name a kind of overlay, and from which one this
/// kind: programs before sit it out.
pub const fn overlay_played_since(kind: OverlayKind) -> u32 {
    match kind {
        OverlayKind::Chord | OverlayKind::Kademlia | OverlayKind::Pastry | OverlayKind::Flood => 2,
        OverlayKind::Directory | OverlayKind::Walk | OverlayKind::Hybrid => 3,
    }
}

/// From this cluster version on shard 0 may keep users, and what comes with them.
pub const USERS_SINCE: u32 = 3;

impl Format for ClusterInfo {
    const NAME: &'static str = "cluster info";
    const VERSION: u8 = 1;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketRecord {
    pub secret: TicketSecret,
    pub uses_left: u32,
    pub expires: WallTime,
}

impl Format for TicketRecord {
    const NAME: &'static str = "ticket record";
    const VERSION: u8 = 1;
}

#[derive(Serialize, Deserialize)]
struct Found {
    info: ClusterInfo,
    layout: Bytes,
}

#[derive(Serialize, Deserialize)]
struct ReplaceLayout {
    expected: u64,
    version: u64,
    layout: Bytes,
}

/// A layout as shard 0 keeps it: its version outside, to be compared without decoding.
#[derive(Serialize, Deserialize)]
pub(crate) struct StoredLayout {
    version: u64,
    layout: Bytes,
}

impl Format for StoredLayout {
    const NAME: &'static str = "stored layout";
    const VERSION: u8 = 1;
}

#[derive(Serialize, Deserialize)]
struct CreateTicket {
    id: TicketId,
    secret: TicketSecret,
    uses: u32,
    lifetime_millis: u64,
}

#[derive(Serialize, Deserialize)]
struct SpendTicket {
    id: TicketId,
    joiner: NodeId,
}

/// Why a ticket admits nobody. It was not spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum TicketRefused {
    #[error("the ticket is not known: it expired, or belongs to another cluster")]
    Unknown,
    #[error("the ticket expired")]
    Expired,
    #[error("the ticket is used up")]
    UsedUp,
    #[error("the ticket's secret was not proven")]
    NotProven,
}

fn ticket_key(id: &TicketId) -> Vec<u8> {
    [TICKETS, &id.0].concat()
}

fn spent_key(id: &TicketId, joiner: &NodeId) -> Vec<u8> {
    [SPENT, &id.0, joiner.as_bytes()].concat()
}

/// A command made of a request type and a function.
struct Apply<R>(fn(&mut dyn WriteView, R) -> Result<Verdict, StoreError>);

impl<R: DeserializeOwned + Send + 'static> Command for Apply<R> {
    fn apply(&self, view: &mut dyn WriteView, input: &[u8]) -> Result<Verdict, StoreError> {
        match postcard::from_bytes(input) {
            Ok(request) => (self.0)(view, request),
            Err(_) => Ok(Verdict::Abort(Vec::new())),
        }
    }
}

struct Ask<R>(fn(&dyn ReadView, R) -> Result<Vec<u8>, StoreError>);

impl<R: DeserializeOwned + Send + 'static> Query for Ask<R> {
    fn run(&self, view: &dyn ReadView, input: &[u8]) -> Result<Vec<u8>, StoreError> {
        match postcard::from_bytes(input) {
            Ok(request) => (self.0)(view, request),
            Err(_) => Ok(Vec::new()),
        }
    }
}

fn encode(value: &impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(value).expect("derived types always encode")
}

fn found(view: &mut dyn WriteView, request: Found) -> Result<Verdict, StoreError> {
    if view.get(INFO)?.is_some() {
        return Ok(Verdict::Abort(Vec::new()));
    }
    view.put(INFO, request.info.encode().into());
    view.put(LAYOUT, StoredLayout { version: 1, layout: request.layout }.encode().into());
    Ok(Verdict::Commit(Vec::new()))
}

fn stored_layout(view: &(impl ReadView + ?Sized)) -> Result<Option<StoredLayout>, StoreError> {
    // A layout that does not decode was written by a newer program; it is treated as
    // absent, which refuses every change.
    Ok(view.get(LAYOUT)?.and_then(|bytes| StoredLayout::decode(&bytes).ok()))
}

fn replace_layout(view: &mut dyn WriteView, request: ReplaceLayout) -> Result<Verdict, StoreError> {
    let current = stored_layout(view)?.map(|stored| stored.version);
    if current != Some(request.expected) || request.version <= request.expected {
        return Ok(Verdict::Abort(Vec::new()));
    }
    let stored = StoredLayout { version: request.version, layout: request.layout };
    view.put(LAYOUT, stored.encode().into());
    Ok(Verdict::Commit(Vec::new()))
}

/// The layout's bytes, if it is newer than asked.
fn newer_layout(view: &dyn ReadView, newer_than: u64) -> Result<Vec<u8>, StoreError> {
    let stored = stored_layout(view)?.filter(|stored| stored.version > newer_than);
    Ok(stored.map(|stored| stored.layout.to_vec()).unwrap_or_default())
}

fn create_ticket(view: &mut dyn WriteView, request: CreateTicket) -> Result<Verdict, StoreError> {
    forget_expired_tickets(view)?;
    let expires = view.stamp() + std::time::Duration::from_millis(request.lifetime_millis);
    let record = TicketRecord { secret: request.secret, uses_left: request.uses, expires };
    view.put(&ticket_key(&request.id), record.encode().into());
    Ok(Verdict::Commit(encode(&expires)))
}

/// Tickets are few and short-lived: whoever makes one clears away those that ended.
fn forget_expired_tickets(view: &mut dyn WriteView) -> Result<(), StoreError> {
    use std::ops::Bound::{Excluded, Included};
    let now = view.stamp();
    let end = [&TICKETS[..TICKETS.len() - 1], b"0"].concat();
    let mut expired = Vec::new();
    for pair in view.range(Included(TICKETS), Excluded(&end)) {
        let (key, value) = pair?;
        if TicketRecord::decode(&value).is_ok_and(|record| record.expires < now) {
            expired.push(key);
        }
    }
    for key in expired {
        let spent_from = [SPENT, &key[TICKETS.len()..]].concat();
        let spent_to = [&spent_from[..], &[0xff; 33]].concat();
        let spent: Vec<Bytes> = view
            .range(Included(&spent_from), Excluded(&spent_to))
            .map(|pair| pair.map(|(key, _)| key))
            .collect::<Result<_, _>>()?;
        for key in spent {
            view.delete(&key);
        }
        view.delete(&key);
    }
    Ok(())
}

fn spend_ticket(view: &mut dyn WriteView, request: SpendTicket) -> Result<Verdict, StoreError> {
    let refuse = |why: TicketRefused| Ok(Verdict::Abort(encode(&why)));
    let spent = spent_key(&request.id, &request.joiner);
    if view.get(&spent)?.is_some() {
        // A joiner whose answer was lost asks again.
        return Ok(Verdict::Commit(Vec::new()));
    }
    let key = ticket_key(&request.id);
    let Some(mut record) = view.get(&key)?.and_then(|bytes| TicketRecord::decode(&bytes).ok()) else {
        return refuse(TicketRefused::Unknown);
    };
    if record.expires < view.stamp() {
        return refuse(TicketRefused::Expired);
    }
    if record.uses_left == 0 {
        return refuse(TicketRefused::UsedUp);
    }
    record.uses_left -= 1;
    view.put(&key, record.encode().into());
    view.put(&spent, Bytes::new());
    Ok(Verdict::Commit(Vec::new()))
}

fn raise_version(view: &mut dyn WriteView, version: u32) -> Result<Verdict, StoreError> {
    let Some(mut info) = view.get(INFO)?.and_then(|bytes| ClusterInfo::decode(&bytes).ok()) else {
        return Ok(Verdict::Abort(Vec::new()));
    };
    if version <= info.version {
        return Ok(Verdict::Abort(Vec::new()));
    }
    info.version = version;
    view.put(INFO, info.encode().into());
    Ok(Verdict::Commit(Vec::new()))
}

/// What this module runs in shard 0.
pub fn register(procedures: &mut Procedures) {
    procedures
        .command("cluster/found/1", Apply(found))
        .command("cluster/replace-layout/1", Apply(replace_layout))
        .command("cluster/create-ticket/1", Apply(create_ticket))
        .command("cluster/spend-ticket/1", Apply(spend_ticket))
        .command("cluster/raise-version/1", Apply(raise_version))
        .query("cluster/info/1", Ask(|view, ()| Ok(view.get(INFO)?.unwrap_or_default().to_vec())))
        .query("cluster/layout/1", Ask(newer_layout))
        .query(
            "cluster/ticket/1",
            Ask(|view, id: TicketId| Ok(view.get(&ticket_key(&id))?.unwrap_or_default().to_vec())),
        );
}

/// Asks and changes shard 0's own records.
#[derive(Clone)]
pub struct Truths {
    pub runtime: Runtime,
    pub records: Records,
}

/// Shard 0 gave no usable answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TruthsError {
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// Written by a newer program, or this cluster was never founded.
    #[error("shard 0 has no readable {what}")]
    Unreadable { what: &'static str },
}

impl Truths {
    async fn execute(
        &self,
        command: &'static str,
        request: &impl Serialize,
        deadline: Instant,
    ) -> Result<Executed, RecordsError> {
        let id = self.runtime.transaction_id();
        self.records.execute(ShardId::META, id, command, encode(request).into(), deadline).await
    }

    async fn query(
        &self,
        query: &'static str,
        request: &impl Serialize,
        deadline: Instant,
    ) -> Result<Bytes, RecordsError> {
        self.records.query(ShardId::META, query, encode(request).into(), deadline).await
    }

    /// False if the cluster was founded before: the records are as they were.
    pub async fn found(
        &self,
        info: ClusterInfo,
        layout: Bytes,
        deadline: Instant,
    ) -> Result<bool, TruthsError> {
        Ok(self.execute("cluster/found/1", &Found { info, layout }, deadline).await?.committed)
    }

    pub async fn info(&self, deadline: Instant) -> Result<ClusterInfo, TruthsError> {
        let bytes = self.query("cluster/info/1", &(), deadline).await?;
        ClusterInfo::decode(&bytes).map_err(|_| TruthsError::Unreadable { what: "cluster info" })
    }

    /// The layout's bytes if it is newer than `newer_than`.
    pub async fn layout(&self, newer_than: u64, deadline: Instant) -> Result<Option<Bytes>, TruthsError> {
        let bytes = self.query("cluster/layout/1", &newer_than, deadline).await?;
        Ok(Some(bytes).filter(|bytes| !bytes.is_empty()))
    }

    /// False if the layout is no longer `expected`; the caller looks again.
    pub async fn replace_layout(
        &self,
        expected: u64,
        version: u64,
        layout: Bytes,
        deadline: Instant,
    ) -> Result<bool, TruthsError> {
        let request = ReplaceLayout { expected, version, layout };
        Ok(self.execute("cluster/replace-layout/1", &request, deadline).await?.committed)
    }

    /// When it expires, by the leader's stamp.
    pub async fn create_ticket(
        &self,
        id: TicketId,
        secret: TicketSecret,
        uses: u32,
        lifetime: std::time::Duration,
        deadline: Instant,
    ) -> Result<WallTime, TruthsError> {
        let lifetime_millis = u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX);
        let request = CreateTicket { id, secret, uses, lifetime_millis };
        let executed = self.execute("cluster/create-ticket/1", &request, deadline).await?;
        postcard::from_bytes(&executed.output).map_err(|_| TruthsError::Unreadable { what: "ticket" })
    }

    pub async fn ticket(&self, id: TicketId, deadline: Instant) -> Result<Option<TicketRecord>, TruthsError> {
        let bytes = self.query("cluster/ticket/1", &id, deadline).await?;
        Ok(TicketRecord::decode(&bytes).ok())
    }

    /// Spends one use for `joiner`, once, however often it asks.
    pub async fn spend_ticket(
        &self,
        id: TicketId,
        joiner: NodeId,
        deadline: Instant,
    ) -> Result<Result<(), TicketRefused>, TruthsError> {
        let executed = self.execute("cluster/spend-ticket/1", &SpendTicket { id, joiner }, deadline).await?;
        if executed.committed {
            return Ok(Ok(()));
        }
        Ok(Err(postcard::from_bytes(&executed.output).unwrap_or(TicketRefused::Unknown)))
    }

    pub async fn raise_version(&self, version: u32, deadline: Instant) -> Result<bool, TruthsError> {
        Ok(self.execute("cluster/raise-version/1", &version, deadline).await?.committed)
    }
}
