//! The worker's lease: which incarnation it is, and until when it may act (PROTOCOL H1 to H3).

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use robata_core::{
    ErrorKind, IncarnationId,
    store::{HEARTBEAT, HEARTBEAT_TIMEOUT, LEASE, Register, WorkerExecutor},
};
use tokio::sync::watch;

use crate::{backoff::Backoff, clock::boot_time, shared::Shared};

/// The lease as this process counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) incarnation: IncarnationId,
    /// Counted from the sending of the last heartbeat that succeeded.
    until: Duration,
}

impl Lease {
    pub(crate) fn is_valid(&self) -> bool {
        boot_time() < self.until
    }
}

/// The lease in force, shared by all who act under it.
#[derive(Debug)]
pub(crate) struct LeaseKeeper {
    now: watch::Sender<Option<Lease>>,
    /// What the last heartbeat's answer did not explain.
    odd: Mutex<bool>,
}

impl LeaseKeeper {
    pub(crate) fn new() -> Self {
        Self {
            now: watch::Sender::new(None),
            odd: Mutex::new(false),
        }
    }

    /// The lease, if there is a valid one.
    pub(crate) fn valid(&self) -> Option<Lease> {
        (*self.now.borrow()).filter(Lease::is_valid)
    }

    /// Waits for a valid lease.
    pub(crate) async fn wait_valid(&self) -> Lease {
        let mut changes = self.now.subscribe();
        loop {
            if let Some(lease) = self.valid() {
                return lease;
            }
            // The sender lives as long as `self`.
            let _ = changes.changed().await;
        }
    }

    /// Registers a new incarnation, trying until the store answers.
    async fn register(&self, shared: &Shared) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(3));
        loop {
            let incarnation = IncarnationId::new();
            let sent = boot_time();
            match shared.store.register(registration(shared, incarnation)).await {
                Ok(()) => {
                    tracing::info!(%incarnation, "registered");
                    self.now.send_replace(Some(Lease {
                        incarnation,
                        until: sent + LEASE,
                    }));
                    return;
                }
                Err(error) => tracing::warn!(error = %error.full(), "cannot register with the store"),
            }
            backoff.wait().await;
        }
    }

    async fn beat(&self, shared: &Arc<Shared>, incarnation: IncarnationId) {
        let sent = boot_time();
        match tokio::time::timeout(HEARTBEAT_TIMEOUT, shared.store.heartbeat(incarnation)).await {
            Ok(Ok(answer)) => {
                self.now.send_replace(Some(Lease {
                    incarnation,
                    until: sent + LEASE,
                }));
                for attempt in answer.cancel_requested {
                    shared.held.cancel(attempt);
                }
                let (count, hash) = shared.held.count_and_hash(incarnation);
                let odd = (answer.held, answer.hash) != (count, hash);
                let odd_before = std::mem::replace(&mut *self.odd.lock().unwrap_or_else(PoisonError::into_inner), odd);
                // Two lists running: what a claim or an end in flight explains is gone by the second one.
                if odd && odd_before {
                    crate::adopt::reconcile(shared, incarnation).await;
                }
            }
            Ok(Err(error)) if error.kind() == ErrorKind::Fenced => {
                tracing::warn!(%incarnation, "the lease has ended; going on as a new incarnation");
                self.register(shared).await;
                // Whatever was held before is somebody else's, or is adopted again in a moment, with a new epoch.
                for (attempt, epoch) in shared.held.all(incarnation) {
                    shared.held.let_go(attempt, epoch);
                }
                shared.orphans.notify_one();
            }
            Ok(Err(error)) => tracing::warn!(error = %error.full(), "heartbeat failed"),
            Err(_) => tracing::warn!("heartbeat not answered in time"),
        }
    }
}

/// Registers and renews the lease until told to stop.
pub(crate) async fn keep(shared: Arc<Shared>) {
    let mut realms = shared.realms_changed();
    shared.lease.register(&shared).await;
    shared.orphans.notify_one();
    let mut ticks = tokio::time::interval(HEARTBEAT);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            _ = ticks.tick() => {}
            // A realm that was reached late must stand in the registration, for those who judge what has a live worker.
            Ok(()) = realms.changed() => {
                if let Some(lease) = shared.lease.valid()
                    && let Err(error) = shared.store.register(registration(&shared, lease.incarnation)).await
                {
                    tracing::warn!(error = %error.full(), "cannot register a realm with the store");
                }
                shared.orphans.notify_one();
                continue;
            }
        }
        let incarnation = shared.lease.now.borrow().map(|lease| lease.incarnation);
        if let Some(incarnation) = incarnation {
            shared.lease.beat(&shared, incarnation).await;
        }
    }
}

fn registration(shared: &Shared, incarnation: IncarnationId) -> Register {
    let executors = shared.engines.iter().map(|(name, engine)| {
        (
            name.clone(),
            WorkerExecutor {
                realm: engine.realm(),
                slots: u32::try_from(engine.max_slots).unwrap_or(u32::MAX),
            },
        )
    });
    Register {
        incarnation,
        host: shared.config.host.clone(),
        pid: std::process::id(),
        executors: executors.collect(),
    }
}

/// Ends the lease in good order, so that the next worker adopts at once.
pub(crate) async fn release(shared: &Shared) {
    let lease = *shared.lease.now.borrow();
    if let Some(lease) = lease
        && let Ok(Err(error)) = tokio::time::timeout(HEARTBEAT_TIMEOUT, shared.store.release(lease.incarnation)).await
    {
        tracing::warn!(error = %error.full(), "cannot release the lease; it ends by itself");
    }
}
