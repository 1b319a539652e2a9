//! `init`: the node, its vault, the phrase shown once, a configuration file.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::output::{Output, Paint};
use super::passphrase;
use super::peers::describe;
use super::session::Session;
use crate::api::ApiError;
use crate::base::{ByteSize, Code};
use crate::config::{self, Environment, Loaded, Overrides, Settings};
use crate::crypto::Phrase;
use crate::node::{self, InitRequest};

#[derive(Args)]
pub(super) struct InitArgs {
    /// No vault: only store for others (needs no passphrase)
    #[arg(long, conflicts_with_all = ["phrase_out", "from_phrase"])]
    storage_only: bool,
    /// Write the recovery phrase to this new file instead of showing it
    #[arg(long, value_name = "FILE", conflicts_with = "from_phrase")]
    phrase_out: Option<PathBuf>,
    /// Make the vault of this phrase instead of a new one; - reads stdin
    #[arg(long, value_name = "FILE")]
    from_phrase: Option<PathBuf>,
    /// Disk space to lend to peers, such as 100GiB
    #[arg(long, value_name = "SIZE")]
    lend: Option<ByteSize>,
}

pub(super) async fn run(args: InitArgs, session: &Session<'_>) -> Result<u8, ApiError> {
    let loaded = load_for_setup(session)?;
    node::check_free(&loaded.settings, "init")?;
    let given = match &args.from_phrase {
        Some(path) => Some(read_phrase(path, session.output)?),
        None => None,
    };
    let passphrase = match args.storage_only {
        true => None,
        false => Some(session.passphrases().fresh()?.into_passphrase()),
    };
    // Before the vault is made: a phrase that cannot be kept is a vault that cannot be recovered.
    let mut phrase_file =
        args.phrase_out.as_deref().map(|path| PhraseFile::create(path, &loaded.settings)).transpose()?;
    let kept_before = phrase_file.as_mut().and_then(|file| file.phrase.take());
    let is_in_file = kept_before.is_some();
    let request = InitRequest {
        command: "init",
        storage_only: args.storage_only,
        phrase: given.or(kept_before),
        passphrase,
        device_name: device_name(),
    };
    let mut settings = loaded.settings.clone();
    if let Some(lend) = args.lend {
        settings.replication.lend = lend.0;
    }
    let made = tokio::task::spawn_blocking(move || node::init(&settings, request)).await;
    let made = match made.unwrap_or_else(|_| Err(ApiError::new(Code::Internal, "making the node panicked"))) {
        Ok(made) => made,
        Err(error) => {
            if let Some(file) = phrase_file.filter(|_| !is_in_file) {
                file.discard();
            }
            return Err(error);
        }
    };
    if made.is_anew && made.phrase.is_some() {
        session.output.warn(
            "an earlier `init` was cut off here: the node is made anew, and a phrase that was shown then is of no use",
        );
    }
    // The phrase comes first of all, and the node is whole only once it is handed over: nothing that goes wrong may leave a
    // vault whose words nobody has.
    let words = made.phrase.as_ref().map(Phrase::words);
    let kept = match (&words, phrase_file) {
        (Some(words), Some(file)) => match file.write(words) {
            Ok(path) => Some(path),
            Err(error) => {
                session
                    .output
                    .warn(&format!("the phrase could not be written ({error}); it is shown instead"));
                None
            }
        },
        (None, Some(file)) if is_in_file => Some(file.path),
        (None, Some(file)) => {
            file.discard();
            None
        }
        (_, None) => None,
    };
    let shown = words.as_ref().filter(|_| kept.is_none());
    if let Some(words) = shown.filter(|_| !session.output.json) {
        session.output.text(&render_phrase(words, session.output.paint));
    }
    let config = write_config(session, &loaded, args.lend);
    if session.output.json {
        let mut document = serde_json::to_value(&made.identity).expect("an identity is plain data");
        document["repository_path"] = text(&absolute(&loaded.settings.repository_path));
        document["config"] = config.as_deref().map_or(Value::Null, text);
        document["phrase_file"] = kept.as_deref().map_or(Value::Null, text);
        document["phrase"] = shown.map_or(Value::Null, |words| json!(words.as_str()));
        session.output.document(&document);
    } else {
        session.output.text(&describe(&made.identity));
    }
    let finished = tokio::task::spawn_blocking(move || made.finish()).await;
    finished.unwrap_or_else(|_| Err(ApiError::new(Code::Internal, "making the node panicked")))?;
    if !session.output.json {
        if let Some(path) = &kept {
            session
                .output
                .note(&format!("recovery phrase written to {}; keep it off this machine", path.display()));
        }
        session.output.note(
            "next: `shadowvault daemon` runs the node, then `shadowvault invite` makes a ticket for a peer",
        );
    }
    Ok(0)
}

