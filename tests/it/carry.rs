//! Exports and imports with the real program: a first copy on a disk, an archive of a snapshot, what is broken.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::node::{Node, flip, pair, text, until};
use super::tree;

/// An owner with a backup, and all of it in a file.
fn exported() -> (Node, PathBuf) {
    let owner = Node::init().with("replication.copies", "1");
    let source = owner.path("source");
    tree::plain(&source, 1, 30, 200_000);
    owner.backup(&source);
    let file = owner.path("carried");
    owner.run(&["export", "--output", text(&file)]).exits(0);
    (owner, file)
}

fn import(node: &Node, file: &Path, code: i32) -> super::node::Output {
    node.run(&["import", text(file), "-q"]).exits(code)
}

fn inodes(node: &Node) -> Vec<u64> {
    node.packs().iter().map(|pack| fs::metadata(pack).expect("a pack").ino()).collect()
}

#[test]
fn a_first_copy_travels_on_a_disk_and_nothing_is_pulled_again() {
    let (mut owner, file) = exported();
    let mut holder = Node::storage_only("1GiB");
    let report = import(&holder, &file, 0).json();
    assert_eq!(
        (report["packs"].as_u64(), &report["held"]),
        (Some(owner.packs().len() as u64), &0.into()),
        "{report}"
    );
    let again = import(&holder, &file, 0).json();
    assert_eq!((&again["packs"], &again["held"]), (&0.into(), &report["packs"]), "{again}");
    let carried = inodes(&holder);
    owner.start();
    holder.start();
    pair(&owner, &holder);
    until("the holder has confirmed what it was brought", &[&owner, &holder], || {
        (owner.snapshots()[0]["copies"] == 1).then_some(())
    });
    assert_eq!(inodes(&holder), carried, "packs were pulled although they were there");
    // Through the daemon as well: what is new since then.
    let more = owner.path("more");
    tree::plain(&more, 2, 3, 100_000);
    owner.backup(&more);
    owner.run(&["export", "latest", "--output", text(&file)]).exits(0);
    assert_eq!(import(&holder, &file, 0).json()["own"], false);
    holder.run(&["verify"]).exits(0);
}

#[test]
fn an_export_brings_back_packs_that_the_own_store_has_lost() {
    let (owner, file) = exported();
    let packs = owner.packs();
    fs::remove_file(&packs[0]).unwrap();
    owner.run(&["verify"]).exits(5);
    let report = import(&owner, &file, 0).json();
    assert_eq!((&report["own"], &report["packs"]), (&true.into(), &1.into()), "{report}");
    owner.run(&["verify"]).exits(0);
    assert_eq!(owner.packs(), packs);
    // A damaged pack is not carried anywhere.
    flip(&packs[0]);
    owner.run(&["export", "--output", text(&owner.path("other"))]).exits(5);
    assert!(!owner.path("other").exists());
}

#[test]
fn what_is_no_whole_export_is_refused_and_leaves_the_store_sound() {
    let (owner, file) = exported();
    let whole = fs::read(&file).unwrap();
    let holder = Node::storage_only("1GiB");
    let refused = |bytes: &[u8]| {
        let bad = holder.path("bad");
        fs::write(&bad, bytes).unwrap();
        let failure = import(&holder, &bad, 2).failure();
        assert!(failure["message"].as_str().unwrap().contains("no whole export"), "{failure}");
    };
    refused(b"");
    refused(b"plainly something else");
    refused(&vec![b'x'; 20_000]);
    refused(&whole[..whole.len() / 2]);
    // A name that leads elsewhere, whatever follows.
    let mut odd = whole.clone();
    odd[..8].copy_from_slice(b"../../x\0");
    refused(&odd);
    holder.run(&["verify"]).exits(0);
    // A damaged pack is left out; the others come all the same.
    let (mut altered, bad) = (whole.clone(), holder.path("bad"));
    let at = altered.len() - 100_000;
    altered[at] ^= 1;
    fs::write(&bad, &altered).unwrap();
    let failure = import(&holder, &bad, 5).failure();
    assert!(failure["message"].as_str().unwrap().contains("damaged in it"), "{failure}");
    assert_eq!(holder.packs().len() + 1, owner.packs().len());
    import(&holder, &file, 0);
    assert_eq!(holder.packs().len(), owner.packs().len());
    holder.run(&["verify"]).exits(0);

    let poor = Node::storage_only("1MiB");
    let failure = import(&poor, &file, 15).failure();
    assert_eq!(failure["code"], "STORAGE_FULL", "{failure}");
    assert!(poor.packs().iter().map(|pack| fs::metadata(pack).unwrap().len()).sum::<u64>() <= 1 << 20);
}

/// An older image of the disk, and a newer export beside it: it was taken in with "3 here already", and nothing newer came back.
#[test]
fn an_export_brings_back_the_history_that_an_older_image_lacks() {
    let (owner, _) = exported();
    let image = owner.path("image");
    let copied = std::process::Command::new("cp").args(["-a", text(owner.repo()), text(&image)]).status();
    assert!(copied.unwrap().success());
    let source = owner.path("more");
    for round in 0..2 {
        tree::plain(&source, 40 + round, 3, 50_000);
        owner.backup(&source);
    }
    let (whole, one) = (owner.path("whole"), owner.path("one"));
    owner.run(&["export", "--output", text(&whole)]).exits(0);
    owner.run(&["export", "latest", "--output", text(&one)]).exits(0);
    let before = owner.snapshots();
    std::fs::remove_dir_all(owner.repo()).unwrap();
    std::fs::rename(&image, owner.repo()).unwrap();
    assert_eq!(owner.snapshots().len(), 1);
    // The image goes on by itself before anybody thinks of the export.
    let other = owner.path("other");
    tree::plain(&other, 50, 2, 50_000);
    owner.backup(&other);
    let report = import(&owner, &whole, 0).json();
    assert_eq!(report["snapshots"], 2, "{report}");
    let after = owner.snapshots();
    assert_eq!(after.len(), before.len() + 1);
    owner.run(&["verify"]).exits(0);
    let newest = before.last().unwrap()["id"].as_str().unwrap();
    for (snapshot, path) in [(newest, &source), ("latest", &other)] {
        let target = owner.path(&format!("target of {snapshot}"));
        owner.run(&["restore", &format!("{snapshot}:{}", text(path)), "--target", text(&target)]).exits(0);
        tree::assert_same(path, &target);
    }
    assert_eq!(import(&owner, &whole, 0).json()["snapshots"], 0, "it is known");
    assert_eq!(import(&owner, &one, 0).json()["snapshots"], 0);
    // What the branches list is in the next head.
    owner.backup(&other);
    assert_eq!(owner.snapshots().len(), after.len() + 1);
    owner.run(&["gc", "--now"]).exits(0);
    owner.run(&["verify"]).exits(0);
}
