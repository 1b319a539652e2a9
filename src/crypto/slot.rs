//! Key files: a keyring sealed under a random key, and slots that wrap that key under a passphrase each.

use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Key, Tag, XChaCha20Poly1305, XNonce};
use prost::Message;
use zeroize::{Zeroize, Zeroizing};

use super::keys::{Keyring, Secret};
use crate::base::{Code, Coded, Moment, limit, random_bytes};
use crate::wire::{self, Bound};

const SLOT_CONTEXT: &[u8] = b"ShadowVault v1 key slot";
const KEYRING_CONTEXT: &[u8] = b"ShadowVault v1 keyring";
const FILE_VERSION: u32 = 1;
const FILE: Bound = Bound::new(limit::KEY_FILE_BYTES_MAX, limit::KEY_FILE_FIELDS_MAX);

/// A passphrase, wiped when dropped.
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// Takes the text over; one trailing line end is dropped (files and pipes have one).
    pub fn new(text: String) -> Self {
        let mut text = Zeroizing::new(text);
        while text.ends_with('\n') || text.ends_with('\r') {
            text.pop();
        }
        Self(text)
    }

    /// True when there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl PartialEq for Passphrase {
    fn eq(&self, other: &Self) -> bool {
        *self.0 == *other.0
    }
}

/// Argon2id's cost.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct KdfCost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes.
    pub iterations: u32,
    /// Parts that can be filled side by side.
    pub lanes: u32,
}

impl KdfCost {
    /// 64 MiB, three passes, four lanes: about 100 ms on two cores, and inside the 128 MiB that a command may use.
    /// Source: RFC 9106, section 4, second recommended option.
    pub const DEFAULT: Self = Self { memory_kib: 64 * 1024, iterations: 3, lanes: 4 };
    /// For tests only: the formats are the same.
    #[cfg(test)]
    pub(crate) const FAST: Self = Self { memory_kib: 8, iterations: 1, lanes: 1 };

    /// A stored cost above these would let an altered file exhaust memory or time.
    fn is_sane(self) -> bool {
        (1..=16).contains(&self.lanes)
            && (8 * self.lanes..=1024 * 1024).contains(&self.memory_kib)
            && (1..=64).contains(&self.iterations)
    }
}

/// A key file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// No slot opens with this passphrase.
    #[error("wrong passphrase")]
    WrongPassphrase,
    /// Not a key file, or damaged.
    #[error("the key file is damaged: {0}")]
    Damaged(&'static str),
    /// From a newer version.
    #[error("the key file has version {0}; this program knows version {FILE_VERSION}")]
    TooNew(u32),
}

impl Coded for KeyFileError {
    fn code(&self) -> Code {
        match self {
            Self::WrongPassphrase => Code::WrongPassphrase,
            Self::Damaged(_) => Code::StorageCorrupted,
            Self::TooNew(_) => Code::StorageTooNew,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::WrongPassphrase => {
                Some("try again; with the recovery phrase, `shadowvault recover` makes a new device".into())
            }
            Self::Damaged(_) => Some(
                "restore the keys directory from a copy, or recover with the 24 words and one peer".into(),
            ),
            Self::TooNew(_) => Some("use the newer shadowvault that wrote it".into()),
        }
    }
}

fn derive(passphrase: &Passphrase, salt: &[u8], cost: KdfCost) -> Result<Secret, KeyFileError> {
    let damaged = KeyFileError::Damaged("key derivation parameters");
    let params =
        Params::new(cost.memory_kib, cost.iterations, cost.lanes, Some(32)).map_err(|_| damaged.clone())?;
    let mut key = [0u8; 32];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.0.as_bytes(), salt, &mut key)
        .map_err(|_| damaged)?;
    Ok(Secret::new(key))
}

fn seal(key: &Secret, nonce: [u8; 24], aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(plaintext.len() + 16);
    out.extend_from_slice(plaintext);
    let tag = XChaCha20Poly1305::new(&Key::from(*key.expose()))
        .encrypt_inout_detached(&XNonce::from(nonce), aad, out.as_mut_slice().into())
        .expect("a key file is far below the cipher's length limit");
    out.extend_from_slice(&tag);
    out
}

