//! Mistakes of people: each ends with its exit code and words that help, and changes nothing.

use std::fs;
use std::process::Stdio;

use super::node::{Node, text};
use super::tree::{self, assert_same};

#[test]
fn a_wrong_or_missing_passphrase_is_12() {
    let mut node = Node::init();
    let source = node.path("source");
    tree::plain(&source, 1, 1, 1000);
    let wrong = node.secret("wrong", "incorrect horse\n");
    let with = |passphrase: &[&str]| {
        let mut command = std::process::Command::new(super::node::program());
        command.env_clear().env("XDG_CONFIG_HOME", node.path("config")).stdin(Stdio::null());
        command.args(["--json", "--no-input", "--repo", text(node.repo())]).args(passphrase);
        node.finish(command.args(["backup", text(&source)])).exits(12).failure()
    };
    assert_eq!(with(&["--passphrase-file", text(&wrong)])["code"], "WRONG_PASSPHRASE");
    let missing = with(&[]);
    assert!(missing["hint"].as_str().unwrap().contains("--passphrase-file"), "{missing}");
    assert_eq!(with(&["--passphrase-file", "/nowhere"])["code"], "WRONG_PASSPHRASE");
    assert_eq!(node.snapshots().len(), 0);
    // A daemon does not start with a wrong one, and runs locked without one.
    fs::write(node.path("passphrase"), "incorrect horse\n").unwrap();
    node.run(&["daemon"]).exits(12);
    fs::write(node.path("passphrase"), "correct horse\n").unwrap();
    node.start();
}

#[test]
fn without_a_vault_it_is_10_and_a_second_init_changes_nothing() {
    let node = Node::bare();
    for command in [&["backup", "/etc/hostname"][..], &["snapshots"], &["verify"], &["daemon"], &["id"]] {
        let failure = node.run(command).exits(10).failure();
        assert_eq!(failure["code"], "VAULT_NOT_FOUND", "{command:?}");
    }
    node.run(&["init"]).exits(0);
    let id = node.run(&["id"]).exits(0).json();
    let again = node.run(&["init"]).exits(1).failure();
    assert_eq!(again["code"], "VAULT_EXISTS");
    assert_eq!(node.run(&["id"]).exits(0).json(), id);
    node.run(&["snapshots"]).exits(0);
}

#[test]
fn init_leaves_foreign_directories_and_phrase_files_alone() {
    let node = Node::bare();
    fs::create_dir(node.repo()).unwrap();
    fs::write(node.repo().join("letter"), b"mine").unwrap();
    node.run(&["init"]).exits(1).failure();
    assert_eq!(fs::read_dir(node.repo()).unwrap().count(), 1);
    let phrase = node.secret("taken", "precious\n");
    let other = Node::bare();
    other.run(&["init", "--phrase-out", text(&phrase)]).exits(1).failure();
    assert_eq!(fs::read_to_string(&phrase).unwrap(), "precious\n");
    assert!(!other.repo().join("shadowvault.store").exists());
}

#[test]
fn paths_that_do_not_exist_are_named() {
    let node = Node::init();
    let absent = node.path("no such place");
    let failure = node.run(&["backup", text(&absent)]).exits(1).failure();
    assert_eq!(failure["code"], "PATH_NOT_FOUND");
    assert!(failure["message"].as_str().unwrap().contains("no such place"), "{failure}");
    // One of several: it is a slip, so nothing is made of the others either.
    let output = node.run(&["backup", "/etc/hostname", text(&absent)]).exits(1);
    assert!(output.failure()["message"].as_str().unwrap().contains("no such place"), "{output:?}");
    assert_eq!(node.snapshots().len(), 0);
}

#[test]
fn references_that_fit_no_snapshot_or_several_are_refused() {
    let node = Node::init();
    let source = node.path("source");
    tree::plain(&source, 1, 1, 10);
    let target = node.path("target");
    let restore = |reference: &str| node.run(&["restore", reference, "--target", text(&target)]);
    for reference in
        ["latest", "latest~1", "deadbeef", "xyz", "", "latest~x", "ab", "latest~99999999999999999999"]
    {
        assert_eq!(restore(reference).exits(1).failure()["code"], "SNAPSHOT_NOT_FOUND", "{reference:?}");
    }
    let id = node.backup(&source);
    restore("latest~1").exits(1);
    let lacking = restore(&format!("{id}:/not/there")).exits(1).failure();
    assert!(lacking["message"].as_str().unwrap().contains("/not/there"), "{lacking}");
    assert!(!target.exists() || fs::read_dir(&target).unwrap().count() == 0);
    // The target is a file.
    fs::write(&target, b"mine").unwrap();
    let output = restore("latest");
    assert_ne!(output.code, 0, "{output:?}");
    assert_eq!(fs::read(&target).unwrap(), b"mine");
}

