//! Verifications.

use std::sync::Arc;
use std::time::Instant;

use super::know_listed_packs;
use super::repair::{CONFIRM, counted, look_again, mend, note_damage};
use crate::api::{
    ApiError, DamagedFile, JobOutcome, VerifyAllReport, VerifyOutcomeShape, VerifyReport, VerifyRequest,
    VerifySnapshotReport,
};
use crate::base::{Code, SnapshotId, limit};
use crate::engine::{self, Monitor, SnapshotFinding, Vault, VaultView, VerifyOptions, VerifyResult};
use crate::node::core::{Core, log_failure, workers};
use crate::node::error::failed;
use crate::node::jobs::Ended;
use crate::node::verified::{self, coverage, edit_rounds, rounds};
use crate::node::{auditing, fellows};
use crate::policy::{Subset, SubsetError};

pub(super) async fn verify(
    core: &Arc<Core>,
    request: VerifyRequest,
    monitor: Arc<Monitor>,
    memory: usize,
) -> Ended {
    if request.scrub {
        return super::scrub::run(core, request, monitor, memory).await;
    }
    if request.drill {
        return super::drill::run(core, request, monitor).await;
    }
    let peers = request.peers;
    let (mut report, mut error) = look(core, request, monitor.clone(), memory).await?;
    if peers {
        monitor.enter("auditing holders");
        report.audits = auditing::audit(core, limit::AUDIT_SLICES_NOW).await?;
        log_failure(fellows::round(core).await, "asking fellow holders");
        error = error.or_else(|| audit_failed(&report));
    }
    let kept = report.clone();
    let keep = core.blocking(move |core| {
        verified::keep_report(core, &kept);
        Ok(())
    });
    keep.await?;
    Ok((JobOutcome::Verify(report), error))
}

fn audit_failed(report: &VerifyReport) -> Option<ApiError> {
    let lost: u64 = report.audits.iter().map(|audit| audit.packs_lost).sum();
    (lost > 0).then(|| {
        ApiError::new(
            Code::StorageCorrupted,
            format!("{lost} packs that holders had confirmed are lost there"),
        )
        .with_hint("they get new copies while `shadowvault daemon` runs; see `shadowvault status`")
    })
}

/// Looks at what is on this disk, and mends it when asked to.
async fn look(
    core: &Arc<Core>,
    request: VerifyRequest,
    monitor: Arc<Monitor>,
    memory: usize,
) -> Result<(VerifyReport, Option<ApiError>), ApiError> {
    if request.repair {
        know_listed_packs(core).await;
    }
    let source = core.source();
    core.blocking(move |core| {
        let began = Instant::now();
        let subset = subset_of(&request)?;
        let after = rounds(core).verify.after;
        let quick = request.quick;
        let options =
            VerifyOptions { quick, subset, after, memory_bytes: memory, ..VerifyOptions::default() };
        let (mut result, one) = examine(core, request.snapshot.as_deref(), options.clone(), &monitor)?;
        if let Some(Subset::Share(_)) = subset {
            edit_rounds(core, |rounds| {
                rounds.verify.advance(result.reached, result.bytes, result.round_ended, core.now());
            });
        }
        let mut report = report_of(core, &result, one, began);
        let mut sound = result.is_sound();
        if request.repair && !sound {
            let mut repair = mend(core, source.as_ref(), &result, request.confirmed, &monitor)?;
            let again =
                look_again(core, request.snapshot.as_deref(), options, &result, &mut repair, &monitor)?;
            let (packs, bytes) = (report.packs_checked, report.bytes_checked);
            report = report_of(core, &again, one, began);
            (report.packs_checked, report.bytes_checked) = (packs, bytes);
            report.repair = Some(counted(repair, &result, &again));
            sound = again.is_sound();
            result.damages = again.damages;
        }
        let all = !quick && subset.is_none() && request.snapshot.is_none();
        note_damage(core, &result.damages, all)?;
        if let Some(Subset::Share(_)) = subset {
            report.coverage = Some(coverage(&rounds(core).verify, result.bytes_all));
        }
        verified::note(core, sound);
        let error = (!sound).then(|| damage_found(&report));
        Ok((report, error))
    })
    .await
}

fn damage_found(report: &VerifyReport) -> ApiError {
    let hint = match &report.repair {
        Some(repair) if repair.refused => CONFIRM,
        Some(_) => "`shadowvault peers` shows which holders can be reached; then `shadowvault repair` again",
        None => "`shadowvault repair` gets what is damaged from peers, or from the files again",
    };
    let damaged = report.damaged_packs.len();
    ApiError::new(Code::StorageCorrupted, format!("damage found: {damaged} packs are damaged or missing"))
        .with_hint(hint)
}

/// Which packs are read.
///
/// # Errors
/// Text that names no part, or one beside what leaves no choice.
pub(super) fn subset_of(request: &VerifyRequest) -> Result<Option<Subset>, ApiError> {
    let Some(text) = &request.subset else { return Ok(None) };
    if request.quick || request.snapshot.is_some() {
        let text = "a subset goes over all packs: neither with a quick check nor with one snapshot";
        return Err(ApiError::new(Code::UsageInvalid, text));
    }
    text.parse().map(Some).map_err(|error: SubsetError| ApiError::new(Code::UsageInvalid, error.to_string()))
}

/// Verifies what a reference names, or everything.
pub(super) fn examine(
    core: &Arc<Core>,
    reference: Option<&str>,
    options: VerifyOptions,
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
    let options = VerifyOptions { snapshot, ..options };
    let result =
        engine::verify(&core.store, vault.as_deref(), options, workers(), monitor).map_err(failed)?;
    Ok((result, snapshot))
}

pub(super) fn report_of(
    core: &Core,
    result: &VerifyResult,
    one: Option<SnapshotId>,
    began: Instant,
) -> VerifyReport {
    let snapshots: Vec<VerifySnapshotReport> = result.snapshots.iter().map(snapshot_report).collect();
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
        time: core.now().to_rfc3339(),
        coverage: None,
        audits: Vec::new(),
        repair: None,
    }
}

fn snapshot_report(found: &SnapshotFinding) -> VerifySnapshotReport {
    let named = found.hurt.named.iter();
    VerifySnapshotReport {
        snapshot_id: found.id.to_string(),
        total_chunks: found.total,
        verified_chunks: found.total.saturating_sub((found.missing.len() + found.corrupt.len()) as u64),
        missing_chunks: found.missing.clone(),
        corrupted_chunks: found.corrupt.clone(),
        signature_valid: found.signed,
        success: found.is_sound(),
        damaged_files: named
            .map(|file| DamagedFile { path: file.path.to_string_lossy().into_owned(), chunk: file.chunk })
            .collect(),
        damaged_files_total: found.hurt.total,
    }
}
