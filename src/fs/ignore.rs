//! What a backup leaves out: patterns as git has them, marked directories, large files.
//!
//! Of patterns, those given one by one decide first, then the ignore files of the tree (the deepest first), then lists
//! (pattern files, backup sets): the order of git's command line, `.gitignore` and `core.excludesFile`. What lies in a
//! left-out directory is left out with it, whatever patterns say about it.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::rules::{self, Deciding, Rules, Seen};
use super::walk::{Contents, Filter, Item};
use super::{FsError, Listing};
use crate::base::limit;

/// The name of ignore files.
pub const IGNORE_FILE: &str = ".shadowvaultignore";

/// What <https://bford.info/cachedir/> asks of a cache's tag.
const CACHE_TAG: (&str, &[u8]) = ("CACHEDIR.TAG", b"Signature: 8a477f597d28d172789f06886806bc55");

/// What to leave out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exclusions {
    /// Patterns given one by one, as if in each backed-up path; they decide before ignore files.
    pub patterns: Vec<String>,
    /// The same whether letters are upper or lower case; they decide before those.
    pub any_case: Vec<String>,
    /// Lists of patterns, as if in each backed-up path; they decide after ignore files, the last list first.
    pub lists: Vec<PatternList>,
    /// Directories that have such a file are left out but for themselves and the file: `FILE` or `FILE:HEADER`.
    pub if_present: Vec<String>,
    /// The same for directories that are tagged as caches.
    pub caches: bool,
    /// Files of more bytes than this.
    pub larger_than: Option<u64>,
}

/// Lines of a pattern file, or patterns of a backup set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PatternList {
    /// What it is called when a person asks which pattern decided.
    pub name: String,
    /// Its lines.
    pub lines: Vec<String>,
}

/// Why something is left out, or kept against other rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ground {
    /// A pattern.
    Pattern {
        /// As git reads it.
        pattern: String,
        /// The file, flag or backup set that it stands in.
        source: String,
        /// Its line or number there, from 1.
        line: u32,
    },
    /// The directory has this file.
    Marker(String),
    /// The file has more bytes than this.
    LargerThan(u64),
}

impl Ground {
    fn of(deciding: Deciding<'_>) -> Self {
        let (pattern, source) = (deciding.pattern(), deciding.source().to_owned());
        Self::Pattern { pattern, source, line: deciding.line() }
    }
}

impl fmt::Display for Ground {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pattern { pattern, source, line } => write!(f, "{pattern} ({source}:{line})"),
            Self::Marker(name) => write!(f, "what lies in it, because of its {name}"),
            Self::LargerThan(bytes) => write!(f, "it has more than {bytes} bytes"),
        }
    }
}

/// A file that marks a directory.
struct Marker {
    name: String,
    /// What the file begins with; empty for anything.
    header: Vec<u8>,
}

impl Marker {
    fn read(text: &str) -> Result<Self, FsError> {
        let (name, header) = text.split_once(':').unwrap_or((text, ""));
        let odd = name.is_empty() || name.contains('/') || [".", ".."].contains(&name);
        if odd || header.len() > limit::MARKER_HEADER_BYTES_MAX {
            return Err(FsError::Marker(text.to_owned()));
        }
        Ok(Self { name: name.to_owned(), header: header.as_bytes().to_vec() })
    }

    fn marks(&self, listing: &Listing<'_>) -> io::Result<bool> {
        let (name, length) = (self.name.as_bytes(), self.header.len());
        if !listing.contains(name) || length == 0 {
            return Ok(listing.contains(name));
        }
        let found = listing.read(name, length as u64).map_err(|error| unread(&self.name, &error))?;
        Ok(found.is_some_and(|found| found == self.header))
    }
}

/// Decides what a walk leaves out.
///
/// Memory: the rules given, and those of the ignore files on the way down to where the walk is, of which there are at
/// most `limit::IGNORE_RULES_MAX`. An entry costs nothing but a look at the rules in force; without any, nothing.
pub struct Sieve {
    single: Rules,
    listed: Rules,
    markers: Vec<Marker>,
    larger_than: u64,
    roots: HashSet<PathBuf>,
    /// Directories that the walk is in.
    depth: usize,
    /// Of them, the backed-up paths.
    bases: Vec<Base>,
    /// Ignore files in them.
    files: Vec<(Base, Rules)>,
    /// Rules in all ignore files.
    in_force: usize,
    watch: Option<Watch>,
}

