//! GetObjectAttributes: what is known of an object without its bytes.

use atoll_objects::PartInfo;
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{
        Checksum, GetObjectAttributesInput, GetObjectAttributesOutput, GetObjectAttributesParts,
        ObjectAttributes, ObjectPart, StorageClass,
    },
    s3_error,
};

use super::{
    S3Operations,
    checksum::{ChecksumFields, set_checksums},
    encryption::Asked,
    error::IntoS3,
    headers,
    list::page_size,
    multipart::marker,
    versions::version_text,
};

impl S3Operations {
    pub(crate) async fn attributes(
        &self,
        req: S3Request<GetObjectAttributesInput>,
    ) -> S3Result<S3Response<GetObjectAttributesOutput>> {
        let customer_key = Asked::key_only(&req)?.customer_key();
        let input = req.input;
        // `s3s` takes a header for one attribute; clients send all in one.
        let asked_for: Vec<&str> = input
            .object_attributes
            .iter()
            .flat_map(|attribute| attribute.as_str().split(','))
            .map(str::trim)
            .collect();
        let asked = |name: &str| asked_for.contains(&name);
        const KNOWN: [&str; 5] = [
            ObjectAttributes::CHECKSUM,
            ObjectAttributes::ETAG,
            ObjectAttributes::OBJECT_PARTS,
            ObjectAttributes::OBJECT_SIZE,
            ObjectAttributes::STORAGE_CLASS,
        ];
        if asked_for.is_empty() || !asked_for.iter().all(|name| KNOWN.contains(name)) {
            return Err(s3_error!(InvalidArgument, "Invalid attribute name specified."));
        }
        let limit = page_size(input.max_parts, "max-parts")?;
        let after = input.part_number_marker.map(marker).transpose()?.unwrap_or(0);
        let mut request = self.read_request(
            &req.headers,
            &input.bucket,
            input.key.clone(),
            None,
            None,
            input.version_id.as_deref(),
        )?;
        request.customer_key = customer_key;
        let mut object_parts = None;
        let info = if asked(ObjectAttributes::OBJECT_PARTS) {
            let (info, parts) =
                self.objects.head_with_parts(request, after, limit).await.map_err(IntoS3::into_s3)?;
            if !info.parts.is_empty() {
                let last = parts.last().map_or(after, |part| part.number);
                let truncated = limit > 0 && info.parts.iter().any(|(number, _)| *number > last);
                object_parts = Some(GetObjectAttributesParts {
                    is_truncated: Some(truncated),
                    max_parts: Some(limit as i32),
                    next_part_number_marker: truncated.then_some(i32::from(last)),
                    part_number_marker: Some(i32::from(after)),
                    parts: Some(parts.iter().map(object_part).collect()),
                    total_parts_count: Some(info.parts.len() as i32),
                });
            }
            info
        } else {
            self.objects.head(request).await.map_err(IntoS3::into_s3)?
        };
        let checksum = info.checksum.as_ref().filter(|_| asked(ObjectAttributes::CHECKSUM)).map(|kept| {
            let mut checksum = Checksum::default();
            checksum.checksum_type = set_checksums!(checksum, ChecksumFields::of(Some(kept)));
            checksum
        });
        let output = GetObjectAttributesOutput {
            checksum,
            e_tag: asked(ObjectAttributes::ETAG).then(|| headers::etag(&info.etag)),
            last_modified: Some(headers::timestamp(info.modified)),
            object_parts,
            object_size: asked(ObjectAttributes::OBJECT_SIZE).then_some(info.size as i64),
            storage_class: asked(ObjectAttributes::STORAGE_CLASS)
                .then(|| StorageClass::from_static(StorageClass::STANDARD)),
            version_id: version_text(info.version),
            ..Default::default()
        };
        Ok(S3Response::new(output))
    }
}

fn object_part(part: &PartInfo) -> ObjectPart {
    let mut out = ObjectPart {
        part_number: Some(i32::from(part.number)),
        size: Some(part.size as i64),
        ..Default::default()
    };
    set_checksums!(out, ChecksumFields::of(part.checksum.as_ref()));
    out
}
