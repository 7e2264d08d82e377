use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{
    conditions::ETagCondition,
    shard::{
        bucket,
        fake::{BUCKET, FakeShard, inline, key},
        list::{List, OBJECTS},
        object::{self, Content, Removal},
        reference,
    },
};

fn set(shard: &mut FakeShard, versioning: Versioning) {
    shard.execute(&bucket::SET_VERSIONING, bucket::SetVersioning { bucket: BUCKET, versioning }).unwrap();
}

fn put(shard: &mut FakeShard, at: &[u8], text: &str) -> VersionId {
    shard.put(at, inline(text)).unwrap().version.unwrap_or(VersionId::Null)
}

fn delete(shard: &mut FakeShard, at: &[u8]) -> Removal {
    let keys = vec![(key(at), WriteConditions::default())];
    shard.execute(&object::DELETE, object::Delete { bucket: BUCKET, keys }).unwrap()[0]
}

fn delete_version(shard: &mut FakeShard, at: &[u8], version: VersionId) -> VersionRemoval {
    let versions = vec![(key(at), version, WriteConditions::default())];
    shard.execute(&DELETE, DeleteVersions { bucket: BUCKET, versions }).unwrap()[0]
}

fn newest_found(shard: &FakeShard, at: &[u8]) -> Found {
    shard.query(&object::GET, object::Get { bucket: BUCKET, key: key(at), content: true }).unwrap()
}

fn version_found(shard: &FakeShard, at: &[u8], version: VersionId) -> Result<Found, Refused> {
    shard.query(&GET, GetVersion { bucket: BUCKET, key: key(at), version, content: true })
}

fn text(found: Found) -> Option<String> {
    match found {
        Found::Object(got) | Found::Versioned(got) => {
            Some(String::from_utf8(got.inline.unwrap().to_vec()).unwrap())
        }
        Found::Nothing | Found::Marker { .. } => None,
    }
}

fn page(shard: &FakeShard, after: Option<(Bytes, Option<VersionId>)>, limit: u32) -> VersionPage {
    let list = VersionList { bucket: BUCKET, prefix: Bytes::new(), delimiter: None, after, limit };
    shard.query(&LIST, list).unwrap()
}

/// All versions in pages of `limit`: key, version, latest, delete marker.
fn listed(shard: &FakeShard, limit: u32) -> Vec<(Vec<u8>, VersionId, bool, bool)> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = page(shard, after, limit);
        all.extend(
            page.versions.into_iter().map(|entry| {
                (entry.key.as_bytes().to_vec(), entry.version, entry.latest, entry.delete_marker)
            }),
        );
        match page.next {
            Some(next) => after = Some(next),
            None => return all,
        }
    }
}

#[test]
fn what_was_there_before_versioning_is_the_null_version_and_stays() {
    let mut shard = FakeShard::new();
    let before = shard.put(b"k", inline("old")).unwrap();
    assert_eq!(before.version, None);
    assert!(matches!(newest_found(&shard, b"k"), Found::Object(_)));
    assert!(matches!(version_found(&shard, b"k", VersionId::Null), Ok(Found::Object(_))));
    set(&mut shard, Versioning::Enabled);
    assert!(matches!(newest_found(&shard, b"k"), Found::Versioned(_)));
    let new = put(&mut shard, b"k", "new");
    assert_eq!(text(newest_found(&shard, b"k")).as_deref(), Some("new"));
    assert_eq!(text(version_found(&shard, b"k", VersionId::Null).unwrap()).as_deref(), Some("old"));
    // The null version has no other name.
    let other = VersionId::At(before.revision);
    assert_eq!(version_found(&shard, b"k", other), Err(Refused::NoSuchVersion));
    assert_eq!(delete_version(&mut shard, b"k", other), VersionRemoval::Absent);
    assert_eq!(listed(&shard, 1).len(), 2);
    set(&mut shard, Versioning::Suspended);
    assert_eq!(put(&mut shard, b"k", "newest"), VersionId::Null);
    let all = listed(&shard, 1);
    assert_eq!(all, [(b"k".to_vec(), VersionId::Null, true, false), (b"k".to_vec(), new, false, false)]);
    assert_eq!(text(version_found(&shard, b"k", new).unwrap()).as_deref(), Some("new"));
}

