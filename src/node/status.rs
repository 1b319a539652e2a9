//! What a node tells about itself.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::Mode;
use super::core::Core;
use super::error::failed;
use super::{chains, comparing, devices, elsewhere, mending, reach, schedule, serve, verified};
use crate::api::{
    ApiError, Coverage, EntryInfo, Health, Identity, PeerInfo, ReplicationStatus, SnapshotInfo,
    SnapshotQuery, Status, StorageStatus, Verdict,
};
use crate::base::{
    ByteSize, ChunkId, Code, DeviceId, Moment, PeerId, SnapshotId, encode_path, format_duration, limit,
};
use crate::engine::{self, CopyCounts, EngineError, Revocations, TreeEntry, Vault, VaultView};
use crate::net::{Net, Transport};
use crate::snapshot::Snapshot;
use crate::store::StoreError;
use crate::wire::{Node, NodeType, Time};

pub(super) fn identity(core: &Arc<Core>) -> Identity {
    Identity {
        peer_id: core.key.peer_id(),
        addresses: core.net().map(Net::addresses).unwrap_or_default(),
        vault_id: core.vault_id(),
    }
}

/// How long a look at the disk may take before it counts as not answering.
const LOOK: Duration = Duration::from_secs(2);

/// How each part does, looked at now. Answers in bounded time even when the disk does not.
pub(super) async fn health(core: &Arc<Core>) -> Health {
    let database = look(core, |core| core.store.lookup(ChunkId::new([0; 32])).map(|_| "ok").map_err(failed));
    let storage = look(core, |core| match core.store.available() {
        Ok(()) if !mending::queue(core).is_empty() => Ok("damaged"),
        Ok(()) if core.store.room() > 0 => Ok("ok"),
        Ok(()) => Ok("full"),
        Err(StoreError::Unavailable { .. }) => Ok("unavailable"),
        Err(_) => Ok("failed"),
    });
    let (database, storage) = tokio::join!(database, storage);
    let p2p = match core.net() {
        Ok(net) if net.addresses().is_empty() => "unreachable",
        Ok(_) => "ok",
        Err(_) => "off",
    };
    let scheduler = match (core.schedule.is_sound(), core.mode == Mode::Daemon) {
        (false, _) => "failed",
        (true, true) => "ok",
        (true, false) => "off",
    };
    let parts = [("database", database), ("p2p", p2p), ("storage", storage), ("scheduler", scheduler)];
    let has = |state: &str| parts.iter().any(|(_, found)| *found == state);
    let status = if ["failed", "unavailable", "not answering"].into_iter().any(has) {
        "failed"
    } else if core.stop.is_cancelled() {
        "shutting_down"
    } else if has("full") || has("damaged") || has("unreachable") {
        "degraded"
    } else {
        "ok"
    };
    let components = parts.into_iter().map(|(name, state)| (name.to_owned(), state.to_owned())).collect();
    Health { status: status.to_owned(), uptime: core.uptime(), components }
}

async fn look(
    core: &Arc<Core>,
    work: impl FnOnce(&Arc<Core>) -> Result<&'static str, ApiError> + Send + 'static,
) -> &'static str {
    match tokio::time::timeout(LOOK, core.blocking(work)).await {
        Ok(found) => found.unwrap_or("failed"),
        Err(_) => "not answering",
    }
}

