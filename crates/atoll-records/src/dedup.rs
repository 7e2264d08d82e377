//! A transaction's first result, remembered under its id (rule 2): a retry gets it again,
//! and nothing happens twice. Part of the shard's state, so a new leader and a replica
//! filled by a snapshot know it too.

use std::{ops::Bound, time::Duration};

use atoll_disk::StoreError;
use atoll_runtime::{Broken, is_broken};
use atoll_types::{Format, Revision, TransactionId, WallTime};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    Executed,
    client::DEADLINE_MAX,
    state::{Area, PREFIX_BYTES, Place, decode},
    view::Pending,
};

/// 10 minutes, by the leader's stamps: longer than any retry goes on.
const REMEMBERED_FOR: Duration = Duration::from_secs(600);
/// And at least for so many entries, should a leader's clock jump ahead: a retry is not
/// that many entries behind its first try.
const REMEMBERED_ENTRIES_MIN: u64 = 4096;
/// Each command adds one result, so the table shrinks when more than one goes.
const EVICTED_PER_COMMAND: usize = 3;

const _: () = assert!(REMEMBERED_FOR.as_secs() > 2 * DEADLINE_MAX.as_secs());

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Remembered {
    revision: Revision,
    committed: bool,
    output: Bytes,
}

impl Format for Remembered {
    const NAME: &'static str = "transaction result";
    const VERSION: u8 = 1;
}

/// What is known of the oldest remembered result, without asking the store each time.
enum Oldest {
    Unknown,
    Nothing,
    Is { revision: Revision, stamp: WallTime, id: TransactionId },
}

pub(crate) struct Results {
    oldest: Oldest,
    /// Results at and below are gone: the search for the oldest begins after it, and not
    /// in what the store has yet to clean up.
    evicted: Revision,
}

impl Results {
    pub fn new() -> Self {
        Self { oldest: Oldest::Unknown, evicted: Revision(0) }
    }

    pub fn get(
        pending: &Pending<'_>,
        place: Place,
        id: TransactionId,
    ) -> Result<Option<Executed>, StoreError> {
        let Some(bytes) = pending.get(&place.key(Area::Outcomes, &id.0))? else { return Ok(None) };
        let Remembered { revision, committed, output } = decode(&bytes)?;
        Ok(Some(Executed { revision, committed, output }))
    }

    pub fn remember(
        &mut self,
        pending: &mut Pending<'_>,
        place: Place,
        id: TransactionId,
        stamp: WallTime,
        executed: &Executed,
    ) -> Result<(), StoreError> {
        let revision = executed.revision;
        self.evict(pending, place, revision, stamp)?;
        let Executed { committed, output, .. } = executed.clone();
        let remembered = Remembered { revision, committed, output };
        pending.put(place.key(Area::Outcomes, &id.0), remembered.encode().into());
        let mut value = Vec::with_capacity(24);
        value.extend_from_slice(&id.0);
        value.extend_from_slice(&stamp.0.to_be_bytes());
        pending.put(place.key(Area::OutcomesByRevision, &revision.0.to_be_bytes()), value.into());
        if matches!(self.oldest, Oldest::Nothing) {
            self.oldest = Oldest::Is { revision, stamp, id };
        }
        Ok(())
    }

    /// Forgets what is old enough. A pure function of the state and the entry: which
    /// results the `oldest` field spares a look at does not change which of them go.
    fn evict(
        &mut self,
        pending: &mut Pending<'_>,
        place: Place,
        now: Revision,
        stamp_now: WallTime,
    ) -> Result<(), StoreError> {
        for _ in 0..EVICTED_PER_COMMAND {
            if matches!(self.oldest, Oldest::Unknown) {
                self.oldest = self.find_oldest(pending, place)?;
            }
            let Oldest::Is { revision, stamp, id } = self.oldest else { return Ok(()) };
            let old = stamp_now.saturating_since(stamp) > REMEMBERED_FOR
                && now.0.saturating_sub(revision.0) > REMEMBERED_ENTRIES_MIN;
            let old = old || is_broken(Broken::ForgetResults) && now.0.saturating_sub(revision.0) > 4;
            if !old {
                return Ok(());
            }
            pending.delete(place.key(Area::Outcomes, &id.0));
            pending.delete(place.key(Area::OutcomesByRevision, &revision.0.to_be_bytes()));
            self.evicted = revision;
            self.oldest = Oldest::Unknown;
        }
        Ok(())
    }

    fn find_oldest(&self, pending: &Pending<'_>, place: Place) -> Result<Oldest, StoreError> {
        let after = place.key(Area::OutcomesByRevision, &self.evicted.0.to_be_bytes());
        let range = (Bound::Excluded(after.to_vec()), place.area(Area::OutcomesByRevision).1);
        let Some(pair) = pending.range(&range).next() else { return Ok(Oldest::Nothing) };
        let (key, value) = pair?;
        let parsed = || {
            let revision = key.get(PREFIX_BYTES..)?.try_into().ok().map(u64::from_be_bytes)?;
            let (id, stamp) = value.split_at_checked(16)?;
            let stamp = stamp.try_into().ok().map(u64::from_be_bytes)?;
            Some((Revision(revision), WallTime(stamp), TransactionId(id.try_into().ok()?)))
        };
        let (revision, stamp, id) = parsed().ok_or_else(|| StoreError {
            operation: "decode",
            source: "a transaction result's place in time is malformed".into(),
        })?;
        Ok(Oldest::Is { revision, stamp, id })
    }
}
