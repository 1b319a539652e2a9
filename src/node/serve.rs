//! Answers to peers. Everything that touches the disk runs on a blocking thread.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, Weak};

use super::core::{Core, log_failure};
use super::error::failed;
use super::{acl, auditing, comparing, desk, devices, door, holding, reach, releasing};
use crate::api::{ApiError, Happening};
use crate::base::{Code, DeviceId, HeadId, ListId, Moment, PackId, PeerId, SnapshotId, VaultId, limit};
use crate::engine;
use crate::net::{BoxFuture, Net, Server};
use crate::pack::{CellRange, Outboard};
use crate::snapshot::{Head, HeadSummary, PeerAddress, sign_receipt_at};
use crate::store::{Store, StoreError};
use crate::wire::{self, HoldRefusal, RecordKind, Status, sync_request::Ask, sync_response::Answer};

/// Outboards kept in memory: 8 KiB each.
const OUTBOARDS_MAX: usize = 256;

/// What serving keeps at hand.
#[derive(Default)]
pub(super) struct Served {
    outboards: Mutex<VecDeque<(PackId, Arc<Outboard>)>>,
}

/// The node's side of the three protocols. Holds the node weakly: the network must not keep it alive.
pub(super) struct Answers {
    core: Weak<Core>,
}

impl Answers {
    pub(super) fn new(core: &Arc<Core>) -> Self {
        Self { core: Arc::downgrade(core) }
    }

    /// The node, unless it is ending.
    fn core(&self) -> Option<Arc<Core>> {
        self.core.upgrade().filter(|core| !core.stop.is_cancelled())
    }
}

impl Server for Answers {
    fn sync(&self, from: PeerId, request: wire::SyncRequest) -> BoxFuture<'static, wire::SyncResponse> {
        let core = self.core();
        Box::pin(async move {
            match core {
                Some(core) => sync(core, from, request).await,
                None => status(Status::Busy),
            }
        })
    }

    fn fetch(&self, from: PeerId, request: wire::FetchRequest) -> BoxFuture<'static, wire::FetchResponse> {
        let core = self.core();
        Box::pin(async move {
            let Some(core) = core else { return fetch_status(Status::Busy) };
            let served = core.blocking(move |core| Ok(fetch(core, from, &request))).await;
            served.unwrap_or_else(|error| {
                tracing::error!(target: "serve", peer = %from.short(), %error, "serving a range failed");
                fetch_status(Status::Busy)
            })
        })
    }

    fn door(&self, from: PeerId, request: wire::DoorRequest) -> BoxFuture<'static, wire::DoorResponse> {
        let core = self.core();
        Box::pin(async move {
            match core {
                Some(core) => door::answer(core, from, request).await,
                None => wire::DoorResponse { status: Status::Busy.into(), ..Default::default() },
            }
        })
    }
}

fn status(status: Status) -> wire::SyncResponse {
    wire::SyncResponse { status: status.into(), answer: None }
}

fn fetch_status(status: Status) -> wire::FetchResponse {
    wire::FetchResponse { status: status.into(), ..Default::default() }
}

