//! A directory that is being restored: everything in it is made relative to its handle, one name at a time.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::{
    Access, AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, accessat, fchmod, fgetxattr, fstat, mkdirat,
    openat, openat2, statat, unlinkat,
};
use rustix::io::Errno;

use super::FsError;
use super::apply::{self, ACL_DEFAULT, Subject};
use super::listing::Names;
use super::settled::Settled;
use super::source::SourceFile;
use super::target::{Overwrite, Shared, SkipReason, may_replace};
use crate::base::limit;
use crate::wire;

/// An open directory below a restore's target; shared among threads. Holds one handle.
pub struct TargetDir {
    pub(super) fd: OwnedFd,
    /// For messages only; nothing is opened by it.
    pub(super) path: PathBuf,
    pub(super) shared: Arc<Shared>,
    pub(super) depth: usize,
    /// Made by this restore, so that nothing in it is older.
    made: bool,
    /// Made by this restore, or by one that died before the directory had its metadata.
    fresh: bool,
    /// Only this user can put things in it or change it.
    pub(super) guarded: bool,
    /// What new files in it get, once one was made.
    pub(super) legacy: OnceLock<Legacy>,
    /// What its mode was when it did not let its owner, this user, write in it.
    pub(super) lent: Mutex<Option<u32>>,
    /// What this restore has made or found in it, when it did not make the directory itself.
    pub(super) settled: Mutex<Settled>,
    /// Large temporaries of a restore that died, by name.
    pub(super) leftovers: Mutex<Vec<Vec<u8>>>,
}

/// What a new file gets from the directory it is made in.
#[derive(Copy, Clone)]
pub(super) struct Legacy {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// The directory has a default ACL.
    pub(super) acl: bool,
}

/// What is to become of an entry.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It is made where nothing was.
    New,
    /// It takes the place of something.
    Replace,
    /// A file with its content is there, with other metadata.
    Dress,
    /// It is not made.
    Skip(SkipReason),
}

/// What is known of a directory when it is opened.
struct Facts {
    made: bool,
    fresh: bool,
    guarded: bool,
}

impl TargetDir {
    pub(super) fn root(fd: OwnedFd, path: PathBuf, shared: Arc<Shared>, made: bool) -> Self {
        let there = fstat(&fd).ok();
        let guarded = there.is_some_and(|there| is_guarded(&there, &shared));
        let fresh = made || there.is_some_and(|there| is_begun(&there, &shared));
        Self::over(fd, path, shared, 0, Facts { made: false, fresh, guarded })
    }

    fn over(fd: OwnedFd, path: PathBuf, shared: Arc<Shared>, depth: usize, facts: Facts) -> Self {
        let (legacy, leftovers) = (OnceLock::new(), Mutex::default());
        let Facts { made, fresh, guarded } = facts;
        Self {
            fd,
            path,
            shared,
            depth,
            made,
            fresh,
            guarded,
            legacy,
            settled: Mutex::default(),
            lent: Mutex::default(),
            leftovers,
        }
    }

    /// A directory in this one that was just opened; `made` by this restore, as far as it knows.
    pub(super) fn child(&self, fd: OwnedFd, name: &[u8], made: bool) -> Result<Self, FsError> {
        let path = self.child_path(name);
        let mut facts = Facts { made, fresh: made, guarded: made };
        if !(made && self.guarded) {
            // Where others can rename, what was opened need not be what was made.
            let there = fstat(&fd).map_err(|e| FsError::io("look at", &path, e))?;
            if self.shared.spared == Some((there.st_dev, there.st_ino)) {
                return Err(FsError::Spared(path));
            }
            let guarded = is_guarded(&there, &self.shared);
            let fresh = made || is_begun(&there, &self.shared);
            facts = Facts { made: made && guarded, fresh, guarded };
        }
        Ok(Self::over(fd, path, self.shared.clone(), self.depth + 1, facts))
    }

