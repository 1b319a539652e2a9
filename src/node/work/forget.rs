//! Forgetting and garbage collection, asked for or on schedule.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::api::{
    ApiError, ForgetReport, ForgetRequest, GcReport, GcRequest, GcStatus, JobOutcome, KeepRules, Kept,
    ReplacedFile,
};
use crate::base::{ByteSize, Code, HeadId, ListId, Moment, PeerId, SnapshotId, limit};
use crate::config::Settings;
use crate::engine::{
    self, ForgetPlan, GcOptions, GcResult, Monitor, PackSource, RecordDamage, UnreadableHead, Vault,
    VaultView,
};
use crate::node::core::{Core, keep_note};
use crate::node::error::failed;
use crate::node::jobs::Ended;
use crate::node::keepers::RecordMesh;
use crate::node::mending;
use crate::policy::{ClockNews, Rules, judge_clock};
use crate::store::RecordName;

const FILE: &str = "gc.json";
const CLOCK: &str = "clock.json";
/// Hex digits that name a lost head at least; as for snapshots.
const HEAD_REFERENCE_MIN: usize = 4;
const DAY: Duration = Duration::from_secs(86_400);

/// What is remembered of the last collection.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Last {
    time: Option<Moment>,
    error: Option<String>,
    /// The newest heads that it followed, its own included.
    heads: Vec<HeadId>,
}

/// When the clock was last looked at.
#[derive(Serialize, Deserialize)]
struct Seen {
    time: Moment,
}

/// The rules of the configuration; `storage.retention_days` is one more of them.
fn configured(settings: &Settings) -> Rules {
    let keep = &settings.retention;
    let days = settings.storage.retention_days;
    let age = (days > 0).then(|| DAY * days);
    Rules {
        last: keep.keep_last.unwrap_or(0),
        hourly: keep.keep_hourly.unwrap_or(0),
        daily: keep.keep_daily.unwrap_or(0),
        weekly: keep.keep_weekly.unwrap_or(0),
        monthly: keep.keep_monthly.unwrap_or(0),
        yearly: keep.keep_yearly.unwrap_or(0),
        within: keep.keep_within.max(age),
        tags: keep.keep_tags.clone(),
    }
}

/// Whether the configuration has any rule.
pub(in crate::node) fn has_rules(settings: &Settings) -> bool {
    !configured(settings).is_empty()
}

fn asked(rules: &KeepRules) -> Rules {
    Rules {
        last: rules.keep_last.unwrap_or(0),
        hourly: rules.keep_hourly.unwrap_or(0),
        daily: rules.keep_daily.unwrap_or(0),
        weekly: rules.keep_weekly.unwrap_or(0),
        monthly: rules.keep_monthly.unwrap_or(0),
        yearly: rules.keep_yearly.unwrap_or(0),
        within: rules.keep_within_ms.map(Duration::from_millis),
        tags: rules.keep_tags.clone(),
    }
}

/// One way to say what goes, not two.
fn check(request: &ForgetRequest) -> Result<(), ApiError> {
    let by_rules = request.rules != KeepRules::default();
    let ways =
        [!request.snapshots.is_empty(), by_rules, request.configured].iter().filter(|way| **way).count();
    if ways > 1 {
        let text = "name snapshots, or give rules, or use the configured ones: not several of these";
        return Err(ApiError::new(Code::UsageInvalid, text));
    }
    if request.lost && request.snapshots.is_empty() {
        return Err(ApiError::new(Code::UsageInvalid, "lost snapshots are named one by one"));
    }
    if request.rules.keep_tags.iter().any(String::is_empty) {
        return Err(ApiError::new(Code::UsageInvalid, "a tag to keep is not empty"));
    }
    Ok(())
}

