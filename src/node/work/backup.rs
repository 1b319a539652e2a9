//! Backups, with what their set says around them.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::selection::{check, exclusions, expand};
use crate::api::{ApiError, BackupRequest, BackupSummary, JobOutcome, PathFate, WaitFor};
use crate::base::{Code, SnapshotId, limit};
use crate::config::Hooks;
use crate::engine::{self, BackupOptions, EngineError, Fate, Listener, Monitor, VaultView};
use crate::node::Mode;
use crate::node::core::Core;
use crate::node::error::{failed, no_network};
use crate::node::jobs::Ended;
use crate::node::schedule::{self, HookFacts, HookKind};
use crate::node::streams::{Fates, Input, Streams};
use crate::policy::{Expectation, Shortfall};
use crate::wire::SnapshotCounts;

/// How often copies are counted while a backup waits for them.
const COPIES_PAUSE: Duration = Duration::from_millis(250);

fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// A backup, with what its set says around it; or a dry run, without that.
pub(super) async fn run(
    core: &Arc<Core>,
    mut request: BackupRequest,
    monitor: Arc<Monitor>,
    memory: usize,
    streams: Streams,
) -> Ended {
    let set = request.set.clone();
    let hooks = expand(core, &mut request)?;
    check(&request)?;
    if request.dry_run {
        return dry_run(core, request, monitor, memory, streams.fates).await;
    }
    match set {
        Some(id) => with_hooks(core, request, monitor, memory, &hooks, id).await,
        None => backup(core, request, monitor, memory, streams.input).await,
    }
}

fn options(core: &Arc<Core>, request: &BackupRequest, memory: usize) -> BackupOptions {
    BackupOptions {
        paths: request.paths.clone(),
        exclude: exclusions(request),
        tags: request.tags.clone(),
        memory_bytes: memory,
        hostname: request.host.clone().unwrap_or_else(hostname),
        username: std::env::var("USER").unwrap_or_default(),
        one_file_system: request.one_file_system,
        force: request.force,
        skip_unchanged: request.skip_if_unchanged,
        expected: Expected::of(request).source,
        holders: core.holder_addresses(),
        checkpoint_every: Some(limit::CHECKPOINT_EVERY),
    }
}

async fn with_hooks(
    core: &Arc<Core>,
    request: BackupRequest,
    monitor: Arc<Monitor>,
    memory: usize,
    hooks: &Hooks,
    set: String,
) -> Ended {
    let mut facts = HookFacts { set, ..HookFacts::default() };
    monitor.enter("running the before hook");
    let mut ended = match schedule::hook(core, hooks, HookKind::Before, &facts).await {
        Ok(()) => backup(core, request, monitor.clone(), memory, None).await,
        Err(error) => Err(error),
    };
    let (done, error) = match &ended {
        Ok((JobOutcome::Backup(summary), error)) => (Some(summary.snapshot_id.clone()), error.clone()),
        Ok((_, error)) => (None, error.clone()),
        Err(error) => (None, Some(error.clone())),
    };
    facts.snapshot = done.unwrap_or_default();
    if let Some(error) = error {
        (facts.code, facts.message) = (error.code, error.message);
    }
    monitor.enter("running hooks");
    let kind = if facts.snapshot.is_empty() { HookKind::Failure } else { HookKind::Success };
    for kind in [kind, HookKind::After] {
        // The backup is what it is; a hook that fails after it is worth a word, and keeps it from being a full success.
        if let Err(failure) = schedule::hook(core, hooks, kind, &facts).await
            && let Ok((_, error @ None)) = &mut ended
        {
            *error = Some(failure);
        }
    }
    ended
}

