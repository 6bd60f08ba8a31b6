//! Starts a supervisor.

use std::{
    fs::File,
    io::{Seek, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
};

use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::{
    error::{Fault, Result},
    order::Order,
    supervisor::ARGUMENT,
    thing::Thing,
};

/// Starts the supervisor of a prepared thing: its lock as standard input, its order as standard output. In this way they
/// reach it and no other process that is started at the same time.
pub(crate) fn supervisor(program: &Path, thing: &Thing, name: &str, lock: File, order: &Order) -> Result<Child> {
    let failed = |error: std::io::Error| Fault::io("start the supervisor", program)(error);
    let memory = memfd_create("order", MFdFlags::MFD_CLOEXEC).map_err(|errno| failed(errno.into()))?;
    let mut memory = File::from(memory);
    let bytes = serde_json::to_vec(order).map_err(|error| failed(error.into()))?;
    memory
        .write_all(&bytes)
        .and_then(|()| memory.rewind())
        .map_err(failed)?;
    Command::new(program)
        .arg0("robata-supervisor")
        .arg(ARGUMENT)
        .arg(name)
        .env_clear()
        .current_dir(&thing.folder)
        .stdin(lock)
        .stdout(memory)
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)
}
