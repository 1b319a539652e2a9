//! A disk that other programs fill to the brim, with so many bytes left: backup, pull, collection, and work on the index
//! end cleanly at every step; the store is whole, forgets, collects, and goes on once there is space again.
//!
//! On a small file system of its own (none where mounting is not permitted). `STEPS=all`, as in `make test-full`, takes
//! every step of 256 KiB; else there are a few.

use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use super::failure::Small;
use super::fixture::{Fixture, gc_options, noise, vault_options, watched};
use crate::base::{Code, Coded, Epoch, PackId, SnapshotId};
use crate::chunker::ChunkSizes;
use crate::engine::tests::fixture::{head_packs, newest_heads};
use crate::engine::{
    EngineError, GcResult, Monitor, VaultOptions, collect, forget, forward_packs, held_packs, rebuild_index,
    store_list, store_snapshot,
};
use crate::pack::Outboard;
use crate::store::{NOBODY, Store};

const STEP_BYTES: u64 = 256 << 10;
const DISK_MIB: u32 = 64;
/// Steps that are taken without being asked for all.
const SOME: [u64; 9] = [0, 1, 2, 5, 13, 31, 37, 60, 100];

fn all_steps() -> bool {
    std::env::var("STEPS").is_ok_and(|which| which == "all")
}

fn steps() -> Vec<u64> {
    if all_steps() { (0..=u64::from(DISK_MIB) * 4).collect() } else { SOME.to_vec() }
}

/// All steps take longer than any other test may.
fn run(work: impl FnOnce() + Send + 'static) {
    if all_steps() { work() } else { watched(work) }
}

/// Takes all but `left` bytes, as another program would; what is left is no more than that.
fn fill(small: &Small, left: u64) {
    let stat = statvfs(&small.0).unwrap();
    let file = std::fs::File::create(small.0.join("filler")).unwrap();
    if let Some(taken) = (stat.f_bavail * stat.f_frsize).checked_sub(left).filter(|taken| *taken > 0) {
        fallocate(file, FallocateFlags::empty(), 0, taken).unwrap();
    }
}

fn give_back(small: &Small) {
    std::fs::remove_file(small.0.join("filler")).unwrap();
}

pub(super) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &to),
            // Its bytes, so that what was set aside is really there.
            false => std::fs::write(to, std::fs::read(entry.path()).unwrap()).unwrap(),
        }
    }
}

fn gc(fixture: &Fixture) -> Result<GcResult, EngineError> {
    collect(&fixture.vault, gc_options(true), &[], None, &Monitor::default())
}

fn forget_oldest(fixture: &Fixture) {
    let oldest: SnapshotId = fixture.view().snapshots[0].id;
    assert_eq!(forget(&fixture.vault, &[oldest], &[]).unwrap(), 1);
}

fn sound(fixture: &Fixture, what: &str) {
    let found = fixture.verify();
    assert!(found.is_sound(), "{what}: {:?} {:?} {:?}", found.damages, found.records, found.snapshots);
}

/// A node with three backups, of each of which only a part is in the next.
fn prepared(dir: tempfile::TempDir, store: &Path, options: VaultOptions) -> Fixture {
    let fixture = Fixture::at(dir, store, options);
    fixture.write("same", &noise(1, 1 << 20));
    for round in 0..3u64 {
        fixture.write("changing", &noise(10 + round, 2 << 20));
        fixture.let_the_clock_tick();
        fixture.backup();
    }
    fixture.write("changing", &noise(20, 2 << 20));
    fixture
}

/// Does `work` with so much space left, at every step. It may run out of that; forgetting and collecting may not.
fn at_every_step(options: VaultOptions, work: impl Fn(&Fixture) -> Result<(), EngineError>) {
    let dir = tempfile::tempdir().unwrap();
    let Some(small) = Small::mount(&dir.path().join("disk"), DISK_MIB) else { return };
    let (base, store) = (dir.path().join("base"), small.0.join("store"));
    let mut fixture = prepared(dir, &base, options);
    let mut failures = 0;
    for step in steps() {
        fixture = fixture.moved(|| copy(&base, &store), &store);
        let what = format!("with {step} × 256 KiB left");
        fill(&small, step * STEP_BYTES);
        if let Err(error) = work(&fixture) {
            assert_eq!(error.code(), Code::StorageFull, "{what}: {error}");
            failures += 1;
        }
        sound(&fixture, &what);
        if step % 2 == 1 {
            fixture = fixture.moved(|| (), &store);
        }
        forget_oldest(&fixture);
        // A pack that was only being written may have taken the last room; what is deleted makes some.
        let done = gc(&fixture).unwrap_or_else(|error| panic!("{what}: {error}"));
        let again = gc(&fixture).unwrap_or_else(|error| panic!("{what}: {error}"));
        // Packs that are needed in part stay where there is no room to rewrite them, and that is said.
        let no_room = again.problems.iter().any(|problem| problem.contains("the disk is full"));
        assert!(done.deleted.0 + again.deleted.0 > 0 || no_room, "{what}: {done:?} {again:?}");
        sound(&fixture, &format!("{what}, then collected"));
        give_back(&small);
        work(&fixture).unwrap_or_else(|error| panic!("{what}, which was given back: {error}"));
        fixture.backup();
        sound(&fixture, &format!("{what}, which was given back"));
        fixture = fixture.moved(|| (), &base);
        std::fs::remove_dir_all(&store).unwrap();
    }
    assert!(failures < steps().len(), "it worked at no step");
    drop((fixture, small));
}

#[test]
fn a_backup_at_every_step_of_a_full_disk() {
    run(|| {
        at_every_step(vault_options(), |fixture| {
            fixture.write("new", &noise(30, 9 << 20));
            fixture.try_backup(&Monitor::default()).map(drop)
        });
    });
}

