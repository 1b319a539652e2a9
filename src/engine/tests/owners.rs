//! Owners that mean harm, seen from a holder: heads that list without end, devices without number.

use std::io::{self, Cursor, Read};

use tar::{Builder, Header};

use super::fixture::{in_own_process, peak_bytes, scratch};
use crate::base::{DeviceId, Epoch, HeadId, ListId, Moment, PackId, PeerId, SnapshotId, VaultId, limit};
use crate::crypto::{DeviceKeys, Phrase};
use crate::engine::holder::{HolderError, accept_head, missing_records, wanted_packs};
use crate::engine::{
    EngineError, Monitor, adopt_head, complete_head, damaged_records, drop_expired, import, newest_heads,
    rebuild_index, store_list, unreadable_heads,
};
use crate::snapshot::{Head, HeadDraft, ListRef, PackList, PackSize, SignedHead, issue_certificate};
use crate::store::{NOBODY, Store};
use crate::wire;

/// A vault whose owner signs whatever it likes.
struct Owner(Phrase);

impl Owner {
    fn new() -> Self {
        Self(Phrase::generate())
    }

    fn vault(&self) -> VaultId {
        self.0.root().admin().vault()
    }

    /// The first head of a new device.
    fn head(&self, lists: Vec<ListRef>, snapshots: Vec<SnapshotId>) -> (Head, Vec<u8>) {
        let (device, certificate) = self.device();
        SignedHead::sign(draft(lists, snapshots), &device, &certificate).unwrap()
    }

    fn device(&self) -> (DeviceKeys, wire::Signed) {
        let (root, device) = (self.0.root(), DeviceKeys::generate("d"));
        let (keys, peer) = (root.vault_keys(Epoch(0)), PeerId::new([1; 32]));
        let certificate = issue_certificate(&root.admin(), &keys, &device, peer, Moment::default()).unwrap();
        (device, certificate)
    }
}

fn draft(lists: Vec<ListRef>, snapshots: Vec<SnapshotId>) -> HeadDraft {
    HeadDraft {
        seq: 1,
        predecessor: None,
        seen: vec![],
        snapshots,
        lists,
        copies: 1,
        holders: vec![],
        time: Moment::default(),
        epoch: Epoch(0),
        checkpoint: false,
        inherited: vec![],
        carried: vec![],
        supersedes: vec![],
    }
}

fn holder() -> (tempfile::TempDir, Store) {
    let dir = scratch();
    let store = Store::create(&dir.path().join("s")).unwrap();
    (dir, store)
}

fn hash(number: usize) -> [u8; 32] {
    *blake3::hash(&number.to_le_bytes()).as_bytes()
}

/// A head of a new device that names as much as one may, nothing of which another names.
fn long_head(owner: &Owner, number: usize) -> (Head, Vec<u8>) {
    let ids = |count: usize, kind: usize| (0..count).map(move |n| hash((number * 2 + kind) << 32 | n));
    let list = |id| ListRef { id: ListId::new(id), packs: 4096, bytes: 1 };
    let lists = ids(limit::HEAD_LISTS_MAX, 0).map(list).collect();
    let (head, bytes) = owner.head(lists, ids(limit::HEAD_SNAPSHOTS_MAX, 1).map(SnapshotId::new).collect());
    assert!(bytes.len() > 850_000);
    (head, bytes)
}

/// Parts of a file that are made when they are read.
struct Parts<I>(I, Cursor<Vec<u8>>);

impl<I: Iterator<Item = Vec<u8>>> Read for Parts<I> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match (self.1.read(into)?, into.is_empty()) {
                (0, false) => match self.0.next() {
                    Some(part) => self.1 = Cursor::new(part),
                    None => return Ok(0),
                },
                (read, _) => return Ok(read),
            }
        }
    }
}

