//! Everything a file system can hold comes back, in the eyes of tools that know nothing of this program.
//!
//! The tree of oddities and the comparison live in `scripts/fidelity.sh`, which makes images of its own: there
//! every kind of entry and attribute works, whatever the tester's disk can do.

use std::path::Path;
use std::process::Command;

use super::node::{program, text};

/// What the script exits with where images cannot be mounted.
const SKIPPED: i32 = 77;

fn fidelity(mode: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/fidelity.sh");
    let home = tempfile::Builder::new().prefix("sv-it-").tempdir().expect("a temporary directory");
    let mut command = Command::new(script);
    command.arg(mode).env("SHADOWVAULT", program()).env("TMPDIR", text(home.path())).env_remove("KEEP");
    let output = command.output().expect("the script starts");
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.code() == Some(SKIPPED) {
        eprintln!("{said}");
        return;
    }
    assert!(output.status.success(), "{said}");
    let left = std::fs::read_dir(home.path()).expect("the home").count();
    assert_eq!(left, 0, "the script leaves nothing behind:\n{said}");
}

#[test]
fn every_kind_of_entry_comes_back_in_the_eyes_of_other_tools() {
    fidelity("--loop");
}

/// What is there is the snapshot's after a restore that overwrites, and as it was under the rules that leave it.
#[test]
fn under_every_rule_each_kind_of_entry_becomes_what_the_rule_says() {
    fidelity("--matrix");
}

/// Three of four modes lost one of two, and counted both; with `--delete` what was just restored went.
#[test]
fn the_second_of_two_names_that_are_one_to_the_target_is_named_and_left_out() {
    fidelity("--fold");
}

/// Without it, a comparison that looks at nothing would pass as well.
#[test]
fn the_comparison_of_the_tools_sees_every_difference() {
    fidelity("--self-test");
}
