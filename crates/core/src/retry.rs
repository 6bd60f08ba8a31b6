//! When a failed attempt is followed by another, and after how long.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::definition::duration;

/// How the time between attempts grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backoff {
    /// Always the base.
    Fixed,
    /// The base times the number of counted attempts.
    Linear,
    /// The base, doubled with each counted attempt.
    #[default]
    Exponential,
}

/// How much of the time between attempts is left to chance, so that failures of one moment do not come back as one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Jitter {
    /// Nothing.
    None,
    /// The upper half.
    Half,
    /// All of it, from zero.
    #[default]
    Full,
}

/// A job's policy of retries, whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetryPolicy {
    /// The job's own attempts, at least 1.
    pub max_attempts: u32,
    /// How the time between attempts grows.
    pub backoff: Backoff,
    /// The first time between attempts.
    #[serde(with = "duration")]
    pub base: Duration,
    /// The longest time between attempts.
    #[serde(with = "duration")]
    pub max: Duration,
    /// How much of it is left to chance.
    pub jitter: Jitter,
    /// Exit codes after which the job fails at once.
    pub not_on_exit_codes: Vec<i32>,
    /// Attempts that the platform pays for, after which the job fails all the same.
    pub platform: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 1,
            backoff: Backoff::Exponential,
            base: Duration::from_secs(15),
            max: Duration::from_secs(3600),
            jitter: Jitter::Full,
            not_on_exit_codes: Vec::new(),
            platform: 5,
        }
    }
}

impl RetryPolicy {
    /// The time before the next attempt, after `counted` attempts that counted; `chance` is uniform in 0..1.
    ///
    /// Attempts that the platform pays for do not lengthen it: with none counted it is zero.
    #[must_use]
    pub fn delay(&self, counted: u32, chance: f64) -> Duration {
        if counted == 0 {
            return Duration::ZERO;
        }
        let whole = match self.backoff {
            Backoff::Fixed => self.base,
            Backoff::Linear => self.base.saturating_mul(counted),
            Backoff::Exponential => self
                .base
                .saturating_mul(1_u32.checked_shl(counted - 1).unwrap_or(u32::MAX)),
        };
        let whole = whole.min(self.max);
        let chance = chance.clamp(0.0, 1.0);
        match self.jitter {
            Jitter::None => whole,
            Jitter::Half => whole.mul_f64(0.5 + chance / 2.0),
            Jitter::Full => whole.mul_f64(chance),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn exponential_doubles_up_to_its_cap() {
        let policy = RetryPolicy {
            jitter: Jitter::None,
            ..RetryPolicy::default()
        };
        let seconds = |counted| policy.delay(counted, 0.3).as_secs();
        assert_eq!(
            [1, 2, 3, 4, 9, 10, 40].map(seconds),
            [15, 30, 60, 120, 3600, 3600, 3600]
        );
    }

    #[test]
    fn linear_and_fixed_do_as_they_say() {
        let linear = RetryPolicy {
            backoff: Backoff::Linear,
            jitter: Jitter::None,
            ..RetryPolicy::default()
        };
        assert_eq!(linear.delay(3, 0.0), Duration::from_secs(45));
        let fixed = RetryPolicy {
            backoff: Backoff::Fixed,
            jitter: Jitter::None,
            ..RetryPolicy::default()
        };
        assert_eq!(fixed.delay(3, 0.0), Duration::from_secs(15));
    }

    proptest! {
        #[test]
        fn no_delay_is_longer_than_the_cap(counted in 0_u32..200, chance in 0.0..1.0, linear: bool) {
            let backoff = if linear { Backoff::Linear } else { Backoff::Exponential };
            let policy = RetryPolicy { backoff, ..RetryPolicy::default() };
            prop_assert!(policy.delay(counted, chance) <= policy.max);
        }
    }
}
