//! Faults and gates around calls, by name: what a test may do to whatever stands behind a seam.
//!
//! Not only the scripted engine uses them; a wrapper around any seam may call [`Faults::around`] with names of its own.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use robata_core::{Error, ErrorKind, Result};
use tokio::sync::watch;

/// At which end of a call a gate stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Nothing of the call was done yet.
    Begin,
    /// It is done, and not answered yet.
    End,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is not done, and answered with this kind.
    Refuse(ErrorKind),
    /// It is done, and answered as `Unavailable`.
    LoseAnswer,
    /// It panics before anything is done.
    Panic,
}

/// Holds calls until it is opened or dropped.
#[derive(Debug)]
pub struct Gate(Arc<Shut>);

#[derive(Debug)]
struct Shut {
    call: &'static str,
    moment: Moment,
    /// Calls that it still holds; the others pass.
    room: Mutex<usize>,
    open: watch::Sender<bool>,
    /// Calls that stand before it now, and all that ever did.
    waiting: watch::Sender<(usize, usize)>,
}

impl Gate {
    /// Lets through what waits and what comes.
    pub fn open(&self) {
        self.0.open.send_replace(true);
    }

    /// Waits until at least so many calls stand before it at once.
    pub async fn holds(&self, calls: usize) {
        let mut waiting = self.0.waiting.subscribe();
        // The sender lives as long as `self`.
        let _ = waiting.wait_for(|(now, _)| *now >= calls).await;
    }

    /// Calls that ever came to it.
    #[must_use]
    pub fn reached(&self) -> usize {
        self.0.waiting.borrow().1
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
    }
}

/// A call that stands before a gate, until it goes on or is dropped there.
struct Standing<'a>(&'a Shut);

impl Drop for Standing<'_> {
    fn drop(&mut self) {
        self.0.waiting.send_modify(|(now, _)| *now -= 1);
    }
}

#[derive(Debug)]
struct Rule {
    call: &'static str,
    times: usize,
    fault: Fault,
}

/// The faults and gates of whoever makes calls; without any, calls go through.
#[derive(Debug, Default)]
pub struct Faults {
    gates: Mutex<Vec<Arc<Shut>>>,
    rules: Mutex<Vec<Rule>>,
    calls: Mutex<Vec<&'static str>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A fault that panics does so with no lock in its hands.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Faults {
    /// Holds every call of this name at this moment until the gate is opened.
    #[must_use = "a gate that is dropped is open"]
    pub fn hold(&self, call: &'static str, moment: Moment) -> Gate {
        self.hold_first(call, moment, usize::MAX)
    }

    /// Holds the next `calls` calls of this name at this moment until the gate is opened; those after them pass.
    #[must_use = "a gate that is dropped is open"]
    pub fn hold_first(&self, call: &'static str, moment: Moment, calls: usize) -> Gate {
        let shut = Arc::new(Shut {
            call,
            moment,
            room: Mutex::new(calls),
            open: watch::Sender::new(false),
            waiting: watch::Sender::new((0, 0)),
        });
        lock(&self.gates).push(Arc::clone(&shut));
        Gate(shut)
    }

    /// The next `times` calls of this name get this fault; `usize::MAX`: until [`Faults::heal`].
    pub fn fail(&self, call: &'static str, fault: Fault, times: usize) {
        lock(&self.rules).push(Rule { call, times, fault });
    }

    /// Ends every fault of this call.
    pub fn heal(&self, call: &'static str) {
        lock(&self.rules).retain(|rule| rule.call != call);
    }

    /// How often this call was made.
    #[must_use]
    pub fn calls(&self, call: &'static str) -> usize {
        lock(&self.calls).iter().filter(|made| **made == call).count()
    }

    fn next_fault(&self, call: &'static str) -> Option<Fault> {
        let mut rules = lock(&self.rules);
        let at = rules.iter().position(|rule| rule.call == call && rule.times > 0)?;
        let rule = &mut rules[at];
        if rule.times != usize::MAX {
            rule.times -= 1;
        }
        Some(rule.fault)
    }

    async fn gates(&self, call: &'static str, moment: Moment) {
        let gates: Vec<_> = lock(&self.gates)
            .iter()
            .filter(|gate| gate.call == call && gate.moment == moment && !*gate.open.borrow())
            .cloned()
            .collect();
        for gate in gates {
            {
                let mut room = lock(&gate.room);
                if *room == 0 {
                    continue;
                }
                *room = room.saturating_sub(1);
            }
            gate.waiting.send_modify(|(now, ever)| {
                *now += 1;
                *ever += 1;
            });
            let standing = Standing(&gate);
            let mut open = gate.open.subscribe();
            let _ = open.wait_for(|open| *open).await;
            drop(standing);
        }
    }

    /// Whether a gate would hold this call now.
    #[must_use]
    pub fn is_held(&self, call: &'static str, moment: Moment) -> bool {
        lock(&self.gates)
            .iter()
            .any(|gate| gate.call == call && gate.moment == moment && !*gate.open.borrow() && *lock(&gate.room) > 0)
    }

    /// Makes a call with the faults and gates that are set for it.
    ///
    /// # Errors
    /// The work's own, or the fault's.
    ///
    /// # Panics
    /// Where the fault says so.
    pub async fn around<T>(&self, call: &'static str, work: impl Future<Output = Result<T>>) -> Result<T> {
        lock(&self.calls).push(call);
        self.gates(call, Moment::Begin).await;
        let fault = self.next_fault(call);
        match fault {
            Some(Fault::Refuse(kind)) => return Err(Error::new(kind, call, format!("{call} is refused by a test"))),
            Some(Fault::Panic) => panic!("{call} panics, as a test asked"),
            Some(Fault::LoseAnswer) | None => {}
        }
        let answer = work.await;
        self.gates(call, Moment::End).await;
        match fault {
            Some(Fault::LoseAnswer) => Err(Error::new(
                ErrorKind::Unavailable,
                call,
                format!("the answer of {call} was lost by a test"),
            )),
            _ => answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_gate_holds_until_it_is_opened() {
        let faults = Arc::new(Faults::default());
        let gate = faults.hold("call", Moment::Begin);
        let call = tokio::spawn({
            let faults = Arc::clone(&faults);
            async move { faults.around("call", async { Ok(7) }).await }
        });
        gate.holds(1).await;
        assert!(!call.is_finished());
        gate.open();
        assert_eq!(call.await.unwrap().unwrap(), 7);
        assert_eq!((gate.reached(), faults.calls("call")), (1, 1));
    }

    #[tokio::test]
    async fn a_fault_comes_as_often_as_asked_and_a_lost_answer_is_done() {
        let faults = Faults::default();
        faults.fail("call", Fault::Refuse(ErrorKind::NoCapacity), 1);
        faults.fail("call", Fault::LoseAnswer, 1);
        let done = std::sync::atomic::AtomicUsize::new(0);
        let call = || {
            faults.around("call", async {
                done.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                Ok(())
            })
        };
        assert_eq!(call().await.unwrap_err().kind(), ErrorKind::NoCapacity);
        assert_eq!(done.load(std::sync::atomic::Ordering::SeqCst), 0);
        assert_eq!(call().await.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(done.load(std::sync::atomic::Ordering::SeqCst), 1);
        call().await.unwrap();
    }
}
