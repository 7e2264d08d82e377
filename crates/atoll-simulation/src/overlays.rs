//! Overlays of whole nodes: the driver that runs in production, on virtual time and simulated
//! links, without the rest of a node. Who is a member and who is alive is the world's to say.

mod rest;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use atoll_membership::{Member, MemberState, View};
use atoll_node::{NodeContact, OverlayParts, OverlaySettings, Overlays};
use atoll_overlay::{AuthorKey, Id, Located};
use atoll_placement::{Layout, LayoutNode, LayoutSettings, NodeState, ObservedMember, PlanSettings, plan};
use atoll_runtime::watch;
use atoll_transport::{Admission, Protocol, Transport, memory::LinkProfile};
use atoll_types::{ByteSize, DiskId, Generation, Instant, NodeId, OverlayKind, Role, Roles, Zone};

pub use self::rest::{places_at_rest, places_of};
use crate::{Network, NodeIndex, RunError, Schedule, Seed, Simulation};

/// Upkeep finds who is missing within some of its rounds of 2 to 5 s, even where datagrams are
/// lost.
const SETTLED: Duration = Duration::from_secs(60);
/// Who finds that nobody lets it in begins by itself.
const FOUNDED: Duration = Duration::from_secs(15);
/// Times that a network is given to settle. Small tables fill by what is looked up meanwhile,
/// and Kademlia looks something up in a bucket's range once a minute.
const SETTLES_MAX: usize = 5;
/// For one answer.
const PATIENCE: Duration = Duration::from_secs(30);

struct Everyone;

impl Admission for Everyone {
    fn admits(&self, _peer: &NodeId, _protocol: Protocol) -> bool {
        true
    }
}

/// A member, and its overlay in its present life.
pub struct OverlayMember {
    node: NodeIndex,
    pub id: NodeId,
    pub transport: Arc<dyn Transport>,
    pub overlays: Arc<Overlays>,
}

/// Members of one cluster, started together.
pub struct OverlayWorld {
    pub simulation: Simulation,
    network: Network,
    layout: watch::Sender<Arc<Layout>>,
    view: watch::Sender<Arc<View>>,
    author: fn(usize) -> AuthorKey,
    settings: OverlaySettings,
    pub members: Vec<OverlayMember>,
}

fn layout_node(number: usize) -> LayoutNode {
    LayoutNode {
        zone: Zone::default(),
        capacity: ByteSize(1 << 30),
        disk: DiskId(number as u64),
        roles: Roles::NONE.with(Role::Storage),
        state: NodeState::Active,
        addresses: Vec::new(),
    }
}

/// The same with one more, which votes nowhere.
fn admit(layout: Layout, id: NodeId) -> Layout {
    let number = layout.nodes().len();
    let admitted = layout.admit(id, layout_node(number));
    admitted.expect("nobody was removed").expect("each id is there once")
}

/// A layout that names all of them, of no kind that anybody chose, with the voters that it should
/// have.
fn layout(ids: &[NodeId]) -> Layout {
    let settings = LayoutSettings { data_shards: 1, ..Default::default() };
    let first = Layout::genesis(ids[0], layout_node(0), settings);
    let all = ids[1..].iter().copied().fold(first, admit);
    let observed = |(id, node): (&NodeId, &LayoutNode)| ObservedMember {
        node: *id,
        zone: node.zone.clone(),
        capacity: node.capacity,
        disk: node.disk,
        roles: node.roles,
        addresses: Vec::new(),
        unreachable_for: None,
        lost_replicas: BTreeSet::new(),
    };
    let observed: Vec<ObservedMember> = all.nodes().iter().map(observed).collect();
    plan(&all, &observed, &PlanSettings::default(), |_| ByteSize(0)).next
}

fn view(ids: &[NodeId], alive: impl Fn(usize) -> bool) -> View {
    let member = |number: usize| Member {
        node: ids[number],
        generation: Generation(1),
        state: if alive(number) { MemberState::Alive } else { MemberState::Dead },
        since: Instant::ORIGIN,
        info: None,
    };
    View { members: (0..ids.len()).map(|number| (ids[number], member(number))).collect() }
}

impl OverlayWorld {
    /// `ids` are at least one, and none is there twice; `author` signs what a member publishes.
    pub fn new(seed: Seed, links: LinkProfile, ids: &[NodeId], author: fn(usize) -> AuthorKey) -> Self {
        Self::with_settings(seed, links, ids, author, OverlaySettings::default())
    }

    /// The same with members that play as `settings` say.
    pub fn with_settings(
        seed: Seed,
        links: LinkProfile,
        ids: &[NodeId],
        author: fn(usize) -> AuthorKey,
        settings: OverlaySettings,
    ) -> Self {
        let simulation = Simulation::new(seed, Schedule::Shuffled);
        let network = Network::new(&simulation);
        network.links().set_all(links);
        let (layout, _) = watch::channel(Arc::new(layout(ids)));
        let (view, _) = watch::channel(Arc::new(view(ids, |_| true)));
        let mut world = Self { simulation, network, layout, view, author, settings, members: Vec::new() };
        world.add(ids);
        world
    }

    fn add(&mut self, ids: &[NodeId]) {
        for id in ids {
            let number = self.members.len();
            let node = self.simulation.add_node(format!("node {number}"));
            let member = self.start(number, *id, node);
            self.members.push(member);
        }
    }

