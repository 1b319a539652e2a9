//! Getting the vault's packs to holders: whenever something changed, compare heads, count receipts, offer what lacks
//! copies.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::core::{Core, log_failure};
use super::error::failed;
use super::records::{ask, heads_of, pull_head};
use super::source::Mesh;
use super::{devices, sharing};
use crate::api::ApiError;
use crate::base::{Code, PackId, PeerId, VaultId, limit};
use crate::engine::{self, HeadNews, Monitor, Vault};
use crate::net::Net;
use crate::snapshot::{Head, PackSize, PeerAddress};
use crate::store::NewPack;
use crate::wire::{self, sync_request::Ask, sync_response::Answer};

/// Without any news, things are looked over this often.
const ROUND_INTERVAL: Duration = Duration::from_secs(30);
/// Rounds do not follow each other faster.
const ROUND_PAUSE: Duration = Duration::from_millis(200);
/// An offered pack counts as on its way to a holder for this long.
const OFFER_LIFE: Duration = Duration::from_secs(600);
/// A holder that did not take a pack is not offered it again for this long; others are at once.
const DECLINE_LIFE: Duration = Duration::from_secs(60);
/// Such packs that are remembered, of all holders together; beyond them some are offered again sooner.
const DECLINED_MAX: usize = 16_384;
/// The pace of the last minutes is what the next ones are judged by.
const PACE_WINDOW: Duration = Duration::from_secs(120);
/// Confirmations that the pace is taken from.
const CONFIRMED_MAX: usize = 1024;
/// Threads that read directories of packs that are elsewhere, and packs between two commits of what they found.
const DIRECTORY_READERS: usize = 8;
const DIRECTORIES_BATCH: usize = 64;
/// Holders that have nothing to get are told the head and asked for their room this often.
const TELL_INTERVAL: Duration = Duration::from_secs(300);
/// Packs under way to one holder: enough to keep it busy between rounds.
const OFFERED_MAX: usize = 1024;

/// Who has been told what there is, so that a mesh with nothing to do says next to nothing.
#[derive(Default)]
struct Told {
    when: HashMap<PeerId, Instant>,
    /// Some packs want holders, so that room must be known anew.
    lacking: bool,
}

impl Told {
    fn is_fresh(&self, holder: PeerId) -> bool {
        !self.lacking && self.when.get(&holder).is_some_and(|when| when.elapsed() < TELL_INTERVAL)
    }
}

/// What has been offered and not confirmed yet.
#[derive(Default)]
pub(super) struct Owning {
    offered: Mutex<HashMap<PackId, Vec<(PeerId, Instant)>>>,
    /// What holders did not take, and when they said so.
    declined: Mutex<HashMap<(PackId, PeerId), Instant>>,
    /// What each holder said that it can still store for us, in bytes.
    room: Mutex<HashMap<PeerId, u64>>,
    told: Mutex<Told>,
    /// The directories of all packs that heads list have been read.
    all_read: AtomicBool,
    /// When packs were confirmed, and how many, for as long as [`PACE_WINDOW`].
    confirmed: Mutex<VecDeque<(Instant, u64)>>,
}

impl Owning {
    /// A holder confirmed packs.
    pub(super) fn settle(&self, holder: PeerId, packs: &[PackId]) {
        self.note_confirmed(packs.len() as u64);
        self.take_back(holder, packs);
    }

    /// A holder does not take packs that it was offered.
    pub(super) fn decline(&self, holder: PeerId, packs: &[PackId]) {
        self.take_back(holder, packs);
        let mut declined = self.declined.lock().expect("no panic while held");
        declined.retain(|_, when| when.elapsed() < DECLINE_LIFE);
        let room = DECLINED_MAX.saturating_sub(declined.len());
        declined.extend(packs.iter().take(room).map(|pack| ((*pack, holder), Instant::now())));
    }

    fn declined(&self) -> HashSet<(PackId, PeerId)> {
        let mut declined = self.declined.lock().expect("no panic while held");
        declined.retain(|_, when| when.elapsed() < DECLINE_LIFE);
        declined.keys().copied().collect()
    }

    fn take_back(&self, holder: PeerId, packs: &[PackId]) {
        let mut offered = self.offered.lock().expect("no panic while held");
        for pack in packs {
            if let Some(peers) = offered.get_mut(pack) {
                peers.retain(|(peer, _)| *peer != holder);
                if peers.is_empty() {
                    offered.remove(pack);
                }
            }
        }
    }

    fn note_confirmed(&self, packs: u64) {
        let mut confirmed = self.confirmed.lock().expect("no panic while held");
        confirmed.retain(|(when, _)| when.elapsed() < PACE_WINDOW);
        if confirmed.len() >= CONFIRMED_MAX {
            confirmed.pop_front();
        }
        confirmed.push_back((Instant::now(), packs));
    }

