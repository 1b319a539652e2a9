//! The node as [`Service`]: what commands and the API ask.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::core::Core;
use super::error::failed;
use super::source::Mesh;
use super::work::{self, explain, gc_status};
use super::{Node, browse, exposition, reload, schedule, status, verified};
use crate::api::{
    AddPeer, AddSchedule, ApiError, Batches, ConfigRow, DiffItem, DiffQuery, Dump, EditSchedule, EntryInfo,
    EventStream, ExplainReport, ExplainRequest, FateStream, FindQuery, Found, GcStatus, Health, Identity,
    InputStream, JobId, JobInfo, JobRequest, PeerInfo, Reloaded, Reply, ScheduleInfo, Service, SnapshotInfo,
    SnapshotQuery, Stats, Status, TagRequest, Tagged, TreeQuery, VerifyReport,
};
use crate::base::{Code, PeerId};
use crate::crypto::Passphrase;
use crate::engine::VaultView;
use crate::net::parse_peer_address;
use crate::store::PeerEntry;

impl Service for Node {
    fn identity(&self) -> Reply<'_, Identity> {
        Box::pin(async { Ok(status::identity(&self.core)) })
    }

    fn status(&self) -> Reply<'_, Status> {
        Box::pin(self.core.blocking(status::status))
    }

    fn health(&self) -> Reply<'_, Health> {
        Box::pin(async { Ok(status::health(&self.core).await) })
    }

    fn peers(&self) -> Reply<'_, Vec<PeerInfo>> {
        Box::pin(self.core.blocking(status::peers))
    }

    fn add_peer(&self, request: AddPeer) -> Reply<'_, PeerInfo> {
        Box::pin(add_peer(&self.core, request))
    }

    fn remove_peer(&self, peer: String) -> Reply<'_, PeerInfo> {
        Box::pin(remove_peer(&self.core, peer))
    }

    fn snapshots(&self, query: SnapshotQuery) -> Reply<'_, Vec<SnapshotInfo>> {
        Box::pin(self.core.blocking(move |core| {
            let vault = core.vault()?;
            let view = VaultView::load(&vault).map_err(failed)?;
            status::snapshots(&vault, &view, &query)
        }))
    }

    fn list(&self, query: TreeQuery) -> Reply<'_, Batches<EntryInfo>> {
        Box::pin(browse::list(&self.core, query))
    }

    fn find(&self, query: FindQuery) -> Reply<'_, Batches<Found>> {
        Box::pin(browse::find(&self.core, query))
    }

    fn diff(&self, query: DiffQuery) -> Reply<'_, Batches<DiffItem>> {
        Box::pin(browse::diff(&self.core, query))
    }

    fn dump(&self, reference: String) -> Reply<'_, Dump> {
        Box::pin(browse::dump(&self.core, reference))
    }

    fn export(&self, snapshot: Option<String>) -> Reply<'_, Dump> {
        Box::pin(work::export(&self.core, snapshot))
    }

    fn stats(&self, reference: Option<String>) -> Reply<'_, Stats> {
        Box::pin(browse::stats(&self.core, reference))
    }

    fn tag(&self, request: TagRequest) -> Reply<'_, Vec<Tagged>> {
        Box::pin(browse::tag(&self.core, request))
    }

    fn snapshot(&self, reference: String) -> Reply<'_, SnapshotInfo> {
        Box::pin(self.core.blocking(move |core| {
            let vault = core.vault()?;
            let view = VaultView::load(&vault).map_err(failed)?;
            status::snapshot(&vault, &view, &reference)
        }))
    }

    fn gc_status(&self) -> Reply<'_, GcStatus> {
        Box::pin(self.core.blocking(gc_status))
    }

    fn start(&self, request: JobRequest) -> Reply<'_, JobId> {
        Box::pin(async { self.core.start_job(request) })
    }

    fn verify_report(&self) -> Reply<'_, VerifyReport> {
        Box::pin(self.core.blocking(verified::report))
    }

    fn job(&self, id: JobId) -> Reply<'_, JobInfo> {
        Box::pin(async move { self.core.jobs.info(id) })
    }

    fn jobs(&self) -> Reply<'_, Vec<JobInfo>> {
        Box::pin(async { Ok(self.core.jobs.all()) })
    }

    fn cancel(&self, id: JobId) -> Reply<'_, ()> {
        Box::pin(async move { self.core.jobs.cancel(id) })
    }

    fn feed(&self, id: JobId, input: InputStream) -> Reply<'_, ()> {
        Box::pin(self.core.jobs.streams.feed(id, input))
    }

    fn fates(&self, id: JobId) -> Reply<'_, FateStream> {
        Box::pin(async move { self.core.jobs.streams.fates(id) })
    }

    fn explain(&self, request: ExplainRequest) -> Reply<'_, ExplainReport> {
        Box::pin(self.core.blocking(move |core| explain(core, request)))
    }

    fn events(&self, since: Option<u64>) -> Reply<'_, EventStream> {
        let core = &self.core;
        Box::pin(async move { Ok(core.events.follow(since, core.now(), core.stop.clone())) })
    }

    fn config(&self) -> Reply<'_, Vec<ConfigRow>> {
        Box::pin(async { reload::rows(&self.core) })
    }

    fn reload(&self) -> Reply<'_, Reloaded> {
        Box::pin(self.core.blocking(reload::reload))
    }

    fn schedule(&self) -> Reply<'_, Vec<ScheduleInfo>> {
        Box::pin(async { schedule::list(&self.core) })
    }

    fn add_schedule(&self, request: AddSchedule) -> Reply<'_, ScheduleInfo> {
        Box::pin(self.core.blocking(|core| schedule::add(core, request)))
    }

    fn edit_schedule(&self, id: String, edit: EditSchedule) -> Reply<'_, ScheduleInfo> {
        Box::pin(self.core.blocking(move |core| schedule::edit(core, &id, edit)))
    }

    fn remove_schedule(&self, id: String) -> Reply<'_, ()> {
        Box::pin(self.core.blocking(move |core| schedule::remove(core, &id)))
    }

    fn run_schedule(&self, id: String) -> Reply<'_, ScheduleInfo> {
        Box::pin(schedule::run_now(&self.core, id))
    }

    fn metrics(&self) -> Reply<'_, String> {
        Box::pin(exposition::text(&self.core))
    }

    fn metrics_summary(&self) -> Reply<'_, BTreeMap<String, f64>> {
        Box::pin(exposition::summary(&self.core))
    }

    fn unlock(&self, passphrase: String) -> Reply<'_, ()> {
        let passphrase = Passphrase::new(passphrase);
        Box::pin(self.core.blocking(move |core| core.unlock(&passphrase)))
    }
}

