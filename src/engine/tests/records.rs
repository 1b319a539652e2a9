//! Heads, pack lists and snapshot records that rot or vanish: found, got again by their names, given up.

use std::collections::HashMap;
use std::path::PathBuf;

use super::fixture::{Fixture, gc_options, holder, noise};
use super::keeping;
use crate::base::{Code, Coded, Moment, PeerId, VaultId};
use crate::crypto::NodeKey;
use crate::engine::tests::fixture::newest_heads;
use crate::engine::{
    EngineError, Monitor, RecordDamage, RecordFault, RecordRepair, RecordSource, collect, complete_head,
    copy_counts, damaged_records, forget_lost, named_by, plan_lost, record_receipt, records_to_ask,
    renew_own_lists, repair_records, resolve, resolve_listed, verify_known_receipts, void_head_receipt,
};
use crate::snapshot::{Head, PackList, sign_receipt};
use crate::store::{RecordName, Store};

/// Copies of all records of a store, at one peer; with `rot` each has a wrong byte there.
struct Kept {
    records: HashMap<[u8; 32], Vec<u8>>,
    rot: bool,
}

impl Kept {
    fn of(fixture: &Fixture) -> Self {
        let records =
            files(fixture).into_iter().map(|(record, path)| (*record.hash(), std::fs::read(path).unwrap()));
        Self { records: records.collect(), rot: false }
    }

    fn nothing() -> Self {
        Self { records: HashMap::new(), rot: false }
    }
}

impl RecordSource for Kept {
    fn ask(&self, _: VaultId, record: &RecordName, take: &mut dyn FnMut(PeerId, &[u8]) -> bool) -> String {
        let Some(bytes) = self.records.get(record.hash()) else { return "it has none".to_owned() };
        let mut bytes = bytes.clone();
        bytes[7] ^= u8::from(self.rot);
        if take(holder(0), &bytes) { String::new() } else { "it sent something else".to_owned() }
    }
}

/// Every record of the vault's newest heads, the heads themselves first, and where its file lies.
fn files(fixture: &Fixture) -> Vec<(RecordName, PathBuf)> {
    let dir = fixture.store().dir();
    let mut all = Vec::new();
    for head in newest(fixture) {
        all.push((name_of(&head), head_path(fixture, &head)));
        all.extend(named_by(&head).map(|record| {
            let path = match record {
                RecordName::List(id) => dir.join("lists").join(id.to_string()),
                RecordName::Snapshot(id) => dir.join("snapshots").join(id.to_string()),
                RecordName::Head { .. } => unreachable!("a head names lists and records"),
            };
            (record, path)
        }));
    }
    all
}

fn head_path(fixture: &Fixture, head: &Head) -> PathBuf {
    let dir = fixture.store().dir().join(format!("heads/{}/{}", head.vault(), head.device()));
    dir.join(format!("{:016x}-{}", head.draft.seq, head.id))
}

fn name_of(head: &Head) -> RecordName {
    RecordName::Head { vault: head.vault(), device: head.device(), seq: head.draft.seq, id: head.id }
}

fn newest(fixture: &Fixture) -> Vec<Head> {
    newest_heads(fixture.store(), fixture.vault.id()).unwrap()
}

fn damages(store: &Store) -> Vec<RecordDamage> {
    damaged_records(store, &Monitor::default()).unwrap()
}

fn repair(store: &Store, source: &Kept) -> RecordRepair {
    repair_records(store, damages(store), source, &Monitor::default()).unwrap()
}

/// A vault with two snapshots.
fn two_snapshots() -> Fixture {
    let fixture = Fixture::new();
    for round in 0..2u8 {
        fixture.write(&round.to_string(), &noise(u64::from(round), 300_000));
        fixture.backup();
    }
    fixture
}

