//! Making a node, and making its index anew.

use std::sync::Arc;

use crate::api::{ApiError, Identity, RebuildSummary};
use crate::base::{Clock, Code, SystemClock};
use crate::config::{LocalCopy, Settings};
use crate::crypto::{KdfCost, NodeKey, Passphrase, Phrase, Secret};
use crate::engine::{self, Monitor, Vault};
use crate::store::{Purpose, Store};

use super::core::{not_opened, vault_options};
use super::error::failed;
use super::making;

/// `init`.
pub struct InitRequest {
    /// Which command makes it: `init`, or `join`.
    pub command: &'static str,
    /// Only store for others: no vault, no passphrase.
    pub storage_only: bool,
    /// The vault's phrase; a fresh one when absent.
    pub phrase: Option<Phrase>,
    /// Protects the device's keys; needed unless storage-only.
    pub passphrase: Option<Passphrase>,
    /// Name of this device.
    pub device_name: String,
}

/// What `init` made: whole once it is finished.
#[must_use]
pub struct NewNode {
    /// Who the node is now.
    pub identity: Identity,
    /// The phrase, when it is fresh: to be shown once.
    pub phrase: Option<Phrase>,
    /// An earlier try was cut off; the phrase that it may have shown is that of no vault.
    pub is_anew: bool,
    store: Arc<Store>,
}

impl NewNode {
    /// Makes the node whole: when its phrase is kept, and not before. Until then the same command makes it anew. Blocking.
    pub fn finish(self) -> Result<(), ApiError> {
        self.store.finish().map_err(failed)
    }
}

/// Makes a node in `settings.repository_path`. Blocking.
///
/// # Errors
/// A directory that holds a node or anything else; a missing or empty passphrase.
pub fn init(settings: &Settings, request: InitRequest) -> Result<NewNode, ApiError> {
    let passphrase = match (&request.passphrase, request.storage_only) {
        (_, true) => None,
        (Some(passphrase), false) if !passphrase.is_empty() => Some(passphrase),
        _ => {
            return Err(ApiError::new(Code::WrongPassphrase, "a vault needs a passphrase that is not empty")
                .with_hint("give one with --passphrase-file, or use --storage-only"));
        }
    };
    let options = vault_options(settings)?;
    let dir = &settings.repository_path;
    let is_anew = Store::unfinished(dir).map_err(failed)?.is_some();
    let store = Arc::new(making::begin_anew(dir, &Purpose::of(request.command))?);
    let key = engine::make_node(&store).map_err(failed)?;
    let identity = Identity { peer_id: key.peer_id(), addresses: Vec::new(), vault_id: None };
    let mut made = NewNode { identity, phrase: None, is_anew, store: store.clone() };
    let Some(passphrase) = passphrase else { return Ok(made) };
    let clock = SystemClock;
    let (phrase, fresh) = match request.phrase {
        Some(phrase) => (phrase, false),
        None => (Phrase::generate(), true),
    };
    let keyring = engine::enrol_device(
        &store,
        &phrase,
        key.peer_id(),
        &request.device_name,
        passphrase,
        KdfCost::DEFAULT,
        clock.now(),
    )
    .map_err(failed)?;
    made.identity.vault_id = Some(keyring.vault.vault);
    let vault = Vault::new(store, keyring, Arc::new(clock), options);
    engine::publish_next_head(&vault, &[], &[]).map_err(failed)?;
    made.phrase = fresh.then_some(phrase);
    Ok(made)
}

/// Makes the index of `settings.repository_path` anew. Blocking; reads every own pack. The old one stays in place until
/// the new one is whole, whatever ends this before.
///
/// # Errors
/// A node with a vault needs its passphrase.
pub fn rebuild_index(
    settings: &Settings,
    passphrase: Option<&Passphrase>,
    without_packs: bool,
) -> Result<RebuildSummary, ApiError> {
    let dir = &settings.repository_path;
    if !without_packs {
        look_for_packs(settings)?;
    }
    // Keys are tried before anything is read.
    let keyring = {
        let store = Store::rebuild_probe(dir).map_err(not_opened)?;
        let me = store.read_node_key().map_err(failed)?.map(|seed| NodeKey::from_seed(&Secret::new(seed)));
        let vault = match me {
            Some(key) => engine::own_vault(&store, key.peer_id()).map_err(failed)?,
            None => store.read_vault_id().map_err(failed)?,
        };
        match (vault, passphrase) {
            (None, _) => None,
            (Some(_), Some(passphrase)) => Some(engine::unlock(&store, passphrase).map_err(failed)?),
            (Some(_), None) => return Err(super::error::locked(true)),
        }
    };
    let store = Arc::new(Store::rebuild(dir).map_err(failed)?);
    let monitor = Monitor::default();
    let keys = keyring.as_ref().map(|keyring| &keyring.vault);
    let found = engine::rebuild_index(&store, keys, &monitor).map_err(failed)?;
    let mut summary = RebuildSummary {
        packs: found.packs,
        chunks: found.chunks,
        heads: found.heads,
        unreadable: found.unreadable,
        with_keys: keyring.is_some(),
        snapshots: 0,
    };
    if let Some(keyring) = keyring {
        let clock = Arc::new(SystemClock);
        let vault = Vault::new(store.clone(), keyring, clock, vault_options(settings)?);
        engine::renew_kept(&vault).map_err(failed)?;
        summary.snapshots = engine::renew_snapshot_packs(&vault).map_err(failed)?;
    }
    store.publish_index().map_err(failed)?;
    Ok(summary)
}

/// An index made while the packs' disk is not mounted would say of all of them that they never were. The old index tells which
/// belong here; where it cannot be read, heads tell of some that do not.
fn look_for_packs(settings: &Settings) -> Result<(), ApiError> {
    let dir = &settings.repository_path;
    let is_cache = settings.storage.local_copy == LocalCopy::Cache;
    let (store, has_index) = match Store::open(dir) {
        Ok(store) => (store, true),
        Err(_) => (Store::rebuild_probe(dir).map_err(not_opened)?, false),
    };
    if !store.pack_files().map_err(failed)?.is_empty() {
        return Ok(());
    }
    let missing = engine::packs_to_be_here(&store, has_index, is_cache).map_err(failed)?;
    if missing == 0 {
        return Ok(());
    }
    let at = store.dir().join("packs");
    let text = format!(
        "{missing} packs belong here, and none is in {}: is another disk to be mounted there?",
        at.display()
    );
    Err(ApiError::new(Code::StorageUnavailable, text).with_hint(
        "mount it; if the packs are lost, `shadowvault rebuild-index --yes` and then `shadowvault repair`",
    ))
}

/// Makes the index anew if nothing has to be asked for that: `None` when the vault's keys are locked.
pub(super) fn rebuild_at_hand(
    settings: &Settings,
    passphrase: Option<&Passphrase>,
) -> Result<Option<RebuildSummary>, ApiError> {
    match rebuild_index(settings, passphrase, false) {
        Err(error) if error.kind() == Code::VaultLocked => Ok(None),
        rebuilt => rebuilt.map(Some),
    }
}
