//! Snapshots that someone with the vault's keys made by hand: nothing leaves the target, nothing panics, all is told.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use prost::Message;

use super::fixture::{Fixture, noise, watched};
use super::tree_of::tree_without;
use crate::base::{ChunkId, Epoch, Moment, limit};
use crate::crypto::{Kind, Sealer};
use crate::engine::{Monitor, Problem, RestoreOptions, RestoreResult, dump, list, locate, restore};
use crate::fs::Overwrite;
use crate::pack::PackBuilder;
use crate::snapshot::{Snapshot, open_record, seal_record};
use crate::store::NewPack;
use crate::wire::{self, Node, NodeType, Piece, Time};

/// Makes chunks and snapshots from anything.
struct Forge {
    fixture: Fixture,
    builder: PackBuilder,
    sealer: Sealer,
}

impl Forge {
    fn new() -> Self {
        let fixture = Fixture::new();
        std::fs::write(fixture.dir.path().join("outside"), b"mine").unwrap();
        Self { fixture, builder: PackBuilder::new(Epoch(0)), sealer: Sealer::new(Some(3)).unwrap() }
    }

    fn seal(&mut self, kind: Kind, plain: &[u8]) -> ChunkId {
        let keys = &self.fixture.vault.keyring.vault;
        let (id, mut sealed) = (keys.chunk_id(kind, plain), Vec::new());
        let made = self.sealer.seal(keys, &self.builder.salt(), kind, id, plain, &mut sealed).unwrap();
        self.builder.push(kind, made.codec, id, plain.len() as u32, &sealed);
        id
    }

    fn tree(&mut self, mut nodes: Vec<Node>) -> ChunkId {
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        self.seal(Kind::Tree, &wire::Tree { nodes, parts: vec![], omissions: None }.encode_to_vec())
    }

    fn inner(&mut self, parts: &[ChunkId]) -> ChunkId {
        let parts = parts.iter().map(|id| id.as_bytes().to_vec()).collect();
        self.seal(Kind::Tree, &wire::Tree { nodes: vec![], parts, omissions: None }.encode_to_vec())
    }

    fn file(&mut self, name: &[u8], content: &[u8]) -> Node {
        let id = self.seal(Kind::Data, content);
        Node { content: vec![piece(id, content.len() as u64)], ..file(name, content.len() as u64) }
    }

    fn snapshot(&mut self, tree: ChunkId) -> Snapshot {
        let vault = &self.fixture.vault;
        let builder = std::mem::replace(&mut self.builder, PackBuilder::new(Epoch(0)));
        let pack = builder.finish(&vault.keyring.vault).unwrap();
        vault.store.publish_pack(pack.id, &pack.rest, &pack.outboard).unwrap();
        let bytes = pack.length as u64;
        let new = NewPack { id: pack.id, bytes, epoch: pack.epoch, own: true, entries: pack.entries };
        vault.store.index_packs(&[new]).unwrap();
        let info = wire::Snapshot {
            version: 1,
            device: vault.device().as_bytes().to_vec(),
            time_ms: Moment::from_millis(5).as_millis(),
            tree: tree.as_bytes().to_vec(),
            paths: vec![b"/".to_vec()],
            omissions: true,
            ..Default::default()
        };
        let keyring = &vault.keyring;
        let (_, bytes) = seal_record(&info, &keyring.vault, &keyring.device).unwrap();
        open_record(&bytes, &keyring.vault).unwrap()
    }

    /// Restores into `target` (made anew unless it is there) and checks that nothing else changed.
    fn restore(&mut self, nodes: Vec<Node>, overwrite: Overwrite) -> (PathBuf, RestoreResult, Vec<Problem>) {
        let tree = self.tree(nodes);
        self.restore_tree(tree, overwrite)
    }

    fn restore_tree(
        &mut self,
        tree: ChunkId,
        overwrite: Overwrite,
    ) -> (PathBuf, RestoreResult, Vec<Problem>) {
        let snapshot = self.snapshot(tree);
        let (target, monitor) = (self.fixture.dir.path().join("target"), Monitor::default());
        let _ = std::fs::remove_dir_all(&target);
        std::fs::create_dir(&target).unwrap();
        let outside = |dir: &Path| {
            let mut facts = tree_without(dir, Path::new("target"));
            facts.remove(Path::new("target"));
            facts
        };
        let before = outside(self.fixture.dir.path());
        let options = RestoreOptions { path: "/".into(), overwrite, ..self.fixture.restore_options(&target) };
        let result = restore(&self.fixture.vault, &snapshot, &options, None, &monitor).unwrap();
        assert_eq!(before, outside(self.fixture.dir.path()));
        // Listing meets the same trees.
        let spot = locate(&self.fixture.vault, &snapshot, Path::new("/"), None, &monitor).unwrap();
        let _ = list(&self.fixture.vault, &spot, true, None, &monitor, |_| true);
        let _ = dump(&self.fixture.vault, &spot, None, &monitor, |_| true);
        (target, result, monitor.problems().1)
    }
}

