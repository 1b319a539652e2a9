//! Errors of lower layers as the API's.

use crate::api::ApiError;
use crate::base::{Code, Coded};

/// Any coded error as the API's.
pub(super) fn failed(error: impl Coded) -> ApiError {
    ApiError::from(&error)
}

/// A task that ended by a panic: a bug.
pub(super) fn panicked(error: tokio::task::JoinError) -> ApiError {
    ApiError::new(Code::Internal, format!("a task failed: {error}"))
}

/// There is no network in this mode.
pub(super) fn no_network() -> ApiError {
    ApiError::new(Code::NetworkUnreachable, "this command runs without the network")
        .with_hint("start the daemon: `shadowvault daemon`")
}

/// The vault's keys are locked or absent.
pub(super) fn locked(has_vault: bool) -> ApiError {
    if has_vault {
        ApiError::new(Code::VaultLocked, "the vault is locked: no passphrase was given")
            .with_hint("`shadowvault unlock`, or give the passphrase with --passphrase-file")
    } else {
        ApiError::new(Code::VaultNotFound, "this node stores for others and has no vault of its own")
            .with_hint("`shadowvault init` in another directory makes a node with a vault")
    }
}
