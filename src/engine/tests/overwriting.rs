//! What becomes of what is there: under each rule the target is the snapshot's, or it is as it was.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, mknodat, utimensat};

use super::fixture::{Fixture, noise, watched};
use super::tree_of::{assert_same, tree_of};
use crate::base::limit;
use crate::engine::{BackupResult, Monitor, RestoreAction, RestoreOptions, RestoreResult, restore};
use crate::fs::Overwrite;

const RULES: [Overwrite; 4] = [Overwrite::Never, Overwrite::IfChanged, Overwrite::IfNewer, Overwrite::Always];

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn attribute(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Gives `path` the time that something had.
fn timed(path: &Path, like: &std::fs::Metadata) {
    let time = Timespec { tv_sec: like.mtime(), tv_nsec: like.mtime_nsec() };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn node(path: &Path, kind: FileType, minor: u32) {
    let device = if kind == FileType::Fifo { 0 } else { rustix::fs::makedev(1, minor) };
    mknodat(CWD, path, kind, Mode::from_raw_mode(0o640), device).unwrap();
}

/// Every kind of entry.
fn source(fixture: &Fixture) {
    let src = fixture.src();
    for (name, length) in
        [("empty", 0), ("mode", 1), ("owner", 2), ("foreign", 3), ("lacking", 4), ("other", 5)]
    {
        fixture.write(name, &noise(length as u64, length));
    }
    fixture.write("patched", &noise(7, usize::try_from(limit::PATCH_BYTES_MIN).unwrap() + 5));
    fixture.write("dir/deep/file", b"f");
    fixture.write("one", b"o");
    fixture.write("two", b"o");
    fixture.write("first", b"linked");
    std::fs::hard_link(src.join("first"), src.join("dir/second")).unwrap();
    symlink("where", src.join("symlink")).unwrap();
    node(&src.join("fifo"), FileType::Fifo, 0);
    drop(std::os::unix::net::UnixListener::bind(src.join("socket")).unwrap());
    if is_root() {
        node(&src.join("character"), FileType::CharacterDevice, 3);
        node(&src.join("block"), FileType::BlockDevice, 3);
    }
    for name in ["lacking", "dir", "patched"] {
        attribute(&src.join(name), "user.ours", b"ours");
    }
    chmod(&src.join("mode"), 0o4751);
    chmod(&src.join("dir"), 0o2750);
    chmod(&src, 0o751);
}

/// A copy of the source in which every entry has another state, with the times that tell that nothing changed.
fn altered(fixture: &Fixture) -> PathBuf {
    let (src, target) = (fixture.src(), fixture.dir.path().join("target"));
    std::fs::remove_dir_all(&target).ok();
    assert!(Command::new("cp").arg("-a").args([&src, &target]).status().unwrap().success());
    let replace = |name: &str, make: &dyn Fn(&Path)| {
        let path = target.join(name);
        std::fs::remove_file(&path).unwrap();
        make(&path);
        timed(&path, &src.join(name).symlink_metadata().unwrap());
    };
    replace("symlink", &|path| symlink("elsewhere", path).unwrap());
    replace("dir/second", &|path| std::fs::write(path, b"linked").unwrap());
    replace("two", &|path| std::fs::hard_link(target.join("one"), path).unwrap());
    if is_root() {
        replace("character", &|path| node(path, FileType::CharacterDevice, 5));
        replace("block", &|path| node(path, FileType::BlockDevice, 5));
        std::os::unix::fs::lchown(target.join("owner"), Some(12_345), Some(54_321)).unwrap();
        std::os::unix::fs::lchown(target.join("dir/deep"), Some(12_345), None).unwrap();
    }
    for name in ["mode", "fifo", "socket", "dir", "dir/deep/file"] {
        chmod(&target.join(name), 0o604);
    }
    for name in ["foreign", "dir/deep", "patched", ""] {
        attribute(&target.join(name), "user.theirs", b"theirs");
    }
    rustix::fs::removexattr(target.join("lacking"), "user.ours").unwrap();
    attribute(&target.join("patched"), "user.ours", b"not ours");
    let other = std::fs::metadata(src.join("other")).unwrap();
    std::fs::write(target.join("other"), b"a longer one").unwrap();
    timed(&target.join("other"), &other);
    chmod(&target.join("dir"), 0o705);
    for name in ["dir/deep", "dir", ""] {
        timed(&target.join(name), &src.join(name).symlink_metadata().unwrap());
    }
    target
}

fn restored(fixture: &Fixture, done: &BackupResult, options: &RestoreOptions) -> RestoreResult {
    let monitor = Monitor::default();
    let result = restore(&fixture.vault, &fixture.snapshot(done), options, None, &monitor).unwrap();
    assert_eq!((monitor.problems().1, result.failed), (vec![], 0));
    result
}

/// A symlink's target, a device's number, mode and owner of a file with the right content, and foreign attributes stayed.
#[test]
fn after_always_and_if_changed_the_target_is_the_snapshot() {
    watched(|| {
        let fixture = Fixture::new();
        source(&fixture);
        let done = fixture.backup();
        for overwrite in [Overwrite::IfChanged, Overwrite::Always] {
            let target = altered(&fixture);
            let options =
                RestoreOptions { overwrite, target_metadata: true, ..fixture.restore_options(&target) };
            let told = restored(&fixture, &done, &RestoreOptions { dry_run: true, ..options.clone() });
            restored(&fixture, &done, &options);
            assert_same(&fixture.src(), &target);
            if overwrite == Overwrite::IfChanged {
                let mut dressed: Vec<_> = told
                    .changes
                    .iter()
                    .filter(|change| change.action == RestoreAction::Dress)
                    .map(|change| change.path.to_str().unwrap())
                    .collect();
                dressed.sort_unstable();
                let owner = is_root().then_some("owner");
                let mut expected =
                    vec![".", "dir", "dir/deep", "dir/deep/file", "foreign", "lacking", "mode", "patched"];
                expected.extend(owner);
                expected.sort_unstable();
                assert_eq!(dressed, expected);
                // What is the snapshot's already is left alone.
                let inode = |name: &str| target.join(name).symlink_metadata().unwrap().ino();
                let before = ["symlink", "fifo", "foreign", "first"].map(inode);
                let again = restored(&fixture, &done, &options);
                assert_eq!((again.files, again.others, again.overwritten), (0, 0, 0));
                assert_eq!(before, ["symlink", "fifo", "foreign", "first"].map(inode));
                assert_same(&fixture.src(), &target);
            }
        }
    });
}

/// Directories that were there were given mode, owner and times all the same, and a dry run did not tell.
#[test]
fn with_never_nothing_that_is_there_changes() {
    watched(|| {
        let fixture = Fixture::new();
        source(&fixture);
        let done = fixture.backup();
        let target = altered(&fixture);
        let before = tree_of(&target);
        restored(&fixture, &done, &fixture.restore_options(&target));
        assert_eq!(tree_of(&target), before);
        // What is new has what the snapshot says, and so has what a restore that died had begun.
        std::fs::remove_dir_all(target.join("dir/deep")).unwrap();
        restored(&fixture, &done, &fixture.restore_options(&target));
        assert_same(&fixture.src().join("dir/deep"), &target.join("dir/deep"));
        let fresh = fixture.dir.path().join("fresh");
        std::fs::create_dir_all(fresh.join("dir/deep")).unwrap();
        ["", "dir", "dir/deep"].iter().for_each(|name| chmod(&fresh.join(name), 0o1700));
        restored(&fixture, &done, &fixture.restore_options(&fresh));
        assert_same(&fixture.src(), &fresh);
    });
}

/// `restore latest:/root --target /tmp` made /tmp root's own.
#[test]
fn the_target_itself_keeps_its_metadata_unless_that_is_asked_for() {
    watched(|| {
        let fixture = Fixture::new();
        source(&fixture);
        let done = fixture.backup();
        for overwrite in RULES {
            let target = fixture.dir.path().join(format!("shared {overwrite:?}"));
            std::fs::create_dir(&target).unwrap();
            chmod(&target, 0o1777);
            attribute(&target, "user.theirs", b"theirs");
            let options = RestoreOptions { overwrite, ..fixture.restore_options(&target) };
            restored(&fixture, &done, &options);
            let there = tree_of(&target).remove(Path::new("")).unwrap();
            assert_eq!(target.metadata().unwrap().mode() & 0o7777, 0o1777, "{overwrite:?}: {there:?}");
            let mut value = [0; 16];
            assert_eq!(rustix::fs::getxattr(&target, "user.theirs", &mut value[..]), Ok(6), "{overwrite:?}");
            restored(&fixture, &done, &RestoreOptions { target_metadata: true, ..options });
            assert_same(&fixture.src(), &target);
        }
    });
}
