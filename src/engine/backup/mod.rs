//! Backing up: walk ∥ read and cut ∥ hash, compress, seal ∥ write, bounded in bytes.
//!
//! ```text
//! survey ──files──▶ feeder ──batches──▶ workers ──steps──▶ assembler ──trees─┐
//!    └────────────────────events────────────────────────────▲                 │
//!                                          workers ──sealed chunks──▶ packer ◀┘ ──packs──▶ writer
//! ```
//! Batches are numbered and put back in order, so that the assembler sees contents in walk order and trees come
//! out the same whatever the threads do. At most `tokens` batches are under way: a batch's buffer goes back to the
//! feeder only when its steps are consumed. Nothing waits in a circle: the oldest batch can always be finished.

mod assemble;
mod feed;
mod packer;
mod preview;
mod sealing;
mod survey;

use std::collections::HashSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use crossbeam_channel::bounded;
use prost::Message;

use super::borrow::is_revoked;
use super::budget::{BackupPlan, PACKS_UNDER_WAY};
use super::diff::diff;
use super::error::EngineError;
use super::heads::VaultView;
use super::monitor::Monitor;
use super::rebuild::adopt_unindexed;
use super::signing::publish_next_head;
use super::tree::Spot;
use super::vault::Vault;
use crate::base::{ChunkId, Code, Coded, SnapshotId, limit};
use crate::crypto::Kind;
use crate::fs::{Entries, Exclusions, Sieve, Walk, WalkOptions, Watch, is_link, plain_roots, stream_events};
use crate::policy::{Expectation, SourceCount};
use crate::snapshot::{PeerAddress, RecordError, Snapshot, seal_record};
use crate::store::PackNumber;
use crate::wire;
use assemble::{Assembled, Assembler, TreeSealer};
use feed::{AHEAD_MAX, Feeder, open_ahead};
use packer::{Checkpoint, Packer};
use survey::Survey;

pub use preview::{Fate, Listener, PreviewResult, preview};

/// Files between walk and reader: paths.
const FILES_MAX: usize = 1024;
/// Batches of entries between walk and assembler; each is bounded by the walk.
const EVENTS_MAX: usize = 2;

/// What is said of a path to back up that is a symlink.
const LINK_KEPT: &str =
    "a symlink: kept as one, without what it leads to; with a slash after it that is meant";

/// What to back up.
#[derive(Debug, Clone, Default)]
pub struct BackupOptions {
    /// Absolute paths.
    pub paths: Vec<PathBuf>,
    /// What is left out.
    pub exclude: Exclusions,
    /// Labels.
    pub tags: Vec<String>,
    /// Host to record.
    pub hostname: String,
    /// User to record.
    pub username: String,
    /// What the buffers may take, in bytes.
    pub memory_bytes: usize,
    /// Do not cross into other file systems.
    pub one_file_system: bool,
    /// Read every file.
    pub force: bool,
    /// Make no snapshot when the newest of the same host and paths has the source as it is.
    pub skip_unchanged: bool,
    /// What is well of the source, an input without a byte too.
    pub expected: Expectation,
    /// Where the vault's holders can be dialled; goes into the head.
    pub holders: Vec<PeerAddress>,
    /// How often a head is published while the backup runs, so that holders can begin; never when absent.
    pub checkpoint_every: Option<Duration>,
}

/// A finished backup.
#[derive(Debug, Clone)]
pub struct BackupResult {
    /// The new snapshot.
    pub snapshot: SnapshotId,
    /// None was made, because that one has the source as it is.
    pub skipped: bool,
    /// What was counted.
    pub counts: wire::SnapshotCounts,
    /// Files of the snapshot before, of the same host and paths; 0 without one.
    pub files_before: u64,
    /// Snapshots that were there before, and are dated later than now by far.
    pub ahead: u64,
    /// Packs it needs.
    pub packs: HashSet<PackNumber>,
}

/// Where entries come from, and the first file's content where that is no file.
struct Input {
    events: Box<dyn Entries>,
    stream: Option<Box<dyn Read + Send>>,
}

/// Backs up `options.paths`. The snapshot is durable, and in this device's newest head, when this returns `Ok`.
///
/// # Errors
/// Paths none of which exists, a full disk, [`EngineError::Cancelled`]. What was sealed until then stays and is not
/// sealed again by the next run. Paths and files that cannot be read are no error: they are counted and listed.
pub fn backup(
    vault: &Vault,
    options: &BackupOptions,
    monitor: &Monitor,
) -> Result<BackupResult, EngineError> {
    monitor.enter("backing up");
    let options = plain(vault, options)?;
    let links = options.paths.iter().filter(|path| is_link(path));
    links.for_each(|path| monitor.problem(path.to_string_lossy(), LINK_KEPT));
    let walk = walk_of(vault, &options, None)?;
    take(vault, &options, Input { events: Box::new(walk), stream: None }, monitor)
}

