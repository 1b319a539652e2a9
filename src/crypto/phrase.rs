//! The 24 words, the root they stand for, and the vault's admin key derived from it.

use ed25519_dalek::SigningKey;
use zeroize::{Zeroize, Zeroizing};

use super::keys::{EpochKeys, Secret, VaultKeys};
use crate::base::{Code, Coded, Epoch, PeerId, VaultId, random_bytes};

/// Why a phrase is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PhraseError {
    /// Not 24 words.
    #[error("a recovery phrase has 24 words, not {0}")]
    WordCount(usize),
    /// A word that is not in the BIP39 English list (its position only: the phrase is a secret).
    #[error("word {0} of the recovery phrase is not in the word list")]
    UnknownWord(usize),
    /// All words are known but do not belong together.
    #[error("the recovery phrase's checksum is wrong: a word is mistyped or out of order")]
    Checksum,
}

impl Coded for PhraseError {
    fn code(&self) -> Code {
        Code::InvalidKey
    }

    fn hint(&self) -> Option<String> {
        Some("compare each word and their order with what was written down".to_owned())
    }
}

/// A recovery phrase: the one secret that brings a vault back.
pub struct Phrase(bip39::Mnemonic);

impl Phrase {
    /// A fresh phrase from 256 random bits.
    pub fn generate() -> Self {
        let entropy = Zeroizing::new(random_bytes::<32>());
        Self(bip39::Mnemonic::from_entropy(entropy.as_slice()).expect("32 bytes make 24 words"))
    }

    /// Reads 24 English BIP39 words; case and white space do not matter.
    pub fn parse(text: &str) -> Result<Self, PhraseError> {
        let lower = Zeroizing::new(text.to_lowercase());
        let words: Vec<&str> = lower.split_whitespace().collect();
        if words.len() != 24 {
            return Err(PhraseError::WordCount(words.len()));
        }
        let joined = Zeroizing::new(words.join(" "));
        bip39::Mnemonic::parse_in_normalized(bip39::Language::English, &joined).map(Self).map_err(|error| {
            match error {
                bip39::Error::UnknownWord(at) => PhraseError::UnknownWord(at + 1),
                _ => PhraseError::Checksum,
            }
        })
    }

    /// The phrase of the frozen vectors: 256 zero bits.
    #[cfg(test)]
    pub(crate) fn example() -> Self {
        Self(bip39::Mnemonic::from_entropy(&[0; 32]).expect("32 bytes make 24 words"))
    }

    /// The words, for showing them once.
    pub fn words(&self) -> Zeroizing<String> {
        Zeroizing::new(self.0.words().collect::<Vec<_>>().join(" "))
    }

    /// The 256-bit root that the phrase encodes.
    pub fn root(&self) -> Root {
        let mut entropy = self.0.to_entropy();
        let mut bytes = [0u8; 32];
        bytes.copy_from_slice(&entropy);
        entropy.zeroize();
        Root(Secret::new(bytes))
    }
}

/// Four words for two nodes, the same on both sides: who compares them knows that nobody stands between.
///
/// 44 bits, no secret: both ids are public.
pub fn pairing_words(one: PeerId, other: PeerId) -> String {
    let (low, high) = if one < other { (one, other) } else { (other, one) };
    let material = [low.as_bytes().as_slice(), high.as_bytes()].concat();
    let digest = blake3::derive_key("ShadowVault 2026 v1 pairing words", &material);
    let list = bip39::Language::English.word_list();
    let word = |pair: &[u8]| list[usize::from(u16::from_le_bytes([pair[0], pair[1]])) % list.len()];
    digest[..8].chunks(2).map(word).collect::<Vec<_>>().join(" ")
}

/// What the phrase encodes; never stored. Everything of the vault is derived from it with
/// `blake3::derive_key` and a context string of its own.
pub struct Root(Secret);

const ADMIN: &str = "ShadowVault 2026 v1 vault admin signing key";
const CHUNK_ID: &str = "ShadowVault 2026 v1 data chunk id key";
const TREE_ID: &str = "ShadowVault 2026 v1 tree chunk id key";
const CHUNKER: &str = "ShadowVault 2026 v1 chunker seed";
const SEALING: &str = "ShadowVault 2026 v1 epoch sealing key";
const NONCE: &str = "ShadowVault 2026 v1 epoch nonce key";

