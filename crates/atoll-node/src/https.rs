//! HTTPS at the S3 door: with a certificate that the operator gives, or one that the node
//! makes for itself and keeps in its data folder, for clients to be told to trust.

use std::{path::PathBuf, sync::Arc};

use atoll_disk::{DiskError, Files};
use bytes::Bytes;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

pub const CERT_FILE: &str = "s3-cert.pem";
const KEY_FILE: &str = "s3-key.pem";
/// A chain of several certificates has some KiB each.
const PEM_BYTES_MAX: usize = 1 << 20;

/// How the S3 door speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Https {
    Off,
    SelfMade,
    Given { cert: PathBuf, key: PathBuf },
}

/// Nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum HttpsError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("can't read {}", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} holds no certificate or key in PEM", path.display())]
    NoPem { path: PathBuf },
    #[error("a certificate could not be made")]
    NotMade(#[source] rcgen::Error),
    /// The key is another certificate's, or of an unknown kind.
    #[error("the certificate and its key can't be used")]
    Unusable(#[source] rustls::Error),
}

/// What the door needs to speak HTTPS; `None` if it is off. `names` go into a certificate
/// that is made now; one that was made before is kept, whatever it names.
pub async fn load(
    https: &Https,
    files: &dyn Files,
    names: Vec<String>,
) -> Result<Option<Arc<ServerConfig>>, HttpsError> {
    let (cert, key, origin) = match https {
        Https::Off => return Ok(None),
        Https::Given { cert, key } => (read_given(cert)?, read_given(key)?, cert.clone()),
        Https::SelfMade => {
            if !(files.exists(CERT_FILE).await? && files.exists(KEY_FILE).await?) {
                let made = rcgen::generate_simple_self_signed(names).map_err(HttpsError::NotMade)?;
                // The certificate last: without it both are made anew.
                write(files, KEY_FILE, made.signing_key.serialize_pem()).await?;
                write(files, CERT_FILE, made.cert.pem()).await?;
            }
            (read(files, CERT_FILE).await?, read(files, KEY_FILE).await?, CERT_FILE.into())
        }
    };
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&cert).collect();
    let chain = chain.ok().filter(|chain| !chain.is_empty());
    let (Some(chain), Ok(key)) = (chain, PrivateKeyDer::from_pem_slice(&key)) else {
        return Err(HttpsError::NoPem { path: origin });
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key));
    let mut config = config.map_err(HttpsError::Unusable)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Some(Arc::new(config)))
}

#[allow(clippy::disallowed_methods)] // files that the operator names are this crate's to read
fn read_given(path: &PathBuf) -> Result<Vec<u8>, HttpsError> {
    std::fs::read(path).map_err(|source| HttpsError::Unreadable { path: path.clone(), source })
}

async fn read(files: &dyn Files, name: &str) -> Result<Vec<u8>, HttpsError> {
    Ok(files.open(name, false).await?.read_at(0, PEM_BYTES_MAX).await?.to_vec())
}

async fn write(files: &dyn Files, name: &str, text: String) -> Result<(), HttpsError> {
    let file = files.open(name, true).await?;
    file.set_len(0).await?;
    file.write_and_sync(0, vec![Bytes::from(text)]).await?;
    files.sync_folder("").await?;
    Ok(())
}
