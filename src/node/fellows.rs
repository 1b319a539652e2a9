//! Holders of one vault look after each other: each asks the others for random slices of what it keeps itself.
//!
//! A holder does not know which packs another one confirmed, so what it finds proves nothing to it. It tells the owner,
//! who asks for the doubted packs itself if it has receipts of them ([`Auditing::suspect`](super::auditing::Auditing)).

use std::collections::HashSet;
use std::sync::Arc;

use tokio::time::Instant;

use super::auditing::ask_for;
use super::core::{Core, log_failure};
use super::error::failed;
use super::records::ask;
use crate::api::ApiError;
use crate::base::{PeerId, VaultId, limit, random_bytes};
use crate::engine::{self, AuditTally, Pick};
use crate::wire::{self, sync_request::Ask};

/// The holders of a vault besides this node, as far as they are connected, whoever writes to it, and what to ask for.
struct Fellows {
    vault: VaultId,
    picks: Vec<Pick>,
    holders: Vec<PeerId>,
    owners: Vec<PeerId>,
}

/// One round: of each vault that is kept here, a few slices of each fellow holder.
pub(super) async fn round(core: &Arc<Core>) -> Result<(), ApiError> {
    let net = core.net()?.clone();
    let connected: HashSet<PeerId> = core.connected().into_iter().collect();
    let all = core.blocking(move |core| fellows(core, &connected)).await?;
    for Fellows { vault, picks, holders, owners } in all {
        for holder in holders {
            let mut tally = AuditTally::default();
            ask_for(&net, holder, &picks, &mut tally, Instant::now() + limit::AUDIT_WHOLE).await;
            if tally.lost.is_empty() {
                continue;
            }
            for owner in &owners {
                let told = ask(&net, *owner, Ask::Damage(doubt(vault, holder, &tally))).await;
                log_failure(told.map(|_| ()), "telling an owner of a fellow holder");
            }
        }
    }
    Ok(())
}

fn fellows(core: &Arc<Core>, connected: &HashSet<PeerId>) -> Result<Vec<Fellows>, ApiError> {
    let mut all = Vec::new();
    for vault in core.store.foreign_usage().map_err(failed)?.into_keys() {
        let (mut owners, mut holders): (HashSet<PeerId>, HashSet<PeerId>) = Default::default();
        for head in engine::newest_heads(&core.store, vault).map_err(failed)? {
            let head = head.map_err(failed)?;
            owners.insert(head.certificate.peer);
            let named = head.draft.holders.iter().map(|holder| holder.peer);
            holders.extend(named.filter(|peer| connected.contains(peer)));
        }
        holders.retain(|peer| !owners.contains(peer));
        let owners: Vec<PeerId> = owners.into_iter().filter(|owner| connected.contains(owner)).collect();
        if !owners.is_empty() && !holders.is_empty() {
            let picks = choose(core, vault)?;
            all.push(Fellows { vault, picks, holders: holders.into_iter().collect(), owners });
        }
    }
    Ok(all)
}

/// Slices of a pack that is kept here for that vault.
fn choose(core: &Arc<Core>, vault: VaultId) -> Result<Vec<Pick>, ApiError> {
    let numbers = core.store.foreign_packs(vault).map_err(failed)?;
    let seed = u64::from_le_bytes(random_bytes());
    let Some(number) = numbers.get((seed % numbers.len().max(1) as u64) as usize) else {
        return Ok(Vec::new());
    };
    let row = core.store.pack_by_number(*number).map_err(failed)?;
    let pack = row.map(|row| (row.id, row.bytes));
    Ok(engine::pick_slices(pack.as_slice(), limit::FELLOW_SLICES_ROUND, seed))
}

fn doubt(vault: VaultId, holder: PeerId, tally: &AuditTally) -> wire::DamageNotice {
    wire::DamageNotice {
        vault: vault.as_bytes().to_vec(),
        doubted_holder: holder.as_bytes().to_vec(),
        doubted: tally.lost.iter().map(|pack| pack.as_bytes().to_vec()).collect(),
        ..wire::DamageNotice::default()
    }
}
