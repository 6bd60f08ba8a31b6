//! Where receives wait for the first message of any of their lines: a pure table of who waits for what. SQS knows no waiting
//! on several queues, so each line has one poll at a time, whoever waits for it; and a poll is never broken off, because what
//! SQS has then taken would be nobody's until its time is over.

use std::{
    collections::{HashSet, VecDeque},
    time::Duration,
};

use robata_core::{job::Line, queue::Delivery};
use tokio::{sync::oneshot, time::Instant};

use crate::{batch::MOST, client::LONGEST_POLL, error::Fault};

/// What a receive waits for; nothing where it is to look again, for one of its lines has failed.
pub(crate) type Parcel = Result<Vec<Delivery>, Fault>;

#[derive(Debug)]
struct Waiter {
    number: u64,
    lines: Vec<Line>,
    room: usize,
    /// `None`: for ever.
    until: Option<Instant>,
    to: oneshot::Sender<Parcel>,
}

/// What a poll is to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) room: usize,
    /// Whole seconds, from 1.
    pub(crate) wait: Duration,
}

#[derive(Debug, Default)]
pub(crate) struct Desk {
    next: u64,
    /// Who has waited longest stands first.
    waiters: VecDeque<Waiter>,
    polled: HashSet<Line>,
}

impl Desk {
    /// Begins to wait; answers the waiter's number, what it waits for, and the lines whose poll is to be started.
    pub(crate) fn wait(
        &mut self,
        lines: Vec<Line>,
        room: usize,
        until: Option<Instant>,
    ) -> (u64, oneshot::Receiver<Parcel>, Vec<Line>) {
        self.next += 1;
        let (to, parcel) = oneshot::channel();
        let polls = lines.iter().filter(|line| self.polled.insert((*line).clone())).cloned();
        let polls = polls.collect();
        self.waiters.push_back(Waiter {
            number: self.next,
            lines,
            room,
            until,
            to,
        });
        (self.next, parcel, polls)
    }

    /// Waits no more. What was handed over before lies in the waiter's hand.
    pub(crate) fn leave(&mut self, number: u64) {
        self.waiters.retain(|waiter| waiter.number != number);
    }

    /// What the poll of a line is to ask for next; `None`: nobody waits, and the poll is over.
    pub(crate) fn wanted(&mut self, line: &Line, now: Instant) -> Option<Wanted> {
        let mut wanted: Option<Wanted> = None;
        for waiter in self.waiters.iter().filter(|waiter| waiter.lines.contains(line)) {
            let left = waiter.until.map(|until| until.saturating_duration_since(now));
            let seconds = left.map_or(LONGEST_POLL.as_secs(), |left| left.as_secs_f64().ceil() as u64);
            let wait = Duration::from_secs(seconds.clamp(1, LONGEST_POLL.as_secs()));
            wanted = Some(match wanted {
                None => Wanted {
                    room: waiter.room.min(MOST),
                    wait,
                },
                Some(before) => Wanted {
                    room: before.room.saturating_add(waiter.room).min(MOST),
                    wait: before.wait.max(wait),
                },
            });
        }
        if wanted.is_none() {
            self.polled.remove(line);
        }
        wanted
    }

    /// The poll of a line has ended without asking.
    pub(crate) fn over(&mut self, line: &Line) {
        self.polled.remove(line);
    }

    /// Hands over what came of a line; answers what nobody waits for.
    pub(crate) fn hand(&mut self, line: &Line, mut deliveries: Vec<Delivery>) -> Vec<Delivery> {
        while !deliveries.is_empty() {
            let Some(index) = self.waiters.iter().position(|waiter| waiter.lines.contains(line)) else {
                break;
            };
            let Some(waiter) = self.waiters.remove(index) else {
                break;
            };
            let rest = deliveries.split_off(deliveries.len().min(waiter.room));
            let refused = waiter.to.send(Ok(deliveries)).err().and_then(Result::ok);
            deliveries = refused.unwrap_or_default();
            deliveries.extend(rest);
        }
        deliveries
    }

    /// The poll of a line has failed, and is over: tells all who wait for it. Where the fault is the line's own, those who wait
    /// for others, too, are to look again instead, without it; answers whether there are any.
    pub(crate) fn fail(&mut self, line: &Line, fault: &Fault) -> bool {
        self.polled.remove(line);
        let mut go_on = false;
        let (told, kept): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut self.waiters)
            .into_iter()
            .partition(|waiter| waiter.lines.contains(line));
        self.waiters = kept;
        for waiter in told {
            let has_others = waiter.lines.iter().any(|other| other != line);
            let parcel = if has_others && fault.is_of_one_queue() {
                go_on = true;
                Ok(Vec::new())
            } else {
                Err(fault.clone())
            };
            // Whoever has left needs to hear nothing.
            drop(waiter.to.send(parcel));
        }
        go_on
    }
}

