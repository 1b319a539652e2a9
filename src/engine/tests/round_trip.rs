//! What is backed up comes back as it was.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, mknodat, utimensat};

use super::fixture::{Fixture, noise, watched};
use super::tree_of::assert_same;

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn times(path: &Path, seconds: i64, nanos: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn every_kind_of_entry_comes_back_with_all_its_metadata() {
    watched(|| {
        let fixture = Fixture::new();
        let src = fixture.src();
        for (name, length) in [("empty", 0), ("one", 1), ("small", 4096), ("large", 5 << 20)] {
            fixture.write(name, &noise(length as u64, length));
        }
        fixture.write("zeros", &vec![0; 3 << 20]);
        std::fs::create_dir_all(src.join("dir/empty")).unwrap();
        std::fs::create_dir_all(src.join("dir/other")).unwrap();
        std::fs::hard_link(src.join("large"), src.join("dir/again")).unwrap();
        std::fs::hard_link(src.join("large"), src.join("dir/other/third")).unwrap();
        std::fs::hard_link(src.join("empty"), src.join("dir/empty-too")).unwrap();
        symlink("../no such place", src.join("dir/dangling")).unwrap();
        symlink("/etc/passwd", src.join("absolute")).unwrap();
        symlink("dir", src.join("link-to-dir")).unwrap();
        mknodat(CWD, src.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
        std::fs::hard_link(src.join("fifo"), src.join("dir/fifo-too")).unwrap();
        drop(std::os::unix::net::UnixListener::bind(src.join("socket")).unwrap());
        let odd = src.join(OsStr::from_bytes(b"caf\xe9 \xff\n\t*"));
        std::fs::write(&odd, b"latin 1").unwrap();
        std::fs::write(src.join("x".repeat(255)), b"longest name").unwrap();
        if is_root() {
            let (kind, null) = (FileType::CharacterDevice, rustix::fs::makedev(1, 3));
            mknodat(CWD, src.join("null"), kind, Mode::from_raw_mode(0o666), null).unwrap();
        }
        let set = |path: &Path, name: &str, value: &[u8]| {
            rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
        };
        set(&src.join("small"), "user.note", b"\0\xff");
        set(&src.join("small"), "user.empty", b"");
        set(&src.join("dir"), "user.where", &noise(9, 2000));
        for (name, bits) in [("one", 0o4755), ("small", 0o2711), ("dir", 0o1777), ("dir/other", 0o500)] {
            mode(&src.join(name), bits);
        }
        mode(&src.join("large"), 0o000);
        for (at, name) in
            ["one", "dir/dangling", "fifo", "socket", "dir/other", "dir/empty", "dir", ""].iter().enumerate()
        {
            times(&src.join(name), 1_000_000_000 + at as i64, 123_456_780 + at as i64);
        }
        times(&odd, -5, 999_999_999);
        let done = fixture.backup();
        let (target, result) = fixture.restore(&done, "out");
        assert_eq!((result.failed, result.skipped), (0, 0));
        assert_eq!(done.counts.unreadable, 0);
        assert_same(&src, &target);
        assert!(fixture.verify().is_sound());
    });
}

#[test]
fn lengths_around_every_boundary_come_back() {
    watched(|| {
        let fixture = Fixture::new();
        let mib = 1usize << 20;
        let around = [16 << 10, 64 << 10, 256 << 10, mib, 2 * mib, 3 * mib, 8 * mib, 16 * mib];
        for length in around.iter().flat_map(|n| [n - 1, *n, n + 1]) {
            fixture.write(&format!("noise-{length}"), &noise(length as u64, length));
            // Compresses to nothing: chunks of the largest size.
            fixture.write(&format!("same-{length}"), &vec![7; length]);
        }
        let (target, result) = fixture.restore(&fixture.backup(), "out");
        assert_eq!((result.files, result.failed), (48, 0));
        assert_same(&fixture.src(), &target);
    });
}

#[test]
fn holes_stay_holes() {
    use std::os::unix::fs::MetadataExt;
    watched(|| {
        let fixture = Fixture::new();
        let make = |name: &str, length: u64, data: &[(u64, usize)]| {
            let file = File::create(fixture.src().join(name)).unwrap();
            file.set_len(length).unwrap();
            for (offset, count) in data {
                file.write_all_at(&noise(*offset + 1, *count), *offset).unwrap();
            }
        };
        make("all-hole", 64 << 20, &[]);
        make("tail", 10 << 20, &[(10 << 20, 5000)]);
        make("head", 10 << 20, &[(0, 5000)]);
        make("middle", 1 << 30, &[(4096, 4096), (100 << 20, 3 << 20), ((1 << 30) - 4096, 4096)]);
        // More than a node holds inline, as data and holes in turn.
        let many: Vec<(u64, usize)> = (0..3000).map(|i| (i * 16384, 4096)).collect();
        make("comb", 3000 * 16384, &many);
        let done = fixture.backup();
        assert_eq!(done.counts.bytes, fixture.snapshot(&done).info.counts.unwrap().bytes);
        let (target, _) = fixture.restore(&done, "out");
        assert_same(&fixture.src(), &target);
        for name in ["all-hole", "tail", "head", "middle", "comb"] {
            let blocks = |dir: &Path| std::fs::metadata(dir.join(name)).unwrap().blocks();
            assert!(blocks(&target) <= blocks(&fixture.src()) + 16, "{name}");
        }
    });
}

#[test]
fn files_of_many_pieces_use_lists_and_come_back() {
    watched(|| {
        let mut options = super::fixture::vault_options();
        options.sizes = crate::chunker::ChunkSizes::new(64, 256, 1024).unwrap();
        let fixture = Fixture::with(options);
        fixture.write("pieces", &noise(1, 3 << 20));
        let done = fixture.backup();
        let (target, _) = fixture.restore(&done, "out");
        assert_same(&fixture.src(), &target);
        let again = fixture.backup();
        assert_eq!((again.counts.files_unmodified, again.counts.files_changed), (1, 0));
    });
}

#[test]
fn single_files_roots_and_several_paths_can_be_restored() {
    use crate::engine::{Monitor, RestoreOptions, backup, restore};
    watched(|| {
        let fixture = Fixture::new();
        fixture.write("a/file", b"one");
        fixture.write("b/file", b"two");
        let paths = vec![fixture.src().join("a"), fixture.src().join("b/file")];
        let options = crate::engine::BackupOptions { paths, ..Default::default() };
        let done = backup(&fixture.vault, &options, &Monitor::default()).unwrap();
        let out = |path: &Path, name: &str| {
            let target = fixture.dir.path().join(name);
            let options = RestoreOptions { path: path.to_owned(), ..fixture.restore_options(&target) };
            let monitor = Monitor::default();
            restore(&fixture.vault, &fixture.snapshot(&done), &options, None, &monitor).map(|_| target)
        };
        let whole = out(Path::new("/"), "whole").unwrap();
        let inside = whole.join(fixture.src().strip_prefix("/").unwrap());
        assert_same(&fixture.src(), &inside);
        let one = out(&fixture.src().join("b/file"), "one").unwrap();
        assert_eq!(std::fs::read(one.join("file")).unwrap(), b"two");
        for nonsense in ["/nowhere", "relative", "/../etc"] {
            assert!(out(Path::new(nonsense), "none").is_err(), "{nonsense}");
        }
        assert!(out(&fixture.src().join("b/file/deeper"), "none").is_err());
    });
}
