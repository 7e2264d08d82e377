//! What a message would take on a real connection.
//!
//! Its postcard encoding, as between real nodes, a contact being a node's id of 32 bytes; and
//! what is sent with each message there, which for small ones is most of it. That several may
//! share a packet, and that answers carry acknowledgements, is not counted.

use serde::{Serialize, Serializer};

use super::SimulatedContact;

/// The overlay frame's version and kind 2, the connection's prefix 24, a TLS 1.3 record 22, and
/// the headers of TCP and IPv4 40.
pub const ENVELOPE_BYTES: u64 = 2 + 24 + 22 + 40;
/// A node's id.
pub const CONTACT_BYTES: usize = 32;

/// In place of a node's id; postcard writes its length in one byte before it.
static ID: [u8; CONTACT_BYTES - 1] = [0; CONTACT_BYTES - 1];

impl Serialize for SimulatedContact {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&ID)
    }
}

/// Bytes of one message, all told.
pub(crate) fn message_bytes(message: &impl Serialize) -> u64 {
    let counter = postcard::ser_flavors::Size::default();
    // postcard fails on sequences of unknown length only, which no derived type has.
    let bytes = postcard::serialize_with_flavor(message, counter).expect("derived types always encode");
    ENVELOPE_BYTES + bytes as u64
}

#[cfg(test)]
mod tests {
    use atoll_overlay::ChordMessage;

    use super::*;

    #[test]
    fn a_message_is_as_long_as_between_real_nodes() {
        let contact = SimulatedContact::first_of(1);
        let real = postcard::to_stdvec(&([7_u8; CONTACT_BYTES], 300_u32)).expect("encodes").len();
        assert_eq!(message_bytes(&(contact, 300_u32)) - ENVELOPE_BYTES, real as u64);
        // A variant's number, a small request, and an absent contact; then a list of two.
        let message =
            ChordMessage::Neighbours { request: 5, predecessor: None, successors: vec![contact; 2] };
        assert_eq!(message_bytes(&message) - ENVELOPE_BYTES, 1 + 1 + 1 + 1 + 2 * 32);
    }
}
