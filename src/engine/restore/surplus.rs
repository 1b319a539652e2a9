//! Deleting what the snapshot does not have.
//!
//! Only in directories that a restore entered and of which the snapshot has everything: at or below a path that was
//! backed up. (`/home` of a snapshot of `/home/me` lists nobody else, which says nothing about them.) With patterns only
//! what they choose goes. Names that cannot be read from the snapshot keep everything in their directory.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::tally::{Shared, count};
use super::{RestoreAction, RestoreOptions};
use crate::base::limit;
use crate::crypto::Kind;
use crate::engine::error::EngineError;
use crate::engine::reader::ChunkReader;
use crate::fs::{Choice, FsError, Older, Removal, Selector, TargetDir};
use crate::snapshot::Snapshot;
use crate::wire::{self, Bound};

/// Where to delete, if at all.
pub(super) struct Surplus<'a> {
    /// Restored root in the snapshot, and the paths that were backed up; `None` when nothing is deleted.
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

    /// Deletes what the snapshot does not have. `chosen`: the directory is restored itself.
    pub(super) fn remove(
        &self,
        dir: &TargetDir,
        older: &Older,
        path: &Path,
        chosen: bool,
        shared: &Shared<'_>,
    ) {
        let mut deletion = Deletion { selector: self.selector, shared, top: path, chosen };
        dir.remove_unknown(older, path, &mut deletion, &mut |path, error| shared.settle(path, error));
    }
}

struct Deletion<'a> {
    selector: &'a Selector,
    shared: &'a Shared<'a>,
    /// The directory whose entries are looked at, and whether it is chosen; what is deeper lies in chosen ones.
    top: &'a Path,
    chosen: bool,
}

impl Removal for Deletion<'_> {
    fn spares(&mut self, path: &Path, is_directory: bool) -> bool {
        let inside = self.chosen || path.parent() != Some(self.top);
        self.selector.choose(path, is_directory, inside) != Choice::Chosen
    }

    fn goes(&mut self, path: &Path) -> Result<bool, FsError> {
        if self.shared.go_on().is_err() {
            // The walk stops at its next step and tells why.
            return Ok(false);
        }
        count(&self.shared.tally.deleted);
        self.shared.note(RestoreAction::Delete, path);
        Ok(!self.shared.dry_run)
    }
}
