//! A folder of secrets, as Kubernetes and Docker mount them: one file each, below its app's folder.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::ErrorKind as Io,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use robata_core::{
    AppName, Result, Secret, SecretName,
    secret::{MAX_SECRET_BYTES, Secrets},
};
use tokio::sync::Semaphore;

use super::{AT_ONCE, blocking, missing, read_file, unfit, unreadable};

/// `{folder}/{app}/{name}`. No name can lead out of it; links inside it may, and are whoever made the folder's own.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    places: Arc<Semaphore>,
}

impl Folder {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            places: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }
}

#[async_trait]
impl Secrets for Folder {
    async fn resolve(&self, app: &AppName, names: &BTreeSet<SecretName>) -> Result<BTreeMap<SecretName, Secret>> {
        let (folder, app, names) = (self.path.clone(), app.clone(), names.clone());
        let read = move || {
            names
                .into_iter()
                .map(|name| {
                    let value = read(&folder, &app, &name)?;
                    Ok((name, value))
                })
                .collect()
        };
        blocking(&self.places, &self.path, read).await
    }
}

fn read(folder: &Path, app: &AppName, name: &SecretName) -> Result<Secret> {
    let path = folder.join(app.as_str()).join(name.as_str());
    // One for the newline.
    match read_file(&path, MAX_SECRET_BYTES + 1) {
        Ok(mut bytes) => {
            let value = Secret::from_bytes(std::mem::take(&mut *bytes));
            value.map_err(|why| unfit(app, name, path.display(), &why))
        }
        Err(why) if matches!(why.kind(), Io::NotFound | Io::NotADirectory | Io::IsADirectory) => {
            // Without the folder itself it is not known what is in it: it may not be mounted yet.
            match folder.metadata() {
                Ok(_) => Err(missing(app, name, path.display())),
                Err(why) => Err(unreadable(folder, &why)),
            }
        }
        Err(why) => Err(unreadable(&path, &why)),
    }
}
