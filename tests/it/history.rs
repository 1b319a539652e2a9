//! A history never goes backward: old images of a disk, copies of it, and a newest head that rotted.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::Path;

use super::mesh::{holders, owner};
use super::node::{Node, connected, flip, pair, text, until};
use super::tree::{self, assert_same};

fn copy(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(copied.expect("cp runs").success());
}

/// Whether a node's status tells of a problem in these words.
fn says(node: &Node, words: &str) -> Option<()> {
    let status = node.status();
    let mut problems = status["problems"].as_array().unwrap().iter();
    problems.any(|line| line.as_str().unwrap().contains(words)).then_some(())
}

/// An owner with a holder, and what each acknowledged snapshot must give back.
struct Story {
    owner: Node,
    holder: Node,
    made: Vec<(String, std::path::PathBuf)>,
}

impl Story {
    fn new() -> Self {
        Self::of(1)
    }

    fn of(copies: u32) -> Self {
        let owner = owner(copies);
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

    /// Backs up once more what the first snapshot has, which is not listed any more: nothing of it has to be stored here again.
    fn again(&mut self) {
        let (_, source) = self.made.remove(0);
        let done = self.owner.replicate(&source);
        assert_eq!(done["copies"], done["copies_wanted"], "{done}");
        self.made.push((done["snapshot_id"].as_str().unwrap().to_owned(), source));
    }

    /// Stops the owner, and copies its disk; where to.
    fn image(&mut self) -> std::path::PathBuf {
        self.owner.terminate();
        let image = self.owner.path("image");
        copy(self.owner.repo(), &image);
        self.owner.start();
        image
    }

    /// Stops the owner, and puts that copy back.
    fn put_back(&mut self, image: &Path) {
        self.owner.terminate();
        fs::remove_dir_all(self.owner.repo()).unwrap();
        copy(image, self.owner.repo());
    }

    /// Forgets the first snapshot, and has its holders let go what only that one needed.
    fn let_go(&mut self, others: &[&Node]) {
        self.owner.run(&["forget", &self.made[0].0, "--yes"]).exits(0);
        self.owner.run(&["gc", "--now"]).exits(0);
        // They have to know a head that does not list it any more.
        self.replicate();
        let phrase = self.owner.phrase();
        self.owner.run(&["forget", "--release-holds", "--phrase-file", text(&phrase), "--yes"]).exits(0);
        let holders: Vec<&Node> = others.iter().copied().chain([&self.holder]).collect();
        until("the holders have let it go", &holders, || {
            holders.iter().all(|holder| holder.packs().len() == self.owner.packs().len()).then_some(())
        });
    }

    /// A new machine has it all from the holder.
    fn recovers(&self) {
        self.recovers_from(&self.holder);
    }

    fn recovers_from(&self, holder: &Node) {
        let fresh = Node::bare().with("replication.copies", "1");
        let (phrase, address) = (self.owner.phrase(), holder.address());
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
    let image = story.image();
    story.replicate();
    story.replicate();
    story.put_back(&image);
    // Without a daemon: the holder hears nothing.
    (0..3).for_each(|_| story.backup());
    story.owner.start();
    story.all_come_back(&story.owner);
    assert!(says(&story.owner, "old image").is_some(), "{}", story.owner.status());
    story.recovers();
}

/// Its receipts are as old as the rest: holders have let go packs since that they speak of. `--wait copies` said "1 of 1", and
/// nobody had them.
#[test]
fn what_holders_let_go_since_an_image_was_made_counts_no_more() {
    // With a backup that the holder does not hear of, what was forgotten is listed again; without one it is not.
    for is_away in [false, true] {
        let mut story = Story::new();
        story.replicate();
        story.replicate();
        let image = story.image();
        connected(&story.owner, &story.holder);
        story.let_go(&[]);
        story.put_back(&image);
        if is_away {
            story.backup();
            story.owner.start();
            story.all_come_back(&story.owner);
        } else {
            story.owner.start();
            until("the image is known for what it is", &[&story.owner], || says(&story.owner, "old image"));
            story.again();
        }
        story.recovers();
    }
}

/// What one holder told is known for good, also when the others are met only after a restart.
#[test]
fn a_holder_that_was_not_asked_since_an_image_was_put_back_counts_for_nothing() {
    let mut story = Story::of(2);
    let [mut second] = holders(&story.owner);
    story.replicate();
    story.replicate();
    let image = story.image();
    connected(&story.owner, &story.holder);
    connected(&story.owner, &second);
    story.let_go(&[&second]);
    let id = second.peer_id();
    second.terminate();
    story.put_back(&image);
    story.owner.start();
    until("the first holder was asked", &[&story.owner, &story.holder], || {
        says(&story.owner, "old image")?;
        story.owner.snapshots().iter().all(|snapshot| snapshot["copies"] == 1).then_some(())
    });
    assert!(says(&story.owner, &format!("what {} confirmed is not proven", id)).is_some());
    story.holder.terminate();
    story.owner.terminate();
    story.owner.start();
    assert!(says(&story.owner, &format!("what {} confirmed is not proven", id)).is_some());
    second.start();
    pair(&story.owner, &second);
    story.holder.start();
    pair(&story.owner, &story.holder);
    story.again();
    assert!(says(&story.owner, "is not proven").is_none(), "{}", story.owner.status());
    for holder in [&story.holder, &second] {
        story.recovers_from(holder);
    }
}

/// It was told of as an old image of the whole disk, although this one knows that a holder has confirmed it.
#[test]
fn a_newest_head_whose_file_is_gone_comes_back_and_is_no_old_image() {
    let mut story = Story::new();
    story.replicate();
    story.replicate();
    story.owner.terminate();
    let newest =
        story.owner.files("heads/").into_iter().max_by_key(|file| file.file_name().unwrap().to_owned());
    fs::remove_file(newest.unwrap()).unwrap();
    story.backup();
    story.owner.start();
    story.all_come_back(&story.owner);
    assert!(says(&story.owner, "old image").is_none(), "{}", story.owner.status());
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
