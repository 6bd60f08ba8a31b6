//! Prepare: the image, the container under its name, its networks and its payload; nothing runs.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bollard::{
    body_full,
    models::{ContainerInspectResponse, EndpointSettings, ImageInspect, NetworkConnectRequest},
    query_parameters::{CreateContainerOptions, DownloadFromContainerOptions, UploadToContainerOptions},
};
use futures::TryStreamExt;
use robata_core::{
    Error, ErrorKind, Result,
    definition::Security,
    executor::{Handle, Prepare, Prepared, label},
};
use tokio::time::{Instant, sleep};

use crate::{
    PayloadWay,
    container::{self, PayloadMount, refused},
    engine::Engine,
    error::{Fault, is_room},
    image::{self, Pulls},
    keep::Kept,
    lifecycle,
    payload::{self, PayloadFile},
    realm::Realm,
    state,
};

const OPERATION: &str = "docker.prepare";
/// How long a name that is neither free nor found is waited for: a create that was dropped in the middle goes on in the
/// engine, and its container shows late.
const NAME: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Everything that prepares share.
#[derive(Debug, Default)]
pub(crate) struct Creator {
    pulls: Pulls,
    /// Images that were used since they were looked at last.
    pub(crate) kept: Kept,
    /// The engine has refused to mount a file that is there: it does not see the files that we see.
    no_files: AtomicBool,
}

impl Creator {
    pub(crate) async fn prepare(&self, engine: &Arc<Engine>, realm: &Realm, request: &Prepare) -> Result<Prepared> {
        let name = container::check(&request.spec)?;
        let realm = realm.id(engine).await?;
        let kind = engine.kind().await.map_err(|fault| fault.into_error(OPERATION))?;
        let deadline = Instant::now() + NAME;
        let have = || {
            let docker = &request.spec.docker;
            self.pulls.image(engine, name, docker, request.progress.as_ref())
        };
        let mut image = have().await?;
        self.kept.used(&engine.config, name, &image);
        while Instant::now() < deadline {
            container::check_user(&request.spec, &image)?;
            let (mount, file) = self.payload(engine, request)?;
            let body = container::describe((&engine.config, kind), request, name, &realm.0, &mount);
            let options = CreateContainerOptions {
                name: Some(request.name.clone()),
                platform: request.spec.docker.platform.clone().unwrap_or_default(),
            };
            let client = engine.client().await.map_err(|fault| fault.into_error(OPERATION))?;
            let call = client.create_container(Some(options), body);
            let mut fresh = true;
            let id = match engine.bounded(engine.config.start_timeout, call).await {
                Ok(made) => {
                    if let Some(file) = file {
                        file.keep();
                    }
                    made.id
                }
                Err(fault) if is_taken(&fault) => match Box::pin(taken(engine, request)).await? {
                    Some((id, true)) => return Ok(prepared(id, &image)),
                    Some((id, false)) => {
                        fresh = false;
                        id
                    }
                    None => {
                        sleep(LOOK_AGAIN).await;
                        continue;
                    }
                },
                // The image was removed between our look and the engine's.
                Err(Fault::Refused { status: 404, message }) if message.contains("No such image") => {
                    image = have().await?;
                    continue;
                }
                Err(Fault::Refused { status: 400, message })
                    // A path that the definition mounts may be missing, too.
                    if file.as_ref().is_some_and(|file| is_unseen(&file.path, &message)) =>
                {
                    self.no_files.store(true, Ordering::Relaxed);
                    continue;
                }
                Err(fault) => return Err(create_error(fault)),
            };
            // What was found under the name may be from before the engine refused to mount a file.
            let volume = !fresh || matches!(mount, PayloadMount::Volume);
            let finished = self.finish(engine, &id, request, &image, volume).await;
            if let Err(error) = finished {
                // What is not whole must not stay under the name; it has never run.
                lifecycle::remove(engine, &id, false).await?;
                return Err(error);
            }
            return Ok(prepared(id, &image));
        }
        let message = format!(
            "the name {} is taken again and again, or the image removed",
            request.name
        );
        Err(Error::new(ErrorKind::Unavailable, OPERATION, message))
    }

    fn payload(&self, engine: &Engine, request: &Prepare) -> Result<(PayloadMount, Option<PayloadFile>)> {
        let config = &engine.config;
        if request.spec.payload_file_env.is_none() {
            return Ok((PayloadMount::None, None));
        }
        match &config.payload_folder {
            Some(folder) if config.payload == PayloadWay::Auto && !self.no_files.load(Ordering::Relaxed) => {
                let file = PayloadFile::write(folder, config.installation, &request.spec.payload)?;
                Ok((PayloadMount::File(file.path.display().to_string()), Some(file)))
            }
            _ => Ok((PayloadMount::Volume, None)),
        }
    }

    /// Whether it has a payload volume and has not run: a running thing's payload is never touched again.
    async fn wants_filling(&self, engine: &Engine, id: &str) -> Result<bool> {
        let found = engine.ours(id).await.map_err(|fault| fault.into_error(OPERATION))?;
        let never_ran = |found: &ContainerInspectResponse| !found.state.as_ref().is_some_and(state::has_run);
        Ok(found.is_some_and(|found| has_payload_volume(&found) && never_ran(&found)))
    }

