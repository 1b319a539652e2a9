//! Walking: one event for each entry, depth first, in byte order of names, from open directory to open directory.
//!
//! Invariant: every `Enter` has its `Leave`, and between them come only entries of that directory. Whatever
//! changes on the disk meanwhile, no symlink below a root is followed and nothing is visited twice.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat, statat};
use rustix::io::Errno;

use super::FsError;
use super::capture::{Capture, Place};
use super::listing::{Kind, Listing, Names};
use super::select::Selection;
use crate::base::limit;
use crate::snapshot::{Omission, Omissions};
use crate::wire;

/// What a walk meets.
#[derive(Debug)]
pub enum WalkEvent {
    /// A directory begins; everything up to its `Leave` lies in it. The first one is `/` with an empty name, then
    /// come the directories down to the roots, with their real metadata and only the chosen entries.
    Enter {
        /// Its path.
        path: PathBuf,
        /// Its record; `tree` is for the caller to fill.
        node: wire::Node,
    },
    /// The directory entered last and not yet left is done.
    Leave {
        /// What of it is not in the walk.
        omissions: Omissions,
    },
    /// Anything that is not a directory. A file's content is for the caller to fill.
    Entry {
        /// Its path.
        path: PathBuf,
        /// Its record.
        node: wire::Node,
    },
    /// Something here could not be read (the listing, the metadata, the extended attributes); the walk goes
    /// on. What could be read of the entry comes all the same, as its own event.
    Failed {
        /// The path.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// An entry that a filter judges.
pub struct Item<'a> {
    /// Its path.
    pub path: &'a Path,
    /// Whether it is a directory.
    pub is_directory: bool,
    /// Length of a regular file in bytes; 0 for everything else.
    pub size_bytes: u64,
}

/// Decides what a walk leaves out. Roots, and directories above them, are never asked about.
pub trait Filter: Send {
    /// Whether `item` belongs to the walk. A directory is asked about before it is opened.
    fn keeps(&mut self, item: &Item<'_>) -> bool;

    /// A directory was listed: the place to look for ignore files and markers. An error is told as a failure of the
    /// directory, whose contents then belong to the walk.
    fn enters(&mut self, listing: &Listing<'_>) -> io::Result<Contents> {
        let _ = listing;
        Ok(Contents::All)
    }

    /// The directory of the last unmatched `enters` is done.
    fn leaves(&mut self) {}
}

/// What a filter leaves of a directory's contents.
#[derive(Debug, PartialEq, Eq)]
pub enum Contents {
    /// Everything; each entry is asked about.
    All,
    /// Entries of these names, and roots.
    Only(Vec<String>),
}

/// Leaves nothing out.
pub struct KeepAll;

impl Filter for KeepAll {
    fn keeps(&mut self, _: &Item<'_>) -> bool {
        true
    }
}

/// How to walk.
pub struct WalkOptions {
    /// Stay on each root's file system. A mount point is recorded as an empty directory.
    pub one_file_system: bool,
    /// Directories never entered nor recorded, by whatever path they are met (the store itself).
    pub skip: Vec<PathBuf>,
    /// What else to leave out.
    pub filter: Box<dyn Filter>,
}

impl Default for WalkOptions {
    fn default() -> Self {
        Self { one_file_system: false, skip: Vec::new(), filter: Box::new(KeepAll) }
    }
}

/// A walk under way. Holds the names of the directories it is in, and at most
/// `limit::WALK_OPEN_DIRECTORIES_MAX` of them open.
pub struct Walk {
    filter: Box<dyn Filter>,
    one_file_system: bool,
    skip: Vec<Identity>,
    capture: Capture,
    stack: Vec<Level>,
    ready: VecDeque<WalkEvent>,
    /// Where the walk is; empty for `/`.
    path: Vec<u8>,
    dirents: Vec<u8>,
}

/// Without it extended attributes cannot be captured, which must not stay unnoticed.
const PROC_FD: &str = "/proc/self/fd";

/// Device and inode.
pub(super) type Identity = (u64, u64);

/// A directory between its `Enter` and its `Leave`.
struct Level {
    /// `None` while it is closed to spare handles, and when it could not be found again.
    dir: Option<OwnedFd>,
    identity: Identity,
    reach: Reach,
    names: Names,
    next: usize,
    path_length: usize,
    filter_told: bool,
    omissions: Omissions,
}

/// What of a directory belongs to the walk.
struct Reach {
    /// Roots in or below it.
    selection: Selection,
    /// Everything in it; otherwise only what `selection` names.
    whole: bool,
    /// Why it is not whole, although the directory around it is.
    cut: Option<Omission>,
    /// It stands above a root and may have been reached through a symlink, so its `..` may lead elsewhere.
    followed: bool,
}

/// One name in an open directory.
struct Found<'a> {
    dir: BorrowedFd<'a>,
    device: u64,
    name: &'a CStr,
    /// Its directory is walked whole.
    inside: bool,
    selection: Option<Selection>,
}

impl Found<'_> {
    fn is_root(&self) -> bool {
        self.selection.as_ref().is_some_and(|s| s.chosen)
    }

