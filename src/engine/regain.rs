//! Regaining: what no peer has any more comes from the files that it was read from.
//!
//! Snapshots tell which files had a lost chunk, and where in them. A file that still has that content, in its old place or
//! anywhere once it is cut again, gives it back: the vault's keyed hash proves it. What is found goes into new packs. A
//! damaged pack of which nothing is lost any more gives the rest of its chunks to them as well, and is set aside: nothing
//! needs it then, and its file is kept in quarantine.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::budget::BATCH_BYTES;
use super::error::EngineError;
use super::heads::VaultView;
use super::monitor::Monitor;
use super::open_pack::OpenPack;
use super::parent::{Cursor, tree_of};
use super::reader::ChunkReader;
use super::repair::Damage;
use super::seen::SeenTrees;
use super::signing::publish_next_head;
use super::vault::Vault;
use super::verify::VerifyResult;
use crate::base::{ByteSize, ChunkId, PackId, limit};
use crate::chunker::Cutter;
use crate::crypto::{Kind, Sealer};
use crate::fs::{FileStamp, Segment, SourceFile, open_file};
use crate::snapshot::{Content, PeerAddress, PieceWriter, Snapshot, TreeError, decode_pieces, node_content};
use crate::store::{ChunkPlace, PackNumber, Store};
use crate::wire::{self, NodeType};

/// An open pack is written out whenever it has this many bytes in memory.
const DRAIN_BYTES: usize = limit::MIB;

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegainResult {
    /// Chunks that files gave back.
    pub chunks: u64,
    /// Their plaintext bytes.
    pub bytes: u64,
    /// Packs that nothing needs any more.
    pub set_aside: Vec<PackId>,
}

impl RegainResult {
    /// Whether anything is otherwise than before.
    pub fn is_nothing(&self) -> bool {
        self.chunks == 0 && self.set_aside.is_empty()
    }
}

/// Chunks that a snapshot needs and that are missing or damaged.
fn lost_chunks(found: &VerifyResult) -> HashSet<ChunkId> {
    let all = found.snapshots.iter();
    all.flat_map(|snapshot| snapshot.missing.iter().chain(&snapshot.corrupt)).copied().collect()
}

/// Remembers which own packs are damaged, so that backups store anew what is in them, and which are sound again.
pub fn note_damage(store: &Store, damages: &[Damage]) -> Result<(), EngineError> {
    let damaged = own_numbers(store, damages)?;
    let mut sound = Vec::new();
    let aside = store.packs_aside();
    for number in store.mistrusted_packs() {
        if damaged.contains_key(&number) || aside.contains(&number) {
            continue;
        }
        if let Some(row) = store.pack_by_number(number)?
            && Damage::examine(store, row.id, row.bytes)?.is_none()
        {
            sound.push(number);
        }
    }
    let damaged: Vec<PackNumber> = damaged.into_keys().collect();
    Ok(store.note_mistrust(&damaged, &sound)?)
}

fn own_numbers(store: &Store, damages: &[Damage]) -> Result<HashMap<PackNumber, PackId>, EngineError> {
    let mut numbers = HashMap::new();
    for damage in damages {
        if let Some(row) = store.pack_by_id(damage.pack)?.filter(|row| row.own) {
            numbers.insert(row.number, row.id);
        }
    }
    Ok(numbers)
}

