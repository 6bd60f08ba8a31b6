//! The Executor suite against a real engine, with each of the two ways for the payload.

#[expect(dead_code, reason = "this test binary uses a part of it")]
mod common;

use std::sync::Arc;

use async_trait::async_trait;
use robata_core::{
    InstallationId,
    executor::{Executor, Spec},
    finish::End,
};
use robata_executor_docker::PayloadWay;
use robata_testkit::executor::Harness;

/// An engine, and how the payload gets into its containers.
struct Docker(PayloadWay);

#[async_trait]
impl Harness for Docker {
    async fn connect(&self, installation: InstallationId) -> anyhow::Result<Arc<dyn Executor>> {
        let mut config = common::config(installation);
        config.payload = self.0;
        Ok(Arc::new(robata_executor_docker::DockerExecutor::connect(config)?))
    }

    fn argv(&self, argv: &[&str]) -> Spec {
        common::argv(argv)
    }

    fn missing_image(&self) -> Option<String> {
        // A registry that answers; `invalid` is no name that any DNS knows, and Docker Hub may be out of reach.
        Some(format!(
            "{}/robata-test/no-such-image:1",
            common::variable("ROBATA_TEST_REGISTRY")
        ))
    }

    fn ends_by_code(&self, code: i32) -> Vec<End> {
        // The engine tells 128 + n and the signal n alike.
        match code {
            129..=192 => vec![End::Signalled(code - 128)],
            _ => vec![End::Exited(code)],
        }
    }
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
