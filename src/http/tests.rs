//! The router and the client against a service that only remembers what it was asked, over a real Unix socket.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::oneshot;

use super::{Client, bind, serve};
use crate::api::{
    AddPeer, AddSchedule, ApiError, BackupRequest, Batches, ConfigRow, Coverage, DamagedFile, DeviceInfo,
    DiffChange, DiffItem, DiffQuery, DiffSide, DiffStatistics, Dump, EditSchedule, EntryInfo, Event,
    EventStream, ExplainReport, ExplainRequest, FateStream, FindQuery, Found, GcStatus, Happening, Health,
    HeldHead, Identity, ImportRequest, InputStream, Invitation, InviteInfo, InviteRequest, JobId, JobInfo,
    JobKind, JobOutcome, JobRequest, JobState, JoinRequest, Joined, PathFate, PathProblem, PeerDetail,
    PeerInfo, PeerWay, Progress, Reachability, Releasable, ReleaseReport, Reloaded, RepairReport,
    RepairRequest, Reply, RestoreRequest, Role, ScheduleInfo, ScheduleSource, Service, SnapshotInfo,
    SnapshotQuery, Stats, Status, StorageStatus, TagRequest, Tagged, TicketText, TreeQuery, Verdict,
    VerifyAllReport, VerifyOutcomeShape, VerifyReport, VerifyRequest, VerifySnapshotReport,
};
use crate::base::{ChunkId, Code, DeviceId, HeadId, PackId, PeerId, SnapshotId, VaultId, limit};

#[derive(Default)]
struct Fake {
    asked: Mutex<Vec<String>>,
    health: Mutex<Option<String>>,
    next_job: Mutex<u64>,
}

