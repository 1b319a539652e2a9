//! Several devices of one vault: joining, sharing what is stored, revoking, inheriting.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::joining::{invite, words};
use super::mesh::{holders, owner};
use super::node::{Node, connected, flip, pair, text, until};
use super::tree::{self, assert_same};

/// What every pair of devices here has in common, in bytes.
const SHARED_BYTES: u64 = 20 * 200_000;

/// A machine that joins the vault of `inviter` as another device, and runs.
fn device(inviter: &Node) -> Node {
    let mut node = Node::bare().with("replication.copies", "1").with("p2p.connection_timeout", "3s");
    let phrase = inviter.phrase();
    let ticket = invite(inviter, &["--role", "device"]);
    node.run(&["join", "-y", &ticket, "--phrase-file", text(&phrase)]).exits(0);
    node.start();
    connected(inviter, &node);
    node
}

/// An owner, its holder, and a second device that knows the holder; the owner's first backup has its copy.
fn family() -> (Node, Node, Node) {
    let first = owner(1);
    let [holder] = holders(&first);
    tree::plain(&first.path("source"), 1, 20, 200_000);
    first.replicate(&first.path("source"));
    let second = device(&first);
    connected(&second, &holder);
    (first, holder, second)
}

/// Waits until a device may refer to what the others have stored.
fn shares(node: &Node, others: &[&Node]) {
    let nodes: Vec<&Node> = std::iter::once(node).chain(others.iter().copied()).collect();
    until("packs of the other device can be referred to", &nodes, || (times_shared(node) > 0).then_some(()));
}

/// How many times a node's log says so.
fn times_shared(node: &Node) -> usize {
    node.log_text().matches("packs of other devices can be referred to").count()
}

fn listed(node: &Node) -> Vec<Value> {
    node.run(&["device", "list"]).exits(0).json().as_array().expect("a list").clone()
}

/// A device's own line in the list, as `node` sees it.
fn line(node: &Node, device: &str) -> Value {
    listed(node).into_iter().find(|line| line["id"] == device).expect("it is listed")
}

/// The id of the device that a node is.
fn own_id(node: &Node) -> String {
    let all = listed(node);
    let own = all.iter().find(|line| line["this"] == true).expect("it lists itself");
    own["id"].as_str().expect("an id").to_owned()
}

/// A copy of a directory with everything in it.
fn duplicate(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg("-a").args([from, to]).status();
    assert!(copied.expect("cp runs").success());
}

/// Restores what `node` lists under `id`, and compares.
fn restores(node: &Node, id: &Value, source: &Path, name: &str) {
    let target = node.path(name);
    let reference = format!("{}:{}", id.as_str().expect("an id"), text(source));
    node.run(&["restore", &reference, "--target", text(&target)]).exits(0);
    assert_same(source, &target);
}

#[test]
fn a_second_device_stores_nothing_twice_and_each_restores_what_the_other_saved() {
    let (first, holder, second) = family();
    assert_eq!(words(&second, &first.peer_id()), words(&first, &second.peer_id()));
    assert_eq!(second.snapshots().len(), 1);
    shares(&second, &[&first, &holder]);
    let (source, copy) = (first.path("source"), second.path("copy"));
    fs::create_dir(&copy).unwrap();
    for file in fs::read_dir(&source).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), copy.join(file.file_name())).unwrap();
    }
    fs::write(copy.join("new"), tree::noise(99, 50_000)).unwrap();
    let before = holder.pack_bytes();
    assert!(before >= SHARED_BYTES);
    let done = second.replicate(&copy);
    assert_eq!(done["copies"], 1, "{done}");
    assert!(done["data_added"].as_u64().unwrap() < 200_000, "only what is new is sealed: {done}");
    let added = holder.pack_bytes() - before;
    assert!(added < SHARED_BYTES / 4, "{added} bytes came to the holder");
    // Both see everything, with its copies.
    for node in [&first, &second] {
        until("both see both snapshots, with their copies", &[&first, &second, &holder], || {
            let all = node.snapshots();
            (all.len() == 2 && all.iter().all(|snapshot| snapshot["copies"] == 1)).then_some(())
        });
    }
    let all = first.snapshots();
    restores(&first, &all[1]["id"], &copy, "of the second");
    restores(&second, &all[0]["id"], &source, "of the first");
    // With a full local copy, what the second device refers to is there as well.
    until("the local copy is complete", &[&second], || (second.pack_bytes() >= SHARED_BYTES).then_some(()));
    for node in [&first, &second] {
        node.run(&["verify"]).exits(0);
    }
    // The first one forgets; what the second one needs stays.
    let id = all[0]["id"].as_str().unwrap();
    first.run(&["forget", id, "--yes"]).exits(0);
    first.run(&["gc", "--now"]).exits(0);
    first.run(&["verify"]).exits(0);
    assert!(first.pack_bytes() >= SHARED_BYTES, "the other device's head lists those packs");
    restores(&first, &all[1]["id"], &copy, "after forgetting");
    let new = Node::bare();
    let phrase = first.phrase();
    new.run(&["recover", "--peer", &holder.address(), "--phrase-file", text(&phrase)]).exits(0);
    restores(&new, &all[1]["id"], &copy, "on a third machine");
}

