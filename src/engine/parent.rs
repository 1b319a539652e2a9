//! The parent snapshot as a backup sees it: one cursor for each directory, moving along with the walk.

use std::collections::VecDeque;

use super::error::EngineError;
use super::reader::ChunkReader;
use crate::base::{ChunkId, limit};
use crate::crypto::Kind;
use crate::snapshot::{Tree, decode_tree};
use crate::wire;

/// Nodes of one directory in name order, read leaf by leaf.
pub(super) struct Cursor {
    /// Parts still to be read, the next one first, with their depth.
    parts: VecDeque<(ChunkId, usize)>,
    leaf: VecDeque<wire::Node>,
}

impl Cursor {
    /// Over the directory whose tree is `tree`.
    pub(super) fn new(tree: ChunkId) -> Self {
        Self { parts: VecDeque::from([(tree, 0)]), leaf: VecDeque::new() }
    }

    /// Over nothing: a directory that the parent does not have.
    pub(super) fn empty() -> Self {
        Self { parts: VecDeque::new(), leaf: VecDeque::new() }
    }

    /// The next node.
    pub(super) fn next(&mut self, reader: &mut ChunkReader<'_>) -> Result<Option<wire::Node>, EngineError> {
        self.fill(reader)?;
        Ok(self.leaf.pop_front())
    }

    /// The next node, which stays.
    pub(super) fn peek(&mut self, reader: &mut ChunkReader<'_>) -> Result<Option<&wire::Node>, EngineError> {
        self.fill(reader)?;
        Ok(self.leaf.front())
    }

    /// Passes over parts that both have next, unread.
    pub(super) fn skip_common(&mut self, other: &mut Self) {
        while self.leaf.is_empty() && other.leaf.is_empty() {
            match (self.parts.front(), other.parts.front()) {
                (Some((mine, _)), Some((theirs, _))) if mine == theirs => {
                    self.parts.pop_front();
                    other.parts.pop_front();
                }
                _ => return,
            }
        }
    }

    fn fill(&mut self, reader: &mut ChunkReader<'_>) -> Result<(), EngineError> {
        while self.leaf.is_empty() {
            let Some((id, depth)) = self.parts.pop_front() else { return Ok(()) };
            match decode_tree(reader.read(Kind::Tree, id)?)? {
                Tree::Leaf(nodes) => self.leaf = nodes.into(),
                Tree::Inner(_) if depth >= limit::TREE_DEPTH_MAX => return Err(EngineError::TooDeep),
                Tree::Inner(ids) => {
                    for id in ids.into_iter().rev() {
                        self.parts.push_front((id, depth + 1));
                    }
                }
            }
        }
        Ok(())
    }

    /// The node called `name`. Names must be asked in ascending order; smaller ones are passed over.
    pub(super) fn seek(
        &mut self,
        name: &[u8],
        reader: &mut ChunkReader<'_>,
    ) -> Result<Option<wire::Node>, EngineError> {
        while let Some(node) = self.next(reader)? {
            match node.name.as_slice().cmp(name) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => return Ok(Some(node)),
                std::cmp::Ordering::Greater => {
                    self.leaf.push_front(node);
                    return Ok(None);
                }
            }
        }
        Ok(None)
    }
}

/// A directory node's tree.
pub(super) fn tree_of(node: &wire::Node) -> Option<ChunkId> {
    ChunkId::try_from(node.tree.as_slice()).ok()
}
