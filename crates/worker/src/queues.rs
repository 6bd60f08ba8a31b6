//! Which queues a worker takes from, and in which order (PROTOCOL O5).

use std::collections::{BTreeMap, BTreeSet};

use robata_core::{QueueName, job::Line};

/// The queues that a worker takes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Queues {
    /// All there are, alike.
    #[default]
    All,
    /// These, each with its weight from 1: of two full queues, one of weight 2 gets twice the room of one of weight 1.
    Weighted(BTreeMap<QueueName, u32>),
    /// These, one only while those before it are empty.
    Strict(Vec<QueueName>),
}

impl Queues {
    /// Whether it takes from this queue at all.
    pub(crate) fn takes(&self, queue: &QueueName) -> bool {
        match self {
            Self::All => true,
            Self::Weighted(weights) => weights.contains_key(queue),
            Self::Strict(order) => order.contains(queue),
        }
    }

    /// The lines with their weights, for one receive.
    pub(crate) fn weighted(&self, lines: &BTreeSet<Line>) -> Vec<(Line, u32)> {
        let weight = |line: &Line| match self {
            Self::Weighted(weights) => weights.get(&line.queue).copied(),
            Self::All | Self::Strict(_) => Some(1),
        };
        lines
            .iter()
            .filter_map(|line| Some((line.clone(), weight(line)?.max(1))))
            .collect()
    }

    /// The lines in strict order; `None` where none is asked for, or there is nothing to put in order.
    pub(crate) fn in_order(&self, lines: &BTreeSet<Line>) -> Option<Vec<Line>> {
        let Self::Strict(order) = self else {
            return None;
        };
        if lines.len() < 2 {
            return None;
        }
        let mut sorted: Vec<_> = lines.iter().cloned().collect();
        sorted.sort_by_key(|line| order.iter().position(|queue| *queue == line.queue));
        Some(sorted)
    }
}

#[cfg(test)]
mod tests {
    use robata_core::ExecutorName;

    use super::*;

    fn queue(name: &str) -> QueueName {
        QueueName::new(name).unwrap()
    }

    fn lines(names: &[&str]) -> BTreeSet<Line> {
        let executor = ExecutorName::new("process").unwrap();
        names
            .iter()
            .map(|name| Line {
                queue: queue(name),
                executor: executor.clone(),
            })
            .collect()
    }

    #[test]
    fn named_queues_are_taken_from_with_their_weights() {
        let queues = Queues::Weighted(BTreeMap::from([(queue("a"), 2), (queue("b"), 1)]));
        assert!(queues.takes(&queue("a")) && !queues.takes(&queue("c")));
        let weights: Vec<_> = queues
            .weighted(&lines(&["a", "b"]))
            .into_iter()
            .map(|(line, weight)| (line.queue.to_string(), weight))
            .collect();
        assert_eq!(weights, [("a".to_owned(), 2), ("b".to_owned(), 1)]);
        assert_eq!(queues.in_order(&lines(&["a", "b"])), None);
    }

    #[test]
    fn strict_queues_stand_in_the_order_that_was_asked_for() {
        let queues = Queues::Strict(vec![queue("z"), queue("a")]);
        let order = queues.in_order(&lines(&["a", "z"])).unwrap();
        let names: Vec<_> = order.iter().map(|line| line.queue.as_str()).collect();
        assert_eq!(names, ["z", "a"]);
        assert!(!queues.takes(&queue("m")));
    }

    #[test]
    fn by_default_all_are_taken_from_alike() {
        let queues = Queues::default();
        assert!(queues.takes(&queue("whatever")));
        assert!(
            queues
                .weighted(&lines(&["a", "b"]))
                .iter()
                .all(|(_, weight)| *weight == 1)
        );
    }
}
