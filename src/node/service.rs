//! The node as [`Service`]: what commands and the API ask.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::core::{Core, log_failure, workers};
use super::error::failed;
use super::jobs::Ended;
use super::owning::index_listed;
use super::reload;
use super::schedule::{self, HookFacts, HookKind};
use super::source::Mesh;
use super::{Mode, Node, exposition, status};
use crate::api::{
    AddPeer, AddSchedule, ApiError, BackupRequest, BackupSummary, ConfigRow, EditSchedule, EntryInfo,
    EventStream, Health, Identity, JobId, JobInfo, JobOutcome, JobRequest, PeerInfo, Reloaded, RepairReport,
    RepairRequest, Reply, RestoreRequest, RestoreSummary, ScheduleInfo, Service, SnapshotInfo, SnapshotQuery,
    Status, TreeQuery, VerifyAllReport, VerifyOutcomeShape, VerifyReport, VerifyRequest,
    VerifySnapshotReport, WaitFor,
};
use crate::base::{Code, PeerId, SnapshotId, limit};
use crate::crypto::Passphrase;
use crate::engine::{
    self, BackupOptions, Monitor, PackSource, RestoreOptions, Vault, VaultView, VerifyOptions, VerifyResult,
};
use crate::fs::Overwrite;
use crate::net::parse_peer_address;
use crate::store::PeerEntry;

/// How often copies are counted while a backup waits for them.
const COPIES_PAUSE: Duration = Duration::from_millis(250);

impl Service for Node {
    fn identity(&self) -> Reply<'_, Identity> {
        Box::pin(async { Ok(status::identity(&self.core)) })
    }

    fn status(&self) -> Reply<'_, Status> {
        Box::pin(self.core.blocking(status::status))
    }

    fn health(&self) -> Reply<'_, Health> {
        Box::pin(async { Ok(status::health(&self.core).await) })
    }

    fn peers(&self) -> Reply<'_, Vec<PeerInfo>> {
        Box::pin(self.core.blocking(status::peers))
    }

    fn add_peer(&self, request: AddPeer) -> Reply<'_, PeerInfo> {
        Box::pin(add_peer(&self.core, request))
    }

    fn remove_peer(&self, peer: String) -> Reply<'_, PeerInfo> {
        Box::pin(remove_peer(&self.core, peer))
    }

    fn snapshots(&self, query: SnapshotQuery) -> Reply<'_, Vec<SnapshotInfo>> {
        Box::pin(self.core.blocking(move |core| {
            let vault = core.vault()?;
            let view = VaultView::load(&vault).map_err(failed)?;
            status::snapshots(&vault, &view, &query)
        }))
    }

    fn list(&self, query: TreeQuery) -> Reply<'_, Vec<EntryInfo>> {
        let source = self.core.source();
        Box::pin(self.core.blocking(move |core| {
            let vault = core.vault()?;
            let view = VaultView::load(&vault).map_err(failed)?;
            let (reference, path) = split_reference(&query.snapshot);
            let snapshot = engine::resolve(&view, reference).map_err(failed)?;
            let mut entries = Vec::new();
            let source = source.as_ref().map(|source| source as &dyn PackSource);
            let monitor = Monitor::default();
            engine::list(&vault, snapshot, &path, query.recursive, source, &monitor, |entry| {
                entries.push(status::entry(entry));
                true
            })
            .map_err(failed)?;
            Ok(entries)
        }))
    }

    fn start(&self, request: JobRequest) -> Reply<'_, JobId> {
        Box::pin(async { self.core.start_job(request) })
    }

    fn job(&self, id: JobId) -> Reply<'_, JobInfo> {
        Box::pin(async move { self.core.jobs.info(id) })
    }

    fn jobs(&self) -> Reply<'_, Vec<JobInfo>> {
        Box::pin(async { Ok(self.core.jobs.all()) })
    }

    fn cancel(&self, id: JobId) -> Reply<'_, ()> {
        Box::pin(async move { self.core.jobs.cancel(id) })
    }

    fn events(&self, since: Option<u64>) -> Reply<'_, EventStream> {
        let core = &self.core;
        Box::pin(async move { Ok(core.events.follow(since, core.now(), core.stop.clone())) })
    }

    fn config(&self) -> Reply<'_, Vec<ConfigRow>> {
        Box::pin(async { reload::rows(&self.core) })
    }

    fn reload(&self) -> Reply<'_, Reloaded> {
        Box::pin(self.core.blocking(reload::reload))
    }

    fn schedule(&self) -> Reply<'_, Vec<ScheduleInfo>> {
        Box::pin(async { schedule::list(&self.core) })
    }

    fn add_schedule(&self, request: AddSchedule) -> Reply<'_, ScheduleInfo> {
        Box::pin(self.core.blocking(|core| schedule::add(core, request)))
    }

    fn edit_schedule(&self, id: String, edit: EditSchedule) -> Reply<'_, ScheduleInfo> {
        Box::pin(self.core.blocking(move |core| schedule::edit(core, &id, edit)))
    }

    fn remove_schedule(&self, id: String) -> Reply<'_, ()> {
        Box::pin(self.core.blocking(move |core| schedule::remove(core, &id)))
    }

    fn run_schedule(&self, id: String) -> Reply<'_, ScheduleInfo> {
        Box::pin(schedule::run_now(&self.core, id))
    }

    fn metrics(&self) -> Reply<'_, String> {
        Box::pin(exposition::text(&self.core))
    }

    fn metrics_summary(&self) -> Reply<'_, BTreeMap<String, f64>> {
        Box::pin(exposition::summary(&self.core))
    }

    fn unlock(&self, passphrase: String) -> Reply<'_, ()> {
        let passphrase = Passphrase::new(passphrase);
        Box::pin(self.core.blocking(move |core| core.unlock(&passphrase)))
    }
}

