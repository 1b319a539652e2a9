//! The data directory while the node runs: whether it is there, whether it can still be relied on, and what is said when not.
//!
//! What failed for good (a flush, the index) ends the node: whoever starts it again has it read anew what is really on the
//! disk. A directory that is out of reach is waited for, unless another one has come in its place.

use std::sync::{Arc, Mutex, OnceLock};

use tokio_util::sync::CancellationToken;

use super::core::Core;
use super::error::failed;
use crate::api::{ApiError, Happening, Status, Verdict};
use crate::base::{Code, limit, meter};
use crate::store::{Failure, Store, StoreError};

/// What is known of the data directory in memory, for when nothing can be read from it.
#[derive(Default)]
pub(super) struct Disk {
    /// Why the node ends, once it has to.
    end: OnceLock<ApiError>,
    /// That the node has to end.
    ending: CancellationToken,
    /// What keeps it out of reach at present, in words.
    away: Mutex<Option<String>>,
    /// The last status that could be told.
    last: Mutex<Option<Status>>,
}

impl Disk {
    /// Why the node has to end by itself, if it has to.
    pub(super) fn end(&self) -> Option<&ApiError> {
        self.end.get()
    }

    /// Waits until the node has to end by itself.
    pub(super) async fn ended(&self) {
        self.ending.cancelled().await;
    }

    fn away(&self) -> Option<String> {
        self.away.lock().expect("no panic while held").clone()
    }

    /// What is wrong with it in one line, with what helps.
    pub(super) fn problem(&self) -> Option<String> {
        let (words, hint) = match self.end() {
            Some(error) => (format!("{error}: the node ends"), error.hint.clone()),
            None => (self.away()?, Some("is the right disk mounted?".to_owned())),
        };
        Some(hint.map_or(words.clone(), |hint| format!("{words} ({hint})")))
    }

    fn must_end(&self, error: ApiError) {
        if self.end.set(error).is_ok() {
            self.ending.cancel();
        }
    }
}

/// Has the node end when its store fails.
pub(super) fn attend(core: &Arc<Core>) {
    let weak = Arc::downgrade(core);
    core.store.on_failure(move |failure| {
        let Some(core) = weak.upgrade() else { return };
        let error = failed(failure.error());
        let kind = match failure {
            Failure::Write => "write",
            Failure::Index(_) => "index",
        };
        tracing::error!(target: "store", code = error.code, %error, "the store failed: nothing more is accepted, the node ends");
        meter::STORE_FAILURES.add(kind, 1);
        core.tell(Happening::StoreFailed { code: error.code.clone() });
        core.disk.must_end(error);
    });
}

/// Looks again and again whether the directory is there.
pub(super) async fn run_loop(core: Arc<Core>) {
    loop {
        let mut look = Box::pin(core.blocking(|core| Ok(core.store.available())));
        let found = match tokio::time::timeout(limit::DISK_PATIENCE, &mut look).await {
            Ok(found) => found,
            Err(_) => {
                note(&core, Some("the disk with the data directory does not answer".to_owned()));
                tokio::select! {
                    () = core.stop.cancelled() => return,
                    found = look => found,
                }
            }
        };
        match found {
            Ok(Err(error @ StoreError::Unavailable { .. })) => {
                let error = failed(error);
                if Store::is_at(core.store.dir()) {
                    let text = "another data directory is in the place of the one that was opened";
                    let error = ApiError::new(Code::StorageUnavailable, text);
                    tracing::error!(target: "store", "another data directory is in place: the node ends");
                    core.disk.must_end(error.with_hint("start the node again to use what is there now"));
                }
                note(&core, Some(error.to_string()));
            }
            _ => note(&core, None),
        }
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = tokio::time::sleep(limit::DISK_LOOK) => {}
        }
    }
}

/// Notes what was found, and tells when it is otherwise than before.
fn note(core: &Core, away: Option<String>) {
    let before = std::mem::replace(&mut *core.disk.away.lock().expect("no panic while held"), away.clone());
    match (before.is_some(), away) {
        (false, Some(why)) => {
            tracing::error!(target: "store", why, "the data directory is out of reach");
            meter::STORE_FAILURES.add("away", 1);
            core.tell(Happening::StoreUnavailable);
        }
        (true, None) => {
            tracing::info!(target: "store", "the data directory is back");
            core.tell(Happening::StoreAvailable);
            core.changed.notify_one();
        }
        _ => {}
    }
}

/// The status; when the disk fails or does not answer, what is known in memory, with what is wrong in front.
pub(super) async fn status(core: &Arc<Core>) -> Result<Status, ApiError> {
    let error = match look(core).await {
        Ok(mut status) => {
            *core.disk.last.lock().expect("no panic while held") = Some(status.clone());
            if let Some(line) = core.disk.problem() {
                at_risk(&mut status, line);
            }
            return Ok(status);
        }
        Err(error) if core.disk.end().is_some() || is_of_disk(&error) => error,
        Err(error) => return Err(error),
    };
    let last = core.disk.last.lock().expect("no panic while held").clone();
    let mut status = last.unwrap_or_else(|| super::status::unread(core));
    status.uptime_seconds = core.uptime();
    status.jobs = core.jobs.all().into_iter().filter(|job| !job.state.is_final()).collect();
    at_risk(&mut status, "what is told here is of when the disk last answered".to_owned());
    let hint = error.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
    at_risk(&mut status, core.disk.problem().unwrap_or_else(|| format!("{error}{hint}")));
    Ok(status)
}

async fn look(core: &Arc<Core>) -> Result<Status, ApiError> {
    if let Some(error) = core.disk.end() {
        return Err(error.clone());
    }
    let looked = core.blocking(super::status::status);
    match tokio::time::timeout(limit::STATUS_PATIENCE, looked).await {
        Ok(looked) => looked,
        Err(_) => {
            let error =
                ApiError::new(Code::StorageUnavailable, "the disk with the data directory does not answer");
            Err(error.with_hint("check the disk (dmesg)"))
        }
    }
}

fn at_risk(status: &mut Status, line: String) {
    status.problems.insert(0, line);
    if status.verdict == Verdict::Ok {
        status.verdict = Verdict::AtRisk;
    }
}

/// Whether an error says that nothing can be read, rather than what is wrong with what was read.
fn is_of_disk(error: &ApiError) -> bool {
    matches!(error.kind(), Code::StorageUnavailable | Code::IoFailed)
}
