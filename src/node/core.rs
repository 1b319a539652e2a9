//! The state that all parts of a node share, and its life from open to shutdown.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::time::{Duration, Instant};

use futures::stream::FuturesUnordered;
use futures::{StreamExt, TryFutureExt};
use serde::Serialize;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use zeroize::Zeroizing;

use super::acl::{self, Acl};
use super::auditing::Auditing;
use super::caching::Caching;
use super::chains::OwnChain;
use super::clocks::Clocks;
use super::comparing::Comparing;
use super::desk::Desk;
use super::devices::{self, Knocks};
use super::disk::{self, Disk};
use super::door::Doors;
use super::ending::{Hook, Hooks};
use super::error::{failed, locked, no_network, panicked};
use super::events::Events;
use super::exposition::{self, Looks};
use super::holding::HoldQueue;
use super::inviting::Invites;
use super::jobs::Jobs;
use super::mending::{self, Mending};
use super::owning::Owning;
use super::presence::Waking;
use super::reach::{self, Reach};
use super::reload::Configured;
use super::resources::Resources;
use super::schedule::{self, Schedule};
use super::serve::Served;
use super::sharing::Sharing;
use super::source::Pulling;
use super::twins::Twins;
use super::upkeep::OnHold;
use super::{Mode, auditing, places, releasing, setup};
use crate::api::{ApiError, Happening};
use crate::base::{Clock, Code, Moment, PeerId, SystemClock, VaultId, limit, meter};
use crate::chunker::ChunkSizes;
use crate::config::{LocalCopy, Settings};
use crate::crypto::{NodeKey, Passphrase, Secret};
use crate::engine::{self, Vault, VaultOptions};
use crate::net::{AddressState, Claim, Limits, Members, Net, NetConfig, NetEvent};
use crate::policy::Misconduct;
use crate::store::{ClaimedAddress, PeerBook, PeerEntry, Store, StoreError, Word};

/// How long a starting daemon waits for the store's lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);
/// How long a short-lived node waits for peers that it knows.
const DIAL_PATIENCE: Duration = Duration::from_secs(5);
/// How much longer it waits for the others once it has reached one; they are still dialled while it works.
const DIAL_GRACE: Duration = Duration::from_secs(1);

/// When what ends: lower ones first.
pub(super) struct Priority;

impl Priority {
    pub(super) const WORK: u8 = 10;
    pub(super) const REQUESTS: u8 = 20;
    pub(super) const NETWORK: u8 = 30;
}

pub(super) struct Core {
    pub(super) settings: watch::Sender<Arc<Settings>>,
    pub(super) store: Arc<Store>,
    pub(super) disk: Disk,
    pub(super) key: NodeKey,
    pub(super) clock: Arc<dyn Clock>,
    vault_id: OnceLock<VaultId>,
    vault: RwLock<Option<Arc<Vault>>>,
    book: Mutex<PeerBook>,
    pub(super) members: Arc<Members>,
    net: OnceLock<Net>,
    pub(super) jobs: Jobs,
    pub(super) events: Arc<Events>,
    pub(super) resources: Resources,
    /// Places for listings, searches and comparisons.
    pub(super) readings: Arc<Semaphore>,
    /// Places for dumps.
    pub(super) dumps: Arc<Semaphore>,
    pub(super) hooks: Hooks,
    pub(super) looks: Looks,
    pub(super) on_hold: OnHold,
    pub(super) schedule: Schedule,
    /// Where the daemon can be asked over TCP, by what for.
    pub(super) listeners: Mutex<BTreeMap<String, String>>,
    /// Where the settings come from, in a node that can read them again.
    pub(super) configured: Mutex<Option<Configured>>,
    pub(super) started: Instant,
    pub(super) mode: Mode,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
    /// Wakes the owner's loop: a new head, a receipt, a peer.
    pub(super) changed: Notify,
    pub(super) owning: Owning,
    pub(super) own_chain: OwnChain,
    pub(super) sharing: Sharing,
    pub(super) comparing: Comparing,
    pub(super) twins: Twins,
    pub(super) holding: HoldQueue,
    pub(super) waking: Waking,
    pub(super) doors: Doors,
    pub(super) invites: Invites,
    pub(super) acl: Acl,
    pub(super) knocks: Knocks,
    /// Held while a revocation is kept.
    pub(super) revoking: Mutex<()>,
    /// Held while what is remembered of rounds over all packs is changed.
    pub(super) rounds: Mutex<()>,
    pub(super) mending: Mending,
    pub(super) caching: Caching,
    pub(super) auditing: Auditing,
    pub(super) reach: Reach,
    pub(super) clocks: Clocks,
    pub(super) pulling: Pulling,
    /// What serving peers keeps at hand.
    pub(super) served: Served,
    pub(super) desk: Desk,
    /// Wrong answers of each peer.
    misbehaved: Mutex<HashMap<PeerId, Misconduct>>,
}

