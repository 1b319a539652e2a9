//! A data directory that fails or goes away while a node works: nothing counts as done that is not, nothing counts as lost
//! that is only out of reach, and whoever watches over the node sees it.
//!
//! Faults are injected by `strace`, disks are unmounted as root; where either is not to be had, that is said.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::mesh::{holders, owner};
use super::node::{Node, connected, pair, text, under, until};
use super::tree::{self, assert_same};

fn has_strace() -> bool {
    let has = Command::new("strace").args(["-e", "trace=none", "true"]).output();
    let has = has.is_ok_and(|output| output.status.success());
    if !has {
        eprintln!("skipped: strace cannot be used here");
    }
    has
}

/// Words that run a program with a fault at each (`when` in strace's words) of these calls; its process is the program's.
fn faulty(fault: &str) -> [&str; 8] {
    ["strace", "-D", "-f", "-qqq", "-o", "/dev/null", "-e", fault]
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").args(["-a", text(from), text(to)]).status();
    assert!(copied.is_ok_and(|status| status.success()), "a copy");
}

/// An HTTP status and body.
fn health(address: SocketAddr) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("the health port answers");
    write!(stream, "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
    (code, answer)
}

/// What must be the same before and after.
fn counts(node: &Node) -> Vec<serde_json::Value> {
    let storage = node.status()["storage"].clone();
    let names = ["own_packs", "own_bytes", "foreign_packs", "foreign_bytes", "chunks"];
    names.map(|name| storage[name].clone()).to_vec()
}

/// Killed at each flush of a rebuild in turn, until one comes through: the index is the old one or the whole new one.
fn check_rebuild(node: &mut Node, damaged: bool) {
    node.start();
    let want = counts(node);
    node.terminate();
    if damaged {
        fs::remove_file(node.repo().join("index.redb")).unwrap();
    }
    let mut kills = 0;
    for at in 1.. {
        let fault = format!("inject=fdatasync,fsync,rename:signal=KILL:when={at}");
        let mut command = node.command();
        command.args(["--json", "rebuild-index"]);
        let code = node.finish(&mut under(&faulty(&fault), command)).code;
        if code == 0 {
            break;
        }
        assert_eq!(code, 137, "at {at}");
        kills += 1;
        assert!(!node.repo().join("index.redb.old").exists());
        let counted = node.run(&["status"]).exits(13);
        if damaged && !node.repo().join("index.redb").exists() {
            assert!(counted.stderr.contains("rebuild-index"), "at {at}: {counted:?}");
        } else {
            assert_eq!(counts(node), want, "killed at {at}");
        }
    }
    assert!(kills >= 4, "only {kills} kills met the rebuild");
    node.start();
    assert_eq!(counts(node), want);
    node.run(&["verify"]).exits(0);
}

/// A holder's rebuild that was cut off left an index that opened as whole and knew none of its packs.
#[test]
fn a_rebuild_that_is_killed_at_any_flush_leaves_a_whole_index_or_the_old_one() {
    if !has_strace() {
        return;
    }
    let mut owner = owner(1);
    let [mut holder] = holders(&owner);
    let source = owner.path("source");
    tree::plain(&source, 1, 20, 200_000);
    owner.replicate(&source);
    holder.terminate();
    owner.terminate();
    for damaged in [false, true] {
        check_rebuild(&mut holder, damaged);
        holder.terminate();
        check_rebuild(&mut owner, damaged);
        owner.terminate();
    }
}

/// After a failed flush the daemon refused every backup, called itself ok, and ended with 0 when it was stopped.
#[test]
fn a_failed_flush_is_never_acknowledged_and_ends_the_daemon_as_a_failure() {
    if !has_strace() {
        return;
    }
    let mut node = Node::init().with("replication.copies", "1");
    let source = node.path("source");
    tree::plain(&source, 1, 10, 200_000);
    let (mut acknowledged, mut ends) = (0, 0);
    for at in 1..=8 {
        // Of both kinds: what opening and status take, and what comes in the middle of backups.
        let fault = format!("inject=fdatasync,fsync:error=EIO:when={}", at * 3);
        let before = node.snapshots().len();
        if let Some(code) = node.try_start_under(&faulty(&fault)) {
            // It met the fault before it was up.
            assert_eq!(code, 1, "fault {at}: {}", node.log_text());
            ends += 1;
            node.run(&["verify"]).exits(0);
            continue;
        }
        let mut done = 0;
        for round in 0..20 {
            fs::write(source.join("changing"), format!("{at} {round}")).unwrap();
            let output = node.run(&["backup", text(&source)]);
            if output.code != 0 {
                output.failure();
                break;
            }
            done += 1;
        }
        let code = node.ended();
        assert_eq!(code, 1, "fault {at}: {}", node.log_text());
        ends += 1;
        acknowledged += done;
        let after = node.snapshots().len();
        assert!(after >= before + done, "fault {at}: {done} acknowledged, {before} before, {after} now");
        node.run(&["verify"]).exits(0);
    }
    assert!(ends == 8 && acknowledged > 0);
    node.backup(&source);
}

