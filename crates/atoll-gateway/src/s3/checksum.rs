//! Checksums that clients announce and ask for: by header or trailer, verified while the
//! body streams in, kept with the object, and said again when asked.
//!
//! Without one, CRC64NVME is computed and kept, as S3 does since 2024: later readers can
//! verify what no writer announced.

use atoll_objects::{BodyDigest, Checksum, ChecksumAlgorithm};
use bytes::Bytes;
use data_encoding::BASE64;
use http::{HeaderMap, HeaderName};
use s3s::{
    S3Result, TrailingHeaders,
    crypto::{Checksum as _, Crc32, Crc32c, Crc64Nvme, Md5, Sha1, Sha256},
    dto, s3_error,
};

/// S3's name, its header, and how many bytes the value has.
type Row = (ChecksumAlgorithm, &'static str, HeaderName, usize);

/// In the order of [`ChecksumAlgorithm`].
static ALGORITHMS: [Row; 5] = [
    (ChecksumAlgorithm::Crc32, "CRC32", HeaderName::from_static("x-amz-checksum-crc32"), 4),
    (ChecksumAlgorithm::Crc32c, "CRC32C", HeaderName::from_static("x-amz-checksum-crc32c"), 4),
    (ChecksumAlgorithm::Crc64Nvme, "CRC64NVME", HeaderName::from_static("x-amz-checksum-crc64nvme"), 8),
    (ChecksumAlgorithm::Sha1, "SHA1", HeaderName::from_static("x-amz-checksum-sha1"), 20),
    (ChecksumAlgorithm::Sha256, "SHA256", HeaderName::from_static("x-amz-checksum-sha256"), 32),
];

fn row(algorithm: ChecksumAlgorithm) -> &'static Row {
    &ALGORITHMS[algorithm as usize]
}

pub(crate) fn name(algorithm: ChecksumAlgorithm) -> &'static str {
    row(algorithm).1
}

pub(crate) fn parse_name(name: &str) -> S3Result<ChecksumAlgorithm> {
    let found = ALGORITHMS.iter().find(|row| row.1.eq_ignore_ascii_case(name));
    found.map(|row| row.0).ok_or_else(|| {
        s3_error!(InvalidRequest, "Checksum algorithm provided is unsupported. Please try again with any of the valid types: [CRC32, CRC32C, CRC64NVME, SHA1, SHA256]")
    })
}

enum Hasher {
    Crc32(Crc32),
    Crc32c(Crc32c),
    Crc64Nvme(Crc64Nvme),
    Sha1(Box<Sha1>),
    Sha256(Box<Sha256>),
}

impl Hasher {
    fn new(algorithm: ChecksumAlgorithm) -> Self {
        match algorithm {
            ChecksumAlgorithm::Crc32 => Hasher::Crc32(Crc32::new()),
            ChecksumAlgorithm::Crc32c => Hasher::Crc32c(Crc32c::new()),
            ChecksumAlgorithm::Crc64Nvme => Hasher::Crc64Nvme(Crc64Nvme::new()),
            ChecksumAlgorithm::Sha1 => Hasher::Sha1(Box::new(Sha1::new())),
            ChecksumAlgorithm::Sha256 => Hasher::Sha256(Box::new(Sha256::new())),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Crc32(hasher) => hasher.update(bytes),
            Hasher::Crc32c(hasher) => hasher.update(bytes),
            Hasher::Crc64Nvme(hasher) => hasher.update(bytes),
            Hasher::Sha1(hasher) => hasher.update(bytes),
            Hasher::Sha256(hasher) => hasher.update(bytes),
        }
    }

    fn finish(self) -> Bytes {
        match self {
            Hasher::Crc32(hasher) => Bytes::copy_from_slice(&hasher.finalize()),
            Hasher::Crc32c(hasher) => Bytes::copy_from_slice(&hasher.finalize()),
            Hasher::Crc64Nvme(hasher) => Bytes::copy_from_slice(&hasher.finalize()),
            Hasher::Sha1(hasher) => Bytes::copy_from_slice(&hasher.finalize()),
            Hasher::Sha256(hasher) => Bytes::copy_from_slice(&hasher.finalize()),
        }
    }
}

/// One hash over all of `bytes`.
pub(crate) fn digest(algorithm: ChecksumAlgorithm, bytes: &[u8]) -> Bytes {
    let mut hasher = Hasher::new(algorithm);
    hasher.update(bytes);
    hasher.finish()
}

enum Announced {
    Nothing,
    Header(Bytes),
    /// Comes after the body; until then it is not there.
    Trailer(Option<TrailingHeaders>),
}

/// The checksum that goes with one request's body.
pub(crate) struct RequestChecksum {
    algorithm: ChecksumAlgorithm,
    announced: Announced,
}

impl RequestChecksum {
    /// What the headers announce, or a CRC64NVME of our own.
    pub(crate) fn of(headers: &HeaderMap, trailers: Option<TrailingHeaders>) -> S3Result<Self> {
        let announced = Self::announced(headers, trailers)?;
        Ok(announced.unwrap_or(Self::computed(ChecksumAlgorithm::Crc64Nvme)))
    }

