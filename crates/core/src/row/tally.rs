//! What follows from a transaction's steps: changed counts of lines, and hints once it is committed.

use std::collections::{BTreeMap, HashSet};

use super::JobRow;
use crate::{JobState, job::Line, store::Hint};

/// Changes of a line's counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Jobs that are not due.
    pub scheduled: i64,
    /// Jobs that wait for a worker.
    pub queued: i64,
    /// Jobs with a live attempt.
    pub running: i64,
    /// Queued jobs whose reference is out.
    pub out: i64,
}

impl Counts {
    fn of(&mut self, state: JobState) -> Option<&mut i64> {
        match state {
            JobState::Scheduled => Some(&mut self.scheduled),
            JobState::Queued => Some(&mut self.queued),
            JobState::Running => Some(&mut self.running),
            _ => None,
        }
    }
}

/// What follows from a transaction's steps.
#[derive(Debug, Default)]
pub struct Tally {
    counts: BTreeMap<Line, Counts>,
    hints: Vec<Hint>,
    lines: HashSet<Line>,
    slot_freed: bool,
}

impl Tally {
    /// Notes what `n` jobs' move does to a line's counts; without a state they come into it or leave it.
    pub fn count(&mut self, line: &Line, from: Option<JobState>, to: Option<JobState>, n: i64) {
        let counts = self.line(line);
        if let Some(count) = from.and_then(|state| counts.of(state)) {
            *count -= n;
        }
        if let Some(count) = to.and_then(|state| counts.of(state)) {
            *count += n;
        }
    }

    /// Notes what saving a row does to the counts: whether it has moved at all.
    pub fn count_move(&mut self, row: &JobRow) -> bool {
        if row
            .was
            .as_ref()
            .is_some_and(|(state, line)| *state == row.state && *line == row.line)
        {
            return false;
        }
        if let Some((state, line)) = &row.was {
            self.count(line, Some(*state), None, 1);
        }
        self.count(&row.line, None, Some(row.state), 1);
        true
    }

    /// Notes that so many more (or less) of a line's jobs are out.
    pub fn count_out(&mut self, line: &Line, n: i64) {
        if n != 0 {
            self.line(line).out += n;
        }
    }

    fn line(&mut self, line: &Line) -> &mut Counts {
        if !self.counts.contains_key(line) {
            self.counts.insert(line.clone(), Counts::default());
        }
        self.counts.get_mut(line).expect("it was just made")
    }

    /// Tells after the commit; a line once.
    pub fn hint(&mut self, hint: Hint) {
        match hint {
            Hint::Line(line) => {
                self.lines.insert(line);
            }
            other if self.hints.last() == Some(&other) => {}
            other => self.hints.push(other),
        }
    }

    /// Notes that a slot of a `max_running` has become free.
    pub fn free_slot(&mut self) {
        self.slot_freed = true;
    }

    /// The changed counts, to be written, in the order of the lines.
    pub fn take_counts(&mut self) -> Vec<(Line, Counts)> {
        let counts = std::mem::take(&mut self.counts).into_iter();
        counts.filter(|(_, counts)| *counts != Counts::default()).collect()
    }

    /// Whether a slot has become free: then every line with something that waits is to be hinted at.
    pub fn take_freed(&mut self) -> bool {
        std::mem::take(&mut self.slot_freed)
    }

    /// The hints, to be told.
    pub fn take_hints(&mut self) -> Vec<Hint> {
        let lines = std::mem::take(&mut self.lines).into_iter().map(Hint::Line);
        lines.chain(std::mem::take(&mut self.hints)).collect()
    }
}
