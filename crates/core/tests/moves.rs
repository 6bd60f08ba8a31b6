//! No sequence of events, duplicates and reorderings included, leaves the table of moves, resurrects an ended job, lets
//! two attempts of a job be live, or spends more attempts than the budgets allow.
//!
//! The model below does what every store does inside a transaction: refuse an old epoch, refuse what the table does not
//! allow, and leave what follows from an attempt's end to `finish::decide`.

use std::time::Duration;

use proptest::prelude::*;
use robata_core::{
    AttemptState, Epoch, IncarnationId, JobState, Timestamp,
    attempt::may_write,
    finish::{self, Budget, End, Facts, MAX_NEVER_SET_GOING, NeverRan, Outcome, StopCause},
    retry::RetryPolicy,
    state::{AfterAttempt, AttemptEvent, JobEvent},
};

#[derive(Clone, Debug)]
enum Change {
    Started,
    Stopping(StopCause),
    Ended(Outcome, f64),
}

#[derive(Clone, Debug)]
enum Event {
    Due,
    /// A reference came out of a line: for the attempt of this number, be it the next one or one long over.
    Claim(usize),
    /// A worker's lease ended, another one adopts.
    TakeOver,
    /// A write about an attempt, counted back from the last one, with an epoch counted back from its present one.
    Write {
        back: usize,
        old: Epoch,
        change: Change,
    },
    Cancel,
    Unrunnable,
    RetryByHand,
    /// What was sent before comes again, as it was: a lost answer, or a worker that wakes.
    Again(usize),
}

#[derive(Clone, Debug, PartialEq)]
struct Attempt {
    state: AttemptState,
    epoch: Epoch,
    stop: Option<StopCause>,
    budget: Option<Budget>,
}

#[derive(Clone, Debug, PartialEq)]
struct Job {
    state: JobState,
    attempts: Vec<Attempt>,
    cancel_requested: bool,
    max_attempts: u32,
    retries_by_hand: u32,
    /// How many attempts there were at the last one.
    retried_at: usize,
}

/// A message that can be sent again word by word.
#[derive(Clone, Debug)]
enum Sent {
    Claim {
        attempt: usize,
    },
    Write {
        attempt: usize,
        epoch: Epoch,
        change: Change,
    },
}

impl Job {
    fn new(state: JobState, policy: &RetryPolicy) -> Self {
        Self {
            state,
            attempts: Vec::new(),
            cancel_requested: false,
            max_attempts: policy.max_attempts,
            retries_by_hand: 0,
            retried_at: 0,
        }
    }

    fn paid(&self, budget: Budget) -> u32 {
        // The platform's budgets begin anew with a retry by hand; what the job's own attempts were stays so.
        let from = if budget == Budget::Own { 0 } else { self.retried_at };
        let paid = self.attempts[from..]
            .iter()
            .filter(|attempt| attempt.budget == Some(budget));
        u32::try_from(paid.count()).expect("few")
    }

    /// Compare-and-set on the table; whether it moved.
    fn to(&mut self, event: JobEvent) -> bool {
        self.state.after(event).inspect(|state| self.state = *state).is_some()
    }

    fn claim(&mut self, attempt: usize) {
        if attempt == self.attempts.len() + 1 && self.to(JobEvent::Claimed) {
            self.attempts.push(Attempt {
                state: AttemptState::Starting,
                epoch: 1,
                stop: None,
                budget: None,
            });
        }
    }