pub(super) async fn forget(
    core: &Arc<Core>,
    request: ForgetRequest,
    monitor: Arc<Monitor>,
    memory: usize,
) -> Ended {
    check(&request)?;
    if request.scheduled && core.vault().is_err() {
        return Ok((JobOutcome::Forget(ForgetReport::default()), None));
    }
    let asked = match request.lost {
        true => look_for(core, &request, monitor.clone()).await?,
        false => Vec::new(),
    };
    let then_gc = request.gc.then(|| GcRequest { dry_run: request.dry_run, ..GcRequest::default() });
    let mut report = {
        let monitor = monitor.clone();
        core.blocking(move |core| forget_now(core, &request, asked, &monitor)).await?
    };
    let is_changed = !(report.forgotten.is_empty() && report.heads.is_empty() && report.lists.is_empty());
    if is_changed && !report.dry_run {
        core.changed.notify_one();
    }
    if let Some(request) = then_gc {
        let (outcome, error) = gc(core, request, monitor, memory).await?;
        if let JobOutcome::Gc(done) = outcome {
            report.gc = Some(done);
        }
        return Ok((JobOutcome::Forget(report), error));
    }
    Ok((JobOutcome::Forget(report), None))
}

/// Before a snapshot is given up: whether a holder has its record after all. What comes is kept; returns who does not have it.
async fn look_for(
    core: &Arc<Core>,
    request: &ForgetRequest,
    monitor: Arc<Monitor>,
) -> Result<Vec<PeerId>, ApiError> {
    let references = request.snapshots.clone();
    core.blocking(move |core| {
        monitor.enter("asking holders");
        let vault = core.vault()?;
        let view = VaultView::load(&vault).map_err(failed)?;
        let lost = engine::unreadable_heads(&core.store, vault.id()).map_err(failed)?;
        let lists = engine::lost_lists(&vault).map_err(failed)?;
        let named = resolve_all(&view, (&lost, &lists), &references)?;
        let heads = heads_named(lost, &references);
        let damages = engine::damaged_records(&core.store, &monitor).map_err(failed)?;
        let lists = lists_named(&lists, &references);
        let is_meant = |damage: &RecordDamage| match damage.record {
            RecordName::Snapshot(id) => named.contains(&id),
            RecordName::Head { id, .. } => heads.contains(&id),
            RecordName::List(id) => lists.contains(&id),
        };
        let Some(source) = RecordMesh::new(core) else { return Ok(Vec::new()) };
        let named = damages.into_iter().filter(is_meant).collect();
        engine::repair_records(&core.store, named, &source, &monitor).map_err(failed)?;
        Ok(source.answering(vault.id()))
    })
    .await
}

/// Heads and pieces of the pack list that cannot be read.
type Lost<'a> = (&'a [UnreadableHead], &'a [ListId]);

/// Heads that cannot be read, by their references.
fn heads_named(lost: Vec<UnreadableHead>, references: &[String]) -> Vec<HeadId> {
    let is_meant = |head: &UnreadableHead| references.iter().any(|reference| is_named(head, reference));
    lost.into_iter().filter(is_meant).map(|head| head.id).collect()
}

/// The same of pieces of the pack list.
fn lists_named(lost: &[ListId], references: &[String]) -> Vec<ListId> {
    let is_meant = |list: &&ListId| references.iter().any(|reference| begins(list, reference));
    lost.iter().filter(is_meant).copied().collect()
}

/// Whether a reference is the beginning of this head's id, as `status` shows it.
fn is_named(head: &UnreadableHead, reference: &str) -> bool {
    begins(&head.id, reference)
}

fn begins(id: &impl ToString, reference: &str) -> bool {
    reference.len() >= HEAD_REFERENCE_MIN && id.to_string().starts_with(&reference.to_lowercase())
}

/// Snapshots by their references, also such whose records cannot be read; none twice.
fn resolve_all(
    view: &VaultView,
    (heads, lists): Lost<'_>,
    references: &[String],
) -> Result<Vec<SnapshotId>, ApiError> {
    let mut named: Vec<SnapshotId> = Vec::new();
    let is_other = |reference: &&String| {
        heads.iter().any(|head| is_named(head, reference)) || lists.iter().any(|list| begins(list, reference))
    };
    for reference in references.iter().filter(|reference| !is_other(reference)) {
        let id = engine::resolve_listed(view, reference).map_err(failed)?;
        if !named.contains(&id) {
            named.push(id);
        }
    }
    Ok(named)
}

