//! GET and HEAD: the manifest by one linearizable query (small objects come along with
//! it), then the chunks of the range, a few ahead of the reader.

use std::{ops::Range, sync::Arc};

use atoll_types::Instant;
use futures_util::stream::{self, StreamExt};

use crate::{
    conditions::FailedRead,
    encryption::{
        EncryptionError,
        seal::{DataKey, Seal},
    },
    error::{GetObjectError, Unavailable},
    manifest::Manifest,
    names::ObjectKey,
    object::ObjectInfo,
    objects::{BUCKET_ATTEMPTS, Objects},
    read::{PARTS_PER_QUERY, ReadManifest},
    request::{BodyOut, BucketInfo, GetObject, GotObject, PartInfo},
    shard::{
        Refused,
        object::{self, Found, Got},
        upload, version,
    },
    versions::Named,
};

impl Objects {
    /// The object, as of one moment: what is written to its key later does not change
    /// the body.
    pub async fn get(&self, request: GetObject) -> Result<GotObject, GetObjectError> {
        let looked_up = self.look_up(&request, true).await?;
        let opened = self.open_object(looked_up, &request)?;
        check_conditions(&request, &opened.info)?;
        let range = resolve_range(&request, &opened.info)?;
        let Opened { bucket, got, info, key } = opened;
        let body = self.body_of(&bucket, got, key, &request.key, range.clone())?;
        Ok(GotObject { info, range, body })
    }

    /// The bytes of `range`, in the clear.
    pub(crate) fn body_of(
        &self,
        bucket: &BucketInfo,
        Got { version, inline, .. }: Got,
        key: Option<DataKey>,
        object_key: &ObjectKey,
        range: Range<u64>,
    ) -> Result<BodyOut, GetObjectError> {
        Ok(match (version.content.manifest, inline) {
            (Manifest::Inline, Some(bytes)) => {
                let bytes = match key {
                    None => bytes,
                    Some(key) => key.object_stream().open(0, true, &bytes).ok_or(Unavailable::Tampered)?,
                };
                if range.end > bytes.len() as u64 {
                    return Err(Unavailable::Tampered.into());
                }
                let part = bytes.slice(range.start as usize..range.end as usize);
                stream::iter([Ok(part)]).boxed()
            }
            (Manifest::Inline, None) => return Err(Unavailable::Vanished.into()),
            (manifest, _) => {
                let shard = bucket.shard_of(object_key.as_bytes());
                let manifest = ReadManifest { bucket: bucket.id, shard, manifest, size: version.size, key };
                self.read_chunks(manifest, range)
            }
        })
    }

    /// [`Objects::get`] without the bytes; a range is checked all the same.
    pub async fn head(&self, request: GetObject) -> Result<ObjectInfo, GetObjectError> {
        let looked_up = self.look_up(&request, false).await?;
        let Opened { info, .. } = self.open_object(looked_up, &request)?;
        check_conditions(&request, &info)?;
        resolve_range(&request, &info)?;
        Ok(info)
    }

    /// What needs no key to be known, of what is encrypted too: all but the checksum.
    pub async fn info(&self, request: GetObject) -> Result<ObjectInfo, GetObjectError> {
        let LookedUp { info, .. } = self.look_up(&request, false).await?;
        check_conditions(&request, &info)?;
        Ok(info)
    }

    /// [`Objects::head`] with up to `limit` of the parts that the object was put together
    /// from, of those with higher numbers than `after`.
    pub async fn head_with_parts(
        &self,
        request: GetObject,
        after: u16,
        limit: usize,
    ) -> Result<(ObjectInfo, Vec<PartInfo>), GetObjectError> {
        let looked_up = self.look_up(&request, false).await?;
        let Opened { bucket, got, info, key } = self.open_object(looked_up, &request)?;
        check_conditions(&request, &info)?;
        let Manifest::Parts { upload, .. } = got.version.content.manifest else {
            return Ok((info, Vec::new()));
        };
        let shard = bucket.shard_of(request.key.as_bytes());
        let (mut parts, mut from) = (Vec::new(), after.saturating_add(1));
        while parts.len() < limit {
            let limit = PARTS_PER_QUERY.min((limit - parts.len()) as u32);
            let ask = upload::Parts { bucket: bucket.id, upload, from, limit };
            let page = self.query(shard, &upload::PART_INFOS, ask, self.deadline()).await?;
            // Replaced and swept since it was looked up.
            let mut page: Vec<PartInfo> = page.map_err(|_| Unavailable::Vanished)?;
            if let Some(key) = &key {
                open_checksums(key, &mut page)?;
            }
            let full = page.len() == limit as usize;
            from = page.last().map_or(from, |part| part.number.saturating_add(1));
            parts.extend(page);
            if !full {
                break;
            }
        }
        Ok((info, parts))
    }

