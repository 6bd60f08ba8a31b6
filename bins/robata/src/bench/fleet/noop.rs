//! An executor of which every thing ends as soon as it is started: what is left of an attempt is its bookkeeping.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::Write as _,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt as _, stream, stream::BoxStream};
use robata_core::{
    Error, ErrorKind, Result, Timestamp,
    executor::{
        Capabilities, Ending, Event, Executor, Handle, Observation, Output, Owned, Prepare, Prepared, ReadOutput,
        RealmId, Target, ThingState, label,
    },
    finish::End,
};
use tokio::sync::broadcast;

use crate::bench::clock;

/// Events that a slow listener may be behind; it looks at everything again then.
const EVENTS: usize = 65_536;

/// The executor. Its things are gone with it.
#[derive(Debug)]
pub(super) struct Noop {
    realm: RealmId,
    things: Mutex<HashMap<String, Thing>>,
    events: broadcast::Sender<Event>,
    /// Where it is written down when each was prepared.
    stamps: Option<Mutex<File>>,
}

#[derive(Debug)]
struct Thing {
    labels: BTreeMap<String, String>,
    made_at: Timestamp,
    ended_at: Option<Timestamp>,
}

impl Noop {
    pub(super) fn new(stamps: Option<File>) -> Self {
        Self {
            realm: RealmId(format!("noop-{}", uuid::Uuid::new_v4())),
            things: Mutex::default(),
            events: broadcast::Sender::new(EVENTS),
            stamps: stamps.map(Mutex::new),
        }
    }

    fn things(&self) -> MutexGuard<'_, HashMap<String, Thing>> {
        self.things.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down that this attempt came so far: `JOB/NUMBER NANOSECONDS`.
    fn stamp(&self, labels: &BTreeMap<String, String>) -> std::io::Result<()> {
        let (Some(stamps), Some(attempt)) = (&self.stamps, labels.get(label::ATTEMPT)) else {
            return Ok(());
        };
        let line = format!("{attempt} {}\n", clock::wall_nanos());
        let mut stamps = stamps.lock().unwrap_or_else(PoisonError::into_inner);
        stamps.write_all(line.as_bytes())
    }
}

fn now() -> Timestamp {
    Timestamp::from_millis(i64::try_from(clock::wall_nanos() / 1_000_000).unwrap_or(i64::MAX))
}

#[async_trait]
impl Executor for Noop {
    fn capabilities(&self) -> Capabilities {
        let mut can = Capabilities::default();
        can.separate_streams = true;
        can.exact_bytes = true;
        can
    }

    async fn realm(&self) -> Result<RealmId> {
        Ok(self.realm.clone())
    }

    async fn prepare(&self, request: Prepare) -> Result<Prepared> {
        self.stamp(&request.labels).map_err(|error| {
            Error::new(ErrorKind::Internal, "noop.prepare", "cannot write the stamp").with_source(error)
        })?;
        let thing = Thing {
            labels: request.labels,
            made_at: now(),
            ended_at: None,
        };
        self.things().entry(request.name.clone()).or_insert(thing);
        Ok(Prepared {
            handle: Handle(request.name),
            image_digest: None,
        })
    }

    async fn start(&self, handle: &Handle) -> Result<()> {
        match self.things().get_mut(&handle.0) {
            Some(thing) => thing.ended_at.get_or_insert_with(now),
            None => return Err(Error::new(ErrorKind::NotFound, "noop.start", "there is no such thing")),
        };
        // Nobody listens yet: whoever does begins with a look at everything.
        let _ = self.events.send(Event::Changed(handle.clone()));
        Ok(())
    }

    fn events(&self) -> BoxStream<'static, Event> {
        let changes = stream::unfold(self.events.subscribe(), |mut events| async move {
            match events.recv().await {
                Ok(event) => Some((event, events)),
                Err(broadcast::error::RecvError::Lagged(_)) => Some((Event::Gap, events)),
                Err(broadcast::error::RecvError::Closed) => None,
            }
        });
        stream::iter([Event::Gap]).chain(changes).boxed()
    }

    async fn observe(&self, targets: &[Target]) -> Result<Vec<Observation>> {
        let things = self.things();
        let seen = |target: &Target| {
            let (Target::Handle(Handle(name)) | Target::Name(name)) = target;
            let Some(thing) = things.get(name) else {
                return Observation {
                    handle: None,
                    labels: BTreeMap::new(),
                    state: ThingState::Absent,
                };
            };
            let state = match thing.ended_at {
                None => ThingState::Prepared,
                Some(at) => ThingState::Ended(Ending {
                    end: End::Exited(0),
                    started_at: Some(at),
                    finished_at: Some(at),
                    detail: None,
                    message: None,
                }),
            };
            Observation {
                handle: Some(Handle(name.clone())),
                labels: thing.labels.clone(),
                state,
            }
        };
        Ok(targets.iter().map(seen).collect())
    }

    async fn stop(&self, _: &Handle, _: Duration) -> Result<()> {
        Ok(())
    }

    async fn output(&self, _: ReadOutput) -> Result<BoxStream<'static, Result<Output>>> {
        Ok(stream::empty().boxed())
    }

    async fn remove(&self, handle: &Handle, _: bool) -> Result<()> {
        self.things().remove(&handle.0);
        Ok(())
    }

    async fn owned(&self) -> Result<Vec<Owned>> {
        let things = self.things();
        let owned = things.iter().map(|(name, thing)| Owned {
            handle: Handle(name.clone()),
            labels: thing.labels.clone(),
            created_at: thing.made_at,
        });
        Ok(owned.collect())
    }
}
