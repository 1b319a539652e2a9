//! What a backup takes: patterns, markers, lists of paths, standard input, dry runs, explanations.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::node::{Node, Output, text, until};

fn put(base: &Path, files: &[(&str, &str)]) {
    for (path, content) in files {
        let path = base.join(path);
        fs::create_dir_all(path.parent().expect("below the base")).unwrap();
        fs::write(path, content).unwrap();
    }
}

/// Files of the newest snapshot, by their path below `base`.
fn stored(node: &Node, base: &Path) -> Vec<String> {
    let entries = node.run(&["ls", "latest", "-R"]).exits(0).json();
    let files = entries.as_array().expect("a list").iter().filter(|entry| entry["type"] == "file");
    let below = |path: &str| Path::new(path).strip_prefix(base).ok().map(|path| text(path).to_owned());
    files.filter_map(|entry| below(entry["path"].as_str()?)).collect()
}

/// Runs a command with a file as its standard input.
fn with_input(node: &Node, arguments: &[&str], input: &Path) -> Output {
    node.finish(node.command().arg("--json").args(arguments).stdin(File::open(input).unwrap()))
}

/// Every file of the data directory with what is in it, but for the index, in which opening it alone leaves a mark.
fn data(node: &Node) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = node.files("").into_iter().filter(|path| !path.ends_with("index.redb"));
    files.map(|path| (path.clone(), fs::read(path).unwrap_or_default())).collect()
}

#[test]
fn a_backup_leaves_out_what_it_is_told_to() {
    let node = Node::init();
    let source = node.path("source");
    let tag = "Signature: 8a477f597d28d172789f06886806bc55";
    put(
        &source,
        &[("a.o", "1"), ("keep.o", "1"), ("big", "123456"), ("cache/CACHEDIR.TAG", tag), ("cache/x", "")],
    );
    put(
        &source,
        &[
            ("skip/.no", ""),
            ("skip/x", ""),
            ("in/.shadowvaultignore", "*.log\n"),
            ("in/a.log", ""),
            ("in/b", ""),
        ],
    );
    let patterns = node.secret("patterns", "# objects\n*.o\n!keep.o\n");
    let mut arguments = vec!["backup", text(&source), "--exclude-file", text(&patterns), "--exclude-caches"];
    arguments.extend(["--exclude-if-present", ".no", "--exclude-larger-than", "50", "--exclude", "/big"]);
    node.run(&arguments).exits(0);
    let kept = ["cache/CACHEDIR.TAG", "in/.shadowvaultignore", "in/b", "keep.o", "skip/.no"];
    assert_eq!(stored(&node, &source), kept);
    node.run(&["backup", text(&source), "--exclude-larger-than", "5"]).exits(0);
    assert!(!stored(&node, &source).contains(&"big".to_owned()));
}

#[test]
fn lists_name_what_is_backed_up_and_what_is_missing_is_told() {
    let node = Node::init();
    let source = node.path("source");
    put(&source, &[("a", "a"), (" b ", "b"), ("#c", "c"), ("line\nbreak", "d"), ("other", "e")]);
    let path = |name: &str| source.join(name).to_str().unwrap().to_owned();
    let lines = node.secret("lines", &format!("{}\n\n{}\n{}\n", path("a"), path(" b "), path("#c")));
    let zeros = node.secret("zeros", &format!("{}\0{}\0", path("line\nbreak"), path("a")));
    node.run(&["backup", "--files-from", text(&lines), "--files-from0", text(&zeros)]).exits(0);
    assert_eq!(stored(&node, &source), [" b ", "#c", "a", "line\nbreak"]);
    with_input(&node, &["backup", "--files-from0", "-"], &zeros).exits(0);
    assert_eq!(stored(&node, &source), ["a", "line\nbreak"]);

    let some = node.secret("some", &format!("{}\n{}\n", path("absent"), path("a")));
    let done = node.run(&["backup", "--files-from", text(&some)]).exits(3);
    assert_eq!((&done.json()["unreadable"], &done.failure()["code"]), (&1.into(), &"INCOMPLETE".into()));
    assert!(done.stdout.contains("absent"), "{done:?}");
    assert_eq!(stored(&node, &source), ["a"]);
    let none = node.secret("none", &path("absent"));
    node.run(&["backup", "--files-from", text(&none)]).exits(1);
    assert_eq!(node.snapshots().len(), 3);
}

