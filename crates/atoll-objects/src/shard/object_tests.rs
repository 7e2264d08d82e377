use atoll_types::ChunkHash;

use super::*;
use crate::{
    conditions::{ETagCondition, FailedCondition},
    shard::{
        bucket,
        fake::{BUCKET, FakeShard, inline, key},
        reference, upload,
    },
    slots::SlotSet,
};

fn get(shard: &FakeShard, at: &[u8]) -> Option<Got> {
    match shard.query(&GET, Get { bucket: BUCKET, key: key(at), content: true }) {
        Ok(Found::Object(got)) => Some(got),
        Ok(Found::Nothing) => None,
        other => panic!("the bucket is open and has no versions: {other:?}"),
    }
}

#[test]
fn what_is_found_without_versions_is_encoded_as_it_always_was() {
    let mut shard = FakeShard::new();
    shard.put(b"k", inline("hello")).unwrap();
    for at in [&b"k"[..], b"none"] {
        let found = shard.query(&GET, Get { bucket: BUCKET, key: key(at), content: true }).unwrap();
        let bytes = postcard::to_stdvec(&found).unwrap();
        let former: Option<Got> = postcard::from_bytes(&bytes).unwrap();
        assert_eq!(postcard::to_stdvec(&former).unwrap(), bytes);
        assert_eq!(former, get(&shard, at));
    }
}

fn chunk(number: u8) -> ChunkRef {
    ChunkRef { hash: ChunkHash::of(&[number]), bytes: 1 << 20 }
}

fn references(shard: &FakeShard) -> Vec<ChunkRef> {
    let (mut after, mut chunks) = (None, Vec::new());
    loop {
        let walk =
            reference::References { after, slots: atoll_types::Slot::all().collect::<SlotSet>(), limit: 1 };
        let page = shard.query(&reference::REFERENCES, walk).unwrap();
        chunks.extend(page.chunks);
        match page.next {
            Some(next) => after = Some(next),
            None => return chunks,
        }
    }
}

fn sweep_all(shard: &mut FakeShard) {
    while shard.execute(&reference::SWEEP, reference::Sweep { limit: 3 }).unwrap().more {}
}

#[test]
fn what_was_put_is_read_and_what_was_deleted_is_gone() {
    let mut shard = FakeShard::new();
    let written = shard.put(b"k", inline("hello")).unwrap();
    let got = get(&shard, b"k").unwrap();
    assert_eq!((got.inline, got.revision), (Some(Bytes::from("hello")), written.revision));
    let delete = |shard: &mut FakeShard| {
        let keys = vec![(key(b"k"), WriteConditions::default())];
        shard.execute(&DELETE, Delete { bucket: BUCKET, keys }).unwrap()
    };
    assert_eq!(delete(&mut shard), [Removal::Removed]);
    assert_eq!(get(&shard, b"k"), None);
    assert_eq!(delete(&mut shard), [Removal::Absent]);
    // Only the bucket's descriptor is left.
    assert_eq!(shard.records.len(), 1, "{:?}", shard.records);
}

#[test]
fn replacing_an_object_leaves_nothing_of_the_one_before() {
    let mut shard = FakeShard::new();
    shard.put(b"k", inline("one")).unwrap();
    let records = shard.records.len();
    shard.put(b"k", inline("two")).unwrap();
    assert_eq!(shard.records.len(), records);
    assert_eq!(get(&shard, b"k").unwrap().inline, Some(Bytes::from("two")));
    shard.put(b"k", Content::Chunks(vec![chunk(1)])).unwrap();
    shard.put(b"k", Content::Chunks(vec![chunk(2)])).unwrap();
    assert_eq!(references(&shard), [chunk(2)]);
}

