//! Directories as chunks: sorted nodes, cut into several chunks when large; piece lists of large files.
//!
//! Cut points follow names (or chunk ids), so a change in one place leaves the other parts identical.

use prost::Message;

use super::omissions::Omissions;
use crate::base::{ChunkId, Code, Coded, limit};
use crate::wire::{self, Bound};

/// A leaf is not cut below this, so that small directories stay in one chunk.
const LEAF_BYTES_MIN: usize = 32 << 10;
/// A leaf is always cut here.
const LEAF_BYTES_MAX: usize = 256 << 10;
/// References in one inner chunk: 34 bytes each.
const INNER_PARTS_MAX: usize = 4096;
/// A file with at most this many pieces keeps them in its node.
const INLINE_PIECES_MAX: usize = 64;
/// A piece list is cut between these numbers of pieces (about 38 bytes each).
const LIST_PIECES_MIN: usize = 256;
const LIST_PIECES_MAX: usize = 2048;

/// A tree or piece list that breaks the rules.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// Does not decode.
    #[error("malformed tree: {0}")]
    Malformed(#[from] wire::WireError),
    /// Names are not in strictly ascending order, so one could stand twice.
    #[error("tree entries are out of order")]
    Order,
    /// Both nodes and parts, or an id of the wrong length.
    #[error("tree mixes nodes and parts, or has a malformed id")]
    Shape,
    /// One entry with its attributes is over the limit.
    #[error("one directory entry needs {0} bytes, more than the limit of {max}", max = limit::NODE_BYTES_MAX)]
    NodeTooLarge(usize),
}

impl Coded for TreeError {
    fn code(&self) -> Code {
        match self {
            Self::NodeTooLarge(_) => Code::SnapshotInvalid,
            _ => Code::SnapshotCorrupted,
        }
    }
}

/// A decoded tree chunk.
#[derive(Debug, PartialEq)]
pub enum Tree {
    /// Directory entries in name order.
    Leaf(Vec<wire::Node>),
    /// Parts of a large directory, in name order.
    Inner(Vec<ChunkId>),
}

/// Decodes a tree chunk and checks order and shape. Names themselves are checked where they are used.
pub fn decode_tree(bytes: &[u8]) -> Result<Tree, TreeError> {
    decode_directory(bytes).map(|(tree, _)| tree)
}

/// The same of a directory's topmost chunk, with what the directory leaves out.
pub fn decode_directory(bytes: &[u8]) -> Result<(Tree, Omissions), TreeError> {
    wire::check_outer(bytes, limit::TREE_ENTRIES_MAX)?;
    let raw: wire::Tree = wire::decode(bytes, Bound::new(limit::CHUNK_BYTES_MAX, limit::TREE_FIELDS_MAX))?;
    let omissions = Omissions::of_wire(raw.omissions).ok_or(TreeError::Shape)?;
    if raw.parts.is_empty() {
        let ordered = raw.nodes.is_sorted_by(|a, b| a.name < b.name);
        return if ordered { Ok((Tree::Leaf(raw.nodes), omissions)) } else { Err(TreeError::Order) };
    }
    if !raw.nodes.is_empty() {
        return Err(TreeError::Shape);
    }
    let ids = raw.parts.iter().map(|id| ChunkId::try_from(id.as_slice()));
    let ids = ids.collect::<Result<_, _>>().map_err(|_| TreeError::Shape)?;
    Ok((Tree::Inner(ids), omissions))
}

/// Builds one directory from nodes in name order, handing finished chunks to `seal`.
#[derive(Default)]
pub struct TreeWriter {
    leaf: Vec<u8>,
    parts: Vec<ChunkId>,
    last: Option<Vec<u8>>,
}

impl TreeWriter {
    /// Appends a node; seals a leaf when it is full.
    ///
    /// # Errors
    /// [`TreeError::NodeTooLarge`], [`TreeError::Order`] for a name that does not follow the last one, or what `seal` gives.
    pub fn push<E: From<TreeError>>(
        &mut self,
        node: &wire::Node,
        seal: &mut impl FnMut(&[u8]) -> Result<ChunkId, E>,
    ) -> Result<(), E> {
        let length = node.encoded_len();
        if length > limit::NODE_BYTES_MAX {
            return Err(TreeError::NodeTooLarge(length).into());
        }
        if self.last.as_ref().is_some_and(|last| *last >= node.name) {
            return Err(TreeError::Order.into());
        }
        self.last = Some(node.name.clone());
        prost::encoding::message::encode(1, node, &mut self.leaf);
        let boundary = blake3::hash(&node.name).as_bytes()[0] == 0;
        if self.leaf.len() >= LEAF_BYTES_MAX || (boundary && self.leaf.len() >= LEAF_BYTES_MIN) {
            self.parts.push(seal(&self.leaf)?);
            self.leaf.clear();
        }
        Ok(())
    }

