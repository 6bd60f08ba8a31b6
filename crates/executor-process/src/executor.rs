//! The executor: each call is a few steps in the state folder, done off the runtime's threads.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use robata_core::{
    Result,
    executor::{
        Capabilities, Ending, Event, Executor, Handle, Observation, Output, Owned, Prepare, Prepared, ReadOutput,
        RealmId, Target, ThingState,
    },
};
use tokio::sync::broadcast::error::RecvError;

use crate::{
    cgroup,
    children::Children,
    config::{Cgroups, ProcessConfig},
    error::Fault,
    folder::Folder,
    hub::Hub,
    lock, output, prepare, remove,
    remove::Removal,
    stop, supervisor,
    thing::{self, Outcome, Record, Seen, Thing, Verdict},
};

/// Runs commands as supervised processes of this machine. Cloning it is cheap; all clones are one executor.
#[derive(Clone)]
pub struct ProcessExecutor {
    engine: Engine,
}

/// What all operations share.
#[derive(Clone)]
pub(crate) struct Engine(Arc<Parts>);

pub(crate) struct Parts {
    pub(crate) config: ProcessConfig,
    pub(crate) folder: Folder,
    pub(crate) cgroups: cgroup::Engine,
    pub(crate) children: Arc<Children>,
    pub(crate) hub: Arc<Hub>,
}

impl std::ops::Deref for Engine {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl fmt::Debug for ProcessExecutor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessExecutor")
            .field("state", &self.engine.config.state)
            .field("realm", &self.engine.folder.realm)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// Does blocking work on a thread for it; a dropped caller does not cut it in half.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let engine = self.clone();
        tokio::task::spawn_blocking(move || work(&engine))
            .await
            .map_err(Fault::Task)?
    }
}

impl ProcessExecutor {
    /// Opens the state folder, and makes it where it is not there yet.
    ///
    /// # Errors
    /// `Invalid` where the folder is another user's or on a network file system, or where the program would be its own
    /// supervisor and its main does not begin with [`supervise_if_asked`](crate::supervise_if_asked).
    pub fn open(config: ProcessConfig) -> Result<Self> {
        Self::try_open(config).map_err(|fault| fault.at("process.open"))
    }

    fn try_open(config: ProcessConfig) -> Result<Self, Fault> {
        if config.supervisor.is_none() && !supervisor::main_asks() {
            return Err(Fault::Settings(
                "this program's main must begin with robata_executor_process::supervise_if_asked()".to_owned(),
            ));
        }
        let folder = Folder::open(&config.state, config.installation)?;
        let children = Arc::new(Children::new());
        let hub = Hub::open(&folder.locks, Arc::clone(&children))?;
        let cgroups = match config.cgroups {
            Cgroups::Auto => cgroup::Engine::detect(),
            Cgroups::Off => cgroup::Engine::default(),
        };
        let parts = Parts {
            config,
            folder,
            cgroups,
            children,
            hub,
        };
        Ok(Self {
            engine: Engine(Arc::new(parts)),
        })
    }

    fn thing(&self, handle: &Handle) -> Option<Thing> {
        self.engine.folder.thing(handle)
    }

    async fn end(&self, thing: &Thing, grace: Duration) -> Result<(), Fault> {
        let mut ends = self.engine.hub.ends(&thing.handle);
        let asked = thing.clone();
        let runs = self
            .engine
            .blocking(move |_| {
                if !matches!(asked.look()?, Seen::Running(_)) {
                    return Ok(false);
                }
                match thing::ask_stop(&asked.folder, grace) {
                    Ok(()) => asked.wake().map(|_| true),
                    // Removed meanwhile, by somebody who saw its end.
                    Err(_) if !asked.folder.exists() => Ok(false),
                    Err(fault) => Err(fault),
                }
            })
            .await?;
        if runs {
            stop::until(&self.engine, thing, &mut ends, grace, |seen| {
                !matches!(seen, Seen::Running(_))
            })
            .await?;
        }
        // What a killed supervisor left is ended before anybody is told that it is over.
        let thing = thing.clone();
        self.engine
            .blocking(move |engine| {
                if let Seen::Died(Some(_)) = thing.look()? {
                    remove::settle(engine, &[(&thing, thing.record()?)])?;
                }
                Ok(())
            })
            .await
    }

