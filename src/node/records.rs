//! Fetching a head with all its records from a peer, for holders, for other devices of a vault, and for recovery.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::core::Core;
use super::error::failed;
use super::holding::{Share, free_for, keep_records};
use super::serve::notice_twins;
use crate::api::ApiError;
use crate::base::{Code, HeadId, ListId, Moment, PeerId, SnapshotId, VaultId, format_duration, limit};
use crate::engine::{self, HeadNews, Needs};
use crate::net::{Net, NetError};
use crate::snapshot::{Head, HeadSummary, PeerAddress};
use crate::store::{StoreError, record_room};
use crate::wire::{self, Bound, RecordKind, Status, sync_request::Ask, sync_response::Answer};

/// How often a connection that broke is made anew for one request before that counts as an answer.
const BROKEN_MAX: u32 = 3;
/// How often something is asked of a peer that two machines pass for, until that counts as an answer: each time the other of
/// its connections may be taken.
const TWIN_TRIES: u32 = 6;
/// How often is said that something takes its time.
const TELL_EVERY: Duration = Duration::from_secs(2);

fn odd(peer: PeerId, what: &str) -> ApiError {
    ApiError::new(Code::PeerMisbehaved, format!("{} {what}", peer.short()))
}

/// Something signed, in hex, as commands send it and published files keep it; at most `max` bytes are signed.
pub(super) fn signed_from_hex(text: &str, max: usize, what: &str) -> Result<wire::Signed, ApiError> {
    let malformed = || ApiError::new(Code::UsageInvalid, format!("this is no {what}"));
    let bytes = hex::decode(text).map_err(|_| malformed())?;
    wire::decode(&bytes, Bound::new(max + limit::SIGNED_BYTES, limit::FIELDS_FEW)).map_err(|_| malformed())
}

/// Why a peer that does not know this node yet was not met. One that hung up is asked again: among many strangers somebody
/// has to make room.
pub(super) fn unmet(error: NetError) -> ApiError {
    let hung_up = error.is_hung_up();
    let mut error = failed(error);
    if hung_up && error.kind() != Code::ConnectionFailed {
        let text = format!("{}; it may be busy with others", error.message);
        error = ApiError::new(Code::ConnectionFailed, text).with_hint(error.hint.unwrap_or_default());
    }
    error
}

/// What a status that is not OK means.
pub(super) fn refused(peer: PeerId, status: Status) -> ApiError {
    let (code, what) = match status {
        Status::NotFound => (Code::ChunkNotFound, "does not have it"),
        Status::Corrupt => (Code::StorageCorrupted, "has it damaged"),
        Status::Busy => (Code::PeerBusy, "is busy"),
        Status::Full => (Code::StorageFull, "has no room left for us"),
        Status::Unsupported => (Code::PeerIncompatible, "does not know this request (another version?)"),
        _ => (Code::Unauthorized, "refuses"),
    };
    ApiError::new(code, format!("{} {what}", peer.short()))
}

/// One request to a member.
pub(super) async fn ask(net: &Net, peer: PeerId, ask: Ask) -> Result<Option<Answer>, ApiError> {
    let response = net.sync(peer, wire::SyncRequest { ask: Some(ask) }).await.map_err(failed)?;
    match response.status() {
        Status::Ok => Ok(response.answer),
        other => Err(refused(peer, other)),
    }
}

/// What a peer knows of a vault.
pub(super) struct Known {
    /// The newest head of each device.
    pub(super) heads: Vec<HeadSummary>,
    /// Who holds it, and where.
    pub(super) holders: Vec<PeerAddress>,
    /// Which devices count no more; not yet verified.
    pub(super) revocations: Vec<wire::Signed>,
    /// Newest heads that it had and that are damaged there.
    pub(super) unreadable: Vec<HeadSummary>,
}

/// What a peer knows of a vault now.
pub(super) async fn heads_of(
    core: &Core,
    net: &Net,
    peer: PeerId,
    vault: VaultId,
) -> Result<Known, ApiError> {
    heads_at(core, net, peer, vault, None).await
}