/// Those who were asked for records, and others that hold something of the vault and were not, as people call them.
fn holders_asked(
    core: &Core,
    vault: &Vault,
    asked: &[PeerId],
) -> Result<(Vec<String>, Vec<String>), ApiError> {
    let mut holders: BTreeSet<PeerId> = BTreeSet::new();
    for (holder, ..) in core.store.head_receipts().map_err(failed)? {
        holders.insert(holder);
    }
    for head in engine::newest_heads(&core.store, vault.id()).map_err(failed)? {
        let head = head.map_err(failed)?;
        holders.insert(head.certificate.peer);
        holders.extend(head.draft.holders.iter().map(|holder| holder.peer));
    }
    let away = |peer: &PeerId| *peer != core.key.peer_id() && !asked.contains(peer);
    let book = core.book().clone();
    let name = |peer: &PeerId| {
        let known = book.find(*peer).and_then(|entry| entry.name.clone());
        known.unwrap_or_else(|| peer.to_string())
    };
    let not_asked = holders.iter().filter(|peer| away(peer)).map(name).collect();
    Ok((asked.iter().map(name).collect(), not_asked))
}

fn forget_now(
    core: &Arc<Core>,
    request: &ForgetRequest,
    asked: Vec<PeerId>,
    monitor: &Monitor,
) -> Result<ForgetReport, ApiError> {
    monitor.enter("choosing snapshots");
    let vault = core.vault()?;
    let view = VaultView::load(&vault).map_err(failed)?;
    if request.scheduled {
        watch_clock(core)?;
    }
    let (lost, lists) = match request.lost {
        true => (
            engine::unreadable_heads(&core.store, vault.id()).map_err(failed)?,
            engine::lost_lists(&vault).map_err(failed)?,
        ),
        false => Default::default(),
    };
    let plan = plan(core, &vault, &view, (&lost, &lists), request)?;
    let heads = heads_named(lost, &request.snapshots);
    let lists = lists_named(&lists, &request.snapshots);
    let effect = engine::forget_effect(&vault, &view, &plan.forget).map_err(failed)?;
    // Rules count snapshots and know nothing of what is in them: the newest ones may be of a source that was lost.
    let by_rules = request.snapshots.is_empty() && !request.dry_run && !request.confirmed;
    if by_rules && effect.exceeds(limit::FORGET_PERCENT_MAX) {
        let (freed, live) = (ByteSize(effect.freed_bytes), ByteSize(effect.live_bytes));
        let count = plan.forget.len();
        let text = format!(
            "forgetting {count} snapshots by these rules would free {freed} of {live}; nothing was forgotten"
        );
        let same = if request.scheduled { " --configured" } else { "" };
        let hint = format!("look with `shadowvault forget{same} --dry-run`; with --yes it is done");
        return Err(ApiError::new(Code::ConfirmationNeeded, text).with_hint(hint));
    }
    let (asked, not_asked) = match request.lost {
        true => holders_asked(core, &vault, &asked)?,
        false => Default::default(),
    };
    if request.lost && !request.dry_run && !request.confirmed {
        let count = plan.forget.len() + heads.len() + lists.len();
        let text = format!(
            "{count} snapshots, heads or pack lists would be given up for good; nothing was forgotten"
        );
        return Err(ApiError::new(Code::ConfirmationNeeded, text)
            .with_hint("look with --dry-run what that means; --yes does it"));
    }
    if !request.dry_run {
        for id in &heads {
            engine::give_up_head(&vault, *id, &core.holder_addresses()).map_err(failed)?;
            tracing::warn!(target: "forget", head = %id.short(), "an unreadable head is given up");
        }
        if !lists.is_empty() {
            engine::give_up_lists(&vault, &lists, &core.holder_addresses()).map_err(failed)?;
            tracing::warn!(target: "forget", lists = lists.len(), "unreadable pieces of the pack list are given up");
            core.doubt_records();
        }
    }
    if !request.dry_run && !plan.forget.is_empty() {
        let forget = if request.lost { engine::forget_lost } else { engine::forget };
        forget(&vault, &plan.forget, &core.holder_addresses()).map_err(failed)?;
        if request.lost {
            let left = engine::damaged_records(&core.store, monitor).map_err(failed)?;
            mending::note_records(core, !left.is_empty());
        }
        tracing::info!(target: "forget", forgotten = plan.forget.len(), kept = plan.keep.len(), "snapshots forgotten");
    }
    let kept: Vec<Kept> = plan
        .keep
        .into_iter()
        .map(|(id, reasons)| Kept {
            snapshot_id: id,
            reasons: reasons.iter().map(ToString::to_string).collect(),
        })
        .collect();
    Ok(ForgetReport {
        dry_run: request.dry_run,
        forgotten: plan.forget,
        kept_count: kept.len() as u64,
        kept,
        freed_bytes: effect.freed_bytes,
        live_bytes: effect.live_bytes,
        heads,
        lists,
        asked,
        not_asked,
        gc: None,
    })
}

