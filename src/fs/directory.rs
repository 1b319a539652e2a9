//! A directory that is being restored: everything in it is made relative to its handle, one name at a time.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags, Stat, linkat, mkdirat, openat, openat2,
    renameat, renameat_with, statat, unlinkat,
};
use rustix::io::Errno;

use super::apply::{self, Subject};
use super::listing::Names;
use super::source::SourceFile;
use super::target::{Shared, may_replace};
use super::{FsError, Overwrite};
use crate::base::{limit, random_bytes};
use crate::wire;

/// An open directory below a restore's target; shared among threads. Holds one handle.
pub struct TargetDir {
    pub(super) fd: OwnedFd,
    /// For messages only; nothing is opened by it.
    pub(super) path: PathBuf,
    pub(super) shared: Arc<Shared>,
    depth: usize,
    /// Made by this restore, so that nothing in it is older.
    made: bool,
}

impl TargetDir {
    pub(super) fn root(fd: OwnedFd, path: PathBuf, shared: Arc<Shared>) -> Self {
        Self { fd, path, shared, depth: 0, made: false }
    }

    /// Makes a directory (mode 0700 until [`Self::finish`]), or opens the one that is there. A symlink or file
    /// in its place is never followed: it is replaced if the overwrite rule says so.
    ///
    /// # Errors
    /// `UnsafeName`, `TooDeep`, `InTheWay`, or what the system says.
    pub fn make_dir(self: &Arc<Self>, node: &wire::Node) -> Result<Arc<Self>, FsError> {
        let name = self.checked(&node.name)?;
        if self.depth >= limit::DIRECTORY_DEPTH_MAX {
            return Err(FsError::TooDeep(self.child_path(name)));
        }
        let made = match mkdirat(&self.fd, name, Mode::RWXU) {
            Ok(()) => true,
            Err(Errno::EXIST) => self.clear_for_directory(name, node)?,
            Err(error) => return Err(FsError::io("create", &self.child_path(name), error)),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let fd = open_beneath(self.fd.as_fd(), name, flags)
            .map_err(|e| FsError::io("open", &self.child_path(name), e))?;
        let path = self.child_path(name);
        Ok(Arc::new(Self { fd, path, shared: self.shared.clone(), depth: self.depth + 1, made }))
    }

    /// Owner, extended attributes, mode and times, once everything in the directory is done.
    pub fn finish(&self, node: &wire::Node) -> Result<(), FsError> {
        apply::apply(&self.shared, &self.path, Subject::Open(self.fd.as_fd()), node);
        Ok(())
    }

    /// Opens a regular file in it for reading, to verify what was written.
    pub fn open_file(&self, name: &[u8]) -> Result<SourceFile, FsError> {
        let name = self.checked(name)?;
        SourceFile::open_at(self.fd.as_fd(), name).map_err(|e| FsError::io("open", &self.child_path(name), e))
    }

    /// Deletes every entry whose name `keep` refuses, with all that is in it, following nothing. Returns how
    /// many names of this directory went.
    pub fn remove_others(&self, mut keep: impl FnMut(&[u8]) -> bool) -> Result<u64, FsError> {
        let mut removed = 0;
        for name in self.names()?.iter().map(|(name, _)| name.to_bytes()).filter(|name| !keep(name)) {
            self.remove(name)?;
            removed += 1;
        }
        Ok(removed)
    }

    fn names(&self) -> Result<Names, FsError> {
        // A handle of its own, so that listing starts at the beginning.
        let listed =
            openat(&self.fd, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let fd = listed.map_err(|e| FsError::io("list", &self.path, e))?;
        match Names::read(fd.as_fd(), &mut Vec::with_capacity(limit::DIRECTORY_READ_BYTES)) {
            (names, None) => Ok(names),
            (_, Some(error)) => Err(FsError::io("list", &self.path, error)),
        }
    }

    fn remove(&self, name: &[u8]) -> Result<(), FsError> {
        let failed = |error| FsError::io("delete", &self.child_path(name), error);
        match unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(failed(error)),
        }
        if self.depth >= limit::DIRECTORY_DEPTH_MAX {
            return Err(FsError::TooDeep(self.child_path(name)));
        }
        let fd = open_beneath(self.fd.as_fd(), name, OFlags::RDONLY | OFlags::DIRECTORY).map_err(failed)?;
        let path = self.child_path(name);
        let inner = Self { fd, path, shared: self.shared.clone(), depth: self.depth + 1, made: false };
        inner.remove_others(|_| false)?;
        unlinkat(&self.fd, name, AtFlags::REMOVEDIR).map_err(failed)
    }

    /// What stands where a directory is wanted: a directory stays (`false`), anything else goes if it may (`true`).
    fn clear_for_directory(&self, name: &[u8], node: &wire::Node) -> Result<bool, FsError> {
        let Some(there) = self.look_at(name)? else { return self.make_again(name) };
        if FileType::from_raw_mode(there.st_mode) == FileType::Directory {
            return Ok(false);
        }
        may_replace(self.shared.options.overwrite, &there, node)
            .map_err(|_| FsError::InTheWay(self.child_path(name)))?;
        unlinkat(&self.fd, name, AtFlags::empty())
            .map_err(|e| FsError::io("delete", &self.child_path(name), e))?;
        self.make_again(name)
    }

    fn make_again(&self, name: &[u8]) -> Result<bool, FsError> {
        mkdirat(&self.fd, name, Mode::RWXU).map_err(|e| FsError::io("create", &self.child_path(name), e))?;
        Ok(true)
    }

    /// What is under `name`, not followed; `None` when nothing is.
    pub(super) fn look_at(&self, name: &[u8]) -> Result<Option<Stat>, FsError> {
        match statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(FsError::io("look at", &self.child_path(name), error)),
        }
    }

