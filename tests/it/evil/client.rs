//! A member that means well.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use prost::Message;
use shadowvault::base::{PackId, limit};
use shadowvault::wire::{self, Status};
use tokio::time::{sleep, timeout};

use super::field::{LOOK, RECOVERY};
use super::line::Line;
use super::peer::{FETCH, Raw};

/// A member that fetches what it knows.
pub struct Client {
    pub raw: Raw,
    line: Option<Line>,
    /// Why it got nothing when it last did.
    pub why: Mutex<String>,
}

impl Client {
    pub fn new() -> Self {
        Self { raw: Raw::new(), line: None, why: Mutex::default() }
    }

    /// Bytes that came in that time; waits longer for the first of them. What was asked for is taken to its end.
    pub async fn fetch(
        &mut self,
        at: SocketAddr,
        packs: &[(PackId, u64)],
        life: Duration,
    ) -> (u64, Duration) {
        let (began, bytes) = (Instant::now(), AtomicU64::new(0));
        let goes_on = || {
            let came = bytes.load(Ordering::Relaxed) > 0;
            began.elapsed() < if came { life } else { life.max(RECOVERY) }
        };
        while goes_on() {
            if self.line.as_ref().is_none_or(Line::has_ended) {
                self.line = match self.raw.dial(at).await {
                    Ok(line) => Some(line),
                    Err(error) => {
                        self.nothing(error.to_string());
                        None
                    }
                };
            }
            let Some(line) = &self.line else {
                sleep(LOOK).await;
                continue;
            };
            let (me, bytes, goes_on) = (&*self, &bytes, &goes_on);
            let asks = (0..4).map(|n| async move {
                for (pack, length) in packs.iter().cycle().skip(n) {
                    if line.has_ended() || !goes_on() {
                        break;
                    }
                    bytes.fetch_add(me.fetch_one(line, *pack, *length).await, Ordering::Relaxed);
                }
            });
            futures::future::join_all(asks).await;
        }
        (bytes.into_inner(), began.elapsed())
    }

    async fn fetch_one(&self, line: &Line, pack: PackId, length: u64) -> u64 {
        let ranges = vec![wire::Range { offset: 0, length: length.min(limit::FETCH_BYTES_MAX as u64) }];
        let request = wire::FetchRequest { pack: pack.as_bytes().to_vec(), ranges }.encode_to_vec();
        let answer = match timeout(RECOVERY, line.ask(FETCH, &request)).await {
            Ok(Ok(answer)) => wire::FetchResponse::decode(answer.as_slice()).unwrap_or_default(),
            Ok(Err(error)) => return self.nothing(error.to_string()),
            Err(_) => return self.nothing("no answer".to_owned()),
        };
        if answer.status() != Status::Ok {
            sleep(LOOK).await;
            return self.nothing(answer.status().as_str_name().to_owned());
        }
        answer.slices.iter().map(|slice| slice.data.len() as u64).sum()
    }

    fn nothing(&self, why: String) -> u64 {
        *self.why.lock().expect("no panic while held") = why;
        0
    }
}