async fn backup(
    core: &Arc<Core>,
    request: BackupRequest,
    monitor: Arc<Monitor>,
    memory: usize,
    input: Option<Input>,
) -> Ended {
    let began = Instant::now();
    let expected = Expected::of(&request);
    let waits = request.wait == WaitFor::Copies;
    if waits && core.mode == Mode::Offline {
        return Err(no_network());
    }
    let patience = request.wait_timeout_ms.map(Duration::from_millis);
    let stream = match (input, &request.stdin_filename) {
        (Some(mut input), Some(name)) => {
            monitor.enter("waiting for the input");
            input.begin().await?;
            Some((input, name.clone()))
        }
        _ => None,
    };
    let done = {
        let monitor = monitor.clone();
        core.blocking(move |core| {
            let (vault, options) = (core.vault()?, options(core, &request, memory));
            let done = match stream {
                Some((input, name)) => {
                    engine::backup_stream(&vault, &options, &name, Box::new(input), &monitor)
                }
                None => engine::backup(&vault, &options, &monitor),
            };
            done.map_err(failed)
        })
        .await?
    };
    core.changed.notify_one();
    let wanted = core.settings().replication.copies;
    let snapshot = done.snapshot;
    let copies = if waits {
        await_copies(core, snapshot, wanted, patience, &monitor).await?
    } else {
        core.blocking(move |core| copies_of(core, snapshot)).await?
    };
    let (summary, short) = summary(&done.counts, done.files_before, &expected, began);
    let mut summary =
        BackupSummary { snapshot_id: done.snapshot.to_string(), copies, copies_wanted: wanted, ..summary };
    if !summary.warnings.is_empty() {
        let (files, gone, before) = (summary.total_files_processed, summary.files_gone, summary.files_before);
        tracing::warn!(target: "backup", files, gone, before, "the source has less than one expects");
    }
    summary.skipped = done.skipped;
    summary.ahead = done.ahead;
    summary.warnings.extend(ahead(done.ahead));
    let error = unreadable(&summary).or(short).or_else(|| {
        (waits && copies < wanted).then(|| {
            let text =
                format!("{copies} of {wanted} copies so far; the snapshot is safe on this machine only");
            let hint = "`shadowvault status` shows what is missing; the daemon goes on by itself";
            ApiError::new(Code::CopiesMissing, text).with_hint(hint)
        })
    });
    Ok((JobOutcome::Backup(summary), error))
}

/// What a request expects of its source.
struct Expected {
    source: Expectation,
    /// A source that falls short makes the backup incomplete.
    strict: bool,
}

impl Expected {
    fn of(request: &BackupRequest) -> Self {
        let (empty, less) = (request.allow_empty, request.allow_shrink);
        Self { source: Expectation { files_min: request.min_files, empty, less }, strict: request.strict }
    }

    /// Whether that is less than a full success.
    fn forbids(&self, short: &Shortfall) -> bool {
        let asked = self.source.files_min > 0;
        match short {
            Shortfall::Empty { .. } => self.strict || asked,
            Shortfall::Few { .. } => true,
            Shortfall::Gone { .. } => self.strict,
        }
    }
}

/// The summary of a backup, and why what it met of its source is less than was asked for.
fn summary(
    counts: &SnapshotCounts,
    files_before: u64,
    expected: &Expected,
    began: Instant,
) -> (BackupSummary, Option<ApiError>) {
    let met = engine::source_count(counts, files_before);
    let short = met.shortfall(expected.source);
    let lost = met.is_lost(expected.source);
    let error = short.filter(|short| lost || expected.forbids(short)).map(|short| {
        let hint = match short {
            Shortfall::Empty { .. } => "is its file system mounted? --allow-empty says that it is meant",
            _ => "is all of it mounted? --allow-shrink says that it is meant",
        };
        ApiError::new(Code::Incomplete, short.to_string()).with_hint(hint)
    });
    let summary = BackupSummary {
        files_gone: met.gone(),
        files_before,
        warnings: short.iter().map(ToString::to_string).collect(),
        files_new: counts.files_new,
        files_changed: counts.files_changed,
        files_unmodified: counts.files_unmodified,
        dirs_new: counts.dirs_new,
        data_added: counts.data_added,
        data_added_packed: counts.data_added_packed,
        total_files_processed: counts.files,
        total_bytes_processed: counts.bytes,
        total_duration: began.elapsed().as_secs_f64(),
        unreadable: counts.unreadable,
        inconsistent: counts.inconsistent,
        ..BackupSummary::default()
    };
    (summary, error)
}

