//! Symlinks, FIFOs, sockets, devices, and further names of files: all that has no content of its own.

use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, fstat, linkat, mknodat, symlinkat};
use rustix::io::Errno;

use super::apply::{self, Subject};
use super::directory::{TargetDir, open_beneath};
use super::target::Lost;
use super::temporary::Temporary;
use super::{Fate, FsError, Outcome, Overwrite, SkipReason};
use crate::base::limit;
use crate::wire::{self, NodeType};

impl TargetDir {
    /// Makes a symlink, FIFO, socket or device with its metadata. Devices need a privileged restore.
    ///
    /// # Errors
    /// `UnsafeName`, `Malformed`, `InTheWay` for a directory of that name, or what the system says.
    pub fn special(self: &Arc<Self>, node: &wire::Node) -> Result<Outcome, FsError> {
        let name = self.checked(&node.name)?;
        let malformed = || FsError::Malformed(self.child_path(name));
        let kind = match node.r#type() {
            NodeType::NodeSymlink => FileType::Symlink,
            NodeType::NodeFifo => FileType::Fifo,
            NodeType::NodeSocket => FileType::Socket,
            NodeType::NodeCharacterDevice => FileType::CharacterDevice,
            NodeType::NodeBlockDevice => FileType::BlockDevice,
            NodeType::NodeFile | NodeType::NodeDirectory | NodeType::NodeUnspecified => {
                return Err(malformed());
            }
        };
        let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
        if is_device && !self.shared.options.privileged {
            return Ok(Outcome::Skipped(SkipReason::Unprivileged));
        }
        let target_fits =
            (1..=limit::SYMLINK_BYTES_MAX).contains(&node.target.len()) && !node.target.contains(&0);
        if (kind == FileType::Symlink && !target_fits) || u32::try_from(node.rdev).is_err() {
            return Err(malformed());
        }
        if let Fate::Skip(reason) = self.fate(node)? {
            return Ok(Outcome::Skipped(reason));
        }
        let made = Temporary::make(self, |dir, temporary| match kind {
            FileType::Symlink => symlinkat(node.target.as_slice(), dir, temporary),
            _ => mknodat(dir, temporary, kind, Mode::RUSR | Mode::WUSR, node.rdev),
        });
        let temporary = match made {
            Ok((temporary, ())) => temporary,
            Err(error @ Errno::PERM) if is_device => {
                self.shared.warn(self.child_path(name), Lost::Device, error);
                return Ok(Outcome::Skipped(SkipReason::Unprivileged));
            }
            Err(error) => return Err(FsError::io("create", &self.child_path(name), error)),
        };
        self.dress(&temporary, kind, node).map_err(|e| FsError::io("open", &self.child_path(name), e))?;
        temporary.publish(name)?;
        Ok(Outcome::Made)
    }

    /// Metadata goes through a handle of the entry: its name could lead elsewhere by now.
    fn dress(&self, temporary: &Temporary, kind: FileType, node: &wire::Node) -> Result<(), Errno> {
        let (dir, name) = temporary.place();
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // A symlink is what is wanted here, so that `open_beneath` would refuse it.
        let handle = match kind {
            FileType::Symlink => rustix::fs::openat(dir, name, flags, Mode::empty()),
            _ => open_beneath(dir, name.as_bytes(), flags),
        }?;
        if FileType::from_raw_mode(fstat(&handle)?.st_mode) != kind {
            return Err(Errno::STALE);
        }
        apply::apply(
            &self.shared,
            &self.child_path(&node.name),
            Subject::Handle(rustix::fd::AsFd::as_fd(&handle)),
            node,
            None,
        );
        Ok(())
    }

    /// Gives a file that this restore has written (`first`: its directory and name) one more name here.
    ///
    /// # Errors
    /// `UnsafeName`, `InTheWay` for a directory of that name, or what the system says.
    pub fn hard_link(self: &Arc<Self>, name: &[u8], first: (&Self, &[u8])) -> Result<Outcome, FsError> {
        let name = self.checked(name)?;
        let (source, source_name) = (first.0, first.0.checked(first.1)?);
        let failed = |error| FsError::io("link", &self.child_path(name), error);
        let link = |to: &[u8]| linkat(&source.fd, source_name, &self.fd, to, AtFlags::empty());
        match link(name) {
            Ok(()) => return Ok(Outcome::Made),
            Err(Errno::EXIST) if self.shared.options.overwrite == Overwrite::Never => {
                return Ok(Outcome::Skipped(SkipReason::Exists));
            }
            Err(Errno::EXIST) => {}
            Err(error) => return Err(failed(error)),
        }
        let (there, wanted) = (self.look_at(name)?, source.look_at(source_name)?);
        if let (Some(there), Some(wanted)) = (there, wanted) {
            if (there.st_dev, there.st_ino) == (wanted.st_dev, wanted.st_ino) {
                return Ok(Outcome::Skipped(SkipReason::Unchanged));
            }
            if FileType::from_raw_mode(there.st_mode) == FileType::Directory {
                return Err(FsError::InTheWay(self.child_path(name)));
            }
            let newer = (wanted.st_mtime, wanted.st_mtime_nsec) > (there.st_mtime, there.st_mtime_nsec);
            if self.shared.options.overwrite == Overwrite::IfNewer && !newer {
                return Ok(Outcome::Skipped(SkipReason::NotNewer));
            }
        }
        let (temporary, ()) =
            Temporary::make(self, |_, temporary| link(temporary.as_bytes())).map_err(failed)?;
        temporary.publish(name)?;
        Ok(Outcome::Made)
    }
}