impl Core {
    /// Opens the store and, with a passphrase, the vault. Blocking.
    pub(super) fn open(
        settings: Settings,
        passphrase: Option<Passphrase>,
        mode: Mode,
    ) -> Result<Arc<Self>, ApiError> {
        let store = Arc::new(open_store(&settings, passphrase.as_ref(), mode)?);
        places::remember(store.dir());
        Self::over(store, settings, passphrase, mode)
    }

    /// The same over a store that is open.
    pub(super) fn over(
        store: Arc<Store>,
        settings: Settings,
        passphrase: Option<Passphrase>,
        mode: Mode,
    ) -> Result<Arc<Self>, ApiError> {
        let seed = store.read_node_key().map_err(failed)?;
        let seed = seed.ok_or_else(|| failed(StoreError::DamagedFile("node.key".to_owned())))?;
        let key = NodeKey::from_seed(&Secret::new(seed));
        let vault_id = engine::own_vault(&store, key.peer_id()).map_err(failed)?;
        // What is not charged yet (there was no room to write that down) is looked for again at the next start.
        log_failure(engine::account(&store).map_err(failed), "charging what is kept for others");
        let book = store.read_peers().map_err(failed)?;
        let invites = Invites::load(&store)?;
        let acl = Acl::load(&store)?;
        let members = Arc::new(Members::new(book.allowed.iter().map(|entry| entry.peer)));
        let core = Arc::new(Self {
            key,
            store,
            disk: Disk::default(),
            clock: Arc::new(SystemClock),
            vault_id: OnceLock::new(),
            vault: RwLock::new(None),
            book: Mutex::new(book),
            members,
            net: OnceLock::new(),
            jobs: Jobs::default(),
            started: Instant::now(),
            mode,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            changed: Notify::new(),
            owning: Owning::default(),
            own_chain: OwnChain::default(),
            sharing: Sharing::default(),
            comparing: Comparing::default(),
            twins: Twins::default(),
            holding: HoldQueue::default(),
            waking: Waking::new(SystemClock.now()),
            doors: Doors::default(),
            invites,
            acl,
            knocks: Knocks::default(),
            revoking: Mutex::default(),
            rounds: Mutex::default(),
            mending: Mending::default(),
            caching: Caching::default(),
            auditing: Auditing::default(),
            reach: Reach::default(),
            clocks: Clocks::default(),
            pulling: Pulling::default(),
            served: Served::default(),
            desk: Desk::default(),
            misbehaved: Mutex::default(),
            events: Arc::new(Events::new(SystemClock.now())),
            resources: Resources::new(settings.storage.memory_limit),
            readings: Arc::new(Semaphore::new(limit::READINGS_MAX)),
            dumps: Arc::new(Semaphore::new(limit::DUMPS_MAX)),
            hooks: Hooks::default(),
            looks: Looks::default(),
            on_hold: OnHold::default(),
            schedule: Schedule::default(),
            listeners: Mutex::default(),
            configured: Mutex::default(),
            settings: watch::Sender::new(Arc::new(settings)),
        });
        // Before the vault is opened: tasks that failed for want of its keys hear of it.
        schedule::load(&core);
        if let Some(vault_id) = vault_id {
            let _ = core.vault_id.set(vault_id);
            if let Some(passphrase) = passphrase {
                core.unlock(&passphrase)?;
            }
        }
        core.store.limit_disk(core.settings().storage.disk_limit);
        if mode == Mode::Daemon {
            disk::attend(&core);
            core.comparing.begin(&core.store).map_err(failed)?;
            exposition::start();
            core.load_jobs();
            auditing::load(&core);
        }
        Ok(core)
    }

