//! A holder that answers as a test tells it to, and signs whatever it likes.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::alone::{AloneNode, quiet};
use super::until;
use crate::base::{Clock, Moment, PackId, PeerId, SystemClock};
use crate::crypto::NodeKey;
use crate::net::{BoxFuture, Members, Net, Server};
use crate::node::core::net_config;
use crate::pack::{CellRange, Outboard};
use crate::snapshot::sign_receipt;
use crate::store::{PeerEntry, Word};
use crate::wire::{self, HoldRefusal, Status, sync_request::Ask, sync_response::Answer};

/// How it answers when it is asked for a slice.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(super) enum Manner {
    /// With what it was given.
    Right,
    /// With this status and nothing else.
    Says(Status),
    /// Never.
    Silent,
}

struct Mind {
    manner: Manner,
    offered: BTreeSet<PackId>,
    offers: usize,
    asked: usize,
    packs: HashMap<PackId, (Vec<u8>, Outboard)>,
}

struct Serves(Mutex<Mind>);

impl Server for Serves {
    fn sync(&self, _: PeerId, request: wire::SyncRequest) -> BoxFuture<'static, wire::SyncResponse> {
        let (status, answer) = match request.ask {
            Some(Ask::Offer(offer)) => {
                let mut mind = self.0.lock().unwrap();
                let packs = offer.packs.iter().map(|id| PackId::try_from(id.as_slice()).unwrap());
                mind.offered.extend(packs);
                mind.offers += usize::from(!offer.packs.is_empty());
                let accepted = offer.packs.len() as u32;
                let answer = wire::OfferAnswer { free_bytes: 1 << 40, accepted };
                (Status::Ok, Some(Answer::Offer(answer)))
            }
            Some(Ask::Heads(_)) => (Status::Ok, Some(Answer::Heads(wire::HeadList::default()))),
            Some(Ask::Inventory(_)) => (Status::Ok, Some(Answer::Inventory(wire::Inventory::default()))),
            Some(Ask::Record(_) | Ask::Batch(_) | Ask::Receipts(_)) => (Status::Busy, None),
            _ => (Status::Ok, None),
        };
        Box::pin(async move { wire::SyncResponse { status: status.into(), answer } })
    }

    fn fetch(&self, _: PeerId, request: wire::FetchRequest) -> BoxFuture<'static, wire::FetchResponse> {
        let mut mind = self.0.lock().unwrap();
        mind.asked += 1;
        let says = |status: Status| wire::FetchResponse { status: status.into(), ..Default::default() };
        let answer = match mind.manner {
            Manner::Silent => return Box::pin(std::future::pending()),
            Manner::Says(status) => says(status),
            Manner::Right => {
                let pack = PackId::try_from(request.pack.as_slice()).unwrap();
                let (bytes, outboard) = &mind.packs[&pack];
                let all = bytes.len() as u64;
                let slice = |range: &wire::Range| {
                    let length = range.length.min(all - range.offset);
                    let cells = CellRange::covering(range.offset, length, all).unwrap();
                    let from = cells.offset() as usize;
                    let data = bytes[from..from + cells.length(all) as usize].to_vec();
                    wire::Slice { offset: cells.offset(), data: data.into(), proof: outboard.proof(cells) }
                };
                let slices = request.ranges.iter().map(slice).collect();
                wire::FetchResponse { slices, pack_length: all, ..says(Status::Ok) }
            }
        };
        Box::pin(async { answer })
    }

    fn door(&self, _: PeerId, _: wire::DoorRequest) -> BoxFuture<'static, wire::DoorResponse> {
        Box::pin(async { wire::DoorResponse::default() })
    }
}

/// The holder, connected to an owner who allows it.
pub(super) struct HostileHolder {
    net: Net,
    key: NodeKey,
    serves: Arc<Serves>,
    owner: PeerId,
}

impl HostileHolder {
    pub(super) async fn meets(node: &AloneNode, manner: Manner) -> Self {
        let (key, owner) = (NodeKey::generate(), node.id());
        let mind = Mind { manner, offered: BTreeSet::new(), offers: 0, asked: 0, packs: HashMap::new() };
        let serves = Arc::new(Serves(Mutex::new(mind)));
        let config = net_config(&quiet(), &key, vec!["/ip4/127.0.0.1/tcp/0".to_owned()]);
        let (net, mut events) =
            Net::start(config, Arc::new(Members::new([owner])), serves.clone()).await.unwrap();
        tokio::spawn(async move { while events.recv().await.is_some() {} });
        let entry = PeerEntry::new(key.peer_id(), node.core.now());
        node.core.admit(entry, Word::Person).await.unwrap();
        for address in node.core.net().unwrap().addresses() {
            net.add_address(owner, &address).await.ok();
        }
        let me = key.peer_id();
        until("the owner sees it", || node.core.connected().contains(&me)).await;
        Self { net, key, serves, owner }
    }

    pub(super) fn id(&self) -> PeerId {
        self.key.peer_id()
    }

    pub(super) fn change(&self, manner: Manner) {
        self.serves.0.lock().unwrap().manner = manner;
    }

    /// Packs that it was ever offered, how often it was offered some, and how often it was asked for slices.
    pub(super) fn seen(&self) -> (Vec<PackId>, usize, usize) {
        let mind = self.serves.0.lock().unwrap();
        (mind.offered.iter().copied().collect(), mind.offers, mind.asked)
    }

    /// Has what the owner has.
    pub(super) fn copy_all(&self, node: &AloneNode) {
        let mut mind = self.serves.0.lock().unwrap();
        for id in node.core.store.pack_files().unwrap() {
            let bytes = node.core.store.open_pack(id).unwrap().read_all().unwrap();
            let outboard = Outboard::of(&bytes).1;
            mind.packs.insert(id, (bytes, outboard));
        }
    }

    /// Says that it takes nothing more of the owner's vault.
    pub(super) async fn refuse(&self, node: &AloneNode, why: HoldRefusal) {
        let vault = node.core.vault_id().unwrap().as_bytes().to_vec();
        let notice = wire::DamageNotice { vault, refused: why.into(), ..Default::default() };
        let request = wire::SyncRequest { ask: Some(Ask::Damage(notice)) };
        assert_eq!(self.net.sync(self.owner, request).await.unwrap().status(), Status::Ok);
    }

    /// Signs that it has these packs, with a time that is so far in the future; what the owner says to that.
    pub(super) async fn confirm(&self, node: &AloneNode, packs: &[PackId], ahead: Duration) -> Status {
        let time: Moment = SystemClock.now().after(ahead);
        let vault = node.core.vault_id().unwrap();
        let signed = sign_receipt(&self.key, vault, None, packs, time);
        let request = wire::SyncRequest { ask: Some(Ask::Receipt(signed)) };
        self.net.sync(self.owner, request).await.unwrap().status()
    }
}
