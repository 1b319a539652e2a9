//! Revocations: the admin key's word that a device of the vault counts no more, from which of its heads on, and who carries
//! on what it had.

use prost::Message;

use super::head::{HeadError, HeadName};
use crate::base::{DeviceId, HeadId, Moment, VaultId, limit};
use crate::crypto::{self, AdminKey, Context};
use crate::wire::{self, Bound};

const VERSION: u32 = 1;

/// A revocation whose signature verified.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Revocation {
    /// The vault whose admin key signed.
    pub vault: VaultId,
    /// The device that counts no more.
    pub device: DeviceId,
    /// The last heads of it that count, one of each branch of its history, the highest number first; none does when empty.
    pub last_good: Vec<HeadName>,
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
        if raw.also.len() >= limit::REVOCATION_HEADS_MAX
            || raw.also.iter().any(|also| also.seq == 0 || also.seq > head.seq)
        {
            return Err(HeadError::Malformed("revocation that names too many heads, or out of order"));
        }
        let mut last_good = Vec::new();
        if head.seq > 0 {
            last_good.push((head.seq, HeadId::try_from(head.id.as_slice())?));
        }
        for also in &raw.also {
            last_good.push((also.seq, HeadId::try_from(also.id.as_slice())?));
        }
        let heir = match raw.heir.as_slice() {
            [] => None,
            bytes => Some(DeviceId::try_from(bytes)?),
        };
        let device = DeviceId::try_from(head.device.as_slice())?;
        Ok(Self { vault, device, last_good, heir, time: Moment::from_millis(raw.time_ms) })
    }

    /// The last heads that count.
    pub fn last_good_ids(&self) -> impl Iterator<Item = HeadId> {
        self.last_good.iter().map(|(_, id)| *id)
    }

    /// Whether a head of that device counts: a last good one, or one before the first of them.
    pub fn admits(&self, seq: u64, id: HeadId) -> bool {
        self.last_good.first().is_some_and(|(last, _)| seq < *last)
            || self.last_good.iter().any(|(_, good)| *good == id)
    }

    /// Whether this one counts where both are known of one device: the newer one; of two of one time that which lets less
    /// count, so that all nodes choose alike.
    pub fn outranks(&self, other: &Self) -> bool {
        let rank = |one: &Self| (one.time, std::cmp::Reverse(one.last_good.clone()), one.heir);
        rank(self) > rank(other)
    }
}

/// Signs a revocation of `device`. Of its heads those in `last_good` count, one of each branch (the first
/// [`limit::REVOCATION_HEADS_MAX`] by number), and none when there are none.
pub fn sign_revocation(
    admin: &AdminKey,
    device: DeviceId,
    last_good: &[HeadName],
    heir: Option<DeviceId>,
    time: Moment,
) -> wire::Signed {
    let mut last_good = last_good.to_vec();
    last_good.sort_unstable_by(|a, b| b.cmp(a));
    last_good.dedup();
    let mut names = last_good.into_iter().take(limit::REVOCATION_HEADS_MAX);
    let (seq, id) = names.next().map_or((0, Vec::new()), |(seq, id)| (seq, id.as_bytes().to_vec()));
    let body = wire::Revocation {
        version: VERSION,
        vault: admin.vault().as_bytes().to_vec(),
        last_good: Some(wire::HeadRef { device: device.as_bytes().to_vec(), seq, id }),
        heir: heir.map_or_else(Vec::new, |heir| heir.as_bytes().to_vec()),
        time_ms: time.as_millis(),
        also: names.map(|(seq, id)| wire::HeadName { seq, id: id.as_bytes().to_vec() }).collect(),
    };
    crypto::sign(admin, Context::Revocation, body.encode_to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Phrase;

    const DEVICE: DeviceId = DeviceId::new([5; 32]);

    fn head(seq: u64) -> HeadName {
        (seq, HeadId::new([seq as u8; 32]))
    }

    #[test]
    fn revocations_hold_for_their_vault_and_say_which_heads_count() {
        let admin = Phrase::generate().root().admin();
        let heir = Some(DeviceId::new([6; 32]));
        let signed = sign_revocation(&admin, DEVICE, &[head(7)], heir, Moment::from_millis(3));
        let read = Revocation::verify(&signed).unwrap();
        assert_eq!((read.vault, read.device, read.heir), (admin.vault(), DEVICE, heir));
        let admitted = |seq: u64, fill: u8| read.admits(seq, HeadId::new([fill; 32]));
        assert!(admitted(7, 7) && admitted(6, 1));
        assert!(!admitted(7, 8) && !admitted(8, 7 + 1), "neither a fork nor a later one");
        let mut altered = signed.clone();
        *altered.body.last_mut().unwrap() ^= 1;
        assert!(Revocation::verify(&altered).is_err());
        let none =
            Revocation::verify(&sign_revocation(&admin, DEVICE, &[], None, Moment::default())).unwrap();
        assert!(none.last_good.is_empty() && !none.admits(1, head(1).1));
    }

    /// One of two branches counted no more, with what only that one lists.
    #[test]
    fn of_a_history_with_branches_the_last_head_of_each_counts() {
        let admin = Phrase::generate().root().admin();
        let other = (7, HeadId::new([70; 32]));
        let all: Vec<HeadName> = (1..=20).map(|at| (7, HeadId::new([at; 32]))).collect();
        let read = |last: &[HeadName]| {
            let signed = sign_revocation(&admin, DEVICE, last, None, Moment::default());
            assert!(signed.body.len() <= limit::REVOCATION_BYTES_MAX);
            Revocation::verify(&signed).unwrap()
        };
        let both = read(&[head(3), other, head(7)]);
        assert!(both.admits(7, other.1) && both.admits(7, head(7).1) && both.admits(3, head(3).1));
        assert!(!both.admits(7, HeadId::new([71; 32])) && !both.admits(8, HeadId::new([72; 32])));
        assert_eq!(read(&all).last_good.len(), limit::REVOCATION_HEADS_MAX);
    }

    #[test]
    fn the_newest_revocation_counts_and_of_two_the_stricter_one() {
        let admin = Phrase::generate().root().admin();
        let made = |seq, time| {
            let signed = sign_revocation(&admin, DEVICE, &[head(seq)], None, Moment::from_millis(time));
            Revocation::verify(&signed).unwrap()
        };
        assert!(made(9, 2).outranks(&made(1, 1)));
        assert!(made(1, 2).outranks(&made(9, 2)) && !made(9, 2).outranks(&made(1, 2)));
        assert!(!made(1, 1).outranks(&made(1, 1)));
    }
}
