//! Restoring: one thread walks the snapshot and makes directories, workers write file contents, directories get
//! their metadata when the last thing in them is done.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use crossbeam_channel::{Receiver, Sender, bounded};
use prost::Message;

use super::budget::restore_workers;
use super::error::EngineError;
use super::monitor::Monitor;
use super::parent::{Cursor, tree_of};
use super::pull::PackSource;
use super::reader::ChunkReader;
use super::tree::{Found, find};
use super::vault::Vault;
use crate::base::{ChunkId, limit};
use crate::crypto::Kind;
use crate::fs::{self, Begin, FileWriter, FsError, Outcome, Overwrite, SkipReason, Target, TargetDir};
use crate::snapshot::{Content, Snapshot, TreeError, decode_pieces, node_content};
use crate::wire::{self, NodeType};

/// Plaintext bytes in one job: small enough that one big file keeps all workers busy.
const JOB_BYTES: u64 = 8 << 20;
/// Jobs waiting for a worker; each holds the pieces of at most 8 MiB.
const JOBS_MAX: usize = 64;
/// Pieces in one job; chunks may be as small as 64 bytes.
const JOB_PIECES_MAX: usize = 1024;

/// How to restore.
#[derive(Debug, Clone, Default)]
pub struct RestoreOptions {
    /// What to restore; `/` for everything.
    pub path: PathBuf,
    /// Where to.
    pub target: PathBuf,
    /// What the buffers may take, in bytes.
    pub memory_bytes: usize,
    /// What happens to files that are there.
    pub overwrite: Overwrite,
    /// Give entries their owners.
    pub owner: bool,
    /// Setuid, devices, `security.*`.
    pub privileged: bool,
    /// Zeros become holes.
    pub sparse: bool,
    /// Read back what was written and compare it with the chunk ids.
    pub verify: bool,
}

/// What was restored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestoreResult {
    /// Files written.
    pub files: u64,
    /// Directories made or reused.
    pub directories: u64,
    /// Links, devices, FIFOs, sockets.
    pub others: u64,
    /// Entries left alone.
    pub skipped: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Entries that could not be restored.
    pub failed: u64,
    /// Files read back.
    pub verified: u64,
}

#[derive(Default)]
struct Tally {
    files: AtomicU64,
    directories: AtomicU64,
    others: AtomicU64,
    skipped: AtomicU64,
    bytes: AtomicU64,
    failed: AtomicU64,
    verified: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// A directory whose metadata is set when the last holder of this value lets go: its files, its subdirectories, and
/// the walk itself.
struct OpenDir<'a> {
    dir: Arc<TargetDir>,
    /// `None` for the target itself when a whole snapshot is restored.
    node: Option<wire::Node>,
    path: PathBuf,
    shared: &'a Shared<'a>,
    /// Kept so that the parent is finished after its children.
    _parent: Option<Arc<OpenDir<'a>>>,
}

impl Drop for OpenDir<'_> {
    fn drop(&mut self) {
        if let Some(node) = &self.node
            && let Err(error) = self.dir.finish(node)
        {
            self.shared.failed(&self.path, &error);
        }
    }
}

struct Shared<'a> {
    monitor: &'a Monitor,
    tally: &'a Tally,
    verify: bool,
    /// The first error that ends everything (a full disk).
    fatal: Mutex<Option<EngineError>>,
}

impl Shared<'_> {
    fn failed(&self, path: &Path, error: &(impl std::error::Error + ?Sized)) {
        count(&self.tally.failed);
        self.monitor.problem(path.to_string_lossy(), describe(error));
    }

    /// An error with one file: noted, unless it means that no other file will do better.
    fn settle(&self, path: &Path, error: EngineError) {
        use crate::base::{Code, Coded};
        match error.code() {
            Code::StorageFull | Code::Cancelled => {
                self.fatal.lock().expect("no panic while held").get_or_insert(error);
            }
            _ => self.failed(path, &error),
        }
    }

    fn go_on(&self) -> Result<(), EngineError> {
        self.monitor.go_on()?;
        let stop = self.fatal.lock().expect("no panic while held").is_some();
        if stop { Err(EngineError::Stopped) } else { Ok(()) }
    }
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

