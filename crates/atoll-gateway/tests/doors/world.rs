//! One node with everything that the S3 door stands on, over an in-memory disk, serving
//! real HTTP on loopback.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use atoll_access::{Access, Secret, audit::Auditor};
use atoll_disk::{ChunkSettings, ChunkStore, LogSettings, MemoryDisk, MemoryStore, SharedLog};
use atoll_gateway::s3::{S3Gateway, S3Metrics, S3Parts, serve_s3};
use atoll_objects::{ACLS_SINCE, LayoutLink, Objects, ObjectsParts, ObjectsSettings, ReportError};
use atoll_placement::{Layout, LayoutNode, LayoutSettings, NodeState};
use atoll_records::{Procedures, Records, RecordsParts, ReplicaAddress, ShardMap, ShardReplicas};
use atoll_runtime::{AbortOnDrop, Runtime, watch};
use atoll_transport::{
    Admission, Protocol,
    memory::{LinkProfile, Links, MemoryNetwork},
};
use atoll_types::{ByteSize, DiskId, NodeId, ReplicaId, Roles, ShardId, Slot, Zone};
use rand::{SeedableRng, rngs::StdRng};
use tokio::net::TcpListener;

use crate::client::Client;

/// Bounds every wait.
const PATIENCE: Duration = Duration::from_secs(30);
const DATA_SHARDS: u32 = 2;
const NODE: NodeId = NodeId([1; 32]);

struct AdmitAll;

impl Admission for AdmitAll {
    fn admits(&self, _peer: &NodeId, _protocol: Protocol) -> bool {
        true
    }
}

/// Nothing ever moves here.
struct NoMoves;

#[async_trait]
impl LayoutLink for NoMoves {
    fn newer_layout_exists(&self, _version: u64) {}

    async fn slots_filled(&self, _slots: Vec<(Slot, u64)>) -> Result<(), ReportError> {
        Ok(())
    }

    async fn slots_released(&self, _slots: Vec<Slot>) -> Result<(), ReportError> {
        Ok(())
    }
}

pub struct Door {
    pub address: SocketAddr,
    pub access: Access,
    pub objects: Objects,
    pub runtime: Runtime,
    _layout: watch::Sender<Arc<Layout>>,
    _map: watch::Sender<Arc<ShardMap>>,
    _server: AbortOnDrop,
}

pub const ACCESS_KEY: &str = "AKTEST";
pub const SECRET_KEY: &str = "test-secret-key";

impl Door {
    pub async fn open() -> Self {
        let runtime = Runtime::tokio();
        let links = Arc::new(Links::new(LinkProfile::local_network()));
        let network = MemoryNetwork::new(links, StdRng::seed_from_u64(1));
        let transport = network.endpoint(NODE, runtime.clone());
        transport.set_admission(Arc::new(AdmitAll));

        let shards: BTreeMap<_, _> = (0..=DATA_SHARDS)
            .map(|shard| {
                let replica = ReplicaAddress { replica: ReplicaId(u64::from(shard) + 1), node: NODE };
                (ShardId(shard), ShardReplicas { voters: vec![replica], learners: Vec::new() })
            })
            .collect();
        let map = watch::Sender::new(Arc::new(ShardMap { version: 1, shards: shards.clone() }));
        let properties = LayoutNode {
            zone: Zone::default(),
            capacity: ByteSize::gib(1),
            disk: DiskId(1),
            roles: Roles::default(),
            state: NodeState::Active,
            addresses: vec![MemoryNetwork::address(NODE)],
        };
        let settings = LayoutSettings { data_shards: DATA_SHARDS, ..LayoutSettings::default() };
        let layout = watch::Sender::new(Arc::new(Layout::genesis(NODE, properties, settings)));

        let mut procedures = Procedures::default();
        atoll_objects::register_procedures(&mut procedures);
        atoll_access::register(&mut procedures);
        let store = Arc::new(MemoryStore::default());
        let files = Arc::new(MemoryDisk::new(1).files(&runtime));
        let (log, recovery) =
            SharedLog::open(files.clone(), runtime.clone(), LogSettings::default()).await.unwrap();
        let settings = ChunkSettings { reserve_bytes_min: ByteSize(0), ..ChunkSettings::default() };
        let (chunks, _) = ChunkStore::open(files, store.clone(), runtime.clone(), settings).await.unwrap();
        let records = Records::start(RecordsParts {
            runtime: runtime.clone(),
            transport: transport.clone(),
            store,
            log,
            recovery,
            procedures,
            map: map.subscribe(),
        })
        .await
        .unwrap();
        for (shard, replicas) in shards {
            let replica = replicas.voters[0].replica;
            records.create_replica(shard, replica, Some(replicas.voters)).await.unwrap();
        }
        let objects = Objects::new(ObjectsParts {
            runtime: runtime.clone(),
            transport,
            records: records.clone(),
            chunks,
            layout: layout.subscribe(),
            link: Arc::new(NoMoves),
            cluster_version: watch::channel(ACLS_SINCE).1,
            root_key: None,
            settings: ObjectsSettings { patience: PATIENCE, ..ObjectsSettings::default() },
        });

        let access = Access::start(runtime.clone(), records.clone());
        access.audit_with(Auditor::start(runtime.clone(), records, [7; 32]));
        access.allow_acts();
        let deadline = runtime.now() + PATIENCE;
        access.found_root(ACCESS_KEY, Secret::new(SECRET_KEY), deadline).await.unwrap();
        let gateway = S3Gateway::new(S3Parts {
            runtime: runtime.clone(),
            objects: objects.clone(),
            access: access.clone(),
            region: "us-east-1".into(),
            domains: vec!["s3.test".into()],
            metrics: S3Metrics::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = serve_s3(listener, gateway, None, runtime.clone(), std::future::pending());
        let _server = runtime.spawn_owned("s3 door", server);
        Self { address, access, objects, runtime, _layout: layout, _map: map, _server }
    }

    pub fn client(&self) -> Client {
        Client::new(self.address, ACCESS_KEY, SECRET_KEY)
    }

    /// A door with one bucket behind it.
    pub async fn with_bucket(name: &str) -> (Self, Client) {
        let door = Self::open().await;
        let client = door.client();
        assert_eq!(client.put(&format!("/{name}"), b"").await.status, 200);
        (door, client)
    }
}
