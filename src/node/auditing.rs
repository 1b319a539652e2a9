//! Audits of this vault's holders: random slices of what they receipted, asked for round after round.
//!
//! Each is also asked for some of the records of the heads that it confirmed. [`Choice`] says what to ask for and
//! [`Pick::judge`] what an answer proves; here it is asked, and what is proven to be lost loses its receipt, so that the
//! owner's loop finds it another place. Nobody is expelled.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex};

use futures::StreamExt;

use super::core::{Core, log_failure};
use super::error::failed;
use super::fellows;
use super::keepers;
use super::records;
use super::source;
use crate::api::{ApiError, AuditReport, Happening};
use crate::base::{HeadId, Moment, PackId, PeerId, VaultId, limit, meter, random_bytes};
use crate::engine::{self, AuditOutcome, AuditTally, Choice, Doubts, FetchFailure, Pick, pick_slices};
use crate::net::Net;
use crate::snapshot::Receipt;
use crate::store::{PackNumber, RecordName};
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

    /// When a holder lost something, if that was lately: others are better places for what it lost.
    pub(super) fn on_probation(&self, peer: &PeerId, now: Moment) -> Option<Moment> {
        let reports = self.reports.lock().expect("no panic while held");
        let lost = reports.get(peer).and_then(|report| report.lost_at.as_deref());
        engine::on_probation(lost.and_then(Moment::of_rfc3339), now)
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

/// Audits round after round until the node ends: holders of this vault, and fellow holders of others.
pub(super) async fn run_loop(core: Arc<Core>) {
    loop {
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = tokio::time::sleep(limit::AUDIT_ROUND) => {}
        }
        let round = tokio::select! {
            () = core.stop.cancelled() => return,
            round = audit(&core, limit::AUDIT_SLICES_ROUND, limit::AUDIT_RECORDS_ROUND) => round,
        };
        log_failure(round, "auditing holders");
        let round = tokio::select! {
            () = core.stop.cancelled() => return,
            round = fellows::round(&core) => round,
        };
        log_failure(round, "asking fellow holders");
    }
}

/// Asks every holder for `slices` slices; those that fail are asked for one of each of their packs.
pub(super) async fn audit(
    core: &Arc<Core>,
    slices: usize,
    records: usize,
) -> Result<Vec<AuditReport>, ApiError> {
    core.net()?;
    let Some(vault) = core.vault_id() else { return Ok(Vec::new()) };
    let _turn = core.auditing.turn.lock().await;
    let seed = u64::from_le_bytes(random_bytes());
    let suspects = std::mem::take(&mut *core.auditing.suspects.lock().expect("no panic while held"));
    let chosen = core.blocking(move |core| choose(core, slices, records, seed, &suspects)).await?;
    let tallies = examine_all(core, vault, chosen).await;
    core.blocking(move |core| conclude(core, tallies)).await
}

/// Asks holders for a random slice of each of these packs; which they proved to have. What they lost counts as in any audit.
pub(super) async fn prove(
    core: &Arc<Core>,
    packs: HashMap<PeerId, Vec<(PackId, u64)>>,
) -> Result<BTreeSet<(PeerId, PackId)>, ApiError> {
    core.net()?;
    let Some(vault) = core.vault_id() else { return Ok(BTreeSet::new()) };
    let _turn = core.auditing.turn.lock().await;
    let seed = u64::from_le_bytes(random_bytes());
    let each = packs.into_iter().map(|(holder, packs)| {
        (holder, Chosen { picks: pick_slices(&packs, packs.len(), seed), records: Vec::new() })
    });
    let tallies = examine_all(core, vault, each.collect()).await;
    let proven = tallies.iter().flat_map(|(holder, tally)| tally.proven.iter().map(|pack| (*holder, *pack)));
    let proven = proven.collect();
    core.blocking(move |core| conclude(core, tallies)).await?;
    Ok(proven)
}