impl Fake {
    fn note<T: Send + 'static>(&self, what: String, answer: Result<T, ApiError>) -> Reply<'_, T> {
        self.asked.lock().unwrap().push(what);
        Box::pin(std::future::ready(answer))
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

fn peer() -> PeerInfo {
    PeerInfo {
        id: PeerId::new([7; 32]),
        name: Some("bob".into()),
        standing: "allowed".into(),
        state: Some("available".into()),
        room_bytes: None,
        connected: true,
        via: Some("direct".into()),
        addresses: vec!["/ip4/10.0.0.1/tcp/9000".into()],
        last_seen: None,
        last_error: None,
        packs_held: 1,
        bytes_held: 2,
        packs_stored: 3,
        bytes_stored: 4,
        bytes_on_hold: 0,
        audit: None,
    }
}

fn detail() -> PeerDetail {
    PeerDetail {
        peer: peer(),
        words: "a b c d".into(),
        transport: Some("tcp".into()),
        round_trip_ms: Some(1.5),
        agent: None,
        lends: Some(5),
        quota: None,
        ways: vec![PeerWay {
            address: "/ip4/10.0.0.1/tcp/9000".into(),
            last_good: None,
            error: Some("refused".into()),
            advice: None,
        }],
        advice: None,
        here: Reachability::default(),
    }
}

fn invitation() -> Invitation {
    Invitation {
        ticket: TicketText("svt1x".into()),
        id: "ab".into(),
        expires: "2026-11-22T10:00:00.000Z".into(),
        role: Role::Mutual,
        quota: 7,
    }
}

fn joined() -> Joined {
    Joined {
        peer: PeerId::new([7; 32]),
        name: None,
        words: "a b c d".into(),
        role: Role::Storage,
        quota: 7,
        lend: 7,
        connected: true,
    }
}

fn device() -> DeviceInfo {
    DeviceInfo {
        id: crate::base::DeviceId::new([6; 32]),
        name: "desk".into(),
        this: true,
        role: "writer".into(),
        peer: Some(PeerId::new([1; 32])),
        head: None,
        connected: true,
        last_seen: None,
        revoked: None,
        branches: Vec::new(),
        hidden: 0,
        carried_on_by: None,
    }
}

fn identity() -> Identity {
    Identity { peer_id: PeerId::new([1; 32]), addresses: vec!["/ip4/127.0.0.1/tcp/9".into()], vault_id: None }
}

fn status() -> Status {
    Status {
        verdict: Verdict::AtRisk,
        problems: vec!["one".into()],
        version: "0.1.0".into(),
        uptime_seconds: 5,
        identity: identity(),
        snapshots: 2,
        snapshots_safe: 1,
        last_snapshot: None,
        under_replicated_bytes: 9,
        repairs: crate::api::RepairQueueStatus::default(),
        replication: crate::api::ReplicationStatus::default(),
        copies_wanted: 2,
        last_verify: None,
        scrub: Coverage::default(),
        drill: None,
        storage: StorageStatus::default(),
        peers: vec![peer()],
        jobs: vec![job(JobId(4))],
        reachability: Reachability { state: "no".into(), ..Reachability::default() },
        listeners: BTreeMap::from([("health".into(), "127.0.0.1:8080".into())]),
    }
}

/// A finished verification: the answer with the most nesting.
fn job(id: JobId) -> JobInfo {
    let one = VerifySnapshotReport {
        snapshot_id: SnapshotId::new([2; 32]).to_string(),
        total_chunks: 3,
        verified_chunks: 1,
        missing_chunks: vec![ChunkId::new([3; 32])],
        corrupted_chunks: vec![],
        unread_chunks: 0,
        damaged: None,
        signature_valid: true,
        success: false,
        damaged_files: vec![DamagedFile { path: "/a".into(), chunk: ChunkId::new([3; 32]) }],
        damaged_files_total: 1,
    };
    let repair = RepairReport { sources: BTreeMap::from([("bob".into(), 7)]), ..RepairReport::default() };
    JobInfo {
        id,
        kind: JobKind::Verify,
        state: JobState::Done,
        started: "2026-11-22T10:00:00.000Z".into(),
        ended: Some("2026-11-22T10:00:01.000Z".into()),
        progress: Progress { percent_done: 0.5, ..Progress::default() },
        problems: vec![PathProblem { path: "/a".into(), reason: "no".into() }],
        outcome: Some(JobOutcome::Verify(VerifyReport {
            result: VerifyOutcomeShape::All(VerifyAllReport {
                total_snapshots: 1,
                valid_snapshots: 0,
                invalid_snapshots: 1,
                health_percentage: 0.0,
                snapshots: vec![one],
            }),
            packs_checked: 1,
            bytes_checked: 2,
            damaged_packs: vec![PackId::new([4; 32])],
            damaged_records: vec!["pack list 01020304 is missing".into()],
            unread_packs: 0,
            unread_bytes: 0,
            unreachable_packs: 0,
            unreachable_bytes: 0,
            complete: true,
            total_duration: 1.5,
            time: String::new(),
            coverage: None,
            audits: vec![],
            repair: Some(Box::new(repair)),
        })),
        error: Some(ApiError::new(Code::CopiesMissing, "one copy is missing").with_hint("wait")),
    }
}

fn task() -> ScheduleInfo {
    ScheduleInfo {
        id: "docs".into(),
        kind: "backup".into(),
        paths: vec!["/a".into()],
        rhythm: "every 1d".into(),
        enabled: true,
        source: ScheduleSource::Added,
        running: false,
        next: None,
        tries: 1,
        last: None,
    }
}

fn event_list() -> Vec<Event> {
    let event = |id, what| Event { id, time: "2026-11-22T10:00:00.000Z".into(), what };
    let (job, kind) = (JobId(4), JobKind::Backup);
    let code = Some("INCOMPLETE".to_owned());
    vec![
        event(7, Happening::Gap),
        event(8, Happening::JobEnded { job, kind, state: JobState::Done, code }),
        event(9, Happening::PeerConnected { peer: PeerId::new([1; 32]) }),
        event(10, Happening::ConfigRejected { message: "line 1\nline 2: \u{1b}".into() }),
    ]
}

type Stream<T> = std::pin::Pin<Box<dyn futures::Stream<Item = Result<T, ApiError>> + Send>>;

fn stream_of<T: Send + 'static>(
    items: impl IntoIterator<Item = Result<T, ApiError>, IntoIter: Send + 'static>,
) -> Stream<T> {
    Box::pin(futures::stream::iter(items))
}

fn gone() -> ApiError {
    ApiError::new(Code::ChunkNotFound, "chunk is gone").with_hint("repair")
}

fn entry(path: &str) -> EntryInfo {
    EntryInfo {
        path: path.into(),
        path_encoded: None,
        kind: "file".into(),
        mode: 0o644,
        uid: 1,
        gid: 2,
        user: "u".into(),
        group: "g".into(),
        size: 3,
        mtime: "t".into(),
        btime: None,
        target: None,
    }
}

fn diff_items() -> Vec<DiffItem> {
    let change = DiffChange { path: "/a".into(), path_encoded: None, modifier: "+".into() };
    let counted = DiffStatistics {
        source_snapshot: SnapshotId::new([2; 32]),
        target_snapshot: SnapshotId::new([3; 32]),
        changed_files: 0,
        added: DiffSide { files: 1, ..DiffSide::default() },
        removed: DiffSide::default(),
    };
    vec![DiffItem::Change(change), DiffItem::Statistics(counted)]
}

/// With an empty one: it must not look like the end.
fn dump_parts() -> Vec<Bytes> {
    vec![Bytes::from_static(b"abc"), Bytes::new(), Bytes::from(vec![b'x'; 200_000])]
}

impl Service for Fake {
    fn identity(&self) -> Reply<'_, Identity> {
        self.note("identity".into(), Ok(identity()))
    }
    fn status(&self) -> Reply<'_, Status> {
        self.note("status".into(), Ok(status()))
    }
    fn health(&self) -> Reply<'_, Health> {
        let status = self.health.lock().unwrap().clone().unwrap_or("ok".into());
        self.note("health".into(), Ok(Health { status, uptime: 1, components: BTreeMap::new() }))
    }
    fn peers(&self) -> Reply<'_, Vec<PeerInfo>> {
        self.note("peers".into(), Ok(vec![peer()]))
    }
    fn add_peer(&self, request: AddPeer) -> Reply<'_, PeerInfo> {
        self.note(format!("add {} {:?}", request.address, request.name), Ok(peer()))
    }
    fn remove_peer(&self, peer: String) -> Reply<'_, PeerInfo> {
        let error = ApiError::new(Code::PeerNotFound, format!("no peer {peer}")).with_hint("list them");
        self.note(format!("remove {peer}"), Err(error))
    }
    fn peer(&self, peer: String, dial: bool) -> Reply<'_, PeerDetail> {
        self.note(format!("peer {peer} {dial}"), Ok(detail()))
    }

    fn accept_peer(&self, name: String) -> Reply<'_, PeerInfo> {
        self.note(format!("accept {name}"), Ok(peer()))
    }

    fn reject_peer(&self, name: String) -> Reply<'_, PeerInfo> {
        self.note(format!("reject {name}"), Ok(peer()))
    }

    fn publish_peer_record(&self, record: String) -> Reply<'_, ()> {
        self.note(format!("record {record}"), Ok(()))
    }

    fn releasable(&self) -> Reply<'_, Releasable> {
        let head = HeldHead { device: DeviceId::new([1; 32]), seq: 3, id: HeadId::new([2; 32]) };
        let releasable = Releasable { vault_id: VaultId::new([4; 32]), heads: vec![head] };
        self.note("releasable".into(), Ok(releasable))
    }

    fn release_holds(&self, record: String) -> Reply<'_, ReleaseReport> {
        let report = ReleaseReport { told: vec![peer().id], waiting: vec![] };
        self.note(format!("release {record}"), Ok(report))
    }

    fn invite(&self, request: InviteRequest) -> Reply<'_, Invitation> {
        self.note(format!("invite {:?} {:?}", request.name, request.role), Ok(invitation()))
    }

    fn invites(&self) -> Reply<'_, Vec<InviteInfo>> {
        self.note("invites".into(), Ok(vec![]))
    }

    fn join(&self, request: JoinRequest) -> Reply<'_, Joined> {
        self.note(format!("join {}", request.ticket.0), Ok(joined()))
    }

    fn devices(&self, before: Option<String>) -> Reply<'_, Vec<DeviceInfo>> {
        self.note(format!("devices {before:?}"), Ok(vec![device()]))
    }

    fn revoke_device(&self, name: String, record: String) -> Reply<'_, DeviceInfo> {
        self.note(format!("revoke {name} {record}"), Ok(device()))
    }

    fn snapshots(&self, query: SnapshotQuery) -> Reply<'_, Vec<SnapshotInfo>> {
        self.note(format!("{query:?}"), Ok(vec![]))
    }
    fn list(&self, query: TreeQuery) -> Reply<'_, Batches<EntryInfo>> {
        let end = query.snapshot.starts_with("bad").then(|| Err(gone()));
        let batches = [Ok(vec![entry("/a"), entry("/b\n\u{1b}")]), Ok(vec![entry("/c")])];
        self.note(format!("{query:?}"), Ok(stream_of(batches.into_iter().chain(end))))
    }
    fn find(&self, query: FindQuery) -> Reply<'_, Batches<Found>> {
        let found =
            Found { snapshot: SnapshotId::new([2; 32]), time: "t".into(), entry: entry(&query.pattern) };
        self.note(format!("{query:?}"), Ok(stream_of([Ok(vec![found])])))
    }
    fn diff(&self, query: DiffQuery) -> Reply<'_, Batches<DiffItem>> {
        self.note(format!("{query:?}"), Ok(stream_of([Ok(diff_items())])))
    }
    fn dump(&self, reference: String) -> Reply<'_, Dump> {
        let end = reference.starts_with("bad").then(|| Err(gone()));
        let archive = reference.ends_with("dir");
        let parts = dump_parts().into_iter().map(Ok).chain(end);
        let bytes = (!archive).then_some(200_003);
        self.note(format!("dump {reference}"), Ok(Dump { archive, bytes, parts: stream_of(parts) }))
    }
    fn export(&self, snapshot: Option<String>) -> Reply<'_, Dump> {
        let parts = stream_of(dump_parts().into_iter().map(Ok));
        self.note(format!("export {snapshot:?}"), Ok(Dump { archive: true, bytes: None, parts }))
    }
    fn stats(&self, reference: Option<String>) -> Reply<'_, Stats> {
        self.note(format!("stats {reference:?}"), Ok(Stats { total_size: 7, ..Stats::default() }))
    }
    fn tag(&self, request: TagRequest) -> Reply<'_, Vec<Tagged>> {
        let id = SnapshotId::new([2; 32]);
        let tagged =
            Tagged { snapshot_id: id, old_snapshot_id: id, tags: request.add.clone(), pinned: false };
        self.note(format!("{request:?}"), Ok(vec![tagged]))
    }
    fn snapshot(&self, reference: String) -> Reply<'_, SnapshotInfo> {
        self.note(format!("snapshot {reference}"), Err(gone()))
    }
    fn gc_status(&self) -> Reply<'_, GcStatus> {
        self.note("gc status".into(), Ok(GcStatus { waiting_packs: 3, ..GcStatus::default() }))
    }
    fn start(&self, request: JobRequest) -> Reply<'_, JobId> {
        let mut next = self.next_job.lock().unwrap();
        *next += 1;
        self.note(format!("{request:?}"), Ok(JobId(*next)))
    }
    fn verify_report(&self) -> Reply<'_, VerifyReport> {
        self.note("verify report".into(), Err(ApiError::new(Code::SnapshotNotFound, "nothing yet")))
    }

    fn job(&self, id: JobId) -> Reply<'_, JobInfo> {
        self.note(format!("job {id}"), Ok(job(id)))
    }
    fn jobs(&self) -> Reply<'_, Vec<JobInfo>> {
        self.note("jobs".into(), Ok(vec![job(JobId(2)), job(JobId(1))]))
    }
    fn cancel(&self, id: JobId) -> Reply<'_, ()> {
        self.note(format!("cancel {id}"), Ok(()))
    }
    fn feed(&self, id: JobId, mut input: InputStream) -> Reply<'_, ()> {
        Box::pin(async move {
            let mut bytes = Vec::new();
            let ended = loop {
                match input.next().await {
                    Some(Ok(piece)) => bytes.extend_from_slice(&piece),
                    Some(Err(error)) => break Err(error),
                    None => break Ok(()),
                }
            };
            self.asked.lock().unwrap().push(format!("feed {id} {} {}", bytes.len(), ended.is_ok()));
            ended
        })
    }
    fn fates(&self, id: JobId) -> Reply<'_, FateStream> {
        let fate =
            |n: usize| PathFate { fate: "new".into(), path: format!("/{n}"), why: Some("x".repeat(500)) };
        let stream: FateStream = Box::pin(futures::stream::iter((0..1000).map(move |n| Ok(fate(n)))));
        self.note(format!("fates {id}"), Ok(stream))
    }
    fn explain(&self, request: ExplainRequest) -> Reply<'_, ExplainReport> {
        self.note(
            format!("{request:?}"),
            Ok(ExplainReport { rule: "no-rule".into(), ..ExplainReport::default() }),
        )
    }
    fn events(&self, since: Option<u64>) -> Reply<'_, EventStream> {
        let events = event_list().into_iter().filter(move |event| since.is_none_or(|seen| event.id > seen));
        let stream: EventStream = Box::pin(futures::stream::iter(events.map(Ok)));
        self.note(format!("events {since:?}"), Ok(stream))
    }
    fn schedule(&self) -> Reply<'_, Vec<ScheduleInfo>> {
        self.note("schedule".into(), Ok(vec![task()]))
    }
    fn add_schedule(&self, request: AddSchedule) -> Reply<'_, ScheduleInfo> {
        self.note(format!("{request:?}"), Ok(task()))
    }
    fn edit_schedule(&self, id: String, edit: EditSchedule) -> Reply<'_, ScheduleInfo> {
        self.note(format!("{id} {edit:?}"), Ok(task()))
    }
    fn remove_schedule(&self, id: String) -> Reply<'_, ()> {
        self.note(format!("unschedule {id}"), Ok(()))
    }
    fn run_schedule(&self, id: String) -> Reply<'_, ScheduleInfo> {
        self.note(format!("run {id}"), Ok(task()))
    }
    fn metrics(&self) -> Reply<'_, String> {
        self.note("metrics".into(), Ok("# HELP a b\n# TYPE a gauge\na 1\n".into()))
    }
    fn metrics_summary(&self) -> Reply<'_, BTreeMap<String, f64>> {
        self.note("summary".into(), Ok(BTreeMap::from([("a{b=\"c\"}".into(), 1.5)])))
    }
    fn config(&self) -> Reply<'_, Vec<ConfigRow>> {
        let row = ConfigRow { key: "listen_port".into(), value: "9000".into(), origin: "default".into() };
        self.note("config".into(), Ok(vec![row]))
    }
    fn reload(&self) -> Reply<'_, Reloaded> {
        self.note(
            "reload".into(),
            Ok(Reloaded { changed: vec!["replication.copies".into()], restart: vec![] }),
        )
    }
    fn unlock(&self, passphrase: String) -> Reply<'_, ()> {
        let right = passphrase == "right";
        self.note("unlock".into(), right.then_some(()).ok_or(ApiError::new(Code::WrongPassphrase, "wrong")))
    }
}

