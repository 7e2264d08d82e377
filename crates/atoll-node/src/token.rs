//! The token that `atoll up` leaves in the data folder, for the CLI to sign in with. Plain
//! text, so that a script can read it too; the folder is its owner's only.

use atoll_access::AdminToken;
use atoll_disk::{DiskError, Files};
use bytes::Bytes;

const FILE: &str = "admin-token";
/// A token is 64 characters or so.
const TOKEN_BYTES_MAX: usize = 1024;

#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("{FILE} is missing or empty")]
    Missing,
}

pub async fn read(files: &dyn Files) -> Result<AdminToken, TokenError> {
    if !files.exists(FILE).await? {
        return Err(TokenError::Missing);
    }
    let bytes = files.open(FILE, false).await?.read_at(0, TOKEN_BYTES_MAX).await?;
    let text = std::str::from_utf8(&bytes).unwrap_or_default().trim();
    if text.is_empty() { Err(TokenError::Missing) } else { Ok(AdminToken::new(text)) }
}

pub async fn write(files: &dyn Files, token: &AdminToken) -> Result<(), TokenError> {
    let file = files.open(FILE, true).await?;
    let text = Bytes::from(format!("{}\n", token.expose()));
    file.set_len(0).await?;
    file.write_and_sync(0, vec![text]).await?;
    files.sync_folder("").await?;
    Ok(())
}
