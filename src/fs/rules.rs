//! Gitignore patterns: how a line is read, what it fits, and which of many decides.

use super::glob;

/// One pattern.
#[derive(Debug)]
struct Rule {
    /// Without `!` in front and slashes around it.
    pattern: Box<[u8]>,
    /// How many of its first bytes mean themselves.
    literal: usize,
    /// Where it stands, counted from 1.
    line: u32,
    /// Which of the sources.
    source: u32,
    /// It keeps what fits.
    keeps: bool,
    /// It is for directories only.
    directories: bool,
    /// It has a slash inside or in front: it is for one place, not for a name anywhere.
    anchored: bool,
    /// It began with a slash.
    rooted: bool,
    /// It is in lower case, and fits what is like it in lower case.
    any_case: bool,
}

/// Patterns in order, from one source or more. The last one that fits decides.
#[derive(Debug, Default)]
pub(super) struct Rules {
    rules: Vec<Rule>,
    sources: Vec<String>,
}

/// An entry as patterns see it.
#[derive(Copy, Clone)]
pub(super) struct Seen<'a> {
    /// Its whole path, from `/`.
    pub(super) path: &'a [u8],
    /// The last part of it.
    pub(super) name: &'a [u8],
    pub(super) is_directory: bool,
}

/// A pattern that decided.
#[derive(Copy, Clone)]
pub(super) struct Deciding<'a> {
    rule: &'a Rule,
    source: &'a str,
}

impl Rules {
    pub(super) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    pub(super) fn count(&self) -> usize {
        self.rules.len()
    }

    /// Adds the lines of a file: comments, empty lines, a byte order mark, carriage returns and blanks at the end are
    /// what they are to git.
    pub(super) fn add_file(&mut self, name: String, content: &[u8]) {
        let source = self.source(name);
        self.rules.extend(lines(content).filter_map(|(number, line)| Rule::read(line, number, source)));
    }

    /// Adds one pattern as it stands, as git does with those on its command line.
    pub(super) fn add(&mut self, source: u32, number: u32, pattern: &[u8]) {
        self.rules.extend(Rule::read(pattern, number, source));
    }

    /// Adds one pattern that fits whether letters are upper or lower case.
    pub(super) fn add_any_case(&mut self, source: u32, number: u32, pattern: &str) {
        let rule = Rule::read(&lowered(pattern.as_bytes()), number, source);
        self.rules.extend(rule.map(|rule| Rule { any_case: true, ..rule }));
    }

    /// Notes where the next patterns come from.
    pub(super) fn source(&mut self, name: String) -> u32 {
        self.sources.push(name);
        self.sources.len() as u32 - 1
    }

    /// The last pattern that fits an entry below at least one of `bases` (lengths of directories' paths, without a
    /// slash at the end).
    pub(super) fn decide(
        &self,
        seen: Seen<'_>,
        bases: impl Iterator<Item = usize> + Clone,
    ) -> Option<Deciding<'_>> {
        let fits = |rule: &&Rule| match rule.anchored {
            _ if rule.directories && !seen.is_directory => false,
            false => rule.fits_name(seen.name),
            true => bases.clone().any(|base| seen.path.get(base + 1..).is_some_and(|below| rule.fits(below))),
        };
        let rule = self.rules.iter().rev().find(fits)?;
        Some(Deciding { rule, source: &self.sources[rule.source as usize] })
    }
}

impl Rule {
    /// `None` for a line that fits nothing: an empty one, a lone `!` or `/`.
    fn read(line: &[u8], number: u32, source: u32) -> Option<Self> {
        // To git a line ends there.
        let line = line.split(|byte| *byte == 0).next().unwrap_or_default();
        let (line, keeps) = line.strip_prefix(b"!").map_or((line, false), |rest| (rest, true));
        let (line, directories) = line.strip_suffix(b"/").map_or((line, false), |rest| (rest, true));
        let anchored = line.contains(&b'/');
        let (line, rooted) = line.strip_prefix(b"/").map_or((line, false), |rest| (rest, true));
        if line.is_empty() {
            return None;
        }
        let literal = glob::literal_length(line);
        Some(Self {
            pattern: line.into(),
            literal,
            line: number,
            source,
            keeps,
            directories,
            anchored,
            rooted,
            any_case: false,
        })
    }

    fn fits_name(&self, name: &[u8]) -> bool {
        match &*self.pattern {
            // `*.o`, the commonest pattern.
            [b'*', end @ ..] if !self.any_case && glob::literal_length(end) == end.len() => {
                name.ends_with(end)
            }
            _ => self.fits(name),
        }
    }

    fn fits(&self, path: &[u8]) -> bool {
        if self.any_case { self.fits_as_is(&lowered(path)) } else { self.fits_as_is(path) }
    }

    fn fits_as_is(&self, path: &[u8]) -> bool {
        let (literal, wild) = self.pattern.split_at(self.literal);
        match path.strip_prefix(literal) {
            None => false,
            Some(rest) if wild.is_empty() => rest.is_empty(),
            // Git too takes the pattern after its literal part for one of its own.
            Some(rest) => glob::matches(wild, rest),
        }
    }
}

impl Deciding<'_> {
    /// It keeps what fits (`!`).
    pub(super) fn keeps(self) -> bool {
        self.rule.keeps
    }

    /// The pattern as git reads it.
    pub(super) fn pattern(self) -> String {
        let sign = |given: bool, sign| if given { sign } else { "" };
        let (front, slash) = (sign(self.rule.keeps, "!"), sign(self.rule.rooted, "/"));
        let text = String::from_utf8_lossy(&self.rule.pattern);
        format!("{front}{slash}{text}{}", sign(self.rule.directories, "/"))
    }

    /// Where it comes from: a file, a flag, a backup set.
    pub(super) fn source(&self) -> &str {
        self.source
    }

    /// Its line there, or its number, from 1.
    pub(super) fn line(self) -> u32 {
        self.rule.line
    }
}

