//! A state folder, an executor on it, and words for the tests of processes.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use robata_core::{
    InstallationId,
    executor::{Ending, Executor, Handle, Position, Prepare, ReadOutput, Spec, Target, ThingState, label},
};
use robata_executor_process::{Cgroups, ProcessConfig, ProcessExecutor};
use tokio::time::{Instant, sleep};

pub(crate) struct Place {
    pub(crate) state: PathBuf,
    _removed_at_the_end: Option<tempfile::TempDir>,
    pub(crate) installation: InstallationId,
    pub(crate) executor: ProcessExecutor,
    pub(crate) cgroups: Cgroups,
}

pub(crate) fn sh(script: &str) -> Spec {
    Spec {
        command: Some(["/bin/sh", "-c", script].map(str::to_owned).to_vec()),
        ..Spec::default()
    }
}

pub(crate) fn request(spec: Spec) -> Prepare {
    let id = uuid::Uuid::new_v4().simple().to_string();
    let labels = BTreeMap::from([(label::MARK.to_owned(), id.clone())]);
    Prepare {
        name: format!("t-{id}"),
        labels,
        spec,
        progress: None,
    }
}

pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

impl Place {
    pub(crate) fn new(cgroups: Cgroups) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut place = Self::make(folder.path(), cgroups);
        place._removed_at_the_end = Some(folder);
        place
    }

    pub(crate) fn at(state: &Path) -> Self {
        Self::make(state, Cgroups::Auto)
    }

    fn make(state: &Path, cgroups: Cgroups) -> Self {
        let installation = InstallationId::new();
        let executor = Self::open(state.into(), installation, cgroups);
        Self {
            state: state.into(),
            _removed_at_the_end: None,
            installation,
            executor,
            cgroups,
        }
    }

    /// On a state folder as it is configured; whoever made the configuration removes it.
    pub(crate) fn with(config: ProcessConfig) -> Self {
        Self {
            state: config.state.clone(),
            _removed_at_the_end: None,
            installation: config.installation,
            cgroups: config.cgroups,
            executor: ProcessExecutor::open(config).unwrap(),
        }
    }

    fn open(state: PathBuf, installation: InstallationId, cgroups: Cgroups) -> ProcessExecutor {
        let mut config = ProcessConfig::new(state, installation);
        config.supervisor = Some(PathBuf::from(env!("CARGO_BIN_EXE_robata-supervisor")));
        config.cgroups = cgroups;
        ProcessExecutor::open(config).unwrap()
    }

    pub(crate) fn another(&self) -> ProcessExecutor {
        Self::open(self.state.clone(), self.installation, self.cgroups)
    }

    pub(crate) async fn run(&self, spec: Spec) -> Handle {
        let handle = self.executor.prepare(request(spec)).await.unwrap().handle;
        self.executor.start(&handle).await.unwrap();
        handle
    }

    pub(crate) async fn look(&self, handle: &Handle) -> ThingState {
        let mut seen = self.executor.observe(&[Target::Handle(handle.clone())]).await.unwrap();
        seen.remove(0).state
    }

    pub(crate) async fn ending(&self, handle: &Handle) -> Ending {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            match self.look(handle).await {
                ThingState::Ended(ending) => return ending,
                state => assert!(Instant::now() < deadline, "no end in time: {state:?}"),
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) async fn printed(&self, handle: &Handle) -> String {
        use futures::TryStreamExt;
        let request = ReadOutput {
            handle: handle.clone(),
            from: Position::default(),
            follow: false,
        };
        let pieces: Vec<_> = self
            .executor
            .output(request)
            .await
            .unwrap()
            .try_collect()
            .await
            .unwrap();
        let bytes: Vec<u8> = pieces.iter().flat_map(|piece| piece.data.to_vec()).collect();
        String::from_utf8(bytes).unwrap()
    }

    /// Runs to the end; how it ended and what it printed.
    pub(crate) async fn result(&self, spec: Spec) -> (Ending, String) {
        let handle = self.run(spec).await;
        (self.ending(&handle).await, self.printed(&handle).await)
    }
}

/// The live processes of a thing, by its mark; the supervisor is not among them.
pub(crate) fn processes(handle: &Handle) -> Vec<String> {
    robata_testkit::executor::processes::with_mark(&format!("ROBATA_THING={handle}"))
}

/// The supervisor of the thing of this name, found by its command line: a test's way, never the executor's.
pub(crate) async fn supervisor(name: &str) -> nix::unistd::Pid {
    let mut found = None;
    // For a moment after its start it has no command line yet.
    until("there is a supervisor", async || {
        found = fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            let ours = line.starts_with(b"robata-supervisor\0") && String::from_utf8_lossy(&line).contains(name);
            ours.then(|| entry.file_name().to_str()?.parse().ok()).flatten()
        });
        found.is_some()
    })
    .await;
    nix::unistd::Pid::from_raw(found.unwrap())
}
