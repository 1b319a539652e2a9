//! What a restore has put in order in a directory: on a file system to which two names are the same, the second one of a snapshot
//! must not take the place of the first.

use std::collections::HashMap;

use rustix::fs::Stat;

use super::FsError;
use super::directory::TargetDir;
use super::listing::Names;
use super::temporary::is_temporary;
use super::walk::{Identity, identity};
use crate::base::limit;

/// Entries by device and inode, with the name by which the snapshot has each.
#[derive(Default)]
pub(super) struct Settled {
    names: HashMap<Identity, Box<[u8]>>,
    /// As the directory was listed last.
    listed: Option<Names>,
}

impl Settled {
    /// `there` is what the snapshot has under `name`. The first name stands.
    pub(super) fn note(&mut self, name: &[u8], there: &Stat) {
        if self.names.len() < limit::RESTORE_SETTLED_MAX {
            self.names.entry(identity(there)).or_insert_with(|| name.into());
        }
    }

    /// Notes all that a directory has, under the names by which it lists them; what is still being written has none yet.
    pub(super) fn note_listed(&mut self, dir: &TargetDir) {
        let Ok(names) = dir.names() else { return };
        for name in names.iter().map(|(name, _)| name.to_bytes()).filter(|name| !is_temporary(name)) {
            if let Ok(Some(there)) = dir.look_at(name) {
                self.note(name, &there);
            }
        }
    }

    pub(super) fn knows(&self, there: &Stat) -> bool {
        self.names.contains_key(&identity(there))
    }

    /// That `there`, which is in `dir` under `name`, is nothing that the snapshot has under another name.
    ///
    /// # Errors
    /// [`FsError::Twin`], or what the system says.
    pub(super) fn check(&mut self, dir: &TargetDir, name: &[u8], there: &Stat) -> Result<(), FsError> {
        let Self { names, listed } = self;
        let Some(other) = names.get(&identity(there)).filter(|other| ***other != *name) else {
            return Ok(());
        };
        // A file with several names, or what is mounted twice, is listed under both.
        let both = |names: &Names| names.contains(name) && names.contains(other);
        if listed.as_ref().is_some_and(both) || both(listed.insert(dir.names()?)) {
            return Ok(());
        }
        Err(FsError::Twin { path: dir.child_path(name), other: dir.child_path(other) })
    }
}
