//! Writing one file: under a temporary name, from several threads, and into place when it is whole.
//!
//! Two kinds of files have content before the first write, which is compared rather than written again: a large one
//! that a restore which died left half done, and a large one that is to be overwritten. The latter is changed in its
//! place, because a second one of its size may not fit: until it is finished it is neither the old nor the new one.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FallocateFlags, FileType, Mode, OFlags, Stat, fallocate, fstat, ftruncate, openat};
use rustix::io::Errno;

use super::apply::{self, Born, Subject};
use super::directory::{TargetDir, open_beneath};
use super::temporary::{Temporary, content_tag};
use super::{Fate, FsError, Overwrite, SkipReason};
use crate::base::limit;
use crate::wire;

/// Whether a file is to be written.
pub enum Begin {
    /// No.
    Skip(SkipReason),
    /// Yes, here.
    Write(FileWriter),
}

/// A file being written. Dropped unfinished, it leaves nothing, or the file it changes half changed.
pub struct FileWriter {
    file: File,
    /// `None` for a file that is changed in its place.
    temporary: Option<Temporary>,
    dir: Arc<TargetDir>,
    name: Vec<u8>,
    /// What is known of it since it was made.
    born: Option<Born>,
    /// Content that was there before the first write ends here; 0 for a new file.
    prior: u64,
    /// End of what was written so far; the file is at least this long.
    end: AtomicU64,
}

impl TargetDir {
    /// Decides whether a file is to be written, and opens it: under a temporary name, or where it is if it is large.
    ///
    /// # Errors
    /// `UnsafeName`, `InTheWay` for a directory of that name, or what the system says.
    pub fn begin_file(self: &Arc<Self>, node: &wire::Node) -> Result<Begin, FsError> {
        let writer = match self.fate(node)? {
            Fate::Skip(reason) => return Ok(Begin::Skip(reason)),
            Fate::Dress if self.dress_file(node)? => return Ok(Begin::Skip(SkipReason::Unchanged)),
            Fate::Replace if node.size >= limit::PATCH_BYTES_MIN => self.open_in_place(node),
            Fate::New | Fate::Replace | Fate::Dress => None,
        };
        let writer = writer.or_else(|| self.take_up(node));
        writer.map_or_else(|| self.create_file(node), Ok).map(Begin::Write)
    }

    /// Opens a new file under a temporary name, whatever is there under its own.
    ///
    /// # Errors
    /// `UnsafeName`, or what the system says.
    pub fn create_file(self: &Arc<Self>, node: &wire::Node) -> Result<FileWriter, FsError> {
        let name = self.checked(&node.name)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = self.mode_at_birth(node);
        let make = |dir: std::os::fd::BorrowedFd<'_>, temporary: &str| {
            openat(dir, temporary, flags, Mode::from_raw_mode(mode))
        };
        let made = if node.size >= limit::RESUME_BYTES_MIN {
            Temporary::make_tagged(self, content_tag(node), make)
        } else {
            Temporary::make(self, make)
        };
        let (temporary, fd) = made.map_err(|e| FsError::io("create", &self.child_path(name), e))?;
        let born = self.legacy(fd.as_fd()).map(|legacy| Born {
            uid: legacy.uid,
            gid: legacy.gid,
            mode: (!legacy.acl && self.shared.umask.is_some_and(|umask| umask & mode == 0)).then_some(mode),
            acl: legacy.acl,
        });
        Ok(self.writer(fd, Some(temporary), name, born, 0))
    }

    /// The mode that a new file is made with: its last one, if it ends up with the owner it is born with and nobody
    /// gets more from it meanwhile than later. Else nobody but this user gets anything.
    fn mode_at_birth(&self, node: &wire::Node) -> u32 {
        let plain = node.mode & 0o7777 & !0o777 == 0 && node.xattrs.is_empty();
        let large = node.size >= limit::RESUME_BYTES_MIN;
        match self.legacy.get() {
            Some(legacy)
                if plain && !large && !legacy.acl && (legacy.uid, legacy.gid) == (node.uid, node.gid) =>
            {
                node.mode & 0o777
            }
            _ => 0o600,
        }
    }

    fn writer(
        self: &Arc<Self>,
        fd: OwnedFd,
        temporary: Option<Temporary>,
        name: &[u8],
        born: Option<Born>,
        prior: u64,
    ) -> FileWriter {
        let end = AtomicU64::new(prior);
        FileWriter { file: fd.into(), temporary, dir: self.clone(), name: name.to_vec(), born, prior, end }
    }

    /// What a restore that died left of a large file.
    fn take_up(self: &Arc<Self>, node: &wire::Node) -> Option<FileWriter> {
        if node.size < limit::RESUME_BYTES_MIN {
            return None;
        }
        let (temporary, fd, prior) = self.take_leftover(content_tag(node))?;
        Some(self.writer(fd, Some(temporary), &node.name, None, prior))
    }

    /// The file that is to be overwritten, to be changed in its place. Only one that has no other name, that nobody
    /// can read who may not read the new content, and whose half-changed state the next restore would not take for
    /// the newer one.
    fn open_in_place(self: &Arc<Self>, node: &wire::Node) -> Option<FileWriter> {
        if self.shared.options.overwrite == Overwrite::IfNewer {
            return None;
        }
        let (fd, there) = self.open_prior(node, OFlags::RDWR)?;
        let same_owner = (there.st_uid, there.st_gid) == (node.uid, node.gid);
        let fits = same_owner && there.st_mode & 0o077 & !node.mode == 0;
        // From now on it is this one, also to another thread that comes with a name that is the same to the file system.
        let mut settled = self.settled();
        settled.check(self, &node.name, &there).ok().filter(|()| fits)?;
        settled.note(&node.name, &there);
        drop(settled);
        Some(self.writer(fd, None, &node.name, None, u64::try_from(there.st_size).unwrap_or(0)))
    }

    /// The file that is to be overwritten, if it has the new one's size, to see whether it has its content too. Not to
    /// be written to; [`FileWriter::finish`] gives it the new one's metadata.
    pub fn open_twin(self: &Arc<Self>, node: &wire::Node) -> Option<FileWriter> {
        let (fd, there) = self.open_prior(node, OFlags::RDONLY)?;
        let fits = u64::try_from(there.st_size) == Ok(node.size);
        fits.then(|| self.writer(fd, None, &node.name, None, node.size))
    }

    /// Gives a file that has its content its metadata; `false` when it must be written anew for that, because it has other
    /// names, or may not be read.
    ///
    /// # Errors
    /// What the system says.
    pub fn dress_file(self: &Arc<Self>, node: &wire::Node) -> Result<bool, FsError> {
        let Some(twin) = self.open_twin(node) else { return Ok(false) };
        twin.finish(node).map(|()| true)
    }

    fn open_prior(&self, node: &wire::Node, flags: OFlags) -> Option<(OwnedFd, Stat)> {
        let name = self.checked(&node.name).ok()?;
        let fd = open_beneath(self.fd.as_fd(), name, flags | OFlags::NONBLOCK | OFlags::NOCTTY).ok()?;
        let there = fstat(&fd).ok()?;
        let regular = FileType::from_raw_mode(there.st_mode) == FileType::RegularFile;
        (regular && there.st_nlink == 1).then_some((fd, there))
    }
}

