//! Ctrl-C: what is done is kept, the next run goes on from there, and the exit code tells which signal it was.

use std::fs;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::node::{Node, PATIENCE, text};
use super::running::{LARGE, at_work, begin, end, jobs, large};
use super::tree::{self, assert_same};

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("it is our child");
}

/// Waits with shorter pauses than [`super::node::until`]: most of the work is still to come when it returns.
fn as_soon_as(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Interrupts a backup when some packs are there, and lets the next one go on.
fn check_backup(node: &Node, daemon: bool, signal: Signal, exit: i32) {
    let source = node.path("source");
    large(&source, 21);
    let backup = begin(node, &["backup", text(&source)]);
    as_soon_as("some packs are there", || node.packs().len() >= 2);
    send(&backup, signal);
    let told = end(backup).exits(exit);
    assert_eq!(told.failure()["code"], "CANCELLED", "{told:?}");
    assert!(node.snapshots().is_empty(), "half a backup is no snapshot");
    if daemon {
        assert_eq!(jobs(node)[0]["state"], "cancelled", "the node goes on, the job does not");
    }
    node.run(&["verify"]).exits(0);
    let kept = node.pack_bytes();
    assert!(kept > 0 && kept < LARGE as u64, "{kept}");
    let done = node.run(&["backup", text(&source)]).exits(0).json();
    let added = done["data_added"].as_u64().expect("a number");
    // A quarter of what was kept may be padding.
    assert!(added + kept * 3 / 4 <= LARGE as u64, "{added} of {LARGE} again, though {kept} were kept");
    assert!(node.pack_bytes() < LARGE as u64 * 5 / 4, "nothing is stored twice: {}", node.pack_bytes());
    let target = node.path("target");
    let reference = format!("latest:{}", text(&source));
    node.run(&["restore", &reference, "--target", text(&target)]).exits(0);
    assert_same(&source, &target);
}

#[test]
fn a_backup_that_is_interrupted_keeps_what_it_sealed() {
    check_backup(&Node::init(), false, Signal::INT, 130);
}

#[test]
fn a_backup_of_the_daemon_ends_with_the_command_that_asked_for_it() {
    let mut node = Node::init();
    node.start();
    check_backup(&node, true, Signal::TERM, 143);
}

/// The files that are whole in `target`.
fn whole(target: &Path, each: usize) -> usize {
    let files = fs::read_dir(target).into_iter().flatten().flatten();
    let lengths = files.filter(|file| file.file_name().as_encoded_bytes().starts_with(b"file-"));
    lengths.filter(|file| file.metadata().is_ok_and(|there| there.len() == each as u64)).count()
}

#[test]
fn a_restore_that_is_interrupted_is_finished_by_the_next_one() {
    let node = Node::init();
    let (source, target) = (node.path("source"), node.path("target"));
    let (files, each) = (100, 3_000_000);
    tree::plain(&source, 22, files, each);
    node.backup(&source);
    let reference = format!("latest:{}", text(&source));
    let arguments = ["restore", &reference, "--target", text(&target)];
    let restore = begin(&node, &arguments);
    as_soon_as("the first file is there", || whole(&target, each) > 0);
    send(&restore, Signal::INT);
    let told = end(restore).exits(130);
    assert_eq!(told.failure()["code"], "CANCELLED", "{told:?}");
    let kept = whole(&target, each) as u64;
    let done = node.run(&arguments).exits(0).json();
    let restored = done["files_restored"].as_u64().expect("a number");
    assert!(restored > 0 && restored <= files - kept, "{restored} after {kept} of {files}");
    // Nothing else either: no half files under other names.
    assert_same(&source, &target);
}

#[test]
fn a_restore_of_the_daemon_is_cancelled_with_its_command() {
    let mut node = Node::init();
    node.start();
    let (source, target) = (node.path("source"), node.path("target"));
    large(&source, 23);
    node.backup(&source);
    let reference = format!("latest:{}", text(&source));
    let restore = begin(&node, &["restore", &reference, "--target", text(&target)]);
    at_work(&node, "restore");
    send(&restore, Signal::INT);
    end(restore).exits(130);
    assert_eq!(jobs(&node)[0]["state"], "cancelled");
    let left: Vec<_> = fs::read_dir(&target).expect("the target").flatten().map(|e| e.file_name()).collect();
    assert!(left.is_empty(), "half a file is no file: {left:?}");
}