/// Audits holders at the same time; meanwhile they get nothing here that they should have themselves.
async fn examine_all(
    core: &Arc<Core>,
    vault: VaultId,
    chosen: HashMap<PeerId, Chosen>,
) -> Vec<(PeerId, AuditTally)> {
    core.auditing.under_way.lock().expect("no panic while held").extend(chosen.keys());
    let _marked = Marked { auditing: &core.auditing };
    let audits = chosen.into_iter().map(|(holder, chosen)| async move {
        let tally = examine(core, holder, vault, chosen).await;
        (holder, tally)
    });
    futures::future::join_all(audits).await
}

/// What a holder is asked for.
#[derive(Default)]
struct Chosen {
    picks: Vec<Pick>,
    /// Records, each with the head that the holder confirmed them for.
    records: Vec<(HeadId, RecordName)>,
}

/// What each member is asked for, of the own packs that it has receipted and of the heads that it has confirmed.
fn choose(
    core: &Arc<Core>,
    slices: usize,
    records: usize,
    seed: u64,
    suspects: &BTreeSet<(PeerId, PackId)>,
) -> Result<HashMap<PeerId, Chosen>, ApiError> {
    let mut chosen: HashMap<PeerId, Choice> = HashMap::new();
    core.store
        .for_each_held(|row, holder| {
            if core.members.allows(&holder) {
                let choice = chosen.entry(holder).or_insert_with(|| Choice::new(slices, seed));
                choice.meet(row.id, row.bytes, suspects.contains(&(holder, row.id)));
            }
        })
        .map_err(failed)?;
    let picks =
        |(holder, choice): (PeerId, Choice)| (holder, Chosen { picks: choice.picks(), records: Vec::new() });
    let mut chosen: HashMap<PeerId, Chosen> = chosen.into_iter().map(picks).collect();
    // A replaced head's records may be gone from a holder for good reasons.
    let Some(vault) = core.vault_id() else { return Ok(chosen) };
    let receipts = core.store.head_receipts().map_err(failed)?;
    for head in engine::newest_heads(&core.store, vault).map_err(failed)? {
        let head = head.map_err(failed)?;
        for (holder, ..) in
            receipts.iter().filter(|(holder, .., id)| *id == head.id && core.members.allows(holder))
        {
            let named = engine::records_to_ask(&head, records, seed);
            let named = named.into_iter().map(|name| (head.id, name));
            chosen.entry(*holder).or_default().records.extend(named);
        }
    }
    Ok(chosen)
}

/// Audits one holder.
async fn examine(core: &Arc<Core>, holder: PeerId, vault: VaultId, chosen: Chosen) -> AuditTally {
    let Chosen { picks, records } = chosen;
    let mut tally = AuditTally::default();
    let net = match core.net() {
        Ok(net) if core.connected().contains(&holder) => net.clone(),
        _ => {
            picks.iter().for_each(|pick| tally.note(pick, AuditOutcome::Offline));
            return tally;
        }
    };
    ask_for(&net, holder, &picks, &mut tally).await;
    for (head, name) in records {
        match keepers::audit(core, &net, holder, vault, &name).await {
            AuditOutcome::Ok => tally.records_ok += 1,
            AuditOutcome::Wrong => {
                tally.records_lost += 1;
                tally.unsound_heads.insert(head);
            }
            // That proves nothing, and the next record would wait as long.
            _ => break,
        }
    }
    if !tally.lost.is_empty() {
        let rest = examine_rest(core, &net, holder, vault, &mut tally).await;
        log_failure(rest, "asking a holder what else it lost");
    }
    tally
}

/// Where one pack is lost others may be: first what the holder says itself, then a slice of each that it says to have.
async fn examine_rest(
    core: &Arc<Core>,
    net: &Net,
    holder: PeerId,
    vault: VaultId,
    tally: &mut AuditTally,
) -> Result<(), ApiError> {
    let mut doubts = Doubts::new(u64::from_le_bytes(random_bytes()));
    let mut from = Some(PackNumber(0));
    while let Some(begin) = from {
        let page = core.blocking(move |core| {
            core.store.held_by(holder, begin, limit::RECEIPT_PACKS_MAX).map_err(failed)
        });
        let (page, next) = page.await?;
        from = next;
        let page: Vec<(PackId, u64)> = page.into_iter().map(|row| (row.id, row.bytes)).collect();
        let confirmed = match page.is_empty() {
            true => None,
            false => confirmed(net, holder, vault, None, &page).await,
        };
        let confirmed = confirmed.map(|receipt| receipt.packs.into_iter().collect());
        let gone = doubts.hear(tally, &page, confirmed.as_ref());
        if !gone.is_empty() {
            core.blocking(move |core| core.store.drop_pack_receipts(holder, &gone).map_err(failed)).await?;
        }
    }
    ask_for(net, holder, &doubts.picks(), tally).await;
    Ok(())
}