#[test]
fn standard_input_becomes_a_file() {
    let mut node = Node::init();
    let input = node.path("input");
    let bytes: Vec<u8> = (0..3_000_000u32).flat_map(|n| (n ^ (n >> 7)).to_le_bytes()).collect();
    fs::write(&input, &bytes).unwrap();
    let whole = |node: &Node, name: &str| {
        let target = node.path(name);
        node.run(&["restore", "latest", "--target", text(&target)]).exits(0);
        let restored = target.join(name);
        assert!(fs::read(&restored).unwrap() == bytes, "{name} differs");
        assert_eq!(fs::metadata(restored).unwrap().permissions().mode() & 0o777, 0o600);
    };
    let done =
        with_input(&node, &["backup", "--stdin", "--stdin-filename", "db.sql"], &input).exits(0).json();
    assert_eq!((&done["files_new"], &done["total_bytes_processed"]), (&1.into(), &bytes.len().into()));
    whole(&node, "db.sql");
    node.start();
    let again = with_input(&node, &["backup", "--stdin", "--tag", "x"], &input).exits(0).json();
    assert!(again["data_added"].as_u64().unwrap() < 100_000, "the same bytes are not stored twice: {again}");
    whole(&node, "stdin");
    let paths: Vec<_> = node.snapshots().iter().map(|snapshot| snapshot["paths"][0].clone()).collect();
    assert_eq!(paths, ["/db.sql", "/stdin"]);
    // Nothing at all is a file as well, for who means it.
    fs::write(&input, b"").unwrap();
    let arguments = ["backup", "--stdin", "--stdin-filename", "empty", "--allow-empty"];
    let failure = with_input(&node, &arguments[..4], &input).exits(1).failure();
    assert!(failure["hint"].as_str().unwrap().contains("--allow-empty"), "{failure}");
    with_input(&node, &arguments, &input).exits(0);
    with_input(&node, &["backup", "--stdin", "--stdin-filename", "a/b"], &input).exits(2);
    assert_eq!(node.snapshots().len(), 3);
}

/// Each made a complete snapshot of nothing, which became `latest`.
#[test]
fn what_cannot_be_read_or_has_nothing_in_it_makes_no_snapshot() {
    let node = Node::init();
    let shell = |script: &str| {
        let mut command = std::process::Command::new("bash");
        let plain = node.command();
        command.arg("-c").arg(format!("\"$0\" \"$@\" --json backup {script}")).arg(plain.get_program());
        command.args(plain.get_args()).current_dir(node.path(""));
        command.env_clear().envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        node.finish(&mut command)
    };
    for (script, word) in [
        ("--stdin </dev/null", "is empty"),
        ("--stdin <&-", "is empty"),
        ("--stdin 0>out", "cannot be read"),
        ("--stdin --allow-empty 0>out", "cannot be read"),
    ] {
        let output = shell(script).exits(1);
        assert!(output.stderr.contains(word), "{script}: {output:?}");
    }
    for (script, word) in
        [("<(echo x)", "leads to a pipe"), ("repo", "data directory"), ("repo/packs/", "data")]
    {
        let output = shell(script).exits(2);
        assert!(output.stderr.contains(word), "{script}: {output:?}");
    }
    assert_eq!(node.snapshots().len(), 0);
    std::os::unix::fs::symlink("source", node.path("link")).unwrap();
    put(&node.path("source"), &[("a", "a")]);
    let output = shell("link").exits(0);
    assert!(output.stdout.contains("a symlink: kept as one"), "{output:?}");
    shell("link/").exits(0);
    assert_eq!(stored(&node, &node.path("source").canonicalize().unwrap()), ["a"]);
}

