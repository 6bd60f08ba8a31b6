//! The Executor suite against a real engine, with each of the two ways for the payload, and against Podman's.

#[expect(dead_code, reason = "this test binary uses a part of it")]
mod support;

use std::{
    io::{Read, Write},
    sync::Arc,
};

use async_trait::async_trait;
use robata_core::{
    InstallationId,
    executor::{Executor, Spec},
    finish::End,
};
use robata_executor_docker::{DockerConfig, DockerExecutor, PayloadWay};
use robata_testkit::executor::Harness;

/// Docker's engine, and how the payload gets into its containers.
struct Docker(PayloadWay);

/// Podman's, which speaks the same API.
struct Podman;

/// The connection to it, and what is the same for both.
fn connect(mut config: DockerConfig, payload: PayloadWay) -> anyhow::Result<Arc<dyn Executor>> {
    config.payload = payload;
    Ok(Arc::new(DockerExecutor::connect(config)?))
}

/// The engine tells 128 + n and the signal n alike.
fn ends_by_code(code: i32) -> Vec<End> {
    match code {
        129..=192 => vec![End::Signalled(code - 128)],
        _ => vec![End::Exited(code)],
    }
}

fn missing_image() -> Option<String> {
    Some(format!("127.0.0.1:{}/robata-test/no-such-image:1", empty_registry()))
}

#[async_trait]
impl Harness for Docker {
    async fn connect(&self, installation: InstallationId) -> anyhow::Result<Arc<dyn Executor>> {
        connect(support::config(installation), self.0)
    }

    fn argv(&self, argv: &[&str]) -> Spec {
        support::argv(argv)
    }

    fn missing_image(&self) -> Option<String> {
        missing_image()
    }

    fn ends_by_code(&self, code: i32) -> Vec<End> {
        ends_by_code(code)
    }
}

#[async_trait]
impl Harness for Podman {
    async fn connect(&self, installation: InstallationId) -> anyhow::Result<Arc<dyn Executor>> {
        let mut config = support::config(installation);
        config.host = Some(support::variable("ROBATA_TEST_PODMAN_HOST"));
        connect(config, PayloadWay::Auto)
    }

    fn argv(&self, argv: &[&str]) -> Spec {
        support::argv(argv)
    }

    fn missing_image(&self) -> Option<String> {
        missing_image()
    }

    fn ends_by_code(&self, code: i32) -> Vec<End> {
        ends_by_code(code)
    }

    fn variables(&self) -> &[&str] {
        &["TERM"]
    }

    /// It says `OOMKilled` of none (seen on 4.3 with cgroup v1).
    fn tells_out_of_memory(&self, _: &dyn Executor) -> bool {
        false
    }
}

/// The port of a registry that has nothing, for as long as the test runs: no real one is needed for that, and Docker Hub
/// may be out of reach.
fn empty_registry() -> u16 {
    const BODY: &str = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        while let Ok((mut socket, _)) = listener.accept() {
            let mut request = [0; 4096];
            while socket.read(&mut request).is_ok_and(|read| read > 0) {
                let found = request.starts_with(b"GET /v2/ ");
                let (status, body) = if found {
                    ("200 OK", "{}")
                } else {
                    ("404 Not Found", BODY)
                };
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
                );
                if socket.write_all(answer.as_bytes()).is_err() {
                    break;
                }
            }
        }
    });
    port
}

mod docker {
    mod payload_by_file {
        use super::super::{Docker, PayloadWay};
        robata_testkit::executor_suite!(Docker(PayloadWay::Auto));
    }
    mod payload_by_volume {
        use super::super::{Docker, PayloadWay};
        robata_testkit::executor_suite!(Docker(PayloadWay::Volume));
    }
}

mod podman {
    robata_testkit::executor_suite!(super::Podman);
}
