//! Holds the sources to `docs/ARCHITECTURE.md`: who imports whom, façades, globs, and crates with one home.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::source::{Named, named_paths, tokens};

/// Crates that only one module may name.
const HOMES: [(&str, &str); 5] =
    [("libp2p", "net"), ("redb", "store"), ("bincode", "store"), ("clap", "cli"), ("axum", "http")];

/// A public submodule that others may reach into: a flat list of constants.
const OPEN_SUBMODULES: [(&str, &str); 2] = [("base", "limit"), ("base", "meter")];

/// Modules that must not know each other, whatever the table says.
const STRANGERS: [(&str, &str); 2] = [("engine", "net"), ("net", "engine")];

struct Module {
    layer: u32,
    may_import: BTreeSet<String>,
}

/// The table of the document.
struct House(BTreeMap<String, Module>);

impl House {
    /// Reads the rows `| layer | module | text | may import |`.
    fn read(document: &str) -> Self {
        let mut modules = BTreeMap::new();
        for line in document.lines() {
            let cells: Vec<&str> = line.trim().trim_matches('|').split(" | ").map(str::trim).collect();
            if let [layer, module, _, imports] = cells.as_slice()
                && let Ok(layer) = layer.parse()
            {
                let may_import = backticked(imports);
                modules.insert(module.trim_matches('`').to_owned(), Module { layer, may_import });
            }
        }
        Self(modules)
    }

    /// What is wrong with the table itself.
    fn mistakes(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (name, module) in &self.0 {
            for import in &module.may_import {
                match self.0.get(import) {
                    None => found.push(format!("table: {name} may import {import}, which is no module")),
                    Some(other) if other.layer >= module.layer => {
                        found.push(format!(
                            "table: {name} may import {import}, which is not in a lower layer"
                        ));
                    }
                    Some(_) if STRANGERS.contains(&(name, import)) => {
                        found.push(format!("table: {name} and {import} must not know each other"));
                    }
                    Some(_) => {}
                }
            }
        }
        found
    }

    /// What is wrong with one file. `path` is relative to `src`; `files` are all of them.
    fn check(&self, path: &Path, source: &str, files: &BTreeSet<PathBuf>) -> Vec<String> {
        let place = module_path(path);
        let tokens = tokens(source);
        let own = place.first().map_or("the root", String::as_str);
        let mut found = Vec::new();
        if !place.is_empty() && !self.0.contains_key(own) {
            found.push(format!("module {own} is not in the table"));
        }
        for (index, token) in tokens.iter().enumerate() {
            let names = |home: &str| {
                let part = token.strip_prefix(home).is_some_and(|rest| rest.starts_with('_'));
                token == home || (part && tokens.get(index + 1).is_some_and(|next| next == "::"))
            };
            let field = index > 0 && tokens[index - 1] == ".";
            if let Some((name, home)) =
                HOMES.iter().find(|(name, home)| names(name) && *home != own && !field)
            {
                found.push(format!("{name} is named outside {home}"));
            }
        }
        if place.len() == 1 {
            found.extend(public_submodules(own, &tokens));
        }
        for named in named_paths(&tokens, &place) {
            found.extend(self.check_path(own, path, &named, files));
        }
        found.sort();
        found.dedup();
        found.into_iter().map(|what| format!("src/{}: {what}", path.display())).collect()
    }

    fn check_path(&self, own: &str, file: &Path, named: &Named, files: &BTreeSet<PathBuf>) -> Option<String> {
        let path = named.path.join("::");
        if named.path.last().is_some_and(|last| last == "*") && !glob_allowed(file, named) {
            return Some(format!("glob import {path}"));
        }
        let segments: Vec<&str> = named.path.iter().map(String::as_str).collect();
        let ["crate", target, below @ ..] = segments.as_slice() else { return None };
        let target = *target;
        if target == own || own == "the root" || target == "*" {
            return None;
        }
        let module = self.0.get(own)?;
        if !self.0.contains_key(target) {
            return Some(format!("{path} is in no module of the table"));
        }
        if !module.may_import.contains(target) {
            return Some(format!("{own} may not import {target} ({path})"));
        }
        match below {
            [inner, _, ..]
                if !OPEN_SUBMODULES.contains(&(target, *inner)) && is_submodule(files, target, inner) =>
            {
                Some(format!("{path} goes past the façade of {target}"))
            }
            _ => None,
        }
    }
}

