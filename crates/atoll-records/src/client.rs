//! Finding a shard's leader, and trying again until the deadline. A command is retried
//! under its own id, so however often it arrives it takes effect once (rule 2).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use atoll_disk::{OrderedStore, StoreError};
use atoll_runtime::{Broken, Runtime, is_broken, watch};
use atoll_transport::{CallError, Caller, Handler, Message, Protocol, Refusal, Transport};
use atoll_types::{Format, Instant, NodeId, Revision, ShardId, TransactionId};
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::{
    Executed, Procedures, RecordsError, ShardMap,
    driver::{Directory, Feedback, Input},
    group::{Proposal, ReplicaShared},
    metrics::Metrics,
    reads::Permit,
    snapshot::{Snapshots, view_of},
    state::{Descriptor, Meta},
    view::{ShardView, StateView},
    watch::News,
    wire::{Answer, Call},
};

/// No operation is retried for longer, whatever deadline it came with.
pub(crate) const DEADLINE_MAX: Duration = Duration::from_secs(60);
/// A command's input, with room for the rest of its entry under 1 MiB (rule 11).
pub(crate) const INPUT_BYTES_MAX: usize = (1 << 20) - 1024;
/// How long one node is waited for before another is asked. 2 s: an answer takes a flush
/// on two nodes, some ms; a node that died without a word costs this once.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(2);
/// Between tries when nobody leads: an election takes 1 to 2 s.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// What one try at one replica brought.
#[derive(Debug)]
pub(crate) enum Outcome<T> {
    Done(T),
    /// Nothing happened.
    NotLeader {
        leader: Option<NodeId>,
    },
    /// It may or may not happen.
    Unknown,
    /// Nothing happened, and never will.
    Invalid {
        reason: String,
    },
}

pub(crate) struct Client {
    pub runtime: Runtime,
    pub transport: Arc<dyn Transport>,
    pub store: Arc<dyn OrderedStore>,
    pub procedures: Arc<Procedures>,
    pub map: watch::Receiver<Arc<ShardMap>>,
    pub directory: Directory,
    pub inbox: mpsc::Sender<Input>,
    /// Who led when last heard.
    pub leaders: Mutex<BTreeMap<ShardId, NodeId>>,
    pub metrics: Arc<Metrics>,
    /// To the driver, which hears of what can't be read.
    pub feedback: mpsc::UnboundedSender<Feedback>,
}

/// What is tried at each candidate.
#[derive(Clone)]
enum Request {
    Execute {
        id: TransactionId,
        command: &'static str,
        input: Bytes,
    },
    Query {
        query: &'static str,
        input: Bytes,
    },
    /// Its output is [`News`].
    Watch {
        prefix: Bytes,
        since: Revision,
    },
}

/// What either brings: a query's output is an `Executed` of which only the output counts.
type Response = Executed;

impl Client {
    pub async fn execute(
        &self,
        shard: ShardId,
        id: TransactionId,
        command: &str,
        input: Bytes,
        deadline: Instant,
    ) -> Result<Executed, RecordsError> {
        let command = self.command(command, &input).map_err(|reason| RecordsError::Invalid { reason })?;
        self.until_done(shard, Request::Execute { id, command, input }, deadline).await
    }

    pub async fn query(
        &self,
        shard: ShardId,
        query: &str,
        input: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, RecordsError> {
        let query = self.find_query(query).map_err(|reason| RecordsError::Invalid { reason })?;
        Ok(self.until_done(shard, Request::Query { query, input }, deadline).await?.output)
    }

    pub async fn news(
        &self,
        shard: ShardId,
        prefix: Bytes,
        since: Revision,
        deadline: Instant,
    ) -> Result<News, RecordsError> {
        let response = self.until_done(shard, Request::Watch { prefix, since }, deadline).await?;
        News::decode(&response.output).map_err(|error| RecordsError::Invalid { reason: error.to_string() })
    }

    /// The shards that a replica here leads, in which term.
    pub fn led_here(&self) -> Vec<(ShardId, u64, Arc<ReplicaShared>)> {
        let directory = self.directory.lock().expect("nobody panics holding it");
        let led = directory.iter().filter(|(_, local)| local.leads);
        led.map(|(shard, local)| (*shard, local.term, local.replica.clone())).collect()
    }

    fn command(&self, name: &str, input: &Bytes) -> Result<&'static str, String> {
        if input.len() > INPUT_BYTES_MAX {
            return Err(format!("an input of {} bytes is over the limit of {INPUT_BYTES_MAX}", input.len()));
        }
        let known = self.procedures.commands.get_key_value(name);
        known.map(|(name, _)| *name).ok_or_else(|| format!("command {name:?} is not known here"))
    }

