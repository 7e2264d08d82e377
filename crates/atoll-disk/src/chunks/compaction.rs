//! Giving space back: a pack that is more dead than alive has its live chunks copied to
//! the current pack, and is removed.
//!
//! Each call does a bounded piece; the caller decides when the next is due. A pack goes
//! only after the copies are durable and the index that knows of them is flushed, so that
//! a crash at any point leaves every chunk in at least one pack.

use atoll_types::ChunkHash;
use futures_util::future::try_join_all;

use super::{
    ChunkError, ChunkStore,
    index::{Entry, PackCount},
    packs::{Found, Scanner},
    record::{PackId, Place, RecordKind, extent},
    writer::Operation,
};

/// Entries looked up in one trip when a pack's records can't be trusted to be complete.
const PAGE: usize = 256;
/// 16 chunks of about 1 MiB fill one batch of the writer.
const COPIES_AT_ONCE: usize = 16;

/// What one [`ChunkStore::compact_next`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compacted {
    pub bytes_read: u64,
    pub chunks_copied: u64,
    pub bytes_copied: u64,
    /// Given back to the file system; 0 while a pack is not yet done.
    pub bytes_freed: u64,
}

/// The pack being compacted, and how far.
pub(super) struct Victim {
    pack: PackId,
    /// `None` if it can't be read from end to end: what is live in it is then found by the
    /// index alone.
    scanner: Option<Scanner>,
}

/// Worth it: at most half of what is copied out comes back as a write.
fn is_worth_compacting(count: &PackCount) -> bool {
    count.live_chunks == 0 || count.live_bytes < count.bytes / 2
}

impl ChunkStore {
    /// Does a piece of compaction: reads about `bytes` of the pack that has the most to
    /// give. `None` if no pack is worth it.
    pub async fn compact_next(&self, bytes: u64) -> Result<Option<Compacted>, ChunkError> {
        let mut victim = self.shared.victim.lock().await;
        if victim.is_none() {
            let Some(pack) = self.most_wasteful_pack() else { return Ok(None) };
            let scanner = match self.shared.packs.open(pack).await? {
                Some(file) => Scanner::open(file, pack, 0).await?,
                None => None,
            };
            *victim = Some(Victim { pack, scanner });
        }
        let Victim { pack, scanner } = victim.as_mut().expect("chosen above");
        let mut done = Compacted::default();
        let result = self.compact(*pack, scanner, bytes, &mut done).await;
        if !matches!(result, Ok(false)) {
            // Done; or failed, and then chosen again and read from its beginning.
            *victim = None;
        }
        result.map(|_| Some(done))
    }

    /// The closed pack with the smallest live share that is worth it.
    fn most_wasteful_pack(&self) -> Option<PackId> {
        let counts = self.shared.counts();
        // The last may be the one that is written to.
        let (last, _) = counts.get_max()?;
        counts
            .iter()
            .filter(|(pack, count)| *pack < last && is_worth_compacting(count))
            .min_by_key(|(_, count)| count.live_bytes.saturating_mul(1000) / count.bytes.max(1))
            .map(|(pack, _)| *pack)
    }

    /// True when the pack is gone.
    async fn compact(
        &self,
        pack: PackId,
        scanner: &mut Option<Scanner>,
        bytes: u64,
        done: &mut Compacted,
    ) -> Result<bool, ChunkError> {
        if let Some(scanner) = scanner
            && self.live_chunks(pack) > 0
        {
            let mut found_here = Vec::new();
            while done.bytes_read < bytes {
                let from = scanner.offset;
                let found = match scanner.next().await {
                    Ok(Some(found)) => found,
                    Ok(None) => break,
                    Err(error) => {
                        tracing::error!(%error, pack = pack.0, "a pack can't be read to its end");
                        scanner.offset = scanner.len;
                        break;
                    }
                };
                done.bytes_read += scanner.offset - from;
                if let Found::Record { record, offset, .. } = found
                    && record.kind == RecordKind::Chunk
                {
                    found_here.push((record.hash, Place { pack, offset }));
                }
            }
            self.copy_all(&found_here, done).await?;
            if scanner.offset < scanner.len && self.live_chunks(pack) > 0 {
                return Ok(false);
            }
        }
        if self.live_chunks(pack) > 0 {
            self.copy_by_index(pack, done).await?;
        }
        let freed = self.shared.counts().get(&pack).map_or(0, |count| count.bytes);
        self.ask(|reply| Operation::DropPack { pack, reply }).await?;
        done.bytes_freed += freed;
        Ok(true)
    }

    fn live_chunks(&self, pack: PackId) -> u64 {
        self.shared.counts().get(&pack).map_or(0, |count| count.live_chunks)
    }

    /// For chunks whose records' headers are damaged; their bytes may be whole.
    async fn copy_by_index(&self, pack: PackId, done: &mut Compacted) -> Result<(), ChunkError> {
        let mut after = None;
        loop {
            let in_pack = move |entry: &Entry| entry.place.pack == pack;
            let entries = self.shared.look_up(move |index| index.entries(None, after, PAGE, in_pack)).await?;
            let Some((last, _)) = entries.last() else { return Ok(()) };
            after = Some(*last);
            let places: Vec<_> = entries.into_iter().map(|(hash, entry)| (hash, entry.place)).collect();
            self.copy_all(&places, done).await?;
        }
    }

    /// Copies those that still lie where they were seen, several to a flush.
    async fn copy_all(&self, places: &[(ChunkHash, Place)], done: &mut Compacted) -> Result<(), ChunkError> {
        for places in places.chunks(COPIES_AT_ONCE) {
            for copied in try_join_all(places.iter().map(|&(hash, place)| self.copy(hash, place))).await? {
                done.chunks_copied += u64::from(copied > 0);
                done.bytes_copied += copied;
            }
        }
        Ok(())
    }

    /// How many bytes were copied. A damaged chunk is left to repair, which stores it anew.
    async fn copy(&self, hash: ChunkHash, from: Place) -> Result<u64, ChunkError> {
        let is_here = |entry: &Entry| entry.place == from && !entry.damaged;
        if !self.entry(hash).await?.as_ref().is_some_and(is_here) {
            return Ok(0);
        }
        let bytes = match self.get_or_condemn(hash).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) | Err(ChunkError::Damaged { .. }) => return Ok(0),
            Err(error) => return Err(error),
        };
        let copied = extent(bytes.len() as u32);
        let _room = self.shared.room(bytes.len()).await?;
        let moved = self.ask(|reply| Operation::Move { hash, from, bytes, reply, _room }).await?;
        Ok(if moved { copied } else { 0 })
    }
}
