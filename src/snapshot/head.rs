//! Heads: a device's signed, numbered statement of what is live.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use prost::Message;

use super::certificate::Certificate;
use crate::base::{
    Code, Coded, DeviceId, Epoch, HeadId, IdError, ListId, Moment, PeerId, SnapshotId, VaultId, limit,
};
use crate::crypto::{self, Context, DeviceKeys, SignError};
use crate::wire::{self, Bound};

const VERSION: u32 = 1;
const HEAD: Bound = Bound::new(limit::HEAD_BYTES_MAX, limit::HEAD_FIELDS_MAX);
/// With its certificate; what is signed counts when it is decoded.
const SIGNED: Bound = Bound::new(limit::HEAD_BYTES_MAX, limit::FIELDS_FEW);

/// Why a head or certificate is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Not a head, or outside the bounds.
    #[error("not a valid head: {0}")]
    Malformed(&'static str),
    /// From a newer version.
    #[error("head has version {0}; this program knows version {VERSION}")]
    TooNew(u32),
    /// Not signed by whom it should be.
    #[error(transparent)]
    Signature(#[from] SignError),
}

impl From<IdError> for HeadError {
    fn from(_: IdError) -> Self {
        Self::Malformed("an id has the wrong length")
    }
}

impl Coded for HeadError {
    fn code(&self) -> Code {
        match self {
            Self::Malformed(_) => Code::StorageCorrupted,
            Self::TooNew(_) => Code::StorageTooNew,
            Self::Signature(_) => Code::InvalidSignature,
        }
    }
}

/// Names one head of a device's chain.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct HeadSummary {
    /// Whose chain.
    pub device: DeviceId,
    /// Position, 1 at first.
    pub seq: u64,
    /// Which one.
    pub id: HeadId,
}

impl HeadSummary {
    /// As a message.
    pub fn to_wire(&self) -> wire::HeadRef {
        wire::HeadRef {
            device: self.device.as_bytes().to_vec(),
            seq: self.seq,
            id: self.id.as_bytes().to_vec(),
        }
    }

    /// From a message.
    pub fn from_wire(raw: &wire::HeadRef) -> Result<Self, HeadError> {
        Ok(Self {
            device: DeviceId::try_from(raw.device.as_slice())?,
            seq: raw.seq,
            id: HeadId::try_from(raw.id.as_slice())?,
        })
    }
}

/// Names an earlier head of the same device: its number and its id.
pub type HeadName = (u64, HeadId);

/// One piece of a pack list, as a head names it.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct ListRef {
    /// Which piece.
    pub id: ListId,
    /// Packs in it.
    pub packs: u32,
    /// Sum of their lengths.
    pub bytes: u64,
}

/// Where a node can be dialled.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerAddress {
    /// The node.
    pub peer: PeerId,
    /// Multiaddrs without the peer id.
    pub addresses: Vec<String>,
}

impl PeerAddress {
    /// As a message.
    pub fn to_wire(&self) -> wire::PeerAddress {
        wire::PeerAddress { peer: self.peer.as_bytes().to_vec(), addresses: self.addresses.clone() }
    }

    /// From a message; addresses over the limit are dropped.
    pub fn from_wire(raw: &wire::PeerAddress) -> Result<Self, HeadError> {
        let short = raw.addresses.iter().filter(|address| address.len() <= 256);
        Ok(Self {
            peer: PeerId::try_from(raw.peer.as_slice())?,
            addresses: short.take(limit::PEER_ADDRESSES_MAX).cloned().collect(),
        })
    }
}