#[test]
fn of_writers_that_require_absence_exactly_one_wins() {
    let mut shard = FakeShard::new();
    let absent = WriteConditions { if_none_match: Some(ETagCondition::Any), ..Default::default() };
    let first = shard.put_if(b"k", inline("one"), absent.clone(), 1).unwrap();
    assert_eq!(
        shard.put_if(b"k", inline("two"), absent, 1),
        Err(Refused::Condition(FailedCondition::PreconditionFailed))
    );
    let same = |etag: &ETag| WriteConditions {
        if_match: Some(ETagCondition::OneOf(vec![etag.to_string()])),
        ..Default::default()
    };
    let second = shard.put_if(b"k", inline("three"), same(&first.etag), 1).unwrap();
    assert_eq!(
        shard.put_if(b"k", inline("four"), same(&first.etag), 1),
        Err(Refused::Condition(FailedCondition::PreconditionFailed))
    );
    assert_eq!(get(&shard, b"k").unwrap().version.etag, second.etag);
    assert_eq!(
        shard.put_if(b"other", inline("x"), same(&first.etag), 1),
        Err(Refused::Condition(FailedCondition::NoSuchKey))
    );
}

#[test]
fn a_commit_needs_stamps_at_most_one_sweep_old() {
    let mut shard = FakeShard::new();
    let put = |shard: &mut FakeShard, epoch| {
        shard.put_if(b"k", Content::Chunks(vec![chunk(1)]), WriteConditions::default(), epoch)
    };
    assert_eq!(shard.execute(&reference::RAISE_EPOCH, 5), Ok(5));
    assert_eq!(shard.execute(&reference::RAISE_EPOCH, 4), Ok(5));
    assert_eq!(put(&mut shard, 3), Err(Refused::StaleEpoch { current: 5 }));
    assert!(put(&mut shard, 4).is_ok());
    // Bytes in the record itself have no stamp to be stale.
    assert!(shard.put_if(b"i", inline("x"), WriteConditions::default(), 0).is_ok());
}

#[test]
fn a_bucket_is_sealed_only_when_empty_and_stays_gone() {
    let mut shard = FakeShard::new();
    shard.put(b"k", inline("x")).unwrap();
    assert_eq!(shard.execute(&bucket::SEAL, BUCKET), Err(Refused::NotEmpty));
    assert_eq!(shard.execute(&bucket::FREE, BUCKET), Err(Refused::NotEmpty));
    shard.execute(&DELETE, Delete { bucket: BUCKET, keys: vec![(key(b"k"), Default::default())] }).unwrap();
    shard.execute(&bucket::SEAL, BUCKET).unwrap();
    assert_eq!(shard.put(b"k", inline("x")), Err(Refused::SealedBucket));
    shard.execute(&bucket::FREE, BUCKET).unwrap();
    let late = bucket::Open { bucket: BUCKET, owned: vec![crate::shard::records::OwnedRange::everything()] };
    assert_eq!(shard.execute(&bucket::OPEN, late), Err(Refused::FreedBucket));
    assert_eq!(shard.put(b"k", inline("x")), Err(Refused::FreedBucket));
}

#[test]
fn a_key_outside_of_the_owned_range_is_refused() {
    let mut shard = FakeShard::default();
    let range = crate::shard::records::OwnedRange { start: Bytes::from("b"), end: Some(Bytes::from("d")) };
    shard.execute(&bucket::OPEN, bucket::Open { bucket: BUCKET, owned: vec![range] }).unwrap();
    assert!(shard.put(b"b", inline("x")).is_ok());
    assert!(shard.put(b"czz", inline("x")).is_ok());
    for outside in [&b"a"[..], b"d", b"e"] {
        assert_eq!(shard.put(outside, inline("x")), Err(Refused::WrongShard));
        let get = Get { bucket: BUCKET, key: key(outside), content: true };
        assert_eq!(shard.query(&GET, get), Err(Refused::WrongShard));
    }
}

fn put_segments(shard: &mut FakeShard, manifest: ManifestId, epoch: u64, count: u32) -> Result<(), Refused> {
    (0..count).try_for_each(|number| {
        let chunks = vec![chunk(number as u8)];
        let put = PutSegment { bucket: BUCKET, key: key(b"k"), manifest, number, epoch, chunks };
        shard.execute(&PUT_SEGMENT, put)
    })
}

