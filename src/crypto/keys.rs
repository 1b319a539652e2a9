//! Secret keys and who holds them.

use ed25519_dalek::SigningKey;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::seal::Kind;
use crate::base::{ChunkId, DeviceId, Epoch, PeerId, VaultId, random_bytes};
use crate::wire;

/// 32 secret bytes, wiped when dropped; deliberately without `Debug`, `Clone` or `Serialize`.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; 32]);

impl Secret {
    /// Wraps secret bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Fresh from the operating system.
    pub fn random() -> Self {
        Self(random_bytes())
    }

    /// The bytes, for the one call that needs them.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

/// Sealing and nonce key of one epoch.
pub struct EpochKeys {
    /// Which generation.
    pub epoch: Epoch,
    pub(super) sealing: Secret,
    pub(super) nonce: Secret,
}

/// What a device keeps of the vault: enough to read and write it, not to enrol devices.
pub struct VaultKeys {
    /// The vault they belong to.
    pub vault: VaultId,
    pub(super) data_id: Secret,
    pub(super) tree_id: Secret,
    pub(super) chunker_seed: Secret,
    pub(super) epochs: Vec<EpochKeys>,
}

impl VaultKeys {
    /// Names a plaintext. Data and tree chunks have keys of their own, so that no file can pass for a tree.
    pub fn chunk_id(&self, kind: Kind, plaintext: &[u8]) -> ChunkId {
        let key = if kind == Kind::Tree { &self.tree_id } else { &self.data_id };
        ChunkId::new(*blake3::keyed_hash(key.expose(), plaintext).as_bytes())
    }

    /// The secret from which the chunker derives its gear table.
    pub fn chunker_seed(&self) -> &Secret {
        &self.chunker_seed
    }

    /// The epoch new data is sealed with.
    pub fn newest_epoch(&self) -> Epoch {
        self.epochs.last().map_or(Epoch(0), |keys| keys.epoch)
    }

    pub(super) fn epoch(&self, epoch: Epoch) -> Option<&EpochKeys> {
        self.epochs.iter().find(|keys| keys.epoch == epoch)
    }
}

/// What makes this machine a device: signing key, agreement key, name.
pub struct DeviceKeys {
    pub(super) signing: SigningKey,
    pub(super) agreement: Secret,
    /// Name shown to other devices of the vault.
    pub name: String,
}

impl DeviceKeys {
    /// Fresh keys for a device called `name`.
    pub fn generate(name: &str) -> Self {
        let seed = Secret::random();
        Self {
            signing: SigningKey::from_bytes(seed.expose()),
            agreement: Secret::random(),
            name: name.to_owned(),
        }
    }

    /// The device of the frozen vectors.
    #[cfg(test)]
    pub(crate) fn example() -> Self {
        Self {
            signing: SigningKey::from_bytes(&[1; 32]),
            agreement: Secret::new([2; 32]),
            name: "laptop".to_owned(),
        }
    }

    /// The device's public key.
    pub fn id(&self) -> DeviceId {
        DeviceId::new(self.signing.verifying_key().to_bytes())
    }

    /// The X25519 public key to which later key rotations are sealed.
    pub fn agreement_public(&self) -> [u8; 32] {
        let secret = x25519_dalek::StaticSecret::from(*self.agreement.expose());
        x25519_dalek::PublicKey::from(&secret).to_bytes()
    }
}

/// Everything a device keeps under its passphrase.
pub struct Keyring {
    /// The vault's keys.
    pub vault: VaultKeys,
    /// The device's own.
    pub device: DeviceKeys,
    /// The device's certificate as the admin key signed it.
    pub certificate: wire::Signed,
}

impl Keyring {
    pub(super) fn to_wire(&self) -> wire::Keyring {
        let copy = |secret: &Secret| secret.expose().to_vec();
        wire::Keyring {
            vault: self.vault.vault.as_bytes().to_vec(),
            chunk_id_key: copy(&self.vault.data_id),
            tree_id_key: copy(&self.vault.tree_id),
            chunker_seed: copy(&self.vault.chunker_seed),
            epochs: self
                .vault
                .epochs
                .iter()
                .map(|keys| wire::EpochKeys {
                    epoch: keys.epoch.0,
                    sealing: copy(&keys.sealing),
                    nonce: copy(&keys.nonce),
                })
                .collect(),
            device_seed: self.device.signing.to_bytes().to_vec(),
            agreement_seed: copy(&self.device.agreement),
            certificate: Some(self.certificate.clone()),
            device_name: self.device.name.clone(),
        }
    }

    /// `None` when a field has the wrong length or is missing.
    pub(super) fn from_wire(raw: &wire::Keyring) -> Option<Self> {
        let epochs = raw.epochs.iter().map(|keys| {
            Some(EpochKeys {
                epoch: Epoch(keys.epoch),
                sealing: Secret::read(&keys.sealing)?,
                nonce: Secret::read(&keys.nonce)?,
            })
        });
        Some(Self {
            vault: VaultKeys {
                vault: VaultId::try_from(raw.vault.as_slice()).ok()?,
                data_id: Secret::read(&raw.chunk_id_key)?,
                tree_id: Secret::read(&raw.tree_id_key)?,
                chunker_seed: Secret::read(&raw.chunker_seed)?,
                epochs: epochs.collect::<Option<Vec<_>>>().filter(|list| !list.is_empty())?,
            },
            device: DeviceKeys {
                signing: SigningKey::from_bytes(Secret::read(&raw.device_seed)?.expose()),
                agreement: Secret::read(&raw.agreement_seed)?,
                name: raw.device_name.clone(),
            },
            certificate: raw.certificate.clone()?,
        })
    }
}

/// The node's identity on the network; stored unwrapped so that a locked node can still store for others.
pub struct NodeKey(SigningKey);

impl NodeKey {
    /// A fresh identity.
    pub fn generate() -> Self {
        Self::from_seed(&Secret::random())
    }

    /// The node of the frozen vectors.
    #[cfg(test)]
    pub(crate) fn example() -> Self {
        Self(SigningKey::from_bytes(&[3; 32]))
    }

    /// From the 32 bytes that [`NodeKey::seed`] gave.
    pub fn from_seed(seed: &Secret) -> Self {
        Self(SigningKey::from_bytes(seed.expose()))
    }

    /// The bytes to store, mode 0600.
    pub fn seed(&self) -> Secret {
        Secret::new(self.0.to_bytes())
    }

    /// The public name.
    pub fn peer_id(&self) -> PeerId {
        PeerId::new(self.0.verifying_key().to_bytes())
    }

    pub(super) fn signing(&self) -> &SigningKey {
        &self.0
    }
}
