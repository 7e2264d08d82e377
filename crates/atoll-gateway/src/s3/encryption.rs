//! Server-side encryption: what a request asks for in its headers, what an answer says of it,
//! and what a bucket asks for by itself. What is done is done by `atoll-objects`.
//!
//! A customer's key comes with each request, so over plain HTTP it is only taken from this
//! machine: S3 itself insists on HTTPS.

use atoll_objects::{CustomerKey, Encryption, EncryptionError, EncryptionKind, SetEncryptionError};
use data_encoding::BASE64;
use http::{Extensions, HeaderMap};
use md5::{Digest, Md5};
use s3s::{
    S3Error, S3ErrorCode, S3Request, S3Response, S3Result,
    dto::{
        DeleteBucketEncryptionInput, DeleteBucketEncryptionOutput, GetBucketEncryptionInput,
        GetBucketEncryptionOutput, PutBucketEncryptionInput, PutBucketEncryptionOutput, ServerSideEncryption,
        ServerSideEncryptionByDefault, ServerSideEncryptionConfiguration, ServerSideEncryptionRule,
    },
    s3_error,
};

use super::{
    S3Operations,
    error::{IntoS3, no_such_bucket, not_implemented},
    facts::ConnectionInfo,
    headers,
};

pub(crate) const HEADER: &str = "x-amz-server-side-encryption";
pub(crate) const CUSTOMER_ALGORITHM: &str = "x-amz-server-side-encryption-customer-algorithm";
pub(crate) const CUSTOMER_KEY: &str = "x-amz-server-side-encryption-customer-key";
pub(crate) const CUSTOMER_KEY_MD5: &str = "x-amz-server-side-encryption-customer-key-md5";
const CUSTOMER: &str = "x-amz-server-side-encryption-customer-";
const SOURCE_CUSTOMER: &str = "x-amz-copy-source-server-side-encryption-customer-";
const AES256: &str = ServerSideEncryption::AES256;

/// What a request says of encryption.
#[derive(Default)]
pub(crate) struct Asked {
    managed: bool,
    customer: Option<Customer>,
}

/// A customer's key, and its MD5 as it came, which answers repeat.
struct Customer {
    key: CustomerKey,
    md5: String,
}

/// What an answer says of encryption: algorithm, customer's algorithm, and the MD5 of its key.
pub(crate) type Said = (Option<ServerSideEncryption>, Option<String>, Option<String>);

impl Asked {
    pub(crate) fn of<T>(req: &S3Request<T>) -> S3Result<Self> {
        Self::in_headers(&req.headers, &req.extensions)
    }

    pub(crate) fn in_headers(headers: &HeaderMap, extensions: &Extensions) -> S3Result<Self> {
        let managed = match headers.get(HEADER) {
            None => false,
            Some(algorithm) if algorithm == AES256 => true,
            Some(algorithm) => return Err(unknown_algorithm(&String::from_utf8_lossy(algorithm.as_bytes()))),
        };
        let customer = customer(headers, extensions, CUSTOMER)?;
        if managed && customer.is_some() {
            return Err(s3_error!(
                InvalidArgument,
                "Server Side Encryption with Customer provided key is incompatible with the encryption method specified"
            ));
        }
        Ok(Self { managed, customer })
    }

    /// Of a request that reads, or adds to what was begun: it can bring a key and no wish.
    pub(crate) fn key_only<T>(req: &S3Request<T>) -> S3Result<Self> {
        let asked = Self::of(req)?;
        if asked.managed {
            return Err(s3_error!(InvalidArgument, "{HEADER} header is not supported for this operation."));
        }
        Ok(asked)
    }

    pub(crate) fn is_given(&self) -> bool {
        self.managed || self.customer.is_some()
    }

    pub(crate) fn encryption(&self) -> Option<Encryption> {
        match &self.customer {
            Some(customer) => Some(Encryption::Customer(customer.key.clone())),
            None => self.managed.then_some(Encryption::Managed),
        }
    }

    pub(crate) fn customer_key(&self) -> Option<CustomerKey> {
        self.customer.as_ref().map(|customer| customer.key.clone())
    }