/// A file under way; whoever finishes its last job finishes the file.
struct OpenFile<'a> {
    writer: RwLock<Option<FileWriter>>,
    node: wire::Node,
    path: PathBuf,
    dir: Arc<OpenDir<'a>>,
    /// Present when further names may be linked to it.
    first: Option<Arc<FirstLink<'a>>>,
    /// Jobs not done yet, and one for the walk while it still adds some.
    left: AtomicUsize,
    broken: AtomicBool,
}

struct Job<'a> {
    file: Arc<OpenFile<'a>>,
    pieces: Vec<Part>,
}

/// One chunk's place in a file.
struct Part {
    offset: u64,
    id: ChunkId,
    length: u64,
}

/// Restores `options.path` of a snapshot into `options.target`.
///
/// # Errors
/// A target that cannot be made, a path that is not in the snapshot, a full disk, cancellation. Single entries that
/// cannot be restored are counted, named to the monitor, and do not stop the rest.
pub fn restore(
    vault: &Vault,
    snapshot: &Snapshot,
    options: &RestoreOptions,
    source: Option<&dyn PackSource>,
    monitor: &Monitor,
) -> Result<RestoreResult, EngineError> {
    monitor.enter("restoring");
    fs::raise_open_files_limit();
    let mut reader = ChunkReader::new(vault, source, monitor);
    let found = find(&mut reader, snapshot.tree, &options.path)?;
    let whole = matches!(found, Found::Root(_));
    if whole && let Some(counts) = &snapshot.info.counts {
        monitor.files_total.store(counts.files, Ordering::Relaxed);
        monitor.bytes_total.store(counts.bytes, Ordering::Relaxed);
    }
    let target = Target::open(
        &options.target,
        fs::RestoreOptions {
            overwrite: options.overwrite,
            owner: options.owner,
            privileged: options.privileged,
            sparse: options.sparse,
        },
    )?;
    let (write, tally) = (vault.options(), Tally::default());
    let shared = Shared { monitor, tally: &tally, verify: options.verify, fatal: Mutex::new(None) };
    let (jobs_in, jobs_out) = bounded::<Job<'_>>(JOBS_MAX);
    let walked = std::thread::scope(|scope| {
        let shared = &shared;
        let workers: Vec<_> = (0..restore_workers(options.memory_bytes, write.workers, write.sizes.max()))
            .map(|_| {
                let jobs = jobs_out.clone();
                scope.spawn(move || work(vault, source, shared, &jobs))
            })
            .collect();
        drop(jobs_out);
        let mut walk = TreeWalk { reader, shared, jobs: jobs_in, links: HashMap::new(), later: Vec::new() };
        let result = walk.start(&target, found);
        let later = walk.into_later();
        for worker in workers {
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        // Workers drop what is left when they are told to stop: that is no success, even if the walk was through.
        result.and_then(|()| make_links(shared, later)).and_then(|()| shared.go_on())
    });
    if let Some(fatal) = shared.fatal.lock().expect("no panic while held").take() {
        return Err(fatal);
    }
    walked?;
    monitor.enter("flushing to disk");
    target.sync()?;
    for warning in target.warnings().first {
        let what = format!("restored without its {:?}: {}", warning.lost, warning.reason);
        monitor.problem(warning.path.to_string_lossy(), what.to_lowercase());
    }
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    Ok(RestoreResult {
        files: get(&tally.files),
        directories: get(&tally.directories),
        others: get(&tally.others),
        skipped: get(&tally.skipped),
        bytes: get(&tally.bytes),
        failed: get(&tally.failed),
        verified: get(&tally.verified),
    })
}

/// A name under which a hard-linked file is restored first.
struct FirstLink<'a> {
    dir: Arc<OpenDir<'a>>,
    name: Vec<u8>,
    /// Of what the file holds: another file's snapshot may name the same inode (numbers are used again).
    content: blake3::Hash,
    /// It is there, from this restore or as the snapshot has it: further names may lead to it.
    ready: AtomicBool,
}

/// What two names of one file have in common.
pub(super) fn content_hash(node: &wire::Node) -> blake3::Hash {
    let content = wire::Node {
        r#type: node.r#type,
        size: node.size,
        target: node.target.clone(),
        rdev: node.rdev,
        content: node.content.clone(),
        content_lists: node.content_lists.clone(),
        ..Default::default()
    };
    blake3::hash(&content.encode_to_vec())
}

