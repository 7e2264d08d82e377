//! CopyObject, and the source that UploadPartCopy has too.

use atoll_objects::{BucketName, Copied, CopyObject, CopyObjectError, GetObject, ObjectKey, VersionId};
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{
        CopyObjectInput, CopyObjectOutput, CopyObjectResult, CopySource, MetadataDirective, TaggingDirective,
    },
    s3_error,
};

use super::{
    S3Operations,
    caller::Caller,
    checksum::{self, ChecksumFields, set_checksums},
    encryption::{Asked, say_encryption, source_key as source_key_of},
    error::{self, IntoS3, not_implemented},
    headers::{self, GivenHeaders},
    versions::{self, version_text},
};

impl S3Operations {
    pub(crate) async fn copy(
        &self,
        req: S3Request<CopyObjectInput>,
    ) -> S3Result<S3Response<CopyObjectOutput>> {
        let (asked, source_customer_key) = (Asked::of(&req)?, source_key_of(&req)?);
        let caller = Caller::of(&req.extensions)?;
        let acl = caller.acl_of_new(&req.headers, &req.input.key).await?;
        let access_key = req.credentials.as_ref().map(|credentials| credentials.access_key.as_str());
        let input = req.input;
        let Source { bucket: source_bucket, key: source_key, version: mut source_version } =
            source(&input.copy_source)?;
        let idempotency =
            headers::idempotency(&req.headers, access_key, &req.method, &input.bucket, &input.key);
        let (bucket, key) = (headers::bucket(&input.bucket)?, headers::key(input.key)?);
        let replace_headers = replaces(input.metadata_directive.as_ref().map(MetadataDirective::as_str))?;
        let replace_tags = replaces(input.tagging_directive.as_ref().map(TaggingDirective::as_str))?;
        // A former version may take its place again.
        let onto_itself = source_bucket == bucket && source_key == key && source_version.is_none();
        let changed = replace_headers || replace_tags || asked.is_given();
        if onto_itself && !changed && input.website_redirect_location.is_none() {
            return Err(s3_error!(
                InvalidRequest,
                "This copy request is illegal because it is trying to copy an object to itself without changing the object's metadata, storage class, website redirect location or encryption attributes."
            ));
        }
        let mut source_conditions = caller.pinned(headers::copy_source_conditions(&req.headers));
        let given = GivenHeaders {
            content_type: input.content_type,
            content_encoding: input.content_encoding,
            content_disposition: input.content_disposition,
            content_language: input.content_language,
            cache_control: input.cache_control,
            expires: input.expires,
            website_redirect_location: input.website_redirect_location,
            metadata: input.metadata,
            tagging: input.tagging,
            acl: None,
        };
        let mixed = replace_headers != replace_tags
            || (!replace_headers && given.website_redirect_location.is_some());
        let asked_checksum =
            input.checksum_algorithm.as_ref().map(|name| checksum::parse_name(name.as_str())).transpose()?;
        let headers = if mixed || asked_checksum.is_some() {
            // Part of what the copy gets is the source's: read it, and copy only if it is
            // still the same.
            let request = GetObject {
                bucket: source_bucket.clone(),
                key: source_key.clone(),
                version: source_version,
                range: None,
                conditions: Default::default(),
                customer_key: source_customer_key.clone(),
            };
            let info = self.objects.head(request).await.map_err(error::source_error)?;
            source_version = info.version.or(source_version);
            if let Some(algorithm) = asked_checksum
                && info.checksum.as_ref().is_none_or(|kept| kept.algorithm != algorithm || kept.parts != 0)
            {
                return Err(not_implemented("A copy with another checksum than its source's"));
            }
            source_conditions.check(&info).map_err(|_| error::precondition_failed())?;
            source_conditions.if_match =
                Some(atoll_objects::ETagCondition::OneOf(vec![info.etag.to_string()]));
            let mut given = given.into_object_headers()?;
            let kept = info.headers;
            Some(atoll_objects::ObjectHeaders {
                tags: if replace_tags { std::mem::take(&mut given.tags) } else { kept.tags.clone() },
                website_redirect_location: given.website_redirect_location.clone(),
                ..if replace_headers { given } else { kept }
            })
        } else {
            replace_headers.then(|| given.into_object_headers()).transpose()?
        };
        let copy = CopyObject {
            source_bucket,
            source_key,
            source_version,
            source_conditions,
            source_customer_key,
            bucket,
            key,
            conditions: headers::write_conditions(&req.headers),
            encryption: asked.encryption(),
            headers,
            acl,
            idempotency,
        };
        let result = self.objects.copy(copy).await;
        let Copied { put: result, source_version } =
            result.map_err(|error: CopyObjectError| error.into_s3())?;
        let mut copied = CopyObjectResult {
            e_tag: Some(headers::etag(&result.etag)),
            last_modified: Some(headers::timestamp(result.modified)),
            ..Default::default()
        };
        copied.checksum_type = set_checksums!(copied, ChecksumFields::of(result.checksum.as_ref()));
        let mut output = CopyObjectOutput {
            copy_object_result: Some(copied),
            copy_source_version_id: version_text(source_version),
            version_id: version_text(result.version),
            ..Default::default()
        };
        say_encryption!(output, asked.said(result.encryption));
        Ok(S3Response::new(output))
    }
}

pub(crate) struct Source {
    pub(crate) bucket: BucketName,
    pub(crate) key: ObjectKey,
    pub(crate) version: Option<VersionId>,
}

/// The object that `x-amz-copy-source` names.
pub(crate) fn source(source: &CopySource) -> S3Result<Source> {
    match source {
        CopySource::Bucket { bucket, key, version_id } => Ok(Source {
            bucket: headers::bucket(bucket)?,
            key: headers::key(key.to_string())?,
            version: versions::version(version_id.as_deref())?,
        }),
        CopySource::AccessPoint { .. } | CopySource::Outpost { .. } => {
            Err(not_implemented("Copying from an access point"))
        }
    }
}

fn replaces(directive: Option<&str>) -> S3Result<bool> {
    match directive {
        None | Some("COPY") => Ok(false),
        Some("REPLACE") => Ok(true),
        Some(_) => Err(s3_error!(InvalidArgument, "A directive is COPY or REPLACE")),
    }
}
