//! Snapshots over time: each one restores exactly, and a backup costs what changed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::fixture::{Fixture, noise, watched};
use super::tree_of::{assert_same, tree_of};
use crate::base::ChunkId;
use crate::engine::monitor::Monitor;
use crate::engine::reader::ChunkReader;
use crate::engine::tree::{Found, find};
use crate::engine::{BackupResult, parent};

/// The tree of the source directory itself: those above it change whenever anyone makes a temporary file.
fn source_tree(fixture: &Fixture, done: &BackupResult) -> ChunkId {
    let monitor = Monitor::default();
    let mut reader = ChunkReader::new(&fixture.vault, None, &monitor);
    match find(&mut reader, fixture.snapshot(done).tree, &fixture.src()).unwrap() {
        Found::Node(node) => parent::tree_of(&node).unwrap(),
        Found::Root(_) => panic!("the source is not the root"),
    }
}

/// Waits until the file system's clock has moved on: within one of its ticks two changes look alike.
fn let_the_clock_tick(fixture: &Fixture) {
    use std::os::unix::fs::MetadataExt;
    let probe = fixture.dir.path().join("probe");
    let stamp = || {
        std::fs::write(&probe, b"x").unwrap();
        let meta = std::fs::metadata(&probe).unwrap();
        (meta.mtime(), meta.mtime_nsec())
    };
    let before = stamp();
    while stamp() == before {}
}

#[test]
fn unchanged_data_costs_nothing_and_has_the_same_tree() {
    watched(|| {
        let fixture = Fixture::new();
        for i in 0..300u64 {
            fixture.write(&format!("{}/{i}", i % 7), &noise(i, (i * 53) as usize));
        }
        std::os::unix::fs::symlink("0/0", fixture.src().join("link")).unwrap();
        let first = fixture.backup();
        // Reading moves access times, which must not matter.
        tree_of(&fixture.src());
        let data = fixture.store().pack_counts().unwrap().chunks;
        let second = fixture.backup();
        assert_eq!(source_tree(&fixture, &first), source_tree(&fixture, &second));
        let counts = second.counts;
        assert_eq!((counts.files_unmodified, counts.files_new, counts.files_changed), (300, 0, 0));
        // At most the directories above the source.
        assert!(fixture.store().pack_counts().unwrap().chunks - data <= 4);
        assert!(counts.data_added < 64 << 10, "{}", counts.data_added);
        assert_eq!(fixture.snapshot(&second).parent, Some(first.snapshot));
    });
}

#[test]
fn an_edit_rereads_only_what_changed() {
    watched(|| {
        let fixture = Fixture::new();
        for i in 0..50u64 {
            fixture.write(&format!("{i}"), &noise(i, 100_000));
        }
        fixture.backup();
        let_the_clock_tick(&fixture);
        fixture.write("7", &noise(1007, 100_000));
        fixture.write("new", &noise(2000, 5000));
        std::fs::remove_file(fixture.src().join("8")).unwrap();
        let done = fixture.backup();
        let counts = done.counts;
        assert_eq!(
            (counts.files, counts.files_new, counts.files_changed, counts.files_unmodified),
            (50, 1, 1, 48)
        );
        assert!(counts.data_added < 160_000, "{}", counts.data_added);
        let (target, _) = fixture.restore(&done, "out");
        assert_same(&fixture.src(), &target);
    });
}

/// More paths than fit the record moved into a chunk, and no later backup recognised its parent.
#[test]
fn a_backup_of_very_many_paths_finds_its_parent() {
    use crate::engine::backup;
    watched(|| {
        let fixture = Fixture::new();
        let name = |i: u64| format!("{}-{i}", "a long name ".repeat(8));
        (0..100).for_each(|i| fixture.write(&name(i), &noise(i, 1000)));
        let mut options = fixture.options();
        options.paths = (0..100).map(|i| fixture.src().join(name(i))).collect();
        let first = backup(&fixture.vault, &options, &Monitor::default()).unwrap();
        let second = backup(&fixture.vault, &options, &Monitor::default()).unwrap();
        assert_eq!(fixture.snapshot(&second).parent, Some(first.snapshot));
        assert_eq!(second.counts.files_unmodified, 100);
        let list = fixture.snapshot(&second).paths_list.unwrap();
        assert!(second.packs.contains(&fixture.store().lookup(list).unwrap().unwrap().pack));
        options.paths.pop();
        let third = backup(&fixture.vault, &options, &Monitor::default()).unwrap();
        assert_eq!(fixture.snapshot(&third).parent, None);
        fixture.restore(&second, "out");
    });
}

