//! Long operations: start, watch, cancel on a signal, and the exit code at the end.

use std::time::{Duration, Instant};

use futures::StreamExt;
use serde_json::Value;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_tokio::Signals;

use super::backup::render_fate;
use super::output::{Paint, escape};
use super::progress::Meter;
use super::session::{Keys, Session};
use crate::api::{
    ApiError, InputStream, JobId, JobInfo, JobOutcome, JobRequest, JobState, RepairReport, Service,
    VerifyOutcomeShape, VerifyReport,
};
use crate::base::Code;
use crate::node::Mode;

/// Shortest pause between two looks at a job. It grows with the job's age, so that no more than a twentieth of its time
/// is waited in vain at its end.
const LOOK_FIRST: Duration = Duration::from_millis(5);
/// Longest such pause.
const LOOK_LAST: Duration = Duration::from_millis(250);
/// Looks in a row that may time out (a machine that sleeps, a busy disk) before the job counts as lost.
const LOOKS_FAILED_MAX: u32 = 5;

/// What is streamed beside a job.
pub(super) enum Side {
    /// Nothing.
    None,
    /// Its input, to it.
    Feed(InputStream),
    /// What a dry run finds, from it.
    Fates,
}

/// Does one job, on the daemon or here, and tells how it ended. `render` makes the text for people.
pub(super) async fn conduct(
    session: &Session<'_>,
    mode: Mode,
    request: JobRequest,
    render: impl Fn(&JobInfo, Paint) -> String,
) -> Result<u8, ApiError> {
    conduct_with(session, mode, request, Side::None, render).await
}

/// The same, with a stream beside the job.
pub(super) async fn conduct_with(
    session: &Session<'_>,
    mode: Mode,
    request: JobRequest,
    side: Side,
    render: impl Fn(&JobInfo, Paint) -> String,
) -> Result<u8, ApiError> {
    let handle = session.open(Keys::Needed, mode).await?;
    let result = watch(session, handle.service(), request, side).await;
    let (job, signal) = handle.close(result).await?;
    if let Some(outcome) = &job.outcome {
        if session.output.json {
            session.output.document(&summary(job.id, outcome));
        } else {
            session.output.text(&render(&job, session.output.paint));
        }
    }
    match (fault(&job), signal) {
        (error, Some(signal)) => {
            let error = error.unwrap_or_else(cancelled);
            let exit = 128 + u8::try_from(signal).unwrap_or(0);
            session.output.failure(&error, exit);
            Ok(exit)
        }
        (Some(error), None) => Err(error),
        (None, None) => Ok(0),
    }
}

/// Starts a job and follows it to its end; the signal that asked for that end, if one did.
async fn watch(
    session: &Session<'_>,
    service: &dyn Service,
    request: JobRequest,
    side: Side,
) -> Result<(JobInfo, Option<i32>), ApiError> {
    let mut signals = Signals::new([SIGINT, SIGTERM])
        .map_err(|error| ApiError::new(Code::Internal, format!("listening for signals: {error}")))?;
    let kind = request.kind();
    let id = service.start(request).await?;
    let mut meter = Meter::new(session.output, id, kind);
    let (began, mut failures, mut stop) = (Instant::now(), 0, None);
    let mut streaming = std::pin::pin!(stream(session, service, id, side));
    let mut streamed = None;
    loop {
        let pause = (began.elapsed() / 20).clamp(LOOK_FIRST, LOOK_LAST);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            result = &mut streaming, if streamed.is_none() => streamed = Some(result),
            Some(signal) = signals.next() => {
                if stop.is_some() {
                    // Asked twice: what is committed is safe at any moment.
                    std::process::exit(128 + signal);
                }
                stop = Some(signal);
                session.output.note("stopping; what is done is kept. Once more to leave at once");
                service.cancel(id).await?;
            }
        }
        let job = match service.job(id).await {
            Ok(job) => job,
            Err(error) if error.kind() == Code::NetworkTimeout && failures < LOOKS_FAILED_MAX => {
                failures += 1;
                continue;
            }
            Err(error) => return Err(error),
        };
        failures = 0;
        if !job.state.is_final() {
            meter.update(&job);
        } else {
            if streamed.is_none() {
                // The rest of what the job told; where it takes an input, it takes no more of it.
                streamed = Some((&mut streaming).await);
            }
            meter.finish(&job);
            if let Some(Err(error)) = streamed.filter(|_| job.state == JobState::Done || stop.is_none()) {
                own_fault(session, &job, &error);
            }
            return Ok((job, stop));
        }
    }
}