#[test]
fn a_delete_marker_hides_an_object_until_it_is_deleted() {
    let mut shard = FakeShard::new();
    set(&mut shard, Versioning::Enabled);
    let first = put(&mut shard, b"k", "one");
    let Removal::Marked { version: marker, existed: true } = delete(&mut shard, b"k") else { panic!() };
    assert!(matches!(newest_found(&shard, b"k"), Found::Marker { version, .. } if version == marker));
    assert!(matches!(version_found(&shard, b"k", marker), Ok(Found::Marker { .. })));
    assert_eq!(text(version_found(&shard, b"k", first).unwrap()).as_deref(), Some("one"));
    assert_eq!(shard.execute(&bucket::SEAL, BUCKET), Err(Refused::NotEmpty));
    // A write that requires absence finds it.
    let absent = WriteConditions { if_none_match: Some(ETagCondition::Any), ..Default::default() };
    shard.put_if(b"k", inline("two"), absent.clone(), 1).unwrap();
    assert!(shard.put_if(b"k", inline("three"), absent, 1).is_err());
    let Removal::Marked { version: again, .. } = delete(&mut shard, b"k") else { panic!() };
    assert_eq!(delete_version(&mut shard, b"k", again), VersionRemoval::Removed { marker: true });
    assert_eq!(text(newest_found(&shard, b"k")).as_deref(), Some("two"));
    assert_eq!(delete_version(&mut shard, b"k", again), VersionRemoval::Absent);
    let Removal::Marked { existed: false, .. } = delete(&mut shard, b"never") else { panic!() };
}

#[test]
fn a_condition_on_a_delete_is_on_the_version_named() {
    let mut shard = FakeShard::new();
    set(&mut shard, Versioning::Enabled);
    let first = shard.put(b"k", inline("one")).unwrap();
    let second = shard.put(b"k", inline("two")).unwrap();
    let is = |etag: &ETag| WriteConditions {
        if_match: Some(ETagCondition::OneOf(vec![etag.to_string()])),
        ..Default::default()
    };
    let mut delete = |conditions| {
        let versions = vec![(key(b"k"), first.version.unwrap(), conditions)];
        shard.execute(&DELETE, DeleteVersions { bucket: BUCKET, versions }).unwrap()[0]
    };
    assert_eq!(delete(is(&second.etag)), VersionRemoval::Condition(FailedCondition::PreconditionFailed));
    assert_eq!(delete(is(&first.etag)), VersionRemoval::Removed { marker: false });
    assert_eq!(delete(is(&first.etag)), VersionRemoval::Condition(FailedCondition::NoSuchKey));
}

#[test]
fn every_version_keeps_its_chunks_until_it_is_deleted() {
    use crate::manifest::ChunkRef;
    use atoll_types::{ChunkHash, Slot};
    let mut shard = FakeShard::new();
    set(&mut shard, Versioning::Enabled);
    let chunk = |number: u8| ChunkRef { hash: ChunkHash::of(&[number]), bytes: 1 << 20 };
    let put = |shard: &mut FakeShard, number| {
        shard.put(b"k", Content::Chunks(vec![chunk(number)])).unwrap().version.unwrap()
    };
    let versions = [put(&mut shard, 1), put(&mut shard, 2), put(&mut shard, 3)];
    delete(&mut shard, b"k");
    let references = |shard: &FakeShard| {
        let slots = Slot::all().collect();
        let walk = reference::References { after: None, slots, limit: 100 };
        let mut chunks = shard.query(&reference::REFERENCES, walk).unwrap().chunks;
        chunks.sort_by_key(|chunk| chunk.hash);
        chunks
    };
    let sorted = |mut chunks: Vec<ChunkRef>| {
        chunks.sort_by_key(|chunk| chunk.hash);
        chunks
    };
    assert_eq!(references(&shard), sorted(vec![chunk(1), chunk(2), chunk(3)]));
    delete_version(&mut shard, b"k", versions[1]);
    assert_eq!(references(&shard), sorted(vec![chunk(1), chunk(3)]));
}

#[test]
fn pages_roll_up_and_go_on_within_a_key() {
    let mut shard = FakeShard::new();
    set(&mut shard, Versioning::Enabled);
    for at in ["a/1", "a/2", "b", "b", "c/1"] {
        put(&mut shard, at.as_bytes(), "x");
    }
    let list = |after, prefix: &'static str, limit| {
        let list =
            VersionList { bucket: BUCKET, prefix: prefix.into(), delimiter: Some("/".into()), after, limit };
        shard.query(&LIST, list).unwrap()
    };
    let first = list(None, "", 2);
    assert_eq!((first.common_prefixes, first.versions.len()), (vec![Bytes::from("a/")], 1));
    let second = list(first.next, "", 2);
    assert_eq!((second.common_prefixes, second.versions.len()), (vec![Bytes::from("c/")], 1));
    assert!(!second.versions[0].latest);
    assert_eq!(second.next, None);
    let inside = list(Some((Bytes::from("a"), Some(VersionId::Null))), "a/", 10);
    assert_eq!(inside.versions.len(), 2);
    assert_eq!(list(None, "", 0), VersionPage::default());
}

