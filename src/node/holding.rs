//! Storing for others: offers are queued, then heads, records and packs are pulled, stored and confirmed.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use futures::StreamExt;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::{self, AbortHandle, JoinSet};
use tokio::time::interval;
use tracing::Instrument;

use super::core::{Core, log_failure};
use super::error::failed;
use super::mending;
use super::records::{Pull, TwinTries, ask};
use super::resources::Promise;
use super::source::Mesh;
use crate::api::ApiError;
use crate::base::{Code, HeadId, PackId, PeerId, VaultId, limit, random_bytes};
use crate::engine::{
    self, EngineError, HolderError, Laggards, Lending, Monitor, OWNERS_MAX, PULLS_MAX, PULLS_PER_OWNER_MAX,
    SLOW_PULLS_MAX, Serving, Wish, WishKey, Wishes,
};
use crate::net::Net;
use crate::snapshot::{Head, HeadSummary, PackSize, sign_receipt_at};
use crate::store::{ChargedRecord, StoreError, record_room};
use crate::wire::{self, HoldRefusal, sync_request::Ask, sync_response::Answer};

/// How long room is waited for that packs under way may give back, and how often is looked.
const ROOM_WAIT: Duration = Duration::from_secs(60);
const ROOM_LOOK: Duration = Duration::from_millis(50);
/// How often is looked whether somebody holds back.
const LOOK: Duration = Duration::from_secs(1);

/// [`Wishes`], shared, and who works on them.
pub(super) struct HoldQueue {
    wishes: Mutex<Wishes>,
    more: Notify,
    pulls: Arc<Semaphore>,
    slow_pulls: Arc<Semaphore>,
    began: Instant,
    laggards: Mutex<Laggards>,
    /// Ends the work for an owner.
    work: Mutex<HashMap<PeerId, AbortHandle>>,
}

impl Default for HoldQueue {
    fn default() -> Self {
        Self {
            wishes: Mutex::default(),
            more: Notify::new(),
            pulls: Arc::new(Semaphore::new(PULLS_MAX)),
            slow_pulls: Arc::new(Semaphore::new(SLOW_PULLS_MAX)),
            began: Instant::now(),
            laggards: Mutex::default(),
            work: Mutex::default(),
        }
    }
}

/// A place to pull one pack.
struct PullPlace {
    _slow: Option<OwnedSemaphorePermit>,
    _pull: OwnedSemaphorePermit,
}

impl HoldQueue {
    /// Drops what a peer wanted: it offers again when it is back.
    pub(super) fn forget(&self, peer: PeerId) {
        self.wishes().forget(peer);
    }

    /// The same, and what is done for it: it is not to come back.
    pub(super) fn part(&self, peer: PeerId) {
        self.forget(peer);
        if let Some(work) = self.work().remove(&peer) {
            work.abort();
        }
    }

    /// An owner gave something that was asked of it.
    pub(super) fn give(&self, peer: PeerId, bytes: u64) {
        self.laggards().give(peer, bytes);
    }

    fn add(&self, key: WishKey, head: HeadSummary, packs: &[PackId]) -> u32 {
        let accepted = self.wishes().add(key, head, packs);
        self.more.notify_one();
        accepted
    }

    fn take(&self, served: &HashSet<PeerId>) -> Option<(WishKey, Wish)> {
        let now = self.began.elapsed();
        let laggards = self.laggards();
        let taken = self.wishes().take(served, |peer| laggards.is_slow(now, peer))?;
        Some(taken)
    }

    fn begin(&self, peer: PeerId, work: AbortHandle) {
        self.laggards().begin(self.began.elapsed(), peer);
        self.work().insert(peer, work);
    }

    fn end(&self, peer: PeerId) {
        self.laggards().end(peer);
        self.work().remove(&peer);
    }

    /// Takes the places of those that hold back while others wait.
    fn look(&self, served: &HashSet<PeerId>) {
        let is_full = served.len() >= OWNERS_MAX && self.wishes().is_awaited(served);
        let awaited = is_full || (served.len() > 1 && self.pulls.available_permits() == 0);
        for peer in self.laggards().found(self.began.elapsed(), awaited) {
            tracing::warn!(target: "hold", peer = %peer.short(), "it holds back what it offered, and others wait");
            if let Some(work) = self.work().remove(&peer) {
                work.abort();
            }
        }
    }

    async fn place_for(&self, owner: PeerId) -> Option<PullPlace> {
        let is_slow = self.laggards().is_slow(self.began.elapsed(), owner);
        let _slow = match is_slow {
            true => Some(self.slow_pulls.clone().acquire_owned().await.ok()?),
            false => None,
        };
        Some(PullPlace { _slow, _pull: self.pulls.clone().acquire_owned().await.ok()? })
    }

