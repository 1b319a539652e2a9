//! Long operations: accepted, queued, at work, ended, and remembered for a while, over restarts too.
//!
//! A job waits for a place and for memory ([`super::resources`]), writes to its monitor while it works, and ends with
//! an outcome, an error, or both. What a daemon remembers lies in a state file: what was under way when it died is
//! shown as interrupted. Nothing is started again by itself; a backup that is started again finds what the first one
//! has packed.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use futures::FutureExt;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::core::{Core, log_failure};
use super::error::failed;
use super::resources::Place;
use super::streams::{Ends, Streams};
use crate::api::{
    ApiError, Happening, JobId, JobInfo, JobKind, JobOutcome, JobRequest, JobState, PathProblem, Progress,
};
use crate::base::{Code, Moment, limit};
use crate::engine::{self, Monitor};

const FILE: &str = "jobs.json";
const VERSION: u32 = 1;

/// How a job ended: an outcome, and why it is less than was asked for.
pub(super) type Ended = Result<(JobOutcome, Option<ApiError>), ApiError>;

enum Job {
    Live(Live),
    /// Ended, in this run of the node or an earlier one.
    Past(Box<JobInfo>),
}

struct Live {
    kind: JobKind,
    accepted: Moment,
    /// When it came to work; absent while it waits.
    began: Option<Instant>,
    monitor: Arc<Monitor>,
    cancel: CancellationToken,
}

/// All jobs that this node remembers.
#[derive(Default)]
pub(super) struct Jobs {
    table: Mutex<Table>,
    /// Woken whenever a job ends.
    ended: Notify,
    /// Held while the state file is written, so that an older state never replaces a newer one.
    saving: Mutex<()>,
    /// Where callers stream to and from jobs.
    pub(super) streams: Ends,
}

#[derive(Default)]
struct Table {
    last: u64,
    jobs: BTreeMap<JobId, Job>,
}

/// The state file.
#[derive(Serialize, Deserialize)]
struct Saved {
    version: u32,
    jobs: Vec<JobInfo>,
}

impl Jobs {
    /// Enters a new job, which waits.
    ///
    /// # Errors
    /// [`Code::ResourceExhausted`] when enough are waiting or at work.
    fn enter(
        &self,
        kind: JobKind,
        now: Moment,
    ) -> Result<(JobId, Arc<Monitor>, CancellationToken), ApiError> {
        let mut table = self.table.lock().expect("no panic while held");
        let live = table.jobs.values().filter(|job| matches!(job, Job::Live(_))).count();
        if live >= limit::JOBS_RUNNING_MAX + limit::JOBS_QUEUED_MAX {
            let text = format!("{live} jobs are waiting or at work already");
            let hint = "`shadowvault jobs` shows them; wait for one or cancel it";
            return Err(ApiError::new(Code::ResourceExhausted, text).with_hint(hint));
        }
        table.last += 1;
        let id = JobId(table.last);
        let (monitor, cancel) = (Arc::new(Monitor::default()), CancellationToken::new());
        monitor.enter("waiting for its turn");
        let job = Live { kind, accepted: now, began: None, monitor: monitor.clone(), cancel: cancel.clone() };
        table.jobs.insert(id, Job::Live(job));
        Ok((id, monitor, cancel))
    }

    /// Notes that a job is at work.
    fn begin(&self, id: JobId) {
        let mut table = self.table.lock().expect("no panic while held");
        if let Some(Job::Live(job)) = table.jobs.get_mut(&id) {
            job.began = Some(Instant::now());
            job.monitor.enter("starting");
        }
    }