fn piece(id: ChunkId, length: u64) -> Piece {
    Piece { chunk: id.as_bytes().to_vec(), length }
}

fn node(name: &[u8], kind: NodeType) -> Node {
    let time = Some(Time { seconds: 1, nanos: 2 });
    Node {
        name: name.to_vec(),
        r#type: kind.into(),
        mode: 0o755,
        mtime: time,
        atime: time,
        ..Default::default()
    }
}

fn file(name: &[u8], size: u64) -> Node {
    Node { size, ..node(name, NodeType::NodeFile) }
}

fn directory(name: &[u8], tree: ChunkId) -> Node {
    Node { tree: tree.as_bytes().to_vec(), ..node(name, NodeType::NodeDirectory) }
}

fn symlink(name: &[u8], target: &[u8]) -> Node {
    Node { target: target.to_vec(), ..node(name, NodeType::NodeSymlink) }
}

#[test]
fn names_that_lead_elsewhere_are_refused_and_the_rest_comes_back() {
    watched(|| {
        let mut forge = Forge::new();
        let absolute = forge.fixture.dir.path().join("outside");
        let long = vec![b'x'; limit::NAME_BYTES_MAX + 1];
        let names: [&[u8]; 10] = [
            b"",
            b".",
            b"..",
            b"../outside",
            b"a/b",
            b"/",
            absolute.as_os_str().as_bytes(),
            b"a\0b",
            b"ok/",
            &long,
        ];
        for name in names {
            let evil = forge.file(b"evil", b"evil");
            let inside = forge.tree(vec![evil]);
            let mut linked = forge.file(b"a-first", b"evil");
            (linked.links, linked.inode, linked.device) = (2, 7, 7);
            let kinds = [
                forge.file(name, b"evil"),
                directory(name, inside),
                symlink(name, b"x"),
                node(name, NodeType::NodeFifo),
                Node { name: name.to_vec(), ..linked.clone() },
            ];
            for evil in kinds {
                let good = forge.file(b"good", b"good");
                let nodes = vec![evil, good, linked.clone()];
                let (target, result, problems) = forge.restore(nodes, Overwrite::Always);
                assert_eq!((result.failed, problems.len()), (1, 1), "{name:?} {problems:?}");
                assert_eq!(std::fs::read(target.join("good")).unwrap(), b"good");
                assert_eq!(std::fs::read_dir(&target).unwrap().count(), 2, "{name:?}");
            }
        }
    });
}

#[test]
fn a_directory_in_the_place_of_a_symlink_is_not_reached_through_it() {
    watched(|| {
        for overwrite in [Overwrite::Never, Overwrite::Always] {
            let mut forge = Forge::new();
            let away = forge.fixture.dir.path().as_os_str().as_bytes().to_vec();
            let evil = forge.file(b"outside", b"evil");
            let inside = forge.tree(vec![evil]);
            // Two leaves, so that one name stands twice.
            let first = forge.tree(vec![symlink(b"x", &away)]);
            let second = forge.tree(vec![directory(b"x", inside)]);
            for parts in [[first, second], [second, first]] {
                let tree = forge.inner(&parts);
                let (_, result, problems) = forge.restore_tree(tree, overwrite);
                assert_eq!(result.failed as usize, problems.len());
            }
        }
    });
}

