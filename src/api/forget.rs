//! Forgetting snapshots, and deleting what nothing needs any more.

use serde::{Deserialize, Serialize};

use crate::base::{DeviceId, HeadId, ListId, PackId, PeerId, SnapshotId, VaultId};

/// Which snapshots stay. A field that is absent is no rule; with no rule at all everything stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeepRules {
    /// The newest so many of each set (device, host and paths).
    pub keep_last: Option<u32>,
    /// The newest of each of so many hours that have one.
    pub keep_hourly: Option<u32>,
    /// The same with days.
    pub keep_daily: Option<u32>,
    /// The same with weeks.
    pub keep_weekly: Option<u32>,
    /// The same with months.
    pub keep_monthly: Option<u32>,
    /// The same with years.
    pub keep_yearly: Option<u32>,
    /// All that are younger, in milliseconds.
    pub keep_within_ms: Option<u64>,
    /// All that carry one of these tags.
    pub keep_tags: Vec<String>,
}

/// `forget`: by name, by rules, or by the configured rules.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ForgetRequest {
    /// These; then there are no rules.
    pub snapshots: Vec<String>,
    /// What the rules keep stays.
    pub rules: KeepRules,
    /// The rules of the configuration: `retention` and `storage.retention_days`.
    pub configured: bool,
    /// Only tell what would be done.
    pub dry_run: bool,
    /// Then collect garbage.
    pub gc: bool,
    /// The named snapshots are lost: their records cannot be read and are not to be had. Others are refused.
    pub lost: bool,
    /// Named snapshots go even when they are the newest complete ones of their sets, lost ones for good, and rules may free much
    /// at one time.
    pub confirmed: bool,
    /// Asked by the schedule: an odd clock makes it wait for a person.
    pub scheduled: bool,
}

/// A snapshot that stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Which.
    pub snapshot_id: SnapshotId,
    /// Why.
    pub reasons: Vec<String>,
}

/// Result of `forget`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ForgetReport {
    /// Nothing was changed.
    pub dry_run: bool,
    /// Snapshots that are gone, or would be.
    pub forgotten: Vec<SnapshotId>,
    /// Snapshots that stay, with the reasons.
    pub kept: Vec<Kept>,
    /// How many stay.
    pub kept_count: u64,
    /// Bytes of packs that only forgotten ones needed.
    pub freed_bytes: u64,
    /// Bytes of packs that all snapshots needed before.
    pub live_bytes: u64,
    /// With `lost`: heads that cannot be read and are waited for no more, or would be.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub heads: Vec<HeadId>,
    /// The same of pieces of this device's pack list, of which nothing else tells which packs they name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lists: Vec<ListId>,
    /// With `lost`: holders that were asked for the records and do not have them, by name or id.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub asked: Vec<String>,
    /// With `lost`: holders that could not be asked; one of them may have the records.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_asked: Vec<String>,
    /// With `gc`: what that did.
    pub gc: Option<GcReport>,
}

/// One of a vault's heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldHead {
    /// Whose.
    pub device: DeviceId,
    /// Its number.
    pub seq: u64,
    /// Its id.
    pub id: HeadId,
}

/// What a release of the holds of this node's vault names: holders may delete what came before these heads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Releasable {
    /// The vault.
    pub vault_id: VaultId,
    /// The newest head of each of its devices, as known here.
    pub heads: Vec<HeldHead>,
}

/// Who knows of a release.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReleaseReport {
    /// Holders that took it.
    pub told: Vec<PeerId>,
    /// Holders that take it when they are connected again.
    pub waiting: Vec<PeerId>,
}

/// `gc`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GcRequest {
    /// Only tell what would be done.
    pub dry_run: bool,
    /// Delete without waiting for the grace period, as far as nothing under way may need it.
    pub now: bool,
    /// Percent of the live bytes that may stay unused in partly needed packs; 5 when absent.
    pub max_unused: Option<u32>,
    /// Asked by the schedule: does nothing when nothing changed since the last time.
    pub scheduled: bool,
}

/// Result of `gc`. Sizes in bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GcReport {
    /// Nothing was changed.
    pub dry_run: bool,
    /// Nothing had changed since the last time, so nothing was looked at.
    pub unchanged: bool,
    /// Snapshots that were followed.
    pub snapshots: u64,
    /// Chunks that some snapshot needs.
    pub live_chunks: u64,
    /// Chunks that none needs.
    pub dead_chunks: u64,
    /// Own packs.
    pub packs: u64,
    /// Packs without a needed chunk that now wait for the end of the grace period; in a dry run those that would.
    pub quarantined_packs: u64,
    /// Their bytes.
    pub quarantined_bytes: u64,
    /// Packs that were waiting and are needed again.
    pub revived_packs: u64,
    /// Packs whose needed chunks were moved into new ones.
    pub resealed_packs: u64,
    /// Bytes of those new packs.
    pub resealed_bytes: u64,
    /// Packs deleted; in a dry run those that would be.
    pub deleted_packs: u64,
    /// Their bytes.
    pub deleted_bytes: u64,
    /// Packs that wait.
    pub waiting_packs: u64,
    /// Their bytes.
    pub waiting_bytes: u64,
    /// When the first of them may be deleted, RFC 3339.
    pub next_deletion: Option<String>,
    /// Damaged files that repairs had replaced, and that were deleted.
    pub cleared_files: u64,
    /// Their bytes.
    pub cleared_bytes: u64,
    /// What could not be done, one line each.
    pub problems: Vec<String>,
    /// Seconds.
    pub total_duration: f64,
}

/// A damaged file that a repair replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplacedFile {
    /// Which pack it was; `repair --undo` puts it back.
    pub pack: PackId,
    /// Its length in bytes.
    pub bytes: u64,
    /// When it was replaced, RFC 3339.
    pub since: String,
    /// When it is deleted, RFC 3339.
    pub until: String,
}

/// What waits to be deleted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GcStatus {
    /// Packs that wait for the end of the grace period.
    pub waiting_packs: u64,
    /// Their bytes.
    pub waiting_bytes: u64,
    /// Of those packs, such whose contents are in new packs already.
    pub resealed_packs: u64,
    /// When the first of them may be deleted, RFC 3339.
    pub next_deletion: Option<String>,
    /// And the last.
    pub last_deletion: Option<String>,
    /// Packs of others that no newest head lists and that are held all the same.
    pub held_packs: u64,
    /// Their bytes.
    pub held_bytes: u64,
    /// Damaged files that repairs replaced and that are kept for a week, the newest first.
    pub replaced: Vec<ReplacedFile>,
    /// When garbage was last collected, RFC 3339.
    pub last_run: Option<String>,
    /// Why the last collection deleted nothing, if something kept it from that.
    pub last_error: Option<String>,
}
