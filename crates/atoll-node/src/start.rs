//! Why a node does not start.

use atoll_disk::{ChunkError, OpenLogError};

use crate::{
    follower::LayoutFileError, identity::IdentityError, join::JoinError, token::TokenError,
    truths::TruthsError, witness::WitnessError,
};

/// The node did not start. Its data folder is as it was, but for what it had joined or
/// founded by then: starting again carries on from there.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the data folder's identity can't be used")]
    Identity(#[from] IdentityError),
    #[error("the data folder's layout can't be used")]
    Layout(#[from] LayoutFileError),
    /// A member without the layout that it had: the folder is not whole.
    #[error("the data folder belongs to a member of a cluster, but has no layout")]
    LayoutMissing,
    #[error("this node was removed from its cluster, for good")]
    Removed,
    #[error("joining failed")]
    Join(#[from] JoinError),
    #[error("the log can't be opened")]
    Log(#[from] OpenLogError),
    #[error("the records can't be opened")]
    Records(#[from] atoll_records::StartError),
    #[error("a replica can't be opened")]
    Replica(#[from] atoll_records::RecordsError),
    #[error("the chunks can't be opened")]
    Chunks(#[from] ChunkError),
    #[error("the cluster could not be founded")]
    Found(#[from] TruthsError),
    #[error("the root key could not be made")]
    RootKey(#[from] atoll_access::AccessError),
    #[error("this node can't be described to the others")]
    Member(#[from] atoll_membership::InfoError),
    #[error("what this node has seen of the audit trail can't be used")]
    Witness(#[from] WitnessError),
    #[error("the admin token can't be used")]
    Token(#[from] TokenError),
}

impl StartError {
    /// Trying again later may help; nothing has to be mended.
    pub fn is_unavailable(&self) -> bool {
        matches!(
            self,
            StartError::Join(JoinError::Unreachable { .. } | JoinError::TryAgain { .. })
                | StartError::Found(_)
        )
    }
}
