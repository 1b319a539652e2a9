//! Verifications and repairs.

use std::sync::Arc;
use std::time::Instant;

use super::know_listed_packs;
use crate::api::{
    ApiError, JobOutcome, RepairReport, RepairRequest, VerifyAllReport, VerifyOutcomeShape, VerifyReport,
    VerifyRequest, VerifySnapshotReport,
};
use crate::base::{Code, SnapshotId};
use crate::engine::{self, Monitor, Vault, VaultView, VerifyOptions, VerifyResult};
use crate::node::core::{Core, workers};
use crate::node::error::{failed, no_network};
use crate::node::jobs::Ended;
use crate::node::source::Mesh;
use crate::node::status;

pub(super) async fn verify(
    core: &Arc<Core>,
    request: VerifyRequest,
    monitor: Arc<Monitor>,
    memory: usize,
) -> Ended {
    if request.repair {
        know_listed_packs(core).await;
    }
    let source = core.source();
    core.blocking(move |core| {
        let began = Instant::now();
        let (result, one) = examine(core, request.snapshot.as_deref(), request.quick, memory, &monitor)?;
        let mut report = report_of(&result, one, began);
        let mut sound = result.is_sound();
        if request.repair && !sound {
            let repair = mend(core, source.as_ref(), &result, &monitor)?;
            let (again, _) = examine(core, request.snapshot.as_deref(), request.quick, memory, &monitor)?;
            let bytes = report.bytes_checked;
            report = report_of(&again, one, began);
            report.bytes_checked += bytes;
            report.repair = Some(counted(repair, &result, &again));
            sound = again.is_sound();
        }
        status::note_verified(core, sound);
        let damaged = report.damaged_packs.len();
        let error = (!sound).then(|| {
            let hint = if request.repair {
                "`shadowvault peers` shows which holders can be reached; then `shadowvault repair` again"
            } else {
                "`shadowvault repair` pulls what is damaged from peers"
            };
            ApiError::new(
                Code::StorageCorrupted,
                format!("damage found: {damaged} packs are damaged or missing"),
            )
            .with_hint(hint)
        });
        Ok((JobOutcome::Verify(report), error))
    })
    .await
}

/// Verifies what a reference names, or everything.
fn examine(
    core: &Arc<Core>,
    reference: Option<&str>,
    quick: bool,
    memory_bytes: usize,
    monitor: &Monitor,
) -> Result<(VerifyResult, Option<SnapshotId>), ApiError> {
    let vault: Option<Arc<Vault>> = match (core.vault(), reference) {
        (Ok(vault), _) => Some(vault),
        (Err(_), None) => None,
        (Err(error), Some(_)) => return Err(error),
    };
    let snapshot = match (&vault, reference) {
        (Some(vault), Some(reference)) => {
            let view = VaultView::load(vault).map_err(failed)?;
            Some(engine::resolve(&view, reference).map_err(failed)?.id)
        }
        _ => None,
    };
    let options = VerifyOptions { snapshot, quick, memory_bytes };
    let result =
        engine::verify(&core.store, vault.as_deref(), options, workers(), monitor).map_err(failed)?;
    Ok((result, snapshot))
}

fn report_of(result: &VerifyResult, one: Option<SnapshotId>, began: Instant) -> VerifyReport {
    let snapshots: Vec<VerifySnapshotReport> = result
        .snapshots
        .iter()
        .map(|found| VerifySnapshotReport {
            snapshot_id: found.id.to_string(),
            total_chunks: found.total,
            verified_chunks: found.total.saturating_sub((found.missing.len() + found.corrupt.len()) as u64),
            missing_chunks: found.missing.clone(),
            corrupted_chunks: found.corrupt.clone(),
            signature_valid: found.signed,
            success: found.is_sound(),
        })
        .collect();
    let valid = snapshots.iter().filter(|snapshot| snapshot.success).count() as u64;
    let total = snapshots.len() as u64;
    let shape = match (one, snapshots.first()) {
        (Some(_), Some(only)) => VerifyOutcomeShape::One(only.clone()),
        _ => VerifyOutcomeShape::All(VerifyAllReport {
            total_snapshots: total,
            valid_snapshots: valid,
            invalid_snapshots: total - valid,
            health_percentage: if total == 0 { 100.0 } else { 100.0 * valid as f64 / total as f64 },
            snapshots,
        }),
    };
    VerifyReport {
        result: shape,
        packs_checked: result.packs,
        bytes_checked: result.bytes,
        damaged_packs: result.damages.iter().map(|damage| damage.pack).collect(),
        total_duration: began.elapsed().as_secs_f64(),
        repair: None,
    }
}

/// Repairs what a verification found.
fn mend(
    core: &Arc<Core>,
    source: Option<&Mesh>,
    found: &VerifyResult,
    monitor: &Monitor,
) -> Result<RepairReport, ApiError> {
    let plan = engine::plan_repair(found.damages.clone());
    let mut report = RepairReport { plan: plan.lines(), ..Default::default() };
    if plan.items.is_empty() {
        return Ok(report);
    }
    let source = source.ok_or_else(no_network)?;
    monitor.enter("repairing");
    let done = engine::run_repair(&core.store, &plan, source, monitor).map_err(failed)?;
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
fn counted(mut report: RepairReport, before: &VerifyResult, after: &VerifyResult) -> RepairReport {
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
    know_listed_packs(core).await;
    let source = core.source();
    core.blocking(move |core| {
        let (found, _) = examine(core, request.snapshot.as_deref(), false, memory, &monitor)?;
        if request.dry_run {
            let plan = engine::plan_repair(found.damages.clone()).lines();
            let unrepaired_chunks = found.bad_chunks;
            let report = RepairReport { plan, unrepaired_chunks, ..Default::default() };
            return Ok((JobOutcome::Repair(report), None));
        }
        let report = mend(core, source.as_ref(), &found, &monitor)?;
        let (again, _) = examine(core, request.snapshot.as_deref(), false, memory, &monitor)?;
        let report = counted(report, &found, &again);
        status::note_verified(core, again.is_sound());
        let error = (!again.is_sound()).then(|| {
            let lost = again.damages.len();
            ApiError::new(Code::StorageCorrupted, format!("{lost} packs are still damaged or missing"))
                .with_hint("`shadowvault peers` shows which holders can be reached")
        });
        Ok((JobOutcome::Repair(report), error))
    })
    .await
}