    /// Opens the vault's keys. Blocking: about 150 ms of key derivation.
    pub(super) fn unlock(&self, passphrase: &Passphrase) -> Result<(), ApiError> {
        let vault_id = self.vault_id().ok_or_else(|| locked(false))?;
        let keyring = engine::unlock(&self.store, passphrase).map_err(failed)?;
        if keyring.vault.vault != vault_id {
            return Err(failed(StoreError::DamagedFile("vault.id".to_owned())));
        }
        let options = vault_options(&self.settings())?;
        let vault = Vault::new(self.store.clone(), keyring, self.clock.clone(), options);
        *self.vault.write().expect("no panic while held") = Some(Arc::new(vault));
        self.tell(Happening::Unlocked);
        self.schedule.unlocked();
        self.changed.notify_one();
        Ok(())
    }

    /// The settings in force. Work that must not see them change asks once.
    pub(super) fn settings(&self) -> Arc<Settings> {
        self.settings.borrow().clone()
    }

    /// This node's vault, if it has one.
    pub(super) fn vault_id(&self) -> Option<VaultId> {
        self.vault_id.get().copied()
    }

    /// Opens the vault that this node has just become a device of. Blocking.
    pub(super) fn unlock_new(&self, passphrase: &Passphrase) -> Result<(), ApiError> {
        if let Some(vault_id) = self.store.read_vault_id().map_err(failed)? {
            let _ = self.vault_id.set(vault_id);
        }
        self.unlock(passphrase)
    }

    /// Starts the network and the loops, as the mode asks.
    pub(super) async fn start(self: Arc<Self>, mode: Mode) -> Result<(), ApiError> {
        if mode == Mode::Offline {
            return Ok(());
        }
        let settings = self.settings();
        let listen = match mode {
            Mode::Daemon => listen_addresses(&settings),
            _ => vec!["/ip4/0.0.0.0/tcp/0".to_owned()],
        };
        let config = net_config(&settings, &self.key, listen);
        let server = Arc::new(super::serve::Answers::new(&self));
        let (net, events) = Net::start(config, self.members.clone(), server).await.map_err(failed)?;
        let _ = self.net.set(net.clone());
        let book = self.book().clone();
        for entry in &book.allowed {
            recall(&net, entry).await;
        }
        for bootstrap in &settings.peer_bootstrap {
            let added = net.add_address(bootstrap.peer, bootstrap.address.as_str()).await;
            if let Err(error) = added {
                tracing::warn!(target: "peers", peer = %bootstrap.peer.short(), %error, "a bootstrap peer is not usable");
            }
        }
        self.tasks.spawn(self.clone().watch(events));
        if mode == Mode::Setup {
            return Ok(());
        }
        self.tasks.spawn(self.clone().own_loop());
        self.tasks.spawn(devices::knock_loop(self.clone()));
        if mode == Mode::Daemon {
            self.tasks.spawn(disk::run_loop(self.clone()));
            self.tasks.spawn(self.clone().hold_loop());
            self.tasks.spawn(self.clone().hold_upkeep());
            self.tasks.spawn(schedule::run_loop(self.clone()));
            self.tasks.spawn(auditing::run_loop(self.clone()));
            self.tasks.spawn(mending::run_loop(self.clone()));
            self.tasks.spawn(reach::run_loop(self.clone()));
        } else {
            self.await_peers(&net, &book).await;
        }
        Ok(())
    }