#[cfg(test)]
mod tests {
    use robata_core::queue::{Message, Receipt};

    use super::*;

    fn line(name: &str) -> Line {
        Line {
            queue: name.parse().unwrap(),
            executor: "e".parse().unwrap(),
        }
    }

    fn deliveries(line: &Line, count: usize) -> Vec<Delivery> {
        let one = |number: usize| Delivery {
            line: line.clone(),
            message: Message::default(),
            receipt: Receipt(number.to_string()),
        };
        (0..count).map(one).collect()
    }

    #[test]
    fn a_line_has_one_poll_whoever_waits_and_it_ends_with_the_last() {
        let (mut desk, now) = (Desk::default(), Instant::now());
        let (a, b) = (line("a"), line("b"));
        let (first, _parcel, polls) = desk.wait(vec![a.clone()], 3, Some(now + Duration::from_millis(1500)));
        assert_eq!(polls, std::slice::from_ref(&a));
        let (second, _parcel, polls) = desk.wait(vec![a.clone(), b.clone()], 4, None);
        assert_eq!(polls, std::slice::from_ref(&b));
        let wanted = |room, seconds| {
            Some(Wanted {
                room,
                wait: Duration::from_secs(seconds),
            })
        };
        assert_eq!(desk.wanted(&a, now), wanted(7, 20));
        assert_eq!(desk.wanted(&b, now), wanted(4, 20));
        desk.leave(second);
        assert_eq!(desk.wanted(&a, now), wanted(3, 2));
        assert_eq!(desk.wanted(&b, now), None);
        desk.leave(first);
        assert_eq!(desk.wanted(&a, now), None);
        assert_eq!(desk.wait(vec![a.clone()], 1, None).2, [a], "a new poll");
    }

    #[test]
    fn who_has_waited_longest_is_first_and_what_is_left_comes_back() {
        let (mut desk, a) = (Desk::default(), line("a"));
        let (_, mut one, _) = desk.wait(vec![a.clone()], 2, None);
        let (_, gone, _) = desk.wait(vec![a.clone()], 2, None);
        let (_, mut other, _) = desk.wait(vec![line("b")], 2, None);
        let (_, mut last, _) = desk.wait(vec![a.clone()], 2, None);
        drop(gone);
        let left = desk.hand(&a, deliveries(&a, 5));
        assert_eq!(one.try_recv().unwrap().unwrap().len(), 2);
        assert_eq!(last.try_recv().unwrap().unwrap().len(), 2);
        assert!(other.try_recv().is_err(), "it waits for another line");
        assert_eq!(left.len(), 1);
    }

    #[test]
    fn a_poll_that_fails_is_told_to_all_who_wait_for_its_line() {
        let (mut desk, a, b) = (Desk::default(), line("a"), line("b"));
        let (_, mut one, _) = desk.wait(vec![a.clone()], 2, None);
        let (_, mut other, _) = desk.wait(vec![b.clone()], 2, None);
        assert!(!desk.fail(&a, &Fault::Unreached("away".to_owned())));
        assert!(matches!(one.try_recv(), Ok(Err(Fault::Unreached(_)))));
        assert!(other.try_recv().is_err());
        assert_eq!(desk.wait(vec![a.clone(), b], 1, None).2, [a], "a new poll");
    }

    #[test]
    fn a_fault_of_one_line_has_those_who_wait_for_others_look_again() {
        let (mut desk, a, b) = (Desk::default(), line("a"), line("b"));
        let (_, mut one, _) = desk.wait(vec![a.clone()], 2, None);
        let (_, mut both, _) = desk.wait(vec![a.clone(), b.clone()], 2, None);
        let (_, mut other, _) = desk.wait(vec![b], 2, None);
        let redriven = Fault::Redrive {
            name: "q".to_owned(),
            target: "dead".to_owned(),
        };
        assert!(desk.fail(&a, &redriven), "somebody goes on");
        assert!(
            matches!(one.try_recv(), Ok(Err(Fault::Redrive { .. }))),
            "it has no other"
        );
        assert!(matches!(both.try_recv(), Ok(Ok(none)) if none.is_empty()));
        assert!(other.try_recv().is_err(), "it waits on");
    }
}
