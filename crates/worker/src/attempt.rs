//! One attempt's task, from claim or adoption to finalised.

use std::sync::Arc;

use robata_core::{
    AttemptState, ErrorKind, IncarnationId, Result,
    attempt::{AttemptChange, HeldAttempt},
    executor::{Handle, Observation, Target, ThingState, thing_name},
    finish::{End, NeverRan, Outcome},
};

use crate::{
    engine::Engine,
    finalise, follow,
    held::Holding,
    metrics::METRICS,
    policy,
    secrets::AttemptSecrets,
    shared::Shared,
    slots::Slot,
    start::{self, Started},
};

/// How the attempt came to this worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// By a claim: nothing was made of it yet.
    Claimed,
    /// By adoption: it may be anywhere, and nothing is made of it (PROTOCOL X1).
    Adopted,
}

/// An attempt in its task's hands.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) shared: Arc<Shared>,
    pub(crate) engine: Arc<Engine>,
    pub(crate) held: HeldAttempt,
    pub(crate) holding: Holding,
    pub(crate) name: String,
    pub(crate) secrets: Arc<AttemptSecrets>,
}

/// Why a task ends before its attempt is finalised: it is somebody else's now. The store or the next holder does the rest.
#[derive(Debug)]
pub(crate) struct LetGo;

const HOLDER_GONE: &str = "its worker went away before it was started";

/// Begins an attempt's task.
pub(crate) fn spawn(
    shared: &Arc<Shared>,
    engine: &Arc<Engine>,
    incarnation: IncarnationId,
    mut held: HeldAttempt,
    slot: Slot,
    origin: Origin,
) {
    policy::bound(&shared.config, &engine.name, &mut held);
    let (id, epoch) = (held.id, held.epoch);
    let Some(holding) = shared.held.insert(id, epoch, incarnation, held.cancel_requested) else {
        return;
    };
    let let_go = holding.let_go.clone();
    let name = thing_name(shared.store.installation(), id);
    let source = shared.config.secrets.get(&engine.name).cloned();
    let secrets = Arc::new(AttemptSecrets::of(&held, source, &shared.masks));
    let attempt = Attempt {
        shared: Arc::clone(shared),
        engine: Arc::clone(engine),
        held,
        holding,
        name,
        secrets,
    };
    let forget = Forget {
        shared: Arc::clone(shared),
        id,
        epoch,
    };
    let leave = shared.leave.clone();
    let engine = Arc::clone(engine);
    shared.tasks.spawn(async move {
        // Forgotten also when the task panics: the net below finds that the store holds what nobody follows.
        let _forget = forget;
        tokio::select! {
            () = let_go.cancelled() => tracing::info!(attempt = %id, "let go"),
            () = leave.cancelled() => return,
            ended = Box::pin(attempt.run(slot, origin)) => match ended {
                Ok(()) => return,
                Err(LetGo) => tracing::info!(attempt = %id, "somebody else holds it now"),
            },
        }
        // Its prepare may be under way in the engine, and nobody has recorded what that makes.
        engine.left_behind.notify_one();
    });
}

struct Forget {
    shared: Arc<Shared>,
    id: robata_core::AttemptId,
    epoch: robata_core::Epoch,
}

impl Drop for Forget {
    fn drop(&mut self) {
        self.shared.held.remove(self.id, self.epoch);
    }
}

impl Attempt {
    async fn run(mut self, slot: Slot, origin: Origin) -> Result<(), LetGo> {
        if !self.held.state.is_live() {
            // What has ended takes no slot.
            drop(slot);
            let handle = self.held.handle.clone();
            if let (AttemptState::Lost, Some(handle)) = (self.held.state, &handle) {
                // Its realm has returned, and it may have run on all the time: what is called lost must not (PROTOCOL H6).
                finalise::stop(&self, handle).await?;
            }
            return finalise::finalise(&self, handle.as_ref(), None).await;
        }
        let started = match origin {
            Origin::Claimed => start::start(&mut self, slot).await?,
            Origin::Adopted => {
                METRICS.adopted(&self.engine.name);
                self.resume(slot).await?
            }
        };
        match started {
            Started::Runs(handle, slot) => {
                let pump = crate::pump::spawn(&self, &handle);
                let outcome = follow::follow(&self, &handle).await?;
                self.end(self.secrets.outcome(outcome).await).await?;
                drop(slot);
                finalise::finalise(&self, Some(&handle), Some(pump)).await
            }
            Started::Never(handle, outcome) => {
                self.end(outcome).await?;
                finalise::finalise(&self, handle.as_ref(), None).await
            }
        }
    }

