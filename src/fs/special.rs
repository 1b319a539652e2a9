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
        let linked = link(name);
        if self.is_made() {
            return match linked {
                Ok(()) => Ok(Outcome::Made),
                Err(Errno::EXIST) => Err(self.occupied(name)),
                Err(error) => Err(failed(error)),
            };
        }
        let mut settled = self.settled();
        let (there, wanted) = (self.look_at(name)?, source.look_at(source_name)?);
        match (linked, &there) {
            (Ok(()), there) => {
                there.iter().for_each(|there| settled.note(name, there));
                return Ok(Outcome::Made);
            }
            (Err(Errno::EXIST), Some(there)) => settled.check(self, name, there)?,
            (Err(Errno::EXIST), None) => {}
            (Err(error), _) => return Err(failed(error)),
        }
        if let (Some(there), Some(wanted)) = (there, wanted) {
            let same = (there.st_dev, there.st_ino) == (wanted.st_dev, wanted.st_ino);
            let never = self.shared.options.overwrite == Overwrite::Never;
            if same || never {
                settled.note(name, &there);
                let reason = if never { SkipReason::Exists } else { SkipReason::Unchanged };
                return Ok(Outcome::Skipped(reason));
            }
            if FileType::from_raw_mode(there.st_mode) == FileType::Directory {
                return Err(FsError::InTheWay(self.child_path(name)));
            }
            let newer = (wanted.st_mtime, wanted.st_mtime_nsec) > (there.st_mtime, there.st_mtime_nsec);
            if self.shared.options.overwrite == Overwrite::IfNewer && !newer {
                settled.note(name, &there);
                return Ok(Outcome::Skipped(SkipReason::NotNewer));
            }
        }
        drop(settled);
        let (temporary, ()) =
            Temporary::make(self, |_, temporary| link(temporary.as_bytes())).map_err(failed)?;
        temporary.publish(name)?;
        Ok(Outcome::Made)
    }
}
