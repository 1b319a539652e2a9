//! The devices of a vault among each other: who they are, whose holders they share, which of them count no more.
//!
//! Another device's head is trusted as far as its certificate goes: the holders that it has gained are allowed here as well
//! (one that the owner removed here stays away until it is gained anew), and their doors open to this device's own
//! certificate. A revocation is taken from anyone, since the admin key signed it; it is told to whoever keeps the vault.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::chains;
use super::core::Core;
use super::door;
use super::error::failed;
use super::records::{Pull, heads_at, signed_from_hex};
use crate::api::{ApiError, DeviceHead, DeviceInfo, Happening, RevokedDevice};
use crate::base::{Code, DeviceId, Moment, PeerId, VaultId, limit};
use crate::engine::{self, Revocations};
use crate::net::Net;
use crate::snapshot::{Head, HeadSummary, PeerAddress, Revocation, open_device_name};
use crate::store::{PeerEntry, Word};
use crate::wire::{self, Status};

/// A door that did not open is tried again after this.
const KNOCK_PAUSE: Duration = Duration::from_secs(60);
/// How often is looked for doors; costs nothing where there are none.
const KNOCK_LOOK: Duration = Duration::from_secs(1);

/// When this device last knocked at the door of each peer.
#[derive(Default)]
pub(super) struct Knocks {
    last: Mutex<HashMap<PeerId, Instant>>,
}

impl Knocks {
    /// Of these peers, those whose turn it is; it counts as taken.
    fn due(&self, peers: Vec<PeerId>) -> Vec<PeerId> {
        let mut last = self.last.lock().expect("no panic while held");
        last.retain(|_, when| when.elapsed() < KNOCK_PAUSE);
        let due: Vec<PeerId> = peers.into_iter().filter(|peer| !last.contains_key(peer)).collect();
        last.extend(due.iter().map(|peer| (*peer, Instant::now())));
        due
    }
}

// ---- Holders in common -------------------------------------------------------------------------------------

/// Allows a holder of the vault that another device told of. It gets nothing stored here unless it is a device itself.
///
/// Where it is is that device's word: a stolen one could have named what only this node can reach. It is looked at as a word
/// of whoever brought it, who was seen at `seen_at`.
pub(super) async fn allow_holder(
    core: &Arc<Core>,
    holder: &PeerAddress,
    seen_at: Option<IpAddr>,
    is_device: bool,
) -> Result<(), ApiError> {
    let told = PeerEntry::told(holder.peer, core.now(), &holder.addresses, seen_at);
    let entry = PeerEntry { quota: (!is_device).then_some(0), ..told };
    core.admit(entry, Word::Proof).await
}

/// Allows the holders that another device has gained since its head before this one, which came `from` somebody.
pub(super) async fn meet_holders(
    core: &Arc<Core>,
    head: &Head,
    before: Option<&Head>,
    devices: &[PeerId],
    from: PeerId,
) -> Result<(), ApiError> {
    let gained: Vec<PeerAddress> = {
        let book = core.book();
        let was_there =
            |peer: PeerId| before.is_some_and(|head| head.draft.holders.iter().any(|h| h.peer == peer));
        let is_new = |holder: &&PeerAddress| {
            holder.peer != core.key.peer_id()
                && !was_there(holder.peer)
                && book.find(holder.peer).is_none()
                && !book.bars(holder.peer, Word::Proof)
        };
        head.draft.holders.iter().filter(is_new).cloned().collect()
    };
    let seen_at = core.net()?.seen_at(from);
    for holder in gained {
        tracing::info!(target: "devices", peer = %holder.peer.short(), device = %head.device().short(),
            "allowed: another device of the vault keeps copies there");
        allow_holder(core, &holder, seen_at, devices.contains(&holder.peer)).await?;
    }
    Ok(())
}

/// Looks again and again for doors that may open to this device's certificate.
pub(super) async fn knock_loop(core: Arc<Core>) {
    let Ok(net) = core.net().cloned() else { return };
    loop {
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = tokio::time::sleep(KNOCK_LOOK) => {}
        }
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = knock(&core, &net) => {}
        }
    }
}

/// Shows this device's certificate to peers that are connected but do not list this node: a holder of the vault then does.
async fn knock(core: &Arc<Core>, net: &Net) {
    let Ok(vault) = core.vault() else { return };
    let states = net.peers();
    let waits = states.iter().filter(|state| state.connected && state.member && !state.serves_us);
    for peer in core.knocks.due(waits.map(|state| state.id).collect()) {
        let shown = net.door(peer, door::present(vault.id(), &vault.keyring.certificate)).await;
        match shown {
            Ok(answer) if answer.status() == Status::Ok && answer.admitted => {
                tracing::info!(target: "devices", peer = %peer.short(), "let in by this device's certificate");
                // It connects anew, with all rights; which side dials does not matter.
                let _ = net.dial(peer, &[]).await;
                core.changed.notify_one();
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(target: "devices", peer = %peer.short(), %error, "its door stayed shut");
            }
        }
    }
}

