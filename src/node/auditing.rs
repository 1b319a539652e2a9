//! Audits of this vault's holders: random slices of what they receipted, asked for round after round.
//!
//! Each is also asked for some of the records of the heads that it confirmed. [`Choice`] says what to ask for and
//! [`Pick::judge`] what an answer proves; here it is asked, and what is proven to be lost loses its receipt, so that the
//! owner's loop finds it another place. Nobody is expelled.
//!
//! An answer that proves nothing (busy, refused, silence) is none: a holder that gives no other for
//! `replication.proof_within` does not count as a copy until it proves something ([`Proof`]), and a pack that it never answers
//! for is lost. What it confirms again after it lost something counts once slices of it were proven.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::core::{Core, log_failure};
use super::error::failed;
use super::fellows;
use super::keepers;
use super::records;
use super::source;
use crate::api::{ApiError, AuditReport, Happening};
use crate::base::{HeadId, Moment, PackId, PeerId, VaultId, limit, meter, random_bytes};
use crate::engine::{
    self, AuditOutcome, AuditTally, Choice, Doubts, FetchFailure, Pick, Taken, Terms, pick_slices,
};
use crate::net::Net;
use crate::policy::Proof;
use crate::snapshot::Receipt;
use crate::store::{PackNumber, RecordName};
use crate::wire::{self, sync_request::Ask, sync_response::Answer};

const FILE: &str = "audits.json";

/// What holders proved, and did not.
const PROOFS: &str = "proofs.json";

/// What is known from audits.
#[derive(Default)]
pub(super) struct Auditing {
    /// The last audit of each holder that answered.
    reports: Mutex<BTreeMap<PeerId, AuditReport>>,
    /// Holders that are being audited: they get nothing here that they should have themselves.
    under_way: Mutex<HashSet<PeerId>>,
    /// Packs that a holder asked for here although it had confirmed them: it is asked for those first.
    suspects: Mutex<BTreeSet<(PeerId, PackId)>>,
    /// What audits of each holder have come to.
    proofs: Mutex<BTreeMap<PeerId, Proof>>,
    /// Holders that were away when the last round asked.
    missed: Mutex<HashSet<PeerId>>,
    /// Packs that a holder has confirmed again since it lost them, and when: they count once they are proven.
    trials: Mutex<BTreeMap<(PeerId, PackId), Moment>>,
    /// There are some.
    wake: Notify,
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

    /// Holders that have proved nothing for so long that they do not count.
    pub(super) fn unproven(&self, within: Duration) -> HashSet<PeerId> {
        let proofs = self.proofs.lock().expect("no panic while held");
        proofs.iter().filter(|(_, proof)| !proof.stands(within)).map(|(peer, _)| *peer).collect()
    }

    /// Since when a holder is a worse place for new packs than others: it lost something lately, or proves nothing.
    pub(super) fn is_doubtful(&self, peer: &PeerId, within: Duration, now: Moment) -> Option<Moment> {
        let proofs = self.proofs.lock().expect("no panic while held");
        let unproven = proofs.get(peer).filter(|proof| !proof.stands(within));
        let since = unproven.and_then(Proof::unproven_since);
        drop(proofs);
        self.on_probation(peer, now).or(since)
    }

    /// Nothing is to be tried again, and nobody is being audited.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        let is_asking = !self.under_way.lock().expect("no panic while held").is_empty();
        self.trials.lock().expect("no panic while held").is_empty() && !is_asking
    }

    /// Has a holder prove soon what it confirmed again.
    fn try_again(&self, holder: PeerId, packs: Vec<PackId>, time: Moment) {
        let mut trials = self.trials.lock().expect("no panic while held");
        let room = limit::AUDIT_TRIALS_MAX.saturating_sub(trials.len());
        trials.extend(packs.into_iter().take(room).map(|pack| ((holder, pack), time)));
        self.wake.notify_one();
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
    let read: Vec<(PeerId, Proof)> = core.store.read_state(PROOFS).ok().flatten().unwrap_or_default();
    core.auditing.proofs.lock().expect("no panic while held").extend(read);
}

