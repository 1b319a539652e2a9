//! A store that is being made: from its first file to the mark that it is whole.
//!
//! `init`, `join` and `recover` take several steps, `recover` many minutes. Until the last one the marker has another name
//! and says which command it was: no other takes the directory for whole, and the same one goes on. One rename completes it.

use std::path::Path;

use super::error::StoreError;
use super::files::Files;
use super::index::Index;
use super::records::NODE_KEY;
use super::{INDEX, LOCK, MARKER, MARKER_TEXT, Store, lock};
use crate::base::{VaultId, limit, random_bytes};

/// The marker of a store that is not whole yet: that of a whole one, and a line with its [`Purpose`].
const MAKING: &str = "shadowvault.making";

/// The command that makes a store, and what tells one use of it from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purpose {
    /// `init`, `join` or `recover`.
    pub command: String,
    /// On one line; the same command with another detail does not go on with this store.
    pub detail: String,
}

impl Purpose {
    /// Of that command, whose uses are all alike.
    pub fn of(command: &str) -> Self {
        Self { command: command.to_owned(), detail: String::new() }
    }

    /// That it was begun in `dir` and is not whole.
    pub fn cut_off_in(self, dir: &Path) -> StoreError {
        StoreError::Unfinished { path: dir.to_owned(), command: self.command }
    }

    fn parse(line: &str) -> Self {
        let (command, detail) = line.split_once(' ').unwrap_or((line, ""));
        Self { command: command.to_owned(), detail: detail.to_owned() }
    }
}

impl Store {
    /// Makes a new store in `dir`, which may exist but not hold one, in one go.
    ///
    /// # Errors
    /// As of [`Store::begin`].
    pub fn create(dir: &Path) -> Result<Self, StoreError> {
        let store = Self::begin(dir, &Purpose::of("init"))?;
        store.finish()?;
        Ok(store)
    }

    /// Begins a new store in `dir`, which may exist but not hold one, or goes on with one that was begun for the same purpose.
    /// It is no store for anybody else until [`Store::finish`].
    ///
    /// # Errors
    /// [`StoreError::Exists`] when there is a whole one, [`StoreError::Unfinished`] when one was begun for another purpose,
    /// [`StoreError::Foreign`] when there is anything else but an empty directory.
    pub fn begin(dir: &Path, purpose: &Purpose) -> Result<Self, StoreError> {
        let is_free = || if Self::is_at(dir) { Err(StoreError::Exists(dir.to_owned())) } else { Ok(()) };
        is_free()?;
        let files = Files::prepare(dir, MAKING)?;
        let lock = lock(dir)?;
        // Another process may have finished one meanwhile.
        is_free()?;
        let token = match read_making(dir)? {
            Some((token, begun)) if begun == *purpose => token,
            Some((_, begun)) => return Err(begun.cut_off_in(dir)),
            None => {
                let token = hex::encode(random_bytes::<16>());
                let Purpose { command, detail } = purpose;
                let text = format!("{MARKER_TEXT}\n{token}\n{command} {detail}\n");
                files.publish("", MAKING, &[text.as_bytes()])?;
                token
            }
        };
        files.furnish()?;
        let path = dir.join(INDEX);
        let index = match Index::open(&path, &token, limit::INDEX_CHECKED_BYTES) {
            // It was being made, or what it had can be had again.
            Err(StoreError::IndexDamaged(_)) => Index::create(&path, &token)?,
            other => other?,
        };
        // Without the mark it was made just before it was cut off: there is nothing yet that it could lack.
        index.mark_whole()?;
        Self::assemble(files, index, lock)
    }

    /// The store is whole from now on, durably. Does nothing to one that is.
    pub fn finish(&self) -> Result<(), StoreError> {
        match Self::is_at(self.dir()) {
            true => Ok(()),
            false => self.files.rename(("", MAKING), ("", MARKER)),
        }
    }

    /// What is being made in `dir`, if something is.
    pub fn unfinished(dir: &Path) -> Result<Option<Purpose>, StoreError> {
        if Self::is_at(dir) {
            return Ok(None);
        }
        Ok(read_making(dir)?.map(|(_, purpose)| purpose))
    }

    /// Durably removes the vault of a store that is being made: its name first, then the keys of this device.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when the store is whole.
    pub fn remove_vault(&self) -> Result<(), StoreError> {
        if Self::is_at(self.dir()) {
            return Err(StoreError::Exists(self.dir().to_owned()));
        }
        self.files.remove("", "vault.id")?;
        for name in self.files.names("keys")? {
            self.files.remove("keys", &name)?;
        }
        Ok(())
    }

