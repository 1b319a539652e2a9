//! Backups made while a clock was wrong: which one is the latest, and what the next is compared with.

use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;

use super::fixture::Fixture;
use crate::base::{Clock, Moment, SnapshotId};
use crate::engine::{EngineError, plan_forget, plan_named, resolve};
use crate::policy::Rules;

/// A clock that somebody set, in hours.
struct Set(u64);

impl Clock for Set {
    fn now(&self) -> Moment {
        Moment::from_millis(1_700_000_000_000 + self.0 * 3_600_000)
    }

    fn running(&self) -> Duration {
        Duration::from_secs(self.0)
    }
}

/// A backup at that hour, of a file that no other one has.
fn back_up_at(fixture: &mut Fixture, hour: u64) -> SnapshotId {
    fixture.vault.clock = Arc::new(Set(hour));
    fixture.write("file", format!("made at {hour}").as_bytes());
    fixture.let_the_clock_tick();
    fixture.backup().snapshot
}

fn order(fixture: &Fixture) -> Vec<SnapshotId> {
    fixture.view().snapshots.iter().map(|one| one.id).collect()
}

/// The machine came up in a year to come, and time servers put that right. Until that year the backup was `latest`, and what
/// each one after it was compared with.
#[test]
fn a_backup_made_under_a_clock_that_was_ahead_is_latest_until_the_next_one() {
    let mut fixture = Fixture::new();
    let before = back_up_at(&mut fixture, 1);
    let odd = back_up_at(&mut fixture, 90_000);
    fixture.vault.clock = Arc::new(Set(2));
    assert_eq!(order(&fixture), [before, odd]);
    let after = back_up_at(&mut fixture, 3);
    let last = back_up_at(&mut fixture, 4);
    let view = fixture.view();
    assert_eq!(order(&fixture), [before, odd, after, last]);
    assert_eq!(resolve(&view, "latest").unwrap().id, last);
    assert_eq!(resolve(&view, "latest~2").unwrap().id, odd);
    let parents: Vec<_> = view.snapshots.iter().map(|one| one.parent).collect();
    assert_eq!(parents, [None, Some(before), Some(odd), Some(after)]);
    let ahead: Vec<bool> = view.snapshots.iter().map(|one| view.is_ahead(one)).collect();
    assert_eq!(ahead, [false, true, false, false]);
    // Its date has come, and it is still no newer than those that were made later.
    fixture.vault.clock = Arc::new(Set(90_001));
    let view = fixture.view();
    assert_eq!(order(&fixture), [before, odd, after, last]);
    let refused = plan_named(&fixture.vault, &view, &[last], false, fixture.vault.clock.now());
    assert!(matches!(refused, Err(EngineError::NewestComplete(id)) if id == last), "{refused:?}");
    let rules = Rules { last: 1, ..Rules::default() };
    let plan = plan_forget(&fixture.vault, &view, &rules, fixture.vault.clock.now(), &TimeZone::UTC);
    assert!(plan.keep.iter().any(|(id, _)| *id == last), "{plan:?}");
    assert!(plan.forget.contains(&before), "{plan:?}");
}

/// A machine without a battery for its clock begins long ago.
#[test]
fn a_backup_made_under_a_clock_that_was_behind_is_the_latest() {
    let mut fixture = Fixture::new();
    let first = back_up_at(&mut fixture, 80_000);
    let second = back_up_at(&mut fixture, 80_001);
    let odd = back_up_at(&mut fixture, 0);
    assert_eq!(order(&fixture), [first, second, odd]);
    let view = fixture.view();
    assert!(view.is_ahead(&view.snapshots[0]) && !view.is_ahead(&view.snapshots[2]));
    let last = back_up_at(&mut fixture, 80_002);
    assert_eq!(order(&fixture), [first, second, odd, last]);
    assert_eq!(fixture.view().snapshots[3].parent, Some(odd));
}
