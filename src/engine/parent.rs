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
    /// Parts still to be read, the next one first.
    parts: VecDeque<Part>,
    leaf: VecDeque<wire::Node>,
    /// Where the leaf came from, `skip` being all of its nodes.
    current: Option<Part>,
}

struct Part {
    id: ChunkId,
    depth: usize,
    /// Nodes that are through already.
    skip: usize,
}

impl Cursor {
    /// Over the directory whose tree is `tree`.
    pub(super) fn new(tree: ChunkId) -> Self {
        Self { parts: VecDeque::from([Part { id: tree, depth: 0, skip: 0 }]), ..Self::empty() }
    }

    /// Over nothing: a directory that the parent does not have.
    pub(super) fn empty() -> Self {
        Self { parts: VecDeque::new(), leaf: VecDeque::new(), current: None }
    }

    /// Nodes that it holds in memory.
    pub(super) fn held(&self) -> usize {
        self.leaf.len()
    }

    /// Gives its memory back; what is left of the leaf is read again when its turn comes.
    pub(super) fn fold(&mut self) {
        if let Some(part) = self.current.take().filter(|_| !self.leaf.is_empty()) {
            let skip = part.skip.saturating_sub(self.leaf.len());
            self.parts.push_front(Part { skip, ..part });
            self.leaf = VecDeque::new();
        }
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
                (Some(mine), Some(theirs)) if (mine.id, mine.skip) == (theirs.id, theirs.skip) => {
                    self.parts.pop_front();
                    other.parts.pop_front();
                }
                _ => return,
            }
        }
    }

    fn fill(&mut self, reader: &mut ChunkReader<'_>) -> Result<(), EngineError> {
        while self.leaf.is_empty() {
            let Some(part) = self.parts.pop_front() else { return Ok(()) };
            match decode_tree(reader.read(Kind::Tree, part.id)?)? {
                Tree::Leaf(nodes) => {
                    self.leaf = nodes.into();
                    let all = self.leaf.len();
                    self.leaf.drain(..part.skip.min(all));
                    self.current = Some(Part { skip: all, ..part });
                }
                Tree::Inner(_) if part.depth >= limit::TREE_DEPTH_MAX => return Err(EngineError::TooDeep),
                Tree::Inner(ids) => {
                    for id in ids.into_iter().rev() {
                        self.parts.push_front(Part { id, depth: part.depth + 1, skip: 0 });
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
