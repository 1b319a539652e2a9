//! What a thread finds, on its way to whoever asked: bounded, in order, and ended when nobody takes it any more.
//!
//! The thread waits while enough lies there; the taker gets everything that lies there at once. A reader that stops, or
//! a node that does, ends the thread; a thread that fails or panics ends the stream with an error, never cleanly.

use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use futures::{Stream, StreamExt, stream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::core::{Core, log_failure};
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

/// Things that come several at a time, one after the other.
pub(super) fn one_by_one<T: Send + 'static>(
    batches: Batches<T>,
) -> Pin<Box<dyn Stream<Item = Result<T, ApiError>> + Send>> {
    Box::pin(batches.flat_map(|batch| {
        let (items, error) = match batch {
            Ok(items) => (items, None),
            Err(error) => (Vec::new(), Some(error)),
        };
        stream::iter(items.into_iter().map(Ok).chain(error.map(Err)))
    }))
}

/// What a thread does once it is open: it puts what it finds.
pub(super) type Finding<T> = Box<dyn FnOnce(&Sink<T>, &Monitor) -> Result<(), ApiError> + Send>;

/// What is streamed: how much may wait for its reader, and how many may read at one time.
#[derive(Copy, Clone)]
pub(super) enum Goods {
    /// Entries, or what is said about them.
    Entries,
    /// Parts of a dump.
    Parts,
}

impl Goods {
    fn waiting(self) -> usize {
        match self {
            Self::Entries => limit::ENTRIES_WAITING_MAX,
            Self::Parts => limit::DUMP_PARTS_WAITING_MAX,
        }
    }

    fn places(self, core: &Core) -> Arc<Semaphore> {
        match self {
            Self::Entries => core.readings.clone(),
            Self::Parts => core.dumps.clone(),
        }
    }
}

/// Opens something on a thread of its own (that is still a plain answer or error), then streams what it finds.
///
/// # Errors
/// What `open` gives; [`Code::ResourceExhausted`] when too many others read for too long.
pub(super) async fn flow<H, T, O>(
    core: &Arc<Core>,
    goods: Goods,
    open: O,
) -> Result<(H, Batches<T>), ApiError>
where
    H: Send + 'static,
    T: Send + 'static,
    O: FnOnce(&Arc<Core>, &Monitor) -> Result<(H, Finding<T>), ApiError> + Send + 'static,
{
    let place = place(goods.places(core)).await?;
    let state = Mutex::new(State { items: Vec::new(), ended: None, closed: false });
    let shared = Arc::new(Shared { state, most: goods.waiting(), room: Condvar::new(), news: Notify::new() });
    let monitor = Arc::new(Monitor::default());
    // From here on dropping the future ends the thread.
    let watch = watch(core.stop.clone(), shared.clone(), monitor.clone());
    let taker = Taker { shared: shared.clone(), monitor: monitor.clone(), _watch: watch };
    let (opened_in, opened_out) = oneshot::channel();
    let work = core.clone();
    // On a task of its own, which ends with the thread: whoever asked needs the answer to `open` only.
    tokio::spawn(async move {
        let reading = work.blocking(move |core| {
            let (_place, sink) = (place, Sink { shared });
            match open(core, &monitor) {
                Err(error) => drop(opened_in.send(Err(error))),
                Ok((head, finding)) => {
                    // When nobody waits any more, the finding ends at its first look at the monitor.
                    opened_in.send(Ok(head)).ok();
                    let ended = finding(&sink, &monitor);
                    sink.shared.end(whole(core, &sink, ended));
                }
            }
            Ok(())
        });
        log_failure(reading.await, "reading snapshots");
    });
    let panicked = |_| Err(ApiError::new(Code::Internal, "the reading thread failed"));
    let head = opened_out.await.unwrap_or_else(panicked)?;
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

async fn place(places: Arc<Semaphore>) -> Result<OwnedSemaphorePermit, ApiError> {
    let place = tokio::time::timeout(limit::READING_WAIT, places.acquire_owned()).await;
    match place {
        Ok(place) => Ok(place.expect("the semaphore is never closed")),
        Err(_) => {
            let text = "too many of these are under way already";
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

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe(most: usize) -> (Sink<u32>, Taker<u32>) {
        let state = Mutex::new(State { items: Vec::new(), ended: None, closed: false });
        let shared = Arc::new(Shared { state, most, room: Condvar::new(), news: Notify::new() });
        let monitor = Arc::new(Monitor::default());
        let watch = watch(CancellationToken::new(), shared.clone(), monitor.clone());
        (Sink { shared: shared.clone() }, Taker { shared, monitor, _watch: watch })
    }

    #[tokio::test]
    async fn everything_arrives_in_order_and_no_more_waits_than_allowed() {
        let (sink, taker) = pipe(3);
        let finder = tokio::task::spawn_blocking(move || {
            (0..1000).for_each(|item| assert!(sink.put(item)));
            sink.shared.end(Ok(()));
        });
        let mut all = Vec::new();
        while let Some(batch) = taker.take().await.unwrap() {
            assert!((1..=3).contains(&batch.len()));
            all.extend(batch);
        }
        assert_eq!(all, (0..1000).collect::<Vec<_>>());
        finder.await.unwrap();
    }

    #[tokio::test]
    async fn a_finder_that_fails_or_panics_never_ends_cleanly() {
        let (sink, taker) = pipe(3);
        assert!(sink.put(1));
        sink.shared.end(Err(ApiError::new(Code::ChunkNotFound, "gone")));
        assert_eq!(taker.take().await.unwrap(), Some(vec![1]));
        assert_eq!(taker.take().await.unwrap_err().kind(), Code::ChunkNotFound);
        let (sink, taker) = pipe(3);
        drop(sink);
        assert_eq!(taker.take().await.unwrap_err().kind(), Code::Internal);
    }

    #[tokio::test]
    async fn a_reader_that_goes_ends_a_finder_that_waits() {
        let (sink, taker) = pipe(1);
        assert!(sink.put(1));
        let monitor = taker.monitor.clone();
        let finder = tokio::task::spawn_blocking(move || sink.put(2));
        drop(taker);
        assert!(!finder.await.unwrap());
        assert!(monitor.go_on().is_err());
    }
}