    pub(crate) fn said(&self, kind: Option<EncryptionKind>) -> Said {
        match (kind, &self.customer) {
            (Some(EncryptionKind::Managed), _) => {
                (Some(ServerSideEncryption::from_static(AES256)), None, None)
            }
            (Some(EncryptionKind::Customer), Some(customer)) => {
                (None, Some(AES256.into()), Some(customer.md5.clone()))
            }
            (Some(EncryptionKind::Customer), None) | (None, _) => (None, None, None),
        }
    }
}

/// Fills the fields that most outputs have by the same names.
macro_rules! say_encryption {
    ($output:expr, $said:expr) => {
        ($output.server_side_encryption, $output.sse_customer_algorithm, $output.sse_customer_key_md5) = $said
    };
}
pub(crate) use say_encryption;

/// Whoever prints these headers does not print keys.
pub(crate) fn hide_keys(headers: &mut HeaderMap) {
    for (name, value) in headers {
        if name.as_str().ends_with("-customer-key") {
            value.set_sensitive(true);
        }
    }
}

/// The key that opens the source of a copy.
pub(crate) fn source_key<T>(req: &S3Request<T>) -> S3Result<Option<CustomerKey>> {
    let customer = customer(&req.headers, &req.extensions, SOURCE_CUSTOMER)?;
    Ok(customer.map(|customer| customer.key))
}

fn customer(headers: &HeaderMap, extensions: &Extensions, prefix: &str) -> S3Result<Option<Customer>> {
    let text =
        |name: &str| headers.get(format!("{prefix}{name}")).map(|value| value.to_str().unwrap_or_default());
    let (algorithm, key, md5) = (text("algorithm"), text("key"), text("key-md5"));
    if algorithm.is_none() && key.is_none() && md5.is_none() {
        return Ok(None);
    }
    let missing = |what: &str| {
        s3_error!(
            InvalidArgument,
            "Requests specifying Server Side Encryption with Customer provided keys must provide {what}."
        )
    };
    let algorithm = algorithm.ok_or_else(|| missing("a valid encryption algorithm"))?;
    let key = key.ok_or_else(|| missing("an appropriate secret key"))?;
    let md5 = md5.ok_or_else(|| missing("the client calculated MD5 of the secret key"))?;
    if algorithm != AES256 {
        return Err(unknown_algorithm(algorithm));
    }
    if !is_private(extensions) {
        return Err(s3_error!(
            InvalidRequest,
            "Requests specifying Server Side Encryption with Customer provided keys must be made over a secure connection."
        ));
    }
    let bytes = BASE64.decode(key.as_bytes()).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    let bytes = bytes.ok_or_else(|| {
        s3_error!(InvalidArgument, "The secret key was invalid for the specified algorithm.")
    })?;
    if BASE64.encode(&Md5::digest(bytes)) != md5 {
        return Err(s3_error!(
            InvalidArgument,
            "The calculated MD5 hash of the key did not match the hash that was provided."
        ));
    }
    Ok(Some(Customer { key: CustomerKey::new(bytes), md5: md5.to_owned() }))
}

/// Nobody on the way reads along: over TLS, or from this machine, as from a proxy on it.
fn is_private(extensions: &Extensions) -> bool {
    let connection = extensions.get::<ConnectionInfo>();
    connection
        .is_some_and(|connection| connection.secure || connection.peer.ip().to_canonical().is_loopback())
}

fn unknown_algorithm(algorithm: &str) -> S3Error {
    if algorithm.starts_with(ServerSideEncryption::AWS_KMS) {
        return not_implemented("Server-side encryption with KMS keys");
    }
    s3_error!(
        InvalidEncryptionAlgorithmError,
        "The Encryption request you specified is not valid. Supported value: AES256."
    )
}