impl Core {
    /// Packs from peers, where there is a network.
    pub(super) fn source(self: &Arc<Self>) -> Option<Mesh> {
        self.net().ok().map(|net| Mesh::new(self.clone(), net.clone(), None))
    }
}

/// `REF` or `REF:PATH`; the path is absolute in the snapshot.
fn split_reference(reference: &str) -> (&str, PathBuf) {
    match reference.split_once(':') {
        Some((snapshot, path)) => (snapshot, Path::new("/").join(path)),
        None => (reference, PathBuf::from("/")),
    }
}

/// Does a job, with buffers of `memory` bytes.
pub(super) async fn run(
    core: &Arc<Core>,
    request: JobRequest,
    monitor: Arc<Monitor>,
    memory: usize,
) -> Ended {
    match request {
        JobRequest::Backup(request) => backup_with_hooks(core, request, monitor, memory).await,
        JobRequest::Restore(request) => restore(core, request, monitor, memory).await,
        JobRequest::Verify(request) => verify(core, request, monitor, memory).await,
        JobRequest::Repair(request) => repair(core, request, monitor, memory).await,
    }
}

fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// A backup, with what its set says around it.
async fn backup_with_hooks(
    core: &Arc<Core>,
    mut request: BackupRequest,
    monitor: Arc<Monitor>,
    memory: usize,
) -> Ended {
    let Some(id) = request.set.take() else { return backup(core, request, monitor, memory).await };
    let settings = core.settings();
    let set = settings.backup_sets.iter().find(|set| set.id == id).ok_or_else(|| {
        let known: Vec<&str> = settings.backup_sets.iter().map(|set| set.id.as_str()).collect();
        let hint = match known.as_slice() {
            [] => "backup_sets in the configuration has none".to_owned(),
            known => format!("there are {}", known.join(", ")),
        };
        ApiError::new(Code::UsageInvalid, format!("there is no backup set {id:?}")).with_hint(hint)
    })?;
    request.paths.extend(set.paths.iter().cloned());
    request.exclude.extend(set.exclude.iter().cloned());
    request
        .tags
        .extend(set.tags.iter().filter(|tag| !request.tags.contains(tag)).cloned().collect::<Vec<_>>());
    let mut facts = HookFacts { set: id, ..HookFacts::default() };
    monitor.enter("running the before hook");
    let mut ended = match schedule::hook(core, &set.hooks, HookKind::Before, &facts).await {
        Ok(()) => backup(core, request, monitor.clone(), memory).await,
        Err(error) => Err(error),
    };
    let (done, error) = match &ended {
        Ok((JobOutcome::Backup(summary), error)) => (Some(summary.snapshot_id.clone()), error.clone()),
        Ok((_, error)) => (None, error.clone()),
        Err(error) => (None, Some(error.clone())),
    };
    facts.snapshot = done.unwrap_or_default();
    if let Some(error) = error {
        (facts.code, facts.message) = (error.code, error.message);
    }
    monitor.enter("running hooks");
    let kind = if facts.snapshot.is_empty() { HookKind::Failure } else { HookKind::Success };
    for kind in [kind, HookKind::After] {
        // The backup is what it is; a hook that fails after it is worth a word, and keeps it from being a full success.
        if let Err(failure) = schedule::hook(core, &set.hooks, kind, &facts).await
            && let Ok((_, error @ None)) = &mut ended
        {
            *error = Some(failure);
        }
    }
    ended
}

