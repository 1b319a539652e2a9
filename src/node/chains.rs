//! Heads of this node's vault that others have: what is news is taken over, and branches of this device's own chain are joined.
//!
//! Its chain has branches when an old image of its disk came back into use, or a copy of it. What was signed before, or by the
//! copy, comes from holders, counts at once, and is joined with what is here before anything new is signed.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::core::Core;
use super::devices;
use super::error::failed;
use super::records::{Pull, heads_of};
use crate::api::{ApiError, Happening, Status, Verdict};
use crate::base::{Moment, PeerId, SnapshotId, VaultId, limit};
use crate::engine::{self, HeadNews};
use crate::net::Net;
use crate::snapshot::{Head, HeadName, HeadSummary};

/// Where it stands when this device last met a part of its own history that its disk did not have.
const FILE: &str = "joined.json";

/// What a disk that was put back, or copied, did not have, and got back.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Joined {
    time_ms: u64,
    /// Snapshots that were not listed here.
    snapshots: u64,
}

/// What holders say of this device's own chain.
#[derive(Default)]
pub(super) struct OwnChain {
    /// Heads that a holder still takes for branches of their own: the next head is to name them.
    open: Mutex<Vec<HeadName>>,
    /// Newest heads that holders had, and that are damaged there.
    hidden: Mutex<BTreeMap<PeerId, Vec<HeadSummary>>>,
}

impl OwnChain {
    fn open(&self) -> std::sync::MutexGuard<'_, Vec<HeadName>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, name: HeadName) {
        let mut open = self.open();
        if !open.contains(&name) && open.len() < limit::HEAD_SUPERSEDES_MAX {
            open.push(name);
        }
    }

    /// What a peer said last; few are remembered of each.
    fn note_hidden(&self, peer: PeerId, mut heads: Vec<HeadSummary>) {
        heads.truncate(limit::HEAD_BRANCHES_MAX);
        let mut hidden = self.hidden.lock().unwrap_or_else(PoisonError::into_inner);
        if heads.is_empty() {
            hidden.remove(&peer)
        } else {
            hidden.insert(peer, heads)
        };
    }

    pub(super) fn hidden(&self) -> Vec<(PeerId, HeadSummary)> {
        let hidden = self.hidden.lock().unwrap_or_else(PoisonError::into_inner);
        hidden.iter().flat_map(|(peer, heads)| heads.iter().map(|head| (*peer, *head))).collect()
    }
}

/// Of heads that are damaged somewhere, those that count and are nowhere else: what another peer has, or a later head carries
/// on, is missed by nobody. Blocking.
pub(super) fn missed(
    core: &Core,
    vault: VaultId,
    mut hidden: Vec<HeadSummary>,
) -> Result<Vec<HeadSummary>, ApiError> {
    hidden.sort_by_key(|head| (head.device, head.seq, head.id));
    hidden.dedup_by_key(|head| head.id);
    let revoked = engine::revocations(&core.store, vault).map_err(failed)?;
    let mut missed = Vec::new();
    for head in hidden.into_iter().filter(|head| revoked.admits(head.device, head.seq, head.id)) {
        let is_known = engine::is_known(&core.store, vault, &head).map_err(failed)?;
        missed.extend((!is_known).then_some(head));
    }
    Ok(missed)
}

