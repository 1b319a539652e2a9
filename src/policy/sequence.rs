//! What was made one after the other, put beside what others made, where some clock was wrong.

use crate::base::Moment;

/// When things were made that were made one after the other, as far as what the clock showed can be believed: a time that
/// fits the others stays, one that does not, or that is later than `latest`, becomes that of the next one that does.
///
/// Never falls from one to the next. Where none that fits follows, it is the one before; without any, the first moment.
pub fn believed(times: &[Moment], latest: Moment) -> Vec<Moment> {
    let fits = longest_rise(times, latest);
    let mut found = vec![None; times.len()];
    let mut next = None;
    for at in (0..times.len()).rev() {
        next = if fits[at] { Some(times[at]) } else { next };
        found[at] = next;
    }
    let mut last = Moment::from_millis(0);
    let mut settle = |time: Option<Moment>| {
        last = time.unwrap_or(last);
        last
    };
    found.into_iter().map(&mut settle).collect()
}

/// Which of them make up the longest sequence that never falls, the latest one of several.
fn longest_rise(times: &[Moment], latest: Moment) -> Vec<bool> {
    // Where the best sequence of each length ends, and what stands before each in its sequence.
    let (mut ends, mut before): (Vec<usize>, Vec<Option<usize>>) = (Vec::new(), vec![None; times.len()]);
    for (at, time) in times.iter().enumerate().filter(|(_, time)| **time <= latest) {
        let length = ends.partition_point(|end| times[*end] <= *time);
        before[at] = length.checked_sub(1).map(|shorter| ends[shorter]);
        ends.truncate(ends.len().max(length));
        match ends.get_mut(length) {
            Some(end) => *end = at,
            None => ends.push(at),
        }
    }
    let mut fits = vec![false; times.len()];
    let mut at = ends.last().copied();
    while let Some(one) = at {
        fits[one] = true;
        at = before[one];
    }
    fits
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(times: &[u64], latest: u64, expected: &[u64]) {
        let moments: Vec<Moment> = times.iter().copied().map(Moment::from_millis).collect();
        let found = believed(&moments, Moment::from_millis(latest));
        assert_eq!(found.iter().map(|time| time.as_millis()).collect::<Vec<_>>(), expected, "{times:?}");
    }

    #[test]
    fn a_time_that_does_not_fit_the_others_becomes_that_of_the_next() {
        check(&[], 100, &[]);
        check(&[1, 2, 2, 3], 100, &[1, 2, 2, 3]);
        // A clock that was ahead, once and for some time.
        check(&[1, 90, 3, 4], 100, &[1, 3, 3, 4]);
        check(&[90, 91, 92, 3, 4, 5, 6], 100, &[3, 3, 3, 3, 4, 5, 6]);
        check(&[90, 3], 100, &[3, 3]);
        // One that was behind: nothing before it is drawn there.
        check(&[5, 6, 0, 7], 100, &[5, 6, 7, 7]);
        check(&[5, 6, 0], 100, &[5, 6, 6]);
        // What is still to come fits nothing, also when nothing follows.
        check(&[5, 6, 900], 100, &[5, 6, 6]);
        check(&[900, 901], 100, &[0, 0]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn the_order_is_that_in_which_they_were_made_and_right_clocks_are_believed(times in prop::collection::vec(0u64..50, 0..30)) {
            let moments: Vec<Moment> = times.iter().copied().map(Moment::from_millis).collect();
            let found = believed(&moments, Moment::from_millis(40));
            prop_assert!(found.is_sorted());
            let mut right = moments;
            right.retain(|time| time.as_millis() <= 40);
            right.sort_unstable();
            prop_assert_eq!(believed(&right, Moment::from_millis(40)), right);
        }
    }
}
