//! Which images only our containers used, and the removal of those that none has used for long.
//!
//! The proof that an image is ours is a record of its pull: an empty volume of the engine whose labels say which image it
//! was and when it was last used. It is as durable as the image itself, every worker of the engine reads it, and where it
//! is gone (somebody pruned volumes) the image stays. Labels cannot be changed, so a newer record is made before the older
//! one goes, and of several the newest counts.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bollard::{
    models::{ImageInspect, Volume, VolumeCreateRequest},
    query_parameters::{ListImagesOptions, ListVolumesOptions, RemoveImageOptions, RemoveVolumeOptions},
};
use robata_core::{Error, ErrorKind, Result, Timestamp, executor::label};
use uuid::Uuid;

use crate::{DockerConfig, engine::Engine, error::Fault, image, state};

const OPERATION: &str = "docker.images";
/// The records' label with the image's reference, as it was pulled.
const IMAGE: &str = "robata.image";
/// With the image's id in the engine.
const ID: &str = "robata.image.id";
/// With the time of the last use, in milliseconds of the engine's clock.
const USED: &str = "robata.image.used";

/// Whether a volume is a record of ours and holds nothing.
pub(crate) fn is_record(volume: &Volume) -> bool {
    volume.labels.contains_key(IMAGE)
}

/// What was there before a pull.
pub(crate) struct Before {
    /// What the reference stood for.
    id: Option<String>,
    /// All images of the engine.
    ids: HashSet<String>,
}

/// What is there before a pull; `None` where images are never removed.
pub(crate) async fn before(engine: &Engine, image: &str) -> Result<Option<Before>> {
    if engine.config.keep_images.is_none() {
        return Ok(None);
    }
    let found = image::inspect(engine, image).await?;
    let options = ListImagesOptions {
        all: true,
        ..ListImagesOptions::default()
    };
    let listed = engine
        .call(|client| client.list_images(Some(options)))
        .await
        .map_err(told)?;
    Ok(Some(Before {
        id: found.and_then(|found| found.id),
        ids: listed.into_iter().map(|one| one.id).collect(),
    }))
}

impl Before {
    /// Remembers what the pull has brought as ours: an image that was not there before, under a name that stood for
    /// nothing, or for an image of ours.
    pub(crate) async fn remember(self, engine: &Engine, image: &str) -> Result<()> {
        let Some(id) = image::inspect(engine, image).await?.and_then(|found| found.id) else {
            return Ok(());
        };
        if self.ids.contains(&id) {
            return Ok(());
        }
        if let Some(old) = &self.id {
            let ours = records(engine).await?;
            if !ours.contains_key(&(image.to_owned(), old.clone())) {
                return Ok(());
            }
        }
        let now = now(engine).await?;
        record(engine, image, &id, now).await
    }
}

/// Images that were used since the last look; noted in memory, so that a start pays nothing for it. What a crash forgets is
/// at most a use since the last look, whose container is still there, or its end was long enough ago.
#[derive(Debug, Default)]
pub(crate) struct Kept(Mutex<HashSet<Image>>);

/// An image of ours by the reference under which it was pulled, and its id.
type Image = (String, String);

/// The records of one image: the last use, and the volumes' names.
#[derive(Debug, Default)]
struct Records {
    used: Timestamp,
    volumes: Vec<String>,
}

impl Kept {
    pub(crate) fn used(&self, config: &DockerConfig, reference: &str, found: &ImageInspect) {
        if let (Some(_), Some(id)) = (config.keep_images, &found.id) {
            let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            used.insert((reference.to_owned(), id.clone()));
        }
    }

    /// Removes what is ours and has not been used for long, and notes what is used.
    pub(crate) async fn sweep(&self, engine: &Engine) -> Result<()> {
        let noted = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let Some(keep) = engine.config.keep_images else {
            return Ok(());
        };
        let records = records(engine).await?;
        if records.is_empty() {
            return Ok(());
        }
        let (now, in_use) = (now(engine).await?, in_use(engine).await?);
        for (image, found) in records {
            let age = now.since(found.used);
            let used = noted.contains(&image) || in_use.contains(&image.1);
            let (reference, id) = image;
            if used {
                // To write it down each time would be a write for each job.
                if age > keep / 10 {
                    record(engine, &reference, &id, now).await?;
                    forget(engine, &found.volumes).await?;
                }
            } else if age > keep && remove(engine, &reference, &id, age).await? {
                forget(engine, &found.volumes).await?;
            }
        }
        Ok(())
    }
}

