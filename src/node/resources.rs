//! What work may take of this machine: memory for buffers, disk that is lent, jobs at one time.
//!
//! Each is handed out as a guard that gives it back when it is dropped. Nothing here allocates or writes; it only
//! keeps the sum of what others were allowed under the limit.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::base::{ByteSize, limit};

/// The limits of one node.
pub(super) struct Resources {
    /// Bytes for the buffers of jobs, all together.
    pub(super) memory: Arc<Memory>,
    /// Bytes of disk promised to packs that are on their way.
    pub(super) disk: Arc<Disk>,
    tasks: Arc<Semaphore>,
}

impl Resources {
    /// `memory` in bytes.
    pub(super) fn new(memory: u64) -> Self {
        Self {
            memory: Arc::new(Memory {
                count: Mutex::new(Count { total: memory, used: 0 }),
                freed: Notify::new(),
            }),
            disk: Arc::default(),
            tasks: Arc::new(Semaphore::new(limit::JOBS_RUNNING_MAX)),
        }
    }

    /// Waits for a place among the jobs at work, and for memory: an equal share, or `least` bytes where that is more.
    ///
    /// Equal shares, so that nobody who has a place waits for memory: a restore begins at once beside two backups and
    /// a verification. One that waits for more holds no place meanwhile: others pass it.
    ///
    /// # Errors
    /// All memory there is is less than `least`, now or while it waits: [`TooMuch`].
    pub(super) async fn job(&self, least: u64) -> Result<Place, TooMuch> {
        loop {
            let task = self.tasks.clone().acquire_owned().await.expect("the semaphore is never closed");
            let freed = self.memory.freed.notified();
            tokio::pin!(freed);
            // Registered before looking, so that what is given back in between is not missed.
            freed.as_mut().enable();
            if let Some(memory) = self.memory.try_take(least)? {
                return Ok(Place { memory, _task: task });
            }
            drop(task);
            freed.await;
        }
    }

    /// From now on there is so much memory, in bytes. What was handed out stays so until it comes back.
    pub(super) fn resize(&self, memory: u64) {
        self.memory.count().total = memory;
        self.memory.freed.notify_waiters();
    }
}

/// One job's place; gives back what it holds when dropped.
pub(super) struct Place {
    memory: Held,
    _task: OwnedSemaphorePermit,
}

impl Place {
    /// Bytes that the job's buffers may take.
    pub(super) fn memory_bytes(&self) -> usize {
        usize::try_from(self.memory.bytes).unwrap_or(usize::MAX)
    }
}

/// A job that needs more memory than there is in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this needs {} of memory and storage.memory_limit is {}", ByteSize(*.needed), ByteSize(*.total))]
pub(super) struct TooMuch {
    needed: u64,
    total: u64,
}

/// A number of bytes that are handed out.
pub(super) struct Memory {
    count: Mutex<Count>,
    freed: Notify,
}

struct Count {
    total: u64,
    used: u64,
}

impl Memory {
    /// Bytes handed out now.
    pub(super) fn used(&self) -> u64 {
        self.count().used
    }

    /// Takes an equal share, or `least` bytes where that is more; `None` while they are not free.
    fn try_take(self: &Arc<Self>, least: u64) -> Result<Option<Held>, TooMuch> {
        let mut count = self.count();
        if least > count.total {
            return Err(TooMuch { needed: least, total: count.total });
        }
        let bytes = least.max(count.total / limit::JOBS_RUNNING_MAX as u64);
        if bytes > count.total.saturating_sub(count.used) {
            return Ok(None);
        }
        count.used += bytes;
        Ok(Some(Held { memory: self.clone(), bytes }))
    }

    fn count(&self) -> MutexGuard<'_, Count> {
        locked(&self.count)
    }
}

/// Bytes of memory, given back when dropped.
struct Held {
    memory: Arc<Memory>,
    bytes: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.memory.count().used -= self.bytes;
        self.memory.freed.notify_waiters();
    }
}

/// Disk space that packs on their way will take.
#[derive(Default)]
pub(super) struct Disk {
    promised: Mutex<u64>,
}

impl Disk {
    /// Bytes promised now.
    pub(super) fn promised(&self) -> u64 {
        *locked(&self.promised)
    }

    /// Promises `bytes` if `free` says that there is as much beyond what is promised already.
    ///
    /// `free` is asked with the promises held still, so two who ask at once do not both get the last room.
    pub(super) fn promise<E>(
        self: &Arc<Self>,
        bytes: u64,
        free: impl FnOnce() -> Result<u64, E>,
    ) -> Result<Option<Promise>, E> {
        let mut promised = locked(&self.promised);
        let room = free()?.saturating_sub(*promised);
        Ok((bytes <= room).then(|| {
            *promised += bytes;
            Promise { disk: self.clone(), bytes }
        }))
    }
}

