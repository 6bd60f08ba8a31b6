//! The two-step start (PROTOCOL X1, X2): prepare, record, and only then set going, by the engine's id.

use std::{collections::BTreeMap, time::Duration};

use robata_core::{
    Error, ErrorKind, WaitingReason,
    attempt::AttemptChange,
    executor::{Handle, Prepare, Prepared, Progress, Spec, Target, ThingState, label},
    finish::{End, NeverRan, Outcome},
    request::MAX_PAYLOAD_ENV_BYTES,
};
use tokio::{sync::mpsc, time::Instant};

use crate::{
    attempt::{Attempt, LetGo, never_set_going},
    backoff::Backoff,
    slots::Slot,
};

/// A start that waits longer gives its slot back.
const SLOT_PATIENCE: Duration = Duration::from_secs(10);
/// A wait shorter than this is not worth a write.
const WORTH_TELLING: Duration = Duration::from_secs(1);
/// A start whose answer was lost is looked for so long.
const LOST_ANSWER: Duration = Duration::from_secs(60);

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
            start_within: Instant::now() + held.request.start_within.saturating_sub(waited),
            expires: held.request.expires_at.map(|at| Instant::now() + at.since(held.now)),
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
        let words = last.map_or_else(|| "the image was still being pulled".to_owned(), Error::full);
        Outcome::new(End::NeverRan(why)).with_message(format!("not started within `start_within`: {words}"))
    }
}

/// The slot of a start: given back while it waits long, taken again before the start is sent.
struct Place {
    slot: Option<Slot>,
    waiting: Option<Slot>,
}

/// Starts a claimed attempt.
pub(crate) async fn start(attempt: &mut Attempt, slot: Slot) -> Result<Started, LetGo> {
    let deadlines = Deadlines::of(attempt);
    let mut place = Place {
        slot: Some(slot),
        waiting: None,
    };
    let prepared = match prepare(attempt, &deadlines, &mut place).await? {
        Ok(prepared) => prepared,
        Err(never) => return Ok(never),
    };
    let handle = prepared.handle.clone();
    let cancelled = record_prepared(attempt, &handle, prepared.image_digest).await?;
    let slot = match place.slot {
        Some(slot) => slot,
        None => attempt.engine.slots.take().await,
    };
    let permit = attempt.engine.starts.acquire().await;
    let wishes = attempt.holding.wishes.borrow().clone();
    let too_late = deadlines.first() <= Instant::now();
    // Without a lease nothing is set going (PROTOCOL H2).
    let lease = attempt.shared.lease.wait_valid().await;
    if lease.incarnation != attempt.holding.incarnation {
        return Err(LetGo);
    }
    if cancelled || wishes.cancel || too_late {
        if attempt.remove_unstarted(&handle).await {
            let outcome = if too_late {
                deadlines.outcome(None)
            } else {
                Outcome::new(End::NeverRan(NeverRan::Cancelled))
            };
            return Ok(Started::Never(None, outcome));
        }
        return Ok(Started::Runs(handle, slot));
    }
    let sent = attempt.engine.executor.start(&handle).await;
    drop(permit);
    match sent {
        Ok(()) => Ok(Started::Runs(handle, slot)),
        Err(error) => after_failed_start(attempt, handle, slot, error).await,
    }
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
    let until = Instant::now() + LOST_ANSWER;
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        match attempt.observe(Target::Handle(handle.clone())).await.state {
            ThingState::Prepared if Instant::now() < until => backoff.wait().await,
            ThingState::Prepared => {
                if attempt.remove_unstarted(&handle).await {
                    return Ok(Started::Never(None, never_set_going()));
                }
                return Ok(Started::Runs(handle, slot));
            }
            ThingState::Absent => {
                let outcome = never_set_going().with_message("what was prepared is gone, and was never set going");
                return Ok(Started::Never(None, outcome));
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
        let request = request(attempt, progress);
        let cancel = attempt.holding.cancel_wished();
        tokio::pin!(cancel);
        let result = {
            let making = attempt.engine.executor.prepare(request);
            tokio::pin!(making);
            let mut words: Option<String> = None;
            loop {
                let tell_at = began + WORTH_TELLING;
                let give_slot_at = began + SLOT_PATIENCE;
                tokio::select! {
                    result = &mut making => break Some(result),
                    () = &mut cancel => break None,
                    () = tokio::time::sleep_until(deadlines.first()) => break None,
                    Some(text) = pulling.recv() => words = Some(text),
                    () = tokio::time::sleep_until(tell_at), if told.is_none() && words.is_some() => {
                        let text = words.clone().unwrap_or_default();
                        tell(attempt, &mut told, WaitingReason::Pulling, text).await?;
                    }
                    () = tokio::time::sleep_until(give_slot_at), if place.slot.is_some() && place.waiting.is_none() => {
                        give_slot_back(attempt, place);
                        if place.slot.is_some() {
                            // All places for waiting starts are taken: this one keeps its slot.
                            place.waiting = place.slot.take();
                        }
                    }
                }
            }
        };
        let Some(result) = result else {
            // The prepare was dropped and may have made something: it is looked for by its name.
            let seen = attempt.observe(Target::Name(attempt.name.clone())).await;
            if let (ThingState::Prepared, Some(handle)) = (&seen.state, &seen.handle) {
                attempt.remove_unstarted(handle).await;
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
            ErrorKind::Unavailable => Err(WaitingReason::EngineUnreachable),
            ErrorKind::NoCapacity => Err(WaitingReason::NoCapacity),
            ErrorKind::ImagePull => Ok(NeverRan::ImagePull),
            ErrorKind::StillRuns => return taken_name(attempt, place).await,
            _ => Ok(NeverRan::StartRefused),
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
        if began.elapsed() > SLOT_PATIENCE && place.waiting.is_none() {
            give_slot_back(attempt, place);
        }
        tokio::select! {
            () = backoff.wait() => {}
            () = &mut cancel => {}
            () = tokio::time::sleep_until(deadlines.first()) => {}
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

/// The name is taken by something that has run: it is followed where it is ours (PROTOCOL X1).
async fn taken_name(attempt: &Attempt, place: &mut Place) -> Result<Result<Prepared, Started>, LetGo> {
    let seen = attempt.observe(Target::Name(attempt.name.clone())).await;
    let ours = seen.labels.get(label::MARK) == Some(&attempt.held.request.mark.to_string());
    match (seen.handle, place.slot.take().or_else(|| place.waiting.take())) {
        (Some(handle), slot) if ours => {
            record_prepared(attempt, &handle, None).await?;
            Ok(Err(Started::Runs(
                handle,
                slot.unwrap_or_else(|| attempt.engine.slots.take_adopted()),
            )))
        }
        _ => Ok(Err(Started::Never(
            None,
            never_set_going().with_message("its name is taken in the engine"),
        ))),
    }
}

fn give_slot_back(attempt: &Attempt, place: &mut Place) {
    if let Some(waiting) = attempt.engine.waiting.try_take() {
        place.waiting = Some(waiting);
        place.slot = None;
    }
}

async fn tell(
    attempt: &Attempt,
    told: &mut Option<WaitingReason>,
    reason: WaitingReason,
    words: String,
) -> Result<(), LetGo> {
    if *told != Some(reason) {
        *told = Some(reason);
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

/// What the executor is asked to make.
fn request(attempt: &Attempt, progress: mpsc::UnboundedSender<String>) -> Prepare {
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
