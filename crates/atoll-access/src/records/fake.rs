//! One shard's records in a map, and a cache that follows them, for the tests of what runs
//! in shard 0.

use std::{collections::BTreeMap, ops::Bound};

use atoll_disk::StoreError;
use atoll_records::{Command, Pairs, Query, ReadView, Verdict, WriteView};
use atoll_types::{Format, Revision, TransactionId, WallTime};
use bytes::Bytes;

use super::{
    Act, Changed, ChangesReply, ChangesRequest, Refused,
    act::{self, PerformAct},
    first::{Change, ChangeAccess},
    log::TellChanges,
    names,
};

#[derive(Default)]
pub(crate) struct Shard(pub BTreeMap<Vec<u8>, Bytes>);

impl ReadView for Shard {
    fn revision(&self) -> Revision {
        Revision(1)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.0.get(key).cloned())
    }

    fn range(&self, start: Bound<&[u8]>, end: Bound<&[u8]>) -> Pairs<'_> {
        let pairs = self.0.range::<[u8], _>((start, end));
        Box::new(pairs.map(|(key, value)| Ok((Bytes::copy_from_slice(key), value.clone()))))
    }

    fn range_backwards(&self, start: Bound<&[u8]>, end: Bound<&[u8]>) -> Pairs<'_> {
        let pairs = self.0.range::<[u8], _>((start, end)).rev();
        Box::new(pairs.map(|(key, value)| Ok((Bytes::copy_from_slice(key), value.clone()))))
    }
}

impl WriteView for Shard {
    fn stamp(&self) -> WallTime {
        WallTime::from_millis(7)
    }

    fn transaction_id(&self) -> TransactionId {
        TransactionId([0; 16])
    }

    fn put(&mut self, key: &[u8], value: Bytes) {
        self.0.insert(key.to_vec(), value);
    }

    fn delete(&mut self, key: &[u8]) {
        self.0.remove(key);
    }
}

impl Shard {
    pub fn converted() -> Self {
        let mut shard = Self::default();
        shard.act(Act::Convert);
        shard
    }

    pub fn change(&mut self, change: Change) {
        let verdict = ChangeAccess.apply(self, &change.encode()).unwrap();
        assert_eq!(verdict, Verdict::Commit(Vec::new()));
    }

    pub fn act(&mut self, act: Act) {
        let verdict = PerformAct.apply(self, &act.encode()).unwrap();
        assert_eq!(verdict, Verdict::Commit(Vec::new()));
    }

    /// As a shard does it: a refused act leaves nothing behind.
    pub fn try_act(&mut self, act: Act) -> Result<(), Refused> {
        let before = self.0.clone();
        match PerformAct.apply(self, &act.encode()).unwrap() {
            Verdict::Commit(_) => Ok(()),
            Verdict::Abort(why) => {
                self.0 = before;
                Err(act::refused(&why))
            }
        }
    }

    /// What a cache should have: the records of the four families.
    pub fn records(&self) -> BTreeMap<Bytes, Bytes> {
        let families = [names::KEY, names::TOKEN, names::USER, names::BUCKET];
        let records = self.0.iter().filter(|(key, _)| families.iter().any(|family| key.starts_with(family)));
        records.map(|(key, value)| (Bytes::copy_from_slice(key), value.clone())).collect()
    }
}

#[derive(Default)]
pub(crate) struct Cache {
    pub records: BTreeMap<Bytes, Bytes>,
    version: u64,
    began_at: u64,
}

impl Cache {
    pub fn has(&self, name: &str) -> bool {
        self.records.contains_key(name.as_bytes())
    }

    /// Until there is no more; says how many changes it was told.
    pub fn follow(&mut self, shard: &Shard) -> usize {
        let mut told = 0;
        loop {
            let (changes, done) = self.page(shard);
            told += changes;
            if done {
                return told;
            }
        }
    }

    /// One question; says whether that was all.
    pub fn follow_once(&mut self, shard: &Shard) -> bool {
        self.page(shard).1
    }

    fn page(&mut self, shard: &Shard) -> (usize, bool) {
        let request = ChangesRequest { newer_than: self.version, began_at: self.began_at };
        let reply = ChangesReply::decode(&TellChanges.run(shard, &request.encode()).unwrap()).unwrap();
        let ChangesReply::Page { anew, changed, version, newest } = reply else { return (0, false) };
        if anew {
            self.records.clear();
            self.began_at = newest;
        }
        let count = changed.len();
        for Changed { name, value } in changed {
            match value {
                Some(value) => drop(self.records.insert(name, value)),
                None => drop(self.records.remove(&name)),
            }
        }
        self.version = version;
        (count, version == newest)
    }
}