/// Serves a fake while `test` runs, then checks that the server ends.
fn served<F: Future<Output = ()>>(test: impl FnOnce(Arc<Fake>, std::path::PathBuf) -> F) {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("run/control.sock");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let fake = Arc::new(Fake::default());
        let (stop, stopped) = oneshot::channel::<()>();
        let listener = bind(&socket).unwrap();
        let server = tokio::spawn(serve(listener, fake.clone(), async {
            stopped.await.ok();
        }));
        test(fake, socket).await;
        stop.send(()).unwrap();
        server.await.unwrap().unwrap();
    });
}

/// One raw request; the head and the body of the answer.
async fn raw(socket: &Path, request: &str) -> (String, Value) {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    // A refused body may end in a reset after the answer has arrived.
    stream.read_to_string(&mut answer).await.ok();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_lowercase(), serde_json::from_str(body).unwrap_or(Value::Null))
}

async fn send(socket: &Path, method: &str, target: &str, body: &str) -> (String, Value) {
    let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
    let length = body.len();
    let head = format!("{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{kind}");
    raw(socket, &format!("{head}Content-Length: {length}\r\n\r\n{body}")).await
}

#[test]
fn every_call_of_the_client_reaches_the_service_unchanged() {
    served(|fake, socket| async move {
        let client = Client::connect(&socket).await.unwrap();
        assert_eq!(client.identity().await.unwrap(), identity());
        assert_eq!(client.status().await.unwrap(), status());
        assert_eq!(client.health().await.unwrap().status, "ok");
        assert_eq!(client.peers().await.unwrap(), [peer()]);
        let add = AddPeer { address: "/ip4/1.2.3.4/tcp/1".into(), name: Some("b".into()) };
        assert_eq!(client.add_peer(add).await.unwrap(), peer());
        assert_eq!(fake.asked().last().unwrap(), "add /ip4/1.2.3.4/tcp/1 Some(\"b\")");

        assert_eq!(client.releasable().await.unwrap().heads[0].seq, 3);
        assert_eq!(client.release_holds("00ff".into()).await.unwrap().told, [peer().id]);
        assert_eq!(fake.asked(), ["releasable", "release 00ff"]);

        let query = SnapshotQuery {
            host: Some("a b&c=ü".into()),
            tag: None,
            path: Some("/x?y#z".into()),
            latest: Some(3),
        };
        client.snapshots(query.clone()).await.unwrap();
        let tree = TreeQuery { snapshot: "latest~2:/a/b: c%20".into(), recursive: true };
        let listed = client.list(tree.clone()).await.unwrap().try_concat().await.unwrap();
        assert_eq!(listed, [entry("/a"), entry("/b\n\u{1b}"), entry("/c")]);
        let plain = TreeQuery { snapshot: "abcd".into(), recursive: false };
        drop(client.list(plain.clone()).await.unwrap());
        assert_eq!(fake.asked(), [format!("{query:?}"), format!("{tree:?}"), format!("{plain:?}")]);

        let requests = [
            JobRequest::Backup(BackupRequest { paths: vec!["/a".into()], ..BackupRequest::default() }),
            JobRequest::Restore(RestoreRequest { snapshot: "latest".into(), ..RestoreRequest::default() }),
            JobRequest::Verify(VerifyRequest { quick: true, ..VerifyRequest::default() }),
            JobRequest::Repair(RepairRequest { dry_run: true, ..RepairRequest::default() }),
            JobRequest::Import(ImportRequest { bytes: 7 }),
        ];
        for (n, request) in (1..).zip(requests) {
            assert_eq!(client.start(request.clone()).await.unwrap(), JobId(n));
            assert_eq!(fake.asked(), [format!("{request:?}")]);
        }
        assert_eq!(client.job(JobId(9)).await.unwrap(), job(JobId(9)));
        assert_eq!(client.jobs().await.unwrap().len(), 2);
        client.cancel(JobId(9)).await.unwrap();
        client.unlock("right".into()).await.unwrap();
        assert_eq!(client.schedule().await.unwrap(), [task()]);
        let add = AddSchedule { id: "docs".into(), every_ms: Some(1), ..AddSchedule::default() };
        assert_eq!(client.add_schedule(add.clone()).await.unwrap(), task());
        let edit = EditSchedule { enabled: Some(false) };
        client.edit_schedule("a b".into(), edit).await.unwrap();
        client.remove_schedule("docs".into()).await.unwrap();
        client.run_schedule("docs".into()).await.unwrap();
        let asked = fake.asked();
        let expected =
            [format!("{add:?}"), format!("a b {edit:?}"), "unschedule docs".into(), "run docs".into()];
        assert_eq!(asked[asked.len() - 4..], expected);
        assert_eq!(client.metrics_summary().await.unwrap()["a{b=\"c\"}"], 1.5);
        assert_eq!(client.config().await.unwrap()[0].key, "listen_port");
        assert_eq!(client.reload().await.unwrap().changed, ["replication.copies"]);
    });
}

