//! What a restore takes, leaves, replaces and deletes, and what others do in its target meanwhile.

use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::fixture::{Fixture, noise, watched};
use super::tree_of::{assert_same, tree_of};
use crate::base::limit;
use crate::engine::{
    BackupOptions, BackupResult, EngineError, Monitor, RestoreAction, RestoreOptions, RestoreResult, backup,
    restore,
};
use crate::fs::Overwrite;

fn patterns(list: &[&str]) -> Vec<String> {
    list.iter().map(|pattern| (*pattern).to_owned()).collect()
}

/// Restores as `options` say, without problems.
fn restored(fixture: &Fixture, done: &BackupResult, options: &RestoreOptions) -> (RestoreResult, Monitor) {
    let monitor = Monitor::default();
    let result = restore(&fixture.vault, &fixture.snapshot(done), options, None, &monitor).unwrap();
    assert_eq!(monitor.problems().1, []);
    (result, monitor)
}

/// All paths below a directory, without itself.
fn paths(dir: &Path) -> Vec<String> {
    let below = tree_of(dir).into_keys().filter(|path| !path.as_os_str().is_empty());
    below.map(|path| path.to_string_lossy().into_owned()).collect()
}

#[test]
fn patterns_choose_what_comes_back_and_progress_counts_just_that() {
    watched(|| {
        let fixture = Fixture::new();
        for name in
            ["a/x.txt", "a/y.bin", "a/deep/er/z.txt", "b/x.txt", "b/skip/x.txt", "top.txt", "c/only.bin"]
        {
            fixture.write(name, &noise(name.len() as u64, 1000));
        }
        let done = fixture.backup();
        let table: [(&[&str], &[&str], &[&str]); 5] = [
            (
                &["*.txt"],
                &["skip/"],
                &["a", "a/deep", "a/deep/er", "a/deep/er/z.txt", "a/x.txt", "b", "b/x.txt", "top.txt"],
            ),
            (&["/b/"], &[], &["b", "b/skip", "b/skip/x.txt", "b/x.txt"]),
            (&["/a/deep/**"], &[], &["a", "a/deep", "a/deep/er", "a/deep/er/z.txt"]),
            (&[], &["/a", "*.bin"], &["b", "b/skip", "b/skip/x.txt", "b/x.txt", "c", "top.txt"]),
            (&["nothing"], &[], &[]),
        ];
        for (number, (include, exclude, expected)) in table.into_iter().enumerate() {
            let target = fixture.dir.path().join(format!("out-{number}"));
            let (include, exclude) = (patterns(include), patterns(exclude));
            let options = RestoreOptions { include, exclude, ..fixture.restore_options(&target) };
            let (result, monitor) = restored(&fixture, &done, &options);
            assert_eq!(paths(&target), expected, "{options:?}");
            // Directories on the way have their own metadata, too.
            let (from, to) = (tree_of(&fixture.src()), tree_of(&target));
            to.iter().filter(|(path, _)| !path.as_os_str().is_empty()).for_each(|(path, fact)| {
                assert_eq!(from.get(path), Some(fact), "{}", path.display());
            });
            let files = expected.iter().filter(|path| path.contains('.')).count() as u64;
            assert_eq!((result.files, monitor.files_done.load(Ordering::Relaxed)), (files, files));
            let total = monitor.bytes_total.load(Ordering::Relaxed);
            // Counted beside the restore: known, or given up because it was over first.
            assert!(total == 0 || total == files * 1000, "{total}");
        }
        let bad = RestoreOptions {
            include: patterns(&["[a"]),
            ..fixture.restore_options(&fixture.dir.path().join("bad"))
        };
        let error = restore(&fixture.vault, &fixture.snapshot(&done), &bad, None, &Monitor::default());
        assert!(matches!(error, Err(EngineError::Fs(_))));
        assert!(!bad.target.exists());
    });
}

/// A source and a target that differ in every way.
fn differing(fixture: &Fixture) -> (BackupResult, PathBuf) {
    fixture.write("same", b"same");
    fixture.write("changed", b"new content");
    fixture.write("dir/new", b"new");
    symlink("there", fixture.src().join("link")).unwrap();
    let done = fixture.backup();
    let (target, _) = fixture.restore(&done, "target");
    std::fs::write(target.join("changed"), b"old").unwrap();
    std::fs::remove_file(target.join("dir/new")).unwrap();
    std::fs::create_dir_all(target.join("more/deep")).unwrap();
    std::fs::write(target.join("more/deep/file"), b"more").unwrap();
    std::fs::write(target.join("dir/more"), b"more").unwrap();
    (done, target)
}

