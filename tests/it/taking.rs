//! What users of other backup tools look for: a command's output, patterns in any case, no snapshot when nothing changed.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::node::{Node, Output, text};

fn from_command(node: &Node, words: &[&str]) -> Output {
    node.run(&[&["backup", "--stdin-from-command", "--stdin-filename", "db", "--"], words].concat())
}

/// Its failure, however late, is the backup's: what came of it would look like all of it.
#[test]
fn the_output_of_a_command_is_backed_up_when_the_command_ends_well() {
    let mut node = Node::init();
    let mark = node.path("mark");
    for runs in [false, true] {
        if runs {
            node.start();
        }
        let before = node.snapshots().len();
        for (script, word) in [
            ("head -c 3000000 /dev/zero; exit 7", "exit code 7"),
            ("head -c 3000000 /dev/zero; kill -9 $$", "signal 9"),
            ("exit 3", "exit code 3"),
            ("true", "is empty"),
        ] {
            let output = from_command(&node, &["sh", "-c", script]).exits(1);
            let told = output.failure()["message"].as_str().unwrap().to_owned();
            assert!(told.contains(word) && told.contains("no snapshot was made"), "{script}: {output:?}");
        }
        let output = from_command(&node, &["/nowhere/pg_dump"]).exits(1);
        assert!(output.stderr.contains("/nowhere/pg_dump cannot be started"), "{output:?}");
        assert_eq!(node.snapshots().len(), before);
        let script = format!("printf '%s' \"$0\" && touch {}", text(&mark));
        from_command(&node, &["sh", "-c", &script, "--dry-run"]).exits(0);
        assert!(mark.exists());
        fs::remove_file(&mark).unwrap();
        assert_eq!(node.run(&["dump", "latest:/db"]).exits(0).stdout, "--dry-run");
        assert_eq!(node.snapshots().len(), before + 1);
    }
    node.run(&["backup", "--stdin-from-command"]).exits(2);
    node.run(&["backup", "--stdin-from-command", "--stdin", "--", "true"]).exits(2);
}

#[test]
fn patterns_in_any_case_leave_out_what_fits_in_any_case() {
    let node = Node::init();
    let source = node.path("source");
    for name in ["a.JPG", "b.jpg", "c.png", "Cache/x", "cache/y", "in/TMP/z", "Ärger", "ärger", "kept.Jpg"]
    {
        let path = source.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }
    let mut arguments = vec!["backup", text(&source), "--exclude", "*.png"];
    for pattern in ["*.Jpg", "/CACHE/", "in/tmp", "ÄRGER", "!KEPT.*"] {
        arguments.extend(["--iexclude", pattern]);
    }
    node.run(&arguments).exits(0);
    let entries = node.run(&["ls", "latest", "-R"]).exits(0).json();
    let files = entries.as_array().unwrap().iter().filter(|entry| entry["type"] == "file");
    let files: Vec<_> = files.map(|entry| Path::new(entry["path"].as_str().unwrap()).to_owned()).collect();
    assert_eq!(files, [source.join("kept.Jpg")]);
    arguments.extend(["--explain", text(&source)]);
    *arguments.last_mut().unwrap() = "source/b.jpg";
    let told =
        node.finish(node.command().arg("--json").args(&arguments).current_dir(node.path(""))).exits(0).json();
    assert_eq!((&told["included"], &told["source"]), (&false.into(), &"--iexclude".into()), "{told}");
    node.run(&["backup", text(&source), "--iexclude", "[a"]).exits(2);
}

/// Reading changes times of access, and what is beside the source changes what is above it.
#[test]
fn a_source_as_the_newest_snapshot_has_it_makes_none_when_that_is_asked_for() {
    let node = Node::init();
    let source = node.path("source");
    fs::create_dir_all(source.join("in")).unwrap();
    fs::write(source.join("in/a"), "first").unwrap();
    fs::write(source.join("b"), "b").unwrap();
    let run = |more: &[&str]| {
        let arguments = [&["backup", text(&source), "--skip-if-unchanged"], more].concat();
        node.run(&arguments).exits(0).json()
    };
    let touch = |arguments: &[&str]| {
        assert!(Command::new("touch").args(arguments).current_dir(&source).status().unwrap().success());
    };
    let first = run(&[]);
    assert_eq!(first["skipped"], false);
    fs::write(node.path("beside"), "x").unwrap();
    touch(&["-a", "-d", "2001-02-03", "in", "in/a", "."]);
    let again = run(&["--force"]);
    assert_eq!((&again["skipped"], &again["snapshot_id"]), (&true.into(), &first["snapshot_id"]), "{again}");
    assert_eq!(node.snapshots().len(), 1);
    // Other paths are another set.
    node.run(&["backup", text(&source.join("in")), "--skip-if-unchanged"]).exits(0);
    assert_eq!(node.snapshots().len(), 2);
    let mut count = 2;
    let changes: [(&str, &dyn Fn()); 6] = [
        ("content", &|| fs::write(source.join("in/a"), "other").unwrap()),
        ("time", &|| touch(&["-m", "-d", "2001-02-03", "b"])),
        ("mode", &|| assert!(Command::new("chmod").args(["700", text(&source)]).status().unwrap().success())),
        ("new", &|| fs::write(source.join("c"), "").unwrap()),
        ("names", &|| fs::hard_link(source.join("b"), source.join("d")).unwrap()),
        ("gone", &|| fs::remove_file(source.join("c")).unwrap()),
    ];
    for (what, change) in changes {
        change();
        assert_eq!(run(&[])["skipped"], false, "{what}");
        count += 1;
        assert_eq!(run(&[])["skipped"], true, "{what}");
        assert_eq!(node.snapshots().len(), count, "{what}");
    }
    let input = ["backup", "--stdin-from-command", "--skip-if-unchanged", "--", "echo", "x"];
    assert_eq!(node.run(&input).exits(0).json()["skipped"], false);
    assert_eq!(node.run(&input).exits(0).json()["skipped"], true);
}