async fn backup(core: &Arc<Core>, request: BackupRequest, monitor: Arc<Monitor>, memory: usize) -> Ended {
    if request.paths.is_empty() {
        return Err(ApiError::new(Code::UsageInvalid, "nothing to back up: no path was given"));
    }
    let began = Instant::now();
    let waits = request.wait == WaitFor::Copies;
    if waits && core.mode == Mode::Offline {
        return Err(super::error::no_network());
    }
    let patience = request.wait_timeout_ms.map(Duration::from_millis);
    let done = {
        let monitor = monitor.clone();
        core.blocking(move |core| {
            let vault = core.vault()?;
            let options = BackupOptions {
                paths: request.paths,
                exclude: request.exclude,
                tags: request.tags,
                memory_bytes: memory,
                hostname: request.host.unwrap_or_else(hostname),
                username: std::env::var("USER").unwrap_or_default(),
                one_file_system: request.one_file_system,
                force: request.force,
                holders: core.holder_addresses(),
                checkpoint_every: Some(limit::CHECKPOINT_EVERY),
            };
            engine::backup(&vault, &options, &monitor).map_err(failed)
        })
        .await?
    };
    core.changed.notify_one();
    let wanted = core.settings().replication.copies;
    let snapshot = done.snapshot;
    let copies = if waits {
        await_copies(core, snapshot, wanted, patience, &monitor).await?
    } else {
        core.blocking(move |core| copies_of(core, snapshot)).await?
    };
    let counts = done.counts;
    let summary = BackupSummary {
        snapshot_id: done.snapshot.to_string(),
        files_new: counts.files_new,
        files_changed: counts.files_changed,
        files_unmodified: counts.files_unmodified,
        dirs_new: counts.dirs_new,
        data_added: counts.data_added,
        data_added_packed: counts.data_added_packed,
        total_files_processed: counts.files,
        total_bytes_processed: counts.bytes,
        total_duration: began.elapsed().as_secs_f64(),
        unreadable: counts.unreadable,
        inconsistent: counts.inconsistent,
        copies,
        copies_wanted: wanted,
    };
    let error = if counts.unreadable > 0 {
        let text = format!("{} entries could not be read and are not in the snapshot", counts.unreadable);
        Some(ApiError::new(Code::Incomplete, text))
    } else if waits && copies < wanted {
        let text = format!("{copies} of {wanted} copies so far; the snapshot is safe on this machine only");
        let hint = "`shadowvault status` shows what is missing; the daemon goes on by itself";
        Some(ApiError::new(Code::CopiesMissing, text).with_hint(hint))
    } else {
        None
    };
    Ok((JobOutcome::Backup(summary), error))
}

fn copies_of(core: &Arc<Core>, snapshot: SnapshotId) -> Result<u32, ApiError> {
    let vault = core.vault()?;
    let view = VaultView::load(&vault).map_err(failed)?;
    Ok(engine::copy_counts(&vault, &view).map_err(failed)?.of_snapshot(snapshot))
}

