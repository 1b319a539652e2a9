//! Recurring tasks with the real program. When exactly things are due is tested on a virtual clock beside the code.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::node::{Node, text, until};
use super::tree;

/// A node with a small source, and a configuration in which `SOURCE` and `HOME` stand for its paths.
fn node(configuration: &str) -> Node {
    let node = Node::init();
    tree::plain(&node.path("source"), 1, 3, 1000);
    configure(&node, configuration);
    node
}

fn configure(node: &Node, configuration: &str) {
    let home = node.path("");
    let filled = configuration
        .replace("SOURCE", text(&node.path("source")))
        .replace("HOME", text(&home).trim_end_matches('/'));
    fs::write(node.path("config/shadowvault/config.yaml"), filled).expect("the configuration is ours");
}

/// A shell script that can be run; its path.
fn script(node: &Node, name: &str, content: &str) -> PathBuf {
    let path = node.path(name);
    fs::write(&path, format!("#!/bin/sh\n{content}\n")).expect("room for it");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
    path
}

fn task(node: &Node, id: &str) -> Value {
    let all = node.run(&["schedule", "list"]).exits(0).json();
    let found = all.as_array().expect("a list").iter().find(|task| task["id"] == id).cloned();
    found.unwrap_or_else(|| panic!("no task {id} in {all}"))
}

/// Waits until a task has run; how it ended.
fn ran(node: &Node, id: &str) -> Value {
    until("the task has run", &[node], || {
        let task = task(node, id);
        (task["running"] == false && !task["last"].is_null()).then(|| task["last"].clone())
    })
}

fn exists(node: &Node, path: &Path) {
    until("a file appears", &[node], || path.exists().then_some(()));
}

#[test]
fn a_backup_set_runs_at_once_with_its_tags_patterns_and_hooks() {
    let mut node = node(
        "backup_sets:\n  - id: docs\n    paths: [SOURCE]\n    exclude: ['*.tmp', '/skip/']\n    tags: [nightly]\n    every: 24h\n    \
         hooks: { before: [HOME/hook], success: [HOME/hook], after: [HOME/hook], failure: [HOME/hook] }\n",
    );
    fs::write(node.path("source/a.tmp"), "x").unwrap();
    tree::plain(&node.path("source/skip"), 2, 2, 100);
    let log = node.path("hooks.log");
    let line = "echo \"$SHADOWVAULT_HOOK $SHADOWVAULT_SET ${SHADOWVAULT_SNAPSHOT_ID:-none}\" >> HOME/hooks.log\n\
                env | grep -q -e PASSPHRASE -e 'correct horse' && echo SECRET >> HOME/hooks.log; true";
    script(&node, "hook", &line.replace("HOME", text(&node.path("")).trim_end_matches('/')));
    let mut node = {
        node.start();
        node
    };
    assert_eq!(ran(&node, "docs")["success"], true, "{}", node.log_text());
    let snapshot = &node.snapshots()[0];
    assert_eq!(snapshot["tags"], json!(["nightly"]));
    let id = snapshot["id"].as_str().unwrap();
    let listed = node.run(&["ls", "-R", id]).exits(0).stdout;
    assert!(listed.contains("file-1") && !listed.contains("a.tmp") && !listed.contains("skip"), "{listed}");
    let said = fs::read_to_string(&log).unwrap();
    assert_eq!(said, format!("before docs none\nsuccess docs {id}\nafter docs {id}\n"));

    // It waits for its time now, over a restart too.
    assert_eq!(node.terminate().0, 0);
    node.start();
    assert_eq!(node.snapshots().len(), 1);
    let next = task(&node, "docs")["next"].as_str().expect("a time").to_owned();
    assert!(*next > *task(&node, "docs")["last"]["began"].as_str().unwrap());
    // By hand it runs whenever one likes, in the daemon or at once.
    node.run(&["schedule", "run", "docs"]).exits(0);
    until("it has run again", &[&node], || (node.snapshots().len() == 2).then_some(()));
    node.run(&["backup", "--set", "docs", "--tag", "more"]).exits(0);
    assert_eq!(node.snapshots()[2]["tags"], json!(["more", "nightly"]));
    let refused = node.run(&["backup", "--set", "dogs"]).exits(2);
    assert!(refused.stderr.contains("docs"), "{refused:?}");
}