impl Root {
    fn derive(&self, context: &str) -> Secret {
        Secret::new(blake3::derive_key(context, self.0.expose()))
    }

    fn derive_epoch(&self, context: &str, epoch: Epoch) -> Secret {
        let mut material = Zeroizing::new([0u8; 36]);
        material[..32].copy_from_slice(self.0.expose());
        material[32..].copy_from_slice(&epoch.0.to_le_bytes());
        Secret::new(blake3::derive_key(context, material.as_slice()))
    }

    /// The vault's admin key; used while a device is enrolled or a vault proven, never stored.
    pub fn admin(&self) -> AdminKey {
        AdminKey(SigningKey::from_bytes(self.derive(ADMIN).expose()))
    }

    /// The keys that a device keeps, with sealing keys for epochs `0..=newest`.
    pub fn vault_keys(&self, newest: Epoch) -> VaultKeys {
        VaultKeys {
            vault: self.admin().vault(),
            data_id: self.derive(CHUNK_ID),
            tree_id: self.derive(TREE_ID),
            chunker_seed: self.derive(CHUNKER),
            epochs: (0..=newest.0)
                .map(Epoch)
                .map(|epoch| EpochKeys {
                    epoch,
                    sealing: self.derive_epoch(SEALING, epoch),
                    nonce: self.derive_epoch(NONCE, epoch),
                })
                .collect(),
        }
    }
}

/// Signs for the vault as a whole: certificates and proofs at the door.
pub struct AdminKey(SigningKey);

impl AdminKey {
    /// The vault this key speaks for.
    pub fn vault(&self) -> VaultId {
        VaultId::new(self.0.verifying_key().to_bytes())
    }

    pub(super) fn signing(&self) -> &SigningKey {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: &str = "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon \
        abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon art";

    #[test]
    fn phrase_round_trips_and_ignores_case_and_spacing() {
        let phrase = Phrase::generate();
        let again = Phrase::parse(&phrase.words().to_uppercase().replace(' ', " \n ")).unwrap();
        assert!(phrase.root().admin().vault() == again.root().admin().vault());
    }

    #[test]
    fn phrase_refuses_what_is_not_one() {
        let wrong = |text: &str| Phrase::parse(text).err().unwrap();
        assert_eq!(wrong("abandon art"), PhraseError::WordCount(2));
        assert_eq!(wrong(&WORDS.replacen("abandon", "shadowvault", 1)), PhraseError::UnknownWord(1));
        assert_eq!(wrong(&WORDS.replace("art", "zoo")), PhraseError::Checksum);
    }

    /// Frozen: these derivations can never change without losing every vault.
    #[test]
    fn derivations_match_the_frozen_vectors() {
        assert_eq!(*Phrase::example().words(), WORDS);
        let root = Phrase::parse(WORDS).unwrap().root();
        let keys = root.vault_keys(Epoch(1));
        let lines = [
            format!("vault {}", keys.vault),
            format!("data-id {}", keys.chunk_id(super::super::Kind::Data, b"hello")),
            format!("tree-id {}", keys.chunk_id(super::super::Kind::Tree, b"hello")),
            format!("chunker {}", hex::encode(keys.chunker_seed.expose())),
            format!("sealing0 {}", hex::encode(keys.epochs[0].sealing.expose())),
            format!("nonce1 {}", hex::encode(keys.epochs[1].nonce.expose())),
        ];
        crate::base::frozen("keys.txt", lines.join("\n").as_bytes());
    }

    #[test]
    fn pairing_words_are_the_same_on_both_sides_and_differ_between_pairs() {
        let [a, b, c] = [1, 2, 3].map(|n| PeerId::new([n; 32]));
        assert_eq!(pairing_words(a, b), pairing_words(b, a));
        assert_eq!(pairing_words(a, b).split(' ').count(), 4);
        assert_ne!(pairing_words(a, b), pairing_words(a, c));
    }
}
