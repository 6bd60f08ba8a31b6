//! What this process has received and not settled. Each receive has a channel of its own, and a message can be settled on
//! its channel only: with the channel it goes back to the broker.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use lapin::Channel;
use robata_core::job::Line;

use crate::connect::Live;

/// Of channels that the broker has closed so many may be remembered, to tell whoever settles late.
const MOST_CLOSED: usize = 1000;

/// Messages by their channel's number and their own.
pub(crate) type Tags = HashMap<u64, Vec<u64>>;

/// A receive's channel with what it brought.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) channel: Channel,
    pub(crate) live: Arc<Live>,
    out: BTreeMap<u64, Line>,
    /// How many steps the broker was told.
    told: usize,
}

/// What is to be told to one channel.
#[derive(Debug)]
pub(crate) struct Settling {
    pub(crate) channel: Channel,
    pub(crate) live: Arc<Live>,
    /// How many messages it settles.
    pub(crate) count: usize,
    /// In this order; `true`: with all before it.
    pub(crate) steps: Vec<(u64, bool)>,
    /// Whether it was all that the channel had.
    pub(crate) last: bool,
    /// How many steps the channel was told in all.
    pub(crate) told: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Held {
    next: u64,
    open: HashMap<u64, Open>,
}

impl Held {
    /// Takes in what a channel has brought; answers the channel's number.
    pub(crate) fn take_in(&mut self, channel: Channel, live: Arc<Live>, out: BTreeMap<u64, Line>) -> u64 {
        let closed = |open: &Open| !open.channel.status().connected();
        if self.open.len() > MOST_CLOSED && self.open.values().filter(|open| closed(open)).count() > MOST_CLOSED {
            self.open.retain(|_, open| !closed(open));
        }
        self.next += 1;
        let told = 0;
        self.open.insert(
            self.next,
            Open {
                channel,
                live,
                out,
                told,
            },
        );
        self.next
    }

    /// Whether the message is here, and can be settled.
    pub(crate) fn is_out(&self, channel: u64, tag: u64) -> bool {
        let open = self.open.get(&channel);
        open.is_some_and(|open| open.out.contains_key(&tag) && open.channel.status().connected())
    }

    /// How many messages of a line are here.
    pub(crate) fn count(&self, line: &Line) -> usize {
        let open = self.open.values().filter(|open| open.channel.status().connected());
        open.map(|open| open.out.values().filter(|out| *out == line).count())
            .sum()
    }

    /// The caller is done with these; what was settled before is left out.
    pub(crate) fn settle(&mut self, channel: u64, tags: &[u64]) -> Option<Settling> {
        let open = self.open.get_mut(&channel)?;
        let mut tags: Vec<u64> = tags
            .iter()
            .copied()
            .filter(|tag| open.out.remove(tag).is_some())
            .collect();
        if tags.is_empty() {
            return None;
        }
        tags.sort_unstable();
        let steps = steps(&tags, open.out.keys().next().copied());
        open.told += steps.len();
        let settling = Settling {
            channel: open.channel.clone(),
            live: Arc::clone(&open.live),
            count: tags.len(),
            steps,
            last: open.out.is_empty(),
            told: open.told,
        };
        if settling.last {
            self.open.remove(&channel);
        }
        Some(settling)
    }

    /// Gives up a channel with all that it has: dropped, it closes, and the broker delivers that again.
    pub(crate) fn give_up(&mut self, channel: u64) -> Option<Open> {
        self.open.remove(&channel)
    }
}

/// As few steps as will do, for each is an entry in the queue's log: all before the first that stays are settled at once.
/// A message that the broker sent and we never saw comes after all that we have seen, and is never settled by this.
fn steps(tags: &[u64], stays: Option<u64>) -> Vec<(u64, bool)> {
    let before = tags.partition_point(|tag| stays.is_none_or(|stays| *tag < stays));
    let (before, after) = tags.split_at(before);
    let all = before.last().map(|last| (*last, before.len() > 1));
    all.into_iter().chain(after.iter().map(|tag| (*tag, false))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_settled_that_stays() {
        assert_eq!(steps(&[1, 2, 3], None), [(3, true)]);
        assert_eq!(steps(&[2], None), [(2, false)]);
        assert_eq!(steps(&[1, 2, 4, 6], Some(3)), [(2, true), (4, false), (6, false)]);
        assert_eq!(steps(&[4, 6], Some(1)), [(4, false), (6, false)]);
        assert!(steps(&[], Some(1)).is_empty());
    }
}