/// Which files would be read again, one line each, if no peer has what was found lost.
///
/// At most [`limit::REREAD_FILES_NAMED_MAX`] lines.
pub fn plan_regain(
    vault: &Vault,
    found: &VerifyResult,
    monitor: &Monitor,
) -> Result<Vec<String>, EngineError> {
    let (mut lost, mut lines) = (lost_chunks(found), Vec::new());
    let mut unnamed = 0u64;
    for_each_file(vault, &mut lost, monitor, &mut |lost, path, node, gaps| {
        let Some(file) = open_file(path).ok().filter(|_| !gaps.is_empty()) else { return Ok(()) };
        let fresh: BTreeSet<ChunkId> = gaps.iter().map(|gap| gap.id).filter(|id| lost.contains(id)).collect();
        if lines.len() >= limit::REREAD_FILES_NAMED_MAX {
            unnamed += u64::from(!fresh.is_empty());
        } else if !fresh.is_empty() {
            let bytes = gaps.iter().filter(|gap| fresh.contains(&gap.id)).map(|gap| gap.length).sum();
            let state = if is_same(&file, node) { "" } else { ", as far as it still has them" };
            let (path, count, bytes) = (path.display(), fresh.len(), ByteSize(bytes));
            lines
                .push(format!("file {path}: read {count} chunks ({bytes}) again if no peer has them{state}"));
        }
        fresh.iter().for_each(|id| {
            lost.remove(id);
        });
        Ok(())
    })?;
    if unnamed > 0 {
        lines.push(format!("{unnamed} more files that may be read again"));
    }
    Ok(lines)
}

fn is_same(file: &SourceFile, node: &wire::Node) -> bool {
    let (now, then) = (file.opened(), FileStamp::of_node(node));
    now.size == then.size && now.mtime == then.mtime
}

/// Reads files again for what `found`, a verification of all snapshots, names as lost.
///
/// New packs are durable and in this device's newest head when this returns `Ok`; nothing that does not have the right
/// keyed hash gets into them. Files that are gone or cannot be read are no error.
pub fn regain(
    vault: &Vault,
    found: &VerifyResult,
    holders: &[PeerAddress],
    monitor: &Monitor,
) -> Result<RegainResult, EngineError> {
    // What it moves stays needed until the head that lists the new packs is written.
    let _at_work = vault.store.enter();
    let mut lost = lost_chunks(found);
    let damaged = own_numbers(&vault.store, &found.damages)?;
    let ids: Vec<ChunkId> = lost.iter().copied().collect();
    let places: Vec<Option<ChunkPlace>> = vault.store.lookup_many(&ids)?;
    // Below a tree that cannot be read, nobody knows what is needed.
    let all_known = found.snapshots.iter().all(|snapshot| snapshot.broken.is_none())
        && places.iter().all(|place| place.is_some_and(|place| place.kind == Kind::Data));
    let mut from: HashSet<PackNumber> = damaged.keys().copied().collect();
    from.extend(places.iter().flatten().map(|place| place.pack));
    let mut sower = Sower::new(vault, from)?;
    monitor.enter("reading files again");
    for_each_file(vault, &mut lost, monitor, &mut |lost, path, node, gaps| {
        let Ok(file) = open_file(path) else { return Ok(()) };
        sower.read_gaps(lost, &file, gaps)?;
        let listed: HashSet<ChunkId> = lists(node).filter(|id| lost.contains(id)).collect();
        if listed.is_empty() && gaps.iter().all(|gap| !lost.contains(&gap.id)) {
            return Ok(());
        }
        sower.cut_again(lost, &file, &listed, monitor)
    })?;
    let mut result = RegainResult { chunks: sower.chunks, bytes: sower.bytes, set_aside: Vec::new() };
    let hopeless: HashSet<PackNumber> = ids
        .iter()
        .zip(&places)
        .filter(|(id, _)| lost.contains(id))
        .filter_map(|(_, p)| p.map(|p| p.pack))
        .collect();
    let unneeded: BTreeMap<PackNumber, PackId> =
        damaged.into_iter().filter(|(pack, _)| all_known && !hopeless.contains(pack)).collect();
    sower.move_readable(&unneeded, monitor)?;
    let successors = sower.finish_all()?;
    if !unneeded.is_empty() {
        let aside: Vec<(PackNumber, Vec<PackNumber>)> =
            unneeded.keys().map(|pack| (*pack, successors.clone())).collect();
        vault.store.set_aside(&aside, vault.clock.now())?;
    }
    if !(successors.is_empty() && unneeded.is_empty()) {
        publish_next_head(vault, &[], holders)?;
    }
    // Only now: as long as a head lists them, they are in their place.
    unneeded.values().try_for_each(|id| vault.store.quarantine_pack(*id))?;
    result.set_aside = unneeded.into_values().collect();
    Ok(result)
}

