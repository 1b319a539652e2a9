//! Moving live chunks out of partly dead and small packs: opened, checked, sealed anew with the new pack's salt, never
//! compressed again. Moving the ciphertext as it is would show holders where chunks begin.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::mark::{Marks, PackUse};
use crate::base::{Code, Coded, Epoch, limit};
use crate::crypto::{Kind, SealError, Sealer};
use crate::engine::error::EngineError;
use crate::engine::monitor::Monitor;
use crate::engine::open_pack::OpenPack;
use crate::engine::vault::Vault;
use crate::engine::verify::read_directory;
use crate::pack::{ENTRY_BYTES, PackEntry, pack_sizes_for};
use crate::store::{PackFile, PackNumber, PackRow};

/// Packs up to this size are put together when there are many: an eighth of a full one.
const SMALL_BYTES: u64 = (limit::PACK_BYTES_MAX / 8) as u64;
/// How many are many. Each backup leaves one or two, which are uploaded once more when they are put together.
const SMALL_PACKS: usize = 32;
/// A pack with less unused than this is not worth moving: an eighth is padding.
const WASTE_SHARE_MIN: u64 = 8;
/// An open pack is written out whenever it has this many bytes in memory.
const DRAIN_BYTES: usize = limit::MIB;

/// A pack that could be moved.
#[derive(Copy, Clone, Debug)]
pub(super) struct Candidate {
    pub(super) pack: PackNumber,
    /// Its length.
    pub(super) bytes: u64,
    /// What is needed of it.
    pub(super) used: PackUse,
    /// Some holder has it, and would have to take what it is moved to.
    pub(super) held: bool,
}

impl Candidate {
    /// What it takes of its holders' room to move it, in bytes: an eighth of a new pack is padding.
    fn cost(&self) -> u64 {
        if self.held { self.used.live_bytes + self.used.live_bytes / 8 } else { 0 }
    }
}

/// What is to be moved.
#[derive(Default, PartialEq, Eq, Debug)]
pub(super) struct Plan {
    pub(super) packs: Vec<PackNumber>,
    /// Packs that would be moved as well if their holders had room.
    pub(super) without_room: u64,
}

/// Which of these packs to move, for which their holders have `room` bytes. Pure.
///
/// Unused is what dead chunks take. Padding is not: moving it would pad again, for ever.
/// The emptiest first, until what stays unused in the others is at most `max_unused_percent` of all that is needed; and
/// small packs of one kind once there are many.
pub(super) fn plan_reseal(packs: &[Candidate], max_unused_percent: u32, mut room: u64) -> Plan {
    let live: u64 = packs.iter().map(|one| one.used.live_bytes).sum();
    let mut left: u64 = packs.iter().map(|one| one.used.dead_bytes).sum();
    let allowed = live.saturating_mul(u64::from(max_unused_percent)) / 100;
    let mut emptiest: Vec<&Candidate> = packs.iter().collect();
    // By share: moving an empty pack costs little and frees much.
    emptiest.sort_by_key(|one| {
        let share = u128::from(one.used.dead_bytes) * 1_000_000 / u128::from(one.bytes.max(1));
        (std::cmp::Reverse(share), one.pack)
    });
    let (mut chosen, mut without_room) = (BTreeSet::new(), 0);
    for one in emptiest {
        let waste = one.used.dead_bytes;
        if left <= allowed || waste * WASTE_SHARE_MIN <= one.bytes {
            break;
        }
        // The smallest there is does not get smaller.
        if one.bytes <= limit::PACK_SIZES[0] as u64 {
            continue;
        }
        if one.cost() > room {
            without_room += 1;
            continue;
        }
        chosen.insert(one.pack);
        (left, room) = (left - waste, room - one.cost());
    }
    for trees in [false, true] {
        let small = packs.iter().filter(|one| one.used.trees == trees && one.bytes <= SMALL_BYTES);
        let small: Vec<&Candidate> = small.collect();
        if small.len() < SMALL_PACKS {
            continue;
        }
        for one in small {
            if !chosen.contains(&one.pack) && one.cost() <= room {
                chosen.insert(one.pack);
                room -= one.cost();
            }
        }
    }
    Plan { packs: chosen.into_iter().collect(), without_room }
}

/// What was moved.
#[derive(Default)]
pub(super) struct Moved {
    /// Packs that have no live chunk any more, and where those are now.
    pub(super) emptied: Vec<(PackNumber, Vec<PackNumber>)>,
    /// Bytes of new packs.
    pub(super) bytes: u64,
    /// Packs that could not be moved, one line each.
    pub(super) problems: Vec<String>,
}

/// Where live chunks of one kind go.
struct Lane {
    open: OpenPack,
    /// Whose chunks are in it.
    sources: HashSet<PackNumber>,
    /// Sizes of the packs to come, the present one first.
    sizes: std::vec::IntoIter<usize>,
    size: usize,
}