    pub(crate) async fn look_up(
        &self,
        request: &GetObject,
        content: bool,
    ) -> Result<LookedUp, GetObjectError> {
        let no_such = || GetObjectError::NoSuchBucket(request.bucket.clone());
        let deadline = self.deadline();
        let mut bucket = self.bucket(&request.bucket, deadline).await?.ok_or_else(no_such)?;
        for _ in 0..BUCKET_ATTEMPTS {
            let found = match self.find(&bucket, request, content, deadline).await? {
                Ok(found) => found,
                Err(Refused::NoSuchVersion) => return Err(GetObjectError::NoSuchVersion),
                Err(refused) => {
                    bucket = self.follow_bucket(&bucket, &refused, deadline).await?.ok_or_else(no_such)?;
                    continue;
                }
            };
            let (got, versioned) = match found {
                Found::Nothing => return Err(GetObjectError::NoSuchKey),
                Found::Marker { version, modified } => {
                    return Err(match request.version {
                        None => GetObjectError::Deleted { marker: version },
                        Some(_) => GetObjectError::DeleteMarker { version, modified },
                    });
                }
                Found::Object(got) => (got, false),
                Found::Versioned(got) => (got, true),
            };
            let info = object_info(&got, versioned);
            return Ok(LookedUp { bucket, got, info });
        }
        Err(Unavailable::Unsettled.into())
    }

    async fn find(
        &self,
        info: &BucketInfo,
        request: &GetObject,
        content: bool,
        deadline: Instant,
    ) -> Result<Result<Found, Refused>, Unavailable> {
        let (bucket, key) = (info.id, request.key.clone());
        let shard = info.shard_of(key.as_bytes());
        match self.named_version(request.version, deadline).await? {
            Named::Newest => {
                self.query(shard, &object::GET, object::Get { bucket, key, content }, deadline).await
            }
            Named::Nothing => Ok(Err(Refused::NoSuchVersion)),
            Named::Version(version) => {
                let get = version::GetVersion { bucket, key, version, content };
                self.query(shard, &version::GET, get, deadline).await
            }
        }
    }

    /// Opens what was looked up with the key that the request brought, or the node's.
    pub(crate) fn open_object(
        &self,
        looked_up: LookedUp,
        request: &GetObject,
    ) -> Result<Opened, GetObjectError> {
        let LookedUp { bucket, got, mut info } = looked_up;
        let customer = request.customer_key.as_ref();
        let key = self.open_seal(got.version.content.seal.as_ref(), customer, &request.key)?;
        if let (Some(key), Some(sealed)) = (&key, &got.version.checksum) {
            info.checksum = Some(key.open_checksum(sealed).ok_or(EncryptionError::Altered)?);
        }
        Ok(Opened { bucket, got, info, key })
    }
}

/// One version of an object as a shard gave it, and where.
pub(crate) struct LookedUp {
    pub bucket: Arc<BucketInfo>,
    pub got: Got,
    pub info: ObjectInfo,
}

/// The same, and what it takes to read it.
pub(crate) struct Opened {
    pub bucket: Arc<BucketInfo>,
    pub got: Got,
    pub info: ObjectInfo,
    /// `None` if it is not encrypted.
    pub key: Option<DataKey>,
}

/// Opens the checksums of parts in their place.
pub(crate) fn open_checksums(key: &DataKey, parts: &mut [PartInfo]) -> Result<(), EncryptionError> {
    for checksum in parts.iter_mut().filter_map(|part| part.checksum.as_mut()) {
        *checksum = key.open_checksum(checksum).ok_or(EncryptionError::Altered)?;
    }
    Ok(())
}

/// A checksum that is sealed is left out.
fn object_info(got: &Got, versioned: bool) -> ObjectInfo {
    let Got { revision, version, .. } = got;
    let seal = version.content.seal.as_ref();
    let parts = match &version.content.manifest {
        Manifest::Parts { parts, .. } => parts.clone(),
        _ => Vec::new(),
    };
    ObjectInfo {
        size: version.size,
        etag: version.etag,
        modified: version.modified,
        revision: *revision,
        version: versioned.then(|| version.id(*revision)),
        headers: version.headers.clone(),
        checksum: version.checksum.clone().filter(|_| seal.is_none()),
        parts,
        encryption: seal.map(Seal::kind),
    }
}

pub(crate) fn check_conditions(request: &GetObject, info: &ObjectInfo) -> Result<(), GetObjectError> {
    request.conditions.check(info).map_err(|failed| match failed {
        FailedRead::PreconditionFailed => GetObjectError::PreconditionFailed,
        FailedRead::NotModified => GetObjectError::NotModified(Box::new(info.clone())),
    })
}

pub(crate) fn resolve_range(request: &GetObject, info: &ObjectInfo) -> Result<Range<u64>, GetObjectError> {
    match request.range {
        None => Ok(0..info.size),
        Some(range) => range.resolve(info).ok_or(GetObjectError::InvalidRange { size: info.size }),
    }
}
