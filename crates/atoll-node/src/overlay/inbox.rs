//! Frames that arrived and were not looked at yet: a short queue for each peer, served in
//! turn, so that one that floods crowds out nobody but itself.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::{Mutex, MutexGuard, PoisonError},
};

use atoll_types::NodeId;
use bytes::Bytes;
use tokio::sync::Notify;

use super::frame::FRAME_BYTES_MAX;

/// A core answers in microseconds; a peer that has more than this waiting does not wait for
/// answers. Of at most 300 members each with its queue full of the largest frames, these are
/// 64 × 64 KiB × 300 = 1.2 GiB: too much, hence the next limit.
const FRAMES_PER_PEER_MAX: usize = 64;
/// Over all peers.
const BYTES_MAX: usize = 16 << 20;
const _: () = assert!(FRAMES_PER_PEER_MAX * FRAME_BYTES_MAX < BYTES_MAX);

#[derive(Default)]
pub struct Inbox {
    queues: Mutex<Queues>,
    arrived: Notify,
}

#[derive(Default)]
struct Queues {
    /// None of them empty.
    peers: BTreeMap<NodeId, VecDeque<Bytes>>,
    bytes: usize,
    /// Who was served last.
    last: Option<NodeId>,
}

impl Inbox {
    /// False if there is no room.
    pub fn push(&self, from: NodeId, frame: Bytes) -> bool {
        let mut queues = self.lock();
        let queued = queues.peers.get(&from).map_or(0, VecDeque::len);
        if queued >= FRAMES_PER_PEER_MAX || queues.bytes + frame.len() > BYTES_MAX {
            return false;
        }
        queues.bytes += frame.len();
        queues.peers.entry(from).or_default().push_back(frame);
        drop(queues);
        self.arrived.notify_one();
        true
    }

    /// The oldest frame of the peer whose turn it is.
    pub fn pop(&self) -> Option<(NodeId, Bytes)> {
        let mut queues = self.lock();
        let after = queues.last.map_or(Bound::Unbounded, Bound::Excluded);
        let next = queues.peers.range((after, Bound::Unbounded)).next().or(queues.peers.iter().next());
        let peer = *next?.0;
        let queue = queues.peers.get_mut(&peer)?;
        let frame = queue.pop_front()?;
        if queue.is_empty() {
            queues.peers.remove(&peer);
        }
        queues.bytes -= frame.len();
        queues.last = Some(peer);
        Some((peer, frame))
    }

    /// Waits until a frame is there.
    pub async fn arrived(&self) {
        while self.lock().peers.is_empty() {
            self.arrived.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u8) -> NodeId {
        NodeId([number; 32])
    }

    #[test]
    fn a_peer_that_floods_crowds_out_only_itself() {
        let inbox = Inbox::default();
        let taken = (0..1000).filter(|_| inbox.push(node(1), Bytes::from_static(b"noise"))).count();
        assert_eq!(taken, FRAMES_PER_PEER_MAX);
        assert!(inbox.push(node(2), Bytes::from_static(b"first")));
        assert!(inbox.push(node(2), Bytes::from_static(b"second")));
        let order: Vec<NodeId> = std::iter::from_fn(|| inbox.pop()).take(5).map(|(from, _)| from).collect();
        assert_eq!(order, [1, 2, 1, 2, 1].map(node));
        assert_eq!(std::iter::from_fn(|| inbox.pop()).count(), FRAMES_PER_PEER_MAX - 3);
        assert!(inbox.push(node(1), Bytes::from_static(b"again")));
    }

    #[test]
    fn many_peers_together_fill_no_more_than_the_limit() {
        let inbox = Inbox::default();
        let frame = Bytes::from(vec![0; FRAME_BYTES_MAX]);
        let mut bytes = 0;
        for peer in 0..=255 {
            while inbox.push(node(peer), frame.clone()) {
                bytes += frame.len();
            }
        }
        assert_eq!(bytes, BYTES_MAX);
    }
}
