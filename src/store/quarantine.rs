//! Damaged files that a repair put aside: kept for a while; those of packs are looked at and put back.
//!
//! They do not count for the limit of what packs may take; on a full disk they are the first to go.

use std::os::unix::fs::MetadataExt;

use super::Store;
use super::error::StoreError;
use super::packs::fan_out;
use crate::base::{Moment, PackId, limit, meter, random_bytes};
use crate::pack::Outboard;

pub(super) const DIRECTORY: &str = "quarantine";

/// A file in quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// Which pack it was.
    pub pack: PackId,
    /// Its length in bytes.
    pub bytes: u64,
    /// When it was put aside, by the file system's clock.
    pub since: Moment,
    name: String,
}

/// A name that no other file in quarantine has.
fn name_aside(id: PackId) -> String {
    format!("{id}.{}", hex::encode(random_bytes::<4>()))
}

/// Whether a file in quarantine was put there by a repair: a pack's id, a dot and eight characters, before them the kind of a record.
fn is_ours(name: &str) -> bool {
    let Some((id, _)) = name.split_once('.') else { return false };
    let id = ["head-", "list-", "snapshot-"].iter().find_map(|kind| id.strip_prefix(kind)).unwrap_or(id);
    id.parse::<PackId>().is_ok()
}

impl Store {
    /// Durably puts a verified pack in the place of a damaged or missing one; the damaged file is kept in quarantine.
    ///
    /// At every moment, and after any error, either the old or the new file is in place: what is sound in a damaged
    /// pack stays in reach until all of it is.
    pub fn replace_pack(&self, id: PackId, bytes: &[u8], outboard: &Outboard) -> Result<(), StoreError> {
        let (dir, name, aside) = (fan_out(id), id.to_string(), name_aside(id));
        let linked = self.files.link((&dir, &name), (DIRECTORY, &aside))?;
        let placed = self.place_pack(id, bytes, outboard).inspect_err(|_| {
            if linked {
                // The damaged file is still in its place; a second name for each attempt helps nobody.
                let _ = self.files.remove(DIRECTORY, &aside);
            }
        });
        self.count_anew();
        placed
    }

    /// Moves a damaged pack's file into quarantine; one that is not there is no error.
    pub fn quarantine_pack(&self, id: PackId) -> Result<(), StoreError> {
        let (dir, name) = (fan_out(id), id.to_string());
        if self.pack_length(id)?.is_none() {
            return Ok(());
        }
        self.files.rename((&dir, &name), (DIRECTORY, &name_aside(id)))?;
        self.count_anew();
        meter::BLOCKS_DELETED.add(1);
        Ok(())
    }

    /// Packs in quarantine, the newest first.
    pub fn quarantined(&self) -> Result<Vec<Quarantined>, StoreError> {
        let mut all = Vec::new();
        for name in self.files.names(DIRECTORY)? {
            let Some(pack) = name.split('.').next().and_then(|id| id.parse().ok()) else { continue };
            if let Some((bytes, since)) = self.put_aside(&name)? {
                all.push(Quarantined { pack, bytes, since, name });
            }
        }
        all.sort_by(|a, b| b.since.cmp(&a.since).then_with(|| a.name.cmp(&b.name)));
        Ok(all)
    }

    /// How long a file in quarantine is and since when it is there; `None` when it is gone.
    fn put_aside(&self, name: &str) -> Result<Option<(u64, Moment)>, StoreError> {
        // The change of its name is the last change of the file itself.
        let looked = std::fs::symlink_metadata(self.files.path(DIRECTORY, name));
        Ok(self.files.found("examining a file in quarantine", looked)?.map(|file| {
            let ms = file.ctime().saturating_mul(1000).saturating_add(file.ctime_nsec() / 1_000_000);
            (file.len(), Moment::from_millis(u64::try_from(ms).unwrap_or(0)))
        }))
    }

    /// A file in quarantine as it is; at most a pack's length.
    pub fn read_quarantined(&self, one: &Quarantined) -> Result<Vec<u8>, StoreError> {
        let bytes = self.files.read(DIRECTORY, &one.name, limit::PACK_BYTES_MAX)?;
        bytes.ok_or(StoreError::MissingPack(one.pack))
    }

    /// Puts a file from quarantine back in its place; what is there goes into quarantine in its turn.
    ///
    /// At every moment one of the two is in place.
    pub fn put_back(&self, one: &Quarantined) -> Result<(), StoreError> {
        let (dir, name) = (fan_out(one.pack), one.pack.to_string());
        self.files.ensure_dir(&dir)?;
        self.files.link((&dir, &name), (DIRECTORY, &name_aside(one.pack)))?;
        self.files.rename((DIRECTORY, &one.name), (&dir, &name))?;
        self.count_anew();
        Ok(())
    }