async fn await_copies(
    core: &Arc<Core>,
    snapshot: SnapshotId,
    wanted: u32,
    patience: Option<Duration>,
    monitor: &Monitor,
) -> Result<u32, ApiError> {
    monitor.enter("waiting for copies");
    let began = Instant::now();
    loop {
        let copies = core.blocking(move |core| copies_of(core, snapshot)).await?;
        let over = patience.is_some_and(|patience| began.elapsed() >= patience);
        if copies >= wanted || over || core.stop.is_cancelled() || monitor.go_on().is_err() {
            return Ok(copies);
        }
        tokio::time::sleep(COPIES_PAUSE).await;
    }
}

async fn restore(core: &Arc<Core>, request: RestoreRequest, monitor: Arc<Monitor>, memory: usize) -> Ended {
    if !request.target.is_absolute() {
        return Err(ApiError::new(Code::UsageInvalid, "the target must be an absolute path"));
    }
    let overwrite = match request.overwrite.as_deref() {
        None | Some("never") => Overwrite::Never,
        Some("if-changed") => Overwrite::IfChanged,
        Some("if-newer") => Overwrite::IfNewer,
        Some("always") => Overwrite::Always,
        Some(other) => {
            let text = format!("overwrite cannot be {other:?}: never, if-changed, if-newer or always");
            return Err(ApiError::new(Code::UsageInvalid, text));
        }
    };
    let began = Instant::now();
    know_listed_packs(core).await;
    let source = core.source();
    core.blocking(move |core| {
        let vault = core.vault()?;
        let view = VaultView::load(&vault).map_err(failed)?;
        let (reference, path) = split_reference(&request.snapshot);
        let snapshot = engine::resolve(&view, reference).map_err(failed)?;
        let options = RestoreOptions {
            path,
            target: request.target,
            memory_bytes: memory,
            overwrite,
            owner: !request.no_owner,
            privileged: !request.no_privileged,
            sparse: request.sparse,
            verify: request.verify.unwrap_or(core.settings().storage.verify_on_restore),
        };
        let source = source.as_ref().map(|source| source as &dyn PackSource);
        let done = engine::restore(&vault, snapshot, &options, source, &monitor).map_err(failed)?;
        let fetched = monitor.bytes_fetched.load(std::sync::atomic::Ordering::Relaxed);
        let summary = RestoreSummary {
            snapshot_id: snapshot.id.to_string(),
            files_restored: done.files,
            dirs_restored: done.directories,
            others_restored: done.others,
            skipped: done.skipped,
            bytes_restored: done.bytes,
            bytes_fetched: fetched,
            failed: done.failed,
            files_verified: done.verified,
            total_duration: began.elapsed().as_secs_f64(),
        };
        let error = (done.failed > 0).then(|| {
            ApiError::new(Code::Incomplete, format!("{} entries could not be restored", done.failed))
                .with_hint("each is named above; `shadowvault repair` may bring missing data back from peers")
        });
        Ok((JobOutcome::Restore(summary), error))
    })
    .await
}

/// Before work that packs of peers may help: those that a head lists and a rebuilt index could not read are entered,
/// so that they count as lost here and can be pulled.
async fn know_listed_packs(core: &Arc<Core>) {
    if let (Ok(net), Some(vault)) = (core.net(), core.vault_id()) {
        log_failure(index_listed(core, net, vault).await, "reading directories of listed packs");
    }
}

