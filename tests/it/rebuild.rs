//! A lost index, made anew from the files of an owner and of a holder.

use std::fs;

use serde_json::Value;

use super::mesh::{holders, owner};
use super::node::{Node, connected, text, until};
use super::tree::{self, assert_same};

/// What must be the same before and after.
fn counts(node: &Node) -> [Value; 5] {
    let storage = node.status()["storage"].clone();
    ["own_packs", "own_bytes", "foreign_packs", "foreign_bytes", "chunks"].map(|name| storage[name].clone())
}

fn rebuild(node: &mut Node) -> Value {
    node.terminate();
    fs::remove_file(node.repo().join("index.redb")).unwrap();
    node.run(&["verify"]).exits(5);
    let done = node.run(&["rebuild-index"]).exits(0).json();
    node.start();
    done
}

#[test]
fn an_owner_and_a_holder_know_everything_again() {
    let mut owner = owner(1);
    let [mut holder] = holders(&owner);
    let source = owner.path("source");
    tree::plain(&source, 1, 20, 100_000);
    owner.replicate(&source);
    tree::plain(&source, 2, 5, 100_000);
    owner.replicate(&source);
    let (owned, held) = (counts(&owner), counts(&holder));
    let before = owner.snapshots();

    let done = rebuild(&mut holder);
    assert_eq!((&done["with_keys"], &done["packs"]), (&false.into(), &held[2]), "{done}");
    assert_eq!(counts(&holder), held);
    connected(&owner, &holder);

    let done = rebuild(&mut owner);
    assert_eq!((&done["with_keys"], &done["snapshots"]), (&true.into(), &2.into()), "{done}");
    assert_eq!(counts(&owner), owned);
    connected(&owner, &holder);
    let after = until("the copies are known again", &[&owner, &holder], || {
        let all = owner.snapshots();
        all.iter().all(|snapshot| snapshot["copies"] == 1).then_some(all)
    });
    assert_eq!(after, before);
    for node in [&owner, &holder] {
        node.run(&["verify"]).exits(0);
    }
    // Nothing is stored a second time (but directories above, whose times change), and work goes on.
    let again = owner.run(&["backup", text(&source)]).exits(0).json();
    assert!(again["data_added"].as_u64().unwrap() < 4096, "{again}");
    tree::plain(&source, 3, 5, 100_000);
    owner.replicate(&source);
    assert_eq!(holder.pack_bytes(), owner.pack_bytes());
}

/// Index and packs lost together: what the head lists is still known to be wanted, and comes from the holder.
#[test]
fn packs_lost_together_with_the_index_are_mended_from_a_holder() {
    let mut owner = owner(1);
    let [holder] = holders(&owner);
    let source = owner.path("source");
    tree::plain(&source, 1, 20, 200_000);
    owner.replicate(&source);
    let packs = owner.packs();
    owner.terminate();
    fs::remove_file(owner.repo().join("index.redb")).unwrap();
    fs::write(&packs[0], b"short").unwrap();
    fs::remove_file(&packs[1]).unwrap();
    // The short one is named; the lost one nobody can miss yet.
    owner.run(&["rebuild-index"]).exits(5);
    owner.run(&["verify"]).exits(5);
    owner.start();
    connected(&owner, &holder);
    owner.run(&["repair"]).exits(0);
    owner.run(&["verify"]).exits(0);
    let target = owner.path("target");
    owner.run(&["restore", &format!("latest:{}", text(&source)), "--target", text(&target)]).exits(0);
    assert_same(&source, &target);
    assert_eq!(owner.packs(), packs);
}

/// A holder whose packs lie on a disk of their own, not mounted, came up with none, "all sound" and "ok".
#[test]
fn an_index_is_not_made_anew_while_all_packs_are_out_of_reach() {
    let mut owner = owner(1);
    let [mut holder] = holders(&owner);
    let source = owner.path("source");
    tree::plain(&source, 4, 5, 100_000);
    owner.replicate(&source);
    for node in [&mut owner, &mut holder] {
        node.terminate();
        let (packs, away) = (node.repo().join("packs"), node.path("away"));
        fs::rename(&packs, &away).unwrap();
        fs::create_dir(&packs).unwrap();
        // Its index is the one that was: nothing has changed.
        let failure = node.run(&["rebuild-index"]).exits(1).failure();
        assert_eq!(failure["code"], "STORAGE_UNAVAILABLE", "{failure}");
        assert!(failure["hint"].to_string().contains("rebuild-index --yes"), "{failure}");
        fs::remove_dir(&packs).unwrap();
        fs::rename(&away, &packs).unwrap();
        node.run(&["verify"]).exits(0);
        node.run(&["rebuild-index"]).exits(0);
        node.start();
    }
    connected(&owner, &holder);
    // Lost for good is said to be, and comes back from the holder.
    owner.terminate();
    fs::remove_dir_all(owner.repo().join("packs")).unwrap();
    fs::create_dir(owner.repo().join("packs")).unwrap();
    owner.run(&["rebuild-index", "--yes"]).exits(0);
    owner.start();
    connected(&owner, &holder);
    owner.run(&["repair"]).exits(0);
    owner.run(&["verify"]).exits(0);
    let target = owner.path("target");
    owner.run(&["restore", &format!("latest:{}", text(&source)), "--target", text(&target)]).exits(0);
    assert_same(&source, &target);
}
