//! Lines that a receive leaves out for a while, because they failed alone: one bad line keeps no other back. Pure values; for
//! adapters whose broker answers for each line by itself.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::job::Line;

/// So long a line that failed alone is left out of receives that have others.
pub const LEFT_OUT: Duration = Duration::from_secs(15);

/// Lines that failed alone, each with the time from which it is tried again.
#[derive(Debug, Default)]
pub struct LeftOut {
    until: HashMap<Line, Instant>,
}

impl LeftOut {
    /// Leaves a line out for a while.
    pub fn leave_out(&mut self, line: &Line, now: Instant) {
        self.until.insert(line.clone(), now + LEFT_OUT);
    }

    /// The line has answered well, and is as good as any.
    pub fn answered(&mut self, line: &Line) {
        self.until.remove(line);
    }

    /// Whether any of these lines may do.
    #[must_use]
    pub fn may_any(&self, lines: &[(Line, u32)]) -> bool {
        lines.iter().any(|(line, _)| !self.until.contains_key(line))
    }

    /// Those of a receive's lines that may do; all of them where none may.
    pub fn promising(&mut self, lines: &[(Line, u32)], now: Instant) -> Vec<(Line, u32)> {
        self.until.retain(|_, until| now < *until);
        if self.may_any(lines) {
            let may = lines.iter().filter(|(line, _)| !self.until.contains_key(line));
            may.cloned().collect()
        } else {
            lines.to_vec()
        }
    }

    /// When the first of those of these lines that are left out may do again.
    #[must_use]
    pub fn next_try(&self, lines: &[(Line, u32)]) -> Option<Instant> {
        lines.iter().filter_map(|(line, _)| self.until.get(line)).min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str) -> (Line, u32) {
        let line = Line {
            queue: name.parse().unwrap(),
            executor: "e".parse().unwrap(),
        };
        (line, 1)
    }

    #[test]
    fn a_line_that_failed_alone_is_left_out_for_a_while() {
        let (mut left, now) = (LeftOut::default(), Instant::now());
        let both = [line("bad"), line("good")];
        assert_eq!(
            (left.promising(&both, now), left.next_try(&both)),
            (both.to_vec(), None)
        );
        left.leave_out(&both[0].0, now);
        assert!(left.may_any(&both) && !left.may_any(&both[..1]));
        assert_eq!(left.promising(&both, now), both[1..]);
        assert_eq!(left.promising(&both[..1], now), both[..1], "there is no other");
        assert_eq!(left.next_try(&both), Some(now + LEFT_OUT));
        assert_eq!(left.next_try(&both[1..]), None);
        assert_eq!(left.promising(&both, now + LEFT_OUT), both);
        assert_eq!(left.next_try(&both), None);
    }

    #[test]
    fn where_all_have_failed_all_are_tried_and_one_that_answers_is_as_good_as_any() {
        let (mut left, now) = (LeftOut::default(), Instant::now());
        let both = [line("one"), line("other")];
        for (line, _) in &both {
            left.leave_out(line, now);
        }
        assert!(!left.may_any(&both));
        assert_eq!(left.promising(&both, now), both);
        left.answered(&both[1].0);
        assert_eq!(left.promising(&both, now), both[1..]);
    }
}