impl IntoS3 for EncryptionError {
    fn into_s3(self) -> S3Error {
        match self {
            EncryptionError::NoRootKey => {
                s3_error!(NotImplemented, "This node was started without --key-file, and has no root key")
            }
            EncryptionError::OtherRootKey { has, needs } => s3_error!(
                NotImplemented,
                "This node's --key-file has the root key {has}, and this is encrypted with {needs}"
            ),
            EncryptionError::CustomerKeyMissing => s3_error!(
                InvalidRequest,
                "The object was stored using a form of Server Side Encryption. The correct parameters must be provided to retrieve the object."
            ),
            EncryptionError::CustomerKeyWrong => s3_error!(AccessDenied, "Access Denied"),
            EncryptionError::CustomerKeyUseless => {
                s3_error!(InvalidRequest, "The encryption parameters are not applicable to this object.")
            }
            EncryptionError::Altered => {
                let mut error =
                    s3_error!(InternalError, "What is kept of the object's encryption was altered");
                error.set_source(Box::new(self));
                error
            }
        }
    }
}

/// The same of a part of an upload, and of completing one.
pub(crate) fn of_upload(error: EncryptionError) -> S3Error {
    match error {
        EncryptionError::CustomerKeyMissing => s3_error!(
            InvalidRequest,
            "The multipart upload initiate requested encryption. Subsequent part requests must include the appropriate encryption parameters."
        ),
        EncryptionError::CustomerKeyWrong => s3_error!(
            InvalidRequest,
            "The provided encryption parameters did not match the ones used originally."
        ),
        EncryptionError::CustomerKeyUseless => s3_error!(
            InvalidRequest,
            "The multipart upload initiate did not request encryption. Please resend the request without sending encryption parameters."
        ),
        other => other.into_s3(),
    }
}

impl IntoS3 for SetEncryptionError {
    fn into_s3(self) -> S3Error {
        match self {
            SetEncryptionError::NoSuchBucket(_) => no_such_bucket(),
            SetEncryptionError::Encryption(cause) => cause.into_s3(),
            SetEncryptionError::Unavailable(cause) => cause.into_s3(),
        }
    }
}

impl S3Operations {
    pub(crate) async fn bucket_encryption(
        &self,
        req: S3Request<GetBucketEncryptionInput>,
    ) -> S3Result<S3Response<GetBucketEncryptionOutput>> {
        let bucket = headers::bucket(&req.input.bucket)?;
        if !self.objects.bucket_encryption(&bucket).await.map_err(IntoS3::into_s3)? {
            let code = S3ErrorCode::ServerSideEncryptionConfigurationNotFoundError;
            return Err(S3Error::with_message(
                code,
                "The server side encryption configuration was not found",
            ));
        }
        let by_default = ServerSideEncryptionByDefault {
            kms_master_key_id: None,
            sse_algorithm: ServerSideEncryption::from_static(AES256),
        };
        let rule = ServerSideEncryptionRule {
            apply_server_side_encryption_by_default: Some(by_default),
            bucket_key_enabled: Some(false),
        };
        let configuration = ServerSideEncryptionConfiguration { rules: vec![rule] };
        let output = GetBucketEncryptionOutput { server_side_encryption_configuration: Some(configuration) };
        Ok(S3Response::new(output))
    }

    pub(crate) async fn set_bucket_encryption(
        &self,
        req: S3Request<PutBucketEncryptionInput>,
    ) -> S3Result<S3Response<PutBucketEncryptionOutput>> {
        let bucket = headers::bucket(&req.input.bucket)?;
        let malformed =
            || s3_error!(MalformedXML, "An encryption configuration has one rule, with an algorithm");
        let [rule] = &req.input.server_side_encryption_configuration.rules[..] else {
            return Err(malformed());
        };
        let by_default = rule.apply_server_side_encryption_by_default.as_ref().ok_or_else(malformed)?;
        if by_default.sse_algorithm.as_str() != AES256 {
            return Err(unknown_algorithm(by_default.sse_algorithm.as_str()));
        }
        if by_default.kms_master_key_id.is_some() {
            return Err(s3_error!(
                InvalidArgument,
                "a KMSMasterKeyID is not applicable if the default sse algorithm is not aws:kms"
            ));
        }
        self.objects.set_bucket_encryption(&bucket, true).await.map_err(IntoS3::into_s3)?;
        Ok(S3Response::new(PutBucketEncryptionOutput::default()))
    }

