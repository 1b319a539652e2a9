//! Recurring tasks: the loop that starts them, what is remembered on disk, commands around them, and who is told.
//!
//! [`board`] decides; here the clock is read, jobs are started, and the state file is written before a task begins, so
//! that a node that dies does not begin it again and again.

mod board;
mod command;
mod notice;

use std::sync::{Arc, Mutex};

use jiff::tz::TimeZone;
use tokio::sync::Notify;

use self::board::{Board, Saved, Start};
use self::command::Told;
use super::core::{Core, log_failure};
use super::error::failed;
use crate::api::{AddSchedule, ApiError, EditSchedule, JobOutcome, ScheduleInfo};
use crate::base::{Code, limit, meter, random_bytes};
use crate::config::Hooks;
use crate::policy::Verdict;

const FILE: &str = "schedule.json";
const VERSION: u32 = 1;

/// The tasks of a node.
#[derive(Default)]
pub(super) struct Schedule {
    /// Why there are none: the state file cannot be read.
    board: Mutex<Option<Board>>,
    /// Something changed: look again.
    changed: Notify,
}

impl Schedule {
    /// Has the loop look at what is due.
    pub(super) fn wake(&self) {
        self.changed.notify_one();
    }

    /// Due again is what failed because the vault was locked.
    pub(super) fn unlocked(&self) {
        if let Some(board) = self.board.lock().expect("no panic while held").as_mut() {
            board.unlocked();
        }
        self.wake();
    }

    /// Whether tasks run.
    pub(super) fn is_sound(&self) -> bool {
        self.board.lock().expect("no panic while held").is_some()
    }
}

/// Does `work` with the tasks.
fn with<T>(core: &Core, work: impl FnOnce(&mut Board) -> Result<T, ApiError>) -> Result<T, ApiError> {
    let mut board = core.schedule.board.lock().expect("no panic while held");
    let board = board.as_mut().ok_or_else(|| {
        ApiError::new(Code::StorageCorrupted, format!("members/{FILE} in the data directory cannot be read"))
            .with_hint("no task runs; move the file and the one in copies away and restart: added tasks must then be added again")
    })?;
    work(board)
}

/// Reads what is remembered. Blocking. A file that cannot be read is left as it is, and no task runs.
pub(super) fn load(core: &Core) {
    let read = core.store.read_state(FILE).map_err(failed).and_then(|saved: Option<Saved>| {
        let saved = saved.unwrap_or_default();
        if saved.version > VERSION {
            return Err(ApiError::new(Code::StorageTooNew, format!("members/{FILE} is of a newer version")));
        }
        Ok(saved)
    });
    match read {
        Ok(saved) => {
            let board = Board::new(saved, &core.settings(), core.now());
            *core.schedule.board.lock().expect("no panic while held") = Some(board);
        }
        Err(error) => {
            tracing::error!(target: "scheduler", code = error.code, %error, "no recurring task will run")
        }
    }
}

/// Writes what is to be remembered. Blocking.
fn save(core: &Core) -> Result<(), ApiError> {
    // Held while writing, so that an older state never replaces a newer one.
    with(core, |board| {
        let mut saved = board.saved().clone();
        saved.version = VERSION;
        core.store.publish_state(FILE, &saved).map_err(failed)
    })
}

/// Takes over changed settings. Blocking.
pub(super) fn configure(core: &Core) {
    let settings = core.settings();
    let done = with(core, |board| {
        board.configure(&settings, core.now());
        Ok(())
    });
    // Without a board there is nothing to configure, which was said at the start.
    if done.is_ok() {
        log_failure(save(core), "remembering recurring tasks");
    }
    core.schedule.wake();
}

/// Starts what is due, until the node stops.
pub(super) async fn run_loop(core: Arc<Core>) {
    while core.schedule.is_sound() {
        let due = core
            .blocking(|core| {
                let (starts, calm) = with(core, |board| Ok(board.due(core.now(), &TimeZone::system())))?;
                // Written before anything begins.
                if !starts.is_empty() {
                    log_failure(save(core), "remembering recurring tasks");
                }
                Ok((starts, calm))
            })
            .await;
        let Ok((starts, calm)) = due else { return };
        for start in starts {
            core.tasks.spawn(run_one(core.clone(), start));
        }
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = core.schedule.changed.notified() => {}
            // Also wakes after the machine slept: this clock stood still, the wall clock did not.
            () = tokio::time::sleep(calm.clamp(std::time::Duration::from_millis(100), limit::SCHEDULE_LOOK)) => {}
        }
    }
}

