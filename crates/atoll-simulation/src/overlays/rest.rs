//! What the tables of a network's nodes are like when it has come to rest: by the same
//! definition for nodes in the simulation and for nodes in processes.

use std::sync::Arc;

use atoll_node::{NodeContact, OverlaySettings};
use atoll_overlay::{Chord, Contact, Id, Kademlia, Overlay, Pastry, Table};
use atoll_types::{NodeId, OverlayKind};

/// Of a table: its name, what one of its places is for, and who has that. Nobody is named where
/// it depends on whom a node met first, or who answered soonest.
pub type Place = (String, String, Option<NodeId>);

/// What a node's tables have once they are right, sorted; none for kinds of which the ids do not
/// say it. `ids` are all of the network's.
pub fn places_at_rest(
    kind: OverlayKind,
    settings: &OverlaySettings,
    ids: &[NodeId],
    me: NodeId,
) -> Option<Vec<Place>> {
    let me = NodeContact::from(me);
    let mut ring: Vec<(Id, NodeContact)> = ids.iter().map(|id| NodeContact::from(*id)).map(placed).collect();
    ring.sort_unstable_by_key(|(id, _)| *id);
    let tables = match kind {
        OverlayKind::Chord => Chord::converged(me, Arc::new(settings.chord.clone()), &ring).tables(),
        OverlayKind::Kademlia => Kademlia::converged(me, Arc::new(settings.kademlia.clone()), &ring).tables(),
        OverlayKind::Pastry => {
            let alike = |_: &NodeContact| std::time::Duration::ZERO;
            Pastry::converged(me, Arc::new(settings.pastry.clone()), &ring, alike).tables()
        }
        OverlayKind::Directory | OverlayKind::Flood | OverlayKind::Walk | OverlayKind::Hybrid => return None,
    };
    Some(places(kind, &tables))
}

fn placed(contact: NodeContact) -> (Id, NodeContact) {
    (contact.id(), contact)
}

/// The same of tables as they are.
pub fn places(kind: OverlayKind, tables: &[Table<NodeContact>]) -> Vec<Place> {
    let rows = tables.iter().flat_map(|table| table.rows.iter().map(move |row| (table.name, row)));
    places_of(kind, rows.map(|(table, row)| (table, row.place.as_str(), row.contact.node)))
}

/// The same of tables as the admin API shows them: table, place and node of each row.
pub fn places_of<'a>(
    kind: OverlayKind,
    rows: impl Iterator<Item = (&'a str, &'a str, NodeId)>,
) -> Vec<Place> {
    let is_said = |table: &str| match kind {
        OverlayKind::Kademlia => false,
        OverlayKind::Pastry => table == "leaf set",
        _ => true,
    };
    let counts = rows.filter(|(table, ..)| *table != "neighbourhood set");
    let place = |(table, place, node): (&str, &str, NodeId)| {
        (table.to_owned(), place.to_owned(), is_said(table).then_some(node))
    };
    let mut places: Vec<Place> = counts.map(place).collect();
    places.sort_unstable();
    places
}
