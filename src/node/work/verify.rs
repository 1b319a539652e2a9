//! Verifications.

use std::sync::Arc;
use std::time::Instant;

use super::know_listed_packs;
use super::repair::{CONFIRM, counted, look_again, mend, note_damage};
use crate::api::{
    ApiError, DamagedFile, JobOutcome, VerifyAllReport, VerifyOutcomeShape, VerifyReport, VerifyRequest,
    VerifySnapshotReport,
};
use crate::base::{ByteSize, Code, SnapshotId, limit};
use crate::engine::{self, Monitor, SnapshotFinding, Vault, VaultView, VerifyOptions, VerifyResult};
use crate::node::core::{Core, log_failure, workers};
use crate::node::error::failed;
use crate::node::jobs::Ended;
use crate::node::verified::{self, coverage, edit_rounds, rounds};
use crate::node::{auditing, elsewhere, fellows, mending};
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
        report.audits = auditing::audit(core, limit::AUDIT_SLICES_NOW, limit::AUDIT_RECORDS_NOW).await?;
        log_failure(fellows::round(core).await, "asking fellow holders");
        error = error.or_else(|| audit_failed(&report)).or_else(|| not_proven(&report));
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
    let records: u64 = report.audits.iter().map(|audit| audit.records_lost).sum();
    (lost + records > 0).then(|| {
        let text = format!("{lost} packs and {records} records that holders had confirmed are lost there");
        ApiError::new(Code::StorageCorrupted, text)
            .with_hint("they get new copies while `shadowvault daemon` runs; see `shadowvault status`")
    })
}

