//! The routes: each is one call of the service.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response, sse};
use axum::routing::{get, post, put};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::extract::{Body, Named, Params};
use super::problem::{Problem, reply};
use super::stream;
use super::tcp::Slot;
use crate::api::{
    AddPeer, AddSchedule, ApiError, BackupRequest, DiffQuery, EditSchedule, ExplainRequest, FindQuery,
    ForgetRequest, GcRequest, Health, ImportRequest, InviteRequest, JobId, JobRequest, JoinRequest,
    RepairRequest, RestoreRequest, Service, SnapshotQuery, TagRequest, TreeQuery, VerifyRequest,
};
use crate::base::{Code, limit};

/// What every handler has at hand.
struct Shared {
    service: Arc<dyn Service>,
    started: Mutex<VecDeque<Started>>,
}

/// A job that was started under an `Idempotency-Key`.
struct Started {
    key: String,
    /// Requests may be long: what is compared is their hash.
    request: blake3::Hash,
    job: JobId,
}

/// The answer to a request that starts a job.
#[derive(Serialize, Deserialize)]
pub(super) struct Accepted {
    pub job_id: JobId,
}

/// The body of `unlock`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Unlock {
    pub passphrase: String,
}

/// An admin's signed word on a peer or a device.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SignedRecord {
    /// In hex.
    pub record: String,
}

/// The query of a snapshot's tree.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TreePlace {
    path: String,
    recursive: bool,
}

/// The query of a dump.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Place {
    path: String,
}

/// The query of an export.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ExportQuery {
    snapshot: Option<String>,
}

/// Where an event stream is taken up.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct EventsQuery {
    since: Option<u64>,
}

/// Options of a verification whose snapshot stands in the path.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct VerifyOptions {
    quick: bool,
    repair: bool,
}

/// Options of forgetting one snapshot, whose id stands in the path.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ForgetOptions {
    confirmed: bool,
}

type Node = State<Arc<Shared>>;
type Answer = Result<Response, Problem>;

/// The router over one service.
pub(super) fn router(service: Arc<dyn Service>) -> Router {
    let slot = Slot::default();
    slot.set(service.clone()).ok();
    let v1 = Router::new()
        .route("/status", get(status))
        .route("/id", get(identity))
        .route("/identity", get(identity))
        .route("/peers", get(peers).post(add_peer))
        .route("/peers/{id}", get(peer).delete(remove_peer))
        .route("/peers/{id}/accept", post(accept_peer))
        .route("/peers/{id}/reject", post(reject_peer))
        .route("/peers/records", post(publish_peer_record))
        .route("/holds/release", get(releasable).post(release_holds))
        .route("/invites", get(invites).post(invite))
        .route("/join", post(join))
        .route("/devices", get(devices))
        .route("/devices/{id}/revoke", post(revoke_device))
        .route("/snapshots", get(snapshots))
        .route("/snapshots/create", post(backup).layer(long_body()))
        .route("/snapshots/{id}", get(snapshot).delete(forget_one))
        .route("/snapshots/{id}/tree", get(tree))
        .route("/snapshots/{id}/dump", get(dump))
        .route("/snapshots/{id}/stats", get(snapshot_stats))
        .route("/export", get(export))
        .route("/import", post(import))
        .route("/find", post(find))
        .route("/diff", get(diff))
        .route("/stats", get(stats))
        .route("/tags", post(tag))
        .route("/snapshots/{id}/verify", post(verify_one))
        .route("/backup", post(backup).layer(long_body()))
        .route("/backup/explain", post(explain).layer(long_body()))
        .route("/restore", post(restore))
        .route("/verify", post(verify))
        .route("/verify/report", get(verify_report))
        .route("/repair", post(repair))
        .route("/forget", post(forget))
        .route("/gc/run", post(gc))
        .route("/gc/status", get(gc_status))
        .route("/jobs", get(jobs))
        .route("/jobs/{id}", get(job))
        .route("/jobs/{id}/cancel", post(cancel))
        .route("/jobs/{id}/input", put(feed))
        .route("/jobs/{id}/fates", get(fates))
        .route("/schedule", get(schedule).post(add_schedule))
        .route("/schedule/{id}", axum::routing::patch(edit_schedule).delete(remove_schedule))
        .route("/schedule/{id}/run", post(run_schedule))
        .route("/events", get(events))
        .route("/metrics/summary", get(summary))
        .route("/config", get(config))
        .route("/config/reload", post(reload))
        .route("/unlock", post(unlock));
    Router::new()
        .nest("/api/v1", v1)
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(limit::HTTP_BODY_BYTES_MAX))
        .with_state(Arc::new(Shared { service, started: Mutex::default() }))
        .merge(health(slot))
}

