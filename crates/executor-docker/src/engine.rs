//! The connection to one engine: made and negotiated at the first use, every call bounded in time.

use std::{collections::HashMap, future::Future, time::Duration};

use bollard::{
    API_DEFAULT_VERSION, Docker,
    container::LogOutput,
    errors::Error as Client,
    models::{ContainerInspectResponse, ContainerSummary},
    query_parameters::ListContainersOptions,
};
use bytes::Bytes;
use robata_core::{
    Error, ErrorKind, Result,
    executor::{Stream, label},
};
use tokio::{
    sync::OnceCell,
    time::{Instant, sleep, timeout},
};

use crate::{DockerConfig, error::Fault};

/// Longer than any call may take: each has a bound of its own.
const CLIENT_TIMEOUT_SECS: u64 = 7 * 24 * 3600;
/// How long a container's state may be one that Docker does not know.
const SETTLES: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

pub(crate) struct Engine {
    pub(crate) config: DockerConfig,
    given: Option<Docker>,
    client: OnceCell<Docker>,
    kind: OnceCell<Kind>,
}

/// Whose engine it is that speaks Docker's API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Docker,
    Podman,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("host", &self.config.shown_host())
            .finish_non_exhaustive()
    }
}

impl Engine {
    pub(crate) fn new(config: DockerConfig, given: Option<Docker>) -> Self {
        Self {
            config,
            given: given.map(|client| client.with_timeout(Duration::from_secs(CLIENT_TIMEOUT_SECS))),
            client: OnceCell::new(),
            kind: OnceCell::new(),
        }
    }

    /// The client, once the engine has been reached and a version of its API agreed on.
    pub(crate) async fn client(&self) -> Result<&Docker, Fault> {
        let connect = || async {
            let client = match &self.given {
                Some(client) => client.clone(),
                None => connect(self.config.shown_host()).map_err(|error| self.fault(error))?,
            };
            self.bounded(self.config.call_timeout, client.negotiate_version()).await
        };
        self.client.get_or_try_init(connect).await
    }

    /// Whose engine it is; asked once.
    pub(crate) async fn kind(&self) -> Result<Kind, Fault> {
        let ask = || async {
            let version = self.call(|client| client.version()).await?;
            let mut parts = version.components.into_iter().flatten();
            let podman = parts.any(|part| part.name.starts_with("Podman"));
            Ok(if podman { Kind::Podman } else { Kind::Docker })
        };
        self.kind.get_or_try_init(ask).await.copied()
    }

    pub(crate) fn fault(&self, error: Client) -> Fault {
        Fault::of(self.config.shown_host(), error)
    }

    /// Bounds a call in time.
    pub(crate) async fn bounded<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<T, Client>>,
    ) -> Result<T, Fault> {
        match timeout(limit, call).await {
            Ok(answer) => answer.map_err(|error| self.fault(error)),
            Err(_) => Err(Fault::Slow {
                host: self.config.shown_host().to_owned(),
                after: limit,
            }),
        }
    }

    /// A call with the usual bound.
    pub(crate) async fn call<'a, T, F>(&'a self, call: impl FnOnce(&'a Docker) -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Client>> + 'a,
    {
        let client = self.client().await?;
        self.bounded(self.config.call_timeout, call(client)).await
    }

    /// Asks again while the answer holds a state that Docker has no word for: Podman calls a container `stopped` until it
    /// has cleaned up after it (seen on 4.3), a moment later `exited` as Docker does.
    pub(crate) async fn settled<T, F>(&self, ask: impl Fn() -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let until = Instant::now() + SETTLES;
        loop {
            match ask().await {
                Err(fault) if fault.is_unsettled() && Instant::now() < until => sleep(LOOK_AGAIN).await,
                answer => return answer,
            }
        }
    }

    /// Containers, running or not, by what their labels are.
    pub(crate) async fn containers(
        &self,
        filters: Option<HashMap<String, Vec<String>>>,
    ) -> Result<Vec<ContainerSummary>, Fault> {
        let options = ListContainersOptions {
            all: true,
            filters,
            ..ListContainersOptions::default()
        };
        self.settled(|| self.call(|client| client.list_containers(Some(options.clone()))))
            .await
    }

    /// A container by id or name; `None` where the engine says that there is none.
    pub(crate) async fn inspect(&self, id: &str) -> Result<Option<ContainerInspectResponse>, Fault> {
        match self
            .settled(|| self.call(|client| client.inspect_container(id, None)))
            .await
        {
            Ok(found) => Ok(Some(found)),
            Err(fault) if fault.is_absent() => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// A container of ours; another installation's is as absent as one that is not there.
    pub(crate) async fn ours(&self, id: &str) -> Result<Option<ContainerInspectResponse>, Fault> {
        Ok(self.inspect(id).await?.filter(|found| self.is_ours(found)))
    }

    pub(crate) fn is_ours(&self, found: &ContainerInspectResponse) -> bool {
        let labels = found.config.as_ref().and_then(|config| config.labels.as_ref());
        labels.and_then(|labels| labels.get(label::INSTALLATION)) == Some(&self.config.installation.to_string())
    }

    /// The filter for all that is ours.
    pub(crate) fn filter(&self) -> HashMap<String, Vec<String>> {
        let ours = format!("{}={}", label::INSTALLATION, self.config.installation);
        [("label".to_owned(), vec![ours])].into()
    }
}

fn connect(host: &str) -> Result<Docker, Client> {
    if host.starts_with("unix://") {
        Docker::connect_with_unix(host, CLIENT_TIMEOUT_SECS, API_DEFAULT_VERSION)
    } else {
        Docker::connect_with_http(host, CLIENT_TIMEOUT_SECS, API_DEFAULT_VERSION)
    }
}

/// Whether an address is one that we can use; said when the executor is made, not at the first job.
pub(crate) fn check_host(host: &str) -> Result<()> {
    let known = ["unix://", "tcp://", "http://"];
    if known.iter().any(|scheme| host.starts_with(scheme)) {
        return Ok(());
    }
    let instead = match host.split_once("://") {
        Some(("ssh", _)) => {
            "; ssh is not spoken: forward the engine's socket (ssh -NL /PATH/docker.sock:/var/run/docker.sock HOST) and \
             use unix:///PATH/docker.sock"
        }
        Some(("https", _)) => "; TLS is not spoken",
        _ => "",
    };
    Err(Error::new(
        ErrorKind::Invalid,
        "docker.connect",
        format!("cannot connect to {host:?}: an engine's address begins with unix:// or tcp://{instead}"),
    ))
}

/// The stream and the bytes of one frame of a container's log; else the engine's words about why it cannot go on.
///
/// Its words come as frames of a fourth kind (`Systemerr` in `pkg/stdcopy`), which the client hands on raw, header and
/// all. Without a terminal, which no container of ours has, there is nothing else that has no header.
pub(crate) fn frame(output: LogOutput) -> Result<(Stream, Bytes), String> {
    const HEADER: usize = 8;
    match output {
        LogOutput::StdErr { message } => Ok((Stream::Stderr, message)),
        LogOutput::StdOut { message } | LogOutput::StdIn { message } => Ok((Stream::Stdout, message)),
        LogOutput::Console { message } => {
            let words = message.get(HEADER..).unwrap_or_default();
            Err(String::from_utf8_lossy(words).trim().to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_engine_says_instead_of_a_log_is_no_output() {
        let message = Bytes::from_static(b"\x03\0\0\0\0\0\0\x19Error grabbing logs: torn\n");
        assert_eq!(
            frame(LogOutput::Console { message }),
            Err("Error grabbing logs: torn".to_owned())
        );
    }
}
