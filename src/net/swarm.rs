//! The task that drives the swarm. It decides nothing that takes time: what must be computed runs elsewhere.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use futures::StreamExt;
use libp2p::core::transport::{ListenerId, TransportError};
use libp2p::swarm::{ConnectionId, SwarmEvent};
use libp2p::{Multiaddr, Swarm, kad};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};

use super::address::{tcp_socket, to_libp2p};
use super::behaviour::Behaviour;
use super::calling::Call;
use super::dial::{Attempt, root_cause, transport_reason};
use super::finding::Search;
use super::handle::Shared;
use super::lane::{Lane, Lanes, Places, Waiting, WaitingRoom};
use super::meter::Meter;
use super::peers::{Claim, Pace, Record, Table, Word};
use super::readers::Readers;
use super::slots::Slot;
use super::{NetError, NetEvent, Server};
use crate::base::{Moment, PeerId, limit, random_bytes};
use crate::crypto::{NodeKey, Secret};

/// Something to do on the swarm's task.
pub(super) type Act = Box<dyn FnOnce(&mut Node) + Send>;

/// Where to tell the addresses of a peer that was searched for.
pub(super) type Found = oneshot::Sender<Vec<Multiaddr>>;

/// How often timers are looked at.
const TICK: Duration = Duration::from_millis(100);
/// How often memory that is no longer needed is given back.
const PRUNE: Duration = Duration::from_secs(30);

/// The swarm and everything that only its task touches.
pub(super) struct Node {
    pub(super) me: PeerId,
    pub(super) swarm: Swarm<Behaviour>,
    pub(super) shared: Arc<Shared>,
    pub(super) dials: HashMap<PeerId, Attempt>,
    pub(super) server: Arc<dyn Server>,
    pub(super) events: mpsc::Sender<NetEvent>,
    pub(super) lanes: Lanes,
    pub(super) readers: Readers,
    /// When the door last answered a peer, for as long as that matters.
    pub(super) door_answered: HashMap<PeerId, Instant>,
    /// Connections that somebody waits to see closed.
    pub(super) partings: Vec<(HashSet<ConnectionId>, oneshot::Sender<()>)>,
    pub(super) served: Arc<Places>,
    pub(super) waiting: WaitingRoom,
    pub(super) meter: Arc<Meter>,
    pub(super) serving: JoinSet<Option<Act>>,
    pub(super) finds: HashMap<kad::QueryId, Search>,
    pub(super) calls: HashMap<ConnectionId, Call>,
    /// Signs what this node says of itself.
    pub(super) key: NodeKey,
    /// Number of what it said last about where it is, and whether that is still true.
    pub(super) said: u64,
    pub(super) moved: bool,
    told: Instant,
    /// A member came that may know where others are.
    pub(super) met: bool,
    /// Asks the router for open ports, if it is to be asked.
    pub(super) asking: Option<AbortOnDropHandle<()>>,
    pub(super) listeners: HashMap<ListenerId, Multiaddr>,
    /// Members that this node is, or asked to be, reachable through.
    pub(super) relays: HashMap<ListenerId, PeerId>,
    stopping: Option<oneshot::Sender<()>>,
    pruned: Instant,
    searched: Instant,
}

