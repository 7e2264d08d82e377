//! Chunk packs in crash storms: clients put, stamp, read and remove chunks while packs are
//! compacted, the power fails at any moment, and the disk is as faulty as the seed says.
//!
//! What must hold is written down as the clients go: a chunk whose put, or a stamp whose
//! raise, was answered is there after the crash unless a removal that was allowed to take
//! it had begun; one whose removal was answered stays away; and whatever is served hashes
//! to its name. What does not hold is the complaint of the checker `chunks`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use atoll_disk::{ChunkError, ChunkRecovery, ChunkSettings, ChunkStore, DiskFaults, MemoryDisk, MemoryStore};
use atoll_runtime::Runtime;
use atoll_simulation::{
    NodeIndex, Schedule, Seed, Simulation,
    checkers::{Finding, Judgement},
};
use atoll_types::{ByteSize, ChunkHash, Slot};
use bytes::Bytes;
use rand::{Rng, SeedableRng, rngs::StdRng};

const CHUNKS: u64 = 24;
const CLIENTS: usize = 5;
const LIVES: usize = 6;
/// Nothing here takes longer in virtual time, unless it hangs.
const LIMIT: Duration = Duration::from_secs(60);

fn chunk(n: u64) -> (ChunkHash, Bytes) {
    let mut rng = StdRng::seed_from_u64(n);
    let mut bytes = vec![0; [0, 1, 300, 900, 2500, 6000][n as usize % 6]];
    rng.fill(&mut bytes[..]);
    bytes.extend(n.to_le_bytes());
    (ChunkHash::of(&bytes), bytes.into())
}

/// What is known of one chunk.
#[derive(Debug, Default, Clone)]
struct Known {
    /// The highest stamp that was answered for.
    stamped: Option<u64>,
    /// The highest stamp that a removal was ever allowed to take.
    removable: Option<u64>,
    /// Puts begun, ever; and those not yet answered, in this life.
    puts: u64,
    putting: u64,
    /// Its removal was answered, and no put may have come after it.
    gone: bool,
}

impl Known {
    fn must_be_here(&self) -> Option<u64> {
        self.stamped.filter(|stamped| self.removable.is_none_or(|removable| removable < *stamped))
    }
}

#[derive(Default)]
struct Model {
    epoch: u64,
    chunks: BTreeMap<u64, Known>,
    acknowledged: u64,
    /// The first thing that did not hold.
    complaint: Option<String>,
}

type SharedModel = Arc<Mutex<Model>>;

fn with<T>(model: &SharedModel, n: u64, change: impl FnOnce(&mut Known) -> T) -> T {
    change(model.lock().unwrap().chunks.entry(n).or_default())
}

fn must(model: &SharedModel, holds: bool, complaint: impl FnOnce() -> String) {
    if !holds {
        model.lock().unwrap().complaint.get_or_insert_with(complaint);
    }
}

