//! Peers that mean harm, from outside, against real daemons: how each behaves, and what has to hold while it does.
//!
//! Each test has one victim and plays its behaviours one after the other. While one goes on a member fetches what it knows;
//! it is served, and the victim stays within its memory and its descriptors. Afterwards the attacker is removed, a backup
//! has its copy within half a minute, and nothing lies on the victim's disk that the attacker left there. A usual run gives
//! each behaviour a moment; `make evil` gives each as long as one likes, compares what the member gets with what it gets
//! undisturbed, and writes a table.

mod client;
mod field;
mod holders;
mod line;
mod members;
mod owner;
mod peer;
mod questions;
mod strangers;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use field::{Field, Scene};
use tokio::task::JoinSet;

/// What goes on until it is cut off.
type Act = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One way to mean harm.
#[derive(Clone)]
struct Behaviour {
    name: &'static str,
    /// How many of the attackers are members.
    members: usize,
    act: fn(Arc<Scene>) -> Act,
    /// What else is to be so before it is cut off; told is what is not.
    meanwhile: fn(&Field, &Scene, &mut dyn FnMut(String)),
}

/// A field of bytes of a message.
fn field(tag: u32, content: &[u8], out: &mut Vec<u8>) {
    prost::encoding::encode_key(tag, prost::encoding::WireType::LengthDelimited, out);
    prost::encoding::encode_varint(content.len() as u64, out);
    out.extend_from_slice(content);
}

/// So many at a time, each anew when it ends.
async fn crowd<F, Fut>(count: usize, act: F)
where
    F: Fn(usize) -> Fut + Send + Sync + Clone + 'static,
    Fut: Future + Send,
{
    let mut all = JoinSet::new();
    for n in 0..count {
        let act = act.clone();
        all.spawn(async move {
            loop {
                act(n).await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
    }
    // None ends by itself.
    if let Some(Err(error)) = all.join_next().await {
        std::panic::resume_unwind(error.into_panic());
    }
}

#[test]
fn strangers_that_mean_harm_cost_little_and_leave_nothing() {
    Field::of_a_holder().play(&strangers::all());
}

#[test]
fn members_that_mean_harm_cost_a_holder_little_and_leave_nothing() {
    Field::of_a_holder().play(&[members::all(), questions::all()].concat());
}

#[test]
fn holders_that_mean_harm_cost_an_owner_no_copy_and_leave_nothing() {
    Field::of_an_owner().play(&holders::all());
}