    /// Deletes what was put aside before a moment, packs and records: how many files, and their bytes. What else lies there is
    /// left alone.
    pub fn clear_quarantine(&self, before: Moment) -> Result<(u64, u64), StoreError> {
        let mut gone = (0, 0);
        for name in self.files.names(DIRECTORY)?.into_iter().filter(|name| is_ours(name)) {
            let Some((bytes, _)) = self.put_aside(&name)?.filter(|(_, since)| *since <= before) else {
                continue;
            };
            // A crash may bring them back, which hurts nobody.
            self.files.remove_lazily(DIRECTORY, &name)?;
            gone = (gone.0 + 1, gone.1 + bytes);
        }
        Ok(gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(fill: u8) -> (tempfile::TempDir, Store, PackId, Vec<u8>, Outboard) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(&dir.path().join("s")).unwrap();
        let bytes = vec![fill; 100_000];
        let (id, outboard) = Outboard::of(&bytes);
        store.publish_pack(id, &bytes, &outboard).unwrap();
        (dir, store, id, bytes, outboard)
    }

    fn content(store: &Store, id: PackId) -> Vec<u8> {
        store.open_pack(id).unwrap().read_all().unwrap()
    }

    fn spoil(store: &Store, id: PackId) -> Vec<u8> {
        std::fs::write(store.files.path(&fan_out(id), &id.to_string()), b"rot").unwrap();
        b"rot".to_vec()
    }

    #[test]
    fn what_was_replaced_is_kept_and_can_be_put_back_and_taken_away_again() {
        let (_dir, store, id, bytes, outboard) = stored(3);
        let rotten = spoil(&store, id);
        store.replace_pack(id, &bytes, &outboard).unwrap();
        assert_eq!(content(&store, id), bytes);
        let [one] = &store.quarantined().unwrap()[..] else { panic!() };
        assert_eq!((one.pack, one.bytes, store.read_quarantined(one).unwrap()), (id, 3, rotten.clone()));
        store.put_back(one).unwrap();
        assert_eq!(content(&store, id), rotten);
        let [other] = &store.quarantined().unwrap()[..] else { panic!() };
        assert_eq!(store.read_quarantined(other).unwrap(), bytes);
        store.put_back(other).unwrap();
        assert_eq!(content(&store, id), bytes);
    }

    #[test]
    fn a_file_that_is_gone_from_its_place_is_put_back_too() {
        let (_dir, store, id, bytes, _) = stored(4);
        store.quarantine_pack(id).unwrap();
        store.quarantine_pack(id).unwrap();
        assert!(matches!(store.open_pack(id), Err(StoreError::MissingPack(_))));
        let [one] = &store.quarantined().unwrap()[..] else { panic!() };
        store.put_back(one).unwrap();
        assert_eq!(content(&store, id), bytes);
        assert!(store.quarantined().unwrap().is_empty());
    }

    #[test]
    fn only_what_is_old_goes() {
        let (_dir, store, id, bytes, outboard) = stored(5);
        spoil(&store, id);
        store.replace_pack(id, &bytes, &outboard).unwrap();
        std::fs::write(store.files.path(DIRECTORY, "note"), b"of somebody").unwrap();
        let since = store.quarantined().unwrap()[0].since;
        let earlier = Moment::from_millis(since.as_millis() - 1);
        assert_eq!(store.clear_quarantine(earlier).unwrap(), (0, 0));
        assert_eq!(store.clear_quarantine(since).unwrap(), (1, 3));
        assert_eq!(store.files.names(DIRECTORY).unwrap(), ["note"]);
    }

    #[test]
    fn repairs_do_not_use_up_what_packs_may_take() {
        let (_dir, store, id, bytes, outboard) = stored(6);
        store.limit_disk(150_000);
        for _ in 0..3 {
            spoil(&store, id);
            store.replace_pack(id, &bytes, &outboard).unwrap();
        }
        let (other, outboard) = Outboard::of(&[1; 60_000]);
        let refused = store.publish_pack(other, &[1; 60_000], &outboard);
        assert!(matches!(refused, Err(StoreError::OverLimit(_))), "{refused:?}");
        let (other, outboard) = Outboard::of(&[1; 50_000]);
        store.publish_pack(other, &[1; 50_000], &outboard).unwrap();
    }
}
