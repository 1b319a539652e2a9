//! What the three request-response protocols have in common, and where they differ: who may use them, who
//! answers, and how many at one time.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use libp2p::request_response::{self, InboundRequestId, OutboundRequestId};
use tokio::sync::oneshot;

use super::behaviour::Behaviour;
use super::codec::{Codec, Door, Fetch, Protocol, Sync};
use super::meter::{Fare, Meter, Paces};
use super::slots::{Slot, Slots};
use super::{NetConfig, NetError};
use crate::base::{PeerId, limit};
use crate::wire::sync_request::Ask;
use crate::wire::{self, RecordKind, Status};

/// A future that owns what it needs.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Answers peers. Every call runs in a task of its own, and is dropped when it takes longer than the protocol's
/// timeout. Whether the peer may ask has been checked; what it asks has not, apart from its size.
pub trait Server: Send + std::marker::Sync + 'static {
    /// A member asks about heads, records, offers, receipts.
    fn sync(&self, from: PeerId, request: wire::SyncRequest) -> BoxFuture<'static, wire::SyncResponse>;
    /// A member asks for ranges of a pack; at most `limit::FETCH_RANGES_MAX` of them.
    fn fetch(&self, from: PeerId, request: wire::FetchRequest) -> BoxFuture<'static, wire::FetchResponse>;
    /// Anyone at all knocks.
    fn door(&self, from: PeerId, request: wire::DoorRequest) -> BoxFuture<'static, wire::DoorResponse>;
}

/// A request that was sent and waits for its answer. Holds its place until then.
pub(super) struct Waiting<R> {
    pub(super) peer: PeerId,
    pub(super) reply: oneshot::Sender<Result<R, NetError>>,
    pub(super) slot: Slot,
}

/// A request being answered: from its arrival until the last byte of the answer is out.
pub(super) struct Answering {
    pub(super) peer: PeerId,
    pub(super) slot: Option<Slot>,
    /// The answer is ready: it is for the peer to take it.
    pub(super) ready: bool,
}

/// One protocol's requests under way, seen from the swarm's task.
pub(super) struct Traffic<P: Protocol> {
    pub(super) out: HashMap<OutboundRequestId, Waiting<P::Response>>,
    pub(super) inward: HashMap<InboundRequestId, Answering>,
}

impl<P: Protocol> Default for Traffic<P> {
    fn default() -> Self {
        Self { out: HashMap::new(), inward: HashMap::new() }
    }
}

/// The three of them.
#[derive(Default)]
pub(super) struct Lanes {
    sync: Traffic<Sync>,
    fetch: Traffic<Fetch>,
    pub(super) door: Traffic<Door>,
}

impl Lanes {
    /// Peers that have answers to take.
    pub(super) fn awaited(&self) -> HashSet<PeerId> {
        let Self { sync, fetch, door } = self;
        let all = sync.inward.values().chain(fetch.inward.values()).chain(door.inward.values());
        all.filter(|answering| answering.ready).map(|answering| answering.peer).collect()
    }
}

/// Places for requests, one way.
pub(super) struct Places {
    sync: Slots,
    fetch: Slots,
    door: Slots,
}

/// Places for requests that wait to be answered, by what they take in memory.
pub(super) struct WaitingRoom(Slots);

impl Default for WaitingRoom {
    fn default() -> Self {
        let places = |bytes: usize| bytes / limit::WAITING_PLACE_BYTES;
        let (all, of_peer) = (limit::REQUESTS_WAITING_BYTES_MAX, limit::REQUESTS_WAITING_PER_PEER_BYTES_MAX);
        Self(Slots::new(places(all), places(of_peer)))
    }
}

impl WaitingRoom {
    /// Places for a request of that length, now or not at all.
    pub(super) fn enter(&self, peer: PeerId, bytes: usize) -> Option<Slot> {
        let places = bytes.div_ceil(limit::WAITING_PLACE_BYTES).max(1);
        self.0.try_take_many(peer, u32::try_from(places).unwrap_or(u32::MAX))
    }

    pub(super) fn prune(&self) {
        self.0.prune();
    }
}

/// What a request was charged before it is answered; given back when it is not.
pub(super) struct Fares {
    each: Option<Fare>,
    all: Option<Fare>,
}

impl Fares {
    /// It was answered with so many units.
    pub(super) fn keep(self, units: u64) {
        self.each.into_iter().chain(self.all).for_each(|fare| fare.keep(units));
    }
}

impl Places {
    /// For requests that this node sends.
    pub(super) fn outgoing(fetches: usize) -> Self {
        let fetches = fetches.clamp(1, limit::FETCH_IN_FLIGHT_MAX);
        Self {
            sync: Slots::new(limit::SYNC_IN_FLIGHT_MAX, limit::SYNC_IN_FLIGHT_PER_PEER_MAX),
            fetch: Slots::new(fetches, fetches.min(limit::FETCH_IN_FLIGHT_PER_PEER_MAX)),
            door: Slots::new(limit::DOOR_IN_FLIGHT_MAX, limit::DOOR_SERVED_PER_PEER_MAX),
        }
    }

