//! Looks at what settings name without using or changing it: for `robata doctor`.

use std::{fs::File, path::Path};

use nix::fcntl::{Flock, FlockArg};
use robata_settings::{Settings, StoreSettings};

/// Who holds the store, where a process holds it by a lock: `PID SINCE HOST PROGRAM`.
#[must_use]
pub fn store_holder(settings: &Settings) -> Option<String> {
    match &settings.store {
        StoreSettings::Sqlite(sqlite) => holder(&sqlite.folder.join("lock")),
    }
}

/// What stands in a lock file that somebody holds; `None` where nobody does.
fn holder(path: &Path) -> Option<String> {
    let file = File::open(path).ok()?;
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        // Given back at once.
        Ok(_free) => None,
        Err(_) => Some(std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_lock_tells_its_holder_and_a_free_one_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        assert_eq!(holder(&path), None);
        std::fs::write(&path, "1 now here robata\n").unwrap();
        assert_eq!(holder(&path), None);
        let lock = Flock::lock(File::open(&path).unwrap(), FlockArg::LockExclusive).unwrap();
        assert_eq!(holder(&path).as_deref(), Some("1 now here robata"));
        drop(lock);
        assert_eq!(holder(&path), None);
    }
}
