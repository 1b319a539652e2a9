//! Just enough of Rust's syntax to see what a file imports: words and signs without comments and texts.

/// A word (`crate`, `r#type` as `type`) or one sign; `::` is one token.
pub type Token = String;

/// A path that a file names, with everything resolved to the crate's root where it starts there.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Named {
    /// Segments; the first is `crate` for paths within the crate. A glob ends with `*`.
    pub path: Vec<String>,
    /// Whether the path stands in a module of tests.
    pub in_tests: bool,
}

/// Splits a source into tokens, leaving out comments, texts, characters and numbers.
pub fn tokens(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let mut found = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        let rest = &chars[at..];
        at += match rest {
            ['/', '/', ..] => rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()),
            ['/', '*', ..] => block_comment(rest),
            ['"', ..] => quoted(rest),
            ['\'', ..] => character_or_lifetime(rest),
            ['r' | 'b' | 'c', ..] if raw_or_byte_text(rest) > 0 => raw_or_byte_text(rest),
            ['r', '#', c, ..] if is_word(*c) => 2,
            [':', ':', ..] => {
                found.push("::".to_owned());
                2
            }
            [c, ..] if is_word(*c) => {
                let word: String = rest.iter().take_while(|c| is_word(**c)).collect();
                let length = word.chars().count();
                if !word.starts_with(|c: char| c.is_ascii_digit()) {
                    found.push(word);
                }
                length
            }
            [c, ..] => {
                if !c.is_whitespace() {
                    found.push(c.to_string());
                }
                1
            }
            [] => 1,
        };
    }
    found
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn block_comment(rest: &[char]) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        match &rest[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn quoted(rest: &[char]) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != '"' {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

fn character_or_lifetime(rest: &[char]) -> usize {
    match rest {
        ['\'', '\\', ..] => 3 + rest.iter().skip(3).position(|c| *c == '\'').unwrap_or(rest.len()),
        ['\'', _, '\'', ..] => 3,
        _ => 1 + rest[1..].iter().take_while(|c| is_word(**c)).count(),
    }
}

/// The length of `r"…"`, `r#"…"#`, `b"…"`, `br"…"`, `c"…"`, `b'x'` at the start, else 0.
fn raw_or_byte_text(rest: &[char]) -> usize {
    let letters = rest.iter().take_while(|c| "rbc".contains(**c)).count();
    let hashes = rest[letters..].iter().take_while(|c| **c == '#').count();
    let raw = rest[..letters].contains(&'r');
    match rest.get(letters + hashes) {
        Some('"') if raw && letters <= 2 => {
            let body = letters + hashes + 1;
            let closes = |at: &usize| {
                rest[*at] == '"' && rest[*at + 1..].iter().take_while(|c| **c == '#').count() >= hashes
            };
            (body..rest.len()).find(closes).map_or(rest.len(), |end| end + 1 + hashes)
        }
        Some('"') if letters == 1 && hashes == 0 => 1 + quoted(&rest[1..]),
        Some('\'') if letters == 1 && hashes == 0 && rest[0] == 'b' => 1 + character_or_lifetime(&rest[1..]),
        _ => 0,
    }
}

/// Every path in `tokens` that starts at `crate`, `super` or, in a `use`, anywhere. `module` is the file's own
/// place, such as `["store", "index"]`.
pub fn named_paths(tokens: &[Token], module: &[String]) -> Vec<Named> {
    let mut found = Vec::new();
    let mut scopes: Vec<Option<String>> = Vec::new(); // one for each open brace; the name of an inline module
    let file_of_tests = module.iter().any(|name| name == "tests");
    let mut at = 0;
    while at < tokens.len() {
        let here: Vec<String> = module.iter().chain(scopes.iter().flatten()).cloned().collect();
        let in_tests = file_of_tests || scopes.iter().flatten().any(|name| name == "tests");
        let after_path_sign = at > 0 && tokens[at - 1] == "::";
        let is_use = tokens[at] == "use" && tokens.get(at + 1).is_some_and(|next| next != "<");
        let start = if is_use { at + 1 } else { at };
        match tokens[at].as_str() {
            "use" if is_use => {}
            "crate" | "super" if !after_path_sign && tokens.get(at + 1).is_some_and(|next| next == "::") => {}
            "mod" if tokens.get(at + 2).is_some_and(|sign| sign == "{") => {
                scopes.push(Some(tokens[at + 1].clone()));
                at += 3;
                continue;
            }
            sign => {
                match sign {
                    "{" => scopes.push(None),
                    "}" => drop(scopes.pop()),
                    _ => {}
                }
                at += 1;
                continue;
            }
        }
        let mut paths = Vec::new();
        at = read_tree(tokens, start, &[], &mut paths);
        found.extend(paths.into_iter().map(|path| Named { path: resolve(path, &here), in_tests }));
    }
    found
}

/// Reads `a::{b, c::d as e}` from `at` on; gives the position behind it.
fn read_tree(tokens: &[Token], mut at: usize, before: &[String], found: &mut Vec<Vec<String>>) -> usize {
    let mut path = before.to_vec();
    while let Some(token) = tokens.get(at) {
        match token.as_str() {
            "::" => at += 1,
            "{" if path.is_empty() || tokens[at - 1] == "::" || tokens[at - 1] == "use" => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token != "}") {
                    let next = read_tree(tokens, at, &path, found);
                    at = if tokens.get(next).is_some_and(|token| token == ",") {
                        next + 1
                    } else {
                        next.max(at + 1)
                    };
                }
                return at + 1;
            }
            "*" if tokens[at - 1] == "::" || tokens[at - 1] == "{" || tokens[at - 1] == "," => {
                path.push("*".to_owned());
                found.push(path);
                return at + 1;
            }
            "as" => at += 2,
            word if word.starts_with(is_word)
                && (at == 0 || path.len() == before.len() || tokens[at - 1] == "::") =>
            {
                path.push(word.to_owned());
                at += 1;
            }
            _ => break,
        }
    }
    if path.len() > before.len() {
        found.push(path);
    }
    at
}

