//! Inviting, joining, letting in, turning away; and being found again at another address.

use std::fs;
use std::path::PathBuf;

use super::node::{Node, connected, pair, text, until};
use super::tree;

/// A ticket of a running node.
pub fn invite(node: &Node, arguments: &[&str]) -> String {
    let arguments = [&["invite"], arguments].concat();
    let made = node.run(&arguments).exits(0).json();
    made["ticket"].as_str().expect("a ticket").to_owned()
}

/// A machine without a node that joins with `ticket` and then runs.
fn joiner(ticket: &str) -> Node {
    let mut node = Node::bare().without_passphrase();
    node.run(&["join", "-y", ticket]).exits(0);
    node.start();
    node
}

/// A running owner that wants `copies` copies.
fn owner(copies: &str) -> Node {
    let mut node = Node::init().with("replication.copies", copies);
    node.start();
    node
}

pub fn words(node: &Node, peer: &str) -> String {
    let shown = node.run(&["peers", "show", peer]).exits(0).json();
    shown["words"].as_str().expect("words").to_owned()
}

/// The owner's first backup gets its copy on `attic`, with whom it shares its words; what was backed up.
pub fn copied_once(owner: &Node, attic: &Node) -> PathBuf {
    assert_eq!(words(owner, "attic"), words(attic, &owner.peer_id()));
    let source = owner.path("source");
    tree::plain(&source, 1, 10, 100_000);
    assert_eq!(owner.replicate(&source)["copies"], 1);
    let status = owner.run(&["status"]).exits(0).json();
    assert_eq!((&status["verdict"], &status["snapshots_safe"]), (&"ok".into(), &1.into()), "{status}");
    source
}

/// What the README shows: one machine invites, another joins, and a backup has its copy there; then two more.
#[test]
fn invited_machines_hold_the_copies_of_a_backup() {
    let mut owner = owner("1");
    let first = joiner(&invite(&owner, &["attic", "--quota", "1GiB"]));
    connected(&owner, &first);
    let id = first.peer_id();
    assert_eq!(owner.peer(&id).expect("a peer")["name"], "attic");
    let source = copied_once(&owner, &first);
    assert_eq!(first.pack_bytes(), owner.pack_bytes());
    assert_eq!(first.status()["storage"]["lend"], 1u64 << 30);

    owner.terminate();
    let mut owner = owner.with("replication.copies", "2");
    owner.start();
    let more = ["shed", "loft"].map(|name| joiner(&invite(&owner, &[name, "--quota", "1GiB"])));
    for holder in more.iter().chain([&first]) {
        connected(&owner, holder);
    }
    tree::plain(&source.join("more"), 2, 10, 100_000);
    assert_eq!(owner.replicate(&source)["copies"], 2);
    until("the old snapshot gets its second copy", &[&owner, &first], || {
        owner.snapshots().iter().all(|snapshot| snapshot["copies"] == 2).then_some(())
    });
    owner.run(&["status"]).exits(0);
}

/// An owner that comes back on the same port.
fn settled_owner() -> Node {
    // Free a moment ago; nothing else here asks for a port by number.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut node = Node::init().with("replication.copies", "1").with("listen_port", &port.to_string());
    node.start();
    node
}

#[test]
fn a_ticket_survives_a_restart_and_is_good_once() {
    let mut owner = settled_owner();
    let ticket = invite(&owner, &["--quota", "1GiB"]);
    owner.kill();
    owner.start();
    let first = joiner(&ticket);
    connected(&owner, &first);
    // The same machine may come again: its first answer may have been lost.
    first.run(&["join", "-y", &ticket]).exits(0);
    let second = Node::bare().without_passphrase();
    let failure = second.run(&["join", "-y", &ticket]).exits(1).failure();
    assert_eq!(failure["code"], "TICKET_USED", "{failure}");
    let invites = super::socket::get(&owner, "/api/v1/invites");
    assert_eq!((&invites[0]["state"], &invites[0]["peer"]), (&"used".into(), &first.peer_id().into()));
    let logs = [owner.path("daemon.log"), first.path("daemon.log")];
    for file in owner.files("members/").into_iter().chain(first.files("members/")).chain(logs) {
        let content = fs::read(&file).unwrap_or_default();
        // Its beginning is the issuer's id, which is no secret; its end holds the secret.
        let shown = String::from_utf8_lossy(&content).contains(&ticket[ticket.len() - 40..]);
        assert!(!shown, "a ticket is in {}", file.display());
    }
}