    /// Goes on with an adopted attempt from wherever it is.
    async fn resume(&mut self, slot: Slot) -> Result<Started, LetGo> {
        if let (Some(handle), Some(_)) = (&self.held.handle, self.held.started_at) {
            // It ran: whatever became of it, following tells, and keeps its time limit though it cannot be looked at.
            let handle = handle.clone();
            return self.take_running(handle, slot).await;
        }
        let target = match &self.held.handle {
            Some(handle) => Target::Handle(handle.clone()),
            None => Target::Name(self.name.clone()),
        };
        let seen = self.observe(target).await;
        match (seen.state, seen.handle) {
            (ThingState::Prepared, Some(handle)) => match self.remove_unstarted(&handle).await {
                true => Ok(Started::Never(None, never_set_going(HOLDER_GONE))),
                // The engine refused because it runs: somebody's start came through.
                false => self.take_running(handle, slot).await,
            },
            (ThingState::Starting | ThingState::Running { .. } | ThingState::Ended(_), Some(handle)) => {
                self.take_running(handle, slot).await
            }
            _ if self.held.handle.is_none() => Ok(Started::Never(None, never_set_going(HOLDER_GONE))),
            _ => {
                let gone = "the engine says that it is gone; what became of it cannot be known";
                Ok(Started::Never(None, Outcome::new(End::Lost).with_message(gone)))
            }
        }
    }

    async fn take_running(&mut self, handle: Handle, slot: Slot) -> Result<Started, LetGo> {
        if self.held.handle.is_none() {
            start::record_prepared(self, &handle, None).await?;
        }
        Ok(Started::Runs(handle, slot))
    }

    /// Looks until the engine answers.
    pub(crate) async fn observe(&self, target: Target) -> Observation {
        let mut backoff = crate::backoff::Backoff::new(
            std::time::Duration::from_millis(200),
            std::time::Duration::from_secs(10),
        );
        loop {
            match self.engine.executor.observe(std::slice::from_ref(&target)).await {
                Ok(mut seen) if seen.len() == 1 => return seen.remove(0),
                Ok(_) => tracing::error!(attempt = %self.held.id, "the executor did not answer for its target"),
                Err(error) => tracing::warn!(attempt = %self.held.id, error = %error.full(), "cannot look at it"),
            }
            backoff.wait().await;
        }
    }

    /// Removes what was never set going, without force; `false` where it has run after all, or the engine refuses
    /// because it runs: somebody's start came through.
    pub(crate) async fn remove_unstarted(&self, handle: &Handle) -> bool {
        let mut backoff = crate::backoff::Backoff::new(
            std::time::Duration::from_millis(200),
            std::time::Duration::from_secs(10),
        );
        loop {
            // Removing without force takes what has run and ended, too: that must be followed to its recorded end.
            let seen = self.observe(Target::Handle(handle.clone())).await.state;
            if matches!(seen, ThingState::Running { .. } | ThingState::Ended(_)) {
                return false;
            }
            match self.engine.executor.remove(handle, false).await {
                Ok(()) => return true,
                Err(error) if error.kind() == ErrorKind::StillRuns => return false,
                Err(error) => {
                    tracing::warn!(attempt = %self.held.id, error = %error.full(), "cannot remove what was prepared")
                }
            }
            backoff.wait().await;
        }
    }

    /// Records the end and what follows from it.
    pub(crate) async fn end(&self, outcome: Outcome) -> Result<(), LetGo> {
        let end = outcome.end;
        match self.shared.write(&self.holding, AttemptChange::Ended(outcome)).await {
            Ok(written) => {
                self.shared.fenced().remove(&self.held.id);
                METRICS.ended(&self.engine.name, written.state);
                tracing::info!(attempt = %self.held.id, ?end, state = %written.state, job = %written.job, "ended");
                Ok(())
            }
            Err(error) => {
                if error.kind() != ErrorKind::Fenced {
                    tracing::error!(attempt = %self.held.id, ?end, error = %error.full(), "the store refuses its end");
                }
                Err(LetGo)
            }
        }
    }
}

/// The end of an attempt that was given up before it was set going.
pub(crate) fn never_set_going(words: &str) -> Outcome {
    Outcome::new(End::NeverRan(NeverRan::NotSetGoing)).with_message(words)
}
