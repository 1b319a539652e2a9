//! Arguments that name a snapshot, or a place in one.

use clap::builder::{OsStringValueParser, TypedValueParser};

use crate::base::reference_text;

/// Reads `REF` and `REF:PATH`; a path need not be UTF-8.
pub(super) fn reference() -> impl TypedValueParser<Value = String> {
    OsStringValueParser::new().map(|argument| reference_text(&argument))
}
