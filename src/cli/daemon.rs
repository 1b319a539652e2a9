//! `daemon`: the node in the foreground, from the first log line to the last.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::StreamExt;
use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

use super::logging::Levels;
use super::passphrase::Text;
use super::ports::Ports;
use super::session::Session;
use crate::api::{ApiError, Identity, Service};
use crate::base::{Code, limit};
use crate::http::{self, Clients};
use crate::node::{Mode, Node};

pub(super) async fn run(session: &Session<'_>) -> Result<u8, ApiError> {
    let loaded = session.load()?;
    let settings = loaded.settings.clone();
    let levels = Levels::start(&settings.monitoring, session.globals.verbose);
    let socket = session.socket(&settings);
    let passphrase = session.passphrases().given()?;
    let ask = passphrase.is_none() && !session.globals.no_input && io::stdin().is_terminal();
    let ports = Ports::bind(&settings).await?;
    let opening = Node::open(settings.clone(), passphrase.map(Text::into_passphrase), Mode::Daemon);
    let (node, mut signals) = if ask {
        // Signals keep their usual effect while a person types: the terminal waits for an answer, not for us.
        let node = opening.await?;
        if let Err(error) = session.unlock_by_prompt(&*node).await {
            warn!(target: "daemon", code = error.code, "running locked; `shadowvault unlock` opens the vault");
        }
        (node, listen_for_signals()?)
    } else {
        let mut signals = listen_for_signals()?;
        let node = tokio::select! {
            node = opening => node?,
            _ = signals.stop.wait_for(Option::is_some) => return Ok(0),
        };
        (node, signals)
    };
    node.configured_by(loaded, session.loader());
    let service = serve(&node, &socket)?;
    let clients = ports.open(&node, &settings)?;
    announce(&node.identity().await?, &socket);
    notify(&[NotifyState::Ready]);
    attend(&node, &levels, &clients, &mut signals).await;
    notify(&[NotifyState::Stopping]);
    info!(target: "daemon", "node is stopping");
    let deadline = signals.stop.borrow().unwrap_or_else(Instant::now) + limit::SHUTDOWN;
    let stopped = timeout_at(deadline, node.shutdown()).await;
    drop(service);
    // However it was told to stop: whoever watches over it must see that it could not go on.
    if let Some(error) = node.failure() {
        return Err(error);
    }
    stopped.unwrap_or_else(|_| {
        let message = format!("the node did not stop within {} s", limit::SHUTDOWN.as_secs());
        Err(ApiError::new(Code::Internal, message).with_hint("what was committed is safe"))
    })?;
    info!(target: "daemon", "node has stopped");
    Ok(0)
}

/// Reloads when asked to, and passes changed settings on, until a signal says to stop or the node cannot go on.
async fn attend(node: &Arc<Node>, levels: &Levels, clients: &Clients, signals: &mut Signals) {
    let mut settings = node.settings();
    loop {
        tokio::select! {
            _ = signals.stop.wait_for(Option::is_some) => return,
            () = node.failed() => return,
            Some(()) = signals.reload.recv() => {
                // The node logs how it went, and keeps the old settings if it went wrong.
                node.reload().await.ok();
            }
            Ok(()) = settings.changed() => {
                let settings = settings.borrow_and_update().clone();
                levels.set(&settings.monitoring);
                clients.configure(&settings.security);
            }
        }
    }
}

/// The socket file, removed in the end.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

/// Serves the control socket until the node has ended its jobs; requests that are under way then may end within
/// their bound.
fn serve(node: &Arc<Node>, socket: &Path) -> Result<SocketFile, ApiError> {
    let listener = http::bind(socket)?;
    let (stop, stopped) = oneshot::channel::<()>();
    let server = http::serve(listener, node.clone(), async {
        // An error means that the node is gone already.
        stopped.await.ok();
    });
    let server = AbortOnDropHandle::new(tokio::spawn(server));
    node.before_network(async move {
        drop(stop);
        match server.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                Err(ApiError::new(Code::IoFailed, format!("serving the control socket: {error}")))
            }
            Err(_) => Err(ApiError::new(Code::Internal, "serving the control socket panicked")),
        }
    });
    Ok(SocketFile(socket.to_owned()))
}

/// The one line that tells where the node is.
fn announce(identity: &Identity, socket: &Path) {
    let (peer, addresses) = (identity.peer_id.to_string(), identity.addresses.join(" "));
    info!(target: "daemon", peer, addresses, socket = %socket.display(), "node is up");
}

/// What the process was told from outside.
struct Signals {
    /// When the first SIGINT or SIGTERM came.
    stop: watch::Receiver<Option<Instant>>,
    /// Each SIGHUP; one that comes while another waits is the same wish.
    reload: mpsc::Receiver<()>,
}

/// Waits for signals in the background; the second one to stop ends the process at once.
fn listen_for_signals() -> Result<Signals, ApiError> {
    let mut signals = signal_hook_tokio::Signals::new([SIGINT, SIGTERM, SIGHUP])
        .map_err(|error| ApiError::new(Code::Internal, format!("listening for signals: {error}")))?;
    let (stopper, stop) = watch::channel(None);
    let (reloader, reload) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Some(signal) = signals.next().await {
            info!(target: "daemon", signal, "signal received");
            if signal == SIGHUP {
                reloader.try_send(()).ok();
            } else if stopper.send_replace(Some(Instant::now())).is_some() {
                error!(target: "daemon", signal, "second signal: leaving at once");
                std::process::exit(128 + signal);
            }
        }
    });
    Ok(Signals { stop, reload })
}

fn notify(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(target: "daemon", %error, "telling the service manager failed");
    }
}
