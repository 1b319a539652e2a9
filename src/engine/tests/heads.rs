//! Heads, references to snapshots, receipts and copies.

use std::collections::HashSet;
use std::time::Duration;

use super::fixture::{Fixture, gc_options, noise};
use crate::base::{Code, Coded, HeadId, Moment, PackId, PeerId, SnapshotId, limit};
use crate::crypto::{DeviceKeys, NodeKey};
use crate::engine::signing::store_head;
use crate::engine::tests::fixture::{head_packs, newest_heads};
use crate::engine::{
    BackupOptions, EngineError, HeadNews, Monitor, VaultView, adopt_head, backup, collect, copy_counts,
    give_up_lists, lost_lists, next_head, publish_next_head, rebuild_index, record_receipt, renew_own_lists,
    resolve, verify_known_receipts,
};
use crate::snapshot::{
    Head, HeadDraft, ListRef, PackList, PackSize, SignedHead, issue_certificate, sign_receipt,
};
use crate::store::Store;

fn sign(fixture: &Fixture, draft: HeadDraft) -> (Head, Vec<u8>) {
    let keyring = &fixture.vault.keyring;
    SignedHead::sign(draft, &keyring.device, &keyring.certificate).unwrap()
}

fn newest(fixture: &Fixture) -> Vec<Head> {
    newest_heads(fixture.store(), fixture.vault.id()).unwrap()
}

/// Stores the first head of another device of the vault, which lists packs of this one and no snapshot.
pub(super) fn publish_other_head(fixture: &Fixture, packs: &[PackId]) {
    let (vault, store) = (&fixture.vault, fixture.store());
    let (admin, device) = (fixture.phrase.root().admin(), DeviceKeys::generate("other"));
    let (keys, peer) = (&vault.keyring.vault, PeerId::new([9; 32]));
    let certificate = issue_certificate(&admin, keys, &device, peer, vault.clock.now()).unwrap();
    let size = |id: &PackId| PackSize::of(store.pack_length(*id).unwrap().unwrap()).unwrap();
    let list = PackList::new(packs.iter().map(|id| (*id, size(id))).collect());
    let (id, bytes) = list.encode();
    store.publish_list(id, &bytes).unwrap();
    let lists = vec![ListRef { id, packs: packs.len() as u32, bytes: list.bytes() }];
    let draft = next_head(vault, &[], &[]).unwrap();
    let draft = HeadDraft {
        seq: 1,
        predecessor: None,
        seen: vec![],
        snapshots: vec![],
        lists,
        supersedes: vec![],
        ..draft
    };
    let (head, bytes) = SignedHead::sign(draft, &device, &certificate).unwrap();
    store.publish_head(vault.id(), device.id(), 1, head.id, &bytes).unwrap();
}

/// What this device's newest head lists.
pub(super) fn listed_by_this_device(fixture: &Fixture) -> HashSet<PackId> {
    let heads = newest(fixture);
    let head = heads.iter().find(|head| head.device() == fixture.vault.device()).unwrap();
    head_packs(fixture.store(), head).unwrap().into_iter().map(|(id, _)| id).collect()
}

#[test]
fn every_backup_adds_one_link_to_the_chain_and_lists_every_pack() {
    let fixture = Fixture::new();
    let mut previous: Option<Head> = newest(&fixture).pop();
    for round in 0..4u64 {
        fixture.write(&round.to_string(), &noise(round, 300_000));
        let done = fixture.backup();
        let heads = newest(&fixture);
        let [head] = heads.as_slice() else { panic!("one head") };
        assert_eq!(head.draft.seq, round + 2);
        assert_eq!(head.draft.predecessor, previous.as_ref().map(|head| head.id));
        assert_eq!(head.draft.snapshots.len(), round as usize + 1);
        assert_eq!(head.draft.snapshots.last(), Some(&done.snapshot));
        let mut listed: Vec<_> =
            head_packs(fixture.store(), head).unwrap().into_iter().map(|(id, _)| id).collect();
        listed.sort_unstable();
        assert_eq!(listed, fixture.store().pack_files().unwrap());
        previous = Some(head.clone());
    }
}