impl Lane {
    fn new(epoch: Epoch, sources: &[(PackRow, PackUse)], trees: bool) -> Self {
        let of_kind = sources.iter().filter(|(_, used)| used.trees == trees);
        let bytes: u64 =
            of_kind.map(|(_, used)| used.live_bytes + used.live_chunks * ENTRY_BYTES as u64).sum();
        let mut sizes = pack_sizes_for(usize::try_from(bytes).unwrap_or(usize::MAX)).into_iter();
        let size = sizes.next().unwrap_or(limit::PACK_SIZES[0]);
        Self { open: OpenPack::new(epoch), sources: HashSet::new(), sizes, size }
    }
}

/// Moves live chunks. Order of durability: new pack, then the index row that finds the chunk there.
pub(super) struct Mover<'a> {
    vault: &'a Vault,
    marks: &'a Marks,
    monitor: &'a Monitor,
    sealer: Sealer,
    sources: &'a [(PackRow, PackUse)],
    /// For data and for trees.
    lanes: [Lane; 2],
    /// New packs of each source.
    successors: BTreeMap<PackNumber, HashSet<PackNumber>>,
    moved: Moved,
}

impl<'a> Mover<'a> {
    /// Of `sources`, what lives is to be moved.
    pub(super) fn new(
        vault: &'a Vault,
        marks: &'a Marks,
        monitor: &'a Monitor,
        sources: &'a [(PackRow, PackUse)],
    ) -> Result<Self, EngineError> {
        let epoch = vault.keyring.vault.newest_epoch();
        let lanes = [false, true].map(|trees| Lane::new(epoch, sources, trees));
        let (successors, moved) = (BTreeMap::new(), Moved::default());
        Ok(Self { vault, marks, monitor, sealer: Sealer::new(None)?, sources, lanes, successors, moved })
    }

    /// Moves. A source that cannot be read stays as it is, and is named; a full disk ends the work.
    pub(super) fn run(mut self) -> Result<Moved, EngineError> {
        let mut whole: Vec<PackNumber> = Vec::new();
        let mut full = None;
        for (row, _) in self.sources {
            self.monitor.go_on()?;
            match self.empty(row) {
                Ok(()) => whole.push(row.number),
                Err(error) if error.code() == Code::StorageFull => {
                    full = Some(error);
                    break;
                }
                Err(error) if is_of_the_pack(&error) => {
                    self.moved.problems.push(format!("pack {} was left as it is: {error}", row.id.short()));
                }
                Err(error) => return Err(error),
            }
        }
        for at in [0, 1] {
            match self.finish(at) {
                Err(error) if error.code() == Code::StorageFull => full = Some(error),
                other => other?,
            }
        }
        if let Some(error) = full {
            self.moved.problems.push(format!("rewriting packs ended early: {error}"));
        }
        self.note_emptied(&whole)?;
        Ok(self.moved)
    }

    /// A source is empty when the index finds none of its live chunks in it.
    fn note_emptied(&mut self, whole: &[PackNumber]) -> Result<(), EngineError> {
        for pack in whole {
            let Some(row) = self.vault.store.pack_by_number(*pack)? else { continue };
            let (_, (_, entries)) = self.directory(&row)?;
            if !self.live(&row, &entries)?.is_empty() {
                continue;
            }
            let mut successors: Vec<PackNumber> =
                self.successors.get(pack).into_iter().flatten().copied().collect();
            successors.sort_unstable();
            self.moved.emptied.push((*pack, successors));
        }
        Ok(())
    }

    fn directory(&self, row: &PackRow) -> Result<(PackFile, (Epoch, Vec<PackEntry>)), EngineError> {
        let file = self.vault.store.open_pack(row.id)?;
        let length = usize::try_from(row.bytes).unwrap_or(usize::MAX);
        let directory = read_directory(&file, &self.vault.keyring.vault, length);
        let damaged = || EngineError::RecordMissing(format!("the directory of pack {}", row.id.short()));
        Ok((file, directory.ok_or_else(damaged)?))
    }

    /// Of a pack's entries, those that are needed and read from there.
    fn live(&self, row: &PackRow, entries: &[PackEntry]) -> Result<Vec<PackEntry>, EngineError> {
        let ids: Vec<_> = entries.iter().map(|entry| entry.id).collect();
        let places = self.vault.store.lookup_many(&ids)?;
        let here = entries.iter().zip(places).filter(|(entry, place)| {
            let found = place.is_some_and(|place| (place.pack, place.offset) == (row.number, entry.offset));
            found && self.marks.is_live(entry.id)
        });
        Ok(here.map(|(entry, _)| *entry).collect())
    }