async fn sync(core: Arc<Core>, from: PeerId, request: wire::SyncRequest) -> wire::SyncResponse {
    // Of a directory that is out of reach, or that cannot be relied on, nothing is told and nothing is taken for it.
    if core.blocking(|core| core.store.available().map_err(failed)).await.is_err() {
        return status(Status::Unavailable);
    }
    let _turn = match &request.ask {
        Some(ask) if desk::is_costly(ask) => core.desk.turn(from).await,
        _ => None,
    };
    let answered = match request.ask {
        None => return status(Status::Unsupported),
        Some(Ask::Heads(query)) => core.blocking(move |core| heads(core, from, &query)).await,
        Some(Ask::Record(query)) => core.blocking(move |core| record(core, from, &query)).await,
        Some(Ask::Batch(query)) => {
            core.blocking(move |core| batch_for(core, from, &query).map(|batch| Some(Answer::Batch(batch))))
                .await
        }
        Some(Ask::Offer(offer)) => holding::answer_offer(&core, from, offer).await,
        Some(Ask::Receipt(signed)) => core.blocking(move |core| receipt(core, from, &signed)).await,
        Some(Ask::Records(records)) => {
            let mut records = records;
            let revocations = std::mem::take(&mut records.revocations);
            devices::take(&core, from, None, revocations).await;
            acl::take(&core, from, records).await;
            Ok(None)
        }
        Some(Ask::Receipts(query)) => core.blocking(move |core| receipts(core, &query)).await,
        Some(Ask::Inventory(_)) => core.blocking(inventory).await,
        Some(Ask::CallBack(query)) => reach::answer(&core, from, query).await,
        Some(Ask::Release(signed)) => {
            core.blocking(move |core| releasing::take(core, from, &signed).map(|()| None)).await
        }
        Some(Ask::Damage(notice)) => core.blocking(move |core| damage(core, from, &notice)).await,
    };
    match answered {
        Ok(answer) => wire::SyncResponse { status: Status::Ok.into(), answer },
        Err(error) => {
            tracing::debug!(target: "serve", peer = %from.short(), code = error.code, %error, "refused a request");
            // It may have gone meanwhile, and what was found then means nothing.
            let there = core.blocking(|core| core.store.available().map_err(failed)).await;
            status(match error.kind() {
                _ if there.is_err() => Status::Unavailable,
                Code::ChunkNotFound | Code::VaultNotFound => Status::NotFound,
                Code::StorageCorrupted => Status::Corrupt,
                Code::StorageFull => Status::Full,
                Code::Unauthorized
                | Code::UsageInvalid
                | Code::InvalidSignature
                | Code::DeviceRevoked
                | Code::PeerMisbehaved => Status::Refused,
                Code::StorageTooNew => Status::Unsupported,
                _ => Status::Busy,
            })
        }
    }
}

type Answered = Result<Option<Answer>, ApiError>;

fn malformed(error: impl std::fmt::Display) -> ApiError {
    ApiError::new(Code::UsageInvalid, error.to_string())
}

fn not_here() -> ApiError {
    ApiError::new(Code::ChunkNotFound, "not here")
}

/// The newest heads of a vault, and who else holds it. Its own devices know that, and ask again and again: they are told the
/// heads alone.
fn heads(core: &Arc<Core>, from: PeerId, query: &wire::HeadQuery) -> Answered {
    notice_twins(core, from, query.instance);
    let vault = VaultId::try_from(query.vault.as_slice()).map_err(malformed)?;
    let mut heads = match query.at_ms {
        0 => engine::newest_heads(&core.store, vault).map_err(failed)?,
        at => engine::heads_at(&core.store, vault, Moment::from_millis(at)).map_err(failed)?,
    };
    let (mut told, mut is_own_device) = (Vec::new(), false);
    let mut holders: Vec<PeerAddress> = vec![PeerAddress {
        peer: core.key.peer_id(),
        addresses: core.net().map(Net::addresses).unwrap_or_default(),
    }];
    for head in heads.by_ref() {
        let head = head.map_err(failed)?;
        is_own_device |= head.certificate.peer == from;
        note_holders(&mut holders, &head);
        told.push(head.summary().to_wire());
        if told.len() >= limit::HEADS_TOLD_MAX {
            break;
        }
    }
    if is_own_device {
        holders.clear();
    }
    let unreadable = heads.passed_over().iter().take(limit::HEADS_TOLD_MAX.saturating_sub(told.len()));
    let unreadable = unreadable
        .map(|head| HeadSummary { device: head.device, seq: head.seq, id: head.id }.to_wire())
        .collect();
    Ok(Some(Answer::Heads(wire::HeadList {
        heads: told,
        holders: holders.iter().map(PeerAddress::to_wire).collect(),
        revocations: engine::revocations(&core.store, vault).map_err(failed)?.signed(),
        twins: core.twins.has_twin(from, core.now()),
        instance: core.twins.me,
        unreadable,
    })))
}

/// Adds the holders that a head names, with their addresses.
fn note_holders(holders: &mut Vec<PeerAddress>, head: &Head) {
    for holder in &head.draft.holders {
        match holders.iter().position(|known| known.peer == holder.peer) {
            None if holders.len() < limit::HEAD_HOLDERS_MAX => holders.push(holder.clone()),
            None => {}
            Some(at) => {
                let known = &mut holders[at];
                let fresh = holder.addresses.iter().filter(|a| !known.addresses.contains(a));
                let fresh: Vec<String> = fresh.cloned().collect();
                known.addresses.extend(fresh);
                known.addresses.truncate(limit::PEER_ADDRESSES_MAX);
            }
        }
    }
}

