//! The twin: a whole disk in memory, that forgets and breaks like a real one.
//!
//! A [`MemoryDisk`] outlives the node that uses it; the node gets a view on it for one
//! life ([`MemoryDisk::files`]). [`MemoryDisk::crash`] ends that life: whatever was not
//! flushed is kept, lost or torn, each write and each name by itself, and the handles of
//! that life give errors from then on.
//!
//! What it models, and what not:
//! - A file's bytes survive if they were written before a `sync` that succeeded; those
//!   written while it runs may not. Without one each 512-byte sector of a write is a case
//!   of its own.
//! - A name survives if its folder was synced after it was made, renamed or removed; that
//!   says nothing about the file's bytes, nor a `sync` anything about its name. A rename
//!   in one folder is atomic. Names are lost one by one: harsher than the journals of
//!   today's file systems, which keep their order.
//! - A failed `sync` drops what it was to write, while reads go on showing it, and the next
//!   `sync` succeeds: what Linux does (fsyncgate).
//! - Time: only what [`DiskFaults`] asks for passes, in `Runtime::sleep`.
//!
//! Everything random is drawn from one generator, so a disk used in the same order does
//! the same.

mod contents;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use atoll_runtime::Runtime;
use bytes::Bytes;
use rand::{Rng, SeedableRng, rngs::StdRng};

use self::contents::{Contents, SECTOR};
use super::{DiskError, File, Files, OP_SYNC, OP_WRITE, Space, check_path};

/// What [`Files::space`] says of a disk without [`DiskFaults::capacity`].
const CAPACITY_DEFAULT: u64 = 1 << 40;

/// What goes wrong. Each chance is per operation, from 0 to 1; nothing does by default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DiskFaults {
    /// A read fails, now and then again.
    pub read_error: f64,
    /// A bit of what is read has changed, for good.
    pub flipped_bit: f64,
    /// A write says that it happened, and did not.
    pub lost_write: f64,
    /// A write lands elsewhere, in this or another file, at a sector.
    pub misplaced_write: f64,
    /// A flush fails.
    pub sync_error: f64,
    /// Files together are at most this long; beyond it writes fail for lack of room.
    pub capacity: Option<u64>,
    /// How long a flush takes, drawn anew each time.
    pub sync_latency: Range<Duration>,
    pub read_latency: Range<Duration>,
    pub write_latency: Range<Duration>,
    /// An operation of any kind takes `stall` longer.
    pub stall_chance: f64,
    pub stall: Duration,
}

/// A disk. A clone is another handle on the same one.
#[derive(Clone)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
}

/// One life's view of a [`MemoryDisk`].
pub struct MemoryFiles {
    disk: MemoryDisk,
    life: u64,
    runtime: Runtime,
}

/// How often which fault has struck: a test of what survives faults had better have had some.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FaultCounts {
    pub read_errors: u64,
    pub flipped_bits: u64,
    pub lost_writes: u64,
    pub misplaced_writes: u64,
    pub sync_errors: u64,
    /// By crashes: writes of which nothing, and of which a part was left.
    pub dropped_writes: u64,
    pub torn_writes: u64,
    pub dropped_names: u64,
}

struct State {
    rng: StdRng,
    faults: DiskFaults,
    counts: FaultCounts,
    /// Raised by each crash: handles of an earlier life are dead.
    life: u64,
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    /// By path. The data folder itself is always there, and is not in it.
    names: BTreeMap<String, Node>,
    durable_names: BTreeMap<String, Node>,
    /// By folder: what a crash may forget.
    unsynced: BTreeMap<String, Vec<NameChange>>,
    next_write: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Folder,
    File(u64),
}

#[derive(Debug, Clone)]
enum NameChange {
    Link {
        path: String,
        node: Node,
    },
    Unlink {
        path: String,
    },
    /// Within one folder: both or nothing.
    Rename {
        from: String,
        to: String,
        node: Node,
    },
}

