//! The walk's side of a restore: directories are made as it comes to them, entries become jobs for the workers.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crossbeam_channel::Sender;

use super::ahead::Ahead;
use super::batch::{Batch, SMALL_BYTES_MAX};
use super::content::{OpenFile, Piece};
use super::links::{FirstLink, Links, Met};
use super::surplus::Surplus;
use super::tally::{Shared, count};
use super::walk::{Visit, walk};
use super::{Job, Part, tree_below};
use crate::base::ChunkId;
use crate::crypto::Kind;
use crate::engine::error::EngineError;
use crate::engine::reader::ChunkReader;
use crate::engine::remembered::file_key;
use crate::engine::tree::Found;
use crate::fs::{Begin, Fate, Older, Outcome, Selector, SkipReason, Target, TargetDir};
use crate::snapshot::{Content, Omissions, TreeError, decode_pieces, node_content};
use crate::wire::{self, NodeType};

/// Plaintext bytes in one job of a large file: small enough that one file keeps all workers busy.
const JOB_BYTES: u64 = 8 << 20;
/// Pieces in one job; chunks may be as small as 64 bytes.
const JOB_PIECES_MAX: usize = 1024;

/// A directory whose metadata is set when the last holder of this value lets go: its files, its subdirectories, and
/// the walk itself.
pub(super) struct OpenDir<'a> {
    pub(super) dir: Arc<TargetDir>,
    pub(super) path: PathBuf,
    /// Held by the worker that makes files in it. Two at a time would keep each other from it in the kernel, spinning:
    /// measured with 100 files a directory, three quarters of all time.
    pub(super) turn: Mutex<()>,
    /// `None` when its metadata stays as it is.
    node: Option<wire::Node>,
    shared: &'a Shared<'a>,
    /// Kept so that the parent is finished after its children.
    _parent: Option<Arc<OpenDir<'a>>>,
}

impl Drop for OpenDir<'_> {
    fn drop(&mut self) {
        // One too early, by the time that its metadata takes: the handle itself goes right after this.
        self.shared.handles.closed();
        // What is not complete says so, by its mode, to the restore that goes on with it.
        if let Some(node) = &self.node
            && self.shared.go_on().is_ok()
            && let Err(error) = self.dir.finish(node)
        {
            self.shared.failed(&self.path, &error);
        }
    }
}

/// A directory while the walk is in it.
pub(super) struct Place<'a> {
    open: Arc<OpenDir<'a>>,
    /// What was in it, when some of that may have to go.
    older: Option<Older>,
    chosen: bool,
}

/// What the walk makes.
pub(super) struct Making<'a> {
    shared: &'a Shared<'a>,
    jobs: Sender<Job<'a>>,
    ahead: Ahead<'a>,
    batch: Batch<'a>,
    links: Links<'a>,
    surplus: &'a Surplus<'a>,
    /// For piece lists of large files: the walk's own reader is in use while it calls.
    lists: ChunkReader<'a>,
}

impl<'a> Making<'a> {
    pub(super) fn new(
        shared: &'a Shared<'a>,
        jobs: Sender<Job<'a>>,
        ahead: Ahead<'a>,
        surplus: &'a Surplus<'a>,
        links: Links<'a>,
        lists: ChunkReader<'a>,
    ) -> Self {
        Self { shared, jobs, ahead, batch: Batch::default(), links, surplus, lists }
    }

    /// Walks everything that is chosen.
    pub(super) fn walk(
        &mut self,
        reader: &mut ChunkReader<'_>,
        target: &Target,
        found: Found,
        selector: &Selector,
    ) -> Result<(), EngineError> {
        let (tree, chosen) = (tree_below(&found), !selector.has_includes());
        let node = match found {
            Found::Root(_) => None,
            Found::Node(node) => Some(*node),
        };
        match (tree, node) {
            (Some(tree), node) => {
                let dir = target.root();
                let node = node.filter(|_| chosen && (dir.is_fresh() || self.shared.target_metadata));
                if node.is_some() && dir.is_fresh() {
                    dir.begin();
                }
                let root = self.place(dir, node, PathBuf::new(), None, chosen)?;
                walk(reader, selector, self, root, tree)?;
            }
            (None, Some(node)) => {
                let mut root = self.place(target.root(), None, PathBuf::new(), None, false)?;
                // Next to it may be anything.
                root.older = None;
                let path = child_path(Path::new(""), &node);
                self.entry(&mut root, node, path)?;
            }
            (None, None) => {}
        }
        self.flush()
    }

