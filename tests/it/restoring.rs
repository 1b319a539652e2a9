//! `restore`: what it takes, replaces, deletes and refuses, its exit codes, and how it goes on after it was stopped.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use super::node::{Node, Output, text, under, until};
use super::tree::{self, assert_same};

/// A node with one snapshot of a source that has a bit of everything.
fn backed_up() -> (Node, PathBuf) {
    let node = Node::init();
    let source = node.path("source");
    tree::odd(&source);
    tree::plain(&source.join("files"), 1, 20, 5000);
    node.backup(&source);
    (node, source)
}

fn restore(node: &Node, source: &Path, target: &Path, more: &[&str]) -> Output {
    let reference = format!("latest:{}", text(source));
    let mut arguments = vec!["restore", &reference, "--target", text(target)];
    arguments.extend(more);
    node.run(&arguments)
}

/// Names of temporaries anywhere below a directory.
fn temporaries(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path());
            } else if entry.file_name().to_string_lossy().starts_with(".shadowvault-") {
                found.push(entry.path());
            }
        }
    }
    found
}

#[test]
fn patterns_take_parts_of_a_snapshot() {
    let (node, source) = backed_up();
    let target = node.path("part");
    let done =
        restore(&node, &source, &target, &["--include", "/files/", "--exclude", "file-1*"]).exits(0).json();
    assert_eq!(done["files_restored"], 9, "{done}");
    assert_eq!(fs::read_dir(&target).unwrap().count(), 1);
    assert_eq!(
        fs::read(target.join("files/file-7")).unwrap(),
        fs::read(source.join("files/file-7")).unwrap()
    );
    let failure = restore(&node, &source, &node.path("bad"), &["--include", "[a"]).exits(2).failure();
    assert_eq!(failure["code"], "USAGE_INVALID");
    assert!(!node.path("bad").exists());
}

#[test]
fn a_dry_run_makes_nothing_and_tells_what_a_restore_does() {
    let (node, source) = backed_up();
    let target = node.path("target");
    let told = restore(&node, &source, &target, &["--dry-run"]).exits(0).json();
    assert!(!target.exists());
    let done = restore(&node, &source, &target, &[]).exits(0).json();
    for count in ["files_restored", "dirs_restored", "others_restored", "skipped", "deleted", "failed"] {
        assert_eq!(told[count], done[count], "{count}: {told} {done}");
    }
    fs::write(target.join("more"), b"mine").unwrap();
    fs::write(target.join("files/file-3"), b"mine").unwrap();
    let more = ["--delete", "--overwrite", "if-changed", "--target-metadata", "--dry-run"];
    let told = restore(&node, &source, &target, &more).exits(0).json();
    let changes = told["changes"].as_array().expect("a list");
    let has = |action: &str, path: &str| changes.iter().any(|c| c["action"] == action && c["path"] == path);
    assert!(has("delete", "more") && has("overwrite", "files/file-3") && has("skip", "text"), "{told}");
    assert!(target.join("more").exists());
    let done = restore(&node, &source, &target, &more[..4]).exits(0).json();
    assert_eq!((&done["deleted"], &done["changes"][0]["path"]), (&1.into(), &"more".into()), "{done}");
    assert_same(&source, &target);
}

