//! Which chunks a shard's records refer to, for repair and reclaim (rule 9): the reclaim
//! epoch, the sweep over records that nobody names, the log of new references, and the
//! walk over all of them.

use std::{ops::Bound, time::Duration};

use atoll_disk::StoreError;
use atoll_records::{ReadView, WriteView};
use atoll_types::Revision;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    CommandName, Fault, QueryName, decode, epoch, keys,
    object::delete_segments,
    read,
    records::{
        ChangeRecord, DroppedRecord, FinishedRecord, NumberRecord, PartRecord, PendingRecord, SegmentRecord,
        SnapshotRecord, SweepRecord, VersionRecord,
    },
    scan, scan_from, write,
};
use crate::{
    manifest::{ChunkRef, Manifest},
    slots::SlotSet,
};

pub const CLAIM_SWEEP: CommandName<ClaimSweep, Option<u64>> =
    CommandName::new("objects/sweep-claim/1", claim_sweep);
pub const RAISE_EPOCH: CommandName<u64, u64> = CommandName::new("objects/epoch-raise/1", raise_epoch);
pub const SWEEP: CommandName<Sweep, Swept> = CommandName::new("objects/sweep/1", sweep);
pub const EPOCH: QueryName<(), u64> = QueryName::new("objects/epoch/1", read_epoch);
pub const CHANGES: QueryName<Changes, Changed> = QueryName::new("objects/changes/1", changes);
pub const REFERENCES: QueryName<References, Referenced> = QueryName::new("objects/references/1", references);
pub const ALL_REFERENCES: QueryName<References, AllReferenced> =
    QueryName::new("objects/references/2", all_references);

/// In shard 0: begins a sweep if the last is old enough, and gives the epoch that all
/// shards are to be raised to. Whoever asks first has the sweep to do; if it stops
/// half-way, the next one raises them all further.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClaimSweep {
    pub interval: Duration,
}

fn claim_sweep(view: &mut dyn WriteView, input: ClaimSweep) -> Result<Option<u64>, Fault> {
    let last: Option<SweepRecord> = read(view, &keys::LAST_SWEEP)?;
    let begun = view.stamp();
    if last.is_some_and(|last| begun.saturating_since(last.begun) < input.interval) {
        return Ok(None);
    }
    // Shards begin at 1.
    let epoch = last.map_or(1, |last| last.epoch) + 1;
    write(view, &keys::LAST_SWEEP, &SweepRecord { begun, epoch });
    Ok(Some(epoch))
}

/// Raises the shard's reclaim epoch, never lowers it; gives what it is then.
fn raise_epoch(view: &mut dyn WriteView, to: u64) -> Result<u64, Fault> {
    let now = epoch(view)?.max(to);
    write(view, &keys::EPOCH, &NumberRecord(now));
    Ok(now)
}

fn read_epoch(view: &dyn ReadView, (): ()) -> Result<u64, Fault> {
    Ok(epoch(view)?)
}

/// What no commit of an epoch up to this one can still want: commits need to be at most
/// one behind, so the shard's epoch less two.
fn expired_until(view: &(impl ReadView + ?Sized)) -> Result<Option<u64>, StoreError> {
    Ok(epoch(view)?.checked_sub(2))
}

/// Deletes up to `limit` records that expired with the last sweeps.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sweep {
    pub limit: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swept {
    pub removed: u64,
    /// Something may be left: sweep again.
    pub more: bool,
}

