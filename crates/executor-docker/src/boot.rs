//! Whether a container's end falls into the engine's own restart (PROTOCOL X4).
//!
//! An engine without live-restore ends its containers: going down in good order it sends SIGTERM, and soon answers no
//! more; after a crash its next start does so, before it serves. Their exit codes look like any other's.
//! The engine does not say when it was started, but it makes its `bridge` network anew at the end of each start
//! (both seen on engine 20.10; `initBridgeDriver` in `daemon/daemon_unix.go`).

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use robata_core::{
    Timestamp,
    executor::{Ending, Handle, Observation, ThingState},
    finish::End,
};

use crate::{engine::Engine, error::Fault, restart};

/// A start that finds containers running waits up to 10 s for each to end, then serves.
const BOOT: Duration = Duration::from_secs(30);
/// Going down in good order, it gives its containers up to 15 s (`shutdown-timeout`), and some of our connections last
/// until the end of that.
const DOWN: Duration = Duration::from_secs(20);
/// Two stamps of one moment differ by so much at most.
const SLACK: Duration = Duration::from_secs(2);
/// So many connections are remembered.
const SPANS: usize = 32;
/// So many ends that were the containers' own are remembered.
const OWN: usize = 1024;

/// A time in which we were connected to the engine, by the engine's clock.
#[derive(Debug)]
struct Span {
    id: u64,
    from: Timestamp,
    until: Option<Timestamp>,
    since: Instant,
    /// Whether its containers live on without it.
    live_restore: bool,
}

/// When we were connected to the engine's events, and whose ends were seen to be their own.
#[derive(Debug, Default)]
pub(crate) struct Watched(Mutex<(u64, VecDeque<Span>)>, Mutex<VecDeque<String>>);

impl Watched {
    pub(crate) fn begin(&self, engine_now: Timestamp, live_restore: bool) -> u64 {
        let mut spans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        spans.0 += 1;
        let id = spans.0;
        spans.1.push_back(Span {
            id,
            from: engine_now,
            until: None,
            since: Instant::now(),
            live_restore,
        });
        if spans.1.len() > SPANS {
            spans.1.pop_front();
        }
        id
    }

    pub(crate) fn end(&self, id: u64) {
        let mut spans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(span) = spans.1.iter_mut().find(|span| span.id == id && span.until.is_none()) {
            span.until = Some(span.from.plus(span.since.elapsed()));
        }
    }

    /// Whether we have been connected to the engine from then until now.
    pub(crate) fn unbroken_since(&self, time: Timestamp) -> bool {
        let spans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let whole = |span: &Span| span.until.is_none() && span.from <= time;
        spans.1.iter().any(whole)
    }

    /// Whether containers were to live on when the engine last went away, as far as we were there.
    fn lived_on(&self) -> bool {
        let spans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = spans.1.iter().rev().find(|span| span.until.is_some());
        last.is_none_or(|span| span.live_restore)
    }

    /// This container's end was seen and was its own; it stays so, whatever the engine does later.
    fn remember(&self, id: &str) {
        let mut own = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        if !own.iter().any(|own| own == id) {
            own.push_back(id.to_owned());
        }
        if own.len() > OWN {
            own.pop_front();
        }
    }

    fn is_own(&self, id: &str) -> bool {
        let own = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        own.iter().any(|own| own == id)
    }

    /// Whether a connection broke before then, or so soon after that the engine was going down already.
    fn broken_at(&self, time: Timestamp) -> bool {
        let spans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let broke = |span: &Span| span.until.is_some_and(|until| until.minus(DOWN) <= time);
        spans.1.iter().any(broke)
    }
}