    pub(crate) async fn delete_bucket_encryption(
        &self,
        req: S3Request<DeleteBucketEncryptionInput>,
    ) -> S3Result<S3Response<DeleteBucketEncryptionOutput>> {
        let bucket = headers::bucket(&req.input.bucket)?;
        self.objects.set_bucket_encryption(&bucket, false).await.map_err(IntoS3::into_s3)?;
        let output = DeleteBucketEncryptionOutput::default();
        Ok(S3Response::with_status(output, http::StatusCode::NO_CONTENT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(pairs: &[(&'static str, &str)], peer: &str, secure: bool) -> Result<Asked, String> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        let mut extensions = Extensions::new();
        extensions.insert(ConnectionInfo { peer: peer.parse().unwrap(), secure });
        Asked::in_headers(&headers, &extensions).map_err(|error| error.code().as_str().to_owned())
    }

    #[test]
    fn a_customers_key_is_taken_whole_with_its_md5_and_where_nobody_reads_along() {
        let (key, other) = (BASE64.encode(&[7; 32]), BASE64.encode(&[8; 32]));
        let md5 = BASE64.encode(&Md5::digest([7; 32]));
        let local = "127.0.0.1:1";
        let whole =
            [(CUSTOMER_ALGORITHM, "AES256"), (CUSTOMER_KEY, key.as_str()), (CUSTOMER_KEY_MD5, md5.as_str())];
        let taken = asked(&whole, local, false).unwrap();
        assert!(taken.is_given());
        let said = taken.said(Some(EncryptionKind::Customer));
        assert_eq!(said, (None, Some("AES256".into()), Some(md5.clone())));
        assert!(asked(&whole, "192.0.2.1:1", true).is_ok());
        assert!(asked(&whole, "[::ffff:127.0.0.1]:1", false).is_ok());
        let refused = |pairs: &[(&'static str, &str)], peer| asked(pairs, peer, false).err().unwrap();
        assert_eq!(refused(&whole, "192.0.2.1:1"), "InvalidRequest");
        for left_out in 0..3 {
            let some: Vec<_> =
                whole.iter().enumerate().filter(|(at, _)| *at != left_out).map(|(_, pair)| *pair).collect();
            assert_eq!(refused(&some, local), "InvalidArgument");
        }
        let changed = |at: usize, value| {
            let mut pairs = whole;
            pairs[at].1 = value;
            refused(&pairs, local)
        };
        assert_eq!(changed(0, "AES128"), "InvalidEncryptionAlgorithmError");
        assert_eq!(changed(1, &other), "InvalidArgument");
        assert_eq!(changed(1, "c2hvcnQ="), "InvalidArgument");
        assert_eq!(changed(2, "x"), "InvalidArgument");
        let both = [whole[0], whole[1], whole[2], (HEADER, "AES256")];
        assert_eq!(refused(&both, local), "InvalidArgument");
    }

    #[test]
    fn headers_do_not_print_a_customers_key() {
        let mut headers = HeaderMap::new();
        headers.insert(CUSTOMER_KEY, "c2VjcmV0".parse().unwrap());
        headers.insert("x-amz-copy-source-server-side-encryption-customer-key", "c2VjcmV0".parse().unwrap());
        hide_keys(&mut headers);
        assert!(!format!("{headers:?}").contains("c2VjcmV0"));
    }

    #[test]
    fn other_algorithms_than_aes256_are_not_here() {
        let of = |algorithm| asked(&[(HEADER, algorithm)], "192.0.2.1:1", false);
        assert!(of("AES256").unwrap().encryption().is_some());
        assert_eq!(of("aws:kms").err().unwrap(), "NotImplemented");
        assert_eq!(of("aws:kms:dsse").err().unwrap(), "NotImplemented");
        assert_eq!(of("ROT13").err().unwrap(), "InvalidEncryptionAlgorithmError");
        assert!(asked(&[], "192.0.2.1:1", false).unwrap().encryption().is_none());
    }
}
