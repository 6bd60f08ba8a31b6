//! `prepare`: makes one thing under a name, and a supervisor that waits for its go.

use std::{
    fs::{DirBuilder, OpenOptions},
    io,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, chown},
    path::Path,
};

use nix::{sys::stat::Mode, unistd::mkfifo};
use robata_core::executor::{Handle, Prepare, label};

use crate::{
    clock,
    error::{Fault, Result},
    executor::Engine,
    limits, lock,
    order::Order,
    spawn,
    thing::{self, Record, Seen, Thing, Verdict},
};

/// Somebody else may take the name between our look and our step; nobody does so often.
const TRIES: usize = 16;

pub(crate) fn prepare(engine: &Engine, request: &Prepare) -> Result<Handle> {
    let folder = &engine.folder;
    for _ in 0..TRIES {
        if let Some(taken) = folder.named(&request.name)? {
            if let Some(handle) = settle(engine, &taken, request)? {
                return Ok(handle);
            }
            continue;
        }
        let (new, aside) = folder.new_thing();
        let order = limits::order(&engine.config, &engine.cgroups, &new, request)?;
        // Held from before anybody can see the thing until its supervisor is gone.
        let record = record(engine, request, &order).map_err(Fault::io("write", &new.lock))?;
        let held = match lock::take_new(&new.lock, &record) {
            Ok(held) => held,
            Err(fault) => return folder.remove(&new, None).and(Err(fault)),
        };
        if let Err(fault) = build(&aside, request, &order) {
            drop(held);
            return folder.remove(&new, None).and(Err(fault));
        }
        match folder.show(&new, &aside, &request.name) {
            Ok(None) => {
                let program = engine
                    .config
                    .supervisor
                    .as_deref()
                    .unwrap_or(Path::new("/proc/self/exe"));
                match spawn::supervisor(program, &new, &request.name, held, &order) {
                    Ok(child) => engine.children.add(new.handle.clone(), child),
                    Err(fault) => return folder.remove(&new, Some(&request.name)).and(Err(fault)),
                }
                return Ok(new.handle);
            }
            Ok(Some(_)) => {
                drop(held);
                folder.remove(&new, None)?;
            }
            Err(fault) => {
                drop(held);
                return folder.remove(&new, None).and(Err(fault));
            }
        }
    }
    Err(Fault::Lingers(format!(
        "the name {} is taken again and again",
        request.name
    )))
}

/// What to do about a taken name: answer it, refuse, or take it away (`None`).
fn settle(engine: &Engine, taken: &Thing, request: &Prepare) -> Result<Option<Handle>> {
    let mark = |labels: &std::collections::BTreeMap<String, String>| labels.get(label::MARK).cloned();
    let same = taken
        .record()?
        .is_some_and(|record| mark(&record.labels) == mark(&request.labels));
    let decided = thing::verdict(&taken.folder)?;
    // A supervisor that died before its go is of no use to anybody.
    let usable =
        decided == Some(Verdict::Go) || decided.is_none() && !matches!(taken.look()?, Seen::Died(_) | Seen::Absent);
    if same && usable {
        return Ok(Some(taken.handle.clone()));
    }
    match thing::decide(&taken.folder, Verdict::Removed)? {
        Some(Verdict::Go) if same => Ok(Some(taken.handle.clone())),
        Some(Verdict::Go) => Err(Fault::Runs(request.name.clone())),
        Some(Verdict::Removed) => {
            taken.wake()?;
            engine.folder.remove(taken, Some(&request.name))?;
            engine.children.ended(&taken.handle);
            Ok(None)
        }
        None => Ok(None),
    }
}

/// What stands in the lock file.
fn record(engine: &Engine, request: &Prepare, order: &Order) -> io::Result<Vec<u8>> {
    let record = Record {
        format: order.format,
        name: request.name.clone(),
        labels: request.labels.clone(),
        created_at: clock::now(),
        boot: engine.folder.boot.clone(),
        cgroups: order.groups.iter().map(|group| group.path.clone()).collect(),
    };
    Ok(serde_json::to_vec(&record)?)
}

/// Everything but the supervisor, out of sight.
fn build(aside: &Path, request: &Prepare, order: &Order) -> Result<()> {
    let owner = order.user.as_ref().map(|ids| (Some(ids.user), Some(ids.group)));
    let own = |path: &Path| match owner {
        Some((user, group)) => chown(path, user, group).map_err(Fault::io("give to its user", path)),
        None => Ok(()),
    };
    let folder = |path: &Path, mode| {
        DirBuilder::new()
            .mode(mode)
            .create(path)
            .map_err(Fault::io("make the folder", path))
    };
    // A job with another user passes through to its own folder and payload.
    folder(aside, if owner.is_some() { 0o711 } else { 0o700 })?;
    if request.spec.payload_file_env.is_some() {
        let path = aside.join("payload");
        write(&path, &request.spec.payload, 0o400)?;
        own(&path)?;
    }
    for name in ["stdout", "stderr"] {
        write(&aside.join(name), b"", 0o600)?;
    }
    if order.working_dir.is_none() {
        let path = aside.join("work");
        folder(&path, 0o700)?;
        own(&path)?;
    }
    let path = aside.join("control");
    mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).map_err(Fault::io("make", &path))
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    file.and_then(|mut file| file.write_all(bytes))
        .map_err(Fault::io("write", path))
}
