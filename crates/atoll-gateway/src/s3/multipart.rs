//! Multipart uploads.
//!
//! The checksum of the whole is made here, of the parts' checksums: composed (a hash of
//! hashes) or, for CRCs, combined to what one pass over the object would have given.

use atoll_objects::{
    BucketName, Checksum, ChecksumAlgorithm, CompleteUpload, CompleteUploadError, CreateUpload, ListParts,
    ListUploads, ObjectKey, PartInfo, UploadError, UploadId, UploadPart, UploadPartCopy,
};
use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use data_encoding::BASE64;
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{
        AbortMultipartUploadInput, AbortMultipartUploadOutput, ChecksumType, CompleteMultipartUploadInput,
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
    error::{self, IntoS3, no_such_upload, not_implemented},
    headers::{self, GivenHeaders},
    list::{Names, page_size},
    put::body_of,
    versions::version_text,
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

/// What S3 makes of the parts' checksums if nothing else is asked.
fn default_type(algorithm: ChecksumAlgorithm) -> ChecksumType {
    ChecksumType::from_static(match algorithm {
        ChecksumAlgorithm::Crc64Nvme => ChecksumType::FULL_OBJECT,
        _ => ChecksumType::COMPOSITE,
    })
}

fn combining(algorithm: ChecksumAlgorithm) -> Option<CrcAlgorithm> {
    match algorithm {
        ChecksumAlgorithm::Crc32 => Some(CrcAlgorithm::Crc32IsoHdlc),
        ChecksumAlgorithm::Crc32c => Some(CrcAlgorithm::Crc32Iscsi),
        ChecksumAlgorithm::Crc64Nvme => Some(CrcAlgorithm::Crc64Nvme),
        ChecksumAlgorithm::Sha1 | ChecksumAlgorithm::Sha256 => None,
    }
}

fn checksum_type(algorithm: ChecksumAlgorithm, asked: Option<&ChecksumType>) -> S3Result<ChecksumType> {
    let kind = asked.cloned().unwrap_or_else(|| default_type(algorithm));
    let possible = match kind.as_str() {
        ChecksumType::FULL_OBJECT => combining(algorithm).is_some(),
        ChecksumType::COMPOSITE => algorithm != ChecksumAlgorithm::Crc64Nvme,
        _ => false,
    };
    if possible {
        return Ok(kind);
    }
    let name = checksum::name(algorithm);
    Err(s3_error!(
        InvalidRequest,
        "The {} checksum type cannot be used with the {name} checksum algorithm.",
        kind.as_str()
    ))
}

impl S3Operations {
    pub(crate) async fn create_upload(
        &self,
        req: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
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
        };
        let create = CreateUpload {
            bucket: headers::bucket(&input.bucket)?,
            key: headers::key(input.key.clone())?,
            headers: given.into_object_headers()?,
            checksum: algorithm,
        };
        let upload = self.objects.create_upload(create).await.map_err(IntoS3::into_s3)?;
        let output = CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            checksum_algorithm: input.checksum_algorithm,
            checksum_type: kind,
            key: Some(input.key),
            upload_id: Some(upload.to_string()),
            ..Default::default()
        };
        Ok(S3Response::new(output))
    }

    pub(crate) async fn put_part(
        &self,
        req: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        let context = RequestContext::of(&req.extensions);
        let input = req.input;
        let checksum = RequestChecksum::of(&req.headers, req.trailing_headers)?;
        let part = UploadPart {
            bucket: headers::bucket(&input.bucket)?,
            key: headers::key(input.key)?,
            upload: upload_id(&input.upload_id)?,
            number: part_number(input.part_number)?,
            body: body_of(&req.headers, input.body, input.content_length, checksum)?,
        };
        let part = self.objects.upload_part(part).await.map_err(|error| error::of_body(&context, error))?;
        let mut output = UploadPartOutput { e_tag: Some(headers::etag(&part.etag)), ..Default::default() };
        set_checksums!(output, ChecksumFields::of(part.checksum.as_ref()));
        Ok(S3Response::new(output))
    }

    pub(crate) async fn copy_part(
        &self,
        req: S3Request<UploadPartCopyInput>,
    ) -> S3Result<S3Response<UploadPartCopyOutput>> {
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
        let part = UploadPartCopy {
            source_bucket: source.bucket,
            source_key: source.key,
            source_version: source.version,
            source_range: range.transpose()?,
            source_conditions: headers::copy_source_conditions(&req.headers),
            bucket: headers::bucket(&input.bucket)?,
            key: headers::key(input.key)?,
            upload: upload_id(&input.upload_id)?,
            number: part_number(input.part_number)?,
        };
        let (part, source_version) = self.objects.upload_part_copy(part).await.map_err(IntoS3::into_s3)?;
        let mut copied = CopyPartResult {
            e_tag: Some(headers::etag(&part.etag)),
            last_modified: Some(headers::timestamp(part.modified)),
            ..Default::default()
        };
        set_checksums!(copied, ChecksumFields::of(part.checksum.as_ref()));
        let output = UploadPartCopyOutput {
            copy_part_result: Some(copied),
            copy_source_version_id: version_text(source_version),
            ..Default::default()
        };
        Ok(S3Response::new(output))
    }

    pub(crate) async fn parts(
        &self,
        req: S3Request<ListPartsInput>,
    ) -> S3Result<S3Response<ListPartsOutput>> {
        let owner = Caller::of(&req.extensions)?.owner().await?;
        let input = req.input;
        let limit = page_size(input.max_parts, "max-parts")?;
        let after = input.part_number_marker.map(marker).transpose()?.unwrap_or(0);
        let list = ListParts {
            bucket: headers::bucket(&input.bucket)?,
            key: headers::key(input.key.clone())?,
            upload: upload_id(&input.upload_id)?,
            after,
            limit,
        };
        let page = self.objects.list_parts(list).await.map_err(IntoS3::into_s3)?;
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
        let input = req.input;
        let (bucket, key) = (headers::bucket(&input.bucket)?, headers::key(input.key.clone())?);
        let upload = upload_id(&input.upload_id)?;
        let asked = input.multipart_upload.and_then(|list| list.parts).unwrap_or_default();
        let parts = asked.iter().map(named_part).collect::<S3Result<Vec<_>>>()?;
        if parts.is_empty() || parts.len() > usize::from(PARTS_MAX) {
            return Err(CompleteUploadError::InvalidPartList.into_s3());
        }
        let whole = self.whole_checksum(&bucket, &key, upload, &asked, input.checksum_type.as_ref()).await?;
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
        Ok(S3Response::new(output))
    }

    /// The checksum and size of the object that the asked parts make. `None` if the
    /// upload is gone: then it was completed before, and the answer is what it was.
    async fn whole_checksum(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        upload: UploadId,
        asked: &[CompletedPart],
        kind: Option<&ChecksumType>,
    ) -> S3Result<Option<(Option<Checksum>, u64)>> {
        let mut stored: Vec<PartInfo> = Vec::with_capacity(asked.len());
        let algorithm = loop {
            let after = stored.last().map_or(0, |part| part.number);
            let list = ListParts { bucket: bucket.clone(), key: key.clone(), upload, after, limit: 1000 };
            let page = match self.objects.list_parts(list).await {
                Err(UploadError::NoSuchUpload) => return Ok(None),
                page => page.map_err(IntoS3::into_s3)?,
            };
            let ended = !page.truncated || page.parts.is_empty();
            stored.extend(page.parts);
            if ended {
                break page.checksum;
            }
        };
        let mut parts = Vec::with_capacity(asked.len());
        for asked in asked {
            let number = asked.part_number.unwrap_or_default();
            let part = stored.binary_search_by_key(&number, |part| i32::from(part.number));
            // A part that is not there is refused by the commit, with its reason.
            let Ok(part) = part else { return Ok(None) };
            let part = &stored[part];
            if !agrees(asked, part) {
                return Err(CompleteUploadError::InvalidPart { number: part.number }.into_s3());
            }
            parts.push(part);
        }
        let size = parts.iter().map(|part| part.size).sum();
        Ok(Some((combine(algorithm, kind, &parts)?, size)))
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

/// Whether the checksums that the client lists for a part are those of the stored one.
fn agrees(asked: &CompletedPart, stored: &PartInfo) -> bool {
    let fields = ChecksumFields::of(stored.checksum.as_ref());
    let pairs = [
        (&asked.checksum_crc32, &fields.crc32),
        (&asked.checksum_crc32c, &fields.crc32c),
        (&asked.checksum_crc64nvme, &fields.crc64nvme),
        (&asked.checksum_sha1, &fields.sha1),
        (&asked.checksum_sha256, &fields.sha256),
    ];
    pairs.iter().all(|(asked, stored)| asked.is_none() || asked == stored)
}

/// The checksum of the whole, from its parts'. An upload that named no algorithm gets
/// one only if all its parts have ours.
fn combine(
    named: Option<ChecksumAlgorithm>,
    kind: Option<&ChecksumType>,
    parts: &[&PartInfo],
) -> S3Result<Option<Checksum>> {
    let algorithm = named.unwrap_or(ChecksumAlgorithm::Crc64Nvme);
    let kind = checksum_type(algorithm, kind.filter(|_| named.is_some()))?;
    let mut values = Vec::with_capacity(parts.len());
    for part in parts {
        match part.checksum.as_ref().filter(|checksum| checksum.algorithm == algorithm) {
            Some(checksum) => values.push((&checksum.value, part.size)),
            None if named.is_none() => return Ok(None),
            None => {
                let name = checksum::name(algorithm);
                return Err(s3_error!(
                    InvalidRequest,
                    "The upload was created using the {name} checksum, but part {} has none",
                    part.number
                ));
            }
        }
    }
    let value = match combining(algorithm).filter(|_| kind.as_str() == ChecksumType::FULL_OBJECT) {
        None => {
            let all: Vec<u8> = values.iter().flat_map(|(value, _)| value.iter().copied()).collect();
            let value = checksum::digest(algorithm, &all);
            return Ok(Some(Checksum { algorithm, value, parts: parts.len() as u16 }));
        }
        Some(crc) => {
            let number =
                |value: &Bytes| value.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
            let combined = values
                .iter()
                .map(|(value, size)| (number(value), *size))
                .reduce(|(whole, before), (next, size)| {
                    (crc_fast::checksum_combine(crc, whole, next, size), before + size)
                })
                .map_or(0, |(whole, _)| whole);
            let width = values.first().map_or(0, |(value, _)| value.len());
            Bytes::copy_from_slice(&combined.to_be_bytes()[8 - width..])
        }
    };
    Ok(Some(Checksum { algorithm, value, parts: 0 }))
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

#[cfg(test)]
mod tests {
    use atoll_objects::ETag;
    use atoll_types::WallTime;

    use super::*;

    fn part(number: u16, algorithm: ChecksumAlgorithm, bytes: &[u8]) -> PartInfo {
        PartInfo {
            number,
            size: bytes.len() as u64,
            etag: ETag { md5: [0; 16], parts: 0 },
            modified: WallTime(0),
            checksum: Some(Checksum { algorithm, value: checksum::digest(algorithm, bytes), parts: 0 }),
        }
    }

    #[test]
    fn combined_crcs_are_those_of_the_whole() {
        let pieces: [&[u8]; 3] = [b"one part ", b"and another, ", b"and the last"];
        let whole = pieces.concat();
        let full = ChecksumType::from_static(ChecksumType::FULL_OBJECT);
        for algorithm in [ChecksumAlgorithm::Crc32, ChecksumAlgorithm::Crc32c, ChecksumAlgorithm::Crc64Nvme] {
            let parts: Vec<_> =
                (1..).zip(pieces).map(|(number, piece)| part(number, algorithm, piece)).collect();
            let combined =
                combine(Some(algorithm), Some(&full), &parts.iter().collect::<Vec<_>>()).unwrap().unwrap();
            assert_eq!(combined.value, checksum::digest(algorithm, &whole), "{algorithm:?}");
            assert_eq!(combined.parts, 0);
        }
    }

    #[test]
    fn a_composite_is_the_hash_of_the_parts_hashes() {
        let algorithm = ChecksumAlgorithm::Sha256;
        let parts = [part(1, algorithm, b"a"), part(2, algorithm, b"b")];
        let composite = combine(Some(algorithm), None, &[&parts[0], &parts[1]]).unwrap().unwrap();
        let hashes = [checksum::digest(algorithm, b"a"), checksum::digest(algorithm, b"b")].concat();
        assert_eq!(composite.value, checksum::digest(algorithm, &hashes));
        assert_eq!(composite.parts, 2);
    }

    #[test]
    fn a_named_checksum_that_a_part_lacks_is_refused_and_an_unnamed_one_left_out() {
        let parts = [part(1, ChecksumAlgorithm::Crc64Nvme, b"a"), part(2, ChecksumAlgorithm::Sha1, b"b")];
        let parts = [&parts[0], &parts[1]];
        assert!(combine(Some(ChecksumAlgorithm::Sha1), None, &parts).is_err());
        assert_eq!(combine(None, None, &parts).unwrap(), None);
    }

    #[test]
    fn types_that_an_algorithm_can_t_have_are_refused() {
        let full = ChecksumType::from_static(ChecksumType::FULL_OBJECT);
        let composite = ChecksumType::from_static(ChecksumType::COMPOSITE);
        assert!(checksum_type(ChecksumAlgorithm::Sha256, Some(&full)).is_err());
        assert!(checksum_type(ChecksumAlgorithm::Crc64Nvme, Some(&composite)).is_err());
        assert!(checksum_type(ChecksumAlgorithm::Crc32, Some(&full)).is_ok());
    }
}
