//! Several devices of one vault: what may be referred to, what a revocation does, what an heir carries on.

use std::sync::Arc;

use super::fixture::{Fixture, Holders, Manner, Ticking, gc_options, noise, passphrase, scratch};
use super::full::copy;
use crate::base::{Clock, Code, Coded, Moment, PackId, SnapshotId};
use crate::crypto::KdfCost;
use crate::engine::signing::store_head;
use crate::engine::tests::fixture::{head_packs, newest_heads};
use crate::engine::{
    Carried, HeadNews, Monitor, PackSource, TagEdit, Vault, accept_head, adopt_head, collect,
    confirm_borrowed, enrol_device, forget, held_packs, index_remote_pack, inherit, is_known,
    keep_for_device, keep_here, keep_revocation, learn_needs, make_node, missing_records, next_head,
    publish_first_head, publish_next_head, read_again, rebuild_index, referred_elsewhere, renew_kept,
    store_list, store_snapshot, tag,
};
use crate::pack::Outboard;
use crate::snapshot::{Head, HeadDraft, sign_revocation};
use crate::store::{Borrowed, NOBODY, RecordName, Store};

/// Another device of the same vault.
pub(super) fn twin(of: &Fixture) -> Fixture {
    twin_at(tempfile::tempdir().unwrap(), of)
}

/// In that directory.
pub(super) fn twin_at(dir: tempfile::TempDir, of: &Fixture) -> Fixture {
    let store = Store::create(&dir.path().join("store")).unwrap();
    let node = make_node(&store).unwrap();
    let phrase = crate::crypto::Phrase::parse(&of.phrase.words()).unwrap();
    let clock = Ticking::default();
    let cost = KdfCost::FAST;
    let keyring =
        enrol_device(&store, &phrase, node.peer_id(), "twin", &passphrase(), cost, clock.now()).unwrap();
    std::fs::create_dir(dir.path().join("src")).unwrap();
    let vault = Vault::new(Arc::new(store), keyring, Arc::new(clock), (*of.vault.options()).clone());
    publish_first_head(&vault, Carried::default(), &[]).unwrap();
    Fixture { dir, vault, phrase }
}

/// The newest head of the device that `fixture` is, and its bytes.
fn own(fixture: &Fixture) -> (Head, Vec<u8>) {
    let head = own_head(fixture);
    let bytes = bytes_of(fixture.store(), &head);
    (head, bytes)
}

/// The newest head of the device that `fixture` is.
pub(super) fn own_head(fixture: &Fixture) -> Head {
    let heads = newest_heads(fixture.store(), fixture.vault.id()).unwrap();
    heads.into_iter().find(|head| head.device() == fixture.vault.device()).unwrap()
}

fn bytes_of(store: &Store, head: &Head) -> Vec<u8> {
    store.read_head(head.vault(), head.device(), head.draft.seq, head.id).unwrap().unwrap()
}

/// Gives `to` the newest head of `from`'s device, with its records.
fn tell(to: &Store, from: &Fixture) -> HeadNews {
    pass_on(to, from.store(), &own_head(from))
}

/// Gives `to` a head that `from` has, with its records.
pub(super) fn pass_on(to: &Store, from: &Store, head: &Head) -> HeadNews {
    let needs = missing_records(to, head).unwrap();
    for id in needs.lists {
        store_list(to, id, &from.read_list(id).unwrap().unwrap()).unwrap();
    }
    for id in needs.snapshots {
        store_snapshot(to, id, &from.read_snapshot(id).unwrap().unwrap()).unwrap();
    }
    adopt_head(to, head, &bytes_of(from, head)).unwrap()
}

/// Enters the packs that `from`'s newest head lists, from their directories alone.
fn index(to: &Fixture, from: &Fixture) -> Vec<PackId> {
    let source = Holders::of(from, &[Manner::Honest]);
    let listed = head_packs(from.store(), &own(from).0).unwrap();
    for (id, size) in &listed {
        let pack = index_remote_pack(&to.vault, &source, *id, size.bytes(), &Monitor::default()).unwrap();
        to.store().index_borrowed(&[pack]).unwrap();
    }
    listed.into_iter().map(|(id, _)| id).collect()
}

fn snapshots(fixture: &Fixture) -> Vec<SnapshotId> {
    fixture.view().snapshots.iter().map(|snapshot| snapshot.id).collect()
}

