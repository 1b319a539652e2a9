//! Repair and restore with holders at hand, and without.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use super::fixture::{Fixture, Holders, Manner, holder, noise, vault_options, watched};
use super::tree_of::assert_same;
use crate::base::{PackId, limit};
use crate::engine::{
    BackupResult, Damage, Gathering, Monitor, PackSource, Sources, VaultOptions, index_remote_pack,
    plan_repair, run_repair,
};

fn fixture() -> (Fixture, BackupResult) {
    let fixture = Fixture::new();
    fixture.write("large", &noise(1, 9 << 20));
    for i in 0..30u64 {
        fixture.write(&format!("dir/{i}"), &noise(i, 20_000));
    }
    let done = fixture.backup();
    (fixture, done)
}

/// The pack with most bytes in it, and where it lies.
fn largest(fixture: &Fixture) -> (PackId, PathBuf) {
    let packs = fixture.packs().into_iter();
    packs.max_by_key(|(_, path)| std::fs::metadata(path).unwrap().len()).unwrap()
}

fn quarantined(fixture: &Fixture) -> Vec<Vec<u8>> {
    let files = std::fs::read_dir(fixture.store().dir().join("quarantine")).unwrap();
    files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect()
}

fn flip(path: &PathBuf, places: &[usize]) -> Vec<u8> {
    let mut bytes = std::fs::read(path).unwrap();
    places.iter().for_each(|at| bytes[*at] ^= 1);
    std::fs::write(path, &bytes).unwrap();
    bytes
}

#[test]
fn repair_pulls_the_damaged_cells_and_nothing_else() {
    watched(|| {
        let (fixture, _) = fixture();
        let holders = Holders::of(&fixture, &[Manner::Honest]);
        let (id, path) = largest(&fixture);
        let cell = limit::CELL_BYTES;
        let damaged = flip(&path, &[3 * cell, 3 * cell + 9, 7 * cell - 1, 20 * cell]);
        let plan = plan_repair(fixture.verify().damages);
        assert_eq!(plan.items[0].cells, [3, 6, 20]);
        let monitor = Monitor::default();
        let result = run_repair(fixture.store(), &plan, &holders, &monitor).unwrap();
        assert_eq!((result.repaired.as_slice(), result.failed.len()), ([id].as_slice(), 0));
        assert_eq!(holders.cells(id), [3, 6, 20]);
        assert_eq!(result.given[&holder(0)], 3 * cell as u64);
        assert_eq!(monitor.bytes_fetched.load(Ordering::Relaxed), 3 * cell as u64);
        assert_eq!(quarantined(&fixture), [damaged]);
        assert!(fixture.verify().is_sound());
    });
}

#[test]
fn every_kind_of_damage_to_every_pack_is_repaired() {
    watched(|| {
        let (fixture, done) = fixture();
        let holders = Holders::of(&fixture, &[Manner::Absent, Manner::Honest]);
        for (id, path) in fixture.packs() {
            let whole = std::fs::read(&path).unwrap();
            let longer = [whole.as_slice(), b"more"].concat();
            let huge = [whole.as_slice(), &vec![0; limit::PACK_BYTES_MAX]].concat();
            let cut = whole[..whole.len() - 70_000].to_vec();
            for bad in [Some(longer), Some(huge), Some(cut), Some(vec![]), Some(vec![0; whole.len()]), None] {
                match &bad {
                    Some(bad) => std::fs::write(&path, bad).unwrap(),
                    None => std::fs::remove_file(&path).unwrap(),
                }
                // With and without the chaining values that tell good cells from bad.
                if bad.as_ref().is_some_and(|bad| bad.len() % 2 == 0) {
                    std::fs::remove_file(path.with_file_name(format!("{id}.cells"))).unwrap();
                }
                let plan = plan_repair(fixture.verify().damages);
                assert_eq!(plan.items.len(), 1);
                let result = run_repair(fixture.store(), &plan, &holders, &Monitor::default()).unwrap();
                assert_eq!(result.repaired, [id]);
                assert!(std::fs::read(&path).unwrap() == whole);
            }
        }
        assert!(fixture.verify().is_sound());
        fixture.restore(&done, "out");
    });
}

#[test]
fn a_holder_of_wrong_bytes_is_blamed_and_passed_over() {
    watched(|| {
        let (fixture, _) = fixture();
        let holders = Holders::of(&fixture, &[Manner::WrongBytes, Manner::Honest]);
        let (_, path) = largest(&fixture);
        flip(&path, &[100_000]);
        let plan = plan_repair(fixture.verify().damages);
        let result = run_repair(fixture.store(), &plan, &holders, &Monitor::default()).unwrap();
        assert_eq!(result.given.keys().copied().collect::<Vec<_>>(), [holder(1)]);
        assert_eq!(*holders.blamed.lock().unwrap(), [holder(0)]);
        assert!(fixture.verify().is_sound());
    });
}

