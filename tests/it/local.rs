//! One node alone: backup, listing, restore, verification, and the shapes of what it says.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::node::{Node, text};
use super::tree::{self, assert_same};

/// Restores `reference` into a new directory of the node's home; that directory.
fn restore(node: &Node, reference: &str, name: &str) -> std::path::PathBuf {
    let target = node.path(name);
    node.run(&["restore", reference, "--target", text(&target)]).exits(0);
    target
}

/// A reference to a directory of a snapshot.
fn within(reference: &str, path: &Path) -> String {
    format!("{reference}:{}", text(path))
}

#[test]
fn what_was_backed_up_comes_back_exactly() {
    let node = Node::init();
    let source = node.path("source");
    tree::odd(&source);
    let done = node.run(&["backup", text(&source), "--tag", "first"]).exits(0).json();
    assert_eq!((&done["files_new"], &done["unreadable"]), (&9.into(), &0.into()), "{done}");
    let contents = restore(&node, &within("latest", &source), "contents");
    assert_same(&source, &contents);
    // Without a path the backed-up ones keep their absolute layout below the target.
    let whole = restore(&node, "latest", "whole");
    assert_same(&source, &whole.join(source.strip_prefix("/").unwrap()));
    node.run(&["verify"]).exits(0);
}

#[test]
fn an_unchanged_source_is_not_stored_again_and_older_snapshots_stay() {
    let node = Node::init();
    let source = node.path("source");
    tree::plain(&source, 1, 5, 200_000);
    let first = node.backup(&source);
    let again = node.run(&["backup", text(&source)]).exits(0).json();
    assert_eq!((&again["files_unmodified"], &again["files_new"]), (&5.into(), &0.into()), "{again}");
    // At most the directories above the source, whose times change with every file beside it.
    assert!(again["data_added"].as_u64().unwrap() < 4096, "{again}");
    let before = node.path("before");
    assert!(std::process::Command::new("cp").arg("-a").args([&source, &before]).status().unwrap().success());
    fs::write(source.join("file-0"), b"changed").unwrap();
    fs::remove_file(source.join("file-1")).unwrap();
    fs::write(source.join("new"), b"new").unwrap();
    let third = node.run(&["backup", text(&source)]).exits(0).json();
    let counts = ["files_new", "files_changed", "files_unmodified"].map(|name| third[name].as_u64().unwrap());
    assert_eq!(counts, [1, 1, 3], "{third}");

    let listed = node.snapshots();
    assert_eq!(listed.len(), 3);
    assert_eq!(listed[0]["id"], first.as_str());
    assert_eq!(listed[1]["parent"], first.as_str());
    assert_same(&source, &restore(&node, &within("latest", &source), "r0"));
    assert_same(&before, &restore(&node, &within("latest~2", &source), "r2"));
    assert_same(&before, &restore(&node, &within(&first[..12], &source), "rp"));
    let file = restore(&node, &within("latest", &source.join("new")), "rf");
    assert_eq!(fs::read(file.join("new")).unwrap(), b"new");
}

#[test]
fn several_paths_share_one_snapshot_and_relative_ones_are_made_absolute() {
    let node = Node::init();
    let (one, two) = (node.path("one"), node.path("two"));
    tree::plain(&one, 1, 1, 1000);
    tree::plain(&two, 2, 1, 1000);
    let mut command = node.command();
    command.args(["--json", "backup", "./one", "two/../two"]).current_dir(node.path(""));
    node.finish(&mut command).exits(0);
    let paths: Vec<String> = serde_json::from_value(node.snapshots()[0]["paths"].clone()).unwrap();
    assert_eq!(paths, [text(&one), text(&two)]);
    let mut command = node.command();
    command.args(["restore", "latest", "--target", "out"]).current_dir(node.path(""));
    node.finish(&mut command).exits(0);
    for source in [one, two] {
        assert_same(&source, &node.path("out").join(source.strip_prefix("/").unwrap()));
    }
}

#[test]
fn restore_overwrites_only_what_it_is_told_to() {
    let node = Node::init();
    let source = node.path("source");
    tree::plain(&source, 1, 2, 1000);
    node.backup(&source);
    let target = restore(&node, &within("latest", &source), "target");
    fs::write(target.join("file-0"), b"mine").unwrap();
    let reference = within("latest", &source);
    let done = node.run(&["restore", &reference, "--target", text(&target)]).exits(0).json();
    assert_eq!(done["files_restored"], 0, "{done}");
    assert_eq!(fs::read(target.join("file-0")).unwrap(), b"mine");
    let more = ["--overwrite", "if-changed", "--target-metadata"];
    node.run(&[&["restore", &reference, "--target", text(&target)][..], &more].concat()).exits(0);
    assert_same(&source, &target);
}