/// What a device says in its next head.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeadDraft {
    /// Position in the chain.
    pub seq: u64,
    /// The head before it.
    pub predecessor: Option<HeadId>,
    /// Newest head known of every other device.
    pub seen: Vec<HeadSummary>,
    /// Live snapshots, oldest first.
    pub snapshots: Vec<SnapshotId>,
    /// All packs those need.
    pub lists: Vec<ListRef>,
    /// Wished number of holders.
    pub copies: u32,
    /// Nodes that hold packs of the vault.
    pub holders: Vec<PeerAddress>,
    /// When it was written.
    pub time: Moment,
    /// Generation of the sealing keys.
    pub epoch: Epoch,
    /// Written in the middle of a backup.
    pub checkpoint: bool,
    /// Devices whose snapshots this head carries on.
    pub inherited: Vec<DeviceId>,
    /// Which heads of these devices it carries on.
    pub carried: Vec<HeadId>,
    /// Earlier heads of this device, besides the predecessor, that this one carries on: branches that it joins, and so
    /// many of its ancestors that whoever missed some heads still sees how those it has hang together.
    pub supersedes: Vec<HeadName>,
}

/// A head whose signature and certificate verified.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Head {
    /// BLAKE3 of the stored bytes.
    pub id: HeadId,
    /// Who may write it.
    pub certificate: Certificate,
    /// What it says.
    pub draft: HeadDraft,
}

impl Head {
    /// The vault it belongs to.
    pub fn vault(&self) -> VaultId {
        self.certificate.vault
    }

    /// The device that signed it.
    pub fn device(&self) -> DeviceId {
        self.certificate.device
    }

    /// Its short name.
    pub fn summary(&self) -> HeadSummary {
        HeadSummary { device: self.device(), seq: self.draft.seq, id: self.id }
    }
}

impl Head {
    /// Earlier heads of its device that this one carries on, as far as it names them.
    pub fn carries_on(&self) -> impl Iterator<Item = HeadId> {
        self.draft.predecessor.into_iter().chain(self.draft.supersedes.iter().map(|(_, id)| *id))
    }
}

/// Signed heads as bytes.
pub struct SignedHead;

impl SignedHead {
    /// Signs a head: the verified value and the bytes to store and send.
    pub fn sign(
        draft: HeadDraft,
        device: &DeviceKeys,
        certificate: &wire::Signed,
    ) -> Result<(Head, Vec<u8>), HeadError> {
        let vault = Certificate::verify(certificate)?.vault;
        let ids = |list: &[SnapshotId]| list.iter().map(|id| id.as_bytes().to_vec()).collect();
        let body = wire::Head {
            version: VERSION,
            vault: vault.as_bytes().to_vec(),
            device: device.id().as_bytes().to_vec(),
            seq: draft.seq,
            predecessor: draft.predecessor.map_or_else(Vec::new, |id| id.as_bytes().to_vec()),
            seen: draft.seen.iter().map(HeadSummary::to_wire).collect(),
            snapshots: ids(&draft.snapshots),
            lists: draft
                .lists
                .iter()
                .map(|l| wire::ListRef { id: l.id.as_bytes().to_vec(), packs: l.packs, bytes: l.bytes })
                .collect(),
            copies: draft.copies,
            holders: draft.holders.iter().map(PeerAddress::to_wire).collect(),
            time_ms: draft.time.as_millis(),
            epoch: draft.epoch.0,
            checkpoint: draft.checkpoint,
            inherited: draft.inherited.iter().map(|id| id.as_bytes().to_vec()).collect(),
            carried: draft.carried.iter().map(|id| id.as_bytes().to_vec()).collect(),
            supersedes: draft
                .supersedes
                .iter()
                .map(|(seq, id)| wire::HeadName { seq: *seq, id: id.as_bytes().to_vec() })
                .collect(),
        };
        let head = crypto::sign(device, Context::Head, body.encode_to_vec());
        let bytes =
            wire::SignedHead { head: Some(head), certificate: Some(certificate.clone()) }.encode_to_vec();
        // Reading back checks every bound that another node would check.
        Ok((Self::verify(&bytes)?, bytes))
    }

