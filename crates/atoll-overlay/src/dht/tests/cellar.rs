//! What a node keeps, and what it does not take.

use super::*;

fn entry(author_seed: u8, number: u32, sequence: u64) -> Entry {
    author(author_seed).sign(key(number), sequence, WALL + HOUR, Body::Value(vec![0; 10]))
}

#[test]
fn a_key_has_room_for_so_many_authors_and_they_may_renew() {
    let mut cellar: Cellar<At> = Cellar::default();
    for seed in 0..8 {
        assert_eq!(cellar.put(entry(seed, 1, 1), Some(At(1))), Ok(()));
    }
    assert_eq!(cellar.put(entry(8, 1, 1), Some(At(1))), Err(Refused::Full));
    assert_eq!(cellar.put(entry(3, 1, 2), Some(At(1))), Ok(()));
    assert_eq!(cellar.put(entry(3, 1, 1), Some(At(1))), Err(Refused::Outdated));
    assert_eq!(cellar.kept().entries, 8);
    cellar.forget_expired(WALL + HOUR);
    assert_eq!(cellar.kept(), Kept::default());
    assert_eq!(cellar.put(entry(8, 1, 1), Some(At(1))), Ok(()));
}

/// A word's room is 128 postings; whoever made up so many shares it with all who come later.
#[test]
fn one_author_does_not_fill_a_word_and_all_who_keep_it_let_go_of_the_same() {
    let word = crate::entry::keyword_key("plans");
    let posting = |seed: u8, number: u32| {
        let content = key(number);
        let body = Body::Posting { content, name: format!("plans {number}") };
        author(seed).sign(word, 1, WALL + HOUR, body)
    };
    let made_up: Vec<Entry> = (0..200).map(|number| posting(1, number)).collect();
    let others: Vec<Entry> = (0..200).map(|number| posting(2 + (number % 10) as u8, number)).collect();
    let keep = |entries: &[&Entry]| {
        let mut cellar: Cellar<At> = Cellar::default();
        for entry in entries {
            let _ = cellar.put((*entry).clone(), Some(At(1)));
        }
        let mut counts: BTreeMap<NodeId, usize> = BTreeMap::new();
        for held in cellar.held(word) {
            *counts.entry(held.entry.author).or_default() += 1;
        }
        assert_eq!(counts.values().sum::<usize>(), 128);
        counts
    };
    let poisoned_first: Vec<&Entry> = made_up.iter().chain(&others).collect();
    let counts = keep(&poisoned_first);
    assert_eq!(counts.len(), 11, "every author is found under the word: {counts:?}");
    assert!(counts.values().all(|count| (11..=12).contains(count)), "{counts:?}");
    // The same of those who came first, when the other comes late.
    let poisoned_last: Vec<&Entry> = others.iter().chain(&made_up).collect();
    let counts = keep(&poisoned_last);
    assert!(counts.values().all(|count| (11..=12).contains(count)), "{counts:?}");
    // Who has one of a full word may still renew it, and one alone takes nothing from itself.
    let alone: Vec<&Entry> = made_up.iter().collect();
    assert_eq!(keep(&alone).len(), 1);
}

/// Authors are keys that anybody makes; peers were let in.
#[test]
fn one_peer_does_not_fill_a_key_with_authors_that_it_makes_up() {
    let word = crate::entry::keyword_key("plans");
    let posting = |seed: u8, number: u32| {
        let body = Body::Posting { content: key(number), name: format!("plans {number}") };
        author(seed).sign(word, 1, WALL + HOUR, body)
    };
    let (hostile, honest) = (At(200), 0..40_u8);
    let mut cellar: Cellar<At> = Cellar::default();
    for seed in 100..240 {
        let _ = cellar.put(posting(seed, u32::from(seed)), Some(hostile));
    }
    // Two of each, and one author to each peer: none is refused, and none is lost to who makes up
    // more authors afterwards.
    for (peer, number) in honest.clone().flat_map(|peer| [(peer, 0), (peer, 1)]) {
        assert_eq!(cellar.put(posting(peer, number), Some(At(peer))), Ok(()), "{peer}, {number}");
    }
    for seed in 40..100 {
        let _ = cellar.put(posting(seed, u32::from(seed)), Some(hostile));
    }
    let of = |cellar: &Cellar<At>, peer: u8| {
        let author = author(peer).author();
        cellar.held(word).iter().filter(|held| held.entry.author == author).count()
    };
    assert!(honest.clone().all(|peer| of(&cellar, peer) == 2));
    assert_eq!(cellar.held(word).len(), 128);
    // The same of values, of which a key has eight.
    let value = |seed: u8| entry(seed, 1, 1);
    let mut cellar: Cellar<At> = Cellar::default();
    for seed in 100..120 {
        let _ = cellar.put(value(seed), Some(hostile));
    }
    for peer in 0..7 {
        assert_eq!(cellar.put(value(peer), Some(At(peer))), Ok(()), "{peer}");
        assert_eq!(cellar.put(value(120 + peer), Some(hostile)), Err(Refused::Full));
    }
    assert_eq!(cellar.put(value(7), Some(At(7))), Err(Refused::Full), "eight peers have one each");
    assert_eq!(cellar.held(key(1)).len(), 8);
}

#[test]
fn one_peer_fills_a_quarter_of_the_room_and_all_together_no_more_than_all() {
    let mut cellar: Cellar<At> = Cellar::default();
    let key_of_all = author(1);
    // Unsigned copies would do as well: whether it is sound was checked before.
    let sample = key_of_all.sign(key(0), 1, WALL + HOUR, Body::Provider);
    let mut number = 0;
    for peer in 0..6 {
        let mut taken = 0;
        loop {
            number += 1;
            match cellar.put(Entry { key: key(number), ..sample.clone() }, Some(At(peer))) {
                Ok(()) => taken += 1,
                Err(refused) => break assert_eq!(refused, Refused::Full),
            }
        }
        assert_eq!(taken, if peer < 4 { ENTRIES_PER_PEER_MAX } else { 0 }, "peer {peer}");
    }
    assert_eq!(cellar.kept().entries, ENTRIES_MAX);
    let mut cellar: Cellar<At> = Cellar::default();
    let sample = key_of_all.sign(key(0), 1, WALL + HOUR, Body::Value(vec![0; VALUE_BYTES_MAX]));
    let mut number = 0;
    while cellar.put(Entry { key: key(number), ..sample.clone() }, Some(At((number % 8) as u8))).is_ok() {
        number += 1;
    }
    assert!(cellar.kept().bytes <= BYTES_MAX && cellar.kept().bytes > BYTES_MAX - 8192);
}
