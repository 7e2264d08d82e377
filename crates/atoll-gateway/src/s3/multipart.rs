//! Multipart uploads.

use atoll_objects::{
    BucketName, ChecksumAlgorithm, CompleteUpload, CompleteUploadError, CreateUpload, CustomerKey, GetObject,
    ListParts, ListUploads, ListedParts, ObjectKey, PartInfo, UploadError, UploadId, UploadPart,
    UploadPartCopy, UploadedPart,
};
use bytes::Bytes;
use data_encoding::BASE64;
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{
        AbortMultipartUploadInput, AbortMultipartUploadOutput, CompleteMultipartUploadInput,
        CompleteMultipartUploadOutput, CompletedPart, CopyPartResult, CreateMultipartUploadInput,
        CreateMultipartUploadOutput, Initiator, ListMultipartUploadsInput, ListMultipartUploadsOutput,
        ListPartsInput, ListPartsOutput, MultipartUpload, Part, Range, StorageClass, UploadPartCopyInput,
        UploadPartCopyOutput, UploadPartInput, UploadPartOutput,
    },
    s3_error,
};

use super::{
    S3Operations,
    caller::Caller,
    checksum::{self, ChecksumFields, RequestChecksum, set_checksums},
    context::RequestContext,
    copy,
    encryption::{self, Asked, say_encryption},
    error::{self, IntoS3, no_such_upload, not_implemented},
    headers::{self, GivenHeaders},
    list::{Names, page_size},
    put::body_of,
    versions::version_text,
    whole_checksum::{StoredParts, checksum_type, default_type, whole_checksum},
};

/// S3's limit.
pub(crate) const PARTS_MAX: u16 = 10_000;

fn upload_id(text: &str) -> S3Result<UploadId> {
    // An id that can't be one of ours names no upload.
    text.parse().map_err(|_| no_such_upload())
}

fn part_number(number: i32) -> S3Result<u16> {
    let number = u16::try_from(number).ok().filter(|number| (1..=PARTS_MAX).contains(number));
    number.ok_or_else(|| {
        s3_error!(InvalidArgument, "Part number must be an integer between 1 and {PARTS_MAX}, inclusive")
    })
}