/// What the other device has stored was taken for this device's own, whether or not anybody kept it for this one.
#[test]
fn after_rebuild_index_a_device_asks_again_who_keeps_what_others_have_stored() {
    let (first, holder, mut second) = family();
    shares(&second, &[&first, &holder]);
    second.terminate();
    second.run(&["rebuild-index"]).exits(0);
    let before = times_shared(&second);
    second.start();
    until("holders were asked again", &[&first, &second, &holder], || {
        (times_shared(&second) > before).then_some(())
    });
    let source = first.path("source");
    let done = second.replicate(&source);
    assert!(done["data_added"].as_u64().unwrap() < 200_000, "it is not stored again: {done}");
    restores(&second, &first.snapshots()[0]["id"], &source, "after it");
    second.run(&["verify"]).exits(0);
}

/// The packs are at the other device and at the holder, and nothing here refers to them.
#[test]
fn a_device_exports_what_another_one_has_stored() {
    let (first, holder, mut second) = family();
    let id = first.snapshots()[0]["id"].as_str().expect("an id").to_owned();
    shares(&second, &[&first, &holder]);
    assert!(second.pack_bytes() < SHARED_BYTES / 4);
    let file = second.path("carried");
    second.run(&["export", &id, "--output", text(&file)]).exits(0);
    let shelf = Node::storage_only("1GiB");
    let report = shelf.run(&["import", text(&file), "-q"]).exits(0).json();
    assert!(report["bytes"].as_u64().unwrap() >= SHARED_BYTES, "{report}");
    assert!(second.pack_bytes() < SHARED_BYTES / 4, "nothing of it stays");
    second.terminate();
    for mut node in [first, holder] {
        node.terminate();
    }
    let failure = second.run(&["export", &id, "--output", text(&second.path("other"))]).failure();
    assert!(failure["message"].as_str().unwrap().contains("pack"), "{failure}");
    assert!(!second.path("other").exists(), "an export is whole or not there");
}

#[test]
fn only_the_phrase_of_the_tickets_vault_makes_a_device() {
    let first = owner(1);
    let ticket = invite(&first, &["--role", "device"]);
    let new = Node::bare();
    let other = Node::init();
    let (wrong, right) = (other.phrase(), first.phrase());
    let refused = new.run(&["join", "-y", &ticket, "--phrase-file", text(&wrong)]).exits(12).failure();
    assert!(refused["message"].as_str().unwrap().contains("another vault's phrase"), "{refused}");
    assert_eq!(new.run(&["join", "-y", &ticket]).exits(12).failure()["code"], "INVALID_KEY");
    assert!(!new.repo().exists(), "nothing is made");
    // The ticket is as good as before: nobody was asked.
    new.run(&["join", "-y", &ticket, "--phrase-file", text(&right)]).exits(0);
    // Where there is a node already, or none that could invite.
    let occupied = Node::storage_only("1GiB");
    let ticket = invite(&first, &["--role", "device"]);
    occupied.run(&["join", "-y", &ticket, "--phrase-file", text(&right)]).exits(1);
    let mut storing = Node::storage_only("1GiB");
    storing.start();
    let refused = storing.run(&["invite", "--role", "device"]).exits(10).failure();
    assert!(refused["hint"].as_str().unwrap().contains("--role device"), "{refused}");
    storing.run(&["device", "list"]).exits(10);
    let plain = invite(&first, &[]);
    new.run(&["join", "-y", &plain, "--phrase-file", text(&right)]).exits(2);
}

