//! Releases: the admin key's word that holders need not keep what a vault's heads no longer list.
//!
//! A release names heads, not a time: whatever came before a named head of a device is released, as far as neither that
//! head nor a newer one lists it. So it says the same whenever it arrives and however often, whatever any clock shows,
//! and nothing that is forgotten later is released by it. No device can make one.

use prost::Message;

use super::head::{HeadError, HeadSummary};
use crate::base::{Code, Coded, IdError, PeerId, VaultId, limit};
use crate::crypto::{self, AdminKey, Context, SignError};
use crate::wire::{self, Bound};

const VERSION: u32 = 1;

/// Why a release is refused.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// Not a release, or outside the bounds.
    #[error("not a valid release: {0}")]
    Malformed(&'static str),
    /// Not signed by the vault's admin key.
    #[error(transparent)]
    Signature(#[from] SignError),
}

impl From<IdError> for ReleaseError {
    fn from(_: IdError) -> Self {
        Self::Malformed("an id has the wrong length")
    }
}

impl From<HeadError> for ReleaseError {
    fn from(_: HeadError) -> Self {
        Self::Malformed("a head")
    }
}

impl Coded for ReleaseError {
    fn code(&self) -> Code {
        match self {
            Self::Malformed(_) => Code::PeerMisbehaved,
            Self::Signature(_) => Code::InvalidSignature,
        }
    }
}

/// A release whose signature verified.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Release {
    /// Whose vault; its admin key signed.
    pub vault: VaultId,
    /// The holder that it is for; all when absent.
    pub holder: Option<PeerId>,
    /// Heads of the vault's devices: what came before each of them is released.
    pub heads: Vec<HeadSummary>,
}

impl Release {
    /// Checks the signature and the bounds.
    pub fn verify(signed: &wire::Signed) -> Result<Self, ReleaseError> {
        let raw: wire::HoldRelease =
            wire::decode(&signed.body, Bound::new(limit::RELEASE_BYTES_MAX, limit::RELEASE_FIELDS_MAX))
                .map_err(|_| ReleaseError::Malformed("encoding"))?;
        if raw.version != VERSION || raw.heads.len() > limit::VAULT_DEVICES_MAX {
            return Err(ReleaseError::Malformed("version or length"));
        }
        let vault = VaultId::try_from(raw.vault.as_slice())?;
        crypto::verify(vault.as_bytes(), Context::Release, signed)?;
        let holder = match raw.holder.as_slice() {
            [] => None,
            id => Some(PeerId::try_from(id)?),
        };
        let heads = raw.heads.iter().map(HeadSummary::from_wire).collect::<Result<_, _>>()?;
        Ok(Self { vault, holder, heads })
    }
}

/// Signs a release with the admin key.
pub fn sign_release(admin: &AdminKey, holder: Option<PeerId>, heads: &[HeadSummary]) -> wire::Signed {
    let body = wire::HoldRelease {
        version: VERSION,
        vault: admin.vault().as_bytes().to_vec(),
        holder: holder.map_or_else(Vec::new, |holder| holder.as_bytes().to_vec()),
        heads: heads.iter().map(HeadSummary::to_wire).collect(),
    };
    crypto::sign(admin, Context::Release, body.encode_to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{DeviceId, HeadId};
    use crate::crypto::Phrase;

    #[test]
    fn a_release_holds_for_its_vault_and_bounds() {
        let admin = Phrase::generate().root().admin();
        let head = |seq| HeadSummary { device: DeviceId::new([1; 32]), seq, id: HeadId::new([2; 32]) };
        for holder in [None, Some(PeerId::new([3; 32]))] {
            let signed = sign_release(&admin, holder, &[head(7)]);
            let expected = Release { vault: admin.vault(), holder, heads: vec![head(7)] };
            assert_eq!(Release::verify(&signed).unwrap(), expected);
            let mut altered = signed.clone();
            *altered.body.last_mut().unwrap() ^= 1;
            assert!(Release::verify(&altered).is_err());
        }
        let many: Vec<HeadSummary> = (0..=limit::VAULT_DEVICES_MAX as u64).map(head).collect();
        assert!(Release::verify(&sign_release(&admin, None, &many)).is_err());
        // All devices of the largest vault fit.
        let most = sign_release(&admin, Some(PeerId::new([3; 32])), &many[1..]);
        assert_eq!(Release::verify(&most).unwrap().heads.len(), limit::VAULT_DEVICES_MAX);
        // What another key signed in this vault's name.
        let other = Phrase::generate().root().admin();
        let mut body = wire::HoldRelease::decode(most.body.as_slice()).unwrap();
        body.vault = other.vault().as_bytes().to_vec();
        let forged = crypto::sign(&admin, Context::Release, body.encode_to_vec());
        assert!(matches!(Release::verify(&forged), Err(ReleaseError::Signature(_))));
    }
}
