//! The places of one port: who waits for no answer makes room for somebody new, so that no number of silent connections
//! keeps others out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio::sync::oneshot;

use crate::base::{Origin, limit, random_bytes};
use crate::policy::{Crowd, Entry, Room};

const ROOM: Room = Room {
    all: limit::HTTP_CONNECTIONS_MAX,
    host: limit::HTTP_CONNECTIONS_PER_HOST_MAX,
    network: limit::HTTP_CONNECTIONS_PER_NETWORK_MAX,
};

/// The connections of one port.
#[derive(Clone, Default)]
pub(super) struct Guests(Arc<Mutex<Inside>>);

struct Inside {
    next: u64,
    crowd: Crowd<u64>,
    /// What each has under way; the sender is dropped when it has to go.
    known: HashMap<u64, (Work, oneshot::Sender<()>)>,
}

impl Default for Inside {
    fn default() -> Self {
        Self { next: 0, crowd: Crowd::new(ROOM), known: HashMap::new() }
    }
}

/// A connection's place; given back when it is dropped.
pub(super) struct Guest {
    guests: Guests,
    key: u64,
    stay: oneshot::Receiver<()>,
}

/// The requests of one connection that are not answered to the end.
#[derive(Clone, Default)]
pub(super) struct Work(Arc<AtomicUsize>);

/// One such request.
pub(super) struct UnderWay(Work);

impl Guests {
    /// A place for a connection from there; none while all that could make room are at work.
    pub(super) fn enter(&self, address: IpAddr) -> Option<(Guest, Work)> {
        let chance = u64::from_le_bytes(random_bytes());
        let mut inside = self.lock();
        let Inside { next, crowd, known } = &mut *inside;
        let key = *next;
        *next += 1;
        let worth = |key| match known.get(&key) {
            Some((work, _)) if work.0.load(Ordering::Relaxed) > 0 => None,
            _ => Some(0),
        };
        match crowd.enter(key, Origin::of(address), chance, worth) {
            Entry::Full => return None,
            Entry::Free => {}
            Entry::InsteadOf(goes) => drop(known.remove(&goes)),
        }
        let (work, (sender, stay)) = (Work::default(), oneshot::channel());
        known.insert(key, (work.clone(), sender));
        drop(inside);
        Some((Guest { guests: self.clone(), key, stay }, work))
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guest {
    /// Resolves when this one has to make room.
    pub(super) async fn has_to_go(&mut self) {
        // Nothing is ever sent: it ends with the sender.
        let _ = (&mut self.stay).await;
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut inside = self.guests.lock();
        inside.crowd.leave(self.key);
        inside.known.remove(&self.key);
    }
}

impl Work {
    /// A request came.
    pub(super) fn begin(&self) -> UnderWay {
        self.0.fetch_add(1, Ordering::Relaxed);
        UnderWay(self.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl UnderWay {
    /// It is under way until all of this was handed on.
    pub(super) fn until_sent(self, body: Body) -> Body {
        Body::new(Sent { body, _under_way: self })
    }
}

struct Sent {
    body: Body,
    _under_way: UnderWay,
}

impl HttpBody for Sent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn who_waits_for_an_answer_stays_and_the_idle_make_room() {
        let guests = Guests::default();
        let here: IpAddr = "192.0.2.1".parse().unwrap();
        let enter = || guests.enter(here);
        let mut all: Vec<(Guest, Work)> =
            (0..limit::HTTP_CONNECTIONS_PER_HOST_MAX).map(|_| enter().unwrap()).collect();
        let busy: Vec<UnderWay> = all[1..].iter().map(|(_, work)| work.begin()).collect();
        let (newcomer, _work) = enter().unwrap();
        assert!(all[0].0.has_to_go().now_or_never().is_some());
        assert!(all[1..].iter_mut().all(|(guest, _)| guest.has_to_go().now_or_never().is_none()));
        let _at_work = _work.begin();
        assert!(enter().is_none(), "all are at work");
        assert!(guests.enter("198.51.100.1".parse().unwrap()).is_some(), "for others there is room");
        drop(busy);
        assert!(enter().is_some());
        drop((all, newcomer));
        assert!(guests.lock().known.is_empty() && guests.lock().crowd.is_empty());
    }
}
