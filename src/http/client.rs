//! A far node as a [`Service`]: one short connection a call.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::http::{Method, Request, Response, StatusCode, header, request};
use bytes::Bytes;
use futures::StreamExt;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio_util::task::AbortOnDropHandle;

use super::events;
use super::fates;
use super::problem;
use super::router::{Accepted, SignedRecord, Unlock};
use super::socket::{Place, is_own};
use super::stream;
use crate::api::{
    AddPeer, AddSchedule, ApiError, Batches, ConfigRow, DeviceInfo, DiffItem, DiffQuery, Dump, EditSchedule,
    EntryInfo, EventStream, ExplainReport, ExplainRequest, FateStream, FindQuery, Found, GcStatus, Health,
    Identity, InputStream, Invitation, InviteInfo, InviteRequest, JobId, JobInfo, JobRequest, JoinRequest,
    Joined, PeerDetail, PeerInfo, Releasable, ReleaseReport, Reloaded, Reply, ScheduleInfo, Service,
    SnapshotInfo, SnapshotQuery, Stats, Status, TagRequest, Tagged, TreeQuery, VerifyReport,
};
use crate::base::{Code, limit};

/// Speaks to the daemon behind a control socket.
#[derive(Debug, Clone)]
pub struct Client {
    pub(super) socket: PathBuf,
}

impl Client {
    /// A client of the daemon that listens on `socket`; [`Code::DaemonUnreachable`] when none does.
    pub async fn connect(socket: &Path) -> Result<Self, ApiError> {
        let client = Self { socket: socket.to_owned() };
        client.dial().await?;
        Ok(client)
    }

    async fn dial(&self) -> Result<UnixStream, ApiError> {
        let shown = self.socket.display();
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::PermissionDenied => ApiError::new(
                Code::PermissionDenied,
                format!("the control socket {shown} belongs to another user"),
            )
            .with_hint("run this as the daemon's user (root: `sudo -u USER shadowvault …`)"),
            _ => ApiError::new(Code::DaemonUnreachable, format!("no daemon answers on {shown}: {error}"))
                .with_hint("start it with `shadowvault daemon`"),
        };
        let place = Place::of(&self.socket).map_err(failed)?;
        let stream = UnixStream::connect(&place.path).await.map_err(failed)?;
        // A passphrase may follow: not to someone else's process. In a directory of others even root finds what they put there.
        if !is_own(&stream) {
            return Err(failed(io::ErrorKind::PermissionDenied.into()));
        }
        Ok(stream)
    }

    async fn get<T: DeserializeOwned>(&self, target: &str, within: Duration) -> Result<T, ApiError> {
        self.call(Method::GET, target, Bytes::new(), within).await
    }

    async fn post<T: DeserializeOwned>(
        &self,
        target: &str,
        body: &impl Serialize,
        within: Duration,
    ) -> Result<T, ApiError> {
        let body = serde_json::to_vec(body).map_err(|error| {
            ApiError::new(Code::UsageInvalid, format!("the request cannot be sent to the daemon: {error}"))
        })?;
        self.call(Method::POST, target, body.into(), within).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &str,
        body: Bytes,
        within: Duration,
    ) -> Result<T, ApiError> {
        let answer = tokio::time::timeout(within, self.exchange(method, target, body));
        let (status, body) = answer.await.map_err(|_| silent(within))??;
        if !status.is_success() {
            return Err(problem::read(status, &body));
        }
        let body = if body.is_empty() { &b"null"[..] } else { &body };
        serde_json::from_slice(body).map_err(|error| {
            let message = format!("the daemon's answer cannot be read: {error}");
            ApiError::new(Code::Internal, message).with_hint("is it the same version as this program?")
        })
    }

    async fn exchange(
        &self,
        method: Method,
        target: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), ApiError> {
        let (response, _driver) = self.send(method, target, body).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), limit::HTTP_ANSWER_BYTES_MAX).collect().await;
        Ok((status, body.map_err(|error| broken(&error))?.to_bytes()))
    }

    /// Sends a request on a connection of its own; the answer's body comes as long as the driver lives.
    async fn send(
        &self,
        method: Method,
        target: &str,
        body: Bytes,
    ) -> Result<(Response<Incoming>, Driver), ApiError> {
        self.send_for("*/*", method, target, body).await
    }

    /// Asks for an answer of type `kind` that comes in pieces, however long they take; it begins within `within`.
    async fn stream(
        &self,
        kind: &'static str,
        (method, target, body): (Method, &str, Bytes),
        within: Duration,
    ) -> Result<(Response<Incoming>, Driver), ApiError> {
        let opened = tokio::time::timeout(within, self.send_for(kind, method, target, body));
        let (response, driver) = opened.await.map_err(|_| silent(within))??;
        Ok((accepted(response).await?, driver))
    }

    async fn archive(&self, target: Target) -> Result<Dump, ApiError> {
        let request = (Method::GET, target.0.as_str(), Bytes::new());
        let (response, driver) = self.stream(stream::PARTS, request, limit::HTTP_LONG_CALL).await?;
        let (head, body) = response.into_parts();
        stream::read_dump(&head.headers, body, driver)
    }

    async fn lines<T: DeserializeOwned + Send + 'static>(
        &self,
        method: Method,
        target: &str,
        body: Bytes,
    ) -> Result<Batches<T>, ApiError> {
        let request = (method, target, body);
        let (response, driver) = self.stream(stream::LINES, request, limit::HTTP_LONG_CALL).await?;
        Ok(stream::read_list(response.into_body(), driver))
    }

    async fn send_for(
        &self,
        kind: &'static str,
        method: Method,
        target: &str,
        body: Bytes,
    ) -> Result<(Response<Incoming>, Driver), ApiError> {
        let mut request = request(method, target).header(header::ACCEPT, kind);
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        self.dispatch(request.body(Full::new(body)).map_err(|error| no_request(&error))?).await
    }

    /// Sends a request whose body may be a stream.
    async fn dispatch<B>(&self, request: Request<B>) -> Result<(Response<Incoming>, Driver), ApiError>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let stream = self.dial().await?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
        let driver = AbortOnDropHandle::new(tokio::spawn(connection));
        let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
        Ok((response, driver))
    }
}

