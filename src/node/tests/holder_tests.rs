//! What a holder that means harm makes its owner believe.

use std::time::Duration;

use super::hostile_holder::{HostileHolder, Manner};
use super::{AloneNode, PATIENCE, until};
use crate::api::{AuditReport, JobRequest, VerifyRequest};
use crate::base::{Code, PackId, PeerId, limit};
use crate::engine::Monitor;
use crate::node::auditing;
use crate::node::status;
use crate::node::streams::Streams;
use crate::node::work;
use crate::wire::{HoldRefusal, Status};

const DAY: Duration = Duration::from_secs(86_400);
const YEAR: Duration = Duration::from_secs(366 * 86_400);

fn holds(node: &AloneNode, holder: PeerId, packs: &[PackId]) -> bool {
    packs.iter().all(|pack| node.core.store.holders_of(*pack).unwrap().contains(&holder))
}

fn counts(node: &AloneNode, holder: PeerId) -> bool {
    (node.core.counted())(&holder)
}

/// An owner with a backup that a holder was offered.
async fn offered(manner: Manner, proof_within: Duration) -> (AloneNode, HostileHolder, Vec<PackId>) {
    let node = AloneNode::owning(proof_within).await;
    node.back_up(300_000).await;
    let holder = HostileHolder::meets(&node, manner).await;
    until("the packs are offered", || !holder.seen().0.is_empty()).await;
    let packs = holder.seen().0;
    (node, holder, packs)
}

async fn audit(node: &AloneNode) -> AuditReport {
    let audits = auditing::audit(&node.core, limit::AUDIT_SLICES_NOW, 0);
    tokio::time::timeout(PATIENCE, audits).await.unwrap().unwrap().remove(0)
}

/// Receipts for packs that nobody has, all different, took 163 MiB in 1,196 files on the owner's disk within half a minute.
#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_counts_for_what_was_offered_to_its_holder_and_leaves_nothing_else_behind() {
    let (node, holder, packs) = offered(Manner::Says(Status::Busy), 3 * DAY).await;
    let other = HostileHolder::meets(&node, Manner::Says(Status::Busy)).await;
    // What was offered to one is confirmed by another, to whom nobody offered it.
    assert_eq!(other.confirm(&node, &packs, Duration::ZERO).await, Status::Ok);
    assert!(!packs.iter().any(|pack| holds(&node, other.id(), &[*pack])));
    for n in 0..20u32 {
        let id = |m: u32| PackId::new(*blake3::hash(&[n.to_le_bytes(), m.to_le_bytes()].concat()).as_bytes());
        let junk: Vec<PackId> = (0..limit::RECEIPT_PACKS_MAX as u32 - 10).map(id).collect();
        assert_eq!(other.confirm(&node, &junk, Duration::ZERO).await, Status::Ok);
    }
    assert_eq!(node.disk_bytes("members/receipts"), 0);
    assert_eq!(holder.confirm(&node, &packs, Duration::ZERO).await, Status::Ok);
    assert!(holds(&node, holder.id(), &packs));
    assert!(node.disk_bytes("members/receipts") <= 4096);
}

/// The old bytes of a receipt, dated 31 years ahead, counted again whatever was found since.
#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_from_the_future_is_refused() {
    let (node, holder, packs) = offered(Manner::Says(Status::Busy), 3 * DAY).await;
    for ahead in [31 * YEAR, 2 * DAY] {
        assert_eq!(holder.confirm(&node, &packs, ahead).await, Status::Refused);
    }
    assert!(!packs.iter().any(|pack| holds(&node, holder.id(), &[*pack])));
    assert!(node.core.clocks.of(holder.id()).is_some(), "its clock is told of");
    // A clock that is somewhat off harms nobody.
    assert_eq!(holder.confirm(&node, &packs, Duration::from_secs(3600)).await, Status::Ok);
    assert!(holds(&node, holder.id(), &packs));
}

