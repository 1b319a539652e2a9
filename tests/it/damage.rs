//! Damage on the disk of one node without peers: each file that can be altered or lost, and what happens then. Never a
//! panic, never silence, never wrong bytes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::node::{Node, flip, text};
use super::tree::{self, assert_only_right_bytes, assert_same};

/// What happens to a file.
type Damage = fn(&Path);

/// A node with two snapshots of one source.
fn backed_up() -> (Node, PathBuf) {
    let node = Node::init();
    let source = node.path("source");
    tree::plain(&source, 1, 30, 100_000);
    node.backup(&source);
    fs::write(source.join("late"), tree::noise(99, 50_000)).unwrap();
    node.backup(&source);
    (node, source)
}

fn restore(node: &Node, source: &Path, target: &Path) -> super::node::Output {
    let reference = format!("latest:{}", text(source));
    node.run(&["restore", &reference, "--target", text(target)])
}

/// The file of a directory that was written last.
fn newest(mut files: Vec<PathBuf>) -> PathBuf {
    files.sort_by_key(|path| fs::metadata(path).and_then(|there| there.modified()).expect("a file"));
    files.pop().expect("there are files")
}

/// The largest pack: it holds data, not trees.
fn largest(node: &Node) -> PathBuf {
    node.packs()
        .into_iter()
        .max_by_key(|pack| fs::metadata(pack).map_or(0, |there| there.len()))
        .expect("packs")
}

#[test]
fn damaged_packs_are_found_and_never_become_wrong_files() {
    let damages: [(&str, Damage); 4] = [
        ("altered", |pack| flip(pack)),
        ("truncated", |pack| {
            let length = fs::metadata(pack).unwrap().len();
            fs::OpenOptions::new().write(true).open(pack).unwrap().set_len(length / 2).unwrap();
        }),
        ("emptied", |pack| fs::write(pack, b"").unwrap()),
        ("deleted", |pack| fs::remove_file(pack).unwrap()),
    ];
    let (node, source) = backed_up();
    let pack = largest(&node);
    let sound = fs::read(&pack).unwrap();
    for (name, damage) in damages {
        damage(&pack);
        let report = node.run(&["verify"]).exits(5);
        assert_eq!(report.json()["invalid_snapshots"], 2, "{name}: {}", report.stdout);
        assert_eq!(report.json()["damaged_packs"].as_array().map(Vec::len), Some(1), "{name}");
        let one = node.run(&["verify", "latest"]).exits(5).json();
        let bad = ["missing_chunks", "corrupted_chunks"].map(|list| one[list].as_array().unwrap().len());
        assert!(bad.iter().sum::<usize>() > 0 && one["success"] == false, "{name}: {one}");
        // Without peers and files nothing can be mended, and the restore goes on with what is sound.
        let aside = node.path("aside");
        fs::rename(&source, &aside).unwrap();
        node.run(&["repair"]).exits(5);
        fs::rename(&aside, &source).unwrap();
        let target = node.path(&format!("target {name}"));
        let output = restore(&node, &source, &target);
        assert!([3, 5].contains(&output.code), "{name}: {output:?}");
        output.failure();
        let files = assert_only_right_bytes(&source, &target);
        assert!(files < 31, "{name}");
        fs::write(&pack, &sound).unwrap();
        node.run(&["verify"]).exits(0);
    }
    restore(&node, &source, &node.path("whole")).exits(0);
    assert_same(&source, &node.path("whole"));
}

#[test]
fn a_lost_tree_pack_is_told_and_the_next_backup_stores_it_again() {
    let (node, source) = backed_up();
    for pack in node.packs().into_iter().filter(|pack| *pack != largest(&node)) {
        fs::remove_file(pack).unwrap();
    }
    node.run(&["verify"]).exits(5);
    let output = restore(&node, &source, &node.path("target"));
    assert!([3, 5].contains(&output.code), "{output:?}");
    output.failure();
    let output = node.run(&["ls", &format!("latest:{}", text(&source))]);
    assert_eq!(output.exits(5).failure()["exit"], 5);
}

