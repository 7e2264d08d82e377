//! A node in production: real sockets, real files, real threads.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use atoll_disk::{Files, FjallStore, OpenFolderError, RealFiles, StoreError};
use atoll_gateway::{
    admin,
    s3::{S3Gateway, S3Metrics, S3Parts, serve_s3},
};
use atoll_objects::{MaintenanceSettings, Objects, ObjectsSettings, RootKeyId, SnapshotSettings};
use atoll_placement::{LayoutSettings, PlanSettings};
use atoll_runtime::{Runtime, watch};
use atoll_transport::{
    NodeKey,
    tls::{BindError, TlsTransport},
};
use atoll_types::{ClusterId, DiskId, Generation, NodeId, OverlayKind, Role, Roles};
use bytes::Bytes;
use prometheus_client::registry::Registry;
use rand::Rng;
use tokio::net::TcpListener;

use crate::{
    admin::NodeAdmin,
    follower::Ended,
    https::{self, Https, HttpsError},
    identity::{Identity, IdentityError},
    key_file::{self, KeyFileError},
    metrics::NodeMetrics,
    node::{Failed, Node, NodeParts, NodeProperties},
    overlay::OverlaySettings,
    settings::{RootKey, Settings},
    start::StartError,
    ticket::Ticket,
    truths::{PROGRAM_VERSION, overlay_played_since},
};

/// The ticket that `up` prints.
const FIRST_TICKET_USES: u32 = 10;
const FIRST_TICKET_LIFETIME: Duration = Duration::from_secs(3600);
/// A node that comes back alone has no quorum to make a ticket with; it doesn't wait long.
const FIRST_TICKET_WAIT: Duration = Duration::from_secs(3);
/// Of a new cluster. One whose layout names none is older, and stays what it is.
const KIND_FOUNDED: OverlayKind = OverlayKind::Hybrid;
const _: () = assert!(overlay_played_since(KIND_FOUNDED) <= PROGRAM_VERSION);

