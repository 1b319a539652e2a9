//! A history never goes backward: old images, copies of a disk, and heads that cannot be read.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::devices::{own_head, pass_on, twin};
use super::fixture::{Fixture, gc_options, noise, scratch};
use super::full::copy;
use crate::base::{HeadId, Moment, SnapshotId, limit};
use crate::crypto::NodeKey;
use crate::engine::tests::fixture::{head_packs, heads_at, newest_heads};
use crate::engine::{
    EngineError, HeadNews, Monitor, adopt_head, collect, complete_head, drop_expired, forget, forward_packs,
    give_up_head, is_known, join_branches, publish_next_head, record_receipt, unreadable_heads,
};
use crate::pack::Outboard;
use crate::snapshot::{Head, HeadDraft, SignedHead, sign_receipt};
use crate::store::{NOBODY, Store};

const HOLD: Duration = Duration::from_secs(30 * 86_400);

/// A device and a holder that has all of it.
struct Pair {
    device: Fixture,
    holder: Store,
    key: NodeKey,
    _dir: tempfile::TempDir,
    count: u64,
}

impl Pair {
    fn new() -> Self {
        let dir = scratch();
        let holder = Store::create(&dir.path().join("holder")).unwrap();
        Self { device: Fixture::new(), holder, key: NodeKey::generate(), _dir: dir, count: 0 }
    }

    fn backup(&mut self) -> SnapshotId {
        self.count += 1;
        self.device.write(&self.count.to_string(), &noise(self.count, 100_000));
        self.device.backup().snapshot
    }

    /// Gives the holder the newest head and all packs that are here; it confirms what it has.
    fn hand_over(&self) -> HeadNews {
        let (store, head) = (self.device.store(), own_head(&self.device));
        let news = pass_on(&self.holder, store, &head);
        for (id, path) in self.device.packs() {
            let bytes = std::fs::read(path).unwrap();
            forward_packs(&self.holder, (head.vault(), NOBODY), id, &bytes, &Outboard::of(&bytes).1).unwrap();
        }
        let complete = complete_head(&self.holder, head.vault(), head.id).unwrap().map(|head| head.id);
        let signed = sign_receipt(&self.key, head.vault(), complete, &[], Moment::from_millis(self.count));
        record_receipt(store, head.vault(), self.key.peer_id(), &signed).unwrap();
        news
    }

    /// Takes over what the holder has and this device does not.
    fn learn(&self) -> Vec<HeadNews> {
        let heads = newest_heads(&self.holder, self.device.vault.id()).unwrap().into_iter();
        let store = self.device.store();
        let news = heads.filter(|head| !is_known(store, head.vault(), &head.summary()).unwrap());
        news.map(|head| pass_on(store, &self.holder, &head)).collect()
    }

    /// Copies the data directory.
    fn image(&self) -> tempfile::TempDir {
        let image = scratch();
        copy(self.device.store().dir(), &image.path().join("store"));
        image
    }

    /// Puts the copy in its place.
    fn put_back(self, image: &Path) -> Self {
        let device = self.device.reopened(
            |store| {
                std::fs::remove_dir_all(store).unwrap();
                copy(&image.join("store"), store);
            },
            |store| Store::open(store).unwrap(),
        );
        Self { device, ..self }
    }

