//! Where a passphrase comes from. Never from an argument's value, which every local user can read.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use zeroize::Zeroizing;

use super::args::Globals;
use super::output::Output;
use crate::api::ApiError;
use crate::base::{Code, limit};
use crate::crypto::Passphrase;

const VARIABLE: &str = "SHADOWVAULT_PASSPHRASE";
const FILE_VARIABLE: &str = "SHADOWVAULT_PASSPHRASE_FILE";
const CREDENTIAL: &str = "shadowvault.passphrase";
const SOURCES: &str = "give it with --passphrase-file, --passphrase-command, SHADOWVAULT_PASSPHRASE_FILE, \
    SHADOWVAULT_PASSPHRASE, $CREDENTIALS_DIRECTORY/shadowvault.passphrase, or at the prompt (without --no-input)";

/// A passphrase as text, wiped when dropped.
pub(super) struct Text(Zeroizing<String>);

impl Text {
    /// Drops line ends (files and commands have one); refuses nothing at all.
    fn new(mut text: Zeroizing<String>, origin: &str) -> Result<Self, ApiError> {
        while text.ends_with(['\n', '\r']) {
            text.pop();
        }
        if text.is_empty() {
            return Err(wrong(format!("the passphrase from {origin} is empty")));
        }
        Ok(Self(text))
    }

    pub fn into_passphrase(self) -> Passphrase {
        Passphrase::new(self.into_text())
    }

    /// For a call that takes it as text; the receiver wipes it.
    pub fn into_text(mut self) -> String {
        std::mem::take(&mut *self.0)
    }
}

/// The sources, in their order.
pub(super) struct Sources<'a> {
    globals: &'a Globals,
    output: &'a Output,
    environment: fn(&str) -> Option<OsString>,
}

impl<'a> Sources<'a> {
    pub fn new(globals: &'a Globals, output: &'a Output) -> Self {
        Self { globals, output, environment: |name| std::env::var_os(name) }
    }

    /// From flags, environment or systemd's credentials; `None` when none of them names one.
    pub fn given(&self) -> Result<Option<Text>, ApiError> {
        let variable = |name| (self.environment)(name).filter(|value| !value.is_empty());
        if let Some(path) = &self.globals.passphrase_file {
            return self.read_file(path).map(Some);
        }
        if let Some(command) = &self.globals.passphrase_command {
            return run_command(command).map(Some);
        }
        if let Some(path) = variable(FILE_VARIABLE) {
            return self.read_file(Path::new(&path)).map(Some);
        }
        if let Some(value) = variable(VARIABLE) {
            let text = value.into_string().map_err(|_| wrong(format!("{VARIABLE} is not UTF-8")))?;
            return Text::new(Zeroizing::new(text), VARIABLE).map(Some);
        }
        let credential = variable("CREDENTIALS_DIRECTORY").map(|dir| PathBuf::from(dir).join(CREDENTIAL));
        match credential {
            Some(path) if path.exists() => self.read_file(&path).map(Some),
            _ => Ok(None),
        }
    }

    /// The passphrase of a vault that exists.
    pub fn existing(&self) -> Result<Text, ApiError> {
        match self.given()? {
            Some(text) => Ok(text),
            None => self.ask("Passphrase: "),
        }
    }

    /// A passphrase for a new vault or device; asked for twice.
    pub fn fresh(&self) -> Result<Text, ApiError> {
        if let Some(text) = self.given()? {
            return Ok(text);
        }
        let text = self.ask("New passphrase: ")?;
        if *self.ask("Once more: ")?.0 == *text.0 {
            Ok(text)
        } else {
            Err(wrong("the two passphrases differ".into()).with_hint("start again"))
        }
    }

    /// Asks on the terminal, without showing what is typed.
    pub fn ask(&self, prompt: &str) -> Result<Text, ApiError> {
        if self.globals.no_input {
            return Err(missing());
        }
        let typed = rpassword::prompt_password(prompt).map_err(|_| missing())?;
        Text::new(Zeroizing::new(typed), "the prompt")
    }

    fn read_file(&self, path: &Path) -> Result<Text, ApiError> {
        let origin = format!("file {}", path.display());
        let file =
            open_secret(path, self.output).map_err(|error| wrong(format!("reading {origin}: {error}")))?;
        read(file, &origin)
    }
}

/// Opens a file that holds a secret; warns when others can read it.
pub(super) fn open_secret(path: &Path, output: &Output) -> io::Result<File> {
    let file = File::open(path)?;
    let there = file.metadata()?;
    if there.is_file() && there.mode() & 0o077 != 0 {
        let shown = path.display();
        output.warn(&format!("others can read {shown}, which holds a secret; run `chmod 600 {shown}`"));
    }
    Ok(file)
}