/// After a failed audit the next receipt counted at once.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_lost_counts_again_once_it_was_proven_and_not_before() {
    for comes_back in [false, true] {
        let (node, holder, packs) = offered(Manner::Says(Status::NotFound), 3 * DAY).await;
        holder.confirm(&node, &packs, Duration::ZERO).await;
        assert!(holds(&node, holder.id(), &packs));
        let report = audit(&node).await;
        assert_eq!((report.ok, report.packs_lost), (0, packs.len() as u64), "{report:?}");
        assert!(!packs.iter().any(|pack| holds(&node, holder.id(), &[*pack])));
        let (_, offers, asked) = holder.seen();
        until("they are offered again", || holder.seen().1 > offers).await;
        if comes_back {
            holder.copy_all(&node);
            holder.change(Manner::Right);
        }
        assert_eq!(holder.confirm(&node, &packs, Duration::from_millis(5)).await, Status::Ok);
        assert!(!packs.iter().any(|pack| holds(&node, holder.id(), &[*pack])), "nothing is proven yet");
        until("slices are asked for", || holder.seen().2 > asked).await;
        match comes_back {
            true => until("they count again", || holds(&node, holder.id(), &packs)).await,
            false => {
                until("that proved nothing", || node.core.auditing.is_idle()).await;
                assert!(!packs.iter().any(|pack| holds(&node, holder.id(), &[*pack])));
            }
        }
    }
}

/// A holder with nothing that answered audits with "busy" or "refused" kept its copies for ever, and `verify --peers` ended
/// with 0.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_proves_nothing_is_no_proof() {
    let (node, holder, packs) = offered(Manner::Says(Status::Refused), 3 * DAY).await;
    holder.confirm(&node, &packs, Duration::ZERO).await;
    let check = || async {
        let request = VerifyRequest { quick: true, peers: true, ..VerifyRequest::default() };
        let (request, monitor) = (JobRequest::Verify(request), Monitor::default().into());
        let done = work::run(&node.core, request, monitor, 64 << 20, Streams::default()).await.unwrap();
        done.1.map(|error| error.kind())
    };
    assert_eq!(check().await, Some(Code::Incomplete));
    let report = audit(&node).await;
    assert!(report.unproven_since.is_some() && report.ok == 0 && !report.not_counted, "{report:?}");
    assert!(holds(&node, holder.id(), &packs) && counts(&node, holder.id()), "the time is not over");
    // It has them after all.
    holder.copy_all(&node);
    holder.change(Manner::Right);
    let report = audit(&node).await;
    assert!(report.ok > 0 && report.unproven_since.is_none(), "{report:?}");
    assert_eq!(check().await, None);
    // What is no answer at all is a wrong one.
    holder.change(Manner::Says(Status::Ok));
    let report = audit(&node).await;
    assert_eq!(report.packs_lost, packs.len() as u64, "{report:?}");
    assert!(!packs.iter().any(|pack| holds(&node, holder.id(), &[*pack])));
}

/// The same until the stated time is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_proves_nothing_for_the_stated_time_does_not_count() {
    let (node, holder, packs) = offered(Manner::Says(Status::Refused), Duration::from_millis(1)).await;
    holder.confirm(&node, &packs, Duration::ZERO).await;
    assert!(counts(&node, holder.id()));
    while !audit(&node).await.not_counted {}
    assert!(!counts(&node, holder.id()));
}

/// Each of hundreds of slices was waited for on its own, for 25 minutes in all.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_holder_is_given_up_as_a_whole() {
    let (node, holder, packs) = offered(Manner::Silent, 3 * DAY).await;
    holder.confirm(&node, &packs, Duration::ZERO).await;
    let report = audit(&node).await;
    assert!(report.slices > limit::AUDIT_IN_FLIGHT as u64, "{report:?}");
    assert_eq!((report.timeout, report.packs_lost), (report.slices, 0));
    assert!(holder.seen().2 <= limit::AUDIT_IN_FLIGHT);
    assert!(report.unproven_since.is_some() && counts(&node, holder.id()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_takes_nothing_more_is_told_of_until_it_does() {
    let (node, holder, packs) = offered(Manner::Says(Status::Busy), 3 * DAY).await;
    let problems = || async {
        let status = node.core.blocking(status::status).await.unwrap();
        status.problems.into_iter().filter(|line| line.contains("takes nothing more")).collect::<Vec<_>>()
    };
    holder.refuse(&node, HoldRefusal::HoldDevices).await;
    let told = problems().await;
    assert!(
        told.len() == 1 && told[0].contains("device revoke") && told[0].contains("RESOURCE_EXHAUSTED"),
        "{told:?}"
    );
    holder.confirm(&node, &packs, Duration::ZERO).await;
    assert!(problems().await.is_empty());
}
