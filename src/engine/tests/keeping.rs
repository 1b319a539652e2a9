//! What a holder may drop, take in, confirm and give away, and what an owner keeps of its own heads.

use std::cell::Cell;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::devices::{own_head, pass_on};
use super::fixture::{Fixture, noise, scratch};
use super::full::copy;
use crate::base::{HeadId, ListId, Moment, PackId, PeerId, SnapshotId, VaultId, limit};
use crate::crypto::NodeKey;
use crate::engine::tests::fixture::head_packs;
use crate::engine::{
    EngineError, HoldResult, HolderError, Keep, Monitor, accept_head, copy_counts, drop_expired, export,
    forget, forward_packs, held_packs, import, look_over, read_sound, record_receipt, store_list,
    store_snapshot,
};
use crate::pack::{CellRange, Outboard};
use crate::snapshot::{Head, ListRef, sign_receipt};
use crate::store::{NOBODY, Store, StoreError};

const DAY: Duration = Duration::from_secs(86_400);
const HOLD: Duration = Duration::from_secs(30 * 86_400);

/// A holder's store.
pub(super) fn holder() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(&dir.path().join("holder")).unwrap();
    (dir, store)
}

/// Gives a holder the owner's newest head, its records and its packs.
pub(super) fn replicate(to: &Store, owner: &Fixture) -> Head {
    let head = own_head(owner);
    pass_on(to, owner.store(), &head);
    for (id, path) in owner.packs() {
        let bytes = std::fs::read(path).unwrap();
        forward_packs(to, (owner.vault.id(), NOBODY), id, &bytes, &Outboard::of(&bytes).1).unwrap();
    }
    head
}

/// Three backups, of each of which the first file is another one, and at a holder the head of each.
fn three_backups(to: &Store) -> (Fixture, [SnapshotId; 3], [Head; 3]) {
    let owner = Fixture::new();
    let mut each = [0u64, 1, 2].into_iter().map(|round| {
        owner.write("a", &noise(round, 200_000));
        let snapshot = owner.backup().snapshot;
        // The newest head lists only the newest snapshot.
        let old: Vec<SnapshotId> =
            owner.view().snapshots.iter().map(|one| one.id).filter(|id| *id != snapshot).collect();
        forget(&owner.vault, &old, &[]).unwrap();
        (snapshot, replicate(to, &owner))
    });
    let (first, second, third) = (each.next().unwrap(), each.next().unwrap(), each.next().unwrap());
    drop(each);
    (owner, [first.0, second.0, third.0], [first.1, second.1, third.1])
}

/// As if every file of these directories had been written so long ago.
fn age(store: &Store, span: Duration) {
    fn each(path: &Path, span: Duration) {
        for entry in std::fs::read_dir(path).unwrap().map(Result::unwrap) {
            match entry.file_type().unwrap().is_dir() {
                true => each(&entry.path(), span),
                false => File::open(entry.path()).unwrap().set_modified(SystemTime::now() - span).unwrap(),
            }
        }
    }
    ["heads", "lists", "snapshots"].iter().for_each(|part| each(&store.dir().join(part), span));
}

/// Files of heads, lists, records and packs.
fn files(store: &Store) -> [usize; 4] {
    let count = |part: &str| std::fs::read_dir(store.dir().join(part)).unwrap().count();
    let heads = store.head_vaults().unwrap().into_iter().flat_map(|vault| {
        let devices = store.head_devices(vault).unwrap();
        devices.into_iter().map(move |device| store.head_names(vault, device).unwrap().len())
    });
    [heads.sum(), count("lists"), count("snapshots"), store.pack_files().unwrap().len()]
}

fn pass(store: &Store, elapsed: Duration) -> HoldResult {
    drop_expired(store, None, HOLD, elapsed).unwrap()
}

fn head_path(store: &Store, head: &Head) -> std::path::PathBuf {
    let name = format!("{:016x}-{}", head.draft.seq, head.id);
    store.dir().join(format!("heads/{}/{}/{name}", head.vault(), head.device()))
}