fn told(fault: Fault) -> Error {
    fault.into_error(OPERATION)
}

async fn now(engine: &Engine) -> Result<Timestamp> {
    let info = engine.call(|client| client.info()).await.map_err(told)?;
    state::time(info.system_time.as_ref())
        .ok_or_else(|| Error::new(ErrorKind::Unavailable, OPERATION, "the engine does not tell its time"))
}

async fn records(engine: &Engine) -> Result<HashMap<Image, Records>> {
    let mut filters = engine.filter();
    filters.entry("label".to_owned()).or_default().push(IMAGE.to_owned());
    let options = ListVolumesOptions { filters: Some(filters) };
    let listed = engine
        .call(|client| client.list_volumes(Some(options)))
        .await
        .map_err(told)?;
    let mut records: HashMap<Image, Records> = HashMap::new();
    for mut volume in listed.volumes.unwrap_or_default() {
        let mut label = |name: &str| volume.labels.remove(name);
        let used = label(USED)
            .and_then(|millis| millis.parse().ok())
            .map(Timestamp::from_millis);
        let (Some(reference), Some(id), Some(used)) = (label(IMAGE), label(ID), used) else {
            continue;
        };
        let record = records.entry((reference, id)).or_default();
        record.used = record.used.max(used);
        record.volumes.push(volume.name);
    }
    Ok(records)
}

async fn record(engine: &Engine, reference: &str, id: &str, used: Timestamp) -> Result<()> {
    let labels = [
        (label::INSTALLATION, engine.config.installation.to_string()),
        (IMAGE, reference.to_owned()),
        (ID, id.to_owned()),
        (USED, used.as_millis().to_string()),
    ];
    let request = VolumeCreateRequest {
        name: Some(format!("robata-image-{}", Uuid::new_v4().simple())),
        labels: Some(labels.map(|(name, value)| (name.to_owned(), value)).into()),
        ..VolumeCreateRequest::default()
    };
    let made = engine.call(|client| client.create_volume(request)).await;
    made.map(drop).map_err(told)
}

async fn forget(engine: &Engine, volumes: &[String]) -> Result<()> {
    for name in volumes {
        match engine
            .call(|client| client.remove_volume(name, None::<RemoveVolumeOptions>))
            .await
        {
            // Another worker was faster.
            Ok(()) | Err(Fault::Refused { status: 404, .. }) => {}
            Err(fault) => return Err(told(fault)),
        }
    }
    Ok(())
}

/// The ids of all images that any container has, whoever made it, running or not.
async fn in_use(engine: &Engine) -> Result<HashSet<String>> {
    let listed = engine.containers(None).await.map_err(told)?;
    Ok(listed.into_iter().filter_map(|one| one.image_id).collect())
}

/// Removes an image that is still what we pulled, never by force; whether its records are to go, too.
async fn remove(engine: &Engine, reference: &str, id: &str, unused: Duration) -> Result<bool> {
    let is_it = |found: &ImageInspect| found.id.as_deref() == Some(id);
    // By its name: where it has others, it is only no longer called this.
    let name = if image::inspect(engine, reference).await?.as_ref().is_some_and(is_it) {
        reference
    } else {
        // The name stands for another one by now. What was called so is nobody's, unless it has been given another name.
        match image::inspect(engine, id).await? {
            Some(found) if found.repo_tags.as_ref().is_none_or(Vec::is_empty) => id,
            _ => return Ok(true),
        }
    };
    let options = RemoveImageOptions {
        force: false,
        noprune: true,
        ..RemoveImageOptions::default()
    };
    match engine
        .call(|client| client.remove_image(name, Some(options), None))
        .await
    {
        Ok(_) => {
            tracing::info!(
                image = reference,
                id,
                unused_secs = unused.as_secs(),
                "removed an image"
            );
            Ok(true)
        }
        Err(Fault::Refused { status: 404, .. }) => Ok(true),
        // A container took it at this moment, or an image was made from it.
        Err(Fault::Refused { status: 409, message }) => {
            tracing::debug!(image = reference, message, "the engine keeps an image");
            Ok(false)
        }
        Err(fault) => Err(told(fault)),
    }
}
