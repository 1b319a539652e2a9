//! Whether the store can still be relied on: what failed for good, and whether its directory is where it was.
//!
//! What fails for good is a flush (the kernel may have dropped what it was to write) and an index that does not check
//! out: from then on nothing is acknowledged until the store is opened again. A directory that was unmounted, or that
//! something else is mounted over, is only out of reach: nothing of it counts as missing, and nothing is written to what
//! is there instead.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::error::StoreError;
use super::{DAMAGED, LOCK};

/// What failed for good.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failure {
    /// A write or a flush: nobody knows what of it is on the disk.
    Write,
    /// The index does not check out.
    Index(String),
}

impl Failure {
    /// What everything is answered with from then on.
    pub fn error(&self) -> StoreError {
        match self {
            Self::Write => StoreError::Poisoned,
            Self::Index(why) => StoreError::IndexDamaged(why.clone()),
        }
    }
}

type Hook = Box<dyn Fn(&Failure) + Send + Sync>;

/// File system and inode of something.
type Identity = (u64, u64);

/// Shared by all that writes to one store.
pub(super) struct Health {
    root: PathBuf,
    /// Of the directory, its packs and its lock, once the store is open.
    place: OnceLock<[Identity; 3]>,
    /// The first thing that failed.
    failure: OnceLock<Failure>,
    hook: OnceLock<Hook>,
    /// Nothing can be written there, and nothing is tried.
    is_read_only: bool,
}