#[test]
fn long_answers_come_in_pieces_through_the_client() {
    served(|fake, socket| async move {
        let client = Client::connect(&socket).await.unwrap();
        let snapshots = vec!["a".into(), "b".into()];
        let query = FindQuery { pattern: "*.ü".into(), snapshots, ..FindQuery::default() };
        let found = client.find(query.clone()).await.unwrap().try_concat().await.unwrap();
        assert_eq!(found[0].entry, entry("*.ü"));
        let diff = DiffQuery { from: "a:/x y".into(), to: "b::/%FF".into(), metadata: true };
        let items = client.diff(diff.clone()).await.unwrap().try_concat().await.unwrap();
        assert_eq!(items, diff_items());
        for (reference, archive) in [("latest:/a file", false), ("latest::/%FF/dir", true)] {
            let dump = client.dump(reference.into()).await.unwrap();
            assert_eq!((dump.archive, dump.bytes), (archive, (!archive).then_some(200_003)));
            let parts: Vec<Bytes> = dump.parts.try_collect().await.unwrap();
            assert!(parts.concat() == dump_parts().concat());
        }
        assert_eq!(client.stats(Some("ab".into())).await.unwrap().total_size, 7);
        assert_eq!(client.stats(None).await.unwrap().total_size, 7);
        let tags = TagRequest { snapshots: vec!["a".into()], add: vec!["x".into()], ..TagRequest::default() };
        assert_eq!(client.tag(tags.clone()).await.unwrap()[0].tags, ["x"]);
        let dumps = ["dump latest:/a file", "dump latest::/%FF/dir"].map(str::to_owned);
        let asked = [format!("{query:?}"), format!("{diff:?}")].into_iter().chain(dumps);
        let rest = ["stats Some(\"ab\")".to_owned(), "stats None".to_owned(), format!("{tags:?}")];
        assert_eq!(fake.asked(), asked.chain(rest).collect::<Vec<_>>());
    });
}

