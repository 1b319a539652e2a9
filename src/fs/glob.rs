//! Wildcards as git matches them: `?` and `*` stop at a slash, `**` between slashes does not, `[...]` holds single
//! bytes, ranges and POSIX classes, a backslash makes the next byte mean itself.
//!
//! Patterns also come from the trees that are backed up, so none may take long: a byte of the text is looked at again at
//! most once for each place where the last `*` and the last `**` may end. Bytes throughout; nothing is allocated.

/// Bytes before the first one with a meaning of its own.
pub(super) fn literal_length(pattern: &[u8]) -> usize {
    pattern.iter().position(|byte| b"*?[\\".contains(byte)).unwrap_or(pattern.len())
}

/// Where matching goes on when what follows a star does not fit.
struct Retry {
    /// The pattern after the star.
    pattern: usize,
    /// Where the star ends next.
    text: usize,
    /// It only ends behind slashes (`**/`).
    folders: bool,
}

/// Whether the whole of `text` fits the whole of `pattern`. A malformed pattern fits nothing.
///
/// Only the last star of each kind is ever tried again: whatever an earlier one could reach by growing, the later one
/// reaches too.
pub(super) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let (mut star, mut wide): (Option<Retry>, Option<Retry>) = (None, None);
    loop {
        match next(pattern, p, text.get(t).copied()) {
            Part::End if t == text.len() => return true,
            Part::Fits(after) => (p, t) = (after, t + 1),
            Part::Star(after) => {
                (star, p) = (Some(Retry { pattern: after, text: t, folders: false }), after);
            }
            Part::Wide(after, folders) => {
                (star, wide, p) = (None, Some(Retry { pattern: after, text: t, folders }), after);
            }
            Part::Malformed => return false,
            Part::End | Part::Misfit => {
                let narrow = star.as_mut().and_then(|star| star.grow(text, |byte| byte != b'/'));
                let again = narrow.or_else(|| {
                    star = None;
                    wide.as_mut().and_then(|wide| wide.grow(text, |_| true))
                });
                match again {
                    Some(place) => (p, t) = place,
                    None => return false,
                }
            }
        }
    }
}

impl Retry {
    /// Lets the star end at the next place where it may: where to go on in pattern and text.
    fn grow(&mut self, text: &[u8], takes: impl Fn(u8) -> bool) -> Option<(usize, usize)> {
        loop {
            let byte = text.get(self.text).copied().filter(|byte| takes(*byte))?;
            self.text += 1;
            if !self.folders || byte == b'/' {
                return Some((self.pattern, self.text));
            }
        }
    }
}

/// The part of a pattern that begins at some place; with it the place after it.
enum Part {
    /// The pattern is at its end.
    End,
    /// One byte of the text, and it fits.
    Fits(usize),
    /// One byte that does not.
    Misfit,
    /// Anything without a slash.
    Star(usize),
    /// Anything; with `true`, nothing or anything that ends with a slash.
    Wide(usize, bool),
    /// It fits nothing.
    Malformed,
}

fn next(pattern: &[u8], p: usize, byte: Option<u8>) -> Part {
    let Some(first) = pattern.get(p).copied() else { return Part::End };
    let one = |fits: bool, after: usize| if fits { Part::Fits(after) } else { Part::Misfit };
    match first {
        b'*' => stars(pattern, p),
        b'?' => one(byte.is_some_and(|byte| byte != b'/'), p + 1),
        b'\\' => match pattern.get(p + 1) {
            Some(literal) => one(byte == Some(*literal), p + 2),
            None => Part::Malformed,
        },
        b'[' => match class(pattern, p, byte.unwrap_or(b'/')) {
            Some((fits, after)) => one(fits, after),
            None => Part::Malformed,
        },
        literal => one(byte == Some(literal), p + 1),
    }
}

/// A run of stars: only two or more that stand alone between slashes reach beyond one.
fn stars(pattern: &[u8], p: usize) -> Part {
    let count = pattern[p..].iter().take_while(|byte| **byte == b'*').count();
    let after = p + count;
    let alone_before = p == 0 || pattern[p - 1] == b'/';
    match &pattern[after..] {
        [b'/', ..] if count > 1 && alone_before => Part::Wide(after + 1, true),
        [] | [b'\\', b'/', ..] if count > 1 && alone_before => Part::Wide(after, false),
        _ => Part::Star(after),
    }
}

