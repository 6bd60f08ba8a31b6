//! A server on a Unix socket that answers as a test tells it to, for what a real engine does only at its worst.

use std::sync::{Arc, Mutex};

use robata_core::{InstallationId, executor::label};
use robata_executor_docker::{DockerConfig, DockerExecutor};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};

/// What is answered to one request.
pub(crate) enum Answer {
    /// A status and a body, each of its values on a line of its own.
    Now(u16, Vec<Value>),
    /// Nothing, for ever.
    Never,
}

pub(crate) fn ok(body: Value) -> Answer {
    Answer::Now(200, vec![body])
}

/// The engine's words.
pub(crate) fn refused(status: u16, words: &str) -> Answer {
    Answer::Now(status, vec![json!({ "message": words })])
}

/// Answers a method and a path, such as `DELETE /containers/x?force=false`.
type Script = Arc<Mutex<dyn FnMut(&str) -> Answer + Send>>;

/// An engine with a script.
pub(crate) struct Scripted {
    config: DockerConfig,
    _folder: tempfile::TempDir,
}

impl Scripted {
    pub(crate) fn new(installation: InstallationId, script: impl FnMut(&str) -> Answer + Send + 'static) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("docker.sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let script: Script = Arc::new(Mutex::new(script));
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(serve(connection, Arc::clone(&script)));
            }
        });
        let mut config = DockerConfig::new(installation);
        config.host = Some(format!("unix://{}", socket.display()));
        config.call_timeout = std::time::Duration::from_millis(500);
        Self {
            config,
            _folder: folder,
        }
    }

    pub(crate) fn executor(&self) -> DockerExecutor {
        DockerExecutor::connect(self.config.clone()).expect("connect")
    }
}

/// A container of this installation in this state.
pub(crate) fn container(installation: InstallationId, state: &Value) -> Answer {
    ok(json!({
        "Id": "x",
        "Created": "2026-11-22T23:50:00Z",
        "Config": { "Labels": { label::INSTALLATION: installation.to_string() } },
        "State": state,
    }))
}

async fn serve(mut connection: UnixStream, script: Script) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut part = [0; 4096];
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        match connection.read(&mut part).await? {
            0 => return Ok(()),
            read => head.extend_from_slice(&part[..read]),
        }
    }
    let head = String::from_utf8_lossy(&head);
    let mut words = head.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    // Without the version of the API.
    let path = match path.strip_prefix("/v1.").and_then(|rest| rest.split_once('/')) {
        Some((_, rest)) => format!("/{rest}"),
        None => path.to_owned(),
    };
    let answer = if path == "/version" {
        ok(json!({ "ApiVersion": "1.41", "MinAPIVersion": "1.12" }))
    } else {
        let mut script = script.lock().expect("no panic in it");
        (*script)(&format!("{method} {path}"))
    };
    match answer {
        Answer::Now(status, body) => {
            let body: String = body.iter().map(|value| format!("{value}\n")).collect();
            let answer = format!(
                "HTTP/1.1 {status} Scripted\r\ncontent-type: application/json\r\nconnection: close\r\n\
                 content-length: {}\r\n\r\n{body}",
                body.len()
            );
            connection.write_all(answer.as_bytes()).await
        }
        Answer::Never => std::future::pending().await,
    }
}
