//! Answers: identity, status, peers, snapshots, and the results of jobs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::base::{ChunkId, PackId, PeerId, SnapshotId, VaultId};

/// `id`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// This node on the network.
    pub peer_id: PeerId,
    /// Full multiaddrs to reach it.
    pub addresses: Vec<String>,
    /// The vault whose device it is; absent on a storage-only node.
    pub vault_id: Option<VaultId>,
}

/// One word for how things stand.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// All is well.
    Ok,
    /// Something is missing or damaged.
    AtRisk,
    /// The vault's keys are locked: no backups, but storing for others goes on.
    Locked,
}

/// Bytes and packs on this disk.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StorageStatus {
    /// Own packs on this disk.
    pub own_packs: u64,
    /// Their bytes.
    pub own_bytes: u64,
    /// Packs of this vault that are with holders only.
    #[serde(default)]
    pub elsewhere_packs: u64,
    /// Their bytes.
    #[serde(default)]
    pub elsewhere_bytes: u64,
    /// Packs kept for others.
    pub foreign_packs: u64,
    /// Their bytes.
    pub foreign_bytes: u64,
    /// Bytes that heads, pack lists and snapshot records kept for others take: they count in what is lent, as packs do.
    #[serde(default)]
    pub foreign_record_bytes: u64,
    /// Of those, bytes that the hold keeps though their owners list them no more.
    #[serde(default)]
    pub on_hold_bytes: u64,
    /// What others may store here in all, in bytes.
    pub lend: u64,
    /// Chunks in the index.
    pub chunks: u64,
    /// Free bytes on the disk.
    pub disk_free: u64,
}

/// Copies that are still to be made.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReplicationStatus {
    /// Bytes still to be sent: each pack as often as it lacks a copy.
    pub bytes_waiting: u64,
    /// Time of the oldest snapshot that lacks copies, RFC 3339.
    pub since: Option<String>,
    /// Peers that packs are under way to, by name or id.
    pub to: Vec<String>,
    /// Pace of the last two minutes.
    pub bytes_per_second: u64,
    /// Until everything has its copies at that pace; absent when nothing moves.
    pub seconds_left: Option<u64>,
}

/// Damaged packs and records that wait to be mended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RepairQueueStatus {
    /// How many packs.
    pub waiting: u64,
    /// Whether records (heads, pack lists, snapshot records) wait as well.
    pub records: bool,
    /// When the first of them was found, RFC 3339.
    pub since: Option<String>,
    /// When the next one is tried, RFC 3339.
    pub next_try: Option<String>,
}

/// `status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// In a word.
    pub verdict: Verdict,
    /// Each thing that is not well, ending with the command that helps.
    pub problems: Vec<String>,
    /// Program version.
    pub version: String,
    /// Seconds since the node started; 0 when no daemon runs.
    pub uptime_seconds: u64,
    /// Who this is.
    pub identity: Identity,
    /// Snapshots of the vault.
    pub snapshots: u64,
    /// Snapshots that have the wished number of copies.
    pub snapshots_safe: u64,
    /// The newest snapshot.
    pub last_snapshot: Option<SnapshotInfo>,
    /// Own bytes that have fewer copies than wished.
    pub under_replicated_bytes: u64,
    /// Copies that are being made.
    #[serde(default)]
    pub replication: ReplicationStatus,
    /// Wished number of copies.
    pub copies_wanted: u32,
    /// When verification last ended, RFC 3339.
    pub last_verify: Option<String>,
    /// How far the scrub of all packs is.
    #[serde(default)]
    pub scrub: Coverage,
    /// Damaged packs that could not be mended yet.
    #[serde(default)]
    pub repairs: RepairQueueStatus,
    /// The last drill of restoring, and when restoring was last proven.
    #[serde(default)]
    pub drill: Option<DrillReport>,
    /// Disk.
    pub storage: StorageStatus,
    /// Peers.
    pub peers: Vec<PeerInfo>,
    /// Jobs that wait or are at work.
    pub jobs: Vec<super::JobInfo>,
    /// How this node looks from outside.
    #[serde(default)]
    pub reachability: Reachability,
    /// Where the daemon can be asked over TCP, by what for (`metrics`, `health`, `api`).
    #[serde(default)]
    pub listeners: BTreeMap<String, String>,
}