    fn leads_to_root(&self) -> bool {
        self.selection.as_ref().is_some_and(|s| !s.below.is_empty())
    }

    /// What becomes of it when it is not asked for, or a rule leaves it out.
    fn left_out(&self) -> Step {
        if self.inside { Step::Omit(Omission::ByRule) } else { Step::Stay }
    }
}

impl Level {
    /// The name that was looked at last is not in the walk.
    fn omit(&mut self, why: Omission) {
        if let Some((name, _)) = self.next.checked_sub(1).and_then(|at| self.names.get(at)) {
            self.omissions.note(name.to_bytes(), why);
        }
    }
}

enum Step {
    Done,
    Stay,
    /// The name does not come into the walk, although it is there.
    Omit(Omission),
    Into(Box<Level>),
}

impl Walk {
    /// Prepares a walk of `roots`: absolute paths of directories or files, which may nest and repeat. Symlinks
    /// above a root are followed; a root that is a symlink is recorded as one. Roots that are not there come as
    /// [`WalkEvent::Failed`], first of all.
    ///
    /// # Errors
    /// `UsageInvalid` for a relative path or one with `..`, `PathNotFound` when none of them exists.
    pub fn new(roots: &[PathBuf], options: WalkOptions) -> Result<Self, FsError> {
        let (selection, missing) = Selection::of(roots)?;
        let skip = options.skip.iter().filter_map(|path| rustix::fs::stat(path).ok());
        let mut walk = Self {
            filter: options.filter,
            one_file_system: options.one_file_system,
            skip: skip.map(|stat| identity(&stat)).collect(),
            capture: Capture::new(),
            stack: Vec::new(),
            ready: VecDeque::new(),
            path: Vec::new(),
            dirents: Vec::with_capacity(limit::DIRECTORY_READ_BYTES),
        };
        if let Err(error) = rustix::fs::access(PROC_FD, rustix::fs::Access::EXISTS) {
            walk.ready.push_back(WalkEvent::Failed { path: PROC_FD.into(), error: error.into() });
        }
        walk.ready.extend(missing.into_iter().map(|(path, error)| WalkEvent::Failed { path, error }));
        let root = Path::new("/");
        let (dir, stat) = open_directory(CWD, c"/", true).map_err(|e| FsError::io("open", root, e))?;
        let whole = selection.chosen;
        let level = walk.enter(c"", dir, &stat, Reach { selection, whole, cut: None, followed: true });
        walk.stack.extend(level);
        Ok(walk)
    }

