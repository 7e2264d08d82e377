//! The checksum of an object that is put together from parts, made of the parts' checksums:
//! composed (a hash of hashes) or, for CRCs, combined to what one pass over the object would
//! have given.

use atoll_objects::{
    Checksum, ChecksumAlgorithm, CompleteUploadError, EncryptionError, EncryptionKind, PartInfo,
};
use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use s3s::{
    S3Result,
    dto::{ChecksumType, CompletedPart},
    s3_error,
};

use super::{
    checksum::{self, ChecksumFields},
    encryption,
    error::IntoS3,
};

/// What S3 makes of the parts' checksums if nothing else is asked.
pub(crate) fn default_type(algorithm: ChecksumAlgorithm) -> ChecksumType {
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

pub(crate) fn checksum_type(
    algorithm: ChecksumAlgorithm,
    asked: Option<&ChecksumType>,
) -> S3Result<ChecksumType> {
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

/// The parts of an upload.
pub(crate) struct StoredParts {
    /// By number.
    pub(crate) parts: Vec<PartInfo>,
    /// What the upload was created with.
    pub(crate) algorithm: Option<ChecksumAlgorithm>,
    pub(crate) encryption: Option<EncryptionKind>,
    /// They can't be told, and so not be compared.
    pub(crate) checksums_sealed: bool,
}

/// The checksum and size of the object that the named parts make. `None` if the commit will
/// say why there is none.
pub(crate) fn whole_checksum(
    stored: &StoredParts,
    named: &[CompletedPart],
    kind: Option<&ChecksumType>,
) -> S3Result<Option<(Option<Checksum>, u64)>> {
    if stored.checksums_sealed && stored.algorithm.is_some() {
        return Err(encryption::of_upload(EncryptionError::CustomerKeyMissing));
    }
    let mut parts = Vec::with_capacity(named.len());
    for named in named {
        let number = named.part_number.unwrap_or_default();
        let part = stored.parts.binary_search_by_key(&number, |part| i32::from(part.number));
        // A part that is not there is refused by the commit, with its reason.
        let Ok(part) = part else { return Ok(None) };
        let part = &stored.parts[part];
        if !stored.checksums_sealed && !agrees(named, part) {
            return Err(CompleteUploadError::InvalidPart { number: part.number }.into_s3());
        }
        parts.push(part);
    }
    let size = parts.iter().map(|part| part.size).sum();
    Ok(Some((combine(stored.algorithm, kind, &parts)?, size)))
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
