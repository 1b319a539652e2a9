//! Looking into snapshots: what differs, what is found, what a dump gives, what is counted, and other tags.

use std::io::Read;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use super::fixture::{Fixture, Holders, Manner, noise, watched};
use crate::base::{Code, Coded, SnapshotId};
use crate::engine::{
    BackupResult, DiffTotals, DumpKind, EngineError, FindOptions, Monitor, Pattern, Search, SideTotals, Spot,
    TagEdit, copy_counts, diff, dump, list, locate, resolve, snapshot_sums, tag, vault_sums,
};

impl Fixture {
    pub(super) fn spot(&self, done: &BackupResult, name: &str) -> Spot {
        let path = if name == "/" { "/".into() } else { self.src().join(name) };
        locate(&self.vault, &self.snapshot(done), &path, None, &Monitor::default()).unwrap()
    }

    /// Differences below the source as `letters name`, and their counts.
    fn differences(&self, old: &Spot, new: &Spot, metadata: bool) -> (Vec<String>, DiffTotals) {
        let (mut lines, src) = (Vec::new(), self.src());
        let totals = diff(&self.vault, (old, new), metadata, None, &Monitor::default(), |change| {
            if let Ok(name) = change.path.strip_prefix(&src) {
                let end = if change.is_dir { "/" } else { "" };
                lines.push(format!("{} {}{end}", change.what.letters(), name.display()));
            }
            true
        });
        (lines, totals.unwrap())
    }

    fn lose_packs(&self) {
        self.packs().iter().for_each(|(_, path)| std::fs::remove_file(path).unwrap());
    }
}

fn find_all(pattern: &str) -> FindOptions {
    FindOptions { pattern: Pattern::new(pattern, false).unwrap(), kind: None, newer: None, older: None }
}

#[test]
fn differences_are_told_in_path_order_with_their_counts() {
    watched(|| {
        let fixture = Fixture::new();
        let src = fixture.src();
        for name in ["same", "changed", "gone", "touched", "a/file", "becomes dir", "z/deep/one"] {
            fixture.write(name, name.as_bytes());
        }
        std::os::unix::fs::symlink("here", src.join("link")).unwrap();
        let first = fixture.backup();
        fixture.write("changed", b"changed again");
        std::fs::remove_file(src.join("gone")).unwrap();
        std::fs::set_permissions(src.join("touched"), PermissionsExt::from_mode(0o600)).unwrap();
        std::fs::remove_file(src.join("becomes dir")).unwrap();
        fixture.write("becomes dir/below", b"new");
        fixture.write("new/sub/file", b"12345");
        std::fs::remove_dir_all(src.join("z")).unwrap();
        std::fs::remove_file(src.join("link")).unwrap();
        std::os::unix::fs::symlink("there", src.join("link")).unwrap();
        let second = fixture.backup();

        let (old, new) = (fixture.spot(&first, "/"), fixture.spot(&second, "/"));
        let (lines, totals) = fixture.differences(&old, &new, false);
        let expected = [
            "T becomes dir/",
            "+ becomes dir/below",
            "M changed",
            "- gone",
            "M link",
            "+ new/",
            "+ new/sub/",
            "+ new/sub/file",
            "- z/",
            "- z/deep/",
            "- z/deep/one",
        ];
        assert_eq!(lines, expected);
        let added = SideTotals { files: 2, dirs: 3, others: 0, bytes: 3 + 5 + 13 };
        let removed = SideTotals { files: 3, dirs: 2, others: 0, bytes: 11 + 4 + 10 + 7 };
        assert_eq!(totals, DiffTotals { changed_files: 1, added, removed });
        let (lines, _) = fixture.differences(&old, &new, true);
        assert!(
            lines.contains(&"MU changed".to_owned()) && lines.contains(&"U touched".to_owned()),
            "{lines:?}"
        );
        let (back, totals) = fixture.differences(&new, &old, false);
        assert_eq!((back.len(), totals.added, totals.removed), (expected.len(), removed, added));
        // Parts of snapshots, and single files.
        let (lines, _) =
            fixture.differences(&fixture.spot(&first, "z"), &fixture.spot(&second, "new"), false);
        assert_eq!(lines, ["- new/deep/", "- new/deep/one", "+ new/sub/", "+ new/sub/file"]);
        let (lines, _) =
            fixture.differences(&fixture.spot(&first, "changed"), &fixture.spot(&second, "changed"), false);
        assert_eq!(lines, ["M changed"]);
    });
}

