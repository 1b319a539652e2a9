//! Long answers in pieces: lists as NDJSON or one JSON array, dumps as they are or in framed parts.
//!
//! What a caller that knows no better gets (a JSON array, plain bytes) breaks off when the node cannot go on: a body
//! that ends cleanly is whole. In the forms that this program's client asks for, the reason comes last: a line
//! `{"error":…}`, or a part that holds it; there too, a body without its end is not whole.

use std::io;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::{Buf, Bytes, BytesMut};
use futures::{Stream, StreamExt, stream};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::client::{Driver, broken};
use super::problem::Problem;
use crate::api::{ApiError, Batches, Dump, Parts};
use crate::base::{Code, limit};

/// One JSON value a line.
pub(super) const LINES: &str = "application/x-ndjson";
/// A dump as parts: length (4 bytes, little-endian), then so many bytes. Length 0 ends it; [`FAILED`] says that an
/// error follows, as JSON to the end.
pub(super) const PARTS: &str = "application/vnd.shadowvault.parts";
/// What a dump is: `archive`, or `file=LENGTH`.
pub(super) const DUMP: HeaderName = HeaderName::from_static("shadowvault-dump");

const FAILED: u32 = u32::MAX;
const ERROR_LINE: &[u8] = b"{\"error\":";
/// An error as JSON, in bytes.
const ERROR_BYTES_MAX: usize = 64 * limit::KIB;

/// The last line of a list that broke off.
#[derive(Serialize, Deserialize)]
struct Failed {
    error: ApiError,
}

fn accepts(headers: &HeaderMap, kind: &str) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted
        .flat_map(|value| value.split(','))
        .any(|one| one.split(';').next().is_some_and(|name| name.trim().eq_ignore_ascii_case(kind)))
}

fn json<T: Serialize>(value: &T, out: &mut Vec<u8>) {
    serde_json::to_writer(out, value).expect("answers are plain data with text keys");
}

/// A list, line by line or as one array.
pub(super) fn list<T: Serialize + Send + 'static>(
    headers: &HeaderMap,
    result: Result<Batches<T>, ApiError>,
) -> Response {
    let batches = match result {
        Ok(batches) => batches,
        Err(error) => return Problem::from(error).into_response(),
    };
    let (kind, body) = if accepts(headers, LINES) {
        (LINES, Body::from_stream(batches.map(lines)))
    } else {
        ("application/json", Body::from_stream(array(batches)))
    };
    ([(header::CONTENT_TYPE, HeaderValue::from_static(kind))], body).into_response()
}

fn lines<T: Serialize>(batch: Result<Vec<T>, ApiError>) -> Result<Bytes, io::Error> {
    let mut out = Vec::new();
    match batch {
        Ok(items) => {
            for item in &items {
                json(item, &mut out);
                out.push(b'\n');
            }
        }
        Err(error) => {
            json(&Failed { error }, &mut out);
            out.push(b'\n');
        }
    }
    Ok(out.into())
}

/// One JSON document, whose body breaks off on an error.
fn array<T: Serialize + Send + 'static>(
    batches: Batches<T>,
) -> impl Stream<Item = Result<Bytes, ApiError>> + Send {
    let pieces = batches.map(|batch| batch.map(Some)).chain(stream::iter([Ok(None)]));
    let mut before: &'static [u8] = b"[";
    pieces.map(move |piece| {
        let mut out = Vec::new();
        match piece? {
            Some(items) => {
                for item in &items {
                    out.extend_from_slice(std::mem::replace(&mut before, b",\n"));
                    json(item, &mut out);
                }
            }
            None if before == b"[" => out.extend_from_slice(b"[]\n"),
            None => out.extend_from_slice(b"]\n"),
        }
        Ok(out.into())
    })
}

/// A dump, in parts or as it is.
pub(super) fn dump(headers: &HeaderMap, result: Result<Dump, ApiError>) -> Response {
    let dump = match result {
        Ok(dump) => dump,
        Err(error) => return Problem::from(error).into_response(),
    };
    let what = match dump.bytes {
        Some(bytes) if !dump.archive => format!("file={bytes}"),
        _ => "archive".to_owned(),
    };
    let what = HeaderValue::try_from(what).expect("letters and digits");
    let (kind, body) = if accepts(headers, PARTS) {
        let end = Bytes::copy_from_slice(&0u32.to_le_bytes());
        // An error is the last part: no end follows it.
        let parts = dump.parts.map(Some).chain(stream::iter([None])).scan(false, move |failed, part| {
            if *failed {
                return std::future::ready(None);
            }
            *failed = matches!(part, Some(Err(_)));
            let framed = part.map_or_else(|| end.clone(), framed);
            std::future::ready(Some(Ok::<_, io::Error>(framed)))
        });
        (PARTS, Body::from_stream(parts))
    } else {
        let kind = if dump.archive { "application/x-tar" } else { "application/octet-stream" };
        (kind, Body::from_stream(dump.parts))
    };
    let mut response =
        ([(header::CONTENT_TYPE, HeaderValue::from_static(kind)), (DUMP, what)], body).into_response();
    if let (Some(bytes), true) = (dump.bytes, kind != PARTS) {
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
    }
    response
}