    /// Packs that holders confirmed a second lately; 0 when none did.
    pub(super) fn packs_per_second(&self) -> f64 {
        let confirmed = self.confirmed.lock().expect("no panic while held");
        let recent = confirmed.iter().filter(|(when, _)| when.elapsed() < PACE_WINDOW);
        let (first, packs) =
            recent.fold((None, 0), |(first, sum), (when, packs)| (first.or(Some(when)), sum + packs));
        first.map_or(0.0, |first| packs as f64 / first.elapsed().as_secs_f64().max(1.0))
    }

    /// Peers that packs are under way to.
    pub(super) fn receivers(&self) -> HashSet<PeerId> {
        self.under_way().1.into_keys().collect()
    }

    /// What a holder said last that it can still store.
    pub(super) fn room(&self, holder: PeerId) -> Option<u64> {
        self.room.lock().expect("no panic while held").get(&holder).copied()
    }

    /// The same, if it was asked a short time ago and nothing wants a holder.
    fn fresh_room(&self, holder: PeerId) -> Option<u64> {
        let fresh = self.told.lock().expect("no panic while held").is_fresh(holder);
        self.room(holder).filter(|_| fresh)
    }

    fn note_lacking(&self, lacking: bool) {
        self.told.lock().expect("no panic while held").lacking = lacking;
    }

    fn note_room(&self, holder: PeerId, bytes: u64) {
        self.told.lock().expect("no panic while held").when.insert(holder, Instant::now());
        self.room.lock().expect("no panic while held").insert(holder, bytes);
    }

    /// A holder came or went: what it was offered is open again.
    pub(super) fn forget_offers(&self, holder: PeerId) {
        self.room.lock().expect("no panic while held").remove(&holder);
        self.told.lock().expect("no panic while held").when.remove(&holder);
        self.declined.lock().expect("no panic while held").retain(|(_, peer), _| *peer != holder);
        let mut offered = self.offered.lock().expect("no panic while held");
        offered.retain(|_, peers| {
            peers.retain(|(peer, _)| *peer != holder);
            !peers.is_empty()
        });
    }

    /// Peers that a pack is under way to, and the number of packs under way to each peer.
    fn under_way(&self) -> (HashMap<PackId, Vec<PeerId>>, HashMap<PeerId, usize>) {
        let mut offered = self.offered.lock().expect("no panic while held");
        offered.retain(|_, peers| {
            peers.retain(|(_, when)| when.elapsed() < OFFER_LIFE);
            !peers.is_empty()
        });
        let mut load = HashMap::new();
        let packs = offered.iter().map(|(pack, peers)| {
            let peers: Vec<PeerId> = peers.iter().map(|(peer, _)| *peer).collect();
            for peer in &peers {
                *load.entry(*peer).or_insert(0) += 1;
            }
            (*pack, peers)
        });
        (packs.collect(), load)
    }

    fn note(&self, holder: PeerId, packs: &[PackId]) {
        let mut offered = self.offered.lock().expect("no panic while held");
        for pack in packs {
            offered.entry(*pack).or_default().push((holder, Instant::now()));
        }
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
        return Ok(());
    }
    for peer in peers.iter().copied() {
        if let Err(error) = learn_heads(core, &net, peer, vault).await {
            tracing::debug!(target: "replicate", peer = %peer.short(), code = error.code, %error, "comparing heads failed");
        }
    }
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
    let mut free: Vec<(PeerId, u64)> = Vec::new();
    let (under_way, load) = core.owning.under_way();
    let (confirmed, lacking) = core
        .blocking(move |core| Ok((confirmed_by(core, vault)?, lacking(core, vault, &under_way)?)))
        .await?;
    core.owning.note_lacking(!lacking.is_empty());
    for peer in peers.iter().copied() {
        // One with no room confirms nothing.
        if let Some(bytes) = core.owning.fresh_room(peer).filter(|b| *b == 0 || confirmed.contains(&peer)) {
            free.extend((bytes > 0).then_some((peer, bytes)));
            continue;
        }
        match offer(core, &net, peer, vault, &[]).await {
            Ok(bytes) => {
                core.owning.note_room(peer, bytes);
                free.extend((bytes > 0).then_some((peer, bytes)));
            }
            Err(error) => {
                if error.kind() == Code::StorageFull {
                    core.owning.note_room(peer, 0);
                }
                tracing::debug!(target: "replicate", peer = %peer.short(), code = error.code, %error, "takes no offer");
            }
        }
    }
    if let Ok(open) = core.vault() {
        log_failure(sharing::round(core, &net, &open, &peers).await, "sharing packs among devices");
    }
    // What a holder lost goes to others, if there are enough of them.
    let now = core.now();
    let proven = |peer: &PeerId| !core.auditing.is_on_probation(peer, now);
    if free.iter().filter(|(peer, _)| proven(peer)).count() >= core.settings().replication.copies as usize {
        free.retain(|(peer, _)| proven(peer));
    }
    let declined = core.owning.declined();
    let placed = core
        .blocking(move |core| {
            Ok(engine::place_packs(&lacking, &free, &declined, core.settings().replication.copies))
        })
        .await?;
    for (peer, packs) in placed {
        let room = OFFERED_MAX.saturating_sub(load.get(&peer).copied().unwrap_or(0));
        let packs = &packs[..packs.len().min(room).min(limit::OFFER_PACKS_MAX)];
        if packs.is_empty() {
            continue;
        }
        core.owning.note(peer, packs);
        if let Err(error) = offer(core, &net, peer, vault, packs).await {
            core.owning.forget_offers(peer);
            tracing::debug!(target: "replicate", peer = %peer.short(), code = error.code, %error, "offer failed");
        }
    }
    Ok(())
}

