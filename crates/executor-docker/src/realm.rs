//! The engine's identity, kept inside it (PROTOCOL R1): a random id in the label of a volume of ours, with the engine's
//! own id and name.

use std::sync::{Mutex, PoisonError};

use bollard::models::VolumeCreateRequest;
use robata_core::{
    Result,
    executor::{RealmId, label},
};
use uuid::Uuid;

use crate::engine::{Engine, Kind};

const OPERATION: &str = "docker.realm";
/// One for all installations on the engine: the realm is the engine, and it belongs to none of them.
pub(crate) const VOLUME: &str = "robata-realm-1";

/// The identity as it was last seen; looked up again after every loss of the connection.
#[derive(Debug, Default)]
pub(crate) struct Realm(Mutex<Option<RealmId>>);

impl Realm {
    pub(crate) fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(crate) async fn id(&self, engine: &Engine) -> Result<RealmId> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(known) = known {
            return Ok(known);
        }
        let id = look_up(engine).await?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(id.clone());
        Ok(id)
    }
}

async fn look_up(engine: &Engine) -> Result<RealmId> {
    let info = engine
        .call(|client| client.info())
        .await
        .map_err(|fault| fault.into_error(OPERATION))?;
    // The random part alone is copied with a cloned machine's disk, and so are the engine's own ids; the name is not
    // always.
    // Podman's own id is another one at each asking.
    let kind = engine.kind().await.map_err(|fault| fault.into_error(OPERATION))?;
    let id = info.id.filter(|_| kind == Kind::Docker).unwrap_or_default();
    let machine = format!("{id}/{}", info.name.unwrap_or_default());
    let random = random(engine).await?;
    Ok(RealmId(format!("docker/{random}/{machine}")))
}

async fn random(engine: &Engine) -> Result<String> {
    let read = |volume: bollard::models::Volume| volume.labels.get(label::REALM).cloned();
    match engine.call(|client| client.inspect_volume(VOLUME)).await {
        Ok(volume) => {
            if let Some(random) = read(volume) {
                return Ok(random);
            }
        }
        Err(fault) if fault.status() == Some(404) => {}
        Err(fault) => return Err(fault.into_error(OPERATION)),
    }
    // Somebody has pruned it: Robata's containers know it still.
    let known = from_containers(engine).await?;
    let random = known.unwrap_or_else(|| Uuid::new_v4().simple().to_string());
    let request = VolumeCreateRequest {
        name: Some(VOLUME.to_owned()),
        labels: Some([(label::REALM.to_owned(), random.clone())].into()),
        ..VolumeCreateRequest::default()
    };
    // Of two that make it at once one is the first, and both are answered with the first one's label.
    let made = engine
        .call(|client| client.create_volume(request))
        .await
        .map_err(|fault| fault.into_error(OPERATION))?;
    Ok(read(made).unwrap_or(random))
}

async fn from_containers(engine: &Engine) -> Result<Option<String>> {
    let filters = [("label".to_owned(), vec![label::REALM.to_owned()])].into();
    let found = engine
        .containers(Some(filters))
        .await
        .map_err(|fault| fault.into_error(OPERATION))?;
    let mut labels = found.into_iter().filter_map(|one| one.labels?.remove(label::REALM));
    Ok(labels.find_map(|realm| Some(realm.strip_prefix("docker/")?.split_once('/')?.0.to_owned())))
}