    /// Seals what is left, says what the directory leaves out, and returns its id.
    pub fn finish<E: From<TreeError>>(
        mut self,
        omissions: &Omissions,
        seal: &mut impl FnMut(&[u8]) -> Result<ChunkId, E>,
    ) -> Result<ChunkId, E> {
        let mut omissions = omissions.to_wire();
        if self.parts.is_empty() {
            if let Some(omissions) = omissions {
                prost::encoding::message::encode(3, &omissions, &mut self.leaf);
            }
            return seal(&self.leaf);
        }
        if !self.leaf.is_empty() {
            self.parts.push(seal(&self.leaf)?);
        }
        let mut level = self.parts;
        while level.len() > 1 || omissions.is_some() {
            let is_top = level.len() <= INNER_PARTS_MAX;
            let groups = level.chunks(INNER_PARTS_MAX).map(|parts| {
                let parts = parts.iter().map(|id| id.as_bytes().to_vec()).collect();
                let omissions = if is_top { omissions.take() } else { None };
                seal(&wire::Tree { nodes: Vec::new(), parts, omissions }.encode_to_vec())
            });
            level = groups.collect::<Result<_, E>>()?;
        }
        Ok(level[0])
    }
}

/// Where a file's pieces are.
#[derive(Debug, PartialEq)]
pub enum Content<'a> {
    /// In the node.
    Pieces(&'a [wire::Piece]),
    /// In chunks that hold a piece list each, with the bytes of the file that each covers.
    Lists(&'a [wire::Piece]),
}

/// A file node's content.
pub fn node_content(node: &wire::Node) -> Content<'_> {
    if node.content_lists.is_empty() {
        Content::Pieces(&node.content)
    } else {
        Content::Lists(&node.content_lists)
    }
}

/// Decodes a chunk that holds a piece list.
pub fn decode_pieces(bytes: &[u8]) -> Result<Vec<wire::Piece>, TreeError> {
    let bound = Bound::new(limit::CHUNK_BYTES_MAX, 3 * LIST_PIECES_MAX + limit::FIELDS_FEW);
    Ok(wire::decode::<wire::PieceList>(bytes, bound)?.pieces)
}

/// Collects a file's pieces in order; many of them move into list chunks.
#[derive(Default)]
pub struct PieceWriter {
    pieces: Vec<wire::Piece>,
    lists: Vec<wire::Piece>,
}

impl PieceWriter {
    /// Appends a chunk of the file; its id stands in for the cut decision.
    pub fn data<E>(
        &mut self,
        id: ChunkId,
        length: u64,
        seal: &mut impl FnMut(&[u8]) -> Result<ChunkId, E>,
    ) -> Result<(), E> {
        self.pieces.push(wire::Piece { chunk: id.as_bytes().to_vec(), length });
        let count = self.pieces.len();
        if count >= LIST_PIECES_MAX || (count >= LIST_PIECES_MIN && id.as_bytes()[0] < 2) {
            self.flush(seal)?;
        }
        Ok(())
    }

    /// Appends a hole; a hole right after a hole is joined to it.
    pub fn hole<E>(
        &mut self,
        length: u64,
        seal: &mut impl FnMut(&[u8]) -> Result<ChunkId, E>,
    ) -> Result<(), E> {
        match self.pieces.last_mut() {
            Some(last) if last.chunk.is_empty() => last.length += length,
            _ => self.pieces.push(wire::Piece { chunk: Vec::new(), length }),
        }
        if self.pieces.len() >= LIST_PIECES_MAX { self.flush(seal) } else { Ok(()) }
    }

    fn flush<E>(&mut self, seal: &mut impl FnMut(&[u8]) -> Result<ChunkId, E>) -> Result<(), E> {
        let length = self.pieces.iter().map(|piece| piece.length).sum();
        let list = wire::PieceList { pieces: std::mem::take(&mut self.pieces) };
        let id = seal(&list.encode_to_vec())?;
        self.lists.push(wire::Piece { chunk: id.as_bytes().to_vec(), length });
        Ok(())
    }

