//! Backups, with what their set says around them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::api::{ApiError, BackupRequest, BackupSummary, JobOutcome, WaitFor};
use crate::base::{Code, SnapshotId, limit};
use crate::engine::{self, BackupOptions, Monitor, VaultView};
use crate::node::Mode;
use crate::node::core::Core;
use crate::node::error::{failed, no_network};
use crate::node::jobs::Ended;
use crate::node::schedule::{self, HookFacts, HookKind};

/// How often copies are counted while a backup waits for them.
const COPIES_PAUSE: Duration = Duration::from_millis(250);

fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// A backup, with what its set says around it.
pub(super) async fn with_hooks(
    core: &Arc<Core>,
    mut request: BackupRequest,
    monitor: Arc<Monitor>,
    memory: usize,
) -> Ended {
    let Some(id) = request.set.take() else { return backup(core, request, monitor, memory).await };
    let settings = core.settings();
    let set = settings.backup_sets.iter().find(|set| set.id == id).ok_or_else(|| {
        let known: Vec<&str> = settings.backup_sets.iter().map(|set| set.id.as_str()).collect();
        let hint = match known.as_slice() {
            [] => "backup_sets in the configuration has none".to_owned(),
            known => format!("there are {}", known.join(", ")),
        };
        ApiError::new(Code::UsageInvalid, format!("there is no backup set {id:?}")).with_hint(hint)
    })?;
    request.paths.extend(set.paths.iter().cloned());
    request.exclude.extend(set.exclude.iter().cloned());
    request
        .tags
        .extend(set.tags.iter().filter(|tag| !request.tags.contains(tag)).cloned().collect::<Vec<_>>());
    let mut facts = HookFacts { set: id, ..HookFacts::default() };
    monitor.enter("running the before hook");
    let mut ended = match schedule::hook(core, &set.hooks, HookKind::Before, &facts).await {
        Ok(()) => backup(core, request, monitor.clone(), memory).await,
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
        if let Err(failure) = schedule::hook(core, &set.hooks, kind, &facts).await
            && let Ok((_, error @ None)) = &mut ended
        {
            *error = Some(failure);
        }
    }
    ended
}

async fn backup(core: &Arc<Core>, request: BackupRequest, monitor: Arc<Monitor>, memory: usize) -> Ended {
    if request.paths.is_empty() {
        return Err(ApiError::new(Code::UsageInvalid, "nothing to back up: no path was given"));
    }
    let began = Instant::now();
    let waits = request.wait == WaitFor::Copies;
    if waits && core.mode == Mode::Offline {
        return Err(no_network());
    }
    let patience = request.wait_timeout_ms.map(Duration::from_millis);
    let done = {
        let monitor = monitor.clone();
        core.blocking(move |core| {
            let vault = core.vault()?;
            let options = BackupOptions {
                paths: request.paths,
                exclude: request.exclude,
                tags: request.tags,
                memory_bytes: memory,
                hostname: request.host.unwrap_or_else(hostname),
                username: std::env::var("USER").unwrap_or_default(),
                one_file_system: request.one_file_system,
                force: request.force,
                holders: core.holder_addresses(),
                checkpoint_every: Some(limit::CHECKPOINT_EVERY),
            };
            engine::backup(&vault, &options, &monitor).map_err(failed)
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
    let counts = done.counts;
    let summary = BackupSummary {
        snapshot_id: done.snapshot.to_string(),
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
        copies,
        copies_wanted: wanted,
    };
    let error = if counts.unreadable > 0 {
        let text = format!("{} entries could not be read and are not in the snapshot", counts.unreadable);
        Some(ApiError::new(Code::Incomplete, text))
    } else if waits && copies < wanted {
        let text = format!("{copies} of {wanted} copies so far; the snapshot is safe on this machine only");
        let hint = "`shadowvault status` shows what is missing; the daemon goes on by itself";
        Some(ApiError::new(Code::CopiesMissing, text).with_hint(hint))
    } else {
        None
    };
    Ok((JobOutcome::Backup(summary), error))
}

fn copies_of(core: &Arc<Core>, snapshot: SnapshotId) -> Result<u32, ApiError> {
    let vault = core.vault()?;
    let view = VaultView::load(&vault).map_err(failed)?;
    Ok(engine::copy_counts(&vault, &view).map_err(failed)?.of_snapshot(snapshot))
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