/// Requests that may name many paths or patterns.
fn long_body() -> DefaultBodyLimit {
    DefaultBodyLimit::max(limit::BACKUP_REQUEST_BYTES_MAX)
}

/// The routes that tell whether the node runs; they answer before it does.
pub(super) fn health(slot: Slot) -> Router {
    Router::new()
        .route("/health", get(whole))
        .route("/healthz", get(whole))
        .route("/ready", get(ready))
        .route("/readyz", get(ready))
        .route("/live", get(live))
        .route("/livez", get(live))
        .with_state(slot)
}

pub(super) async fn unknown_route(uri: Uri) -> Problem {
    Problem::usage(StatusCode::NOT_FOUND, format!("there is nothing at {}", uri.path()))
}

async fn wrong_method(method: Method, uri: Uri) -> Problem {
    Problem::usage(StatusCode::METHOD_NOT_ALLOWED, format!("{method} does not go with {}", uri.path()))
}

async fn status(State(node): Node) -> Response {
    reply(StatusCode::OK, node.service.status().await)
}

async fn identity(State(node): Node) -> Response {
    reply(StatusCode::OK, node.service.identity().await)
}

async fn peers(State(node): Node) -> Response {
    reply(StatusCode::OK, node.service.peers().await)
}

async fn add_peer(State(node): Node, Body(request): Body<AddPeer>) -> Response {
    reply(StatusCode::CREATED, node.service.add_peer(request).await)
}

async fn remove_peer(State(node): Node, Named(peer): Named<String>) -> Response {
    reply(StatusCode::OK, node.service.remove_peer(peer).await)
}

/// The query of one peer.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PeerQuery {
    dial: bool,
}

async fn peer(State(node): Node, Named(peer): Named<String>, Params(query): Params<PeerQuery>) -> Response {
    reply(StatusCode::OK, node.service.peer(peer, query.dial).await)
}

async fn accept_peer(State(node): Node, Named(peer): Named<String>) -> Response {
    reply(StatusCode::OK, node.service.accept_peer(peer).await)
}

async fn reject_peer(State(node): Node, Named(peer): Named<String>) -> Response {
    reply(StatusCode::OK, node.service.reject_peer(peer).await)
}

async fn publish_peer_record(State(node): Node, Body(request): Body<SignedRecord>) -> Answer {
    node.service.publish_peer_record(request.record).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn releasable(State(node): Node) -> Response {
    reply(StatusCode::OK, node.service.releasable().await)
}

async fn release_holds(State(node): Node, Body(request): Body<SignedRecord>) -> Response {
    reply(StatusCode::OK, node.service.release_holds(request.record).await)
}

async fn invites(State(node): Node) -> Response {
    reply(StatusCode::OK, node.service.invites().await)
}

async fn invite(State(node): Node, Body(request): Body<InviteRequest>) -> Response {
    reply(StatusCode::CREATED, node.service.invite(request).await)
}

async fn join(State(node): Node, Body(request): Body<JoinRequest>) -> Response {
    reply(StatusCode::OK, node.service.join(request).await)
}

/// The query of the list of devices.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct DevicesQuery {
    before: Option<String>,
}