/// What a peer knows of a vault, with the heads that were its newest ones at a moment (now when absent).
pub(super) async fn heads_at(
    core: &Core,
    net: &Net,
    peer: PeerId,
    vault: VaultId,
    at: Option<Moment>,
) -> Result<Known, ApiError> {
    let at_ms = at.map_or(0, Moment::as_millis);
    let query =
        Ask::Heads(wire::HeadQuery { vault: vault.as_bytes().to_vec(), at_ms, instance: core.twins.me });
    let Some(Answer::Heads(list)) = ask(net, peer, query).await? else {
        return Err(odd(peer, "answered something else"));
    };
    notice_twins(core, peer, list.instance);
    if list.twins && core.twins.heed(peer, core.now()) {
        tracing::warn!(target: "peers", peer = %peer.short(), "another machine uses this node's identity, a peer says");
    }
    let heads = list.heads.iter().map(HeadSummary::from_wire).collect::<Result<_, _>>();
    let holders = list.holders.iter().filter_map(|holder| PeerAddress::from_wire(holder).ok()).collect();
    let unreadable = list.unreadable.iter().filter_map(|head| HeadSummary::from_wire(head).ok()).collect();
    Ok(Known { heads: heads.map_err(failed)?, holders, revocations: list.revocations, unreadable })
}

/// How long a peer that says "later" is asked again, and who is told that it is waited for.
pub(super) struct Patience<'a> {
    /// In all, for one request; a connection that broke is made again meanwhile. None is for ever.
    most: Option<Duration>,
    /// How often in a row one may break.
    broken_max: u32,
    tell: &'a (dyn Fn(&str) + Send + Sync),
}

impl Patience<'static> {
    /// Of a daemon: what it waits for comes up again by itself.
    pub(super) const SHORT: Self =
        Self { most: Some(limit::BUSY_WAIT), broken_max: BROKEN_MAX, tell: &|_| {} };
    /// Of one call that its caller makes again and again, telling why.
    pub(super) const CALL: Self =
        Self { most: Some(limit::JOIN_CALL), broken_max: BROKEN_MAX, tell: &|_| {} };
}

impl<'a> Patience<'a> {
    /// Of a command that a person waits for and can interrupt: as long as the peer answers at all.
    pub(super) fn endless(tell: &'a (dyn Fn(&str) + Send + Sync)) -> Self {
        Self { most: None, broken_max: BROKEN_MAX, tell }
    }

    /// For a peer that does not know this node yet: among many strangers its connection may be the one that has to make room.
    pub(super) fn at_the_door(&self) -> Self {
        Self { broken_max: limit::DOOR_TRIES, ..*self }
    }

    pub(super) fn tell(&self, what: &str) {
        (self.tell)(what);
    }

    /// Does something with a peer again and again, for as long as that is only put off. A connection that breaks counts as
    /// that a few times in a row.
    pub(super) async fn with<T, F: Future<Output = Result<T, ApiError>>>(
        &self,
        core: &Core,
        peer: PeerId,
        mut work: impl FnMut() -> F,
    ) -> Result<T, ApiError> {
        let (began, mut told, mut broken) = (Instant::now(), Instant::now(), 0);
        let mut twins = TwinTries::default();
        let mut pause = limit::BUSY_PAUSE;
        loop {
            let error = match work().await {
                Err(error) if error.kind() == Code::PeerBusy => {
                    broken = 0;
                    error
                }
                Err(error) if is_broken(&error) && broken < self.broken_max => {
                    broken += 1;
                    error
                }
                Err(error) if error.kind() == Code::ChunkNotFound && twins.again(core, peer) => error,
                other => return other,
            };
            if self.most.is_some_and(|most| began.elapsed() + pause > most) {
                return Err(error);
            }
            if told.elapsed() >= TELL_EVERY {
                let again = format_duration(pause.max(Duration::from_secs(1)));
                self.tell(&format!(
                    "waiting for {}: {}; trying again in {again}",
                    peer.short(),
                    error.message
                ));
                told = Instant::now();
            }
            tokio::select! {
                () = core.stop.cancelled() => return Err(error),
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(limit::BUSY_PAUSE_MAX),
            }
        }
    }
}

/// How often something was asked again of a peer that did not have it, as two machines pass for that peer: what one of them
/// does not have, the other may.
#[derive(Default)]
pub(super) struct TwinTries(u32);

