//! `init`, `join` and `recover` that are cut off: the same command goes on, and nothing else takes what is there for a node.

use std::fs;
use std::process::Stdio;
use std::time::Instant;

use super::joining::invite;
use super::mesh::{holders, owner};
use super::node::{Node, text};
use super::tree;

/// Moments at which a command is killed, beside the first: parts of the time that it takes.
const KILLS: u32 = 5;

/// Kills a command at moments that are spread over its whole run, each time where nothing is yet, and gives it again. `check`
/// sees the node that comes of that.
fn survives_kills(node: impl Fn() -> Node, arguments: impl Fn(&Node) -> Vec<String>, check: impl Fn(&Node)) {
    let whole = node();
    let given = arguments(&whole);
    let began = Instant::now();
    whole.run(&given.iter().map(String::as_str).collect::<Vec<_>>()).exits(0);
    let life = began.elapsed();
    check(&whole);
    for kill in 0..=KILLS {
        let node = node();
        let given = arguments(&node);
        let given: Vec<&str> = given.iter().map(String::as_str).collect();
        let mut command = node.command();
        command.arg("--json").args(&given).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        if kill == 0 {
            // While it makes the store, which takes a few milliseconds.
            while !node.repo().join("heads").exists() && child.try_wait().unwrap().is_none() {
                std::thread::yield_now();
            }
        } else {
            std::thread::sleep(life * kill / (KILLS + 1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // Whole, absent, or said to be cut off: nothing in between.
        let seen = node.run(&["id"]);
        if seen.code != 0 {
            let code = seen.exits(10).failure()["code"].clone();
            assert!(code == "VAULT_UNFINISHED" || code == "VAULT_NOT_FOUND", "{code}");
        }
        let again = node.run(&given);
        if again.code != 0 {
            // It was over before the kill.
            assert_eq!(again.exits(1).failure()["code"], "VAULT_EXISTS");
        }
        check(&node);
    }
}

fn strings(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(|&argument| argument.to_owned()).collect()
}

#[test]
fn an_init_that_was_killed_begins_anew_and_its_phrase_is_the_vaults() {
    let arguments = |node: &Node| strings(&["init", "--phrase-out", text(&node.phrase())]);
    survives_kills(Node::bare, arguments, |node| {
        let other = Node::bare();
        let made = other.run(&["init", "--from-phrase", text(&node.phrase())]).exits(0).json();
        assert_eq!(made["vault_id"], node.run(&["id"]).exits(0).json()["vault_id"]);
        assert_eq!(node.snapshots().len(), 0);
    });
}

#[test]
fn a_join_that_was_killed_goes_on() {
    let owner = owner(1);
    let arguments = |_: &Node| strings(&["join", "-y", &invite(&owner, &["--quota", "1GiB"])]);
    survives_kills(
        || Node::bare().without_passphrase(),
        arguments,
        |node| {
            let peers = node.run(&["peers", "list"]).exits(0).json();
            assert_eq!(peers.as_array().map(Vec::len), Some(1), "{peers}");
        },
    );
}

#[test]
fn a_recovery_or_a_device_that_was_killed_goes_on_where_it_was() {
    let owner = owner(1);
    let [holder] = holders(&owner);
    let source = owner.path("source");
    for round in 0..4 {
        tree::plain(&source.join(round.to_string()), round, 5, 50_000);
        owner.replicate(&source);
    }
    let (phrase, address) = (owner.phrase(), holder.address());
    let recover = |_: &Node| strings(&["recover", "--peer", &address, "--phrase-file", text(&phrase)]);
    let check = |node: &Node| {
        assert_eq!(node.snapshots().len(), 4);
        let target = node.path("target");
        let reference = format!("latest:{}", text(&source));
        node.run(&["restore", &reference, "--target", text(&target)]).exits(0);
        tree::assert_same(&source, &target);
    };
    survives_kills(Node::bare, recover, check);
    let join = |_: &Node| {
        let ticket = invite(&owner, &["--role", "device"]);
        strings(&["join", "-y", &ticket, "--phrase-file", text(&phrase)])
    };
    survives_kills(Node::bare, join, check);
}

/// A holder's rate limit once ended a recovery, which threw away what it had fetched.
#[test]
fn a_recovery_waits_for_a_holder_that_says_later() {
    let owner = owner(1);
    let [mut holder] = holders(&owner);
    let source = owner.path("source");
    for round in 0..20 {
        tree::plain(&source.join(round.to_string()), round, 1, 1000);
        owner.backup(&source);
    }
    owner.replicate(&source);
    holder.terminate();
    let mut holder = holder.with("security.requests_per_second", "4").with("security.burst_size", "4");
    holder.start();
    let new = Node::bare();
    let phrase = owner.phrase();
    new.run(&["recover", "--peer", &holder.address(), "--phrase-file", text(&phrase)]).exits(0);
    assert_eq!(new.snapshots().len(), 21);
}

/// What one holder does not have comes from the next; what nobody has keeps nothing else from coming back.
#[test]
fn a_record_that_a_holder_lost_comes_from_another_one_and_one_that_all_lost_is_said() {
    let mut owner = owner(2);
    let holders: [Node; 2] = holders(&owner);
    let source = owner.path("source");
    for round in 0..3 {
        tree::plain(&source.join(round.to_string()), round, 3, 10_000);
        owner.replicate(&source);
    }
    // The machine is lost; what it could tell is asked of its disk below.
    owner.kill();
    let records = |holder: &Node| holder.files("snapshots/");
    let [first, second] = [records(&holders[0]), records(&holders[1])];
    fs::remove_file(&first[0]).unwrap();
    fs::remove_file(&second[1]).unwrap();
    let (phrase, address) = (owner.phrase(), holders[0].address());
    let recover = ["recover", "--peer", &address, "--phrase-file", text(&phrase)];
    let new = Node::bare();
    new.run(&recover).exits(0);
    assert_eq!(new.snapshots().len(), 3);

    fs::remove_file(&second[0]).unwrap();
    let new = Node::bare();
    let done = new.run(&recover).exits(5);
    assert_eq!(done.failure()["code"], "SNAPSHOT_CORRUPTED");
    let target = new.path("target");
    let listed = new.run(&["snapshots"]);
    assert!(listed.stdout.contains("\"id\""), "{listed:?}");
    let ids: Vec<String> =
        owner.snapshots().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect();
    let lost = first[0].file_name().unwrap().to_str().unwrap();
    let sound = ids.iter().find(|id| *id != lost).unwrap();
    new.run(&["restore", sound, "--target", text(&target)]).exits(0);
}

/// What a person can do wrong, and what stays then.
#[test]
fn a_recovery_that_fails_half_way_keeps_what_came_and_one_of_another_vault_leaves_it_alone() {
    let mut owner = owner(1);
    let [holder] = holders(&owner);
    let source = owner.path("source");
    tree::plain(&source, 1, 3, 10_000);
    owner.replicate(&source);
    owner.kill();
    let heads = holder.files("heads/");
    let hidden = |at: usize| holder.path(&format!("hidden head {at}"));
    (0..heads.len()).for_each(|at| fs::rename(&heads[at], hidden(at)).unwrap());
    let (phrase, address) = (owner.phrase(), holder.address());
    let recover = ["recover", "--peer", &address, "--phrase-file", text(&phrase)];
    let new = Node::bare();
    let failure = new.run(&recover);
    assert_ne!(failure.code, 0);
    assert!(failure.failure()["hint"].as_str().unwrap().contains("the same command goes on"), "{failure:?}");
    assert_eq!(new.run(&["snapshots"]).exits(10).failure()["code"], "VAULT_UNFINISHED");
    assert_eq!(new.run(&["init"]).exits(10).failure()["code"], "VAULT_UNFINISHED");
    let key = fs::read(new.repo().join("node.key")).unwrap();
    (0..heads.len()).for_each(|at| fs::rename(hidden(at), &heads[at]).unwrap());
    new.run(&recover).exits(0);
    assert_eq!(new.snapshots().len(), 1);
    assert_eq!(fs::read(new.repo().join("node.key")).unwrap(), key, "the holder knows it by that");
    let again = new.run(&recover).exits(1).failure();
    assert_eq!(again["code"], "VAULT_EXISTS");
    assert!(again["hint"].as_str().unwrap().contains("complete"), "{again}");
}