#[test]
fn a_hook_that_fails_or_is_missing_stops_the_backup_and_somebody_is_told() {
    let mut node = node(
        "backup_sets:\n  - { id: docs, paths: [SOURCE], every: 24h, hooks: { before: [HOME/before], failure: [HOME/failure], after: [HOME/after] } }\n\
         notify: { command: [HOME/notify] }\n",
    );
    let home = text(&node.path("")).trim_end_matches('/').to_owned();
    script(&node, "before", "echo 'the database is down' >&2; exit 3");
    script(&node, "failure", &format!("echo $SHADOWVAULT_CODE > {home}/failed"));
    script(&node, "after", &format!("touch {home}/afterwards"));
    script(&node, "notify", &format!("cat > {home}/notice.new; mv {home}/notice.new {home}/notice"));
    node.start();
    let last = ran(&node, "docs");
    assert_eq!((&last["success"], &last["code"]), (&false.into(), &"HOOK_FAILED".into()), "{last}");
    assert!(last["message"].as_str().unwrap().contains("the database is down"), "{last}");
    assert!(node.snapshots().is_empty());
    exists(&node, &node.path("notice"));
    assert_eq!(fs::read_to_string(node.path("failed")).unwrap().trim(), "HOOK_FAILED");
    assert!(node.path("afterwards").exists());
    let notice: Value = serde_json::from_slice(&fs::read(node.path("notice")).unwrap()).unwrap();
    assert_eq!((&notice["task"], &notice["event"]), (&"docs".into(), &"failure".into()), "{notice}");
    assert!(!notice.to_string().contains(&home), "no path: {notice}");
    let status = node.status();
    assert!(status["problems"].to_string().contains("docs"), "{status}");

    fs::remove_file(node.path("before")).unwrap();
    fs::remove_file(node.path("notice")).unwrap();
    node.run(&["schedule", "run", "docs"]).exits(0);
    exists(&node, &node.path("notice"));
    assert!(ran(&node, "docs")["message"].as_str().unwrap().contains("cannot be started"));

    // It works again: told as well.
    script(&node, "before", "true");
    fs::remove_file(node.path("notice")).unwrap();
    node.run(&["schedule", "run", "docs"]).exits(0);
    exists(&node, &node.path("notice"));
    let notice: Value = serde_json::from_slice(&fs::read(node.path("notice")).unwrap()).unwrap();
    assert_eq!(notice["event"], "recovered", "{notice}");
}

#[test]
fn a_hook_that_hangs_does_not_keep_the_node_from_stopping() {
    let mut node = node(
        "backup_sets:\n  - { id: docs, paths: [SOURCE], every: 24h, hooks: { before: [HOME/before] } }\n",
    );
    let home = text(&node.path("")).trim_end_matches('/').to_owned();
    script(&node, "before", &format!("touch {home}/begun; sleep 600 & wait"));
    node.start();
    exists(&node, &node.path("begun"));
    let (code, took) = node.terminate();
    assert_eq!(code, 0, "{}", node.log_text());
    assert!(took.as_secs() < 10, "{took:?}");
}

