//! The engine by hand: the same container as the executor's, through the same API, and nothing around it.

use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};
use robata_core::{JobId, executor::label};
use serde::Deserialize;
use serde_json::{Value, json};

use super::http::{self, Connection, Reply};

/// Marks what the bench makes by hand.
const LABEL: &str = "robata.bench";

/// Where the engine listens.
#[derive(Clone, Debug)]
pub(super) enum Host {
    Unix(PathBuf),
    Tcp(String),
}

impl Host {
    pub(super) fn parse(url: &str) -> anyhow::Result<Self> {
        match url.split_once("://") {
            Some(("unix", path)) => Ok(Self::Unix(path.into())),
            Some(("tcp" | "http", address)) => Ok(Self::Tcp(address.to_owned())),
            _ => bail!("{url:?} is neither unix:///PATH nor tcp://HOST:PORT (--docker-host)"),
        }
    }
}

/// One connection to the engine.
pub(super) struct Engine {
    connection: Connection,
    /// `/v1.41`.
    version: String,
}

impl Engine {
    pub(super) async fn connect(host: &Host) -> anyhow::Result<Self> {
        let connection = match host {
            Host::Unix(path) => Connection::unix(path).await,
            Host::Tcp(address) => {
                let mut found = tokio::net::lookup_host(address.as_str()).await?;
                Connection::tcp(found.next().context("no such host")?).await
            }
        };
        let mut engine = Self {
            connection: connection.context("Docker is not reached")?,
            version: String::new(),
        };
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Version {
            api_version: String,
        }
        let answer = engine.call("GET", "/version", None).await?.expect(200)?;
        let version: Version = serde_json::from_slice(&answer.body)?;
        engine.version = format!("/v{}", version.api_version);
        Ok(engine)
    }

    /// Fails unless the image is there: a pull would be measured else.
    pub(super) async fn has_image(&mut self, image: &str) -> anyhow::Result<()> {
        let answer = self.call("GET", &format!("/images/{image}/json"), None).await?;
        ensure!(
            answer.status == 200,
            "the image {image} is not there (pull it, or name another with --image): {}",
            answer.text()
        );
        Ok(())
    }

    /// Create, start, wait, remove.
    pub(super) async fn run(&mut self, description: &Value) -> anyhow::Result<()> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Created {
            id: String,
        }
        let created = self
            .call("POST", "/containers/create", Some(description))
            .await?
            .expect(201)?;
        let Created { id } = serde_json::from_slice(&created.body)?;
        self.call("POST", &format!("/containers/{id}/start"), None)
            .await?
            .expect(204)?;
        let waited = self
            .call("POST", &format!("/containers/{id}/wait"), None)
            .await?
            .expect(200)?;
        let status: Value = serde_json::from_slice(&waited.body)?;
        ensure!(status["StatusCode"] == 0, "the container ended with {status}");
        self.call("DELETE", &format!("/containers/{id}?v=1"), None)
            .await?
            .expect(204)?;
        Ok(())
    }

    /// How many containers of this installation are still there.
    pub(super) async fn left(&mut self, installation: &str) -> anyhow::Result<usize> {
        Ok(self.list(label::INSTALLATION, installation).await?.len())
    }

    /// The installation that the container of a job's first attempt carries, while it is there.
    pub(super) async fn installation_of(&mut self, job: JobId) -> anyhow::Result<Option<String>> {
        let found = self.list(label::ATTEMPT, &format!("{job}/1")).await?;
        let installation = found
            .first()
            .and_then(|container| container["Labels"][label::INSTALLATION].as_str());
        Ok(installation.map(str::to_owned))
    }

    async fn list(&mut self, label: &str, value: &str) -> anyhow::Result<Vec<Value>> {
        let filter = json!({"label": [format!("{label}={value}")]}).to_string();
        let path = format!("/containers/json?all=1&filters={}", encoded(&filter));
        let answer = self.call("GET", &path, None).await?.expect(200)?;
        Ok(serde_json::from_slice(&answer.body)?)
    }

    async fn call(&mut self, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<Reply> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let path = format!("{}{path}", self.version);
        self.connection
            .call(&http::request(method, &path, "docker", body.as_bytes()))
            .await
    }
}

/// The container that the Docker executor makes of the bench's definition, with the payload as a mounted file.
pub(super) fn description(image: &str, payload: &str) -> Value {
    json!({
        "Image": image,
        "Cmd": ["true"],
        "Env": ["ROBATA_PAYLOAD_FILE=/run/robata/payload"],
        "Labels": {LABEL: "by-hand"},
        "HostConfig": {
            "NetworkMode": "none",
            "Init": true,
            "PidsLimit": 4096,
            "SecurityOpt": ["no-new-privileges"],
            "LogConfig": {"Type": "local", "Config": {"mode": "blocking", "max-size": "1073741824", "max-file": "2", "compress": "false"}},
            "Mounts": [{"Type": "bind", "Source": payload, "Target": "/run/robata/payload", "ReadOnly": true}],
        },
    })
}

impl Reply {
    fn expect(self, status: u16) -> anyhow::Result<Self> {
        ensure!(
            self.status == status,
            "the engine answered {} in place of {status}: {}",
            self.status,
            self.text()
        );
        Ok(self)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim().to_owned()
    }
}

fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engines_address_is_a_socket_or_a_port() {
        assert!(matches!(Host::parse("unix:///x").unwrap(), Host::Unix(path) if path.to_str() == Some("/x")));
        assert!(matches!(Host::parse("tcp://h:1").unwrap(), Host::Tcp(address) if address == "h:1"));
        Host::parse("h:1").unwrap_err();
    }

    #[test]
    fn a_filter_is_encoded_for_a_query() {
        assert_eq!(encoded(r#"{"a":"b-c"}"#), "%7B%22a%22%3A%22b-c%22%7D");
    }
}