/// A lost chunk's place in a file.
struct Gap {
    id: ChunkId,
    offset: u64,
    length: u64,
}

/// Gets what is still lost, a file's path and record, and where in it lost chunks were.
type EachFile<'a> =
    dyn FnMut(&mut HashSet<ChunkId>, &Path, &wire::Node, &[Gap]) -> Result<(), EngineError> + 'a;

/// Calls `each` for every file that needs a lost chunk, of the newest snapshots first, until nothing is lost any more.
fn for_each_file(
    vault: &Vault,
    lost: &mut HashSet<ChunkId>,
    monitor: &Monitor,
    each: &mut EachFile<'_>,
) -> Result<(), EngineError> {
    let view = VaultView::load(vault)?;
    let mut reader = ChunkReader::new(vault, None, monitor);
    let mut seen = SeenTrees::default();
    for snapshot in view.snapshots.iter().rev() {
        if lost.is_empty() {
            break;
        }
        files_of(&mut reader, snapshot, lost, &mut seen, monitor, each)?;
    }
    Ok(())
}

fn files_of(
    reader: &mut ChunkReader<'_>,
    snapshot: &Snapshot,
    lost: &mut HashSet<ChunkId>,
    seen: &mut SeenTrees,
    monitor: &Monitor,
    each: &mut EachFile<'_>,
) -> Result<(), EngineError> {
    let mut stack = vec![(PathBuf::from("/"), Cursor::new(snapshot.tree))];
    while let Some((dir, cursor)) = stack.last_mut() {
        monitor.go_on()?;
        // What a directory that cannot be read had in it, nobody knows.
        let Some(node) = cursor.next(reader).unwrap_or(None) else {
            stack.pop();
            continue;
        };
        if lost.is_empty() {
            return Ok(());
        }
        let path = dir.join(std::ffi::OsStr::from_bytes(&node.name));
        if node.r#type() == NodeType::NodeFile {
            let gaps = gaps_of(reader, &node, lost);
            if !gaps.is_empty() || lists(&node).any(|id| lost.contains(&id)) {
                each(lost, &path, &node, &gaps)?;
            }
        }
        if let Some(below) = tree_of(&node)
            && stack.len() < limit::DIRECTORY_DEPTH_MAX
            && seen.insert(place_key(&path, below))
        {
            stack.push((path, Cursor::new(below)));
        }
    }
    Ok(())
}

/// The same tree elsewhere leads to other files.
fn place_key(path: &Path, tree: ChunkId) -> u128 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(tree.as_bytes()).update(path.as_os_str().as_bytes());
    let hash = hasher.finalize();
    let (half, _) = hash.as_bytes().split_first_chunk::<16>().expect("a hash has 32 bytes");
    u128::from_le_bytes(*half)
}

/// Chunks that hold the piece lists of a file.
fn lists(node: &wire::Node) -> impl Iterator<Item = ChunkId> {
    node.content_lists.iter().filter_map(|list| ChunkId::try_from(list.chunk.as_slice()).ok())
}

/// Where lost chunks were in a file. What only a list tells that cannot be read is not known.
fn gaps_of(reader: &mut ChunkReader<'_>, node: &wire::Node, lost: &HashSet<ChunkId>) -> Vec<Gap> {
    let (mut gaps, mut offset) = (Vec::new(), 0u64);
    let mut note = |pieces: &[wire::Piece], mut offset: u64| {
        for piece in pieces {
            if let Ok(id) = ChunkId::try_from(piece.chunk.as_slice())
                && lost.contains(&id)
            {
                gaps.push(Gap { id, offset, length: piece.length });
            }
            offset = offset.saturating_add(piece.length);
        }
    };
    match node_content(node) {
        Content::Pieces(pieces) => note(pieces, 0),
        Content::Lists(parts) => {
            for part in parts {
                if let Ok(id) = ChunkId::try_from(part.chunk.as_slice())
                    && let Ok(bytes) = reader.read(Kind::Tree, id)
                    && let Ok(pieces) = decode_pieces(bytes)
                {
                    note(&pieces, offset);
                }
                offset = offset.saturating_add(part.length);
            }
        }
    }
    gaps
}

