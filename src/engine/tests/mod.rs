//! What the engine promises, told by tests over a real store in a temporary directory.

mod branches;
mod chains;
mod crash;
mod damage;
mod devices;
mod drilling;
mod edits;
mod failure;
mod fixture;
mod fleet;
mod flow;
mod forgetting;
mod full;
mod heads;
mod healing;
mod history;
mod hostile;
pub(super) mod lines;
mod mesh;
mod reading;
mod rebuilding;
mod records;
mod regaining;
mod restoring;
mod round_trip;
mod selecting;
mod tree_of;
