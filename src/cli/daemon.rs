//! `daemon`: the node in the foreground, from the first log line to the last.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use sd_notify::NotifyState;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_tokio::Signals;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;

use super::args::Globals;
use super::passphrase::Text;
use super::session::Session;
use crate::api::{ApiError, Identity, Service};
use crate::base::{Code, limit};
use crate::config::{LogFormat, Monitoring};
use crate::http;
use crate::node::{Mode, Node};

/// Libraries whose details are of use to their authors only.
const QUIET_TARGETS: &str = "libp2p=warn,multistream_select=warn,yamux=warn,quinn=warn,netlink=warn,hickory=warn,hyper=warn,libp2p_kad=error";

/// What requests on the control socket may take of the time to stop; the rest is the node's.
const LAST_REQUESTS: Duration = Duration::from_secs(2);

/// Logging of a command that ends: warnings, more with `-v`.
pub(super) fn log_for_command(globals: &Globals) {
    let level = match (globals.quiet, globals.verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "info",
        (false, _) => "debug",
    };
    let filter = EnvFilter::new(format!("{level},{QUIET_TARGETS}"));
    let logs = tracing_subscriber::fmt().with_writer(io::stderr).with_env_filter(filter);
    // A second subscriber (tests run many commands in one process) changes nothing.
    logs.with_ansi(io::stderr().is_terminal()).try_init().ok();
}

fn log_for_daemon(monitoring: &Monitoring, verbose: u8) {
    let level = match verbose {
        0 => monitoring.log_level.name(),
        1 => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::new(format!("{level},{QUIET_TARGETS}"));
    let logs = tracing_subscriber::fmt().with_writer(io::stderr).with_env_filter(filter);
    match monitoring.log_format {
        LogFormat::Json => logs.json().flatten_event(true).try_init().ok(),
        LogFormat::Text => logs.with_ansi(io::stderr().is_terminal()).try_init().ok(),
    };
}

pub(super) async fn run(session: &Session<'_>) -> Result<u8, ApiError> {
    let settings = session.load()?.settings;
    log_for_daemon(&settings.monitoring, session.globals.verbose);
    let socket = session.socket(&settings);
    let passphrase = session.passphrases().given()?;
    let ask = passphrase.is_none() && !session.globals.no_input && io::stdin().is_terminal();
    let opening = Node::open(settings, passphrase.map(Text::into_passphrase), Mode::Daemon);
    let (node, stop) = if ask {
        // Signals keep their usual effect while a person types: the terminal waits for an answer, not for us.
        let node = opening.await?;
        if let Err(error) = session.unlock_by_prompt(&*node).await {
            warn!(target: "daemon", code = error.code, "running locked; `shadowvault unlock` opens the vault");
        }
        (node, listen_for_signals()?)
    } else {
        let mut stop = listen_for_signals()?;
        let node = tokio::select! {
            node = opening => node?,
            _ = stop.wait_for(Option::is_some) => return Ok(0),
        };
        (node, stop)
    };
    let result = serve(node.clone(), &socket, stop.clone()).await;
    notify(&[NotifyState::Stopping]);
    info!(target: "daemon", "node is stopping");
    let deadline = stop.borrow().unwrap_or_else(Instant::now) + limit::SHUTDOWN;
    let stopped = timeout_at(deadline, node.shutdown()).await;
    result?;
    match stopped {
        Ok(result) => result.map(|()| 0),
        Err(_) => {
            let message = format!("the node did not stop within {} s", limit::SHUTDOWN.as_secs());
            Err(ApiError::new(Code::Internal, message).with_hint("what was committed is safe"))
        }
    }
}

/// Serves the control socket until a signal comes; requests that are under way then may end within their bound.
async fn serve(node: Arc<Node>, socket: &Path, mut stop: Stop) -> Result<(), ApiError> {
    let listener = http::bind(socket)?;
    let mut ended = stop.clone();
    let mut server = tokio::spawn(http::serve(listener, node.clone(), async move {
        ended.wait_for(Option::is_some).await.ok();
    }));
    announce(&node.identity().await?, socket);
    notify(&[NotifyState::Ready]);
    let result = tokio::select! {
        _ = stop.wait_for(Option::is_some) => timeout(LAST_REQUESTS, &mut server).await,
        result = &mut server => Ok(result),
    };
    std::fs::remove_file(socket).ok();
    match result {
        Ok(Ok(Ok(()))) => Ok(()),
        Ok(Ok(Err(error))) => {
            Err(ApiError::new(Code::IoFailed, format!("serving the control socket: {error}")))
        }
        Ok(Err(_)) => Err(ApiError::new(Code::Internal, "serving the control socket panicked")),
        Err(_) => {
            warn!(target: "daemon", "a request on the control socket did not end in time");
            server.abort();
            Ok(())
        }
    }
}

/// The one line that tells where the node is.
fn announce(identity: &Identity, socket: &Path) {
    let (peer, addresses) = (identity.peer_id.to_string(), identity.addresses.join(" "));
    info!(target: "daemon", peer, addresses, socket = %socket.display(), "node is up");
}

/// When the first SIGINT or SIGTERM came.
type Stop = watch::Receiver<Option<Instant>>;

/// Waits for the first signal in the background; the second one ends the process at once.
fn listen_for_signals() -> Result<Stop, ApiError> {
    let mut signals = Signals::new([SIGINT, SIGTERM])
        .map_err(|error| ApiError::new(Code::Internal, format!("listening for signals: {error}")))?;
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        while let Some(signal) = signals.next().await {
            if sender.send_replace(Some(Instant::now())).is_some() {
                error!(target: "daemon", signal, "second signal: leaving at once");
                std::process::exit(128 + signal);
            }
            info!(target: "daemon", signal, "signal received");
        }
    });
    Ok(receiver)
}

fn notify(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(target: "daemon", %error, "telling the service manager failed");
    }
}