/// In lower case; of what is no UTF-8 only the letters of ASCII.
fn lowered(text: &[u8]) -> Vec<u8> {
    match std::str::from_utf8(text) {
        // By letter: what a word's last letter is does not depend on what a pattern has after it.
        Ok(text) => text.chars().flat_map(char::to_lowercase).collect::<String>().into_bytes(),
        Err(_) => text.to_ascii_lowercase(),
    }
}

/// The lines of a file that are patterns to git, with their numbers.
fn lines(content: &[u8]) -> impl Iterator<Item = (u32, &[u8])> {
    let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    let lines = (1..).zip(content.split(|byte| *byte == b'\n'));
    let lines = lines.map(|(number, line)| (number, line.strip_suffix(b"\r").unwrap_or(line)));
    lines.filter(|(_, line)| line.first() != Some(&b'#')).map(|(number, line)| (number, without_blanks(line)))
}

/// The line without blanks at its end; one after a backslash stays.
fn without_blanks(line: &[u8]) -> &[u8] {
    let (mut end, mut p) = (0, 0);
    while p < line.len() {
        match line[p] {
            b' ' => p += 1,
            b'\\' => {
                p += 2;
                // A backslash at the very end leaves all as it is.
                end = p;
            }
            _ => {
                p += 1;
                end = p;
            }
        }
    }
    &line[..end.min(line.len())]
}

/// Why a pattern given by a person cannot mean what it was meant to; `None` for a sound one.
pub(super) fn fault(pattern: &[u8]) -> Option<&'static str> {
    if pattern.contains(&0) || pattern.contains(&b'\n') {
        return Some("it has a zero byte or a line break in it");
    }
    match Rule::read(pattern, 0, 0) {
        None => Some("it is empty and fits nothing"),
        Some(rule) => glob::fault(&rule.pattern),
    }
}

/// The first line of a file that [`fault`] finds fault with. Empty lines are none.
pub(super) fn file_fault(content: &[u8]) -> Option<(u32, &'static str)> {
    lines(content)
        .filter(|(_, line)| !line.is_empty())
        .find_map(|(number, line)| Some((number, fault(line)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lines: &[&str], path: &str, is_directory: bool) -> Option<bool> {
        let mut rules = Rules::default();
        rules.add_file("f".into(), lines.join("\n").as_bytes());
        let path = format!("/base/{path}");
        let name = path.rsplit('/').next().unwrap_or_default();
        let seen = Seen { path: path.as_bytes(), name: name.as_bytes(), is_directory };
        rules.decide(seen, std::iter::once(5)).map(|deciding| !deciding.keeps())
    }

    #[test]
    fn lines_mean_what_they_mean_to_git() {
        let (out, kept, none) = (Some(true), Some(false), None);
        let table: [(&[&str], &str, bool, Option<bool>); 24] = [
            (&["*.o"], "a/b.o", false, out),
            (&["*.o", "!keep.o"], "a/keep.o", false, kept),
            (&["!keep.o", "*.o"], "a/keep.o", false, out),
            (&["/build"], "build", true, out),
            (&["/build"], "src/build", true, none),
            (&["build/"], "src/build", true, out),
            (&["build/"], "src/build", false, none),
            (&["doc/*.txt"], "doc/a.txt", false, out),
            (&["doc/*.txt"], "doc/sub/a.txt", false, none),
            (&["doc/*.txt"], "x/doc/a.txt", false, none),
            (&["**/cache"], "a/b/cache", true, out),
            (&["cache/**"], "cache/x", false, out),
            (&["cache/**"], "cache", true, none),
            (&["# comment", "\\#file"], "#file", false, out),
            (&["\\!bang"], "!bang", false, out),
            (&["[a-c].txt"], "b.txt", false, out),
            (&["name  "], "name", false, out),
            (&["name\\ "], "name ", false, out),
            (&["name\\\\ "], "name\\", false, out),
            (&["name\r"], "name", false, out),
            (&["{a,b}"], "a", false, none),
            (&["\u{feff}a"], "a", false, out),
            (&["", "!", "/", "//"], "a", true, none),
            (&["[z-a]", "[", "a\\"], "a", false, none),
        ];
        for (lines, path, is_directory, expected) in table {
            assert_eq!(check(lines, path, is_directory), expected, "{lines:?} on {path}");
        }
    }

    #[test]
    fn the_deciding_pattern_is_told_with_its_place() {
        let mut rules = Rules::default();
        rules.add_file("/a/.shadowvaultignore".into(), b"# one\n\n!/x*/\n");
        let seen = Seen { path: b"/a/xy", name: b"xy", is_directory: true };
        let deciding = rules.decide(seen, [0, 2].into_iter()).unwrap();
        assert_eq!((deciding.pattern().as_str(), deciding.line()), ("!/x*/", 3));
        assert_eq!((deciding.source(), deciding.keeps()), ("/a/.shadowvaultignore", true));
        for (pattern, sound) in [("*.o", true), ("", false), ("!", false), ("a\nb", false), ("[a", false)] {
            assert_eq!(fault(pattern.as_bytes()).is_none(), sound, "{pattern:?}");
        }
    }
}