/// Settings for a machine that may have none yet: a file named by `-c` need not exist, it will be written.
pub(super) fn load_for_setup(session: &Session<'_>) -> Result<Loaded, ApiError> {
    let absent = session.globals.config.as_ref().is_some_and(|path| !path.exists());
    let overrides = match absent {
        true => Overrides { config: Some("/dev/null".into()), ..session.overrides() },
        false => session.overrides(),
    };
    let mut loaded =
        config::load(&overrides, &Environment::of_process()).map_err(|error| ApiError::from(&error))?;
    if absent {
        loaded.file = None;
    }
    Ok(loaded)
}

/// Writes the commented configuration where the next command will find it; where it is then, if anywhere.
///
/// A file that exists stays as it is. The node is made already, so what goes wrong here is a warning.
pub(super) fn write_config(
    session: &Session<'_>,
    loaded: &Loaded,
    lend: Option<ByteSize>,
) -> Option<PathBuf> {
    let output = session.output;
    let place = session.globals.config.clone().or_else(|| config::user_file(&Environment::of_process()));
    let existing = loaded.file.clone().or_else(|| place.clone().filter(|path| path.exists()));
    if let Some(path) = existing {
        let shown = path.display();
        output.note(&format!("the configuration in {shown} is kept as it is"));
        if let Some(lend) = lend.filter(|lend| lend.0 != loaded.settings.replication.lend) {
            output.warn(&format!(
                "set `lend: {}` below `replication:` in {shown}; --lend does not change it",
                lend.0
            ));
        }
        let repository = loaded.effective().into_iter().find(|row| row.key == "repository_path");
        if let Some(row) = repository.filter(|row| matches!(row.origin, config::Origin::Flag(_))) {
            output
                .note(&format!("give --repo {} to later commands, or set repository_path there", row.value));
        }
        return Some(path);
    }
    let Some(path) = place else {
        output.warn("no configuration was written: neither XDG_CONFIG_HOME nor HOME is set; use -c FILE");
        return None;
    };
    // Only what this command decided: a variable's value of today need not hold tomorrow.
    let mut settings =
        Settings { repository_path: absolute(&loaded.settings.repository_path), ..Settings::default() };
    settings.replication.lend = lend.map_or(settings.replication.lend, |lend| lend.0);
    match write_private(&path, config::example(&settings).as_bytes()) {
        Ok(()) => {
            output.note(&format!("configuration written to {}", path.display()));
            Some(path)
        }
        Err(error) => {
            output.warn(&format!("the configuration could not be written to {}: {error}", path.display()));
            None
        }
    }
}

/// Reads a recovery phrase from a file, or from stdin for `-`.
pub(super) fn read_phrase(path: &Path, output: &Output) -> Result<Phrase, ApiError> {
    let origin = format!("the recovery phrase in {}", path.display());
    let failed = |error: io::Error| ApiError::new(Code::InvalidKey, format!("reading {origin}: {error}"));
    let text = if path == Path::new("-") {
        passphrase::read(io::stdin().lock(), "the recovery phrase on stdin")
    } else {
        passphrase::read(passphrase::open_secret(path, output).map_err(failed)?, &origin)
    };
    let text = text.map_err(|error| ApiError::new(Code::InvalidKey, error.message))?;
    Phrase::parse(&Zeroizing::new(text.into_text())).map_err(|error| ApiError::from(&error))
}

/// This machine's name, for the device's certificate.
pub(super) fn device_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = name.trim().chars().filter(|c| !c.is_control()).take(64).collect();
    if name.is_empty() { "device".to_owned() } else { name }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn text(path: &Path) -> Value {
    path.to_string_lossy().into()
}

/// A new file that only its owner can read, in directories that are made for the owner only.
fn create_private(path: &Path) -> io::Result<File> {
    make_parents(path)?;
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

fn make_parents(path: &Path) -> io::Result<()> {
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => DirBuilder::new().recursive(true).mode(0o700).create(parent),
        None => Ok(()),
    }
}

/// Such a file with all of its content, or none: half a configuration would keep every later command from beginning.
fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    make_parents(path)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let draft = path.with_file_name(name);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(content).and_then(|()| file.sync_all())?;
    fs::rename(draft, path)
}

/// The file that `--phrase-out` names, made before there is a phrase.
struct PhraseFile {
    path: PathBuf,
    file: File,
    /// What an `init` that was cut off wrote into it.
    phrase: Option<Phrase>,
}