async fn devices(State(node): Node, Params(query): Params<DevicesQuery>) -> Response {
    reply(StatusCode::OK, node.service.devices(query.before).await)
}

async fn revoke_device(
    State(node): Node,
    Named(device): Named<String>,
    Body(request): Body<SignedRecord>,
) -> Response {
    reply(StatusCode::OK, node.service.revoke_device(device, request.record).await)
}

async fn snapshots(State(node): Node, Params(query): Params<SnapshotQuery>) -> Response {
    reply(StatusCode::OK, node.service.snapshots(query).await)
}

async fn snapshot(State(node): Node, Named(id): Named<String>) -> Response {
    reply(StatusCode::OK, node.service.snapshot(id).await)
}

/// `ID` and a path as one reference; the path is as in `REF:PATH`, so one that begins with `:` is percent-encoded.
fn reference(id: String, path: &str) -> String {
    if path.is_empty() { id } else { format!("{id}:{path}") }
}

async fn tree(
    State(node): Node,
    headers: HeaderMap,
    Named(id): Named<String>,
    Params(place): Params<TreePlace>,
) -> Response {
    let query = TreeQuery { snapshot: reference(id, &place.path), recursive: place.recursive };
    stream::list(&headers, node.service.list(query).await)
}

async fn dump(
    State(node): Node,
    headers: HeaderMap,
    Named(id): Named<String>,
    Params(place): Params<Place>,
) -> Response {
    stream::dump(&headers, node.service.dump(reference(id, &place.path)).await)
}

async fn export(State(node): Node, headers: HeaderMap, Params(what): Params<ExportQuery>) -> Response {
    stream::dump(&headers, node.service.export(what.snapshot).await)
}

async fn import(State(node): Node, headers: HeaderMap, Body(request): Body<ImportRequest>) -> Answer {
    start(&node, &headers, JobRequest::Import(request)).await
}

async fn find(State(node): Node, headers: HeaderMap, Body(query): Body<FindQuery>) -> Response {
    stream::list(&headers, node.service.find(query).await)
}

async fn diff(State(node): Node, headers: HeaderMap, Params(query): Params<DiffQuery>) -> Response {
    stream::list(&headers, node.service.diff(query).await)
}

async fn stats(State(node): Node) -> Response {
    reply(StatusCode::OK, node.service.stats(None).await)
}

async fn snapshot_stats(State(node): Node, Named(id): Named<String>) -> Response {
    reply(StatusCode::OK, node.service.stats(Some(id)).await)
}

async fn tag(State(node): Node, Body(request): Body<TagRequest>) -> Response {
    reply(StatusCode::OK, node.service.tag(request).await)
}

async fn backup(State(node): Node, headers: HeaderMap, Body(request): Body<BackupRequest>) -> Answer {
    start(&node, &headers, JobRequest::Backup(request)).await
}

async fn explain(State(node): Node, Body(request): Body<ExplainRequest>) -> Response {
    reply(StatusCode::OK, node.service.explain(request).await)
}

async fn restore(State(node): Node, headers: HeaderMap, Body(request): Body<RestoreRequest>) -> Answer {
    start(&node, &headers, JobRequest::Restore(request)).await
}

async fn verify(State(node): Node, headers: HeaderMap, Body(request): Body<VerifyRequest>) -> Answer {
    start(&node, &headers, JobRequest::Verify(request)).await
}

async fn verify_one(
    State(node): Node,
    headers: HeaderMap,
    Named(id): Named<String>,
    Body(options): Body<VerifyOptions>,
) -> Answer {
    let (quick, repair) = (options.quick, options.repair);
    let request = VerifyRequest { snapshot: Some(id), quick, repair, ..VerifyRequest::default() };
    start(&node, &headers, JobRequest::Verify(request)).await
}

