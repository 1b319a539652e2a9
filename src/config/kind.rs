//! The kinds of values: how each is read from text and shown again. `show` writes what `read` reads.

use std::fmt::Display;
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::key::{Allowed, Shape, Wrong};
use super::mistake::Fault;
use super::node::{Node, Value};
use crate::base::{ByteSize, format_duration, parse_duration};

/// A kind of value.
pub(super) trait Kind {
    /// What the settings hold.
    type Value;
    const SHAPE: Shape;
    /// Reads a value within `allowed`.
    fn read(node: &Node, allowed: Allowed) -> Result<Self::Value, Vec<Wrong>>;
    /// The text that reads back as `value`.
    fn show(value: &Self::Value) -> String;
}

/// A kind whose values are one scalar each.
pub(super) trait Scalar {
    type Value;
    const SHAPE: Shape;
    /// What to write, for people, where the shape says too little.
    fn expected() -> String {
        Self::SHAPE.describe()
    }
    fn parse(text: &str) -> Option<Self::Value>;
    fn print(value: &Self::Value) -> String;
    /// The number that `Allowed` compares.
    fn rank(_: &Self::Value) -> u64 {
        0
    }
}

impl<S: Scalar> Kind for S {
    type Value = S::Value;
    const SHAPE: Shape = S::SHAPE;

    fn read(node: &Node, allowed: Allowed) -> Result<S::Value, Vec<Wrong>> {
        let parsed = match &node.value {
            Value::Text(text) => S::parse(text),
            _ => None,
        };
        parsed
            .filter(|value| allowed.admits(S::rank(value)))
            .ok_or_else(|| vec![wrong(node, S::expected() + &allowed.describe(S::SHAPE))])
    }

    fn show(value: &S::Value) -> String {
        S::print(value)
    }
}

/// `node` is not what was expected.
pub(super) fn wrong(node: &Node, expected: String) -> Wrong {
    let fault = Fault::Wrong { found: node.describe(), expected };
    Wrong { below: String::new(), mark: node.mark, fault }
}

/// `text` as YAML that reads back as the same text.
pub(super) fn quoted(text: &str) -> String {
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c))
        && text.starts_with(|c: char| c.is_ascii_alphabetic() || "/.".contains(c))
        && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"]
            .contains(&text.to_lowercase().as_str());
    if plain { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}

/// `true` or `false`.
pub(super) struct Switch;

impl Scalar for Switch {
    type Value = bool;
    const SHAPE: Shape = Shape::Switch;
    fn parse(text: &str) -> Option<bool> {
        text.to_ascii_lowercase().parse().ok()
    }
    fn print(value: &bool) -> String {
        value.to_string()
    }
}

/// A whole number.
pub(super) struct Number<T>(PhantomData<T>);

impl<T: TryFrom<u64> + Into<u64> + Copy + Display> Scalar for Number<T> {
    type Value = T;
    const SHAPE: Shape = Shape::Number;
    fn parse(text: &str) -> Option<T> {
        text.parse::<u64>().ok()?.try_into().ok()
    }
    fn print(value: &T) -> String {
        value.to_string()
    }
    fn rank(value: &T) -> u64 {
        (*value).into()
    }
}

/// Bytes.
pub(super) struct Size;

impl Scalar for Size {
    type Value = u64;
    const SHAPE: Shape = Shape::Size;
    fn parse(text: &str) -> Option<u64> {
        text.parse::<ByteSize>().ok().map(|size| size.0)
    }
    fn print(value: &u64) -> String {
        let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        let unit = units.iter().find(|(_, size)| *value > 0 && value.is_multiple_of(*size));
        unit.map_or_else(|| value.to_string(), |(name, size)| format!("{}{name}", value / size))
    }
    fn rank(value: &u64) -> u64 {
        *value
    }
}

/// A duration.
pub(super) struct Span;

impl Scalar for Span {
    type Value = Duration;
    const SHAPE: Shape = Shape::Duration;
    fn parse(text: &str) -> Option<Duration> {
        parse_duration(text).ok()
    }
    fn print(value: &Duration) -> String {
        format_duration(*value)
    }
    fn rank(value: &Duration) -> u64 {
        u64::try_from(value.as_millis()).unwrap_or(u64::MAX)
    }
}

/// A file or directory, as given: relative ones count from where the program starts.
pub(super) struct Directory;

impl Scalar for Directory {
    type Value = PathBuf;
    const SHAPE: Shape = Shape::Text;
    fn expected() -> String {
        "a path".to_owned()
    }
    fn parse(text: &str) -> Option<PathBuf> {
        (!text.is_empty() && !text.contains('\0')).then(|| PathBuf::from(text))
    }
    fn print(value: &PathBuf) -> String {
        quoted(&value.to_string_lossy())
    }
}

