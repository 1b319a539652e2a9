//! The queue of damaged packs and records that wait to be mended: kept on disk, tried by itself.
//!
//! What a check finds enters before it is mended and leaves once it is, so that a node that dies in between goes on with
//! it. [`RepairQueue`] decides what is due; a try is noted before it begins.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use super::core::{Core, log_failure};
use super::error::failed;
use super::keepers::RecordMesh;
use super::source::Mesh;
use crate::api::{ApiError, JobRequest, RepairQueueStatus, RepairRequest};
use crate::base::{Moment, PackId, PeerId, VaultId, limit};
use crate::engine::{
    self, Damage, Monitor, RecordDamage, RecordRepair, RecordSource, RepairPlan, RepairResult,
};
use crate::policy::RepairQueue;
use crate::store::{Borrowed, RecordName};

/// A small state file. Losing it loses no data: checks find the damage again.
const FILE: &str = "repairs.json";

/// What changing the queue needs.
#[derive(Default)]
pub(super) struct Mending {
    /// Held while it is changed.
    one: Mutex<()>,
    /// Something changed: look again.
    changed: Notify,
}

/// The queue. A file that cannot be read is as good as none. Blocking.
pub(super) fn queue(core: &Core) -> RepairQueue {
    core.store.read_state_if_sound(FILE).ok().flatten().unwrap_or_default()
}

/// Changes the queue. Blocking.
pub(super) fn edit<T>(core: &Core, edit: impl FnOnce(&mut RepairQueue) -> T) -> T {
    let _one = core.mending.one.lock().expect("no panic while held");
    let before = queue(core);
    let mut after = before.clone();
    let result = edit(&mut after);
    if after != before {
        log_failure(core.store.publish_state(FILE, &after).map_err(failed), "noting what is to be mended");
        core.mending.changed.notify_one();
    }
    result
}

/// These packs are damaged, as a check found; with `all`, which read every pack, none else is. Blocking.
pub(super) fn note(core: &Core, damages: &[Damage], all: bool) {
    edit(core, |queue| {
        let damaged: HashSet<PackId> = damages.iter().map(|damage| damage.pack).collect();
        if all {
            queue.keep(|pack| damaged.contains(pack));
        }
        queue.enter(damaged, core.now());
    });
}

/// These packs belong here; those that are not come from whoever has them. Blocking.
pub(super) fn expect(core: &Core, packs: impl Iterator<Item = PackId>) -> Result<(), ApiError> {
    let mut absent = Vec::new();
    for pack in packs {
        if core.store.pack_length(pack).map_err(failed)?.is_none() {
            absent.push(pack);
        }
    }
    if absent.is_empty() {
        return Ok(());
    }
    edit(core, |queue| {
        queue.enter(absent, core.now());
        // They are known from somebody who is there now.
        queue.hurry(core.now());
    });
    Ok(())
}

/// Records are damaged here, as a check of all found, or none is. Blocking.
pub(super) fn note_records(core: &Core, damaged: bool) {
    edit(core, |queue| queue.note_records(damaged, core.now()));
}

/// Gets records again from members. They wait in the queue until all are sound. Blocking.
pub(super) fn carry_out_records(
    core: &Arc<Core>,
    damages: Vec<RecordDamage>,
    monitor: &Monitor,
) -> Result<RecordRepair, ApiError> {
    if damages.is_empty() {
        return Ok(RecordRepair::default());
    }
    note_records(core, true);
    let mesh = RecordMesh::new(core);
    let source: &dyn RecordSource = match &mesh {
        Some(mesh) => mesh,
        None => &Offline,
    };
    engine::repair_records(&core.store, damages, source, monitor).map_err(failed)
}

/// Nobody can be asked.
struct Offline;

impl RecordSource for Offline {
    fn ask(&self, _: VaultId, _: &RecordName, _: &mut dyn FnMut(PeerId, &[u8]) -> bool) -> String {
        "there is no network".to_owned()
    }
}

/// Repairs packs from peers. They wait in the queue until they are sound: a node that dies in between goes on with it.
/// Blocking.
pub(super) fn carry_out(
    core: &Core,
    plan: &RepairPlan,
    source: &Mesh,
    monitor: &Monitor,
) -> Result<RepairResult, ApiError> {
    note(core, &plan.items, false);
    let done = engine::run_repair(&core.store, plan, source, monitor).map_err(failed)?;
    edit(core, |queue| queue.leave(&done.repaired));
    Ok(done)
}