    /// Puts the pieces, or the lists of them, into `node`.
    pub fn finish<E>(
        mut self,
        node: &mut wire::Node,
        seal: &mut impl FnMut(&[u8]) -> Result<ChunkId, E>,
    ) -> Result<(), E> {
        if !self.lists.is_empty() || self.pieces.len() > INLINE_PIECES_MAX {
            if !self.pieces.is_empty() {
                self.flush(seal)?;
            }
            node.content_lists = self.lists;
        } else {
            node.content = self.pieces;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::omissions::Omission;
    use super::*;
    use std::collections::HashMap;

    type Chunks = HashMap<ChunkId, Vec<u8>>;

    fn seal_into(chunks: &mut Chunks) -> impl FnMut(&[u8]) -> Result<ChunkId, TreeError> + '_ {
        |bytes| {
            let id = ChunkId::new(*blake3::hash(bytes).as_bytes());
            chunks.insert(id, bytes.to_vec());
            Ok(id)
        }
    }

    fn build(names: &[Vec<u8>]) -> (ChunkId, Chunks) {
        let (mut chunks, mut writer) = (Chunks::new(), TreeWriter::default());
        let mut seal = seal_into(&mut chunks);
        for name in names {
            writer
                .push(&wire::Node { name: name.clone(), mode: 0o644, ..Default::default() }, &mut seal)
                .unwrap();
        }
        let id = writer.finish(&Omissions::default(), &mut seal).unwrap();
        drop(seal);
        (id, chunks)
    }

    fn names(id: ChunkId, chunks: &Chunks) -> Vec<Vec<u8>> {
        match decode_tree(&chunks[&id]).unwrap() {
            Tree::Leaf(nodes) => nodes.into_iter().map(|node| node.name).collect(),
            Tree::Inner(parts) => parts.into_iter().flat_map(|part| names(part, chunks)).collect(),
        }
    }

    fn many(count: usize) -> Vec<Vec<u8>> {
        (0..count).map(|i| format!("file-{i:07}").into_bytes()).collect()
    }

    #[test]
    fn trees_of_any_size_read_back() {
        for count in [0, 1, 100, 5_000, 60_000] {
            let (id, chunks) = build(&many(count));
            assert_eq!(names(id, &chunks), many(count), "{count}");
            assert!(chunks.values().all(|chunk| chunk.len() <= LEAF_BYTES_MAX + 4096));
        }
    }

    #[test]
    fn one_new_entry_leaves_the_other_parts_alone() {
        let (_, old) = build(&many(60_000));
        let mut with = many(60_000);
        with.insert(30_000, b"file-0029999-new".to_vec());
        let (_, new) = build(&with);
        let added = new.keys().filter(|id| !old.contains_key(*id)).count();
        assert!(old.len() > 10 && added <= 4, "{added} of {}", new.len());
    }

    /// Frozen: identical directories must keep identical ids. One node with every field, then where 3,000 names
    /// and 3,000 pieces are cut (lengths of the chunks, and the hash of all).
    #[test]
    fn trees_match_their_frozen_bytes() {
        let time = |seconds| Some(wire::Time { seconds, nanos: 5 });
        let piece = |fill, length| wire::Piece { chunk: vec![fill; 32], length };
        let full = wire::Node {
            name: b"na\xffme".to_vec(),
            r#type: wire::NodeType::NodeFile.into(),
            mode: 0o4755,
            uid: 1000,
            gid: 100,
            user: "u".into(),
            group: "g".into(),
            mtime: time(-1),
            ctime: time(2),
            atime: time(3),
            size: 15,
            inode: 9,
            device: 8,
            links: 2,
            target: b"t".to_vec(),
            rdev: 7,
            xattrs: vec![wire::Xattr { name: b"user.a".to_vec(), value: vec![0] }],
            content: vec![piece(1, 10), wire::Piece { chunk: vec![], length: 5 }],
            content_lists: vec![piece(2, 15)],
            tree: vec![3; 32],
            inconsistent: true,
            age_ns: Some(-1),
            partial: false,
        };
        let tree = |nodes, parts| hex::encode(wire::Tree { nodes, parts, omissions: None }.encode_to_vec());
        let mut text = format!("leaf {}\n", tree(vec![full], vec![]));
        text += &format!("inner {}\n", tree(vec![], vec![vec![4; 32], vec![5; 32]]));

        let mut sealed: Vec<Vec<u8>> = Vec::new();
        let mut seal = |bytes: &[u8]| {
            sealed.push(bytes.to_vec());
            Ok::<_, TreeError>(ChunkId::new(*blake3::hash(bytes).as_bytes()))
        };
        let mut tree = TreeWriter::default();
        let mut pieces = PieceWriter::default();
        for (i, name) in many(3000).into_iter().enumerate() {
            let id = ChunkId::new(*blake3::hash(&(i as u64).to_le_bytes()).as_bytes());
            pieces.data(id, 10, &mut seal).unwrap();
            let target = vec![b'x'; 100];
            tree.push(&wire::Node { name, target, ..Default::default() }, &mut seal).unwrap();
        }
        let mut node = wire::Node { name: b"z".to_vec(), ..Default::default() };
        pieces.finish(&mut node, &mut seal).unwrap();
        tree.push(&node, &mut seal).unwrap();
        let root = tree.finish(&Omissions::default(), &mut seal).unwrap();
        let lengths: Vec<usize> = sealed.iter().map(Vec::len).collect();
        text += &format!("root {root}\nlengths {lengths:?}\nall {}\n", blake3::hash(&sealed.concat()));
        crate::base::frozen("trees.txt", text.as_bytes());
    }

    /// Frozen like the others: a directory that leaves things out, and an entry that is not whole.
    #[test]
    fn directories_that_leave_things_out_match_their_frozen_bytes() {
        let mut text = String::new();
        let mut omissions = Omissions::default();
        omissions.note(b"a", Omission::Store);
        omissions.note_unnamed(Omission::OtherFileSystem);
        let mut tree = TreeWriter::default();
        let partial = wire::Node { name: b"p".to_vec(), partial: true, ..Default::default() };
        tree.push(&partial, &mut |_: &[u8]| Err(TreeError::Shape)).unwrap();
        let mut seal = |bytes: &[u8]| {
            text += &format!("directory {}\n", hex::encode(bytes));
            Ok::<_, TreeError>(ChunkId::new([0; 32]))
        };
        tree.finish(&omissions, &mut seal).unwrap();
        crate::base::frozen("trees-omissions.txt", text.as_bytes());
    }

    /// Whether it is one leaf, one part of several, or parts of parts.
    #[test]
    fn a_directory_of_any_size_says_what_it_leaves_out() {
        let mut omissions = Omissions::default();
        omissions.note(b"left out", Omission::ByRule);
        for count in [0, 1, 300, 3000, 200_000] {
            let (mut chunks, mut writer) = (Chunks::new(), TreeWriter::default());
            let mut seal = seal_into(&mut chunks);
            for name in many(count) {
                writer.push(&wire::Node { name, ..Default::default() }, &mut seal).unwrap();
            }
            let id = writer.finish(&omissions, &mut seal).unwrap();
            drop(seal);
            let (_, found) = decode_directory(&chunks[&id]).unwrap();
            assert_eq!(found, omissions, "{count}");
            assert_eq!(names(id, &chunks), many(count));
        }
    }

    /// What its reader would refuse is not written.
    #[test]
    fn a_name_that_does_not_follow_is_refused_when_it_is_written() {
        let mut writer = TreeWriter::default();
        let mut push = |name: &[u8]| {
            let node = wire::Node { name: name.to_vec(), ..Default::default() };
            writer.push(&node, &mut |_: &[u8]| Err(TreeError::Shape))
        };
        push(b"b").unwrap();
        for name in [&b"b"[..], b"a", b""] {
            assert_eq!(push(name), Err(TreeError::Order));
        }
        push(b"ba").unwrap();
    }

    #[test]
    fn hostile_trees_are_refused() {
        let node = |name: &str| wire::Node { name: name.into(), ..Default::default() };
        let encode = |nodes: Vec<wire::Node>, parts: Vec<Vec<u8>>| {
            wire::Tree { nodes, parts, omissions: None }.encode_to_vec()
        };
        let order = Err(TreeError::Order);
        assert_eq!(decode_tree(&encode(vec![node("b"), node("a")], vec![])), order);
        assert_eq!(decode_tree(&encode(vec![node("a"), node("a")], vec![])), order);
        assert_eq!(decode_tree(&encode(vec![node("a")], vec![vec![0; 32]])), Err(TreeError::Shape));
        assert_eq!(decode_tree(&encode(vec![], vec![vec![0; 31]])), Err(TreeError::Shape));
        assert!(matches!(decode_tree(&[0xff; 40]), Err(TreeError::Malformed(_))));
    }

    #[test]
    fn pieces_stay_inline_or_move_into_lists() {
        for count in [0usize, 1, 64, 65, 5000] {
            let (mut chunks, mut writer) = (Chunks::new(), PieceWriter::default());
            let mut seal = seal_into(&mut chunks);
            let mut want = Vec::new();
            for i in 0..count {
                let id = ChunkId::new(*blake3::hash(&i.to_le_bytes()).as_bytes());
                writer.data(id, 10, &mut seal).unwrap();
                writer.hole(5, &mut seal).unwrap();
                want.push((id.as_bytes().to_vec(), 10));
                want.push((Vec::new(), 5));
            }
            let mut node = wire::Node::default();
            writer.finish(&mut node, &mut seal).unwrap();
            drop(seal);
            let got: Vec<wire::Piece> = match node_content(&node) {
                Content::Pieces(pieces) => pieces.to_vec(),
                Content::Lists(lists) => lists
                    .iter()
                    .flat_map(|list| {
                        let id = ChunkId::try_from(list.chunk.as_slice()).unwrap();
                        let pieces = decode_pieces(&chunks[&id]).unwrap();
                        assert_eq!(pieces.iter().map(|p| p.length).sum::<u64>(), list.length);
                        pieces
                    })
                    .collect(),
            };
            let got: Vec<_> = got.into_iter().map(|p| (p.chunk, p.length)).collect();
            assert_eq!(got, want, "{count}");
        }
    }
}