    /// Notes how a job ended, and forgets the oldest that are too many.
    fn end(&self, id: JobId, ended: Ended, now: Moment) -> Option<JobInfo> {
        let mut table = self.table.lock().expect("no panic while held");
        let Some(Job::Live(job)) = table.jobs.get(&id) else { return None };
        let mut info = job.describe(id);
        info.ended = Some(now.to_rfc3339());
        (info.state, info.outcome, info.error) = match ended {
            Ok((outcome, error)) => (JobState::Done, Some(outcome), error),
            Err(error) if matches!(error.kind(), Code::Cancelled | Code::ShuttingDown) => {
                (JobState::Cancelled, None, Some(error))
            }
            Err(error) => (JobState::Failed, None, Some(error)),
        };
        table.jobs.insert(id, Job::Past(Box::new(info.clone())));
        table.forget_surplus();
        drop(table);
        self.ended.notify_waiters();
        Some(info)
    }

    /// A job as it is now.
    pub(super) fn info(&self, id: JobId) -> Result<JobInfo, ApiError> {
        let table = self.table.lock().expect("no panic while held");
        table.jobs.get(&id).map(|job| job.describe(id)).ok_or_else(|| unknown(id))
    }

    /// All jobs, newest first.
    pub(super) fn all(&self) -> Vec<JobInfo> {
        let table = self.table.lock().expect("no panic while held");
        table.jobs.iter().rev().map(|(id, job)| job.describe(*id)).collect()
    }

    /// A job once it has ended.
    pub(super) async fn ended(&self, id: JobId) -> Result<JobInfo, ApiError> {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            // Registered before looking: a job that ends in between is not missed.
            ended.as_mut().enable();
            let info = self.info(id)?;
            if info.state.is_final() {
                return Ok(info);
            }
            ended.await;
        }
    }

    /// Asks a job to stop; one that has ended stays as it is.
    pub(super) fn cancel(&self, id: JobId) -> Result<(), ApiError> {
        let table = self.table.lock().expect("no panic while held");
        if let Job::Live(job) = table.jobs.get(&id).ok_or_else(|| unknown(id))? {
            job.cancel();
            self.streams.close(id);
        }
        Ok(())
    }

    /// Asks every job to stop; how many there are.
    pub(super) fn cancel_all(&self) -> usize {
        self.streams.close_all();
        let table = self.table.lock().expect("no panic while held");
        let live = table.jobs.values().filter_map(|job| match job {
            Job::Live(job) => Some(job),
            Job::Past(_) => None,
        });
        live.inspect(|job| job.cancel()).count()
    }

    /// Takes over what an earlier run of the node remembered.
    fn remember(&self, saved: Vec<JobInfo>) {
        let mut table = self.table.lock().expect("no panic while held");
        for mut info in saved {
            if !info.state.is_final() {
                info.state = JobState::Interrupted;
                let text = "the node ended while this was under way";
                let error = ApiError::new(Code::Cancelled, text);
                info.error =
                    Some(error.with_hint("start it again: what is stored already is not stored anew"));
            }
            table.last = table.last.max(info.id.0);
            table.jobs.insert(info.id, Job::Past(Box::new(info)));
        }
        table.forget_surplus();
    }
}

impl Table {
    fn forget_surplus(&mut self) {
        let past = |job: &Job| matches!(job, Job::Past(_));
        let surplus =
            self.jobs.values().filter(|job| past(job)).count().saturating_sub(limit::JOBS_REMEMBERED_MAX);
        let old: Vec<JobId> =
            self.jobs.iter().filter(|(_, job)| past(job)).map(|(id, _)| *id).take(surplus).collect();
        for id in old {
            self.jobs.remove(&id);
        }
    }
}

impl Job {
    fn describe(&self, id: JobId) -> JobInfo {
        match self {
            Self::Live(job) => job.describe(id),
            Self::Past(info) => (**info).clone(),
        }
    }
}

impl Live {
    fn cancel(&self) {
        self.monitor.cancel();
        self.cancel.cancel();
    }

