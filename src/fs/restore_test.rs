//! Restores into real directories: exactness, refusal of hostile snapshots, and of what others plant in the way.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, FileType, Mode, XattrFlags, mknodat};

use super::{
    Begin, FsError, Lost, Outcome, Overwrite, RestoreOptions, Segment, SkipReason, Target, TargetDir, Walk,
    WalkEvent, WalkOptions, open_file,
};
use crate::base::{Code, Coded};
use crate::wire::{Node, NodeType, Time, Xattr};

const ALL: RestoreOptions =
    RestoreOptions { overwrite: Overwrite::Never, owner: true, privileged: true, sparse: false };

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn node(name: &[u8], kind: NodeType) -> Node {
    let time = Some(Time { seconds: 1_000_000_000, nanos: 123_456_789 });
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    Node {
        name: name.to_vec(),
        r#type: kind.into(),
        mode: 0o640,
        uid,
        gid,
        mtime: time,
        atime: time,
        ..Node::default()
    }
}

fn file(name: &[u8], content: &[u8]) -> Node {
    Node { size: content.len() as u64, ..node(name, NodeType::NodeFile) }
}

/// Writes a whole file; `None` when it was written, else why not.
fn write(dir: &Arc<TargetDir>, node: &Node, content: &[u8]) -> Result<Option<SkipReason>, FsError> {
    match dir.begin_file(node)? {
        Begin::Skip(reason) => Ok(Some(reason)),
        Begin::Write(writer) => {
            writer.write_at(0, content)?;
            writer.finish(node).map(|()| None)
        }
    }
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().canonicalize().unwrap();
    (dir, path)
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// All entries below `base` by path, without what a copy cannot share.
fn capture(base: &Path) -> Vec<(PathBuf, Node)> {
    let walk = Walk::new(&[base.to_owned()], WalkOptions::default()).unwrap();
    let nodes = walk.filter_map(|event| match event {
        WalkEvent::Enter { path, node } | WalkEvent::Entry { path, node } => Some((path, node)),
        WalkEvent::Leave => None,
        WalkEvent::Failed { path, error } => panic!("{}: {error}", path.display()),
    });
    let below = nodes.filter(|(path, _)| path.starts_with(base));
    below.map(|(path, node)| (path.strip_prefix(base).unwrap().to_owned(), node)).collect()
}

/// Restores what a walk of `base` gives, as a backup and a restore would.
fn copy(base: &Path, target: &Target) {
    let mut stack: Vec<(Arc<TargetDir>, Node)> = Vec::new();
    let mut linked: Vec<(u64, Arc<TargetDir>, Vec<u8>)> = Vec::new();
    for event in Walk::new(&[base.to_owned()], WalkOptions::default()).unwrap() {
        match event {
            WalkEvent::Enter { path, .. } if base.starts_with(&path) && path != base => {}
            WalkEvent::Enter { path, node } if path == base => stack.push((target.root(), node)),
            WalkEvent::Enter { node, .. } => {
                let dir = stack.last().unwrap().0.make_dir(&node).unwrap();
                stack.push((dir, node));
            }
            WalkEvent::Leave => {
                if let Some((dir, node)) = stack.pop() {
                    dir.finish(&node).unwrap();
                }
            }
            WalkEvent::Entry { path, node } => {
                let dir = &stack.last().unwrap().0;
                if let Some((_, first, name)) = linked.iter().find(|(inode, ..)| *inode == node.inode) {
                    assert_eq!(dir.hard_link(&node.name, (first, name)).unwrap(), Outcome::Made);
                    continue;
                }
                if node.links > 1 {
                    linked.push((node.inode, dir.clone(), node.name.clone()));
                }
                if node.r#type() != NodeType::NodeFile {
                    assert_eq!(dir.special(&node).unwrap(), Outcome::Made);
                    continue;
                }
                let Begin::Write(writer) = dir.begin_file(&node).unwrap() else { panic!("nothing is there") };
                let source = open_file(&path).unwrap();
                for segment in source.segments() {
                    if let Segment::Data { offset, len } = segment {
                        let mut bytes = vec![0; usize::try_from(len).unwrap()];
                        source.read_at(offset, &mut bytes).unwrap();
                        writer.write_at(offset, &bytes).unwrap();
                    }
                }
                writer.finish(&node).unwrap();
            }
            WalkEvent::Failed { path, error } => panic!("{}: {error}", path.display()),
        }
    }
}

