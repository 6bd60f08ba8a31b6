//! The due loop: what was delayed or backing off becomes queued at its time, not at the next tick.

use std::time::Duration;

use futures::StreamExt;
use robata_core::{
    part::Backoff,
    store::{Due, Hint, Store},
};

use crate::{
    metrics::METRICS,
    part::{backoff, within},
};

/// Without anything scheduled it still looks this often: hints are lossy.
const IDLE: Duration = Duration::from_secs(5);
/// Jobs moved in one transaction.
const BATCH: usize = 1_000;
/// The first rest while somebody else has locked what is due (another master's batch, a long apply), and the longest: a
/// transaction that froze may hold it for minutes. What else comes due meanwhile is later by this at most.
const LOCKED: Duration = Duration::from_millis(40);
const LOCKED_LONG: Duration = Duration::from_secs(1);

fn locked() -> Backoff {
    Backoff::new(LOCKED, LOCKED_LONG)
}

/// How long to rest after a round; `None`: there is more that can be moved at once.
fn rest(due: &Due, locked: &mut Backoff) -> Option<Duration> {
    if due.moved >= BATCH || due.expired >= BATCH {
        return None;
    }
    // A round that was not full took all there was but what others have locked.
    let is_locked = due.next.is_some_and(|next| next.is_zero());
    if !is_locked || due.moved + due.expired > 0 {
        *locked = self::locked();
    }
    Some(if is_locked {
        locked.next()
    } else {
        due.next.map_or(IDLE, |next| next.min(IDLE))
    })
}

/// Moves what is due, for ever.
pub(crate) async fn serve(store: &dyn Store, patience: Duration) {
    let mut hints = store.hints();
    let mut failed = backoff();
    let mut locked = locked();
    loop {
        let wait = match within(patience, "store.due", store.due(BATCH)).await {
            Ok(due) => {
                failed = backoff();
                METRICS.due(due.moved);
                let Some(wait) = rest(&due, &mut locked) else {
                    continue;
                };
                wait
            }
            Err(error) => {
                METRICS.error("due");
                tracing::warn!(error = %error.full(), "cannot move what is due");
                // Hints of what is due sooner would not help.
                tokio::time::sleep(failed.next()).await;
                continue;
            }
        };
        let until = tokio::time::Instant::now() + wait;
        tokio::select! {
            () = tokio::time::sleep_until(until) => {}
            () = sooner(&mut hints, until) => {}
        }
    }
}

/// Waits until something was scheduled that is due before `until`, and for it; not where that may have been missed.
async fn sooner(hints: &mut (impl futures::Stream<Item = Hint> + Unpin), mut until: tokio::time::Instant) {
    loop {
        tokio::select! {
            hint = hints.next() => match hint {
                Some(Hint::Due(after)) => until = until.min(tokio::time::Instant::now() + after),
                Some(Hint::Gap) => return,
                Some(_) => {}
                None => return std::future::pending().await,
            },
            () = tokio::time::sleep_until(until) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(moved: usize, expired: usize, next: Option<u64>) -> Due {
        Due {
            moved,
            expired,
            lines: Vec::new(),
            next: next.map(Duration::from_millis),
        }
    }

    #[test]
    fn what_others_have_locked_is_asked_for_ever_more_rarely() {
        let mut locked = locked();
        let mut asked = 0;
        let mut passed = Duration::ZERO;
        while passed < Duration::from_secs(60) {
            passed += rest(&round(0, 0, Some(0)), &mut locked).unwrap();
            asked += 1;
        }
        assert!(asked < 100, "{asked} times in a minute");
        let longest = rest(&round(0, 0, Some(0)), &mut locked).unwrap();
        assert!(longest <= LOCKED_LONG.mul_f64(1.25), "{longest:?}");
        // Something moved: not at once, for the rest may still be locked, but soon.
        for round in [round(3, 0, Some(0)), round(0, 3, Some(0))] {
            let soon = rest(&round, &mut locked).unwrap();
            assert!(soon >= Duration::from_millis(20) && soon <= LOCKED * 2, "{soon:?}");
        }
    }

    #[test]
    fn a_full_round_goes_on_at_once_and_others_wait_for_what_is_next() {
        let mut locked = locked();
        assert_eq!(rest(&round(BATCH, 0, Some(0)), &mut locked), None);
        assert_eq!(rest(&round(0, BATCH, Some(0)), &mut locked), None);
        let soon = rest(&round(0, 0, Some(7)), &mut locked);
        assert_eq!(soon, Some(Duration::from_millis(7)));
        assert_eq!(rest(&round(9, 0, Some(3_600_000)), &mut locked), Some(IDLE));
        assert_eq!(rest(&round(0, 0, None), &mut locked), Some(IDLE));
    }
}