/// Runs a task once, and says how it ended to all who want to know.
async fn run_one(core: Arc<Core>, start: Start) {
    let Start { id, request } = start;
    tracing::info!(target: "scheduler", task = id, "task started");
    let job = match core.start_job(request) {
        Ok(job) => core.jobs.ended(job).await,
        Err(error) => Err(error),
    };
    let (outcome, error) = match job {
        Ok(info) => (info.outcome, info.error),
        Err(error) => (None, Some(error)),
    };
    let snapshot = match &outcome {
        Some(JobOutcome::Backup(summary)) => Some(summary.snapshot_id.clone()),
        _ => None,
    };
    if core.stop.is_cancelled() && error.as_ref().is_some_and(|error| error.kind() == Code::ShuttingDown) {
        // Not its fault. It is due at the next start, by what is on disk: its anchor is when it began.
        log_failure(
            core.blocking(move |core| {
                with(core, |board| {
                    board.interrupted(&id);
                    Ok(())
                })?;
                save(core)
            })
            .await,
            "remembering recurring tasks",
        );
        return;
    }
    let seed = u64::from_le_bytes(random_bytes());
    let (name, why) = (id.clone(), error.clone());
    let ended = core
        .blocking(move |core| {
            let ended = with(core, |board| Ok(board.ended(&name, core.now(), snapshot, why.as_ref(), seed)))?;
            log_failure(save(core), "remembering recurring tasks");
            Ok(ended)
        })
        .await;
    core.schedule.wake();
    // Removed while it ran: nobody waits for it.
    let Ok(Some(ended)) = ended else { return };
    let code = ended.last.code.clone();
    match ended.verdict {
        Verdict::Done => {
            meter::SCHEDULER_RUNS.add("success", 1);
            tracing::info!(target: "scheduler", task = id, "task done");
        }
        Verdict::Retry(at) => {
            meter::SCHEDULER_RUNS.add("retry", 1);
            tracing::warn!(target: "scheduler", task = id, code, again = %at, "task failed; it is tried again");
        }
        Verdict::GivenUp if ended.last.snapshot.is_some() => {
            meter::SCHEDULER_RUNS.add("incomplete", 1);
            tracing::warn!(target: "scheduler", task = id, code, "task done, with less than asked");
        }
        Verdict::GivenUp => {
            meter::SCHEDULER_RUNS.add("failure", 1);
            tracing::error!(target: "scheduler", task = id, code, "task failed");
        }
    }
    notice::tell(&core, &id, &ended).await;
}

pub(super) fn list(core: &Core) -> Result<Vec<ScheduleInfo>, ApiError> {
    with(core, |board| Ok(board.list(core.now(), &TimeZone::system())))
}

pub(super) fn add(core: &Core, request: AddSchedule) -> Result<ScheduleInfo, ApiError> {
    let settings = core.settings();
    let info = with(core, |board| board.add(request, &settings, core.now()))?;
    save(core)?;
    core.schedule.wake();
    Ok(info)
}

pub(super) fn edit(core: &Core, id: &str, edit: EditSchedule) -> Result<ScheduleInfo, ApiError> {
    let info = with(core, |board| {
        if let Some(enabled) = edit.enabled {
            board.enable(id, enabled, core.now())?;
        }
        board.info(id, core.now(), &TimeZone::system())
    })?;
    save(core)?;
    core.schedule.wake();
    Ok(info)
}

pub(super) fn remove(core: &Core, id: &str) -> Result<(), ApiError> {
    with(core, |board| board.remove(id))?;
    save(core)
}

/// Runs a task now, beside its rhythm.
pub(super) async fn run_now(core: &Arc<Core>, id: String) -> Result<ScheduleInfo, ApiError> {
    if core.mode != super::Mode::Daemon {
        return Err(ApiError::new(Code::DaemonUnreachable, "tasks run in the daemon, and none runs here")
            .with_hint("start it with `shadowvault daemon`, or `shadowvault backup --set ID`"));
    }
    let (start, info) = core
        .blocking(move |core| {
            let start = with(core, |board| board.run_now(&id, core.now()))?;
            let info = with(core, |board| board.info(&id, core.now(), &TimeZone::system()))?;
            Ok((start, info))
        })
        .await?;
    if let Some(start) = start {
        core.tasks.spawn(run_one(core.clone(), start));
    }
    Ok(info)
}

/// What a hook is told.
#[derive(Clone, Debug, Default)]
pub(super) struct HookFacts {
    pub(super) set: String,
    pub(super) snapshot: String,
    pub(super) code: String,
    pub(super) message: String,
}

/// Which command around a backup.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum HookKind {
    Before,
    After,
    Success,
    Failure,
}

/// Runs one command around a backup, if there is one.
///
/// # Errors
/// [`Code::HookFailed`] with the reason.
pub(super) async fn hook(
    core: &Core,
    hooks: &Hooks,
    kind: HookKind,
    facts: &HookFacts,
) -> Result<(), ApiError> {
    let (name, arguments) = match kind {
        HookKind::Before => ("before", &hooks.before),
        HookKind::After => ("after", &hooks.after),
        HookKind::Success => ("success", &hooks.success),
        HookKind::Failure => ("failure", &hooks.failure),
    };
    let variables = [
        ("SHADOWVAULT_HOOK", name.to_owned()),
        ("SHADOWVAULT_SET", facts.set.clone()),
        ("SHADOWVAULT_SNAPSHOT_ID", facts.snapshot.clone()),
        ("SHADOWVAULT_CODE", facts.code.clone()),
        ("SHADOWVAULT_MESSAGE", facts.message.clone()),
    ];
    let told = Told { arguments, variables: &variables, input: Vec::new(), life: limit::HOOK_LIFE };
    command::run(told, &core.stop).await.map_err(|why| {
        ApiError::new(Code::HookFailed, format!("the {name} hook of {:?}: {why}", facts.set))
            .with_hint("run the command by hand; see backup_sets.hooks in the configuration")
    })
}
