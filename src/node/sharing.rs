//! Packs that are with holders and not here: those that another device wrote, and those that this one gave up. Whoever wrote
//! one brings it to holders, the others refer to it.
//!
//! What another device wrote is entered from its sealed directories (`owning`), listed in this device's next head, and asked
//! for at holders: one that says of this device's head that it has the pack will keep it as long as that is listed, so from
//! then on backups refer to its chunks instead of sending them again. With a full local copy, packs that snapshots of this
//! device refer to are then pulled as well.
//!
//! A pack that a device which is at work has written and lists is left to that device: two that place copies of one pack
//! at the same time would make too many.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::auditing;
use super::caching;
use super::core::{Core, log_failure};
use super::error::failed;
use super::owning::{offer, own_head};
use super::records::ask;
use super::source::Mesh;
use crate::api::ApiError;
use crate::base::{Code, HeadId, PackId, PeerId, VaultId, limit};
use crate::engine::{self, Monitor, Vault};
use crate::net::Net;
use crate::snapshot::Head;
use crate::store::{Borrowed, PackNumber, PackRow};
use crate::wire::{self, sync_request::Ask, sync_response::Answer};

/// A holder that answered is asked again about the same heads after this, while something is still missing.
const ASK_PAUSE: Duration = Duration::from_secs(30);

/// What was asked of holders about packs of other devices.
#[derive(Default)]
pub(super) struct Sharing {
    asked: Mutex<HashMap<PeerId, (Vec<HeadId>, Instant)>>,
    /// Packs are being pulled that are not here.
    is_pulling: AtomicBool,
}

impl Sharing {
    /// A holder came or went: it is asked anew.
    pub(super) fn forget(&self, holder: PeerId) {
        self.asked.lock().expect("no panic while held").remove(&holder);
    }

    fn is_due(&self, holder: PeerId, heads: &[HeadId]) -> bool {
        let asked = self.asked.lock().expect("no panic while held");
        asked.get(&holder).is_none_or(|(known, when)| known != heads || when.elapsed() >= ASK_PAUSE)
    }

    fn note(&self, holder: PeerId, heads: Vec<HeadId>) {
        self.asked.lock().expect("no panic while held").insert(holder, (heads, Instant::now()));
    }
}

/// What to ask holders: of each head, which of these packs they have.
struct Questions {
    heads: Vec<HeadId>,
    each: Vec<(Head, Vec<PackId>)>,
    /// This device's head.
    own: HeadId,
}

/// Everything that concerns packs that need not be here, once in a round: does nothing where there are none and this device
/// is the only one.
pub(super) async fn round(
    core: &Arc<Core>,
    net: &Net,
    vault: &Arc<Vault>,
    peers: &[PeerId],
) -> Result<(), ApiError> {
    if let Some(questions) = questions(core, vault).await? {
        ask_all(core, net, vault, peers, &questions).await;
    }
    Ok(())
}

/// Asks those holders that were not asked the same a moment ago.
async fn ask_all(core: &Arc<Core>, net: &Net, vault: &Vault, peers: &[PeerId], questions: &Questions) {
    let mut confirmed = 0;
    for peer in peers.iter().filter(|peer| core.sharing.is_due(**peer, &questions.heads)) {
        match ask_one(core, net, *peer, vault.id(), questions).await {
            Ok((count, is_complete)) => {
                confirmed += count;
                if is_complete {
                    core.sharing.note(*peer, questions.heads.clone());
                }
            }
            Err(error) => {
                tracing::debug!(target: "share", peer = %peer.short(), code = error.code, %error, "asking what it has failed");
            }
        }
    }
    if confirmed > 0 {
        let left = core.store.unconfirmed_packs().len();
        tracing::info!(target: "share", packs = confirmed, left, "packs of other devices can be referred to");
    }
}

/// Signs a head that lists what other devices have written, where the newest one does not list all of it.
pub(super) async fn list_borrowed(core: &Arc<Core>, vault: &Arc<Vault>) -> Result<(), ApiError> {
    let vault = vault.clone();
    core.blocking(move |core| {
        let unconfirmed = core.store.unconfirmed_packs();
        if unconfirmed.is_empty() || engine::is_revoked(&vault).map_err(failed)? {
            return Ok(());
        }
        let Some(own) = own_head(core, vault.id())? else { return Ok(()) };
        let listed = engine::head_packs(&core.store, &own).map(|listed| listed.map(|(id, _)| id));
        let listed: HashSet<PackId> = listed.collect::<Result<_, _>>().map_err(failed)?;
        let leaving: HashSet<PackNumber> = core.store.unlisted_packs();
        for number in unconfirmed.into_iter().filter(|number| !leaving.contains(number)) {
            let row = core.store.pack_by_number(number).map_err(failed)?;
            if row.is_some_and(|row| !listed.contains(&row.id)) {
                engine::publish_next_head(&vault, &[], &core.holder_addresses()).map_err(failed)?;
                return Ok(());
            }
        }
        Ok(())
    })
    .await
}