#[test]
fn without_a_good_holder_nothing_is_changed() {
    watched(|| {
        let (fixture, _) = fixture();
        let (id, path) = largest(&fixture);
        let holders = Holders::of(&fixture, &[Manner::WrongBytes, Manner::Absent]);
        let nobody = Holders::of(&fixture, &[]);
        let damaged = flip(&path, &[100_000]);
        let plan = plan_repair(fixture.verify().damages);
        for source in [&holders, &nobody] {
            let result = run_repair(fixture.store(), &plan, source, &Monitor::default()).unwrap();
            assert!(result.repaired.is_empty());
            assert_eq!(result.failed.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [id]);
            assert!(std::fs::read(&path).unwrap() == damaged);
            assert!(quarantined(&fixture).is_empty());
        }
    });
}

/// The damaged file was moved away before the new one was written; on a full disk that left nothing, although most of
/// the pack had been sound.
#[test]
fn a_repair_that_cannot_write_leaves_the_damaged_pack_in_place() {
    watched(|| {
        let (fixture, _) = fixture();
        let (id, path) = largest(&fixture);
        let holders = Holders::of(&fixture, &[Manner::Honest]);
        let damaged = flip(&path, &[100_000]);
        let plan = plan_repair(fixture.verify().damages);
        let tmp = fixture.store().dir().join("tmp");
        std::fs::remove_dir(&tmp).unwrap();
        assert!(run_repair(fixture.store(), &plan, &holders, &Monitor::default()).is_err());
        assert!(std::fs::read(&path).unwrap() == damaged);
        assert!(quarantined(&fixture).is_empty());
        std::fs::create_dir(&tmp).unwrap();
        let result = run_repair(fixture.store(), &plan, &holders, &Monitor::default()).unwrap();
        assert_eq!(result.repaired, [id]);
    });
}

#[test]
fn a_plan_made_before_more_was_lost_still_leads_to_a_sound_pack() {
    watched(|| {
        let (fixture, _) = fixture();
        let holders = Holders::of(&fixture, &[Manner::Honest]);
        let (id, path) = largest(&fixture);
        flip(&path, &[100_000]);
        let plan = plan_repair(fixture.verify().damages);
        flip(&path, &[300_000]);
        let repair = || run_repair(fixture.store(), &plan, &holders, &Monitor::default()).unwrap().repaired;
        assert_eq!(repair(), [id]);
        assert!(fixture.verify().is_sound());
        std::fs::remove_file(&path).unwrap();
        assert_eq!(repair(), [id]);
        assert!(fixture.verify().is_sound());
        let length = std::fs::metadata(&path).unwrap().len();
        assert_eq!(Damage::examine(fixture.store(), id, length).unwrap(), None);
    });
}

#[test]
fn a_restore_heals_what_it_needs_on_the_fly() {
    watched(|| {
        let (fixture, done) = fixture();
        let holders = Holders::of(&fixture, &[Manner::WrongBytes, Manner::Honest]);
        for (at, (_, path)) in fixture.packs().into_iter().enumerate() {
            if at % 2 == 0 {
                std::fs::remove_file(path).unwrap();
            } else {
                let cells = std::fs::metadata(&path).unwrap().len() as usize / limit::CELL_BYTES;
                flip(&path, &(0..cells).map(|cell| cell * limit::CELL_BYTES + 77).collect::<Vec<_>>());
            }
        }
        let (target, result, _) = fixture.restore_from(&done, "out", Some(&holders));
        assert_eq!(result.failed, 0);
        assert_same(&fixture.src(), &target);
        assert!(fixture.verify().is_sound());
        // Each pack came once, whichever threads missed it.
        for (id, path) in fixture.packs() {
            let cells = std::fs::metadata(&path).unwrap().len() as usize / limit::CELL_BYTES;
            let asked = holders.cells(id);
            assert!(asked.len() <= cells + 16 + cells, "{} of {cells}", asked.len());
        }
    });
}

#[test]
fn without_holders_a_restore_names_the_lost_files_and_brings_the_others_back() {
    watched(|| {
        let fixture = Fixture::new();
        fixture.write("keep", &noise(1, 300_000));
        fixture.backup();
        let sound: Vec<PackId> = fixture.store().pack_files().unwrap();
        fixture.write("lose/large", &noise(2, 2 << 20));
        fixture.write("lose/small", &noise(3, 100));
        let done = fixture.backup();
        let new = fixture.packs().into_iter().filter(|(id, _)| !sound.contains(id));
        // Data packs only: a lost tree would take its directory with it.
        let data = new.filter(|(id, _)| {
            let number = fixture.store().pack_by_id(*id).unwrap().unwrap().number;
            let chunks = fixture.store().chunks_in(&[number].into()).unwrap();
            chunks.iter().any(|(_, place)| place.kind == crate::crypto::Kind::Data)
        });
        let data: Vec<PathBuf> = data.map(|(_, path)| path).collect();
        assert!(!data.is_empty());
        let whole: Vec<Vec<u8>> = data.iter().map(|path| std::fs::read(path).unwrap()).collect();
        for round in 0..2 {
            for (path, whole) in data.iter().zip(&whole) {
                match round {
                    0 => std::fs::remove_file(path).unwrap(),
                    _ => std::fs::write(path, vec![0; whole.len()]).unwrap(),
                }
            }
            let (target, result, monitor) = fixture.restore_from(&done, &format!("out-{round}"), None);
            assert_eq!((result.files, result.failed), (1, 2));
            let mut named: Vec<String> = monitor.problems().1.into_iter().map(|p| p.path).collect();
            named.sort_unstable();
            assert_eq!(named, ["lose/large", "lose/small"]);
            assert_eq!(std::fs::read(target.join("keep")).unwrap(), noise(1, 300_000));
            assert_eq!(std::fs::read_dir(target.join("lose")).unwrap().count(), 0, "no half files");
        }
    });
}

