//! Small state files of the node: JSON, and in a last line the BLAKE3 of the file's name and of it.
//!
//! Those without which something would silently be forgotten or allowed again lie in a second directory as well. The copy is written
//! first, so that it is never older than what whoever wrote was told; the file itself is read, and the copy where that is gone or damaged.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Store;
use super::error::StoreError;
use crate::base::limit;

const DIRECTORY: &str = "members";
pub(super) const COPIES: &str = "copies";

/// What begins so lies there twice: who may come in and who was turned away, what runs by itself, which devices are revoked,
/// whose word counts for nothing, and which heads must be here.
const TWICE: [&str; 7] = ["peers.", "acl.", "invites.", "schedule.", "unproven.", "revoked-", "newest-"];

fn is_twice(name: &str) -> bool {
    TWICE.iter().any(|begin| name.starts_with(begin))
}

/// What another file's content would not have.
fn check_of(name: &str, json: &[u8]) -> blake3::Hash {
    blake3::Hasher::new().update(name.as_bytes()).update(b"\n").update(json).finalize()
}

/// The bytes of a state file.
fn sealed(name: &str, state: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(state).expect("state is plain data");
    let check = check_of(name, &bytes);
    bytes.extend_from_slice(format!("\n{check}\n").as_bytes());
    bytes
}

/// The JSON in a state file; `None` when it is not as it was written. The first version wrote no last line.
fn opened<'a>(name: &str, bytes: &'a [u8]) -> Option<&'a [u8]> {
    let Some(at) = bytes.iter().position(|byte| *byte == b'\n') else { return Some(bytes) };
    let (json, check) = (&bytes[..at], &bytes[at + 1..]);
    (check.strip_suffix(b"\n")? == check_of(name, json).to_hex().as_bytes()).then_some(json)
}

impl Store {
    /// Reads a small state file of the node, such as a report.
    ///
    /// # Errors
    /// [`StoreError::DamagedFile`] when it is not as it was written, and neither is its copy.
    pub fn read_state<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StoreError> {
        let found = self.state_in(DIRECTORY, name);
        if !is_twice(name) || matches!(found, Ok(Some(_))) {
            return found;
        }
        match self.state_in(COPIES, name) {
            Ok(Some(copy)) => {
                tracing::warn!(target: "store", name, "a state file is gone or damaged; its copy is used");
                Ok(Some(copy))
            }
            Ok(None) => found,
            Err(error) => found.and(Err(error)),
        }
    }

    fn state_in<T: DeserializeOwned>(&self, dir: &str, name: &str) -> Result<Option<T>, StoreError> {
        let Some(bytes) = self.files.read(dir, name, limit::STATE_BYTES_MAX)? else { return Ok(None) };
        let read = opened(name, &bytes).and_then(|json| serde_json::from_slice(json).ok());
        read.map(Some).ok_or_else(|| StoreError::DamagedFile(format!("{dir}/{name}")))
    }

    /// The same; one that cannot be understood is as good as none.
    pub fn read_state_if_sound<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StoreError> {
        match self.read_state(name) {
            Err(StoreError::DamagedFile(_)) => Ok(None),
            other => other,
        }
    }

