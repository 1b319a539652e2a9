//! Long operations: what starts them, how far they are, how they ended.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::ApiError;
use super::forget::{ForgetReport, ForgetRequest, GcReport, GcRequest};
use super::report::{
    BackupSummary, DrillReport, ImportSummary, PathProblem, RepairReport, RestoreSummary, VerifyReport,
};
use super::selection::PatternLines;
use crate::base::PackId;

/// Names a job within one run of a node.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct JobId(pub u64);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for JobId {
    type Err = std::num::ParseIntError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// When a backup counts as finished.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WaitFor {
    /// Once it is durable here.
    #[default]
    Local,
    /// Once the wished number of holders confirmed it.
    Copies,
}

/// `backup`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackupRequest {
    /// Absolute paths. In JSON one that is not UTF-8 is an array of its bytes.
    #[serde(with = "super::selection::paths")]
    pub paths: Vec<PathBuf>,
    /// A backup set of the configuration: its paths, patterns, tags and hooks are added.
    pub set: Option<String>,
    /// Gitignore patterns of what is left out, as if they stood in each backed-up path; they decide before the ignore
    /// files of the tree.
    pub exclude: Vec<String>,
    /// The same whether letters are upper or lower case; they decide before those.
    pub iexclude: Vec<String>,
    /// More of them, which decide after the ignore files.
    pub exclude_lists: Vec<PatternLines>,
    /// Leave out the contents of directories that have such a file: `NAME` or `NAME:HEADER`.
    pub exclude_if_present: Vec<String>,
    /// Leave out the contents of directories that are tagged as caches.
    pub exclude_caches: bool,
    /// Leave out files of more bytes than this.
    pub exclude_larger_than: Option<u64>,
    /// Instead of paths, back up what is streamed to the job, as a file of this name.
    pub stdin_filename: Option<String>,
    /// Only tell what would be done.
    pub dry_run: bool,
    /// With `dry_run`: wait for somebody who takes the fate of every path.
    pub list: bool,
    /// Labels.
    pub tags: Vec<String>,
    /// Host name to record; the machine's own when absent.
    pub host: Option<String>,
    /// Do not cross into other file systems.
    pub one_file_system: bool,
    /// Read every file, changed or not.
    pub force: bool,
    /// Make no snapshot when the source is as the newest one of the same host and paths has it.
    pub skip_if_unchanged: bool,
    /// Fewer files than this in the source make the backup incomplete; it is made all the same.
    pub min_files: u64,
    /// An empty source, or one from which most files of the snapshot before are gone, makes the backup incomplete too.
    pub strict: bool,
    /// An empty source is meant.
    pub allow_empty: bool,
    /// A source with few files, or much fewer than before, is meant.
    pub allow_shrink: bool,
    /// When it counts as finished.
    pub wait: WaitFor,
    /// How long to wait for copies, in milliseconds; without end when absent.
    pub wait_timeout_ms: Option<u64>,
}

/// `restore`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RestoreRequest {
    /// Snapshot reference, with an optional `:PATH`.
    pub snapshot: String,
    /// Absolute directory to restore into.
    pub target: PathBuf,
    /// Gitignore patterns, relative to what is restored, of what is taken; everything when there are none.
    pub include: Vec<String>,
    /// Such patterns of what of it is left out.
    pub exclude: Vec<String>,
    /// `never`, `if-changed`, `if-newer` or `always`; `never` when absent.
    pub overwrite: Option<String>,
    /// Delete what the snapshot does not have, in restored directories that were backed up as a whole.
    pub delete: bool,
    /// The target directory itself gets owner, mode, times and attributes from the snapshot, also where it was there.
    pub target_metadata: bool,
    /// `delete` is meant even where the target is `/`.
    pub confirmed: bool,
    /// Only tell what would be done.
    pub dry_run: bool,
    /// Leave owners alone.
    pub no_owner: bool,
    /// No setuid, devices, `security.*`.
    pub no_privileged: bool,
    /// Read back what was written; the node's configuration when absent. When asked for here, what was restored is
    /// also on the disk when the job ends.
    pub verify: Option<bool>,
    /// Also turn long runs of zero bytes into holes.
    pub sparse: bool,
}

/// `verify`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VerifyRequest {
    /// One snapshot, or all when absent.
    pub snapshot: Option<String>,
    /// Presence and lengths only.
    pub quick: bool,
    /// Read only a part of the packs: a share such as `5%`, on from where the last such check stopped, or `n/m`.
    pub subset: Option<String>,
    /// Only the hashes of packs, own and kept for others; needs no key. Without a subset at full speed.
    pub scrub: bool,
    /// Mend what is found from peers.
    pub repair: bool,
    /// Mend however much is damaged.
    pub confirmed: bool,
    /// Also audit the holders of this vault.
    pub peers: bool,
    /// Only restore a hundredth of a snapshot's files from peers into a scratch directory, and compare.
    pub drill: bool,
}