    fn listed_by_holder(&self) -> Vec<SnapshotId> {
        let heads = newest_heads(&self.holder, self.device.vault.id()).unwrap();
        let mut all: Vec<SnapshotId> = heads.into_iter().flat_map(|head| head.draft.snapshots).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    fn listed(&self) -> Vec<SnapshotId> {
        let mut all: Vec<SnapshotId> =
            self.device.view().heads.into_iter().flat_map(|head| head.draft.snapshots).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The file of the newest head.
    fn head_file(&self) -> PathBuf {
        let head = own_head(&self.device);
        let dir = self.device.store().dir().join(format!("heads/{}/{}", head.vault(), head.device()));
        dir.join(format!("{:016x}-{}", head.draft.seq, head.id))
    }
}

fn sorted(mut ids: Vec<SnapshotId>) -> Vec<SnapshotId> {
    ids.sort_unstable();
    ids
}

/// After a disk was put back, as many backups as were lost made the holder forget what it had confirmed: of two heads of one
/// device the higher number alone counted.
#[test]
fn a_disk_that_was_put_back_costs_no_snapshot_however_many_backups_follow() {
    for backups_after in 0..4 {
        let mut pair = Pair::new();
        let mut made = vec![pair.backup(), pair.backup()];
        pair.hand_over();
        let image = pair.image();
        for _ in 0..2 {
            made.push(pair.backup());
            pair.hand_over();
        }
        let mut pair = pair.put_back(image.path());
        for _ in 0..backups_after {
            made.push(pair.backup());
        }
        let made = sorted(made);
        // The holder hears first, and time passes.
        let news = pair.hand_over();
        assert_eq!(news, if backups_after == 0 { HeadNews::Known } else { HeadNews::Forked });
        assert_eq!(pair.listed_by_holder(), made);
        let packs = pair.holder.pack_files().unwrap();
        for _ in 0..2 {
            drop_expired(&pair.holder, None, HOLD, HOLD * 2).unwrap();
        }
        assert_eq!(
            (pair.holder.pack_files().unwrap(), pair.listed_by_holder()),
            (packs.clone(), made.clone())
        );
        // Then the device hears, and joins before it says anything else.
        let news = if backups_after == 0 { HeadNews::Adopted } else { HeadNews::Forked };
        assert_eq!((pair.learn(), pair.listed()), (vec![news], made.clone()));
        let joined = join_branches(&pair.device.vault, &[], &[]).unwrap();
        assert_eq!(joined.is_some(), backups_after > 0);
        assert_eq!(pair.device.view().heads.len(), 1);
        assert_eq!(pair.listed(), made);
        let listed: Vec<_> = head_packs(pair.device.store(), &own_head(&pair.device)).unwrap();
        let distinct: std::collections::HashSet<_> = listed.iter().map(|(id, _)| *id).collect();
        assert!(packs.iter().all(|id| distinct.contains(id)) && distinct.len() == listed.len());
        pair.hand_over();
        assert_eq!(newest_heads(&pair.holder, pair.device.vault.id()).unwrap().len(), 1);
        for _ in 0..2 {
            drop_expired(&pair.holder, None, HOLD, HOLD * 2).unwrap();
        }
        assert_eq!((pair.holder.pack_files().unwrap(), pair.listed_by_holder()), (packs, made));
    }
}

/// It missed the heads between: none that it has is the predecessor of another.
#[test]
fn a_holder_that_was_away_sees_no_branches_where_there_are_none() {
    let mut pair = Pair::new();
    let (vault, dir) = (pair.device.vault.id(), scratch());
    let other = Store::create(&dir.path().join("other")).unwrap();
    for round in 0..150 {
        pair.backup();
        if round % 30 == 0 {
            pair.hand_over();
        }
        if round % 70 == 0 {
            pass_on(&other, pair.device.store(), &own_head(&pair.device));
        }
    }
    pair.hand_over();
    assert_eq!(newest_heads(&pair.holder, vault).unwrap(), [own_head(&pair.device)]);
    // Two that are 80 heads old or more and were confirmed by nobody are branches until the device names them.
    pair.backup();
    assert_eq!(pass_on(&other, pair.device.store(), &own_head(&pair.device)), HeadNews::Forked);
    let told: Vec<_> =
        newest_heads(&other, vault).unwrap().iter().map(|head| (head.draft.seq, head.id)).collect();
    assert_eq!(told.len(), 3);
    let named = join_branches(&pair.device.vault, &told, &[]).unwrap().unwrap();
    assert_eq!(join_branches(&pair.device.vault, &told, &[]).unwrap(), None, "once is enough");
    assert_eq!(pass_on(&other, pair.device.store(), &named), HeadNews::Adopted);
    assert_eq!(newest_heads(&other, vault).unwrap(), [named]);
}

/// Files of old heads go when their hold is over, or were never on this disk. Whoever still knows one of them as the newest must
/// see that it is carried on, so a head names what those before it named, and what they followed.
#[test]
fn heads_whose_files_are_gone_are_named_on_and_on() {
    let device = Fixture::new();
    let signed: Vec<Head> = (0..3)
        .map(|_| {
            publish_next_head(&device.vault, &[], &[]).unwrap();
            own_head(&device)
        })
        .collect();
    let (store, vault, me) = (device.store(), device.vault.id(), device.vault.device());
    for head in &signed[..2] {
        store.remove_head(vault, me, head.draft.seq, head.id).unwrap();
    }
    publish_next_head(&device.vault, &[], &[]).unwrap();
    let newest = own_head(&device);
    for head in &signed {
        assert!(newest.carries_on().any(|id| id == head.id), "head {} is named no more", head.draft.seq);
    }
}

/// It took an old head of the other one for a branch for ever, and kept what only that one lists.
#[test]
fn a_device_that_was_away_sees_no_branches_of_another_where_there_are_none() {
    for says_first in [true, false] {
        let pair = Pair::new();
        let away = twin(&pair.device);
        let sign = |rounds| {
            for _ in 0..rounds {
                publish_next_head(&pair.device.vault, &[], &[]).unwrap();
            }
        };
        let tell = |to: &Fixture, from: &Fixture| pass_on(to.store(), from.store(), &own_head(from));
        let count = || {
            let heads = newest_heads(away.store(), away.vault.id()).unwrap();
            heads.iter().filter(|head| head.device() == pair.device.vault.device()).count()
        };
        let joins = |of: &Fixture| join_branches(&of.vault, &[], &[]).unwrap().is_some();
        sign(40);
        tell(&away, &pair.device);
        if says_first {
            publish_next_head(&away.vault, &[], &[]).unwrap();
            tell(&pair.device, &away);
        }
        sign(200);
        tell(&away, &pair.device);
        if !says_first {
            // It says so once, and what it has is then named.
            assert_eq!(count(), 2);
            assert!(joins(&away) && !joins(&away));
            tell(&pair.device, &away);
            assert!(joins(&pair.device) && !joins(&pair.device));
            tell(&away, &pair.device);
        }
        assert_eq!(count(), 1);
        assert!(!joins(&away));
    }
}

/// The unreadable head was passed over and its number used again: its snapshot vanished, its packs were deleted, and holders,
/// who had it, were never asked.
#[test]
fn what_a_head_that_rotted_lists_survives_the_next_backup() {
    for (with_holder, rot) in [(true, 0), (true, 1), (true, 2), (true, 3), (false, 0)] {
        let mut pair = Pair::new();
        let mut made = vec![pair.backup()];
        pair.hand_over();
        made.push(pair.backup());
        let lost = own_head(&pair.device);
        if with_holder {
            pair.hand_over();
        }
        let whole = std::fs::read(pair.head_file()).unwrap();
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        let huge = vec![0; limit::HEAD_BYTES_MAX + 1];
        std::fs::write(pair.head_file(), [&flipped, &whole[..100], &[], huge.as_slice()][rot]).unwrap();
        let vault = pair.device.vault.id();
        let unreadable = |pair: &Pair| unreadable_heads(pair.device.store(), vault).unwrap();
        assert_eq!(unreadable(&pair).iter().map(|head| head.id).collect::<Vec<_>>(), [lost.id]);
        let result = pair.device.verify();
        assert!(!result.is_sound() && result.records.len() == 1, "{:?}", result.records);
        made.push(pair.backup());
        let oldest = made[0];
        let made = sorted(made);
        let next = own_head(&pair.device);
        assert!(next.draft.seq > lost.draft.seq && next.carries_on().all(|id| id != lost.id));
        assert_eq!(pair.listed(), made, "its record is here");
        // Nothing is deleted while it is not known what is live.
        forget(&pair.device.vault, &[oldest], &[]).unwrap();
        let collected = collect(&pair.device.vault, gc_options(true), &[], None, &Monitor::default());
        assert!(matches!(collected, Err(EngineError::RootUnreadable(_))), "{collected:?}");
        for _ in 0..2 {
            drop_expired(pair.device.store(), Some(vault), HOLD, HOLD * 2).unwrap();
        }
        assert!(pair.head_file().parent().unwrap().read_dir().unwrap().count() >= 4);
        if with_holder {
            assert_eq!(pair.hand_over(), HeadNews::Forked);
            assert_eq!(pair.listed_by_holder(), made);
            assert_eq!((pair.learn(), unreadable(&pair)), (vec![HeadNews::Mended], vec![]));
            assert!(join_branches(&pair.device.vault, &[], &[]).unwrap().is_some());
            pair.hand_over();
            assert_eq!(pair.listed(), made);
            collect(&pair.device.vault, gc_options(true), &[], None, &Monitor::default()).unwrap();
            assert!(pair.device.verify().is_sound());
        } else {
            // Nobody has it: a person says so.
            assert!(give_up_head(&pair.device.vault, next.id, &[]).is_err(), "that one can be read");
            let before = pair.listed();
            give_up_head(&pair.device.vault, lost.id, &[]).unwrap();
            assert_eq!((pair.listed(), unreadable(&pair)), (before, vec![]));
            collect(&pair.device.vault, gc_options(true), &[], None, &Monitor::default()).unwrap();
        }
    }
}

/// With every head of this device unreadable a second chain would begin, and hide the first.
#[test]
fn no_chain_begins_anew_over_unreadable_heads() {
    let mut pair = Pair::new();
    pair.backup();
    pair.hand_over();
    for file in pair.head_file().parent().unwrap().read_dir().unwrap() {
        std::fs::write(file.unwrap().path(), b"rot").unwrap();
    }
    let refused = publish_next_head(&pair.device.vault, &[], &[]);
    assert!(matches!(refused, Err(EngineError::HeadsLost)), "{refused:?}");
    assert_eq!(pair.learn(), [HeadNews::Mended]);
    assert_eq!(publish_next_head(&pair.device.vault, &[], &[]).unwrap().draft.snapshots.len(), 1);
}

/// Its files say when which head was here; both branches were.
#[test]
fn at_an_earlier_time_both_branches_count() {
    let mut pair = Pair::new();
    pair.backup();
    pair.hand_over();
    let image = pair.image();
    let mut made = vec![pair.backup()];
    pair.hand_over();
    let mut pair = pair.put_back(image.path());
    made.extend([pair.backup(), pair.backup()]);
    pair.hand_over();
    let vault = pair.device.vault.id();
    let then = heads_at(&pair.holder, vault, Moment::from_millis(u64::MAX)).unwrap();
    assert_eq!(then.len(), 2);
    assert!(made.iter().all(|id| then.iter().any(|head| head.draft.snapshots.contains(id))));
}

/// Each is loaded whole, and a device can sign as many as it likes.
#[test]
fn a_chain_has_a_bounded_number_of_branches() {
    let pair = Pair::new();
    let first = own_head(&pair.device);
    let keyring = &pair.device.vault.keyring;
    let branch = |number: u64| -> (Head, Vec<u8>) {
        let time = Moment::from_millis(number);
        let draft = HeadDraft { seq: 2, predecessor: Some(first.id), time, ..first.draft.clone() };
        SignedHead::sign(draft, &keyring.device, &keyring.certificate).unwrap()
    };
    for number in 0..limit::HEAD_BRANCHES_MAX as u64 {
        let (head, bytes) = branch(number);
        adopt_head(&pair.holder, &head, &bytes).unwrap();
    }
    let (head, bytes) = branch(99);
    assert!(adopt_head(&pair.holder, &head, &bytes).is_err());
    // Who joins them is heard.
    let tips = newest_heads(&pair.holder, first.vault()).unwrap();
    let supersedes = tips[1..].iter().map(|head| (head.draft.seq, head.id)).collect();
    let draft = HeadDraft { seq: 3, predecessor: Some(tips[0].id), supersedes, ..first.draft.clone() };
    let (head, bytes) = SignedHead::sign(draft, &keyring.device, &keyring.certificate).unwrap();
    assert_eq!(adopt_head(&pair.holder, &head, &bytes).unwrap(), HeadNews::Adopted);
    let stranger = HeadId::new([9; 32]);
    assert!(tips.iter().all(|tip| tip.id != stranger));
}
