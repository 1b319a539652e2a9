//! Receipts: a holder's signed word that packs and records are verified and on its disk.

use prost::Message;

use crate::base::{Code, Coded, HeadId, IdError, Moment, PackId, PeerId, VaultId, limit};
use crate::crypto::{self, Context, NodeKey, SignError};
use crate::policy::Mark;
use crate::wire::{self, Bound};

const VERSION: u32 = 1;

/// Why a receipt is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// Not a receipt, or outside the bounds.
    #[error("not a valid receipt: {0}")]
    Malformed(&'static str),
    /// Its time has not come yet: with it, it would outlast whatever is found later.
    #[error("the receipt's time lies in the future: see the clocks")]
    Ahead,
    /// Not signed by the holder it names.
    #[error(transparent)]
    Signature(#[from] SignError),
}

impl From<IdError> for ReceiptError {
    fn from(_: IdError) -> Self {
        Self::Malformed("an id has the wrong length")
    }
}

impl Coded for ReceiptError {
    fn code(&self) -> Code {
        match self {
            Self::Malformed(_) => Code::PeerMisbehaved,
            Self::Ahead => Code::UsageInvalid,
            Self::Signature(_) => Code::InvalidSignature,
        }
    }
}

/// A receipt whose signature verified.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Receipt {
    /// Whose data.
    pub vault: VaultId,
    /// Who holds it.
    pub holder: PeerId,
    /// The head whose records are all there; `None` when only packs are meant.
    pub head: Option<HeadId>,
    /// Packs that are there.
    pub packs: Vec<PackId>,
    /// When the holder signed.
    pub time: Moment,
    /// Where its store was then; `None` from one that does not say.
    pub mark: Option<Mark>,
}

impl Receipt {
    /// Checks the holder's signature and the bounds.
    pub fn verify(signed: &wire::Signed) -> Result<Self, ReceiptError> {
        let raw: wire::Receipt =
            wire::decode(&signed.body, Bound::new(limit::RECEIPT_BYTES_MAX, limit::RECEIPT_FIELDS_MAX))
                .map_err(|_| ReceiptError::Malformed("encoding"))?;
        if raw.version != VERSION || raw.packs.len() > limit::RECEIPT_PACKS_MAX {
            return Err(ReceiptError::Malformed("version or length"));
        }
        let holder = PeerId::try_from(raw.holder.as_slice())?;
        crypto::verify(holder.as_bytes(), Context::Receipt, signed)?;
        Ok(Self {
            vault: VaultId::try_from(raw.vault.as_slice())?,
            holder,
            head: match raw.head.as_slice() {
                [] => None,
                bytes => Some(HeadId::try_from(bytes)?),
            },
            packs: raw.packs.iter().map(|id| PackId::try_from(id.as_slice())).collect::<Result<_, _>>()?,
            time: Moment::from_millis(raw.time_ms),
            mark: (raw.run != 0).then_some(Mark { run: raw.run, count: raw.taken_in }),
        })
    }
}

/// Signs a receipt with the holder's node key; at most [`limit::RECEIPT_PACKS_MAX`] packs.
pub fn sign_receipt(
    key: &NodeKey,
    vault: VaultId,
    head: Option<HeadId>,
    packs: &[PackId],
    now: Moment,
) -> wire::Signed {
    sign_receipt_at(key, vault, head, packs, now, None)
}

/// The same, saying where the holder's store is.
pub fn sign_receipt_at(
    key: &NodeKey,
    vault: VaultId,
    head: Option<HeadId>,
    packs: &[PackId],
    now: Moment,
    mark: Option<Mark>,
) -> wire::Signed {
    let body = wire::Receipt {
        version: VERSION,
        vault: vault.as_bytes().to_vec(),
        holder: key.peer_id().as_bytes().to_vec(),
        head: head.map_or_else(Vec::new, |id| id.as_bytes().to_vec()),
        packs: packs.iter().map(|id| id.as_bytes().to_vec()).collect(),
        time_ms: now.as_millis(),
        run: mark.map_or(0, |mark| mark.run),
        taken_in: mark.map_or(0, |mark| mark.count),
    };
    crypto::sign(key, Context::Receipt, body.encode_to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receipt_matches_its_frozen_bytes() {
        let packs = [PackId::new([3; 32]), PackId::new([4; 32])];
        let (vault, head) = (VaultId::new([1; 32]), HeadId::new([2; 32]));
        let now = Moment::from_millis(1_700_000_000_000);
        let with = sign_receipt(&NodeKey::example(), vault, Some(head), &packs, now).encode_to_vec();
        let without = sign_receipt(&NodeKey::example(), vault, None, &packs[..1], now).encode_to_vec();
        let text = format!("{}\n{}\n", hex::encode(with), hex::encode(without));
        crate::base::frozen("receipts.txt", text.as_bytes());
    }

    #[test]
    fn receipt_that_says_where_the_store_is_matches_its_frozen_bytes() {
        let (key, vault, now) =
            (NodeKey::example(), VaultId::new([1; 32]), Moment::from_millis(1_700_000_000_000));
        let mark = Some(Mark { run: 0x0123_4567_89ab_cdef, count: 300 });
        let signed = sign_receipt_at(&key, vault, None, &[PackId::new([3; 32])], now, mark);
        assert_eq!(Receipt::verify(&signed).unwrap().mark, mark);
        crate::base::frozen("receipts-marked.txt", (hex::encode(signed.encode_to_vec()) + "\n").as_bytes());
    }

    #[test]
    fn receipt_verifies_only_as_signed() {
        let key = NodeKey::generate();
        let packs = vec![PackId::new([3; 32]); 2];
        let signed = sign_receipt(
            &key,
            VaultId::new([1; 32]),
            Some(HeadId::new([2; 32])),
            &packs,
            Moment::from_millis(7),
        );
        let receipt = Receipt::verify(&signed).unwrap();
        assert_eq!((receipt.holder, &receipt.packs), (key.peer_id(), &packs));
        for at in 0..signed.body.len() {
            let mut bad = signed.clone();
            bad.body[at] ^= 1;
            assert!(Receipt::verify(&bad).is_err(), "byte {at}");
        }
        let too_many = vec![PackId::new([3; 32]); limit::RECEIPT_PACKS_MAX + 1];
        let signed = sign_receipt(&key, VaultId::new([1; 32]), None, &too_many, Moment::default());
        assert!(Receipt::verify(&signed).is_err());
    }
}