    /// Deals with the next name of `level`.
    fn step(&mut self, level: &mut Level) -> Step {
        let (Some(dir), Some((name, kind))) = (&level.dir, level.names.get(level.next)) else {
            return Step::Done;
        };
        level.next += 1;
        self.path.truncate(level.path_length);
        self.path.push(b'/');
        self.path.extend_from_slice(name.to_bytes());
        let selection = match level.reach.selection.below.is_empty() {
            true => None,
            false => level.reach.selection.below.remove(name.to_bytes()),
        };
        let found =
            Found { dir: dir.as_fd(), device: level.identity.0, name, inside: level.reach.whole, selection };
        if kind == Kind::Directory || found.leads_to_root() {
            return self.visit_directory(found);
        }
        match look_at(&found) {
            Ok(stat) if is_directory(&stat) => self.visit_directory(found),
            Ok(stat) => self.visit_other(&found, &stat),
            Err(error) => self.missed(&found, error),
        }
    }

    fn visit_directory(&mut self, found: Found<'_>) -> Step {
        let item = Item { path: path_of(&self.path), is_directory: true, size_bytes: 0 };
        let inherited = found.inside && (found.is_root() || self.filter.keeps(&item));
        if !inherited && found.selection.is_none() {
            return found.left_out();
        }
        let followed = found.leads_to_root();
        let (dir, stat) = match open_directory(found.dir, found.name, followed) {
            Ok(opened) => opened,
            Err(error) => return self.visit_closed(&found, error),
        };
        if self.stack.len() + 1 >= limit::DIRECTORY_DEPTH_MAX {
            // What no restore could make again is not stored as if one could.
            let levels = limit::DIRECTORY_DEPTH_MAX;
            self.fail(io::Error::other(format!("more than {} directories deep: left out", levels - 1)));
            return Step::Omit(Omission::Unreadable);
        }
        let elsewhere = self.one_file_system && stat.st_dev != found.device;
        let whole = found.is_root() || (inherited && !elsewhere);
        let why = if elsewhere { Omission::OtherFileSystem } else { Omission::ByRule };
        let cut = (found.inside && !whole).then_some(why);
        let reach = Reach { selection: found.selection.unwrap_or_default(), whole, cut, followed };
        let entered = self.enter(found.name, dir, &stat, reach);
        entered.map_or(Step::Omit(Omission::Store), |level| Step::Into(Box::new(level)))
    }

    /// What the listing calls a directory does not open as one: it may not be opened, or changed meanwhile.
    fn visit_closed(&mut self, found: &Found<'_>, error: Errno) -> Step {
        match look_at(found) {
            Ok(stat) if is_directory(&stat) => {
                if self.skip.contains(&identity(&stat)) {
                    return Step::Omit(Omission::Store);
                }
                let node = self.record_closed(found, &stat);
                self.ready.push_back(WalkEvent::Enter { path: self.here(), node });
                self.fail(error);
                let mut omissions = Omissions::default();
                omissions.note_unnamed(Omission::Unreadable);
                self.ready.push_back(WalkEvent::Leave { omissions });
                Step::Stay
            }
            Ok(stat) => self.visit_other(found, &stat),
            Err(error) => self.missed(found, error),
        }
    }

