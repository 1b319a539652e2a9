//! What a restore counts, tells, and stops at.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::handles::Handles;
use super::{RestoreAction, RestoreChange, RestoreOptions, RestoreResult};
use crate::base::{Code, Coded, limit};
use crate::engine::error::EngineError;
use crate::engine::monitor::Monitor;
use crate::store::StoreError;
use crate::wire;

/// Counters of one restore, for [`RestoreResult`].
#[derive(Default)]
pub(super) struct Tally {
    pub(super) files: AtomicU64,
    pub(super) overwritten: AtomicU64,
    pub(super) directories: AtomicU64,
    pub(super) others: AtomicU64,
    pub(super) skipped: AtomicU64,
    pub(super) deleted: AtomicU64,
    kept: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) verified: AtomicU64,
    failed: AtomicU64,
    damaged: AtomicU64,
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// What all threads of one restore have in common.
pub(super) struct Shared<'a> {
    pub(super) monitor: &'a Monitor,
    pub(super) tally: &'a Tally,
    pub(super) verify: bool,
    /// The target itself gets metadata, also where it was there.
    pub(super) target_metadata: bool,
    pub(super) dry_run: bool,
    pub(super) memory_bytes: usize,
    pub(super) handles: Handles,
    changes: Mutex<Vec<RestoreChange>>,
    /// The first error that ends everything (a full disk).
    fatal: Mutex<Option<EngineError>>,
}

impl<'a> Shared<'a> {
    pub(super) fn new(
        monitor: &'a Monitor,
        tally: &'a Tally,
        options: &RestoreOptions,
        handles: Handles,
    ) -> Self {
        Self {
            monitor,
            tally,
            verify: options.verify,
            target_metadata: options.target_metadata,
            dry_run: options.dry_run,
            memory_bytes: options.memory_bytes,
            handles,
            changes: Mutex::default(),
            fatal: Mutex::default(),
        }
    }

    /// Notes an entry that could not be restored.
    pub(super) fn failed(&self, path: &Path, error: &(impl Coded + ?Sized)) {
        count(&self.tally.failed);
        let lost = [
            Code::ChunkNotFound,
            Code::ChunkInvalid,
            Code::StorageCorrupted,
            Code::SnapshotCorrupted,
            Code::DecryptionFailed,
        ];
        if lost.contains(&error.code()) {
            count(&self.tally.damaged);
        }
        self.monitor.problem(path.to_string_lossy(), describe(error));
    }

    /// An error with one entry: noted, unless it means that no other will do better.
    pub(super) fn settle(&self, path: &Path, error: impl Into<EngineError>) {
        let error = error.into();
        match error {
            // The cause is told elsewhere.
            EngineError::Stopped => {}
            error if is_the_end(&error) => {
                self.fatal.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
            error => self.failed(path, &error),
        }
    }

    /// An entry is left as it is: as far as progress goes, it is done.
    pub(super) fn skipped(&self, path: &Path, node: &wire::Node) {
        count(&self.tally.skipped);
        self.note(RestoreAction::Skip, path);
        self.progressed(node);
    }

    /// Progress by a whole file, or by nothing for what is none.
    pub(super) fn progressed(&self, node: &wire::Node) {
        if node.r#type() == wire::NodeType::NodeFile {
            count(&self.monitor.files_done);
            Monitor::add(&self.monitor.bytes_done, node.size);
        }
    }

    /// Something that the snapshot does not have is not deleted all the same.
    pub(super) fn kept(&self, path: &Path, why: &'static str) {
        count(&self.tally.kept);
        self.note(RestoreAction::Keep(why), path);
    }

    /// Remembers what happens to a path: everything in a dry run, else deletions, and what is kept from them.
    pub(super) fn note(&self, action: RestoreAction, path: &Path) {
        if !self.dry_run && !matches!(action, RestoreAction::Delete | RestoreAction::Keep(_)) {
            return;
        }
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        if changes.len() < limit::RESTORE_CHANGES_MAX {
            changes.push(RestoreChange { action, path: path.to_owned() });
        }
    }

    /// `Err` when nothing more is to be done.
    pub(super) fn go_on(&self) -> Result<(), EngineError> {
        self.monitor.go_on()?;
        let stop = self.fatal.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        if stop { Err(EngineError::Stopped) } else { Ok(()) }
    }

    /// The error that ended everything.
    pub(super) fn take_fatal(&self) -> Option<EngineError> {
        self.fatal.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// What came of it.
    pub(super) fn result(self) -> Result<RestoreResult, EngineError> {
        if let Some(fatal) = self.take_fatal() {
            return Err(fatal);
        }
        let (tally, get) = (self.tally, |counter: &AtomicU64| counter.load(Ordering::Relaxed));
        Ok(RestoreResult {
            files: get(&tally.files),
            overwritten: get(&tally.overwritten),
            directories: get(&tally.directories),
            others: get(&tally.others),
            skipped: get(&tally.skipped),
            deleted: get(&tally.deleted),
            kept: get(&tally.kept),
            bytes: get(&tally.bytes),
            failed: get(&tally.failed),
            damaged: get(&tally.damaged),
            verified: get(&tally.verified),
            changes: self.changes.into_inner().unwrap_or_else(PoisonError::into_inner),
        })
    }
}

/// Whether an error with one entry is one with every other, too.
fn is_the_end(error: &EngineError) -> bool {
    let of_store = matches!(
        error,
        EngineError::Store(
            StoreError::IndexDamaged(_) | StoreError::Unavailable { .. } | StoreError::Poisoned
        )
    );
    of_store || matches!(error.code(), Code::StorageFull | Code::Cancelled)
}

fn describe(error: &(impl std::error::Error + ?Sized)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