/// The queue as others see it.
pub(super) fn status(core: &Core) -> RepairQueueStatus {
    let queue = queue(core);
    RepairQueueStatus {
        waiting: queue.len() as u64,
        records: queue.has_records(),
        since: queue.since().map(Moment::to_rfc3339),
        next_try: queue.next().map(Moment::to_rfc3339),
    }
}

/// Mends what is due, until the node stops. What rotted while it did not run is looked for first, as far as that is cheap.
pub(super) async fn run_loop(core: Arc<Core>) {
    let looked = core.blocking(|core| {
        let damages = engine::damaged_records(&core.store, &Monitor::default()).map_err(failed)?;
        let lost = engine::lost_packs(&core.store).map_err(failed)?;
        if !lost.is_empty() {
            tracing::warn!(target: "repair", packs = lost.len(), "files of packs are gone");
        }
        edit(core, |queue| {
            queue.note_records(!damages.is_empty(), core.now());
            queue.enter(lost, core.now());
            // Whoever is connected already came before this was known.
            queue.hurry(core.now());
        });
        Ok(())
    });
    log_failure(looked.await, "looking what is lost");
    loop {
        let due = core.blocking(|core| {
            let due = edit(core, |queue| (queue.take_due(core.now()), queue.take_records(core.now())));
            Ok((due, queue(core).next().map(|next| next.since(core.now()))))
        });
        let Ok(((packs, records), calm)) = due.await else { return };
        if records || !packs.is_empty() {
            mend(&core, packs, records).await;
            continue;
        }
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = core.mending.changed.notified() => {}
            // Also wakes after the machine slept: this clock stood still, the wall clock did not.
            () = tokio::time::sleep(calm.unwrap_or(limit::SCHEDULE_LOOK).min(limit::SCHEDULE_LOOK)) => {}
        }
    }
}

async fn mend(core: &Arc<Core>, packs: Vec<PackId>, records: bool) {
    tracing::info!(target: "repair", packs = packs.len(), records, "mending what was found damaged");
    let request = RepairRequest { packs, records, ..RepairRequest::default() };
    let ended = match core.start_job(JobRequest::Repair(request)) {
        Ok(job) => core.jobs.ended(job).await,
        Err(error) => Err(error),
    };
    match ended.map(|info| info.error) {
        Ok(None) => {}
        Ok(Some(error)) | Err(error) => {
            tracing::warn!(target: "repair", code = error.code, %error, "not everything could be mended; it is tried again");
        }
    }
}

impl Core {
    /// A peer came that may have what is needed.
    pub(super) async fn hurry_repairs(self: &Arc<Self>) {
        let hurried = self.blocking(|core| {
            edit(core, |queue| queue.hurry(core.now()));
            Ok(())
        });
        log_failure(hurried.await, "hurrying repairs");
    }

    /// A record here turned out to be missing or damaged: all are looked at and mended in a while. Blocking.
    pub(super) fn doubt_records(&self) {
        edit(self, |queue| queue.note_records(true, self.now()));
    }

    /// Of packs that somebody wanted and did not get, those that are kept here and whose files are gone. Blocking.
    pub(super) fn doubt_kept(&self, packs: &[PackId]) -> Result<(), ApiError> {
        for pack in packs {
            let Some(row) = self.store.pack_by_id(*pack).map_err(failed)? else { continue };
            if matches!(self.store.pack_length(*pack), Ok(Some(length)) if length == row.bytes) {
                continue;
            }
            let is_elsewhere = |state: &Borrowed| *state != Borrowed::Kept;
            if !row.own || !self.store.borrowed().map_err(failed)?.get(&row.number).is_some_and(is_elsewhere)
            {
                tracing::warn!(target: "repair", pack = %pack.short(), "the file of a pack is gone");
                self.doubt(*pack);
            }
        }
        Ok(())
    }

    /// A pack here turned out to be damaged: it is looked at and mended in a while. Blocking.
    pub(super) fn doubt(&self, pack: PackId) {
        edit(self, |queue| queue.enter([pack], self.now()));
    }
}
