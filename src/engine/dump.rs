//! Writing what is in a snapshot to a stream: a file as its bytes, a directory as a tar archive.
//!
//! Holds one chunk at a time, and of an archive some of the first names of files that have several; the rest lie on disk.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::error::EngineError;
use super::monitor::Monitor;
use super::parent::{Cursor, tree_of};
use super::pull::PackSource;
use super::reader::ChunkReader;
use super::remembered::{Remembered, file_key};
use super::tar::{END, Member, padding};
use super::tree::Spot;
use super::vault::Vault;
use crate::base::{ChunkId, limit};
use crate::crypto::Kind;
use crate::snapshot::{Content, TreeError, decode_pieces, node_content};
use crate::wire::{self, NodeType, Piece};

/// What a hole reads as.
static ZEROS: [u8; limit::DUMP_PART_BYTES] = [0; limit::DUMP_PART_BYTES];

/// What a place becomes when it is dumped.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum DumpKind {
    /// A file of so many bytes.
    File(u64),
    /// A tar archive of a directory.
    Archive,
}

impl DumpKind {
    /// What a dump of `spot` is.
    ///
    /// # Errors
    /// [`EngineError::NotDumpable`]: it is neither a file nor a directory.
    pub fn of(spot: &Spot) -> Result<Self, EngineError> {
        match spot.node() {
            _ if spot.tree().is_some() => Ok(Self::Archive),
            Some(node) if node.r#type() == NodeType::NodeFile => Ok(Self::File(node.size)),
            _ => Err(EngineError::NotDumpable(spot.path.clone())),
        }
    }
}

/// Writes what is at `spot` to `out`, in pieces of at most [`limit::DUMP_PART_BYTES`]. Names in an archive are
/// relative to the directory at `spot`, as a restore of it would place them.
///
/// # Errors
/// What cannot be read; [`EngineError::Cancelled`] when `out` gives `false`. What was written until then is a part.
pub fn dump(
    vault: &Vault,
    spot: &Spot,
    source: Option<&dyn PackSource>,
    monitor: &Monitor,
    out: impl FnMut(&[u8]) -> bool,
) -> Result<(), EngineError> {
    monitor.enter("dumping");
    let reader = ChunkReader::new(vault, source, monitor);
    let out = Parts { out, part: Vec::with_capacity(limit::DUMP_PART_BYTES) };
    let mut dump = Dump { reader, monitor, out, links: Remembered::new(vault) };
    match (DumpKind::of(spot)?, spot.node(), spot.tree()) {
        (DumpKind::File(_), Some(node), _) => dump.content(node)?,
        (DumpKind::Archive, top, Some(tree)) => {
            if let Some(node) = top {
                let top = Member { path: Path::new("./"), node, link: None };
                dump.out.write(&top.header().unwrap_or_default())?;
            }
            dump.archive(tree)?;
        }
        _ => return Err(EngineError::NotDumpable(spot.path.clone())),
    }
    dump.out.flush()
}

/// Gathers what is written into parts of one size: the headers of a million small files are not a million parts.
struct Parts<F> {
    out: F,
    part: Vec<u8>,
}

impl<F: FnMut(&[u8]) -> bool> Parts<F> {
    fn write(&mut self, mut bytes: &[u8]) -> Result<(), EngineError> {
        while !bytes.is_empty() {
            let room = limit::DUMP_PART_BYTES - self.part.len();
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.part.extend_from_slice(now);
            bytes = later;
            if self.part.len() == limit::DUMP_PART_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), EngineError> {
        let taken = self.part.is_empty() || (self.out)(&self.part);
        self.part.clear();
        if taken { Ok(()) } else { Err(EngineError::Cancelled) }
    }
}

struct Dump<'a, F> {
    reader: ChunkReader<'a>,
    monitor: &'a Monitor,
    out: Parts<F>,
    /// The first names of files with several.
    links: Remembered<'a>,
}