#[test]
fn a_pack_that_is_elsewhere_is_indexed_from_its_directory_alone() {
    watched(|| {
        let (fixture, done) = fixture();
        let holders = Holders::of(&fixture, &[Manner::WrongBytes, Manner::Honest]);
        let mut options = super::fixture::vault_options();
        options.sizes = crate::chunker::ChunkSizes::new(64, 256, 1024).unwrap();
        let dense = Fixture::with(options);
        dense.write("pieces", &noise(5, 4 << 20));
        dense.backup();
        let dense_holders = Holders::of(&dense, &[Manner::Honest]);
        for (fixture, holders) in [(&fixture, &holders), (&dense, &dense_holders)] {
            for (id, path) in fixture.packs() {
                let length = std::fs::metadata(&path).unwrap().len();
                let monitor = Monitor::default();
                let new = index_remote_pack(&fixture.vault, holders, id, length, &monitor).unwrap();
                let row = fixture.store().pack_by_id(id).unwrap().unwrap();
                assert_eq!((new.id, new.bytes, new.epoch, new.own), (id, row.bytes, row.epoch, true));
                let places = fixture.store().chunks_in(&[row.number].into()).unwrap();
                let mut rows: Vec<_> = places
                    .into_iter()
                    .map(|(id, p)| (p.offset, id, p.sealed_length, p.length, p.kind, p.codec))
                    .collect();
                rows.sort_unstable_by_key(|row| row.0);
                let entries: Vec<_> = new
                    .entries
                    .iter()
                    .map(|e| (e.offset, e.id, e.sealed_length, e.length, e.kind, e.codec))
                    .collect();
                assert_eq!(rows, entries);
            }
        }
        // A new machine has the rows only: everything else comes while it restores.
        for (_, path) in fixture.packs() {
            std::fs::remove_file(path).unwrap();
        }
        let (target, _, _) = fixture.restore_from(&done, "out", Some(&holders));
        assert_same(&fixture.src(), &target);
        let (id, path) = largest(&fixture);
        let length = std::fs::metadata(path).unwrap().len();
        let nobody = Holders::of(&fixture, &[Manner::WrongBytes]);
        assert!(index_remote_pack(&fixture.vault, &nobody, id, length, &Monitor::default()).is_err());
    });
}

/// Counts how many packs are pulled at the same time, and lets each wait a while until there were two.
struct Slow {
    holders: Holders,
    now: Mutex<(usize, usize)>,
    changed: Condvar,
}

impl PackSource for Slow {
    fn sources(&self, pack: PackId) -> Sources {
        self.holders.sources(pack)
    }

    fn gather(&self, pack: PackId, gathering: &mut Gathering<'_>) {
        let mut count = self.now.lock().unwrap();
        count.0 += 1;
        count.1 = count.1.max(count.0);
        self.changed.notify_all();
        // Trees come one by one.
        let is_large = self.holders.length(pack) > 1 << 20;
        let patience = if is_large { Duration::from_secs(20) } else { Duration::ZERO };
        let (mut count, _) = self.changed.wait_timeout_while(count, patience, |count| count.1 < 2).unwrap();
        count.0 -= 1;
        drop(count);
        self.holders.gather(pack, gathering);
    }
}

/// One pack after the other was pulled, written and flushed, while the lines of the holders were idle.
#[test]
fn a_restore_pulls_the_next_packs_while_it_writes_what_came() {
    watched(|| {
        let fixture = Fixture::with(VaultOptions { workers: 1, ..vault_options() });
        fixture.write("large", &noise(1, 40 << 20));
        let done = fixture.backup();
        let holders = Holders::of(&fixture, &[Manner::Honest]);
        let slow = Slow { holders, now: Mutex::default(), changed: Condvar::new() };
        for (_, path) in fixture.packs() {
            std::fs::remove_file(path).unwrap();
        }
        let (target, _, monitor) = fixture.restore_from(&done, "out", Some(&slow));
        assert_eq!(monitor.problems().1, []);
        assert_same(&fixture.src(), &target);
        assert!((2..=limit::PACKS_HEALED_MAX).contains(&slow.now.lock().unwrap().1));
    });
}
