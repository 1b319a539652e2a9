//! The parent snapshot as a backup sees it: one cursor for each directory, moving along with the walk.

use std::collections::VecDeque;

use super::error::EngineError;
use super::reader::ReadChunk;
use crate::base::{ChunkId, limit};
use crate::crypto::Kind;
use crate::snapshot::{Omissions, Tree, decode_directory, decode_tree};
use crate::wire;

/// Nodes of one directory in name order, read leaf by leaf.
pub(super) struct Cursor {
    /// Parts still to be read, the next one first.
    parts: VecDeque<Part>,
    leaf: VecDeque<wire::Node>,
    /// Where the leaf came from, `skip` being all of its nodes.
    current: Option<Part>,
    omissions: Omissions,
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
        Self { parts: VecDeque::new(), leaf: VecDeque::new(), current: None, omissions: Omissions::default() }
    }

    /// What the directory leaves out; known once a node of it was read, or that it has none.
    pub(super) fn omissions(&self) -> &Omissions {
        &self.omissions
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
    pub(super) fn next(&mut self, reader: &mut impl ReadChunk) -> Result<Option<wire::Node>, EngineError> {
        self.fill(reader)?;
        Ok(self.leaf.pop_front())
    }

    /// The next node, which stays.
    pub(super) fn peek(&mut self, reader: &mut impl ReadChunk) -> Result<Option<&wire::Node>, EngineError> {
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

    fn fill(&mut self, reader: &mut impl ReadChunk) -> Result<(), EngineError> {
        while self.leaf.is_empty() {
            let Some(part) = self.parts.pop_front() else { return Ok(()) };
            let (tree, omissions) = decode_directory(reader.read(Kind::Tree, part.id)?)?;
            if part.depth == 0 {
                self.omissions = omissions;
            }
            match tree {
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

    /// Passes over parts with smaller names than `name`, most of them unread: for who looks for one entry of many.
    pub(super) fn leap(&mut self, name: &[u8], reader: &mut impl ReadChunk) -> Result<(), EngineError> {
        while let Some(part) = self.parts.front() {
            let depth = part.depth + 1;
            let Tree::Inner(ids) = decode_tree(reader.read(Kind::Tree, part.id)?)? else { return Ok(()) };
            if depth > limit::TREE_DEPTH_MAX {
                return Err(EngineError::TooDeep);
            }
            self.parts.pop_front();
            // The last part that does not begin after it.
            let (mut low, mut high) = (0, ids.len());
            while high - low > 1 {
                let middle = low.midpoint(high);
                if first_name(ids[middle], depth, reader)?.is_some_and(|first| first.as_slice() <= name) {
                    low = middle;
                } else {
                    high = middle;
                }
            }
            for id in ids[low..].iter().rev() {
                self.parts.push_front(Part { id: *id, depth, skip: 0 });
            }
        }
        Ok(())
    }

    /// The node called `name`. Names must be asked in ascending order; smaller ones are passed over.
    pub(super) fn seek(
        &mut self,
        name: &[u8],
        reader: &mut impl ReadChunk,
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

/// The smallest name in a part of a directory.
fn first_name(
    mut id: ChunkId,
    depth: usize,
    reader: &mut impl ReadChunk,
) -> Result<Option<Vec<u8>>, EngineError> {
    for _ in depth..=limit::TREE_DEPTH_MAX {
        match decode_tree(reader.read(Kind::Tree, id)?)? {
            Tree::Leaf(nodes) => return Ok(nodes.into_iter().next().map(|node| node.name)),
            Tree::Inner(ids) => match ids.first() {
                Some(first) => id = *first,
                None => return Ok(None),
            },
        }
    }
    Err(EngineError::TooDeep)
}

/// A directory node's tree.
pub(super) fn tree_of(node: &wire::Node) -> Option<ChunkId> {
    ChunkId::try_from(node.tree.as_slice()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;
    use std::collections::HashMap;

    /// Trees in memory, and how often one was read.
    #[derive(Default)]
    struct Trees {
        chunks: HashMap<ChunkId, Vec<u8>>,
        reads: usize,
    }

    impl Trees {
        fn add(&mut self, tree: &wire::Tree) -> ChunkId {
            let bytes = tree.encode_to_vec();
            let id = ChunkId::new(*blake3::hash(&bytes).as_bytes());
            self.chunks.insert(id, bytes);
            id
        }

        fn inner(&mut self, parts: &[ChunkId]) -> ChunkId {
            let parts = parts.iter().map(|id| id.as_bytes().to_vec()).collect();
            self.add(&wire::Tree { nodes: vec![], parts, omissions: None })
        }

        fn look_up(&mut self, root: ChunkId, name: &[u8]) -> Option<Vec<u8>> {
            self.reads = 0;
            let mut cursor = Cursor::new(root);
            cursor.leap(name, self).unwrap();
            cursor.seek(name, self).unwrap().map(|node| node.name)
        }
    }

    impl ReadChunk for Trees {
        fn read(&mut self, _: Kind, id: ChunkId) -> Result<&[u8], EngineError> {
            self.reads += 1;
            self.chunks.get(&id).map(Vec::as_slice).ok_or(EngineError::ChunkMissing(id))
        }
    }

    fn name(at: usize) -> Vec<u8> {
        format!("{at:05}").into_bytes()
    }

    /// A million entries are thousands of parts; a drill would have pulled half of them for every file.
    #[test]
    fn one_entry_of_many_is_found_with_few_reads() {
        let mut trees = Trees::default();
        // Even names only, three to a leaf, in parts of 64 leaves.
        let leaves: Vec<ChunkId> = (0..1024)
            .map(|leaf| {
                let node = |at: usize| wire::Node { name: name(2 * at), ..wire::Node::default() };
                let nodes = (3 * leaf..3 * leaf + 3).map(node).collect();
                trees.add(&wire::Tree { nodes, parts: vec![], omissions: None })
            })
            .collect();
        let parts: Vec<ChunkId> = leaves.chunks(64).map(|some| trees.inner(some)).collect();
        let root = trees.inner(&parts);
        for at in [0, 1, 2, 3, 4, 5, 6, 191, 192, 193, 2999, 3070, 6142, 6143, 6144, 7000] {
            let there = at % 2 == 0 && at < 2 * 3072;
            assert_eq!(trees.look_up(root, &name(at)), there.then(|| name(at)), "{at}");
            assert!(trees.reads <= 24, "{} reads for {at}", trees.reads);
        }
        let mut all = Cursor::new(root);
        assert!((0..3072).all(|at| all.next(&mut trees).unwrap().unwrap().name == name(2 * at)));
        assert!(all.next(&mut trees).unwrap().is_none());
    }

    #[test]
    fn empty_directories_and_single_leaves_need_no_leap() {
        let mut trees = Trees::default();
        let empty = trees.add(&wire::Tree::default());
        assert_eq!(trees.look_up(empty, b"a"), None);
        let nodes = vec![wire::Node { name: b"b".to_vec(), ..wire::Node::default() }];
        let one = trees.add(&wire::Tree { nodes, parts: vec![], omissions: None });
        assert_eq!(trees.look_up(one, b"b"), Some(b"b".to_vec()));
        assert_eq!((trees.look_up(one, b"a"), trees.look_up(one, b"c")), (None, None));
    }
}