    fn write(&mut self, policy: &RetryPolicy, attempt: usize, epoch: Epoch, change: &Change) {
        let (counted, platform) = (self.paid(Budget::Own), self.paid(Budget::Platform));
        let never_set_going = self.paid(Budget::Neither);
        let us = IncarnationId::from_bytes([1; 16]);
        let row = self.attempts.get_mut(attempt);
        let Some(row) = row.filter(|row| may_write((us, row.epoch), (us, epoch))) else {
            return;
        };
        match change {
            Change::Started => {
                if let Some(state) = row.state.after(AttemptEvent::Started) {
                    row.state = state;
                }
            }
            Change::Stopping(cause) => {
                if let Some(state) = row.state.after(AttemptEvent::StopDecided) {
                    row.state = state;
                    row.stop = Some(*cause);
                }
            }
            Change::Ended(outcome, chance) => {
                let facts = Facts {
                    stop_cause: row.stop,
                    cancel_requested: self.cancel_requested,
                    policy,
                    max_attempts: self.max_attempts,
                    timeout: Some(Duration::from_secs(10)),
                    counted,
                    platform,
                    never_set_going,
                    chance: *chance,
                };
                let verdict = finish::decide(outcome, &facts);
                let Some(state) = row.state.after(AttemptEvent::Ended(verdict.attempt)) else {
                    return;
                };
                row.state = state;
                row.budget = Some(verdict.budget);
                assert!(
                    self.to(JobEvent::AttemptEnded(verdict.job)),
                    "{:?} cannot follow in {self:?}",
                    verdict.job
                );
            }
        }
    }

    fn send(&mut self, policy: &RetryPolicy, sent: &Sent) {
        match sent {
            Sent::Claim { attempt } => self.claim(*attempt),
            Sent::Write { attempt, epoch, change } => self.write(policy, *attempt, *epoch, change),
        }
    }

    fn happens(&mut self, policy: &RetryPolicy, event: &Event, history: &mut Vec<Sent>) {
        let sent = match event {
            Event::Due => {
                self.to(JobEvent::Due);
                return;
            }
            Event::TakeOver => {
                if let Some(last) = self.attempts.last_mut().filter(|last| last.state.is_live()) {
                    last.epoch += 1;
                }
                return;
            }
            Event::Cancel => {
                if !self.to(JobEvent::CancelledWaiting) && self.state == JobState::Running {
                    self.cancel_requested = true;
                }
                return;
            }
            Event::Unrunnable => {
                self.to(JobEvent::Unrunnable);
                return;
            }
            Event::RetryByHand => {
                if self.to(JobEvent::RetriedByHand) {
                    self.cancel_requested = false;
                    self.retries_by_hand += 1;
                    self.max_attempts = self.paid(Budget::Own) + 1;
                    self.retried_at = self.attempts.len();
                }
                return;
            }
            Event::Claim(back) => Sent::Claim {
                attempt: (self.attempts.len() + 1).saturating_sub(*back),
            },
            Event::Write { back, old, change } => {
                let Some(attempt) = self.attempts.len().checked_sub(1 + back) else {
                    return;
                };
                let epoch = self.attempts[attempt].epoch.saturating_sub(*old);
                Sent::Write {
                    attempt,
                    epoch,
                    change: change.clone(),
                }
            }
            Event::Again(index) => {
                if history.is_empty() {
                    return;
                }
                history[index % history.len()].clone()
            }
        };
        self.send(policy, &sent);
        history.push(sent);
    }

    fn check(&self, before: &Self, event: &Event, policy: &RetryPolicy) -> Result<(), TestCaseError> {
        let live = self.attempts.iter().filter(|attempt| attempt.state.is_live()).count();
        prop_assert!(live <= 1, "two attempts are live");
        prop_assert_eq!(
            live == 1,
            self.state == JobState::Running,
            "a live attempt and a running job go together"
        );
        prop_assert!(
            self.attempts
                .iter()
                .rev()
                .skip(1)
                .all(|attempt| !attempt.state.is_live())
        );
        if before.state.is_ended() && before.state != self.state {
            let by_hand = matches!(event, Event::RetryByHand) && before.state == JobState::Failed;
            prop_assert!(by_hand, "{:?} was resurrected by {event:?}", before.state);
        }
        if before.state != self.state {
            prop_assert!(
                job_events().any(|event| before.state.after(event) == Some(self.state)),
                "not in the table"
            );
        }
        for (before, now) in before.attempts.iter().zip(&self.attempts) {
            if !before.state.is_live() {
                prop_assert_eq!(before, now, "an ended attempt changed");
            } else if before.state != now.state {
                let moved = attempt_events().any(|event| before.state.after(event) == Some(now.state));
                prop_assert!(moved, "not in the table: {:?} to {:?}", before.state, now.state);
            }
        }
        prop_assert!(self.attempts.len() >= before.attempts.len(), "an attempt is gone");
        if before.cancel_requested && before.state == JobState::Running {
            let may = matches!(self.state, JobState::Running) || self.state.is_ended();
            prop_assert!(may, "a cancelled job runs again");
        }
        let own = policy.max_attempts + self.retries_by_hand;
        prop_assert!(self.paid(Budget::Own) <= own, "more than the job's own attempts");
        prop_assert!(
            self.paid(Budget::Platform) <= policy.platform + 1,
            "more than the platform's budget"
        );
        prop_assert!(
            self.paid(Budget::Neither) <= MAX_NEVER_SET_GOING,
            "never set going, again and again"
        );
        // After a retry by hand: one of its own, and what the platform may spend on it.
        let first = if self.retries_by_hand == 0 {
            policy.max_attempts
        } else {
            1
        };
        let attempts = self.attempts.len() - self.retried_at;
        let most = usize::try_from(first + policy.platform + MAX_NEVER_SET_GOING).expect("small");
        prop_assert!(attempts <= most, "{attempts} attempts, at most {most}");
        Ok(())
    }
}

