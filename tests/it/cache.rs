//! A small disk: most of the backups are with holders only.

use std::fs;

use super::mesh::holders;
use super::node::{Node, connected, pair, text, until};
use super::tree::assert_same;

const MIB: u64 = 1 << 20;
/// What may be here: the packs with directories come on top.
const MOST: u64 = 66 * MIB;

fn owner(copies: u32) -> Node {
    let mut owner = Node::init().with("replication.copies", &copies.to_string());
    owner = small(owner);
    owner.start();
    owner
}

fn small(node: Node) -> Node {
    node.with("storage.local_copy", "cache").with("storage.max_cache_size", "64MiB")
}

/// Files of random bytes, about 112 MiB of them.
fn noise(source: &std::path::Path) {
    fs::create_dir_all(source).unwrap();
    for number in 0..14u8 {
        let mut bytes = vec![0; 8 * MIB as usize];
        blake3::Hasher::new().update(&[number]).finalize_xof().fill(&mut bytes);
        fs::write(source.join(number.to_string()), bytes).unwrap();
    }
}

fn shrunk(owner: &Node, holders: &[&Node]) {
    let nodes: Vec<&Node> = std::iter::once(owner).chain(holders.iter().copied()).collect();
    until("packs are given up", &nodes, || (owner.pack_bytes() <= MOST).then_some(()));
}

fn restores(owner: &Node, source: &std::path::Path, name: &str) -> u64 {
    let target = owner.path(name);
    let reference = format!("latest:{}", text(source));
    let done = owner.run(&["restore", &reference, "--target", text(&target)]).exits(0).json();
    assert_same(source, &target);
    fs::remove_dir_all(&target).unwrap();
    done["bytes_fetched"].as_u64().unwrap()
}

#[test]
fn packs_that_holders_proved_to_have_need_not_be_here() {
    let mut owner = owner(1);
    let [holder] = holders(&owner);
    let source = owner.path("source");
    noise(&source);
    owner.replicate(&source);
    shrunk(&owner, &[&holder]);
    let held = holder.packs().len();
    owner.run(&["verify"]).exits(0);
    let status = owner.status();
    assert_eq!(status["verdict"], "ok", "{status}");
    let storage = &status["storage"];
    assert_eq!(storage["own_bytes"], owner.pack_bytes(), "{storage}");
    assert!(storage["elsewhere_bytes"].as_u64().is_some_and(|bytes| bytes > 40 * MIB), "{storage}");

    // What is elsewhere is not stored again, and comes when it is needed.
    fs::write(source.join("more"), b"more").unwrap();
    let again = owner.run(&["backup", "--force", text(&source)]).exits(0).json();
    assert!(again["data_added"].as_u64().unwrap() < MIB, "{again}");
    assert!(restores(&owner, &source, "one") > 40 * MIB);
    shrunk(&owner, &[&holder]);
    owner.run(&["gc", "--now"]).exits(0);
    assert!(holder.packs().len() <= held + 2);

    // With the index made anew nothing has to be pulled either.
    owner.terminate();
    owner.run(&["rebuild-index"]).exits(0);
    owner.start();
    connected(&owner, &holder);
    until("what is elsewhere is known again", &[&owner, &holder], || {
        let status = owner.status();
        (status["verdict"] == "ok" && status["storage"]["elsewhere_bytes"].as_u64()? > 40 * MIB).then_some(())
    });
    owner.run(&["verify"]).exits(0);
    assert!(owner.pack_bytes() <= MOST);
    let again = owner.run(&["backup", "--force", text(&source)]).exits(0).json();
    assert!(again["data_added"].as_u64().unwrap() < MIB, "{again}");
    assert!(restores(&owner, &source, "two") > 40 * MIB);
}

#[test]
fn what_a_holder_cannot_prove_to_have_stays_here() {
    let mut owner = super::mesh::owner(1);
    let [holder] = holders(&owner);
    let source = owner.path("source");
    noise(&source);
    owner.replicate(&source);
    owner.terminate();
    let whole = owner.pack_bytes();
    for pack in holder.packs() {
        let length = fs::metadata(&pack).unwrap().len() as usize;
        fs::write(&pack, vec![0; length]).unwrap();
    }
    let mut owner = small(owner);
    owner.start();
    pair(&owner, &holder);
    until("the holder's loss is found", &[&owner, &holder], || {
        owner.status()["under_replicated_bytes"].as_u64().filter(|bytes| *bytes > 0)
    });
    assert_eq!(owner.pack_bytes(), whole);
    owner.run(&["verify"]).exits(0);
}