/// Retention kept one set for each, and no backup found its parent.
#[test]
fn a_path_is_of_one_set_however_it_is_written() {
    let node = Node::init();
    let source = node.path("source");
    put(&source, &[("a", "a")]);
    node.backup(&source);
    let source = text(&source);
    for spelling in
        [format!("{source}/"), "./source".to_owned(), format!("/{source}//."), "../x/../source".to_owned()]
    {
        let mut command = node.command();
        fs::create_dir_all(node.path("x")).unwrap();
        command.current_dir(if spelling.starts_with("..") { node.path("x") } else { node.path("") });
        let done = node.finish(command.args(["--json", "backup", &spelling])).exits(0).json();
        assert_eq!(
            (&done["files_unmodified"], &done["files_new"]),
            (&1.into(), &0.into()),
            "{spelling}: {done}"
        );
    }
    let snapshots = node.snapshots();
    assert!(
        snapshots.iter().all(|snapshot| snapshot["paths"] == serde_json::json!([source])),
        "{snapshots:?}"
    );
}

#[test]
fn an_input_that_breaks_off_makes_no_snapshot() {
    let mut node = Node::init();
    node.start();
    let mut command = node.command();
    command.args(["backup", "--stdin"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut client = command.spawn().expect("the program starts");
    let mut pipe = client.stdin.take().expect("a pipe");
    pipe.write_all(&vec![7; 3_000_000]).unwrap();
    let jobs = || node.run(&["jobs"]).exits(0).json().as_array().expect("a list").clone();
    until("the job has taken some of it", &[&node], || {
        jobs().first().filter(|job| job["progress"]["bytes_done"].as_u64() > Some(0)).map(|_| ())
    });
    client.kill().unwrap();
    client.wait().unwrap();
    let job = until("the job ends", &[&node], || jobs().into_iter().find(|job| job["ended"].is_string()));
    assert_eq!((&job["state"], &job["error"]["code"]), (&"failed".into(), &"IO_FAILED".into()), "{job}");
    assert!(job["error"]["message"].as_str().unwrap().contains("no snapshot was made"), "{job}");
    assert_eq!(node.snapshots().len(), 0);

    // Here too, when reading fails: a directory cannot be read.
    node.terminate();
    let output = with_input(&node, &["backup", "--stdin"], &node.path("")).exits(1);
    assert!(output.stderr.contains("standard input cannot be read"), "{output:?}");
    assert_eq!(node.snapshots().len(), 0);
}

#[test]
fn a_dry_run_tells_and_writes_nothing() {
    let mut node = Node::init();
    let source = node.path("source");
    put(&source, &[("a", "aaa"), ("b", "bb"), ("c.o", "c"), ("in/d", "dddd")]);
    node.run(&["backup", text(&source), "--exclude", "*.o"]).exits(0);
    put(&source, &[("b", "changed"), ("new", "12345")]);
    let before = data(&node);
    let arguments = ["backup", text(&source), "--exclude", "*.o", "--dry-run"];
    let told = node.run(&arguments).exits(0).json();
    let counts =
        ["files_new", "files_changed", "files_unmodified", "bytes_to_read"].map(|name| told[name].clone());
    assert_eq!(counts, [1, 1, 2, 12].map(serde_json::Value::from), "{told}");
    assert_eq!((&told["dry_run"], &told["snapshot_id"]), (&true.into(), &"".into()));
    let after = data(&node);
    assert!(before.keys().eq(after.keys()), "files came or went: {:?}", after.keys());
    let changed: Vec<_> =
        after.iter().filter(|(path, bytes)| before[*path] != **bytes).map(|(path, _)| path).collect();
    assert!(changed.is_empty(), "{changed:?}");
    assert_eq!(node.snapshots().len(), 1);

    let listed = |node: &Node| {
        let output = node.finish(node.command().arg("-v").args(arguments)).exits(0);
        for (fate, name) in
            [("same", "a"), ("changed", "b"), ("new", "new"), ("left-out", "c.o"), ("same", "in/d")]
        {
            let path = source.join(name);
            let line =
                output.stdout.lines().find(|line| line.contains(text(&path)) && line.starts_with(fate));
            assert!(line.is_some(), "{fate} {name} in {output:?}");
        }
        assert!(output.stdout.contains("c.o  # *.o (--exclude:1)"), "{output:?}");
    };
    listed(&node);
    node.start();
    listed(&node);
    assert_eq!(node.snapshots().len(), 1);
}

#[test]
fn explaining_tells_the_rule_without_keys() {
    let mut node = Node::init();
    let source = node.path("source");
    put(
        &source,
        &[(".shadowvaultignore", "\n*.o\n"), ("a.o", ""), ("b", ""), ("skip/.no", ""), ("skip/x", "")],
    );
    let explain = |node: &Node, name: &str| {
        let mut command = node.command();
        command.args(["--json", "backup", text(&source), "--exclude-if-present", ".no", "--explain"]);
        node.finish(command.arg(source.join(name)).current_dir(node.path(""))).exits(0).json()
    };
    let check = |node: &Node| {
        let told = explain(node, "a.o");
        assert_eq!(
            (&told["included"], &told["rule"], &told["line"]),
            (&false.into(), &"pattern".into(), &2.into())
        );
        assert_eq!(told["source"], text(&source.join(".shadowvaultignore")));
        assert_eq!(explain(node, "b")["rule"], "no-rule");
        assert_eq!(
            (explain(node, "skip/x")["rule"].clone(), explain(node, "skip")["included"].clone()),
            ("if-present".into(), true.into())
        );
    };
    check(&node);
    node.start_locked();
    check(&node);
    let shown = node
        .finish(node.command().args(["backup", text(&source), "--explain"]).arg(source.join("a.o")))
        .exits(0);
    let file = source.join(".shadowvaultignore");
    let line = format!("the pattern *.o ({}, line 2) leaves it out", file.display());
    assert!(shown.stdout.contains(&line) && shown.stdout.starts_with("left out: "), "{shown:?}");
    assert_eq!(node.run(&["jobs"]).exits(0).json(), serde_json::json!([]), "nothing was backed up");
}

#[test]
fn each_mistake_is_named_and_costs_nothing() {
    let node = Node::init();
    let source = node.path("source");
    put(&source, &[("a", "")]);
    let source = text(&source);
    let table: [(&[&str], &str); 14] = [
        (&["backup", source, "--exclude", "[a"], "write \\["),
        (&["backup", source, "--exclude", ""], "empty"),
        (&["backup", source, "--exclude-file", "/absent"], "/absent"),
        (&["backup", source, "--exclude-if-present", "a/b"], "a/b"),
        (&["backup", source, "--exclude-larger-than", "5XB"], "5XB"),
        (&["backup", "--files-from", "/absent"], "/absent"),
        (&["backup", "--files-from", "-"], "nothing to back up"),
        (&["backup", source, "--stdin"], "--stdin"),
        (&["backup", source, "--stdin-filename", "x"], "--stdin"),
        (&["backup", "--stdin", "--dry-run"], "--dry-run"),
        (&["backup", source, "--dry-run", "--wait", "copies"], "dry run"),
        (&["backup", source, "--tag", "a,b"], "comma"),
        (&["backup", source, "--tag", ""], "empty"),
        (&["backup", source, "--host", "a b"], "blank"),
    ];
    for (arguments, word) in table {
        let output = node.run(arguments).exits(2);
        let failure = output.failure();
        let told = format!("{} {}", failure["message"], failure["hint"]).replace("\\\\", "\\");
        assert!(told.contains(word), "{arguments:?}: {output:?}");
    }
    assert_eq!(node.snapshots().len(), 0);
}