/// Takes a receipt as far as it counts: for packs that `expected` knows. What its holder lost before has to be proven first.
/// `None` when it is no news. Blocking.
pub(super) fn take_receipt(
    core: &Core,
    vault: VaultId,
    from: PeerId,
    signed: &wire::Signed,
    expected: &dyn Fn(&PackId) -> bool,
) -> Result<Option<Receipt>, ApiError> {
    let now = core.now();
    let on_probation = core.auditing.on_probation(&from, now).is_some();
    let terms = Terms { now, expected, on_probation };
    let taken = engine::take_receipt(&core.store, vault, from, signed, &terms);
    if let Ok(receipt) = Receipt::verify(signed)
        && receipt.holder == from
    {
        // Also of one that was refused for it.
        core.clocks.note(from, receipt.time, now);
    }
    let Some(Taken { receipt, doubted }) = taken.map_err(failed)? else { return Ok(None) };
    if !doubted.is_empty() {
        core.auditing.try_again(from, doubted, receipt.time);
    }
    Ok(Some(receipt))
}

/// Audits round after round until the node ends: holders of this vault, and fellow holders of others. Between rounds those
/// that were away in the last one, as soon as they are there, and what was confirmed again.
pub(super) async fn run_loop(core: Arc<Core>) {
    let mut next = Instant::now() + limit::AUDIT_ROUND;
    loop {
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = tokio::time::sleep(limit::AUDIT_LOOK) => {}
            () = core.auditing.wake.notified() => {}
        }
        let is_due = Instant::now() >= next;
        let round = async {
            log_failure(try_those_again(&core).await, "asking for proof of what was confirmed again");
            let only = if is_due { None } else { Some(returned(&core)) };
            if only.as_ref().is_none_or(|only| !only.is_empty()) {
                let round = audit_some(&core, limit::AUDIT_SLICES_ROUND, limit::AUDIT_RECORDS_ROUND, only);
                log_failure(round.await, "auditing holders");
            }
            if is_due {
                log_failure(fellows::round(&core).await, "asking fellow holders");
            }
        };
        tokio::select! {
            () = core.stop.cancelled() => return,
            () = round => {}
        }
        if is_due {
            next = Instant::now() + limit::AUDIT_ROUND;
        }
    }
}

/// Holders that were away in the last round and are here now.
fn returned(core: &Core) -> HashSet<PeerId> {
    let missed = core.auditing.missed.lock().expect("no panic while held");
    core.connected().into_iter().filter(|peer| missed.contains(peer)).collect()
}

/// Asks every holder for `slices` slices; those that fail are asked for one of each of their packs.
pub(super) async fn audit(
    core: &Arc<Core>,
    slices: usize,
    records: usize,
) -> Result<Vec<AuditReport>, ApiError> {
    audit_some(core, slices, records, None).await
}

async fn audit_some(
    core: &Arc<Core>,
    slices: usize,
    records: usize,
    only: Option<HashSet<PeerId>>,
) -> Result<Vec<AuditReport>, ApiError> {
    core.net()?;
    let Some(vault) = core.vault_id() else { return Ok(Vec::new()) };
    let _turn = core.auditing.turn.lock().await;
    let seed = u64::from_le_bytes(random_bytes());
    let mut suspects = std::mem::take(&mut *core.auditing.suspects.lock().expect("no panic while held"));
    for (holder, proof) in core.auditing.proofs.lock().expect("no panic while held").iter() {
        suspects.extend(proof.open().map(|pack| (*holder, pack)));
    }
    let chosen = core.blocking(move |core| choose(core, slices, records, seed, &suspects));
    let mut chosen = chosen.await?;
    if let Some(only) = only {
        chosen.retain(|holder, _| only.contains(holder));
    }
    let tallies = examine_all(core, vault, chosen).await;
    core.blocking(move |core| conclude(core, tallies)).await
}