/// Each page of the index zeroed: one ended a command with 101, one left a daemon that ran on while its backups failed.
#[test]
fn zeroed_pages_of_the_index_are_one_clear_error_and_a_daemon_makes_it_anew() {
    let mut node = Node::init().with("replication.copies", "1");
    let source = node.path("source");
    tree::plain(&source, 1, 60, 60_000);
    node.backup(&source);
    let index = node.repo().join("index.redb");
    let sound = fs::read(&index).unwrap();
    // The whole store as it was: an older index beside newer snapshots would be damage as well.
    let aside = node.path("aside");
    copy(node.repo(), &aside);
    let whole_again = |node: &Node| {
        fs::remove_dir_all(node.repo()).unwrap();
        copy(&aside, node.repo());
    };
    let pages = sound.len() / 4096;
    let used: Vec<usize> =
        (0..pages).filter(|page| sound[page * 4096..][..4096].iter().any(|byte| *byte != 0)).collect();
    for page in used.iter().copied().step_by(used.len().div_ceil(25)) {
        let mut bytes = sound.clone();
        bytes[page * 4096..][..4096].fill(0);
        whole_again(&node);
        fs::write(&index, &bytes).unwrap();
        let more = source.join("more");
        fs::write(&more, format!("{page}")).unwrap();
        let target = node.path(&format!("target-{page}"));
        let reference = format!("latest:{}", text(&source));
        let commands: [&[&str]; 6] = [
            &["snapshots"],
            &["verify"],
            &["restore", &reference, "--target", text(&target)],
            &["forget", "--keep-last", "99"],
            &["gc"],
            &["backup", text(&source)],
        ];
        for command in commands {
            let output = node.run(command);
            assert!(!output.stderr.contains("panicked"), "page {page}, {command:?}: {output:?}");
            if output.code != 0 {
                assert_eq!(output.code, 5, "page {page}, {command:?}: {output:?}");
                let hint = output.failure()["hint"].as_str().unwrap_or_default().to_owned();
                assert!(hint.contains("rebuild-index"), "page {page}, {command:?}: {output:?}");
            }
        }
    }
    // A daemon that has all keys helps itself; one that has not does not run as if all were well.
    for page in used.iter().copied().step_by(used.len().div_ceil(8)) {
        let mut bytes = sound.clone();
        bytes[page * 4096..][..4096].fill(0);
        whole_again(&node);
        fs::write(&index, &bytes).unwrap();
        node.start();
        node.backup(&source);
        node.run(&["verify"]).exits(0);
        assert_eq!(node.terminate().0, 0, "page {page}");
    }
}

/// A directory mounted at another place, and away again.
struct Bound {
    real: PathBuf,
    place: PathBuf,
}

impl Bound {
    fn mount(&self) -> bool {
        let done = Command::new("mount").arg("--bind").args([&self.real, &self.place]).output();
        done.is_ok_and(|output| output.status.success())
    }

    /// As when the disk goes: whoever has something open there keeps it.
    fn unmount(&self) {
        let done = Command::new("umount").arg("-l").arg(&self.place).status();
        assert!(done.is_ok_and(|status| status.success()), "an unmount");
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.place).output().ok();
    }
}

fn bound(home: &Path) -> Option<Bound> {
    let (real, place) = (home.join("real"), home.join("place"));
    for dir in [&real, &place] {
        fs::create_dir_all(dir).unwrap();
    }
    let bound = Bound { real, place };
    if bound.mount() {
        return Some(bound);
    }
    eprintln!("skipped: mounting is not allowed here");
    None
}

