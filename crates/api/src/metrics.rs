//! Counters of this process, in Prometheus' text form.

use std::{
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering},
};

use robata_core::store::{QueueCounts, WorkerRecord};

use crate::degraded::Path;

/// What this process counts.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    created: AtomicU64,
    replayed: AtomicU64,
    accepted: AtomicU64,
    refused: AtomicU64,
}

impl Metrics {
    pub(crate) fn created(&self) {
        self.created.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn replayed(&self) {
        self.replayed.fetch_add(1, Ordering::Relaxed);
    }

    /// By the broker.
    pub(crate) fn accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// All of it, and what the store says now; `None` where the store does not answer.
    pub(crate) fn render(
        &self,
        waiting: usize,
        path: Option<Path>,
        store: Option<(&[QueueCounts], &[WorkerRecord])>,
    ) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        let out = &mut text;
        head(
            out,
            "robata_enqueued_total",
            "counter",
            "Jobs asked for over HTTP, by result",
        )?;
        for (result, counter) in [
            ("created", &self.created),
            ("replayed", &self.replayed),
            ("accepted", &self.accepted),
            ("refused", &self.refused),
        ] {
            let count = counter.load(Ordering::Relaxed);
            writeln!(out, "robata_enqueued_total{{result=\"{result}\"}} {count}")?;
        }
        head(
            out,
            "robata_http_waiting",
            "gauge",
            "Requests that wait for a job to change",
        )?;
        writeln!(out, "robata_http_waiting {waiting}")?;
        if let Some(path) = path {
            head(
                out,
                "robata_accepting",
                "gauge",
                "By which way jobs are accepted now: the store, the broker, or none",
            )?;
            for each in Path::ALL {
                writeln!(
                    out,
                    "robata_accepting{{path=\"{}\"}} {}",
                    each.as_str(),
                    u8::from(each == path)
                )?;
            }
        }
        head(out, "robata_store_up", "gauge", "Whether the store answers")?;
        writeln!(out, "robata_store_up {}", u8::from(store.is_some()))?;
        let Some((queues, workers)) = store else {
            return Ok(text);
        };
        head(
            out,
            "robata_jobs",
            "gauge",
            "Jobs that have not ended, by line and state",
        )?;
        for counts in queues {
            for (state, count) in [
                ("scheduled", counts.scheduled),
                ("queued", counts.queued),
                ("running", counts.running),
            ] {
                // Names are letters, digits, '_' and '-': nothing to escape.
                let (queue, executor) = (&counts.line.queue, &counts.line.executor);
                writeln!(
                    out,
                    "robata_jobs{{queue=\"{queue}\",executor=\"{executor}\",state=\"{state}\"}} {count}"
                )?;
            }
        }
        let live = || workers.iter().filter(|worker| worker.ended_at.is_none());
        head(out, "robata_workers", "gauge", "Live workers")?;
        writeln!(out, "robata_workers {}", live().count())?;
        head(out, "robata_attempts_held", "gauge", "Attempts that live workers hold")?;
        let held: u64 = live().map(|worker| worker.held).sum();
        writeln!(out, "robata_attempts_held {held}")?;
        Ok(text)
    }
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) -> std::fmt::Result {
    writeln!(out, "# HELP {name} {help}.\n# TYPE {name} {kind}")
}
