//! A store that does not serve yet: a program that is started before its database, by compose or by a host that comes up,
//! waits for it. What waiting does not cure ends it at once.

use std::time::Duration;

use robata_core::{Result, Retry, part::Backoff};
use tokio::time::{Instant, sleep};

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(2);
/// The log has a line of it at most so often.
const TOLD_EVERY: Duration = Duration::from_secs(5);

/// Opens; where the error says that the same call may be sent again, again and again, until it can be opened or it says
/// otherwise.
pub(crate) async fn until_it_serves<T>(mut open: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let begun = Instant::now();
    let mut backoff = Backoff::new(FIRST, LONGEST);
    let mut told: Option<Instant> = None;
    loop {
        let error = match open().await {
            Err(error) if error.retry() != Retry::No => error,
            Ok(opened) => {
                if told.is_some() {
                    let waited_secs = begun.elapsed().as_secs_f64();
                    tracing::info!(event = "served", waited_secs, "the store serves now");
                }
                return Ok(opened);
            }
            Err(error) => return Err(error),
        };
        if told.is_none_or(|told| told.elapsed() >= TOLD_EVERY) {
            told = Some(Instant::now());
            tracing::warn!(
                event = "waiting",
                why = error.full(),
                "waits for the store, and tries again until it serves"
            );
        }
        sleep(backoff.next()).await;
    }
}

#[cfg(test)]
mod tests {
    use robata_core::{Error, ErrorKind};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_may_come_is_waited_for_and_what_will_not_is_not() {
        let mut times = 0;
        let opened = until_it_serves(async || {
            times += 1;
            match times {
                50 => Ok(7),
                _ => Err(Error::new(ErrorKind::Unavailable, "store.open", "refused")),
            }
        });
        assert_eq!(opened.await.unwrap(), 7);
        assert_eq!(times, 50);

        let mut times = 0;
        let refused = until_it_serves(async || {
            times += 1;
            let error = Error::new(ErrorKind::Unavailable, "store.open", "wrong password");
            Err::<(), _>(if times == 3 { error.with_retry(Retry::No) } else { error })
        });
        assert_eq!(refused.await.unwrap_err().message(), "wrong password");
        assert_eq!(times, 3);
    }
}