/// An absolute path.
pub(super) struct Absolute;

impl Scalar for Absolute {
    type Value = PathBuf;
    const SHAPE: Shape = Shape::Text;
    fn expected() -> String {
        "an absolute path".to_owned()
    }
    fn parse(text: &str) -> Option<PathBuf> {
        Directory::parse(text).filter(|path| path.is_absolute())
    }
    fn print(value: &PathBuf) -> String {
        Directory::print(value)
    }
}

/// Any text.
pub(super) struct Text;

impl Scalar for Text {
    type Value = String;
    const SHAPE: Shape = Shape::Text;
    fn parse(text: &str) -> Option<String> {
        Some(text.to_owned())
    }
    fn print(value: &String) -> String {
        quoted(value)
    }
}

/// An http or https URL.
pub(super) struct Url;

impl Scalar for Url {
    type Value = String;
    const SHAPE: Shape = Shape::Text;
    fn expected() -> String {
        "an http:// or https:// URL".to_owned()
    }
    fn parse(text: &str) -> Option<String> {
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"))?;
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let sound = !host.is_empty() && !text.chars().any(|c| c.is_whitespace() || c.is_control());
        sound.then(|| text.to_owned())
    }
    fn print(value: &String) -> String {
        quoted(value)
    }
}

/// A text with something in it.
pub(super) struct Filled;

impl Scalar for Filled {
    type Value = String;
    const SHAPE: Shape = Shape::Text;
    fn expected() -> String {
        "a text that is not empty".to_owned()
    }
    fn parse(text: &str) -> Option<String> {
        (!text.trim().is_empty()).then(|| text.to_owned())
    }
    fn print(value: &String) -> String {
        quoted(value)
    }
}

/// An IP address.
pub(super) struct Ip;

impl Scalar for Ip {
    type Value = IpAddr;
    const SHAPE: Shape = Shape::Text;
    fn expected() -> String {
        "an IP address (such as 127.0.0.1 or ::1)".to_owned()
    }
    fn parse(text: &str) -> Option<IpAddr> {
        text.parse().ok()
    }
    fn print(value: &IpAddr) -> String {
        quoted(&value.to_string())
    }
}

/// An IP address and port.
pub(super) struct Socket;

impl Scalar for Socket {
    type Value = SocketAddr;
    const SHAPE: Shape = Shape::Text;
    fn expected() -> String {
        "an IP address with port (such as 127.0.0.1:9443)".to_owned()
    }
    fn parse(text: &str) -> Option<SocketAddr> {
        text.parse().ok()
    }
    fn print(value: &SocketAddr) -> String {
        quoted(&value.to_string())
    }
}

/// A scalar, or an empty text for none.
pub(super) struct Maybe<S>(PhantomData<S>);

impl<S: Scalar> Scalar for Maybe<S> {
    type Value = Option<S::Value>;
    const SHAPE: Shape = S::SHAPE;
    fn expected() -> String {
        S::expected()
    }
    fn parse(text: &str) -> Option<Option<S::Value>> {
        if text.is_empty() { Some(None) } else { S::parse(text).map(Some) }
    }
    fn print(value: &Option<S::Value>) -> String {
        value.as_ref().map_or_else(|| "\"\"".to_owned(), S::print)
    }
    fn rank(value: &Option<S::Value>) -> u64 {
        value.as_ref().map_or(1, S::rank)
    }
}

macro_rules! choices {
    ($($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident $word:literal,)+ })+) => {$(
        $(#[$doc])*
        #[derive(Copy, Clone, PartialEq, Eq, Debug)]
        pub enum $name { $($(#[$vdoc])* $variant,)+ }

        impl $name {
            /// The word in the configuration.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl Scalar for $name {
            type Value = Self;
            const SHAPE: Shape = Shape::Choice(&[$($word),+]);
            fn parse(text: &str) -> Option<Self> {
                match text { $($word => Some(Self::$variant),)+ _ => None }
            }
            fn print(value: &Self) -> String {
                value.name().to_owned()
            }
        }
    )+};
}

choices! {
    /// The least important log lines that are written.
    LogLevel {
        /// Wakes a human.
        Error "error",
        /// Odd, but handled.
        Warn "warn",
        /// Starts and ends of jobs.
        Info "info",
        /// Everything of use when looking for a fault.
        Debug "debug",
        /// Everything.
        Trace "trace",
    }
    /// How log lines look.
    LogFormat {
        /// One JSON object a line.
        Json "json",
        /// For people.
        Text "text",
    }
    /// Whether own packs stay on this machine.
    LocalCopy {
        /// All of them.
        Full "full",
        /// The most recently used, once enough peers hold them.
        Cache "cache",
    }
}