fn plan(
    core: &Core,
    vault: &Vault,
    view: &VaultView,
    lost: Lost<'_>,
    request: &ForgetRequest,
) -> Result<ForgetPlan, ApiError> {
    if request.snapshots.is_empty() {
        let rules = if request.configured { configured(&core.settings()) } else { asked(&request.rules) };
        return Ok(engine::plan_forget(vault, view, &rules, core.now(), &TimeZone::system()));
    }
    if request.lost {
        let named = resolve_all(view, lost, &request.snapshots)?;
        return engine::plan_lost(vault, view, &named).map_err(failed);
    }
    let mut named: Vec<SnapshotId> = Vec::new();
    for reference in &request.snapshots {
        let id = engine::resolve(view, reference).map_err(failed)?.id;
        if !named.contains(&id) {
            named.push(id);
        }
    }
    engine::plan_named(vault, view, &named, request.confirmed, core.now()).map_err(failed)
}

/// A clock that went back, or far ahead, is no reason to forget: expiry waits until it has been steady for one round.
fn watch_clock(core: &Arc<Core>) -> Result<(), ApiError> {
    let now = core.now();
    let seen: Option<Seen> = core.store.read_state_if_sound(CLOCK).map_err(failed)?;
    core.store.publish_state(CLOCK, &Seen { time: now }).map_err(failed)?;
    let what = match judge_clock(seen.map(|seen| seen.time), now, limit::FORGET_EVERY) {
        ClockNews::Steady => return Ok(()),
        ClockNews::Backwards(span) => format!("the clock went back by {} h", span.as_secs() / 3600),
        ClockNews::Jumped(span) => {
            format!("the clock is {} h ahead of the last look", (span + limit::FORGET_EVERY).as_secs() / 3600)
        }
    };
    let text = format!("{what}; nothing was forgotten");
    let hint = "is the time right? if so, the next run goes on; or run `shadowvault forget --configured`";
    Err(ApiError::new(Code::ClockOdd, text).with_hint(hint))
}

pub(super) async fn gc(core: &Arc<Core>, request: GcRequest, monitor: Arc<Monitor>, memory: usize) -> Ended {
    if request.scheduled && core.vault().is_err() {
        // A node without a vault, or a locked one: nothing to do until its next time.
        let report = GcReport { unchanged: true, ..GcReport::default() };
        return Ok((JobOutcome::Gc(report), None));
    }
    let source = core.source();
    let began = Instant::now();
    let ended = core
        .blocking(move |core| {
            let vault = core.vault()?;
            let heads = head_ids(&vault)?;
            if request.scheduled && nothing_new(core, &vault, &heads)? {
                let report = GcReport { unchanged: true, ..GcReport::default() };
                return Ok(report);
            }
            let options = GcOptions {
                dry_run: request.dry_run,
                now: request.now,
                max_unused_percent: request.max_unused.unwrap_or(limit::GC_UNUSED_PERCENT),
                grace: limit::GC_GRACE,
                memory_bytes: memory,
                holder_room: room_at_holders(core)?,
            };
            let source = source.as_ref().map(|source| source as &dyn PackSource);
            let done =
                engine::collect(&vault, options, &core.holder_addresses(), source, &monitor).map_err(failed);
            if !request.dry_run {
                remember(core, &vault, done.as_ref().err());
            }
            let mut report = report(core, &options, done?)?;
            if request.now && !request.dry_run {
                (report.cleared_files, report.cleared_bytes) =
                    core.store.clear_quarantine(core.now()).map_err(failed)?;
            }
            report.total_duration = began.elapsed().as_secs_f64();
            Ok(report)
        })
        .await?;
    if ended.deleted_packs + ended.resealed_packs > 0 && !ended.dry_run {
        core.changed.notify_one();
    }
    Ok((JobOutcome::Gc(ended), None))
}

