//! Looking into snapshots with the real program: each command without and through the daemon, with the same result.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::mesh::{holders, owner};
use super::node::{Node, Output, PATIENCE, text, until};
use super::tree::{self, assert_same};

/// A node with two snapshots of an odd source, and that source.
fn backed_up() -> (Node, PathBuf) {
    let node = Node::init();
    let source = node.path("source");
    tree::odd(&source);
    node.backup(&source);
    fs::write(source.join("text"), "other\n").unwrap();
    fs::write(source.join("sub/new"), "new\n").unwrap();
    fs::remove_file(source.join("empty")).unwrap();
    node.backup(&source);
    (node, source)
}

fn plain(node: &Node, arguments: &[&str]) -> Output {
    node.finish(node.command().args(arguments))
}

/// A reference to a path of a snapshot.
fn within(reference: &str, path: &Path) -> String {
    format!("{reference}:{}", text(path))
}

/// stdout of a dump, which need not be text.
fn dumped(node: &Node, reference: &std::ffi::OsStr) -> (i32, Vec<u8>) {
    let mut command = node.command();
    command.arg("dump").arg(reference).stderr(Stdio::null());
    let output = command.output().expect("the program runs");
    (output.status.code().unwrap_or(-1), output.stdout)
}

#[test]
fn every_command_says_the_same_without_and_through_the_daemon() {
    let (mut node, source) = backed_up();
    let (old, new) = (within("latest~1", &source), within("latest", &source));
    let commands: [&[&str]; 15] = [
        &["ls", "latest"],
        &["ls", &new, "-l"],
        &["ls", &new, "-R", "-l"],
        &["ls", &within("latest", &source.join("text"))],
        &["find", "*text*", "-l"],
        &["find", "sub/*", "--type", "f", "--snapshot", "latest"],
        &["find", "TEXT", "-i", "--newer", "2020-01-01"],
        &["find", "nothing like this"],
        &["diff", "latest~1", "latest"],
        &["diff", &old, &new, "--metadata"],
        &["diff", "latest", "latest"],
        &["stats", "latest"],
        &["ls", "latest:/absent"],
        &["find", "[a"],
        &["dump", &within("latest", &source.join("fifo"))],
    ];
    let run = |node: &Node| -> Vec<(i32, String, String)> {
        let both = commands.iter().flat_map(|command| [plain(node, command), node.run(command)]);
        both.map(|output| (output.code, output.stdout, output.stderr)).collect()
    };
    let near = run(&node);
    node.start();
    for ((near, far), command) in near.iter().zip(run(&node)).zip(commands.iter().flat_map(|c| [c, c])) {
        assert_eq!(*near, far, "{command:?}");
    }
    let (failed, said): (Vec<_>, Vec<_>) = near.into_iter().partition(|(code, ..)| *code != 0);
    assert_eq!(failed.iter().map(|(code, ..)| *code).collect::<Vec<_>>(), [1, 1, 2, 2, 2, 2]);
    for (_, json, _) in said.iter().skip(1).step_by(2) {
        serde_json::from_str::<Value>(json).unwrap_or_else(|error| panic!("{error}: {json}"));
    }
}

#[test]
fn what_find_and_diff_say_is_right() {
    let (node, source) = backed_up();
    let found = node.run(&["find", "text"]).exits(0).json();
    let hits: Vec<_> = found.as_array().unwrap().iter().map(|one| one["hits"].clone()).collect();
    assert_eq!(hits, [1, 1], "{found}");
    assert_eq!(found[0]["matches"][0]["path"], text(&source.join("text")));
    assert_eq!(node.run(&["find", "text", "--host", "elsewhere"]).exits(0).json(), serde_json::json!([]));

    let diff = node.run(&["diff", "latest~1", "latest"]).exits(0).json();
    let changes: Vec<String> = diff["changes"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|change| change["path"].as_str().unwrap().starts_with(text(&source)))
        .map(|change| format!("{}{}", change["modifier"].as_str().unwrap(), change["path"].as_str().unwrap()))
        .collect();
    let expected = [("-", "empty"), ("+", "sub/new"), ("M", "text")];
    let expected = expected.map(|(letter, name)| format!("{letter}{}", text(&source.join(name))));
    assert_eq!(changes, expected);
    let counted = &diff["statistics"];
    assert_eq!((&counted["changed_files"], &counted["added"]["bytes"]), (&1.into(), &10.into()), "{counted}");
}

