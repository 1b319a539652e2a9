//! Where a restore goes: one directory, the rules for what is there already, and what could not be set.

use std::fmt;
use std::fs::DirBuilder;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{CWD, Mode, OFlags, Stat, openat, syncfs};
use rustix::io::Errno;

use super::capture::time;
use super::directory::TargetDir;
use super::{FsError, capture};
use crate::base::{limit, random_bytes};
use crate::wire;

/// What happens to what is there already. Directories are always shared, never replaced; with all but `Never` they get the
/// snapshot's metadata.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub enum Overwrite {
    /// It stays.
    #[default]
    Never,
    /// It is replaced unless kind, size and modification time agree; then it gets the metadata that differs.
    IfChanged,
    /// It is replaced when the snapshot's is newer.
    IfNewer,
    /// It is replaced.
    Always,
}

/// How to restore.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub struct RestoreOptions {
    /// What happens to files that are there already.
    pub overwrite: Overwrite,
    /// Give entries their owner and group.
    pub owner: bool,
    /// Restore what grants rights: devices, `security.*` and `trusted.*` attributes and, together with `owner`,
    /// setuid and setgid bits.
    pub privileged: bool,
    /// Leave out zeros that the snapshot stores as data, too. Holes are always left out.
    pub sparse: bool,
}

/// What became of an entry.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It is there now.
    Made,
    /// It was not made.
    Skipped(SkipReason),
}

/// Why an entry was not made. None of these is an error.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum SkipReason {
    /// Something is there, and nothing is to be overwritten.
    Exists,
    /// What is there is the same already.
    Unchanged,
    /// What is there is as new or newer.
    NotNewer,
    /// It takes rights that this restore does without, or does not have.
    Unprivileged,
}

/// Something that an entry was restored without.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Warning {
    /// The entry.
    pub path: PathBuf,
    /// What it lacks.
    pub lost: Lost,
    /// Why.
    pub reason: io::ErrorKind,
}

/// A property that could not be set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Lost {
    /// Owner and group.
    Owner,
    /// Permission bits.
    Mode,
    /// Access and modification time.
    Times,
    /// An extended attribute or ACL, by name.
    Attribute(Vec<u8>),
    /// The device node itself.
    Device,
    /// That an extended attribute is not there, by name.
    Foreign(Vec<u8>),
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |name: &[u8]| format!("{:?}", String::from_utf8_lossy(name));
        match self {
            Self::Owner => f.write_str("restored without its owner"),
            Self::Mode => f.write_str("restored without its mode"),
            Self::Times => f.write_str("restored without its times"),
            Self::Device => f.write_str("restored without its device"),
            Self::Attribute(attribute) => write!(f, "restored without its attribute {}", name(attribute)),
            Self::Foreign(attribute) => {
                write!(f, "keeps the attribute {}, which the snapshot does not have", name(attribute))
            }
        }
    }
}

/// What was lost so far.
#[derive(Clone, Debug, Default)]
pub struct Warnings {
    /// The first `limit::RESTORE_WARNINGS_MAX`.
    pub first: Vec<Warning>,
    /// How many there were in all.
    pub count: u64,
}

/// A directory that a restore writes into, and never out of.
pub struct Target {
    root: Arc<TargetDir>,
}

impl Target {
    /// Opens `dir`, making it (mode 0700) with the directories above it if absent. Symlinks in `dir` itself
    /// are followed: a person chose it. The directory `spared` is neither entered nor deleted, wherever it lies.
    ///
    /// # Errors
    /// `NotADirectory`, `Spared` when `dir` is or lies in `spared`, or what the system says.
    pub fn open(dir: &Path, spared: Option<&Path>, options: RestoreOptions) -> Result<Self, FsError> {
        refuse_spared(dir, spared)?;
        let made = make_chosen(dir).map_err(|e| unfit("create", dir, e))?;
        let target = Self::over(open_chosen(dir)?, dir, spared, options, made);
        target.root.claim(false);
        Ok(target)
    }

