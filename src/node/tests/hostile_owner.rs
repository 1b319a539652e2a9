//! An owner that offers whatever a test gives it, with whatever certificate.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use super::alone::{AloneNode, quiet};
use super::until;
use crate::base::{Epoch, HeadId, ListId, Moment, PackId, PeerId, SnapshotId, VaultId, limit};
use crate::crypto::{AdminKey, DeviceKeys, NodeKey, Phrase, VaultKeys};
use crate::net::{BoxFuture, Members, Net, Server};
use crate::node::core::net_config;
use crate::pack::{CellRange, Outboard};
use crate::snapshot::{
    HeadDraft, HeadSummary, ListRef, PackList, PackSize, Receipt, SignedHead, issue_certificate,
};
use crate::store::{PeerEntry, Word};
use crate::wire::{self, HoldRefusal, Status, sync_request::Ask, sync_response::Answer};

pub(super) const PACK_BYTES: u64 = 128 << 10;

/// What it has, and what it was told.
#[derive(Default)]
struct Goods {
    records: HashMap<Vec<u8>, Vec<u8>>,
    packs: HashMap<PackId, (Vec<u8>, Outboard)>,
    asked: HashSet<Vec<u8>>,
    declined: HashSet<Vec<u8>>,
    refused: Option<HoldRefusal>,
    confirmed: HashSet<HeadId>,
}

#[derive(Default)]
struct Serves(Mutex<Goods>);

impl Serves {
    fn answer(&self, request: wire::SyncRequest) -> (Status, Option<Answer>) {
        let mut goods = self.0.lock().unwrap();
        match request.ask {
            Some(Ask::Record(query)) => {
                goods.asked.insert(query.id.clone());
                match goods.records.get(&query.id) {
                    Some(record) => (Status::Ok, Some(Answer::Record(record.clone()))),
                    None => (Status::NotFound, None),
                }
            }
            Some(Ask::Batch(query)) => {
                let record = |id: &Vec<u8>| match goods.records.get(id) {
                    Some(record) => wire::RecordAnswer { status: Status::Ok.into(), record: record.clone() },
                    None => wire::RecordAnswer { status: Status::NotFound.into(), record: Vec::new() },
                };
                let records = query.ids.iter().take(limit::RECORDS_ASKED_MAX).map(record).collect();
                (Status::Ok, Some(Answer::Batch(wire::RecordBatch { records })))
            }
            Some(Ask::Receipt(signed)) => {
                goods.confirmed.extend(Receipt::verify(&signed).unwrap().head);
                (Status::Ok, None)
            }
            Some(Ask::Damage(notice)) => {
                goods.refused = Some(notice.refused());
                goods.declined.extend(notice.declined);
                (Status::Ok, None)
            }
            _ => (Status::Ok, None),
        }
    }
}

impl Server for Serves {
    fn sync(&self, _: PeerId, request: wire::SyncRequest) -> BoxFuture<'static, wire::SyncResponse> {
        let (status, answer) = self.answer(request);
        Box::pin(async move { wire::SyncResponse { status: status.into(), answer } })
    }

    fn fetch(&self, _: PeerId, request: wire::FetchRequest) -> BoxFuture<'static, wire::FetchResponse> {
        let goods = self.0.lock().unwrap();
        let pack = PackId::try_from(request.pack.as_slice()).unwrap();
        // Where there are several of them, one is asked for what another has.
        let Some((bytes, outboard)) = goods.packs.get(&pack) else {
            let status = Status::NotFound.into();
            return Box::pin(async move { wire::FetchResponse { status, ..Default::default() } });
        };
        let slice = |range: &wire::Range| {
            let cells = CellRange::covering(range.offset, range.length, bytes.len() as u64).unwrap();
            let from = cells.offset() as usize;
            let data = bytes[from..from + cells.length(bytes.len() as u64) as usize].to_vec();
            wire::Slice { offset: cells.offset(), data: data.into(), proof: outboard.proof(cells) }
        };
        let answer = wire::FetchResponse {
            status: Status::Ok.into(),
            pack_length: bytes.len() as u64,
            slices: request.ranges.iter().map(slice).collect(),
        };
        Box::pin(async { answer })
    }

    fn door(&self, _: PeerId, _: wire::DoorRequest) -> BoxFuture<'static, wire::DoorResponse> {
        Box::pin(async { wire::DoorResponse::default() })
    }
}

/// The owner, connected to its victim, who allows it.
pub(super) struct HostileOwner {
    net: Net,
    serves: Arc<Serves>,
    victim: PeerId,
    admin: AdminKey,
    keys: VaultKeys,
    device: DeviceKeys,
    seq: u64,
    previous: Option<HeadId>,
    /// Snapshots that its next head lists besides new ones.
    pub(super) also: Vec<SnapshotId>,
    /// Those that its last one lists.
    pub(super) listed: Vec<SnapshotId>,
}

