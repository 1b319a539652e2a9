//! Verifying: every pack read once and hashed, every own chunk opened, then every snapshot's references checked.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;

use super::borrow::{packs_elsewhere, referred_elsewhere};
use super::budget::{VERIFY_BYTES, verify_workers};
use super::error::EngineError;
use super::heads::VaultView;
use super::hurt::{HurtFiles, hurt_files};
use super::monitor::Monitor;
use super::reader::ChunkReader;
use super::records::{RecordDamage, damaged_records};
use super::repair::Damage;
use super::seen::DistinctChunks;
use super::tree::for_each_reference;
use super::vault::Vault;
use crate::base::{ChunkId, Epoch, PackId, SnapshotId, limit};
use crate::crypto::{Kind, Opener, VaultKeys};
use crate::pack::{
    HEADER_BYTES, Outboard, OutboardBuilder, PackEntry, TRAILER_BYTES, locate_directory, open_directory,
};
use crate::policy::Subset;
use crate::snapshot::Snapshot;
use crate::store::{Borrowed, PackFile, PackNumber, PackRow, RecordName, Store, StoreError};

/// What to verify.
#[derive(Debug, Clone, Default)]
pub struct VerifyOptions {
    /// One snapshot; all, and all packs, when absent.
    pub snapshot: Option<SnapshotId>,
    /// Presence and lengths only.
    pub quick: bool,
    /// Read only these packs; of the others presence and lengths. All when absent.
    pub subset: Option<Subset>,
    /// Where the last check of a share stopped.
    pub after: Option<PackId>,
    /// Read only these packs, whatever `subset` says: those that an earlier look doubted.
    pub again: Option<Vec<PackId>>,
    /// Look at these packs and at nothing else: no other pack, record or snapshot.
    pub packs: Option<Vec<PackId>>,
    /// After each pack, rest so many times as long as it took.
    pub rest: u32,
    /// What the buffers may take, in bytes.
    pub memory_bytes: usize,
}

