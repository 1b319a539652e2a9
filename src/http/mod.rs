//! HTTP over the control socket and TCP: the daemon's router, and the client that makes a far node a [`Service`].
//!
//! Owns the socket file, the routes of the API and the shape of its errors (RFC 9457 problem+json). Decides nothing
//! about backups: every route is one call of [`Service`]. On the control socket only
//! processes of the same user or of root are served; over TCP the API wants a token, and every client has its rate;
//! bodies, answers, connections and waiting times are bounded.
//!
//! [`Service`]: crate::api::Service

mod client;
mod clients;
#[cfg(test)]
mod crowded_test;
mod events;
mod extract;
mod fates;
mod guard;
mod guests;
mod problem;
mod router;
mod socket;
mod stream;
mod tcp;
#[cfg(test)]
mod tests;

pub use client::Client;
pub use clients::Clients;
pub use guard::Token;
pub use socket::{bind, serve};
pub use tcp::{Port, Site, Slot};
