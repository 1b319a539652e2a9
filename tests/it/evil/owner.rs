//! An owner who signs what it likes: heads of any form, packs that are or are not, lists, records.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use prost::Message;
use shadowvault::base::{Epoch, ListId, Moment, PackId, PeerId, VaultId, limit};
use shadowvault::crypto::{AdminKey, Context, DeviceKeys, Phrase, VaultKeys, sign};
use shadowvault::pack::{CellRange, Outboard};
use shadowvault::snapshot::{PackList, PackSize, issue_certificate};
use shadowvault::wire::{self, Status, sync_request::Ask, sync_response};

use super::super::tree::noise;
use super::peer::{Answer, FETCH, Manner, Raw, SYNC, answers, ask_sync, says};

pub const PACK_BYTES: u64 = 128 << 10;

/// What it has to give.
#[derive(Default)]
struct Goods {
    records: HashMap<Vec<u8>, Vec<u8>>,
    packs: HashMap<Vec<u8>, (Vec<u8>, Outboard)>,
    /// What it says are the newest heads of the vault.
    heads: Vec<wire::HeadRef>,
}

/// A vault of an attacker's own, and the device that writes to it.
#[derive(Clone)]
pub struct Owner {
    pub raw: Raw,
    admin: Arc<AdminKey>,
    keys: Arc<VaultKeys>,
    goods: Arc<Mutex<Goods>>,
}

/// A head that was made.
#[derive(Clone)]
pub struct Made {
    pub head: wire::HeadRef,
    pub packs: Vec<Vec<u8>>,
}

impl Owner {
    pub fn new(raw: &Raw) -> Self {
        Self::of_vault(raw, &Phrase::generate())
    }

    pub fn of_vault(raw: &Raw, phrase: &Phrase) -> Self {
        let root = phrase.root();
        let (admin, keys) = (Arc::new(root.admin()), Arc::new(root.vault_keys(Epoch(0))));
        Self { raw: raw.clone(), admin, keys, goods: Arc::default() }
    }

    pub fn vault(&self) -> VaultId {
        self.admin.vault()
    }

    pub fn admin(&self) -> &AdminKey {
        &self.admin
    }

    pub fn certificate(&self, device: &DeviceKeys, named: PeerId) -> wire::Signed {
        issue_certificate(&self.admin, &self.keys, device, named, Moment::from_millis(1))
            .expect("it is signed")
    }

    /// A head as it should be, without anything in it.
    pub fn draft(&self, device: &DeviceKeys, seq: u64) -> wire::Head {
        wire::Head {
            version: 1,
            vault: self.vault().as_bytes().to_vec(),
            device: device.id().as_bytes().to_vec(),
            seq,
            copies: 1,
            time_ms: seq.min(1 << 40),
            ..wire::Head::default()
        }
    }

    /// Signs whatever bytes; its name.
    pub fn sign(&self, device: &DeviceKeys, seq: u64, named: PeerId, body: Vec<u8>) -> wire::HeadRef {
        let head = Some(sign(device, Context::Head, body));
        let certificate = Some(self.certificate(device, named));
        let bytes = wire::SignedHead { head, certificate }.encode_to_vec();
        let id = self.keep(bytes);
        wire::HeadRef { device: device.id().as_bytes().to_vec(), seq, id }
    }

    /// Has a record to give; its id.
    fn keep(&self, bytes: Vec<u8>) -> Vec<u8> {
        let id = blake3::hash(&bytes).as_bytes().to_vec();
        self.goods.lock().expect("no panic while held").records.insert(id.clone(), bytes);
        id
    }

    /// A list of so many packs, which are there to be fetched when they are `real`.
    pub fn list(&self, seed: u64, packs: u32, real: bool) -> (wire::ListRef, Vec<Vec<u8>>) {
        let mut ids = Vec::new();
        for n in 0..packs {
            let seed = seed << 20 | u64::from(n);
            if real {
                let bytes = noise(seed, PACK_BYTES as usize);
                let (id, outboard) = Outboard::of(&bytes);
                let id = id.as_bytes().to_vec();
                self.goods.lock().expect("no panic while held").packs.insert(id.clone(), (bytes, outboard));
                ids.push(id);
            } else {
                ids.push(noise(seed, 32));
            }
        }
        let size = PackSize::of(PACK_BYTES).expect("a size of packs");
        let pack = |id: &Vec<u8>| (PackId::try_from(id.as_slice()).expect("32 bytes"), size);
        let list = PackList::new(ids.iter().map(pack).collect());
        let (id, bytes): (ListId, _) = list.encode();
        self.keep(bytes);
        (wire::ListRef { id: id.as_bytes().to_vec(), packs, bytes: list.bytes() }, ids)
    }