/// A directory that patterns count from.
#[derive(Copy, Clone)]
struct Base {
    depth: usize,
    /// Of its path without a slash at the end.
    length: usize,
}

/// Hears what is left out, and why: an entry, or with [`Ground::Marker`] a directory's contents.
pub type Watch = Box<dyn FnMut(&Path, Ground) + Send>;

impl Sieve {
    /// For a walk of `roots`.
    ///
    /// # Errors
    /// [`FsError::Pattern`] for a pattern that fits nothing, [`FsError::PatternsTooMany`], [`FsError::Marker`].
    pub fn new(roots: &[PathBuf], exclusions: &Exclusions) -> Result<Self, FsError> {
        let mut markers = Vec::new();
        if exclusions.caches {
            markers.push(Marker { name: CACHE_TAG.0.to_owned(), header: CACHE_TAG.1.to_vec() });
        }
        for text in &exclusions.if_present {
            markers.push(Marker::read(text)?);
        }
        let (single, listed) = (single(exclusions)?, listed(&exclusions.lists)?);
        if single.count() + listed.count() > limit::PATTERNS_MAX {
            return Err(FsError::PatternsTooMany);
        }
        Ok(Self {
            single,
            listed,
            markers,
            larger_than: exclusions.larger_than.unwrap_or(u64::MAX),
            roots: roots.iter().map(|root| root.components().collect()).collect(),
            depth: 0,
            bases: Vec::new(),
            files: Vec::new(),
            in_force: 0,
            watch: None,
        })
    }

    /// With an ear for what is left out.
    #[must_use]
    pub fn watched(mut self, watch: Watch) -> Self {
        self.watch = Some(watch);
        self
    }

    /// Whether `item` is kept, and the rule that decided, if one did.
    pub(super) fn judge(&self, item: &Item<'_>) -> (bool, Option<Ground>) {
        let deciding = self.deciding(item);
        let kept = deciding.is_none_or(Deciding::keeps);
        if kept && item.size_bytes > self.larger_than {
            return (false, Some(Ground::LargerThan(self.larger_than)));
        }
        (kept, deciding.map(Ground::of))
    }

    /// The pattern that decides about `item`.
    fn deciding(&self, item: &Item<'_>) -> Option<Deciding<'_>> {
        if self.single.is_empty() && self.files.is_empty() && self.listed.is_empty() {
            return None;
        }
        let path = item.path.as_os_str().as_bytes();
        let start = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        let seen = Seen { path, name: &path[start..], is_directory: item.is_directory };
        let bases = self.bases.iter().map(|base| base.length);
        let of_files = || {
            let mut deepest_first = self.files.iter().rev();
            deepest_first.find_map(|(base, rules)| rules.decide(seen, std::iter::once(base.length)))
        };
        let single = self.single.decide(seen, bases.clone());
        single.or_else(of_files).or_else(|| self.listed.decide(seen, bases))
    }

    /// Takes the directory's own ignore file into account.
    fn read_ignore_file(&mut self, listing: &Listing<'_>, base: Base) -> io::Result<()> {
        let longest = limit::IGNORE_FILE_BYTES_MAX;
        let content = listing.read(IGNORE_FILE.as_bytes(), longest as u64 + 1);
        let Some(content) = content.map_err(|error| unread(IGNORE_FILE, &error))? else { return Ok(()) };
        let refused =
            |why: String| io::Error::new(io::ErrorKind::InvalidData, format!("{IGNORE_FILE} {why}"));
        if content.len() > longest {
            return Err(refused(format!("has more than {longest} bytes and is not followed")));
        }
        let mut rules = Rules::default();
        rules.add_file(listing.path().join(IGNORE_FILE).to_string_lossy().into_owned(), &content);
        if self.in_force + rules.count() > limit::IGNORE_RULES_MAX {
            let most = limit::IGNORE_RULES_MAX;
            return Err(refused(format!(
                "is not followed: with those above it, it has more than {most} patterns"
            )));
        }
        self.in_force += rules.count();
        if !rules.is_empty() {
            self.files.push((base, rules));
        }
        Ok(())
    }

    fn marked(&mut self, listing: &Listing<'_>) -> io::Result<Contents> {
        let mut kept = Vec::new();
        for marker in &self.markers {
            if marker.marks(listing)? {
                kept.push(marker.name.clone());
            }
        }
        let Some(first) = kept.first() else { return Ok(Contents::All) };
        if let Some(watch) = &mut self.watch {
            watch(listing.path(), Ground::Marker(first.clone()));
        }
        Ok(Contents::Only(kept))
    }
}

impl Filter for Sieve {
    fn keeps(&mut self, item: &Item<'_>) -> bool {
        if self.watch.is_none() {
            return item.size_bytes <= self.larger_than && self.deciding(item).is_none_or(Deciding::keeps);
        }
        let (kept, ground) = self.judge(item);
        if let (false, Some(ground), Some(watch)) = (kept, ground, &mut self.watch) {
            watch(item.path, ground);
        }
        kept
    }

