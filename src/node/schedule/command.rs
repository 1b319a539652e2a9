//! Running somebody else's command: bounded in time and output, and told no secret.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use crate::base::limit;

/// A command as an argument list, with what it is told.
pub(super) struct Told<'a> {
    pub(super) arguments: &'a [String],
    pub(super) variables: &'a [(&'static str, String)],
    pub(super) input: Vec<u8>,
    pub(super) life: Duration,
}

/// Variables that hold a passphrase, or lead to one.
const SECRETS: [&str; 4] = [
    "SHADOWVAULT_PASSPHRASE",
    "SHADOWVAULT_PASSPHRASE_FILE",
    "SHADOWVAULT_PASSPHRASE_COMMAND",
    "CREDENTIALS_DIRECTORY",
];

/// Runs a command to its end. When its time is over or `stop` says so it is killed with everything it has started.
///
/// # Errors
/// In words: the program is not there, it failed, it hung. The end of what it wrote to stderr is part of them.
pub(super) async fn run(told: Told<'_>, stop: &CancellationToken) -> Result<(), String> {
    let Some((program, arguments)) = told.arguments.split_first() else { return Ok(()) };
    let mut command = Command::new(program);
    command.args(arguments).envs(told.variables.iter().map(|(name, value)| (name, value)));
    SECRETS.iter().for_each(|name| {
        command.env_remove(name);
    });
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| format!("{program:?} cannot be started: {error}"))?;
    let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let (input, output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feeding = async {
        if let Some(mut input) = input {
            // A command that does not read what it is told may still do what it should.
            input.write_all(&told.input).await.ok();
        }
    };
    let ended = async {
        let (_, _, errors, status) = tokio::join!(feeding, tail_of(output), tail_of(errors), child.wait());
        (errors, status)
    };
    let outcome = tokio::select! {
        ended = ended => Ok(ended),
        () = tokio::time::sleep(told.life) => Err(format!("{program:?} was not through after {} s", told.life.as_secs())),
        () = stop.cancelled() => Err(format!("{program:?} was ended with the node")),
    };
    let (errors, status) = outcome.inspect_err(|_| {
        if let Some(group) = group {
            kill_process_group(group, Signal::KILL).ok();
        }
    })?;
    tracing::debug!(target: "hooks", program, stderr = errors, "ended");
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) if errors.is_empty() => Err(format!("{program:?} failed: {status}")),
        Ok(status) => Err(format!("{program:?} failed: {status}: {errors}")),
        Err(error) => Err(format!("waiting for {program:?}: {error}")),
    }
}

/// The last line or so that comes, however much that is.
async fn tail_of(stream: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut stream) = stream else { return String::new() };
    let (mut tail, mut buffer) = (Vec::new(), [0u8; 1024]);
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        tail.extend_from_slice(&buffer[..read]);
        let surplus = tail.len().saturating_sub(limit::HOOK_OUTPUT_BYTES_MAX);
        tail.drain(..surplus);
    }
    let text = String::from_utf8_lossy(&tail);
    text.lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or_default()
        .trim()
        .chars()
        .take(300)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn shell(script: &str, life: Duration, stop: &CancellationToken) -> Result<(), String> {
        let arguments = ["sh", "-c", script].map(str::to_owned);
        let variables = [("SHADOWVAULT_HOOK", "before".to_owned())];
        let told = Told { arguments: &arguments, variables: &variables, input: b"hello".to_vec(), life };
        run(told, stop).await
    }

    const LONG: Duration = Duration::from_secs(600);

    #[tokio::test]
    async fn a_command_is_told_what_it_may_know_and_its_failure_is_told() {
        let stop = CancellationToken::new();
        let check = "[ \"$(cat)\" = hello ] && [ \"$SHADOWVAULT_HOOK\" = before ] && [ -z \"$SHADOWVAULT_PASSPHRASE\" ]";
        shell(check, LONG, &stop).await.unwrap();
        let error = shell("echo first >&2; echo the reason >&2; exit 3", LONG, &stop).await.unwrap_err();
        assert!(error.contains("exit status: 3") && error.ends_with("the reason"), "{error}");
        shell("head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2", LONG, &stop).await.unwrap();
        let absent = ["/no/such/program".to_owned()];
        let told = Told { arguments: &absent, variables: &[], input: vec![], life: LONG };
        let error = run(told, &stop).await.unwrap_err();
        assert!(error.contains("/no/such/program") && error.contains("cannot be started"), "{error}");
        assert_eq!(
            run(Told { arguments: &[], variables: &[], input: vec![], life: LONG }, &stop).await,
            Ok(())
        );
    }

    #[tokio::test]
    async fn one_that_hangs_is_killed_with_all_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let mark = dir.path().join("pid");
        // The child of the shell is what would be left behind.
        let script = format!("sleep 600 & echo $! > {}; wait", mark.display());
        let stop = CancellationToken::new();
        let error = shell(&script, Duration::from_millis(300), &stop).await.unwrap_err();
        assert!(error.contains("not through"), "{error}");
        let pid: i32 = std::fs::read_to_string(&mark).unwrap().trim().parse().unwrap();
        let gone = || {
            !std::path::Path::new(&format!("/proc/{pid}/cmdline")).exists()
                || std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.is_empty())
        };
        while !gone() {
            tokio::task::yield_now().await;
        }
        stop.cancel();
        let error = shell("sleep 600", LONG, &stop).await.unwrap_err();
        assert!(error.contains("ended with the node"), "{error}");
    }
}