impl<F: FnMut(&[u8]) -> bool> Dump<'_, F> {
    fn archive(&mut self, tree: ChunkId) -> Result<(), EngineError> {
        let mut stack = vec![(PathBuf::new(), Cursor::new(tree))];
        while let Some((dir, cursor)) = stack.last_mut() {
            self.monitor.go_on()?;
            let Some(node) = cursor.next(&mut self.reader)? else {
                stack.pop();
                continue;
            };
            if !is_plain_name(&node.name) {
                // It would lead out of the directory that someone extracts into.
                return Err(TreeError::Shape.into());
            }
            let path = dir.join(OsStr::from_bytes(&node.name));
            self.member(&path, &node)?;
            if let Some(below) = tree_of(&node).filter(|_| node.r#type() == NodeType::NodeDirectory) {
                if stack.len() >= limit::DIRECTORY_DEPTH_MAX {
                    return Err(EngineError::TooDeep);
                }
                stack.push((path, Cursor::new(below)));
            }
        }
        self.out.write(&END)
    }

    fn member(&mut self, path: &Path, node: &wire::Node) -> Result<(), EngineError> {
        let link = self.first_name(path, node)?;
        let member = Member { path, node, link: link.as_deref() };
        // Sockets are left out: a program that listens makes its own.
        let Some(header) = member.header() else { return Ok(()) };
        self.out.write(&header)?;
        if member.content_bytes() > 0 {
            self.content(node)?;
            self.out.write(padding(node.size))?;
        }
        Ok(())
    }

    /// The member that has the same file under another name; remembers this one when it is the first.
    fn first_name(&mut self, path: &Path, node: &wire::Node) -> Result<Option<PathBuf>, EngineError> {
        if node.links < 2 || matches!(node.r#type(), NodeType::NodeDirectory | NodeType::NodeSocket) {
            return Ok(None);
        }
        let key = file_key(node);
        let first = self.links.get(&key)?;
        if first.is_none() {
            self.links.insert(key, path.as_os_str().as_bytes().to_vec())?;
        }
        Ok(first.map(|first| OsString::from_vec(first).into()))
    }

    /// A file's bytes, exactly as many as its record says.
    fn content(&mut self, node: &wire::Node) -> Result<(), EngineError> {
        let mut left = node.size;
        match node_content(node) {
            Content::Pieces(pieces) => self.pieces(pieces, &mut left)?,
            Content::Lists(lists) => {
                for list in lists {
                    let pieces = decode_pieces(self.reader.read(Kind::Tree, chunk_of(list)?)?)?;
                    self.pieces(&pieces, &mut left)?;
                }
            }
        }
        if left == 0 { Ok(()) } else { Err(EngineError::RecordMissing("a part".to_owned())) }
    }

    fn pieces(&mut self, pieces: &[Piece], left: &mut u64) -> Result<(), EngineError> {
        for piece in pieces {
            self.monitor.go_on()?;
            *left = left.checked_sub(piece.length).ok_or(TreeError::Shape)?;
            if piece.chunk.is_empty() {
                self.hole(piece.length)?;
                continue;
            }
            let plain = self.reader.read(Kind::Data, chunk_of(piece)?)?;
            if plain.len() as u64 != piece.length {
                return Err(TreeError::Shape.into());
            }
            self.out.write(plain)?;
        }
        Ok(())
    }

    fn hole(&mut self, mut length: u64) -> Result<(), EngineError> {
        while length > 0 {
            let part = length.min(ZEROS.len() as u64);
            self.out.write(&ZEROS[..part as usize])?;
            length -= part;
        }
        Ok(())
    }
}

fn chunk_of(piece: &Piece) -> Result<ChunkId, EngineError> {
    ChunkId::try_from(piece.chunk.as_slice()).map_err(|_| TreeError::Shape.into())
}

fn is_plain_name(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && !name.iter().any(|byte| matches!(byte, b'/' | 0))
}