/// The set that opens at `open`: whether it has `byte`, and the place after it. No set has a slash. `None` when it does
/// not close or names a class that there is not.
fn class(pattern: &[u8], open: usize, byte: u8) -> Option<(bool, usize)> {
    let at = |p: usize| pattern.get(p).copied();
    let negated = matches!(at(open + 1), Some(b'!' | b'^'));
    let first = open + 1 + usize::from(negated);
    let (mut p, mut hit, mut before) = (first, false, None);
    loop {
        match at(p)? {
            b']' if p > first => break,
            b'\\' => {
                let literal = at(p + 1)?;
                hit |= byte == literal;
                (before, p) = (Some(literal), p + 2);
            }
            b'-' if before.is_some() && at(p + 1).is_some_and(|end| end != b']') => {
                p += usize::from(at(p + 1) == Some(b'\\'));
                let end = at(p + 1)?;
                hit |= before.is_some_and(|start| (start..=end).contains(&byte));
                (before, p) = (None, p + 2);
            }
            b'[' if at(p + 1) == Some(b':') => {
                let close = p + 2 + pattern[p + 2..].iter().position(|byte| *byte == b']')?;
                match pattern[p + 2..close].strip_suffix(b":") {
                    Some(name) => {
                        hit |= posix(name, byte)?;
                        (before, p) = (None, close + 1);
                    }
                    // Just a bracket in a set.
                    None => {
                        hit |= byte == b'[';
                        (before, p) = (Some(b'['), p + 1);
                    }
                }
            }
            literal => {
                hit |= byte == literal;
                (before, p) = (Some(literal), p + 1);
            }
        }
    }
    Some((hit != negated && byte != b'/', p + 1))
}

fn posix(name: &[u8], byte: u8) -> Option<bool> {
    Some(match name {
        b"alnum" => byte.is_ascii_alphanumeric(),
        b"alpha" => byte.is_ascii_alphabetic(),
        b"blank" => b" \t".contains(&byte),
        b"cntrl" => byte.is_ascii_control(),
        b"digit" => byte.is_ascii_digit(),
        b"graph" => byte.is_ascii_graphic(),
        b"lower" => byte.is_ascii_lowercase(),
        b"print" => byte.is_ascii_graphic() || byte == b' ',
        b"punct" => byte.is_ascii_punctuation(),
        b"space" => b" \t\n\r".contains(&byte),
        b"upper" => byte.is_ascii_uppercase(),
        b"xdigit" => byte.is_ascii_hexdigit(),
        _ => return None,
    })
}

/// What makes a pattern fit nothing at all; `None` for one that may.
pub(super) fn fault(pattern: &[u8]) -> Option<&'static str> {
    let mut p = 0;
    while p < pattern.len() {
        p = match next(pattern, p, Some(b'/')) {
            Part::Fits(after) | Part::Star(after) | Part::Wide(after, _) => after,
            Part::Misfit => match pattern[p] {
                b'\\' => p + 2,
                b'[' => class(pattern, p, b'/').map_or(p + 1, |(_, after)| after),
                _ => p + 1,
            },
            Part::Malformed if pattern[p] == b'[' => {
                return Some(
                    "its [ is not closed, or names a class that there is not; write \\[ for the character",
                );
            }
            Part::Malformed | Part::End => {
                return Some("it ends with a lone \\; write \\\\ for the character");
            }
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_fit_what_they_say() {
        let table: [(&str, &[&str], &[&str]); 16] = [
            ("a", &["a"], &["", "b", "aa"]),
            ("*", &["", "a", ".a"], &["a/b"]),
            ("a*b*c", &["abc", "axbxc", "abcbc"], &["ab", "a/bc", "abcd"]),
            ("?", &["a"], &["", "/", "ab"]),
            ("**", &["", "a", "a/b/c"], &[]),
            ("**/x", &["x", "a/x", "a/b/x"], &["ax", "x/a"]),
            ("a/**", &["a/", "a/b", "a/b/c"], &["a", "ab"]),
            ("a/**/b", &["a/b", "a/x/b", "a/x/y/b"], &["ab", "a/xb", "a/b/c"]),
            ("a**b", &["ab", "axb"], &["a/b"]),
            ("**/a/*/b", &["a/x/b", "a/a/x/b", "q/a/b/b"], &["a/b", "a/x/y/b"]),
            ("[a-c]", &["a", "c"], &["d", "-", "/"]),
            ("[!a-c]", &["d"], &["a", "/"]),
            ("[]-]", &["]", "-"], &["a"]),
            ("[[:digit:]x]", &["7", "x"], &["y", "["]),
            ("\\*\\[", &["*["], &["a["]),
            ("[a", &[], &["a", "[a"]),
        ];
        for (pattern, fitting, others) in table {
            for (texts, fits) in [(fitting, true), (others, false)] {
                for text in texts {
                    assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), fits, "{pattern} on {text:?}");
                }
            }
        }
    }

    #[test]
    fn patterns_that_fit_nothing_are_told() {
        for (pattern, sound) in [
            ("a[b]*", true),
            ("[[:alpha:]]", true),
            ("\\\\", true),
            ("[a", false),
            ("a\\", false),
            ("[[:x:]]", false),
            // To git it fits a z.
            ("[z-a]", true),
        ] {
            assert_eq!(fault(pattern.as_bytes()).is_none(), sound, "{pattern}");
        }
    }

    /// Git's own matcher takes exponential time for these.
    #[test]
    fn no_pattern_takes_long() {
        let text = [b'a'; 4000];
        let folders = b"a/".repeat(2000);
        assert!(!matches(&[b"*a".repeat(100), b"b".to_vec()].concat(), &text));
        assert!(!matches(&[b"**/a/".repeat(100), b"b".to_vec()].concat(), &folders));
        assert!(!matches(&[b"**/*a/".repeat(100), b"b".to_vec()].concat(), &folders));
    }
}