#[test]
fn of_a_large_changed_file_only_what_differs_is_counted() {
    watched(|| {
        let fixture = Fixture::new();
        fixture.write("large", &noise(1, 20 << 20));
        let first = fixture.backup();
        let file = std::fs::File::options().write(true).open(fixture.src().join("large")).unwrap();
        file.write_all_at(b"changed", 10 << 20).unwrap();
        file.set_len(21 << 20).unwrap();
        let second = fixture.backup();
        let (_, totals) = fixture.differences(&fixture.spot(&first, "/"), &fixture.spot(&second, "/"), false);
        assert_eq!(totals.changed_files, 1);
        let few = 1..2 << 20;
        assert!(few.contains(&totals.added.bytes) && few.contains(&totals.removed.bytes), "{totals:?}");
    });
}

#[test]
fn what_is_the_same_is_compared_unread_and_searched_once() {
    watched(|| {
        let fixture = Fixture::new();
        for i in 0..200u64 {
            fixture.write(&format!("{}/{i}", i % 5), &noise(i, 100));
        }
        let first = fixture.backup();
        let (whole, options) = (fixture.spot(&first, "/"), find_all("absent"));
        let monitor = Monitor::default();
        let mut search = Search::new(&fixture.vault, &options, None, &monitor);
        let snapshot = fixture.snapshot(&first);
        search.run(&snapshot, |entry| panic!("{entry:?}")).unwrap();
        // From now on nothing can be read.
        fixture.lose_packs();
        assert_eq!(fixture.differences(&whole, &whole, true), (vec![], DiffTotals::default()));
        search.run(&snapshot, |entry| panic!("{entry:?}")).unwrap();
        search.finish().unwrap();
        let mut fresh = Search::new(&fixture.vault, &options, None, &monitor);
        fresh.run(&snapshot, |_| true).unwrap();
        assert_eq!(fresh.finish().unwrap_err().code(), Code::ChunkNotFound, "a tree that is gone is told");
    });
}

#[test]
fn finds_are_the_entries_of_a_listing_that_match() {
    watched(|| {
        let fixture = Fixture::new();
        for name in ["a.txt", "b/a.txt", "b/c/A.TXT", "b/c/other", "txt/x"] {
            fixture.write(name, name.as_bytes());
        }
        let done = fixture.backup();
        let snapshot = fixture.snapshot(&done);
        let found = |options: &FindOptions| {
            let (monitor, mut names) = (Monitor::default(), Vec::new());
            let mut search = Search::new(&fixture.vault, options, None, &monitor);
            // Twice, as in two snapshots of one tree: what has hits is searched again.
            for _ in 0..2 {
                names.clear();
                search
                    .run(&snapshot, |entry| {
                        names.push(entry.path.strip_prefix(fixture.src()).unwrap().display().to_string());
                        true
                    })
                    .unwrap();
            }
            search.finish().unwrap();
            names
        };
        assert_eq!(found(&find_all("*.txt")), ["a.txt", "b/a.txt"]);
        assert_eq!(found(&find_all("b/*.txt")), ["b/a.txt"]);
        let any_case = FindOptions { pattern: Pattern::new("a.txt", true).unwrap(), ..find_all("x") };
        assert_eq!(found(&any_case), ["a.txt", "b/a.txt", "b/c/A.TXT"]);
        let dirs = FindOptions { kind: Some(crate::wire::NodeType::NodeDirectory), ..find_all("{c,txt}") };
        assert_eq!(found(&dirs), ["b/c", "txt"]);
        assert_eq!(found(&FindOptions { older: Some(1), ..find_all("*.txt") }), Vec::<String>::new());
        assert_eq!(found(&FindOptions { newer: Some(1), ..find_all("other") }), ["b/c/other"]);
    });
}

