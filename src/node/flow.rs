//! What a thread finds, on its way to whoever asked: bounded, in order, and ended when nobody takes it any more.
//!
//! The thread waits while enough lies there; the taker gets everything that lies there at once. A reader that stops, or
//! a node that does, ends the thread; a thread that fails or panics ends the stream with an error, never cleanly.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use futures::stream;
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::core::Core;
use crate::api::{ApiError, Batches};
use crate::base::{Code, limit};
use crate::engine::Monitor;

struct State<T> {
    items: Vec<T>,
    /// How the thread ended.
    ended: Option<Result<(), ApiError>>,
    /// Nobody takes what is put any more.
    closed: bool,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    most: usize,
    room: Condvar,
    news: Notify,
}

impl<T> Shared<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.state().closed = true;
        self.room.notify_all();
    }

    fn end(&self, result: Result<(), ApiError>) {
        self.state().ended.get_or_insert(result);
        self.news.notify_one();
    }
}

/// The thread's end.
pub(super) struct Sink<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Sink<T> {
    /// Hands on one thing; waits for room. `false` when nobody takes it.
    pub(super) fn put(&self, item: T) -> bool {
        let mut state = self.shared.state();
        while state.items.len() >= self.shared.most && !state.closed {
            state = self.shared.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return false;
        }
        state.items.push(item);
        drop(state);
        self.shared.news.notify_one();
        true
    }
}

impl<T> Drop for Sink<T> {
    fn drop(&mut self) {
        // Reached without an end only by a panic.
        self.shared.end(Err(ApiError::new(Code::Internal, "the reading thread failed")));
    }
}

/// The reader's end.
struct Taker<T> {
    shared: Arc<Shared<T>>,
    monitor: Arc<Monitor>,
    _watch: AbortOnDropHandle<()>,
}

impl<T> Taker<T> {
    async fn take(&self) -> Result<Option<Vec<T>>, ApiError> {
        loop {
            {
                let mut state = self.shared.state();
                if !state.items.is_empty() {
                    let items = std::mem::take(&mut state.items);
                    drop(state);
                    self.shared.room.notify_all();
                    return Ok(Some(items));
                }
                if let Some(ended) = state.ended.take() {
                    return ended.map(|()| None);
                }
            }
            self.shared.news.notified().await;
        }
    }
}

impl<T> Drop for Taker<T> {
    fn drop(&mut self) {
        self.shared.close();
        self.monitor.cancel();
    }
}

/// What a thread does once it is open: it puts what it finds.
pub(super) type Finding<T> = Box<dyn FnOnce(&Sink<T>, &Monitor) -> Result<(), ApiError> + Send>;

/// Opens something on a thread of its own (that is still a plain answer or error), then streams what it finds.
///
/// At most `most` things wait for the reader.
///
/// # Errors
/// What `open` gives; [`Code::ResourceExhausted`] when too many others read for too long.
pub(super) async fn flow<H, T, O>(core: &Arc<Core>, most: usize, open: O) -> Result<(H, Batches<T>), ApiError>
where
    H: Send + 'static,
    T: Send + 'static,
    O: FnOnce(&Arc<Core>, &Monitor) -> Result<(H, Finding<T>), ApiError> + Send + 'static,
{
    let place = place(core).await?;
    let state = Mutex::new(State { items: Vec::new(), ended: None, closed: false });
    let shared = Arc::new(Shared { state, most, room: Condvar::new(), news: Notify::new() });
    let monitor = Arc::new(Monitor::default());
    // From here on dropping the future ends the thread.
    let watch = watch(core.stop.clone(), shared.clone(), monitor.clone());
    let taker = Taker { shared: shared.clone(), monitor: monitor.clone(), _watch: watch };
    let (opened_in, opened_out) = oneshot::channel();
    let work = core.clone();
    let reading = core.blocking(move |_| {
        let (_place, sink) = (place, Sink { shared });
        match open(&work, &monitor) {
            Err(error) => drop(opened_in.send(Err(error))),
            Ok((head, finding)) => {
                // Nobody waits any more: the finding ends at its first look at the monitor.
                opened_in.send(Ok(head)).ok();
                let ended = finding(&sink, &monitor);
                sink.shared.end(whole(&work, &sink, ended));
            }
        }
        Ok(())
    });
    tokio::pin!(reading);
    let head = tokio::select! {
        biased;
        head = opened_out => head.unwrap_or_else(|_| Err(ApiError::new(Code::Internal, "opening failed"))),
        ended = &mut reading => Err(ended.err().unwrap_or_else(|| ApiError::new(Code::Internal, "opening failed"))),
    }?;
    let batches =
        stream::try_unfold(taker, |taker| async move { Ok(taker.take().await?.map(|items| (items, taker))) });
    Ok((head, Box::pin(batches)))
}

/// A thread that ended because nobody took anything more has not ended well.
fn whole<T>(core: &Core, sink: &Sink<T>, ended: Result<(), ApiError>) -> Result<(), ApiError> {
    if core.stop.is_cancelled() && (sink.shared.state().closed || ended.is_err()) {
        return Err(ApiError::new(Code::ShuttingDown, "the node was stopped before this ended"));
    }
    ended
}

async fn place(core: &Core) -> Result<OwnedSemaphorePermit, ApiError> {
    let place = tokio::time::timeout(limit::READING_WAIT, core.readings.clone().acquire_owned()).await;
    match place {
        Ok(place) => Ok(place.expect("the semaphore is never closed")),
        Err(_) => {
            let text = format!("{} listings, searches or dumps are under way already", limit::READINGS_MAX);
            Err(ApiError::new(Code::ResourceExhausted, text).with_hint("end one of them, or try again later"))
        }
    }
}

/// Ends the thread when the node stops.
fn watch<T: Send + 'static>(
    stop: CancellationToken,
    shared: Arc<Shared<T>>,
    monitor: Arc<Monitor>,
) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        stop.cancelled().await;
        monitor.cancel();
        shared.close();
    }))
}
