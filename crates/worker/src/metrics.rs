//! What a worker counts, by the API of OpenTelemetry: who reads it is the program's choice, and without anybody it costs
//! next to nothing.

use std::sync::{LazyLock, Weak};

use opentelemetry::{
    KeyValue, global,
    metrics::{Counter, Gauge, Histogram},
};
use robata_core::{AttemptState, ExecutorName, Format};

use crate::{clock::boot_time, shared::Shared};

/// From a millisecond to a minute.
const SECONDS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0,
];

pub(crate) static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

/// The instruments; made at their first use, by when a program has chosen who reads them.
#[derive(Debug)]
pub(crate) struct Metrics {
    claims: Counter<u64>,
    receive_errors: Counter<u64>,
    started: Counter<u64>,
    ended: Counter<u64>,
    adopted: Counter<u64>,
    claim_to_start: Histogram<f64>,
    format: Gauge<u64>,
    own_format: Gauge<u64>,
}

impl Metrics {
    fn new() -> Self {
        let meter = global::meter("robata");
        Self {
            claims: meter
                .u64_counter("robata_claims")
                .with_description("References claimed, by result")
                .build(),
            receive_errors: meter
                .u64_counter("robata_receive_errors")
                .with_description("Receives that the broker, and claims that the store, failed")
                .build(),
            started: meter
                .u64_counter("robata_attempts_started")
                .with_description("Attempts that were set going")
                .build(),
            ended: meter
                .u64_counter("robata_attempts_ended")
                .with_description("Attempts whose end was recorded, by outcome")
                .build(),
            adopted: meter
                .u64_counter("robata_adoptions")
                .with_description("Attempts taken over from workers that went away")
                .build(),
            claim_to_start: meter
                .f64_histogram("robata_claim_to_start")
                .with_description("From an attempt's claim to its being set going")
                .with_unit("s")
                .with_boundaries(SECONDS.to_vec())
                .build(),
            format: meter
                .u64_gauge("robata_format_in_use")
                .with_description("The format in which all daemons write, as last seen")
                .build(),
            own_format: meter
                .u64_gauge("robata_format_own")
                .with_description("The newest format that this daemon reads")
                .build(),
        }
    }

    pub(crate) fn claims(&self, executor: &ExecutorName, held: usize, lost: usize) {
        for (result, count) in [("held", held), ("dropped", lost)] {
            let labels = [of(executor), KeyValue::new("result", result)];
            self.claims.add(count as u64, &labels);
        }
    }

    pub(crate) fn receive_error(&self, executor: &ExecutorName) {
        self.receive_errors.add(1, &[of(executor)]);
    }

    pub(crate) fn started(&self, executor: &ExecutorName, after_claim: std::time::Duration) {
        self.started.add(1, &[of(executor)]);
        self.claim_to_start.record(after_claim.as_secs_f64(), &[of(executor)]);
    }

    pub(crate) fn ended(&self, executor: &ExecutorName, state: AttemptState) {
        self.ended
            .add(1, &[of(executor), KeyValue::new("outcome", state.as_str())]);
    }

    pub(crate) fn format(&self, in_use: Format) {
        self.format.record(in_use.number().into(), &[]);
        self.own_format.record(Format::OWN.number().into(), &[]);
    }

    pub(crate) fn adopted(&self, executor: &ExecutorName) {
        self.adopted.add(1, &[of(executor)]);
    }
}

fn of(executor: &ExecutorName) -> KeyValue {
    KeyValue::new("executor", executor.to_string())
}

/// Shows what a worker holds, as long as it is there.
pub(crate) fn observe(shared: &Weak<Shared>) {
    let meter = global::meter("robata");
    let all = Weak::clone(shared);
    let _running = meter
        .u64_observable_gauge("robata_attempts_running")
        .with_description("Attempts that this worker holds")
        .with_callback(move |gauge| {
            if let Some(shared) = all.upgrade() {
                gauge.observe(shared.held.len() as u64, &[]);
            }
        })
        .build();
    let all = Weak::clone(shared);
    let _slots = meter
        .u64_observable_gauge("robata_slots")
        .with_description("Attempts that this worker takes at once")
        .with_callback(move |gauge| {
            for engine in all.upgrade().iter().flat_map(|shared| shared.engines.values()) {
                gauge.observe(engine.max_slots as u64, &[of(&engine.name)]);
            }
        })
        .build();
    let all = Weak::clone(shared);
    let _free = meter
        .u64_observable_gauge("robata_slots_free")
        .with_description("Of them, those that are free")
        .with_callback(move |gauge| {
            for engine in all.upgrade().iter().flat_map(|shared| shared.engines.values()) {
                gauge.observe(engine.slots.free() as u64, &[of(&engine.name)]);
            }
        })
        .build();
    let all = Weak::clone(shared);
    let _age = meter
        .f64_observable_gauge("robata_heartbeat_age")
        .with_description("Since the last heartbeat that the store answered was sent")
        .with_unit("s")
        .with_callback(move |gauge| {
            if let Some(sent) = all.upgrade().and_then(|shared| shared.lease.last_sent()) {
                gauge.observe(boot_time().saturating_sub(sent).as_secs_f64(), &[]);
            }
        })
        .build();
}
