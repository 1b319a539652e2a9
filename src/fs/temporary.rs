//! Entries under a name of their own until they are complete, and what a restore that died left of such.
//!
//! Every directory that a restore works in is locked (shared, `flock`) as long as it is open. Whoever gets the lock
//! alone knows that no restore is at work there, so that temporaries in it belong to nobody: they are deleted, or
//! taken up again if they are large. Only what this user made is touched.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use prost::Message;
use rustix::fs::{
    AtFlags, FileType, FlockOperation, OFlags, RenameFlags, flock, fstat, linkat, renameat, renameat_with,
    statat, unlinkat,
};
use rustix::io::Errno;

use super::directory::{TargetDir, open_beneath};
use super::{FsError, Overwrite};
use crate::base::{limit, random_bytes};
use crate::wire;

const BEGIN: &str = ".shadowvault-";
const END: &str = ".tmp";
/// How often a name that is taken is tried anew.
const NAMES_TRIED_MAX: u32 = 4;

/// An entry under a name of its own; deleted if it is never published.
pub(super) struct Temporary {
    dir: Arc<TargetDir>,
    name: Option<String>,
}

impl Temporary {
    /// Lets `make` make an entry under a fresh name. `make` must refuse to replace anything.
    pub(super) fn make<T>(
        dir: &Arc<TargetDir>,
        make: impl FnMut(BorrowedFd<'_>, &str) -> Result<T, Errno>,
    ) -> Result<(Self, T), Errno> {
        Self::make_tagged(dir, dir.shared.run, make)
    }

    /// The same with a name that begins with `tag`, by which [`TargetDir::take_leftover`] finds it.
    pub(super) fn make_tagged<T>(
        dir: &Arc<TargetDir>,
        tag: [u8; 16],
        mut make: impl FnMut(BorrowedFd<'_>, &str) -> Result<T, Errno>,
    ) -> Result<(Self, T), Errno> {
        let mut last = dir.shared.names.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let mut tries = 0;
        loop {
            let name = format!("{BEGIN}{}-{}{END}", hex::encode(tag), hex::encode(last));
            tries += 1;
            match make(dir.fd.as_fd(), &name) {
                Ok(made) => return Ok((Self { dir: dir.clone(), name: Some(name) }, made)),
                // Taken by an earlier restore, or by someone who guesses.
                Err(Errno::EXIST) if tries < NAMES_TRIED_MAX => last = random_bytes(),
                Err(error) => return Err(error),
            }
        }
    }

    /// The handle of its directory, and its name there.
    pub(super) fn place(&self) -> (BorrowedFd<'_>, &str) {
        (self.dir.fd.as_fd(), self.name.as_deref().unwrap_or_default())
    }

    /// Gives the entry its real name, replacing what is there only if the overwrite rule allows any replacing, and nothing that
    /// this restore has made: in a directory that it made, nothing at all.
    pub(super) fn publish(mut self, name: &[u8]) -> Result<(), FsError> {
        let dir = self.dir.clone();
        let (fd, temporary) = self.place();
        let renamed = if dir.is_made() {
            rename_to_free(fd, temporary, name)
        } else {
            // Between the look and the note no other thread takes a name that is the same to the file system.
            let mut settled = dir.settled();
            if let Some(there) = dir.look_at(name)? {
                settled.check(&dir, name, &there)?;
            }
            let renamed = match dir.shared.options.overwrite {
                Overwrite::Never => rename_to_free(fd, temporary, name),
                _ => renameat(fd, temporary, fd, name),
            };
            if renamed.is_ok()
                && let Ok(Some(there)) = dir.look_at(name)
            {
                settled.note(name, &there);
            }
            renamed
        };
        match renamed {
            Ok(()) => {
                self.name = None;
                Ok(())
            }
            Err(Errno::EXIST | Errno::ISDIR | Errno::NOTEMPTY) => Err(self.dir.occupied(name)),
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

/// Renames where nothing is.
fn rename_to_free(fd: BorrowedFd<'_>, from: &str, to: &[u8]) -> Result<(), Errno> {
    to_free(
        || renameat_with(fd, from, fd, to, RenameFlags::NOREPLACE),
        || {
            linkat(fd, from, fd, to, AtFlags::empty())?;
            unlinkat(fd, from, AtFlags::empty())
        },
        || match statat(fd, to, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => renameat(fd, from, fd, to),
            there => there.and(Err(Errno::EXIST)),
        },
    )
}

/// The first of three ways to a name that is free that its file system has: a rename that replaces nothing, a link (some
/// network file systems), or a look before the rename (some in programs), between which somebody else may take the name.
fn to_free(
    rename: impl FnOnce() -> Result<(), Errno>,
    link: impl FnOnce() -> Result<(), Errno>,
    look: impl FnOnce() -> Result<(), Errno>,
) -> Result<(), Errno> {
    match rename() {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
        other => return other,
    }
    match link() {
        Err(Errno::PERM | Errno::NOSYS | Errno::NOTSUP | Errno::MLINK) => look(),
        other => other,
    }
}

/// Whether an entry's name is one that [`Temporary`] gives.
pub(super) fn is_temporary(name: &[u8]) -> bool {
    let middle = name.strip_prefix(BEGIN.as_bytes()).and_then(|rest| rest.strip_suffix(END.as_bytes()));
    middle.is_some_and(|middle| {
        middle.len() >= 32 && middle.iter().all(|byte| byte.is_ascii_hexdigit() || *byte == b'-')
    })
}

/// By which a large file's temporary is found again: two files of one name and content have the same.
pub(super) fn content_tag(node: &wire::Node) -> [u8; 16] {
    let content = wire::Node {
        name: node.name.clone(),
        size: node.size,
        content: node.content.clone(),
        content_lists: node.content_lists.clone(),
        ..Default::default()
    };
    let hash = blake3::hash(&content.encode_to_vec());
    *hash.as_bytes().first_chunk().expect("a hash is longer")
}

impl TargetDir {
    /// Says that a restore is at work here; in a directory that was there before, clears up after one that died.
    pub(super) fn claim(&self, made: bool) {
        if !made && flock(&self.fd, FlockOperation::NonBlockingLockExclusive).is_ok() {
            self.sweep();
        }
        // Without the lock (some network file systems have none) nobody clears up, and all else works.
        let _ = flock(&self.fd, FlockOperation::NonBlockingLockShared);
    }

    /// Deletes temporaries that nobody works on; sets large ones aside for [`Self::take_leftover`].
    fn sweep(&self) {
        let Ok(names) = self.names() else { return };
        let mut kept = Vec::new();
        for name in names.iter().map(|(name, _)| name.to_bytes()).filter(|name| is_temporary(name)) {
            match self.look_at(name) {
                Ok(Some(there)) if there.st_uid == self.shared.user => {
                    let large =
                        u64::try_from(there.st_size).is_ok_and(|size| size >= limit::RESUME_BYTES_MIN);
                    let regular = FileType::from_raw_mode(there.st_mode) == FileType::RegularFile;
                    if large && regular && kept.len() < limit::RESUMED_FILES_MAX {
                        kept.push(name.to_vec());
                    } else {
                        let _ = unlinkat(&self.fd, name, AtFlags::empty());
                    }
                }
                _ => {}
            }
        }
        *self.leftovers.lock().unwrap_or_else(PoisonError::into_inner) = kept;
    }

    /// A temporary that a restore which died left of the file with this tag, open for reading and writing, with its
    /// length. Everything in it is to be checked.
    ///
    /// Only one that nobody but this user can ever have opened, in a directory where nobody else can put things.
    pub(super) fn take_leftover(self: &Arc<Self>, tag: [u8; 16]) -> Option<(Temporary, OwnedFd, u64)> {
        let begin = format!("{BEGIN}{}-", hex::encode(tag));
        let mut leftovers = self.leftovers.lock().unwrap_or_else(PoisonError::into_inner);
        let at = leftovers.iter().position(|name| name.starts_with(begin.as_bytes()))?;
        let name = leftovers.swap_remove(at);
        drop(leftovers);
        let temporary = Temporary { dir: self.clone(), name: String::from_utf8(name).ok() };
        let (dir, name) = temporary.place();
        let fd = open_beneath(dir, name.as_bytes(), OFlags::RDWR | OFlags::NONBLOCK).ok()?;
        let there = fstat(&fd).ok()?;
        let untouched = FileType::from_raw_mode(there.st_mode) == FileType::RegularFile
            && there.st_nlink == 1
            && there.st_uid == self.shared.user
            && there.st_mode & 0o7777 == 0o600;
        // One that does not fit is deleted with `temporary`.
        (self.guarded && untouched).then_some((temporary, fd, u64::try_from(there.st_size).unwrap_or(0)))
    }
}

impl Drop for TargetDir {
    fn drop(&mut self) {
        for name in self.leftovers.get_mut().unwrap_or_else(PoisonError::into_inner) {
            let _ = unlinkat(&self.fd, name.as_slice(), AtFlags::empty());
        }
        self.give_back_mode();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// Where there is no rename that replaces nothing and no link, every file failed.
    #[test]
    fn a_free_name_is_taken_the_first_way_that_there_is() {
        let (done, taken) = (Ok(()), Err(Errno::EXIST));
        let table: [(_, _, _, _, &[&str]); 9] = [
            (done, done, done, done, &["rename"]),
            (taken, done, done, taken, &["rename"]),
            (Err(Errno::NOSPC), done, done, Err(Errno::NOSPC), &["rename"]),
            (Err(Errno::INVAL), done, done, done, &["rename", "link"]),
            (Err(Errno::NOSYS), taken, done, taken, &["rename", "link"]),
            (Err(Errno::NOTSUP), Err(Errno::IO), done, Err(Errno::IO), &["rename", "link"]),
            (Err(Errno::INVAL), Err(Errno::PERM), done, done, &["rename", "link", "look"]),
            (Err(Errno::INVAL), Err(Errno::NOSYS), taken, taken, &["rename", "link", "look"]),
            (Err(Errno::INVAL), Err(Errno::NOTSUP), done, done, &["rename", "link", "look"]),
        ];
        for (rename, link, look, expected, ways) in table {
            let tried = RefCell::new(Vec::new());
            let way = |name, result| {
                tried.borrow_mut().push(name);
                result
            };
            let found = to_free(|| way("rename", rename), || way("link", link), || way("look", look));
            assert_eq!((found, &tried.into_inner()[..]), (expected, ways));
        }
    }
}
