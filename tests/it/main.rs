//! Tests of the whole: one binary, one module a subject.

mod architecture;
mod damage;
mod fidelity;
mod joining;
mod local;
mod mesh;
mod namespaces;
mod node;
mod ports;
mod progress;
mod reading;
mod rebuild;
mod recovery;
mod refusal;
mod repair;
mod restoring;
mod running;
mod schedule;
mod selecting;
mod settings;
mod signals;
mod socket;
mod source;
mod together;
mod tree;