    /// Checks certificate, signature and bounds of a head from anywhere.
    pub fn verify(bytes: &[u8]) -> Result<Head, HeadError> {
        // Several times their length is taken meanwhile.
        static ALONE: Mutex<()> = Mutex::new(());
        let _alone = (bytes.len() > limit::HEAD_BYTES_LONG)
            .then(|| ALONE.lock().unwrap_or_else(PoisonError::into_inner));
        let raw: wire::SignedHead =
            wire::decode(bytes, SIGNED).map_err(|_| HeadError::Malformed("encoding"))?;
        let (Some(signed), Some(certificate)) = (raw.head, raw.certificate) else {
            return Err(HeadError::Malformed("head or certificate is missing"));
        };
        let certificate = Certificate::verify(&certificate)?;
        let body = crypto::verify(certificate.device.as_bytes(), Context::Head, &signed)?;
        let head: wire::Head = wire::decode(body, HEAD).map_err(|_| HeadError::Malformed("encoding"))?;
        if head.version > VERSION {
            return Err(HeadError::TooNew(head.version));
        }
        let named = VaultId::try_from(head.vault.as_slice())? == certificate.vault
            && DeviceId::try_from(head.device.as_slice())? == certificate.device;
        if !named || head.seq == 0 || (head.seq == 1) != head.predecessor.is_empty() {
            return Err(HeadError::Malformed("head does not fit its certificate or place"));
        }
        let bounded = head.seen.len() <= limit::VAULT_DEVICES_MAX
            && head.inherited.len() <= limit::VAULT_DEVICES_MAX
            && head.carried.len() <= limit::HEAD_CARRIED_MAX
            && head.snapshots.len() <= limit::HEAD_SNAPSHOTS_MAX
            && head.lists.len() <= limit::HEAD_LISTS_MAX
            && head.holders.len() <= limit::HEAD_HOLDERS_MAX
            && head.supersedes.len() <= limit::HEAD_SUPERSEDES_MAX;
        if !bounded {
            return Err(HeadError::Malformed("head lists too much"));
        }
        // Else the same packs would be read as often as somebody likes.
        let mut seen = HashSet::new();
        if !head.lists.iter().all(|list| seen.insert(list.id.as_slice())) {
            return Err(HeadError::Malformed("head names a pack list twice"));
        }
        // So heads cannot supersede each other in a circle.
        if head.supersedes.iter().any(|name| name.seq >= head.seq) {
            return Err(HeadError::Malformed("head supersedes a later one"));
        }
        let id = HeadId::new(*blake3::hash(bytes).as_bytes());
        Ok(Head { id, certificate, draft: draft_from_wire(&head)? })
    }
}