fn sweep(view: &mut dyn WriteView, input: Sweep) -> Result<Swept, Fault> {
    let Some(expired) = expired_until(view)? else { return Ok(Swept { removed: 0, more: false }) };
    let limit = input.limit as usize;
    let mut removed = 0;

    let mut pending = Vec::new();
    for pair in scan(view, &keys::PENDING) {
        let (key, value) = pair?;
        if pending.len() + removed >= limit {
            break;
        }
        if decode::<PendingRecord>(&value)?.epoch <= expired {
            pending.push(key);
        }
    }
    for key in pending {
        if let Some((bucket, manifest)) = keys::pending_of(&key) {
            removed += delete_segments(view, bucket, manifest)?;
        }
        view.delete(&key);
        removed += 1;
    }

    // Their keys begin with the epoch, so the old ones come first.
    let Some(end) = keys::after_prefix(keys::dropped(expired, Revision(u64::MAX), u32::MAX)) else {
        return Ok(Swept { removed: removed as u64, more: false });
    };
    let mut dropped = Vec::new();
    for pair in view.range(Bound::Included(&keys::DROPPED), Bound::Excluded(&end)) {
        let (key, value) = pair?;
        if dropped.len() + removed >= limit {
            break;
        }
        dropped.push((key, decode::<DroppedRecord>(&value)?));
    }
    for (key, record) in dropped {
        if removed >= limit {
            return Ok(Swept { removed: removed as u64, more: true });
        }
        let finished = match record {
            DroppedRecord::Segments { bucket, manifest } => {
                removed += delete_segments(view, bucket, manifest)?;
                true
            }
            DroppedRecord::Parts { bucket, upload } => {
                // Up to 10,000 parts with segments of their own: a bounded number at a time.
                let mut parts = Vec::new();
                for pair in scan(view, &keys::parts(bucket, upload)).take((limit - removed).max(1)) {
                    let (key, value) = pair?;
                    parts.push((key, decode::<PartRecord>(&value)?.content.manifest));
                }
                let all = parts.len() < (limit - removed).max(1);
                for (key, manifest) in parts {
                    if let Manifest::Segments { manifest, .. } = manifest {
                        removed += delete_segments(view, bucket, manifest)?;
                    }
                    view.delete(&key);
                    removed += 1;
                }
                all
            }
        };
        if finished {
            view.delete(&key);
            removed += 1;
        }
    }

    removed += remove_finished(view, expired, limit.saturating_sub(removed))?;
    removed += cut_changes(view, expired, limit.saturating_sub(removed))?;
    Ok(Swept { removed: removed as u64, more: removed >= limit })
}

fn remove_finished(view: &mut dyn WriteView, expired: u64, limit: usize) -> Result<usize, StoreError> {
    let mut old = Vec::new();
    for pair in scan(view, &keys::FINISHED) {
        let (key, value) = pair?;
        if old.len() >= limit {
            break;
        }
        if decode::<FinishedRecord>(&value)?.epoch <= expired {
            old.push(key);
        }
    }
    for key in &old {
        view.delete(key);
    }
    Ok(old.len())
}

/// Shortens the log of references. Who was away for longer walks all of them.
fn cut_changes(view: &mut dyn WriteView, expired: u64, limit: usize) -> Result<usize, StoreError> {
    let mut old = Vec::new();
    for pair in scan(view, &keys::CHANGE).take(limit) {
        let (key, value) = pair?;
        if decode::<ChangeRecord>(&value)?.epoch > expired {
            break;
        }
        old.push(key);
    }
    if let Some(revision) = old.last().and_then(|key| keys::change_of(key)) {
        write(view, &keys::CHANGES_CUT, &NumberRecord(revision.0));
    }
    for key in &old {
        view.delete(key);
    }
    Ok(old.len())
}

/// The references that came after a revision, to chunks in some slots.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Changes {
    pub after: Revision,
    pub slots: SlotSet,
    /// Stops after the record that brings the number of chunks to this.
    pub limit: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    pub chunks: Vec<ChunkRef>,
    /// Everything up to here was looked at.
    pub until: Revision,
    pub more: bool,
    /// The log doesn't reach back to `after`: all references must be walked.
    pub cut: bool,
}

fn changes(view: &dyn ReadView, input: Changes) -> Result<Changed, Fault> {
    let cut = read::<NumberRecord>(view, &keys::CHANGES_CUT)?.map_or(0, |number| number.0);
    if input.after.0 < cut {
        return Ok(Changed { chunks: Vec::new(), until: view.revision(), more: false, cut: true });
    }
    let mut changed = Changed { chunks: Vec::new(), until: view.revision(), more: false, cut: false };
    let start = keys::change(input.after);
    for pair in scan_from(view, Bound::Excluded(&start), &keys::CHANGE) {
        let (key, value) = pair?;
        if changed.chunks.len() >= input.limit as usize {
            changed.more = true;
            break;
        }
        if let Some(revision) = keys::change_of(&key) {
            changed.until = revision;
        }
        let ChangeRecord { key, .. } = decode(&value)?;
        // Gone: nothing refers to its chunks any more, or another record does, which has
        // a later entry of its own.
        if let Some(record) = view.get(&key)? {
            collect(&key, &record, &input.slots, &mut changed.chunks)?;
        }
    }
    if !changed.more {
        changed.until = view.revision();
    }
    Ok(changed)
}