/// A holder that was away when a device joined lets it in by its certificate; one that is gained later is met as well.
#[test]
fn devices_share_their_holders() {
    let first = owner(1);
    let [mut away] = holders(&first);
    let source = first.path("source");
    tree::plain(&source, 1, 5, 100_000);
    first.replicate(&source);
    away.kill();
    let second = device(&first);
    let known = second.peer(&away.peer_id()).expect("the holder is known");
    assert_eq!((&known["standing"], &known["connected"]), (&"allowed".into(), &false.into()), "{known}");
    away.start();
    connected(&first, &away);
    // It came back at another port: the first device's next head says where.
    tree::plain(&source.join("more"), 2, 2, 100_000);
    first.replicate(&source);
    second.run(&["peers", "add", &away.address()]).exits(0);
    connected(&second, &away);
    let gained: [Node; 1] = holders(&first);
    tree::plain(&source.join("yet more"), 3, 2, 100_000);
    first.replicate(&source);
    connected(&second, &gained[0]);
    // What the owner removed there stays away.
    second.run(&["peers", "remove", &gained[0].peer_id()]).exits(0);
    tree::plain(&source.join("and more"), 4, 2, 100_000);
    let done = first.replicate(&source);
    until("the second device has seen it", &[&first, &second], || {
        second.snapshots().iter().any(|snapshot| snapshot["id"] == done["snapshot_id"]).then_some(())
    });
    assert!(second.peer(&gained[0].peer_id()).is_none_or(|peer| peer["standing"] != "allowed"));
}

/// Two devices and nobody else: each is the other's holder, if it lends.
#[test]
fn devices_store_for_each_other_if_they_lend() {
    let mut first = Node::init().with("replication.copies", "1").with("replication.lend", "1GiB");
    first.start();
    let mut second = device(&first);
    let mine = second.path("mine");
    tree::plain(&mine, 5, 10, 100_000);
    assert_eq!(second.replicate(&mine)["copies"], 1);
    assert!(first.pack_bytes() >= 1_000_000);
    first.run(&["verify"]).exits(0);
    let packs = first.packs();
    // What it keeps for the other device outlives its own collection.
    first.run(&["gc", "--now"]).exits(0);
    assert_eq!(first.packs(), packs);
    let all = first.snapshots();
    restores(&first, &all[0]["id"], &mine, "target");
    // The other way nothing is lent.
    let source = first.path("source");
    tree::plain(&source, 6, 3, 100_000);
    first.run(&["backup", text(&source), "--wait", "copies", "--wait-timeout", "2s"]).exits(4);
    // What one keeps of the other is a copy for either of them.
    until("both count it", &[&first, &second], || {
        let counted =
            |node: &Node| node.snapshots().iter().any(|one| one["id"] == all[0]["id"] && one["copies"] == 1);
        (counted(&first) && counted(&second)).then_some(())
    });
    // Until that machine is in other hands.
    let (phrase, heir) = (first.phrase(), own_id(&second));
    let lost = own_id(&first);
    first.kill();
    second
        .run(&["device", "revoke", &lost, "--heir", &heir, "--yes", "--phrase-file", text(&phrase)])
        .exits(0);
    until("a copy on a revoked machine is none", &[&second], || {
        let of_mine = second.snapshots().into_iter().find(|one| one["id"] == all[0]["id"])?;
        (of_mine["copies"] == 0).then_some(())
    });
    second.kill();
}

