//! The metrics of this process, for Prometheus and for people.
//!
//! Counters are written where things happen; what is a state (bytes stored, copies, peers) is looked at when somebody
//! asks, and no more often than its cost allows.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use super::core::{Core, log_failure};
use super::error::failed;
use super::verified;
use crate::api::{ApiError, JobInfo, JobKind, JobOutcome, JobState, VerifyOutcomeShape};
use crate::base::{Code, Moment, meter};
use crate::engine::{self, VaultView};
use crate::net::Net;

/// What is cheap to look at is looked at this often at most.
const CHEAP: Duration = Duration::from_secs(2);
/// Counting copies reads every receipt (some 65 thousand a holder for 1 TiB).
const COSTLY: Duration = Duration::from_secs(30);

/// The process has one recorder, since code that counts must not have to know of a node.
static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();

/// When states were last looked at.
#[derive(Default)]
pub(super) struct Looks {
    cheap: Mutex<Option<Instant>>,
    costly: Mutex<Option<Instant>>,
}

/// Starts counting, with every metric at zero. Once a process; commands that end never call it.
pub(super) fn start() {
    RECORDER.get_or_init(|| {
        let mut builder = PrometheusBuilder::new();
        for metric in meter::METRICS {
            if let meter::MetricKind::Histogram(buckets) = metric.kind {
                let matcher = Matcher::Full(metric.name.to_owned());
                builder =
                    builder.set_buckets_for_metric(matcher, buckets).expect("the table has no empty buckets");
            }
        }
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        // Refused only when something else records already; then nothing is counted here.
        metrics::set_global_recorder(recorder).ok();
        meter::METRICS.iter().for_each(begin);
        metrics::describe_gauge!("shadowvault_build_info", "1, with the version of the program.");
        metrics::gauge!("shadowvault_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        meter::CONFIG_LAST_RELOAD_SUCCESSFUL.set(1.0);
        handle
    });
}

/// Tells what a metric means, and shows it at zero from the start.
fn begin(metric: &meter::Metric) {
    let (name, help) = (metric.name, metric.help);
    match (metric.kind, metric.labels) {
        (meter::MetricKind::Counter, None) => {
            metrics::describe_counter!(name, help);
            metrics::counter!(name).absolute(0);
        }
        (meter::MetricKind::Counter, Some((label, values))) => {
            metrics::describe_counter!(name, help);
            values.iter().for_each(|value| metrics::counter!(name, label => *value).absolute(0));
        }
        (meter::MetricKind::Gauge, _) => {
            metrics::describe_gauge!(name, help);
            metrics::gauge!(name).set(0.0);
        }
        (meter::MetricKind::GaugeOfPeer, _) => metrics::describe_gauge!(name, help),
        (meter::MetricKind::Histogram(_), _) => metrics::describe_histogram!(name, help),
    }
}

/// All metrics in Prometheus' text format.
pub(super) async fn text(core: &Arc<Core>) -> Result<String, ApiError> {
    let recorder = RECORDER.get().ok_or_else(|| {
        ApiError::new(Code::UsageInvalid, "this node counts nothing: it was opened for one command")
    })?;
    log_failure(core.blocking(refresh).await, "looking at the state for metrics");
    recorder.run_upkeep();
    Ok(recorder.render())
}

/// Name and labels of every sample, with its value; of histograms the sum and the count.
pub(super) async fn summary(core: &Arc<Core>) -> Result<BTreeMap<String, f64>, ApiError> {
    let text = text(core).await?;
    let samples = text.lines().filter(|line| !line.starts_with('#') && !line.contains("_bucket"));
    Ok(samples
        .filter_map(|line| {
            line.rsplit_once(' ').and_then(|(name, v)| Some((name.to_owned(), v.parse().ok()?)))
        })
        .collect())
}

fn due(last: &Mutex<Option<Instant>>, every: Duration) -> bool {
    let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
    let due = last.is_none_or(|at| at.elapsed() >= every);
    if due {
        *last = Some(Instant::now());
    }
    due
}

fn refresh(core: &Arc<Core>) -> Result<(), ApiError> {
    if due(&core.looks.cheap, CHEAP) {
        let counts = core.store.pack_counts().map_err(failed)?;
        meter::STORAGE_USED_BYTES.set(counts.bytes() as f64);
        meter::STORE_PACKS.set((counts.own_packs + counts.foreign_packs) as f64);
        meter::DISK_FREE_BYTES.set(core.store.disk_free() as f64);
        meter::MEMORY_BUDGET_USED_BYTES.set(core.resources.memory.used() as f64);
        meter::PEERS_CONNECTED.set(core.connected().len() as f64);
        meter::JOBS_RUNNING.set(core.jobs.all().iter().filter(|job| !job.state.is_final()).count() as f64);
        let states = core.net().map(Net::peers).unwrap_or_default();
        for entry in &core.book().allowed {
            let state = states.iter().find(|state| state.id == entry.peer);
            let seen = state.and_then(|state| state.last_seen).or(entry.last_seen);
            meter::PEER_LAST_SEEN.set(entry.peer.to_string(), seconds(seen));
        }
    }
    if due(&core.looks.costly, COSTLY)
        && let Ok(vault) = core.vault()
    {
        let view = VaultView::load(&vault).map_err(failed)?;
        let copies = engine::copy_counts(&vault, &view, core.counted()).map_err(failed)?;
        let least = view.snapshots.iter().map(|snapshot| copies.of_snapshot(snapshot.id)).min();
        meter::SNAPSHOT_COPIES_MIN.set(f64::from(least.unwrap_or(0)));
        let own = view.snapshots.iter().filter(|snapshot| snapshot.device == vault.device());
        meter::BACKUP_LAST_SUCCESS.set(seconds(own.map(|snapshot| snapshot.time).max()));
        let drill = verified::last_drill(core)?.and_then(|drill| drill.proven);
        meter::RESTORE_PROVEN.set(seconds(drill.as_deref().and_then(Moment::of_rfc3339)));
        let (wanted, mut lacking) = (core.settings().replication.copies, 0);
        let aside = core.store.packs_aside();
        core.store
            .for_each_pack(true, |row| {
                if copies.of_pack(row.number) < wanted && !aside.contains(&row.number) {
                    lacking += row.bytes;
                }
                true
            })
            .map_err(failed)?;
        meter::UNDER_REPLICATED_BYTES.set(lacking as f64);
    }
    Ok(())
}

fn seconds(time: Option<Moment>) -> f64 {
    time.map_or(0.0, |time| time.as_millis() as f64 / 1000.0)
}

/// Missing and damaged chunks, as the last verification of everything found them; one of a part may only find more.
static LOST: Mutex<(usize, usize)> = Mutex::new((0, 0));

/// Tells how many chunks are missing, and how many are damaged; `complete`: all of them.
pub(super) fn note_lost((missing, corrupt): (usize, usize), complete: bool) {
    let mut lost = LOST.lock().unwrap_or_else(PoisonError::into_inner);
    *lost = if complete { (missing, corrupt) } else { (lost.0.max(missing), lost.1.max(corrupt)) };
    meter::CHUNKS_MISSING.set(lost.0 as f64);
    meter::CHUNKS_CORRUPT.set(lost.1 as f64);
}

/// Counts how a job ended.
pub(super) fn job_ended(info: &JobInfo, now: Moment) {
    let took = info.progress.seconds_elapsed;
    meter::JOB_DURATION.note(info.kind.name(), took);
    if let Some(error) = &info.error
        && info.state != JobState::Cancelled
    {
        meter::ERRORS.add(error.kind().category().name(), 1);
    }
    match (&info.outcome, info.kind) {
        (Some(JobOutcome::Backup(done)), _) if !done.dry_run => {
            meter::BACKUPS_CREATED.add(1);
            meter::BYTES_BACKED_UP.add(done.total_bytes_processed);
            meter::BACKUP_DURATION.note(took);
            meter::BACKUP_LAST_SUCCESS.set(seconds(Some(now)));
        }
        (Some(JobOutcome::Backup(_)), _) => {}
        (Some(JobOutcome::Restore(done)), _) => {
            let complete = done.failed == 0;
            if complete { &meter::RESTORES_COMPLETED } else { &meter::RESTORES_FAILED }.add(1);
            meter::BYTES_RESTORED.add(done.bytes_restored);
        }
        (Some(JobOutcome::Verify(done)), _) => {
            let lost = |count: fn(&crate::api::VerifySnapshotReport) -> usize| match &done.result {
                VerifyOutcomeShape::One(one) => count(one),
                VerifyOutcomeShape::All(all) => all.snapshots.iter().map(count).sum(),
            };
            let found = (lost(|s| s.missing_chunks.len()), lost(|s| s.corrupted_chunks.len()));
            let damaged = info.error.as_ref().is_some_and(|error| error.kind() != Code::Incomplete);
            let sound = done.damaged_packs.is_empty() && !damaged;
            meter::VERIFY_RUNS.add(if sound { "sound" } else { "damaged" }, 1);
            note_lost(found, done.complete);
            done.repair.as_deref().into_iter().for_each(repaired);
        }
        (Some(JobOutcome::Repair(done)), _) => repaired(done),
        (None, JobKind::Backup) => meter::BACKUPS_FAILED.add(1),
        (None, JobKind::Restore) => meter::RESTORES_FAILED.add(1),
        (None, JobKind::Verify) => meter::VERIFY_RUNS.add("failed", 1),
        (Some(JobOutcome::Forget(done)), _) => done.gc.iter().for_each(collected),
        (Some(JobOutcome::Gc(done)), _) => collected(done),
        (Some(JobOutcome::Import(_) | JobOutcome::Drill(_)), _) => {}
        (None, JobKind::Repair | JobKind::Forget | JobKind::Gc | JobKind::Import) => {}
    }
}

fn collected(done: &crate::api::GcReport) {
    if !done.dry_run && !done.unchanged {
        meter::GC_RUNS.add(1);
        meter::GC_FREED_BYTES.add(done.deleted_bytes);
    }
}

fn repaired(done: &crate::api::RepairReport) {
    meter::REPAIRED_CHUNKS.add("restored", done.repaired_chunks);
    meter::REPAIRED_CHUNKS.add("lost", done.unrepaired_chunks);
}