    async fn try_remove(&self, thing: Thing, force: bool) -> Result<(), Fault> {
        let mut ends = self.engine.hub.ends(&thing.handle);
        for last in [false, true] {
            let looked = thing.clone();
            match self
                .engine
                .blocking(move |engine| remove::step(engine, &looked))
                .await?
            {
                Removal::Done => return Ok(()),
                Removal::Runs if force && !last => self.end(&thing, Duration::ZERO).await?,
                Removal::Runs => return Err(Fault::Runs(thing.handle.0.clone())),
                Removal::Leaving => {
                    let gone = |seen: &Seen| !matches!(seen, Seen::Prepared);
                    // It can never run, whether its supervisor hears of it now or when it wakes.
                    if let Err(fault) = stop::until(&self.engine, &thing, &mut ends, Duration::ZERO, gone).await {
                        tracing::warn!(%fault, "a thing is removed under its supervisor");
                    }
                    return self
                        .engine
                        .blocking(move |engine| remove::take_away(engine, &thing))
                        .await;
                }
            }
        }
        Ok(())
    }
}

/// Looks at things, in order.
fn observe(engine: &Engine, targets: &[Target]) -> Result<Vec<Observation>, Fault> {
    let mut seen = Vec::with_capacity(targets.len());
    for target in targets {
        let thing = match target {
            Target::Handle(handle) => engine.folder.thing(handle),
            Target::Name(name) => engine.folder.named(name)?,
        };
        seen.push(match thing {
            None => None,
            Some(thing) => {
                let record = thing.record()?;
                Some((thing.look()?, thing, record))
            }
        });
    }
    // The dead are settled together: to look for what is left of them is one pass over all processes.
    let dead: Vec<(&Thing, Option<Record>)> = seen
        .iter()
        .flatten()
        .filter(|(state, ..)| matches!(state, Seen::Died(_)))
        .map(|(_, thing, record)| (thing, record.clone()))
        .collect();
    let mut outcomes = remove::settle(engine, &dead)?.into_iter();
    let mut answer = Vec::with_capacity(seen.len());
    for seen in seen {
        let absent = Observation {
            handle: None,
            labels: Default::default(),
            state: ThingState::Absent,
        };
        let Some((state, thing, record)) = seen else {
            answer.push(absent);
            continue;
        };
        let state = match state {
            Seen::Absent => {
                answer.push(absent);
                continue;
            }
            Seen::Prepared => ThingState::Prepared,
            Seen::Running(started_at) if thing::executed(&thing.folder) => ThingState::Running { started_at },
            Seen::Running(_) => {
                // Whoever set it going may have been killed before it woke the supervisor, which looks by itself once a minute.
                thing.wake()?;
                ThingState::Starting
            }
            Seen::Ended(outcome) => {
                engine.children.ended(&thing.handle);
                ThingState::Ended(ending(outcome))
            }
            Seen::Died(_) => match outcomes.next() {
                Some(outcome) => ThingState::Ended(ending(outcome)),
                None => ThingState::Absent,
            },
        };
        let labels = record.map(|record| record.labels).unwrap_or_default();
        answer.push(Observation {
            handle: Some(thing.handle),
            labels,
            state,
        });
    }
    Ok(answer)
}

fn ending(outcome: Outcome) -> Ending {
    Ending {
        end: outcome.end,
        started_at: outcome.started_at,
        finished_at: outcome.finished_at,
        detail: outcome.detail,
        message: outcome.message,
    }
}

/// Sets going what was never set going.
fn start(engine: &Engine, thing: &Thing) -> Result<(), Fault> {
    let absent = || Fault::Absent(thing.handle.0.clone());
    match thing::decide(&thing.folder, Verdict::Go)? {
        Some(Verdict::Go) => {}
        Some(Verdict::Removed) | None => return Err(absent()),
    }
    // Where nobody listens yet the supervisor reads the verdict when it is up. Where it is gone, nobody else tells.
    if !thing.wake()? && !lock::is_held(&thing.lock)? {
        engine.hub.tell(&thing.handle);
    }
    Ok(())
}

