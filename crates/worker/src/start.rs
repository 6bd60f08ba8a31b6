//! The two-step start (PROTOCOL X1, X2): prepare, record, and only then set going, by the engine's id.

use std::{collections::BTreeMap, time::Duration};

use robata_core::{
    Error, ErrorKind, Payload, Secret, WaitingReason,
    attempt::AttemptChange,
    definition::document::check_env_name,
    executor::{Handle, Prepare, Prepared, Progress, Spec, Target, ThingState, label},
    finish::{End, NeverRan, Outcome},
    request::MAX_PAYLOAD_ENV_BYTES,
};
use tokio::{sync::mpsc, time::Instant};

use crate::{
    attempt::{Attempt, LetGo, never_set_going},
    backoff::Backoff,
    clock::ahead,
    metrics::METRICS,
    policy,
    slots::Slot,
};

/// A wait shorter than this is not worth a write.
const WORTH_TELLING: Duration = Duration::from_secs(1);
/// What a prepare that was given up may have made is looked for so long; after that it is the clean-up's.
const LOOK_FOR_LEFTOVERS: Duration = Duration::from_secs(10);

/// What came of a start.
#[derive(Debug)]
pub(crate) enum Started {
    /// It was set going, and takes this slot.
    Runs(Handle, Slot),
    /// It never ran (or is gone); what is left of it, and how that counts.
    Never(Option<Handle>, Outcome),
}

/// When a start is given up, and for what.
struct Deadlines {
    start_within: Instant,
    expires: Option<Instant>,
}

impl Deadlines {
    fn of(attempt: &Attempt) -> Self {
        let held = &attempt.held;
        // All stamps are the store's; only their differences are used.
        let waited = held.now.since(held.first_claimed_at);
        Self {
            start_within: ahead(held.request.start_within.saturating_sub(waited)),
            expires: held.request.expires_at.map(|at| ahead(at.since(held.now))),
        }
    }

    fn first(&self) -> Instant {
        self.expires
            .map_or(self.start_within, |expires| expires.min(self.start_within))
    }

    fn outcome(&self, last: Option<&Error>) -> Outcome {
        if self.expires.is_some_and(|expires| expires <= Instant::now()) {
            return Outcome::new(End::NeverRan(NeverRan::Expired))
                .with_message("it expired before it could be started");
        }
        let why = match last.map(Error::kind) {
            Some(ErrorKind::NoCapacity) => NeverRan::NoCapacity,
            _ => NeverRan::EngineUnreachable,
        };
        let words = last.map_or_else(
            || "it was still being prepared, or waited for a slot".to_owned(),
            Error::full,
        );
        Outcome::new(End::NeverRan(why)).with_message(format!("not started within `start_within`: {words}"))
    }
}

/// Where a start stands: in a slot, or in one of as many places for those that wait long (PROTOCOL X2).
enum Place {
    Slot(Slot),
    Waiting(Slot),
}

/// Starts a claimed attempt.
pub(crate) async fn start(attempt: &mut Attempt, slot: Slot) -> Result<Started, LetGo> {
    let claimed = Instant::now();
    let deadlines = Deadlines::of(attempt);
    let mut place = Place::Slot(slot);
    if let Some(outcome) = policy::refused(&attempt.shared.config, &attempt.engine.name, &attempt.held) {
        return Ok(Started::Never(None, outcome));
    }
    let prepared = match prepare(attempt, &deadlines, &mut place).await? {
        Ok(prepared) => prepared,
        Err(never) => return Ok(never),
    };
    // The engine has it now; thousands of attempts may be followed at once.
    attempt.held.payload = Payload::null();
    let handle = prepared.handle.clone();
    if record_prepared(attempt, &handle, prepared.image_digest).await? {
        attempt.shared.held.cancel(attempt.held.id);
    }
    let ready = async {
        let slot = match place {
            Place::Slot(slot) => slot,
            Place::Waiting(waiting) => {
                let slot = attempt.engine.slots.take().await;
                drop(waiting);
                slot
            }
        };
        let permit = attempt.engine.starts.acquire().await;
        // Without a lease nothing is set going (PROTOCOL H2).
        (slot, permit, attempt.shared.lease.wait_valid().await)
    };
    let (slot, permit, lease) = tokio::select! {
        biased;
        () = attempt.holding.cancel_wished() => {
            let outcome = Outcome::new(End::NeverRan(NeverRan::Cancelled));
            return give_up(attempt, handle, outcome).await;
        }
        () = tokio::time::sleep_until(deadlines.first()) => {
            return give_up(attempt, handle, deadlines.outcome(None)).await;
        }
        ready = ready => ready,
    };
    if lease.incarnation != attempt.holding.incarnation {
        return Err(LetGo);
    }
    let sent = attempt.engine.executor.start(&handle).await;
    drop(permit);
    match sent {
        Ok(()) => {
            METRICS.started(&attempt.engine.name, claimed.elapsed());
            Ok(Started::Runs(handle, slot))
        }
        Err(error) => after_failed_start(attempt, handle, slot, attempt.secrets.error(error)).await,
    }
}