    fn wishes(&self) -> MutexGuard<'_, Wishes> {
        self.wishes.lock().expect("no panic while held")
    }

    fn laggards(&self) -> MutexGuard<'_, Laggards> {
        self.laggards.lock().expect("no panic while held")
    }

    fn work(&self) -> MutexGuard<'_, HashMap<PeerId, AbortHandle>> {
        self.work.lock().expect("no panic while held")
    }
}

/// What others may still store here. Packs on their way are not counted:
/// [`Resources::disk`](super::resources::Resources) knows of them.
pub(super) fn free_bytes(core: &Core) -> Result<u64, EngineError> {
    Ok(lending(core)?.free())
}

fn lending(core: &Core) -> Result<Lending, EngineError> {
    let others = core.store.pack_counts()?.foreign_bytes;
    let usage = core.store.foreign_usage()?;
    let for_devices = core.vault_id().and_then(|vault| usage.get(&vault)).map_or(0, |(_, bytes)| *bytes);
    let records = core.store.accounts()?.total().record_bytes;
    Ok(Lending { lent: core.lent(), stored: others + for_devices + records, disk: core.store.room() })
}

/// What room is wanted for.
#[derive(Copy, Clone, PartialEq, Eq)]
pub(super) enum Share {
    /// Packs and snapshot records: some room is left to what follows them.
    Content,
    /// All that there is.
    All,
}

/// What one peer may still store here, as agreed with it or with whoever it came after: what lies here counts for the one
/// that brought it, whoever a certificate names.
pub(super) fn free_for(core: &Core, owner: PeerId, share: Share) -> Result<u64, EngineError> {
    let lending = lending(core)?;
    let account = core.book().account_of(owner);
    let accounts = core.store.accounts()?;
    let stored = account.peers.iter().map(|peer| accounts.of_peer(*peer).bytes()).sum();
    Ok(match share {
        Share::Content => lending.free_for_packs(account.quota, stored),
        Share::All => lending.free_for(account.quota, stored),
    })
}

/// Stores records, those of another's vault in the room that whoever brought them has, and charged to it. Blocking.
pub(super) fn keep_records(
    core: &Core,
    (vault, payer): (VaultId, Option<PeerId>),
    share: Share,
    records: &[ChargedRecord],
    store: impl FnOnce() -> Result<(), EngineError>,
) -> Result<(), EngineError> {
    let Some(payer) = payer else { return store() };
    let records = &core.store.uncharged(vault, records)?;
    let bytes = records.iter().map(|(_, length)| record_room(*length)).sum();
    let _promise = promise_room(core, bytes, || free_for(core, payer, share))?;
    store()?;
    Ok(core.store.charge_records(vault, payer, records)?)
}

/// Answers an offer: how much room there is, and how many of the packs are taken on.
pub(super) async fn answer_offer(
    core: &Arc<Core>,
    from: PeerId,
    offer: wire::Offer,
) -> Result<Option<Answer>, ApiError> {
    let malformed = |error: &dyn std::fmt::Display| ApiError::new(Code::UsageInvalid, error.to_string());
    let vault = VaultId::try_from(offer.vault.as_slice()).map_err(|e| malformed(&e))?;
    let head = offer.head.as_ref().ok_or_else(|| malformed(&"no head"))?;
    let head = HeadSummary::from_wire(head).map_err(|e| malformed(&e))?;
    let packs: Vec<PackId> = offer
        .packs
        .iter()
        .take(limit::OFFER_PACKS_MAX)
        .map(|id| PackId::try_from(id.as_slice()))
        .collect::<Result<_, _>>()
        .map_err(|e| malformed(&e))?;
    if core.vault_id() == Some(vault) && (core.lent() == 0 || core.vault().is_err()) {
        // Another device of this node's own vault: what is kept for it is entered with the vault's keys.
        return Ok(Some(Answer::Offer(wire::OfferAnswer { free_bytes: 0, accepted: 0 })));
    }
    if core.lent() == 0 || core.book().account_of(from).quota == Some(0) {
        return Err(ApiError::new(Code::StorageFull, "this node lends nothing"));
    }
    let free_bytes = core.blocking(move |core| {
        core.store.claim(vault, from).map_err(failed)?;
        free_for(core, from, Share::Content).map_err(failed)
    });
    let free_bytes = free_bytes.await?;
    let free_bytes = free_bytes.saturating_sub(core.resources.disk.promised());
    let accepted = core.holding.add((from, vault), head, &packs);
    Ok(Some(Answer::Offer(wire::OfferAnswer { free_bytes, accepted })))
}