/// A snapshot whose record had rotted was neither listed nor restorable for good, although a connected holder had it: no
/// repair looked at anything but packs.
#[test]
fn every_damaged_or_missing_record_is_found_and_comes_back_by_its_name() {
    let fixture = two_snapshots();
    let (kept, store) = (Kept::of(&fixture), fixture.store());
    for (record, path) in files(&fixture) {
        let whole = std::fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        let longer = [whole.as_slice(), b"more"].concat();
        let huge = vec![0; 8 << 20];
        for bad in [Some(flipped), Some(vec![]), Some(longer), Some(huge), None] {
            match &bad {
                Some(bad) => std::fs::write(&path, bad).unwrap(),
                // That a head was there is known from holders only.
                None if matches!(record, RecordName::Head { .. }) => continue,
                None => std::fs::remove_file(&path).unwrap(),
            }
            let fault = if bad.is_none() { RecordFault::Missing } else { RecordFault::Damaged };
            let found = damages(store);
            assert_eq!(
                found.iter().map(|one| (one.record, one.fault.clone())).collect::<Vec<_>>(),
                [(record, fault)]
            );
            assert!(!fixture.verify().is_sound());
            // Nobody has it, or only rot: nothing changes.
            for useless in [Kept::nothing(), Kept { rot: true, ..Kept::of_records(&kept) }] {
                let done = repair(store, &useless);
                assert!(done.repaired.is_empty() && done.failed.len() == 1, "{record}: {done:?}");
                assert_eq!(std::fs::read(&path).ok(), bad);
            }
            let done = repair(store, &kept);
            assert_eq!((done.repaired.len(), done.failed.len()), (1, 0), "{record}: {done:?}");
            assert_eq!(std::fs::read(&path).unwrap(), whole);
            assert!(damages(store).is_empty() && fixture.verify().is_sound());
        }
    }
    // What was damaged is set aside, not deleted; a missing file leaves nothing.
    let aside = std::fs::read_dir(store.dir().join("quarantine")).unwrap().count();
    assert_eq!(aside, 4 * files(&fixture).len());
    assert!(store.quarantined().unwrap().is_empty(), "no pack is among them");
    assert_eq!(store.clear_quarantine(Moment::from_millis(u64::MAX)).unwrap().0, aside as u64);
}

impl Kept {
    fn of_records(other: &Self) -> Self {
        Self { records: other.records.clone(), rot: false }
    }
}

/// A head that a holder has confirmed and whose file is gone: the one before it counted as the newest, in silence.
#[test]
fn a_lost_head_that_a_holder_confirmed_is_known_and_brings_what_it_names() {
    let fixture = two_snapshots();
    let (kept, store) = (Kept::of(&fixture), fixture.store());
    let head = newest(&fixture).remove(0);
    let key = NodeKey::generate();
    let signed = sign_receipt(&key, fixture.vault.id(), Some(head.id), &[], Moment::from_millis(5));
    record_receipt(store, fixture.vault.id(), key.peer_id(), &signed).unwrap().unwrap();
    assert!(damages(store).is_empty());
    std::fs::remove_file(head_path(&fixture, &head)).unwrap();
    let newest_snapshot = *head.draft.snapshots.last().unwrap();
    std::fs::remove_file(store.dir().join(format!("snapshots/{newest_snapshot}"))).unwrap();
    let found = damages(store);
    assert_eq!(found.len(), 1, "what it names is not known as long as it is not here: {found:?}");
    assert_eq!((found[0].record, &found[0].fault), (name_of(&head), &RecordFault::Missing));
    let done = repair(store, &kept);
    assert_eq!((done.repaired.len(), done.failed.len()), (2, 0), "{done:?}");
    assert_eq!(newest(&fixture), [head]);
    assert!(fixture.verify().is_sound());
}

#[test]
fn a_holder_without_keys_finds_and_mends_what_it_keeps_and_confirms_no_head_before() {
    let owner = two_snapshots();
    let holder = Fixture::new();
    let (kept, store, vault) = (Kept::of(&owner), holder.store(), owner.vault.id());
    let head = newest(&owner).remove(0);
    store
        .publish_head(vault, head.device(), head.draft.seq, head.id, &kept.records[head.id.as_bytes()])
        .unwrap();
    // As after a loss of everything but the head: whoever has the records gives them.
    assert!(complete_head(store, vault, head.id).unwrap().is_none());
    let done = repair(store, &kept);
    assert_eq!(done.repaired.len(), head.draft.lists.len() + head.draft.snapshots.len());
    assert!(complete_head(store, vault, head.id).unwrap().is_some());
    let record = store.dir().join(format!("snapshots/{}", head.draft.snapshots[0]));
    let mut bytes = std::fs::read(&record).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&record, bytes).unwrap();
    assert!(complete_head(store, vault, head.id).unwrap().is_none(), "it is not said to be here");
    let found = damages(store);
    assert_eq!(found.iter().map(|one| one.vault).collect::<Vec<_>>(), [vault]);
    repair(store, &kept);
    assert!(complete_head(store, vault, head.id).unwrap().is_some());
}

