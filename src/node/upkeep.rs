//! Looking now and then whether the time of something that is kept is over.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::core::{Core, log_failure};
use super::error::failed;
use crate::api::ApiError;
use crate::base::{DeviceId, PeerId, VaultId, limit, meter};
use crate::engine::{self, HoldResult};
use crate::net::Net;
use crate::store::Store;

const DAY: Duration = Duration::from_secs(86_400);

/// What the hold was found to keep when it was looked last.
#[derive(Default)]
pub(super) struct OnHold(Mutex<HoldResult>);

impl OnHold {
    fn last(&self) -> MutexGuard<'_, HoldResult> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Packs and bytes of one vault that no newest head lists.
    pub(super) fn of(&self, vault: VaultId) -> (u64, u64) {
        self.last().held.get(&vault).copied().unwrap_or_default()
    }

    /// Newest heads of others that are gone and have not come again, in words.
    pub(super) fn lost(&self, store: &Store) -> Vec<String> {
        let line = |(vault, device, seq): &(VaultId, DeviceId, u64)| {
            format!(
                "head {seq} of device {} of vault {}, which is kept here for others, is gone: nothing of that vault is removed until its owner brings it again",
                device.short(),
                vault.short()
            )
        };
        let is_gone = |(vault, device, seq): &&(VaultId, DeviceId, u64)| {
            store.head_names(*vault, *device).map_or(true, |names| names.iter().all(|(here, _)| here < seq))
        };
        self.last().lost.iter().filter(is_gone).map(line).collect()
    }

    /// Of all vaults.
    pub(super) fn sum(&self) -> (u64, u64) {
        let add = |(packs, bytes), one: &(u64, u64)| (packs + one.0, bytes + one.1);
        self.last().held.values().fold((0, 0), add)
    }
}

impl Core {
    /// Looks until the node ends. Time counts for the hold while this runs, by a clock that cannot be set.
    pub(super) async fn hold_upkeep(self: Arc<Self>) {
        log_failure(self.blocking(know_all).await, "looking for packs that the index does not know");
        let mut last = Instant::now();
        loop {
            let elapsed = last.elapsed();
            last = Instant::now();
            log_failure(self.blocking(move |core| look(core, elapsed)).await, "looking what the hold keeps");
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(limit::HOLD_LOOK) => {}
            }
        }
    }
}

/// Takes in what lies here for others and an older index does not know, before anything is taken for not being here. Blocking.
fn know_all(core: &Arc<Core>) -> Result<(), ApiError> {
    let packs = engine::adopt_listed(&core.store).map_err(failed)?;
    if packs > 0 {
        tracing::warn!(target: "hold", packs, "packs that lie here for others were not in the index: is it an older one?");
    }
    Ok(())
}

/// Looks once. Blocking.
pub(super) fn look(core: &Arc<Core>, elapsed: Duration) -> Result<(), ApiError> {
    drop_vacant(core)?;
    let hold = DAY * core.settings().storage.hold_days;
    let done = engine::drop_expired(&core.store, core.vault_id(), hold, elapsed).map_err(failed)?;
    let (packs, bytes) = done.deleted;
    if packs > 0 || done.records > 0 {
        tracing::info!(target: "hold", packs, bytes, records = done.records, "what the hold kept is gone");
    }
    *core.on_hold.last() = done;
    meter::HELD_BYTES.set(core.on_hold.sum().1 as f64);
    clear_quarantine(core)
}

/// Vaults of which no pack is here make room for others once who brought them is gone. Blocking.
pub(super) fn drop_vacant(core: &Core) -> Result<(), ApiError> {
    let since = core.now().before(limit::EMPTY_VAULT_KEPT);
    let known = core.net().map(Net::peers).unwrap_or_default();
    let here: Vec<PeerId> =
        known.iter().filter(|peer| peer.connected && peer.member).map(|peer| peer.id).collect();
    let stays = |peer| here.contains(&peer) || core.book().keeps_place(peer, since);
    let dropped = engine::drop_vacant(&core.store, core.vault_id(), stays).map_err(failed)?;
    for vault in dropped {
        tracing::info!(target: "hold", vault = %vault.short(), "a vault of which no pack is here is dropped: who brought it is gone");
    }
    Ok(())
}

/// Damaged files that were replaced long ago go; on a full disk all of them.
fn clear_quarantine(core: &Core) -> Result<(), ApiError> {
    let kept = if core.store.room() > 0 { limit::QUARANTINE_KEPT } else { Duration::ZERO };
    let before = core.now().before(kept);
    let (files, bytes) = core.store.clear_quarantine(before).map_err(failed)?;
    if files > 0 {
        tracing::info!(target: "repair", files, bytes, "damaged files that were replaced are deleted");
    }
    Ok(())
}
