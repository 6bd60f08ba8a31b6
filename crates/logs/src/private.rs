//! Logs in a folder are their owner's alone, whatever the umask and whoever may enter the folder itself.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// Makes the log folder where it is missing, and closes what an earlier release left open in it.
pub(crate) fn root(folder: &Path) -> io::Result<PathBuf> {
    make_way(folder)?;
    let folder = folder.canonicalize()?;
    for entry in fs::read_dir(&folder)? {
        let entry = entry?;
        let is_shard = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.len() == 2 && name.bytes().all(|digit| digit.is_ascii_hexdigit()));
        if is_shard {
            fs::set_permissions(entry.path(), Permissions::from_mode(0o700))?;
        }
    }
    Ok(folder)
}

/// Makes a folder and those above it, as far as they are missing.
pub(crate) fn make_way(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let missing: Vec<_> = folder
        .ancestors()
        .take_while(|above| !above.as_os_str().is_empty() && !above.exists())
        .collect();
    for above in missing.into_iter().rev() {
        match DirBuilder::new().mode(0o700).create(above) {
            Ok(()) => fs::set_permissions(above, Permissions::from_mode(0o700))?,
            // Another writer was first.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Closes a file that was just written; one that is gone again needs nothing.
pub(crate) fn close(file: &Path) -> io::Result<()> {
    match fs::set_permissions(file, Permissions::from_mode(0o600)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