/// Backs up what `entries` tell of, as a walk of `options.paths` would.
#[cfg(test)]
pub(super) fn backup_entries(
    vault: &Vault,
    options: &BackupOptions,
    entries: Box<dyn Entries>,
    monitor: &Monitor,
) -> Result<BackupResult, EngineError> {
    take(vault, options, Input { events: entries, stream: None }, monitor)
}

/// Backs up one file, `/NAME` in the snapshot, whose content is `stream`; of `options.paths` nothing is read.
///
/// # Errors
/// As [`backup`]; [`EngineError::InputBroken`] when reading the stream fails, [`EngineError::InputEmpty`] when there is nothing
/// in it and that is not meant: then there is no snapshot.
pub fn backup_stream(
    vault: &Vault,
    options: &BackupOptions,
    name: &str,
    stream: Box<dyn Read + Send>,
    monitor: &Monitor,
) -> Result<BackupResult, EngineError> {
    monitor.enter("backing up the input");
    let events = Box::new(stream_events(name, vault.clock.now())?);
    let options = BackupOptions { paths: vec![Path::new("/").join(name)], ..options.clone() };
    take(vault, &options, Input { events, stream: Some(stream) }, monitor)
}

/// The same with paths as they are recorded: one spelling each, so that the next backup is one of the same set.
fn plain(vault: &Vault, options: &BackupOptions) -> Result<BackupOptions, EngineError> {
    let paths = plain_roots(&options.paths, &[vault.store.dir().to_owned()])?;
    Ok(BackupOptions { paths, ..options.clone() })
}

/// The walk that `options` ask for; the store's own directory never belongs to it.
fn walk_of(vault: &Vault, options: &BackupOptions, watch: Option<Watch>) -> Result<Walk, EngineError> {
    let sieve = Sieve::new(&options.paths, &options.exclude)?;
    let filter = Box::new(match watch {
        Some(watch) => sieve.watched(watch),
        None => sieve,
    });
    let skip = vec![vault.store.dir().to_owned()];
    let walk_options = WalkOptions { one_file_system: options.one_file_system, skip, filter };
    Ok(Walk::new(&options.paths, walk_options)?)
}

/// The paths as a record has them, or those that do not fit it as a list for a chunk, with its id.
fn path_list(vault: &Vault, options: &BackupOptions) -> (Vec<Vec<u8>>, Option<Vec<u8>>, Option<ChunkId>) {
    let paths = path_bytes(&options.paths);
    let listed = wire::PathList { paths: paths.clone() }.encode_to_vec();
    if listed.len() <= limit::RECORD_BYTES / 2 {
        return (paths, None, None);
    }
    let id = vault.keyring.vault.chunk_id(Kind::Tree, &listed);
    (Vec::new(), Some(listed), Some(id))
}

fn take(
    vault: &Vault,
    options: &BackupOptions,
    input: Input,
    monitor: &Monitor,
) -> Result<BackupResult, EngineError> {
    let (started, began) = (vault.clock.now(), vault.clock.running());
    // Until its snapshot is in a head, nothing tells but this that it needs what it finds.
    let _at_work = vault.store.enter();
    if is_revoked(vault)? {
        return Err(EngineError::DeviceRevoked);
    }
    adopt_unindexed(vault, monitor)?;
    let view = VaultView::load(vault)?;
    // A list goes into a chunk, which must be in a pack before the record is signed.
    let (paths, listed, list_id) = path_list(vault, options);
    let parent = view.parent_for(&options.hostname, &paths, list_id);
    let is_stream = input.stream.is_some();
    let done = run_pipeline(vault, input, parent, options, monitor, |sealer, assembled| {
        if is_stream && assembled.counts.bytes == 0 && !options.expected.empty {
            return Err(EngineError::InputEmpty);
        }
        Ok((assembled, listed.as_ref().map(|listed| sealer.seal(listed)).transpose()?))
    })?;
    let (assembled, paths_list) = done.value;
    let mut counts = assembled.counts;
    counts.data_added = done.added;
    counts.data_added_packed = done.packed;
    counts.duration_ms =
        u64::try_from(vault.clock.running().saturating_sub(began).as_millis()).unwrap_or(u64::MAX);
    let files_before = files_of(parent);
    let ahead = view.snapshots.iter().filter(|snapshot| view.is_ahead(snapshot)).count() as u64;
    let shrunk = source_count(&counts, files_before).is_lost(options.expected);
    let paths_list = paths_list.map_or_else(Vec::new, |id| id.as_bytes().to_vec());
    let unreadable = assembled.unreadable.map_or_else(Vec::new, |id| id.as_bytes().to_vec());
    if options.skip_unchanged
        && counts.inconsistent == 0
        && let Some(newest) = view.alike(&options.hostname, &paths, list_id).next()
        && (newest.info.shrunk, &newest.info.unreadable) == (shrunk, &unreadable)
        && is_unchanged(vault, options, newest, assembled.root, is_stream, monitor)
    {
        let (snapshot, packs) = (newest.id, done.packs);
        return Ok(BackupResult { snapshot, skipped: true, counts, files_before, ahead, packs });
    }
    let info = wire::Snapshot {
        version: 1,
        device: vault.device().as_bytes().to_vec(),
        time_ms: started.as_millis(),
        tree: assembled.root.as_bytes().to_vec(),
        parent: parent.map_or_else(Vec::new, |parent| parent.id.as_bytes().to_vec()),
        paths,
        hostname: options.hostname.clone(),
        username: options.username.clone(),
        tags: options.tags.clone(),
        counts: Some(counts),
        unreadable,
        paths_list,
        program: concat!("shadowvault ", env!("CARGO_PKG_VERSION")).to_owned(),
        omissions: true,
        shrunk,
        ..Default::default()
    };
    monitor.enter("writing the snapshot");
    let snapshot = publish_snapshot(vault, &info)?;
    vault.store.set_snapshot_packs(snapshot, &done.packs)?;
    publish_next_head(vault, &[snapshot], &options.holders)?;
    Ok(BackupResult { snapshot, skipped: false, counts, files_before, ahead, packs: done.packs })
}