pub(super) async fn ask_for(net: &Net, holder: PeerId, picks: &[Pick], tally: &mut AuditTally) {
    let asked = picks.iter().copied().map(|pick| {
        let net = net.clone();
        async move {
            let answer = source::ask(&net, holder, pick.pack, pick.range(), limit::AUDIT_DEADLINE);
            let answer = tokio::time::timeout(limit::AUDIT_DEADLINE, answer).await;
            (pick, pick.judge(&answer.unwrap_or(Err(FetchFailure::Timeout))))
        }
    });
    let mut answers = futures::stream::iter(asked).buffer_unordered(limit::AUDIT_IN_FLIGHT);
    while let Some((pick, outcome)) = answers.next().await {
        tally.note(&pick, outcome);
    }
}

/// What the holder itself confirms again: of these packs, at most as many as fit a receipt, those that it has, and the head, if
/// that counts there and is complete. `None` if it does not answer.
pub(super) async fn confirmed(
    net: &Net,
    holder: PeerId,
    vault: VaultId,
    head: Option<HeadId>,
    packs: &[(PackId, u64)],
) -> Option<Receipt> {
    let query = wire::ReceiptQuery {
        vault: vault.as_bytes().to_vec(),
        head: head.map_or_else(Vec::new, |head| head.as_bytes().to_vec()),
        packs: packs.iter().map(|(id, _)| id.as_bytes().to_vec()).collect(),
    };
    let Ok(Some(Answer::Receipt(signed))) = records::ask(net, holder, Ask::Receipts(query)).await else {
        return None;
    };
    Receipt::verify(&signed).ok().filter(|receipt| (receipt.holder, receipt.vault) == (holder, vault))
}

/// Takes receipts from what is lost, and remembers and tells what came out.
fn conclude(core: &Arc<Core>, tallies: Vec<(PeerId, AuditTally)>) -> Result<Vec<AuditReport>, ApiError> {
    let mut out = Vec::new();
    for (holder, tally) in tallies {
        let lost: Vec<PackId> = tally.lost.iter().copied().collect();
        let mut report = report_of(core, holder, &tally);
        for head in &tally.unsound_heads {
            engine::void_head_receipt(&core.store, holder, *head).map_err(failed)?;
        }
        let (packs, records) = (tally.packs_lost(), tally.records_lost);
        if packs + records > 0 {
            core.tell(Happening::AuditFailed { peer: holder, packs, records });
            tracing::warn!(target: "audit", peer = %holder.short(), packs, records, "a holder lost what it had confirmed; it gets other copies");
        }
        if tally.packs_lost() == 0 {
            report.lost_at = core.auditing.reports().get(&holder).and_then(|last| last.lost_at.clone());
        } else {
            core.store.drop_pack_receipts(holder, &lost).map_err(failed)?;
        }
        for outcome in OUTCOMES {
            meter::AUDITS.add(outcome.name(), tally.of(outcome));
        }
        meter::AUDITS.add(AuditOutcome::Ok.name(), tally.records_ok);
        meter::AUDITS.add(AuditOutcome::Wrong.name(), tally.records_lost);
        // One that was away has proven nothing: what it proved before still stands.
        if report.offline < report.slices || report.records_ok + report.records_lost > 0 {
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
        packs_lost: tally.packs_lost(),
        records_ok: tally.records_ok,
        records_lost: tally.records_lost,
        lost_at: (tally.packs_lost() > 0).then(|| time.clone()),
        time,
    }
}