#[derive(Debug, Clone)]
enum Edit {
    Write { name: u8, seed: u64, length: usize },
    Remove { name: u8 },
    Directory { name: u8 },
    Symlink { name: u8, to: u8 },
    Link { name: u8, to: u8 },
    Rename { name: u8, to: u8 },
    Mode { name: u8, mode: u32 },
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let name = 0u8..24;
    let length = prop_oneof![Just(0usize), 1usize..5000, 60_000usize..400_000];
    let edit = prop_oneof![
        5 => (name.clone(), 0u64..6, length).prop_map(|(name, seed, length)| Edit::Write { name, seed, length }),
        1 => name.clone().prop_map(|name| Edit::Remove { name }),
        2 => name.clone().prop_map(|name| Edit::Directory { name }),
        1 => (name.clone(), name.clone()).prop_map(|(name, to)| Edit::Symlink { name, to }),
        1 => (name.clone(), name.clone()).prop_map(|(name, to)| Edit::Link { name, to }),
        1 => (name.clone(), name.clone()).prop_map(|(name, to)| Edit::Rename { name, to }),
        1 => (name, 0u32..0o7777).prop_map(|(name, mode)| Edit::Mode { name, mode: mode | 0o700 }),
    ];
    prop::collection::vec(edit, 0..20)
}

/// Eight names on each of three levels.
fn path_of(root: &Path, name: u8) -> PathBuf {
    let leaf = |n: u8| format!("n{n}");
    match name {
        0..8 => root.join(leaf(name)),
        8..16 => root.join("n0").join(leaf(name - 8)),
        _ => root.join("n0/n1").join(leaf(name - 16)),
    }
}

/// Edits that do not fit what is there fail, and that is fine.
fn apply(root: &Path, edit: &Edit) {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let at = |name: u8| path_of(root, name);
    let _ = match edit {
        Edit::Write { name, seed, length } => std::fs::write(at(*name), noise(*seed, *length)),
        Edit::Remove { name } => {
            std::fs::remove_file(at(*name)).or_else(|_| std::fs::remove_dir_all(at(*name)))
        }
        Edit::Directory { name } => std::fs::create_dir(at(*name)),
        Edit::Symlink { name, to } => symlink(at(*to), at(*name)),
        Edit::Link { name, to } => std::fs::hard_link(at(*to), at(*name)),
        Edit::Rename { name, to } => std::fs::rename(at(*name), at(*to)),
        Edit::Mode { name, mode } => {
            std::fs::set_permissions(at(*name), std::fs::Permissions::from_mode(*mode))
        }
    };
}

/// Rebuilt from packs alone, the index knows the same chunks, and each opens where it says.
fn assert_rebuilt_index_is_equal(fixture: Fixture) -> Fixture {
    use crate::engine::{rebuild_index, renew_snapshot_packs};
    use crate::store::{PackNumber, Store};
    let chunks = |fixture: &Fixture| -> BTreeMap<ChunkId, crate::crypto::Kind> {
        let all = (0..fixture.packs().len() as u32 + 8).map(PackNumber).collect();
        fixture.store().chunks_in(&all).unwrap().into_iter().map(|(id, place)| (id, place.kind)).collect()
    };
    let before = chunks(&fixture);
    let fixture = fixture.reopened(|_| {}, |path| Store::rebuild(path).unwrap());
    let rebuilt = rebuild_index(fixture.store(), Some(&fixture.vault.keyring.vault), &Monitor::default());
    assert_eq!(rebuilt.unwrap().unreadable, Vec::<String>::new());
    let after = chunks(&fixture);
    assert_eq!(before, after);
    let monitor = Monitor::default();
    let mut reader = ChunkReader::new(&fixture.vault, None, &monitor);
    for (id, kind) in after {
        reader.read(kind, id).unwrap();
    }
    let snapshots = fixture.view().snapshots.len() as u64;
    assert_eq!(renew_snapshot_packs(&fixture.vault).unwrap(), snapshots);
    fixture
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 100, ..ProptestConfig::default() })]
    #[test]
    fn every_snapshot_of_a_changing_tree_restores_exactly(rounds in prop::collection::vec(edits(), 1..5)) {
        watched(move || {
            let fixture = Fixture::new();
            let mut taken = Vec::new();
            for (at, round) in rounds.iter().enumerate() {
                let_the_clock_tick(&fixture);
                round.iter().for_each(|edit| apply(&fixture.src(), edit));
                let done = fixture.backup();
                let counts = done.counts;
                assert_eq!(counts.files, counts.files_new + counts.files_changed + counts.files_unmodified);
                let again = fixture.backup();
                assert_eq!(source_tree(&fixture, &done), source_tree(&fixture, &again));
                assert_eq!(again.counts.files_unmodified, counts.files);
                // The first comparison is with the source itself, later ones with what came back then.
                let (kept, _) = fixture.restore(&done, &format!("kept-{at}"));
                assert_same(&fixture.src(), &kept);
                taken.push((done, kept));
            }
            let fixture = assert_rebuilt_index_is_equal(fixture);
            for (at, (done, kept)) in taken.iter().enumerate() {
                let (target, _) = fixture.restore(done, &format!("later-{at}"));
                assert_same(kept, &target);
            }
            assert!(fixture.verify().is_sound());
        });
    }
}