/// Whether a snapshot has the source as `root` has it; times of access, what is above the roots, and the time of an input
/// apart. A snapshot that cannot be read has nothing.
fn is_unchanged(
    vault: &Vault,
    options: &BackupOptions,
    newest: &Snapshot,
    root: ChunkId,
    is_stream: bool,
    monitor: &Monitor,
) -> bool {
    let mut same = true;
    let compared =
        diff(vault, (&Spot::root(newest.tree), &Spot::root(root)), !is_stream, None, monitor, |change| {
            same &= !options.paths.iter().any(|path| change.path.starts_with(path));
            same
        });
    same && compared.is_ok()
}

/// Files that a parent has.
fn files_of(parent: Option<&Snapshot>) -> u64 {
    parent.and_then(|parent| parent.info.counts).map_or(0, |counts| counts.files)
}

/// What a backup met in its source, beside the files of the snapshot before.
pub fn source_count(counts: &wire::SnapshotCounts, files_before: u64) -> SourceCount {
    SourceCount {
        entries: counts.files + counts.others,
        files: counts.files,
        known: counts.files_changed + counts.files_unmodified,
        before: files_before,
    }
}

fn path_bytes(paths: &[PathBuf]) -> Vec<Vec<u8>> {
    use std::os::unix::ffi::OsStrExt;
    let mut paths: Vec<Vec<u8>> = paths.iter().map(|path| path.as_os_str().as_bytes().to_vec()).collect();
    paths.sort_unstable();
    paths.dedup();
    paths
}

fn publish_snapshot(vault: &Vault, info: &wire::Snapshot) -> Result<SnapshotId, EngineError> {
    let (id, bytes) = match seal_record(info, &vault.keyring.vault, &vault.keyring.device) {
        // Tags of absurd length: the limit is the record's.
        Err(RecordError::TooLong(length)) => return Err(RecordError::TooLong(length).into()),
        other => other?,
    };
    vault.store.publish_snapshot(id, &bytes)?;
    Ok(id)
}

struct PipelineResult<T> {
    value: T,
    packs: HashSet<PackNumber>,
    added: u64,
    packed: u64,
}

