//! Who may use the API over TCP: bearers of the token, and no web page.

use std::fs;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use zeroize::Zeroizing;

use super::problem::Problem;
use crate::api::ApiError;
use crate::base::{Code, limit};

/// The token that opens the API. Kept as its hash, which is compared in constant time.
pub struct Token(blake3::Hash);

impl Token {
    /// Reads the token from a file that only its owner can read; blank space around it does not count.
    ///
    /// # Errors
    /// [`Code::ConfigInvalid`]: the file is missing, is no regular file, is open to others, or holds a token of less
    /// than 16 or more than 4,096 bytes.
    pub fn read(path: &Path) -> Result<Self, ApiError> {
        let refused = |why: String| {
            ApiError::new(Code::ConfigInvalid, format!("security.api_token_file {}: {why}", path.display()))
                .with_hint("put a random text of at least 16 characters into it, and `chmod 600` it")
        };
        // A FIFO must not keep the daemon from starting.
        let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
        let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(path);
        let file = file.map_err(|error| refused(error.to_string()))?;
        let there = file.metadata().map_err(|error| refused(error.to_string()))?;
        if !there.is_file() {
            return Err(refused("it is not a regular file".to_owned()));
        }
        if there.mode() & 0o077 != 0 {
            return Err(refused("others may read it".to_owned()));
        }
        let mut text = Zeroizing::new(String::new());
        let longest = limit::API_TOKEN_BYTES_MAX as u64;
        file.take(longest + 1).read_to_string(&mut text).map_err(|error| refused(error.to_string()))?;
        let token = text.trim();
        if !(limit::API_TOKEN_BYTES_MIN..=limit::API_TOKEN_BYTES_MAX).contains(&token.len()) {
            return Err(refused(format!("a token of {} bytes", token.len())));
        }
        Ok(Self(blake3::hash(token.as_bytes())))
    }

    fn opens(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let scheme = |text: &str| text.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("bearer "));
        // `Hash` compares in constant time.
        given
            .filter(|text| scheme(text))
            .is_some_and(|text| blake3::hash(text[7..].trim().as_bytes()) == self.0)
    }
}

/// Refuses a request that may come from a web page, or that has not the token.
///
/// A page in the owner's browser reaches this port too: by another name that leads here (Host), or straight on
/// (Origin). Neither is let through, with or without a token.
#[expect(clippy::result_large_err, reason = "the error is the answer")]
pub(super) fn check(
    headers: &HeaderMap,
    uri: &Uri,
    local: SocketAddr,
    token: &Token,
) -> Result<(), Response> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = uri.host().or(host).unwrap_or_default();
    if !is_ours(host, local) {
        let text = format!("this is not {host:?}: ask by the address that the API listens on");
        return Err(Problem::usage(StatusCode::MISDIRECTED_REQUEST, text).into_response());
    }
    if headers.contains_key(header::ORIGIN) {
        let error = ApiError::new(Code::PermissionDenied, "requests of web pages are not answered");
        return Err(Problem::from(error).into_response());
    }
    if !token.opens(headers) {
        let error = ApiError::new(Code::Unauthorized, "the bearer token is missing or wrong")
            .with_hint("send `Authorization: Bearer` and what is in security.api_token_file");
        let mut response = Problem::from(error).into_response();
        let challenge = HeaderValue::from_static("Bearer realm=\"shadowvault\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        return Err(response);
    }
    Ok(())
}

/// Whether a host is loopback's name or a literal address: names that others control are not answered to.
fn is_ours(host: &str, local: SocketAddr) -> bool {
    let bare = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    match bare.parse::<IpAddr>() {
        Ok(address) => address.is_loopback() || address.to_canonical() == local.ip().to_canonical(),
        Err(_) => bare.eq_ignore_ascii_case("localhost") && local.ip().to_canonical().is_loopback(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn only_the_address_itself_and_loopback_are_answered_to() {
        let table = [
            ("localhost:9443", "127.0.0.1:9443", true),
            ("LOCALHOST", "127.0.0.1:9443", true),
            ("127.0.0.1:9443", "127.0.0.1:9443", true),
            ("[::1]:9443", "[::1]:9443", true),
            ("192.0.2.7:9443", "192.0.2.7:9443", true),
            ("192.0.2.8", "192.0.2.7:9443", false),
            ("localhost", "192.0.2.7:9443", false),
            ("evil.example", "127.0.0.1:9443", false),
            ("localhost.evil.example:9443", "127.0.0.1:9443", false),
            ("", "127.0.0.1:9443", false),
        ];
        for (host, local, ours) in table {
            assert_eq!(is_ours(host, local.parse().unwrap()), ours, "{host} at {local}");
        }
    }

    #[test]
    fn a_token_file_is_private_and_long_enough() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str, mode: u32| {
            let path = dir.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            Token::read(&path)
        };
        let token = file("good", " 0123456789abcdef\n", 0o600).unwrap();
        let headers = |value: &str| HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())]);
        assert!(
            token.opens(&headers("Bearer 0123456789abcdef"))
                && token.opens(&headers("bearer  0123456789abcdef"))
        );
        for wrong in ["Bearer 0123456789abcde", "Basic 0123456789abcdef", "0123456789abcdef", "Bearer"] {
            assert!(!token.opens(&headers(wrong)), "{wrong}");
        }
        assert!(!token.opens(&HeaderMap::new()));
        for refused in [
            file("open", "0123456789abcdef", 0o640),
            file("short", "0123456789abcde\n", 0o600),
            file("long", &"x".repeat(5000), 0o600),
            Token::read(dir.path()),
            Token::read(&dir.path().join("absent")),
        ] {
            let error = refused.err().expect("it is refused");
            assert_eq!(error.kind(), Code::ConfigInvalid);
            assert!(error.message.starts_with("security.api_token_file"), "{error}");
        }
    }
}