/// What is not whole must not look whole: to this program by an error with its code, to others by a body without end.
#[test]
fn an_answer_that_breaks_off_never_ends_cleanly() {
    served(|_, socket| async move {
        let client = Client::connect(&socket).await.unwrap();
        let bad = TreeQuery { snapshot: "bad".into(), recursive: false };
        let mut entries = client.list(bad).await.unwrap();
        let mut found = Vec::new();
        let error = loop {
            match entries.try_next().await {
                Ok(batch) => found.extend(batch.expect("an error comes first")),
                Err(error) => break error,
            }
        };
        assert_eq!((found.len(), error), (3, gone()));
        let dump = client.dump("bad:/a".into()).await.unwrap();
        let parts: Vec<Result<Bytes, ApiError>> = dump.parts.collect().await;
        assert_eq!(parts.last().unwrap().as_ref().unwrap_err(), &gone());

        let table = [
            ("ab/tree", true),
            ("bad/tree", false),
            ("ab/dump?path=/dir", true),
            ("bad/dump?path=/dir", false),
        ];
        for (target, is_whole) in table {
            let mut stream = UnixStream::connect(&socket).await.unwrap();
            let head = format!("GET /api/v1/snapshots/{target} HTTP/1.1\r\nHost: x\r\n");
            stream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.ok();
            assert_eq!(answer.ends_with(b"\r\n0\r\n\r\n"), is_whole, "{target}");
        }
        let (head, _) = send(&socket, "GET", "/api/v1/snapshots/ab/dump?path=/a", "").await;
        assert!(head.contains("content-length: 200003") && head.contains("octet-stream"), "{head}");
        let (_, body) = send(&socket, "GET", "/api/v1/stats", "").await;
        assert_eq!(body["total_size"], 7);
    });
}