impl FileWriter {
    /// Writes `bytes` at `offset`. Any order, from any thread; what is never written stays a hole.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), FsError> {
        if !self.dir.shared.options.sparse || self.prior > 0 {
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

    /// Content from before the first write ends here, in bytes; 0 when there is none. It may be any.
    pub fn prior_bytes(&self) -> u64 {
        self.prior
    }

    /// Makes a hole, where content from before would show.
    pub fn clear(&self, offset: u64, length: u64) -> Result<(), FsError> {
        let length = length.min(self.prior.saturating_sub(offset));
        if length == 0 {
            return Ok(());
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(&self.file, flags, offset, length) {
            Err(Errno::NOTSUP) => self.write_zeros(offset, length),
            result => result.map_err(|e| self.failed("clear", e.into())),
        }
    }

    fn write_zeros(&self, offset: u64, length: u64) -> Result<(), FsError> {
        let zeros = vec![0; limit::READ_BACK_BYTES];
        let mut at = 0;
        while at < length {
            let part = zeros.len().min(usize::try_from(length - at).unwrap_or(usize::MAX));
            self.write_run(offset + at, &zeros[..part])?;
            at += part as u64;
        }
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

    /// Reads back what was written at `offset` and compares it with `bytes`. `scratch` is memory for it.
    ///
    /// # Errors
    /// `Io` when something else is there, or what the system says.
    pub fn check(&self, offset: u64, bytes: &[u8], scratch: &mut Vec<u8>) -> Result<(), FsError> {
        for (at, part) in bytes.chunks(limit::READ_BACK_BYTES).enumerate() {
            scratch.resize(part.len(), 0);
            let read = self.read_at(offset + (at * limit::READ_BACK_BYTES) as u64, scratch)?;
            let (there, beyond) = part.split_at(read);
            // Zeros at the end that were left out are there once the file has its length.
            let left_out = self.dir.shared.options.sparse && beyond.iter().all(|byte| *byte == 0);
            if scratch[..read] != *there || !(beyond.is_empty() || left_out) {
                return Err(
                    self.failed("read back", io::Error::other("what was written is not what is read"))
                );
            }
        }
        Ok(())
    }

    /// Gives the file its length, metadata and name. Not synced: [`super::Target::sync`] does that for all.
    ///
    /// # Errors
    /// `InTheWay` when something of that name appeared meanwhile and must stay; else what the system says. The
    /// temporary file is gone then.
    pub fn finish(self, node: &wire::Node) -> Result<(), FsError> {
        if self.end.load(Ordering::Relaxed) != node.size {
            ftruncate(&self.file, node.size).map_err(|e| self.failed("set the length of", e.into()))?;
        }
        let path = self.dir.child_path(&self.name);
        if self.temporary.is_none() {
            apply::strip(&self.dir.shared, &path, self.file.as_fd(), node);
        }
        apply::apply(&self.dir.shared, &path, Subject::Open(self.file.as_fd()), node, self.born);
        match self.temporary {
            Some(temporary) => temporary.publish(&self.name),
            None => {
                let there = fstat(&self.file).map_err(|e| self.failed("look at", e.into()))?;
                let mut settled = self.dir.settled();
                settled.check(&self.dir, &self.name, &there)?;
                settled.note(&self.name, &there);
                Ok(())
            }
        }
    }

    fn failed(&self, action: &'static str, error: io::Error) -> FsError {
        FsError::io(action, &self.dir.child_path(&self.name), error)
    }
}
