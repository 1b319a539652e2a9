//! The names of one directory, in byte order, in one piece of memory.

use std::ffi::CStr;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, RawDir, fstat, openat};
use rustix::io::Errno;

/// Names with their types as the directory gave them. A million names of 20 bytes take 29 MB.
#[derive(Default)]
pub(super) struct Names {
    /// All names one after another, each with its NUL.
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

#[derive(Copy, Clone)]
struct Entry {
    start: u32,
    length: u16,
    kind: Kind,
}

/// What a directory says about an entry without looking at it.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Directory,
    Other,
    /// The file system does not tell.
    Unknown,
}

impl Names {
    /// Lists an open directory, without `.` and `..`. `buffer` is scratch space that lives longer than one listing.
    ///
    /// When listing breaks off, what was read so far comes with the error.
    pub(super) fn read(dir: BorrowedFd<'_>, buffer: &mut Vec<u8>) -> (Self, Option<io::Error>) {
        let mut names = Self::default();
        let mut raw = RawDir::new(dir, buffer.spare_capacity_mut());
        let mut broken = None;
        while let Some(entry) = raw.next() {
            let added = entry.and_then(|entry| {
                let kind = match entry.file_type() {
                    FileType::Directory => Kind::Directory,
                    FileType::Unknown => Kind::Unknown,
                    _ => Kind::Other,
                };
                match entry.file_name().to_bytes() {
                    b"." | b".." => Ok(()),
                    name => names.push(name, kind),
                }
            });
            if let Err(error) = added {
                broken = Some(error.into());
                break;
            }
        }
        names.sort();
        names.join_twins();
        (names, broken)
    }

    /// Names given by a caller, already in order.
    pub(super) fn chosen<'a>(names: impl Iterator<Item = &'a Vec<u8>>) -> Self {
        let mut chosen = Self::default();
        for name in names {
            // A path's components fit where its whole path did.
            let _ = chosen.push(name, Kind::Unknown);
        }
        chosen
    }

    fn push(&mut self, name: &[u8], kind: Kind) -> Result<(), Errno> {
        let start = u32::try_from(self.bytes.len()).map_err(|_| Errno::FBIG)?;
        let length = u16::try_from(name.len()).map_err(|_| Errno::NAMETOOLONG)?;
        self.bytes.extend_from_slice(name);
        self.bytes.push(0);
        self.entries.push(Entry { start, length, kind });
        Ok(())
    }

    fn sort(&mut self) {
        let Self { bytes, entries } = self;
        let name = |e: &Entry| &bytes[e.start as usize..e.start as usize + usize::from(e.length)];
        entries.sort_unstable_by(|a, b| name(a).cmp(name(b)));
    }

    /// One entry for each name. Some file systems tell one twice while others work in the directory; which of the two it
    /// was, looking at it will tell.
    fn join_twins(&mut self) {
        let Self { bytes, entries } = self;
        let name = |e: &Entry| &bytes[e.start as usize..e.start as usize + usize::from(e.length)];
        entries.dedup_by(|later, kept| {
            let same = name(later) == name(kept);
            if same && later.kind != kept.kind {
                kept.kind = Kind::Unknown;
            }
            same
        });
    }

    /// The name at `index`, and its type.
    pub(super) fn get(&self, index: usize) -> Option<(&CStr, Kind)> {
        let entry = self.entries.get(index)?;
        Some((c_name(&self.bytes[entry.start as usize..]), entry.kind))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&CStr, Kind)> {
        (0..self.entries.len()).filter_map(|index| self.get(index))
    }

    pub(super) fn contains(&self, name: &[u8]) -> bool {
        self.position(name).is_some()
    }

    /// Where a name stands among all.
    pub(super) fn position(&self, name: &[u8]) -> Option<usize> {
        let found = self.entries.binary_search_by(|e| {
            self.bytes[e.start as usize..e.start as usize + usize::from(e.length)].cmp(name)
        });
        found.ok()
    }
}

/// A directory that a walk has just listed, as a [`super::Filter`] sees it.
pub struct Listing<'a> {
    pub(super) path: &'a Path,
    pub(super) names: &'a Names,
    pub(super) dir: BorrowedFd<'a>,
}

impl Listing<'_> {
    /// The directory's path.
    pub fn path(&self) -> &Path {
        self.path
    }

    /// Whether it has an entry of this name. Costs a binary search, no system call.
    pub fn contains(&self, name: &[u8]) -> bool {
        self.names.contains(name)
    }

    /// The first `bytes_max` bytes of the regular file `name`; `None` when there is no such regular file.
    ///
    /// Follows no symlink and never blocks on a FIFO.
    pub fn read(&self, name: &[u8], bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
        if !self.contains(name) {
            return Ok(None);
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(self.dir, name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if FileType::from_raw_mode(fstat(file.as_fd())?.st_mode) != FileType::RegularFile {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        std::fs::File::from(file).take(bytes_max).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }
}

/// `bytes` up to and with its first NUL, as the system takes names.
pub(super) fn c_name(bytes: &[u8]) -> &CStr {
    CStr::from_bytes_until_nul(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_by_bytes_and_are_found_again() {
        let mut names = Names::default();
        for name in [&b"b"[..], b"a\xff", b"a", b"B", b"ab"] {
            names.push(name, Kind::Unknown).unwrap();
        }
        names.sort();
        let order: Vec<_> = names.iter().map(|(name, _)| name.to_bytes()).collect();
        assert_eq!(order, [&b"B"[..], b"a", b"ab", b"a\xff", b"b"]);
        assert!(names.contains(b"a\xff") && !names.contains(b"c"));
        assert!(names.push(&[b'x'; 70_000], Kind::Unknown).is_err());
    }

    #[test]
    fn a_name_that_is_told_twice_is_one() {
        let mut names = Names::default();
        for (name, kind) in [
            (b"b", Kind::Other),
            (b"a", Kind::Directory),
            (b"b", Kind::Other),
            (b"a", Kind::Other),
            (b"a", Kind::Other),
        ] {
            names.push(name, kind).unwrap();
        }
        names.sort();
        names.join_twins();
        let all: Vec<_> = names.iter().map(|(name, kind)| (name.to_bytes(), kind)).collect();
        assert_eq!(all, [(&b"a"[..], Kind::Unknown), (b"b", Kind::Other)]);
    }
}
