//! One node, put together from its parts above the seams: the same in production and in
//! the simulation, which hands in other seams.

use std::{
    collections::BTreeSet,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use atoll_access::{Access, AdminToken, Secret, audit::Auditor};
use atoll_disk::{ChunkStore, Files, OrderedStore, SharedLog};
use atoll_membership::{MemberInfo, Membership};
use atoll_objects::{
    Maintenance, MaintenanceSettings, Objects, ObjectsParts, ObjectsSettings, VERSION_HEARD_WITHIN,
};
use atoll_overlay::AuthorKey;
use atoll_placement::{Layout, LayoutSettings, PlanSettings, SlotsOf, Warning};
use atoll_records::{Observer, Procedures, Records, RecordsParts, ReplicaAddress, ReplicaStatus, Role};
use atoll_runtime::{AbortOnDrop, Runtime, watch};
use atoll_transport::{Protocol, Transport};
use atoll_types::{ByteSize, ClusterId, Format, Instant, NodeId, ReplicaId, Roles, Zone};
use futures_util::future::{self, Either};
use rand::Rng;

use crate::{
    controller::{Controller, Rest},
    editor::LayoutEditor,
    follower::{Ended, LayoutFollower},
    gossip::Gossip,
    identity::Identity,
    join::{self, JoinHandler, Welcome},
    link::Link,
    overlay::{OverlayParts, OverlaySettings, Overlays},
    recover::{Adoption, keep_epoch},
    replicas::{ReplicaKeeper, has_reached},
    reports::{ClusterHandler, ReportBook, Reporter, report_loop},
    settings::RootKey,
    standing::Standing,
    start::StartError,
    ticket::{Issuer, Ticket, TicketId, TicketSecret},
    truths::{ClusterInfo, Truths, USERS_SINCE},
    wire::{NodeInfo, NodeReport},
    witness::WitnessKeeper,
};

/// What a node is made of.
pub struct NodeParts {
    pub runtime: Runtime,
    pub transport: Arc<dyn Transport>,
    pub files: Arc<dyn Files>,
    pub store: Arc<dyn OrderedStore>,
    pub identity: Identity,
    pub properties: NodeProperties,
    /// How to become a member; `None` founds a cluster. Not used by a member.
    pub join: Option<Ticket>,
    /// The first access key of a new cluster; drawn if there is none.
    pub root_key: Option<RootKey>,
    /// What the cluster shall agree on, if this node founds it.
    pub founding: LayoutSettings,
    pub planning: PlanSettings,
    pub objects: ObjectsSettings,
    /// What objects are encrypted with (SSE-S3).
    pub sealing_key: Option<atoll_objects::RootKey>,
    pub maintenance: MaintenanceSettings,
    /// How this node plays the cluster's overlay; `None` is out of it.
    pub overlay: Option<OverlaySettings>,
    /// Who watches the Raft groups; in production nobody.
    pub observer: Option<Arc<dyn Observer>>,
}

/// Why a node can't go on.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Failed {
    /// The disk, or what is kept on it.
    #[error("{0}")]
    Disk(String),
    #[error(transparent)]
    Ended(#[from] Ended),
}

/// What a node says of itself.
#[derive(Debug, Clone)]
pub struct NodeProperties {
    pub zone: Zone,
    pub capacity: ByteSize,
    pub roles: Roles,
    pub addresses: Vec<String>,
    /// The newest cluster version that the program knows (rule 18): [`PROGRAM_VERSION`].
    pub program_version: u32,
}

/// Founding writes once to a disk and elects itself; a busy machine takes its time.
const FOUNDING_TIME: Duration = Duration::from_secs(30);

/// A running node. Cheap to clone; the last clone that goes stops it.
#[derive(Clone)]
pub struct Node {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub runtime: Runtime,
    pub transport: Arc<dyn Transport>,
    pub me: NodeId,
    pub cluster: ClusterId,
    pub records: Records,
    pub objects: Objects,
    pub chunks: ChunkStore,
    pub access: Access,
    pub membership: Membership,
    pub overlay: Option<Overlays>,
    pub editor: LayoutEditor,
    pub reporter: Arc<NodeReporter>,
    pub witness: Arc<WitnessKeeper>,
    pub standing: Standing,
    pub warnings: watch::Receiver<Vec<Warning>>,
    /// The key that was made when this node founded its cluster, to be shown once.
    pub new_root_key: Option<RootKey>,
    _tasks: Vec<AbortOnDrop>,
}

/// Everything that may run inside a shard: the same on every node of one version.
pub fn procedures() -> Procedures {
    let mut procedures = Procedures::default();
    crate::truths::register(&mut procedures);
    atoll_access::register(&mut procedures);
    atoll_objects::register_procedures(&mut procedures);
    procedures
}

/// How this node came to its layout.
enum Origin {
    /// It was a member before.
    Member,
    Founder,
    Joined {
        admin_token: AdminToken,
    },
}

impl Node {
    pub async fn start(parts: NodeParts) -> Result<Node, StartError> {
        let NodeParts {
            runtime,
            transport,
            files,
            store,
            mut identity,
            properties,
            join,
            root_key,
            founding,
            planning,
            objects: objects_settings,
            sealing_key,
            maintenance,
            overlay,
            observer,
        } = parts;
        let me = transport.node_id();
        let info = NodeInfo {
            disk: identity.disk,
            generation: identity.generation,
            zone: properties.zone,
            capacity: properties.capacity,
            roles: properties.roles,
            addresses: properties.addresses,
            program_version: properties.program_version,
        };

        let saved = LayoutFollower::saved(files.as_ref()).await?;
        let (origin, layout, cluster) = match (identity.cluster, saved, &join) {
            (Some(cluster), Some(layout), _) => (Origin::Member, layout, cluster),
            (Some(_), None, _) => return Err(StartError::LayoutMissing),
            (None, _, Some(ticket)) => {
                let Welcome { layout, admin_token } =
                    join::join(transport.as_ref(), ticket, info.clone()).await?;
                (Origin::Joined { admin_token: AdminToken::new(admin_token) }, layout, ticket.cluster)
            }
            (None, _, None) => {
                let layout = Layout::genesis(me, join::layout_node(&info), founding);
                (Origin::Founder, layout, ClusterId(runtime.rng().random()))
            }
        };
        if layout.is_removed(&me) {
            return Err(StartError::Removed);
        }
        let adoption = match origin {
            Origin::Member => Adoption::due(files.as_ref(), &me, &layout).await?,
            Origin::Founder | Origin::Joined { .. } => {
                keep_epoch(files.as_ref(), layout.epoch()).await?;
                None
            }
        };

        let follower = LayoutFollower::start(me, files.clone(), transport.clone(), layout).await?;
        let (log, mut recovery) = SharedLog::open(files.clone(), runtime.clone(), Default::default()).await?;
        if let Some(adoption) = &adoption {
            adoption.force(&runtime, &store, &log, &mut recovery, me).await?;
        }
        let parts = RecordsParts {
            runtime: runtime.clone(),
            transport: transport.clone(),
            store: store.clone(),
            log,
            recovery,
            procedures: procedures(),
            map: follower.shard_map(),
        };
        let records = Records::start_observed(parts, observer).await?;
        if let Some(adoption) = &adoption {
            adoption.finish(&records, files.as_ref(), me).await?;
        }
        if let Origin::Founder = origin {
            found_replicas(&records, &follower.current(), me).await?;
        }
        let truths = Truths { runtime: runtime.clone(), records: records.clone() };
        let access = Access::start(runtime.clone(), records.clone());
        let editor = LayoutEditor {
            truths: truths.clone(),
            follower: follower.clone(),
            transport: transport.clone(),
            access: access.clone(),
        };
        let auditor = Auditor::start(runtime.clone(), records.clone(), identity.key_seed);
        access.audit_with(auditor.clone());
        let witness = Arc::new(WitnessKeeper::open(runtime.clone(), files.clone(), auditor).await?);

        let mut new_root_key = None;
        let cluster = match &origin {
            Origin::Founder => {
                let deadline = runtime.now() + FOUNDING_TIME;
                let info =
                    ClusterInfo { id: cluster, created: runtime.wall_now(), version: info.program_version };
                let genesis = follower.current().encode();
                truths.found(info, genesis.into(), deadline).await?;
                // If an earlier start got this far and no further, its truths hold.
                let founded = truths.info(deadline).await?;
                if founded.version >= USERS_SINCE {
                    access.allow_acts();
                }
                let founded = founded.id;
                let root = root_key.unwrap_or_else(|| draw_root_key(&runtime));
                let key =
                    access.found_root(&root.access_key, Secret::new(&root.secret_key), deadline).await?;
                let (access_key, secret_key) = (key.access_key.clone(), key.secret.expose().into());
                new_root_key = Some(RootKey { access_key, secret_key });
                founded
            }
            Origin::Member | Origin::Joined { .. } => cluster,
        };
        let admin_token = match origin {
            Origin::Member => crate::token::read(files.as_ref()).await?,
            Origin::Founder => {
                let token = AdminToken::generate(&mut runtime.rng());
                crate::token::write(files.as_ref(), &token).await?;
                token
            }
            Origin::Joined { admin_token } => {
                crate::token::write(files.as_ref(), &admin_token).await?;
                admin_token
            }
        };
        access.set_local_token(admin_token.clone());
        if identity.cluster.is_none() {
            runtime.fault_point("node: it joined or founded, and does not know it on its disk").await;
            identity.cluster = Some(cluster);
            identity.save(files.as_ref()).await?;
        }

        let (chunks, found) =
            ChunkStore::open(files.clone(), store.clone(), runtime.clone(), Default::default()).await?;
        let link = Link::new(me);
        let (heard_version, cluster_version) = watch::channel(0);
        let objects = Objects::new(ObjectsParts {
            runtime: runtime.clone(),
            transport: transport.clone(),
            records: records.clone(),
            chunks: chunks.clone(),
            layout: follower.subscribe(),
            link: link.clone(),
            cluster_version,
            root_key: sealing_key,
            settings: objects_settings,
        });
        let maintenance =
            MaintenanceSettings { walk_first: found.rebuilt || !found.damage.is_empty(), ..maintenance };
        let maintenance = Arc::new(objects.maintain(store, maintenance));
        let told = MemberInfo {
            node: me,
            generation: identity.generation,
            zone: info.zone.clone(),
            capacity: info.capacity,
            disk: info.disk,
            roles: info.roles,
            addresses: info.addresses.clone(),
            s3_address: None,
            admin_address: None,
            layout_version: follower.current().version(),
            supports: info.program_version,
        };
        let membership =
            Membership::start(runtime.clone(), transport.clone(), told.clone(), Default::default())?;
        let gossip = Gossip {
            runtime: runtime.clone(),
            transport: transport.clone(),
            membership: membership.clone(),
            follower: follower.clone(),
            me: told,
            wanted: link.wanted(),
        };
        let reporter = Arc::new(NodeReporter {
            me,
            runtime: runtime.clone(),
            info,
            follower: follower.clone(),
            records: records.clone(),
            maintenance: maintenance.clone(),
            chunks: chunks.clone(),
            link,
            speed: Mutex::default(),
            forgotten: Mutex::default(),
        });
        let book = Arc::new(ReportBook::default());
        transport.serve(
            Protocol::Cluster,
            Arc::new(ClusterHandler {
                runtime: runtime.clone(),
                follower: follower.clone(),
                book: book.clone(),
                reporter: reporter.clone(),
                witness: witness.clone(),
            }),
        );
        join::serve(
            &transport,
            JoinHandler { editor: editor.clone(), cluster, admin_token: admin_token.clone() },
        );

        let overlay = overlay.map(|settings| {
            Overlays::start(OverlayParts {
                runtime: runtime.clone(),
                transport: transport.clone(),
                layout: follower.subscribe(),
                view: membership.view(),
                author: AuthorKey::from_seed(identity.key_seed),
                settings,
            })
        });
        let (warnings_tx, warnings) = watch::channel(Vec::new());
        let controller = Controller {
            editor: editor.clone(),
            records: records.clone(),
            book,
            view: membership.view(),
            settings: planning,
            program_version: properties.program_version,
            started: runtime.now(),
            warnings: warnings_tx,
            rest: Rest::default(),
        };
        let standing = Standing::default();
        let keeper = ReplicaKeeper {
            runtime: runtime.clone(),
            me,
            disk: identity.disk,
            records: records.clone(),
            layout: follower.subscribe(),
        };
        let tasks = vec![
            runtime.spawn_owned(
                "cluster version",
                follow_version(
                    runtime.clone(),
                    truths,
                    follower.clone(),
                    access.clone(),
                    properties.program_version,
                    heard_version,
                ),
            ),
            runtime.spawn_owned("audit witness", witness.clone().run()),
            runtime.spawn_owned("replica keeper", keeper.run()),
            runtime.spawn_owned("controller", controller.run()),
            runtime.spawn_owned(
                "reports",
                report_loop(runtime.clone(), transport.clone(), follower.clone(), reporter.clone()),
            ),
            runtime.spawn_owned("gossip", gossip.run()),
            runtime.spawn_owned(
                "standing",
                standing.clone().watch(
                    runtime.clone(),
                    transport.clone(),
                    follower.clone(),
                    membership.view(),
                ),
            ),
        ];
        let inner = Inner {
            runtime,
            transport,
            me,
            cluster,
            records,
            objects,
            chunks,
            access,
            membership,
            overlay,
            editor,
            reporter,
            witness,
            standing,
            warnings,
            new_root_key,
            _tasks: tasks,
        };
        Ok(Node { inner: Arc::new(inner) })
    }

    pub fn id(&self) -> NodeId {
        self.inner.me
    }

    pub fn cluster(&self) -> ClusterId {
        self.inner.cluster
    }

    pub fn objects(&self) -> &Objects {
        &self.inner.objects
    }

    pub fn records(&self) -> &Records {
        &self.inner.records
    }

    pub fn access(&self) -> &Access {
        &self.inner.access
    }

    pub fn layout(&self) -> Arc<Layout> {
        self.inner.editor.follower.current()
    }

    pub fn new_root_key(&self) -> Option<&RootKey> {
        self.inner.new_root_key.as_ref()
    }

    /// A ticket that names up to [`ISSUERS_MAX`] members of the cluster, this node first.
    pub async fn create_ticket(
        &self,
        uses: u32,
        lifetime: Duration,
    ) -> Result<(Ticket, u64), crate::truths::TruthsError> {
        let inner = &self.inner;
        let mut rng = inner.runtime.rng();
        let (id, secret) = (TicketId(rng.random()), TicketSecret(rng.random()));
        let deadline = inner.runtime.now() + FOUNDING_TIME;
        let expires = inner.editor.truths.create_ticket(id, secret, uses, lifetime, deadline).await?;
        let layout = self.layout();
        let others =
            layout.nodes().iter().filter(|(node, properties)| **node != inner.me && properties.is_eligible());
        let mine = layout.nodes().get_key_value(&inner.me);
        let issuers = mine
            .into_iter()
            .chain(others)
            .take(ISSUERS_MAX)
            .map(|(node, properties)| Issuer { node: *node, addresses: properties.addresses.clone() })
            .collect();
        Ok((Ticket { cluster: inner.cluster, id, secret, issuers }, expires.as_millis()))
    }

    /// Waits until the disk is no longer of use to this process, and says why.
    pub async fn disk_failed(&self) -> String {
        let (records, chunks) = (self.inner.records.failed(), self.inner.chunks.failed());
        future::select(pin!(records), pin!(chunks)).await.factor_first().0
    }

    /// Waits until this node can't go on, and says why: its disk failed, or the cluster goes
    /// on without it.
    pub async fn failed(&self) -> Failed {
        match future::select(pin!(self.disk_failed()), pin!(self.inner.editor.follower.ended())).await {
            Either::Left((reason, _)) => Failed::Disk(reason),
            Either::Right((ended, _)) => Failed::Ended(ended),
        }
    }

    /// Hands over what it leads and tells the others that it goes, so that nobody has to
    /// notice. What it was asked to keep is on disk already.
    pub async fn stop(&self) {
        self.inner.records.hand_over(HAND_OVER_TIME).await;
        if let Some(overlay) = &self.inner.overlay {
            overlay.leave().await;
        }
        self.inner.membership.leave().await;
    }

    /// The last thing a node that is stopped does: what is open on disk is closed, which
    /// spares the next start some work.
    pub async fn close(&self) {
        self.inner.records.checkpoint().await;
    }
}

/// How often a node asks for the cluster's version while that is lower than its program's:
/// an upgrade takes minutes.
const VERSION_ASKED_EVERY: Duration = Duration::from_secs(5);
const _: () = assert!(VERSION_ASKED_EVERY.as_millis() < VERSION_HEARD_WITHIN.as_millis());

/// Tells the cluster's version to those who write what older programs do not know, until it
/// is the program's own; and ends a node whose program is older: it was set back after the
/// others had gone on, and may meet what it does not understand.
async fn follow_version(
    runtime: Runtime,
    truths: Truths,
    follower: Arc<LayoutFollower>,
    access: Access,
    program: u32,
    heard: watch::Sender<u32>,
) {
    loop {
        let Ok(info) = truths.info(runtime.now() + FOUNDING_TIME).await else {
            // Without a quorum nobody knows; asking took its time.
            runtime.sleep(Duration::from_secs(1)).await;
            continue;
        };
        if info.version > program {
            follower.end(Ended::ProgramTooOld { needed: info.version, program });
            return;
        }
        heard.send_replace(info.version);
        let mut converted = true;
        if info.version >= USERS_SINCE {
            access.allow_acts();
            converted = access.convert(runtime.now() + FOUNDING_TIME).await.is_ok();
        }
        if info.version == program && converted {
            return;
        }
        runtime.sleep(VERSION_ASKED_EVERY).await;
    }
}

/// An election takes about a second; longer than this, and the others elect by themselves.
const HAND_OVER_TIME: Duration = Duration::from_secs(3);

/// Three of them may be down and the ticket still works; more make it long to paste.
const ISSUERS_MAX: usize = 4;

fn draw_root_key(runtime: &Runtime) -> RootKey {
    let mut rng = runtime.rng();
    let access_key: [u8; 10] = rng.random();
    RootKey {
        access_key: data_encoding::BASE32_NOPAD.encode(&access_key),
        secret_key: Secret::generate(&mut rng).expose().into(),
    }
}

/// The founder's replicas are the only ones that begin with a membership of their own.
async fn found_replicas(records: &Records, layout: &Layout, me: NodeId) -> Result<(), StartError> {
    for (shard, replica) in layout.replicas_on(&me) {
        let founder = ReplicaAddress { replica: replica.id, node: me };
        records.create_replica(shard, replica.id, Some(vec![founder])).await?;
    }
    Ok(())
}

/// Gathers what this node says of itself.
pub struct NodeReporter {
    me: NodeId,
    runtime: Runtime,
    info: NodeInfo,
    follower: Arc<LayoutFollower>,
    records: Records,
    maintenance: Arc<Maintenance>,
    chunks: ChunkStore,
    link: Arc<Link>,
    speed: Mutex<Speed>,
    /// Replicas that were seen to have forgotten something.
    forgotten: Mutex<BTreeSet<ReplicaId>>,
}

/// What a slot that arrives here will bring, about: as much as those that are here have.
fn slot_bytes(here: &SlotsOf, live_bytes: u64) -> u64 {
    live_bytes / (here.current.len() as u64).max(1)
}

/// How fast bytes move, from one report to the next.
#[derive(Default)]
struct Speed {
    measured: Instant,
    bytes_moved: u64,
    bytes_per_second: u64,
}

/// Reports come twice a second and on demand; a speed over less than this is noise.
const SPEED_OVER: Duration = Duration::from_secs(1);

impl Speed {
    fn now(&mut self, now: Instant, bytes_moved: u64) -> u64 {
        let passed = now.saturating_since(self.measured);
        if passed >= SPEED_OVER {
            let bytes = bytes_moved.saturating_sub(self.bytes_moved);
            let bytes_per_second = (bytes as f64 / passed.as_secs_f64()) as u64;
            *self = Speed { measured: now, bytes_moved, bytes_per_second };
        }
        self.bytes_per_second
    }
}

impl NodeReporter {
    /// A disk that has forgotten of its replicas (one set back to an old image, rule 4) may
    /// lack chunks too that the layout believes here.
    fn note_forgotten(&self, forgotten: &[ReplicaId]) {
        let mut known = self.forgotten.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.len();
        known.extend(forgotten);
        if known.len() > before {
            self.maintenance.walk_soon();
        }
    }
}

#[async_trait]
impl Reporter for NodeReporter {
    async fn report(&self) -> NodeReport {
        let layout = self.follower.current();
        let usage = self.chunks.usage();
        let keeping = self.maintenance.status();
        let now = self.runtime.now();
        let (slots_moved, slots_released) = self.link.pending(&layout);
        let replicas = self.records.status().await;
        let led: Vec<&ReplicaStatus> =
            replicas.iter().filter(|replica| replica.role == Role::Leader).collect();
        let shards_changed = led
            .iter()
            .filter_map(|shard| {
                let target = layout.shards().get(&shard.shard)?.target.as_ref()?;
                has_reached(shard, target).then(|| (shard.shard, target.clone()))
            })
            .collect();
        let forgotten = replicas.iter().filter(|replica| matches!(replica.role, Role::Forgotten { .. }));
        let forgotten: Vec<ReplicaId> = forgotten.map(|replica| replica.replica).collect();
        self.note_forgotten(&forgotten);
        NodeReport {
            info: self.info.clone(),
            layout_version: layout.version(),
            wall_time: self.runtime.wall_now(),
            stored: ByteSize(usage.live_bytes),
            chunks: usage.chunks,
            slots_moved,
            slots_released,
            shards_changed,
            shards_led: led.iter().map(|shard| shard.shard).collect(),
            lost_replicas: forgotten,
            copies_missing: keeping.copies_missing,
            bytes_to_move: keeping.slots_arriving * slot_bytes(&layout.slots_of(&self.me), usage.live_bytes),
            bytes_per_second: self
                .speed
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .now(now, keeping.bytes_moved),
        }
    }
}