async fn verify(core: &Arc<Core>, request: VerifyRequest, monitor: Arc<Monitor>, memory: usize) -> Ended {
    if request.repair {
        know_listed_packs(core).await;
    }
    let source = core.source();
    core.blocking(move |core| {
        let began = Instant::now();
        let (result, one) = examine(core, request.snapshot.as_deref(), request.quick, memory, &monitor)?;
        let mut report = report_of(&result, one, began);
        let mut sound = result.is_sound();
        if request.repair && !sound {
            let repair = mend(core, source.as_ref(), &result, &monitor)?;
            let (again, _) = examine(core, request.snapshot.as_deref(), request.quick, memory, &monitor)?;
            let bytes = report.bytes_checked;
            report = report_of(&again, one, began);
            report.bytes_checked += bytes;
            report.repair = Some(counted(repair, &result, &again));
            sound = again.is_sound();
        }
        status::note_verified(core, sound);
        let damaged = report.damaged_packs.len();
        let error = (!sound).then(|| {
            let hint = if request.repair {
                "`shadowvault peers` shows which holders can be reached; then `shadowvault repair` again"
            } else {
                "`shadowvault repair` pulls what is damaged from peers"
            };
            ApiError::new(
                Code::StorageCorrupted,
                format!("damage found: {damaged} packs are damaged or missing"),
            )
            .with_hint(hint)
        });
        Ok((JobOutcome::Verify(report), error))
    })
    .await
}

/// Verifies what a reference names, or everything.
fn examine(
    core: &Arc<Core>,
    reference: Option<&str>,
    quick: bool,
    memory_bytes: usize,
    monitor: &Monitor,
) -> Result<(VerifyResult, Option<SnapshotId>), ApiError> {
    let vault: Option<Arc<Vault>> = match (core.vault(), reference) {
        (Ok(vault), _) => Some(vault),
        (Err(_), None) => None,
        (Err(error), Some(_)) => return Err(error),
    };
    let snapshot = match (&vault, reference) {
        (Some(vault), Some(reference)) => {
            let view = VaultView::load(vault).map_err(failed)?;
            Some(engine::resolve(&view, reference).map_err(failed)?.id)
        }
        _ => None,
    };
    let options = VerifyOptions { snapshot, quick, memory_bytes };
    let result =
        engine::verify(&core.store, vault.as_deref(), options, workers(), monitor).map_err(failed)?;
    Ok((result, snapshot))
}

fn report_of(result: &VerifyResult, one: Option<SnapshotId>, began: Instant) -> VerifyReport {
    let snapshots: Vec<VerifySnapshotReport> = result
        .snapshots
        .iter()
        .map(|found| VerifySnapshotReport {
            snapshot_id: found.id.to_string(),
            total_chunks: found.total,
            verified_chunks: found.total.saturating_sub((found.missing.len() + found.corrupt.len()) as u64),
            missing_chunks: found.missing.clone(),
            corrupted_chunks: found.corrupt.clone(),
            signature_valid: found.signed,
            success: found.is_sound(),
        })
        .collect();
    let valid = snapshots.iter().filter(|snapshot| snapshot.success).count() as u64;
    let total = snapshots.len() as u64;
    let shape = match (one, snapshots.first()) {
        (Some(_), Some(only)) => VerifyOutcomeShape::One(only.clone()),
        _ => VerifyOutcomeShape::All(VerifyAllReport {
            total_snapshots: total,
            valid_snapshots: valid,
            invalid_snapshots: total - valid,
            health_percentage: if total == 0 { 100.0 } else { 100.0 * valid as f64 / total as f64 },
            snapshots,
        }),
    };
    VerifyReport {
        result: shape,
        packs_checked: result.packs,
        bytes_checked: result.bytes,
        damaged_packs: result.damages.iter().map(|damage| damage.pack).collect(),
        total_duration: began.elapsed().as_secs_f64(),
        repair: None,
    }
}

/// Repairs what a verification found.
fn mend(
    core: &Arc<Core>,
    source: Option<&Mesh>,
    found: &VerifyResult,
    monitor: &Monitor,
) -> Result<RepairReport, ApiError> {
    let plan = engine::plan_repair(found.damages.clone());
    let mut report = RepairReport { plan: plan.lines(), ..Default::default() };
    if plan.items.is_empty() {
        return Ok(report);
    }
    let source = source.ok_or_else(super::error::no_network)?;
    monitor.enter("repairing");
    let done = engine::run_repair(&core.store, &plan, source, monitor).map_err(failed)?;
    report.repaired_packs = done.repaired.len() as u64;
    report.bytes_fetched = done.given.values().sum();
    report.sources = done.given.iter().map(|(peer, bytes)| (peer.to_string(), *bytes)).collect();
    for (pack, tried) in done.failed {
        report.plan.push(format!("pack {} could not be repaired: {tried}", pack.short()));
        report.unrepaired_packs.push(pack);
    }
    Ok(report)
}

