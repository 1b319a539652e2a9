//! Stable error codes and the one table of what each means to scripts, API clients and retry loops.

/// The area an error belongs to (metric label, API field).
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Category {
    /// Disk, packs, index.
    Storage,
    /// Peers and connections.
    Network,
    /// Keys, sealing, signatures.
    Crypto,
    /// Snapshots and their contents.
    Snapshot,
    /// Configuration and arguments.
    Config,
    /// Access rights.
    Permission,
    /// Limits, quotas, busy resources.
    Resource,
}

impl Category {
    /// Lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Storage => "storage",
            Self::Network => "network",
            Self::Crypto => "crypto",
            Self::Snapshot => "snapshot",
            Self::Config => "config",
            Self::Permission => "permission",
            Self::Resource => "resource",
        }
    }
}

/// Whether trying again can help.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Retry {
    /// The same call fails the same way until a person changes something.
    Never,
    /// May work at once or elsewhere.
    Soon,
    /// May work after a pause.
    Later,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident $name:literal $category:ident $retry:ident $http:literal $exit:literal;)+) => {
        /// A stable error code; scripts, the API, logs and metrics all use these names.
        #[derive(Copy, Clone, PartialEq, Eq, Debug, Hash)]
        pub enum Code { $($(#[$doc])* $variant,)+ }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The name in the contract, such as `CHUNK_NOT_FOUND`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// The area it belongs to.
            pub const fn category(self) -> Category {
                match self { $(Self::$variant => Category::$category,)+ }
            }

            /// Whether trying again can help.
            pub const fn retry(self) -> Retry {
                match self { $(Self::$variant => Retry::$retry,)+ }
            }

            /// HTTP status.
            pub const fn http(self) -> u16 {
                match self { $(Self::$variant => $http,)+ }
            }

            /// Exit code of the program.
            pub const fn exit(self) -> u8 {
                match self { $(Self::$variant => $exit,)+ }
            }
        }
    };
}

codes! {
    /// The disk, or what was lent, is full.
    StorageFull "STORAGE_FULL" Resource Later 507 15;
    /// Stored bytes are damaged or missing.
    StorageCorrupted "STORAGE_CORRUPTED" Storage Never 500 5;
    /// The data directory cannot be used (absent disk, I/O error, poisoned after a failed fsync).
    StorageUnavailable "STORAGE_UNAVAILABLE" Storage Later 503 1;
    /// A file was written by a newer version.
    StorageTooNew "STORAGE_TOO_NEW" Storage Never 500 1;
    /// Another process has the store open.
    StorageBusy "STORAGE_BUSY" Resource Later 409 11;
    /// There is no node or vault in the data directory.
    VaultNotFound "VAULT_NOT_FOUND" Storage Never 404 10;
    /// A node is being made in the data directory, or its making was cut off.
    VaultUnfinished "VAULT_UNFINISHED" Storage Never 409 10;
    /// A node or vault is already there.
    VaultExists "VAULT_EXISTS" Storage Never 409 1;
    /// The vault's keys are locked.
    VaultLocked "VAULT_LOCKED" Permission Never 423 12;
    /// A chunk or pack is not here and no peer gave it.
    ChunkNotFound "CHUNK_NOT_FOUND" Storage Later 404 5;
    /// A chunk's bytes are not what its id says.
    ChunkInvalid "CHUNK_INVALID" Storage Never 500 5;
    /// No answer in time.
    NetworkTimeout "NETWORK_TIMEOUT" Network Soon 504 1;
    /// No way to reach the address.
    NetworkUnreachable "NETWORK_UNREACHABLE" Network Later 502 14;
    /// The peer is not in the peer list, or no peer fits.
    PeerNotFound "PEER_NOT_FOUND" Network Later 404 14;
    /// The connection broke or was refused.
    ConnectionFailed "CONNECTION_FAILED" Network Soon 502 14;
    /// The peer answered something that does not verify.
    PeerMisbehaved "PEER_MISBEHAVED" Network Soon 502 1;
    /// The peer and this node have no version of the protocols in common.
    PeerIncompatible "PEER_INCOMPATIBLE" Network Never 502 14;
    /// The peer has too much to do just now.
    PeerBusy "PEER_BUSY" Network Later 503 11;
    /// A person has to say that it is meant.
    ConfirmationNeeded "CONFIRMATION_NEEDED" Permission Never 409 1;
    /// The clock went back or far ahead, so nothing expires.
    ClockOdd "CLOCK_ODD" Resource Never 503 1;
    /// Fewer peers than wished hold a copy so far.
    CopiesMissing "COPIES_MISSING" Network Later 504 4;
    /// Sealing failed.
    EncryptionFailed "ENCRYPTION_FAILED" Crypto Never 500 1;
    /// Opening sealed bytes failed: damaged, or another key.
    DecryptionFailed "DECRYPTION_FAILED" Crypto Never 500 5;
    /// A signature does not verify.
    InvalidSignature "INVALID_SIGNATURE" Crypto Never 422 5;
    /// A key, phrase or key file is malformed.
    InvalidKey "INVALID_KEY" Crypto Never 422 12;
    /// The passphrase opens no key slot, or none was given.
    WrongPassphrase "WRONG_PASSPHRASE" Crypto Never 401 12;
    /// No snapshot by that reference.
    SnapshotNotFound "SNAPSHOT_NOT_FOUND" Snapshot Never 404 1;
    /// A snapshot record or tree is damaged.
    SnapshotCorrupted "SNAPSHOT_CORRUPTED" Snapshot Never 500 5;
    /// A snapshot reference is malformed or ambiguous, or a snapshot's content breaks the rules.
    SnapshotInvalid "SNAPSHOT_INVALID" Snapshot Never 400 1;
    /// Some files could not be read or written; the rest is done.
    Incomplete "INCOMPLETE" Snapshot Never 200 3;
    /// A configuration value is wrong.
    ConfigInvalid "CONFIG_INVALID" Config Never 400 16;
    /// A configuration file or value is missing.
    ConfigMissing "CONFIG_MISSING" Config Never 400 16;
    /// An argument or request is wrong.
    UsageInvalid "USAGE_INVALID" Config Never 400 2;
    /// A named path does not exist.
    PathNotFound "PATH_NOT_FOUND" Config Never 404 1;
    /// The operating system refused access.
    PermissionDenied "PERMISSION_DENIED" Permission Never 403 1;
    /// The caller or peer is not allowed.
    Unauthorized "UNAUTHORIZED" Permission Never 401 1;
    /// A memory, task or connection limit is reached.
    ResourceExhausted "RESOURCE_EXHAUSTED" Resource Later 503 11;
    /// Too many requests or bytes in a while.
    RateLimitExceeded "RATE_LIMIT_EXCEEDED" Resource Later 429 11;
    /// A device that the vault's owner revoked.
    DeviceRevoked "DEVICE_REVOKED" Permission Never 403 1;
    /// No device of the vault by that name.
    DeviceNotFound "DEVICE_NOT_FOUND" Config Never 404 1;
    /// A ticket is malformed, truncated or this node's own.
    TicketInvalid "TICKET_INVALID" Config Never 400 2;
    /// A ticket that its issuer does not know.
    TicketUnknown "TICKET_UNKNOWN" Permission Never 404 1;
    /// A ticket that was redeemed before.
    TicketUsed "TICKET_USED" Permission Never 409 1;
    /// A ticket whose time is over.
    TicketExpired "TICKET_EXPIRED" Permission Never 410 1;
    /// No daemon answers on the control socket.
    DaemonUnreachable "DAEMON_UNREACHABLE" Network Later 503 13;
    /// No recurring task by that name.
    ScheduleNotFound "SCHEDULE_NOT_FOUND" Config Never 404 1;
    /// A command around a backup failed, hung or is not there.
    HookFailed "HOOK_FAILED" Config Never 424 1;
    /// The node is stopping.
    ShuttingDown "SHUTTING_DOWN" Resource Later 503 11;
    /// No job by that number, or one that is forgotten.
    JobNotFound "JOB_NOT_FOUND" Config Never 404 1;
    /// The operation was cancelled.
    Cancelled "CANCELLED" Resource Never 409 130;
    /// A read or write of an ordinary file failed.
    IoFailed "IO_FAILED" Storage Never 500 1;
    /// A bug; please report it.
    Internal "INTERNAL" Resource Never 500 1;
}

impl Code {
    /// Of a write that the system refused: for want of space or quota, or else.
    pub fn of_refused_write(error: &std::io::Error) -> Self {
        use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        let is_full = matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge);
        if is_full { Self::StorageFull } else { Self::IoFailed }
    }
}

/// An error that has a stable code.
pub trait Coded: std::error::Error {
    /// The code.
    fn code(&self) -> Code;

    /// What the reader can do about it, when there is something.
    fn hint(&self) -> Option<String> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn codes_have_distinct_names_and_sane_numbers() {
        let names: HashSet<_> = Code::ALL.iter().map(|c| c.name()).collect();
        assert_eq!(names.len(), Code::ALL.len());
        for code in Code::ALL {
            assert!(code.name().chars().all(|c| c.is_ascii_uppercase() || c == '_'));
            assert!((200..600).contains(&code.http()));
            assert!(code.exit() != 0);
        }
    }
}
