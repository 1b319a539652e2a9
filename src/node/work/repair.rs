//! Repairs: what a check found is mended from peers, then from the files; what nobody could give waits in the queue.

use std::collections::HashSet;
use std::sync::Arc;

use super::know_listed_packs;
use super::scrub::{Found, tell_owners};
use super::verify::examine;
use crate::api::{ApiError, JobOutcome, RepairReport, RepairRequest};
use crate::base::{Code, Moment, PackId, limit};
use crate::engine::{self, Damage, Monitor, VerifyOptions, VerifyResult};
use crate::node::core::{Core, log_failure};
use crate::node::error::{failed, no_network};
use crate::node::jobs::Ended;
use crate::node::source::Mesh;
use crate::node::{mending, verified};
use crate::store::Quarantined;

/// How source files are called among the sources of a repair.
const FILES: &str = "files";
/// What helps when so much is damaged that nothing was touched.
pub(super) const CONFIRM: &str =
    "much is damaged at once: is the disk all there? `repair --dry-run` shows the plan, --yes does it";

/// Whether so many damaged packs among so many look like a disk that is going away rather than like rot.
fn wants_confirmation(damaged: u64, all: u64) -> bool {
    damaged > limit::REPAIR_UNASKED_PACKS.max(all / limit::REPAIR_UNASKED_SHARE)
}

/// Remembers which packs stay damaged, and has them tried again. Where so much is that a disk seems to be going away, nothing
/// is: it may come back, and a backup would store everything anew. `all`: every pack was read.
pub(super) fn note_damage(core: &Arc<Core>, damages: &[Damage], all: bool) -> Result<(), ApiError> {
    let counts = core.store.pack_counts().map_err(failed)?;
    if wants_confirmation(damages.len() as u64, counts.own_packs + counts.foreign_packs) {
        return Ok(());
    }
    mending::note(core, damages, all);
    engine::note_damage(&core.store, damages).map_err(failed)
}

fn packs_of(damages: &[Damage]) -> impl Iterator<Item = PackId> {
    damages.iter().map(|damage| damage.pack)
}

/// Whatever was sound is so still; what was not is read again, and what no peer had comes from the files, where they
/// still have it.
pub(super) fn look_again(
    core: &Arc<Core>,
    reference: Option<&str>,
    options: VerifyOptions,
    found: &VerifyResult,
    report: &mut RepairReport,
    monitor: &Monitor,
) -> Result<VerifyResult, ApiError> {
    let options = VerifyOptions { again: Some(found.doubted.clone()), ..options };
    let (mut again, _) = examine(core, reference, options.clone(), monitor)?;
    let Ok(vault) = core.vault() else { return Ok(again) };
    for _ in 0..limit::REGAIN_ROUNDS_MAX {
        if report.refused || again.is_sound() {
            break;
        }
        // What other snapshots need of the same packs is lost as well.
        let all = match reference {
            None => again.clone(),
            Some(_) => examine(core, None, options.clone(), monitor)?.0,
        };
        let done = engine::regain(&vault, &all, &core.holder_addresses(), monitor).map_err(failed)?;
        if done.is_nothing() {
            break;
        }
        report.regained_chunks += done.chunks;
        *report.sources.entry(FILES.to_owned()).or_default() += done.bytes;
        mending::edit(core, |queue| queue.leave(&done.set_aside));
        report.replaced_packs.extend(done.set_aside);
        core.changed.notify_one();
        again = examine(core, reference, options.clone(), monitor)?.0;
    }
    let replaced: HashSet<&PackId> = report.replaced_packs.iter().collect();
    report.unrepaired_packs.retain(|pack| !replaced.contains(pack));
    Ok(again)
}

