//! Who is at the other end: TLS 1.3 with raw public keys (RFC 7250) on both sides.
//!
//! There are no certificates, no names and no authorities: a peer proves that it holds
//! the ed25519 key which is its [`NodeId`]. A dialler insists on the id that it dialled;
//! an acceptor takes any key, and what that key may do is asked of the admission later.
//! Sessions are never resumed: each proves both keys anew.

use std::sync::Arc;

use atoll_types::NodeId;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme,
    client::{
        AlwaysResolvesClientRawPublicKeys, Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls13_signature_with_raw_key},
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime},
    server::{
        AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
    version::TLS13,
};

use crate::NodeKey;

/// Keeps connections by other programs apart from ours (RFC 7301). The version of the
/// frames is agreed on in the hello.
const ALPN: &[u8] = b"atoll/transport";

/// What an ed25519 public key looks like in TLS (RFC 8410, section 4), up to the key itself.
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// RFC 9266, section 2: the label, an empty context, 32 bytes.
const BINDING_LABEL: &[u8] = b"EXPORTER-Channel-Binding";

fn spki(node: &NodeId) -> Vec<u8> {
    [SPKI_PREFIX.as_slice(), node.as_bytes()].concat()
}

fn node_of_spki(spki: &[u8]) -> Result<NodeId, Error> {
    spki.strip_prefix(SPKI_PREFIX.as_slice())
        .and_then(|key| key.try_into().ok())
        .map(NodeId)
        .ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))
}

/// One node's side of all its handshakes.
pub(super) struct Identity {
    provider: Arc<CryptoProvider>,
    certified: Arc<CertifiedKey>,
}

impl Identity {
    pub(super) fn new(key: &NodeKey) -> Self {
        Self::of(key, &key.node_id())
    }

    /// Shows the key of `node` without holding it.
    #[cfg(test)]
    pub(super) fn forged(key: &NodeKey, node: &NodeId) -> Self {
        Self::of(key, node)
    }

    fn of(key: &NodeKey, shown: &NodeId) -> Self {
        let mut provider = ring::default_provider();
        // AES-128 first: as strong as x25519, and the faster one where every byte of
        // every chunk passes through it.
        provider.cipher_suites = vec![
            ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
            ring::cipher_suite::TLS13_AES_256_GCM_SHA384,
            ring::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ];
        let pkcs8 = PrivatePkcs8KeyDer::from(key.to_pkcs8());
        let signing = ring::sign::any_eddsa_type(&pkcs8).expect("a node's key is ed25519");
        // With raw public keys, the "certificate" is the key itself.
        let certified = CertifiedKey::new(vec![CertificateDer::from(spki(shown))], signing);
        Self { provider: Arc::new(provider), certified: Arc::new(certified) }
    }

    /// To dial `expected`, and nobody else.
    pub(super) fn client_config(&self, expected: NodeId) -> ClientConfig {
        let verifier = Verifier { expected: Some(expected), algorithms: self.algorithms() };
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])
            .expect("the provider speaks TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(
                self.certified.clone(),
            )));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        config
    }

    pub(super) fn server_config(&self) -> ServerConfig {
        let verifier = Verifier { expected: None, algorithms: self.algorithms() };
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])
            .expect("the provider speaks TLS 1.3")
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(self.certified.clone())));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config
    }

    fn algorithms(&self) -> WebPkiSupportedAlgorithms {
        self.provider.signature_verification_algorithms
    }
}

/// TLS wants a name to dial; keys are what we go by, and it is never sent.
pub(super) fn server_name() -> ServerName<'static> {
    ServerName::try_from("node.atoll.invalid").expect("a valid name")
}

/// What a finished handshake proved.
pub(super) struct Proven {
    pub(super) node: NodeId,
    pub(super) channel_binding: [u8; 32],
}

impl Proven {
    pub(super) fn of(connection: &rustls::Connection) -> Result<Self, Error> {
        let keys = connection.peer_certificates().unwrap_or_default();
        let [key] = keys else { return Err(Error::NoCertificatesPresented) };
        if connection.alpn_protocol() != Some(ALPN) {
            return Err(Error::NoApplicationProtocol);
        }
        let channel_binding = connection.export_keying_material([0; 32], BINDING_LABEL, Some(&[]))?;
        Ok(Self { node: node_of_spki(key)?, channel_binding })
    }
}

#[derive(Debug)]
struct Verifier {
    /// None on the accepting side.
    expected: Option<NodeId>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    fn check_key(&self, key: &CertificateDer<'_>, others: &[CertificateDer<'_>]) -> Result<(), Error> {
        let node = node_of_spki(key)?;
        if !others.is_empty() {
            return Err(Error::InvalidCertificate(CertificateError::BadEncoding));
        }
        if self.expected.is_some_and(|expected| expected != node) {
            return Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure));
        }
        Ok(())
    }

    fn check_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let spki = SubjectPublicKeyInfoDer::from(key.as_ref());
        verify_tls13_signature_with_raw_key(message, &spki, signature, &self.algorithms)
    }
}

/// TLS 1.2 is never offered, so its signatures are never seen.
fn no_tls12() -> Error {
    Error::General("only TLS 1.3 is spoken between nodes".into())
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check_key(end_entity, intermediates).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check_key(end_entity, intermediates).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
