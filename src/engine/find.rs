//! Searching snapshots for names: what was searched without success once is not read again.
//!
//! Snapshots of one machine share most of their trees. A [`Search`] remembers every tree chunk below which nothing
//! matched, so that a hundred snapshots cost little more than one.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobMatcher};

use super::error::EngineError;
use super::monitor::Monitor;
use super::parent::tree_of;
use super::pull::PackSource;
use super::reader::ChunkReader;
use super::seen::{SeenTrees, key_of};
use super::tree::TreeEntry;
use super::vault::Vault;
use crate::base::{ChunkId, limit};
use crate::crypto::Kind;
use crate::snapshot::{Snapshot, Tree, decode_tree};
use crate::wire::{self, NodeType};

/// Nested tree chunks: each directory may be cut into chunks that nest too.
const DEPTH_MAX: usize = limit::DIRECTORY_DEPTH_MAX * (limit::TREE_DEPTH_MAX + 1);

/// A shell pattern. Without a `/` it is compared with names, with one inside with the ends of paths, with one at its
/// beginning with whole paths. `*` and `?` do not match `/`, `**` does.
pub struct Pattern {
    glob: GlobMatcher,
    of_paths: bool,
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// [`EngineError::Pattern`]: an empty one, or a bracket that is not closed.
    pub fn new(text: &str, ignore_case: bool) -> Result<Self, EngineError> {
        let wrong = |why: String| EngineError::Pattern { pattern: text.to_owned(), why };
        let trimmed = text.strip_suffix('/').unwrap_or(text);
        if trimmed.is_empty() {
            return Err(wrong("it is empty".to_owned()));
        }
        let of_paths = trimmed.contains('/');
        let whole =
            if of_paths && !trimmed.starts_with('/') { format!("**/{trimmed}") } else { trimmed.to_owned() };
        let glob = GlobBuilder::new(&whole)
            .literal_separator(true)
            .backslash_escape(true)
            .case_insensitive(ignore_case)
            .build()
            .map_err(|error| wrong(error.kind().to_string()))?;
        Ok(Self { glob: glob.compile_matcher(), of_paths })
    }

    fn matches(&self, dir: &Path, name: &OsStr) -> bool {
        if self.of_paths { self.glob.is_match(dir.join(name)) } else { self.glob.is_match(name) }
    }
}

/// What is looked for.
pub struct FindOptions {
    /// What its name or path is like.
    pub pattern: Pattern,
    /// Only entries of this type.
    pub kind: Option<NodeType>,
    /// Only what was modified at this second (since the Unix epoch) or later.
    pub newer: Option<i64>,
    /// Only what was modified at this second or earlier.
    pub older: Option<i64>,
}

impl FindOptions {
    fn matches(&self, dir: &Path, node: &wire::Node) -> bool {
        let modified = node.mtime.map_or(0, |time| time.seconds);
        self.kind.is_none_or(|kind| node.r#type() == kind)
            && self.newer.is_none_or(|first| modified >= first)
            && self.older.is_none_or(|last| modified <= last)
            && self.pattern.matches(dir, OsStr::from_bytes(&node.name))
    }
}

/// A search over any number of snapshots.
pub struct Search<'a> {
    options: &'a FindOptions,
    reader: ChunkReader<'a>,
    monitor: &'a Monitor,
    /// Tree chunks below which nothing matches.
    barren: SeenTrees,
    /// The first tree that could not be read.
    broken: Option<EngineError>,
    /// Hits and broken trees so far.
    marks: u64,
}

/// A tree chunk that is being searched.
struct Frame {
    key: u128,
    /// The directory that it is, or is a part of.
    dir: PathBuf,
    rest: Rest,
    /// As many marks there were when it was begun.
    marks: u64,
}

enum Rest {
    Nodes(std::vec::IntoIter<wire::Node>),
    Parts(std::vec::IntoIter<ChunkId>),
}

impl<'a> Search<'a> {
    /// A search that has seen nothing yet.
    pub fn new(
        vault: &'a Vault,
        options: &'a FindOptions,
        source: Option<&'a dyn PackSource>,
        monitor: &'a Monitor,
    ) -> Self {
        let reader = ChunkReader::new(vault, source, monitor);
        Self { options, reader, monitor, barren: SeenTrees::default(), broken: None, marks: 0 }
    }

