//! Scrub: every stored byte is read and hashed again, over and over, slowly. What is
//! found damaged is restored by `repair`.

use std::time::Duration;

use atoll_types::ChunkHash;

use crate::maintenance::{Throttle, Worker};

/// Read at once: a tenth of a second of a common disk.
const STEP_BYTES: u64 = 8 << 20;
/// At least this fast, so that a small store is done within minutes.
const BYTES_PER_SECOND_MIN: u64 = 1 << 20;
/// After a pass, and after a failure of the disk.
const PAUSE: Duration = Duration::from_secs(600);

const NOTE: &str = "scrubbed";

pub(crate) async fn run(worker: Worker) {
    let mut after: Option<ChunkHash> = worker.notes.read(NOTE.into()).await.flatten();
    loop {
        let chunks = &worker.objects.inner.holders.holder().chunks;
        let rate = chunks.usage().live_bytes / worker.settings.scrub_every.as_secs().max(1);
        let throttle = Throttle::new(worker.runtime().clone(), rate.max(BYTES_PER_SECOND_MIN));
        match chunks.scrub_next(after, STEP_BYTES).await {
            Ok(scrubbed) => {
                // Taken twice: the second waits for as long as the first was worth.
                throttle.take(scrubbed.bytes).await;
                throttle.take(0).await;
                worker.report(|status| {
                    status.bytes_scrubbed += scrubbed.bytes;
                    status.chunks_found_damaged += scrubbed.damaged.len() as u64;
                });
                for hash in &scrubbed.damaged {
                    worker.objects.inner.holders.holder().note_missing(*hash);
                }
                after = scrubbed.next;
                // Forgotten, the pass begins anew.
                let _ = worker.notes.write(NOTE.into(), after).await;
                if after.is_none() {
                    worker.runtime().sleep(PAUSE).await;
                }
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "scrub can't read the disk");
                worker.runtime().sleep(PAUSE).await;
            }
        }
    }
}
