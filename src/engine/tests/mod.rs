//! What the engine promises, told by tests over a real store in a temporary directory.

mod failure;
mod fixture;
mod flow;
mod heads;
mod history;
mod round_trip;
mod tree_of;
