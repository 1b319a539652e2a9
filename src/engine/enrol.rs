//! Making nodes and devices: the node key, a device under a vault's admin key, opening its keys again.

use super::error::EngineError;
use super::heads::any_head;
use crate::base::{Epoch, Moment, PeerId, VaultId};
use crate::crypto::{
    DeviceKeys, KdfCost, KeyFileError, Keyring, NodeKey, Passphrase, Phrase, Secret, open_keyring, open_slot,
    seal_keyring, seal_slot,
};
use crate::snapshot::{Certificate, issue_certificate};
use crate::store::{Store, StoreError};

/// Gives a new store its node key.
pub fn make_node(store: &Store) -> Result<NodeKey, EngineError> {
    let key = NodeKey::generate();
    store.publish_node_key(key.seed().expose())?;
    Ok(key)
}

/// Makes this node a device of the phrase's vault: keys, certificate, key files. The order of files matters: the
/// vault's name comes last, so that a crash in between leaves a node without vault.
pub fn enrol_device(
    store: &Store,
    phrase: &Phrase,
    peer: PeerId,
    device_name: &str,
    passphrase: &Passphrase,
    cost: KdfCost,
    now: Moment,
) -> Result<Keyring, EngineError> {
    let root = phrase.root();
    let (keys, admin) = (root.vault_keys(Epoch(0)), root.admin());
    let device = DeviceKeys::generate(device_name);
    let certificate = issue_certificate(&admin, &keys, &device, peer, now)?;
    let keyring = Keyring { vault: keys, device, certificate };
    let keyring_key = Secret::random();
    store.publish_keyring(&seal_keyring(&keyring, &keyring_key))?;
    let slot = seal_slot(&keyring_key, passphrase, cost, now);
    store.publish_slot(&slot)?;
    // What was written must open before anything relies on it.
    unlock(store, passphrase)?;
    store.publish_vault_id(keyring.vault.vault)?;
    Ok(keyring)
}

/// The vault that this node is a device of; `None` on a storage-only node. Where the file that says so is lost or damaged, a
/// head that this node has signed tells it, and the file is written again.
///
/// # Errors
/// [`StoreError::DamagedFile`] when the file is damaged and there is no such head.
pub fn own_vault(store: &Store, me: PeerId) -> Result<Option<VaultId>, EngineError> {
    let read = store.read_vault_id();
    let is_lost = match &read {
        Ok(None) => store.read_keyring()?.is_some(),
        Err(StoreError::DamagedFile(_)) => true,
        _ => false,
    };
    if is_lost {
        for vault in store.head_vaults()? {
            for device in store.head_devices(vault)? {
                if any_head(store, vault, device)?.is_some_and(|head| head.certificate.peer == me) {
                    tracing::warn!(target: "vault", %vault, "vault.id was lost or damaged, and is written again");
                    store.publish_vault_id(vault)?;
                    return Ok(Some(vault));
                }
            }
        }
    }
    Ok(read?)
}

/// Opens the device's keyring with a passphrase.
///
/// # Errors
/// [`KeyFileError::WrongPassphrase`] when no slot opens; a damaged slot is reported only if no other opens.
pub fn unlock(store: &Store, passphrase: &Passphrase) -> Result<Keyring, EngineError> {
    let file = store.read_keyring()?.ok_or(KeyFileError::Damaged("keys/keyring is missing"))?;
    let mut failure = KeyFileError::Damaged("there is no key slot");
    for slot in store.read_slots()? {
        match open_slot(&slot, passphrase) {
            Ok(key) => return checked(store, open_keyring(&file, &key)?),
            Err(KeyFileError::WrongPassphrase) => failure = KeyFileError::WrongPassphrase,
            Err(other) if failure != KeyFileError::WrongPassphrase => failure = other,
            Err(_) => {}
        }
    }
    Err(failure.into())
}

/// The device's certificate names its node: another node key is a damaged or foreign one.
fn checked(store: &Store, keyring: Keyring) -> Result<Keyring, EngineError> {
    let damaged = || StoreError::DamagedFile("node.key".to_owned());
    let seed = store.read_node_key()?.ok_or_else(damaged)?;
    let peer = NodeKey::from_seed(&Secret::new(seed)).peer_id();
    let certificate = Certificate::verify(&keyring.certificate)?;
    if certificate.peer == peer { Ok(keyring) } else { Err(damaged().into()) }
}
