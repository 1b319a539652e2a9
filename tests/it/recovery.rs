//! The machine is lost: a new one comes back from the phrase and one holder's address.

use std::fs;

use super::mesh::{holders, owner};
use super::node::{Node, pair, text, until};
use super::tree::{self, assert_same};

#[test]
fn a_lost_machine_comes_back_from_the_phrase_and_one_address() {
    let mut lost = owner(2);
    let holders: [Node; 3] = holders(&lost);
    let source = lost.path("source");
    tree::odd(&source);
    let first = lost.replicate(&source);
    tree::plain(&source.join("later"), 2, 20, 100_000);
    let second = lost.replicate(&source);
    let device = lost.snapshots()[0]["device"].as_str().unwrap().to_owned();
    lost.kill();
    fs::remove_dir_all(lost.repo()).unwrap();

    let mut new = Node::bare().with("replication.copies", "2");
    let phrase = lost.phrase();
    let arguments = ["recover", "--peer", &holders[0].address(), "--phrase-file", text(&phrase)];
    let found = new.run(&[&arguments[..], &["--heir-of", &device]].concat()).exits(0).json();
    assert_eq!(found["snapshots"], 2, "{found}");
    // From one address the others are found.
    assert_eq!(found["holders"].as_array().map(Vec::len), Some(3), "{found}");
    assert!(new.packs().is_empty(), "data comes when it is read");
    let listed = new.snapshots();
    assert_eq!(listed[0]["id"], first["snapshot_id"]);
    assert_eq!(listed[1]["id"], second["snapshot_id"]);

    let target = new.path("target");
    let reference = format!("latest:{}", text(&source));
    let done = new.run(&["restore", &reference, "--target", text(&target)]).exits(0).json();
    assert!(done["bytes_fetched"].as_u64().unwrap() > 0, "{done}");
    assert_same(&source, &target);

    // It works on as a device of the vault: what it backs up reaches the holders.
    new.start();
    until("the holders are there", &[&new, &holders[0]], || {
        let status = new.status();
        let connected = status["peers"].as_array()?.iter().filter(|peer| peer["connected"] == true).count();
        (connected == 3).then_some(())
    });
    fs::write(target.join("written after the loss"), tree::noise(77, 300_000)).unwrap();
    assert_eq!(new.replicate(&target)["copies"], 2);
    assert_eq!(new.snapshots().len(), 3);
    for snapshot in new.snapshots() {
        assert_eq!(snapshot["copies"], 2, "{snapshot}");
    }
    let again = new.path("again");
    new.run(&["restore", &format!("latest:{}", text(&target)), "--target", text(&again)]).exits(0);
    assert_same(&target, &again);
}

/// What the lost machine had written was nobody's to bring to another holder: "nothing moves now", for good.
#[test]
fn what_a_lost_machine_wrote_gets_copies_again_from_the_one_that_follows_it() {
    let mut lost = owner(2);
    let [mut first, mut second] = holders(&lost);
    let source = lost.path("source");
    tree::plain(&source, 3, 5, 100_000);
    lost.replicate(&source);
    lost.kill();
    // Until then the lost machine may come back and do it.
    let mut new = Node::bare().with("replication.copies", "2").with("p2p.away_after", "5s");
    let phrase = lost.phrase();
    new.run(&["recover", "--peer", &first.address(), "--phrase-file", text(&phrase)]).exits(0);
    new.start();
    second.kill();
    new.run(&["peers", "remove", &second.peer_id()]).exits(0);
    let problems = new.status()["problems"].to_string();
    assert!(problems.contains("device revoke"), "it says how to wait no longer: {problems}");
    let [third] = holders(&new);
    until("all that it had is at two holders", &[&new, &first, &third], || {
        let all = new.snapshots();
        (all.len() == 1 && all[0]["copies"] == 2).then_some(())
    });
    // Also when the only holder that ever met the lost machine is gone.
    first.terminate();
    new.terminate();
    let last = Node::bare();
    last.run(&["recover", "--peer", &third.address(), "--phrase-file", text(&phrase)]).exits(0);
    let target = last.path("target");
    last.run(&["restore", &format!("latest:{}", text(&source)), "--target", text(&target)]).exits(0);
    assert_same(&source, &target);
}

#[test]
fn a_machine_recovered_twice_still_finds_everything() {
    let mut lost = owner(1);
    let [holder] = holders(&lost);
    let source = lost.path("source");
    tree::plain(&source, 1, 10, 100_000);
    lost.replicate(&source);
    let phrase = lost.phrase();
    lost.kill();
    for round in 1..=2 {
        let mut new = Node::bare().with("replication.copies", "1");
        new.run(&["recover", "--peer", &holder.address(), "--phrase-file", text(&phrase)]).exits(0);
        assert_eq!(new.snapshots().len(), round);
        new.start();
        until("the holder is there", &[&new, &holder], || {
            (new.peer(&holder.peer_id())?["connected"] == true).then_some(())
        });
        let extra = new.path("extra");
        tree::plain(&extra, 10 + round as u64, 3, 100_000);
        new.replicate(&extra);
        for (number, snapshot) in new.snapshots().iter().enumerate() {
            let target = new.path(&format!("target {number}"));
            let id = snapshot["id"].as_str().unwrap();
            new.run(&["restore", id, "--target", text(&target)]).exits(0);
        }
        let reference = format!("{}:{}", new.snapshots()[0]["id"].as_str().unwrap(), text(&source));
        let target = new.path("first");
        new.run(&["restore", &reference, "--target", text(&target)]).exits(0);
        assert_same(&source, &target);
    }
}

