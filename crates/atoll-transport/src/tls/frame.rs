//! What goes over a connection: frames of a fixed prefix, a header and a piece of a body.
//!
//! ```text
//! kind 1 | zero 1 | code 2 | header_len 4 | id 8 | body_len 4 | piece_len 4   (big-endian)
//! header, header_len bytes
//! the body's first piece_len bytes
//! ```
//!
//! A body that is longer than its first piece follows in `Piece` frames with the same id,
//! between which other frames may go, so that nothing small waits behind a chunk. Limits
//! are checked here, before anything is allocated. Pure: bytes in, values out.

use atoll_types::ClusterId;

use crate::{Message, Refusal};

pub(super) const PREFIX_BYTES: usize = 24;

/// 256 KiB: 16 TLS records, sent in a millisecond at 2 Gbit/s; what a small frame waits
/// for at most behind a chunk.
pub(super) const PIECE_BYTES_MAX: usize = 256 << 10;
/// A refusal's reason is a sentence.
pub(super) const REASON_BYTES_MAX: usize = 1 << 10;
/// A hello is 20 bytes today; later versions may say more.
pub(super) const HELLO_BYTES_MAX: usize = 1 << 10;

const _: () = assert!(PIECE_BYTES_MAX <= Message::BODY_BYTES_MAX);
const _: () = assert!(Message::DATAGRAM_BYTES_MAX <= Message::BODY_BYTES_MAX);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(super) enum Kind {
    /// The first frame of each side; its header is a [`Hello`].
    Hello = 1,
    /// Says "I am alive" when there was nothing else to say. Not answered.
    Ping = 2,
    /// `code` is the protocol.
    Request = 3,
    Reply = 4,
    /// `code` is the refusal's; the header is its reason in UTF-8.
    Refusal = 5,
    /// `code` is the protocol; the payload is the body.
    Datagram = 6,
    /// More of a body. `code` is the kind that it belongs to.
    Piece = 7,
    /// The caller stopped waiting for the reply to `id`.
    Cancel = 8,
}

impl Kind {
    const ALL: [Kind; 8] = [
        Kind::Hello,
        Kind::Ping,
        Kind::Request,
        Kind::Reply,
        Kind::Refusal,
        Kind::Datagram,
        Kind::Piece,
        Kind::Cancel,
    ];

    fn from_code(code: u8) -> Option<Kind> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == code)
    }

    /// Most bytes of header and body.
    fn limits(self) -> (usize, usize) {
        match self {
            Kind::Hello => (HELLO_BYTES_MAX, 0),
            Kind::Ping | Kind::Cancel => (0, 0),
            Kind::Request | Kind::Reply => (Message::HEADER_BYTES_MAX, Message::BODY_BYTES_MAX),
            Kind::Refusal => (REASON_BYTES_MAX, 0),
            Kind::Datagram => (0, Message::DATAGRAM_BYTES_MAX),
            Kind::Piece => (0, PIECE_BYTES_MAX),
        }
    }

    pub(super) fn has_body(self) -> bool {
        matches!(self, Kind::Request | Kind::Reply | Kind::Datagram)
    }
}

/// A frame up to its header, with every length within its kind's limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Prefix {
    pub(super) kind: Kind,
    pub(super) code: u16,
    pub(super) id: u64,
    pub(super) header_len: usize,
    /// Of the whole body; in a `Piece`, of the piece.
    pub(super) body_len: usize,
    /// Of the part of the body that is in this frame.
    pub(super) piece_len: usize,
}

/// What a peer sent is no frame. The connection is closed; nothing of it was acted on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("no frame has the kind {0}")]
    UnknownKind(u8),
    #[error("a reserved byte is {0}")]
    Reserved(u8),
    #[error("{kind:?} with a header of {header_len} and a body of {body_len} bytes is over the limit")]
    TooLarge { kind: Kind, header_len: usize, body_len: usize },
    #[error("{kind:?} with {piece_len} bytes of a body of {body_len}")]
    WrongPiece { kind: Kind, piece_len: usize, body_len: usize },
    #[error("a piece of a body that no frame began")]
    StrayPiece,
    #[error("too many bodies at once")]
    TooManyBodies,
    #[error("the id {0} is in use")]
    IdInUse(u64),
    #[error("a second hello")]
    SecondHello,
    #[error("{0:?} instead of a hello")]
    NoHello(Kind),
    #[error("a hello that is cut short")]
    ShortHello,
    #[error("a reason that is not UTF-8")]
    WrongReason,
}

impl Prefix {
    /// Without header and body.
    pub(super) fn bare(kind: Kind, id: u64) -> Self {
        Self { kind, code: 0, id, header_len: 0, body_len: 0, piece_len: 0 }
    }