impl Core {
    /// Works off wishes, for several owners at a time, until the node ends.
    pub(super) async fn hold_loop(self: Arc<Self>) {
        let mut served: HashMap<task::Id, PeerId> = HashMap::new();
        let mut work: JoinSet<()> = JoinSet::new();
        let mut looks = interval(LOOK);
        loop {
            let owners: HashSet<PeerId> = served.values().copied().collect();
            if let Some((key, wish)) = self.holding.take(&owners) {
                let span = tracing::info_span!(target: "hold", "owner", peer = %key.0.short());
                let handle = work.spawn(serve_owner(self.clone(), key, wish).instrument(span));
                served.insert(handle.id(), key.0);
                self.holding.begin(key.0, handle);
                continue;
            }
            tokio::select! {
                // Dropping the set ends what is under way; half-pulled packs were never published.
                () = self.stop.cancelled() => return,
                () = self.holding.more.notified() => {}
                _ = looks.tick() => self.holding.look(&owners),
                Some(done) = work.join_next_with_id() => {
                    let id = match &done {
                        Ok((id, ())) => *id,
                        Err(error) => error.id(),
                    };
                    if let Err(error) = done
                        && !error.is_cancelled()
                    {
                        tracing::error!(target: "hold", %error, "storing for a peer failed");
                    }
                    if let Some(peer) = served.remove(&id) {
                        self.holding.end(peer);
                    }
                }
            }
        }
    }
}

async fn serve_owner(core: Arc<Core>, key: WishKey, wish: Wish) {
    let (owner, vault) = key;
    let mut serving = Serving::new(&wish.packs);
    match refusal(&core, owner, vault, wish.head).await {
        Ok(None) => {}
        Ok(Some(refused)) => {
            let told = decline(&core, owner, vault, serving.into_left(), refused).await;
            return log_failure(told, "telling an owner that its vault is not taken");
        }
        Err(error) => return log_failure::<()>(Err(error), "looking whether a vault has a place"),
    }
    if let Err(error) = hold(&core, owner, vault, wish, &mut serving).await {
        tracing::warn!(target: "hold", peer = %owner.short(), vault = %vault.short(), code = error.code, %error,
            "storing for a peer stopped; it will offer again");
    }
    let left = serving.into_left();
    if !left.is_empty() {
        let told = decline(&core, owner, vault, left, HoldRefusal::HoldUnspecified).await;
        log_failure(told, "telling an owner what is not stored");
    }
}

/// Why no head of that device is taken, if so and it is not here: nothing is asked for then.
async fn refusal(
    core: &Arc<Core>,
    owner: PeerId,
    vault: VaultId,
    head: HeadSummary,
) -> Result<Option<HoldRefusal>, ApiError> {
    let looked = core.blocking(move |core| {
        let place = match core.vault_id() == Some(vault) {
            true => Ok(()),
            false => engine::check_place(&core.store, vault, head.device, owner),
        };
        let Err(error) = place else { return Ok(None) };
        let is_here = engine::complete_head(&core.store, vault, head.id).map_err(failed)?.is_some();
        Ok((!is_here).then_some(error))
    });
    let Some(error) = looked.await? else { return Ok(None) };
    let refused = match &error {
        HolderError::TooManyDevices => HoldRefusal::HoldDevices,
        HolderError::TooManyVaults(_) | HolderError::TooManyVaultsOfPeer(_) => HoldRefusal::HoldVaults,
        HolderError::TooManyHeads(_) => HoldRefusal::HoldHeads,
        _ => return Err(failed(error)),
    };
    tracing::warn!(target: "hold", peer = %owner.short(), vault = %vault.short(), %error, "a vault is not taken");
    Ok(Some(refused))
}

/// Tells the owner which packs it offered are not here, so that it does not wait for them, and why if that is for good.
async fn decline(
    core: &Arc<Core>,
    owner: PeerId,
    vault: VaultId,
    left: Vec<PackId>,
    refused: HoldRefusal,
) -> Result<(), ApiError> {
    let left: Vec<Vec<u8>> = left.iter().map(|id| id.as_bytes().to_vec()).collect();
    // At least one part: a head without packs is refused too.
    let parts: Vec<&[Vec<u8>]> =
        if left.is_empty() { vec![&[]] } else { left.chunks(limit::RECEIPT_PACKS_MAX).collect() };
    for part in parts {
        let (vault, refused) = (vault.as_bytes().to_vec(), refused.into());
        let notice = wire::DamageNotice { vault, declined: part.to_vec(), refused, ..Default::default() };
        ask(core.net()?, owner, Ask::Damage(notice)).await?;
    }
    Ok(())
}

