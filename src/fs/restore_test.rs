//! Restores into real directories: exactness, refusal of hostile snapshots, and of what others plant in the way.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, XattrFlags, mknodat, openat2};
use rustix::io::Errno;

use super::directory::open_beneath;
use super::{
    Begin, FsError, Lost, Outcome, Overwrite, Removal, RestoreOptions, Segment, SkipReason, Target,
    TargetDir, Walk, WalkEvent, WalkOptions, open_file,
};
use crate::base::{Code, Coded, limit};
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
        WalkEvent::Leave { .. } => None,
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
            WalkEvent::Leave { .. } => {
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
    let target = Target::open(&to, None, ALL).unwrap();
    copy(&from, &target);
    target.sync().unwrap();
    assert_eq!(target.warnings().count, 0, "{:?}", target.warnings());

    let (old, new) = (capture(&from), capture(&to));
    assert_eq!(old.len(), new.len());
    let born = |node: &Node| fs::metadata(&from).unwrap().created().is_err() || node.age_ns >= Some(0);
    assert!(old.iter().all(|(_, node)| born(node)), "birth times where the file system has them");
    for ((path, mut old), (_, mut new)) in old.into_iter().zip(new) {
        for node in [&mut old, &mut new] {
            (node.inode, node.ctime, node.atime, node.age_ns) = (0, None, None, None);
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
        Target::open(&base.join("to"), None, RestoreOptions { overwrite: Overwrite::Always, ..ALL }).unwrap();
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

        let target = Target::open(&to, None, RestoreOptions { overwrite, ..ALL }).unwrap();
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
    let target = Target::open(&to, None, ALL).unwrap();
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

/// The look at what is there and the opening of it are two steps, and what is opened by an earlier path has had a look
/// long ago: only the opening itself can refuse.
#[test]
fn opening_a_name_follows_no_link_and_leads_nowhere_else() {
    let (_keep, base) = place();
    let (to, outside) = (base.join("to"), base.join("outside"));
    fs::create_dir_all(to.join("dir/inner")).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), b"secret").unwrap();
    fs::write(to.join("file"), b"content").unwrap();
    for (name, leads) in
        [("up", "../outside"), ("far", "/"), ("here", "dir"), ("self", "self"), ("text", "file")]
    {
        symlink(leads, to.join(name)).unwrap();
    }
    let handle = fs::File::open(&to).unwrap();
    let open = |name: &str, flags| open_beneath(handle.as_fd(), name.as_bytes(), flags);
    let directory = OFlags::RDONLY | OFlags::DIRECTORY;
    assert!(open("dir", directory).is_ok() && open("file", OFlags::RDONLY).is_ok());
    for name in ["up", "far", "here", "self"] {
        assert!(open(name, directory).is_err(), "{name}");
        assert!(open(name, OFlags::PATH | OFlags::DIRECTORY).is_err(), "{name}");
    }
    assert!(open("text", OFlags::RDWR | OFlags::NONBLOCK).is_err());
    // One that this restore made was swapped since.
    let target = Target::open(&to, None, ALL).unwrap();
    assert!(target.root().reopen(Path::new("dir/inner")).is_ok());
    fs::rename(to.join("dir"), base.join("elsewhere")).unwrap();
    symlink("../elsewhere", to.join("dir")).unwrap();
    assert!(target.root().reopen(Path::new("dir/inner")).is_err());
    // Where the kernel can, a name that is more than one stays below, too.
    let whole = openat2(&handle, ".", directory, Mode::empty(), ResolveFlags::BENEATH);
    if matches!(whole, Err(Errno::NOSYS | Errno::PERM)) {
        eprintln!("without openat2: not supported here");
        return;
    }
    for name in ["..", "../outside", "/", "../to/file"] {
        assert_eq!(open(name, OFlags::PATH).err(), Some(Errno::XDEV), "{name}");
    }
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
        let first = Target::open(&base, None, ALL).unwrap();
        assert_eq!(write(&first.root(), &file(b"f", b"old"), b"old").unwrap(), None);
        let content: &[u8] = if same_size { b"new" } else { b"longer" };
        let mut wanted = file(b"f", content);
        wanted.mtime.as_mut().unwrap().seconds += later;
        let target = Target::open(&base, None, RestoreOptions { overwrite, ..ALL }).unwrap();
        assert_eq!(write(&target.root(), &wanted, content).unwrap(), expected, "{overwrite:?} {later}");
        let kept: &[u8] = if expected.is_some() { b"old" } else { content };
        assert_eq!(fs::read(base.join("f")).unwrap(), kept);
        assert_eq!(names(&base), ["f"], "nothing temporary stays");
    }
}