/// Removes what was prepared and is not to be started any more.
async fn give_up(attempt: &Attempt, handle: Handle, outcome: Outcome) -> Result<Started, LetGo> {
    // Under a lease only (PROTOCOL H2).
    if attempt.shared.lease.wait_valid().await.incarnation != attempt.holding.incarnation {
        return Err(LetGo);
    }
    if attempt.remove_unstarted(&handle).await {
        return Ok(Started::Never(None, outcome));
    }
    let slot = attempt.engine.slots.take_adopted();
    Ok(Started::Runs(handle, slot))
}

/// A start that failed for good is told; one whose answer was lost is looked for, never sent again.
async fn after_failed_start(attempt: &Attempt, handle: Handle, slot: Slot, error: Error) -> Result<Started, LetGo> {
    match error.kind() {
        ErrorKind::StartRefused | ErrorKind::Invalid | ErrorKind::Unsupported => {
            let outcome = Outcome::new(End::NeverRan(NeverRan::StartRefused)).with_message(error.full());
            return Ok(Started::Never(Some(handle), outcome));
        }
        ErrorKind::ImagePull => {
            let outcome = Outcome::new(End::NeverRan(NeverRan::ImagePull)).with_message(error.full());
            return Ok(Started::Never(Some(handle), outcome));
        }
        _ => tracing::warn!(attempt = %attempt.held.id, error = %error.full(), "a start failed or its answer was lost"),
    }
    let until = Instant::now() + attempt.shared.config.lost_start_patience;
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        match attempt.observe(Target::Handle(handle.clone())).await.state {
            ThingState::Prepared if Instant::now() < until => tokio::select! {
                () = backoff.wait() => {}
                () = attempt.holding.cancel_wished() => {
                    return give_up(attempt, handle, Outcome::new(End::NeverRan(NeverRan::Cancelled))).await;
                }
            },
            ThingState::Prepared => return give_up(attempt, handle, never_set_going(&error.full())).await,
            ThingState::Absent if error.kind() == ErrorKind::NotFound => {
                let outcome = never_set_going("what was prepared is gone, and was never set going");
                return Ok(Started::Never(None, outcome));
            }
            // Sent, not answered, and gone: whether it ran cannot be known.
            ThingState::Absent => {
                let words = format!("it is gone, and the answer to its start was lost: {}", error.full());
                return Ok(Started::Never(None, Outcome::new(End::Lost).with_message(words)));
            }
            _ => return Ok(Started::Runs(handle, slot)),
        }
    }
}