impl Core {
    /// Packs from peers, where there is a network.
    pub(super) fn source(self: &Arc<Self>) -> Option<Mesh> {
        self.net().ok().map(|net| Mesh::new(self.clone(), net.clone(), None))
    }
}

async fn add_peer(core: &Arc<Core>, request: AddPeer) -> Result<PeerInfo, ApiError> {
    let (peer, address) = parse_peer_address(&request.address).map_err(failed)?;
    if peer == core.key.peer_id() {
        return Err(ApiError::new(Code::UsageInvalid, "that is this node's own address"));
    }
    let entry = PeerEntry {
        peer,
        name: request.name,
        addresses: vec![address.clone()],
        added: core.now(),
        proved: None,
        last_seen: None,
    };
    core.admit(entry).await?;
    if let Ok(net) = core.net() {
        net.add_address(peer, &address).await.map_err(failed)?;
    }
    one_peer(core, peer).await
}

async fn one_peer(core: &Arc<Core>, peer: PeerId) -> Result<PeerInfo, ApiError> {
    let all = core.blocking(status::peers).await?;
    all.into_iter().find(|info| info.id == peer).ok_or_else(|| no_such_peer(&peer.to_string()))
}

fn no_such_peer(name: &str) -> ApiError {
    ApiError::new(Code::PeerNotFound, format!("no peer matches {name:?}"))
        .with_hint("`shadowvault peers` lists them")
}

async fn remove_peer(core: &Arc<Core>, name: String) -> Result<PeerInfo, ApiError> {
    let all = core.blocking(status::peers).await?;
    let matches = |info: &&PeerInfo| {
        let id = info.id.to_string();
        id == name || info.name.as_deref() == Some(&name) || (name.len() >= 6 && id.ends_with(&name))
    };
    let found: Vec<&PeerInfo> = all.iter().filter(matches).collect();
    let [info] = found.as_slice() else { return Err(no_such_peer(&name)) };
    let (info, peer) = ((*info).clone(), info.id);
    core.edit_book(move |book| {
        book.allowed.retain(|entry| entry.peer != peer);
        book.pending.retain(|pending| pending.peer != peer);
    })
    .await?;
    core.members.remove(&peer);
    if let Ok(net) = core.net() {
        net.forget(peer).await;
    }
    core.holding.forget(peer);
    core.owning.forget_offers(peer);
    // Its receipts no longer count: the packs get other holders.
    core.blocking(move |core| {
        core.store.drop_receipts(peer).map_err(failed)?;
        core.store.remove_receipt_files(peer).map_err(failed)
    })
    .await?;
    core.changed.notify_one();
    Ok(info)
}
