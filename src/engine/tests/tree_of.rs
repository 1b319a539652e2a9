//! A directory as a table of facts, so that two can be compared.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{lgetxattr, llistxattr};

/// Everything of an entry that a restore brings back.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fact {
    kind: char,
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    rdev: u64,
    target: Option<PathBuf>,
    content: Option<(u64, blake3::Hash)>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first path with the same inode, for files with several.
    same_as: Option<PathBuf>,
}

impl Fact {
    /// Whether each part of it is as in one of those; times of directories and which names are of one file apart.
    pub(super) fn is_made_of(&self, others: &[Option<&Fact>]) -> bool {
        let any = |is_like: &dyn Fn(&Fact) -> bool| others.iter().flatten().any(|other| is_like(other));
        any(&|other| (other.kind, other.rdev, &other.target) == (self.kind, self.rdev, &self.target))
            && any(&|other| (other.mode, other.owner) == (self.mode, self.owner))
            && any(&|other| self.kind == 'd' || other.mtime == self.mtime)
            && any(&|other| other.content == self.content)
            && any(&|other| other.xattrs == self.xattrs)
    }
}

/// All entries below `dir`, and itself as the empty path.
pub(super) fn tree_of(dir: &Path) -> BTreeMap<PathBuf, Fact> {
    tree_without(dir, Path::new("nothing is left out"))
}

/// The same without what lies in `dir/left_out`.
pub(super) fn tree_without(dir: &Path, left_out: &Path) -> BTreeMap<PathBuf, Fact> {
    let mut facts = BTreeMap::new();
    visit(dir, Path::new(""), left_out, &mut HashMap::new(), &mut facts);
    facts
}

fn visit(
    at: &Path,
    name: &Path,
    left_out: &Path,
    links: &mut HashMap<(u64, u64), PathBuf>,
    facts: &mut BTreeMap<PathBuf, Fact>,
) {
    let meta = std::fs::symlink_metadata(at).unwrap();
    let kind = meta.file_type();
    let first = (meta.nlink() > 1 && !meta.is_dir())
        .then(|| links.entry((meta.dev(), meta.ino())).or_insert_with(|| name.to_owned()).clone());
    let letter = match () {
        () if kind.is_dir() => 'd',
        () if kind.is_symlink() => 'l',
        () if kind.is_fifo() => 'p',
        () if kind.is_socket() => 's',
        () if kind.is_char_device() => 'c',
        () if kind.is_block_device() => 'b',
        () => 'f',
    };
    let fact = Fact {
        kind: letter,
        mode: meta.mode(),
        owner: (meta.uid(), meta.gid()),
        mtime: (meta.mtime(), meta.mtime_nsec()),
        rdev: meta.rdev(),
        target: kind.is_symlink().then(|| std::fs::read_link(at).unwrap()),
        content: kind.is_file().then(|| (meta.len(), blake3::hash(&std::fs::read(at).unwrap()))),
        xattrs: xattrs(at),
        same_as: first,
    };
    facts.insert(name.to_owned(), fact);
    if kind.is_dir() && name != left_out {
        let mut names: Vec<_> = std::fs::read_dir(at).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names.iter().for_each(|child| visit(&at.join(child), &name.join(child), left_out, links, facts));
    }
}

fn xattrs(at: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut list = vec![0u8; 1 << 16];
    let length = llistxattr(at, list.as_mut_slice()).unwrap_or(0);
    let names = list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0u8; 1 << 16];
        let length = lgetxattr(at, name, value.as_mut_slice()).unwrap();
        value.truncate(length);
        value
    };
    names.map(|name| (name.to_vec(), value(name))).collect()
}

/// Fails unless both directories hold the same; asks rsync for a second opinion where it is installed.
pub(super) fn assert_same(a: &Path, b: &Path) {
    let (left, right) = (tree_of(a), tree_of(b));
    for (path, fact) in &left {
        assert_eq!(Some(fact), right.get(path), "{}", path.display());
    }
    assert_eq!(left.len(), right.len(), "{:?}", right.keys().find(|path| !left.contains_key(*path)));
    let slash = |path: &Path| format!("{}/", path.display());
    let rsync = Command::new("rsync")
        .args(["-aHAXn", "--numeric-ids", "--delete", "--checksum", "--itemize-changes"])
        .args([slash(a), slash(b)])
        .output();
    if let Ok(output) = rsync {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    }
}
