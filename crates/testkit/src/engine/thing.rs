//! A thing in the scripted engine, and the whole of what the engine remembers.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use robata_core::{
    AttemptId, Timestamp,
    executor::{Ending, Handle, RealmId, Spec, Stream, ThingState, label},
    finish::End,
};

use super::{clock, script::Step};
use crate::checker::Line;

/// A thing.
#[derive(Clone, Debug)]
pub(crate) struct Thing {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) created_at: Timestamp,
    pub(crate) spec: Spec,
    pub(crate) script: Vec<Step>,
    pub(crate) state: ThingState,
    pub(crate) output: Vec<(Timestamp, Stream, Bytes)>,
}

impl Thing {
    pub(crate) fn attempt(&self) -> Option<AttemptId> {
        self.labels.get(label::ATTEMPT)?.parse().ok()
    }
}

/// All that is in the realm, and what a test asks about it.
#[derive(Debug)]
pub(crate) struct Realm {
    pub(crate) id: RealmId,
    pub(crate) things: BTreeMap<Handle, Thing>,
    /// Handles that are gone; they never come again.
    pub(crate) gone: BTreeSet<Handle>,
    next: u64,
    /// How often a thing was really set going; stays when it is removed.
    pub(crate) starts: BTreeMap<Handle, usize>,
    pub(crate) journal: Vec<Line>,
    /// Things at which no look succeeds, nor one at others with them.
    pub(crate) unseen: BTreeSet<Handle>,
    /// How far the engine's clock is behind the machine's.
    pub(crate) behind: Duration,
}

impl Realm {
    pub(crate) fn new() -> Self {
        Self {
            id: RealmId(format!("scripted-{}", uuid::Uuid::new_v4().simple())),
            things: BTreeMap::new(),
            gone: BTreeSet::new(),
            next: 1,
            starts: BTreeMap::new(),
            journal: Vec::new(),
            unseen: BTreeSet::new(),
            behind: Duration::ZERO,
        }
    }

    /// The engine's present.
    pub(crate) fn now(&self) -> Timestamp {
        clock::now().minus(self.behind)
    }

    pub(crate) fn insert(&mut self, thing: Thing) -> Handle {
        let handle = Handle(format!("thing-{:04}", self.next));
        self.next += 1;
        self.things.insert(handle.clone(), thing);
        handle
    }

    pub(crate) fn by_name(&self, name: &str) -> Option<(&Handle, &Thing)> {
        self.things.iter().find(|(_, thing)| thing.name == name)
    }

    pub(crate) fn by_attempt(&self, attempt: AttemptId) -> Option<Handle> {
        let found = self.things.iter().find(|(_, thing)| thing.attempt() == Some(attempt));
        found.map(|(handle, _)| handle.clone())
    }

    /// Sets a prepared thing going; `false` where it was before.
    pub(crate) fn set_going(&mut self, handle: &Handle) -> Option<bool> {
        let thing = self.things.get_mut(handle)?;
        if thing.state != ThingState::Prepared {
            return Some(false);
        }
        let now = clock::now().minus(self.behind);
        thing.state = ThingState::Running { started_at: now };
        *self.starts.entry(handle.clone()).or_default() += 1;
        if let Some(attempt) = thing.attempt() {
            self.journal.push(Line::Begin(attempt, now.as_millis()));
        }
        Some(true)
    }

    /// Ends what runs; `false` where nothing runs.
    pub(crate) fn end(&mut self, handle: &Handle, end: End) -> bool {
        let Some(thing) = self.things.get_mut(handle) else {
            return false;
        };
        let ThingState::Running { started_at } = thing.state else {
            return false;
        };
        let now = clock::now().minus(self.behind);
        thing.state = ThingState::Ended(Ending {
            end,
            started_at: Some(started_at),
            finished_at: Some(now),
            detail: None,
            message: Some(format!("the scripted engine says {end:?}")),
        });
        if let Some(attempt) = thing.attempt() {
            self.journal.push(Line::End(attempt, now.as_millis()));
        }
        true
    }

    pub(crate) fn remove(&mut self, handle: &Handle) -> Option<Thing> {
        let thing = self.things.remove(handle)?;
        self.gone.insert(handle.clone());
        if let (Some(attempt), ThingState::Running { .. }) = (thing.attempt(), &thing.state) {
            self.journal.push(Line::End(attempt, clock::now().as_millis()));
        }
        Some(thing)
    }
}