    /// Moves the live chunks of one pack.
    fn empty(&mut self, row: &PackRow) -> Result<(), EngineError> {
        let (file, (epoch, entries)) = self.directory(row)?;
        let (mut sealed, mut anew) = (Vec::new(), Vec::new());
        for entry in self.live(row, &entries)? {
            sealed.resize(entry.sealed_length as usize, 0);
            file.read_at(u64::from(entry.offset), &mut sealed)?;
            let at = usize::from(entry.kind == Kind::Tree);
            // The same payload, so the same length.
            if self.lanes[at].open.is_full_for(sealed.len(), self.lanes[at].size) {
                self.finish(at)?;
            }
            let lane = &mut self.lanes[at];
            let (keys, salt) = (&self.vault.keyring.vault, lane.open.salt());
            anew.clear();
            let made = self.sealer.reseal(keys, &salt, &entry.subject(epoch), &sealed, &mut anew)?;
            lane.open.push(entry.kind, made.codec, entry.id, entry.length, &anew);
            lane.sources.insert(row.number);
            lane.open.drain(&self.vault.store, DRAIN_BYTES)?;
        }
        Ok(())
    }

    /// Publishes an open pack and lets its chunks be found there.
    fn finish(&mut self, at: usize) -> Result<(), EngineError> {
        let store = &self.vault.store;
        let keys = &self.vault.keyring.vault;
        let lane = &mut self.lanes[at];
        if lane.open.is_empty() {
            return Ok(());
        }
        let open = std::mem::replace(&mut lane.open, OpenPack::new(keys.newest_epoch()));
        let sources = std::mem::take(&mut lane.sources);
        lane.size = lane.sizes.next().unwrap_or(limit::PACK_BYTES_MAX);
        let new = open.finish(store, keys)?.publish(store)?;
        let bytes = new.bytes;
        let number = store.move_chunks(&[new], &sources)?[0].number;
        self.moved.bytes += bytes;
        for source in sources {
            self.successors.entry(source).or_default().insert(number);
        }
        Ok(())
    }
}

/// Damage of a pack, which verify tells of, as opposed to what is wrong with the system.
fn is_of_the_pack(error: &EngineError) -> bool {
    matches!(
        error,
        EngineError::Seal(SealError::Unsound(_) | SealError::NoKey(_)) | EngineError::RecordMissing(_)
    ) || matches!(error.code(), Code::StorageCorrupted | Code::ChunkNotFound)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: u64 = limit::PACK_BYTES_MAX as u64;

    fn pack(number: u32, bytes: u64, live_bytes: u64, trees: bool) -> Candidate {
        let used = PackUse { live_chunks: 1, live_bytes, dead_bytes: bytes - live_bytes, trees };
        Candidate { pack: PackNumber(number), bytes, used, held: true }
    }

    fn check(packs: &[Candidate], percent: u32, expected: &[u32]) {
        check_with_room(packs, percent, u64::MAX, expected, 0);
    }

    fn check_with_room(packs: &[Candidate], percent: u32, room: u64, expected: &[u32], without_room: u64) {
        let packs_expected = expected.iter().copied().map(PackNumber).collect();
        let found = plan_reseal(packs, percent, room);
        assert_eq!(found, Plan { packs: packs_expected, without_room }, "{percent} {room}");
    }

    #[test]
    fn what_holders_have_is_moved_only_where_they_have_room() {
        let mut packs = vec![
            pack(0, FULL, FULL / 2, false),
            pack(1, FULL, FULL / 10, false),
            pack(2, FULL, FULL * 3 / 5, false),
        ];
        check_with_room(&packs, 0, FULL * 9 / 16 + FULL * 9 / 80, &[0, 1], 1);
        check_with_room(&packs, 0, FULL / 2, &[1], 2);
        check_with_room(&packs, 0, 0, &[], 3);
        packs[2].held = false;
        check_with_room(&packs, 0, 0, &[2], 2);
    }

    #[test]
    fn the_emptiest_packs_are_moved_until_little_is_unused() {
        let packs = [
            pack(0, FULL, FULL - 1000, false),
            pack(1, FULL, FULL / 2, false),
            pack(2, FULL, FULL / 10, false),
            pack(3, FULL, FULL * 4 / 5, false),
            pack(4, FULL, FULL - 1000, true),
        ];
        check(&packs, 0, &[1, 2, 3]);
        check(&packs, 5, &[1, 2, 3]);
        check(&packs, 10, &[1, 2]);
        check(&packs, 30, &[2]);
        check(&packs, 100, &[]);
        check(&[], 5, &[]);
        // Full ones are never worth it, and the smallest pack does not get smaller.
        check(&packs[..1], 0, &[]);
        check(&[pack(0, limit::PACK_SIZES[0] as u64, 10, false)], 0, &[]);
    }

    #[test]
    fn small_packs_are_put_together_once_there_are_many() {
        let small = |number: u32, trees| pack(number, 128 << 10, 120 << 10, trees);
        let mut packs: Vec<_> = (0..31).map(|number| small(number, false)).collect();
        packs.extend((31..40).map(|number| small(number, true)));
        check(&packs, 100, &[]);
        packs.push(small(40, false));
        let expected: Vec<u32> = (0..31).chain([40]).collect();
        check(&packs, 100, &expected);
    }
}
