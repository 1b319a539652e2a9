//! Walking: each entry compared with the parent snapshot; what changed goes to the reader, all of it to the assembler.

use std::collections::HashSet;
use std::io::Read;
use std::path::PathBuf;

use crossbeam_channel::Sender;

use super::feed::{FileJob, stamp};
use crate::base::ChunkId;
use crate::crypto::Kind;
use crate::engine::error::EngineError;
use crate::engine::monitor::Monitor;
use crate::engine::parent::{Cursor, tree_of};
use crate::engine::reader::ChunkReader;
use crate::engine::vault::Vault;
use crate::fs::{Entries, Ground, WalkEvent};
use crate::snapshot::{Content, Omissions, decode_pieces, node_content};
use crate::store::{ChunkPlace, PackNumber};
use crate::wire::{self, NodeType};

/// Entries that wait for one look into the index.
const WAITING_MAX: usize = 512;
/// Extended attributes of entries that wait, in bytes; one entry's come on top.
const WAITING_BYTES_MAX: usize = 256 << 10;

/// How an entry relates to the parent.
#[derive(Copy, Clone, PartialEq, Eq)]
pub(super) enum Change {
    New,
    Changed,
    Same,
}

/// What the assembler hears, in walk order.
pub(super) enum Event {
    Enter {
        node: wire::Node,
        change: Change,
    },
    Leave {
        omissions: Omissions,
    },
    /// An entry whose record is complete.
    Entry {
        node: wire::Node,
        change: Change,
    },
    /// A file whose content comes from the workers next.
    File {
        node: wire::Node,
        change: Change,
    },
    Failed {
        path: String,
        reason: String,
    },
    /// A rule leaves it out; told only where somebody listens.
    LeftOut {
        path: PathBuf,
        ground: Ground,
    },
}

/// The walking thread.
pub(super) struct Survey<'a> {
    vault: &'a Vault,
    monitor: &'a Monitor,
    reader: ChunkReader<'a>,
    force: bool,
    used: HashSet<PackNumber>,
    /// Files and bytes walked past so far; the totals, once all is walked past.
    files: u64,
    bytes: u64,
    /// What was met and not yet sent on, in walk order.
    waiting: Vec<Waiting>,
    waiting_bytes: usize,
    /// The content of the first file.
    stream: Option<Box<dyn Read + Send>>,
}

/// What waits until the index has been asked about a whole batch: one question for each file costs twice the rest.
#[expect(clippy::large_enum_variant, reason = "the largest is what most are, and few wait at one time")]
enum Waiting {
    Ready(Event),
    /// A file whose content is to be read.
    Read {
        path: PathBuf,
        node: wire::Node,
        change: Change,
    },
    /// A file as the parent has it; to be read after all if one of its chunks is gone.
    Known {
        path: PathBuf,
        node: wire::Node,
        old: wire::Node,
    },
}

impl Waiting {
    /// What it takes in memory beside a few hundred bytes.
    fn bytes(&self) -> usize {
        let node = match self {
            Self::Ready(Event::Enter { node, .. } | Event::Entry { node, .. }) => node,
            Self::Read { node, .. } | Self::Known { node, .. } => node,
            Self::Ready(Event::Leave { omissions }) => return omissions.bytes(),
            Self::Ready(_) => return 0,
        };
        node.xattrs.iter().map(|xattr| xattr.name.len() + xattr.value.len()).sum()
    }
}

/// Where the walk's findings go. Events first: whoever reads a file finds that the assembler knows of it already, so that
/// nobody waits in a circle.
#[derive(Clone, Copy)]
struct Outlets<'a> {
    events: &'a Sender<Vec<Event>>,
    jobs: &'a Sender<FileJob>,
}

impl Outlets<'_> {
    fn send(self, events: Vec<Event>, jobs: Vec<FileJob>) -> Result<(), EngineError> {
        self.events.send(events).map_err(|_| EngineError::Stopped)?;
        jobs.into_iter().try_for_each(|job| self.jobs.send(job).map_err(|_| EngineError::Stopped))
    }
}

/// The job that reads a file, and the event that announces it.
fn read(
    path: PathBuf,
    node: wire::Node,
    change: Change,
    stream: Option<Box<dyn Read + Send>>,
) -> (FileJob, Event) {
    (FileJob { stamp: stamp(&node), path, stream }, Event::File { node, change })
}