    fn describe(&self, id: JobId) -> JobInfo {
        let monitor = &self.monitor;
        let (total, done) = (monitor.bytes_total.load(Relaxed), monitor.bytes_done.load(Relaxed));
        let (error_count, problems) = monitor.problems();
        JobInfo {
            id,
            kind: self.kind,
            state: if self.began.is_some() { JobState::Running } else { JobState::Queued },
            started: self.accepted.to_rfc3339(),
            ended: None,
            progress: Progress {
                seconds_elapsed: self.began.map_or(0.0, |began| began.elapsed().as_secs_f64()),
                percent_done: if total == 0 { 0.0 } else { (done as f64 / total as f64).min(1.0) },
                total_files: monitor.files_total.load(Relaxed),
                files_done: monitor.files_done.load(Relaxed),
                total_bytes: total,
                bytes_done: done,
                error_count,
                stage: monitor.stage().to_owned(),
            },
            problems: problems.into_iter().map(|p| PathProblem { path: p.path, reason: p.reason }).collect(),
            outcome: None,
            error: None,
        }
    }
}

fn unknown(id: JobId) -> ApiError {
    ApiError::new(Code::JobNotFound, format!("there is no job {id}"))
        .with_hint("`shadowvault jobs` lists them")
}

impl Core {
    /// Accepts a job; it runs as soon as there is room for it.
    ///
    /// # Errors
    /// [`Code::ShuttingDown`]; [`Code::ResourceExhausted`] when too many wait.
    pub(super) fn start_job(self: &Arc<Self>, request: JobRequest) -> Result<JobId, ApiError> {
        if self.stop.is_cancelled() {
            return Err(ApiError::new(Code::ShuttingDown, "the node is shutting down"));
        }
        let kind = request.kind();
        let (id, monitor, cancel) = self.jobs.enter(kind, self.now())?;
        let streams = self.jobs.streams.enter(id, &request, cancel.clone());
        self.tell(Happening::JobQueued { job: id, kind });
        let span = tracing::info_span!(target: "jobs", "job", id = id.0, kind = kind.name());
        let core = self.clone();
        self.tasks.spawn(
            async move {
                let work = core.conduct(id, request, monitor, cancel, streams);
                let ended = AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| {
                    Err(ApiError::new(Code::Internal, "the job panicked; what was committed is safe"))
                });
                core.jobs.streams.close(id);
                core.job_ended(id, ended).await;
            }
            .instrument(span),
        );
        Ok(id)
    }

    async fn conduct(
        self: &Arc<Self>,
        id: JobId,
        request: JobRequest,
        monitor: Arc<Monitor>,
        cancel: CancellationToken,
        streams: Streams,
    ) -> Ended {
        let kind = request.kind();
        let settings = self.settings();
        let least = match kind {
            JobKind::Backup => {
                let chunk_bytes = settings.snapshot.max_chunk_size;
                limit::backup_bytes_min(usize::try_from(chunk_bytes).unwrap_or(limit::CHUNK_BYTES_MAX)) as u64
            }
            // In one walk over all trees where possible; with less memory it takes several.
            JobKind::Gc | JobKind::Forget => {
                let chunks = self.store.pack_counts().map_or(0, |counts| counts.chunks);
                (engine::gc_memory_wanted(chunks) as u64).min(settings.storage.memory_limit / 4 * 3)
            }
            JobKind::Restore | JobKind::Verify | JobKind::Repair | JobKind::Import => 0,
        };
        self.save_jobs().await;
        let place: Place = tokio::select! {
            place = self.resources.job(least) => place.map_err(|error| {
                ApiError::new(Code::ConfigInvalid, error.to_string())
                    .with_hint("raise storage.memory_limit, or lower snapshot.max_chunk_size")
            })?,
            () = cancel.cancelled() => return Err(ApiError::new(Code::Cancelled, "cancelled before it began")),
        };
        self.jobs.begin(id);
        tracing::info!(target: "jobs", "started");
        self.tell(Happening::JobStarted { job: id, kind });
        super::work::run(self, request, monitor, place.memory_bytes(), streams).await
    }

    async fn job_ended(self: &Arc<Self>, id: JobId, mut ended: Ended) {
        if let Err(error) = &mut ended
            && error.kind() == Code::Cancelled
            && self.stop.is_cancelled()
        {
            *error = ApiError::new(Code::ShuttingDown, "the node was stopped before this ended")
                .with_hint("start it again: what is stored already is not stored anew");
        }
        let Some(info) = self.jobs.end(id, ended, self.now()) else { return };
        super::exposition::job_ended(&info, self.now());
        super::caching::job_ended(self);
        let (seconds, code) =
            (info.progress.seconds_elapsed, info.error.as_ref().map(|error| error.code.clone()));
        match (info.state, &code) {
            (JobState::Done, None) => tracing::info!(target: "jobs", seconds, "done"),
            (JobState::Done, Some(code)) => {
                tracing::warn!(target: "jobs", seconds, code, "done, with less than asked")
            }
            (JobState::Cancelled, _) => tracing::info!(target: "jobs", seconds, "cancelled"),
            _ => tracing::warn!(target: "jobs", seconds, code, "failed"),
        }
        if let Some(JobOutcome::Backup(summary)) = &info.outcome
            && let Ok(snapshot) = summary.snapshot_id.parse()
        {
            self.tell(Happening::SnapshotCreated { snapshot });
            if summary.warnings.len() > usize::from(summary.ahead > 0) {
                let (files, files_gone) = (summary.total_files_processed, summary.files_gone);
                let files_before = summary.files_before;
                self.tell(Happening::SourceShrank { snapshot, files, files_gone, files_before });
            }
        }
        self.tell_of_forgetting(info.outcome.as_ref());
        self.tell(Happening::JobEnded { job: id, kind: info.kind, state: info.state, code });
        self.save_jobs().await;
    }

    fn tell_of_forgetting(&self, outcome: Option<&JobOutcome>) {
        let collected = match outcome {
            Some(JobOutcome::Forget(done)) if !done.dry_run => {
                if !done.forgotten.is_empty() {
                    self.tell(Happening::SnapshotsForgotten { count: done.forgotten.len() as u64 });
                }
                done.gc.as_ref()
            }
            Some(JobOutcome::Gc(done)) => Some(done),
            _ => None,
        };
        if let Some(done) = collected.filter(|done| !done.dry_run && !done.unchanged) {
            let (packs, bytes) = (done.deleted_packs, done.deleted_bytes);
            self.tell(Happening::GarbageCollected { packs, bytes });
        }
    }

    /// Reads what an earlier run of the daemon remembered. Blocking.
    pub(super) fn load_jobs(&self) {
        match self.store.read_state::<Saved>(FILE).map_err(failed) {
            Ok(saved) => self.jobs.remember(saved.map(|saved| saved.jobs).unwrap_or_default()),
            // A history is no reason to stay down.
            Err(error) => {
                tracing::warn!(target: "jobs", code = error.code, %error, "the list of past jobs is lost")
            }
        }
    }

    /// Writes what is to be remembered; only a daemon's jobs outlive their caller.
    async fn save_jobs(self: &Arc<Self>) {
        if self.mode != super::Mode::Daemon {
            return;
        }
        let saved = self.blocking(|core| {
            let _turn = core.jobs.saving.lock().expect("no panic while held");
            let jobs = core.jobs.all().into_iter().map(brief).collect();
            core.store.publish_state(FILE, &Saved { version: VERSION, jobs }).map_err(failed)
        });
        log_failure(saved.await, "remembering jobs");
    }
}

