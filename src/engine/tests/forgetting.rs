//! Forgetting and garbage collection against a simple model, and each of their promises.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use jiff::tz::TimeZone;

use super::fixture::{Fixture, GRACE, gc_options, noise, watched};
use super::tree_of::{assert_same, tree_of};
use crate::base::{Moment, PackId, PeerId, SnapshotId};
use crate::engine::monitor::Monitor;
use crate::engine::{
    BackupResult, EngineError, GcOptions, GcResult, TagEdit, collect, forget, plan_forget, plan_named,
    publish_next_head, tag, waiting,
};
use crate::policy::{Inventory, Rules};
use crate::store::Store;

fn gc(fixture: &Fixture, now: bool) -> GcResult {
    collect(&fixture.vault, gc_options(now), &[], None, &Monitor::default()).unwrap()
}

fn drop_all_but(fixture: &Fixture, keep: &[SnapshotId]) {
    let ids: Vec<_> =
        fixture.view().snapshots.iter().map(|one| one.id).filter(|id| !keep.contains(id)).collect();
    forget(&fixture.vault, &ids, &[]).unwrap();
}

/// The only snapshot left, made once that file was gone.
fn without(fixture: &Fixture, name: &str) -> BackupResult {
    std::fs::remove_file(fixture.src().join(name)).unwrap();
    fixture.let_the_clock_tick();
    let done = fixture.backup();
    drop_all_but(fixture, &[done.snapshot]);
    done
}

fn disk(fixture: &Fixture) -> u64 {
    fixture.packs().iter().map(|(_, path)| path.metadata().unwrap().size()).sum()
}

fn sound(fixture: &Fixture) {
    let found = fixture.verify();
    assert!(found.is_sound(), "{:?} {:?} {:?}", found.damages, found.records, found.snapshots);
}

#[test]
fn garbage_waits_and_then_goes_and_what_lives_stays() {
    watched(|| {
        let fixture = Fixture::new();
        fixture.write("both", &noise(1, 3 << 20));
        fixture.write("old", &noise(2, 5 << 20));
        let first = fixture.backup();
        std::fs::remove_file(fixture.src().join("old")).unwrap();
        fixture.write("new", &noise(3, 1 << 20));
        fixture.let_the_clock_tick();
        let second = fixture.backup();
        drop_all_but(&fixture, &[second.snapshot]);
        let before = disk(&fixture);
        let done = gc(&fixture, false);
        assert!(done.deleted == (0, 0) && done.retired.0 > 0 && done.resealed > 0, "{done:?}");
        sound(&fixture);
        let wait = waiting(fixture.store(), GRACE).unwrap();
        assert!(wait.packs >= done.retired.0 && wait.first.is_some() && wait.bytes > 0);
        // The grace period is an hour; the clock of these tests ticks in seconds, so this one is short.
        let short = GcOptions { grace: Duration::from_secs(1), ..gc_options(false) };
        let done = collect(&fixture.vault, short, &[], None, &Monitor::default()).unwrap();
        assert!(done.deleted.0 > 0, "{done:?}");
        assert!(disk(&fixture) < before, "{} {before}", disk(&fixture));
        assert_eq!(waiting(fixture.store(), GRACE).unwrap().packs, 0);
        sound(&fixture);
        let (target, _) = fixture.restore(&second, "out");
        assert_same(&fixture.src(), &target);
        assert!(fixture.view().snapshots.iter().all(|one| one.id != first.snapshot));
        // Nothing is left to do, and the index can be made again.
        let again = gc(&fixture, true);
        assert_eq!(
            (again.retired.0, again.deleted.0, again.resealed, again.dead_chunks),
            (0, 0, 0, 0),
            "{again:?}"
        );
    });
}

