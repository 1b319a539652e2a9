//! Directories to back up, and their comparison with what came back.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

/// Bytes that do not compress and never repeat within one `seed`.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// `files` files of `each` bytes, all different.
pub fn plain(dir: &Path, seed: u64, files: u64, each: usize) {
    fs::create_dir_all(dir).expect("a directory");
    for number in 0..files {
        let content = noise(seed * 1000 + number, each);
        fs::write(dir.join(format!("file-{number}")), content).expect("a file");
    }
}

/// A directory with everything that a restore must bring back.
pub fn odd(dir: &Path) {
    let at = |name: &str| dir.join(name);
    fs::create_dir_all(at("sub/deeper")).expect("directories");
    fs::create_dir(at("empty dir")).expect("a directory");
    fs::write(at("empty"), b"").expect("a file");
    fs::write(at("big"), noise(1, 3_000_000)).expect("a file");
    fs::write(at("text"), "all work and no play\n".repeat(20_000)).expect("a file");
    fs::write(at("sub/deeper/small"), b"small").expect("a file");
    fs::write(dir.join(OsStr::from_bytes(b"not utf-8 \xff\xfe")), b"odd name").expect("a file");
    fs::write(at("line\nbreak and \u{202e}more"), b"odd name").expect("a file");
    fs::write(at("secret"), b"for me only").expect("a file");
    fs::set_permissions(at("secret"), Permissions::from_mode(0o600)).expect("a mode");
    fs::set_permissions(at("sub/deeper"), Permissions::from_mode(0o2750)).expect("a mode");
    fs::hard_link(at("big"), at("sub/big again")).expect("a hard link");
    symlink("../nowhere", at("sub/dangling")).expect("a symlink");
    symlink(OsStr::from_bytes(b"t\xffarget"), at("odd link")).expect("a symlink");
    rustix::fs::mknodat(CWD, at("fifo"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).expect("a fifo");
    sparse(&at("sparse"));
    for (name, value) in [("user.comment", b"first \x00\xff".as_slice()), ("user.empty", b"")] {
        // Some file systems have none; then there is nothing to compare.
        rustix::fs::setxattr(at("text"), name, value, XattrFlags::empty()).ok();
        rustix::fs::setxattr(at("sub"), name, value, XattrFlags::empty()).ok();
    }
    for (name, seconds, nanos) in [
        ("text", 1_000_000_000, 123_456_789),
        ("empty", 1, 1),
        ("odd link", 1_234_567_890, 987_654_321),
        ("sub/deeper", 1_500_000_000, 5),
        ("empty dir", -5, 999_999_999),
        ("sub", 1_600_000_000, 1),
    ] {
        age(&at(name), seconds, nanos);
    }
}

/// Sets a modification time.
pub fn age(path: &Path, seconds: i64, nanos: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).expect("a time");
}

fn sparse(path: &Path) {
    let mut file = File::create(path).expect("a file");
    file.write_all(b"begin").expect("bytes");
    file.seek(SeekFrom::Start(4 << 20)).expect("a seek");
    file.write_all(b"middle").expect("bytes");
    file.set_len(8 << 20).expect("a length");
    file.write_all_at(b"end", (8 << 20) - 3).expect("bytes");
}

/// Gives a file, whose holes were written as zeros, those of the original back.
pub fn punch(path: &Path, original: &Path) {
    let done = Command::new("fallocate").arg("--dig-holes").arg(path).status();
    if !done.is_ok_and(|status| status.success()) {
        eprintln!("fallocate is not installed; the holes of {} are taken over", path.display());
        fs::copy(original, path).expect("a copy");
    }
    let there = fs::metadata(original).expect("the original");
    age(path, there.mtime(), there.mtime_nsec());
}

