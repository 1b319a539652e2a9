//! What is served over TCP: metrics, health, and the API for bearers of the token.
//!
//! Every request passes its client's token bucket first. Connections are bounded: one that waits for no answer makes room
//! for another, and one that does not get on with its request is closed.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::clients::Clients;
use super::guard::{self, Token};
use super::guests::{Guest, Guests, Work};
use super::problem::Problem;
use super::router;
use crate::api::{ApiError, Service};
use crate::base::{Code, limit};

/// The node once it is open; until then there is nothing to ask.
pub type Slot = Arc<OnceLock<Arc<dyn Service>>>;

/// What one port is for.
pub enum Site {
    /// `/metrics`, for whoever reaches it.
    Metrics(Slot),
    /// `/health`, `/ready`, `/live`, for whoever reaches it; answers while the node is still opening.
    Health(Slot),
    /// The whole API, for bearers of the token.
    Api {
        /// The node.
        service: Arc<dyn Service>,
        /// What opens it.
        token: Arc<Token>,
        /// A request's longest body, in bytes.
        body_bytes_max: u64,
    },
}

/// A port that is listened on.
pub struct Port {
    listener: TcpListener,
    /// Where exactly.
    pub address: SocketAddr,
}

impl Port {
    /// Listens on `address`, which the configuration's `key` gives.
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`], with the key: the port is taken, not allowed, or the address is not this machine's.
    pub async fn bind(address: SocketAddr, key: &str) -> Result<Self, ApiError> {
        let bound = match TcpListener::bind(address).await {
            Ok(listener) => listener.local_addr().map(|address| Self { listener, address }),
            Err(error) => Err(error),
        };
        bound.map_err(|error| {
            let hint = match error.kind() {
                std::io::ErrorKind::AddrInUse => {
                    format!("another program uses this port; change `{key}`, or set it to 0 for any free one")
                }
                _ => format!("change `{key}`"),
            };
            ApiError::new(Code::ConfigInvalid, format!("{key}: cannot listen on {address}: {error}"))
                .with_hint(hint)
        })
    }

    /// Serves `site` until `stop`; then ends what is under way within a second.
    pub async fn serve(self, site: Site, clients: Arc<Clients>, stop: impl Future<Output = ()>) {
        let guests = Guests::default();
        let router = guarded(site, self.address, clients.clone());
        let (ending, mut connections) = (CancellationToken::new(), JoinSet::new());
        let mut pruning = tokio::time::interval(limit::HTTP_CLIENTS_PRUNED);
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                _ = pruning.tick() => clients.prune(),
                Some(_) = connections.join_next() => {}
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, from)) => if let Some((guest, work)) = guests.enter(from.ip()) {
                        let service = router.clone().layer(axum::Extension(From(from.ip(), work)));
                        connections.spawn(converse(stream, service, ending.clone(), guest));
                    },
                    Err(error) => {
                        tracing::warn!(target: "http", %error, "accepting a connection failed");
                        tokio::time::sleep(Duration::from_millis(200)).await;
                    }
                },
            }
        }
        ending.cancel();
        // Dropping the set ends what is still under way after that.
        tokio::time::timeout(limit::HTTP_LAST_ANSWERS, async {
            while connections.join_next().await.is_some() {}
        })
        .await
        .ok();
    }
}

/// The client's address, and the requests of its connection.
#[derive(Clone)]
struct From(IpAddr, Work);

async fn converse(stream: TcpStream, router: Router, ending: CancellationToken, mut guest: Guest) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limit::HTTP_HEAD_READ)
        .max_buf_size(limit::HTTP_HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    // An error is the client's: it left, or spoke something else.
    tokio::select! {
        _ = connection.as_mut() => {}
        () = guest.has_to_go() => {}
        () = ending.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await.ok();
        }
    }
}

fn guarded(site: Site, local: SocketAddr, clients: Arc<Clients>) -> Router {
    let router = match site {
        Site::Metrics(slot) => {
            Router::new().route("/metrics", get(metrics)).with_state(slot).fallback(router::unknown_route)
        }
        Site::Health(slot) => router::health(slot).fallback(router::unknown_route),
        Site::Api { service, token, body_bytes_max } => {
            let door = Arc::new(Door { token, local, body_bytes_max });
            router::router(service).layer(from_fn_with_state(door, admit))
        }
    };
    router.layer(from_fn_with_state(clients, charge))
}

/// Charges the client's bucket before anything else is looked at.
async fn charge(
    State(clients): State<Arc<Clients>>,
    axum::Extension(From(address, work)): axum::Extension<From>,
    request: Request,
    next: Next,
) -> Response {
    let Err(wait) = clients.charge(address) else {
        let under_way = work.begin();
        let answer = tokio::time::timeout(limit::HTTP_REQUEST_LIFE, next.run(request));
        let answer = answer.await.unwrap_or_else(|_| {
            Problem::usage(StatusCode::REQUEST_TIMEOUT, "the request did not arrive in time").into_response()
        });
        return answer.map(|body| under_way.until_sent(body));
    };
    let seconds = wait.as_secs() + 1;
    let error = ApiError::new(Code::RateLimitExceeded, "this address asks too often");
    let mut response = Problem::from(error.with_hint(format!("ask again in {seconds} s"))).into_response();
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    response
}

struct Door {
    token: Arc<Token>,
    local: SocketAddr,
    body_bytes_max: u64,
}

async fn admit(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    if let Err(refusal) = guard::check(request.headers(), request.uri(), door.local, &door.token) {
        return refusal;
    }
    let length = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|text| text.to_str().ok()?.parse::<u64>().ok());
    let chunked = request.headers().contains_key(header::TRANSFER_ENCODING);
    if length.unwrap_or(0) > door.body_bytes_max
        || (chunked && door.body_bytes_max < limit::HTTP_BODY_BYTES_MAX as u64)
    {
        let text = format!("the body may have {} bytes (security.max_request_size)", door.body_bytes_max);
        return Problem::usage(StatusCode::PAYLOAD_TOO_LARGE, text).into_response();
    }
    next.run(request).await
}

async fn metrics(State(slot): State<Slot>) -> Result<Response, Problem> {
    let Some(service) = slot.get() else {
        return Ok((StatusCode::SERVICE_UNAVAILABLE, "the node is starting\n").into_response());
    };
    let text = service.metrics().await?;
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}