/// A job without what would make the state file long.
fn brief(mut info: JobInfo) -> JobInfo {
    info.problems.truncate(limit::JOB_PROBLEMS_SAVED_MAX);
    let long = |info: &JobInfo| {
        serde_json::to_vec(info).map_or(true, |text| text.len() > limit::JOB_SAVED_BYTES_MAX)
    };
    if long(&info) {
        info.problems.clear();
    }
    if long(&info)
        && let Some(JobOutcome::Restore(done)) = &mut info.outcome
    {
        done.changes.clear();
    }
    if long(&info)
        && let Some(JobOutcome::Forget(done)) = &mut info.outcome
    {
        done.kept.clear();
    }
    if long(&info) {
        info.outcome = None;
    }
    info
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::RepairReport;

    const NOW: Moment = Moment::from_millis(1_700_000_000_000);

    fn outcome() -> Ended {
        Ok((JobOutcome::Repair(RepairReport::default()), None))
    }

    fn entered(jobs: &Jobs, kind: JobKind) -> JobId {
        jobs.enter(kind, NOW).unwrap().0
    }

    #[test]
    fn jobs_are_bounded_remembered_and_told_apart() {
        let jobs = Jobs::default();
        let most = limit::JOBS_RUNNING_MAX + limit::JOBS_QUEUED_MAX;
        let ids: Vec<JobId> = (0..most).map(|_| entered(&jobs, JobKind::Repair)).collect();
        assert_eq!(jobs.enter(JobKind::Repair, NOW).map(|_| ()).unwrap_err().kind(), Code::ResourceExhausted);
        jobs.begin(ids[3]);
        jobs.end(ids[0], outcome(), NOW);
        jobs.end(ids[1], Err(ApiError::new(Code::Cancelled, "cancelled")), NOW);
        jobs.end(ids[2], Err(ApiError::new(Code::StorageFull, "full")), NOW);
        let state = |id| jobs.info(id).unwrap().state;
        let expected =
            [JobState::Done, JobState::Cancelled, JobState::Failed, JobState::Running, JobState::Queued];
        assert_eq!(ids[..5].iter().map(|id| state(*id)).collect::<Vec<_>>(), expected);
        assert!(jobs.info(JobId(99)).is_err() && jobs.cancel(JobId(99)).is_err());
        for _ in 0..2 * limit::JOBS_REMEMBERED_MAX {
            jobs.end(entered(&jobs, JobKind::Verify), outcome(), NOW);
        }
        assert_eq!(jobs.all().len(), most - 3 + limit::JOBS_REMEMBERED_MAX);
        assert_eq!(state(ids[3]), JobState::Running);
        assert!(jobs.info(ids[0]).is_err(), "the oldest is forgotten");
    }

    #[test]
    fn what_was_under_way_when_the_node_died_is_interrupted() {
        let before = Jobs::default();
        let ids = [(); 3].map(|()| entered(&before, JobKind::Backup));
        before.begin(ids[1]);
        before.end(ids[2], outcome(), NOW);
        let after = Jobs::default();
        after.remember(before.all().into_iter().map(brief).collect());
        let states = ids.map(|id| after.info(id).unwrap().state);
        assert_eq!(states, [JobState::Interrupted, JobState::Interrupted, JobState::Done]);
        assert_eq!(entered(&after, JobKind::Backup), JobId(4), "numbers are not used again");
    }

    #[tokio::test]
    async fn whoever_waits_for_a_job_hears_of_its_end() {
        let jobs = Arc::new(Jobs::default());
        let id = entered(&jobs, JobKind::Verify);
        let waiter = jobs.clone();
        let waiting = tokio::spawn(async move { waiter.ended(id).await });
        tokio::task::yield_now().await;
        jobs.end(id, outcome(), NOW);
        assert_eq!(waiting.await.unwrap().unwrap().state, JobState::Done);
        assert_eq!(jobs.ended(id).await.unwrap().state, JobState::Done, "and at once when it is over");
    }

    #[test]
    fn a_remembered_job_is_short_whatever_it_met() {
        let jobs = Jobs::default();
        let (id, monitor, _) = jobs.enter(JobKind::Backup, NOW).unwrap();
        (0..1000).for_each(|n| monitor.problem(format!("/{n}/{}", "x".repeat(3000)), "denied"));
        let plan = vec!["y".repeat(1000); 100];
        let ended = Ok((JobOutcome::Repair(RepairReport { plan, ..RepairReport::default() }), None));
        let info = brief(jobs.end(id, ended, NOW).unwrap());
        assert!(serde_json::to_vec(&info).unwrap().len() <= limit::JOB_SAVED_BYTES_MAX);
        assert_eq!(info.progress.error_count, 1000);
    }
}
