//! The mark: which chunks any snapshot needs, in about four bytes for each chunk.
//!
//! The index's chunks, sorted as they are, become a table of fingerprints: the first bits of an id choose a bucket, the
//! next 32 are kept, and one bit tells whether the chunk was met. Two chunks with one fingerprint (one pair in a hundred
//! million) are marked together, which keeps one too many and never one too few. Where even that is more than the memory
//! allows, the ids are dealt with in several ranges, one walk over all trees for each.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::base::{ChunkId, DeviceId, limit};
use crate::crypto::Kind;
use crate::engine::chain::{Heads, UnreadableHead};
use crate::engine::error::EngineError;
use crate::engine::holder::readable;
use crate::engine::monitor::Monitor;
use crate::engine::pull::PackSource;
use crate::engine::reader::ChunkReader;
use crate::engine::revocations::revocations;
use crate::engine::seen::SeenTrees;
use crate::engine::tree::for_each_new_reference;
use crate::engine::vault::Vault;
use crate::snapshot::{Head, Snapshot, open_record};
use crate::store::{PackNumber, Store};

/// What the walk takes beside the table, in bytes: trees that were seen, readers.
const WALK_BYTES: usize = 12 * limit::MIB;
/// For each chunk: a fingerprint, a bit, and its share of the buckets' bounds.
const CHUNK_BYTES: f64 = 4.0 + 1.0 / 8.0 + 4.0 / BUCKET_CHUNKS as f64;
/// Chunks in one bucket, about.
const BUCKET_CHUNKS: u64 = 32;
/// Ids that are not in the table and wait to be looked up.
const UNKNOWN_MAX: usize = 4096;

/// What is followed.
pub(super) struct Roots {
    /// The newest heads of all devices.
    pub(super) heads: Vec<Head>,
    /// All snapshots that they list.
    pub(super) snapshots: Vec<Snapshot>,
}

/// Reads what tells what is needed. Unlike everywhere else, a damaged head is not passed over for an older one.
pub(super) fn roots(vault: &Vault) -> Result<Roots, EngineError> {
    let (store, id) = (&vault.store, vault.id());
    let unreadable = |what: String| Err(EngineError::RootUnreadable(what));
    let revoked = revocations(store, id)?;
    let (mut tips, mut heads) = (Heads::of_vault(store, id, &revoked)?, Vec::new());
    while let Some(head) = tips.step()? {
        heads.push(match head {
            Ok(head) => head,
            Err(UnreadableHead { device, seq, problem, .. }) => {
                return unreadable(format!("head {seq} of device {}: {problem}", device.short()));
            }
        });
    }
    let carried_on: HashSet<DeviceId> = heads.iter().flat_map(|head| revoked.carried_on(head)).collect();
    heads.retain(|head| !carried_on.contains(&head.device()));
    if !heads.iter().any(|head| head.device() == vault.device()) {
        return unreadable("this device has no head".to_owned());
    }
    let mut snapshots: BTreeMap<_, Snapshot> = BTreeMap::new();
    for listed in heads.iter().flat_map(|head| &head.draft.snapshots) {
        if snapshots.contains_key(listed) {
            continue;
        }
        let Some(bytes) = readable(store.read_snapshot(*listed))? else {
            let why = "its record is missing or damaged".to_owned();
            return Err(EngineError::RootBroken { id: *listed, why });
        };
        match open_record(&bytes, &vault.keyring.vault) {
            Ok(snapshot) if snapshot.id == *listed => {
                snapshots.insert(*listed, snapshot);
            }
            Ok(_) => {
                let why = "its record is another one".to_owned();
                return Err(EngineError::RootBroken { id: *listed, why });
            }
            Err(error) => return Err(EngineError::RootBroken { id: *listed, why: error.to_string() }),
        }
    }
    Ok(Roots { heads, snapshots: snapshots.into_values().collect() })
}

/// What of a pack is needed.
#[derive(Copy, Clone, Default, PartialEq, Eq, Debug)]
pub(super) struct PackUse {
    /// Needed chunks that the index places in it.
    pub(super) live_chunks: u64,
    /// Their sealed bytes.
    pub(super) live_bytes: u64,
    /// Sealed bytes of chunks that the index places in it and that nothing needs.
    pub(super) dead_bytes: u64,
    /// They are trees.
    pub(super) trees: bool,
}

/// What the mark found.
pub(super) struct Usage {
    packs: HashMap<PackNumber, PackUse>,
    /// Packs from this number on came after the mark began.
    pub(super) packs_end: PackNumber,
    pub(super) live_chunks: u64,
    pub(super) dead_chunks: u64,
    /// The whole table, where it fits the memory.
    pub(super) marks: Option<Marks>,
}

impl Usage {
    pub(super) fn of(&self, pack: PackNumber) -> PackUse {
        self.packs.get(&pack).copied().unwrap_or_default()
    }
}

