//! Small limits pace what moves and never starve it, and a holder whose disk is an older copy is seen for what it is.

use std::fs;
use std::path::Path;

use super::mesh::{holders, owner};
use super::node::{Node, pair, text};
use super::tree::{self, assert_same};

/// Packs that came in part were thrown away with every "later": at a megabyte a second nothing ever arrived.
#[test]
fn copies_and_restores_move_under_every_small_limit() {
    let limits = [("p2p.peer_bytes_per_second", "1048576"), ("replication.upload_limit", "1048576")];
    for (key, value) in limits {
        let mut owner = Node::init().with("replication.copies", "1").with(key, value);
        owner.start();
        let mut holder = Node::storage_only("1GiB").with(key, value);
        holder.start();
        pair(&owner, &holder);
        let source = owner.path("source");
        tree::plain(&source, 1, 6, 1 << 20);
        assert_eq!(owner.replicate(&source)["copies"], 1, "{key}");
        owner.kill();
        let new = Node::bare();
        let phrase = owner.phrase();
        let arguments = ["recover", "--peer", &holder.address(), "--phrase-file", text(&phrase)];
        new.run(&arguments).exits(0);
        let target = new.path("target");
        let reference = format!("latest:{}", text(&source));
        new.run(&["restore", &reference, "--target", text(&target)]).exits(0);
        assert_same(&source, &target);
    }
}

/// Where only one request a second was served, none of those that a copy takes got through.
#[test]
fn one_request_a_second_is_enough_for_a_copy() {
    let slow = |node: Node| node.with("security.requests_per_second", "1").with("security.burst_size", "1");
    let mut owner = slow(Node::init().with("replication.copies", "1"));
    owner.start();
    let mut holder = slow(Node::storage_only("1GiB"));
    holder.start();
    pair(&owner, &holder);
    let source = owner.path("source");
    tree::plain(&source, 1, 3, 100_000);
    assert_eq!(owner.replicate(&source)["copies"], 1);
}

/// Jobs took the larger chunks at once and the larger memory never: they waited for it for ever, and four of them barred
/// every restore.
#[test]
fn after_a_reload_with_larger_chunks_and_more_memory_backups_go_on() {
    let mut node = Node::init();
    let file = node.path("config/shadowvault/config.yaml");
    let write = |text: &str| fs::write(&file, text).expect("the configuration is ours");
    write("storage: { memory_limit: 40MiB }\n");
    node.start();
    write("storage: { memory_limit: 128MiB }\nsnapshot: { max_chunk_size: 8MiB }\n");
    let done = node.run(&["config", "reload"]).exits(0).json();
    assert_eq!(done["restart"], serde_json::json!([]), "{done}");
    let source = node.path("source");
    tree::plain(&source, 1, 3, 100_000);
    node.backup(&source);
}

/// Unchanged files were backed up with "2 of 2 copies" onto packs that one of the two had lost with its newer disk.
#[test]
fn a_holder_put_back_to_an_older_copy_of_its_disk_gets_what_it_lacks_before_anything_rests_on_it() {
    let owner = owner(2);
    let [mut holder, _other] = holders::<2>(&owner);
    let source = owner.path("source");
    tree::plain(&source, 1, 10, 100_000);
    owner.replicate(&source);
    holder.terminate();
    let image = owner.path("image");
    copy(holder.repo(), &image);
    holder.start();
    tree::plain(&source.join("later"), 2, 10, 100_000);
    owner.replicate(&source);
    let whole = holder.pack_bytes();
    holder.terminate();
    fs::remove_dir_all(holder.repo()).unwrap();
    copy(&image, holder.repo());
    assert!(holder.pack_bytes() < whole);
    holder.start();
    assert_eq!(owner.replicate(&source)["copies"], 2);
    assert!(holder.pack_bytes() >= whole, "{} of {whole}", holder.pack_bytes());
    // It was asked for all that it had confirmed, before or after it was offered what it lacked.
    let told =
        ["older copy", "confirmed all that it has again"].iter().any(|said| owner.log_text().contains(said));
    assert!(told, "{}", owner.log_text());
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (kind, target) = (entry.file_type().unwrap(), to.join(entry.file_name()));
        if kind.is_dir() {
            copy(&entry.path(), &target);
        } else if kind.is_file() {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