#[test]
fn a_page_that_ends_with_a_null_version_goes_on_after_it_or_from_its_key_anew() {
    let mut shard = FakeShard::new();
    shard.put(b"k", inline("null")).unwrap();
    set(&mut shard, Versioning::Enabled);
    let newer = put(&mut shard, b"k", "newer");
    put(&mut shard, b"l", "last");
    let after = Some((Bytes::from("k"), Some(VersionId::Null)));
    assert_eq!(page(&shard, after.clone(), 10).versions.len(), 1);
    delete_version(&mut shard, b"k", VersionId::Null);
    let rest = page(&shard, after, 10).versions;
    assert_eq!(rest.iter().map(|entry| entry.version).collect::<Vec<_>>()[0], newer);
    assert_eq!(rest.len(), 2);
}

#[derive(Debug, Clone)]
enum Step {
    Set(Versioning),
    Put(u8),
    Delete(u8),
    /// The version of that key at this place, from new to old.
    DeleteVersion(u8, usize),
    DeleteNull(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let at = 0..2u8;
    prop_oneof![
        1 => prop_oneof![Just(Versioning::Enabled), Just(Versioning::Suspended)].prop_map(Step::Set),
        4 => at.clone().prop_map(Step::Put),
        2 => at.clone().prop_map(Step::Delete),
        3 => (at.clone(), 0..4usize).prop_map(|(at, place)| Step::DeleteVersion(at, place)),
        1 => at.prop_map(Step::DeleteNull),
    ]
}

/// What S3's documentation says, in a list per key: newest first, with its text, or none
/// for a delete marker.
#[derive(Default)]
struct Model {
    versioning: Versioning,
    keys: BTreeMap<u8, Vec<(VersionId, Option<String>)>>,
}

impl Model {
    fn write(&mut self, at: u8, text: Option<String>, id: VersionId) {
        let versioning = self.versioning;
        let versions = self.keys.entry(at).or_default();
        if versioning != Versioning::Enabled {
            versions.retain(|(id, _)| *id != VersionId::Null);
        }
        if versioning != Versioning::Unset || text.is_some() {
            versions.insert(0, (id, text));
        }
    }
}

proptest! {
    #[test]
    fn versions_are_kept_hidden_and_shown_as_a_plain_list_would(steps in prop::collection::vec(step(), 1..30)) {
        let mut shard = FakeShard::new();
        let mut model = Model::default();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Set(versioning) => {
                    set(&mut shard, versioning);
                    model.versioning = versioning;
                }
                Step::Put(at) => {
                    let text = format!("text {number}");
                    let id = put(&mut shard, &[at], &text);
                    prop_assert_eq!(id == VersionId::Null, model.versioning != Versioning::Enabled);
                    model.write(at, Some(text), id);
                }
                Step::Delete(at) => {
                    let id = match delete(&mut shard, &[at]) {
                        Removal::Marked { version, .. } => version,
                        _ => VersionId::Null,
                    };
                    model.write(at, None, id);
                }
                Step::DeleteVersion(at, place) => {
                    let versions = model.keys.entry(at).or_default();
                    if place < versions.len() {
                        let (id, text) = versions.remove(place);
                        let marker = text.is_none();
                        prop_assert_eq!(
                            delete_version(&mut shard, &[at], id),
                            VersionRemoval::Removed { marker }
                        );
                    }
                }
                Step::DeleteNull(at) => {
                    model.keys.entry(at).or_default().retain(|(id, _)| *id != VersionId::Null);
                    delete_version(&mut shard, &[at], VersionId::Null);
                }
            }
            let mut expected = Vec::new();
            for (at, versions) in &model.keys {
                let newest = versions.first().and_then(|(_, text)| text.clone());
                prop_assert_eq!(text(newest_found(&shard, &[*at])), newest);
                for (place, (id, content)) in versions.iter().enumerate() {
                    prop_assert_eq!(&text(version_found(&shard, &[*at], *id).unwrap()), content);
                    expected.push((vec![*at], *id, place == 0, content.is_none()));
                }
            }
            prop_assert_eq!(listed(&shard, 2), expected);
            let list = List {
                bucket: BUCKET,
                prefix: Bytes::new(),
                delimiter: None,
                start_after: None,
                limit: 10,
            };
            let shown: Vec<_> = shard.query(&OBJECTS, list).unwrap().entries;
            let shown: Vec<_> = shown.iter().map(|entry| entry.key.as_bytes()[0]).collect();
            let visible = |versions: &Vec<(VersionId, Option<String>)>| {
                versions.first().is_some_and(|(_, text)| text.is_some())
            };
            let keys = model.keys.iter().filter(|(_, versions)| visible(versions)).map(|(at, _)| *at);
            prop_assert_eq!(shown, keys.collect::<Vec<_>>());
        }
        for (at, versions) in model.keys {
            for (id, _) in versions {
                delete_version(&mut shard, &[at], id);
            }
        }
        // Only the bucket's descriptor is left.
        prop_assert_eq!(shard.records.len(), 1, "{:?}", shard.records);
    }
}
