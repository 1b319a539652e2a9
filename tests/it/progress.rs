//! How far a job is: numbers that programs draw bars from.

use serde_json::{Value, json};

use super::node::{Node, text};
use super::running::large;
use super::socket::{get, start};
use super::tree;

const COUNTERS: [&str; 6] =
    ["percent_done", "bytes_done", "files_done", "total_bytes", "total_files", "seconds_elapsed"];

/// Asserts that no counter ever goes back and that parts are parts.
#[track_caller]
fn check_rising(seen: &[Value]) {
    for name in COUNTERS {
        let values: Vec<f64> = seen.iter().map(|one| one[name].as_f64().expect(name)).collect();
        let fall = values.windows(2).find(|pair| pair[0] > pair[1]);
        assert!(fall.is_none(), "{name} falls: {fall:?}");
        assert!(name != "percent_done" || values.iter().all(|part| (0.0..=1.0).contains(part)), "{values:?}");
    }
}

#[test]
fn status_lines_only_count_up_and_end_with_one_summary() {
    let node = Node::init();
    let source = node.path("source");
    large(&source, 25);
    for arguments in [["backup", text(&source)].as_slice(), &["restore", "latest", "--target", "out"]] {
        let output = node.run(arguments).exits(0);
        let lines: Vec<Value> =
            output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let (summary, before) = lines.split_last().expect("a summary");
        assert_eq!(summary["message_type"], "summary");
        assert!(!before.is_empty(), "{arguments:?} shows how far it is");
        assert!(before.iter().all(|line| line["message_type"] == "status"), "{before:?}");
        check_rising(before);
    }
}

/// The total of a backup grew while it walked: after many small files a large one took it back from 96 % to 13 %.
#[test]
fn a_large_file_after_many_small_ones_does_not_take_a_backup_back() {
    let mut node = Node::init();
    node.start();
    let source = node.path("source");
    tree::plain(&source.join("small"), 26, 5000, 1000);
    large(&source.join("then"), 27);
    let id = start(&node, "/api/v1/backup", &json!({ "paths": [&source] }));
    let mut seen: Vec<Value> = Vec::new();
    loop {
        let job = get(&node, &format!("/api/v1/jobs/{id}"));
        match job["state"].as_str() {
            Some("queued" | "running") => seen.push(job["progress"].clone()),
            Some("done") => break,
            _ => panic!("{job}"),
        }
    }
    check_rising(&seen);
    let part = |one: &Value| one["percent_done"].as_f64().is_some_and(|part| 0.0 < part && part < 1.0);
    assert!(seen.iter().any(part), "it shows how far it is: {:?}", seen.last());
    assert_eq!(seen.last().expect("it was seen at work")["total_files"], 5001);
}