/// Holders that have confirmed the records of this device's newest head.
fn confirmed_by(core: &Arc<Core>, vault: VaultId) -> Result<HashSet<PeerId>, ApiError> {
    let newest = own_head(core, vault)?.map(|head| head.id);
    let all = core.store.head_receipts().map_err(failed)?;
    Ok(all.into_iter().filter(|(_, _, _, head)| Some(*head) == newest).map(|(holder, ..)| holder).collect())
}

/// Own packs with fewer copies than wished: id, length, holders and those on their way to be. Only packs that this
/// device's head lists: holders take no others, and a backup under way has indexed packs that no head lists yet.
fn lacking(
    core: &Arc<Core>,
    vault: VaultId,
    under_way: &HashMap<PackId, Vec<PeerId>>,
) -> Result<Vec<(PackId, u64, Vec<PeerId>)>, ApiError> {
    let Some(head) = own_head(core, vault)? else { return Ok(Vec::new()) };
    let listed = engine::head_packs(&core.store, &head).map_err(failed)?;
    let listed: HashSet<PackId> = listed.into_iter().map(|(id, _)| id).collect();
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
    let mut out = Vec::new();
    let left = sharing::left_to_others(core, vault)?;
    let copies = core.settings().replication.copies as usize;
    core.store
        .for_each_pack(true, |row| {
            let mut have = holders.remove(&row.number).unwrap_or_default();
            for peer in under_way.get(&row.id).into_iter().flatten() {
                if !have.contains(peer) {
                    have.push(*peer);
                }
            }
            if have.len() < copies && listed.contains(&row.id) && !left.contains(&row.id) {
                out.push((row.id, row.bytes, have));
            }
            true
        })
        .map_err(failed)?;
    // Those with the fewest copies first.
    out.sort_by_key(|(_, _, holders)| holders.len());
    Ok(out)
}

/// Offers this device's newest head, and packs; returns what the peer has free.
async fn offer(
    core: &Arc<Core>,
    net: &Net,
    peer: PeerId,
    vault: VaultId,
    packs: &[PackId],
) -> Result<u64, ApiError> {
    let head = core.blocking(move |core| own_head(core, vault)).await?;
    let Some(head) = head else { return Ok(0) };
    let offer = wire::Offer {
        vault: vault.as_bytes().to_vec(),
        head: Some(head.summary().to_wire()),
        packs: packs.iter().map(|id| id.as_bytes().to_vec()).collect(),
    };
    match ask(net, peer, Ask::Offer(offer)).await? {
        Some(Answer::Offer(answer)) => Ok(answer.free_bytes),
        _ => Ok(0),
    }
}

/// The newest head that this node's device wrote (its certificate names this node).
fn own_head(core: &Arc<Core>, vault: VaultId) -> Result<Option<Head>, ApiError> {
    let heads = engine::newest_heads(&core.store, vault).map_err(failed)?;
    let mine = heads.into_iter().filter(|head| head.certificate.peer == core.key.peer_id());
    Ok(mine.max_by_key(|head| head.draft.time))
}

