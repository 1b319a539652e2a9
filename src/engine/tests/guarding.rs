//! In what order things become durable and go, and what is never taken for known.

use std::path::{Path, PathBuf};

use super::fixture::{Fixture, gc_options, noise, scratch, vault_options};
use crate::engine::{EngineError, Monitor, VaultOptions, collect, forget, rebuild_index};
use crate::store::{Event, Store, record};

/// A power cut between the two would leave a head that lists packs which are gone: holders would ask for them for ever, and
/// a recovering machine would take them for lost.
#[test]
fn packs_go_only_once_a_head_without_them_is_durable() {
    let events = record(true);
    let dir = scratch();
    let store = dir.path().join("store");
    let fixture = Fixture::at(dir, &store, VaultOptions { workers: 1, ..vault_options() });
    record(false);
    fixture.write("a", &noise(1, 1 << 20));
    let first = fixture.backup();
    fixture.write("a", &noise(2, 1 << 20));
    fixture.let_the_clock_tick();
    fixture.backup();
    forget(&fixture.vault, &[first.snapshot], &[]).unwrap();
    events.lock().unwrap().clear();
    let done = collect(&fixture.vault, gc_options(true), &[], None, &Monitor::default()).unwrap();
    assert!(done.deleted.0 > 0, "{done:?}");
    let events = events.lock().unwrap().clone();
    let within = |path: &Path, part: &str| path.starts_with(store.join(part));
    let at = |what: &dyn Fn(&Event) -> bool| events.iter().position(what);
    let named = at(&|event| matches!(event, Event::Rename(_, to) if within(to, "heads"))).expect("a head");
    let flushed = |event: &Event| matches!(event, Event::SyncDir(dir) if within(dir, "heads"));
    let durable = named + events[named..].iter().position(flushed).expect("its directory is flushed");
    let gone = at(&|event| matches!(event, Event::Remove(path) if within(path, "packs"))).expect("a pack");
    assert!(durable < gone, "the first pack went at {gone}, the head was durable at {durable}");
}

/// A chunk that is in no pack may be in one that was lost with its row: whoever deletes now deletes what could mend it.
#[test]
fn nothing_is_deleted_while_a_chunk_that_is_needed_is_in_no_pack() {
    let fixture = Fixture::new();
    fixture.write("a", &noise(1, 1 << 20));
    let first = fixture.backup();
    fixture.write("a", &noise(2, 1 << 20));
    fixture.let_the_clock_tick();
    let second = fixture.backup();
    forget(&fixture.vault, &[first.snapshot], &[]).unwrap();
    // The pack with the second content: not needed by the first, and without trees.
    let trees = fixture.store().lookup(fixture.snapshot(&second).tree).unwrap().unwrap().pack;
    let lost = second.packs.difference(&first.packs).copied().find(|pack| *pack != trees).unwrap();
    let lost = fixture.store().pack_by_number(lost).unwrap().unwrap().id;
    let path = fixture.packs().into_iter().find(|(id, _)| *id == lost).unwrap().1;
    let rows_go_with_it = |_: &Path| std::fs::remove_file(&path).unwrap();
    let fixture = fixture.reopened(rows_go_with_it, |dir| Store::rebuild(dir).unwrap());
    rebuild_index(fixture.store(), Some(&fixture.vault.keyring.vault), &Monitor::default()).unwrap();
    let before = fixture.packs();
    for _ in 0..2 {
        let error = collect(&fixture.vault, gc_options(true), &[], None, &Monitor::default()).unwrap_err();
        assert!(matches!(error, EngineError::RootUnreadable(_)), "{error}");
        assert_eq!(fixture.packs(), before);
        assert!(fixture.store().retired_packs().is_empty());
    }
}

/// Another program wrote as many bytes and set the time back: only the change time tells.
#[test]
fn a_file_that_was_changed_under_its_old_size_and_time_is_read_again() {
    let fixture = Fixture::new();
    fixture.write("a", &noise(1, 5000));
    fixture.backup();
    let path: PathBuf = fixture.src().join("a");
    let time = std::fs::metadata(&path).unwrap().modified().unwrap();
    fixture.let_the_clock_tick();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &noise(2, 5000), 0).unwrap();
    file.set_modified(time).unwrap();
    drop(file);
    let second = fixture.backup();
    assert_eq!(second.counts.files_changed, 1);
    let (target, _) = fixture.restore(&second, "out");
    assert_eq!(std::fs::read(target.join("a")).unwrap(), noise(2, 5000));
}