struct TreeWalk<'a> {
    reader: ChunkReader<'a>,
    shared: &'a Shared<'a>,
    jobs: Sender<Job<'a>>,
    /// First names of files with several, by (device, inode).
    links: HashMap<(u64, u64), Arc<FirstLink<'a>>>,
    /// Further names, made when all contents are written.
    later: Vec<LaterLink<'a>>,
}

/// A further name of a file.
struct LaterLink<'a> {
    first: Arc<FirstLink<'a>>,
    dir: Arc<OpenDir<'a>>,
    name: Vec<u8>,
    path: PathBuf,
}

impl<'a> TreeWalk<'a> {
    fn start(&mut self, target: &Target, found: Found) -> Result<(), EngineError> {
        let root = |node: Option<wire::Node>| {
            let path = PathBuf::new();
            Arc::new(OpenDir { dir: target.root(), node, path, shared: self.shared, _parent: None })
        };
        match found {
            Found::Root(tree) => self.directories(root(None), tree),
            Found::Node(node) => match tree_of(&node).filter(|_| node.r#type() == NodeType::NodeDirectory) {
                Some(tree) => self.directories(root(Some(*node)), tree),
                None => self.entry(&root(None), *node),
            },
        }
    }

    /// Everything below one directory, depth first.
    fn directories(&mut self, root: Arc<OpenDir<'a>>, tree: ChunkId) -> Result<(), EngineError> {
        let mut stack = vec![(root, Cursor::new(tree))];
        while let Some((dir, cursor)) = stack.last_mut() {
            self.shared.go_on()?;
            let dir = dir.clone();
            let node = match cursor.next(&mut self.reader) {
                Ok(Some(node)) => node,
                Ok(None) => {
                    stack.pop();
                    continue;
                }
                Err(error) => {
                    let path = dir.path.clone();
                    self.shared.settle(&path, error);
                    stack.pop();
                    continue;
                }
            };
            if node.r#type() != NodeType::NodeDirectory {
                self.entry(&dir, node)?;
                continue;
            }
            let path = dir.path.join(OsStr::from_bytes(&node.name));
            let Some(tree) = tree_of(&node) else {
                self.shared.failed(&path, &TreeError::Shape);
                continue;
            };
            if stack.len() >= limit::DIRECTORY_DEPTH_MAX {
                self.shared.failed(&path, &EngineError::TooDeep);
                continue;
            }
            match dir.dir.make_dir(&node) {
                Err(error) => self.shared.settle(&path, error.into()),
                Ok(made) => {
                    count(&self.shared.tally.directories);
                    let shared = self.shared;
                    let open =
                        OpenDir { dir: made, node: Some(node), path, shared, _parent: Some(dir.clone()) };
                    stack.push((Arc::new(open), Cursor::new(tree)));
                }
            }
        }
        Ok(())
    }

    fn entry(&mut self, dir: &Arc<OpenDir<'a>>, node: wire::Node) -> Result<(), EngineError> {
        let path = dir.path.join(OsStr::from_bytes(&node.name));
        let is_file = node.r#type() == NodeType::NodeFile;
        let mut first = None;
        if node.links > 1 {
            let (key, content) = ((node.device, node.inode), content_hash(&node));
            if let Some(first) = self.links.get(&key).filter(|first| first.content == content) {
                let first = first.clone();
                self.later.push(LaterLink { first, dir: dir.clone(), name: node.name, path });
                return Ok(());
            }
            let ready = AtomicBool::new(false);
            first = Some(Arc::new(FirstLink { dir: dir.clone(), name: node.name.clone(), content, ready }));
        }
        let key = (node.device, node.inode);
        let outcome =
            if is_file { self.file(dir, node, path, &first)? } else { self.special(dir, &node, &path) };
        let Some(first) = first else { return Ok(()) };
        match outcome {
            // Under way: its last job makes it ready.
            Some(Outcome::Made) if is_file => {}
            Some(Outcome::Made | Outcome::Skipped(SkipReason::Unchanged)) => {
                first.ready.store(true, Ordering::Release);
            }
            // What stands under that name is not the snapshot's: the next name is restored on its own.
            _ => return Ok(()),
        }
        self.links.insert(key, first);
        Ok(())
    }

    fn special(&self, dir: &Arc<OpenDir<'a>>, node: &wire::Node, path: &Path) -> Option<Outcome> {
        match dir.dir.special(node) {
            Ok(outcome) => {
                self.note(outcome);
                Some(outcome)
            }
            Err(error) => {
                self.shared.settle(path, error.into());
                None
            }
        }
    }

    fn note(&self, outcome: Outcome) {
        match outcome {
            Outcome::Made => count(&self.shared.tally.others),
            Outcome::Skipped(_) => count(&self.shared.tally.skipped),
        }
    }

    /// What became of it; `Made` means that workers are writing it.
    fn file(
        &mut self,
        dir: &Arc<OpenDir<'a>>,
        node: wire::Node,
        path: PathBuf,
        first: &Option<Arc<FirstLink<'a>>>,
    ) -> Result<Option<Outcome>, EngineError> {
        let writer = match dir.dir.begin_file(&node) {
            Ok(Begin::Write(writer)) => writer,
            Ok(Begin::Skip(reason)) => {
                count(&self.shared.tally.skipped);
                return Ok(Some(Outcome::Skipped(reason)));
            }
            Err(error) => {
                self.shared.settle(&path, error.into());
                return Ok(None);
            }
        };
        let file = Arc::new(OpenFile {
            writer: RwLock::new(Some(writer)),
            node,
            path,
            dir: dir.clone(),
            first: first.clone(),
            left: AtomicUsize::new(1),
            broken: AtomicBool::new(false),
        });
        if let Err(error) = self.contents(&file) {
            if matches!(error, EngineError::Stopped) {
                return Err(error);
            }
            file.broken.store(true, Ordering::Release);
            self.shared.settle(&file.path, error);
        }
        // The walk's own share; a file without content is finished by a worker like any other.
        self.send(Job { file, pieces: Vec::new() })?;
        Ok(Some(Outcome::Made))
    }

    fn send(&self, job: Job<'a>) -> Result<(), EngineError> {
        self.jobs.send(job).map_err(|_| EngineError::Stopped)
    }

    /// Cuts a file's pieces into jobs.
    fn contents(&mut self, file: &Arc<OpenFile<'a>>) -> Result<(), EngineError> {
        let mut offset = 0u64;
        match node_content(&file.node) {
            Content::Pieces(pieces) => self.pieces(file, pieces, &mut offset)?,
            Content::Lists(lists) => {
                for list in lists {
                    let id = chunk_of(list).ok_or(TreeError::Shape)?;
                    let pieces = decode_pieces(self.reader.read(Kind::Tree, id)?)?;
                    self.pieces(file, &pieces, &mut offset)?;
                }
            }
        }
        if offset == file.node.size { Ok(()) } else { Err(EngineError::RecordMissing("a part".to_owned())) }
    }

    fn pieces(
        &mut self,
        file: &Arc<OpenFile<'a>>,
        pieces: &[wire::Piece],
        offset: &mut u64,
    ) -> Result<(), EngineError> {
        let (mut job, mut bytes) = (Vec::new(), 0);
        for piece in pieces {
            if !piece.chunk.is_empty() {
                let id = chunk_of(piece).ok_or(TreeError::Shape)?;
                job.push(Part { offset: *offset, id, length: piece.length });
                bytes += piece.length.min(JOB_BYTES);
            }
            *offset = offset.checked_add(piece.length).ok_or(TreeError::Shape)?;
            if bytes >= JOB_BYTES || job.len() >= JOB_PIECES_MAX {
                self.add_job(file, std::mem::take(&mut job))?;
                bytes = 0;
            }
        }
        if job.is_empty() { Ok(()) } else { self.add_job(file, job) }
    }

    fn add_job(&self, file: &Arc<OpenFile<'a>>, pieces: Vec<Part>) -> Result<(), EngineError> {
        self.shared.go_on()?;
        file.left.fetch_add(1, Ordering::AcqRel);
        self.send(Job { file: file.clone(), pieces })
    }

    /// Lets the workers end, and returns the names still to be linked.
    fn into_later(self) -> Vec<LaterLink<'a>> {
        self.later
    }
}