/// A device that slept for longer than holders keep what nobody lists would have built on packs that were gone.
#[test]
fn packs_of_another_device_are_referred_to_once_a_holder_keeps_them_for_this_one() {
    let first = Fixture::new();
    first.write("a", &noise(1, 500_000));
    first.backup();
    for is_confirmed in [false, true] {
        let second = twin(&first);
        second.write("a", &noise(1, 500_000));
        tell(second.store(), &first);
        let packs = index(&second, &first);
        if is_confirmed {
            confirm_borrowed(second.store(), &packs).unwrap();
        }
        let done = second.backup();
        assert_eq!(done.counts.data_added < 100_000, is_confirmed, "{}", done.counts.data_added);
        let listed = head_packs(second.store(), &own(&second).0).unwrap();
        assert!(packs.iter().all(|pack| listed.iter().any(|(id, _)| id == pack)), "all are listed");
        let wanted = referred_elsewhere(&second.vault).unwrap();
        assert_ne!(wanted.is_empty(), is_confirmed, "the data is in packs of the other device");
        // What is elsewhere by agreement is no damage; what nobody has promised to keep is missing.
        assert!(second.verify().is_sound());
        let borrowed: Vec<_> = second.store().borrowed().unwrap().into_keys().collect();
        second.store().set_borrowed(&borrowed, Borrowed::Unconfirmed).unwrap();
        assert_eq!(second.verify().is_sound(), wanted.is_empty());
        second.store().set_borrowed(&borrowed, Borrowed::Confirmed).unwrap();
        let source = Holders::of(&first, &[Manner::Honest]);
        for row in wanted {
            keep_here(&second.vault, &source, &row, &Monitor::default()).unwrap();
            second.store().set_borrowed(&[row.number], Borrowed::Kept).unwrap();
        }
        assert_eq!(referred_elsewhere(&second.vault).unwrap(), []);
        // Nothing of its own snapshot is elsewhere now.
        second.restore(&done, "target");
        assert!(second.verify().is_sound());
    }
}

/// It was looked for in a pack that the other device had let go long before.
#[test]
fn what_another_device_stored_anew_is_found_where_it_is_now() {
    let first = Fixture::new();
    let second = twin(&first);
    let mut done = Vec::new();
    for name in ["a", "b"] {
        first.write(name, &noise(1, 500_000));
        done.push(first.backup());
        tell(second.store(), &first);
        index(&second, &first);
        if name == "a" {
            std::fs::remove_file(first.src().join("a")).unwrap();
            forget(&first.vault, &[done[0].snapshot], &[]).unwrap();
            collect(&first.vault, gc_options(true), &[], None, &Monitor::default()).unwrap();
            assert_eq!(first.packs(), []);
        }
    }
    let source = Holders::of(&first, &[Manner::Honest]);
    let snapshot = second.view().snapshots.remove(0);
    let (target, _, monitor) = second.restore_path(&snapshot, &first.src(), "out", Some(&source));
    assert_eq!(monitor.problems().1, []);
    assert_eq!(std::fs::read(target.join("b")).unwrap(), noise(1, 500_000));
    // And what is gone goes from the index.
    collect(&second.vault, gc_options(true), &[], Some(&source), &Monitor::default()).unwrap();
    assert_eq!(second.store().borrowed().unwrap().len(), first.packs().len());
}

/// They were looked for in a pack that its device had let go and that nobody had promised to keep, for as long as a third
/// device needed them: it took the pack for needed, whose holders had long dropped it.
#[test]
fn what_two_others_stored_is_found_with_the_one_that_still_lists_it() {
    let first = Fixture::new();
    let (second, third) = (twin(&first), twin(&first));
    for fixture in [&first, &second] {
        fixture.write("a", &noise(1, 500_000));
        fixture.backup();
        tell(third.store(), fixture);
        index(&third, fixture);
    }
    forget(&second.vault, &own_head(&second).draft.snapshots, &[]).unwrap();
    collect(&second.vault, gc_options(true), &[], None, &Monitor::default()).unwrap();
    assert_eq!(second.packs(), []);
    tell(third.store(), &second);
    let source = Holders::of(&first, &[Manner::Honest]);
    let collected = || {
        collect(&third.vault, gc_options(true), &[], Some(&source), &Monitor::default()).unwrap();
        third.store().borrowed().unwrap().len()
    };
    assert_eq!(collected(), first.packs().len(), "what the second device had is not taken for needed");
    let (target, _, monitor) =
        third.restore_path(&third.view().snapshots[0], &first.src(), "out", Some(&source));
    assert_eq!(monitor.problems().1, []);
    assert_eq!(std::fs::read(target.join("a")).unwrap(), noise(1, 500_000));
    assert_eq!(collected(), first.packs().len());
}