/// It waited for a peer, though all that the lost one had was known here.
#[test]
fn an_heir_that_no_peer_is_connected_to_carries_on_what_it_knows() {
    let (mut first, mut holder, second) = family();
    shares(&second, &[&first, &holder]);
    let (phrase, lost, heir) = (first.phrase(), own_id(&first), own_id(&second));
    let id = second.snapshots()[0]["id"].as_str().unwrap().to_owned();
    first.kill();
    holder.kill();
    second
        .run(&["device", "revoke", &lost, "--heir", &heir, "--yes", "--phrase-file", text(&phrase)])
        .exits(0);
    until("the heir carries on", &[&second], || {
        (line(&second, &lost)["carried_on_by"] == heir).then_some(())
    });
    second.run(&["forget", &id, "--yes"]).exits(0);
    assert!(second.snapshots().is_empty(), "it is this device's to forget");
}

/// The second device was stolen; what it signs after that counts for nobody, and its heir has what it had.
#[test]
fn a_revoked_device_is_refused_and_its_heir_carries_on() {
    let (first, holder, mut second) = family();
    let mine = second.path("mine");
    tree::plain(&mine, 7, 5, 100_000);
    second.replicate(&mine);
    until("the first device sees both", &[&first, &second], || (first.snapshots().len() == 2).then_some(()));
    let (keeper, stolen) = (own_id(&first), own_id(&second));
    assert_eq!(line(&first, &stolen)["connected"], true);
    second.kill();
    // The thief makes a head while nobody can tell the machine anything.
    let id = first.snapshots()[1]["id"].as_str().unwrap().to_owned();
    second.run(&["forget", &id, "--yes"]).exits(0);
    let other = Node::init();
    let (phrase, wrong) = (first.phrase(), other.phrase());
    let revoke = |phrase: &Path| {
        let verb = ["device", "revoke", &stolen[..8], "--heir", &keeper[..8], "--phrase-file", text(phrase)];
        first.run(&verb)
    };
    assert_eq!(revoke(&wrong).exits(12).failure()["code"], "INVALID_KEY");
    first.run(&["device", "revoke", "nobody", "--phrase-file", text(&phrase)]).exits(1);
    first.run(&["device", "revoke", &keeper[..8], "--phrase-file", text(&phrase)]).exits(2);
    let revoked = revoke(&phrase).exits(0).json();
    assert_eq!(revoked["revoked"]["heir"], keeper, "{revoked}");
    until("the heir carries on", &[&first], || {
        (line(&first, &stolen)["carried_on_by"] == keeper).then_some(())
    });
    until("the holder has heard", &[&holder], || {
        holder.log_text().contains("a device was revoked").then_some(())
    });
    let heads = holder.files(&stolen).len();
    second.start();
    until("the revoked device says so", &[&second, &holder], || {
        let problems = second.status()["problems"].to_string();
        problems.contains("this device was revoked").then_some(())
    });
    second.run(&["status"]).exits(1);
    let failure = second.run(&["backup", text(&mine)]).exits(1).failure();
    assert_eq!(failure["code"], "DEVICE_REVOKED", "{failure}");
    assert_eq!(holder.files(&stolen).len(), heads, "no head of it is taken any more");
    // The heir lists, restores and forgets what the stolen one had.
    let all = first.snapshots();
    assert_eq!(all.len(), 2);
    restores(&first, &all[1]["id"], &mine, "of the stolen one");
    let new = Node::bare();
    new.run(&["recover", "--peer", &holder.address(), "--phrase-file", text(&phrase)]).exits(0);
    assert_eq!(new.snapshots().len(), 2);
    restores(&new, &all[1]["id"], &mine, "recovered");
    first.run(&["forget", &id, "--yes"]).exits(0);
    assert_eq!(first.snapshots().len(), 1);
}