    fn enters(&mut self, listing: &Listing<'_>) -> io::Result<Contents> {
        self.depth += 1;
        let path = listing.path();
        let length = if path == Path::new("/") { 0 } else { path.as_os_str().len() };
        let base = Base { depth: self.depth, length };
        if self.roots.contains(path) {
            self.bases.push(base);
        }
        self.read_ignore_file(listing, base)?;
        if self.markers.is_empty() { Ok(Contents::All) } else { self.marked(listing) }
    }

    fn leaves(&mut self) {
        self.bases.pop_if(|base| base.depth == self.depth);
        if let Some((_, rules)) = self.files.pop_if(|(base, _)| base.depth == self.depth) {
            self.in_force -= rules.count();
        }
        self.depth -= 1;
    }
}

/// The failure of a directory whose file `name` cannot be read.
fn unread(name: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("its {name} cannot be read and is not followed: {error}"))
}

fn single(exclusions: &Exclusions) -> Result<Rules, FsError> {
    let mut rules = Rules::default();
    let all = [("--exclude", &exclusions.patterns, false), ("--iexclude", &exclusions.any_case, true)];
    for (name, patterns, any_case) in all {
        let source = rules.source(name.to_owned());
        for (number, pattern) in (1..).zip(patterns) {
            if let Some(fault) = rules::fault(pattern.as_bytes()) {
                return Err(FsError::Pattern(pattern.clone(), fault.to_owned()));
            }
            match any_case {
                true => rules.add_any_case(source, number, pattern),
                false => rules.add(source, number, pattern.as_bytes()),
            }
        }
    }
    Ok(rules)
}

fn listed(lists: &[PatternList]) -> Result<Rules, FsError> {
    let mut rules = Rules::default();
    for list in lists {
        let content = list.lines.join("\n");
        if let Some((line, fault)) = rules::file_fault(content.as_bytes()) {
            let text = list.lines.get(line as usize - 1).map_or("", |text| text.trim_end());
            return Err(FsError::Pattern(format!("{text} ({}:{line})", list.name), fault.to_owned()));
        }
        rules.add_file(list.name.clone(), content.as_bytes());
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_and_patterns_that_make_no_sense_are_refused() {
        let check = |exclusions: Exclusions| Sieve::new(&["/a".into()], &exclusions).err().is_none();
        let marker =
            |text: &str| check(Exclusions { if_present: vec![text.into()], ..Exclusions::default() });
        let table = [
            (".nobackup", true),
            (".git:x:y", true),
            ("", false),
            (":x", false),
            ("a/b", false),
            ("..", false),
        ];
        for (text, sound) in table {
            assert_eq!(marker(text), sound, "{text:?}");
        }
        for (pattern, sound) in [("*.o", true), ("#a", true), ("[a", false), ("", false)] {
            assert_eq!(check(Exclusions { patterns: vec![pattern.into()], ..Exclusions::default() }), sound);
        }
        let list = |lines: Vec<String>| {
            let lists = vec![PatternList { name: "f".into(), lines }];
            Sieve::new(&["/a".into()], &Exclusions { lists, ..Exclusions::default() }).err()
        };
        assert!(list(vec!["# [".into(), "".into(), "  ".into(), "*.o\r".into()]).is_none());
        let error = list(vec!["a".into(), "[b ".into()]).unwrap().to_string();
        assert!(error.contains("[b (f:2)"), "{error}");
        assert!(matches!(
            list(vec!["x".to_owned(); limit::PATTERNS_MAX + 1]),
            Some(FsError::PatternsTooMany)
        ));
    }
}
