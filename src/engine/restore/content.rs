//! Large files: opened by the walk, written in parts by all workers, finished by whoever does the last part.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::links::FirstLink;
use super::making::OpenDir;
use super::tally::{Shared, count};
use crate::base::{ChunkId, Code, Coded, limit};
use crate::crypto::Kind;
use crate::engine::error::EngineError;
use crate::engine::monitor::Monitor;
use crate::engine::reader::ChunkReader;
use crate::fs::{FileWriter, FsError};
use crate::snapshot::TreeError;
use crate::wire;

/// Plaintext that a worker collects of a large file before it writes it, in bytes; one chunk more at most.
pub(in crate::engine) const WINDOW_BYTES: usize = limit::MIB;

/// A file under way.
pub(super) struct OpenFile<'a> {
    pub(super) node: wire::Node,
    writer: RwLock<Option<FileWriter>>,
    path: PathBuf,
    /// Held so that the directory's own times are set after this file is in place.
    _dir: Arc<OpenDir<'a>>,
    /// Present when further names may be linked to it.
    first: Option<Arc<FirstLink<'a>>>,
    replaces: bool,
    /// Jobs not done yet, and one for the walk while it still adds some.
    left: AtomicUsize,
    broken: AtomicBool,
}

/// One chunk's place in a file.
pub(super) struct Piece {
    pub(super) offset: u64,
    pub(super) id: ChunkId,
    pub(super) length: u64,
}

/// A job: pieces of one file. Counts as one of the file's jobs.
pub(super) struct Part<'a> {
    pub(super) file: Arc<OpenFile<'a>>,
    pub(super) pieces: Vec<Piece>,
}

impl<'a> OpenFile<'a> {
    pub(super) fn new(
        writer: FileWriter,
        node: wire::Node,
        path: PathBuf,
        dir: Arc<OpenDir<'a>>,
        first: Option<Arc<FirstLink<'a>>>,
        replaces: bool,
    ) -> Self {
        Self {
            node,
            writer: RwLock::new(Some(writer)),
            path,
            _dir: dir,
            first,
            replaces,
            left: AtomicUsize::new(1),
            broken: AtomicBool::new(false),
        }
    }

    /// One more job.
    pub(super) fn part(self: &Arc<Self>, pieces: Vec<Piece>) -> Part<'a> {
        self.left.fetch_add(1, Ordering::AcqRel);
        Part { file: self.clone(), pieces }
    }

    /// Nothing is to be at that place of the file.
    pub(super) fn hole(&self, offset: u64, length: u64, shared: &Shared<'_>) -> Result<(), EngineError> {
        self.write(|writer| writer.clear(offset, length))?;
        Monitor::add(&shared.monitor.bytes_done, length.min(self.node.size));
        Ok(())
    }

    /// The file cannot be restored: told once.
    pub(super) fn break_off(&self, shared: &Shared<'_>, error: EngineError) {
        if !self.broken.swap(true, Ordering::AcqRel) {
            if let Some(first) = &self.first {
                first.settle(Err(error.code()));
            }
            shared.settle(&self.path, error);
        }
    }

    fn write<T>(&self, work: impl FnOnce(&FileWriter) -> Result<T, FsError>) -> Result<T, EngineError> {
        let writer = self.writer.read().unwrap_or_else(PoisonError::into_inner);
        Ok(work(writer.as_ref().ok_or(EngineError::Stopped)?)?)
    }

    fn finish(&self, shared: &Shared<'_>) -> Result<(), EngineError> {
        let writer = self.writer.write().unwrap_or_else(PoisonError::into_inner).take();
        writer.ok_or(EngineError::Stopped)?.finish(&self.node)?;
        if let Some(first) = &self.first {
            first.settle(Ok(()));
        }
        count(&shared.tally.files);
        if self.replaces {
            count(&shared.tally.overwritten);
        }
        if shared.verify {
            count(&shared.tally.verified);
        }
        count(&shared.monitor.files_done);
        Ok(())
    }
}

impl Drop for OpenFile<'_> {
    fn drop(&mut self) {
        if let Some(first) = &self.first {
            // Without effect when it was finished.
            first.settle(Err(Code::Cancelled));
        }
    }
}

