//! The suite of the Executor seam, on processes: with control groups where the machine has them, and without.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use robata_core::{
    InstallationId,
    executor::{Executor, Spec},
};
use robata_executor_process::{Cgroups, ProcessConfig, ProcessExecutor};
use robata_testkit::executor::Harness;

struct Processes {
    state: tempfile::TempDir,
    cgroups: Cgroups,
}

impl Processes {
    fn new(cgroups: Cgroups) -> Self {
        Self {
            state: tempfile::tempdir().expect("a temporary folder"),
            cgroups,
        }
    }
}

#[async_trait]
impl Harness for Processes {
    async fn connect(&self, installation: InstallationId) -> anyhow::Result<Arc<dyn Executor>> {
        let mut config = ProcessConfig::new(self.state.path(), installation);
        config.supervisor = Some(PathBuf::from(env!("CARGO_BIN_EXE_robata-supervisor")));
        config.cgroups = self.cgroups;
        Ok(Arc::new(ProcessExecutor::open(config)?))
    }

    fn argv(&self, argv: &[&str]) -> Spec {
        Spec {
            command: Some(argv.iter().map(|&arg| arg.to_owned()).collect()),
            ..Spec::default()
        }
    }
}

mod with_cgroups_where_there_are_any {
    use super::*;

    robata_testkit::executor_suite!(Processes::new(Cgroups::Auto));
}

mod without_cgroups {
    use super::*;

    robata_testkit::executor_suite!(Processes::new(Cgroups::Off));
}
