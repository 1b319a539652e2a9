//! Drills of restoring, with holders made of copies.

use super::fixture::{Fixture, Holders, Manner, noise, watched};
use crate::base::{Code, Coded};
use crate::engine::{DrillOptions, DrillResult, EngineError, Monitor, restore_drill};

fn drill(
    fixture: &Fixture,
    holders: &Holders,
    seed: u64,
    bytes_max: u64,
) -> Result<DrillResult, EngineError> {
    let scratch = fixture.dir.path().join("scratch");
    let options = DrillOptions { scratch: scratch.clone(), seed, bytes_max };
    let snapshot = fixture.view().snapshots.pop().unwrap();
    let result = restore_drill(&fixture.vault, &snapshot, &options, holders, &Monitor::default());
    assert!(!scratch.exists(), "it leaves nothing behind");
    result
}

fn filled() -> Fixture {
    let fixture = Fixture::new();
    fixture.write("large", &noise(1, 9 << 20));
    (0..150).for_each(|n| fixture.write(&format!("dir/{}/{n}", n % 7), &noise(n, 3000)));
    fixture.write("empty", b"");
    fixture.backup();
    fixture
}

#[test]
fn a_drill_restores_a_sample_from_holders_and_nothing_from_here() {
    watched(|| {
        let fixture = filled();
        let holders = Holders::of(&fixture, &[Manner::Honest, Manner::Honest]);
        let one = drill(&fixture, &holders, 1, u64::MAX).unwrap();
        assert_eq!((one.files, one.failed), (100, 0), "{one:?}");
        assert!(one.bytes >= 99 * 3000, "{one:?}");
        // Little more is pulled than is read: cells are whole, and trees are pulled too.
        let asked = holders.asked.lock().unwrap().len() as u64 * 65_536;
        assert!(asked < 2 * one.bytes + (8 << 20), "{asked} for {}", one.bytes);
        // Large files are bounded, and the beginning of one is better than nothing of it.
        let short = drill(&fixture, &holders, 1, 100_000).unwrap();
        assert!(short.files > 0 && short.files < 100 && short.bytes < 500_000, "{short:?}");
    });
}

#[test]
fn a_drill_tells_of_holders_that_have_nothing_or_send_something_else() {
    watched(|| {
        let fixture = filled();
        let nobody = Holders::of(&fixture, &[Manner::Absent]);
        assert_eq!(drill(&fixture, &nobody, 2, u64::MAX).unwrap_err().code(), Code::ChunkNotFound);
        let liars = Holders::of(&fixture, &[Manner::WrongBytes]);
        assert!(drill(&fixture, &liars, 2, u64::MAX).is_err());
        // One honest holder is enough.
        let mixed = Holders::of(&fixture, &[Manner::WrongBytes, Manner::Absent, Manner::Honest]);
        let done = drill(&fixture, &mixed, 2, u64::MAX).unwrap();
        assert_eq!((done.files, done.failed), (100, 0), "{done:?}");
    });
}