/// Takes over heads of the vault that a peer has and this node does not: of other devices, or of this one if its own
/// disk is an old image.
async fn learn_heads(core: &Arc<Core>, net: &Net, peer: PeerId, vault: VaultId) -> Result<(), ApiError> {
    let theirs = heads_of(core, net, peer, vault).await?;
    devices::learn(core, vault, theirs.revocations).await?;
    let mine = core.blocking(move |core| engine::known_heads(&core.store, vault).map_err(failed)).await?;
    let me = core.key.peer_id();
    let own = mine.iter().find(|head| head.certificate.peer == me);
    let mut news = false;
    let revoked = core.blocking(move |core| engine::revocations(&core.store, vault).map_err(failed)).await?;
    let nodes: Vec<PeerId> = mine.iter().map(|head| head.certificate.peer).collect();
    for head in theirs.heads {
        let known = mine.iter().any(|mine| mine.device() == head.device && mine.draft.seq >= head.seq);
        let rolled_back = own.is_some_and(|own| own.device() == head.device);
        let counts = revoked.admits(head.device, head.seq, head.id);
        if known || !counts || (rolled_back && core.vault().is_err()) {
            // A newer head of this very device is taken over only when its branch and ours can be joined at once.
            continue;
        }
        let (head, came) = pull_head(core, net, peer, vault, head.id).await?;
        news |= came != HeadNews::Known;
        if came != HeadNews::Known && !rolled_back {
            let before = mine.iter().find(|mine| mine.device() == head.device());
            devices::meet_holders(core, &head, before, &nodes).await?;
        }
        if let (true, Some(own)) = (rolled_back && came != HeadNews::Known, own) {
            tracing::warn!(target: "replicate", peer = %peer.short(), seq = head.draft.seq, ours = own.draft.seq,
                "a holder has a newer head of this device than this disk: an old copy of the disk is in use; joining both");
            let snapshots = own.draft.snapshots.clone();
            core.blocking(move |core| {
                let holders = core.holder_addresses();
                let vault = core.vault()?;
                engine::publish_next_head(&vault, &snapshots, &holders).map_err(failed)
            })
            .await?;
        }
    }
    if news {
        core.owning.all_read.store(false, Ordering::Relaxed);
    }
    Ok(())
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
    let net = net.clone();
    core.blocking(move |core| {
        // Heads that come meanwhile are looked at again.
        core.owning.all_read.store(true, Ordering::Relaxed);
        // What this device alone lists belongs here. The rest counts as written by others, also when it was listed here before
        // the index was made anew: nothing tells any more whether a holder had promised to keep it for this device.
        let (mut missing, mut others) = (Vec::new(), HashSet::new());
        for head in engine::newest_heads(&core.store, vault_id).map_err(failed)? {
            for (id, size) in engine::head_packs(&core.store, &head).map_err(failed)? {
                if core.store.pack_by_id(id).map_err(failed)?.is_none() {
                    missing.push((id, size));
                    others.extend((head.device() != vault.device()).then_some(id));
                }
            }
        }
        missing.sort_unstable();
        missing.dedup();
        let source = Mesh::new(core.clone(), net, None);
        let mut entered = 0;
        let mut failure = None;
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
            entered += core.store.index_borrowed(&borrowed).map_err(failed)?.len() as u64;
            failure = errors.into_iter().find_map(Result::err).or(failure);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten owners that asked each other every half minute would have sent kilobytes a second for nothing.
    #[test]
    fn holders_are_not_asked_again_while_nothing_wants_one() {
        let (owning, holder) = (Owning::default(), PeerId::new([1; 32]));
        assert_eq!(owning.fresh_room(holder), None);
        owning.note_room(holder, 7);
        assert_eq!(owning.fresh_room(holder), Some(7));
        owning.note_lacking(true);
        assert_eq!((owning.fresh_room(holder), owning.room(holder)), (None, Some(7)));
        owning.note_lacking(false);
        // It was away meanwhile.
        owning.forget_offers(holder);
        assert_eq!(owning.fresh_room(holder), None);
    }

    #[test]
    fn what_a_holder_does_not_take_is_open_for_others_at_once() {
        let owning = Owning::default();
        let [one, two] = [PeerId::new([1; 32]), PeerId::new([2; 32])];
        let packs: Vec<PackId> = (0..3).map(|n| PackId::new([n; 32])).collect();
        owning.note(one, &packs);
        owning.note(two, &packs[..1]);
        owning.decline(one, &packs[..2]);
        let (under_way, load) = owning.under_way();
        assert_eq!((under_way.get(&packs[0]), under_way.get(&packs[1])), (Some(&vec![two]), None));
        assert_eq!((load.get(&one), load.get(&two)), (Some(&1), Some(&1)));
        assert_eq!(owning.declined(), HashSet::from([(packs[0], one), (packs[1], one)]));
        // One that comes back is another one.
        owning.forget_offers(one);
        assert_eq!(owning.declined(), HashSet::new());
    }
}
