//! The seam's methods over the scripted realm.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt, stream::BoxStream};
use robata_core::{
    Error, ErrorKind, Result, Secret, Timestamp,
    executor::{
        Capabilities, Event, Executor, Handle, Observation, Output, Owned, Position, Prepare, Prepared, ReadOutput,
        RealmId, Stream, Target, ThingState, label,
    },
    finish::End,
};
use tokio::sync::broadcast::error::RecvError;

use super::{
    Faults, Moment, Shared, clock,
    script::{self, Step},
    thing::Thing,
};

/// A worker's handle on the engine.
#[derive(Debug)]
pub(crate) struct ScriptedExecutor {
    shared: Arc<Shared>,
    faults: Arc<Faults>,
}

impl ScriptedExecutor {
    pub(crate) fn new(shared: Arc<Shared>, faults: Arc<Faults>) -> Self {
        Self { shared, faults }
    }

    fn make(&self, request: Prepare) -> Result<Prepared> {
        let script = script::read(&request.spec)
            .map_err(|words| Error::new(ErrorKind::StartRefused, "engine.prepare", words))?;
        let mut realm = self.shared.realm();
        if let Some((handle, thing)) = realm.by_name(&request.name) {
            let handle = handle.clone();
            if thing.labels.get(label::MARK) == request.labels.get(label::MARK) {
                return Ok(prepared(handle));
            }
            if thing.state != ThingState::Prepared {
                return Err(Error::new(
                    ErrorKind::StillRuns,
                    "engine.prepare",
                    format!("the name {} is taken by what has run", request.name),
                ));
            }
            realm.remove(&handle);
        }
        let created_at = realm.now();
        let handle = realm.insert(Thing {
            name: request.name,
            labels: request.labels,
            created_at,
            spec: request.spec,
            script,
            state: ThingState::Prepared,
            output: Vec::new(),
        });
        drop(realm);
        self.shared.tell(&handle);
        Ok(prepared(handle))
    }

    fn set_going(&self, handle: &Handle) -> Result<()> {
        let going = self.shared.realm().set_going(handle);
        match going {
            None => Err(absent("engine.start", handle)),
            Some(false) => Ok(()),
            Some(true) => {
                self.shared.tell(handle);
                play(&self.shared, handle);
                Ok(())
            }
        }
    }

    async fn end(&self, handle: &Handle, grace_period: Duration) {
        let script = match self.shared.realm().things.get(handle) {
            Some(thing) if matches!(thing.state, ThingState::Running { .. }) => thing.script.clone(),
            _ => return,
        };
        let on_term = script.iter().find_map(|step| match step {
            Step::OnTerm(code) => Some(End::Exited(*code)),
            _ => None,
        });
        let end = if script.contains(&Step::IgnoreTerm) {
            let mut changes = self.shared.changes();
            let ended = async {
                while self.runs(handle) {
                    // The sender lives as long as `self`.
                    let _ = changes.changed().await;
                }
            };
            // The grace period is the engine's to wait for.
            let _ = tokio::time::timeout(grace_period, ended).await;
            End::Signalled(9)
        } else {
            on_term.unwrap_or(End::Signalled(15))
        };
        self.shared.realm().end(handle, end);
        self.shared.tell(handle);
    }

    fn runs(&self, handle: &Handle) -> bool {
        let realm = self.shared.realm();
        let state = realm.things.get(handle).map(|thing| &thing.state);
        matches!(state, Some(ThingState::Running { .. }))
    }
}

fn prepared(handle: Handle) -> Prepared {
    Prepared {
        handle,
        image_digest: None,
    }
}

fn absent(operation: &'static str, handle: &Handle) -> Error {
    Error::new(ErrorKind::NotFound, operation, format!("no such thing: {handle}"))
}

