//! Fetching a head with all its records from a peer, for holders, for other devices of a vault, and for recovery.

use std::sync::Arc;

use super::core::Core;
use super::error::failed;
use super::serve::notice_twins;
use crate::api::ApiError;
use crate::base::{Code, HeadId, Moment, PeerId, VaultId, limit};
use crate::engine::{self, HeadNews};
use crate::net::Net;
use crate::snapshot::{Head, HeadSummary, PeerAddress};
use crate::wire::{self, RecordKind, Status, sync_request::Ask, sync_response::Answer};

fn odd(peer: PeerId, what: &str) -> ApiError {
    ApiError::new(Code::PeerMisbehaved, format!("{} {what}", peer.short()))
}

/// Something signed, in hex, as commands send it and published files keep it; at most `max` bytes are signed.
pub(super) fn signed_from_hex(text: &str, max: usize, what: &str) -> Result<wire::Signed, ApiError> {
    let malformed = || ApiError::new(Code::UsageInvalid, format!("this is no {what}"));
    let bytes = hex::decode(text).map_err(|_| malformed())?;
    wire::decode(&bytes, max + limit::SIGNED_BYTES).map_err(|_| malformed())
}

/// What a status that is not OK means.
pub(super) fn refused(peer: PeerId, status: Status) -> ApiError {
    let (code, what) = match status {
        Status::NotFound => (Code::ChunkNotFound, "does not have it"),
        Status::Corrupt => (Code::StorageCorrupted, "has it damaged"),
        Status::Busy => (Code::PeerBusy, "is busy"),
        Status::Full => (Code::StorageFull, "has no room left for us"),
        Status::Unsupported => (Code::PeerMisbehaved, "does not know this request (another version?)"),
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
    Ok(Known { heads: heads.map_err(failed)?, holders, revocations: list.revocations })
}

async fn record(
    net: &Net,
    peer: PeerId,
    vault: VaultId,
    kind: RecordKind,
    id: &[u8; 32],
) -> Result<Vec<u8>, ApiError> {
    let query = wire::RecordQuery { vault: vault.as_bytes().to_vec(), kind: kind.into(), id: id.to_vec() };
    match ask(net, peer, Ask::Record(query)).await? {
        Some(Answer::Record(bytes)) => Ok(bytes),
        _ => Err(odd(peer, "answered something else")),
    }
}

/// A head that a peer has, checked and not kept.
pub(super) async fn look_at_head(
    core: &Arc<Core>,
    net: &Net,
    peer: PeerId,
    vault: VaultId,
    want: HeadId,
) -> Result<Head, ApiError> {
    let bytes = record(net, peer, vault, RecordKind::RecordHead, want.as_bytes()).await?;
    core.blocking(move |core| engine::accept_head(&core.store, vault, want, &bytes).map_err(failed)).await
}

/// Fetches a head, its pack lists and its snapshot records; stores the records first and the head last.
pub(super) async fn pull_head(
    core: &Arc<Core>,
    net: &Net,
    peer: PeerId,
    vault: VaultId,
    want: HeadId,
) -> Result<(Head, HeadNews), ApiError> {
    let bytes = record(net, peer, vault, RecordKind::RecordHead, want.as_bytes()).await?;
    let (head, needs, bytes) = core
        .blocking(move |core| {
            let head = engine::accept_head(&core.store, vault, want, &bytes).map_err(failed)?;
            let needs = engine::missing_records(&core.store, &head).map_err(failed)?;
            Ok((head, needs, bytes))
        })
        .await?;
    for id in needs.lists {
        let bytes = record(net, peer, vault, RecordKind::RecordList, id.as_bytes()).await?;
        core.blocking(move |core| engine::store_list(&core.store, id, &bytes).map_err(failed)).await?;
    }
    for id in needs.snapshots {
        let bytes = record(net, peer, vault, RecordKind::RecordSnapshot, id.as_bytes()).await?;
        core.blocking(move |core| engine::store_snapshot(&core.store, id, &bytes).map_err(failed)).await?;
    }
    core.blocking(move |core| {
        let news = engine::adopt_head(&core.store, &head, &bytes).map_err(failed)?;
        Ok((head, news))
    })
    .await
}