/// Streams beside a job, to the end of the stream.
async fn stream(session: &Session<'_>, service: &dyn Service, id: JobId, side: Side) -> Result<(), ApiError> {
    match side {
        Side::None => Ok(()),
        Side::Feed(input) => service.feed(id, input).await,
        Side::Fates => {
            let mut fates = service.fates(id).await?;
            while let Some(fate) = fates.next().await {
                session.output.text(&render_fate(&fate?));
            }
            Ok(())
        }
    }
}

/// What went wrong on this side of a stream; that the job ended first is told by the job.
fn own_fault(session: &Session<'_>, job: &JobInfo, error: &ApiError) {
    let of_the_job = matches!(error.kind(), Code::Cancelled | Code::DaemonUnreachable | Code::UsageInvalid);
    if !of_the_job || job.state == JobState::Done {
        session.output.warn(&escape(&error.message));
    }
}

/// What keeps an ended job from being a full success.
fn fault(job: &JobInfo) -> Option<ApiError> {
    match job.state {
        JobState::Done => job.error.clone().or_else(|| job.outcome.as_ref().and_then(damage)),
        JobState::Cancelled => Some(job.error.clone().unwrap_or_else(cancelled)),
        JobState::Failed | JobState::Interrupted | JobState::Queued | JobState::Running => {
            Some(job.error.clone().unwrap_or_else(|| {
                ApiError::new(Code::Internal, "the job ended without a result and without a reason")
            }))
        }
    }
}

fn cancelled() -> ApiError {
    ApiError::new(Code::Cancelled, "the job was cancelled")
}

/// Damage that a verification or repair leaves behind.
fn damage(outcome: &JobOutcome) -> Option<ApiError> {
    match outcome {
        JobOutcome::Verify(report) if !is_sound(report) => {
            let error = ApiError::new(Code::StorageCorrupted, "damaged or missing data was found");
            Some(error.with_hint(match &report.repair {
                None => "mend it from peers with `shadowvault repair`",
                Some(_) => "connect more peers (`shadowvault peers`), then run `shadowvault repair` again",
            }))
        }
        JobOutcome::Repair(report) if !is_mended(report) => {
            let error = ApiError::new(Code::StorageCorrupted, "some damage has no sound copy within reach");
            Some(
                error.with_hint(
                    "connect more peers (`shadowvault peers`), then run `shadowvault repair` again",
                ),
            )
        }
        _ => None,
    }
}

/// Nothing was wrong, or everything that was is mended.
pub(super) fn is_sound(report: &VerifyReport) -> bool {
    let (success, signed) = match &report.result {
        VerifyOutcomeShape::One(one) => (one.success, one.signature_valid),
        VerifyOutcomeShape::All(all) => {
            (all.snapshots.iter().all(|s| s.success), all.snapshots.iter().all(|s| s.signature_valid))
        }
    };
    let clean = success && report.damaged_packs.is_empty() && report.damaged_records.is_empty();
    // No peer mends a signature; and a repair that did nothing mended nothing.
    let mended = report.repair.as_ref().is_some_and(|repair| is_mended(repair) && did_something(repair));
    (clean || (signed && mended)) && holders_proved(report)
}

/// No holder failed an audit.
pub(super) fn holders_proved(report: &VerifyReport) -> bool {
    report.audits.iter().all(|audit| audit.packs_lost + audit.records_lost == 0)
}

/// A repair that changed something.
pub(super) fn did_something(repair: &RepairReport) -> bool {
    repair.repaired_chunks > 0
        || repair.repaired_records > 0
        || repair.repaired_packs > 0
        || repair.regained_chunks > 0
        || !repair.replaced_packs.is_empty()
}

pub(super) fn is_mended(report: &RepairReport) -> bool {
    report.unrepaired_chunks == 0
        && report.unrepaired_packs.is_empty()
        && report.unrepaired_records.is_empty()
}

