//! Verifying: every pack read once and hashed, every own chunk opened, then every snapshot's references checked.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

use crossbeam_channel::bounded;

use super::budget::verify_workers;
use super::error::EngineError;
use super::heads::{VaultView, newest_heads, read_head};
use super::holder::missing_records;
use super::monitor::Monitor;
use super::reader::ChunkReader;
use super::repair::Damage;
use super::tree::for_each_reference;
use super::vault::Vault;
use crate::base::{ChunkId, SnapshotId, VaultId, limit};
use crate::crypto::{Kind, Opener, VaultKeys};
use crate::pack::read_pack;
use crate::snapshot::Snapshot;
use crate::store::{PackNumber, PackRow, Store};

/// What to verify.
#[derive(Debug, Clone, Copy, Default)]
pub struct VerifyOptions {
    /// One snapshot; all, and all packs, when absent.
    pub snapshot: Option<SnapshotId>,
    /// Presence and lengths only.
    pub quick: bool,
    /// What the buffers may take, in bytes.
    pub memory_bytes: usize,
}

/// One snapshot's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotFinding {
    /// Which.
    pub id: SnapshotId,
    /// Distinct chunks it needs, as far as its trees can be read.
    pub total: u64,
    /// Chunks that are in no readable pack.
    pub missing: Vec<ChunkId>,
    /// Chunks that are there but damaged.
    pub corrupt: Vec<ChunkId>,
    /// Its record is signed by a certified device.
    pub signed: bool,
    /// Why the record could not even be read.
    pub broken: Option<String>,
}

impl SnapshotFinding {
    /// Nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.missing.is_empty() && self.corrupt.is_empty() && self.signed && self.broken.is_none()
    }
}

/// What verification found.
#[derive(Debug, Clone, Default)]
pub struct VerifyResult {
    /// Packs looked at, own and kept for others.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packs that need repair.
    pub damages: Vec<Damage>,
    /// Chunks of this vault that are missing or damaged here.
    pub bad_chunks: u64,
    /// Each snapshot.
    pub snapshots: Vec<SnapshotFinding>,
    /// Heads, pack lists and foreign snapshot records that are missing or damaged, one line each.
    pub records: Vec<String>,
}

impl VerifyResult {
    /// Nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.damages.is_empty()
            && self.bad_chunks == 0
            && self.records.is_empty()
            && self.snapshots.iter().all(SnapshotFinding::is_sound)
    }
}

/// What is known to be wrong with chunks: absent = sound.
type BadChunks = HashMap<ChunkId, State>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Missing,
    Corrupt,
}

/// Checks packs and snapshots; changes nothing but a lost outboard. `vault` is `None` on a storage-only or locked node:
/// then packs are checked by their hash.
///
/// # Errors
/// Only what keeps it from looking: an index that cannot be read, cancellation. Damage is in the result.
pub fn verify(
    store: &Store,
    vault: Option<&Vault>,
    options: VerifyOptions,
    workers: usize,
    monitor: &Monitor,
) -> Result<VerifyResult, EngineError> {
    let view = vault.map(VaultView::load).transpose()?;
    let chosen: Option<&Snapshot> = match (&view, options.snapshot) {
        (Some(view), Some(id)) => view.snapshots.iter().find(|snapshot| snapshot.id == id),
        _ => None,
    };
    let only = match (vault, chosen) {
        (Some(vault), Some(snapshot)) => super::copies::packs_of(vault, snapshot).ok(),
        _ => None,
    };
    let only: Option<HashSet<PackNumber>> = only.map(|packs| packs.into_iter().collect());
    let mut rows = Vec::new();
    for own in [true, false] {
        store.for_each_pack(own, |row| {
            if only.as_ref().is_none_or(|only| only.contains(&row.number)) {
                rows.push(row);
            }
            true
        })?;
    }
    monitor.files_total.store(rows.len() as u64, std::sync::atomic::Ordering::Relaxed);
    let total_bytes: u64 = rows.iter().map(|row| row.bytes).sum();
    monitor.bytes_total.store(total_bytes, std::sync::atomic::Ordering::Relaxed);
    monitor.enter("verifying packs");
    let mut result = VerifyResult { packs: rows.len() as u64, bytes: total_bytes, ..Default::default() };
    let keys = vault.map(|vault| &vault.keyring.vault);
    let chunk_bytes = vault.map_or(limit::CHUNK_BYTES_MAX, |vault| vault.options().sizes.max());
    let workers = verify_workers(options.memory_bytes, workers, chunk_bytes);
    let mut bad = check_packs(store, keys, rows, options.quick, workers, monitor, &mut result)?;
    lost_chunks(store, vault, &result.damages, options.quick, monitor, &mut bad)?;
    result.bad_chunks = bad.len() as u64;
    result.records = check_records(store, vault.map(Vault::id))?;
    let (Some(vault), Some(view)) = (vault, view) else { return Ok(result) };
    monitor.enter("verifying snapshots");
    for snapshot in &view.snapshots {
        if options.snapshot.is_none_or(|id| id == snapshot.id) {
            result.snapshots.push(check_snapshot(vault, &view, snapshot, &bad, monitor)?);
        }
    }
    for (id, why) in view.broken.iter().filter(|(id, _)| options.snapshot.is_none_or(|only| only == *id)) {
        let broken = Some(why.clone());
        let (missing, corrupt) = (Vec::new(), Vec::new());
        result.snapshots.push(SnapshotFinding { id: *id, total: 0, missing, corrupt, signed: false, broken });
    }
    Ok(result)
}