fn job_events() -> impl Iterator<Item = JobEvent> {
    use AfterAttempt as After;
    let after = [
        After::Succeed,
        After::Fail,
        After::Cancel,
        After::RetryLater,
        After::RetryNow,
    ];
    let others = [
        JobEvent::Due,
        JobEvent::Claimed,
        JobEvent::CancelledWaiting,
        JobEvent::Unrunnable,
        JobEvent::RetriedByHand,
    ];
    others.into_iter().chain(after.map(JobEvent::AttemptEnded))
}

fn attempt_events() -> impl Iterator<Item = AttemptEvent> {
    let ends = AttemptState::ALL.iter().copied().map(AttemptEvent::Ended);
    [AttemptEvent::Started, AttemptEvent::StopDecided]
        .into_iter()
        .chain(ends)
}

fn ends() -> impl Strategy<Value = End> {
    let never = prop_oneof![
        Just(NeverRan::ImagePull),
        Just(NeverRan::StartRefused),
        Just(NeverRan::NoCapacity),
        Just(NeverRan::EngineUnreachable),
        Just(NeverRan::Expired),
        Just(NeverRan::Cancelled),
        Just(NeverRan::NotSetGoing),
    ];
    prop_oneof![
        2 => (0..4).prop_map(End::Exited),
        1 => prop_oneof![Just(9), Just(11), Just(15)].prop_map(End::Signalled),
        1 => Just(End::OutOfMemory(Some(137))),
        2 => never.prop_map(End::NeverRan),
        2 => Just(End::NeverRan(NeverRan::NotSetGoing)),
        2 => Just(End::Lost),
        2 => Just(End::EngineFault),
    ]
}

fn outcomes() -> impl Strategy<Value = Outcome> {
    (ends(), any::<bool>(), proptest::option::of(0..20_000_i64)).prop_map(|(end, stop_sent, ran)| Outcome {
        stop_sent,
        started_at: ran.map(|_| Timestamp::from_millis(0)),
        finished_at: ran.map(Timestamp::from_millis),
        ..Outcome::new(end)
    })
}

fn changes() -> impl Strategy<Value = Change> {
    prop_oneof![
        2 => Just(Change::Started),
        1 => Just(Change::Stopping(StopCause::Cancel)),
        1 => Just(Change::Stopping(StopCause::Timeout)),
        5 => (outcomes(), 0.0..1.0).prop_map(|(outcome, chance)| Change::Ended(outcome, chance)),
    ]
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => Just(Event::Due),
        6 => prop_oneof![5 => Just(0_usize), 1 => 1..4_usize].prop_map(Event::Claim),
        1 => Just(Event::TakeOver),
        12 => (prop_oneof![6 => Just(0_usize), 1 => 1..4_usize], prop_oneof![5 => Just(0), 1 => 1..3_u32], changes())
            .prop_map(|(back, old, change)| Event::Write { back, old, change }),
        1 => Just(Event::Cancel),
        1 => Just(Event::Unrunnable),
        1 => Just(Event::RetryByHand),
        3 => any::<usize>().prop_map(Event::Again),
    ]
}

