//! Several nodes: pairing, copies, strangers, quotas, restarts.

use std::fs;

use super::damage::Disk;
use super::node::{Node, connected, pair, text, until};
use super::tree;

/// An owner that wants `copies` copies, running.
pub fn owner(copies: u32) -> Node {
    let mut node = Node::init().with("replication.copies", &copies.to_string());
    node.start();
    node
}

/// Holders that run and are paired with `owner`.
pub fn holders<const N: usize>(owner: &Node) -> [Node; N] {
    std::array::from_fn(|_| {
        let mut node = Node::storage_only("1GiB");
        node.start();
        pair(owner, &node);
        node
    })
}

#[test]
fn a_backup_waits_for_its_copies_and_a_holder_has_no_key() {
    let owner = owner(1);
    let [holder] = holders(&owner);
    let source = owner.path("marker-directory");
    tree::plain(&source, 1, 20, 100_000);
    fs::write(source.join("marker-name-7c1f"), "marker-content-7c1f ".repeat(1000)).unwrap();
    let done = owner.replicate(&source);
    assert_eq!((&done["copies"], &done["copies_wanted"]), (&1.into(), &1.into()), "{done}");
    let snapshot = &owner.snapshots()[0];
    assert_eq!((&snapshot["copies"], &snapshot["copies_wanted"]), (&1.into(), &1.into()));
    assert_eq!(holder.pack_bytes(), owner.pack_bytes());
    let status = owner.status();
    assert_eq!((&status["verdict"], &status["snapshots_safe"]), (&"ok".into(), &1.into()), "{status}");
    owner.run(&["status"]).exits(0);
    let there = holder.status()["storage"].clone();
    assert_eq!((&there["own_packs"], &there["foreign_bytes"]), (&0.into(), &owner.pack_bytes().into()));

    assert!(holder.files("keys/").is_empty() && !holder.repo().join("vault.id").exists());
    for file in holder.files("").into_iter().chain([holder.path("daemon.log"), owner.path("daemon.log")]) {
        let Ok(bytes) = fs::read(&file) else { continue };
        let shown = String::from_utf8_lossy(&bytes);
        for marker in ["marker-directory", "marker-name-7c1f", "marker-content-7c1f"] {
            assert!(!shown.contains(marker), "{marker} is in {}", file.display());
        }
    }
    let lengths = |part: &str| {
        let mut all: Vec<u64> =
            holder.files(part).iter().map(|file| fs::metadata(file).unwrap().len()).collect();
        all.sort_unstable();
        all.dedup();
        all
    };
    assert_eq!(lengths("snapshots/"), [8192]);
}

#[test]
fn two_copies_are_spread_over_three_holders() {
    let owner = owner(2);
    let holders: [Node; 3] = holders(&owner);
    let source = owner.path("source");
    for round in 0..3 {
        tree::plain(&source.join(round.to_string()), round, 30, 100_000);
        assert_eq!(owner.replicate(&source)["copies"], 2);
    }
    let held: Vec<u64> = holders.iter().map(Node::pack_bytes).collect();
    assert_eq!(held.iter().sum::<u64>(), 2 * owner.pack_bytes(), "{held:?}");
    for snapshot in owner.snapshots() {
        assert_eq!(snapshot["copies"], 2, "{snapshot}");
    }
    // Records go to every holder.
    for holder in &holders {
        assert_eq!(holder.files("snapshots/").len(), 3);
    }
}

#[test]
fn without_holders_a_backup_is_safe_here_and_ends_with_4() {
    let mut node = Node::init();
    let source = node.path("source");
    tree::plain(&source, 1, 2, 1000);
    let arguments = ["backup", text(&source), "--wait", "copies", "--wait-timeout", "2s"];
    for running in [false, true] {
        if running {
            node.start();
        }
        let output = node.run(&arguments).exits(4);
        assert_eq!(output.failure()["code"], "COPIES_MISSING");
        let done = output.json();
        assert_eq!((&done["copies"], &done["copies_wanted"]), (&0.into(), &2.into()), "{done}");
    }
    assert_eq!(node.snapshots().len(), 2);
    let status = node.run(&["status"]).exits(1).json();
    assert_eq!(status["verdict"], "at-risk");
    assert!(status["problems"][0].as_str().unwrap().contains("`shadowvault "), "{status}");
}