impl PhraseFile {
    /// A new file, or what an earlier `init` with these settings left of it.
    fn create(path: &Path, settings: &Settings) -> Result<Self, ApiError> {
        let failed = |error: io::Error| {
            ApiError::new(
                Code::of_refused_write(&error),
                format!("creating the phrase file {}: {error}", path.display()),
            )
        };
        match create_private(path) {
            Ok(file) => Ok(Self { path: path.to_owned(), file, phrase: None }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Self::left_at(path, settings)
                .ok_or_else(|| failed(error).with_hint("it is never overwritten; name a new file")),
            Err(error) => Err(failed(error)),
        }
    }

    fn left_at(path: &Path, settings: &Settings) -> Option<Self> {
        let file = OpenOptions::new().write(true).open(path).ok()?;
        let metadata = file.metadata().ok().filter(fs::Metadata::is_file)?;
        let phrase = match metadata.len() {
            0 => {
                file.set_permissions(fs::Permissions::from_mode(0o600)).ok()?;
                None
            }
            _ => {
                let text = passphrase::read(File::open(path).ok()?, "the recovery phrase").ok()?;
                let phrase = Phrase::parse(&Zeroizing::new(text.into_text())).ok()?;
                Some(phrase).filter(|phrase| node::is_begun_with(settings, phrase)).map(Some)?
            }
        };
        Some(Self { path: path.to_owned(), file, phrase })
    }

    /// Writes the words durably.
    fn write(mut self, words: &str) -> io::Result<PathBuf> {
        self.file.write_all(format!("{words}\n").as_bytes())?;
        self.file.sync_all()?;
        Ok(self.path)
    }

    /// Removes the file, which is empty still.
    fn discard(self) {
        fs::remove_file(&self.path).ok();
    }
}

/// The words in six numbered rows of four, with what to do about them.
fn render_phrase(words: &str, paint: Paint) -> Zeroizing<String> {
    let head =
        paint.bold("Recovery phrase: write these 24 words on paper now. They are shown only this once.");
    let mut text = Zeroizing::new(format!("\n{head}\n\n"));
    let words: Vec<&str> = words.split_whitespace().collect();
    for (row, four) in words.chunks(4).enumerate() {
        for (column, word) in four.iter().enumerate() {
            text.push_str(&format!("  {:>2}. {word:<9}", row * 4 + column + 1));
        }
        while text.ends_with(' ') {
            text.pop();
        }
        text.push('\n');
    }
    text.push_str(
        "\nWith them and one peer everything comes back after this machine is lost; without them nothing does.\n\
         Whoever reads them can read every backup.\n\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phrase_is_shown_in_six_numbered_rows() {
        let words: Vec<String> = (1..=24).map(|n| format!("word{n}")).collect();
        let text = render_phrase(&words.join(" "), Paint(false));
        let rows: Vec<&str> = text.lines().filter(|line| line.contains("word")).skip(1).collect();
        assert_eq!(rows.len(), 6);
        assert_eq!(rows[0], "   1. word1       2. word2       3. word3       4. word4");
        assert!(rows[5].ends_with("24. word24"));
    }

    #[test]
    fn phrase_file_is_private_and_never_overwrites() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/phrase");
        let settings = Settings { repository_path: directory.path().join("repo"), ..Settings::default() };
        PhraseFile::create(&path, &settings).unwrap().write("a b c").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "a b c\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(PhraseFile::create(&path, &settings).err().unwrap().hint.is_some());
        assert_eq!(fs::read_to_string(&path).unwrap(), "a b c\n");
        // One that is empty was made by an `init` that was killed; there is nothing to overwrite.
        fs::write(&path, "").unwrap();
        PhraseFile::create(&path, &settings).unwrap().write("d e f").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "d e f\n");
        // So is one with the phrase of the very vault that is half made.
        let phrase = Phrase::generate();
        fs::write(&path, phrase.words().as_str()).unwrap();
        assert!(PhraseFile::create(&path, &settings).is_err());
        let request = InitRequest {
            command: "init",
            storage_only: false,
            phrase: Some(Phrase::parse(&phrase.words()).unwrap()),
            passphrase: Some(crate::crypto::Passphrase::new("pass".to_owned())),
            device_name: "desk".to_owned(),
        };
        drop(node::init(&settings, request).unwrap());
        let left = PhraseFile::create(&path, &settings).unwrap();
        assert_eq!(left.phrase.unwrap().words().as_str(), phrase.words().as_str());
    }

    #[test]
    fn wrong_phrases_are_refused_with_exit_12() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("phrase");
        let output = Output::silent();
        for text in ["", "one two three", "\u{0}"] {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            assert_eq!(read_phrase(&path, &output).err().unwrap().kind().exit(), 12, "{text:?}");
        }
        fs::write(&path, Phrase::generate().words().as_str()).unwrap();
        assert!(read_phrase(&path, &output).is_ok());
    }
}
