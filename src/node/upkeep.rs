//! Looking now and then whether the time of something that is kept is over.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::core::{Core, log_failure};
use super::error::failed;
use crate::api::ApiError;
use crate::base::{VaultId, limit, meter};
use crate::engine;

const DAY: Duration = Duration::from_secs(86_400);

/// Packs and bytes of each vault that no newest head lists and that are held all the same, as last counted.
#[derive(Default)]
pub(super) struct OnHold(Mutex<BTreeMap<VaultId, (u64, u64)>>);

impl OnHold {
    /// Of one vault.
    pub(super) fn of(&self, vault: VaultId) -> (u64, u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&vault).copied().unwrap_or_default()
    }

    /// Of all vaults.
    pub(super) fn sum(&self) -> (u64, u64) {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.values().fold((0, 0), |(packs, bytes), one| (packs + one.0, bytes + one.1))
    }
}

impl Core {
    /// Looks until the node ends. Time counts for the hold while this runs, by a clock that cannot be set.
    pub(super) async fn hold_upkeep(self: Arc<Self>) {
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

/// Looks once. Blocking.
pub(super) fn look(core: &Arc<Core>, elapsed: Duration) -> Result<(), ApiError> {
    let hold = DAY * core.settings().storage.hold_days;
    let done = engine::drop_expired(&core.store, core.vault_id(), hold, elapsed).map_err(failed)?;
    let (packs, bytes) = done.deleted;
    if packs > 0 || done.records > 0 {
        tracing::info!(target: "hold", packs, bytes, records = done.records, "what the hold kept is gone");
    }
    *core.on_hold.0.lock().unwrap_or_else(PoisonError::into_inner) = done.held;
    meter::HELD_BYTES.set(core.on_hold.sum().1 as f64);
    clear_quarantine(core)
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
