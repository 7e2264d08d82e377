//! A shard in a sorted map, for tests of commands and queries by themselves.

use std::{cell::Cell, collections::BTreeMap, ops::Bound};

use atoll_disk::StoreError;
use atoll_records::{Pairs, ReadView, WriteView};
use atoll_types::{Revision, TransactionId, WallTime};
use bytes::Bytes;
use md5::{Digest, Md5};
use serde::{Serialize, de::DeserializeOwned};

use super::{CommandName, Fault, QueryName, Refused, bucket, object, records::OwnedRange};
use crate::{
    conditions::WriteConditions,
    names::{BucketId, ObjectKey},
    object::ETag,
};

#[derive(Default)]
pub struct FakeShard {
    pub records: BTreeMap<Vec<u8>, Bytes>,
    pub revision: u64,
    /// Iterators opened and pairs taken, for tests of what a query costs.
    pub seeks: Cell<usize>,
    pub steps: Cell<usize>,
}

impl ReadView for FakeShard {
    fn revision(&self) -> Revision {
        Revision(self.revision)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.records.get(key).cloned())
    }

    fn range(&self, start: Bound<&[u8]>, end: Bound<&[u8]>) -> Pairs<'_> {
        self.seeks.set(self.seeks.get() + 1);
        let pairs = self.records.range::<[u8], _>((start, end));
        Box::new(pairs.map(|(key, value)| {
            self.steps.set(self.steps.get() + 1);
            Ok((Bytes::from(key.clone()), value.clone()))
        }))
    }

    fn range_backwards(&self, start: Bound<&[u8]>, end: Bound<&[u8]>) -> Pairs<'_> {
        let pairs = self.records.range::<[u8], _>((start, end)).rev();
        Box::new(pairs.map(|(key, value)| Ok((Bytes::from(key.clone()), value.clone()))))
    }
}

impl WriteView for FakeShard {
    fn stamp(&self) -> WallTime {
        WallTime(self.revision * 1000)
    }

    fn transaction_id(&self) -> TransactionId {
        TransactionId([0; 16])
    }

    fn put(&mut self, key: &[u8], value: Bytes) {
        self.records.insert(key.to_vec(), value);
    }

    fn delete(&mut self, key: &[u8]) {
        self.records.remove(key);
    }
}

pub const BUCKET: BucketId = BucketId(7);

impl FakeShard {
    /// A shard with one open bucket, [`BUCKET`], that owns every key.
    pub fn new() -> Self {
        let mut shard = Self::default();
        let open = bucket::Open { bucket: BUCKET, owned: vec![OwnedRange::everything()] };
        shard.execute(&bucket::OPEN, open).expect("a new bucket opens");
        shard
    }

    pub fn execute<I, O>(&mut self, command: &CommandName<I, O>, input: I) -> Result<O, Refused>
    where
        I: Serialize + DeserializeOwned,
        O: Serialize + DeserializeOwned,
    {
        self.revision += 1;
        let before = self.records.clone();
        match (command.apply)(self, input) {
            Ok(output) => Ok(output),
            Err(Fault::Refused(refused)) => {
                self.records = before;
                Err(refused)
            }
            Err(Fault::Store(error)) => panic!("{error}: {:?}", error.source),
        }
    }

    pub fn query<I, O>(&self, query: &QueryName<I, O>, input: I) -> Result<O, Refused> {
        match (query.run)(self, input) {
            Ok(output) => Ok(output),
            Err(Fault::Refused(refused)) => Err(refused),
            Err(Fault::Store(error)) => panic!("{error}: {:?}", error.source),
        }
    }

    pub fn put(&mut self, key: &[u8], content: object::Content) -> Result<super::records::Written, Refused> {
        self.put_if(key, content, WriteConditions::default(), 1)
    }

    pub fn put_if(
        &mut self,
        key: &[u8],
        content: object::Content,
        conditions: WriteConditions,
        epoch: u64,
    ) -> Result<super::records::Written, Refused> {
        let put = object::Put { conditions, epoch, ..self.put_input(key, content) };
        self.execute(&object::PUT, put)
    }

    pub fn put_input(&self, key: &[u8], content: object::Content) -> object::Put {
        let size = match &content {
            object::Content::Inline(bytes) => bytes.len() as u64,
            object::Content::Chunks(chunks) => chunks.iter().map(|chunk| u64::from(chunk.bytes)).sum(),
            object::Content::Segments { sizes, .. } => sizes.iter().sum(),
        };
        let md5 = Md5::digest(format!("{content:?}")).into();
        object::Put {
            bucket: BUCKET,
            key: self::key(key),
            conditions: WriteConditions::default(),
            epoch: 1,
            size,
            etag: ETag { md5, parts: 0 },
            headers: Default::default(),
            checksum: None,
            content,
        }
    }
}

pub fn key(key: &[u8]) -> ObjectKey {
    ObjectKey::new(key.to_vec()).expect("tests use valid keys")
}

pub fn inline(text: &str) -> object::Content {
    object::Content::Inline(Bytes::from(text.to_owned()))
}