/// What is wrong with one pack, and with chunks in it.
type Examined = (Option<Damage>, Vec<(ChunkId, State)>);

/// Reads packs on all workers in index order.
fn check_packs(
    store: &Store,
    keys: Option<&VaultKeys>,
    rows: Vec<PackRow>,
    quick: bool,
    workers: usize,
    monitor: &Monitor,
    result: &mut VerifyResult,
) -> Result<BadChunks, EngineError> {
    let found: Mutex<(Vec<Damage>, BadChunks)> = Mutex::default();
    let (rows_in, rows_out) = bounded::<PackRow>(workers.max(1));
    let outcome = std::thread::scope(|scope| {
        let found = &found;
        let threads: Vec<_> = (0..workers.max(1))
            .map(|_| {
                let rows = rows_out.clone();
                scope.spawn(move || -> Result<(), EngineError> {
                    let mut opener = Opener::new();
                    for row in rows {
                        monitor.go_on()?;
                        let (damage, bad) = check_pack(store, keys, &row, quick, &mut opener)?;
                        if damage.is_some() || !bad.is_empty() {
                            let mut found = found.lock().expect("no panic while held");
                            found.0.extend(damage);
                            found.1.extend(bad);
                        }
                        Monitor::add(&monitor.files_done, 1);
                        Monitor::add(&monitor.bytes_done, row.bytes);
                    }
                    Ok(())
                })
            })
            .collect();
        drop(rows_out);
        for row in rows {
            if rows_in.send(row).is_err() {
                break;
            }
        }
        drop(rows_in);
        let ended = threads.into_iter().map(|thread| match thread.join() {
            Ok(ended) => ended,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        ended.collect::<Result<Vec<()>, _>>()
    });
    outcome?;
    let (damages, bad) = found.into_inner().expect("no panic while held");
    result.damages = damages;
    Ok(bad)
}

fn check_pack(
    store: &Store,
    keys: Option<&VaultKeys>,
    row: &PackRow,
    quick: bool,
    opener: &mut Opener,
) -> Result<Examined, EngineError> {
    if quick {
        let sound = store.pack_length(row.id)? == Some(row.bytes);
        let damage = if sound { None } else { Damage::examine(store, row.id, row.bytes)? };
        return Ok((damage, Vec::new()));
    }
    let content = match store.open_pack(row.id).and_then(|file| file.read_all()) {
        Ok(content) => content,
        Err(_) => return Ok((Damage::examine(store, row.id, row.bytes)?, Vec::new())),
    };
    let damage = Damage::compare(store, row.id, row.bytes, &content)?;
    // Which chunks of a damaged pack are lost is settled by the index, for all such packs together.
    let Some(keys) = keys.filter(|_| row.own && damage.is_none()) else { return Ok((damage, Vec::new())) };
    Ok((None, unreadable_chunks(store, keys, row, &content, opener)?))
}

/// Chunks of a pack with the right hash that do not open, or that the index seeks elsewhere in it.
fn unreadable_chunks(
    store: &Store,
    keys: &VaultKeys,
    row: &PackRow,
    content: &[u8],
    opener: &mut Opener,
) -> Result<Vec<(ChunkId, State)>, EngineError> {
    let Ok((epoch, entries)) = read_pack(keys, content) else {
        let chunks = store.chunks_in(&HashSet::from([row.number]))?;
        return Ok(chunks.into_iter().map(|(id, _)| (id, State::Corrupt)).collect());
    };
    let ids: Vec<ChunkId> = entries.iter().map(|entry| entry.id).collect();
    let mut bad = Vec::new();
    for (entry, place) in entries.iter().zip(store.lookup_many(&ids)?) {
        // A chunk that is in several packs counts where it is read.
        let Some(place) = place.filter(|place| place.pack == row.number) else { continue };
        let twice = place.offset != entry.offset
            && entries.iter().any(|e| (e.id, e.offset) == (entry.id, place.offset));
        if twice {
            continue;
        }
        let sought = (place.offset, place.sealed_length, place.length, place.kind, place.codec);
        let there = (entry.offset, entry.sealed_length, entry.length, entry.kind, entry.codec);
        let start = entry.offset as usize;
        let sealed = content.get(start..start + entry.sealed_length as usize);
        let opens = sealed.is_some_and(|sealed| opener.open(keys, &entry.subject(epoch), sealed).is_ok());
        if sought != there || !opens {
            bad.push((entry.id, State::Corrupt));
        }
    }
    Ok(bad)
}

/// Chunks that the index places in packs that are missing or damaged, and that cannot be read there.
fn lost_chunks(
    store: &Store,
    vault: Option<&Vault>,
    damages: &[Damage],
    quick: bool,
    monitor: &Monitor,
    bad: &mut BadChunks,
) -> Result<(), EngineError> {
    let mut lost: HashMap<PackNumber, &Damage> = HashMap::new();
    for damage in damages {
        if let Some(row) = store.pack_by_id(damage.pack)?.filter(|row| row.own) {
            lost.insert(row.number, damage);
        }
    }
    if lost.is_empty() {
        return Ok(());
    }
    let mut chunks = store.chunks_in(&lost.keys().copied().collect())?;
    chunks.sort_unstable_by_key(|(_, place)| (place.pack, place.offset));
    let mut reader = vault.filter(|_| !quick).map(|vault| ChunkReader::new(vault, None, monitor));
    for (id, place) in chunks {
        monitor.go_on()?;
        let damage = lost[&place.pack];
        let state = if damage.missing { State::Missing } else { State::Corrupt };
        let is_lost = damage.missing
            || match &mut reader {
                // Sound neighbours of a flipped byte are as good as ever.
                Some(reader) => reader.read(place.kind, id).is_err(),
                None => {
                    let (first, last) = cells_of(place.offset, place.sealed_length);
                    damage.cells.iter().any(|cell| (first..=last).contains(cell))
                }
            };
        if is_lost {
            bad.insert(id, state);
        }
    }
    Ok(())
}

/// What is wrong with heads, and with pack lists and foreign snapshot records that the newest heads need. Own
/// snapshot records are each snapshot's own finding.
fn check_records(store: &Store, own: Option<VaultId>) -> Result<Vec<String>, EngineError> {
    let mut problems = Vec::new();
    for vault in store.head_vaults()? {
        for device in store.head_devices(vault)? {
            for name in store.head_names(vault, device)? {
                if let Err(problem) = read_head(store, vault, device, name)? {
                    problems.push(format!("head {} of device {}: {problem}", name.0, device.short()));
                }
            }
        }
        for head in newest_heads(store, vault)? {
            let missing = missing_records(store, &head)?;
            let is_own = own == Some(vault);
            problems.extend(missing.lists.iter().map(|id| format!("pack list {id} is missing or damaged")));
            let records = missing.snapshots.iter().filter(|_| !is_own);
            problems.extend(records.map(|id| format!("snapshot record {id} is missing or damaged")));
        }
    }
    Ok(problems)
}

fn cells_of(offset: u32, length: u32) -> (usize, usize) {
    let cell = crate::base::limit::CELL_BYTES;
    let end = offset as usize + (length as usize).max(1) - 1;
    (offset as usize / cell, end / cell)
}

fn check_snapshot(
    vault: &Vault,
    view: &VaultView,
    snapshot: &Snapshot,
    bad: &BadChunks,
    monitor: &Monitor,
) -> Result<SnapshotFinding, EngineError> {
    let mut reader = ChunkReader::new(vault, None, monitor);
    let mut ids: HashSet<ChunkId> = HashSet::new();
    let mut unread: Vec<ChunkId> = Vec::new();
    for_each_reference(
        &mut reader,
        snapshot,
        monitor,
        &mut |_: Kind, id| {
            ids.insert(id);
        },
        &mut |id, _| unread.push(id),
    )?;
    let all: Vec<ChunkId> = ids.iter().copied().collect();
    let (mut missing, mut corrupt) = (Vec::new(), Vec::new());
    for (id, place) in all.iter().zip(vault.store.lookup_many(&all)?) {
        match (place, bad.get(id)) {
            (None, _) | (_, Some(State::Missing)) => missing.push(*id),
            (_, Some(State::Corrupt)) => corrupt.push(*id),
            (Some(_), None) => {}
        }
    }
    for id in unread {
        if !missing.contains(&id) && !corrupt.contains(&id) {
            corrupt.push(id);
        }
    }
    missing.sort_unstable();
    corrupt.sort_unstable();
    Ok(SnapshotFinding {
        id: snapshot.id,
        total: ids.len() as u64,
        missing,
        corrupt,
        signed: view.is_certified(snapshot.device),
        broken: None,
    })
}