/// Gets each chunk of a file that is cut again, and what is still lost.
type EachChunk<'s, 'a> =
    dyn FnMut(&[u8], &mut Sower<'s>, &mut HashSet<ChunkId>) -> Result<(), EngineError> + 'a;

/// Seals what was found into new packs.
struct Sower<'a> {
    vault: &'a Vault,
    cutter: Cutter,
    sealer: Sealer,
    /// For data and for trees.
    lanes: [OpenPack; 2],
    /// Packs whose chunks are found in the new ones from now on.
    from: HashSet<PackNumber>,
    /// New packs.
    made: Vec<PackNumber>,
    /// What files gave back.
    chunks: u64,
    bytes: u64,
    buffer: Vec<u8>,
    sealed: Vec<u8>,
}

impl<'a> Sower<'a> {
    fn new(vault: &'a Vault, from: HashSet<PackNumber>) -> Result<Self, EngineError> {
        let options = vault.options();
        let epoch = vault.keyring.vault.newest_epoch();
        Ok(Self {
            vault,
            cutter: vault.cutter(&options),
            sealer: Sealer::new(options.level)?,
            lanes: [OpenPack::new(epoch), OpenPack::new(epoch)],
            from,
            made: Vec::new(),
            chunks: 0,
            bytes: 0,
            buffer: Vec::new(),
            sealed: Vec::new(),
        })
    }

    /// Looks where lost chunks were.
    fn read_gaps(
        &mut self,
        lost: &mut HashSet<ChunkId>,
        file: &SourceFile,
        gaps: &[Gap],
    ) -> Result<(), EngineError> {
        for gap in gaps.iter().filter(|gap| gap.length <= limit::CHUNK_BYTES_MAX as u64) {
            if !lost.contains(&gap.id) {
                continue;
            }
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.resize(gap.length as usize, 0);
            let read = file.read_at(gap.offset, &mut buffer);
            let whole = read.is_ok_and(|read| read == buffer.len());
            let kept = if whole { self.offer(lost, Kind::Data, &buffer) } else { Ok(()) };
            self.buffer = buffer;
            kept?;
        }
        Ok(())
    }

    /// Cuts a file as a backup does, in case its content moved, and for those of its piece lists that are `listed`.
    fn cut_again(
        &mut self,
        lost: &mut HashSet<ChunkId>,
        file: &SourceFile,
        listed: &HashSet<ChunkId>,
        monitor: &Monitor,
    ) -> Result<(), EngineError> {
        let mut writer = PieceWriter::default();
        let mut found: Vec<Vec<u8>> = Vec::new();
        let vault = self.vault;
        let keys = &vault.keyring.vault;
        let mut seal = |bytes: &[u8]| {
            let id = keys.chunk_id(Kind::Tree, bytes);
            if listed.contains(&id) {
                found.push(bytes.to_vec());
            }
            Ok::<ChunkId, TreeError>(id)
        };
        for segment in file.segments() {
            match segment {
                Segment::Hole { len, .. } => writer.hole(len, &mut seal)?,
                Segment::Data { offset, len } => {
                    let mut cut = |plain: &[u8], sower: &mut Self, lost: &mut HashSet<ChunkId>| {
                        let id = keys.chunk_id(Kind::Data, plain);
                        writer.data(id, plain.len() as u64, &mut seal)?;
                        sower.offer(lost, Kind::Data, plain)
                    };
                    if !self.cut_run(lost, file, (offset, len), monitor, &mut cut)? {
                        return Ok(());
                    }
                }
            }
        }
        writer.finish(&mut wire::Node::default(), &mut seal)?;
        found.iter().try_for_each(|list| self.offer(lost, Kind::Tree, list))
    }

