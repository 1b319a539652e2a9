//! Getting the vault's packs to holders: whenever something changed, compare heads, count receipts, offer what lacks
//! copies.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::core::{Core, log_failure};
use super::error::failed;
use super::records::ask;
use super::source::Mesh;
use super::work::know_own;
use super::{caching, chains, comparing, devices, mending, sharing};
use crate::api::ApiError;
use crate::base::{Code, PackId, PeerId, VaultId};
use crate::engine::{self, Candidate, Ledger, Monitor, ROUND_INTERVAL, ROUND_PAUSE, Vault, Want};
use crate::net::Net;
use crate::snapshot::{Head, HeadSummary, PackSize, PeerAddress};
use crate::store::NewPack;
use crate::wire::{self, HoldRefusal, sync_request::Ask, sync_response::Answer};

/// Threads that read directories of packs that are elsewhere, and packs between two commits of what they found.
const DIRECTORY_READERS: usize = 8;
const DIRECTORIES_BATCH: usize = 64;

/// The [`Ledger`] of this node's vault, told the time.
pub(super) struct Owning {
    began: Instant,
    ledger: Mutex<Ledger>,
    /// The directories of all packs that heads list have been read.
    all_read: AtomicBool,
    /// Of some nobody had them when they were asked for last.
    some_absent: AtomicBool,
    /// Holders that take nothing more of this vault, and why, as they said last.
    refused: Mutex<BTreeMap<PeerId, HoldRefusal>>,
}

impl Default for Owning {
    fn default() -> Self {
        let (all_read, some_absent) = (AtomicBool::default(), AtomicBool::default());
        let (ledger, refused) = (Mutex::default(), Mutex::default());
        Self { began: Instant::now(), ledger, all_read, some_absent, refused }
    }
}

impl Owning {
    /// Heads came: directories of packs that they list are to be read.
    pub(super) fn note_heads(&self) {
        self.all_read.store(false, Ordering::Relaxed);
    }

    /// Whether heads list packs of which nobody who was asked knows what is in them.
    pub(super) fn lacks_packs(&self) -> bool {
        self.some_absent.load(Ordering::Relaxed)
    }

    fn tell<T>(&self, what: impl FnOnce(&mut Ledger, Duration) -> T) -> T {
        what(&mut self.ledger.lock().expect("no panic while held"), self.began.elapsed())
    }

    /// A holder confirmed packs.
    pub(super) fn settle(&self, holder: PeerId, packs: &[PackId]) {
        self.tell(|ledger, now| ledger.settle(now, holder, packs));
    }

    /// Packs that are under way to a holder.
    pub(super) fn offered_to(&self, holder: PeerId) -> HashSet<PackId> {
        self.tell(|ledger, _| ledger.offered_to(holder))
    }

    /// A holder does not take packs that it was offered.
    pub(super) fn decline(&self, holder: PeerId, packs: &[PackId]) {
        self.tell(|ledger, now| ledger.decline(now, holder, packs));
    }

    /// A holder takes nothing more of this vault; whether that is news.
    pub(super) fn refuse(&self, holder: PeerId, why: HoldRefusal) -> bool {
        self.refused().insert(holder, why) != Some(why)
    }

    /// It does again, or is no holder any more.
    pub(super) fn accept(&self, holder: PeerId) {
        self.refused().remove(&holder);
    }

    /// Holders that take nothing more of this vault, and why.
    pub(super) fn refusals(&self) -> BTreeMap<PeerId, HoldRefusal> {
        self.refused().clone()
    }

    fn refused(&self) -> MutexGuard<'_, BTreeMap<PeerId, HoldRefusal>> {
        self.refused.lock().expect("no panic while held")
    }

    /// Packs that holders confirmed a second lately; 0 when none did.
    pub(super) fn packs_per_second(&self) -> f64 {
        self.tell(|ledger, now| ledger.packs_per_second(now))
    }

    /// Peers that packs are under way to.
    pub(super) fn receivers(&self) -> HashSet<PeerId> {
        self.tell(|ledger, now| ledger.receivers(now))
    }

    /// What a holder said last that it can still store.
    pub(super) fn room(&self, holder: PeerId) -> Option<u64> {
        self.tell(|ledger, _| ledger.room(holder))
    }

    /// A holder came or went: what it was offered is open again.
    pub(super) fn forget_offers(&self, holder: PeerId) {
        self.tell(|ledger, _| ledger.forget_offers(holder));
    }
}