#[test]
fn a_lost_piece_of_the_pack_list_is_written_anew_with_the_next_head() {
    let fixture = Fixture::new();
    fixture.write("a", b"a");
    fixture.backup();
    for list in std::fs::read_dir(fixture.store().dir().join("lists")).unwrap() {
        std::fs::remove_file(list.unwrap().path()).unwrap();
    }
    let result = fixture.verify();
    assert!(!result.is_sound() && result.records.len() == 1, "{:?}", result.records);
    assert!(head_packs(fixture.store(), &newest(&fixture)[0]).is_err());
    fixture.write("b", b"b");
    fixture.backup();
    let listed = head_packs(fixture.store(), &newest(&fixture)[0]).unwrap();
    assert_eq!(listed.len(), fixture.packs().len());
    assert!(fixture.verify().is_sound());
}

/// The index was taken to know what stood in a piece that cannot be read. One that was made anew while a pack's file was away
/// does not: the pack was listed no more, and its holders let it go.
#[test]
fn a_lost_piece_of_the_pack_list_stays_named_where_the_index_may_not_know_its_packs() {
    let fixture = Fixture::new();
    fixture.write("a", &noise(1, 300_000));
    fixture.backup();
    let before = newest(&fixture).remove(0);
    let (away, path) = fixture.packs().remove(0);
    let away_bytes = std::fs::read(&path).unwrap();
    let fixture =
        fixture.reopened(|_| std::fs::remove_file(&path).unwrap(), |dir| Store::rebuild(dir).unwrap());
    rebuild_index(fixture.store(), Some(&fixture.vault.keyring.vault), &Monitor::default()).unwrap();
    assert_eq!(fixture.store().pack_by_id(away).unwrap(), None);
    let list = fixture.store().dir().join(format!("lists/{}", before.draft.lists[0].id));
    let whole = std::fs::read(&list).unwrap();
    std::fs::remove_file(&list).unwrap();
    fixture.write("b", b"b");
    fixture.backup();
    fixture.backup();
    let head = newest(&fixture).remove(0);
    assert!(head.draft.lists.contains(&before.draft.lists[0]), "nobody would know the pack any more");
    // Nothing is deleted that may be listed there, and nobody but a person gives it up.
    let collected = collect(&fixture.vault, gc_options(true), &[], None, &Monitor::default());
    assert!(matches!(collected, Err(EngineError::RootUnreadable(_))), "{collected:?}");
    assert!(!renew_own_lists(&fixture.vault, &[]).unwrap());
    assert_eq!(lost_lists(&fixture.vault).unwrap(), [before.draft.lists[0].id]);
    assert_eq!(newest(&fixture), [head]);
    // It comes back from a holder: all is listed, once.
    std::fs::write(&list, whole).unwrap();
    std::fs::write(&path, away_bytes).unwrap();
    fixture.backup();
    let listed: Vec<PackId> =
        head_packs(fixture.store(), &newest(&fixture)[0]).unwrap().into_iter().map(|(id, _)| id).collect();
    let distinct: HashSet<PackId> = listed.iter().copied().collect();
    assert!(distinct.contains(&away) && distinct.len() == listed.len());
    // From here on the index is known to have all, and a lost piece costs nothing.
    fixture.backup();
    for list in std::fs::read_dir(fixture.store().dir().join("lists")).unwrap() {
        std::fs::remove_file(list.unwrap().path()).unwrap();
    }
    assert_eq!(lost_lists(&fixture.vault).unwrap(), []);
    assert!(renew_own_lists(&fixture.vault, &[]).unwrap());
    assert!(listed_by_this_device(&fixture).contains(&away));
}

#[test]
fn a_lost_piece_of_the_pack_list_is_given_up_and_what_else_is_known_stays_listed() {
    let fixture = Fixture::new();
    fixture.write("a", &noise(1, 300_000));
    fixture.backup();
    let fixture = fixture.reopened(|_| {}, |dir| Store::rebuild(dir).unwrap());
    rebuild_index(fixture.store(), Some(&fixture.vault.keyring.vault), &Monitor::default()).unwrap();
    let lost = newest(&fixture)[0].draft.lists[0].id;
    std::fs::remove_file(fixture.store().dir().join(format!("lists/{lost}"))).unwrap();
    fixture.write("b", &noise(2, 300_000));
    fixture.backup();
    assert_eq!(lost_lists(&fixture.vault).unwrap(), [lost]);
    give_up_lists(&fixture.vault, &[lost], &[]).unwrap();
    assert_eq!(lost_lists(&fixture.vault).unwrap(), []);
    assert_eq!(listed_by_this_device(&fixture).len(), fixture.packs().len());
    collect(&fixture.vault, gc_options(true), &[], None, &Monitor::default()).unwrap();
    assert!(fixture.verify().is_sound());
}

