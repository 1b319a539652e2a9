//! A small disk (`storage.local_copy: cache`): own packs go once holders have proved to have them, and come back when copies
//! are missing.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::auditing;
use super::core::{Core, log_failure};
use super::error::failed;
use super::source::Mesh;
use crate::api::ApiError;
use crate::base::{ByteSize, Code, PackId, PeerId, limit};
use crate::config::LocalCopy;
use crate::engine::{self, Cached, Monitor, Vault};
use crate::net::Net;
use crate::store::{Borrowed, PackNumber, PackRow};

/// What is known of the packs here.
#[derive(Default)]
pub(super) struct Caching {
    /// Packs that were found to have trees.
    trees: Mutex<HashSet<PackNumber>>,
    is_shrinking: AtomicBool,
    /// When nothing could be given up.
    in_vain: Mutex<Option<Instant>>,
    is_fetching: AtomicBool,
}

impl Caching {
    fn is_resting(&self) -> bool {
        let in_vain = *self.in_vain.lock().expect("no panic while held");
        in_vain.is_some_and(|when| when.elapsed() < limit::EVICTION_PAUSE)
    }

    fn note(&self, gave_up: bool) {
        *self.in_vain.lock().expect("no panic while held") = (!gave_up).then(Instant::now);
    }
}

/// Whether own packs need not all be here.
pub(super) fn is_on(core: &Core) -> bool {
    core.settings().storage.local_copy == LocalCopy::Cache
}

/// Once in a round: brings back what is wanted and not here, and gives up what is too much here, both in the background.
pub(super) fn tend(core: &Arc<Core>, net: &Net, vault: &Arc<Vault>, absent: Vec<PackRow>) {
    bring_back(core, net, vault, absent);
    if is_on(core) && !core.caching.is_resting() {
        shrink(core);
    }
}

/// Of what is elsewhere, what this device alone lists: it gave that up when its disk was to be small.
fn given_up(core: &Arc<Core>, vault: &Vault, elsewhere: Elsewhere) -> Result<Vec<PackRow>, ApiError> {
    let of_others = listed(core, vault)?.1;
    let own = elsewhere.into_values().map(|(row, _)| row).filter(|row| !of_others.contains(&row.id));
    Ok(own.take(limit::EVICTED_AT_ONCE).collect())
}

/// Packs that this device's heads list, and those that the others' do.
fn listed(core: &Arc<Core>, vault: &Vault) -> Result<(HashSet<PackId>, HashSet<PackId>), ApiError> {
    let (mut own, mut of_others) = (HashSet::new(), HashSet::new());
    for head in engine::newest_heads(&core.store, vault.id()).map_err(failed)? {
        let packs = engine::head_packs(&core.store, &head).map_err(failed)?.into_iter().map(|(id, _)| id);
        if head.device() == vault.device() { own.extend(packs) } else { of_others.extend(packs) }
    }
    Ok((own, of_others))
}

/// What is to be offered to whom.
type Placed = BTreeMap<PeerId, Vec<PackId>>;
/// Packs that are not here, and how they stand.
type Elsewhere = HashMap<PackNumber, (PackRow, Borrowed)>;

/// What is to be offered now, and packs to bring back first because holders pull from here, or because everything is to be
/// here. What another device wrote and nobody is known to have is offered all the same: who has it says so.
pub(super) fn part_absent(core: &Arc<Core>, mut placed: Placed) -> Result<(Placed, Vec<PackRow>), ApiError> {
    let elsewhere = engine::packs_elsewhere(&core.store).map_err(failed)?;
    if elsewhere.is_empty() {
        return Ok((placed, Vec::new()));
    }
    if !is_on(core) {
        // Not at once: who has just recovered a vault restores what is needed first.
        let is_settled = core.started.elapsed() >= limit::EVICTION_PAUSE;
        let back = match core.vault() {
            Ok(vault) if is_settled => given_up(core, &vault, elsewhere)?,
            _ => Vec::new(),
        };
        return Ok((placed, back));
    }
    let (counts, copies) = (core.counted(), core.settings().replication.copies as usize);
    let mut absent: BTreeMap<PackNumber, PackRow> = BTreeMap::new();
    for packs in placed.values_mut() {
        let mut here = Vec::with_capacity(packs.len());
        for id in packs.drain(..) {
            let row = core.store.pack_by_id(id).map_err(failed)?;
            let Some(row) = row.filter(|row| elsewhere.contains_key(&row.number)) else {
                here.push(id);
                continue;
            };
            match core.store.holders_of(id).map_err(failed)?.iter().filter(|holder| counts(holder)).count() {
                0 => here.push(id),
                held if held < copies => drop(absent.insert(row.number, row)),
                // Holders have said so since it was looked for.
                _ => {}
            }
        }
        *packs = here;
    }
    placed.retain(|_, packs| !packs.is_empty());
    Ok((placed, absent.into_values().take(limit::EVICTED_AT_ONCE).collect()))
}