/// How a node looks from outside its network.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reachability {
    /// `yes`, `no`, or `unknown` as long as no member outside has tried.
    pub state: String,
    /// Where members outside reached it; full multiaddrs, as all here.
    pub reached: Vec<String>,
    /// What the router forwards.
    pub mapped: Vec<String>,
    /// Through members that relay.
    pub relayed: Vec<String>,
    /// What the router says; absent when it is not known or not asked.
    pub router: Option<String>,
    /// What would help.
    pub advice: Option<String>,
}

/// `/health`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// `starting`, `ok`, `degraded`, `failed` or `shutting_down`.
    pub status: String,
    /// Seconds.
    pub uptime: u64,
    /// State of `database`, `p2p`, `storage`, `scheduler`.
    pub components: BTreeMap<String, String>,
}

/// `peers add`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddPeer {
    /// Multiaddr that ends with `/p2p/ID`.
    pub address: String,
    /// A name for people.
    #[serde(default)]
    pub name: Option<String>,
}

/// One peer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerInfo {
    /// Who.
    pub id: PeerId,
    /// A name for people.
    pub name: Option<String>,
    /// `allowed`, `pending` (dialled us, not allowed) or `bootstrap`.
    pub standing: String,
    /// Of an allowed peer: `available`, `away`, `missing` (not seen for `p2p.away_after`: its copies do not count) or
    /// `lost`.
    #[serde(default)]
    pub state: Option<String>,
    /// What it said last that it can still store for this node, in bytes.
    #[serde(default)]
    pub room_bytes: Option<u64>,
    /// Connected now.
    pub connected: bool,
    /// How: `direct`, or `relay` through another member; absent when not connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// Known addresses, last good first.
    pub addresses: Vec<String>,
    /// RFC 3339; absent when never seen.
    pub last_seen: Option<String>,
    /// Last failure to reach it.
    pub last_error: Option<String>,
    /// Own packs that it has receipted.
    pub packs_held: u64,
    /// Their bytes.
    pub bytes_held: u64,
    /// Packs that it brought and that are kept here.
    pub packs_stored: u64,
    /// Their bytes, and those of the records that it brought: what counts in its quota.
    pub bytes_stored: u64,
    /// Of those, bytes of packs that it lists no more and that the hold keeps.
    #[serde(default)]
    pub bytes_on_hold: u64,
    /// Its last audit.
    #[serde(default)]
    pub audit: Option<AuditReport>,
}

/// Filters of `snapshots`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SnapshotQuery {
    /// Only this host.
    pub host: Option<String>,
    /// Only with this tag.
    pub tag: Option<String>,
    /// Only with this path among the backed-up ones.
    pub path: Option<String>,
    /// Only the newest so many.
    pub latest: Option<usize>,
}

/// One snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SnapshotInfo {
    /// Its id.
    pub id: SnapshotId,
    /// First eight digits.
    pub short_id: String,
    /// RFC 3339.
    pub time: String,
    /// Host it was made on.
    pub hostname: String,
    /// Backed-up paths (bytes that are not UTF-8 replaced).
    pub paths: Vec<String>,
    /// Labels.
    pub tags: Vec<String>,
    /// What it was compared with.
    pub parent: Option<SnapshotId>,
    /// Regular files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Distinct holders that confirmed everything it needs.
    pub copies: u32,
    /// Wished number.
    pub copies_wanted: u32,
    /// Every chosen file could be read.
    pub complete: bool,
    /// It is dated later than now: some clock was wrong, or this one is.
    #[serde(default)]
    pub ahead: bool,
    /// Nearly all files of the one before were gone, and nobody meant that: rules keep the one before beside it.
    #[serde(default)]
    pub shrunk: bool,
    /// No rule of retention forgets it.
    #[serde(default)]
    pub pinned: bool,
    /// Name of the device that made it.
    pub device: String,
    /// Why its record cannot be read; nothing but its id is known then, and all other fields say nothing. Where a device's
    /// newest head cannot be read, it stands for all that only that one lists, and the id is the head's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damaged: Option<String>,
    /// Its id as the backup told it, when its tags were changed since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original: Option<SnapshotId>,
}