    /// Names of the node's small state files.
    pub fn state_names(&self) -> Result<Vec<String>, StoreError> {
        let mut names = self.files.names(DIRECTORY)?;
        names.extend(self.files.names(COPIES)?);
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    /// Durably replaces a small state file of the node.
    ///
    /// # Errors
    /// Also for one that could not be read again.
    pub fn publish_state<T: Serialize>(&self, name: &str, state: &T) -> Result<(), StoreError> {
        let bytes = sealed(name, state);
        if bytes.len() > limit::STATE_BYTES_MAX {
            let why = format!("members/{name} would have {} bytes, more than is read again", bytes.len());
            return Err(StoreError::io(
                "writing a state file",
                io::Error::new(io::ErrorKind::InvalidData, why),
            ));
        }
        if is_twice(name) {
            self.files.publish(COPIES, name, &[&bytes])?;
        }
        self.files.publish(DIRECTORY, name, &[&bytes])
    }

    /// Removes a state file of the node, durably.
    pub(super) fn remove_state(&self, name: &str) -> Result<(), StoreError> {
        if is_twice(name) {
            self.files.remove(COPIES, name)?;
        }
        self.files.remove(DIRECTORY, name)
    }

    /// Makes two again of state files of which one is gone or damaged. What cannot be written now stays as it is.
    pub(super) fn mend_states(&self) -> Result<(), StoreError> {
        for name in self.state_names()?.iter().filter(|name| is_twice(name)) {
            let sound = |dir| -> Result<Option<Vec<u8>>, StoreError> {
                let bytes =
                    self.files.read(dir, name, limit::STATE_BYTES_MAX).or_else(|error| match error {
                        error if error.is_rot() => Ok(None),
                        error => Err(error),
                    })?;
                Ok(bytes.filter(|bytes| {
                    opened(name, bytes)
                        .is_some_and(|json| serde_json::from_slice::<serde::de::IgnoredAny>(json).is_ok())
                }))
            };
            let mended = match (sound(DIRECTORY)?, sound(COPIES)?) {
                (None, Some(copy)) => {
                    tracing::warn!(target: "store", name, "a state file was gone or damaged, and is written again from its copy");
                    self.files.publish(DIRECTORY, name, &[&copy])
                }
                (Some(file), None) => self.files.publish(COPIES, name, &[&file]),
                _ => Ok(()),
            };
            if let Err(error) = mended {
                tracing::warn!(target: "store", name, %error, "a state file could not be written again");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(path: &std::path::Path, how: usize) {
        let mut bytes = std::fs::read(path).unwrap();
        match how {
            0 => return std::fs::remove_file(path).unwrap(),
            1 => bytes.clear(),
            2 => bytes.truncate(bytes.len() / 2),
            3 => bytes.fill(0),
            at => bytes[at - 4] ^= 1,
        }
        std::fs::write(path, bytes).unwrap();
    }

    /// A lost file of tasks was no task at all, and a flipped letter another path.
    #[test]
    fn what_was_kept_is_read_or_said_to_be_damaged_whatever_becomes_of_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(&dir.path().join("store")).unwrap();
        let (written, name) = (vec!["docs".to_owned(), "/home/me".to_owned()], "schedule.json");
        let read = || store.read_state::<Vec<String>>(name);
        let paths = [store.dir().join("members").join(name), store.dir().join("copies").join(name)];
        let length = sealed(name, &written).len();
        for how in 0..4 + length {
            store.publish_state(name, &vec!["an older state"]).unwrap();
            store.publish_state(name, &written).unwrap();
            change(&paths[0], how);
            assert_eq!(read().unwrap().as_ref(), Some(&written), "{how}");
            store.mend_states().unwrap();
            assert_eq!(std::fs::read(&paths[0]).unwrap(), sealed(name, &written), "{how}");
            change(&paths[1], how);
            assert_eq!(read().unwrap().as_ref(), Some(&written), "{how}");
            store.mend_states().unwrap();
            assert_eq!(std::fs::read(&paths[1]).unwrap(), sealed(name, &written), "{how}");
            // Both: it is known that something was there, unless neither file is.
            paths.iter().for_each(|path| change(path, how));
            match (how, read()) {
                (0, read) => assert_eq!(read.unwrap(), None),
                (_, read) => assert!(matches!(read, Err(StoreError::DamagedFile(_))), "{how}: {read:?}"),
            }
        }
    }

    /// Any object was a book of peers, an empty one.
    #[test]
    fn the_content_of_another_state_file_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(&dir.path().join("store")).unwrap();
        store.publish_state("peers.json", &1).unwrap();
        store.publish_state("jobs.json", &2).unwrap();
        let members = store.dir().join("members");
        std::fs::copy(members.join("jobs.json"), members.join("peers.json")).unwrap();
        assert_eq!(store.read_state::<u8>("peers.json").unwrap(), Some(1));
        store.mend_states().unwrap();
        assert_eq!(
            std::fs::read(members.join("peers.json")).unwrap(),
            std::fs::read(store.dir().join("copies/peers.json")).unwrap()
        );
    }

    #[test]
    fn what_the_first_version_wrote_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(&dir.path().join("store")).unwrap();
        std::fs::write(store.dir().join("members/acl.json"), b"[1,2]").unwrap();
        assert_eq!(store.read_state::<Vec<u8>>("acl.json").unwrap(), Some(vec![1, 2]));
        store.mend_states().unwrap();
        std::fs::remove_file(store.dir().join("members/acl.json")).unwrap();
        assert_eq!(store.read_state::<Vec<u8>>("acl.json").unwrap(), Some(vec![1, 2]));
    }
}
