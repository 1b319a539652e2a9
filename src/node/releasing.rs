//! Releases of what holders keep beyond the newest heads, signed with the recovery phrase.
//!
//! The owner's node keeps the newest release (one for all holders, and one for each that was named) in a published file
//! and gives it to every member that connects, so that it reaches holders that were away. A holder notes it durably, and
//! looks at once what goes. What is not for it, or not signed by the admin key of the vault that it names, is refused. A
//! device that keeps packs for the other devices of its vault is a holder like any.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::core::{Core, log_failure};
use super::error::failed;
use super::records::{ask, signed_from_hex};
use super::upkeep;
use crate::api::{ApiError, HeldHead, Releasable, ReleaseReport};
use crate::base::{Code, PeerId, limit};
use crate::engine;
use crate::snapshot::{Head, Release};
use crate::wire::{self, sync_request::Ask};

const FILE: &str = "releases.json";

/// Releases of this node's vault, in hex, oldest first.
#[derive(Default, Serialize, Deserialize)]
struct Kept {
    releases: Vec<String>,
}

fn read(text: &str) -> Result<wire::Signed, ApiError> {
    signed_from_hex(text, limit::RELEASE_BYTES_MAX, "release")
}

/// What a release would name: this vault's heads as they are here.
pub(super) fn releasable(core: &Arc<Core>) -> Result<Releasable, ApiError> {
    let vault = core.vault_id().ok_or_else(|| {
        ApiError::new(Code::VaultNotFound, "this node has no vault whose holders keep anything")
    })?;
    let heads = engine::newest_heads(&core.store, vault).map_err(failed)?;
    let held = |head: Head| HeldHead { device: head.device(), seq: head.draft.seq, id: head.id };
    let heads = heads.map(|head| head.map(held)).collect::<Result<_, _>>().map_err(failed)?;
    Ok(Releasable { vault_id: vault, heads })
}

/// Takes a release from this node's owner, keeps it, and tells the holders that are connected.
pub(super) async fn publish(core: &Arc<Core>, text: String) -> Result<ReleaseReport, ApiError> {
    let signed = read(&text)?;
    let release = Release::verify(&signed).map_err(failed)?;
    if core.vault_id() != Some(release.vault) {
        return Err(ApiError::new(
            Code::InvalidSignature,
            "that phrase is of another vault than this node's",
        ));
    }
    let holder = release.holder;
    core.blocking(move |core| keep(core, &release, text)).await?;
    let mut report = ReleaseReport::default();
    let connected = core.connected();
    for peer in holders(core).await?.into_iter().filter(|peer| holder.is_none_or(|one| one == *peer)) {
        let told = match core.net() {
            Ok(net) if connected.contains(&peer) => {
                ask(net, peer, Ask::Release(signed.clone())).await.map(drop)
            }
            _ => Err(ApiError::new(Code::NetworkUnreachable, "not connected")),
        };
        match told {
            Ok(()) => report.told.push(peer),
            Err(error) => {
                tracing::debug!(target: "hold", peer = %peer.short(), code = error.code, %error, "did not take a release");
                report.waiting.push(peer);
            }
        }
    }
    Ok(report)
}

/// Peers that confirmed something of this vault.
async fn holders(core: &Arc<Core>) -> Result<Vec<PeerId>, ApiError> {
    core.blocking(|core| {
        let mut peers: Vec<PeerId> = Vec::new();
        let allowed: Vec<PeerId> = core.book().allowed.iter().map(|entry| entry.peer).collect();
        for (peer, ..) in core.store.head_receipts().map_err(failed)? {
            if allowed.contains(&peer) && !peers.contains(&peer) {
                peers.push(peer);
            }
        }
        Ok(peers)
    })
    .await
}

/// Keeps a release in the place of an earlier one for the same holders. Blocking.
fn keep(core: &Core, release: &Release, text: String) -> Result<(), ApiError> {
    let mut kept: Kept = core.store.read_state_if_sound(FILE).map_err(failed)?.unwrap_or_default();
    let same = |old: &String| {
        let old = read(old).ok().and_then(|signed| Release::verify(&signed).ok());
        // One for all replaces those for some.
        old.is_none_or(|old| release.holder.is_none() || old.holder == release.holder)
    };
    kept.releases.retain(|old| !same(old));
    if kept.releases.len() >= limit::RELEASES_MAX {
        kept.releases.remove(0);
    }
    kept.releases.push(text);
    core.store.publish_state(FILE, &kept).map_err(failed)?;
    if release.holder.is_none_or(|holder| holder == core.key.peer_id()) && keeps_for_devices(core)? {
        engine::note_release(&core.store, release).map_err(failed)?;
    }
    Ok(())
}

/// Whether packs of other devices of this node's vault are kept here for them; their files are `gc`'s.
fn keeps_for_devices(core: &Core) -> Result<bool, ApiError> {
    let Some(vault) = core.vault_id() else { return Ok(false) };
    Ok(!core.store.foreign_packs(vault).map_err(failed)?.is_empty())
}

/// Gives all releases to a member that connected; it knows which are for it.
pub(super) async fn tell(core: Arc<Core>, peer: PeerId) {
    let read_all = core.blocking(|core| {
        let kept: Kept = core.store.read_state_if_sound(FILE).map_err(failed)?.unwrap_or_default();
        Ok(kept.releases.iter().filter_map(|text| read(text).ok()).collect::<Vec<_>>())
    });
    let (Ok(releases), Ok(net)) = (read_all.await, core.net()) else { return };
    for signed in releases {
        let asked = tokio::select! {
            () = core.stop.cancelled() => return,
            asked = ask(net, peer, Ask::Release(signed)) => asked,
        };
        if let Err(error) = asked {
            // It is told again when it connects the next time.
            tracing::debug!(target: "hold", peer = %peer.short(), code = error.code, %error, "did not take a release");
        }
    }
}

/// Takes a release as a holder. Blocking.
pub(super) fn take(core: &Arc<Core>, from: PeerId, signed: &wire::Signed) -> Result<(), ApiError> {
    let release = Release::verify(signed).map_err(failed)?;
    if release.holder.is_some_and(|holder| holder != core.key.peer_id()) {
        return Err(ApiError::new(Code::UsageInvalid, "the release is for another holder"));
    }
    let vaults = core.store.head_vaults().map_err(failed)?;
    if core.vault_id() == Some(release.vault) && !keeps_for_devices(core)? {
        return Ok(());
    }
    if !vaults.contains(&release.vault) {
        return Err(ApiError::new(Code::VaultNotFound, "nothing is held for that vault"));
    }
    if engine::note_release(&core.store, &release).map_err(failed)? {
        tracing::info!(target: "hold", peer = %from.short(), vault = %release.vault.short(), "the hold was released with the vault's phrase");
        log_failure(upkeep::look(core, Duration::ZERO), "letting go what was released");
    }
    Ok(())
}
