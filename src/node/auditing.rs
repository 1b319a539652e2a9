//! Audits of this vault's holders: random slices of what they receipted, asked for round after round.
//!
//! [`engine::pick_slices`] says what to ask for and [`engine::Pick::judge`] what an answer proves; here it is asked, and
//! what is proven to be lost loses its receipt, so that the owner's loop finds it another place. Nobody is expelled.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex};

use futures::StreamExt;

use super::core::{Core, log_failure};
use super::error::failed;
use super::records;
use super::source;
use crate::api::{ApiError, AuditReport, Happening};
use crate::base::{Moment, PackId, PeerId, VaultId, limit, meter, random_bytes};
use crate::engine::{self, AuditOutcome, AuditTally, FetchFailure, Pick};
use crate::net::Net;
use crate::snapshot::Receipt;
use crate::wire::{self, sync_request::Ask, sync_response::Answer};

const FILE: &str = "audits.json";

/// What is known from audits.
#[derive(Default)]
pub(super) struct Auditing {
    /// The last audit of each holder that answered.
    reports: Mutex<BTreeMap<PeerId, AuditReport>>,
    /// Holders that are being audited: they get nothing here that they should have themselves.
    under_way: Mutex<HashSet<PeerId>>,
    /// Packs that a holder asked for here although it had confirmed them: it is asked for those first.
    suspects: Mutex<BTreeSet<(PeerId, PackId)>>,
    /// One audit at a time.
    turn: tokio::sync::Mutex<()>,
}

impl Auditing {
    /// The last audit of each holder.
    pub(super) fn reports(&self) -> BTreeMap<PeerId, AuditReport> {
        self.reports.lock().expect("no panic while held").clone()
    }

    /// Whether a holder is being audited now.
    pub(super) fn is_under_way(&self, peer: &PeerId) -> bool {
        self.under_way.lock().expect("no panic while held").contains(peer)
    }

    /// A holder wants to have what it should have itself.
    pub(super) fn suspect(&self, peer: PeerId, pack: PackId) {
        let mut suspects = self.suspects.lock().expect("no panic while held");
        if suspects.len() < limit::AUDIT_SLICES_SUSPECT_MAX {
            suspects.insert((peer, pack));
        }
    }

    /// Whether a holder lost something lately, so that others are better places for what it lost.
    pub(super) fn is_on_probation(&self, peer: &PeerId, now: Moment) -> bool {
        let reports = self.reports.lock().expect("no panic while held");
        let lost = reports.get(peer).and_then(|report| report.lost_at.as_deref());
        lost.and_then(|at| at.parse::<jiff::Timestamp>().ok()).is_some_and(|at| {
            let at = Moment::from_millis(u64::try_from(at.as_millisecond()).unwrap_or(0));
            now.since(at) < limit::AUDIT_PROBATION
        })
    }
}

/// Holders marked as being audited, until this is dropped.
struct Marked<'a> {
    auditing: &'a Auditing,
}

impl Drop for Marked<'_> {
    fn drop(&mut self) {
        self.auditing.under_way.lock().expect("no panic while held").clear();
    }
}

/// Reads what is remembered. Blocking. Without it the next round knows again.
pub(super) fn load(core: &Core) {
    let read: Vec<AuditReport> = core.store.read_state(FILE).ok().flatten().unwrap_or_default();
    let mut reports = core.auditing.reports.lock().expect("no panic while held");
    reports.extend(read.into_iter().map(|report| (report.peer, report)));
}

/// Audits round after round until the node ends. Does nothing on a node without a vault.
pub(super) async fn run_loop(core: Arc<Core>) {
    if core.vault_id().is_none() {
        return;
    }
    loop {
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = tokio::time::sleep(limit::AUDIT_ROUND) => {}
        }
        let round = tokio::select! {
            () = core.stop.cancelled() => return,
            round = audit(&core, limit::AUDIT_SLICES_ROUND) => round,
        };
        log_failure(round, "auditing holders");
    }
}

