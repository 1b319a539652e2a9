//! Restoring: one thread walks the snapshot, makes directories and decides; workers write contents; a directory gets
//! its metadata when the last thing in it is done.
//!
//! Small entries go to the workers in batches that follow the walk, so that the chunks of many files are read together
//! and one directory is mostly one worker's. Large files are cut into jobs that all workers share. A dry run is the same
//! walk with nothing done at its stations.

mod ahead;
mod batch;
mod content;
mod estimate;
mod handles;
mod links;
mod making;
mod preview;
mod surplus;
mod tally;
mod walk;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, bounded};

pub(super) use content::WINDOW_BYTES;

use super::budget::restore_workers;
use super::error::EngineError;
use super::monitor::Monitor;
use super::parent::tree_of;
use super::pull::PackSource;
use super::reader::ChunkReader;
use super::tree::{Found, find};
use super::vault::Vault;
use crate::base::{ChunkId, limit};
use crate::fs::{self, Overwrite, Selector, Target};
use crate::snapshot::Snapshot;
use crate::wire::NodeType;
use ahead::{Ahead, pull_all};
use batch::{Batch, Scribe};
use content::{Part, Window, write_part};
use handles::Handles;
use links::Links;
use making::Making;
use surplus::Surplus;
use tally::{Shared, Tally};

/// How to restore.
#[derive(Debug, Clone, Default)]
pub struct RestoreOptions {
    /// What to restore; `/` for everything.
    pub path: PathBuf,
    /// Where to.
    pub target: PathBuf,
    /// What the buffers may take, in bytes.
    pub memory_bytes: usize,
    /// Patterns of what is restored, relative to `path`; all when there are none.
    pub include: Vec<String>,
    /// Patterns of what of it is left out.
    pub exclude: Vec<String>,
    /// What happens to files that are there.
    pub overwrite: Overwrite,
    /// Delete what was not there, in restored directories that were backed up as a whole.
    pub delete: bool,
    /// The target directory itself gets the metadata of the directory that is restored into it, also where it was there.
    pub target_metadata: bool,
    /// Only tell what would happen.
    pub dry_run: bool,
    /// Give entries their owners.
    pub owner: bool,
    /// Setuid, devices, `security.*`.
    pub privileged: bool,
    /// Zeros become holes.
    pub sparse: bool,
    /// Read back what was written and compare it.
    pub verify: bool,
    /// Have all of it on the disk at the end.
    pub sync: bool,
}

/// What was restored; with a dry run, what would be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestoreResult {
    /// Files written.
    pub files: u64,
    /// Of those, such that took the place of something.
    pub overwritten: u64,
    /// Directories made or reused.
    pub directories: u64,
    /// Links, devices, FIFOs, sockets.
    pub others: u64,
    /// Entries left alone.
    pub skipped: u64,
    /// Entries deleted, with all that was in them.
    pub deleted: u64,
    /// Entries that the snapshot does not have and that may have been there: they stay.
    pub kept: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Entries that could not be restored.
    pub failed: u64,
    /// Of those, such whose data is missing or damaged.
    pub damaged: u64,
    /// Files read back.
    pub verified: u64,
    /// What happened to which path: of a dry run everything, else deletions and what is kept from them. The first
    /// `limit::RESTORE_CHANGES_MAX`.
    pub changes: Vec<RestoreChange>,
}

/// One thing that a restore did or would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreChange {
    /// What.
    pub action: RestoreAction,
    /// To which path, relative to the target.
    pub path: PathBuf,
}

/// What a restore does to an entry.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum RestoreAction {
    /// It is new there.
    Create,
    /// It takes the place of what is there.
    Overwrite,
    /// What is there gets the snapshot's metadata; its content stays.
    Dress,
    /// What is there stays.
    Skip,
    /// It is deleted.
    Delete,
    /// It is not deleted although the snapshot does not have it, and why.
    Keep(&'static str),
}