fn owned(engine: &Engine) -> Result<Vec<Owned>, Fault> {
    let mut owned = Vec::new();
    for thing in engine.folder.all()? {
        match thing.record() {
            Ok(Some(record)) => {
                owned.push(Owned {
                    handle: thing.handle,
                    labels: record.labels,
                    created_at: record.created_at,
                });
            }
            // A crash of the machine took the record: it is ours still, and shows without labels.
            Ok(None) if thing.folder.exists() => {
                let made = std::fs::metadata(&thing.folder).and_then(|metadata| metadata.modified());
                let created_at = made.map_or_else(|_| crate::clock::now(), crate::clock::from_system);
                owned.push(Owned {
                    handle: thing.handle,
                    labels: Default::default(),
                    created_at,
                });
            }
            Ok(None) => {}
            // PROTOCOL V1: left for a worker that knows it.
            Err(fault @ Fault::Newer { .. }) => tracing::warn!(%fault, "left for a newer worker"),
            Err(fault) => return Err(fault),
        }
    }
    Ok(owned)
}

#[async_trait]
impl Executor for ProcessExecutor {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.separate_streams = true;
        capabilities.exact_bytes = true;
        capabilities.live_logs = true;
        capabilities.tells_out_of_memory = self.engine.cgroups.limits_memory();
        capabilities.outlives_worker = true;
        capabilities
    }

    async fn realm(&self) -> Result<RealmId> {
        Ok(self.engine.folder.realm.clone())
    }

    async fn prepare(&self, request: Prepare) -> Result<Prepared> {
        let made = self
            .engine
            .blocking(move |engine| prepare::prepare(engine, &request))
            .await;
        let handle = made.map_err(|fault| fault.at("process.prepare"))?;
        Ok(Prepared {
            handle,
            image_digest: None,
        })
    }

    async fn start(&self, handle: &Handle) -> Result<()> {
        let at = |fault: Fault| fault.at("process.start");
        let thing = self.thing(handle).ok_or_else(|| at(Fault::Absent(handle.0.clone())))?;
        self.engine
            .blocking(move |engine| start(engine, &thing))
            .await
            .map_err(at)
    }

    fn events(&self) -> BoxStream<'static, Event> {
        // From now on, not from the first poll: what ends in between is told.
        let receiver = self.engine.hub.subscribe();
        let first = stream::once(async { Event::Gap });
        // The engine goes along: as long as somebody listens, somebody tells.
        let rest = stream::unfold((receiver, self.engine.clone()), |(mut receiver, engine)| async move {
            let event = match receiver.recv().await {
                Ok(event) => event,
                Err(RecvError::Lagged(_)) => Event::Gap,
                Err(RecvError::Closed) => return None,
            };
            Some((event, (receiver, engine)))
        });
        first.chain(rest).boxed()
    }

    async fn observe(&self, targets: &[Target]) -> Result<Vec<Observation>> {
        let targets = targets.to_vec();
        let seen = self.engine.blocking(move |engine| observe(engine, &targets)).await;
        seen.map_err(|fault| fault.at("process.observe"))
    }

    async fn stop(&self, handle: &Handle, grace_period: Duration) -> Result<()> {
        let Some(thing) = self.thing(handle) else { return Ok(()) };
        self.end(&thing, grace_period)
            .await
            .map_err(|fault| fault.at("process.stop"))
    }

    async fn output(&self, request: ReadOutput) -> Result<BoxStream<'static, Result<Output>>> {
        let at = |fault: Fault| fault.at("process.output");
        let thing = self
            .thing(&request.handle)
            .ok_or_else(|| at(Fault::Absent(request.handle.0.clone())))?;
        let pieces = output::read(self.engine.clone(), thing, &request.from, request.follow)
            .await
            .map_err(at)?;
        Ok(pieces.map_err(at).boxed())
    }

    async fn remove(&self, handle: &Handle, force: bool) -> Result<()> {
        let Some(thing) = self.thing(handle) else { return Ok(()) };
        self.try_remove(thing, force)
            .await
            .map_err(|fault| fault.at("process.remove"))
    }

    async fn owned(&self) -> Result<Vec<Owned>> {
        self.engine
            .blocking(owned)
            .await
            .map_err(|fault| fault.at("process.owned"))
    }
}