    pub(super) fn encode(&self) -> [u8; PREFIX_BYTES] {
        // Lengths are ours and within the limits, which fit.
        let mut bytes = [0; PREFIX_BYTES];
        bytes[0] = self.kind as u8;
        bytes[2..4].copy_from_slice(&self.code.to_be_bytes());
        bytes[4..8].copy_from_slice(&(self.header_len as u32).to_be_bytes());
        bytes[8..16].copy_from_slice(&self.id.to_be_bytes());
        bytes[16..20].copy_from_slice(&(self.body_len as u32).to_be_bytes());
        bytes[20..24].copy_from_slice(&(self.piece_len as u32).to_be_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; PREFIX_BYTES]) -> Result<Self, FrameError> {
        let u32_at =
            |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize;
        let kind = Kind::from_code(bytes[0]).ok_or(FrameError::UnknownKind(bytes[0]))?;
        if bytes[1] != 0 {
            return Err(FrameError::Reserved(bytes[1]));
        }
        let prefix = Self {
            kind,
            code: u16::from_be_bytes([bytes[2], bytes[3]]),
            id: u64::from_be_bytes(bytes[8..16].try_into().expect("eight bytes")),
            header_len: u32_at(4),
            body_len: u32_at(16),
            piece_len: u32_at(20),
        };
        let Self { header_len, body_len, piece_len, .. } = prefix;
        let (header_max, body_max) = kind.limits();
        if header_len > header_max || body_len > body_max {
            return Err(FrameError::TooLarge { kind, header_len, body_len });
        }
        // A body is cut into full pieces and a rest, so a peer can't make us count crumbs.
        let expected = match kind {
            Kind::Piece => body_len,
            _ => body_len.min(PIECE_BYTES_MAX),
        };
        if piece_len != expected || (kind == Kind::Piece && piece_len == 0) {
            return Err(FrameError::WrongPiece { kind, piece_len, body_len });
        }
        Ok(prefix)
    }

    /// For a `Piece`: the kind of frame whose body it continues.
    pub(super) fn continues(&self) -> Result<Kind, FrameError> {
        u8::try_from(self.code)
            .ok()
            .and_then(Kind::from_code)
            .filter(|kind| kind.has_body())
            .ok_or(FrameError::StrayPiece)
    }
}

/// A reason cut to its limit, on a character boundary.
pub(super) fn reason_bytes(refusal: &Refusal) -> &[u8] {
    &refusal.reason.as_bytes()[..refusal.reason.floor_char_boundary(REASON_BYTES_MAX)]
}

/// What each side says first: which versions of this framing it speaks, and its cluster.
/// The first 20 bytes mean this forever; later versions may say more behind them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) version_min: u16,
    pub(super) version_max: u16,
    /// None before a node joined one.
    pub(super) cluster: Option<ClusterId>,
}

/// Two nodes can't speak. Both are right; an operator must act.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum HelloError {
    #[error(
        "the peer speaks the transport versions {theirs_min} to {theirs_max}, we {ours_min} to {ours_max}"
    )]
    NoCommonVersion { theirs_min: u16, theirs_max: u16, ours_min: u16, ours_max: u16 },
    #[error("the peer belongs to the cluster {theirs}, we to {ours}")]
    OtherCluster { theirs: ClusterId, ours: ClusterId },
}

impl Hello {
    pub(super) const VERSION: u16 = 1;
    const BYTES: usize = 20;

    /// A node speaks its own version and the one before it.
    pub(super) fn ours(cluster: Option<ClusterId>) -> Self {
        let version_min = if Self::VERSION > 1 { Self::VERSION - 1 } else { 1 };
        Self { version_min, version_max: Self::VERSION, cluster }
    }

