//! Putting the tree together: events in walk order, contents in the same order, directories closed bottom up.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crossbeam_channel::{Receiver, Sender};
use prost::Message;

use super::feed::FileEnd;
use super::packer::Packer;
use super::sealing::{Done, Step, seal_chunk};
use super::survey::{Change, Event};
use crate::base::{ChunkId, limit};
use crate::crypto::{Kind, Sealer};
use crate::engine::error::EngineError;
use crate::engine::monitor::Monitor;
use crate::engine::vault::Vault;
use crate::snapshot::{Omission, Omissions, PieceWriter, TreeError, TreeWriter};
use crate::store::PackNumber;
use crate::wire::{self, NodeType, SnapshotCounts};

/// What the assembler leaves behind.
pub(super) struct Assembled {
    pub(super) root: ChunkId,
    pub(super) counts: SnapshotCounts,
    pub(super) unreadable: Option<ChunkId>,
    /// Packs in which known tree chunks were found.
    pub(super) used: HashSet<PackNumber>,
}

/// The steps of all batches, put back in order.
struct Steps<'a> {
    done: &'a Receiver<Done>,
    buffers: &'a Sender<Vec<u8>>,
    early: BTreeMap<u64, Done>,
    next: u64,
    current: std::vec::IntoIter<Step>,
}

impl Steps<'_> {
    fn next(&mut self) -> Result<Step, EngineError> {
        loop {
            if let Some(step) = self.current.next() {
                return Ok(step);
            }
            let done = match self.early.remove(&self.next) {
                Some(done) => done,
                None => {
                    let done = self.done.recv().map_err(|_| EngineError::Stopped)?;
                    if done.number != self.next {
                        self.early.insert(done.number, done);
                        continue;
                    }
                    done
                }
            };
            self.next += 1;
            self.current = done.steps.ok_or(EngineError::Stopped)?.into_iter();
            // The reader may be gone already, with everything read.
            let _ = self.buffers.send(done.buffer);
        }
    }
}

/// Seals tree chunks.
pub(super) struct TreeSealer<'a> {
    vault: &'a Vault,
    packer: &'a Packer<'a>,
    sealer: Sealer,
    sealed: Vec<u8>,
    /// Packs in which known chunks were found.
    pub(super) used: HashSet<PackNumber>,
}

impl<'a> TreeSealer<'a> {
    pub(super) fn new(vault: &'a Vault, packer: &'a Packer<'a>) -> Result<Self, EngineError> {
        let sealer = Sealer::new(packer.options.level)?;
        Ok(Self { vault, packer, sealer, sealed: Vec::new(), used: HashSet::new() })
    }

    pub(super) fn seal(&mut self, plain: &[u8]) -> Result<ChunkId, EngineError> {
        let id = self.vault.keyring.vault.chunk_id(Kind::Tree, plain);
        if self.packer.claim(Kind::Tree, &[id], &mut self.used)? == [true] {
            seal_chunk(self.vault, self.packer, &mut self.sealer, &mut self.sealed, Kind::Tree, id, plain)?;
        }
        Ok(id)
    }
}

/// A directory between its beginning and its end.
struct OpenDirectory {
    node: wire::Node,
    writer: TreeWriter,
    /// Entries that the walk had, and that could not be kept.
    lost: Omissions,
}

pub(super) struct Assembler<'a> {
    monitor: &'a Monitor,
    sealer: TreeSealer<'a>,
    steps: Steps<'a>,
    open: Vec<OpenDirectory>,
    /// Where the innermost of them is.
    path: PathBuf,
    counts: SnapshotCounts,
    unreadable: wire::UnreadableList,
    unreadable_bytes: usize,
}

impl<'a> Assembler<'a> {
    pub(super) fn new(
        monitor: &'a Monitor,
        sealer: TreeSealer<'a>,
        done: &'a Receiver<Done>,
        buffers: &'a Sender<Vec<u8>>,
    ) -> Self {
        let steps = Steps { done, buffers, early: BTreeMap::new(), next: 0, current: Vec::new().into_iter() };
        let unreadable = wire::UnreadableList::default();
        Self {
            monitor,
            sealer,
            steps,
            open: Vec::new(),
            path: PathBuf::new(),
            counts: SnapshotCounts::default(),
            unreadable,
            unreadable_bytes: 0,
        }
    }

    /// Works until the walk has ended.
    pub(super) fn run(mut self, events: &Receiver<Vec<Event>>) -> Result<Assembled, EngineError> {
        let mut root = None;
        for event in events.into_iter().flatten() {
            match event {
                Event::Enter { node, change } => {
                    self.counts.directories += 1;
                    self.counts.dirs_new += u64::from(change == Change::New);
                    self.path.push(if self.open.is_empty() {
                        OsStr::new("/")
                    } else {
                        OsStr::from_bytes(&node.name)
                    });
                    let (writer, lost) = (TreeWriter::default(), Omissions::default());
                    self.open.push(OpenDirectory { node, writer, lost });
                }
                Event::Leave { omissions } => root = self.leave(omissions)?.or(root),
                Event::Entry { node, change } => self.entry(node, change)?,
                Event::File { node, change } => self.file(node, change)?,
                Event::Failed { path, reason } => self.failed(path, reason),
                Event::LeftOut { .. } => {}
            }
        }
        // A walk that ended early has left directories open; whoever ended it reports why.
        let root = root.filter(|_| self.open.is_empty()).ok_or(EngineError::Stopped)?;
        let unreadable = if self.unreadable.items.is_empty() {
            None
        } else {
            Some(self.sealer.seal(&self.unreadable.encode_to_vec())?)
        };
        Ok(Assembled { root, counts: self.counts, unreadable, used: self.sealer.used })
    }

