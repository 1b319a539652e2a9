//! Paths as text: a path's bytes need not be UTF-8, but arguments, JSON and URLs carry text.
//!
//! A path that is UTF-8 stands for itself. One that is not has an exact form too, percent-encoded, which follows a
//! snapshot reference after two colons instead of one: `REF::/dir/na%FFme`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The exact form of a path that is not UTF-8; `None` for one that is.
pub fn encode_path(path: &Path) -> Option<String> {
    let bytes = path.as_os_str().as_bytes();
    std::str::from_utf8(bytes).is_err().then(|| encode(bytes))
}

fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() + 8);
    for part in bytes.utf8_chunks() {
        text.push_str(&part.valid().replace('%', "%25"));
        part.invalid().iter().for_each(|byte| text.push_str(&format!("%{byte:02X}")));
    }
    text
}

/// The bytes of an exact form; a `%` without two digits stands for itself.
fn decode(text: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|_| *first == b'%');
        let byte = digits.and_then(|digits| hex::decode(digits).ok()).and_then(|byte| byte.first().copied());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    bytes
}

/// Splits `REF`, `REF:PATH` or `REF::ENCODED`; the path is absolute in the snapshot.
pub fn split_reference(reference: &str) -> (&str, PathBuf) {
    let Some((snapshot, path)) = reference.split_once(':') else { return (reference, PathBuf::from("/")) };
    let path = match path.strip_prefix(':') {
        Some(encoded) => OsString::from_vec(decode(encoded)),
        None => OsString::from(path),
    };
    (snapshot, Path::new("/").join(path))
}

/// A reference as a shell gives it, as text: a path that is not UTF-8 takes its exact form.
pub fn reference_text(reference: &OsStr) -> String {
    if let Some(text) = reference.to_str() {
        return text.to_owned();
    }
    let bytes = reference.as_bytes();
    match bytes.iter().position(|byte| *byte == b':') {
        Some(at) => format!("{}::{}", String::from_utf8_lossy(&bytes[..at]), encode(&bytes[at + 1..])),
        None => reference.to_string_lossy().into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn os(bytes: &[u8]) -> &OsStr {
        OsStr::from_bytes(bytes)
    }

    #[test]
    fn references_split_into_snapshot_and_absolute_path() {
        let table: [(&str, &str, &[u8]); 8] = [
            ("latest", "latest", b"/"),
            ("latest:/a/b", "latest", b"/a/b"),
            ("ab12:a:b%20", "ab12", b"/a:b%20"),
            ("ab12::/a%FFb", "ab12", b"/a\xffb"),
            ("ab12::a%25b%zz%4", "ab12", b"/a%b%zz%4"),
            ("ab12:/:x", "ab12", b"/:x"),
            ("ab12:", "ab12", b"/"),
            ("", "", b"/"),
        ];
        for (text, snapshot, path) in table {
            assert_eq!(split_reference(text), (snapshot, PathBuf::from(os(path))), "{text}");
        }
    }

    #[test]
    fn every_path_can_be_named_as_text() {
        for bytes in [b"/plain \xc3\xbc %41".as_slice(), b"/\xff%FF\xc3", b"/%\xe2\x82/:\n", b"/a"] {
            let argument = [b"latest:", bytes].concat();
            let text = reference_text(os(&argument));
            assert_eq!(split_reference(&text).1.as_os_str(), os(bytes), "{text}");
            let encoded = encode_path(Path::new(os(bytes)));
            assert_eq!(encoded.is_none(), std::str::from_utf8(bytes).is_ok());
            if let Some(encoded) = encoded {
                assert_eq!(split_reference(&format!("latest::{encoded}")).1.as_os_str(), os(bytes));
            }
        }
    }
}
