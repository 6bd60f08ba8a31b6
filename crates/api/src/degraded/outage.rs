//! What this process has put into the broker and the store does not know of yet: from which time on an unknown id may still
//! come, and how much it is.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use robata_core::{JobId, Timestamp};
use tokio::sync::Notify;

/// An outage as this process sees it.
#[derive(Debug, Default)]
pub(super) struct Outage {
    state: Mutex<State>,
    /// There is something to be noted in the store.
    pub(super) begun: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// The earliest id that may be in the broker.
    since: Option<Timestamp>,
    /// Raised with each whole job.
    generation: u64,
    /// Whole jobs on their way to the broker.
    under_way: usize,
    /// Of those that are in the broker, may be, or are on their way.
    bytes: u64,
}

/// A whole job on its way to the broker, until it is dropped.
#[derive(Debug)]
pub(super) struct UnderWay {
    outage: Arc<Outage>,
    bytes: u64,
}

impl UnderWay {
    /// The broker surely does not have it: its bytes may be another's. Its time stays noted, which costs nobody a job.
    pub(super) fn never_arrived(self) {
        let mut state = self.outage.state();
        state.bytes = state.bytes.saturating_sub(self.bytes);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.outage.state().under_way -= 1;
    }
}

/// What is to be noted in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ToNote {
    pub(super) since: Timestamp,
    generation: u64,
}

impl Outage {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock can panic halfway through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A whole job of so many bytes is about to go out; `None` where they would be more than `most` in this outage.
    pub(super) fn goes(self: &Arc<Self>, id: JobId, bytes: u64, most: u64) -> Option<UnderWay> {
        let mut state = self.state();
        let all = state.bytes.saturating_add(bytes);
        if all > most {
            return None;
        }
        let time = id.timestamp();
        state.bytes = all;
        state.since = Some(state.since.map_or(time, |since| since.min(time)));
        state.generation += 1;
        state.under_way += 1;
        drop(state);
        self.begun.notify_one();
        Some(UnderWay {
            outage: Arc::clone(self),
            bytes,
        })
    }

    /// Whether a job of this id may be in the broker by what is not noted in the store yet.
    pub(super) fn may_come(&self, id: JobId) -> bool {
        self.state().since.is_some_and(|since| since <= id.timestamp())
    }

    /// What is to be noted in the store; not while something is under way, whose end nobody would look for.
    pub(super) fn to_note(&self) -> Option<ToNote> {
        let state = self.state();
        let since = state.since.filter(|_| state.under_way == 0)?;
        Some(ToNote {
            since,
            generation: state.generation,
        })
    }

    /// Whether there is anything that is not noted yet.
    pub(super) fn is_unnoted(&self) -> bool {
        self.state().since.is_some()
    }

    /// It is noted in the store; unless more went out meanwhile, that is all.
    pub(super) fn noted(&self, noted: ToNote) {
        let mut state = self.state();
        if state.generation == noted.generation {
            state.since = None;
            state.bytes = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_may_come_from_the_earliest_on_until_all_is_noted() {
        let outage = Arc::new(Outage::default());
        let (early, late) = (JobId::new(), JobId::new());
        assert!(!outage.may_come(late) && outage.to_note().is_none());
        let first = outage.goes(late, 10, 100).unwrap();
        let second = outage.goes(early, 10, 100).unwrap();
        assert!(outage.may_come(early) && outage.may_come(late));
        drop(first);
        assert_eq!(outage.to_note(), None, "one is still under way");
        drop(second);
        let to_note = outage.to_note().unwrap();
        assert_eq!(to_note.since, early.timestamp());
        drop(outage.goes(late, 10, 100));
        outage.noted(to_note);
        assert!(outage.is_unnoted(), "one went out since");
        outage.noted(outage.to_note().unwrap());
        assert!(!outage.is_unnoted() && !outage.may_come(late));
    }

    #[test]
    fn what_goes_out_in_one_outage_is_bounded() {
        let outage = Arc::new(Outage::default());
        assert!(outage.goes(JobId::new(), 60, 100).is_some());
        assert!(outage.goes(JobId::new(), 41, 100).is_none());
        assert!(outage.goes(JobId::new(), 40, 100).is_some());
        outage.noted(outage.to_note().unwrap());
        assert!(outage.goes(JobId::new(), 100, 100).is_some());
    }

    #[test]
    fn what_never_arrived_leaves_its_bytes_to_others() {
        let outage = Arc::new(Outage::default());
        drop(outage.goes(JobId::new(), 60, 100));
        outage.goes(JobId::new(), 40, 100).unwrap().never_arrived();
        assert!(outage.goes(JobId::new(), 41, 100).is_none(), "the first may be there");
        assert!(outage.goes(JobId::new(), 40, 100).is_some());
        assert!(outage.to_note().is_some(), "nothing is under way any more");
    }
}