#[derive(Default, Clone)]
struct Inode {
    current: Contents,
    durable: Contents,
    unflushed: Vec<Change>,
    handles: usize,
}

#[derive(Clone)]
struct Change {
    number: u64,
    kind: ChangeKind,
}

#[derive(Clone)]
enum ChangeKind {
    Write { offset: u64, bytes: Bytes },
    SetLen(u64),
}

impl ChangeKind {
    fn apply(&self, contents: &mut Contents) {
        match self {
            ChangeKind::Write { offset, bytes } => contents.write(*offset, bytes),
            ChangeKind::SetLen(len) => contents.set_len(*len),
        }
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

impl MemoryDisk {
    /// An empty one, without faults. `seed` decides all that is drawn later.
    pub fn new(seed: u64) -> Self {
        let state = State {
            rng: StdRng::seed_from_u64(seed),
            faults: DiskFaults::default(),
            counts: FaultCounts::default(),
            life: 0,
            inodes: BTreeMap::new(),
            next_inode: 1,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            unsynced: BTreeMap::new(),
            next_write: 1,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// The disk as one life of a node sees it; latencies pass on `runtime`.
    pub fn files(&self, runtime: &Runtime) -> MemoryFiles {
        MemoryFiles { disk: self.clone(), life: self.lock().life, runtime: runtime.clone() }
    }

    /// From now on.
    pub fn set_faults(&self, faults: DiskFaults) {
        self.lock().faults = faults;
    }

    pub fn counts(&self) -> FaultCounts {
        self.lock().counts
    }

    /// How long its files together are.
    pub fn used(&self) -> u64 {
        self.lock().used()
    }

    /// The power fails: what was not flushed is kept, lost or torn, as `rng` draws.
    pub fn crash(&self, rng: &mut impl Rng) {
        self.lock().crash(rng);
    }

    /// The process ends, the machine runs on: nothing is lost, but handles are dead.
    pub fn kill(&self) {
        self.lock().life += 1;
    }

    /// An independent disk with the same contents, flushed and not: to bring back later,
    /// as if somebody restored an old image.
    pub fn image(&self) -> MemoryDisk {
        let state = self.lock();
        let mut inodes = state.inodes.clone();
        for inode in inodes.values_mut() {
            inode.handles = 0;
        }
        let copy = State {
            rng: state.rng.clone(),
            faults: state.faults.clone(),
            counts: FaultCounts::default(),
            life: 0,
            inodes,
            next_inode: state.next_inode,
            names: state.names.clone(),
            durable_names: state.durable_names.clone(),
            unsynced: state.unsynced.clone(),
            next_write: state.next_write,
        };
        MemoryDisk { state: Arc::new(Mutex::new(copy)) }
    }

    /// The paths of all files.
    pub fn paths(&self) -> Vec<String> {
        let state = self.lock();
        let files = state.names.iter().filter(|(_, node)| matches!(node, Node::File(_)));
        files.map(|(path, _)| path.clone()).collect()
    }

    /// A file's bytes as a reader would see them, past all faults.
    pub fn contents(&self, path: &str) -> Option<Vec<u8>> {
        let state = self.lock();
        let Some(Node::File(inode)) = state.names.get(path) else { return None };
        let contents = &state.inodes[inode].current;
        Some(contents.read(0, contents.len() as usize))
    }

    /// Changes a file behind everyone's back, for good: rot, or a hand-made disk. Creates
    /// it if need be, in a folder that exists.
    pub fn set_contents(&self, path: &str, bytes: &[u8]) {
        let mut state = self.lock();
        let inode = match state.names.get(path) {
            Some(Node::File(inode)) => *inode,
            _ => {
                let inode = state.new_inode();
                state.names.insert(path.into(), Node::File(inode));
                state.durable_names.insert(path.into(), Node::File(inode));
                inode
            }
        };
        let inode = state.inodes.get_mut(&inode).expect("named files have inodes");
        inode.current = Contents::default();
        inode.current.write(0, &Bytes::copy_from_slice(bytes));
        inode.durable = inode.current.clone();
        inode.unflushed.clear();
    }

    /// Takes a file away behind everyone's back, for good.
    pub fn forget(&self, path: &str) {
        let mut state = self.lock();
        state.names.remove(path);
        state.durable_names.remove(path);
        state.unsynced.remove(parent(path));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere is that test's failure, not this one's.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn new_inode(&mut self) -> u64 {
        let inode = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(inode, Inode::default());
        inode
    }

    fn is_folder(&self, path: &str) -> bool {
        path.is_empty() || self.names.get(path) == Some(&Node::Folder)
    }

    fn change_name(&mut self, folder: &str, change: NameChange) {
        change.apply(&mut self.names);
        self.unsynced.entry(folder.into()).or_default().push(change);
    }

    fn chance(&mut self, probability: f64) -> bool {
        // Nothing is drawn for what can't happen, so that switching one fault on does not
        // change when the others strike more than it must.
        probability > 0.0 && self.rng.random_bool(probability.min(1.0))
    }

    fn latency(&mut self, range: Range<Duration>) -> Duration {
        let mut latency = if range.is_empty() { range.start } else { self.rng.random_range(range) };
        if self.chance(self.faults.stall_chance) {
            latency += self.faults.stall;
        }
        latency
    }

    fn used(&self) -> u64 {
        self.inodes.values().map(|inode| inode.current.len()).sum()
    }

    fn capacity(&self) -> u64 {
        self.faults.capacity.unwrap_or(CAPACITY_DEFAULT)
    }

    fn record(&mut self, inode: u64, kind: ChangeKind) {
        let number = self.next_write;
        self.next_write += 1;
        let inode = self.inodes.get_mut(&inode).expect("open files have inodes");
        kind.apply(&mut inode.current);
        inode.unflushed.push(Change { number, kind });
    }

    fn write(&mut self, mut inode: u64, mut offset: u64, bytes: Bytes) -> io::Result<()> {
        let grows = (offset + bytes.len() as u64).saturating_sub(self.inodes[&inode].current.len());
        if self.used() + grows > self.capacity() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if self.chance(self.faults.lost_write) {
            self.counts.lost_writes += 1;
            return Ok(());
        }
        if self.chance(self.faults.misplaced_write) {
            self.counts.misplaced_writes += 1;
            let candidates: Vec<u64> = self.inodes.keys().copied().collect();
            if self.rng.random_bool(0.3) {
                inode = candidates[self.rng.random_range(0..candidates.len())];
            }
            let sectors = self.inodes[&inode].current.len() / SECTOR as u64;
            offset = self.rng.random_range(0..=sectors) * SECTOR as u64;
        }
        self.record(inode, ChangeKind::Write { offset, bytes });
        Ok(())
    }

    fn read(&mut self, inode: u64, offset: u64, len: usize) -> io::Result<Bytes> {
        if self.chance(self.faults.read_error) {
            self.counts.read_errors += 1;
            return Err(io::Error::other("medium error (injected)"));
        }
        let size = self.inodes[&inode].current.len();
        let end = (offset + len as u64).min(size);
        if offset < end && self.chance(self.faults.flipped_bit) {
            self.counts.flipped_bits += 1;
            let at = self.rng.random_range(offset..end);
            let bit = 1 << self.rng.random_range(0..8);
            let inode = self.inodes.get_mut(&inode).expect("open files have inodes");
            for contents in [&mut inode.current, &mut inode.durable] {
                if at < contents.len() {
                    let byte = contents.read(at, 1)[0] ^ bit;
                    contents.write(at, &Bytes::copy_from_slice(&[byte]));
                }
            }
        }
        Ok(self.inodes[&inode].current.read(offset, len).into())
    }

    /// Flushes what was written up to `number`.
    fn flush(&mut self, inode: u64, number: u64) -> io::Result<()> {
        let failed = self.chance(self.faults.sync_error);
        let inode = self.inodes.get_mut(&inode).expect("open files have inodes");
        let flushed = inode.unflushed.partition_point(|change| change.number <= number);
        let changes = inode.unflushed.drain(..flushed);
        if failed {
            self.counts.sync_errors += 1;
            return Err(io::Error::other("medium error (injected)"));
        }
        let changes: Vec<Change> = changes.collect();
        let all = inode.unflushed.is_empty();
        for change in changes {
            match change.kind {
                // What is flushed is what is there: both may have the same pages.
                ChangeKind::Write { offset, bytes } if all => {
                    inode.durable.take_over(&inode.current, offset, bytes.len());
                }
                kind => kind.apply(&mut inode.durable),
            }
        }
        Ok(())
    }

    fn crash(&mut self, rng: &mut impl Rng) {
        self.life += 1;
        let fate = Fate::draw(rng);
        for (_, changes) in std::mem::take(&mut self.unsynced) {
            for change in changes {
                if fate.keeps(rng) {
                    change.apply(&mut self.durable_names);
                } else {
                    self.counts.dropped_names += 1;
                }
            }
        }
        // What lies in a folder that was lost is lost with it.
        let mut kept = BTreeSet::from([String::new()]);
        self.durable_names.retain(|path, node| {
            let reachable = kept.contains(parent(path));
            if reachable && *node == Node::Folder {
                kept.insert(path.clone());
            }
            reachable
        });
        self.names = self.durable_names.clone();
        for inode in self.inodes.values_mut() {
            inode.handles = 0;
            let fate = Fate::draw(rng);
            for Change { kind, .. } in std::mem::take(&mut inode.unflushed) {
                if fate.keeps(rng) {
                    kind.apply(&mut inode.durable);
                } else if let ChangeKind::Write { offset, bytes } = kind
                    && fate == Fate::Each
                    && bytes.len() > SECTOR
                    && rng.random_bool(0.5)
                {
                    self.counts.torn_writes += 1;
                    tear(&mut inode.durable, offset, &bytes, rng);
                } else {
                    self.counts.dropped_writes += 1;
                }
            }
            inode.current = inode.durable.clone();
        }
        self.forget_unreachable();
    }

    fn forget_unreachable(&mut self) {
        let mut reachable = BTreeSet::new();
        let mut reach = |node: &Node| {
            if let Node::File(inode) = node {
                reachable.insert(*inode);
            }
        };
        self.names.values().for_each(&mut reach);
        self.durable_names.values().for_each(&mut reach);
        for change in self.unsynced.values().flatten() {
            if let NameChange::Link { node, .. } | NameChange::Rename { node, .. } = change {
                reach(node);
            }
        }
        self.inodes.retain(|id, inode| inode.handles > 0 || reachable.contains(id));
    }
}

/// What one crash does to one file's writes, or to the names: all three happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    KeepAll,
    LoseAll,
    Each,
}

impl Fate {
    fn draw(rng: &mut impl Rng) -> Self {
        match rng.random_range(0..6) {
            0 => Fate::KeepAll,
            1 | 2 => Fate::LoseAll,
            _ => Fate::Each,
        }
    }

    fn keeps(self, rng: &mut impl Rng) -> bool {
        match self {
            Fate::KeepAll => true,
            Fate::LoseAll => false,
            Fate::Each => rng.random_bool(0.5),
        }
    }
}

/// Of a write in several sectors, some arrive.
fn tear(contents: &mut Contents, offset: u64, bytes: &Bytes, rng: &mut impl Rng) {
    let end = offset + bytes.len() as u64;
    let mut at = offset;
    while at < end {
        let next = ((at / SECTOR as u64 + 1) * SECTOR as u64).min(end);
        if rng.random_bool(0.5) {
            contents.write(at, &bytes.slice((at - offset) as usize..(next - offset) as usize));
        }
        at = next;
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, Node>) {
        match self {
            NameChange::Link { path, node } => {
                names.insert(path.clone(), *node);
            }
            NameChange::Unlink { path } => {
                names.remove(path);
            }
            NameChange::Rename { from, to, node } => {
                names.remove(from);
                names.insert(to.clone(), *node);
            }
        }
    }
}

impl MemoryFiles {
    /// The state, if the life that this view belongs to still lasts.
    fn enter(&self, operation: &'static str, path: &str) -> Result<MutexGuard<'_, State>, DiskError> {
        check_path(operation, path)?;
        enter(&self.disk, self.life, operation, path)
    }
}

fn enter<'a>(
    disk: &'a MemoryDisk,
    life: u64,
    operation: &'static str,
    path: &str,
) -> Result<MutexGuard<'a, State>, DiskError> {
    let state = disk.lock();
    if state.life != life {
        let dead = io::Error::other("the machine crashed since this was opened");
        return Err(DiskError::new(operation, path, dead));
    }
    Ok(state)
}

fn not_found(operation: &'static str, path: &str) -> DiskError {
    DiskError::new(operation, path, io::ErrorKind::NotFound.into())
}

#[async_trait]
impl Files for MemoryFiles {
    async fn open(&self, path: &str, create: bool) -> Result<Arc<dyn File>, DiskError> {
        let mut state = self.enter("open", path)?;
        let inode = match state.names.get(path) {
            Some(Node::File(inode)) => *inode,
            Some(Node::Folder) => {
                return Err(DiskError::new("open", path, io::ErrorKind::IsADirectory.into()));
            }
            None if create && !path.is_empty() && state.is_folder(parent(path)) => {
                let inode = state.new_inode();
                let change = NameChange::Link { path: path.into(), node: Node::File(inode) };
                state.change_name(parent(path), change);
                inode
            }
            None => return Err(not_found("open", path)),
        };
        state.inodes.get_mut(&inode).expect("named files have inodes").handles += 1;
        Ok(Arc::new(MemoryFile {
            disk: self.disk.clone(),
            life: self.life,
            runtime: self.runtime.clone(),
            inode,
            path: path.into(),
        }))
    }

    async fn exists(&self, path: &str) -> Result<bool, DiskError> {
        Ok(path.is_empty() || self.enter("look for", path)?.names.contains_key(path))
    }

    async fn list(&self, folder: &str) -> Result<Vec<String>, DiskError> {
        let state = self.enter("list", folder)?;
        let inside = state.names.keys().filter(|path| parent(path) == folder);
        Ok(inside.map(|path| path.rsplit('/').next().expect("at least one").to_owned()).collect())
    }

    async fn create_folder(&self, path: &str) -> Result<(), DiskError> {
        let mut state = self.enter("create folder", path)?;
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        for end in ends.filter(|end| *end > 0) {
            let folder = &path[..end];
            match state.names.get(folder) {
                Some(Node::Folder) => {}
                Some(Node::File(_)) => {
                    return Err(DiskError::new("create folder", path, io::ErrorKind::AlreadyExists.into()));
                }
                None => {
                    let change = NameChange::Link { path: folder.into(), node: Node::Folder };
                    state.change_name(parent(folder), change);
                }
            }
        }
        Ok(())
    }

    async fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        check_path("rename", to)?;
        let mut state = self.enter("rename", from)?;
        let Some(node @ Node::File(_)) = state.names.get(from).copied() else {
            return Err(not_found("rename", from));
        };
        if !state.is_folder(parent(to)) || state.is_folder(to) {
            return Err(not_found("rename", to));
        }
        if parent(from) == parent(to) {
            let change = NameChange::Rename { from: from.into(), to: to.into(), node };
            state.change_name(parent(to), change);
        } else {
            state.change_name(parent(to), NameChange::Link { path: to.into(), node });
            state.change_name(parent(from), NameChange::Unlink { path: from.into() });
        }
        Ok(())
    }

    async fn remove(&self, path: &str) -> Result<(), DiskError> {
        let mut state = self.enter("remove", path)?;
        match state.names.get(path) {
            Some(Node::File(_)) => state.change_name(parent(path), NameChange::Unlink { path: path.into() }),
            Some(Node::Folder) => {
                return Err(DiskError::new("remove", path, io::ErrorKind::IsADirectory.into()));
            }
            None => {}
        }
        Ok(())
    }

    async fn sync_folder(&self, folder: &str) -> Result<(), DiskError> {
        let latency = {
            let mut state = self.enter("sync folder", folder)?;
            let range = state.faults.sync_latency.clone();
            state.latency(range)
        };
        pause(&self.runtime, latency).await;
        let mut state = self.enter("sync folder", folder)?;
        if !state.is_folder(folder) {
            return Err(not_found("sync folder", folder));
        }
        let State { unsynced, durable_names, .. } = &mut *state;
        for change in unsynced.remove(folder).unwrap_or_default() {
            change.apply(durable_names);
        }
        state.forget_unreachable();
        Ok(())
    }

    async fn space(&self) -> Result<Space, DiskError> {
        let state = self.enter("measure", "")?;
        let total = state.capacity();
        Ok(Space { total, available: total.saturating_sub(state.used()) })
    }
}

async fn pause(runtime: &Runtime, latency: Duration) {
    if latency > Duration::ZERO {
        runtime.sleep(latency).await;
    }
}

struct MemoryFile {
    disk: MemoryDisk,
    life: u64,
    runtime: Runtime,
    inode: u64,
    path: String,
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        let mut state = self.disk.lock();
        if state.life == self.life {
            state.inodes.get_mut(&self.inode).expect("open files have inodes").handles -= 1;
        }
    }
}

impl MemoryFile {
    fn enter(&self, operation: &'static str) -> Result<MutexGuard<'_, State>, DiskError> {
        enter(&self.disk, self.life, operation, &self.path)
    }

    async fn pause(
        &self,
        operation: &'static str,
        range: impl FnOnce(&DiskFaults) -> &Range<Duration>,
    ) -> Result<(), DiskError> {
        let latency = {
            let mut state = self.enter(operation)?;
            let range = range(&state.faults).clone();
            state.latency(range)
        };
        pause(&self.runtime, latency).await;
        Ok(())
    }

    fn error(&self, operation: &'static str, source: io::Error) -> DiskError {
        DiskError::new(operation, &self.path, source)
    }
}

#[async_trait]
impl File for MemoryFile {
    async fn len(&self) -> Result<u64, DiskError> {
        Ok(self.enter("measure")?.inodes[&self.inode].current.len())
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, DiskError> {
        self.pause("read", |faults| &faults.read_latency).await?;
        self.enter("read")?.read(self.inode, offset, len).map_err(|source| self.error("read", source))
    }

    async fn write_at(&self, offset: u64, parts: Vec<Bytes>) -> Result<(), DiskError> {
        self.pause(OP_WRITE, |faults| &faults.write_latency).await?;
        let mut state = self.enter(OP_WRITE)?;
        let mut at = offset;
        for part in parts {
            let len = part.len() as u64;
            state.write(self.inode, at, part).map_err(|source| self.error(OP_WRITE, source))?;
            at += len;
        }
        Ok(())
    }

    async fn write_and_sync(&self, offset: u64, parts: Vec<Bytes>) -> Result<(), DiskError> {
        self.write_at(offset, parts).await?;
        self.sync().await
    }

    async fn sync(&self) -> Result<(), DiskError> {
        let last = self.enter(OP_SYNC)?.next_write - 1;
        self.pause(OP_SYNC, |faults| &faults.sync_latency).await?;
        self.enter(OP_SYNC)?.flush(self.inode, last).map_err(|source| self.error(OP_SYNC, source))
    }

    async fn set_len(&self, len: u64) -> Result<(), DiskError> {
        let mut state = self.enter("resize")?;
        let grows = len.saturating_sub(state.inodes[&self.inode].current.len());
        if state.used() + grows > state.capacity() {
            return Err(self.error("resize", io::ErrorKind::StorageFull.into()));
        }
        state.record(self.inode, ChangeKind::SetLen(len));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
