//! A drill of restoring: some files, from peers alone, into a scratch directory, compared with what the snapshot says.
//!
//! Of the packs on this disk nothing is used: every tree on the way to a file, every list and every chunk is pulled from
//! holders, cell by cell, and opened. Contents are written to a file, which is read back and compared by the keyed hashes
//! that the snapshot has. Only which files there are to choose from, and in which pack a chunk lies, is known from here.

use std::collections::{BTreeSet, BinaryHeap, HashSet, VecDeque};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::EngineError;
use super::monitor::Monitor;
use super::pull::{PackSource, pull_cells};
use super::reader::ReadChunk;
use super::tree::{Found, Spot, find, list, locate};
use super::vault::Vault;
use super::verify::cells_of;
use crate::base::{ChunkId, PackId, limit};
use crate::crypto::{Kind, OpenError, Opener, Subject};
use crate::fs::{self, Overwrite, Target, TargetDir};
use crate::snapshot::{Content, Snapshot, decode_pieces, node_content};
use crate::store::{ChunkPlace, PackRow, StoreError};
use crate::wire::{self, NodeType};

/// Packs of which cells are kept in memory at one time: of data two, over which chunks are dealt, and of trees one.
const WINDOWS_MAX: usize = 3;
/// Cells that are kept of one of them; 4 MiB.
const WINDOW_CELLS_MAX: usize = 64;
/// Pieces of a file whose cells are pulled together.
const PIECES_AHEAD: usize = 16;
/// Tree chunks that are kept in memory.
const TREES_KEPT: usize = 16;
/// Files that nobody has, one after the other, before the drill counts as impossible now.
const FAILURES_FIRST: u64 = 3;
/// The name of the one file in the scratch directory.
const SCRATCH_NAME: &[u8] = b"restored";

/// How a drill is done.
#[derive(Debug, Clone)]
pub struct DrillOptions {
    /// A directory that is made, and removed at the end, with all that is in it.
    pub scratch: PathBuf,
    /// Chooses the files.
    pub seed: u64,
    /// Bytes of files that are restored at most; of a file that is longer than what is left of them, its beginning.
    pub bytes_max: u64,
}

/// What a drill proved.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DrillResult {
    /// Files that came back as they were.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that did not come back.
    pub failed: u64,
    /// The first [`limit::DRILL_FAILURES_NAMED_MAX`] of them, and why.
    pub failures: Vec<(PathBuf, String)>,
}

/// Restores a hundredth of a snapshot's files, at least [`limit::DRILL_FILES_MIN`], from `source` alone.
///
/// # Errors
/// Nobody has the first few files; the scratch directory cannot be used; cancellation. Single files that do not come back
/// are in the result.
pub fn restore_drill(
    vault: &Vault,
    snapshot: &Snapshot,
    options: &DrillOptions,
    source: &dyn PackSource,
    monitor: &Monitor,
) -> Result<DrillResult, EngineError> {
    monitor.enter("choosing files");
    let _at_work = vault.store.enter();
    let chosen = choose(vault, snapshot, options.seed, monitor)?;
    monitor.enter("restoring from peers");
    monitor.files_total.store(chosen.len() as u64, std::sync::atomic::Ordering::Relaxed);
    remove_scratch(&options.scratch)?;
    let rules =
        fs::RestoreOptions { overwrite: Overwrite::Always, owner: false, privileged: false, sparse: false };
    let target = Target::open(&options.scratch, None, rules)?;
    let far = Far::new(vault, source, monitor);
    let drilled = Drill { far, root: target.root(), options, left: options.bytes_max }.run(snapshot, &chosen);
    remove_scratch(&options.scratch)?;
    drilled
}

fn remove_scratch(dir: &Path) -> Result<(), EngineError> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(EngineError::Scratch(e)),
        _ => Ok(()),
    }
}

/// The files that `seed` ranks first, in path order.
fn choose(
    vault: &Vault,
    snapshot: &Snapshot,
    seed: u64,
    monitor: &Monitor,
) -> Result<Vec<PathBuf>, EngineError> {
    let files = usize::try_from(snapshot.info.counts.unwrap_or_default().files).unwrap_or(usize::MAX);
    let most = (files / 100).clamp(limit::DRILL_FILES_MIN, limit::DRILL_FILES_MAX);
    let mut ranked: BinaryHeap<([u8; 32], PathBuf)> = BinaryHeap::new();
    let root: Spot = locate(vault, snapshot, Path::new("/"), None, monitor)?;
    list(vault, &root, true, None, monitor, |entry| {
        if entry.node.r#type() == NodeType::NodeFile {
            let mut hasher = blake3::Hasher::new();
            hasher.update(&seed.to_le_bytes()).update(entry.path.as_os_str().as_bytes());
            ranked.push((*hasher.finalize().as_bytes(), entry.path));
            if ranked.len() > most {
                ranked.pop();
            }
        }
        true
    })?;
    let mut chosen: Vec<PathBuf> = ranked.into_iter().map(|(_, path)| path).collect();
    chosen.sort_unstable();
    Ok(chosen)
}