fn open(key: &Secret, nonce: &[u8], aad: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let nonce: [u8; 24] = nonce.try_into().ok()?;
    let (ciphertext, tag) = sealed.split_last_chunk::<16>()?;
    let mut out = Zeroizing::new(ciphertext.to_vec());
    XChaCha20Poly1305::new(&Key::from(*key.expose()))
        .decrypt_inout_detached(&XNonce::from(nonce), aad, out.as_mut_slice().into(), &Tag::from(*tag))
        .ok()?;
    Some(out)
}

fn slot_aad(slot: &wire::KeySlot) -> Vec<u8> {
    let mut aad = SLOT_CONTEXT.to_vec();
    for number in [slot.version, slot.memory_kib, slot.iterations, slot.lanes] {
        aad.extend_from_slice(&number.to_le_bytes());
    }
    aad.extend_from_slice(&slot.created_ms.to_le_bytes());
    aad.extend_from_slice(&slot.salt);
    aad
}

/// A slot file: `keyring_key` wrapped under `passphrase`.
pub fn seal_slot(keyring_key: &Secret, passphrase: &Passphrase, cost: KdfCost, now: Moment) -> Vec<u8> {
    let mut slot = wire::KeySlot {
        version: FILE_VERSION,
        salt: random_bytes::<16>().to_vec(),
        memory_kib: cost.memory_kib,
        iterations: cost.iterations,
        lanes: cost.lanes,
        created_ms: now.as_millis(),
        ..Default::default()
    };
    let nonce = random_bytes::<24>();
    let wrapping = derive(passphrase, &slot.salt, cost).expect("own parameters are valid");
    slot.wrapped = seal(&wrapping, nonce, &slot_aad(&slot), keyring_key.expose());
    slot.nonce = nonce.to_vec();
    slot.encode_to_vec()
}

/// The keyring key from a slot file.
pub fn open_slot(file: &[u8], passphrase: &Passphrase) -> Result<Secret, KeyFileError> {
    let slot: wire::KeySlot =
        wire::decode(file, FILE).map_err(|_| KeyFileError::Damaged("not a key slot"))?;
    if slot.version > FILE_VERSION {
        return Err(KeyFileError::TooNew(slot.version));
    }
    let cost = KdfCost { memory_kib: slot.memory_kib, iterations: slot.iterations, lanes: slot.lanes };
    if slot.version != FILE_VERSION || slot.salt.len() != 16 || !cost.is_sane() {
        return Err(KeyFileError::Damaged("slot parameters are out of range"));
    }
    if slot.wrapped.len() != 48 || slot.nonce.len() != 24 {
        return Err(KeyFileError::Damaged("slot fields have wrong lengths"));
    }
    let wrapping = derive(passphrase, &slot.salt, cost)?;
    let key =
        open(&wrapping, &slot.nonce, &slot_aad(&slot), &slot.wrapped).ok_or(KeyFileError::WrongPassphrase)?;
    let bytes: [u8; 32] = key.as_slice().try_into().map_err(|_| KeyFileError::Damaged("wrapped key"))?;
    Ok(Secret::new(bytes))
}

/// The keyring file: everything the device keeps, sealed under `keyring_key`.
pub fn seal_keyring(keyring: &Keyring, keyring_key: &Secret) -> Vec<u8> {
    let mut raw = keyring.to_wire();
    let plaintext = Zeroizing::new(raw.encode_to_vec());
    wipe(&mut raw);
    let nonce = random_bytes::<24>();
    wire::SealedKeyring {
        version: FILE_VERSION,
        nonce: nonce.to_vec(),
        sealed: seal(keyring_key, nonce, KEYRING_CONTEXT, &plaintext),
    }
    .encode_to_vec()
}

/// Opens what [`seal_keyring`] wrote.
pub fn open_keyring(file: &[u8], keyring_key: &Secret) -> Result<Keyring, KeyFileError> {
    let outer: wire::SealedKeyring =
        wire::decode(file, FILE).map_err(|_| KeyFileError::Damaged("not a keyring"))?;
    if outer.version > FILE_VERSION {
        return Err(KeyFileError::TooNew(outer.version));
    }
    if outer.version != FILE_VERSION {
        return Err(KeyFileError::Damaged("keyring version"));
    }
    let plaintext = open(keyring_key, &outer.nonce, KEYRING_CONTEXT, &outer.sealed)
        .ok_or(KeyFileError::Damaged("the keyring does not authenticate"))?;
    let mut raw: wire::Keyring =
        wire::decode(&plaintext, FILE).map_err(|_| KeyFileError::Damaged("keyring content"))?;
    let keyring = Keyring::from_wire(&raw).ok_or(KeyFileError::Damaged("keyring fields"));
    wipe(&mut raw);
    keyring
}

