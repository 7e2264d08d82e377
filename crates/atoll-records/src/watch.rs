//! Watches: what changed in a shard since a revision, told as it happens.
//!
//! Each shard keeps its newest changes in its state, so a watcher resumes from its
//! revision on whatever node leads next. One that comes back after its changes were
//! dropped is told so ([`WatchError::Compacted`]), reads everything anew, and watches from
//! that read's revision.
//!
//! Only keys under a watched prefix are recorded ([`crate::Procedures::watched`]), and in
//! shard 0 all: elsewhere most writes are nobody's news, and each would be stored twice.
//!
//! A watcher asks the leader, which answers when there is news, or after a while that there
//! is none, having made sure by a round of heartbeats that it still leads: so silence
//! means that nothing happened, and [`Watch::current_as_of`] says until when.

use std::{ops::Bound, sync::Arc, time::Duration};

use atoll_disk::{StoreError, Table};
use atoll_types::{Format, Instant, Revision, ShardId};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    Records, RecordsError,
    client::Client,
    state::{Area, ChangesMeta, PREFIX_BYTES, Place, as_slices, decode},
    view::{Pending, StateView},
};

/// The change log's size: 10,000 changes, or 4 MiB. Minutes of a busy shard; a watcher
/// that is away for longer reads everything anew.
const CHANGES_MAX: u64 = 10_000;
const CHANGES_BYTES_MAX: u64 = 4 << 20;
/// One answer: 1,000 changes, or about 1 MiB.
const ANSWER_CHANGES_MAX: usize = 1000;
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// How long the leader waits for news before it says that there is none.
const QUIET: Duration = Duration::from_secs(1);
/// Changes of so long share an answer.
const GATHER: Duration = Duration::from_millis(5);
/// How long one question may take, elections included.
const QUESTION_LIMIT: Duration = Duration::from_secs(5);

/// One write to one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub revision: Revision,
    pub key: Bytes,
    /// `None`: deleted.
    pub value: Option<Bytes>,
}

/// A change as it is kept; its revision is in its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stored {
    key: Bytes,
    value: Option<Bytes>,
}

impl Format for Stored {
    const NAME: &'static str = "change";
    const VERSION: u8 = 1;
}

/// Records what one entry wrote. `written` are the store's keys, in order.
pub(crate) fn record(
    pending: &mut Pending<'_>,
    place: Place,
    revision: Revision,
    written: &[Bytes],
    is_watched: impl Fn(&[u8]) -> bool,
    meta: &mut ChangesMeta,
) -> Result<(), StoreError> {
    let mut position: u32 = 0;
    for stored_key in written {
        let key = stored_key.slice(PREFIX_BYTES..);
        if !is_watched(&key) {
            continue;
        }
        let value = pending.written(stored_key).cloned().flatten();
        let change = Stored { key, value }.encode();
        meta.count += 1;
        meta.bytes += change.len() as u64;
        pending.put(change_key(place, revision, position), change.into());
        position += 1;
    }
    while position > 0 && (meta.count > CHANGES_MAX || meta.bytes > CHANGES_BYTES_MAX) {
        if !drop_oldest(pending, place, meta)? {
            break;
        }
    }
    Ok(())
}

fn change_key(place: Place, revision: Revision, position: u32) -> Bytes {
    place.key(Area::Changes, &[&revision.0.to_be_bytes()[..], &position.to_be_bytes()].concat())
}

fn revision_of(stored_key: &[u8]) -> Option<Revision> {
    let bytes = stored_key.get(PREFIX_BYTES..PREFIX_BYTES + 8)?;
    Some(Revision(u64::from_be_bytes(bytes.try_into().ok()?)))
}

fn after(place: Place, revision: Revision) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
    (Bound::Included(change_key(place, Revision(revision.0 + 1), 0).to_vec()), place.area(Area::Changes).1)
}

/// Drops the changes of the oldest revision that has any; false if there are none.
fn drop_oldest(pending: &mut Pending<'_>, place: Place, meta: &mut ChangesMeta) -> Result<bool, StoreError> {
    let range = after(place, meta.compacted);
    let mut oldest = None;
    let mut dropped = Vec::new();
    for pair in pending.range(&range) {
        let (key, value) = pair?;
        let revision = revision_of(&key);
        if oldest.is_some() && oldest != Some(revision) {
            break;
        }
        oldest = Some(revision);
        meta.count = meta.count.saturating_sub(1);
        meta.bytes = meta.bytes.saturating_sub(value.len() as u64);
        dropped.push(key);
    }
    let Some(Some(revision)) = oldest else { return Ok(false) };
    for key in dropped {
        pending.delete(key);
    }
    meta.compacted = revision;
    Ok(true)
}

/// A leader's answer to a watcher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum News {
    /// Everything up to `upto`.
    Changes {
        upto: Revision,
        changes: Vec<Change>,
    },
    Compacted {
        compacted: Revision,
    },
}