/// What is not known yet of packs that other devices list, or that are not here; `None` when there is nothing to ask.
async fn questions(core: &Arc<Core>, vault: &Arc<Vault>) -> Result<Option<Questions>, ApiError> {
    let vault = vault.clone();
    core.blocking(move |core| {
        let heads =
            engine::newest_heads(&core.store, vault.id()).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let (own, others): (Vec<Head>, Vec<Head>) =
            heads.map_err(failed)?.into_iter().partition(|head| head.device() == vault.device());
        let Some(own) = own.into_iter().max_by_key(|head| head.draft.seq) else { return Ok(None) };
        let unconfirmed = core.store.unconfirmed_packs();
        if others.is_empty() && unconfirmed.is_empty() {
            return Ok(None);
        }
        let wanted = core.settings().replication.copies;
        let counts = core.store.receipt_counts(core.counted()).map_err(failed)?;
        let mut heads: Vec<HeadId> = vec![own.id];
        let mut each: Vec<(Head, Vec<PackId>)> = Vec::new();
        let mut is_open = !unconfirmed.is_empty();
        let own_id = own.id;
        for head in std::iter::once(own).chain(others) {
            let mut packs = Vec::new();
            for listed in engine::head_packs(&core.store, &head) {
                let (id, _) = listed.map_err(failed)?;
                let Some(row) = core.store.pack_by_id(id).map_err(failed)? else { continue };
                let is_wanted = match head.id == own_id {
                    true => unconfirmed.contains(&row.number),
                    false => counts.get(&row.number).copied().unwrap_or(0) < wanted,
                };
                packs.extend(is_wanted.then_some(id));
            }
            if head.id != own_id {
                heads.push(head.id);
                is_open |= !packs.is_empty() || records_lack(core, &head, wanted)?;
            }
            each.push((head, packs));
        }
        Ok(is_open.then_some(Questions { heads, each, own: own_id }))
    })
    .await
}

/// Whether fewer holders than wished have confirmed the records of a head.
fn records_lack(core: &Core, head: &Head, wanted: u32) -> Result<bool, ApiError> {
    let receipts = core.store.head_receipts().map_err(failed)?;
    let counted = core.counted();
    let count = receipts.iter().filter(|(holder, _, _, id)| *id == head.id && counted(holder)).count();
    Ok((count as u64) < u64::from(wanted))
}

/// Asks one holder; how many packs it confirmed for this device, and whether it knows this device's head. A head that it does
/// not have, of a device that is not there, is offered to it: that device cannot.
async fn ask_one(
    core: &Arc<Core>,
    net: &Net,
    peer: PeerId,
    vault: VaultId,
    questions: &Questions,
) -> Result<(u64, bool), ApiError> {
    let (mut confirmed, mut is_complete) = (0, false);
    for (head, packs) in &questions.each {
        let parts: Vec<&[PackId]> =
            if packs.is_empty() { vec![&[]] } else { packs.chunks(limit::OFFER_PACKS_MAX).collect() };
        for part in parts {
            let query = wire::ReceiptQuery {
                vault: vault.as_bytes().to_vec(),
                head: head.id.as_bytes().to_vec(),
                packs: part.iter().map(|pack| pack.as_bytes().to_vec()).collect(),
            };
            let Some(Answer::Receipt(signed)) = ask(net, peer, Ask::Receipts(query)).await? else { continue };
            let (asked, own) = (head.id, questions.own);
            let part: HashSet<PackId> = part.iter().copied().collect();
            let (packs, knows_own) = core
                .blocking(move |core| take_answer(core, peer, vault, (asked, own), &part, &signed))
                .await?;
            confirmed += packs;
            is_complete |= knows_own;
        }
        let (of, summary) = (head.certificate.peer, head.summary());
        let is_missed = head.id != questions.own
            && !core.connected().contains(&of)
            && !has_records(core, peer, summary.id)?;
        // What a holder was offered with another head and has not stored yet it would not find in this one.
        if is_missed && core.owning.offered_to(peer).is_empty() {
            offer(net, peer, vault, summary, &[]).await?;
        }
    }
    Ok((confirmed, is_complete))
}