/// Reads a short secret text.
pub(super) fn read(source: impl Read, origin: &str) -> Result<Text, ApiError> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(limit::PASSPHRASE_BYTES_MAX + 1));
    source
        .take(limit::PASSPHRASE_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| wrong(format!("reading {origin}: {error}")))?;
    if bytes.len() > limit::PASSPHRASE_BYTES_MAX {
        return Err(wrong(format!("{origin} is longer than {} bytes", limit::PASSPHRASE_BYTES_MAX)));
    }
    match String::from_utf8(std::mem::take(&mut *bytes)) {
        Ok(text) => Text::new(Zeroizing::new(text), origin),
        Err(error) => {
            drop(Zeroizing::new(error.into_bytes()));
            Err(wrong(format!("{origin} is not UTF-8")))
        }
    }
}

fn run_command(command: &OsStr) -> Result<Text, ApiError> {
    let failed = |what: String| wrong(format!("the passphrase command {what}"));
    let mut child = Command::new("sh")
        .arg("-c")
        .arg(command)
        .env_remove(VARIABLE)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| failed(format!("cannot be started: {error}")))?;
    let stdout = child.stdout.take().expect("stdout was asked for");
    let text = read(stdout, "the passphrase command");
    if text.is_err() {
        // It may be waiting to write the rest; it failed anyway when this fails.
        child.kill().ok();
    }
    let status = child.wait().map_err(|error| failed(format!("cannot be waited for: {error}")))?;
    if text.is_ok() && !status.success() {
        return Err(failed(format!("failed ({status})")));
    }
    text
}

fn wrong(message: String) -> ApiError {
    ApiError::new(Code::WrongPassphrase, message)
}

/// No source gave one.
pub(super) fn missing() -> ApiError {
    wrong("a passphrase is needed and none was given".into()).with_hint(SOURCES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    static QUIET: Output = Output::silent();

    fn given(
        globals: Globals,
        environment: fn(&str) -> Option<OsString>,
    ) -> Result<Option<String>, ApiError> {
        let globals = Globals { no_input: true, ..globals };
        let sources = Sources { globals: &globals, output: &QUIET, environment };
        Ok(sources.given()?.map(Text::into_text))
    }

    #[test]
    fn sources_are_asked_in_their_order() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        std::fs::write(&path, "from file\r\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let file = Globals { passphrase_file: Some(path), ..Globals::default() };
        let command = Globals { passphrase_command: Some("echo from command".into()), ..Globals::default() };
        let all = |name: &str| match name {
            VARIABLE => Some("from variable".into()),
            _ => None,
        };
        assert_eq!(given(file.clone(), all), Ok(Some("from file".into())));
        assert_eq!(given(command, all), Ok(Some("from command".into())));
        assert_eq!(given(Globals::default(), all), Ok(Some("from variable".into())));
        assert_eq!(given(Globals::default(), |_| Some(OsString::new())), Ok(None));
        let named = |name: &str| (name == FILE_VARIABLE).then(|| "/dev/null/absent".into());
        assert_eq!(given(Globals::default(), named).unwrap_err().kind(), Code::WrongPassphrase);
        assert_eq!(given(file, named), Ok(Some("from file".into())));
    }

    #[test]
    fn an_absent_passphrase_names_the_sources() {
        let globals = Globals { no_input: true, ..Globals::default() };
        let sources = Sources { globals: &globals, output: &QUIET, environment: |_| None };
        for result in [sources.existing(), sources.fresh()] {
            let error = result.err().unwrap();
            assert_eq!((error.kind(), error.kind().exit()), (Code::WrongPassphrase, 12));
            assert!(error.hint.unwrap().contains("--passphrase-file"));
        }
    }

    #[test]
    fn useless_passphrases_are_refused() {
        let refused = |bytes: &[u8]| read(bytes, "x").err().unwrap().message;
        assert!(refused(b"\n").contains("empty"));
        assert!(refused(b"\xff\xfe").contains("UTF-8"));
        assert!(refused(&vec![b'a'; limit::PASSPHRASE_BYTES_MAX + 1]).contains("longer"));
        assert_eq!(read(&b"two\nlines\n"[..], "x").ok().unwrap().into_text(), "two\nlines");
    }

    #[test]
    fn commands_that_fail_or_never_end_writing_give_nothing() {
        for command in ["echo secret; exit 3", "yes", "true", "exit 7"] {
            let error = run_command(OsStr::new(command)).err().unwrap();
            assert_eq!(error.kind(), Code::WrongPassphrase, "{command}");
        }
    }
}
