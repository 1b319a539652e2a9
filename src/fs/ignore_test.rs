//! Ignore files, flags and markers over real trees; patterns compared with what git itself makes of them.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use proptest::prelude::{Just, ProptestConfig, Strategy, prop, prop_assert_eq, prop_oneof, proptest};

use super::rules;
use super::{
    Choice, Exclusions, Explanation, Ground, IGNORE_FILE, PatternList, Selector, Sieve, Walk, WalkEvent,
    WalkOptions, Why, explain,
};
use crate::base::limit;

/// What a walk of `roots` finds below `base`; directories end with a slash.
fn found(base: &Path, roots: &[PathBuf], exclusions: &Exclusions) -> BTreeSet<String> {
    let filter = Box::new(Sieve::new(roots, exclusions).unwrap());
    let walk = Walk::new(roots, WalkOptions { filter, ..WalkOptions::default() }).unwrap();
    let short = |path: &Path| path.strip_prefix(base).ok().map(|path| path.to_str().unwrap().to_owned());
    let seen = walk.filter_map(|event| match event {
        WalkEvent::Enter { path, .. } => short(&path).map(|path| path + "/"),
        WalkEvent::Entry { path, .. } => short(&path),
        WalkEvent::Failed { path, error } => Some(format!("!{}: {error}", path.display())),
        WalkEvent::Leave { .. } => None,
    });
    seen.filter(|path| path != "/").collect()
}

