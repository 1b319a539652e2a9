//! Small entries, many at a time: their chunks are read together in the order in which they lie in packs, then the
//! files are written, directory by directory.

use std::sync::{Arc, MutexGuard, PoisonError};

use prost::Message;

use super::making::{OpenDir, child_path, chunk_of, special};
use super::tally::{Shared, count};
use crate::base::ChunkId;
use crate::crypto::Kind;
use crate::engine::error::EngineError;
use crate::engine::monitor::Monitor;
use crate::engine::reader::ChunkReader;
use crate::fs::{Fate, FileWriter, FsError};
use crate::snapshot::TreeError;
use crate::store::StoreError;
use crate::wire::{self, NodeType};

/// The largest file that goes into a batch, in bytes.
pub(super) const SMALL_BYTES_MAX: u64 = 512 << 10;
/// Plaintext in one batch, with one file more at most: half of what `budget::restore_workers` counts for it.
const BATCH_BYTES: u64 = 512 << 10;
/// Entries in one batch.
const ENTRIES_MAX: usize = 256;
/// Directories in one batch: each is open until all of it is done.
const DIRECTORIES_MAX: usize = 32;
/// Records of entries in one batch, in bytes; one entry more at most.
const RECORDS_BYTES_MAX: usize = 256 << 10;

/// A job: small files and what has no content.
#[derive(Default)]
pub(super) struct Batch<'a> {
    entries: Vec<(Arc<OpenDir<'a>>, wire::Node)>,
    directories: usize,
    plain_bytes: u64,
    record_bytes: usize,
}

impl<'a> Batch<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The chunks of its files.
    pub(super) fn chunks(&self) -> impl Iterator<Item = ChunkId> {
        self.entries.iter().flat_map(|(_, node)| &node.content).filter_map(chunk_of)
    }

    /// Adds an entry; whether the batch is full now.
    pub(super) fn add(&mut self, dir: &Arc<OpenDir<'a>>, node: wire::Node) -> bool {
        if self.entries.last().is_none_or(|(last, _)| !Arc::ptr_eq(last, dir)) {
            self.directories += 1;
        }
        self.plain_bytes += node.size.min(SMALL_BYTES_MAX);
        self.record_bytes += node.encoded_len();
        self.entries.push((dir.clone(), node));
        self.plain_bytes >= BATCH_BYTES
            || self.record_bytes >= RECORDS_BYTES_MAX
            || self.entries.len() >= ENTRIES_MAX
            || self.directories >= DIRECTORIES_MAX
    }
}

/// A file of a batch that is to be written.
struct Wanted {
    /// Which entry.
    entry: usize,
    replaces: bool,
    /// Its pieces, in the list of all.
    pieces: std::ops::Range<usize>,
    failed: Option<EngineError>,
}

/// One chunk's place in its file and in memory.
struct Place {
    /// In the list of wanted files.
    file: usize,
    id: ChunkId,
    offset: u64,
    length: usize,
    at: usize,
}

/// A worker's memory for batches, used again.
#[derive(Default)]
pub(super) struct Scribe {
    /// Plaintext of all files of one batch.
    plain: Vec<u8>,
    scratch: Vec<u8>,
    wanted: Vec<Wanted>,
    pieces: Vec<Place>,
}