/// The hold of what came before a head that cannot be read never ends: nobody knows what that head needs.
#[test]
fn while_the_newest_head_is_unreadable_a_holder_drops_nothing() {
    let (_dir, store) = holder();
    let (owner, _, heads) = three_backups(&store);
    let before = files(&store);
    let path = head_path(&store, &heads[2]);
    let whole = std::fs::read(&path).unwrap();
    for broken in [&whole[..whole.len() / 2], b"", b"rot"] {
        std::fs::write(&path, broken).unwrap();
        age(&store, limit::RECORD_AGE_MIN * 2);
        for _ in 0..3 {
            let done = pass(&store, DAY * 100);
            assert_eq!((done.records, done.deleted), (0, (0, 0)), "{done:?}");
        }
        assert_eq!(files(&store), before);
    }
    // Once it is there again the rest goes, and all that it needs stays.
    std::fs::write(&path, &whole).unwrap();
    age(&store, limit::RECORD_AGE_MIN * 2);
    pass(&store, DAY * 100);
    let done = pass(&store, DAY * 100);
    assert!(files(&store)[0] == 1 && files(&store)[2] == 1, "{done:?} {:?}", files(&store));
    let packs: Vec<PackId> = head_packs(&store, &heads[2]).unwrap().into_iter().map(|(id, _)| id).collect();
    assert_eq!(held_packs(&store, owner.vault.id(), &packs).unwrap(), packs);
}

/// A machine that was off for a month has seen no month pass, and a clock that somebody set has not either.
#[test]
fn a_hold_ends_by_what_the_holder_itself_saw_pass_and_by_no_clock() {
    let (_dir, store) = holder();
    three_backups(&store);
    let before = files(&store);
    for _ in 0..3 {
        age(&store, DAY * 400);
        assert_eq!(pass(&store, Duration::ZERO).records, 0);
    }
    assert_eq!(files(&store), before);
    assert!(pass(&store, HOLD).records > 0);
}

/// How many copies there are is counted by the head that a holder confirmed last, which need not be the newest.
#[test]
fn a_head_that_a_holder_confirmed_stays_as_long_as_that_is_its_last_word() {
    let owner = Fixture::new();
    owner.write("a", &noise(1, 1000));
    let first = owner.backup();
    let (vault, key, head) = (owner.vault.id(), NodeKey::generate(), own_head(&owner));
    let packs = owner.store().pack_files().unwrap();
    let signed = sign_receipt(&key, vault, Some(head.id), &packs, Moment::from_millis(5));
    record_receipt(owner.store(), vault, key.peer_id(), &signed).unwrap();
    for round in 0..2 {
        owner.write("b", &noise(10 + round, 1000));
        owner.backup();
    }
    for _ in 0..3 {
        drop_expired(owner.store(), Some(vault), HOLD, DAY * 100).unwrap();
    }
    let names = owner.store().head_names(vault, owner.vault.device()).unwrap();
    assert!(names.iter().any(|(_, id)| *id == head.id), "{names:?}");
    assert_eq!(names.len(), 2, "the newest one, and the confirmed one: {names:?}");
    let counts = copy_counts(&owner.vault, &owner.view(), |_| true).unwrap();
    assert_eq!(counts.of_snapshot(first.snapshot), 1);
}

#[test]
fn records_and_heads_are_taken_in_only_under_their_own_hash() {
    let ((_dir, store), owner) = (holder(), Fixture::new());
    owner.write("a", b"a");
    let done = owner.backup();
    let head = own_head(&owner);
    let record = owner.store().read_snapshot(done.snapshot).unwrap().unwrap();
    let list = head.draft.lists[0].id;
    let packs = owner.store().read_list(list).unwrap().unwrap();
    let (other_record, other_list) = (SnapshotId::new([1; 32]), ListId::new([1; 32]));
    assert!(store_snapshot(&store, other_record, &record).is_err());
    assert!(store_snapshot(&store, done.snapshot, &record[1..]).is_err());
    assert!(store_list(&store, other_list, &packs).is_err());
    assert_eq!(files(&store), [0, 0, 0, 0]);
    store_snapshot(&store, done.snapshot, &record).unwrap();
    store_list(&store, list, &packs).unwrap();
    // What rotted since is no list any more.
    let path = store.dir().join(format!("lists/{list}"));
    let mut rotten = packs.clone();
    *rotten.last_mut().unwrap() ^= 1;
    std::fs::write(path, rotten).unwrap();
    assert_eq!(store.read_list(list).unwrap(), None);
    let bytes = std::fs::read(head_path(owner.store(), &head)).unwrap();
    let (vault, id) = (owner.vault.id(), head.id);
    let refused = accept_head(&store, vault, HeadId::new([1; 32]), &bytes);
    assert!(matches!(refused, Err(HolderError::WrongRecord)));
    let refused = accept_head(&store, VaultId::new([1; 32]), id, &bytes);
    assert!(matches!(refused, Err(HolderError::WrongVault)));
    assert_eq!(accept_head(&store, vault, id, &bytes).unwrap().id, id);
}

