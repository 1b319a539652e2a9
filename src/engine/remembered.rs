//! What an operation has met and has to know again: in memory up to a bound, and beyond it on disk, sealed, in a file without
//! a name.

use std::collections::HashMap;
use std::io;

use prost::Message;

use super::error::EngineError;
use super::vault::Vault;
use crate::base::limit;
use crate::crypto::{self, Kind, Salt, Secret};
use crate::store::Scratch;
use crate::wire;

/// What an entry takes in memory beside its value, in bytes.
const ENTRY_BYTES: usize = 128;

/// Values by key; of two with one key the later one stays.
pub(super) struct Remembered<'a> {
    vault: &'a Vault,
    memory: HashMap<blake3::Hash, Vec<u8>>,
    bytes: usize,
    /// What memory had no room for, once there is something.
    disk: Option<Scratch>,
    /// What keys are hashed with before they come to the disk.
    secret: Secret,
    salt: Salt,
}

impl<'a> Remembered<'a> {
    pub(super) fn new(vault: &'a Vault) -> Self {
        let (secret, salt) = (Secret::random(), Salt::random());
        Self { vault, memory: HashMap::new(), bytes: 0, disk: None, secret, salt }
    }

    /// # Errors
    /// What the disk says; then some of what it was given before may be forgotten.
    pub(super) fn insert(&mut self, key: blake3::Hash, value: Vec<u8>) -> Result<(), EngineError> {
        self.bytes += value.len() + ENTRY_BYTES;
        self.memory.insert(key, value);
        if self.bytes > limit::REMEMBERED_BYTES_MAX { self.set_aside() } else { Ok(()) }
    }

    /// # Errors
    /// What the disk says.
    pub(super) fn get(&self, key: &blake3::Hash) -> Result<Option<Vec<u8>>, EngineError> {
        let (Some(disk), None) = (&self.disk, self.memory.get(key)) else {
            return Ok(self.memory.get(key).cloned());
        };
        let place = self.place(key);
        let Some(sealed) = disk.get(&place)? else { return Ok(None) };
        let keys = &self.vault.keyring.vault;
        let opened = crypto::open_blob(keys, keys.newest_epoch(), Kind::Name, place, &sealed);
        opened.map(Some).map_err(|error| EngineError::Scratch(io::Error::other(error)))
    }

    fn set_aside(&mut self) -> Result<(), EngineError> {
        self.bytes = 0;
        let all = std::mem::take(&mut self.memory);
        let keys = &self.vault.keyring.vault;
        let mut entries = Vec::with_capacity(all.len());
        for (key, value) in all {
            let (place, mut sealed) = (self.place(&key), Vec::new());
            crypto::seal_blob(keys, keys.newest_epoch(), &self.salt, Kind::Name, place, &value, &mut sealed)?;
            entries.push((place, sealed));
        }
        let disk = match self.disk.take() {
            Some(disk) => disk,
            None => self.vault.store.scratch_map()?,
        };
        Ok(self.disk.insert(disk).insert(entries)?)
    }

    /// Under which key it lies on the disk, which says nothing about what it is.
    fn place(&self, key: &blake3::Hash) -> [u8; 32] {
        *blake3::keyed_hash(self.secret.expose(), key.as_bytes()).as_bytes()
    }
}

/// By what the names of one file are known for such. Its content belongs to it: a snapshot may name an inode twice, because
/// numbers are used again.
pub(super) fn file_key(node: &wire::Node) -> blake3::Hash {
    let file = wire::Node {
        r#type: node.r#type,
        device: node.device,
        inode: node.inode,
        size: node.size,
        target: node.target.clone(),
        rdev: node.rdev,
        content: node.content.clone(),
        content_lists: node.content_lists.clone(),
        ..Default::default()
    };
    blake3::hash(&file.encode_to_vec())
}