fn shrink(core: &Arc<Core>) {
    if core.caching.is_shrinking.swap(true, Ordering::AcqRel) {
        return;
    }
    let core = core.clone();
    core.tasks.clone().spawn(async move {
        log_failure(shrink_now(&core).await, "giving up packs that holders have");
        core.caching.is_shrinking.store(false, Ordering::Release);
    });
}

async fn shrink_now(core: &Arc<Core>) -> Result<(), ApiError> {
    let chosen = core.blocking(choose).await?;
    if chosen.is_empty() {
        return Ok(());
    }
    let mut asked: HashMap<PeerId, Vec<(PackId, u64)>> = HashMap::new();
    for pack in &chosen {
        for holder in &pack.holders {
            asked.entry(*holder).or_default().push((pack.row.id, pack.row.bytes));
        }
    }
    let proven = auditing::prove(core, asked).await?;
    core.blocking(move |core| give_up(core, &chosen, &proven)).await
}

fn choose(core: &Arc<Core>) -> Result<Vec<Cached>, ApiError> {
    let settings = core.settings();
    let (most, copies) = (settings.storage.max_cache_size, settings.replication.copies);
    let kept = core.caching.trees.lock().expect("no panic while held").clone();
    let connected = core.connected();
    let here = engine::cached_packs(&core.store, &kept, |peer| connected.contains(peer)).map_err(failed)?;
    let mut chosen = engine::choose_evicted(here, most, copies);
    if chosen.is_empty() {
        return Ok(chosen);
    }
    let trees = engine::tree_packs(&core.store, &chosen).map_err(failed)?;
    chosen.retain(|pack| !trees.contains(&pack.row.number));
    core.caching.trees.lock().expect("no panic while held").extend(trees);
    Ok(chosen)
}

/// What was entered from this device's own head can be referred to once a holder has it: called when holders confirmed
/// something.
pub(super) fn confirm(core: &Arc<Core>) -> Result<(), ApiError> {
    let Ok(vault) = core.vault() else { return Ok(()) };
    if core.store.unconfirmed_packs().is_empty() {
        return Ok(());
    }
    let (mut listed, of_others) = listed(core, &vault)?;
    listed.retain(|id| !of_others.contains(id));
    let confirmed = engine::confirm_listed(&core.store, &listed).map_err(failed)?;
    core.store.set_borrowed(&confirmed, Borrowed::Confirmed).map_err(failed)
}

/// The same for what holders confirmed before the index was made anew: it knew none of these packs then.
pub(super) fn confirm_known(core: &Arc<Core>) -> Result<(), ApiError> {
    if core.store.unconfirmed_packs().is_empty() {
        return Ok(());
    }
    for problem in engine::verify_known_receipts(&core.store).map_err(failed)? {
        tracing::warn!(target: "cache", problem, "a stored receipt cannot be read");
    }
    confirm(core)
}

fn give_up(core: &Arc<Core>, chosen: &[Cached], proven: &BTreeSet<(PeerId, PackId)>) -> Result<(), ApiError> {
    let copies = core.settings().replication.copies.max(1) as usize;
    let has_proved = |pack: &&Cached| {
        pack.holders.iter().filter(|holder| proven.contains(&(**holder, pack.row.id))).count() >= copies
    };
    let rows: Vec<PackRow> = chosen.iter().filter(has_proved).map(|pack| pack.row).collect();
    let gave_up = !rows.is_empty() && core.store.give_up(&rows).map_err(failed)?;
    core.caching.note(gave_up);
    if gave_up {
        let (packs, bytes) = (rows.len(), ByteSize(rows.iter().map(|row| row.bytes).sum()));
        tracing::info!(target: "cache", packs, %bytes, "holders proved to have packs; they are given up here");
        core.changed.notify_one();
    }
    Ok(())
}

fn bring_back(core: &Arc<Core>, net: &Net, vault: &Arc<Vault>, packs: Vec<PackRow>) {
    if packs.is_empty() || core.caching.is_fetching.swap(true, Ordering::AcqRel) {
        return;
    }
    let (core, vault) = (core.clone(), vault.clone());
    let source = Mesh::new(core.clone(), net.clone(), None);
    core.tasks.clone().spawn(async move {
        let pulled = core.blocking(move |core| pull(core, &vault, &source, &packs)).await;
        core.caching.is_fetching.store(false, Ordering::Release);
        match pulled {
            Err(error) if matches!(error.kind(), Code::ChunkNotFound | Code::StorageFull | Code::Cancelled) => {
                tracing::debug!(target: "cache", code = error.code, %error, "packs that lack copies cannot be had now");
            }
            other => log_failure(other, "bringing back packs that lack copies"),
        }
    });
}

fn pull(core: &Arc<Core>, vault: &Vault, source: &Mesh, packs: &[PackRow]) -> Result<(), ApiError> {
    for row in packs {
        if core.stop.is_cancelled() {
            break;
        }
        engine::keep_here(vault, source, row, &Monitor::default()).map_err(failed)?;
        if !is_on(core) {
            core.store.set_borrowed(&[row.number], Borrowed::Kept).map_err(failed)?;
        }
        core.changed.notify_one();
    }
    Ok(())
}
