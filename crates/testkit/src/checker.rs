//! The checker of fault tests: it proves from outside, by what the jobs themselves wrote down, that the promises were kept.
//!
//! Each attempt appends one line to a journal when it begins and one when it ends by itself: `begin JOB NUMBER MILLIS`,
//! `end JOB NUMBER MILLIS` (for containers, whose file system is not ours, an observer of the engine's own events writes
//! the same lines). Beside it stands what the platform says of each job. The checker compares the two.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use robata_core::{AttemptId, JobId, JobState};

/// What one attempt wrote down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// It began, at this time in milliseconds.
    Begin(AttemptId, i64),
    /// It ended by itself.
    End(AttemptId, i64),
}

/// Reads a journal; a line that is not whole is an error, since one write is one line.
pub fn read_journal(text: &str) -> Result<Vec<Line>, String> {
    text.lines()
        .map(|line| {
            let wrong = || format!("the journal has a line that is none: {line:?}");
            let mut words = line.split(' ');
            let kind = words.next().ok_or_else(wrong)?;
            let job: JobId = words.next().and_then(|word| word.parse().ok()).ok_or_else(wrong)?;
            let number = words.next().and_then(|word| word.parse().ok()).ok_or_else(wrong)?;
            let at = words.next().and_then(|word| word.parse().ok()).ok_or_else(wrong)?;
            let attempt = AttemptId { job, number };
            match (kind, words.next()) {
                ("begin", None) => Ok(Line::Begin(attempt, at)),
                ("end", None) => Ok(Line::End(attempt, at)),
                _ => Err(wrong()),
            }
        })
        .collect()
}

/// What the platform says of a job when all is over.
#[derive(Clone, Debug)]
pub struct Told {
    /// The job.
    pub job: JobId,
    /// Its state.
    pub state: JobState,
    /// Its reason and message, for the report.
    pub why: String,
    /// Its attempts: number, the state's word, whether the log is complete, and the log itself.
    pub attempts: Vec<ToldAttempt>,
}

/// What the platform says of an attempt.
#[derive(Clone, Debug)]
pub struct ToldAttempt {
    /// Its number.
    pub number: u32,
    /// The state's word.
    pub state: String,
    /// Whether its log is called complete.
    pub log_complete: bool,
    /// Its standard output.
    pub stdout: String,
}

/// What a run expects of its jobs.
#[derive(Clone, Debug)]
pub struct Expect {
    /// The lines that every attempt prints when it runs to its own end, the last one without newline.
    pub output: String,
    /// Whether every job must have succeeded.
    pub all_succeed: bool,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Jobs accepted.
    pub accepted: usize,
    /// Attempts that began.
    pub began: usize,
    /// Attempts that were never set going.
    pub never_began: usize,
    /// Every promise that was broken.
    pub violations: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} jobs accepted, {} attempts began, {} never set going, {} violations",
            self.accepted,
            self.began,
            self.never_began,
            self.violations.len()
        )?;
        self.violations
            .iter()
            .try_for_each(|violation| writeln!(f, "  {violation}"))
    }
}

impl Report {
    /// Panics with the whole report where a promise was broken.
    ///
    /// # Panics
    /// Where there is a violation.
    pub fn assert_clean(&self) {
        assert!(self.violations.is_empty(), "{self}");
    }
}