async fn verify_report(State(node): Node) -> Response {
    reply(StatusCode::OK, node.service.verify_report().await)
}

async fn repair(State(node): Node, headers: HeaderMap, Body(request): Body<RepairRequest>) -> Answer {
    start(&node, &headers, JobRequest::Repair(request)).await
}

async fn forget(State(node): Node, headers: HeaderMap, Body(request): Body<ForgetRequest>) -> Answer {
    start(&node, &headers, JobRequest::Forget(request)).await
}

async fn forget_one(
    State(node): Node,
    headers: HeaderMap,
    Named(id): Named<String>,
    Params(options): Params<ForgetOptions>,
) -> Answer {
    let snapshots = vec![id];
    let request = ForgetRequest { snapshots, confirmed: options.confirmed, ..ForgetRequest::default() };
    start(&node, &headers, JobRequest::Forget(request)).await
}

async fn gc(State(node): Node, headers: HeaderMap, Body(request): Body<GcRequest>) -> Answer {
    start(&node, &headers, JobRequest::Gc(request)).await
}

async fn gc_status(State(node): Node) -> Response {
    reply(StatusCode::OK, node.service.gc_status().await)
}

/// Starts a job, or finds the one that the same `Idempotency-Key` started.
async fn start(node: &Shared, headers: &HeaderMap, request: JobRequest) -> Answer {
    let Some(key) = idempotency_key(headers)? else {
        return accepted(node.service.start(request).await?);
    };
    let digest = blake3::hash(&serde_json::to_vec(&request).map_err(|error| {
        Problem::usage(StatusCode::BAD_REQUEST, format!("the request cannot be remembered: {error}"))
    })?);
    // Held while the job starts: two requests with one key must not start two jobs.
    let mut started = node.started.lock().await;
    if let Some(before) = started.iter().find(|before| before.key == key) {
        if before.request != digest {
            let message = "this Idempotency-Key was used for another request";
            return Err(Problem::usage(StatusCode::UNPROCESSABLE_ENTITY, message));
        }
        return accepted(before.job);
    }
    let job = node.service.start(request).await?;
    if started.len() == limit::IDEMPOTENCY_KEYS_MAX {
        started.pop_front();
    }
    started.push_back(Started { key, request: digest, job });
    accepted(job)
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    match value.to_str() {
        Ok(key) if (1..=limit::IDEMPOTENCY_KEY_BYTES_MAX).contains(&key.len()) => Ok(Some(key.to_owned())),
        _ => {
            let message = format!(
                "an Idempotency-Key has 1 to {} visible ASCII characters",
                limit::IDEMPOTENCY_KEY_BYTES_MAX
            );
            Err(Problem::usage(StatusCode::BAD_REQUEST, message))
        }
    }
}

fn accepted(job: JobId) -> Answer {
    let mut response = reply(StatusCode::ACCEPTED, Ok(Accepted { job_id: job }));
    let place = HeaderValue::from_str(&format!("/api/v1/jobs/{job}")).expect("digits are visible ASCII");
    response.headers_mut().insert(header::LOCATION, place);
    Ok(response)
}

async fn jobs(State(node): Node) -> Response {
    reply(StatusCode::OK, node.service.jobs().await)
}

async fn job(State(node): Node, Named(id): Named<JobId>) -> Response {
    reply(StatusCode::OK, node.service.job(id).await)
}