#[test]
fn a_dump_gives_exact_bytes_and_an_archive_all_entries() {
    watched(|| {
        let fixture = Fixture::new();
        fixture.write("dir/file", &noise(1, 300_000));
        let sparse = std::fs::File::create(fixture.src().join("sparse")).unwrap();
        sparse.set_len(5 << 20).unwrap();
        sparse.write_all_at(b"middle", 3 << 20).unwrap();
        std::fs::hard_link(fixture.src().join("sparse"), fixture.src().join("dir/sparse too")).unwrap();
        std::os::unix::fs::symlink("x", fixture.src().join("link")).unwrap();
        let done = fixture.backup();
        let dumped = |name: &str| {
            let (mut bytes, monitor) = (Vec::new(), Monitor::default());
            dump(&fixture.vault, &fixture.spot(&done, name), None, &monitor, |part| {
                bytes.extend_from_slice(part);
                true
            })
            .map(|()| bytes)
        };
        for name in ["dir/file", "sparse"] {
            assert!(dumped(name).unwrap() == std::fs::read(fixture.src().join(name)).unwrap(), "{name}");
        }
        assert_eq!(DumpKind::of(&fixture.spot(&done, "sparse")).unwrap(), DumpKind::File(5 << 20));
        assert!(matches!(dumped("link"), Err(EngineError::NotDumpable(_))));

        let bytes = dumped("").unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut members = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let (path, mut content) = (entry.path().unwrap().into_owned(), Vec::new());
            entry.read_to_end(&mut content).unwrap();
            if entry.header().entry_type().is_file() {
                assert!(content == std::fs::read(fixture.src().join(&path)).unwrap(), "{}", path.display());
            }
            members.push((path, entry.link_name().unwrap().map(|link| link.into_owned())));
        }
        let expected = [
            ("./", None),
            ("dir/", None),
            ("dir/file", None),
            ("dir/sparse too", None),
            ("link", Some("x")),
            ("sparse", Some("dir/sparse too")),
        ];
        let expected =
            expected.map(|(path, link)| (Path::new(path).to_owned(), link.map(|l| Path::new(l).to_owned())));
        assert_eq!(members, expected);
    });
}

#[test]
fn a_dump_without_all_its_bytes_is_an_error_unless_a_holder_has_them() {
    watched(|| {
        let fixture = Fixture::new();
        fixture.write("file", &noise(1, 3 << 20));
        let done = fixture.backup();
        let (holders, spot, monitor) =
            (Holders::of(&fixture, &[Manner::Honest]), fixture.spot(&done, "file"), Monitor::default());
        let stopped = dump(&fixture.vault, &spot, None, &monitor, |_| false);
        assert!(matches!(stopped, Err(EngineError::Cancelled)));
        fixture.lose_packs();
        let error = dump(&fixture.vault, &spot, None, &monitor, |_| true).unwrap_err();
        assert_eq!(error.code(), Code::ChunkNotFound);
        let mut bytes = Vec::new();
        let out = |part: &[u8]| {
            bytes.extend_from_slice(part);
            true
        };
        dump(&fixture.vault, &spot, Some(&holders), &monitor, out).unwrap();
        assert!(bytes == noise(1, 3 << 20));
    });
}

#[test]
fn a_listing_stops_when_nobody_wants_more() {
    let fixture = Fixture::new();
    (0..10u64).for_each(|i| fixture.write(&format!("{i}"), b"x"));
    let done = fixture.backup();
    let mut seen = 0;
    let spot = fixture.spot(&done, "");
    list(&fixture.vault, &spot, true, None, &Monitor::default(), |_| {
        seen += 1;
        seen < 3
    })
    .unwrap();
    assert_eq!(seen, 3);
}

#[test]
fn sums_tell_what_is_there_once_and_what_only_one_snapshot_needs() {
    watched(|| {
        let fixture = Fixture::new();
        fixture.write("a", &noise(1, 500_000));
        fixture.write("b", &noise(1, 500_000));
        let first = fixture.backup();
        fixture.write("c", &noise(2, 250_000));
        let second = fixture.backup();
        let (view, monitor) = (fixture.view(), Monitor::default());
        let of = |done: &BackupResult| {
            snapshot_sums(&fixture.vault, &view, &fixture.snapshot(done), None, &monitor).unwrap()
        };
        let (one, two) = (of(&first), of(&second));
        assert_eq!((one.files, one.restore_bytes, one.distinct.data_bytes), (2, 1_000_000, 500_000));
        assert_eq!((two.files, two.restore_bytes, two.distinct.data_bytes), (3, 1_250_000, 750_000));
        assert!(two.exclusive_pack_bytes > 0 && two.exclusive_pack_bytes < two.pack_bytes, "{two:?}");
        let all = vault_sums(&fixture.vault, &view, &monitor).unwrap();
        assert_eq!((all.snapshots, all.files, all.restore_bytes), (2, 5, 2_250_000));
        assert_eq!(all.distinct.data_bytes, 750_000);
        let counts = fixture.store().pack_counts().unwrap();
        assert_eq!(
            (all.distinct.chunks, all.packs, all.pack_bytes),
            (counts.chunks, counts.own_packs, counts.own_bytes)
        );
        assert!(!all.is_estimate && !two.is_estimate);
    });
}