#[test]
fn restore_never_replaces_what_appears_while_a_file_is_written() {
    let (_keep, base) = place();
    let target = Target::open(&base, None, ALL).unwrap();
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
    let target = Target::open(&base, None, RestoreOptions { overwrite: Overwrite::Always, ..ALL }).unwrap();
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
    let target = Target::open(&base, None, ALL).unwrap();
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
    let target = Target::open(&base, None, ALL).unwrap();
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
    let target = Target::open(&base, None, RestoreOptions { sparse: true, ..ALL }).unwrap();
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
    let target = Target::open(&base, None, RestoreOptions { privileged: false, ..ALL }).unwrap();
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
    let target = Target::open(&base, None, ALL).unwrap();
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

/// Spares paths that end in one of these; hears what goes.
#[derive(Default)]
struct Deletion {
    spared: Vec<&'static str>,
    dry: bool,
    gone: Vec<PathBuf>,
    mounted: Vec<PathBuf>,
}

impl Removal for Deletion {
    fn spares(&mut self, path: &Path, _: bool) -> bool {
        self.spared.iter().any(|name| path.ends_with(name))
    }

    fn is_mounted(&mut self, path: &Path) {
        self.mounted.push(path.to_owned());
    }

    fn goes(&mut self, _: &Path) -> Result<bool, FsError> {
        Ok(!self.dry)
    }

    fn gone(&mut self, path: &Path) {
        self.gone.push(path.to_owned());
    }
}

/// Deletes everything in `dir` but the names in `known`.
fn delete(dir: &TargetDir, known: &[&str], deletion: &mut Deletion) -> Vec<String> {
    let mut older = dir.older().unwrap();
    known.iter().for_each(|name| dir.know(&mut older, name.as_bytes()));
    let mut problems = Vec::new();
    dir.remove_unknown(&older, Path::new(""), deletion, &mut |path, error| {
        problems.push(format!("{}: {error}", path.display()));
    });
    problems
}

#[test]
fn restore_deletes_others_without_following_links() {
    let (_keep, base) = place();
    let (to, outside) = (base.join("to"), base.join("outside"));
    fs::create_dir_all(to.join("old/deep/er")).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("kept"), b"").unwrap();
    fs::write(to.join("old/deep/f"), b"").unwrap();
    fs::write(to.join("stays"), b"").unwrap();
    symlink(&outside, to.join("old/deep/link")).unwrap();
    symlink(&outside, to.join("link")).unwrap();
    let target = Target::open(&to, None, ALL).unwrap();
    let mut pretended = Deletion { dry: true, ..Deletion::default() };
    assert!(delete(&target.root(), &["stays"], &mut pretended).is_empty());
    assert_eq!(names(&to), ["link", "old", "stays"], "a dry run deletes nothing");
    let mut partly = Deletion { spared: vec!["f"], ..Deletion::default() };
    assert!(delete(&target.root(), &["stays", "link"], &mut partly).is_empty());
    assert_eq!(names(&to.join("old/deep")), ["f"], "what is spared keeps its directories");
    let mut deletion = Deletion::default();
    assert!(delete(&target.root(), &["stays"], &mut deletion).is_empty());
    assert_eq!(deletion.gone.last().unwrap(), Path::new("old"), "a directory goes after its entries");
    assert_eq!(names(&to), ["stays"]);
    assert_eq!(names(&outside), ["kept"]);
    let gone: std::collections::BTreeSet<_> = partly.gone.into_iter().chain(deletion.gone).collect();
    assert_eq!(gone, pretended.gone.into_iter().collect());
}

