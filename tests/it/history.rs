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

    /// Waits until every snapshot has a copy there, and every pack is here, whatever was not on the disk; restores all.
    fn all_come_back(&self, node: &Node) {
        until("every snapshot has a copy", &[node, &self.holder], || {
            let listed = node.snapshots();
            let has = |id: &String| listed.iter().any(|one| one["id"] == **id && one["copies"] == 1);
            self.made.iter().all(|(id, _)| has(id)).then_some(())
        });
        until("what holders have is here too", &[node, &self.holder], || {
            let names = |node: &Node| -> BTreeSet<OsString> {
                node.packs().iter().map(|path| path.file_name().unwrap().to_owned()).collect()
            };
            names(&self.holder).is_subset(&names(node)).then_some(())
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

/// A holder whose newest head was gone had deleted within seconds what only that one listed, and said that all was well.
#[test]
fn a_holder_that_lost_its_newest_heads_lets_nothing_go_and_gets_them_again() {
    for all in [false, true] {
        let mut story = Story::new();
        story.replicate();
        story.replicate();
        story.owner.terminate();
        story.holder.terminate();
        let packs = story.holder.packs();
        let mut heads = story.holder.files("heads/");
        heads.sort_by_key(|file| file.file_name().unwrap().to_owned());
        let lost = if all { &heads[..] } else { &heads[heads.len() - 1..] };
        lost.iter().for_each(|file| fs::remove_file(file).unwrap());
        let failure = story.holder.run(&["verify"]).exits(5).json();
        assert!(!failure["damaged_records"].as_array().unwrap().is_empty(), "{failure}");
        story.holder.start();
        until("the holder says it", &[&story.holder], || says(&story.holder, "is gone"));
        assert_eq!(story.holder.packs(), packs);
        story.owner.start();
        // Both have new ports.
        pair(&story.owner, &story.holder);
        until("they are there again", &[&story.owner, &story.holder], || {
            lost.last().unwrap().exists().then_some(())
        });
        until("that is not said any more", &[&story.holder], || {
            says(&story.holder, "is gone").is_none().then_some(())
        });
        assert_eq!(story.holder.packs(), packs);
        story.recovers();
        story.holder.terminate();
        story.holder.run(&["verify"]).exits(0);
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

/// Its number was used again: the snapshot vanished, its packs were deleted, the holder was never asked. What was said of the
/// newest snapshot meanwhile was true of the one before.
#[test]
fn a_newest_head_that_rotted_is_not_signed_over() {
    for harm in ["a flipped bit", "a directory in its place", "its file is gone"] {
        let mut story = Story::new();
        story.replicate();
        story.replicate();
        story.owner.terminate();
        let newest =
            story.owner.files("heads/").into_iter().max_by_key(|file| file.file_name().unwrap().to_owned());
        let newest = newest.unwrap();
        match harm {
            "a flipped bit" => flip(&newest),
            _ => fs::remove_file(&newest).unwrap(),
        }
        if harm == "a directory in its place" {
            fs::create_dir(&newest).unwrap();
        }
        let list = story.owner.run(&["snapshots"]).exits(5).json();
        let hidden = list.as_array().unwrap().iter().find(|one| one["damaged"].is_string());
        assert!(hidden.is_some_and(|one| one["damaged"].as_str().unwrap().starts_with("head ")), "{list}");
        for command in [&["verify", "latest"][..], &["ls", "latest"], &["export"], &["find", "no such name"]]
        {
            let failure = story.owner.run(command).exits(5).failure();
            assert!(failure["hint"].as_str().unwrap().contains("--lost"), "{command:?}: {failure}");
        }
        story.owner.run(&["verify", &story.made[0].0]).exits(0);

        story.backup();
        let packs = story.owner.packs();
        assert_eq!(story.owner.run(&["gc", "--now"]).code, 5);
        assert_eq!(story.owner.packs(), packs);
        assert_eq!(story.owner.snapshots().len(), 3, "its record is here");
        story.owner.run(&["verify", "latest"]).exits(0);
        story.owner.start();
        story.all_come_back(&story.owner);
        story.owner.run(&["verify"]).exits(0);
        story.recovers();
    }
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

/// A holder whose newest head rots told of the one before, and a recovery from it ended well without the last snapshot.
#[test]
fn a_recovery_says_that_a_holders_newest_head_is_damaged() {
    let mut story = Story::new();
    story.replicate();
    story.replicate();
    story.holder.terminate();
    let mut heads = story.holder.files("heads/");
    heads.sort_by_key(|file| file.file_name().unwrap().to_owned());
    flip(heads.last().unwrap());
    let address = story.owner.phrase();
    story.owner.terminate();
    story.holder.start();
    let fresh = Node::bare().with("replication.copies", "1");
    let holder = story.holder.address();
    let recover = ["recover", "--peer", &holder, "--phrase-file", text(&address)];
    let failure = fresh.run(&recover).exits(5).failure();
    assert!(failure["message"].as_str().unwrap().contains("newest head"), "{failure}");
    assert_eq!(fresh.snapshots().len(), 1);
}

/// Being heir ends what the lost device may have said: with a holder away that had more, acknowledged snapshots were gone.
#[test]
fn an_heir_waits_for_holders_that_may_have_more() {
    let mut story = Story::of(2);
    let [mut second] = holders(&story.owner);
    story.replicate();
    story.holder.terminate();
    story.backup();
    until("the other holder has it", &[&story.owner, &second], || {
        story.owner.snapshots().iter().all(|one| one["copies"].as_u64() >= Some(1)).then_some(())
    });
    let device = story.owner.snapshots()[0]["device"].as_str().unwrap().to_owned();
    let phrase = story.owner.phrase();
    story.owner.terminate();
    second.terminate();
    story.holder.start();
    let fresh = Node::bare().with("replication.copies", "1");
    let first = story.holder.address();
    let recover = ["recover", "--peer", &first, "--phrase-file", text(&phrase), "--heir-of", &device];
    let failure = fresh.run(&recover).exits(3).failure();
    assert!(failure["hint"].as_str().unwrap().contains("--yes"), "{failure}");
    second.start();
    let address = second.address();
    let recover = ["recover", "--peer", &address, "--phrase-file", text(&phrase), "--heir-of", &device];
    fresh.run(&recover).exits(0);
    assert_eq!(fresh.snapshots().len(), 2);
    story.all_restore(&fresh);
}

/// After a recovery nothing lies here, and "all sound" was said without a look at anything.
#[test]
fn what_is_with_holders_only_is_not_sound_while_none_is_there() {
    let mut story = Story::new();
    story.replicate();
    story.owner.terminate();
    let fresh = Node::bare().with("replication.copies", "1");
    let (phrase, address) = (story.owner.phrase(), story.holder.address());
    fresh.run(&["recover", "--peer", &address, "--phrase-file", text(&phrase)]).exits(0);
    story.holder.terminate();
    for command in [&["verify"][..], &["verify", "--quick"], &["repair"]] {
        fresh.run(command).exits(3);
    }
    let report = fresh.run(&["verify"]).exits(3).json();
    assert_eq!((&report["valid_snapshots"], &report["total_snapshots"]), (&0.into(), &1.into()), "{report}");
}

/// It was taken for a storage-only node, and all was well with it.
#[test]
fn a_lost_or_damaged_name_of_the_vault_is_written_again() {
    let node = Node::init();
    let source = node.path("source");
    tree::plain(&source, 1, 5, 50_000);
    node.backup(&source);
    let file = node.repo().join("vault.id");
    let name = fs::read(&file).unwrap();
    for harm in [None, Some(&b""[..]), Some(b"nonsense"), Some(&[0; 64])] {
        match harm {
            None => fs::remove_file(&file).unwrap(),
            Some(bytes) => fs::write(&file, bytes).unwrap(),
        }
        assert_eq!(node.snapshots().len(), 1, "{harm:?}");
        assert_eq!(fs::read(&file).unwrap(), name);
    }
}

/// The recovery ended there and then, each time, although all the rest was at the holder.
#[test]
fn a_piece_of_a_pack_list_that_is_nowhere_keeps_the_rest_from_nobody() {
    let mut story = Story::new();
    story.replicate();
    story.replicate();
    story.owner.terminate();
    story.holder.terminate();
    let mut lists = story.holder.files("lists/");
    lists.sort_by_key(|file| fs::metadata(file).unwrap().modified().unwrap());
    fs::remove_file(lists.last().unwrap()).unwrap();
    story.holder.start();
    let fresh = Node::bare().with("replication.copies", "1");
    let (phrase, address) = (story.owner.phrase(), story.holder.address());
    let recover = ["recover", "--peer", &address, "--phrase-file", text(&phrase)];
    let failure = fresh.run(&recover).exits(5).failure();
    assert!(failure["message"].as_str().unwrap().contains("pack lists"), "{failure}");
    assert_eq!(fresh.snapshots().len(), 2);
    fresh.run(&["verify"]).exits(5);
}

/// With the next backup it was forgotten that it had been there, and what only it listed was deleted.
#[test]
fn a_head_that_is_gone_is_missed_until_it_is_given_up() {
    let node = Node::init();
    let source = |round: u64| {
        let source = node.path(&format!("source-{round}"));
        tree::plain(&source, round, 5, 50_000);
        source
    };
    node.backup(&source(0));
    let second = node.backup(&source(1));
    let newest =
        node.files("heads/").into_iter().max_by_key(|file| file.file_name().unwrap().to_owned()).unwrap();
    let kept = node.path("head");
    fs::rename(&newest, &kept).unwrap();
    let record = node.files(&format!("snapshots/{second}")).pop().unwrap();
    let kept_record = node.path("record");
    fs::rename(&record, &kept_record).unwrap();
    node.run(&["gc", "--now"]).exits(5);
    let packs = node.packs();
    node.backup(&source(2));
    node.run(&["gc", "--now"]).exits(5);
    assert!(packs.iter().all(|pack| pack.exists()));
    node.run(&["verify"]).exits(5);
    fs::rename(&kept, &newest).unwrap();
    fs::rename(&kept_record, &record).unwrap();
    node.run(&["gc", "--now"]).exits(0);
    assert_eq!(node.snapshots().len(), 3);
    node.run(&["verify"]).exits(0);
}