    /// Makes a directory (with a mode that says so until [`Self::finish`]), or opens the one that is there. A symlink or file
    /// in its place is never followed: it is replaced if the overwrite rule says so.
    ///
    /// # Errors
    /// `UnsafeName`, `TooDeep`, `InTheWay`, or what the system says.
    pub fn make_dir(self: &Arc<Self>, node: &wire::Node) -> Result<Arc<Self>, FsError> {
        let name = self.checked(&node.name)?;
        if self.depth >= limit::DIRECTORY_DEPTH_MAX {
            return Err(FsError::TooDeep(self.child_path(name)));
        }
        let made = match mkdirat(&self.fd, name, BEGUN) {
            Ok(()) => true,
            Err(Errno::EXIST) => self.clear_for_directory(name, node)?,
            Err(error) => return Err(FsError::io("create", &self.child_path(name), error)),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let fd = open_beneath(self.fd.as_fd(), name, flags)
            .map_err(|e| FsError::io("open", &self.child_path(name), e))?;
        let child = self.child(fd, name, made)?;
        if !self.made
            && let Ok(there) = fstat(&child.fd)
        {
            self.settled().note(name, &there);
        }
        child.borrow_mode();
        child.claim(child.made);
        Ok(Arc::new(child))
    }

    /// Opens a directory that is there, only to look; `None` when nothing is, or what may be replaced.
    ///
    /// # Errors
    /// As of [`Self::make_dir`].
    pub fn look_into(&self, node: &wire::Node) -> Result<Option<Arc<Self>>, FsError> {
        let name = self.checked(&node.name)?;
        match self.look_at(name)? {
            None => return Ok(None),
            Some(there) if FileType::from_raw_mode(there.st_mode) != FileType::Directory => {
                let allowed = may_replace(self.shared.options.overwrite, &there, node);
                return allowed.map(|()| None).map_err(|_| FsError::InTheWay(self.child_path(name)));
            }
            Some(_) => {}
        }
        let fd = open_beneath(self.fd.as_fd(), name, OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(|e| FsError::io("open", &self.child_path(name), e))?;
        self.child(fd, name, false).map(|child| Some(Arc::new(child)))
    }

    /// Opens a directory below it again, by a relative path that this restore has come along before. Symlinks that
    /// someone put in its way meanwhile are refused.
    pub fn reopen(self: &Arc<Self>, path: &Path) -> Result<Arc<Self>, FsError> {
        let mut dir = self.clone();
        for part in path.components() {
            let Component::Normal(name) = part else { continue };
            let name = dir.checked(name.as_bytes())?;
            let flags = OFlags::PATH | OFlags::DIRECTORY;
            let fd = open_beneath(dir.fd.as_fd(), name, flags)
                .map_err(|e| FsError::io("open", &dir.child_path(name), e))?;
            dir = dir.child(fd, name, false).map(Arc::new)?;
        }
        Ok(dir)
    }

    /// Lets this user write in a directory of its own that does not allow it, until it is finished or let go.
    fn borrow_mode(&self) {
        let Ok(there) = fstat(&self.fd) else { return };
        let mode = there.st_mode & 0o7777;
        if there.st_uid == self.shared.user
            && mode & 0o300 != 0o300
            && accessat(&self.fd, c".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS).is_err()
            && fchmod(&self.fd, Mode::from_raw_mode(mode | 0o300)).is_ok()
        {
            *self.lent.lock().unwrap_or_else(PoisonError::into_inner) = Some(mode);
        }
    }

    /// Gives a directory that was borrowed its mode back.
    pub(super) fn give_back_mode(&self) {
        if let Some(mode) = self.lent.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = fchmod(&self.fd, Mode::from_raw_mode(mode));
        }
    }

    /// Whether this restore made it.
    pub fn is_made(&self) -> bool {
        self.made
    }

    /// Whether this restore made it, or one that died before it had its metadata.
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Whether its own metadata may be set: nothing that was there changes where nothing is to be overwritten.
    pub fn takes_metadata(&self) -> bool {
        self.fresh || self.shared.options.overwrite != Overwrite::Never
    }

    /// Says that it was made and will get its metadata, to a restore that comes after this one died.
    pub fn begin(&self) {
        // What cannot be said is not known: the directory stays as it is then.
        let _ = fchmod(&self.fd, BEGUN);
    }

    /// What the overwrite rule says about an entry that is no directory. Costs no call where this restore made the
    /// directory.
    ///
    /// # Errors
    /// `UnsafeName`, `InTheWay` for a directory of that name, or what the system says.
    pub fn fate(&self, node: &wire::Node) -> Result<Fate, FsError> {
        let name = self.checked(&node.name)?;
        let Some(there) = self.look_for_older(name)? else { return Ok(Fate::New) };
        let mut settled = self.settled();
        settled.check(self, name, &there)?;
        let fate = match may_replace(self.shared.options.overwrite, &there, node) {
            Err(SkipReason::Unchanged) => self.fate_of_alike(name, &there, node),
            Err(reason) => Fate::Skip(reason),
            Ok(()) if FileType::from_raw_mode(there.st_mode) == FileType::Directory => {
                return Err(FsError::InTheWay(self.child_path(name)));
            }
            Ok(()) => Fate::Replace,
        };
        if matches!(fate, Fate::Skip(_)) {
            settled.note(name, &there);
        }
        Ok(fate)
    }

    /// What new files in it get; `file` is one. Nothing is known where others could change it.
    pub(super) fn legacy(&self, file: BorrowedFd<'_>) -> Option<Legacy> {
        if !self.guarded {
            return None;
        }
        if let Some(legacy) = self.legacy.get() {
            return Some(*legacy);
        }
        let there = fstat(file).ok()?;
        let acl = !matches!(
            fgetxattr(&self.fd, ACL_DEFAULT, &mut [0u8; 0][..]),
            Err(Errno::NODATA | Errno::NOTSUP)
        );
        Some(*self.legacy.get_or_init(|| Legacy { uid: there.st_uid, gid: there.st_gid, acl }))
    }

    /// Owner, extended attributes, mode and times, once everything in the directory is done.
    pub fn finish(&self, node: &wire::Node) -> Result<(), FsError> {
        if !self.made {
            apply::strip(&self.shared, &self.path, self.fd.as_fd(), node);
        }
        apply::apply(&self.shared, &self.path, Subject::Open(self.fd.as_fd()), node, None);
        // It has the mode that it is to have.
        self.lent.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(())
    }

    /// Opens a regular file in it for reading, to verify what was written.
    pub fn open_file(&self, name: &[u8]) -> Result<SourceFile, FsError> {
        let name = self.checked(name)?;
        SourceFile::open_at(self.fd.as_fd(), name).map_err(|e| FsError::io("open", &self.child_path(name), e))
    }

    pub(super) fn names(&self) -> Result<Names, FsError> {
        // A handle of its own, so that listing starts at the beginning.
        let listed =
            openat(&self.fd, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let fd = listed.map_err(|e| FsError::io("list", &self.path, e))?;
        match Names::read(fd.as_fd(), &mut Vec::with_capacity(limit::DIRECTORY_READ_BYTES)) {
            (names, None) => Ok(names),
            (_, Some(error)) => Err(FsError::io("list", &self.path, error)),
        }
    }

    /// What stands where a directory is wanted: a directory stays (`false`), anything else goes if it may (`true`).
    fn clear_for_directory(&self, name: &[u8], node: &wire::Node) -> Result<bool, FsError> {
        let Some(there) = self.look_at(name)? else { return self.make_again(name) };
        if self.made {
            return Err(self.occupied(name));
        }
        self.settled().check(self, name, &there)?;
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
        mkdirat(&self.fd, name, BEGUN).map_err(|e| FsError::io("create", &self.child_path(name), e))?;
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

    pub(super) fn settled(&self) -> MutexGuard<'_, Settled> {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why an entry is not made where something is that must stay: in a directory that this restore made, that is one of its
    /// own with a name that is the same to the file system, or somebody else's.
    pub(super) fn occupied(&self, name: &[u8]) -> FsError {
        let in_the_way = FsError::InTheWay(self.child_path(name));
        let Some(there) = self.look_at(name).ok().flatten().filter(|_| self.made) else { return in_the_way };
        let mut settled = self.settled();
        if !settled.knows(&there) {
            settled.note_listed(self);
        }
        settled.check(self, name, &there).err().unwrap_or(in_the_way)
    }

    /// Like [`Self::look_at`], without a call when this restore made the directory: then only the last rename
    /// decides.
    fn look_for_older(&self, name: &[u8]) -> Result<Option<Stat>, FsError> {
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

/// The mode of a directory that has not got its metadata yet: nobody else's, and with a bit that means nothing there.
const BEGUN: Mode = Mode::RWXU.union(Mode::SVTX);

fn is_begun(there: &Stat, shared: &Shared) -> bool {
    there.st_uid == shared.user && there.st_mode & 0o7777 == BEGUN.bits()
}

/// Whether only this user can put things in a directory or change it. Group bits stand for ACLs, too.
fn is_guarded(there: &Stat, shared: &Shared) -> bool {
    there.st_uid == shared.user && there.st_mode & 0o022 == 0
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