/// What the stolen device saved a moment before was lost to its heir, which had not heard of it yet.
#[test]
fn a_revocation_spares_what_holders_alone_have_heard_of() {
    let (first, holder, mut second) = family();
    let mine = second.path("mine");
    tree::plain(&mine, 9, 3, 100_000);
    let saved = second.replicate(&mine);
    let (heir, stolen) = (own_id(&first), own_id(&second));
    second.kill();
    let phrase = first.phrase();
    let verb = ["device", "revoke", &stolen, "--heir", &heir, "--phrase-file", text(&phrase)];
    first.run(&verb).exits(0);
    until("the heir carries on", &[&first, &holder], || {
        (line(&first, &stolen)["carried_on_by"] == heir).then_some(())
    });
    restores(&first, &saved["snapshot_id"], &mine, "of the stolen one");
}

/// What a holder that was away alone had of the device was let go, without a word.
#[test]
fn a_revocation_waits_for_holders_that_are_away_unless_it_is_meant() {
    let (first, mut holder, second) = family();
    let (heir, stolen) = (own_id(&first), own_id(&second));
    holder.kill();
    let phrase = first.phrase();
    let verb = ["device", "revoke", &stolen, "--heir", &heir, "--phrase-file", text(&phrase)];
    until("it is away", &[&first], || {
        let peers = first.run(&["peers"]).exits(0).json();
        let is_away = |peer: &Value| peer["id"] == holder.peer_id() && peer["connected"] == false;
        peers.as_array().unwrap().iter().any(is_away).then_some(())
    });
    let waits = first.run(&verb).exits(3).failure();
    assert!(waits["message"].to_string().contains("may have newer snapshots"), "{waits}");
    assert!(line(&first, &stolen)["revoked"].is_null());
    first.run(&[&["--yes"], &verb[..]].concat()).exits(0);
    assert!(!line(&first, &stolen)["revoked"].is_null());
}

/// Only the holder knew, the other devices said that all was well, and a revocation let go what only that head listed.
#[test]
fn a_head_that_is_damaged_at_the_only_holder_is_missed_by_the_other_devices() {
    let (mut first, mut holder, mut second) = family();
    let (heir, stolen) = (own_id(&first), own_id(&second));
    first.kill();
    let mine = second.path("mine");
    tree::plain(&mine, 9, 3, 100_000);
    second.replicate(&mine);
    assert_eq!(second.terminate().0, 0);
    assert_eq!(holder.terminate().0, 0);
    let newest = holder.files(&stolen).into_iter().max_by_key(|file| file.file_name().unwrap().to_owned());
    flip(&newest.unwrap());
    holder.start();
    first.start();
    pair(&first, &holder);
    until("it is missed", &[&first, &holder], || {
        first.status()["problems"].to_string().contains("is nowhere else").then_some(())
    });
    first.run(&["status"]).exits(1);
    let phrase = first.phrase();
    let verb = ["device", "revoke", &stolen, "--heir", &heir, "--phrase-file", text(&phrase)];
    // The second machine is away as well, and is the one that is revoked.
    let waits = first.run(&verb).exits(3).failure();
    assert!(waits["message"].to_string().contains("damaged"), "{waits}");
    second.start();
    pair(&second, &holder);
    until("it is back", &[&first, &second, &holder], || (first.snapshots().len() == 2).then_some(()));
    first.run(&verb).exits(0);
}

/// The theft is noticed late: the thief has forgotten everything, and that has reached everybody.
#[test]
fn what_a_thief_has_forgotten_comes_back_with_a_revocation_to_an_earlier_moment() {
    let (first, holder, second) = family();
    let mine = second.path("mine");
    tree::plain(&mine, 8, 5, 100_000);
    second.replicate(&mine);
    until("the first device sees both", &[&first, &second], || (first.snapshots().len() == 2).then_some(()));
    let id = first.snapshots()[1]["id"].as_str().unwrap().to_owned();
    let good = jiff::Timestamp::now().to_string();
    second.run(&["forget", &id, "--yes"]).exits(0);
    until("it is gone everywhere", &[&first, &second, &holder], || {
        (first.snapshots().len() == 1).then_some(())
    });
    let (phrase, stolen) = (first.phrase(), own_id(&second));
    first.run(&["device", "revoke", &stolen, "--before", &good, "--phrase-file", text(&phrase)]).exits(0);
    until("it is back", &[&first], || (first.snapshots().len() == 2).then_some(()));
    until("the holder has heard", &[&holder], || {
        holder.log_text().contains("a device was revoked").then_some(())
    });
    // Without an heir so far: a machine that comes back from the phrase becomes it.
    let new = Node::bare();
    let arguments = ["recover", "--peer", &holder.address(), "--phrase-file", text(&phrase)];
    new.run(&[&arguments[..], &["--heir-of", &stolen]].concat()).exits(0);
    assert_eq!(new.snapshots().len(), 2);
    restores(&new, &id.into(), &mine, "target");
    assert_eq!(line(&new, &stolen)["carried_on_by"], own_id(&new));
}