    /// For requests that it answers.
    pub(super) fn served() -> Self {
        Self {
            sync: Slots::keeping(limit::KEPT_PLACES, limit::SYNC_SERVED_MAX, limit::SYNC_SERVED_PER_PEER_MAX),
            fetch: Slots::keeping(
                limit::KEPT_PLACES,
                limit::FETCH_SERVED_MAX,
                limit::FETCH_SERVED_PER_PEER_MAX,
            ),
            door: Slots::new(limit::DOOR_SERVED_MAX, limit::DOOR_SERVED_PER_PEER_MAX),
        }
    }

    /// Whether somebody may have to wait because others hold their places.
    pub(super) fn is_crowded(&self) -> bool {
        self.sync.is_crowded() || self.fetch.is_crowded()
    }

    /// From now on the peer has one place of each kind only, for some time.
    pub(super) fn restrict(&self, peer: PeerId) {
        [&self.sync, &self.fetch].into_iter().for_each(|slots| slots.restrict(peer));
    }

    pub(super) fn prune(&self) {
        [&self.sync, &self.fetch, &self.door].into_iter().for_each(Slots::prune);
    }
}

/// A protocol with its behaviour, its traffic and its rules.
pub(super) trait Lane: Protocol {
    /// Whether only members speak it.
    const MEMBERS_ONLY: bool;
    fn timeout(config: &NetConfig) -> Duration;
    fn behaviour(all: &mut Behaviour) -> &mut request_response::Behaviour<Codec<Self>>
    where
        Self: Sized;
    fn traffic(all: &mut Lanes) -> &mut Traffic<Self>
    where
        Self: Sized;
    fn places(all: &Places) -> &Slots;
    /// Waits until the peer's own rate, unless it is `exempt`, and that of all let the request pass.
    fn pay(
        meter: &Meter,
        paces: &Paces,
        from: PeerId,
        exempt: bool,
        request: &Self::Request,
    ) -> impl Future<Output = Fares> + Send {
        let (units, whole) = (Self::units(request), Self::IN_BYTES);
        let each = if whole { meter.fetches_of(from) } else { meter.requests_of(from) };
        let (each, all) = (each.filter(|_| !exempt), whole.then(|| Arc::clone(&paces.up)));
        async move {
            let each = match &each {
                Some(pace) => Some(pace.take(units).await),
                None => None,
            };
            let all = match &all {
                Some(pace) => Some(pace.take(units).await),
                None => None,
            };
            Fares { each, all }
        }
    }
    fn serve(
        server: &Arc<dyn Server>,
        from: PeerId,
        request: Self::Request,
    ) -> BoxFuture<'static, Self::Response>;
    /// Whether it leaves something on the disk, whoever asks.
    fn writes(_: &Self::Request) -> bool {
        false
    }
    /// Whether requests are metered by the bytes of packs that they ask for, and not one by one.
    const IN_BYTES: bool = false;
    /// What the request costs if it is answered in full.
    fn units(_: &Self::Request) -> u64 {
        1
    }
    /// Bytes of packs that an answer carries.
    fn served(_: &Self::Response) -> u64 {
        0
    }
    /// An answer that is a status and nothing else.
    fn bare(status: Status) -> Self::Response;
    fn status(response: &Self::Response) -> i32;
}

impl Lane for Sync {
    const MEMBERS_ONLY: bool = true;

    fn timeout(config: &NetConfig) -> Duration {
        config.fetch_timeout
    }

    fn behaviour(all: &mut Behaviour) -> &mut request_response::Behaviour<Codec<Self>> {
        all.sync.inner()
    }

    fn traffic(all: &mut Lanes) -> &mut Traffic<Self> {
        &mut all.sync
    }

    fn places(all: &Places) -> &Slots {
        &all.sync
    }

    fn units(request: &wire::SyncRequest) -> u64 {
        sync_cost(request).into()
    }

    fn serve(
        server: &Arc<dyn Server>,
        from: PeerId,
        request: wire::SyncRequest,
    ) -> BoxFuture<'static, wire::SyncResponse> {
        server.sync(from, request)
    }

    fn bare(status: Status) -> wire::SyncResponse {
        wire::SyncResponse { status: status.into(), answer: None }
    }

    fn status(response: &wire::SyncResponse) -> i32 {
        response.status
    }
}

impl Lane for Fetch {
    const MEMBERS_ONLY: bool = true;
    const IN_BYTES: bool = true;

