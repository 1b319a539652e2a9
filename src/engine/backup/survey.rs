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
use crate::fs::{Ground, WalkEvent};
use crate::snapshot::{Content, decode_pieces, node_content};
use crate::store::PackNumber;
use crate::wire::{self, NodeType};

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
    Leave,
    /// An entry whose record is complete.
    Entry {
        node: wire::Node,
        change: Change,
    },
    /// A file whose content comes from the workers next.
    File {
        path: String,
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
    /// The content of the first file.
    stream: Option<Box<dyn Read + Send>>,
}

impl<'a> Survey<'a> {
    pub(super) fn new(vault: &'a Vault, monitor: &'a Monitor, force: bool) -> Self {
        let reader = ChunkReader::new(vault, None, monitor);
        Self { vault, monitor, reader, force, used: HashSet::new(), stream: None }
    }

    /// The first file's content is this stream.
    pub(super) fn reading(mut self, stream: Option<Box<dyn Read + Send>>) -> Self {
        self.stream = stream;
        self
    }

    /// Walks to the end; returns the packs that unchanged files lie in.
    pub(super) fn run(
        mut self,
        walk: impl Iterator<Item = WalkEvent>,
        parent: Option<ChunkId>,
        jobs: &Sender<FileJob>,
        events: &Sender<Event>,
    ) -> Result<HashSet<PackNumber>, EngineError> {
        let mut stack: Vec<Cursor> = Vec::new();
        let send = |event| events.send(event).map_err(|_| EngineError::Stopped);
        for event in walk {
            self.monitor.go_on()?;
            match event {
                WalkEvent::Enter { mut node, .. } => {
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
                    send(Event::Enter { node, change })?;
                }
                WalkEvent::Leave => {
                    stack.pop();
                    send(Event::Leave)?;
                }
                WalkEvent::Entry { path, node } => {
                    let old = stack.last_mut().and_then(|cursor| self.seek(cursor, &node.name));
                    let change = if old.is_some() { Change::Changed } else { Change::New };
                    let old = old.filter(|old| untouched(old, &node) && !old.inconsistent);
                    let is_file = node.r#type() == NodeType::NodeFile;
                    Monitor::add(&self.monitor.files_total, u64::from(is_file));
                    Monitor::add(&self.monitor.bytes_total, node.size);
                    match old {
                        Some(mut old) if !is_file || (!self.force && self.present(&old)?) => {
                            // Device numbers change from boot to boot; one from then could be another disk's now.
                            old.device = node.device;
                            Monitor::add(&self.monitor.bytes_done, node.size);
                            send(Event::Entry { node: old, change: Change::Same })?;
                        }
                        _ if is_file && (node.size > 0 || self.stream.is_some()) => {
                            let job = FileJob { stamp: stamp(&node), path, stream: self.stream.take() };
                            let path = job.path.to_string_lossy().into_owned();
                            jobs.send(job).map_err(|_| EngineError::Stopped)?;
                            send(Event::File { path, node, change })?;
                        }
                        _ => send(Event::Entry { node, change })?,
                    }
                }
                WalkEvent::Failed { path, error } => {
                    let path = path.to_string_lossy().into_owned();
                    send(Event::Failed { path, reason: error.to_string() })?;
                }
            }
        }
        Ok(self.used)
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

    /// Whether every chunk of the file is still in the index; notes the packs they are in.
    fn present(&mut self, node: &wire::Node) -> Result<bool, EngineError> {
        match node_content(node) {
            Content::Pieces(pieces) => self.known(Kind::Data, pieces),
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

    fn known(&mut self, kind: Kind, pieces: &[wire::Piece]) -> Result<bool, EngineError> {
        let ids: Result<Vec<ChunkId>, _> = pieces
            .iter()
            .filter(|piece| !piece.chunk.is_empty())
            .map(|piece| ChunkId::try_from(piece.chunk.as_slice()))
            .collect();
        let Ok(ids) = ids else { return Ok(false) };
        for place in self.vault.store.lookup_many(&ids)? {
            match place {
                Some(place) if place.kind == kind => self.used.insert(place.pack),
                _ => return Ok(false),
            };
        }
        Ok(true)
    }
}

/// Same type, size, mtime, ctime and inode.
fn untouched(old: &wire::Node, new: &wire::Node) -> bool {
    old.r#type == new.r#type
        && old.size == new.size
        && old.mtime == new.mtime
        && old.ctime == new.ctime
        && old.inode == new.inode
}
