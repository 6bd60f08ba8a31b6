//! What a supervisor waits for: a byte from a worker, the end of a child, the end of the machine, a time.

use std::{
    fs::{File, OpenOptions},
    io::Read,
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::Path,
    time::Duration,
};

use nix::{
    fcntl::OFlag,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, SigmaskHow, Signal, sigprocmask},
        signalfd::{SfdFlags, SignalFd},
    },
};

use super::again;
use crate::error::{Fault, Result};

/// Why a wait is over; nothing of it: a child ended, or the time is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Woken {
    /// A worker wants something looked at.
    pub(super) by_worker: bool,
    /// SIGTERM: the machine goes down.
    pub(super) to_end: bool,
}

#[derive(Debug)]
pub(super) struct Watch {
    control: File,
    signals: SignalFd,
}

impl Watch {
    pub(super) fn open() -> Result<Self> {
        let path = Path::new("control");
        // For writing too, or the end of each worker's writing would read as an end of file.
        let control = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(path)
            .map_err(Fault::io("listen at", path))?;
        let mut taken = SigSet::empty();
        taken.add(Signal::SIGCHLD);
        taken.add(Signal::SIGTERM);
        let mut blocked = taken;
        // A terminal's business, and none of ours.
        for other in [
            Signal::SIGHUP,
            Signal::SIGINT,
            Signal::SIGQUIT,
            Signal::SIGPIPE,
            Signal::SIGUSR1,
            Signal::SIGUSR2,
        ] {
            blocked.add(other);
        }
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&blocked), None).map_err(Fault::io("block the signals of", path))?;
        let signals = SignalFd::with_flags(&taken, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
            .map_err(Fault::io("take the signals of", path))?;
        Ok(Self { control, signals })
    }

    pub(super) fn wait(&self, most: Option<Duration>) -> Result<Woken> {
        let fault = |errno: nix::errno::Errno| Fault::io("wait at", Path::new("control"))(errno);
        let timeout = match most {
            None => PollTimeout::NONE,
            // Rounded up: to wake before the time is to wake twice.
            Some(most) => PollTimeout::try_from(most.as_millis().saturating_add(1)).unwrap_or(PollTimeout::MAX),
        };
        let mut fds = [
            PollFd::new(self.control.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
        ];
        again(|| poll(&mut fds, timeout)).map_err(fault)?;
        let mut woken = Woken::default();
        let mut bytes = [0; 64];
        while matches!((&self.control).read(&mut bytes), Ok(count) if count > 0) {
            woken.by_worker = true;
        }
        while let Some(signal) = again(|| self.signals.read_signal()).map_err(fault)? {
            if i32::try_from(signal.ssi_signo) == Ok(Signal::SIGTERM as i32) {
                woken.to_end = true;
            }
        }
        Ok(woken)
    }
}