async fn cancel(State(node): Node, Named(id): Named<JobId>) -> Answer {
    node.service.cancel(id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The input of a backup of a stream, as it comes; however long it is, little of it is here at one time.
async fn feed(State(node): Node, Named(id): Named<JobId>, body: axum::body::Body) -> Answer {
    let input = body.into_data_stream().map(|piece| {
        piece.map_err(|error| ApiError::new(Code::ConnectionFailed, format!("the input broke off: {error}")))
    });
    node.service.feed(id, Box::pin(input)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// What a dry run finds: one JSON object a line, while it finds it.
async fn fates(State(node): Node, Named(id): Named<JobId>) -> Answer {
    let lines = node.service.fates(id).await?.map(|fate| {
        let mut line =
            serde_json::to_vec(&fate?).map_err(|error| ApiError::new(Code::Internal, error.to_string()))?;
        line.push(b'\n');
        Ok::<_, ApiError>(line)
    });
    let kind = HeaderValue::from_static("application/x-ndjson");
    Ok(([(header::CONTENT_TYPE, kind)], axum::body::Body::from_stream(lines)).into_response())
}

/// Server-sent events: as `id` the event's number, as `data` the event. `Last-Event-ID` (or `since`) takes a stream up.
async fn events(State(node): Node, headers: HeaderMap, Params(query): Params<EventsQuery>) -> Answer {
    let since = match headers.get("last-event-id") {
        None => query.since,
        Some(value) => Some(value.to_str().ok().and_then(|id| id.parse().ok()).ok_or_else(|| {
            Problem::usage(StatusCode::BAD_REQUEST, "Last-Event-ID is a number that an event had")
        })?),
    };
    let stream = node.service.events(since).await?;
    let lines = stream.map(|event| {
        let event = event?;
        let text = serde_json::to_string(&event)
            .map_err(|error| ApiError::new(Code::Internal, error.to_string()))?;
        Ok::<_, ApiError>(sse::Event::default().id(event.id.to_string()).data(text))
    });
    // A comment now and then tells both sides that the other is still there.
    Ok(sse::Sse::new(lines).keep_alive(sse::KeepAlive::default()).into_response())
}

async fn schedule(State(node): Node) -> Response {
    reply(StatusCode::OK, node.service.schedule().await)
}

async fn add_schedule(State(node): Node, Body(request): Body<AddSchedule>) -> Response {
    reply(StatusCode::CREATED, node.service.add_schedule(request).await)
}

async fn edit_schedule(
    State(node): Node,
    Named(id): Named<String>,
    Body(edit): Body<EditSchedule>,
) -> Response {
    reply(StatusCode::OK, node.service.edit_schedule(id, edit).await)
}

async fn remove_schedule(State(node): Node, Named(id): Named<String>) -> Answer {
    node.service.remove_schedule(id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn run_schedule(State(node): Node, Named(id): Named<String>) -> Response {
    reply(StatusCode::ACCEPTED, node.service.run_schedule(id).await)
}

async fn summary(State(node): Node) -> Response {
    reply(StatusCode::OK, node.service.metrics_summary().await)
}

async fn config(State(node): Node) -> Response {
    reply(StatusCode::OK, node.service.config().await)
}

async fn reload(State(node): Node) -> Response {
    reply(StatusCode::OK, node.service.reload().await)
}

async fn unlock(State(node): Node, Body(request): Body<Unlock>) -> Answer {
    node.service.unlock(request.passphrase).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// How the node is, as it says itself; one that is not open yet is starting.
async fn state_of(slot: &Slot) -> Result<Health, ApiError> {
    match slot.get() {
        Some(service) => service.health().await,
        None => Ok(Health { status: "starting".to_owned(), uptime: 0, components: BTreeMap::new() }),
    }
}

fn shown(health: Result<Health, ApiError>, well: &[&str]) -> Response {
    let good = health.as_ref().is_ok_and(|health| well.contains(&health.status.as_str()));
    reply(if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, health)
}

/// How each part does: 503 while the node starts or stops, or when a part failed.
async fn whole(State(slot): State<Slot>) -> Response {
    shown(state_of(&slot).await, &["ok", "degraded"])
}

/// Whether the node takes on work.
async fn ready(State(slot): State<Slot>) -> Response {
    shown(state_of(&slot).await, &["ok", "degraded"])
}

/// Whether the process answers at all; it does.
async fn live(State(slot): State<Slot>) -> Response {
    reply(StatusCode::OK, state_of(&slot).await)
}
