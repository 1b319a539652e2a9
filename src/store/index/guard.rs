//! Where redb may panic: on a file whose content is not what it wrote.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::store::error::StoreError;

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic of this thread is caught as damage of the index and told as such: nobody needs a trace of it.
pub fn is_guarded() -> bool {
    GUARDED.get()
}

/// A panic as damage; nothing of ours is left half-changed by it, since only a commit changes anything.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    let outer = GUARDED.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(outer);
    done.unwrap_or_else(|panic| {
        tracing::debug!(target: "store", check = words(&*panic), "reading the index failed an internal check");
        Err(StoreError::IndexDamaged("reading it failed an internal check".to_owned()))
    })
}

fn words(panic: &(dyn Any + Send)) -> &str {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    owned.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no words")
}