#[test]
fn a_dry_run_tells_all_and_touches_nothing() {
    use RestoreAction::{Create, Delete, Dress, Overwrite as Replace, Skip};
    watched(|| {
        let fixture = Fixture::new();
        let (done, target) = differing(&fixture);
        let (before, ctime) = (tree_of(&target), target.metadata().unwrap().ctime_nsec());
        let options = RestoreOptions {
            overwrite: Overwrite::IfChanged,
            delete: true,
            target_metadata: true,
            dry_run: true,
            ..fixture.restore_options(&target)
        };
        let (told, _) = restored(&fixture, &done, &options);
        assert_eq!((before, ctime), (tree_of(&target), target.metadata().unwrap().ctime_nsec()));
        let mut changes: Vec<_> = told
            .changes
            .iter()
            .map(|change| (format!("{:?}", change.action), change.path.to_str().unwrap()))
            .collect();
        changes.sort_unstable();
        let told_as = |action: RestoreAction| format!("{action:?}");
        let mut expected = vec![
            (told_as(Replace), "changed"),
            (told_as(Dress), "."),
            (told_as(Dress), "dir"),
            (told_as(Create), "dir/new"),
            (told_as(Skip), "same"),
            (told_as(Skip), "link"),
            (told_as(Delete), "dir/more"),
            (told_as(Delete), "more"),
            (told_as(Delete), "more/deep"),
            (told_as(Delete), "more/deep/file"),
        ];
        expected.sort_unstable();
        assert_eq!(changes, expected);

        // What it told is what happens.
        let (result, _) = restored(&fixture, &done, &RestoreOptions { dry_run: false, ..options });
        assert_same(&fixture.src(), &target);
        let counts =
            |r: &RestoreResult| (r.files, r.overwritten, r.directories, r.skipped, r.deleted, r.bytes);
        assert_eq!(counts(&result), counts(&told));
        assert_eq!(counts(&result), (2, 1, 1, 2, 4, 14));

        let absent = fixture.dir.path().join("absent/deep");
        let options = RestoreOptions { dry_run: true, ..fixture.restore_options(&absent) };
        let (told, _) = restored(&fixture, &done, &options);
        assert_eq!((told.files, told.others, told.directories, told.skipped), (3, 1, 1, 0));
        assert!(!fixture.dir.path().join("absent").exists());
    });
}

#[test]
fn deleting_goes_no_further_than_what_was_backed_up_and_chosen() {
    watched(|| {
        let fixture = Fixture::new();
        fixture.write("mine/file", b"1");
        fixture.write("others/file", b"2");
        let paths_of = BackupOptions { paths: vec![fixture.src().join("mine")], ..fixture.options() };
        let done = backup(&fixture.vault, &paths_of, &Monitor::default()).unwrap();
        let target = fixture.dir.path().join("target");
        let inside = target.join(fixture.src().strip_prefix("/").unwrap());
        let plant = || {
            std::fs::create_dir_all(inside.join("mine/old/deep")).unwrap();
            std::fs::create_dir_all(inside.join("others")).unwrap();
            for name in
                ["mine/old/deep/a.log", "mine/old/b", "mine/c.log", "mine/d", "others/theirs", "beside"]
            {
                std::fs::write(inside.join(name), b"x").unwrap();
            }
            std::fs::write(target.join("top"), b"x").unwrap();
        };
        let whole = |include: &[&str], exclude: &[&str]| RestoreOptions {
            path: "/".into(),
            include: patterns(include),
            exclude: patterns(exclude),
            delete: true,
            ..fixture.restore_options(&target)
        };
        let rest = ["beside", "mine", "mine/file", "others", "others/theirs"];
        plant();
        // Overwriting nothing does not keep it from deleting.
        let (result, _) = restored(&fixture, &done, &whole(&[], &[]));
        assert_eq!((paths(&inside), result.deleted), (rest.map(str::to_owned).to_vec(), 6));
        assert!(target.join("top").exists());

        plant();
        restored(&fixture, &done, &whole(&[], &["*.log"]));
        let kept =
            ["beside", "mine", "mine/c.log", "mine/file", "mine/old", "mine/old/deep", "mine/old/deep/a.log"];
        assert_eq!(paths(&inside)[..7], kept);
        assert!(!inside.join("mine/old/b").exists() && !inside.join("mine/d").exists());

        plant();
        restored(&fixture, &done, &whole(&["*.log", "file"], &[]));
        assert!(inside.join("mine/d").exists() && !inside.join("mine/c.log").exists());
        assert!(inside.join("mine/old/b").exists(), "what is in a directory that is not chosen stays");

        // One file says nothing about what lies beside it.
        plant();
        let one = RestoreOptions { path: fixture.src().join("mine/file"), ..whole(&[], &[]) };
        let (result, _) = restored(&fixture, &done, &one);
        assert_eq!((result.files, result.deleted), (1, 0));
    });
}

