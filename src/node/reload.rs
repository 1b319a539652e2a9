//! Reading the configuration again while the node runs.

use std::sync::Arc;

use super::core::{Core, net_limits, vault_options};
use super::error::failed;
use super::schedule;
use crate::api::{ApiError, ConfigRow, Happening, Reloaded};
use crate::base::{Code, meter};
use crate::config::{ConfigError, Loaded};

/// Reads file, environment and flags as they are now. Blocking.
pub type Loader = Arc<dyn Fn() -> Result<Loaded, ConfigError> + Send + Sync>;

/// What is in force, and how to read it again.
pub(super) struct Configured {
    pub(super) loaded: Loaded,
    pub(super) loader: Loader,
}

/// Takes over what can change while the node runs. A configuration that is wrong anywhere changes nothing. Blocking.
pub(super) fn reload(core: &Arc<Core>) -> Result<Reloaded, ApiError> {
    let result = read_again(core);
    meter::CONFIG_RELOADS.add(if result.is_ok() { "success" } else { "failure" }, 1);
    meter::CONFIG_LAST_RELOAD_SUCCESSFUL.set(if result.is_ok() { 1.0 } else { 0.0 });
    match &result {
        Ok(done) => {
            tracing::info!(target: "config", changed = done.changed.join(" "), restart = done.restart.join(" "), "reloaded");
            if !done.restart.is_empty() {
                tracing::warn!(target: "config", keys = done.restart.join(" "), "changed keys that count at the next start only");
            }
            core.tell(Happening::ConfigReloaded {
                changed: done.changed.clone(),
                restart: done.restart.clone(),
            });
            core.changed.notify_one();
        }
        Err(error) => {
            tracing::error!(target: "config", code = error.code, %error, "not reloaded; the old configuration stays in force");
            core.tell(Happening::ConfigRejected { message: error.message.clone() });
        }
    }
    result
}

fn read_again(core: &Arc<Core>) -> Result<Reloaded, ApiError> {
    let mut configured = core.configured.lock().expect("no panic while held");
    let configured = configured.as_mut().ok_or_else(|| {
        ApiError::new(Code::UsageInvalid, "this node was opened for one command: there is nothing to reload")
    })?;
    let new = (configured.loader)().map_err(failed)?;
    let mut next = configured.loaded.clone();
    let (changed, restart) = next.adopt(new);
    let options = vault_options(&next.settings)?;
    if let Ok(vault) = core.vault() {
        vault.configure(options);
    }
    if let Ok(net) = core.net() {
        tokio::runtime::Handle::current().block_on(net.configure(net_limits(&next.settings)));
    }
    core.resources.resize(next.settings.storage.memory_limit);
    core.store.limit_disk(next.settings.storage.disk_limit);
    core.settings.send_replace(Arc::new(next.settings.clone()));
    schedule::configure(core);
    configured.loaded = next;
    Ok(Reloaded { changed, restart })
}

/// Every setting in force.
pub(super) fn rows(core: &Arc<Core>) -> Result<Vec<ConfigRow>, ApiError> {
    let configured = core.configured.lock().expect("no panic while held");
    let configured = configured
        .as_ref()
        .ok_or_else(|| ApiError::new(Code::UsageInvalid, "this node was opened for one command"))?;
    let rows = configured.loaded.effective().into_iter();
    Ok(rows.map(|row| ConfigRow { key: row.key, value: row.value, origin: row.origin.to_string() }).collect())
}