/// What `ls` asks.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TreeQuery {
    /// Snapshot reference, with an optional `:PATH`, or `::PATH` percent-encoded.
    pub snapshot: String,
    /// All levels below.
    pub recursive: bool,
}

/// One entry of a snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EntryInfo {
    /// Absolute path (bytes that are not UTF-8 replaced).
    pub path: String,
    /// Its exact form, percent-encoded, when it is not UTF-8; `REF::ENCODED` names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_encoded: Option<String>,
    /// `file`, `dir`, `symlink`, `fifo`, `socket`, `chardev`, `dev`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Owner's name, if known.
    pub user: String,
    /// Group's name, if known.
    pub group: String,
    /// Bytes.
    pub size: u64,
    /// RFC 3339.
    pub mtime: String,
    /// When the entry was made, RFC 3339, where the file system knew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub btime: Option<String>,
    /// Of a symlink.
    pub target: Option<String>,
}

/// A path that could not be handled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PathProblem {
    /// Which.
    pub path: String,
    /// Why.
    pub reason: String,
}

/// Result of an import.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImportSummary {
    /// Whose packs these are.
    pub vault: String,
    /// It is this node's own vault: packs that were missing here are back.
    pub own: bool,
    /// Packs stored.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packs that were here already.
    pub held: u64,
    /// Snapshots of the own vault that were not listed here, and are now.
    #[serde(default)]
    pub snapshots: u64,
    /// Snapshots of the own vault that are in the file and stay forgotten here.
    #[serde(default)]
    pub passed_over: u64,
    /// Parts of the file that are damaged or missing, and were left out.
    #[serde(default)]
    pub damaged: u64,
}

/// Result of a backup; restic's field names.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BackupSummary {
    /// The new snapshot; empty after a dry run.
    pub snapshot_id: String,
    /// None was made, because that one has the source as it is.
    pub skipped: bool,
    /// Nothing was read or written; the numbers tell what would be.
    pub dry_run: bool,
    /// Of a dry run: bytes that would be read.
    pub bytes_to_read: u64,
    /// Files not in the parent.
    pub files_new: u64,
    /// Files that differ from the parent.
    pub files_changed: u64,
    /// Files taken over from the parent unread.
    pub files_unmodified: u64,
    /// Files of the parent that are not in the source now.
    pub files_gone: u64,
    /// Files of the parent.
    pub files_before: u64,
    /// Directories not in the parent.
    pub dirs_new: u64,
    /// New plaintext bytes.
    pub data_added: u64,
    /// Bytes of new packs.
    pub data_added_packed: u64,
    /// Files in all.
    pub total_files_processed: u64,
    /// Their bytes.
    pub total_bytes_processed: u64,
    /// Seconds.
    pub total_duration: f64,
    /// Files that could not be read.
    pub unreadable: u64,
    /// Files that changed while they were read.
    pub inconsistent: u64,
    /// Distinct holders of everything it needs, when the job ended.
    pub copies: u32,
    /// Wished number.
    pub copies_wanted: u32,
    /// What looks wrong with the source: it is empty, or most of what was there before is gone. And, last, that `ahead` is not 0.
    pub warnings: Vec<String>,
    /// Earlier snapshots that are dated later than now.
    pub ahead: u64,
}

/// Result of a restore.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RestoreSummary {
    /// Where from.
    pub snapshot_id: String,
    /// Nothing was done: this is what would be.
    pub dry_run: bool,
    /// Files written.
    pub files_restored: u64,
    /// Of those, such that took the place of something.
    pub files_overwritten: u64,
    /// Directories made.
    pub dirs_restored: u64,
    /// Symlinks, devices, FIFOs, hard links made.
    pub others_restored: u64,
    /// Entries left alone because something was there.
    pub skipped: u64,
    /// Bytes written.
    pub bytes_restored: u64,
    /// Bytes pulled from peers.
    pub bytes_fetched: u64,
    /// Entries deleted because the snapshot does not have them, with all that was in them.
    pub deleted: u64,
    /// Entries that the snapshot does not have and that stay, because the backup may have left them out.
    #[serde(default)]
    pub kept: u64,
    /// Entries that could not be restored.
    pub failed: u64,
    /// Of those, such whose data is missing or damaged.
    pub damaged: u64,
    /// Files read back and compared.
    pub files_verified: u64,
    /// Seconds.
    pub total_duration: f64,
    /// What is deleted, and in a dry run everything that would happen; the first thousand.
    pub changes: Vec<RestoreChange>,
}

