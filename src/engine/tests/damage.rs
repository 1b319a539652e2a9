//! Verification: all damage is found, and named exactly.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::fixture::{Fixture, noise, watched};
use crate::base::{ChunkId, PackId, limit};
use crate::engine::{BackupResult, Monitor, VerifyOptions, VerifyResult, verify};
use crate::pack::{HEADER_BYTES, TRAILER_BYTES, read_pack};
use crate::store::PackNumber;

fn fixture() -> (Fixture, BackupResult) {
    let fixture = Fixture::new();
    fixture.write("large", &noise(1, 3 << 20));
    for i in 0..20u64 {
        fixture.write(&format!("dir/{i}"), &noise(i, 2000 + i as usize));
    }
    let done = fixture.backup();
    (fixture, done)
}

/// Chunks that the index places in a pack, by offset.
fn chunks_of(fixture: &Fixture, pack: PackId) -> BTreeMap<u32, (ChunkId, u32)> {
    let row = fixture.store().pack_by_id(pack).unwrap().unwrap();
    let chunks = fixture.store().chunks_in(&[row.number].into()).unwrap();
    chunks.into_iter().map(|(id, place)| (place.offset, (id, place.sealed_length))).collect()
}

fn named(result: &VerifyResult) -> (BTreeSet<ChunkId>, BTreeSet<ChunkId>) {
    let [finding] = result.snapshots.as_slice() else { panic!("one snapshot") };
    (finding.missing.iter().copied().collect(), finding.corrupt.iter().copied().collect())
}

#[test]
fn one_flipped_byte_anywhere_names_the_pack_and_the_chunk_it_is_in() {
    watched(|| {
        let (fixture, _) = fixture();
        assert!(fixture.verify().is_sound());
        for (id, path) in fixture.packs() {
            let whole = std::fs::read(&path).unwrap();
            let (_, entries) = read_pack(&fixture.vault.keyring.vault, &whole).unwrap();
            let end = entries.iter().map(|e| e.offset + e.sealed_length).max().unwrap() as usize;
            let chunks = chunks_of(&fixture, id);
            let last = whole.len() - 1;
            let mut places =
                vec![0, 5, 8, 20, HEADER_BYTES - 1, end, end + 30, end + 24 + entries.len() * 46];
            places.extend([last - TRAILER_BYTES, last - TRAILER_BYTES + 1, last - 20, last]);
            // First, middle and last byte of some chunks.
            for (offset, (_, length)) in chunks.iter().step_by(chunks.len() / 4 + 1) {
                let (offset, length) = (*offset as usize, *length as usize);
                places.extend([offset, offset + length / 2, offset + length - 1]);
            }
            for at in places {
                let mut bad = whole.clone();
                bad[at] ^= 0x10;
                std::fs::write(&path, &bad).unwrap();
                let result = fixture.verify();
                assert!(!result.is_sound(), "byte {at}");
                let [damage] = result.damages.as_slice() else { panic!("byte {at}") };
                assert_eq!((damage.pack, damage.missing), (id, false));
                assert_eq!(damage.cells, [at / limit::CELL_BYTES]);
                let hit = chunks.range(..=at as u32).next_back();
                let hit = hit.filter(|(offset, (_, length))| at < (**offset + length) as usize);
                let hit: BTreeSet<ChunkId> = hit.map(|(_, (id, _))| *id).into_iter().collect();
                let (missing, corrupt) = named(&result);
                assert!(missing.iter().all(|id| !chunks.values().any(|(chunk, _)| chunk == id)));
                assert_eq!(corrupt, hit, "byte {at}");
                assert_eq!(result.bad_chunks, hit.len() as u64);
            }
            std::fs::write(&path, &whole).unwrap();
        }
        assert!(fixture.verify().is_sound());
    });
}

