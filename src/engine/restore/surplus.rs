//! Deleting what the snapshot does not have.
//!
//! Only in directories that a restore entered and of which the snapshot has everything: at or below a path that was
//! backed up. (`/home` of a snapshot of `/home/me` lists nobody else, which says nothing about them.) With patterns only
//! what they choose goes. Names that cannot be read from the snapshot keep everything in their directory, and so does what
//! the backup left out of it, or may have: only what was positively not there goes. What stays for that is told.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::tally::{Shared, count};
use super::{RestoreAction, RestoreOptions};
use crate::base::limit;
use crate::crypto::Kind;
use crate::engine::error::EngineError;
use crate::engine::reader::ChunkReader;
use crate::fs::{Choice, FsError, Older, Removal, Selector, TargetDir};
use crate::snapshot::{Omission, Omissions, Snapshot};
use crate::wire::{self, Bound};

/// Where to delete, if at all.
pub(super) struct Surplus<'a> {
    /// Restored root in the snapshot, and the paths that were backed up; absent when nothing is deleted.
    scope: Option<(PathBuf, Vec<PathBuf>)>,
    selector: &'a Selector,
}

impl<'a> Surplus<'a> {
    pub(super) fn of(
        reader: &mut ChunkReader<'_>,
        snapshot: &Snapshot,
        options: &RestoreOptions,
        selector: &'a Selector,
    ) -> Result<Self, EngineError> {
        if !options.delete {
            return Ok(Self { scope: None, selector });
        }
        if !snapshot.has_omissions {
            return Err(EngineError::OmissionsUnknown(snapshot.id));
        }
        let paths = match snapshot.paths_list {
            None => snapshot.info.paths.clone(),
            Some(list) => {
                let bytes = reader.read(Kind::Tree, list)?;
                let bound = Bound::new(limit::CHUNK_BYTES_MAX, limit::PATHS_FIELDS_MAX);
                let listed: wire::PathList =
                    wire::decode(bytes, bound).map_err(crate::snapshot::TreeError::from)?;
                listed.paths
            }
        };
        let path = |bytes: &Vec<u8>| PathBuf::from(std::ffi::OsStr::from_bytes(bytes));
        let root = Path::new("/").join(&options.path);
        Ok(Self { scope: Some((root, paths.iter().map(path).collect())), selector })
    }

    /// What is in a directory now, if some of it may have to go.
    pub(super) fn older(&self, dir: &TargetDir, path: &Path) -> Result<Option<Older>, FsError> {
        let Some((root, backed_up)) = &self.scope else { return Ok(None) };
        let path = root.join(path);
        let whole = backed_up.iter().any(|backed_up| path.starts_with(backed_up));
        if whole && !dir.is_made() { dir.older().map(Some) } else { Ok(None) }
    }

    /// Deletes what was not there. `chosen`: the directory is restored itself; `omissions`: what the backup left out of it.
    pub(super) fn remove(
        &self,
        dir: &TargetDir,
        older: &Older,
        path: &Path,
        chosen: bool,
        omissions: &Omissions,
        shared: &Shared<'_>,
    ) {
        let mut deletion = Deletion { selector: self.selector, shared, top: path, chosen, omissions };
        dir.remove_unknown(older, path, &mut deletion, &mut |path, error| shared.settle(path, error));
    }
}

struct Deletion<'a> {
    selector: &'a Selector,
    shared: &'a Shared<'a>,
    /// The directory whose entries are looked at, and whether it is chosen; what is deeper lies in chosen ones.
    top: &'a Path,
    chosen: bool,
    omissions: &'a Omissions,
}

impl Removal for Deletion<'_> {
    fn spares(&mut self, path: &Path, is_directory: bool) -> bool {
        let is_below = path.parent() != Some(self.top);
        if self.selector.choose(path, is_directory, self.chosen || is_below) != Choice::Chosen {
            return true;
        }
        let name = path.file_name().filter(|_| !is_below);
        let why = name.and_then(|name| self.omissions.why(name.as_bytes()));
        if let Some(why) = why {
            self.shared.kept(path, reason(why));
        }
        why.is_some()
    }

    fn is_mounted(&mut self, path: &Path) {
        self.shared.kept(path, "something is mounted there");
    }

    fn goes(&mut self, _: &Path) -> Result<bool, FsError> {
        // When it is stopped, the walk tells why at its next step.
        Ok(!self.shared.dry_run && self.shared.go_on().is_ok())
    }

    fn gone(&mut self, path: &Path) {
        if self.shared.go_on().is_ok() {
            count(&self.shared.tally.deleted);
            self.shared.note(RestoreAction::Delete, path);
        }
    }
}

/// Why a name may have been there although the snapshot does not have it.
fn reason(why: Omission) -> &'static str {
    match why {
        Omission::ByRule => "the backup left it out by a rule, or may have",
        Omission::Unreadable => "the backup could not read it, or may have met it",
        Omission::OtherFileSystem => "the backup stayed on one file system",
        Omission::Store => "it was the data directory of the node that made the backup",
    }
}
