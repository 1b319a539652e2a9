//! Comparing two places in snapshots: both trees side by side in name order, equal trees unread.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::error::EngineError;
use super::monitor::Monitor;
use super::parent::{Cursor, tree_of};
use super::pull::PackSource;
use super::reader::ChunkReader;
use super::tree::Spot;
use super::vault::Vault;
use crate::base::{ChunkId, limit};
use crate::crypto::Kind;
use crate::snapshot::{Content, decode_pieces, node_content};
use crate::wire::{self, NodeType, Piece};

/// How an entry differs.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Difference {
    /// It is in the second place only.
    Added,
    /// It is in the first place only.
    Removed,
    /// It is in both, and not the same.
    Changed {
        /// It became something else: a file a directory, say.
        kind: bool,
        /// A file's bytes, a symlink's target, a device's number.
        content: bool,
        /// Mode, owner, modification time or attributes; only noticed when asked for.
        metadata: bool,
    },
}

impl Difference {
    /// restic's letters: `+`, `-`, or what there is of `T`, `M` and `U`.
    pub fn letters(self) -> String {
        match self {
            Self::Added => "+".to_owned(),
            Self::Removed => "-".to_owned(),
            Self::Changed { kind, content, metadata } => {
                let letters = [(kind, 'T'), (content, 'M'), (metadata, 'U')];
                letters.into_iter().filter(|(is, _)| *is).map(|(_, letter)| letter).collect()
            }
        }
    }
}

/// One difference.
#[derive(Clone, PartialEq, Debug)]
pub struct Change {
    /// Absolute path.
    pub path: PathBuf,
    /// It is a directory in the second place, or was one in the first when it is not in the second.
    pub is_dir: bool,
    /// How it differs.
    pub what: Difference,
}

/// Counts of one side.
#[derive(Copy, Clone, Default, PartialEq, Eq, Debug)]
pub struct SideTotals {
    /// Regular files.
    pub files: u64,
    /// Directories.
    pub dirs: u64,
    /// Anything else.
    pub others: u64,
    /// Bytes of those files, and of changed files the bytes in chunks that the other version has not.
    pub bytes: u64,
}

impl SideTotals {
    fn count(&mut self, node: &wire::Node) {
        match node.r#type() {
            NodeType::NodeFile => {
                self.files += 1;
                self.bytes = self.bytes.saturating_add(node.size);
            }
            NodeType::NodeDirectory => self.dirs += 1,
            _ => self.others += 1,
        }
    }
}

/// All differences, counted.
#[derive(Copy, Clone, Default, PartialEq, Eq, Debug)]
pub struct DiffTotals {
    /// Files whose bytes differ.
    pub changed_files: u64,
    /// What is in the second place only.
    pub added: SideTotals,
    /// What is in the first place only.
    pub removed: SideTotals,
}

/// Two directories of one path, one of which may be missing.
struct Pair {
    path: PathBuf,
    old: Cursor,
    new: Cursor,
}

struct Diff<'a, F> {
    reader: ChunkReader<'a>,
    metadata: bool,
    each: F,
    totals: DiffTotals,
    stack: Vec<Pair>,
}

/// Compares what is at `old` with what is at `new`, with their metadata if asked; calls `each` with every difference in
/// path order, below the path of `new`. Stops when it gives `false`.
pub fn diff(
    vault: &Vault,
    (old, new): (&Spot, &Spot),
    metadata: bool,
    source: Option<&dyn PackSource>,
    monitor: &Monitor,
    each: impl FnMut(Change) -> bool,
) -> Result<DiffTotals, EngineError> {
    let reader = ChunkReader::new(vault, source, monitor);
    let mut diff = Diff { reader, metadata, each, totals: DiffTotals::default(), stack: Vec::new() };
    let go_on = match (old.node(), new.node()) {
        (Some(before), Some(after)) => diff.both(new.path.clone(), before, after)?,
        // The root, which has no metadata.
        _ => {
            diff.descend(new.path.clone(), old.tree(), new.tree())?;
            true
        }
    };
    if go_on {
        diff.run(monitor)?;
    }
    Ok(diff.totals)
}

