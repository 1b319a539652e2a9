//! Walking a snapshot's tree: finding a path in it, listing it, visiting everything.

use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::error::EngineError;
use super::monitor::Monitor;
use super::parent::{Cursor, tree_of};
use super::pull::PackSource;
use super::reader::{ChunkReader, ReadChunk};
use super::seen::{SeenTrees, key_of};
use super::vault::Vault;
use crate::base::{ChunkId, limit};
use crate::crypto::Kind;
use crate::snapshot::{Content, Snapshot, Tree, decode_pieces, decode_tree, node_content};
use crate::wire::{self, NodeType};

/// One entry of a listing.
#[derive(Debug, Clone, PartialEq)]
pub struct TreeEntry {
    /// Absolute path in the snapshot.
    pub path: PathBuf,
    /// Its record.
    pub node: wire::Node,
}

/// A place in a snapshot.
#[derive(Debug, Clone)]
pub struct Spot {
    /// Absolute path.
    pub path: PathBuf,
    found: Found,
}

impl Spot {
    /// The root directory of a snapshot.
    pub(super) fn root(tree: ChunkId) -> Self {
        Self { path: "/".into(), found: Found::Root(tree) }
    }

    /// The record of what is there; the root has none.
    pub fn node(&self) -> Option<&wire::Node> {
        match &self.found {
            Found::Root(_) => None,
            Found::Node(node) => Some(node),
        }
    }

