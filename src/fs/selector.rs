//! Which entries of a tree are restored, by gitignore patterns relative to the restored root.

use std::path::Path;

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::FsError;

/// What a restore takes: first the included, then of these what is not excluded.
#[derive(Debug)]
pub struct Selector {
    /// `None` takes everything.
    include: Option<Gitignore>,
    /// Directories in which something included may lie; `None` for all.
    ways: Option<Gitignore>,
    exclude: Option<Gitignore>,
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
    /// Without patterns, everything is chosen.
    ///
    /// # Errors
    /// [`FsError::Pattern`] for one that is none.
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
        let excludes = |rules: &Gitignore| rules.matched(path, is_directory).is_ignore();
        if self.exclude.as_ref().is_some_and(excludes) {
            return Choice::Left;
        }
        let Some(include) = &self.include else { return Choice::Chosen };
        let verdict = include.matched(path, is_directory);
        if verdict.is_ignore() || (inside && !verdict.is_whitelist()) {
            return Choice::Chosen;
        }
        let leads_on =
            is_directory && self.ways.as_ref().is_none_or(|ways| ways.matched(path, true).is_ignore());
        if leads_on { Choice::Way } else { Choice::Left }
    }
}

fn rules(patterns: &[String]) -> Result<Option<Gitignore>, FsError> {
    if patterns.is_empty() {
        return Ok(None);
    }
    let mut builder = GitignoreBuilder::new("");
    for pattern in patterns {
        let wrong = |error: ignore::Error| FsError::Pattern(pattern.clone(), error.to_string());
        builder.add_line(None, pattern).map_err(wrong)?;
    }
    let built = builder.build();
    built.map(Some).map_err(|error| FsError::Pattern(patterns.join(" "), error.to_string()))
}

/// Patterns of the directories on the way to what `include` can match; `None` when that may be anywhere.
fn ways_to(include: &[String]) -> Option<Gitignore> {
    let mut builder = GitignoreBuilder::new("");
    for pattern in include {
        let pattern = pattern.trim_end();
        if pattern.is_empty() || pattern.starts_with(['#', '!']) {
            continue;
        }
        let whole = pattern.strip_suffix('/').unwrap_or(pattern);
        // Without a slash before its end a pattern matches in every directory.
        if !whole.contains('/') {
            return None;
        }
        let mut way = String::new();
        let parts: Vec<&str> = whole.strip_prefix('/').unwrap_or(whole).split('/').collect();
        for part in &parts[..parts.len() - 1] {
            if *part == "**" {
                builder.add_line(None, &format!("{way}/**/")).ok()?;
                break;
            }
            way = format!("{way}/{part}");
            builder.add_line(None, &format!("{way}/")).ok()?;
        }
    }
    builder.build().ok()
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
        assert!(Selector::new(&["[z-a]".to_owned()], &[]).is_err());
        assert!(Selector::new(&[], &["[z-a]".to_owned()]).is_err());
    }
}