fn put(base: &Path, files: &[(&str, &str)]) {
    for (path, content) in files {
        let path = base.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().canonicalize().unwrap();
    (dir, path)
}

/// What is kept of a tree with these files.
fn check(files: &[(&str, &str)], exclusions: &Exclusions, kept: &[&str]) {
    let (_keep, base) = place();
    put(&base, files);
    let mut all = found(&base, std::slice::from_ref(&base), exclusions);
    all.retain(|path| !path.ends_with('/') && !path.ends_with(IGNORE_FILE));
    assert_eq!(all.iter().map(String::as_str).collect::<Vec<_>>(), kept, "{files:?} {exclusions:?}");
}

fn patterns(lines: &[&str]) -> Vec<String> {
    lines.iter().map(|line| (*line).to_owned()).collect()
}

#[test]
fn flags_outweigh_ignore_files_which_outweigh_lists() {
    let single = |lines: &[&str]| Exclusions { patterns: patterns(lines), ..Exclusions::default() };
    let listed = |lists: &[&[&str]]| {
        let list = |lines: &&[&str]| PatternList { name: "list".into(), lines: patterns(lines) };
        Exclusions { lists: lists.iter().map(list).collect(), ..Exclusions::default() }
    };
    let none = Exclusions::default();
    let tree = [("a.o", ""), ("in/a.o", ""), ("in/b", "")];
    let with = |ignore: &'static str| [&tree[..], &[(IGNORE_FILE, ignore)]].concat();
    check(&tree, &single(&["*.o"]), &["in/b"]);
    check(&tree, &single(&["/a.o"]), &["in/a.o", "in/b"]);
    check(&tree, &single(&["*", "!/in", "!b"]), &["in/b"]);
    check(&with("*.o\n"), &none, &["in/b"]);
    check(&with("*.o\n"), &single(&["!in/a.o"]), &["in/a.o", "in/b"]);
    check(&with("!*.o\n"), &single(&["*.o"]), &["in/b"]);
    check(&with("!a.o\n"), &listed(&[&["# all", "*.o  "]]), &["a.o", "in/a.o", "in/b"]);
    check(&with(""), &listed(&[&["*.o"], &["!in/a.o"]]), &["in/a.o", "in/b"]);
    // The deepest file decides; nothing comes back from a directory that is left out.
    check(&[&with("*.o\n")[..], &[("in/.shadowvaultignore", "!a.o\n")]].concat(), &none, &["in/a.o", "in/b"]);
    check(&with("in/\n!in/b\n"), &none, &["a.o"]);
    check(&with("in/*\n!in/b\n"), &none, &["a.o", "in/b"]);
}

#[test]
fn patterns_count_from_each_backed_up_path() {
    let (_keep, base) = place();
    put(&base, &[("one/x", ""), ("one/in/x", ""), ("two/x", ""), ("two/y", ""), ("three/x", "")]);
    let roots = ["one", "one/in", "two", "three/x"].map(|root| base.join(root));
    let exclusions = Exclusions { patterns: patterns(&["/x"]), ..Exclusions::default() };
    let kept: Vec<_> =
        found(&base, &roots, &exclusions).into_iter().filter(|path| !path.ends_with('/')).collect();
    // A path that was asked for by name is kept whatever patterns say.
    assert_eq!(kept, ["three/x", "two/y"]);
}

#[test]
fn marked_directories_keep_themselves_and_their_mark() {
    let tag = "Signature: 8a477f597d28d172789f06886806bc55\n# by somebody\n";
    let tree = [
        ("cache/CACHEDIR.TAG", tag),
        ("cache/in/x", ""),
        ("fake/CACHEDIR.TAG", "Signature: none"),
        ("fake/x", ""),
        ("skip/.nobackup", "yes"),
        ("skip/x", ""),
        ("y", ""),
    ];
    let caches = Exclusions { caches: true, ..Exclusions::default() };
    check(
        &tree,
        &caches,
        &["cache/CACHEDIR.TAG", "fake/CACHEDIR.TAG", "fake/x", "skip/.nobackup", "skip/x", "y"],
    );
    let present = |text: &str| Exclusions { if_present: vec![text.into()], ..Exclusions::default() };
    let without_skip =
        ["cache/CACHEDIR.TAG", "cache/in/x", "fake/CACHEDIR.TAG", "fake/x", "skip/.nobackup", "y"];
    check(&tree, &present(".nobackup"), &without_skip);
    check(&tree, &present(".nobackup:ye"), &without_skip);
    let everything = tree.map(|(path, _)| path);
    check(&tree, &present(".nobackup:no"), &everything);
    check(&tree, &present(".nobackup:yes and more"), &everything);
    check(&tree, &Exclusions::default(), &everything);
}

#[test]
fn larger_files_are_left_out_whatever_patterns_say() {
    let tree = [("large", "12345"), ("small", "1234"), ("in/large", "123456")];
    let exclusions =
        Exclusions { larger_than: Some(4), patterns: patterns(&["!large"]), ..Exclusions::default() };
    check(&tree, &exclusions, &["small"]);
    check(&tree, &Exclusions { larger_than: Some(5), ..Exclusions::default() }, &["large", "small"]);
}

#[test]
fn an_ignore_file_that_cannot_be_followed_is_told_and_leaves_nothing_out() {
    let (_keep, base) = place();
    let long = "x\n".repeat(limit::IGNORE_FILE_BYTES_MAX / 2 + 1);
    put(&base, &[("long/.shadowvaultignore", &long), ("long/x", ""), ("other/x", "")]);
    // Git does not follow links to ignore files either.
    symlink("../long/x", base.join("other").join(IGNORE_FILE)).unwrap();
    let all = found(&base, std::slice::from_ref(&base), &Exclusions::default());
    assert!(all.contains("long/x") && all.contains("other/x"), "{all:?}");
    let told: Vec<_> = all.iter().filter(|path| path.starts_with('!')).collect();
    assert!(told.len() == 1 && told[0].contains("is not followed"), "{told:?}");

    // Deep in a tree of them the sum counts, and what was left behind counts no more.
    let (_keep, base) = place();
    let half = "x\n".repeat(limit::IGNORE_RULES_MAX / 2 + 1);
    for path in ["a/.shadowvaultignore", "a/in/.shadowvaultignore", "b/.shadowvaultignore"] {
        put(&base, &[(path, &half)]);
    }
    put(&base, &[("a/in/x", ""), ("b/x", "")]);
    let all = found(&base, std::slice::from_ref(&base), &Exclusions::default());
    let told: Vec<_> = all.iter().filter(|path| path.starts_with('!')).collect();
    assert!(told.len() == 1 && told[0].contains("a/in: "), "{told:?}");
    assert!(!all.contains("b/x") && !all.contains("a/in/x"), "{all:?}");
}

#[test]
fn whoever_watches_hears_what_is_left_out_and_why() {
    let (_keep, base) = place();
    put(&base, &[(IGNORE_FILE, "\n*.o\n"), ("a.o", ""), ("big", "12345"), ("skip/.no", ""), ("skip/x", "")]);
    let exclusions =
        Exclusions { if_present: vec![".no".into()], larger_than: Some(4), ..Exclusions::default() };
    let heard = Arc::new(Mutex::new(Vec::new()));
    let ear = heard.clone();
    let watch = Box::new(move |path: &Path, ground| ear.lock().unwrap().push((path.to_owned(), ground)));
    let filter = Box::new(Sieve::new(std::slice::from_ref(&base), &exclusions).unwrap().watched(watch));
    // The ignore file has six bytes, and is a file like any other.
    Walk::new(std::slice::from_ref(&base), WalkOptions { filter, ..WalkOptions::default() })
        .unwrap()
        .for_each(drop);
    let source = base.join(IGNORE_FILE).to_str().unwrap().to_owned();
    let expected = [
        (IGNORE_FILE, Ground::LargerThan(4)),
        ("a.o", Ground::Pattern { pattern: "*.o".into(), source, line: 2 }),
        ("big", Ground::LargerThan(4)),
        ("skip", Ground::Marker(".no".into())),
    ];
    assert_eq!(*heard.lock().unwrap(), expected.map(|(path, ground)| (base.join(path), ground)));
}

#[test]
fn explaining_names_what_decides() {
    let (_keep, base) = place();
    put(
        &base,
        &[
            (".shadowvaultignore", "*.o\n!keep.o\ngone/\n"),
            ("src/a.o", ""),
            ("src/keep.o", ""),
            ("src/c", ""),
        ],
    );
    put(&base, &[("gone/deep/x", ""), ("skip/.no", ""), ("skip/x", ""), ("store/p", ""), ("big", "123")]);
    let exclusions =
        Exclusions { if_present: vec![".no".into()], larger_than: Some(20), ..Exclusions::default() };
    let roots = [base.clone(), base.join("src/c")];
    let told =
        |path: &str| explain(&roots, &exclusions, false, &[base.join("store")], &base.join(path)).unwrap();
    let source = base.join(IGNORE_FILE).to_str().unwrap().to_owned();
    let pattern =
        |text: &str, line| Why::Ruled(Ground::Pattern { pattern: text.into(), source: source.clone(), line });
    let marker = || Why::Ruled(Ground::Marker(".no".into()));
    let unreadable = "No such file or directory (os error 2)";
    let table = [
        ("src/c", true, Why::Asked, "src/c"),
        ("src", true, Why::NoRule, "src"),
        ("src/a.o", false, pattern("*.o", 1), "src/a.o"),
        ("src/keep.o", true, pattern("!keep.o", 2), "src/keep.o"),
        ("gone/deep/x", false, pattern("gone/", 3), "gone"),
        ("gone", false, pattern("gone/", 3), "gone"),
        ("skip/x", false, marker(), "skip"),
        ("skip/.no", true, Why::NoRule, "skip/.no"),
        ("store/p", false, Why::Store, "store"),
        ("store", false, Why::Store, "store"),
        ("absent", false, Why::Unreadable(unreadable.into()), "absent"),
        ("..", true, Why::Above, ".."),
    ];
    for (path, included, why, at) in table {
        let target = if path == ".." { base.parent().unwrap().to_owned() } else { base.join(path) };
        let expected = Explanation {
            included,
            why,
            at: if at == ".." { target.clone() } else { base.join(at) },
            contents: None,
        };
        let report = explain(&roots, &exclusions, false, &[base.join("store")], &target).unwrap();
        assert_eq!(report, expected, "{path}");
    }
    assert_eq!(told("skip").contents, Some(marker()));
    let outside = explain(&roots, &exclusions, false, &[], Path::new("/proc/self")).unwrap();
    assert_eq!((outside.included, outside.why), (false, Why::Outside));
}

// ---- Git as the judge ---------------------------------------------------------------------------------------

fn git(dir: &Path, arguments: &[&str], input: &str) -> Option<String> {
    let mut command = Command::new("git");
    command
        .current_dir(dir)
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("HOME", dir).env("GIT_CONFIG_NOSYSTEM", "1").env("LC_ALL", "C");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = command.spawn().ok()?;
    let mut pipe = child.stdin.take()?;
    let input = input.to_owned();
    let writer = std::thread::spawn(move || pipe.write_all(input.as_bytes()));
    let output = child.wait_with_output().ok()?;
    writer.join().unwrap().unwrap();
    // `check-ignore` ends with 1 when it finds nothing.
    assert!(output.status.code().is_some_and(|code| code <= 1), "git {arguments:?}: {output:?}");
    Some(String::from_utf8(output.stdout).unwrap())
}

/// Everything in a tree; directories end with a slash.
fn everything(base: &Path) -> BTreeSet<String> {
    fn walk(base: &Path, dir: &Path, all: &mut BTreeSet<String>) {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let path = entry.path();
            let name = path.strip_prefix(base).unwrap().to_str().unwrap().to_owned();
            if name == ".git" {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                all.insert(name + "/");
                walk(base, &path, all);
            } else {
                all.insert(name);
            }
        }
    }
    let mut all = BTreeSet::new();
    walk(base, base, &mut all);
    all
}