/// Stores what an owner wishes.
async fn hold(
    core: &Arc<Core>,
    owner: PeerId,
    vault: VaultId,
    wish: Wish,
    serving: &mut Serving,
) -> Result<(), ApiError> {
    let net = core.net()?.clone();
    let (head, fresh) = head_for(core, &net, owner, vault, wish.head).await?;
    let offered = wish.packs;
    let count = offered.len();
    let (held, wanted) = {
        let head = head.clone();
        core.blocking(move |core| {
            let listed = engine::wanted_packs(&core.store, &head, &offered).map_err(failed)?;
            if core.vault_id() == Some(vault) {
                let ids: Vec<PackId> = listed.iter().map(|(id, _)| *id).collect();
                engine::keep_what_is_here(&core.store, (vault, owner), &ids).map_err(failed)?;
            }
            let held = engine::held_packs(&core.store, vault, &offered).map_err(failed)?;
            let have: HashSet<PackId> = held.iter().copied().collect();
            let wanted: Vec<_> = listed.into_iter().filter(|(id, _)| !have.contains(id)).collect();
            Ok((held, wanted))
        })
        .await?
    };
    if count > 0 || fresh {
        tracing::info!(target: "hold", peer = %owner.short(), vault = %vault.short(), seq = head.draft.seq,
            offered = count, held = held.len(), wanted = wanted.len(), "offer");
    }
    // An owner offers what it has no receipt for, or none any more: what is here is looked at before it is confirmed.
    let held = {
        let net = net.clone();
        core.blocking(move |core| sound_or_mended(core, net, owner, held)).await?
    };
    // The head's records are complete: said even when no pack is wanted.
    confirm(core, &net, owner, vault, Some(head.id), &held).await?;
    serving.confirm(Duration::ZERO, &held);
    pull_packs(core, &net, owner, vault, head.id, wanted, serving).await
}

/// Of packs that are here, those that are sound; damaged ones are mended first, the owner being asked before all others.
fn sound_or_mended(
    core: &Arc<Core>,
    net: Net,
    owner: PeerId,
    held: Vec<PackId>,
) -> Result<Vec<PackId>, ApiError> {
    let (mut sound, damages) = engine::look_over(&core.store, &held).map_err(failed)?;
    if !damages.is_empty() {
        let source = Mesh::new(core.clone(), net, Some(owner));
        let plan = engine::plan_repair(damages);
        let done = mending::carry_out(core, &plan, &source, &Monitor::default())?;
        sound.extend(done.repaired);
    }
    Ok(sound)
}

/// The offered head with all its records, from the disk or from the owner, and whether it is new here.
async fn head_for(
    core: &Arc<Core>,
    net: &Net,
    owner: PeerId,
    vault: VaultId,
    wanted: HeadSummary,
) -> Result<(Head, bool), ApiError> {
    let known = core
        .blocking(move |core| engine::complete_head(&core.store, vault, wanted.id).map_err(failed))
        .await?;
    match known {
        Some(head) => Ok((head, false)),
        None => {
            let payer = (core.vault_id() != Some(vault)).then_some(owner);
            let (head, _) = Pull::new(core, net, owner, vault).paid_by(payer).pull(wanted.id).await?;
            core.blocking(|core| core.store.count_taken_in().map_err(failed)).await?;
            Ok((head, true))
        }
    }
}

async fn pull_packs(
    core: &Arc<Core>,
    net: &Net,
    owner: PeerId,
    vault: VaultId,
    head: HeadId,
    wanted: Vec<(PackId, PackSize)>,
    serving: &mut Serving,
) -> Result<(), ApiError> {
    let spare = Buffers::default();
    let pulls = wanted.into_iter().map(|(id, size)| {
        let (core, net, spare) = (core.clone(), net.clone(), spare.clone());
        async move {
            let Some(place) = core.holding.place_for(owner).await else {
                return (id, Err(ApiError::new(Code::Cancelled, "the node is ending")));
            };
            let monitor = Arc::new(Monitor::default());
            // A thread does not end with who waits for it: it is told, and keeps its place until then.
            let _ended = Ended(monitor.clone());
            let pulled = core.blocking(move |core| {
                let _place = place;
                pull(core, net, owner, vault, (id, size), &spare, &monitor)
            });
            (id, pulled.await)
        }
    });
    let mut pulls = futures::stream::iter(pulls).buffer_unordered(PULLS_PER_OWNER_MAX);
    let began = Instant::now();
    let mut failure = None;
    while let Some((id, pulled)) = pulls.next().await {
        match pulled {
            Ok(()) => serving.store(id),
            Err(error) => {
                let is_hopeless = engine::is_hopeless(error.kind());
                failure = Some(error);
                if is_hopeless {
                    break;
                }
            }
        }
        let due = serving.due(began.elapsed());
        if !due.is_empty() {
            confirm(core, net, owner, vault, Some(head), &due).await?;
            serving.confirm(began.elapsed(), &due);
        }
    }
    let rest = serving.rest();
    if !rest.is_empty() {
        confirm(core, net, owner, vault, Some(head), &rest).await?;
        serving.confirm(began.elapsed(), &rest);
    }
    failure.map_or(Ok(()), Err)
}

