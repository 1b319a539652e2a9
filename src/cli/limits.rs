//! What the system limits for this process, and what is made of it.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use signal_hook::consts::SIGXFSZ;

/// Takes what may be had: as many open files as the hard limit allows. And a file that may not grow any more is an error
/// of that write, like a full disk, not the end of the program. Commands that the program starts get the usual back.
pub(super) fn settle() {
    let files = getrlimit(Resource::Nofile);
    if files.current != files.maximum {
        // What is not granted is done without: whoever opens files waits for handles.
        setrlimit(Resource::Nofile, Rlimit { current: files.maximum, maximum: files.maximum }).ok();
    }
    // Keys are in this memory: no dump of it is written, and no other process of this user looks at it.
    let cores = getrlimit(Resource::Core);
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: cores.maximum }).ok();
    set_dumpable_behavior(DumpableBehavior::NotDumpable).ok();
    // A handler, unlike ignoring it, is not handed on to other programs.
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false))).ok();
}