impl Node {
    pub(super) fn new(
        swarm: Swarm<Behaviour>,
        shared: Arc<Shared>,
        server: Arc<dyn Server>,
        events: mpsc::Sender<NetEvent>,
    ) -> Self {
        let config = &shared.config;
        Self {
            me: shared.me,
            swarm,
            meter: Arc::new(Meter::new(&config.limits)),
            dials: HashMap::new(),
            server,
            events,
            lanes: Lanes::default(),
            readers: Readers::default(),
            door_answered: HashMap::new(),
            partings: Vec::new(),
            served: Arc::new(Places::served()),
            waiting: WaitingRoom::default(),
            serving: JoinSet::new(),
            finds: HashMap::new(),
            calls: HashMap::new(),
            key: NodeKey::from_seed(&Secret::new(*config.node_key)),
            said: 0,
            moved: false,
            told: Instant::now(),
            met: false,
            asking: None,
            listeners: HashMap::new(),
            relays: HashMap::new(),
            stopping: None,
            pruned: Instant::now(),
            searched: Instant::now(),
            shared,
        }
    }

    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.shared.table()
    }

    // ---- Start and end -----------------------------------------------------------------------------------

    /// Listens everywhere, and waits until every listener has an address.
    pub(super) async fn listen(
        &mut self,
        listen: Vec<Multiaddr>,
        announce: Vec<Multiaddr>,
    ) -> Result<(), NetError> {
        for address in listen {
            // libp2p sets SO_REUSEPORT to dial from the port it listens on, so two nodes of one user could
            // share a port without an error. A plain bind tells.
            if let Some(socket) = tcp_socket(&address) {
                std::net::TcpListener::bind(socket).map_err(|e| cannot_listen(&address, &e))?;
            }
            let id = self.swarm.listen_on(address.clone()).map_err(|e| match &e {
                TransportError::Other(e) => cannot_listen(&address, e),
                TransportError::MultiaddrNotSupported(_) => NetError::Listen {
                    address: address.to_string(),
                    reason: transport_reason(&e),
                    taken: false,
                },
            })?;
            self.listeners.insert(id, address);
        }
        for address in announce {
            self.swarm.add_external_address(address);
        }
        let deadline = tokio::time::Instant::now() + limit::LISTEN_READY;
        let mut silent: Vec<_> = self.listeners.keys().copied().collect();
        while !silent.is_empty() {
            let Ok(event) = timeout_at(deadline, self.swarm.select_next_some()).await else {
                // No interface has an address yet; it may get one.
                warn!(target: "net", listeners = silent.len(), "no address to listen on yet");
                return Ok(());
            };
            match &event {
                SwarmEvent::NewListenAddr { listener_id, .. } => silent.retain(|id| id != listener_id),
                SwarmEvent::ListenerClosed { listener_id, reason: Err(error), .. }
                | SwarmEvent::ListenerError { listener_id, error } => {
                    if let Some(address) = self.listeners.get(listener_id) {
                        return Err(cannot_listen(address, error));
                    }
                }
                _ => {}
            }
            self.on_event(event);
        }
        Ok(())
    }

    /// Runs until [`Net::shutdown`](super::Net::shutdown) or until every handle is gone.
    pub(super) async fn run(mut self, mut acts: mpsc::Receiver<Act>) {
        let mut changes = self.shared.members.watch();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.review_members();
        while self.stopping.is_none() {
            tokio::select! {
                act = acts.recv() => match act {
                    Some(act) => act(&mut self),
                    None => break,
                },
                event = self.swarm.select_next_some() => self.on_event(event),
                Some(done) = self.serving.join_next(), if !self.serving.is_empty() => match done {
                    Ok(Some(answer)) => answer(&mut self),
                    Ok(None) => {}
                    Err(error) => warn!(target: "net", %error, "answering a request failed"),
                },
                // The sender lives in `members`, which `shared` holds.
                _ = changes.changed() => self.review_members(),
                _ = ticks.tick() => self.tick(),
            }
        }
        self.close(acts).await;
    }

    pub(super) fn stop(&mut self, ended: oneshot::Sender<()>) {
        self.stopping = Some(ended);
    }

    async fn close(mut self, acts: mpsc::Receiver<Act>) {
        // Dropping what callers wait on tells them that the network has stopped.
        drop(acts);
        self.lanes = Lanes::default();
        self.dials.clear();
        self.finds.clear();
        self.calls.clear();
        self.serving.abort_all();
        let relays = std::mem::take(&mut self.relays).into_keys();
        for id in std::mem::take(&mut self.listeners).into_keys().chain(relays) {
            self.swarm.remove_listener(id);
        }
        let open: Vec<_> = self.swarm.behaviour().admission.all().map(|(id, _)| id).collect();
        open.into_iter().for_each(|id| {
            self.swarm.close_connection(id);
        });
        let closed = async {
            while self.swarm.behaviour().admission.all().next().is_some() {
                self.swarm.select_next_some().await;
            }
        };
        if timeout(limit::NET_SHUTDOWN, closed).await.is_err() {
            debug!(target: "net", "some connections did not close in time");
        }
        {
            let mut table = self.table();
            table.listening.clear();
            table.records.values_mut().for_each(Record::end);
        }
        let ended = self.stopping.take();
        drop(self);
        if let Some(ended) = ended {
            let _ = ended.send(());
        }
    }

    // ---- What callers ask --------------------------------------------------------------------------------

    /// Whether a request can be sent without dialling first.
    pub(super) fn is_usable(&self, peer: PeerId) -> bool {
        let member = self.shared.members.allows(&peer);
        let table = self.table();
        table.records.get(&peer).is_some_and(|r| r.links.values().any(|l| l.member == member))
    }

    pub(super) fn add_address(&mut self, peer: PeerId, address: Multiaddr) {
        {
            let mut table = self.table();
            if !table.has_room_for(peer, &self.shared.members) {
                return;
            }
            let record = table.record(peer);
            record.learn(address, Word::Given);
            record.hurry();
        }
        self.dial(peer, Vec::new(), None);
    }

    /// Remembers what the peer claimed in an earlier run of the program.
    pub(super) fn recall(&mut self, peer: PeerId, claims: Vec<(Multiaddr, Claim, Option<Moment>)>) {
        let mut table = self.table();
        if table.has_room_for(peer, &self.shared.members) {
            let record = table.record(peer);
            claims.into_iter().for_each(|(address, claim, good)| record.recall(address, claim, good));
        }
    }

    pub(super) fn forget(&mut self, peer: PeerId) {
        if let Some(record) = self.table().records.get_mut(&peer) {
            record.forget_addresses();
        }
        self.swarm.behaviour_mut().kad().remove_peer(&to_libp2p(peer));
        self.disconnect(peer);
        self.table().prune(&self.shared.members);
    }

    pub(super) fn disconnect(&mut self, peer: PeerId) {
        self.close_where(|a| a.peer == peer);
    }

    /// Sends a request over a connection that is there.
    pub(super) fn send<P: Lane>(
        &mut self,
        peer: PeerId,
        request: P::Request,
        slot: Slot,
        reply: oneshot::Sender<Result<P::Response, NetError>>,
    ) {
        if reply.is_closed() {
            return;
        }
        let behaviour = P::behaviour(self.swarm.behaviour_mut());
        let to = to_libp2p(peer);
        if !behaviour.is_connected(&to) {
            // libp2p would dial by itself, and keep the request for ever if the peer is connected as a stranger.
            let reason = "it was closed before the request was sent".to_owned();
            let _ = reply.send(Err(NetError::Broken { peer, reason }));
            return;
        }
        let id = behaviour.send_request(&to, Ok(request));
        P::traffic(&mut self.lanes).out.insert(id, Waiting { peer, reply, slot });
    }

    pub(super) fn find(&mut self, peer: PeerId, reply: Found) {
        self.search(peer, Some(reply));
    }

    // ---- Timers ------------------------------------------------------------------------------------------

    fn tick(&mut self) {
        let now = Instant::now();
        self.dial_later(now);
        self.dial_lost_members(now);
        for id in self.swarm.behaviour().admission.overstayed(limit::STRANGER_LIFE) {
            self.swarm.close_connection(id);
        }
        self.part_with_admitted();
        self.part_with_relays(now);
        self.part_with_slow(now);
        if self.moved && now.duration_since(self.told) >= limit::WHEREABOUTS_PAUSE {
            self.told = now;
            self.tell_all();
        }
        let interval = self.shared.config.discovery_interval;
        let pause = if self.met { interval.min(limit::SEARCH_PAUSE) } else { interval };
        if now.duration_since(self.searched) >= pause {
            self.searched = now;
            self.met = false;
            self.search_lost_members();
        }
        if now.duration_since(self.pruned) >= PRUNE {
            self.pruned = now;
            self.meter.prune();
            self.served.prune();
            self.waiting.prune();
            self.shared.outgoing.prune();
            self.table().prune(&self.shared.members);
            self.forget_whereabouts();
        }
    }

    fn part_with_slow(&mut self, now: Instant) {
        let (awaited, crowded) = (self.lanes.awaited(), self.served.is_crowded());
        for peer in self.readers.slow(now, &awaited, crowded) {
            warn!(target: "net", %peer, "disconnected: it does not take what it asked for, and others wait");
            self.served.restrict(peer);
            self.disconnect(peer);
        }
    }

    fn part_with_relays(&mut self, now: Instant) {
        let needless: Vec<_> =
            self.table().records.values().flat_map(|record| record.needless(now)).collect();
        needless.into_iter().for_each(|id| {
            self.swarm.close_connection(id);
        });
    }

    fn dial_lost_members(&mut self, now: Instant) {
        let free = limit::DIALS_MAX.saturating_sub(self.dials.len());
        if free == 0 {
            return;
        }
        let due: Vec<PeerId> = {
            let table = self.table();
            let is_due = |(id, record): &(&PeerId, &Record)| {
                record.is_due(now) && self.shared.members.allows(id) && !self.dials.contains_key(id)
            };
            table.records.iter().filter(is_due).map(|(id, _)| *id).take(free).collect()
        };
        due.into_iter().for_each(|peer| self.dial(peer, Vec::new(), None));
    }

    fn search_lost_members(&mut self) {
        let members = self.shared.members.all();
        let lost: Vec<PeerId> =
            members.into_iter().filter(|p| *p != self.me && !self.is_usable(*p)).collect();
        lost.into_iter().take(limit::FINDS_MAX / 2).for_each(|peer| self.search(peer, None));
    }

    pub(super) fn back_off(&mut self, peer: PeerId) {
        let config = &self.shared.config;
        let pace = Pace { first: config.reconnect_backoff, max: config.max_reconnect_backoff };
        let [jitter] = random_bytes::<1>();
        if let Some(record) = self.table().records.get_mut(&peer) {
            record.back_off(Instant::now(), pace, jitter);
        }
    }
}

fn cannot_listen(address: &Multiaddr, error: &std::io::Error) -> NetError {
    // QUIC's error is wrapped; the text of the innermost one is the same for both.
    let cause = root_cause(error);
    let taken = std::io::Error::from(rustix::io::Errno::ADDRINUSE).to_string() == cause;
    NetError::Listen { address: address.to_string(), reason: cause, taken }
}
