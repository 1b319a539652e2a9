//! Reading files in walk order and cutting them into batches of chunks.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crossbeam_channel::{Receiver, Sender, TryRecvError};

use crate::base::limit;
use crate::chunker::Cutter;
use crate::engine::budget::BATCH_BYTES;
use crate::engine::error::EngineError;
use crate::engine::monitor::Monitor;
use crate::fs::{FileStamp, Segment, SourceFile, open_file};
use crate::wire;

/// Entries in one batch: keeps batches of empty files from growing without end.
const BATCH_ITEMS_MAX: usize = 4096;
/// Files that are open before their turn.
pub(super) const AHEAD_MAX: usize = 32;
/// What is fetched of each before its turn, in bytes.
const AHEAD_BYTES: u64 = limit::MIB as u64;
/// How often a file that changes while it is read is read again.
const RETRIES: u32 = 2;

/// A file to be read.
pub(super) struct FileJob {
    pub(super) path: PathBuf,
    /// As the walk saw it.
    pub(super) stamp: FileStamp,
    /// Where the content comes from when it is not a file.
    pub(super) stream: Option<Box<dyn Read + Send>>,
}

/// A job whose turn comes soon.
pub(super) struct ReadyJob {
    job: FileJob,
    /// Its file, unless a stream takes that place.
    file: Option<io::Result<SourceFile>>,
}

/// Opens files ahead of their turn and has the kernel fetch their beginnings: a disk that is asked for many files at once
/// delivers several times as much as one that is asked for one after the other.
pub(super) fn open_ahead(jobs: &Receiver<FileJob>, ready: &Sender<ReadyJob>) -> Result<(), EngineError> {
    for job in jobs {
        let file = job.stream.is_none().then(|| open_file(&job.path));
        if let Some(Ok(file)) = &file {
            file.fetch_ahead(AHEAD_BYTES);
        }
        ready.send(ReadyJob { job, file }).map_err(|_| EngineError::Stopped)?;
    }
    Ok(())
}

/// One step of a file's content, in order.
pub(super) enum Item {
    /// Plaintext of one chunk: a range of the batch's buffer.
    Chunk { start: usize, end: usize },
    /// Zeros that take no room on the disk.
    Hole(u64),
    /// The file changed: forget its content so far, it comes again.
    Again,
    /// The file is complete.
    End(FileEnd),
}

/// How reading a file ended.
#[derive(Clone)]
pub(super) enum FileEnd {
    /// At its end.
    Read {
        /// Content read, in bytes.
        size: u64,
        /// It changed while it was read, each time.
        inconsistent: bool,
    },
    /// It is gone since its directory was listed, as if it had gone before.
    Gone,
    /// It could not be read to its end, and why.
    Failed(String),
}

/// Consecutive items with their plaintext.
pub(super) struct Batch {
    pub(super) number: u64,
    pub(super) buffer: Vec<u8>,
    pub(super) items: Vec<Item>,
}

/// Cuts files into batches. One buffer circulates for each token.
pub(super) struct Feeder<'a> {
    cutter: &'a Cutter,
    monitor: &'a Monitor,
    batches: Sender<Batch>,
    /// Empty buffers; taking one is the right to have another batch under way.
    buffers: Receiver<Vec<u8>>,
    current: Batch,
    /// End of plaintext already cut in the current buffer.
    cut: usize,
}

/// What becomes of a file that could not be read; `None` when it is there again. One that is gone is no fault as long as its
/// directory is there: else all of that may have another path now.
fn missed(path: &Path, error: io::Error) -> Option<FileEnd> {
    let is_gone =
        |path: &Path| path.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    if error.kind() != io::ErrorKind::NotFound {
        return Some(FileEnd::Failed(error.to_string()));
    }
    if !is_gone(path) {
        return None;
    }
    Some(match path.parent() {
        Some(directory) if is_gone(directory) => {
            FileEnd::Failed("its directory was moved or deleted meanwhile".to_owned())
        }
        _ => FileEnd::Gone,
    })
}

impl<'a> Feeder<'a> {
    pub(super) fn new(
        cutter: &'a Cutter,
        monitor: &'a Monitor,
        batches: Sender<Batch>,
        buffers: Receiver<Vec<u8>>,
    ) -> Result<Self, EngineError> {
        let buffer = buffers.recv().map_err(|_| EngineError::Stopped)?;
        let current = Batch { number: 0, buffer, items: Vec::new() };
        Ok(Self { cutter, monitor, batches, buffers, current, cut: 0 })
    }

    /// Reads all files that come; flushes whenever the walk is slower than the reading.
    pub(super) fn run(mut self, jobs: &Receiver<ReadyJob>) -> Result<(), EngineError> {
        loop {
            let ReadyJob { mut job, file } = match jobs.try_recv() {
                Ok(ready) => ready,
                Err(TryRecvError::Empty) => {
                    // Nobody may wait for a batch that waits for the next file.
                    self.flush()?;
                    match jobs.recv() {
                        Ok(ready) => ready,
                        Err(_) => return Ok(()),
                    }
                }
                Err(TryRecvError::Disconnected) => return self.flush(),
            };
            self.monitor.go_on()?;
            match job.stream.take() {
                Some(stream) => self.stream(stream)?,
                None => self.file(&job, file)?,
            }
        }
    }

