//! Drills of restoring: that files come back from peers is proven before it is needed.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::know_listed_packs;
use crate::api::{ApiError, DrillFailure, DrillReport, JobOutcome, VerifyRequest};
use crate::base::{Code, limit, random_bytes};
use crate::engine::{self, DrillOptions, DrillResult, Monitor, Vault, VaultView};
use crate::node::core::Core;
use crate::node::error::{failed, no_network};
use crate::node::jobs::Ended;
use crate::node::verified;
use crate::snapshot::Snapshot;

/// The scratch directory, in the data directory: nobody else may read it, and no backup takes it.
const SCRATCH: &str = "drill";

pub(super) async fn run(core: &Arc<Core>, request: VerifyRequest, monitor: Arc<Monitor>) -> Ended {
    know_listed_packs(core).await;
    let source = core.source();
    core.blocking(move |core| {
        // A node that stores for others only has nothing to prove, and neither has one that nobody has a copy of.
        let nothing = DrillReport { time: core.now().to_rfc3339(), ..DrillReport::default() };
        if core.vault_id().is_none() {
            return Ok((JobOutcome::Drill(nothing), None));
        }
        let vault = core.vault()?;
        let source = source.ok_or_else(no_network)?;
        let Some(snapshot) = snapshot_of(core, &vault, request.snapshot.as_deref())? else {
            return Ok((JobOutcome::Drill(nothing), None));
        };
        let options = DrillOptions {
            scratch: core.store.dir().join(SCRATCH),
            seed: u64::from_le_bytes(random_bytes()),
            bytes_max: limit::DRILL_BYTES_MAX,
        };
        let done = engine::restore_drill(&vault, &snapshot, &options, &source, &monitor).map_err(failed)?;
        let drill = drill_report(core, &snapshot, done, &monitor)?;
        verified::note_drill(core, &drill);
        let error = (drill.failed > 0).then(|| {
            let text = format!("{} files did not come back from peers", drill.failed);
            ApiError::new(Code::ChunkNotFound, text)
                .with_hint("`shadowvault peers` shows which holders can be reached; `shadowvault verify --peers` asks them")
        });
        Ok((JobOutcome::Drill(drill), error))
    })
    .await
}

/// The snapshot that is asked for, or the newest one that holders have all of.
fn snapshot_of(
    core: &Arc<Core>,
    vault: &Vault,
    reference: Option<&str>,
) -> Result<Option<Snapshot>, ApiError> {
    let view = VaultView::load(vault).map_err(failed)?;
    if let Some(reference) = reference {
        return Ok(Some(engine::resolve(&view, reference).map_err(failed)?.clone()));
    }
    let copies = engine::copy_counts(vault, &view, core.counted()).map_err(failed)?;
    Ok(view.snapshots.into_iter().rev().find(|snapshot| copies.of_snapshot(snapshot.id) > 0))
}

fn drill_report(
    core: &Arc<Core>,
    snapshot: &Snapshot,
    done: DrillResult,
    monitor: &Monitor,
) -> Result<DrillReport, ApiError> {
    let time = core.now().to_rfc3339();
    let before = verified::last_drill(core)?.and_then(|last| last.proven);
    let failure = |(path, reason): (std::path::PathBuf, String)| DrillFailure {
        path: path.to_string_lossy().into_owned(),
        reason,
    };
    Ok(DrillReport {
        proven: if done.failed == 0 { Some(time.clone()) } else { before },
        time,
        snapshot: Some(snapshot.id.to_string()),
        files: done.files,
        bytes: done.bytes,
        bytes_fetched: monitor.bytes_fetched.load(Ordering::Relaxed),
        failed: done.failed,
        failures: done.failures.into_iter().map(failure).collect(),
    })
}
