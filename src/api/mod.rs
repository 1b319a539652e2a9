//! What one can ask a node: requests, answers, jobs, and the [`Service`] that gives them.
//!
//! The daemon's HTTP router and the command line both speak through this; a running node and a node opened for one
//! command implement it alike. Types only: no I/O, no decisions.

mod browse;
mod device;
mod error;
mod event;
mod forget;
mod job;
mod joining;
mod report;
mod schedule;
mod selection;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;

pub use browse::{
    Batches, DiffChange, DiffItem, DiffQuery, DiffSide, DiffStatistics, Dump, FindQuery, Found, Parts, Stats,
    TagRequest, Tagged,
};
use bytes::Bytes;
use futures::Stream;

pub use device::{DeviceHead, DeviceInfo, RevokedDevice};
pub use error::ApiError;
pub use event::{Event, EventStream, Happening};
pub use forget::{
    ForgetReport, ForgetRequest, GcReport, GcRequest, GcStatus, HeldHead, KeepRules, Kept, Releasable,
    ReleaseReport, ReplacedFile,
};
pub use job::{
    BackupRequest, ImportRequest, JobId, JobInfo, JobKind, JobOutcome, JobRequest, JobState, Progress,
    RepairRequest, RestoreRequest, VerifyRequest, WaitFor,
};
pub use joining::{
    Invitation, InviteInfo, InviteRequest, InviteState, JoinRequest, Joined, PeerDetail, PeerWay, Role,
    TicketText,
};
pub use report::{
    AddPeer, AuditReport, BackupSummary, ConfigRow, Coverage, DamagedFile, DrillFailure, DrillReport,
    EntryInfo, Health, Identity, ImportSummary, PathProblem, PeerInfo, Reachability, RebuildSummary,
    Reloaded, RepairQueueStatus, RepairReport, ReplicationStatus, RestoreChange, RestoreSummary,
    SnapshotInfo, SnapshotQuery, Status, StorageStatus, TreeQuery, Verdict, VerifyAllReport,
    VerifyOutcomeShape, VerifyReport, VerifySnapshotReport,
};

pub use schedule::{AddSchedule, EditSchedule, LastRun, ScheduleInfo, ScheduleSource};
pub use selection::{ExplainReport, ExplainRequest, PathFate, PatternLines};

/// A boxed answer, so that the trait can be used as an object.
pub type Reply<'a, T> = Pin<Box<dyn Future<Output = Result<T, ApiError>> + Send + 'a>>;

/// What a caller streams to a job. It is whole only when it ends without an error.
pub type InputStream = Pin<Box<dyn Stream<Item = Result<Bytes, ApiError>> + Send>>;

/// Lines that a job gives while it works; the last one is there when the stream ends without an error.
pub type FateStream = Pin<Box<dyn Stream<Item = Result<PathFate, ApiError>> + Send>>;