impl TwinTries {
    /// Whether to ask once more.
    pub(super) fn again(&mut self, core: &Core, peer: PeerId) -> bool {
        let again = self.0 < TWIN_TRIES && core.twins.has_twin(peer, core.now());
        self.0 += u32::from(again);
        again
    }
}

/// A connection that went away; the next request makes another one.
fn is_broken(error: &ApiError) -> bool {
    error.kind() == Code::ConnectionFailed
}

/// One record of a peer, not yet checked.
pub(super) async fn record(
    core: &Core,
    net: &Net,
    peer: PeerId,
    (vault, kind): (VaultId, RecordKind),
    id: &[u8; 32],
    patience: &Patience<'_>,
) -> Result<Vec<u8>, ApiError> {
    let query = wire::RecordQuery { vault: vault.as_bytes().to_vec(), kind: kind.into(), id: id.to_vec() };
    match patience.with(core, peer, || ask(net, peer, Ask::Record(query.clone()))).await? {
        Some(Answer::Record(bytes)) => Ok(bytes),
        _ => Err(odd(peer, "answered something else")),
    }
}

/// Records of one kind that are asked of one peer, many a message.
pub(super) struct Errand {
    vault: VaultId,
    kind: RecordKind,
    /// Not asked for yet.
    left: VecDeque<[u8; 32]>,
    /// What the peer does not have, or has damaged.
    lacking: Vec<([u8; 32], Status)>,
    /// In one message: fewer over a line that is too slow for many.
    most: usize,
    /// The peer is of a version that knows no batches.
    singly: bool,
    /// Messages that brought nothing.
    twins: TwinTries,
}

impl Errand {
    pub(super) fn new(vault: VaultId, kind: RecordKind, ids: impl IntoIterator<Item = [u8; 32]>) -> Self {
        let (left, most) = (ids.into_iter().collect(), limit::RECORDS_ASKED_MAX);
        Self { vault, kind, left, lacking: Vec::new(), most, singly: false, twins: TwinTries::default() }
    }

    /// How many are still to be asked for.
    pub(super) fn left(&self) -> usize {
        self.left.len()
    }

    /// That all came.
    fn complete(self, peer: PeerId) -> Result<(), ApiError> {
        self.lacking.first().map_or(Ok(()), |(_, status)| Err(refused(peer, *status)))
    }

    /// The records of the next message, each being what its id says; `None` when all were asked for.
    pub(super) async fn next(
        &mut self,
        core: &Core,
        net: &Net,
        peer: PeerId,
        patience: &Patience<'_>,
    ) -> Result<Option<Vec<([u8; 32], Vec<u8>)>>, ApiError> {
        if self.left.is_empty() {
            return Ok(None);
        }
        let (asked, answers) = loop {
            let asked: Vec<[u8; 32]> = self.left.iter().take(self.most).copied().collect();
            match self.ask(core, net, peer, &asked, patience).await {
                Err(error) if error.kind() == Code::NetworkTimeout && asked.len() > 1 => {
                    self.most = asked.len().div_ceil(4);
                }
                Err(error) if error.kind() == Code::PeerIncompatible && !self.singly => {
                    (self.singly, self.most) = (true, 1);
                }
                answers => break (asked, answers?),
            }
        };
        if answers.is_empty() || answers.len() > asked.len() {
            return Err(odd(peer, "answered something else"));
        }
        self.left.drain(..answers.len());
        let (mut came, mut absent) = (Vec::with_capacity(answers.len()), Vec::new());
        for (id, answer) in asked.into_iter().zip(answers) {
            match answer.status() {
                Status::Ok if *blake3::hash(&answer.record).as_bytes() == id => {
                    core.holding.give(peer, answer.record.len() as u64);
                    came.push((id, answer.record))
                }
                Status::Ok => {
                    core.blame(peer);
                    return Err(odd(peer, "sent another record than was asked for"));
                }
                Status::NotFound => absent.push(id),
                other => self.lacking.push((id, other)),
            }
        }
        // Where something came, something else may come from the other one.
        let twins = if came.is_empty() { &mut self.twins } else { &mut TwinTries::default() };
        if !absent.is_empty() && twins.again(core, peer) {
            self.left.extend(absent);
        } else {
            self.lacking.extend(absent.into_iter().map(|id| (id, Status::NotFound)));
        }
        Ok(Some(came))
    }