#[test]
fn restore_deletes_nothing_that_is_mounted_in_its_target() {
    let (_keep, base) = place();
    let mounted = base.join("to/old/disk");
    fs::create_dir_all(&mounted).unwrap();
    let mount = |arguments: &[&str]| {
        let done = std::process::Command::new(arguments[0]).args(&arguments[1..]).arg(&mounted).output();
        done.is_ok_and(|output| output.status.success())
    };
    if !mount(&["mount", "-t", "tmpfs", "tmpfs"]) {
        eprintln!("skipped: mounting is not allowed here");
        return;
    }
    fs::write(mounted.join("theirs"), b"x").unwrap();
    fs::write(base.join("to/old/file"), b"x").unwrap();
    let target = Target::open(&base.join("to"), None, ALL).unwrap();
    let mut deletion = Deletion::default();
    let problems = delete(&target.root(), &[], &mut deletion);
    let left = (names(&base.join("to/old")), names(&mounted));
    assert!(mount(&["umount", "-l"]));
    assert_eq!(deletion.mounted, [PathBuf::from("old/disk")]);
    assert_eq!((problems, left), (vec![], (vec!["disk".to_owned()], vec!["theirs".to_owned()])));
}

/// It was counted and told as deleted.
#[test]
fn what_cannot_be_deleted_is_not_told_as_deleted() {
    let (_keep, base) = place();
    let stuck = base.join("to/old/stuck");
    fs::create_dir_all(stuck.parent().unwrap()).unwrap();
    fs::write(&stuck, b"x").unwrap();
    fs::write(base.join("to/free"), b"x").unwrap();
    let run = |arguments: &[&str]| {
        let done = std::process::Command::new(arguments[0]).args(&arguments[1..]).arg(&stuck).output();
        done.is_ok_and(|output| output.status.success())
    };
    // What something is mounted on does not go.
    if !run(&["mount", "--bind", "/dev/null"]) {
        eprintln!("skipped: mounting is not allowed here");
        return;
    }
    let target = Target::open(&base.join("to"), None, ALL).unwrap();
    let mut deletion = Deletion::default();
    let problems = delete(&target.root(), &[], &mut deletion);
    let still = stuck.exists();
    assert!(run(&["umount", "-l"]));
    assert!(still && problems.len() == 1, "{problems:?}");
    assert_eq!(deletion.gone, [PathBuf::from("free")]);
}

#[test]
fn restore_neither_enters_nor_deletes_the_directory_it_reads_from() {
    let (_keep, base) = place();
    let (to, own) = (base.join("to"), base.join("to/deep/own"));
    fs::create_dir_all(own.join("packs")).unwrap();
    fs::write(own.join("packs/1"), b"data").unwrap();
    symlink(&own, base.join("way")).unwrap();
    for inside in [own.clone(), own.join("packs"), own.join("new/er"), base.join("way/packs")] {
        for result in [
            Target::open(&inside, Some(&own), ALL).map(drop),
            Target::look(&inside, Some(&own), ALL).map(drop),
        ] {
            assert!(matches!(result, Err(FsError::Spared(_))), "{}", inside.display());
        }
    }
    let target =
        Target::open(&to, Some(&own), RestoreOptions { overwrite: Overwrite::Always, ..ALL }).unwrap();
    let deep = target.root().make_dir(&node(b"deep", NodeType::NodeDirectory)).unwrap();
    assert!(matches!(deep.make_dir(&node(b"own", NodeType::NodeDirectory)), Err(FsError::Spared(_))));
    assert!(delete(&target.root(), &[], &mut Deletion::default()).is_empty());
    assert_eq!(fs::read(own.join("packs/1")).unwrap(), b"data");
}

#[test]
fn a_target_that_is_a_file_is_named_and_looking_makes_nothing() {
    let (_keep, base) = place();
    fs::write(base.join("file"), b"mine").unwrap();
    for target in [base.join("file"), base.join("file/below")] {
        for result in [Target::open(&target, None, ALL).map(drop), Target::look(&target, None, ALL).map(drop)]
        {
            let error = result.unwrap_err();
            assert!(matches!(error, FsError::NotADirectory(_)), "{error}");
            assert_eq!(error.code(), Code::UsageInvalid);
        }
    }
    assert!(Target::look(&base.join("absent/deep"), None, ALL).unwrap().is_none());
    assert_eq!(names(&base), ["file"]);
}

