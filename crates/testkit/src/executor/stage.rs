//! Where a case plays: an installation of its own, emptied afterwards, and words for what every case does.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, resume_unwind},
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt, StreamExt};
use robata_core::{
    executor::{
        Ending, Executor, Handle, Observation, Output, Position, Prepare, ReadOutput, Spec, Stream, Target, ThingState,
        label,
    },
    id::InstallationId,
};
use tokio::time::{Instant, sleep, timeout};

use super::{Harness, processes};

/// No case may take longer; the slowest starts two hundred things.
const CASE: Duration = Duration::from_secs(180);
/// No state that a case waits for may take longer.
const STATE: Duration = Duration::from_secs(60);
/// The variable by which a case finds its processes on the machine.
const MARK: &str = "ROBATA_SUITE_MARK";

/// A case's own installation on the harness's engine.
#[derive(Clone)]
pub struct Stage {
    harness: Arc<dyn Harness>,
    installation: InstallationId,
    stranger: InstallationId,
    mark: Arc<str>,
    /// The executor under test.
    pub executor: Arc<dyn Executor>,
}

impl std::fmt::Debug for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stage")
            .field("installation", &self.installation)
            .finish_non_exhaustive()
    }
}

/// All that a thing printed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Printed {
    /// Standard output; all of it where the engine does not tell the streams apart.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

impl Printed {
    /// Adds a piece.
    pub fn add(&mut self, piece: &Output) {
        match piece.stream {
            Stream::Stdout => self.stdout.extend_from_slice(&piece.data),
            Stream::Stderr => self.stderr.extend_from_slice(&piece.data),
        }
    }

    /// Standard output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Both streams as text.
    #[must_use]
    pub fn all(&self) -> String {
        self.text() + &String::from_utf8_lossy(&self.stderr)
    }
}

/// Runs a case within its time, empties its installations whatever happened, and checks that they are empty.
pub async fn run<F: Future<Output = ()>>(harness: impl Harness, case: impl FnOnce(Stage) -> F) {
    let harness: Arc<dyn Harness> = Arc::new(harness);
    let installation = InstallationId::new();
    let executor = harness.connect(installation).await.expect("the harness connects");
    let stage = Stage {
        harness,
        installation,
        stranger: InstallationId::new(),
        mark: uuid::Uuid::new_v4().to_string().into(),
        executor,
    };
    let done = AssertUnwindSafe(timeout(CASE, case(stage.clone())))
        .catch_unwind()
        .await;
    let emptied = AssertUnwindSafe(timeout(CASE, stage.empty())).catch_unwind().await;
    match done {
        Err(panic) => resume_unwind(panic),
        Ok(passed) => passed.expect("the case ends in time"),
    }
    match emptied {
        Err(panic) => resume_unwind(panic),
        Ok(passed) => passed.expect("the engine is emptied in time"),
    }
}

impl Stage {
    /// An executor of the same installation, as a restarted worker makes it.
    pub async fn restarted(&self) -> Arc<dyn Executor> {
        self.harness
            .connect(self.installation)
            .await
            .expect("a restarted worker connects")
    }

    /// An executor of another installation on the same engine.
    pub async fn stranger(&self) -> Arc<dyn Executor> {
        self.harness.connect(self.stranger).await.expect("a stranger connects")
    }

    /// The harness.
    #[must_use]
    pub fn harness(&self) -> &dyn Harness {
        &*self.harness
    }

    /// What runs this shell script; its processes carry the case's mark.
    #[must_use]
    pub fn sh(&self, script: &str) -> Spec {
        self.marked(self.harness.sh(script))
    }

    /// What runs this argv; its processes carry the case's mark.
    #[must_use]
    pub fn argv(&self, argv: &[&str]) -> Spec {
        self.marked(self.harness.argv(argv))
    }

    fn marked(&self, mut spec: Spec) -> Spec {
        spec.env.insert(MARK.to_owned(), self.mark.to_string());
        spec
    }

    /// The live processes of this case, seen from outside.
    #[must_use]
    pub fn processes(&self) -> Vec<String> {
        processes::with_mark(&self.mark)
    }

    /// Waits until at least so many processes of this case live, so that their absence later proves something.
    pub async fn until_processes(&self, count: usize) {
        self.until(&format!("{count} processes"), || async {
            self.processes().len() >= count
        })
        .await;
    }