#[test]
fn tasks_are_added_and_changed_with_and_without_a_daemon() {
    let mut node = node("");
    let source = node.path("source");
    let add = ["schedule", "add", "mine", text(&source), "--every", "12h", "--retries", "1"];
    assert_eq!(node.run(&add).exits(0).json()["rhythm"], "every 12h");
    node.run(&["schedule", "disable", "mine"]).exits(0);
    node.run(&["schedule", "run", "mine"]).exits(13);
    node.start();
    assert_eq!(task(&node, "mine")["enabled"], false);
    assert!(node.snapshots().is_empty());
    let table: [(&[&str], i32, &str); 8] = [
        (&["add", "mine", "/x", "--every", "1h"], 2, "already"),
        (&["add", "b", "/x", "--cron", "0 0 30 2 *"], 2, "never fires"),
        (&["add", "b", "/x", "--cron", "a b"], 2, "cron"),
        (&["add", "b", "/x", "--every", "10s"], 2, "too often"),
        (&["add", "b", "/x"], 2, "--every"),
        (&["add", "b", "--every", "1h"], 2, "PATHS"),
        (&["remove", "scrub"], 2, "configuration"),
        (&["enable", "nothing"], 1, "no task"),
    ];
    for (arguments, code, said) in table {
        let mut all = vec!["schedule"];
        all.extend(arguments);
        let refused = node.run(&all).exits(code);
        assert!(refused.stderr.contains(said), "{arguments:?}: {refused:?}");
    }
    node.run(&["schedule", "add", "check", "--verify", "--cron", "0 3 * * 0"]).exits(0);
    node.run(&["schedule", "run", "check"]).exits(0);
    assert_eq!(ran(&node, "check")["success"], true);
    node.run(&["schedule", "enable", "mine"]).exits(0);
    node.run(&["schedule", "run", "mine"]).exits(0);
    ran(&node, "mine");
    assert_eq!(node.snapshots()[0]["tags"], json!(["mine"]));
    node.run(&["schedule", "remove", "mine"]).exits(0);
    assert_eq!(node.terminate().0, 0);
    node.start();
    let ids: Vec<String> = node
        .run(&["schedule"])
        .exits(0)
        .json()
        .as_array()
        .unwrap()
        .iter()
        .map(|task| task["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids, ["check", "drill", "gc", "scrub"]);
}

#[test]
fn downtime_is_made_up_for_once_and_a_reload_brings_new_tasks() {
    let mut node =
        node("scheduler: { enable_auto_backup: true, backup_paths: [SOURCE], backup_interval: 24h }\n");
    node.start();
    ran(&node, "auto");
    assert_eq!(node.terminate().0, 0);
    // As if it had been down for a month.
    let mut saved = node.state("schedule.json");
    let anchor = &mut saved["tasks"]["auto"]["timing"]["anchor"];
    *anchor = json!(anchor.as_u64().expect("milliseconds") - 30 * 86_400_000);
    node.put_state("schedule.json", &saved.to_string());
    node.start();
    until("it is made up for", &[&node], || (node.snapshots().len() == 2).then_some(()));
    ran(&node, "auto");
    configure(&node, "backup_sets:\n  - { id: docs, paths: [SOURCE], tags: [set], every: 24h }\n");
    node.run(&["config", "reload"]).exits(0);
    ran(&node, "docs");
    assert_eq!(node.snapshots().len(), 3, "once for the month, once for the new set");
    let tasks = node.run(&["schedule"]).exits(0).json();
    assert!(!tasks.to_string().contains("auto"), "{tasks}");

    // A state file that cannot be read is left alone, and said to be so.
    assert_eq!(node.terminate().0, 0);
    node.put_state("schedule.json", "{ broken");
    node.start();
    node.run(&["schedule"]).exits(5);
    assert!(node.status()["problems"].to_string().contains("schedule.json"));
    for file in node.state_files("schedule.json") {
        assert_eq!(fs::read_to_string(file).unwrap(), "{ broken");
    }
}

/// No task was left, and nobody said so.
#[test]
fn a_lost_or_damaged_state_file_takes_no_task_away() {
    let mut node = node("backup_sets:\n  - { id: docs, paths: [SOURCE], every: 24h }\n");
    let source = node.path("source");
    for damage in 0..3 {
        node.start();
        let name = format!("added-{damage}");
        node.run(&["schedule", "add", &name, text(&source), "--every", "24h"]).exits(0);
        assert_eq!(node.terminate().0, 0);
        let [file, copy] = node.state_files("schedule.json");
        match damage {
            0 => fs::remove_file(&file).unwrap(),
            1 => {
                // Another name for a task, were it believed.
                let bytes = fs::read_to_string(&file).unwrap().replace("added-1", "addad-1");
                fs::write(&file, bytes).unwrap();
            }
            _ => fs::write(&copy, "").unwrap(),
        }
        node.start();
        let tasks = node.run(&["schedule"]).exits(0).json().to_string();
        assert!(tasks.contains(&name), "{tasks}");
        assert_eq!(fs::read(&file).unwrap(), fs::read(&copy).unwrap());
        assert_eq!(node.terminate().0, 0);
    }
}

#[test]
fn a_locked_vault_is_reported_and_its_tasks_run_once_it_is_open() {
    let mut node = node("backup_sets:\n  - { id: docs, paths: [SOURCE], every: 24h }\n");
    let passphrase = node.path("passphrase");
    node.start_locked();
    assert_eq!(ran(&node, "docs")["code"], "VAULT_LOCKED");
    node.run(&["unlock", "--passphrase-file", text(&passphrase)]).exits(0);
    until("it ran", &[&node], || (node.snapshots().len() == 1).then_some(()));
}