/// Follows all snapshots and counts what of each pack they need.
pub(super) fn measure(
    vault: &Vault,
    snapshots: &[Snapshot],
    source: Option<&dyn PackSource>,
    memory_bytes: usize,
    monitor: &Monitor,
) -> Result<Usage, EngineError> {
    let store = &vault.store;
    let mut packs_end = PackNumber(0);
    store.for_each_pack(true, |row| {
        packs_end = packs_end.max(PackNumber(row.number.0 + 1));
        true
    })?;
    let chunks = store.pack_counts()?.chunks;
    let bits = range_bits(chunks, memory_bytes);
    let mut usage = Usage { packs: HashMap::new(), packs_end, live_chunks: 0, dead_chunks: 0, marks: None };
    monitor.files_total.store((snapshots.len() as u64) << bits, std::sync::atomic::Ordering::Relaxed);
    for range in 0..1u64 << bits {
        let mut marks = Marks::read(store, chunks >> bits, Range { bits, number: range })?;
        follow(vault, snapshots, source, &mut marks, monitor)?;
        store.for_each_chunk(|id, place| {
            if !marks.range.contains(id) {
                return true;
            }
            if marks.is_live(id) {
                let used = usage.packs.entry(place.pack).or_default();
                used.live_chunks += 1;
                used.live_bytes += u64::from(place.sealed_length);
                used.trees |= place.kind == Kind::Tree;
                usage.live_chunks += 1;
            } else {
                usage.packs.entry(place.pack).or_default().dead_bytes += u64::from(place.sealed_length);
                usage.dead_chunks += 1;
            }
            monitor.go_on().is_ok()
        })?;
        monitor.go_on()?;
        usage.marks = (bits == 0).then_some(marks);
    }
    Ok(usage)
}

/// Marks every chunk of the table's range that a snapshot refers to.
fn follow(
    vault: &Vault,
    snapshots: &[Snapshot],
    source: Option<&dyn PackSource>,
    marks: &mut Marks,
    monitor: &Monitor,
) -> Result<(), EngineError> {
    let mut reader = ChunkReader::for_marking(vault, source, monitor);
    let mut seen = SeenTrees::default();
    let mut unknown: Vec<ChunkId> = Vec::new();
    for snapshot in snapshots {
        let mut failure = None;
        let mut each = |_: Kind, id: ChunkId| {
            // After a failure nothing more is asked, so nothing more is kept.
            if marks.range.contains(id) && !marks.mark(id) && failure.is_none() {
                unknown.push(id);
                if unknown.len() >= UNKNOWN_MAX {
                    failure = settle(&vault.store, &mut unknown).err();
                }
            }
        };
        let mut broken = None;
        for_each_new_reference(&mut reader, snapshot, &mut seen, monitor, &mut each, &mut |id, error| {
            broken = broken.take().or(Some((id, error)));
        })?;
        let short = snapshot.id.short();
        if let Some((id, error)) = broken {
            return Err(EngineError::RootUnreadable(format!(
                "tree {} of snapshot {short}: {error}",
                id.short()
            )));
        }
        failure.map_or(Ok(()), Err)?;
        settle(&vault.store, &mut unknown)?;
        Monitor::add(&monitor.files_done, 1);
    }
    Ok(())
}

/// Chunks that the table does not have came after it was made, or are lost.
fn settle(store: &Store, unknown: &mut Vec<ChunkId>) -> Result<(), EngineError> {
    let places = store.lookup_many(unknown)?;
    let lost = unknown.iter().zip(places).find(|(_, place)| place.is_none());
    let result = match lost {
        None => Ok(()),
        Some((id, _)) => Err(EngineError::RootUnreadable(format!(
            "chunk {} that a snapshot needs is in no pack",
            id.short()
        ))),
    };
    unknown.clear();
    result
}

/// Into how many ranges (a power of two) the ids are to be cut, as an exponent.
fn range_bits(chunks: u64, memory_bytes: usize) -> u32 {
    let room = memory_bytes.saturating_sub(WALK_BYTES).max(limit::MIB) as f64;
    let mut bits = 0;
    while chunks as f64 * CHUNK_BYTES / f64::from(1u32 << bits) > room && bits < 16 {
        bits += 1;
    }
    bits
}

/// What a collection over so many chunks takes when it is done in one walk, in bytes.
pub fn memory_wanted(chunks: u64) -> usize {
    WALK_BYTES + (chunks as f64 * CHUNK_BYTES) as usize
}

/// A range of ids: those whose first `bits` bits are `number`.
#[derive(Copy, Clone)]
struct Range {
    bits: u32,
    number: u64,
}

fn first_bits(id: ChunkId) -> u64 {
    let (word, _) = id.as_bytes().split_first_chunk::<8>().expect("an id has 32 bytes");
    u64::from_be_bytes(*word)
}

impl Range {
    fn contains(self, id: ChunkId) -> bool {
        self.bits == 0 || first_bits(id) >> (64 - self.bits) == self.number
    }
}