/// Ends a pull when nobody waits for it any more.
struct Ended(Arc<Monitor>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Memory of packs that were stored, for those that come next from the same owner: fresh memory for each costs as much
/// as checking it.
#[derive(Clone, Default)]
struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

impl Buffers {
    fn take(&self) -> Vec<u8> {
        self.0.lock().expect("no panic while held").pop().unwrap_or_default()
    }

    fn give(&self, buffer: Vec<u8>) {
        self.0.lock().expect("no panic while held").push(buffer);
    }
}

/// Pulls one pack, stores it durably. Its room is promised first, so that owners who are served at the same time do
/// not fill the same bytes. Blocking.
fn pull(
    core: &Arc<Core>,
    net: Net,
    owner: PeerId,
    vault: VaultId,
    (id, size): (PackId, PackSize),
    spare: &Buffers,
    monitor: &Monitor,
) -> Result<(), ApiError> {
    let _promise =
        promise_room(core, size.bytes(), || free_for(core, owner, Share::Content)).map_err(failed)?;
    let source = Mesh::new(core.clone(), net, Some(owner));
    let mut bytes = spare.take();
    let mut twins = TwinTries::default();
    let (outboard, _) = loop {
        match engine::pull_pack(&source, id, size.bytes(), &mut bytes, monitor).map_err(failed) {
            Err(error) if error.kind() == Code::ChunkNotFound && twins.again(core, owner) => {
                // Connections take turns: two packs that are asked for in step would never change theirs.
                std::thread::sleep(limit::BUSY_PAUSE * u32::from(random_bytes::<1>()[0]) / 64);
            }
            other => break other?,
        }
    };
    if core.vault_id() == Some(vault) {
        engine::keep_for_device(&*core.vault()?, owner, id, &bytes, &outboard).map_err(failed)?;
    } else {
        engine::forward_packs(&core.store, (vault, owner), id, &bytes, &outboard).map_err(failed)?;
    }
    spare.give(bytes);
    Ok(())
}

/// Promises room where `free` says how many bytes there are. Blocking. A pack that was just stored counts twice until its own
/// promise is given back, so that a refusal is only believed when nothing else is under way, or after some time.
pub(super) fn promise_room(
    core: &Core,
    bytes: u64,
    free: impl Fn() -> Result<u64, EngineError>,
) -> Result<Promise, EngineError> {
    let began = Instant::now();
    loop {
        if let Some(promise) = core.resources.disk.promise(bytes, &free)? {
            return Ok(promise);
        }
        if core.resources.disk.promised() == 0 || began.elapsed() > ROOM_WAIT || core.stop.is_cancelled() {
            return Err(StoreError::NotLent.into());
        }
        std::thread::sleep(ROOM_LOOK);
    }
}

/// Sends the owner a signed receipt.
async fn confirm(
    core: &Arc<Core>,
    net: &Net,
    owner: PeerId,
    vault: VaultId,
    head: Option<HeadId>,
    packs: &[PackId],
) -> Result<(), ApiError> {
    // At least one part, so that a head without packs is confirmed too.
    let parts: Vec<&[PackId]> =
        if packs.is_empty() { vec![&[]] } else { packs.chunks(limit::RECEIPT_PACKS_MAX).collect() };
    for part in parts {
        // What is confirmed was counted when it was taken in, so an image that has it has this mark.
        let mark = core.blocking(|core| Ok(core.comparing.own(&core.store).map_err(failed)?.mark())).await?;
        let signed = sign_receipt_at(&core.key, vault, head, part, core.now(), mark);
        ask(net, owner, Ask::Receipt(signed)).await?;
    }
    Ok(())
}