#[test]
fn space_comes_back_to_what_the_rest_would_have_taken_alone() {
    watched(|| {
        let (all, half) = (Fixture::new(), Fixture::new());
        let mut kept = Vec::new();
        for round in 0..12u64 {
            for fixture in [&all, &half] {
                for file in 0..12u64 {
                    // A third changes each time.
                    let seed = if (file + round).is_multiple_of(3) { round * 100 + file } else { file };
                    fixture.write(&file.to_string(), &noise(seed, 300_000));
                }
            }
            all.let_the_clock_tick();
            let done = all.backup();
            if round.is_multiple_of(2) {
                kept.push(done.snapshot);
                half.backup();
            }
        }
        drop_all_but(&all, &kept);
        let done = gc(&all, true);
        let again = gc(&half, true);
        let (left, ideal) = (disk(&all), disk(&half));
        assert!(left * 100 <= ideal * 110, "{left} of {ideal}: {done:?} {again:?}");
        sound(&all);
    });
}

#[test]
fn a_backup_takes_back_what_waits() {
    watched(|| {
        let fixture = Fixture::new();
        fixture.write("a", &noise(1, 2 << 20));
        fixture.write("b", &noise(2, 2 << 20));
        fixture.backup();
        without(&fixture, "a");
        // Nothing is rewritten: the pack with both files waits only if it is empty.
        without(&fixture, "b");
        assert!(gc(&fixture, false).retired.0 > 0);
        fixture.write("a", &noise(1, 2 << 20));
        let fourth = fixture.backup();
        assert!(fourth.counts.data_added < 1 << 20, "stored again: {}", fourth.counts.data_added);
        let done = gc(&fixture, true);
        assert!(done.live_chunks > 20, "{done:?}");
        sound(&fixture);
        let (target, _) = fixture.restore(&fourth, "out");
        assert_same(&fixture.src(), &target);
    });
}

/// Two collections, each at every moment of a backup that the backup's work lets it in.
#[test]
fn a_collection_beside_a_backup_takes_nothing_that_it_needs() {
    watched(|| {
        let fixture = Fixture::new();
        for file in 0..60u64 {
            fixture.write(&file.to_string(), &noise(file, 200_000));
        }
        let first = fixture.backup();
        for file in 0..60u64 {
            std::fs::remove_file(fixture.src().join(file.to_string())).unwrap();
        }
        fixture.write("x", b"x");
        fixture.let_the_clock_tick();
        fixture.backup();
        forget(&fixture.vault, &[first.snapshot], &[]).unwrap();
        for file in 0..60u64 {
            fixture.write(&format!("again/{file}"), &noise(file, 200_000));
        }
        let third = std::thread::scope(|scope| {
            let collector = scope.spawn(|| {
                for _ in 0..20 {
                    gc(&fixture, true);
                }
            });
            let done = fixture.backup();
            collector.join().unwrap();
            done
        });
        gc(&fixture, true);
        sound(&fixture);
        let (target, _) = fixture.restore(&third, "out");
        assert_same(&fixture.src(), &target);
    });
}

#[test]
fn nothing_is_deleted_while_something_that_tells_what_is_needed_cannot_be_read() {
    watched(|| {
        let fixture = Fixture::new();
        fixture.write("a", &noise(1, 1 << 20));
        let first = fixture.backup();
        fixture.write("a", &noise(2, 1 << 20));
        fixture.let_the_clock_tick();
        let second = fixture.backup();
        forget(&fixture.vault, &[first.snapshot], &[]).unwrap();
        let store = fixture.store().dir().to_owned();
        let refused = |what: &str| {
            let error =
                collect(&fixture.vault, gc_options(true), &[], None, &Monitor::default()).unwrap_err();
            let is_root = matches!(error, EngineError::RootUnreadable(_) | EngineError::RootBroken { .. });
            assert!(is_root, "{what}: {error}");
            assert!(fixture.store().retired_packs().is_empty(), "{what}");
        };
        let with_damage = |path: &Path, what: &str| {
            let bytes = std::fs::read(path).unwrap();
            std::fs::write(path, b"broken").unwrap();
            refused(what);
            std::fs::remove_file(path).unwrap();
            refused(what);
            std::fs::write(path, bytes).unwrap();
        };
        with_damage(&store.join(format!("snapshots/{}", second.snapshot)), "a record");
        let heads = store.join(format!("heads/{}/{}", fixture.vault.id(), fixture.vault.device()));
        let mut names: Vec<_> =
            std::fs::read_dir(&heads).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        let newest = names.pop().unwrap();
        let bytes = std::fs::read(&newest).unwrap();
        std::fs::write(&newest, b"broken").unwrap();
        refused("the newest head");
        std::fs::write(&newest, bytes).unwrap();
        // The pack with its trees.
        let tree = fixture.store().lookup(fixture.snapshot(&second).tree).unwrap().unwrap().pack;
        let id = fixture.store().pack_by_number(tree).unwrap().unwrap().id;
        with_damage(&fixture.packs().into_iter().find(|(pack, _)| *pack == id).unwrap().1, "a tree");
        assert!(gc(&fixture, true).deleted.0 > 0);
        sound(&fixture);
    });
}

