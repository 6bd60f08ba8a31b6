//! The command line, and the settings that come of it.

use std::path::PathBuf;

use robata_core::ExecutorName;
use robata_daemon::{Given, load, only_executors, only_queues};
use robata_settings::{Listen, Settings};

/// Robata's worker: takes jobs, starts their attempts and follows them to their ends. Any number may run.
#[derive(Debug, clap::Parser)]
#[command(name = "robata-worker", version, max_term_width = 100)]
pub(crate) struct Args {
    /// The settings file.
    #[arg(long, env = "ROBATA_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to answer /healthz, /readyz and /metrics: an address (port 0 takes a free one), beyond loopback only with
    /// auth.admin_token; or unix:/PATH [default: off].
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<Listen>,
    /// Where everything is kept that has no folder of its own [default: robata in $XDG_DATA_HOME, or in ~/.local/share].
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    /// Only these executors of the settings.
    #[arg(long = "executor", value_name = "NAME")]
    executors: Vec<ExecutorName>,
    /// Only these queues, a full one of weight 2 twice as often as one of weight 1 [default: as set, else all].
    #[arg(long = "queue", value_name = "NAME[=WEIGHT]")]
    queues: Vec<String>,
}

impl Args {
    /// The settings in force.
    pub(crate) fn settings(self) -> anyhow::Result<Settings> {
        let given = Given {
            config: self.config,
            ..Given::default()
        };
        let given = given.flag("--listen", "worker.listen", self.listen);
        let mut settings = load(given.data_dir(self.data_dir.as_deref())?)?.settings;
        only_executors(&mut settings, &self.executors)?;
        only_queues(&mut settings, &self.queues)?;
        Ok(settings)
    }
}
