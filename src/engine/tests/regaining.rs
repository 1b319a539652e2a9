//! What no peer has comes back from the files that it was read from, and backups do not rely on what is damaged.

use std::os::unix::fs::MetadataExt;

use super::fixture::{Fixture, noise, watched};
use super::tree_of::assert_same;
use crate::base::PackId;
use crate::crypto::Kind;
use crate::engine::tests::fixture::head_packs;
use crate::engine::{BackupResult, Monitor, RegainResult, note_damage, plan_regain, regain};
use crate::store::Store;

/// Packs of one kind, and where they lie.
fn packs_of(fixture: &Fixture, kind: Kind) -> Vec<(PackId, std::path::PathBuf)> {
    let is_of = |id: &PackId| {
        let number = fixture.store().pack_by_id(*id).unwrap().unwrap().number;
        fixture.store().chunks_in(&[number].into()).unwrap().iter().any(|(_, place)| place.kind == kind)
    };
    fixture.packs().into_iter().filter(|(id, _)| is_of(id)).collect()
}

fn mend(fixture: &Fixture) -> RegainResult {
    regain(&fixture.vault, &fixture.verify(), &[], &Monitor::default()).unwrap()
}

/// A file of many pieces, one that is copied, and small ones.
fn filled() -> (Fixture, BackupResult) {
    let fixture = Fixture::new();
    fixture.write("large", &noise(1, 12 << 20));
    fixture.write("deep/er/one", &noise(2, 90_000));
    fixture.write("deep/two", &noise(3, 70_000));
    (0..30).for_each(|n| fixture.write(&format!("small/{n}"), &noise(100 + n, 3000)));
    let done = fixture.backup();
    (fixture, done)
}

#[test]
fn lost_packs_come_back_from_the_files_and_hurt_nobody_any_more() {
    watched(|| {
        let (fixture, done) = filled();
        let before = fixture.snapshot(&done);
        let lost = packs_of(&fixture, Kind::Data);
        for (_, path) in &lost {
            std::fs::remove_file(path).unwrap();
        }
        let found = fixture.verify();
        assert!(!found.is_sound());
        let plan = plan_regain(&fixture.vault, &found, &Monitor::default()).unwrap();
        assert_eq!(plan.len(), 33, "{plan:?}");
        assert!(plan.iter().all(|line| line.starts_with("file /") && line.contains("if no peer has them")));

        let result = mend(&fixture);
        assert!(result.chunks > 100, "{result:?}");
        assert_eq!(result.set_aside.len(), lost.len());
        let again = fixture.verify();
        assert!(again.is_sound(), "{again:?}");
        assert_eq!(fixture.snapshot(&done), before);
        let (target, _) = fixture.restore(&done, "out");
        assert_same(&fixture.src(), &target);
        // The head lists the new packs and none of those that are gone.
        let head = fixture.view().heads.remove(0);
        let listed = head_packs(fixture.store(), &head).unwrap();
        assert!(listed.iter().all(|(id, _)| fixture.store().open_pack(*id).is_ok()));
        let needs = fixture.store().snapshot_packs(done.snapshot).unwrap().unwrap();
        let ids = needs.iter().map(|number| fixture.store().pack_by_number(*number).unwrap().unwrap().id);
        assert!(ids.into_iter().all(|id| fixture.store().open_pack(id).is_ok()));
        assert!(mend(&fixture).is_nothing());
        // It stays so over a restart.
        let fixture = fixture.reopened(|_| (), |path| Store::open(path).unwrap());
        assert!(fixture.verify().is_sound());
    });
}

