//! What is known about a key besides its value: one row of the table.

use super::node::Node;
use super::table::Settings;
use crate::base::{ByteSize, format_duration};

/// How a value is written.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Shape {
    /// `true` or `false`.
    Switch,
    /// A whole number.
    Number,
    /// Bytes, or a size such as `5GiB`.
    Size,
    /// A duration such as `24h`.
    Duration,
    /// Any text.
    Text,
    /// One of a few words.
    Choice(&'static [&'static str]),
    /// A list of texts.
    List,
    /// A list of mappings.
    Sets,
}

/// What a value may be beyond its shape. Numbers count bytes for sizes and milliseconds for durations.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Allowed {
    /// Everything of the shape.
    Any,
    /// From the first to the second, both included.
    Between(u64, u64),
    /// The same, and even.
    EvenBetween(u64, u64),
}

/// When a changed value counts.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// At `config reload`.
    Live,
    /// At the next start.
    Restart,
}

/// Whether the key does something yet.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum State {
    /// It does.
    Built,
    /// Only its default is accepted.
    NotYet,
}

/// One key of the configuration.
pub struct Key {
    /// The section; empty for keys at the top level.
    pub section: &'static str,
    /// The name within the section.
    pub name: &'static str,
    /// How it is written.
    pub shape: Shape,
    /// What it may be.
    pub allowed: Allowed,
    /// The default, as one would write it.
    pub default: &'static str,
    /// What it does, in one sentence or two.
    pub doc: &'static str,
    /// When a change counts.
    pub change: Change,
    /// Whether it does something yet.
    pub state: State,
    pub(super) set: fn(&Key, &mut Settings, &Node) -> Result<(), Vec<Wrong>>,
    pub(super) show: fn(&Settings) -> String,
    /// Takes this key's value from one to the other.
    pub(super) copy: fn(&Settings, &mut Settings),
}

/// A value that a key cannot have: the part of the value, what was found there, what is allowed.
#[derive(Debug)]
pub(super) struct Wrong {
    /// Path below the key, such as `[2].paths`; mostly empty.
    pub below: String,
    pub mark: super::node::Mark,
    pub fault: super::mistake::Fault,
}

impl Key {
    /// `section.name`, or `name` at the top level.
    pub fn path(&self) -> String {
        if self.section.is_empty() { self.name.to_owned() } else { format!("{}.{}", self.section, self.name) }
    }

    /// The environment variable that sets it.
    pub fn variable(&self) -> String {
        let joined = if self.section.is_empty() {
            self.name.to_owned()
        } else {
            format!("{}__{}", self.section, self.name)
        };
        format!("SHADOWVAULT_{}", joined.to_ascii_uppercase())
    }
}

impl Shape {
    /// What to write, for people.
    pub fn describe(self) -> String {
        match self {
            Self::Switch => "true or false".to_owned(),
            Self::Number => "a whole number".to_owned(),
            Self::Size => "a size (bytes, or such as 64KiB or 5GiB)".to_owned(),
            Self::Duration => "a duration (such as 500ms, 30s, 5m, 24h, 7d)".to_owned(),
            Self::Text => "a text".to_owned(),
            Self::Choice(words) => format!("one of {}", words.join(", ")),
            Self::List => "a list of texts".to_owned(),
            Self::Sets => "a list of mappings".to_owned(),
        }
    }
}

impl Allowed {
    /// Whether `rank` is within.
    pub fn admits(self, rank: u64) -> bool {
        match self {
            Self::Any => true,
            Self::Between(low, high) => (low..=high).contains(&rank),
            Self::EvenBetween(low, high) => (low..=high).contains(&rank) && rank.is_multiple_of(2),
        }
    }

    /// The range in the units of `shape`, such as ` from 1s to 1h`; empty when there is none.
    pub fn describe(self, shape: Shape) -> String {
        let one = |rank: u64| match shape {
            Shape::Size if rank >= 1024 => ByteSize(rank).to_string().replace(".0 ", " "),
            Shape::Duration => format_duration(std::time::Duration::from_millis(rank)),
            _ => rank.to_string(),
        };
        match self {
            Self::Any => String::new(),
            Self::Between(low, u64::MAX) => format!(" of at least {}", one(low)),
            Self::Between(low, high) => format!(" from {} to {}", one(low), one(high)),
            Self::EvenBetween(low, high) => format!(" from {} to {}, even", one(low), one(high)),
        }
    }
}
