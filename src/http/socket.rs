//! The control socket: where it is bound, who may speak on it, how many at a time.

use std::fs::{self, DirBuilder, File};
use std::future::{Future, IntoFuture};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::router::router;
use crate::api::{ApiError, Service};
use crate::base::{Code, limit};

/// Longest path that a socket address holds (`sun_path` less the final zero).
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Pause after a failed `accept` (out of file descriptors): trying at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Binds the control socket: mode 0600, in a directory that is made with 0700 if it is missing.
///
/// A socket that nobody listens on is replaced. [`Code::StorageBusy`] when a daemon answers on it,
/// [`Code::PermissionDenied`] when others could replace it, [`Code::StorageFull`] where there is no room for it,
/// [`Code::IoFailed`] for the rest.
/// Must be called within a Tokio runtime.
pub fn bind(path: &Path) -> Result<UnixListener, ApiError> {
    let failed = |source: io::Error| {
        let code = match source.kind() {
            io::ErrorKind::PermissionDenied => Code::PermissionDenied,
            _ => Code::of_refused_write(&source),
        };
        ApiError::new(code, format!("binding the control socket {}: {source}", path.display()))
    };
    prepare_directory(parent(path)).map_err(failed)?;
    let place = Place::of(path).map_err(failed)?;
    if std::os::unix::net::UnixStream::connect(&place.path).is_ok() {
        let message = format!("a daemon already listens on {}", path.display());
        return Err(
            ApiError::new(Code::StorageBusy, message).with_hint("stop it, or choose another --socket")
        );
    }
    match fs::symlink_metadata(path) {
        Ok(there) if !std::os::unix::fs::FileTypeExt::is_socket(&there.file_type()) => {
            let message = format!("{} is in the way of the control socket and is not one", path.display());
            return Err(
                ApiError::new(Code::IoFailed, message).with_hint("move it away, or choose another --socket")
            );
        }
        _ => {}
    }
    // Bound beside its place and renamed once its mode is right: nobody ever finds it open to others.
    let beside = place.path.with_extension("new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&beside).map_err(failed)?;
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    fs::rename(&beside, &place.path).map_err(failed)?;
    Ok(listener)
}

/// Serves the API on `listener` until `shutdown` ends; then finishes the requests that are under way, if their readers
/// take the answers within `limit::HTTP_LAST_ANSWERS`: one that pauses (a pager) must not keep the node from ending.
///
/// The caller removes the socket file.
pub async fn serve(
    listener: UnixListener,
    service: Arc<dyn Service>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let gate = Gate { listener, places: Arc::new(Semaphore::new(limit::HTTP_CONNECTIONS_MAX)) };
    let stopping = CancellationToken::new();
    let stopped = stopping.clone();
    let shutdown = async move {
        shutdown.await;
        stopped.cancel();
    };
    let serving = axum::serve(gate, router(service)).with_graceful_shutdown(shutdown).into_future();
    tokio::select! {
        ended = serving => ended,
        () = async {
            stopping.cancelled().await;
            tokio::time::sleep(limit::HTTP_LAST_ANSWERS).await;
        } => {
            tracing::info!(target: "http", "answers whose readers pause are cut off");
            Ok(())
        }
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes the directory for this user only, or checks that no one else can put another socket into it.
fn prepare_directory(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let there = fs::metadata(directory)?;
    let (mode, own) = (there.mode(), rustix::process::geteuid().as_raw());
    let others_write = mode & 0o022 != 0 && mode & 0o1000 == 0;
    if others_write || (there.uid() != own && there.uid() != 0 && own != 0) {
        let reason = format!("others may replace files in {}", directory.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
    }
    Ok(())
}

/// A socket's path in a form that fits a socket address: long ones go through an open directory.
pub(super) struct Place {
    pub path: PathBuf,
    _directory: Option<File>,
}

impl Place {
    pub fn of(path: &Path) -> io::Result<Self> {
        let short = path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX;
        match path.file_name() {
            Some(name) if !short => {
                let directory = File::open(parent(path))?;
                let path = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
                Ok(Self { path, _directory: Some(directory) })
            }
            _ => Ok(Self { path: path.to_owned(), _directory: None }),
        }
    }
}

/// Whether a process of user `uid` is this user or root.
pub(super) fn is_own(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}

/// Accepts own connections only, and no more than the bound at one time.
struct Gate {
    listener: UnixListener,
    places: Arc<Semaphore>,
}

impl axum::serve::Listener for Gate {
    type Io = Admitted;
    type Addr = ();

    async fn accept(&mut self) -> (Admitted, ()) {
        let place = self.places.clone().acquire_owned().await.expect("the semaphore is never closed");
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) if is_own(&stream) => return (Admitted { stream, _place: place }, ()),
                Ok(_) => tracing::warn!(target: "http", "connection of another user refused"),
                Err(error) => {
                    tracing::warn!(target: "http", %error, "accepting a connection failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A connection and its place among the allowed number.
struct Admitted {
    stream: UnixStream,
    _place: OwnedSemaphorePermit,
}

impl AsyncRead for Admitted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Admitted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