/// Takes over heads of the vault that a peer has and this node does not: of other devices, or of this one if its own disk is
/// an old image, or could not read one.
///
/// # Errors
/// It could not be found out whether the peer has news of this device; of others it may be asked in the next round.
pub(super) async fn learn_heads(
    core: &Arc<Core>,
    net: &Net,
    peer: PeerId,
    vault: VaultId,
) -> Result<(), ApiError> {
    let theirs = heads_of(core, net, peer, vault).await?;
    devices::take(core, peer, Some(vault), theirs.revocations).await;
    core.own_chain.note_hidden(peer, theirs.unreadable);
    let mine: Vec<Head> = core
        .blocking(move |core| {
            engine::newest_heads(&core.store, vault).and_then(Iterator::collect).map_err(failed)
        })
        .await?;
    let me = core.key.peer_id();
    let own = mine.iter().find(|head| head.certificate.peer == me).cloned();
    let revoked = core.blocking(move |core| engine::revocations(&core.store, vault).map_err(failed)).await?;
    let is_of_own = |head: &HeadSummary| own.as_ref().is_some_and(|own| own.device() == head.device);
    let (of_own, of_others): (Vec<HeadSummary>, Vec<HeadSummary>) = theirs
        .heads
        .into_iter()
        .filter(|head| revoked.admits(head.device, head.seq, head.id))
        .partition(is_of_own);
    let told: Vec<HeadName> = of_own.iter().map(|head| (head.seq, head.id)).collect();
    let pull = Pull::new(core, net, peer, vault);
    for head in of_own {
        learn_one(core, &pull, peer, &mine, head).await?;
    }
    for head in of_others {
        if let Err(error) = learn_one(core, &pull, peer, &mine, head).await {
            tracing::debug!(target: "replicate", peer = %peer.short(), device = %head.device.short(), code = error.code, %error,
                "a head of another device could not be taken over");
        }
    }
    // Whoever has the newest head beside another one does not see that it carries that one on.
    let is_newest = |own: &Head| told.iter().any(|(_, id)| *id == own.id);
    if let Some(own) = own.filter(is_newest) {
        let named: HashSet<_> = own.carries_on().collect();
        let is_open = |name: &&HeadName| name.1 != own.id && !named.contains(&name.1);
        told.iter().filter(is_open).for_each(|name| core.own_chain.note(*name));
    }
    Ok(())
}

/// Takes over one head, if it is news. `mine`: those that counted here before.
async fn learn_one(
    core: &Arc<Core>,
    pull: &Pull<'_>,
    peer: PeerId,
    mine: &[Head],
    head: HeadSummary,
) -> Result<(), ApiError> {
    let vault = pull.vault;
    if core.blocking(move |core| engine::is_known(&core.store, vault, &head).map_err(failed)).await? {
        return Ok(());
    }
    let found = pull.look(head.id).await?;
    let is_own = found.head.certificate.peer == core.key.peer_id();
    let was_here = is_own && core.blocking(move |core| was_here(core, vault, &head)).await?;
    if is_own && !was_here {
        // First: once the head is here nothing tells any more that this disk did not have it.
        core.blocking(|core| core.store.doubt_all_holders().map_err(failed)).await?;
    }
    let (head, came) = pull.take(found).await?;
    if came == HeadNews::Known {
        return Ok(());
    }
    core.owning.note_heads();
    let before = mine.iter().find(|mine| mine.device() == head.device());
    if came == HeadNews::Mended || was_here {
        tracing::info!(target: "replicate", peer = %peer.short(), seq = head.draft.seq, "a lost head came back");
    } else if is_own {
        let before = before.cloned();
        core.blocking(move |core| note_rollback(core, &head, before.as_ref(), peer)).await?;
    } else {
        let nodes: Vec<PeerId> = mine.iter().map(|head| head.certificate.peer).collect();
        devices::meet_holders(core, &head, before, &nodes, peer).await?;
    }
    Ok(())
}

/// Whether a head of this device was on this disk as it is: its file is, damaged, or it is known to have been, which an older
/// image would not know. Blocking.
fn was_here(core: &Core, vault: VaultId, head: &HeadSummary) -> Result<bool, ApiError> {
    let name = (head.seq, head.id);
    Ok(core.store.head_names(vault, head.device).map_err(failed)?.contains(&name)
        || engine::was_here(&core.store, vault, head.device, name).map_err(failed)?)
}

/// Notes that a peer has a part of this device's own history that is not on its disk. Blocking.
fn note_rollback(core: &Arc<Core>, head: &Head, before: Option<&Head>, peer: PeerId) -> Result<(), ApiError> {
    let listed: HashSet<SnapshotId> =
        before.into_iter().flat_map(|head| head.draft.snapshots.iter().copied()).collect();
    let snapshots = head.draft.snapshots.iter().filter(|id| !listed.contains(id)).count() as u64;
    tracing::warn!(target: "replicate", peer = %peer.short(), seq = head.draft.seq, snapshots,
        ours = before.map_or(0, |head| head.draft.seq),
        "a holder has a head of this device that this disk has not: an old image or a copy of the disk is in use, or the file is gone");
    let known: Option<Joined> = core.store.read_state_if_sound(FILE).map_err(failed)?;
    let recent =
        known.filter(|known| core.now().since(Moment::from_millis(known.time_ms)) < limit::ROLLBACK_TOLD);
    let snapshots = recent.map_or(0, |known| known.snapshots) + snapshots;
    let joined = Joined { time_ms: core.now().as_millis(), snapshots };
    core.store.publish_state(FILE, &joined).map_err(failed)?;
    core.tell(Happening::HistoryRolledBack { device: head.device(), snapshots });
    Ok(())
}