#[test]
fn an_archive_unpacks_to_what_was_backed_up() {
    let (mut node, source) = backed_up();
    for name in ["near", "far"] {
        let target = node.path(name);
        fs::create_dir(&target).unwrap();
        let (code, archive) = dumped(&node, within("latest", &source).as_ref());
        assert_eq!(code, 0);
        let mut tar = Command::new("tar");
        tar.args([
            "-xp",
            "--numeric-owner",
            "--xattrs",
            "--xattrs-include=*",
            "-f",
            "-",
            "-C",
            text(&target),
        ]);
        let mut tar = tar.stdin(Stdio::piped()).spawn().expect("tar is installed");
        tar.stdin.take().unwrap().write_all(&archive).unwrap();
        assert!(tar.wait().unwrap().success());
        // Holes are zeros in an archive.
        let length = 8 << 20;
        assert_eq!(fs::metadata(target.join("sparse")).unwrap().len(), length);
        tree::punch(&target.join("sparse"), &source.join("sparse"));
        assert_same(&source, &target);
        if name == "near" {
            node.start();
        }
    }
}

#[test]
fn files_are_dumped_to_the_byte_and_into_files() {
    let (mut node, source) = backed_up();
    for _ in 0..2 {
        for name in ["big", "sparse", "line\nbreak and \u{202e}more", "sub/deeper/small"] {
            let (code, bytes) = dumped(&node, within("latest", &source.join(name)).as_ref());
            assert_eq!(code, 0);
            assert!(bytes == fs::read(source.join(name)).unwrap(), "{name}");
        }
        let to = node.path("out");
        let done =
            node.run(&["dump", &within("latest", &source.join("big")), "--output", text(&to)]).exits(0);
        assert_eq!(done.json()["bytes"], 3_000_000);
        assert!(fs::read(&to).unwrap() == fs::read(source.join("big")).unwrap());
        fs::remove_file(&to).unwrap();
        if !node.socket().exists() {
            node.start();
        }
    }
}

/// Names are bytes: the listing shows a form that every command takes back.
#[test]
fn names_that_are_not_utf_8_can_be_named() {
    let (mut node, source) = backed_up();
    let name = b"not utf-8 \xff\xfe";
    for round in ["near", "far"] {
        let listed = plain(&node, &["ls", &within("latest", &source)]).exits(0).stdout;
        let shown = listed.lines().find(|line| line.contains("not utf-8")).expect("it is listed");
        assert_eq!(shown, format!(":{}/not utf-8 %FF%FE", text(&source)));
        let entries = node.run(&["ls", &format!("latest:{shown}")]).exits(0).json();
        assert_eq!(format!(":{}", entries[0]["path_encoded"].as_str().unwrap()), shown);
        let raw = [within("latest", &source).as_bytes(), b"/", name].concat();
        let forms = [format!("latest:{shown}").into_bytes(), raw];
        for (number, form) in forms.iter().enumerate() {
            let reference = std::ffi::OsStr::from_bytes(form);
            assert_eq!(dumped(&node, reference), (0, b"odd name".to_vec()));
            let target = node.path(&format!("{round}-{number}"));
            let mut command = node.command();
            node.finish(command.arg("restore").arg(reference).arg("--target").arg(&target)).exits(0);
            assert_eq!(fs::read(target.join(std::ffi::OsStr::from_bytes(name))).unwrap(), b"odd name");
        }
        if round == "near" {
            node.start();
        }
    }
}

