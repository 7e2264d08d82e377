//! What shard 0 does for the trail: links batches, and tells them. All keys begin with
//! `audit/`.

use std::ops::Bound;

use atoll_disk::StoreError;
use atoll_records::{Command, Procedures, Query, ReadView, Verdict, WriteView};
use atoll_types::{Format, FormatError, NodeId};
use serde::{Deserialize, Serialize};

use super::batch::{Head, Link, LinkedBatch, SignedBatch};

pub(super) const APPEND: &str = "audit/append/1";
pub(super) const HEADS: &str = "audit/heads/1";
pub(super) const PAGE: &str = "audit/page/1";

const HEAD: &[u8] = b"audit/head";
const NODE: &[u8] = b"audit/node/";
const LINK: &[u8] = b"audit/link/";
const LINK_END: &[u8] = b"audit/link0";

/// A page ends after this; a batch is 64 KiB at most.
const PAGE_BYTES_MAX: usize = 256 << 10;

pub(crate) fn register(procedures: &mut Procedures) {
    procedures.command(APPEND, Append).query(HEADS, TellHeads).query(PAGE, TellPage);
}

fn node_key(node: &NodeId) -> Vec<u8> {
    [NODE, node.as_bytes()].concat()
}

fn link_key(index: u64) -> Vec<u8> {
    [LINK, &index.to_be_bytes()].concat()
}

fn decode<T: Format>(bytes: &[u8]) -> Result<T, StoreError> {
    T::decode(bytes).map_err(|error: FormatError| StoreError { operation: "decode", source: error.into() })
}

fn head(view: &(impl ReadView + ?Sized), key: &[u8]) -> Result<Head, StoreError> {
    view.get(key)?.map_or(Ok(Head::default()), |bytes| decode(&bytes))
}

/// Where the trail ends, and the asker's own chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Heads {
    pub(super) trail: Head,
    pub(super) node: Head,
}

impl Format for Heads {
    const NAME: &'static str = "audit heads";
    const VERSION: u8 = 1;
}

fn heads(view: &(impl ReadView + ?Sized), node: &NodeId) -> Result<Heads, StoreError> {
    Ok(Heads { trail: head(view, HEAD)?, node: head(view, &node_key(node))? })
}

/// Takes a batch that continues its node's chain and bears its signature. The output is
/// [`Heads`] either way.
struct Append;

impl Command for Append {
    fn apply(&self, view: &mut dyn WriteView, input: &[u8]) -> Result<Verdict, StoreError> {
        let Ok(signed) = SignedBatch::decode(input) else { return Ok(Verdict::Abort(Vec::new())) };
        let node = signed.batch.node;
        let before = heads(view, &node)?;
        let continues = signed.batch.number == before.node.index + 1
            && signed.batch.previous == before.node.hash
            && signed.is_genuine();
        if !continues {
            return Ok(Verdict::Abort(before.encode()));
        }
        let link = Link {
            index: before.trail.index + 1,
            previous: before.trail.hash,
            batch: signed.batch.hash(),
            stamp: view.stamp(),
        };
        let after = Heads {
            trail: Head { index: link.index, hash: link.hash() },
            node: Head { index: signed.batch.number, hash: link.batch },
        };
        view.put(HEAD, after.trail.encode().into());
        view.put(&node_key(&node), after.node.encode().into());
        view.put(&link_key(link.index), LinkedBatch { link, signed }.encode().into());
        Ok(Verdict::Commit(after.encode()))
    }
}

struct TellHeads;

