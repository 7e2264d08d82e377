//! Snapshots of shards, as their records know them: rounds, intents, and what is kept.
//!
//! A round begins in shard 0. For each shard its leader then commits an intent, reads the
//! shard's state of after that, writes it to chunks, and commits a record that names them. From
//! the intent on nothing is reclaimed until the record says what the snapshot refers to. Shard
//! 0 itself is not part of reclaim: its snapshots are kept in shard 1.

use std::time::Duration;

use atoll_records::{ReadView, WriteView};
use atoll_types::{Revision, ShardId, WallTime};
use serde::{Deserialize, Serialize};

use super::{
    CommandName, Fault, QueryName, check_epoch, decode, keys, read,
    records::{IntentRecord, SnapshotRecord, SweepRecord},
    scan, write,
};
use crate::manifest::ChunkRef;

pub const CLAIM: CommandName<Option<Duration>, u64> = CommandName::new("objects/snapshot-claim/1", claim);
pub const ROUND: QueryName<(), Option<(u64, WallTime)>> = QueryName::new("objects/snapshot-round/1", round);
pub const BEGIN: CommandName<Begin, Begun> = CommandName::new("objects/snapshot-begin/1", begin);
pub const KEEP: CommandName<Keep, bool> = CommandName::new("objects/snapshot-keep/1", keep);
pub const ABANDON: CommandName<Abandon, ()> = CommandName::new("objects/snapshot-abandon/1", abandon);
pub const EXPIRE: CommandName<Duration, u32> = CommandName::new("objects/snapshot-expire/1", expire);
pub const LIST: QueryName<(), Vec<KeptSnapshot>> = QueryName::new("objects/snapshots/1", list);

/// The shard that keeps the snapshots of `of`.
pub fn home(of: ShardId) -> ShardId {
    if of == ShardId::META { ShardId(1) } else { of }
}

/// In shard 0: begins a round if the last is old enough, or at once without an interval; gives
/// the number of the newest.
fn claim(view: &mut dyn WriteView, interval: Option<Duration>) -> Result<u64, Fault> {
    let last: Option<SweepRecord> = read(view, &keys::LAST_SNAPSHOTS)?;
    let begun = view.stamp();
    if let (Some(last), Some(interval)) = (last, interval)
        && begun.saturating_since(last.begun) < interval
    {
        return Ok(last.epoch);
    }
    let epoch = last.map_or(0, |last| last.epoch) + 1;
    write(view, &keys::LAST_SNAPSHOTS, &SweepRecord { begun, epoch });
    Ok(epoch)
}