impl<F: FnMut(Change) -> bool> Diff<'_, F> {
    fn run(&mut self, monitor: &Monitor) -> Result<(), EngineError> {
        while let Some(pair) = self.stack.last_mut() {
            monitor.go_on()?;
            pair.old.skip_common(&mut pair.new);
            let order = match (pair.old.peek(&mut self.reader)?, pair.new.peek(&mut self.reader)?) {
                (None, None) => None,
                (Some(_), None) => Some(Ordering::Less),
                (None, Some(_)) => Some(Ordering::Greater),
                (Some(old), Some(new)) => Some(old.name.cmp(&new.name)),
            };
            let Some(order) = order else {
                self.stack.pop();
                continue;
            };
            let old = if order.is_le() { pair.old.next(&mut self.reader)? } else { None };
            let new = if order.is_ge() { pair.new.next(&mut self.reader)? } else { None };
            let Some(node) = new.as_ref().or(old.as_ref()) else { continue };
            let path = pair.path.join(OsStr::from_bytes(&node.name));
            let go_on = match (&old, &new) {
                (Some(old), Some(new)) => self.both(path, old, new)?,
                (Some(_), None) => self.one(path, node, Difference::Removed)?,
                _ => self.one(path, node, Difference::Added)?,
            };
            if !go_on {
                return Ok(());
            }
        }
        Ok(())
    }

    /// An entry that only one side has.
    fn one(&mut self, path: PathBuf, node: &wire::Node, what: Difference) -> Result<bool, EngineError> {
        let is_added = what == Difference::Added;
        let side = if is_added { &mut self.totals.added } else { &mut self.totals.removed };
        side.count(node);
        let tree = tree_of(node);
        let go_on = (self.each)(Change { path: path.clone(), is_dir: is_dir(node), what });
        if is_added {
            self.descend(path, None, tree)?
        } else {
            self.descend(path, tree, None)?
        }
        Ok(go_on)
    }

    /// An entry that both sides have.
    fn both(&mut self, path: PathBuf, old: &wire::Node, new: &wire::Node) -> Result<bool, EngineError> {
        let kind = old.r#type() != new.r#type();
        let content = !kind && !same_content(old, new);
        let metadata = !kind && self.metadata && !same_metadata(old, new);
        if kind {
            self.totals.removed.count(old);
            self.totals.added.count(new);
        } else if content && new.r#type() == NodeType::NodeFile {
            self.totals.changed_files += 1;
            let (removed, added) = self.bytes_apart(old, new)?;
            self.totals.removed.bytes = self.totals.removed.bytes.saturating_add(removed);
            self.totals.added.bytes = self.totals.added.bytes.saturating_add(added);
        }
        let what = Difference::Changed { kind, content, metadata };
        let is_dir = is_dir(new);
        let go_on =
            !(kind || content || metadata) || (self.each)(Change { path: path.clone(), is_dir, what });
        self.descend(path, tree_of(old), tree_of(new))?;
        Ok(go_on)
    }

    /// Compares two directories next, unless they are the same.
    fn descend(
        &mut self,
        path: PathBuf,
        old: Option<ChunkId>,
        new: Option<ChunkId>,
    ) -> Result<(), EngineError> {
        if old == new {
            return Ok(());
        }
        if self.stack.len() >= limit::DIRECTORY_DEPTH_MAX {
            return Err(EngineError::TooDeep);
        }
        let cursor = |tree: Option<ChunkId>| tree.map_or_else(Cursor::empty, Cursor::new);
        self.stack.push(Pair { path, old: cursor(old), new: cursor(new) });
        Ok(())
    }

    /// Bytes of `old` in chunks that `new` has not, and the other way round.
    fn bytes_apart(&mut self, old: &wire::Node, new: &wire::Node) -> Result<(u64, u64), EngineError> {
        let (old, new) = (Parts::of(old), Parts::of(new));
        let (old, new) = (old.without(&new), new.without(&old));
        let sum = |parts: &Parts<'_>| parts.list.iter().map(|part| part.length).fold(0, u64::saturating_add);
        match (self.chunks(&old)?, self.chunks(&new)?) {
            (Some(before), Some(after)) => Ok((only_in(&before, &after), only_in(&after, &before))),
            // Too many to compare one by one.
            _ => Ok((sum(&old), sum(&new))),
        }
    }

    /// The chunks of some parts with their lengths; `None` when they are too many.
    fn chunks(&mut self, parts: &Parts<'_>) -> Result<Option<HashMap<u64, u64>>, EngineError> {
        let mut chunks = HashMap::new();
        for part in &parts.list {
            if parts.are_lists {
                let id = ChunkId::try_from(part.chunk.as_slice());
                let id = id.map_err(|_| crate::snapshot::TreeError::Shape)?;
                let pieces = decode_pieces(self.reader.read(Kind::Tree, id)?)?;
                pieces.iter().for_each(|piece| note(&mut chunks, piece));
            } else {
                note(&mut chunks, part);
            }
            if chunks.len() > limit::PIECES_COMPARED_MAX {
                return Ok(None);
            }
        }
        Ok(Some(chunks))
    }
}

