//! The one place of this program that reads the system's clock; and times as people read them.

use std::{str::FromStr, time::Duration};

use robata_core::{Timestamp, definition::duration};

/// Now, by this machine's clock: for showing ages, never for deciding about jobs.
#[expect(clippy::disallowed_methods, reason = "this is the clock module")]
pub(crate) fn now() -> Timestamp {
    Timestamp::from_millis(jiff::Timestamp::now().as_millisecond())
}

/// A time given as such, or as how long ago.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Moment {
    At(Timestamp),
    Ago(Duration),
}

impl Moment {
    /// The time that is meant.
    pub(crate) fn time(self) -> Timestamp {
        match self {
            Self::At(time) => time,
            Self::Ago(time) => now().minus(time),
        }
    }
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(time) = text.parse() {
            return Ok(Self::At(time));
        }
        duration::parse(text)
            .map(Self::Ago)
            .map_err(|_| format!("{text:?} is neither a time (as 2026-11-20T09:30:00Z) nor how long ago (as 2h)"))
    }
}

/// A length of time in its two largest units.
pub(crate) fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes, seconds % 60) {
        (0, 0, 0, _) if seconds < 10 => format!("{:.1}s", time.as_secs_f64()),
        (0, 0, 0, seconds) => format!("{seconds}s"),
        (0, 0, minutes, seconds) => format!("{minutes}m{seconds:02}s"),
        (0, hours, minutes, _) => format!("{hours}h{minutes:02}m"),
        (days, hours, ..) => format!("{days}d{hours:02}h"),
    }
}

/// How long ago, or in how long.
pub(crate) fn ago(time: Timestamp, now: Timestamp) -> String {
    if time > now.plus(Duration::from_secs(1)) {
        format!("in {}", span(time.since(now)))
    } else {
        format!("{} ago", span(now.since(time)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_show_their_two_largest_units() {
        for (seconds, text) in [
            (0, "0.0s"),
            (42, "42s"),
            (61, "1m01s"),
            (3_700, "1h01m"),
            (90_000, "1d01h"),
        ] {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn the_past_and_the_future_are_told_apart() {
        let now = Timestamp::from_millis(1_000_000_000);
        assert_eq!(ago(now.minus(Duration::from_secs(120)), now), "2m00s ago");
        assert_eq!(ago(now.plus(Duration::from_secs(60)), now), "in 1m00s");
    }
}