    /// One that nobody announced.
    pub(crate) fn computed(algorithm: ChecksumAlgorithm) -> Self {
        Self { algorithm, announced: Announced::Nothing }
    }

    /// What the headers announce; for a part, the upload's algorithm goes for a default.
    pub(crate) fn announced(
        headers: &HeaderMap,
        trailers: Option<TrailingHeaders>,
    ) -> S3Result<Option<Self>> {
        let mut found = None;
        let mut add = |algorithm, announced| match found.replace(Self { algorithm, announced }) {
            None => Ok(()),
            Some(_) => Err(s3_error!(
                InvalidRequest,
                "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed."
            )),
        };
        for (algorithm, _, header, _) in &ALGORITHMS {
            if let Some(value) = headers.get(header) {
                let text = value.to_str().unwrap_or_default();
                add(*algorithm, Announced::Header(decode(*algorithm, text)?))?;
            }
        }
        if let Some(trailer) = headers.get("x-amz-trailer") {
            let names = trailer.to_str().unwrap_or_default().split(',').map(str::trim);
            for name in names.filter(|name| !name.is_empty()) {
                let algorithm = ALGORITHMS.iter().find(|row| row.2.as_str().eq_ignore_ascii_case(name));
                let (algorithm, ..) = algorithm.ok_or_else(|| {
                    s3_error!(
                        InvalidRequest,
                        "The value specified in the x-amz-trailer header is not supported"
                    )
                })?;
                add(*algorithm, Announced::Trailer(trailers.clone()))?;
            }
        }
        if found.is_none()
            && let Some(algorithm) = headers.get("x-amz-sdk-checksum-algorithm")
        {
            // Named without a value: compute it, so that it can be asked for.
            let algorithm = parse_name(algorithm.to_str().unwrap_or_default())?;
            found = Some(Self::computed(algorithm));
        }
        Ok(found)
    }

    pub(crate) fn into_digest(self) -> Box<dyn BodyDigest> {
        Box::new(RequestDigest { hasher: Hasher::new(self.algorithm), checksum: self })
    }
}

/// Computes and compares; run by `atoll-objects` beside its own hashes.
struct RequestDigest {
    hasher: Hasher,
    checksum: RequestChecksum,
}

impl BodyDigest for RequestDigest {
    fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    fn finish(self: Box<Self>) -> Result<Option<Checksum>, String> {
        let RequestChecksum { algorithm, announced } = self.checksum;
        let value = self.hasher.finish();
        let expected = match announced {
            Announced::Nothing => None,
            Announced::Header(expected) => Some(expected),
            Announced::Trailer(trailers) => {
                // Announced and then not sent, or not in the right form: as wrong as another value.
                let text = trailers
                    .and_then(|trailers| trailers.read(|headers| headers.get(&row(algorithm).2).cloned()))
                    .flatten();
                let text = text.as_ref().and_then(|text| text.to_str().ok()).unwrap_or_default();
                Some(decode(algorithm, text).map_err(|_| name(algorithm).to_owned())?)
            }
        };
        match expected {
            Some(expected) if expected != value => Err(name(algorithm).to_owned()),
            _ => Ok(Some(Checksum { algorithm, value, parts: 0 })),
        }
    }
}

fn decode(algorithm: ChecksumAlgorithm, text: &str) -> S3Result<Bytes> {
    let (_, _, header, bytes) = row(algorithm);
    let value = BASE64.decode(text.trim().as_bytes()).ok().filter(|value| value.len() == *bytes);
    value.map(Bytes::from).ok_or_else(|| s3_error!(InvalidRequest, "Value for {header} header is invalid."))
}

/// A client's `Content-MD5`.
pub(crate) fn content_md5(headers: &HeaderMap) -> S3Result<Option<[u8; 16]>> {
    let Some(value) = headers.get("content-md5") else { return Ok(None) };
    let decoded = BASE64.decode(value.as_bytes()).ok().and_then(|value| value.try_into().ok());
    decoded.map(Some).ok_or_else(|| s3_error!(InvalidDigest, "The Content-MD5 you specified was invalid."))
}

/// What a request that puts no object says of its body: verified by the body itself.
pub(crate) struct AnnouncedDigest {
    md5: Option<(Md5, [u8; 16])>,
    checksum: Option<(Hasher, Bytes)>,
}

impl AnnouncedDigest {
    pub(crate) fn of(headers: &HeaderMap) -> S3Result<Option<Self>> {
        let md5 = content_md5(headers)?.map(|expected| (Md5::new(), expected));
        let checksum =
            RequestChecksum::announced(headers, None)?.and_then(|checksum| match checksum.announced {
                Announced::Header(expected) => Some((Hasher::new(checksum.algorithm), expected)),
                _ => None,
            });
        Ok((md5.is_some() || checksum.is_some()).then_some(Self { md5, checksum }))
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        if let Some((hasher, _)) = &mut self.md5 {
            hasher.update(bytes);
        }
        if let Some((hasher, _)) = &mut self.checksum {
            hasher.update(bytes);
        }
    }