    /// Calls `each` for everything in `snapshot` that matches, in path order; stops when it gives `false`.
    ///
    /// A tree that cannot be read is passed over: [`Search::finish`] tells.
    pub fn run(
        &mut self,
        snapshot: &Snapshot,
        mut each: impl FnMut(TreeEntry) -> bool,
    ) -> Result<(), EngineError> {
        let mut stack: Vec<Frame> = Vec::new();
        stack.extend(self.open(snapshot.tree, PathBuf::from("/"))?);
        while let Some(frame) = stack.last_mut() {
            let next = match &mut frame.rest {
                Rest::Parts(parts) => parts.next().map(|part| (part, frame.dir.clone())),
                Rest::Nodes(nodes) => {
                    let Some(node) = nodes.next() else {
                        self.close(stack.pop());
                        continue;
                    };
                    let below = tree_of(&node);
                    let path = frame.dir.join(OsStr::from_bytes(&node.name));
                    if self.options.matches(&frame.dir, &node) {
                        self.marks += 1;
                        if !each(TreeEntry { path: path.clone(), node }) {
                            return Ok(());
                        }
                    }
                    let Some(below) = below else { continue };
                    Some((below, path))
                }
            };
            match next {
                None => self.close(stack.pop()),
                Some(_) if stack.len() >= DEPTH_MAX => return Err(EngineError::TooDeep),
                Some((id, dir)) => stack.extend(self.open(id, dir)?),
            }
        }
        Ok(())
    }

    /// Begins a tree chunk, unless it is known to be barren or cannot be read.
    fn open(&mut self, id: ChunkId, dir: PathBuf) -> Result<Option<Frame>, EngineError> {
        self.monitor.go_on()?;
        let key = self.key(id, &dir);
        if self.barren.contains(key) {
            return Ok(None);
        }
        let rest = match self.reader.read(Kind::Tree, id).and_then(|bytes| Ok(decode_tree(bytes)?)) {
            Ok(Tree::Leaf(nodes)) => Rest::Nodes(nodes.into_iter()),
            Ok(Tree::Inner(parts)) => Rest::Parts(parts.into_iter()),
            Err(EngineError::Cancelled) => return Err(EngineError::Cancelled),
            Err(error) => {
                self.marks += 1;
                self.broken.get_or_insert(error);
                return Ok(None);
            }
        };
        Ok(Some(Frame { key, dir, rest, marks: self.marks }))
    }

    fn close(&mut self, frame: Option<Frame>) {
        if let Some(frame) = frame.filter(|frame| frame.marks == self.marks) {
            self.barren.insert(frame.key);
        }
    }

    /// What a tree chunk is remembered by: where patterns look at paths, it counts where it is.
    fn key(&self, id: ChunkId, dir: &Path) -> u128 {
        if !self.options.pattern.of_paths {
            return key_of(id);
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(id.as_bytes()).update(dir.as_os_str().as_bytes());
        key_of(ChunkId::new(*hasher.finalize().as_bytes()))
    }

    /// Ends the search.
    ///
    /// # Errors
    /// Why the first of the trees that could not be read was not.
    pub fn finish(self) -> Result<(), EngineError> {
        self.broken.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_names_ends_of_paths_or_whole_paths() {
        let table: [(&str, bool, &[u8], bool); 17] = [
            ("*.txt", false, b"/a/b.txt", true),
            ("*.txt", false, b"/a.txt/b", false),
            ("b.txt", false, b"/a/b.txt", true),
            ("B.TXT", false, b"/a/b.txt", false),
            ("B.TXT", true, b"/a/b.txt", true),
            ("b", false, b"/a/bb", false),
            ("a/*.txt", false, b"/x/a/b.txt", true),
            ("a/*.txt", false, b"/x/a/c/b.txt", false),
            ("a/**/*.txt", false, b"/x/a/c/d/b.txt", true),
            ("/a/*.txt", false, b"/a/b.txt", true),
            ("/a/*.txt", false, b"/x/a/b.txt", false),
            ("/a", false, b"/a", true),
            ("dir/", false, b"/a/dir", true),
            ("[ab]?", false, b"/x/b\xff", true),
            ("*", false, b"/x/\xff\n", true),
            ("{one,two}", false, b"/x/two", true),
            ("\\*", false, b"/x/y", false),
        ];
        for (pattern, ignore_case, path, expected) in table {
            let path = Path::new(OsStr::from_bytes(path));
            let found = Pattern::new(pattern, ignore_case)
                .unwrap()
                .matches(path.parent().unwrap(), path.file_name().unwrap());
            assert_eq!(found, expected, "{pattern} {}", path.display());
        }
        for wrong in ["", "/", "[a", "{a"] {
            assert!(matches!(Pattern::new(wrong, false), Err(EngineError::Pattern { .. })), "{wrong}");
        }
    }
}