/// A temporary as a restore that was killed leaves it: under `saved` until the writer is gone.
fn leave_temporary(to: &Path, writer: super::FileWriter) -> PathBuf {
    let is_temporary = |name: &String| name.starts_with(".shadowvault-");
    let temporary = to.join(names(to).into_iter().find(is_temporary).unwrap());
    let saved = to.join("saved");
    fs::hard_link(&temporary, &saved).unwrap();
    drop(writer);
    fs::rename(&saved, &temporary).unwrap();
    temporary
}

#[test]
fn a_restore_clears_up_after_one_that_died_and_not_after_one_that_works() {
    let (_keep, base) = place();
    let to = base.join("to");
    let kept = [".shadowvault-x.tmp", ".shadowvault.tmp", "x.tmp"];
    fs::create_dir_all(to.join("dir")).unwrap();
    kept.iter().for_each(|name| fs::write(to.join(name), b"theirs").unwrap());
    let dead = format!(".shadowvault-{}-{}.tmp", "a".repeat(32), "0".repeat(16));
    fs::write(to.join(&dead), b"1").unwrap();
    fs::write(to.join("dir").join(&dead), b"1").unwrap();
    let first = Target::open(&to, None, ALL).unwrap();
    let dir = first.root().make_dir(&node(b"dir", NodeType::NodeDirectory)).unwrap();
    assert_eq!(names(&to.join("dir")), [""; 0]);
    assert_eq!(names(&to), [".shadowvault-x.tmp", ".shadowvault.tmp", "dir", "x.tmp"]);

    let Begin::Write(writer) = dir.begin_file(&file(b"f", b"abc")).unwrap() else {
        panic!("nothing is there")
    };
    let second = Target::open(&to, None, ALL).unwrap();
    second.root().make_dir(&node(b"dir", NodeType::NodeDirectory)).unwrap();
    assert_eq!(names(&to.join("dir")).len(), 1, "the first restore is still at work");
    writer.write_at(0, b"abc").unwrap();
    writer.finish(&file(b"f", b"abc")).unwrap();
    assert_eq!(names(&to.join("dir")), ["f"]);
}

#[test]
fn a_large_file_half_done_is_taken_up_only_if_nobody_else_had_it() {
    let (_keep, base) = place();
    let (size, half) = (limit::RESUME_BYTES_MIN, b"half of it".as_slice());
    let wanted = Node { size, ..node(b"large", NodeType::NodeFile) };
    let begin = |target: &Target| match target.root().begin_file(&wanted).unwrap() {
        Begin::Write(writer) => writer,
        Begin::Skip(reason) => panic!("{reason:?}"),
    };
    for (mode, taken) in [(0o600, true), (0o644, false)] {
        let to = base.join(format!("{mode:o}"));
        let first = Target::open(&to, None, ALL).unwrap();
        let writer = begin(&first);
        assert_eq!(writer.prior_bytes(), 0);
        writer.write_at(size - 10, half).unwrap();
        let temporary = leave_temporary(&to, writer);
        fs::set_permissions(&temporary, fs::Permissions::from_mode(mode)).unwrap();
        drop(first);
        let second = Target::open(&to, None, ALL).unwrap();
        let writer = begin(&second);
        assert_eq!(writer.prior_bytes(), if taken { size } else { 0 }, "{mode:o}");
        writer.finish(&wanted).unwrap();
        assert_eq!(names(&to), ["large"], "{mode:o}");
        assert_eq!(fs::metadata(to.join("large")).unwrap().mode() & 0o7777, 0o640);
        let found = fs::read(to.join("large")).unwrap();
        assert_eq!(found.ends_with(half), taken);
    }
    // Another file's is no use, and does not stay.
    let to = base.join("other");
    let first = Target::open(&to, None, ALL).unwrap();
    let writer = begin(&first);
    writer.write_at(size - 1, b"x").unwrap();
    leave_temporary(&to, writer);
    drop(first);
    let second = Target::open(&to, None, ALL).unwrap();
    let other = Node { name: b"another".to_vec(), ..wanted.clone() };
    let Begin::Write(writer) = second.root().begin_file(&other).unwrap() else { panic!("nothing is there") };
    assert_eq!(writer.prior_bytes(), 0);
    writer.finish(&other).unwrap();
    drop(second);
    assert_eq!(names(&to), ["another"]);
}

