//! Nodes in this process, and peers that mean harm, who speak the same network.

mod alone;
mod holder_tests;
mod hostile_holder;
mod hostile_owner;
mod owner_tests;

use std::time::Duration;

pub(super) use alone::AloneNode;

/// Longer than anything here takes; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until something is so.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "waited too long until {what}");
}
