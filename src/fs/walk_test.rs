//! Walks over real directories, compared with what was put there.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::{ProptestConfig, prop, proptest};
use rustix::fs::{CWD, FileType, Mode, OFlags, XattrFlags, mkdirat, mknodat, openat};

use super::{Contents, Filter, FsError, Item, Listing, Segment, Walk, WalkEvent, WalkOptions, open_file};
use crate::base::limit;
use crate::wire::{Node, NodeType};

/// One line for each event below `base`: `+dir`, `-`, `file`, `!failed`.
fn outline(base: &Path, roots: &[PathBuf], options: WalkOptions) -> Vec<String> {
    let short = |path: &Path| path.strip_prefix(base).unwrap_or(path).display().to_string();
    let mut depth_outside = 0;
    let mut depth = 0usize;
    let mut lines = Vec::new();
    for event in Walk::new(roots, options).unwrap() {
        match event {
            WalkEvent::Enter { path, .. } if path == base || base.starts_with(&path) => depth_outside += 1,
            WalkEvent::Enter { path, node } => {
                assert_eq!(node.name, path.file_name().unwrap().as_bytes());
                depth += 1;
                lines.push(format!("+{}", short(&path)));
            }
            WalkEvent::Leave { .. } if depth == 0 => depth_outside -= 1,
            WalkEvent::Leave { .. } => {
                depth -= 1;
                lines.push("-".to_owned());
            }
            WalkEvent::Entry { path, .. } => lines.push(short(&path)),
            WalkEvent::Failed { path, .. } => lines.push(format!("!{}", short(&path))),
        }
    }
    assert_eq!((depth, depth_outside), (0, 0), "every Enter has its Leave");
    lines
}

fn node_of(path: &Path) -> Node {
    let events = Walk::new(&[path.to_owned()], WalkOptions::default()).unwrap();
    events
        .filter_map(|event| match event {
            WalkEvent::Enter { path, node } | WalkEvent::Entry { path, node } => Some((path, node)),
            _ => None,
        })
        .find(|(found, _)| found == path)
        .unwrap()
        .1
}

/// A directory whose path has no symlink in it.
fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().canonicalize().unwrap();
    (dir, path)
}

fn put(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, path.as_os_str().as_bytes()).unwrap();
}

#[test]
fn walk_goes_depth_first_in_byte_order() {
    let (_keep, base) = place();
    for file in ["b/x", "b/y/z", "a", "a.d/q", "B", "c"] {
        put(&base.join(file));
    }
    let expected = ["B", "a", "+a.d", "a.d/q", "-", "+b", "b/x", "+b/y", "b/y/z", "-", "-", "c"];
    assert_eq!(outline(&base, std::slice::from_ref(&base), WalkOptions::default()), expected);
}

#[test]
fn walk_starts_at_the_root_directory_with_real_metadata() {
    let (_keep, base) = place();
    let events: Vec<_> = Walk::new(std::slice::from_ref(&base), WalkOptions::default()).unwrap().collect();
    let WalkEvent::Enter { path, node } = &events[0] else { panic!("{events:?}") };
    assert_eq!((path.as_path(), node.name.len()), (Path::new("/"), 0));
    assert_eq!(node.inode, fs::metadata("/").unwrap().ino());
}

#[test]
fn walk_of_several_roots_visits_everything_once() {
    let (_keep, base) = place();
    for file in ["one/a", "one/deep/b", "two/c", "three/d"] {
        put(&base.join(file));
    }
    let roots = ["one/deep", "one", "one/", "two/c", "one/a"].map(|root| base.join(root));
    let expected = ["+one", "one/a", "+one/deep", "one/deep/b", "-", "-", "+two", "two/c", "-"];
    assert_eq!(outline(&base, &roots, WalkOptions::default()), expected);
}

#[test]
fn walk_refuses_relative_roots_and_tells_missing_ones() {
    let (_keep, base) = place();
    put(&base.join("file"));
    for missing in ["nothing", "file/below"] {
        let roots = [base.join(missing), base.join("file")];
        let expected = [format!("!{missing}"), "file".to_owned()];
        assert_eq!(outline(&base, &roots, WalkOptions::default()), expected);
        let refused = Walk::new(&[base.join(missing)], WalkOptions::default()).err().unwrap();
        assert!(matches!(&refused, FsError::NotFound(path) if *path == base.join(missing)), "{refused}");
    }
    for relative in ["relative", "absent/.."] {
        let refused =
            Walk::new(&[base.clone(), PathBuf::from(relative)], WalkOptions::default()).err().unwrap();
        assert!(matches!(refused, FsError::NotAbsolute(_)));
    }
}