    /// A file of a vault's device that is not in `dir`, and without which nothing can be done there.
    pub fn lacks(dir: &Path) -> Option<&'static str> {
        let slots = std::fs::read_dir(dir.join("keys")).into_iter().flatten().filter_map(Result::ok);
        let has_slot =
            slots.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with("slot-"));
        let gone = [MARKER, NODE_KEY, "keys/keyring"].into_iter().find(|file| !dir.join(file).is_file());
        gone.or((!has_slot).then_some("every file keys/slot-*"))
    }

    /// Whether heads came to the store in `dir`, whole or not.
    pub fn has_heads(dir: &Path) -> bool {
        std::fs::read_dir(dir.join("heads")).is_ok_and(|mut heads| heads.next().is_some())
    }

    /// The vault of the store in `dir`, whole or not, without opening it.
    pub fn vault_at(dir: &Path) -> Option<VaultId> {
        std::fs::read_to_string(dir.join("vault.id")).ok()?.trim().parse().ok()
    }

    /// Removes what was begun in `dir`, and nothing of a store that is whole. What says that it was begun goes last, so that
    /// this, too, can be cut off.
    pub fn discard(dir: &Path) -> Result<(), StoreError> {
        if Self::unfinished(dir)?.is_none() {
            return Ok(());
        }
        let _lock = lock(dir)?;
        let failed = |error| StoreError::io("removing what was begun", error);
        if Self::is_at(dir) {
            return Err(StoreError::Exists(dir.to_owned()));
        }
        for entry in std::fs::read_dir(dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if ["config.yaml", "lost+found", LOCK, MAKING].iter().any(|kept| name == *kept) {
                continue;
            }
            let is_dir = entry.file_type().map_err(failed)?.is_dir();
            let path = entry.path();
            if is_dir { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }
                .map_err(failed)?;
        }
        for name in [MAKING, LOCK] {
            std::fs::remove_file(dir.join(name)).map_err(failed)?;
        }
        Ok(())
    }
}

/// The token and the purpose of the store that is being made in `dir`.
pub(super) fn read_making(dir: &Path) -> Result<Option<(String, Purpose)>, StoreError> {
    let text = match std::fs::read_to_string(dir.join(MAKING)) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StoreError::Unavailable { path: dir.to_owned(), source }),
    };
    let mut lines = text.lines();
    match (lines.next(), lines.next(), lines.next()) {
        (Some(MARKER_TEXT), Some(token), Some(purpose)) => {
            Ok(Some((token.to_owned(), Purpose::parse(purpose))))
        }
        (Some(MARKER_TEXT), ..) | (None, ..) => Err(StoreError::DamagedFile(MAKING.to_owned())),
        (Some(head), ..) => Err(StoreError::TooNew(head.chars().take(60).collect())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn purpose(command: &str, detail: &str) -> Purpose {
        Purpose { command: command.to_owned(), detail: detail.to_owned() }
    }

    /// A `join` that was killed half way left a directory that asked whether the right disk was mounted.
    #[test]
    fn what_is_begun_is_whole_for_nobody_else_until_it_is_finished() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("node");
        let mine = purpose("recover", "a vault");
        let is_begun =
            |error| matches!(error, StoreError::Unfinished { command, .. } if command == "recover");
        let store = Store::begin(&at, &mine).unwrap();
        store.publish_node_key(&[1; 32]).unwrap();
        drop(store);
        for other in [purpose("init", ""), purpose("recover", "another vault")] {
            assert!(is_begun(Store::begin(&at, &other).err().unwrap()));
        }
        assert!(is_begun(Store::open(&at).err().unwrap()));
        assert!(is_begun(Store::rebuild(&at).err().unwrap()));
        assert_eq!(Store::unfinished(&at).unwrap(), Some(mine.clone()));
        // What was there goes on being there.
        let store = Store::begin(&at, &mine).unwrap();
        assert_eq!(store.read_node_key().unwrap(), Some([1; 32]));
        store.finish().unwrap();
        store.finish().unwrap();
        drop(store);
        assert_eq!(Store::unfinished(&at).unwrap(), None);
        assert!(matches!(Store::begin(&at, &mine), Err(StoreError::Exists(_))));
        Store::discard(&at).unwrap();
        assert_eq!(Store::open(&at).unwrap().read_node_key().unwrap(), Some([1; 32]));
    }

    /// Whatever of its files there is when it is cut off.
    #[test]
    fn what_was_cut_off_at_any_file_is_gone_on_with_or_discarded() {
        let dir = tempfile::tempdir().unwrap();
        let (whole, cut) = (dir.path().join("whole"), dir.path().join("cut"));
        drop(Store::begin(&whole, &purpose("init", "")).unwrap());
        let marker = std::fs::read(whole.join(MAKING)).unwrap();
        let index = std::fs::read(whole.join(INDEX)).unwrap();
        let parts: [(&str, &[u8]); 5] =
            [("tmp/half", b"x"), (MAKING, &marker), (INDEX, b""), (INDEX, &index[..5000]), (INDEX, &index)];
        for count in 0..=parts.len() {
            for goes_on in [true, false] {
                std::fs::create_dir_all(cut.join("tmp")).unwrap();
                for (name, bytes) in &parts[..count] {
                    std::fs::write(cut.join(name), bytes).unwrap();
                }
                assert!(Store::open(&cut).is_err());
                if goes_on {
                    Store::begin(&cut, &purpose("init", "")).unwrap().finish().unwrap();
                    drop(Store::open(&cut).unwrap());
                } else {
                    let was_begun = Store::unfinished(&cut).unwrap().is_some();
                    Store::discard(&cut).unwrap();
                    assert_eq!(std::fs::read_dir(&cut).unwrap().count(), if was_begun { 0 } else { 1 });
                }
                std::fs::remove_dir_all(&cut).unwrap();
            }
        }
    }
}
