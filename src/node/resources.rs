//! What work may take of this machine: memory for buffers, disk that is lent, jobs at one time.
//!
//! Each is handed out as a guard that gives it back when it is dropped. Nothing here allocates or writes; it only
//! keeps the sum of what others were allowed under the limit.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::base::limit;

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
            memory: Arc::new(Memory { total: memory, used: Mutex::default(), freed: Notify::new() }),
            disk: Arc::default(),
            tasks: Arc::new(Semaphore::new(limit::JOBS_RUNNING_MAX)),
        }
    }

    /// Waits for a place among the jobs at work, and for memory: an equal share, or `least` bytes where that is more.
    ///
    /// Equal shares, so that nobody who has a place waits for memory: a restore begins at once beside two backups and
    /// a verification.
    pub(super) async fn job(&self, least: u64) -> Place {
        let task = self.tasks.clone().acquire_owned().await.expect("the semaphore is never closed");
        let share = self.memory.total / limit::JOBS_RUNNING_MAX as u64;
        let memory = self.memory.clone().take(share.max(least)).await;
        Place { memory, _task: task }
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

/// A number of bytes that are handed out.
pub(super) struct Memory {
    total: u64,
    used: Mutex<u64>,
    freed: Notify,
}

impl Memory {
    /// Bytes handed out now.
    pub(super) fn used(&self) -> u64 {
        *locked(&self.used)
    }

    /// Waits until `bytes` are free and takes them. Whoever needs little may pass one who needs much.
    async fn take(self: Arc<Self>, bytes: u64) -> Held {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            // Registered before looking, so that what is given back in between is not missed.
            freed.as_mut().enable();
            if self.try_take(bytes) {
                return Held { memory: self.clone(), bytes };
            }
            freed.await;
        }
    }

    fn try_take(&self, bytes: u64) -> bool {
        let mut used = locked(&self.used);
        let fits = bytes <= self.total.saturating_sub(*used);
        *used += if fits { bytes } else { 0 };
        fits
    }
}

/// Bytes of memory, given back when dropped.
struct Held {
    memory: Arc<Memory>,
    bytes: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        *locked(&self.memory.used) -= self.bytes;
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

fn locked(number: &Mutex<u64>) -> MutexGuard<'_, u64> {
    number.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;
    use futures::FutureExt;

    #[tokio::test]
    async fn memory_is_shared_and_comes_back() {
        let resources = Resources::new(96);
        let small = resources.job(0).await;
        assert_eq!(small.memory_bytes(), 24);
        let large = resources.job(60).await;
        assert_eq!((large.memory_bytes(), resources.memory.used()), (60, 84));
        let mut second = Box::pin(resources.job(60));
        assert!((&mut second).now_or_never().is_none(), "a second one of that size waits");
        drop(small);
        assert!((&mut second).now_or_never().is_none(), "36 are not enough for it");
        let small = resources.job(0).now_or_never().expect("a small one may pass");
        drop((large, small));
        let second = second.now_or_never().expect("all is free");
        assert_eq!(second.memory_bytes(), 60);
        drop(second);
        assert_eq!(resources.memory.used(), 0);
    }

    /// A second backup waited for the first one's memory, and with it whoever came next.
    #[tokio::test]
    async fn as_many_jobs_as_may_work_all_find_memory() {
        let resources = Resources::new(97);
        let jobs: Vec<_> = (0..limit::JOBS_RUNNING_MAX).map(|_| resources.job(20).now_or_never()).collect();
        assert!(jobs.iter().all(Option::is_some));
        assert!(resources.job(0).now_or_never().is_none(), "one more has no place");
        drop(jobs);
        assert!(resources.job(0).now_or_never().is_some());
    }

    /// The promise of the configuration: the whole node stays under twice `storage.memory_limit` and 64 MiB.
    #[test]
    fn everything_at_its_bound_together_stays_within_the_budget() {
        let settings = Settings::default();
        let engine = usize::try_from(settings.storage.memory_limit).unwrap();
        let messages = limit::messages_bytes_max(settings.p2p.max_concurrent_fetch as usize);
        let corks = limit::corks_bytes_max(settings.p2p.max_peers as usize);
        let together = engine + limit::INDEX_CACHE_BYTES + messages + corks;
        assert!(together <= 2 * engine + 64 * limit::MIB, "{} MiB", together / limit::MIB);
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
