//! What an overlay's core says, as a datagram (`atoll/overlay/1`).

use atoll_types::{Format, FormatError, OverlayKind};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// A version byte, the kind's number, and the core's message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Frame<M> {
    kind: u8,
    message: M,
}

impl<M: Serialize + DeserializeOwned> Format for Frame<M> {
    const NAME: &'static str = "overlay frame";
    const VERSION: u8 = 1;
}

/// The largest message of a sound core is all that is kept under one key, 48 KiB, with the names
/// of twenty nodes; a locating one is some 4 KiB, two lists of 65 contacts of 32 bytes.
pub const FRAME_BYTES_MAX: usize = 64 << 10;

/// Why a frame was not given to the core.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of {bytes} bytes is over the limit")]
    TooLarge { bytes: usize },
    /// The cluster's kind changes, and sender and receiver learn of it one after the other.
    #[error("the frame is of another kind of overlay")]
    OtherKind,
    #[error(transparent)]
    Format(#[from] FormatError),
}

pub fn encode<M: Serialize + DeserializeOwned>(kind: OverlayKind, message: M) -> Vec<u8> {
    Frame { kind: kind.code(), message }.encode()
}

pub fn decode<M: Serialize + DeserializeOwned>(kind: OverlayKind, bytes: &[u8]) -> Result<M, FrameError> {
    if bytes.len() > FRAME_BYTES_MAX {
        return Err(FrameError::TooLarge { bytes: bytes.len() });
    }
    // Looked at before the rest: another kind's message is not malformed, it is not ours.
    if let [version, theirs, ..] = bytes
        && *version == Frame::<M>::VERSION
        && *theirs != kind.code()
    {
        return Err(FrameError::OtherKind);
    }
    Ok(Frame::decode(bytes)?.message)
}

#[cfg(test)]
mod tests {
    use atoll_overlay::{AuthorKey, Body, ChordMessage, Class, ContentMessage, DhtMessage, Entry, Id};
    use atoll_types::{NodeId, WallTime};
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;
    use crate::overlay::contact::NodeContact;

    type Message = DhtMessage<NodeContact, ChordMessage<NodeContact>>;

    fn contacts(count: u8) -> Vec<NodeContact> {
        (0..count).map(|number| NodeContact::from(NodeId([number; 32]))).collect()
    }

    fn samples() -> Vec<Message> {
        let locating = [
            ChordMessage::Find { request: 7, key: Id::of(b"key") },
            ChordMessage::Closer { request: u32::MAX, preceding: contacts(65), successors: contacts(65) },
            ChordMessage::Claimed { request: 0, nearer: contacts(1).pop() },
            ChordMessage::Notify,
            ChordMessage::Leaving { predecessor: None, successors: contacts(20) },
        ];
        let entry = |number: u64| -> Entry {
            let author = AuthorKey::from_seed([7; 32]);
            author.sign(Id::of(b"key"), number, WallTime::from_millis(number), Body::Value(vec![7; 4096]))
        };
        let content = [
            ContentMessage::Get { request: 7, key: Id::of(b"key"), class: Class::Value },
            ContentMessage::Got { request: 7, entries: (0..8).map(entry).collect(), replicas: contacts(20) },
            ContentMessage::Keep { request: 7, token: u64::MAX, entries: vec![entry(1)] },
        ];
        let locating = locating.into_iter().map(DhtMessage::Overlay);
        locating.chain(content.into_iter().map(DhtMessage::Content)).collect()
    }

    fn notify() -> Message {
        DhtMessage::Overlay(ChordMessage::Notify)
    }

    #[test]
    fn what_was_encoded_is_decoded_and_fits() {
        for message in samples() {
            let bytes = encode(OverlayKind::Chord, message.clone());
            assert!(bytes.len() <= FRAME_BYTES_MAX, "{}", bytes.len());
            assert_eq!(decode::<Message>(OverlayKind::Chord, &bytes), Ok(message));
        }
    }

    #[test]
    fn another_kinds_frame_is_told_from_a_malformed_one() {
        let bytes = encode(OverlayKind::Kademlia, notify());
        assert_eq!(decode::<Message>(OverlayKind::Chord, &bytes), Err(FrameError::OtherKind));
        let mut bytes = encode(OverlayKind::Chord, notify());
        bytes.push(0);
        assert!(matches!(decode::<Message>(OverlayKind::Chord, &bytes), Err(FrameError::Format(_))));
        let large = vec![1; FRAME_BYTES_MAX + 1];
        assert!(matches!(decode::<Message>(OverlayKind::Chord, &large), Err(FrameError::TooLarge { .. })));
        assert!(decode::<Message>(OverlayKind::Chord, &[]).is_err());
    }

    /// Flipped, cut, prolonged and made-up frames: an error or a message, and never a panic, nor
    /// memory for a length that the frame only claims.
    #[test]
    fn any_bytes_are_a_message_or_an_error() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut refused = 0;
        let samples = samples();
        for round in 0..3_000 {
            let mut bytes = encode(OverlayKind::Chord, samples[round % samples.len()].clone());
            match rng.random_range(0..4) {
                0 => bytes.truncate(rng.random_range(0..bytes.len())),
                1 => {
                    for _ in 0..rng.random_range(1..8) {
                        let place = rng.random_range(0..bytes.len());
                        bytes[place] ^= 1 << rng.random_range(0..8);
                    }
                }
                2 => bytes.extend((0..rng.random_range(1..50)).map(|_| rng.random::<u8>())),
                _ => {
                    let length = rng.random_range(0..200);
                    bytes = [1, 1].into_iter().chain((0..length).map(|_| rng.random())).collect();
                }
            }
            refused += usize::from(decode::<Message>(OverlayKind::Chord, &bytes).is_err());
        }
        assert!(refused > 750, "{refused}");
    }
}
