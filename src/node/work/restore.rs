//! Restores.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::{know_listed_packs, split_reference};
use crate::api::{ApiError, JobOutcome, RestoreChange, RestoreRequest, RestoreSummary};
use crate::base::Code;
use crate::engine::{self, Monitor, PackSource, RestoreAction, RestoreOptions, RestoreResult, VaultView};
use crate::fs::Overwrite;
use crate::node::core::Core;
use crate::node::error::failed;
use crate::node::jobs::Ended;

pub(super) async fn restore(
    core: &Arc<Core>,
    request: RestoreRequest,
    monitor: Arc<Monitor>,
    memory: usize,
) -> Ended {
    check(&request)?;
    let overwrite = overwrite(request.overwrite.as_deref())?;
    let began = Instant::now();
    know_listed_packs(core).await;
    let source = core.source();
    core.blocking(move |core| {
        let vault = core.vault()?;
        let view = VaultView::load(&vault).map_err(failed)?;
        let (reference, path) = split_reference(&request.snapshot);
        let snapshot = engine::resolve(&view, reference).map_err(failed)?;
        let patterns = request.include.len();
        let options = RestoreOptions {
            path,
            target: request.target,
            memory_bytes: memory,
            include: request.include,
            exclude: request.exclude,
            overwrite,
            delete: request.delete,
            target_metadata: request.target_metadata,
            dry_run: request.dry_run,
            owner: !request.no_owner,
            privileged: !request.no_privileged,
            sparse: request.sparse,
            verify: request.verify.unwrap_or(core.settings().storage.verify_on_restore),
            sync: request.verify == Some(true),
        };
        let source = source.as_ref().map(|source| source as &dyn PackSource);
        let done = engine::restore(&vault, snapshot, &options, source, &monitor).map_err(failed)?;
        let fetched = monitor.bytes_fetched.load(std::sync::atomic::Ordering::Relaxed);
        let error = fault(&done).or_else(|| nothing_included(patterns, &done));
        let summary = RestoreSummary {
            snapshot_id: snapshot.id.to_string(),
            dry_run: request.dry_run,
            files_restored: done.files,
            files_overwritten: done.overwritten,
            dirs_restored: done.directories,
            others_restored: done.others,
            skipped: done.skipped,
            bytes_restored: done.bytes,
            bytes_fetched: fetched,
            deleted: done.deleted,
            kept: done.kept,
            failed: done.failed,
            damaged: done.damaged,
            files_verified: done.verified,
            total_duration: began.elapsed().as_secs_f64(),
            changes: done.changes.into_iter().map(change).collect(),
        };
        Ok((JobOutcome::Restore(summary), error))
    })
    .await
}

fn check(request: &RestoreRequest) -> Result<(), ApiError> {
    if !request.target.is_absolute() {
        return Err(ApiError::new(Code::UsageInvalid, "the target must be an absolute path"));
    }
    let everything = request.target.canonicalize().is_ok_and(|target| target == Path::new("/"));
    if request.delete && everything && !request.confirmed && !request.dry_run {
        let text =
            "with / as the target, files of this system that the snapshot does not have would be deleted";
        return Err(ApiError::new(Code::UsageInvalid, text)
            .with_hint("see what would go with --dry-run; --yes does it"));
    }
    Ok(())
}

fn overwrite(rule: Option<&str>) -> Result<Overwrite, ApiError> {
    match rule {
        None | Some("never") => Ok(Overwrite::Never),
        Some("if-changed") => Ok(Overwrite::IfChanged),
        Some("if-newer") => Ok(Overwrite::IfNewer),
        Some("always") => Ok(Overwrite::Always),
        Some(other) => {
            let text = format!("overwrite cannot be {other:?}: never, if-changed, if-newer or always");
            Err(ApiError::new(Code::UsageInvalid, text))
        }
    }
}

fn change(change: engine::RestoreChange) -> RestoreChange {
    let (action, reason) = match change.action {
        RestoreAction::Create => ("create", None),
        RestoreAction::Overwrite => ("overwrite", None),
        RestoreAction::Dress => ("metadata", None),
        RestoreAction::Skip => ("skip", None),
        RestoreAction::Delete => ("delete", None),
        RestoreAction::Keep(why) => ("keep", Some(why.to_owned())),
    };
    let path = change.path.to_string_lossy().into_owned();
    RestoreChange { action: action.to_owned(), path, reason }
}

/// Patterns that say what to restore and match nothing: one of them is misspelt, as a rule.
fn nothing_included(patterns: usize, done: &RestoreResult) -> Option<ApiError> {
    let met = done.files + done.directories + done.others + done.skipped + done.changes.len() as u64;
    (patterns > 0 && met == 0).then(|| {
        let text = "nothing in the snapshot matches what --include asks for; nothing was restored";
        let hint = "patterns are those of .gitignore, from what is restored downwards: `shadowvault ls` or `find` show the paths";
        ApiError::new(Code::Incomplete, text).with_hint(hint)
    })
}

/// What keeps a restore from being complete: data that is lost weighs more than files that could not be written.
fn fault(done: &RestoreResult) -> Option<ApiError> {
    let entries = |n: u64| if n == 1 { "1 entry".to_owned() } else { format!("{n} entries") };
    match (done.failed, done.damaged) {
        (0, _) => None,
        (failed, 0) => {
            let text = format!("{} could not be restored", entries(failed));
            Some(ApiError::new(Code::Incomplete, text).with_hint("each is named above"))
        }
        (failed, damaged) => {
            let text = format!(
                "{} could not be restored; the data of {damaged} is missing or damaged here",
                entries(failed)
            );
            Some(ApiError::new(Code::ChunkNotFound, text).with_hint(
                "each is named above; `shadowvault repair` may bring missing data back from peers",
            ))
        }
    }
}