    /// The tree of a directory; `None` for anything else.
    pub(super) fn tree(&self) -> Option<ChunkId> {
        match &self.found {
            Found::Root(tree) => Some(*tree),
            Found::Node(node) => tree_of(node).filter(|_| node.r#type() == NodeType::NodeDirectory),
        }
    }
}

/// Finds what `path` leads to in a snapshot.
pub fn locate(
    vault: &Vault,
    snapshot: &Snapshot,
    path: &Path,
    source: Option<&dyn PackSource>,
    monitor: &Monitor,
) -> Result<Spot, EngineError> {
    let mut reader = ChunkReader::new(vault, source, monitor);
    let found = find(&mut reader, snapshot.tree, path)?;
    Ok(Spot { path: Path::new("/").join(path), found })
}

/// What a path in a snapshot leads to.
#[derive(Debug, Clone)]
pub(super) enum Found {
    /// The root directory: it has a tree but no node.
    Root(ChunkId),
    /// Anything else.
    Node(Box<wire::Node>),
}

/// Follows `path` from the root; symlinks in the snapshot are not followed.
pub(super) fn find(reader: &mut impl ReadChunk, root: ChunkId, path: &Path) -> Result<Found, EngineError> {
    let mut found = Found::Root(root);
    for component in path.components() {
        let name = match component {
            Component::RootDir | Component::CurDir => continue,
            Component::Normal(name) => name.as_bytes(),
            Component::ParentDir | Component::Prefix(_) => {
                return Err(EngineError::NotInSnapshot(path.to_owned()));
            }
        };
        let tree = match &found {
            Found::Root(tree) => Some(*tree),
            Found::Node(node) => tree_of(node),
        };
        let tree = tree.ok_or_else(|| EngineError::NotInSnapshot(path.to_owned()))?;
        let mut cursor = Cursor::new(tree);
        cursor.leap(name, reader)?;
        let node = cursor.seek(name, reader)?;
        found = Found::Node(Box::new(node.ok_or_else(|| EngineError::NotInSnapshot(path.to_owned()))?));
    }
    Ok(found)
}

/// Lists the directory at `spot` (or the single entry there); everything below it when `recursive`. Calls `each` in
/// path order; stops when it gives `false`. Holds one tree chunk of each directory on the way, whatever their sizes.
pub fn list(
    vault: &Vault,
    spot: &Spot,
    recursive: bool,
    source: Option<&dyn PackSource>,
    monitor: &Monitor,
    mut each: impl FnMut(TreeEntry) -> bool,
) -> Result<(), EngineError> {
    let mut reader = ChunkReader::new(vault, source, monitor);
    let Some(tree) = spot.tree() else {
        let node = spot.node().ok_or_else(|| EngineError::NotInSnapshot(spot.path.clone()))?;
        each(TreeEntry { path: spot.path.clone(), node: node.clone() });
        return Ok(());
    };
    let mut stack = vec![(spot.path.clone(), Cursor::new(tree))];
    while let Some((dir, cursor)) = stack.last_mut() {
        monitor.go_on()?;
        let Some(node) = cursor.next(&mut reader)? else {
            stack.pop();
            continue;
        };
        let path = dir.join(std::ffi::OsStr::from_bytes(&node.name));
        let below = tree_of(&node).filter(|_| recursive);
        if !each(TreeEntry { path: path.clone(), node }) {
            return Ok(());
        }
        if let Some(below) = below {
            if stack.len() >= limit::DIRECTORY_DEPTH_MAX {
                return Err(EngineError::TooDeep);
            }
            stack.push((path, Cursor::new(below)));
        }
    }
    Ok(())
}

/// Calls `each` for every chunk that a snapshot refers to, each distinct tree once; unreadable trees go to `broken`.
pub(super) fn for_each_reference(
    reader: &mut ChunkReader<'_>,
    snapshot: &Snapshot,
    monitor: &Monitor,
    each: &mut impl FnMut(Kind, ChunkId),
    broken: &mut impl FnMut(ChunkId, EngineError),
) -> Result<(), EngineError> {
    for_each_new_reference(reader, snapshot, &mut SeenTrees::default(), monitor, each, broken)
}

/// The same without the trees that were seen before, and what is below them.
pub(super) fn for_each_new_reference(
    reader: &mut ChunkReader<'_>,
    snapshot: &Snapshot,
    seen: &mut SeenTrees,
    monitor: &Monitor,
    each: &mut impl FnMut(Kind, ChunkId),
    broken: &mut impl FnMut(ChunkId, EngineError),
) -> Result<(), EngineError> {
    let mut stack = vec![snapshot.tree];
    for id in [snapshot.unreadable, snapshot.paths_list].into_iter().flatten() {
        each(Kind::Tree, id);
    }
    while let Some(id) = stack.pop() {
        monitor.go_on()?;
        if !seen.insert(key_of(id)) {
            continue;
        }
        each(Kind::Tree, id);
        let decoded = reader.read(Kind::Tree, id).and_then(|bytes| Ok(decode_tree(bytes)?));
        let nodes = match decoded {
            Ok(Tree::Leaf(nodes)) => nodes,
            Ok(Tree::Inner(parts)) => {
                stack.extend(parts);
                continue;
            }
            Err(error) => {
                broken(id, error);
                continue;
            }
        };
        for node in &nodes {
            stack.extend(tree_of(node));
            pieces(reader, node, each, broken);
        }
    }
    Ok(())
}

/// Calls `each` for the chunks of a file's content; lists of them that cannot be read go to `broken`.
pub(super) fn pieces(
    reader: &mut ChunkReader<'_>,
    node: &wire::Node,
    each: &mut impl FnMut(Kind, ChunkId),
    broken: &mut impl FnMut(ChunkId, EngineError),
) {
    let ids = |pieces: &[wire::Piece]| -> Vec<ChunkId> {
        pieces.iter().filter_map(|piece| ChunkId::try_from(piece.chunk.as_slice()).ok()).collect()
    };
    match node_content(node) {
        Content::Pieces(list) => ids(list).into_iter().for_each(|id| each(Kind::Data, id)),
        Content::Lists(lists) => {
            for id in ids(lists) {
                each(Kind::Tree, id);
                match reader.read(Kind::Tree, id).and_then(|bytes| Ok(decode_pieces(bytes)?)) {
                    Ok(list) => ids(&list).into_iter().for_each(|id| each(Kind::Data, id)),
                    Err(error) => broken(id, error),
                }
            }
        }
    }
}