/// `restore latest:/root --target /tmp` would have broken /tmp; below it, every directory that was there.
#[test]
fn a_shared_target_keeps_its_mode_and_so_does_what_is_in_it() {
    let (node, source) = backed_up();
    let target = node.path("shared");
    fs::create_dir_all(target.join("sub/deeper")).unwrap();
    let modes = [("", 0o1777), ("sub", 0o770), ("sub/deeper", 0o707)];
    for (name, mode) in modes {
        fs::set_permissions(target.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let mode = |name: &str| fs::metadata(target.join(name)).unwrap().permissions().mode() & 0o7777;
    restore(&node, &source, &target, &[]).exits(0);
    assert_eq!(modes.map(|(name, _)| (name, mode(name))), modes);
    let told = restore(&node, &source, &target, &["--overwrite", "if-changed", "--dry-run"]).exits(0).json();
    let changes = told["changes"].as_array().expect("a list");
    let dressed: Vec<_> = changes.iter().filter(|change| change["action"] == "metadata").collect();
    assert_eq!(dressed.len(), 2, "{told}");
    restore(&node, &source, &target, &["--overwrite", "if-changed"]).exits(0);
    assert_eq!((mode(""), mode("sub/deeper")), (0o1777, 0o2750));
    restore(&node, &source, &target, &["--overwrite", "always", "--target-metadata"]).exits(0);
    assert_same(&source, &target);
}

#[test]
fn targets_that_would_do_harm_are_refused() {
    let (node, source) = backed_up();
    let before = node.packs();
    for target in [node.repo().to_owned(), node.repo().join("packs"), node.repo().join("new/deep")] {
        let failure = restore(&node, &source, &target, &["--delete"]).exits(2).failure();
        assert!(failure["message"].as_str().unwrap().contains("data directory"), "{failure}");
    }
    assert_eq!(node.packs(), before);
    fs::write(node.path("file"), b"mine").unwrap();
    let failure = restore(&node, &source, &node.path("file"), &[]).exits(2).failure();
    assert!(failure["message"].as_str().unwrap().contains("is not a directory"), "{failure}");
    let failure = restore(&node, &source, Path::new("/"), &["--delete"]).exits(2).failure();
    assert!(failure["hint"].as_str().unwrap().contains("--yes"), "{failure}");
}

#[test]
fn the_data_directory_stays_where_everything_unknown_goes() {
    let node = Node::bare();
    let target = node.path("target");
    let node = node.at(&target.join("keep/repo"));
    fs::create_dir_all(target.join("keep")).unwrap();
    node.run(&["init"]).exits(0);
    let source = node.path("source");
    tree::plain(&source, 1, 3, 1000);
    node.backup(&source);
    fs::write(target.join("keep/unknown"), b"x").unwrap();
    let done = restore(&node, &source, &target, &["--delete"]).exits(0).json();
    assert_eq!((&done["deleted"], &done["files_restored"]), (&1.into(), &3.into()), "{done}");
    assert!(!target.join("keep/unknown").exists());
    node.run(&["verify"]).exits(0);
}

#[test]
fn lost_data_and_unwritable_places_have_codes_of_their_own() {
    let (node, source) = backed_up();
    let target = node.path("target");
    fs::create_dir_all(target.join("text")).unwrap();
    // A directory stands where a file belongs.
    let output = restore(&node, &source, &target, &["--overwrite", "always"]).exits(3);
    assert_eq!((&output.failure()["code"], &output.json()["failed"]), (&"INCOMPLETE".into(), &1.into()));
    let length = |pack: &PathBuf| fs::metadata(pack).map_or(0, |there| there.len());
    let data = node.packs().into_iter().max_by_key(length).expect("a pack");
    fs::remove_file(data).unwrap();
    let output = restore(&node, &source, &node.path("other"), &[]).exits(5);
    assert_eq!(output.failure()["code"], "CHUNK_NOT_FOUND");
    let summary = output.json();
    assert!(summary["damaged"].as_u64() > Some(0) && summary["damaged"] == summary["failed"], "{summary}");
}

#[test]
fn a_restore_that_is_stopped_goes_on_where_it_was_and_leaves_nothing_behind() {
    let node = Node::init();
    let source = node.path("source");
    for dir in 0..30 {
        tree::plain(&source.join(dir.to_string()), dir, 30, 60_000);
    }
    fs::write(source.join("large"), tree::noise(77, 40_000_000)).unwrap();
    node.backup(&source);
    let reference = format!("latest:{}", text(&source));
    for (signal, code) in [(Signal::KILL, 137), (Signal::INT, 130)] {
        let target = node.path(&format!("target-{code}"));
        let mut command = node.command();
        command.args(["restore", &reference, "--target", text(&target)]);
        let mut child =
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts");
        until("something is restored", &[&node], || {
            let is_done = |entry: fs::DirEntry| entry.file_name().to_string_lossy().starts_with("file");
            let some = fs::read_dir(target.join("0")).is_ok_and(|dir| dir.flatten().any(is_done));
            (some || child.try_wait().is_ok_and(|ended| ended.is_some())).then_some(())
        });
        kill_process(Pid::from_child(&child), signal).ok();
        let status = child.wait().expect("a child can be waited for");
        let ended = status.code().unwrap_or(137);
        assert!(ended == code || ended == 0, "{status:?}");
        if signal == Signal::INT {
            assert!(temporaries(&target).is_empty());
        }
        let done = restore(&node, &source, &target, &[]).exits(0).json();
        let counts = ["files_restored", "skipped"].map(|name| done[name].as_u64().expect("a number"));
        assert_eq!(counts.iter().sum::<u64>(), 901, "{done}");
        assert!(counts[1] > 0, "what was there is not written again: {done}");
        assert!(temporaries(&target).is_empty());
        assert_same(&source, &target);
    }
}

/// The first one made its directories as they were, and the second failed for every file in them.
#[test]
fn an_owner_restores_again_into_directories_that_it_may_not_write_in() {
    let node = Node::init();
    let (source, target) = (node.path("source"), node.path("target"));
    tree::plain(&source.join("locked/deeper"), 1, 3, 5000);
    let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let lock = |base: &Path| ["locked/deeper", "locked"].map(|name| set(&base.join(name), 0o555));
    lock(&source);
    node.backup(&source);
    let reference = format!("latest:{}", text(&source));
    // Root without the right to pass over modes is an ordinary owner.
    let words = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--"];
    let again = |more: &[&str], exit: i32| {
        let mut command = node.command();
        command.args(["--json", "restore", &reference, "--target", text(&target)]).args(more);
        node.finish(&mut under(&words, command)).exits(exit)
    };
    again(&[], 0);
    for (rule, left) in [("always", "file-0"), ("if-changed", "file-1"), ("never", "file-2")] {
        set(&target.join("locked/deeper"), 0o755);
        fs::remove_file(target.join("locked/deeper").join(left)).unwrap();
        lock(&target);
        again(&["--overwrite", rule], 0);
        assert!(target.join("locked/deeper").join(left).exists(), "{rule}");
        if rule != "never" {
            assert_same(&source, &target);
        }
    }
    // What is not in the snapshot's state keeps the mode that it has.
    set(&target.join("locked/deeper"), 0o1455);
    again(&["--overwrite", "never"], 0);
    let mode = |name: &str| fs::metadata(target.join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("locked"), mode("locked/deeper")), (0o555, 0o1455));
}

#[test]
fn patterns_that_match_nothing_are_named() {
    let (node, source) = backed_up();
    for more in [&["--include", "/fils/"][..], &["--include", "/fils/", "--dry-run"]] {
        let failure = restore(&node, &source, &node.path("none"), more).exits(3).failure();
        assert_eq!(failure["code"], "INCOMPLETE");
        assert!(failure["message"].as_str().unwrap().contains("--include"), "{failure}");
    }
    // What is there already matches as well.
    for _ in 0..2 {
        restore(&node, &source, &node.path("some"), &["--include", "/files/file-1"]).exits(0);
    }
}