struct Drill<'a> {
    far: Far<'a>,
    root: Arc<TargetDir>,
    options: &'a DrillOptions,
    left: u64,
}

impl Drill<'_> {
    fn run(&mut self, snapshot: &Snapshot, chosen: &[PathBuf]) -> Result<DrillResult, EngineError> {
        let mut result = DrillResult::default();
        for path in chosen {
            self.far.monitor.go_on()?;
            if self.left == 0 {
                break;
            }
            match self.one(snapshot, path) {
                Ok(bytes) => {
                    result.files += 1;
                    result.bytes += bytes;
                    self.left -= bytes.min(self.left);
                }
                Err(error @ (EngineError::Cancelled | EngineError::Fs(_) | EngineError::Scratch(_))) => {
                    return Err(error);
                }
                Err(error) => {
                    result.failed += 1;
                    let hopeless =
                        result.files == 0 && result.failed >= FAILURES_FIRST.min(chosen.len() as u64);
                    if hopeless && matches!(error, EngineError::NoSource { .. }) {
                        return Err(error);
                    }
                    if result.failures.len() < limit::DRILL_FAILURES_NAMED_MAX {
                        result.failures.push((path.clone(), error.to_string()));
                    }
                }
            }
            Monitor::add(&self.far.monitor.files_done, 1);
        }
        Ok(result)
    }

    /// Restores one file and compares it; bytes of it.
    fn one(&mut self, snapshot: &Snapshot, path: &Path) -> Result<u64, EngineError> {
        let Found::Node(node) = find(&mut self.far, snapshot.tree, path)? else {
            return Err(EngineError::NotInSnapshot(path.to_owned()));
        };
        let pieces = self.far.pieces(&node, self.left)?;
        let ids: Vec<ChunkId> =
            pieces.iter().filter_map(|piece| ChunkId::try_from(piece.chunk.as_slice()).ok()).collect();
        let places: Vec<ChunkPlace> = ids
            .iter()
            .zip(self.far.vault.store.lookup_many(&ids)?)
            .map(|(id, place)| place.ok_or(EngineError::ChunkMissing(*id)))
            .collect::<Result<_, _>>()?;
        let size = pieces.iter().fold(0u64, |sum, piece| sum.saturating_add(piece.length));
        let content = wire::Node {
            name: SCRATCH_NAME.to_vec(),
            r#type: NodeType::NodeFile.into(),
            mode: 0o600,
            size,
            ..wire::Node::default()
        };
        let writer = self.root.create_file(&content)?;
        let (mut offset, mut at) = (0, 0);
        for piece in &pieces {
            if let Ok(id) = ChunkId::try_from(piece.chunk.as_slice()) {
                let ahead = &places[at..places.len().min(at + PIECES_AHEAD)];
                let plain = self.far.open(Kind::Data, id, ahead)?;
                if plain.len() as u64 != piece.length {
                    return Err(EngineError::ChunkDamaged { id, source: OpenError::Length });
                }
                writer.write_at(offset, &plain)?;
                at += 1;
            }
            offset += piece.length;
        }
        writer.finish(&content)?;
        self.compare(&pieces, size)?;
        Monitor::add(&self.far.monitor.bytes_done, size);
        let done = self.options.scratch.join(std::ffi::OsStr::from_bytes(SCRATCH_NAME));
        std::fs::remove_file(done).map_err(EngineError::Scratch)?;
        Ok(size)
    }

    /// Reads back what was written.
    fn compare(&self, pieces: &[wire::Piece], size: u64) -> Result<(), EngineError> {
        let file = self.root.open_file(SCRATCH_NAME)?;
        let (mut offset, mut buffer) = (0, Vec::new());
        for piece in pieces {
            if let Ok(id) = ChunkId::try_from(piece.chunk.as_slice()) {
                buffer.resize(usize::try_from(piece.length).unwrap_or(0).min(limit::CHUNK_BYTES_MAX), 0);
                let read = file.read_at(offset, &mut buffer).map_err(EngineError::Scratch)?;
                if self.far.vault.keyring.vault.chunk_id(Kind::Data, &buffer[..read]) != id {
                    return Err(EngineError::ChunkDamaged { id, source: OpenError::Length });
                }
            }
            offset += piece.length;
        }
        if file.size_bytes() == size { Ok(()) } else { Err(EngineError::Stopped) }
    }
}

/// Cells of a pack that were pulled.
struct Window {
    row: PackRow,
    /// The pack's length; what was not pulled takes no memory.
    buffer: Vec<u8>,
    have: HashSet<usize>,
}

/// Reads chunks from peers, whatever is on this disk.
struct Far<'a> {
    vault: &'a Vault,
    source: &'a dyn PackSource,
    monitor: &'a Monitor,
    opener: Opener,
    windows: VecDeque<Window>,
    trees: VecDeque<(ChunkId, Vec<u8>)>,
}