    /// Closes the innermost directory; the outermost one's id is returned.
    fn leave(&mut self, mut omissions: Omissions) -> Result<Option<ChunkId>, EngineError> {
        let Some(OpenDirectory { mut node, writer, lost }) = self.open.pop() else { return Ok(None) };
        self.path.pop();
        omissions.join(lost);
        let id = writer.finish(&omissions, &mut |plain: &[u8]| self.sealer.seal(plain))?;
        if self.open.is_empty() {
            return Ok(Some(id));
        }
        node.tree = id.as_bytes().to_vec();
        self.push(node)?;
        Ok(None)
    }

    /// Adds an entry to the innermost directory. One that its reader would refuse is left out and named, and the rest goes
    /// on; one with more attributes than fit loses those first.
    fn push(&mut self, mut node: wire::Node) -> Result<(), EngineError> {
        let Some(directory) = self.open.last_mut() else { return Err(EngineError::Stopped) };
        let mut seal = |plain: &[u8]| self.sealer.seal(plain);
        let mut pushed = directory.writer.push(&node, &mut seal);
        let told = match &pushed {
            Err(EngineError::Tree(error @ TreeError::NodeTooLarge(_))) if !node.xattrs.is_empty() => {
                Some(format!("kept without its extended attributes: {error}"))
            }
            _ => None,
        };
        if told.is_some() {
            (node.xattrs, node.partial) = (Vec::new(), true);
            pushed = directory.writer.push(&node, &mut seal);
        }
        let told = match pushed {
            Err(EngineError::Tree(error)) => {
                directory.lost.note(&node.name, Omission::Unreadable);
                Some(error.to_string())
            }
            other => other.map(|()| told)?,
        };
        if let Some(reason) = told {
            self.failed(self.path_of(&node), reason);
        }
        Ok(())
    }

    /// The path of an entry of the innermost directory.
    fn path_of(&self, node: &wire::Node) -> String {
        self.path.join(OsStr::from_bytes(&node.name)).to_string_lossy().into_owned()
    }

    fn entry(&mut self, node: wire::Node, change: Change) -> Result<(), EngineError> {
        if node.r#type() == NodeType::NodeFile {
            self.count_file(node.size, change);
        } else {
            self.counts.others += 1;
        }
        self.push(node)
    }

    fn count_file(&mut self, bytes: u64, change: Change) {
        self.counts.files += 1;
        self.counts.bytes += bytes;
        *match change {
            Change::New => &mut self.counts.files_new,
            Change::Changed => &mut self.counts.files_changed,
            Change::Same => &mut self.counts.files_unmodified,
        } += 1;
        Monitor::add(&self.monitor.files_done, 1);
    }

    fn file(&mut self, mut node: wire::Node, change: Change) -> Result<(), EngineError> {
        let mut pieces = PieceWriter::default();
        let end = loop {
            let mut seal = |plain: &[u8]| self.sealer.seal(plain);
            match self.steps.next()? {
                Step::Chunk { id, length } => pieces.data(id, u64::from(length), &mut seal)?,
                Step::Hole(length) => pieces.hole(length, &mut seal)?,
                Step::Again => pieces = PieceWriter::default(),
                Step::End(end) => break end,
            }
        };
        let (size, inconsistent) = match end {
            FileEnd::Read { size, inconsistent } => (size, inconsistent),
            FileEnd::Gone | FileEnd::Failed(_) => {
                // A restore that deletes leaves it alone, gone or not: the walk had it.
                if let Some(directory) = self.open.last_mut() {
                    directory.lost.note(&node.name, Omission::Unreadable);
                }
                if let FileEnd::Failed(error) = end {
                    self.failed(self.path_of(&node), error);
                }
                return Ok(());
            }
        };
        if inconsistent {
            self.counts.inconsistent += 1;
            self.monitor.problem(self.path_of(&node), "changed while it was read; kept as last seen");
            node.inconsistent = true;
        }
        node.size = size;
        pieces.finish(&mut node, &mut |plain: &[u8]| self.sealer.seal(plain))?;
        self.count_file(size, change);
        self.push(node)
    }

    fn failed(&mut self, path: String, reason: String) {
        self.counts.unreadable += 1;
        self.monitor.problem(&*path, &*reason);
        self.unreadable_bytes += path.len() + reason.len() + 16;
        if self.unreadable_bytes < limit::CHUNK_BYTES_MAX / 2 {
            self.unreadable.items.push(wire::Unreadable { path: path.into_bytes(), reason });
        }
    }
}
