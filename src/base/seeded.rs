//! Randomness that a test can have again: what [`random_bytes`](super::random_bytes) gives on a thread that asked for it.
//!
//! Compiled for this crate's own tests alone; a program has no way here.

use std::cell::RefCell;
use std::marker::PhantomData;

thread_local! {
    static STREAM: RefCell<Option<blake3::OutputReader>> = const { RefCell::new(None) };
}

/// While it lives, random bytes of the thread that made it follow from its seed; threads that this one starts have the
/// kernel's.
pub(crate) struct Seeded(PhantomData<*const ()>);

impl Seeded {
    /// Begins the stream of that seed, in the place of one that was there.
    pub(crate) fn new(seed: u64) -> Self {
        let stream = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
        STREAM.set(Some(stream));
        Self(PhantomData)
    }
}

impl Drop for Seeded {
    fn drop(&mut self) {
        STREAM.set(None);
    }
}

/// Fills `bytes` if this thread has a stream.
pub(super) fn fill(bytes: &mut [u8]) -> bool {
    STREAM.with_borrow_mut(|stream| stream.as_mut().map(|stream| stream.fill(bytes)).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::random_bytes;

    #[test]
    fn a_seed_gives_the_same_bytes_again_and_nobody_else_gets_them() {
        let drawn = |seed| {
            let _seeded = Seeded::new(seed);
            let here: [[u8; 32]; 2] = [random_bytes(), random_bytes()];
            let elsewhere: [u8; 32] = std::thread::spawn(random_bytes).join().unwrap();
            (here, elsewhere)
        };
        let (first, again, other) = (drawn(1), drawn(1), drawn(2));
        assert_eq!(first.0, again.0);
        assert_ne!(first.0, other.0);
        assert_ne!(first.0[0], first.0[1]);
        assert_ne!(first.1, again.1);
        assert_ne!(random_bytes::<32>(), random_bytes::<32>());
        assert_ne!(random_bytes::<32>(), first.0[0]);
    }
}
