//! No sequence of events, duplicates and reorderings included, leaves the table of moves, resurrects an ended job, lets
//! two attempts of a job be live, spends more attempts than the budgets allow, or leaves half of a refused step behind.
//!
//! The steps are those that every store takes inside its transaction; only the rows' keeping is this file's.

mod events;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use events::{attempt_events, job_events};
use proptest::prelude::*;
use robata_core::{
    AttemptState, ClaimId, Epoch, ExecutorName, Format, IncarnationId, JobId, JobState, Payload, Reason, Timestamp,
    WaitingReason,
    attempt::{AttemptChange, AttemptWrite, LogSummary},
    definition::{Catalog, Definition},
    executor::{Handle, RealmId},
    finish::{End, MAX_NEVER_SET_GOING, NeverRan, Outcome, StopCause},
    job::{Line, NewJob, Reference, When},
    request::StartRequest,
    retry::RetryPolicy,
    row::{AttemptRow, Candidate, Fit, JobRow, Tally, Transaction},
    state::JobEvent,
};

/// A transaction of a store whose clock stands still now and then.
#[derive(Debug)]
struct Tx {
    now: Timestamp,
    catalog: Catalog,
    tally: Tally,
}

impl Transaction for Tx {
    fn now(&self) -> Timestamp {
        self.now
    }

    fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    fn default_executor(&self) -> Option<&ExecutorName> {
        None
    }

    fn format(&self) -> Format {
        Format::OWN
    }

    fn tally(&mut self) -> &mut Tally {
        &mut self.tally
    }
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
        change: AttemptChange,
    },
    Cancel,
    Unrunnable,
    RetryByHand,
    /// What was sent before comes again, as it was: a lost answer, or a worker that wakes.
    Again(usize),
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
        change: AttemptChange,
    },
}

/// A job and its attempts as a store keeps them.
#[derive(Clone, Debug, PartialEq)]
struct Job {
    row: JobRow,
    attempts: Vec<AttemptRow>,
    /// Frozen at their claims.
    requests: Vec<StartRequest>,
    retries_by_hand: u32,
    /// How many attempts there were at the last one.
    retried_at: usize,
}

/// Who pays for an attempt.
#[derive(Clone, Copy, PartialEq)]
enum Payer {
    Own,
    Platform,
    Nobody,
}

/// By what the rows say of it.
fn payer(attempt: &AttemptRow) -> Option<Payer> {
    Some(match attempt.counted? {
        true => Payer::Own,
        // Nothing else ends as `error` and `platform` but what was never set going, or could not reach its engine in time.
        false if attempt.state == AttemptState::Error && attempt.message.as_deref() == Some(NOT_SET_GOING) => {
            Payer::Nobody
        }
        false => Payer::Platform,
    })
}

/// The words by which this test knows what was never set going.
const NOT_SET_GOING: &str = "not set going";

fn us() -> IncarnationId {
    IncarnationId::from_bytes([1; 16])
}

fn line() -> Line {
    Line {
        queue: "shop".parse().expect("a name"),
        executor: "process".parse().expect("a name"),
    }
}

fn tx() -> Tx {
    Tx {
        now: Timestamp::from_millis(1_000_000),
        catalog: Catalog::default(),
        tally: Tally::default(),
    }
}

impl Job {
    fn new(delayed: bool, policy: &RetryPolicy, tx: &Tx) -> Self {
        let new = NewJob {
            id: JobId::new(),
            app: "shop".parse().expect("a name"),
            job: "mail".parse().expect("a name"),
            line: line(),
            queue_chosen: false,
            payload: Payload::null(),
            labels: BTreeMap::new(),
            env: BTreeMap::new(),
            priority: 0,
            when: if delayed {
                When::In(Duration::from_secs(1))
            } else {
                When::Now
            },
            expires_in: None,
            key: None,
            max_attempts: policy.max_attempts,
            definition: None,
            traceparent: None,
        };
        Self {
            row: JobRow::new(1, &new, tx),
            attempts: Vec::new(),
            requests: Vec::new(),
            retries_by_hand: 0,
            retried_at: 0,
        }
    }

    fn paid(&self, who: Payer) -> u32 {
        // The platform's budgets begin anew with a retry by hand; what the job's own attempts were stays so.
        let from = if who == Payer::Own { 0 } else { self.retried_at };
        let paid = self.attempts[from..]
            .iter()
            .filter(|attempt| payer(attempt) == Some(who));
        u32::try_from(paid.count()).expect("few")
    }

