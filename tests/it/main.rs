//! Tests of the whole: one binary, one module a subject.

mod architecture;
mod damage;
mod local;
mod mesh;
mod node;
mod ports;
mod rebuild;
mod recovery;
mod refusal;
mod repair;
mod running;
mod schedule;
mod selecting;
mod settings;
mod socket;
mod source;
mod tree;