#[test]
fn what_lacks_a_copy_comes_back_and_gets_another_one() {
    let owner = owner(2);
    let [first, second] = holders(&owner);
    let source = owner.path("source");
    noise(&source);
    owner.replicate(&source);
    shrunk(&owner, &[&first, &second]);
    // One loses everything; a third one is there. The owner has most of it at the other one only.
    let mut third = Node::storage_only("1GiB");
    third.start();
    pair(&owner, &third);
    for pack in second.packs() {
        fs::remove_file(&pack).unwrap();
    }
    owner.run(&["verify", "--peers"]).exits(5);
    until("all have two copies again", &[&owner, &first, &third], || {
        let status = owner.status();
        (status["under_replicated_bytes"] == 0 && status["snapshots_safe"] == status["snapshots"])
            .then_some(())
    });
    assert!(!third.packs().is_empty());
    shrunk(&owner, &[&first, &third]);
    restores(&owner, &source, "one");
}

#[test]
fn when_everything_is_to_be_here_again_what_was_given_up_comes_back() {
    let mut owner = owner(1);
    let [holder] = holders(&owner);
    let source = owner.path("source");
    noise(&source);
    owner.replicate(&source);
    shrunk(&owner, &[&holder]);
    let elsewhere = |owner: &Node| owner.status()["storage"]["elsewhere_bytes"].as_u64();
    let (here, gone) = (owner.pack_bytes(), elsewhere(&owner).unwrap());
    assert!(gone > 40 * MIB);
    owner.terminate();
    let mut owner = owner.with("storage.local_copy", "full");
    owner.start();
    connected(&owner, &holder);
    until("all of it is here again", &[&owner, &holder], || (elsewhere(&owner)? == 0).then_some(()));
    assert_eq!(owner.pack_bytes(), here + gone);
    owner.run(&["verify"]).exits(0);
    assert_eq!(restores(&owner, &source, "one"), 0);
}

/// With the only holder away `verify` said "all sound", 100 %, after reading a fifth.
#[test]
fn what_no_holder_can_be_asked_for_is_not_called_sound() {
    let owner = owner(1);
    let [mut holder] = holders(&owner);
    let source = owner.path("source");
    noise(&source);
    owner.replicate(&source);
    shrunk(&owner, &[&holder]);
    let report = owner.run(&["verify"]).exits(0).json();
    assert!(report["unread_packs"].as_u64() > Some(0) && report["unreachable_packs"] == 0, "{report}");
    holder.terminate();
    until("it is gone", &[&owner], || (owner.run(&["verify", "--quick"]).code == 3).then_some(()));
    let report = owner.run(&["verify"]).exits(3).json();
    assert_eq!(
        (&report["valid_snapshots"], &report["invalid_snapshots"]),
        (&0.into(), &0.into()),
        "{report}"
    );
    assert!(report["unreachable_bytes"].as_u64() > Some(0), "{report}");
    let said = owner.status()["problems"].to_string();
    assert!(said.contains("nobody who is connected is known to have them"), "{said}");
}

/// They were offered first, again and again, and the holder's pull of one that is nowhere ended that of all others: whatever was
/// backed up from then on lay on one disk only.
#[test]
fn packs_that_nobody_has_keep_no_others_from_being_taken() {
    let owner = owner(1);
    let [mut holder] = holders(&owner);
    let source = owner.path("source");
    noise(&source);
    owner.replicate(&source);
    shrunk(&owner, &[&holder]);
    let here: Vec<_> = owner.packs().iter().map(|pack| pack.file_name().unwrap().to_owned()).collect();
    let gone =
        holder.packs().into_iter().filter(|pack| !here.iter().any(|name| Some(&**name) == pack.file_name()));
    holder.terminate();
    let lost = gone.take(2).map(|pack| fs::remove_file(pack).unwrap()).count();
    assert_eq!(lost, 2);
    holder.run(&["rebuild-index"]).exits(0);
    let other = owner.path("other");
    super::tree::plain(&other, 3, 3, 100_000);
    let id = owner.backup(&other);
    holder.start();
    connected(&owner, &holder);
    until("the new one has its copy", &[&owner, &holder], || {
        let all = owner.snapshots();
        all.iter().any(|snapshot| snapshot["id"] == *id && snapshot["copies"] == 1).then_some(())
    });
    let problems = owner.status()["problems"].to_string();
    assert!(problems.contains("nobody who is connected"), "{problems}");
    owner.run(&["verify"]).exits(3);
}