impl HostileOwner {
    pub(super) async fn meets(node: &AloneNode, quota: Option<u64>) -> Self {
        let (key, victim) = (NodeKey::generate(), node.id());
        let serves = Arc::new(Serves::default());
        let config = net_config(&quiet(), &key, vec!["/ip4/127.0.0.1/tcp/0".to_owned()]);
        let members = Arc::new(Members::new([victim]));
        let (net, mut events) = Net::start(config, members, serves.clone()).await.unwrap();
        tokio::spawn(async move { while events.recv().await.is_some() {} });
        let entry = PeerEntry { quota, ..PeerEntry::new(key.peer_id(), node.core.now()) };
        node.core.admit(entry, Word::Person).await.unwrap();
        for address in node.core.net().unwrap().addresses() {
            net.add_address(victim, &address).await.ok();
        }
        until("they are connected", || net.peers().iter().any(|peer| peer.id == victim && peer.serves_us))
            .await;
        let (admin, keys) = Self::keys();
        let device = DeviceKeys::generate("evil");
        let (also, listed) = (Vec::new(), Vec::new());
        Self { net, serves, victim, admin, keys, device, seq: 0, previous: None, also, listed }
    }

    fn keys() -> (AdminKey, VaultKeys) {
        let root = Phrase::generate().root();
        (root.admin(), root.vault_keys(Epoch(0)))
    }

    /// From now on it makes heads of another vault.
    pub(super) fn begin_vault(&mut self) {
        (self.admin, self.keys) = Self::keys();
        (self.seq, self.previous) = (0, None);
    }

    pub(super) fn id(&self) -> PeerId {
        self.net.peer_id()
    }

    pub(super) fn vault(&self) -> VaultId {
        self.admin.vault()
    }

    /// Makes a head with so many new packs and snapshot records, whose certificate names `named`; the head and the packs.
    pub(super) fn make(&mut self, named: PeerId, packs: u32, snapshots: u32) -> (HeadSummary, Vec<PackId>) {
        let vault = self.vault();
        let mut goods = self.serves.0.lock().unwrap();
        let fill = |n: u32, length: usize| -> Vec<u8> {
            let of = [vault.as_bytes().as_slice(), &self.seq.to_le_bytes(), &n.to_le_bytes()];
            let seed = blake3::hash(&of.concat());
            let mut bytes = vec![0; length];
            blake3::Hasher::new_keyed(seed.as_bytes()).finalize_xof().fill(&mut bytes);
            bytes
        };
        let mut ids = Vec::new();
        for n in 0..packs {
            let bytes = fill(n, PACK_BYTES as usize);
            let (id, outboard) = Outboard::of(&bytes);
            goods.packs.insert(id, (bytes, outboard));
            ids.push(id);
        }
        ids.sort_unstable();
        let size = PackSize::of(PACK_BYTES).unwrap();
        let mut lists = Vec::new();
        if packs > 0 {
            let list = PackList::new(ids.iter().map(|id| (*id, size)).collect());
            let (id, bytes): (ListId, _) = list.encode();
            goods.records.insert(id.as_bytes().to_vec(), bytes);
            lists.push(ListRef { id, packs, bytes: list.bytes() });
        }
        let mut listed = std::mem::take(&mut self.also);
        for n in 0..snapshots {
            let bytes = fill(1 << 20 | n, limit::RECORD_BYTES);
            let id = SnapshotId::new(*blake3::hash(&bytes).as_bytes());
            goods.records.insert(id.as_bytes().to_vec(), bytes);
            listed.push(id);
        }
        self.listed.clone_from(&listed);
        self.seq += 1;
        let at = Moment::from_millis(self.seq);
        let certificate = issue_certificate(&self.admin, &self.keys, &self.device, named, at).unwrap();
        let draft = HeadDraft {
            seq: self.seq,
            predecessor: self.previous,
            seen: Vec::new(),
            snapshots: listed,
            lists,
            copies: 1,
            holders: Vec::new(),
            time: at,
            epoch: Epoch(0),
            checkpoint: false,
            inherited: Vec::new(),
            carried: Vec::new(),
            supersedes: Vec::new(),
        };
        let (head, bytes) = SignedHead::sign(draft, &self.device, &certificate).unwrap();
        self.previous = Some(head.id);
        goods.records.insert(head.id.as_bytes().to_vec(), bytes);
        (head.summary(), ids)
    }

    pub(super) async fn offer(&self, head: &HeadSummary, packs: &[PackId]) -> wire::SyncResponse {
        let offer = wire::Offer {
            vault: self.vault().as_bytes().to_vec(),
            head: Some(head.to_wire()),
            packs: packs.iter().map(|id| id.as_bytes().to_vec()).collect(),
        };
        self.net.sync(self.victim, wire::SyncRequest { ask: Some(Ask::Offer(offer)) }).await.unwrap()
    }

    /// Whether the victim has begun to look at a head.
    pub(super) fn was_asked_for(&self, head: &HeadSummary) -> bool {
        self.serves.0.lock().unwrap().asked.contains(head.id.as_bytes().as_slice())
    }

    /// Whether the victim said that it has all records of a head.
    pub(super) fn has_confirmed(&self, head: &HeadSummary) -> bool {
        self.serves.0.lock().unwrap().confirmed.contains(&head.id)
    }

    /// Why the victim said that it takes nothing more.
    pub(super) fn refused(&self) -> Option<HoldRefusal> {
        self.serves.0.lock().unwrap().refused
    }

    /// Packs that the victim said it does not take.
    pub(super) fn declined(&self) -> usize {
        self.serves.0.lock().unwrap().declined.len()
    }
}
