//! What an owner that means harm may store.

use super::hostile_owner::{HostileOwner, PACK_BYTES};
use super::{AloneNode, until};
use crate::base::{DeviceId, HeadId, PeerId, limit};
use crate::node::core::recall;
use crate::node::devices;
use crate::node::holding::{Share, free_for};
use crate::node::peering;
use crate::snapshot::PeerAddress;
use crate::store::{Kept, PeerEntry, Word};
use crate::wire::HoldRefusal;

const MIB: u64 = 1 << 20;

/// With a certificate that named nobody, 40 MiB were stored in a quota of 4; with one that named an honest member, that
/// one's quota filled.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_is_charged_to_the_peer_that_brought_it_whoever_a_certificate_names() {
    let node = AloneNode::lending(64 * MIB).await;
    let honest = PeerId::new([8; 32]);
    let entry = PeerEntry { quota: Some(MIB), ..PeerEntry::new(honest, node.core.now()) };
    node.core.admit(entry, Word::Person).await.unwrap();
    for named in [honest, PeerId::new([5; 32])] {
        let mut evil = HostileOwner::meets(&node, Some(MIB)).await;
        let before = node.disk_bytes("packs");
        let (head, packs) = evil.make(named, 20, 1);
        evil.offer(&head, &packs).await;
        until("the holder has had enough", || evil.declined() > 0).await;
        let accounts = node.core.store.accounts().unwrap();
        let brought = accounts.of_peer(evil.id());
        assert!((MIB / 2..=MIB).contains(&brought.bytes()), "{brought:?}");
        assert_eq!(brought, accounts.of_vault(evil.vault()));
        assert_eq!(brought.pack_bytes, brought.packs * PACK_BYTES);
        // Beside each pack lies what proves its parts.
        assert!(node.disk_bytes("packs") - before >= brought.pack_bytes);
        assert!(node.disk_bytes("packs") - before <= brought.pack_bytes + brought.packs * 4096);
        assert_eq!(accounts.of_peer(honest).bytes(), 0);
        assert_eq!(free_for(&node.core, honest, Share::All).unwrap(), MIB);
    }
}

/// 231 MiB of records lay on a disk that lent 8, and `status` said 0.
#[tokio::test(flavor = "multi_thread")]
async fn heads_lists_and_records_count_in_what_is_lent() {
    let node = AloneNode::lending(MIB).await;
    let mut evil = HostileOwner::meets(&node, None).await;
    let me = evil.id();
    let on_disk = || ["heads", "lists", "snapshots"].map(|dir| node.disk_bytes(dir)).iter().sum::<u64>();
    let (much, _) = evil.make(me, 0, 400);
    evil.offer(&much, &[]).await;
    until("the large head is looked at", || evil.was_asked_for(&much)).await;
    let (little, packs) = evil.make(me, 1, 50);
    evil.offer(&little, &packs).await;
    until("the small head is taken", || evil.has_confirmed(&little)).await;
    let record_bytes = || node.core.store.accounts().unwrap().of_peer(me).record_bytes;
    assert_eq!(record_bytes(), on_disk());
    assert!((50 * 8192..MIB / 2).contains(&on_disk()), "{}", on_disk());
    assert!(!evil.has_confirmed(&much));
    // Another hundred do not fit beside them; a head that needs less does.
    let (more, _) = evil.make(me, 0, 100);
    evil.offer(&more, &[]).await;
    until("the next head is looked at", || evil.was_asked_for(&more)).await;
    let (last, _) = evil.make(me, 0, 0);
    evil.offer(&last, &[]).await;
    until("the last head is taken", || evil.has_confirmed(&last)).await;
    assert!(!evil.has_confirmed(&more));
    assert_eq!(record_bytes(), on_disk());
    assert!(on_disk() + node.disk_bytes("packs") <= MIB);
}

