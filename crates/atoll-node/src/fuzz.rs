//! Fuzz targets: tickets, what a node keeps in its folder and in shard 0, and what nodes say to
//! join, to report, and in the overlay.

use atoll_overlay::{
    ChordMessage, DhtMessage, DirectoryMessage, HybridMessage, KademliaMessage, PastryMessage,
    UnstructuredMessage,
};
use atoll_placement::{Layout, LayoutNode, LayoutSettings, NodeState};
use atoll_types::{
    ByteSize, ClusterId, DiskId, Format, NodeId, Roles, Zone,
    fuzzing::{self, Checked},
};
use data_encoding::BASE32_NOPAD;

use crate::{
    identity::Identity,
    overlay::{NodeContact, fuzz::Overlay},
    ticket::{Issuer, Ticket, TicketId, TicketSecret},
    truths::{ClusterInfo, StoredLayout, TicketRecord},
    wire::{ClusterReply, ClusterRequest, JoinReply, JoinRequest},
};

type Content<M> = Overlay<DhtMessage<NodeContact, M>>;

const FORMATS: &[Checked] = &[
    Checked::of::<ClusterInfo>(),
    Checked::of::<ClusterReply>(),
    Checked::of::<ClusterRequest>(),
    Checked::of::<Content<ChordMessage<NodeContact>>>(),
    Checked::of::<Content<DirectoryMessage>>(),
    Checked::of::<Content<KademliaMessage<NodeContact>>>(),
    Checked::of::<Content<PastryMessage<NodeContact>>>(),
    Checked::of::<Overlay<HybridMessage<NodeContact>>>(),
    Checked::of::<Overlay<UnstructuredMessage<NodeContact>>>(),
    Checked::of::<Identity>(),
    Checked::of::<JoinReply>(),
    Checked::of::<JoinRequest>(),
    Checked::of::<Layout>(),
    Checked::of::<StoredLayout>(),
    Checked::of::<TicketRecord>(),
];

/// The first byte chooses a format for the rest.
pub fn formats(bytes: &[u8]) {
    fuzzing::check(FORMATS, bytes);
}

pub fn formats_seeds() -> Vec<Vec<u8>> {
    let mut seeds = fuzzing::seeds(FORMATS);
    // A layout has all its slots, or is none: no mutation finds its way to one.
    let which = FORMATS.iter().position(|format| format.name == Layout::NAME).expect("it is one of them");
    let node = LayoutNode {
        zone: Zone::default(),
        capacity: ByteSize::gib(1),
        disk: DiskId(1),
        roles: Roles::default(),
        state: NodeState::Active,
        addresses: vec!["10.0.0.1:9002".into()],
    };
    let layout = Layout::genesis(NodeId([1; 32]), node, LayoutSettings::default());
    seeds.push([vec![which as u8], layout.encode()].concat());
    seeds
}

/// The bytes as somebody might paste them, and as what a checksum was made for.
pub fn ticket(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        reads_back(text);
    }
    let summed = [bytes, &crate::ticket::checksum(bytes)].concat();
    reads_back(&format!("{}{}", Ticket::PREFIX, BASE32_NOPAD.encode(&summed)));
}

/// A ticket that is read is written in at most as many characters, and read again as the same.
fn reads_back(text: &str) {
    let Ok(ticket) = text.parse::<Ticket>() else { return };
    let written = ticket.to_string();
    assert!(written.len() <= text.len());
    assert_eq!(written.parse(), Ok(ticket));
}

pub fn ticket_seeds() -> Vec<Vec<u8>> {
    let issuer = |number: u8| Issuer {
        node: NodeId([number; 32]),
        addresses: vec!["10.0.0.1:9002".into(), format!("node-{number}:9002")],
    };
    let with = |issuers| Ticket {
        cluster: ClusterId([1; 16]),
        id: TicketId([2; 16]),
        secret: TicketSecret([3; 32]),
        issuers,
    };
    let tickets = [with(Vec::new()), with(vec![issuer(4)]), with(vec![issuer(4), issuer(5), issuer(6)])];
    tickets.iter().flat_map(|ticket| [ticket.to_string().into_bytes(), ticket.encode()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_hold() {
        fuzz::exercise(formats, formats_seeds());
    }

    #[test]
    fn tickets_hold() {
        fuzz::exercise(ticket, ticket_seeds());
    }
}