/// Asks every holder for `slices` slices; those that fail are asked for one of each of their packs.
pub(super) async fn audit(core: &Arc<Core>, slices: usize) -> Result<Vec<AuditReport>, ApiError> {
    let net = core.net()?.clone();
    let Some(vault) = core.vault_id() else { return Ok(Vec::new()) };
    let _turn = core.auditing.turn.lock().await;
    let held = core.blocking(receipted).await?;
    core.auditing.under_way.lock().expect("no panic while held").extend(held.keys());
    let marked = Marked { auditing: &core.auditing };
    let seed = u64::from_le_bytes(random_bytes());
    let suspects = std::mem::take(&mut *core.auditing.suspects.lock().expect("no panic while held"));
    let audits = held.into_iter().map(|(holder, packs)| {
        let (core, net) = (core.clone(), net.clone());
        let is_suspect = |(id, _): &&(PackId, u64)| suspects.contains(&(holder, *id));
        let doubted: Vec<(PackId, u64)> = packs.iter().filter(is_suspect).copied().collect();
        let mut picks = engine::pick_slices(&packs, slices, seed);
        picks.extend(engine::pick_slices(&doubted, doubted.len(), seed ^ 2));
        async move {
            let connected = core.connected().contains(&holder);
            let tally = examine(&net, holder, vault, &packs, picks, connected).await;
            (holder, tally)
        }
    });
    let tallies = futures::future::join_all(audits).await;
    drop(marked);
    core.blocking(move |core| conclude(core, tallies)).await
}

/// The own packs that each member has receipted, with their lengths.
fn receipted(core: &Arc<Core>) -> Result<HashMap<PeerId, Vec<(PackId, u64)>>, ApiError> {
    let mut packs = HashMap::new();
    core.store
        .for_each_pack(true, |row| {
            packs.insert(row.number, (row.id, row.bytes));
            true
        })
        .map_err(failed)?;
    let mut held: HashMap<PeerId, Vec<(PackId, u64)>> = HashMap::new();
    core.store
        .for_each_receipt(|number, holder, _| {
            if let Some(pack) = packs.get(&number)
                && core.members.allows(&holder)
            {
                held.entry(holder).or_default().push(*pack);
            }
        })
        .map_err(failed)?;
    Ok(held)
}

/// Audits one holder.
async fn examine(
    net: &Net,
    holder: PeerId,
    vault: VaultId,
    packs: &[(PackId, u64)],
    picks: Vec<Pick>,
    connected: bool,
) -> AuditTally {
    let mut tally = AuditTally::default();
    if !connected {
        picks.iter().for_each(|pick| tally.note(pick, AuditOutcome::Offline));
        return tally;
    }
    ask_for(net, holder, &picks, &mut tally).await;
    if tally.lost.is_empty() {
        return tally;
    }
    // Where one pack is lost others may be: first what it says itself, then a slice of each that it says to have.
    let left: Vec<(PackId, u64)> = packs.iter().filter(|(id, _)| !tally.lost.contains(id)).copied().collect();
    let missing = unconfirmed(net, holder, vault, &left).await;
    let left: Vec<(PackId, u64)> = left.into_iter().filter(|(id, _)| !missing.contains(id)).collect();
    tally.lost.extend(missing);
    let picks = engine::pick_slices(
        &left,
        left.len().min(limit::AUDIT_SLICES_SUSPECT_MAX),
        u64::from_le_bytes(random_bytes()),
    );
    ask_for(net, holder, &picks, &mut tally).await;
    tally
}

async fn ask_for(net: &Net, holder: PeerId, picks: &[Pick], tally: &mut AuditTally) {
    let asked = picks.iter().copied().map(|pick| {
        let net = net.clone();
        async move {
            let answer = source::ask(&net, holder, pick.pack, pick.range());
            let answer = tokio::time::timeout(limit::AUDIT_DEADLINE, answer).await;
            (pick, pick.judge(&answer.unwrap_or(Err(FetchFailure::Timeout))))
        }
    });
    let mut answers = futures::stream::iter(asked).buffer_unordered(limit::AUDIT_IN_FLIGHT);
    while let Some((pick, outcome)) = answers.next().await {
        tally.note(&pick, outcome);
    }
}