/// Of two heads with one number only the one with the larger id counted; the other's snapshots were gone from every
/// list, and the next head forgot them for good.
#[test]
fn branches_of_one_chain_are_reported_and_joined() {
    let fixture = Fixture::new();
    fixture.write("a", b"a");
    let first = fixture.backup();
    let rolled_back = next_head(&fixture.vault, &[], &[]).unwrap();
    fixture.write("b", b"b");
    let second = fixture.backup();
    // The same device elsewhere, or before its disk was rolled back: another head with the same number.
    let other_snapshot = SnapshotId::new([7; 32]);
    let mut draft = rolled_back;
    draft.snapshots.push(other_snapshot);
    let (branch, bytes) = sign(&fixture, draft);
    assert_eq!(adopt_head(fixture.store(), &branch, &bytes).unwrap(), HeadNews::Forked);
    assert_eq!(adopt_head(fixture.store(), &branch, &bytes).unwrap(), HeadNews::Known);
    let view = fixture.view();
    assert_eq!(view.heads.len(), 2);
    let ids: Vec<_> = view.snapshots.iter().map(|snapshot| snapshot.id).collect();
    assert_eq!(ids, [first.snapshot, second.snapshot]);
    assert_eq!(view.broken.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [other_snapshot]);
    let joined = publish_next_head(&fixture.vault, &[], &[]).unwrap();
    assert_eq!(joined.draft.seq, branch.draft.seq + 1);
    for id in [first.snapshot, second.snapshot, other_snapshot] {
        assert_eq!(joined.draft.snapshots.iter().filter(|listed| **listed == id).count(), 1);
    }
    assert_eq!(newest(&fixture), [joined]);
}

#[test]
fn heads_from_elsewhere_are_adopted_in_order_only() {
    let (fixture, holder) = (Fixture::new(), Fixture::new());
    let mut sent = Vec::new();
    for round in 0..3u64 {
        fixture.write(&round.to_string(), b"x");
        fixture.backup();
        let head = newest(&fixture).remove(0);
        let (vault, device) = (head.vault(), head.device());
        let bytes = fixture.store().read_head(vault, device, head.draft.seq, head.id).unwrap().unwrap();
        sent.push((head, bytes));
    }
    let adopt = |at: usize| adopt_head(holder.store(), &sent[at].0, &sent[at].1).unwrap();
    assert_eq!(adopt(0), HeadNews::Adopted);
    assert_eq!(adopt(2), HeadNews::Adopted, "a gap is no fork");
    assert_eq!((adopt(1), adopt(0), adopt(2)), (HeadNews::Known, HeadNews::Known, HeadNews::Known));
    assert_eq!(newest_heads(holder.store(), fixture.vault.id()).unwrap(), [sent[2].0.clone()]);
}

/// The newest snapshot was cut off a full head, and the backup reported success.
#[test]
fn a_head_that_is_full_fails_the_backup_instead_of_dropping_it() {
    let fixture = Fixture::new();
    let mut draft = next_head(&fixture.vault, &[], &[]).unwrap();
    let id = |i: usize| SnapshotId::new(*blake3::hash(&i.to_le_bytes()).as_bytes());
    draft.snapshots = (0..limit::HEAD_SNAPSHOTS_MAX).map(id).collect();
    store_head(&fixture.vault, draft).unwrap();
    fixture.write("a", b"a");
    assert!(fixture.try_backup(&Monitor::default()).is_err());
    assert_eq!(newest(&fixture)[0].draft.seq, 2);
}