    fn timeout(config: &NetConfig) -> Duration {
        config.fetch_timeout
    }

    fn behaviour(all: &mut Behaviour) -> &mut request_response::Behaviour<Codec<Self>> {
        all.fetch.inner()
    }

    fn traffic(all: &mut Lanes) -> &mut Traffic<Self> {
        &mut all.fetch
    }

    fn places(all: &Places) -> &Slots {
        &all.fetch
    }

    fn serve(
        server: &Arc<dyn Server>,
        from: PeerId,
        request: wire::FetchRequest,
    ) -> BoxFuture<'static, wire::FetchResponse> {
        server.fetch(from, request)
    }

    fn units(request: &wire::FetchRequest) -> u64 {
        fetch_cost(request)
    }

    fn served(response: &wire::FetchResponse) -> u64 {
        response.slices.iter().map(|slice| slice.data.len() as u64).sum()
    }

    fn bare(status: Status) -> wire::FetchResponse {
        wire::FetchResponse { status: status.into(), ..Default::default() }
    }

    fn status(response: &wire::FetchResponse) -> i32 {
        response.status
    }
}

impl Lane for Door {
    const MEMBERS_ONLY: bool = false;

    fn writes(request: &wire::DoorRequest) -> bool {
        matches!(request.ask, Some(wire::door_request::Ask::Hello(_)))
    }

    fn timeout(config: &NetConfig) -> Duration {
        config.connection_timeout
    }

    fn behaviour(all: &mut Behaviour) -> &mut request_response::Behaviour<Codec<Self>> {
        &mut all.door
    }

    fn traffic(all: &mut Lanes) -> &mut Traffic<Self> {
        &mut all.door
    }

    fn places(all: &Places) -> &Slots {
        &all.door
    }

    fn serve(
        server: &Arc<dyn Server>,
        from: PeerId,
        request: wire::DoorRequest,
    ) -> BoxFuture<'static, wire::DoorResponse> {
        server.door(from, request)
    }

    fn bare(status: Status) -> wire::DoorResponse {
        wire::DoorResponse { status: status.into(), ..Default::default() }
    }

    fn status(response: &wire::DoorResponse) -> i32 {
        response.status
    }
}

/// How many requests a sync request counts as: one, and more for what it makes this node do. A batch of records counts one
/// for each 64 KiB that may be read and sent for it; rows that are looked up, and signatures that are checked, by the numbers
/// in `base::limit`.
pub(super) fn sync_cost(request: &wire::SyncRequest) -> u32 {
    let many = |count: usize, of_one: usize| 1 + u32::try_from(count / of_one).unwrap_or(u32::MAX - 1);
    match &request.ask {
        Some(Ask::Batch(query)) => batch_cost(query),
        Some(Ask::Records(sent)) => {
            many(sent.records.len().saturating_add(sent.revocations.len()), limit::SIGNATURES_OF_A_REQUEST)
        }
        Some(Ask::Receipts(query)) => many(query.packs.len(), limit::ROWS_OF_A_REQUEST),
        Some(Ask::Receipt(signed)) => many(signed.body.len() / 32, limit::ROWS_OF_A_REQUEST),
        Some(Ask::Offer(offer)) => many(offer.packs.len(), limit::ROWS_OF_A_REQUEST),
        Some(Ask::Damage(notice)) => {
            let packs = notice.packs.len() + notice.declined.len() + notice.doubted.len();
            many(packs.saturating_add(notice.heads.len()), limit::ROWS_OF_A_REQUEST)
        }
        None
        | Some(Ask::Heads(_) | Ask::Record(_) | Ask::Inventory(_) | Ask::CallBack(_) | Ask::Release(_)) => 1,
    }
}

fn batch_cost(query: &wire::RecordsQuery) -> u32 {
    let each = match query.kind() {
        RecordKind::RecordSnapshot => limit::RECORD_BYTES,
        RecordKind::RecordList => limit::LIST_BYTES_MAX,
        RecordKind::RecordHead | RecordKind::RecordUnspecified => limit::HEAD_BYTES_MAX,
    };
    let bytes = query.ids.len().saturating_mul(each).min(limit::HEAD_BYTES_MAX);
    bytes.div_ceil(limit::CELL_BYTES).max(1) as u32
}