/// Runs all stages; `close` may seal further tree chunks once the root is known.
fn run_pipeline<T: Send>(
    vault: &Vault,
    input: Input,
    parent: Option<&Snapshot>,
    options: &BackupOptions,
    monitor: &Monitor,
    close: impl FnOnce(&mut TreeSealer<'_>, Assembled) -> Result<T, EngineError> + Send,
) -> Result<PipelineResult<T>, EngineError> {
    let checkpoint = Checkpoint { every: options.checkpoint_every, holders: &options.holders };
    let force = options.force;
    let write = vault.options();
    let plan = BackupPlan::new(options.memory_bytes, write.workers, write.sizes.max());
    let tokens = plan.batches;
    let (packs_in, packs_out) = bounded(PACKS_UNDER_WAY);
    let (jobs_in, jobs_out) = bounded(FILES_MAX);
    let (ready_in, ready_out) = bounded(AHEAD_MAX);
    let (events_in, events_out) = bounded(EVENTS_MAX);
    let (batches_in, batches_out) = bounded(tokens);
    let (done_in, done_out) = bounded(tokens);
    let (buffers_in, buffers_out) = bounded(tokens);
    for _ in 0..tokens {
        buffers_in.send(Vec::new()).map_err(|_| EngineError::Stopped)?;
    }
    let cutter = vault.cutter(&write);
    let packer = Packer::new(vault, write, plan.lane_bytes, packs_in);
    let parent_tree = parent.map(|parent| parent.tree);
    let tree_sealer = TreeSealer::new(vault, &packer)?;
    let outcome = std::thread::scope(|scope| {
        let (packer, cutter) = (&packer, &cutter);
        let writer = scope.spawn(move || packer.write(&packs_out, &checkpoint));
        let survey = scope.spawn(move || {
            let survey = Survey::new(vault, monitor, force).reading(input.stream);
            survey.run(input.events, parent_tree, &jobs_in, &events_in)
        });
        let ahead = scope.spawn(move || open_ahead(&jobs_out, &ready_in));
        let feeder =
            scope.spawn(move || Feeder::new(cutter, monitor, batches_in, buffers_out)?.run(&ready_out));
        let sealing: Vec<_> = (0..plan.workers)
            .map(|_| {
                let (batches, done) = (batches_out.clone(), done_in.clone());
                scope.spawn(move || sealing::run(vault, packer, monitor, &batches, &done))
            })
            .collect();
        drop((batches_out, done_in));
        let assembled = Assembler::new(monitor, tree_sealer, &done_out, &buffers_in).run(&events_out);
        // Whoever is still at work stops now: an error on this side closes every channel.
        drop((events_out, done_out, buffers_in));
        let mut packs = HashSet::new();
        let mut errors = Vec::new();
        let mut note = |result: Result<HashSet<PackNumber>, EngineError>| match result {
            Ok(used) => packs.extend(used),
            Err(error) => errors.push(error),
        };
        note(join(survey));
        for stage in [ahead, feeder] {
            note(join(stage).map(|()| HashSet::new()));
        }
        sealing.into_iter().for_each(|worker| note(join(worker)));
        // Everything sealed so far is packed even when something failed: the next run continues there.
        let closed = assembled.and_then(|mut assembled| {
            let mut sealer = TreeSealer::new(vault, packer)?;
            let mut used = std::mem::take(&mut assembled.used);
            let value = close(&mut sealer, assembled)?;
            used.extend(sealer.used);
            Ok((value, used))
        });
        let flushed = packer.flush();
        packer.close();
        note(join(writer));
        let (value, used) = match closed {
            Ok(closed) => closed,
            Err(error) => {
                errors.push(error);
                return Err(root_cause(errors));
            }
        };
        packs.extend(used);
        errors.extend(flushed.err());
        if errors.is_empty() { Ok((value, packs)) } else { Err(root_cause(errors)) }
    });
    let (value, packs) = outcome?;
    let counter = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    Ok(PipelineResult { value, packs, added: counter(&packer.added), packed: counter(&packer.packed) })
}

fn join<T>(handle: std::thread::ScopedJoinHandle<'_, Result<T, EngineError>>) -> Result<T, EngineError> {
    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// The error that started it: "stopped" is what the others see.
fn root_cause(errors: Vec<EngineError>) -> EngineError {
    let rank = |error: &EngineError| match error.code() {
        Code::Internal => 3,
        Code::Cancelled => 2,
        // What the store answers once something else has failed.
        Code::StorageUnavailable => 1,
        _ => 0,
    };
    errors.into_iter().min_by_key(rank).unwrap_or(EngineError::Stopped)
}

impl VaultView {
    /// Snapshots of the same host and paths, the newest first.
    fn alike<'a, 'k>(
        &'a self,
        hostname: &'k str,
        paths: &'k [Vec<u8>],
        list: Option<ChunkId>,
    ) -> impl Iterator<Item = &'a Snapshot> + Clone + use<'a, 'k> {
        self.snapshots.iter().rev().filter(move |snapshot| {
            snapshot.info.hostname == hostname && snapshot.info.paths == paths && snapshot.paths_list == list
        })
    }

    /// The newest snapshot of the same host and paths that did not lose nearly all of its files: once they are back they are
    /// known, and as long as they are not, each backup says so.
    fn parent_for(&self, hostname: &str, paths: &[Vec<u8>], list: Option<ChunkId>) -> Option<&Snapshot> {
        let mut alike = self.alike(hostname, paths, list);
        alike.clone().find(|snapshot| !snapshot.info.shrunk).or_else(|| alike.next())
    }
}
