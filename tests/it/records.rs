//! Heads, pack lists and snapshot records that rot or vanish, at an owner and at a holder: found, told, mended, given up.

use std::fs;
use std::path::{Path, PathBuf};

use super::mesh::{holders, owner};
use super::node::{Node, flip, text, until};
use super::tree::{self, assert_same};

/// A source of two snapshots, and their ids, the older first.
fn two_snapshots(owner: &Node) -> (PathBuf, [String; 2]) {
    let source = owner.path("source");
    tree::plain(&source, 1, 10, 100_000);
    owner.replicate(&source);
    fs::write(source.join("late"), tree::noise(7, 200_000)).unwrap();
    owner.replicate(&source);
    let ids = owner.snapshots().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    (source, ids.try_into().unwrap())
}

fn record(node: &Node, id: &str) -> PathBuf {
    node.repo().join("snapshots").join(id)
}

/// The newest file below a directory of records.
fn newest_head(node: &Node) -> PathBuf {
    node.files("heads/").into_iter().max_by_key(|path| path.file_name().unwrap().to_owned()).unwrap()
}

fn restores(owner: &Node, source: &Path, reference: &str, name: &str) {
    let target = owner.path(name);
    owner.run(&["restore", &format!("{reference}:{}", text(source)), "--target", text(&target)]).exits(0);
    assert_same(source, &target);
}

#[test]
fn an_owner_is_told_of_a_lost_record_and_gets_it_from_a_holder() {
    let mut owner = owner(1);
    let [mut holder] = holders(&owner);
    let (source, [first, second]) = two_snapshots(&owner);
    let sound = fs::read(record(&owner, &second)).unwrap();
    owner.terminate();
    holder.terminate();
    flip(&record(&owner, &second));
    fs::remove_file(record(&owner, &first)).unwrap();
    // Nothing is silent: the list, what names one of them, the newest one.
    let list = owner.run(&["snapshots"]).exits(5);
    assert_eq!(list.failure()["code"], "SNAPSHOT_CORRUPTED");
    assert!(list.failure()["hint"].as_str().unwrap().contains("--lost"));
    let all = list.json();
    assert!(all.as_array().unwrap().iter().all(|one| one["damaged"].is_string()), "{all}");
    for reference in [&second[..8], "latest"] {
        let failure = owner.run(&["ls", reference]).exits(5).failure();
        assert_eq!(failure["code"], "SNAPSHOT_CORRUPTED", "{failure}");
    }
    let report = owner.run(&["verify"]).exits(5);
    let message = report.failure()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("2 records") && !message.contains("0 packs"), "{message}");
    assert_eq!(report.json()["damaged_records"].as_array().unwrap().len(), 2);
    owner.run(&["verify", "--quick"]).exits(5);
    let failure = owner.run(&["gc"]).exits(5).failure();
    assert!(failure["hint"].as_str().unwrap().contains("--lost"), "{failure}");
    owner.run(&["repair"]).exits(5);

    holder.start();
    owner.start();
    // Both have other ports now.
    super::node::pair(&owner, &holder);
    let report = owner.run(&["repair"]).json();
    assert_eq!(report["unrepaired_records"], serde_json::json!([]), "{report}");
    assert_eq!(fs::read(record(&owner, &second)).unwrap(), sound);
    owner.run(&["verify"]).exits(0);
    assert_eq!(owner.run(&["snapshots"]).exits(0).json().as_array().unwrap().len(), 2);
    restores(&owner, &source, &second[..8], "target");
    owner.run(&["gc"]).exits(0);
    assert_eq!(owner.status()["verdict"], "ok");
}

#[test]
fn lists_and_heads_come_back_by_themselves() {
    let mut owner = owner(1);
    let [holder] = holders(&owner);
    let (source, _) = two_snapshots(&owner);
    owner.terminate();
    // The older ones are of a head that was replaced.
    let newest = |file: &PathBuf| fs::metadata(file).unwrap().modified().unwrap();
    let list = owner.files("lists/").into_iter().max_by_key(newest).unwrap();
    let head = newest_head(&owner);
    let sound = [fs::read(&list).unwrap(), fs::read(&head).unwrap()];
    flip(&list);
    flip(&head);
    owner.start();
    super::node::connected(&owner, &holder);
    until("both are sound again", &[&owner, &holder], || {
        (fs::read(&list).ok()? == sound[0] && fs::read(&head).ok()? == sound[1]).then_some(())
    });
    owner.run(&["verify"]).exits(0);
    restores(&owner, &source, "latest", "target");
    assert!(owner.files("quarantine/").len() >= 2, "what was damaged is set aside");
}