/// A moment that nobody who was there knew anything of took everything from the device, and no later word led back.
#[test]
fn a_revocation_to_a_moment_that_nobody_knows_of_waits_and_can_be_taken_back() {
    let (first, mut holder, mut second) = family();
    let mine = second.path("mine");
    tree::plain(&mine, 8, 5, 100_000);
    let saved = second.replicate(&mine);
    until("the first device sees both", &[&first, &second], || (first.snapshots().len() == 2).then_some(()));
    let (phrase, heir, stolen) = (first.phrase(), own_id(&first), own_id(&second));
    second.kill();
    let revoke = |more: &[&str]| {
        let verb = ["device", "revoke", &stolen, "--heir", &heir, "--phrase-file", text(&phrase)];
        first.run(&[&verb[..], more].concat())
    };
    let waits = revoke(&["--before", "300d"]).exits(3).failure();
    assert!(waits["message"].to_string().contains("none of its snapshots would count"), "{waits}");
    holder.kill();
    until("it is away", &[&first], || (first.peer(&holder.peer_id())?["connected"] == false).then_some(()));
    let waits = revoke(&["--before", "1s"]).exits(3).failure();
    assert!(waits["message"].to_string().contains("cannot be asked now"), "{waits}");
    assert_eq!(first.snapshots().len(), 2);
    revoke(&["--before", "300d", "--yes"]).exits(0);
    assert_eq!(first.snapshots().len(), 1, "it was meant");
    holder.start();
    connected(&first, &holder);
    until("the holder has heard", &[&holder], || {
        holder.log_text().contains("a device was revoked").then_some(())
    });
    // It was not.
    revoke(&["--before", "1s"]).exits(0);
    until("the heir carries on", &[&first, &holder], || {
        (line(&first, &stolen)["carried_on_by"] == heir).then_some(())
    });
    restores(&first, &saved["snapshot_id"], &mine, "of the stolen one");
    // With a full local copy it is kept where it was carried on.
    let kept = |node: &Node| {
        node.packs().iter().map(|pack| pack.file_name().unwrap().to_owned()).collect::<Vec<_>>()
    };
    until("what was carried on is here", &[&first, &holder], || {
        let here = kept(&first);
        kept(&second).iter().all(|pack| here.contains(pack)).then_some(())
    });
    let new = Node::bare();
    new.run(&["recover", "--peer", &holder.address(), "--phrase-file", text(&phrase)]).exits(0);
    assert_eq!(new.snapshots().len(), 2);
}

