//! An engine in memory that does what a test says: the whole contract of `robata_core::executor`, with faults and gates.
//!
//! [`ScriptedEngine`] is the engine; its executors are handles on it, as many as a test needs. What runs goes on when an
//! executor, or the worker that had it, is gone. What a thing does stands in its command (see [`command`]); what has no
//! end there runs until a test or a stop ends it.

mod clock;
mod executor;
pub mod faults;
mod script;
mod thing;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use robata_core::{
    AttemptId,
    executor::{Event, Executor, Handle, RealmId, Spec, Stream, ThingState, label},
    finish::End,
};
use tokio::sync::{broadcast, watch};

pub use self::faults::{Fault, Faults, Gate, Moment};
use self::{
    executor::ScriptedExecutor,
    thing::{Realm, Thing},
};
use crate::checker::Line;

/// Events that a slow listener may be behind before it is told of a gap.
const EVENTS: usize = 256;

/// The commands that things of a scripted engine understand, word by word: `print:TEXT`, `eprint:TEXT`, `env:NAME` (prints
/// the variable), `after:MILLIS`, `exit:CODE`, `signal:NUMBER`, `oom`, `on-term:CODE`, `ignore-term`. Any other word is refused as a wrong command.
#[must_use]
pub fn command(words: &[&str]) -> Option<Vec<String>> {
    Some(words.iter().map(|word| (*word).to_owned()).collect())
}

/// An engine in memory. Clones are the same engine.
#[derive(Clone, Debug)]
pub struct ScriptedEngine {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    realm: Mutex<Realm>,
    events: broadcast::Sender<Event>,
    /// Changes with everything that happens.
    changed: watch::Sender<u64>,
    tells_secrets: AtomicBool,
}

impl Shared {
    pub(crate) fn realm(&self) -> MutexGuard<'_, Realm> {
        self.realm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of a change to this thing.
    pub(crate) fn tell(&self, handle: &Handle) {
        // Nobody may listen now.
        let _ = self.events.send(Event::Changed(handle.clone()));
        self.changed.send_modify(|version| *version += 1);
    }

