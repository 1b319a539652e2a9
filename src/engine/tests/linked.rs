//! Files with several names, more of them than memory has room for: its bounds are small in tests.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::fixture::{Fixture, watched};
use crate::base::limit;
use crate::engine::{Monitor, RestoreOptions, dump, restore};

/// Past what a restore knows at one time, and past what it remembers in memory.
const FILES: usize = 4 * limit::RESTORE_LINKS_MAX;

const _: () = assert!(FILES * 128 > 4 * limit::REMEMBERED_BYTES_MAX);

fn inode(path: &Path) -> u64 {
    path.metadata().unwrap().ino()
}

/// `FILES` files with a name in `a` and one in `b`, and as many with one in `c` and one that is not backed up.
fn linked() -> Fixture {
    let fixture = Fixture::new();
    let outside = fixture.dir.path().join("outside");
    for dir in [outside.clone(), fixture.src().join("a"), fixture.src().join("b"), fixture.src().join("c")] {
        std::fs::create_dir_all(dir).unwrap();
    }
    for at in 0..FILES {
        let name = format!("{at:04}");
        for (dir, other) in [("a", fixture.src().join("b")), ("c", outside.clone())] {
            fixture.write(&format!("{dir}/{name}"), format!("{dir}{at}").as_bytes());
            std::fs::hard_link(fixture.src().join(dir).join(&name), other.join(&name)).unwrap();
        }
    }
    fixture
}

/// The rest came back as copies, with exit code 0; and files whose other names were not backed up took the room of those with
/// names to come.
#[test]
fn a_restore_links_more_files_than_it_has_room_for() {
    watched(|| {
        let fixture = linked();
        let done = fixture.backup();
        let target = fixture.dir.path().join("target");
        let run = |dry_run| {
            let (options, monitor) =
                (RestoreOptions { dry_run, ..fixture.restore_options(&target) }, Monitor::default());
            let result = restore(&fixture.vault, &fixture.snapshot(&done), &options, None, &monitor).unwrap();
            assert_eq!((result.failed, monitor.problems().1.len()), (0, 0));
            (result.files, result.others)
        };
        let expected = (2 * FILES as u64, FILES as u64);
        assert_eq!((run(true), run(false)), (expected, expected));
        for at in 0..FILES {
            let name = format!("{at:04}");
            let (a, b, c) =
                (target.join("a").join(&name), target.join("b").join(&name), target.join("c").join(&name));
            assert_eq!(inode(&a), inode(&b), "{name}");
            assert_eq!(c.metadata().unwrap().nlink(), 1, "{name}");
            assert_eq!(std::fs::read_to_string(&b).unwrap(), format!("a{at}"));
        }
    });
}

#[test]
fn a_dump_links_more_files_than_it_has_room_for() {
    watched(|| {
        let fixture = linked();
        let done = fixture.backup();
        let (mut bytes, monitor) = (Vec::new(), Monitor::default());
        let spot = fixture.spot(&done, "");
        dump(&fixture.vault, &spot, None, &monitor, |part| {
            bytes.extend_from_slice(part);
            true
        })
        .unwrap();
        let mut linked = 0;
        for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
            let entry = entry.unwrap();
            let Some(first) = entry.link_name().unwrap() else { continue };
            linked += 1;
            assert_eq!(
                (first.parent(), first.file_name()),
                (Some(Path::new("a")), entry.path().unwrap().file_name())
            );
        }
        assert_eq!(linked, FILES);
    });
}
