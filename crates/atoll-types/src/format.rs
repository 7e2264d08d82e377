//! The one encoding of frames, records and files: a version byte, then postcard.
//!
//! Each format names itself and its current version. Decoding an older version is a
//! chain of conversions, so a type that changes keeps its former shape beside it
//! and overrides [`Format::decode_older`].

use serde::{Serialize, de::DeserializeOwned};

/// Why bytes were refused. The sender, the disk or an older program is at fault;
/// nothing was changed by looking.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("{format}: empty")]
    Empty { format: &'static str },
    #[error("{format}: version {found} is not known here (this program writes {current})")]
    UnknownVersion { format: &'static str, found: u8, current: u8 },
    #[error("{format}: malformed")]
    Malformed { format: &'static str },
}

/// A type with a versioned encoding.
pub trait Format: Serialize + DeserializeOwned {
    /// Appears in errors and in docs/formats.md.
    const NAME: &'static str;
    const VERSION: u8;

    fn encode(&self) -> Vec<u8> {
        // postcard only fails on maps and sequences of unknown length, which no
        // derived `Serialize` produces.
        postcard::to_extend(self, vec![Self::VERSION]).expect("derived types always encode")
    }

    fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let (&version, rest) = bytes.split_first().ok_or(FormatError::Empty { format: Self::NAME })?;
        if version != Self::VERSION {
            return Self::decode_older(version, rest);
        }
        decode_exactly(rest).ok_or(FormatError::Malformed { format: Self::NAME })
    }

    /// Override when a second version exists.
    fn decode_older(version: u8, _rest: &[u8]) -> Result<Self, FormatError> {
        Err(FormatError::UnknownVersion { format: Self::NAME, found: version, current: Self::VERSION })
    }
}

/// Decodes postcard and insists that nothing is left over.
fn decode_exactly<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Some(value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
    struct Sample(u32, String);

    impl Format for Sample {
        const NAME: &'static str = "sample";
        const VERSION: u8 = 3;
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        let sample = Sample(7, "seven".into());
        assert_eq!(Sample::decode(&sample.encode()), Ok(sample));
    }

    #[test]
    fn trailing_bytes_unknown_versions_and_nothing_are_refused() {
        let mut bytes = Sample(7, "seven".into()).encode();
        bytes.push(0);
        assert_eq!(Sample::decode(&bytes), Err(FormatError::Malformed { format: "sample" }));
        bytes[0] = 9;
        assert!(matches!(Sample::decode(&bytes), Err(FormatError::UnknownVersion { found: 9, .. })));
        assert_eq!(Sample::decode(&[]), Err(FormatError::Empty { format: "sample" }));
    }
}
