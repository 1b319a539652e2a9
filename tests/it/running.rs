//! A node that runs for long: jobs side by side, events, reload, and every way to stop.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};

use serde_json::Value;

use super::node::{Node, Output, pair, text, until};
use super::socket::get;
use super::tree::{self, assert_same};

/// Large enough that a signal comes while it is read.
pub const LARGE: usize = 300_000_000;

/// A command that runs while the test goes on.
pub fn begin(node: &Node, arguments: &[&str]) -> Child {
    let mut command = node.command();
    command.arg("--json").args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("the program starts")
}

pub fn end(child: Child) -> Output {
    let done = child.wait_with_output().expect("a child can be waited for");
    let read = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Output { code: done.status.code().unwrap_or(-1), stdout: read(&done.stdout), stderr: read(&done.stderr) }
}

/// A directory with one file that takes a while.
pub fn large(dir: &Path, seed: u64) {
    fs::create_dir_all(dir).expect("a directory of ours");
    fs::write(dir.join("large"), tree::noise(seed, LARGE)).expect("room for it");
}

pub fn jobs(node: &Node) -> Vec<Value> {
    node.run(&["jobs", "list"]).exits(0).json().as_array().expect("a list").clone()
}

/// Waits until a job of that kind is at work and has done something.
pub fn at_work(node: &Node, kind: &str) {
    until("a job is at work", &[node], || {
        let busy =
            |job: &Value| job["progress"]["bytes_done"].as_u64() > Some(0) && job["state"] == "running";
        jobs(node).into_iter().find(|job| job["kind"] == kind && busy(job))
    });
}

#[test]
fn a_backup_that_is_stopped_with_the_node_goes_on_at_the_next_start() {
    let mut node = Node::init();
    node.start();
    let source = node.path("source");
    large(&source, 7);
    let backup = begin(&node, &["backup", text(&source)]);
    at_work(&node, "backup");
    let (code, took) = node.terminate();
    assert_eq!(code, 0, "{}", node.log_text());
    assert!(took.as_secs() < 10, "{took:?}");
    let told = end(backup).exits(11);
    assert!(told.stderr.contains("SHUTTING_DOWN"), "{told:?}");
    assert!(node.log_text().contains("node has stopped"));
    let kept = node.pack_bytes();
    assert!(kept > 0, "what was sealed is packed");

    node.start();
    let past = &jobs(&node)[0];
    assert_eq!((&past["kind"], &past["state"]), (&"backup".into(), &"cancelled".into()), "{past}");
    node.run(&["verify"]).exits(0);
    let done = node.run(&["backup", text(&source)]).exits(0).json();
    let added = done["data_added"].as_u64().expect("a number");
    assert!(added + kept / 2 < LARGE as u64, "{added} of {LARGE} again, though {kept} were kept");
    let reference = format!("{}:{}", done["snapshot_id"].as_str().expect("an id"), text(&source));
    let target = node.path("target");
    let restore = begin(&node, &["restore", &reference, "--target", text(&target)]);
    at_work(&node, "restore");
    assert_eq!(node.terminate().0, 0, "{}", node.log_text());
    end(restore).exits(11);
    node.start();
    node.run(&["restore", &reference, "--target", text(&target)]).exits(0);
    assert_same(&source, &target);
}

#[test]
fn a_job_that_died_with_the_node_is_shown_as_interrupted() {
    let mut node = Node::init();
    node.start();
    let source = node.path("source");
    large(&source, 8);
    let backup = begin(&node, &["backup", text(&source)]);
    at_work(&node, "backup");
    node.kill();
    end(backup).exits(13);
    node.start();
    let past = jobs(&node);
    assert_eq!((past.len(), &past[0]["state"]), (1, &"interrupted".into()), "{past:?}");
    node.run(&["verify"]).exits(0);
    let small = node.path("small");
    tree::plain(&small, 1, 3, 1000);
    node.backup(&small);
    assert_eq!(jobs(&node)[0]["id"].as_u64(), Some(past[0]["id"].as_u64().unwrap() + 2), "verify, then this");
}