/// Room for one pack, given back when dropped: by then the pack itself counts, or it failed.
pub(super) struct Promise {
    disk: Arc<Disk>,
    bytes: u64,
}

impl Drop for Promise {
    fn drop(&mut self) {
        *locked(&self.disk.promised) -= self.bytes;
    }
}

fn locked<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;
    use futures::FutureExt;

    #[tokio::test]
    async fn memory_is_shared_and_comes_back() {
        let resources = Resources::new(96);
        let small = resources.job(0).await.unwrap();
        assert_eq!(small.memory_bytes(), 24);
        let large = resources.job(60).await.unwrap();
        assert_eq!((large.memory_bytes(), resources.memory.used()), (60, 84));
        let mut second = Box::pin(resources.job(60));
        assert!((&mut second).now_or_never().is_none(), "a second one of that size waits");
        drop(small);
        assert!((&mut second).now_or_never().is_none(), "36 are not enough for it");
        let small = resources.job(0).now_or_never().expect("a small one may pass").unwrap();
        drop((large, small));
        let second = second.now_or_never().expect("all is free").unwrap();
        assert_eq!(second.memory_bytes(), 60);
        drop(second);
        assert_eq!(resources.memory.used(), 0);
    }

    /// A second backup waited for the first one's memory, and with it whoever came next.
    #[tokio::test]
    async fn as_many_jobs_as_may_work_all_find_memory() {
        let resources = Resources::new(97);
        let jobs: Vec<_> = (0..limit::JOBS_RUNNING_MAX).map(|_| resources.job(20).now_or_never()).collect();
        assert!(jobs.iter().all(|job| matches!(job, Some(Ok(_)))));
        assert!(resources.job(0).now_or_never().is_none(), "one more has no place");
        drop(jobs);
        assert!(resources.job(0).now_or_never().is_some());
    }

    /// After a reload with larger chunks backups waited for more memory than there was, for ever, and four of them took every
    /// place that a restore could have.
    #[tokio::test]
    async fn who_can_never_have_its_memory_is_told_and_who_waits_bars_nobody() {
        let resources = Resources::new(100);
        assert_eq!(resources.job(101).await.err(), Some(TooMuch { needed: 101, total: 100 }));
        let held = resources.job(80).await.unwrap();
        let mut waiting: Vec<_> = (0..4).map(|_| Box::pin(resources.job(90))).collect();
        assert!(waiting.iter_mut().all(|job| job.now_or_never().is_none()));
        resources.resize(200);
        assert_eq!(resources.memory.count().total, 200);
        let restore = resources.job(0).now_or_never().expect("it passes those that wait").unwrap();
        assert_eq!(restore.memory_bytes(), 50);
        drop((held, restore));
        let first = (&mut waiting[0]).now_or_never().expect("there is more now").unwrap();
        resources.resize(60);
        assert!((&mut waiting[1]).now_or_never().expect("it waits in vain").is_err());
        drop(first);
        assert_eq!(resources.memory.used(), 0);
    }

    /// The promise of the configuration: the whole node stays under twice `storage.memory_limit` and 96 MiB.
    #[test]
    fn everything_at_its_bound_together_stays_within_the_budget() {
        let settings = Settings::default();
        let engine = usize::try_from(settings.storage.memory_limit).unwrap();
        let messages = limit::messages_bytes_max(settings.p2p.max_concurrent_fetch as usize);
        let corks = limit::corks_bytes_max(settings.p2p.max_peers as usize);
        let noise = limit::noise_bytes_max(settings.p2p.max_peers as usize);
        let streams = limit::strangers_bytes_max() + limit::UNREAD_BYTES_MAX;
        let heads = limit::HEAD_DECODING_BYTES;
        let together = engine + limit::INDEX_CACHE_BYTES + messages + corks + noise + streams + heads;
        assert!(together <= 2 * engine + 96 * limit::MIB, "{} MiB", together / limit::MIB);
    }

    /// Owners pulled for at the same time each saw the same free room and together took more than was lent.
    #[test]
    fn the_last_room_is_promised_once() {
        let disk = Arc::new(Disk::default());
        let promise = |bytes| disk.promise(bytes, || Ok::<_, ()>(10)).unwrap();
        let (first, second) = (promise(6), promise(6));
        assert!(first.is_some() && second.is_none());
        assert!(promise(4).is_some(), "and dropped again");
        drop(first);
        assert_eq!(disk.promised(), 0);
        assert!(promise(10).is_some() && promise(11).is_none());
    }
}