/// Repairs what a verification found, from peers.
pub(super) fn mend(
    core: &Arc<Core>,
    source: Option<&Mesh>,
    found: &VerifyResult,
    confirmed: bool,
    monitor: &Monitor,
) -> Result<RepairReport, ApiError> {
    let plan = engine::plan_repair(found.damages.clone());
    let mut report = RepairReport { plan: plan.lines(), ..Default::default() };
    if plan.items.is_empty() {
        return Ok(report);
    }
    let counts = core.store.pack_counts().map_err(failed)?;
    if !confirmed && wants_confirmation(plan.items.len() as u64, counts.own_packs + counts.foreign_packs) {
        report.refused = true;
        report.unrepaired_packs = packs_of(&plan.items).collect();
        return Ok(report);
    }
    let Some(source) = source else {
        // The files may have it all the same.
        report.unrepaired_packs = packs_of(&plan.items).collect();
        return if core.vault().is_ok() { Ok(report) } else { Err(no_network()) };
    };
    monitor.enter("repairing");
    let done = mending::carry_out(core, &plan, source, monitor)?;
    report.repaired_packs = done.repaired.len() as u64;
    report.bytes_fetched = done.given.values().sum();
    report.sources = done.given.iter().map(|(peer, bytes)| (peer.to_string(), *bytes)).collect();
    for (pack, tried) in done.failed {
        report.plan.push(format!("pack {} could not be repaired: {tried}", pack.short()));
        report.unrepaired_packs.push(pack);
    }
    Ok(report)
}

/// Chunk counts before and after.
pub(super) fn counted(mut report: RepairReport, before: &VerifyResult, after: &VerifyResult) -> RepairReport {
    report.unrepaired_chunks = after.bad_chunks;
    report.repaired_chunks = before.bad_chunks.saturating_sub(after.bad_chunks);
    report
}

pub(super) async fn repair(
    core: &Arc<Core>,
    request: RepairRequest,
    monitor: Arc<Monitor>,
    memory: usize,
) -> Ended {
    if let Some(pack) = request.undo {
        let confirmed = request.confirmed;
        let done = core.blocking(move |core| undo(core, &pack, confirmed)).await?;
        return Ok((JobOutcome::Repair(done), None));
    }
    if request.packs.len() > limit::REPAIRS_WAITING_MAX {
        let text = format!("{} packs are named; at most {}", request.packs.len(), limit::REPAIRS_WAITING_MAX);
        return Err(ApiError::new(Code::UsageInvalid, text).with_hint("name none: then all are looked at"));
    }
    know_listed_packs(core).await;
    if !request.packs.is_empty() {
        return try_again(core, request.packs, monitor, memory).await;
    }
    let source = core.source();
    core.blocking(move |core| {
        let options = VerifyOptions { memory_bytes: memory, ..VerifyOptions::default() };
        let (found, _) = examine(core, request.snapshot.as_deref(), options.clone(), &monitor)?;
        if request.dry_run {
            let mut plan = engine::plan_repair(found.damages.clone()).lines();
            if let Ok(vault) = core.vault() {
                plan.extend(engine::plan_regain(&vault, &found, &monitor).map_err(failed)?);
            }
            let unrepaired_chunks = found.bad_chunks;
            let report = RepairReport { plan, unrepaired_chunks, ..Default::default() };
            return Ok((JobOutcome::Repair(report), None));
        }
        let mut report = mend(core, source.as_ref(), &found, request.confirmed, &monitor)?;
        let reference = request.snapshot.as_deref();
        let again = look_again(core, reference, options, &found, &mut report, &monitor)?;
        note_damage(core, &again.damages, reference.is_none())?;
        let report = counted(report, &found, &again);
        verified::note(core, again.is_sound());
        let error = (!again.is_sound()).then(|| left_damaged(again.damages.len(), &report));
        Ok((JobOutcome::Repair(report), error))
    })
    .await
}

fn left_damaged(packs: usize, report: &RepairReport) -> ApiError {
    let hint =
        if report.refused { CONFIRM } else { "`shadowvault peers` shows which holders can be reached" };
    ApiError::new(Code::StorageCorrupted, format!("{packs} packs are still damaged or missing"))
        .with_hint(hint)
}