#[test]
fn what_is_sound_in_a_damaged_pack_moves_with_what_files_give_back() {
    watched(|| {
        let (fixture, done) = filled();
        let lost = packs_of(&fixture, Kind::Data);
        for (_, path) in &lost {
            let mut bytes = std::fs::read(path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(path, bytes).unwrap();
        }
        // Only what was hit must be read again: the other files may be gone. Which packs they are in is not always the same.
        let plan = plan_regain(&fixture.vault, &fixture.verify(), &Monitor::default()).unwrap();
        let gone = ["small", "deep"].into_iter().find(|dir| {
            let inside = format!("/{dir}/");
            !plan.iter().any(|line| line.contains(&inside))
        });
        let modified = fixture.src().metadata().unwrap().modified().unwrap();
        let aside = |dir| (fixture.src().join(dir), fixture.dir.path().join(dir));
        if let Some((from, to)) = gone.map(aside) {
            std::fs::rename(from, to).unwrap();
        }
        let result = mend(&fixture);
        assert!((1..=2 * lost.len() as u64).contains(&result.chunks), "{result:?}");
        assert!(fixture.verify().is_sound());
        let kept = std::fs::read_dir(fixture.store().dir().join("quarantine")).unwrap().count();
        assert_eq!(kept, lost.len());
        if let Some((from, to)) = gone.map(aside) {
            std::fs::rename(to, from).unwrap();
        }
        std::fs::File::open(fixture.src()).unwrap().set_modified(modified).unwrap();
        let (target, _) = fixture.restore(&done, "out");
        assert_same(&fixture.src(), &target);
    });
}

#[test]
fn content_that_moved_is_found_and_other_content_is_not_taken_for_it() {
    watched(|| {
        let (fixture, done) = filled();
        // Five bytes before it: every piece lies elsewhere, and all but the first are cut as before.
        fixture.write("large", &[b"moved".as_slice(), &noise(1, 12 << 20)].concat());
        fixture.write("deep/two", &noise(4, 70_000));
        std::fs::remove_file(fixture.src().join("deep/er/one")).unwrap();
        let lost = packs_of(&fixture, Kind::Data);
        for (_, path) in &lost {
            std::fs::remove_file(path).unwrap();
        }
        let all = fixture.verify().snapshots[0].missing.len();
        let result = mend(&fixture);
        let left = fixture.verify().snapshots[0].missing.len();
        assert!(left > 0 && left < 12, "{left} of {all}");
        assert_eq!(result.chunks as usize, all - left);
        assert!(result.set_aside.len() < lost.len(), "what is lost there may come back from a peer");
        let (_, restored, monitor) = fixture.restore_from(&done, "out", None);
        let mut named: Vec<String> = monitor.problems().1.into_iter().map(|p| p.path).collect();
        named.sort_unstable();
        assert_eq!(
            (restored.failed, named),
            (3, vec!["deep/er/one".into(), "deep/two".into(), "large".into()])
        );
    });
}

#[test]
fn a_lost_piece_list_comes_back_and_with_it_what_it_lists() {
    watched(|| {
        let mut options = super::fixture::vault_options();
        options.sizes = crate::chunker::ChunkSizes::new(64, 256, 1024).unwrap();
        let fixture = Fixture::with(options);
        fixture.write("many", &noise(5, 1 << 20));
        let done = fixture.backup();
        // Lists are much longer than the trees beside them.
        let (id, path) = packs_of(&fixture, Kind::Tree).remove(0);
        let number = fixture.store().pack_by_id(id).unwrap().unwrap().number;
        let mut bytes = std::fs::read(&path).unwrap();
        for (_, place) in fixture.store().chunks_in(&[number].into()).unwrap() {
            bytes[place.offset as usize + 50] ^= u8::from(place.length > 5000);
        }
        std::fs::write(&path, bytes).unwrap();
        for (_, path) in packs_of(&fixture, Kind::Data) {
            std::fs::remove_file(path).unwrap();
        }
        // What a list names is known to be lost once the list is back.
        let (lists, pieces) = (mend(&fixture).chunks, mend(&fixture).chunks);
        assert!(lists > 3 && pieces > 2000, "{lists} {pieces}");
        assert!(mend(&fixture).is_nothing() || fixture.verify().is_sound());
        assert!(fixture.verify().is_sound());
        let (target, _) = fixture.restore(&done, "out");
        assert_same(&fixture.src(), &target);
    });
}

#[test]
fn a_backup_seals_anew_what_lies_in_packs_that_are_known_to_be_damaged() {
    watched(|| {
        let (fixture, first) = filled();
        for (_, path) in packs_of(&fixture, Kind::Data) {
            std::fs::remove_file(path).unwrap();
        }
        // Nobody has looked yet, so it believes what the index says.
        let blind = fixture.backup();
        assert!(fixture.snapshot(&blind).info.counts.unwrap().data_added < 100_000);
        note_damage(fixture.store(), &fixture.verify().damages).unwrap();
        let done = fixture.backup();
        let (target, _) = fixture.restore(&done, "out");
        assert_same(&fixture.src(), &target);
        let fixture = fixture.reopened(|_| (), |path| Store::open(path).unwrap());
        // What was sealed anew is where the older snapshots find it too, and they need those packs now.
        let older = fixture.store().snapshot_packs(first.snapshot).unwrap().unwrap();
        assert!(done.packs.iter().any(|pack| older.contains(pack)));
        let result = mend(&fixture);
        assert!(fixture.verify().is_sound(), "{result:?} {:?}", fixture.verify());
        let (target, _) = fixture.restore(&first, "old");
        assert_same(&fixture.src(), &target);
        assert!(target.join("large").metadata().unwrap().size() == 12 << 20);
    });
}

#[test]
fn a_pack_that_comes_back_is_trusted_again() {
    watched(|| {
        let (fixture, _) = filled();
        let (_, path) = packs_of(&fixture, Kind::Data).remove(0);
        let sound = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        note_damage(fixture.store(), &fixture.verify().damages).unwrap();
        assert_eq!(fixture.store().mistrusted_packs().len(), 1);
        std::fs::write(&path, sound).unwrap();
        note_damage(fixture.store(), &fixture.verify().damages).unwrap();
        assert_eq!(fixture.store().mistrusted_packs().len(), 0);
        let again = fixture.backup();
        assert!(fixture.snapshot(&again).info.counts.unwrap().data_added < 100_000);
    });
}
