//! Telling somebody that a task fails, or works again.

use std::sync::Arc;

use serde::Serialize;

use super::board::Ended;
use super::command::{self, Told};
use crate::base::limit;
use crate::node::core::Core;
use crate::policy::Verdict;

/// What is told: no path, no file name.
#[derive(Serialize)]
struct Notice<'a> {
    task: &'a str,
    event: &'static str,
    hostname: String,
    began: &'a str,
    ended: &'a str,
    code: Option<&'a str>,
    message: Option<&'a str>,
    snapshot: Option<&'a str>,
}

/// Tells what followed from a run, if that is news. A notice that does not arrive is logged, no more.
pub(super) async fn tell(core: &Arc<Core>, task: &str, ended: &Ended) {
    let notify = core.settings().notify.clone();
    let event = match ended.verdict {
        Verdict::GivenUp => "failure",
        Verdict::Done if ended.recovered => "recovered",
        Verdict::Done if notify.on_success => "success",
        Verdict::Done | Verdict::Retry(_) => return,
    };
    let last = &ended.last;
    let notice = Notice {
        task,
        event,
        hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        began: &last.began,
        ended: &last.ended,
        code: last.code.as_deref(),
        // The words of an error may name a path; the code and the daemon's own log tell those who may know.
        message: last.message.as_deref().filter(|message| !message.contains('/')),
        snapshot: last.snapshot.as_deref(),
    };
    let text = serde_json::to_vec(&notice).expect("plain data");
    if !notify.command.is_empty() {
        let told = Told {
            arguments: &notify.command,
            variables: &[],
            input: text.clone(),
            life: limit::NOTICE_LIFE,
        };
        if let Err(why) = command::run(told, &core.stop).await {
            tracing::warn!(target: "notify", task, why, "the notification command failed");
        }
    }
    if let Some(url) = notify.webhook {
        post(core, task, url, text).await;
    }
}

async fn post(core: &Arc<Core>, task: &str, url: String, text: Vec<u8>) {
    let mut why = String::new();
    for attempt in 0..limit::WEBHOOK_TRIES {
        if attempt > 0 {
            tokio::select! {
                () = core.stop.cancelled() => return,
                () = tokio::time::sleep(std::time::Duration::from_secs(1 << attempt)) => {}
            }
        }
        let (url, text) = (url.clone(), text.clone());
        let sent = tokio::task::spawn_blocking(move || {
            let agent = ureq::Agent::config_builder()
                .timeout_global(Some(limit::NOTICE_LIFE / 3))
                .build()
                .new_agent();
            agent.post(&url).content_type("application/json").send(&text[..]).map(|_| ())
        });
        match sent.await {
            Ok(Ok(())) => return,
            // Nothing of the URL: it may hold a token.
            Ok(Err(ureq::Error::StatusCode(code))) => why = format!("status {code}"),
            Ok(Err(error)) => why = error.to_string(),
            Err(error) => why = error.to_string(),
        }
    }
    tracing::warn!(target: "notify", task, why, "the webhook was not reached");
}