/// What happens to one path in a restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreChange {
    /// `create`, `overwrite`, `metadata` (which alone changes), `skip`, `delete` or `keep`.
    pub action: String,
    /// Relative to the target, bytes that are not UTF-8 replaced.
    pub path: String,
    /// Why it is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// One snapshot in a verification over all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VerifySnapshotReport {
    /// Which.
    pub snapshot_id: String,
    /// Distinct chunks it needs.
    pub total_chunks: u64,
    /// Of those, present and sound.
    pub verified_chunks: u64,
    /// Not in any readable pack.
    pub missing_chunks: Vec<ChunkId>,
    /// There, but damaged.
    pub corrupted_chunks: Vec<ChunkId>,
    /// With holders only, so that nothing was read of them.
    #[serde(default)]
    pub unread_chunks: u64,
    /// Why its record cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damaged: Option<String>,
    /// The record is signed by a certified device.
    pub signature_valid: bool,
    /// Nothing is wrong with it.
    pub success: bool,
    /// Files that need what is missing or damaged; the first hundred.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub damaged_files: Vec<DamagedFile>,
    /// How many there are.
    #[serde(default)]
    pub damaged_files_total: u64,
}

/// A file that cannot be restored as it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DamagedFile {
    /// Absolute path in the snapshot (bytes that are not UTF-8 replaced).
    pub path: String,
    /// One of the chunks that it lacks.
    pub chunk: ChunkId,
}

/// How far a check that goes round over all packs is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Coverage {
    /// When packs were last checked, RFC 3339.
    pub last: Option<String>,
    /// When the round began that is under way.
    pub round_began: Option<String>,
    /// Part of all bytes that were checked in it, 0 to 100.
    pub covered_percent: f64,
    /// When every pack had last been checked.
    pub round_completed: Option<String>,
}

/// What asking one holder for random slices showed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditReport {
    /// Whom.
    pub peer: PeerId,
    /// When, RFC 3339.
    pub time: String,
    /// Slices asked for.
    pub slices: u64,
    /// Came and were right.
    pub ok: u64,
    /// Were wrong, damaged or no longer there.
    pub wrong: u64,
    /// Not asked: the holder was away.
    pub offline: u64,
    /// Did not come in time.
    pub timeout: u64,
    /// The holder was busy or refused: proves nothing.
    pub unknown: u64,
    /// Packs that count as lost there, and get copies elsewhere.
    pub packs_lost: u64,
    /// Records (heads, pack lists, snapshot records) that it was asked for and that came and were right.
    #[serde(default)]
    pub records_ok: u64,
    /// Those that were wrong or are not there: what it confirmed of their heads counts no more.
    #[serde(default)]
    pub records_lost: u64,
    /// When it last lost any, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_at: Option<String>,
    /// When it last proved something, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proven_at: Option<String>,
    /// Since when it has proved nothing, though it was asked, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unproven_since: Option<String>,
    /// That has gone on for so long that it does not count as a copy.
    #[serde(default)]
    pub not_counted: bool,
}

/// A verification over all snapshots.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VerifyAllReport {
    /// Snapshots looked at.
    pub total_snapshots: u64,
    /// Of those, without fault.
    pub valid_snapshots: u64,
    /// With a fault.
    pub invalid_snapshots: u64,
    /// 100 × valid / total; 100 when there are none.
    pub health_percentage: f64,
    /// Each.
    pub snapshots: Vec<VerifySnapshotReport>,
}

/// Result of `verify`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum VerifyOutcomeShape {
    /// Of one snapshot.
    One(VerifySnapshotReport),
    /// Of all.
    All(VerifyAllReport),
}

