//! What a vault holds in numbers, from the index; what one snapshot holds, from its trees.

use std::collections::HashSet;

use super::copies::packs_of;
use super::error::EngineError;
use super::heads::VaultView;
use super::monitor::Monitor;
use super::parent::tree_of;
use super::pull::PackSource;
use super::reader::ChunkReader;
use super::seen::{DistinctChunks, SeenTrees, key_of};
use super::vault::Vault;
use crate::base::ChunkId;
use crate::crypto::Kind;
use crate::snapshot::{Content, Snapshot, Tree, TreeError, decode_pieces, decode_tree, node_content};
use crate::store::{ChunkPlace, PackNumber};
use crate::wire::{self, Piece};

/// Chunks that are looked up in the index at one time.
const LOOKUPS: usize = 1024;

/// Distinct chunks, and what they take.
#[derive(Copy, Clone, Default, PartialEq, Eq, Debug)]
pub struct ChunkSums {
    /// How many.
    pub chunks: u64,
    /// Their plaintext, in bytes: of files.
    pub data_bytes: u64,
    /// Their plaintext, in bytes: of trees.
    pub tree_bytes: u64,
    /// All of them sealed, in bytes.
    pub sealed_bytes: u64,
}

impl ChunkSums {
    fn add(&mut self, place: &ChunkPlace) {
        self.chunks += 1;
        self.sealed_bytes += u64::from(place.sealed_length);
        let plain = if place.kind == Kind::Tree { &mut self.tree_bytes } else { &mut self.data_bytes };
        *plain += u64::from(place.length);
    }
}

/// A vault or a snapshot in numbers.
#[derive(Copy, Clone, Default, PartialEq, Eq, Debug)]
pub struct Sums {
    /// Snapshots.
    pub snapshots: u64,
    /// Regular files in them, each as often as it stands there.
    pub files: u64,
    /// Their bytes: what restoring all of them would write.
    pub restore_bytes: u64,
    /// Distinct chunks.
    pub distinct: ChunkSums,
    /// [`Sums::distinct`] is an estimate.
    pub is_estimate: bool,
    /// Packs.
    pub packs: u64,
    /// Their bytes on disk, padding included.
    pub pack_bytes: u64,
    /// Bytes of packs that no other snapshot needs; of one snapshot only.
    pub exclusive_pack_bytes: u64,
}

fn add_counts(sums: &mut Sums, snapshot: &Snapshot) {
    let counts = snapshot.info.counts.unwrap_or_default();
    sums.snapshots += 1;
    sums.files = sums.files.saturating_add(counts.files);
    sums.restore_bytes = sums.restore_bytes.saturating_add(counts.bytes);
}

/// Sums over everything that the vault has here. Reads the whole index (some 3 million chunks a second) and no pack.
pub fn vault_sums(vault: &Vault, view: &VaultView, monitor: &Monitor) -> Result<Sums, EngineError> {
    let mut sums = Sums::default();
    view.snapshots.iter().for_each(|snapshot| add_counts(&mut sums, snapshot));
    vault.store.for_each_chunk(|_, place| {
        sums.distinct.add(&place);
        monitor.go_on().is_ok()
    })?;
    monitor.go_on()?;
    vault.store.for_each_pack(true, |row| {
        sums.packs += 1;
        sums.pack_bytes += row.bytes;
        true
    })?;
    Ok(sums)
}

