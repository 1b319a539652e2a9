//! `forget`, `pin` and `gc` with the real program, with and without the daemon.

use std::fs;

use serde_json::{Value, json};

use super::node::{Node, pair, text, until};
use super::tree;

/// A node with so many backups, in each of which one file is another; their ids, oldest first.
fn node_with(backups: u32) -> (Node, Vec<String>) {
    let node = Node::init();
    let ids = (0..backups).map(|round| back_up(&node, round)).collect();
    (node, ids)
}

fn back_up(node: &Node, round: u32) -> String {
    let source = node.path("source");
    fs::create_dir_all(&source).expect("room for it");
    fs::write(source.join("same"), tree::noise(1, 300_000)).expect("room for it");
    fs::write(source.join("other"), tree::noise(100 + u64::from(round), 3_000_000)).expect("room for it");
    node.backup(&source)
}

fn live(node: &Node) -> Vec<String> {
    node.snapshots().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn forgetting_by_rule_tells_why_and_collecting_gives_the_space_back() {
    let (node, ids) = node_with(4);
    let preview = node.run(&["forget", "--keep-last", "2", "--dry-run"]).exits(0).json();
    assert_eq!(preview["forgotten"], json!(ids[..2]), "{preview}");
    assert_eq!(preview["kept"][1]["reasons"], json!(["newest complete", "last"]), "{preview}");
    assert_eq!((live(&node).len(), &preview["dry_run"]), (4, &json!(true)));
    assert!(preview["freed_bytes"].as_u64().unwrap() > 3_000_000, "{preview}");
    let nothing = node.run(&["forget"]).exits(0).json();
    assert_eq!((&nothing["forgotten"], &nothing["kept"][0]["reasons"]), (&json!([]), &json!(["no rule"])));

    let pinned = node.run(&["pin", &ids[0]]).exits(0).json();
    let pinned = pinned[0]["snapshot_id"].as_str().unwrap().to_owned();
    let before = node.pack_bytes();
    let done = node.run(&["forget", "--keep-last", "2", "--gc"]).exits(0).json();
    assert_eq!(done["forgotten"], json!([ids[1]]), "{done}");
    assert_eq!(live(&node), [pinned.as_str(), &ids[2], &ids[3]]);
    assert!(done["gc"]["waiting_packs"].as_u64().unwrap() > 0, "{done}");
    let waiting = node.run(&["gc", "--status"]).exits(0).json();
    assert_eq!(waiting["waiting_bytes"], done["gc"]["waiting_bytes"], "{waiting}");
    assert!(waiting["next_deletion"].is_string() && waiting["last_run"].is_string(), "{waiting}");
    assert!(node.pack_bytes() >= before, "nothing goes before its time");
    let done = node.run(&["gc", "--now"]).exits(0).json();
    assert!(done["deleted_bytes"].as_u64().unwrap() > 2_500_000, "{done}");
    assert!(node.pack_bytes() < before - 2_500_000);
    node.run(&["verify"]).exits(0);
    node.run(&["unpin", &pinned]).exits(0);
    node.run(&["restore", "latest", "--target", text(&node.path("out"))]).exits(0);
    let done = node.run(&["forget", "--keep-last", "1", "--gc", "--yes"]).exits(0).json();
    assert_eq!((done["forgotten"].as_array().unwrap().len(), live(&node)), (2, vec![ids[3].clone()]));
}

#[test]
fn what_makes_no_sense_or_would_lose_too_much_is_refused() {
    let (node, ids) = node_with(2);
    for (arguments, code, said) in [
        (vec!["forget", "0000abcd"], 1, "no snapshot"),
        (vec!["forget", "latest", "--keep-last", "1"], 2, "cannot be used with"),
        (vec!["forget", "latest"], 1, "newest complete"),
        (vec!["forget", ids[0].as_str(), "latest"], 1, "newest complete"),
        (vec!["gc", "--status", "--now"], 2, "cannot be used with"),
    ] {
        let refused = node.run(&arguments).exits(code);
        assert!(refused.stderr.contains(said), "{arguments:?}: {refused:?}");
    }
    assert_eq!(live(&node), ids);
    node.run(&["forget", &ids[0]]).exits(0);
    node.run(&["forget", "latest", "--yes"]).exits(0);
    assert_eq!(live(&node), [""; 0]);
    // An unreadable record keeps everything, and says so.
    let id = back_up(&node, 7);
    fs::write(node.repo().join(format!("snapshots/{id}")), "broken").unwrap();
    let refused = node.run(&["gc", "--now"]).exits(5);
    assert!(refused.stderr.contains("nothing is deleted"), "{refused:?}");
}

#[test]
fn the_configured_rules_forget() {
    let (node, ids) = node_with(3);
    let node = node
        .with("retention.keep_last", "1")
        .with("retention.keep_hourly", "1")
        .with("retention.keep_daily", "1")
        .with("retention.keep_weekly", "1")
        .with("retention.keep_monthly", "1")
        .with("retention.keep_yearly", "1")
        .with("retention.keep_tags", "gold, silver");
    let tagged = node.run(&["tag", &ids[0], "--add", "silver"]).exits(0).json();
    let tagged = tagged[0]["snapshot_id"].as_str().unwrap().to_owned();
    let done = node.run(&["forget", "--configured", "--dry-run"]).exits(0).json();
    let why = |id: &str| -> Value {
        let kept = done["kept"].as_array().unwrap().iter().find(|kept| kept["snapshot_id"] == id);
        kept.map_or(Value::Null, |kept| kept["reasons"].clone())
    };
    let all = ["newest complete", "last", "hourly", "daily", "weekly", "monthly", "yearly"];
    assert_eq!((why(&ids[2]), why(&tagged)), (json!(all), json!(["tag silver"])), "{done}");
    assert_eq!(done["forgotten"], json!([ids[1]]));
    let node = node.with("retention.keep_within", "1h").with("storage.retention_days", "3");
    let done = node.run(&["forget", "--configured", "--dry-run"]).exits(0).json();
    assert_eq!(
        (&done["forgotten"], &done["kept"][1]["reasons"]),
        (&json!([]), &json!(["within 3d"])),
        "{done}"
    );
}

/// What expires by the clock waits for one more look while the clock is odd.
#[test]
fn a_clock_that_jumped_keeps_the_schedule_from_forgetting() {
    let (node, ids) = node_with(5);
    let mut node = node.with("retention.keep_last", "4");
    // When it was last looked at it showed a time that is still to come.
    fs::write(node.repo().join("members/clock.json"), r#"{"time":4102444800000}"#).unwrap();
    node.start();
    let last = |began: &Value| {
        node.run(&["schedule", "run", "forget"]).exits(0);
        until("the task has run", &[&node], || {
            let tasks = node.run(&["schedule", "list"]).exits(0).json();
            let task = tasks.as_array().unwrap().iter().find(|task| task["id"] == "forget").cloned().unwrap();
            (task["running"] == false && task["last"]["began"] != *began).then(|| task["last"].clone())
        })
    };
    let refused = last(&Value::Null);
    assert_eq!(refused["code"], "CLOCK_ODD", "{refused}");
    assert_eq!(live(&node), ids);
    let done = last(&refused["began"]);
    assert_eq!(done["success"], true, "{done}");
    assert_eq!(live(&node), ids[1..]);
}

#[test]
fn garbage_is_collected_by_its_rhythm() {
    let (node, ids) = node_with(3);
    // Two thirds at one time are too much for rules, whoever applies them.
    let mut node = node.with("storage.gc_interval", "2h").with("retention.keep_last", "1");
    node.start();
    let tasks = node.run(&["schedule", "list"]).exits(0).json();
    let of = |id: &str| tasks.as_array().unwrap().iter().find(|task| task["id"] == id).cloned().unwrap();
    assert_eq!((&of("gc")["rhythm"], &of("forget")["rhythm"]), (&json!("every 2h"), &json!("every 1d")));
    let last = |id: &str| {
        node.run(&["schedule", "run", id]).exits(0);
        until("the task has run", &[&node], || {
            let tasks = node.run(&["schedule", "list"]).exits(0).json();
            let task = tasks.as_array().unwrap().iter().find(|task| task["id"] == id).cloned().unwrap();
            (task["running"] == false && !task["last"].is_null()).then(|| task["last"].clone())
        })
    };
    let refused = last("forget");
    assert_eq!(refused["code"], "CONFIRMATION_NEEDED", "{refused}");
    assert_eq!(live(&node), ids);
    let refused = node.run(&["forget", "--configured"]).exits(1);
    assert!(refused.stderr.contains("--yes"), "{refused:?}");
    assert_eq!(live(&node), ids);
    node.run(&["forget", "--configured", "--yes"]).exits(0);
    assert_eq!(live(&node), ids[2..]);
    assert_eq!(last("gc")["success"], true);
    let status = node.run(&["gc", "--status"]).exits(0).json();
    assert!(status["waiting_packs"].as_u64().unwrap() > 0, "{status}");
    // Beside the daemon's work, at once.
    let done = node.run(&["gc", "--now"]).exits(0).json();
    assert!(done["deleted_packs"].as_u64().unwrap() > 0, "{done}");
    node.run(&["verify"]).exits(0);
    assert_eq!(node.terminate().0, 0);
}

/// Somebody with the owner's unlocked device forgets everything, collects, and writes junk.
#[test]
fn a_holder_keeps_what_is_forgotten_and_recovery_goes_back_in_time() {
    let mut owner = Node::init().with("replication.copies", "1");
    let mut holder = Node::storage_only("1GiB").with("storage.hold_days", "2");
    owner.start();
    holder.start();
    pair(&owner, &holder);
    let source = owner.path("source");
    tree::plain(&source, 1, 20, 100_000);
    let good = owner.replicate(&source);
    let then = jiff::Timestamp::now().to_string();

    fs::remove_dir_all(&source).unwrap();
    tree::plain(&source, 2, 5, 100_000);
    let id = good["snapshot_id"].as_str().unwrap();
    owner.run(&["forget", id, "--yes"]).exits(0);
    let done = owner.run(&["gc", "--now"]).exits(0).json();
    assert!(done["deleted_packs"].as_u64().unwrap() > 0, "{done}");
    owner.replicate(&source);
    assert_eq!(live(&owner).len(), 1);
    owner.kill();
    let bytes = holder.pack_bytes();
    assert!(bytes > 2_000_000, "the holder kept {bytes}");
    // Restarting it counts what is on hold.
    holder.terminate();
    holder.start();
    until("what is on hold is counted", &[&holder], || {
        let peers = holder.run(&["peers"]).exits(0).json();
        (peers[0]["bytes_on_hold"].as_u64()? > 1_500_000).then_some(())
    });
    assert!(holder.status()["storage"]["on_hold_bytes"].as_u64().unwrap() > 1_500_000);
    assert!(holder.run(&["gc", "--status"]).exits(0).json()["held_packs"].as_u64().unwrap() > 0);

    let (phrase, address) = (owner.phrase(), holder.address());
    let recover = |at: &[&str]| {
        let new = Node::bare().with("replication.copies", "1");
        let arguments = ["recover", "--peer", &address, "--phrase-file", text(&phrase)];
        new.run(&[&arguments[..], at].concat()).exits(0);
        new
    };
    let now = recover(&[]);
    assert!(!live(&now).contains(&id.to_owned()));
    let mut back = recover(&["--at", &then]);
    assert_eq!(live(&back), [id]);
    // The holder tells of the newer head, which no longer lists it.
    back.start();
    until("the newer head is known", &[&back, &holder], || (live(&back).len() == 2).then_some(()));
    assert!(live(&back).contains(&id.to_owned()));
    let target = back.path("target");
    back.run(&["restore", &format!("{id}:{}", text(&source)), "--target", text(&target)]).exits(0);
    let wanted = owner.path("wanted");
    tree::plain(&wanted, 1, 20, 100_000);
    for number in fs::read_dir(&wanted).unwrap() {
        let name = number.unwrap().file_name();
        assert_eq!(fs::read(wanted.join(&name)).unwrap(), fs::read(target.join(&name)).unwrap());
    }
    // Before there was anything, there is nothing to bring back.
    let new = Node::bare();
    let arguments = ["recover", "--peer", &address, "--phrase-file", text(&phrase), "--at", "2001-01-01"];
    let refused = new.run(&arguments).exits(10);
    assert!(refused.stderr.contains("from that time"), "{refused:?}");
}

/// Only the phrase shortens a hold.
#[test]
fn a_release_that_the_phrase_signed_lets_a_holder_delete_what_was_forgotten() {
    let mut owner = Node::init().with("replication.copies", "1");
    let mut holder = Node::storage_only("1GiB");
    owner.start();
    holder.start();
    pair(&owner, &holder);
    let source = owner.path("source");
    tree::plain(&source, 1, 10, 100_000);
    let first = owner.replicate(&source);
    fs::remove_dir_all(&source).unwrap();
    tree::plain(&source, 2, 5, 100_000);
    owner.replicate(&source);
    owner.run(&["forget", first["snapshot_id"].as_str().unwrap(), "--yes"]).exits(0);
    owner.run(&["gc", "--now"]).exits(0);
    owner.replicate(&source);
    let before = holder.pack_bytes();
    assert!(before > 1_400_000, "it keeps all of it: {before}");

    let phrase = owner.phrase();
    let release = ["forget", "--release-holds", "--phrase-file", text(&phrase)];
    let refused = owner.run(&release).exits(1);
    assert!(refused.stderr.contains("--yes"), "{refused:?}");
    owner.run(&["forget", "--release-holds"]).exits(2);
    let stranger = Node::init();
    let other = stranger.phrase();
    let refused = owner.run(&["forget", "--release-holds", "--yes", "--phrase-file", text(&other)]).exits(5);
    assert!(refused.stderr.contains("another vault"), "{refused:?}");
    assert_eq!(holder.pack_bytes(), before);
    // A holder that is away is told when it is back.
    holder.terminate();
    until("the owner has noticed", &[&owner], || {
        let peers = owner.run(&["peers"]).exits(0).json();
        (peers[0]["connected"] == false).then_some(())
    });
    let done = owner.run(&[&release[..], &["--yes"]].concat()).exits(0).json();
    assert_eq!((done["told"].as_array().unwrap().len(), done["waiting"].as_array().unwrap().len()), (0, 1));
    holder.start();
    until("the holder has let it go", &[&owner, &holder], || {
        (holder.pack_bytes() + 700_000 < before).then_some(())
    });
    let done = owner.run(&[&release[..], &["--yes"]].concat()).exits(0).json();
    assert_eq!(done["told"].as_array().unwrap().len(), 1, "{done}");
    owner.run(&["verify", "--peers"]).exits(0);
}