/// Asks for slices of what holders confirmed again since they lost it; what they prove counts from then on.
async fn try_those_again(core: &Arc<Core>) -> Result<(), ApiError> {
    let trials = std::mem::take(&mut *core.auditing.trials.lock().expect("no panic while held"));
    if trials.is_empty() {
        return Ok(());
    }
    let asked: Vec<(PeerId, PackId)> = trials.keys().copied().collect();
    let packs = core.blocking(move |core| {
        let mut packs: HashMap<PeerId, Vec<(PackId, u64)>> = HashMap::new();
        for (holder, pack) in asked {
            let row = core.store.pack_by_id(pack).map_err(failed)?;
            packs.entry(holder).or_default().extend(row.map(|row| (pack, row.bytes)));
        }
        Ok(packs)
    });
    let proven = prove_with(core, packs.await?, limit::AUDIT_SLICES_TRIAL).await?;
    core.blocking(move |core| {
        let mut counted: BTreeMap<(PeerId, Moment), Vec<PackId>> = BTreeMap::new();
        for ((holder, pack), time) in trials {
            match proven.contains(&(holder, pack)) {
                true => counted.entry((holder, time)).or_default().push(pack),
                // Others may take it; in a while it is offered again.
                false => core.owning.decline(holder, &[pack]),
            }
        }
        for ((holder, time), packs) in counted {
            engine::enter_proven(&core.store, holder, &packs, time).map_err(failed)?;
            core.owning.settle(holder, &packs);
        }
        core.changed.notify_one();
        Ok(())
    })
    .await
}

/// Asks holders for a random slice of each of these packs; which they proved to have. What they lost counts as in any audit.
pub(super) async fn prove(
    core: &Arc<Core>,
    packs: HashMap<PeerId, Vec<(PackId, u64)>>,
) -> Result<BTreeSet<(PeerId, PackId)>, ApiError> {
    prove_with(core, packs, 1).await
}

