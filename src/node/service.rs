//! The node as [`Service`]: what commands and the API ask.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::core::Core;
use super::error::failed;
use super::source::Mesh;
use super::work::{self, explain, gc_status};
use super::{
    Node, acl, browse, devices, disk, exposition, inviting, peering, releasing, reload, schedule, status,
    verified,
};
use crate::api::{
    AddPeer, AddSchedule, ApiError, Batches, ConfigRow, DeviceInfo, DiffItem, DiffQuery, Dump, EditSchedule,
    EntryInfo, EventStream, ExplainReport, ExplainRequest, FateStream, FindQuery, Found, GcStatus, Health,
    Identity, InputStream, Invitation, InviteInfo, InviteRequest, JobId, JobInfo, JobRequest, JoinRequest,
    Joined, PeerDetail, PeerInfo, Releasable, ReleaseReport, Reloaded, Reply, ScheduleInfo, Service,
    SnapshotInfo, SnapshotQuery, Stats, Status, TagRequest, Tagged, TreeQuery, VerifyReport,
};
use crate::base::{Code, Moment};
use crate::crypto::Passphrase;
use crate::engine::VaultView;

impl Service for Node {
    fn identity(&self) -> Reply<'_, Identity> {
        Box::pin(async { Ok(status::identity(&self.core)) })
    }

    fn status(&self) -> Reply<'_, Status> {
        Box::pin(disk::status(&self.core))
    }

    fn health(&self) -> Reply<'_, Health> {
        Box::pin(async { Ok(status::health(&self.core).await) })
    }

    fn peers(&self) -> Reply<'_, Vec<PeerInfo>> {
        Box::pin(self.core.blocking(status::peers))
    }

    fn add_peer(&self, request: AddPeer) -> Reply<'_, PeerInfo> {
        Box::pin(peering::add(&self.core, request))
    }

    fn remove_peer(&self, peer: String) -> Reply<'_, PeerInfo> {
        Box::pin(async move { peering::remove(&self.core, &peer).await })
    }

    fn peer(&self, peer: String, dial: bool) -> Reply<'_, PeerDetail> {
        Box::pin(async move { peering::detail(&self.core, &peer, dial).await })
    }

    fn accept_peer(&self, peer: String) -> Reply<'_, PeerInfo> {
        Box::pin(async move { peering::accept(&self.core, &peer).await })
    }

    fn reject_peer(&self, peer: String) -> Reply<'_, PeerInfo> {
        Box::pin(async move { peering::reject(&self.core, &peer).await })
    }

    fn publish_peer_record(&self, record: String) -> Reply<'_, ()> {
        Box::pin(acl::publish(&self.core, record))
    }

    fn releasable(&self) -> Reply<'_, Releasable> {
        Box::pin(self.core.blocking(releasing::releasable))
    }

    fn release_holds(&self, record: String) -> Reply<'_, ReleaseReport> {
        Box::pin(releasing::publish(&self.core, record))
    }

    fn invite(&self, request: InviteRequest) -> Reply<'_, Invitation> {
        Box::pin(inviting::invite(&self.core, request))
    }

    fn invites(&self) -> Reply<'_, Vec<InviteInfo>> {
        Box::pin(async { Ok(inviting::list(&self.core)) })
    }

    fn join(&self, request: JoinRequest) -> Reply<'_, Joined> {
        Box::pin(inviting::join(&self.core, request))
    }

    fn devices(&self, before: Option<String>) -> Reply<'_, Vec<DeviceInfo>> {
        Box::pin(async move {
            let before = before.as_deref().map(moment).transpose()?;
            devices::list_at(&self.core, before).await
        })
    }

    fn revoke_device(&self, device: String, record: String) -> Reply<'_, DeviceInfo> {
        Box::pin(devices::revoke(&self.core, device, record))
    }

    fn snapshots(&self, query: SnapshotQuery) -> Reply<'_, Vec<SnapshotInfo>> {
        Box::pin(self.core.blocking(move |core| {
            let vault = core.vault()?;
            let view = VaultView::load(&vault).map_err(failed)?;
            status::snapshots(core, &vault, &view, &query)
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
            status::snapshot(core, &vault, &view, &reference)
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

fn moment(text: &str) -> Result<Moment, ApiError> {
    let parsed = text.parse::<jiff::Timestamp>().map_err(|error| {
        ApiError::new(Code::UsageInvalid, format!("{text:?} is no RFC 3339 moment: {error}"))
    })?;
    Ok(Moment::from_millis(u64::try_from(parsed.as_millisecond()).unwrap_or(0)))
}

impl Core {
    /// Packs from peers, where there is a network.
    pub(super) fn source(self: &Arc<Self>) -> Option<Mesh> {
        self.net().ok().map(|net| Mesh::new(self.clone(), net.clone(), None))
    }
}