    fn file(&mut self, job: &FileJob, mut opened: Option<io::Result<SourceFile>>) -> Result<(), EngineError> {
        let mut expected = job.stamp.clone();
        for attempt in 0.. {
            let file = opened.take().unwrap_or_else(|| open_file(&job.path));
            let (size, before, after) = match self.read_once(file)? {
                Ok(read) => read,
                Err(error) if attempt >= RETRIES => {
                    return self.item(Item::End(FileEnd::Failed(error.to_string())));
                }
                Err(error) => match missed(&job.path, error) {
                    Some(end) => return self.item(Item::End(end)),
                    None => {
                        self.item(Item::Again)?;
                        continue;
                    }
                },
            };
            // Against what the walk saw as well: the node's metadata comes from there.
            let steady = before == after && (attempt > 0 || same_content(&before, &expected));
            if steady || attempt >= RETRIES {
                let inconsistent = !steady;
                return self.item(Item::End(FileEnd::Read { size, inconsistent }));
            }
            expected = after;
            self.item(Item::Again)?;
        }
        Ok(())
    }

    /// Reads the file once: bytes of it, stamp before, stamp after.
    fn read_once(
        &mut self,
        file: io::Result<SourceFile>,
    ) -> Result<io::Result<(u64, FileStamp, FileStamp)>, EngineError> {
        let file = match file {
            Ok(file) => file,
            Err(error) => return Ok(Err(error)),
        };
        let mut size = 0;
        let mut segments: VecDeque<_> = file.segments().collect();
        if file.size_bytes() == 0 {
            // What it has only reading tells.
            segments.push_back(Segment::Data { offset: 0, len: u64::MAX });
        }
        for segment in segments {
            match segment {
                Segment::Hole { len, .. } => {
                    self.item(Item::Hole(len))?;
                    size += len;
                }
                Segment::Data { offset, len } => match self.data(&file, offset, len)? {
                    Ok(read) => size += read,
                    Err(error) => return Ok(Err(error)),
                },
            }
        }
        Ok(file.stat().map(|after| (size, file.opened().clone(), after)))
    }

    /// Cuts one run of data; returns the bytes read, fewer when the file was truncated meanwhile.
    fn data(&mut self, file: &SourceFile, offset: u64, length: u64) -> Result<io::Result<u64>, EngineError> {
        let look_ahead = self.cutter.sizes().max();
        let mut done = 0;
        loop {
            let want = self.room().min(usize::try_from(length - done).unwrap_or(usize::MAX));
            let read = match file.append_to(&mut self.current.buffer, offset + done, want) {
                Ok(read) => read,
                Err(error) => {
                    self.current.buffer.truncate(self.cut);
                    return Ok(Err(error));
                }
            };
            done += read as u64;
            let ended = done == length || read < want;
            self.cut_chunks(if ended { 1 } else { look_ahead })?;
            if ended {
                return Ok(Ok(done));
            }
            self.monitor.go_on()?;
            self.flush_keeping_rest()?;
        }
    }

    /// Cuts a stream, to its end. One that breaks off ends the backup: what came of it would look like all of it.
    fn stream(&mut self, mut stream: Box<dyn Read + Send>) -> Result<(), EngineError> {
        let look_ahead = self.cutter.sizes().max();
        let mut size = 0;
        loop {
            let start = self.current.buffer.len();
            let room = self.room();
            self.current.buffer.resize(start + room, 0);
            let read = fill(&mut *stream, &mut self.current.buffer[start..]);
            self.monitor.go_on()?;
            let read = read.map_err(EngineError::InputBroken)?;
            self.current.buffer.truncate(start + read);
            size += read as u64;
            let ended = read < room;
            self.cut_chunks(if ended { 1 } else { look_ahead })?;
            if ended {
                return self.item(Item::End(FileEnd::Read { size, inconsistent: false }));
            }
            self.flush_keeping_rest()?;
        }
    }

    /// Bytes that the buffer still takes: a batch, and what may belong to the chunk after it. What is not cut moves to the next
    /// buffer, so a batch is filled first.
    fn room(&self) -> usize {
        (BATCH_BYTES + self.cutter.sizes().max()).saturating_sub(self.current.buffer.len())
    }

    /// Cuts while at least `enough` bytes are uncut.
    fn cut_chunks(&mut self, enough: usize) -> Result<(), EngineError> {
        while self.current.buffer.len() - self.cut >= enough {
            let length = self.cutter.cut(&self.current.buffer[self.cut..]);
            let start = self.cut;
            self.cut += length;
            self.current.items.push(Item::Chunk { start, end: self.cut });
        }
        Ok(())
    }