/// That holders which were there did not prove all that they were asked for, or have not for so long that they do not count.
fn not_proven(report: &VerifyReport) -> Option<ApiError> {
    let open: u64 = report.audits.iter().map(|audit| audit.timeout + audit.unknown).sum();
    let not_counted = report.audits.iter().filter(|audit| audit.not_counted).count();
    (open > 0 || not_counted > 0).then(|| {
        let text = match not_counted {
            0 => format!(
                "holders did not answer for {open} pieces that they were asked for: nothing is proven by that"
            ),
            n => {
                format!("{n} of the holders have proved nothing for so long that they do not count as copies")
            }
        };
        ApiError::new(Code::Incomplete, text).with_hint(
            "see `shadowvault peers`; one that proves nothing for `replication.proof_within` does not count",
        )
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
        let mut report = report_of(core, &result, one, began)?;
        let mut sound = result.is_sound();
        let all = !quick && subset.is_none() && request.snapshot.is_none();
        let whole = all && core.vault().is_ok();
        if request.repair && !sound {
            let mut repair = mend(core, source.as_ref(), &result, request.confirmed, &monitor)?;
            let again =
                look_again(core, request.snapshot.as_deref(), options, &result, &mut repair, &monitor)?;
            let (packs, bytes) = (report.packs_checked, report.bytes_checked);
            if again.records.is_empty() {
                repair.unrepaired_records.clear();
            }
            report = report_of(core, &again, one, began)?;
            (report.packs_checked, report.bytes_checked) = (packs, bytes);
            report.repair = Some(Box::new(counted(repair, &result, &again)));
            sound = again.is_sound();
            (result.damages, result.records) = (again.damages, again.records);
        }
        report.complete = whole;
        note_damage(core, &result.damages, all)?;
        if one.is_none() || !result.records.is_empty() {
            mending::note_records(core, !result.records.is_empty());
        }
        if let Some(Subset::Share(_)) = subset {
            report.coverage = Some(coverage(&rounds(core).verify, result.bytes_all));
        }
        verified::note(core, sound);
        let error = if sound { not_read(&report) } else { Some(damage_found(&report)) };
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
    ApiError::new(Code::StorageCorrupted, format!("damage found: {}", what_is_damaged(report)))
        .with_hint(hint)
}

/// Each kind of thing that is not sound, and how many.
fn what_is_damaged(report: &VerifyReport) -> String {
    let (snapshots, chunks) = match &report.result {
        VerifyOutcomeShape::One(one) => (u64::from(!one.success), bad_chunks(one)),
        VerifyOutcomeShape::All(all) => (all.invalid_snapshots, all.snapshots.iter().map(bad_chunks).sum()),
    };
    let (packs, records) = (report.damaged_packs.len() as u64, report.damaged_records.len() as u64);
    let kinds = [
        (packs, "pack", "is damaged or missing", "are damaged or missing"),
        (records, "record", "is damaged or missing", "are damaged or missing"),
        (if packs == 0 { chunks } else { 0 }, "chunk", "is damaged or missing", "are damaged or missing"),
        (snapshots, "snapshot", "is not whole", "are not whole"),
    ];
    let told = kinds.into_iter().filter(|(number, ..)| *number > 0);
    let told: Vec<String> = told
        .map(|(number, what, one, many)| match number {
            1 => format!("1 {what} {one}"),
            _ => format!("{number} {what}s {many}"),
        })
        .collect();
    if told.is_empty() { "the index leads to the wrong places".to_owned() } else { told.join(", ") }
}

fn bad_chunks(one: &VerifySnapshotReport) -> u64 {
    (one.missing_chunks.len() + one.corrupted_chunks.len()) as u64
}

/// That a part of what snapshots need was out of reach.
fn not_read(report: &VerifyReport) -> Option<ApiError> {
    out_of_reach((report.unreachable_packs, report.unreachable_bytes))
}

/// That nobody who has these packs can be asked.
pub(super) fn out_of_reach((packs, bytes): (u64, u64)) -> Option<ApiError> {
    let bytes = ByteSize(bytes);
    (packs > 0).then(|| {
        let text = format!("nothing was read of {packs} packs ({bytes}) that snapshots need: no holder of them is connected");
        let hint = "`shadowvault peers` shows which holders can be reached; then `shadowvault verify --peers` asks them for proof";
        ApiError::new(Code::Incomplete, text).with_hint(hint)
    })
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
            Some(engine::resolve_listed(&view, reference).map_err(failed)?)
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
) -> Result<VerifyReport, ApiError> {
    let snapshots: Vec<VerifySnapshotReport> = result.snapshots.iter().map(snapshot_report).collect();
    let unread = elsewhere::unread(core)?;
    // What holders keep and prove is as good as here; what none of them can be asked for proves nothing.
    let is_open = |one: &&VerifySnapshotReport| unread.unreachable.0 > 0 && one.unread_chunks > 0;
    let invalid = snapshots.iter().filter(|snapshot| !snapshot.success).count() as u64;
    let open = snapshots.iter().filter(|one| one.success).filter(is_open).count() as u64;
    let total = snapshots.len() as u64;
    let valid = total - invalid - open;
    let shape = match (one, snapshots.first()) {
        (Some(_), Some(only)) => VerifyOutcomeShape::One(only.clone()),
        _ => VerifyOutcomeShape::All(VerifyAllReport {
            total_snapshots: total,
            valid_snapshots: valid,
            invalid_snapshots: invalid,
            health_percentage: if total == 0 { 100.0 } else { 100.0 * valid as f64 / total as f64 },
            snapshots,
        }),
    };
    Ok(VerifyReport {
        result: shape,
        packs_checked: result.packs,
        bytes_checked: result.bytes,
        damaged_packs: result.damages.iter().map(|damage| damage.pack).collect(),
        damaged_records: result.records.iter().map(ToString::to_string).collect(),
        unread_packs: unread.all.0,
        unread_bytes: unread.all.1,
        unreachable_packs: unread.unreachable.0,
        unreachable_bytes: unread.unreachable.1,
        complete: false,
        total_duration: began.elapsed().as_secs_f64(),
        time: core.now().to_rfc3339(),
        coverage: None,
        audits: Vec::new(),
        repair: None,
    })
}

fn snapshot_report(found: &SnapshotFinding) -> VerifySnapshotReport {
    let named = found.hurt.named.iter();
    VerifySnapshotReport {
        snapshot_id: found.id.to_string(),
        total_chunks: found.total,
        verified_chunks: found
            .total
            .saturating_sub((found.missing.len() + found.corrupt.len()) as u64 + found.elsewhere),
        unread_chunks: found.elsewhere,
        damaged: found.broken.clone(),
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
