//! Device certificates: the vault's admin key says that a device may write.

use prost::Message;

use super::head::HeadError;
use crate::base::{DeviceId, Epoch, Moment, PeerId, VaultId, limit};
use crate::crypto::{self, AdminKey, Context, DeviceKeys, Kind, Salt, SealError, VaultKeys};
use crate::wire::{self, Bound};

const VERSION: u32 = 1;
const ROLE_WRITER: u32 = 1;
/// Names are padded to this, so that a certificate tells nothing about their length.
const NAME_BYTES: usize = 64;

/// A certificate whose signature verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The vault that certifies.
    pub vault: VaultId,
    /// The device it speaks of.
    pub device: DeviceId,
    /// The node that the device runs.
    pub peer: PeerId,
    /// Generation of the sealing keys when it was issued.
    pub epoch: Epoch,
    /// When it was issued.
    pub issued: Moment,
    sealed_name: Vec<u8>,
}

impl Certificate {
    /// Checks the admin key's signature.
    pub fn verify(signed: &wire::Signed) -> Result<Self, HeadError> {
        if signed.body.len() > limit::CERTIFICATE_BYTES_MAX {
            return Err(HeadError::Malformed("certificate is too long"));
        }
        let raw: wire::Certificate =
            wire::decode(&signed.body, Bound::new(limit::CERTIFICATE_BYTES_MAX, limit::FIELDS_FEW))
                .map_err(|_| HeadError::Malformed("certificate"))?;
        if raw.version > VERSION {
            return Err(HeadError::TooNew(raw.version));
        }
        let field = |_| HeadError::Malformed("certificate fields");
        let vault = VaultId::try_from(raw.vault.as_slice()).map_err(field)?;
        crypto::verify(vault.as_bytes(), Context::Certificate, signed)?;
        if raw.roles & ROLE_WRITER == 0 {
            return Err(HeadError::Malformed("certificate does not allow writing"));
        }
        Ok(Self {
            vault,
            device: DeviceId::try_from(raw.device.as_slice()).map_err(field)?,
            peer: PeerId::try_from(raw.peer.as_slice()).map_err(field)?,
            epoch: Epoch(raw.epoch),
            issued: Moment::from_millis(raw.issued_ms),
            sealed_name: raw.sealed_name,
        })
    }
}

/// Certifies `device`, which runs the node `peer`.
pub fn issue_certificate(
    admin: &AdminKey,
    keys: &VaultKeys,
    device: &DeviceKeys,
    peer: PeerId,
    now: Moment,
) -> Result<wire::Signed, SealError> {
    issue_salted(admin, keys, device, peer, now, &Salt::random())
}

pub(super) fn issue_salted(
    admin: &AdminKey,
    keys: &VaultKeys,
    device: &DeviceKeys,
    peer: PeerId,
    now: Moment,
    salt: &Salt,
) -> Result<wire::Signed, SealError> {
    let mut name: Vec<u8> = device.name.bytes().take(NAME_BYTES).collect();
    name.resize(NAME_BYTES, 0);
    let mut sealed_name = Vec::new();
    let (id, epoch) = (device.id(), keys.newest_epoch());
    crypto::seal_blob(keys, epoch, salt, Kind::Name, *id.as_bytes(), &name, &mut sealed_name)?;
    let body = wire::Certificate {
        version: VERSION,
        vault: admin.vault().as_bytes().to_vec(),
        device: id.as_bytes().to_vec(),
        peer: peer.as_bytes().to_vec(),
        agreement: device.agreement_public().to_vec(),
        sealed_name,
        roles: ROLE_WRITER,
        epoch: epoch.0,
        issued_ms: now.as_millis(),
    };
    Ok(crypto::sign(admin, Context::Certificate, body.encode_to_vec()))
}

/// The device's name; `None` when these keys do not open it.
pub fn open_device_name(certificate: &Certificate, keys: &VaultKeys) -> Option<String> {
    let device = *certificate.device.as_bytes();
    let name =
        crypto::open_blob(keys, certificate.epoch, Kind::Name, device, &certificate.sealed_name).ok()?;
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    Some(String::from_utf8_lossy(&name[..end]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Phrase;

    /// Whoever could make one could write to the vault.
    #[test]
    fn a_certificate_holds_only_as_the_vaults_own_key_signed_it() {
        let (root, device) = (Phrase::generate().root(), DeviceKeys::generate("d"));
        let (admin, keys) = (root.admin(), root.vault_keys(Epoch(0)));
        let (peer, now) = (PeerId::new([1; 32]), Moment::from_millis(1));
        let signed = issue_certificate(&admin, &keys, &device, peer, now).unwrap();
        assert_eq!(Certificate::verify(&signed).unwrap().device, device.id());
        // Another vault's owner signs the same words, and somebody puts another node into them.
        let stranger = Phrase::generate().root().admin();
        let forged = crypto::sign(&stranger, Context::Certificate, signed.body.clone());
        assert!(matches!(Certificate::verify(&forged), Err(HeadError::Signature(_))));
        let mut altered = signed.clone();
        let at = altered.body.windows(32).position(|part| part == peer.as_bytes()).unwrap();
        altered.body[at] ^= 1;
        assert!(matches!(Certificate::verify(&altered), Err(HeadError::Signature(_))));
    }
}
