//! `config` and `version`.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::output::{Paint, escape};
use super::session::Session;
use crate::api::{ApiError, Reloaded, Service};
use crate::config::{self, Effective, Origin};

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    /// Check file and environment
    Validate,
    /// Show what is set
    Show(Show),
    /// Show a JSON Schema of the configuration file
    Schema,
    /// Have the daemon read the configuration again
    Reload,
}

#[derive(Args, Default)]
struct Show {
    /// All keys, defaults included
    #[arg(long)]
    effective: bool,
    /// Where each value comes from
    #[arg(long)]
    origin: bool,
}

pub(super) async fn run(args: ConfigArgs, session: &Session<'_>) -> Result<u8, ApiError> {
    match args.verb.unwrap_or(Verb::Show(Show::default())) {
        Verb::Validate => {
            let loaded = session.load()?;
            let file = loaded.file.as_ref().map(|path| path.to_string_lossy().into_owned());
            session.output.show(&json!({ "valid": true, "file": file }), |_, paint| {
                let what = file.as_deref().map_or("no file; defaults and environment".into(), escape);
                format!("{}: {what}\n", paint.good("valid"))
            });
        }
        Verb::Show(show) => {
            let mut rows = session.load()?.effective();
            rows.retain(|row| show.effective || row.origin != Origin::Default);
            session.output.show(&document(&rows), |_, paint| render(&rows, show.origin, paint));
        }
        Verb::Reload => {
            let done = session.daemon().await?.reload().await?;
            session.output.show(&done, reloaded);
        }
        Verb::Schema => session.output.text(&format!("{:#}\n", config::schema())),
    }
    Ok(0)
}

pub(super) fn version(session: &Session<'_>) -> Result<u8, ApiError> {
    let version = env!("CARGO_PKG_VERSION");
    session.output.show(&json!({ "version": version }), |_, _| format!("shadowvault {version}\n"));
    Ok(0)
}

fn reloaded(done: &Reloaded, paint: Paint) -> String {
    let mut text = match done.changed.as_slice() {
        [] => "nothing changed that counts at once\n".to_owned(),
        keys => format!("{}: {}\n", paint.good("in force"), keys.join(", ")),
    };
    if !done.restart.is_empty() {
        text += &format!("counts after a restart of the daemon: {}\n", done.restart.join(", "));
    }
    text
}

fn document(rows: &[Effective]) -> Value {
    let one =
        |row: &Effective| (row.key.clone(), json!({ "value": row.value, "origin": row.origin.to_string() }));
    Value::Object(rows.iter().map(one).collect::<Map<_, _>>())
}

fn render(rows: &[Effective], origin: bool, paint: Paint) -> String {
    if rows.is_empty() {
        return "nothing is set; `shadowvault config show --effective` shows the defaults\n".to_owned();
    }
    let width = rows.iter().map(|row| row.key.len() + row.value.chars().count() + 2).max().unwrap_or(0);
    let line = |row: &Effective| {
        let value = escape(&row.value);
        let filled = row.key.len() + value.chars().count() + 2;
        let from = match origin {
            true => {
                format!("{:1$}  # {2}", "", width.saturating_sub(filled), escape(&row.origin.to_string()))
            }
            false => String::new(),
        };
        format!("{}: {value}{from}\n", paint.bold(&row.key))
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_with_their_origins() {
        let row = |key: &str, value: &str, origin| Effective { key: key.into(), value: value.into(), origin };
        let rows = [
            row("listen_port", "9001", Origin::Environment("SHADOWVAULT_LISTEN_PORT".into())),
            row("p2p.max_peers", "5", Origin::Default),
        ];
        let expected =
            "listen_port: 9001  # environment SHADOWVAULT_LISTEN_PORT\np2p.max_peers: 5   # default\n";
        assert_eq!(render(&rows, true, Paint(false)), expected);
        assert_eq!(render(&rows, false, Paint(false)), "listen_port: 9001\np2p.max_peers: 5\n");
        assert_eq!(document(&rows)["p2p.max_peers"]["origin"], "default");
    }
}