/// Result of `verify`, with what happened to the packs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VerifyReport {
    /// Per snapshot.
    #[serde(flatten)]
    pub result: VerifyOutcomeShape,
    /// Packs read.
    pub packs_checked: u64,
    /// Bytes read.
    pub bytes_checked: u64,
    /// Packs that are damaged or missing here (own and kept for others).
    pub damaged_packs: Vec<PackId>,
    /// Heads, pieces of pack lists and snapshot records that are damaged or missing here, a line each.
    #[serde(default)]
    pub damaged_records: Vec<String>,
    /// Packs that this vault's snapshots need, that are with holders only and of which nothing was read.
    #[serde(default)]
    pub unread_packs: u64,
    /// Their bytes.
    #[serde(default)]
    pub unread_bytes: u64,
    /// Of those, packs of which no holder is connected.
    #[serde(default)]
    pub unreachable_packs: u64,
    /// Their bytes.
    #[serde(default)]
    pub unreachable_bytes: u64,
    /// Every pack here was read and every snapshot looked at.
    #[serde(default)]
    pub complete: bool,
    /// Seconds.
    pub total_duration: f64,
    /// When it ended, RFC 3339.
    #[serde(default)]
    pub time: String,
    /// Of `--subset` with a share, and of a scrub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coverage: Option<Coverage>,
    /// Of `--peers`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub audits: Vec<AuditReport>,
    /// Of `--repair`.
    pub repair: Option<Box<RepairReport>>,
}

/// What restoring some files from peers alone showed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DrillReport {
    /// When it ended, RFC 3339.
    pub time: String,
    /// When all files of a drill last came back.
    pub proven: Option<String>,
    /// The snapshot that files were taken from; absent when no holder has all of one, so that there was nothing to prove.
    pub snapshot: Option<String>,
    /// Files that came back as they were.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes pulled.
    pub bytes_fetched: u64,
    /// Files that did not come back.
    pub failed: u64,
    /// The first hundred of them.
    pub failures: Vec<DrillFailure>,
}

/// A file that a drill could not restore.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DrillFailure {
    /// Its path in the snapshot.
    pub path: String,
    /// What happened.
    pub reason: String,
}

/// Result of a repair.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RepairReport {
    /// Chunks that are sound again.
    pub repaired_chunks: u64,
    /// Chunks for which no source was found.
    pub unrepaired_chunks: u64,
    /// Packs that are sound again.
    pub repaired_packs: u64,
    /// Packs for which no source was found.
    pub unrepaired_packs: Vec<PackId>,
    /// Heads, pieces of pack lists and snapshot records that are sound again.
    pub repaired_records: u64,
    /// Those that nobody had, a line each.
    pub unrepaired_records: Vec<String>,
    /// Chunks that were read again from the files they came from, as no peer had them.
    pub regained_chunks: u64,
    /// Damaged packs that were set aside: all that is needed of them is in new packs.
    pub replaced_packs: Vec<PackId>,
    /// So much is damaged that nothing was touched without a confirmation.
    pub refused: bool,
    /// Bytes by where they came from: a peer, or `files`.
    pub sources: BTreeMap<String, u64>,
    /// Bytes pulled in all.
    pub bytes_fetched: u64,
    /// What would be done, or was done, pack by pack.
    pub plan: Vec<String>,
}

/// Result of `rebuild-index`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RebuildSummary {
    /// Packs read.
    pub packs: u64,
    /// Chunks found.
    pub chunks: u64,
    /// Snapshots found.
    pub snapshots: u64,
    /// Heads found.
    pub heads: u64,
    /// Files that could not be read and were left where they are.
    pub unreadable: Vec<String>,
    /// Keys were at hand, so that own chunks are indexed.
    pub with_keys: bool,
}

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigRow {
    /// The key's path, such as `p2p.max_peers`.
    pub key: String,
    /// The value as one would write it.
    pub value: String,
    /// Where it comes from, for people.
    pub origin: String,
}

/// What a reload of the configuration changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reloaded {
    /// Keys that changed and count now.
    pub changed: Vec<String>,
    /// Keys that changed and count at the next start.
    pub restart: Vec<String>,
}
