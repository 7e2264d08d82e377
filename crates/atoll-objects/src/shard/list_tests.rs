use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::shard::fake::{BUCKET, FakeShard, inline};

/// All pages of a listing: the items in the order shown, keys and common prefixes alike.
fn all_pages(shard: &FakeShard, prefix: &[u8], delimiter: Option<&[u8]>, limit: u32) -> Vec<(bool, Vec<u8>)> {
    let (mut items, mut start_after) = (Vec::new(), None);
    loop {
        let list = List {
            bucket: BUCKET,
            prefix: Bytes::copy_from_slice(prefix),
            delimiter: delimiter.map(Bytes::copy_from_slice),
            start_after,
            limit,
        };
        let page = shard.query(&OBJECTS, list).expect("the bucket is open");
        assert!(page.entries.len() + page.common_prefixes.len() <= limit as usize);
        let mut shown: Vec<_> =
            page.entries.iter().map(|entry| (false, entry.key.as_bytes().to_vec())).collect();
        shown.extend(page.common_prefixes.iter().map(|rolled| (true, rolled.to_vec())));
        shown.sort_by(|a, b| a.1.cmp(&b.1));
        items.extend(shown);
        match page.next {
            Some(next) => start_after = Some(next),
            None => return items,
        }
    }
}

/// What S3 says a listing is.
fn model(keys: &BTreeSet<Vec<u8>>, prefix: &[u8], delimiter: Option<&[u8]>) -> Vec<(bool, Vec<u8>)> {
    let mut items = Vec::new();
    for key in keys.iter().filter(|key| key.starts_with(prefix)) {
        let rest = &key[prefix.len()..];
        let rolled = delimiter.filter(|d| !d.is_empty()).and_then(|delimiter| {
            let at = (0..rest.len()).find(|at| rest[*at..].starts_with(delimiter))?;
            Some(key[..prefix.len() + at + delimiter.len()].to_vec())
        });
        let item = rolled.map_or_else(|| (false, key.clone()), |rolled| (true, rolled));
        if items.last() != Some(&item) {
            items.push(item);
        }
    }
    items
}

fn weird(len: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![4 => Just(b'/'), 3 => Just(b'a'), 2 => Just(b'.'), 1 => Just(0u8), 1 => Just(0xff), 1 => any::<u8>()];
    prop::collection::vec(byte, len)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_listing_shows_what_s3_says_whatever_the_keys_and_the_page_size(
        keys in prop::collection::btree_set(weird(1..8), 0..60),
        prefix in weird(0..3),
        delimiter in prop::option::of(prop_oneof![Just(b"/".to_vec()), weird(1..3)]),
        limit in 1u32..20,
    ) {
        let mut shard = FakeShard::new();
        for key in &keys {
            shard.put(key, inline("x")).unwrap();
        }
        let shown = all_pages(&shard, &prefix, delimiter.as_deref(), limit);
        prop_assert_eq!(shown, model(&keys, &prefix, delimiter.as_deref()));
    }

    #[test]
    fn a_listing_after_a_key_is_the_rest_of_the_listing(
        keys in prop::collection::btree_set(weird(1..6), 0..40),
        after in weird(1..6),
    ) {
        let mut shard = FakeShard::new();
        for key in &keys {
            shard.put(key, inline("x")).unwrap();
        }
        let list = List {
            bucket: BUCKET,
            prefix: Bytes::new(),
            delimiter: None,
            start_after: Some(after.clone().into()),
            limit: 1000,
        };
        let page = shard.query(&OBJECTS, list).unwrap();
        let shown: Vec<_> = page.entries.iter().map(|entry| entry.key.as_bytes().to_vec()).collect();
        prop_assert_eq!(shown, keys.range((Bound::Excluded(after), Bound::Unbounded)).cloned().collect::<Vec<_>>());
    }
}

#[test]
fn keys_at_the_limits_are_listed() {
    let mut shard = FakeShard::new();
    let keys: BTreeSet<Vec<u8>> = (0..=255u8)
        .map(|byte| vec![byte])
        .chain([vec![0; 1024], vec![0xff; 1024], b"../../etc".to_vec(), b"a//b".to_vec(), "ü/ñ".into()])
        .collect();
    for key in &keys {
        shard.put(key, inline("x")).unwrap();
    }
    assert_eq!(all_pages(&shard, b"", None, 7), model(&keys, b"", None));
    assert_eq!(all_pages(&shard, &[0xff], Some(&[0xff]), 7), model(&keys, &[0xff], Some(&[0xff])));
}

#[test]
fn a_common_prefix_costs_one_seek_however_much_is_under_it() {
    let mut shard = FakeShard::new();
    for folder in 0..20 {
        for file in 0..500 {
            let current = crate::shard::keys::current(BUCKET, format!("{folder:02}/{file:04}").as_bytes());
            let record = CurrentRecord {
                revision: atoll_types::Revision(1),
                size: 1,
                etag: crate::ETag { md5: [0; 16], parts: 0 },
                modified: atoll_types::WallTime(0),
                storage: crate::manifest::Storage::Inline,
            };
            crate::shard::write(&mut shard, &current, &record);
        }
    }
    shard.seeks.set(0);
    shard.steps.set(0);
    assert_eq!(all_pages(&shard, b"", Some(b"/"), 1000).len(), 20);
    assert!(shard.seeks.get() <= 21, "{} seeks", shard.seeks.get());
    assert!(shard.steps.get() <= 20 * (STEPS_BEFORE_SEEK + 1), "{} steps", shard.steps.get());
}