/// One lost file of some hundred bytes at the only holder made every snapshot unrestorable, though all packs were there.
#[test]
fn a_pack_list_that_nobody_has_is_made_again_from_the_packs_that_are_kept() {
    let ((_dir, store), owner) = (keeping::holder(), Fixture::new());
    let mut round = 0u8;
    // Small pieces are joined now and then.
    let head = loop {
        owner.write(&round.to_string(), &noise(u64::from(round), 300_000));
        owner.backup();
        keeping::replicate(&store, &owner);
        let head = newest(&owner).remove(0);
        if round > 2 && head.draft.lists.len() > 1 {
            break head;
        }
        round += 1;
    };
    let lists: Vec<PathBuf> =
        head.draft.lists.iter().map(|list| store.dir().join(format!("lists/{}", list.id))).collect();
    assert!(lists.len() > 1, "{lists:?}");
    let whole: Vec<Vec<u8>> = lists.iter().map(|path| std::fs::read(path).unwrap()).collect();
    std::fs::write(&lists[0], b"rot").unwrap();
    lists[1..].iter().for_each(|path| std::fs::remove_file(path).unwrap());
    let done = repair(&store, &Kept::nothing());
    assert_eq!((done.remade.len(), done.failed.len()), (lists.len(), 0), "{done:?}");
    assert_eq!(done.remade, done.repaired);
    let again: Vec<Vec<u8>> = lists.iter().map(|path| std::fs::read(path).unwrap()).collect();
    assert!(again == whole && damages(&store).is_empty());
    // Nothing is guessed: without one of its packs a piece stays lost.
    lists[..2].iter().for_each(|path| std::fs::remove_file(path).unwrap());
    let lost = PackList::decode(&whole[0]).unwrap().packs()[0].0;
    let number = store.pack_by_id(lost).unwrap().unwrap().number;
    store.drop_foreign(owner.vault.id(), &[number]).unwrap();
    let done = repair(&store, &Kept::nothing());
    assert_eq!((done.remade.len(), done.failed.len()), (1, 1), "{done:?}");
    assert_eq!(done.failed[0].0.record, RecordName::List(head.draft.lists[0].id));
}

#[test]
fn an_own_pack_list_that_nobody_has_is_written_anew() {
    let fixture = two_snapshots();
    let store = fixture.store();
    assert!(!renew_own_lists(&fixture.vault, &[]).unwrap(), "nothing is wrong");
    for list in &newest(&fixture)[0].draft.lists {
        std::fs::remove_file(store.dir().join(format!("lists/{}", list.id))).unwrap();
    }
    assert!(!repair(store, &Kept::nothing()).failed.is_empty());
    assert!(renew_own_lists(&fixture.vault, &[]).unwrap());
    assert!(damages(store).is_empty() && fixture.verify().is_sound());
}

#[test]
fn a_snapshot_that_cannot_be_read_is_named_and_never_passed_over_as_the_latest() {
    let fixture = two_snapshots();
    let view = fixture.view();
    let [first, second] = [view.snapshots[0].id, view.snapshots[1].id];
    let path = |id| fixture.store().dir().join(format!("snapshots/{id}"));
    let whole = std::fs::read(path(second)).unwrap();
    std::fs::remove_file(path(second)).unwrap();
    let view = fixture.view();
    match resolve(&view, &second.to_string()[..8]) {
        Err(error @ EngineError::SnapshotBroken { .. }) => {
            assert_eq!(error.code(), Code::SnapshotCorrupted);
            assert!(error.hint().unwrap().contains(&format!("forget {} --lost", second.short())));
        }
        other => panic!("{:?}", other.map(|snapshot| snapshot.id)),
    }
    assert_eq!(resolve_listed(&view, &second.to_string()).unwrap(), second);
    assert_eq!(resolve(&view, &first.to_string()).unwrap().id, first);
    for reference in ["latest", "latest~1"] {
        let error = resolve(&view, reference).unwrap_err();
        assert!(
            matches!(&error, EngineError::LatestUncertain(all) if *all == [second]),
            "{reference}: {error}"
        );
    }
    // One that is surely older changes nothing.
    std::fs::write(path(second), whole).unwrap();
    std::fs::remove_file(path(first)).unwrap();
    let view = fixture.view();
    assert_eq!(resolve(&view, "latest").unwrap().id, second);
    assert!(resolve(&view, "latest~1").is_err());
}