fn draft_from_wire(head: &wire::Head) -> Result<HeadDraft, HeadError> {
    let list = |l: &wire::ListRef| -> Result<ListRef, HeadError> {
        Ok(ListRef { id: ListId::try_from(l.id.as_slice())?, packs: l.packs, bytes: l.bytes })
    };
    Ok(HeadDraft {
        seq: head.seq,
        predecessor: match head.predecessor.as_slice() {
            [] => None,
            bytes => Some(HeadId::try_from(bytes)?),
        },
        seen: head.seen.iter().map(HeadSummary::from_wire).collect::<Result<_, _>>()?,
        snapshots: head
            .snapshots
            .iter()
            .map(|id| SnapshotId::try_from(id.as_slice()))
            .collect::<Result<_, _>>()?,
        lists: head.lists.iter().map(list).collect::<Result<_, _>>()?,
        copies: head.copies,
        holders: head.holders.iter().map(PeerAddress::from_wire).collect::<Result<_, _>>()?,
        time: Moment::from_millis(head.time_ms),
        epoch: Epoch(head.epoch),
        checkpoint: head.checkpoint,
        inherited: head
            .inherited
            .iter()
            .map(|id| DeviceId::try_from(id.as_slice()))
            .collect::<Result<_, _>>()?,
        carried: head.carried.iter().map(|id| HeadId::try_from(id.as_slice())).collect::<Result<_, _>>()?,
        supersedes: head
            .supersedes
            .iter()
            .map(|name| Ok((name.seq, HeadId::try_from(name.id.as_slice())?)))
            .collect::<Result<_, HeadError>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::certificate::{issue_certificate, issue_salted, open_device_name};
    use super::*;
    use crate::crypto::{NodeKey, Phrase, Salt};

    struct Writer {
        device: DeviceKeys,
        certificate: wire::Signed,
    }

    fn writer(phrase: &Phrase) -> Writer {
        let (root, device) = (phrase.root(), DeviceKeys::generate("laptop"));
        let keys = root.vault_keys(Epoch(0));
        let peer = NodeKey::generate().peer_id();
        let certificate = issue_certificate(&root.admin(), &keys, &device, peer, Moment::default()).unwrap();
        Writer { device, certificate }
    }

    fn draft(seq: u64, predecessor: Option<HeadId>) -> HeadDraft {
        HeadDraft {
            seq,
            predecessor,
            seen: vec![],
            snapshots: vec![SnapshotId::new([1; 32])],
            lists: vec![ListRef { id: ListId::new([2; 32]), packs: 3, bytes: 4 }],
            copies: 2,
            holders: vec![PeerAddress {
                peer: NodeKey::generate().peer_id(),
                addresses: vec!["/ip4/127.0.0.1/tcp/1".into()],
            }],
            time: Moment::from_millis(9),
            epoch: Epoch(0),
            checkpoint: false,
            inherited: vec![],
            carried: vec![],
            supersedes: vec![],
        }
    }

    #[test]
    fn head_round_trips_with_its_certificate() {
        let phrase = Phrase::generate();
        let w = writer(&phrase);
        let (head, bytes) = SignedHead::sign(draft(1, None), &w.device, &w.certificate).unwrap();
        assert_eq!(SignedHead::verify(&bytes), Ok(head.clone()));
        assert_eq!(head.vault(), phrase.root().admin().vault());
        let keys = phrase.root().vault_keys(Epoch(0));
        assert_eq!(open_device_name(&head.certificate, &keys).as_deref(), Some("laptop"));
    }

    #[test]
    fn head_and_certificate_match_their_frozen_bytes() {
        let (root, device) = (Phrase::example().root(), DeviceKeys::example());
        let (keys, node) = (root.vault_keys(Epoch(0)), NodeKey::example().peer_id());
        let now = Moment::from_millis(1_700_000_000_000);
        let certificate = issue_salted(&root.admin(), &keys, &device, node, now, &Salt([4; 32])).unwrap();
        let seen = HeadSummary { device: DeviceId::new([8; 32]), seq: 300, id: HeadId::new([9; 32]) };
        let draft = HeadDraft {
            seen: vec![seen],
            holders: vec![PeerAddress { peer: node, addresses: vec!["/ip4/192.0.2.1/tcp/9000".into()] }],
            inherited: vec![DeviceId::new([10; 32])],
            checkpoint: true,
            ..draft(2, Some(HeadId::new([7; 32])))
        };
        let (head, bytes) = SignedHead::sign(draft, &device, &certificate).unwrap();
        let text = format!("id {}\nbytes {}\n", head.id, hex::encode(bytes));
        crate::base::frozen("head.txt", text.as_bytes());
        let supersedes = vec![(7, HeadId::new([11; 32])), (300, HeadId::new([12; 32]))];
        let draft = HeadDraft { supersedes, ..HeadDraft { seq: 301, ..head.draft } };
        let (head, bytes) = SignedHead::sign(draft, &device, &certificate).unwrap();
        let text = format!("id {}\nbytes {}\n", head.id, hex::encode(bytes));
        crate::base::frozen("head-joined.txt", text.as_bytes());
    }

    #[test]
    fn every_flipped_byte_and_truncation_of_a_head_is_refused() {
        let w = writer(&Phrase::generate());
        let (head, bytes) = SignedHead::sign(draft(1, None), &w.device, &w.certificate).unwrap();
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(SignedHead::verify(&bad).map(|got| got == head) != Ok(true), "byte {at}");
            assert!(SignedHead::verify(&bad).is_err(), "byte {at}");
            assert!(SignedHead::verify(&bytes[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_device_without_certificate_cannot_write() {
        let (mine, other) = (writer(&Phrase::generate()), writer(&Phrase::generate()));
        assert!(SignedHead::sign(draft(1, None), &mine.device, &other.certificate).is_err());
    }

    /// One list, 50,000 times in a head of 1.8 MB, ended a holder that had 4 GiB, and again at each start.
    #[test]
    fn a_head_names_each_list_once_and_no_more_than_so_many() {
        let w = writer(&Phrase::generate());
        let list = |n: usize| ListRef {
            id: ListId::new(*blake3::hash(&n.to_le_bytes()).as_bytes()),
            packs: 1,
            bytes: 1,
        };
        let sign = |lists| SignedHead::sign(HeadDraft { lists, ..draft(1, None) }, &w.device, &w.certificate);
        assert!(sign(vec![list(1), list(2), list(1)]).is_err());
        let most: Vec<ListRef> = (0..limit::HEAD_LISTS_MAX).map(list).collect();
        assert!(sign(most.clone()).is_ok());
        assert!(sign([most, vec![list(limit::HEAD_LISTS_MAX)]].concat()).is_err());
    }

    /// The most that a device may say in one head, which every reader must take.
    #[test]
    fn the_longest_head_is_within_the_bound_of_fields() {
        let w = writer(&Phrase::generate());
        let id = |n: usize| *blake3::hash(&n.to_le_bytes()).as_bytes();
        let holder =
            PeerAddress { peer: PeerId::new([1; 32]), addresses: vec!["/ip4/1.1.1.1/tcp/1".to_owned(); 16] };
        let seen = HeadSummary { device: DeviceId::new([8; 32]), seq: u64::MAX, id: HeadId::new([9; 32]) };
        let most = HeadDraft {
            seen: vec![seen; limit::VAULT_DEVICES_MAX],
            snapshots: vec![SnapshotId::new([1; 32]); limit::HEAD_SNAPSHOTS_MAX],
            lists: (0..limit::HEAD_LISTS_MAX)
                .map(|n| ListRef { id: ListId::new(id(n)), packs: 4096, bytes: 1 << 36 })
                .collect(),
            holders: vec![holder; limit::HEAD_HOLDERS_MAX],
            inherited: vec![DeviceId::new([10; 32]); limit::VAULT_DEVICES_MAX],
            carried: vec![HeadId::new([11; 32]); limit::HEAD_CARRIED_MAX],
            supersedes: vec![(1, HeadId::new([7; 32])); limit::HEAD_SUPERSEDES_MAX],
            ..draft(u64::MAX, Some(HeadId::new([7; 32])))
        };
        let (head, _) = SignedHead::sign(most.clone(), &w.device, &w.certificate).unwrap();
        assert_eq!(head.draft, most);
    }

    /// A head of a million empty messages took 276 MiB.
    #[test]
    fn a_head_of_empty_messages_is_refused_undecoded() {
        let w = writer(&Phrase::generate());
        let seen = vec![wire::HeadRef::default(); 1_000_000];
        let body = wire::Head { version: VERSION, seen, ..wire::Head::default() }.encode_to_vec();
        let head = crypto::sign(&w.device, Context::Head, body);
        let bytes = wire::SignedHead { head: Some(head), certificate: Some(w.certificate) }.encode_to_vec();
        assert!(bytes.len() < limit::HEAD_BYTES_MAX);
        assert_eq!(SignedHead::verify(&bytes), Err(HeadError::Malformed("encoding")));
    }

    #[test]
    fn a_head_carries_on_earlier_ones_only() {
        let w = writer(&Phrase::generate());
        let sign = |d| SignedHead::sign(d, &w.device, &w.certificate);
        let (before, joined, old) = (HeadId::new([7; 32]), HeadId::new([8; 32]), HeadId::new([9; 32]));
        let naming = |supersedes| HeadDraft { supersedes, ..draft(5, Some(before)) };
        let head = sign(naming(vec![(4, joined), (1, old)])).unwrap().0;
        assert_eq!(head.carries_on().collect::<Vec<_>>(), [before, joined, old]);
        for seq in [5, 6, u64::MAX] {
            assert!(sign(naming(vec![(seq, joined)])).is_err(), "{seq}");
        }
        let names = |count: usize| (0..count).map(|_| (1, old)).collect();
        assert!(sign(naming(names(limit::HEAD_SUPERSEDES_MAX))).is_ok());
        assert!(sign(naming(names(limit::HEAD_SUPERSEDES_MAX + 1))).is_err());
        assert!(sign(draft(2, None)).is_err());
    }
}