#[test]
fn a_stranger_is_listed_as_pending_and_gets_nothing() {
    let owner = owner(1);
    let [holder] = holders(&owner);
    let source = owner.path("source");
    tree::plain(&source, 1, 5, 100_000);
    owner.replicate(&source);
    let mut stranger = Node::init().with("replication.lend", "1GiB");
    stranger.start();
    let id = stranger.peer_id();
    for target in [&owner, &holder] {
        stranger.run(&["peers", "add", &target.address()]).exits(0);
        let pending = until("the stranger is listed", &[target, &stranger], || target.peer(&id));
        assert_eq!(pending["standing"], "pending", "{pending}");
    }
    // It wants to be a holder and an owner; it is neither.
    let wish = stranger.path("source");
    tree::plain(&wish, 7, 3, 100_000);
    let arguments = ["backup", text(&wish), "--wait", "copies", "--wait-timeout", "3s"];
    stranger.run(&arguments).exits(4);
    tree::plain(&source, 2, 3, 100_000);
    owner.replicate(&source);
    assert!(stranger.files("heads/").iter().all(|file| !text(file).contains(&vault(&owner))));
    assert_eq!(stranger.status()["storage"]["foreign_packs"], 0);
    assert_eq!(holder.pack_bytes(), owner.pack_bytes());
    assert!(holder.files("heads/").iter().all(|file| text(file).contains(&vault(&owner))));
    let problems = owner.status()["problems"].to_string();
    assert!(problems.contains(&id), "{problems}");
}

fn vault(node: &Node) -> String {
    node.run(&["id"]).exits(0).json()["vault_id"].as_str().expect("a vault").to_owned()
}

#[test]
fn a_removed_peer_is_disconnected_and_its_copies_count_no_more() {
    let owner = owner(1);
    let [holder] = holders(&owner);
    let source = owner.path("source");
    tree::plain(&source, 1, 5, 100_000);
    owner.replicate(&source);
    let id = holder.peer_id();
    owner.run(&["peers", "remove", &id]).exits(0);
    assert_eq!(owner.snapshots()[0]["copies"], 0);
    until("the holder sees it gone", &[&owner, &holder], || {
        (holder.peer(&owner.peer_id())?["connected"] == false).then_some(())
    });
    // It dials again and is a stranger now.
    let standing = until("the removed peer knocks", &[&owner, &holder], || owner.peer(&id));
    assert_eq!(standing["standing"], "pending", "{standing}");
    assert_eq!(owner.snapshots()[0]["copies"], 0);
    owner.run(&["peers", "remove", "nobody"]).exits(14);
    // Allowed again, it confirms what it still has.
    pair(&owner, &holder);
    until("the copies count again", &[&owner, &holder], || {
        (owner.snapshots()[0]["copies"] == 1).then_some(())
    });
}

#[test]
fn kills_and_restarts_in_the_middle_do_not_keep_copies_from_being_reached() {
    let mut owner = owner(1);
    let [mut holder] = holders(&owner);
    let source = owner.path("source");
    tree::plain(&source, 1, 150, 200_000);
    owner.backup(&source);
    until("the first packs arrive", &[&owner, &holder], || (!holder.packs().is_empty()).then_some(()));
    holder.kill();
    holder.start();
    connected(&owner, &holder);
    tree::plain(&source.join("more"), 2, 50, 200_000);
    owner.backup(&source);
    owner.kill();
    owner.start();
    connected(&owner, &holder);
    until("all snapshots have their copies", &[&owner, &holder], || {
        owner.snapshots().iter().all(|snapshot| snapshot["copies"] == 1).then_some(())
    });
    assert_eq!(owner.snapshots().len(), 2);
    assert_eq!(holder.pack_bytes(), owner.pack_bytes());
    for node in [&owner, &holder] {
        node.run(&["verify"]).exits(0);
    }
}

