//! Long operations: each runs on a blocking thread, writes to its monitor, and is remembered for a while.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::api::{ApiError, JobId, JobInfo, JobKind, JobOutcome, JobState, PathProblem, Progress};
use crate::base::Code;
use crate::engine::Monitor;

/// Jobs at work at one time; each may use the memory limit's buffers.
const RUNNING_MAX: usize = 4;
/// Ended jobs that are remembered.
const REMEMBERED_MAX: usize = 100;

/// How a job ended: an outcome, and why it is less than was asked for.
pub(super) type Ended = Result<(JobOutcome, Option<ApiError>), ApiError>;

struct Job {
    kind: JobKind,
    monitor: Arc<Monitor>,
    began: Instant,
    ended: Option<(Ended, f64)>,
}

/// All jobs of this run of the node.
#[derive(Default)]
pub(super) struct Jobs {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    next: u64,
    jobs: BTreeMap<JobId, Job>,
}

impl Jobs {
    /// Enters a new job.
    ///
    /// # Errors
    /// [`Code::ResourceExhausted`] when enough are at work.
    pub(super) fn begin(&self, kind: JobKind) -> Result<(JobId, Arc<Monitor>), ApiError> {
        let mut table = self.table.lock().expect("no panic while held");
        let running = table.jobs.values().filter(|job| job.ended.is_none()).count();
        if running >= RUNNING_MAX {
            return Err(ApiError::new(
                Code::ResourceExhausted,
                format!("{running} jobs are at work already"),
            )
            .with_hint("`shadowvault jobs` shows them; wait for one or cancel it"));
        }
        let surplus = table.jobs.len().saturating_sub(REMEMBERED_MAX);
        let old: Vec<JobId> = table
            .jobs
            .iter()
            .filter(|(_, job)| job.ended.is_some())
            .map(|(id, _)| *id)
            .take(surplus)
            .collect();
        for id in old {
            table.jobs.remove(&id);
        }
        table.next += 1;
        let id = JobId(table.next);
        let monitor = Arc::new(Monitor::default());
        let job = Job { kind, monitor: monitor.clone(), began: Instant::now(), ended: None };
        table.jobs.insert(id, job);
        Ok((id, monitor))
    }

    /// Notes how a job ended.
    pub(super) fn end(&self, id: JobId, ended: Ended) {
        let mut table = self.table.lock().expect("no panic while held");
        if let Some(job) = table.jobs.get_mut(&id) {
            let kind = job.kind;
            match &ended {
                Ok((_, None)) => tracing::info!(target: "jobs", job = id.0, ?kind, "done"),
                Ok((_, Some(error))) => {
                    tracing::warn!(target: "jobs", job = id.0, ?kind, code = error.code, "done, with less than asked");
                }
                Err(error) => {
                    tracing::warn!(target: "jobs", job = id.0, ?kind, code = error.code, "failed");
                }
            }
            job.ended = Some((ended, job.began.elapsed().as_secs_f64()));
        }
    }

    /// A job as it is now.
    pub(super) fn info(&self, id: JobId) -> Result<JobInfo, ApiError> {
        let table = self.table.lock().expect("no panic while held");
        let job = table.jobs.get(&id).ok_or_else(|| unknown(id))?;
        Ok(describe(id, job))
    }

    /// All jobs, newest first.
    pub(super) fn all(&self) -> Vec<JobInfo> {
        let table = self.table.lock().expect("no panic while held");
        table.jobs.iter().rev().map(|(id, job)| describe(*id, job)).collect()
    }

    /// Asks a job to stop.
    pub(super) fn cancel(&self, id: JobId) -> Result<(), ApiError> {
        let table = self.table.lock().expect("no panic while held");
        table.jobs.get(&id).ok_or_else(|| unknown(id))?.monitor.cancel();
        Ok(())
    }

    /// Asks every job to stop.
    pub(super) fn cancel_all(&self) {
        let table = self.table.lock().expect("no panic while held");
        table.jobs.values().for_each(|job| job.monitor.cancel());
    }
}

fn unknown(id: JobId) -> ApiError {
    ApiError::new(Code::UsageInvalid, format!("there is no job {id}"))
        .with_hint("`shadowvault jobs` lists them")
}

fn describe(id: JobId, job: &Job) -> JobInfo {
    use std::sync::atomic::Ordering::Relaxed;
    let monitor = &job.monitor;
    let elapsed = job.ended.as_ref().map_or_else(|| job.began.elapsed().as_secs_f64(), |(_, took)| *took);
    let (total, done) = (monitor.bytes_total.load(Relaxed), monitor.bytes_done.load(Relaxed));
    let (error_count, problems) = monitor.problems();
    let percent_done = if total == 0 { 0.0 } else { (done as f64 / total as f64).min(1.0) };
    let progress = Progress {
        seconds_elapsed: elapsed,
        percent_done,
        total_files: monitor.files_total.load(Relaxed),
        files_done: monitor.files_done.load(Relaxed),
        total_bytes: total,
        bytes_done: done,
        error_count,
        stage: monitor.stage().to_owned(),
    };
    let (state, outcome, error) = match &job.ended {
        None => (JobState::Running, None, None),
        Some((Ok((outcome, error)), _)) => (JobState::Done, Some(outcome.clone()), error.clone()),
        Some((Err(error), _)) if error.kind() == Code::Cancelled => {
            (JobState::Cancelled, None, Some(error.clone()))
        }
        Some((Err(error), _)) => (JobState::Failed, None, Some(error.clone())),
    };
    let problems = problems.into_iter().map(|p| PathProblem { path: p.path, reason: p.reason }).collect();
    JobInfo { id, kind: job.kind, state, progress, problems, outcome, error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::RepairReport;

    #[test]
    fn jobs_are_bounded_remembered_and_told_apart() {
        let jobs = Jobs::default();
        let ids: Vec<JobId> = (0..RUNNING_MAX).map(|_| jobs.begin(JobKind::Repair).unwrap().0).collect();
        assert_eq!(jobs.begin(JobKind::Repair).unwrap_err().kind(), Code::ResourceExhausted);
        jobs.end(ids[0], Ok((JobOutcome::Repair(RepairReport::default()), None)));
        jobs.end(ids[1], Err(ApiError::new(Code::Cancelled, "cancelled")));
        jobs.end(ids[2], Err(ApiError::new(Code::StorageFull, "full")));
        let state = |id| jobs.info(id).unwrap().state;
        assert_eq!(
            ids.iter().map(|id| state(*id)).collect::<Vec<_>>(),
            [JobState::Done, JobState::Cancelled, JobState::Failed, JobState::Running]
        );
        assert!(jobs.info(JobId(99)).is_err() && jobs.cancel(JobId(99)).is_err());
        for _ in 0..2 * REMEMBERED_MAX {
            let (id, _) = jobs.begin(JobKind::Verify).unwrap();
            jobs.end(id, Ok((JobOutcome::Repair(RepairReport::default()), None)));
        }
        assert!(jobs.all().len() <= REMEMBERED_MAX + RUNNING_MAX);
        assert_eq!(jobs.info(ids[3]).unwrap().state, JobState::Running);
    }
}
