//! What goes wrong in the middle: files that move, disks that fill, people who change their minds.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::fixture::{Fixture, gc_options, noise, vault_options, watched};
use super::tree_of::assert_same;
use crate::base::{Code, Coded};
use crate::engine::{
    EngineError, GcOptions, Monitor, RestoreOptions, VaultOptions, collect, forget, restore,
};
use crate::fs::Overwrite;
use crate::store::Store;

/// Runs `disturb` again and again on another thread while `work` runs.
fn beside<T>(mut disturb: impl FnMut() + Send, work: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                disturb();
            }
        });
        let value = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        stop.store(true, Ordering::Relaxed);
        value.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[test]
fn files_that_change_vanish_or_turn_into_something_else_never_stop_a_backup() {
    watched(|| {
        let fixture = Fixture::with(VaultOptions { workers: 4, ..vault_options() });
        for i in 0..400u64 {
            fixture.write(&format!("still/{i}"), &noise(i, 3000));
        }
        fixture.write("large", &noise(1, 8 << 20));
        let src = fixture.src();
        let mut turn = 0u64;
        let disturb = || {
            turn += 1;
            let name = |what: &str| src.join(format!("{what}-{}", turn % 5));
            let _ = std::fs::write(name("vanish"), noise(turn, 2000));
            let _ = std::fs::remove_file(src.join(format!("vanish-{}", (turn + 2) % 5)));
            let _ = std::fs::write(src.join("growing"), noise(turn, (turn % 90_000) as usize));
            let turning = name("turning");
            let _ = std::fs::remove_file(&turning).or_else(|_| std::fs::remove_dir(&turning));
            let _ = match turn % 4 {
                0 => std::fs::write(&turning, b"file"),
                1 => std::fs::create_dir(&turning),
                2 => std::os::unix::fs::symlink("/", &turning),
                _ => {
                    mknodat(CWD, &turning, FileType::Fifo, Mode::from_raw_mode(0o600), 0).map_err(Into::into)
                }
            };
        };
        beside(disturb, || {
            for _ in 0..6 {
                let done = fixture.backup();
                let counts = done.counts;
                assert!(counts.files >= 401, "{}", counts.files);
                assert_eq!(counts.files, counts.files_new + counts.files_changed + counts.files_unmodified);
            }
        });
        assert!(fixture.verify().is_sound());
        let last = fixture.view().snapshots.pop().unwrap();
        let options = fixture.restore_options(&fixture.dir.path().join("out"));
        let result = restore(&fixture.vault, &last, &options, None, &Monitor::default()).unwrap();
        assert_eq!(result.failed, 0);
        assert_same(&fixture.src().join("still"), &fixture.dir.path().join("out/still"));
        // Once everything holds still, so does the snapshot.
        let (target, _) = fixture.restore(&fixture.backup(), "calm");
        assert_same(&fixture.src(), &target);
    });
}

#[test]
fn cancelling_at_any_moment_ends_soon_and_loses_nothing() {
    for (round, workers) in (0..24u64).zip([1, 2, 4].into_iter().cycle()) {
        watched(move || {
            let fixture = Fixture::with(VaultOptions { workers, ..vault_options() });
            fixture.write("large", &noise(round, 24 << 20));
            for i in 0..600u64 {
                fixture.write(&format!("{}/{i}", i % 9), &noise(i, 1500));
            }
            let monitor = Arc::new(Monitor::default());
            // The moment: some bytes or files into it.
            let (bytes, files) = (round * (1 << 20), round * 20);
            let watcher = monitor.clone();
            let over = Arc::new(AtomicBool::new(false));
            let ended = over.clone();
            let canceller = std::thread::spawn(move || {
                while watcher.bytes_done.load(Ordering::Relaxed) < bytes
                    && watcher.files_done.load(Ordering::Relaxed) < files
                    && !ended.load(Ordering::Relaxed)
                {
                    std::thread::yield_now();
                }
                watcher.cancel();
                Instant::now()
            });
            let result = fixture.try_backup(&monitor);
            over.store(true, Ordering::Relaxed);
            let cancelled = canceller.join().unwrap();
            match result {
                Err(error) => assert_eq!(error.code(), Code::Cancelled, "{error}"),
                Ok(_) => assert!(round > 0, "nothing was done when it was cancelled"),
            }
            assert!(cancelled.elapsed() < Duration::from_secs(20));
            let sealed = fixture.store().pack_counts().unwrap().own_bytes;
            let done = fixture.backup();
            let again = done.counts.data_added_packed;
            let total = fixture.store().pack_counts().unwrap().own_bytes;
            assert_eq!(total, sealed + again, "what was sealed before the end is used again");
            // Padding aside nothing was sealed twice.
            assert!(total < (25 << 20) + (25 << 20) / 2, "{total}");
            let (target, _) = fixture.restore(&done, "out");
            assert_same(&fixture.src(), &target);
        });
    }
}

