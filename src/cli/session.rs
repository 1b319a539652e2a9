//! What one command has at hand: arguments, settings, output, and a node near or far.

use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::args::Globals;
use super::output::Output;
use super::passphrase::{self, Sources};
use crate::api::{ApiError, Service};
use crate::base::Code;
use crate::config::{self, Environment, Loaded, Overrides};
use crate::http::Client;
use crate::node::{self, Loader, Mode, Node};

/// How often a mistyped passphrase may be typed again.
const TRIES_MAX: u32 = 3;

/// Whether a command needs the vault's keys.
#[derive(Copy, Clone, PartialEq, Eq)]
pub(super) enum Keys {
    /// It does, if the node has a vault.
    Needed,
    /// It does not.
    Unneeded,
}

/// One command's surroundings.
pub(super) struct Session<'a> {
    pub globals: Globals,
    pub output: &'a Output,
}

impl<'a> Session<'a> {
    pub fn new(globals: Globals, output: &'a Output) -> Self {
        Self { globals, output }
    }

    pub fn overrides(&self) -> Overrides {
        Overrides { repo: self.globals.repo.clone(), config: self.globals.config.clone() }
    }

    /// Settings from flags, environment and file.
    pub fn load(&self) -> Result<Loaded, ApiError> {
        let loaded = config::load(&self.overrides(), &Environment::of_process());
        let loaded = loaded.map_err(|error| ApiError::from(&error))?;
        if rustix::process::geteuid().is_root() && loaded.is_default("repository_path") {
            belongs_to_root(&loaded.settings.repository_path)?;
        }
        Ok(loaded)
    }

    /// Reads the settings again, as they are then.
    pub fn loader(&self) -> Loader {
        let overrides = self.overrides();
        Arc::new(move || config::load(&overrides, &Environment::of_process()))
    }

    /// Asks a person at a terminal; `--yes` is a yes. `None` where there is nobody to ask.
    pub fn agreed(&self, question: &str) -> Result<Option<bool>, ApiError> {
        if self.globals.yes {
            return Ok(Some(true));
        }
        if self.globals.no_input || !io::stdin().is_terminal() {
            return Ok(None);
        }
        write!(io::stderr(), "{question} [y/N] ").ok();
        let mut answer = String::new();
        io::stdin()
            .read_line(&mut answer)
            .map_err(|error| ApiError::new(Code::IoFailed, format!("reading the answer: {error}")))?;
        Ok(Some(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")))
    }

    pub fn passphrases(&self) -> Sources<'_> {
        Sources::new(&self.globals, self.output)
    }

    /// Where the daemon listens: `--socket`, else where the settings put it.
    pub fn socket(&self, settings: &config::Settings) -> PathBuf {
        self.globals.socket.clone().unwrap_or_else(|| node::control_socket(settings))
    }

    /// The daemon, for commands that make no sense without one.
    pub async fn daemon(&self) -> Result<Client, ApiError> {
        // An explicit socket needs no configuration.
        let socket = match &self.globals.socket {
            Some(socket) => socket.clone(),
            None => self.socket(&self.load()?.settings),
        };
        Client::connect(&socket).await
    }

    /// The daemon if it answers, else this machine's node, opened for one command.
    pub async fn open(&self, keys: Keys, mode: Mode) -> Result<Handle, ApiError> {
        let settings = self.load()?.settings;
        match Client::connect(&self.socket(&settings)).await {
            Ok(client) => Ok(Handle::Daemon(client)),
            Err(error) if error.kind() == Code::DaemonUnreachable => {
                self.open_here(settings, keys, mode).await.map(Handle::Here)
            }
            Err(error) => Err(error),
        }
    }

    /// Opens the node in this process. Asks for a passphrase only once it is clear that there is a vault.
    pub async fn open_here(
        &self,
        settings: config::Settings,
        keys: Keys,
        mode: Mode,
    ) -> Result<Arc<Node>, ApiError> {
        let given = match keys {
            Keys::Needed => self.passphrases().given()?,
            Keys::Unneeded => None,
        };
        let ask = keys == Keys::Needed && given.is_none();
        let node = Node::open(settings, given.map(passphrase::Text::into_passphrase), mode).await?;
        if ask && let Err(error) = self.unlock_by_prompt(&*node).await {
            node.shutdown().await.ok();
            return Err(error);
        }
        Ok(node)
    }

    /// Asks until the passphrase fits; does nothing on a node without a vault.
    pub async fn unlock_by_prompt(&self, node: &dyn Service) -> Result<(), ApiError> {
        if node.identity().await?.vault_id.is_none() {
            return Ok(());
        }
        let mut tries = 1;
        loop {
            let typed = self.passphrases().ask("Passphrase: ")?;
            match node.unlock(typed.into_text()).await {
                Err(error) if error.kind() == Code::WrongPassphrase && tries < TRIES_MAX => {
                    self.output.note("wrong passphrase, try again");
                    tries += 1;
                }
                result => return result,
            }
        }
    }
}

/// A data directory that root did not name is root's own, or is not used: where root happens to be, others may have put one.
fn belongs_to_root(path: &Path) -> Result<(), ApiError> {
    match std::fs::symlink_metadata(path) {
        Ok(there) if there.uid() != 0 => {
            let text = format!("{} belongs to another user", path.display());
            Err(ApiError::new(Code::PermissionDenied, text)
                .with_hint("name the data directory with --repo, if it is meant"))
        }
        // What is not there is said by whoever wants it.
        _ => Ok(()),
    }
}

/// The node that answers this command.
pub(super) enum Handle {
    /// The running daemon.
    Daemon(Client),
    /// A node in this process.
    Here(Arc<Node>),
}

impl Handle {
    pub fn service(&self) -> &dyn Service {
        match self {
            Self::Daemon(client) => client,
            Self::Here(node) => &**node,
        }
    }

    /// Ends what was opened for this command, and hands `result` on; its error comes before one of closing.
    pub async fn close<T>(self, result: Result<T, ApiError>) -> Result<T, ApiError> {
        match self {
            Self::Daemon(_) => result,
            Self::Here(node) => {
                let closed = node.shutdown().await;
                let value = result?;
                closed.map(|()| value)
            }
        }
    }
}