    /// Says from now on that this is one of the vault's newest heads.
    pub fn tell(&self, head: wire::HeadRef) {
        self.goods.lock().expect("no panic while held").heads.push(head);
    }

    /// A head that is right in all, with packs that are there.
    pub fn honest(&self, device: &DeviceKeys, seq: u64, named: PeerId, packs: u32) -> Made {
        let (list, ids) = self.list(seq ^ u64::from(device.id().as_bytes()[0]) << 32, packs, true);
        let draft = wire::Head { lists: vec![list], ..self.draft(device, seq) };
        Made { head: self.sign(device, seq, named, draft.encode_to_vec()), packs: ids }
    }

    /// Gives what it has.
    pub fn gives(&self) -> Manner {
        let goods = self.goods.clone();
        Arc::new(move |protocol, request| {
            let goods = goods.lock().expect("no panic while held");
            match protocol {
                FETCH => goods.fetch(request),
                SYNC => goods.sync(request),
                _ => Answer::Breaks(Vec::new()),
            }
        })
    }

    pub fn offer(&self, made: &Made) -> Vec<u8> {
        offer(self.vault().as_bytes().to_vec(), made.head.clone(), made.packs.clone())
    }
}

pub fn offer(vault: Vec<u8>, head: wire::HeadRef, packs: Vec<Vec<u8>>) -> Vec<u8> {
    ask_sync(Ask::Offer(wire::Offer { vault, head: Some(head), packs }))
}

impl Goods {
    fn fetch(&self, request: &[u8]) -> Answer {
        let request = wire::FetchRequest::decode(request).unwrap_or_default();
        let Some((bytes, outboard)) = self.packs.get(&request.pack) else {
            return says(&wire::FetchResponse { status: Status::NotFound.into(), ..Default::default() });
        };
        let all = bytes.len() as u64;
        let slice = |range: &wire::Range| {
            let cells = CellRange::covering(range.offset, range.length, all)?;
            let from = cells.offset() as usize;
            let data = bytes[from..from + cells.length(all) as usize].to_vec();
            Some(wire::Slice { offset: cells.offset(), data: data.into(), proof: outboard.proof(cells) })
        };
        says(&wire::FetchResponse {
            status: Status::Ok.into(),
            pack_length: all,
            slices: request.ranges.iter().filter_map(slice).collect(),
        })
    }

    fn record(&self, id: &[u8]) -> wire::RecordAnswer {
        match self.records.get(id) {
            Some(record) => wire::RecordAnswer { status: Status::Ok.into(), record: record.clone() },
            None => wire::RecordAnswer { status: Status::NotFound.into(), record: Vec::new() },
        }
    }

    fn sync(&self, request: &[u8]) -> Answer {
        let request = wire::SyncRequest::decode(request).unwrap_or_default();
        match request.ask {
            Some(Ask::Record(query)) => {
                let wire::RecordAnswer { status, record } = self.record(&query.id);
                let answer = (!record.is_empty()).then_some(sync_response::Answer::Record(record));
                says(&wire::SyncResponse { status, answer })
            }
            Some(Ask::Batch(query)) => {
                let mut left = limit::RECORD_BATCH_BYTES_MAX;
                let mut records = Vec::new();
                for id in &query.ids {
                    let one = self.record(id);
                    let Some(rest) = left.checked_sub(one.record.len() + limit::RECORD_FRAME_BYTES) else {
                        break;
                    };
                    left = rest;
                    records.push(one);
                }
                answers(sync_response::Answer::Batch(wire::RecordBatch { records }))
            }
            Some(Ask::Inventory(_)) => answers(sync_response::Answer::Inventory(wire::Inventory::default())),
            Some(Ask::Heads(_)) => {
                let heads = self.heads.clone();
                answers(sync_response::Answer::Heads(wire::HeadList { heads, ..wire::HeadList::default() }))
            }
            _ => says(&wire::SyncResponse { status: Status::Ok.into(), answer: None }),
        }
    }
}