#[test]
fn a_large_file_is_changed_in_its_place_only_if_no_one_gets_to_see_more() {
    let size = limit::PATCH_BYTES_MIN;
    let wanted = Node { size, ..node(b"large", NodeType::NodeFile) };
    let table = [
        // rule, mode there, another name, in its place
        (Overwrite::Always, 0o600, false, true),
        (Overwrite::IfChanged, 0o640, false, true),
        (Overwrite::IfNewer, 0o600, false, false),
        (Overwrite::Always, 0o644, false, false),
        (Overwrite::Always, 0o600, true, false),
    ];
    for (overwrite, mode, linked, in_place) in table {
        let (_keep, base) = place();
        let path = base.join("large");
        fs::File::create(&path).unwrap().set_len(size + 5).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        rustix::fs::utimensat(
            CWD,
            &path,
            &rustix::fs::Timestamps {
                last_access: rustix::fs::Timespec { tv_sec: 5, tv_nsec: 0 },
                last_modification: rustix::fs::Timespec { tv_sec: 5, tv_nsec: 0 },
            },
            rustix::fs::AtFlags::empty(),
        )
        .unwrap();
        if linked {
            fs::hard_link(&path, base.join("linked")).unwrap();
        }
        let before = fs::metadata(&path).unwrap().ino();
        let target = Target::open(&base, None, RestoreOptions { overwrite, ..ALL }).unwrap();
        let Begin::Write(writer) = target.root().begin_file(&wanted).unwrap() else {
            panic!("it is replaced")
        };
        assert_eq!(writer.prior_bytes() > 0, in_place, "{overwrite:?} {mode:o}");
        writer.write_at(10, b"new").unwrap();
        writer.clear(11, 1).unwrap();
        writer.finish(&wanted).unwrap();
        let after = fs::metadata(&path).unwrap();
        assert_eq!((after.ino() == before, after.len()), (in_place, size), "{overwrite:?} {mode:o}");
        assert_eq!(after.mode() & 0o7777, 0o640);
        let expected: &[u8] = if in_place { b"n\0w" } else { b"new" };
        let mut there = [0; 3];
        std::os::unix::fs::FileExt::read_exact_at(&fs::File::open(&path).unwrap(), &mut there, 10).unwrap();
        assert_eq!(there, expected);
        if linked {
            let mut there = [1; 3];
            let linked = fs::File::open(base.join("linked")).unwrap();
            std::os::unix::fs::FileExt::read_exact_at(&linked, &mut there, 10).unwrap();
            assert_eq!(there, [0; 3], "the other name keeps its content");
        }
    }
}

/// What an entry is made with is not set again where that is known; a default ACL and setgid of the directory make
/// new entries differ.
#[test]
fn restored_files_have_their_mode_and_group_whatever_the_directory_gives() {
    let (_keep, base) = place();
    for (setgid, acl) in [(false, false), (true, false), (false, true)] {
        let to = base.join(format!("{setgid}{acl}"));
        fs::create_dir(&to).unwrap();
        if setgid && is_root() {
            std::os::unix::fs::chown(&to, None, Some(4321)).unwrap();
            fs::set_permissions(&to, fs::Permissions::from_mode(0o2755)).unwrap();
        }
        if acl {
            let mut value = vec![2, 0, 0, 0];
            for (tag, rights, id) in [(1u16, 7u16, !0u32), (2, 7, 1234), (4, 7, !0), (16, 7, !0), (32, 0, !0)]
            {
                value.extend([tag.to_le_bytes(), rights.to_le_bytes()].concat());
                value.extend(id.to_le_bytes());
            }
            let set = rustix::fs::setxattr(&to, "system.posix_acl_default", &value, XattrFlags::empty());
            if set.is_err() {
                eprintln!("without ACLs: not supported here");
            }
        }
        let target = Target::open(&to, None, ALL).unwrap();
        let modes = [0o644, 0o640, 0o666, 0o4711, 0o2755, 0o000, 0o444, 0o777];
        for (number, mode) in modes.into_iter().enumerate() {
            let wanted = Node { mode, ..file(format!("{number}").as_bytes(), b"1") };
            write(&target.root(), &wanted, b"1").unwrap();
            let path = to.join(number.to_string());
            let there = fs::metadata(&path).unwrap();
            assert_eq!((there.mode() & 0o7777, there.gid()), (mode, wanted.gid), "{setgid} {acl} {mode:o}");
            let list = rustix::fs::llistxattr(&path, &mut [0u8; 256][..]).unwrap_or(0);
            assert_eq!(list, 0, "{setgid} {acl} {mode:o}: an ACL was taken over");
        }
    }
}