fn backticked(text: &str) -> BTreeSet<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// `store/index.rs` is `[store, index]`, `store/mod.rs` is `[store]`, `lib.rs` is `[]`.
fn module_path(path: &Path) -> Vec<String> {
    let parts = path.with_extension("");
    let mut parts: Vec<String> = parts.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if parts.last().is_some_and(|last| last == "mod")
        || matches!(&parts[..], [one] if one == "lib" || one == "main")
    {
        parts.pop();
    }
    parts
}

fn is_submodule(files: &BTreeSet<PathBuf>, module: &str, inner: &str) -> bool {
    let base = Path::new(module).join(inner);
    files.contains(&base.with_extension("rs")) || files.contains(&base.join("mod.rs"))
}

/// `pub mod` in a façade would let others reach past it.
fn public_submodules(own: &str, tokens: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for (index, pair) in tokens.windows(2).enumerate() {
        let [word, name] = pair else { continue };
        let before = index.checked_sub(1).map(|i| tokens[i].as_str());
        if word == "mod"
            && matches!(before, Some("pub" | ")"))
            && !OPEN_SUBMODULES.contains(&(own, name.as_str()))
        {
            found.push(format!("{own} opens its submodule {name}; re-export what others need"));
        }
    }
    found
}

fn glob_allowed(file: &Path, named: &Named) -> bool {
    let path: Vec<&str> = named.path.iter().map(String::as_str).collect();
    match path.as_slice() {
        ["crate", own, ..] => named.in_tests && module_path(file).first().is_some_and(|name| name == own),
        [_, "prelude", "*"] => named.in_tests,
        ["generated", "*"] => file == Path::new("wire/mod.rs"),
        _ => false,
    }
}

fn sources(root: &Path, below: &Path, found: &mut BTreeMap<PathBuf, String>) {
    for entry in std::fs::read_dir(root.join(below)).unwrap() {
        let entry = entry.unwrap();
        let path = below.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            sources(root, &path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.insert(path, std::fs::read_to_string(entry.path()).unwrap());
        }
    }
}

#[test]
fn the_sources_keep_to_the_table() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let house = House::read(&std::fs::read_to_string(root.join("docs/ARCHITECTURE.md")).unwrap());
    assert_eq!(house.0.len(), 16, "the table was not read whole");
    let mut found = BTreeMap::new();
    sources(&root.join("src"), Path::new(""), &mut found);
    assert!(found.contains_key(Path::new("lib.rs")), "no sources found");
    let files: BTreeSet<PathBuf> = found.keys().cloned().collect();
    let mut mistakes = house.mistakes();
    for (path, source) in &found {
        mistakes.extend(house.check(path, source, &files));
    }
    assert!(mistakes.is_empty(), "\n{}\n", mistakes.join("\n"));
}

mod tests {
    use super::{BTreeSet, House, Path, PathBuf};

    const TABLE: &str = "\
        | layer | module | what | may import |\n|---|---|---|---|\n\
        | 0 | `base` | x | nothing |\n| 0 | `wire` | x | nothing |\n| 3 | `store` | x | `base` |\n\
        | 4 | `net` | x | `base` `store` |\n| 5 | `engine` | x | `base` `store` |\n| 7 | `cli` | x | `engine` |\n";

    /// What the checker says about `source` as the file `path`, without the file's name.
    fn check(path: &str, source: &str) -> Vec<String> {
        let files = ["base/limit.rs", "base/code.rs", "store/index.rs", "store/pack/mod.rs", "wire/mod.rs"];
        let files: BTreeSet<PathBuf> = files.iter().map(PathBuf::from).collect();
        let found = House::read(TABLE).check(Path::new(path), source, &files);
        found.into_iter().map(|line| line.split_once(": ").unwrap().1.to_owned()).collect()
    }