// ---- Revocations ------------------------------------------------------------------------------------------

/// Takes a revocation from this node's owner, and passes it on; the device as it is listed then.
pub(super) async fn revoke(core: &Arc<Core>, name: String, record: String) -> Result<DeviceInfo, ApiError> {
    let signed = signed_from_hex(&record, limit::REVOCATION_BYTES_MAX, "revocation")?;
    let revocation = Revocation::verify(&signed).map_err(failed)?;
    if core.vault_id() != Some(revocation.vault) {
        let text = "the revocation is signed for another vault";
        return Err(ApiError::new(Code::InvalidKey, text).with_hint("is it this vault's phrase?"));
    }
    let listed = core.blocking(list).await?;
    let device = DeviceInfo::find(&listed, &name)?.id;
    if device != revocation.device {
        return Err(ApiError::new(Code::UsageInvalid, "the revocation names another device"));
    }
    keep(core, signed, None, Some(revocation.vault)).await?;
    let listed = core.blocking(list).await?;
    listed.into_iter().find(|info| info.id == device).ok_or_else(|| DeviceInfo::not_found(&name, &[]))
}

/// Takes revocations from a member: of the vault `of`, or of any that is kept here; what is news goes on to the others.
pub(super) async fn take(
    core: &Arc<Core>,
    from: PeerId,
    of: Option<VaultId>,
    revocations: Vec<wire::Signed>,
) {
    // Said once for all: a member may send many that are refused.
    let (mut refused, mut last) = (0, None);
    for signed in revocations.into_iter().take(limit::VAULT_DEVICES_MAX) {
        if let Err(error) = keep(core, signed, Some(from), of).await {
            refused += 1;
            last = Some(error);
        }
    }
    if let Some(error) = last {
        tracing::warn!(target: "devices", peer = %from.short(), refused, code = error.code, %error, "refused revocations");
    }
}

/// Keeps a revocation of the vault `of`, or of any that is kept here; passes it on when it is news.
async fn keep(
    core: &Arc<Core>,
    signed: wire::Signed,
    from: Option<PeerId>,
    of: Option<VaultId>,
) -> Result<(), ApiError> {
    let revocation = Revocation::verify(&signed).map_err(failed)?;
    if revocation.time.since(core.now()) > limit::PEER_RECORD_AHEAD {
        let text = "the revocation's time lies in the future: see the clocks";
        return Err(ApiError::new(Code::UsageInvalid, text));
    }
    let news = core
        .blocking(move |core| {
            let concerns_us = match of {
                Some(vault) => vault == revocation.vault,
                None => core.store.head_vaults().map_err(failed)?.contains(&revocation.vault),
            };
            if !concerns_us {
                return Ok(None);
            }
            let _one = core.revoking.lock().expect("no panic while held");
            engine::keep_revocation(&core.store, &signed).map_err(failed)
        })
        .await?;
    let Some(revocation) = news else { return Ok(()) };
    let (device, vault) = (revocation.device, revocation.vault);
    tracing::warn!(target: "devices", device = %device.short(), vault = %vault.short(), "a device was revoked");
    core.tell(Happening::DeviceRevoked { device });
    core.changed.notify_one();
    for peer in core.connected().into_iter().filter(|peer| Some(*peer) != from) {
        core.tasks.spawn(super::acl::tell(core.clone(), peer));
    }
    Ok(())
}

/// What a member is to be told: of this node's own vault everything, of others what concerns who takes part in them.
/// Which vaults there are is nobody else's business.
pub(super) fn revocations_for(core: &Core, peer: PeerId) -> Result<Vec<wire::Signed>, ApiError> {
    let mut out: Vec<wire::Signed> = Vec::new();
    for vault in core.store.head_vaults().map_err(failed)? {
        let known = engine::revocations(&core.store, vault).map_err(failed)?;
        if known.is_empty() {
            continue;
        }
        if core.vault_id() == Some(vault) || takes_part(core, vault, peer)? {
            out.extend(known.signed());
        }
    }
    out.truncate(limit::VAULT_DEVICES_MAX);
    Ok(out)
}