/// Notes which run of a peer's program was heard of.
pub(super) fn notice_twins(core: &Core, peer: PeerId, run: u64) {
    if core.twins.note(peer, run, core.now()) {
        tracing::warn!(target: "peers", %peer, "two machines use this identity: was a data directory copied?");
    }
}

fn record(core: &Arc<Core>, from: PeerId, query: &wire::RecordQuery) -> Answered {
    wait_for_audit(core, from, &query.vault)?;
    let shelf = Shelf::of(&core.store, &query.vault, query.kind())?;
    let record = shelf.take(&query.id).inspect_err(|error| doubt_damaged(core, error.kind()))?;
    Ok(Some(Answer::Record(record)))
}

fn batch_for(
    core: &Arc<Core>,
    from: PeerId,
    query: &wire::RecordsQuery,
) -> Result<wire::RecordBatch, ApiError> {
    wait_for_audit(core, from, &query.vault)?;
    let batch = batch(&core.store, query)?;
    if batch.records.iter().any(|one| one.status() == Status::Corrupt) {
        doubt_damaged(core, Code::StorageCorrupted);
    }
    Ok(batch)
}

/// Who is to prove that it has records of this node's vault does not get them here meanwhile.
fn wait_for_audit(core: &Core, from: PeerId, vault: &[u8]) -> Result<(), ApiError> {
    let is_own = core.vault_id().is_some_and(|own| own.as_bytes() == vault);
    match is_own && core.auditing.is_under_way(&from) {
        true => Err(ApiError::new(Code::PeerBusy, "being audited")),
        false => Ok(()),
    }
}

/// Rot that was come upon is mended in a while.
fn doubt_damaged(core: &Core, code: Code) {
    if code == Code::StorageCorrupted {
        core.doubt_records();
    }
}

/// As many of the records as the answer has room for, in the order that they were asked for.
fn batch(store: &Store, query: &wire::RecordsQuery) -> Result<wire::RecordBatch, ApiError> {
    let shelf = Shelf::of(store, &query.vault, query.kind())?;
    let mut left = limit::RECORD_BATCH_BYTES_MAX;
    let mut records = Vec::new();
    for id in query.ids.iter().take(limit::RECORDS_ASKED_MAX) {
        let (status, record) = match shelf.take(id) {
            Ok(record) => (Status::Ok, record),
            Err(error) if error.kind() == Code::ChunkNotFound => (Status::NotFound, Vec::new()),
            Err(error) if error.kind() == Code::StorageCorrupted => (Status::Corrupt, Vec::new()),
            Err(error) => return Err(error),
        };
        let Some(rest) = left.checked_sub(record.len() + limit::RECORD_FRAME_BYTES) else { break };
        left = rest;
        records.push(wire::RecordAnswer { status: status.into(), record });
    }
    Ok(wire::RecordBatch { records })
}

/// The records of one kind.
struct Shelf<'a> {
    store: &'a Store,
    vault: VaultId,
    kind: RecordKind,
    /// Where the vault's heads lie, when they are what is asked for.
    heads: HashMap<HeadId, (DeviceId, u64)>,
}

impl<'a> Shelf<'a> {
    fn of(store: &'a Store, vault: &[u8], kind: RecordKind) -> Result<Self, ApiError> {
        let vault = VaultId::try_from(vault).map_err(malformed)?;
        let mut heads = HashMap::new();
        if kind == RecordKind::RecordHead {
            for device in store.head_devices(vault).map_err(failed)? {
                let names = store.head_names(vault, device).map_err(failed)?;
                heads.extend(names.into_iter().map(|(seq, id)| (id, (device, seq))));
            }
        }
        Ok(Self { store, vault, kind, heads })
    }