fn policies() -> impl Strategy<Value = RetryPolicy> {
    (1..5_u32, 0..4_u32, any::<bool>()).prop_map(|(max_attempts, platform, picky)| RetryPolicy {
        max_attempts,
        platform,
        not_on_exit_codes: if picky { vec![2] } else { Vec::new() },
        ..RetryPolicy::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_events_leaves_the_table_or_the_budgets(
        delayed: bool,
        policy in policies(),
        events in proptest::collection::vec(events(), 1..120),
    ) {
        let mut job = Job::new(if delayed { JobState::Scheduled } else { JobState::Queued }, &policy);
        let mut history = Vec::new();
        for event in &events {
            let before = job.clone();
            job.happens(&policy, event, &mut history);
            job.check(&before, event, &policy)?;
        }
    }

    #[test]
    fn a_job_that_is_served_ends_within_its_budgets(
        policy in policies(),
        outcomes in proptest::collection::vec((outcomes(), 0.0..1.0), 40),
    ) {
        let mut job = Job::new(JobState::Queued, &policy);
        for (outcome, chance) in outcomes {
            if job.state.is_ended() {
                break;
            }
            job.to(JobEvent::Due);
            job.claim(job.attempts.len() + 1);
            job.write(&policy, job.attempts.len() - 1, 1, &Change::Ended(outcome, chance));
        }
        prop_assert!(job.state.is_ended(), "40 ends, and still {:?} after {:?}", job.state, job.attempts);
    }

    #[test]
    fn a_write_with_an_old_epoch_changes_nothing(
        policy in policies(),
        writes in proptest::collection::vec(changes(), 1..20),
        raised in 1..4_u32,
    ) {
        let mut job = Job::new(JobState::Queued, &policy);
        job.claim(1);
        job.attempts[0].epoch += raised;
        let before = job.clone();
        for (index, change) in writes.iter().enumerate() {
            job.write(&policy, 0, 1 + u32::try_from(index).unwrap() % raised, change);
            prop_assert_eq!(&job, &before);
        }
    }
}

#[test]
fn only_the_holder_writes_and_only_with_its_own_epoch() {
    let (us, other) = (IncarnationId::new(), IncarnationId::new());
    assert!(may_write((us, 2), (us, 2)));
    for writer in [(us, 1), (us, 3), (other, 2)] {
        assert!(!may_write((us, 2), writer), "{writer:?}");
    }
}

#[test]
fn an_ended_job_is_left_by_nothing_but_a_retry_by_hand_of_a_failed_one() {
    for state in JobState::ALL.iter().copied().filter(|state| state.is_ended()) {
        for event in job_events() {
            let by_hand = state == JobState::Failed && event == JobEvent::RetriedByHand;
            let expected = by_hand.then_some(JobState::Queued);
            assert_eq!(state.after(event), expected, "{state} on {event:?}");
        }
    }
}

#[test]
fn an_ended_attempt_is_left_by_nothing_and_a_live_one_ends_only_in_an_end() {
    for state in AttemptState::ALL {
        for event in attempt_events() {
            let next = state.after(event);
            if !state.is_live() {
                assert_eq!(next, None, "{state} on {event:?}");
            }
            if let AttemptEvent::Ended(end) = event {
                assert!(
                    next.is_none_or(|next| next == end && !next.is_live()),
                    "{state} on {event:?}"
                );
            }
        }
    }
}

#[test]
fn every_state_can_be_reached_and_every_live_one_can_be_left() {
    for state in JobState::ALL
        .iter()
        .filter(|state| !matches!(state, JobState::Scheduled | JobState::Queued))
    {
        let reached = JobState::ALL
            .iter()
            .any(|from| job_events().any(|event| from.after(event) == Some(*state)));
        assert!(reached, "nothing leads to {state}");
    }
    for state in JobState::ALL.iter().filter(|state| !state.is_ended()) {
        assert!(
            job_events().any(|event| state.after(event).is_some()),
            "nothing leads out of {state}"
        );
    }
    for state in AttemptState::ALL
        .iter()
        .filter(|state| **state != AttemptState::Starting)
    {
        let reached = AttemptState::ALL
            .iter()
            .any(|from| attempt_events().any(|event| from.after(event) == Some(*state)));
        assert!(reached, "nothing leads to {state}");
    }
}