/// Asks git which entries it ignores, and a walk which it leaves out; ignore files are given by directory.
fn compare(files: &[&str], ignores: &[(&str, String)], list: &[&str]) -> Result<(), String> {
    let (_keep, base) = place();
    put(&base, &files.iter().map(|path| (*path, "")).collect::<Vec<_>>());
    symlink("nowhere", base.join("link")).unwrap();
    git(&base, &["init", "-q", "."], "").unwrap();
    fs::write(base.join(".git/info/exclude"), list.join("\n")).unwrap();
    for (dir, content) in ignores {
        put(&base, &[(&format!("{dir}/.gitignore"), content), (&format!("{dir}/{IGNORE_FILE}"), content)]);
    }
    let own = |path: &String| path.ends_with(".gitignore") || path.ends_with(IGNORE_FILE);
    let all: BTreeSet<String> = everything(&base).into_iter().filter(|path| !own(path)).collect();
    // Without the slash git looks itself whether it is a directory.
    let asked: Vec<String> = all.iter().map(|path| path.trim_end_matches('/').to_owned()).collect();
    let told =
        git(&base, &["check-ignore", "--no-index", "-z", "--stdin"], &(asked.join("\0") + "\0")).unwrap();
    let ignored: BTreeSet<&str> = told.split('\0').collect();
    let expected: BTreeSet<String> =
        all.iter().filter(|path| !ignored.contains(path.trim_end_matches('/'))).cloned().collect();
    let lists = vec![PatternList { name: "list".into(), lines: patterns(list) }];
    let exclusions = Exclusions { lists, ..Exclusions::default() };
    let mut kept = found(&base, std::slice::from_ref(&base), &exclusions);
    kept.retain(|path| !own(path) && !path.starts_with(".git/"));
    if kept == expected {
        return Ok(());
    }
    let wrongly: Vec<_> = kept.symmetric_difference(&expected).collect();
    Err(format!("git and the walk differ on {wrongly:?} with {ignores:?} {list:?}"))
}