/// One snapshot's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotFinding {
    /// Which.
    pub id: SnapshotId,
    /// Distinct chunks it needs, as far as its trees can be read; an estimate beyond `limit::CHUNKS_COUNTED_MAX`.
    pub total: u64,
    /// Chunks that are in no readable pack.
    pub missing: Vec<ChunkId>,
    /// Chunks that are there but damaged.
    pub corrupt: Vec<ChunkId>,
    /// Chunks in packs that holders keep and this machine does not: nothing was read of them. An estimate as `total` is.
    pub elsewhere: u64,
    /// Its record is signed by a certified device.
    pub signed: bool,
    /// Files that need what is missing or damaged.
    pub hurt: HurtFiles,
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
    /// Packs read (in a quick check, looked at), own and kept for others.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of all packs that it could have read.
    pub bytes_all: u64,
    /// Of a share, the last pack in order of ids.
    pub reached: Option<PackId>,
    /// No pack comes after `reached`.
    pub round_ended: bool,
    /// Packs that are damaged, or sound with chunks in them that are not.
    pub doubted: Vec<PackId>,
    /// Packs that need repair.
    pub damages: Vec<Damage>,
    /// Chunks of this vault that are missing or damaged here.
    pub bad_chunks: u64,
    /// Each snapshot.
    pub snapshots: Vec<SnapshotFinding>,
    /// Heads, pieces of pack lists and snapshot records that are missing or damaged, own and kept for others.
    pub records: Vec<RecordDamage>,
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
    let _at_work = vault.map(|vault| vault.store.enter());
    let view = vault.map(VaultView::load).transpose()?;
    let chosen: Option<&Snapshot> = match (&view, options.snapshot) {
        (Some(view), Some(id)) => view.snapshots.iter().find(|snapshot| snapshot.id == id),
        _ => None,
    };
    let only = match (vault, chosen) {
        (Some(vault), Some(snapshot)) => super::copies::packs_of(vault, None, snapshot).ok(),
        _ => None,
    };
    let mut only: Option<HashSet<PackNumber>> = only.map(|packs| packs.into_iter().collect());
    if let Some(only) = &mut only {
        // What was moved meanwhile is read where it is now.
        store.with_successors(only);
    }
    if let Some(packs) = &options.packs {
        let rows = packs.iter().map(|pack| store.pack_by_id(*pack)).collect::<Result<Vec<_>, _>>()?;
        only = Some(rows.into_iter().flatten().map(|row| row.number).collect());
    }
    let mut rows = Vec::new();
    let (aside, elsewhere) = (store.packs_aside(), not_looked_for(store, vault)?);
    let is_due = |pack: &PackNumber| !aside.contains(pack) && !elsewhere.contains(pack);
    for own in [true, false] {
        store.for_each_pack(own, |row| {
            if is_due(&row.number) && only.as_ref().is_none_or(|only| only.contains(&row.number)) {
                rows.push(row);
            }
            true
        })?;
    }
    let mut result = VerifyResult::default();
    let looks = choose(rows, &options, &mut result);
    monitor.files_total.store(looks.len() as u64, std::sync::atomic::Ordering::Relaxed);
    monitor.bytes_total.store(result.bytes_all, std::sync::atomic::Ordering::Relaxed);
    monitor.enter("verifying packs");
    let keys = vault.map(|vault| &vault.keyring.vault);
    let chunk_bytes = vault.map_or(limit::CHUNK_BYTES_MAX, |vault| vault.options().sizes.max());
    let workers = verify_workers(options.memory_bytes, workers, chunk_bytes);
    let mut bad = check_packs(store, keys, looks, options.rest, workers, monitor, &mut result)?;
    lost_chunks(store, vault, &result.damages, options.quick, monitor, &mut bad)?;
    result.bad_chunks = bad.len() as u64;
    if options.packs.is_some() {
        return Ok(result);
    }
    result.records = damaged_records(store, monitor)?;
    if let Some(only) = options.snapshot {
        result.records.retain(|damage| damage.record == RecordName::Snapshot(only));
    }
    let (Some(vault), Some(view)) = (vault, view) else { return Ok(result) };
    monitor.enter("verifying snapshots");
    for snapshot in &view.snapshots {
        if options.snapshot.is_none_or(|id| id == snapshot.id) {
            let known = Known { bad: &bad, aside: &aside, elsewhere: &elsewhere };
            result.snapshots.push(check_snapshot(vault, &view, snapshot, known, monitor)?);
        }
    }
    for (id, why) in view.broken.iter().filter(|(id, _)| options.snapshot.is_none_or(|only| only == *id)) {
        let broken = Some(why.clone());
        let (missing, corrupt) = (Vec::new(), Vec::new());
        let hurt = HurtFiles::default();
        result.snapshots.push(SnapshotFinding {
            id: *id,
            total: 0,
            missing,
            corrupt,
            elsewhere: 0,
            signed: false,
            hurt,
            broken,
        });
    }
    Ok(result)
}

/// Packs that are with holders only. One that this device's snapshots need although no
/// holder has promised it to keep that is missing.
fn not_looked_for(store: &Store, vault: Option<&Vault>) -> Result<HashSet<PackNumber>, EngineError> {
    let needed = vault.map(referred_elsewhere).transpose()?.unwrap_or_default();
    let needed: HashSet<PackNumber> = needed.into_iter().map(|row| row.number).collect();
    let mut elsewhere = packs_elsewhere(store)?;
    elsewhere.retain(|number, (_, state)| *state != Borrowed::Unconfirmed || !needed.contains(number));
    Ok(elsewhere.into_keys().collect())
}

/// A pack, and whether presence and length are all that is looked at.
type Look = (PackRow, bool);

/// Says of each pack how it is looked at, and in the result how much is read.
fn choose(mut rows: Vec<PackRow>, options: &VerifyOptions, result: &mut VerifyResult) -> Vec<Look> {
    result.bytes_all = rows.iter().map(|row| row.bytes).sum();
    if let Some(again) = &options.again {
        let again: HashSet<&PackId> = again.iter().collect();
        let looks: Vec<Look> = rows.into_iter().map(|row| (row, !again.contains(&row.id))).collect();
        let read = looks.iter().filter(|(_, quick)| !quick);
        (result.packs, result.bytes) = read.fold((0, 0), |(n, bytes), (row, _)| (n + 1, bytes + row.bytes));
        return looks;
    }
    let Some(subset) = options.subset else {
        (result.packs, result.bytes) = (rows.len() as u64, result.bytes_all);
        return rows.into_iter().map(|row| (row, options.quick)).collect();
    };
    rows.sort_unstable_by_key(|row| row.id);
    let packs: Vec<(PackId, u64)> = rows.iter().map(|row| (row.id, row.bytes)).collect();
    let chosen = subset.choose(&packs, options.after);
    result.packs = chosen.len() as u64;
    result.bytes = chosen.iter().map(|at| packs[*at].1).sum();
    result.reached = chosen.last().map(|at| packs[*at].0);
    result.round_ended = chosen.last().is_none_or(|at| at + 1 == packs.len());
    let mut looks: Vec<Look> = rows.into_iter().map(|row| (row, true)).collect();
    chosen.into_iter().for_each(|at| looks[at].1 = options.quick);
    looks
}

