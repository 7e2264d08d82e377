//! What objects tell the keeper of the layout. Implemented by the node.

use std::time::Duration;

use async_trait::async_trait;
use atoll_types::Slot;

/// How long an answer waits for a layout that is on its way: nodes ask each other for it
/// as soon as they hear of it, one round trip.
pub const LAYOUT_WAIT: Duration = Duration::from_millis(500);

/// A report could not be made, or its outcome is unknown. Reporting again is harmless.
#[derive(Debug, thiserror::Error)]
#[error("the layout's keeper could not be told")]
pub struct ReportError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

#[async_trait]
pub trait LayoutLink: Send + Sync + 'static {
    /// Somebody acts on a layout of this version, which this node doesn't have yet: fetch
    /// it. Returns at once; may be called often.
    fn newer_layout_exists(&self, version: u64);

    /// This node has a complete copy of these slots, which are arriving here; with each
    /// slot goes [`atoll_placement::CopyTask::changed`].
    async fn slots_filled(&self, slots: Vec<(Slot, u64)>) -> Result<(), ReportError>;

    /// This node has made its final pass over these slots, which are retiring here, and
    /// has dropped its copies.
    async fn slots_released(&self, slots: Vec<Slot>) -> Result<(), ReportError>;
}