    fn take(&self, id: &[u8]) -> Result<Vec<u8>, ApiError> {
        let store = self.store;
        let bytes = match self.kind {
            RecordKind::RecordHead => {
                let id = HeadId::try_from(id).map_err(malformed)?;
                let (device, seq) = *self.heads.get(&id).ok_or_else(not_here)?;
                store.read_head(self.vault, device, seq, id)
            }
            RecordKind::RecordList => store.read_list(ListId::try_from(id).map_err(malformed)?),
            RecordKind::RecordSnapshot => store.read_snapshot(SnapshotId::try_from(id).map_err(malformed)?),
            RecordKind::RecordUnspecified => return Err(malformed("unknown kind of record")),
        };
        let bytes = bytes.map_err(failed)?.ok_or_else(not_here)?;
        // Rot is never passed on: every record's name is its hash.
        if blake3::hash(&bytes).as_bytes().as_slice() != id {
            return Err(ApiError::new(Code::StorageCorrupted, "a record is damaged"));
        }
        Ok(bytes)
    }
}

fn receipt(core: &Arc<Core>, from: PeerId, signed: &wire::Signed) -> Answered {
    let vault = core.vault_id().ok_or_else(not_here)?;
    // What was offered by the other one of two machines with this identity may be confirmed here.
    let is_doubled = core.twins.told_by(core.now()).is_some();
    let offered = core.owning.offered_to(from);
    let expected = |pack: &PackId| is_doubled || offered.contains(pack);
    // What is no news starts no round: in each the holder is asked again, and answers.
    if let Some(receipt) = auditing::take_receipt(core, vault, from, signed, &expected)? {
        core.owning.settle(from, &receipt.packs);
        core.owning.accept(from);
        core.changed.notify_one();
    }
    Ok(None)
}

fn receipts(core: &Arc<Core>, query: &wire::ReceiptQuery) -> Answered {
    let vault = VaultId::try_from(query.vault.as_slice()).map_err(malformed)?;
    let packs = pack_ids(&query.packs)?;
    let held = engine::held_packs(&core.store, vault, &packs).map_err(failed)?;
    if held.len() < packs.len() {
        let lacking: Vec<PackId> = packs.iter().copied().filter(|pack| !held.contains(pack)).collect();
        core.doubt_kept(&lacking)?;
    }
    let head = HeadId::try_from(query.head.as_slice()).ok();
    let complete = match head {
        Some(id) => engine::complete_head(&core.store, vault, id).map_err(failed)?.map(|head| head.id),
        None => None,
    };
    let mark = core.comparing.own(&core.store).map_err(failed)?.mark();
    Ok(Some(Answer::Receipt(sign_receipt_at(&core.key, vault, complete, &held, core.now(), mark))))
}

/// Where this store is, so that who relies on it sees an older image of it for what it is.
fn inventory(core: &Arc<Core>) -> Answered {
    Ok(Some(Answer::Inventory(comparing::to_wire(&core.comparing.own(&core.store).map_err(failed)?))))
}

/// A holder doubts another one. Its word proves nothing: what that one confirmed is asked for in the next audit.
fn doubt(core: &Arc<Core>, notice: &wire::DamageNotice) -> Result<(), ApiError> {
    let Ok(holder) = PeerId::try_from(notice.doubted_holder.as_slice()) else { return Ok(()) };
    let mut packs = 0u32;
    for pack in pack_ids(&notice.doubted)? {
        if core.store.holders_of(pack).map_err(failed)?.contains(&holder) {
            core.auditing.suspect(holder, pack);
            packs += 1;
        }
    }
    if packs > 0 {
        tracing::info!(target: "audit", peer = %holder.short(), packs, "a fellow holder doubts that it has what it confirmed");
    }
    Ok(())
}

fn pack_ids(ids: &[Vec<u8>]) -> Result<Vec<PackId>, ApiError> {
    let ids = ids.iter().take(limit::RECEIPT_PACKS_MAX);
    ids.map(|id| PackId::try_from(id.as_slice())).collect::<Result<_, _>>().map_err(malformed)
}

/// Why a holder takes nothing more, and what helps.
pub(super) fn refusal(why: HoldRefusal) -> &'static str {
    match why {
        HoldRefusal::HoldDevices => {
            "as many devices of this vault as it may have have written there; one that is gone makes room (`shadowvault device revoke --heir`)"
        }
        HoldRefusal::HoldVaults => {
            "it has as many vaults as it takes (remove there what is not needed, `shadowvault peers`)"
        }
        HoldRefusal::HoldHeads => {
            "too much of this vault's history is kept there; what was forgotten goes when its hold ends (`shadowvault forget --release-holds`)"
        }
        HoldRefusal::HoldUnspecified => "it does not say why",
    }
}

