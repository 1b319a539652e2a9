//! Which files of a snapshot need chunks that are missing or damaged.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::error::EngineError;
use super::monitor::Monitor;
use super::parent::{Cursor, tree_of};
use super::reader::ChunkReader;
use super::seen::{SeenTrees, key_of};
use super::tree::pieces;
use crate::base::{ChunkId, limit};
use crate::snapshot::Snapshot;

/// A file or directory that cannot be restored as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HurtFile {
    /// Absolute path in the snapshot.
    pub path: PathBuf,
    /// One of the chunks that it lacks.
    pub chunk: ChunkId,
}

/// The first [`limit::HURT_FILES_MAX`] of them in path order, and how many there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HurtFiles {
    /// Those that are named.
    pub named: Vec<HurtFile>,
    /// All of them. What several identical directories have in common counts once.
    pub total: u64,
}

impl HurtFiles {
    fn note(&mut self, path: &Path, chunk: ChunkId) {
        self.total += 1;
        if self.named.len() < limit::HURT_FILES_MAX {
            self.named.push(HurtFile { path: path.to_owned(), chunk });
        }
    }
}

/// Walks the snapshot; a directory whose own tree cannot be read stands for all that was in it.
pub(super) fn hurt_files(
    reader: &mut ChunkReader<'_>,
    snapshot: &Snapshot,
    bad: [&BTreeSet<ChunkId>; 2],
    monitor: &Monitor,
) -> Result<HurtFiles, EngineError> {
    let is_bad = |id: &ChunkId| bad.iter().any(|set| set.contains(id));
    let (mut hurt, mut seen) = (HurtFiles::default(), SeenTrees::default());
    let mut stack = vec![(PathBuf::from("/"), snapshot.tree, Cursor::new(snapshot.tree))];
    while let Some((dir, tree, cursor)) = stack.last_mut() {
        monitor.go_on()?;
        let node = match cursor.next(reader) {
            Ok(Some(node)) => node,
            Ok(None) => {
                stack.pop();
                continue;
            }
            Err(_) => {
                hurt.note(dir, *tree);
                stack.pop();
                continue;
            }
        };
        let path = dir.join(std::ffi::OsStr::from_bytes(&node.name));
        let (mut first, mut unread) = (None, None);
        pieces(reader, &node, &mut |_, id| first = first.or(Some(id).filter(is_bad)), &mut |id, _| {
            unread = unread.or(Some(id));
        });
        if let Some(chunk) = first.or(unread) {
            hurt.note(&path, chunk);
        }
        if let Some(below) = tree_of(&node)
            && stack.len() < limit::DIRECTORY_DEPTH_MAX
            && seen.insert(key_of(below))
        {
            stack.push((path, below, Cursor::new(below)));
        }
    }
    Ok(hurt)
}
