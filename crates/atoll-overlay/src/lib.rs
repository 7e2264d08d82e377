//! Overlays: how nodes find each other and content without asking a centre.
//!
//! Every kind of overlay is a core behind one interface, [`Overlay`]: a state machine that
//! takes messages, timeouts and commands, and gives what follows from them as values in
//! [`Out`]. Here so far: [`Directory`], which has a centre, [`Chord`], [`Kademlia`], [`Pastry`],
//! [`Unstructured`], which floods and walks, and [`Hybrid`]. The same code runs over real
//! connections and, a million times over, in the simulator of `atoll-lab`; so a core is generic
//! over its [`Contact`], which is four bytes there, and a node's key with its addresses on the
//! wire.
//!
//! A core says who is responsible for a key. What is kept there, [`Content`], is written once for
//! all cores that can say so: [`Dht`] is a core with content over it, and a core in its turn.
//! Kinds that cannot locate implement [`Content`] by themselves, and refuse what they have no
//! honest way to do.
//!
//! It has no socket, no clock, no thread and no randomness of its own: `now` and `rng` come in
//! as arguments. It knows nothing of chunks, objects or buckets, only of [`Id`]s; and it
//! believes no message further than its paper needs: whatever a peer sends, a core does not
//! panic, and no table or queue passes its limit.
//!
//! Tests are beside the code; networks of thousands are held against the papers in `atoll-lab`.

mod broadcast;
mod chord;
mod content;
mod dht;
mod directory;
mod entry;
mod hybrid;
mod id;
mod kademlia;
mod overlay;
mod pastry;
mod shares;
#[cfg(test)]
mod testing;
mod unstructured;

pub use broadcast::{
    Broadcast, BroadcastOut, Delivered, HyParViewConfig, HyParViewMessage, Inventory, InventoryMessage,
    Payload, Push, PushMessage, Tree, TreeConfig, TreeMessage,
};
pub use chord::{Chord, ChordConfig, ChordMessage, LookupStyle};
pub use content::{Answer, Content, ContentError, Finished, Kept, Offered, OperationId, Shelf};
pub use dht::{ContentMessage, Dht, DhtConfig, DhtMessage, Refused};
pub use directory::{Directory, DirectoryConfig, DirectoryMessage};
pub use entry::{
    AuthorKey, Body, Class, Entry, KEYWORDS_MAX, LIFETIME_MAX, NAME_BYTES_MAX, Unsound, VALUE_BYTES_MAX,
    keywords_of,
};
pub use hybrid::{AtRest, Hybrid, HybridConfig, HybridMessage, Report, Standing};
pub use id::Id;
pub use kademlia::{Kademlia, KademliaConfig, KademliaMessage};
pub use overlay::{
    Contact, LocateError, Located, LookupError, LookupId, Notification, Out, Overlay, Row, Step, Table,
};
pub use pastry::{Pastry, PastryConfig, PastryMessage};
pub use unstructured::{SearchStyle, Unstructured, UnstructuredConfig, UnstructuredMessage, Wanted};
