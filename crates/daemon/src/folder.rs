//! The data folder, made before any part makes it: for us alone, but where root's jobs run as other users.

use std::{
    fs::{self, DirBuilder, Permissions},
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
};

use robata_settings::{ExecutorSettings, Settings};

/// A job that root runs as another user passes through the data folder to its own payload and home. What stands beside
/// them is still ours alone: each part makes its own folders and files so.
const PASSABLE: u32 = 0o711;

/// Makes the data folder where it is not there and a job may have to pass through it; one that is there stays as it is.
pub(crate) fn make(settings: &Settings) -> io::Result<()> {
    let folder = &settings.data.folder;
    let below = |executor: &ExecutorSettings| match executor {
        ExecutorSettings::Process(process) => process.folder.starts_with(folder),
        ExecutorSettings::Docker(_) => false,
    };
    if !nix::unistd::geteuid().is_root() || !settings.executors.values().any(below) {
        return Ok(());
    }
    make_all(folder)
}

fn make_all(folder: &Path) -> io::Result<()> {
    let missing: Vec<_> = folder
        .ancestors()
        .take_while(|above| !above.as_os_str().is_empty() && !above.exists())
        .collect();
    for above in missing.into_iter().rev() {
        match DirBuilder::new().mode(PASSABLE).create(above) {
            // Whatever the umask took away.
            Ok(()) => fs::set_permissions(above, Permissions::from_mode(PASSABLE))?,
            // Somebody else was first; it is theirs.
            Err(error) if error.kind() == ErrorKind::AlreadyExists && above.is_dir() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_lets_others_pass_and_what_was_there_stays() {
        let folder = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        fs::set_permissions(folder.path(), Permissions::from_mode(0o700)).unwrap();
        let data = folder.path().join("a/b");
        make_all(&data).unwrap();
        assert_eq!(
            [mode(&data), mode(&folder.path().join("a")), mode(folder.path())],
            [0o711, 0o711, 0o700]
        );
        fs::set_permissions(&data, Permissions::from_mode(0o700)).unwrap();
        make_all(&data).unwrap();
        assert_eq!(mode(&data), 0o700);
    }
}