/// Why the node is not up. See [`UpError::hint`] for what to do.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    #[error("the data folder can't be used")]
    Folder(#[from] OpenFolderError),
    #[error("the data folder can't be read or written")]
    Disk(#[from] atoll_disk::DiskError),
    #[error("the data folder's identity can't be used")]
    Identity(#[from] IdentityError),
    #[error("the ordered store can't be opened")]
    Store(#[from] StoreError),
    #[error("can't listen for {what} on {address}")]
    Listen {
        what: &'static str,
        flag: &'static str,
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("can't listen for other nodes")]
    Transport(#[from] BindError),
    #[error("S3 can't be served over HTTPS")]
    Https(#[from] HttpsError),
    #[error("the root key can't be used")]
    KeyFile(#[from] KeyFileError),
    #[error(transparent)]
    Start(#[from] StartError),
}

impl UpError {
    /// Trying again later may help; nothing has to be mended.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, UpError::Start(error) if error.is_unavailable())
    }

    pub fn hint(&self) -> Option<String> {
        use crate::join::JoinError;
        match self {
            UpError::Folder(_) => {
                Some("name another folder with --data, or stop the node that uses this one".into())
            }
            UpError::Listen { flag, .. } => {
                Some(format!("name another address with {flag}, such as 127.0.0.1:9100"))
            }
            UpError::Https(_) => Some(
                "name a certificate chain with --s3-cert and its key with --s3-key, both in PEM; or leave both \
                 out for one of the node's own"
                    .into(),
            ),
            UpError::KeyFile(KeyFileError::InDataFolder { .. }) => {
                Some("move the file elsewhere: whoever steals the disk must not find it there".into())
            }
            UpError::KeyFile(_) => {
                Some("make a key file, once for all nodes: atoll key-file create PATH".into())
            }
            UpError::Transport(_) => {
                Some("name another address with --node-addr, such as 0.0.0.0:9102".into())
            }
            UpError::Store(_) => Some(
                "other nodes have copies of what it kept: remove this node there (atoll node remove --force), \
                 empty its data folder, and join again with a new ticket"
                    .into(),
            ),
            UpError::Start(StartError::Join(JoinError::Refused(_) | JoinError::OtherCluster)) => {
                Some("make a ticket where the cluster runs: atoll ticket create".into())
            }
            UpError::Start(StartError::Join(JoinError::Unreachable { .. })) => Some(
                "can this machine reach the addresses in the ticket? the issuer's --advertise-addr sets them"
                    .into(),
            ),
            UpError::Start(StartError::Join(JoinError::RemovedKey) | StartError::Removed) => {
                Some(REMOVED_HINT.into())
            }
            _ => None,
        }
    }
}

/// What a person wants to know of a node that is up.
pub struct Facts {
    pub node: NodeId,
    pub cluster: ClusterId,
    pub data: PathBuf,
    pub s3_addr: SocketAddr,
    /// S3 is served over HTTPS.
    pub https: bool,
    /// The certificate that the node made for itself: clients must be told to trust it.
    pub own_cert: Option<PathBuf>,
    pub admin_addr: SocketAddr,
    pub node_addresses: Vec<String>,
    /// Only when this start created the cluster: it is shown once.
    pub root_key: Option<RootKey>,
    /// Absent when the cluster could not make one just now.
    pub ticket: Option<Ticket>,
}

/// A node that serves.
pub struct RunningNode {
    facts: Facts,
    node: Node,
    transport: Arc<TlsTransport>,
    runtime: Runtime,
    shutdown: watch::Sender<bool>,
    doors: Vec<atoll_runtime::Task<()>>,
}

/// Starts a node with these settings; must be called on a tokio runtime.
pub async fn up(settings: Settings, join: Option<Ticket>) -> Result<RunningNode, UpError> {
    let runtime = Runtime::tokio();
    let files = Arc::new(RealFiles::open(&settings.data, runtime.clone())?);
    let sealing_key = settings.key_file.as_ref().map(|path| key_file::read_outside_of(&settings.data, path));
    let sealing_key = sealing_key.transpose()?;
    let root_key_id = sealing_key.as_ref().map(|key| key.id());
    // Before anything else, so that a taken port changes nothing.
    let s3_listener = listen("S3", "--s3-addr", settings.s3_addr).await?;
    let admin_listener = listen("the admin API", "--admin-addr", settings.admin_addr).await?;
    let (s3_addr, admin_addr) =
        (local_addr(&s3_listener, settings.s3_addr), local_addr(&admin_listener, settings.admin_addr));

    let mut rng = runtime.rng();
    let identity = Identity::start(files.as_ref(), || Identity {
        key_seed: rng.random(),
        disk: DiskId(rng.random()),
        generation: Generation(0),
        cluster: None,
    })
    .await?;
    let key = NodeKey::from_seed(identity.key_seed);
    let listen_on = settings.node_addr.to_string();
    let transport =
        TlsTransport::bind(&key, identity.cluster, &listen_on, runtime.clone(), Default::default()).await?;
    let addresses = match &settings.advertise_addr {
        Some(address) => vec![address.clone()],
        None => own_addresses(transport.local_addr()),
    };
    let tls = https::load(&settings.s3_https, files.as_ref(), https_names(&settings, s3_addr)).await?;
    let store_folder = files.folder().join("store");
    let store = runtime.blocking(move || FjallStore::open(&store_folder)).await?;
    let capacity = match settings.capacity {
        Some(capacity) => capacity,
        None => atoll_types::ByteSize(files.space().await?.total),
    };

    let node = Node::start(NodeParts {
        runtime: runtime.clone(),
        transport: transport.clone(),
        files: files.clone(),
        store: Arc::new(store),
        identity,
        properties: NodeProperties {
            zone: settings.zone.clone(),
            capacity,
            roles: Roles::NONE.with(Role::Storage).with(Role::Gateway),
            addresses: addresses.clone(),
            program_version: PROGRAM_VERSION,
        },
        join,
        root_key: settings.root_key.clone(),
        founding: LayoutSettings { overlay: Some(KIND_FOUNDED), ..LayoutSettings::default() },
        planning: PlanSettings::default(),
        objects: ObjectsSettings::default(),
        sealing_key,
        maintenance: MaintenanceSettings {
            lifecycle_day: settings.lifecycle_day,
            snapshots: Some(SnapshotSettings {
                every: settings.snapshot_every,
                keep: settings.snapshot_keep,
                others: atoll_access::KEPT_PREFIXES.map(Bytes::from_static).to_vec(),
            }),
            ..MaintenanceSettings::default()
        },
        overlay: Some(settings.overlay_tables.apply(OverlaySettings::default())),
        observer: None,
    })
    .await?;
    transport.set_cluster(node.cluster());
    if let Some(mine) = root_key_id {
        // The answer takes as long as an election; nobody waits for it.
        drop(runtime.spawn("root key check", check_root_key(node.objects().clone(), mine)));
    }

    let mut registry = Registry::default();
    let s3_metrics = S3Metrics::default();
    s3_metrics.register(&mut registry);
    registry.register_collector(Box::new(NodeMetrics { node: node.clone(), transport: transport.clone() }));
    let (shutdown, _) = watch::channel(false);
    let s3 = S3Gateway::new(S3Parts {
        runtime: runtime.clone(),
        objects: node.objects().clone(),
        access: node.access().clone(),
        region: "us-east-1".into(),
        domains: settings.s3_domains.clone(),
        metrics: s3_metrics,
    });
    let node_admin = Arc::new(NodeAdmin::new(node.clone()));
    let router = admin::router(node_admin, node.access().clone(), node.objects().clone(), registry);
    let doors = vec![
        runtime.spawn("s3 door", serve_s3(s3_listener, s3, tls, runtime.clone(), told(shutdown.subscribe()))),
        runtime.spawn(
            "admin door",
            admin::serve_admin(admin_listener, router, runtime.clone(), told(shutdown.subscribe())),
        ),
    ];
    let ticket = match runtime
        .timeout(FIRST_TICKET_WAIT, node.create_ticket(FIRST_TICKET_USES, FIRST_TICKET_LIFETIME))
        .await
    {
        Ok(Ok((ticket, _))) => Some(ticket),
        Ok(Err(_)) | Err(_) => None,
    };
    let facts = Facts {
        node: node.id(),
        cluster: node.cluster(),
        https: settings.s3_https != Https::Off,
        own_cert: (settings.s3_https == Https::SelfMade).then(|| settings.data.join(https::CERT_FILE)),
        data: settings.data,
        s3_addr,
        admin_addr,
        node_addresses: addresses,
        root_key: node.new_root_key().cloned(),
        ticket,
    };
    Ok(RunningNode { facts, node, transport, runtime, shutdown, doors })
}

/// Says early what a request for something encrypted would meet later.
async fn check_root_key(objects: Objects, mine: RootKeyId) {
    match objects.cluster_root_key().await {
        Ok(Some(needs)) if needs != mine => tracing::error!(
            has = %mine,
            %needs,
            "the key file holds another root key than the cluster's: what is encrypted is refused here"
        ),
        Ok(_) => tracing::info!(root_key = %mine, "objects can be encrypted"),
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(error, "the cluster's root key was not looked up");
        }
    }
}

impl RunningNode {
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Resolves when the node can't go on: its disk failed, or what it keeps is broken.
    pub async fn failed(&self) -> NodeFailed {
        NodeFailed { reason: self.node.failed().await }
    }

    /// Hands over first, then lets requests finish, then closes.
    pub async fn stop(self) {
        self.node.stop().await;
        // Nobody may be listening any more.
        self.shutdown.send_replace(true);
        for door in self.doors {
            let _ = self.runtime.timeout(DOORS_TIME, door).await;
        }
        self.node.close().await;
        self.transport.shut_down(CLOSE_TIME).await;
    }
}

/// What other nodes asked for is answered within this; they ask others after it.
const CLOSE_TIME: Duration = Duration::from_secs(2);
/// How long requests may still run when the node stops; clients retry elsewhere.
const DOORS_TIME: Duration = Duration::from_secs(8);

/// Stopped, because wrong is worse than down.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct NodeFailed {
    reason: Failed,
}

impl NodeFailed {
    /// What to do, where it is not to start the node again.
    pub fn hint(&self) -> Option<&'static str> {
        match self.reason {
            Failed::Ended(Ended::Removed) => Some(REMOVED_HINT),
            _ => None,
        }
    }
}

/// A removed key stays removed.
const REMOVED_HINT: &str = "start it with an empty data folder and a new ticket: it then has a new key";

async fn told(mut shutdown: watch::Receiver<bool>) {
    // The sender's end is as good as its word.
    let _ = shutdown.wait_for(|stop| *stop).await;
}

async fn listen(what: &'static str, flag: &'static str, address: SocketAddr) -> Result<TcpListener, UpError> {
    TcpListener::bind(address).await.map_err(|source| UpError::Listen { what, flag, address, source })
}

fn local_addr(listener: &TcpListener, asked: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(asked)
}

/// What a certificate of our own is good for: this machine by its names and addresses.
fn https_names(settings: &Settings, s3_addr: SocketAddr) -> Vec<String> {
    let mut names = vec!["127.0.0.1".to_owned(), "::1".to_owned()];
    for address in own_addresses(s3_addr) {
        if let Ok(address) = address.parse::<SocketAddr>() {
            names.push(address.ip().to_string());
        }
    }
    for domain in &settings.s3_domains {
        names.extend([domain.clone(), format!("*.{domain}")]);
    }
    names.sort();
    names.dedup();
    names
}

/// The addresses that peers may try: the one bound to, or each of this machine's when it
/// is bound to all of them, its own loopback last, for nodes on this machine.
fn own_addresses(bound: SocketAddr) -> Vec<String> {
    if !bound.ip().is_unspecified() {
        return vec![bound.to_string()];
    }
    let mut addresses: Vec<IpAddr> = nix::ifaddrs::getifaddrs()
        .into_iter()
        .flatten()
        .filter_map(|interface| interface.address)
        .filter_map(|address| address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip())))
        .collect();
    addresses.sort_by_key(|address| address.is_loopback());
    addresses.dedup();
    if addresses.is_empty() {
        addresses.push(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));
    }
    addresses.into_iter().map(|address| SocketAddr::new(address, bound.port()).to_string()).collect()
}