#[test]
fn trees_that_are_missing_malformed_or_no_trees_cost_only_themselves() {
    watched(|| {
        let mut forge = Forge::new();
        let good = forge.file(b"good", b"good");
        let bytes = wire::Tree { nodes: vec![good.clone()], parts: vec![], omissions: None }.encode_to_vec();
        let as_data = forge.seal(Kind::Data, &bytes);
        let unordered =
            wire::Tree { nodes: vec![good.clone(), good.clone()], parts: vec![], omissions: None };
        let unordered = forge.seal(Kind::Tree, &unordered.encode_to_vec());
        let noisy = forge.seal(Kind::Tree, &noise(1, 300));
        let mut spiral = forge.tree(vec![good.clone()]);
        for _ in 0..limit::TREE_DEPTH_MAX + 2 {
            spiral = forge.inner(&[spiral]);
        }
        let bad = [ChunkId::new([9; 32]), as_data, unordered, noisy, spiral];
        let mut nodes: Vec<Node> =
            bad.iter().enumerate().map(|(i, tree)| directory(format!("bad-{i}").as_bytes(), *tree)).collect();
        nodes.push(Node { tree: vec![1; 31], ..node(b"bad-short", NodeType::NodeDirectory) });
        nodes.push(node(b"bad-none", NodeType::NodeDirectory));
        nodes.push(Node { r#type: 99, ..node(b"bad-kind", NodeType::NodeFile) });
        nodes.push(good);
        let (target, result, problems) = forge.restore(nodes, Overwrite::Never);
        let mut named: Vec<&str> = problems.iter().map(|problem| problem.path.as_str()).collect();
        named.sort_unstable();
        let expected = ["0", "1", "2", "3", "4", "kind", "none", "short"].map(|name| format!("bad-{name}"));
        assert_eq!(named, expected);
        assert_eq!((result.failed, result.files), (8, 1));
        assert_eq!(std::fs::read(target.join("good")).unwrap(), b"good");
    });
}

#[test]
fn nesting_without_end_is_cut_off() {
    watched(|| {
        let mut forge = Forge::new();
        let good = forge.file(b"good", b"good");
        let mut tree = forge.tree(vec![good]);
        for _ in 0..limit::DIRECTORY_DEPTH_MAX + 500 {
            tree = forge.tree(vec![directory(b"d", tree)]);
        }
        let (target, result, problems) = forge.restore_tree(tree, Overwrite::Never);
        assert!(result.failed >= 1 && problems.len() as u64 == result.failed);
        // Too deep for a path: removed from the inside.
        let removed = std::process::Command::new("rm").arg("-rf").arg(&target).status();
        assert!(removed.unwrap().success());
    });
}

/// Lengths were added up before they were checked, and an absurd one panicked.
#[test]
fn pieces_that_lie_about_their_lengths_never_make_a_file() {
    watched(|| {
        let mut forge = Forge::new();
        let id = forge.seal(Kind::Data, b"0123456789");
        let tree = forge.seal(Kind::Tree, b"0123456789");
        let unknown = ChunkId::new([8; 32]);
        let hole = |length| Piece { chunk: vec![], length };
        let contents: Vec<(u64, Vec<Piece>)> = vec![
            (20, vec![piece(id, 10)]),
            (5, vec![piece(id, 10)]),
            (5, vec![piece(id, 5)]),
            (30, vec![piece(id, 20), piece(id, 10)]),
            (4, vec![piece(id, 5), piece(id, u64::MAX)]),
            (u64::MAX, vec![piece(id, u64::MAX)]),
            (u64::MAX, vec![hole(u64::MAX)]),
            (1, vec![hole(u64::MAX), hole(2)]),
            (10, vec![piece(tree, 10)]),
            (10, vec![piece(unknown, 10)]),
            (10, vec![Piece { chunk: vec![1; 5], length: 10 }]),
            (0, vec![piece(id, 0)]),
        ];
        let count = contents.len() as u64;
        let mut nodes: Vec<Node> = Vec::new();
        for (at, (size, pieces)) in contents.iter().enumerate() {
            let name = format!("bad-{at}");
            nodes.push(Node { content: pieces.clone(), ..file(name.as_bytes(), *size) });
            let list = wire::PieceList { pieces: pieces.clone() }.encode_to_vec();
            let list = forge.seal(Kind::Tree, &list);
            let name = format!("list-{at}");
            nodes.push(Node { content_lists: vec![piece(list, *size)], ..file(name.as_bytes(), *size) });
        }
        nodes.push(Node { content_lists: vec![piece(id, 10)], ..file(b"list-data", 10) });
        nodes.push(forge.file(b"good", b"good"));
        let (target, result, problems) = forge.restore(nodes, Overwrite::Never);
        assert_eq!((result.failed, result.files), (2 * count + 1, 1), "{problems:#?}");
        let left: Vec<_> = std::fs::read_dir(&target).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["good"]);
    });
}

/// A further name of a file was linked to whatever stood under the first one: an older file that was not to be
/// overwritten, or another file that had the same inode number by then.
#[test]
fn hard_links_lead_only_to_what_this_restore_wrote() {
    watched(|| {
        let mut forge = Forge::new();
        let link = |mut node: Node, inode: u64| {
            (node.links, node.inode, node.device) = (2, inode, 1);
            node
        };
        let nodes = vec![
            link(forge.file(b"a", b"content"), 5),
            link(forge.file(b"b", b"content"), 5),
            link(forge.file(b"c", b"content"), 5),
            link(forge.file(b"d", b"other"), 5),
        ];
        let tree = forge.tree(nodes);
        let (target, result, _) = forge.restore_tree(tree, Overwrite::Never);
        assert_eq!((result.files, result.others, result.failed), (2, 2, 0));
        let read = |name: &str| std::fs::read(target.join(name)).unwrap();
        let inode = |name: &str| {
            use std::os::unix::fs::MetadataExt;
            std::fs::metadata(target.join(name)).unwrap().ino()
        };
        assert_eq!((read("a"), read("d")), (b"content".to_vec(), b"other".to_vec()));
        assert!(inode("a") == inode("b") && inode("b") == inode("c") && inode("c") != inode("d"));
        // The first name is taken by something else.
        for name in ["b", "c", "d"] {
            std::fs::remove_file(target.join(name)).unwrap();
        }
        std::fs::write(target.join("a"), b"older").unwrap();
        let snapshot = forge.snapshot(tree);
        let options = RestoreOptions { path: "/".into(), ..forge.fixture.restore_options(&target) };
        let monitor = Monitor::default();
        let result = restore(&forge.fixture.vault, &snapshot, &options, None, &monitor).unwrap();
        assert_eq!((result.skipped, result.failed), (1, 0));
        assert_eq!(
            (read("a"), read("b"), read("c")),
            (b"older".to_vec(), b"content".to_vec(), b"content".to_vec())
        );
        assert!(inode("b") == inode("c") && inode("a") != inode("b"));
        // The first name's content is lost, and an old file stands there.
        let lost = vec![
            link(Node { content: vec![piece(ChunkId::new([3; 32]), 4)], ..file(b"a", 4) }, 9),
            link(Node { content: vec![piece(ChunkId::new([3; 32]), 4)], ..file(b"z", 4) }, 9),
        ];
        let tree = forge.tree(lost);
        let snapshot = forge.snapshot(tree);
        let options = RestoreOptions { overwrite: Overwrite::Always, ..options };
        let result = restore(&forge.fixture.vault, &snapshot, &options, None, &monitor).unwrap();
        assert_eq!(result.failed, 2);
        assert_eq!(read("a"), b"older");
        assert!(!target.join("z").exists());
    });
}

/// A directory whose entries cannot be read says nothing about what does not belong in it.
#[test]
fn deleting_stops_at_directories_that_cannot_be_read() {
    watched(|| {
        let mut forge = Forge::new();
        let good = forge.file(b"good", b"good");
        let leaf = forge.tree(vec![good.clone()]);
        let half = forge.inner(&[leaf, ChunkId::new([9; 32])]);
        let nodes = vec![directory(b"lost", ChunkId::new([9; 32])), directory(b"half", half), good];
        let tree = forge.tree(nodes);
        let snapshot = forge.snapshot(tree);
        let target = forge.fixture.dir.path().join("target");
        for dir in ["lost", "half", "more"] {
            std::fs::create_dir_all(target.join(dir)).unwrap();
            std::fs::write(target.join(dir).join("theirs"), b"x").unwrap();
        }
        let options =
            RestoreOptions { path: "/".into(), delete: true, ..forge.fixture.restore_options(&target) };
        let monitor = Monitor::default();
        let result = restore(&forge.fixture.vault, &snapshot, &options, None, &monitor).unwrap();
        assert_eq!((result.failed, result.damaged, result.deleted), (2, 2, 2), "{:?}", monitor.problems());
        assert!(target.join("lost/theirs").exists() && target.join("half/theirs").exists());
        assert!(!target.join("more").exists());
    });
}

/// First names kept their directories open, so that a tree with many of them ran out of handles.
#[test]
fn names_of_more_files_than_directories_can_be_open_are_linked() {
    watched(|| {
        let mut forge = Forge::new();
        let one = forge.file(b"a", b"1");
        let count = limit::RESTORE_LINKS_OPEN_MAX as u64 + 50;
        let (mut firsts, mut seconds) = (Vec::new(), Vec::new());
        for inode in 0..count {
            let name = format!("{inode:04}").into_bytes();
            let linked = Node { links: 2, device: 1, inode, ..one.clone() };
            let inside = forge.tree(vec![linked.clone()]);
            firsts.push(directory(&name, inside));
            seconds.push(Node { name, ..linked });
        }
        let (firsts, seconds) = (forge.tree(firsts), forge.tree(seconds));
        let nodes = vec![directory(b"1", firsts), directory(b"2", seconds)];
        let (target, result, problems) = forge.restore(nodes, Overwrite::Never);
        assert_eq!((problems, result.files, result.others), (vec![], count, count));
        for inode in 0..count {
            use std::os::unix::fs::MetadataExt;
            let ino = |path: String| std::fs::metadata(target.join(path)).unwrap().ino();
            assert_eq!(ino(format!("1/{inode:04}/a")), ino(format!("2/{inode:04}")));
        }
    });
}
