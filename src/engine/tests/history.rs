//! Snapshots over time: each one restores exactly, and a backup costs what changed.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::edits::{apply, edits};
use super::fixture::{Fixture, noise, watched};
use super::tree_of::{assert_same, tree_of};
use crate::base::{ChunkId, PackId, random_bytes};
use crate::engine::monitor::Monitor;
use crate::engine::reader::ChunkReader;
use crate::engine::tree::{Found, find};
use crate::engine::{BackupResult, parent, rebuild_index, renew_snapshot_packs};
use crate::store::{ChunkPlace, PackNumber, Store};

/// The tree of the source directory itself: those above it change whenever anyone makes a temporary file.
fn source_tree(fixture: &Fixture, done: &BackupResult) -> ChunkId {
    let monitor = Monitor::default();
    let mut reader = ChunkReader::new(&fixture.vault, None, &monitor);
    match find(&mut reader, fixture.snapshot(done).tree, &fixture.src()).unwrap() {
        Found::Node(node) => parent::tree_of(&node).unwrap(),
        Found::Root(_) => panic!("the source is not the root"),
    }
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
        fixture.let_the_clock_tick();
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

/// Where the index says a chunk lies, in terms that a rebuilt one shares: packs may be numbered anew.
type Place = (PackId, u32, ChunkPlace);

fn places(fixture: &Fixture) -> BTreeMap<ChunkId, Place> {
    let all = (0..fixture.packs().len() as u32 + 8).map(PackNumber).collect();
    let place = |place: ChunkPlace| {
        let row = fixture.store().pack_by_number(place.pack).unwrap().expect("its pack is known");
        (row.id, row.epoch.0, ChunkPlace { pack: PackNumber(0), ..place })
    };
    fixture.store().chunks_in(&all).unwrap().into_iter().map(|(id, found)| (id, place(found))).collect()
}

/// Rebuilt from packs alone, the index knows the same chunks in the same places, and each opens there.
fn assert_rebuilt_index_is_equal(fixture: Fixture) -> Fixture {
    let before = places(&fixture);
    let fixture = fixture.reopened(|_| {}, |path| Store::rebuild(path).unwrap());
    let rebuilt = rebuild_index(fixture.store(), Some(&fixture.vault.keyring.vault), &Monitor::default());
    assert_eq!(rebuilt.unwrap().unreadable, Vec::<String>::new());
    let after = places(&fixture);
    assert_eq!(before, after);
    let monitor = Monitor::default();
    let mut reader = ChunkReader::new(&fixture.vault, None, &monitor);
    for (id, (_, _, place)) in after {
        reader.read(place.kind, id).unwrap();
    }
    let snapshots = fixture.view().snapshots.len() as u64;
    assert_eq!(renew_snapshot_packs(&fixture.vault).unwrap(), snapshots);
    fixture
}

/// Files that are mostly holes stay so.
fn assert_as_sparse(source: &Path, restored: &Path) {
    for (name, _) in tree_of(source) {
        let (was, is) = [source, restored].map(|dir| dir.join(&name).symlink_metadata().unwrap()).into();
        let disk = |meta: &Metadata| meta.blocks() * 512;
        if was.is_file() && disk(&was) + (128 << 10) <= was.len() {
            assert!(disk(&is) < is.len(), "{}: {} of {}", name.display(), disk(&is), is.len());
        }
    }
}

/// `CASES` and `SEED` from the environment (`make test-long`), else a few cases from a seed that nobody chose. The seed
/// is printed, and a test that fails shows it.
pub(super) fn config() -> ProptestConfig {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seed = number("SEED").unwrap_or_else(|| u64::from_le_bytes(random_bytes()));
    let cases = number("CASES").map_or(24, |cases| cases as u32);
    eprintln!("again with: make test-long SEED={seed} CASES={cases}");
    ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        max_shrink_iters: 100,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]
    #[test]
    fn every_snapshot_of_a_changing_tree_restores_exactly(rounds in prop::collection::vec(edits(), 1..5)) {
        watched(move || {
            let fixture = Fixture::new();
            let mut taken = Vec::new();
            for (at, round) in rounds.iter().enumerate() {
                fixture.let_the_clock_tick();
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
                assert_as_sparse(&fixture.src(), &kept);
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