    pub(crate) fn holds(self) -> bool {
        self.md5.is_none_or(|(hasher, expected)| hasher.finalize() == expected)
            && self.checksum.is_none_or(|(hasher, expected)| hasher.finish() == expected)
    }
}

/// The fields that every output with checksums has.
#[derive(Default)]
pub(crate) struct ChecksumFields {
    pub(crate) crc32: Option<String>,
    pub(crate) crc32c: Option<String>,
    pub(crate) crc64nvme: Option<String>,
    pub(crate) sha1: Option<String>,
    pub(crate) sha256: Option<String>,
    pub(crate) kind: Option<dto::ChecksumType>,
}

impl ChecksumFields {
    pub(crate) fn of(checksum: Option<&Checksum>) -> Self {
        let mut fields = Self::default();
        let Some(checksum) = checksum else { return fields };
        let mut text = BASE64.encode(&checksum.value);
        fields.kind = Some(dto::ChecksumType::from_static(if checksum.parts == 0 {
            dto::ChecksumType::FULL_OBJECT
        } else {
            text = format!("{text}-{}", checksum.parts);
            dto::ChecksumType::COMPOSITE
        }));
        *match checksum.algorithm {
            ChecksumAlgorithm::Crc32 => &mut fields.crc32,
            ChecksumAlgorithm::Crc32c => &mut fields.crc32c,
            ChecksumAlgorithm::Crc64Nvme => &mut fields.crc64nvme,
            ChecksumAlgorithm::Sha1 => &mut fields.sha1,
            ChecksumAlgorithm::Sha256 => &mut fields.sha256,
        } = Some(text);
        fields
    }
}

/// Copies [`ChecksumFields`] into an output of `s3s`, whose types share the names but no
/// trait.
macro_rules! set_checksums {
    ($output:expr, $fields:expr) => {{
        let fields: $crate::s3::checksum::ChecksumFields = $fields;
        $output.checksum_crc32 = fields.crc32;
        $output.checksum_crc32c = fields.crc32c;
        $output.checksum_crc64nvme = fields.crc64nvme;
        $output.checksum_sha1 = fields.sha1;
        $output.checksum_sha256 = fields.sha256;
        fields.kind
    }};
}
pub(crate) use set_checksums;

#[cfg(test)]
mod tests {
    use super::*;

    fn finish(headers: &[(&'static str, &str)], body: &[u8]) -> Result<Option<Checksum>, String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let mut digest = RequestChecksum::of(&map, None).map_err(|error| error.to_string())?.into_digest();
        body.chunks(3).for_each(|piece| digest.update(piece));
        digest.finish()
    }

    /// The check values of the CRC catalogue, for "123456789".
    #[test]
    fn the_catalogue_s_check_values_come_out() {
        for (algorithm, hex) in [
            (ChecksumAlgorithm::Crc32, "cbf43926"),
            (ChecksumAlgorithm::Crc32c, "e3069283"),
            (ChecksumAlgorithm::Crc64Nvme, "ae8b14860a799888"),
        ] {
            let value = digest(algorithm, b"123456789");
            assert_eq!(data_encoding::HEXLOWER.encode(&value), hex);
        }
    }

    #[test]
    fn an_announced_checksum_must_hold_and_is_kept() {
        let right = BASE64.encode(&digest(ChecksumAlgorithm::Crc32, b"hello"));
        let kept = finish(&[("x-amz-checksum-crc32", &right)], b"hello").unwrap().unwrap();
        assert_eq!(kept.algorithm, ChecksumAlgorithm::Crc32);
        assert_eq!(finish(&[("x-amz-checksum-crc32", &right)], b"hellO"), Err("CRC32".into()));
    }

    #[test]
    fn without_one_a_crc64nvme_is_kept() {
        let kept = finish(&[], b"hello").unwrap().unwrap();
        assert_eq!(kept.algorithm, ChecksumAlgorithm::Crc64Nvme);
    }

    #[test]
    fn two_checksums_malformed_ones_and_a_trailer_that_never_came_are_refused() {
        let right = BASE64.encode(&digest(ChecksumAlgorithm::Crc32, b"hello"));
        assert!(
            finish(&[("x-amz-checksum-crc32", &right), ("x-amz-trailer", "x-amz-checksum-crc32c")], b"hello")
                .is_err()
        );
        assert!(finish(&[("x-amz-checksum-crc32", "AAA=")], b"hello").is_err());
        assert!(finish(&[("x-amz-trailer", "x-amz-checksum-crc32")], b"hello").is_err());
        assert!(finish(&[("x-amz-trailer", "x-amz-meta-a")], b"hello").is_err());
    }

    #[test]
    fn every_algorithm_finds_its_own_row() {
        for (algorithm, name, _, bytes) in &ALGORITHMS {
            assert_eq!(&parse_name(name).unwrap(), algorithm);
            assert_eq!(digest(*algorithm, b"").len(), *bytes);
            assert_eq!(super::name(*algorithm), *name);
        }
    }
}