fn request(method: Method, target: &str) -> request::Builder {
    Request::builder().method(method).uri(target).header(header::HOST, "localhost")
}

fn no_request(error: &dyn std::fmt::Display) -> ApiError {
    ApiError::new(Code::UsageInvalid, format!("not a request: {error}"))
}

/// The answer when it is one, else the problem that came instead.
async fn accepted(response: Response<Incoming>) -> Result<Response<Incoming>, ApiError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = Limited::new(response.into_body(), limit::HTTP_ANSWER_BYTES_MAX).collect().await;
    Err(problem::read(status, &body.map(|body| body.to_bytes()).unwrap_or_default()))
}

/// What moves a connection's bytes; dropping it closes the connection.
pub(super) type Driver = AbortOnDropHandle<hyper::Result<()>>;

pub(super) fn broken(what: &dyn std::fmt::Display) -> ApiError {
    ApiError::new(Code::DaemonUnreachable, format!("the connection to the daemon broke: {what}"))
        .with_hint("see its log; `shadowvault status` tells whether it runs")
}

fn silent(within: Duration) -> ApiError {
    let seconds = within.as_secs();
    ApiError::new(Code::NetworkTimeout, format!("the daemon did not answer within {seconds} s"))
}

impl Service for Client {
    fn identity(&self) -> Reply<'_, Identity> {
        Box::pin(self.get("/api/v1/id", limit::HTTP_SHORT_CALL))
    }

    fn status(&self) -> Reply<'_, Status> {
        Box::pin(self.get("/api/v1/status", limit::HTTP_SHORT_CALL))
    }

    fn health(&self) -> Reply<'_, Health> {
        // `/health` would turn a node that stops into an error.
        Box::pin(self.get("/live", limit::HTTP_SHORT_CALL))
    }

    fn peers(&self) -> Reply<'_, Vec<PeerInfo>> {
        Box::pin(self.get("/api/v1/peers", limit::HTTP_SHORT_CALL))
    }

    fn add_peer(&self, request: AddPeer) -> Reply<'_, PeerInfo> {
        Box::pin(async move { self.post("/api/v1/peers", &request, limit::HTTP_LONG_CALL).await })
    }

    fn remove_peer(&self, peer: String) -> Reply<'_, PeerInfo> {
        Box::pin(async move {
            let target = format!("/api/v1/peers/{}", escape(&peer));
            self.call(Method::DELETE, &target, Bytes::new(), limit::HTTP_LONG_CALL).await
        })
    }

    fn peer(&self, peer: String, dial: bool) -> Reply<'_, PeerDetail> {
        let mut target = Target::new(&format!("/api/v1/peers/{}", escape(&peer)));
        target.add("dial", dial.then_some("true"));
        Box::pin(async move { self.get(&target.0, limit::HTTP_LONG_CALL).await })
    }

    fn accept_peer(&self, peer: String) -> Reply<'_, PeerInfo> {
        let target = format!("/api/v1/peers/{}/accept", escape(&peer));
        Box::pin(async move { self.call(Method::POST, &target, Bytes::new(), limit::HTTP_LONG_CALL).await })
    }

    fn reject_peer(&self, peer: String) -> Reply<'_, PeerInfo> {
        let target = format!("/api/v1/peers/{}/reject", escape(&peer));
        Box::pin(async move { self.call(Method::POST, &target, Bytes::new(), limit::HTTP_LONG_CALL).await })
    }

    fn publish_peer_record(&self, record: String) -> Reply<'_, ()> {
        Box::pin(async move {
            self.post("/api/v1/peers/records", &SignedRecord { record }, limit::HTTP_LONG_CALL).await
        })
    }

    fn releasable(&self) -> Reply<'_, Releasable> {
        Box::pin(self.get("/api/v1/holds/release", limit::HTTP_SHORT_CALL))
    }

    fn release_holds(&self, record: String) -> Reply<'_, ReleaseReport> {
        Box::pin(async move {
            self.post("/api/v1/holds/release", &SignedRecord { record }, limit::HTTP_LONG_CALL).await
        })
    }

    fn invite(&self, request: InviteRequest) -> Reply<'_, Invitation> {
        Box::pin(async move { self.post("/api/v1/invites", &request, limit::HTTP_LONG_CALL).await })
    }

    fn invites(&self) -> Reply<'_, Vec<InviteInfo>> {
        Box::pin(self.get("/api/v1/invites", limit::HTTP_SHORT_CALL))
    }

    fn join(&self, request: JoinRequest) -> Reply<'_, Joined> {
        Box::pin(async move { self.post("/api/v1/join", &request, limit::HTTP_LONG_CALL).await })
    }

    fn devices(&self, before: Option<String>) -> Reply<'_, Vec<DeviceInfo>> {
        let mut target = Target::new("/api/v1/devices");
        target.add("before", before.as_deref());
        Box::pin(async move { self.get(&target.0, limit::HTTP_LONG_CALL).await })
    }

    fn revoke_device(&self, device: String, record: String) -> Reply<'_, DeviceInfo> {
        let target = format!("/api/v1/devices/{}/revoke", escape(&device));
        Box::pin(async move { self.post(&target, &SignedRecord { record }, limit::HTTP_LONG_CALL).await })
    }

    fn snapshots(&self, query: SnapshotQuery) -> Reply<'_, Vec<SnapshotInfo>> {
        let mut target = Target::new("/api/v1/snapshots");
        let latest = query.latest.map(|n| n.to_string());
        for (name, value) in
            [("host", &query.host), ("tag", &query.tag), ("path", &query.path), ("latest", &latest)]
        {
            target.add(name, value.as_deref());
        }
        Box::pin(async move { self.get(&target.0, limit::HTTP_LONG_CALL).await })
    }

    fn snapshot(&self, reference: String) -> Reply<'_, SnapshotInfo> {
        let target = format!("/api/v1/snapshots/{}", escape(&reference));
        Box::pin(async move { self.get(&target, limit::HTTP_LONG_CALL).await })
    }

    fn list(&self, query: TreeQuery) -> Reply<'_, Batches<EntryInfo>> {
        let mut target = placed(&query.snapshot, "tree");
        target.add("recursive", query.recursive.then_some("true"));
        Box::pin(async move { self.lines(Method::GET, &target.0, Bytes::new()).await })
    }

    fn find(&self, query: FindQuery) -> Reply<'_, Batches<Found>> {
        let body = serde_json::to_vec(&query).expect("plain data");
        Box::pin(async move { self.lines(Method::POST, "/api/v1/find", body.into()).await })
    }

    fn diff(&self, query: DiffQuery) -> Reply<'_, Batches<DiffItem>> {
        let mut target = Target::new("/api/v1/diff");
        target.add("from", Some(&query.from));
        target.add("to", Some(&query.to));
        target.add("metadata", query.metadata.then_some("true"));
        Box::pin(async move { self.lines(Method::GET, &target.0, Bytes::new()).await })
    }

    fn dump(&self, reference: String) -> Reply<'_, Dump> {
        Box::pin(self.archive(placed(&reference, "dump")))
    }

    fn export(&self, snapshot: Option<String>) -> Reply<'_, Dump> {
        let mut target = Target::new("/api/v1/export");
        target.add("snapshot", snapshot.as_deref());
        Box::pin(self.archive(target))
    }

    fn stats(&self, reference: Option<String>) -> Reply<'_, Stats> {
        let target = match reference {
            Some(reference) => format!("/api/v1/snapshots/{}/stats", escape(&reference)),
            None => "/api/v1/stats".to_owned(),
        };
        // Of a large snapshot every tree is read.
        Box::pin(async move { self.get(&target, limit::HTTP_COUNT_CALL).await })
    }

    fn tag(&self, request: TagRequest) -> Reply<'_, Vec<Tagged>> {
        Box::pin(async move { self.post("/api/v1/tags", &request, limit::HTTP_LONG_CALL).await })
    }

    fn start(&self, request: JobRequest) -> Reply<'_, JobId> {
        Box::pin(async move {
            let within = limit::HTTP_LONG_CALL;
            let accepted: Accepted = match &request {
                JobRequest::Backup(request) => self.post("/api/v1/backup", request, within).await,
                JobRequest::Restore(request) => self.post("/api/v1/restore", request, within).await,
                JobRequest::Verify(request) => self.post("/api/v1/verify", request, within).await,
                JobRequest::Repair(request) => self.post("/api/v1/repair", request, within).await,
                JobRequest::Import(request) => self.post("/api/v1/import", request, within).await,
                JobRequest::Forget(request) => self.post("/api/v1/forget", request, within).await,
                JobRequest::Gc(request) => self.post("/api/v1/gc/run", request, within).await,
            }?;
            Ok(accepted.job_id)
        })
    }

    fn gc_status(&self) -> Reply<'_, GcStatus> {
        Box::pin(self.get("/api/v1/gc/status", limit::HTTP_LONG_CALL))
    }

    fn verify_report(&self) -> Reply<'_, VerifyReport> {
        Box::pin(self.get("/api/v1/verify/report", limit::HTTP_SHORT_CALL))
    }

    fn job(&self, id: JobId) -> Reply<'_, JobInfo> {
        Box::pin(async move { self.get(&format!("/api/v1/jobs/{id}"), limit::HTTP_SHORT_CALL).await })
    }

    fn jobs(&self) -> Reply<'_, Vec<JobInfo>> {
        Box::pin(self.get("/api/v1/jobs", limit::HTTP_SHORT_CALL))
    }

    fn cancel(&self, id: JobId) -> Reply<'_, ()> {
        Box::pin(async move {
            let target = format!("/api/v1/jobs/{id}/cancel");
            self.call(Method::POST, &target, Bytes::new(), limit::HTTP_SHORT_CALL).await
        })
    }

    fn feed(&self, id: JobId, input: InputStream) -> Reply<'_, ()> {
        Box::pin(async move {
            // An input that breaks off breaks the connection: the daemon does not take it for whole.
            let body = StreamBody::new(input.map(|piece| piece.map(Frame::data)));
            let request = request(Method::PUT, &format!("/api/v1/jobs/{id}/input")).body(body);
            let (response, _driver) = self.dispatch(request.map_err(|error| no_request(&error))?).await?;
            accepted(response).await.map(|_| ())
        })
    }

    fn fates(&self, id: JobId) -> Reply<'_, FateStream> {
        Box::pin(async move {
            let target = format!("/api/v1/jobs/{id}/fates");
            let asked = self.send(Method::GET, &target, Bytes::new());
            let (response, driver) = tokio::time::timeout(limit::HTTP_LONG_CALL, asked)
                .await
                .map_err(|_| silent(limit::HTTP_LONG_CALL))??;
            Ok(fates::read(accepted(response).await?.into_body(), driver))
        })
    }

    fn explain(&self, request: ExplainRequest) -> Reply<'_, ExplainReport> {
        Box::pin(async move { self.post("/api/v1/backup/explain", &request, limit::HTTP_LONG_CALL).await })
    }

    fn events(&self, since: Option<u64>) -> Reply<'_, EventStream> {
        let mut target = Target::new("/api/v1/events");
        let since = since.map(|id| id.to_string());
        target.add("since", since.as_deref());
        Box::pin(async move {
            let request = (Method::GET, target.0.as_str(), Bytes::new());
            let (response, driver) =
                self.stream("text/event-stream", request, limit::HTTP_SHORT_CALL).await?;
            Ok(events::read(response.into_body(), driver))
        })
    }

    fn schedule(&self) -> Reply<'_, Vec<ScheduleInfo>> {
        Box::pin(self.get("/api/v1/schedule", limit::HTTP_SHORT_CALL))
    }

    fn add_schedule(&self, request: AddSchedule) -> Reply<'_, ScheduleInfo> {
        Box::pin(async move { self.post("/api/v1/schedule", &request, limit::HTTP_SHORT_CALL).await })
    }

    fn edit_schedule(&self, id: String, edit: EditSchedule) -> Reply<'_, ScheduleInfo> {
        Box::pin(async move {
            let target = format!("/api/v1/schedule/{}", escape(&id));
            let body = serde_json::to_vec(&edit).expect("plain data");
            self.call(Method::PATCH, &target, body.into(), limit::HTTP_SHORT_CALL).await
        })
    }

    fn remove_schedule(&self, id: String) -> Reply<'_, ()> {
        Box::pin(async move {
            let target = format!("/api/v1/schedule/{}", escape(&id));
            self.call(Method::DELETE, &target, Bytes::new(), limit::HTTP_SHORT_CALL).await
        })
    }

    fn run_schedule(&self, id: String) -> Reply<'_, ScheduleInfo> {
        Box::pin(async move {
            let target = format!("/api/v1/schedule/{}/run", escape(&id));
            self.call(Method::POST, &target, Bytes::new(), limit::HTTP_SHORT_CALL).await
        })
    }

    fn metrics(&self) -> Reply<'_, String> {
        let text = "metrics are text: ask the daemon's metrics_port, or the summary";
        Box::pin(async move { Err(ApiError::new(Code::UsageInvalid, text)) })
    }

    fn metrics_summary(&self) -> Reply<'_, BTreeMap<String, f64>> {
        Box::pin(self.get("/api/v1/metrics/summary", limit::HTTP_SHORT_CALL))
    }

    fn config(&self) -> Reply<'_, Vec<ConfigRow>> {
        Box::pin(self.get("/api/v1/config", limit::HTTP_SHORT_CALL))
    }

    fn reload(&self) -> Reply<'_, Reloaded> {
        Box::pin(async move {
            self.call(Method::POST, "/api/v1/config/reload", Bytes::new(), limit::HTTP_SHORT_CALL).await
        })
    }

    fn unlock(&self, passphrase: String) -> Reply<'_, ()> {
        Box::pin(
            async move { self.post("/api/v1/unlock", &Unlock { passphrase }, limit::HTTP_LONG_CALL).await },
        )
    }
}

/// The route of `what` in the snapshot of a reference, with its path as query.
fn placed(reference: &str, what: &str) -> Target {
    let (id, path) = match reference.split_once(':') {
        Some((id, path)) => (id, Some(path)),
        None => (reference, None),
    };
    let mut target = Target::new(&format!("/api/v1/snapshots/{}/{what}", escape(id)));
    target.add("path", path);
    target
}

/// A path with a query that grows.
struct Target(String);

impl Target {
    fn new(path: &str) -> Self {
        Self(path.to_owned())
    }

    fn add(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            let joint = if self.0.contains('?') { '&' } else { '?' };
            self.0 += &format!("{joint}{name}={}", escape(value));
        }
    }
}

/// Percent-encodes all but RFC 3986's unreserved characters.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out += &format!("%{byte:02X}"),
        }
    }
    out
}
