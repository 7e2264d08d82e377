//! The writer of the shared log: takes what all groups want persisted, writes it with as
//! few flushes as there are moments to wait for one, and says when it is durable.

use atoll_types::{Format, ReplicaId};
use raft::eraftpb::HardState;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::{driver::Feedback, group::Persist};

/// Raft's hard state, kept in the log beside the entries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogState {
    pub term: u64,
    pub vote: ReplicaId,
    pub commit: u64,
}

impl Format for LogState {
    const NAME: &'static str = "raft state";
    const VERSION: u8 = 1;
}

impl LogState {
    pub fn of(state: &HardState) -> Self {
        Self { term: state.term, vote: ReplicaId(state.vote), commit: state.commit }
    }

    pub fn into_raft(self) -> HardState {
        let mut state = HardState::default();
        state.term = self.term;
        state.vote = self.vote.0;
        state.commit = self.commit;
        state
    }
}

pub(crate) type Wish = Vec<(ReplicaId, Persist)>;

pub(crate) async fn run(
    mut wishes: mpsc::UnboundedReceiver<Wish>,
    feedback: mpsc::UnboundedSender<Feedback>,
) {
    while let Some(mut batch) = wishes.recv().await {
        while let Ok(more) = wishes.try_recv() {
            batch.extend(more);
        }
        let persisted = batch.iter().map(|(replica, persist)| (*replica, persist.number)).collect();
        if feedback.send(Feedback::Persisted(persisted)).is_err() {
            return;
        }
    }
}