#[test]
fn an_input_is_streamed_and_one_that_breaks_off_is_not_taken_for_whole() {
    served(|fake, socket| async move {
        let client = Client::connect(&socket).await.unwrap();
        let pieces = |broken: bool| -> InputStream {
            // More than any limit of a request's body.
            let whole = (0..64).map(|_| Ok(bytes::Bytes::from(vec![7; 256 * limit::KIB])));
            let end = broken.then(|| Err(ApiError::new(Code::IoFailed, "gone")));
            Box::pin(futures::stream::iter(whole.chain(end)))
        };
        client.feed(JobId(3), pieces(false)).await.unwrap();
        assert_eq!(fake.asked(), [format!("feed 3 {} true", 64 * 256 * limit::KIB)]);
        client.feed(JobId(3), pieces(true)).await.unwrap_err();
        while fake.asked.lock().unwrap().is_empty() {
            // The node hears of it when the connection closes.
            tokio::task::yield_now().await;
        }
        let asked = fake.asked();
        assert!(asked[0].starts_with("feed 3 ") && asked[0].ends_with("false"), "{asked:?}");

        let request = ExplainRequest { path: "/a".into(), ..ExplainRequest::default() };
        assert_eq!(client.explain(request.clone()).await.unwrap().rule, "no-rule");
        assert_eq!(fake.asked(), [format!("{request:?}")]);
        let paths: Vec<String> =
            client.fates(JobId(4)).await.unwrap().map(|fate| fate.unwrap().path).collect().await;
        assert_eq!(paths, (0..1000).map(|n| format!("/{n}")).collect::<Vec<_>>());
    });
}

