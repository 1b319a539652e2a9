//! `backup --explain`: why a path would be in a backup, or not.

use std::fmt::Write as _;

use super::output::{Paint, escape};
use super::session::{Keys, Session};
use crate::api::{ApiError, ExplainReport, ExplainRequest};
use crate::node::Mode;

pub(super) async fn explain(request: ExplainRequest, session: &Session<'_>) -> Result<u8, ApiError> {
    let handle = session.open(Keys::Unneeded, Mode::Offline).await?;
    let result = handle.service().explain(request).await;
    let report = handle.close(result).await?;
    session.output.show(&report, render_explained);
    Ok(0)
}

fn render_explained(report: &ExplainReport, paint: Paint) -> String {
    let path = report.path.to_string_lossy();
    let verdict = match report.included {
        true => paint.good("included"),
        false => paint.warning("left out"),
    };
    let mut text = format!("{verdict}: {}\n  {}\n", escape(&path), escape(&reason(report)));
    if let Some(rule) = &report.contents_left_out {
        let why =
            if rule == "one-file-system" { "another file system is mounted there" } else { "it is marked" };
        writeln!(text, "  what lies in it is left out: {why}").expect("writing to a string works");
    }
    text
}

/// Why, as a sentence.
fn reason(report: &ExplainReport) -> String {
    let detail = report.detail.as_deref().unwrap_or_default();
    let at = report.at.to_string_lossy();
    let it = if report.at == report.path { "it".into() } else { at.clone() };
    match report.rule.as_str() {
        "asked" => "it was asked for by name, which no rule outweighs".to_owned(),
        "above" => "it leads to a path that was asked for; nothing else of it is taken".to_owned(),
        "no-rule" => "no rule is against it".to_owned(),
        "pattern" => {
            let (source, line) = (report.source.as_deref().unwrap_or_default(), report.line.unwrap_or(0));
            let number = if source.starts_with("--") { "number" } else { "line" };
            let pattern = format!("the pattern {detail} ({source}, {number} {line})");
            if report.included {
                format!("{pattern} keeps {it}")
            } else {
                format!("{pattern} leaves {it} out")
            }
        }
        "if-present" => format!("{at} has a file {detail}, so its contents are left out"),
        "larger-than" => format!("it has more than {detail} bytes (--exclude-larger-than)"),
        "one-file-system" => format!("another file system is mounted on {at} (--one-file-system)"),
        "store" => format!("{it} is this node's own data"),
        "outside" => "it lies in none of the backed-up paths".to_owned(),
        _ => format!("{it} cannot be read: {detail}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn explanations_read_well() {
        let report = ExplainReport {
            path: "/a/b\x1b".into(),
            rule: "pattern".into(),
            at: "/a".into(),
            detail: Some("a/".into()),
            source: Some("--exclude".into()),
            line: Some(2),
            ..ExplainReport::default()
        };
        let expected = "left out: /a/b\\u{1b}\n  the pattern a/ (--exclude, number 2) leaves /a out\n";
        assert_eq!(render_explained(&report, Paint(false)), expected);
    }
}
