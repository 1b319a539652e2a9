//! The output of a command on its way to a backup, and how the command ended.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, OnceLock};

use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::api::ApiError;
use crate::base::Code;

/// What a command writes. Its end counts only when the command ended well: else reading fails, so that nothing takes what came
/// of it for the whole.
pub(super) struct Output {
    child: Child,
    pipe: ChildStdout,
    name: String,
    failure: Arc<OnceLock<String>>,
}

/// Knows how the command ended, and ends it when this is dropped, if it still runs: nobody reads any more.
pub(super) struct Leash {
    process: Option<OwnedFd>,
    failure: Arc<OnceLock<String>>,
}

impl Leash {
    /// What went wrong with the command, once its output was read to the end.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        if let Some(process) = &self.process {
            // One that has ended does not hear it.
            let _ = pidfd_send_signal(process, Signal::TERM);
        }
    }
}

impl Output {
    /// Starts a command; the first word names the program. It has this process's input, errors and rights.
    ///
    /// # Errors
    /// [`Code::IoFailed`] when it cannot be started.
    pub(super) fn of(words: &[OsString]) -> Result<(Self, Leash), ApiError> {
        let (program, arguments) = words.split_first().ok_or_else(|| {
            ApiError::new(Code::UsageInvalid, "--stdin-from-command needs a command")
                .with_hint("shadowvault backup --stdin-from-command -- pg_dump mydb")
        })?;
        let name = program.to_string_lossy().into_owned();
        let failed =
            |error: io::Error| ApiError::new(Code::IoFailed, format!("{name} cannot be started: {error}"));
        let mut child =
            Command::new(program).args(arguments).stdout(Stdio::piped()).spawn().map_err(failed)?;
        let pipe = child.stdout.take().ok_or_else(|| failed(io::Error::other("it has no output")))?;
        let process = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let process = process.and_then(|process| pidfd_open(process, PidfdFlags::empty()).ok());
        let failure = Arc::<OnceLock<String>>::default();
        let leash = Leash { process, failure: failure.clone() };
        Ok((Self { child, pipe, name: name.clone(), failure }, leash))
    }
}

impl Read for Output {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.pipe.read(buffer)? {
            0 if !buffer.is_empty() => {
                let status = self.child.wait()?;
                if status.success() {
                    return Ok(0);
                }
                let failure = self.failure.get_or_init(|| ended(&self.name, status));
                Err(io::Error::other(failure.clone()))
            }
            read => Ok(read),
        }
    }
}

fn ended(name: &str, status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("{name} ended with exit code {code}"),
        (None, Some(signal)) => format!("{name} was ended by signal {signal}"),
        (None, None) => format!("{name} did not end well"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(script: &str) -> (String, Result<(), String>) {
        let words = ["sh", "-c", script].map(OsString::from);
        let (mut output, leash) = Output::of(&words).unwrap();
        let mut text = String::new();
        let read = output.read_to_string(&mut text);
        let read = read.map(drop).map_err(|error| error.to_string());
        assert_eq!(leash.failure(), read.as_ref().err().map(String::as_str));
        (text, read)
    }

    #[test]
    fn the_end_of_an_output_counts_when_its_command_ended_well() {
        assert_eq!(output("printf whole"), ("whole".to_owned(), Ok(())));
        for (script, why) in [
            ("printf part; exit 3", "sh ended with exit code 3"),
            ("printf part; exec >&-; kill -9 $$", "sh was ended by signal 9"),
        ] {
            assert_eq!(output(script).1, Err(why.to_owned()), "{script}");
        }
        let none = Output::of(&[OsString::from("/nowhere/at all")]).map(drop).unwrap_err();
        assert!(none.message.starts_with("/nowhere/at all cannot be started"), "{}", none.message);
    }

    #[test]
    fn a_command_that_nobody_reads_any_more_ends() {
        let words = ["sleep", "1000"].map(OsString::from);
        let (mut output, leash) = Output::of(&words).unwrap();
        drop(leash);
        assert!(output.read(&mut [0; 8]).unwrap_err().to_string().contains("signal 15"));
    }
}