/// An owner that asks again has lost trust: a row in an index is no answer.
#[test]
fn a_holder_looks_at_its_packs_before_it_confirms_and_gives_no_rot_away() {
    let ((_dir, store), owner) = (holder(), Fixture::new());
    owner.write("a", &noise(1, 500_000));
    owner.backup();
    replicate(&store, &owner);
    let vault = owner.vault.id();
    let packs = store.pack_files().unwrap();
    assert_eq!(held_packs(&store, vault, &packs).unwrap(), packs);
    let (sound, damages) = look_over(&store, &packs).unwrap();
    assert_eq!((sound, damages.len()), (packs.clone(), 0));
    for id in &packs {
        let path = store.dir().join(format!("packs/{:02x}/{id}", id.as_bytes()[0]));
        let whole = std::fs::read(&path).unwrap();
        let (bytes, at) = (whole.len() as u64, whole.len() - 5);
        let outboard = Outboard::of(&whole).1;
        let last = CellRange { first: at / limit::CELL_BYTES, end: at / limit::CELL_BYTES + 1 };
        let first = CellRange { first: 0, end: 1 };
        let read = |cells| read_sound(&store.open_pack(*id).unwrap(), *id, bytes, cells, &outboard);
        assert_eq!(read(last).unwrap(), whole[last.offset() as usize..]);
        let mut rotten = whole.clone();
        rotten[at] ^= 4;
        std::fs::write(&path, &rotten).unwrap();
        assert!(matches!(read(last), Err(StoreError::DamagedFile(_))), "rot is passed on");
        assert_eq!(read(first).unwrap(), whole[..limit::CELL_BYTES], "the rest is of use");
        let (sound, damages) = look_over(&store, &packs).unwrap();
        assert_eq!((sound.len(), damages[0].pack), (packs.len() - 1, *id));
        // Cut short, or gone: that takes no reading.
        std::fs::write(&path, &whole[1..]).unwrap();
        assert!(!held_packs(&store, vault, &packs).unwrap().contains(id));
        std::fs::remove_file(&path).unwrap();
        assert!(!held_packs(&store, vault, &packs).unwrap().contains(id));
        std::fs::write(&path, &whole).unwrap();
    }
}

/// Where the content of a member lies in an export.
fn place_of(archive: &[u8], name: &str) -> usize {
    let mut found = None;
    for entry in tar::Archive::new(archive).entries().unwrap().map(Result::unwrap) {
        if entry.path_bytes().starts_with(name.as_bytes()) {
            found = Some(entry.raw_file_position() as usize);
        }
    }
    found.unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn an_import_takes_in_nothing_that_is_not_what_its_name_says() {
    let owner = Fixture::new();
    owner.write("a", &noise(1, 300_000));
    owner.backup();
    let written = |into: &mut Vec<u8>| {
        export(&owner.vault, None, None, &Monitor::default(), |part| {
            into.extend_from_slice(part);
            true
        })
    };
    let mut whole = Vec::new();
    written(&mut whole).unwrap();
    let take = |store: &Store, bytes: &[u8]| {
        import(store, None, &mut &*bytes, &|_, _, keep| keep(NOBODY), &Monitor::default())
    };
    for part in ["heads/", "lists/", "snapshots/", "packs/"] {
        let (_dir, store) = holder();
        let mut altered = whole.clone();
        altered[place_of(&whole, part) + 30] ^= 1;
        match (part, take(&store, &altered)) {
            ("packs/", taken) => assert_eq!(taken.unwrap().damaged, 1),
            (_, taken) => assert!(taken.is_err(), "{part}: {taken:?}"),
        }
        // The packs before the altered one may be there; what is there is sound.
        let packs = store.pack_files().unwrap();
        assert!(packs.len() < owner.packs().len(), "{part}");
        assert_eq!(look_over(&store, &packs).unwrap(), (packs, vec![]), "{part}");
    }
    let (_dir, store) = holder();
    assert_eq!(take(&store, &whole).unwrap().packs as usize, owner.packs().len());
    // Everything that it left on the disk is charged; room was asked for all of it.
    let kept = store.accounts().unwrap().of_vault(owner.vault.id());
    let (_dir, store) = holder();
    let asked = Cell::new(0);
    let room = |_, bytes, keep: Keep<'_>| {
        asked.set(asked.get() + bytes);
        keep(NOBODY)
    };
    import(&store, None, &mut &*whole, &room, &Monitor::default()).unwrap();
    assert_eq!(asked.get(), kept.bytes());
    assert!(kept.record_bytes >= 3 * 4096 && kept.packs as usize == owner.packs().len(), "{kept:?}");
    // 93 MiB were stored with 64 lent: records, of which there may be any number, had room without end.
    let (_dir, store) = holder();
    let full =
        import(&store, None, &mut &*whole, &|_, _, _| Err(StoreError::NotLent.into()), &Monitor::default());
    assert!(matches!(full, Err(EngineError::Store(StoreError::NotLent))), "{full:?}");
    assert!(
        ["lists", "snapshots", "heads"]
            .iter()
            .all(|dir| { std::fs::read_dir(store.dir().join(dir)).map_or(0, Iterator::count) == 0 })
    );
    // Nor does an export carry damage away in the first place.
    for part in ["lists", "snapshots"] {
        let path = std::fs::read_dir(owner.store().dir().join(part)).unwrap().next().unwrap().unwrap().path();
        let sound = std::fs::read(&path).unwrap();
        std::fs::write(&path, [&sound[..sound.len() - 1], b"?"].concat()).unwrap();
        assert!(matches!(written(&mut Vec::new()), Err(EngineError::RecordMissing(_))), "{part}");
        std::fs::write(&path, sound).unwrap();
    }
    let (id, path) = owner.packs().remove(0);
    let mut rotten = std::fs::read(&path).unwrap();
    rotten[100] ^= 1;
    std::fs::write(&path, rotten).unwrap();
    let refused = written(&mut Vec::new());
    assert!(matches!(refused, Err(EngineError::Store(StoreError::DamagedFile(_)))), "{id}: {refused:?}");
}