impl<'a> Survey<'a> {
    pub(super) fn new(vault: &'a Vault, monitor: &'a Monitor, force: bool) -> Self {
        let reader = ChunkReader::new(vault, None, monitor);
        let (used, waiting) = (HashSet::new(), Vec::with_capacity(WAITING_MAX));
        let (files, bytes, waiting_bytes) = (0, 0, 0);
        Self { vault, monitor, reader, force, used, files, bytes, waiting, waiting_bytes, stream: None }
    }

    /// The first file's content is this stream.
    pub(super) fn reading(mut self, stream: Option<Box<dyn Read + Send>>) -> Self {
        self.stream = stream;
        self
    }

    /// Walks to the end; returns the packs that unchanged files lie in.
    pub(super) fn run(
        mut self,
        mut walk: impl Entries,
        parent: Option<ChunkId>,
        jobs: &Sender<FileJob>,
        events: &Sender<Vec<Event>>,
    ) -> Result<HashSet<PackNumber>, EngineError> {
        let outlets = Outlets { events, jobs };
        let mut stack: Vec<Cursor> = Vec::new();
        while let Some(event) = walk.advance() {
            self.monitor.go_on()?;
            let found = match event {
                WalkEvent::Enter { node, .. } => Waiting::Ready(self.enter(&mut stack, parent, node)),
                WalkEvent::Leave { omissions } => {
                    stack.pop();
                    Waiting::Ready(Event::Leave { omissions })
                }
                WalkEvent::Entry { path, node } => self.entry(&mut walk, &mut stack, path, node),
                WalkEvent::Failed { path, error } => {
                    let path = path.to_string_lossy().into_owned();
                    Waiting::Ready(Event::Failed { path, reason: error.to_string() })
                }
            };
            self.waiting_bytes += found.bytes();
            self.waiting.push(found);
            if self.waiting.len() >= WAITING_MAX || self.waiting_bytes >= WAITING_BYTES_MAX {
                self.send_on(outlets)?;
            }
        }
        self.send_on(outlets)?;
        // Not before: against a total that still grows, what is done would shrink.
        Monitor::add(&self.monitor.files_total, self.files);
        Monitor::add(&self.monitor.bytes_total, self.bytes);
        Ok(self.used)
    }

