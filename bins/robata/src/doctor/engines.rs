//! Whether each executor's engine answers, and what it cannot do here.

use std::time::Duration;

use robata_core::{ExecutorName, InstallationId};
use robata_settings::{ExecutorSettings, Settings};

use super::Check;

/// An engine that answers at all does so within this time.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

pub(super) async fn check(settings: &Settings) -> Vec<Check> {
    let mut checks = Vec::new();
    for (name, chosen) in &settings.executors {
        match chosen {
            ExecutorSettings::Docker(docker) => checks.push(docker_check(settings, name, chosen, &docker.host).await),
            ExecutorSettings::Process(_) => checks.push(process_check(settings, name, chosen).await),
        }
    }
    checks
}

/// Lists the things of an installation that does not exist: that changes nothing.
async fn docker_check(settings: &Settings, name: &ExecutorName, chosen: &ExecutorSettings, host: &str) -> Check {
    let what = format!("executor {name}");
    let answered = async {
        robata_adapters::executor(settings, name, chosen, InstallationId::new())
            .await?
            .owned()
            .await
    };
    let why = match tokio::time::timeout(ANSWERS_WITHIN, answered).await {
        Ok(Ok(_)) => return Check::ok(what, format!("Docker answers at {host}")),
        Ok(Err(error)) => error.full(),
        Err(_) => format!("no answer within {} s", ANSWERS_WITHIN.as_secs()),
    };
    Check::fail(
        what,
        format!("Docker is not reachable at {host}: {why}"),
        format!(
            "start it (systemctl start docker) or join its group (usermod -aG docker USER); another engine: \
             executors.{name}.docker.host, or DOCKER_HOST where that is not set; none at all: --executor process"
        ),
    )
}

/// Opens an executor in a folder of its own: the configured one may be in use.
async fn process_check(settings: &Settings, name: &ExecutorName, chosen: &ExecutorSettings) -> Check {
    let what = format!("executor {name}");
    // Ours alone, under a name that nobody can have taken before.
    let folder = match tempfile::Builder::new()
        .prefix("robata-doctor-")
        .permissions(ours_alone())
        .tempdir()
    {
        Ok(folder) => folder,
        Err(error) => {
            let folder = std::env::temp_dir();
            return Check::fail(
                what,
                format!(
                    "cannot be tried: no folder can be made in {}: {error}",
                    folder.display()
                ),
                "make room there, or name another by TMPDIR",
            );
        }
    };
    let mut chosen = chosen.clone();
    if let ExecutorSettings::Process(process) = &mut chosen {
        process.folder = folder.path().to_owned();
    }
    let opened = robata_adapters::executor(settings, name, &chosen, InstallationId::new()).await;
    let check = match opened {
        Ok(executor) if executor.capabilities().tells_out_of_memory => {
            Check::ok(what, "processes can be run, their memory held by a cgroup")
        }
        Ok(_) => Check::warn(
            what,
            "no cgroup can be written: memory is limited by RLIMIT_AS, and out of memory is not told apart",
            "run as root, or with a delegated cgroup v2 (systemd-run --user --scope -p Delegate=yes robata up)",
        ),
        Err(error) => Check::fail(
            what,
            format!("processes cannot be run: {}", error.full()),
            format!("leave it out: --executor, or no [executors.{name}.process] in the settings"),
        ),
    };
    // Temporary by name and place; what stays of it is the system's to clean.
    let _ = folder.close();
    check
}

fn ours_alone() -> std::fs::Permissions {
    use std::os::unix::fs::PermissionsExt;
    std::fs::Permissions::from_mode(0o700)
}
