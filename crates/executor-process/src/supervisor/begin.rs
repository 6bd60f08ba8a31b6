//! A supervisor's first steps: away from the worker's session, files and signals.

use std::{
    fs,
    fs::File,
    io::{Read, stdin, stdout},
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
    path::Path,
};

use nix::{
    sys::{prctl, stat},
    unistd::{close, dup2_stderr, dup2_stdin, dup2_stdout, setsid},
};

use super::child;
use crate::{
    error::{Fault, Result},
    order::Order,
};

/// Answers the lock, to be held until the end, and the order.
pub(super) fn begin() -> Result<(OwnedFd, Order)> {
    let io = |doing: &'static str| Fault::io::<std::io::Error>(doing, Path::new("the supervisor"));
    // For ps: started as `/proc/self/exe` it would be called `exe`. A name is no need.
    let _nameless = prctl::set_name(c"robata-superv");
    // Fails only where we lead a session already, which is as good.
    let _already = setsid();
    // Somebody may have started the worker with SIGCHLD ignored: then no child's end could be waited for.
    child::reset_signals();
    let lock = stdin().as_fd().try_clone_to_owned().map_err(io("keep the lock of"))?;
    let mut order = File::from(stdout().as_fd().try_clone_to_owned().map_err(io("read the order of"))?);
    let null = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map_err(io("open /dev/null for"))?;
    dup2_stdin(&null)
        .and_then(|()| dup2_stdout(&null))
        .and_then(|()| dup2_stderr(&null))
        .map_err(|errno| io("detach")(errno.into()))?;
    drop(null);
    let mut bytes = Vec::new();
    order.read_to_end(&mut bytes).map_err(io("read the order of"))?;
    drop(order);
    close_others(lock.as_raw_fd())?;
    prctl::set_child_subreaper(true).map_err(|errno| io("adopt the descendants of")(errno.into()))?;
    stat::umask(stat::Mode::from_bits_truncate(0o077));
    let order = serde_json::from_slice(&bytes).map_err(|error| io("understand the order of")(error.into()))?;
    Ok((lock, order))
}

/// Closes what the worker's own parent may have left open in it; Rust's own files are closed at each exec.
fn close_others(keep: RawFd) -> Result<()> {
    let path = Path::new("/proc/self/fd");
    let open: Vec<RawFd> = fs::read_dir(path)
        .map_err(Fault::io("list", path))?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd > 2 && *fd != keep)
        .collect();
    for fd in open {
        // One of them is the listing itself, which is closed already.
        let _listing = close(fd);
    }
    Ok(())
}
