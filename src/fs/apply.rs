//! Giving an entry its owner, extended attributes, mode and times, in the one order that keeps them all.
//!
//! Owner first (a change of owner clears setuid and capabilities), attributes while the entry is still
//! writable, then the mode, and times last. What cannot be set is noted, never fatal: the content is there.

use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, chmod, chownat, fchmod,
    fchown, fremovexattr, fsetxattr, futimens, removexattr, setxattr, utimensat,
};
use rustix::io::Errno;

use super::capture::proc_path;
use super::compare;
use super::listing::c_name;
use super::target::{Lost, RestoreOptions, Shared};
use crate::base::limit;
use crate::wire;

const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
pub(super) const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";

/// The entry in hand. Never a path: whatever happens to its name, this entry and no other is changed.
#[derive(Copy, Clone)]
pub(super) enum Subject<'a> {
    /// An open file or directory.
    Open(BorrowedFd<'a>),
    /// A handle that only points (`O_PATH`), of a symlink, FIFO, socket or device.
    Handle(BorrowedFd<'a>),
}

/// What is known of an entry that was just made, so that setting it again can be spared. Only where nobody else could
/// have changed it since.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) struct Born {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// It was made with exactly these permission bits; `None` when it was not, or is not known.
    pub(super) mode: Option<u32>,
    /// It may have taken over an ACL.
    pub(super) acl: bool,
}

/// Applies everything that `node` says and the options allow.
pub(super) fn apply(
    shared: &Shared,
    path: &Path,
    subject: Subject<'_>,
    node: &wire::Node,
    born: Option<Born>,
) {
    let warn = |lost, error: Errno| shared.warn(path.to_owned(), lost, error);
    let options = shared.options;
    // With setuid or setgid the owner is set whatever is known: it decides whose rights they give.
    let is_owned =
        born.is_some_and(|born| (born.uid, born.gid) == (node.uid, node.gid)) && node.mode & 0o6000 == 0;
    let owned = !options.owner
        || is_owned
        || set_owner(subject, node).map_err(|error| warn(Lost::Owner, error)).is_ok();
    if born.is_none_or(|born| born.acl) {
        drop_inherited_acls(subject, node);
    }
    for xattr in node.xattrs.iter().filter(|xattr| is_granted(&options, &xattr.name)) {
        if let Err(error) = set_xattr(subject, xattr) {
            warn(Lost::Attribute(xattr.name.clone()), error);
        }
    }
    if node.r#type() != wire::NodeType::NodeSymlink {
        // Setuid for whoever happens to own the file instead would hand out the wrong rights.
        let mode = mode_of(&options, node) & if owned { 0o7777 } else { 0o1777 };
        let is_set = node.xattrs.is_empty() && born.is_some_and(|born| born.mode == Some(mode));
        if !is_set && let Err(error) = set_mode(subject, Mode::from_raw_mode(mode)) {
            warn(Lost::Mode, error);
        }
    }
    if let Err(error) = set_times(subject, node) {
        warn(Lost::Times, error);
    }
}

/// The permission bits that an entry gets which has its owner.
pub(super) fn mode_of(options: &RestoreOptions, node: &wire::Node) -> u32 {
    node.mode & if options.owner && options.privileged { 0o7777 } else { 0o1777 }
}

/// Whether a restore sets an extended attribute of this name.
pub(super) fn is_granted(options: &RestoreOptions, name: &[u8]) -> bool {
    options.privileged || !grants_rights(name)
}

/// Whether an entry that a restore changes has an attribute of this name that `node` has not, and that is not the system's
/// own (labels of security modules).
pub(super) fn is_foreign(options: &RestoreOptions, name: &[u8], node: &wire::Node) -> bool {
    let removable = name.starts_with(b"user.")
        || name.starts_with(b"system.posix_acl_")
        || (options.privileged && (name.starts_with(b"trusted.") || name == b"security.capability"));
    removable && !node.partial && !node.xattrs.iter().any(|xattr| xattr.name == name)
}