/// A file's pieces, or the lists of them.
struct Parts<'a> {
    list: Vec<&'a Piece>,
    are_lists: bool,
}

impl<'a> Parts<'a> {
    fn of(node: &'a wire::Node) -> Self {
        match node_content(node) {
            Content::Pieces(pieces) => Self { list: pieces.iter().collect(), are_lists: false },
            Content::Lists(lists) => Self { list: lists.iter().collect(), are_lists: true },
        }
    }

    fn without(&self, other: &Self) -> Self {
        let theirs: HashSet<&[u8]> = other.list.iter().map(|part| part.chunk.as_slice()).collect();
        let alike = self.are_lists == other.are_lists;
        let list = self.list.iter().filter(|part| !alike || !theirs.contains(part.chunk.as_slice()));
        Self { list: list.copied().collect(), are_lists: self.are_lists }
    }
}

fn note(chunks: &mut HashMap<u64, u64>, piece: &Piece) {
    // A hole has no bytes that one could store.
    if let Some((word, _)) = piece.chunk.split_first_chunk::<8>() {
        chunks.insert(u64::from_le_bytes(*word), piece.length);
    }
}

fn only_in(these: &HashMap<u64, u64>, those: &HashMap<u64, u64>) -> u64 {
    let only = these.iter().filter(|(chunk, _)| !those.contains_key(chunk));
    only.map(|(_, length)| *length).fold(0, u64::saturating_add)
}

fn is_dir(node: &wire::Node) -> bool {
    node.r#type() == NodeType::NodeDirectory
}

fn same_content(old: &wire::Node, new: &wire::Node) -> bool {
    match new.r#type() {
        NodeType::NodeFile => {
            (old.size, &old.content, &old.content_lists) == (new.size, &new.content, &new.content_lists)
        }
        NodeType::NodeSymlink => old.target == new.target,
        NodeType::NodeCharacterDevice | NodeType::NodeBlockDevice => old.rdev == new.rdev,
        // What is in a directory is compared entry by entry.
        _ => true,
    }
}

/// Whether a restore would give both the same mode, owner, time, number of names and attributes. When they were last read, and what the
/// file system keeps for itself, does not count.
fn same_metadata(old: &wire::Node, new: &wire::Node) -> bool {
    (old.mode, old.uid, old.gid, &old.user, &old.group) == (new.mode, new.uid, new.gid, &new.user, &new.group)
        && old.mtime == new.mtime
        && old.links == new.links
        && old.xattrs == new.xattrs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_those_of_restic() {
        let changed = |kind, content, metadata| Difference::Changed { kind, content, metadata }.letters();
        assert_eq!(
            [Difference::Added.letters(), Difference::Removed.letters(), changed(true, false, false)],
            ["+", "-", "T"]
        );
        assert_eq!([changed(false, true, true), changed(false, false, true)], ["MU", "U"]);
    }

    #[test]
    fn what_reading_alone_changes_is_no_difference() {
        let time = |seconds| Some(wire::Time { seconds, nanos: 0 });
        let node = wire::Node { mode: 0o644, mtime: time(1), atime: time(1), ..Default::default() };
        let read = wire::Node { atime: time(9), ctime: time(9), inode: 7, ..node.clone() };
        assert!(same_metadata(&node, &read));
        let xattrs = vec![wire::Xattr { name: b"user.a".to_vec(), value: vec![] }];
        for other in [
            wire::Node { mode: 0o600, ..node.clone() },
            wire::Node { mtime: time(2), ..node.clone() },
            wire::Node { uid: 5, ..node.clone() },
            wire::Node { xattrs, ..node.clone() },
        ] {
            assert!(!same_metadata(&node, &other), "{other:?}");
        }
    }
}
