//! POST forms: what a browser uploads with a policy that somebody else signed.
//!
//! `s3s` reads the form, checks its signature, and has the file in memory before it is stored:
//! so a file in a form has a limit of its own, and few are read at a time.

use std::{collections::BTreeMap, time::Duration};

use atoll_objects::{PutBody, PutObject, PutObjectError};
use futures_util::StreamExt;
use http::{HeaderMap, HeaderName, HeaderValue};
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{PostObjectInput, PostObjectOutput, Tag, Tagging},
    s3_error,
    xml::{Deserialize, Deserializer},
};

use super::{
    S3Operations, acl,
    caller::Caller,
    checksum::{ChecksumFields, RequestChecksum, content_md5, set_checksums},
    context::RequestContext,
    encryption::{self, Asked},
    error::{self, not_implemented},
    form_fields::FormFields,
    grants, headers,
    tags::NewTags,
    unsupported,
    versions::version_text,
};

/// The largest file in a form. A policy may allow less. It lies in memory: anything larger
/// is put by presigned URL.
pub(crate) const FORM_FILE_BYTES_MAX: u64 = 64 << 20;
/// Files of signed forms that are read at a time: 256 MiB. Others wait.
pub(crate) const FORMS_AT_ONCE: usize = 4;
/// Those of forms that nobody signed, which anybody can send: they wait for one another only.
pub(crate) const UNSIGNED_FORMS_AT_ONCE: usize = 1;
/// How long a form's fields may take to arrive: they hold no place, but 256 KiB.
pub(crate) const FORM_FIELDS_WAIT: Duration = Duration::from_secs(30);
/// All other fields together; a policy has a few KiB.
pub(crate) const FORM_FIELDS_BYTES_MAX: usize = 256 << 10;

impl S3Operations {
    pub(crate) async fn post_form(
        &self,
        req: S3Request<PostObjectInput>,
    ) -> S3Result<S3Response<PostObjectOutput>> {
        let context = RequestContext::of(&req.extensions);
        let malformed = || s3_error!(MalformedPOSTRequest, "The body is not a form that ends with its file");
        let fields = context.form().ok_or_else(malformed)?;
        if fields.contains_key("signature") || fields.contains_key("awsaccesskeyid") {
            return Err(unsupported::sig_v2());
        }
        let acl_headers = acl_of(fields)?;
        let tags = tags(fields.get("tagging").map(String::as_str))?;
        let said = said_by(fields, &acl_headers, &tags);
        let caller = Caller::of(&req.extensions)?.with_amz_headers(&said);
        let input = req.input;
        refuse(&input)?;
        caller.must("s3:PutObject", Some(&input.key)).await?;
        if fields.contains_key("tagging") {
            caller.must("s3:PutObjectTagging", Some(&input.key)).await?;
        }
        let acl = caller.acl_of_new(&acl_headers, &input.key).await?;
        let given = headers_of(&input);
        let asked = Asked::in_headers(&given, &req.extensions)?;
        let checksum = RequestChecksum::of(&given, None)?;
        let mut body = PutBody::new(match input.body {
            Some(body) => body.boxed(),
            None => futures_util::stream::empty().boxed(),
        });
        body.content_md5 = content_md5(&given)?;
        body.digests.push(checksum.into_digest());
        let object_headers = headers::GivenHeaders {
            content_type: input.content_type,
            content_encoding: input.content_encoding,
            content_disposition: input.content_disposition,
            content_language: input.content_language,
            cache_control: input.cache_control,
            expires: input.expires,
            website_redirect_location: input.website_redirect_location,
            metadata: input.metadata,
            tagging: None,
            acl,
        };
        let mut object_headers = object_headers.into_object_headers()?;
        object_headers.tags = tags;
        let put = PutObject {
            bucket: headers::bucket(&input.bucket)?,
            key: headers::key(input.key)?,
            headers: object_headers,
            conditions: headers::write_conditions(&given),
            idempotency: None,
            encryption: asked.encryption(),
            body,
        };
        let result = self.objects.put(put).await;
        let result = result.map_err(|error: PutObjectError| error::of_body(&context, error))?;
        let mut output = PostObjectOutput {
            e_tag: Some(headers::etag(&result.etag)),
            version_id: version_text(result.version),
            ..Default::default()
        };
        output.checksum_type = set_checksums!(output, ChecksumFields::of(result.checksum.as_ref()));
        let mut answer_headers = HeaderMap::new();
        let (managed, algorithm, key_md5) = asked.said(result.encryption);
        let said = [
            ("etag", Some(format!("\"{}\"", result.etag))),
            ("x-amz-version-id", version_text(result.version)),
            (encryption::HEADER, managed.map(|algorithm| algorithm.as_str().to_owned())),
            (encryption::CUSTOMER_ALGORITHM, algorithm),
            (encryption::CUSTOMER_KEY_MD5, key_md5),
        ];
        for (name, value) in said.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            if let Ok(value) = HeaderValue::try_from(value) {
                answer_headers.insert(HeaderName::from_static(name), value);
            }
        }
        let mut response = S3Response::new(output);
        response.headers = answer_headers;
        Ok(response)
    }
}