/// Prepares, waiting where the engine has no room or cannot be reached; the inner `Err` is an end without a start.
async fn prepare(
    attempt: &Attempt,
    deadlines: &Deadlines,
    place: &mut Place,
) -> Result<Result<Prepared, Started>, LetGo> {
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(300));
    let mut told = None;
    let mut last = None;
    let began = Instant::now();
    loop {
        let (progress, mut pulling) = mpsc::unbounded_channel();
        let cancel = attempt.holding.cancel_wished();
        tokio::pin!(cancel);
        let result = {
            let making = make(attempt, progress);
            tokio::pin!(making);
            let mut words: Option<String> = None;
            loop {
                let tell_at = began + WORTH_TELLING;
                tokio::select! {
                    result = &mut making => break Some(result),
                    () = &mut cancel => break None,
                    () = tokio::time::sleep_until(deadlines.first()) => break None,
                    Some(text) = pulling.recv() => words = Some(text),
                    () = tokio::time::sleep_until(tell_at), if told.is_none() && words.is_some() => {
                        let text = words.clone().unwrap_or_default();
                        tell(attempt, &mut told, WaitingReason::Pulling, text).await?;
                    }
                    waiting = place_to_wait(attempt, began), if matches!(place, Place::Slot(_)) => {
                        *place = Place::Waiting(waiting);
                    }
                }
            }
        };
        let Some(result) = result else {
            // The prepare was dropped and may have made something: it is looked for by its name, and what the engine
            // makes after that look is found by the clean-up.
            attempt.engine.left_behind.notify_one();
            let look = async {
                let seen = attempt.observe(Target::Name(attempt.name.clone())).await;
                if let (ThingState::Prepared, Some(handle)) = (&seen.state, &seen.handle) {
                    attempt.remove_unstarted(handle).await;
                }
            };
            // An engine that does not answer keeps nothing that runs; an end must not wait for it for ever.
            if tokio::time::timeout(LOOK_FOR_LEFTOVERS, look).await.is_err() {
                tracing::warn!(attempt = %attempt.held.id, "the engine does not say what its prepare has left; clean-up looks later");
            }
            let cancelled = attempt.holding.wishes.borrow().cancel;
            let outcome = if cancelled {
                Outcome::new(End::NeverRan(NeverRan::Cancelled))
            } else {
                deadlines.outcome(last.as_ref())
            };
            return Ok(Err(Started::Never(None, outcome)));
        };
        let error = match result {
            Ok(prepared) => {
                if told.is_some() {
                    write(attempt, AttemptChange::Waiting(None)).await?;
                }
                return Ok(Ok(prepared));
            }
            Err(error) => error,
        };
        let why = match error.kind() {
            ErrorKind::NoCapacity => Err(WaitingReason::NoCapacity),
            ErrorKind::ImagePull => Ok(NeverRan::ImagePull),
            ErrorKind::StillRuns => return taken_name(attempt).await,
            ErrorKind::StartRefused | ErrorKind::Invalid | ErrorKind::Unsupported => Ok(NeverRan::StartRefused),
            // Whatever else it is, it is not the job's fault: it waits, bounded by `start_within`.
            _ => Err(WaitingReason::EngineUnreachable),
        };
        match why {
            Ok(never) => {
                let outcome = Outcome::new(End::NeverRan(never)).with_message(error.full());
                return Ok(Err(Started::Never(None, outcome)));
            }
            Err(reason) => {
                tracing::warn!(attempt = %attempt.held.id, error = %error.full(), "cannot prepare now");
                tell(attempt, &mut told, reason, error.full()).await?;
                last = Some(error);
            }
        }
        let again = backoff.wait();
        tokio::pin!(again);
        loop {
            tokio::select! {
                () = &mut again => break,
                () = &mut cancel => break,
                () = tokio::time::sleep_until(deadlines.first()) => break,
                waiting = place_to_wait(attempt, began), if matches!(place, Place::Slot(_)) => {
                    *place = Place::Waiting(waiting);
                }
            }
        }
        if attempt.holding.wishes.borrow().cancel {
            return Ok(Err(Started::Never(
                None,
                Outcome::new(End::NeverRan(NeverRan::Cancelled)),
            )));
        }
        if deadlines.first() <= Instant::now() {
            return Ok(Err(Started::Never(None, deadlines.outcome(last.as_ref()))));
        }
    }
}

/// The name is taken by something that has run, made by a claim that this store does not know (it was restored): it is
/// this very attempt, and is followed, never started beside (PROTOCOL X1).
async fn taken_name(attempt: &Attempt) -> Result<Result<Prepared, Started>, LetGo> {
    let seen = attempt.observe(Target::Name(attempt.name.clone())).await;
    let Some(handle) = seen.handle else {
        let words = "its name was taken in the engine, and what had it is gone";
        return Ok(Err(Started::Never(None, never_set_going(words))));
    };
    tracing::warn!(attempt = %attempt.held.id, %handle, "its name is taken by what has run; following that");
    record_prepared(attempt, &handle, None).await?;
    let slot = attempt.engine.slots.take_adopted();
    Ok(Err(Started::Runs(handle, slot)))
}

/// A place for a start that has waited too long for a slot of its own; where all are taken it keeps its slot meanwhile.
async fn place_to_wait(attempt: &Attempt, began: Instant) -> Slot {
    tokio::time::sleep_until(began + attempt.shared.config.slot_patience).await;
    attempt.engine.waiting.take().await
}