/// Takes from an entry that was there before what `node` does not have. What cannot be taken is noted.
pub(super) fn strip(shared: &Shared, path: &Path, fd: BorrowedFd<'_>, node: &wire::Node) {
    let mut list = vec![0; limit::XATTR_VALUE_BYTES_MAX];
    let Ok(names) = compare::names(Subject::Open(fd), &mut list) else { return };
    for name in names.split(|byte| *byte == 0).filter(|name| is_foreign(&shared.options, name, node)) {
        match fremovexattr(fd, name) {
            Ok(()) | Err(Errno::NODATA) => {}
            Err(error) => shared.warn(path.to_owned(), Lost::Foreign(name.to_vec()), error),
        }
    }
}

fn grants_rights(name: &[u8]) -> bool {
    name.starts_with(b"security.") || name.starts_with(b"trusted.")
}

fn set_owner(subject: Subject<'_>, node: &wire::Node) -> Result<(), Errno> {
    // The highest number means "leave it": no real owner has it.
    if node.uid == u32::MAX || node.gid == u32::MAX {
        return Err(Errno::INVAL);
    }
    let (uid, gid) = (Some(Uid::from_raw(node.uid)), Some(Gid::from_raw(node.gid)));
    match subject {
        Subject::Open(fd) => fchown(fd, uid, gid),
        Subject::Handle(fd) => chownat(fd, c"", uid, gid, AtFlags::EMPTY_PATH),
    }
}

/// A new entry takes over the default ACL of the directory it is made in; the snapshot's has its own or none.
fn drop_inherited_acls(subject: Subject<'_>, node: &wire::Node) {
    let has = |name| node.xattrs.iter().any(|xattr| xattr.name == name);
    let kinds: &[&[u8]] = match node.r#type() {
        wire::NodeType::NodeDirectory => &[ACL_ACCESS, ACL_DEFAULT],
        wire::NodeType::NodeSymlink => &[],
        _ => &[ACL_ACCESS],
    };
    for name in kinds.iter().filter(|name| !has(**name)) {
        // Usually there is none, which is an error to the system and none to us.
        let _ = match subject {
            Subject::Open(fd) => fremovexattr(fd, *name),
            Subject::Handle(fd) => removexattr(c_name(&proc_path(fd)), *name),
        };
    }
}

fn set_xattr(subject: Subject<'_>, xattr: &wire::Xattr) -> Result<(), Errno> {
    let (name, value) = (xattr.name.as_slice(), xattr.value.as_slice());
    match subject {
        Subject::Open(fd) => fsetxattr(fd, name, value, XattrFlags::empty()),
        Subject::Handle(fd) => setxattr(c_name(&proc_path(fd)), name, value, XattrFlags::empty()),
    }
}

fn set_mode(subject: Subject<'_>, mode: Mode) -> Result<(), Errno> {
    match subject {
        Subject::Open(fd) => fchmod(fd, mode),
        Subject::Handle(fd) => chmod(c_name(&proc_path(fd)), mode),
    }
}

fn set_times(subject: Subject<'_>, node: &wire::Node) -> Result<(), Errno> {
    let spec = |time: &Option<wire::Time>| match time {
        // Larger values have meanings of their own.
        Some(time) => Timespec { tv_sec: time.seconds, tv_nsec: time.nanos.min(999_999_999).into() },
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
    };
    let times = Timestamps { last_access: spec(&node.atime), last_modification: spec(&node.mtime) };
    match subject {
        Subject::Open(fd) => futimens(fd, &times),
        Subject::Handle(fd) => match utimensat(fd, c"", &times, AtFlags::EMPTY_PATH) {
            // Before Linux 5.8.
            Err(Errno::INVAL) => utimensat(CWD, c_name(&proc_path(fd)), &times, AtFlags::empty()),
            other => other,
        },
    }
}
