//! An executor whose things are calls of this program's functions. They end with the program, and it says so.

use std::{
    collections::{BTreeMap, HashMap},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{
    FutureExt, StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use robata_core::{
    Error, ErrorKind, Result, Timestamp,
    executor::{
        Capabilities, Ending, Event, Executor, Handle, Observation, Output, Owned, Position, Prepare, Prepared,
        ReadOutput, RealmId, Stream, Target, ThingState, label,
    },
    finish::End,
    part,
};
use tokio::{
    sync::broadcast::{self, error::RecvError},
    task::AbortHandle,
};

/// What a function does: its answer is the job's output, and an error its failure.
pub(crate) type Call = BoxFuture<'static, std::result::Result<String, String>>;
/// A function that a job's command names; it gets the payload.
pub(crate) type Function = fn(Bytes) -> Call;

/// The executor. Clones are the same one.
#[derive(Clone, Debug)]
pub(crate) struct Functions(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    realm: RealmId,
    functions: HashMap<&'static str, Function>,
    things: Mutex<BTreeMap<Handle, Thing>>,
    events: broadcast::Sender<Event>,
}

#[derive(Debug)]
struct Thing {
    labels: BTreeMap<String, String>,
    function: Function,
    payload: Bytes,
    made_at: Timestamp,
    started: Option<(Timestamp, AbortHandle)>,
    ended: Option<(Timestamp, End)>,
    output: String,
}

impl Functions {
    pub(crate) fn new<const N: usize>(functions: [(&'static str, Function); N]) -> Self {
        Self(Arc::new(Inner {
            // Another one at each start: what an earlier program called has ended with it.
            realm: RealmId(format!("functions-{}", uuid::Uuid::new_v4())),
            functions: HashMap::from(functions),
            things: Mutex::default(),
            events: broadcast::Sender::new(1024),
        }))
    }

    fn things(&self) -> MutexGuard<'_, BTreeMap<Handle, Thing>> {
        self.0.things.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody may listen yet: whoever does begins with a look at everything.
    fn changed(&self, handle: &Handle) {
        let _ = self.0.events.send(Event::Changed(handle.clone()));
    }

    /// Notes how a call ended, unless it was stopped before.
    fn ended(&self, handle: &Handle, end: End, output: String) {
        if let Some(thing) = self.things().get_mut(handle)
            && thing.ended.is_none()
        {
            thing.ended = Some((now(), end));
            thing.output = output;
        }
        self.changed(handle);
    }
}

#[expect(clippy::disallowed_methods, reason = "the engine's own clock, which is this one's")]
fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

fn refused(kind: ErrorKind, operation: &'static str, message: impl Into<String>) -> Error {
    Error::new(kind, operation, message)
}

#[async_trait]
impl Executor for Functions {
    fn capabilities(&self) -> Capabilities {
        let mut can = Capabilities::default();
        can.separate_streams = true;
        can.exact_bytes = true;
        can
    }

    async fn realm(&self) -> Result<RealmId> {
        Ok(self.0.realm.clone())
    }

    async fn prepare(&self, request: Prepare) -> Result<Prepared> {
        let command = request.spec.command.unwrap_or_default();
        let function = match command.as_slice() {
            [name] => self.0.functions.get(name.as_str()).copied(),
            _ => None,
        };
        let function = function.ok_or_else(|| {
            let names: Vec<_> = self.0.functions.keys().collect();
            let message = format!("{command:?} is none of this program's functions, which are {names:?}");
            refused(ErrorKind::StartRefused, "functions.prepare", message)
        })?;
        // What cannot be given is refused, never left out in silence.
        if !request.spec.secret_env.is_empty() {
            let message = "a function of this program has no environment, and so no secrets";
            return Err(refused(ErrorKind::Unsupported, "functions.prepare", message));
        }
        let handle = Handle(request.name);
        let mut things = self.things();
        if let Some(there) = things.get(&handle) {
            // Ours, and asked again: its answer was lost.
            if there.labels.get(label::MARK) == request.labels.get(label::MARK) {
                return Ok(Prepared {
                    handle,
                    image_digest: None,
                });
            }
            if there.started.is_some() {
                let message = format!("{handle} has run");
                return Err(refused(ErrorKind::StillRuns, "functions.prepare", message));
            }
        }
        let thing = Thing {
            labels: request.labels,
            function,
            payload: request.spec.payload,
            made_at: now(),
            started: None,
            ended: None,
            output: String::new(),
        };
        things.insert(handle.clone(), thing);
        Ok(Prepared {
            handle,
            image_digest: None,
        })
    }

    async fn start(&self, handle: &Handle) -> Result<()> {
        let mut things = self.things();
        let Some(thing) = things.get_mut(handle) else {
            return Err(refused(
                ErrorKind::NotFound,
                "functions.start",
                format!("there is no {handle}"),
            ));
        };
        if thing.started.is_none() {
            let (call, own, name) = ((thing.function)(thing.payload.clone()), self.clone(), handle.clone());
            let task = tokio::spawn(async move {
                // A panic is the function's, and its end.
                let (end, output) = match AssertUnwindSafe(call).catch_unwind().await {
                    Ok(Ok(output)) => (End::Exited(0), output),
                    Ok(Err(output)) => (End::Exited(1), output),
                    Err(panic) => (End::Exited(101), part::words(&*panic)),
                };
                own.ended(&name, end, output);
            });
            thing.started = Some((now(), task.abort_handle()));
        }
        drop(things);
        self.changed(handle);
        Ok(())
    }

    fn events(&self) -> BoxStream<'static, Event> {
        let events = stream::unfold(self.0.events.subscribe(), |mut events| async move {
            match events.recv().await {
                Ok(event) => Some((event, events)),
                Err(RecvError::Lagged(_)) => Some((Event::Gap, events)),
                Err(RecvError::Closed) => None,
            }
        });
        stream::iter([Event::Gap]).chain(events).boxed()
    }

    async fn observe(&self, targets: &[Target]) -> Result<Vec<Observation>> {
        let things = self.things();
        let look = |target: &Target| {
            let handle = match target {
                Target::Handle(handle) => handle.clone(),
                Target::Name(name) => Handle(name.clone()),
            };
            let Some(thing) = things.get(&handle) else {
                return Observation {
                    handle: None,
                    labels: BTreeMap::new(),
                    state: ThingState::Absent,
                };
            };
            let started_at = thing.started.as_ref().map(|(at, _)| *at);
            let state = match (thing.ended, started_at) {
                (Some((at, end)), _) => ThingState::Ended(Ending {
                    end,
                    started_at,
                    finished_at: Some(at),
                    detail: None,
                    message: None,
                }),
                (None, Some(started_at)) => ThingState::Running { started_at },
                (None, None) => ThingState::Prepared,
            };
            Observation {
                handle: Some(handle),
                labels: thing.labels.clone(),
                state,
            }
        };
        Ok(targets.iter().map(look).collect())
    }

    /// A function cannot be asked to end: it is dropped where it waits.
    async fn stop(&self, handle: &Handle, _: Duration) -> Result<()> {
        let started = self.things().get(handle).and_then(|thing| thing.started.clone());
        if let Some((_, task)) = started {
            task.abort();
            self.ended(handle, End::Signalled(15), String::new());
        }
        Ok(())
    }

    async fn output(&self, request: ReadOutput) -> Result<BoxStream<'static, Result<Output>>> {
        let mut changes = self.0.events.subscribe();
        let (own, handle, read) = (self.clone(), request.handle, !request.from.0.is_empty());
        let output = async move {
            loop {
                match own.things().get(&handle) {
                    None => return None,
                    Some(thing) if thing.ended.is_some() || !request.follow => {
                        return Some(Ok(Output {
                            at: thing.ended.map_or(thing.made_at, |(at, _)| at),
                            stream: Stream::Stdout,
                            data: Bytes::from(thing.output.clone()),
                            position: Position("read".to_owned()),
                        }));
                    }
                    Some(_) => {}
                }
                if let Err(RecvError::Closed) = changes.recv().await {
                    return None;
                }
            }
        };
        if read {
            return Ok(stream::empty().boxed());
        }
        Ok(stream::once(output).filter_map(std::future::ready).boxed())
    }

    async fn remove(&self, handle: &Handle, force: bool) -> Result<()> {
        let runs = |thing: &Thing| thing.started.is_some() && thing.ended.is_none();
        if !force && self.things().get(handle).is_some_and(runs) {
            return Err(refused(
                ErrorKind::StillRuns,
                "functions.remove",
                format!("{handle} runs"),
            ));
        }
        self.things().remove(handle);
        Ok(())
    }

    async fn owned(&self) -> Result<Vec<Owned>> {
        let things = self.things();
        let owned = things.iter().map(|(handle, thing)| Owned {
            handle: handle.clone(),
            labels: thing.labels.clone(),
            created_at: thing.made_at,
        });
        Ok(owned.collect())
    }
}