#[test]
fn backups_of_the_same_and_of_other_paths_run_side_by_side() {
    let mut node = Node::init();
    node.start();
    let sources = [node.path("a"), node.path("b")];
    sources.iter().zip(1..).for_each(|(source, seed)| tree::plain(source, seed, 40, 200_000));
    let running: Vec<Child> =
        [0, 1, 0, 1, 0].iter().map(|n| begin(&node, &["backup", text(&sources[*n])])).collect();
    let ids: Vec<String> = running
        .into_iter()
        .map(|child| end(child).exits(0).json()["snapshot_id"].as_str().expect("an id").to_owned())
        .collect();
    assert_eq!(node.snapshots().len(), 5);
    node.run(&["verify"]).exits(0);
    for (n, id) in ids.iter().enumerate() {
        let (source, target) = (&sources[n % 2], node.path(&format!("target-{n}")));
        node.run(&["restore", &format!("{id}:{}", text(source)), "--target", text(&target)]).exits(0);
        assert_same(source, &target);
    }
    // What none had finished may have been sealed by several; what is stored is not stored again.
    let stored = node.pack_bytes();
    node.backup(&sources[0]);
    assert!(node.pack_bytes() < stored + 300_000, "{} after {stored}", node.pack_bytes());
}

/// Events, one JSON object a line, until the stream ends or `count` have come.
fn events(node: &Node, since: Option<u64>, count: usize) -> Vec<Value> {
    let since = since.map(|id| id.to_string());
    let mut arguments = vec!["events"];
    arguments.extend(since.iter().flat_map(|id| ["--since", id]));
    let mut child = begin(node, &arguments);
    let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let events = lines.take(count).map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
    child.kill().ok();
    child.wait().ok();
    events
}

#[test]
fn events_can_be_followed_and_taken_up_again() {
    let mut node = Node::init();
    node.start();
    let source = node.path("source");
    tree::plain(&source, 1, 3, 1000);
    node.backup(&source);
    // From the beginning of time: a gap first, then everything that is remembered.
    let all = events(&node, Some(0), 6);
    let names: Vec<&str> = all.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(names[0], "gap", "{all:?}");
    let at =
        |name: &str| names.iter().position(|n| *n == name).unwrap_or_else(|| panic!("{name} in {names:?}"));
    assert!(at("job_queued") < at("job_started") && at("job_started") < at("snapshot_created"));
    assert!(at("snapshot_created") < at("job_ended"));
    assert_eq!((&all[5]["state"], &all[5]["kind"]), (&"done".into(), &"backup".into()));
    let seen = all[2]["id"].as_u64().unwrap();
    assert_eq!(events(&node, Some(seen), 3), all[3..]);

    // The stream ends with the node, and the last event says why.
    let last = all[5]["id"].as_u64().unwrap();
    let mut follower = begin(&node, &["events", "--since", &(last - 1).to_string()]);
    let mut lines = BufReader::new(follower.stdout.take().expect("a pipe")).lines();
    let first = lines.next().expect("an event").expect("text");
    assert!(first.contains("job_ended"), "{first}");
    assert_eq!(node.terminate().0, 0);
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    assert!(rest.last().is_some_and(|line| line.contains("shutting_down")), "{rest:?}");
    end(follower).exits(0);
    node.start();
    let resumed = events(&node, Some(last), 1);
    assert_eq!(resumed[0]["event"], "gap", "events of an earlier run are forgotten: {resumed:?}");
}

fn hang_up(node: &Node) {
    node.signal(rustix::process::Signal::HUP);
}

#[test]
fn a_reload_changes_what_can_change_and_a_bad_one_changes_nothing() {
    let mut node = Node::init();
    let file = node.path("config/shadowvault/config.yaml");
    let write = |text: &str| fs::write(&file, text).expect("the configuration is ours");
    write("replication: { copies: 3 }\n");
    node.start();
    // Past the command line, which reads the file as well.
    let wanted = |node: &Node| get(node, "/api/v1/status")["copies_wanted"].as_u64().expect("a number");
    assert_eq!(wanted(&node), 3);

    write("replication: { copies: 5 }\np2p: { max_peers: 7 }\n");
    let done = node.run(&["config", "reload"]).exits(0).json();
    assert_eq!(done["changed"], serde_json::json!(["replication.copies"]));
    assert_eq!(done["restart"], serde_json::json!(["p2p.max_peers"]));
    assert_eq!(wanted(&node), 5);

    write("replication: { copies: 6, lent: 1 }\n");
    let refused = node.run(&["config", "reload", "--socket", text(&node.socket())]).exits(16);
    assert!(refused.stderr.contains("lend") && refused.stderr.contains(":1:"), "{refused:?}");
    assert_eq!(wanted(&node), 5, "the old one stays in force");
    hang_up(&node);
    until("the log tells", &[&node], || node.log_text().contains("stays in force").then_some(()));

    write("replication: { copies: 4 }\nmonitoring: { log_filter: [\"jobs=off\"] }\n");
    hang_up(&node);
    until("the signal is followed", &[&node], || (wanted(&node) == 4).then_some(()));
    let source = node.path("source");
    tree::plain(&source, 1, 2, 100);
    let lines = |node: &Node| node.log_text().matches("\"target\":\"jobs\"").count();
    let before = lines(&node);
    node.backup(&source);
    assert_eq!(lines(&node), before, "no line of that target any more");
}

