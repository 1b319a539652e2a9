//! What a backup leaves out is not "was not there"; what it could not read whole is read again and told again.

use std::collections::VecDeque;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::fixture::{Fixture, watched};
use super::tree_of::tree_of;
use crate::engine::backup::backup_entries;
use crate::engine::{
    BackupOptions, BackupResult, EngineError, Monitor, RestoreAction, RestoreOptions, RestoreResult, backup,
    restore,
};
use crate::fs::{Entries, Exclusions, Overwrite, Walk, WalkEvent, WalkOptions};
use crate::wire::Node;

/// A copy of the source, with everything in it, as the target of a restore that deletes.
fn copied(fixture: &Fixture) -> PathBuf {
    let target = fixture.dir.path().join("target");
    let done = std::process::Command::new("cp").arg("-a").arg(fixture.src()).arg(&target).status();
    assert!(done.expect("cp runs").success());
    target
}

fn restored(fixture: &Fixture, done: &BackupResult, target: &Path, dry_run: bool) -> RestoreResult {
    let options = RestoreOptions {
        overwrite: Overwrite::Always,
        delete: true,
        dry_run,
        ..fixture.restore_options(target)
    };
    restore(&fixture.vault, &fixture.snapshot(done), &options, None, &Monitor::default()).unwrap()
}

/// What is kept, by path; a dry run tells it as well.
fn kept(result: &RestoreResult) -> Vec<&str> {
    let kept = result.changes.iter().filter(|change| matches!(change.action, RestoreAction::Keep(_)));
    let mut kept: Vec<&str> = kept.map(|change| change.path.to_str().unwrap()).collect();
    kept.sort_unstable();
    kept
}

/// All of it was deleted, with exit code 0: the only copy.
#[test]
fn what_a_rule_left_out_is_not_deleted_and_what_was_not_there_is() {
    watched(|| {
        let fixture = Fixture::new();
        for name in ["a/kept", "a/cache.o", "b/deep/x.tmp", "b/deep/y", "cache/CACHEDIR.TAG", "big", "m/f"] {
            fixture.write(name, b"Signature: 8a477f597d28d172789f06886806bc55 and more");
        }
        fixture.write("m/.shadowvaultignore", b"hidden\n");
        fixture.write("m/hidden", b"h");
        let exclude = Exclusions {
            patterns: vec!["*.o".to_owned(), "*.tmp".to_owned()],
            caches: true,
            ..Exclusions::default()
        };
        let options = BackupOptions { exclude, ..fixture.options() };
        let done = backup(&fixture.vault, &options, &Monitor::default()).unwrap();
        let target = copied(&fixture);
        let all = tree_of(&target);
        for name in ["a/new", "b/deep/new", "new", "m/new"] {
            std::fs::write(target.join(name), b"new").unwrap();
        }
        std::fs::write(target.join("cache/was there or not"), b"?").unwrap();
        let told = restored(&fixture, &done, &target, true);
        assert!(target.join("new").exists());
        let result = restored(&fixture, &done, &target, false);
        let expected = ["a/cache.o", "b/deep/x.tmp", "cache/was there or not", "m/hidden"];
        assert_eq!((kept(&told), kept(&result)), (expected.to_vec(), expected.to_vec()));
        assert_eq!((result.kept, result.deleted), (4, 4));
        std::fs::remove_file(target.join("cache/was there or not")).unwrap();
        let left = tree_of(&target);
        assert!(all.keys().eq(left.keys()), "{left:?}");
    });
}

/// A directory with more of them than are named keeps whatever it does not know.
#[test]
fn among_too_many_to_be_named_nothing_is_deleted() {
    watched(|| {
        let fixture = Fixture::new();
        fixture.write("d/kept", b"k");
        (0..500).for_each(|at| fixture.write(&format!("d/{at}.o"), b"o"));
        let exclude = Exclusions { patterns: vec!["*.o".to_owned()], ..Exclusions::default() };
        let done =
            backup(&fixture.vault, &BackupOptions { exclude, ..fixture.options() }, &Monitor::default())
                .unwrap();
        let target = copied(&fixture);
        std::fs::write(target.join("d/new"), b"n").unwrap();
        std::fs::write(target.join("new"), b"n").unwrap();
        let result = restored(&fixture, &done, &target, false);
        assert_eq!((result.kept, result.deleted), (501, 1));
    });
}

