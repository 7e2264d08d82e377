//! Multipart uploads. Parts are records of the upload; completing it names them in
//! place, so it costs one small commit however large the object is (rule 11).

use std::ops::Bound;

use atoll_records::{ReadView, WriteView};
use atoll_runtime::{Broken, is_broken};
use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};

use super::{
    CommandName, Fault, QueryName, Refused, check_epoch, decode, epoch, keys, live_bucket,
    object::{Content, adopt_segments, drop_manifest, log_change},
    open_bucket, read,
    records::{CurrentRecord, FinishedRecord, PartRecord, UploadRecord, VersionRecord, Written},
    scan, scan_from,
    version::put_newest,
    write,
};
use crate::{
    conditions::WriteConditions,
    encryption::seal::{PartSalt, Seal},
    manifest::{Manifest, Sealable},
    names::{BucketId, ObjectKey, UploadId},
    object::{Checksum, ChecksumAlgorithm, ETag, ObjectHeaders},
    request::{PartInfo, PartPage},
};

pub const CREATE: CommandName<Create, ()> = CommandName::new("objects/upload-create/1", create);
pub const CREATE_SEALED: CommandName<CreateSealed, ()> =
    CommandName::new("objects/upload-create-sealed/1", create_sealed);
pub const PUT_PART: CommandName<PutPart, PartInfo> = CommandName::new("objects/upload-part/1", put_part);
pub const PUT_SEALED_PART: CommandName<PutSealedPart, PartInfo> =
    CommandName::new("objects/upload-part-sealed/1", put_sealed_part);
pub const COMPLETE: CommandName<Complete, Written> = CommandName::new("objects/upload-complete/1", complete);
pub const ABORT: CommandName<Upload, ()> = CommandName::new("objects/upload-abort/1", abort);
pub const LIST_PARTS: QueryName<PartList, PartPage> = QueryName::new("objects/upload-parts/1", list_parts);
pub const LIST_SEALED_PARTS: QueryName<PartList, (PartPage, Option<Seal>)> =
    QueryName::new("objects/upload-parts/2", list_sealed_parts);
pub const PART_INFOS: QueryName<Parts, Vec<PartInfo>> = QueryName::new("objects/part-infos/1", part_infos);
pub const PARTS: QueryName<Parts, Vec<(u16, PartRecord)>> = QueryName::new("objects/parts/1", parts);

/// S3's limits: 10,000 parts, each but the last at least 5 MiB.
pub const PARTS_MAX: u16 = 10_000;
pub const PART_BYTES_MIN: u64 = 5 << 20;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Upload {
    pub bucket: BucketId,
    pub key: ObjectKey,
    pub upload: UploadId,
}

impl Upload {
    fn record_key(&self) -> Vec<u8> {
        keys::upload(self.bucket, self.key.as_bytes(), self.upload)
    }

