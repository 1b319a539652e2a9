//! What a backup left out was there all the same: `restore --delete` does not touch it, and what could not be read whole is
//! told by every backup until it can.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{XattrFlags, setxattr};
use serde_json::Value;

use super::damage::Disk;
use super::node::{Node, Output, text};

const TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55";

fn put(base: &Path, files: &[(&str, &str)]) {
    for (path, content) in files {
        let path = base.join(path);
        fs::create_dir_all(path.parent().expect("below the base")).unwrap();
        fs::write(path, content).unwrap();
    }
}

/// The program without the right to read whatever root likes.
fn unprivileged(node: &Node, arguments: &[&str]) -> Output {
    if !rustix::process::geteuid().is_root() {
        return node.run(arguments);
    }
    let plain = node.command();
    let mut command = Command::new("setpriv");
    command.arg("--bounding-set=-dac_override,-dac_read_search").arg(plain.get_program());
    command.args(plain.get_args()).arg("--json").args(arguments).env_clear();
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.current_dir(node.path(""));
    node.finish(&mut command)
}

fn delete(node: &Node, source: &Path, more: &[&str]) -> Value {
    let reference = format!("latest:{}", text(source));
    let mut arguments = vec!["restore", &reference, "--target", text(source), "--delete"];
    arguments.extend(["--overwrite", "if-changed"]);
    arguments.extend(more);
    node.run(&arguments).exits(0).json()
}

/// Paths with an action, and the first reason given for each.
fn changes(summary: &Value, action: &str) -> Vec<(String, String)> {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = summary["changes"].as_array().expect("a list").iter();
    let mut some: Vec<_> = all
        .filter(|change| change["action"] == action)
        .map(|change| (word(&change["path"]), word(&change["reason"])))
        .collect();
    some.sort_unstable();
    some
}

/// Everything below a directory, relative to it.
fn names(base: &Path) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![base.to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).expect("a directory") {
            let entry = entry.expect("an entry");
            found.push(entry.path().strip_prefix(base).expect("below it").to_owned());
            if entry.file_type().expect("a type").is_dir() {
                open.push(entry.path());
            }
        }
    }
    found.sort_unstable();
    found
}

/// All of it was removed, and the restore ended with 0: a file system that the backup had stayed out of, what rules left out,
/// and the only copy of what it could not read.
#[test]
fn a_restore_that_deletes_leaves_what_the_backup_left_out() {
    let node = Node::init();
    let source = node.path("source");
    put(&source, &[("kept/a", "a"), ("kept/b.o", "object"), ("ignoring/.shadowvaultignore", "*.log\n")]);
    put(&source, &[("ignoring/a.log", "log"), ("ignoring/kept", "k"), ("cache/CACHEDIR.TAG", TAG)]);
    put(&source, &[("cache/content", "c"), ("marked/.nobackup", ""), ("marked/content", "m")]);
    put(&source, &[("large", &"x".repeat(5000)), ("closed/secret", "s"), ("secret", "the only copy")]);
    let disk = Disk::mount(source.join("disk"), "1m");
    if disk.is_some() {
        put(&source, &[("disk/theirs", "t"), ("disk/deep/theirs", "t")]);
    }
    let lock = |path: &str, mode| {
        fs::set_permissions(source.join(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    lock("secret", 0);
    lock("closed", 0);
    let mut arguments = vec!["backup", text(&source), "-x", "--exclude", "*.o", "--exclude-caches"];
    arguments.extend(["--exclude-if-present", ".nobackup", "--exclude-larger-than", "4000"]);
    unprivileged(&node, &arguments).exits(3);

    let before = names(&source);
    put(&source, &[("new", "n"), ("kept/new", "n"), ("ignoring/new", "n")]);
    let told = delete(&node, &source, &["--dry-run"]);
    let mut kept = vec!["cache/content", "ignoring/a.log", "kept/b.o", "large", "marked/content", "secret"];
    kept.push("closed/secret");
    if disk.is_some() {
        kept.extend(["disk/deep", "disk/theirs"]);
    }
    kept.sort_unstable();
    let tell =
        |summary: &Value| changes(summary, "keep").into_iter().map(|(path, _)| path).collect::<Vec<_>>();
    assert_eq!(tell(&told), kept, "{told}");
    assert!(changes(&told, "keep").iter().all(|(_, reason)| !reason.is_empty()), "{told}");
    let gone = ["ignoring/new", "kept/new", "new"];
    let deleted =
        |summary: &Value| changes(summary, "delete").into_iter().map(|(path, _)| path).collect::<Vec<_>>();
    assert_eq!(deleted(&told), gone, "{told}");
    assert_eq!(names(&source).len(), before.len() + gone.len());

    let done = delete(&node, &source, &[]);
    assert_eq!((tell(&done), deleted(&done)), (tell(&told), deleted(&told)));
    assert_eq!(done["kept"], kept.len(), "{done}");
    assert_eq!(names(&source), before);
    assert_eq!(fs::read(source.join("secret")).unwrap(), b"the only copy");
}

/// What is mounted in a target is not the snapshot's to delete, whatever that had under this name.
#[test]
fn what_is_mounted_in_a_target_stays_and_is_told() {
    let node = Node::init();
    let source = node.path("source");
    put(&source, &[("a", "a")]);
    node.backup(&source);
    let Some(_disk) = Disk::mount(source.join("old/disk"), "1m") else {
        eprintln!("skipped: mounting a small file system is not allowed here");
        return;
    };
    put(&source, &[("old/gone", "g"), ("old/disk/theirs", "t")]);
    let done = delete(&node, &source, &[]);
    assert_eq!(changes(&done, "keep").len(), 1, "{done}");
    assert_eq!(names(&source), ["a", "old", "old/disk", "old/disk/theirs"].map(PathBuf::from));
}

/// Run 2 took the file over as unchanged, without its attributes, and was complete.
#[test]
fn attributes_that_cannot_be_kept_are_told_by_every_backup() {
    let node = Node::init();
    let Some(disk) = Disk::mount(node.path("source"), "16m") else {
        eprintln!("skipped: mounting a small file system is not allowed here");
        return;
    };
    put(&disk.0, &[("many", "content"), ("plain", "p")]);
    let value = vec![b'v'; 60_000];
    for at in 10..40 {
        let name = format!("user.{at}");
        if setxattr(disk.0.join("many"), name, &value, XattrFlags::empty()).is_err() {
            eprintln!("skipped: a small file system has no large attributes here");
            return;
        }
    }
    for run in 0..3 {
        let done = node.run(&["backup", text(&disk.0)]).exits(3);
        assert!(done.stderr.contains("user.") || done.stdout.contains("user."), "run {run}: {done:?}");
        let listed = node.run(&["snapshots", "--latest", "1"]).exits(0).json();
        assert_eq!(listed[0]["complete"], false, "run {run}");
    }
    // What fits is kept.
    let reference = format!("latest:{}", text(&disk.0));
    let Some(target) = Disk::mount(node.path("target"), "16m") else { return };
    node.run(&["restore", &reference, "--target", text(&target.0)]).exits(0);
    let mut list = vec![0; 4096];
    let length = rustix::fs::listxattr(target.0.join("many"), &mut list[..]).unwrap();
    assert_eq!(list[..length].iter().filter(|byte| **byte == 0).count(), 17);

    for at in 10..40 {
        rustix::fs::removexattr(disk.0.join("many"), format!("user.{at}")).unwrap();
    }
    node.run(&["backup", text(&disk.0)]).exits(0);
}