fn is_url(text: &str) -> bool {
    !text.contains(char::is_control) && url::Url::parse(text).is_ok()
}

/// What a put refuses by its headers, a form has in its fields.
fn refuse(input: &PostObjectInput) -> S3Result<()> {
    let by_kms = input.ssekms_key_id.is_some() || input.ssekms_encryption_context.is_some();
    let locked = input.object_lock_mode.is_some()
        || input.object_lock_legal_hold_status.is_some()
        || input.object_lock_retain_until_date.is_some();
    if by_kms {
        return Err(not_implemented("Server-side encryption with KMS keys"));
    }
    if locked {
        return Err(not_implemented("Object lock"));
    }
    if input.storage_class.as_ref().is_some_and(|class| class.as_str() != "STANDARD") {
        return Err(not_implemented("A storage class other than STANDARD"));
    }
    // `s3s` would look at it once the object is there.
    if input.success_action_redirect.as_deref().is_some_and(|to| !is_url(to)) {
        return Err(s3_error!(InvalidArgument, "success_action_redirect is no absolute URL"));
    }
    Ok(())
}

/// The fields that are checked as the headers of a put are.
fn headers_of(input: &PostObjectInput) -> HeaderMap {
    let managed = input.server_side_encryption.as_ref().map(|algorithm| algorithm.as_str().to_owned());
    let fields = [
        (encryption::HEADER, &managed),
        (encryption::CUSTOMER_ALGORITHM, &input.sse_customer_algorithm),
        (encryption::CUSTOMER_KEY, &input.sse_customer_key),
        (encryption::CUSTOMER_KEY_MD5, &input.sse_customer_key_md5),
        ("content-md5", &input.content_md5),
        ("x-amz-checksum-crc32", &input.checksum_crc32),
        ("x-amz-checksum-crc32c", &input.checksum_crc32c),
        ("x-amz-checksum-crc64nvme", &input.checksum_crc64nvme),
        ("x-amz-checksum-sha1", &input.checksum_sha1),
        ("x-amz-checksum-sha256", &input.checksum_sha256),
    ];
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        // What can't be a header is no checksum either, and is refused as one.
        if let Some(value) = value {
            let value = HeaderValue::from_str(value).unwrap_or(HeaderValue::from_static("?"));
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    headers
}

/// The fields that are an ACL, as the headers of a put say it.
fn acl_of(fields: &FormFields) -> S3Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        let name = if name == "acl" { grants::CANNED } else { name };
        if acl::is_acl_header(name) {
            let invalid = |_| s3_error!(InvalidArgument, "The field {name} is no ACL");
            let value = HeaderValue::from_str(value).map_err(invalid)?;
            let name = HeaderName::from_bytes(name.as_bytes());
            let name = name.map_err(|_| s3_error!(InvalidArgument, "There is no such grant"))?;
            // Said twice, it has to be said alike: a policy's conditions are about one value.
            if headers.insert(name, value.clone()).is_some_and(|before| before != value) {
                return Err(s3_error!(InvalidArgument, "Two fields name different ACLs"));
            }
        }
    }
    Ok(headers)
}

/// What a put of the same says in its headers, for a bucket policy's conditions.
fn said_by(fields: &FormFields, acl: &HeaderMap, tags: &BTreeMap<String, String>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields.iter().filter(|(name, _)| name.starts_with("x-amz-")) {
        // What can't be a header's name is nobody's to ask for.
        if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
            let value = HeaderValue::from_str(value).unwrap_or(HeaderValue::from_static("?"));
            headers.insert(name, value);
        }
    }
    headers.extend(acl.clone());
    if !tags.is_empty() {
        let tags = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(tags).finish();
        let tags = HeaderValue::try_from(tags).expect("what is percent-encoded is ASCII");
        headers.insert("x-amz-tagging", tags);
    }
    headers
}

/// In a form, tags are XML.
fn tags(text: Option<&str>) -> S3Result<BTreeMap<String, String>> {
    let Some(text) = text else { return Ok(Default::default()) };
    let parsed = Tagging::deserialize(&mut Deserializer::new(text.as_bytes()));
    let Tagging { tag_set } =
        parsed.map_err(|_| s3_error!(MalformedXML, "The field 'tagging' is a Tagging document"))?;
    let mut tags = NewTags::of_object();
    for Tag { key, value } in tag_set {
        tags.add(key.unwrap_or_default(), value.unwrap_or_default())?;
    }
    Ok(tags.finish())
}
