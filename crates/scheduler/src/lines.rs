//! Which lines the outbox looks at now, and which it leaves alone for a while: those with nothing to go out, and those that
//! fail.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use robata_core::{job::Line, part::jittered};
use tokio::time::Instant;

/// A line that was looked at in vain so often, one time after another, is left alone for so long: with a full window every
/// enqueue hints it, at every master. Once alone means nothing: a claim hints its line, too.
const VAIN: (u32, Duration) = (3, Duration::from_millis(20));
/// A line that failed is left alone for so long, whatever is hinted.
const REST: Duration = Duration::from_secs(2);
/// The same for one that goes on failing while others are served.
const LONGEST_REST: Duration = Duration::from_secs(60);

/// A line's failures since something went out into it.
#[derive(Debug)]
struct Failed {
    /// How long it rests, but for jitter.
    rest: Duration,
    until: Instant,
    /// How often any line had been served by then.
    served: u64,
}

/// The lines, and how each stands.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    /// To look at.
    dirty: BTreeSet<Line>,
    /// Those that had nothing to go out, or no room: how often in a row, and when last.
    vain: HashMap<Line, (u32, Instant)>,
    failed: HashMap<Line, Failed>,
    /// How often something went out into any of them.
    served: u64,
}

impl Lines {
    /// There may be something to go out.
    pub(crate) fn hint(&mut self, line: Line) {
        self.dirty.insert(line);
    }

    /// The lines to look at now, and when the first of those that rest may be.
    pub(crate) fn take(&mut self) -> (Vec<Line>, Option<Instant>) {
        let mut first: Option<Instant> = None;
        let mut look = Vec::new();
        let now = Instant::now();
        for line in std::mem::take(&mut self.dirty) {
            match self.rest(&line).filter(|until| *until > now) {
                None => look.push(line),
                Some(until) => {
                    first = Some(first.map_or(until, |first| first.min(until)));
                    self.dirty.insert(line);
                }
            }
        }
        (look, first)
    }

    /// When its rest is over, or was.
    fn rest(&self, line: &Line) -> Option<Instant> {
        let (often, rest) = VAIN;
        let vain = self.vain.get(line).filter(|(times, _)| *times >= often);
        let vain = vain.map(|(_, last)| *last + rest);
        vain.max(self.failed.get(line).map(|failed| failed.until))
    }

    /// Whether it failed, and is left alone for that now.
    pub(crate) fn rests(&self, line: &Line) -> bool {
        let failed = self.failed.get(line);
        failed.is_some_and(|failed| failed.until > Instant::now())
    }

    /// Whether a look at the line found something to go out.
    pub(crate) fn looked(&mut self, line: &Line, found: bool) {
        if found {
            self.vain.remove(line);
        } else {
            let (times, last) = self.vain.entry(line.clone()).or_insert((0, Instant::now()));
            (*times, *last) = (times.saturating_add(1), Instant::now());
        }
    }

    /// Something went out into it: whatever it failed at is over.
    pub(crate) fn served(&mut self, line: &Line) {
        self.failed.remove(line);
        self.served = self.served.wrapping_add(1);
    }

    /// It failed, and rests; answers for how long. One that hangs keeps all others waiting for as long as it is waited for
    /// itself, so its rest doubles. But only where another was served since it failed last: then the fault is its own. Where
    /// none was, the broker may be away, and with it every line: their rests stay as they are, short, and all of them go out
    /// soon after it is back, however long it was away.
    pub(crate) fn failed(&mut self, line: &Line) -> Duration {
        let rest = match self.failed.get(line) {
            None => REST,
            Some(before) if before.served == self.served => before.rest,
            Some(before) => (before.rest * 2).min(LONGEST_REST),
        };
        let now = jittered(rest);
        let failed = Failed {
            rest,
            until: Instant::now() + now,
            served: self.served,
        };
        self.failed.insert(line.clone(), failed);
        now
    }

    /// Forgets how those stand that have nothing queued.
    pub(crate) fn retain(&mut self, is_there: impl Fn(&Line) -> bool) {
        self.vain.retain(|line, _| is_there(line));
        self.failed.retain(|line, _| is_there(line));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(queue: &str) -> Line {
        Line {
            queue: queue.parse().unwrap(),
            executor: "e".parse().unwrap(),
        }
    }

    /// The bounds of a rest with its jitter.
    fn around(rest: Duration) -> std::ops::RangeInclusive<Duration> {
        rest.mul_f64(0.74)..=rest.mul_f64(1.26)
    }

    #[test]
    fn a_line_rests_only_after_several_looks_in_vain_and_is_not_forgotten() {
        let (mut lines, line) = (Lines::default(), line("q"));
        for _ in 0..VAIN.0 {
            lines.hint(line.clone());
            assert_eq!(lines.take(), (vec![line.clone()], None));
            lines.looked(&line, false);
        }
        lines.hint(line.clone());
        let before = Instant::now();
        let (look, until) = lines.take();
        assert!(look.is_empty() && until.is_some_and(|until| until > before && until <= before + VAIN.1));
        assert!(lines.dirty.contains(&line), "it is looked at when it has rested");
        lines.looked(&line, true);
        assert_eq!(lines.take(), (vec![line], None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_that_fails_while_others_are_served_is_tried_ever_more_rarely() {
        let (mut lines, mute, other) = (Lines::default(), line("mute"), line("other"));
        for secs in [2, 4, 8, 16, 32, 60, 60] {
            let rest = lines.failed(&mute);
            assert!(
                around(Duration::from_secs(secs)).contains(&rest),
                "{rest:?} instead of {secs} s"
            );
            lines.served(&other);
            // Hints, as every sweep gives one, too, do not make it come sooner.
            lines.hint(mute.clone());
            lines.hint(other.clone());
            let (look, until) = lines.take();
            assert_eq!(look, std::slice::from_ref(&other), "the others do not wait for it");
            assert_eq!(until, Some(Instant::now() + rest));
            assert!(lines.rests(&mute));
            tokio::time::advance(rest).await;
            assert!(!lines.rests(&mute));
            assert_eq!(lines.take().0, std::slice::from_ref(&mute), "it was not forgotten");
        }
        lines.served(&mute);
        assert!(around(REST).contains(&lines.failed(&mute)), "it begins anew");
    }

    #[tokio::test(start_paused = true)]
    async fn while_no_line_is_served_none_rests_for_longer() {
        let (mut lines, one, other) = (Lines::default(), line("one"), line("other"));
        lines.served(&one);
        // The broker is away for many minutes.
        for _ in 0..200 {
            for line in [&one, &other] {
                let rest = lines.failed(line);
                assert!(around(REST).contains(&rest), "{rest:?}");
            }
            tokio::time::advance(REST * 2).await;
        }
        // It is back, and one of them was first: the other is due, too.
        lines.served(&one);
        lines.hint(other.clone());
        assert_eq!(lines.take(), (vec![other], None));
    }

    #[test]
    fn a_line_without_queued_jobs_is_forgotten() {
        let (mut lines, mute) = (Lines::default(), line("mute"));
        lines.failed(&mute);
        lines.retain(|_| false);
        assert!(!lines.rests(&mute));
        assert!(lines.failed.is_empty() && lines.vain.is_empty());
    }
}
