//! What this process has received and not settled: nobody else gets it while the keeper asks for more time.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use robata_core::job::Line;
use tokio::time::Instant;

use crate::lines::Place;

/// So many acknowledged messages are remembered: SQS may deliver one of them once more, where a part of it did not hear of
/// its deletion.
const REMEMBERED: usize = 10_000;

/// A message by which the service knows it: good for the last time that it was delivered.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    pub(crate) line: Line,
    pub(crate) place: Arc<Place>,
    pub(crate) handle: String,
}

impl Handle {
    /// Of a message of no line.
    pub(crate) fn of_trial(url: &str, handle: &str) -> Self {
        Self {
            line: Line::accept(),
            place: Arc::new(Place::new(url, 0)),
            handle: handle.to_owned(),
        }
    }
}

#[derive(Debug)]
struct Out {
    id: String,
    handle: Handle,
    /// From then on another may have it.
    until: Instant,
    /// The caller is done with it, and the service has not heard of it.
    settled: bool,
    /// It can no longer be kept.
    lost: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Held {
    next: u64,
    out: HashMap<u64, Out>,
    /// Their numbers by the service's id of the message.
    numbers: HashMap<String, u64>,
    /// Acknowledged, the oldest first.
    ended: VecDeque<String>,
    ended_ids: HashSet<String>,
    /// Delivered once more after it was acknowledged.
    stray: Vec<Handle>,
    /// Nobody here wants it.
    back: Vec<Handle>,
}

/// What the keeper is to do.
#[derive(Debug, Default)]
pub(crate) struct Chores {
    pub(crate) extend: Vec<(u64, Handle)>,
    pub(crate) delete: Vec<(u64, Handle)>,
    pub(crate) stray: Vec<Handle>,
    pub(crate) back: Vec<Handle>,
}

impl Held {
    /// Takes in a message; answers its number, unless it is not to be delivered: it is here already, or was acknowledged.
    pub(crate) fn take_in(&mut self, id: &str, handle: Handle, until: Instant) -> Option<u64> {
        if self.ended_ids.contains(id) {
            self.stray.push(handle);
            return None;
        }
        if let Some(out) = self.numbers.get(id).and_then(|number| self.out.get_mut(number)) {
            // Only the last delivery's handle is sure to delete it.
            (out.handle, out.until, out.lost) = (handle, until, false);
            return None;
        }
        self.next += 1;
        let out = Out {
            id: id.to_owned(),
            handle,
            until,
            settled: false,
            lost: false,
        };
        self.out.insert(self.next, out);
        self.numbers.insert(id.to_owned(), self.next);
        Some(self.next)
    }

    /// Whether the caller still has it.
    pub(crate) fn is_out(&self, number: u64) -> bool {
        self.out.get(&number).is_some_and(|out| !out.settled)
    }

    /// The caller is done with these; what is known of each that the service has not heard of.
    pub(crate) fn settle(&mut self, numbers: &[u64]) -> Vec<(u64, Handle)> {
        let mut settling = Vec::with_capacity(numbers.len());
        for number in numbers {
            if let Some(out) = self.out.get_mut(number) {
                out.settled = true;
                settling.push((*number, out.handle.clone()));
            }
        }
        settling
    }

    /// The service has heard that it is acknowledged.
    pub(crate) fn end(&mut self, number: u64) {
        let Some(out) = self.remove(number) else { return };
        if self.ended_ids.insert(out.id.clone()) {
            self.ended.push_back(out.id);
        }
        if self.ended.len() > REMEMBERED
            && let Some(oldest) = self.ended.pop_front()
        {
            self.ended_ids.remove(&oldest);
        }
    }

    /// Nobody here wants it any more: others are to have it.
    pub(crate) fn put_back(&mut self, number: u64) {
        if self.is_out(number)
            && let Some(out) = self.remove(number)
        {
            self.back.push(out.handle);
        }
    }

    /// It is held until then.
    pub(crate) fn extended(&mut self, number: u64, until: Instant) {
        if let Some(out) = self.out.get_mut(&number) {
            out.until = out.until.max(until);
        }
    }

    /// It cannot be kept any more.
    pub(crate) fn lose(&mut self, number: u64) {
        if let Some(out) = self.out.get_mut(&number) {
            out.lost = true;
        }
    }