/// A revocation to an earlier moment, and at once the heir that was forgotten: the second word, without a time, counted what was
/// known here of what the first one admits, which was nothing.
#[test]
fn another_word_about_an_heir_leaves_what_counts_as_it_was_said() {
    let (first, holder, mut second) = family();
    let mine = second.path("mine");
    tree::plain(&mine, 8, 5, 100_000);
    let saved = second.replicate(&mine);
    let between = jiff::Timestamp::now();
    // By the clock of the holder, too.
    std::thread::sleep(std::time::Duration::from_secs(2));
    let more = second.path("more");
    for round in 0..2 {
        tree::plain(&more, 9 + round, 2, 50_000);
        second.replicate(&more);
    }
    until("the first device sees all", &[&first, &second], || (first.snapshots().len() == 4).then_some(()));
    let (phrase, heir, stolen) = (first.phrase(), own_id(&first), own_id(&second));
    second.kill();
    let revoke = |more: &[&str]| {
        let verb = ["device", "revoke", &stolen, "--phrase-file", text(&phrase)];
        first.run(&[&verb[..], more].concat()).exits(0).json()
    };
    let before = revoke(&["--before", &(between + std::time::Duration::from_secs(1)).to_string()]);
    let after = revoke(&["--heir", &heir]);
    assert_eq!(before["revoked"]["heads"], after["revoked"]["heads"], "{before} {after}");
    until("the heir carries on", &[&first, &holder], || {
        (line(&first, &stolen)["carried_on_by"] == heir).then_some(())
    });
    restores(&first, &saved["snapshot_id"], &mine, "of the stolen one");
    assert_eq!(first.snapshots().len(), 2);
    // The time was wrong: it goes forward again, also with the heir that has carried on what there was.
    revoke(&["--heir", &heir, "--before", "1s"]);
    until("the heir carries on all", &[&first, &holder], || (first.snapshots().len() == 4).then_some(()));
    until("it says so", &[&first], || (line(&first, &stolen)["carried_on_by"] == heir).then_some(()));
}

/// Who finds the lost machine cannot change what its heir carries on.
#[test]
fn a_lost_device_that_has_an_heir_is_revoked() {
    let mut lost = owner(1);
    let [mut holder] = holders(&lost);
    let source = lost.path("source");
    tree::plain(&source, 1, 5, 100_000);
    lost.replicate(&source);
    let device = own_id(&lost);
    // The newest one has not left the machine when that is lost.
    holder.kill();
    tree::plain(&source, 2, 6, 100_000);
    let only_here = lost.backup(&source);
    lost.kill();
    holder.start();
    let mut new = Node::bare().with("replication.copies", "1");
    let phrase = lost.phrase();
    let arguments = ["recover", "--peer", &holder.address(), "--phrase-file", text(&phrase)];
    new.run(&[&arguments[..], &["--heir-of", &device]].concat()).exits(0);
    new.start();
    pair(&new, &holder);
    assert_eq!(line(&new, &device)["carried_on_by"], own_id(&new));
    lost.start();
    lost.run(&["peers", "add", &holder.address()]).exits(0);
    until("the lost device is told", &[&lost, &holder], || {
        lost.status()["problems"].to_string().contains("this device was revoked").then_some(())
    });
    assert_eq!(new.snapshots().len(), 1);
    // It is found, and what it alone had counts again, for itself and then for its heir.
    let told = lost.status()["problems"].to_string();
    assert!(told.contains("1 snapshot that this device made counts no more"), "{told}");
    lost.run(&["--yes", "device", "revoke", &device, "--before", "1s", "--phrase-file", text(&phrase)])
        .exits(0);
    until("it lists it again", &[&lost], || {
        lost.snapshots().iter().any(|one| one["id"] == *only_here).then_some(())
    });
    until("the heir has heard", &[&lost, &new], || {
        (line(&new, &device)["revoked"] == line(&lost, &device)["revoked"]).then_some(())
    });
    new.run(&["device", "revoke", &device, "--heir", &own_id(&new), "--phrase-file", text(&phrase)]).exits(0);
    until("the heir has it too", &[&lost, &new], || (new.snapshots().len() == 2).then_some(()));
}

/// A data directory that was copied to a second machine: both have one node key, and each overwrites what the other signs.
#[test]
fn two_machines_with_one_identity_are_noticed_and_named() {
    let mut first = owner(1);
    let [holder] = holders(&first);
    let source = first.path("source");
    tree::plain(&source, 1, 2, 10_000);
    first.replicate(&source);
    first.terminate();
    let home = Node::bare();
    let copy = home.path("copy");
    duplicate(first.repo(), &copy);
    let mut twin = home.at(&copy);
    first.start();
    // One that only starts anew is no second one.
    assert!(!holder.status()["problems"].to_string().contains("identity"));
    twin.start();
    let says = |node: &Node, what: &str| node.status()["problems"].to_string().contains(what);
    until("the holder names them", &[&first, &twin, &holder], || {
        for node in [&first, &twin] {
            // Each time heads are compared.
            node.run(&["peers", "add", &holder.address()]).exits(0);
        }
        let named = says(&holder, "two machines use the identity of");
        let told = says(&first, "another machine uses this node's identity")
            || says(&twin, "another machine uses this node's identity");
        (named && told).then_some(())
    });
}