#[test]
fn other_tags_make_another_record_of_the_same_snapshot() {
    watched(|| {
        let fixture = Fixture::new();
        fixture.write("a", &noise(1, 500_000));
        let (first, second) = (fixture.backup(), fixture.backup());
        let edit = TagEdit { add: vec!["x".into()], ..TagEdit::default() };
        let change = |id: SnapshotId, edit: &TagEdit| tag(&fixture.vault, &fixture.view(), &[id], edit, &[]);
        let done = change(first.snapshot, &edit).unwrap();
        assert_eq!((done[0].old, done[0].tags.as_slice()), (first.snapshot, ["x".to_owned()].as_slice()));
        let again = change(done[0].new, &TagEdit { remove: vec!["x".into()], ..TagEdit::default() }).unwrap();

        let view = fixture.view();
        let ids: Vec<_> = view.snapshots.iter().map(|snapshot| snapshot.id).collect();
        assert_eq!(ids, [again[0].new, second.snapshot], "it keeps its place");
        let snapshot = &view.snapshots[0];
        assert_eq!((snapshot.original, snapshot.info.tags.len()), (Some(first.snapshot), 0));
        assert_eq!(snapshot.info.counts, Some(first.counts));
        // The id that the backup told still leads there.
        assert_eq!(resolve(&view, &first.snapshot.to_string()).unwrap().id, again[0].new);
        let packs = fixture.store().snapshot_packs(again[0].new).unwrap().unwrap();
        assert_eq!(packs.len(), first.packs.len());
        assert_eq!(copy_counts(&fixture.vault, &view, |_| true).unwrap().of_snapshot(again[0].new), 0);
        assert!(fixture.verify().is_sound());

        let head = fixture.store().head_names(fixture.vault.id(), fixture.vault.device()).unwrap();
        assert_eq!(
            change(second.snapshot, &TagEdit { remove: vec!["y".into()], ..edit.clone() }).unwrap().len(),
            1
        );
        let same = change(again[0].new, &TagEdit { remove: vec!["y".into()], ..TagEdit::default() }).unwrap();
        assert_eq!(same[0].old, same[0].new);
        let heads = fixture.store().head_names(fixture.vault.id(), fixture.vault.device()).unwrap();
        assert_eq!(heads.len(), head.len() + 1, "what changes nothing writes nothing");

        // A snapshot that only another device's head lists.
        let mut foreign = fixture.view();
        foreign.snapshots[0].id = SnapshotId::new([7; 32]);
        let refused = tag(&fixture.vault, &foreign, &[SnapshotId::new([7; 32])], &edit, &[]).unwrap_err();
        assert!(matches!(refused, EngineError::NotOwn { .. }), "{refused}");
    });
}

#[test]
fn references_that_fail_name_what_was_meant() {
    let fixture = Fixture::new();
    fixture.write("a", b"x");
    let ids = [fixture.backup().snapshot, fixture.backup().snapshot];
    let mut view = fixture.view();
    let mut typed = ids[1].to_string()[..10].to_owned();
    let last = if typed.ends_with('0') { "1" } else { "0" };
    typed.replace_range(9.., last);
    match resolve(&view, &typed).unwrap_err() {
        EngineError::SnapshotUnknown { near, .. } => {
            assert!(near[0].starts_with(&ids[1].short()), "{near:?}")
        }
        other => panic!("{other}"),
    }
    let error = resolve(&view, "latest~2").unwrap_err().to_string();
    assert!(error.contains("latest~1 (the oldest of 2)"), "{error}");
    for (last, snapshot) in view.snapshots.iter_mut().enumerate() {
        snapshot.id = SnapshotId::new([0xab + last as u8 / 9; 32]);
    }
    let error = resolve(&view, "abab").unwrap_err().to_string();
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(lines.len(), 3, "{error}");
    assert!(lines[1].contains("abababab  ") && lines[1].contains("host  "), "{error}");
}
