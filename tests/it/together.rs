//! Jobs of one daemon at the same time: none waits for another to end.

use std::time::Instant;

use serde_json::{Value, json};

use super::node::{Node, PATIENCE, text};
use super::socket::{get, start};
use super::tree::{self, assert_same};

/// Files of each tree, and bytes of each file: far more work than it takes to start four jobs.
const FILES: u64 = 30;
const FILE_BYTES: usize = 5_000_000;

fn is_final(job: &Value) -> bool {
    job["state"] != "queued" && job["state"] != "running"
}

fn has_progress(job: &Value) -> bool {
    job["state"] == "running" && job["progress"]["bytes_done"].as_u64() > Some(0)
}

/// Looks at the jobs until all have ended; how each ended, and whether it was seen at work while no other had ended.
fn watch(node: &Node, ids: &[u64]) -> Vec<(Value, bool)> {
    let mut seen = vec![false; ids.len()];
    let began = Instant::now();
    loop {
        let jobs: Vec<Value> = ids.iter().map(|id| get(node, &format!("/api/v1/jobs/{id}"))).collect();
        for (at, job) in jobs.iter().enumerate() {
            let others_go_on = jobs.iter().enumerate().all(|(other, job)| other == at || !is_final(job));
            seen[at] |= has_progress(job) && others_go_on;
        }
        if jobs.iter().all(is_final) {
            return jobs.into_iter().zip(seen).collect();
        }
        assert!(began.elapsed() < PATIENCE, "{jobs:?}\n{}", node.log_text());
    }
}

#[test]
fn two_backups_a_restore_and_a_verification_are_at_work_at_the_same_time() {
    let mut node = Node::init();
    node.start();
    let sources = [node.path("held"), node.path("one"), node.path("two")];
    sources.iter().zip(1..).for_each(|(source, seed)| tree::plain(source, seed, FILES, FILE_BYTES));
    let held = node.backup(&sources[0]);
    let target = node.path("target");
    let restore = json!({ "snapshot": format!("{held}:{}", text(&sources[0])), "target": &target });
    let ids = [
        start(&node, "/api/v1/backup", &json!({ "paths": [&sources[1]] })),
        start(&node, "/api/v1/backup", &json!({ "paths": [&sources[2]] })),
        start(&node, "/api/v1/restore", &restore),
        start(&node, "/api/v1/verify", &json!({})),
    ];
    let names = ["first backup", "second backup", "restore", "verification"];
    let mut waited = Vec::new();
    for ((job, at_work), name) in watch(&node, &ids).into_iter().zip(names) {
        assert_eq!(job["state"], "done", "{name}: {job}");
        assert!(job["error"].is_null(), "{name}: {job}");
        waited.extend((!at_work).then_some(name));
    }
    assert!(waited.is_empty(), "not at work before another job had ended: {waited:?}");
    assert_same(&sources[0], &target);
    assert_eq!(node.snapshots().len(), 3);
    node.run(&["verify"]).exits(0);
}