    /// A short-lived node gives the peers it knows a moment to answer.
    async fn await_peers(&self, net: &Net, book: &PeerBook) {
        let known = book.allowed.iter().filter(|entry| !entry.addresses.is_empty());
        let mut dials: FuturesUnordered<_> =
            known.clone().map(|entry| net.dial(entry.peer, &[]).map_ok(|()| entry.peer)).collect();
        let mut until = tokio::time::Instant::now() + DIAL_PATIENCE;
        let mut reached = HashSet::new();
        while let Ok(Some(dialled)) = tokio::time::timeout_at(until, dials.next()).await {
            if let Ok(peer) = dialled {
                reached.insert(peer);
                until = until.min(tokio::time::Instant::now() + DIAL_GRACE);
            }
        }
        for entry in known.filter(|entry| !reached.contains(&entry.peer)) {
            tracing::info!(target: "peers", peer = %entry.peer.short(), "not reached yet");
        }
    }

    /// Notes what happens on the network.
    async fn watch(self: Arc<Self>, mut events: mpsc::Receiver<NetEvent>) {
        loop {
            let event = tokio::select! {
                () = self.stop.cancelled() => return,
                event = events.recv() => event,
            };
            match event {
                None => return,
                Some(NetEvent::Connected(peer)) => {
                    tracing::info!(target: "peers", peer = %peer.short(), "connected");
                    self.tell(Happening::PeerConnected { peer });
                    self.clone().note_seen(peer).await;
                    self.tasks.spawn(acl::tell(self.clone(), peer));
                    self.tasks.spawn(releasing::tell(self.clone(), peer));
                    self.hurry_repairs().await;
                    self.owning.forget_offers(peer);
                    self.comparing.forget(peer);
                    self.sharing.forget(peer);
                    self.reach.wake();
                    self.pulling.forget(&peer);
                    self.changed.notify_one();
                }
                Some(NetEvent::Disconnected(peer)) => {
                    tracing::info!(target: "peers", peer = %peer.short(), "disconnected");
                    self.tell(Happening::PeerDisconnected { peer });
                    log_failure(self.note_present(vec![peer]).await, "noting when a peer left");
                    self.owning.forget_offers(peer);
                    self.comparing.forget(peer);
                    self.pulling.forget(&peer);
                    self.holding.forget(peer);
                    self.changed.notify_one();
                }
                Some(NetEvent::Renewed(peer)) => {
                    self.owning.forget_offers(peer);
                    self.comparing.forget(peer);
                    self.sharing.forget(peer);
                    self.changed.notify_one();
                }
                Some(NetEvent::Stranger { peer, .. }) if self.book().ignores(peer) => {
                    tracing::debug!(target: "peers", peer = %peer.short(), "one that was turned away knocked");
                }
                Some(NetEvent::Stranger { peer, addresses }) => {
                    tracing::info!(target: "peers", peer = %peer.short(), "a stranger knocked; listed as pending");
                    self.tell(Happening::PeerPending { peer });
                    let now = self.clock.now();
                    let noted = self.edit_book(move |book| book.knock(peer, addresses, now)).await;
                    log_failure(noted, "noting a stranger");
                }
                Some(NetEvent::Listening(address)) => {
                    tracing::info!(target: "net", %address, "listening");
                    if !address.contains("/p2p-circuit") {
                        self.reach.moved();
                    }
                }
            }
        }
    }

    async fn note_seen(self: Arc<Self>, peer: PeerId) {
        let now = self.clock.now();
        let state = self.net.get().map(Net::peers).unwrap_or_default();
        let known = state.iter().filter(|state| state.id == peer).flat_map(|state| &state.addresses);
        let lasting: Vec<&AddressState> =
            known.filter(|address| address.lasting).take(limit::PEER_ADDRESSES_MAX).collect();
        let addresses: Vec<String> = lasting.iter().map(|known| known.address.clone()).collect();
        let claimed = |known: &&AddressState| {
            let Claim { seen_at, signed } = known.claim?;
            let (address, last_good) = (known.address.clone(), known.last_good);
            Some(ClaimedAddress { address, seen_at, signed, last_good })
        };
        let claims: Vec<ClaimedAddress> = lasting.iter().filter_map(claimed).collect();
        let edited = self.edit_book(move |book| {
            if let Some(entry) = book.allowed.iter_mut().find(|entry| entry.peer == peer) {
                if entry.last_seen.is_none() {
                    meter::PEERS_DISCOVERED.add(1);
                }
                entry.last_seen = Some(now);
                if !addresses.is_empty() {
                    (entry.addresses, entry.claims) = (addresses, claims);
                }
            }
        });
        log_failure(edited.await, "noting a peer's address");
    }