/// What is said when so many snapshots are dated later than now.
fn ahead(count: u64) -> Option<String> {
    let (snapshots, they) = match count {
        0 => return None,
        1 => ("1 earlier snapshot is".to_owned(), "it was"),
        count => (format!("{count} earlier snapshots are"), "they were"),
    };
    Some(format!("{snapshots} dated later than now: this machine's clock is wrong, or was when {they} made"))
}

/// Why a backup is less than was asked for.
fn unreadable(summary: &BackupSummary) -> Option<ApiError> {
    let (one, verb) = match summary.unreadable {
        0 => return None,
        1 => ("1 entry".to_owned(), "is"),
        count => (format!("{count} entries"), "are"),
    };
    let missing = if summary.dry_run { "would not be".to_owned() } else { format!("{verb} not") };
    Some(ApiError::new(Code::Incomplete, format!("{one} could not be read and {missing} in the snapshot")))
}

/// Tells what a backup would do.
async fn dry_run(
    core: &Arc<Core>,
    request: BackupRequest,
    monitor: Arc<Monitor>,
    memory: usize,
    mut fates: Option<Fates>,
) -> Ended {
    let began = Instant::now();
    let expected = Expected::of(&request);
    if let Some(fates) = &mut fates {
        monitor.enter("waiting for its caller");
        fates.begin().await?;
    }
    let done = core.blocking(move |core| {
        let (vault, options) = (core.vault()?, options(core, &request, memory));
        let mut tell = |path: &Path, fate: Fate| match &fates {
            Some(fates) if !fates.tell(line(path, fate)) => Err(EngineError::Cancelled),
            _ => Ok(()),
        };
        let listener: Option<Listener<'_>> = request.list.then_some(&mut tell);
        engine::preview(&vault, &options, &monitor, listener).map_err(failed)
    });
    let done = done.await?;
    let (summary, short) = summary(&done.counts, done.files_before, &expected, began);
    let summary = BackupSummary {
        dry_run: true,
        bytes_to_read: done.bytes_to_read,
        copies_wanted: core.settings().replication.copies,
        ..summary
    };
    let error = unreadable(&summary).or(short);
    Ok((JobOutcome::Backup(summary), error))
}

fn line(path: &Path, fate: Fate) -> PathFate {
    let (fate, why) = match fate {
        Fate::New => ("new", None),
        Fate::Changed => ("changed", None),
        Fate::Same => ("same", None),
        Fate::LeftOut(ground) => ("left-out", Some(ground.to_string())),
        Fate::Failed(reason) => ("failed", Some(reason)),
    };
    PathFate { fate: fate.to_owned(), path: path.to_string_lossy().into_owned(), why }
}

fn copies_of(core: &Arc<Core>, snapshot: SnapshotId) -> Result<u32, ApiError> {
    let vault = core.vault()?;
    let view = VaultView::load(&vault).map_err(failed)?;
    Ok(engine::copy_counts(&vault, &view, core.counted_now()).map_err(failed)?.of_snapshot(snapshot))
}

async fn await_copies(
    core: &Arc<Core>,
    snapshot: SnapshotId,
    wanted: u32,
    patience: Option<Duration>,
    monitor: &Monitor,
) -> Result<u32, ApiError> {
    monitor.enter("waiting for copies");
    let began = Instant::now();
    loop {
        let copies = core.blocking(move |core| copies_of(core, snapshot)).await?;
        let over = patience.is_some_and(|patience| began.elapsed() >= patience);
        if copies >= wanted || over || core.stop.is_cancelled() || monitor.go_on().is_err() {
            return Ok(copies);
        }
        tokio::time::sleep(COPIES_PAUSE).await;
    }
}
