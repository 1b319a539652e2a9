//! Reading server-sent events.

use futures::stream;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::client::{Driver, broken};
use crate::api::{ApiError, Event, EventStream};
use crate::base::{Code, limit};

/// The events of an answer's body, until it ends. Comments and fields other than `data` are passed over.
pub(super) fn read(body: Incoming, driver: Driver) -> EventStream {
    let state = (body, Lines::default(), driver);
    Box::pin(stream::try_unfold(state, |(mut body, mut lines, driver)| async move {
        loop {
            if let Some(event) = lines.next()? {
                return Ok(Some((event, (body, lines, driver))));
            }
            let Some(frame) = body.frame().await else { return Ok(None) };
            let frame = frame.map_err(|error| broken(&error))?;
            if let Some(bytes) = frame.data_ref() {
                lines.push(bytes)?;
            }
        }
    }))
}

/// Bytes that came and are not whole lines yet.
#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
}

impl Lines {
    fn push(&mut self, bytes: &[u8]) -> Result<(), ApiError> {
        if self.bytes.len() + bytes.len() > 2 * limit::EVENT_LINE_BYTES_MAX {
            return Err(ApiError::new(Code::Internal, "the daemon sends an event that is too long"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// The next whole event.
    fn next(&mut self) -> Result<Option<Event>, ApiError> {
        while let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.bytes.drain(..=end).collect();
            // The router writes an event's data on one line.
            let Some(data) = line.strip_prefix(b"data:") else { continue };
            let event = serde_json::from_slice(data).map_err(|error| {
                ApiError::new(Code::Internal, format!("the daemon's event cannot be read: {error}"))
                    .with_hint("is it the same version as this program?")
            })?;
            return Ok(Some(event));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Happening;

    #[test]
    fn events_are_read_however_they_are_cut() {
        let text = ": comment\n\nid: 7\ndata: {\"id\":7,\"time\":\"t\",\"event\":\"unlocked\"}\n\nid: 8\n\
                    data: {\"id\":8,\"time\":\"t\",\"event\":\"gap\"}\n\n";
        for size in [1, 7, text.len()] {
            let mut lines = Lines::default();
            let mut found = Vec::new();
            for part in text.as_bytes().chunks(size) {
                lines.push(part).unwrap();
                while let Some(event) = lines.next().unwrap() {
                    found.push((event.id, event.what));
                }
            }
            assert_eq!(found, [(7, Happening::Unlocked), (8, Happening::Gap)], "{size}");
        }
    }

    #[test]
    fn a_line_without_end_is_refused() {
        let mut lines = Lines::default();
        lines.push(&vec![b'x'; 2 * limit::EVENT_LINE_BYTES_MAX]).unwrap();
        assert!(lines.push(b"x").is_err());
    }
}