impl Scribe {
    /// Restores a batch.
    pub(super) fn write(&mut self, reader: &mut ChunkReader<'_>, shared: &Shared<'_>, batch: Batch<'_>) {
        self.wanted.clear();
        self.pieces.clear();
        let mut bytes = 0;
        for (entry, (dir, node)) in batch.entries.iter().enumerate() {
            if node.r#type() != NodeType::NodeFile {
                let _turn = take_turn(dir);
                special(shared, dir, node, &child_path(&dir.path, node));
                continue;
            }
            if let Err(error) = self.plan(reader, shared, dir, node, entry, &mut bytes) {
                shared.settle(&child_path(&dir.path, node), error);
            }
        }
        self.plain.resize(bytes, 0);
        if let Err(error) = self.read(reader, shared) {
            self.give_up(shared, &batch, error);
        } else {
            self.put(shared, &batch);
        }
    }

    /// Nothing can be read: cancelled, or the index is damaged, which is every file's problem.
    fn give_up(&mut self, shared: &Shared<'_>, batch: &Batch<'_>, error: EngineError) {
        let stopped = shared.go_on().is_err();
        let mut error = Some(error);
        for wanted in self.wanted.drain(..) {
            let (dir, node) = &batch.entries[wanted.entry];
            let again = || StoreError::IndexDamaged("it cannot be read".to_owned()).into();
            shared.settle(&child_path(&dir.path, node), error.take().unwrap_or_else(again));
            if stopped {
                return;
            }
        }
    }

    /// Decides about one file, and lists its pieces if it is to be written.
    fn plan(
        &mut self,
        reader: &ChunkReader<'_>,
        shared: &Shared<'_>,
        dir: &OpenDir<'_>,
        node: &wire::Node,
        entry: usize,
        bytes: &mut usize,
    ) -> Result<(), EngineError> {
        let replaces = match dir.dir.fate(node)? {
            Fate::Skip(_) => {
                shared.skipped(&child_path(&dir.path, node), node);
                return Ok(());
            }
            Fate::Dress if dir.dir.dress_file(node)? => {
                shared.skipped(&child_path(&dir.path, node), node);
                return Ok(());
            }
            Fate::New => false,
            Fate::Replace | Fate::Dress => true,
        };
        if replaces && self.is_same(reader, shared, dir, node)? {
            return Ok(());
        }
        let (first, file, mut offset, mut at) = (self.pieces.len(), self.wanted.len(), 0u64, *bytes);
        let listed = node.content.iter().try_for_each(|piece| {
            let begin = offset;
            offset = offset.checked_add(piece.length).filter(|end| *end <= node.size)?;
            if piece.chunk.is_empty() {
                return Some(());
            }
            let length = usize::try_from(piece.length).ok()?;
            self.pieces.push(Place { file, id: chunk_of(piece)?, offset: begin, length, at });
            at += length;
            Some(())
        });
        if listed.is_none() || offset != node.size {
            self.pieces.truncate(first);
            return Err(TreeError::Shape.into());
        }
        *bytes = at;
        self.wanted.push(Wanted { entry, replaces, pieces: first..self.pieces.len(), failed: None });
        Ok(())
    }

    /// Whether the file that would be replaced has the content already; then it only gets its metadata.
    fn is_same(
        &mut self,
        reader: &ChunkReader<'_>,
        shared: &Shared<'_>,
        dir: &OpenDir<'_>,
        node: &wire::Node,
    ) -> Result<bool, EngineError> {
        let Some(twin) = dir.dir.open_twin(node) else { return Ok(false) };
        let mut offset = 0u64;
        for piece in &node.content {
            // A hole is compared as a file of its own size would be: written anew.
            let Some(id) = chunk_of(piece) else { return Ok(false) };
            let end = offset.checked_add(piece.length).filter(|end| *end <= node.size);
            let (Some(end), Ok(length)) = (end, usize::try_from(piece.length)) else { return Ok(false) };
            self.scratch.resize(length, 0);
            if twin.read_at(offset, &mut self.scratch)? != length
                || !reader.is_plaintext_of(id, &self.scratch)
            {
                return Ok(false);
            }
            offset = end;
        }
        if offset != node.size {
            return Ok(false);
        }
        twin.finish(node)?;
        shared.skipped(&child_path(&dir.path, node), node);
        Ok(true)
    }

    /// Reads all pieces into memory.
    fn read(&mut self, reader: &mut ChunkReader<'_>, shared: &Shared<'_>) -> Result<(), EngineError> {
        let Self { plain, wanted, pieces, .. } = self;
        let ids: Vec<ChunkId> = pieces.iter().map(|piece| piece.id).collect();
        reader.read_many(Kind::Data, &ids, |index, read| {
            shared.go_on()?;
            let piece = &pieces[index];
            let place = &mut plain[piece.at..piece.at + piece.length];
            let failed = match read {
                Ok(read) if read.len() == place.len() => {
                    place.copy_from_slice(read);
                    return Ok(());
                }
                Ok(_) => TreeError::Shape.into(),
                Err(error) => error,
            };
            wanted[piece.file].failed.get_or_insert(failed);
            Ok(())
        })
    }

    /// Writes the files that were read.
    fn put(&mut self, shared: &Shared<'_>, batch: &Batch<'_>) {
        let mut turn: Option<(&Arc<OpenDir<'_>>, MutexGuard<'_, ()>)> = None;
        for mut wanted in std::mem::take(&mut self.wanted) {
            let (dir, node) = &batch.entries[wanted.entry];
            let path = || child_path(&dir.path, node);
            if let Some(error) = wanted.failed.take() {
                shared.settle(&path(), error);
                continue;
            }
            if shared.go_on().is_err() {
                return;
            }
            if turn.as_ref().is_none_or(|(held, _)| !Arc::ptr_eq(held, dir)) {
                // Let go of the one before asking for the next.
                turn = None;
                turn.get_or_insert_with(|| (dir, take_turn(dir)));
            }
            match self.put_one(shared, dir, node, &wanted) {
                Ok(()) => note_written(shared, node, &wanted),
                Err(error) => shared.settle(&path(), error),
            }
        }
    }

    fn put_one(
        &mut self,
        shared: &Shared<'_>,
        dir: &OpenDir<'_>,
        node: &wire::Node,
        wanted: &Wanted,
    ) -> Result<(), FsError> {
        let writer = dir.dir.create_file(node)?;
        let pieces = &self.pieces[wanted.pieces.clone()];
        // Neighbours in the file are neighbours in memory.
        for run in pieces.chunk_by(|a, b| a.offset + a.length as u64 == b.offset) {
            let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
            let bytes = &self.plain[first.at..last.at + last.length];
            write_run(shared, &writer, first.offset, bytes, &mut self.scratch)?;
        }
        writer.finish(node)
    }
}

fn write_run(
    shared: &Shared<'_>,
    writer: &FileWriter,
    offset: u64,
    bytes: &[u8],
    scratch: &mut Vec<u8>,
) -> Result<(), FsError> {
    writer.write_at(offset, bytes)?;
    Monitor::add(&shared.tally.bytes, bytes.len() as u64);
    if shared.verify { writer.check(offset, bytes, scratch) } else { Ok(()) }
}

fn note_written(shared: &Shared<'_>, node: &wire::Node, wanted: &Wanted) {
    count(&shared.tally.files);
    if wanted.replaces {
        count(&shared.tally.overwritten);
    }
    if shared.verify {
        count(&shared.tally.verified);
    }
    shared.progressed(node);
}

fn take_turn<'d>(dir: &'d OpenDir<'_>) -> MutexGuard<'d, ()> {
    dir.turn.lock().unwrap_or_else(PoisonError::into_inner)
}