impl Query for TellHeads {
    fn run(&self, view: &dyn ReadView, input: &[u8]) -> Result<Vec<u8>, StoreError> {
        let node = input.try_into().map_or(NodeId([0; 32]), NodeId);
        Ok(heads(view, &node)?.encode())
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct PageRequest {
    pub(super) after: u64,
    pub(super) limit: u32,
}

impl Format for PageRequest {
    const NAME: &'static str = "audit page request";
    const VERSION: u8 = 1;
}

/// The links after the one asked, and where the trail ends.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Page {
    pub(super) links: Vec<LinkedBatch>,
    pub(super) head: Head,
}

impl Format for Page {
    const NAME: &'static str = "audit page";
    const VERSION: u8 = 1;
}

struct TellPage;

impl Query for TellPage {
    fn run(&self, view: &dyn ReadView, input: &[u8]) -> Result<Vec<u8>, StoreError> {
        let request = PageRequest::decode(input).unwrap_or(PageRequest { after: 0, limit: 0 });
        let mut page = Page { links: Vec::new(), head: head(view, HEAD)? };
        let mut bytes = 0;
        let start = link_key(request.after);
        for pair in view.range(Bound::Excluded(&start), Bound::Excluded(LINK_END)) {
            if page.links.len() >= request.limit as usize || bytes >= PAGE_BYTES_MAX {
                break;
            }
            let (_, value) = pair?;
            bytes += value.len();
            page.links.push(decode(&value)?);
        }
        Ok(page.encode())
    }
}

#[cfg(test)]
mod tests {
    use atoll_types::WallTime;
    use ed25519_dalek::SigningKey;

    use super::*;
    use crate::{
        audit::batch::{Batch, Entry, Hash},
        records::fake::Shard,
    };

    fn batch(key: &SigningKey, number: u64, previous: Hash) -> SignedBatch {
        let node = NodeId(key.verifying_key().to_bytes());
        let entry = Entry {
            at: WallTime::from_millis(number),
            who: "anonymous".into(),
            what: "s3:GetObject".into(),
            on: "b/k".into(),
            from: String::new(),
            allowed: false,
            rule: "no rule allows it".into(),
        };
        Batch { node, number, previous, entries: vec![entry], missed: 0 }.sign(key)
    }

    fn append(shard: &mut Shard, batch: &SignedBatch) -> Result<Heads, Heads> {
        match Append.apply(shard, &batch.encode()).unwrap() {
            Verdict::Commit(heads) => Ok(Heads::decode(&heads).unwrap()),
            Verdict::Abort(heads) => Err(Heads::decode(&heads).unwrap()),
        }
    }

    #[test]
    fn only_a_genuine_batch_that_continues_its_node_s_chain_is_linked() {
        let mut shard = Shard::default();
        let (ann, bob) = (SigningKey::from_bytes(&[1; 32]), SigningKey::from_bytes(&[2; 32]));
        let first = batch(&ann, 1, Hash::default());
        let heads = append(&mut shard, &first).unwrap();
        assert_eq!((heads.trail.index, heads.node.index), (1, 1));
        let again = append(&mut shard, &first).unwrap_err();
        assert_eq!(again, heads, "it is told where its chain ends");
        assert!(append(&mut shard, &batch(&ann, 3, heads.node.hash)).is_err());
        assert!(append(&mut shard, &batch(&ann, 2, Hash([9; 32]))).is_err());
        let mut forged = batch(&ann, 2, heads.node.hash);
        forged.batch.entries[0].allowed = true;
        assert!(append(&mut shard, &forged).is_err());
        let mut stolen = batch(&bob, 2, heads.node.hash);
        stolen.batch.node = first.batch.node;
        assert!(append(&mut shard, &stolen).is_err());
        assert_eq!(append(&mut shard, &batch(&bob, 1, Hash::default())).unwrap().trail.index, 2);
        assert_eq!(append(&mut shard, &batch(&ann, 2, heads.node.hash)).unwrap().trail.index, 3);
        let page = TellPage.run(&shard, &PageRequest { after: 1, limit: 10 }.encode()).unwrap();
        let page = Page::decode(&page).unwrap();
        assert_eq!(page.links.iter().map(|linked| linked.link.index).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(page.links[1].link.hash(), page.head.hash);
    }
}