/// Tries once more to mend packs that were found damaged: from peers and, as long as that is not yet hopeless, from files.
async fn try_again(core: &Arc<Core>, packs: Vec<PackId>, monitor: Arc<Monitor>, memory: usize) -> Ended {
    let source = core.source();
    let (ended, mended) = core
        .blocking(move |core| {
            let all = VerifyOptions { memory_bytes: memory, ..VerifyOptions::default() };
            let these = VerifyOptions { packs: Some(packs.clone()), ..all.clone() };
            let (found, _) = examine(core, None, these.clone(), &monitor)?;
            // They are few, and it was looked at how many there were when they were found.
            let mut report = mend(core, source.as_ref(), &found, true, &monitor)?;
            let (mut left, _) = examine(core, None, these, &monitor)?;
            let lost: Vec<PackId> = packs_of(&left.damages).collect();
            if mending::queue(core).is_any_fresh(&lost) && core.vault().is_ok() {
                left = look_again(core, None, all, &found, &mut report, &monitor)?;
            }
            note_damage(core, &left.damages, false)?;
            let lost: HashSet<PackId> = packs_of(&left.damages).collect();
            mending::edit(core, |queue| queue.leave(packs.iter().filter(|pack| !lost.contains(pack))));
            settle(core, &monitor)?;
            let mended = packs_of(&found.damages).filter(|pack| !lost.contains(pack)).collect();
            let report = counted(report, &found, &left);
            let error = (!lost.is_empty()).then(|| left_damaged(lost.len(), &report));
            Ok(((JobOutcome::Repair(report), error), mended))
        })
        .await?;
    let found = Found { damaged: mended, lost: Vec::new() };
    log_failure(tell_owners(core, found).await, "telling owners of damage");
    Ok(ended)
}

/// Once nothing waits to be mended any more, the last verification's word on damage may be out of date.
fn settle(core: &Arc<Core>, monitor: &Monitor) -> Result<(), ApiError> {
    let is_told = verified::last(core)?.is_some_and(|last| !last.sound);
    if !is_told || !mending::queue(core).is_empty() {
        return Ok(());
    }
    let quick = VerifyOptions { quick: true, ..VerifyOptions::default() };
    if examine(core, None, quick, monitor)?.0.is_sound() {
        verified::note_mended(core);
    }
    Ok(())
}

/// Puts the file back that the last repair of a pack replaced.
fn undo(core: &Arc<Core>, pack: &str, confirmed: bool) -> Result<RepairReport, ApiError> {
    let all = core.store.quarantined().map_err(failed)?;
    let is_long_enough = pack.len() >= limit::ID_PREFIX_DIGITS_MIN;
    let is_named = |one: &&Quarantined| is_long_enough && one.pack.to_string().starts_with(pack);
    let named: Vec<&Quarantined> = all.iter().filter(is_named).collect();
    let Some(newest) = named.first() else {
        return Err(ApiError::new(Code::ChunkNotFound, format!("no repair has replaced a pack {pack:?}"))
            .with_hint("`shadowvault gc --status` lists the files that repairs replaced"));
    };
    if let Some(other) = named.iter().find(|one| one.pack != newest.pack) {
        let text = format!("{pack:?} is ambiguous: it could be {} or {}", newest.pack, other.pack);
        return Err(ApiError::new(Code::UsageInvalid, text).with_hint("give more of its id"));
    }
    let Some(sound) = engine::undo_repair(&core.store, newest, confirmed).map_err(failed)? else {
        let text =
            format!("pack {} is sound as it is, and the file that was replaced is not", newest.pack.short());
        return Err(ApiError::new(Code::ConfirmationNeeded, text)
            .with_hint("nothing was changed; --yes puts the damaged file back all the same"));
    };
    let state = if sound { "sound" } else { "damaged: the next check finds it" };
    let (short, since) = (newest.pack.short(), Moment::to_rfc3339(newest.since));
    let line = format!("pack {short}: the file replaced at {since} is back in its place; it is {state}");
    Ok(RepairReport { plan: vec![line], ..RepairReport::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn much_damage_at_once_wants_a_confirmation() {
        let table = [
            (1, 1, false),
            (32, 32, false),
            (33, 100, true),
            (33, 700, false),
            (50, 1000, false),
            (51, 1000, true),
        ];
        for (damaged, all, asks) in table {
            assert_eq!(wants_confirmation(damaged, all), asks, "{damaged} of {all}");
        }
    }
}
