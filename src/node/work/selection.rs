//! What a backup's request takes and leaves out, with what its set says, and why.

use std::sync::Arc;

use crate::api::{ApiError, BackupRequest, ExplainReport, ExplainRequest, PatternLines};
use crate::base::{Code, host_fault, limit, tag_fault};
use crate::config::Hooks;
use crate::fs::{self, Exclusions, Ground, PatternList, Why};
use crate::node::core::Core;
use crate::node::error::failed;

/// Adds what the request's set says; its hooks.
pub(super) fn expand(core: &Core, request: &mut BackupRequest) -> Result<Hooks, ApiError> {
    let Some(id) = request.set.take() else { return Ok(Hooks::default()) };
    let settings = core.settings();
    let set = settings.backup_sets.iter().find(|set| set.id == id).ok_or_else(|| {
        let known: Vec<&str> = settings.backup_sets.iter().map(|set| set.id.as_str()).collect();
        let hint = match known.as_slice() {
            [] => "backup_sets in the configuration has none".to_owned(),
            known => format!("there are {}", known.join(", ")),
        };
        ApiError::new(Code::UsageInvalid, format!("there is no backup set {id:?}")).with_hint(hint)
    })?;
    request.paths.extend(set.paths.iter().cloned());
    let patterns = PatternLines { name: format!("backup set {id}"), lines: set.exclude.clone() };
    // Lists that the command brings decide before those of the set.
    request.exclude_lists.insert(0, patterns);
    request.exclude_if_present.extend(set.exclude_if_present.iter().cloned());
    request.exclude_caches |= set.exclude_caches;
    request.exclude_larger_than = request.exclude_larger_than.or(set.exclude_larger_than);
    request.one_file_system |= set.one_file_system;
    request.min_files = request.min_files.max(set.min_files);
    request.allow_shrink |= set.allow_shrink;
    let tags: Vec<String> = set.tags.iter().filter(|tag| !request.tags.contains(tag)).cloned().collect();
    request.tags.extend(tags);
    Ok(set.hooks.clone())
}

/// Refuses what makes no sense together, and labels that are none.
pub(super) fn check(request: &BackupRequest) -> Result<(), ApiError> {
    let refused = |text: String| Err(ApiError::new(Code::UsageInvalid, text));
    if request.stdin_filename.is_some() && (!request.paths.is_empty() || request.dry_run) {
        return refused("an input is backed up by itself: without paths, set or dry run".to_owned());
    }
    if request.stdin_filename.is_none() && request.paths.is_empty() {
        return refused("nothing to back up: no path was given".to_owned());
    }
    if request.list && !request.dry_run {
        return refused("list has no meaning without dry_run".to_owned());
    }
    if request.tags.len() > limit::TAGS_MAX {
        return refused(format!("a snapshot has at most {} tags", limit::TAGS_MAX));
    }
    let tags = request.tags.iter().map(|tag| ("tag", tag, tag_fault(tag)));
    let host = request.host.iter().map(|host| ("host name", host, host_fault(host)));
    match tags.chain(host).find_map(|(what, text, fault)| Some((what, text, fault?))) {
        Some((what, text, fault)) => refused(format!("{text:?} is no {what}: {fault}")),
        None => Ok(()),
    }
}

/// What the request leaves out.
pub(super) fn exclusions(request: &BackupRequest) -> Exclusions {
    let list = |list: &PatternLines| PatternList { name: list.name.clone(), lines: list.lines.clone() };
    Exclusions {
        patterns: request.exclude.clone(),
        any_case: request.iexclude.clone(),
        lists: request.exclude_lists.iter().map(list).collect(),
        if_present: request.exclude_if_present.clone(),
        caches: request.exclude_caches,
        larger_than: request.exclude_larger_than,
    }
}

/// Tells what a backup would do with one path, and why. Needs no keys. Blocking.
pub(in crate::node) fn explain(core: &Arc<Core>, request: ExplainRequest) -> Result<ExplainReport, ApiError> {
    let ExplainRequest { path, mut backup } = request;
    expand(core, &mut backup)?;
    check(&backup)?;
    if !path.is_absolute() {
        let text = format!("{} is not an absolute path", path.display());
        return Err(ApiError::new(Code::UsageInvalid, text));
    }
    let skip = [core.store.dir().to_owned()];
    let told = fs::explain(&backup.paths, &exclusions(&backup), backup.one_file_system, &skip, &path)
        .map_err(failed)?;
    let mut report = ExplainReport { path, included: told.included, at: told.at, ..ExplainReport::default() };
    report.contents_left_out = told.contents.map(|why| rule(&why).to_owned());
    report.rule = rule(&told.why).to_owned();
    match told.why {
        Why::Ruled(Ground::Pattern { pattern, source, line }) => {
            (report.detail, report.source, report.line) = (Some(pattern), Some(source), Some(line));
        }
        Why::Ruled(Ground::Marker(name)) => report.detail = Some(name),
        Why::Ruled(Ground::LargerThan(bytes)) => report.detail = Some(bytes.to_string()),
        Why::Unreadable(reason) => report.detail = Some(reason),
        _ => {}
    }
    Ok(report)
}

fn rule(why: &Why) -> &'static str {
    match why {
        Why::Asked => "asked",
        Why::Above => "above",
        Why::NoRule => "no-rule",
        Why::Ruled(Ground::Pattern { .. }) => "pattern",
        Why::Ruled(Ground::Marker(_)) => "if-present",
        Why::Ruled(Ground::LargerThan(_)) => "larger-than",
        Why::OtherFileSystem => "one-file-system",
        Why::Store => "store",
        Why::Outside => "outside",
        Why::Unreadable(_) => "unreadable",
    }
}
