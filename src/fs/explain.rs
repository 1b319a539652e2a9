//! Why a backup takes a path or leaves it out: the walk itself, led along that path only.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::ignore::{Exclusions, Ground, Sieve};
use super::roots::plain_roots;
use super::walk::{Contents, Filter, Item, Walk, WalkEvent, WalkOptions, identity};
use super::{FsError, Listing};

/// What becomes of a path, and why.
#[derive(Debug, PartialEq, Eq)]
pub struct Explanation {
    /// It would be in the snapshot.
    pub included: bool,
    /// What decided.
    pub why: Why,
    /// Where that was decided: the path itself or a directory above it.
    pub at: PathBuf,
    /// The path is a directory, which is included, and its contents are not.
    pub contents: Option<Why>,
}

/// What decides about a path.
#[derive(Debug, PartialEq, Eq)]
pub enum Why {
    /// It was asked for by name, which no rule outweighs.
    Asked,
    /// It leads to one that was.
    Above,
    /// No rule is against it.
    NoRule,
    /// A rule.
    Ruled(Ground),
    /// A mount point, with `one_file_system`.
    OtherFileSystem,
    /// The node's own data.
    Store,
    /// It lies in none of the backed-up paths.
    Outside,
    /// It is not there, or cannot be read.
    Unreadable(String),
}

/// Explains what a walk of `roots` does with `target`, an absolute path. Reads the directories on the way to it.
///
/// # Errors
/// As [`Walk::new`] and [`Sieve::new`].
pub fn explain(
    roots: &[PathBuf],
    exclusions: &Exclusions,
    one_file_system: bool,
    skip: &[PathBuf],
    target: &Path,
) -> Result<Explanation, FsError> {
    let roots = &plain_roots(roots, skip)?;
    let sieve = Sieve::new(roots, exclusions)?;
    let tell = |included, why, at: &Path| Explanation { included, why, at: at.to_owned(), contents: None };
    let around: Vec<PathBuf> = roots.iter().filter(|root| target.starts_with(root)).cloned().collect();
    if around.is_empty() {
        let above = roots.iter().any(|root| root.starts_with(target));
        return Ok(tell(above, if above { Why::Above } else { Why::Outside }, target));
    }
    if let Err(error) = target.symlink_metadata() {
        return Ok(tell(false, Why::Unreadable(error.to_string()), target));
    }
    let found = Arc::new(Mutex::new(Found::default()));
    let filter = Box::new(Trail { sieve, target: target.to_owned(), found: found.clone() });
    let walk = Walk::new(&around, WalkOptions { one_file_system, skip: skip.to_vec(), filter })?;
    let trace = Trace::of(walk, target);
    let found = std::mem::take(&mut *found.lock().expect("no panic while held"));
    let mounted = |path: &Path| one_file_system && !around.iter().any(|root| root == path) && is_mount(path);
    if trace.included {
        let why = match found.judged {
            _ if around.iter().any(|root| root == target) => Why::Asked,
            Some((at, ground)) if at == target => Why::Ruled(ground),
            _ => Why::NoRule,
        };
        let marked = found.marked.filter(|(at, _)| at == target);
        let marked = marked.map(|(_, name)| Why::Ruled(Ground::Marker(name)));
        let contents = marked.or_else(|| mounted(target).then_some(Why::OtherFileSystem));
        return Ok(Explanation { contents, ..tell(true, why, target) });
    }
    // The first of the parts below the last directory that was entered was not.
    let below = target.strip_prefix(&trace.entered).ok().and_then(|rest| rest.iter().next());
    let next = below.map_or(target.to_owned(), |name| trace.entered.join(name));
    Ok(if let Some((at, ground)) = found.judged.filter(|(at, _)| *at == next) {
        tell(false, Why::Ruled(ground), &at)
    } else if let Some((at, name)) = found.marked.filter(|(at, _)| *at == trace.entered) {
        tell(false, Why::Ruled(Ground::Marker(name)), &at)
    } else if skip.iter().any(|skipped| is_same(skipped, &next)) {
        tell(false, Why::Store, &next)
    } else if mounted(&trace.entered) {
        tell(false, Why::OtherFileSystem, &trace.entered)
    } else {
        let (at, error) = trace.failed.unwrap_or((next, io::ErrorKind::NotFound.into()));
        tell(false, Why::Unreadable(error.to_string()), &at)
    })
}

/// What a walk did on the way to a path.
struct Trace {
    included: bool,
    /// The last directory on the way that it entered.
    entered: PathBuf,
    failed: Option<(PathBuf, io::Error)>,
}

impl Trace {
    fn of(walk: Walk, target: &Path) -> Self {
        let mut trace = Self { included: false, entered: PathBuf::from("/"), failed: None };
        for event in walk {
            match event {
                WalkEvent::Enter { path, .. } | WalkEvent::Entry { path, .. } if path == target => {
                    trace.included = true;
                }
                WalkEvent::Enter { path, .. } if target.starts_with(&path) => trace.entered = path,
                WalkEvent::Failed { path, error } if target.starts_with(&path) => {
                    trace.failed = Some((path, error));
                }
                _ => {}
            }
        }
        trace
    }
}

/// What the rules said on the way.
#[derive(Default)]
struct Found {
    /// The last rule that decided about an entry.
    judged: Option<(PathBuf, Ground)>,
    /// The last directory that is marked, and by what.
    marked: Option<(PathBuf, String)>,
}

/// Lets a walk go along one path only, and notes what the rules say about it.
struct Trail {
    sieve: Sieve,
    target: PathBuf,
    found: Arc<Mutex<Found>>,
}

impl Filter for Trail {
    fn keeps(&mut self, item: &Item<'_>) -> bool {
        if !self.target.starts_with(item.path) {
            return false;
        }
        let (kept, ground) = self.sieve.judge(item);
        if let Some(ground) = ground {
            self.found.lock().expect("no panic while held").judged = Some((item.path.to_owned(), ground));
        }
        kept
    }

    fn enters(&mut self, listing: &Listing<'_>) -> io::Result<Contents> {
        let contents = self.sieve.enters(listing)?;
        if let (Contents::Only(names), true) = (&contents, self.target.starts_with(listing.path())) {
            let name = names.first().cloned().unwrap_or_default();
            self.found.lock().expect("no panic while held").marked = Some((listing.path().to_owned(), name));
        }
        Ok(contents)
    }

    fn leaves(&mut self) {
        self.sieve.leaves();
    }
}

fn is_same(one: &Path, other: &Path) -> bool {
    match (rustix::fs::stat(one), rustix::fs::lstat(other)) {
        (Ok(one), Ok(other)) => identity(&one) == identity(&other),
        _ => false,
    }
}

/// Whether a directory is on another file system than the one around it.
fn is_mount(path: &Path) -> bool {
    match (path.parent().map(rustix::fs::stat), rustix::fs::lstat(path)) {
        (Some(Ok(outer)), Ok(inner)) => outer.st_dev != inner.st_dev,
        _ => false,
    }
}
