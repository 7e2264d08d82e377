//! Who this node is, kept in its data folder: its key, the cluster it belongs to, and
//! how often it was started.

use atoll_disk::{Files, WholeFileError, read_whole, replace_whole};
use atoll_types::{ClusterId, DiskId, Format, FormatError, Generation};
use serde::{Deserialize, Serialize};

const FILE: &str = "identity";

/// What a data folder says about itself.
#[derive(Clone, Serialize, Deserialize)]
pub struct Identity {
    /// The ed25519 secret that this node's id is the public half of.
    pub key_seed: [u8; 32],
    /// Tells this folder from a fresh one that came in its place under the same key.
    pub disk: DiskId,
    /// Raised at each start.
    pub generation: Generation,
    /// `None` until the node founded or joined a cluster.
    pub cluster: Option<ClusterId>,
}

impl Format for Identity {
    const NAME: &'static str = "identity";
    const VERSION: u8 = 1;
}

/// The data folder can't say who it is. It is left as it was.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error(transparent)]
    File(#[from] WholeFileError),
    #[error(transparent)]
    Format(#[from] FormatError),
}

impl Identity {
    /// The identity in this folder, one generation on, durable before it is used; a new
    /// one if the folder is empty.
    pub async fn start(
        files: &dyn Files,
        fresh: impl FnOnce() -> Identity,
    ) -> Result<Identity, IdentityError> {
        let mut identity = Self::read(files).await?.unwrap_or_else(fresh);
        identity.generation.0 += 1;
        identity.save(files).await?;
        Ok(identity)
    }

    /// The identity in this folder as it is; `None` if it has none.
    pub async fn read(files: &dyn Files) -> Result<Option<Identity>, IdentityError> {
        match read_whole(files, FILE).await? {
            Some(bytes) => Ok(Some(Identity::decode(&bytes)?)),
            None => Ok(None),
        }
    }

    pub async fn save(&self, files: &dyn Files) -> Result<(), IdentityError> {
        Ok(replace_whole(files, "", FILE, self.encode()).await?)
    }
}
