//! What happened lately, numbered, for whoever wants to follow.
//!
//! A ring of the newest `limit::EVENTS_REMEMBERED_MAX` events. Nobody waits for a slow reader: one that falls out
//! of the ring is told so with a [`Happening::Gap`].

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::api::{Event, EventStream, Happening};
use crate::base::{Moment, limit};

/// Numbers of one run start at its start in microseconds, so that those of the next run are larger.
const IDS_PER_MILLISECOND: u64 = 1000;

pub(super) struct Events {
    ring: Mutex<VecDeque<Event>>,
    /// The id of the newest event; of none yet, one less than the first.
    newest: watch::Sender<u64>,
}

impl Events {
    /// No events yet; ids follow those of every run that started before `now`.
    pub(super) fn new(now: Moment) -> Self {
        let start = now.as_millis().saturating_mul(IDS_PER_MILLISECOND);
        Self { ring: Mutex::default(), newest: watch::Sender::new(start) }
    }

    /// Notes that something happened. Never waits.
    pub(super) fn tell(&self, now: Moment, what: Happening) {
        let mut ring = self.ring.lock().expect("no panic while held");
        let id = *self.newest.borrow() + 1;
        if ring.len() >= limit::EVENTS_REMEMBERED_MAX {
            ring.pop_front();
        }
        ring.push_back(Event { id, time: now.to_rfc3339(), what });
        self.newest.send_replace(id);
    }

    /// What came after `seen`, oldest first, a gap in front when some of it is forgotten.
    fn after(&self, seen: u64, now: Moment) -> VecDeque<Event> {
        let ring = self.ring.lock().expect("no panic while held");
        let newest = *self.newest.borrow();
        let first = ring.front().map_or(newest + 1, |event| event.id);
        let mut found: VecDeque<Event> = ring.iter().filter(|event| event.id > seen).cloned().collect();
        // Larger than any there is: the clock was set back between two runs, so nothing can be told of what was missed.
        if seen + 1 < first || seen > newest {
            if seen > newest {
                found = ring.iter().cloned().collect();
            }
            let id = found.front().map_or(newest, |event| event.id - 1);
            found.push_front(Event { id, time: now.to_rfc3339(), what: Happening::Gap });
        }
        found
    }

    /// Events from now on, or after `since`, until `stop`; what happened before the stop is still told.
    pub(super) fn follow(
        self: &Arc<Self>,
        since: Option<u64>,
        now: Moment,
        stop: CancellationToken,
    ) -> EventStream {
        let newest = self.newest.subscribe();
        let seen = since.unwrap_or(*newest.borrow());
        let state = Follower { events: self.clone(), newest, seen, waiting: VecDeque::new(), now, stop };
        Box::pin(futures::stream::unfold(state, |mut follower| async move {
            follower.next().await.map(|event| (Ok(event), follower))
        }))
    }
}

struct Follower {
    events: Arc<Events>,
    newest: watch::Receiver<u64>,
    seen: u64,
    waiting: VecDeque<Event>,
    now: Moment,
    stop: CancellationToken,
}

impl Follower {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                self.seen = event.id;
                return Some(event);
            }
            self.newest.borrow_and_update();
            self.waiting = self.events.after(self.seen, self.now);
            if !self.waiting.is_empty() {
                continue;
            }
            tokio::select! {
                biased;
                changed = self.newest.changed() => changed.ok()?,
                () = self.stop.cancelled() => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{JobId, JobKind};
    use futures::StreamExt;

    const NOW: Moment = Moment::from_millis(5);

    fn told(count: usize) -> Arc<Events> {
        let events = Arc::new(Events::new(NOW));
        for n in 0..count {
            events.tell(NOW, Happening::JobQueued { job: JobId(n as u64), kind: JobKind::Verify });
        }
        events
    }

    async fn read(events: &Arc<Events>, since: Option<u64>) -> Vec<Event> {
        let stop = CancellationToken::new();
        stop.cancel();
        events.follow(since, NOW, stop).filter_map(|event| async { event.ok() }).collect().await
    }

    #[tokio::test]
    async fn a_reader_takes_up_where_it_left() {
        let events = told(5);
        let ids = |found: Vec<Event>| found.iter().map(|event| event.id).collect::<Vec<_>>();
        assert_eq!(ids(read(&events, Some(5000)).await), [5001, 5002, 5003, 5004, 5005]);
        assert_eq!(ids(read(&events, Some(5003)).await), [5004, 5005]);
        assert_eq!(ids(read(&events, Some(5005)).await), Vec::<u64>::new());
        assert_eq!(ids(read(&events, None).await), Vec::<u64>::new(), "only what is new");
    }

    #[tokio::test]
    async fn what_is_forgotten_shows_as_a_gap() {
        let events = told(limit::EVENTS_REMEMBERED_MAX + 3);
        let table = [
            (5003, false, limit::EVENTS_REMEMBERED_MAX),
            (5002, true, limit::EVENTS_REMEMBERED_MAX),
            (17, true, limit::EVENTS_REMEMBERED_MAX),
            // From a run with a clock that was ahead.
            (u64::MAX - 1, true, limit::EVENTS_REMEMBERED_MAX),
        ];
        for (since, gap, count) in table {
            let found = read(&events, Some(since)).await;
            assert_eq!(found[0].what == Happening::Gap, gap, "{since}");
            assert_eq!(found.len(), count + usize::from(gap), "{since}");
            assert!(found.windows(2).all(|pair| pair[0].id < pair[1].id), "{since}");
        }
    }

    #[tokio::test]
    async fn a_reader_hears_of_new_events_and_of_the_end() {
        let events = told(1);
        let stop = CancellationToken::new();
        let mut stream = events.follow(None, NOW, stop.clone());
        let next = tokio::spawn(async move { (stream.next().await, stream) });
        events.tell(NOW, Happening::Unlocked);
        let (event, mut stream) = next.await.unwrap();
        assert_eq!(event.unwrap().unwrap().what, Happening::Unlocked);
        events.tell(NOW, Happening::ShuttingDown);
        stop.cancel();
        assert_eq!(stream.next().await.unwrap().unwrap().what, Happening::ShuttingDown);
        assert!(stream.next().await.is_none());
    }
}