/// Bytes that a fetch makes the server read and send: its ranges widened to whole cells.
pub(super) fn fetch_cost(request: &wire::FetchRequest) -> u64 {
    let cell = limit::CELL_BYTES as u64;
    let cells = |r: &wire::Range| {
        let end = r.offset.saturating_add(r.length);
        end.div_ceil(cell).saturating_sub(r.offset / cell).max(1)
    };
    request.ranges.iter().fold(0u64, |sum, r| sum.saturating_add(cells(r).saturating_mul(cell)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fetches_in_flight_are_bounded_as_configured() {
        for (configured, allowed) in [(0, 1), (1, 1), (3, 3), (1000, limit::FETCH_IN_FLIGHT_MAX)] {
            let places = Places::outgoing(configured);
            let peers = (0..=u8::MAX).map(|n| PeerId::new([n; 32]));
            let taken: Vec<_> = peers.filter_map(|peer| places.fetch.try_take_many(peer, 1)).collect();
            assert_eq!(taken.len(), allowed, "{configured}");
        }
    }

    /// Who asks faster than it is served waits, and could have filled the memory with what it asks.
    #[test]
    fn what_waits_is_bounded_by_its_bytes_for_each_peer_and_in_all() {
        let room = WaitingRoom::default();
        let peer = |n: usize| PeerId::new([n as u8; 32]);
        let (place, largest) = (limit::WAITING_PLACE_BYTES, limit::SYNC_REQUEST_BYTES_MAX);
        let of_peer = limit::REQUESTS_WAITING_PER_PEER_BYTES_MAX;
        let large: Vec<_> = (0..100).map_while(|_| room.enter(peer(0), largest)).collect();
        assert!(large.len() * largest == of_peer && room.enter(peer(0), 1).is_none());
        let small: Vec<_> = (0..10_000).map_while(|_| room.enter(peer(1), 1)).collect();
        assert_eq!(small.len(), of_peer / place);
        let many: Vec<_> = (2..100).filter_map(|n| room.enter(peer(n), largest)).collect();
        assert_eq!(many.len() * largest + 2 * of_peer, limit::REQUESTS_WAITING_BYTES_MAX);
        drop(large);
        assert!(room.enter(peer(0), largest).is_some());
    }

    #[test]
    fn a_batch_of_records_costs_what_it_may_bring() {
        let cost = |kind: RecordKind, ids: usize| {
            let query = wire::RecordsQuery { vault: vec![], kind: kind.into(), ids: vec![vec![]; ids] };
            sync_cost(&wire::SyncRequest { ask: Some(wire::sync_request::Ask::Batch(query)) })
        };
        let table = [
            (RecordKind::RecordSnapshot, 0, 1),
            (RecordKind::RecordSnapshot, 1, 1),
            (RecordKind::RecordSnapshot, 9, 2),
            (RecordKind::RecordSnapshot, limit::RECORDS_ASKED_MAX, 32),
            (RecordKind::RecordList, 1, 3),
            (RecordKind::RecordList, limit::RECORDS_ASKED_MAX, 32),
            (RecordKind::RecordHead, 1, 32),
            (RecordKind::RecordUnspecified, usize::MAX >> 48, 32),
        ];
        for (kind, ids, requests) in table {
            assert_eq!(cost(kind, ids), requests, "{kind:?} {ids}");
        }
        assert_eq!(sync_cost(&wire::SyncRequest { ask: None }), 1);
    }

    /// Questions for the receipts of 4,096 packs, and 256 peer records, were as cheap as any other.
    #[test]
    fn questions_cost_the_rows_and_signatures_that_they_take() {
        let cost = |ask: Ask| sync_cost(&wire::SyncRequest { ask: Some(ask) });
        let receipts = |packs: usize| {
            cost(Ask::Receipts(wire::ReceiptQuery { packs: vec![vec![]; packs], ..Default::default() }))
        };
        assert_eq!((receipts(0), receipts(100)), (1, 1 + (100 / limit::ROWS_OF_A_REQUEST) as u32));
        assert!(receipts(limit::RECEIPT_PACKS_MAX) > 10);
        let signed = wire::Signed::default();
        let records = |count: usize| {
            let records = vec![signed.clone(); count];
            cost(Ask::Records(wire::PeerRecords { records, revocations: vec![] }))
        };
        assert!(records(1) == 1 && records(limit::PEER_RECORDS_MAX) > 10);
        let receipt = wire::Signed { body: vec![0; limit::RECEIPT_BYTES_MAX], signature: vec![] };
        assert!(cost(Ask::Receipt(receipt)) > 10);
        assert_eq!(cost(Ask::Heads(wire::HeadQuery::default())), 1);
    }

    #[test]
    fn fetch_costs_whole_cells() {
        let table = [(0, 1, 1), (0, 65_536, 1), (65_535, 2, 2), (0, 0, 1), (1 << 20, 1 << 20, 16)];
        for (offset, length, cells) in table {
            let request = wire::FetchRequest { pack: vec![], ranges: vec![wire::Range { offset, length }] };
            assert_eq!(fetch_cost(&request), cells * 65_536, "{offset}+{length}");
        }
        let all = wire::Range { offset: u64::MAX, length: u64::MAX };
        fetch_cost(&wire::FetchRequest { pack: vec![], ranges: vec![all; 16] });
    }
}
