//! The one error that crosses the API: code, words, cure.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::base::{Code, Coded, Retry};

/// An error with its stable code; what RFC 9457 problem+json carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// Name of a [`Code`].
    pub code: String,
    /// What went wrong, causes included, for people.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Whether the same call may work later.
    pub retryable: bool,
}

impl ApiError {
    /// An error of this kind with these words.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code: code.name().to_owned(),
            message: message.into(),
            hint: None,
            retryable: code.retry() != Retry::Never,
        }
    }

    /// With a cure.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The code, [`Code::Internal`] when the name is unknown here (a newer node).
    pub fn kind(&self) -> Code {
        Code::ALL.iter().copied().find(|code| code.name() == self.code).unwrap_or(Code::Internal)
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

impl<E: Coded> From<&E> for ApiError {
    fn from(error: &E) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            if !message.ends_with(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            source = cause.source();
        }
        Self { hint: error.hint(), ..Self::new(error.code(), message) }
    }
}