#[test]
fn a_second_daemon_on_the_same_data_is_11() {
    let mut node = Node::init();
    node.start();
    assert_eq!(node.run(&["daemon"]).exits(11).failure()["code"], "STORAGE_BUSY");
    // The first one is not disturbed: neither its socket nor its work.
    node.run(&["status"]).exits(0);
    node.run(&["rebuild-index"]).exits(11);
}

#[test]
fn mistakes_in_the_configuration_are_16_with_their_line() {
    let node = Node::init();
    let config = node.secret("bad.yaml", "replication:\n  copies: 2\n  lendd: 5\n");
    let output = node.run(&["-c", text(&config), "snapshots"]).exits(16);
    let failure = output.failure();
    let message = failure["message"].as_str().unwrap();
    assert!(message.contains("lendd") && message.contains("lend?") && message.contains('3'), "{message}");
    let config = node.secret("worse.yaml", "# peers\np2p: { max_peers: many }\n");
    let failure = node.run(&["-c", text(&config), "snapshots"]).exits(16).failure();
    let message = failure["message"].as_str().unwrap();
    assert!(
        message.contains(":2:") && message.contains("many") && message.contains("max_peers"),
        "{message}"
    );
    let absent = node.path("absent.yaml");
    node.run(&["-c", text(&absent), "snapshots"]).exits(16);
    let node = node.with("snapshot.avg_chunk_size", "12");
    let failure = node.run(&["config", "validate"]).exits(16).failure();
    assert!(failure["message"].as_str().unwrap().contains("AVG_CHUNK_SIZE"), "{failure}");
}

#[test]
fn addresses_without_a_peer_id_are_refused_and_unreachable_ones_disturb_nobody() {
    let node = Node::init();
    for address in
        ["/ip4/127.0.0.1/tcp/9", "127.0.0.1:9", "/p2p/junk", "", "/ip4/127.0.0.1/tcp/99999999/p2p/x"]
    {
        let failure = node.run(&["peers", "add", address]).exits(2).failure();
        assert!(failure["message"].as_str().is_some_and(|text| !text.is_empty()), "{failure}");
    }
    assert_eq!(node.run(&["peers"]).exits(0).json().as_array().map(Vec::len), Some(0));
    let stranger = Node::storage_only("1GiB").peer_id();
    let address = format!("/ip4/127.0.0.1/tcp/9/p2p/{stranger}");
    let node = node.with("peer_bootstrap", "/ip4/127.0.0.1/tcp/9");
    let failure = node.run(&["snapshots"]).exits(16).failure();
    assert!(failure["message"].as_str().unwrap().contains("/p2p/"), "{failure}");

    let mut node = Node::init().with("peer_bootstrap", &address);
    node.run(&["peers", "add", &address]).exits(0);
    node.start();
    let source = node.path("source");
    tree::plain(&source, 1, 2, 1000);
    node.backup(&source);
    let target = node.path("target");
    let reference = format!("latest:{}", text(&source));
    node.run(&["restore", &reference, "--target", text(&target)]).exits(0);
    assert_same(&source, &target);
    assert_eq!(node.peer(&stranger).expect("it is listed")["connected"], false);
}

#[test]
fn a_storage_only_node_backs_up_nothing() {
    let node = Node::storage_only("1GiB");
    let failure = node.run(&["backup", "/etc/hostname"]).exits(10).failure();
    assert_eq!(failure["code"], "VAULT_NOT_FOUND");
    node.run(&["snapshots"]).exits(10);
    assert!(node.files("keys").is_empty() && !node.repo().join("vault.id").exists());
    node.run(&["verify"]).exits(0);
}

#[test]
fn usage_errors_are_2_and_told_in_json_too() {
    let node = Node::bare();
    for command in
        [&["backup"][..], &["frobnicate"], &["restore", "latest"], &["backup", "/", "--wait-timeout", "5s"]]
    {
        assert_eq!(node.run(command).exits(2).failure()["code"], "USAGE_INVALID", "{command:?}");
    }
}