    /// One message's answers, not yet checked.
    async fn ask(
        &self,
        core: &Core,
        net: &Net,
        peer: PeerId,
        ids: &[[u8; 32]],
        patience: &Patience<'_>,
    ) -> Result<Vec<wire::RecordAnswer>, ApiError> {
        if let (true, [id]) = (self.singly, ids) {
            let (status, record) = match record(core, net, peer, (self.vault, self.kind), id, patience).await
            {
                Ok(record) => (Status::Ok, record),
                Err(error) if error.kind() == Code::ChunkNotFound => (Status::NotFound, Vec::new()),
                Err(error) if error.kind() == Code::StorageCorrupted => (Status::Corrupt, Vec::new()),
                Err(error) => return Err(error),
            };
            return Ok(vec![wire::RecordAnswer { status: status.into(), record }]);
        }
        let query = wire::RecordsQuery {
            vault: self.vault.as_bytes().to_vec(),
            kind: self.kind.into(),
            ids: ids.iter().map(|id| id.to_vec()).collect(),
        };
        match patience.with(core, peer, || ask(net, peer, Ask::Batch(query.clone()))).await? {
            Some(Answer::Batch(batch)) => Ok(batch.records),
            _ => Err(odd(peer, "answered something else")),
        }
    }
}

/// Heads of a vault that a peer has.
pub(super) struct Pull<'a> {
    core: &'a Arc<Core>,
    net: &'a Net,
    peer: PeerId,
    pub(super) vault: VaultId,
    patience: &'a Patience<'a>,
    /// Who is charged with what comes, and in whose room it has to fit; nobody of the own vault.
    payer: Option<PeerId>,
}

/// A head that a peer has, checked and not kept.
pub(super) struct Found {
    pub(super) head: Head,
    bytes: Vec<u8>,
}

impl<'a> Pull<'a> {
    pub(super) fn new(core: &'a Arc<Core>, net: &'a Net, peer: PeerId, vault: VaultId) -> Self {
        Self { core, net, peer, vault, patience: &Patience::SHORT, payer: None }
    }

    pub(super) fn paid_by(self, payer: Option<PeerId>) -> Self {
        Self { payer, ..self }
    }

    pub(super) fn with(self, patience: &'a Patience<'a>) -> Self {
        Self { patience, ..self }
    }

    /// Fetches a head alone, whether or not it counts: only to be told of.
    pub(super) async fn peek(&self, want: HeadId) -> Result<Head, ApiError> {
        let what = (self.vault, RecordKind::RecordHead);
        let bytes = record(self.core, self.net, self.peer, what, want.as_bytes(), self.patience).await?;
        engine::check_head(self.vault, want, &bytes).map_err(failed)
    }

    /// Fetches a head alone.
    pub(super) async fn look(&self, want: HeadId) -> Result<Found, ApiError> {
        let what = (self.vault, RecordKind::RecordHead);
        let bytes = record(self.core, self.net, self.peer, what, want.as_bytes(), self.patience).await?;
        let vault = self.vault;
        self.core
            .blocking(move |core| {
                let head = engine::accept_head(&core.store, vault, want, &bytes).map_err(failed)?;
                Ok(Found { head, bytes })
            })
            .await
    }

    /// Fetches what a head names, and stores the head last. What came before an error stays, and is not asked for again.
    pub(super) async fn take(&self, found: Found) -> Result<(Head, HeadNews), ApiError> {
        let (found, lists, snapshots) = self.records(found).await?;
        lists.complete(self.peer)?;
        snapshots.complete(self.peer)?;
        self.adopt(found).await
    }

    /// A head and what it names.
    pub(super) async fn pull(&self, want: HeadId) -> Result<(Head, HeadNews), ApiError> {
        self.take(self.look(want).await?).await
    }

    /// The same where some of them are nowhere: how many pieces of pack lists lack, and how many snapshot records.
    pub(super) async fn pull_without(&self, want: HeadId) -> Result<(usize, usize), ApiError> {
        let (found, lists, snapshots) = self.records(self.look(want).await?).await?;
        self.adopt(found).await.map(|_| (lists.lacking.len(), snapshots.lacking.len()))
    }