    fn remove(&mut self, number: u64) -> Option<Out> {
        let out = self.out.remove(&number)?;
        self.numbers.remove(&out.id);
        Some(out)
    }

    /// Whether there is nothing to keep.
    pub(crate) fn is_idle(&self) -> bool {
        self.out.is_empty() && self.stray.is_empty() && self.back.is_empty()
    }

    /// Everything that is to be done now, where messages are kept for `visibility` from each time on.
    pub(crate) fn chores(&mut self, now: Instant, visibility: Duration) -> Chores {
        let mut chores = Chores {
            stray: std::mem::take(&mut self.stray),
            back: std::mem::take(&mut self.back),
            ..Chores::default()
        };
        let mut over = Vec::new();
        for (number, out) in &self.out {
            let chore = || (*number, out.handle.clone());
            match out.settled {
                // It is out again, and this handle deletes nothing.
                true if out.until <= now => over.push(*number),
                true => chores.delete.push(chore()),
                false if !out.lost && out.until <= now + visibility / 2 => chores.extend.push(chore()),
                false => {}
            }
        }
        for number in over {
            self.remove(number);
        }
        chores
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VISIBILITY: Duration = Duration::from_secs(30);

    fn handle(handle: &str) -> Handle {
        Handle::of_trial("http://x/1/q", handle)
    }

    #[test]
    fn what_is_delivered_twice_is_in_one_hand_and_its_last_handle_counts() {
        let (mut held, now) = (Held::default(), Instant::now());
        let number = held.take_in("a", handle("first"), now + VISIBILITY).unwrap();
        assert_eq!(held.take_in("a", handle("second"), now + VISIBILITY), None);
        let settling = held.settle(&[number]);
        assert_eq!(settling[0].1.handle, "second");
        held.end(number);
        assert!(held.settle(&[number]).is_empty(), "acknowledged twice");
        assert_eq!(held.take_in("a", handle("third"), now + VISIBILITY), None);
        let chores = held.chores(now, VISIBILITY);
        assert_eq!(chores.stray[0].handle, "third");
        assert!(held.is_idle());
    }

    #[test]
    fn more_time_is_asked_for_in_time_and_until_it_is_settled() {
        let (mut held, now) = (Held::default(), Instant::now());
        let number = held.take_in("a", handle("h"), now + VISIBILITY).unwrap();
        assert!(held.chores(now, VISIBILITY).extend.is_empty());
        let later = now + VISIBILITY / 2;
        assert_eq!(held.chores(later, VISIBILITY).extend.len(), 1);
        held.extended(number, later + VISIBILITY);
        assert!(held.chores(later, VISIBILITY).extend.is_empty());
        held.settle(&[number]);
        let chores = held.chores(later, VISIBILITY);
        assert_eq!((chores.extend.len(), chores.delete.len()), (0, 1));
        // The service could not be told until another has it: that is all that can be done.
        assert!(held.chores(later + VISIBILITY, VISIBILITY).delete.is_empty());
        assert!(held.is_idle());
    }

    #[test]
    fn what_is_put_back_is_nobodys_here() {
        let (mut held, now) = (Held::default(), Instant::now());
        let number = held.take_in("a", handle("h"), now + VISIBILITY).unwrap();
        held.put_back(number);
        held.put_back(number);
        assert!(!held.is_out(number) && held.settle(&[number]).is_empty());
        assert_eq!(held.chores(now, VISIBILITY).back.len(), 1);
        assert!(
            held.take_in("a", handle("h2"), now + VISIBILITY).is_some(),
            "it may come again"
        );
    }

    #[test]
    fn what_is_remembered_of_acknowledged_messages_is_bounded() {
        let (mut held, until) = (Held::default(), Instant::now() + VISIBILITY);
        for id in 0..=REMEMBERED {
            let number = held.take_in(&id.to_string(), handle("h"), until).unwrap();
            held.end(number);
        }
        assert_eq!((held.ended.len(), held.ended_ids.len()), (REMEMBERED, REMEMBERED));
        assert!(
            held.take_in("0", handle("h"), until).is_some(),
            "the oldest is forgotten"
        );
        assert!(held.take_in("1", handle("h"), until).is_none());
    }
}
