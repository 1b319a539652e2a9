//! A map on disk that nothing keeps: what one operation has to know again and memory has no room for. It lies in a file
//! without a name, gone when it is closed; whoever puts something in seals it first.

use std::io;

use redb::backends::FileBackend;
use redb::{Database, Durability, ReadableDatabase, TableDefinition};

use super::Store;
use super::error::StoreError;
use crate::base::limit;

const ENTRIES: TableDefinition<&[u8; 32], &[u8]> = TableDefinition::new("entries");

/// The map.
pub struct Scratch(Database);

impl Store {
    /// An empty one; where the store can be read only, in the system's directory for such.
    ///
    /// # Errors
    /// What the disk says.
    pub fn scratch_map(&self) -> Result<Scratch, StoreError> {
        let backend = FileBackend::new(self.scratch()?).map_err(failed)?;
        let mut builder = Database::builder();
        let made = builder.set_cache_size(limit::SCRATCH_CACHE_BYTES).create_with_backend(backend);
        made.map(Scratch).map_err(failed)
    }
}

impl Scratch {
    /// Adds entries; of two with one key the later one stays. Best many at a time.
    ///
    /// # Errors
    /// What the disk says.
    pub fn insert(&self, entries: impl IntoIterator<Item = ([u8; 32], Vec<u8>)>) -> Result<(), StoreError> {
        let mut tx = self.0.begin_write().map_err(failed)?;
        // Nothing of it outlives the process.
        tx.set_durability(Durability::None).map_err(failed)?;
        let mut table = tx.open_table(ENTRIES).map_err(failed)?;
        for (key, value) in entries {
            table.insert(&key, value.as_slice()).map_err(failed)?;
        }
        drop(table);
        tx.commit().map_err(failed)
    }

    /// What was added last under `key`.
    ///
    /// # Errors
    /// What the disk says.
    pub fn get(&self, key: &[u8; 32]) -> Result<Option<Vec<u8>>, StoreError> {
        let tx = self.0.begin_read().map_err(failed)?;
        let table = match tx.open_table(ENTRIES) {
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            table => table.map_err(failed)?,
        };
        let found = table.get(key).map_err(failed)?;
        Ok(found.map(|value| value.value().to_vec()))
    }
}

fn failed(error: impl Into<redb::Error>) -> StoreError {
    let source = match error.into() {
        redb::Error::Io(source) => source,
        other => io::Error::other(other.to_string()),
    };
    StoreError::io("setting aside what memory has no room for", source)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn files(dir: &Path) -> usize {
        std::fs::read_dir(dir.join("tmp")).unwrap().count()
    }

    #[test]
    fn a_scratch_map_has_what_was_put_in_last_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path()).unwrap();
        let before = files(dir.path());
        let map = store.scratch_map().unwrap();
        assert_eq!(map.get(&[1; 32]).unwrap(), None);
        let key = |at: u32| *blake3::hash(&at.to_le_bytes()).as_bytes();
        for round in 0..3u32 {
            map.insert((round * 1000..(round + 2) * 1000).map(|at| (key(at), vec![round as u8; 100])))
                .unwrap();
        }
        for at in [0, 999, 1000, 2500, 3999] {
            let round = (at / 1000).min(2) as u8;
            assert_eq!(map.get(&key(at)).unwrap(), Some(vec![round; 100]), "{at}");
        }
        assert_eq!(map.get(&key(4000)).unwrap(), None);
        assert_eq!(files(dir.path()), before, "it has no name");
    }
}
