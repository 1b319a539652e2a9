//! What people and programs read: text without hostile characters, tables, colours, JSON, errors.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;

use serde::Serialize;
use serde_json::{Value, json};

use super::args::{Colour, Globals};
use crate::api::ApiError;
use crate::base::Code;

/// How this command speaks.
pub(super) struct Output {
    /// JSON on stdout.
    pub json: bool,
    /// No progress, no remarks.
    pub quiet: bool,
    /// Colours for stdout.
    pub paint: Paint,
    /// Why a result could not be written.
    lost: OnceLock<io::Error>,
}

impl Output {
    pub fn new(globals: &Globals) -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let colour = match globals.color {
            Colour::Always => true,
            Colour::Never => false,
            Colour::Auto => wanted && io::stdout().is_terminal(),
        };
        Self {
            json: globals.json,
            quiet: globals.quiet,
            paint: Paint(colour && !globals.json),
            lost: OnceLock::new(),
        }
    }

    /// One that says little.
    #[cfg(test)]
    pub const fn silent() -> Self {
        Self { json: false, quiet: true, paint: Paint(false), lost: OnceLock::new() }
    }

    /// A result: as JSON, or as the text that `render` makes of it.
    pub fn show<T: Serialize + ?Sized>(&self, value: &T, render: impl FnOnce(&T, Paint) -> String) {
        if self.json {
            self.document(value);
        } else {
            self.text(&render(value, self.paint));
        }
    }

    /// Text on stdout. That it cannot be written is told at the [end](Output::end).
    pub fn text(&self, text: &str) {
        self.write(text.as_bytes()).ok();
    }

    /// A piece of a result on stdout.
    ///
    /// # Errors
    /// It cannot be written; whoever has more to write stops.
    pub fn write(&self, bytes: &[u8]) -> Result<(), ApiError> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| {
            let told = unwritten(&error);
            self.lost.set(error).ok();
            told
        })
    }

    /// Whether a result could not be written: nobody reads what else there is.
    pub fn is_lost(&self) -> bool {
        self.lost.get().is_some()
    }

    /// Tells how the command ended; its exit code. A result that did not get out is a failure; a reader that went away
    /// knows that itself.
    pub fn end(&self, result: Result<u8, ApiError>) -> u8 {
        let is_all = |code: &u8| *code == 0;
        let is_writing = |error: &ApiError| error.kind() == Code::IoFailed;
        let lost = self.lost.get().filter(|_| result.as_ref().map_or_else(is_writing, is_all));
        let error = match (result, lost) {
            (_, Some(lost)) if lost.kind() == io::ErrorKind::BrokenPipe => return CLOSED_PIPE,
            (_, Some(lost)) => unwritten(lost),
            (Ok(code), None) => return code,
            (Err(error), None) => error,
        };
        let exit = error.kind().exit();
        self.failure(&error, exit);
        exit
    }

    /// One line of JSON on stdout.
    pub fn document<T: Serialize + ?Sized>(&self, value: &T) {
        let line = serde_json::to_string(value).expect("results are plain data with text keys");
        self.text(&(line + "\n"));
    }

    /// A remark on stderr.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            self.stderr(text);
        }
    }

    /// Something the reader should look at, on stderr.
    pub fn warn(&self, text: &str) {
        self.stderr(&format!("warning: {text}"));
    }

    /// How a failed command ends: for programs one JSON line, for people what happened and what helps.
    pub fn failure(&self, error: &ApiError, exit: u8) {
        if self.json {
            self.stderr(&exit_error(error, exit).to_string());
            return;
        }
        self.stderr(&format!("error: {}", escape_lines(&error.message)));
        if let Some(hint) = &error.hint {
            self.stderr(&format!("hint: {}", escape_lines(hint)));
        }
    }

    fn stderr(&self, line: &str) {
        // Where stderr is closed there is no one to tell.
        writeln!(io::stderr().lock(), "{line}").ok();
    }
}

/// What a shell reports of a program that SIGPIPE ended.
pub(super) const CLOSED_PIPE: u8 = 141;

pub(super) fn unwritten(error: &io::Error) -> ApiError {
    ApiError::new(Code::IoFailed, format!("the result cannot be written: {error}"))
}

/// A JSON array on stdout, item by item.
pub(super) struct Array<'a> {
    output: &'a Output,
    bytes: Vec<u8>,
    is_empty: bool,
}

impl<'a> Array<'a> {
    /// One that is begun with its first item.
    pub fn new(output: &'a Output) -> Self {
        Self { output, bytes: Vec::new(), is_empty: true }
    }

    /// Whether nothing was added yet.
    pub fn is_empty(&self) -> bool {
        self.is_empty
    }

    /// Adds items and writes them.
    pub fn add<T: Serialize>(&mut self, items: &[T]) -> Result<(), ApiError> {
        for item in items {
            self.bytes.push(if std::mem::take(&mut self.is_empty) { b'[' } else { b',' });
            serde_json::to_writer(&mut self.bytes, item).expect("results are plain data with text keys");
        }
        self.output.write(&self.bytes)?;
        self.bytes.clear();
        Ok(())
    }

    /// Closes it; `after` follows.
    pub fn end(self, after: &str) -> Result<(), ApiError> {
        let open = if self.is_empty { "[" } else { "" };
        self.output.write(format!("{open}]{after}").as_bytes())
    }
}

/// The last line of a failed command, for programs.
pub(super) fn exit_error(error: &ApiError, exit: u8) -> Value {
    json!({ "message_type": "exit_error", "code": error.code, "exit": exit, "message": error.message,
        "hint": error.hint })
}