    /// Cuts one run of data; `false` when the file could not be read.
    fn cut_run(
        &mut self,
        lost: &mut HashSet<ChunkId>,
        file: &SourceFile,
        (offset, length): (u64, u64),
        monitor: &Monitor,
        cut: &mut EachChunk<'a, '_>,
    ) -> Result<bool, EngineError> {
        let look_ahead = self.cutter.sizes().max();
        let (mut buffer, mut done) = (Vec::new(), 0u64);
        loop {
            monitor.go_on()?;
            let want = (BATCH_BYTES + look_ahead - buffer.len())
                .min(usize::try_from(length - done).unwrap_or(usize::MAX));
            let Ok(read) = file.append_to(&mut buffer, offset + done, want) else { return Ok(false) };
            done += read as u64;
            let ended = done == length || read < want;
            let (mut at, enough) = (0, if ended { 1 } else { look_ahead });
            while buffer.len() - at >= enough {
                let end = at + self.cutter.cut(&buffer[at..]);
                cut(&buffer[at..end], self, lost)?;
                at = end;
            }
            buffer.drain(..at);
            if ended {
                return Ok(true);
            }
        }
    }

    /// Keeps what turns out to be a lost chunk.
    fn offer(&mut self, lost: &mut HashSet<ChunkId>, kind: Kind, plain: &[u8]) -> Result<(), EngineError> {
        let id = self.vault.keyring.vault.chunk_id(kind, plain);
        if !lost.remove(&id) {
            return Ok(());
        }
        self.chunks += 1;
        self.bytes += plain.len() as u64;
        self.seal(kind, id, plain)
    }

    fn seal(&mut self, kind: Kind, id: ChunkId, plain: &[u8]) -> Result<(), EngineError> {
        let lane = usize::from(kind == Kind::Tree);
        let keys = &self.vault.keyring.vault;
        self.sealed.clear();
        // Should the pack be full, it is sealed with the salt of the one before: any random one will do.
        let made = self.sealer.seal(keys, &self.lanes[lane].salt(), kind, id, plain, &mut self.sealed)?;
        if self.lanes[lane].is_full_for(self.sealed.len(), limit::PACK_BYTES_MAX) {
            self.finish(lane)?;
        }
        let open = &mut self.lanes[lane];
        open.push(kind, made.codec, id, plain.len() as u32, &self.sealed);
        open.drain(&self.vault.store, DRAIN_BYTES)
    }

    /// Moves what can still be read of packs that are given up.
    fn move_readable(
        &mut self,
        packs: &BTreeMap<PackNumber, PackId>,
        monitor: &Monitor,
    ) -> Result<(), EngineError> {
        let numbers: Vec<PackNumber> = packs.keys().copied().collect();
        let mut reader = ChunkReader::new(self.vault, None, monitor);
        for some in numbers.chunks(limit::REGAIN_PACKS_AT_ONCE) {
            let mut chunks = self.vault.store.chunks_in(&some.iter().copied().collect())?;
            chunks.sort_unstable_by_key(|(_, place)| (place.pack, place.offset));
            for (id, place) in chunks {
                monitor.go_on()?;
                if let Ok(plain) = reader.read(place.kind, id) {
                    self.seal(place.kind, id, plain)?;
                }
            }
        }
        Ok(())
    }

    /// Publishes an open pack and lets its chunks be found there.
    fn finish(&mut self, lane: usize) -> Result<(), EngineError> {
        if self.lanes[lane].is_empty() {
            return Ok(());
        }
        let (store, keys) = (&self.vault.store, &self.vault.keyring.vault);
        let open = std::mem::replace(&mut self.lanes[lane], OpenPack::new(keys.newest_epoch()));
        let new = open.finish(store, keys)?.publish(store)?;
        let indexed = store.replace_chunks(&[new], &self.from)?;
        self.made.extend(indexed.iter().map(|pack| pack.number));
        Ok(())
    }

    fn finish_all(mut self) -> Result<Vec<PackNumber>, EngineError> {
        self.finish(0)?;
        self.finish(1)?;
        Ok(self.made)
    }
}
