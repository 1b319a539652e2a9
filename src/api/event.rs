//! What happens in a node, as a stream that can be taken up again.

use std::pin::Pin;

use futures::Stream;
use serde::{Deserialize, Serialize};

use super::error::ApiError;
use super::job::{JobId, JobKind, JobState};
use crate::base::{DeviceId, PeerId, SnapshotId};

/// One thing that happened. Ids grow, across restarts too, so a reader says which one it saw last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Its number.
    pub id: u64,
    /// When, RFC 3339.
    pub time: String,
    /// What.
    #[serde(flatten)]
    pub what: Happening,
}

/// What can happen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Happening {
    /// Events after the one that the reader saw last are no longer remembered: look at the state itself.
    Gap,
    /// A job was accepted.
    JobQueued {
        /// Which.
        job: JobId,
        /// Its kind.
        kind: JobKind,
    },
    /// A job is at work.
    JobStarted {
        /// Which.
        job: JobId,
        /// Its kind.
        kind: JobKind,
    },
    /// A job ended.
    JobEnded {
        /// Which.
        job: JobId,
        /// Its kind.
        kind: JobKind,
        /// How.
        state: JobState,
        /// The code of its error, or of what it did not reach.
        code: Option<String>,
    },
    /// A backup is durable on this machine.
    SnapshotCreated {
        /// Its id.
        snapshot: SnapshotId,
    },
    /// What was backed up last is much less than before: perhaps a file system was not mounted.
    SourceShrank {
        /// The snapshot of it.
        snapshot: SnapshotId,
        /// Files in it.
        files: u64,
        /// Files of the snapshot before that are not in it.
        files_gone: u64,
        /// Files of the snapshot before.
        files_before: u64,
    },
    /// Snapshots of this device are forgotten.
    SnapshotsForgotten {
        /// How many.
        count: u64,
    },
    /// Garbage was collected.
    GarbageCollected {
        /// Packs deleted.
        packs: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// A member is connected.
    PeerConnected {
        /// Who.
        peer: PeerId,
    },
    /// A member is gone.
    PeerDisconnected {
        /// Who.
        peer: PeerId,
    },
    /// A stranger knocked.
    PeerPending {
        /// Who.
        peer: PeerId,
    },
    /// A peer redeemed a ticket of this node.
    PeerJoined {
        /// Who.
        peer: PeerId,
    },
    /// A holder could not prove that it has what it receipted; the packs get other copies.
    AuditFailed {
        /// Who.
        peer: PeerId,
        /// Packs that count as lost there.
        packs: u64,
        /// Records that are lost there.
        #[serde(default)]
        records: u64,
    },
    /// A holder found damage on its own disk.
    HolderDamage {
        /// Who.
        peer: PeerId,
        /// Packs that it mended.
        mended: u32,
        /// Packs that it could not mend; they get other copies.
        lost: u64,
        /// Heads of which it has not all records any more; it is offered them again.
        #[serde(default)]
        heads: u64,
    },
    /// A holder takes nothing more of this node's vault until something is done about it.
    VaultRefused {
        /// Who.
        peer: PeerId,
        /// Name of the code.
        code: String,
        /// Why, for people.
        reason: String,
    },
    /// A device of a vault that is kept here counts no more.
    DeviceRevoked {
        /// Which.
        device: DeviceId,
    },
    /// A holder had a part of this device's history that its disk had not: an old image or a copy of it is in use, or its
    /// newest head is gone.
    HistoryRolledBack {
        /// Which device.
        device: DeviceId,
        /// Snapshots that were not known here.
        snapshots: u64,
    },
    /// The configuration was read again.
    ConfigReloaded {
        /// Keys that changed and count now.
        changed: Vec<String>,
        /// Keys that changed and count at the next start.
        restart: Vec<String>,
    },
    /// The configuration was read again and is wrong; the old one stays in force.
    ConfigRejected {
        /// Why.
        message: String,
    },
    /// The vault's keys were opened.
    Unlocked,
    /// A write to the data directory failed, or its index is damaged: nothing more is accepted, and the node ends.
    StoreFailed {
        /// The code of what happened.
        code: String,
    },
    /// The data directory is out of reach: unmounted, or its disk does not answer.
    StoreUnavailable,
    /// The data directory is back.
    StoreAvailable,
    /// The node is stopping.
    ShuttingDown,
}

/// Events as they happen; ends when the node stops.
pub type EventStream = Pin<Box<dyn Stream<Item = Result<Event, ApiError>> + Send>>;