async fn tell(
    attempt: &Attempt,
    told: &mut Option<WaitingReason>,
    reason: WaitingReason,
    words: String,
) -> Result<(), LetGo> {
    if *told != Some(reason) {
        *told = Some(reason);
        let words = attempt.secrets.masked(words);
        write(attempt, AttemptChange::Waiting(Some((reason, words)))).await?;
    }
    Ok(())
}

async fn write(attempt: &Attempt, change: AttemptChange) -> Result<bool, LetGo> {
    match attempt.shared.write(&attempt.holding, change).await {
        Ok(written) => Ok(written.cancel_requested),
        Err(error) if error.kind() == ErrorKind::Fenced => Err(LetGo),
        Err(error) => {
            tracing::error!(attempt = %attempt.held.id, error = %error.full(), "the store refuses a write");
            Err(LetGo)
        }
    }
}

/// Records the engine's id by compare-and-set; where that fails, what was prepared is removed. Says whether to cancel.
pub(crate) async fn record_prepared(
    attempt: &Attempt,
    handle: &Handle,
    image_digest: Option<String>,
) -> Result<bool, LetGo> {
    // A realm was reached before anything could be prepared in it.
    let realm = loop {
        match attempt.engine.realm() {
            Some(realm) => break realm,
            None => {
                let _ = attempt.engine.realm_changes().changed().await;
            }
        }
    };
    let change = AttemptChange::Prepared {
        realm,
        handle: handle.clone(),
        image_digest,
    };
    let answer = write(attempt, change).await;
    if answer.is_err() {
        attempt.remove_unstarted(handle).await;
    }
    answer
}

/// One try: the secrets as they are now, and the prepare. What engines echo of them is masked in the error.
async fn make(attempt: &Attempt, progress: mpsc::UnboundedSender<String>) -> robata_core::Result<Prepared> {
    let secret_env = attempt.secrets.for_start().await?;
    let prepared = attempt
        .engine
        .executor
        .prepare(request(attempt, secret_env, progress))
        .await;
    prepared.map_err(|error| attempt.secrets.error(error))
}

/// What the executor is asked to make.
fn request(
    attempt: &Attempt,
    secret_env: BTreeMap<String, Secret>,
    progress: mpsc::UnboundedSender<String>,
) -> Prepare {
    let request = &attempt.held.request;
    let definition = &request.definition;
    let payload = attempt.held.payload.bytes().clone();
    let mut env = request.env.clone();
    if payload.len() <= MAX_PAYLOAD_ENV_BYTES
        && let Ok(text) = std::str::from_utf8(&payload)
    {
        env.extend(
            definition
                .payload_env
                .names()
                .into_iter()
                // A definition of an earlier release may name what is ours: the fencing token is never overridden.
                .filter(|name| name == "ROBATA_PAYLOAD" || check_env_name(name).is_ok())
                .map(|name| (name, text.to_owned())),
        );
    }
    let labels = BTreeMap::from([
        (
            label::INSTALLATION.to_owned(),
            attempt.shared.store.installation().to_string(),
        ),
        (label::ATTEMPT.to_owned(), request.attempt.to_string()),
        (label::MARK.to_owned(), request.mark.to_string()),
        (label::FORMAT.to_owned(), request.format.to_string()),
        ("robata.app".to_owned(), request.app.to_string()),
        ("robata.job".to_owned(), request.job.to_string()),
    ]);
    Prepare {
        name: attempt.name.clone(),
        labels,
        spec: Spec {
            image: definition.image.clone(),
            entrypoint: definition.entrypoint.clone(),
            command: definition.command.clone(),
            working_dir: definition.working_dir.clone(),
            user: definition.user.clone(),
            env,
            secret_env,
            payload,
            payload_file_env: Some("ROBATA_PAYLOAD_FILE".to_owned()),
            resources: definition.resources.clone(),
            security: definition.security,
            grace_period: definition.grace_period,
            docker: definition.docker.clone(),
            process: definition.process.clone(),
        },
        progress: Some(Progress(std::sync::Arc::new(move |words: &str| {
            // The start has gone on without it.
            let _ = progress.send(words.to_owned());
        }))),
    }
}