    /// Lets the workers end, and returns the names still to be linked.
    pub(super) fn into_links(self) -> Links<'a> {
        self.links
    }

    fn place(
        &self,
        dir: Arc<TargetDir>,
        node: Option<wire::Node>,
        path: PathBuf,
        parent: Option<Arc<OpenDir<'a>>>,
        chosen: bool,
    ) -> Result<Place<'a>, EngineError> {
        let older = self.surplus.older(&dir, &path)?;
        self.shared.handles.opened();
        let open = OpenDir { dir, path, turn: Mutex::new(()), node, shared: self.shared, _parent: parent };
        Ok(Place { open: Arc::new(open), older, chosen })
    }

    fn send(&self, job: Job<'a>) -> Result<(), EngineError> {
        self.jobs.send(job).map_err(|_| EngineError::Stopped)
    }

    fn flush(&mut self) -> Result<(), EngineError> {
        let batch = std::mem::take(&mut self.batch);
        if batch.is_empty() {
            return Ok(());
        }
        self.ahead.look(batch.chunks());
        self.send(Job::Batch(batch))
    }

    /// An entry whose file has several names, or had.
    fn linked(&mut self, dir: &Arc<OpenDir<'a>>, node: wire::Node, path: PathBuf) -> Result<(), EngineError> {
        let key = file_key(&node);
        let first = match self.links.meet(key, dir, &node, self.shared) {
            Met::Further(first) => return self.links.add(first, dir.clone(), node, path, self.shared),
            Met::First(first) => Some(first),
            Met::Lost => None,
        };
        let is_file = node.r#type() == NodeType::NodeFile;
        let outcome = if is_file {
            self.large(dir, node, path, first.clone())?
        } else {
            special(self.shared, dir, &node, &path)
        };
        match (first, outcome) {
            // Under way: its last job settles it.
            (_, Some(Outcome::Made)) if is_file => {}
            (Some(first), Some(Outcome::Made | Outcome::Skipped(SkipReason::Unchanged))) => {
                first.settle(Ok(()))
            }
            // What stands under that name is not the snapshot's: the next name is restored on its own.
            _ => self.links.forget(&key),
        }
        Ok(())
    }

    /// A file that is cut into jobs; what became of it. `Made` means that workers are writing it.
    fn large(
        &mut self,
        dir: &Arc<OpenDir<'a>>,
        node: wire::Node,
        path: PathBuf,
        first: Option<Arc<FirstLink<'a>>>,
    ) -> Result<Option<Outcome>, EngineError> {
        let replaces = matches!(dir.dir.fate(&node), Ok(Fate::Replace | Fate::Dress));
        let writer = match dir.dir.begin_file(&node) {
            Ok(Begin::Write(writer)) => writer,
            Ok(Begin::Skip(reason)) => {
                self.shared.skipped(&path, &node);
                return Ok(Some(Outcome::Skipped(reason)));
            }
            Err(error) => {
                self.shared.settle(&path, error);
                return Ok(None);
            }
        };
        let file = Arc::new(OpenFile::new(writer, node, path, dir.clone(), first, replaces));
        if let Err(error) = self.contents(&file) {
            if matches!(error, EngineError::Stopped) {
                return Err(error);
            }
            file.break_off(self.shared, error);
        }
        // The walk's own share; a file without content is finished by a worker like any other.
        self.send(Job::Part(Part { file, pieces: Vec::new() }))?;
        Ok(Some(Outcome::Made))
    }

    /// Cuts a file's pieces into jobs.
    fn contents(&mut self, file: &Arc<OpenFile<'a>>) -> Result<(), EngineError> {
        let mut offset = 0u64;
        match node_content(&file.node) {
            Content::Pieces(pieces) => self.pieces(file, pieces, &mut offset)?,
            Content::Lists(lists) => {
                for list in lists {
                    let id = chunk_of(list).ok_or(TreeError::Shape)?;
                    let pieces = decode_pieces(self.lists.read(Kind::Tree, id)?)?;
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
            if piece.chunk.is_empty() {
                file.hole(*offset, piece.length, self.shared)?;
            } else {
                let id = chunk_of(piece).ok_or(TreeError::Shape)?;
                job.push(Piece { offset: *offset, id, length: piece.length });
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

    fn add_job(&mut self, file: &Arc<OpenFile<'a>>, pieces: Vec<Piece>) -> Result<(), EngineError> {
        self.shared.go_on()?;
        self.ahead.look(pieces.iter().map(|piece| piece.id));
        self.send(Job::Part(file.part(pieces)))
    }
}

impl<'a> Visit for Making<'a> {
    type Dir = Place<'a>;

    fn enter(
        &mut self,
        parent: &mut Place<'a>,
        node: &wire::Node,
        path: &Path,
        chosen: bool,
    ) -> Result<Place<'a>, EngineError> {
        if let Some(older) = &mut parent.older {
            parent.open.dir.know(older, &node.name);
        }
        let held = path.components().count() + self.links.kept_open();
        if self.shared.handles.is_short(held) {
            // What waits here to be handed over keeps directories open as well.
            self.flush()?;
            self.shared.handles.wait(held, self.shared)?;
        }
        let dir = parent.open.dir.make_dir(node)?;
        count(&self.shared.tally.directories);
        // One that is only on the way, and was there, stays as it is.
        let dressed = dir.is_fresh() || (chosen && dir.takes_metadata());
        let node = dressed.then(|| wire::Node { tree: Vec::new(), ..node.clone() });
        self.place(dir, node, path.to_owned(), Some(parent.open.clone()), chosen)
    }

    fn entry(&mut self, place: &mut Place<'a>, node: wire::Node, path: PathBuf) -> Result<(), EngineError> {
        if let Some(older) = &mut place.older {
            place.open.dir.know(older, &node.name);
        }
        let small = node.size <= SMALL_BYTES_MAX && node.content_lists.is_empty();
        if node.links > 1 {
            return self.linked(&place.open, node, path);
        }
        if node.r#type() == NodeType::NodeFile && !small {
            return self.large(&place.open, node, path, None).map(drop);
        }
        if self.batch.add(&place.open, node) { self.flush() } else { Ok(()) }
    }

    fn leave(
        &mut self,
        place: Place<'a>,
        path: &Path,
        omissions: Option<&Omissions>,
    ) -> Result<(), EngineError> {
        if let (Some(older), Some(omissions)) = (&place.older, omissions) {
            self.surplus.remove(&place.open.dir, older, path, place.chosen, omissions, self.shared);
        }
        Ok(())
    }

    fn failed(&mut self, path: &Path, error: EngineError) {
        self.shared.settle(path, error);
    }

    fn go_on(&self) -> Result<(), EngineError> {
        self.shared.go_on()
    }
}

/// Makes what has no content of its own; `None` when that failed.
pub(super) fn special(
    shared: &Shared<'_>,
    dir: &OpenDir<'_>,
    node: &wire::Node,
    path: &Path,
) -> Option<Outcome> {
    match dir.dir.special(node) {
        Ok(outcome) => {
            match outcome {
                Outcome::Made => count(&shared.tally.others),
                Outcome::Skipped(_) => shared.skipped(path, node),
            }
            Some(outcome)
        }
        Err(error) => {
            shared.settle(path, error);
            None
        }
    }
}

pub(super) fn child_path(dir: &Path, node: &wire::Node) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    dir.join(std::ffi::OsStr::from_bytes(&node.name))
}

pub(super) fn chunk_of(piece: &wire::Piece) -> Option<ChunkId> {
    ChunkId::try_from(piece.chunk.as_slice()).ok()
}