/// Whether a holder has confirmed the records of a head.
fn has_records(core: &Core, holder: PeerId, head: HeadId) -> Result<bool, ApiError> {
    let receipts = core.store.head_receipts().map_err(failed)?;
    Ok(receipts.iter().any(|(from, _, _, id)| (*from, *id) == (holder, head)))
}

/// Keeps what a holder answered about the head `asked` and these packs; how many it confirmed for this device's `own` head, and
/// whether it knows that one. Blocking.
fn take_answer(
    core: &Core,
    peer: PeerId,
    vault: VaultId,
    (asked, own): (HeadId, HeadId),
    packs: &HashSet<PackId>,
    signed: &wire::Signed,
) -> Result<(u64, bool), ApiError> {
    let news = auditing::take_receipt(core, vault, peer, signed, &|pack| packs.contains(pack))?;
    if asked != own {
        return Ok((0, false));
    }
    let Some(receipt) = news else {
        // It names no packs: either it said the same of the head before, or it does not have it.
        return Ok((0, has_records(core, peer, own)?));
    };
    if receipt.head != Some(own) {
        return Ok((0, false));
    }
    engine::confirm_borrowed(&core.store, &receipt.packs).map_err(failed)?;
    Ok((receipt.packs.len() as u64, true))
}

/// Packs that are left to other devices: they wrote them, list them, and are at work.
pub(super) fn left_to_others(core: &Arc<Core>, vault: VaultId) -> Result<HashSet<PackId>, ApiError> {
    let borrowed = core.store.borrowed().map_err(failed)?;
    if borrowed.is_empty() {
        return Ok(HashSet::new());
    }
    let (me, counted) = (core.key.peer_id(), core.counted());
    let mut left = HashSet::new();
    for head in engine::newest_heads(&core.store, vault).map_err(failed)? {
        let head = head.map_err(failed)?;
        let peer = head.certificate.peer;
        if peer == me || !counted(&peer) {
            continue;
        }
        for listed in engine::head_packs(&core.store, &head) {
            let (id, _) = listed.map_err(failed)?;
            let row = core.store.pack_by_id(id).map_err(failed)?;
            left.extend(row.filter(|row| borrowed.contains_key(&row.number)).map(|_| id));
        }
    }
    Ok(left)
}

/// Pulls packs in the background, one after the other: those that are to be offered from here, and where all is kept those that
/// snapshots of this device refer to. Does nothing while some are being pulled.
pub(super) fn bring(core: &Arc<Core>, net: &Net, vault: &Arc<Vault>, wanted: Vec<PackRow>) {
    if core.sharing.is_pulling.swap(true, Ordering::AcqRel) {
        return;
    }
    let (core, net, vault) = (core.clone(), net.clone(), vault.clone());
    let tasks = core.tasks.clone();
    tasks.spawn(async move {
        let pulled = core.blocking(move |core| pull(core, net, &vault, wanted)).await;
        core.sharing.is_pulling.store(false, Ordering::Release);
        match pulled {
            Err(error) if matches!(error.kind(), Code::ChunkNotFound | Code::StorageFull | Code::Cancelled) => {
                tracing::debug!(target: "share", code = error.code, %error, "packs that are with holders have to wait");
            }
            other => log_failure(other, "pulling packs that are with holders"),
        }
    });
}

fn pull(core: &Arc<Core>, net: Net, vault: &Vault, mut wanted: Vec<PackRow>) -> Result<(), ApiError> {
    // Where all is kept, what came belongs here from then on.
    let belong = !caching::is_on(core);
    let source = Mesh::new(core.clone(), net, None);
    if belong {
        log_failure(engine::learn_needs(vault, &source).map_err(failed), "finding out what snapshots need");
        wanted.extend(engine::referred_elsewhere(vault).map_err(failed)?);
        wanted.sort_unstable_by_key(|row| row.number);
        wanted.dedup_by_key(|row| row.number);
    }
    if wanted.is_empty() {
        return Ok(());
    }
    let (mut packs, mut bytes) = (0u64, 0u64);
    for row in wanted {
        if core.stop.is_cancelled() {
            break;
        }
        engine::keep_here(vault, &source, &row, &Monitor::default()).map_err(failed)?;
        if belong {
            core.store.set_borrowed(&[row.number], Borrowed::Kept).map_err(failed)?;
        }
        core.changed.notify_one();
        (packs, bytes) = (packs + 1, bytes + row.bytes);
    }
    tracing::info!(target: "share", packs, bytes, "packs that were with holders only are here now");
    Ok(())
}