    pub(super) fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..2].copy_from_slice(&self.version_min.to_be_bytes());
        bytes[2..4].copy_from_slice(&self.version_max.to_be_bytes());
        if let Some(cluster) = self.cluster {
            bytes[4..20].copy_from_slice(cluster.as_bytes());
        }
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let bytes = bytes.first_chunk::<{ Self::BYTES }>().ok_or(FrameError::ShortHello)?;
        let cluster: [u8; 16] = bytes[4..20].try_into().expect("sixteen bytes");
        Ok(Self {
            version_min: u16::from_be_bytes([bytes[0], bytes[1]]),
            version_max: u16::from_be_bytes([bytes[2], bytes[3]]),
            cluster: (cluster != [0; 16]).then_some(ClusterId(cluster)),
        })
    }

    /// The version that both speak.
    pub(super) fn agree(&self, theirs: &Hello) -> Result<u16, HelloError> {
        if let (Some(ours), Some(theirs)) = (self.cluster, theirs.cluster)
            && ours != theirs
        {
            return Err(HelloError::OtherCluster { theirs, ours });
        }
        let version = self.version_max.min(theirs.version_max);
        if version < self.version_min.max(theirs.version_min) {
            return Err(HelloError::NoCommonVersion {
                theirs_min: theirs.version_min,
                theirs_max: theirs.version_max,
                ours_min: self.version_min,
                ours_max: self.version_max,
            });
        }
        Ok(version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(header_len: usize, body_len: usize) -> Prefix {
        let piece_len = body_len.min(PIECE_BYTES_MAX);
        Prefix { kind: Kind::Request, code: 7, id: 99, header_len, body_len, piece_len }
    }

    #[test]
    fn a_prefix_reads_back_what_it_wrote() {
        let prefix = request(17, 4 << 20);
        assert_eq!(Prefix::decode(&prefix.encode()), Ok(prefix));
    }

    #[test]
    fn lengths_over_the_limit_are_refused() {
        let largest = request(Message::HEADER_BYTES_MAX, Message::BODY_BYTES_MAX);
        assert!(Prefix::decode(&largest.encode()).is_ok());
        for prefix in [request(Message::HEADER_BYTES_MAX + 1, 0), request(0, Message::BODY_BYTES_MAX + 1)] {
            assert!(matches!(Prefix::decode(&prefix.encode()), Err(FrameError::TooLarge { .. })));
        }
        let reason = Prefix {
            kind: Kind::Refusal,
            header_len: REASON_BYTES_MAX + 1,
            ..Prefix::bare(Kind::Refusal, 1)
        };
        assert!(matches!(Prefix::decode(&reason.encode()), Err(FrameError::TooLarge { .. })));
    }

    #[test]
    fn a_piece_is_neither_longer_nor_shorter_than_it_must_be() {
        for piece_len in [0, 99, 101] {
            let prefix = Prefix { piece_len, ..request(0, 100) };
            assert!(matches!(Prefix::decode(&prefix.encode()), Err(FrameError::WrongPiece { .. })));
        }
        let nothing = Prefix::bare(Kind::Piece, 1);
        assert!(matches!(Prefix::decode(&nothing.encode()), Err(FrameError::WrongPiece { .. })));
    }

    #[test]
    fn unknown_kinds_and_reserved_bits_are_refused() {
        let mut bytes = request(0, 0).encode();
        bytes[0] = 0;
        assert_eq!(Prefix::decode(&bytes), Err(FrameError::UnknownKind(0)));
        let mut bytes = request(0, 0).encode();
        bytes[1] = 1;
        assert_eq!(Prefix::decode(&bytes), Err(FrameError::Reserved(1)));
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let refusal = Refusal { code: 1, reason: "é".repeat(REASON_BYTES_MAX) };
        let cut = reason_bytes(&refusal);
        assert!(cut.len() <= REASON_BYTES_MAX && std::str::from_utf8(cut).is_ok());
        let odd = Refusal { code: 1, reason: format!("x{}", "é".repeat(REASON_BYTES_MAX)) };
        assert!(std::str::from_utf8(reason_bytes(&odd)).is_ok());
    }

    fn hello(version_min: u16, version_max: u16) -> Hello {
        Hello { version_min, version_max, cluster: None }
    }

    #[test]
    fn versions_one_apart_speak_the_older_one() {
        assert_eq!(hello(1, 2).agree(&hello(2, 3)), Ok(2));
        assert_eq!(hello(2, 3).agree(&hello(1, 2)), Ok(2));
        assert_eq!(hello(2, 3).agree(&hello(2, 3)), Ok(3));
        assert!(matches!(hello(1, 2).agree(&hello(3, 4)), Err(HelloError::NoCommonVersion { .. })));
        assert!(matches!(hello(3, 4).agree(&hello(1, 2)), Err(HelloError::NoCommonVersion { .. })));
    }

    #[test]
    fn clusters_are_told_apart_once_both_have_one() {
        let a = Hello { cluster: Some(ClusterId([1; 16])), ..Hello::ours(None) };
        let b = Hello { cluster: Some(ClusterId([2; 16])), ..Hello::ours(None) };
        assert!(matches!(a.agree(&b), Err(HelloError::OtherCluster { .. })));
        assert!(a.agree(&a).is_ok());
        assert!(a.agree(&Hello::ours(None)).is_ok());
    }

    #[test]
    fn a_longer_hello_of_a_later_version_is_understood() {
        let mut bytes = hello(1, 2).encode().to_vec();
        bytes.extend_from_slice(b"and more");
        assert_eq!(Hello::decode(&bytes), Ok(hello(1, 2)));
        assert_eq!(Hello::decode(&bytes[..19]), Err(FrameError::ShortHello));
    }
}