    #[test]
    fn sound_sources_pass() {
        let table = [
            (
                "store/mod.rs",
                "mod index; use crate::base::{Code, limit}; use index::Row; pub use index::Row as R;",
            ),
            (
                "store/index.rs",
                "use super::Store; use crate::store::pack::Pack; use redb::Database; crate::base::limit::X;",
            ),
            ("store/index.rs", "mod tests { use super::*; } // use crate::net::x; libp2p"),
            (
                "store/index.rs",
                "const X: &str = \"crate::net libp2p use a::*;\"; fn libp2p_free(libp2p_peer: u8) {}",
            ),
            ("engine/mod.rs", "use crate::store::open; fn f() { crate::base::Code::Internal; 2 * x }"),
            ("net/tests.rs", "use super::*; use libp2p::Swarm;"),
            ("store/mod.rs", "mod tests { use proptest::prelude::*; }"),
            ("wire/mod.rs", "mod generated; pub use generated::*;"),
            ("base/mod.rs", "pub mod limit; mod code;"),
            ("lib.rs", "pub mod base; pub mod store;"),
            ("main.rs", "use shadowvault::cli::main;"),
        ];
        for (path, source) in table {
            assert_eq!(check(path, source), Vec::<String>::new(), "{path}: {source}");
        }
    }

    #[test]
    fn each_breach_is_found() {
        let table = [
            ("store/mod.rs", "use crate::net::Peer;", "store may not import net (crate::net::Peer)"),
            (
                "store/mod.rs",
                "use crate::{base::Code, engine};",
                "store may not import engine (crate::engine)",
            ),
            ("store/index.rs", "use super::super::net::Peer;", "store may not import net (crate::net::Peer)"),
            (
                "store/index.rs",
                "fn f() { super::super::net::g() }",
                "store may not import net (crate::net::g)",
            ),
            ("store/mod.rs", "mod tests { use crate::net::P; }", "store may not import net (crate::net::P)"),
            ("base/mod.rs", "use crate::wire::Head;", "base may not import wire (crate::wire::Head)"),
            ("engine/mod.rs", "use crate::net::Dial;", "engine may not import net (crate::net::Dial)"),
            ("net/mod.rs", "use crate::engine::Plan;", "net may not import engine (crate::engine::Plan)"),
            (
                "net/mod.rs",
                "use crate::store::index::Row;",
                "crate::store::index::Row goes past the façade of store",
            ),
            (
                "net/mod.rs",
                "use crate::store::{pack::Pack};",
                "crate::store::pack::Pack goes past the façade of store",
            ),
            (
                "net/mod.rs",
                "use crate::base::code::Code;",
                "crate::base::code::Code goes past the façade of base",
            ),
            (
                "store/mod.rs",
                "pub(crate) mod index;",
                "store opens its submodule index; re-export what others need",
            ),
            ("store/mod.rs", "pub mod index;", "store opens its submodule index; re-export what others need"),
            ("store/mod.rs", "use crate::base::*;", "glob import crate::base::*"),
            ("store/mod.rs", "mod tests { use crate::base::*; }", "glob import crate::base::*"),
            ("store/mod.rs", "use std::io::{Read, *};", "glob import std::io::*"),
            ("store/index.rs", "use super::*;", "glob import crate::store::*"),
            ("store/index.rs", "use proptest::prelude::*;", "glob import proptest::prelude::*"),
            ("store/mod.rs", "use crate::nothing::X;", "crate::nothing::X is in no module of the table"),
            ("store/mod.rs", "type T = libp2p::PeerId;", "libp2p is named outside net"),
            ("store/mod.rs", "use libp2p_core::X;", "libp2p is named outside net"),
            ("engine/mod.rs", "#[derive(clap::Parser)] struct A;", "clap is named outside cli"),
            ("main.rs", "use axum as web;", "axum is named outside http"),
            ("base/mod.rs", "impl From<redb::Error> for E {}", "redb is named outside store"),
            ("util.rs", "fn f() {}", "module util is not in the table"),
            ("util/mod.rs", "fn f() {}", "module util is not in the table"),
        ];
        for (path, source, expected) in table {
            assert_eq!(check(path, source), [expected], "{path}: {source}");
        }
    }

    #[test]
    fn a_table_that_breaks_the_layers_is_refused() {
        let bad = "| 4 | `net` | x | `engine` `sky` |\n| 5 | `engine` | x | `net` |\n";
        let expected = [
            "table: engine and net must not know each other",
            "table: net may import engine, which is not in a lower layer",
            "table: net may import sky, which is no module",
        ];
        assert_eq!(House::read(bad).mistakes(), expected);
        assert_eq!(House::read(TABLE).mistakes(), Vec::<String>::new());
    }
}