impl Health {
    pub(super) fn of(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            place: OnceLock::new(),
            failure: OnceLock::new(),
            hook: OnceLock::new(),
            is_read_only: false,
        }
    }

    /// Of a directory that can be read only.
    pub(super) fn of_read_only(root: &Path) -> Self {
        Self { is_read_only: true, ..Self::of(root) }
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.is_read_only
    }

    /// Whether something can be written now, and counts then.
    ///
    /// # Errors
    /// [`StoreError::ReadOnly`], and those of [`Health::sound`].
    pub(super) fn writable(&self) -> Result<(), StoreError> {
        if self.is_read_only {
            return Err(StoreError::ReadOnly(self.root.clone()));
        }
        self.sound()
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// From now on the directory is the one that is there now.
    pub(super) fn settle(&self) -> Result<(), StoreError> {
        if self.is_read_only {
            // A copy on such a medium may be without a lock, and is not opened for long.
            return Ok(());
        }
        let place = self.look()?;
        self.place.get_or_init(|| place);
        Ok(())
    }

    fn look(&self) -> Result<[Identity; 3], StoreError> {
        let identity = |path: &Path| {
            let there = std::fs::metadata(path).map_err(|source| self.unavailable(source))?;
            Ok((there.dev(), there.ino()))
        };
        Ok([identity(&self.root)?, identity(&self.root.join("packs"))?, identity(&self.root.join(LOCK))?])
    }

    fn unavailable(&self, source: io::Error) -> StoreError {
        StoreError::Unavailable { path: self.root.clone(), source }
    }

    /// Whether the directory is still the one that was opened. Costs three looks at names that the kernel has at hand.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub(super) fn here(&self) -> Result<(), StoreError> {
        let Some(place) = self.place.get() else { return Ok(()) };
        if self.look()? == *place {
            return Ok(());
        }
        Err(self.unavailable(io::Error::other("something else is there now")))
    }

    /// What failed for good, if anything has.
    pub(super) fn failure(&self) -> Option<&Failure> {
        self.failure.get()
    }

    /// Whether what is written now counts.
    ///
    /// # Errors
    /// What failed for good; else [`StoreError::Unavailable`].
    pub(super) fn sound(&self) -> Result<(), StoreError> {
        match self.failure() {
            Some(failure) => Err(failure.error()),
            None => self.here(),
        }
    }

    /// Remembers for good that something failed; the first failure stands.
    pub(super) fn fail(&self, failure: Failure) {
        let is_index = matches!(failure, Failure::Index(_));
        if self.failure.set(failure).is_ok() {
            if is_index && self.here().is_ok() && self.place.get().is_some() {
                // For the next daemon, which need not come upon it again; where it cannot be written, it will.
                let mut note = OpenOptions::new();
                let _ = note.write(true).create(true).mode(0o600).open(self.root.join(DAMAGED));
            }
            self.tell();
        }
    }

    /// Has `hook` told of the failure, once, on whatever thread meets it; at once when it has been met.
    pub(super) fn on_failure(&self, hook: Hook) {
        if self.hook.set(hook).is_ok() {
            self.tell();
        }
    }

    fn tell(&self) {
        if let (Some(failure), Some(hook)) = (self.failure.get(), self.hook.get()) {
            hook(failure);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::base::{Code, Coded, PackId};
    use crate::pack::Outboard;
    use crate::store::Store;

    fn stored() -> (tempfile::TempDir, PathBuf, Store, PackId) {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("node");
        let store = Store::create(&at).unwrap();
        let id = publish(&store, 1).unwrap();
        (dir, at, store, id)
    }

    fn publish(store: &Store, fill: u8) -> Result<PackId, StoreError> {
        let bytes = vec![fill; 100_000];
        let (id, outboard) = Outboard::of(&bytes);
        store.publish_pack(id, &bytes, &outboard).map(|()| id)
    }

    /// An unmounted data directory was answered for with "not found": every pack counted as lost, and got other copies.
    #[test]
    fn nothing_is_missing_from_a_directory_that_is_out_of_reach_and_nothing_is_written_in_its_place() {
        let (dir, at, store, id) = stored();
        let missing = PackId::new([9; 32]);
        assert!(matches!(store.open_pack(missing), Err(StoreError::MissingPack(_))));
        let aside = dir.path().join("aside");
        std::fs::rename(&at, &aside).unwrap();
        // What a mount point looks like without its disk, and nothing at all.
        for is_there in [true, false] {
            if is_there {
                std::fs::create_dir(&at).unwrap();
            } else {
                std::fs::remove_dir(&at).unwrap();
            }
            let errors = [
                store.open_pack(id).map(drop),
                store.open_pack(missing).map(drop),
                store.pack_length(id).map(drop),
                store.has_outboard(id, 1).map(drop),
                store.outboard(id, 100_000).map(drop),
                store.pack_files().map(drop),
                store.head_vaults().map(drop),
                store.read_node_key().map(drop),
                store.quarantined().map(drop),
                store.quarantine_pack(id),
                store.remove_snapshot(crate::base::SnapshotId::new([1; 32])),
                publish(&store, 2).map(drop),
                store.index_packs(&[]).map(drop),
                store.available(),
            ];
            for (at, error) in errors.into_iter().enumerate() {
                assert!(matches!(error, Err(StoreError::Unavailable { .. })), "{at}: {error:?}");
            }
            if is_there {
                assert_eq!(std::fs::read_dir(&at).unwrap().count(), 0, "the mount point stays empty");
            }
        }
        std::fs::rename(&aside, &at).unwrap();
        store.available().unwrap();
        store.open_pack(id).unwrap();
        publish(&store, 3).unwrap();
        assert_eq!(store.failure(), None, "it was only away");
    }

    /// The directory is there, its packs are on another disk.
    #[test]
    fn packs_that_are_out_of_reach_are_not_missing() {
        let (_dir, at, store, id) = stored();
        std::fs::rename(at.join("packs"), at.join("aside")).unwrap();
        std::fs::create_dir(at.join("packs")).unwrap();
        assert!(matches!(store.open_pack(id), Err(StoreError::Unavailable { .. })));
        std::fs::remove_dir(at.join("packs")).unwrap();
        std::fs::rename(at.join("aside"), at.join("packs")).unwrap();
        store.open_pack(id).unwrap();
    }

    #[test]
    fn the_first_failure_stands_is_told_once_and_ends_all_writing() {
        let (_dir, at, store, id) = stored();
        let told = Arc::new(AtomicU32::new(0));
        let count = told.clone();
        store.files.health().fail(Failure::Write);
        store.on_failure(move |failure| {
            assert_eq!(*failure, Failure::Write);
            count.fetch_add(1, Ordering::Relaxed);
        });
        store.files.health().fail(Failure::Index("later".into()));
        assert_eq!(told.load(Ordering::Relaxed), 1);
        for error in [publish(&store, 2).map(drop), store.index_packs(&[]).map(drop), store.available()] {
            assert_eq!(error.unwrap_err().code(), Code::StorageUnavailable);
        }
        store.open_pack(id).unwrap();
        drop(store);
        publish(&Store::open(&at).unwrap(), 2).unwrap();
    }
}