/// A holder whose disk went answered "lost": everything was copied elsewhere, and the black mark stayed.
#[test]
fn an_unmounted_holder_is_away_and_has_lost_nothing() {
    let home = tempfile::tempdir().unwrap();
    let Some(disk) = bound(home.path()) else { return };
    let owner = owner(1);
    let mut holder = Node::bare().without_passphrase().at(&disk.place);
    holder.run(&["init", "--storage-only", "--lend", "1GiB"]).exits(0);
    holder.start();
    pair(&owner, &holder);
    let source = owner.path("source");
    tree::plain(&source, 1, 20, 200_000);
    owner.replicate(&source);
    let id = holder.peer_id();
    let port = holder.port("health");
    assert_eq!(health(port).0, 200);

    disk.unmount();
    let (code, body) = health(port);
    assert_eq!(code, 503, "{body}");
    assert!(body.contains(r#""storage":"unavailable""#), "{body}");
    let audited = owner.run(&["verify", "--peers"]).json();
    let audit = audited["audits"].as_array().and_then(|all| all.first()).cloned().unwrap_or_default();
    assert_eq!((&audit["wrong"], &audit["packs_lost"]), (&0.into(), &0.into()), "{audited}");
    assert_eq!(audit["offline"], audit["slices"], "{audited}");
    assert_eq!(owner.snapshots()[0]["copies"], 1, "what was confirmed is not lost");
    // What is new is not taken, and not confirmed.
    fs::write(source.join("more"), tree::noise(7, 300_000)).unwrap();
    owner.run(&["backup", text(&source), "--wait", "copies", "--wait-timeout", "2s"]).exits(4);
    assert_eq!(fs::read_dir(&disk.place).unwrap().count(), 0, "nothing is written to the empty mount point");
    // Commands there do not say that there never was a node.
    let failure = holder.run(&["snapshots"]).exits(1).failure();
    assert_eq!(failure["code"], "STORAGE_UNAVAILABLE", "{failure}");
    assert!(failure["hint"].as_str().unwrap_or_default().contains("mounted"), "{failure}");

    assert!(disk.mount());
    until("the disk is back", &[&holder], || (health(port).0 == 200).then_some(()));
    connected(&owner, &holder);
    owner.replicate(&source);
    let audited = owner.run(&["verify", "--peers"]).exits(0).json();
    let audit = &audited["audits"][0];
    assert_eq!((&audit["wrong"], &audit["ok"]), (&0.into(), &audit["slices"]), "{audited}");
    let peer = owner.peer(&id).expect("the holder");
    assert!(peer["audit"]["lost_at"].is_null(), "no black mark: {peer}");
    assert_eq!(holder.terminate().0, 0);
}

/// Put back, but another directory: what is open is not what is there.
#[test]
fn a_node_whose_directory_was_replaced_ends_so_that_it_is_opened_anew() {
    let home = tempfile::tempdir().unwrap();
    let Some(disk) = bound(home.path()) else { return };
    let mut node = Node::bare().at(&disk.place);
    node.run(&["init"]).exits(0);
    let source = node.path("source");
    tree::plain(&source, 1, 3, 50_000);
    node.backup(&source);
    node.start();
    let copy = home.path().join("copy");
    self::copy(&disk.real, &copy);
    disk.unmount();
    let other = Bound { real: copy, place: disk.place.clone() };
    assert!(other.mount());
    assert_eq!(node.ended(), 1, "{}", node.log_text());
    fs::remove_file(disk.place.join("control.sock")).ok();
    node.start();
    let target = node.path("target");
    node.run(&["restore", &format!("latest:{}", text(&source)), "--target", text(&target)]).exits(0);
    assert_same(&source, &target);
}

/// The file system is at its end: the status comes from memory.
#[test]
fn status_answers_when_every_read_and_write_of_the_disk_fails() {
    if !has_strace() {
        return;
    }
    let mut node = Node::init().with("replication.copies", "1");
    let source = node.path("source");
    tree::plain(&source, 1, 3, 50_000);
    node.backup(&source);
    // From some flush on nothing works any more, opening and listing included.
    let fault =
        "inject=fdatasync,fsync,pread64,pwrite64,getdents64,renameat2,rename,mkdir:error=EIO:when=60+";
    node.start_under(&faulty(fault));
    let mut told = false;
    for round in 0..40 {
        fs::write(source.join("changing"), round.to_string()).unwrap();
        let backup = node.run(&["backup", text(&source)]);
        let status = node.run(&["status"]);
        assert!([0, 1, 13].contains(&status.code), "{status:?}");
        if status.code == 1 && backup.code != 0 {
            assert_ne!(status.json()["verdict"], "ok", "{status:?}");
            told = true;
        }
        if status.code == 13 || backup.code == 13 {
            // A flush was among what failed: then it ends, as a failure.
            assert_ne!(node.ended(), 0, "{}", node.log_text());
            return;
        }
    }
    assert!(told, "{}", node.log_text());
}

/// A directory that somebody made in `tmp/` kept every command from opening the store.
#[test]
fn what_lies_in_tmp_keeps_nobody_out() {
    let node = Node::init();
    fs::create_dir_all(node.repo().join("tmp/some/where")).unwrap();
    fs::write(node.repo().join("tmp/some/where/file"), b"x").unwrap();
    node.run(&["snapshots"]).exits(0);
    assert!(node.files("tmp/").is_empty());
}

/// The limit of a file's size killed the daemon by a signal.
#[test]
fn a_file_size_limit_is_like_a_full_disk() {
    let mut node = Node::init().with("replication.copies", "1");
    let source = node.path("source");
    tree::plain(&source, 1, 1, 6_000_000);
    let limited = |kib: &str| ["sh", "-c", "ulimit -f $0; exec \"$@\"", kib].map(str::to_owned);
    let words = limited("4096");
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    node.start_under(&words);
    let failure = node.run(&["backup", text(&source)]).exits(15).failure();
    assert_eq!(failure["code"], "STORAGE_FULL", "{failure}");
    node.run(&["snapshots"]).exits(0);
    assert_eq!(node.terminate().0, 0);
    node.start();
    node.backup(&source);
}

/// With 64 file handles a restore left entries out.
#[test]
fn few_file_handles_make_a_restore_slower_and_not_incomplete() {
    let node = Node::init();
    let source = node.path("source");
    for dir in 0..40 {
        tree::plain(&source.join(format!("{dir}/below/and/further")), dir, 8, 20_000);
    }
    node.backup(&source);
    let target = node.path("target");
    let mut command = node.command();
    command.args(["--json", "restore", &format!("latest:{}", text(&source)), "--target", text(&target)]);
    let words = ["sh", "-c", "ulimit -n 64; exec \"$@\"", "sh"];
    node.finish(&mut under(&words, command)).exits(0);
    assert_same(&source, &target);
}

/// What the kernel makes of a failing disk, and a copy that was burnt: nothing could be read from it, for want of a lock.
#[test]
fn a_data_directory_that_can_be_read_only_lists_verifies_and_restores() {
    let home = tempfile::tempdir().unwrap();
    let Some(bound) = bound(home.path()) else { return };
    let node = Node::bare().at(&bound.place);
    node.run(&["init"]).exits(0);
    let source = node.path("source");
    tree::plain(&source, 9, 6, 50_000);
    let id = node.backup(&source);
    // A copy may be without the lock.
    fs::remove_file(bound.real.join("lock")).unwrap();
    let options = ["-o", "remount,ro,bind", text(&bound.place)];
    assert!(Command::new("mount").args(options).status().is_ok_and(|done| done.success()));
    let files = || {
        let mut all: Vec<PathBuf> = node.files("");
        all.sort();
        all
    };
    let before = files();
    let target = node.path("target");
    let latest = format!("latest:{}", text(&source));
    for command in [
        &["snapshots"][..],
        &["ls", "latest"],
        &["find", "*"],
        &["stats"],
        &["diff", "latest", &id],
        &["dump", &latest],
        &["verify"],
        &["verify", "--quick"],
        &["restore", &latest, "--target", text(&target)],
        &["export", "latest", "--output", text(&node.path("archive"))],
    ] {
        node.run(command).exits(0);
    }
    assert_same(&source, &target);
    for command in [
        &["backup", text(&source)][..],
        &["forget", &id, "--yes"],
        &["tag", &id, "--add", "x"],
        &["rebuild-index"],
    ] {
        let failure = node.run(command).exits(1).failure();
        assert_eq!(failure["code"], "STORAGE_UNAVAILABLE", "{command:?}: {failure}");
        assert!(failure["message"].to_string().contains("can be read only"), "{failure}");
    }
    assert_eq!(files(), before);
}
