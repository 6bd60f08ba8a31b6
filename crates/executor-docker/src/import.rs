//! Makes an image from a root file system, without a registry and without a build.

use bytes::Bytes;
use futures::TryStreamExt;
use robata_core::{Error, ErrorKind, Result};

use crate::{
    DockerConfig,
    engine::{Engine, check_host},
};

/// Imports a tar archive of a root file system as `image` (`NAME:TAG`); an image of this name is replaced.
///
/// # Errors
/// `Invalid` for a name without tag or an archive that the engine refuses; `Unavailable` where it is not reached.
pub async fn import_image(config: DockerConfig, image: &str, tar: impl Into<Bytes>) -> Result<()> {
    const OPERATION: &str = "docker.import";
    check_host(config.shown_host())?;
    let (name, tag) = image.rsplit_once(':').ok_or_else(|| {
        Error::new(
            ErrorKind::Invalid,
            OPERATION,
            format!("{image:?} is no image name with a tag"),
        )
    })?;
    let engine = Engine::new(config, None);
    let options = bollard::query_parameters::CreateImageOptionsBuilder::default()
        .from_src("-")
        .repo(name)
        .tag(tag)
        .build();
    let body = bollard::body_full(tar.into());
    let client = engine.client().await.map_err(|fault| fault.into_error(OPERATION))?;
    let imported = client
        .create_image(Some(options), Some(body), None)
        .try_for_each(|_| std::future::ready(Ok(())));
    let limit = engine.config.start_timeout;
    engine
        .bounded(limit, imported)
        .await
        .map_err(|fault| fault.into_error(OPERATION))
}
