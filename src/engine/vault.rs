//! An open vault: the store, the keys, and how to write to it.

use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};

use crate::base::{Clock, DeviceId, PackId, VaultId, limit};
use crate::chunker::{ChunkSizes, Cutter};
use crate::crypto::Keyring;
use crate::store::Store;

/// How a vault is written.
#[derive(Debug, Clone)]
pub struct VaultOptions {
    /// Chunk sizes.
    pub sizes: ChunkSizes,
    /// zstd level; `None` stores everything as it is.
    pub level: Option<i32>,
    /// Whether known chunks are reused.
    pub deduplicate: bool,
    /// Wished number of holders.
    pub copies: u32,
    /// Worker threads.
    pub workers: usize,
}

/// A vault whose keys are at hand.
pub struct Vault {
    /// What is on disk.
    pub store: Arc<Store>,
    /// The keys.
    pub keyring: Keyring,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
    options: RwLock<Arc<VaultOptions>>,
    /// Taken while a head is made: heads of one device are a chain.
    pub(super) head_lock: Mutex<()>,
    /// Packs that are being healed: threads that miss the same one pull it once.
    healed: Mutex<Vec<PackId>>,
    heal_ended: Condvar,
}

/// A pack that is being healed, until this is dropped.
pub(super) struct Healing<'a> {
    vault: &'a Vault,
    pack: PackId,
}

impl Drop for Healing<'_> {
    fn drop(&mut self) {
        let mut healed = self.vault.healed.lock().unwrap_or_else(PoisonError::into_inner);
        healed.retain(|pack| *pack != self.pack);
        self.vault.heal_ended.notify_all();
    }
}

impl Vault {
    /// Puts a vault together.
    pub fn new(store: Arc<Store>, keyring: Keyring, clock: Arc<dyn Clock>, options: VaultOptions) -> Self {
        Self {
            store,
            keyring,
            clock,
            options: RwLock::new(Arc::new(options)),
            head_lock: Mutex::new(()),
            healed: Mutex::default(),
            heal_ended: Condvar::new(),
        }
    }

    /// How to write, as things are now. An operation asks once, at its start.
    pub fn options(&self) -> Arc<VaultOptions> {
        self.options.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes otherwise from now on; operations under way end as they began.
    pub fn configure(&self, options: VaultOptions) {
        *self.options.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(options);
    }

    /// Cuts as `options` say, at places that only this vault's key tells.
    pub(super) fn cutter(&self, options: &VaultOptions) -> Cutter {
        Cutter::new(options.sizes, self.keyring.vault.chunker_seed().expose())
    }

    /// Held while a pack is healed. Waits while others heal it, or while as many are being healed as memory allows.
    pub(super) fn healing(&self, pack: PackId) -> Healing<'_> {
        let mut healed = self.healed.lock().unwrap_or_else(PoisonError::into_inner);
        while healed.contains(&pack) || healed.len() >= limit::PACKS_HEALED_MAX {
            healed = self.heal_ended.wait(healed).unwrap_or_else(PoisonError::into_inner);
        }
        healed.push(pack);
        Healing { vault: self, pack }
    }

    /// The vault's name.
    pub fn id(&self) -> VaultId {
        self.keyring.vault.vault
    }

    /// This device's name.
    pub fn device(&self) -> DeviceId {
        self.keyring.device.id()
    }
}
