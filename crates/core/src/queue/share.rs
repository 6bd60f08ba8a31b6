//! The fair share between lines, by stride scheduling: whoever has paid least goes next. Pure values, no waiting; for
//! adapters whose broker shares nothing out by itself.

use std::collections::HashMap;

use crate::job::Line;

/// What a line of weight 1 pays for one message; one of weight n pays an n-th.
const STRIDE: u64 = 1 << 32;

/// What each line has paid so far.
#[derive(Debug, Default)]
pub struct Share {
    paid: HashMap<Line, Account>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Account {
    paid: u64,
    /// Whether it had more than was taken from it, when it was last looked at.
    full: bool,
}

/// Lines in the order of their turn, each with its part of the room.
pub type Plan = Vec<(Line, u32, usize)>;

impl Share {
    /// How `room` is to be shared, where each line has so much as `has` says. Lines named twice are taken once, with both
    /// weights.
    pub fn plan(&mut self, lines: &[(Line, u32)], room: usize, has: impl Fn(&Line) -> usize) -> Plan {
        let mut weights: HashMap<&Line, u32> = HashMap::with_capacity(lines.len());
        for (line, weight) in lines {
            let sum = weights.entry(line).or_default();
            *sum = sum.saturating_add(*weight);
        }
        self.level(weights.keys().copied());
        let mut plan: Vec<_> = weights
            .into_iter()
            .map(|(line, weight)| (self.account(line).paid, line, weight, 0_usize))
            .collect();
        plan.sort_unstable();
        // The turns are played with a copy of the accounts: what is paid is what is taken.
        let mut turns: std::collections::BinaryHeap<_> = plan
            .iter()
            .enumerate()
            .filter(|(_, (_, line, ..))| has(line) > 0)
            .map(|(index, (paid, ..))| std::cmp::Reverse((*paid, index)))
            .collect();
        for _ in 0..room {
            let Some(std::cmp::Reverse((paid, index))) = turns.pop() else {
                break;
            };
            let (_, line, weight, share) = &mut plan[index];
            *share += 1;
            if *share >= has(line) {
                continue;
            }
            let price = STRIDE / u64::from((*weight).max(1));
            turns.push(std::cmp::Reverse((paid.saturating_add(price), index)));
        }
        plan.into_iter()
            .map(|(_, line, weight, share)| (line.clone(), weight, share))
            .collect()
    }

    /// Notes what was taken of a line, and whether it has more.
    pub fn pay(&mut self, line: &Line, weight: u32, taken: usize, full: bool) {
        let account = self.paid.entry(line.clone()).or_default();
        let price = STRIDE / u64::from(weight.max(1));
        let taken = u64::try_from(taken).unwrap_or(u64::MAX);
        account.paid = account.paid.saturating_add(price.saturating_mul(taken));
        account.full = full;
    }

    /// A line that was empty is neither owed that time, nor does it owe what it took while it was alone: it stands
    /// within one stride of the full ones.
    fn level<'a>(&mut self, lines: impl Iterator<Item = &'a Line> + Clone) {
        let furthest = |only_full: bool| {
            lines
                .clone()
                .map(|line| self.account(line))
                .filter(|account| account.full || !only_full)
                .map(|account| account.paid)
                .max()
        };
        let Some(furthest) = furthest(true).or_else(|| furthest(false)) else {
            return;
        };
        for line in lines {
            let account = self.paid.entry(line.clone()).or_default();
            account.paid = account.paid.clamp(furthest.saturating_sub(STRIDE), furthest);
        }
    }

    fn account(&self, line: &Line) -> Account {
        self.paid.get(line).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(name: &str) -> Line {
        Line {
            queue: name.parse().unwrap(),
            executor: "e".parse().unwrap(),
        }
    }

    /// Takes `times` × `room` where these lines are full, and counts what each gets.
    fn take(
        share: &mut Share,
        lines: &[(Line, u32)],
        full: &[&str],
        room: usize,
        times: usize,
    ) -> HashMap<String, usize> {
        let mut got = HashMap::new();
        for _ in 0..times {
            let mut left = room;
            for (line, weight, part) in share.plan(lines, room, |_| usize::MAX) {
                let is_full = full.contains(&line.queue.as_str());
                let taken = if is_full { part.min(left) } else { 0 };
                left -= taken;
                share.pay(&line, weight, taken, is_full);
                *got.entry(line.queue.as_str().to_owned()).or_default() += taken;
            }
        }
        got
    }

    #[test]
    fn room_is_shared_by_weight() {
        let lines = [(line("a"), 1), (line("b"), 3)];
        let got = take(&mut Share::default(), &lines, &["a", "b"], 8, 10);
        assert_eq!((got["a"], got["b"]), (20, 60));
        let got = take(&mut Share::default(), &lines, &["a", "b"], 1, 80);
        assert_eq!((got["a"], got["b"]), (20, 60));
    }

    #[test]
    fn a_line_that_was_alone_does_not_starve_when_another_comes() {
        let lines = [(line("old"), 1), (line("new"), 1)];
        let mut share = Share::default();
        take(&mut share, &lines[..1], &["old"], 10, 100);
        take(&mut share, &lines[..1], &[], 10, 1);
        let got = take(&mut share, &lines, &["old", "new"], 10, 4);
        assert!(got["old"] >= 15 && got["new"] >= 15, "{got:?}");
    }

    #[test]
    fn what_one_line_lacks_is_the_others_room() {
        let lines = [(line("a"), 1), (line("b"), 1), (line("c"), 1)];
        let has = |line: &Line| match line.queue.as_str() {
            "a" => 2,
            "b" => 100,
            _ => 0,
        };
        let plan = Share::default().plan(&lines, 10, has);
        let shares: HashMap<_, _> = plan
            .iter()
            .map(|(line, _, share)| (line.queue.as_str(), *share))
            .collect();
        assert_eq!((shares["a"], shares["b"], shares["c"]), (2, 8, 0));
    }

    #[test]
    fn a_line_named_twice_is_one_line() {
        let plan = Share::default().plan(&[(line("a"), 1), (line("a"), 2)], 5, |_| usize::MAX);
        assert_eq!(plan.len(), 1);
        assert_eq!((plan[0].1, plan[0].2), (3, 5));
    }
}
