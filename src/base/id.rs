//! Identifiers: one type per meaning, fixed length, compared and shown as hex (peers as libp2p's base58).

use std::fmt;
use std::str::FromStr;

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not hex, or not 64 digits of it.
    #[error("{0:?} is not a {1} of 64 hex digits")]
    NotHex(String, &'static str),
    /// Not the base58 form of an Ed25519 peer id.
    #[error("{0:?} is not a peer id (expected base58 text that starts with 12D3KooW)")]
    NotPeer(String),
    /// A byte string of another length.
    #[error("a {1} has 32 bytes, not {0}")]
    Length(usize, &'static str),
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $what:literal;)+) => {$(
        $(#[$doc])*
        #[derive(Copy, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Wraps raw bytes.
            pub const fn new(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The raw bytes.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// The first eight hex digits, for people.
            pub fn short(&self) -> String {
                hex::encode(&self.0[..4])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($what, ":{}"), self.short())
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let mut bytes = [0u8; 32];
                hex::decode_to_slice(text, &mut bytes)
                    .map_err(|_| IdError::NotHex(text.chars().take(80).collect(), $what))?;
                Ok(Self(bytes))
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = IdError;
            fn try_from(bytes: &[u8]) -> Result<Self, IdError> {
                bytes.try_into().map(Self).map_err(|_| IdError::Length(bytes.len(), $what))
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = String::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )+};
}

ids! {
    /// One owner's encrypted history: the Ed25519 admin public key derived from the recovery phrase.
    VaultId = "vault id";
    /// A machine that writes to a vault: its Ed25519 device signing key (not the node key).
    DeviceId = "device id";
    /// A piece of plaintext: BLAKE3 of it, keyed with a vault key. Means nothing without that key.
    ChunkId = "chunk id";
    /// A pack's bytes: plain BLAKE3, which anyone can check.
    PackId = "pack id";
    /// A sealed snapshot record's bytes: plain BLAKE3.
    SnapshotId = "snapshot id";
    /// A piece of a pack list: plain BLAKE3 of its bytes.
    ListId = "list id";
    /// A signed head's bytes: plain BLAKE3.
    HeadId = "head id";
}

/// A node on the network: its Ed25519 node public key, shown as the libp2p peer id of that key.
#[derive(Copy, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId([u8; 32]);

/// An identity multihash of the protobuf `PublicKey { type: Ed25519, data: 32 bytes }` starts with these bytes.
/// Source: libp2p peer-id specification.
const PEER_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

impl PeerId {
    /// Wraps an Ed25519 public key.
    pub const fn new(public_key: [u8; 32]) -> Self {
        Self(public_key)
    }

    /// The Ed25519 public key.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// libp2p's binary form (38 bytes).
    pub fn to_multihash(&self) -> Vec<u8> {
        [PEER_PREFIX.as_slice(), &self.0].concat()
    }

    /// Reads libp2p's binary form; only Ed25519 identities are accepted.
    pub fn from_multihash(bytes: &[u8]) -> Result<Self, IdError> {
        bytes
            .strip_prefix(&PEER_PREFIX)
            .and_then(|key| key.try_into().ok())
            .map(Self)
            .ok_or_else(|| IdError::NotPeer(hex::encode(&bytes[..bytes.len().min(40)])))
    }

    /// The last eight characters of the text form, for people (all peer ids start alike).
    pub fn short(&self) -> String {
        let text = self.to_string();
        text[text.len() - 8..].to_owned()
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&bs58::encode(self.to_multihash()).into_string())
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "peer:{}", self.short())
    }
}

impl FromStr for PeerId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || IdError::NotPeer(text.chars().take(80).collect());
        if text.len() > 64 {
            return Err(wrong());
        }
        let bytes = bs58::decode(text).into_vec().map_err(|_| wrong())?;
        Self::from_multihash(&bytes).map_err(|_| wrong())
    }
}

impl TryFrom<&[u8]> for PeerId {
    type Error = IdError;
    fn try_from(bytes: &[u8]) -> Result<Self, IdError> {
        bytes.try_into().map(Self).map_err(|_| IdError::Length(bytes.len(), "peer id"))
    }
}

impl serde::Serialize for PeerId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for PeerId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Fresh random bytes from the operating system.
///
/// # Panics
/// When the kernel's generator fails, which leaves no safe way to go on.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0u8; N];
    #[cfg(test)]
    if super::seeded::fill(&mut bytes) {
        return bytes;
    }
    getrandom::fill(&mut bytes).expect("the kernel's random generator works");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_through_text() {
        let id = PackId::new([0xab; 32]);
        assert_eq!(id.to_string().parse::<PackId>(), Ok(id));
        assert_eq!(id.short(), "abababab");
        assert!("xyz".parse::<PackId>().is_err());
        assert!("ab".repeat(31).parse::<PackId>().is_err());
    }

    #[test]
    fn peer_id_has_the_text_form_of_libp2p() {
        let peer = PeerId::new(random_bytes());
        let text = peer.to_string();
        assert!(text.starts_with("12D3KooW"), "{text}");
        assert_eq!(text.parse::<PeerId>(), Ok(peer));
        // An RSA identity, a truncated one and noise are refused.
        for bad in ["QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", &text[..20], "", "0OIl"] {
            assert!(bad.parse::<PeerId>().is_err(), "{bad}");
        }
    }
}
