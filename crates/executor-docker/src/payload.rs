//! How the payload gets into a container: as a mounted file of ours, or in an anonymous volume filled before the start.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use robata_core::{Error, ErrorKind, InstallationId, Result};
use uuid::Uuid;

/// The volume's folder, and the mounted file's, inside a container.
pub(crate) const FOLDER: &str = "/run/robata";
/// The payload's path inside a container.
pub(crate) const FILE: &str = "/run/robata/payload";
const FILE_NAME: &str = "payload";
const OPERATION: &str = "docker.payload";
/// Longer than a create can take: a younger file may belong to a container that is being made.
const SWEEP_AFTER: Duration = Duration::from_secs(900);

/// A payload file that is removed again unless a container has taken it.
#[derive(Debug)]
pub(crate) struct PayloadFile {
    pub(crate) path: PathBuf,
    keep: bool,
}

impl PayloadFile {
    /// Writes the payload under a name that nobody can guess; so an engine that accepts the path sees our file.
    pub(crate) fn write(folder: &Path, installation: InstallationId, payload: &[u8]) -> Result<Self> {
        let fault = |error: std::io::Error| {
            let kind = match error.kind() {
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorKind::NoCapacity,
                _ => ErrorKind::Unavailable,
            };
            Error::new(
                kind,
                OPERATION,
                format!("cannot write the payload into {}", folder.display()),
            )
            .with_source(error)
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(fault)?;
        // The engine knows nothing of our working folder.
        let folder_path = fs::canonicalize(folder).map_err(fault)?;
        let path = folder_path.join(format!("{}{}", prefix(installation), Uuid::new_v4().simple()));
        let file = Self { path, keep: false };
        // Others may read the file, for a container's user may be anyone; the folder keeps them out on this machine.
        let mut open = fs::OpenOptions::new();
        let mut opened = open
            .write(true)
            .create_new(true)
            .mode(0o444)
            .open(&file.path)
            .map_err(fault)?;
        opened.write_all(payload).map_err(fault)?;
        // A umask may have taken away what the container's user needs.
        let mode = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o444);
        opened.set_permissions(mode).map_err(fault)?;
        Ok(file)
    }

    /// The container has it: it goes with the container.
    pub(crate) fn keep(mut self) {
        self.keep = true;
    }
}

impl Drop for PayloadFile {
    fn drop(&mut self) {
        if !self.keep {
            remove(&self.path);
        }
    }
}

fn prefix(installation: InstallationId) -> String {
    format!("payload-{}-", installation.uuid().simple())
}

/// Whether a path on the engine's machine is a payload file of ours, in our folder.
pub(crate) fn is_ours(path: &Path, folder: &Path, installation: InstallationId) -> bool {
    let named = path
        .file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.starts_with(&prefix(installation)));
    named
        && path
            .parent()
            .is_some_and(|parent| fs::canonicalize(folder).is_ok_and(|folder| folder == parent))
}

pub(crate) fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "cannot remove a payload file; it is tried again");
        }
        _ => {}
    }
}

/// Removes payload files that no container uses: what a crash between file and container has left.
pub(crate) fn sweep(folder: &Path, installation: InstallationId, used: impl Fn(&Path) -> bool) {
    let Ok(folder) = fs::canonicalize(folder) else {
        return;
    };
    let prefix = prefix(installation);
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix));
        let old = entry
            .metadata()
            .and_then(|metadata| metadata.modified())
            .is_ok_and(|time| time.elapsed().is_ok_and(|age| age > SWEEP_AFTER));
        if ours && old && !used(&entry.path()) {
            remove(&entry.path());
        }
    }
}

/// A tar archive with the payload as its one file, read-only and readable by all.
///
/// The header is POSIX ustar: <https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html#tag_20_92_13_06>.
pub(crate) fn archive(payload: &[u8]) -> Bytes {
    const BLOCK: usize = 512;
    let mut header = [0_u8; BLOCK];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, FILE_NAME);
    put(100, "0000444\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{:011o}\0", payload.len()));
    put(136, "00000000000\0");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let padding = payload.len().next_multiple_of(BLOCK) - payload.len();
    let mut archive = Vec::with_capacity(BLOCK * 3 + payload.len() + padding);
    archive.extend_from_slice(&header);
    archive.extend_from_slice(payload);
    archive.resize(archive.len() + padding + 2 * BLOCK, 0);
    archive.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_no_container_took_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let installation = InstallationId::new();
        let file = PayloadFile::write(folder.path(), installation, b"x").unwrap();
        let path = file.path.clone();
        assert!(is_ours(&path, folder.path(), installation));
        assert!(!is_ours(&path, folder.path(), InstallationId::new()));
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn a_sweep_leaves_young_files_alone() {
        let folder = tempfile::tempdir().unwrap();
        let installation = InstallationId::new();
        let file = PayloadFile::write(folder.path(), installation, b"x").unwrap();
        sweep(folder.path(), installation, |_| false);
        assert!(file.path.exists());
        let old = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        fs::File::open(&file.path).unwrap().set_modified(old).unwrap();
        sweep(folder.path(), installation, |_| true);
        assert!(file.path.exists());
        sweep(folder.path(), installation, |_| false);
        assert!(!file.path.exists());
    }
}