impl<'a> Far<'a> {
    fn new(vault: &'a Vault, source: &'a dyn PackSource, monitor: &'a Monitor) -> Self {
        let (windows, trees) = (VecDeque::new(), VecDeque::new());
        Self { vault, source, monitor, opener: Opener::new(), windows, trees }
    }

    /// What a file consists of, up to `most` bytes and the rest of a piece.
    fn pieces(&mut self, node: &wire::Node, most: u64) -> Result<Vec<wire::Piece>, EngineError> {
        let (mut pieces, mut bytes) = (Vec::new(), 0u64);
        let mut add = |some: Vec<wire::Piece>| {
            for piece in some {
                if bytes >= most {
                    break;
                }
                bytes = bytes.saturating_add(piece.length);
                pieces.push(piece);
            }
            bytes < most
        };
        match node_content(node) {
            Content::Pieces(some) => {
                add(some.to_vec());
            }
            Content::Lists(lists) => {
                for part in lists {
                    let id = ChunkId::try_from(part.chunk.as_slice());
                    let id = id.map_err(|_| EngineError::TooDeep)?;
                    if !add(decode_pieces(self.read(Kind::Tree, id)?)?) {
                        break;
                    }
                }
            }
        }
        Ok(pieces)
    }

    /// Opens the chunk at the first of these places; cells of those that follow in the same pack are pulled with it.
    fn open(&mut self, kind: Kind, id: ChunkId, places: &[ChunkPlace]) -> Result<Vec<u8>, EngineError> {
        let damaged = |source| EngineError::ChunkDamaged { id, source };
        let place = places.first().filter(|place| place.kind == kind).ok_or(EngineError::ChunkMissing(id))?;
        let same = places.iter().filter(|other| other.pack == place.pack);
        let wanted: BTreeSet<usize> = same
            .flat_map(|place| {
                let (first, last) = cells_of(place.offset, place.sealed_length);
                first..=last
            })
            .take(WINDOW_CELLS_MAX.max(cells_of(0, place.sealed_length).1 + 2))
            .collect();
        let window = self.window(place)?;
        let row = window.row;
        let from = place.offset as usize;
        let sealed = window.buffer.get(from..from + place.sealed_length as usize);
        // An altered index row must not decide what is read.
        if sealed.is_none() {
            return Err(damaged(OpenError::Length));
        }
        self.pull(row.id, wanted)?;
        let window = self.windows.front().expect("it was just moved there");
        let subject = Subject {
            epoch: row.epoch,
            kind: place.kind,
            codec: place.codec,
            id: *id.as_bytes(),
            length: place.length,
        };
        let sealed = &window.buffer[from..from + place.sealed_length as usize];
        let opened = self.opener.open(&self.vault.keyring.vault, &subject, sealed);
        opened.map(<[u8]>::to_vec).map_err(damaged)
    }

    /// The window of the pack of that place, moved to the front.
    fn window(&mut self, place: &ChunkPlace) -> Result<&Window, EngineError> {
        let known = self.windows.iter().position(|window| window.row.number == place.pack);
        let window = match known.and_then(|at| self.windows.remove(at)) {
            Some(window) => window,
            None => {
                let unknown = || StoreError::IndexDamaged(format!("no pack has number {}", place.pack.0));
                let row = self.vault.store.pack_by_number(place.pack)?.ok_or_else(unknown)?;
                let length = usize::try_from(row.bytes).unwrap_or(usize::MAX).min(limit::PACK_BYTES_MAX);
                Window { row, buffer: vec![0; length], have: HashSet::new() }
            }
        };
        self.windows.push_front(window);
        self.windows.truncate(WINDOWS_MAX);
        Ok(&self.windows[0])
    }

    /// Pulls cells of the pack of the first window that are not there yet.
    fn pull(&mut self, pack: PackId, wanted: BTreeSet<usize>) -> Result<(), EngineError> {
        let window = self.windows.front_mut().expect("it was just moved there");
        if window.have.len() + wanted.len() > 2 * WINDOW_CELLS_MAX {
            // A new buffer: the old one's pages are given back.
            window.buffer = vec![0; window.buffer.len()];
            window.have.clear();
        }
        let cells: Vec<usize> = wanted.into_iter().filter(|cell| !window.have.contains(cell)).collect();
        if cells.is_empty() {
            return Ok(());
        }
        pull_cells(self.source, pack, &cells, &mut window.buffer, self.monitor)?;
        window.have.extend(cells);
        Ok(())
    }
}

impl ReadChunk for Far<'_> {
    /// A tree; the last ones are kept.
    fn read(&mut self, kind: Kind, id: ChunkId) -> Result<&[u8], EngineError> {
        let known = self.trees.iter().position(|(known, _)| *known == id);
        let kept = match known.and_then(|at| self.trees.remove(at)) {
            Some(kept) => kept,
            None => {
                let place = self.vault.store.lookup(id)?.ok_or(EngineError::ChunkMissing(id))?;
                (id, self.open(kind, id, &[place])?)
            }
        };
        self.trees.push_front(kept);
        self.trees.truncate(TREES_KEPT);
        Ok(&self.trees[0].1)
    }
}
