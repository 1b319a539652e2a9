//! Repairs: what a check found is mended from peers, then from the files; what nobody could give waits in the queue.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::know_listed_packs;
use super::scrub::{Found, tell_owners};
use super::verify::{examine, out_of_reach};
use crate::api::{ApiError, JobOutcome, RepairReport, RepairRequest};
use crate::base::{Code, Moment, PackId, PeerId, limit};
use crate::engine::{self, Damage, Monitor, RecordDamage, VerifyOptions, VerifyResult};
use crate::node::core::{Core, log_failure};
use crate::node::error::{failed, no_network};
use crate::node::jobs::Ended;
use crate::node::source::Mesh;
use crate::node::{elsewhere, exposition, mending, verified};
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
    mend_records(core, &found.records, monitor, &mut report)?;
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
    note_given(&mut report, &done.given);
    for (pack, tried) in done.failed {
        report.plan.push(format!("pack {} could not be repaired: {tried}", pack.short()));
        report.unrepaired_packs.push(pack);
    }
    Ok(report)
}

fn note_given(report: &mut RepairReport, given: &BTreeMap<PeerId, u64>) {
    for (peer, bytes) in given {
        report.bytes_fetched += bytes;
        *report.sources.entry(peer.to_string()).or_default() += bytes;
    }
}

/// Gets damaged and missing records from whoever has them. Pieces of the own pack list that nobody has are written anew.
fn mend_records(
    core: &Arc<Core>,
    found: &[RecordDamage],
    monitor: &Monitor,
    report: &mut RepairReport,
) -> Result<(), ApiError> {
    if found.is_empty() {
        return Ok(());
    }
    monitor.enter("getting records");
    let done = mending::carry_out_records(core, found.to_vec(), monitor)?;
    report.repaired_records += done.repaired.len() as u64;
    report.plan.extend(done.repaired.iter().map(|damage| {
        let whence = if done.remade.contains(damage) { "it was made again" } else { "it came from a peer" };
        format!("{damage}: {whence}")
    }));
    report.plan.extend(done.failed.iter().map(|(damage, tried)| format!("{damage}: {tried}")));
    note_given(report, &done.given);
    if let (false, Ok(vault)) = (done.failed.is_empty(), core.vault()) {
        match engine::renew_own_lists(&vault, &core.holder_addresses()) {
            Ok(true) => report.plan.push("this device's pack list was written anew".to_owned()),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(target: "repair", %error, "the pack list could not be written anew");
            }
        }
    }
    core.changed.notify_one();
    let left = engine::damaged_records(&core.store, monitor).map_err(failed)?;
    report.unrepaired_records = left.iter().map(ToString::to_string).collect();
    mending::note_records(core, !left.is_empty());
    Ok(())
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
    if request.records || !request.packs.is_empty() {
        return try_again(core, request.packs, request.records, monitor, memory).await;
    }
    let source = core.source();
    core.blocking(move |core| {
        let options = VerifyOptions { memory_bytes: memory, ..VerifyOptions::default() };
        let (found, _) = examine(core, request.snapshot.as_deref(), options.clone(), &monitor)?;
        if request.dry_run {
            let mut plan: Vec<String> =
                found.records.iter().map(|damage| format!("{damage}: get it from a peer")).collect();
            plan.extend(engine::plan_repair(found.damages.clone()).lines());
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
        if again.records.is_empty() {
            report.unrepaired_records.clear();
        }
        if reference.is_none() {
            mending::note_records(core, !again.records.is_empty());
        }
        let report = counted(report, &found, &again);
        verified::note(core, again.is_sound());
        if again.is_sound() && reference.is_none() && core.vault().is_ok() {
            exposition::note_lost((0, 0), true);
        }
        let error = match again.is_sound() {
            true => out_of_reach(elsewhere::unread(core)?.unreachable),
            false => Some(left_damaged(again.damages.len(), broken_snapshots(&again), &report)),
        };
        Ok((JobOutcome::Repair(report), error))
    })
    .await
}

fn broken_snapshots(found: &VerifyResult) -> usize {
    found.snapshots.iter().filter(|snapshot| !snapshot.is_sound()).count()
}

fn left_damaged(packs: usize, snapshots: usize, report: &RepairReport) -> ApiError {
    let hint = if report.refused {
        CONFIRM
    } else {
        "`shadowvault peers` shows which holders can be reached; what nobody has any more `shadowvault forget` gives up with the snapshots that `shadowvault verify` names"
    };
    let records = report.unrepaired_records.len();
    let text = match (packs, records, report.unrepaired_chunks) {
        // What they need is in no pack that is known.
        (0, 0, 0) if snapshots > 0 => format!("{snapshots} snapshots are still not whole"),
        (0, 0, chunks) => format!("{chunks} chunks are still damaged or missing"),
        (packs, 0, _) => format!("{packs} packs are still damaged or missing"),
        (0, records, _) => format!("{records} records are still damaged or missing"),
        (packs, records, _) => format!("{packs} packs and {records} records are still damaged or missing"),
    };
    ApiError::new(Code::StorageCorrupted, text).with_hint(hint)
}

/// Tries once more to mend records and packs that were found damaged: from peers and, as long as that is not yet hopeless,
/// packs from files.
async fn try_again(
    core: &Arc<Core>,
    packs: Vec<PackId>,
    records: bool,
    monitor: Arc<Monitor>,
    memory: usize,
) -> Ended {
    let source = core.source();
    let (ended, mended) = core
        .blocking(move |core| {
            let mut tried = RepairReport::default();
            if records {
                let found = engine::damaged_records(&core.store, &monitor).map_err(failed)?;
                mending::note_records(core, !found.is_empty());
                mend_records(core, &found, &monitor, &mut tried)?;
            }
            if packs.is_empty() {
                settle(core, &monitor)?;
                let error = (!tried.unrepaired_records.is_empty()).then(|| left_damaged(0, 0, &tried));
                return Ok(((JobOutcome::Repair(tried), error), Vec::new()));
            }
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
            let report = with_records(counted(report, &found, &left), tried);
            let is_left = !lost.is_empty() || !report.unrepaired_records.is_empty();
            let error = is_left.then(|| left_damaged(lost.len(), 0, &report));
            Ok(((JobOutcome::Repair(report), error), mended))
        })
        .await?;
    let found = Found { damaged: mended, lost: Vec::new(), records };
    log_failure(tell_owners(core, found).await, "telling owners of damage");
    Ok(ended)
}

/// What came of packs, with what came of records.
fn with_records(packs: RepairReport, records: RepairReport) -> RepairReport {
    let mut both = packs;
    both.repaired_records += records.repaired_records;
    both.unrepaired_records = records.unrepaired_records;
    both.bytes_fetched += records.bytes_fetched;
    both.plan.splice(0..0, records.plan);
    for (peer, bytes) in records.sources {
        *both.sources.entry(peer).or_default() += bytes;
    }
    both
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