/// What workers do.
enum Job<'a> {
    /// Small entries, whole.
    Batch(Batch<'a>),
    /// A part of a large file.
    Part(Part<'a>),
}

/// Restores `options.path` of a snapshot into `options.target`.
///
/// # Errors
/// A target that cannot be made, a path that is not in the snapshot, a pattern that is none, a full disk, cancellation.
/// Single entries that cannot be restored are counted, named to the monitor, and do not stop the rest.
pub fn restore(
    vault: &Vault,
    snapshot: &Snapshot,
    options: &RestoreOptions,
    source: Option<&dyn PackSource>,
    monitor: &Monitor,
) -> Result<RestoreResult, EngineError> {
    monitor.enter(if options.dry_run { "comparing" } else { "restoring" });
    let handles = fs::raise_open_files_limit();
    let selector = Selector::new(&options.include, &options.exclude)?;
    let mut reader = ChunkReader::new(vault, source, monitor);
    let found = find(&mut reader, snapshot.tree, &options.path)?;
    let tally = Tally::default();
    let shared = Shared::new(monitor, &tally, options, Handles::new(handles));
    let surplus = Surplus::of(&mut reader, snapshot, options, &selector)?;
    let rules = fs::RestoreOptions {
        overwrite: options.overwrite,
        owner: options.owner,
        privileged: options.privileged,
        sparse: options.sparse,
    };
    let own = Some(vault.store.dir());
    if options.dry_run {
        let target = Target::look(&options.target, own, rules)?;
        estimate::expect_all(snapshot, options, &selector, monitor);
        preview::look(vault, &mut reader, found, &selector, target.as_ref(), &shared, &surplus)?;
        return shared.result();
    }
    let target = Target::open(&options.target, own, rules)?;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (shared, selector) = (&shared, &selector);
        if !estimate::expect_all(snapshot, options, selector, monitor)
            && let Some(tree) = tree_below(&found)
        {
            let done = &done;
            scope.spawn(move || estimate::expect(vault, tree, selector, monitor, done));
        }
        let result = run(vault, source, shared, reader, &target, found, selector, &surplus, handles);
        done.store(true, Ordering::Relaxed);
        result
    })?;
    if options.sync {
        monitor.enter("flushing to disk");
        target.sync()?;
    }
    for warning in target.warnings().first {
        monitor.problem(warning.path.to_string_lossy(), format!("{}: {}", warning.lost, warning.reason));
    }
    shared.result()
}

/// The walk and its workers.
#[expect(clippy::too_many_arguments, reason = "the parts of one restore, joined in one place")]
fn run(
    vault: &Vault,
    source: Option<&dyn PackSource>,
    shared: &Shared<'_>,
    mut reader: ChunkReader<'_>,
    target: &Target,
    found: Found,
    selector: &Selector,
    surplus: &Surplus<'_>,
    handles: Option<u64>,
) -> Result<(), EngineError> {
    let write = vault.options();
    let count = restore_workers(shared.memory_bytes, write.workers, write.sizes.max());
    let walked = std::thread::scope(|scope| {
        // A few jobs wait for each worker, so that none does; more would only hold memory and directories.
        let (jobs_in, jobs_out) = bounded::<Job<'_>>(count + 2);
        let workers: Vec<_> = (0..count)
            .map(|_| {
                let jobs = jobs_out.clone();
                scope.spawn(move || work(ChunkReader::new(vault, source, shared.monitor), shared, &jobs))
            })
            .collect();
        drop(jobs_out);
        let (ahead, rows) = Ahead::new(vault, shared.monitor);
        if let Some(source) = source {
            for _ in 0..limit::PACKS_HEALED_MAX {
                let rows = rows.clone();
                scope.spawn(move || pull_all(vault, source, shared.monitor, &rows));
            }
        }
        drop(rows);
        let lists = ChunkReader::new(vault, source, shared.monitor);
        let links = Links::new(vault, target.root(), handles);
        let mut making = Making::new(shared, jobs_in, ahead, surplus, links, lists);
        let walked = making.walk(&mut reader, target, found, selector);
        let rest = making.into_links();
        for worker in workers {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        // Workers drop what is left when they are told to stop: that is no success, even if the walk was through.
        walked.and_then(|()| rest.make_all(shared)).and_then(|()| shared.go_on())
    });
    shared.take_fatal().map_or(walked, Err)
}

/// A worker: does jobs until none comes.
fn work<'a>(mut reader: ChunkReader<'_>, shared: &'a Shared<'a>, jobs: &Receiver<Job<'a>>) {
    let (mut scribe, mut window) = (Scribe::default(), Window::default());
    for job in jobs {
        if shared.go_on().is_err() {
            // Dropped unfinished: temporary files go with it.
            continue;
        }
        match job {
            Job::Batch(batch) => scribe.write(&mut reader, shared, batch),
            Job::Part(part) => write_part(&mut reader, shared, &mut window, part),
        }
    }
}

fn tree_below(found: &Found) -> Option<ChunkId> {
    match found {
        Found::Root(tree) => Some(*tree),
        Found::Node(node) => tree_of(node).filter(|_| node.r#type() == NodeType::NodeDirectory),
    }
}
