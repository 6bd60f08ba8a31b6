//! The net below (PROTOCOL H3): what the store holds in our name and nobody follows is adopted, what it does not hold is let
//! go. Of what calls in flight may explain, and of what only one list says, nothing is concluded.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use robata_core::{AttemptId, ClaimId, Epoch, IncarnationId, attempt::Claim};

use crate::{adopt, shared::Shared};

/// Calls that were sent and whose answers are not in [`crate::held::HeldMap`] yet.
#[derive(Debug, Default)]
pub(crate) struct InFlight(Mutex<Calls>);

#[derive(Debug, Default)]
struct Calls {
    /// By its number, what each claim may come to hold.
    claims: BTreeMap<ClaimId, Vec<AttemptId>>,
    /// Adoptions may bring anything.
    adoptions: usize,
}

/// A call in flight, until it is dropped: after what it brought is held.
#[derive(Debug)]
pub(crate) struct Flying<'a>(&'a InFlight, Option<ClaimId>);

impl InFlight {
    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A claim is about to be sent.
    pub(crate) fn claim(&self, claim: &Claim) -> Flying<'_> {
        let attempts = claim.references.iter().map(|(_, reference)| AttemptId {
            job: reference.job,
            number: reference.attempt,
        });
        self.calls().claims.insert(claim.claim, attempts.collect());
        Flying(self, Some(claim.claim))
    }

    /// An adoption is about to be sent.
    pub(crate) fn adoption(&self) -> Flying<'_> {
        self.calls().adoptions += 1;
        Flying(self, None)
    }

    /// Whether a call in flight may have brought this.
    fn explains(&self, attempt: AttemptId) -> bool {
        let calls = self.calls();
        calls.adoptions > 0 || calls.claims.values().flatten().any(|claimed| *claimed == attempt)
    }
}

impl Drop for Flying<'_> {
    fn drop(&mut self) {
        let mut calls = self.0.calls();
        match self.1 {
            Some(claim) => {
                calls.claims.remove(&claim);
            }
            None => calls.adoptions -= 1,
        }
    }
}

/// What the last list said that nothing explained.
#[derive(Debug, Default)]
pub(crate) struct Net {
    incarnation: Option<IncarnationId>,
    unexplained: HashMap<AttemptId, Epoch>,
}

impl Net {
    /// The last count and hash agreed, or there was no list: the next one is a first one.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Takes the next list's unexplained ones in; answers those that the list before told, too.
    fn told_twice(&mut self, incarnation: IncarnationId, unexplained: HashMap<AttemptId, Epoch>) -> Vec<AttemptId> {
        let twice = unexplained.iter().filter(|(attempt, epoch)| {
            self.incarnation == Some(incarnation) && self.unexplained.get(*attempt) == Some(*epoch)
        });
        let twice = twice.map(|(attempt, _)| *attempt).collect();
        *self = Self {
            incarnation: Some(incarnation),
            unexplained,
        };
        twice
    }
}

/// Sets right what two lists running do not agree on.
pub(crate) async fn reconcile(shared: &Arc<Shared>, incarnation: IncarnationId, net: &mut Net) {
    let ours = shared.held.all(incarnation);
    let theirs = match shared.store.held(incarnation).await {
        Ok(theirs) => theirs,
        Err(error) => {
            net.forget();
            return tracing::warn!(error = %error.full(), "cannot read what is held");
        }
    };
    // In this order: a call is in flight until what it brought is held.
    let unexplained = theirs
        .iter()
        .filter(|(attempt, _)| !shared.in_flight.explains(*attempt))
        .filter(|(attempt, _)| !shared.held.contains(*attempt))
        .copied()
        .collect();
    let twice = net.told_twice(incarnation, unexplained);
    if !twice.is_empty() {
        tracing::warn!(
            count = twice.len(),
            "the store holds attempts in our name that nobody follows; adopting them"
        );
        // What cannot be adopted now is found again by later heartbeats.
        let _ = adopt::adopt(shared, incarnation, Some(twice)).await;
    }
    let theirs: HashSet<_> = theirs.into_iter().collect();
    for (attempt, epoch) in ours {
        if !theirs.contains(&(attempt, epoch)) {
            // Finalised since the list was made, or not ours any more.
            shared.held.let_go(attempt, epoch);
        }
    }
}

#[cfg(test)]
mod tests {
    use robata_core::{
        ExecutorName, JobId, QueueName,
        job::{Line, Reference},
    };

    use super::*;

    fn an_attempt() -> AttemptId {
        AttemptId {
            job: JobId::new(),
            number: 1,
        }
    }

    #[test]
    fn only_what_two_lists_running_tell_is_adopted() {
        let (one, other) = (an_attempt(), an_attempt());
        let us = IncarnationId::new();
        let mut net = Net::default();
        let list = |told: &[(AttemptId, Epoch)]| told.iter().copied().collect::<HashMap<_, _>>();
        assert!(net.told_twice(us, list(&[(one, 1)])).is_empty());
        // Each list is odd, and no two agree.
        assert!(net.told_twice(us, list(&[(other, 1)])).is_empty());
        assert!(net.told_twice(us, list(&[(one, 1)])).is_empty());
        assert!(
            net.told_twice(us, list(&[(one, 2)])).is_empty(),
            "somebody took it over"
        );
        assert_eq!(net.told_twice(us, list(&[(one, 2), (other, 1)])), [one]);
        net.forget();
        assert!(net.told_twice(us, list(&[(one, 2)])).is_empty());
        assert!(net.told_twice(IncarnationId::new(), list(&[(one, 2)])).is_empty());
    }

    #[test]
    fn a_call_in_flight_explains_what_it_may_bring() {
        let in_flight = InFlight::default();
        let (claimed, other) = (an_attempt(), an_attempt());
        let line = Line {
            queue: QueueName::new("q").unwrap(),
            executor: ExecutorName::new("e").unwrap(),
        };
        let reference = Reference {
            job: claimed.job,
            attempt: 1,
        };
        let claim = Claim {
            claim: ClaimId::new(),
            incarnation: IncarnationId::new(),
            references: vec![(line, reference)],
        };
        let flying = in_flight.claim(&claim);
        assert!(in_flight.explains(claimed) && !in_flight.explains(other));
        drop(flying);
        assert!(!in_flight.explains(claimed));
        let flying = in_flight.adoption();
        assert!(in_flight.explains(other));
        drop(flying);
        assert!(!in_flight.explains(other));
    }
}