    /// Bytes that others may store here in all: what is configured, or what was promised by ticket if that is more.
    pub(super) fn lent(&self) -> u64 {
        self.settings().replication.lend.max(self.book().promised())
    }

    /// The peer book as it is now.
    pub(super) fn book(&self) -> std::sync::MutexGuard<'_, PeerBook> {
        self.book.lock().expect("no panic while held")
    }

    /// Changes the peer book durably: written before it counts.
    pub(super) async fn edit_book<T: Send + 'static>(
        self: &Arc<Self>,
        edit: impl FnOnce(&mut PeerBook) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        self.blocking(move |core| {
            let mut book = core.book();
            let mut next = book.clone();
            let value = edit(&mut next);
            next.settle();
            if next != *book {
                core.store.publish_peers(&next).map_err(failed)?;
                *book = next;
            }
            Ok(value)
        })
        .await
    }

    /// Allows a peer: durable first, then in force, then dialled where it is said to be. On no word but a person's later one
    /// does somebody come in who was turned away.
    pub(super) async fn admit(self: &Arc<Self>, entry: PeerEntry, word: Word) -> Result<(), ApiError> {
        let peer = entry.peer;
        let added = entry.clone();
        if !self.edit_book(move |book| book.let_in(added, word)).await? {
            let text = format!("{} was turned away here", peer.short());
            return Err(ApiError::new(Code::Unauthorized, text));
        }
        self.members.insert(peer);
        if let Ok(net) = self.net() {
            recall(net, &entry).await;
        }
        self.changed.notify_one();
        Ok(())
    }

    /// Runs blocking work on a thread for it.
    pub(super) async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Arc<Self>) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let (core, span) = (self.clone(), tracing::Span::current());
        // Dropping the caller does not end the thread: shutdown waits for what it writes.
        let alive = self.tasks.token();
        let work = move || {
            let _alive = alive;
            span.in_scope(|| work(&core))
        };
        tokio::task::spawn_blocking(work).await.map_err(panicked)?
    }

    /// The unlocked vault.
    pub(super) fn vault(&self) -> Result<Arc<Vault>, ApiError> {
        let vault = self.vault.read().expect("no panic while held").clone();
        vault.ok_or_else(|| locked(self.vault_id().is_some()))
    }

    /// The network.
    pub(super) fn net(&self) -> Result<&Net, ApiError> {
        self.net.get().ok_or_else(no_network)
    }

    /// Notes a wrong answer of a peer.
    pub(super) fn blame(&self, peer: PeerId) {
        let mut misbehaved = self.misbehaved.lock().expect("no panic while held");
        let (now, record) = (self.now(), misbehaved.entry(peer).or_default());
        record.note(now);
        let times = record.times(now);
        tracing::warn!(target: "peers", peer = %peer.short(), times, "sent bytes that do not verify");
    }

    /// A peer that sent wrong bytes too often is asked last and given no new packs.
    pub(super) fn is_distrusted(&self, peer: PeerId) -> bool {
        let misbehaved = self.misbehaved.lock().expect("no panic while held");
        misbehaved.get(&peer).is_some_and(|record| record.times(self.now()) >= limit::MISBEHAVIOUR_MAX)
    }

    /// Members that are connected and serve this node.
    pub(super) fn connected(&self) -> Vec<PeerId> {
        let states = self.net.get().map(Net::peers).unwrap_or_default();
        states.iter().filter(|s| s.connected && s.member && s.serves_us).map(|s| s.id).collect()
    }

    /// Ends everything in bounded time: no new work, then the jobs, then those who ask about them, then the network.
    pub(super) async fn shutdown(self: &Arc<Self>) -> Result<(), ApiError> {
        self.tell(Happening::ShuttingDown);
        self.stop.cancel();
        let live = self.jobs.cancel_all();
        self.tasks.close();
        let core = self.clone();
        self.hooks.add(Hook {
            name: "jobs and tasks",
            priority: Priority::WORK,
            time: limit::SHUTDOWN_JOBS,
            run: Box::pin(async move {
                core.tasks.wait().await;
                if live > 0 {
                    // Whoever waits for a job looks once more and hears how it ended.
                    tokio::time::sleep(limit::LAST_LOOK).await;
                }
                Ok(())
            }),
        });
        if let Some(net) = self.net.get().cloned() {
            self.hooks.add(Hook {
                name: "network",
                priority: Priority::NETWORK,
                time: limit::NET_SHUTDOWN,
                run: Box::pin(async move {
                    net.shutdown().await;
                    Ok(())
                }),
            });
        }
        self.hooks.run(tokio::time::Instant::now() + limit::SHUTDOWN_JOBS + limit::SHUTDOWN_REST).await
    }

    /// Notes for all who follow that something happened.
    pub(super) fn tell(&self, what: Happening) {
        self.events.tell(self.now(), what);
    }

    pub(super) fn uptime(&self) -> u64 {
        self.started.elapsed().as_secs()
    }

    pub(super) fn now(&self) -> Moment {
        self.clock.now()
    }
}