#[test]
fn a_dump_that_breaks_off_does_not_look_whole() {
    let mut node = Node::init();
    let source = node.path("source");
    tree::plain(&source, 1, 1, 30_000_000);
    let snapshot = node.backup(&source);
    let file = source.join("file-0");
    // Not the pack of the trees, which is small.
    for pack in node.packs().iter().filter(|pack| fs::metadata(pack).unwrap().len() > 4 << 20).skip(1) {
        fs::remove_file(pack).unwrap();
    }
    // Nor is there anything left to mend it from, which a daemon does as it starts.
    let content = fs::read(&file).unwrap();
    fs::remove_dir_all(&source).unwrap();
    let to = node.path("out");
    for _ in 0..2 {
        let (code, bytes) = dumped(&node, within("latest", &file).as_ref());
        assert_eq!(code, 5);
        assert!(bytes.len() < 30_000_000 && content.starts_with(&bytes));
        let failed = node.run(&["dump", &within("latest", &source), "-o", text(&to)]).exits(5).failure();
        assert_eq!(failed["code"], "CHUNK_NOT_FOUND");
        let left: Vec<_> = fs::read_dir(node.path("")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| !name.to_string_lossy().starts_with("out")), "{left:?}");
        if !node.socket().exists() {
            node.start();
        }
    }
    // A program that knows only HTTP sees that the body has no end.
    let mut stream = UnixStream::connect(node.socket()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!("GET /api/v1/snapshots/{snapshot}/dump?path={} HTTP/1.1", text(&source));
    write!(stream, "{head}\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok();
    assert!(answer.starts_with(b"HTTP/1.1 200") && !answer.ends_with(b"0\r\n\r\n"));
}

/// As a pager does, or a program that waits for something else.
#[test]
fn a_reader_that_pauses_does_not_keep_the_daemon_from_ending() {
    let mut node = Node::init();
    let source = node.path("source");
    tree::plain(&source, 1, 1, 10_000_000);
    node.backup(&source);
    node.start();
    let mut command = node.command();
    command.arg("dump").arg(within("latest", &source.join("file-0")));
    let mut reader = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let (mut first, mut stdout) = ([0; 1], reader.stdout.take().unwrap());
    stdout.read_exact(&mut first).unwrap();
    assert_eq!(node.terminate().0, 0, "{}", node.log_text());
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).unwrap();
    assert!(rest.len() < 9_999_999 && !reader.wait().unwrap().success(), "{}", rest.len());
}

#[test]
fn a_missing_chunk_is_pulled_from_a_peer_for_a_dump() {
    let owner = owner(1);
    let [_holder] = holders(&owner);
    let source = owner.path("source");
    tree::plain(&source, 1, 3, 500_000);
    owner.replicate(&source);
    owner.packs().iter().for_each(|pack| fs::remove_file(pack).unwrap());
    for name in ["file-0", "file-2"] {
        let file = source.join(name);
        assert_eq!(dumped(&owner, within("latest", &file).as_ref()), (0, fs::read(&file).unwrap()));
    }
}

#[test]
fn a_result_that_cannot_be_written_is_a_failure() {
    let (mut node, source) = backed_up();
    let big = within("latest", &source.join("big"));
    let commands: [&[&str]; 9] = [
        &["snapshots"],
        &["ls", "latest", "-R"],
        &["find", "text"],
        &["diff", "latest~1", "latest"],
        &["stats", "--json"],
        &["dump", &big],
        &["tag", "latest", "--add", "x"],
        &["config", "show"],
        &["--help"],
    ];
    for _ in 0..2 {
        for command in commands {
            let full = File::options().write(true).open("/dev/full").unwrap();
            let output = node.command().args(command).stdout(full).output().unwrap();
            assert_eq!(output.status.code(), Some(1), "{command:?}");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(said.contains("the result cannot be written: No space left"), "{command:?}: {said}");
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            let output = node.command().args(command).stdout(writer).output().unwrap();
            assert_eq!(output.status.code(), Some(141), "{command:?}");
            assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{command:?}");
        }
        if !node.socket().exists() {
            node.start();
        }
    }
}

