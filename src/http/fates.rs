//! Reading what a dry run finds: one JSON object a line.

use std::collections::VecDeque;

use futures::stream;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::client::{Driver, broken};
use crate::api::{ApiError, FateStream, PathFate};
use crate::base::{Code, limit};

/// The lines of an answer's body, until it ends.
pub(super) fn read(body: Incoming, driver: Driver) -> FateStream {
    let state = (body, Lines::default(), driver);
    Box::pin(stream::try_unfold(state, |(mut body, mut lines, driver)| async move {
        loop {
            if let Some(fate) = lines.ready.pop_front() {
                return Ok(Some((fate, (body, lines, driver))));
            }
            let Some(frame) = body.frame().await else { return lines.finish().map(|()| None) };
            let frame = frame.map_err(|error| broken(&error))?;
            if let Some(bytes) = frame.data_ref() {
                lines.push(bytes)?;
            }
        }
    }))
}

#[derive(Default)]
struct Lines {
    ready: VecDeque<PathFate>,
    /// The beginning of a line.
    begun: Vec<u8>,
}

impl Lines {
    fn push(&mut self, bytes: &[u8]) -> Result<(), ApiError> {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.begun.extend_from_slice(part);
            if self.begun.len() > limit::EVENT_LINE_BYTES_MAX {
                return Err(ApiError::new(Code::Internal, "the daemon sends a line that is too long"));
            }
            if self.begun.ends_with(b"\n") {
                self.ready.push_back(serde_json::from_slice(&self.begun).map_err(|error| {
                    ApiError::new(Code::Internal, format!("the daemon's line cannot be read: {error}"))
                        .with_hint("is it the same version as this program?")
                })?);
                self.begun.clear();
            }
        }
        Ok(())
    }

    fn finish(&self) -> Result<(), ApiError> {
        if self.begun.is_empty() { Ok(()) } else { Err(broken(&"it ended within a line")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_however_they_are_cut() {
        let text =
            b"{\"fate\":\"new\",\"path\":\"/a\"}\n{\"fate\":\"left-out\",\"path\":\"/b\",\"why\":\"x\"}\n";
        for size in [1, 9, text.len()] {
            let mut lines = Lines::default();
            text.chunks(size).for_each(|part| lines.push(part).unwrap());
            lines.finish().unwrap();
            let paths: Vec<&str> = lines.ready.iter().map(|fate| fate.path.as_str()).collect();
            assert_eq!(paths, ["/a", "/b"], "{size}");
        }
        let mut lines = Lines::default();
        lines.push(b"{").unwrap();
        assert!(lines.finish().is_err());
        assert!(lines.push(&vec![b'x'; limit::EVENT_LINE_BYTES_MAX]).is_err());
    }
}
