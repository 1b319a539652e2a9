//! Peer records: an admin's signed word that all who trust it allow a peer, or no longer do.

use prost::Message;

use crate::base::{Code, Coded, IdError, Moment, PeerId, VaultId, limit};
use crate::crypto::{self, AdminKey, Context, SignError};
use crate::wire::{self, Bound, PeerAction};

const VERSION: u32 = 1;

/// Why a record is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerRecordError {
    /// Not a record, or outside the bounds.
    #[error("not a valid peer record: {0}")]
    Malformed(&'static str),
    /// Not signed by the admin it names.
    #[error(transparent)]
    Signature(#[from] SignError),
}

impl From<IdError> for PeerRecordError {
    fn from(_: IdError) -> Self {
        Self::Malformed("an id has the wrong length")
    }
}

impl Coded for PeerRecordError {
    fn code(&self) -> Code {
        match self {
            Self::Malformed(_) => Code::PeerMisbehaved,
            Self::Signature(_) => Code::InvalidSignature,
        }
    }
}

/// What an admin says of a peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerRecordDraft {
    /// Whether it is to be removed; else it is to be allowed.
    pub removes: bool,
    /// Who.
    pub peer: PeerId,
    /// Its name for people; may be empty.
    pub name: String,
    /// Multiaddrs without the peer id.
    pub addresses: Vec<String>,
    /// When the admin signed.
    pub time: Moment,
}

/// A record whose signature verified. Whether its admin is trusted is for the reader to say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerRecord {
    /// Who signed.
    pub admin: VaultId,
    /// What was signed.
    pub draft: PeerRecordDraft,
}

impl PeerRecord {
    /// Checks the admin's signature and the bounds.
    pub fn verify(signed: &wire::Signed) -> Result<Self, PeerRecordError> {
        let raw: wire::PeerRecord =
            wire::decode(&signed.body, Bound::new(limit::PEER_RECORD_BYTES_MAX, limit::FIELDS_FEW))
                .map_err(|_| PeerRecordError::Malformed("encoding"))?;
        let fits = raw.addresses.len() <= limit::TICKET_ADDRESSES_MAX
            && raw.name.len() <= limit::PEER_NAME_BYTES_MAX
            && !raw.name.contains(char::is_control);
        if raw.version != VERSION || !fits {
            return Err(PeerRecordError::Malformed("version or length"));
        }
        let admin = VaultId::try_from(raw.admin.as_slice())?;
        crypto::verify(admin.as_bytes(), Context::PeerRecord, signed)?;
        let removes = match raw.action() {
            PeerAction::PeerAdd => false,
            PeerAction::PeerRemove => true,
            PeerAction::PeerUnspecified => return Err(PeerRecordError::Malformed("action")),
        };
        let draft = PeerRecordDraft {
            removes,
            peer: PeerId::try_from(raw.peer.as_slice())?,
            name: raw.name,
            addresses: raw.addresses,
            time: Moment::from_millis(raw.time_ms),
        };
        Ok(Self { admin, draft })
    }

    /// Whether this one counts where both are known of one peer.
    pub fn outranks(&self, other: &Self) -> bool {
        (self.draft.time, self.draft.removes) > (other.draft.time, other.draft.removes)
    }
}

/// Signs a record with the admin key.
pub fn sign_peer_record(admin: &AdminKey, draft: &PeerRecordDraft) -> wire::Signed {
    let action = if draft.removes { PeerAction::PeerRemove } else { PeerAction::PeerAdd };
    let body = wire::PeerRecord {
        version: VERSION,
        admin: admin.vault().as_bytes().to_vec(),
        action: action.into(),
        peer: draft.peer.as_bytes().to_vec(),
        name: draft.name.clone(),
        addresses: draft.addresses.clone(),
        time_ms: draft.time.as_millis(),
    };
    crypto::sign(admin, Context::PeerRecord, body.encode_to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Phrase;

    fn draft(removes: bool, time: u64) -> PeerRecordDraft {
        PeerRecordDraft {
            removes,
            peer: PeerId::new([7; 32]),
            name: "attic".to_owned(),
            addresses: vec!["/ip4/10.0.0.1/tcp/9000".to_owned()],
            time: Moment::from_millis(time),
        }
    }

    #[test]
    fn records_hold_for_their_admin_and_bounds() {
        let admin = Phrase::generate().root().admin();
        let signed = sign_peer_record(&admin, &draft(false, 5));
        let read = PeerRecord::verify(&signed).unwrap();
        assert_eq!((read.admin, &read.draft), (admin.vault(), &draft(false, 5)));
        let mut altered = signed.clone();
        *altered.body.last_mut().unwrap() ^= 1;
        assert!(PeerRecord::verify(&altered).is_err());
        let long = PeerRecordDraft { addresses: vec![String::new(); 100], ..draft(false, 5) };
        assert!(PeerRecord::verify(&sign_peer_record(&admin, &long)).is_err());
        let named = PeerRecordDraft { name: "a\nb".to_owned(), ..draft(false, 5) };
        assert!(PeerRecord::verify(&sign_peer_record(&admin, &named)).is_err());
    }

    #[test]
    fn the_newest_record_counts_and_of_two_the_one_that_removes() {
        let admin = Phrase::generate().root().admin().vault();
        let record = |removes, time| PeerRecord { admin, draft: draft(removes, time) };
        assert!(record(false, 6).outranks(&record(true, 5)));
        assert!(record(true, 5).outranks(&record(false, 5)));
        assert!(!record(false, 5).outranks(&record(true, 5)));
        assert!(!record(false, 5).outranks(&record(false, 5)));
    }
}
