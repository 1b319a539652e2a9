//! Writing one file: under a temporary name, from several threads, and into place when it is whole.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FileType, Mode, OFlags, ftruncate, openat};

use super::apply::{self, Subject};
use super::directory::{TargetDir, Temporary};
use super::target::may_replace;
use super::{FsError, SkipReason};
use crate::base::limit;
use crate::wire;

/// Whether a file is to be written.
pub enum Begin {
    /// No.
    Skip(SkipReason),
    /// Yes, here.
    Write(FileWriter),
}

/// A file being written. Dropped unfinished, it leaves nothing.
pub struct FileWriter {
    file: File,
    temporary: Temporary,
    dir: Arc<TargetDir>,
    name: Vec<u8>,
    /// End of what was written so far; the file is at least this long.
    end: AtomicU64,
}

impl TargetDir {
    /// Decides whether a file is to be written, and opens it under a temporary name.
    ///
    /// # Errors
    /// `UnsafeName`, `InTheWay` for a directory of that name, or what the system says.
    pub fn begin_file(self: &Arc<Self>, node: &wire::Node) -> Result<Begin, FsError> {
        let name = self.checked(&node.name)?;
        if let Some(there) = self.look_for_older(name)? {
            if let Err(reason) = may_replace(self.shared.options.overwrite, &there, node) {
                return Ok(Begin::Skip(reason));
            }
            if FileType::from_raw_mode(there.st_mode) == FileType::Directory {
                return Err(FsError::InTheWay(self.child_path(name)));
            }
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (temporary, fd) =
            Temporary::make(self, |dir, temporary| openat(dir, temporary, flags, Mode::RUSR | Mode::WUSR))
                .map_err(|e| FsError::io("create", &self.child_path(name), e))?;
        Ok(Begin::Write(FileWriter {
            file: fd.into(),
            temporary,
            dir: self.clone(),
            name: name.to_vec(),
            end: AtomicU64::new(0),
        }))
    }
}

impl FileWriter {
    /// Writes `bytes` at `offset`. Any order, from any thread; what is never written stays a hole.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), FsError> {
        if !self.dir.shared.options.sparse {
            return self.write_run(offset, bytes);
        }
        // Runs of blocks that have something in them; blocks lie where the file system's do.
        let mut run = 0;
        let mut at = 0;
        while at < bytes.len() {
            let to_boundary = limit::SPARSE_BLOCK_BYTES - (offset + at as u64) % limit::SPARSE_BLOCK_BYTES;
            let end = usize::try_from(to_boundary).map_or(bytes.len(), |n| (at + n).min(bytes.len()));
            if bytes[at..end].iter().all(|byte| *byte == 0) {
                self.write_run(offset + run as u64, &bytes[run..at])?;
                run = end;
            }
            at = end;
        }
        self.write_run(offset + run as u64, &bytes[run..])
    }

    fn write_run(&self, offset: u64, bytes: &[u8]) -> Result<(), FsError> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.file.write_all_at(bytes, offset).map_err(|e| self.failed("write", e))?;
        self.end.fetch_max(offset + bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Reads back what was written; returns the bytes read, fewer than asked for only at the end.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, FsError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed("read", error)),
            }
        }
        Ok(filled)
    }

    /// Gives the file its length, metadata and name. Not synced: [`super::Target::sync`] does that for all.
    ///
    /// # Errors
    /// `InTheWay` when something of that name appeared meanwhile and must stay; else what the system says. The
    /// temporary file is gone then.
    pub fn finish(self, node: &wire::Node) -> Result<(), FsError> {
        if self.end.load(Ordering::Relaxed) != node.size {
            ftruncate(&self.file, node.size).map_err(|e| self.failed("extend", e.into()))?;
        }
        apply::apply(
            &self.dir.shared,
            &self.dir.child_path(&self.name),
            Subject::Open(self.file.as_fd()),
            node,
        );
        self.temporary.publish(&self.name)
    }

    fn failed(&self, action: &'static str, error: io::Error) -> FsError {
        FsError::io(action, &self.dir.child_path(&self.name), error)
    }
}
