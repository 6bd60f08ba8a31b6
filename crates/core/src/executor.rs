//! The seam to engines: where things run. It knows specs and names, and no job.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::{
    Timestamp,
    definition::{DockerOptions, ProcessOptions, Resources, Security},
    error::Result,
    id::InstallationId,
    secret::Secret,
};

/// The engine's own id of a thing. Never used again for another thing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Handle(pub String);

/// The identity of an engine, kept inside it (PROTOCOL R1).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RealmId(pub String);

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for RealmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What an executor can do; what it cannot is answered `Unsupported`, never silently ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Whether it runs images; else it runs commands of the host.
    pub images: bool,
    /// Whether stdout and stderr are told apart.
    pub separate_streams: bool,
    /// Whether logs are the very bytes that were printed.
    pub exact_bytes: bool,
    /// Whether logs can be read while the thing runs.
    pub live_logs: bool,
    /// Whether running over the memory limit is told apart from another kill.
    pub tells_out_of_memory: bool,
    /// Whether things go on running when the worker's host process ends.
    pub outlives_worker: bool,
    /// How many starts under way at once the engine bears best; 0: no limit.
    pub parallel_starts: usize,
}

/// What to run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spec {
    /// The image.
    pub image: Option<String>,
    /// Replaces the image's ENTRYPOINT.
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's CMD.
    pub command: Option<Vec<String>>,
    /// The working folder.
    pub working_dir: Option<String>,
    /// `user[:group]`.
    pub user: Option<String>,
    /// The environment, but for `payload_file_env`, which the executor sets.
    pub env: BTreeMap<String, String>,
    /// More of the environment, apart from `env` so that nobody prints it with that: values that stand in nothing but the
    /// environment of what runs (no label, file, message or answer).
    pub secret_env: BTreeMap<String, Secret>,
    /// A file that the thing can read, with these bytes.
    pub payload: Bytes,
    /// The variable that holds the payload file's path, as `ROBATA_PAYLOAD_FILE`.
    pub payload_file_env: Option<String>,
    /// What it needs and may use.
    pub resources: Resources,
    /// The level of security.
    pub security: Security,
    /// From SIGTERM to SIGKILL, where the engine itself stops the thing.
    pub grace_period: Duration,
    /// What only Docker executors know.
    pub docker: DockerOptions,
    /// What only process executors know.
    pub process: ProcessOptions,
}

/// A request to make a thing that does not run yet.
#[derive(Clone, Debug)]
pub struct Prepare {
    /// The thing's name: `[a-z0-9-]`, at most 63 bytes, unique in the installation.
    pub name: String,
    /// Labels that the thing carries, in the order of their names; `MARK` is one of them.
    pub labels: BTreeMap<String, String>,
    /// What to run.
    pub spec: Spec,
    /// Where the executor tells that it does something long, as pulling.
    pub progress: Option<Progress>,
}

/// Tells the caller of a prepare what the executor is waiting for; a plain function, so that the seam needs no runtime.
#[derive(Clone)]
pub struct Progress(pub std::sync::Arc<dyn Fn(&str) + Send + Sync>);

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Progress")
    }
}

/// The labels that the platform sets and reads.
pub mod label {
    /// The installation's id.
    pub const INSTALLATION: &str = "robata.installation";
    /// `JOB/NUMBER`.
    pub const ATTEMPT: &str = "robata.attempt";
    /// The claim's random mark (PROTOCOL X1).
    pub const MARK: &str = "robata.mark";
    /// The realm's id.
    pub const REALM: &str = "robata.realm";
    /// The format number (PROTOCOL V1).
    pub const FORMAT: &str = "robata.format";
}

/// A thing that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// The engine's id.
    pub handle: Handle,
    /// The image's digest, where the engine says it.
    pub image_digest: Option<String>,
}

/// What to look at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// By the engine's id.
    Handle(Handle),
    /// By the name it was prepared under.
    Name(String),
}

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// The engine's id; `None` where it is absent.
    pub handle: Option<Handle>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its state.
    pub state: ThingState,
}

/// The state of a thing in its engine.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ThingState {
    /// The realm says that there is no such thing.
    Absent,
    /// Made, and never set going.
    Prepared,
    /// Set going, and not known to run yet: it may still turn out that its program is not there.
    Starting,
    /// Runs.
    Running {
        /// The engine's own start time.
        started_at: Timestamp,
    },
    /// Has run, or was refused at its start.
    Ended(Ending),
}

/// How a thing ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// How.
    pub end: crate::finish::End,
    /// The engine's own start time.
    pub started_at: Option<Timestamp>,
    /// The engine's own end time.
    pub finished_at: Option<Timestamp>,
    /// The engine's own code.
    pub detail: Option<String>,
    /// The engine's own words.
    pub message: Option<String>,
}

/// What the engine pushes, for all things of the installation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The stream begins, or there was a gap: look at everything again.
    Gap,
    /// Something happened to this thing: look at it.
    Changed(Handle),
    /// The engine itself cannot be reached; it is tried again. With its words.
    Unreachable(String),
}

