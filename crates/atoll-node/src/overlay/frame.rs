//! What an overlay's core says, as a datagram (`atoll/overlay/1`).

use atoll_types::{Format, FormatError, OverlayKind};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// A version byte, the kind's number, and the core's message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Frame<M> {
    kind: u8,
    message: M,
}

impl<M: Serialize + DeserializeOwned> Format for Frame<M> {
    const NAME: &'static str = "overlay frame";
    const VERSION: u8 = 1;
}

/// Two lists of 65 contacts of 32 bytes are some 4 KiB, the largest message of a sound core;
/// with room for what kinds to come may say at once.
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
    use atoll_overlay::{ChordMessage, Id};
    use atoll_types::NodeId;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;
    use crate::overlay::contact::NodeContact;

    type Message = ChordMessage<NodeContact>;

    fn contacts(count: u8) -> Vec<NodeContact> {
        (0..count).map(|number| NodeContact::from(NodeId([number; 32]))).collect()
    }

    fn samples() -> Vec<Message> {
        vec![
            Message::Find { request: 7, key: Id::of(b"key") },
            Message::Closer { request: u32::MAX, preceding: contacts(65), successors: contacts(65) },
            Message::Claimed { request: 0, nearer: contacts(1).pop() },
            Message::Notify,
            Message::Leaving { predecessor: None, successors: contacts(20) },
        ]
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
        let bytes = encode(OverlayKind::Kademlia, Message::Notify);
        assert_eq!(decode::<Message>(OverlayKind::Chord, &bytes), Err(FrameError::OtherKind));
        let mut bytes = encode(OverlayKind::Chord, Message::Notify);
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
        for round in 0..20_000 {
            let samples = samples();
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
        assert!(refused > 5_000, "{refused}");
    }
}