#[test]
fn tickets_that_are_no_good_say_why() {
    let mut owner = settled_owner();
    let ticket = invite(&owner, &[]);
    let node = Node::bare().without_passphrase().with("p2p.connection_timeout", "2s");
    let damaged = node.run(&["join", "-y", &ticket[..ticket.len() - 3]]).exits(2).failure();
    assert_eq!(damaged["code"], "TICKET_INVALID", "{damaged}");
    assert!(damaged["message"].as_str().unwrap().contains("incomplete"), "{damaged}");
    let foreign = node.run(&["join", "-y", &owner.peer_id()]).exits(2).failure();
    assert!(foreign["hint"].as_str().unwrap().contains("shadowvault invite"), "{foreign}");
    assert!(!node.repo().exists(), "nothing is made for a ticket that is none");
    let unasked = node.run(&["join", &ticket]).exits(1).failure();
    assert_eq!(unasked["code"], "CONFIRMATION_NEEDED", "{unasked}");
    assert!(!node.repo().exists(), "nothing is made before somebody agrees");
    let own = owner.run(&["join", "-y", &ticket]).exits(2).failure();
    assert!(own["message"].as_str().unwrap().contains("itself"), "{own}");
    owner.run(&["invite", "--expires", "1s"]).exits(2);

    owner.kill();
    owner.run(&["invite"]).exits(13);
    node.run(&["join", "-y", &ticket]).exits(14);
    let mut kept = owner.state("invites.json");
    kept["invites"][0]["expires"] = 1.into();
    owner.put_state("invites.json", &kept.to_string());
    owner.start();
    assert_eq!(node.run(&["join", "-y", &ticket]).exits(1).failure()["code"], "TICKET_EXPIRED");
    owner.kill();
    owner.state_files("invites.json").iter().for_each(|file| fs::remove_file(file).unwrap());
    owner.start();
    assert_eq!(node.run(&["join", "-y", &ticket]).exits(1).failure()["code"], "TICKET_UNKNOWN");
}

#[test]
fn a_joiner_stores_what_its_ticket_says_and_gets_nothing_stored_unless_mutual() {
    let mut owner = Node::init().with("replication.copies", "1").with("replication.lend", "1GiB");
    owner.start();
    let mut friend = Node::init().with("replication.copies", "1");
    friend.start();
    friend.run(&["join", "-y", &invite(&owner, &["--quota", "6MiB"])]).exits(0);
    connected(&owner, &friend);
    for (seed, node) in [(1, &owner), (2, &friend)] {
        tree::plain(&node.path("source"), seed, 20, 1_000_000);
    }
    let arguments = |node: &Node| {
        let source = node.path("source");
        node.run(&["backup", text(&source), "--wait", "copies", "--wait-timeout", "4s"])
    };
    arguments(&owner).exits(4);
    let stored = friend.status()["storage"]["foreign_bytes"].as_u64().unwrap();
    assert!(stored <= 6 << 20, "{stored} bytes");
    arguments(&friend).exits(4);
    assert_eq!(owner.status()["storage"]["foreign_bytes"], 0);
    // A mutual ticket opens the other way too.
    friend.run(&["join", "-y", &invite(&owner, &["--quota", "1GiB", "--role", "mutual"])]).exits(0);
    for node in [&owner, &friend] {
        until("both have their copies", &[&owner, &friend], || {
            (node.snapshots()[0]["copies"] == 1).then_some(())
        });
    }
}

#[test]
fn strangers_are_let_in_or_turned_away() {
    let owner = owner("1");
    let [mut liked, mut disliked] = [(); 2].map(|()| Node::storage_only("1GiB"));
    for stranger in [&mut liked, &mut disliked] {
        stranger.start();
        stranger.run(&["peers", "add", &owner.address()]).exits(0);
        let id = stranger.peer_id();
        until("the stranger is listed", &[&owner, stranger], || owner.peer(&id));
    }
    let why = liked.run(&["peers", "why", &owner.peer_id()]).exits(0).json();
    assert!(why["advice"].as_str().unwrap().contains("peers accept"), "{why}");
    owner.run(&["peers", "accept", &liked.peer_id()]).exits(0);
    connected(&owner, &liked);
    owner.run(&["peers", "reject", &disliked.peer_id()]).exits(0);
    disliked.kill();
    disliked.start();
    owner.run(&["peers", "reject", &liked.peer_id()]).exits(2);
    let answer = owner.run(&["peers", "ping", &liked.peer_id()]).exits(0).json();
    assert!(answer["round_trip_ms"].as_f64().unwrap() > 0.0, "{answer}");
    assert!(owner.peer(&disliked.peer_id()).is_none(), "it is not listed again");
}

#[test]
fn why_names_what_failed_at_each_address() {
    // QUIC tells nothing of a closed port: it times out.
    let mut owner = Node::init().with("p2p.connection_timeout", "2s");
    owner.start();
    let mut gone = Node::storage_only("1GiB");
    gone.start();
    pair(&owner, &gone);
    let id = gone.peer_id();
    gone.kill();
    until("its end is noticed", &[&owner], || (owner.peer(&id)?["connected"] == false).then_some(()));
    owner.run(&["peers", "ping", &id]).exits(14);
    let why = owner.run(&["peers", "why", &id]).exits(0).json();
    let ways = why["ways"].as_array().unwrap();
    assert!(!ways.is_empty(), "{why}");
    assert!(ways.iter().all(|way| way["error"].is_string() && way["advice"].is_string()), "{why}");
}