/// Makes further names of files, once all contents are in place.
fn make_links(shared: &Shared<'_>, later: Vec<LaterLink<'_>>) -> Result<(), EngineError> {
    for link in later {
        shared.go_on()?;
        if !link.first.ready.load(Ordering::Acquire) {
            shared.failed(&link.path, &EngineError::RecordMissing("another name".to_owned()));
            continue;
        }
        match link.dir.dir.hard_link(&link.name, (&link.first.dir.dir, &link.first.name)) {
            Ok(Outcome::Made) => count(&shared.tally.others),
            Ok(Outcome::Skipped(_)) => count(&shared.tally.skipped),
            Err(error) => shared.settle(&link.path, error.into()),
        }
    }
    Ok(())
}

fn chunk_of(piece: &wire::Piece) -> Option<ChunkId> {
    ChunkId::try_from(piece.chunk.as_slice()).ok()
}

/// A worker: writes pieces until no job comes.
fn work<'a>(
    vault: &'a Vault,
    source: Option<&'a dyn PackSource>,
    shared: &'a Shared<'a>,
    jobs: &Receiver<Job<'a>>,
) {
    let mut reader = ChunkReader::new(vault, source, shared.monitor);
    for job in jobs {
        let file = &job.file;
        if shared.go_on().is_err() {
            // Dropped unfinished: the temporary file goes with it.
            continue;
        }
        if !file.broken.load(Ordering::Acquire)
            && let Err(error) = write_pieces(&mut reader, shared, &job)
            && !file.broken.swap(true, Ordering::AcqRel)
        {
            shared.settle(&file.path, error);
        }
        if file.left.fetch_sub(1, Ordering::AcqRel) == 1 && !file.broken.load(Ordering::Acquire) {
            match finish_file(&mut reader, shared, file) {
                Ok(()) => {
                    if let Some(first) = &file.first {
                        first.ready.store(true, Ordering::Release);
                    }
                    count(&shared.tally.files);
                    count(&shared.monitor.files_done);
                }
                Err(error) => shared.settle(&file.path, error),
            }
        }
    }
}

