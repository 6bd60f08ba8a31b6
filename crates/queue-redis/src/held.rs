//! What this process has of the broker's: messages that are out, and what is still to be told to the server.

use std::collections::{HashMap, HashSet};

use robata_core::job::Line;
use tokio::time::Instant;

/// At most so many acknowledgements are kept for a server that is away; more of them are redelivered when this process
/// ends, as at-least-once allows.
const MOST_SETTLED: usize = 100_000;

/// Ids of entries, by line.
pub(crate) type Ids = HashMap<Line, Vec<String>>;

/// A consumer's name that no read uses any more. What it holds and nobody here has is to be published again.
#[derive(Clone, Debug)]
pub(crate) struct Retired {
    pub(crate) consumer: String,
    pub(crate) lines: HashSet<Line>,
    /// Until then the server may still give it something: its blocked read may not have heard of its end.
    pub(crate) until: Instant,
}

#[derive(Debug, Default)]
pub(crate) struct Held {
    /// Received, and neither acknowledged nor given back.
    out: HashMap<Line, HashSet<String>>,
    /// To be published again.
    back: Ids,
    /// Acknowledged by our caller, and the server has not answered so.
    settled: Ids,
    retired: Vec<Retired>,
    /// The lines that this process receives from.
    lines: HashSet<Line>,
}

/// What the keeper is to do.
#[derive(Debug, Default)]
pub(crate) struct Chores {
    pub(crate) settled: Ids,
    pub(crate) back: Ids,
    pub(crate) retired: Vec<Retired>,
}

impl Held {
    pub(crate) fn take_out(&mut self, line: &Line, id: &str) {
        self.out.entry(line.clone()).or_default().insert(id.to_owned());
    }

    pub(crate) fn is_out(&self, line: &Line, id: &str) -> bool {
        self.out.get(line).is_some_and(|ids| ids.contains(id))
    }

    /// It is nobody's here any more; whether it was.
    pub(crate) fn settle(&mut self, line: &Line, id: &str) -> bool {
        let Some(ids) = self.out.get_mut(line) else {
            return false;
        };
        let was = ids.remove(id);
        if ids.is_empty() {
            self.out.remove(line);
        }
        was
    }

    /// Nobody here wants it any more: others are to have it.
    pub(crate) fn put_back(&mut self, line: &Line, id: String) {
        self.settle(line, &id);
        self.back.entry(line.clone()).or_default().push(id);
    }

    /// The caller is done with these; the server is to be told again.
    pub(crate) fn settle_later(&mut self, ids: Ids) {
        let room = MOST_SETTLED.saturating_sub(self.settled.values().map(Vec::len).sum());
        for (line, id) in flat(ids).take(room) {
            self.settled.entry(line).or_default().push(id);
        }
    }

    pub(crate) fn back_later(&mut self, ids: Ids) {
        for (line, id) in flat(ids) {
            self.back.entry(line).or_default().push(id);
        }
    }

    pub(crate) fn retire(&mut self, retired: Retired) {
        self.retired.push(retired);
    }

    pub(crate) fn receives_from(&mut self, lines: impl Iterator<Item = Line>) {
        self.lines.extend(lines);
    }

    pub(crate) fn lines(&self) -> Vec<Line> {
        self.lines.iter().cloned().collect()
    }

    /// Everything that is to be done; what cannot be done comes back by `…_later` and `retire`.
    pub(crate) fn chores(&mut self) -> Chores {
        Chores {
            settled: std::mem::take(&mut self.settled),
            back: std::mem::take(&mut self.back),
            retired: std::mem::take(&mut self.retired),
        }
    }
}

fn flat(ids: Ids) -> impl Iterator<Item = (Line, String)> {
    ids.into_iter()
        .flat_map(|(line, ids)| ids.into_iter().map(move |id| (line.clone(), id)))
}