fn wipe(raw: &mut wire::Keyring) {
    raw.chunk_id_key.zeroize();
    raw.tree_id_key.zeroize();
    raw.chunker_seed.zeroize();
    raw.device_seed.zeroize();
    raw.agreement_seed.zeroize();
    for epoch in &mut raw.epochs {
        epoch.sealing.zeroize();
        epoch.nonce.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::super::{DeviceKeys, Phrase};
    use super::*;
    use crate::base::Epoch;

    fn keyring() -> Keyring {
        Keyring {
            vault: Phrase::generate().root().vault_keys(Epoch(2)),
            device: DeviceKeys::generate("laptop"),
            certificate: wire::Signed { body: vec![1], signature: vec![2] },
        }
    }

    #[test]
    fn keyring_opens_with_the_right_passphrase_only() {
        let (ring, key) = (keyring(), Secret::random());
        let right = Passphrase::new("right\n".into());
        let slot = seal_slot(&key, &right, KdfCost::FAST, Moment::from_millis(5));
        let file = seal_keyring(&ring, &key);
        let back = open_keyring(&file, &open_slot(&slot, &right).unwrap()).unwrap();
        assert!(back.device.id() == ring.device.id() && back.device.name == "laptop");
        assert!(back.vault.vault == ring.vault.vault && back.vault.newest_epoch() == Epoch(2));
        let wrong = open_slot(&slot, &Passphrase::new("Right".into()));
        assert!(matches!(wrong, Err(KeyFileError::WrongPassphrase)));
    }

    /// Frozen: a slot and a keyring with fixed salt and nonces, opened the way a device opens them.
    #[test]
    fn key_files_match_the_frozen_vectors() {
        let (pass, key) = (Passphrase::new("correct horse battery staple".into()), Secret::new([6; 32]));
        let mut slot = wire::KeySlot {
            version: FILE_VERSION,
            salt: vec![7; 16],
            memory_kib: 64,
            iterations: 2,
            lanes: 1,
            nonce: vec![8; 24],
            created_ms: 1_700_000_000_000,
            ..Default::default()
        };
        let cost = KdfCost { memory_kib: 64, iterations: 2, lanes: 1 };
        let wrapping = derive(&pass, &slot.salt, cost).unwrap();
        slot.wrapped = seal(&wrapping, [8; 24], &slot_aad(&slot), key.expose());
        let slot = slot.encode_to_vec();
        assert!(open_slot(&slot, &pass).unwrap().expose() == key.expose());

        let certificate = wire::Signed { body: vec![1], signature: vec![2; 64] };
        let vault = Phrase::example().root().vault_keys(Epoch(0));
        let ring = Keyring { vault, device: DeviceKeys::example(), certificate };
        let plain = ring.to_wire().encode_to_vec();
        let sealed = seal(&key, [9; 24], KEYRING_CONTEXT, &plain);
        let file = wire::SealedKeyring { version: FILE_VERSION, nonce: vec![9; 24], sealed }.encode_to_vec();
        assert!(open_keyring(&file, &key).unwrap().device.id() == ring.device.id());
        let text = format!("slot {}\nkeyring {}\n", hex::encode(slot), hex::encode(file));
        crate::base::frozen("keyfiles.txt", text.as_bytes());
    }

    #[test]
    fn every_altered_byte_of_a_key_file_is_refused() {
        let (ring, key) = (keyring(), Secret::random());
        let pass = Passphrase::new("p".into());
        let slot = seal_slot(&key, &pass, KdfCost::FAST, Moment::from_millis(5));
        let file = seal_keyring(&ring, &key);
        for at in 0..slot.len() {
            let mut bad = slot.clone();
            bad[at] ^= 0x40;
            // A flipped cost may be legal but slow: those are refused by the sanity bounds or by the tag.
            assert!(open_slot(&bad, &pass).is_err(), "slot byte {at}");
            assert!(open_slot(&slot[..at], &pass).is_err(), "slot cut at {at}");
        }
        for at in 0..file.len() {
            let mut bad = file.clone();
            bad[at] ^= 1;
            assert!(open_keyring(&bad, &key).is_err(), "keyring byte {at}");
        }
    }
}
