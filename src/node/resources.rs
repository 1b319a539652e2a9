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

    /// Waits for a place among the jobs at work, and for memory.
    pub(super) async fn job(&self, share: Share) -> Place {
        let task = self.tasks.clone().acquire_owned().await.expect("the semaphore is never closed");
        let total = self.memory.total;
        let memory = self.memory.clone().take(share.wish(total), share.least(total)).await;
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

/// How much of the memory a job wants and cannot do without.
///
/// A backup leaves a quarter for others, so that a restore never waits for it; two backups at a time would make small
/// packs, so the second one waits.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Share {
    /// Of a backup.
    Writer,
    /// Of a restore, verification or repair.
    Reader,
}

impl Share {
    fn wish(self, total: u64) -> u64 {
        match self {
            Self::Writer => total / 4 * 3,
            Self::Reader => total / 2,
        }
    }

    fn least(self, total: u64) -> u64 {
        match self {
            Self::Writer => total / 2,
            Self::Reader => total / 4,
        }
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

    /// Waits until `least` are free and takes up to `wish`. Whoever needs little may pass one who needs much.
    async fn take(self: Arc<Self>, wish: u64, least: u64) -> Held {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            // Registered before looking, so that what is given back in between is not missed.
            freed.as_mut().enable();
            if let Some(bytes) = self.try_take(wish, least) {
                return Held { memory: self.clone(), bytes };
            }
            freed.await;
        }
    }

    fn try_take(&self, wish: u64, least: u64) -> Option<u64> {
        let mut used = locked(&self.used);
        let bytes = wish.min(self.total.saturating_sub(*used));
        (bytes >= least).then(|| {
            *used += bytes;
            bytes
        })
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
    use futures::FutureExt;

    #[tokio::test]
    async fn memory_is_shared_and_comes_back() {
        let resources = Resources::new(96);
        let backup = resources.job(Share::Writer).await;
        assert_eq!(backup.memory_bytes(), 72);
        let restore = resources.job(Share::Reader).await;
        assert_eq!((restore.memory_bytes(), resources.memory.used()), (24, 96));
        let mut second = Box::pin(resources.job(Share::Writer));
        assert!((&mut second).now_or_never().is_none(), "a second backup waits");
        drop(restore);
        assert!((&mut second).now_or_never().is_none(), "24 are not enough for it");
        let restore = resources.job(Share::Reader).now_or_never().expect("a small one may pass");
        drop((backup, restore));
        let second = second.now_or_never().expect("all is free");
        assert_eq!(second.memory_bytes(), 72);
        drop(second);
        assert_eq!(resources.memory.used(), 0);
    }

    #[tokio::test]
    async fn jobs_at_work_are_bounded() {
        let resources = Resources::new(1 << 40);
        let mut places = Vec::new();
        for _ in 0..limit::JOBS_RUNNING_MAX {
            places.extend(resources.job(Share::Reader).now_or_never());
            // The guards keep their places, not their memory.
            *locked(&resources.memory.used) = 0;
        }
        assert_eq!(places.len(), limit::JOBS_RUNNING_MAX);
        assert!(resources.job(Share::Reader).now_or_never().is_none());
        places.iter_mut().for_each(|place| place.memory.bytes = 0);
        places.pop();
        assert!(resources.job(Share::Reader).now_or_never().is_some());
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
