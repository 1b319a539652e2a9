//! All recurring tasks and when each runs: the rules, without clock, disk or jobs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::api::{
    AddSchedule, ApiError, BackupRequest, ForgetRequest, GcRequest, JobRequest, LastRun, ScheduleInfo,
    ScheduleSource, VerifyRequest,
};
use crate::base::{Code, Moment, Retry, format_duration, limit};
use crate::config::{Settings, When};
use crate::node::work::has_rules;
use crate::policy::{CronLine, Outcome, Rhythm, Timing, Verdict};

/// The name of the task that `scheduler.enable_auto_backup` makes.
const AUTO: &str = "auto";
/// The name of the task that checks all packs.
const SCRUB: &str = "scrub";
/// The name of the task that restores some files from peers.
const DRILL: &str = "drill";
/// The name of the task that applies the configured rules of retention.
const FORGET: &str = "forget";
/// The name of the task that collects garbage.
const GC: &str = "gc";

/// What a task does.
#[derive(Clone, PartialEq, Debug)]
enum Work {
    /// Backs up the set of this name, as configured then.
    Set,
    Paths(Vec<PathBuf>),
    Verify,
    Scrub,
    Drill,
    Forget,
    Gc,
}

#[derive(Clone, Debug)]
struct Task {
    source: ScheduleSource,
    work: Work,
    rhythm: Rhythm,
    retries: u32,
    paths: Vec<PathBuf>,
}

/// What is remembered of one task.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default)]
struct Memory {
    timing: Timing,
    enabled: bool,
    last: Option<LastRun>,
    /// It was given up, and has not worked since.
    failing: bool,
    /// At work when this was written: if it is read again, the node died with it.
    running: bool,
}

impl Default for Memory {
    fn default() -> Self {
        Self { timing: Timing::default(), enabled: true, last: None, failing: false, running: false }
    }
}

/// What is written to the state file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Saved {
    pub(super) version: u32,
    added: Vec<AddSchedule>,
    tasks: BTreeMap<String, Memory>,
}

/// All tasks: those of the configuration, and those that were added.
#[derive(Default)]
pub(super) struct Board {
    tasks: BTreeMap<String, Task>,
    saved: Saved,
    running: BTreeMap<String, Moment>,
}

/// A task that is to be run now.
#[derive(Debug, PartialEq)]
pub(super) struct Start {
    pub(super) id: String,
    pub(super) request: JobRequest,
}

/// What followed from a run.
#[derive(Debug, PartialEq)]
pub(super) struct Ended {
    pub(super) verdict: Verdict,
    /// It works again after it had been given up.
    pub(super) recovered: bool,
    pub(super) last: LastRun,
}

impl Board {
    /// The tasks of `settings` and those that were added, with what is remembered of each.
    pub(super) fn new(saved: Saved, settings: &Settings, now: Moment) -> Self {
        let mut board = Self { saved, ..Self::default() };
        board.configure(settings, now);
        board
    }

    /// Takes over changed settings. What is remembered of a task stays as long as its name.
    pub(super) fn configure(&mut self, settings: &Settings, now: Moment) {
        let mut tasks = BTreeMap::new();
        for added in &self.saved.added {
            // Refused when it was added if it made no sense.
            if let Ok(task) = task_of(added, settings.scheduler.max_backup_retries) {
                tasks.insert(added.id.clone(), task);
            }
        }
        let own = configured(settings);
        for id in own.keys().filter(|id| tasks.contains_key(*id)) {
            tracing::warn!(target: "scheduler", task = id, "an added task is hidden by one of the configuration");
        }
        tasks.extend(own);
        for (id, task) in &tasks {
            let memory = self.saved.tasks.entry(id.clone()).or_default();
            if std::mem::take(&mut memory.running) && !self.running.contains_key(id) {
                // Not at once, and not for ever: what it does may be what killed the node.
                memory.timing.ended(now, Outcome::Retryable, task.retries, 0);
            }
            memory.running = self.running.contains_key(id);
            // A backup is wanted as soon as possible; checking everything is not.
            if memory.timing.anchor.is_none() && !runs_at_once(task) {
                memory.timing.anchor = Some(now);
            }
        }
        self.saved.tasks.retain(|id, _| tasks.contains_key(id));
        self.tasks = tasks;
    }

    /// What is to be written to disk.
    pub(super) fn saved(&self) -> &Saved {
        &self.saved
    }