#[test]
fn references_name_one_snapshot_or_none() {
    let fixture = Fixture::new();
    let mut taken = Vec::new();
    for round in 0..3u64 {
        fixture.write("a", &noise(round, 10));
        taken.push(fixture.backup().snapshot);
    }
    let mut view = fixture.view();
    let found = |view: &VaultView, text: &str| resolve(view, text).map(|snapshot| snapshot.id);
    assert_eq!(found(&view, "latest").unwrap(), taken[2]);
    assert_eq!(found(&view, "latest~0").unwrap(), taken[2]);
    assert_eq!(found(&view, "latest~2").unwrap(), taken[0]);
    let text = taken[1].to_string();
    for length in [8, 12, 64] {
        assert_eq!(found(&view, &text[..length]).unwrap(), taken[1]);
        assert_eq!(found(&view, &text[..length].to_uppercase()).unwrap(), taken[1]);
    }
    let nonsense = [
        "",
        "lat",
        "latest~",
        "latest~3",
        "latest~-1",
        "latest~+1",
        "latest~18446744073709551615",
        "latest~99999999999999999999",
        "latestt",
        "abc",
        "zzzz",
        "....",
        "é́éé",
        "0000000000000",
    ];
    for text in nonsense.into_iter().chain([text[..3].to_owned(), format!("{text}0")].iter().map(|s| &**s)) {
        let error = resolve(&view, text).unwrap_err();
        assert_eq!(error.code(), Code::SnapshotNotFound, "{text:?}");
    }
    for (last, snapshot) in view.snapshots.iter_mut().enumerate() {
        let mut id = [0xab; 32];
        id[31] = last as u8;
        snapshot.id = SnapshotId::new(id);
    }
    match resolve(&view, "ABAB") {
        Err(EngineError::SnapshotAmbiguous { candidates, .. }) => assert_eq!(candidates.len(), 3),
        other => panic!("{:?}", other.map(|snapshot| snapshot.id)),
    }
}

#[test]
fn copies_are_receipts_of_distinct_holders_for_everything() {
    let fixture = Fixture::new();
    fixture.write("a", &noise(1, 700_000));
    let done = fixture.backup();
    let (store, vault) = (fixture.store(), fixture.vault.id());
    let head = newest(&fixture).remove(0);
    let packs = store.pack_files().unwrap();
    assert!(packs.len() >= 2);
    let copies = |fixture: &Fixture| {
        copy_counts(&fixture.vault, &fixture.view(), |_| true).unwrap().of_snapshot(done.snapshot)
    };
    let keys: Vec<NodeKey> = (0..3).map(|_| NodeKey::generate()).collect();
    let receive = |key: &NodeKey, head: Option<HeadId>, packs: &[_]| {
        let signed = sign_receipt(key, vault, head, packs, Moment::from_millis(5));
        record_receipt(store, vault, key.peer_id(), &signed)
    };
    assert_eq!(copies(&fixture), 0);
    receive(&keys[0], Some(head.id), &packs[..1]).unwrap();
    assert_eq!(copies(&fixture), 0, "one pack is not there");
    receive(&keys[1], None, &packs).unwrap();
    assert_eq!(copies(&fixture), 1, "the packs with one, the records with the other");
    receive(&keys[0], None, &packs[1..]).unwrap();
    assert_eq!(copies(&fixture), 1, "the second holder lacks the records");
    receive(&keys[1], Some(head.id), &[]).unwrap();
    assert_eq!(copies(&fixture), 2);
    receive(&keys[1], Some(head.id), &packs).unwrap();
    assert_eq!(copies(&fixture), 2, "the same holder twice is one");
    // An endless exchange of offers and receipts kept each of them.
    for head in [Some(head.id), Some(HeadId::new([1; 32])), None] {
        assert!(receive(&keys[1], head, &[]).unwrap().is_none(), "{head:?} is no news");
    }
    // A head that is not known counts for nothing.
    receive(&keys[2], Some(HeadId::new([1; 32])), &packs).unwrap();
    assert_eq!(copies(&fixture), 2);
    // Someone else's receipt, or for another vault.
    let signed = sign_receipt(&keys[0], vault, None, &packs, Moment::default());
    assert!(record_receipt(store, vault, PeerId::new([9; 32]), &signed).is_err());
    assert!(record_receipt(store, crate::base::VaultId::new([9; 32]), keys[0].peer_id(), &signed).is_err());
    // Receipts are files: the index can be lost.
    for key in &keys {
        store.drop_receipts(key.peer_id()).unwrap();
    }
    assert_eq!(copies(&fixture), 0);
    assert_eq!(verify_known_receipts(store).unwrap(), Vec::<String>::new());
    assert_eq!(copies(&fixture), 2);
    // What was found lost is not there again with the files, but with a newer word of the holder.
    for key in &keys[1..] {
        store.drop_pack_receipts(key.peer_id(), &packs[..1]).unwrap();
    }
    assert_eq!(copies(&fixture), 1);
    assert_eq!(verify_known_receipts(store).unwrap(), Vec::<String>::new());
    assert_eq!(copies(&fixture), 1);
    let later = crate::base::Moment::from_millis(u64::MAX / 2);
    let signed = sign_receipt(&keys[1], vault, Some(head.id), &packs[..1], later);
    record_receipt(store, vault, keys[1].peer_id(), &signed).unwrap();
    assert_eq!(copies(&fixture), 2);
    assert_eq!(verify_known_receipts(store).unwrap(), Vec::<String>::new());
    assert_eq!(copies(&fixture), 2);
    // A new snapshot has no copies yet; the old one keeps its own.
    fixture.write("b", &noise(2, 1000));
    let next = fixture.backup();
    let counts = copy_counts(&fixture.vault, &fixture.view(), |_| true).unwrap();
    assert_eq!((counts.of_snapshot(done.snapshot), counts.of_snapshot(next.snapshot)), (2, 0));
}