/// A piece of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// When it was printed, as far as the engine knows.
    pub at: Timestamp,
    /// Which stream.
    pub stream: Stream,
    /// The bytes.
    pub data: Bytes,
    /// From where to read on after this piece; the executor's own notation.
    pub position: Position,
}

/// A place in a thing's output, in the executor's own notation; empty: its beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(pub String);

/// A stream of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output; all of it where the engine does not tell them apart.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Stdout, Self::Stderr];

    /// The word used in the API and in names.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// A request for output.
#[derive(Clone, Debug)]
pub struct ReadOutput {
    /// Of what.
    pub handle: Handle,
    /// From where.
    pub from: Position,
    /// Whether to wait for more until the thing has ended and all is read.
    pub follow: bool,
}

/// Something of this installation that was found in the realm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    /// The engine's id.
    pub handle: Handle,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A place where things run.
///
/// # Contract
/// An implementation MUST keep each of these; `robata_testkit::executor` has a case for every sentence.
///
/// - `prepare` MUST run nothing. Called again with the same name and mark it MUST answer the same thing; with a taken
///   name and another mark it MUST remove a thing that never ran, and MUST answer `StillRuns` where it has run.
/// - What `secret_env` has MUST be in the thing's environment, whatever `env` says of the same variable, and in nothing that is
///   told of the thing: no label, no observation, no error, no log line.
/// - Dropping a `prepare` MUST abort a pull, and MUST leave nothing that runs.
/// - A thing whose image is missing or forbidden MUST be refused as `ImagePull`, one that is described wrongly as
///   `StartRefused`, both with the engine's own words; an unreachable engine is `Unavailable`.
/// - `start` MUST set going only what was never set going: started again it MUST change nothing and answer well while
///   or after it runs; of an absent thing it MUST answer `NotFound`.
/// - `events` MUST begin with `Gap`, MUST tell of every end while connected, and MUST reconnect by itself.
/// - `observe` MUST answer in the order of its targets. It MUST answer `Absent` only where the realm itself says so.
/// - `stop` MUST return only when no process of the thing is left, be it the main one or a descendant; it MUST send
///   SIGTERM, and SIGKILL after the grace period; of an ended or absent thing it MUST answer well.
/// - `output` MUST give every byte from the position, to a last line without newline, and then end; what the engine
///   cannot give MUST be an error, not silence.
/// - `secrets` MUST answer every variable with the value that the thing was made with, or `None` for all.
/// - `remove` without force MUST answer `StillRuns` for a thing that runs; of an absent thing it MUST answer well.
/// - `owned` MUST list what this installation made and nothing else.
/// - Things MUST outlive the executor's process where `capabilities().outlives_worker` says so.
#[async_trait]
pub trait Executor: fmt::Debug + Send + Sync + 'static {
    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// The realm's identity; made inside the engine where there is none yet.
    async fn realm(&self) -> Result<RealmId>;

    /// Makes a thing that does not run yet.
    async fn prepare(&self, request: Prepare) -> Result<Prepared>;

    /// Sets a prepared thing going, by the engine's id.
    async fn start(&self, handle: &Handle) -> Result<()>;

    /// One push stream for the whole realm.
    fn events(&self) -> BoxStream<'static, Event>;

    /// Looks at things.
    async fn observe(&self, targets: &[Target]) -> Result<Vec<Observation>>;

    /// Ends a thing with all of its descendants, and confirms it.
    async fn stop(&self, handle: &Handle, grace_period: Duration) -> Result<()>;

    /// Reads output.
    async fn output(&self, request: ReadOutput) -> Result<BoxStream<'static, Result<Output>>>;

    /// What these variables of `secret_env` are in a thing, so that whoever follows what another made masks the very values
    /// that it has; `None` where the engine does not tell.
    async fn secrets(&self, handle: &Handle, variables: &BTreeSet<String>) -> Result<Option<BTreeMap<String, Secret>>> {
        let _ = (handle, variables);
        Ok(None)
    }

    /// Removes what is left of a thing.
    async fn remove(&self, handle: &Handle, force: bool) -> Result<()>;

    /// All that this installation has in the realm.
    async fn owned(&self) -> Result<Vec<Owned>>;

    /// The engine's own present, by which its start times are read (PROTOCOL X3); `None`: it is this machine's clock.
    async fn now(&self) -> Result<Option<Timestamp>> {
        Ok(None)
    }
}

/// The name of an attempt's thing: readable, unique in its installation, and allowed everywhere.
#[must_use]
pub fn thing_name(installation: InstallationId, attempt: crate::AttemptId) -> String {
    // The end of a UUIDv7 is its random part.
    let installation = installation.uuid().simple().to_string();
    format!(
        "robata-{}-{}-{}",
        &installation[24..],
        attempt.job.uuid().simple(),
        attempt.number
    )
}