#[test]
fn a_damaged_index_is_refused_with_a_hint_and_rebuilt_from_the_files() {
    let (node, source) = backed_up();
    let index = node.repo().join("index.redb");
    let chunks = node.status()["storage"]["chunks"].clone();
    let sound = fs::read(&index).unwrap();
    let damages: [(&str, &dyn Fn()); 5] = [
        ("lost", &|| fs::remove_file(&index).unwrap()),
        ("empty", &|| fs::write(&index, b"").unwrap()),
        ("truncated", &|| fs::write(&index, &sound[..sound.len() / 2]).unwrap()),
        ("head altered", &|| {
            let mut bytes = sound.clone();
            bytes[..4096].iter_mut().for_each(|byte| *byte ^= 0x5a);
            fs::write(&index, bytes).unwrap();
        }),
        ("noise", &|| fs::write(&index, tree::noise(5, sound.len())).unwrap()),
    ];
    for (name, damage) in damages {
        damage();
        for command in [&["snapshots"][..], &["backup", text(&source)], &["verify"]] {
            let failure = node.run(command).exits(5).failure();
            let hint = failure["hint"].as_str().unwrap_or_default();
            assert!(hint.contains("rebuild-index"), "{name} {command:?}: {failure}");
        }
        assert!(node.run(&["status"]).exits(13).stderr.contains("rebuild-index"), "{name}");
        // A wrong passphrase changes nothing.
        let wrong = node.secret("wrong", "incorrect\n");
        let mut command = Command::new(super::node::program());
        command.args(["--no-input", "--repo", text(node.repo()), "--passphrase-file", text(&wrong)]);
        node.finish(command.arg("rebuild-index").env_clear()).exits(12);
        let done = node.run(&["rebuild-index"]).exits(0).json();
        assert_eq!((&done["chunks"], &done["snapshots"]), (&chunks, &2.into()), "{name}: {done}");
        node.run(&["verify"]).exits(0);
    }
    restore(&node, &source, &node.path("target")).exits(0);
    assert_same(&source, &node.path("target"));
    let again = node.run(&["backup", text(&source)]).exits(0).json();
    assert!(again["data_added"].as_u64().unwrap() < 4096, "{again}");
}

/// Bytes altered anywhere in the index: refused or noticed, never a panic, and always mended by `rebuild-index`.
#[test]
fn bytes_altered_anywhere_in_the_index_never_give_wrong_files() {
    let (node, source) = backed_up();
    let index = node.repo().join("index.redb");
    let sound = fs::read(&index).unwrap();
    for step in 0..12 {
        let mut bytes = sound.clone();
        let at = (bytes.len() / 12) * step + 37;
        bytes[at..at + 64].iter_mut().for_each(|byte| *byte ^= 0xa5);
        fs::write(&index, &bytes).unwrap();
        let target = node.path(&format!("target {step}"));
        let output = restore(&node, &source, &target);
        assert!(!output.stderr.contains("panicked"), "at {at}: {output:?}");
        if output.code == 0 {
            assert_same(&source, &target);
        } else {
            output.failure();
            if target.exists() {
                assert_only_right_bytes(&source, &target);
            }
        }
    }
    node.run(&["rebuild-index"]).exits(0);
    node.run(&["verify"]).exits(0);
}

#[test]
fn a_damaged_newest_head_leaves_the_older_one() {
    let (node, source) = backed_up();
    let heads = node.files("heads/");
    assert_eq!(heads.len(), 3);
    flip(heads.last().unwrap());
    let listed = node.run(&["snapshots"]).exits(5).json();
    let damaged: Vec<bool> =
        listed.as_array().unwrap().iter().map(|one| one["damaged"].is_string()).collect();
    assert_eq!(damaged, [true, false], "it is said: {listed}");
    assert_eq!(node.run(&["verify"]).exits(5).json()["valid_snapshots"], 1, "and verification finds it");
    // A further backup signs no head over it: what is here of the snapshots that it may have listed is listed.
    node.backup(&source);
    assert_eq!(node.snapshots().len(), 3);
}

#[test]
fn without_any_sound_head_nothing_is_taken_for_an_empty_vault() {
    let (node, source) = backed_up();
    node.files("heads/").iter().for_each(|head| flip(head));
    let output = node.run(&["snapshots"]);
    assert_ne!(output.code, 0, "an emptied vault must not look like a new one: {output:?}");
    output.failure();
    assert_ne!(node.run(&["verify"]).code, 0);
    assert_ne!(node.run(&["backup", text(&source)]).code, 0, "it would start a second chain");
}

#[test]
fn a_damaged_snapshot_record_is_told_and_the_others_stay() {
    let (node, source) = backed_up();
    let sound = node.snapshots()[0]["id"].as_str().unwrap().to_owned();
    flip(&newest(node.files("snapshots/")));
    let listed = node.run(&["snapshots"]).exits(5).json();
    let damaged: Vec<bool> =
        listed.as_array().unwrap().iter().map(|one| one["damaged"].is_string()).collect();
    assert_eq!(damaged, [true, false], "{listed}");
    let report = node.run(&["verify"]).exits(5).json();
    assert_eq!(
        (&report["valid_snapshots"], &report["invalid_snapshots"]),
        (&1.into(), &1.into()),
        "{report}"
    );
    // The older one is not taken for the latest; by its name it comes back.
    restore(&node, &source, &node.path("target")).exits(5);
    let reference = format!("{}:{}", &sound[..8], text(&source));
    node.run(&["restore", &reference, "--target", text(&node.path("target"))]).exits(0);
    fs::remove_file(source.join("late")).unwrap();
    tree::assert_only_right_bytes(&source, &node.path("target"));
}