/// Chunk counts before and after.
fn counted(mut report: RepairReport, before: &VerifyResult, after: &VerifyResult) -> RepairReport {
    report.unrepaired_chunks = after.bad_chunks;
    report.repaired_chunks = before.bad_chunks.saturating_sub(after.bad_chunks);
    report
}

async fn repair(core: &Arc<Core>, request: RepairRequest, monitor: Arc<Monitor>, memory: usize) -> Ended {
    know_listed_packs(core).await;
    let source = core.source();
    core.blocking(move |core| {
        let (found, _) = examine(core, request.snapshot.as_deref(), false, memory, &monitor)?;
        if request.dry_run {
            let plan = engine::plan_repair(found.damages.clone()).lines();
            let unrepaired_chunks = found.bad_chunks;
            let report = RepairReport { plan, unrepaired_chunks, ..Default::default() };
            return Ok((JobOutcome::Repair(report), None));
        }
        let report = mend(core, source.as_ref(), &found, &monitor)?;
        let (again, _) = examine(core, request.snapshot.as_deref(), false, memory, &monitor)?;
        let report = counted(report, &found, &again);
        status::note_verified(core, again.is_sound());
        let error = (!again.is_sound()).then(|| {
            let lost = again.damages.len();
            ApiError::new(Code::StorageCorrupted, format!("{lost} packs are still damaged or missing"))
                .with_hint("`shadowvault peers` shows which holders can be reached")
        });
        Ok((JobOutcome::Repair(report), error))
    })
    .await
}

async fn add_peer(core: &Arc<Core>, request: AddPeer) -> Result<PeerInfo, ApiError> {
    let (peer, address) = parse_peer_address(&request.address).map_err(failed)?;
    if peer == core.key.peer_id() {
        return Err(ApiError::new(Code::UsageInvalid, "that is this node's own address"));
    }
    let entry = PeerEntry {
        peer,
        name: request.name,
        addresses: vec![address.clone()],
        added: core.now(),
        proved: None,
        last_seen: None,
    };
    core.admit(entry).await?;
    if let Ok(net) = core.net() {
        net.add_address(peer, &address).await.map_err(failed)?;
    }
    one_peer(core, peer).await
}

async fn one_peer(core: &Arc<Core>, peer: PeerId) -> Result<PeerInfo, ApiError> {
    let all = core.blocking(status::peers).await?;
    all.into_iter().find(|info| info.id == peer).ok_or_else(|| no_such_peer(&peer.to_string()))
}

fn no_such_peer(name: &str) -> ApiError {
    ApiError::new(Code::PeerNotFound, format!("no peer matches {name:?}"))
        .with_hint("`shadowvault peers` lists them")
}

async fn remove_peer(core: &Arc<Core>, name: String) -> Result<PeerInfo, ApiError> {
    let all = core.blocking(status::peers).await?;
    let matches = |info: &&PeerInfo| {
        let id = info.id.to_string();
        id == name || info.name.as_deref() == Some(&name) || (name.len() >= 6 && id.ends_with(&name))
    };
    let found: Vec<&PeerInfo> = all.iter().filter(matches).collect();
    let [info] = found.as_slice() else { return Err(no_such_peer(&name)) };
    let (info, peer) = ((*info).clone(), info.id);
    core.edit_book(move |book| {
        book.allowed.retain(|entry| entry.peer != peer);
        book.pending.retain(|pending| pending.peer != peer);
    })
    .await?;
    core.members.remove(&peer);
    if let Ok(net) = core.net() {
        net.forget(peer).await;
    }
    core.holding.forget(peer);
    core.owning.forget_offers(peer);
    // Its receipts no longer count: the packs get other holders.
    core.blocking(move |core| {
        core.store.drop_receipts(peer).map_err(failed)?;
        core.store.remove_receipt_files(peer).map_err(failed)
    })
    .await?;
    core.changed.notify_one();
    Ok(info)
}