/// Plays a thing's script: at once as far as it goes, the rest after its pauses, by a thread of the engine's own, so
/// that it goes on whatever becomes of the worker that started it.
fn play(shared: &Arc<Shared>, handle: &Handle) {
    let script = match shared.realm().things.get(handle) {
        Some(thing) => thing.script.clone(),
        None => return,
    };
    let pauses = script.iter().any(|step| matches!(step, Step::After(_)));
    let (shared, handle) = (Arc::clone(shared), handle.clone());
    let steps = move || {
        for step in script {
            match step {
                Step::Print(stream, text) => {
                    if let Some(thing) = shared.realm().things.get_mut(&handle) {
                        thing.output.push((clock::now(), stream, text.into()));
                    }
                }
                Step::Env(name) => {
                    if let Some(thing) = shared.realm().things.get_mut(&handle) {
                        let secret = thing.spec.secret_env.get(&name).map(|value| value.expose());
                        let value = secret.or(thing.spec.env.get(&name).map(String::as_str));
                        let text = value.unwrap_or_default().to_owned();
                        thing.output.push((clock::now(), Stream::Stdout, text.into()));
                    }
                }
                Step::After(pause) => std::thread::sleep(pause),
                Step::End(end) => {
                    shared.realm().end(&handle, end);
                }
                Step::OnTerm(_) | Step::IgnoreTerm => continue,
            }
            shared.tell(&handle);
        }
    };
    if pauses {
        std::thread::spawn(steps);
    } else {
        steps();
    }
}

#[async_trait]
impl Executor for ScriptedExecutor {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.images = true;
        capabilities.separate_streams = true;
        capabilities.exact_bytes = true;
        capabilities.live_logs = true;
        capabilities.tells_out_of_memory = true;
        capabilities.outlives_worker = true;
        capabilities
    }

    async fn realm(&self) -> Result<RealmId> {
        self.faults
            .around("engine.realm", async { Ok(self.shared.realm().id.clone()) })
            .await
    }

    async fn prepare(&self, request: Prepare) -> Result<Prepared> {
        if self.faults.is_held("engine.prepare", Moment::Begin)
            && let Some(progress) = &request.progress
        {
            (progress.0)("pulling the image");
        }
        self.faults.around("engine.prepare", async { self.make(request) }).await
    }

    async fn start(&self, handle: &Handle) -> Result<()> {
        self.faults
            .around("engine.start", async { self.set_going(handle) })
            .await
    }

    fn events(&self) -> BoxStream<'static, Event> {
        let listener = self.shared.listen();
        let changes = futures::stream::unfold(listener, |mut listener| async move {
            match listener.recv().await {
                Ok(event) => Some((event, listener)),
                Err(RecvError::Lagged(_)) => Some((Event::Gap, listener)),
                Err(RecvError::Closed) => None,
            }
        });
        futures::stream::once(async { Event::Gap }).chain(changes).boxed()
    }

    async fn observe(&self, targets: &[Target]) -> Result<Vec<Observation>> {
        let look = async {
            let realm = self.shared.realm();
            let unseen = |target: &Target| match target {
                Target::Handle(handle) => realm.unseen.contains(handle),
                Target::Name(name) => realm
                    .by_name(name)
                    .is_some_and(|(handle, _)| realm.unseen.contains(handle)),
            };
            if targets.iter().any(unseen) {
                let words = "one of them cannot be looked at";
                return Err(Error::new(ErrorKind::Internal, "engine.observe", words));
            }
            let seen = targets.iter().map(|target| {
                let found = match target {
                    Target::Handle(handle) => realm.things.get_key_value(handle),
                    Target::Name(name) => realm.by_name(name),
                };
                match found {
                    Some((handle, thing)) => Observation {
                        handle: Some(handle.clone()),
                        labels: thing.labels.clone(),
                        state: thing.state.clone(),
                    },
                    None => Observation {
                        handle: None,
                        labels: BTreeMap::new(),
                        state: ThingState::Absent,
                    },
                }
            });
            Ok(seen.collect())
        };
        self.faults.around("engine.observe", look).await
    }

    async fn stop(&self, handle: &Handle, grace_period: Duration) -> Result<()> {
        let end = async {
            self.end(handle, grace_period).await;
            Ok(())
        };
        self.faults.around("engine.stop", end).await
    }

    async fn output(&self, request: ReadOutput) -> Result<BoxStream<'static, Result<Output>>> {
        let open = async {
            let from: usize = match request.from.0.as_str() {
                "" => 0,
                text => text.parse().map_err(|_| {
                    let message = format!("{text:?} is no position of this engine");
                    Error::new(ErrorKind::Invalid, "engine.output", message)
                })?,
            };
            if !self.shared.realm().things.contains_key(&request.handle) {
                return Err(absent("engine.output", &request.handle));
            }
            Ok(read(
                Arc::clone(&self.shared),
                request.handle.clone(),
                from,
                request.follow,
            ))
        };
        self.faults.around("engine.output", open).await
    }

    async fn secrets(&self, handle: &Handle, variables: &BTreeSet<String>) -> Result<Option<BTreeMap<String, Secret>>> {
        let look = async {
            if !self.shared.tells_secrets() {
                return Ok(None);
            }
            let realm = self.shared.realm();
            let thing = realm
                .things
                .get(handle)
                .ok_or_else(|| absent("engine.secrets", handle))?;
            let mut found = thing.spec.secret_env.clone();
            found.retain(|name, _| variables.contains(name));
            Ok(Some(found))
        };
        self.faults.around("engine.secrets", look).await
    }

    async fn remove(&self, handle: &Handle, force: bool) -> Result<()> {
        let remove = async {
            let mut realm = self.shared.realm();
            let state = realm.things.get(handle).map(|thing| thing.state.clone());
            if matches!(state, Some(ThingState::Running { .. })) && !force {
                let message = format!("{handle} runs");
                return Err(Error::new(ErrorKind::StillRuns, "engine.remove", message));
            }
            realm.remove(handle);
            drop(realm);
            self.shared.tell(handle);
            Ok(())
        };
        self.faults.around("engine.remove", remove).await
    }

    async fn now(&self) -> Result<Option<Timestamp>> {
        self.faults
            .around("engine.now", async { Ok(Some(self.shared.realm().now())) })
            .await
    }

    async fn owned(&self) -> Result<Vec<Owned>> {
        let list = async {
            let realm = self.shared.realm();
            let owned = realm
                .things
                .iter()
                .filter(|(_, thing)| thing.labels.contains_key(label::INSTALLATION))
                .map(|(handle, thing)| Owned {
                    handle: handle.clone(),
                    labels: thing.labels.clone(),
                    created_at: thing.created_at,
                });
            Ok(owned.collect())
        };
        self.faults.around("engine.owned", list).await
    }
}