#[test]
fn a_moved_pack_stays_until_its_successors_have_as_many_copies() {
    watched(|| {
        let fixture = Fixture::new();
        fixture.write("a", &noise(1, 1 << 20));
        fixture.write("b", &noise(2, 6 << 20));
        fixture.backup();
        let second = without(&fixture, "b");
        let holder = PeerId::new([7; 32]);
        let receipt = |packs: &[PackId]| {
            fixture.store().add_receipts(holder, packs, Moment::from_millis(1)).unwrap();
        };
        let old: Vec<PackId> = fixture.packs().into_iter().map(|(id, _)| id).collect();
        receipt(&old);
        let done = gc(&fixture, true);
        assert!(done.resealed > 0, "{done:?}");
        let moved = waiting(fixture.store(), GRACE).unwrap();
        assert_eq!(moved.resealed, done.resealed, "they wait for copies of what they were moved to");
        let all: Vec<PackId> = fixture.packs().into_iter().map(|(id, _)| id).collect();
        receipt(&all);
        // What a holder that is to be asked again once confirmed proves nothing for the new ones.
        fixture.store().doubt_all_holders().unwrap();
        assert_eq!(gc(&fixture, true).deleted.0, 0);
        fixture.store().settle_holder(holder, &Inventory::default()).unwrap();
        let done = gc(&fixture, true);
        assert_eq!(done.deleted.0, moved.resealed, "{done:?}");
        sound(&fixture);
        // The snapshot is known to need the new pack, so its copies are counted there.
        let needs = fixture.store().snapshot_packs(second.snapshot).unwrap().unwrap();
        let known: HashSet<_> = needs
            .iter()
            .map(|pack| fixture.store().pack_by_number(*pack).unwrap())
            .collect::<Vec<_>>()
            .into_iter()
            .flatten()
            .map(|row| row.id)
            .collect();
        assert_eq!(known.len(), needs.len());
    });
}

#[test]
fn a_pack_that_another_device_lists_is_only_not_listed_any_more() {
    watched(|| {
        let fixture = Fixture::new();
        fixture.write("a", &noise(1, 1 << 20));
        let first = fixture.backup();
        fixture.write("a", &noise(2, 1 << 20));
        fixture.let_the_clock_tick();
        let second = fixture.backup();
        // The first snapshot's packs, as another device of the vault lists them.
        let bytes =
            |pack: &crate::store::PackNumber| fixture.store().pack_by_number(*pack).unwrap().unwrap().bytes;
        // The one with the file's content, not that with its trees.
        let pack = first.packs.difference(&second.packs).copied().max_by_key(bytes).unwrap();
        let id = fixture.store().pack_by_number(pack).unwrap().unwrap().id;
        super::heads::publish_other_head(&fixture, &[id]);
        forget(&fixture.vault, &[first.snapshot], &[]).unwrap();
        gc(&fixture, true);
        assert!(fixture.packs().iter().any(|(known, _)| *known == id));
        let listed = super::heads::listed_by_this_device(&fixture);
        assert!(!listed.contains(&id));
        // The next backup does not list it either, unless it needs it.
        fixture.write("b", b"b");
        fixture.backup();
        assert!(!super::heads::listed_by_this_device(&fixture).contains(&id));
        fixture.write("c", &noise(1, 1 << 20));
        fixture.backup();
        assert!(super::heads::listed_by_this_device(&fixture).contains(&id));
        sound(&fixture);
    });
}