/// One page of the walk over all references.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct References {
    /// `next` of the page before.
    pub after: Option<Bytes>,
    pub slots: SlotSet,
    /// Stops when this many records were read or chunks collected.
    pub limit: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Referenced {
    pub chunks: Vec<ChunkRef>,
    pub next: Option<Bytes>,
    /// Of this page: a walk covers everything up to its first page's revision.
    pub revision: Revision,
}

/// The pages of a walk are separate reads. What moves in between is still found: a
/// record with references never changes its key, and a new one has a fresh stamp on its
/// chunks and an entry in the log of references.
fn references(view: &dyn ReadView, input: References) -> Result<Referenced, Fault> {
    let mut page = Referenced { chunks: Vec::new(), next: None, revision: view.revision() };
    let mut budget = input.limit as usize;
    let tags = [keys::PART, keys::SEGMENT, keys::VERSION];
    for tag in tags {
        let start = match &input.after {
            Some(after) if after[..] >= keys::after_prefix(tag.to_vec()).unwrap_or_default()[..] => continue,
            Some(after) if after.starts_with(&tag) => Bound::Excluded(&after[..]),
            _ => Bound::Included(&tag[..]),
        };
        for pair in scan_from(view, start, &tag) {
            let (key, record) = pair?;
            let before = page.chunks.len();
            collect(&key, &record, &input.slots, &mut page.chunks)?;
            budget = budget.saturating_sub(1 + page.chunks.len() - before);
            if budget == 0 {
                page.next = Some(key);
                return Ok(page);
            }
        }
    }
    Ok(page)
}

/// A page, and with the last one the snapshots that are kept here: what they refer to is in
/// chunks of theirs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllReferenced {
    pub page: Referenced,
    /// The root of each.
    pub snapshots: Vec<Vec<ChunkRef>>,
    /// A snapshot is being made: what it refers to may be gone from the records already, and
    /// is not told yet. Nothing may be reclaimed now.
    pub snapshot_begun: bool,
}

/// The snapshots are read last, and at once. So of a chunk that only a snapshot refers to a
/// walk either met the record, which was there when the snapshot was begun, or comes here after
/// the snapshot was begun, and sees that or the snapshot.
fn all_references(view: &dyn ReadView, input: References) -> Result<AllReferenced, Fault> {
    let page = references(view, input)?;
    let mut all = AllReferenced { page, snapshots: Vec::new(), snapshot_begun: false };
    if all.page.next.is_some() {
        return Ok(all);
    }
    for pair in scan(view, &keys::SNAPSHOT) {
        all.snapshots.push(decode::<SnapshotRecord>(&pair?.1)?.root);
    }
    if let Some(intent) = scan(view, &keys::INTENT).next() {
        intent?;
        all.snapshot_begun = true;
    }
    Ok(all)
}

/// The references in one record, by the tag of its key.
fn collect(key: &[u8], record: &[u8], slots: &SlotSet, into: &mut Vec<ChunkRef>) -> Result<(), StoreError> {
    let chunks = if key.starts_with(&keys::SEGMENT) {
        decode::<SegmentRecord>(record)?.chunks
    } else {
        let manifest = if key.starts_with(&keys::PART) {
            decode::<PartRecord>(record)?.content.manifest
        } else {
            decode::<VersionRecord>(record)?.content.manifest
        };
        match manifest {
            Manifest::Chunks(chunks) => chunks,
            // Their chunks are in records of their own.
            Manifest::Inline | Manifest::Segments { .. } | Manifest::Parts { .. } => return Ok(()),
        }
    };
    into.extend(chunks.into_iter().filter(|chunk| slots.contains(chunk.hash.slot())));
    Ok(())
}