impl Format for News {
    const NAME: &'static str = "watch news";
    const VERSION: u8 = 1;
}

/// The changes after a revision, as one state has them.
pub(crate) fn news(
    view: &StateView<'_>,
    meta: &ChangesMeta,
    prefix: &[u8],
    since: Revision,
) -> Result<News, StoreError> {
    if since < meta.compacted {
        return Ok(News::Compacted { compacted: meta.compacted });
    }
    let range = after(view.place, since);
    let (start, end) = as_slices(&range);
    let mut changes: Vec<Change> = Vec::new();
    let mut bytes = 0;
    for pair in view.snapshot.range(Table::Records, start, end) {
        let (key, value) = pair?;
        let revision = revision_of(&key).ok_or_else(|| StoreError {
            operation: "decode",
            source: "a change's key is malformed".into(),
        })?;
        let full = changes.len() >= ANSWER_CHANGES_MAX || bytes >= ANSWER_BYTES_MAX;
        // A revision is told whole.
        if full && changes.last().is_some_and(|last| last.revision < revision) {
            let upto = changes.last().expect("just seen").revision;
            return Ok(News::Changes { upto, changes });
        }
        let Stored { key, value } = decode(&value)?;
        if key.starts_with(prefix) {
            bytes += key.len() + value.as_ref().map_or(0, Bytes::len);
            changes.push(Change { revision, key, value });
        }
    }
    Ok(News::Changes { upto: view.revision, changes })
}

impl Client {
    /// Answers a watcher with the replica that is here; `None` if it does not lead.
    pub async fn news_here(
        &self,
        shard: ShardId,
        prefix: Bytes,
        since: Revision,
        deadline: Instant,
    ) -> Option<News> {
        let quiet = deadline.min(self.runtime.now() + QUIET);
        let replica = self.led_here().into_iter().find(|led| led.0 == shard)?.2;
        let mut applied = replica.applied.subscribe();
        loop {
            applied.borrow_and_update();
            let found = self.look(&replica, &prefix, since).await?;
            if !matches!(&found, News::Changes { changes, .. } if changes.is_empty()) {
                return Some(found);
            }
            if self.runtime.timeout_at(quiet, applied.changed()).await.is_err() {
                break;
            }
            self.runtime.sleep(GATHER).await;
        }
        // No news only counts from one that leads still.
        let permit = self.permit(shard, deadline).await?;
        let mut applied = permit.replica.applied.subscribe();
        let reached = applied.wait_for(|applied| *applied >= permit.index);
        self.runtime.timeout_at(deadline, reached).await.ok()?.ok()?;
        self.look(&permit.replica, &prefix, since).await
    }

    async fn look(
        &self,
        replica: &Arc<crate::group::ReplicaShared>,
        prefix: &Bytes,
        since: Revision,
    ) -> Option<News> {
        let prefix = prefix.clone();
        self.state(replica.clone(), move |view, meta| news(view, &meta.changes, &prefix, since)).await
    }
}

/// Why a watch brought no news. It may be asked again, except after `Compacted`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// Changes up to this revision were dropped. Read what you watch, and begin a new
    /// watch at that read's revision.
    #[error("changes up to revision {compacted} are gone")]
    Compacted { compacted: Revision },
    /// See there.
    #[error(transparent)]
    Records(#[from] RecordsError),
}

/// A running watch. Dropping it ends it; nothing is kept for it anywhere.
pub struct Watch {
    records: Records,
    shard: ShardId,
    prefix: Bytes,
    revision: Revision,
    current_as_of: Option<Instant>,
}

impl Watch {
    /// The next changes, in order, whole transactions at a time. Empty every second or so
    /// when nothing happens. Can be dropped and called again.
    pub async fn next(&mut self) -> Result<Vec<Change>, WatchError> {
        let asked = self.records.now();
        let deadline = asked + QUESTION_LIMIT;
        match self.records.news(self.shard, self.prefix.clone(), self.revision, deadline).await? {
            News::Changes { upto, changes } => {
                // An answer that was full tells of later changes with the next one.
                self.revision = self.revision.max(upto);
                self.current_as_of = Some(asked);
                Ok(changes)
            }
            News::Compacted { compacted } => Err(WatchError::Compacted { compacted }),
        }
    }

    /// Everything up to here was told. A watch begun after it goes on from here, on any
    /// node.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Everything that was acknowledged before this moment was told, except what more
    /// than filled the last answer. `None` before the first answer.
    pub fn current_as_of(&self) -> Option<Instant> {
        self.current_as_of
    }
}

impl Records {
    /// Tells what changes under `prefix` after `revision`: keys as commands write them.
    /// Begin with a query, and watch from the revision that it saw.
    pub fn watch(&self, shard: ShardId, prefix: impl Into<Bytes>, revision: Revision) -> Watch {
        let prefix = prefix.into();
        Watch { records: self.clone(), shard, prefix, revision, current_as_of: None }
    }
}