#[test]
fn a_holder_finds_rotten_records_and_pulls_them_again() {
    let owner = owner(1);
    let [holder] = holders(&owner);
    let (_, [first, second]) = two_snapshots(&owner);
    let sound = fs::read(record(&holder, &first)).unwrap();
    flip(&record(&holder, &first));
    fs::remove_file(record(&holder, &second)).unwrap();
    let report = holder.run(&["verify"]).exits(5).json();
    assert_eq!(report["damaged_records"].as_array().unwrap().len(), 2, "{report}");
    let report = holder.run(&["scrub", "--now"]).exits(0).json();
    assert_eq!(report["repair"]["repaired_records"], 2, "{report}");
    assert_eq!(fs::read(record(&holder, &first)).unwrap(), sound);
    holder.run(&["verify"]).exits(0);
}

#[test]
fn an_owner_asks_holders_for_records_and_what_they_lost_gets_there_again() {
    let owner = owner(1);
    let [holder] = holders(&owner);
    let (_, [first, _]) = two_snapshots(&owner);
    owner.run(&["verify", "--peers"]).exits(0);
    let sound = fs::read(record(&holder, &first)).unwrap();
    fs::remove_file(record(&holder, &first)).unwrap();
    let report = owner.run(&["verify", "--peers"]).exits(5).json();
    assert_eq!(report["audits"][0]["records_lost"], 1, "{report}");
    until("the holder has it again and has said so", &[&owner, &holder], || {
        let is_back = fs::read(record(&holder, &first)).is_ok_and(|bytes| bytes == sound);
        (is_back && owner.status()["snapshots_safe"] == 2).then_some(())
    });
    owner.run(&["verify", "--peers"]).exits(0);
}

#[test]
fn a_record_that_is_lost_everywhere_is_given_up_by_name() {
    let owner = owner(1);
    let [mut holder] = holders(&owner);
    let (source, [first, second]) = two_snapshots(&owner);
    // A healthy one is refused.
    let failure = owner.run(&["forget", &first, "--lost", "--yes"]).exits(2).failure();
    assert!(failure["message"].as_str().unwrap().contains("not lost"), "{failure}");
    let kept = fs::read(record(&holder, &first)).unwrap();
    holder.terminate();
    fs::remove_file(record(&owner, &first)).unwrap();
    fs::remove_file(record(&holder, &first)).unwrap();
    let failure = owner.run(&["forget", &first]).exits(5).failure();
    assert!(failure["hint"].as_str().unwrap().contains("--lost"), "{failure}");
    owner.run(&["forget", &first, "--lost"]).exits(1);
    // One that cannot be asked may have it.
    let plan = owner.run(&["forget", &first, "--lost", "--dry-run"]).exits(0).json();
    assert_eq!(
        (plan["asked"].as_array(), plan["not_asked"].as_array().map(Vec::len)),
        (None, Some(1)),
        "{plan}"
    );
    // It comes back with a holder that has it: then it is not lost.
    fs::write(record(&holder, &first), &kept).unwrap();
    holder.start();
    super::node::connected(&owner, &holder);
    owner.run(&["forget", &first, "--lost", "--yes"]).exits(2);
    assert_eq!(fs::read(record(&owner, &first)).unwrap(), kept);

    for node in [&owner, &holder] {
        fs::remove_file(record(node, &first)).unwrap();
    }
    owner.run(&["gc"]).exits(5);
    let done = owner.run(&["forget", &first, "--lost", "--yes"]).exits(0).json();
    assert_eq!(
        (&done["forgotten"][0], done["asked"].as_array().map(Vec::len)),
        (&first.as_str().into(), Some(1))
    );
    owner.run(&["gc", "--now"]).exits(0);
    owner.run(&["verify"]).exits(0);
    assert_eq!(owner.snapshots().len(), 1);
    restores(&owner, &source, &second[..8], "target");
    until("the holder has the head without it", &[&owner, &holder], || {
        (owner.status()["verdict"] == "ok" && holder.run(&["verify"]).code == 0).then_some(())
    });
}