async fn client(store: ChunkStore, runtime: Runtime, model: SharedModel, sound: bool, readable: bool) {
    let mut rng = runtime.rng();
    loop {
        let n = rng.random_range(0..CHUNKS);
        let (hash, bytes) = chunk(n);
        let epoch = {
            let mut model = model.lock().unwrap();
            model.epoch += u64::from(rng.random_bool(0.02));
            model.epoch
        };
        let outcome = match rng.random_range(0..12) {
            0..5 => {
                with(&model, n, |known| {
                    (known.puts, known.putting, known.gone) = (known.puts + 1, known.putting + 1, false)
                });
                let outcome = store.put(hash, bytes, epoch).await;
                with(&model, n, |known| {
                    known.putting -= 1;
                    if outcome.is_ok() {
                        known.stamped = known.stamped.max(Some(epoch));
                    }
                });
                outcome.map(drop)
            }
            5..7 => store.raise_stamp(hash, epoch).await.map(|raised| {
                if raised {
                    with(&model, n, |known| known.stamped = known.stamped.max(Some(epoch)));
                }
            }),
            7..9 => match epoch.checked_sub(rng.random_range(1..3)) {
                None => Ok(()),
                Some(at_most) => {
                    let (puts, putting) = with(&model, n, |known| {
                        known.removable = known.removable.max(Some(at_most));
                        (known.puts, known.putting)
                    });
                    let outcome = store.remove_if(hash, at_most).await;
                    with(&model, n, |known| {
                        if outcome.as_ref().is_ok_and(|removed| *removed)
                            && (putting, known.puts) == (0, puts)
                        {
                            known.gone = true;
                        }
                    });
                    outcome.map(drop)
                }
            },
            9 => store.compact_next(rng.random_range(1000..20_000)).await.map(drop),
            10 => store.scrub_next(None, 10_000).await.map(drop),
            _ => {
                let before = with(&model, n, |known| known.must_be_here());
                let found = store.get(hash).await;
                if let Ok(Some(found)) = &found {
                    must(&model, *found == bytes, || format!("chunk {n} has other bytes"));
                }
                let after = with(&model, n, |known| known.must_be_here());
                if sound && before.is_some() && after.is_some() {
                    must(&model, !matches!(found, Ok(None)), || format!("chunk {n} is not found"));
                    let damaged = matches!(found, Err(ChunkError::Damaged { .. }));
                    must(&model, !(damaged && readable), || format!("chunk {n} is damaged"));
                }
                found.map(drop)
            }
        };
        match outcome {
            Ok(()) => model.lock().unwrap().acknowledged += 1,
            Err(ChunkError::WrongHash { .. } | ChunkError::TooLarge { .. } | ChunkError::BadIndexKey) => {
                panic!("{outcome:?}")
            }
            // Refused for good in this life, or for now.
            Err(_) => runtime.sleep(Duration::from_millis(3)).await,
        }
    }
}

struct Storm {
    simulation: Simulation,
    node: NodeIndex,
    disk: MemoryDisk,
    index: MemoryStore,
    model: SharedModel,
    rng: StdRng,
    faults: DiskFaults,
    /// The disk gives back what it flushed.
    sound: bool,
}

impl Storm {
    fn new(seed: Seed) -> Self {
        let simulation = Simulation::new(seed, Schedule::Shuffled);
        let node = simulation.add_node("disk");
        let mut rng = seed.stream("chunk storm");
        let millis = Duration::from_millis;
        let mut faults = DiskFaults { sync_latency: millis(1)..millis(4), ..DiskFaults::default() };
        let mut sound = true;
        match rng.random_range(0..8) {
            0..3 => {}
            3 => faults.sync_error = 0.01,
            4 => faults.read_error = 0.01,
            5 => faults.capacity = Some(120_000),
            6 => (faults.flipped_bit, sound) = (0.01, false),
            _ => {
                (faults.lost_write, faults.misplaced_write, sound) = (0.01, 0.01, false);
            }
        }
        Self {
            simulation,
            node,
            disk: MemoryDisk::new(rng.random()),
            index: MemoryStore::new(),
            model: SharedModel::default(),
            rng,
            faults,
            sound,
        }
    }

    fn readable(&self) -> bool {
        self.faults.read_error == 0.0
    }

    /// Retried while the disk gives read errors, as a node that is started again would.
    fn open(&self) -> (ChunkStore, ChunkRecovery) {
        let runtime = self.simulation.node_runtime(self.node);
        let (disk, index) = (self.disk.clone(), self.index.clone());
        self.simulation
            .block_on(LIMIT, async move {
                for _ in 0..100 {
                    let settings = ChunkSettings {
                        pack_bytes_max: 20_000,
                        reserve_percent: 0,
                        reserve_bytes_min: ByteSize::kib(4),
                    };
                    let files = Arc::new(disk.files(&runtime));
                    let open = ChunkStore::open(files, Arc::new(index.clone()), runtime.clone(), settings);
                    match runtime.spawn("open", open).await.expect("opening does not panic") {
                        Ok(opened) => return opened,
                        Err(ChunkError::Disk(_)) => {}
                        Err(error) => panic!("{error:?}"),
                    }
                }
                panic!("the disk never lets the store open");
            })
            .unwrap_or_else(|error| panic!("{error}"))
    }

