//! Which entries of a tree are restored, by gitignore patterns relative to the restored root.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::FsError;
use super::rules::{self, Rules, Seen};
use crate::base::limit;

/// What a restore takes: first the included, then of these what is not excluded.
#[derive(Debug)]
pub struct Selector {
    /// `None` takes everything.
    include: Option<Rules>,
    /// Directories in which something included may lie; `None` for all.
    ways: Option<Rules>,
    exclude: Option<Rules>,
}

/// What is to be done with an entry.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Choice {
    /// It is restored.
    Chosen,
    /// It is not, but something in it may be.
    Way,
    /// Neither it nor anything in it is.
    Left,
}

impl Selector {
    /// Without patterns, everything is chosen. A pattern means what it means to a backup, and to git; only that `!` takes
    /// away from what is included also below a directory that is.
    ///
    /// # Errors
    /// [`FsError::Pattern`] for one that fits nothing, [`FsError::PatternsTooMany`].
    pub fn new(include: &[String], exclude: &[String]) -> Result<Self, FsError> {
        let include_rules = rules(include)?;
        let ways = if include_rules.is_some() { ways_to(include) } else { None };
        Ok(Self { include: include_rules, ways, exclude: rules(exclude)? })
    }

    /// Whether all is chosen.
    pub fn is_everything(&self) -> bool {
        self.include.is_none() && self.exclude.is_none()
    }

    /// Whether only what is included is chosen.
    pub fn has_includes(&self) -> bool {
        self.include.is_some()
    }

    /// What is to be done with the entry at `path`, relative to the root. `inside`: its directory is chosen.
    pub fn choose(&self, path: &Path, is_directory: bool, inside: bool) -> Choice {
        if self.is_everything() {
            return Choice::Chosen;
        }
        let whole = [b"/", path.as_os_str().as_bytes()].concat();
        let name = path.file_name().unwrap_or_default().as_bytes();
        // Whether the last pattern that fits takes it.
        let takes = |rules: &Rules, is_directory| {
            let seen = Seen { path: &whole, name, is_directory };
            rules.decide(seen, std::iter::once(0)).map(|deciding| !deciding.keeps())
        };
        if self.exclude.as_ref().is_some_and(|rules| takes(rules, is_directory) == Some(true)) {
            return Choice::Left;
        }
        let Some(include) = &self.include else { return Choice::Chosen };
        if takes(include, is_directory).unwrap_or(inside) {
            return Choice::Chosen;
        }
        let leads_on = is_directory && self.ways.as_ref().is_none_or(|ways| takes(ways, true) == Some(true));
        if leads_on { Choice::Way } else { Choice::Left }
    }
}

fn rules(patterns: &[String]) -> Result<Option<Rules>, FsError> {
    if patterns.len() > limit::PATTERNS_MAX {
        return Err(FsError::PatternsTooMany);
    }
    let mut all = Rules::default();
    let source = all.source(String::new());
    for pattern in patterns {
        if let Some(fault) = rules::fault(pattern.as_bytes()) {
            return Err(FsError::Pattern(pattern.clone(), fault.to_owned()));
        }
        all.add(source, 0, pattern.as_bytes());
    }
    Ok((!patterns.is_empty()).then_some(all))
}

/// Patterns of the directories on the way to what `include` can match; `None` when that may be anywhere.
fn ways_to(include: &[String]) -> Option<Rules> {
    let mut ways = Rules::default();
    let source = ways.source(String::new());
    for pattern in include.iter().filter(|pattern| !pattern.starts_with('!')) {
        let whole = pattern.strip_suffix('/').unwrap_or(pattern);
        // Without a slash before its end a pattern matches in every directory; in sets and after a backslash, slashes are not
        // what they look like.
        if !whole.contains('/') || whole.contains(['[', '\\']) {
            return None;
        }
        let mut way = String::new();
        let parts: Vec<&str> = whole.strip_prefix('/').unwrap_or(whole).split('/').collect();
        for part in &parts[..parts.len() - 1] {
            // To git stars may reach over slashes wherever the part begins with text.
            if part.contains("**") {
                ways.add(source, 0, format!("{way}/**/").as_bytes());
                break;
            }
            way = format!("{way}/{part}");
            ways.add(source, 0, format!("{way}/").as_bytes());
        }
    }
    Some(ways)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Choice::{Chosen, Left, Way};

    fn check(include: &[&str], exclude: &[&str], cases: &[(&str, Choice)]) {
        let owned = |list: &[&str]| list.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>();
        let selector = Selector::new(&owned(include), &owned(exclude)).unwrap();
        for (path, expected) in cases {
            // As a walk asks: from the top, in each directory that it enters.
            let (mut inside, mut found) = (true, Chosen);
            let directory = path.ends_with('/');
            let parts: Vec<&str> = path.trim_end_matches('/').split('/').collect();
            inside &= include.is_empty();
            for depth in 1..=parts.len() {
                let is_directory = directory || depth < parts.len();
                found = selector.choose(Path::new(&parts[..depth].join("/")), is_directory, inside);
                if found == Left {
                    break;
                }
                inside = found == Chosen;
            }
            assert_eq!(found, *expected, "{path} with {include:?} without {exclude:?}");
        }
    }

    #[test]
    fn includes_take_what_matches_and_what_lies_in_it() {
        check(&[], &[], &[("a", Chosen), ("a/b/", Chosen)]);
        check(
            &["*.txt", "/etc/ssh/", "!secret.txt"],
            &[],
            &[
                ("a.txt", Chosen),
                ("deep/er/a.txt", Chosen),
                ("a.c", Left),
                ("deep/", Way),
                ("etc/ssh/key", Chosen),
                ("etc/passwd", Left),
                ("other/etc/ssh/key", Left),
                ("deep/secret.txt", Left),
                ("etc/ssh/secret.txt", Left),
            ],
        );
    }

    #[test]
    fn trees_in_which_nothing_can_match_are_left_whole() {
        check(
            &["/home/*/docs/*.pdf", "srv/**/log"],
            &[],
            &[
                ("home/", Way),
                ("home/x/", Way),
                ("home/x/docs/", Way),
                ("home/x/docs/a.pdf", Chosen),
                ("home/x/docs/b/", Left),
                ("home/x/pictures/", Left),
                ("usr/", Left),
                ("srv/", Way),
                ("srv/a/b/", Way),
                ("srv/a/b/log/", Chosen),
                ("srv/a/b/log/old/1", Chosen),
            ],
        );
    }

    #[test]
    fn excludes_take_away_from_what_is_included() {
        check(
            &["docs/"],
            &["*.bak", "docs/old/"],
            &[
                ("docs/a", Chosen),
                ("docs/a.bak", Left),
                ("docs/old/x", Left),
                ("x/docs/", Chosen),
                ("a.bak", Left),
            ],
        );
        check(
            &[],
            &["/a/*", "!/a/keep"],
            &[("a/", Chosen), ("a/b", Left), ("a/keep", Chosen), ("b/a/b", Chosen)],
        );
        // Braces are no wildcards, a blank at the end is one of the name, and stars need slashes around them to reach further.
        check(
            &[],
            &["/{a,b}", "a}/dir", "tab\t"],
            &[("{a,b}", Left), ("a", Chosen), ("a}/dir", Left), ("tab\t", Left), ("tab", Chosen)],
        );
        check(&["x/a**/**"], &[], &[("x/", Way), ("x/ab/c", Chosen), ("y/", Left)]);
        assert!(Selector::new(&["[a".to_owned()], &[]).is_err());
        assert!(Selector::new(&[], &["[a".to_owned()]).is_err());
    }
}