/// One missing pack of one snapshot made the copies of all snapshots unknown.
#[test]
fn copies_can_be_counted_while_packs_are_missing() {
    use crate::engine::rebuild_index;
    use crate::store::Store;
    let fixture = Fixture::new();
    fixture.write("a", &noise(1, 1000));
    let first = fixture.backup();
    let kept = fixture.store().pack_files().unwrap();
    fixture.write("b", &noise(2, 1000));
    let second = fixture.backup();
    // A fresh index does not know yet what the snapshots need.
    let fixture = fixture.reopened(|_| {}, |path| Store::rebuild(path).unwrap());
    rebuild_index(fixture.store(), Some(&fixture.vault.keyring.vault), &Monitor::default()).unwrap();
    let key = NodeKey::generate();
    let (vault, head) = (fixture.vault.id(), newest(&fixture).remove(0));
    let packs = fixture.store().pack_files().unwrap();
    let confirm = |packs: &[PackId], time| {
        let signed = sign_receipt(&key, vault, Some(head.id), packs, Moment::from_millis(time));
        record_receipt(fixture.store(), vault, key.peer_id(), &signed).unwrap();
    };
    confirm(&kept, 5);
    for (id, path) in fixture.packs() {
        if !kept.contains(&id) {
            std::fs::remove_file(path).unwrap();
        }
    }
    let counted = || {
        let counts = copy_counts(&fixture.vault, &fixture.view(), |_| true).unwrap();
        (counts.of_snapshot(first.snapshot), counts.of_snapshot(second.snapshot))
    };
    assert_eq!(counted(), (1, 0));
    // What the second one needs is not known, but its holder has all that the head lists.
    confirm(&packs, 6);
    assert_eq!(counted(), (1, 1));
}

/// Holders pull only what a head lists: without heads on the way, the first copy of a long backup could begin only
/// at its end.
#[test]
fn a_long_backup_publishes_heads_on_the_way() {
    let fixture = Fixture::new();
    fixture.write("random", &noise(1, 40 << 20));
    let options = BackupOptions { checkpoint_every: Some(Duration::ZERO), ..fixture.options() };
    let done = backup(&fixture.vault, &options, &Monitor::default()).unwrap();
    let (vault, device) = (fixture.vault.id(), fixture.vault.device());
    let names = fixture.store().head_names(vault, device).unwrap();
    let read = |(seq, id): &(u64, HeadId)| {
        SignedHead::verify(&fixture.store().read_head(vault, device, *seq, *id).unwrap().unwrap()).unwrap()
    };
    let heads: Vec<Head> = names.iter().map(read).collect();
    let (last, before) = heads.split_first().unwrap();
    assert!(!last.draft.checkpoint && last.draft.snapshots == [done.snapshot]);
    assert!(before.iter().any(|head| head.draft.checkpoint));
    for head in before {
        assert!(head.draft.snapshots.is_empty());
        assert_eq!(head.draft.checkpoint, !head_packs(fixture.store(), head).unwrap().is_empty());
    }
}