/// The same with so many slices of each.
async fn prove_with(
    core: &Arc<Core>,
    packs: HashMap<PeerId, Vec<(PackId, u64)>>,
    slices: usize,
) -> Result<BTreeSet<(PeerId, PackId)>, ApiError> {
    core.net()?;
    let Some(vault) = core.vault_id() else { return Ok(BTreeSet::new()) };
    let _turn = core.auditing.turn.lock().await;
    let seed = u64::from_le_bytes(random_bytes());
    let each = packs.into_iter().map(|(holder, packs)| {
        (holder, Chosen { picks: pick_slices(&packs, slices * packs.len(), seed), records: Vec::new() })
    });
    let tallies = examine_all(core, vault, each.collect()).await;
    let proven = tallies.iter().flat_map(|(holder, tally)| tally.wholly_proven().map(|pack| (*holder, pack)));
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
    let until = Instant::now() + limit::AUDIT_WHOLE;
    let audits = chosen.into_iter().map(|(holder, chosen)| async move {
        let tally = examine(core, holder, vault, chosen, until).await;
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

/// Audits one holder; what it was not asked for by then it is not asked for.
async fn examine(
    core: &Arc<Core>,
    holder: PeerId,
    vault: VaultId,
    chosen: Chosen,
    until: Instant,
) -> AuditTally {
    let Chosen { picks, records } = chosen;
    let mut tally = AuditTally::default();
    let net = match core.net() {
        Ok(net) if core.connected().contains(&holder) => net.clone(),
        _ => {
            picks.iter().for_each(|pick| tally.note(pick, AuditOutcome::Offline));
            tally.was_away = true;
            return tally;
        }
    };
    ask_for(&net, holder, &picks, &mut tally, until).await;
    for (head, name) in records {
        let answer = timeout_at(until, keepers::audit(core, &net, holder, vault, &name));
        match answer.await.unwrap_or(AuditOutcome::Timeout) {
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
        let rest = examine_rest(core, &net, holder, vault, &mut tally, until);
        if let Ok(rest) = timeout_at(until, rest).await {
            log_failure(rest, "asking a holder what else it lost");
        }
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
    until: Instant,
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
    ask_for(net, holder, &doubts.picks(), tally, until).await;
    Ok(())
}

/// Asks for slices, until then. A holder that gave no answer to one of them in its time is not waited for again: all that is
/// left counts as not answered.
pub(super) async fn ask_for(
    net: &Net,
    holder: PeerId,
    picks: &[Pick],
    tally: &mut AuditTally,
    until: Instant,
) {
    let asked = picks.iter().copied().map(|pick| {
        let net = net.clone();
        async move {
            let answer = source::ask(&net, holder, pick.pack, pick.range(), limit::AUDIT_DEADLINE);
            let answer = tokio::time::timeout(limit::AUDIT_DEADLINE, answer).await;
            (pick, pick.judge(&answer.unwrap_or(Err(FetchFailure::Timeout))))
        }
    });
    let mut answers = futures::stream::iter(asked).buffer_unordered(limit::AUDIT_IN_FLIGHT);
    let mut open: BTreeSet<Pick> = picks.iter().copied().collect();
    let mut silence = None;
    while let Ok(Some((pick, outcome))) = timeout_at(until, answers.next()).await {
        tally.note(&pick, outcome);
        open.remove(&pick);
        if matches!(outcome, AuditOutcome::Timeout | AuditOutcome::Unknown) {
            silence = Some(outcome);
            break;
        }
    }
    if let Some(outcome) = silence {
        open.iter().for_each(|pick| tally.note(pick, outcome));
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
    for (holder, mut tally) in tallies {
        let proof = judge(core, holder, &mut tally)?;
        let lost: Vec<PackId> = tally.lost.iter().copied().collect();
        let mut report = report_of(core, holder, &tally, &proof);
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
    let proofs: Vec<(PeerId, Proof)> = {
        let mut proofs = core.auditing.proofs.lock().expect("no panic while held");
        proofs.retain(|peer, _| core.members.allows(peer));
        proofs.iter().map(|(peer, proof)| (*peer, proof.clone())).collect()
    };
    log_failure(core.store.publish_state(PROOFS, &proofs).map_err(failed), "noting what was proven");
    core.changed.notify_one();
    Ok(out)
}

/// What an audit comes to beside what went before it. Packs that were never answered for are added to the lost ones.
fn judge(core: &Core, holder: PeerId, tally: &mut AuditTally) -> Result<Proof, ApiError> {
    let (now, within) = (core.now(), core.settings().replication.proof_within);
    let mut held = BTreeSet::new();
    for pack in &tally.unanswered {
        if core.store.holders_of(*pack).map_err(failed)?.contains(&holder) {
            held.insert(*pack);
        }
    }
    let open: Vec<PackId> = {
        let proofs = core.auditing.proofs.lock().expect("no panic while held");
        proofs.get(&holder).map(|proof| proof.open().collect()).unwrap_or_default()
    };
    let mut gone = Vec::new();
    for pack in open {
        if !core.store.holders_of(pack).map_err(failed)?.contains(&holder) {
            gone.push(pack);
        }
    }
    let mut missed = core.auditing.missed.lock().expect("no panic while held");
    if tally.was_away {
        missed.insert(holder)
    } else {
        missed.remove(&holder)
    };
    drop(missed);
    let mut proofs = core.auditing.proofs.lock().expect("no panic while held");
    let proof = proofs.entry(holder).or_default();
    tally.proven.iter().chain(&tally.lost).chain(&gone).for_each(|pack| proof.close(*pack));
    for pack in held.into_iter().filter(|pack| !tally.proven.contains(pack)) {
        if proof.leave_open(pack, within, now) {
            tally.lost.insert(pack);
        }
    }
    let has_proved = tally.of(AuditOutcome::Ok) > 0 || (tally.slices == 0 && tally.records_ok > 0);
    if has_proved {
        proof.succeed(now);
    } else if !tally.was_away && tally.slices + tally.records_lost > 0 {
        proof.fail(now);
    }
    Ok(proof.clone())
}

const OUTCOMES: [AuditOutcome; 5] = [
    AuditOutcome::Ok,
    AuditOutcome::Wrong,
    AuditOutcome::Offline,
    AuditOutcome::Timeout,
    AuditOutcome::Unknown,
];

fn report_of(core: &Core, peer: PeerId, tally: &AuditTally, proof: &Proof) -> AuditReport {
    let time = core.now().to_rfc3339();
    let within = core.settings().replication.proof_within;
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
        proven_at: proof.proven.map(Moment::to_rfc3339),
        unproven_since: proof.unproven_since().map(Moment::to_rfc3339),
        not_counted: !proof.stands(within),
        time,
    }
}