/// Whether an end is the engine's doing. `booted` is when the engine was last started, as far as it tells.
fn is_engines(ending: &Ending, booted: Option<Timestamp>, watched: &Watched) -> bool {
    let (Some(booted), Some(finished)) = (booted, ending.finished_at) else {
        return false;
    };
    let by_signal = matches!(ending.end, End::Signalled(_) | End::Exited(255));
    // Exit 0 counts as what it says; out of memory is known for sure.
    if !by_signal && !matches!(ending.end, End::Exited(code) if code != 0) {
        return false;
    }
    // The engine starts nothing before it is up.
    if ending.started_at.is_some_and(|started| started >= booted) {
        return false;
    }
    if finished > booted.plus(SLACK) {
        return false;
    }
    // While it was starting; while it went down; or by a signal, which we see only now.
    finished >= booted.minus(BOOT) || watched.broken_at(finished) || by_signal
}

/// With live-restore a restart ends nothing; 255 is what the engine calls the end of what is gone without a word, as
/// after a crash of the machine.
async fn lives_on(engine: &Engine, watched: &Watched, ending: &Ending) -> Result<bool, Fault> {
    if ending.end == End::Exited(255) || !watched.lived_on() {
        return Ok(false);
    }
    let info = engine.call(|client| client.info()).await?;
    Ok(info.live_restore_enabled == Some(true))
}

/// Marks the ends that are the engine's doing.
pub(crate) async fn mark(engine: &Engine, watched: &Watched, observations: &mut [Observation]) -> Result<(), Fault> {
    let suspect = |one: &Observation| match &one.state {
        ThingState::Ended(ending) => matches!(ending.end, End::Signalled(_) | End::Exited(1..)),
        _ => false,
    };
    if !observations.iter().any(suspect) {
        return Ok(());
    }
    // An engine without its default network does not tell; then an end is taken for what it says.
    let booted = restart::booted(engine).await?;
    for one in observations {
        let Some(Handle(id)) = &one.handle else {
            continue;
        };
        if let ThingState::Ended(ending) = &mut one.state {
            if watched.is_own(id) || !is_engines(ending, booted, watched) || lives_on(engine, watched, ending).await? {
                watched.remember(id);
            } else {
                ending.end = End::EngineFault;
                ending.message = Some("ended by the engine's own restart".to_owned());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ending(end: End, finished: i64) -> Ending {
        Ending {
            end,
            started_at: Some(Timestamp::from_millis(0)),
            finished_at: Some(Timestamp::from_millis(finished)),
            detail: None,
            message: None,
        }
    }

    #[test]
    fn an_end_in_the_engines_start_is_the_engines() {
        let watched = Watched::default();
        let booted = Some(Timestamp::from_millis(100_000));
        let engines = |end, finished| is_engines(&ending(end, finished), booted, &watched);
        assert!(engines(End::Signalled(15), 99_500));
        assert!(engines(End::Exited(1), 90_000));
        assert!(!engines(End::Exited(0), 99_500));
        assert!(!engines(End::OutOfMemory(Some(137)), 99_500));
        assert!(!engines(End::Signalled(9), 110_000));
        let after = Ending {
            started_at: Some(Timestamp::from_millis(100_100)),
            ..ending(End::Exited(4), 100_500)
        };
        assert!(!is_engines(&after, booted, &watched));
        // Nobody looked: a signal is taken for the engine's, a plain failure is not.
        assert!(engines(End::Signalled(9), 10_000));
        assert!(!engines(End::Exited(1), 10_000));
    }

    #[test]
    fn an_end_long_before_our_connection_broke_is_its_own() {
        let watched = Watched::default();
        let span = watched.begin(Timestamp::from_millis(40_000), false);
        watched.end(span);
        let booted = Some(Timestamp::from_millis(100_000));
        assert!(!is_engines(&ending(End::Exited(3), 10_000), booted, &watched));
    }

    #[test]
    fn an_end_after_our_connection_broke_is_the_engines() {
        let watched = Watched::default();
        let span = watched.begin(Timestamp::from_millis(5_000), false);
        watched.end(span);
        let booted = Some(Timestamp::from_millis(100_000));
        assert!(is_engines(&ending(End::Exited(3), 20_000), booted, &watched));
    }
}