/// Fingerprints of the index's chunks, and which of them were met.
pub(super) struct Marks {
    range: Range,
    /// Bits that choose a bucket, after those of the range.
    bucket_bits: u32,
    /// Where each bucket begins; one more at the end.
    bounds: Vec<u32>,
    prints: Vec<u32>,
    met: Vec<u64>,
}

impl Marks {
    fn read(store: &Store, expected: u64, range: Range) -> Result<Self, EngineError> {
        let buckets = (expected / BUCKET_CHUNKS).max(1).next_power_of_two();
        let bucket_bits = buckets.trailing_zeros().min(31 - range.bits.min(16));
        let mut marks = Self { range, bucket_bits, bounds: vec![0], prints: Vec::new(), met: Vec::new() };
        // A little more than expected: growing would take twice the memory for a moment.
        marks.prints.reserve_exact(usize::try_from(expected + expected / 64 + 1024).unwrap_or(0));
        store.for_each_chunk(|id, _| {
            if range.contains(id) {
                let (bucket, print) = marks.place(id);
                // Ids come in order, so buckets do.
                marks.bounds.resize(bucket + 1, marks.prints.len() as u32);
                marks.prints.push(print);
            }
            true
        })?;
        marks.bounds.resize((1 << bucket_bits) + 1, marks.prints.len() as u32);
        marks.met = vec![0; marks.prints.len().div_ceil(64)];
        Ok(marks)
    }

    fn place(&self, id: ChunkId) -> (usize, u32) {
        let rest = first_bits(id) << self.range.bits;
        let bucket = if self.bucket_bits == 0 { 0 } else { rest >> (64 - self.bucket_bits) };
        (bucket as usize, ((rest << self.bucket_bits) >> 32) as u32)
    }

    /// Positions of all chunks with the fingerprint of `id`.
    fn positions(&self, id: ChunkId) -> std::ops::Range<usize> {
        let (bucket, print) = self.place(id);
        let (start, end) = (self.bounds[bucket] as usize, self.bounds[bucket + 1] as usize);
        let within = &self.prints[start..end];
        start + within.partition_point(|one| *one < print)
            ..start + within.partition_point(|one| *one <= print)
    }

    /// Marks a chunk; `false` when it is not in the table.
    fn mark(&mut self, id: ChunkId) -> bool {
        let positions = self.positions(id);
        for at in positions.clone() {
            self.met[at / 64] |= 1 << (at % 64);
        }
        !positions.is_empty()
    }

    /// Whether it was marked; what is not in the table came later and counts as needed.
    pub(super) fn is_live(&self, id: ChunkId) -> bool {
        let mut positions = self.positions(id);
        positions.is_empty() || positions.any(|at| self.met[at / 64] >> (at % 64) & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Epoch;
    use crate::crypto::Codec;
    use crate::pack::{Outboard, PackEntry};
    use crate::store::NewPack;

    fn id(number: u64) -> ChunkId {
        ChunkId::new(*blake3::hash(&number.to_le_bytes()).as_bytes())
    }

    fn store_with(chunks: u64) -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(&dir.path().join("s")).unwrap();
        let bytes = vec![0; 128 << 10];
        let pack = Outboard::of(&bytes).0;
        let entry = |number| PackEntry {
            kind: Kind::Data,
            codec: Codec::Stored,
            id: id(number),
            offset: 48,
            sealed_length: 50,
            length: 10,
        };
        let entries = (0..chunks).map(entry).collect();
        store
            .index_packs(&[NewPack { id: pack, bytes: 128 << 10, epoch: Epoch(0), own: true, entries }])
            .unwrap();
        (dir, store)
    }

    #[test]
    fn marks_know_what_was_met_whatever_the_range() {
        for (chunks, bits) in [(0, 0), (1, 0), (5000, 0), (5000, 2)] {
            let (_dir, store) = store_with(chunks);
            let mut all = 0;
            for number in 0..1 << bits {
                let mut marks = Marks::read(&store, chunks >> bits, Range { bits, number }).unwrap();
                let mine: Vec<u64> = (0..chunks).filter(|n| marks.range.contains(id(*n))).collect();
                all += mine.len();
                assert!(mine.iter().filter(|n| *n % 3 == 0).all(|n| marks.mark(id(*n))));
                for n in &mine {
                    assert_eq!(marks.is_live(id(*n)), n % 3 == 0, "{n} of {chunks}");
                }
                let stranger = (chunks..).map(id).find(|id| marks.range.contains(*id)).unwrap();
                assert!(!marks.mark(stranger) && marks.is_live(stranger));
            }
            assert_eq!(all as u64, chunks);
        }
    }

    #[test]
    fn ten_million_chunks_fit_the_memory_of_a_node_as_it_comes() {
        let share = 72 * limit::MIB;
        assert!(memory_wanted(10_000_000) <= share, "{}", memory_wanted(10_000_000));
        assert_eq!(range_bits(10_000_000, share), 0);
        assert_eq!(range_bits(10_000_000, 24 * limit::MIB), 2);
        assert_eq!(range_bits(0, 0), 0);
    }
}
