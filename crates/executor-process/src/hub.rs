//! One watch for all: ends are told by the kernel, which sees a supervisor's lock file being closed, however it died.

use std::{
    collections::HashMap,
    io::{self, PipeReader, PipeWriter},
    os::fd::AsFd,
    path::Path,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor},
};
use robata_core::executor::{Event, Handle};
use tokio::sync::{Notify, broadcast, futures::OwnedNotified, watch};

use crate::{
    children::Children,
    error::{Fault, Result},
};

/// Events kept for a listener that is slow; one that is slower yet is told of a gap.
const KEPT: usize = 16_384;

#[derive(Debug)]
pub(crate) struct Hub {
    watch: Arc<Watch>,
    children: Arc<Children>,
    events: broadcast::Sender<Event>,
    state: Mutex<State>,
    /// Its end tells the thread to go.
    _closing: PipeWriter,
}

#[derive(Debug, Default)]
struct State {
    ends: HashMap<Handle, watch::Sender<()>>,
    growths: HashMap<WatchDescriptor, Arc<Notify>>,
}

#[derive(Debug)]
struct Watch {
    inotify: Inotify,
    locks: WatchDescriptor,
}

/// Told when one thing may have ended.
#[derive(Debug)]
pub(crate) struct Ends(watch::Receiver<()>);

impl Ends {
    pub(crate) fn mark_seen(&mut self) {
        self.0.mark_unchanged();
    }

    pub(crate) async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            // The hub is gone: nobody tells any more, and the caller looks by itself.
            std::future::pending::<()>().await;
        }
    }
}

impl Hub {
    /// Begins to watch at once; what happens before somebody listens is kept by the kernel.
    pub(crate) fn open(path: &Path, children: Arc<Children>) -> Result<Arc<Self>> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)
            .map_err(Fault::io("watch (fs.inotify.max_user_instances)", path))?;
        let locks = inotify
            .add_watch(path, AddWatchFlags::IN_CLOSE_WRITE)
            .map_err(Fault::io("watch", path))?;
        let failed = |error: io::Error| Fault::io("watch", path)(error);
        let (closed, closing) = io::pipe().map_err(failed)?;
        let hub = Arc::new(Self {
            watch: Arc::new(Watch { inotify, locks }),
            children,
            events: broadcast::channel(KEPT).0,
            state: Mutex::default(),
            _closing: closing,
        });
        let (watch, weak) = (Arc::clone(&hub.watch), Arc::downgrade(&hub));
        std::thread::Builder::new()
            .name("robata-process".to_owned())
            .spawn(move || run(&watch, &closed, &weak))
            .map_err(failed)?;
        Ok(hub)
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Tells of a thing that nobody else will tell of.
    pub(crate) fn tell(&self, handle: &Handle) {
        // Nobody listening is no fault.
        let _listeners = self.events.send(Event::Changed(handle.clone()));
        if let Some(ends) = self.lock().ends.get(handle) {
            ends.send_replace(());
        }
    }

    /// Waits for the end of one thing.
    pub(crate) fn ends(&self, handle: &Handle) -> Ends {
        let mut state = self.lock();
        if state.ends.len() > 64 && state.ends.len() == state.ends.capacity() {
            state.ends.retain(|_, ends| ends.receiver_count() > 0);
        }
        let sender = state.ends.entry(handle.clone()).or_insert_with(|| watch::channel(()).0);
        Ends(sender.subscribe())
    }

    /// Waits for the next growth of a file, once. `None` where the kernel has no watch left.
    pub(crate) fn growth(&self, file: &Path) -> Option<OwnedNotified> {
        let mut state = self.lock();
        // Once: a file that is written all the time costs one event for each time that somebody waits for it.
        let flags = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_ONESHOT;
        let descriptor = self.watch.inotify.add_watch(file, flags).ok()?;
        let notify = state.growths.entry(descriptor).or_default();
        Some(Arc::clone(notify).notified_owned())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, event: &InotifyEvent) {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            tracing::warn!("the kernel's queue of events overflowed; everything is looked at again");
            self.gap();
        } else if event.wd == self.watch.locks {
            if let Some(name) = event.name.as_ref().and_then(|name| name.to_str()) {
                let handle = Handle(name.to_owned());
                self.children.ended(&handle);
                self.tell(&handle);
            } else if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                let _listeners = self
                    .events
                    .send(Event::Unreachable("the state folder was removed".to_owned()));
            }
        } else {
            let mut state = self.lock();
            let notify = if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                state.growths.remove(&event.wd)
            } else {
                state.growths.get(&event.wd).cloned()
            };
            if let Some(notify) = notify {
                notify.notify_waiters();
            }
        }
    }

    fn gap(&self) {
        let _listeners = self.events.send(Event::Gap);
        let state = self.lock();
        state.ends.values().for_each(|ends| {
            ends.send_replace(());
        });
        state.growths.values().for_each(|growth| growth.notify_waiters());
    }
}

/// The hub's thread: sleeps until the kernel tells something, or the hub is dropped and with it the end of `closing`.
fn run(watch: &Watch, closing: &PipeReader, hub: &Weak<Hub>) {
    loop {
        let mut fds = [
            PollFd::new(watch.inotify.as_fd(), PollFlags::POLLIN),
            PollFd::new(closing.as_fd(), PollFlags::POLLIN),
        ];
        let told = match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => watch.inotify.read_events(),
            Err(errno) => Err(errno),
        };
        let Some(hub) = hub.upgrade() else { return };
        match told {
            Ok(events) => events.iter().for_each(|event| hub.take(event)),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => {
                tracing::error!(%error, "ends are not told any more, only found by looking");
                let _listeners = hub
                    .events
                    .send(Event::Unreachable(format!("ends are not told: {error}")));
                return;
            }
        }
    }
}
