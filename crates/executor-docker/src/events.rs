//! One `/events` connection for all of the installation's containers, kept up for ever.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bollard::{errors::Error as Client, models::EventMessage, query_parameters::EventsOptions};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use robata_core::executor::{Event, Handle};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{boot::Watched, engine::Engine, error::Fault, realm::Realm, state};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A connection that says nothing may be dead: the engine is asked so often whether it still answers.
const ASK: Duration = Duration::from_secs(10);
/// So many messages wait for a caller that does not look; what is more is told as a gap.
const WAITING: usize = 4096;

struct Watcher {
    engine: Arc<Engine>,
    realm: Arc<Realm>,
    watched: Arc<Watched>,
    connection: Option<Connection>,
    pause: Duration,
    ready: VecDeque<Event>,
    /// Whether the first `Gap` has been told.
    begun: bool,
}

struct Connection {
    messages: mpsc::Receiver<Result<EventMessage, Client>>,
    /// Messages were thrown away, for nobody took them.
    overflowed: Arc<AtomicBool>,
    _receiving: AbortOnDropHandle<()>,
    ask_at: Instant,
    span: u64,
    watched: Arc<Watched>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.watched.end(self.span);
    }
}

pub(crate) fn events(engine: Arc<Engine>, realm: Arc<Realm>, watched: Arc<Watched>) -> BoxStream<'static, Event> {
    let watcher = Watcher {
        engine,
        realm,
        watched,
        connection: None,
        pause: Duration::ZERO,
        ready: VecDeque::new(),
        begun: false,
    };
    stream::unfold(watcher, |mut watcher| async move {
        let event = watcher.next().await;
        Some((event, watcher))
    })
    .boxed()
}

impl Watcher {
    async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return event;
            }
            let Some(connection) = &mut self.connection else {
                sleep(self.pause).await;
                match Self::connect(Arc::clone(&self.engine), Arc::clone(&self.watched)).await {
                    Ok(connection) => {
                        self.connection = Some(connection);
                        self.pause = Duration::ZERO;
                        self.begun = true;
                        return Event::Gap;
                    }
                    Err(fault) => return self.lost(fault),
                }
            };
            let asked = tokio::select! {
                message = connection.messages.recv() => match message {
                    Some(Ok(_)) if connection.overflowed.swap(false, Ordering::Relaxed) => return Event::Gap,
                    Some(Ok(message)) => {
                        if let Some(event) = changed(message) {
                            return event;
                        }
                        continue;
                    }
                    Some(Err(error)) => Err(self.engine.fault(error)),
                    None => Err(Fault::Refused { status: 0, message: "the engine closed its stream of events".to_owned() }),
                },
                () = sleep_until(connection.ask_at) => {
                    connection.ask_at = Instant::now() + ASK;
                    self.engine.call(|client| client.ping()).await.map(drop)
                }
            };
            if let Err(fault) = asked {
                return self.lost(fault);
            }
        }
    }

    fn lost(&mut self, fault: Fault) -> Event {
        self.connection = None;
        self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        // Another engine may answer at this address next time.
        self.realm.forget();
        let event = Event::Unreachable(fault.into_error("docker.events").full());
        if std::mem::replace(&mut self.begun, true) {
            return event;
        }
        self.ready.push_back(event);
        Event::Gap
    }

    async fn connect(engine: Arc<Engine>, watched: Arc<Watched>) -> Result<Connection, Fault> {
        let info = engine.call(|client| client.info()).await?;
        let now = state::time(info.system_time.as_ref()).unwrap_or_default();
        let mut filters = engine.filter();
        filters.insert("type".to_owned(), vec!["container".to_owned()]);
        let client = engine.client().await?;
        // From a moment that lies before the gap that is told now: the engine sends again what has happened since.
        let options = EventsOptions {
            since: Some(state::seconds(now)),
            filters: Some(filters),
            ..EventsOptions::default()
        };
        // Received at once, whenever the caller looks: the engine sends again only the latest few hundred.
        let mut messages = client.events(Some(options)).boxed();
        let (sender, receiver) = mpsc::channel(WAITING);
        let overflowed = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&overflowed);
        let span = watched.begin(now, info.live_restore_enabled == Some(true));
        let end = Arc::clone(&watched);
        let receiving = AbortOnDropHandle::new(tokio::spawn(async move {
            while let Some(message) = messages.next().await {
                let failed = message.is_err();
                if failed {
                    end.end(span);
                    // The last word must arrive; the caller has gone where it cannot.
                    sender.send(message).await.ok();
                    return;
                }
                match sender.try_send(message) {
                    Ok(()) => {}
                    Err(mpsc::error::TrySendError::Full(_)) => flag.store(true, Ordering::Relaxed),
                    Err(mpsc::error::TrySendError::Closed(_)) => return,
                }
            }
            end.end(span);
        }));
        Ok(Connection {
            messages: receiver,
            overflowed,
            _receiving: receiving,
            ask_at: Instant::now() + ASK,
            span,
            watched,
        })
    }
}

fn changed(message: EventMessage) -> Option<Event> {
    let known = matches!(message.action.as_deref(), Some("start" | "die" | "oom" | "destroy"));
    let id = message.actor.and_then(|actor| actor.id).filter(|_| known)?;
    Some(Event::Changed(Handle(id)))
}
