//! Fuzz targets: what members gossip, and what they tell each other when they compare notes.

use atoll_types::{
    Format, Generation, NodeId,
    fuzzing::{self, Checked},
};
use bytes::{BufMut, Bytes};
use foca::Codec;

use crate::{
    identity::Life,
    info::Fact,
    sync::{SyncReply, SyncRequest},
    wire::{self, DATAGRAM_BYTES_MAX, Frame},
};

const FORMATS: &[Checked] =
    &[Checked::of::<Fact>(), Checked::of::<SyncReply>(), Checked::of::<SyncRequest>()];

const PEER: NodeId = NodeId([1; 32]);

/// The first byte chooses a format for the rest.
pub fn formats(bytes: &[u8]) {
    fuzzing::check(FORMATS, bytes);
}

pub fn formats_seeds() -> Vec<Vec<u8>> {
    fuzzing::seeds(FORMATS)
}

/// A datagram of gossip is the sender's own and names no more suspects than it has room for.
pub fn datagram(bytes: &[u8]) {
    if let Ok(frame) = Frame::decode(&PEER, Bytes::copy_from_slice(bytes)) {
        assert!(bytes.len() <= DATAGRAM_BYTES_MAX);
        assert_eq!(frame.src.node, PEER);
        assert!(frame.suspects.len() < bytes.len() / size_of::<NodeId>());
        wire::probed_by(&frame.packet);
    }
}

pub fn datagram_seeds() -> Vec<Vec<u8>> {
    let life = |number: u8| Life { node: NodeId([number; 32]), generation: Generation(3), resurrections: 0 };
    let messages = [
        foca::Message::Ping(7),
        foca::Message::Ack(7),
        foca::Message::PingReq { target: life(9), probe_number: 7 },
        foca::Message::ForwardedAck { origin: life(9), probe_number: 7 },
        foca::Message::Gossip,
        foca::Message::Feed,
        foca::Message::TurnUndead,
        foca::Message::Broadcast,
    ];
    let fact = Fact {
        revision: 1,
        info: Fact::decode(&fuzzing::seeds(FORMATS)[0][1..]).expect("a format's smallest").info,
    };
    let packet = |message: foca::Message<Life>| {
        let mut packet = Vec::new();
        let header = foca::Header { src: life(1), src_incarnation: 0, dst: life(2), message };
        foca::PostcardCodec.encode_header(&header, &mut packet).expect("a header always encodes");
        packet.put_u16(1);
        let suspect = foca::Member::new(life(9), 4, foca::State::Suspect);
        foca::PostcardCodec.encode_member(&suspect, &mut packet).expect("a member always encodes");
        packet.extend(fact.encode());
        wire::frame(&packet).to_vec()
    };
    messages.into_iter().map(packet).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_hold() {
        fuzz::exercise(formats, formats_seeds());
    }

    #[test]
    fn datagrams_hold() {
        fuzz::exercise(datagram, datagram_seeds());
    }
}