/// Compares what was accepted, what ran and what is told.
#[must_use]
pub fn check(accepted: &BTreeSet<JobId>, journal: &[Line], told: &[Told], expect: &Expect) -> Report {
    let mut report = Report {
        accepted: accepted.len(),
        ..Report::default()
    };
    let mut begins: BTreeMap<AttemptId, Vec<i64>> = BTreeMap::new();
    let mut ends: BTreeMap<AttemptId, i64> = BTreeMap::new();
    for line in journal {
        match *line {
            Line::Begin(attempt, at) => begins.entry(attempt).or_default().push(at),
            Line::End(attempt, at) => {
                ends.insert(attempt, at);
            }
        }
    }
    report.began = begins.len();
    let told_by: BTreeMap<JobId, &Told> = told.iter().map(|told| (told.job, told)).collect();
    for job in accepted {
        match told_by.get(job) {
            None => report
                .violations
                .push(format!("{job}: accepted, and the platform does not know it")),
            Some(told) if !told.state.is_ended() => {
                report
                    .violations
                    .push(format!("{job}: accepted, and still {} ({})", told.state, told.why));
            }
            Some(told) if expect.all_succeed && told.state != JobState::Succeeded => {
                report.violations.push(format!("{job}: {} ({})", told.state, told.why));
            }
            Some(_) => {}
        }
    }
    for (attempt, times) in &begins {
        if times.len() > 1 {
            report
                .violations
                .push(format!("{attempt}: started {} times", times.len()));
        }
        if !accepted.contains(&attempt.job) {
            report
                .violations
                .push(format!("{attempt}: ran, and its job was never accepted"));
        }
    }
    for told in told {
        one_at_a_time(told, &begins, &ends, &mut report);
        for attempt in &told.attempts {
            let id = AttemptId {
                job: told.job,
                number: attempt.number,
            };
            let began = begins.contains_key(&id);
            match attempt.state.as_str() {
                "error" if began => report
                    .violations
                    .push(format!("{id}: ran, and is told to have never run")),
                "error" => report.never_began += 1,
                "succeeded" if !began => report
                    .violations
                    .push(format!("{id}: told to have succeeded, and never ran")),
                "succeeded" if !attempt.log_complete => report.violations.push(format!("{id}: its log is incomplete")),
                "succeeded" if attempt.stdout != expect.output => {
                    let (got, want) = (attempt.stdout.len(), expect.output.len());
                    report.violations.push(format!(
                        "{id}: its log is called complete and has {got} bytes of {want}"
                    ));
                }
                _ => {}
            }
        }
    }
    report
}

/// No attempt of a job begins before the one before it has ended.
fn one_at_a_time(
    told: &Told,
    begins: &BTreeMap<AttemptId, Vec<i64>>,
    ends: &BTreeMap<AttemptId, i64>,
    report: &mut Report,
) {
    let of_job = |number| AttemptId { job: told.job, number };
    for (attempt, times) in begins.range(of_job(0)..=of_job(u32::MAX)) {
        let begin = times[0];
        for (before, ended) in ends.range(of_job(0)..*attempt) {
            if *ended > begin {
                report
                    .violations
                    .push(format!("{attempt}: began {} ms before {before} ended", ended - begin));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(job: JobId, attempts: &[(u32, &str)]) -> Told {
        let attempts = attempts.iter().map(|(number, state)| ToldAttempt {
            number: *number,
            state: (*state).to_owned(),
            log_complete: true,
            stdout: "whole".into(),
        });
        Told {
            job,
            state: JobState::Succeeded,
            why: String::new(),
            attempts: attempts.collect(),
        }
    }

    fn violations(journal: &str, told: &Told) -> Vec<String> {
        let journal = read_journal(&journal.replace('J', &told.job.to_string())).unwrap();
        let expect = Expect {
            output: "whole".into(),
            all_succeed: true,
        };
        check(
            &BTreeSet::from([told.job]),
            &journal,
            std::slice::from_ref(told),
            &expect,
        )
        .violations
    }

    #[test]
    fn a_good_run_is_clean() {
        let told = told(JobId::new(), &[(1, "error"), (2, "succeeded")]);
        assert_eq!(violations("begin J 2 5\nend J 2 9\n", &told), [""; 0]);
    }

    #[test]
    fn every_broken_promise_is_found() {
        let job = JobId::new();
        for (journal, attempts, what) in [
            (
                "begin J 1 1\nbegin J 1 2\nend J 1 3",
                vec![(1, "succeeded")],
                "started 2 times",
            ),
            (
                "begin J 1 1\nbegin J 2 2\nend J 1 3\nend J 2 4",
                vec![(1, "lost"), (2, "succeeded")],
                "began 1 ms before",
            ),
            ("begin J 1 1", vec![(1, "error")], "told to have never run"),
            ("", vec![(1, "succeeded")], "never ran"),
        ] {
            let found = violations(journal, &told(job, &attempts));
            assert!(found.iter().any(|found| found.contains(what)), "{what}: {found:?}");
        }
        let mut running = told(job, &[]);
        running.state = JobState::Running;
        assert!(violations("", &running)[0].contains("still running"));
        let mut torn = told(job, &[(1, "succeeded")]);
        torn.attempts[0].stdout = "who".into();
        assert!(violations("begin J 1 1", &torn)[0].contains("3 bytes of 5"));
    }
}