/// Rows of many small chunks take as much room as some packs.
#[test]
fn a_backup_of_many_rows_at_every_step_of_a_full_disk() {
    run(|| {
        let sizes = ChunkSizes::new(64, 256, 1024).unwrap();
        at_every_step(VaultOptions { sizes, ..vault_options() }, |fixture| {
            fixture.write("new", &noise(31, 2 << 20));
            fixture.try_backup(&Monitor::default()).map(drop)
        });
    });
}

#[test]
fn a_collection_works_at_every_step_of_a_full_disk() {
    run(|| {
        let failed = std::sync::atomic::AtomicBool::new(false);
        at_every_step(vault_options(), |fixture| {
            forget_oldest(fixture);
            let done = gc(fixture).inspect_err(|error| {
                eprintln!("{error}");
                failed.store(true, std::sync::atomic::Ordering::Relaxed);
            })?;
            assert!(done.deleted.0 > 0, "{done:?}");
            Ok(())
        });
        assert!(!failed.into_inner(), "a collection ran out of space");
    });
}

#[test]
fn a_pull_at_every_step_of_a_full_disk() {
    run(|| {
        let owner = Fixture::new();
        owner.write("theirs", &noise(40, 6 << 20));
        owner.backup();
        at_every_step(vault_options(), |holder| hold(holder.store(), &owner));
    });
}

/// Takes in everything of the owner, as a holder does.
fn hold(store: &Store, owner: &Fixture) -> Result<(), EngineError> {
    let vault = owner.vault.id();
    let head = newest_heads(owner.store(), vault)?.remove(0);
    for list in &head.draft.lists {
        store_list(store, list.id, &owner.store().read_list(list.id)?.unwrap())?;
    }
    for id in &head.draft.snapshots {
        store_snapshot(store, *id, &owner.store().read_snapshot(*id)?.unwrap())?;
    }
    let bytes = owner.store().read_head(vault, head.device(), head.draft.seq, head.id)?.unwrap();
    store.publish_head(vault, head.device(), head.draft.seq, head.id, &bytes)?;
    let packs: Vec<PackId> = head_packs(store, &head)?.into_iter().map(|(id, _)| id).collect();
    let held = held_packs(store, vault, &packs)?;
    for (id, path) in owner.packs().into_iter().filter(|(id, _)| !held.contains(id)) {
        let bytes = std::fs::read(path).unwrap();
        forward_packs(store, (vault, NOBODY), id, &bytes, &Outboard::of(&bytes).1)?;
    }
    assert_eq!(held_packs(store, vault, &packs)?.len(), packs.len());
    Ok(())
}

/// An index that is made anew needs the room of another; without it the next try makes it.
#[test]
fn making_the_index_anew_at_every_step_of_a_full_disk() {
    run(|| {
        let dir = tempfile::tempdir().unwrap();
        let Some(small) = Small::mount(&dir.path().join("disk"), DISK_MIB) else { return };
        let store = small.0.join("store");
        let sizes = ChunkSizes::new(64, 256, 1024).unwrap();
        let mut fixture = prepared(dir, &store, VaultOptions { sizes, ..vault_options() });
        for step in steps() {
            fill(&small, step * STEP_BYTES);
            let keys = fixture.phrase.root().vault_keys(Epoch(0));
            let anew = |path: &Path| {
                let made = Store::rebuild(path).map_err(EngineError::from);
                let filled = made.and_then(|store| rebuild_index(&store, Some(&keys), &Monitor::default()));
                if let Err(error) = filled {
                    assert_eq!(error.code(), Code::StorageFull, "{step}: {error}");
                    give_back(&small);
                    let store = Store::rebuild(path).unwrap();
                    rebuild_index(&store, Some(&keys), &Monitor::default()).unwrap();
                } else {
                    give_back(&small);
                }
            };
            fixture = fixture.reopened(anew, |path| Store::open(path).unwrap());
            sound(&fixture, &format!("with {step} × 256 KiB left"));
        }
        drop((fixture, small));
    });
}

/// Another program takes whatever is given back, again and again.
#[test]
fn a_collection_beside_a_program_that_fills_the_disk() {
    run(|| {
        let dir = tempfile::tempdir().unwrap();
        let Some(small) = Small::mount(&dir.path().join("disk"), DISK_MIB) else { return };
        let mut fixture = prepared(dir, &small.0.join("store"), vault_options());
        fill(&small, 0);
        let (stop, greedy) = (Arc::new(std::sync::atomic::AtomicBool::new(false)), small.0.join("greedy"));
        let stopped = stop.clone();
        let eater = std::thread::spawn(move || {
            use std::io::Write;
            let mut file = std::fs::File::create(greedy).unwrap();
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                if file.write_all(&[1; 4096]).is_err() {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
            }
        });
        for _ in 0..2 {
            let oldest = fixture.view().snapshots[0].id;
            // It may be quicker than we are, but it breaks nothing.
            match forget(&fixture.vault, &[oldest], &[]).and_then(|_| gc(&fixture).map(drop)) {
                Ok(()) => {}
                // It took what the reserve gave in the middle of a commit: then a store is opened again.
                Err(error) if error.code() == Code::StorageUnavailable => {
                    fixture = fixture.moved(|| (), &small.0.join("store"));
                }
                Err(error) => assert_eq!(error.code(), Code::StorageFull, "{error}"),
            }
            sound(&fixture, "beside a greedy program");
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        eater.join().unwrap();
        std::fs::remove_file(small.0.join("greedy")).unwrap();
        give_back(&small);
        let fixture = fixture.moved(|| (), &small.0.join("store"));
        fixture.backup();
        gc(&fixture).unwrap();
        sound(&fixture, "once it has ended");
        drop((fixture, small));
    });
}