/// A holder says what rotted on its disk, or what it does not take. What it does not have gets another place.
fn damage(core: &Arc<Core>, from: PeerId, notice: &wire::DamageNotice) -> Answered {
    let vault = VaultId::try_from(notice.vault.as_slice()).map_err(malformed)?;
    if core.vault_id() != Some(vault) {
        return Err(not_here());
    }
    let packs = pack_ids(&notice.packs)?;
    let declined = pack_ids(&notice.declined)?;
    if !declined.is_empty() {
        tracing::info!(target: "replicate", peer = %from.short(), packs = declined.len(), "a holder does not take packs; others may");
        core.owning.decline(from, &declined);
        core.changed.notify_one();
    }
    if notice.refused() != HoldRefusal::HoldUnspecified && core.owning.refuse(from, notice.refused()) {
        let code = Code::ResourceExhausted.name().to_owned();
        let reason = refusal(notice.refused()).to_owned();
        tracing::warn!(target: "replicate", peer = %from.short(), code, reason, "a holder takes nothing more of this vault");
        core.tell(Happening::VaultRefused { peer: from, code, reason });
    }
    doubt(core, notice)?;
    let mut heads = 0;
    for id in notice.heads.iter().take(limit::VAULT_DEVICES_MAX) {
        let id = HeadId::try_from(id.as_slice()).map_err(malformed)?;
        heads += u64::from(engine::void_head_receipt(&core.store, from, id).map_err(failed)?);
    }
    if packs.is_empty() && notice.mended == 0 && heads == 0 {
        return Ok(None);
    }
    core.store.drop_pack_receipts(from, &packs).map_err(failed)?;
    let (mended, lost) = (notice.mended, packs.len() as u64);
    core.tell(Happening::HolderDamage { peer: from, mended, lost, heads });
    tracing::warn!(target: "audit", peer = %from.short(), mended, lost, heads, "a holder found damage on its disk");
    core.changed.notify_one();
    Ok(None)
}

/// Serves ranges of a pack, each cell checked before it is sent.
fn fetch(core: &Arc<Core>, from: PeerId, request: &wire::FetchRequest) -> wire::FetchResponse {
    let Ok(pack) = PackId::try_from(request.pack.as_slice()) else { return fetch_status(Status::Refused) };
    // Who is to prove that it has a pack does not get it here meanwhile.
    if core.store.holders_of(pack).is_ok_and(|all| all.contains(&from)) {
        if core.auditing.is_under_way(&from) {
            return fetch_status(Status::Busy);
        }
        core.auditing.suspect(from, pack);
    }
    match slices(core, pack, &request.ranges) {
        Ok(response) => response,
        Err(ServeError::Status(Status::NotFound) | ServeError::Store(_))
            if core.store.available().is_err() =>
        {
            fetch_status(Status::Unavailable)
        }
        Err(ServeError::Status(status)) => fetch_status(status),
        Err(ServeError::Store(StoreError::MissingPack(_))) => {
            log_failure(core.doubt_kept(&[pack]), "noting a lost pack");
            fetch_status(Status::NotFound)
        }
        Err(ServeError::Store(error)) if error.is_rot() => {
            tracing::warn!(target: "serve", pack = %pack.short(), "a pack here is damaged");
            core.doubt(pack);
            fetch_status(Status::Corrupt)
        }
        Err(ServeError::Store(error)) => {
            tracing::error!(target: "serve", %error, "reading a pack failed");
            fetch_status(Status::Busy)
        }
    }
}

enum ServeError {
    Status(Status),
    Store(StoreError),
}

impl From<StoreError> for ServeError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