fn has_git() -> bool {
    let found = Command::new("git").arg("--version").output().is_ok();
    if !found {
        eprintln!("skipped: there is no git here");
    }
    found
}

const TREE: [&str; 24] = [
    "a",
    "b.o",
    "keep.o",
    "#hash",
    "!bang",
    "name ",
    "x[y]",
    "build/out/a.o",
    "build/b",
    "src/build/c",
    "src/a.o",
    "src/deep/keep.o",
    "src/deep/er/a.txt",
    "src/deep/er/b.log",
    "doc/a.txt",
    "doc/sub/a.txt",
    "doc/sub/b.md",
    "foo/bar/baz/x",
    "foo/bar",
    "foobar/x",
    "logs/1.log",
    "logs/keep/2.log",
    "Ünï/文",
    "back\\slash",
];

/// Each line is a case of its own: an ignore file at the top.
#[test]
fn every_kind_of_pattern_is_what_it_is_to_git() {
    if !has_git() {
        return;
    }
    let tops: [&str; 62] = [
        "*.o",
        "*.o\n!keep.o",
        "!keep.o\n*.o",
        "/a",
        "a",
        "/build",
        "build",
        "build/",
        "build/*",
        "build/**",
        "build/*\n!build/b",
        "build/\n!build/b",
        "**/build",
        "**/build/",
        "src/**/a.txt",
        "src/**",
        "src/*",
        "src/**/er",
        "**/er/**",
        "/**/a.txt",
        "doc/*.txt",
        "doc/**/*.txt",
        "/*\n!/doc",
        "*\n!*/\n!*.txt",
        "\\#hash",
        "#hash",
        "\\!bang",
        "!bang",
        "name ",
        "name\\ ",
        "name  ",
        "x[y]",
        "x\\[y\\]",
        "x[[]y]",
        "[a-c]",
        "[!a]",
        "[^a]*",
        "[[:alpha:]].o",
        "[[:digit:]].log",
        "[[:upper:]]*",
        "[[:nope:]]",
        "[",
        "[a",
        "a\\",
        "\\a",
        "?",
        "???",
        "*/",
        "/*/",
        "**",
        "***",
        "foo/**/x",
        "foo/bar/",
        "foo**",
        "/foo**",
        "src/de**/er",
        "foo/**bar",
        "**/",
        "/",
        "//",
        "back\\\\slash",
        "a\r\nb.o\r",
    ];
    let files: Vec<&str> = TREE.iter().copied().filter(|path| *path != "foo/bar").collect();
    for top in tops {
        compare(&files, &[("", top.to_owned())], &[]).unwrap();
    }
}