#[test]
fn a_recovery_that_cannot_be_is_refused_and_leaves_nothing() {
    let owner = owner(1);
    let [holder] = holders(&owner);
    let source = owner.path("source");
    tree::plain(&source, 1, 3, 1000);
    owner.replicate(&source);
    let (address, phrase) = (holder.address(), owner.phrase());
    let words = fs::read_to_string(&phrase).unwrap();
    let new = Node::bare();
    let recover = |peer: &str, phrase: &std::path::Path| {
        let output = new.run(&["recover", "--peer", peer, "--phrase-file", text(phrase)]);
        assert!(!output.stderr.contains("panicked"), "{output:?}");
        assert!(!output.stderr.contains(words.trim()), "the phrase is never shown");
        let left = fs::read_dir(new.repo()).map_or(0, Iterator::count);
        assert_eq!(left, 0, "something is left behind: {output:?}");
        output
    };
    // Words that are not in the list, too few of them, a wrong checksum.
    let mut list: Vec<&str> = words.split_whitespace().collect();
    let wrong_word = new.secret("wrong word", &words.replacen(list[3], "shadowvault", 1));
    let failure = recover(&address, &wrong_word).exits(12).failure();
    assert!(failure["message"].as_str().unwrap().contains('4'), "it says which word: {failure}");
    let too_few = new.secret("too few", &list[..23].join(" "));
    recover(&address, &too_few).exits(12);
    list.swap(0, 1);
    let swapped = new.secret("swapped", &list.join(" "));
    let output = recover(&address, &swapped);
    assert_ne!(output.code, 0);
    // Another vault's phrase; a holder that is not there; an address without an id.
    let other = Node::init();
    assert_eq!(recover(&address, &other.phrase()).exits(10).failure()["code"], "VAULT_NOT_FOUND");
    let gone = format!("/ip4/127.0.0.1/tcp/9/p2p/{}", holder.peer_id());
    recover(&gone, &phrase).exits(14);
    recover("/ip4/127.0.0.1/tcp/9", &phrase).exits(2);
    // A directory in use is left alone.
    let id = other.run(&["id"]).exits(0).json();
    let arguments = ["recover", "--peer", &address, "--phrase-file", text(&phrase)];
    assert_eq!(other.run(&arguments).exits(1).failure()["code"], "VAULT_EXISTS");
    assert_eq!(other.run(&["id"]).exits(0).json(), id);
    // After all that the right words still work.
    new.run(&["recover", "--peer", &address, "--phrase-file", text(&phrase)]).exits(0);
    assert_eq!(new.snapshots().len(), 1);
}

#[test]
fn a_holder_with_rot_does_not_keep_a_restore_from_another_one() {
    let mut lost = owner(2);
    let holders: [Node; 2] = holders(&lost);
    let source = lost.path("source");
    tree::plain(&source, 1, 20, 200_000);
    lost.replicate(&source);
    let phrase = lost.phrase();
    lost.kill();
    let new = Node::bare();
    let arguments = ["recover", "--peer", &holders[0].address(), "--phrase-file", text(&phrase)];
    new.run(&arguments).exits(0);
    holders[0].packs().iter().for_each(|pack| super::node::flip(pack));
    let target = new.path("target");
    let reference = format!("latest:{}", text(&source));
    new.run(&["restore", &reference, "--target", text(&target)]).exits(0);
    assert_same(&source, &target);
}

#[test]
fn a_device_that_was_not_the_writer_keeps_the_mesh_alive() {
    // Two devices of one vault at the same time: each sees the other's snapshots.
    let first = owner(1);
    let [holder] = holders(&first);
    let source = first.path("source");
    tree::plain(&source, 1, 5, 100_000);
    first.replicate(&source);
    let mut second = Node::bare().with("replication.copies", "1");
    let phrase = first.phrase();
    second.run(&["recover", "--peer", &holder.address(), "--phrase-file", text(&phrase)]).exits(0);
    second.start();
    pair(&second, &holder);
    let more = second.path("more");
    tree::plain(&more, 2, 5, 100_000);
    second.replicate(&more);
    let all = until("the first device sees the other's snapshot", &[&first, &second, &holder], || {
        let all = first.snapshots();
        (all.len() == 2).then_some(all)
    });
    let id = all[1]["id"].as_str().unwrap();
    let target = first.path("target");
    let done = first.run(&["restore", &format!("{id}:{}", text(&more)), "--target", text(&target)]).exits(0);
    assert_same(&more, &target);
    assert!(done.json()["bytes_fetched"].as_u64().unwrap() > 0);
}
