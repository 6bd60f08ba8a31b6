//! What a master's loops count, by the API of OpenTelemetry; who reads it is the program's choice.

use std::sync::LazyLock;

use opentelemetry::{
    KeyValue, global,
    metrics::{Counter, Gauge},
};
use robata_core::{Format, job::Line};

pub(crate) static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

/// The instruments; made at their first use, by when a program has chosen who reads them.
#[derive(Debug)]
pub(crate) struct Metrics {
    published: Counter<u64>,
    void: Counter<u64>,
    due: Counter<u64>,
    leases: Counter<u64>,
    lost: Counter<u64>,
    pruned: Counter<u64>,
    taken_in: Counter<u64>,
    accept_waiting: Gauge<u64>,
    errors: Counter<u64>,
    format: Gauge<u64>,
    own_format: Gauge<u64>,
}

impl Metrics {
    fn new() -> Self {
        let meter = global::meter("robata");
        let counter = |name: &'static str, help: &'static str| meter.u64_counter(name).with_description(help).build();
        Self {
            published: counter("robata_published", "References sent out to lines"),
            void: counter(
                "robata_void_publications",
                "References that the broker lost and that go out again",
            ),
            due: counter("robata_due_moved", "Jobs that became due"),
            leases: counter("robata_leases_expired", "Leases of workers that were judged over"),
            lost: counter("robata_attempts_lost", "Attempts that nobody came for"),
            pruned: counter("robata_pruned", "Ended jobs removed after their retention"),
            taken_in: counter(
                "robata_taken_in",
                "Whole jobs that came by the broker, by what became of them",
            ),
            accept_waiting: meter
                .u64_gauge("robata_accept_waiting")
                .with_description("Whole jobs in the broker that wait to be taken in, as last seen")
                .build(),
            format: meter
                .u64_gauge("robata_format_in_use")
                .with_description("The format in which all daemons write, as last seen")
                .build(),
            own_format: meter
                .u64_gauge("robata_format_own")
                .with_description("The newest format that this daemon reads")
                .build(),
            errors: counter("robata_scheduler_errors", "Rounds of a loop that failed, by loop"),
        }
    }

    pub(crate) fn published(&self, line: &Line, count: usize) {
        self.published.add(count as u64, &of(line));
    }

    pub(crate) fn void(&self, line: &Line, count: usize) {
        self.void.add(count as u64, &of(line));
    }

    pub(crate) fn due(&self, count: usize) {
        self.due.add(count as u64, &[]);
    }

    pub(crate) fn leases(&self, count: usize) {
        self.leases.add(count as u64, &[]);
    }

    pub(crate) fn lost(&self, count: usize) {
        self.lost.add(count as u64, &[]);
    }

    pub(crate) fn pruned(&self, count: usize) {
        self.pruned.add(count as u64, &[]);
    }

    pub(crate) fn taken_in(&self, result: &'static str) {
        self.taken_in.add(1, &[KeyValue::new("result", result)]);
    }

    pub(crate) fn accept_waiting(&self, count: u64) {
        self.accept_waiting.record(count, &[]);
    }

    pub(crate) fn format(&self, in_use: Format) {
        self.format.record(in_use.number().into(), &[]);
        self.own_format.record(Format::OWN.number().into(), &[]);
    }

    pub(crate) fn error(&self, name: &'static str) {
        self.errors.add(1, &[KeyValue::new("loop", name)]);
    }
}

fn of(line: &Line) -> [KeyValue; 2] {
    [
        KeyValue::new("queue", line.queue.to_string()),
        KeyValue::new("executor", line.executor.to_string()),
    ]
}
