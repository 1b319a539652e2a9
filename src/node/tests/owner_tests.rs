//! What an owner that means harm may store.

use super::hostile_owner::{HostileOwner, PACK_BYTES};
use super::{AloneNode, until};
use crate::base::PeerId;
use crate::node::holding::{Share, free_for};
use crate::store::{PeerEntry, Word};

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