    /// Tasks that are due now, each marked as running, and how long nothing else is due.
    pub(super) fn due(&mut self, now: Moment, zone: &TimeZone) -> (Vec<Start>, Duration) {
        let (mut starts, mut calm) = (Vec::new(), limit::SCHEDULE_LOOK);
        for (id, task) in &self.tasks {
            let Some(memory) = self.saved.tasks.get_mut(id) else { continue };
            memory.timing.settle(now);
            if !memory.enabled || self.running.contains_key(id) {
                continue;
            }
            match memory.timing.next(&task.rhythm, now, zone) {
                Some(next) if next <= now => starts.push(id.clone()),
                Some(next) => calm = calm.min(next.since(now)),
                None => {}
            }
        }
        let starts = starts.into_iter().filter_map(|id| self.begin(&id, now)).collect();
        (starts, calm)
    }

    /// Starts a task whatever its time is; `None` when it is at work already.
    pub(super) fn run_now(&mut self, id: &str, now: Moment) -> Result<Option<Start>, ApiError> {
        self.known(id)?;
        Ok(self.begin(id, now))
    }

    fn begin(&mut self, id: &str, now: Moment) -> Option<Start> {
        if self.running.contains_key(id) {
            return None;
        }
        let (task, memory) = (self.tasks.get(id)?, self.saved.tasks.get_mut(id)?);
        memory.timing.began(now);
        memory.running = true;
        self.running.insert(id.to_owned(), now);
        let request = match &task.work {
            Work::Set => {
                JobRequest::Backup(BackupRequest { set: Some(id.to_owned()), ..BackupRequest::default() })
            }
            Work::Paths(paths) => {
                let tags = vec![id.to_owned()];
                JobRequest::Backup(BackupRequest { paths: paths.clone(), tags, ..BackupRequest::default() })
            }
            Work::Verify => JobRequest::Verify(VerifyRequest::default()),
            Work::Scrub => JobRequest::Verify(VerifyRequest {
                scrub: true,
                subset: Some(format!("{}%", f64::from(1000u32.div_ceil(limit::SCRUB_SLICES)) / 10.0)),
                repair: true,
                ..VerifyRequest::default()
            }),
            Work::Drill => JobRequest::Verify(VerifyRequest { drill: true, ..VerifyRequest::default() }),
            Work::Forget => {
                let request = ForgetRequest { configured: true, scheduled: true, ..ForgetRequest::default() };
                JobRequest::Forget(request)
            }
            Work::Gc => JobRequest::Gc(GcRequest { scheduled: true, ..GcRequest::default() }),
        };
        Some(Start { id: id.to_owned(), request })
    }

    /// Notes how a run ended: with a snapshot or not, with an error or not.
    pub(super) fn ended(
        &mut self,
        id: &str,
        now: Moment,
        snapshot: Option<String>,
        error: Option<&ApiError>,
        seed: u64,
    ) -> Option<Ended> {
        let began = self.running.remove(id)?;
        let (task, memory) = (self.tasks.get(id)?, self.saved.tasks.get_mut(id)?);
        memory.running = false;
        let outcome = match error {
            None => Outcome::Success,
            // The same files will be unreadable in a minute; the snapshot is there.
            Some(error) if error.kind() == Code::Incomplete => Outcome::Permanent,
            Some(error) if error.kind().retry() != Retry::Never => Outcome::Retryable,
            Some(_) => Outcome::Permanent,
        };
        let last = LastRun {
            began: began.to_rfc3339(),
            ended: now.to_rfc3339(),
            success: error.is_none(),
            code: error.map(|error| error.code.clone()),
            message: error
                .map(|error| error.message.chars().take(limit::SCHEDULE_MESSAGE_CHARS_MAX).collect()),
            snapshot,
        };
        memory.last = Some(last.clone());
        let verdict = memory.timing.ended(now, outcome, task.retries, seed);
        let recovered = verdict == Verdict::Done && std::mem::take(&mut memory.failing);
        memory.failing |= verdict == Verdict::GivenUp;
        Some(Ended { verdict, recovered, last })
    }

    /// A run ended because the node stops: it is due at the next start.
    pub(super) fn interrupted(&mut self, id: &str) {
        self.running.remove(id);
        if let Some(memory) = self.saved.tasks.get_mut(id) {
            memory.running = false;
            memory.timing.anchor = None;
        }
    }