impl Core {
    /// Runs rounds until the node ends. Does nothing on a node without a vault.
    pub(super) async fn own_loop(self: Arc<Self>) {
        let Some(vault) = self.vault_id() else { return };
        loop {
            let round = tokio::select! {
                () = self.stop.cancelled() => return,
                result = round(&self, vault) => result,
            };
            log_failure(round, "replicating");
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(ROUND_PAUSE) => {}
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.changed.notified() => {}
                // Who goes missing sooner than that is to be noticed in time.
                () = tokio::time::sleep(ROUND_INTERVAL.min(self.settings().p2p.away_after)) => {}
            }
        }
    }

    /// Where this vault's holders can be dialled, for the next head.
    pub(super) fn holder_addresses(&self) -> Vec<PeerAddress> {
        let book = self.book();
        let known = book.allowed.iter().filter(|entry| !entry.addresses.is_empty());
        known.map(|entry| PeerAddress { peer: entry.peer, addresses: entry.addresses.clone() }).collect()
    }
}

async fn round(core: &Arc<Core>, vault: VaultId) -> Result<(), ApiError> {
    let net = core.net()?.clone();
    core.waking.look(core.now());
    core.note_connected().await?;
    let peers: Vec<PeerId> = core.connected().into_iter().filter(|peer| !core.is_distrusted(*peer)).collect();
    if peers.is_empty() {
        // What is here already needs nobody.
        log_failure(chains::join(core).await, "joining branches of this device's history");
        log_failure(devices::inherit(core).await, "carrying on a revoked device");
        return Ok(());
    }
    let mut met = Vec::new();
    for peer in peers.iter().copied() {
        match chains::learn_heads(core, &net, peer, vault).await {
            Ok(()) => met.push(peer),
            Err(error) => {
                tracing::debug!(target: "replicate", peer = %peer.short(), code = error.code, %error, "comparing heads failed");
            }
        }
    }
    log_failure(chains::join(core).await, "joining branches of this device's history");
    log_failure(comparing::round(core, &net, vault, &met).await, "comparing stores");
    if !core.owning.all_read.load(Ordering::Relaxed)
        && let Err(error) = index_listed(core, &net, vault).await
    {
        // Nobody who is connected has them.
        tracing::debug!(target: "replicate", code = error.code, %error, "directories of packs could not be read");
    }
    log_failure(devices::inherit(core).await, "carrying on a revoked device");
    if let Ok(open) = core.vault() {
        log_failure(sharing::list_borrowed(core, &open).await, "listing packs of other devices");
    }
    if core.twins.told_by(core.now()).is_some() {
        // What became of offers may have been told to the other machine that has this node's identity.
        peers.iter().for_each(|peer| core.owning.forget_offers(*peer));
    }
    let copies = core.settings().replication.copies;
    let (confirmed, wanted) =
        core.blocking(move |core| Ok((confirmed_by(core, vault)?, lacking(core, vault, copies)?))).await?;
    core.owning.tell(|ledger, _| ledger.note_wanted(&wanted));
    for peer in &peers {
        if core.owning.tell(|ledger, now| ledger.is_to_ask(now, *peer, confirmed.contains(peer))) {
            ask_room(core, &net, *peer, vault).await;
        }
    }
    if let Ok(open) = core.vault() {
        log_failure(sharing::round(core, &net, &open, &peers).await, "sharing packs among devices");
    }
    place(core, &net, vault, &peers, wanted).await
}

/// Offers what wants holders to those who are best for it now.
async fn place(
    core: &Arc<Core>,
    net: &Net,
    vault: VaultId,
    peers: &[PeerId],
    wanted: Vec<Want>,
) -> Result<(), ApiError> {
    let (now, copies) = (core.now(), core.settings().replication.copies);
    let within = core.settings().replication.proof_within;
    let candidate =
        |peer: &PeerId| Candidate { peer: *peer, lost: core.auditing.is_doubtful(peer, within, now) };
    let revoked = core.blocking(|core| devices::revoked_peers(core)).await?;
    let candidates: Vec<Candidate> =
        peers.iter().filter(|peer| !revoked.contains(*peer)).map(candidate).collect();
    let plan = core.owning.tell(|ledger, now| ledger.plan(now, &candidates, copies));
    let (placed, absent) = core.blocking(move |core| caching::part_absent(core, plan.place(&wanted))).await?;
    if let Ok(open) = core.vault() {
        caching::tend(core, net, &open, absent);
    }
    for (peer, packs) in placed {
        core.owning.tell(|ledger, now| ledger.note_offered(now, peer, &packs));
        if let Err(error) = offer_own(core, net, peer, vault, &packs).await {
            core.owning.forget_offers(peer);
            tracing::debug!(target: "replicate", peer = %peer.short(), code = error.code, %error, "offer failed");
        }
    }
    Ok(())
}