#[test]
fn restore_of_every_kind_of_entry_is_exact() {
    let (_keep, base) = place();
    let from = base.join("from");
    fs::create_dir_all(from.join("dir/empty")).unwrap();
    let odd = from.join(std::ffi::OsStr::from_bytes(b"dir/\xff\xfe new\nline"));
    fs::write(&odd, b"content").unwrap();
    fs::write(from.join("none"), b"").unwrap();
    fs::hard_link(&odd, from.join("zlink")).unwrap();
    symlink("/does/not/exist", from.join("link")).unwrap();
    mknodat(CWD, from.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o622), 0).unwrap();
    mknodat(CWD, from.join("socket"), FileType::Socket, Mode::from_raw_mode(0o600), 0).unwrap();
    let sparse = fs::File::create(from.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, &[5; 5000], 4 << 20).unwrap();
    sparse.set_len(8 << 20).unwrap();
    sparse.sync_all().unwrap();
    let attributes = rustix::fs::setxattr(&odd, "user.mark", b"1\0", XattrFlags::empty()).is_ok();
    if attributes {
        rustix::fs::setxattr(from.join("dir"), "user.dir", b"2", XattrFlags::empty()).unwrap();
        // user:: rw-, user:1234 r--, group:: r--, mask:: r--, other:: ---
        let mut acl = vec![2, 0, 0, 0];
        for (tag, rights, id) in [(1u16, 6u16, !0u32), (2, 4, 1234), (4, 4, !0), (16, 4, !0), (32, 0, !0)] {
            acl.extend([tag.to_le_bytes(), rights.to_le_bytes()].concat());
            acl.extend(id.to_le_bytes());
        }
        if rustix::fs::setxattr(from.join("none"), "system.posix_acl_access", &acl, XattrFlags::empty())
            .is_err()
        {
            eprintln!("without ACLs: not supported here");
        }
    } else {
        eprintln!("without user.* attributes: not supported here");
    }
    if is_root() {
        mknodat(CWD, from.join("null"), FileType::CharacterDevice, Mode::from_raw_mode(0o640), 0x103)
            .unwrap();
        std::os::unix::fs::lchown(from.join("link"), Some(1234), Some(4321)).unwrap();
        std::os::unix::fs::chown(&odd, Some(1234), Some(4321)).unwrap();
        rustix::fs::lsetxattr(from.join("link"), "trusted.link", b"t", XattrFlags::empty()).unwrap();
        // A capability: revision 2, effective, CAP_NET_BIND_SERVICE.
        let mut capability = vec![1, 0, 0, 2, 0, 4, 0, 0];
        capability.resize(20, 0);
        rustix::fs::setxattr(from.join("none"), "security.capability", &capability, XattrFlags::empty())
            .unwrap();
    } else {
        eprintln!("without devices, owners and capabilities: not root");
    }
    fs::set_permissions(&odd, fs::Permissions::from_mode(0o6755)).unwrap();
    fs::set_permissions(from.join("dir"), fs::Permissions::from_mode(0o1555)).unwrap();

    let to = base.join("to/deep");
    let target = Target::open(&to, ALL).unwrap();
    copy(&from, &target);
    target.sync().unwrap();
    assert_eq!(target.warnings().count, 0, "{:?}", target.warnings());

    let (old, new) = (capture(&from), capture(&to));
    assert_eq!(old.len(), new.len());
    for ((path, mut old), (_, mut new)) in old.into_iter().zip(new) {
        for node in [&mut old, &mut new] {
            (node.inode, node.ctime, node.atime) = (0, None, None);
            if path.as_os_str().is_empty() {
                node.name.clear();
            }
        }
        assert_eq!(old, new, "{}", path.display());
        if old.r#type() == NodeType::NodeFile {
            assert_eq!(fs::read(from.join(&path)).unwrap(), fs::read(to.join(&path)).unwrap());
        }
    }
    let blocks = fs::metadata(to.join("sparse")).unwrap().blocks();
    assert!(blocks * 512 < 1 << 20, "holes stay holes: {blocks} blocks");
    assert_eq!(fs::metadata(to.join("zlink")).unwrap().nlink(), 2);
    fs::set_permissions(to.join("dir"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(from.join("dir"), fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn restore_refuses_names_that_are_not_one_entry() {
    let (_keep, base) = place();
    let target =
        Target::open(&base.join("to"), RestoreOptions { overwrite: Overwrite::Always, ..ALL }).unwrap();
    let root = target.root();
    let long = [b'x'; 256];
    let bad: [&[u8]; 9] = [b"", b".", b"..", b"/", b"a/b", b"../x", b"/etc", b"a\0b", &long];
    for name in bad {
        let refused = |result: Result<(), FsError>| {
            let error = result.expect_err("refused");
            assert!(matches!(error, FsError::UnsafeName { .. }), "{error}");
            assert_eq!(error.code(), Code::SnapshotInvalid);
        };
        refused(root.make_dir(&node(name, NodeType::NodeDirectory)).map(drop));
        refused(root.begin_file(&file(name, b"")).map(drop));
        refused(root.special(&node(name, NodeType::NodeFifo)).map(drop));
        refused(root.hard_link(name, (&root, b"a")).map(drop));
        refused(root.hard_link(b"a", (&root, name)).map(drop));
    }
    for malformed in [
        node(b"link", NodeType::NodeSymlink),
        Node { target: b"a\0b".to_vec(), ..node(b"link", NodeType::NodeSymlink) },
        Node { target: vec![b'x'; 4096], ..node(b"link", NodeType::NodeSymlink) },
        Node { rdev: 1 << 40, ..node(b"device", NodeType::NodeBlockDevice) },
        node(b"what", NodeType::NodeUnspecified),
        node(b"file", NodeType::NodeFile),
    ] {
        assert!(matches!(root.special(&malformed), Err(FsError::Malformed(_))), "{malformed:?}");
    }
    assert_eq!(names(&base), ["to"]);
    assert!(names(&base.join("to")).is_empty());
}

#[test]
fn restore_never_goes_through_planted_symlinks() {
    for overwrite in [Overwrite::Never, Overwrite::IfChanged, Overwrite::IfNewer, Overwrite::Always] {
        let (_keep, base) = place();
        let (to, outside) = (base.join("to"), base.join("outside"));
        fs::create_dir(&to).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("secret"), b"untouched").unwrap();
        fs::set_permissions(outside.join("secret"), fs::Permissions::from_mode(0o604)).unwrap();
        symlink("../outside", to.join("dir")).unwrap();
        symlink("../outside/secret", to.join("file")).unwrap();
        symlink("../outside/secret", to.join("fifo")).unwrap();
        symlink("../outside/secret", to.join("hard")).unwrap();
        let before = (fs::metadata(&outside).unwrap(), fs::metadata(outside.join("secret")).unwrap());

        let target = Target::open(&to, RestoreOptions { overwrite, ..ALL }).unwrap();
        let root = target.root();
        let late = Some(Time { seconds: 4_000_000_000, nanos: 0 });
        let never = overwrite == Overwrite::Never;
        let directory = Node { mtime: late, mode: 0o755, ..node(b"dir", NodeType::NodeDirectory) };
        match root.make_dir(&directory) {
            Err(error) => assert!(never && matches!(error, FsError::InTheWay(_)), "{error}"),
            Ok(dir) => {
                assert!(!never);
                write(&dir, &file(b"secret", b"new"), b"new").unwrap();
                dir.finish(&directory).unwrap();
                assert!(fs::symlink_metadata(to.join("dir")).unwrap().is_dir());
            }
        }
        let skipped = write(&root, &Node { mtime: late, ..file(b"file", b"new") }, b"new").unwrap();
        assert_eq!(skipped, never.then_some(SkipReason::Exists));
        root.special(&Node { mtime: late, mode: 0o666, ..node(b"fifo", NodeType::NodeFifo) }).unwrap();
        write(&root, &Node { mtime: late, ..file(b"first", b"1") }, b"1").unwrap();
        root.hard_link(b"hard", (&root, b"first")).unwrap();
        if !never {
            assert!(fs::symlink_metadata(to.join("fifo")).unwrap().file_type().is_fifo());
            assert_eq!(fs::read(to.join("hard")).unwrap(), b"1");
        }

        let after = (fs::metadata(&outside).unwrap(), fs::metadata(outside.join("secret")).unwrap());
        for (before, after) in [(&before.0, &after.0), (&before.1, &after.1)] {
            // The change time tells of any change at all.
            assert_eq!((before.ctime(), before.ctime_nsec()), (after.ctime(), after.ctime_nsec()));
        }
        assert_eq!(fs::read(outside.join("secret")).unwrap(), b"untouched");
        assert_eq!(names(&outside), ["secret"]);
    }
}

#[test]
fn restore_through_a_handle_ignores_a_directory_swapped_for_a_symlink() {
    let (_keep, base) = place();
    let (to, outside) = (base.join("to"), base.join("outside"));
    fs::create_dir(&outside).unwrap();
    let target = Target::open(&to, ALL).unwrap();
    let dir = target.root().make_dir(&node(b"dir", NodeType::NodeDirectory)).unwrap();
    fs::rename(to.join("dir"), to.join("moved")).unwrap();
    symlink(&outside, to.join("dir")).unwrap();
    assert_eq!(write(&dir, &file(b"x", b"1"), b"1").unwrap(), None);
    dir.finish(&node(b"dir", NodeType::NodeDirectory)).unwrap();
    assert!(names(&outside).is_empty());
    assert_eq!(names(&to.join("moved")), ["x"]);
    assert!(matches!(
        target.root().make_dir(&node(b"dir", NodeType::NodeDirectory)),
        Err(FsError::InTheWay(_))
    ));
}

#[test]
fn restore_overwrites_as_the_rule_says() {
    use Overwrite::{Always, IfChanged, IfNewer, Never};
    let table = [
        // rule, seconds of the snapshot's file relative to the one there, same size, what happens
        (Never, 1, false, Some(SkipReason::Exists)),
        (IfChanged, 0, true, Some(SkipReason::Unchanged)),
        (IfChanged, 0, false, None),
        (IfChanged, -1, true, None),
        (IfNewer, 0, false, Some(SkipReason::NotNewer)),
        (IfNewer, -1, false, Some(SkipReason::NotNewer)),
        (IfNewer, 1, true, None),
        (Always, -1, true, None),
    ];
    for (overwrite, later, same_size, expected) in table {
        let (_keep, base) = place();
        let first = Target::open(&base, ALL).unwrap();
        assert_eq!(write(&first.root(), &file(b"f", b"old"), b"old").unwrap(), None);
        let content: &[u8] = if same_size { b"new" } else { b"longer" };
        let mut wanted = file(b"f", content);
        wanted.mtime.as_mut().unwrap().seconds += later;
        let target = Target::open(&base, RestoreOptions { overwrite, ..ALL }).unwrap();
        assert_eq!(write(&target.root(), &wanted, content).unwrap(), expected, "{overwrite:?} {later}");
        let kept: &[u8] = if expected.is_some() { b"old" } else { content };
        assert_eq!(fs::read(base.join("f")).unwrap(), kept);
        assert_eq!(names(&base), ["f"], "nothing temporary stays");
    }
}

#[test]
fn restore_never_replaces_what_appears_while_a_file_is_written() {
    let (_keep, base) = place();
    let target = Target::open(&base, ALL).unwrap();
    let Begin::Write(writer) = target.root().begin_file(&file(b"f", b"")).unwrap() else {
        panic!("nothing is there")
    };
    fs::write(base.join("f"), b"theirs").unwrap();
    assert!(matches!(writer.finish(&file(b"f", b"")), Err(FsError::InTheWay(_))));
    assert_eq!(fs::read(base.join("f")).unwrap(), b"theirs");
    assert_eq!(names(&base), ["f"]);
}

#[test]
fn restore_keeps_directories_that_stand_where_a_file_belongs() {
    let (_keep, base) = place();
    fs::create_dir_all(base.join("f/inner")).unwrap();
    let target = Target::open(&base, RestoreOptions { overwrite: Overwrite::Always, ..ALL }).unwrap();
    let root = target.root();
    assert!(matches!(root.begin_file(&file(b"f", b"")), Err(FsError::InTheWay(_))));
    assert!(matches!(root.special(&node(b"f", NodeType::NodeFifo)), Err(FsError::InTheWay(_))));
    write(&root, &file(b"g", b"1"), b"1").unwrap();
    assert!(matches!(root.hard_link(b"f", (&root, b"g")), Err(FsError::InTheWay(_))));
    assert!(base.join("f/inner").is_dir());
}

#[test]
fn restore_of_a_file_dropped_half_way_leaves_nothing() {
    let (_keep, base) = place();
    let target = Target::open(&base, ALL).unwrap();
    let Begin::Write(writer) = target.root().begin_file(&file(b"f", b"abc")).unwrap() else {
        panic!("nothing is there")
    };
    writer.write_at(0, b"a").unwrap();
    let temporary = names(&base);
    assert!(temporary.len() == 1 && temporary[0].starts_with(".shadowvault-"), "{temporary:?}");
    drop(writer);
    assert!(names(&base).is_empty());
}

#[test]
fn restore_writes_out_of_order_from_several_threads() {
    let (_keep, base) = place();
    let target = Target::open(&base, ALL).unwrap();
    let content: Vec<u8> = (0..400_000u32).map(|i| (i / 7) as u8).collect();
    let wanted = file(b"f", &content);
    let Begin::Write(writer) = target.root().begin_file(&wanted).unwrap() else { panic!("nothing is there") };
    std::thread::scope(|scope| {
        for part in 0..4 {
            let (writer, content) = (&writer, &content);
            scope.spawn(move || {
                for (i, piece) in content.chunks(1000).enumerate().filter(|(i, _)| i % 4 == part) {
                    writer.write_at(i as u64 * 1000, piece).unwrap();
                }
            });
        }
    });
    let mut back = vec![0; content.len() + 1];
    assert_eq!(writer.read_at(0, &mut back).unwrap(), content.len());
    writer.finish(&wanted).unwrap();
    assert_eq!(fs::read(base.join("f")).unwrap(), content);
}

#[test]
fn restore_with_sparse_leaves_out_zero_blocks_and_changes_no_byte() {
    let (_keep, base) = place();
    let target = Target::open(&base, RestoreOptions { sparse: true, ..ALL }).unwrap();
    let mut content = vec![0; 1 << 20];
    content[100] = 1;
    content[500_000] = 2;
    let wanted = file(b"f", &content);
    let Begin::Write(writer) = target.root().begin_file(&wanted).unwrap() else { panic!("nothing is there") };
    for (i, piece) in content.chunks(30_001).enumerate() {
        writer.write_at(i as u64 * 30_001, piece).unwrap();
    }
    writer.finish(&wanted).unwrap();
    assert!(fs::read(base.join("f")).unwrap() == content);
    assert!(fs::metadata(base.join("f")).unwrap().blocks() * 512 <= 3 * 4096);
}

#[test]
fn restore_without_privileges_gives_no_rights() {
    let (_keep, base) = place();
    let target = Target::open(&base, RestoreOptions { privileged: false, ..ALL }).unwrap();
    let root = target.root();
    let mut capability = vec![1, 0, 0, 2, 0, 4, 0, 0];
    capability.resize(20, 0);
    let xattrs = vec![Xattr { name: b"security.capability".to_vec(), value: capability }];
    let wanted = Node { mode: 0o6755, xattrs, ..file(b"f", b"") };
    write(&root, &wanted, b"").unwrap();
    assert_eq!(fs::metadata(base.join("f")).unwrap().mode() & 0o7777, 0o755);
    let list = rustix::fs::llistxattr(base.join("f"), &mut [0u8; 256][..]).unwrap_or(0);
    assert_eq!(list, 0);
    let device = Node { rdev: 0x103, ..node(b"null", NodeType::NodeCharacterDevice) };
    assert_eq!(root.special(&device).unwrap(), Outcome::Skipped(SkipReason::Unprivileged));
    assert_eq!(names(&base), ["f"]);
}

#[test]
fn restore_notes_what_could_not_be_set_and_goes_on() {
    let (_keep, base) = place();
    let target = Target::open(&base, ALL).unwrap();
    // No owner has the highest number, and no file system knows this name space.
    let xattrs = vec![Xattr { name: b"nonsense.x".to_vec(), value: vec![1] }];
    let wanted = Node { uid: u32::MAX, mode: 0o4711, xattrs, ..file(b"f", b"1") };
    write(&target.root(), &wanted, b"1").unwrap();
    let warnings = target.warnings();
    assert_eq!(warnings.count, 2);
    assert_eq!(warnings.first[0].lost, Lost::Owner);
    assert_eq!(warnings.first[1].lost, Lost::Attribute(b"nonsense.x".to_vec()));
    assert_eq!(warnings.first[0].path, base.join("f"));
    // Setuid for the wrong owner is worse than none.
    assert_eq!(fs::metadata(base.join("f")).unwrap().mode() & 0o7777, 0o711);
}

#[test]
fn restore_removes_others_without_following_links() {
    let (_keep, base) = place();
    let (to, outside) = (base.join("to"), base.join("outside"));
    fs::create_dir_all(to.join("old/deep/er")).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("kept"), b"").unwrap();
    fs::write(to.join("old/deep/f"), b"").unwrap();
    fs::write(to.join("stays"), b"").unwrap();
    symlink(&outside, to.join("old/deep/link")).unwrap();
    symlink(&outside, to.join("link")).unwrap();
    let target = Target::open(&to, ALL).unwrap();
    assert_eq!(target.root().remove_others(|name| name == b"stays").unwrap(), 2);
    assert_eq!(names(&to), ["stays"]);
    assert_eq!(names(&outside), ["kept"]);
}

#[test]
fn restore_stops_at_the_depth_bound() {
    let (_keep, base) = place();
    super::raise_open_files_limit();
    let target = Target::open(&base, ALL).unwrap();
    let mut dir = target.root();
    let wanted = node(b"d", NodeType::NodeDirectory);
    for _ in 0..crate::base::limit::DIRECTORY_DEPTH_MAX {
        dir = dir.make_dir(&wanted).unwrap();
    }
    assert!(matches!(dir.make_dir(&wanted), Err(FsError::TooDeep(_))));
    drop(dir);
    assert_eq!(target.root().remove_others(|_| false).unwrap(), 1);
}