/// `repair`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RepairRequest {
    /// One snapshot, or all when absent.
    pub snapshot: Option<String>,
    /// Only these packs, without looking for other damage; all when empty.
    pub packs: Vec<PackId>,
    /// Only records (heads, pack lists, snapshot records), besides `packs`.
    pub records: bool,
    /// Instead put the file of this pack (an id or its beginning) back that a repair replaced last.
    pub undo: Option<String>,
    /// Only tell what would be done.
    pub dry_run: bool,
    /// Mend however much is damaged; undo even what made a pack sound.
    pub confirmed: bool,
}

/// `import`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImportRequest {
    /// How long what is streamed to the job is, in bytes; 0 when that is not known.
    pub bytes: u64,
}

/// A long operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum JobRequest {
    /// Back up.
    Backup(BackupRequest),
    /// Restore.
    Restore(RestoreRequest),
    /// Verify, and mend if asked.
    Verify(VerifyRequest),
    /// Mend what is known or found to be damaged.
    Repair(RepairRequest),
    /// Take in an export that is streamed to the job.
    Import(ImportRequest),
    /// Forget snapshots.
    Forget(ForgetRequest),
    /// Collect garbage.
    Gc(GcRequest),
}

impl JobRequest {
    /// Which kind of job this starts.
    pub fn kind(&self) -> JobKind {
        match self {
            Self::Backup(_) => JobKind::Backup,
            Self::Restore(_) => JobKind::Restore,
            Self::Verify(_) => JobKind::Verify,
            Self::Repair(_) => JobKind::Repair,
            Self::Import(_) => JobKind::Import,
            Self::Forget(_) => JobKind::Forget,
            Self::Gc(_) => JobKind::Gc,
        }
    }
}

/// Kinds of jobs.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobKind {
    /// Back up.
    Backup,
    /// Restore.
    Restore,
    /// Verify.
    Verify,
    /// Repair.
    Repair,
    /// Import.
    Import,
    /// Forgetting.
    Forget,
    /// Garbage collection.
    Gc,
}

impl JobKind {
    /// Lower-case name, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Restore => "restore",
            Self::Verify => "verify",
            Self::Repair => "repair",
            Self::Import => "import",
            Self::Forget => "forget",
            Self::Gc => "gc",
        }
    }
}

/// Where a job stands.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// Accepted; waits for its turn.
    Queued,
    /// At work.
    Running,
    /// Ended; the outcome tells how.
    Done,
    /// Ended with an error and no outcome.
    Failed,
    /// Stopped on request.
    Cancelled,
    /// Under way when the node ended without a word.
    Interrupted,
}

impl JobState {
    /// Whether it will change no more.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}

/// How far a job is; restic's field names.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// Seconds since the job began.
    pub seconds_elapsed: f64,
    /// 0.0 to 1.0, never less than before; 0 while the total is unknown.
    pub percent_done: f64,
    /// Files in all; 0 while unknown.
    pub total_files: u64,
    /// Files finished.
    pub files_done: u64,
    /// Bytes in all; 0 while unknown.
    pub total_bytes: u64,
    /// Bytes finished.
    pub bytes_done: u64,
    /// Files that could not be handled so far.
    pub error_count: u64,
    /// What is being done, in a word or two.
    pub stage: String,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum JobOutcome {
    /// Of a backup.
    Backup(BackupSummary),
    /// Of a restore.
    Restore(RestoreSummary),
    /// Of a verification.
    Verify(VerifyReport),
    /// Of a drill of restoring, which `verify` with `drill` asks for.
    Drill(DrillReport),
    /// Of a repair.
    Repair(RepairReport),
    /// Of an import.
    Import(ImportSummary),
    /// Of forgetting.
    Forget(ForgetReport),
    /// Of garbage collection.
    Gc(GcReport),
}

/// A job as anyone may see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobInfo {
    /// Its name.
    pub id: JobId,
    /// Kind.
    pub kind: JobKind,
    /// State.
    pub state: JobState,
    /// When it was accepted, RFC 3339.
    pub started: String,
    /// When it ended, RFC 3339.
    pub ended: Option<String>,
    /// How far it is.
    pub progress: Progress,
    /// Files that could not be handled; the first thousand.
    pub problems: Vec<PathProblem>,
    /// How it ended; absent while it runs or when it failed.
    pub outcome: Option<JobOutcome>,
    /// Why it failed, or why the outcome is less than was asked for (copies missing, files left out).
    pub error: Option<ApiError>,
}
