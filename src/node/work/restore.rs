//! Restores.

use std::sync::Arc;
use std::time::Instant;

use super::{know_listed_packs, split_reference};
use crate::api::{ApiError, JobOutcome, RestoreRequest, RestoreSummary};
use crate::base::Code;
use crate::engine::{self, Monitor, PackSource, RestoreOptions, VaultView};
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
    if !request.target.is_absolute() {
        return Err(ApiError::new(Code::UsageInvalid, "the target must be an absolute path"));
    }
    let overwrite = match request.overwrite.as_deref() {
        None | Some("never") => Overwrite::Never,
        Some("if-changed") => Overwrite::IfChanged,
        Some("if-newer") => Overwrite::IfNewer,
        Some("always") => Overwrite::Always,
        Some(other) => {
            let text = format!("overwrite cannot be {other:?}: never, if-changed, if-newer or always");
            return Err(ApiError::new(Code::UsageInvalid, text));
        }
    };
    let began = Instant::now();
    know_listed_packs(core).await;
    let source = core.source();
    core.blocking(move |core| {
        let vault = core.vault()?;
        let view = VaultView::load(&vault).map_err(failed)?;
        let (reference, path) = split_reference(&request.snapshot);
        let snapshot = engine::resolve(&view, reference).map_err(failed)?;
        let options = RestoreOptions {
            path,
            target: request.target,
            memory_bytes: memory,
            overwrite,
            owner: !request.no_owner,
            privileged: !request.no_privileged,
            sparse: request.sparse,
            verify: request.verify.unwrap_or(core.settings().storage.verify_on_restore),
        };
        let source = source.as_ref().map(|source| source as &dyn PackSource);
        let done = engine::restore(&vault, snapshot, &options, source, &monitor).map_err(failed)?;
        let fetched = monitor.bytes_fetched.load(std::sync::atomic::Ordering::Relaxed);
        let summary = RestoreSummary {
            snapshot_id: snapshot.id.to_string(),
            files_restored: done.files,
            dirs_restored: done.directories,
            others_restored: done.others,
            skipped: done.skipped,
            bytes_restored: done.bytes,
            bytes_fetched: fetched,
            failed: done.failed,
            files_verified: done.verified,
            total_duration: began.elapsed().as_secs_f64(),
        };
        let error = (done.failed > 0).then(|| {
            ApiError::new(Code::Incomplete, format!("{} entries could not be restored", done.failed))
                .with_hint("each is named above; `shadowvault repair` may bring missing data back from peers")
        });
        Ok((JobOutcome::Restore(summary), error))
    })
    .await
}
