//! A node: the store, the vault if there is one, the network, and the jobs that join them.
//!
//! Owns every task that runs beside a request, and ends them within `limit::SHUTDOWN`. The engine knows nothing of the
//! network and the network nothing of vaults; here packs pulled by one are handed to the other.

mod acl;
mod auditing;
mod browse;
mod caching;
mod chains;
mod clocks;
mod comparing;
mod core;
mod desk;
mod devices;
mod disk;
mod door;
mod elsewhere;
mod ending;
mod error;
mod events;
mod exposition;
mod fellows;
mod flow;
mod holding;
mod inviting;
mod jobs;
mod keepers;
mod making;
mod mending;
mod owning;
mod peering;
mod places;
mod presence;
mod reach;
mod records;
mod recover;
mod releasing;
mod reload;
mod resources;
mod schedule;
mod serve;
mod service;
mod setup;
mod sharing;
mod source;
mod status;
mod streams;
#[cfg(test)]
mod tests;
mod ticket;
mod twins;
mod upkeep;
mod verified;
mod work;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;

pub use crate::net::parse_peer_address;
pub use making::{check_free, is_begun_with};
pub use recover::{
    DeviceJoined, DrillSummary, Newcomer, RecoverRequest, RecoverSummary, drill, join_device, recover,
};
pub use setup::{InitRequest, NewNode, init, rebuild_index};

pub use reload::Loader;
pub use ticket::{Ticket, TicketError};

use self::core::{Core, Priority};
use self::ending::Hook;
use self::reload::Configured;
use crate::api::ApiError;
use crate::base::limit;
use crate::config::{Loaded, Settings};
use crate::crypto::Passphrase;

/// How a node is opened.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Runs until it is told to stop: listens, stores for others, replicates.
    Daemon,
    /// For one command that needs no peers.
    Offline,
    /// For one command that may need peers: listens on any port and dials the peers it knows.
    Online,
    /// To be made a device of a vault: like that, but it dials, asks and offers nothing by itself.
    Setup,
}

/// An open node. Implements [`crate::api::Service`].
pub struct Node {
    core: Arc<Core>,
}

impl Node {
    /// Opens the node in `settings.repository_path`. Without a passphrase a vault stays locked.
    ///
    /// # Errors
    /// No node there, one that another process has open, a damaged index, a wrong passphrase, a port that is taken.
    pub async fn open(
        settings: Settings,
        passphrase: Option<Passphrase>,
        mode: Mode,
    ) -> Result<Arc<Self>, ApiError> {
        let opening = tokio::task::spawn_blocking(move || Core::open(settings, passphrase, mode));
        let core = opening.await.map_err(error::panicked)??;
        core.clone().start(mode).await?;
        Ok(Arc::new(Self { core }))
    }

    /// Tells where the settings come from, so that [`reload`](crate::api::Service::reload) can read them again.
    pub fn configured_by(&self, loaded: Loaded, loader: Loader) {
        *self.core.configured.lock().expect("no panic while held") = Some(Configured { loaded, loader });
    }

    /// The settings in force, now and whenever they change.
    pub fn settings(&self) -> watch::Receiver<Arc<Settings>> {
        self.core.settings.subscribe()
    }

    /// Tells `status` where the daemon can be asked over TCP, by what for (`metrics`, `health`, `api`).
    pub fn listens(&self, listeners: BTreeMap<String, String>) {
        *self.core.listeners.lock().expect("no panic while held") = listeners;
    }

    /// Has `requests` end when the node stops: after the jobs, so that their callers hear how they ended, and before
    /// the network. It may take `limit::SHUTDOWN_REST`.
    pub fn before_network(&self, requests: impl Future<Output = Result<(), ApiError>> + Send + 'static) {
        self.core.hooks.add(Hook {
            name: "requests",
            priority: Priority::REQUESTS,
            time: limit::SHUTDOWN_REST,
            run: Box::pin(requests),
        });
    }

    /// Waits until the node cannot go on: its store failed, or another one is in its place.
    pub async fn failed(&self) {
        self.core.disk.ended().await;
    }

    /// Why it cannot go on, if that is so.
    pub fn failure(&self) -> Option<ApiError> {
        self.core.disk.end().cloned()
    }

    /// Refuses new work, stops jobs and tasks, then requests, then the network. What was committed stays; nothing needs mending at the next start.
    pub async fn shutdown(&self) -> Result<(), ApiError> {
        self.core.shutdown().await
    }
}

/// Where the daemon of this node listens for commands.
pub fn control_socket(settings: &Settings) -> PathBuf {
    match std::env::var_os("RUNTIME_DIRECTORY") {
        Some(dir) if !dir.is_empty() => PathBuf::from(dir).join("control.sock"),
        _ => settings.repository_path.join("control.sock"),
    }
}
