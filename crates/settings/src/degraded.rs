//! `[degraded]`: accepting jobs by the broker while the store does not serve.

use std::time::Duration;

use robata_core::definition::{Memory, duration};
use serde::{Deserialize, Serialize};

/// `[degraded]`. Jobs go by the broker only while that says that it may take whole jobs: RabbitMQ and SQS, and Redis with
/// `appendfsync always` and `noeviction`. With others they are refused while the store does not serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DegradedSettings {
    /// Whether jobs are accepted by the broker while the store does not serve; else they are refused then.
    pub enabled: bool,
    /// So many failures of the store in a row, and jobs go to the broker, or are refused, without asking it.
    pub failures: u32,
    /// The same at once where the store does not answer an enqueue for this long; for 5 s at least where they are refused.
    #[serde(with = "duration")]
    pub hang: Duration,
    /// A job with all that belongs to it has at most this many bytes on this path, or what the broker takes, if that is less.
    pub job_bytes: Memory,
    /// What one master puts into the broker in one outage, at most.
    pub outage_bytes: Memory,
}

impl Default for DegradedSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            failures: 3,
            hang: Duration::from_secs(1),
            job_bytes: Memory { bytes: 256 << 10 },
            outage_bytes: Memory { bytes: 1 << 30 },
        }
    }
}

impl DegradedSettings {
    /// Keys whose values cannot be meant, and why.
    pub(crate) fn mistakes(&self) -> Vec<(&'static str, &'static str)> {
        let mut found = Vec::new();
        if self.failures == 0 {
            found.push(("failures", "must be 1 or more"));
        }
        if !(Duration::from_millis(50)..=Duration::from_secs(60)).contains(&self.hang) {
            found.push(("hang", "must be from 50ms to 1m"));
        }
        for (key, size) in [("job_bytes", self.job_bytes), ("outage_bytes", self.outage_bytes)] {
            if size.bytes == 0 {
                found.push((
                    key,
                    "must be more than 0; to refuse jobs while the store does not serve: enabled = false",
                ));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_meant_is_told_by_its_key() {
        assert!(DegradedSettings::default().mistakes().is_empty());
        let none = Memory { bytes: 0 };
        let wrong = DegradedSettings {
            enabled: true,
            failures: 0,
            hang: Duration::ZERO,
            job_bytes: none,
            outage_bytes: none,
        };
        let keys: Vec<_> = wrong.mistakes().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["failures", "hang", "job_bytes", "outage_bytes"]);
    }
}