    /// More members, together, after those that there are. Who votes stays as it is.
    pub fn admit(&mut self, ids: &[NodeId]) {
        let with_all = ids.iter().copied().fold((**self.layout.borrow()).clone(), admit);
        self.layout.send_replace(Arc::new(with_all));
        self.add(ids);
        self.tell_who_lives(|_| true);
    }

    fn start(&self, number: usize, id: NodeId, node: NodeIndex) -> OverlayMember {
        let runtime = self.simulation.node_runtime(node);
        let transport = self.network.memory().endpoint(id, runtime.clone());
        transport.set_admission(Arc::new(Everyone));
        let overlays = Arc::new(Overlays::start(OverlayParts {
            runtime,
            transport: transport.clone(),
            layout: self.layout.subscribe(),
            view: self.view.subscribe(),
            author: (self.author)(number),
            settings: self.settings.clone(),
        }));
        OverlayMember { node, id, transport, overlays }
    }

    /// Each member founds an overlay of its own, as its only super-peer; then they may meet.
    fn found_alone(&self) -> Result<(), RunError> {
        let links = self.network.links();
        let ids: Vec<NodeId> = self.members.iter().map(|member| member.id).collect();
        (1..ids.len()).for_each(|number| links.cut(&ids[..number], &ids[number..=number]));
        for founder in 0..ids.len() {
            self.tell_who_lives(|number| number == founder);
            self.simulation.run_for(FOUNDED)?;
        }
        links.heal_all();
        self.tell_who_lives(|_| true);
        Ok(())
    }

    /// Until all have found each other, and what they keep is where it belongs.
    pub fn settle(&self) -> Result<(), RunError> {
        self.simulation.run_for(SETTLED)
    }

    /// Whether all members' tables are as the ids say; of kinds of which they say nothing, always.
    fn is_at_rest(&self, kind: OverlayKind) -> Result<bool, RunError> {
        let ids: Vec<NodeId> = self.members.iter().map(|member| member.id).collect();
        for (number, id) in ids.iter().enumerate() {
            let Some(expected) = places_at_rest(kind, &self.settings, &ids, *id) else { continue };
            let shown = self.ask(number, |overlays| async move { overlays.show().await.ok() })?;
            if shown.is_none_or(|shown| rest::places(kind, &shown.tables) != expected) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Ends lives without a word; the others' membership sees it.
    pub fn kill(&self, members: &[usize]) {
        for index in members {
            self.simulation.faults().crash(self.members[*index].node);
            self.network.memory().stop(self.members[*index].id);
        }
        self.tell_who_lives(|number| !members.contains(&number));
    }

    /// Their next lives, which remember nothing.
    pub fn restart(&mut self, members: &[usize]) {
        for index in members {
            let OverlayMember { node, id, .. } = self.members[*index];
            self.members[*index] = self.start(*index, id, node);
        }
        self.tell_who_lives(|_| true);
    }

    fn tell_who_lives(&self, lives: impl Fn(usize) -> bool) {
        let ids: Vec<NodeId> = self.members.iter().map(|member| member.id).collect();
        self.view.send_replace(Arc::new(view(&ids, lives)));
    }

    /// The cluster chooses a kind.
    pub fn choose(&self, kind: OverlayKind) {
        let next = self.layout.borrow().with_overlay(kind);
        if let Some(next) = next {
            self.layout.send_replace(Arc::new(next));
        }
    }

    /// Asks one member something, and runs the world until it is answered.
    pub fn ask<T, F>(&self, member: usize, ask: impl FnOnce(Arc<Overlays>) -> F) -> Result<T, RunError>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        self.simulation.block_on(PATIENCE, ask(self.members[member].overlays.clone()))
    }
}

/// The lookups that members with these ids make in a calm network of one room: (who asks, key),
/// one after the other; `settings` are all members'. `centre` are those of them that a kind with a centre has in it; they are
/// there before the others. `None`: the overlay did not take the question.
pub fn overlay_lookups(
    seed: Seed,
    kind: OverlayKind,
    settings: &OverlaySettings,
    ids: &[NodeId],
    centre: &[NodeId],
    asked: &[(usize, Id)],
) -> Result<Vec<Option<Located<NodeContact>>>, RunError> {
    let author = |_| AuthorKey::from_seed([1; 32]);
    let (first, then): (Vec<NodeId>, Vec<NodeId>) =
        ids.iter().partition(|id| centre.is_empty() || centre.contains(id));
    let links = LinkProfile::local_network();
    let mut world = OverlayWorld::with_settings(seed, links, &first, author, settings.clone());
    world.choose(kind);
    if kind == OverlayKind::Hybrid && !centre.is_empty() {
        world.found_alone()?;
    }
    world.settle()?;
    if !then.is_empty() {
        world.admit(&then);
        world.settle()?;
    }
    for _ in 1..SETTLES_MAX {
        if world.is_at_rest(kind)? {
            break;
        }
        world.settle()?;
    }
    let member = |asker: usize| world.members.iter().position(|member| member.id == ids[asker]);
    let lookup = |(asker, key): &(usize, Id)| {
        let key = *key;
        let asker = member(*asker).expect("every id is a member's");
        world.ask(asker, |overlays| async move { overlays.locate(key).await.ok() })
    };
    asked.iter().map(lookup).collect()
}
