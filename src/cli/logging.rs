//! Where log lines go and which: of a command that ends, and of the daemon, whose levels can change while it runs.

use std::io::{self, IsTerminal};

use tracing::Subscriber;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use super::args::Globals;
use super::output;
use crate::config::{LogFormat, Monitoring};

/// Libraries whose details are of use to their authors only.
const QUIET_TARGETS: &str = "libp2p=warn,multistream_select=warn,yamux=warn,quinn=warn,netlink=warn,hickory=warn,hyper=warn,libp2p_kad=error";

/// Logging of a command that ends: warnings, more with `-v`.
pub(super) fn for_command(globals: &Globals) {
    let level = match (globals.quiet, globals.verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "info",
        (false, _) => "debug",
    };
    let filter = EnvFilter::new(format!("{level},{QUIET_TARGETS}"));
    // A second subscriber (tests run many commands in one process) changes nothing.
    let lines = text(io::stderr, io::stderr().is_terminal());
    tracing_subscriber::registry().with(lines.with_filter(filter)).try_init().ok();
}

/// The daemon's log; tells it other levels when the configuration changes.
pub(super) struct Levels {
    verbose: u8,
    handle: reload::Handle<EnvFilter, Registry>,
}

impl Levels {
    /// Starts the daemon's log on stderr.
    pub(super) fn start(monitoring: &Monitoring, verbose: u8) -> Self {
        let (filter, handle) = reload::Layer::new(filter(monitoring, verbose));
        let lines = match monitoring.log_format {
            LogFormat::Json => fmt::layer().with_writer(io::stderr).json().flatten_event(true).boxed(),
            LogFormat::Text => text(io::stderr, io::stderr().is_terminal()).boxed(),
        };
        tracing_subscriber::registry().with(lines.with_filter(filter)).try_init().ok();
        Self { verbose, handle }
    }

    /// Writes lines of these levels from now on.
    pub(super) fn set(&self, monitoring: &Monitoring) {
        // An error means that the log has ended, and with it everything it could be told.
        self.handle.reload(filter(monitoring, self.verbose)).ok();
    }
}

/// `-v` outranks the configured level; levels of single targets outrank both.
fn filter(monitoring: &Monitoring, verbose: u8) -> EnvFilter {
    let level = match verbose {
        0 => monitoring.log_level.name(),
        1 => "debug",
        _ => "trace",
    };
    let mut directives = vec![level.to_owned(), QUIET_TARGETS.to_owned()];
    directives.extend(monitoring.log_filter.iter().cloned());
    EnvFilter::new(directives.join(","))
}

/// Lines for people. What others wrote (names, reasons) cannot break out of its line or colour the terminal.
fn text<S, W>(writer: W, colours: bool) -> impl Layer<S>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let fields = fmt::format::debug_fn(|writer, field, value| {
        let value = format!("{value:?}");
        let shown = output::escape(&value);
        match field.name() {
            "message" => write!(writer, "{shown}"),
            name => write!(writer, "{name}={shown}"),
        }
    });
    fmt::layer().with_writer(writer).with_ansi(colours).fmt_fields(fields.delimited(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_others_wrote_stays_on_its_line_and_colours_nothing() {
        let kept = Kept::default();
        let writer = kept.clone();
        let log = tracing_subscriber::registry().with(text(move || writer.clone(), false));
        tracing::subscriber::with_default(log, || {
            let span = tracing::info_span!("job", id = 7, name = "a\nb");
            let _inside = span.enter();
            tracing::warn!(target: "peers", reason = %"no\n2026 ERROR fake\u{1b}[31m", name = "x\ry", "refused");
        });
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(!text.contains('\u{1b}') && !text.contains('\r'), "{text:?}");
        for part in ["WARN", "peers", "refused", "reason=no\\n2026 ERROR fake\\u{1b}[31m", "id=7"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn single_targets_outrank_the_level_and_verbosity_outranks_both_configured_ones() {
        let mut monitoring = crate::config::Settings::default().monitoring;
        monitoring.log_filter = vec!["jobs=trace".to_owned(), "net=off".to_owned()];
        let shown = filter(&monitoring, 0).to_string();
        for part in ["info", "jobs=trace", "net=off", "libp2p=warn"] {
            assert!(shown.split(',').any(|directive| directive == part), "{part} in {shown}");
        }
        assert!(filter(&monitoring, 1).to_string().split(',').any(|directive| directive == "debug"));
    }
}
