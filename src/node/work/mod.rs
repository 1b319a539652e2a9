//! What jobs do: each turns a request into the engine's options, and what the engine did into an outcome.

mod backup;
mod carry;
mod drill;
mod forget;
mod repair;
mod restore;
mod scrub;
mod selection;
mod verify;

pub(super) use carry::export;
pub(super) use forget::{gc_status, has_rules};
pub(super) use selection::explain;
use std::sync::Arc;

use super::core::{Core, log_failure};
use super::error::failed;
use super::jobs::Ended;
use super::owning::index_listed;
use super::streams::Streams;
use crate::api::{ApiError, JobRequest};
use crate::engine::{self, Monitor};

pub(super) use crate::base::split_reference;

/// Does a job, with buffers of `memory` bytes.
pub(super) async fn run(
    core: &Arc<Core>,
    request: JobRequest,
    monitor: Arc<Monitor>,
    memory: usize,
    streams: Streams,
) -> Ended {
    match request {
        JobRequest::Backup(request) => backup::run(core, request, monitor, memory, streams).await,
        JobRequest::Restore(request) => restore::restore(core, request, monitor, memory).await,
        JobRequest::Verify(request) => verify::verify(core, request, monitor, memory).await,
        JobRequest::Repair(request) => repair::repair(core, request, monitor, memory).await,
        JobRequest::Import(request) => carry::import(core, request, monitor, streams.input).await,
        JobRequest::Forget(request) => forget::forget(core, request, monitor, memory).await,
        JobRequest::Gc(request) => forget::gc(core, request, monitor, memory).await,
    }
}

/// Takes in what lies here and an older index does not know.
pub(super) async fn know_own(core: &Arc<Core>) -> Result<(), ApiError> {
    let Ok(vault) = core.vault() else { return Ok(()) };
    if core.store.is_read_only() {
        return Ok(());
    }
    core.blocking(move |core| {
        let packs = engine::adopt_own(&vault, &Monitor::default()).map_err(failed)?;
        if packs > 0 {
            tracing::warn!(target: "store", packs, "own packs that lie here were not in the index: is it an older one?");
            core.changed.notify_one();
        }
        Ok(())
    })
    .await
}

/// Before work that packs of peers may help: those that a head lists and a rebuilt index could not read are entered,
/// so that they count as lost here and can be pulled.
pub(super) async fn know_listed_packs(core: &Arc<Core>) {
    log_failure(know_own(core).await, "looking for packs that the index does not know");
    if let (Ok(net), Some(vault)) = (core.net(), core.vault_id()) {
        log_failure(index_listed(core, net, vault).await, "reading directories of listed packs");
    }
}