fn framed(part: Result<Bytes, ApiError>) -> Bytes {
    let (length, bytes) = match part {
        Ok(bytes) => (u32::try_from(bytes.len()).expect("a part is short"), bytes),
        Err(error) => {
            let mut out = Vec::new();
            json(&error, &mut out);
            (FAILED, out.into())
        }
    };
    if length == 0 { Bytes::new() } else { [&length.to_le_bytes(), bytes.as_ref()].concat().into() }
}

/// An answer's body that is read piece by piece.
struct Reading {
    body: Incoming,
    bytes: BytesMut,
    _driver: Driver,
}

impl Reading {
    /// Waits for more bytes; `false` at the end.
    async fn more(&mut self) -> Result<bool, ApiError> {
        loop {
            let Some(frame) = self.body.frame().await else { return Ok(false) };
            let frame = frame.map_err(|error| broken(&error))?;
            if let Some(bytes) = frame.data_ref() {
                self.bytes.extend_from_slice(bytes);
                return Ok(true);
            }
        }
    }
}

fn unreadable(why: &dyn std::fmt::Display) -> ApiError {
    ApiError::new(Code::Internal, format!("the daemon's answer cannot be read: {why}"))
        .with_hint("is it the same version as this program?")
}

/// Reads a list that comes in lines.
pub(super) fn read_list<T: DeserializeOwned + Send + 'static>(body: Incoming, driver: Driver) -> Batches<T> {
    let reading = Reading { body, bytes: BytesMut::new(), _driver: driver };
    Box::pin(stream::try_unfold(reading, |mut reading| async move {
        loop {
            let batch = whole_lines(&mut reading.bytes)?;
            if !batch.is_empty() {
                return Ok(Some((batch, reading)));
            }
            if !reading.more().await? {
                let rest = reading.bytes.len();
                return if rest == 0 { Ok(None) } else { Err(broken(&"it ended in the middle of a line")) };
            }
        }
    }))
}

/// The lines that are whole. What was found before an error line is given first: the error comes with the next look.
fn whole_lines<T: DeserializeOwned>(bytes: &mut BytesMut) -> Result<Vec<T>, ApiError> {
    let mut batch = Vec::new();
    while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
        let is_error = bytes.starts_with(ERROR_LINE);
        if is_error && !batch.is_empty() {
            break;
        }
        let line = bytes.split_to(end + 1);
        if is_error {
            let failed: Failed = serde_json::from_slice(&line).map_err(|error| unreadable(&error))?;
            return Err(failed.error);
        }
        batch.push(serde_json::from_slice(&line).map_err(|error| unreadable(&error))?);
    }
    if bytes.len() > limit::HTTP_LINE_BYTES_MAX { Err(unreadable(&"a line is too long")) } else { Ok(batch) }
}

/// Reads a dump that comes in parts.
pub(super) fn read_dump(headers: &HeaderMap, body: Incoming, driver: Driver) -> Result<Dump, ApiError> {
    let what = headers.get(DUMP).and_then(|value| value.to_str().ok());
    let what = what.ok_or_else(|| unreadable(&"it does not say what it is"))?;
    let bytes = what.strip_prefix("file=").and_then(|bytes| bytes.parse().ok());
    let reading = Reading { body, bytes: BytesMut::new(), _driver: driver };
    let parts: Parts =
        Box::pin(stream::try_unfold((reading, 0usize), |(mut reading, mut left)| async move {
            loop {
                if left > 0 && !reading.bytes.is_empty() {
                    let part = reading.bytes.split_to(left.min(reading.bytes.len()));
                    left -= part.len();
                    return Ok(Some((part.freeze(), (reading, left))));
                }
                if left == 0 && reading.bytes.len() >= 4 {
                    match reading.bytes.get_u32_le() {
                        0 => return Ok(None),
                        FAILED => return Err(read_error(&mut reading).await),
                        length => left = length as usize,
                    }
                    continue;
                }
                if !reading.more().await? {
                    return Err(broken(&"it ended before the dump did"));
                }
            }
        }));
    Ok(Dump { archive: bytes.is_none(), bytes, parts })
}

async fn read_error(reading: &mut Reading) -> ApiError {
    while reading.bytes.len() <= ERROR_BYTES_MAX {
        match reading.more().await {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => return error,
        }
    }
    serde_json::from_slice(&reading.bytes).unwrap_or_else(|error| unreadable(&error))
}