/// A node, near (in this process) or far (over the control socket).
pub trait Service: Send + Sync {
    /// Peer id, addresses, vault.
    fn identity(&self) -> Reply<'_, Identity>;
    /// The whole picture, verdict first.
    fn status(&self) -> Reply<'_, Status>;
    /// Component health.
    fn health(&self) -> Reply<'_, Health>;
    /// Allowed, pending and merely known peers.
    fn peers(&self) -> Reply<'_, Vec<PeerInfo>>;
    /// Allows a peer and dials it.
    fn add_peer(&self, request: AddPeer) -> Reply<'_, PeerInfo>;
    /// Removes a peer; it is disconnected at once.
    fn remove_peer(&self, peer: String) -> Reply<'_, PeerInfo>;
    /// One peer with all its addresses; with `dial` they are tried now, and a member's answer is timed.
    fn peer(&self, peer: String, dial: bool) -> Reply<'_, PeerDetail>;
    /// Allows a peer that knocked.
    fn accept_peer(&self, peer: String) -> Reply<'_, PeerInfo>;
    /// Turns a peer that knocked away; it is not listed again.
    fn reject_peer(&self, peer: String) -> Reply<'_, PeerInfo>;
    /// Takes an admin's signed word on a peer, in hex, and passes it on through the mesh.
    fn publish_peer_record(&self, record: String) -> Reply<'_, ()>;
    /// What a release of this vault's holds would name, to be signed with the recovery phrase.
    fn releasable(&self) -> Reply<'_, Releasable>;
    /// Takes a signed release, in hex, and gives it to the holders.
    fn release_holds(&self, record: String) -> Reply<'_, ReleaseReport>;
    /// Makes a ticket for one other machine.
    fn invite(&self, request: InviteRequest) -> Reply<'_, Invitation>;
    /// Invitations that are remembered, oldest first.
    fn invites(&self) -> Reply<'_, Vec<InviteInfo>>;
    /// Redeems a ticket: this node and its issuer allow each other.
    fn join(&self, request: JoinRequest) -> Reply<'_, Joined>;
    /// The devices of the vault, this one first; with `before` (RFC 3339), their heads as they were then.
    fn devices(&self, before: Option<String>) -> Reply<'_, Vec<DeviceInfo>>;
    /// Takes the admin key's word, in hex, that a device counts no more, and passes it on through the mesh.
    fn revoke_device(&self, device: String, record: String) -> Reply<'_, DeviceInfo>;
    /// Snapshots, oldest first.
    fn snapshots(&self, query: SnapshotQuery) -> Reply<'_, Vec<SnapshotInfo>>;
    /// The snapshot that a reference names.
    fn snapshot(&self, reference: String) -> Reply<'_, SnapshotInfo>;
    /// Entries of one directory of a snapshot (or all below it), in path order.
    fn list(&self, query: TreeQuery) -> Reply<'_, Batches<EntryInfo>>;
    /// Entries of snapshots by pattern, snapshot by snapshot.
    fn find(&self, query: FindQuery) -> Reply<'_, Batches<Found>>;
    /// Differences of two snapshots or places in them, in path order, and at last their counts.
    fn diff(&self, query: DiffQuery) -> Reply<'_, Batches<DiffItem>>;
    /// The content of `REF:PATH`.
    fn dump(&self, reference: String) -> Reply<'_, Dump>;
    /// The vault's heads, records and packs, sealed, in one archive; of the packs only those of one snapshot, if one is given.
    fn export(&self, snapshot: Option<String>) -> Reply<'_, Dump>;
    /// The vault in numbers, or one snapshot.
    fn stats(&self, reference: Option<String>) -> Reply<'_, Stats>;
    /// Changes tags.
    fn tag(&self, request: TagRequest) -> Reply<'_, Vec<Tagged>>;
    /// Starts a long operation.
    fn start(&self, request: JobRequest) -> Reply<'_, JobId>;
    /// What waits to be deleted, and until when.
    fn gc_status(&self) -> Reply<'_, GcStatus>;
    /// How a job is doing.
    fn job(&self, id: JobId) -> Reply<'_, JobInfo>;
    /// All jobs this node remembers, newest first.
    fn jobs(&self) -> Reply<'_, Vec<JobInfo>>;
    /// Asks a job to stop; what it has done is kept.
    fn cancel(&self, id: JobId) -> Reply<'_, ()>;
    /// Streams the input of a backup or import that waits for one; returns once the job has taken all of it.
    fn feed(&self, id: JobId, input: InputStream) -> Reply<'_, ()>;
    /// What a dry run finds, path by path; given once.
    fn fates(&self, id: JobId) -> Reply<'_, FateStream>;
    /// Why a backup would take a path, or not.
    fn explain(&self, request: ExplainRequest) -> Reply<'_, ExplainReport>;
    /// What the last verification found, also before a restart.
    fn verify_report(&self) -> Reply<'_, VerifyReport>;
    /// What happens from now on, or since the event with this id; a [`Happening::Gap`] where some are forgotten.
    fn events(&self, since: Option<u64>) -> Reply<'_, EventStream>;
    /// Every setting in force, with where it comes from.
    fn config(&self) -> Reply<'_, Vec<ConfigRow>>;
    /// Reads the configuration again; what can change while the node runs, counts from now on.
    fn reload(&self) -> Reply<'_, Reloaded>;
    /// All recurring tasks by name.
    fn schedule(&self) -> Reply<'_, Vec<ScheduleInfo>>;
    /// Adds a recurring task.
    fn add_schedule(&self, request: AddSchedule) -> Reply<'_, ScheduleInfo>;
    /// Changes a recurring task.
    fn edit_schedule(&self, id: String, edit: EditSchedule) -> Reply<'_, ScheduleInfo>;
    /// Removes a task that was added.
    fn remove_schedule(&self, id: String) -> Reply<'_, ()>;
    /// Runs a task now; nothing happens when it is at work.
    fn run_schedule(&self, id: String) -> Reply<'_, ScheduleInfo>;
    /// Every metric in Prometheus' text format.
    fn metrics(&self) -> Reply<'_, String>;
    /// Every metric by name and labels; of histograms the sum and the count.
    fn metrics_summary(&self) -> Reply<'_, BTreeMap<String, f64>>;
    /// Opens the vault's keys in a node that runs locked.
    fn unlock(&self, passphrase: String) -> Reply<'_, ()>;
}