    /// Forgets that a task failed for want of something that is there now, so that it is due at once.
    pub(super) fn unlocked(&mut self) {
        for memory in self.saved.tasks.values_mut() {
            let locked = |last: &LastRun| last.code.as_deref() == Some(Code::VaultLocked.name());
            if memory.last.as_ref().is_some_and(locked) {
                memory.timing.anchor = None;
            }
        }
    }

    /// Adds a task.
    ///
    /// # Errors
    /// A name that is taken or no name, nothing to do, both or neither rhythm, a cron line that never fires.
    pub(super) fn add(
        &mut self,
        added: AddSchedule,
        settings: &Settings,
        now: Moment,
    ) -> Result<ScheduleInfo, ApiError> {
        let id = added.id.clone();
        let sound = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if id.is_empty() || id.len() > limit::SCHEDULE_ID_BYTES_MAX || !id.chars().all(sound) {
            let text = format!("{id:?} is no name for a task: letters, digits, - _ . and at most 64 of them");
            return Err(ApiError::new(Code::UsageInvalid, text));
        }
        if self.tasks.contains_key(&id) {
            return Err(ApiError::new(Code::UsageInvalid, format!("there is a task {id:?} already"))
                .with_hint("`shadowvault schedule list` shows it; choose another name, or remove it first"));
        }
        if self.saved.added.len() >= limit::SCHEDULE_TASKS_MAX {
            let text = format!("there are {} added tasks already", self.saved.added.len());
            return Err(ApiError::new(Code::ResourceExhausted, text));
        }
        task_of(&added, settings.scheduler.max_backup_retries)?;
        self.saved.added.push(added);
        self.configure(settings, now);
        self.info(&id, now, &TimeZone::system())
    }

    /// Removes a task that was added.
    ///
    /// # Errors
    /// No such task, or one of the configuration.
    pub(super) fn remove(&mut self, id: &str) -> Result<(), ApiError> {
        if self.known(id)?.source == ScheduleSource::Config {
            let text = format!("the task {id:?} is made by the configuration");
            return Err(ApiError::new(Code::UsageInvalid, text)
                .with_hint("take it out of the configuration, or `shadowvault schedule disable` it"));
        }
        self.saved.added.retain(|added| added.id != id);
        self.saved.tasks.remove(id);
        self.tasks.remove(id);
        Ok(())
    }

    /// Lets a task run by itself, or not. What was missed while it was disabled is not made up for.
    pub(super) fn enable(&mut self, id: &str, enabled: bool, now: Moment) -> Result<(), ApiError> {
        self.known(id)?;
        let memory = self.saved.tasks.entry(id.to_owned()).or_default();
        if enabled && !memory.enabled {
            memory.timing = Timing { anchor: Some(now), ..Timing::default() };
        }
        memory.enabled = enabled;
        Ok(())
    }

    fn known(&self, id: &str) -> Result<&Task, ApiError> {
        self.tasks.get(id).ok_or_else(|| {
            ApiError::new(Code::ScheduleNotFound, format!("there is no task {id:?}"))
                .with_hint("`shadowvault schedule list` shows all of them")
        })
    }

    /// All tasks by name.
    pub(super) fn list(&self, now: Moment, zone: &TimeZone) -> Vec<ScheduleInfo> {
        self.tasks.keys().filter_map(|id| self.info(id, now, zone).ok()).collect()
    }

    /// One task.
    pub(super) fn info(&self, id: &str, now: Moment, zone: &TimeZone) -> Result<ScheduleInfo, ApiError> {
        let task = self.known(id)?;
        let memory = self.saved.tasks.get(id).cloned().unwrap_or_default();
        let running = self.running.contains_key(id);
        let next = memory.timing.next(&task.rhythm, now, zone).filter(|_| memory.enabled && !running);
        let kind = match task.work {
            Work::Set | Work::Paths(_) => "backup",
            Work::Verify => "verify",
            Work::Scrub => "scrub",
            Work::Drill => "drill",
            Work::Forget => "forget",
            Work::Gc => "gc",
        };
        Ok(ScheduleInfo {
            id: id.to_owned(),
            kind: kind.to_owned(),
            paths: task.paths.iter().map(|path| path.to_string_lossy().into_owned()).collect(),
            rhythm: match &task.rhythm {
                Rhythm::Every(span) => format!("every {}", format_duration(*span)),
                Rhythm::Cron(line) => line.to_string(),
            },
            enabled: memory.enabled,
            source: task.source,
            running,
            next: next.map(Moment::to_rfc3339),
            tries: memory.timing.tries,
            last: memory.last,
        })
    }
}

