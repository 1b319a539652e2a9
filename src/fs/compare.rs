//! Whether what is there has all that a restore would give it. Size and time of modification tell of content only.

use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags, Stat, fgetxattr, flistxattr, fstat, getxattr, listxattr, openat, readlinkat};
use rustix::io::Errno;

use super::apply::{self, Subject};
use super::capture::{proc_path, time};
use super::directory::{Fate, TargetDir};
use super::listing::c_name;
use super::target::SkipReason;
use crate::base::limit;
use crate::wire::{self, NodeType};

impl TargetDir {
    /// What becomes of an entry where one of the same kind, size and modification time is. What has content is not written
    /// again for its metadata; anything else is made anew.
    pub(super) fn fate_of_alike(&self, name: &[u8], there: &Stat, node: &wire::Node) -> Fate {
        if !self.differs(name, there, node) {
            return Fate::Skip(SkipReason::Unchanged);
        }
        // A file with other names is made anew as well: what happens to it happens to them, wherever they are.
        let dressed = node.r#type() == NodeType::NodeFile && there.st_nlink == 1;
        if dressed { Fate::Dress } else { Fate::Replace }
    }

    /// Whether [`TargetDir::finish`] would change it.
    pub fn would_change(&self, node: &wire::Node) -> bool {
        let there = fstat(&self.fd);
        let subject = Subject::Open(self.fd.as_fd());
        there.is_ok_and(|there| {
            Some(time(there.st_mtime, there.st_mtime_nsec)) != node.mtime
                || self.is_dressed_otherwise(&there, node)
                || self.has_other_attributes(subject, node)
        })
    }

    fn differs(&self, name: &[u8], there: &Stat, node: &wire::Node) -> bool {
        let is_device = matches!(node.r#type(), NodeType::NodeCharacterDevice | NodeType::NodeBlockDevice);
        if (there.st_nlink > 1 && node.links <= 1) || (is_device && there.st_rdev != node.rdev) {
            return true;
        }
        if node.r#type() == NodeType::NodeSymlink
            && readlinkat(&self.fd, name, Vec::new()).map(std::ffi::CString::into_bytes).as_ref()
                != Ok(&node.target)
        {
            return true;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.is_dressed_otherwise(there, node)
            || openat(&self.fd, name, flags, Mode::empty())
                .map_or(true, |handle| self.has_other_attributes(Subject::Handle(handle.as_fd()), node))
    }

    fn is_dressed_otherwise(&self, there: &Stat, node: &wire::Node) -> bool {
        let options = &self.shared.options;
        let is_link = node.r#type() == NodeType::NodeSymlink;
        (options.owner && (there.st_uid, there.st_gid) != (node.uid, node.gid))
            || (!is_link && there.st_mode & 0o7777 != apply::mode_of(options, node))
    }

    fn has_other_attributes(&self, subject: Subject<'_>, node: &wire::Node) -> bool {
        let options = &self.shared.options;
        let mut list = vec![0; limit::XATTR_VALUE_BYTES_MAX];
        let Ok(names) = names(subject, &mut list) else { return true };
        let mut value = Vec::new();
        let foreign = names.split(|byte| *byte == 0).any(|name| apply::is_foreign(options, name, node));
        foreign
            || node.xattrs.iter().filter(|xattr| apply::is_granted(options, &xattr.name)).any(|xattr| {
                // One byte more, so that a longer value shows.
                value.resize(xattr.value.len() + 1, 0);
                let (name, value) = (xattr.name.as_slice(), &mut value[..]);
                let read = match subject {
                    Subject::Open(fd) => fgetxattr(fd, name, &mut value[..]),
                    Subject::Handle(fd) => getxattr(c_name(&proc_path(fd)), name, &mut value[..]),
                };
                read.map_or(true, |length| value[..length] != xattr.value)
            })
    }
}

/// Names of extended attributes, each with a zero byte; none where there are none.
pub(super) fn names<'a>(subject: Subject<'_>, list: &'a mut [u8]) -> Result<&'a [u8], Errno> {
    let listed = match subject {
        Subject::Open(fd) => flistxattr(fd, &mut *list),
        Subject::Handle(fd) => listxattr(c_name(&proc_path(fd)), &mut *list),
    };
    match listed {
        Ok(length) => Ok(&list[..length]),
        Err(Errno::NOTSUP | Errno::NOSYS) => Ok(&[]),
        Err(error) => Err(error),
    }
}