    fn read(&self, view: &(impl ReadView + ?Sized)) -> Result<UploadRecord, Fault> {
        Ok(read(view, &self.record_key())?.ok_or(Refused::NoSuchUpload)?)
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Create {
    pub upload: Upload,
    pub headers: ObjectHeaders,
    pub checksum: Option<ChecksumAlgorithm>,
}

fn create(view: &mut dyn WriteView, input: Create) -> Result<(), Fault> {
    create_with(view, input, None)
}

/// All parts of the upload will be encrypted under one data key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreateSealed {
    pub create: Create,
    pub seal: Seal,
}

fn create_sealed(view: &mut dyn WriteView, input: CreateSealed) -> Result<(), Fault> {
    create_with(view, input.create, Some(input.seal))
}

fn create_with(view: &mut dyn WriteView, input: Create, seal: Option<Seal>) -> Result<(), Fault> {
    let open = open_bucket(view, input.upload.bucket, input.upload.key.as_bytes())?;
    open.check_sealed(seal.is_some())?;
    let (headers, checksum) = (input.headers, input.checksum);
    let record = UploadRecord { initiated: view.stamp(), headers, checksum, seal };
    write(view, &input.upload.record_key(), &record);
    Ok(())
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PutPart {
    pub upload: Upload,
    pub number: u16,
    pub epoch: u64,
    pub size: u64,
    pub etag: ETag,
    pub checksum: Option<Checksum>,
    /// `Chunks` or `Segments`: a part's bytes are never inline, it may be one of 10,000.
    pub content: Content,
}

fn put_part(view: &mut dyn WriteView, input: PutPart) -> Result<PartInfo, Fault> {
    put_part_with(view, input, None)
}

/// A part of an upload that was created as [`CreateSealed`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PutSealedPart {
    pub part: PutPart,
    pub salt: PartSalt,
}

fn put_sealed_part(view: &mut dyn WriteView, input: PutSealedPart) -> Result<PartInfo, Fault> {
    put_part_with(view, input.part, Some(input.salt))
}

fn put_part_with(
    view: &mut dyn WriteView,
    input: PutPart,
    salt: Option<PartSalt>,
) -> Result<PartInfo, Fault> {
    let Upload { bucket, ref key, upload } = input.upload;
    open_bucket(view, bucket, key.as_bytes())?;
    if input.upload.read(view)?.seal.is_some() != salt.is_some() {
        return Err(Refused::MustBeSealed.into());
    }
    let epoch = check_epoch(view, input.epoch)?;
    let part_key = keys::part(bucket, upload, input.number);
    let manifest = match input.content {
        Content::Inline(_) => return Err(Refused::Malformed.into()),
        Content::Chunks(chunks) => {
            log_change(view, epoch, part_key.clone());
            Manifest::Chunks(chunks)
        }
        Content::Segments { manifest, sizes } => {
            adopt_segments(view, bucket, manifest)?;
            Manifest::Segments { manifest, sizes }
        }
    };
    if let Some(before) = read::<PartRecord>(view, &part_key)? {
        drop_manifest(view, bucket, &before.content.manifest)?;
    }
    let record = PartRecord {
        size: input.size,
        etag: input.etag,
        modified: view.stamp(),
        checksum: input.checksum,
        content: Sealable { manifest, seal: salt },
    };
    write(view, &part_key, &record);
    Ok(part_info(input.number, record))
}

fn part_info(number: u16, record: PartRecord) -> PartInfo {
    let PartRecord { size, etag, modified, checksum, .. } = record;
    PartInfo { number, size, etag, modified, checksum }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Complete {
    pub upload: Upload,
    /// Ascending by number, at least one; the caller has checked that.
    pub parts: Vec<(u16, String)>,
    pub conditions: WriteConditions,
    pub checksum: Option<Checksum>,
}

fn complete(view: &mut dyn WriteView, input: Complete) -> Result<Written, Fault> {
    let Upload { bucket, ref key, upload } = input.upload;
    let key = key.as_bytes();
    let open = open_bucket(view, bucket, key)?;
    let finished_key = keys::finished(bucket, upload);
    if let Some(finished) = read::<FinishedRecord>(view, &finished_key)? {
        return Ok(finished.written);
    }
    let upload_record = input.upload.read(view)?;

    let mut parts = Vec::with_capacity(input.parts.len());
    let mut md5 = Md5::new();
    let mut size = 0;
    for (index, (number, etag)) in input.parts.iter().enumerate() {
        let part: Option<PartRecord> = read(view, &keys::part(bucket, upload, *number))?;
        let Some(part) = part.filter(|part| part.etag.to_string() == *etag) else {
            return Err(Refused::InvalidPart { number: *number }.into());
        };
        if part.size < PART_BYTES_MIN && index + 1 < input.parts.len() {
            return Err(Refused::PartTooSmall { number: *number, size: part.size }.into());
        }
        md5.update(part.etag.md5);
        size += part.size;
        parts.push((*number, part.size));
    }
    let current: Option<CurrentRecord> = read(view, &keys::current(bucket, key))?;
    input.conditions.check(current.as_ref().map(|c| &c.etag)).map_err(Refused::Condition)?;

    // Parts that were uploaded and not asked for go.
    delete_parts(view, bucket, upload, |number| parts.binary_search_by_key(&number, |part| part.0).is_err())?;
    let version = VersionRecord {
        size,
        etag: ETag { md5: md5.finalize().into(), parts: parts.len() as u16 },
        modified: view.stamp(),
        null: true,
        delete_marker: false,
        headers: upload_record.headers,
        checksum: input.checksum,
        content: Sealable { manifest: Manifest::Parts { upload, parts }, seal: upload_record.seal },
    };
    let written = put_newest(view, open, bucket, key, current, version)?;
    view.delete(&input.upload.record_key());
    let epoch = epoch(view)?;
    if !is_broken(Broken::CompletionForgotten) {
        write(view, &finished_key, &FinishedRecord { epoch, written: written.clone() });
    }
    Ok(written)
}

/// Deletes the parts that `chosen` names, their segments after two sweeps.
fn delete_parts(
    view: &mut dyn WriteView,
    bucket: BucketId,
    upload: UploadId,
    chosen: impl Fn(u16) -> bool,
) -> Result<(), Fault> {
    let mut found = Vec::new();
    for pair in scan(view, &keys::parts(bucket, upload)) {
        let (key, value) = pair?;
        if keys::part_number_of(&key).is_some_and(&chosen) {
            found.push((key, decode::<PartRecord>(&value)?.content.manifest));
        }
    }
    for (key, manifest) in found {
        drop_manifest(view, bucket, &manifest)?;
        view.delete(&key);
    }
    Ok(())
}

/// Also in a sealed bucket: that is how it is emptied.
fn abort(view: &mut dyn WriteView, upload: Upload) -> Result<(), Fault> {
    live_bucket(view, upload.bucket)?;
    upload.read(view)?;
    delete_parts(view, upload.bucket, upload.upload, |_| true)?;
    view.delete(&upload.record_key());
    Ok(())
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PartList {
    pub upload: Upload,
    pub after: u16,
    pub limit: u32,
}

/// Whoever asks this has not heard yet that there are seals, and must not take sealed checksums
/// for checksums.
fn list_parts(view: &dyn ReadView, input: PartList) -> Result<PartPage, Fault> {
    match list_sealed_parts(view, input)? {
        (_, Some(_)) => Err(Refused::MustBeSealed.into()),
        (page, None) => Ok(page),
    }
}

/// Checksums as they lie there: sealed, if the upload is.
fn list_sealed_parts(view: &dyn ReadView, input: PartList) -> Result<(PartPage, Option<Seal>), Fault> {
    let Upload { bucket, upload, .. } = input.upload;
    live_bucket(view, bucket)?;
    let record = input.upload.read(view)?;
    let mut page = PartPage { checksum: record.checksum, parts: Vec::new(), truncated: false };
    let start = keys::part(bucket, upload, input.after);
    for pair in scan_from(view, Bound::Excluded(&start), &keys::parts(bucket, upload)) {
        let (key, value) = pair?;
        if page.parts.len() >= input.limit as usize {
            page.truncated = true;
            break;
        }
        if let Some(number) = keys::part_number_of(&key) {
            page.parts.push(part_info(number, decode(&value)?));
        }
    }
    Ok((page, record.seal))
}

/// Part records with their manifests, for reading an object that names them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Parts {
    pub bucket: BucketId,
    pub upload: UploadId,
    pub from: u16,
    pub limit: u32,
}

fn parts(view: &dyn ReadView, input: Parts) -> Result<Vec<(u16, PartRecord)>, Fault> {
    let prefix = keys::parts(input.bucket, input.upload);
    let start = keys::part(input.bucket, input.upload, input.from);
    let mut found = Vec::new();
    for pair in scan_from(view, Bound::Included(&start), &prefix).take(input.limit as usize) {
        let (key, value) = pair?;
        if let Some(number) = keys::part_number_of(&key) {
            found.push((number, decode(&value)?));
        }
    }
    Ok(found)
}

/// The same without their manifests, for telling what an object is made of.
fn part_infos(view: &dyn ReadView, input: Parts) -> Result<Vec<PartInfo>, Fault> {
    Ok(parts(view, input)?.into_iter().map(|(number, record)| part_info(number, record)).collect())
}
