//! Signatures: Ed25519 over (context, 0, body as received), a context string for each purpose.

use std::sync::{Mutex, PoisonError};

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

use super::keys::{DeviceKeys, NodeKey};
use super::phrase::AdminKey;
use crate::base::{Code, Coded, limit};
use crate::wire;

/// What a signature is for; a signature made for one purpose never verifies for another.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Context {
    /// The admin key certifies a device.
    Certificate,
    /// A device states what is live.
    Head,
    /// A device signs a sealed snapshot record.
    Snapshot,
    /// A node confirms what it stores.
    Receipt,
    /// The admin key proves a vault at a holder's door.
    Door,
    /// An admin says that all who trust it allow a peer, or no longer do.
    PeerRecord,
    /// A node says where it can be dialled.
    Whereabouts,
    /// The admin key lets holders delete what a vault's heads no longer list.
    Release,
    /// The admin key says that a device of the vault counts no more.
    Revocation,
}

impl Context {
    const fn text(self) -> &'static str {
        match self {
            Self::Certificate => "ShadowVault v1 device certificate",
            Self::Head => "ShadowVault v1 head",
            Self::Snapshot => "ShadowVault v1 snapshot record",
            Self::Receipt => "ShadowVault v1 receipt",
            Self::Door => "ShadowVault v1 door proof",
            Self::PeerRecord => "ShadowVault v1 peer record",
            Self::Whereabouts => "ShadowVault v1 whereabouts",
            Self::Release => "ShadowVault v1 hold release",
            Self::Revocation => "ShadowVault v1 device revocation",
        }
    }

    fn message(self, body: &[u8]) -> Vec<u8> {
        [self.text().as_bytes(), &[0], body].concat()
    }
}

/// A signature that does not verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("signature for {0:?} does not verify")]
pub struct SignError(pub Context);

impl Coded for SignError {
    fn code(&self) -> Code {
        Code::InvalidSignature
    }
}

/// A key that can sign.
pub trait SigningSecret {
    #[doc(hidden)]
    fn key(&self) -> &SigningKey;
}

impl SigningSecret for AdminKey {
    fn key(&self) -> &SigningKey {
        self.signing()
    }
}

impl SigningSecret for DeviceKeys {
    fn key(&self) -> &SigningKey {
        &self.signing
    }
}

impl SigningSecret for NodeKey {
    fn key(&self) -> &SigningKey {
        self.signing()
    }
}

/// Signs `body` for `context`.
pub fn sign(key: &impl SigningSecret, context: Context, body: Vec<u8>) -> wire::Signed {
    let signature = key.key().sign(&context.message(&body));
    wire::Signed { body, signature: signature.to_bytes().to_vec() }
}

/// What verified lately, each in the slot that its hash chooses until another one takes it: heads, certificates and records
/// are read again and again, and hashing them is a small part of checking their signatures.
static VERIFIED: Mutex<[[u8; 32]; limit::SIGNATURES_REMEMBERED]> =
    Mutex::new([[0; 32]; limit::SIGNATURES_REMEMBERED]);

/// Over all that the outcome depends on.
fn hash_of(public_key: &[u8; 32], context: Context, signed: &wire::Signed) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(public_key).update(context.text().as_bytes()).update(&[0]);
    hasher.update(&(signed.signature.len() as u64).to_le_bytes()).update(&signed.signature);
    *hasher.update(&signed.body).finalize().as_bytes()
}

fn slot_of(hash: &[u8; 32]) -> usize {
    usize::from(u16::from_le_bytes([hash[0], hash[1]])) % limit::SIGNATURES_REMEMBERED
}

/// Checks that the owner of `public_key` signed `signed` for `context`, and returns the body.
pub fn verify<'a>(
    public_key: &[u8; 32],
    context: Context,
    signed: &'a wire::Signed,
) -> Result<&'a [u8], SignError> {
    let hash = hash_of(public_key, context, signed);
    let verified = || VERIFIED.lock().unwrap_or_else(PoisonError::into_inner);
    if verified()[slot_of(&hash)] == hash {
        return Ok(&signed.body);
    }
    let key = VerifyingKey::from_bytes(public_key).map_err(|_| SignError(context))?;
    let signature = Signature::from_slice(&signed.signature).map_err(|_| SignError(context))?;
    key.verify_strict(&context.message(&signed.body), &signature).map_err(|_| SignError(context))?;
    verified()[slot_of(&hash)] = hash;
    Ok(&signed.body)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frozen: a changed context string would make every existing signature void.
    #[test]
    fn signatures_match_the_frozen_vectors() {
        let admin = super::super::Phrase::example().root().admin();
        let (device, node) = (DeviceKeys::example(), NodeKey::example());
        let line = |name: &str, key: &[u8; 32], signed: wire::Signed| {
            format!("{name} {} {}\n", hex::encode(key), hex::encode(signed.signature))
        };
        let body = || b"body".to_vec();
        let text = [
            line("certificate", admin.vault().as_bytes(), sign(&admin, Context::Certificate, body())),
            line("head", device.id().as_bytes(), sign(&device, Context::Head, body())),
            line("snapshot", device.id().as_bytes(), sign(&device, Context::Snapshot, body())),
            line("receipt", node.peer_id().as_bytes(), sign(&node, Context::Receipt, body())),
            line("door", admin.vault().as_bytes(), sign(&admin, Context::Door, body())),
            line("peer", admin.vault().as_bytes(), sign(&admin, Context::PeerRecord, body())),
            line("revocation", admin.vault().as_bytes(), sign(&admin, Context::Revocation, body())),
        ];
        crate::base::frozen("signatures.txt", text.concat().as_bytes());
    }

    #[test]
    fn signature_holds_for_its_key_context_and_body_only() {
        let (key, other) = (NodeKey::generate(), NodeKey::generate());
        let signed = sign(&key, Context::Receipt, b"body".to_vec());
        let public = key.peer_id();
        assert_eq!(verify(public.as_bytes(), Context::Receipt, &signed), Ok(b"body".as_slice()));
        assert!(verify(public.as_bytes(), Context::Head, &signed).is_err());
        assert!(verify(other.peer_id().as_bytes(), Context::Receipt, &signed).is_err());
        assert!(
            verify(public.as_bytes(), Context::Receipt, &signed).is_ok(),
            "what is remembered is as good"
        );
        let altered = wire::Signed { body: b"bodY".to_vec(), ..signed.clone() };
        assert!(verify(public.as_bytes(), Context::Receipt, &altered).is_err());
        for length in [0, 63, 65] {
            let cut = wire::Signed { signature: vec![1; length], ..signed.clone() };
            assert!(verify(public.as_bytes(), Context::Receipt, &cut).is_err());
        }
    }
}
