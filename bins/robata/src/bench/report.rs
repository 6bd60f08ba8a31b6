//! What was measured, as a table and as JSON.

use serde::Serialize;

use crate::{
    output::{Output, Tone},
    table::{Table, cell},
};

/// Everything that a run found out.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    machine: Machine,
    rows: Vec<Row>,
    /// Scenarios that could not be measured, and why.
    not_run: Vec<NotRun>,
}

/// Where it was measured: figures mean nothing without it.
#[derive(Debug, Serialize)]
struct Machine {
    cores: usize,
    cpu: String,
    memory_mib: u64,
    kernel: String,
    /// The folder that held the data.
    folder: String,
    /// Whether that folder is in memory, where durable costs nothing and means nothing.
    folder_in_memory: bool,
    version: &'static str,
    debug_build: bool,
}

/// One figure.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    scenario: &'static str,
    measure: String,
    value: f64,
    unit: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<Target>,
    /// Whether the target is met; absent where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    met: Option<bool>,
    /// The raw limit, in the same unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    raw: Option<f64>,
    /// What the raw limit is.
    #[serde(skip_serializing_if = "Option::is_none")]
    raw_measure: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

/// What a value should be.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Target {
    AtLeast(f64),
    AtMost(f64),
}

#[derive(Debug, Serialize)]
struct NotRun {
    scenario: &'static str,
    reason: String,
}

impl Row {
    pub(super) fn new(scenario: &'static str, measure: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self {
            scenario,
            measure: measure.into(),
            value,
            unit,
            target: None,
            met: None,
            raw: None,
            raw_measure: None,
            note: None,
        }
    }

    pub(super) fn at_least(mut self, target: f64) -> Self {
        self.target = Some(Target::AtLeast(target));
        self.met = Some(self.value >= target);
        self
    }

    pub(super) fn at_most(mut self, target: f64) -> Self {
        self.target = Some(Target::AtMost(target));
        self.met = Some(self.value <= target);
        self
    }

    pub(super) fn raw(mut self, value: f64, measure: impl Into<String>) -> Self {
        self.raw = Some(value);
        self.raw_measure = Some(measure.into());
        self
    }

    pub(super) fn note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }
}

impl Report {
    pub(super) fn new() -> Self {
        Self {
            machine: Machine::here(),
            rows: Vec::new(),
            not_run: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    pub(super) fn failed(&mut self, scenario: &'static str, error: &anyhow::Error) {
        self.not_run.push(NotRun {
            scenario,
            reason: format!("{error:#}"),
        });
    }

    /// Whether everything was measured.
    pub(super) fn is_whole(&self) -> bool {
        self.not_run.is_empty()
    }

    pub(super) fn text(&self, out: &Output) -> String {
        let mut table = Table::new(&["SCENARIO", "MEASURE", "VALUE", "TARGET", "RAW", "REMARKS"]);
        for row in &self.rows {
            let tone = row.met.map(|met| if met { Tone::Good } else { Tone::Bad });
            let target = match row.target {
                Some(Target::AtLeast(value)) => format!("≥ {}", number(value)),
                Some(Target::AtMost(value)) => format!("≤ {}", number(value)),
                None => "-".to_owned(),
            };
            let raw_measure = row.raw_measure.as_ref().map(|measure| format!("raw: {measure}"));
            let remarks: Vec<_> = raw_measure.iter().chain(&row.note).map(String::as_str).collect();
            table.row(vec![
                cell(row.scenario),
                cell(&row.measure),
                (tone, format!("{} {}", number(row.value), row.unit)),
                cell(target),
                cell(row.raw.map_or_else(|| "-".to_owned(), number)),
                cell(remarks.join("; ")),
            ]);
        }
        let mut text = self.machine.text();
        text.push_str(&table.text(out, "nothing was measured\n"));
        for missing in &self.not_run {
            text.push_str(&format!("{} was not measured: {}\n", missing.scenario, missing.reason));
        }
        text
    }
}

impl Machine {
    fn here() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let after_colon = |text: &str, key: &str| {
            let line = text.lines().find(|line| line.starts_with(key))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let folder = std::env::temp_dir();
        let memory = after_colon(&read("/proc/meminfo"), "MemTotal");
        let kib = memory.and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        let in_memory = nix::sys::statfs::statfs(&folder)
            .is_ok_and(|found| found.filesystem_type() == nix::sys::statfs::TMPFS_MAGIC);
        Self {
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            cpu: after_colon(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".to_owned()),
            memory_mib: kib.unwrap_or(0) / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            folder: folder.display().to_string(),
            folder_in_memory: in_memory,
            version: env!("CARGO_PKG_VERSION"),
            debug_build: cfg!(debug_assertions),
        }
    }

    fn text(&self) -> String {
        let mut text = format!(
            "robata {} on {} cores ({}), {} MiB, Linux {}; data in {}\n",
            self.version, self.cores, self.cpu, self.memory_mib, self.kernel, self.folder
        );
        if self.debug_build {
            text.push_str("this is a debug build: build with --release for figures that mean something\n");
        }
        if self.folder_in_memory {
            text.push_str("that folder is in memory: set TMPDIR to one on a disk, or durability costs nothing here\n");
        }
        text
    }
}

/// As many digits as a reader needs.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 || value == value.trunc() => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_whether_its_target_is_met() {
        assert_eq!(Row::new("a", "b", 5.0, "/s").at_least(5.0).met, Some(true));
        assert_eq!(Row::new("a", "b", 4.9, "/s").at_least(5.0).met, Some(false));
        assert_eq!(Row::new("a", "b", 5.1, "ms").at_most(5.0).met, Some(false));
        assert_eq!(Row::new("a", "b", 5.1, "ms").met, None);
    }

    #[test]
    fn numbers_have_as_many_digits_as_a_reader_needs() {
        assert_eq!(
            [1234.56, 12.34, 0.123, 40.0].map(number),
            ["1235", "12.3", "0.12", "40"]
        );
    }
}
