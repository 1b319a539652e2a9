//! Sources that were full and are now empty: a file system that is not mounted looks like any directory.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::{Value, json};

use super::node::{Node, text};
use super::tree;

/// A node, with a snapshot of ten files.
fn node() -> (Node, String) {
    let node = Node::init();
    let source = node.path("source");
    tree::plain(&source, 1, 10, 100_000);
    let id = node.backup(&source);
    (node, id)
}

/// Leaves so many of the ten files.
fn leave(node: &Node, count: u32) {
    for number in count..10 {
        // Those that are gone already are well.
        fs::remove_file(node.path(&format!("source/file-{number}"))).ok();
    }
}

fn back_up(node: &Node, flags: &[&str], exit: i32) -> Value {
    let source = node.path("source");
    node.run(&[&["backup", text(&source)], flags].concat()).exits(exit).json()
}

/// A mount was missing for one night; the rules counted that backup and dropped the one with the files.
#[test]
fn an_empty_source_is_remarked_on_and_rules_do_not_drop_what_was_there() {
    let (node, full) = node();
    leave(&node, 0);
    let dry = back_up(&node, &["--dry-run"], 3);
    assert!(dry["warnings"][0].as_str().unwrap().contains("has 10"), "{dry}");
    // The night after, too.
    for _ in 0..2 {
        let done = back_up(&node, &[], 3);
        assert_eq!((&done["files_gone"], &done["files_before"]), (&json!(10), &json!(10)), "{done}");
        assert!(done["warnings"][0].as_str().unwrap().contains("no file"), "{done}");
    }
    let source = node.path("source");
    let shown = node.finish(node.command().args(["backup", text(&source)])).exits(3);
    assert!(shown.stderr.contains("no file") && shown.stderr.contains("mounted"), "{shown:?}");
    // They push nothing out, however few files there were.
    node.run(&["forget", "--keep-last", "1", "--yes"]).exits(0);
    assert!(node.snapshots().iter().any(|one| one["id"] == full.as_str()));

    // Who means it is asked once more before the last one with files goes.
    back_up(&node, &["--allow-empty"], 0);
    for rules in [&["--keep-last", "1"][..], &["--configured"]] {
        let node = Node::bare().at(node.repo()).with("retention.keep_last", "1");
        let forget = [&["forget"], rules].concat();
        let refused = node.run(&forget).exits(1);
        assert_eq!(refused.failure()["code"], "CONFIRMATION_NEEDED", "{refused:?}");
        assert!(node.snapshots().iter().any(|one| one["id"] == full.as_str()), "{refused:?}");
        let shown = node.run(&[&forget[..], &["--dry-run"]].concat()).exits(0).json();
        assert!(shown["forgotten"].to_string().contains(&full), "{shown}");
    }
    node.run(&["forget", "--keep-last", "1", "--yes"]).exits(0);
    assert_eq!(node.snapshots().len(), 1);
}

#[test]
fn who_wants_it_strict_is_told_by_the_exit_code_and_who_means_it_is_not_bothered() {
    let (node, _) = node();
    leave(&node, 4);
    let refused = node.run(&["backup", text(&node.path("source")), "--strict"]).exits(3);
    assert_eq!(refused.failure()["code"], "INCOMPLETE");
    assert!(refused.failure()["hint"].as_str().unwrap().contains("--allow-shrink"), "{refused:?}");
    assert!(refused.json()["snapshot_id"].is_string(), "the snapshot is made all the same: {refused:?}");
    // Now as before.
    assert_eq!(back_up(&node, &["--strict"], 0)["warnings"], json!([]));
    leave(&node, 1);
    back_up(&node, &["--strict", "--allow-empty"], 3);
    tree::plain(&node.path("source"), 1, 10, 100_000);
    assert_eq!(back_up(&node, &["--strict"], 0)["warnings"], json!([]));
    leave(&node, 1);
    assert_eq!(back_up(&node, &["--strict", "--allow-shrink"], 0)["warnings"], json!([]));
    leave(&node, 0);
    back_up(&node, &["--strict", "--allow-shrink"], 3);
    assert_eq!(back_up(&node, &["--strict", "--allow-empty"], 0)["warnings"], json!([]));
}

