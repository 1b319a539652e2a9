//! Which snapshots stay: decided from when they were made, and of what, alone.
//!
//! Invariants, whatever the rules: without a rule everything stays; of each set the newest complete snapshot stays (the
//! newest one when none is complete); a pinned one stays; one that is dated in the future, or from which nearly all files
//! are missing, takes no other's place, and the former stays; more rules never keep less.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use crate::base::{Moment, format_duration};

/// What is to be kept; a snapshot stays when any of the rules keeps it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rules {
    /// The newest so many.
    pub last: u32,
    /// The newest of each of so many hours that have one.
    pub hourly: u32,
    /// The same with days, in local time.
    pub daily: u32,
    /// The same with weeks (ISO 8601).
    pub weekly: u32,
    /// The same with months.
    pub monthly: u32,
    /// The same with years.
    pub yearly: u32,
    /// All that are younger than this.
    pub within: Option<Duration>,
    /// All that carry one of these tags.
    pub tags: Vec<String>,
}

impl Rules {
    /// No rule at all, which keeps everything.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A snapshot as the rules see it. `G` tells which of them are of one set: device, host and paths.
#[derive(Clone, Debug)]
pub struct Candidate<G> {
    /// Its set.
    pub set: G,
    /// When it was made.
    pub time: Moment,
    /// Every file that was chosen could be read.
    pub complete: bool,
    /// Nearly all files of the one before were gone, and nobody meant that: what it has is not what was to be kept.
    pub shrunk: bool,
    /// The user said that it stays.
    pub pinned: bool,
    /// Its tags.
    pub tags: Vec<String>,
}

/// Why a snapshot stays.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reason {
    /// There is no rule.
    NoRule,
    /// It is pinned.
    Pinned,
    /// The newest complete one of its set, or the newest where none is complete.
    NewestComplete,
    /// Its time has not come yet: some clock was wrong.
    Future,
    /// [`Rules::last`].
    Last,
    /// [`Rules::hourly`].
    Hourly,
    /// [`Rules::daily`].
    Daily,
    /// [`Rules::weekly`].
    Weekly,
    /// [`Rules::monthly`].
    Monthly,
    /// [`Rules::yearly`].
    Yearly,
    /// [`Rules::within`].
    Within(Duration),
    /// [`Rules::tags`]: this one.
    Tag(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoRule => "no rule",
            Self::Pinned => "pinned",
            Self::NewestComplete => "newest complete",
            Self::Future => "dated in the future",
            Self::Last => "last",
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
            Self::Within(span) => return write!(f, "within {}", format_duration(*span)),
            Self::Tag(tag) => return write!(f, "tag {tag}"),
        })
    }
}

/// Why each of `candidates` stays, in their order; one without a reason goes. Days and weeks are those of `zone`.
///
/// They come in the order in which they were made, the oldest first. Where their times tell another one, some clock was
/// wrong: then the newest ones by either stay.
pub fn keep<G: Ord>(
    rules: &Rules,
    candidates: &[Candidate<G>],
    now: Moment,
    zone: &TimeZone,
) -> Vec<Vec<Reason>> {
    let mut reasons: Vec<Vec<Reason>> = candidates.iter().map(|one| always(rules, one, now)).collect();
    let mut sets: BTreeMap<&G, Vec<usize>> = BTreeMap::new();
    for (at, one) in candidates.iter().enumerate() {
        sets.entry(&one.set).or_default().push(at);
    }
    for mut set in sets.into_values() {
        set.retain(|at| candidates[*at].time <= now);
        set.reverse();
        let mut by_time = set.clone();
        by_time.sort_by_key(|at| std::cmp::Reverse(candidates[*at].time));
        let is_whole = |at: &usize| !candidates[*at].shrunk;
        let whole = |set: &[usize]| set.iter().copied().filter(is_whole).collect();
        // Those that shrank stay as if they were like others, and the others as if there were none of them.
        let orders: [(Vec<usize>, bool); 4] =
            [(whole(&by_time), true), (whole(&set), false), (by_time, true), (set, false)];
        let mut chosen: Vec<(usize, Reason)> = Vec::new();
        for (set, _) in &orders[..2] {
            let complete = set.iter().find(|at| candidates[**at].complete);
            chosen.extend(complete.map(|at| (*at, Reason::NewestComplete)));
        }
        if chosen.is_empty() {
            let newest = orders.iter().filter_map(|(set, _)| set.first());
            chosen.extend(newest.map(|at| (*at, Reason::NewestComplete)));
        }
        for (set, is_by_time) in &orders {
            chosen.extend(set.iter().take(rules.last as usize).map(|at| (*at, Reason::Last)));
            if *is_by_time {
                chosen.extend(by_calendar(rules, set, |at| local(candidates[at].time, zone)));
            }
        }
        for (at, reason) in chosen {
            if !reasons[at].contains(&reason) {
                reasons[at].push(reason);
            }
        }
    }
    reasons
}