/// Somebody had the unlocked device for a while: forgot and collected everything, wrote junk, signed two branches of heads.
#[test]
fn whoever_has_the_unlocked_device_destroys_nothing_that_holders_keep_and_is_shut_out() {
    let mut owner = owner(2);
    let holders: [Node; 2] = holders(&owner);
    let source = owner.path("source");
    let saved: Vec<(Value, PathBuf)> = (0..3)
        .map(|version: u64| {
            tree::plain(&source, 10 + version, 4, 50_000);
            let done = owner.replicate(&source);
            let copy = owner.path(&format!("version-{version}"));
            duplicate(&source, &copy);
            (done["snapshot_id"].clone(), copy)
        })
        .collect();
    let (phrase, stolen) = (owner.phrase(), own_id(&owner));
    let good = jiff::Timestamp::now().to_string();
    owner.terminate();
    let home = Node::bare().with("replication.copies", "2");
    let copy = home.path("copy");
    duplicate(owner.repo(), &copy);
    owner.start();
    for (id, _) in &saved {
        owner.run(&["forget", id.as_str().unwrap(), "--yes"]).exits(0);
    }
    owner.run(&["gc", "--now"]).exits(0);
    fs::remove_dir_all(&source).unwrap();
    tree::plain(&source, 99, 3, 50_000);
    for holder in &holders {
        connected(&owner, holder);
    }
    owner.replicate(&source);
    owner.kill();
    // The copy goes on from the head before all that.
    let mut thief = home.at(&copy);
    thief.run(&["forget", saved[0].0.as_str().unwrap(), "--yes"]).exits(0);

    let all_back = |node: &Node, round: &str| {
        assert_eq!(node.snapshots().len(), saved.len(), "{round}");
        for (at, (id, version)) in saved.iter().enumerate() {
            let target = node.path(&format!("{round}-{at}"));
            let reference = format!("{}:{}", id.as_str().unwrap(), text(&source));
            node.run(&["restore", &reference, "--target", text(&target)]).exits(0);
            assert_same(version, &target);
        }
    };
    let mut new = Node::bare().with("replication.copies", "2");
    let recover = |node: &Node, holder: &Node, more: &[&str]| {
        let address = holder.address();
        let arguments = ["recover", "--peer", &address, "--phrase-file", text(&phrase)];
        node.run(&[&arguments[..], more].concat()).exits(0);
    };
    recover(&new, &holders[0], &["--at", &good]);
    all_back(&new, "at");
    new.start();
    for holder in &holders {
        pair(&new, holder);
    }
    let heir = own_id(&new);
    let verb = ["device", "revoke", &stolen, "--heir", &heir, "--before", &good, "--phrase-file"];
    new.run(&[&verb[..], &[text(&phrase)]].concat()).exits(0);
    let nodes = [&new, &holders[0], &holders[1]];
    until("the new device carries on", &nodes, || {
        (line(&new, &stolen)["carried_on_by"] == heir).then_some(())
    });
    until("both holders have heard", &nodes, || {
        holders.iter().all(|holder| holder.log_text().contains("a device was revoked")).then_some(())
    });
    assert_eq!(new.snapshots().len(), saved.len());
    let heads = |holder: &Node| holder.files(&stolen).len();
    let before = holders.each_ref().map(heads);
    thief.start();
    until("the stolen device says what it is", &[&thief, &holders[0]], || {
        thief.status()["problems"].to_string().contains("this device was revoked").then_some(())
    });
    thief.run(&["backup", text(&source)]).exits(1);
    assert_eq!(holders.each_ref().map(heads), before, "nothing that it signs is taken any more");
    // From the other holder, whether or not a time is named.
    for more in [&[][..], &["--at", &good]] {
        let node = Node::bare();
        recover(&node, &holders[1], more);
        all_back(&node, "later");
    }
}