#[test]
fn files_that_are_cut_zeroed_gone_or_exchanged_are_found() {
    watched(|| {
        let (fixture, done) = fixture();
        let packs = fixture.packs();
        let whole: Vec<Vec<u8>> = packs.iter().map(|(_, path)| std::fs::read(path).unwrap()).collect();
        let all = |id: PackId| -> BTreeSet<ChunkId> {
            chunks_of(&fixture, id).values().map(|(id, _)| *id).collect()
        };
        for quick in [false, true] {
            let look = || {
                let options =
                    VerifyOptions { snapshot: Some(done.snapshot), quick, ..VerifyOptions::default() };
                verify(fixture.store(), Some(&fixture.vault), options, 3, &Monitor::default()).unwrap()
            };
            for ((id, path), whole) in packs.iter().zip(&whole) {
                std::fs::remove_file(path).unwrap();
                let result = look();
                assert!(result.damages.len() == 1 && result.damages[0].missing);
                let (missing, corrupt) = named(&result);
                // Trees in the pack hide what they refer to, so more may be unknown, but nothing less.
                assert!(missing.is_subset(&all(*id)) && !missing.is_empty());
                assert!(corrupt.is_empty());
                for length in [0, 1, HEADER_BYTES, whole.len() / 2, whole.len() - 1] {
                    std::fs::write(path, &whole[..length]).unwrap();
                    let result = look();
                    assert!(result.damages.len() == 1 && !result.is_sound(), "cut at {length}");
                }
                for more in [1, limit::PACK_BYTES_MAX] {
                    std::fs::write(path, [whole.as_slice(), &vec![0; more]].concat()).unwrap();
                    assert!(look().damages.len() == 1, "{more} bytes more");
                }
                if !quick {
                    std::fs::write(path, vec![0; whole.len()]).unwrap();
                    let result = look();
                    assert_eq!(result.damages.len(), 1);
                    let (missing, corrupt) = named(&result);
                    assert!(missing.is_empty() && corrupt.is_subset(&all(*id)) && !corrupt.is_empty());
                }
                std::fs::write(path, whole).unwrap();
                assert!(look().is_sound());
            }
        }
        // Two packs' files exchanged.
        std::fs::write(&packs[0].1, &whole[1]).unwrap();
        std::fs::write(&packs[1].1, &whole[0]).unwrap();
        let found: BTreeSet<PackId> = fixture.verify().damages.iter().map(|damage| damage.pack).collect();
        assert_eq!(found, [packs[0].0, packs[1].0].into());
    });
}

#[test]
fn a_lost_or_damaged_outboard_is_made_again() {
    let (fixture, _) = fixture();
    for (id, path) in fixture.packs() {
        let cells = path.with_file_name(format!("{id}.cells"));
        let whole = std::fs::read(&cells).unwrap();
        for bad in [vec![], vec![0; whole.len()], whole[1..].to_vec(), vec![1; 1 << 20]] {
            std::fs::write(&cells, bad).unwrap();
            assert!(fixture.verify().is_sound());
            assert_eq!(std::fs::read(&cells).unwrap(), whole);
        }
        std::fs::remove_file(&cells).unwrap();
        assert!(fixture.verify().is_sound());
        assert_eq!(std::fs::read(&cells).unwrap(), whole);
        // One that cannot be written is no reason to call the pack unsound.
        std::fs::remove_file(&cells).unwrap();
        std::fs::create_dir(&cells).unwrap();
        let tmp = fixture.store().dir().join("tmp");
        std::fs::remove_dir(&tmp).unwrap();
        std::fs::remove_dir(&cells).unwrap();
        assert!(fixture.verify().is_sound());
        std::fs::create_dir(&tmp).unwrap();
    }
}

#[test]
fn a_damaged_snapshot_record_breaks_only_that_snapshot() {
    let fixture = Fixture::new();
    fixture.write("a", b"one");
    let first = fixture.backup();
    fixture.write("a", b"two!");
    let second = fixture.backup();
    let path: PathBuf = fixture.store().dir().join(format!("snapshots/{}", first.snapshot));
    let whole = std::fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    flipped[4000] ^= 1;
    let other = std::fs::read(path.with_file_name(second.snapshot.to_string())).unwrap();
    for bad in [Some(flipped), Some(vec![]), Some(vec![0; 20_000]), Some(other), None] {
        match &bad {
            Some(bad) => std::fs::write(&path, bad).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        let result = fixture.verify();
        assert!(!result.is_sound());
        let broken: Vec<_> = result.snapshots.iter().filter(|s| s.broken.is_some()).map(|s| s.id).collect();
        assert_eq!(broken, [first.snapshot]);
        assert!(result.snapshots.iter().any(|s| s.id == second.snapshot && s.is_sound()));
        // The next backup goes on, and its head keeps the broken one: a peer may have it.
        assert_eq!(fixture.view().heads[0].draft.snapshots.len(), 2);
    }
    let third = fixture.backup();
    assert_eq!(fixture.view().heads[0].draft.snapshots, [first.snapshot, second.snapshot, third.snapshot]);
}

/// Rows that lie about where a chunk is used to go unnoticed while all packs were sound.
#[test]
fn an_index_that_seeks_chunks_in_the_wrong_place_is_found() {
    use crate::store::NewPack;
    let (fixture, _) = fixture();
    let fixture = fixture.reopened(|_| {}, |path| crate::store::Store::rebuild(path).unwrap());
    for (id, path) in fixture.packs() {
        let bytes = std::fs::read(&path).unwrap();
        let (epoch, mut entries) = read_pack(&fixture.vault.keyring.vault, &bytes).unwrap();
        entries.iter_mut().take(1).for_each(|entry| entry.offset += 1);
        let new = NewPack { id, bytes: bytes.len() as u64, epoch, own: true, entries };
        fixture.store().index_packs(&[new]).unwrap();
    }
    let result = fixture.verify();
    assert_eq!(result.bad_chunks, fixture.packs().len() as u64);
    assert!(!result.is_sound() && result.damages.is_empty());
    assert!(fixture.store().pack_by_number(PackNumber(0)).unwrap().is_some());
}