/// What the rules that count days and the like choose from one set, the newest times first.
fn by_calendar(rules: &Rules, set: &[usize], time: impl Fn(usize) -> Zoned) -> Vec<(usize, Reason)> {
    let mut chosen = Vec::new();
    for (count, reason, key) in calendar(rules) {
        let mut spans: Vec<i64> = Vec::new();
        for at in set {
            let span = key(&time(*at));
            // Newest first, so one span's snapshots stand together.
            if spans.last() == Some(&span) {
                continue;
            }
            if spans.len() >= count as usize {
                break;
            }
            spans.push(span);
            chosen.push((*at, reason.clone()));
        }
    }
    chosen
}

/// What keeps a snapshot whatever others there are.
fn always<G>(rules: &Rules, one: &Candidate<G>, now: Moment) -> Vec<Reason> {
    let mut reasons = Vec::new();
    if rules.is_empty() {
        reasons.push(Reason::NoRule);
    }
    if one.pinned {
        reasons.push(Reason::Pinned);
    }
    if one.time > now {
        reasons.push(Reason::Future);
    }
    if let Some(span) = rules.within.filter(|span| now.since(one.time) < *span && one.time <= now) {
        reasons.push(Reason::Within(span));
    }
    reasons.extend(rules.tags.iter().filter(|tag| one.tags.contains(tag)).cloned().map(Reason::Tag));
    reasons
}

/// Numbers one span of the calendar: equal within it, and falling as time goes back.
type Span = fn(&Zoned) -> i64;

fn calendar(rules: &Rules) -> [(u32, Reason, Span); 5] {
    fn day(time: &Zoned) -> i64 {
        i64::from(time.year()) * 400 + i64::from(time.day_of_year())
    }
    [
        (rules.hourly, Reason::Hourly, |time| day(time) * 24 + i64::from(time.hour())),
        (rules.daily, Reason::Daily, day),
        (rules.weekly, Reason::Weekly, |time| {
            let week = time.date().iso_week_date();
            i64::from(week.year()) * 60 + i64::from(week.week())
        }),
        (rules.monthly, Reason::Monthly, |time| i64::from(time.year()) * 12 + i64::from(time.month())),
        (rules.yearly, Reason::Yearly, |time| i64::from(time.year())),
    ]
}

/// A time beyond the calendar's end counts as its end.
fn local(time: Moment, zone: &TimeZone) -> Zoned {
    let millis = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX).to_zoned(zone.clone())
}

/// What the wall clock did since it was last looked at.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum ClockNews {
    /// Nothing odd.
    Steady,
    /// It went back by so much.
    Backwards(Duration),
    /// It went on by so much more than expected.
    Jumped(Duration),
}

/// A clock may be set back by this much: time servers correct by less.
const BACK_MAX: Duration = Duration::from_secs(3600);
/// And be ahead of what was expected by this much.
const AHEAD_MAX: Duration = Duration::from_secs(48 * 3600);

