//! Stopping in order: hooks by priority, each with its own time, all within a deadline.

use std::sync::Mutex;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::{Instant, timeout_at};

use crate::api::ApiError;
use crate::base::Code;

/// What is done when the node stops.
pub(super) struct Hook {
    /// For the log.
    pub(super) name: &'static str,
    /// Lower ones first; equal ones at the same time.
    pub(super) priority: u8,
    /// Longest it may take.
    pub(super) time: Duration,
    /// The work.
    pub(super) run: BoxFuture<'static, Result<(), ApiError>>,
}

/// All hooks of a node. They run once.
#[derive(Default)]
pub(super) struct Hooks {
    list: Mutex<Vec<Hook>>,
}

impl Hooks {
    pub(super) fn add(&self, hook: Hook) {
        self.list.lock().expect("no panic while held").push(hook);
    }

    /// Runs all hooks, whatever becomes of each. One that is not through in its time is abandoned, and so is
    /// everything at `deadline`.
    ///
    /// # Errors
    /// What went wrong in all of them, under the code of the first.
    pub(super) async fn run(&self, deadline: Instant) -> Result<(), ApiError> {
        let mut hooks = std::mem::take(&mut *self.list.lock().expect("no panic while held"));
        hooks.sort_by_key(|hook| hook.priority);
        let count = hooks.len();
        let mut failures: Vec<(&'static str, ApiError)> = Vec::new();
        while let Some(first) = hooks.first() {
            let alike = hooks.partition_point(|hook| hook.priority <= first.priority);
            let group = hooks.drain(..alike).map(|hook| one(hook, deadline));
            failures.extend(futures::future::join_all(group).await.into_iter().flatten());
        }
        for (name, error) in &failures {
            tracing::error!(target: "shutdown", part = name, code = error.code, %error, "did not end properly");
        }
        let Some((_, first)) = failures.first() else { return Ok(()) };
        let parts: Vec<String> = failures.iter().map(|(name, error)| format!("{name}: {error}")).collect();
        let text = format!("{} of {count} parts did not end properly: {}", failures.len(), parts.join("; "));
        Err(ApiError::new(first.kind(), text).with_hint("what was committed is safe"))
    }
}

async fn one(hook: Hook, deadline: Instant) -> Option<(&'static str, ApiError)> {
    let until = deadline.min(Instant::now() + hook.time);
    // A task of its own: a panic in it must not keep the others from ending.
    let mut task = tokio::spawn(hook.run);
    let failure = match timeout_at(until, &mut task).await {
        Ok(Ok(Ok(()))) => return None,
        Ok(Ok(Err(error))) => error,
        Ok(Err(error)) => super::error::panicked(error),
        Err(_) => {
            task.abort();
            ApiError::new(Code::Internal, "not through in its time")
        }
    };
    Some((hook.name, failure))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    const SHORT: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(600);

    fn hook(
        name: &'static str,
        priority: u8,
        time: Duration,
        run: impl Future<Output = Result<(), ApiError>> + Send + 'static,
    ) -> Hook {
        Hook { name, priority, time, run: Box::pin(run) }
    }

    #[tokio::test]
    async fn hooks_run_by_priority_and_equal_ones_together() {
        let (hooks, log) = (Hooks::default(), Arc::new(Mutex::new(Vec::new())));
        let meeting = Arc::new(tokio::sync::Barrier::new(2));
        for (name, priority, meets) in [("c", 20, false), ("a", 10, true), ("b", 10, true), ("d", 30, false)]
        {
            let (log, meeting) = (log.clone(), meeting.clone());
            hooks.add(hook(name, priority, LONG, async move {
                if meets {
                    // Would hang if the two did not run at the same time.
                    meeting.wait().await;
                }
                log.lock().unwrap().push(name);
                Ok(())
            }));
        }
        hooks.run(Instant::now() + LONG).await.unwrap();
        let order = log.lock().unwrap().clone();
        assert!(order[..2].contains(&"a") && order[..2].contains(&"b"), "{order:?}");
        assert_eq!(order[2..], ["c", "d"]);
        hooks.run(Instant::now()).await.unwrap();
        assert_eq!(log.lock().unwrap().len(), 4, "they run once");
    }

    #[tokio::test]
    async fn one_that_hangs_fails_or_panics_keeps_no_other_from_ending() {
        let (hooks, done) = (Hooks::default(), Arc::new(Mutex::new(false)));
        hooks.add(hook("hangs", 1, SHORT, std::future::pending()));
        hooks.add(hook("panics", 2, LONG, async { panic!("on purpose") }));
        let full = async { Err(ApiError::new(Code::StorageFull, "no room")) };
        hooks.add(hook("fails", 3, LONG, full));
        let last = done.clone();
        hooks.add(hook("last", 4, LONG, async move {
            *last.lock().unwrap() = true;
            Ok(())
        }));
        let error = hooks.run(Instant::now() + LONG).await.unwrap_err();
        assert!(*done.lock().unwrap());
        for part in ["3 of 4 parts", "hangs: not through", "panics:", "fails: no room"] {
            assert!(error.message.contains(part), "{error}");
        }
    }

    #[tokio::test]
    async fn the_deadline_counts_for_all_together() {
        let hooks = Hooks::default();
        (0..4).for_each(|priority| hooks.add(hook("hangs", priority, LONG, std::future::pending())));
        let error = hooks.run(Instant::now() + SHORT).await.unwrap_err();
        assert!(error.message.contains("4 of 4 parts"), "{error}");
    }
}