/// What rewritten packs may take at this vault's holders: half of what as many of them as there are to be copies each
/// have free, since new backups come first. Nothing as long as too few of them can be asked; `None` without holders.
fn room_at_holders(core: &Arc<Core>) -> Result<Option<u64>, ApiError> {
    let mut holders: BTreeSet<PeerId> = BTreeSet::new();
    core.store
        .for_each_receipt(|_, holder, _| {
            holders.insert(holder);
        })
        .map_err(failed)?;
    let counted = core.counted();
    holders.retain(|holder| counted(holder));
    if holders.is_empty() {
        return Ok(None);
    }
    let mut free: Vec<u64> = core.connected().into_iter().filter_map(|peer| core.owning.room(peer)).collect();
    free.sort_unstable_by(|a, b| b.cmp(a));
    let needed = holders.len().min(core.settings().replication.copies.max(1) as usize);
    Ok(Some(free.get(needed - 1).map_or(0, |free| free / 2)))
}

fn head_ids(vault: &Vault) -> Result<Vec<HeadId>, ApiError> {
    let heads = engine::newest_heads(&vault.store, vault.id()).map_err(failed)?;
    let mut ids: Vec<HeadId> =
        heads.map(|head| head.map(|head| head.id)).collect::<Result<_, _>>().map_err(failed)?;
    ids.sort_unstable();
    Ok(ids)
}

fn last(core: &Core) -> Result<Last, ApiError> {
    // What cannot be read is as good as nothing: everything is looked at anew.
    Ok(core.store.read_state_if_sound(FILE).map_err(failed)?.unwrap_or_default())
}

/// The same heads as last time, and nothing that waits is due.
fn nothing_new(core: &Core, vault: &Vault, heads: &[HeadId]) -> Result<bool, ApiError> {
    let waiting = engine::waiting(&vault.store, limit::GC_GRACE).map_err(failed)?;
    let due = waiting.first.is_some_and(|first| first <= core.now());
    let last = last(core)?;
    Ok(!due && last.error.is_none() && last.heads == heads)
}

fn remember(core: &Core, vault: &Vault, error: Option<&ApiError>) {
    let heads = head_ids(vault).unwrap_or_default();
    let error = error.map(|error| error.message.chars().take(limit::SCHEDULE_MESSAGE_CHARS_MAX).collect());
    let last = Last { time: Some(core.now()), error, heads };
    keep_note(core, FILE, &last, "noting a collection");
}

fn report(core: &Core, options: &GcOptions, done: GcResult) -> Result<GcReport, ApiError> {
    let waiting = engine::waiting(&core.store, options.grace).map_err(failed)?;
    Ok(GcReport {
        dry_run: options.dry_run,
        snapshots: done.snapshots,
        live_chunks: done.live_chunks,
        dead_chunks: done.dead_chunks,
        packs: done.packs,
        quarantined_packs: done.retired.0,
        quarantined_bytes: done.retired.1,
        revived_packs: done.revived,
        resealed_packs: done.resealed,
        resealed_bytes: done.resealed_bytes,
        deleted_packs: done.deleted.0,
        deleted_bytes: done.deleted.1,
        waiting_packs: waiting.packs,
        waiting_bytes: waiting.bytes,
        next_deletion: waiting.first.map(Moment::to_rfc3339),
        problems: done.problems,
        ..GcReport::default()
    })
}

/// What waits to be deleted.
pub(in crate::node) fn gc_status(core: &Arc<Core>) -> Result<GcStatus, ApiError> {
    let waiting = engine::waiting(&core.store, limit::GC_GRACE).map_err(failed)?;
    let last = last(core)?;
    let replaced = core.store.quarantined().map_err(failed)?.into_iter().map(|one| ReplacedFile {
        pack: one.pack,
        bytes: one.bytes,
        since: one.since.to_rfc3339(),
        until: one.since.after(limit::QUARANTINE_KEPT).to_rfc3339(),
    });
    Ok(GcStatus {
        replaced: replaced.collect(),
        waiting_packs: waiting.packs,
        waiting_bytes: waiting.bytes,
        resealed_packs: waiting.resealed,
        next_deletion: waiting.first.map(Moment::to_rfc3339),
        last_deletion: waiting.last.map(Moment::to_rfc3339),
        held_packs: core.on_hold.sum().0,
        held_bytes: core.on_hold.sum().1,
        last_run: last.time.map(Moment::to_rfc3339),
        last_error: last.error,
    })
}