/// Of these packs, those that the holder itself does not confirm any more. One that does not answer is believed.
async fn unconfirmed(net: &Net, holder: PeerId, vault: VaultId, packs: &[(PackId, u64)]) -> BTreeSet<PackId> {
    let mut missing = BTreeSet::new();
    for part in packs.chunks(limit::RECEIPT_PACKS_MAX) {
        let query = wire::ReceiptQuery {
            vault: vault.as_bytes().to_vec(),
            head: Vec::new(),
            packs: part.iter().map(|(id, _)| id.as_bytes().to_vec()).collect(),
        };
        let Ok(Some(Answer::Receipt(signed))) = records::ask(net, holder, Ask::Receipts(query)).await else {
            continue;
        };
        let Some(receipt) = Receipt::verify(&signed).ok().filter(|receipt| receipt.holder == holder) else {
            continue;
        };
        let confirmed: HashSet<PackId> = receipt.packs.into_iter().collect();
        missing.extend(part.iter().map(|(id, _)| *id).filter(|id| !confirmed.contains(id)));
    }
    missing
}

/// Takes receipts from what is lost, and remembers and tells what came out.
fn conclude(core: &Arc<Core>, tallies: Vec<(PeerId, AuditTally)>) -> Result<Vec<AuditReport>, ApiError> {
    let mut out = Vec::new();
    for (holder, tally) in tallies {
        let lost: Vec<PackId> = tally.lost.iter().copied().collect();
        let mut report = report_of(core, holder, &tally);
        if lost.is_empty() {
            report.lost_at = core.auditing.reports().get(&holder).and_then(|last| last.lost_at.clone());
        } else {
            core.store.drop_pack_receipts(holder, &lost).map_err(failed)?;
            core.tell(Happening::AuditFailed { peer: holder, packs: lost.len() as u64 });
            tracing::warn!(target: "audit", peer = %holder.short(), packs = lost.len(), "a holder lost packs; they get other copies");
        }
        for outcome in OUTCOMES {
            meter::AUDITS.add(outcome.name(), tally.of(outcome));
        }
        // One that was away has proven nothing: what it proved before still stands.
        if report.offline < report.slices {
            core.auditing.reports.lock().expect("no panic while held").insert(holder, report.clone());
        }
        out.push(report);
    }
    out.sort_by_key(|report| report.peer);
    let mut reports = core.auditing.reports.lock().expect("no panic while held");
    reports.retain(|peer, _| core.members.allows(peer));
    let kept: Vec<AuditReport> = reports.values().cloned().collect();
    drop(reports);
    log_failure(core.store.publish_state(FILE, &kept).map_err(failed), "noting audits");
    core.changed.notify_one();
    Ok(out)
}

const OUTCOMES: [AuditOutcome; 5] = [
    AuditOutcome::Ok,
    AuditOutcome::Wrong,
    AuditOutcome::Offline,
    AuditOutcome::Timeout,
    AuditOutcome::Unknown,
];

fn report_of(core: &Core, peer: PeerId, tally: &AuditTally) -> AuditReport {
    let time = core.now().to_rfc3339();
    AuditReport {
        peer,
        slices: tally.slices,
        ok: tally.of(AuditOutcome::Ok),
        wrong: tally.of(AuditOutcome::Wrong),
        offline: tally.of(AuditOutcome::Offline),
        timeout: tally.of(AuditOutcome::Timeout),
        unknown: tally.of(AuditOutcome::Unknown),
        packs_lost: tally.lost.len() as u64,
        lost_at: (!tally.lost.is_empty()).then(|| time.clone()),
        time,
    }
}