/// The newest round, and when it was begun.
fn round(view: &dyn ReadView, (): ()) -> Result<Option<(u64, WallTime)>, Fault> {
    Ok(read::<SweepRecord>(view, &keys::LAST_SNAPSHOTS)?.map(|last| (last.epoch, last.begun)))
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Begin {
    pub of: ShardId,
    pub round: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Begun {
    Intended {
        intent: Revision,
    },
    /// The round has its snapshot.
    Kept,
}

/// Whoever leads the shard next does it again, with an intent of its own in place of this: what
/// was read under one that is gone may refer to what was reclaimed since.
fn begin(view: &mut dyn WriteView, input: Begin) -> Result<Begun, Fault> {
    let Begin { of, round } = input;
    if view.get(&keys::snapshot(round, of))?.is_some() {
        return Ok(Begun::Kept);
    }
    let intent = IntentRecord { round, begun: view.stamp(), revision: view.revision() };
    write(view, &keys::intent(of), &intent);
    Ok(Begun::Intended { intent: intent.revision })
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Keep {
    pub of: ShardId,
    pub round: u64,
    /// Under which the state was read.
    pub intent: Revision,
    /// That the snapshot's own chunks are stamped with.
    pub epoch: u64,
    pub revision: Revision,
    pub root: Vec<ChunkRef>,
}

/// False if the intent is not there any more.
fn keep(view: &mut dyn WriteView, input: Keep) -> Result<bool, Fault> {
    let Keep { of, round, intent, epoch, revision, root } = input;
    let found: Option<IntentRecord> = read(view, &keys::intent(of))?;
    let found = found.filter(|found| found.round == round && found.revision == intent);
    let Some(intent) = found else { return Ok(false) };
    check_epoch(view, epoch)?;
    write(view, &keys::snapshot(round, of), &SnapshotRecord { taken: intent.begun, revision, root });
    view.delete(&keys::intent(of));
    Ok(true)
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Abandon {
    pub of: ShardId,
    pub intent: Revision,
}

/// The snapshot could not be made: reclaim need not wait for it, which may be what makes room.
fn abandon(view: &mut dyn WriteView, input: Abandon) -> Result<(), Fault> {
    let intent: Option<IntentRecord> = read(view, &keys::intent(input.of))?;
    if intent.is_some_and(|intent| intent.revision == input.intent) {
        view.delete(&keys::intent(input.of));
    }
    Ok(())
}

/// Lets go of snapshots older than that, all but the newest of each shard.
fn expire(view: &mut dyn WriteView, older_than: Duration) -> Result<u32, Fault> {
    let now = view.stamp();
    let all = kept(view)?;
    let mut gone = 0;
    for snapshot in &all {
        let newest = !all.iter().any(|other| other.of == snapshot.of && other.round > snapshot.round);
        if !newest && now.saturating_since(snapshot.taken) > older_than {
            view.delete(&keys::snapshot(snapshot.round, snapshot.of));
            gone += 1;
        }
    }
    Ok(gone)
}

/// A snapshot of one shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptSnapshot {
    pub round: u64,
    pub of: ShardId,
    pub taken: WallTime,
    pub revision: Revision,
    pub root: Vec<ChunkRef>,
}

fn list(view: &dyn ReadView, (): ()) -> Result<Vec<KeptSnapshot>, Fault> {
    kept(view)
}

fn kept(view: &(impl ReadView + ?Sized)) -> Result<Vec<KeptSnapshot>, Fault> {
    let mut snapshots = Vec::new();
    for pair in scan(view, &keys::SNAPSHOT) {
        let (key, value) = pair?;
        let Some((round, of)) = keys::snapshot_of(&key) else { continue };
        let SnapshotRecord { taken, revision, root } = decode(&value)?;
        snapshots.push(KeptSnapshot { round, of, taken, revision, root });
    }
    Ok(snapshots)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        shard::{Refused, fake::FakeShard, reference},
        slots::SlotSet,
    };

    const OF: ShardId = ShardId(3);

    /// The intent's revision.
    fn begin_round(shard: &mut FakeShard, round: u64) -> Revision {
        match shard.execute(&BEGIN, Begin { of: OF, round }).unwrap() {
            Begun::Intended { intent } => intent,
            Begun::Kept => panic!("the round has a snapshot"),
        }
    }

    fn keep_round(shard: &mut FakeShard, round: u64, intent: Revision, epoch: u64) -> Result<bool, Refused> {
        let revision = Revision(shard.revision);
        shard.execute(&KEEP, Keep { of: OF, round, intent, epoch, revision, root: Vec::new() })
    }

    fn seen(shard: &FakeShard) -> (usize, bool) {
        let ask = reference::References { after: None, slots: SlotSet::default(), limit: 10 };
        let all = shard.query(&reference::ALL_REFERENCES, ask).unwrap();
        (all.snapshots.len(), all.snapshot_begun)
    }

    #[test]
    fn a_walk_sees_that_a_snapshot_is_being_made_until_it_sees_the_snapshot() {
        let mut shard = FakeShard::new();
        assert_eq!(seen(&shard), (0, false));
        let first = begin_round(&mut shard, 5);
        let second = begin_round(&mut shard, 5);
        assert_eq!(seen(&shard), (0, true));
        // What was read under the first may have been reclaimed under none.
        assert_eq!(keep_round(&mut shard, 5, first, 1), Ok(false));
        assert_eq!(keep_round(&mut shard, 4, second, 1), Ok(false));
        assert_eq!(keep_round(&mut shard, 5, second, 1), Ok(true));
        assert_eq!(seen(&shard), (1, false));
        assert_eq!(shard.execute(&BEGIN, Begin { of: OF, round: 5 }), Ok(Begun::Kept));
        assert_eq!(keep_round(&mut shard, 5, second, 1), Ok(false));
    }

    #[test]
    fn who_gives_up_takes_back_its_own_intent_and_no_other() {
        let mut shard = FakeShard::new();
        let (first, second) = (begin_round(&mut shard, 1), begin_round(&mut shard, 1));
        shard.execute(&ABANDON, Abandon { of: OF, intent: first }).unwrap();
        assert_eq!(seen(&shard), (0, true));
        shard.execute(&ABANDON, Abandon { of: OF, intent: second }).unwrap();
        assert_eq!(seen(&shard), (0, false));
        assert_eq!(keep_round(&mut shard, 1, second, 1), Ok(false));
    }

    #[test]
    fn a_snapshot_whose_chunks_a_sweep_may_have_taken_is_not_kept() {
        let mut shard = FakeShard::new();
        let intent = begin_round(&mut shard, 1);
        shard.execute(&reference::RAISE_EPOCH, 5).unwrap();
        assert_eq!(keep_round(&mut shard, 1, intent, 3), Err(Refused::StaleEpoch { current: 5 }));
        assert_eq!(keep_round(&mut shard, 1, intent, 4), Ok(true));
    }

    #[test]
    fn old_snapshots_go_and_the_newest_stays_however_old() {
        let mut shard = FakeShard::new();
        for round in 1..=3 {
            let intent = begin_round(&mut shard, round);
            assert_eq!(keep_round(&mut shard, round, intent, 1), Ok(true));
        }
        let expire = |shard: &mut FakeShard, age| shard.execute(&EXPIRE, age).unwrap();
        // A revision of the twin takes a second.
        assert_eq!(expire(&mut shard, Duration::from_secs(60)), 0);
        assert_eq!(expire(&mut shard, Duration::ZERO), 2);
        let left = shard.query(&LIST, ()).unwrap();
        assert_eq!(left.iter().map(|snapshot| (snapshot.round, snapshot.of)).collect::<Vec<_>>(), [(3, OF)]);
    }

    #[test]
    fn rounds_begin_when_they_are_due_or_asked_for() {
        let mut shard = FakeShard::default();
        assert_eq!(shard.query(&ROUND, ()), Ok(None));
        let hour = Some(Duration::from_secs(3600));
        assert_eq!(shard.execute(&CLAIM, hour), Ok(1));
        assert_eq!(shard.execute(&CLAIM, hour), Ok(1));
        assert_eq!(shard.execute(&CLAIM, None), Ok(2));
        assert_eq!(shard.query(&ROUND, ()), Ok(Some((2, WallTime(3000)))));
    }
}