impl S3Operations {
    pub(crate) async fn create_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let asked = Asked::of(&req)?;
        let acl = Caller::of(&req.extensions)?.acl_of_new(&req.headers, &req.input.key).await?;
        let input = req.input;
        let algorithm = input.checksum_algorithm.as_ref().map(|name| checksum::parse_name(name.as_str()));
        let algorithm = algorithm.transpose()?;
        let kind =
            algorithm.map(|algorithm| checksum_type(algorithm, input.checksum_type.as_ref())).transpose()?;
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
            acl,
        };
        let create = CreateUpload {
            bucket: headers::bucket(&input.bucket)?,
            key: headers::key(input.key.clone())?,
            headers: given.into_object_headers()?,
            checksum: algorithm,
            encryption: asked.encryption(),
        };
        let created = self.objects.create_upload(create).await.map_err(IntoS3::into_s3)?;
        let mut output = CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            checksum_algorithm: input.checksum_algorithm,
            checksum_type: kind,
            key: Some(input.key),
            upload_id: Some(created.upload.to_string()),
            ..Default::default()
        };
        say_encryption!(output, asked.said(created.encryption));
        Ok(S3Response::new(output))
    }

    pub(crate) async fn put_part(
        &self,
        req: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        let context = RequestContext::of(&req.extensions);
        let asked = Asked::key_only(&req)?;
        let input = req.input;
        let checksum = RequestChecksum::of(&req.headers, req.trailing_headers)?;
        let part = UploadPart {
            bucket: headers::bucket(&input.bucket)?,
            key: headers::key(input.key)?,
            upload: upload_id(&input.upload_id)?,
            number: part_number(input.part_number)?,
            customer_key: asked.customer_key(),
            body: body_of(&req.headers, input.body, input.content_length, checksum)?,
        };
        let uploaded = self.objects.upload_part(part).await;
        let UploadedPart { part, encryption } = uploaded.map_err(|error| error::of_body(&context, error))?;
        let mut output = UploadPartOutput { e_tag: Some(headers::etag(&part.etag)), ..Default::default() };
        set_checksums!(output, ChecksumFields::of(part.checksum.as_ref()));
        say_encryption!(output, asked.said(encryption));
        Ok(S3Response::new(output))
    }

    pub(crate) async fn copy_part(
        &self,
        req: S3Request<UploadPartCopyInput>,
    ) -> S3Result<S3Response<UploadPartCopyOutput>> {
        let (asked, source_customer_key) = (Asked::key_only(&req)?, encryption::source_key(&req)?);
        let input = req.input;
        let source = copy::source(&input.copy_source)?;
        let range = input.copy_source_range.as_deref().map(|text| match Range::parse(text) {
            // S3 takes only the form with both ends here.
            Ok(range @ Range::Int { last: Some(_), .. }) => Ok(headers::byte_range(range)),
            _ => Err(s3_error!(
                InvalidArgument,
                "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the zero-based offsets of the first and last bytes to copy"
            )),
        });
        let source = GetObject {
            bucket: source.bucket,
            key: source.key,
            version: source.version,
            range: range.transpose()?,
            conditions: Caller::of(&req.extensions)?.pinned(headers::copy_source_conditions(&req.headers)),
            customer_key: source_customer_key,
        };
        let part = UploadPartCopy {
            source,
            bucket: headers::bucket(&input.bucket)?,
            key: headers::key(input.key)?,
            upload: upload_id(&input.upload_id)?,
            number: part_number(input.part_number)?,
            customer_key: asked.customer_key(),
            digest: |algorithm| RequestChecksum::computed(algorithm).into_digest(),
        };
        let (UploadedPart { part, encryption }, source_version) =
            self.objects.upload_part_copy(part).await.map_err(IntoS3::into_s3)?;
        let mut copied = CopyPartResult {
            e_tag: Some(headers::etag(&part.etag)),
            last_modified: Some(headers::timestamp(part.modified)),
            ..Default::default()
        };
        set_checksums!(copied, ChecksumFields::of(part.checksum.as_ref()));
        let mut output = UploadPartCopyOutput {
            copy_part_result: Some(copied),
            copy_source_version_id: version_text(source_version),
            ..Default::default()
        };
        say_encryption!(output, asked.said(encryption));
        Ok(S3Response::new(output))
    }

    pub(crate) async fn parts(
        &self,
        req: S3Request<ListPartsInput>,
    ) -> S3Result<S3Response<ListPartsOutput>> {
        let owner = Caller::of(&req.extensions)?.owner().await?;
        let customer_key = Asked::key_only(&req)?.customer_key();
        let input = req.input;
        let limit = page_size(input.max_parts, "max-parts")?;
        let after = input.part_number_marker.map(marker).transpose()?.unwrap_or(0);
        let list = ListParts {
            bucket: headers::bucket(&input.bucket)?,
            key: headers::key(input.key.clone())?,
            upload: upload_id(&input.upload_id)?,
            after,
            limit,
            customer_key,
        };
        let ListedParts { page, .. } = self.objects.list_parts(list).await.map_err(IntoS3::into_s3)?;
        let next = page.parts.last().map(|part| i32::from(part.number)).filter(|_| page.truncated);
        let output = ListPartsOutput {
            bucket: Some(input.bucket),
            checksum_algorithm: page.checksum.map(|algorithm| checksum::name(algorithm).to_owned().into()),
            checksum_type: page.checksum.map(default_type),
            initiator: Some(Initiator { display_name: owner.display_name.clone(), id: owner.id.clone() }),
            is_truncated: Some(page.truncated),
            key: Some(input.key),
            max_parts: Some(limit as i32),
            next_part_number_marker: next,
            owner: Some(owner),
            part_number_marker: Some(i32::from(after)),
            parts: Some(page.parts.iter().map(listed_part).collect()),
            storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
            upload_id: Some(input.upload_id),
            ..Default::default()
        };
        Ok(S3Response::new(output))
    }

    pub(crate) async fn uploads(
        &self,
        req: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        let owner = Caller::of(&req.extensions)?.owner().await?;
        let input = req.input;
        let names = Names::of(input.encoding_type.as_ref())?;
        let limit = page_size(input.max_uploads, "max-uploads")?;
        let delimiter = input.delimiter.filter(|delimiter| !delimiter.is_empty());
        let after = input.key_marker.clone().filter(|marker| !marker.is_empty()).map(|key| {
            // An upload id that is none of ours sorts nowhere: S3 ignores it, too.
            let upload = input.upload_id_marker.as_deref().and_then(|text| text.parse().ok());
            (Bytes::from(key), upload)
        });
        let list = ListUploads {
            bucket: headers::bucket(&input.bucket)?,
            prefix: input.prefix.clone().unwrap_or_default().into(),
            delimiter: delimiter.clone().map(Bytes::from),
            after,
            limit,
        };
        let page = self.objects.list_uploads(list).await.map_err(IntoS3::into_s3)?;
        let uploads = page.uploads.iter().map(|upload| MultipartUpload {
            checksum_algorithm: upload.checksum.map(|algorithm| checksum::name(algorithm).to_owned().into()),
            checksum_type: upload.checksum.map(default_type),
            initiated: Some(headers::timestamp(upload.initiated)),
            initiator: Some(Initiator { display_name: owner.display_name.clone(), id: owner.id.clone() }),
            key: Some(names.write(upload.key.as_bytes())),
            owner: Some(owner.clone()),
            storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
            upload_id: Some(upload.upload.to_string()),
        });
        let output = ListMultipartUploadsOutput {
            uploads: Some(uploads.collect()),
            bucket: Some(input.bucket),
            common_prefixes: names.prefixes(&page.common_prefixes),
            delimiter: delimiter.map(|delimiter| names.write(delimiter.as_bytes())),
            encoding_type: input.encoding_type,
            is_truncated: Some(page.next.is_some()),
            key_marker: Some(names.write(input.key_marker.unwrap_or_default().as_bytes())),
            max_uploads: Some(limit as i32),
            next_key_marker: page.next.as_ref().map(|(key, _)| names.write(key)),
            next_upload_id_marker: page.next.and_then(|(_, upload)| upload).map(|upload| upload.to_string()),
            prefix: Some(names.write(input.prefix.unwrap_or_default().as_bytes())),
            request_charged: None,
            upload_id_marker: Some(input.upload_id_marker.unwrap_or_default()),
        };
        Ok(S3Response::new(output))
    }

    pub(crate) async fn abort(
        &self,
        req: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let input = req.input;
        if input.if_match_initiated_time.is_some() {
            return Err(not_implemented("Aborting on condition of time"));
        }
        let (bucket, key) = (headers::bucket(&input.bucket)?, headers::key(input.key)?);
        let upload = upload_id(&input.upload_id)?;
        self.objects.abort_upload(&bucket, &key, upload).await.map_err(IntoS3::into_s3)?;
        Ok(S3Response::with_status(AbortMultipartUploadOutput::default(), http::StatusCode::NO_CONTENT))
    }

    pub(crate) async fn complete(
        &self,
        req: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let asked = Asked::key_only(&req)?;
        let input = req.input;
        let (bucket, key) = (headers::bucket(&input.bucket)?, headers::key(input.key.clone())?);
        let upload = upload_id(&input.upload_id)?;
        let named = input.multipart_upload.and_then(|list| list.parts).unwrap_or_default();
        let parts = named.iter().map(named_part).collect::<S3Result<Vec<_>>>()?;
        if parts.is_empty() || parts.len() > usize::from(PARTS_MAX) {
            return Err(CompleteUploadError::InvalidPartList.into_s3());
        }
        let stored = self.stored_parts(&bucket, &key, upload, asked.customer_key()).await?;
        let whole = match &stored {
            Some(stored) => whole_checksum(stored, &named, input.checksum_type.as_ref())?,
            None => None,
        };
        let encryption = stored.and_then(|stored| stored.encryption);
        if let Some((checksum, size)) = &whole {
            if input.mpu_object_size.is_some_and(|expected| u64::try_from(expected) != Ok(*size)) {
                return Err(s3_error!(
                    InvalidRequest,
                    "The provided 'x-amz-mp-object-size' header does not match what was computed."
                ));
            }
            let announced = [
                (ChecksumAlgorithm::Crc32, &input.checksum_crc32),
                (ChecksumAlgorithm::Crc32c, &input.checksum_crc32c),
                (ChecksumAlgorithm::Crc64Nvme, &input.checksum_crc64nvme),
                (ChecksumAlgorithm::Sha1, &input.checksum_sha1),
                (ChecksumAlgorithm::Sha256, &input.checksum_sha256),
            ];
            for (algorithm, value) in announced {
                let Some(value) = value else { continue };
                // S3 writes a composite as `value-parts` and takes it either way.
                let value = value.split('-').next().unwrap_or_default();
                let holds = checksum.as_ref().is_some_and(|checksum| {
                    checksum.algorithm == algorithm && BASE64.encode(&checksum.value) == value
                });
                if !holds {
                    let name = checksum::name(algorithm);
                    return Err(s3_error!(
                        BadDigest,
                        "The {name} you specified did not match the calculated checksum."
                    ));
                }
            }
        }
        let complete = CompleteUpload {
            bucket,
            key,
            upload,
            parts,
            conditions: headers::write_conditions(&req.headers),
            checksum: whole.and_then(|(checksum, _)| checksum),
            customer_key: asked.customer_key(),
        };
        let result = self.objects.complete_upload(complete).await.map_err(IntoS3::into_s3)?;
        let mut output = CompleteMultipartUploadOutput {
            location: Some(format!("/{}/{}", input.bucket, Names::URL.write(input.key.as_bytes()))),
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: Some(headers::etag(&result.etag)),
            version_id: version_text(result.version),
            ..Default::default()
        };
        output.checksum_type = set_checksums!(output, ChecksumFields::of(result.checksum.as_ref()));
        (output.server_side_encryption, _, _) = asked.said(encryption);
        Ok(S3Response::new(output))
    }

    /// What was uploaded so far. `None` if the upload is gone: then it was completed before,
    /// and the answer is what it was, without what was sealed with the upload.
    async fn stored_parts(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        upload: UploadId,
        customer_key: Option<CustomerKey>,
    ) -> S3Result<Option<StoredParts>> {
        let mut parts: Vec<PartInfo> = Vec::new();
        loop {
            let list = ListParts {
                bucket: bucket.clone(),
                key: key.clone(),
                upload,
                after: parts.last().map_or(0, |part| part.number),
                limit: 1000,
                customer_key: customer_key.clone(),
            };
            let ListedParts { page, encryption, checksums_sealed } = match self.objects.list_parts(list).await
            {
                Err(UploadError::NoSuchUpload) => return Ok(None),
                listed => listed.map_err(IntoS3::into_s3)?,
            };
            let ended = !page.truncated || page.parts.is_empty();
            parts.extend(page.parts);
            if ended {
                let algorithm = page.checksum;
                return Ok(Some(StoredParts { parts, algorithm, encryption, checksums_sealed }));
            }
        }
    }
}

/// A marker past the last part number leaves nothing to list.
pub(crate) fn marker(marker: i32) -> S3Result<u16> {
    u16::try_from(marker.min(i32::from(u16::MAX)))
        .map_err(|_| s3_error!(InvalidArgument, "Argument part-number-marker must not be negative"))
}

fn named_part(part: &CompletedPart) -> S3Result<(u16, String)> {
    let malformed = || s3_error!(MalformedXML, "A part lacks its number or its ETag");
    let etag = part.e_tag.as_ref().ok_or_else(malformed)?;
    let number = part_number(part.part_number.ok_or_else(malformed)?)?;
    Ok((number, etag.value().to_owned()))
}

fn listed_part(part: &PartInfo) -> Part {
    let mut listed = Part {
        e_tag: Some(headers::etag(&part.etag)),
        last_modified: Some(headers::timestamp(part.modified)),
        part_number: Some(i32::from(part.number)),
        size: Some(part.size as i64),
        ..Default::default()
    };
    set_checksums!(listed, ChecksumFields::of(part.checksum.as_ref()));
    listed
}