/// Its chunks were found in what this device had stored itself, and were in no pack that it knew of once that was gone.
#[test]
fn what_two_devices_stored_is_found_with_one_when_the_other_lets_it_go() {
    let first = Fixture::new();
    let second = twin(&first);
    for fixture in [&first, &second] {
        fixture.write("a", &noise(1, 500_000));
        fixture.backup();
    }
    tell(second.store(), &first);
    index(&second, &first);
    let snapshot = own_head(&first).draft.snapshots[0];
    assert_eq!(second.store().packs_to_read_again().unwrap(), []);
    forget(&second.vault, &own_head(&second).draft.snapshots, &[]).unwrap();
    forget(&first.vault, &[snapshot], &[]).unwrap();
    tell(second.store(), &first);
    // Offline it cannot read what came to light; the next time it does.
    let collected = |source: Option<&Holders>| {
        let source = source.map(|source| source as &dyn PackSource);
        collect(&second.vault, gc_options(true), &[], source, &Monitor::default())
    };
    assert!(collected(None).unwrap().deleted.0 > 0);
    let again = first.backup();
    let source = Holders::of(&first, &[Manner::Honest]);
    assert_ne!(second.store().packs_to_read_again().unwrap(), []);
    read_again(&second.vault, Some(&source), &Monitor::default()).unwrap();
    assert_eq!(second.store().packs_to_read_again().unwrap(), []);
    tell(second.store(), &first);
    index(&second, &first);
    let snapshot = second.view().snapshots.into_iter().find(|one| one.id == again.snapshot).unwrap();
    let (target, _, monitor) = second.restore_path(&snapshot, &first.src(), "out", Some(&source));
    assert_eq!(monitor.problems().1, []);
    assert_eq!(std::fs::read(target.join("a")).unwrap(), noise(1, 500_000));
    assert!(collected(Some(&source)).is_ok());
}

#[test]
fn what_is_not_confirmed_stays_so_over_a_restart_and_once_written_here_is_found_here() {
    let first = Fixture::new();
    first.write("a", &noise(1, 500_000));
    first.backup();
    let second = twin(&first);
    tell(second.store(), &first);
    index(&second, &first);
    let second = second.reopened(|_| {}, |path| Store::open(path).unwrap());
    assert_eq!(second.store().unconfirmed_packs().len(), first.packs().len());
    second.write("a", &noise(1, 500_000));
    let done = second.backup();
    // Without any source: the chunks' places are in packs that this device wrote.
    second.restore(&done, "target");
}

/// An index made anew had forgotten that other devices rely on what is here.
#[test]
fn a_rebuilt_index_knows_what_is_kept_for_other_devices() {
    let first = Fixture::new();
    let second = twin(&first);
    second.write("a", &noise(1, 500_000));
    second.backup();
    tell(first.store(), &second);
    let listed: Vec<PackId> =
        head_packs(second.store(), &own(&second).0).unwrap().into_iter().map(|(id, _)| id).collect();
    for (id, path) in second.packs() {
        let bytes = std::fs::read(path).unwrap();
        keep_for_device(&first.vault, NOBODY, id, &bytes, &Outboard::of(&bytes).1).unwrap();
    }
    let held = |fixture: &Fixture| held_packs(fixture.store(), fixture.vault.id(), &listed).unwrap();
    assert_eq!(held(&first), listed);
    let first = first.reopened(|_| {}, |path| Store::rebuild(path).unwrap());
    rebuild_index(first.store(), Some(&first.vault.keyring.vault), &Monitor::default()).unwrap();
    renew_kept(&first.vault).unwrap();
    assert_eq!(held(&first), listed);
    // What it lists itself is no promise to others.
    first.write("b", &noise(2, 500_000));
    first.backup();
    renew_kept(&first.vault).unwrap();
    assert_eq!(first.store().foreign_packs(first.vault.id()).unwrap().len(), listed.len());
}