    fn claim(&mut self, policy: &RetryPolicy, attempt: usize, tx: &Tx) {
        let candidate = Candidate {
            row: self.row.clone(),
            payload: Payload::null(),
            env: BTreeMap::new(),
            one_off: Some(Arc::new(Definition {
                command: Some(vec!["true".to_owned()]),
                retry: policy.clone(),
                timeout: Some(Duration::from_secs(10)),
                ..Definition::default()
            })),
            traceparent: None,
        };
        let reference = Reference {
            job: self.row.id,
            attempt: u32::try_from(attempt).expect("few"),
        };
        let Fit::Fits(effective) = candidate.fit(&line(), reference, false, tx) else {
            return;
        };
        let (row, held) = candidate.claim(&effective, ClaimId::new(), tx);
        self.row = row;
        self.attempts.push(AttemptRow {
            seq: 0,
            id: held.id,
            holder: us(),
            epoch: held.epoch,
            state: held.state,
            reason: None,
            detail: None,
            message: None,
            exit_code: None,
            signal: None,
            image_digest: None,
            realm: None,
            handle: None,
            counted: None,
            stop_cause: None,
            moved_at: tx.now,
            started_at: None,
            finished_at: None,
            finalised_at: None,
            waiting: None,
            log: LogSummary::default(),
        });
        self.requests.push(held.request);
    }

    fn write(&mut self, attempt: usize, epoch: Epoch, change: &AttemptChange, tx: &mut Tx) {
        let Some(row) = self.attempts.get_mut(attempt) else {
            return;
        };
        let write = AttemptWrite {
            attempt: row.id,
            epoch,
            incarnation: us(),
            change: change.clone(),
        };
        let before = (row.clone(), self.row.clone());
        if row
            .write(
                &mut self.row,
                self.requests.get(attempt).map(StartRequest::terms),
                &write,
                tx,
            )
            .is_err()
        {
            assert_eq!(
                before,
                (row.clone(), self.row.clone()),
                "a refused write left something behind"
            );
        }
    }

    fn send(&mut self, policy: &RetryPolicy, sent: &Sent, tx: &mut Tx) {
        match sent {
            Sent::Claim { attempt } => self.claim(policy, *attempt, tx),
            Sent::Write { attempt, epoch, change } => self.write(*attempt, *epoch, change, tx),
        }
    }