    /// What takes further calls after the create; doing it again changes nothing.
    async fn finish(
        &self,
        engine: &Engine,
        id: &str,
        request: &Prepare,
        image: &ImageInspect,
        volume: bool,
    ) -> Result<()> {
        let spec = &request.spec;
        for network in &spec.docker.networks {
            let join = NetworkConnectRequest {
                container: id.to_owned(),
                endpoint_config: Some(EndpointSettings::default()),
            };
            match engine.call(|client| client.connect_network(network, join)).await {
                Ok(()) => {}
                Err(Fault::Refused { message, .. }) if message.contains("already exists in network") => {}
                Err(fault @ Fault::Refused { .. }) => return Err(fault.of_kind(ErrorKind::StartRefused, OPERATION)),
                Err(fault) => return Err(fault.into_error(OPERATION)),
            }
        }
        if volume && self.wants_filling(engine, id).await? {
            let options = UploadToContainerOptions {
                path: payload::FOLDER.to_owned(),
                ..UploadToContainerOptions::default()
            };
            let archive = body_full(payload::archive(&spec.payload));
            engine
                .call(|client| client.upload_to_container(id, Some(options), archive))
                .await
                .map_err(create_error)?;
        }
        let user = container::user(spec, image).split(':').next().unwrap_or_default();
        if spec.security == Security::Restricted && user.parse::<u64>().is_err() {
            check_named_user(engine, id, user).await?;
        }
        Ok(())
    }
}

/// Whether the name is another container's; Podman has no status of its own for that.
fn is_taken(fault: &Fault) -> bool {
    match fault {
        Fault::Refused { status, message } => *status == 409 || message.contains("that name is already in use"),
        _ => false,
    }
}

/// Whether the engine's words say that it does not see this file.
fn is_unseen(file: &Path, message: &str) -> bool {
    message.contains("bind source path does not exist") && message.contains(&file.display().to_string())
}

fn prepared(id: String, image: &ImageInspect) -> Prepared {
    Prepared {
        handle: Handle(id),
        image_digest: image::digest(image),
    }
}

fn has_payload_volume(found: &ContainerInspectResponse) -> bool {
    found
        .mounts
        .iter()
        .flatten()
        .any(|mount| mount.typ.as_deref() == Some("volume") && mount.destination.as_deref() == Some(payload::FOLDER))
}

/// The name is taken: the id of what we made before under this mark, and whether it has run; none, once it is free
/// again.
async fn taken(engine: &Engine, request: &Prepare) -> Result<Option<(String, bool)>> {
    let found = engine
        .inspect(&request.name)
        .await
        .map_err(|fault| fault.into_error(OPERATION))?;
    let Some(found) = found else {
        return Ok(None);
    };
    if !engine.is_ours(&found) {
        let message = format!("the name {} is taken by a container that is not ours", request.name);
        return Err(Error::new(ErrorKind::Conflict, OPERATION, message));
    }
    let id = found.id.clone().unwrap_or_default();
    let state = found.state.clone().unwrap_or_default();
    let labels = found.config.as_ref().and_then(|config| config.labels.as_ref());
    let mark = labels.and_then(|labels| labels.get(label::MARK));
    if mark == request.labels.get(label::MARK) && (state::has_run(&state) || is_whole(engine, &found)) {
        return Ok(Some((id, state::has_run(&state))));
    }
    if state::has_run(&state) {
        let message = format!("the name {} is taken by a container that has run", request.name);
        return Err(Error::new(ErrorKind::StillRuns, OPERATION, message));
    }
    lifecycle::remove(engine, &id, false).await?;
    Ok(None)
}

/// Whether its payload file is still there: a prepare that was dropped in the middle has taken it away.
fn is_whole(engine: &Engine, found: &ContainerInspectResponse) -> bool {
    let Some(folder) = &engine.config.payload_folder else {
        return true;
    };
    let sources = found
        .mounts
        .iter()
        .flatten()
        .filter_map(|mount| mount.source.as_deref());
    sources
        .map(Path::new)
        .filter(|path| payload::is_ours(path, folder, engine.config.installation))
        .all(Path::exists)
}

fn create_error(fault: Fault) -> Error {
    let kind = match &fault {
        Fault::Refused { message, .. } if is_room(message) => ErrorKind::NoCapacity,
        Fault::Refused { message, .. } if lifecycle::is_passing(message) => ErrorKind::Unavailable,
        Fault::Refused { .. } => ErrorKind::StartRefused,
        _ => return fault.into_error(OPERATION),
    };
    fault.of_kind(kind, OPERATION)
}

/// `restricted` with a user's name: what number it stands for is in the container's own /etc/passwd.
async fn check_named_user(engine: &Engine, id: &str, user: &str) -> Result<()> {
    const MOST: usize = 1 << 20;
    let options = DownloadFromContainerOptions {
        path: "/etc/passwd".to_owned(),
    };
    let read = engine
        .call(|client| {
            client
                .download_from_container(id, Some(options))
                .try_fold(Vec::new(), |mut all, part| async move {
                    if all.len() < MOST {
                        all.extend_from_slice(&part);
                    }
                    Ok(all)
                })
        })
        .await;
    let text = match read {
        // The archive's header is one block; the file follows.
        Ok(archive) => String::from_utf8_lossy(archive.get(512..).unwrap_or_default()).into_owned(),
        Err(Fault::Refused { status: 404, .. }) => String::new(),
        Err(fault) => return Err(fault.into_error(OPERATION)),
    };
    let number = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(user))
            .then(|| fields.nth(1))
            .flatten()?
            .parse::<u64>()
            .ok()
    });
    match number {
        Some(0) => Err(refused(format!(
            "security = \"restricted\", and the user {user:?} is root in this image"
        ))),
        Some(_) => Ok(()),
        None => Err(refused(format!(
            "security = \"restricted\", and the image's /etc/passwd does not say who {user:?} is; use a number"
        ))),
    }
}