/// Everything about one entry that must come back.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    mode: u32,
    owner: (u32, u32),
    size: u64,
    modified: (i64, i64),
    links: Vec<PathBuf>,
    target: Option<PathBuf>,
    attributes: BTreeMap<OsString, Vec<u8>>,
    content: Option<blake3::Hash>,
    /// It takes well under its length on disk.
    holes: bool,
}

fn facts(root: &Path) -> BTreeMap<PathBuf, Facts> {
    let mut paths = vec![root.to_owned()];
    let (mut at, mut linked) = (0, BTreeMap::<(u64, u64), Vec<PathBuf>>::new());
    while let Some(path) = paths.get(at).cloned() {
        at += 1;
        let there = path.symlink_metadata().expect("an entry");
        if there.is_dir() {
            paths.extend(fs::read_dir(&path).expect("a directory").map(|e| e.expect("an entry").path()));
        } else if there.nlink() > 1 {
            linked.entry((there.dev(), there.ino())).or_default().push(below(root, &path));
        }
    }
    linked.values_mut().for_each(|names| names.sort());
    paths.iter().map(|path| (below(root, path), fact(path, &linked))).collect()
}

fn below(root: &Path, path: &Path) -> PathBuf {
    path.strip_prefix(root).expect("a path below its root").to_owned()
}

fn fact(path: &Path, linked: &BTreeMap<(u64, u64), Vec<PathBuf>>) -> Facts {
    let there = path.symlink_metadata().expect("an entry");
    let file = there.is_file();
    Facts {
        mode: there.mode(),
        owner: (there.uid(), there.gid()),
        size: if file { there.len() } else { 0 },
        modified: (there.mtime(), there.mtime_nsec()),
        links: linked.get(&(there.dev(), there.ino())).cloned().unwrap_or_default(),
        target: fs::read_link(path).ok(),
        attributes: if there.is_symlink() { BTreeMap::new() } else { attributes(path) },
        content: file.then(|| blake3::hash(&fs::read(path).expect("a file"))),
        holes: file && there.blocks() * 512 + (1 << 20) < there.len(),
    }
}

fn attributes(path: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let mut names = vec![0; 4096];
    let Ok(length) = rustix::fs::listxattr(path, &mut names) else { return BTreeMap::new() };
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 4096];
        let length = rustix::fs::getxattr(path, OsStr::from_bytes(name), &mut value).expect("an attribute");
        value.truncate(length);
        value
    };
    names.map(|name| (OsStr::from_bytes(name).to_owned(), value(name))).collect()
}

/// Asserts that two directories are the same in content and metadata, by this module's eyes and by rsync's.
#[track_caller]
pub fn assert_same(source: &Path, restored: &Path) {
    let (wanted, got) = (facts(source), facts(restored));
    for (path, fact) in &wanted {
        assert_eq!(got.get(path), Some(fact), "{}", path.display());
    }
    let more: Vec<&PathBuf> = got.keys().filter(|path| !wanted.contains_key(*path)).collect();
    assert!(more.is_empty(), "only in {}: {more:?}", restored.display());
    let mut rsync = Command::new("rsync");
    rsync.args(["-aHAXn", "--numeric-ids", "--delete", "--checksum", "--itemize-changes"]);
    rsync.arg(source.join("")).arg(restored.join(""));
    match rsync.output() {
        Err(_) => eprintln!("rsync is not installed; compared without it"),
        Ok(output) => {
            assert!(output.status.success(), "{output:?}");
            assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
        }
    }
}

/// Asserts that every file below `restored` is one of the source's with its very bytes: nothing wrong was written.
#[track_caller]
pub fn assert_only_right_bytes(source: &Path, restored: &Path) -> usize {
    let (wanted, got) = (facts(source), facts(restored));
    let files = got.iter().filter(|(_, fact)| fact.content.is_some());
    files
        .map(|(path, fact)| {
            let original = wanted.get(path).unwrap_or_else(|| panic!("{} is new", path.display()));
            assert_eq!(fact.content, original.content, "{}", path.display());
        })
        .count()
}