/// A walk in which things happen to entries by their names.
struct Odd<F> {
    walk: Walk,
    ready: VecDeque<WalkEvent>,
    change: F,
}

/// What happens to an entry.
enum Odds {
    /// Nothing.
    None,
    /// The record is changed.
    Changed(Box<Node>),
    /// One of its attributes cannot be read.
    Partial(Box<Node>),
}

impl<F: FnMut(&Path, Node) -> Odds + Send> Odd<F> {
    fn of(fixture: &Fixture, change: F) -> Box<dyn Entries>
    where
        F: 'static,
    {
        let walk = Walk::new(&[fixture.src()], WalkOptions::default()).unwrap();
        Box::new(Self { walk, ready: VecDeque::new(), change })
    }
}

impl<F: FnMut(&Path, Node) -> Odds + Send> Entries for Odd<F> {
    fn advance(&mut self) -> Option<WalkEvent> {
        if let Some(event) = self.ready.pop_front() {
            return Some(event);
        }
        let event = self.walk.advance()?;
        let WalkEvent::Entry { path, node } = event else { return Some(event) };
        match (self.change)(&path, node.clone()) {
            Odds::None => Some(WalkEvent::Entry { path, node }),
            Odds::Changed(node) => Some(WalkEvent::Entry { path, node: *node }),
            Odds::Partial(node) => {
                let error = std::io::Error::from_raw_os_error(5);
                self.ready.push_back(WalkEvent::Failed { path: path.clone(), error });
                Some(WalkEvent::Entry { path, node: *node })
            }
        }
    }

    fn complete(&mut self, node: &mut Node) {
        let partial = node.partial;
        self.walk.complete(node);
        node.partial |= partial;
    }
}

fn backup_odd(
    fixture: &Fixture,
    change: impl FnMut(&Path, Node) -> Odds + Send + 'static,
) -> Result<(BackupResult, Vec<String>), EngineError> {
    let monitor = Monitor::default();
    let entries = Odd::of(fixture, change);
    let done = backup_entries(&fixture.vault, &fixture.options(), entries, &monitor)?;
    Ok((done, monitor.problems().1.into_iter().map(|problem| problem.path).collect()))
}

/// It was reported as unreadable, and the snapshot was incomplete, whenever a mail was moved or a build ran.
#[test]
fn a_file_that_vanishes_after_its_directory_was_listed_was_not_there() {
    watched(|| {
        let fixture = Fixture::new();
        for name in ["a/gone", "a/stays", "b/gone", "b/stays"] {
            fixture.write(name, b"content");
        }
        let (gone, moved) = (fixture.src().join("a/gone"), fixture.src().join("b"));
        let (done, problems) = backup_odd(&fixture, move |path, _| {
            if path == gone {
                std::fs::remove_file(path).unwrap();
            }
            Odds::None
        })
        .unwrap();
        assert_eq!((done.counts.files, done.counts.unreadable, problems), (3, 0, Vec::new()));
        // With its directory it may only have another path now.
        let away = fixture.dir.path().join("away");
        let read = moved.join("gone");
        fixture.write("b/gone", b"other content");
        let (done, problems) = backup_odd(&fixture, move |path, _| {
            if path == read {
                std::fs::rename(&moved, &away).unwrap();
            }
            Odds::None
        })
        .unwrap();
        assert!(done.counts.unreadable > 0 && !problems.is_empty(), "{problems:?}");
    });
}

