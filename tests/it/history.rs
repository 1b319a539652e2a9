//! A history never goes backward: old images of a disk, copies of it, and a newest head that rotted.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::Path;

use super::mesh::{holders, owner};
use super::node::{Node, connected, flip, text, until};
use super::tree::{self, assert_same};

fn copy(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(copied.expect("cp runs").success());
}

/// An owner with a holder, and what each acknowledged snapshot must give back.
struct Story {
    owner: Node,
    holder: Node,
    made: Vec<(String, std::path::PathBuf)>,
}

impl Story {
    fn new() -> Self {
        let owner = owner(1);
        let [holder] = holders(&owner);
        Self { owner, holder, made: Vec::new() }
    }

    /// A new directory; where it is.
    fn source(&self) -> std::path::PathBuf {
        let round = self.made.len() as u64;
        let source = self.owner.path(&format!("source-{round}"));
        tree::plain(&source, round, 5, 50_000);
        source
    }

    /// Backs up a new directory, with a copy.
    fn replicate(&mut self) {
        let source = self.source();
        let done = self.owner.replicate(&source);
        self.made.push((done["snapshot_id"].as_str().unwrap().to_owned(), source));
    }

    fn backup(&mut self) {
        let source = self.source();
        self.made.push((self.owner.backup(&source), source));
    }

    /// Waits until every snapshot has a copy there, and restores all.
    fn all_come_back(&self, node: &Node) {
        until("every snapshot has a copy", &[node, &self.holder], || {
            let listed = node.snapshots();
            let has = |id: &String| listed.iter().any(|one| one["id"] == **id && one["copies"] == 1);
            self.made.iter().all(|(id, _)| has(id)).then_some(())
        });
        self.all_restore(node);
    }

    fn all_restore(&self, node: &Node) {
        for (id, source) in &self.made {
            let target = node.path(&format!("out-{id}"));
            let from = format!("{id}:{}", text(source));
            node.run(&["restore", &from, "--target", text(&target)]).exits(0);
            assert_same(source, &target);
        }
    }

    /// A new machine has it all from the holder.
    fn recovers(&self) {
        let fresh = Node::bare().with("replication.copies", "1");
        let (phrase, address) = (self.owner.phrase(), self.holder.address());
        fresh.run(&["recover", "--peer", &address, "--phrase-file", text(&phrase)]).exits(0);
        self.all_restore(&fresh);
    }
}

/// With as many backups as were lost, or more, what had been confirmed was gone from the owner, from a recovery, and after the
/// hold from the holder; `status` said "ok".
#[test]
fn a_disk_that_was_put_back_loses_nothing_to_the_backups_that_follow() {
    let mut story = Story::new();
    story.replicate();
    story.owner.terminate();
    let (repo, image) = (story.owner.repo().to_owned(), story.owner.path("image"));
    copy(&repo, &image);
    story.owner.start();
    story.replicate();
    story.replicate();
    story.owner.terminate();
    fs::remove_dir_all(&repo).unwrap();
    copy(&image, &repo);
    // Without a daemon: the holder hears nothing.
    (0..3).for_each(|_| story.backup());
    story.owner.start();
    story.all_come_back(&story.owner);
    let status = story.owner.status();
    let said = status["problems"]
        .as_array()
        .unwrap()
        .iter()
        .any(|line| line.as_str().unwrap().contains("old image"));
    assert!(said, "{status}");
    story.recovers();
}

/// Its number was used again: the snapshot vanished, its packs were deleted, the holder was never asked.
#[test]
fn a_newest_head_that_rotted_is_not_signed_over() {
    let mut story = Story::new();
    story.replicate();
    story.replicate();
    story.owner.terminate();
    let newest =
        story.owner.files("heads/").into_iter().max_by_key(|file| file.file_name().unwrap().to_owned());
    let newest = newest.unwrap();
    let mut bytes = fs::read(&newest).unwrap();
    bytes[100] ^= 1;
    fs::write(&newest, &bytes).unwrap();
    story.backup();
    let packs = story.owner.packs();
    assert_ne!(story.owner.run(&["gc", "--now"]).code, 0);
    assert_eq!(story.owner.packs(), packs);
    assert_eq!(story.owner.snapshots().len(), 3, "its record is here");
    story.owner.start();
    story.all_come_back(&story.owner);
    story.owner.run(&["verify"]).exits(0);
    story.recovers();
}

#[test]
fn a_head_that_nobody_has_is_given_up_by_a_person_and_costs_no_snapshot() {
    let node = Node::init();
    let mut made = Vec::new();
    let source = |round: u64| {
        let source = node.path(&format!("source-{round}"));
        tree::plain(&source, round, 5, 50_000);
        source
    };
    for round in 0..2 {
        made.push(node.backup(&source(round)));
    }
    let newest =
        node.files("heads/").into_iter().max_by_key(|file| file.file_name().unwrap().to_owned()).unwrap();
    flip(&newest);
    made.push(node.backup(&source(2)));
    node.run(&["gc", "--now"]).exits(5);
    let name = newest.file_name().unwrap().to_str().unwrap();
    let id = name.split_once('-').unwrap().1;
    let dry = node.run(&["forget", "--lost", &id[..8], "--dry-run"]).exits(0).json();
    assert_eq!(dry["heads"][0], id, "{dry}");
    node.run(&["gc", "--now"]).exits(5);
    node.run(&["forget", "--lost", &id[..8], "-y"]).exits(0);
    node.run(&["gc", "--now"]).exits(0);
    let listed: Vec<String> =
        node.snapshots().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(listed, made);
    node.run(&["verify"]).exits(0);
}

/// Each told the holder of what only the other one had: nothing new of either reached it, and what one had made was never joined.
#[test]
fn what_two_copies_of_one_machine_made_comes_together() {
    let mut story = Story::new();
    story.replicate();
    story.owner.terminate();
    let image = story.owner.path("image");
    copy(story.owner.repo(), &image);
    story.owner.start();
    let mut twin = Node::bare().at(&image).with("replication.copies", "1");
    twin.start();
    connected(&twin, &story.holder);
    for _ in 0..2 {
        story.backup();
        let source = story.source();
        story.made.push((twin.backup(&source), source));
    }
    until("the holder has what both made", &[&story.owner, &twin, &story.holder], || {
        let names = |node: &Node| -> BTreeSet<OsString> {
            node.packs().iter().map(|pack| pack.file_name().unwrap().to_owned()).collect()
        };
        let (held, both) = (names(&story.holder), &names(&story.owner) | &names(&twin));
        (story.holder.files("snapshots/").len() == story.made.len() && both.is_subset(&held)).then_some(())
    });
    twin.terminate();
    story.all_come_back(&story.owner);
    story.recovers();
}
