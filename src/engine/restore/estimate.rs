//! What is to be expected in all, so that progress can tell how much is left.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::RestoreOptions;
use super::walk::{Visit, walk};
use crate::base::ChunkId;
use crate::engine::error::EngineError;
use crate::engine::monitor::Monitor;
use crate::engine::reader::ChunkReader;
use crate::engine::vault::Vault;
use crate::fs::Selector;
use crate::snapshot::{Omissions, Snapshot};
use crate::wire::{self, NodeType};

/// Takes the totals from the snapshot's record if everything is restored; `false` when it is not.
pub(super) fn expect_all(
    snapshot: &Snapshot,
    options: &RestoreOptions,
    selector: &Selector,
    monitor: &Monitor,
) -> bool {
    let only = match snapshot.info.paths.as_slice() {
        [one] if snapshot.paths_list.is_none() => {
            one.as_slice() == options.path.as_os_str().as_encoded_bytes()
        }
        _ => false,
    };
    let all = only || options.path == Path::new("/") || options.path.as_os_str().is_empty();
    let Some(counts) = snapshot.info.counts.as_ref().filter(|_| all && selector.is_everything()) else {
        return false;
    };
    monitor.files_total.store(counts.files, Ordering::Relaxed);
    monitor.bytes_total.store(counts.bytes, Ordering::Relaxed);
    true
}

/// Counts what is chosen below `tree`, and sets the totals once that is known. Ends early when the restore is `done`;
/// reads only what is on this disk, and expects nothing when that is not all.
pub(super) fn expect(
    vault: &Vault,
    tree: ChunkId,
    selector: &Selector,
    monitor: &Monitor,
    done: &AtomicBool,
) {
    let mut reader = ChunkReader::new(vault, None, monitor);
    let mut counting = Counting { monitor, done, files: 0, bytes: 0, whole: true };
    let walked = walk(&mut reader, selector, &mut counting, (), tree);
    if walked.is_ok() && counting.whole {
        monitor.files_total.store(counting.files, Ordering::Relaxed);
        monitor.bytes_total.store(counting.bytes, Ordering::Relaxed);
    }
}

struct Counting<'a> {
    monitor: &'a Monitor,
    done: &'a AtomicBool,
    files: u64,
    bytes: u64,
    whole: bool,
}

impl Visit for Counting<'_> {
    type Dir = ();

    fn enter(&mut self, (): &mut (), _: &wire::Node, _: &Path, _: bool) -> Result<(), EngineError> {
        Ok(())
    }

    fn entry(&mut self, (): &mut (), node: wire::Node, _: PathBuf) -> Result<(), EngineError> {
        if node.r#type() == NodeType::NodeFile {
            self.files += 1;
            self.bytes = self.bytes.saturating_add(node.size);
        }
        Ok(())
    }

    fn leave(&mut self, (): (), _: &Path, _: Option<&Omissions>) -> Result<(), EngineError> {
        Ok(())
    }

    fn failed(&mut self, _: &Path, _: EngineError) {
        self.whole = false;
    }

    fn go_on(&self) -> Result<(), EngineError> {
        self.monitor.go_on()?;
        if self.done.load(Ordering::Relaxed) { Err(EngineError::Stopped) } else { Ok(()) }
    }
}