/// The next backup took them over as unchanged, and was complete.
#[test]
fn what_could_not_be_read_whole_is_told_by_each_backup_until_it_can() {
    watched(|| {
        let fixture = Fixture::new();
        fixture.write("sound", b"s");
        fixture.write("torn", b"t");
        let tear = |path: &Path, node: Node| match path.ends_with("torn") {
            true => Odds::Partial(Box::new(Node { partial: true, ..node })),
            false => Odds::None,
        };
        for _ in 0..3 {
            let (done, problems) = backup_odd(&fixture, tear).unwrap();
            assert_eq!(done.counts.unreadable, 1);
            assert!(problems.len() == 1 && problems[0].ends_with("torn"), "{problems:?}");
            assert!(!fixture.snapshot(&done).is_complete());
            let (target, _) = fixture.restore(&done, &format!("t{}", done.snapshot));
            assert_eq!(std::fs::read(target.join("torn")).unwrap(), b"t");
        }
        let (done, problems) = backup_odd(&fixture, |_, _| Odds::None).unwrap();
        assert_eq!((done.counts.unreadable, problems.len()), (0, 0));
        assert_eq!(done.counts.files_unmodified, 1, "the torn one is read once more");
        let done = fixture.backup();
        assert_eq!(done.counts.files_unmodified, 2);
    });
}

/// Some file systems move no change time for it, and nothing of it was kept.
#[test]
fn a_mode_that_changed_without_a_change_time_is_kept() {
    watched(|| {
        let fixture = Fixture::new();
        fixture.write("f", b"f");
        let frozen = |path: &Path, node: Node| match path.ends_with("f") {
            true => Odds::Changed(Box::new(Node { ctime: node.mtime, ..node })),
            false => Odds::None,
        };
        backup_odd(&fixture, frozen).unwrap();
        std::fs::set_permissions(fixture.src().join("f"), std::fs::Permissions::from_mode(0o640)).unwrap();
        let (done, _) = backup_odd(&fixture, frozen).unwrap();
        let (target, _) = fixture.restore(&done, "target");
        assert_eq!(std::fs::metadata(target.join("f")).unwrap().mode() & 0o777, 0o640);
    });
}

/// What the walk had, and what was gone or unreadable when its content was to be read.
#[test]
fn what_was_unreadable_is_not_deleted() {
    watched(|| {
        let fixture = Fixture::new();
        fixture.write("d/sound", b"s");
        fixture.write("d/lost", b"the only copy");
        let target = copied(&fixture);
        let source = fixture.src();
        let (done, problems) = backup_odd(&fixture, move |path, _| {
            if path.ends_with("lost") {
                // After it was looked at.
                std::fs::remove_file(source.join("d/lost")).unwrap();
            }
            Odds::None
        })
        .unwrap();
        assert_eq!((done.counts.unreadable, problems.len()), (0, 0), "{problems:?}");
        std::fs::write(target.join("d/new"), b"n").unwrap();
        let result = restored(&fixture, &done, &target, false);
        assert_eq!((kept(&result), result.deleted), (vec!["d/lost"], 1));
        assert_eq!(std::fs::read(target.join("d/lost")).unwrap(), b"the only copy");
    });
}

/// They were stored empty.
#[test]
fn files_that_say_they_are_empty_are_read_to_their_end() {
    watched(|| {
        let fixture = Fixture::new();
        let path = PathBuf::from("/proc/sys/kernel/ostype");
        let content = std::fs::read(&path).unwrap();
        assert_eq!((path.metadata().unwrap().len(), content.is_empty()), (0, false));
        let options = BackupOptions { paths: vec![path.clone()], ..fixture.options() };
        for _ in 0..2 {
            let done = backup(&fixture.vault, &options, &Monitor::default()).unwrap();
            assert_eq!(done.counts.bytes, content.len() as u64);
            let (target, _, monitor) =
                fixture.restore_path(&fixture.snapshot(&done), path.parent().unwrap(), "target", None);
            assert_eq!(std::fs::read(target.join("ostype")).unwrap(), content, "{:?}", monitor.problems());
            std::fs::remove_dir_all(target).unwrap();
        }
    });
}