    /// A directory begins: with the parent's directory of that name, if it has one, beside it.
    fn enter(&mut self, stack: &mut Vec<Cursor>, parent: Option<ChunkId>, mut node: wire::Node) -> Event {
        let old = match stack.last_mut() {
            Some(cursor) => self.seek(cursor, &node.name),
            // The root directory has no name to look for.
            None => parent.map(|tree| wire::Node {
                r#type: NodeType::NodeDirectory.into(),
                tree: tree.as_bytes().to_vec(),
                ..node.clone()
            }),
        };
        let old = old.filter(|old| old.r#type == node.r#type);
        let change = match &old {
            None => Change::New,
            Some(old) if untouched(old, &node) => {
                // The access time of a directory changes with every backup; keep the old one.
                node.atime = old.atime;
                Change::Same
            }
            Some(_) => Change::Changed,
        };
        stack.push(old.as_ref().and_then(tree_of).map_or_else(Cursor::empty, Cursor::new));
        Event::Enter { node, change }
    }

    fn entry(
        &mut self,
        walk: &mut impl Entries,
        stack: &mut [Cursor],
        path: PathBuf,
        mut node: wire::Node,
    ) -> Waiting {
        let old = stack.last_mut().and_then(|cursor| self.seek(cursor, &node.name));
        let change = if old.is_some() { Change::Changed } else { Change::New };
        let old = old.filter(|old| untouched(old, &node) && !old.inconsistent && !old.partial);
        let is_file = node.r#type() == NodeType::NodeFile;
        self.files += u64::from(is_file);
        self.bytes += node.size;
        match old {
            Some(old) if is_file && !self.force => return Waiting::Known { path, node, old },
            Some(old) if !is_file => return Waiting::Ready(self.same(&node, old)),
            _ => walk.complete(&mut node),
        }
        // Files that say they are empty are read too: the kernel's own, and those of some file systems in programs, are not.
        if is_file {
            Waiting::Read { path, node, change }
        } else {
            Waiting::Ready(Event::Entry { node, change })
        }
    }

    /// An entry that the parent has.
    fn same(&self, node: &wire::Node, mut old: wire::Node) -> Event {
        // Device numbers change from boot to boot; one from then could be another disk's now.
        old.device = node.device;
        Monitor::add(&self.monitor.bytes_done, node.size);
        Event::Entry { node: old, change: Change::Same }
    }

    /// Looks up the chunks of all files that wait, and sends everything on in order.
    fn send_on(&mut self, outlets: Outlets<'_>) -> Result<(), EngineError> {
        let mut waiting = std::mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        let (mut events, mut jobs) = (Vec::with_capacity(waiting.len()), Vec::new());
        let mut ids = Vec::new();
        for item in &waiting {
            if let Waiting::Known { old, .. } = item
                && let Content::Pieces(pieces) = node_content(old)
            {
                ids.extend(pieces.iter().filter_map(|piece| ChunkId::try_from(piece.chunk.as_slice()).ok()));
            }
        }
        let mut places = self.vault.store.lookup_to_keep(&ids)?.into_iter();
        for item in waiting.drain(..) {
            let (path, node, change) = match item {
                Waiting::Ready(event) => {
                    events.push(event);
                    continue;
                }
                Waiting::Known { node, old, .. } if self.present(&old, &mut places)? => {
                    events.push(self.same(&node, old));
                    continue;
                }
                Waiting::Known { path, mut node, old } => {
                    // Same change time, same attributes.
                    (node.age_ns, node.xattrs) = (old.age_ns, old.xattrs);
                    (path, node, Change::Changed)
                }
                Waiting::Read { path, node, change } => (path, node, change),
            };
            let (job, event) = read(path, node, change, self.stream.take());
            jobs.push(job);
            events.push(event);
        }
        outlets.send(events, jobs)?;
        self.waiting = waiting;
        Ok(())
    }

    /// A parent that cannot be read is no reason to fail: its files are read again.
    fn seek(&mut self, cursor: &mut Cursor, name: &[u8]) -> Option<wire::Node> {
        match cursor.seek(name, &mut self.reader) {
            Ok(node) => node,
            Err(error) => {
                tracing::warn!(target: "backup", %error, "parent directory cannot be read; reading its files anew");
                *cursor = Cursor::empty();
                None
            }
        }
    }

    /// Whether every chunk of the file is still in the index; notes the packs they are in. `places` are of the chunks of
    /// files whose pieces stand in their node, in order.
    fn present(
        &mut self,
        node: &wire::Node,
        places: &mut impl Iterator<Item = Option<ChunkPlace>>,
    ) -> Result<bool, EngineError> {
        match node_content(node) {
            Content::Pieces(pieces) => {
                let mut all = true;
                for piece in pieces.iter().filter(|piece| !piece.chunk.is_empty()) {
                    let asked = ChunkId::try_from(piece.chunk.as_slice()).is_ok();
                    let place = if asked { places.next().flatten() } else { None };
                    all &= self.note(Kind::Data, place);
                }
                Ok(all)
            }
            Content::Lists(lists) => {
                if !self.known(Kind::Tree, lists)? {
                    return Ok(false);
                }
                for list in lists {
                    let Ok(id) = ChunkId::try_from(list.chunk.as_slice()) else { return Ok(false) };
                    let Ok(bytes) = self.reader.read(Kind::Tree, id) else { return Ok(false) };
                    let Ok(pieces) = decode_pieces(bytes) else { return Ok(false) };
                    if !self.known(Kind::Data, &pieces)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
        }
    }

    /// Whether that is a place of a chunk of that kind; notes the pack.
    fn note(&mut self, kind: Kind, place: Option<ChunkPlace>) -> bool {
        match place {
            Some(place) if place.kind == kind => {
                self.used.insert(place.pack);
                true
            }
            _ => false,
        }
    }

    fn known(&mut self, kind: Kind, pieces: &[wire::Piece]) -> Result<bool, EngineError> {
        let ids: Result<Vec<ChunkId>, _> = pieces
            .iter()
            .filter(|piece| !piece.chunk.is_empty())
            .map(|piece| ChunkId::try_from(piece.chunk.as_slice()))
            .collect();
        let Ok(ids) = ids else { return Ok(false) };
        let places = self.vault.store.lookup_to_keep(&ids)?;
        Ok(places.into_iter().all(|place| self.note(kind, place)))
    }
}

/// Everything that a look at it tells, times of access apart, is the same. Not every file system moves the change time when
/// an owner or a mode changes.
fn untouched(old: &wire::Node, new: &wire::Node) -> bool {
    let owner = |node: &wire::Node| (node.uid, node.gid, node.mode);
    old.r#type == new.r#type
        && old.size == new.size
        && old.mtime == new.mtime
        && old.ctime == new.ctime
        && old.inode == new.inode
        && owner(old) == owner(new)
        && (old.links, old.rdev, &old.target) == (new.links, new.rdev, &new.target)
}
