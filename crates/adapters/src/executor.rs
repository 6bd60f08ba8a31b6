//! Which executors can be chosen.

use std::{collections::BTreeMap, sync::Arc};

use robata_core::{ExecutorName, InstallationId, Result, executor::Executor};
use robata_settings::{ExecutorSettings, Settings};

/// Opens every executor of the settings, for the things of this installation. No engine need be up for it.
pub async fn executors(
    settings: &Settings,
    installation: InstallationId,
) -> Result<BTreeMap<ExecutorName, Arc<dyn Executor>>> {
    let mut opened = BTreeMap::new();
    for (name, chosen) in &settings.executors {
        opened.insert(name.clone(), executor(settings, name, chosen, installation).await?);
    }
    Ok(opened)
}

/// Opens one executor.
pub async fn executor(
    settings: &Settings,
    name: &ExecutorName,
    chosen: &ExecutorSettings,
    installation: InstallationId,
) -> Result<Arc<dyn Executor>> {
    // A build that leaves an executor out leaves unused what only that one takes.
    #[cfg(not(all(feature = "docker", feature = "process")))]
    let _ = (settings, installation);
    match chosen {
        #[cfg(feature = "docker")]
        ExecutorSettings::Docker(docker) => {
            use robata_executor_docker::{DockerConfig, DockerExecutor, PayloadWay};

            let config = DockerConfig {
                host: Some(docker.host.clone()),
                config_json: docker.config_json.clone().or_else(users_docker_config),
                payload: match docker.payload {
                    robata_settings::PayloadWay::Auto => PayloadWay::Auto,
                    robata_settings::PayloadWay::Volume => PayloadWay::Volume,
                },
                payload_folder: Some(settings.data.folder.join("payloads").join(name.as_str())),
                parallel_starts: docker.parallel_starts,
                keep_images: docker.keep_images,
                ..DockerConfig::new(installation)
            };
            Ok(Arc::new(DockerExecutor::connect(config)?))
        }
        #[cfg(not(feature = "docker"))]
        ExecutorSettings::Docker(_) => Err(crate::left_out(&format!("executors.{name}.docker"), "docker")),
        #[cfg(feature = "process")]
        ExecutorSettings::Process(process) => {
            use robata_executor_process::{ProcessConfig, ProcessExecutor};

            let mut config = ProcessConfig::new(&process.folder, installation);
            // A process job gets these of ours and nothing else.
            let ours = ["PATH", "HOME", "LANG"].into_iter();
            config.environment = ours
                .filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)))
                .collect();
            Ok(Arc::new(ProcessExecutor::open(config)?))
        }
        #[cfg(not(feature = "process"))]
        ExecutorSettings::Process(_) => Err(crate::left_out(&format!("executors.{name}.process"), "process")),
    }
}

/// The file where `docker login` leaves credentials, be it now or later; none where we may not look.
#[cfg(feature = "docker")]
fn users_docker_config() -> Option<std::path::PathBuf> {
    let folder = match std::env::var_os("DOCKER_CONFIG") {
        Some(folder) => std::path::PathBuf::from(folder),
        None => std::path::PathBuf::from(std::env::var_os("HOME")?).join(".docker"),
    };
    Some(folder.join("config.json")).filter(|path| path.try_exists().is_ok())
}

/// Makes an image on a Docker executor's engine from a tar archive of a root file system.
pub async fn import_image(docker: &robata_settings::DockerSettings, image: &str, tar: Vec<u8>) -> Result<()> {
    #[cfg(feature = "docker")]
    {
        let mut config = robata_executor_docker::DockerConfig::new(InstallationId::new());
        config.host = Some(docker.host.clone());
        robata_executor_docker::import_image(config, image, tar).await
    }
    #[cfg(not(feature = "docker"))]
    {
        let _ = (docker, image, tar);
        Err(crate::left_out("executors.NAME.docker", "docker"))
    }
}