fn member(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut archive = Builder::new(Vec::new());
    let mut header = Header::new_ustar();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o600);
    archive.append_data(&mut header, name, bytes).unwrap();
    // Without the end that a whole archive has.
    let mut bytes = archive.into_inner().unwrap();
    bytes.truncate(bytes.len() - 1024);
    bytes
}

fn take(store: &Store, input: &mut dyn Read) -> Result<(), EngineError> {
    import(store, None, input, &|_, _, keep| keep(NOBODY), &Monitor::default()).map(|_| ())
}

/// It took 447 MiB and over 100 s: all heads were held, and each record was looked for in each of them.
#[test]
fn an_import_of_two_hundred_long_heads_stays_in_bounds() {
    if !in_own_process("engine::tests::owners::an_import_of_two_hundred_long_heads_stays_in_bounds") {
        return;
    }
    let (owner, (_dir, store)) = (Owner::new(), holder());
    let records = (0..500).map(|n: usize| vec![n as u8; limit::RECORD_BYTES]);
    let records: Vec<(SnapshotId, Vec<u8>)> =
        records.map(|bytes| (SnapshotId::new(*blake3::hash(&bytes).as_bytes()), bytes)).collect();
    let last = owner.head(vec![], records[..256].iter().map(|(id, _)| *id).collect());
    let first = member("shadowvault-export-1", owner.vault().to_string().as_bytes());
    let heads = (0..200).map(|number| long_head(&owner, number)).chain([last]);
    let heads = heads.map(|(head, bytes)| member(&format!("heads/{}", head.id), &bytes));
    let records = records[..256].iter().map(|(id, bytes)| member(&format!("snapshots/{id}"), bytes));
    let mut input = Parts([first].into_iter().chain(heads).chain(records), Cursor::default());
    let refused = take(&store, &mut input).unwrap_err();
    assert!(refused.to_string().contains("records of a head"), "{refused}");
    assert_eq!(store.head_devices(owner.vault()).unwrap(), []);
    assert!(peak_bytes() < 128 << 20, "{} MiB", peak_bytes() >> 20);
}

/// Eight questions about a vault of 143 devices took 1,259 MiB, as all heads were loaded to tell their numbers.
#[test]
fn questions_about_a_vault_of_long_heads_stay_in_bounds() {
    if !in_own_process("engine::tests::owners::questions_about_a_vault_of_long_heads_stay_in_bounds") {
        return;
    }
    let (owner, (_dir, store)) = (Owner::new(), holder());
    let mut last = None;
    for number in 0..60 {
        let (head, bytes) = long_head(&owner, number);
        store.publish_head(owner.vault(), head.device(), 1, head.id, &bytes).unwrap();
        last = Some(head.id);
    }
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(newest_heads(&store, owner.vault()).unwrap().count(), 60));
        }
    });
    assert!(complete_head(&store, owner.vault(), last.unwrap()).unwrap().is_none());
    assert!(peak_bytes() < 96 << 20, "{} MiB", peak_bytes() >> 20);
}

/// Lists that are all different and list the same packs again and again: 412 MiB for 3,000 of them.
#[test]
fn the_packs_of_a_head_pass_by_one_list_at_a_time() {
    if !in_own_process("engine::tests::owners::the_packs_of_a_head_pass_by_one_list_at_a_time") {
        return;
    }
    let (owner, (_dir, store)) = (Owner::new(), holder());
    let size = PackSize::of(128 << 10).unwrap();
    let packs: Vec<(PackId, PackSize)> =
        (0..limit::LIST_PACKS_MAX).map(|n| (PackId::new(hash(n)), size)).collect();
    let lists = (0..600).map(|number: usize| {
        let mut packs = packs.clone();
        packs[0].0 = PackId::new(hash(1 << 40 | number));
        let (id, bytes) = PackList::new(packs).encode();
        store_list(&store, id, &bytes).unwrap();
        ListRef { id, packs: 4096, bytes: 1 }
    });
    let (head, bytes) = owner.head(lists.collect(), vec![]);
    assert!(missing_records(&store, &head).unwrap().is_empty());
    adopt_head(&store, &head, &bytes).unwrap();
    let offered = [packs[7].0, PackId::new([9; 32])];
    assert_eq!(wanted_packs(&store, &head, &offered).unwrap(), [(offered[0], size)]);
    drop_expired(&store, None, limit::GC_GRACE, limit::GC_GRACE).unwrap();
    rebuild_index(&store, None, &Monitor::default()).unwrap();
    assert!(peak_bytes() < 80 << 20, "{} MiB", peak_bytes() >> 20);
}