#[test]
fn events_stream_and_are_taken_up_by_their_number() {
    served(|fake, socket| async move {
        let client = Client::connect(&socket).await.unwrap();
        for (since, from) in [(None, 0), (Some(7), 1), (Some(10), 4)] {
            let stream = client.events(since).await.unwrap();
            let events: Vec<Event> = stream.map(Result::unwrap).collect().await;
            assert_eq!(events, event_list()[from..]);
            assert_eq!(fake.asked(), [format!("events {since:?}")]);
        }
        let request =
            |head: &str| format!("GET /api/v1/events HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{head}\r\n");
        let (head, _) = raw(&socket, &request("Last-Event-ID: 9\r\n")).await;
        assert!(head.contains("content-type: text/event-stream"), "{head}");
        assert_eq!(fake.asked(), ["events Some(9)"]);
        let (head, problem) = raw(&socket, &request("Last-Event-ID: x\r\n")).await;
        assert!(head.starts_with("http/1.1 400") && problem["code"] == "USAGE_INVALID", "{problem}");
    });
}

#[test]
fn devices_are_listed_as_of_a_moment_and_revoked_by_name() {
    served(|fake, socket| async move {
        let client = Client::connect(&socket).await.unwrap();
        assert_eq!(client.devices(Some("2026-11-26T00:00:00Z".into())).await.unwrap(), [device()]);
        assert_eq!(client.revoke_device("old desk".into(), "ab".into()).await.unwrap(), device());
        let asked = ["devices Some(\"2026-11-26T00:00:00Z\")", "revoke old desk ab"];
        assert_eq!(fake.asked(), asked);
    });
}

#[test]
fn errors_arrive_with_code_words_and_cure() {
    served(|fake, socket| async move {
        let client = Client::connect(&socket).await.unwrap();
        let error = client.remove_peer("a/b ?".into()).await.unwrap_err();
        let sent = ApiError::new(Code::PeerNotFound, "no peer a/b ?").with_hint("list them");
        assert_eq!(error, sent);
        assert_eq!(fake.asked(), ["remove a/b ?"]);
        assert_eq!(client.unlock("no".into()).await.unwrap_err().kind(), Code::WrongPassphrase);

        let (head, body) = send(&socket, "DELETE", "/api/v1/peers/zed", "").await;
        assert!(head.starts_with("http/1.1 404") && head.contains("application/problem+json"), "{head}");
        let expected = json!({
            "type": "urn:shadowvault:error:PEER_NOT_FOUND", "title": "peer not found", "status": 404,
            "detail": "no peer zed", "code": "PEER_NOT_FOUND", "hint": "list them", "retryable": true,
        });
        assert_eq!(body, expected);
    });
}

#[test]
fn requests_that_cannot_be_understood_are_refused_with_a_problem() {
    served(|fake, socket| async move {
        let table = [
            ("GET", "/api/v1/nothing", "", 404),
            ("GET", "/nothing", "", 404),
            ("PUT", "/api/v1/status", "", 405),
            ("POST", "/api/v1/backup", "{\"paths\":", 400),
            ("POST", "/api/v1/backup", "{\"pathz\":[]}", 422),
            ("POST", "/api/v1/backup", "[1]", 422),
            ("POST", "/api/v1/peers", "", 422),
            ("POST", "/api/v1/unlock", "{}", 422),
            ("GET", "/api/v1/snapshots?latest=many", "", 400),
            ("GET", "/api/v1/snapshots?lastest=1", "", 400),
            ("GET", "/api/v1/snapshots/ab/tree?recursive=perhaps", "", 400),
            ("GET", "/api/v1/jobs/first", "", 400),
            ("DELETE", "/api/v1/peers/%ff", "", 400),
        ];
        for (method, target, body, status) in table {
            let (head, problem) = send(&socket, method, target, body).await;
            assert!(head.starts_with(&format!("http/1.1 {status}")), "{method} {target}: {head}");
            assert!(head.contains("application/problem+json"), "{method} {target}: {head}");
            assert_eq!(problem["code"], "USAGE_INVALID", "{method} {target}");
            assert_eq!(problem["status"], status, "{method} {target}");
            assert!(!problem["detail"].as_str().unwrap().is_empty(), "{method} {target}");
        }
        let plain =
            "POST /api/v1/backup HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}";
        assert!(raw(&socket, plain).await.0.starts_with("http/1.1 415"));
        assert_eq!(fake.asked(), [""; 0]);
    });
}