    fn visit_other(&mut self, found: &Found<'_>, stat: &Stat) -> Step {
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        let size_bytes = if is_file { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 };
        let item = Item { path: path_of(&self.path), is_directory: false, size_bytes };
        let kept = found.is_root() || (found.inside && self.filter.keeps(&item));
        if !kept {
            return found.left_out();
        }
        let mut node = self.capture.node(found.name.to_bytes(), stat);
        if node.r#type() == wire::NodeType::NodeSymlink {
            match readlinkat(found.dir, found.name, Vec::new()) {
                Ok(target) => node.target = target.into_bytes(),
                Err(error) => return self.missed(found, error),
            }
        }
        self.ready.push_back(WalkEvent::Entry { path: self.here(), node });
        Step::Stay
    }

    /// Announces an open directory and lists it; `None` when it is to be skipped.
    fn enter(&mut self, name: &CStr, dir: OwnedFd, stat: &Stat, reach: Reach) -> Option<Level> {
        if self.skip.contains(&identity(stat)) {
            return None;
        }
        let place = if reach.followed { Place::Handle(dir.as_fd()) } else { Place::Open(dir.as_fd()) };
        let node = self.record(name, stat, place);
        self.ready.push_back(WalkEvent::Enter { path: self.here(), node });
        let mut names;
        let mut filter_told = false;
        let mut omissions = Omissions::default();
        reach.cut.into_iter().for_each(|why| omissions.note_unnamed(why));
        if reach.whole {
            let broken;
            (names, broken) = Names::read(dir.as_fd(), &mut self.dirents);
            if let Some(error) = broken {
                self.fail(error);
                omissions.note_unnamed(Omission::Unreadable);
            }
            filter_told = true;
            let listing = Listing { path: path_of(&self.path), names: &names, dir: dir.as_fd() };
            match self.filter.enters(&listing) {
                Ok(Contents::All) => {}
                Ok(Contents::Only(kept)) => {
                    let mut chosen: BTreeSet<Vec<u8>> = kept.into_iter().map(String::into_bytes).collect();
                    chosen.retain(|name| names.contains(name));
                    chosen.extend(reach.selection.below.keys().cloned());
                    names = Names::chosen(chosen.iter());
                    omissions.note_unnamed(Omission::ByRule);
                }
                Err(error) => self.fail(error),
            }
        } else {
            names = Names::chosen(reach.selection.below.keys());
        }
        let path_length = self.path.len();
        Some(Level {
            dir: Some(dir),
            identity: identity(stat),
            reach,
            names,
            next: 0,
            path_length,
            filter_told,
            omissions,
        })
    }

    /// Goes down. Beyond a depth, the outermost directory that is still open is closed.
    fn descend(&mut self, level: Level) {
        self.stack.push(level);
        if let Some(outer) = self.stack.len().checked_sub(limit::WALK_OPEN_DIRECTORIES_MAX + 1)
            && !self.stack[outer + 1].reach.followed
        {
            self.stack[outer].dir = None;
        }
    }

    /// Comes back from `level`, reopening the directory around it if need be.
    fn ascend(&mut self, level: Level) {
        self.path.truncate(level.path_length);
        if level.next > 0
            && rustix::fs::stat(path_of(&self.path)).is_ok_and(|s| identity(&s) != level.identity)
        {
            // Another directory took its path: some extended attributes may have been looked for there.
            self.fail(Errno::STALE);
        }
        self.ready.push_back(WalkEvent::Leave { omissions: level.omissions });
        if level.filter_told {
            self.filter.leaves();
        }
        let Some(outer) = self.stack.last_mut() else { return };
        self.path.truncate(outer.path_length);
        if outer.dir.is_some() {
            return;
        }
        let reopened = match &level.dir {
            Some(inner) => open_directory(inner.as_fd(), c"..", false),
            None => Err(Errno::STALE),
        };
        let error = match reopened {
            Ok((dir, stat)) if identity(&stat) == outer.identity => {
                outer.dir = Some(dir);
                return;
            }
            // Someone moved the inner directory: the rest of the outer one cannot be found from here.
            Ok(_) => Errno::STALE,
            Err(error) => error,
        };
        outer.omissions.note_unnamed(Omission::Unreadable);
        self.fail(error);
    }

    /// The record of an open directory.
    fn record(&mut self, name: &CStr, stat: &Stat, place: Place<'_>) -> wire::Node {
        let mut node = self.capture.node(name.to_bytes(), stat);
        let completed = self.capture.complete(&mut node, place);
        self.survive(completed);
        node
    }

    /// The record of a directory that cannot be opened.
    fn record_closed(&mut self, found: &Found<'_>, stat: &Stat) -> wire::Node {
        let mut node = self.capture.node(found.name.to_bytes(), stat);
        let place = Place::Child { dir: found.dir, name: found.name, path: path_of(&self.path) };
        let completed = self.capture.complete(&mut node, place);
        self.survive(completed);
        node
    }

    /// A failure to read extended attributes is told and survived.
    fn survive(&mut self, completed: io::Result<()>) {
        match completed {
            Ok(()) => {}
            // Deleted meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.fail(error),
        }
    }

    /// An entry could not be looked at. One that is gone by now was deleted meanwhile: no failure, unless it
    /// was asked for by name.
    fn missed(&mut self, found: &Found<'_>, error: Errno) -> Step {
        if error != Errno::NOENT || found.selection.is_some() {
            self.fail(error);
        }
        if error == Errno::NOENT { Step::Stay } else { Step::Omit(Omission::Unreadable) }
    }

    fn fail(&mut self, error: impl Into<io::Error>) {
        self.ready.push_back(WalkEvent::Failed { path: self.here(), error: error.into() });
    }

    fn here(&self) -> PathBuf {
        path_of(&self.path).to_owned()
    }
}