/// One rotten byte made an export worthless: nothing that came after it was taken in, and no history at all.
#[test]
fn of_an_export_of_the_own_vault_everything_that_is_sound_comes_back() {
    let owner = Fixture::new();
    owner.write("a", &noise(1, 300_000));
    let first = owner.backup().snapshot;
    let image = scratch();
    copy(owner.store().dir(), &image.path().join("store"));
    let before: Vec<PackId> = owner.packs().into_iter().map(|(id, _)| id).collect();
    for round in 2..4 {
        owner.write("a", &noise(round, 300_000));
        owner.backup();
    }
    let (mut whole, all) = (Vec::new(), owner.packs().len());
    export(&owner.vault, None, None, &Monitor::default(), |part| {
        whole.extend_from_slice(part);
        true
    })
    .unwrap();
    // The last ones that the image lacks: what is here already is not looked at, or not missed.
    let new = owner.packs().into_iter().map(|(id, _)| id).filter(|id| !before.contains(id));
    let pack = new.map(|id| place_of(&whole, &format!("packs/{id}"))).max().unwrap();
    let is_new = |list: &&ListRef| !image.path().join(format!("store/lists/{}", list.id)).exists();
    let lists = own_head(&owner).draft.lists;
    let list = lists.iter().find(is_new).map(|list| place_of(&whole, &format!("lists/{}", list.id))).unwrap();
    for part in ["heads/", "lists/", "snapshots/", "packs/", "its end"] {
        let dir = scratch();
        copy(&image.path().join("store"), &dir.path().join("store"));
        let older = owner.again(dir);
        let mut bytes = whole.clone();
        match part {
            "its end" => bytes.truncate(pack + 100),
            "packs/" => bytes[pack + 30] ^= 1,
            "lists/" => bytes[list + 30] ^= 1,
            part => bytes[place_of(&whole, part) + 30] ^= 1,
        }
        let (vault, room) = (Some(&older.vault), |_, _, keep: Keep<'_>| keep(NOBODY));
        let done = import(older.store(), vault, &mut &*bytes, &room, &Monitor::default()).unwrap();
        assert_eq!((done.damaged, done.faults.len()), (1, 1), "{part}: {done:?}");
        let (listed, broken) = (older.view().snapshots.len(), older.view().broken.len());
        let (snapshots, packs) = match part {
            // What was not signed for by anything that is whole is nobody's history.
            "heads/" => (1, before.len()),
            // The one of the older image is there.
            "snapshots/" => (3 - broken, all),
            "lists/" => (3, all),
            _ => (3, all - 1),
        };
        assert_eq!((listed, older.packs().len()), (snapshots, packs), "{part}: {done:?}");
        assert!(broken <= usize::from(part == "snapshots/"), "{part}");
        // What came stays, and is told to be there or missing.
        assert!(older.view().snapshots.iter().any(|one| one.id == first), "{part}");
        let is_whole = part == "heads/" || (part == "snapshots/" && broken == 0);
        assert_eq!(older.verify().is_sound(), is_whole, "{part}");
    }
}

/// A receipt counts for whom it is from.
#[test]
fn a_receipt_that_another_peer_brings_counts_for_nobody() {
    let owner = Fixture::new();
    owner.write("a", b"a");
    owner.backup();
    let (vault, key) = (owner.vault.id(), NodeKey::generate());
    let packs = owner.store().pack_files().unwrap();
    let signed = sign_receipt(&key, vault, None, &packs, Moment::from_millis(5));
    assert!(record_receipt(owner.store(), vault, PeerId::new([3; 32]), &signed).is_err());
    assert_eq!(owner.store().holders_of(packs[0]).unwrap(), []);
}
