//! The way through a snapshot's trees that restoring, looking and counting have in common: depth first, in name order,
//! past what is not chosen. Directories that are not chosen themselves are entered when something in them is.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::base::{ChunkId, limit};
use crate::engine::error::EngineError;
use crate::engine::parent::{Cursor, tree_of};
use crate::engine::reader::ChunkReader;
use crate::fs::{Choice, Selector};
use crate::snapshot::{Omissions, TreeError};
use crate::wire::{self, NodeType};

/// Entries of directories on the way down that are held in memory; over it, all but the deepest are read again when
/// their turn comes. Some 30 MiB.
const HELD_MAX: usize = 50_000;

/// What is done at the stations of a walk. Paths are relative to the restored root.
pub(super) trait Visit {
    /// A directory while the walk is in it.
    type Dir;

    /// Comes to a directory. `chosen`: it is restored itself, not only things in it.
    fn enter(
        &mut self,
        parent: &mut Self::Dir,
        node: &wire::Node,
        path: &Path,
        chosen: bool,
    ) -> Result<Self::Dir, EngineError>;

    /// Comes to anything else.
    fn entry(&mut self, dir: &mut Self::Dir, node: wire::Node, path: PathBuf) -> Result<(), EngineError>;

    /// Leaves a directory. `omissions`: what it left out when it was backed up; `None` when not all its entries were read.
    fn leave(
        &mut self,
        dir: Self::Dir,
        path: &Path,
        omissions: Option<&Omissions>,
    ) -> Result<(), EngineError>;

    /// Hears of something that cannot be read or done.
    fn failed(&mut self, path: &Path, error: EngineError);

    /// `Err` ends the walk.
    fn go_on(&self) -> Result<(), EngineError>;
}

/// One directory on the way down.
struct Level<D> {
    path: PathBuf,
    /// `None` at the top.
    node: Option<wire::Node>,
    cursor: Cursor,
    chosen: bool,
    /// Absent until something chosen was found in it.
    dir: Option<D>,
    /// A part of it could not be read.
    broken: bool,
}

/// Walks everything chosen below one directory.
pub(super) fn walk<V: Visit>(
    reader: &mut ChunkReader<'_>,
    selector: &Selector,
    visit: &mut V,
    root: V::Dir,
    tree: ChunkId,
) -> Result<(), EngineError> {
    let top = Level {
        path: PathBuf::new(),
        node: None,
        cursor: Cursor::new(tree),
        chosen: !selector.has_includes(),
        dir: Some(root),
        broken: false,
    };
    let mut levels = vec![top];
    while let Some(level) = levels.last_mut() {
        visit.go_on()?;
        match level.cursor.next(reader) {
            Ok(Some(node)) => meet(&mut levels, selector, visit, node)?,
            Ok(None) => leave(&mut levels, visit)?,
            Err(error) => {
                // The next part of a large directory may be sound.
                level.broken = true;
                visit.failed(&level.path, error);
            }
        }
    }
    Ok(())
}

fn leave<V: Visit>(levels: &mut Vec<Level<V::Dir>>, visit: &mut V) -> Result<(), EngineError> {
    match levels.pop() {
        Some(Level { path, dir: Some(dir), cursor, broken, .. }) => {
            visit.leave(dir, &path, (!broken).then(|| cursor.omissions()))
        }
        _ => Ok(()),
    }
}

fn meet<V: Visit>(
    levels: &mut Vec<Level<V::Dir>>,
    selector: &Selector,
    visit: &mut V,
    node: wire::Node,
) -> Result<(), EngineError> {
    let Some(level) = levels.last() else { return Ok(()) };
    let path = level.path.join(OsStr::from_bytes(&node.name));
    let is_directory = node.r#type() == NodeType::NodeDirectory;
    let choice = selector.choose(&path, is_directory, level.chosen);
    match choice {
        Choice::Left => return Ok(()),
        Choice::Way if !is_directory => return Ok(()),
        Choice::Chosen | Choice::Way => {}
    }
    if !is_directory {
        return match open(levels, visit)? {
            Some(dir) => visit.entry(dir, node, path),
            None => Ok(()),
        };
    }
    let Some(tree) = tree_of(&node) else {
        visit.failed(&path, TreeError::Shape.into());
        return Ok(());
    };
    if levels.len() >= limit::DIRECTORY_DEPTH_MAX {
        visit.failed(&path, EngineError::TooDeep);
        return Ok(());
    }
    if levels.iter().map(|level| level.cursor.held()).sum::<usize>() > HELD_MAX {
        levels.iter_mut().for_each(|level| level.cursor.fold());
    }
    let chosen = choice == Choice::Chosen;
    levels.push(Level {
        path,
        node: Some(node),
        cursor: Cursor::new(tree),
        chosen,
        dir: None,
        broken: false,
    });
    if chosen { open(levels, visit).map(drop) } else { Ok(()) }
}

/// Enters what is not entered yet of the way down; `None` when that failed, and the walk is back where it succeeded.
fn open<'l, V: Visit>(
    levels: &'l mut Vec<Level<V::Dir>>,
    visit: &mut V,
) -> Result<Option<&'l mut V::Dir>, EngineError> {
    let first = levels.iter().position(|level| level.dir.is_none()).unwrap_or(levels.len());
    for at in first..levels.len() {
        let (above, below) = levels.split_at_mut(at);
        let (Some(parent), Some(level)) = (above.last_mut(), below.first_mut()) else { break };
        let (Some(parent), Some(node)) = (parent.dir.as_mut(), level.node.as_ref()) else { break };
        match visit.enter(parent, node, &level.path, level.chosen) {
            Ok(dir) => level.dir = Some(dir),
            Err(error) => {
                visit.failed(&level.path, error);
                levels.truncate(at);
                return Ok(None);
            }
        }
    }
    Ok(levels.last_mut().and_then(|level| level.dir.as_mut()))
}