    /// Waits for a state.
    ///
    /// # Panics
    /// Where it does not come in time.
    pub async fn until<F: Future<Output = bool>>(&self, what: &str, mut holds: impl FnMut() -> F) {
        let deadline = Instant::now() + STATE;
        while !holds().await {
            assert!(Instant::now() < deadline, "not within {STATE:?}: {what}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// A request under a name and mark of its own.
    #[must_use]
    pub fn request(&self, spec: Spec) -> Prepare {
        self.request_of(self.installation, spec)
    }

    /// The same for the stranger's executor.
    #[must_use]
    pub fn strangers_request(&self, spec: Spec) -> Prepare {
        self.request_of(self.stranger, spec)
    }

    fn request_of(&self, installation: InstallationId, spec: Spec) -> Prepare {
        let mut labels = BTreeMap::new();
        labels.insert(label::INSTALLATION.to_owned(), installation.to_string());
        labels.insert(label::FORMAT.to_owned(), "1".to_owned());
        labels.insert(label::MARK.to_owned(), uuid::Uuid::new_v4().to_string());
        Prepare {
            name: format!("suite-{}", uuid::Uuid::new_v4().simple()),
            labels,
            spec,
            progress: None,
        }
    }

    /// Prepares.
    pub async fn prepare(&self, spec: Spec) -> Handle {
        self.executor.prepare(self.request(spec)).await.expect("prepare").handle
    }

    /// Prepares and starts.
    pub async fn run(&self, spec: Spec) -> Handle {
        let handle = self.prepare(spec).await;
        self.executor.start(&handle).await.expect("start");
        handle
    }

    /// Prepares, starts, and waits for the end.
    pub async fn run_to_end(&self, spec: Spec) -> (Handle, Ending) {
        let handle = self.run(spec).await;
        let ending = self.ending(&handle).await;
        (handle, ending)
    }

    /// Looks at one thing.
    pub async fn observe(&self, handle: &Handle) -> Observation {
        let mut seen = self
            .executor
            .observe(&[Target::Handle(handle.clone())])
            .await
            .expect("observe");
        assert_eq!(seen.len(), 1, "one observation for one target");
        seen.remove(0)
    }

    /// Waits until it runs.
    pub async fn until_running(&self, handle: &Handle) {
        self.until("it runs", || async {
            match self.observe(handle).await.state {
                ThingState::Running { .. } => true,
                ThingState::Ended(ending) => panic!("it ended before it was seen running: {ending:?}"),
                _ => false,
            }
        })
        .await;
    }

    /// Waits for the end.
    pub async fn ending(&self, handle: &Handle) -> Ending {
        self.ending_by(&*self.executor, handle).await
    }

    /// Waits for the end as another executor sees it.
    pub async fn ending_by(&self, executor: &dyn Executor, handle: &Handle) -> Ending {
        let deadline = Instant::now() + STATE;
        loop {
            let seen = executor
                .observe(&[Target::Handle(handle.clone())])
                .await
                .expect("observe");
            match &seen[0].state {
                ThingState::Ended(ending) => return ending.clone(),
                ThingState::Absent => panic!("{handle} is absent"),
                state => assert!(Instant::now() < deadline, "no end within {STATE:?}: {state:?}"),
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Everything that it printed until now.
    pub async fn printed(&self, handle: &Handle) -> Printed {
        let mut printed = Printed::default();
        for piece in self.pieces(&*self.executor, handle, Position::default(), false).await {
            printed.add(&piece);
        }
        printed
    }

    /// The pieces of output from a position on.
    pub async fn pieces(&self, executor: &dyn Executor, handle: &Handle, from: Position, follow: bool) -> Vec<Output> {
        let request = ReadOutput {
            handle: handle.clone(),
            from,
            follow,
        };
        let stream = executor.output(request).await.expect("output");
        timeout(STATE, stream.map(|piece| piece.expect("a piece of output")).collect())
            .await
            .expect("the output ends")
    }

    async fn empty(&self) {
        for executor in [Arc::clone(&self.executor), self.stranger().await] {
            for thing in executor.owned().await.expect("owned") {
                executor.remove(&thing.handle, true).await.expect("remove with force");
            }
            let left = executor.owned().await.expect("owned");
            assert!(left.is_empty(), "left behind: {left:?}");
        }
        let left = self.processes();
        assert!(left.is_empty(), "processes left behind: {left:?}");
    }
}