/// The pieces from this one on; with `follow` until the thing has ended.
fn read(shared: Arc<Shared>, handle: Handle, from: usize, follow: bool) -> BoxStream<'static, Result<Output>> {
    enum Next {
        Piece(Output),
        Wait,
        End,
        Gone,
    }
    let changes = shared.changes();
    let pieces = futures::stream::unfold(Some((from, changes)), move |state| {
        let (shared, handle) = (Arc::clone(&shared), handle.clone());
        async move {
            let (at, mut changes) = state?;
            loop {
                changes.mark_unchanged();
                let next = match shared.realm().things.get(&handle) {
                    None => Next::Gone,
                    Some(thing) => match thing.output.get(at) {
                        Some((time, stream, data)) => Next::Piece(Output {
                            at: *time,
                            stream: *stream,
                            data: data.clone(),
                            position: Position((at + 1).to_string()),
                        }),
                        None if follow && !matches!(thing.state, ThingState::Ended(_)) => Next::Wait,
                        None => Next::End,
                    },
                };
                match next {
                    Next::Piece(output) => return Some((Ok(output), Some((at + 1, changes)))),
                    Next::End => return None,
                    Next::Gone => return Some((Err(absent("engine.output", &handle)), None)),
                    // The sender lives as long as the stream.
                    Next::Wait => {
                        let _ = changes.changed().await;
                    }
                }
            }
        }
    });
    pieces.boxed()
}