/// Ignore files, by directory; patterns of a list.
type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str]);

#[test]
fn ignore_files_at_several_depths_are_what_they_are_to_git() {
    if !has_git() {
        return;
    }
    let files: Vec<&str> = TREE.iter().copied().filter(|path| *path != "foo/bar").collect();
    let table: [Case<'_>; 8] = [
        (&[("", "*.o\n"), ("src", "!a.o\n")], &[]),
        (&[("", "*.log\n"), ("logs", "!*.log\n"), ("logs/keep", "*.log\n")], &[]),
        (&[("", "src/\n"), ("src", "!*\n")], &[]),
        (&[("", "*\n!src/\n"), ("src", "!deep/\n"), ("src/deep", "!*\n")], &[]),
        (&[("src", "/a.o\n/deep/er/*.txt\n"), ("src/deep", "er/*.log\n")], &[]),
        (&[("src", "build/c\n"), ("doc", "/sub\n")], &["*.txt"]),
        (&[("", "!*.txt\n")], &["*.txt", "# none", "", "doc/"]),
        (&[("doc/sub", "../a.txt\n*.md\n")], &["a*", "!a.o"]),
    ];
    for (ignores, list) in table {
        let ignores: Vec<_> = ignores.iter().map(|(dir, text)| (*dir, (*text).to_owned())).collect();
        compare(&files, &ignores, list).unwrap();
    }
}

/// A pattern of few different pieces, so that much of it fits something.
fn any_pattern() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => prop::sample::select(vec!["a", "b", "c", "ab", "."]).prop_map(str::to_owned),
        3 => prop::sample::select(vec!["*", "**", "?", "/", "/"]).prop_map(str::to_owned),
        1 => prop::sample::select(vec!["[ab]", "[!a]", "[a-c]", "[]a]", "[[:alpha:]]", "\\a", "\\*", " ", "\\ ", "[a\\]]", "[-a]"])
            .prop_map(str::to_owned),
        1 => Just("/**/".to_owned()),
    ];
    let sign = prop_oneof![3 => Just(""), 1 => Just("!")];
    let end = prop_oneof![3 => Just(""), 1 => Just("/")];
    (sign, prop::collection::vec(piece, 1..6), end)
        .prop_map(|(sign, pieces, end)| format!("{sign}{}{end}", pieces.concat()))
}

/// What a restore takes of a tree, led from the top as its walk is.
fn selected(all: &BTreeSet<String>, include: &[String], exclude: &[String]) -> BTreeSet<String> {
    let selector = Selector::new(include, exclude).unwrap();
    let choose = |path: &str| {
        let mut inside = include.is_empty();
        let (whole, directory) = (path.trim_end_matches('/'), path.ends_with('/'));
        let ends = whole.match_indices('/').map(|(at, _)| at).chain([whole.len()]);
        for end in ends {
            match selector.choose(Path::new(&whole[..end]), directory || end < whole.len(), inside) {
                Choice::Left => return false,
                choice => inside = choice == Choice::Chosen,
            }
        }
        inside
    };
    all.iter().filter(|path| choose(path)).cloned().collect()
}