    fn happens(&mut self, policy: &RetryPolicy, event: &Event, history: &mut Vec<Sent>, tx: &mut Tx) {
        let before = self.row.clone();
        let refused = |row: &JobRow| assert_eq!(before, *row, "a refused step left something behind");
        let sent = match event {
            Event::Due => {
                self.row.due(tx);
                return;
            }
            Event::TakeOver => {
                if let Some(last) = self.attempts.last_mut().filter(|last| last.state.is_live()) {
                    last.epoch += 1;
                }
                return;
            }
            Event::Cancel => {
                if self.row.cancel(tx).is_err() {
                    refused(&self.row);
                }
                return;
            }
            Event::Unrunnable => {
                let ended = self.row.end_waiting(tx, JobEvent::Unrunnable, Reason::Expired, None);
                if ended.is_err() {
                    refused(&self.row);
                }
                return;
            }
            Event::RetryByHand => {
                match self.row.retry_by_hand(tx, true) {
                    Ok(true) => {
                        self.retries_by_hand += 1;
                        self.retried_at = self.attempts.len();
                    }
                    Ok(false) | Err(_) => refused(&self.row),
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
                Sent::Write {
                    attempt,
                    epoch: self.attempts[attempt].epoch.saturating_sub(*old),
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
        self.send(policy, &sent, tx);
        history.push(sent);
    }

    fn check(&self, before: &Self, event: &Event, policy: &RetryPolicy) -> Result<(), TestCaseError> {
        let live = self.attempts.iter().filter(|attempt| attempt.state.is_live()).count();
        prop_assert!(live <= 1, "two attempts are live");
        prop_assert_eq!(
            live == 1,
            self.row.state == JobState::Running,
            "a live attempt and a running job go together"
        );
        prop_assert!(
            self.attempts
                .iter()
                .rev()
                .skip(1)
                .all(|attempt| !attempt.state.is_live())
        );
        let (was, is) = (before.row.state, self.row.state);
        if was.is_ended() && was != is {
            let by_hand = matches!(event, Event::RetryByHand) && was == JobState::Failed;
            prop_assert!(by_hand, "{was:?} was resurrected by {event:?}");
        }
        if was != is {
            prop_assert!(
                job_events().any(|event| was.after(event) == Some(is)),
                "not in the table"
            );
        }
        prop_assert_eq!(is.is_ended(), self.row.finished_at.is_some());
        prop_assert!(
            self.row.moved_at >= before.row.moved_at,
            "a stamp before an earlier one"
        );
        for (before, now) in before.attempts.iter().zip(&self.attempts) {
            if !before.state.is_live() {
                let ended = AttemptRow {
                    finalised_at: now.finalised_at,
                    log: now.log.clone(),
                    ..before.clone()
                };
                prop_assert_eq!(&ended, now, "an ended attempt changed");
                prop_assert!(
                    before.finalised_at.is_none() || before == now,
                    "a finalised attempt changed"
                );
            } else if before.state != now.state {
                let moved = attempt_events().any(|event| before.state.after(event) == Some(now.state));
                prop_assert!(moved, "not in the table: {:?} to {:?}", before.state, now.state);
            }
            if before.handle.is_some() {
                prop_assert_eq!(&before.handle, &now.handle, "a second thing in its engine");
            }
        }
        prop_assert!(self.attempts.len() >= before.attempts.len(), "an attempt is gone");
        if before.row.cancel_requested_at.is_some() && was == JobState::Running {
            prop_assert!(is == JobState::Running || is.is_ended(), "a cancelled job runs again");
        }
        for (who, kept) in [
            (Payer::Own, self.row.counted),
            (Payer::Platform, self.row.platform),
            (Payer::Nobody, self.row.never_set_going),
        ] {
            prop_assert_eq!(self.paid(who), kept, "the job's count is not its attempts'");
        }
        let own = policy.max_attempts + self.retries_by_hand;
        prop_assert!(self.paid(Payer::Own) <= own, "more than the job's own attempts");
        prop_assert!(
            self.paid(Payer::Platform) <= policy.platform + 1,
            "more than the platform's budget"
        );
        prop_assert!(
            self.paid(Payer::Nobody) <= MAX_NEVER_SET_GOING,
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
        message: (end == End::NeverRan(NeverRan::NotSetGoing)).then(|| NOT_SET_GOING.to_owned()),
        started_at: ran.map(|_| Timestamp::from_millis(0)),
        finished_at: ran.map(Timestamp::from_millis),
        ..Outcome::new(end)
    })
}

fn changes() -> impl Strategy<Value = AttemptChange> {
    let waits = prop_oneof![
        Just(None),
        Just(Some((WaitingReason::Pulling, "it pulls".to_owned()))),
        Just(Some((WaitingReason::NoCapacity, "it is full".to_owned()))),
    ];
    let prepared = (0..2).prop_map(|thing| AttemptChange::Prepared {
        realm: RealmId("here".to_owned()),
        handle: Handle(format!("thing {thing}")),
        image_digest: None,
    });
    prop_oneof![
        1 => waits.prop_map(AttemptChange::Waiting),
        1 => prepared,
        2 => Just(AttemptChange::Started { at: Timestamp::from_millis(999_000) }),
        1 => Just(AttemptChange::Stopping(StopCause::Cancel)),
        1 => Just(AttemptChange::Stopping(StopCause::Timeout)),
        5 => outcomes().prop_map(AttemptChange::Ended),
        2 => Just(AttemptChange::Finalised(LogSummary::default())),
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
        events in proptest::collection::vec((events(), 0..3_u64), 1..120),
    ) {
        let mut tx = tx();
        let mut job = Job::new(delayed, &policy, &tx);
        let mut history = Vec::new();
        for (event, later) in &events {
            tx.now = tx.now.plus(Duration::from_secs(*later));
            let before = job.clone();
            job.happens(&policy, event, &mut history, &mut tx);
            job.check(&before, event, &policy)?;
        }
    }

    #[test]
    fn counts_follow_the_rows_whatever_happens(
        delayed: bool,
        policy in policies(),
        events in proptest::collection::vec(events(), 1..60),
    ) {
        let mut tx = tx();
        let mut job = Job::new(delayed, &policy, &tx);
        let mut history = Vec::new();
        let mut counts = [0, 0, 0];
        for event in &events {
            // What a store does with each row that it saves, and with what it reads next.
            tx.tally.count_move(&job.row);
            job.row.was = Some((job.row.state, job.row.line.clone()));
            for (_, changed) in tx.tally.take_counts() {
                counts[0] += changed.scheduled;
                counts[1] += changed.queued;
                counts[2] += changed.running;
            }
            let in_state = |state| i64::from(job.row.state == state);
            let expected = [JobState::Scheduled, JobState::Queued, JobState::Running].map(in_state);
            prop_assert_eq!(counts, expected, "{:?}", job.row.state);
            job.happens(&policy, event, &mut history, &mut tx);
        }
    }

    #[test]
    fn a_job_that_is_served_ends_within_its_budgets(
        policy in policies(),
        outcomes in proptest::collection::vec(outcomes(), 40),
    ) {
        let mut tx = tx();
        let mut job = Job::new(false, &policy, &tx);
        for outcome in outcomes {
            if job.row.state.is_ended() {
                break;
            }
            job.row.due(&mut tx);
            job.claim(&policy, job.attempts.len() + 1, &tx);
            job.write(job.attempts.len() - 1, 1, &AttemptChange::Ended(outcome), &mut tx);
        }
        prop_assert!(job.row.state.is_ended(), "40 ends, and still {:?} after {:?}", job.row.state, job.attempts);
    }

    #[test]
    fn a_write_with_an_old_epoch_changes_nothing(
        policy in policies(),
        writes in proptest::collection::vec(changes(), 1..20),
        raised in 1..4_u32,
    ) {
        let mut tx = tx();
        let mut job = Job::new(false, &policy, &tx);
        job.claim(&policy, 1, &tx);
        job.attempts[0].epoch += raised;
        let before = job.clone();
        for (index, change) in writes.iter().enumerate() {
            job.write(0, 1 + u32::try_from(index).unwrap() % raised, change, &mut tx);
            prop_assert_eq!(&job, &before);
        }
    }
}