/// With one record lost everywhere nothing was ever deleted again, and no command led out.
#[test]
fn a_lost_snapshot_is_given_up_and_only_a_lost_one() {
    let fixture = two_snapshots();
    let view = fixture.view();
    let [first, second] = [view.snapshots[0].id, view.snapshots[1].id];
    let refused = |id, view: &_| {
        let planned = plan_lost(&fixture.vault, view, &[id]);
        let done = forget_lost(&fixture.vault, &[id], &[]);
        matches!(planned, Err(EngineError::NotLost(one)) if one == id)
            && matches!(done, Err(EngineError::NotLost(one)) if one == id)
    };
    assert!(refused(first, &view) && refused(second, &view), "both can be read");
    std::fs::write(fixture.store().dir().join(format!("snapshots/{first}")), b"rot").unwrap();
    let gc = || collect(&fixture.vault, gc_options(true), &[], None, &Monitor::default());
    match gc() {
        Err(error @ EngineError::RootBroken { .. }) => {
            let hint = error.hint().unwrap();
            assert!(
                hint.contains("repair") && hint.contains(&format!("forget {} --lost", first.short())),
                "{hint}"
            );
        }
        other => panic!("{other:?}"),
    }
    let view = fixture.view();
    assert!(refused(second, &view), "it can be read");
    assert_eq!(newest(&fixture)[0].draft.snapshots, [first, second], "nothing was forgotten so far");
    let plan = plan_lost(&fixture.vault, &view, &[first]).unwrap();
    assert_eq!((plan.forget, plan.keep), (vec![first], vec![(second, vec![])]));
    assert_eq!(forget_lost(&fixture.vault, &[first], &[]).unwrap(), 1);
    assert_eq!(newest(&fixture)[0].draft.snapshots, [second]);
    assert!(damages(fixture.store()).is_empty() && fixture.verify().is_sound());
    gc().unwrap();
    let last = fixture.view().snapshots.remove(0);
    assert_eq!(last.id, second);
    let target = fixture.dir.path().join("out");
    assert_eq!(fixture.restore_path(&last, &fixture.src(), "out", None).2.problems().1, []);
    assert_eq!(std::fs::read(target.join("0")).unwrap(), noise(0, 300_000));
}

/// Whether a holder still has the records of a head was never asked: what it said once counted for ever.
#[test]
fn what_a_holder_said_of_a_head_can_be_voided_and_said_again() {
    let fixture = two_snapshots();
    let (store, vault) = (fixture.store(), fixture.vault.id());
    let head = newest(&fixture).remove(0);
    let packs = store.pack_files().unwrap();
    let key = NodeKey::generate();
    let receive = |at: u64| {
        let signed = sign_receipt(&key, vault, Some(head.id), &packs, Moment::from_millis(at));
        record_receipt(store, vault, key.peer_id(), &signed).unwrap();
    };
    let copies = || {
        let counts = copy_counts(&fixture.vault, &fixture.view(), |_| true).unwrap();
        counts.of_snapshot(head.draft.snapshots[0])
    };
    receive(5);
    assert_eq!(copies(), 1);
    assert!(!void_head_receipt(store, PeerId::new([9; 32]), head.id).unwrap(), "that one said nothing");
    assert!(void_head_receipt(store, key.peer_id(), head.id).unwrap());
    assert_eq!(copies(), 0);
    assert!(!void_head_receipt(store, key.peer_id(), head.id).unwrap());
    // Not with an index that is made anew, but with a newer word; the packs counted all the time.
    store.drop_receipts(key.peer_id()).unwrap();
    verify_known_receipts(store).unwrap();
    assert_eq!(copies(), 0);
    assert!(store.holders_of(packs[0]).unwrap().contains(&key.peer_id()));
    receive(6);
    assert_eq!(copies(), 1);
    verify_known_receipts(store).unwrap();
    assert_eq!(copies(), 1);
}

#[test]
fn an_audit_asks_for_every_record_of_a_head_in_time_and_for_no_other() {
    let fixture = two_snapshots();
    let head = newest(&fixture).remove(0);
    let all: std::collections::BTreeSet<RecordName> = named_by(&head).chain([name_of(&head)]).collect();
    let mut asked = std::collections::BTreeSet::new();
    for seed in 0..100 {
        let few = records_to_ask(&head, 1, seed);
        assert_eq!((few.len(), &few), (1, &records_to_ask(&head, 1, seed)), "a seed asks the same again");
        asked.extend(few);
    }
    assert_eq!(asked, all);
    assert_eq!(records_to_ask(&head, 1000, 7).len(), all.len());
}