/// Asks git which entries patterns fit, and a restore which it takes and which it leaves out for them.
fn compare_selected(files: &[&str], include: &[String], exclude: &[String]) -> Result<(), String> {
    let (_keep, base) = place();
    put(&base, &files.iter().map(|path| (*path, "")).collect::<Vec<_>>());
    git(&base, &["init", "-q", "."], "").unwrap();
    let all = everything(&base);
    let asked: Vec<&str> = all.iter().map(|path| path.trim_end_matches('/')).collect();
    let fitting = |patterns: &[String]| -> BTreeSet<String> {
        fs::write(base.join(".git/info/exclude"), patterns.join("\n")).unwrap();
        let told = git(&base, &["check-ignore", "--no-index", "-z", "--stdin"], &(asked.join("\0") + "\0"));
        let told = told.unwrap();
        let told: BTreeSet<&str> = told.split('\0').collect();
        all.iter().filter(|path| told.contains(path.trim_end_matches('/'))).cloned().collect()
    };
    let (found, expected) = (selected(&all, &[], exclude), &all - &fitting(exclude));
    if found != expected {
        return Err(format!("without {exclude:?}: {:?}", found.symmetric_difference(&expected)));
    }
    let (found, expected) = (selected(&all, include, &[]), fitting(include));
    if !include.is_empty() && found != expected {
        return Err(format!("with {include:?}: {:?}", found.symmetric_difference(&expected)));
    }
    Ok(())
}

/// A list is refused for patterns that fit nothing; an ignore file is not.
fn any_list_pattern() -> impl Strategy<Value = String> {
    any_pattern().prop_filter("refused", |pattern| rules::file_fault(pattern.as_bytes()).is_none())
}

fn any_given_pattern() -> impl Strategy<Value = String> {
    let odd = prop::sample::select(vec!["/{a,b}", "{a,b}", "a}/c", "a**/**", "c**/a", "/c/**/a", "*}"]);
    let pattern = prop_oneof![4 => any_list_pattern(), 1 => odd.prop_map(str::to_owned)];
    pattern.prop_filter("read otherwise in a file", |pattern| {
        !pattern.ends_with(' ') && rules::fault(pattern.as_bytes()).is_none()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whatever_patterns_say_git_and_the_walk_agree(
        top in prop::collection::vec(any_pattern(), 0..5),
        below in prop::collection::vec(any_pattern(), 0..4),
        list in prop::collection::vec(any_list_pattern(), 0..3),
    ) {
        if !has_git() {
            return Ok(());
        }
        let files = ["a", "b", "ab", "abc", "c/a", "c/ab", "c/b/a", "c/b/abc", "c/b/c/a", "b.a/a", "b.a/c/b", "a.b", "abab/a/b/c"];
        let ignores = [("", top.join("\n")), ("c", below.join("\n"))];
        let list: Vec<&str> = list.iter().map(String::as_str).collect();
        prop_assert_eq!(compare(&files, &ignores, &list), Ok(()));
    }

    /// One by one as they stand: what a line of a file may not have at its ends is left out here.
    #[test]
    fn whatever_patterns_say_git_and_a_restore_agree(
        include in prop::collection::vec(any_given_pattern(), 0..4),
        exclude in prop::collection::vec(any_given_pattern(), 0..4),
    ) {
        if !has_git() {
            return Ok(());
        }
        let files = ["a", "b", "ab", "abc", "c/a", "c/ab", "c/b/a", "c/b/abc", "c/b/c/a", "b.a/a", "b.a/c/b", "a.b", "abab/a/b/c", "{a,b}", "a}/c"];
        // Below an included directory `!` takes away, which it does not for git.
        let include: Vec<String> = include.into_iter().filter(|pattern| !pattern.starts_with('!')).collect();
        prop_assert_eq!(compare_selected(&files, &include, &exclude), Ok(()));
    }
}