/// A restore that was cancelled while the last files were being written said that all was well.
#[test]
fn a_cancelled_restore_never_claims_success() {
    watched(|| {
        let fixture = Fixture::new();
        for i in 0..300u64 {
            fixture.write(&format!("{i}"), &noise(i, 200_000));
        }
        let done = fixture.backup();
        let snapshot = fixture.snapshot(&done);
        for round in 0..30u64 {
            let target = fixture.dir.path().join(format!("out-{round}"));
            let monitor = Monitor::default();
            let over = AtomicBool::new(false);
            let result = std::thread::scope(|scope| {
                scope.spawn(|| {
                    while monitor.files_done.load(Ordering::Relaxed) < 270 + round
                        && !over.load(Ordering::Relaxed)
                    {
                        std::hint::spin_loop();
                    }
                    monitor.cancel();
                });
                let options = RestoreOptions { verify: false, ..fixture.restore_options(&target) };
                let result = restore(&fixture.vault, &snapshot, &options, None, &monitor);
                over.store(true, Ordering::Relaxed);
                result
            });
            match result {
                Err(error) => assert_eq!(error.code(), Code::Cancelled),
                Ok(result) => assert_eq!((result.files, result.failed), (300, 0)),
            }
        }
    });
}

#[test]
fn a_store_that_cannot_be_written_gives_its_own_error_not_that_of_a_bystander() {
    for workers in [1, 4] {
        watched(move || {
            let fixture = Fixture::with(VaultOptions { workers, ..vault_options() });
            fixture.write("large", &noise(3, 80 << 20));
            let tmp = fixture.store().dir().join("tmp");
            std::fs::remove_dir(&tmp).unwrap();
            let error = fixture.try_backup(&Monitor::default()).unwrap_err();
            assert_eq!(error.code(), Code::IoFailed, "{error}");
            std::fs::create_dir(&tmp).unwrap();
            let (target, _) = fixture.restore(&fixture.backup(), "out");
            assert_same(&fixture.src(), &target);
            assert!(fixture.verify().is_sound());
        });
    }
}

/// A file system of its own, which can fill up.
pub(super) struct Small(pub(super) std::path::PathBuf);