#[test]
fn restore_stops_at_the_depth_bound() {
    let (_keep, base) = place();
    super::raise_open_files_limit();
    let target = Target::open(&base, None, ALL).unwrap();
    let mut dir = target.root();
    let wanted = node(b"d", NodeType::NodeDirectory);
    for _ in 0..limit::DIRECTORY_DEPTH_MAX {
        dir = dir.make_dir(&wanted).unwrap();
    }
    assert!(matches!(dir.make_dir(&wanted), Err(FsError::TooDeep(_))));
    drop(dir);
    assert!(delete(&target.root(), &[], &mut Deletion::default()).is_empty());
    assert_eq!(names(&base), [""; 0]);
}

/// To a file system that does not tell upper from lower case the second name is the first: it took the place of the first, and the
/// restore counted both. Here the entry itself gets the second name, so that it is found under it.
#[test]
fn restore_lets_no_second_name_take_the_place_of_a_first() {
    for overwrite in [Overwrite::Never, Overwrite::IfChanged, Overwrite::IfNewer, Overwrite::Always] {
        for is_made in [false, true] {
            let (_keep, base) = place();
            let target = Target::open(&base, None, RestoreOptions { overwrite, ..ALL }).unwrap();
            let mut dir = target.root();
            let mut at = base.clone();
            if is_made {
                dir = dir.make_dir(&node(b"dir", NodeType::NodeDirectory)).unwrap();
                at.push("dir");
            }
            let late = Some(Time { seconds: 4_000_000_000, nanos: 0 });
            let late_file = |name: &[u8]| Node { mtime: late, ..file(name, b"two") };
            write(&dir, &file(b"README", b"one"), b"one").unwrap();
            fs::rename(at.join("README"), at.join("readme")).unwrap();
            let told = |error: FsError| {
                let twin = matches!(&error, FsError::Twin { path, other }
                    if path.ends_with("readme") && other.ends_with("README"));
                assert!(twin || (is_made && matches!(error, FsError::InTheWay(_))), "{overwrite:?}: {error}");
            };
            told(write(&dir, &late_file(b"readme"), b"two").unwrap_err());
            // Also when it looks as it should.
            told(write(&dir, &file(b"readme", b"one"), b"one").unwrap_err());
            told(dir.special(&Node { mtime: late, ..node(b"readme", NodeType::NodeFifo) }).unwrap_err());
            write(&dir, &late_file(b"other"), b"two").unwrap();
            told(dir.hard_link(b"readme", (&dir, b"other")).unwrap_err());
            told(
                dir.make_dir(&Node { mtime: late, ..node(b"readme", NodeType::NodeDirectory) })
                    .map(drop)
                    .unwrap_err(),
            );
            assert_eq!(fs::read(at.join("readme")).unwrap(), b"one");

            let made = dir.make_dir(&node(b"Sub", NodeType::NodeDirectory)).unwrap();
            write(&made, &file(b"a", b"1"), b"1").unwrap();
            fs::rename(at.join("Sub"), at.join("sub")).unwrap();
            assert!(dir.make_dir(&node(b"sub", NodeType::NodeDirectory)).is_err(), "{overwrite:?}");
        }
    }
}

/// Two names of one file that was there are no twins, and what is restored again is none of itself.
#[test]
fn restore_takes_files_with_several_names_for_what_they_are() {
    for overwrite in [Overwrite::Never, Overwrite::IfChanged, Overwrite::Always] {
        let (_keep, base) = place();
        fs::write(base.join("a"), b"old").unwrap();
        fs::hard_link(base.join("a"), base.join("b")).unwrap();
        let target = Target::open(&base, None, RestoreOptions { overwrite, ..ALL }).unwrap();
        let root = target.root();
        for name in [b"a", b"b", b"a"] {
            write(&root, &file(name, b"new"), b"new").unwrap();
        }
        let kept: &[u8] = if overwrite == Overwrite::Never { b"old" } else { b"new" };
        assert_eq!(
            (fs::read(base.join("a")).unwrap(), fs::read(base.join("b")).unwrap()),
            (kept.into(), kept.into())
        );
    }
}
