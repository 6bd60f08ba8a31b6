//! The lines themselves: plain values under one lock, and the fair share between them. Nothing here waits.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet, VecDeque},
    sync::Arc,
};

use robata_core::{
    job::Line,
    queue::{Delivery, Depth, Message, Receipt},
};
use tokio::sync::Notify;

/// What a line of weight 1 pays for one message; one of weight n pays an n-th.
const STRIDE: u64 = 1 << 32;
/// Once a line has paid so much, all are let off the same, so that what they pay never comes to an end. Whoever is further
/// behind than a stride would be lifted to that anyway.
const LET_OFF: u64 = u64::MAX / 2;

/// Where a line stands in [`Lines`].
pub(crate) type Index = usize;

/// All lines of one queue.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    by_name: HashMap<Line, Index>,
    lines: Vec<OneLine>,
    next_receipt: u64,
    next_waiter: u64,
}

#[derive(Debug)]
struct OneLine {
    name: Line,
    waiting: VecDeque<Message>,
    /// The messages themselves are in the deliveries; here stands only which of them are still out.
    unacknowledged: HashSet<u64>,
    /// What the line has paid so far: the one that has paid least goes next (stride scheduling).
    paid: u64,
    waiters: Vec<(u64, Arc<Notify>)>,
}

impl Lines {
    /// Lines whose receipts begin at `first_receipt`, so that another queue's receipts mean nothing here.
    pub(crate) fn new(first_receipt: u64) -> Self {
        Self {
            next_receipt: first_receipt,
            ..Self::default()
        }
    }

    fn index(&mut self, name: &Line) -> Index {
        if let Some(index) = self.by_name.get(name) {
            return *index;
        }
        let index = self.lines.len();
        self.by_name.insert(name.clone(), index);
        self.lines.push(OneLine {
            name: name.clone(),
            waiting: VecDeque::new(),
            unacknowledged: HashSet::new(),
            paid: 0,
            waiters: Vec::new(),
        });
        index
    }

    /// The lines of a request by their index, each once; weights of one named twice are added.
    pub(crate) fn resolve(&mut self, lines: &[(Line, u32)]) -> Vec<(Index, u32)> {
        let mut resolved: Vec<_> = lines.iter().map(|(line, weight)| (self.index(line), *weight)).collect();
        resolved.sort_unstable();
        resolved.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            if same {
                kept.1 = kept.1.saturating_add(next.1);
            }
            same
        });
        resolved
    }

    /// Puts messages at the end of a line and wakes everybody who waits on it.
    pub(crate) fn publish(&mut self, line: &Line, messages: Vec<Message>) {
        if messages.is_empty() {
            return;
        }
        let index = self.index(line);
        let line = &mut self.lines[index];
        line.waiting.extend(messages);
        // All of them: one that is woken may be dropped before it takes anything, and then nobody else would know.
        for (_, waiter) in &line.waiters {
            waiter.notify_one();
        }
    }

    /// Takes up to `max` messages, from each line in proportion to its weight.
    pub(crate) fn take(&mut self, wanted: &[(Index, u32)], max: usize) -> Vec<Delivery> {
        let full = |lines: &[OneLine], index: &Index| !lines[*index].waiting.is_empty();
        let Some(furthest) = wanted
            .iter()
            .filter(|(index, _)| full(&self.lines, index))
            .map(|(index, _)| self.lines[*index].paid)
            .max()
        else {
            return Vec::new();
        };
        let furthest = self.let_off(furthest);
        // A line that was empty for long is not owed all of that time, and one that others emptied too does not pay for
        // them: two full lines are never more than one stride apart, so none is let further behind.
        let floor = furthest.saturating_sub(STRIDE);
        let mut order = BinaryHeap::with_capacity(wanted.len());
        for (index, weight) in wanted {
            let line = &mut self.lines[*index];
            line.paid = line.paid.max(floor);
            if !line.waiting.is_empty() {
                order.push(Reverse((line.paid, *index, *weight)));
            }
        }
        let mut deliveries = Vec::new();
        while deliveries.len() < max
            && let Some(Reverse((_, index, weight))) = order.pop()
        {
            let line = &mut self.lines[index];
            let Some(message) = line.waiting.pop_front() else {
                continue;
            };
            let number = self.next_receipt;
            self.next_receipt = self.next_receipt.wrapping_add(1);
            line.unacknowledged.insert(number);
            line.paid = line.paid.saturating_add(STRIDE / u64::from(weight.max(1)));
            deliveries.push(Delivery {
                line: line.name.clone(),
                message,
                receipt: receipt(number),
            });
            if !line.waiting.is_empty() {
                order.push(Reverse((line.paid, index, weight)));
            }
        }
        deliveries
    }

    /// Has every line pay less, where the one that paid most has paid too much; answers what that one has paid then.
    fn let_off(&mut self, furthest: u64) -> u64 {
        if furthest < LET_OFF {
            return furthest;
        }
        let less = furthest - STRIDE;
        for line in &mut self.lines {
            line.paid = line.paid.saturating_sub(less);
        }
        STRIDE
    }

    /// Takes a delivery off the list of those that are out; whether it was on it.
    pub(crate) fn settle(&mut self, delivery: &Delivery) -> bool {
        let (Some(index), Some(number)) = (self.by_name.get(&delivery.line), number(&delivery.receipt)) else {
            return false;
        };
        self.lines[*index].unacknowledged.remove(&number)
    }

    /// How much is in a line.
    pub(crate) fn depth(&self, line: &Line) -> Depth {
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        match self.by_name.get(line).map(|index| &self.lines[*index]) {
            Some(line) => Depth {
                waiting: count(line.waiting.len()),
                unacknowledged: count(line.unacknowledged.len()),
                receivers: Some(count(line.waiters.len())),
            },
            None => Depth {
                receivers: Some(0),
                ..Depth::default()
            },
        }
    }

    /// Has `waiter` woken by what is published to these lines; answers the number to leave with.
    pub(crate) fn wait_on(&mut self, wanted: &[(Index, u32)], waiter: &Arc<Notify>) -> u64 {
        let number = self.next_waiter;
        self.next_waiter += 1;
        for (index, _) in wanted {
            self.lines[*index].waiters.push((number, Arc::clone(waiter)));
        }
        number
    }

    /// Ends what `wait_on` began.
    pub(crate) fn leave(&mut self, wanted: &[(Index, u32)], number: u64) {
        for (index, _) in wanted {
            self.lines[*index].waiters.retain(|(waiter, _)| *waiter != number);
        }
    }
}

fn receipt(number: u64) -> Receipt {
    Receipt(format!("{number:x}"))
}

fn number(receipt: &Receipt) -> Option<u64> {
    u64::from_str_radix(&receipt.0, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_stay_fair_however_much_was_carried() {
        let mut lines = Lines::new(0);
        let names = ["one", "two"].map(|queue| Line {
            queue: queue.parse().unwrap(),
            executor: "process".parse().unwrap(),
        });
        for name in &names {
            lines.publish(name, vec![Message::default(); 400]);
        }
        // As after four thousand million messages.
        for line in &mut lines.lines {
            line.paid = u64::MAX - 20 * STRIDE;
        }
        let wanted = lines.resolve(&[(names[0].clone(), 1), (names[1].clone(), 3)]);
        let mut shares = [0, 0];
        for _ in 0..400 {
            for delivery in lines.take(&wanted, 1) {
                shares[usize::from(delivery.line == names[1])] += 1;
            }
        }
        assert!((95..=105).contains(&shares[0]), "{shares:?}");
        assert!(lines.lines.iter().all(|line| line.paid < LET_OFF));
    }
}