#[test]
fn an_unreadable_file_is_named_and_does_not_stop_a_backup() {
    let node = Node::init();
    let source = node.path("source");
    tree::plain(&source, 1, 2, 1000);
    // Mode 0200 for all but root, whom only the kernel's own write-only files refuse.
    let mut unreadable = text(&source.join("file-1")).to_owned();
    fs::set_permissions(&unreadable, std::os::unix::fs::PermissionsExt::from_mode(0o200)).unwrap();
    if fs::File::open(&unreadable).is_ok() {
        fs::set_permissions(&unreadable, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        "/sys/bus/platform/drivers_probe".clone_into(&mut unreadable);
    }
    if !Path::new(&unreadable).exists() || fs::File::open(&unreadable).is_ok() {
        eprintln!("skipped: every file can be read here");
        return;
    }
    let output = node.run(&["backup", text(&source), &unreadable]).exits(3);
    assert_eq!(output.failure()["code"], "INCOMPLETE");
    assert_eq!(output.json()["unreadable"], 1);
    let told = output.stdout.lines().any(|line| line.contains("\"error\"") && line.contains(&unreadable));
    assert!(told, "{output:?}");
    assert_eq!(node.snapshots()[0]["complete"], false);
    let target = restore(&node, &within("latest", &source), "target");
    assert_eq!(fs::read(target.join("file-0")).unwrap(), fs::read(source.join("file-0")).unwrap());
}

#[test]
fn json_has_the_shapes_of_the_contract() {
    let node = Node::init();
    let source = node.path("source");
    tree::plain(&source, 1, 3, 100_000);
    let has = |value: &Value, names: &[&str]| {
        for name in names {
            assert!(value.get(*name).is_some(), "no {name} in {value}");
        }
    };
    let backup = node.run(&["backup", text(&source), "--tag", "t", "--host", "h"]).exits(0);
    for line in backup.stdout.lines() {
        let line: Value = serde_json::from_str(line).expect("every line is JSON");
        let kind = line["message_type"].as_str().expect("every line has a message_type");
        assert!(["status", "error", "summary"].contains(&kind), "{line}");
        has(&line, &["job_id"]);
        if kind == "status" {
            has(&line, &["percent_done", "total_files", "files_done", "total_bytes", "bytes_done"]);
        }
    }
    let summary = backup.json();
    assert_eq!(summary["message_type"], "summary");
    has(
        &summary,
        &["files_new", "files_changed", "files_unmodified", "dirs_new", "data_added", "data_added_packed"],
    );
    has(&summary, &["total_bytes_processed", "total_duration", "snapshot_id", "copies", "copies_wanted"]);

    let snapshot = &node.snapshots()[0];
    has(snapshot, &["id", "short_id", "time", "hostname", "paths", "tags", "parent", "files", "bytes"]);
    has(snapshot, &["copies", "copies_wanted", "complete"]);
    assert_eq!((&snapshot["hostname"], &snapshot["tags"][0]), (&"h".into(), &"t".into()));
    assert_eq!((&snapshot["files"], &snapshot["bytes"]), (&3.into(), &300_000.into()));
    for (query, number) in
        [(["--tag", "t"], 1), (["--tag", "u"], 0), (["--host", "h"], 1), (["--host", "x"], 0)]
    {
        let found = node.run(&["snapshots", query[0], query[1]]).exits(0).json();
        assert_eq!(found.as_array().map(Vec::len), Some(number), "{query:?}");
    }

    let entries = node.run(&["ls", &within("latest", &source), "-R"]).exits(0).json();
    let entries = entries.as_array().expect("a list");
    assert_eq!(entries.iter().filter(|entry| entry["type"] == "file").count(), 3);
    has(&entries[0], &["path", "type", "mode", "uid", "gid", "size", "mtime"]);

    let one = node.run(&["verify", "latest"]).exits(0).json();
    has(&one, &["snapshot_id", "total_chunks", "verified_chunks", "missing_chunks", "corrupted_chunks"]);
    assert_eq!((&one["signature_valid"], &one["success"]), (&true.into(), &true.into()));
    let all = node.run(&["verify"]).exits(0).json();
    has(&all, &["total_snapshots", "valid_snapshots", "invalid_snapshots", "health_percentage", "snapshots"]);

    let id = node.run(&["id"]).exits(0).json();
    has(&id, &["peer_id", "addresses", "vault_id"]);
    let down = node.run(&["status"]).exits(13);
    assert_eq!(down.json()["verdict"], "down");
    let failed = node.run(&["restore", "beef", "--target", "x"]).exits(1).failure();
    has(&failed, &["code", "exit", "message", "hint"]);
    assert_eq!(failed["code"], "SNAPSHOT_NOT_FOUND");
}

#[test]
fn a_vault_made_from_its_phrase_again_is_the_same_vault() {
    let (node, other) = (Node::init(), Node::bare());
    let made = other.run(&["init", "--from-phrase", text(&node.phrase())]).exits(0).json();
    let id = node.run(&["id"]).exits(0).json();
    assert_eq!(made["vault_id"], id["vault_id"]);
    assert_ne!(made["peer_id"], id["peer_id"]);
}