    fn find_query(&self, name: &str) -> Result<&'static str, String> {
        let known = self.procedures.queries.get_key_value(name);
        known.map(|(name, _)| *name).ok_or_else(|| format!("query {name:?} is not known here"))
    }

    async fn until_done(
        &self,
        shard: ShardId,
        mut request: Request,
        deadline: Instant,
    ) -> Result<Response, RecordsError> {
        let deadline = deadline.min(self.runtime.now() + DEADLINE_MAX);
        self.metrics.operations.add(1);
        let mut pause = PAUSE_MIN;
        // Which of the map's replicas to ask when nobody is known to lead.
        let mut turn = 0;
        let mut hint = None;
        loop {
            let remaining = deadline - self.runtime.now();
            if remaining.is_zero() {
                self.metrics.operations_unavailable.add(1);
                return Err(RecordsError::Unavailable { shard });
            }
            let Some(node) = self.candidate(shard, hint.take(), &mut turn) else {
                return Err(RecordsError::UnknownShard { shard });
            };
            let outcome = if node == self.transport.node_id() {
                self.try_here(shard, request.clone(), deadline).await
            } else {
                self.try_there(node, shard, &request, remaining.min(ATTEMPT_LIMIT)).await
            };
            match outcome {
                Outcome::Done(response) => {
                    self.note_leader(shard, Some(node));
                    return Ok(response);
                }
                Outcome::Invalid { reason } => return Err(RecordsError::Invalid { reason }),
                Outcome::NotLeader { leader } => {
                    let known = self.note_leader(shard, None);
                    // Ask whom it named, unless it named itself or who just refused.
                    hint = leader.filter(|leader| *leader != node && Some(*leader) != known);
                }
                Outcome::Unknown => {
                    self.note_leader(shard, None);
                }
            }
            self.metrics.retries.add(1);
            if is_broken(Broken::RetryAsAnother)
                && let Request::Execute { id, .. } = &mut request
            {
                *id = self.runtime.transaction_id();
            }
            if hint.is_none() {
                self.runtime.sleep(pause.min(deadline - self.runtime.now())).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }

    /// Remembers who leads, or that whoever did does not answer; returns who was
    /// remembered before.
    fn note_leader(&self, shard: ShardId, leader: Option<NodeId>) -> Option<NodeId> {
        let mut leaders = self.leaders.lock().expect("nobody panics holding it");
        match leader {
            Some(leader) => leaders.insert(shard, leader),
            None => leaders.remove(&shard),
        }
    }

    /// Whom to ask: the named one, who is known to lead, or the replicas in turn.
    fn candidate(&self, shard: ShardId, hint: Option<NodeId>, turn: &mut usize) -> Option<NodeId> {
        if hint.is_some() {
            return hint;
        }
        let here = self.transport.node_id();
        let local = self.directory.lock().expect("nobody panics holding it").get(&shard).cloned();
        if let Some(local) = &local {
            if local.leads {
                return Some(here);
            }
            if let Some(leader) = local.leader
                && *turn == 0
            {
                *turn += 1;
                return Some(leader);
            }
        }
        if let Some(leader) = self.leaders.lock().expect("nobody panics holding it").get(&shard) {
            return Some(*leader);
        }
        let map = self.map.borrow().clone();
        let replicas = map.shards.get(&shard);
        let voters = replicas.map_or(&[][..], |replicas| &replicas.voters);
        let others: Vec<NodeId> =
            voters.iter().map(|voter| voter.node).filter(|node| *node != here).collect();
        let asked = *turn;
        *turn += 1;
        match (others.len(), local) {
            (0, None) => voters.iter().any(|voter| voter.node == here).then_some(here),
            (0, Some(_)) => Some(here),
            // A local replica knows of an election's end first.
            (count, Some(_)) => Some(if asked % 2 == 1 { here } else { others[asked / 2 % count] }),
            (count, None) => Some(others[asked % count]),
        }
    }

    async fn try_here(&self, shard: ShardId, request: Request, deadline: Instant) -> Outcome<Response> {
        match request {
            Request::Execute { id, command, input } => {
                let (reply, outcome) = oneshot::channel();
                let proposal = Proposal { id, command, input, reply };
                if self.inbox.send(Input::Propose { shard, proposal }).await.is_err() {
                    return Outcome::NotLeader { leader: None };
                }
                match self.runtime.timeout_at(deadline, outcome).await {
                    Ok(Ok(outcome)) => outcome,
                    Ok(Err(_)) | Err(_) => Outcome::Unknown,
                }
            }
            Request::Query { query, input } => match self.ask_permit(shard, deadline).await {
                Outcome::Done(permit) => self.read(permit, query, input, deadline).await,
                Outcome::NotLeader { leader } => Outcome::NotLeader { leader },
                Outcome::Unknown => Outcome::Unknown,
                Outcome::Invalid { reason } => Outcome::Invalid { reason },
            },
            Request::Watch { prefix, since } => match self.news_here(shard, prefix, since, deadline).await {
                Some(news) => {
                    let output = news.encode().into();
                    Outcome::Done(Executed { revision: Revision(0), committed: false, output })
                }
                None => Outcome::NotLeader { leader: self.leader_of(shard) },
            },
        }
    }

    fn leader_of(&self, shard: ShardId) -> Option<NodeId> {
        self.directory.lock().expect("nobody panics holding it").get(&shard)?.leader
    }

    /// Permission to read what is here, if it leads.
    pub async fn permit(&self, shard: ShardId, deadline: Instant) -> Option<Permit> {
        match self.ask_permit(shard, deadline).await {
            Outcome::Done(permit) => Some(permit),
            Outcome::NotLeader { .. } | Outcome::Unknown | Outcome::Invalid { .. } => None,
        }
    }

    async fn ask_permit(&self, shard: ShardId, deadline: Instant) -> Outcome<Permit> {
        let (reply, outcome) = oneshot::channel();
        if self.inbox.send(Input::Read { shard, reply }).await.is_err() {
            return Outcome::NotLeader { leader: None };
        }
        match self.runtime.timeout_at(deadline, outcome).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) | Err(_) => Outcome::Unknown,
        }
    }

    /// Runs a query on the local state, once that has applied what the permit names.
    async fn read(
        &self,
        permit: Permit,
        query: &'static str,
        input: Bytes,
        deadline: Instant,
    ) -> Outcome<Response> {
        let mut applied = permit.replica.applied.subscribe();
        let any = is_broken(Broken::ReadBeforeApplied);
        let reached = applied.wait_for(|applied| any || *applied >= permit.index);
        if !matches!(self.runtime.timeout_at(deadline, reached).await, Ok(Ok(_))) {
            return Outcome::Unknown;
        }
        let query = self.procedures.queries[query].clone();
        let result = self
            .state(permit.replica.clone(), move |view, _| Ok((view.revision, query.run(view, &input)?)))
            .await;
        match result {
            Some((revision, output)) => {
                Outcome::Done(Executed { revision, committed: false, output: output.into() })
            }
            None => Outcome::NotLeader { leader: None },
        }
    }

    /// The state of the replica that is here, if it leads: with every write acknowledged
    /// before the call.
    pub async fn view(&self, shard: ShardId, deadline: Instant) -> Option<ShardView> {
        let permit = self.permit(shard, deadline).await?;
        let mut applied = permit.replica.applied.subscribe();
        let reached = applied.wait_for(|applied| *applied >= permit.index);
        if !matches!(self.runtime.timeout_at(deadline, reached).await, Ok(Ok(_))) {
            return None;
        }
        let (store, replica) = (self.store.clone(), permit.replica.replica);
        let found = self.runtime.blocking(move || view_of(&*store, shard, replica)).await;
        match found {
            Ok(found) => found.map(|(snapshot, place, meta)| ShardView {
                snapshot: snapshot.into(),
                place,
                revision: meta.applied,
            }),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a replica's state can't be used");
                if let Some(unreadable) = Feedback::unreadable(replica, &error, true) {
                    // The driver may be gone, and with it the replica.
                    let _ = self.feedback.send(unreadable);
                }
                None
            }
        }
    }

    /// Looks at a replica's newest state; `None` if it has none any more, or it can't be
    /// read, which ends the replica.
    pub async fn state<T: Send + 'static>(
        &self,
        replica: Arc<ReplicaShared>,
        look: impl FnOnce(&StateView<'_>, &Meta) -> Result<T, StoreError> + Send + 'static,
    ) -> Option<T> {
        let (store, id) = (self.store.clone(), replica.replica);
        let result = self
            .runtime
            .blocking(move || {
                let snapshot = store.snapshot()?;
                // The replica may have been removed, or filled anew.
                let Some(descriptor) = Descriptor::read(&*snapshot, replica.replica)? else {
                    return Ok(None);
                };
                let place = descriptor.place();
                let Some(meta) = Meta::read(&*snapshot, place)? else { return Ok(None) };
                let view = StateView { snapshot: &*snapshot, place, revision: meta.applied };
                look(&view, &meta).map(Some)
            })
            .await;
        result.unwrap_or_else(|error: StoreError| {
            tracing::error!(error = &error as &dyn std::error::Error, "a replica's state can't be used");
            if let Some(unreadable) = Feedback::unreadable(id, &error, true) {
                // The driver may be gone, and with it the replica.
                let _ = self.feedback.send(unreadable);
            }
            None
        })
    }

    async fn try_there(
        &self,
        node: NodeId,
        shard: ShardId,
        request: &Request,
        limit: Duration,
    ) -> Outcome<Response> {
        let limit_millis = limit.as_millis() as u64;
        let (call, body) = match request.clone() {
            Request::Execute { id, command, input } => {
                (Call::Execute { shard, id, command: command.into(), limit_millis }, input)
            }
            Request::Query { query, input } => {
                (Call::Query { shard, query: query.into(), limit_millis }, input)
            }
            Request::Watch { prefix, since } => {
                (Call::Watch { shard, prefix, since, limit_millis }, Bytes::new())
            }
        };
        let message = Message::with_body(call.encode(), body);
        let reply = match self.transport.call(node, Protocol::Records, message, limit).await {
            Ok(reply) => reply,
            Err(CallError::Unreachable { .. } | CallError::Refused(_)) => {
                return Outcome::NotLeader { leader: None };
            }
            Err(CallError::TimedOut { .. } | CallError::Disconnected { .. }) => return Outcome::Unknown,
            Err(error @ CallError::TooLarge { .. }) => return Outcome::Invalid { reason: error.to_string() },
        };
        match Answer::decode(&reply.header) {
            Ok(Answer::Executed { revision, committed }) => {
                Outcome::Done(Executed { revision, committed, output: reply.body })
            }
            Ok(Answer::Read) => {
                Outcome::Done(Executed { revision: Revision(0), committed: false, output: reply.body })
            }
            Ok(Answer::NotLeader { leader }) => Outcome::NotLeader { leader },
            Ok(Answer::Unknown) => Outcome::Unknown,
            Ok(Answer::Invalid { reason }) => Outcome::Invalid { reason },
            Err(error) => {
                tracing::warn!(?node, %error, "a peer's answer is malformed");
                Outcome::Unknown
            }
        }
    }

    /// Serves a peer's call with the replica that is here, and no other.
    async fn serve(&self, request: Message) -> Result<Message, Refusal> {
        let call = Call::decode(&request.header)
            .map_err(|error| Refusal { code: REFUSED_MALFORMED, reason: error.to_string() })?;
        let deadline_in = |millis: u64| self.runtime.now() + Duration::from_millis(millis).min(DEADLINE_MAX);
        let (outcome, reads) = match call {
            Call::Execute { shard, id, command, limit_millis } => {
                let outcome = match self.command(&command, &request.body) {
                    Ok(command) => {
                        let request = Request::Execute { id, command, input: request.body };
                        self.try_here(shard, request, deadline_in(limit_millis)).await
                    }
                    Err(reason) => Outcome::Invalid { reason },
                };
                (outcome, false)
            }
            Call::Query { shard, query, limit_millis } => {
                let outcome = match self.find_query(&query) {
                    Ok(query) => {
                        let request = Request::Query { query, input: request.body };
                        self.try_here(shard, request, deadline_in(limit_millis)).await
                    }
                    Err(reason) => Outcome::Invalid { reason },
                };
                (outcome, true)
            }
            Call::Watch { shard, prefix, since, limit_millis } => {
                let request = Request::Watch { prefix, since };
                (self.try_here(shard, request, deadline_in(limit_millis)).await, true)
            }
        };
        let (answer, body) = match outcome {
            Outcome::Done(executed) if reads => (Answer::Read, executed.output),
            Outcome::Done(Executed { revision, committed, output }) => {
                (Answer::Executed { revision, committed }, output)
            }
            Outcome::NotLeader { leader } => (Answer::NotLeader { leader }, Bytes::new()),
            Outcome::Unknown => (Answer::Unknown, Bytes::new()),
            Outcome::Invalid { reason } => (Answer::Invalid { reason }, Bytes::new()),
        };
        Ok(Message::with_body(answer.encode(), body))
    }
}

const REFUSED_MALFORMED: u16 = 1;

/// Serves `Protocol::Records`.
pub(crate) struct RecordsHandler(pub Arc<Client>);

#[async_trait]
impl Handler for RecordsHandler {
    async fn call(&self, _from: Caller, request: Message) -> Result<Message, Refusal> {
        self.0.serve(request).await
    }
}

/// Serves `Protocol::Raft`: messages to the driver, pulls from the store.
pub(crate) struct RaftHandler {
    pub inbox: mpsc::Sender<Input>,
    pub snapshots: Arc<Snapshots>,
}

#[async_trait]
impl Handler for RaftHandler {
    async fn call(&self, from: Caller, request: Message) -> Result<Message, Refusal> {
        self.snapshots.serve(&from, &request).await
    }

    fn datagram(&self, from: &Caller, payload: Bytes) {
        // A full inbox loses the frame, as the network might: Raft sends again.
        let _ = self.inbox.try_send(Input::Frame { from: from.node, payload });
    }
}
