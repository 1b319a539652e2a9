//! Every shape of data through every shape of pipeline: no deadlock, the same content back.

use super::fixture::{Fixture, noise, vault_options, watched};
use super::tree_of::assert_same;
use crate::chunker::ChunkSizes;
use crate::engine::VaultOptions;

fn check(options: VaultOptions, fill: impl Fn(&Fixture) + Send + 'static) {
    watched(move || {
        let fixture = Fixture::with(options);
        fill(&fixture);
        let done = fixture.backup();
        assert_eq!((done.counts.unreadable, done.counts.inconsistent), (0, 0));
        let again = fixture.backup();
        assert_eq!(again.counts.files_unmodified, done.counts.files);
        let (target, result) = fixture.restore(&again, "out");
        assert_eq!(result.files, done.counts.files);
        assert_same(&fixture.src(), &target);
        assert!(fixture.verify().is_sound());
    });
}

fn big(fixture: &Fixture) {
    fixture.write("random", &noise(1, 64 << 20));
}

fn many(fixture: &Fixture) {
    for i in 0..5000u64 {
        fixture.write(&format!("{}/{i}", i % 50), &noise(i, (i % 97 * 31) as usize));
    }
}

fn mixed(fixture: &Fixture) {
    for i in 0..200u64 {
        fixture.write(&format!("small/{i}"), &noise(i, 700));
    }
    fixture.write("random", &noise(1, 6 << 20));
    fixture.write("same", &vec![1; 20 << 20]);
    fixture.write("twice", &noise(1, 6 << 20));
}

#[test]
fn one_worker_moves_64_mib() {
    check(VaultOptions { workers: 1, ..vault_options() }, big);
}

#[test]
fn four_workers_move_64_mib() {
    check(VaultOptions { workers: 4, ..vault_options() }, big);
}

#[test]
fn five_thousand_small_files_pass_any_number_of_workers() {
    for workers in [1, 2, 4] {
        check(VaultOptions { workers, ..vault_options() }, many);
    }
}

#[test]
fn every_configured_chunk_size_works() {
    for (min, avg, max) in
        [(4096, 32_768, 131_072), (64, 256, 1024), (1 << 20, 4 << 20, 8 << 20), (64, 256, 8 << 20)]
    {
        let sizes = ChunkSizes::new(min, avg, max).unwrap();
        for workers in [1, 4] {
            check(VaultOptions { sizes, workers, ..vault_options() }, mixed);
        }
    }
}

#[test]
fn nothing_needs_compression_or_deduplication() {
    check(VaultOptions { level: None, ..vault_options() }, mixed);
    check(VaultOptions { deduplicate: false, ..vault_options() }, mixed);
    check(VaultOptions { level: None, deduplicate: false, workers: 4, ..vault_options() }, mixed);
}

/// Without deduplication the index still reads a chunk from the pack that had it first, so a snapshot needs that one
/// too: it was left out, and neither copies nor `verify REF` covered it.
#[test]
fn without_deduplication_a_snapshot_names_the_packs_it_is_read_from() {
    watched(|| {
        let fixture = Fixture::with(VaultOptions { deduplicate: false, ..vault_options() });
        fixture.write("a", &noise(1, 1 << 20));
        fixture.backup();
        fixture.write("b", &noise(1, 1 << 20));
        std::fs::remove_file(fixture.src().join("a")).unwrap();
        let second = fixture.backup();
        let ids: Vec<_> = {
            let mut ids = Vec::new();
            let monitor = crate::engine::Monitor::default();
            let mut reader = crate::engine::reader::ChunkReader::new(&fixture.vault, None, &monitor);
            crate::engine::tree::for_each_reference(
                &mut reader,
                &fixture.snapshot(&second),
                &monitor,
                &mut |_, id| ids.push(id),
                &mut |id, error| panic!("{id}: {error}"),
            )
            .unwrap();
            ids
        };
        for place in fixture.store().lookup_many(&ids).unwrap() {
            assert!(second.packs.contains(&place.unwrap().pack));
        }
    });
}