/// Judges a clock that showed `last` when it was looked at before and shows `now`. It is looked at once every `rhythm`;
/// a machine that was off or asleep for longer looks the same as a clock that jumped, and waits for one more look.
pub fn judge_clock(last: Option<Moment>, now: Moment, rhythm: Duration) -> ClockNews {
    let Some(last) = last else { return ClockNews::Steady };
    let (back, ahead) = (last.since(now), now.since(last).saturating_sub(rhythm));
    if back > BACK_MAX {
        ClockNews::Backwards(back)
    } else if ahead > AHEAD_MAX {
        ClockNews::Jumped(ahead)
    } else {
        ClockNews::Steady
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: u64 = 3_600_000;
    /// Sunday, 2023-01-01 12:00 UTC.
    const NOW: u64 = 1_672_574_400_000;

    fn candidate(age_hours: u64) -> Candidate<u8> {
        let time = Moment::from_millis(NOW - age_hours * HOUR);
        Candidate { set: 0, time, complete: true, shrunk: false, pinned: false, tags: Vec::new() }
    }

    /// Of candidates that come newest first.
    fn reasons(rules: &Rules, candidates: &[Candidate<u8>], zone: &TimeZone) -> Vec<Vec<Reason>> {
        let made: Vec<_> = candidates.iter().rev().cloned().collect();
        let mut reasons = keep(rules, &made, Moment::from_millis(NOW), zone);
        reasons.reverse();
        reasons
    }

    fn kept(rules: &Rules, candidates: &[Candidate<u8>]) -> Vec<usize> {
        let reasons = reasons(rules, candidates, &TimeZone::UTC);
        (0..candidates.len()).filter(|at| !reasons[*at].is_empty()).collect()
    }

    fn check(age_hours: &[u64], rules: Rules, expected: &[u64]) {
        let candidates: Vec<_> = age_hours.iter().map(|age| candidate(*age)).collect();
        let found: Vec<u64> = kept(&rules, &candidates).into_iter().map(|at| age_hours[at]).collect();
        assert_eq!(found, expected, "{rules:?}");
    }

    #[test]
    fn each_rule_keeps_the_newest_of_each_of_its_spans() {
        let none = Rules::default;
        let days = |n: u64| n * 24;
        check(&[1, 2, 30], Rules { daily: 2, ..none() }, &[1, 30]);
        check(&[1, 2, 30], none(), &[1, 2, 30]);
        check(&[], Rules { daily: 2, ..none() }, &[]);
        check(&[1, 2, 3, 4], Rules { last: 2, ..none() }, &[1, 2]);
        // Noon: what is half an hour apart may be of one hour; these are not.
        check(&[0, 1, 2], Rules { hourly: 2, ..none() }, &[0, 1]);
        // Days without a snapshot do not count.
        check(&[1, days(10), days(20), days(21)], Rules { daily: 3, ..none() }, &[1, days(10), days(20)]);
        // Sunday is the last day of its week: six days back is its Monday.
        check(&[0, days(6), days(7)], Rules { weekly: 2, ..none() }, &[0, days(7)]);
        // A year ends within a week; January 1st 2023 is of the last week of 2022.
        check(&[0, 13, days(1)], Rules { yearly: 5, ..none() }, &[0, 13]);
        check(&[0, 13, days(40)], Rules { monthly: 2, ..none() }, &[0, 13]);
        let within = Some(Duration::from_secs(86_400));
        check(&[1, 23, 24, 25], Rules { within, ..none() }, &[1, 23]);
        // The newest stays even when no rule wants it.
        check(&[days(50), days(60)], Rules { within, ..none() }, &[days(50)]);
    }

    #[test]
    fn what_must_stay_stays() {
        let rules = Rules { last: 1, tags: vec!["gold".to_owned()], ..Rules::default() };
        let mut list = [1, 2, 3, 4, 5, 6].map(candidate).to_vec();
        list[0].complete = false;
        list[2].tags.push("gold".to_owned());
        list[3].pinned = true;
        list[4].set = 1;
        let mut future = candidate(0);
        future.time = Moment::from_millis(NOW + 1);
        list.push(future);
        // The last one; the newest complete one; tagged; pinned; alone in its set; of the future.
        assert_eq!(kept(&rules, &list), [0, 1, 2, 3, 4, 6]);
        let reasons = reasons(&rules, &list, &TimeZone::UTC);
        let text = |at: usize| reasons[at].iter().map(Reason::to_string).collect::<Vec<_>>().join(", ");
        assert_eq!(
            (text(0), text(2), text(6)),
            ("last".into(), "tag gold".into(), "dated in the future".into())
        );
    }

    /// A mount was missing for three nights: what those backups have must not push out what there was.
    #[test]
    fn snapshots_that_shrank_take_no_other_ones_place() {
        let mut list = [1, 25, 49, 73, 97].map(candidate).to_vec();
        list[..3].iter_mut().for_each(|one| one.shrunk = true);
        assert_eq!(kept(&Rules { last: 1, ..Rules::default() }, &list), [0, 3]);
        assert_eq!(kept(&Rules { last: 2, ..Rules::default() }, &list), [0, 1, 3, 4]);
        assert_eq!(kept(&Rules { daily: 2, ..Rules::default() }, &list), [0, 1, 3, 4]);
        // An older one that is not complete is no stand-in for the newest that is.
        list[3].complete = false;
        assert_eq!(kept(&Rules { last: 1, ..Rules::default() }, &list), [0, 3, 4]);
        list.iter_mut().for_each(|one| one.shrunk = true);
        assert_eq!(kept(&Rules { last: 1, ..Rules::default() }, &list), [0]);
    }

    /// The first was made by a clock two days ahead, whose date has come since: the newest is the last one made.
    #[test]
    fn a_clock_that_was_wrong_pushes_nothing_out() {
        let list = [30, 54, 1, 80].map(candidate);
        assert_eq!(kept(&Rules { last: 1, ..Rules::default() }, &list), [0, 2]);
        assert_eq!(kept(&Rules { yearly: 1, ..Rules::default() }, &list), [0, 2]);
    }

    #[test]
    fn a_set_without_a_complete_snapshot_keeps_its_newest() {
        let mut list = [10, 20].map(candidate).to_vec();
        list.iter_mut().for_each(|one| one.complete = false);
        assert_eq!(kept(&Rules { yearly: 0, within: Some(Duration::ZERO), ..Rules::default() }, &list), [0]);
    }

    /// Days begin at local midnight, also where the clock is changed in between.
    #[test]
    fn days_are_local_days() {
        let zone = TimeZone::get("America/New_York").unwrap_or(TimeZone::fixed(jiff::tz::offset(-5)));
        // 12:00 UTC is 7:00 there: 8 hours ago was the day before.
        let list = [0, 6, 8].map(candidate);
        let reasons = reasons(&Rules { daily: 2, ..Rules::default() }, &list, &zone);
        assert!(!reasons[0].is_empty() && reasons[1].is_empty() && !reasons[2].is_empty());
    }

    #[test]
    fn an_odd_clock_is_noticed() {
        let day = Duration::from_secs(86_400);
        let at = |hours: u64| Moment::from_millis(NOW + hours * HOUR);
        let table = [
            (None, at(0), ClockNews::Steady),
            (Some(at(24)), at(48), ClockNews::Steady),
            (Some(at(1)), at(0), ClockNews::Steady),
            (Some(at(24)), at(0), ClockNews::Backwards(day)),
            (Some(at(0)), at(72), ClockNews::Steady),
            (Some(at(0)), at(73), ClockNews::Jumped(Duration::from_secs(49 * 3600))),
        ];
        for (last, now, expected) in table {
            assert_eq!(judge_clock(last, now, day), expected, "{last:?} {now}");
        }
    }

    fn any_rules() -> impl Strategy<Value = Rules> {
        (prop::array::uniform6(0u32..4), prop::option::of(0u64..2000), any::<bool>()).prop_map(
            |(n, within, tag)| Rules {
                last: n[0],
                hourly: n[1],
                daily: n[2],
                weekly: n[3],
                monthly: n[4],
                yearly: n[5],
                within: within.map(|hours| Duration::from_secs(hours * 3600)),
                tags: if tag { vec!["gold".to_owned()] } else { Vec::new() },
            },
        )
    }

    fn any_candidates() -> impl Strategy<Value = Vec<Candidate<u8>>> {
        let one = (0u8..3, 0u64..20_000, any::<[bool; 2]>(), prop::bool::weighted(0.1), any::<bool>());
        prop::collection::vec(one, 0..40).prop_map(|list| {
            let make = |(set, age, [complete, shrunk], pinned, gold): (u8, u64, [bool; 2], bool, bool)| {
                let tags = if gold { vec!["gold".to_owned()] } else { Vec::new() };
                Candidate { set, complete, shrunk, pinned, tags, ..candidate(age) }
            };
            list.into_iter().map(make).collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn newest_complete_and_pinned_stay_and_a_second_run_forgets_nothing(rules in any_rules(), list in any_candidates()) {
            let survivors = kept(&rules, &list);
            for set in 0..3u8 {
                let of_set = |at: &&usize| list[**at].set == set;
                let all: Vec<usize> = (0..list.len()).collect();
                let whole = |at: &&usize| list[**at].complete && !list[**at].shrunk;
                let newest = all.iter().filter(of_set).filter(whole).map(|at| list[*at].time).max();
                let kept_newest =
                    survivors.iter().filter(of_set).filter(whole).map(|at| list[*at].time).max();
                prop_assert_eq!(newest, kept_newest);
                prop_assert_eq!(all.iter().any(|at| of_set(&at)), survivors.iter().any(|at| of_set(&at)));
            }
            prop_assert!((0..list.len()).all(|at| !list[at].pinned || survivors.contains(&at)));
            let left: Vec<_> = survivors.iter().map(|at| list[*at].clone()).collect();
            prop_assert_eq!(kept(&rules, &left).len(), left.len());
        }

        #[test]
        fn one_more_rule_never_keeps_less(rules in any_rules(), more in any_rules(), list in any_candidates()) {
            prop_assume!(!rules.is_empty());
            let both = Rules {
                last: rules.last.max(more.last),
                hourly: rules.hourly.max(more.hourly),
                daily: rules.daily.max(more.daily),
                weekly: rules.weekly.max(more.weekly),
                monthly: rules.monthly.max(more.monthly),
                yearly: rules.yearly.max(more.yearly),
                within: rules.within.max(more.within),
                tags: if rules.tags.is_empty() { more.tags.clone() } else { rules.tags.clone() },
            };
            let (few, many) = (kept(&rules, &list), kept(&both, &list));
            prop_assert!(few.iter().all(|at| many.contains(at)));
        }
    }
}
