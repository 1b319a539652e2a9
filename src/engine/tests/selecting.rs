//! Backups of streams, and dry runs.

use std::io::{self, Read};

use super::fixture::{Fixture, vault_options};
use crate::chunker::ChunkSizes;
use crate::engine::{BackupOptions, EngineError, Fate, Monitor, VaultOptions, backup_stream, preview};
use crate::fs::Exclusions;
use crate::policy::Expectation;

/// Gives bytes in odd pieces, then breaks off if it is to.
struct Odd {
    left: usize,
    breaks: bool,
}

impl Read for Odd {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 && self.breaks {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let length = buffer.len().min(self.left).min(1 + self.left % 777);
        self.left -= length;
        buffer[..length].fill(self.left as u8);
        Ok(length)
    }
}

#[test]
fn a_stream_is_stored_to_its_last_byte_whatever_the_chunk_sizes() {
    for (sizes, length) in
        [((4096, 32_768, 131_072), 0), ((64, 256, 1024), 100_000), ((4096, 32_768, 131_072), 5_000_000)]
    {
        let sizes = ChunkSizes::new(sizes.0, sizes.1, sizes.2).unwrap();
        let fixture = Fixture::with(VaultOptions { sizes, ..vault_options() });
        let store = |allow_empty| {
            let (monitor, stream) = (Monitor::default(), Box::new(Odd { left: length, breaks: false }));
            let expected = Expectation { empty: allow_empty, ..Expectation::default() };
            let options = BackupOptions { expected, ..fixture.options() };
            backup_stream(&fixture.vault, &options, "in", stream, &monitor)
        };
        if length == 0 {
            assert!(matches!(store(false), Err(EngineError::InputEmpty)));
        }
        let done = store(length == 0).unwrap();
        assert_eq!((done.counts.files, done.counts.bytes), (1, length as u64));
        let paths = fixture.snapshot(&done).info.paths;
        assert_eq!(paths, [b"/in".to_vec()]);
    }
}

#[test]
fn a_stream_that_breaks_off_makes_no_snapshot() {
    let fixture = Fixture::new();
    let stream = Box::new(Odd { left: 3_000_000, breaks: true });
    let error =
        backup_stream(&fixture.vault, &fixture.options(), "in", stream, &Monitor::default()).unwrap_err();
    assert!(matches!(error, EngineError::InputBroken(_)), "{error}");
    assert!(fixture.view().snapshots.is_empty());
}

#[test]
fn a_preview_tells_what_the_backup_then_does() {
    let fixture = Fixture::new();
    ["same", "changed", "in/same"].iter().for_each(|name| fixture.write(name, b"first"));
    fixture.backup();
    fixture.write("changed", b"second one");
    fixture.write("new", b"n");
    fixture.write("left.o", b"o");
    let exclude = Exclusions { patterns: vec!["*.o".into()], ..Exclusions::default() };
    let options = BackupOptions { exclude, ..fixture.options() };
    let mut told = Vec::new();
    let mut listener = |path: &std::path::Path, fate: Fate| {
        if let Ok(below) = path.strip_prefix(fixture.src()) {
            told.push((below.to_str().unwrap().to_owned(), fate));
        }
        Ok(())
    };
    let result = preview(&fixture.vault, &options, &Monitor::default(), Some(&mut listener)).unwrap();
    told.sort_by(|one, other| one.0.cmp(&other.0));
    let left_out = told.iter().position(|(_, fate)| matches!(fate, Fate::LeftOut(_)));
    assert_eq!(left_out.map(|at| told.remove(at).0).as_deref(), Some("left.o"), "{told:?}");
    let expected = [
        ("", Fate::Changed),
        ("changed", Fate::Changed),
        ("in", Fate::Same),
        ("in/same", Fate::Same),
        ("new", Fate::New),
        ("same", Fate::Same),
    ];
    assert_eq!(told, expected.map(|(path, fate)| (path.to_owned(), fate)));
    assert_eq!(result.bytes_to_read, 11);
    assert_eq!(fixture.view().snapshots.len(), 1);

    let done = crate::engine::backup(&fixture.vault, &options, &Monitor::default()).unwrap().counts;
    let counts =
        |c: crate::wire::SnapshotCounts| (c.files, c.bytes, c.files_new, c.files_changed, c.directories);
    assert_eq!(counts(result.counts), counts(done));
    let stopped = &mut |_: &std::path::Path, _| Err(EngineError::Cancelled);
    let error = preview(&fixture.vault, &options, &Monitor::default(), Some(stopped)).unwrap_err();
    assert!(matches!(error, EngineError::Cancelled), "{error}");
}