    pub(crate) fn listen(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    pub(crate) fn tells_secrets(&self) -> bool {
        self.tells_secrets.load(Ordering::Relaxed)
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

impl Default for ScriptedEngine {
    fn default() -> Self {
        Self::new()
    }
}

impl ScriptedEngine {
    /// An empty engine with a realm of its own.
    #[must_use]
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                realm: Mutex::new(Realm::new()),
                events: broadcast::Sender::new(EVENTS),
                changed: watch::Sender::new(0),
                tells_secrets: AtomicBool::new(false),
            }),
        }
    }

    /// An executor without faults.
    #[must_use]
    pub fn executor(&self) -> Arc<dyn Executor> {
        self.executor_with(Arc::new(Faults::default()))
    }

    /// An executor whose calls go through these faults, by the names `engine.realm`, `engine.prepare`, `engine.start`,
    /// `engine.observe`, `engine.stop`, `engine.output`, `engine.secrets`, `engine.remove`, `engine.owned`, `engine.now`.
    #[must_use]
    pub fn executor_with(&self, faults: Arc<Faults>) -> Arc<dyn Executor> {
        Arc::new(ScriptedExecutor::new(Arc::clone(&self.shared), faults))
    }

    /// From now on it tells what the secrets of a thing are, as Docker does; else it does not, as it is with processes.
    pub fn tell_secrets(&self) {
        self.shared.tells_secrets.store(true, Ordering::Relaxed);
    }

    /// The realm's identity.
    #[must_use]
    pub fn realm(&self) -> RealmId {
        self.shared.realm().id.clone()
    }

    /// The thing of an attempt, if there is one now.
    #[must_use]
    pub fn thing(&self, attempt: AttemptId) -> Option<Handle> {
        self.shared.realm().by_attempt(attempt)
    }

    /// The state of an attempt's thing.
    #[must_use]
    pub fn state(&self, attempt: AttemptId) -> ThingState {
        let realm = self.shared.realm();
        let thing = realm.things.values().find(|thing| thing.attempt() == Some(attempt));
        thing.map_or(ThingState::Absent, |thing| thing.state.clone())
    }

    /// What an attempt's thing was made of, while it is there.
    #[must_use]
    pub fn spec(&self, attempt: AttemptId) -> Option<Spec> {
        let realm = self.shared.realm();
        let thing = realm.things.values().find(|thing| thing.attempt() == Some(attempt));
        thing.map(|thing| thing.spec.clone())
    }

    /// Everything that is in the realm now.
    #[must_use]
    pub fn things(&self) -> Vec<Handle> {
        self.shared.realm().things.keys().cloned().collect()
    }

    /// How many things run now.
    #[must_use]
    pub fn running(&self) -> usize {
        let realm = self.shared.realm();
        let runs = |thing: &&Thing| matches!(thing.state, ThingState::Running { .. });
        realm.things.values().filter(runs).count()
    }

    /// How often something was really set going for this attempt, whatever became of it.
    #[must_use]
    pub fn starts(&self, attempt: AttemptId) -> usize {
        let begins = |line: &&Line| matches!(line, Line::Begin(begun, _) if *begun == attempt);
        self.shared.realm().journal.iter().filter(begins).count()
    }

    /// How often each thing was really set going, those that are gone too.
    #[must_use]
    pub fn starts_by_thing(&self) -> BTreeMap<Handle, usize> {
        self.shared.realm().starts.clone()
    }

    /// What began and ended, for the checker.
    #[must_use]
    pub fn journal(&self) -> Vec<Line> {
        self.shared.realm().journal.clone()
    }

    /// Ends an attempt's thing; `false` where it does not run.
    pub fn end(&self, attempt: AttemptId, end: End) -> bool {
        let mut realm = self.shared.realm();
        let Some(handle) = realm.by_attempt(attempt) else {
            return false;
        };
        let ended = realm.end(&handle, end);
        drop(realm);
        self.shared.tell(&handle);
        ended
    }

    /// From now on no look at an attempt's thing succeeds, nor one at others in the same call; or it does again.
    pub fn set_unseen(&self, attempt: AttemptId, unseen: bool) {
        let mut realm = self.shared.realm();
        let Some(handle) = realm.by_attempt(attempt) else {
            return;
        };
        if unseen {
            realm.unseen.insert(handle);
        } else {
            realm.unseen.remove(&handle);
        }
    }

    /// Sets the engine's clock behind the machine's.
    pub fn set_clock_behind(&self, behind: Duration) {
        self.shared.realm().behind = behind;
    }

    /// Whether nobody but the engine has an attempt's payload in memory.
    #[must_use]
    pub fn has_payload_alone(&self, attempt: AttemptId) -> bool {
        let realm = self.shared.realm();
        let thing = realm.things.values().find(|thing| thing.attempt() == Some(attempt));
        thing.is_some_and(|thing| thing.spec.payload.is_unique())
    }

    /// Ends everything that runs.
    pub fn end_all(&self, end: End) {
        let handles = self.things();
        for handle in handles {
            self.shared.realm().end(&handle, end);
            self.shared.tell(&handle);
        }
    }

    /// Has an attempt's thing print; `false` where it does not run.
    pub fn print(&self, attempt: AttemptId, stream: Stream, text: &str) -> bool {
        let mut realm = self.shared.realm();
        let Some(handle) = realm.by_attempt(attempt) else {
            return false;
        };
        let Some(thing) = realm.things.get_mut(&handle) else {
            return false;
        };
        let runs = matches!(thing.state, ThingState::Running { .. });
        if runs {
            thing
                .output
                .push((clock::now(), stream, Bytes::copy_from_slice(text.as_bytes())));
        }
        drop(realm);
        self.shared.tell(&handle);
        runs
    }

    /// Makes an attempt's thing vanish, as a person with root or a broken engine does; `false` where there is none.
    pub fn vanish(&self, attempt: AttemptId) -> bool {
        let mut realm = self.shared.realm();
        let Some(handle) = realm.by_attempt(attempt) else {
            return false;
        };
        let was_there = realm.remove(&handle).is_some();
        drop(realm);
        self.shared.tell(&handle);
        was_there
    }

    /// Leaves something with these labels in the realm, made this long ago and never set going, that no executor of
    /// ours prepared.
    pub fn leave(&self, name: &str, labels: &[(&str, String)], age: Duration) -> Handle {
        self.put(name, labels, age, false)
    }

    /// The same, and it runs.
    pub fn leave_running(&self, name: &str, labels: &[(&str, String)], age: Duration) -> Handle {
        self.put(name, labels, age, true)
    }

    fn put(&self, name: &str, labels: &[(&str, String)], age: Duration, running: bool) -> Handle {
        let mut realm = self.shared.realm();
        let created_at = realm.now().minus(age);
        let handle = realm.insert(Thing {
            name: name.to_owned(),
            labels: labels
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect(),
            created_at,
            spec: Spec::default(),
            script: Vec::new(),
            state: ThingState::Prepared,
            output: Vec::new(),
        });
        if running {
            realm.set_going(&handle);
        }
        drop(realm);
        self.shared.tell(&handle);
        handle
    }

    /// The labels by which clean-up knows a thing of ours.
    #[must_use]
    pub fn labels(installation: robata_core::InstallationId, attempt: AttemptId) -> [(&'static str, String); 2] {
        [
            (label::INSTALLATION, installation.to_string()),
            (label::ATTEMPT, attempt.to_string()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use robata_core::{
        ErrorKind, JobId,
        executor::{Ending, Position, Prepare, ReadOutput, Target},
    };

    use super::*;

    fn request(attempt: AttemptId, mark: &str, words: &[&str]) -> Prepare {
        Prepare {
            name: format!("thing-of-{attempt}"),
            labels: BTreeMap::from([
                (label::INSTALLATION.to_owned(), "ours".to_owned()),
                (label::ATTEMPT.to_owned(), attempt.to_string()),
                (label::MARK.to_owned(), mark.to_owned()),
            ]),
            spec: Spec {
                command: command(words),
                ..Spec::default()
            },
            progress: None,
        }
    }

    fn an_attempt() -> AttemptId {
        AttemptId {
            job: JobId::new(),
            number: 1,
        }
    }

    async fn state(executor: &dyn Executor, handle: &Handle) -> ThingState {
        let seen = executor.observe(&[Target::Handle(handle.clone())]).await.unwrap();
        seen[0].state.clone()
    }

    #[tokio::test]
    async fn a_thing_runs_once_whoever_starts_it() {
        let engine = ScriptedEngine::new();
        let (executor, restarted) = (engine.executor(), engine.executor());
        let attempt = an_attempt();
        let made = executor
            .prepare(request(attempt, "m", &["print:hi", "exit:3"]))
            .await
            .unwrap();
        assert_eq!(state(&*executor, &made.handle).await, ThingState::Prepared);
        let again = restarted
            .prepare(request(attempt, "m", &["print:hi", "exit:3"]))
            .await
            .unwrap();
        assert_eq!(made, again);
        for executor in [&executor, &restarted, &executor] {
            executor.start(&made.handle).await.unwrap();
        }
        let ended = state(&*restarted, &made.handle).await;
        assert!(matches!(
            ended,
            ThingState::Ended(Ending {
                end: End::Exited(3),
                ..
            })
        ));
        assert_eq!(engine.starts(attempt), 1);
        let read = ReadOutput {
            handle: made.handle.clone(),
            from: Position::default(),
            follow: true,
        };
        let output: Vec<_> = restarted.output(read).await.unwrap().collect().await;
        assert_eq!(output.len(), 1);
        assert_eq!(output[0].as_ref().unwrap().data.as_ref(), b"hi");
    }

    #[tokio::test]
    async fn another_mark_replaces_what_never_ran_and_nothing_else() {
        let engine = ScriptedEngine::new();
        let executor = engine.executor();
        let attempt = an_attempt();
        let first = executor.prepare(request(attempt, "m", &[])).await.unwrap().handle;
        let second = executor.prepare(request(attempt, "n", &[])).await.unwrap().handle;
        assert_eq!(executor.start(&first).await.unwrap_err().kind(), ErrorKind::NotFound);
        executor.start(&second).await.unwrap();
        let refused = executor.prepare(request(attempt, "o", &[])).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::StillRuns);
        let refused = executor.remove(&second, false).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::StillRuns);
        executor.stop(&second, Duration::ZERO).await.unwrap();
        executor.stop(&second, Duration::ZERO).await.unwrap();
        executor.remove(&second, false).await.unwrap();
        executor.remove(&second, false).await.unwrap();
        assert!(engine.things().is_empty());
    }

    #[tokio::test]
    async fn events_begin_with_a_gap_and_tell_every_end() {
        let engine = ScriptedEngine::new();
        let executor = engine.executor();
        let mut events = executor.events();
        assert_eq!(events.next().await, Some(Event::Gap));
        let attempt = an_attempt();
        let handle = executor.prepare(request(attempt, "m", &[])).await.unwrap().handle;
        executor.start(&handle).await.unwrap();
        assert!(engine.end(attempt, End::Signalled(9)));
        for _ in 0..3 {
            assert_eq!(events.next().await, Some(Event::Changed(handle.clone())));
        }
    }
}
