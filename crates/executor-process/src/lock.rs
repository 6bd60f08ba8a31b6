//! A supervisor's life is a lock that it holds, never a pid: the kernel frees it when the last holder is gone.
//!
//! Open-file-description locks: they are inherited with the open file, which the worker takes before the supervisor
//! exists and hands over to it, so that there is no moment in which a living thing looks dead; and they can be looked
//! at without being taken, so that two who look do not see each other.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use nix::{
    fcntl::{FcntlArg, fcntl},
    libc,
};

use crate::error::{Fault, Result};

fn whole_file(kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: libc::c_short::try_from(kind).unwrap_or_default(),
        l_whence: libc::c_short::try_from(libc::SEEK_SET).unwrap_or_default(),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

/// Makes the file, with this content, and takes its lock; it is held until the last copy of the open file is closed.
pub(crate) fn take_new(path: &Path, content: &[u8]) -> Result<File> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(Fault::io("make the lock", path))?;
    fcntl(&file, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_WRLCK))).map_err(Fault::io("lock", path))?;
    file.write_all(content).map_err(Fault::io("write", path))?;
    Ok(file)
}

/// Whether somebody holds it; a lock that is not there is held by nobody.
pub(crate) fn is_held(path: &Path) -> Result<bool> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(Fault::io("open the lock", path)(error)),
    };
    let mut asked = whole_file(libc::F_WRLCK);
    fcntl(&file, FcntlArg::F_OFD_GETLK(&mut asked)).map_err(Fault::io("look at the lock", path))?;
    Ok(libc::c_int::from(asked.l_type) != libc::F_UNLCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_until_its_last_copy_is_closed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        assert!(!is_held(&path).unwrap());
        let file = take_new(&path, b"content").unwrap();
        assert!(is_held(&path).unwrap() && is_held(&path).unwrap());
        let copy = file.try_clone().unwrap();
        drop(file);
        assert!(is_held(&path).unwrap());
        drop(copy);
        assert!(!is_held(&path).unwrap());
        take_new(&path, b"content").unwrap_err();
    }
}
