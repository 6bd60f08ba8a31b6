//! The worker's lease: which incarnation it is, and until when it may act (PROTOCOL H1 to H3).

use std::{sync::Arc, time::Duration};

use robata_core::{
    Error, ErrorKind, Format, IncarnationId,
    store::{HEARTBEAT, HEARTBEAT_TIMEOUT, LEASE, Register, WorkerExecutor},
};
use tokio::sync::{Mutex, watch};

use crate::{
    backoff::Backoff,
    clock::boot_time,
    metrics::METRICS,
    net::{self, Net},
    shared::Shared,
};

/// The lease as this process counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) incarnation: IncarnationId,
    /// When the incarnation was registered: since then it was never over, or it would be another's.
    since: Duration,
    /// Counted from the sending of the last heartbeat that succeeded.
    until: Duration,
}

impl Lease {
    pub(crate) fn is_valid(&self) -> bool {
        boot_time() < self.until
    }

    /// How long the incarnation is there.
    pub(crate) fn age(&self) -> Duration {
        boot_time().saturating_sub(self.since)
    }
}

/// The lease in force, shared by all who act under it.
#[derive(Debug)]
pub(crate) struct LeaseKeeper {
    now: watch::Sender<Option<Lease>>,
    /// What the last list told that nothing explained; taken while two lists are compared.
    net: Arc<Mutex<Net>>,
}

impl LeaseKeeper {
    pub(crate) fn new() -> Self {
        Self {
            now: watch::Sender::new(None),
            net: Arc::default(),
        }
    }

    /// The lease, if there is a valid one.
    pub(crate) fn valid(&self) -> Option<Lease> {
        (*self.now.borrow()).filter(Lease::is_valid)
    }

    /// When the last heartbeat that succeeded was sent, by the boot clock.
    pub(crate) fn last_sent(&self) -> Option<Duration> {
        self.now.borrow().map(|lease| lease.until.saturating_sub(LEASE))
    }

    /// How long it has been over, whether or not it may yet be renewed; `None` while it is in force, or before the first one.
    pub(crate) fn over_for(&self) -> Option<Duration> {
        let lease = (*self.now.borrow())?;
        boot_time().checked_sub(lease.until)
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
            // One that is answered later than this has ended already.
            let registering = tokio::time::timeout(LEASE, shared.store.register(registration(shared, incarnation)));
            match registering.await.unwrap_or_else(|_| Err(unanswered())) {
                Ok(()) => {
                    tracing::info!(%incarnation, "registered");
                    self.now.send_replace(Some(Lease {
                        incarnation,
                        since: boot_time(),
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
                self.now.send_modify(|now| {
                    if let Some(lease) = now {
                        lease.until = sent + LEASE;
                    }
                });
                METRICS.format(shared.store.format());
                for attempt in answer.cancel_requested {
                    shared.held.cancel(attempt);
                }
                let until = tokio::time::Instant::now() + crate::adopt::FOLLOWED;
                for attempt in answer.followed {
                    shared.held.followed(attempt, until);
                }
                drain(shared, incarnation, answer.drain).await;
                let (count, hash) = shared.held.count_and_hash(incarnation);
                let odd = (answer.held, answer.hash) != (count, hash);
                self.check(shared, incarnation, odd);
            }
            Ok(Err(error)) if error.kind() == ErrorKind::Fenced => {
                tracing::warn!(%incarnation, "the lease has ended; going on as a new incarnation");
                // Before they are let go: a draining worker must not think that nothing is left.
                let before = shared.held.all(incarnation);
                shared.own().extend(before.into_iter().map(|(attempt, _)| attempt));
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

    /// The net below, beside the heartbeats: a store that takes its time with a list must not cost us the lease.
    fn check(&self, shared: &Arc<Shared>, incarnation: IncarnationId, odd: bool) {
        // The last list is still waited for.
        let Ok(mut net) = Arc::clone(&self.net).try_lock_owned() else {
            return;
        };
        if !odd {
            return net.forget();
        }
        let shared = Arc::clone(shared);
        shared.tasks.clone().spawn(async move {
            tokio::select! {
                () = shared.stop.cancelled() => {}
                () = net::reconcile(&shared, incarnation, &mut net) => {}
            }
        });
    }
}

/// Has the store know which realms this worker reaches; `false` where it does not yet.
async fn tell_realms(shared: &Shared) -> bool {
    let Some(lease) = shared.lease.valid() else {
        // A new incarnation tells them itself.
        return true;
    };
    let telling = shared.store.register(registration(shared, lease.incarnation));
    match tokio::time::timeout(HEARTBEAT_TIMEOUT, telling).await {
        Ok(Ok(())) => return true,
        Ok(Err(error)) => tracing::warn!(error = %error.full(), "cannot register a realm with the store"),
        Err(_) => tracing::warn!("the store does not answer that a realm was reached"),
    }
    false
}

fn unanswered() -> Error {
    Error::new(ErrorKind::Unavailable, "store.register", "the store does not answer")
}

/// Drains where the store asks for it, and has the store know where somebody else did; a new incarnation goes on draining.
async fn drain(shared: &Shared, incarnation: IncarnationId, asked: bool) {
    if asked && !shared.drain.is_cancelled() {
        tracing::info!(%incarnation, "asked to drain: takes nothing new, and ends when what it holds has ended");
        shared.drain.cancel();
    }
    if !asked && shared.drain.is_cancelled() && !shared.stop.is_cancelled() {
        tell_drain(shared, incarnation).await;
    }
}

/// Has everybody see that this worker drains.
async fn tell_drain(shared: &Shared, incarnation: IncarnationId) {
    match tokio::time::timeout(HEARTBEAT_TIMEOUT, shared.store.drain(incarnation, "the worker itself")).await {
        Ok(Ok(())) => {}
        // The next heartbeat tries again.
        Ok(Err(error)) => tracing::warn!(error = %error.full(), "cannot tell the store that this worker drains"),
        Err(_) => tracing::warn!("the store does not answer that this worker drains"),
    }
}

/// Registers and renews the lease until told to stop.
pub(crate) async fn keep(shared: Arc<Shared>) {
    let mut realms = shared.realms_changed();
    shared.lease.register(&shared).await;
    shared.orphans.notify_one();
    let (mut told, mut realms_told) = (false, true);
    let mut ticks = tokio::time::interval(HEARTBEAT);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            _ = ticks.tick() => {}
            () = shared.drain.cancelled(), if !told => {
                told = true;
                if let Some(lease) = shared.lease.valid().filter(|_| !shared.stop.is_cancelled()) {
                    tell_drain(&shared, lease.incarnation).await;
                }
                continue;
            }
            // A realm that was reached late must stand in the registration, for those who judge what has a live worker.
            Ok(()) = realms.changed() => {
                realms_told = tell_realms(&shared).await;
                shared.orphans.notify_one();
                continue;
            }
        }
        let incarnation = shared.lease.now.borrow().map(|lease| lease.incarnation);
        if let Some(incarnation) = incarnation {
            shared.lease.beat(&shared, incarnation).await;
        }
        if !realms_told {
            realms_told = tell_realms(&shared).await;
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
        format: Format::OWN,
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
