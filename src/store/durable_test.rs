//! The one publish path: whatever is published is flushed before it has its name, and has its name for good when the call
//! returns.

use std::path::{Path, PathBuf};

use super::trace::{Event, record};
use super::{Store, StoreError};
use crate::base::{DeviceId, HeadId, ListId, Moment, PackId, PeerId, SnapshotId, VaultId};
use crate::pack::Outboard;

fn recorded() -> (tempfile::TempDir, Store, std::sync::Arc<std::sync::Mutex<Vec<Event>>>) {
    let dir = tempfile::tempdir().unwrap();
    let events = record(true);
    let store = Store::create(&dir.path().join("s")).unwrap();
    record(false);
    (dir, store, events)
}

/// What was done to a file before it got its name, and to its directory after: `None` unless both were flushed.
fn is_durable(events: &[Event], named: usize, from: &Path, to: &Path) -> bool {
    let written =
        events[..named].iter().rposition(|event| matches!(event, Event::Write(at, ..) if at == from));
    let flushed = events[..named].iter().rposition(|event| matches!(event, Event::Sync(at) if at == from));
    let placed = |event: &Event| matches!(event, Event::SyncDir(dir) if Some(dir.as_path()) == to.parent());
    flushed > written && flushed.is_some() && events[named..].iter().any(placed)
}

/// A power cut left a list of allowed peers of no length, which nobody had flushed.
#[test]
fn everything_that_is_published_is_flushed_before_it_has_its_name_and_its_directory_after() {
    let (_dir, store, events) = recorded();
    let (vault, device, peer) = (VaultId::new([1; 32]), DeviceId::new([2; 32]), PeerId::new([3; 32]));
    let bytes = vec![7; 128 << 10];
    let (pack, outboard) = Outboard::of(&bytes);
    let by_pieces = |store: &Store| {
        let mut draft = store.draft_pack()?;
        store.append(&mut draft, &bytes)?;
        store.publish_draft(draft, pack, &outboard)
    };
    type Publish<'a> = Box<dyn Fn(&Store) -> Result<(), StoreError> + 'a>;
    let all: [(&str, Publish<'_>); 13] = [
        ("heads", Box::new(|store| store.publish_head(vault, device, 1, HeadId::new([4; 32]), b"head"))),
        ("lists", Box::new(|store| store.publish_list(ListId::new([5; 32]), b"list"))),
        ("snapshots", Box::new(|store| store.publish_snapshot(SnapshotId::new([6; 32]), b"record"))),
        ("members", Box::new(|store| store.publish_state("state.json", &1))),
        ("members/receipts", Box::new(|store| store.keep_receipt(peer, &Default::default()))),
        ("members/void", Box::new(|store| store.void_receipts(peer, [([8; 32], Moment::from_millis(1))]))),
        ("node.key", Box::new(|store| store.publish_node_key(&[1; 32]))),
        ("vault.id", Box::new(|store| store.publish_vault_id(vault))),
        ("keys/keyring", Box::new(|store| store.publish_keyring(b"keyring"))),
        ("keys", Box::new(|store| store.publish_slot(b"slot"))),
        ("packs", Box::new(by_pieces)),
        ("packs", Box::new(|store| store.publish_pack(pack, &bytes, &outboard))),
        ("packs", Box::new(|store| store.replace_pack(pack, &bytes, &outboard))),
    ];
    for (place, publish) in all {
        events.lock().unwrap().clear();
        publish(&store).unwrap();
        let events = events.lock().unwrap().clone();
        let renames: Vec<(usize, &PathBuf, &PathBuf)> = events
            .iter()
            .enumerate()
            .filter_map(|(at, event)| match event {
                // An outboard can be made again from its pack.
                Event::Rename(from, to) if !to.to_string_lossy().ends_with(".cells") => Some((at, from, to)),
                _ => None,
            })
            .collect();
        assert!(renames.iter().any(|(.., to)| to.starts_with(store.dir().join(place))), "{place}");
        for (named, from, to) in renames {
            assert!(is_durable(&events, named, from, to), "{place}: {} is not durable", to.display());
        }
    }
}

/// After a failed flush the kernel may have dropped pages of anything: nothing more is acknowledged.
#[test]
fn after_a_failed_flush_nothing_is_published_and_nothing_removed() {
    let (_dir, store, _) = recorded();
    let bytes = vec![7; 128 << 10];
    let (pack, outboard) = Outboard::of(&bytes);
    store.publish_pack(pack, &bytes, &outboard).unwrap();
    store.files.poison("flushing a file", std::io::Error::other("EIO"));
    assert!(store.failure().is_some());
    let poisoned =
        |result: Result<(), StoreError>| assert!(matches!(result, Err(StoreError::Poisoned)), "{result:?}");
    poisoned(store.publish_state("state.json", &1));
    poisoned(store.publish_list(ListId::new([5; 32]), b"list"));
    poisoned(store.publish_pack(PackId::new([9; 32]), &bytes, &outboard));
    poisoned(store.draft_pack().map(drop));
    poisoned(store.remove_snapshot(SnapshotId::new([6; 32])));
    poisoned(store.quarantine_pack(pack));
}