/// What an older version took in and stored ended each start.
#[test]
fn a_stored_head_that_names_a_list_twice_is_passed_over_and_told_of() {
    let (owner, (_dir, store)) = (Owner::new(), holder());
    let (device, certificate) = owner.device();
    let list = wire::ListRef { id: vec![3; 32], packs: 1, bytes: 1 };
    let body = wire::Head {
        version: 1,
        vault: owner.vault().as_bytes().to_vec(),
        device: device.id().as_bytes().to_vec(),
        seq: 1,
        lists: vec![list; 3000],
        ..wire::Head::default()
    };
    let head =
        crate::crypto::sign(&device, crate::crypto::Context::Head, prost::Message::encode_to_vec(&body));
    let signed = wire::SignedHead { head: Some(head), certificate: Some(certificate) };
    let bytes = prost::Message::encode_to_vec(&signed);
    let id = HeadId::new(*blake3::hash(&bytes).as_bytes());
    let refused = accept_head(&store, owner.vault(), id, &bytes);
    assert!(matches!(refused, Err(HolderError::Head(_))), "{refused:?}");
    let parts = [
        member("shadowvault-export-1", owner.vault().to_string().as_bytes()),
        member(&format!("heads/{id}"), &bytes),
    ];
    assert!(take(&store, &mut Parts(parts.into_iter(), Cursor::default())).is_err());
    assert!(store.head_vaults().unwrap().is_empty(), "nothing is stored of it");

    store.publish_head(owner.vault(), device.id(), 1, id, &bytes).unwrap();
    rebuild_index(&store, None, &Monitor::default()).unwrap();
    drop_expired(&store, None, limit::GC_GRACE, limit::GC_GRACE).unwrap();
    assert_eq!(damaged_records(&store, &Monitor::default()).unwrap().len(), 1);
    assert_eq!(newest_heads(&store, owner.vault()).unwrap().count(), 0);
    assert_eq!(unreadable_heads(&store, owner.vault()).unwrap().len(), 1);
}

/// The bound on devices stood in a table and nowhere else.
#[test]
fn a_vault_has_no_more_devices_than_it_may_have() {
    let (owner, (_dir, store)) = (Owner::new(), holder());
    let (vault, junk) = (owner.vault(), HeadId::new([1; 32]));
    for number in 1..limit::VAULT_DEVICES_MAX {
        store.publish_head(vault, DeviceId::new(hash(number)), 1, junk, b"junk").unwrap();
    }
    let (last, bytes) = owner.head(vec![], vec![]);
    accept_head(&store, vault, last.id, &bytes).unwrap();
    adopt_head(&store, &last, &bytes).unwrap();
    let (over, more) = owner.head(vec![], vec![]);
    assert!(matches!(accept_head(&store, vault, over.id, &more), Err(HolderError::TooManyDevices)));
    let refused = adopt_head(&store, &over, &more).unwrap_err();
    assert!(refused.to_string().contains("device revoke"), "{refused}");
    // Those that are there go on, and one that went makes room.
    assert!(accept_head(&store, vault, last.id, &bytes).is_ok());
    store.remove_head(vault, DeviceId::new(hash(1)), 1, junk).unwrap();
    adopt_head(&store, &over, &more).unwrap();
}
