//! A small disk (`storage.local_copy: cache`): own packs go once holders have proved to have them, and come back when copies
//! are missing.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::auditing;
use super::core::{Core, log_failure};
use super::error::failed;
use super::sharing;
use crate::api::ApiError;
use crate::base::{ByteSize, PackId, PeerId, limit};
use crate::config::LocalCopy;
use crate::engine::{self, Cached, Vault};
use crate::net::Net;
use crate::store::{PackNumber, PackRow};

/// What is known of the packs here.
#[derive(Default)]
pub(super) struct Caching {
    /// Packs that were found to have trees.
    trees: Mutex<HashSet<PackNumber>>,
    is_shrinking: AtomicBool,
    /// When nothing could be given up.
    in_vain: Mutex<Option<Instant>>,
}

impl Caching {
    fn is_resting(&self) -> bool {
        let in_vain = *self.in_vain.lock().expect("no panic while held");
        in_vain.is_some_and(|when| when.elapsed() < limit::EVICTION_PAUSE)
    }

    /// Rests from now on, or no more.
    fn rest(&self, rest: bool) {
        *self.in_vain.lock().expect("no panic while held") = rest.then(Instant::now);
    }
}

/// What a job read could not be given up meanwhile, and it may have brought more: looked at now, not after a rest.
pub(super) fn job_ended(core: &Core) {
    if is_on(core) {
        core.caching.rest(false);
        core.changed.notify_one();
    }
}

/// Whether own packs need not all be here.
pub(super) fn is_on(core: &Core) -> bool {
    core.settings().storage.local_copy == LocalCopy::Cache
}

/// Once in a round: brings back what lacks copies and is not here, and, where all is kept, what snapshots of this device refer to;
/// gives up what is too much here. All in the background.
pub(super) fn tend(core: &Arc<Core>, net: &Net, vault: &Arc<Vault>, absent: Vec<PackRow>) {
    sharing::bring(core, net, vault, absent);
    if is_on(core) && !core.caching.is_resting() {
        shrink(core);
    }
}

/// What is to be offered to whom.
type Placed = BTreeMap<PeerId, Vec<PackId>>;

/// Parts what is to be offered into what can be offered now and packs to bring back first, because holders pull from here.
/// What another device wrote and nobody is known to have is offered all the same: who has it says so.
pub(super) fn part_absent(core: &Core, mut placed: Placed) -> Result<(Placed, Vec<PackRow>), ApiError> {
    let elsewhere = engine::packs_elsewhere(&core.store).map_err(failed)?;
    if elsewhere.is_empty() {
        return Ok((placed, Vec::new()));
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
    let (connected, counted) = (core.connected(), core.counted_now());
    let counts = |peer: &PeerId| connected.contains(peer) && counted(peer);
    let here = engine::cached_packs(&core.store, &kept, counts).map_err(failed)?;
    let mut chosen = engine::choose_evicted(here, most, copies);
    if chosen.is_empty() {
        return Ok(chosen);
    }
    let trees = engine::tree_packs(&core.store, &chosen).map_err(failed)?;
    chosen.retain(|pack| !trees.contains(&pack.row.number));
    core.caching.trees.lock().expect("no panic while held").extend(trees);
    Ok(chosen)
}

fn give_up(core: &Arc<Core>, chosen: &[Cached], proven: &BTreeSet<(PeerId, PackId)>) -> Result<(), ApiError> {
    let rows = engine::proven(chosen, proven, core.settings().replication.copies);
    let gave_up = !rows.is_empty() && core.store.give_up(&rows).map_err(failed)?;
    core.caching.rest(!gave_up);
    if gave_up {
        let (packs, bytes) = (rows.len(), ByteSize(rows.iter().map(|row| row.bytes).sum()));
        tracing::info!(target: "cache", packs, %bytes, "holders proved to have packs; they are given up here");
        core.changed.notify_one();
    }
    Ok(())
}