#[test]
fn a_huge_body_is_refused_and_the_node_goes_on() {
    served(|fake, socket| async move {
        let bodies = [
            ("/api/v1/backup", "paths\":[\"/", limit::BACKUP_REQUEST_BYTES_MAX, "\"]"),
            ("/api/v1/restore", "snapshot\":\"", limit::HTTP_BODY_BYTES_MAX, "\""),
        ];
        for (target, start, length, end) in bodies {
            let body = format!("{{\"{start}{}{end}}}", "a".repeat(length));
            let (head, problem) = send(&socket, "POST", target, &body).await;
            assert!(head.starts_with("http/1.1 413"), "{head}");
            assert_eq!(problem["code"], "USAGE_INVALID");
        }
        assert_eq!(fake.asked(), [""; 0]);
        assert_eq!(send(&socket, "GET", "/api/v1/id", "").await.1["vault_id"], Value::Null);
    });
}

#[test]
fn jobs_are_accepted_with_their_place_and_once_per_key() {
    served(|fake, socket| async move {
        let (head, body) = send(&socket, "POST", "/api/v1/snapshots/ab12/verify", "").await;
        assert!(head.starts_with("http/1.1 202") && head.contains("location: /api/v1/jobs/1"), "{head}");
        assert_eq!(body, json!({ "job_id": 1 }));
        let asked = VerifyRequest { snapshot: Some("ab12".into()), ..VerifyRequest::default() };
        assert_eq!(fake.asked(), [format!("{:?}", JobRequest::Verify(asked))]);

        let keyed = |body: &str| {
            let head =
                "POST /api/v1/repair HTTP/1.1\r\nHost: x\r\nConnection: close\r\nIdempotency-Key: k1\r\n";
            let length = body.len();
            format!("{head}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
        };
        assert_eq!(raw(&socket, &keyed("{}")).await.1, json!({ "job_id": 2 }));
        assert_eq!(raw(&socket, &keyed("{}")).await.1, json!({ "job_id": 2 }));
        assert_eq!(fake.asked().len(), 1);
        let (head, _) = raw(&socket, &keyed("{\"dry_run\":true}")).await;
        assert!(head.starts_with("http/1.1 422"), "{head}");
        assert_eq!(fake.asked(), [""; 0]);
    });
}

#[test]
fn health_tells_whether_the_node_can_work() {
    served(|fake, socket| async move {
        for (status, code) in [("ok", 200), ("degraded", 200), ("starting", 503), ("shutting_down", 503)] {
            *fake.health.lock().unwrap() = Some(status.into());
            for target in ["/health", "/healthz", "/ready", "/readyz"] {
                let (head, body) = send(&socket, "GET", target, "").await;
                assert!(head.starts_with(&format!("http/1.1 {code}")), "{target} {status}: {head}");
                assert_eq!(body["status"], status);
            }
            for target in ["/live", "/livez"] {
                assert!(send(&socket, "GET", target, "").await.0.starts_with("http/1.1 200"));
            }
            let client = Client::connect(&socket).await.unwrap();
            assert_eq!(client.health().await.unwrap().status, status);
        }
    });
}

#[test]
fn socket_is_private_replaced_when_stale_and_kept_when_alive() {
    served(|_, socket| async move {
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&socket), 0o600);
        assert_eq!(mode(socket.parent().unwrap()), 0o700);
        assert_eq!(bind(&socket).unwrap_err().kind(), Code::StorageBusy);

        let stale = socket.with_file_name("stale.sock");
        drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
        assert_eq!(Client::connect(&stale).await.unwrap_err().kind(), Code::DaemonUnreachable);
        drop(bind(&stale).unwrap());
        let absent = socket.with_file_name("absent.sock");
        assert_eq!(Client::connect(&absent).await.unwrap_err().kind(), Code::DaemonUnreachable);

        let file = socket.with_file_name("file.sock");
        std::fs::write(&file, "precious").unwrap();
        assert_eq!(bind(&file).unwrap_err().kind(), Code::IoFailed);
        assert_eq!(std::fs::read(&file).unwrap(), b"precious");

        let open = socket.with_file_name("open");
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(bind(&open.join("control.sock")).unwrap_err().kind(), Code::PermissionDenied);
    });
}

#[test]
fn socket_paths_longer_than_an_address_work() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("d".repeat(120)).join("control.sock");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = bind(&socket).unwrap();
        let server = tokio::spawn(serve(listener, Arc::new(Fake::default()), std::future::pending()));
        let client = Client::connect(&socket).await.unwrap();
        assert_eq!(client.identity().await.unwrap(), identity());
        server.abort();
    });
}

#[test]
fn an_answer_that_is_no_api_of_ours_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let client = Client { socket: socket.clone() };
        for (answer, code) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{]", Code::Internal),
            ("HTTP/1.1 500 No\r\nContent-Length: 3\r\n\r\nwhy", Code::Internal),
            ("HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", Code::DaemonUnreachable),
            ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", Code::DaemonUnreachable),
            ("SSH-2.0-x\r\n", Code::DaemonUnreachable),
        ] {
            let serve = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                assert!(stream.read(&mut request).await.unwrap() > 0);
                stream.write_all(answer.as_bytes()).await.unwrap();
            };
            let (result, ()) = tokio::join!(client.identity(), serve);
            assert_eq!(result.unwrap_err().kind(), code, "{answer:?}");
        }
    });
}
