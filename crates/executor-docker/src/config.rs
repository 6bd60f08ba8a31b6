//! What a caller can choose; everything has a default but the installation.

use std::{path::PathBuf, time::Duration};

use robata_core::InstallationId;

/// Where an engine listens unless told otherwise.
pub(crate) const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";

/// Settings of a [`DockerExecutor`](crate::DockerExecutor). Nothing is read from the environment.
///
/// `DockerConfig { payload_folder: Some(folder), ..DockerConfig::new(installation) }`
#[derive(Clone, Debug)]
pub struct DockerConfig {
    /// Whose containers these are; it is on everything that is made, and nothing else is ever touched.
    pub installation: InstallationId,
    /// The engine: `unix:///PATH`, or `tcp://HOST:PORT` without TLS. Default: `unix:///var/run/docker.sock`.
    pub host: Option<String>,
    /// Docker's `config.json`, for the registries' credentials: its `credHelpers` and `credsStore`, whose programs
    /// (`docker-credential-NAME`) are found in the PATH, and its `auths`. It is read before each pull, so that a
    /// `docker login` counts at once. `None`: no credentials.
    pub config_json: Option<PathBuf>,
    /// How the payload gets into a container.
    pub payload: PayloadWay,
    /// A folder of ours (made with mode 0700) for payload files that are mounted; `None`: none are mounted.
    pub payload_folder: Option<PathBuf>,
    /// At most so many starts under way at once; 0: no limit. The README says how the default was found.
    pub parallel_starts: usize,
    /// The engine keeps up to this much of a container's output; what is printed beyond it before it is read is lost,
    /// and that is an error of `output`. The engine may use twice as much of its disk for one container.
    pub log_max_bytes: u64,
    /// How long a call to the engine, or to a credential helper, may take; a start and a stop have a bound of their own.
    pub call_timeout: Duration,
    /// How long the engine may take for one create or start: it is slow while many run.
    pub start_timeout: Duration,
    /// A pull that says nothing for so long is given up.
    pub pull_stall: Duration,
    /// Images that were pulled for a container of ours, and that nothing else has, are removed when so long none has used
    /// them; `owned` looks. `None`: never.
    pub keep_images: Option<Duration>,
}

impl DockerConfig {
    /// The defaults.
    #[must_use]
    pub fn new(installation: InstallationId) -> Self {
        Self {
            installation,
            host: None,
            config_json: None,
            payload: PayloadWay::Auto,
            payload_folder: None,
            parallel_starts: 4,
            log_max_bytes: 1 << 30,
            call_timeout: Duration::from_secs(30),
            start_timeout: Duration::from_secs(120),
            pull_stall: Duration::from_secs(300),
            keep_images: None,
        }
    }

    /// The engine's address as it is shown in errors.
    pub(crate) fn shown_host(&self) -> &str {
        self.host.as_deref().unwrap_or(DEFAULT_HOST)
    }
}

/// How the payload gets into a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum PayloadWay {
    /// Mounted as a read-only file where the engine sees the files that we see, else by a volume.
    #[default]
    Auto,
    /// By an anonymous volume that is filled before the start.
    Volume,
}
