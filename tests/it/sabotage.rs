//! The table of deliberate faults fits the sources, so that `make sabotage` can be run at any time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A fault: its keys with their values.
type Fault = BTreeMap<String, String>;

fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

/// The part of TOML that the table uses: literal texts on one line or several, and lists of them, which come joined.
fn faults(text: &str) -> Vec<Fault> {
    text.split("[[fault]]").skip(1).map(fault).collect()
}

fn fault(text: &str) -> Fault {
    let (mut found, mut rest) = (Fault::new(), text);
    while let Some((key, value)) = rest.split_once(" = ") {
        let (value, end) = match value {
            _ if value.starts_with("'''\n") => (&value[4..], "'''"),
            _ if value.starts_with('\'') => (&value[1..], "'"),
            _ if value.starts_with('"') => (&value[1..], "\""),
            _ => (value, "\n"),
        };
        let end = if value.starts_with('[') { "]" } else { end };
        let (value, after) = value.split_once(end).unwrap_or_else(|| panic!("{key} has no end"));
        found.insert(key.trim().to_owned(), value.to_owned());
        rest = after;
    }
    found
}

fn listed(list: &str) -> impl Iterator<Item = &str> {
    list.split('\'').skip(1).step_by(2)
}

/// Whether a test of that path is there: the last part is a function in a file that the others lead to.
fn is_there(test: &str) -> bool {
    let (dir, path) = match test.strip_prefix("it::") {
        Some(path) => ("tests/it", path),
        None => ("src", test),
    };
    let (modules, function) = path.rsplit_once("::").expect("a module and a function");
    let parts: Vec<&str> = modules.split("::").collect();
    let function = format!("fn {function}(");
    (1..=parts.len()).any(|most| {
        let at = root().join(dir).join(parts[..most].join("/"));
        let files = [at.with_extension("rs"), at.join("mod.rs")];
        files.iter().filter_map(|file| fs::read_to_string(file).ok()).any(|text| text.contains(&function))
    })
}

#[test]
fn every_fault_has_its_place_in_the_sources_and_tests_that_should_notice_it() {
    let table = fs::read_to_string(root().join("tests/sabotage.toml")).expect("the table");
    let faults = faults(&table);
    assert!(faults.len() >= 60, "{} faults", faults.len());
    let names: BTreeSet<&String> = faults.iter().map(|fault| &fault["name"]).collect();
    assert_eq!(names.len(), faults.len(), "names are unique");
    for fault in &faults {
        let (name, file) = (&fault["name"], &fault["file"]);
        assert!(fault["new"].contains("SABOTAGED") && !fault["breaks"].is_empty(), "{name}");
        let source = fs::read_to_string(root().join(Path::new(file))).expect("a source");
        assert_eq!(
            source.matches(&fault["old"]).count(),
            1,
            "{name}: its text in {file}; change the table with it"
        );
        let tests: Vec<&str> = listed(&fault["tests"]).collect();
        assert!(!tests.is_empty(), "{name}");
        tests.iter().for_each(|test| assert!(is_there(test), "{name}: there is no test {test}"));
    }
}