#[test]
fn heads_after_the_last_good_one_do_not_count_until_an_heir_carries_on() {
    let (keeper, holder) = (Fixture::new(), Fixture::new());
    let thief = twin(&keeper);
    thief.write("a", &noise(2, 100_000));
    let good = thief.backup().snapshot;
    let last_good = (own(&thief).0.draft.seq, own(&thief).0.id);
    for store in [keeper.store(), holder.store()] {
        tell(store, &thief);
    }
    let forget = || {
        let draft = next_head(&thief.vault, &[], &[]).unwrap();
        store_head(&thief.vault, HeadDraft { snapshots: vec![], ..draft }).unwrap()
    };
    forget();
    tell(keeper.store(), &thief);
    assert_eq!(snapshots(&keeper), [], "it is gone");
    let admin = keeper.phrase.root().admin();
    let heir = Some(keeper.vault.device());
    let signed = sign_revocation(&admin, thief.vault.device(), &[last_good], heir, Moment::from_millis(5));
    for store in [keeper.store(), holder.store(), thief.store()] {
        assert!(keep_revocation(store, &signed).unwrap().is_some());
        assert!(keep_revocation(store, &signed).unwrap().is_none(), "it is no news");
    }
    assert_eq!(snapshots(&keeper), [good], "it is back");
    // A later head, or a fork: refused wherever the revocation is known; the device itself signs none.
    let id = own(&thief).0.id;
    assert_eq!(id, last_good.1);
    let bad = forged(&thief);
    let refused = accept_head(holder.store(), bad.0.vault(), bad.0.id, &bad.1).unwrap_err();
    assert_eq!(refused.code(), Code::DeviceRevoked);
    assert!(adopt_head(holder.store(), &bad.0, &bad.1).is_err());
    assert_eq!(thief.try_backup(&Monitor::default()).unwrap_err().code(), Code::DeviceRevoked);
    // The heir waits until it knows every pack.
    assert_eq!(inherit(&keeper.vault, &[]).unwrap(), []);
    index(&keeper, &thief);
    assert_eq!(inherit(&keeper.vault, &[]).unwrap(), [thief.vault.device()]);
    assert_eq!(inherit(&keeper.vault, &[]).unwrap(), [], "once");
    let heads = newest_heads(keeper.store(), keeper.vault.id()).unwrap();
    assert_eq!(heads.iter().map(Head::device).collect::<Vec<_>>(), [keeper.vault.device()]);
    assert_eq!(snapshots(&keeper), [good]);
    assert!(keeper.view().is_certified(thief.vault.device()));
    tell(holder.store(), &keeper);
    let heads = newest_heads(holder.store(), keeper.vault.id()).unwrap();
    assert_eq!(heads.len(), 1, "the last good head has served");
}

/// A number below the last good one was enough, and an old image of the device has such numbers.
#[test]
fn a_revoked_device_signs_nothing_that_counts_whatever_number_it_takes() {
    for heir in [false, true] {
        let (keeper, late) = (Fixture::new(), Fixture::new());
        let thief = twin(&keeper);
        let dir = scratch();
        copy(thief.store().dir(), &dir.path().join("store"));
        let old_image = thief.again(dir);
        thief.write("a", &noise(2, 100_000));
        let good = thief.backup().snapshot;
        let before = own_head(&thief);
        publish_next_head(&thief.vault, &[], &[]).unwrap();
        tell(keeper.store(), &thief);
        let last_good = (own(&thief).0.draft.seq, own(&thief).0.id);
        let admin = keeper.phrase.root().admin();
        let heir = heir.then(|| keeper.vault.device());
        let signed =
            sign_revocation(&admin, thief.vault.device(), &[last_good], heir, Moment::from_millis(5));
        old_image.write("b", &noise(3, 100_000));
        old_image.backup();
        let forged = own(&old_image);
        assert!(forged.0.draft.seq < last_good.0);
        for store in [keeper.store(), late.store()] {
            keep_revocation(store, &signed).unwrap();
        }
        let refused = adopt_head(keeper.store(), &forged.0, &forged.1).unwrap_err();
        assert_eq!(refused.code(), Code::DeviceRevoked);
        assert!(
            is_known(keeper.store(), keeper.vault.id(), &forged.0.summary()).unwrap(),
            "it is not asked for"
        );
        assert_eq!(snapshots(&keeper), [good]);
        // Where the last good head has not come yet, what was before it is better than nothing; then it is settled.
        pass_on(late.store(), thief.store(), &before);
        pass_on(late.store(), old_image.store(), &forged.0);
        assert_eq!(newest_heads(late.store(), keeper.vault.id()).unwrap().len(), 2);
        tell(late.store(), &thief);
        let heads = newest_heads(late.store(), keeper.vault.id()).unwrap();
        assert_eq!(heads.iter().map(|head| head.id).collect::<Vec<_>>(), [last_good.1]);
        // When it rots, all that is here counts again until it is mended.
        let (vault, device) = (keeper.vault.id(), thief.vault.device());
        let file = RecordName::Head { vault, device, seq: last_good.0, id: last_good.1 };
        late.store().replace_record(&file, b"rot").unwrap();
        assert_eq!(newest_heads(late.store(), vault).unwrap().len(), 2);
    }
}