/// What a head names and another vault has brought here already was charged again without a look at what is lent.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_named_again_by_another_vault_has_to_fit_too() {
    let node = AloneNode::lending(MIB).await;
    let mut evil = HostileOwner::meets(&node, None).await;
    let me = evil.id();
    let (mut head, _) = evil.make(me, 0, 50);
    let all = evil.listed.clone();
    for fits in [true, true, false] {
        evil.offer(&head, &[]).await;
        until("the head is looked at", || evil.was_asked_for(&head)).await;
        evil.begin_vault();
        // Heads of one owner are worked on one after the other.
        let (next, _) = evil.make(me, 0, 0);
        evil.offer(&next, &[]).await;
        until("the next one is taken", || evil.has_confirmed(&next)).await;
        assert_eq!(evil.has_confirmed(&head), fits);
        assert!(node.core.store.accounts().unwrap().total().bytes() <= MIB);
        evil.begin_vault();
        evil.also.clone_from(&all);
        (head, _) = evil.make(me, 0, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_owners_together_store_no_more_than_is_lent() {
    let node = AloneNode::lending(2 * MIB).await;
    let mut owners = Vec::new();
    for _ in 0..3 {
        owners.push(HostileOwner::meets(&node, None).await);
    }
    let brought = |owner: &HostileOwner| {
        let accounts = node.core.store.accounts().unwrap();
        assert!(accounts.total().bytes() <= 2 * MIB, "{accounts:?}");
        accounts.of_peer(owner.id()).packs as usize
    };
    let offers: Vec<_> = owners
        .iter_mut()
        .map(|owner| {
            let me = owner.id();
            owner.make(me, 8, 20)
        })
        .collect();
    let offered = owners.iter().zip(&offers).map(|(owner, (head, packs))| owner.offer(head, packs));
    futures::future::join_all(offered).await;
    until("each has got all that it gets", || owners.iter().all(|o| brought(o) + o.declined() >= 8)).await;
    let kept = node.core.store.accounts().unwrap().total();
    assert!(kept.packs > 8, "{kept:?}");
    let on_disk = |dirs: &[&str]| dirs.iter().map(|dir| node.disk_bytes(dir)).sum::<u64>();
    assert_eq!(kept.record_bytes, on_disk(&["heads", "lists", "snapshots"]));
    assert!(on_disk(&["packs"]) <= kept.pack_bytes + kept.packs * 4096);
}

/// A thousand empty vaults of one member shut the holder for every other owner, and its removal did not help.
#[tokio::test(flavor = "multi_thread")]
async fn empty_vaults_of_one_member_leave_places_to_others_and_go_with_it() {
    let node = AloneNode::lending(64 * MIB).await;
    let mut evil = HostileOwner::meets(&node, None).await;
    let me = evil.id();
    for _ in 0..limit::VAULTS_PER_PEER_MAX {
        let (head, _) = evil.make(me, 0, 0);
        evil.offer(&head, &[]).await;
        until("it is taken", || evil.has_confirmed(&head)).await;
        evil.begin_vault();
    }
    let (over, _) = evil.make(me, 0, 0);
    evil.offer(&over, &[]).await;
    until("it is refused", || evil.refused() == Some(HoldRefusal::HoldVaults)).await;
    assert!(!evil.was_asked_for(&over));
    assert_eq!(node.core.store.head_vaults().unwrap().len(), limit::VAULTS_PER_PEER_MAX);
    let mut honest = HostileOwner::meets(&node, None).await;
    let (head, packs) = honest.make(honest.id(), 1, 1);
    honest.offer(&head, &packs).await;
    let stored = || node.core.store.accounts().unwrap().of_peer(honest.id()).packs;
    until("another owner's pack is stored", || stored() == 1).await;
    peering::remove(&node.core, &me.to_string()).await.unwrap();
    assert_eq!(node.core.store.head_vaults().unwrap(), [honest.vault()]);
    assert_eq!(node.core.store.accounts().unwrap().of_peer(me), Kept::default());
    // What has a pack here stays, whoever goes.
    peering::remove(&node.core, &honest.id().to_string()).await.unwrap();
    assert_eq!(node.core.store.head_vaults().unwrap(), [honest.vault()]);
}

/// The owner was told nothing, and its holder's log had the reason.
#[tokio::test(flavor = "multi_thread")]
async fn an_owner_is_told_that_its_vault_has_too_many_devices() {
    let node = AloneNode::lending(64 * MIB).await;
    let mut evil = HostileOwner::meets(&node, None).await;
    for n in 0..limit::VAULT_DEVICES_MAX as u16 {
        let mut id = [1; 32];
        id[..2].copy_from_slice(&n.to_le_bytes());
        let (device, head) = (DeviceId::new(id), HeadId::new(id));
        node.core.store.publish_head(evil.vault(), device, 1, head, b"a head").unwrap();
    }
    let (head, packs) = evil.make(evil.id(), 1, 1);
    evil.offer(&head, &packs).await;
    until("it is refused", || evil.refused() == Some(HoldRefusal::HoldDevices)).await;
    assert!(evil.declined() == 1 && !evil.was_asked_for(&head));
}

/// What a peer claims was kept as the owner's word.
#[tokio::test(flavor = "multi_thread")]
async fn where_a_peer_says_it_is_stays_its_own_word() {
    let node = AloneNode::lending(MIB).await;
    let owner = HostileOwner::meets(&node, None).await;
    let noted = || node.core.store.read_peers().unwrap().find(owner.id()).cloned().unwrap();
    until("it is noted where it is", || !noted().addresses.is_empty()).await;
    let entry = noted();
    assert!(entry.addresses.iter().all(|address| entry.claims.iter().any(|claim| claim.address == *address)));
    let net = node.core.net().unwrap();
    net.forget(owner.id()).await;
    let known = || net.peers().into_iter().find(|state| state.id == owner.id()).unwrap().addresses;
    recall(net, &entry).await;
    until("it is known again", || !known().is_empty()).await;
    assert!(known().iter().all(|address| address.claim.is_some()), "{:?}", known());
}

/// What another device of the vault told of where a holder is counted as this owner's own word: such an address is dialled
/// whatever it is, and no other one makes it go.
#[tokio::test(flavor = "multi_thread")]
async fn where_a_device_says_that_a_holder_is_is_not_the_owners_word() {
    let node = AloneNode::new();
    let addresses = vec!["/ip4/127.0.0.1/tcp/22".to_owned(), "/ip4/192.168.7.1/tcp/80".to_owned()];
    let holder = PeerAddress { peer: PeerId::new([8; 32]), addresses: addresses.clone() };
    let seen_at = Some("198.51.100.1".parse().unwrap());
    devices::allow_holder(&node.core, &holder, seen_at, false).await.unwrap();
    let entry = node.core.book().find(holder.peer).unwrap().clone();
    let claimed: Vec<String> = entry.claims.iter().map(|claim| claim.address.clone()).collect();
    assert_eq!((&entry.addresses, &claimed), (&addresses, &addresses));
    assert!(entry.claims.iter().all(|claim| claim.seen_at == seen_at && !claim.signed));
}