/// Writes a part, and finishes the file after its last one.
pub(super) fn write_part(
    reader: &mut ChunkReader<'_>,
    shared: &Shared<'_>,
    window: &mut Window,
    part: Part<'_>,
) {
    let Part { file, pieces } = part;
    if !file.broken.load(Ordering::Acquire)
        && let Err(error) = write_pieces(reader, shared, window, &file, pieces)
    {
        file.break_off(shared, error);
    }
    if file.left.fetch_sub(1, Ordering::AcqRel) == 1
        && !file.broken.load(Ordering::Acquire)
        && let Err(error) = file.finish(shared)
    {
        file.break_off(shared, error);
    }
}

fn write_pieces(
    reader: &mut ChunkReader<'_>,
    shared: &Shared<'_>,
    window: &mut Window,
    file: &OpenFile<'_>,
    mut pieces: Vec<Piece>,
) -> Result<(), EngineError> {
    if file.write(|writer| Ok(writer.prior_bytes()))? > 0 {
        pieces = missing(reader, shared, file, pieces)?;
    }
    let mut rest = pieces.as_slice();
    while !rest.is_empty() {
        let (group, more) = rest.split_at(group_of(rest));
        rest = more;
        window.read(reader, shared, group)?;
        window.write(shared, file, group[0].offset)?;
        Monitor::add(&shared.tally.bytes, window.plain.len() as u64);
        Monitor::add(&shared.monitor.bytes_done, window.plain.len() as u64);
    }
    Ok(())
}

/// How many pieces, at least one and all without gaps, are written at one time.
fn group_of(pieces: &[Piece]) -> usize {
    let mut end = pieces[0].offset;
    let most = end.saturating_add(WINDOW_BYTES as u64);
    let further = pieces.iter().take_while(|piece| {
        let follows = piece.offset == end && end < most;
        end = end.saturating_add(piece.length);
        follows
    });
    further.count()
}

/// Consecutive plaintext of a large file on its way to the disk. Written together: with every chunk written on its own the
/// workers spend a third of their time waiting for each other at the file, spinning.
#[derive(Default)]
pub(super) struct Window {
    plain: Vec<u8>,
    /// To read back what was written.
    scratch: Vec<u8>,
}

impl Window {
    /// Reads the plaintext of pieces that follow each other.
    fn read(
        &mut self,
        reader: &mut ChunkReader<'_>,
        shared: &Shared<'_>,
        pieces: &[Piece],
    ) -> Result<(), EngineError> {
        let (mut places, mut end) = (Vec::with_capacity(pieces.len()), 0);
        for piece in pieces {
            let length =
                usize::try_from(piece.length).ok().filter(|length| *length <= limit::CHUNK_BYTES_MAX);
            let place = end..end + length.ok_or(TreeError::Shape)?;
            end = place.end;
            places.push(place);
        }
        self.plain.resize(end, 0);
        let ids: Vec<ChunkId> = pieces.iter().map(|piece| piece.id).collect();
        reader.read_many(Kind::Data, &ids, |at, plain| {
            shared.go_on()?;
            let (plain, place) = (plain?, &mut self.plain[places[at].clone()]);
            if plain.len() != place.len() {
                // It would overwrite its neighbours or leave a gap.
                return Err(TreeError::Shape.into());
            }
            place.copy_from_slice(plain);
            Ok(())
        })
    }

    fn write(&mut self, shared: &Shared<'_>, file: &OpenFile<'_>, offset: u64) -> Result<(), EngineError> {
        file.write(|writer| {
            writer.write_at(offset, &self.plain)?;
            if shared.verify { writer.check(offset, &self.plain, &mut self.scratch) } else { Ok(()) }
        })
    }
}

/// The pieces that are not in their places yet, in a file that had content before.
fn missing(
    reader: &ChunkReader<'_>,
    shared: &Shared<'_>,
    file: &OpenFile<'_>,
    pieces: Vec<Piece>,
) -> Result<Vec<Piece>, EngineError> {
    let (mut wanted, mut there) = (Vec::new(), Vec::new());
    for piece in pieces {
        shared.go_on()?;
        let length = usize::try_from(piece.length).unwrap_or(usize::MAX);
        if length > limit::CHUNK_BYTES_MAX {
            return Err(TreeError::Shape.into());
        }
        there.resize(length, 0);
        let read = file.write(|writer| writer.read_at(piece.offset, &mut there))?;
        if read == length && reader.is_plaintext_of(piece.id, &there) {
            Monitor::add(&shared.monitor.bytes_done, piece.length);
        } else {
            wanted.push(piece);
        }
    }
    Ok(wanted)
}
