//! How the layout is changed: read the newest from shard 0, work out the next, replace it
//! if nobody was faster, and tell every node.

use std::{sync::Arc, time::Duration};

use atoll_access::{Access, NotedRequest};
use atoll_placement::Layout;
use atoll_transport::{Message, Protocol, Transport};
use atoll_types::{Format, Instant};
use bytes::Bytes;

use crate::{
    follower::LayoutFollower,
    truths::{Truths, TruthsError},
    wire::ClusterRequest,
};

/// A push is a courtesy: who misses it hears of the version by gossip and asks.
const PUSH_TIME: Duration = Duration::from_secs(2);
/// Editors race rarely, and each loss means that another won; far more than happens.
const EDIT_TRIES_MAX: usize = 20;

#[derive(Clone)]
pub struct LayoutEditor {
    pub truths: Truths,
    pub follower: Arc<LayoutFollower>,
    pub transport: Arc<dyn Transport>,
    /// Notes what is no edit of an operator's at the admin API.
    pub access: Access,
}

/// The layout is as it was, or as somebody else made it.
#[derive(Debug, thiserror::Error)]
pub enum EditError<E: std::error::Error + 'static> {
    #[error(transparent)]
    Refused(E),
    #[error(transparent)]
    Truths(#[from] TruthsError),
    #[error("the layout kept changing under the edit")]
    Contended,
    #[error("shard 0 has a layout that this program does not understand")]
    Unreadable,
}

impl LayoutEditor {
    /// The newest layout there is, by a linearizable read.
    pub async fn newest<E: std::error::Error + 'static>(
        &self,
        deadline: Instant,
    ) -> Result<Arc<Layout>, EditError<E>> {
        let known = self.follower.current();
        match self.truths.layout(known.version(), deadline).await? {
            None => Ok(known),
            Some(bytes) => {
                let layout = Layout::decode(&bytes).map_err(|_| EditError::Unreadable)?;
                self.keep(layout.clone()).await;
                Ok(Arc::new(layout))
            }
        }
    }

    /// Applies `step` to the newest layout; `None` from it means that nothing is to do.
    /// Returns the layout that then holds.
    pub async fn edit<E: std::error::Error + 'static>(
        &self,
        deadline: Instant,
        step: impl Fn(&Layout) -> Result<Option<Layout>, E>,
    ) -> Result<Arc<Layout>, EditError<E>> {
        for _ in 0..EDIT_TRIES_MAX {
            let current = self.newest(deadline).await?;
            let Some(next) = step(&current).map_err(EditError::Refused)? else {
                return Ok(current);
            };
            let bytes = Bytes::from(next.encode());
            if self.truths.replace_layout(current.version(), next.version(), bytes.clone(), deadline).await? {
                let next = Arc::new(next);
                self.truths.runtime.fault_point("node: a layout is committed, nobody has it").await;
                self.keep(Layout::clone(&next)).await;
                self.push(&next, bytes);
                return Ok(next);
            }
        }
        Err(EditError::Contended)
    }

    /// Puts the layout of a recovery, which this node follows, in the place of the one that
    /// shard 0 still has. True once shard 0 has this epoch.
    pub async fn settle_epoch(&self, deadline: Instant) -> Result<bool, TruthsError> {
        let known = self.follower.current();
        if known.epoch() == Layout::FIRST_EPOCH {
            return Ok(true);
        }
        let stored = self.truths.layout(0, deadline).await?;
        let unreadable = TruthsError::Unreadable { what: "layout" };
        let stored = stored.and_then(|bytes| Layout::decode(&bytes).ok()).ok_or(unreadable)?;
        if stored.epoch() >= known.epoch() {
            return Ok(true);
        }
        if self.access.note_act(recovery(&known, &stored)).await.is_err() {
            return Ok(false);
        }
        let next = known.following(&stored);
        let bytes = Bytes::from(next.encode());
        let version = next.version();
        if !self.truths.replace_layout(stored.version(), version, bytes.clone(), deadline).await? {
            return Ok(false);
        }
        self.keep(next.clone()).await;
        self.push(&next, bytes);
        Ok(true)
    }

    async fn keep(&self, layout: Layout) {
        if let Err(error) = self.follower.offer(layout).await {
            // It is committed; this node will be offered it again.
            tracing::error!(%error, "can't keep the new layout");
        }
    }

    /// To every member at once, without waiting.
    fn push(&self, layout: &Layout, bytes: Bytes) {
        let me = self.transport.node_id();
        for node in layout.nodes().keys().copied().filter(|node| *node != me) {
            let transport = self.transport.clone();
            let message = Message::with_body(ClusterRequest::TakeLayout.encode(), bytes.clone());
            self.truths.runtime.spawn("layout push", async move {
                // Who misses it asks for it.
                let _ = transport.call(node, Protocol::Cluster, message, PUSH_TIME).await;
            });
        }
    }
}

/// What the operator did at a survivor's data folder.
fn recovery(known: &Layout, former: &Layout) -> NotedRequest {
    let given_up = former.nodes().keys().filter(|node| known.node(node).is_none());
    let given_up = given_up.map(ToString::to_string).collect::<Vec<_>>().join(", ");
    NotedRequest {
        who: "operator, at a survivor's data folder".into(),
        what: "node:recover".into(),
        on: format!("epoch {}, without {given_up}", known.epoch()),
        from: String::new(),
        rule: "whoever may write the data folder".into(),
    }
}
