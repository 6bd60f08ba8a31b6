//! The breaker before the store's enqueue: pure, so that every order of events can be tried.

/// Whether enqueues go to the store.
#[derive(Debug)]
pub(super) struct Breaker {
    state: State,
    /// So many failures in a row open it.
    bears: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// They do.
    Closed {
        /// Failures in a row.
        failures: u32,
    },
    /// They do not.
    Open,
    /// A probe succeeded: they do again, and the first failure opens it again.
    HalfOpen,
}

impl Breaker {
    pub(super) fn new(bears: u32) -> Self {
        Self {
            state: State::Closed { failures: 0 },
            bears: bears.max(1),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// The store has answered. A late answer, to what was asked before it opened, closes nothing: others were not answered.
    pub(super) fn answered(&mut self) {
        if self.state != State::Open {
            self.state = State::Closed { failures: 0 };
        }
    }

    /// The store has failed.
    pub(super) fn failed(&mut self) {
        self.state = match self.state {
            State::Closed { failures } if failures + 1 < self.bears => State::Closed { failures: failures + 1 },
            _ => State::Open,
        };
    }

    /// The store has not answered in time.
    pub(super) fn hung(&mut self) {
        self.state = State::Open;
    }

    /// A probe was answered.
    pub(super) fn probed(&mut self) {
        if self.state == State::Open {
            self.state = State::HalfOpen;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened() -> Breaker {
        let mut breaker = Breaker::new(3);
        breaker.hung();
        breaker
    }

    #[test]
    fn three_failures_in_a_row_open_it_and_an_answer_between_begins_anew() {
        let mut breaker = Breaker::new(3);
        for _ in 0..10 {
            breaker.failed();
            breaker.failed();
            assert!(!breaker.is_open());
            breaker.answered();
        }
        breaker.failed();
        breaker.failed();
        breaker.failed();
        assert!(breaker.is_open());
    }

    #[test]
    fn one_that_hangs_opens_it_at_once() {
        assert!(opened().is_open());
    }

    #[test]
    fn only_a_probe_ends_it_and_the_first_failure_after_one_opens_it_again() {
        let mut breaker = opened();
        breaker.answered();
        breaker.failed();
        assert!(breaker.is_open(), "late answers close nothing");
        breaker.probed();
        assert!(!breaker.is_open());
        breaker.failed();
        assert!(breaker.is_open());
        breaker.probed();
        breaker.answered();
        breaker.failed();
        breaker.failed();
        assert!(!breaker.is_open(), "it bears as much as ever");
    }

    #[test]
    fn a_probe_of_a_closed_one_forgets_no_failure() {
        let mut breaker = Breaker::new(3);
        breaker.failed();
        breaker.failed();
        breaker.probed();
        breaker.failed();
        assert!(breaker.is_open());
    }
}
