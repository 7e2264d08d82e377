//! The same over TLS on loopback, once: that what the simulation shows holds for real
//! connections, addresses learned by gossip, and real time.

use std::{sync::Arc, time::Duration};

use atoll_membership::{MemberInfo, MemberState, Membership, MembershipSettings, View};
use atoll_runtime::Runtime;
use atoll_transport::{
    Admission, NodeKey, Protocol, Transport,
    tls::{TlsSettings, TlsTransport},
};
use atoll_types::{ByteSize, DiskId, Generation, NodeId, Roles, Zone};

/// A bound that only a failure reaches.
const LIMIT: Duration = Duration::from_secs(30);

struct Everyone;

impl Admission for Everyone {
    fn admits(&self, _peer: &NodeId, _protocol: Protocol) -> bool {
        true
    }
}

struct Node {
    id: NodeId,
    transport: Arc<TlsTransport>,
    membership: Membership,
}

async fn node(number: u8) -> Node {
    let key = NodeKey::from_seed([number; 32]);
    let runtime = Runtime::tokio();
    let transport =
        TlsTransport::bind(&key, None, "127.0.0.1:0", runtime.clone(), TlsSettings::default()).await.unwrap();
    transport.set_admission(Arc::new(Everyone));
    let me = MemberInfo {
        node: key.node_id(),
        generation: Generation(1),
        zone: Zone::default(),
        capacity: ByteSize::gib(1),
        disk: DiskId(number.into()),
        roles: Roles::default(),
        addresses: vec![transport.local_addr().to_string()],
        s3_address: None,
        admin_address: None,
        layout_version: 1,
        supports: 1,
    };
    let membership =
        Membership::start(runtime, transport.clone(), me, MembershipSettings::default()).unwrap();
    Node { id: key.node_id(), transport, membership }
}

async fn wait(node: &Node, what: &str, condition: impl FnMut(&Arc<View>) -> bool) {
    let mut view = node.membership.view();
    let seen = Runtime::tokio().timeout(LIMIT, view.wait_for(condition)).await;
    assert!(seen.is_ok(), "{what}: {:?}", node.membership.view().borrow());
}

#[tokio::test]
async fn three_nodes_on_sockets_find_each_other_by_one_address_and_miss_the_one_that_dies() {
    let nodes = [node(1).await, node(2).await, node(3).await];
    for newcomer in &nodes[1..] {
        let seed = nodes[0].id;
        newcomer.transport.set_addresses(seed, vec![nodes[0].transport.local_addr().to_string()]);
        newcomer.membership.join(vec![seed]).await;
    }
    for node in &nodes {
        wait(node, "all are seen", |view| {
            view.members.len() == 3
                && view.members.values().all(|m| m.state == MemberState::Alive && m.info.is_some())
        })
        .await;
    }
    let [first, second, third] = nodes;
    third.transport.close();
    drop(third.membership);
    for node in [&first, &second] {
        wait(node, "the third is dead", |view| {
            view.get(&third.id).is_some_and(|member| member.state == MemberState::Dead)
        })
        .await;
    }
    assert!(first.membership.view().borrow().is_reachable(&second.id));
}