#[test]
fn existing_files_are_compared_and_only_what_differs_is_written() {
    watched(|| {
        let fixture = Fixture::new();
        let size = usize::try_from(limit::PATCH_BYTES_MIN).unwrap() + 12_345;
        fixture.write("large", &noise(1, size));
        fixture.write("small", &noise(2, 100_000));
        fixture.write("linked", &noise(3, 1000));
        let done = fixture.backup();
        let (target, _) = fixture.restore(&done, "target");
        let outside = fixture.dir.path().join("outside");
        std::fs::hard_link(target.join("linked"), &outside).unwrap();
        let inode = |name: &str| std::fs::metadata(target.join(name)).unwrap().ino();
        let before = (inode("large"), inode("small"), inode("linked"));
        let large = std::fs::File::options().write(true).open(target.join("large")).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&large, b"damage", 5_000_000).unwrap();
        large.set_len(size as u64 + 99).unwrap();
        drop(large);
        std::fs::set_permissions(target.join("small"), std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .unwrap();
        let options = RestoreOptions {
            overwrite: Overwrite::Always,
            target_metadata: true,
            ..fixture.restore_options(&target)
        };
        let (result, monitor) = restored(&fixture, &done, &options);
        assert_same(&fixture.src(), &target);
        let chunk = 256 << 10;
        assert!(result.bytes > 0 && result.bytes <= 2 * chunk + 1000, "{result:?}");
        assert_eq!((result.files, result.overwritten, result.skipped), (2, 2, 1), "{result:?}");
        assert_eq!(monitor.bytes_done.load(Ordering::Relaxed), size as u64 + 101_000);
        assert_eq!((inode("large"), inode("small")), (before.0, before.1));
        // A file that has a name elsewhere is replaced, not changed.
        assert_ne!(inode("linked"), before.2);
        assert_eq!(std::fs::metadata(&outside).unwrap().ino(), before.2);
    });
}

#[test]
fn small_files_that_share_packs_with_all_others_come_back_exactly() {
    watched(|| {
        let fixture = Fixture::new();
        for number in 0..700u64 {
            // Of all sizes around a batch's bounds; every third is one that another directory has as well.
            let length = usize::try_from((number * 7919) % 3000).unwrap();
            let seed = if number % 3 == 0 { number % 30 } else { number };
            fixture.write(&format!("{}/{}/{number}", number % 40, number % 3), &noise(seed, length));
        }
        for (name, length) in [("half", 512 << 10), ("more", (512 << 10) + 1), ("none", 0)] {
            fixture.write(name, &noise(9, length));
        }
        let done = fixture.backup();
        for memory_bytes in [1 << 20, 96 << 20] {
            let target = fixture.dir.path().join(format!("out-{memory_bytes}"));
            let options = RestoreOptions { memory_bytes, ..fixture.restore_options(&target) };
            let (result, _) = restored(&fixture, &done, &options);
            assert_eq!((result.files, result.verified, result.failed), (703, 703, 0));
            assert_same(&fixture.src(), &target);
            // Again: everything is there.
            let (again, monitor) = restored(&fixture, &done, &options);
            assert_eq!((again.files, again.skipped, again.bytes), (0, 703, 0));
            let (done, total) = (&monitor.bytes_done, &monitor.bytes_total);
            assert_eq!(done.load(Ordering::Relaxed), total.load(Ordering::Relaxed));
        }
    });
}

/// Others may rename and replace what is in the target at any moment: everything goes through handles, so that what
/// they put in the place of a directory is never written to.
#[test]
fn directories_swapped_for_symlinks_during_a_restore_lead_nowhere() {
    watched(|| {
        let fixture = Fixture::new();
        for number in 0..600u64 {
            fixture.write(&format!("{}/{}/{number}", number % 20, number % 2), &noise(number, 300));
        }
        let done = fixture.backup();
        let sentinel = fixture.dir.path().join("sentinel");
        std::fs::create_dir_all(sentinel.join("0")).unwrap();
        std::fs::write(sentinel.join("0/0"), b"mine").unwrap();
        let before = tree_of(&sentinel);
        for (round, overwrite) in [Overwrite::Never, Overwrite::Always].into_iter().enumerate() {
            let target = fixture.dir.path().join(format!("out-{round}"));
            std::fs::create_dir(&target).unwrap();
            let over = AtomicBool::new(false);
            std::thread::scope(|scope| {
                for first in [0, 10] {
                    let (target, sentinel, over) = (&target, &sentinel, &over);
                    scope.spawn(move || {
                        let mut number = 0;
                        while !over.load(Ordering::Relaxed) {
                            let name = target.join((first + number % 10).to_string());
                            let away = target.join(format!("away-{first}-{number}"));
                            if std::fs::rename(&name, &away).is_ok() {
                                // Fails when the restore was faster.
                                let _ = symlink(sentinel, &name);
                            }
                            number += 1;
                        }
                    });
                }
                let options = RestoreOptions { overwrite, delete: true, ..fixture.restore_options(&target) };
                let monitor = Monitor::default();
                let result = restore(&fixture.vault, &fixture.snapshot(&done), &options, None, &monitor);
                over.store(true, Ordering::Relaxed);
                let result = result.unwrap();
                assert_eq!(result.failed, monitor.problem_count());
            });
            assert_eq!(before, tree_of(&sentinel), "{overwrite:?}");
        }
    });
}