    fn item(&mut self, item: Item) -> Result<(), EngineError> {
        self.current.items.push(item);
        let full = self.current.buffer.len() >= BATCH_BYTES || self.current.items.len() >= BATCH_ITEMS_MAX;
        if full { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), EngineError> {
        if self.current.items.is_empty() { Ok(()) } else { self.flush_keeping_rest() }
    }

    /// Sends the batch; uncut bytes move to the next one.
    fn flush_keeping_rest(&mut self) -> Result<(), EngineError> {
        let mut next = self.buffers.recv().map_err(|_| EngineError::Stopped)?;
        next.clear();
        next.extend_from_slice(&self.current.buffer[self.cut..]);
        self.current.buffer.truncate(self.cut);
        self.cut = 0;
        let number = self.current.number + 1;
        let batch = std::mem::replace(&mut self.current, Batch { number, buffer: next, items: Vec::new() });
        self.batches.send(batch).map_err(|_| EngineError::Stopped)
    }
}

/// Reads until `buffer` is full or the stream ends.
fn fill(stream: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match stream.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The content is the same as far as size and time tell (a change of metadata alone does not matter here).
fn same_content(a: &FileStamp, b: &FileStamp) -> bool {
    a.size == b.size && a.mtime == b.mtime && a.inode == b.inode
}

/// Stamp of a file as the walk recorded it.
pub(super) fn stamp(node: &wire::Node) -> FileStamp {
    FileStamp::of_node(node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunker::ChunkSizes;
    use crossbeam_channel::{bounded, unbounded};

    /// Content of all batches, and how long the longest buffer was.
    fn fed(sizes: (usize, usize, usize), jobs: Vec<FileJob>) -> (Vec<Vec<u8>>, usize) {
        let sizes = ChunkSizes::new(sizes.0, sizes.1, sizes.2).unwrap();
        let (cutter, monitor) = (Cutter::new(sizes, &[7; 32]), Monitor::default());
        let (jobs_in, jobs_out) = unbounded();
        let (ready_in, ready_out) = bounded(AHEAD_MAX);
        let (batches_in, batches_out) = bounded(2);
        let (buffers_in, buffers_out) = bounded(2);
        (0..2).for_each(|_| buffers_in.send(Vec::new()).unwrap());
        jobs.into_iter().for_each(|job| jobs_in.send(job).unwrap());
        drop(jobs_in);
        std::thread::scope(|scope| {
            scope.spawn(move || open_ahead(&jobs_out, &ready_in).unwrap());
            let cutter = &cutter;
            let monitor = &monitor;
            scope.spawn(move || {
                Feeder::new(cutter, monitor, batches_in, buffers_out).unwrap().run(&ready_out).unwrap();
            });
            let (mut contents, mut longest) = (Vec::new(), 0);
            for batch in batches_out {
                let plain = batch.items.iter().filter_map(|item| match item {
                    Item::Chunk { start, end } => Some(&batch.buffer[*start..*end]),
                    _ => None,
                });
                contents.push(plain.flatten().copied().collect());
                longest = longest.max(batch.buffer.len());
                let _ = buffers_in.send(batch.buffer);
            }
            (contents, longest)
        })
    }

    #[test]
    fn only_what_is_gone_from_a_directory_that_is_there_was_not_there() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("there"), b"again").unwrap();
        let (gone, denied) = (io::ErrorKind::NotFound, io::ErrorKind::PermissionDenied);
        let told = |path: &str, error: io::ErrorKind| match missed(&dir.path().join(path), error.into()) {
            None => "there",
            Some(FileEnd::Gone) => "gone",
            Some(FileEnd::Failed(_)) => "failed",
            Some(FileEnd::Read { .. }) => "read",
        };
        let table = [
            ("there", gone, "there"),
            ("gone", gone, "gone"),
            ("moved/file", gone, "failed"),
            ("there", denied, "failed"),
            ("gone", denied, "failed"),
        ];
        table.into_iter().for_each(|(path, error, end)| assert_eq!(told(path, error), end, "{path}"));
    }

    /// What may belong to the next chunk moves from buffer to buffer. Where the largest chunk is far longer than the others,
    /// that was megabytes for each of them, and a backup seemed to stand still.
    #[test]
    fn batches_are_full_however_long_the_longest_chunk_may_be() {
        let mut content = vec![0; 20 << 20];
        blake3::Hasher::new().finalize_xof().fill(&mut content);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, &content).unwrap();
        let job = |stream| {
            let stamp = open_file(&path).unwrap().opened().clone();
            vec![FileJob { path: path.clone(), stamp, stream }]
        };
        for sizes in [(64, 256, 8 << 20), (1024, 4096, 1 << 20), (16 << 10, 64 << 10, 256 << 10)] {
            let stream = || Some(Box::new(std::io::Cursor::new(content.clone())) as Box<dyn Read + Send>);
            for jobs in [job(None), job(stream())] {
                let (contents, longest) = fed(sizes, jobs);
                assert!(contents.concat() == content);
                assert!(contents.len() <= content.len() / BATCH_BYTES + 2, "{} batches", contents.len());
                assert!(longest <= BATCH_BYTES + sizes.2, "{longest} bytes in one buffer");
            }
        }
    }
}