/// Opens the store. A daemon waits for a short command that has it open (two daemons still part clearly), checks its index,
/// and makes a damaged one anew where it has all keys that this takes.
fn open_store(settings: &Settings, passphrase: Option<&Passphrase>, mode: Mode) -> Result<Store, ApiError> {
    if mode != Mode::Daemon {
        return Store::open_to_read(&settings.repository_path).map_err(not_opened);
    }
    let patient = || {
        let began = Instant::now();
        loop {
            match Store::open_for_long(&settings.repository_path) {
                Err(StoreError::Busy(_)) if began.elapsed() < LOCK_PATIENCE => {
                    std::thread::sleep(Duration::from_millis(100));
                }
                other => return other,
            }
        }
    };
    let opened = patient();
    let Err(StoreError::IndexDamaged(why)) = opened else { return opened.map_err(not_opened) };
    tracing::error!(target: "store", why, "the index is damaged");
    // What is with holders only stands in the index alone: a person decides to make that one anew.
    let is_at_hand = settings.storage.local_copy != LocalCopy::Cache;
    let rebuilt = if is_at_hand { setup::rebuild_at_hand(settings, passphrase)? } else { None };
    let Some(rebuilt) = rebuilt else { return Err(failed(StoreError::IndexDamaged(why))) };
    let (packs, chunks, unreadable) = (rebuilt.packs, rebuilt.chunks, rebuilt.unreadable.len());
    tracing::warn!(target: "store", packs, chunks, unreadable, "the index was made anew from the files");
    patient().map_err(failed)
}

/// A store that could not be opened; one that is out of reach is told from none.
pub(super) fn not_opened(error: StoreError) -> ApiError {
    failed(match error {
        StoreError::NotHere(dir) => places::not_here(dir),
        other => other,
    })
}

/// Keeps what was found out, where something can be kept.
pub(super) fn keep_note(core: &Core, name: &str, note: &impl Serialize, doing: &'static str) {
    if !core.store.is_read_only() {
        log_failure(core.store.publish_state(name, note).map_err(failed), doing);
    }
}

pub(super) fn log_failure<T>(result: Result<T, ApiError>, doing: &'static str) {
    if let Err(error) = result {
        tracing::error!(target: "node", code = error.code, %error, doing, "failed");
    }
}

/// Worker threads of one operation.
pub(super) fn workers() -> usize {
    std::thread::available_parallelism().map_or(2, NonZeroUsize::get).clamp(1, 16)
}