/// Sums over what one snapshot needs. Reads its trees.
pub fn snapshot_sums(
    vault: &Vault,
    view: &VaultView,
    snapshot: &Snapshot,
    source: Option<&dyn PackSource>,
    monitor: &Monitor,
) -> Result<Sums, EngineError> {
    let mut sums = Sums::default();
    add_counts(&mut sums, snapshot);
    let reader = ChunkReader::new(vault, source, monitor);
    let mut count = Count {
        vault,
        reader,
        chunks: DistinctChunks::default(),
        waiting: Vec::new(),
        sums: ChunkSums::default(),
    };
    count.walk(snapshot, monitor)?;
    (sums.distinct, sums.is_estimate) = count.finish()?;
    let needed = packs_of(vault, source, snapshot)?;
    let mut elsewhere: HashSet<PackNumber> = HashSet::new();
    for other in view.snapshots.iter().filter(|other| other.id != snapshot.id) {
        monitor.go_on()?;
        elsewhere.extend(packs_of(vault, source, other)?);
    }
    for number in needed {
        if let Some(row) = vault.store.pack_by_number(number)? {
            sums.packs += 1;
            sums.pack_bytes += row.bytes;
            if !elsewhere.contains(&number) {
                sums.exclusive_pack_bytes += row.bytes;
            }
        }
    }
    Ok(sums)
}

/// Counts the distinct chunks below a tree.
struct Count<'a> {
    vault: &'a Vault,
    reader: ChunkReader<'a>,
    chunks: DistinctChunks,
    /// Sampled chunks that are still to be looked up.
    waiting: Vec<ChunkId>,
    /// Of the sampled chunks.
    sums: ChunkSums,
}

impl Count<'_> {
    fn walk(&mut self, snapshot: &Snapshot, monitor: &Monitor) -> Result<(), EngineError> {
        let mut seen = SeenTrees::default();
        let mut stack = vec![snapshot.tree];
        for id in [snapshot.unreadable, snapshot.paths_list].into_iter().flatten() {
            self.note(id)?;
        }
        while let Some(id) = stack.pop() {
            monitor.go_on()?;
            if !seen.insert(key_of(id)) {
                continue;
            }
            self.note(id)?;
            match decode_tree(self.reader.read(Kind::Tree, id)?)? {
                Tree::Inner(parts) => stack.extend(parts),
                Tree::Leaf(nodes) => {
                    for node in &nodes {
                        stack.extend(tree_of(node));
                        self.content(node)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn content(&mut self, node: &wire::Node) -> Result<(), EngineError> {
        match node_content(node) {
            Content::Pieces(pieces) => self.pieces(pieces),
            Content::Lists(lists) => {
                for list in lists {
                    let id = ChunkId::try_from(list.chunk.as_slice()).map_err(|_| TreeError::Shape)?;
                    self.note(id)?;
                    let pieces = decode_pieces(self.reader.read(Kind::Tree, id)?)?;
                    self.pieces(&pieces)?;
                }
                Ok(())
            }
        }
    }

    fn pieces(&mut self, pieces: &[Piece]) -> Result<(), EngineError> {
        let ids = pieces.iter().filter_map(|piece| ChunkId::try_from(piece.chunk.as_slice()).ok());
        ids.into_iter().try_for_each(|id| self.note(id))
    }

    fn note(&mut self, id: ChunkId) -> Result<(), EngineError> {
        if self.chunks.insert(id) {
            self.waiting.push(id);
        }
        if self.waiting.len() < LOOKUPS { Ok(()) } else { self.look_up() }
    }

    fn look_up(&mut self) -> Result<(), EngineError> {
        for place in self.vault.store.lookup_many(&self.waiting)?.into_iter().flatten() {
            self.sums.add(&place);
        }
        self.waiting.clear();
        Ok(())
    }

    /// The sums, and whether they are an estimate.
    fn finish(mut self) -> Result<(ChunkSums, bool), EngineError> {
        self.look_up()?;
        let (sample, count) = (self.sums, self.chunks.count());
        if !self.chunks.is_estimate() {
            return Ok((sample, false));
        }
        // The sample has chunks of every stage of its thinning: their mean is what is good in it.
        let scale = |bytes: u64| (bytes as f64 / sample.chunks.max(1) as f64 * count as f64) as u64;
        let sums = ChunkSums {
            chunks: count,
            data_bytes: scale(sample.data_bytes),
            tree_bytes: scale(sample.tree_bytes),
            sealed_bytes: scale(sample.sealed_bytes),
        };
        Ok((sums, true))
    }
}