    /// The same, only to look: nothing is made, and nothing there is `None`.
    ///
    /// # Errors
    /// As of [`Self::open`].
    pub fn look(dir: &Path, spared: Option<&Path>, options: RestoreOptions) -> Result<Option<Self>, FsError> {
        refuse_spared(dir, spared)?;
        match open_chosen(dir) {
            Ok(fd) => Ok(Some(Self::over(fd, dir, spared, options, false))),
            Err(FsError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn over(fd: OwnedFd, dir: &Path, spared: Option<&Path>, options: RestoreOptions, made: bool) -> Self {
        let identity = |path: &Path| path.metadata().ok().map(|there| (there.dev(), there.ino()));
        let shared = Shared {
            options,
            spared: spared.and_then(identity),
            user: rustix::process::geteuid().as_raw(),
            umask: umask(),
            run: random_bytes(),
            names: AtomicU64::new(0),
            first: Mutex::new(Vec::new()),
            count: AtomicU64::new(0),
        };
        Self { root: Arc::new(TargetDir::root(fd, dir.to_owned(), Arc::new(shared), made)) }
    }

    /// The directory itself.
    pub fn root(&self) -> Arc<TargetDir> {
        self.root.clone()
    }

    /// Everything restored so far is on the disk when this returns.
    ///
    /// Takes as long as the disk needs for all of it, often longer than the restore. What was restored is not the only
    /// copy, so this is for those who ask; nothing is synced file by file.
    pub fn sync(&self) -> Result<(), FsError> {
        syncfs(&self.root.fd).map_err(|e| FsError::io("sync", &self.root.path, e))
    }

    /// What could not be set so far.
    pub fn warnings(&self) -> Warnings {
        let shared = &self.root.shared;
        Warnings {
            first: shared.first.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            count: shared.count.load(Ordering::Relaxed),
        }
    }
}

/// Makes a directory, with those above it; whether it was not there.
fn make_chosen(dir: &Path) -> io::Result<bool> {
    if let Some(parent) = dir.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        made => made.map(|()| true),
    }
}

fn open_chosen(dir: &Path) -> Result<OwnedFd, FsError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, dir, flags, Mode::empty()).map_err(|e| unfit("open", dir, e.into()))
}

/// What is wrong with a target; one that is a file, or below one, is named as such.
fn unfit(action: &'static str, dir: &Path, error: io::Error) -> FsError {
    match Errno::from_io_error(&error) {
        Some(Errno::NOTDIR | Errno::EXIST) => FsError::NotADirectory(dir.to_owned()),
        _ => FsError::io(action, dir, error),
    }
}

/// A restore into the directory that it reads from would destroy it.
fn refuse_spared(dir: &Path, spared: Option<&Path>) -> Result<(), FsError> {
    let Some(spared) = spared.and_then(|spared| spared.canonicalize().ok()) else { return Ok(()) };
    // What is not there yet will lie where the part that is there leads to.
    let there = dir.ancestors().find_map(|above| above.canonicalize().ok());
    match there {
        Some(there) if there.starts_with(&spared) => Err(FsError::Spared(dir.to_owned())),
        _ => Ok(()),
    }
}

/// The bits that new files of this process go without. `None` where the kernel does not tell: asking the usual way
/// would change them for all threads.
fn umask() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
    u32::from_str_radix(line.trim(), 8).ok()
}

/// What all directories of one restore have in common.
pub(super) struct Shared {
    pub(super) options: RestoreOptions,
    /// Device and inode of a directory that is left alone.
    pub(super) spared: Option<(u64, u64)>,
    /// Who this process is to the file system.
    pub(super) user: u32,
    pub(super) umask: Option<u32>,
    /// Part of every temporary name.
    pub(super) run: [u8; 16],
    /// Temporary names given out.
    pub(super) names: AtomicU64,
    first: Mutex<Vec<Warning>>,
    count: AtomicU64,
}

impl Shared {
    /// Notes that an entry goes without something.
    pub(super) fn warn(&self, path: PathBuf, lost: Lost, error: impl Into<io::Error>) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        if first.len() < limit::RESTORE_WARNINGS_MAX {
            first.push(Warning { path, lost, reason: error.into().kind() });
        }
    }
}

/// Whether `node` may take the place of what is there.
pub(super) fn may_replace(rule: Overwrite, there: &Stat, node: &wire::Node) -> Result<(), SkipReason> {
    let mtime = time(there.st_mtime, there.st_mtime_nsec);
    let wanted = node.mtime.unwrap_or_default();
    let same = || {
        capture::node_type(there) == node.r#type()
            && mtime == wanted
            && (node.r#type() != wire::NodeType::NodeFile || u64::try_from(there.st_size) == Ok(node.size))
    };
    match rule {
        Overwrite::Never => Err(SkipReason::Exists),
        Overwrite::IfChanged if same() => Err(SkipReason::Unchanged),
        Overwrite::IfNewer if (wanted.seconds, wanted.nanos) <= (mtime.seconds, mtime.nanos) => {
            Err(SkipReason::NotNewer)
        }
        Overwrite::IfChanged | Overwrite::IfNewer | Overwrite::Always => Ok(()),
    }
}