pub(super) fn vault_options(settings: &Settings) -> Result<VaultOptions, ApiError> {
    let cut = &settings.snapshot;
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let sizes = ChunkSizes::new(size(cut.min_chunk_size), size(cut.avg_chunk_size), size(cut.max_chunk_size))
        .map_err(|error| ApiError::new(Code::ConfigInvalid, error.to_string()))?;
    Ok(VaultOptions {
        sizes,
        level: cut.compression.then_some(i32::from(cut.compression_level)),
        deduplicate: settings.storage.enable_deduplication,
        copies: settings.replication.copies,
        workers: workers(),
    })
}

fn listen_addresses(settings: &Settings) -> Vec<String> {
    let port = settings.listen_port;
    let mut listen = vec![format!("/ip4/0.0.0.0/tcp/{port}"), format!("/ip4/0.0.0.0/udp/{port}/quic-v1")];
    listen.extend(settings.p2p.listen.iter().map(|address| address.as_str().to_owned()));
    listen
}

pub(super) fn net_limits(settings: &Settings) -> Limits {
    let security = &settings.security;
    let metered = security.enable_rate_limiting;
    Limits {
        requests_per_second: if metered { security.requests_per_second } else { 0 },
        burst: security.burst_size,
        peer_bytes_per_second: if metered { settings.p2p.peer_bytes_per_second } else { 0 },
        upload_bytes_per_second: settings.replication.upload_limit,
        download_bytes_per_second: settings.replication.download_limit,
        // Twice what the daemon should ever need: the last resort against a flood of connections, not a way to
        // lock members out while a backup uses its buffers.
        memory_bytes_max: Some(
            usize::try_from(settings.storage.memory_limit)
                .unwrap_or(usize::MAX)
                .saturating_mul(4)
                .saturating_add(128 * limit::MIB),
        ),
        exempt: if security.enable_ip_whitelist { security.whitelisted_ips.clone() } else { Vec::new() },
    }
}

/// Tells the network where a peer is, as the book has it: by the owner's word, and by its own.
pub(super) async fn recall(net: &Net, entry: &PeerEntry) {
    let claims = entry.claims.iter().map(|known| {
        let claim = Claim { seen_at: known.seen_at, signed: known.signed };
        (known.address.clone(), claim, known.last_good)
    });
    // An error means that the network has stopped.
    net.recall(entry.peer, &claims.collect::<Vec<_>>()).await.ok();
    let is_claim = |address: &&String| entry.claims.iter().any(|claim| claim.address == **address);
    for address in entry.addresses.iter().filter(|address| !is_claim(address)) {
        if let Err(error) = net.add_address(entry.peer, address).await {
            tracing::warn!(target: "peers", peer = %entry.peer.short(), %error, "an address is not usable");
        }
    }
}

pub(super) fn net_config(settings: &Settings, key: &NodeKey, listen: Vec<String>) -> NetConfig {
    let p2p = &settings.p2p;
    NetConfig {
        node_key: Zeroizing::new(*key.seed().expose()),
        listen,
        announce: p2p.announce.iter().map(|address| address.as_str().to_owned()).collect(),
        max_peers: p2p.max_peers as usize,
        connection_timeout: p2p.connection_timeout,
        turn_wait: limit::TURN_WAIT,
        heartbeat_interval: p2p.heartbeat_interval,
        reconnect_backoff: p2p.reconnect_backoff,
        max_reconnect_backoff: p2p.max_reconnect_backoff,
        serve_relay: settings.nat_traversal.serve_relay,
        use_relays: settings.nat_traversal.enable_auto_relay,
        punch_holes: settings.nat_traversal.enable_hole_punching,
        search_nearby: settings.nat_traversal.enable_mdns,
        map_ports: settings.nat_traversal.enable_upnp,
        discovery_interval: p2p.discovery_interval,
        fetch_timeout: p2p.chunk_fetch_timeout,
        max_concurrent_fetch: p2p.max_concurrent_fetch as usize,
        limits: net_limits(settings),
    }
}