/// A status without anything that has to be read from the disk.
pub(super) fn unread(core: &Arc<Core>) -> Status {
    Status {
        verdict: Verdict::Ok,
        problems: Vec::new(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_seconds: core.uptime(),
        identity: identity(core),
        snapshots: 0,
        snapshots_safe: 0,
        last_snapshot: None,
        under_replicated_bytes: 0,
        replication: ReplicationStatus::default(),
        copies_wanted: core.settings().replication.copies,
        last_verify: None,
        repairs: mending::status(core),
        drill: None,
        scrub: Coverage::default(),
        storage: StorageStatus::default(),
        peers: Vec::new(),
        jobs: Vec::new(),
        reachability: reach::reachability(core),
        listeners: core.listeners.lock().expect("no panic while held").clone(),
    }
}

pub(super) fn status(core: &Arc<Core>) -> Result<Status, ApiError> {
    core.store.available().map_err(failed)?;
    let counts = core.store.pack_counts().map_err(failed)?;
    let elsewhere = packs_elsewhere(core)?;
    let mut status = Status {
        scrub: verified::coverage(&verified::rounds(core).scrub, counts.bytes()),
        storage: StorageStatus {
            own_packs: counts.own_packs.saturating_sub(elsewhere.0),
            own_bytes: counts.own_bytes.saturating_sub(elsewhere.1),
            elsewhere_packs: elsewhere.0,
            elsewhere_bytes: elsewhere.1,
            foreign_packs: counts.foreign_packs,
            foreign_bytes: counts.foreign_bytes,
            foreign_record_bytes: core.store.accounts().map_err(failed)?.total().record_bytes,
            on_hold_bytes: core.on_hold.sum().1,
            lend: core.lent(),
            chunks: counts.chunks,
            disk_free: core.store.disk_free(),
        },
        peers: peers(core)?,
        jobs: core.jobs.all().into_iter().filter(|job| !job.state.is_final()).collect(),
        ..unread(core)
    };
    if let Ok(vault) = core.vault() {
        vault_status(core, &vault, &mut status)?;
    } else if let Some(vault) = core.vault_id() {
        let (copies, snapshots) =
            engine::locked_copy_counts(&core.store, vault, core.counted()).map_err(failed)?;
        count_copies(core, &copies, &snapshots, &mut status)?;
        status.verdict = Verdict::Locked;
        status.problems.push("the vault is locked: no backups are made (`shadowvault unlock`)".to_owned());
    }
    revoked(core, &mut status)?;
    if let Some(vault) = core.vault_id() {
        chains::describe(core, vault, &mut status)?;
        comparing::describe(core, &mut status)?;
    }
    doubled(core, &mut status);
    last_verified(core, &mut status)?;
    waiting_for_repair(&mut status);
    held_for_others(core, &mut status);
    last_drill(core, &mut status)?;
    scheduled(core, &mut status);
    audited(core, &mut status);
    for peer in &status.peers {
        if let Some(off) = core.clocks.of(peer.id) {
            let name = peer.name.clone().unwrap_or_else(|| peer.id.to_string());
            let line = format!(
                "the clock of {name} is {} of this machine's: set the one that is wrong (`date`)",
                off.words()
            );
            status.problems.push(line);
        }
    }
    for peer in status.peers.iter().filter(|peer| peer.standing == "pending") {
        let line = format!(
            "{} would like to join (`shadowvault peers accept {}` if you know it)",
            peer.id,
            peer.id.short()
        );
        status.problems.push(line);
    }
    Ok(status)
}

/// Packs of the vault that are with holders only, and their bytes.
fn packs_elsewhere(core: &Core) -> Result<(u64, u64), ApiError> {
    let (mut packs, mut bytes) = (0, 0);
    for (row, _) in engine::packs_elsewhere(&core.store).map_err(failed)?.into_values() {
        (packs, bytes) = (packs + 1, bytes + row.bytes);
    }
    Ok((packs, bytes))
}

fn vault_status(core: &Arc<Core>, vault: &Vault, status: &mut Status) -> Result<(), ApiError> {
    let view = VaultView::load(vault).map_err(failed)?;
    let copies = engine::copy_counts(vault, &view, core.counted()).map_err(failed)?;
    status.last_snapshot = view.snapshots.last().map(|s| info(&view, &copies, status.copies_wanted, s));
    if !view.broken.is_empty() {
        core.doubt_records();
    }
    for (id, why) in view.broken.iter().take(limit::CANDIDATES_NAMED_MAX) {
        let id = id.short();
        status.problems.push(format!(
            "snapshot {id} cannot be read: {why} (`shadowvault repair` gets it from a holder; if none has it, `shadowvault forget {id} --lost`)"
        ));
    }
    if let Some(more) = view.broken.len().checked_sub(limit::CANDIDATES_NAMED_MAX).filter(|more| *more > 0) {
        status.problems.push(format!("and {more} more snapshots cannot be read (`shadowvault snapshots`)"));
    }
    let ahead: Vec<&Snapshot> = view.snapshots.iter().filter(|snapshot| view.is_ahead(snapshot)).collect();
    if let Some(one) = ahead.first() {
        let (id, device, time) = (one.id.short(), view.device_name(one.device), one.time);
        let more =
            if ahead.len() > 1 { format!(" and {} more are", ahead.len() - 1) } else { " is".to_owned() };
        status.problems.push(format!(
            "snapshot {id} of {device} ({time}){more} dated later than now: this machine's clock is wrong, or was that device's"
        ));
    }
    let unread = elsewhere::unread(core)?;
    if core.mode == Mode::Daemon && unread.unreachable.0 > 0 {
        let (packs, bytes) = (unread.unreachable.0, ByteSize(unread.unreachable.1));
        status.problems.push(format!(
            "{bytes} in {packs} packs are with holders only, and nobody who is connected is known to have them: they cannot be restored now (`shadowvault peers`)"
        ));
    }
    let revoked = engine::revocations(&core.store, vault.id()).map_err(failed)?;
    let is_unsafe = |snapshot: &&Snapshot| copies.of_snapshot(snapshot.id) < status.copies_wanted;
    let unsafe_ones: Vec<&Snapshot> = view.snapshots.iter().filter(is_unsafe).collect();
    status.replication.since = unsafe_ones.iter().map(|one| one.time).min().map(Moment::to_rfc3339);
    waits_for_devices(core, vault, (&view, &revoked), &unsafe_ones, status);
    let snapshots: Vec<SnapshotId> = view.snapshots.iter().map(|snapshot| snapshot.id).collect();
    count_copies(core, &copies, &snapshots, status)
}

/// Snapshots whose copies another device of the vault has to see to, which is not there.
fn waits_for_devices(
    core: &Core,
    vault: &Vault,
    (view, revoked): (&VaultView, &Revocations),
    unsafe_ones: &[&Snapshot],
    status: &mut Status,
) {
    let connected = core.connected();
    let me = vault.device();
    let is_mine = |device: DeviceId| {
        device == me || revoked.of(device).is_some_and(|revocation| revocation.heir == Some(me))
    };
    for head in view.heads.iter().filter(|head| !is_mine(head.device())) {
        let listed =
            unsafe_ones.iter().filter(|snapshot| head.draft.snapshots.contains(&snapshot.id)).count();
        if listed == 0 || connected.contains(&head.certificate.peer) {
            continue;
        }
        let (name, id) = (view.device_name(head.device()), head.device().short());
        let snapshots = if listed == 1 { "snapshot" } else { "snapshots" };
        let wait = core.settings().p2p.away_after;
        status.problems.push(format!(
            "{listed} {snapshots} of {name} ({id}), which is not connected, lack copies: this device sees to them once {name} has been away for {}; if it is gone for good, `shadowvault device revoke {id} --heir {}` makes them this device's at once",
            format_duration(wait),
            me.short()
        ));
    }
}

/// What copies there are, and what is missing; needs no key.
fn count_copies(
    core: &Arc<Core>,
    copies: &CopyCounts,
    snapshots: &[SnapshotId],
    status: &mut Status,
) -> Result<(), ApiError> {
    let wanted = status.copies_wanted;
    status.snapshots = snapshots.len() as u64;
    status.snapshots_safe = snapshots.iter().filter(|id| copies.of_snapshot(**id) >= wanted).count() as u64;
    let aside = core.store.packs_aside();
    core.store
        .for_each_pack(true, |row| {
            let missing = wanted.saturating_sub(copies.of_pack(row.number));
            if missing > 0 && !aside.contains(&row.number) {
                status.under_replicated_bytes += row.bytes;
                status.replication.bytes_waiting += row.bytes * u64::from(missing);
            }
            true
        })
        .map_err(failed)?;
    estimate(core, status);
    missing_holders(status);
    refusing_holders(core, status);
    let unsafe_count = status.snapshots - status.snapshots_safe;
    if unsafe_count > 0 {
        let bytes = ByteSize(status.under_replicated_bytes);
        let peers = status.peers.iter().filter(|peer| peer.standing == "allowed");
        let (known, connected) = peers.fold((0u32, 0u32), |(k, c), p| (k + 1, c + u32::from(p.connected)));
        let help = if known < wanted { "`shadowvault invite`" } else { "`shadowvault peers`" };
        let snapshots = if unsafe_count == 1 { "snapshot has" } else { "snapshots have" };
        let copies = if wanted == 1 { "copy" } else { "copies" };
        let open = match status.under_replicated_bytes {
            // Packs that they need are not known here, and those who are connected do not have them.
            0 if core.owning.lacks_packs() => {
                "packs that they need are with nobody who is connected".to_owned()
            }
            // Their packs have them; the heads and records that lead to these have not.
            0 => "their records have to go out".to_owned(),
            _ => format!("{bytes} to go"),
        };
        status.problems.push(format!(
            "{unsafe_count} {snapshots} fewer than {wanted} {copies}, {open}; {connected} of {known} peers connected ({help})"
        ));
    }
    if !status.problems.is_empty() {
        status.verdict = Verdict::AtRisk;
    }
    Ok(())
}

/// Who gets copies now, how fast, and how long that takes.
fn estimate(core: &Core, status: &mut Status) {
    let receivers = core.owning.receivers();
    let named = status.peers.iter().filter(|peer| receivers.contains(&peer.id));
    let replication = &mut status.replication;
    replication.to = named.map(|peer| peer.name.clone().unwrap_or_else(|| peer.id.to_string())).collect();
    let mean = status.storage.own_bytes as f64 / status.storage.own_packs.max(1) as f64;
    replication.bytes_per_second = (core.owning.packs_per_second() * mean) as u64;
    replication.seconds_left = match replication.bytes_waiting {
        0 => None,
        // Nothing is under way to anybody: what the pace was says nothing.
        _ if replication.to.is_empty() => None,
        bytes => bytes.checked_div(replication.bytes_per_second),
    };
}

/// Holders that have not been seen for long, and that there is no room left anywhere.
fn missing_holders(status: &mut Status) {
    let mean = status.storage.own_bytes / status.storage.own_packs.max(1);
    let gone = |peer: &&PeerInfo| matches!(peer.state.as_deref(), Some("missing" | "lost"));
    for peer in status.peers.iter().filter(gone).filter(|peer| peer.packs_held > 0) {
        let name = peer.name.clone().unwrap_or_else(|| peer.id.to_string());
        let since = peer.last_seen.as_deref().unwrap_or("it was added");
        status.problems.push(format!(
            "{name} was not seen since {since}; its copies are made anew elsewhere (`shadowvault peers why {}`)",
            peer.id.short()
        ));
    }
    let connected = || status.peers.iter().filter(|peer| peer.connected && peer.standing == "allowed");
    let known = connected().filter_map(|peer| peer.room_bytes);
    if status.replication.bytes_waiting > 0
        && connected().next().is_some()
        && known.clone().count() == connected().count()
        && let Some(most) = known.max()
        && most < mean.min(status.replication.bytes_waiting).max(1)
    {
        status.problems.push(format!(
            "no connected peer has room for more than {} (`shadowvault invite` for another one)",
            ByteSize(most)
        ));
    }
}

/// Holders that take nothing more of this vault.
fn refusing_holders(core: &Core, status: &mut Status) {
    for (peer, why) in core.owning.refusals() {
        let known = status.peers.iter().find(|info| info.id == peer);
        let name = known.and_then(|info| info.name.clone()).unwrap_or_else(|| peer.to_string());
        let (why, code) = (serve::refusal(why), Code::ResourceExhausted.name());
        status.problems.push(format!("{name} takes nothing more of this vault: {why} ({code})"));
    }
}

/// That the vault's owner revoked this device. It comes first: nothing else matters then.
fn revoked(core: &Arc<Core>, status: &mut Status) -> Result<(), ApiError> {
    let Some(revocation) = devices::own_revocation(core)? else { return Ok(()) };
    let left =
        engine::snapshots_left_out(&core.store, revocation.vault, revocation.device).map_err(failed)?;
    if !left.is_empty() {
        let device = revocation.device.short();
        let these = match left.len() {
            1 => "1 snapshot that this device made counts no more".to_owned(),
            count => {
                format!("{count} snapshots that this device made count no more")
            }
        };
        let help = format!(
            "`shadowvault --yes device revoke {device} --before 1s` here counts all that it made again"
        );
        status.problems.insert(0, format!("{these} ({help})"));
    }
    let line = format!(
        "this device was revoked at {}: its backups go nowhere (if it is yours: `shadowvault recover` into another directory)",
        revocation.time.to_rfc3339()
    );
    status.problems.insert(0, line);
    if status.verdict == Verdict::Ok {
        status.verdict = Verdict::AtRisk;
    }
    Ok(())
}

/// Identities that two machines use: this node's, and peers'.
fn doubled(core: &Core, status: &mut Status) {
    let now = core.now();
    let name = |status: &Status, peer: PeerId| {
        let known = status.peers.iter().find(|info| info.id == peer);
        known.and_then(|info| info.name.clone()).unwrap_or_else(|| peer.to_string())
    };
    let mut lines = Vec::new();
    if let Some(peer) = core.twins.told_by(now) {
        lines.push(format!(
            "another machine uses this node's identity, says {}: the data directory was copied; stop one of the two, and make a new node of it (`shadowvault join`)",
            name(status, peer)
        ));
    }
    for peer in core.twins.all(now) {
        lines.push(format!(
            "two machines use the identity of {}: its data directory was copied (`shadowvault peers show {}`)",
            name(status, peer),
            peer.short()
        ));
    }
    if !lines.is_empty() && status.verdict == Verdict::Ok {
        status.verdict = Verdict::AtRisk;
    }
    status.problems.extend(lines);
}

/// Recurring tasks whose last run failed, or that cannot be read.
fn scheduled(core: &Arc<Core>, status: &mut Status) {
    let lines: Vec<String> = match schedule::list(core) {
        Ok(tasks) => {
            let failed = tasks.into_iter().filter_map(|task| {
                let last = task.last.filter(|last| !last.success && task.enabled)?;
                let code = last.code.unwrap_or_default();
                Some(format!("the last run of {:?} failed: {code} (`shadowvault schedule list`)", task.id))
            });
            failed.collect()
        }
        Err(error) => vec![format!("{error} ({})", error.hint.clone().unwrap_or_default())],
    };
    if !lines.is_empty() && status.verdict == Verdict::Ok {
        status.verdict = Verdict::AtRisk;
    }
    status.problems.extend(lines);
}

fn last_verified(core: &Arc<Core>, status: &mut Status) -> Result<(), ApiError> {
    let Some(last) = verified::last(core)? else { return Ok(()) };
    status.last_verify = Some(last.time.to_rfc3339());
    if !last.sound {
        status.problems.push("the last verification found damage (`shadowvault repair`)".to_owned());
        if status.verdict == Verdict::Ok {
            status.verdict = Verdict::AtRisk;
        }
    }
    Ok(())
}

/// What is kept for others and cannot be told, and that no more can be kept.
fn held_for_others(core: &Core, status: &mut Status) {
    let mut lines = core.on_hold.lost(&core.store);
    let stored = status.storage.foreign_bytes + status.storage.foreign_record_bytes;
    let (room, left) = (core.store.room(), status.storage.lend.saturating_sub(stored));
    // Less than a pack, although more is promised.
    if room < left.min(limit::PACK_BYTES_MAX as u64) {
        lines.push(format!(
            "the disk has room for {} more, of {} that others may still store here: what they offer is refused (free some space, or lower replication.lend)",
            ByteSize(room),
            ByteSize(left)
        ));
    }
    if !lines.is_empty() && status.verdict == Verdict::Ok {
        status.verdict = Verdict::AtRisk;
    }
    status.problems.extend(lines);
}

/// Damaged packs that could not be mended yet.
fn waiting_for_repair(status: &mut Status) {
    let Some(since) = &status.repairs.since else { return };
    let what = match (status.repairs.waiting, status.repairs.records) {
        (packs, false) => format!("{packs} damaged packs"),
        (0, true) => "damaged records".to_owned(),
        (packs, true) => format!("{packs} damaged packs and damaged records"),
    };
    let line = format!(
        "{what} wait to be mended, since {since} (`shadowvault repair` tries now, `shadowvault peers` shows who may help)"
    );
    status.problems.push(line);
    if status.verdict == Verdict::Ok {
        status.verdict = Verdict::AtRisk;
    }
}

/// Whether the last drill brought everything back.
fn last_drill(core: &Arc<Core>, status: &mut Status) -> Result<(), ApiError> {
    status.drill = verified::last_drill(core)?;
    let Some(drill) = status.drill.as_ref().filter(|drill| drill.failed > 0) else { return Ok(()) };
    let line = format!(
        "the last drill did not get {} files back from peers (`shadowvault verify --drill`)",
        drill.failed
    );
    status.problems.push(line);
    if status.verdict == Verdict::Ok {
        status.verdict = Verdict::AtRisk;
    }
    Ok(())
}

/// Holders that lost packs lately, and those that prove nothing of what they keep.
fn audited(core: &Arc<Core>, status: &mut Status) {
    let now = core.now();
    for peer in &status.peers {
        let Some(audit) = peer.audit.as_ref().filter(|audit| audit.not_counted) else { continue };
        let name = peer.name.clone().unwrap_or_else(|| peer.id.to_string());
        let since = audit.unproven_since.as_deref().and_then(Moment::of_rfc3339).unwrap_or(now);
        let days = Duration::from_secs(now.since(since).as_secs() / 60 * 60);
        let line = format!(
            "{name} has proved nothing of what it keeps for {}: it does not count as a copy (`shadowvault verify --peers` asks it now)",
            format_duration(days)
        );
        status.problems.push(line);
        if status.verdict == Verdict::Ok {
            status.verdict = Verdict::AtRisk;
        }
    }
    for peer in status.peers.iter().filter(|peer| core.auditing.on_probation(&peer.id, now).is_some()) {
        let name = peer.name.clone().unwrap_or_else(|| peer.id.to_string());
        let line =
            format!("{name} lost packs that it had confirmed; they get other copies (`shadowvault peers`)");
        status.problems.push(line);
        if status.verdict == Verdict::Ok {
            status.verdict = Verdict::AtRisk;
        }
    }
}

/// Allowed, pending and bootstrap peers.
pub(super) fn peers(core: &Arc<Core>) -> Result<Vec<PeerInfo>, ApiError> {
    let book = core.book().clone();
    let states = core.net().map(Net::peers).unwrap_or_default();
    let mut held: HashMap<PeerId, (u64, u64)> = HashMap::new();
    let mut lengths = HashMap::new();
    core.store
        .for_each_pack(true, |row| {
            lengths.insert(row.number, row.bytes);
            true
        })
        .map_err(failed)?;
    core.store
        .for_each_receipt(|pack, holder, _| {
            if let Some(bytes) = lengths.get(&pack) {
                let entry = held.entry(holder).or_default();
                entry.0 += 1;
                entry.1 += bytes;
            }
        })
        .map_err(failed)?;
    let stored = stored_for(core).map_err(failed)?;
    let presences = core.presences();
    let audits = core.auditing.reports();
    let describe = |id: PeerId, standing: &str| {
        let state = states.iter().find(|state| state.id == id);
        let entry = book.find(id);
        let mut addresses: Vec<String> = state
            .map(|state| state.addresses.iter().map(|address| address.address.clone()).collect())
            .unwrap_or_default();
        for address in entry.into_iter().flat_map(|entry| &entry.addresses) {
            if !addresses.contains(address) {
                addresses.push(address.clone());
            }
        }
        let seen = state.and_then(|state| state.last_seen).or(entry.and_then(|entry| entry.last_seen));
        let connected = state.is_some_and(|state| state.connected && state.serves_us);
        let waits = state.is_some_and(|state| state.connected && state.member && !state.serves_us);
        let other_version = state.is_some_and(|state| state.other_version);
        let last_error = if connected {
            None
        } else if other_version {
            let runs = state.and_then(|state| state.agent_version.as_deref()).unwrap_or("something else");
            Some(format!(
                "connected, but it runs {runs}, which speaks another version of the protocol (update the older one)"
            ))
        } else if waits {
            Some("connected, but it does not list this node (`shadowvault peers accept` there)".to_owned())
        } else {
            state.and_then(|s| s.addresses.iter().find_map(|a| a.last_error.clone()))
        };
        let (packs_held, bytes_held) = held.get(&id).copied().unwrap_or_default();
        let via = state
            .filter(|_| connected)
            .and_then(|state| state.transport)
            .map(|transport| if transport == Transport::Relay { "relay" } else { "direct" }.to_owned());
        let (packs_stored, bytes_stored, bytes_on_hold) = stored.get(&id).copied().unwrap_or_default();
        PeerInfo {
            id,
            name: entry.and_then(|entry| entry.name.clone()),
            standing: standing.to_owned(),
            state: presences.get(&id).map(|presence| presence.name().to_owned()),
            room_bytes: core.owning.room(id),
            connected,
            via,
            addresses,
            last_seen: seen.map(Moment::to_rfc3339),
            last_error,
            packs_held,
            bytes_held,
            packs_stored,
            bytes_stored,
            bytes_on_hold,
            audit: audits.get(&id).cloned(),
        }
    };
    let mut out: Vec<PeerInfo> = book.allowed.iter().map(|entry| describe(entry.peer, "allowed")).collect();
    for pending in &book.pending {
        let mut info = describe(pending.peer, "pending");
        info.addresses.extend(pending.addresses.iter().cloned());
        info.last_seen = Some(pending.seen.to_rfc3339());
        out.push(info);
    }
    for bootstrap in &core.settings().peer_bootstrap {
        if !out.iter().any(|info| info.id == bootstrap.peer) {
            out.push(describe(bootstrap.peer, "bootstrap"));
        }
    }
    Ok(out)
}

/// What each peer brought: packs, bytes with those of records, and bytes on hold in the vaults that it brought.
fn stored_for(core: &Core) -> Result<BTreeMap<PeerId, (u64, u64, u64)>, EngineError> {
    let mut out: BTreeMap<PeerId, (u64, u64, u64)> = BTreeMap::new();
    for (vault, peer, kept) in core.store.accounts()?.iter() {
        let entry = out.entry(peer).or_default();
        entry.0 += kept.packs;
        entry.1 += kept.bytes();
        entry.2 += core.on_hold.of(vault).1;
    }
    Ok(out)
}

/// Snapshots that a query asks for, oldest first.
pub(super) fn snapshots(
    core: &Core,
    vault: &Vault,
    view: &VaultView,
    query: &SnapshotQuery,
) -> Result<Vec<SnapshotInfo>, ApiError> {
    let copies = engine::copy_counts(vault, view, core.counted()).map_err(failed)?;
    let wanted = vault.options().copies;
    let asked_for = view.snapshots.iter().filter(|snapshot| is_asked_for(query, snapshot));
    let mut chosen: Vec<SnapshotInfo> =
        asked_for.map(|snapshot| info(view, &copies, wanted, snapshot)).collect();
    if let Some(latest) = query.latest {
        chosen.drain(..chosen.len().saturating_sub(latest));
    }
    if !view.broken.is_empty() || !view.hidden.is_empty() {
        core.doubt_records();
    }
    // Nothing tells whether they are of that host, tag or path, or how old they are: they come first, whatever is asked for.
    let broken = view.broken.iter().map(|(id, why)| unreadable(view, *id, why, wanted));
    let hidden = view.hidden.iter().map(|head| {
        let why = format!(
            "head {} cannot be read ({}): snapshots that only it lists are not known here",
            head.seq, head.problem
        );
        let device = view.device_name(head.device);
        let id = SnapshotId::new(*head.id.as_bytes());
        SnapshotInfo { device, ..unreadable(view, id, &why, wanted) }
    });
    Ok(hidden.chain(broken).chain(chosen).collect())
}

/// What is known of a snapshot whose record cannot be read.
fn unreadable(view: &VaultView, id: SnapshotId, why: &str, copies_wanted: u32) -> SnapshotInfo {
    let listing = view.heads.iter().find(|head| head.draft.snapshots.contains(&id));
    SnapshotInfo {
        id,
        short_id: id.short(),
        time: String::new(),
        hostname: String::new(),
        paths: Vec::new(),
        tags: Vec::new(),
        parent: None,
        files: 0,
        bytes: 0,
        copies: 0,
        copies_wanted,
        complete: false,
        shrunk: false,
        ahead: false,
        pinned: false,
        device: listing.map(|head| view.device_name(head.device())).unwrap_or_default(),
        damaged: Some(why.to_owned()),
        original: None,
    }
}

/// The one snapshot that a reference names.
pub(super) fn snapshot(
    core: &Core,
    vault: &Vault,
    view: &VaultView,
    reference: &str,
) -> Result<SnapshotInfo, ApiError> {
    let found = engine::resolve(view, reference).map_err(failed)?;
    let copies = engine::copy_counts(vault, view, core.counted()).map_err(failed)?;
    Ok(info(view, &copies, vault.options().copies, found))
}

/// Whether a snapshot is of the host, with the tag and of the path that a query names.
pub(super) fn is_asked_for(query: &SnapshotQuery, snapshot: &Snapshot) -> bool {
    let info = &snapshot.info;
    let is_path = |path: &String| info.paths.iter().any(|one| String::from_utf8_lossy(one) == *path);
    query.host.as_ref().is_none_or(|host| *host == info.hostname)
        && query.tag.as_ref().is_none_or(|tag| info.tags.contains(tag))
        && query.path.as_ref().is_none_or(is_path)
}

fn info(view: &VaultView, copies: &CopyCounts, wanted: u32, snapshot: &Snapshot) -> SnapshotInfo {
    let counts = snapshot.info.counts.unwrap_or_default();
    SnapshotInfo {
        id: snapshot.id,
        short_id: snapshot.id.short(),
        time: snapshot.time.to_rfc3339(),
        hostname: snapshot.info.hostname.clone(),
        paths: snapshot.info.paths.iter().map(|path| String::from_utf8_lossy(path).into_owned()).collect(),
        tags: snapshot.info.tags.clone(),
        parent: snapshot.parent,
        files: counts.files,
        bytes: counts.bytes,
        copies: copies.of_snapshot(snapshot.id),
        copies_wanted: wanted,
        complete: snapshot.is_complete(),
        shrunk: snapshot.info.shrunk,
        ahead: view.is_ahead(snapshot),
        pinned: snapshot.info.pinned,
        device: view.device_name(snapshot.device),
        damaged: None,
        original: snapshot.original,
    }
}

/// One line of a listing.
pub(super) fn entry(entry: TreeEntry) -> EntryInfo {
    let node = entry.node;
    let kind = match node.r#type() {
        NodeType::NodeFile => "file",
        NodeType::NodeDirectory => "dir",
        NodeType::NodeSymlink => "symlink",
        NodeType::NodeFifo => "fifo",
        NodeType::NodeSocket => "socket",
        NodeType::NodeCharacterDevice => "chardev",
        NodeType::NodeBlockDevice => "dev",
        NodeType::NodeUnspecified => "unknown",
    };
    let is_link = node.r#type() == NodeType::NodeSymlink;
    EntryInfo {
        path: entry.path.to_string_lossy().into_owned(),
        path_encoded: encode_path(&entry.path),
        kind: kind.to_owned(),
        mode: node.mode,
        uid: node.uid,
        gid: node.gid,
        mtime: rfc3339(node.mtime),
        btime: birth(&node),
        target: is_link.then(|| String::from_utf8_lossy(&node.target).into_owned()),
        user: node.user,
        group: node.group,
        size: node.size,
    }
}

fn birth(node: &Node) -> Option<String> {
    let changed = node.ctime?;
    let changed = jiff::Timestamp::new(changed.seconds, i32::try_from(changed.nanos).ok()?).ok()?;
    let born = changed.checked_sub(jiff::SignedDuration::from_nanos(node.age_ns?)).ok()?;
    Some(born.to_string())
}

fn rfc3339(time: Option<Time>) -> String {
    let time = time.unwrap_or_default();
    let nanos = i32::try_from(time.nanos).unwrap_or(0);
    jiff::Timestamp::new(time.seconds, nanos).map_or_else(|_| String::new(), |t| t.to_string())
}