fn manifest_id(byte: u8) -> ManifestId {
    ManifestId(atoll_types::TransactionId([byte; 16]))
}

#[test]
fn segments_without_a_root_go_after_two_sweeps_and_those_with_one_stay() {
    let mut shard = FakeShard::new();
    put_segments(&mut shard, manifest_id(1), 1, 3).unwrap();
    put_segments(&mut shard, manifest_id(2), 1, 3).unwrap();
    let root = Content::Segments { manifest: manifest_id(1), sizes: vec![1 << 20; 3] };
    shard.put(b"k", root).unwrap();
    assert_eq!(references(&shard).len(), 6);
    for epoch in [2, 3] {
        shard.execute(&reference::RAISE_EPOCH, epoch).unwrap();
        sweep_all(&mut shard);
    }
    assert_eq!(references(&shard), [chunk(0), chunk(1), chunk(2)]);
    let late = Content::Segments { manifest: manifest_id(2), sizes: vec![] };
    assert_eq!(shard.put_if(b"z", late, Default::default(), 3), Err(Refused::NoSuchManifest));
    // A reader of the replaced version finds its segments for two more sweeps.
    shard.put(b"k", inline("small")).unwrap();
    sweep_all(&mut shard);
    assert_eq!(references(&shard).len(), 3);
    for epoch in [4, 5] {
        assert_eq!(references(&shard).len(), 3);
        shard.execute(&reference::RAISE_EPOCH, epoch).unwrap();
        sweep_all(&mut shard);
    }
    assert_eq!(references(&shard), []);
}

fn upload_at(byte: u8) -> upload::Upload {
    let id = crate::names::UploadId(atoll_types::TransactionId([byte; 16]));
    upload::Upload { bucket: BUCKET, key: key(b"big"), upload: id }
}

fn put_part(shard: &mut FakeShard, id: u8, number: u16, size: u64) -> Result<String, Refused> {
    let part = upload::PutPart {
        upload: upload_at(id),
        number,
        epoch: 1,
        size,
        etag: ETag { md5: [number as u8; 16], parts: 0 },
        checksum: None,
        content: Content::Chunks(vec![chunk(number as u8)]),
    };
    shard.execute(&upload::PUT_PART, part).map(|info| info.etag.to_string())
}

fn complete(shard: &mut FakeShard, id: u8, parts: &[(u16, String)]) -> Result<Written, Refused> {
    let complete = upload::Complete {
        upload: upload_at(id),
        parts: parts.to_vec(),
        conditions: WriteConditions::default(),
        checksum: None,
    };
    shard.execute(&upload::COMPLETE, complete)
}

fn create(shard: &mut FakeShard, id: u8) {
    let create = upload::Create { upload: upload_at(id), headers: Default::default(), checksum: None };
    shard.execute(&upload::CREATE, create).unwrap();
}

#[test]
fn completing_an_upload_names_its_parts_and_answers_the_same_again() {
    let mut shard = FakeShard::new();
    create(&mut shard, 1);
    let one = put_part(&mut shard, 1, 1, 5 << 20).unwrap();
    let two = put_part(&mut shard, 1, 2, 5 << 20).unwrap();
    let three = put_part(&mut shard, 1, 3, 10).unwrap();
    assert_eq!(
        complete(&mut shard, 1, &[(1, one.clone()), (4, three.clone())]),
        Err(Refused::InvalidPart { number: 4 })
    );
    assert_eq!(
        complete(&mut shard, 1, &[(1, two.clone()), (3, three.clone())]),
        Err(Refused::InvalidPart { number: 1 })
    );
    assert_eq!(
        complete(&mut shard, 1, &[(3, three.clone()), (4, one.clone())]),
        Err(Refused::PartTooSmall { number: 3, size: 10 })
    );
    let parts = [(1, one), (3, three)];
    let written = complete(&mut shard, 1, &parts).unwrap();
    assert_eq!((written.size, written.etag.parts), ((5 << 20) + 10, 2));
    assert_eq!(complete(&mut shard, 1, &parts), Ok(written.clone()));
    // Part 2 was not asked for.
    assert_eq!(references(&shard), [chunk(1), chunk(3)]);
    assert_eq!(put_part(&mut shard, 1, 4, 10), Err(Refused::NoSuchUpload));
    assert_eq!(get(&shard, b"big").unwrap().version.etag, written.etag);
    shard.put(b"big", inline("small")).unwrap();
    for epoch in [2, 3] {
        shard.execute(&reference::RAISE_EPOCH, epoch).unwrap();
        sweep_all(&mut shard);
    }
    assert_eq!(references(&shard), []);
    assert_eq!(complete(&mut shard, 1, &parts), Err(Refused::NoSuchUpload));
}

