//! How soon what happened was noticed, beside the bounds of promise 8.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use robata_core::{JobId, Timestamp};
use robata_testkit::checker::Line;
use serde_json::Value;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::{
    clock::now,
    faults::{Fault, Window},
    judge::{Ended, Observed},
    load::Load,
};

/// A dead worker is noticed within this time, and its attempts are adopted within [`ADOPTED`] more.
const NOTICED: i64 = 15_000;
const ADOPTED: i64 = 5_000;
/// An end is recorded within this time.
const RECORDED: i64 = 1_000;
/// What a fault does lasts beyond its end: daemons start, leases end, judgement waits for one lease more.
const AFTERMATH: i64 = 20_000;

/// What was seen of one worker's incarnation.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    pid: u32,
    /// The store's time of its lease's end.
    ended: Option<i64>,
    /// Attempts in its name before its end was seen.
    held: u64,
    /// When it was first seen to hold nothing after its end.
    empty: Option<i64>,
}

/// Looks at the workers, all the time.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    seen: Mutex<BTreeMap<String, Seen>>,
}

impl Watch {
    pub(crate) async fn run(self: Arc<Self>, load: Arc<Load>, stop: CancellationToken) {
        while !stop.is_cancelled() {
            if let Ok(answer) = load.get("workers").await {
                self.look(&answer);
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    fn look(&self, answer: &str) {
        let at = now();
        let answer: Value = serde_json::from_str(answer).unwrap_or_default();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for worker in answer["workers"].as_array().into_iter().flatten() {
            let id = worker["id"].as_str().unwrap_or_default().to_owned();
            let one = seen.entry(id).or_default();
            one.pid = worker["pid"]
                .as_u64()
                .and_then(|pid| u32::try_from(pid).ok())
                .unwrap_or_default();
            let held = worker["attempts"].as_u64().unwrap_or_default();
            one.ended = millis(&worker["ended_at"]);
            if one.ended.is_none() {
                one.held = held;
            } else if held == 0 && one.empty.is_none() {
                one.empty = Some(at);
            }
        }
    }
}

/// One of the times that promise 8 bounds.
#[derive(Clone, Debug)]
pub(crate) struct Bound {
    pub(crate) name: &'static str,
    pub(crate) bound: i64,
    /// While nothing disturbed it, and while something did; in milliseconds, sorted.
    pub(crate) undisturbed: Vec<i64>,
    pub(crate) disturbed: Vec<i64>,
}

impl Bound {
    /// The largest, where it is more than twice the bound.
    pub(crate) fn broken(&self) -> Option<String> {
        let most = self.undisturbed.last().filter(|most| **most > 2 * self.bound)?;
        Some(format!(
            "{}: {most} ms, twice the bound is {} ms",
            self.name,
            2 * self.bound
        ))
    }
}

fn millis(time: &Value) -> Option<i64> {
    let time: Timestamp = time.as_str()?.parse().ok()?;
    Some(time.as_millis())
}

/// All of the times.
pub(crate) fn times(
    watch: &Watch,
    windows: &[Window],
    ended: &BTreeMap<JobId, Ended>,
    observed: &Observed,
) -> Vec<Bound> {
    let mut noticed = Bound::new("a dead worker is noticed", NOTICED);
    let mut adopted = Bound::new("its attempts are adopted", ADOPTED);
    let seen = watch.seen.lock().unwrap_or_else(PoisonError::into_inner);
    for kill in windows.iter().filter(|window| window.fault == Fault::KillWorker) {
        let others = |window: &&Window| window.begin != kill.begin && window.matters_to_leases();
        let disturbed = |from, to| windows.iter().filter(others).any(|window| window.touches(from, to));
        // The incarnation that lived last in this process.
        let of_it = seen
            .values()
            .filter(|one| Some(one.pid) == kill.pid)
            .filter_map(|one| Some((one.ended?, one)));
        let Some((end, one)) = of_it.max_by_key(|(end, _)| *end).filter(|(end, _)| *end >= kill.begin) else {
            continue;
        };
        noticed.add(end - kill.begin, disturbed(kill.begin, end));
        if let Some(empty) = one.empty.filter(|_| one.held > 0) {
            adopted.add(empty - end, disturbed(kill.begin, empty));
        }
    }
    let mut recorded = Bound::new("an end is recorded", RECORDED);
    let mut of_containers = Bound::new("a container's end is recorded", RECORDED);
    for line in &observed.lines {
        let Line::End(attempt, at) = line else { continue };
        // What was stopped ends in several steps; the bound is for what happens without our doing.
        if !observed.by_themselves.contains(attempt) {
            continue;
        }
        let Some(job) = ended.get(&attempt.job) else { continue };
        let last = job
            .told
            .attempts
            .last()
            .is_some_and(|last| last.number == attempt.number);
        if let Some(finished) = millis(&job.json["finished_at"]).filter(|_| last) {
            let disturbed = windows.iter().any(|window| window.touches(*at, finished));
            let bound = if job.kind.is_contained() {
                &mut of_containers
            } else {
                &mut recorded
            };
            bound.add(finished - at, disturbed);
        }
    }
    let mut all = vec![noticed, adopted, recorded, of_containers];
    for bound in &mut all {
        bound.undisturbed.sort_unstable();
        bound.disturbed.sort_unstable();
    }
    // Without an engine there are no containers.
    all.retain(|bound| !bound.undisturbed.is_empty() || !bound.disturbed.is_empty());
    all
}

impl Bound {
    fn new(name: &'static str, bound: i64) -> Self {
        Self {
            name,
            bound,
            undisturbed: Vec::new(),
            disturbed: Vec::new(),
        }
    }

    fn add(&mut self, millis: i64, disturbed: bool) {
        if disturbed {
            self.disturbed.push(millis);
        } else {
            self.undisturbed.push(millis);
        }
    }
}

impl Window {
    /// Whether it, or what followed from it, was going on between these times.
    fn touches(&self, from: i64, to: i64) -> bool {
        self.begin <= to && from <= self.end + AFTERMATH
    }

    /// Whether it may keep masters from judging a lease, or a worker from adopting.
    fn matters_to_leases(&self) -> bool {
        !matches!(
            self.fault,
            Fault::EmptyBroker
                | Fault::KillBroker
                | Fault::StopBroker
                | Fault::CloseConnections
                | Fault::CutBroker
                | Fault::FillDisk
        )
    }
}
