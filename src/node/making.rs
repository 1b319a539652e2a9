//! A node in the making: begun by `init`, `join` or `recover`, gone on with by the same command when that was cut off, whole
//! at the end. Until then no other command takes its directory for a node.

use std::path::Path;
use std::sync::Arc;

use super::core::{Core, log_failure};
use super::error::{failed, panicked};
use super::{Mode, Node};
use crate::api::ApiError;
use crate::base::{Code, VaultId};
use crate::config::Settings;
use crate::crypto::Phrase;
use crate::engine;
use crate::store::{Purpose, Store, StoreError};

/// Whether `settings.repository_path` is free for that command, or has what it began: before anything is asked that a person
/// has to type.
///
/// # Errors
/// There is a node, or another command began one.
pub fn check_free(settings: &Settings, command: &str) -> Result<(), ApiError> {
    let dir = &settings.repository_path;
    if Store::is_at(dir) {
        return Err(failed(StoreError::Exists(dir.clone())));
    }
    match Store::unfinished(dir).map_err(failed)? {
        Some(begun) if begun.command != command => Err(failed(begun.cut_off_in(dir))),
        _ => Ok(()),
    }
}

/// Whether `init` was cut off in `settings.repository_path`, and the vault is that of the phrase. Its words may have been
/// shown or written.
pub fn is_begun_with(settings: &Settings, phrase: &Phrase) -> bool {
    let dir = &settings.repository_path;
    let begun = Store::unfinished(dir).is_ok_and(|begun| begun.is_some_and(|begun| begun.command == "init"));
    begun && Store::vault_at(dir) == Some(phrase.root().admin().vault())
}

/// Begins a node whose making nobody else takes part in. What an earlier try left is of no worth: it is made anew. Blocking.
pub(super) fn begin_anew(dir: &Path, purpose: &Purpose) -> Result<Store, ApiError> {
    match Store::unfinished(dir).map_err(failed)? {
        Some(begun) if begun == *purpose => Store::discard(dir).map_err(failed)?,
        _ => {}
    }
    Store::begin(dir, purpose).map_err(failed)
}

/// Begins a device of a vault, or goes on with it. What was begun for another vault, or another time of this one, is left
/// alone when heads of that came already. Blocking.
fn begin_device(dir: &Path, purpose: &Purpose) -> Result<Store, ApiError> {
    let begun = Store::unfinished(dir).map_err(failed)?;
    let differs = begun.is_some_and(|begun| begun.command == purpose.command && begun != *purpose);
    if differs {
        if Store::has_heads(dir) {
            return Err(failed(purpose.clone().cut_off_in(dir)).with_hint(
                "that was with another phrase or --at: give the same again, or name another directory with --repo",
            ));
        }
        Store::discard(dir).map_err(failed)?;
    }
    let store = Store::begin(dir, purpose).map_err(failed)?;
    if store.read_node_key().map_err(failed)?.is_none() {
        // The same one for every try: holders let it in, and a ticket is good for it alone.
        engine::make_node(&store).map_err(failed)?;
    }
    Ok(store)
}

/// Makes a node, or goes on with it, and has `work` make a device of `vault` of it. It is whole when that is done and
/// `ready` has done the rest.
///
/// What was made is removed again when `work` fails before any peer let this node in; else it stays, and the same command
/// goes on with it.
pub(super) async fn as_new_device<T>(
    settings: Settings,
    purpose: Purpose,
    vault: VaultId,
    work: impl AsyncFnOnce(&Arc<Core>) -> Result<T, ApiError>,
    ready: impl FnOnce(),
) -> Result<T, ApiError> {
    let dir = settings.repository_path.clone();
    let begun = {
        let dir = dir.clone();
        tokio::task::spawn_blocking(move || begin_device(&dir, &purpose)).await
    };
    let store = match begun.map_err(panicked)? {
        Err(error) if error.kind() == Code::VaultExists && Store::vault_at(&dir) == Some(vault) => {
            return Err(error.with_hint(match Store::lacks(&dir) {
                None => {
                    "it is complete, and of this very vault: `shadowvault snapshots` lists what it has; to make another one, name another directory with --repo".to_owned()
                }
                Some(file) => format!(
                    "it is of this very vault, but {file} is gone: put a copy of it back, or name a new directory with --repo and keep this one until all is there"
                ),
            }));
        }
        begun => begun?,
    };
    let node = Node::set_up(settings, store).await?;
    let mut result = work(&node.core).await;
    if result.is_ok() {
        ready();
        if let Err(error) = node.core.blocking(|core| core.store.finish().map_err(failed)).await {
            result = Err(error);
        }
    }
    let was_let_in = !node.core.book().allowed.is_empty();
    log_failure(node.shutdown().await, "shutting down");
    drop(node);
    match result {
        Err(error) if was_let_in => {
            let goes_on = "what came so far is kept: the same command goes on where it was";
            let hint = error.hint.as_ref().map_or(goes_on.to_owned(), |hint| format!("{hint}; {goes_on}"));
            Err(error.with_hint(hint))
        }
        Err(error) => {
            let removed = tokio::task::spawn_blocking(move || Store::discard(&dir)).await;
            if !matches!(removed, Ok(Ok(()))) {
                tracing::warn!(target: "recover", "what was begun could not be removed");
            }
            Err(error)
        }
        done => done,
    }
}

impl Node {
    /// A node that is being made: it dials and answers, and does nothing by itself.
    async fn set_up(settings: Settings, store: Store) -> Result<Arc<Self>, ApiError> {
        let opening =
            tokio::task::spawn_blocking(move || Core::over(Arc::new(store), settings, None, Mode::Setup));
        let core = opening.await.map_err(panicked)??;
        core.clone().start(Mode::Setup).await?;
        Ok(Arc::new(Self { core }))
    }
}
