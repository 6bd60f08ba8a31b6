//! `remove` and what it shares with `observe`: the truth about a thing whose supervisor is gone.

use std::{collections::BTreeMap, path::PathBuf};

use robata_core::{
    Format,
    finish::{End, NeverRan},
};

use crate::{
    error::{Fault, Result},
    executor::Engine,
    thing::{self, Outcome, Record, Seen, Thing, Verdict},
};

/// What became of a removal.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Removal {
    /// It is gone.
    Done,
    /// It runs: stop it first.
    Runs,
    /// It never ran and never will; its supervisor was told to go and is still there.
    Leaving,
}

/// One step of a removal.
pub(crate) fn step(engine: &Engine, thing: &Thing) -> Result<Removal> {
    match thing.look()? {
        Seen::Absent => {
            // Somebody may have been stopped between putting it aside and taking it apart.
            engine.folder.remove(thing, None)?;
            return Ok(Removal::Done);
        }
        Seen::Running(_) => return Ok(Removal::Runs),
        Seen::Prepared => match thing::decide(&thing.folder, Verdict::Removed)? {
            Some(Verdict::Go) => return Ok(Removal::Runs),
            Some(Verdict::Removed) => {
                thing.wake()?;
                return Ok(Removal::Leaving);
            }
            None => return Ok(Removal::Done),
        },
        Seen::Died(_) => {
            settle(engine, &[(thing, thing.record()?)])?;
        }
        Seen::Ended(_) => {}
    }
    take_away(engine, thing)?;
    Ok(Removal::Done)
}

/// Takes away what is over, or what was told that it never runs.
pub(crate) fn take_away(engine: &Engine, thing: &Thing) -> Result<()> {
    let name = thing.record()?.map(|record| record.name);
    engine.folder.remove(thing, name.as_deref())?;
    engine.children.ended(&thing.handle);
    Ok(())
}

/// Says how things ended whose supervisors are gone without a word; ends what is left of them first.
pub(crate) fn settle(engine: &Engine, things: &[(&Thing, Option<Record>)]) -> Result<Vec<Outcome>> {
    let this_boot = |record: &Option<Record>| record.as_ref().is_some_and(|record| record.boot == engine.folder.boot);
    let mut remains: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for (thing, record) in things {
        // In another boot nothing of it can be left; and what was never set going has no processes.
        if this_boot(record) && thing::started(&thing.folder)?.is_some() {
            let groups = record.as_ref().map(|record| record.cgroups.clone()).unwrap_or_default();
            remains.insert(thing.handle.0.clone(), groups);
        }
    }
    crate::remains::end(&remains)?;
    let mut outcomes = Vec::with_capacity(things.len());
    for (thing, record) in things {
        // It may have spoken after all, before its lock was free.
        let damage = match thing.outcome() {
            Ok(Some(outcome)) => {
                outcomes.push(outcome);
                continue;
            }
            Ok(None) => None,
            Err(fault @ Fault::Damaged { .. }) => Some(fault.to_string()),
            Err(fault) => return Err(fault),
        };
        let started = thing::started(&thing.folder)?;
        let unreserved = thing::unreserved(&thing.folder)?;
        let why = match (this_boot(record), started, &unreserved) {
            (true, None, Some(why)) => why,
            (false, ..) => "the machine was restarted",
            (true, Some(_), _) => "its supervisor was killed",
            (true, None, None) => "its supervisor was killed before it was set going",
        };
        let end = match started {
            Some(_) => End::EngineFault,
            None => End::NeverRan(NeverRan::NotSetGoing),
        };
        let why = damage.as_deref().unwrap_or(why);
        let format = record.as_ref().map_or(Format::PREVIOUS, |record| record.format);
        let outcome = Outcome::new(format, end, started).with_message(why);
        if started.is_some() {
            keep(thing, &outcome)?;
        }
        engine.children.ended(&thing.handle);
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

/// Writes the outcome, so that all who look from now on see the same.
fn keep(thing: &Thing, outcome: &Outcome) -> Result<()> {
    match outcome.put(&thing.folder) {
        // Somebody has just removed the thing.
        Err(Fault::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
