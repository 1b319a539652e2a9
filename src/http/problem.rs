//! RFC 9457 problem+json: how an error travels.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use crate::api::ApiError;
use crate::base::{Code, limit, meter};

/// An error on its way out, with the status it goes out under.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    error: ApiError,
}

/// The document.
#[derive(Serialize, Deserialize)]
struct Document {
    #[serde(rename = "type")]
    kind: String,
    title: String,
    status: u16,
    detail: String,
    code: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    #[serde(default)]
    retryable: bool,
}

impl Problem {
    /// A request that cannot be understood, under the HTTP status that says how.
    pub fn usage(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, error: ApiError::new(Code::UsageInvalid, message) }
    }
}

impl From<ApiError> for Problem {
    fn from(error: ApiError) -> Self {
        // A code that is a success elsewhere (an incomplete job) is none as the answer to a request.
        let status = StatusCode::from_u16(error.kind().http()).ok().filter(|s| !s.is_success());
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if status.is_server_error() {
            meter::ERRORS.add(error.kind().category().name(), 1);
        }
        Self { status, error }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let document = Document {
            kind: format!("urn:shadowvault:error:{}", self.error.code),
            title: self.error.code.to_ascii_lowercase().replace('_', " "),
            status: self.status.as_u16(),
            detail: self.error.message,
            code: self.error.code,
            hint: self.error.hint,
            retryable: self.error.retryable,
        };
        let body = serde_json::to_vec(&document).expect("texts and numbers serialize");
        let mut response = (self.status, body).into_response();
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }
}

/// Reads a problem that a node sent; one that is none becomes [`Code::Internal`].
pub(super) fn read(status: StatusCode, body: &[u8]) -> ApiError {
    match serde_json::from_slice::<Document>(body) {
        Ok(sent) => {
            ApiError { code: sent.code, message: sent.detail, hint: sent.hint, retryable: sent.retryable }
        }
        Err(_) => ApiError::new(Code::Internal, format!("the daemon answered {status} without saying why"))
            .with_hint("is it the same version as this program?"),
    }
}

/// An answer, or the problem that took its place.
pub(super) fn reply<T: Serialize>(status: StatusCode, result: Result<T, ApiError>) -> Response {
    match result.and_then(|value| encode(&value)) {
        Ok(body) => (status, [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body)
            .into_response(),
        Err(error) => Problem::from(error).into_response(),
    }
}

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, ApiError> {
    let mut body = Bounded(Vec::new());
    serde_json::to_writer(&mut body, value).map_err(|error| {
        if error.is_io() {
            let message = format!("the answer is longer than {} bytes", limit::HTTP_ANSWER_BYTES_MAX);
            ApiError::new(Code::ResourceExhausted, message)
                .with_hint("ask for a part: one directory, fewer snapshots")
        } else {
            ApiError::new(Code::Internal, format!("the answer cannot be written: {error}"))
        }
    })?;
    Ok(body.0)
}

/// A buffer that refuses to grow above the longest answer.
struct Bounded(Vec<u8>);

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > limit::HTTP_ANSWER_BYTES_MAX {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