#[test]
fn a_holder_never_stores_more_than_it_lends() {
    const LEND: u64 = 6 << 20;
    let owner = owner(1);
    let mut holder = Node::storage_only(&LEND.to_string());
    holder.start();
    pair(&owner, &holder);
    let source = owner.path("source");
    tree::plain(&source, 1, 20, 1_000_000);
    let arguments = ["backup", text(&source), "--wait", "copies", "--wait-timeout", "8s"];
    assert_eq!(owner.run(&arguments).exits(4).json()["copies"], 0);
    assert!(holder.pack_bytes() <= LEND, "{} bytes", holder.pack_bytes());
    let storage = holder.status()["storage"].clone();
    assert!(storage["foreign_bytes"].as_u64().unwrap() <= LEND, "{storage}");
    // Another holder with room completes it.
    let [_second] = holders(&owner);
    until("the copies are complete", &[&owner, &holder], || {
        (owner.snapshots()[0]["copies"] == 1).then_some(())
    });
    assert!(holder.pack_bytes() <= LEND, "{} bytes", holder.pack_bytes());
}

#[test]
fn a_node_that_lends_nothing_stores_nothing() {
    let owner = owner(1);
    let mut friend = Node::init();
    friend.start();
    pair(&owner, &friend);
    let source = owner.path("source");
    tree::plain(&source, 1, 2, 100_000);
    owner.run(&["backup", text(&source), "--wait", "copies", "--wait-timeout", "2s"]).exits(4);
    assert!(friend.packs().is_empty());
}

#[test]
fn two_owners_store_for_each_other_and_keep_apart() {
    let mut nodes =
        [(); 2].map(|()| Node::init().with("replication.copies", "1").with("replication.lend", "1GiB"));
    nodes.iter_mut().for_each(|node| {
        node.start();
    });
    let [one, two] = &nodes;
    pair(one, two);
    for (seed, node) in [(1, one), (2, two)] {
        tree::plain(&node.path("source"), seed, 10, 100_000);
        node.replicate(&node.path("source"));
    }
    for (node, other) in [(one, two), (two, one)] {
        let storage = node.status()["storage"].clone();
        let theirs = other.status()["storage"]["own_bytes"].clone();
        assert_eq!(storage["foreign_bytes"], theirs, "{storage}");
        assert_eq!(node.snapshots().len(), 1);
        node.run(&["verify"]).exits(0);
    }
}

/// It said that all was well, and its owner when it would be done.
#[test]
fn a_holder_whose_disk_is_full_says_so_and_so_does_its_owner() {
    let home = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::mount(home.path().join("disk"), "48m") else {
        eprintln!("skipped: mounting a small file system is not allowed here");
        return;
    };
    let owner = owner(1);
    let mut holder = Node::bare().at(&disk.0.join("repo")).without_passphrase();
    holder.run(&["init", "--storage-only", "--lend", "1GiB"]).exits(0);
    holder.start();
    pair(&owner, &holder);
    fs::write(disk.0.join("filler"), tree::noise(1, 46 << 20)).ok();
    let source = owner.path("source");
    tree::plain(&source, 1, 6, 1_000_000);
    owner.backup(&source);
    let says = |node: &Node, words: &str| node.status()["problems"].to_string().contains(words);
    until("both say it", &[&owner, &holder], || {
        (says(&holder, "the disk has room for") && says(&owner, "has room for more than")).then_some(())
    });
    assert_ne!(holder.status()["verdict"], "ok");
    assert_eq!(owner.status()["replication"]["seconds_left"], serde_json::Value::Null);
}