/// Joins the branches of this device's chain, if it has several and the vault is open, and names what holders take for branches.
pub(super) async fn join(core: &Arc<Core>) -> Result<(), ApiError> {
    let Ok(vault) = core.vault() else { return Ok(()) };
    core.blocking(move |core| {
        let open: Vec<HeadName> = std::mem::take(&mut *core.own_chain.open());
        if engine::is_revoked(&vault).map_err(failed)? {
            return Ok(());
        }
        let holders = core.holder_addresses();
        match engine::join_branches(&vault, &open, &holders) {
            Ok(None) => Ok(()),
            Ok(Some(head)) => {
                tracing::info!(target: "replicate", seq = head.draft.seq, snapshots = head.draft.snapshots.len(),
                    "branches of this device's history are joined");
                core.changed.notify_one();
                Ok(())
            }
            Err(error) => {
                open.into_iter().for_each(|name| core.own_chain.note(name));
                Err(failed(error))
            }
        }
    })
    .await
}

/// What of the vault's history is in doubt, or was for a while.
pub(super) fn describe(core: &Core, vault: VaultId, status: &mut Status) -> Result<(), ApiError> {
    let mut lines = Vec::new();
    for head in engine::unreadable_heads(&core.store, vault).map_err(failed)? {
        lines.push(format!(
            "head {} of device {} cannot be read ({}): what it lists is not known here, and nothing is deleted until it comes back from a holder (`shadowvault repair`; if nobody has it any more, `shadowvault forget --lost {}`)",
            head.seq,
            head.device.short(),
            head.problem,
            head.id.short()
        ));
    }
    let allowed: HashSet<PeerId> = core.book().allowed.iter().map(|entry| entry.peer).collect();
    let told = core.own_chain.hidden().into_iter().filter(|(peer, _)| allowed.contains(peer));
    let told: Vec<(PeerId, HeadSummary)> = told.collect();
    for head in missed(core, vault, told.iter().map(|(_, head)| *head).collect())? {
        let at = told.iter().find(|(_, of)| of.id == head.id).map_or(String::new(), |(peer, _)| peer.short());
        lines.push(format!(
            "head {} of device {} is damaged at {at}, and is nowhere else: snapshots that only it lists are not known here until the device brings it again (`shadowvault device revoke {} --yes` gives it up)",
            head.seq,
            head.device.short(),
            head.device.short()
        ));
    }
    let mut devices = Vec::new();
    for head in engine::newest_heads(&core.store, vault).map_err(failed)? {
        devices.push(head.map_err(failed)?.device());
    }
    let branches = devices.len();
    devices.dedup();
    if devices.len() < branches {
        lines.push(
            "the history of a device has branches that are not joined yet: an old image or a copy of its disk is in use (`shadowvault device`)"
                .to_owned(),
        );
    }
    if !lines.is_empty() && status.verdict == Verdict::Ok {
        status.verdict = Verdict::AtRisk;
    }
    status.problems.extend(lines);
    let joined: Option<Joined> = core.store.read_state_if_sound(FILE).map_err(failed)?;
    if let Some(Joined { time_ms, snapshots }) = joined
        && core.now().since(Moment::from_millis(time_ms)) < limit::ROLLBACK_TOLD
    {
        let when = Moment::from_millis(time_ms).to_rfc3339();
        status.problems.push(format!(
            "this disk was without its own newest head until {when}: an old image or a copy of it was in use, or the file is gone; {snapshots} snapshots that it did not have were taken over from holders (`shadowvault snapshots`)"
        ));
    }
    Ok(())
}