/// Two members that both moved know no good address of each other; a third that stayed tells them.
#[test]
fn nodes_that_moved_find_each_other_through_a_third() {
    let [mut one, mut other, third] = [(); 3].map(|()| {
        let mut node = Node::storage_only("1GiB").with("p2p.discovery_interval", "1s");
        node.start();
        node
    });
    for (a, b) in [(&one, &other), (&one, &third), (&other, &third)] {
        pair(a, b);
    }
    one.kill();
    other.kill();
    // Port 0 takes another port than before.
    one.start();
    other.start();
    for node in [&one, &other] {
        connected(node, &third);
    }
    connected(&one, &other);
}

#[test]
fn copies_of_a_holder_that_stays_away_are_made_elsewhere_and_count_again_when_it_is_back() {
    let mut owner = Node::init().with("replication.copies", "1").with("p2p.away_after", "2s");
    owner.start();
    let mut first = joiner(&invite(&owner, &["attic", "--quota", "1GiB"]));
    connected(&owner, &first);
    let source = owner.path("source");
    tree::plain(&source, 1, 5, 100_000);
    owner.replicate(&source);
    first.kill();
    let id = first.peer_id();
    until("the holder is missed", &[&owner], || {
        (owner.peer(&id)?["state"] == "missing" && owner.snapshots()[0]["copies"] == 0).then_some(())
    });
    let status = owner.run(&["status"]).exits(1).json();
    assert!(status["problems"].to_string().contains("attic was not seen since"), "{status}");
    assert_eq!(status["replication"]["bytes_waiting"], owner.pack_bytes(), "{status}");
    assert!(status["replication"]["since"].is_string(), "{status}");
    let second = joiner(&invite(&owner, &["shed", "--quota", "1GiB"]));
    until("another holder has the copies", &[&owner, &second], || {
        (owner.snapshots()[0]["copies"] == 1).then_some(())
    });
    assert_eq!(second.pack_bytes(), owner.pack_bytes());
    first.start();
    until("both copies count", &[&owner, &first], || (owner.snapshots()[0]["copies"] == 2).then_some(()));
}

/// An owner removes a lost machine from all its holders with one signed word.
#[test]
fn what_an_admin_signs_travels_the_mesh_and_unknown_admins_are_refused() {
    let admin = Node::init().with("replication.copies", "1");
    let vault = admin.run(&["id"]).exits(0).json()["vault_id"].as_str().unwrap().to_owned();
    let mut admin = admin;
    admin.start();
    let holder = |trusts: bool| {
        let node = Node::storage_only("1GiB");
        let mut node = if trusts { node.with("acl.admins", &vault) } else { node };
        node.start();
        node
    };
    let [mut middle, far, lost] = [(); 3].map(|()| holder(true));
    let doubter = holder(false);
    // The admin knows the one in the middle; the others know that one and each other's guest.
    pair(&admin, &middle);
    for node in [&far, &doubter, &lost] {
        pair(&middle, node);
    }
    pair(&far, &lost);
    pair(&doubter, &lost);
    let phrase = admin.phrase();
    let id = lost.peer_id();
    admin.run(&["peers", "add", &lost.address(), "--for-all", "--phrase-file", text(&phrase)]).exits(0);
    lost.run(&["peers", "add", &admin.address()]).exits(0);
    connected(&admin, &lost);
    admin.run(&["peers", "remove", &id, "--for-all", "--phrase-file", text(&phrase)]).exits(0);
    for node in [&admin, &middle, &far] {
        until("the lost machine is off the list", &[node, &middle], || {
            node.peer(&id).is_none_or(|peer| peer["standing"] == "pending").then_some(())
        });
    }
    until("the foreign admin is refused", &[&doubter], || {
        doubter.log_text().contains("refused peer records").then_some(())
    });
    assert_eq!(doubter.peer(&id).expect("a peer")["standing"], "allowed");
    // It stays so after a restart, and a phrase that nobody trusts changes nothing.
    middle.kill();
    middle.start();
    assert!(middle.peer(&id).is_none_or(|peer| peer["standing"] == "pending"));
    let stranger = Node::init();
    let foreign = ["peers", "remove", &admin.peer_id(), "--for-all", "--phrase-file"].map(str::to_owned);
    let mut arguments: Vec<&str> = foreign.iter().map(String::as_str).collect();
    let phrase = stranger.phrase();
    arguments.push(text(&phrase));
    assert_eq!(middle.run(&arguments).exits(1).failure()["code"], "UNAUTHORIZED");
}