fn runs_at_once(task: &Task) -> bool {
    matches!(task.work, Work::Set | Work::Paths(_)) && matches!(task.rhythm, Rhythm::Every(_))
}

/// The tasks that the configuration makes.
fn configured(settings: &Settings) -> BTreeMap<String, Task> {
    let mut tasks = BTreeMap::new();
    let retries = settings.scheduler.max_backup_retries;
    let source = ScheduleSource::Config;
    // Slice by slice, so that neither the disk nor a reader of the state waits long.
    let slice = settings.storage.scrub_interval / limit::SCRUB_SLICES;
    let scrub = Rhythm::Every(slice.max(limit::SCHEDULE_EVERY_MIN));
    let paths = Vec::new();
    tasks.insert(SCRUB.to_owned(), Task { source, work: Work::Scrub, rhythm: scrub, retries, paths });
    let (drill, paths) = (Rhythm::Every(settings.scheduler.restore_drill_interval), Vec::new());
    tasks.insert(DRILL.to_owned(), Task { source, work: Work::Drill, rhythm: drill, retries, paths });
    let (gc, paths) = (Rhythm::Every(settings.storage.gc_interval), Vec::new());
    tasks.insert(GC.to_owned(), Task { source, work: Work::Gc, rhythm: gc, retries, paths });
    if has_rules(settings) {
        let (rhythm, paths) = (Rhythm::Every(limit::FORGET_EVERY), Vec::new());
        tasks.insert(FORGET.to_owned(), Task { source, work: Work::Forget, rhythm, retries, paths });
    }
    let auto = &settings.scheduler;
    if auto.enable_auto_backup {
        let (rhythm, paths) = (Rhythm::Every(auto.backup_interval), auto.backup_paths.clone());
        let work = Work::Paths(paths.clone());
        tasks.insert(AUTO.to_owned(), Task { source, work, rhythm, retries, paths });
    }
    for set in &settings.backup_sets {
        let rhythm = match &set.when {
            When::Every(span) => Rhythm::Every(*span),
            When::Cron(line) => Rhythm::Cron(line.clone()),
        };
        let paths = set.paths.clone();
        tasks.insert(set.id.clone(), Task { source, work: Work::Set, rhythm, retries, paths });
    }
    tasks
}