    /// Like [`Self::look_at`], without a call when this restore made the directory: then only
    /// [`Temporary::place`] decides.
    pub(super) fn look_for_older(&self, name: &[u8]) -> Result<Option<Stat>, FsError> {
        if self.made { Ok(None) } else { self.look_at(name) }
    }

    /// `name`, if it names one entry of this directory and nothing else.
    pub(super) fn checked<'a>(&self, name: &'a [u8]) -> Result<&'a [u8], FsError> {
        let unsafe_name = name.is_empty()
            || name.len() > limit::NAME_BYTES_MAX
            || matches!(name, b"." | b"..")
            || name.iter().any(|byte| matches!(byte, b'/' | 0));
        if !unsafe_name {
            return Ok(name);
        }
        let shown = String::from_utf8_lossy(&name[..name.len().min(80)]).into_owned();
        Err(FsError::UnsafeName { dir: self.path.clone(), name: shown })
    }

    /// For messages.
    pub(super) fn child_path(&self, name: &[u8]) -> PathBuf {
        self.path.join(std::ffi::OsStr::from_bytes(name))
    }
}

/// An entry under a name of its own until it is complete; deleted if it never is.
pub(super) struct Temporary {
    dir: Arc<TargetDir>,
    name: Option<String>,
}

impl Temporary {
    /// Lets `make` make an entry under an unguessable name. `make` must refuse to replace anything.
    pub(super) fn make<T>(
        dir: &Arc<TargetDir>,
        mut make: impl FnMut(BorrowedFd<'_>, &str) -> Result<T, Errno>,
    ) -> Result<(Self, T), Errno> {
        let name = format!(".shadowvault-{}.tmp", hex::encode(random_bytes::<16>()));
        let made = make(dir.fd.as_fd(), &name)?;
        Ok((Self { dir: dir.clone(), name: Some(name) }, made))
    }

    /// The handle of its directory, and its name there.
    pub(super) fn place(&self) -> (BorrowedFd<'_>, &str) {
        (self.dir.fd.as_fd(), self.name.as_deref().unwrap_or_default())
    }

    /// Gives the entry its real name, replacing what is there only if the overwrite rule allows any replacing.
    pub(super) fn publish(mut self, name: &[u8]) -> Result<(), FsError> {
        let (fd, temporary) = self.place();
        let renamed = if self.dir.shared.options.overwrite == Overwrite::Never {
            rename_to_free(fd, temporary, name)
        } else {
            renameat(fd, temporary, fd, name)
        };
        match renamed {
            Ok(()) => {
                self.name = None;
                Ok(())
            }
            Err(Errno::EXIST | Errno::ISDIR | Errno::NOTEMPTY) => {
                Err(FsError::InTheWay(self.dir.child_path(name)))
            }
            Err(error) => Err(FsError::io("rename", &self.dir.child_path(name), error)),
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            // What cannot be deleted now is found by its name later.
            let _ = unlinkat(&self.dir.fd, name.as_str(), AtFlags::empty());
        }
    }
}

/// Renames where nothing is; some network file systems need a link instead.
fn rename_to_free(fd: BorrowedFd<'_>, from: &str, to: &[u8]) -> Result<(), Errno> {
    match renameat_with(fd, from, fd, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) => {
            linkat(fd, from, fd, to, AtFlags::empty())?;
            unlinkat(fd, from, AtFlags::empty())
        }
        other => other,
    }
}

/// Opens one name in `dir` without following a symlink or leaving `dir`.
///
/// `name` is a single checked component, so that `O_NOFOLLOW` alone is safe too; that is the way on kernels
/// before 5.6 and under seccomp filters that refuse `openat2`.
pub(super) fn open_beneath(dir: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match openat2(dir, name, flags, Mode::empty(), resolve) {
        Err(Errno::NOSYS | Errno::PERM) => openat(dir, name, flags, Mode::empty()),
        other => other,
    }
}
