//! Scrubs: packs and records are read again by hash, own and others' alike, and mended from whoever has them. Needs no key.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::repair::{mend, note_damage};
use super::verify::{report_of, subset_of};
use crate::api::{ApiError, JobOutcome, VerifyReport, VerifyRequest};
use crate::base::{Code, HeadId, PackId, PeerId, VaultId, limit};
use crate::engine::{self, Damage, Monitor, VerifyOptions, VerifyResult};
use crate::node::core::{Core, log_failure, workers};
use crate::node::error::failed;
use crate::node::jobs::Ended;
use crate::node::records::ask;
use crate::node::verified::{self, coverage, edit_rounds, rounds};
use crate::node::{keepers, mending};
use crate::policy::Subset;
use crate::wire::{DamageNotice, sync_request::Ask};

pub(super) async fn run(
    core: &Arc<Core>,
    request: VerifyRequest,
    monitor: Arc<Monitor>,
    memory: usize,
) -> Ended {
    let source = core.source();
    let (outcome, found) = core
        .blocking(move |core| {
            let began = Instant::now();
            let subset = subset_of(&request)?;
            let result = look(core, subset, memory, &monitor)?;
            let mut report = report_of(core, &result, None, began)?;
            let mut lost: Vec<PackId> = report.damaged_packs.clone();
            let mut records = result.records.len();
            if request.repair && (!lost.is_empty() || records > 0) {
                let repair = mend(core, source.as_ref(), &result, request.confirmed, &monitor)?;
                lost = repair.unrepaired_packs.clone();
                records = repair.unrepaired_records.len();
                report.repair = Some(Box::new(repair));
            }
            mending::note_records(core, records > 0);
            let left: Vec<Damage> =
                result.damages.iter().filter(|damage| lost.contains(&damage.pack)).cloned().collect();
            note_damage(core, &left, subset.is_none())?;
            let share = matches!(subset, Some(Subset::Share(_)) | None);
            // Only now: what is not mended yet is looked at again when this was interrupted.
            if share {
                edit_rounds(core, |rounds| {
                    rounds.scrub.advance(result.reached, result.bytes, result.round_ended, core.now());
                });
            }
            report.coverage = Some(coverage(&rounds(core).scrub, result.bytes_all));
            if !lost.is_empty() || records > 0 {
                verified::note(core, false);
            }
            let found = Found { damaged: report.damaged_packs.clone(), lost, records: records > 0 };
            let error = damage_left(&report, &found, records);
            Ok(((JobOutcome::Verify(report), error), found))
        })
        .await?;
    if !found.damaged.is_empty() || found.records {
        log_failure(tell_owners(core, found).await, "telling owners of damage");
    }
    Ok(outcome)
}

/// Packs with damage, those of them that stayed so, and whether records may have.
pub(super) struct Found {
    pub(super) damaged: Vec<PackId>,
    pub(super) lost: Vec<PackId>,
    pub(super) records: bool,
}

/// All at once uses every core; a slice of a round leaves the machine to others.
fn look(
    core: &Arc<Core>,
    subset: Option<Subset>,
    memory_bytes: usize,
    monitor: &Monitor,
) -> Result<VerifyResult, ApiError> {
    let (workers, rest) = if subset.is_some() { (1, limit::SCRUB_REST) } else { (workers(), 0) };
    let after = rounds(core).scrub.after;
    let options = VerifyOptions { subset, after, rest, memory_bytes, ..VerifyOptions::default() };
    let mut result = engine::verify(&core.store, None, options, workers, monitor).map_err(failed)?;
    result.round_ended |= subset.is_none();
    Ok(result)
}

fn damage_left(report: &VerifyReport, found: &Found, records: usize) -> Option<ApiError> {
    let lost = found.lost.len();
    let hint = match &report.repair {
        Some(repair) if repair.refused => {
            "see what would be done with --dry-run; `shadowvault repair --yes` does it"
        }
        _ => "`shadowvault peers` shows which holders can be reached; then `shadowvault repair`",
    };
    (lost + records > 0).then(|| {
        let text = format!("{lost} packs and {records} records are damaged or missing");
        ApiError::new(Code::StorageCorrupted, text).with_hint(hint)
    })
}

/// Tells each owner which of its packs rotted here, so that what stayed lost gets another copy, and of which of its heads not
/// all records are sound, so that it offers them again.
pub(super) async fn tell_owners(core: &Arc<Core>, found: Found) -> Result<(), ApiError> {
    let net = core.net()?.clone();
    let owners = core.blocking(move |core| owners_of(core, &found)).await?;
    for ((owner, vault), Told { mended, lost, heads }) in owners {
        for part in lost.chunks(limit::RECEIPT_PACKS_MAX).chain(lost.is_empty().then_some(&[][..])) {
            let packs = part.iter().map(|id| id.as_bytes().to_vec()).collect();
            let heads = heads.iter().map(|id| id.as_bytes().to_vec()).collect();
            let vault = vault.as_bytes().to_vec();
            let notice = DamageNotice { vault, packs, mended, heads, ..DamageNotice::default() };
            if let Err(error) = ask(&net, owner, Ask::Damage(notice)).await {
                tracing::info!(target: "scrub", peer = %owner.short(), code = error.code, %error, "the owner was not told of damage");
            }
        }
    }
    Ok(())
}

/// What one owner is told of one vault.
#[derive(Clone, Default)]
struct Told {
    /// How many packs were mended.
    mended: u32,
    /// Which were not.
    lost: Vec<PackId>,
    /// Heads of its device whose records are not all sound.
    heads: Vec<HeadId>,
}

fn owners_of(core: &Arc<Core>, found: &Found) -> Result<HashMap<(PeerId, VaultId), Told>, ApiError> {
    let mut told: HashMap<(PeerId, VaultId), Told> = HashMap::new();
    for vault in core.store.head_vaults().map_err(failed)? {
        let is_other = |peer: &PeerId| *peer != core.key.peer_id();
        if found.records {
            let unsound = keepers::unsound_heads(core, vault)?;
            for (peer, head) in unsound.into_iter().filter(|(peer, _)| is_other(peer)) {
                told.entry((peer, vault)).or_default().heads.push(head);
            }
        }
        let (mut mended, mut lost) = (0, Vec::new());
        for pack in &found.damaged {
            let Some(row) = core.store.pack_by_id(*pack).map_err(failed)? else { continue };
            match core.store.is_foreign_of(vault, row.number).map_err(failed)? {
                true if found.lost.contains(pack) => lost.push(*pack),
                true => mended += 1,
                false => {}
            }
        }
        if mended > 0 || !lost.is_empty() {
            for head in engine::newest_heads(&core.store, vault).map_err(failed)? {
                let head = head.map_err(failed)?;
                // Of this node's own vault: the other devices that it keeps packs for.
                if !is_other(&head.certificate.peer) {
                    continue;
                }
                let one = told.entry((head.certificate.peer, vault)).or_default();
                (one.mended, one.lost) = (mended, lost.clone());
            }
        }
    }
    Ok(told)
}