/// As many parts as S3 has. Nobody has so many bytes to test with: what a shard knows of them is
/// all here, and none of them.
#[test]
fn ten_thousand_parts_become_an_object_of_five_tebibytes() {
    const TEBIBYTE: u64 = 1 << 40;
    let mut shard = FakeShard::new();
    create(&mut shard, 1);
    let each = 5 * TEBIBYTE / 10_000;
    let last = 5 * TEBIBYTE - 9_999 * each;
    let parts: Vec<(u16, String)> = (1..=10_000)
        .map(|number| {
            let size = if number == 10_000 { last } else { each };
            (number, put_part(&mut shard, 1, number, size).unwrap())
        })
        .collect();
    let written = complete(&mut shard, 1, &parts).unwrap();
    assert_eq!((written.size, written.etag.parts), (5 * TEBIBYTE, 10_000));
    let version = get(&shard, b"big").unwrap().version;
    let Manifest::Parts { parts: kept, .. } = &version.content.manifest else { panic!("it is of parts") };
    assert_eq!((kept.len(), kept[9_999]), (10_000, (10_000, last)));
    assert!(version.content.manifest.is_of(version.size, false));
    assert_eq!(complete(&mut shard, 1, &parts), Ok(written), "asked again it says the same");
}

#[test]
fn an_aborted_upload_leaves_nothing() {
    let mut shard = FakeShard::new();
    let records = shard.records.len();
    create(&mut shard, 1);
    put_part(&mut shard, 1, 1, 10).unwrap();
    shard.execute(&upload::ABORT, upload_at(1)).unwrap();
    assert_eq!(references(&shard), []);
    assert_eq!(shard.execute(&upload::ABORT, upload_at(1)), Err(Refused::NoSuchUpload));
    for epoch in [2, 3] {
        shard.execute(&reference::RAISE_EPOCH, epoch).unwrap();
        sweep_all(&mut shard);
    }
    // The epoch, and how far the log of references was cut.
    assert_eq!(shard.records.len(), records + 2, "{:?}", shard.records);
}

#[test]
fn the_log_of_references_tells_what_is_new_and_when_it_was_cut() {
    let mut shard = FakeShard::new();
    let changes = |shard: &FakeShard, after| {
        let slots = atoll_types::Slot::all().collect::<SlotSet>();
        shard
            .query(&reference::CHANGES, reference::Changes { after: Revision(after), slots, limit: 1 })
            .unwrap()
    };
    let first = shard.put(b"a", Content::Chunks(vec![chunk(1), chunk(2)])).unwrap();
    shard.put(b"b", inline("x")).unwrap();
    shard.put(b"c", Content::Chunks(vec![chunk(3)])).unwrap();
    let page = changes(&shard, 0);
    assert_eq!((page.chunks, page.until, page.more), (vec![chunk(1), chunk(2)], first.revision, true));
    let page = changes(&shard, first.revision.0);
    assert_eq!((page.chunks, page.until.0, page.more), (vec![chunk(3)], shard.revision, false));
    for epoch in [2, 3] {
        shard.execute(&reference::RAISE_EPOCH, epoch).unwrap();
        sweep_all(&mut shard);
    }
    assert!(changes(&shard, 0).cut);
    assert!(!changes(&shard, shard.revision).cut);
}