fn task_of(added: &AddSchedule, retries: u32) -> Result<Task, ApiError> {
    let refused = |text: String| Err(ApiError::new(Code::UsageInvalid, text));
    let rhythm = match (added.every_ms.map(Duration::from_millis), &added.cron) {
        (Some(span), None) if span >= limit::SCHEDULE_EVERY_MIN => Rhythm::Every(span),
        (Some(span), None) => {
            return refused(format!("every {} is too often: at least every minute", format_duration(span)));
        }
        (None, Some(line)) => match CronLine::parse(line) {
            Ok(line) => Rhythm::Cron(Box::new(line)),
            Err(error) => return refused(error.to_string()),
        },
        _ => return refused("a task runs either every so often or by a cron line".to_owned()),
    };
    if let Some(path) = added.paths.iter().find(|path| !path.is_absolute()) {
        return refused(format!("{path:?} is not an absolute path"));
    }
    if added.verify != added.paths.is_empty() {
        return refused("a task backs up paths, or verifies and has none".to_owned());
    }
    let paths = added.paths.clone();
    let work = if added.verify { Work::Verify } else { Work::Paths(paths.clone()) };
    let retries = added.retries.unwrap_or(retries);
    Ok(Task { source: ScheduleSource::Added, work, rhythm, retries, paths })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{BackupSet, Hooks};

    const MINUTE: u64 = 60_000;
    const DAY: u64 = 1440 * MINUTE;
    const START: u64 = 20_000 * DAY;

    fn now(minutes: u64) -> Moment {
        Moment::from_millis(START + minutes * MINUTE)
    }

    fn settings(id: &str, when: When) -> Settings {
        let mut settings = Settings::default();
        // Out of the way: these tests are about others.
        settings.storage.gc_interval = Duration::from_secs(365 * 86_400);
        settings.storage.scrub_interval = Duration::from_secs(365 * 86_400);
        settings.scheduler.restore_drill_interval = Duration::from_secs(365 * 86_400);
        let (exclude, tags, hooks) = (vec![], vec![], Hooks::default());
        settings.backup_sets = vec![BackupSet {
            id: id.into(),
            paths: vec!["/a".into()],
            exclude,
            exclude_if_present: Vec::new(),
            exclude_caches: false,
            exclude_larger_than: None,
            one_file_system: false,
            min_files: 0,
            allow_shrink: false,
            tags,
            when,
            hooks,
        }];
        settings
    }

    fn hourly() -> Settings {
        settings("docs", When::Every(Duration::from_secs(3600)))
    }

    fn due(board: &mut Board, minutes: u64) -> Vec<String> {
        board.due(now(minutes), &TimeZone::UTC).0.into_iter().map(|start| start.id).collect()
    }

    fn ended(board: &mut Board, minutes: u64, error: Option<Code>) -> Ended {
        let error = error.map(|code| ApiError::new(code, "why"));
        board.ended("docs", now(minutes), None, error.as_ref(), 0).unwrap()
    }

    fn end(board: &mut Board, minutes: u64, error: Option<Code>) -> Verdict {
        ended(board, minutes, error).verdict
    }

    #[test]
    fn a_set_runs_at_once_then_by_its_rhythm_and_never_twice_at_a_time() {
        let mut board = Board::new(Saved::default(), &hourly(), now(0));
        let (starts, calm) = board.due(now(0), &TimeZone::UTC);
        let JobRequest::Backup(request) = &starts[0].request else { panic!("{starts:?}") };
        assert_eq!((starts.len(), request.set.as_deref()), (1, Some("docs")));
        assert!(calm <= limit::SCHEDULE_LOOK);
        assert_eq!(due(&mut board, 600), [""; 0], "it is still at work");
        assert_eq!(board.run_now("docs", now(600)), Ok(None), "not even when asked for");
        assert_eq!(end(&mut board, 600, None), Verdict::Done);
        assert_eq!(due(&mut board, 600), ["docs"], "it took longer than its rhythm");
        end(&mut board, 601, None);
        assert_eq!(due(&mut board, 659), [""; 0]);
        assert_eq!(due(&mut board, 660), ["docs"]);
    }

    #[test]
    fn failures_are_tried_again_only_when_that_may_help() {
        let mut board = Board::new(Saved::default(), &hourly(), now(0));
        due(&mut board, 0);
        for (ended, again) in [(0, 1), (1, 3), (3, 7)] {
            assert_eq!(end(&mut board, ended, Some(Code::StorageFull)), Verdict::Retry(now(again)));
            assert_eq!(due(&mut board, again - 1), [""; 0]);
            assert_eq!(due(&mut board, again), ["docs"]);
        }
        assert_eq!(end(&mut board, 7, Some(Code::StorageFull)), Verdict::GivenUp);
        assert_eq!(due(&mut board, 66), [""; 0]);
        assert_eq!(due(&mut board, 67), ["docs"], "an hour after the last try began");
        assert_eq!(end(&mut board, 68, Some(Code::PathNotFound)), Verdict::GivenUp, "no retry helps");
        let shown = board.info("docs", now(69), &TimeZone::UTC).unwrap();
        assert_eq!(shown.last.unwrap().code.as_deref(), Some("PATH_NOT_FOUND"));
        for (minutes, recovered) in [(200, true), (300, false)] {
            due(&mut board, minutes);
            assert_eq!(
                ended(&mut board, minutes, None).recovered,
                recovered,
                "told once that it works again"
            );
        }
    }

    #[test]
    fn a_restart_after_downtime_makes_up_for_one_run() {
        let mut board = Board::new(Saved::default(), &hourly(), now(0));
        due(&mut board, 0);
        end(&mut board, 1, None);
        let saved: Saved = serde_json::from_slice(&serde_json::to_vec(board.saved()).unwrap()).unwrap();
        let mut board = Board::new(saved, &hourly(), now(6000));
        assert_eq!(due(&mut board, 6000), ["docs"]);
        end(&mut board, 6001, None);
        assert_eq!(due(&mut board, 6002), [""; 0]);
    }

    #[test]
    fn a_run_that_ended_with_the_node_comes_again_but_does_not_loop() {
        let again = |board: &Board, minutes| {
            let saved = serde_json::from_slice(&serde_json::to_vec(board.saved()).unwrap()).unwrap();
            Board::new(saved, &hourly(), now(minutes))
        };
        let mut board = Board::new(Saved::default(), &hourly(), now(0));
        due(&mut board, 0);
        board.interrupted("docs");
        let mut board = again(&board, 1);
        assert_eq!(due(&mut board, 1), ["docs"], "it was stopped in order");
        // The node dies with it, four times.
        for (died, next) in [(2, 3), (3, 5), (5, 9)] {
            board = again(&board, died);
            assert_eq!(due(&mut board, next - 1), [""; 0]);
            assert_eq!(due(&mut board, next), ["docs"]);
        }
        board = again(&board, 10);
        assert_eq!(due(&mut board, 60), [""; 0], "no sooner than by its rhythm");
        assert_eq!(due(&mut board, 69), ["docs"]);
    }

    #[test]
    fn what_is_checked_seldom_waits_for_its_time() {
        let mut board = Board::new(Saved::default(), &Settings::default(), now(0));
        // A thirtieth of the packs each day, so that all are read within 30 days.
        assert_eq!(due(&mut board, 1439), [""; 0]);
        assert_eq!(due(&mut board, 1440), ["gc", "scrub"]);
        assert!(!due(&mut board, 30 * 1440 - 1).contains(&"drill".to_owned()));
        assert!(due(&mut board, 30 * 1440).contains(&"drill".to_owned()));
        let line = CronLine::parse("0 12 * * *").unwrap();
        let mut board = Board::new(Saved::default(), &settings("docs", When::Cron(Box::new(line))), now(0));
        assert_eq!(due(&mut board, 719), [""; 0]);
        assert_eq!(due(&mut board, 720), ["docs"]);
    }

    #[test]
    fn tasks_are_added_disabled_and_removed_by_name() {
        let settings = hourly();
        let mut board = Board::new(Saved::default(), &settings, now(0));
        let added = |id: &str| AddSchedule {
            id: id.into(),
            paths: vec!["/b".into()],
            cron: Some("0 3 * * *".into()),
            ..AddSchedule::default()
        };
        let mut add = |added: AddSchedule| board.add(added, &settings, now(0)).map(|info| info.rhythm);
        assert_eq!(add(added("mine")), Ok("0 3 * * *".into()));
        let wrong = [
            added("mine"),
            added("docs"),
            added(""),
            added("a b"),
            AddSchedule { cron: Some("0 0 30 2 *".into()), ..added("x") },
            AddSchedule { every_ms: Some(3_600_000), ..added("x") },
            AddSchedule { cron: None, ..added("x") },
            AddSchedule { cron: None, every_ms: Some(1000), ..added("x") },
            AddSchedule { paths: vec!["b".into()], ..added("x") },
            AddSchedule { paths: vec![], ..added("x") },
            AddSchedule { verify: true, ..added("x") },
        ];
        for wrong in wrong {
            assert_eq!(add(wrong.clone()).unwrap_err().kind(), Code::UsageInvalid, "{wrong:?}");
        }
        assert!(board.remove("docs").is_err() && board.remove("none").is_err());
        board.enable("docs", false, now(0)).unwrap();
        assert_eq!(due(&mut board, 5000), ["mine"], "the other one is disabled");
        board.enable("docs", true, now(5000)).unwrap();
        assert_eq!(due(&mut board, 5001), [""; 0], "what was missed is not made up for");
        board.remove("mine").unwrap();
        assert!(board.ended("mine", now(5002), None, None, 0).is_none(), "nobody wants to know any more");
        assert_eq!(board.list(now(0), &TimeZone::UTC).len(), 4, "docs, drill, gc and scrub");
    }

    #[test]
    fn a_locked_vault_is_shown_and_the_task_is_due_once_it_is_open() {
        let mut board = Board::new(Saved::default(), &hourly(), now(0));
        due(&mut board, 0);
        assert_eq!(end(&mut board, 0, Some(Code::VaultLocked)), Verdict::GivenUp);
        assert_eq!(due(&mut board, 5), [""; 0]);
        board.unlocked();
        assert_eq!(due(&mut board, 5), ["docs"]);
    }
}