impl Small {
    /// `None` without the rights to mount.
    pub(super) fn mount(at: &Path, mib: u32) -> Option<Self> {
        std::fs::create_dir(at).unwrap();
        let size = format!("size={mib}m");
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(at)
            .output()
            .is_ok_and(|output| output.status.success());
        mounted.then(|| Self(at.to_owned()))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_ends_a_backup_cleanly_and_the_next_one_goes_on() {
    for (seed, mib) in [(1u64, 24), (2, 37), (3, 58)] {
        watched(move || {
            let dir = tempfile::tempdir().unwrap();
            let Some(small) = Small::mount(&dir.path().join("disk"), mib) else { return };
            let root = small.0.clone();
            let fixture = Fixture::at(dir, &root.join("store"), vault_options());
            fixture.write("first", &noise(100 + seed, 1 << 20));
            let first = fixture.backup();
            fixture.write("large", &noise(seed, 90 << 20));
            for _ in 0..3 {
                let error = fixture.try_backup(&Monitor::default()).unwrap_err();
                assert_eq!(error.code(), Code::StorageFull, "{error}");
            }
            assert!(fixture.verify().is_sound(), "what was committed is whole");
            let (target, _) = fixture.restore(&first, "first-out");
            assert_eq!(std::fs::read(target.join("first")).unwrap(), noise(100 + seed, 1 << 20));
            let sealed = fixture.store().pack_counts().unwrap().own_bytes;
            let grown =
                std::process::Command::new("mount").args(["-o", "remount,size=400m"]).arg(&root).status();
            assert!(grown.unwrap().success());
            let done = fixture.backup();
            assert!(fixture.store().pack_counts().unwrap().own_bytes < sealed + (96 << 20) - sealed / 2);
            let (target, _) = fixture.restore(&done, "out");
            assert_same(&fixture.src(), &target);
            assert!(fixture.verify().is_sound());
            // Nothing half-written stays behind.
            assert_eq!(std::fs::read_dir(root.join("store/tmp")).unwrap().count(), 0);
            let fixture = fixture.reopened(|_| {}, |path| Store::open(path).unwrap());
            assert!(fixture.verify().is_sound());
            drop((fixture, small));
        });
    }
}

#[test]
fn forgetting_and_collecting_work_on_a_full_disk_and_give_it_back() {
    for (seed, mib) in [(1u64, 44), (2, 57)] {
        watched(move || {
            let dir = tempfile::tempdir().unwrap();
            let Some(small) = Small::mount(&dir.path().join("disk"), mib) else { return };
            let fixture = Fixture::at(dir, &small.0.join("store"), vault_options());
            fixture.write("keep", &noise(100 + seed, 1 << 20));
            fixture.write("large", &noise(200 + seed, 16 << 20));
            let first = fixture.backup();
            std::fs::remove_file(fixture.src().join("large")).unwrap();
            let second = fixture.backup();
            fixture.write("huge", &noise(seed, 90 << 20));
            let error = fixture.try_backup(&Monitor::default()).unwrap_err();
            assert_eq!(error.code(), Code::StorageFull, "{error}");
            let before = fixture.store().disk_free();
            assert_eq!(forget(&fixture.vault, &[first.snapshot], &[]).unwrap(), 1);
            let options = GcOptions { memory_bytes: 24 << 20, ..gc_options(true) };
            let gc = || collect(&fixture.vault, options, &[], None, &Monitor::default()).unwrap();
            // Where rewriting found no room, there is room after the first round.
            let (done, again) = (gc(), gc());
            assert!(done.deleted.0 + again.deleted.0 > 0, "{done:?} {again:?}");
            assert!(fixture.store().disk_free() > before + (12 << 20), "{done:?} {again:?}");
            assert!(fixture.verify().is_sound());
            std::fs::remove_file(fixture.src().join("huge")).unwrap();
            let (target, _) = fixture.restore(&second, "out");
            assert_eq!(std::fs::read(target.join("keep")).unwrap(), noise(100 + seed, 1 << 20));
            fixture.write("after", &noise(300 + seed, 4 << 20));
            fixture.backup();
            assert!(fixture.verify().is_sound());
            drop((fixture, small));
        });
    }
}

/// Packs of many small chunks need room for index rows as well; when redb met the full disk, the store answered
/// nothing any more until it was opened again.
#[test]
fn a_disk_that_fills_while_rows_are_written_leaves_the_store_usable() {
    for filler in [4u64, 12, 18, 22, 26] {
        watched(move || {
            let dir = tempfile::tempdir().unwrap();
            let Some(small) = Small::mount(&dir.path().join("disk"), 48) else { return };
            let root = small.0.clone();
            let sizes = crate::chunker::ChunkSizes::new(64, 256, 1024).unwrap();
            let fixture = Fixture::at(dir, &root.join("store"), VaultOptions { sizes, ..vault_options() });
            std::fs::write(root.join("filler"), vec![1; (filler << 20) as usize]).unwrap();
            fixture.write("pieces", &noise(filler, 40 << 20));
            for _ in 0..3 {
                let error = fixture.try_backup(&Monitor::default()).unwrap_err();
                assert_eq!(error.code(), Code::StorageFull, "{error}");
                assert!(fixture.verify().is_sound());
            }
            std::fs::remove_file(root.join("filler")).unwrap();
            std::fs::remove_file(fixture.src().join("pieces")).unwrap();
            fixture.write("few", &noise(filler, 1 << 20));
            if fixture.store().disk_free() > 12 << 20 {
                let (target, _) = fixture.restore(&fixture.backup(), "out");
                assert_same(&fixture.src(), &target);
            }
            drop((fixture, small));
        });
    }
}

#[test]
fn a_restore_onto_a_full_disk_says_so() {
    watched(|| {
        let fixture = Fixture::new();
        fixture.write("large", &noise(1, 30 << 20));
        let done = fixture.backup();
        let Some(small) = Small::mount(&fixture.dir.path().join("disk"), 8) else { return };
        let options =
            RestoreOptions { overwrite: Overwrite::Always, ..fixture.restore_options(&small.0.join("out")) };
        let result = restore(&fixture.vault, &fixture.snapshot(&done), &options, None, &Monitor::default());
        assert_eq!(result.unwrap_err().code(), Code::StorageFull);
        assert_eq!(std::fs::read_dir(small.0.join("out")).unwrap().count(), 0, "no half file stays");
    });
}

#[test]
fn a_path_that_does_not_exist_is_told_and_without_any_other_an_error() {
    let fixture = Fixture::new();
    let absent = fixture.src().join("absent");
    let options = crate::engine::BackupOptions { paths: vec![absent.clone()], ..fixture.options() };
    let error = crate::engine::backup(&fixture.vault, &options, &Monitor::default()).unwrap_err();
    assert!(matches!(error, EngineError::Fs(_)) && error.code() == Code::PathNotFound);
    assert!(fixture.view().snapshots.is_empty());
    let options = crate::engine::BackupOptions { paths: vec![absent.clone(), fixture.src()], ..options };
    let monitor = Monitor::default();
    let done = crate::engine::backup(&fixture.vault, &options, &monitor).unwrap();
    assert_eq!(
        (done.counts.unreadable, monitor.problems().1[0].path.as_str()),
        (1, absent.to_str().unwrap())
    );
}