/// Tells a holder the newest head and asks for its room.
async fn ask_room(core: &Arc<Core>, net: &Net, peer: PeerId, vault: VaultId) {
    match offer_own(core, net, peer, vault, &[]).await {
        Ok(bytes) => core.owning.tell(|ledger, now| ledger.note_room(now, peer, bytes)),
        Err(error) => {
            core.owning.tell(|ledger, now| match error.kind() {
                Code::StorageFull => ledger.note_room(now, peer, 0),
                _ => ledger.note_silence(peer),
            });
            tracing::debug!(target: "replicate", peer = %peer.short(), code = error.code, %error, "takes no offer");
        }
    }
}

/// Holders that have confirmed the records of this device's newest head.
fn confirmed_by(core: &Arc<Core>, vault: VaultId) -> Result<HashSet<PeerId>, ApiError> {
    let newest = own_head(core, vault)?.map(|head| head.id);
    let all = core.store.head_receipts().map_err(failed)?;
    Ok(all.into_iter().filter(|(_, _, _, head)| Some(*head) == newest).map(|(holder, ..)| holder).collect())
}

/// Own packs that want holders.
fn lacking(core: &Arc<Core>, vault: VaultId, copies: u32) -> Result<Vec<Want>, ApiError> {
    let Some(head) = own_head(core, vault)? else { return Ok(Vec::new()) };
    let (listed, unreadable) = engine::packs_as_known(&core.store, &head).map_err(failed)?;
    if !unreadable.is_empty() {
        core.doubt_records();
    }
    let mut wanting = core.owning.tell(|ledger, now| ledger.wanting(now, copies, listed));
    let mut holders: HashMap<_, Vec<PeerId>> = HashMap::new();
    let counted = core.counted();
    core.store
        .for_each_receipt(|pack, peer, _| {
            // A peer that was removed or is missing holds nothing for us any more.
            if counted(&peer) {
                holders.entry(pack).or_default().push(peer);
            }
        })
        .map_err(failed)?;
    let left = sharing::left_to_others(core, vault)?;
    core.store
        .for_each_pack(true, |row| {
            if !left.contains(&row.id) {
                wanting.meet(row.id, row.bytes, holders.remove(&row.number).unwrap_or_default());
            }
            true
        })
        .map_err(failed)?;
    Ok(wanting.finish())
}

/// Offers this device's newest head, and packs; returns what the peer has free.
async fn offer_own(
    core: &Arc<Core>,
    net: &Net,
    peer: PeerId,
    vault: VaultId,
    packs: &[PackId],
) -> Result<u64, ApiError> {
    match core.blocking(move |core| own_head(core, vault)).await? {
        Some(head) => offer(net, peer, vault, head.summary(), packs).await,
        None => Ok(0),
    }
}

/// Offers a head of the vault, and packs that it lists; returns what the peer has free.
pub(super) async fn offer(
    net: &Net,
    peer: PeerId,
    vault: VaultId,
    head: HeadSummary,
    packs: &[PackId],
) -> Result<u64, ApiError> {
    let offer = wire::Offer {
        vault: vault.as_bytes().to_vec(),
        head: Some(head.to_wire()),
        packs: packs.iter().map(|id| id.as_bytes().to_vec()).collect(),
    };
    match ask(net, peer, Ask::Offer(offer)).await? {
        Some(Answer::Offer(answer)) => Ok(answer.free_bytes),
        _ => Ok(0),
    }
}