#[test]
fn walk_follows_symlinks_above_a_root_but_none_in_it() {
    let (_keep, base) = place();
    put(&base.join("real/in/file"));
    symlink("real", base.join("link")).unwrap();
    assert_eq!(
        outline(&base, &[base.join("link/in")], WalkOptions::default()),
        ["+link", "+link/in", "link/in/file", "-", "-"]
    );
    assert_eq!(outline(&base, &[base.join("link")], WalkOptions::default()), ["link"]);
    let node = node_of(&base.join("link"));
    assert_eq!((node.r#type(), node.target.as_slice()), (NodeType::NodeSymlink, &b"real"[..]));
}

#[test]
fn walk_never_enters_skipped_directories_by_any_path() {
    let (_keep, base) = place();
    put(&base.join("store/pack"));
    put(&base.join("kept"));
    symlink("store", base.join("alias")).unwrap();
    let options =
        || WalkOptions { skip: vec![base.join("alias"), base.join("absent")], ..Default::default() };
    assert_eq!(outline(&base, std::slice::from_ref(&base), options()), ["alias", "kept"]);
}

struct Rules;

impl Filter for Rules {
    fn keeps(&mut self, item: &Item<'_>) -> bool {
        let name = item.path.file_name().unwrap().as_bytes();
        if item.is_directory { name != b"out" } else { name != b"junk" && item.size_bytes < 10_000 }
    }

    fn enters(&mut self, listing: &Listing<'_>) -> std::io::Result<Contents> {
        let marked = listing.read(b"MARK", 4)?.as_deref() == Some(b"stop");
        Ok(if marked { Contents::Only(vec!["MARK".into(), "absent".into()]) } else { Contents::All })
    }
}

#[test]
fn walk_filter_leaves_out_entries_contents_and_large_files() {
    let (_keep, base) = place();
    for file in ["junk", "out/x", "out/root/y", "in/z"] {
        put(&base.join(file));
    }
    put(&base.join("cache/x"));
    fs::write(base.join("cache/MARK"), b"stop and more").unwrap();
    fs::write(base.join("large"), vec![1; 10_000]).unwrap();
    let options = || WalkOptions { filter: Box::new(Rules), ..Default::default() };
    let expected = ["+cache", "cache/MARK", "-", "+in", "in/z", "-"];
    assert_eq!(outline(&base, std::slice::from_ref(&base), options()), expected);
    // A root inside what is left out is still walked, and a root itself is never judged.
    let expected = [
        "+cache",
        "cache/MARK",
        "-",
        "+in",
        "in/z",
        "-",
        "junk",
        "+out",
        "+out/root",
        "out/root/y",
        "-",
        "-",
    ];
    assert_eq!(
        outline(&base, &[base.clone(), base.join("out/root"), base.join("junk")], options()),
        expected
    );
}

#[test]
fn walk_on_one_file_system_keeps_mount_points_empty() {
    let shm = fs::metadata("/dev/shm").map(|m| m.dev()).ok();
    if shm.is_none_or(|dev| fs::metadata("/dev").unwrap().dev() == dev) {
        eprintln!("skipped: /dev/shm is no mount point here");
        return;
    }
    let inside = tempfile::tempdir_in("/dev/shm").unwrap();
    let seen = |roots: &[&Path]| {
        let roots: Vec<_> = roots.iter().map(|r| r.to_path_buf()).collect();
        let options = WalkOptions { one_file_system: true, ..Default::default() };
        let events: Vec<_> = Walk::new(&roots, options).unwrap().collect();
        let entered = |wanted: &Path| {
            events.iter().any(|e| matches!(e, WalkEvent::Enter { path, .. } if path == wanted))
        };
        (entered(Path::new("/dev/shm")), entered(inside.path()))
    };
    assert_eq!(seen(&[Path::new("/dev")]), (true, false));
    assert_eq!(seen(&[Path::new("/dev"), inside.path()]), (true, true));
}

#[test]
fn walk_records_every_kind_of_entry() {
    let (_keep, base) = place();
    let file = base.join(std::ffi::OsStr::from_bytes(b"na\xffme\n"));
    fs::write(&file, b"12345").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4751)).unwrap();
    fs::hard_link(&file, base.join("second")).unwrap();
    mknodat(CWD, base.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(base.join("socket")).unwrap();
    let meta = fs::metadata(&file).unwrap();

    let node = node_of(&file);
    assert_eq!(node.name, b"na\xffme\n");
    assert_eq!((node.r#type(), node.mode, node.size), (NodeType::NodeFile, 0o4751, 5));
    assert_eq!((node.links, node.device, node.inode), (2, meta.dev(), meta.ino()));
    assert_eq!((node.uid, node.gid), (meta.uid(), meta.gid()));
    let mtime = node.mtime.unwrap();
    assert_eq!((mtime.seconds, i64::from(mtime.nanos)), (meta.mtime(), meta.mtime_nsec()));
    if meta.uid() == 0 {
        assert_eq!(node.user, "root");
    }
    let directory = node_of(&base);
    assert_eq!((directory.r#type(), directory.links, directory.size), (NodeType::NodeDirectory, 0, 0));
    let fifo = node_of(&base.join("fifo"));
    assert_eq!((fifo.r#type(), fifo.links), (NodeType::NodeFifo, 0));
    assert_eq!(node_of(&base.join("socket")).r#type(), NodeType::NodeSocket);
    let null = node_of(Path::new("/dev/null"));
    assert_eq!(null.r#type(), NodeType::NodeCharacterDevice);
    assert_eq!(null.rdev, fs::metadata("/dev/null").unwrap().rdev());
}

#[test]
fn walk_records_extended_attributes_in_name_order() {
    let (_keep, base) = place();
    let (file, dir) = (base.join("file"), base.join("dir"));
    fs::write(&file, b"").unwrap();
    fs::create_dir(&dir).unwrap();
    symlink("/nowhere", base.join("link")).unwrap();
    let long = vec![b'v'; 1000];
    if rustix::fs::lsetxattr(&file, "user.z", &long, XattrFlags::empty()).is_err() {
        eprintln!("skipped: no user.* attributes on this file system");
        return;
    }
    rustix::fs::lsetxattr(&file, "user.a", b"", XattrFlags::empty()).unwrap();
    rustix::fs::lsetxattr(&dir, "user.d", b"\0\xff", XattrFlags::empty()).unwrap();
    let trusted = rustix::fs::lsetxattr(base.join("link"), "trusted.t", b"1", XattrFlags::empty()).is_ok();
    let pairs = |path: &Path| -> Vec<(Vec<u8>, Vec<u8>)> {
        node_of(path).xattrs.into_iter().map(|x| (x.name, x.value)).collect()
    };
    assert_eq!(pairs(&file), [(b"user.a".to_vec(), Vec::new()), (b"user.z".to_vec(), long)]);
    assert_eq!(pairs(&dir), [(b"user.d".to_vec(), b"\0\xff".to_vec())]);
    if trusted {
        assert_eq!(pairs(&base.join("link")), [(b"trusted.t".to_vec(), b"1".to_vec())]);
    }
}

#[test]
fn walk_deeper_than_the_handle_limit_finds_its_way_back() {
    let (_keep, base) = place();
    let mut deep = base.clone();
    let mut names = Vec::new();
    for depth in 0..400 {
        put(&deep.join("z"));
        deep.push("d");
        names.push(depth);
    }
    fs::create_dir_all(&deep).unwrap();
    let lines = outline(&base, std::slice::from_ref(&base), WalkOptions::default());
    assert_eq!(lines.iter().filter(|l| l.ends_with('z')).count(), names.len());
    assert!(lines.iter().all(|l| !l.starts_with('!')));
    assert_eq!(lines.last().unwrap(), "z");
}

/// The directory at the bound was stored, without what was in it, and a restore then refused it.
#[test]
fn walk_stores_no_directory_that_is_too_deep_to_be_restored() {
    let (_keep, base) = place();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let mut dir = openat(CWD, &base, flags, Mode::empty()).unwrap();
    for _ in 0..limit::DIRECTORY_DEPTH_MAX + 2 {
        mkdirat(&dir, "d", Mode::RWXU).unwrap();
        dir = openat(&dir, "d", flags, Mode::empty()).unwrap();
    }
    let depth = |path: &Path| path.components().count() - 1;
    let (mut entered, mut failed) = (0, Vec::new());
    for event in Walk::new(std::slice::from_ref(&base), WalkOptions::default()).unwrap() {
        match event {
            WalkEvent::Enter { path, .. } => entered = entered.max(depth(&path)),
            WalkEvent::Failed { path, error } => failed.push((depth(&path), error.to_string())),
            _ => {}
        }
    }
    assert_eq!(entered, limit::DIRECTORY_DEPTH_MAX - 1);
    let why = "more than 2047 directories deep: left out".to_owned();
    assert_eq!(failed, [(limit::DIRECTORY_DEPTH_MAX, why)]);
    assert!(std::process::Command::new("rm").arg("-rf").arg(&base).status().unwrap().success());
    fs::create_dir(&base).unwrap();
}

#[test]
fn walk_goes_on_past_what_cannot_be_listed() {
    let (_keep, base) = place();
    put(&base.join("closed/secret"));
    put(&base.join("open"));
    fs::set_permissions(base.join("closed"), fs::Permissions::from_mode(0o000)).unwrap();
    let lines = outline(&base, std::slice::from_ref(&base), WalkOptions::default());
    fs::set_permissions(base.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    if rustix::process::geteuid().is_root() {
        // Root reads everything; the structure must be whole all the same.
        assert_eq!(lines, ["+closed", "closed/secret", "-", "open"]);
    } else {
        assert_eq!(lines, ["+closed", "!closed", "-", "open"]);
    }
}

#[test]
fn walk_tells_a_root_that_vanished_after_the_start() {
    let (_keep, base) = place();
    put(&base.join("a"));
    put(&base.join("b"));
    let roots = [base.join("a"), base.join("b")];
    let walk = Walk::new(&roots, WalkOptions::default()).unwrap();
    fs::remove_file(base.join("a")).unwrap();
    let failed: Vec<_> = walk
        .filter_map(|event| match event {
            WalkEvent::Failed { path, .. } => Some(path),
            _ => None,
        })
        .collect();
    assert_eq!(failed, [base.join("a")]);
}

#[test]
fn walk_does_not_follow_a_directory_replaced_by_a_symlink() {
    let (_keep, base) = place();
    put(&base.join("tree/a"));
    put(&base.join("tree/dir/inner"));
    put(&base.join("outside/secret"));
    let mut walk = Walk::new(&[base.join("tree")], WalkOptions::default()).unwrap();
    // The listing of `tree` is taken when it is entered; only then is the directory swapped.
    assert!(walk.by_ref().any(|e| matches!(e, WalkEvent::Entry { path, .. } if path == base.join("tree/a"))));
    fs::remove_dir_all(base.join("tree/dir")).unwrap();
    symlink("../outside", base.join("tree/dir")).unwrap();
    let rest: Vec<_> = walk.collect();
    let WalkEvent::Entry { path, node } = &rest[0] else { panic!("{rest:?}") };
    assert_eq!((path, node.r#type()), (&base.join("tree/dir"), NodeType::NodeSymlink));
    assert!(rest[1..].iter().all(|e| matches!(e, WalkEvent::Leave { .. })), "{rest:?}");
}

#[test]
fn walk_reports_a_directory_replaced_while_it_was_read() {
    let (_keep, base) = place();
    ["dir/a", "dir/b"].iter().for_each(|file| put(&base.join(file)));
    let inode = fs::metadata(base.join("dir/b")).unwrap().ino();
    let mut walk = Walk::new(std::slice::from_ref(&base), WalkOptions::default()).unwrap();
    assert!(walk.by_ref().any(|e| matches!(e, WalkEvent::Entry { path, .. } if path == base.join("dir/a"))));
    fs::rename(base.join("dir"), base.join("moved")).unwrap();
    put(&base.join("dir/b"));
    let rest: Vec<_> = walk.collect();
    // Content and metadata still come from the directory that was entered.
    assert!(matches!(&rest[0], WalkEvent::Entry { node, .. } if node.inode == inode), "{rest:?}");
    assert!(matches!(&rest[1], WalkEvent::Failed { path, .. } if *path == base.join("dir")), "{rest:?}");
}

#[test]
fn file_segments_cover_data_and_holes_exactly() {
    let (_keep, base) = place();
    let path = base.join("sparse");
    let file = File::create(&path).unwrap();
    file.write_all_at(&[1; 4096], 1 << 20).unwrap();
    file.set_len(3 << 20).unwrap();
    file.sync_all().unwrap();
    let source = open_file(&path).unwrap();
    let mut end = 0;
    let mut hole_bytes = 0;
    for segment in source.segments() {
        let (Segment::Data { offset, len } | Segment::Hole { offset, len }) = segment;
        assert_eq!(offset, end);
        assert!(len > 0);
        end += len;
        if matches!(segment, Segment::Hole { .. }) {
            hole_bytes += len;
            assert!(offset + len <= 1 << 20 || offset >= (1 << 20) + 4096, "data called a hole: {segment:?}");
        }
    }
    assert_eq!(end, 3 << 20);
    assert!(hole_bytes > 2 << 20, "holes are found on this file system: {hole_bytes}");
    let mut bytes = [9; 8192];
    assert_eq!(source.read_at((1 << 20) - 1, &mut bytes).unwrap(), 8192);
    assert_eq!((bytes[0], bytes[1], bytes[4096], bytes[4097]), (0, 1, 1, 0));
    assert_eq!(source.read_at((3 << 20) - 5, &mut bytes).unwrap(), 5);
}

#[test]
fn file_without_content_has_no_segments_and_a_full_one_has_one() {
    let (_keep, base) = place();
    fs::write(base.join("empty"), b"").unwrap();
    fs::write(base.join("full"), [7; 10_000]).unwrap();
    assert_eq!(open_file(&base.join("empty")).unwrap().segments().count(), 0);
    let all: Vec<_> = open_file(&base.join("full")).unwrap().segments().collect();
    assert_eq!(all, [Segment::Data { offset: 0, len: 10_000 }]);
}

#[test]
fn open_file_takes_regular_files_only_and_does_not_block() {
    let (_keep, base) = place();
    put(&base.join("file"));
    symlink("file", base.join("link")).unwrap();
    mknodat(CWD, base.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    assert!(open_file(&base.join("file")).is_ok());
    for other in ["link", "fifo", ".", "absent"] {
        assert!(open_file(&base.join(other)).is_err(), "{other}");
    }
}

#[test]
fn file_stamp_tells_a_change_and_equals_what_the_walk_recorded() {
    let (_keep, base) = place();
    let path = base.join("file");
    put(&path);
    let source = open_file(&path).unwrap();
    let before = source.stat().unwrap();
    assert_eq!(before, super::FileStamp::of_node(&node_of(&path)));
    File::options().append(true).open(&path).unwrap().write_all(b"more").unwrap();
    assert_ne!(before, source.stat().unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn walk_agrees_with_a_plain_recursion(paths in prop::collection::vec("[a-c.\u{e4}]{1,3}(/[a-c]{1,2}){0,3}", 0..20)) {
        let (_keep, base) = place();
        for path in paths.iter().filter(|p| !p.split('/').any(|part| part == "." || part == "..")) {
            let path = base.join(path);
            // Some fail because a file stands where a directory is wanted: that leaves fewer entries.
            if fs::create_dir_all(path.parent().unwrap()).is_ok() && !path.exists() {
                fs::write(path, b"").unwrap();
            }
        }
        let mut expected = Vec::new();
        plain(&base, &base, &mut expected);
        assert_eq!(outline(&base, std::slice::from_ref(&base), WalkOptions::default()), expected);
    }
}

fn plain(base: &Path, dir: &Path, lines: &mut Vec<String>) {
    let mut paths: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort_by(|a, b| a.file_name().unwrap().as_bytes().cmp(b.file_name().unwrap().as_bytes()));
    for path in paths {
        let short = path.strip_prefix(base).unwrap().display().to_string();
        if path.is_dir() {
            lines.push(format!("+{short}"));
            plain(base, &path, lines);
            lines.push("-".to_owned());
        } else {
            lines.push(short);
        }
    }
}