#[test]
fn chunks_are_cut_anew_after_a_reload_without_a_restart() {
    let mut node = Node::init();
    let file = node.path("config/shadowvault/config.yaml");
    let sizes = |average: u32| {
        format!("snapshot: {{ min_chunk_size: 4096, avg_chunk_size: {average}, max_chunk_size: 131072 }}\n")
    };
    fs::write(&file, sizes(65536)).expect("the configuration is ours");
    node.start();
    let source = node.path("source");
    fs::create_dir(&source).expect("a directory of ours");
    fs::write(source.join("file"), tree::noise(3, 4_000_000)).expect("room for it");
    let chunks = |node: &Node| node.status()["storage"]["chunks"].as_u64().expect("a number");
    node.backup(&source);
    let coarse = chunks(&node);
    fs::write(&file, sizes(8192)).expect("the configuration is ours");
    node.run(&["config", "reload"]).exits(0);
    node.run(&["backup", "--force", text(&source)]).exits(0);
    let fine = chunks(&node) - coarse;
    assert!(fine > 2 * coarse, "{fine} after {coarse}");
}

#[test]
fn a_node_stops_in_time_while_it_pulls_and_while_a_peer_hangs() {
    let (mut owner, mut holder) = (Node::init(), Node::storage_only("1GiB"));
    owner.start();
    holder.start();
    pair(&owner, &holder);
    let source = owner.path("source");
    large(&source, 9);
    owner.backup(&source);
    until("the holder has some packs", &[&owner, &holder], || (holder.packs().len() > 1).then_some(()));
    let (code, took) = holder.terminate();
    assert_eq!(code, 0, "{}", holder.log_text());
    assert!(took.as_secs() < 10, "{took:?}");
    assert!(holder.files("tmp/").is_empty(), "{:?}", holder.files("tmp/"));
    holder.start();
    until("copies grow again", &[&owner, &holder], || (holder.packs().len() > 3).then_some(()));

    // A peer that no longer answers, without closing its connections.
    holder.signal(rustix::process::Signal::STOP);
    let (code, took) = owner.terminate();
    assert_eq!(code, 0, "{}", owner.log_text());
    assert!(took.as_secs() < 10, "{took:?}");
    holder.signal(rustix::process::Signal::CONT);
    owner.start();
    owner.run(&["verify"]).exits(0);
    until("everything is copied in the end", &[&owner, &holder], || {
        (owner.snapshots()[0]["copies"] == 1).then_some(())
    });
    holder.run(&["verify"]).exits(0);
}

#[test]
fn a_peer_that_falls_silent_is_noticed_by_the_heartbeat() {
    let (mut one, mut other) =
        (Node::init().with("p2p.heartbeat_interval", "1s"), Node::storage_only("1GiB"));
    one.start();
    other.start();
    pair(&one, &other);
    let id = other.peer_id();
    other.signal(rustix::process::Signal::STOP);
    let began = std::time::Instant::now();
    until("it counts as gone", &[&one], || (one.peer(&id)?["connected"] == false).then_some(()));
    // By the default of 30 s it would still count as connected.
    assert!(began.elapsed().as_secs() < 25, "{:?}", began.elapsed());
    other.signal(rustix::process::Signal::CONT);
}

#[test]
fn no_path_shows_in_the_log_above_debug() {
    let mut node = Node::init();
    node.start();
    let source = node.path("a-telling-name");
    tree::plain(&source, 1, 3, 1000);
    fs::write(source.join("bro\nken\u{1b}[31m"), "x").expect("any name goes");
    // Unreadable to everyone who is not root; a missing one fails for all.
    node.backup(&source);
    node.run(&["backup", text(&source.join("absent"))]).exits(1);
    node.run(&["restore", "latest", "--target", text(&node.path("another-name"))]).exits(0);
    assert_ne!(node.terminate().0, -1);
    let log = node.log_text();
    for name in ["a-telling-name", "another-name", "absent", "ken"] {
        assert!(!log.contains(name), "{name} in\n{log}");
    }
    for line in log.lines() {
        let parsed: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(parsed["target"].is_string() && parsed["level"].is_string(), "{line}");
    }
    assert!(
        log.contains("\"span\":{\"id\":1,\"kind\":\"backup\",\"name\":\"job\"}"),
        "jobs have spans:\n{log}"
    );
}
