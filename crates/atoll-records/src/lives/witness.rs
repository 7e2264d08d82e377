//! The driver's side of lives: what each frame shows, whose frames are taken, and keeping
//! what was seen.

use std::{collections::BTreeMap, sync::Arc};

use atoll_disk::{OrderedStore, SharedLog};
use atoll_runtime::{Broken, Runtime, is_broken};
use atoll_types::{NodeId, ReplicaId};
use rand::Rng;

use super::{Judgement, Life, Lives};
use crate::wire::Frame;

/// What to do with a frame.
pub(crate) enum Verdict {
    Take,
    /// Its sender is told first who it is taken for.
    Refuse(Box<Frame>),
    /// The sender has seen newer of this node's own disk than it holds.
    WeWereSetBack,
}

/// What a log has lost its peers notice too, so these are broken in both places.
const BELIEVING: [Broken; 4] =
    [Broken::OldDiskVotes, Broken::NoteIgnored, Broken::CutAtDamage, Broken::DamagedVotes];

pub(crate) struct Witness {
    runtime: Runtime,
    store: Arc<dyn OrderedStore>,
    log: SharedLog,
    lives: Lives,
    /// As they are in the store, or on their way there.
    kept: Lives,
    /// The newest life of this node that each peer has seen.
    peers_saw: BTreeMap<NodeId, Life>,
    keeping: Arc<tokio::sync::Mutex<()>>,
}

impl Witness {
    pub fn new(runtime: Runtime, store: Arc<dyn OrderedStore>, log: SharedLog, lives: Lives) -> Self {
        let (kept, keeping) = (lives.clone(), Arc::default());
        Self { runtime, store, log, lives, kept, peers_saw: BTreeMap::new(), keeping }
    }

    /// A frame without messages. To be made when what it will acknowledge is durable.
    pub fn frame(&self, to: NodeId) -> Frame {
        let peer_saw = self.peers_saw.get(&to).copied().unwrap_or_default();
        let shown = self.lives.show(peer_saw, self.log.flushed());
        Frame { shown, seen: self.lives.seen(to), set_back: None, messages: Vec::new() }
    }

    /// Whether the sender of a frame still knows what it has promised.
    pub fn check(&mut self, from: NodeId, frame: &Frame) -> Verdict {
        self.peers_saw.insert(from, frame.seen);
        if BELIEVING.into_iter().any(is_broken) {
            return Verdict::Take;
        }
        if frame.set_back == Some(self.lives.own) {
            return Verdict::WeWereSetBack;
        }
        match self.lives.judge(from, &frame.shown) {
            Judgement::Sound => Verdict::Take,
            Judgement::Newer => {
                self.keep();
                Verdict::Take
            }
            Judgement::Unproven => Verdict::Refuse(Box::new(self.frame(from))),
            Judgement::SetBack => {
                let life = frame.shown.life;
                tracing::warn!(?from, ?life, "a peer was set back to an old state of its disk");
                Verdict::Refuse(Box::new(Frame { set_back: Some(life), ..self.frame(from) }))
            }
        }
    }

    /// This disk holds less than peers have seen of it: none of its replicas knows anything.
    pub fn forget(&mut self, replicas: impl IntoIterator<Item = ReplicaId>) {
        let mut rng = self.runtime.rng();
        self.lives.forget(replicas, [rng.random(), rng.random()]);
        self.keep();
    }

    /// One of this node's replicas, as durably.
    pub fn note_forgotten(&mut self, replica: ReplicaId) {
        self.lives.forgotten.insert(replica);
        self.keep();
    }

    /// What was seen of peers since it was last kept, if anything.
    pub fn keep_news(&mut self) {
        if self.lives != self.kept {
            self.keep();
        }
    }

    fn keep(&mut self) {
        self.kept = self.lives.clone();
        let (runtime, store, lives) = (self.runtime.clone(), self.store.clone(), self.lives.clone());
        let turn = self.keeping.clone();
        drop(self.runtime.spawn("records-lives", async move {
            // In the order of their making.
            let _turn = turn.lock().await;
            if let Err(error) = runtime.blocking(move || lives.keep(&*store)).await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "what was seen of peers was not kept"
                );
            }
        }));
    }
}