#[test]
fn a_lost_or_altered_pack_list_does_not_lose_packs() {
    let (node, source) = backed_up();
    for list in node.files("lists/") {
        flip(&list);
    }
    restore(&node, &source, &node.path("target")).exits(0);
    assert_same(&source, &node.path("target"));
    fs::write(source.join("more"), b"more").unwrap();
    node.backup(&source);
    node.run(&["verify"]).exits(0);
    fs::remove_file(node.repo().join("index.redb")).unwrap();
    node.run(&["rebuild-index"]).exits(0);
    node.run(&["verify"]).exits(0);
}

#[test]
fn damaged_key_files_are_refused_clearly() {
    for (name, exits) in [("keys/keyring", 12), ("keys/slot-", 12), ("node.key", 5)] {
        for damage in ["altered", "truncated", "lost"] {
            let node = Node::init();
            let file = node.files(name).pop().unwrap_or_else(|| panic!("{name} is there"));
            let sound = fs::read(&file).unwrap();
            match damage {
                "altered" => flip(&file),
                "truncated" => fs::write(&file, &sound[..sound.len() / 2]).unwrap(),
                _ => fs::remove_file(&file).unwrap(),
            }
            let output = node.run(&["snapshots"]);
            assert!(!output.stderr.contains("panicked"), "{name} {damage}: {output:?}");
            assert!(output.code != 0, "{name} {damage} is not noticed: {output:?}");
            let failure = output.failure();
            let expected = failure["exit"] == exits || failure["exit"] == 5 || failure["exit"] == 10;
            assert!(expected, "{name} {damage}: {failure}");
            fs::write(&file, &sound).unwrap();
            node.run(&["snapshots"]).exits(0);
        }
    }
}

#[test]
fn a_lost_store_marker_is_not_an_empty_store() {
    let (node, _) = backed_up();
    fs::remove_file(node.repo().join("shadowvault.store")).unwrap();
    let failure = node.run(&["snapshots"]).failure();
    assert_ne!(failure["code"], "VAULT_NOT_FOUND", "{failure}");
    node.run(&["init"]).failure();
    // The node's key is beside it: it is the right disk, and the marker alone is lost.
    node.run(&["rebuild-index"]).exits(0);
    assert_eq!(node.snapshots().len(), 2);
    node.run(&["verify"]).exits(0);
    // And a data directory of a newer version is left alone.
    let (node, _) = backed_up();
    let marker = node.repo().join("shadowvault.store");
    let text = fs::read_to_string(&marker).unwrap().replace("format 1", "format 2");
    fs::write(&marker, text).unwrap();
    assert_eq!(node.run(&["snapshots"]).failure()["code"], "STORAGE_TOO_NEW");
}

/// A small file system of its own, unmounted when dropped; `None` where that is not allowed.
pub struct Disk(pub PathBuf);

impl Disk {
    pub fn mount(path: PathBuf, size: &str) -> Option<Self> {
        fs::create_dir_all(&path).expect("a directory");
        let options = format!("size={size},mode=0700");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&path).output();
        mounted.is_ok_and(|output| output.status.success()).then(|| Self(path))
    }

    pub fn resize(&self, size: &str) {
        let options = format!("remount,size={size}");
        let done = Command::new("mount").args(["-o", &options]).arg(&self.0).status();
        assert!(done.is_ok_and(|status| status.success()), "a remount");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}

#[test]
fn a_full_disk_in_the_middle_of_a_backup_leaves_the_store_whole() {
    let home = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::mount(home.path().join("disk"), "24m") else {
        eprintln!("skipped: mounting a small file system is not allowed here");
        return;
    };
    let node = Node::bare().at(&disk.0.join("repo"));
    node.run(&["init"]).exits(0);
    let (small, large) = (node.path("small"), node.path("large"));
    tree::plain(&small, 1, 4, 500_000);
    tree::plain(&large, 2, 60, 1_000_000);
    node.backup(&small);
    let failure = node.run(&["backup", text(&large)]).exits(15).failure();
    assert_eq!(failure["code"], "STORAGE_FULL");
    // On the full disk what was committed is still readable.
    assert_eq!(node.snapshots().len(), 1);
    restore(&node, &small, &node.path("full")).exits(0);
    assert_same(&small, &node.path("full"));
    disk.resize("160m");
    node.run(&["verify"]).exits(0);
    let done = node.run(&["backup", text(&large)]).exits(0).json();
    assert_eq!(done["files_new"], 60, "{done}");
    node.run(&["verify"]).exits(0);
    restore(&node, &large, &node.path("target")).exits(0);
    assert_same(&large, &node.path("target"));
    assert!(node.files("tmp/").is_empty());
}