/// What is wrong with one pack, and with chunks in it.
type Examined = (Option<Damage>, Vec<(ChunkId, State)>);

/// Reads packs on all workers in index order.
fn check_packs(
    store: &Store,
    keys: Option<&VaultKeys>,
    looks: Vec<Look>,
    rest: u32,
    workers: usize,
    monitor: &Monitor,
    result: &mut VerifyResult,
) -> Result<BadChunks, EngineError> {
    let found: Mutex<(Vec<Damage>, BadChunks, Vec<PackId>)> = Mutex::default();
    let (rows_in, rows_out) = bounded::<Look>(workers.max(1));
    let outcome = std::thread::scope(|scope| {
        let found = &found;
        let threads: Vec<_> = (0..workers.max(1))
            .map(|_| {
                let rows = rows_out.clone();
                scope.spawn(move || -> Result<(), EngineError> {
                    let mut scratch = Scratch { opener: Opener::new(), buffer: Vec::new() };
                    for (row, quick) in rows {
                        monitor.go_on()?;
                        let began = Instant::now();
                        let (damage, bad) = check_pack(store, keys, &row, quick, &mut scratch)?;
                        if damage.is_some() || !bad.is_empty() {
                            let mut found = found.lock().expect("no panic while held");
                            found.0.extend(damage);
                            found.1.extend(bad);
                            found.2.push(row.id);
                        }
                        Monitor::add(&monitor.files_done, 1);
                        Monitor::add(&monitor.bytes_done, row.bytes);
                        pause(began.elapsed().saturating_mul(rest), monitor)?;
                    }
                    Ok(())
                })
            })
            .collect();
        drop(rows_out);
        for look in looks {
            if rows_in.send(look).is_err() {
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
    let (damages, bad, doubted) = found.into_inner().expect("no panic while held");
    (result.damages, result.doubted) = (damages, doubted);
    Ok(bad)
}

/// Leaves the disk and the processors to others for a while, in steps short enough to be stopped.
fn pause(mut left: Duration, monitor: &Monitor) -> Result<(), EngineError> {
    while !left.is_zero() {
        monitor.go_on()?;
        let step = left.min(limit::SCRUB_PAUSE_STEP);
        std::thread::sleep(step);
        left -= step;
    }
    Ok(())
}

/// What one worker needs beside a pack's directory.
struct Scratch {
    opener: Opener,
    /// A stretch of the pack, and the chunk that reaches into it.
    buffer: Vec<u8>,
}

fn check_pack(
    store: &Store,
    keys: Option<&VaultKeys>,
    row: &PackRow,
    quick: bool,
    scratch: &mut Scratch,
) -> Result<Examined, EngineError> {
    let sound = if quick {
        let here = store.pack_length(row.id)? == Some(row.bytes);
        // Without its outboard it is read after all, which makes the outboard again.
        (here && store.has_outboard(row.id, row.bytes)?).then(Vec::new)
    } else {
        read_through(store, keys.filter(|_| row.own), row, scratch)
    };
    // Which chunks of a damaged pack are lost is settled by the index, for all such packs together.
    let Some(bad) = sound else {
        let damage = Damage::examine(store, row.id, row.bytes)?;
        // Garbage that was collected meanwhile is not missing: its row goes before its file.
        let known = damage.is_none() || store.pack_by_number(row.number)?.is_some();
        return Ok((damage.filter(|_| known), Vec::new()));
    };
    Ok((None, bad))
}

/// Reads a pack once, a stretch at a time: hashes it and, with the keys, opens its chunks. `None` when it is not what its
/// name says; else the chunks that do not open or that the index seeks elsewhere in it.
fn read_through(
    store: &Store,
    keys: Option<&VaultKeys>,
    row: &PackRow,
    scratch: &mut Scratch,
) -> Option<Vec<(ChunkId, State)>> {
    let file = store.open_pack(row.id).ok()?;
    let length = usize::try_from(row.bytes).ok().filter(|length| *length <= limit::PACK_BYTES_MAX)?;
    if file.length() != row.bytes {
        return None;
    }
    let directory = keys.map(|keys| read_directory(&file, keys, length));
    let mut check = match (keys, &directory) {
        (Some(keys), Some(Some((epoch, entries)))) => {
            Some(ChunkCheck { keys, epoch: *epoch, entries, bad: Vec::new() })
        }
        _ => None,
    };
    let mut hasher = OutboardBuilder::default();
    let (buffer, mut start, mut end) = (&mut scratch.buffer, 0, 0);
    buffer.clear();
    while end < length {
        let (kept, stretch) = (buffer.len(), VERIFY_BYTES.min(length - end));
        buffer.resize(kept + stretch, 0);
        file.read_at(end as u64, &mut buffer[kept..]).ok()?;
        hasher.append(&buffer[kept..]);
        end += stretch;
        let done =
            check.as_mut().map_or(stretch + kept, |check| check.open(start, buffer, &mut scratch.opener));
        buffer.drain(..done);
        start += done;
    }
    let (id, outboard) = hasher.finish()?;
    if id != row.id {
        return None;
    }
    renew_lost_outboard(store, row, length, &outboard);
    let unopened = check.map_or_else(Vec::new, |check| check.bad);
    match directory {
        None => Some(Vec::new()),
        Some(Some((_, entries))) => misplaced(store, row, &entries, &unopened).ok(),
        // Its own directory does not open: nothing in it can be trusted to be where the index says.
        Some(None) => {
            let chunks = store.chunks_in(&HashSet::from([row.number])).ok()?;
            Some(chunks.into_iter().map(|(id, _)| (id, State::Corrupt)).collect())
        }
    }
}

/// On a full disk the pack is sound all the same; the next look makes it again.
fn renew_lost_outboard(store: &Store, row: &PackRow, length: usize, outboard: &Outboard) {
    if !matches!(store.outboard(row.id, length), Ok(None)) {
        return;
    }
    if let Err(error) = store.renew_outboard(row.id, outboard) {
        tracing::warn!(target: "store", pack = %row.id.short(), %error, "an outboard could not be renewed");
    }
}

pub(super) fn read_directory(
    file: &PackFile,
    keys: &VaultKeys,
    length: usize,
) -> Option<(Epoch, Vec<PackEntry>)> {
    let (mut header, mut trailer) = ([0; HEADER_BYTES], [0; TRAILER_BYTES]);
    file.read_at(0, &mut header).ok()?;
    file.read_at((length.saturating_sub(TRAILER_BYTES)) as u64, &mut trailer).ok()?;
    let place = locate_directory(keys, length, &header, &trailer).ok()?;
    let mut sealed = vec![0; place.length as usize];
    file.read_at(u64::from(place.offset), &mut sealed).ok()?;
    Some((place.epoch, open_directory(keys, &place, &sealed).ok()?))
}

/// Opens the chunks of a pack as its bytes come by.
struct ChunkCheck<'a> {
    keys: &'a VaultKeys,
    epoch: Epoch,
    /// Those still to come.
    entries: &'a [PackEntry],
    /// Offsets of those that do not open.
    bad: Vec<u32>,
}

impl ChunkCheck<'_> {
    /// Opens what lies whole in `bytes`, which begin at `start` of the pack; how many of them are done with.
    fn open(&mut self, start: usize, bytes: &[u8], opener: &mut Opener) -> usize {
        while let Some((entry, rest)) = self.entries.split_first() {
            let at = entry.offset as usize - start;
            let Some(sealed) = bytes.get(at..at + entry.sealed_length as usize) else {
                return at.min(bytes.len());
            };
            if opener.open(self.keys, &entry.subject(self.epoch), sealed).is_err() {
                self.bad.push(entry.offset);
            }
            self.entries = rest;
        }
        bytes.len()
    }
}

/// Of a pack with the right hash: chunks that did not open, or that the index seeks elsewhere in it.
fn misplaced(
    store: &Store,
    row: &PackRow,
    entries: &[PackEntry],
    unopened: &[u32],
) -> Result<Vec<(ChunkId, State)>, EngineError> {
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
        if sought != there || unopened.contains(&entry.offset) {
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

/// First and last cell of a chunk.
pub(super) fn cells_of(offset: u32, length: u32) -> (usize, usize) {
    let cell = crate::base::limit::CELL_BYTES;
    let end = offset as usize + (length as usize).max(1) - 1;
    (offset as usize / cell, end / cell)
}

fn check_snapshot(
    vault: &Vault,
    view: &VaultView,
    snapshot: &Snapshot,
    known: Known<'_>,
    monitor: &Monitor,
) -> Result<SnapshotFinding, EngineError> {
    let mut reader = ChunkReader::new(vault, None, monitor);
    let mut found = References {
        vault,
        known,
        chunks: DistinctChunks::default(),
        unread: DistinctChunks::default(),
        waiting: Vec::new(),
        failure: None,
        missing: BTreeSet::new(),
        corrupt: BTreeSet::new(),
    };
    // Trees of other devices that are not here are not looked into: their devices do that.
    let is_elsewhere = |id| {
        let place = vault.store.lookup(id);
        place.is_ok_and(|place| place.is_some_and(|place| known.elsewhere.contains(&place.pack)))
    };
    let mut unread: Vec<ChunkId> = Vec::new();
    for_each_reference(&mut reader, snapshot, monitor, &mut |_: Kind, id| found.note(id), &mut |id, _| {
        unread.push(id);
    })?;
    found.settle();
    let References { chunks, unread: not_read, failure, missing, mut corrupt, .. } = found;
    if let Some(error) = failure {
        return Err(error.into());
    }
    corrupt.extend(unread.into_iter().filter(|id| !missing.contains(id) && !is_elsewhere(*id)));
    let hurt = if missing.is_empty() && corrupt.is_empty() {
        HurtFiles::default()
    } else {
        hurt_files(&mut reader, snapshot, [&missing, &corrupt], monitor)?
    };
    Ok(SnapshotFinding {
        id: snapshot.id,
        total: chunks.count(),
        missing: missing.into_iter().collect(),
        corrupt: corrupt.into_iter().collect(),
        elsewhere: not_read.count(),
        signed: view.is_certified(snapshot.device),
        hurt,
        broken: None,
    })
}

/// What is known of chunks before a snapshot is looked at.
#[derive(Clone, Copy)]
struct Known<'a> {
    bad: &'a BadChunks,
    /// Packs whose chunks are as good as missing.
    aside: &'a HashSet<PackNumber>,
    /// Packs of other devices that need not be here.
    elsewhere: &'a HashSet<PackNumber>,
}

/// References of one snapshot, looked up many at a time: a snapshot may have more chunks than fit the memory.
struct References<'a> {
    vault: &'a Vault,
    known: Known<'a>,
    chunks: DistinctChunks,
    /// Those in packs of which nothing was read.
    unread: DistinctChunks,
    waiting: Vec<ChunkId>,
    failure: Option<StoreError>,
    missing: BTreeSet<ChunkId>,
    corrupt: BTreeSet<ChunkId>,
}

/// Chunks looked up at one time.
const LOOKUPS_MAX: usize = 4096;

impl References<'_> {
    fn note(&mut self, id: ChunkId) {
        self.chunks.insert(id);
        self.waiting.push(id);
        if self.waiting.len() >= LOOKUPS_MAX {
            self.settle();
        }
    }

    fn settle(&mut self) {
        let ids = std::mem::take(&mut self.waiting);
        let places = match self.vault.store.lookup_many(&ids) {
            Ok(places) => places,
            Err(error) => return self.failure = self.failure.take().or(Some(error)),
        };
        for (id, place) in ids.iter().zip(places) {
            let place = place.filter(|place| !self.known.aside.contains(&place.pack));
            if place.is_some_and(|place| self.known.elsewhere.contains(&place.pack)) {
                self.unread.insert(*id);
            }
            match (place, self.known.bad.get(id)) {
                (None, _) | (_, Some(State::Missing)) => self.missing.insert(*id),
                (_, Some(State::Corrupt)) => self.corrupt.insert(*id),
                (Some(_), None) => continue,
            };
        }
    }
}
