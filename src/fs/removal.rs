//! Deleting what a snapshot does not have: one name at a time through handles, following nothing, and never on another
//! file system: what is mounted in a target is not the target's.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, openat2, unlinkat};
use rustix::io::Errno;

use super::FsError;
use super::directory::{TargetDir, open_beneath};
use super::listing::{Kind, Names};
use super::temporary::is_temporary;
use super::walk::{Identity, identity};
use crate::base::limit;

/// What decides over a deletion, and hears of it. Paths are relative to the restored root.
pub trait Removal {
    /// Whether an entry stays, with everything in it.
    fn spares(&mut self, path: &Path, is_directory: bool) -> bool;
    /// A directory stays: it is another file system's.
    fn is_mounted(&mut self, path: &Path);
    /// An entry is about to go; `Ok(false)` only pretends.
    ///
    /// # Errors
    /// Ends the deletion.
    fn goes(&mut self, path: &Path) -> Result<bool, FsError>;
    /// It is gone, or would be (a directory's entries come before it).
    fn gone(&mut self, path: &Path);
}

/// The names that were in a directory when a restore came to it, and which of them the snapshot has as well.
pub struct Older {
    names: Names,
    known: Vec<bool>,
    /// Where each stands, once a name was asked for that is not among them and has something all the same.
    places: Option<HashMap<Identity, usize>>,
}

impl TargetDir {
    /// What is in it now. Takes memory for all its names: 29 MB for a million.
    pub fn older(&self) -> Result<Older, FsError> {
        let names = self.names()?;
        let known = vec![false; names.iter().count()];
        Ok(Older { names, known, places: None })
    }

    /// Notes in `older` that the snapshot has an entry of this name, also when it is another one to this file system than to the
    /// snapshot (upper and lower case): deleting it would take what was restored.
    pub fn know(&self, older: &mut Older, name: &[u8]) {
        let at = older.names.position(name).or_else(|| self.called_otherwise(older, name));
        at.into_iter().for_each(|at| older.known[at] = true);
    }

    /// Where in `older` stands what this file system has under `name`, although it lists it by another.
    fn called_otherwise(&self, older: &mut Older, name: &[u8]) -> Option<usize> {
        let there = self.checked(name).and_then(|name| self.look_at(name)).ok().flatten()?;
        let Older { names, places, .. } = older;
        let places = places.get_or_insert_with(|| {
            let all = names.iter().enumerate();
            let found = all.filter_map(|(at, (name, _))| {
                Some((identity(&self.look_at(name.to_bytes()).ok().flatten()?), at))
            });
            found.collect()
        });
        places.get(&identity(&there)).copied()
    }

    /// Deletes all entries of `older` that the snapshot does not have and `removal` does not spare. `path` is this
    /// directory's. Errors with single entries go to `failed`.
    pub fn remove_unknown(
        &self,
        older: &Older,
        path: &Path,
        removal: &mut dyn Removal,
        failed: &mut dyn FnMut(&Path, FsError),
    ) {
        let unknown = older.names.iter().zip(&older.known).filter(|(_, known)| !**known);
        // Temporaries are swept when nobody works on them.
        for ((name, kind), _) in unknown.filter(|((name, _), _)| !is_temporary(name.to_bytes())) {
            let path = path.join(OsStr::from_bytes(name.to_bytes()));
            if let Err(error) = self.remove(name.to_bytes(), kind, &path, removal) {
                failed(&path, error);
            }
        }
    }

    /// Deletes one entry with all that is in it; `false` when something of it stays.
    fn remove(
        &self,
        name: &[u8],
        kind: Kind,
        path: &Path,
        removal: &mut dyn Removal,
    ) -> Result<bool, FsError> {
        let failed = |error| FsError::io("delete", &self.child_path(name), error);
        let is_directory = match kind {
            Kind::Directory => true,
            Kind::Other => false,
            Kind::Unknown => self.look_at(name)?.is_some_and(|there| is_directory(there.st_mode)),
        };
        if removal.spares(path, is_directory) {
            return Ok(false);
        }
        if is_directory && !self.empty(name, path, removal)? {
            return Ok(false);
        }
        if !removal.goes(path)? {
            removal.gone(path);
            return Ok(true);
        }
        let flags = if is_directory { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        match unlinkat(&self.fd, name, flags) {
            Ok(()) | Err(Errno::NOENT) => {
                removal.gone(path);
                Ok(true)
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// Deletes what is in a directory; `false` when something stays.
    fn empty(&self, name: &[u8], path: &Path, removal: &mut dyn Removal) -> Result<bool, FsError> {
        let failed = |error| FsError::io("delete", &self.child_path(name), error);
        if self.depth >= limit::DIRECTORY_DEPTH_MAX {
            return Err(FsError::TooDeep(self.child_path(name)));
        }
        let fd = match open_on_this_mount(self.fd.as_fd(), name) {
            Err(Errno::XDEV) => {
                removal.is_mounted(path);
                return Ok(false);
            }
            other => other.map_err(failed)?,
        };
        let inner = match self.child(fd, name, false) {
            Err(FsError::Spared(_)) => return Ok(false),
            other => other?,
        };
        let mut all = true;
        for (name, kind) in inner.names()?.iter() {
            let path = path.join(OsStr::from_bytes(name.to_bytes()));
            all &= inner.remove(name.to_bytes(), kind, &path, removal)?;
        }
        Ok(all)
    }
}

/// Opens a directory unless something is mounted there (`XDEV`). Kernels before 5.6 cannot tell, and then say `EBUSY`
/// when the directory itself is to go.
fn open_on_this_mount(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    match openat2(dir, name, flags, Mode::empty(), resolve) {
        Err(Errno::NOSYS | Errno::PERM) => open_beneath(dir, name, flags),
        other => other,
    }
}

fn is_directory(mode: u32) -> bool {
    rustix::fs::FileType::from_raw_mode(mode) == rustix::fs::FileType::Directory
}