/// The last JSON line of a job. What a verification's repair did stands at the top as well.
fn summary(id: JobId, outcome: &JobOutcome) -> Value {
    let mut line = serde_json::to_value(outcome).expect("outcomes are plain data with text keys");
    line["message_type"] = "summary".into();
    line["job_id"] = id.0.into();
    for name in ["repaired_chunks", "unrepaired_chunks", "sources"] {
        if let Some(value) = line.get("repair").and_then(|repair| repair.get(name)).cloned() {
            line[name] = value;
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{BackupSummary, JobKind, Progress, VerifySnapshotReport};
    use crate::base::PackId;
    use serde_json::json;

    fn job(state: JobState, outcome: Option<JobOutcome>, error: Option<Code>) -> JobInfo {
        let error = error.map(|code| ApiError::new(code, "why"));
        let progress = Progress::default();
        let (started, ended) = (String::new(), None);
        let (id, kind, problems) = (JobId(1), JobKind::Backup, vec![]);
        JobInfo { id, kind, state, started, ended, progress, problems, outcome, error }
    }

    fn verified(success: bool, signature_valid: bool, repair: Option<RepairReport>) -> JobOutcome {
        let one = VerifySnapshotReport {
            snapshot_id: "ab".into(),
            total_chunks: 2,
            verified_chunks: 1,
            missing_chunks: vec![],
            corrupted_chunks: vec![],
            unread_chunks: 0,
            damaged: None,
            signature_valid,
            success,
            damaged_files: vec![],
            damaged_files_total: 0,
        };
        JobOutcome::Verify(VerifyReport {
            result: VerifyOutcomeShape::One(one),
            packs_checked: 1,
            bytes_checked: 1,
            damaged_packs: vec![],
            damaged_records: vec![],
            unread_packs: 0,
            unread_bytes: 0,
            unreachable_packs: 0,
            unreachable_bytes: 0,
            complete: true,
            total_duration: 0.0,
            time: String::new(),
            coverage: None,
            audits: vec![],
            repair: repair.map(Box::new),
        })
    }

    #[test]
    fn every_way_to_end_has_its_exit_code() {
        let backup = || Some(JobOutcome::Backup(BackupSummary::default()));
        let mended = RepairReport { repaired_chunks: 1, ..RepairReport::default() };
        let lost = RepairReport { unrepaired_packs: vec![PackId::new([1; 32])], ..mended.clone() };
        let table = [
            (job(JobState::Done, backup(), None), 0),
            (job(JobState::Done, backup(), Some(Code::Incomplete)), 3),
            (job(JobState::Done, backup(), Some(Code::CopiesMissing)), 4),
            (job(JobState::Failed, None, Some(Code::StorageFull)), 15),
            (job(JobState::Failed, None, None), 1),
            (job(JobState::Cancelled, None, None), 130),
            (job(JobState::Done, Some(verified(true, true, None)), None), 0),
            (job(JobState::Done, Some(verified(false, true, None)), None), 5),
            (job(JobState::Done, Some(verified(false, true, Some(mended.clone()))), None), 0),
            (job(JobState::Done, Some(verified(false, false, Some(mended.clone()))), None), 5),
            (job(JobState::Done, Some(verified(false, true, Some(RepairReport::default()))), None), 5),
            (job(JobState::Done, Some(verified(false, true, Some(lost.clone()))), None), 5),
            (job(JobState::Done, Some(JobOutcome::Repair(mended)), None), 0),
            (job(JobState::Done, Some(JobOutcome::Repair(lost)), None), 5),
        ];
        for (job, exit) in table {
            assert_eq!(fault(&job).map_or(0, |error| error.kind().exit()), exit, "{job:?}");
        }
    }

    #[test]
    fn summaries_keep_the_contracts_names_at_the_top() {
        let line = summary(
            JobId(7),
            &JobOutcome::Backup(BackupSummary { files_new: 3, ..BackupSummary::default() }),
        );
        assert_eq!(line["message_type"], "summary");
        assert_eq!((&line["job_id"], &line["files_new"]), (&json!(7), &json!(3)));
        let line = summary(JobId(7), &verified(false, true, Some(RepairReport::default())));
        for name in ["snapshot_id", "total_chunks", "missing_chunks", "success", "repaired_chunks", "sources"]
        {
            assert!(line.get(name).is_some(), "{name} in {line}");
        }
    }
}
