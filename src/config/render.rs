//! The table as people and programs read it: the commented example file and a JSON Schema.

use serde_json::{Map, Value, json};

use super::key::{Allowed, Change, Key, Shape, State};
use super::table::{KEYS, SECTIONS, Settings};

/// The configuration file that `init` writes: every key with its explanation; a line begins with `#` where
/// the value is the default. `repository_path` always stands uncommented.
pub fn example(settings: &Settings) -> String {
    let defaults = Settings::default();
    let mut text = String::from(
        "# ShadowVault configuration. Lines behind # show defaults; remove the # to change one.\n\
         # `shadowvault config validate` checks this file.\n",
    );
    let line = |key: &Key, indent: &str| {
        let (value, default) = ((key.show)(settings), (key.show)(&defaults));
        let mark = if value == default && key.name != "repository_path" { "#" } else { "" };
        let later = if key.state == State::NotYet { " (not available in this version)" } else { "" };
        format!("\n{indent}# {}{later}\n{indent}{mark}{}: {value}\n", key.doc.trim(), key.name)
    };
    for key in KEYS.iter().filter(|key| key.section.is_empty()) {
        text += &line(key, "");
    }
    for (section, about) in SECTIONS {
        text += &format!("\n# ---- {}\n{section}:\n", about.trim());
        for key in KEYS.iter().filter(|key| key.section == *section) {
            text += &line(key, "  ");
        }
    }
    text
}

/// A JSON Schema (draft 2020-12) of the configuration file. Beside the standard words, each key has `x-reload`
/// (whether `config reload` applies a change), `x-available` and `x-environment`.
pub fn schema() -> Value {
    let mut top = properties("");
    for (section, about) in SECTIONS {
        let inner = json!({ "type": ["object", "null"], "description": about.trim(),
            "additionalProperties": false, "properties": properties(section) });
        top.insert((*section).to_owned(), inner);
    }
    json!({ "$schema": "https://json-schema.org/draft/2020-12/schema", "title": "ShadowVault configuration",
        "type": ["object", "null"], "additionalProperties": false, "properties": top })
}

fn properties(section: &str) -> Map<String, Value> {
    let keys = KEYS.iter().filter(|key| key.section == section);
    keys.map(|key| (key.name.to_owned(), property(key))).collect()
}

fn property(key: &Key) -> Value {
    let mut shown = match key.shape {
        Shape::Switch => json!({ "type": "boolean", "default": key.default == "true" }),
        Shape::Number => json!({ "type": "integer", "default": key.default.parse::<u64>().ok() }),
        Shape::Size => json!({ "type": ["integer", "string"], "default": key.default }),
        Shape::Duration | Shape::Text => json!({ "type": "string", "default": key.default }),
        Shape::Choice(words) => json!({ "type": "string", "enum": words, "default": key.default }),
        Shape::List => json!({ "type": "array", "items": { "type": "string" }, "default": [] }),
        Shape::Sets => json!({ "type": "array", "items": { "type": "object" }, "default": [] }),
    };
    if let (Shape::Number | Shape::Size, Allowed::Between(low, high) | Allowed::EvenBetween(low, high)) =
        (key.shape, key.allowed)
    {
        shown["minimum"] = low.into();
        shown["maximum"] = high.into();
    }
    if matches!(key.allowed, Allowed::EvenBetween(..)) {
        shown["multipleOf"] = 2.into();
    }
    if matches!(key.shape, Shape::Size | Shape::Duration) {
        shown["x-written"] = (key.shape.describe() + &key.allowed.describe(key.shape)).into();
    }
    shown["description"] = key.doc.trim().into();
    shown["x-reload"] = (key.change == Change::Live).into();
    shown["x-available"] = (key.state == State::Built).into();
    shown["x-environment"] = key.variable().into();
    shown
}