fn write_pieces(reader: &mut ChunkReader<'_>, shared: &Shared<'_>, job: &Job<'_>) -> Result<(), EngineError> {
    for Part { offset, id, length } in &job.pieces {
        let plain = reader.read(Kind::Data, *id)?;
        if plain.len() as u64 != *length {
            // It would overwrite its neighbours or leave a gap.
            return Err(TreeError::Shape.into());
        }
        let writer = job.file.writer.read().expect("no panic while held");
        let writer = writer.as_ref().ok_or(EngineError::Stopped)?;
        writer.write_at(*offset, plain)?;
        Monitor::add(&shared.tally.bytes, plain.len() as u64);
        Monitor::add(&shared.monitor.bytes_done, plain.len() as u64);
    }
    Ok(())
}

fn finish_file(
    reader: &mut ChunkReader<'_>,
    shared: &Shared<'_>,
    file: &OpenFile<'_>,
) -> Result<(), EngineError> {
    let writer = file.writer.write().expect("no panic while held").take().ok_or(EngineError::Stopped)?;
    if shared.verify {
        verify_written(reader, &writer, &file.node)?;
        count(&shared.tally.verified);
    }
    // The directory is held until here, so that its own times are set after this rename.
    let _dir = &file.dir;
    writer.finish(&file.node)?;
    Ok(())
}

/// Reads the file back and compares it with the chunk ids.
fn verify_written(
    reader: &mut ChunkReader<'_>,
    writer: &FileWriter,
    node: &wire::Node,
) -> Result<(), EngineError> {
    let mut offset = 0;
    match node_content(node) {
        Content::Pieces(pieces) => compare(reader, writer, pieces, &mut offset),
        Content::Lists(lists) => {
            for list in lists {
                let id = chunk_of(list).ok_or(TreeError::Shape)?;
                let pieces = decode_pieces(reader.read(Kind::Tree, id)?)?;
                compare(reader, writer, &pieces, &mut offset)?;
            }
            Ok(())
        }
    }
}

fn compare(
    reader: &ChunkReader<'_>,
    writer: &FileWriter,
    pieces: &[wire::Piece],
    offset: &mut u64,
) -> Result<(), EngineError> {
    let mut buffer = Vec::new();
    for piece in pieces {
        if let Some(id) = chunk_of(piece) {
            let length = usize::try_from(piece.length).unwrap_or(usize::MAX).min(limit::CHUNK_BYTES_MAX);
            buffer.resize(length, 0);
            let read = writer.read_at(*offset, &mut buffer)?;
            if read != length || !reader.is_plaintext_of(id, &buffer) {
                return Err(FsError::Io {
                    action: "reading back",
                    path: PathBuf::new(),
                    source: std::io::Error::other("what was written is not what is read"),
                }
                .into());
            }
        }
        *offset += piece.length;
    }
    Ok(())
}
