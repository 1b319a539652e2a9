//! YAML text as a plain tree in which every part knows where it stands.
//!
//! Scalars stay text: a value from a file, from the environment and from the table of defaults is read by the
//! same code. Aliases are expanded within small bounds, so that a hostile file costs little.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::{DuplicateKeyPolicy, MergeKeyPolicy};
use serde_saphyr::{Location, Spanned};
use std::fmt;

use crate::base::limit;

/// A place in a text; both count from 1.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Mark {
    /// Line.
    pub line: u64,
    /// Column, in characters.
    pub column: u64,
}

/// A value and where it stands.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Node {
    pub mark: Mark,
    pub value: Value,
}

#[derive(Clone, PartialEq, Debug)]
pub(super) enum Value {
    /// `key:` with nothing behind it, `~` or `null`: as if the key were not there.
    Null,
    /// Any scalar, as written.
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Name, Node)>),
}

/// A key of a mapping and where it stands.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Name {
    pub mark: Mark,
    pub text: String,
}

/// Text that is not YAML, with the place.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Malformed {
    pub mark: Mark,
    pub reason: String,
}

impl Node {
    /// A scalar that no file holds.
    pub fn text(text: &str) -> Self {
        Self { mark: Mark::default(), value: Value::Text(text.to_owned()) }
    }

    /// A list of scalars that no file holds.
    pub fn list<'a>(items: impl Iterator<Item = &'a str>) -> Self {
        Self { mark: Mark::default(), value: Value::List(items.map(Self::text).collect()) }
    }

    /// What it is, for messages: the text itself when short.
    pub fn describe(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::Text(text) if text.chars().count() > 80 => {
                format!("{:?}…", text.chars().take(80).collect::<String>())
            }
            Value::Text(text) => format!("{text:?}"),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a mapping".to_owned(),
        }
    }
}

/// Reads one YAML document.
pub(super) fn parse(source: &str) -> Result<Node, Malformed> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: limit::CONFIG_DEPTH_MAX,
            max_nodes: limit::CONFIG_NODES_MAX,
            max_events: limit::CONFIG_NODES_MAX * 4,
            max_anchors: limit::CONFIG_ALIASES_MAX,
            max_aliases: limit::CONFIG_ALIASES_MAX,
            max_documents: 1,
            max_total_scalar_bytes: limit::CONFIG_BYTES_MAX,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: limit::CONFIG_NODES_MAX },
        duplicate_keys: DuplicateKeyPolicy::PassThrough, // reported with all other mistakes, not alone
        merge_keys: MergeKeyPolicy::Error,
        strict_booleans: true,
        with_snippet: false,
    };
    let raw: Spanned<Raw> = serde_saphyr::from_str_with_options(source, options).map_err(|e| Malformed {
        mark: e.location().map(mark_of).unwrap_or_default(),
        reason: first_line(&e.to_string()),
    })?;
    Ok(convert(raw, source))
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim_end_matches(':').to_owned()
}

fn mark_of(at: Location) -> Mark {
    Mark { line: at.line(), column: at.column() }
}

fn convert(raw: Spanned<Raw>, source: &str) -> Node {
    let value = match raw.value {
        Raw::Null => Value::Null,
        Raw::Text(text) => Value::Text(text),
        Raw::Number(parsed) => Value::Text(written(raw.defined, source).unwrap_or(parsed)),
        Raw::List(items) => Value::List(items.into_iter().map(|item| convert(item, source)).collect()),
        Raw::Map(entries) => Value::Map(
            entries
                .into_iter()
                .map(|(key, value)| {
                    let name = Name { mark: mark_of(key.referenced), text: key.value };
                    (name, convert(value, source))
                })
                .collect(),
        ),
    };
    Node { mark: mark_of(raw.referenced), value }
}

/// The text of a number or boolean as it stands in the file: a tag `1.10` must not become `1.1`.
fn written(at: Location, source: &str) -> Option<String> {
    let start = usize::try_from(at.span().byte_offset()?).ok()?;
    let length = usize::try_from(at.span().byte_len()?).ok()?;
    let text = source.get(start..start.checked_add(length)?)?.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

enum Raw {
    Null,
    Text(String),
    /// A number or boolean, as the parser shows it.
    Number(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Number(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Number(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Number(value.to_string()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Raw, E> {
        Ok(Raw::Number(value.to_string()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Raw, E> {
        Ok(Raw::Number(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Number(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_stay_as_written_and_know_their_place() {
        let Value::Map(entries) = parse("a: 1.10\nb:\n  - 0x10\n  - yes\n  - 'x'\nc:\n").unwrap().value
        else {
            panic!("a mapping")
        };
        assert_eq!(entries[0].1.value, Value::Text("1.10".into()));
        let Value::List(items) = &entries[1].1.value else { panic!("a list") };
        let texts: Vec<_> = items.iter().map(|n| n.describe()).collect();
        assert_eq!(texts, ["\"0x10\"", "\"yes\"", "\"x\""]);
        assert_eq!(items[1].mark, Mark { line: 4, column: 5 });
        assert_eq!(entries[2].0.mark, Mark { line: 6, column: 1 });
        assert_eq!(entries[2].1.value, Value::Null);
        assert_eq!(parse("").unwrap().value, Value::Null);
    }

    #[test]
    fn malformed_or_hostile_yaml_is_refused_with_its_place() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..12 {
            let below = format!("*a{}", i - 1);
            bomb += &format!("a{i}: &a{i} [{}]\n", [below.as_str(); 10].join(", "));
        }
        let deep = "[".repeat(200) + &"]".repeat(200);
        for (source, line) in
            [("a: [1, 2\nb: }", 2), ("a: 1\n b: 2\n", 2), (&bomb, 0), (&deep, 0), ("a: 1\n---\nb: 2\n", 0)]
        {
            let error = parse(source).unwrap_err();
            assert!(line == 0 || error.mark.line == line, "{error:?}");
            assert!(!error.reason.is_empty());
        }
    }
}