fn slices(core: &Arc<Core>, pack: PackId, ranges: &[wire::Range]) -> Result<wire::FetchResponse, ServeError> {
    let row = core.store.pack_by_id(pack)?.ok_or(ServeError::Status(Status::NotFound))?;
    let file = core.store.open_pack(pack)?;
    let outboard = outboard(core, pack, row.bytes, &file)?;
    let mut response = wire::FetchResponse {
        status: Status::Ok.into(),
        pack_length: row.bytes,
        slices: Vec::with_capacity(ranges.len().min(limit::FETCH_RANGES_MAX)),
    };
    let mut left = limit::FETCH_BYTES_MAX as u64;
    for range in ranges {
        // Ranges over the pack's end are cut there: a caller may ask in whole cells.
        let length = range.length.min(row.bytes.saturating_sub(range.offset));
        let cells = CellRange::covering(range.offset, length, row.bytes);
        let cells = cells.ok_or(ServeError::Status(Status::Refused))?;
        let length = cells.length(row.bytes);
        left = left.checked_sub(length).ok_or(ServeError::Status(Status::Refused))?;
        let data = engine::read_sound(&file, pack, row.bytes, cells, &outboard)?;
        response.slices.push(wire::Slice {
            offset: cells.offset(),
            data: data.into(),
            proof: outboard.proof(cells),
        });
    }
    Ok(response)
}

/// The pack's outboard: from memory, from beside the pack, or made anew from the whole pack.
fn outboard(
    core: &Arc<Core>,
    pack: PackId,
    bytes: u64,
    file: &crate::store::PackFile,
) -> Result<Arc<Outboard>, ServeError> {
    let kept = &core.served.outboards;
    if let Some((_, found)) =
        kept.lock().expect("no panic while held").iter().find(|(known, _)| *known == pack)
    {
        return Ok(found.clone());
    }
    let length = usize::try_from(bytes).unwrap_or(usize::MAX);
    let outboard = match core.store.outboard(pack, length)? {
        Some(outboard) => outboard,
        None => {
            let (id, outboard) = Outboard::of(&file.read_all()?);
            if id != pack {
                return Err(ServeError::Store(StoreError::DamagedFile(pack.to_string())));
            }
            core.store.renew_outboard(pack, &outboard)?;
            outboard
        }
    };
    let outboard = Arc::new(outboard);
    let mut kept = kept.lock().expect("no panic while held");
    if kept.len() >= OUTBOARDS_MAX {
        kept.pop_front();
    }
    kept.push_back((pack, outboard.clone()));
    Ok(outboard)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recovery once asked for one record a message: at a thousand of them a holder's rate limit refused it.
    #[test]
    fn a_thousand_records_take_a_handful_of_answers() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(&dir.path().join("store")).unwrap();
        let record = |n: usize| {
            let mut bytes = vec![0; limit::RECORD_BYTES];
            bytes[..8].copy_from_slice(&n.to_le_bytes());
            (SnapshotId::new(*blake3::hash(&bytes).as_bytes()), bytes)
        };
        let records: Vec<(SnapshotId, Vec<u8>)> = (0..1000).map(record).collect();
        // One is damaged, one is not there.
        let kept: Vec<(SnapshotId, Vec<u8>)> =
            records.iter().filter(|(id, _)| *id != records[7].0).cloned().collect();
        store.publish_snapshots(&kept).unwrap();
        store.publish_snapshot(records[300].0, &records[301].1).unwrap();

        let mut left: Vec<Vec<u8>> = records.iter().map(|(id, _)| id.as_bytes().to_vec()).collect();
        let (mut answers, mut came, mut lacking) = (0, Vec::new(), Vec::new());
        while !left.is_empty() {
            let query = wire::RecordsQuery {
                vault: vec![1; 32],
                kind: RecordKind::RecordSnapshot.into(),
                ids: left.iter().take(limit::RECORDS_ASKED_MAX).cloned().collect(),
            };
            let batch = batch(&store, &query).unwrap();
            assert!(prost::Message::encoded_len(&batch) <= limit::RECORD_BATCH_BYTES_MAX);
            for (id, answer) in left.drain(..batch.records.len()).zip(batch.records) {
                match answer.status() {
                    Status::Ok => came.push((SnapshotId::try_from(id.as_slice()).unwrap(), answer.record)),
                    other => lacking.push((id, other)),
                }
            }
            answers += 1;
        }
        assert_eq!(answers, 4);
        let sound = |n: &usize| *n != 7 && *n != 300;
        let expected: Vec<_> = (0..1000).filter(sound).map(|n| records[n].clone()).collect();
        assert!(came == expected);
        let expected = [(7, Status::NotFound), (300, Status::Corrupt)];
        assert_eq!(lacking, expected.map(|(n, status)| (records[n].0.as_bytes().to_vec(), status)));
    }
}