/// Where a backup's entries come from.
pub trait Entries: Send {
    /// The next event. An entry comes without its birth time and extended attributes.
    fn advance(&mut self) -> Option<WalkEvent>;

    /// Adds them to the entry that came last. Asking for them takes as long as everything else about a small file, and
    /// who knows its change time knows them.
    fn complete(&mut self, node: &mut wire::Node);
}

impl Entries for Box<dyn Entries> {
    fn advance(&mut self) -> Option<WalkEvent> {
        (**self).advance()
    }

    fn complete(&mut self, node: &mut wire::Node) {
        (**self).complete(node);
    }
}

impl Iterator for Walk {
    type Item = WalkEvent;

    /// The next event, entries with everything.
    fn next(&mut self) -> Option<WalkEvent> {
        let mut event = self.advance();
        if let Some(WalkEvent::Entry { node, .. }) = &mut event {
            self.complete(node);
        }
        event
    }
}

impl Entries for Walk {
    fn complete(&mut self, node: &mut wire::Node) {
        let (Some(level), Ok(name)) = (self.stack.last(), CString::new(node.name.as_slice())) else { return };
        let Some(dir) = &level.dir else { return };
        let place = Place::Child { dir: dir.as_fd(), name: &name, path: path_of(&self.path) };
        let completed = self.capture.complete(node, place);
        self.survive(completed);
    }

    fn advance(&mut self) -> Option<WalkEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            let mut level = self.stack.pop()?;
            match self.step(&mut level) {
                Step::Done => self.ascend(level),
                Step::Stay => self.stack.push(level),
                Step::Omit(why) => {
                    level.omit(why);
                    self.stack.push(level);
                }
                Step::Into(inner) => {
                    self.stack.push(level);
                    self.descend(*inner);
                }
            }
        }
    }
}

/// Opens a directory for listing, together with its metadata as of before that. With `follow`, a symlink is
/// followed, and a directory that may be passed but not listed gives a handle all the same.
fn open_directory(dir: BorrowedFd<'_>, name: &CStr, follow: bool) -> Result<(OwnedFd, Stat), Errno> {
    let base = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let base = if follow { base } else { base | OFlags::NOFOLLOW };
    let open = |flags| openat(dir, name, base | flags, Mode::empty());
    // Only the owner and root may leave the access time alone.
    let opened = match open(OFlags::NOATIME) {
        Err(Errno::PERM) => open(OFlags::empty()),
        other => other,
    };
    let opened = match opened {
        Err(Errno::ACCESS) if follow => open(OFlags::PATH),
        other => other,
    }?;
    let stat = fstat(&opened)?;
    Ok((opened, stat))
}

fn look_at(found: &Found<'_>) -> Result<Stat, Errno> {
    statat(found.dir, found.name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT)
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

pub(super) fn identity(stat: &Stat) -> Identity {
    (stat.st_dev, stat.st_ino)
}

fn path_of(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(if bytes.is_empty() { b"/" } else { bytes }))
}