    async fn adopt(&self, Found { head, bytes }: Found) -> Result<(Head, HeadNews), ApiError> {
        let (vault, payer) = (self.vault, self.payer);
        self.core
            .blocking(move |core| {
                let mut news = None;
                if let Some(payer) = payer {
                    // What was here already, for another vault or since a crash, is kept for this one as well.
                    let charges = engine::charges_of(&core.store, &head).map_err(failed)?;
                    let here = (vault, Some(payer));
                    keep_records(core, here, Share::Content, &charges, || Ok(())).map_err(failed)?;
                }
                let own = [(*head.id.as_bytes(), bytes.len() as u64)];
                let store = || {
                    news = Some(engine::adopt_head(&core.store, &head, &bytes)?);
                    Ok(())
                };
                keep_records(core, (vault, payer), Share::All, &own, store).map_err(failed)?;
                Ok((head, news.expect("it was stored")))
            })
            .await
    }

    /// Stores those of a head's pack lists and snapshot records that the peer has.
    async fn records(&self, found: Found) -> Result<(Found, Errand, Errand), ApiError> {
        let (core, net, peer, patience) = (self.core, self.net, self.peer, self.patience);
        let (vault, payer) = (self.vault, self.payer);
        let (found, needs) = core
            .blocking(move |core| {
                engine::check_counts(&core.store, &found.head).map_err(failed)?;
                let needs = engine::missing_records(&core.store, &found.head).map_err(failed)?;
                if let Some(payer) = payer {
                    has_room(core, payer, &found.head, &needs, found.bytes.len())?;
                }
                Ok((found, needs))
            })
            .await?;
        let lists = needs.lists.iter().map(|id| *id.as_bytes());
        let mut lists = Errand::new(self.vault, RecordKind::RecordList, lists);
        while let Some(came) = lists.next(core, net, peer, patience).await? {
            let keep = move |core: &Arc<Core>| {
                let charged: Vec<_> = came.iter().map(|(id, bytes)| (*id, bytes.len() as u64)).collect();
                let store = || {
                    let mut lists = came.iter();
                    lists.try_for_each(|(id, bytes)| engine::store_list(&core.store, ListId::new(*id), bytes))
                };
                keep_records(core, (vault, payer), Share::All, &charged, store).map_err(failed)
            };
            core.blocking(keep).await?;
        }
        let (count, mut told) = (needs.snapshots.len(), Instant::now());
        let snapshots = needs.snapshots.iter().map(|id| *id.as_bytes());
        let mut snapshots = Errand::new(self.vault, RecordKind::RecordSnapshot, snapshots);
        while let Some(came) = snapshots.next(core, net, peer, patience).await? {
            let records =
                came.into_iter().map(|(id, bytes)| (SnapshotId::new(id), bytes)).collect::<Vec<_>>();
            let keep = move |core: &Arc<Core>| {
                let charged: Vec<_> =
                    records.iter().map(|(id, bytes)| (*id.as_bytes(), bytes.len() as u64)).collect();
                let store = || engine::store_snapshots(&core.store, &records);
                keep_records(core, (vault, payer), Share::Content, &charged, store).map_err(failed)
            };
            core.blocking(keep).await?;
            if told.elapsed() >= TELL_EVERY {
                patience.tell(&format!("{} of {count} snapshot records are here", count - snapshots.left()));
                told = Instant::now();
            }
        }
        Ok((found, lists, snapshots))
    }
}

/// Whether there is room for what a head names and what is not here, before any of it is asked for. Blocking.
fn has_room(core: &Core, payer: PeerId, head: &Head, needs: &Needs, bytes: usize) -> Result<(), ApiError> {
    let lists = head.draft.lists.iter().filter(|list| needs.lists.contains(&list.id));
    let lists: u64 =
        lists.map(|list| record_room(limit::LIST_ENTRY_BYTES as u64 * u64::from(list.packs))).sum();
    let snapshots = needs.snapshots.len() as u64 * record_room(limit::RECORD_BYTES as u64);
    let heads = record_room(bytes as u64) + lists;
    let free = |share| free_for(core, payer, share).map_err(failed);
    let fits =
        heads + snapshots <= free(Share::All)? && (snapshots == 0 || snapshots <= free(Share::Content)?);
    if fits { Ok(()) } else { Err(failed(StoreError::NotLent)) }
}