fn takes_part(core: &Core, vault: VaultId, peer: PeerId) -> Result<bool, ApiError> {
    for device in core.store.head_devices(vault).map_err(failed)? {
        let head = engine::any_head(&core.store, vault, device).map_err(failed)?;
        let concerns = |head: Head| {
            head.certificate.peer == peer || head.draft.holders.iter().any(|holder| holder.peer == peer)
        };
        if head.is_some_and(concerns) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether this node's own device was revoked, and when. Needs no key.
pub(super) fn own_revocation(core: &Core) -> Result<Option<Revocation>, ApiError> {
    let Some(vault) = core.vault_id() else { return Ok(None) };
    let known = engine::revocations(&core.store, vault).map_err(failed)?;
    if known.is_empty() {
        return Ok(None);
    }
    let me = core.key.peer_id();
    for device in core.store.head_devices(vault).map_err(failed)? {
        let mine = engine::any_head(&core.store, vault, device).map_err(failed)?;
        if mine.is_some_and(|head| head.certificate.peer == me) {
            return Ok(known.of(device).cloned());
        }
    }
    Ok(None)
}

/// Nodes of the vault's revoked devices: they may be in anybody's hands.
pub(super) fn revoked_peers(core: &Core) -> Result<HashSet<PeerId>, ApiError> {
    let Some(vault) = core.vault_id() else { return Ok(HashSet::new()) };
    let mut peers = HashSet::new();
    for revocation in engine::revocations(&core.store, vault).map_err(failed)?.iter() {
        let head = engine::any_head(&core.store, vault, revocation.device).map_err(failed)?;
        peers.extend(head.map(|head| head.certificate.peer));
    }
    Ok(peers)
}

/// As heir of a revoked device, carries on what it had, once all of that is known here.
pub(super) async fn inherit(core: &Arc<Core>) -> Result<(), ApiError> {
    let Ok(vault) = core.vault() else { return Ok(()) };
    let carried = core
        .blocking(move |core| {
            let holders = core.holder_addresses();
            engine::inherit(&vault, &holders).map_err(failed)
        })
        .await?;
    for device in carried {
        tracing::info!(target: "devices", device = %device.short(), "carrying on what a revoked device had");
        core.changed.notify_one();
    }
    Ok(())
}

// ---- Listing ----------------------------------------------------------------------------------------------

fn own_vault(core: &Core) -> Result<VaultId, ApiError> {
    core.vault_id().ok_or_else(|| {
        ApiError::new(Code::VaultNotFound, "this node only stores for others: it has no vault and no devices")
    })
}

/// All devices of the vault, with their newest heads that count.
fn list(core: &Arc<Core>) -> Result<Vec<DeviceInfo>, ApiError> {
    let heads = engine::newest_heads(&core.store, own_vault(core)?);
    let heads: Vec<Head> = heads.and_then(Iterator::collect).map_err(failed)?;
    list_with(core, &heads, &[])
}

/// All devices of the vault; with `before`, their heads as they were at that moment, here or at a holder that is connected:
/// a device that was made later knows nothing of that time. What was revoked since is told as it was, so that a later word
/// can undo an earlier one; of a moment to come, only what counts is.
pub(super) async fn list_at(core: &Arc<Core>, before: Option<Moment>) -> Result<Vec<DeviceInfo>, ApiError> {
    let Some(at) = before else { return core.blocking(list).await };
    let vault = own_vault(core)?;
    let mut heads = core
        .blocking(move |core| {
            let heads = match at > core.now() {
                true => engine::last_heads(&core.store, vault),
                false => engine::heads_at(&core.store, vault, at),
            };
            heads.and_then(Iterator::collect::<Result<Vec<_>, _>>).map_err(failed)
        })
        .await?;
    let mut hidden: Vec<HeadSummary> = match at > core.now() {
        true => core.own_chain.hidden().into_iter().map(|(_, head)| head).collect(),
        false => Vec::new(),
    };
    if let Ok(net) = core.net() {
        for peer in core.connected() {
            match heads_of_holder(core, net, peer, (vault, at), &heads).await {
                Ok((more, unreadable)) => {
                    heads.extend(more);
                    hidden.extend(unreadable);
                }
                Err(error) => {
                    tracing::debug!(target: "devices", peer = %peer.short(), code = error.code, %error, "it tells nothing of that time");
                }
            }
        }
    }
    core.blocking(move |core| {
        let hidden = chains::missed(core, vault, hidden)?;
        list_with(core, &heads, &hidden)
    })
    .await
}

/// Heads of a vault that were a holder's newest ones at a moment, those newer than what is `known` of that time; and which
/// newest ones are damaged there.
async fn heads_of_holder(
    core: &Arc<Core>,
    net: &Net,
    holder: PeerId,
    (vault, at): (VaultId, Moment),
    known: &[Head],
) -> Result<(Vec<Head>, Vec<HeadSummary>), ApiError> {
    let mut more = Vec::new();
    let theirs = heads_at(core, net, holder, vault, Some(at)).await?;
    for head in theirs.heads.into_iter().take(limit::VAULT_DEVICES_MAX) {
        let mut is_known =
            known.iter().any(|mine| mine.id == head.id || mine.carries_on().any(|id| id == head.id));
        if at > core.now() {
            let counts = move |core: &Arc<Core>| {
                let revoked = engine::revocations(&core.store, vault).map_err(failed)?;
                Ok(revoked.admits(head.device, head.seq, head.id)
                    && !engine::is_known(&core.store, vault, &head).map_err(failed)?)
            };
            is_known = is_known || !core.blocking(counts).await?;
        }
        if !is_known {
            more.push(Pull::new(core, net, holder, vault).peek(head.id).await?);
        }
    }
    Ok((more, theirs.unreadable))
}

/// `hidden`: heads that are damaged wherever they are known.
fn list_with(core: &Arc<Core>, heads: &[Head], hidden: &[HeadSummary]) -> Result<Vec<DeviceInfo>, ApiError> {
    let vault = own_vault(core)?;
    let revoked = engine::revocations(&core.store, vault).map_err(failed)?;
    let mut devices: BTreeSet<DeviceId> =
        core.store.head_devices(vault).map_err(failed)?.into_iter().collect();
    devices.extend(revoked.iter().map(|revocation| revocation.device));
    let mut out = Vec::new();
    for device in devices {
        let mut info = describe(core, vault, device, heads, &revoked)?;
        info.hidden = hidden.iter().filter(|head| head.device == device).count() as u64;
        out.push(info);
    }
    out.sort_by(|a, b| (!a.this, &a.name, a.id).cmp(&(!b.this, &b.name, b.id)));
    Ok(out)
}

fn describe(
    core: &Arc<Core>,
    vault: VaultId,
    device: DeviceId,
    heads: &[Head],
    revoked: &Revocations,
) -> Result<DeviceInfo, ApiError> {
    let known = engine::any_head(&core.store, vault, device).map_err(failed)?;
    let certificate = known.as_ref().map(|head| &head.certificate);
    let open = core.vault().ok();
    let name = open.zip(certificate).and_then(|(open, it)| open_device_name(it, &open.keyring.vault));
    let peer = certificate.map(|certificate| certificate.peer);
    let this = peer == Some(core.key.peer_id());
    let connected = this || peer.is_some_and(|peer| core.connected().contains(&peer));
    let of_device = || heads.iter().filter(|head| head.device() == device);
    let is_tip = |head: &&Head| !of_device().any(|other| other.carries_on().any(|id| id == head.id));
    let mut tips: Vec<&Head> = of_device().filter(is_tip).collect();
    tips.sort_by_key(|head| std::cmp::Reverse((head.draft.seq, head.id)));
    tips.dedup_by_key(|head| head.id);
    let told = |head: &&Head| DeviceHead {
        seq: head.draft.seq,
        id: head.id,
        time: head.draft.time.to_rfc3339(),
        snapshots: head.draft.snapshots.len() as u64,
    };
    let stored = match &known {
        None => None,
        Some(head) => core.store.head_stored_at(vault, device, head.draft.seq, head.id).map_err(failed)?,
    };
    let met = peer.and_then(|peer| core.book().find(peer).and_then(|entry| entry.last_seen));
    let seen = if connected { Some(core.now()) } else { met.max(stored) };
    let carried_on = heads.iter().find(|head| revoked.is_carried_on(device, head)).map(Head::device);
    Ok(DeviceInfo {
        id: device,
        name: name.unwrap_or_else(|| device.short()),
        this,
        role: "writer".to_owned(),
        peer,
        head: tips.first().map(told),
        branches: tips.iter().skip(1).map(told).collect(),
        hidden: 0,
        connected,
        last_seen: seen.map(Moment::to_rfc3339),
        revoked: revoked.of(device).map(|revocation| RevokedDevice {
            time: revocation.time.to_rfc3339(),
            last_good: revocation.last_good.first().map(|(seq, _)| *seq),
            heads: revocation.last_good.clone(),
            heir: revocation.heir,
        }),
        carried_on_by: carried_on,
    })
}

/// The device of the vault with this name, or beginning of an id, that has a head which counts. Blocking.
pub(super) fn find(core: &Arc<Core>, name: &str) -> Result<DeviceId, ApiError> {
    let mut devices = list(core)?;
    devices.retain(|device| device.head.is_some());
    Ok(DeviceInfo::find(&devices, name)?.id)
}