/// What it carried on came behind its own in its list, and counted as newer.
#[test]
fn what_an_heir_carries_on_is_as_old_as_it_was() {
    let keeper = Fixture::new();
    let lost = twin(&keeper);
    let made: Vec<SnapshotId> = (0..3)
        .map(|round| {
            lost.write("a", &noise(round, 10_000));
            lost.backup().snapshot
        })
        .collect();
    (0..1000).for_each(|_| _ = keeper.vault.clock.now());
    keeper.write("b", &noise(9, 10_000));
    let own = keeper.backup().snapshot;
    tell(keeper.store(), &lost);
    index(&keeper, &lost);
    let order = || snapshots(&keeper);
    let before = order();
    assert_eq!(before, [&made[..], &[own]].concat(), "by their times");
    let last_good = [(own_head(&lost).draft.seq, own_head(&lost).id)];
    let (admin, heir) = (keeper.phrase.root().admin(), Some(keeper.vault.device()));
    let signed = sign_revocation(&admin, lost.vault.device(), &last_good, heir, Moment::from_millis(5));
    keep_revocation(keeper.store(), &signed).unwrap();
    assert_eq!(inherit(&keeper.vault, &[]).unwrap(), [lost.vault.device()]);
    assert_eq!(order(), before);
}

/// Packs that an heir needs for what it carried on stayed where they were, on one disk less than before, and it could not be tagged.
#[test]
fn an_heir_knows_which_packs_it_needs_for_what_it_carries_on() {
    let keeper = Fixture::new();
    let lost = twin(&keeper);
    lost.write("a", &noise(1, 300_000));
    let made = lost.backup().snapshot;
    tell(keeper.store(), &lost);
    let packs = index(&keeper, &lost);
    let last_good = [(own_head(&lost).draft.seq, own_head(&lost).id)];
    let (admin, heir) = (keeper.phrase.root().admin(), Some(keeper.vault.device()));
    let signed = sign_revocation(&admin, lost.vault.device(), &last_good, heir, Moment::from_millis(5));
    keep_revocation(keeper.store(), &signed).unwrap();
    assert_eq!(inherit(&keeper.vault, &[]).unwrap(), [lost.vault.device()]);
    let edit = TagEdit { pin: Some(true), ..TagEdit::default() };
    let tagged = tag(&keeper.vault, &keeper.view(), &[made], &edit, &[]).unwrap();
    assert_ne!(tagged[0].new, made);
    learn_needs(&keeper.vault, &Holders::of(&lost, &[Manner::Honest])).unwrap();
    let needed: Vec<PackId> =
        referred_elsewhere(&keeper.vault).unwrap().into_iter().map(|row| row.id).collect();
    assert!(!needed.is_empty() && needed.iter().all(|pack| packs.contains(pack)), "{needed:?}");
}

