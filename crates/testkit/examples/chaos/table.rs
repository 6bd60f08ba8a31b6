//! What a run prints.
#![expect(clippy::print_stdout, reason = "this is a program that prints a report")]

use std::collections::{BTreeMap, BTreeSet};

use robata_core::{AttemptId, JobId};
use robata_testkit::checker::Line;

use crate::{
    faults::{Fault, Storm, Window},
    fleet::Fleet,
    judge::Ended,
    load::Load,
    notice::Bound,
};

pub(crate) fn say(text: &str) {
    println!("chaos: {text}");
}

/// Faults and what became of the attempts that lived through them.
pub(crate) fn faults(windows: &[Window], ended: &BTreeMap<JobId, Ended>, lines: &[Line]) {
    let mut spans: BTreeMap<AttemptId, (i64, i64)> = BTreeMap::new();
    for line in lines {
        match *line {
            Line::Begin(attempt, at) => spans.entry(attempt).or_insert((at, i64::MAX)).0 = at,
            Line::End(attempt, at) => spans.entry(attempt).or_insert((at, at)).1 = at,
        }
    }
    let mut states = BTreeSet::new();
    let mut by_fault: BTreeMap<Fault, (usize, i64, BTreeMap<String, usize>)> = BTreeMap::new();
    for window in windows {
        let row = by_fault.entry(window.fault).or_default();
        row.0 += 1;
        row.1 += window.end - window.begin;
        for (attempt, (begin, end)) in &spans {
            let lived = *begin <= window.end && *end >= window.begin;
            let told = ended.get(&attempt.job).filter(|_| lived);
            let told = told.and_then(|job| job.told.attempts.iter().find(|told| told.number == attempt.number));
            if let Some(told) = told {
                states.insert(told.state.clone());
                *row.2.entry(told.state.clone()).or_default() += 1;
            }
        }
    }
    println!();
    print!("{:32} {:>5} {:>7}", "fault", "times", "seconds");
    states.iter().for_each(|state| print!(" {state:>10}"));
    println!("   (attempts that lived through it)");
    for (fault, (times, millis, attempts)) in by_fault {
        print!("{fault:32} {times:>5} {:>7}", millis / 1000);
        for state in &states {
            print!(" {:>10}", attempts.get(state).copied().unwrap_or_default());
        }
        println!();
    }
    let mut kinds: BTreeMap<(&str, String), usize> = BTreeMap::new();
    for job in ended.values() {
        *kinds.entry((job.kind.name(), job.told.state.to_string())).or_default() += 1;
    }
    println!();
    println!("{:12} {:12} {:>6}", "job", "ended", "jobs");
    for ((kind, state), count) in kinds {
        println!("{kind:12} {state:12} {count:>6}");
    }
}

/// Faults that could not be done here; answers whether there are none.
pub(crate) fn not_run(storm: &Storm, fleet: &Fleet) -> bool {
    let clock = fleet.masters().any(crate::fleet::Daemon::has_own_clock);
    if !storm.small_disk {
        say("not done: a full disk (it takes root to mount a small one)");
    }
    if !clock {
        say("not done: a clock off by an hour (libfaketime is not there)");
    }
    if !fleet.has_engine() {
        say(
            "not done: jobs in containers, and their engine cut off (ROBATA_TEST_DOCKER_HOST and ROBATA_TEST_IMAGE say where)",
        );
    }
    storm.small_disk && clock && fleet.has_engine()
}

/// Requests that had to be made again.
pub(crate) fn requests(load: &Load) {
    println!();
    for (why, count) in load.refused() {
        println!("requests made again: {count:>6}  {why}");
    }
}

/// Times beside their bounds.
pub(crate) fn times(times: &[Bound]) {
    println!();
    println!(
        "{:28} {:>8}   {:^34}   {:^34}",
        "milliseconds", "bound", "undisturbed", "with other faults about"
    );
    println!(
        "{:28} {:>8}   {:>7} {:>8} {:>8} {:>8}   {:>7} {:>8} {:>8} {:>8}",
        "", "", "count", "p50", "p99", "most", "count", "p50", "p99", "most"
    );
    for bound in times {
        print!("{:28} {:>8}", bound.name, bound.bound);
        for sorted in [&bound.undisturbed, &bound.disturbed] {
            let at = |percent: usize| sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1)));
            let shown = |millis: Option<&i64>| millis.map_or_else(|| "-".to_owned(), ToString::to_string);
            print!(
                "   {:>7} {:>8} {:>8} {:>8}",
                sorted.len(),
                shown(at(50)),
                shown(at(99)),
                shown(sorted.last())
            );
        }
        println!();
    }
    println!();
}