    fn live(&mut self, store: ChunkStore) {
        for _ in 0..CLIENTS {
            let runtime = self.simulation.node_runtime(self.node);
            let task =
                client(store.clone(), runtime.clone(), self.model.clone(), self.sound, self.readable());
            drop(runtime.spawn("client", task));
        }
        drop(store);
        let duration = Duration::from_micros(self.rng.random_range(0..150_000));
        self.simulation.run_for(duration).unwrap_or_else(|error| panic!("{error}"));
    }

    fn crash(&mut self) {
        self.simulation.faults().crash(self.node);
        if self.rng.random_bool(0.8) {
            self.disk.crash(&mut self.rng);
            self.index.crash(&mut self.rng);
        } else {
            self.disk.kill();
        }
        for known in self.model.lock().unwrap().chunks.values_mut() {
            // Those on their way may or may not have arrived.
            known.putting = 0;
        }
    }

    /// After a crash, on a disk that now behaves.
    fn check(&self, store: &ChunkStore) {
        let store = store.clone();
        let chunks = self.model.lock().unwrap().chunks.clone();
        let model = self.model.clone();
        let (sound, readable) = (self.sound, self.readable());
        self.simulation
            .block_on(LIMIT, async move {
                let mut listed = BTreeMap::new();
                let slots: BTreeSet<Slot> = (0..CHUNKS).map(|n| chunk(n).0.slot()).collect();
                for slot in slots {
                    for info in store.list(slot, None, 100).await.unwrap() {
                        listed.insert(info.hash, info);
                    }
                }
                // A damaged chunk whose pack is gone takes no room any more.
                let counted = store.usage().chunks == listed.len() as u64;
                must(&model, counted || !sound, || "chunks are counted wrongly".into());
                for (n, known) in chunks {
                    let (hash, bytes) = chunk(n);
                    let found = store.get(hash).await;
                    if let Ok(Some(found)) = &found {
                        must(&model, *found == bytes, || format!("chunk {n} has other bytes"));
                    }
                    if !sound {
                        continue;
                    }
                    let found = match found {
                        // It could not be read too often; it is there, for repair to replace.
                        Err(ChunkError::Damaged { .. }) if !readable => continue,
                        Err(error) => {
                            must(&model, false, || format!("chunk {n}: {error}"));
                            continue;
                        }
                        Ok(found) => found,
                    };
                    if let Some(stamped) = known.must_be_here() {
                        must(&model, found.is_some(), || format!("chunk {n} is lost: {known:?}"));
                        let stamp = listed.get(&hash).map(|info| info.stamp);
                        must(&model, stamp >= Some(stamped), || {
                            format!("chunk {n} lost its stamp, has {stamp:?}: {known:?}")
                        });
                    }
                    let gone = !known.gone || found.is_none();
                    must(&model, gone, || format!("chunk {n} is back: {known:?}"));
                }
            })
            .unwrap_or_else(|error| panic!("{error}"));
    }

    fn run(mut self) -> Model {
        for life in 0..LIVES {
            self.disk.set_faults(DiskFaults::default());
            let (store, recovery) = self.open();
            if self.sound {
                let found = recovery.damage;
                must(&self.model, found.is_empty(), || format!("life {life} finds damage: {found:?}"));
                let rebuilt = recovery.rebuilt && life > 0;
                must(&self.model, !rebuilt, || format!("life {life} finds no index"));
            }
            self.check(&store);
            self.disk.set_faults(self.faults.clone());
            if self.faults.read_error > 0.0 {
                // Starting meets them too.
                self.crash();
                let (store, _) = self.open();
                self.live(store);
            } else {
                self.live(store);
            }
            self.crash();
        }
        std::mem::take(&mut self.model.lock().unwrap())
    }
}

/// The judgement of one storm, and how many operations were answered in it.
pub fn storm(seed: Seed) -> (Judgement, u64) {
    let Model { complaint, acknowledged, .. } = Storm::new(seed).run();
    let findings = complaint.map(|problem| Finding { checker: "chunks", problem });
    (Judgement { findings: findings.into_iter().collect() }, acknowledged)
}