#[test]
fn tags_change_and_holders_get_the_record() {
    let owner = owner(1);
    let [holder] = holders(&owner);
    let source = owner.path("source");
    tree::plain(&source, 1, 3, 100_000);
    let id = owner.replicate(&source)["snapshot_id"].as_str().unwrap().to_owned();
    let packs = owner.packs();
    let tagged = owner.run(&["tag", "latest", "--add", "keep", "--add", "b"]).exits(0).json();
    assert_eq!(
        (&tagged[0]["old_snapshot_id"], &tagged[0]["tags"]),
        (&id.clone().into(), &serde_json::json!(["keep", "b"]))
    );
    let new = tagged[0]["snapshot_id"].as_str().unwrap().to_owned();
    assert_ne!(new, id);
    let snapshot = until("the holder confirms the new record", &[&owner, &holder], || {
        owner.snapshots().into_iter().next().filter(|one| one["copies"] == 1)
    });
    assert_eq!((&snapshot["id"], &snapshot["original"]), (&new.clone().into(), &id.clone().into()));
    assert!(holder.repo().join("snapshots").join(&new).exists());
    assert_eq!(owner.packs(), packs);
    owner.run(&["verify", &id[..8]]).exits(0);
    let target = owner.path("target");
    owner.run(&["restore", &within(&id[..12], &source), "--target", text(&target)]).exits(0);
    assert_same(&source, &target);
    assert_eq!(owner.run(&["snapshots", "--tag", "keep"]).exits(0).json()[0]["id"], new);
    let cleared = owner.run(&["tag", &new, "--set", ""]).exits(0).json();
    assert_eq!(cleared[0]["tags"], serde_json::json!([]));
    for wrong in [&["tag", "latest"][..], &["tag", "latest", "--add", " "], &["tag", "--add", "x"]] {
        owner.run(wrong).exits(2);
    }
    owner.run(&["tag", "beef", "--add", "x"]).exits(1);
}

/// Lists went as attributes, which tar does not take for lists; a link to a socket, which is not in an archive, broke it.
#[test]
fn dumped_lists_and_sockets_are_what_tar_extracts() {
    let node = Node::init();
    let (source, target) = (node.path("source"), node.path("target"));
    tree::plain(&source.join("dir"), 1, 2, 100);
    fs::create_dir(&target).unwrap();
    let run = |program: &str, arguments: &[&str]| {
        Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"))
    };
    let file = source.join("dir/file-0");
    assert!(run("setfacl", &["-m", "u:12345:rw,g:7:x,m::rwx", text(&file)]).status.success());
    let directory = source.join("dir");
    assert!(run("setfacl", &["-d", "-m", "u:54321:rwx", text(&directory)]).status.success());
    let listener = std::os::unix::net::UnixListener::bind(source.join("a-socket")).unwrap();
    fs::hard_link(source.join("a-socket"), source.join("dir/z-socket")).unwrap();
    node.backup(&source);
    drop(listener);
    let archive = node.path("archive.tar");
    node.run(&["dump", &within("latest", &source), "--output", text(&archive)]).exits(0);
    let done = run("tar", &["-xp", "--acls", "--xattrs", "-f", text(&archive), "-C", text(&target)]);
    assert!(done.status.success(), "{done:?}");
    for name in ["dir", "dir/file-0", "dir/file-1"] {
        let list = |base: &Path| run("getfacl", &["-cn", text(&base.join(name))]).stdout;
        let (before, after) = (list(&source), list(&target));
        assert_eq!(String::from_utf8_lossy(&before), String::from_utf8_lossy(&after), "{name}");
    }
    assert!(
        String::from_utf8_lossy(&run("getfacl", &["-cn", text(&target.join("dir/file-0"))]).stdout)
            .contains("user:12345:rw-")
    );
}
