//! A bucket's versioning, ListObjectVersions, and version ids in requests.

use atoll_objects::{ListVersions, VersionEntry, VersionId, Versioning};
use bytes::Bytes;
use s3s::{
    S3Error, S3Request, S3Response, S3Result,
    dto::{
        BucketVersioningStatus, DeleteMarkerEntry, GetBucketVersioningInput, GetBucketVersioningOutput,
        ListObjectVersionsInput, ListObjectVersionsOutput, MFADelete, ObjectVersion,
        ObjectVersionStorageClass, Owner, PutBucketVersioningInput, PutBucketVersioningOutput,
    },
    s3_error,
};

use super::{
    S3Operations,
    caller::Caller,
    error::{IntoS3, not_implemented},
    headers,
    list::{Names, page_size},
};

fn invalid_version() -> S3Error {
    s3_error!(InvalidArgument, "Invalid version id specified")
}

/// The `versionId` of a request; one without a value names none.
pub(crate) fn version(text: Option<&str>) -> S3Result<Option<VersionId>> {
    text.filter(|text| !text.is_empty()).map(|text| text.parse().map_err(|_| invalid_version())).transpose()
}

pub(crate) fn version_text(version: Option<VersionId>) -> Option<String> {
    version.map(|version| version.to_string())
}

impl S3Operations {
    /// Of a bucket that never had it, S3 says nothing.
    pub(crate) async fn versioning(
        &self,
        req: S3Request<GetBucketVersioningInput>,
    ) -> S3Result<S3Response<GetBucketVersioningOutput>> {
        let name = headers::bucket(&req.input.bucket)?;
        let status = match self.objects.versioning(&name).await.map_err(IntoS3::into_s3)? {
            Versioning::Unset => None,
            Versioning::Enabled => Some(BucketVersioningStatus::from_static(BucketVersioningStatus::ENABLED)),
            Versioning::Suspended => {
                Some(BucketVersioningStatus::from_static(BucketVersioningStatus::SUSPENDED))
            }
        };
        Ok(S3Response::new(GetBucketVersioningOutput { status, ..Default::default() }))
    }

    pub(crate) async fn set_versioning(
        &self,
        req: S3Request<PutBucketVersioningInput>,
    ) -> S3Result<S3Response<PutBucketVersioningOutput>> {
        let configuration = req.input.versioning_configuration;
        if configuration.mfa_delete.is_some_and(|mfa| mfa.as_str() != MFADelete::DISABLED) {
            return Err(not_implemented("MFA delete"));
        }
        let versioning = match configuration.status.as_ref().map(BucketVersioningStatus::as_str) {
            Some(BucketVersioningStatus::ENABLED) => Versioning::Enabled,
            Some(BucketVersioningStatus::SUSPENDED) => Versioning::Suspended,
            Some(_) => return Err(s3_error!(MalformedXML, "A status is Enabled or Suspended")),
            None => {
                let code = s3s::S3ErrorCode::IllegalVersioningConfigurationException;
                let message = "The Versioning element must be specified";
                return Err(S3Error::with_message(code, message));
            }
        };
        let name = headers::bucket(&req.input.bucket)?;
        self.objects.set_versioning(&name, versioning).await.map_err(IntoS3::into_s3)?;
        Ok(S3Response::new(PutBucketVersioningOutput::default()))
    }

    pub(crate) async fn list_versions(
        &self,
        req: S3Request<ListObjectVersionsInput>,
    ) -> S3Result<S3Response<ListObjectVersionsOutput>> {
        let owner = Caller::of(&req.extensions)?.owner().await?;
        let input = req.input;
        let names = Names::of(input.encoding_type.as_ref())?;
        let limit = page_size(input.max_keys, "max-keys")?;
        let delimiter = input.delimiter.filter(|delimiter| !delimiter.is_empty());
        let key_marker = input.key_marker.clone().filter(|marker| !marker.is_empty());
        let marked = match input.version_id_marker.as_deref() {
            None => None,
            Some("") => return Err(s3_error!(InvalidArgument, "A version-id marker cannot be empty.")),
            Some(_) if key_marker.is_none() => {
                return Err(s3_error!(
                    InvalidArgument,
                    "A version-id marker cannot be specified without a key marker."
                ));
            }
            Some(text) => Some(text.parse().map_err(|_| invalid_version())?),
        };
        let list = ListVersions {
            bucket: headers::bucket(&input.bucket)?,
            prefix: input.prefix.clone().unwrap_or_default().into(),
            delimiter: delimiter.clone().map(Bytes::from),
            after: key_marker.map(|marker| (Bytes::from(marker), marked)),
            limit,
        };
        let page = self.objects.list_versions(list).await.map_err(IntoS3::into_s3)?;
        let (markers, versions): (Vec<_>, Vec<_>) =
            page.versions.iter().partition(|entry| entry.delete_marker);
        let output = ListObjectVersionsOutput {
            common_prefixes: names.prefixes(&page.common_prefixes),
            delete_markers: Some(markers.into_iter().map(|entry| marker(names, entry, &owner)).collect()),
            versions: Some(versions.into_iter().map(|entry| listed(names, entry, &owner)).collect()),
            delimiter: delimiter.map(|delimiter| names.write(delimiter.as_bytes())),
            encoding_type: input.encoding_type,
            is_truncated: Some(page.next.is_some()),
            key_marker: Some(names.write(input.key_marker.unwrap_or_default().as_bytes())),
            max_keys: Some(limit as i32),
            name: Some(input.bucket),
            next_key_marker: page.next.as_ref().map(|(key, _)| names.write(key)),
            next_version_id_marker: page.next.and_then(|(_, version)| version_text(version)),
            prefix: Some(names.write(input.prefix.unwrap_or_default().as_bytes())),
            request_charged: None,
            version_id_marker: Some(input.version_id_marker.unwrap_or_default()),
        };
        Ok(S3Response::new(output))
    }
}

fn listed(names: Names, entry: &VersionEntry, owner: &Owner) -> ObjectVersion {
    ObjectVersion {
        e_tag: Some(headers::etag(&entry.etag)),
        is_latest: Some(entry.latest),
        key: Some(names.write(entry.key.as_bytes())),
        last_modified: Some(headers::timestamp(entry.modified)),
        owner: Some(owner.clone()),
        size: Some(entry.size as i64),
        storage_class: Some(ObjectVersionStorageClass::from_static(ObjectVersionStorageClass::STANDARD)),
        version_id: Some(entry.version.to_string()),
        ..Default::default()
    }
}

fn marker(names: Names, entry: &VersionEntry, owner: &Owner) -> DeleteMarkerEntry {
    DeleteMarkerEntry {
        is_latest: Some(entry.latest),
        key: Some(names.write(entry.key.as_bytes())),
        last_modified: Some(headers::timestamp(entry.modified)),
        owner: Some(owner.clone()),
        version_id: Some(entry.version.to_string()),
    }
}