/// Turns `super::x`, seen from module `here`, into `crate::…::x`.
fn resolve(path: Vec<String>, here: &[String]) -> Vec<String> {
    let ups = path.iter().skip_while(|s| *s == "self").take_while(|s| *s == "super").count();
    let selfs = path.iter().take_while(|s| *s == "self").count();
    if ups == 0 && selfs == 0 {
        return path;
    }
    let base = &here[..here.len().saturating_sub(ups)];
    let root = std::iter::once("crate".to_owned());
    root.chain(base.iter().cloned()).chain(path.into_iter().skip(ups + selfs)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(source: &str, module: &str) -> Vec<String> {
        let module: Vec<_> = module.split("::").map(str::to_owned).collect();
        named_paths(&tokens(source), &module).into_iter().map(|named| named.path.join("::")).collect()
    }

    #[test]
    fn comments_texts_and_characters_are_no_code() {
        let source = r####"
            // crate::a  /* crate::b /* crate::c */ crate::d */
            /// crate::e
            "crate::f \" crate::g" r#"crate::h " crate::i"# b"crate::j" br"crate::k" c"crate::l"
            '"' '\'' '\u{22}' b'"' 'x' &'static str; r#type::x
            /* a /* b */ crate::m */ crate::real
        "####;
        assert_eq!(paths(source, "x"), ["crate::real"]);
    }

    #[test]
    fn paths_are_found_in_uses_groups_and_expressions() {
        let table = [
            ("use crate::store::Store;", "x", &["crate::store::Store"][..]),
            (
                "use crate::{base::Code, store::{Store, open as o}};",
                "x",
                &["crate::base::Code", "crate::store::Store", "crate::store::open"],
            ),
            ("use {crate::a::B, std::fs};", "x", &["crate::a::B", "std::fs"]),
            (
                "pub(in crate::store) fn f() { crate::net::g(1 * 2) }",
                "store",
                &["crate::store", "crate::net::g"],
            ),
            ("fn f() -> Result<crate::a::B, super::C> {}", "x::y", &["crate::a::B", "crate::x::C"]),
            ("use super::super::net::Dial;", "store::index", &["crate::net::Dial"]),
            ("use super::{super::net, Row};", "store::index", &["crate::net", "crate::store::Row"]),
            (
                "mod tests { use super::*; fn f() { super::super::net::x() } } use super::y;",
                "a",
                &["crate::a::*", "crate::net::x", "crate::y"],
            ),
            ("use std::collections::*;", "x", &["std::collections::*"]),
            ("use a::{b, *};", "x", &["a::b", "a::*"]),
            ("use self::kind::Kind;", "x", &["crate::x::kind::Kind"]),
            ("macro_rules! m { () => { $crate::base::f() } }", "x", &["crate::base::f"]),
            ("fn f() -> impl Fn() + use<'_, T> { todo }", "x", &[]),
        ];
        for (source, module, expected) in table {
            assert_eq!(paths(source, module), expected, "{source}");
        }
    }

    #[test]
    fn modules_of_tests_are_known_by_name() {
        let in_tests =
            |source: &str, module: &str| named_paths(&tokens(source), &[module.to_owned()])[0].in_tests;
        assert!(in_tests("mod tests { fn f() { crate::a::b() } }", "x"));
        assert!(in_tests("use crate::a;", "tests"));
        assert!(!in_tests("mod tests { } use crate::a;", "x"));
    }
}