/// What a thief forgot before the device was revoked stayed gone once an heir had carried on the rest: that the owner went back
/// further afterwards changed nothing, and said that it had.
#[test]
fn what_was_carried_on_goes_back_further_when_the_owner_says_so_later() {
    let keeper = Fixture::new();
    let lost = twin(&keeper);
    let made: Vec<SnapshotId> = (0..2)
        .map(|round| {
            lost.write("a", &noise(round, 100_000));
            lost.backup().snapshot
        })
        .collect();
    let before = own_head(&lost);
    tell(keeper.store(), &lost);
    lost.write("a", &noise(9, 100_000));
    let third = lost.backup().snapshot;
    forget(&lost.vault, &[made[0]], &[]).unwrap();
    let after = own_head(&lost);
    tell(keeper.store(), &lost);
    index(&keeper, &lost);
    let revoke = |head: &Head, at: u64| {
        let (admin, heir) = (keeper.phrase.root().admin(), Some(keeper.vault.device()));
        let last_good = [(head.draft.seq, head.id)];
        let at = Moment::from_millis(at);
        let signed = sign_revocation(&admin, lost.vault.device(), &last_good, heir, at);
        assert!(keep_revocation(keeper.store(), &signed).unwrap().is_some());
    };
    revoke(&after, 5);
    assert_eq!(inherit(&keeper.vault, &[]).unwrap(), [lost.vault.device()]);
    assert_eq!(sorted(snapshots(&keeper)), sorted(vec![made[1], third]));
    revoke(&before, 6);
    assert!(snapshots(&keeper).contains(&made[0]), "it counts at once");
    index(&keeper, &lost);
    assert_eq!(inherit(&keeper.vault, &[]).unwrap(), [lost.vault.device()]);
    assert_eq!(inherit(&keeper.vault, &[]).unwrap(), [], "once");
    assert_eq!(newest_heads(keeper.store(), keeper.vault.id()).unwrap().len(), 1);
    assert_eq!(sorted(snapshots(&keeper)), sorted(vec![made[0], made[1], third]), "nothing is lost by it");
    // What the heir forgets now stays forgotten: the same word said again changes nothing.
    forget(&keeper.vault, &[made[1]], &[]).unwrap();
    revoke(&before, 7);
    assert_eq!(inherit(&keeper.vault, &[]).unwrap(), []);
    assert_eq!(sorted(snapshots(&keeper)), sorted(vec![made[0], third]));
}

/// Only the branch with the highest number counted, and its heir carried on no other one.
#[test]
fn an_heir_carries_on_all_branches_of_a_revoked_device() {
    for one_is_longer in [false, true] {
        let keeper = Fixture::new();
        let lost = twin(&keeper);
        let dir = scratch();
        copy(lost.store().dir(), &dir.path().join("store"));
        let put_back = lost.again(dir);
        let mut made = Vec::new();
        for (disk, fill) in [(&lost, 3), (&put_back, 4)] {
            disk.write("a", &noise(fill, 100_000));
            made.push(disk.backup().snapshot);
        }
        if one_is_longer {
            publish_next_head(&lost.vault, &[], &[]).unwrap();
        }
        for disk in [&lost, &put_back] {
            tell(keeper.store(), disk);
            index(&keeper, disk);
        }
        let heads = newest_heads(keeper.store(), keeper.vault.id()).unwrap();
        let of_lost = heads.iter().filter(|head| head.device() == lost.vault.device());
        let last_good: Vec<_> = of_lost.map(|head| (head.draft.seq, head.id)).collect();
        assert_eq!(last_good.len(), 2);
        let (admin, heir) = (keeper.phrase.root().admin(), Some(keeper.vault.device()));
        let signed = sign_revocation(&admin, lost.vault.device(), &last_good, heir, Moment::from_millis(5));
        assert!(keep_revocation(keeper.store(), &signed).unwrap().is_some());
        assert_eq!(sorted(snapshots(&keeper)), sorted(made.clone()), "all of them");
        assert_eq!(inherit(&keeper.vault, &[]).unwrap(), [lost.vault.device()]);
        assert_eq!(newest_heads(keeper.store(), keeper.vault.id()).unwrap().len(), 1);
        assert_eq!(sorted(snapshots(&keeper)), sorted(made), "still");
    }
}

fn sorted(mut snapshots: Vec<SnapshotId>) -> Vec<SnapshotId> {
    snapshots.sort_unstable();
    snapshots
}

/// A head as a thief would sign it, whatever was said of the device.
fn forged(thief: &Fixture) -> (Head, Vec<u8>) {
    let (head, _) = own(thief);
    let draft =
        HeadDraft { seq: head.draft.seq + 7, predecessor: Some(head.id), snapshots: vec![], ..head.draft };
    let keyring = &thief.vault.keyring;
    crate::snapshot::SignedHead::sign(draft, &keyring.device, &keyring.certificate).unwrap()
}