/// The newest head that this node's device wrote (its certificate names this node). Of several branches, which are joined as
/// soon as the vault is open, it is the one with the highest number.
pub(super) fn own_head(core: &Arc<Core>, vault: VaultId) -> Result<Option<Head>, ApiError> {
    let mut own: Option<Head> = None;
    for head in engine::newest_heads(&core.store, vault).map_err(failed)? {
        let head = head.map_err(failed)?;
        if head.certificate.peer == core.key.peer_id()
            && own.as_ref().is_none_or(|own| own.draft.seq <= head.draft.seq)
        {
            own = Some(head);
        }
    }
    Ok(own)
}

/// Reads the directories of packs that are elsewhere, several at a time: each costs a round trip or two.
fn read_directories(
    vault: &Vault,
    source: &Mesh,
    packs: &[(PackId, PackSize)],
) -> Vec<Result<NewPack, ApiError>> {
    let monitor = Monitor::default();
    let read = |(id, size): &(PackId, PackSize)| {
        engine::index_remote_pack(vault, source, *id, size.bytes(), &monitor).map_err(failed)
    };
    let share = packs.len().div_ceil(DIRECTORY_READERS).max(1);
    std::thread::scope(|scope| {
        let readers: Vec<_> = packs
            .chunks(share)
            .map(|part| scope.spawn(|| part.iter().map(read).collect::<Vec<_>>()))
            .collect();
        let joined = readers.into_iter().map(|reader| match reader.join() {
            Ok(found) => found,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.flatten().collect()
    })
}

/// Indexes packs that the vault's heads list and that this index does not know: their directories come from holders.
pub(super) async fn index_listed(core: &Arc<Core>, net: &Net, vault_id: VaultId) -> Result<u64, ApiError> {
    let Ok(vault) = core.vault() else { return Ok(0) };
    // What lies here is asked of nobody.
    log_failure(know_own(core).await, "looking for packs that the index does not know");
    let net = net.clone();
    core.blocking(move |core| {
        // Heads that come meanwhile are looked at again.
        core.owning.all_read.store(true, Ordering::Relaxed);
        // Where all is kept, what this device alone lists belongs here. The rest counts as written by others, also when it
        // was listed here before the index was made anew: nothing tells any more whether a holder had promised to keep it
        // for this device.
        let is_cache = caching::is_on(core);
        let (mut missing, mut others, mut failure) = (Vec::new(), HashSet::new(), None);
        for head in engine::newest_heads(&core.store, vault_id).map_err(failed)? {
            let head = head.map_err(failed)?;
            for listed in engine::head_packs(&core.store, &head) {
                let (id, size) = match listed {
                    Ok(listed) => listed,
                    // What the other pieces name is known all the same.
                    Err(error) => {
                        failure.get_or_insert(failed(error));
                        continue;
                    }
                };
                if core.store.pack_by_id(id).map_err(failed)?.is_none() {
                    missing.push((id, size));
                    others.extend((is_cache || head.device() != vault.device()).then_some(id));
                }
            }
        }
        missing.sort_unstable();
        missing.dedup();
        let source = Mesh::new(core.clone(), net, None);
        let mut entered = 0;
        for part in missing.chunks(DIRECTORIES_BATCH) {
            if core.stop.is_cancelled() {
                break;
            }
            let found = read_directories(&vault, &source, part);
            let (packs, errors): (Vec<_>, Vec<_>) = found.into_iter().partition(Result::is_ok);
            let packs: Vec<NewPack> = packs.into_iter().flatten().collect();
            let (borrowed, mine): (Vec<NewPack>, Vec<NewPack>) =
                packs.into_iter().partition(|pack| others.contains(&pack.id));
            entered += core.store.index_packs(&mine).map_err(failed)?.len() as u64;
            // What belongs here and is known from others only is to come from them.
            mending::expect(core, mine.iter().map(|pack| pack.id))?;
            entered += core.store.index_borrowed(&borrowed).map_err(failed)?.len() as u64;
            failure = errors.into_iter().find_map(Result::err).or(failure);
        }
        if let Err(error) = engine::read_again(&vault, Some(&source), &Monitor::default()) {
            failure.get_or_insert(failed(error));
        }
        core.owning.some_absent.store(failure.is_some(), Ordering::Relaxed);
        if failure.is_some() {
            // Looked for again in the next round.
            core.owning.all_read.store(false, Ordering::Relaxed);
        }
        match failure {
            Some(error) if entered == 0 => Err(error),
            _ => Ok(entered),
        }
    })
    .await
}
