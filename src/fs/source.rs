//! Reading one file: opened without following or blocking, with its holes, compared before and after.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::buffer::spare_capacity;
use rustix::fs::{Advice, CWD, FileType, Mode, OFlags, SeekFrom, Stat, fadvise, fstat, openat, seek};
use rustix::io::{Errno, pread};

use super::capture::time;
use crate::base::limit;
use crate::wire;

/// An open regular file. Shared by threads: reading is positional.
pub struct SourceFile {
    file: File,
    opened: FileStamp,
    sparse: bool,
}

/// What tells whether a file changed. Equal stamps mean the same content as far as the file system tells.
#[derive(Clone, PartialEq, Debug)]
pub struct FileStamp {
    /// Length in bytes.
    pub size: u64,
    /// Last change of the content.
    pub mtime: wire::Time,
    /// Last change of content or metadata; cannot be set back.
    pub ctime: wire::Time,
    /// Inode number: another file under the same name has another one.
    pub inode: u64,
}

/// A run of a file. Runs follow each other without gaps from offset 0 to the size.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Segment {
    /// Bytes to be read.
    Data {
        /// Where it starts.
        offset: u64,
        /// Bytes in it, at least one.
        len: u64,
    },
    /// Zeros that take no room on the disk.
    Hole {
        /// Where it starts.
        offset: u64,
        /// Bytes in it, at least one.
        len: u64,
    },
}

/// Opens a regular file for reading: the last component is not followed, a FIFO in its place does not block,
/// the access time stays if the rights allow. Paths longer than `PATH_MAX` work.
///
/// # Errors
/// `InvalidInput` when it is not a regular file; else what the system says.
pub fn open_file(path: &Path) -> io::Result<SourceFile> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() <= limit::SYMLINK_BYTES_MAX {
        return SourceFile::open_at(CWD, bytes);
    }
    let mut dir: Option<OwnedFd> = None;
    let mut rest = bytes;
    while rest.len() > limit::SYMLINK_BYTES_MAX {
        let cut =
            rest[1..limit::SYMLINK_BYTES_MAX].iter().rposition(|b| *b == b'/').ok_or(Errno::NAMETOOLONG)?;
        let (part, tail) = rest.split_at(cut + 1);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let from = dir.as_ref().map_or(CWD, AsFd::as_fd);
        dir = Some(openat(from, part, flags, Mode::empty())?);
        rest = &tail[tail.iter().take_while(|b| **b == b'/').count()..];
    }
    SourceFile::open_at(dir.as_ref().map_or(CWD, AsFd::as_fd), rest)
}

impl SourceFile {
    /// Opens `name` in `dir` as [`open_file`] does.
    pub(super) fn open_at(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let open = |flags| openat(dir, name, flags, Mode::empty());
        let file = match open(flags | OFlags::NOATIME) {
            Err(Errno::PERM) => open(flags),
            other => other,
        }?;
        let stat = fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let on_disk = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
        if size >= limit::READ_AHEAD_BYTES_MIN {
            // Only advice: reading is right without it.
            let _ = fadvise(&file, 0, None, Advice::Sequential);
        }
        Ok(Self { file: file.into(), opened: FileStamp::of_stat(&stat), sparse: on_disk < size })
    }

    /// The file as it was when it was opened.
    pub fn opened(&self) -> &FileStamp {
        &self.opened
    }

    /// The file as it is now.
    pub fn stat(&self) -> io::Result<FileStamp> {
        Ok(FileStamp::of_stat(&fstat(&self.file)?))
    }

    /// Length in bytes when it was opened.
    pub fn size_bytes(&self) -> u64 {
        self.opened.size
    }

    /// Its data and holes, covering exactly [`Self::size_bytes`]. A file without holes, or on a file system
    /// that cannot tell, is one run of data. Ask from one thread at a time.
    pub fn segments(&self) -> Segments<'_> {
        Segments { source: self, offset: 0 }
    }

    /// Reads at `offset` until `buffer` is full or the file ends; returns the bytes read.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    /// Appends up to `want` bytes at `offset` to `buffer`, fewer only where the file ends; returns how many.
    ///
    /// Into memory that was not filled before: clearing it first costs a tenth of reading from the cache.
    pub fn append_to(&self, buffer: &mut Vec<u8>, offset: u64, want: usize) -> io::Result<usize> {
        let start = buffer.len();
        buffer.reserve(want);
        while buffer.len() - start < want {
            let at = offset + (buffer.len() - start) as u64;
            match pread(&self.file, spare_capacity(buffer), at) {
                Ok(0) => break,
                Ok(_) => {}
                Err(Errno::INTR) => {}
                Err(error) => {
                    buffer.truncate(start);
                    return Err(error.into());
                }
            }
        }
        // There may have been more room than was wanted.
        buffer.truncate(start + want);
        Ok(buffer.len() - start)
    }

    /// Has the kernel fetch the first `bytes` from the disk; does not wait for them.
    pub fn fetch_ahead(&self, bytes: u64) {
        if let Some(length) = std::num::NonZeroU64::new(self.opened.size.min(bytes)) {
            let _ = fadvise(&self.file, 0, Some(length), Advice::WillNeed);
        }
    }

    /// Lets the kernel drop this file from its cache, so that a backup does not push out what others use.
    pub fn forget(&self) {
        let _ = fadvise(&self.file, 0, None, Advice::DontNeed);
    }
}

/// Iterator over a file's runs.
pub struct Segments<'a> {
    source: &'a SourceFile,
    offset: u64,
}

impl Iterator for Segments<'_> {
    type Item = Segment;

    fn next(&mut self) -> Option<Segment> {
        let Self { source, offset } = *self;
        let size = source.opened.size;
        let rest = size.checked_sub(offset).filter(|rest| *rest > 0)?;
        let clip = |end: u64| end.clamp(offset + 1, size);
        let segment = if !source.sparse {
            Segment::Data { offset, len: rest }
        } else {
            match seek(&source.file, SeekFrom::Data(offset)) {
                // No data from here to the end.
                Err(Errno::NXIO) => Segment::Hole { offset, len: rest },
                // Cannot tell: reading is always right.
                Err(_) => Segment::Data { offset, len: rest },
                Ok(data) if data > offset => Segment::Hole { offset, len: clip(data) - offset },
                Ok(_) => {
                    let end = seek(&source.file, SeekFrom::Hole(offset)).unwrap_or(size);
                    Segment::Data { offset, len: clip(end) - offset }
                }
            }
        };
        let (Segment::Data { len, .. } | Segment::Hole { len, .. }) = segment;
        self.offset += len;
        Some(segment)
    }
}

impl FileStamp {
    pub(super) fn of_stat(stat: &Stat) -> Self {
        Self {
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime: time(stat.st_mtime, stat.st_mtime_nsec),
            ctime: time(stat.st_ctime, stat.st_ctime_nsec),
            inode: stat.st_ino,
        }
    }

    /// The stamp that a walk or an earlier snapshot recorded.
    pub fn of_node(node: &wire::Node) -> Self {
        Self {
            size: node.size,
            mtime: node.mtime.unwrap_or_default(),
            ctime: node.ctime.unwrap_or_default(),
            inode: node.inode,
        }
    }
}