#[test]
fn a_set_with_fewer_files_than_it_asks_for_is_incomplete_and_an_event_tells_of_it() {
    let (mut node, _) = node();
    let sets = format!(
        "backup_sets:\n  - {{ id: docs, paths: [{}], every: 24h, min_files: 8 }}\n",
        text(&node.path("source"))
    );
    fs::write(node.path("config/shadowvault/config.yaml"), sets).unwrap();
    node.run(&["backup", "--set", "docs"]).exits(0);
    leave(&node, 7);
    let refused = node.run(&["backup", "--set", "docs"]).exits(3);
    assert!(refused.failure()["message"].as_str().unwrap().contains("only 7 files"), "{refused:?}");
    node.run(&["backup", "--set", "docs", "--allow-shrink"]).exits(0);
    leave(&node, 0);
    node.run(&["backup", "--set", "docs", "--allow-shrink"]).exits(3);

    node.start();
    back_up(&node, &[], 0);
    let mut follower = node.command();
    let mut follower = follower
        .args(["--json", "events", "--since", "0"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let lines = BufReader::new(follower.stdout.take().expect("a pipe")).lines();
    let events = lines.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    let told = events.take(100).find(|event| event["event"] == "source_shrank").expect("an event");
    follower.kill().ok();
    follower.wait().ok();
    assert_eq!((&told["files"], &told["files_before"]), (&json!(0), &json!(0)), "{told}");
}

/// A mount was missing for some nights, and each of those backups was as good as any to the rules.
#[test]
fn a_source_that_lost_nearly_all_is_incomplete_and_pushes_nothing_out() {
    let node = Node::init();
    let source = node.path("source");
    tree::plain(&source, 1, 30, 3000);
    let full = node.backup(&source);
    for number in 2..30 {
        fs::remove_file(source.join(format!("file-{number}"))).unwrap();
    }
    back_up(&node, &["--dry-run"], 3);
    // As long as it lasts, and not only once.
    for _ in 0..3 {
        let refused = node.run(&["backup", text(&source)]).exits(3);
        assert_eq!(refused.failure()["code"], "INCOMPLETE");
        assert!(refused.failure()["message"].as_str().unwrap().contains("28 of the 30 files"), "{refused:?}");
        assert!(refused.failure()["hint"].as_str().unwrap().contains("--allow-shrink"), "{refused:?}");
        let done = refused.json();
        assert_eq!((&done["files_gone"], &done["files_before"]), (&json!(28), &json!(30)), "{done}");
    }
    let ids = |node: &Node| -> Vec<String> {
        node.snapshots().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect()
    };
    let all = ids(&node);
    let shrunk: Vec<bool> =
        node.snapshots().iter().map(|one| one["shrunk"].as_bool().unwrap_or_default()).collect();
    assert_eq!(shrunk, [false, true, true, true]);
    let shown = node.finish(node.command().arg("snapshots")).exits(0).stdout;
    assert_eq!(shown.matches("(shrunk)").count(), 3, "{shown}");
    // By hand the last whole one is asked about, as the newest complete one always is.
    node.run(&["forget", &full]).exits(1);
    for rules in [&["--keep-last", "1"][..], &["--configured"]] {
        let node = Node::bare().at(node.repo()).with("retention.keep_last", "1");
        node.run(&[&["forget", "--yes"], rules].concat()).exits(0);
        assert_eq!(ids(&node), [full.clone(), all[3].clone()], "{rules:?}");
    }
    // Back again: everything is known, and nothing is said.
    tree::plain(&source, 1, 30, 3000);
    let done = back_up(&node, &[], 0);
    assert_eq!((&done["warnings"], &done["files_new"]), (&json!([]), &json!(0)), "{done}");

    // Who means it: once, or for a set.
    let leave_two =
        || (2..30).for_each(|number| drop(fs::remove_file(source.join(format!("file-{number}")))));
    let config = node.path("config/shadowvault/config.yaml");
    let set = format!("  - {{ id: docs, paths: [{}], every: 24h, allow_shrink: true }}\n", text(&source));
    fs::write(config, format!("backup_sets:\n{set}")).unwrap();
    leave_two();
    node.run(&["backup", "--set", "docs"]).exits(0);
    back_up(&node, &[], 0);
    tree::plain(&source, 1, 30, 3000);
    back_up(&node, &[], 0);
    leave_two();
    back_up(&node, &["--allow-shrink"], 0);
    assert!(node.snapshots().iter().rev().take(4).all(|one| one["shrunk"] == json!(false)));
}