/// Colours, when they are on.
#[derive(Copy, Clone)]
pub(super) struct Paint(pub bool);

impl Paint {
    fn with(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub fn good(self, text: &str) -> String {
        self.with("32", text)
    }

    pub fn warning(self, text: &str) -> String {
        self.with("33", text)
    }

    pub fn bad(self, text: &str) -> String {
        self.with("31", text)
    }

    pub fn bold(self, text: &str) -> String {
        self.with("1", text)
    }
}

/// Whether a terminal may act on this character instead of showing it: control codes, and Unicode's invisible
/// marks that reorder text.
fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Text that others chose, safe for a terminal and on one line.
pub(super) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hostile) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_hostile(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// The same for a text of several lines.
pub(super) fn escape_lines(text: &str) -> String {
    text.lines().map(escape).collect::<Vec<_>>().join("\n")
}

/// Rows in aligned columns.
pub(super) struct Table {
    heads: &'static [&'static str],
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these heads; a column whose head begins with `>` is aligned right.
    pub fn new(heads: &'static [&'static str]) -> Self {
        Self { heads, rows: Vec::new() }
    }

    /// Adds a row of as many cells as there are heads; they are escaped here.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.heads.len());
        self.rows.push(cells.iter().map(|cell| escape(cell).into_owned()).collect());
    }

    /// The lines, heads first.
    pub fn render(&self, paint: Paint) -> String {
        let plain = |head: &&str| head.trim_start_matches('>').to_owned();
        let heads: Vec<String> = self.heads.iter().map(plain).collect();
        let width = |column: usize| {
            let cells = self.rows.iter().chain([&heads]).filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..heads.len()).map(width).collect();
        let line = |row: &Vec<String>| {
            let mut line = String::new();
            for ((cell, width), head) in row.iter().zip(&widths).zip(self.heads) {
                let right = head.starts_with('>');
                if right { write!(line, "{cell:>width$}  ") } else { write!(line, "{cell:<width$}  ") }
                    .expect("writing to a string works");
            }
            line.trim_end().to_owned()
        };
        let mut text = paint.bold(&line(&heads)) + "\n";
        for row in &self.rows {
            text += &(line(row) + "\n");
        }
        text
    }
}

/// An RFC 3339 moment in this machine's time zone, to the second; as it is when it is none.
pub(super) fn local_time(rfc3339: &str) -> String {
    in_zone(rfc3339, jiff::tz::TimeZone::system())
}

fn in_zone(rfc3339: &str, zone: jiff::tz::TimeZone) -> String {
    match rfc3339.parse::<jiff::Timestamp>() {
        Ok(moment) => moment.to_zoned(zone).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => escape(rfc3339).into_owned(),
    }
}

/// `1 file`, `3 files`.
pub(super) fn count(n: u64, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") }
}

/// Seconds as people say them: `4.2s`, `3m 5s`, `2h 10m`, `3d 4h`.
pub(super) fn span(seconds: f64) -> String {
    let whole = if seconds.is_finite() && seconds > 0.0 { seconds as u64 } else { 0 };
    match whole {
        0..60 => format!("{:.1}s", seconds.clamp(0.0, 60.0)),
        60..3600 => format!("{}m {}s", whole / 60, whole % 60),
        3600..86_400 => format!("{}h {}m", whole / 3600, whole % 3600 / 60),
        _ => format!("{}d {}h", whole / 86_400, whole % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_characters_are_shown_and_not_obeyed() {
        let table = [
            ("plain ünï 文", "plain ünï 文"),
            ("a\x1b[2Jb", "a\\u{1b}[2Jb"),
            ("line\nbreak\r\t", "line\\nbreak\\r\\t"),
            ("txt.\u{202e}exe", "txt.\\u{202e}exe"),
            ("\u{9b}31m\u{7f}", "\\u{9b}31m\\u{7f}"),
        ];
        for (text, shown) in table {
            assert_eq!(escape(text), shown);
        }
        assert_eq!(escape_lines("one\ntwo\x07"), "one\ntwo\\u{7}");
    }

    #[test]
    fn failures_for_programs_have_the_contracts_fields() {
        let error = ApiError::new(crate::base::Code::ChunkNotFound, "gone").with_hint("look");
        let expected = json!({ "message_type": "exit_error", "code": "CHUNK_NOT_FOUND", "exit": 5,
            "message": "gone", "hint": "look" });
        assert_eq!(exit_error(&error, error.kind().exit()), expected);
    }

    #[test]
    fn table_aligns_columns_and_escapes_cells() {
        let mut table = Table::new(&["NAME", ">SIZE"]);
        table.row(["a\x1bb".into(), "5".into()]);
        table.row(["long name here".into(), "12345".into()]);
        let lines = "NAME             SIZE\na\\u{1b}b            5\nlong name here  12345\n";
        assert_eq!(table.render(Paint(false)), lines);
    }

    #[test]
    fn times_and_spans_read_well() {
        let zone = jiff::tz::TimeZone::fixed(jiff::tz::offset(2));
        assert_eq!(in_zone("2026-11-22T22:30:15.123Z", zone.clone()), "2026-11-23 00:30:15");
        assert_eq!(in_zone("yester\x1bday", zone), "yester\\u{1b}day");
        let table = [(0.0, "0.0s"), (4.25, "4.2s"), (185.0, "3m 5s"), (7800.0, "2h 10m"), (3e5, "3d 11h")];
        for (seconds, shown) in table {
            assert_eq!(span(seconds), shown);
        }
        assert_eq!(span(f64::NAN).len(), 4);
        assert_eq!((count(1, "file"), count(0, "file")), ("1 file".into(), "0 files".into()));
    }
}