#[test]
fn the_newest_complete_one_and_pinned_ones_are_not_forgotten() {
    let fixture = Fixture::new();
    fixture.write("a", b"a");
    let first = fixture.backup();
    let second = fixture.backup();
    let view = fixture.view();
    let now = fixture.vault.clock.now();
    let rules = Rules { last: 1, ..Rules::default() };
    let plan = plan_forget(&fixture.vault, &view, &rules, now, &TimeZone::UTC);
    assert_eq!((plan.forget.as_slice(), plan.keep[0].0), ([first.snapshot].as_slice(), second.snapshot));
    let none = plan_forget(&fixture.vault, &view, &Rules::default(), now, &TimeZone::UTC);
    assert_eq!(none.forget, []);
    let named = |ids: &[SnapshotId], yes| plan_named(&fixture.vault, &fixture.view(), ids, yes, now);
    assert_eq!(named(&[first.snapshot], false).unwrap().forget, [first.snapshot]);
    assert!(matches!(named(&[second.snapshot], false), Err(EngineError::NewestComplete(_))));
    assert!(named(&[first.snapshot, second.snapshot], false).is_err());
    assert!(named(&[second.snapshot], true).is_ok());
    let pin = TagEdit { pin: Some(true), ..TagEdit::default() };
    let pinned = tag(&fixture.vault, &view, &[first.snapshot], &pin, &[]).unwrap()[0].new;
    assert_ne!(pinned, first.snapshot);
    assert!(matches!(named(&[pinned], true), Err(EngineError::Pinned(_))));
    let plan = plan_forget(&fixture.vault, &fixture.view(), &rules, now, &TimeZone::UTC);
    assert_eq!(plan.forget, []);
    assert_eq!(forget(&fixture.vault, &[first.snapshot], &[]).unwrap(), 0, "it goes by another id now");
}

#[test]
fn an_interrupted_collection_goes_on_where_it_was() {
    watched(|| {
        let fixture = Fixture::new();
        for file in 0..8u64 {
            fixture.write(&file.to_string(), &noise(file, 1 << 20));
        }
        let first = fixture.backup();
        for file in 0..6u64 {
            fixture.write(&file.to_string(), &noise(100 + file, 1 << 20));
        }
        fixture.let_the_clock_tick();
        let second = fixture.backup();
        forget(&fixture.vault, &[first.snapshot], &[]).unwrap();
        // Stopped before it began, and once a head without the packs is out but the packs are still there.
        let monitor = Monitor::default();
        monitor.cancel();
        assert!(matches!(
            collect(&fixture.vault, gc_options(true), &[], None, &monitor),
            Err(EngineError::Cancelled)
        ));
        gc(&fixture, false);
        let retired: Vec<_> = fixture.store().retired_packs().iter().map(|one| one.pack).collect();
        assert!(!retired.is_empty());
        let condemned = fixture.store().condemn(&retired, fixture.store().mark_start());
        assert_eq!(condemned, retired);
        publish_next_head(&fixture.vault, &[], &[]).unwrap();
        let fixture = fixture.reopened(|_| {}, |dir| Store::open(dir).unwrap());
        sound(&fixture);
        assert!(gc(&fixture, true).deleted.0 > 0);
        sound(&fixture);
        let (target, _) = fixture.restore(&second, "out");
        assert_eq!(tree_of(&target).len(), tree_of(&fixture.src()).len());
    });
}
