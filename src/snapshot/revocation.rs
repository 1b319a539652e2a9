//! Revocations: the admin key's word that a device of the vault counts no more, from which of its heads on, and who carries
//! on what it had.

use prost::Message;

use super::head::{HeadError, HeadSummary};
use crate::base::{DeviceId, HeadId, Moment, VaultId, limit};
use crate::crypto::{self, AdminKey, Context};
use crate::wire::{self, Bound};

const VERSION: u32 = 1;

/// A revocation whose signature verified.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Revocation {
    /// The vault whose admin key signed.
    pub vault: VaultId,
    /// The device that counts no more.
    pub device: DeviceId,
    /// Number and id of the last head of it that counts; none does when absent.
    pub last_good: Option<(u64, HeadId)>,
    /// The device that carries on its snapshots.
    pub heir: Option<DeviceId>,
    /// When it was signed.
    pub time: Moment,
}

impl Revocation {
    /// Checks the signature of the vault that it names.
    pub fn verify(signed: &wire::Signed) -> Result<Self, HeadError> {
        let raw: wire::Revocation =
            wire::decode(&signed.body, Bound::new(limit::REVOCATION_BYTES_MAX, limit::FIELDS_FEW))
                .map_err(|_| HeadError::Malformed("revocation"))?;
        if raw.version > VERSION {
            return Err(HeadError::TooNew(raw.version));
        }
        let vault = VaultId::try_from(raw.vault.as_slice())?;
        crypto::verify(vault.as_bytes(), Context::Revocation, signed)?;
        let head = raw.last_good.ok_or(HeadError::Malformed("revocation of no device"))?;
        let last_good = match head.seq {
            0 => None,
            seq => Some((seq, HeadId::try_from(head.id.as_slice())?)),
        };
        let heir = match raw.heir.as_slice() {
            [] => None,
            bytes => Some(DeviceId::try_from(bytes)?),
        };
        let device = DeviceId::try_from(head.device.as_slice())?;
        Ok(Self { vault, device, last_good, heir, time: Moment::from_millis(raw.time_ms) })
    }

    /// Whether a head of that device counts: the last good one, or one before it.
    pub fn admits(&self, seq: u64, id: HeadId) -> bool {
        self.last_good.is_some_and(|(last, good)| seq < last || id == good)
    }

    /// Whether this one counts where both are known of one device: the newer one; of two of one time that which lets less
    /// count, so that all nodes choose alike.
    pub fn outranks(&self, other: &Self) -> bool {
        let rank = |one: &Self| (one.time, std::cmp::Reverse(one.last_good), one.heir);
        rank(self) > rank(other)
    }
}

/// Signs a revocation of `last_good.device`; with `seq` 0 none of its heads counts.
pub fn sign_revocation(
    admin: &AdminKey,
    last_good: &HeadSummary,
    heir: Option<DeviceId>,
    time: Moment,
) -> wire::Signed {
    let id = if last_good.seq == 0 { Vec::new() } else { last_good.id.as_bytes().to_vec() };
    let body = wire::Revocation {
        version: VERSION,
        vault: admin.vault().as_bytes().to_vec(),
        last_good: Some(wire::HeadRef { id, ..last_good.to_wire() }),
        heir: heir.map_or_else(Vec::new, |heir| heir.as_bytes().to_vec()),
        time_ms: time.as_millis(),
    };
    crypto::sign(admin, Context::Revocation, body.encode_to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Phrase;

    fn head(seq: u64) -> HeadSummary {
        HeadSummary { device: DeviceId::new([5; 32]), seq, id: HeadId::new([seq as u8; 32]) }
    }

    #[test]
    fn revocations_hold_for_their_vault_and_say_which_heads_count() {
        let admin = Phrase::generate().root().admin();
        let heir = Some(DeviceId::new([6; 32]));
        let signed = sign_revocation(&admin, &head(7), heir, Moment::from_millis(3));
        let read = Revocation::verify(&signed).unwrap();
        assert_eq!((read.vault, read.device, read.heir), (admin.vault(), head(7).device, heir));
        let admitted = |seq: u64, fill: u8| read.admits(seq, HeadId::new([fill; 32]));
        assert!(admitted(7, 7) && admitted(6, 1));
        assert!(!admitted(7, 8) && !admitted(8, 7 + 1), "neither a fork nor a later one");
        let mut altered = signed.clone();
        *altered.body.last_mut().unwrap() ^= 1;
        assert!(Revocation::verify(&altered).is_err());
        let none = Revocation::verify(&sign_revocation(&admin, &head(0), None, Moment::default())).unwrap();
        assert!(none.last_good.is_none() && !none.admits(1, head(1).id));
    }

    #[test]
    fn the_newest_revocation_counts_and_of_two_the_stricter_one() {
        let admin = Phrase::generate().root().admin();
        let made = |seq, time| {
            let signed = sign_revocation(&admin, &head(seq), None, Moment::from_millis(time));
            Revocation::verify(&signed).unwrap()
        };
        assert!(made(9, 2).outranks(&made(1, 1)));
        assert!(made(1, 2).outranks(&made(9, 2)) && !made(9, 2).outranks(&made(1, 2)));
        assert!(!made(1, 1).outranks(&made(1, 1)));
    }
}
