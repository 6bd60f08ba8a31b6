//! The state folder: one realm, and in it a folder for each installation.

use std::{
    fs,
    fs::{DirBuilder, File, OpenOptions},
    io,
    io::Write,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use nix::{sys::statfs::statfs, unistd::geteuid};
use robata_core::{
    Format, InstallationId,
    executor::{Handle, RealmId},
    file_system,
};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Fault, Result},
    lock,
    thing::{Thing, read_json},
};

/// What nobody has touched for so long was left by a crash.
const STALE: Duration = Duration::from_secs(600);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Realm {
    format: Format,
    id: String,
}

/// An installation's part of the state folder.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) realm: RealmId,
    pub(crate) boot: String,
    things: PathBuf,
    names: PathBuf,
    pub(crate) locks: PathBuf,
    aside: PathBuf,
    /// Taken where names change hands; a mutex besides, because threads share the open file.
    naming: Mutex<File>,
}

impl Folder {
    pub(crate) fn open(state: &Path, installation: InstallationId) -> Result<Self> {
        make(state)?;
        let state = &fs::canonicalize(state).map_err(Fault::io("find", state))?;
        let metadata = fs::metadata(state).map_err(Fault::io("look at", state))?;
        if metadata.uid() != geteuid().as_raw() {
            return Err(Fault::Settings(format!(
                "the state folder {} belongs to user {}, not to the worker's user {}",
                state.display(),
                metadata.uid(),
                geteuid()
            )));
        }
        // Whoever may write here puts a folder of his own in the place of one of ours.
        if metadata.permissions().mode() & 0o022 != 0 {
            return Err(Fault::Settings(format!(
                "the state folder {} can be written by others (mode {:o}); take that away (chmod go-w) or choose another",
                state.display(),
                metadata.permissions().mode() & 0o7777
            )));
        }
        refuse_network(state, file_system_type(state)?)?;
        let lock = state.join("lock");
        let guard = open_lock(&lock)?;
        guard.lock().map_err(Fault::io("lock", &lock))?;
        let realm = realm(state)?;
        drop(guard);
        let boot = Path::new("/proc/sys/kernel/random/boot_id");
        let boot = fs::read_to_string(boot)
            .map_err(Fault::io("read", boot))?
            .trim()
            .to_owned();
        let own = state.join(installation.to_string());
        make(&own)?;
        let naming = own.join("naming");
        let folder = Self {
            realm,
            boot,
            things: own.join("things"),
            names: own.join("names"),
            locks: own.join("locks"),
            aside: own.join("aside"),
            naming: Mutex::new(open_lock(&naming)?),
        };
        for path in [&folder.things, &folder.names, &folder.locks, &folder.aside] {
            make(path)?;
        }
        folder.sweep()?;
        Ok(folder)
    }

    /// The paths of a thing; `None` for what cannot be a handle of ours, so that no path is ever made of it.
    pub(crate) fn thing(&self, handle: &Handle) -> Option<Thing> {
        let ours = handle.0.len() == 32 && handle.0.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        ours.then(|| Thing {
            handle: handle.clone(),
            folder: self.things.join(&handle.0),
            lock: self.locks.join(&handle.0),
        })
    }

    /// A handle that was never used, and where its thing is built before it shows.
    pub(crate) fn new_thing(&self) -> (Thing, PathBuf) {
        let handle = uuid::Uuid::new_v4().simple().to_string();
        let aside = self.aside.join(&handle);
        let thing = Thing {
            folder: self.things.join(&handle),
            lock: self.locks.join(&handle),
            handle: Handle(handle),
        };
        (thing, aside)
    }

    /// Which thing has this name.
    pub(crate) fn named(&self, name: &str) -> Result<Option<Thing>> {
        if !is_name(name) {
            return Ok(None);
        }
        let path = self.names.join(name);
        match fs::read_link(&path) {
            Ok(target) => Ok(self
                .thing(&Handle(target.to_string_lossy().into_owned()))
                .filter(|thing| thing.folder.exists())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Fault::io("read", &path)(error)),
        }
    }

    /// Lets a thing show under its name; or answers which other thing has it.
    pub(crate) fn show(&self, thing: &Thing, aside: &Path, name: &str) -> Result<Option<Thing>> {
        let naming = self.naming.lock().unwrap_or_else(PoisonError::into_inner);
        let _guard = Naming::take(&naming)?;
        if let Some(other) = self.named(name)? {
            return Ok(Some(other));
        }
        let path = self.names.join(name);
        remove_file(&path)?;
        fs::rename(aside, &thing.folder).map_err(Fault::io("show", &thing.folder))?;
        symlink(&thing.handle.0, &path).map_err(Fault::io("name", &path))?;
        Ok(None)
    }

    /// Makes a thing absent in one step, then takes it apart. Its processes are over, or it never runs.
    pub(crate) fn remove(&self, thing: &Thing, name: Option<&str>) -> Result<()> {
        let aside = self.aside.join(&thing.handle.0);
        {
            let naming = self.naming.lock().unwrap_or_else(PoisonError::into_inner);
            let _guard = Naming::take(&naming)?;
            if let Some(name) = name.filter(|name| is_name(name)) {
                let path = self.names.join(name);
                if fs::read_link(&path).is_ok_and(|target| target.as_os_str() == thing.handle.0.as_str()) {
                    remove_file(&path)?;
                }
            }
            match fs::rename(&thing.folder, &aside) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Fault::io("put aside", &thing.folder)(error)),
            }
        }
        remove_tree(&aside)?;
        remove_file(&thing.lock)
    }

    /// All things that show.
    pub(crate) fn all(&self) -> Result<Vec<Thing>> {
        Ok(list(&self.things)?
            .into_iter()
            .filter_map(|handle| self.thing(&Handle(handle)))
            .collect())
    }

    /// Takes away what a crash left half made or half removed.
    fn sweep(&self) -> Result<()> {
        for handle in list(&self.aside)? {
            let lock = self.locks.join(&handle);
            if !lock::is_held(&lock)? {
                remove_tree(&self.aside.join(&handle))?;
                remove_file(&lock)?;
            }
        }
        for handle in list(&self.locks)? {
            let lock = self.locks.join(&handle);
            // Another worker may be about to take a lock that it has just made.
            let old = fs::metadata(&lock)
                .and_then(|metadata| metadata.modified())
                .is_ok_and(|at| at.elapsed().is_ok_and(|age| age > STALE));
            if old && !self.things.join(&handle).exists() && !lock::is_held(&lock)? {
                remove_file(&lock)?;
            }
        }
        Ok(())
    }
}

/// The lock in which a name changes hands, between processes.
struct Naming<'a>(&'a File);

impl<'a> Naming<'a> {
    fn take(file: &'a File) -> Result<Self> {
        file.lock().map_err(Fault::io("lock", Path::new("naming")))?;
        Ok(Self(file))
    }
}

impl Drop for Naming<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            tracing::error!(%error, "a lock cannot be given back");
        }
    }
}

pub(crate) fn is_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

fn realm(state: &Path) -> Result<RealmId> {
    let path = state.join("realm.json");
    if let Some(realm) = read_json::<Realm>(&path)? {
        return Ok(RealmId(realm.id));
    }
    let realm = Realm {
        // Written once, and read by every release that comes and goes.
        format: Format::PREVIOUS,
        id: uuid::Uuid::new_v4().simple().to_string(),
    };
    let new = state.join("realm.new");
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(&serde_json::to_vec(&realm)?)?;
        // Unlike all else here it must outlast a crash of the machine: what it names does.
        file.sync_all()?;
        fs::rename(&new, &path)?;
        File::open(state)?.sync_all()
    };
    write().map_err(Fault::io("make the realm's identity in", state))?;
    Ok(RealmId(realm.id))
}

/// The number that statfs(2) has for the file system.
fn file_system_type(state: &Path) -> Result<i64> {
    let found = statfs(state).map_err(Fault::io("look at the file system of", state))?;
    // The type of the number differs between C libraries.
    Ok(found.filesystem_type().0 as i64)
}

fn refuse_network(state: &Path, f_type: i64) -> Result<()> {
    match file_system::network(f_type) {
        None => Ok(()),
        Some(name) => Err(Fault::Settings(format!(
            "the state folder {} is on a network file system ({name}), whose locks do not tell what lives; choose a folder on a local disk",
            state.display()
        ))),
    }
}

/// Makes a folder that only we enter; as root others may pass through it, or a job with another `user` could not reach
/// its own folder and payload below (names are random, and nobody else may list them). One that is there stays as it is.
fn make(path: &Path) -> Result<()> {
    let mode = if geteuid().is_root() { 0o711 } else { 0o700 };
    if let Some(parent) = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty() && !parent.exists())
    {
        make(parent)?;
    }
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => return Ok(()),
        Err(error) => return Err(Fault::io("make the folder", path)(error)),
    }
    // What the umask took away: the folder is ours, made just now.
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(Fault::io("open to its jobs", path))
}

fn open_lock(path: &Path) -> Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(Fault::io("open the lock", path))
}

fn list(path: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(path).map_err(Fault::io("list", path))?;
    entries
        .map(|entry| {
            Ok(entry
                .map_err(Fault::io("list", path))?
                .file_name()
                .to_string_lossy()
                .into_owned())
        })
        .collect()
}

pub(crate) fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Fault::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Removes a folder with all that a job may have left in it.
fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // A job may take away its own folders' rights; they are still ours.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_up(path);
            fs::remove_dir_all(path).map_err(Fault::io("remove", path))
        }
        result => result.map_err(Fault::io("remove", path)),
    }
}

fn open_up(path: &Path) {
    // What cannot be opened makes the removal fail, which is told.
    let _told_by_the_removal = fs::set_permissions(path, fs::Permissions::from_mode(0o700));
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_realm_stays_and_is_shared_by_installations() {
        let state = tempfile::tempdir().unwrap();
        let first = Folder::open(state.path(), InstallationId::new()).unwrap();
        let second = Folder::open(state.path(), InstallationId::new()).unwrap();
        assert_eq!(first.realm, second.realm);
        let other = tempfile::tempdir().unwrap();
        assert_ne!(
            first.realm,
            Folder::open(other.path(), InstallationId::new()).unwrap().realm
        );
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn nobody_else_can_list_the_folders_that_are_made() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("a/b");
        let installation = InstallationId::new();
        Folder::open(&state, installation).unwrap();
        let own = state.join(installation.to_string());
        for path in [
            &state,
            state.parent().unwrap(),
            &own,
            &own.join("things"),
            &own.join("locks"),
        ] {
            assert_eq!(mode(path) & 0o066, 0, "{}", path.display());
        }
    }

    #[test]
    fn a_folder_that_was_there_keeps_its_mode() {
        let state = tempfile::tempdir().unwrap();
        for there in [0o755, 0o700, 0o750] {
            fs::set_permissions(state.path(), fs::Permissions::from_mode(there)).unwrap();
            Folder::open(state.path(), InstallationId::new()).unwrap();
            assert_eq!(mode(state.path()), there);
        }
    }

    #[test]
    fn a_folder_that_others_can_write_or_own_is_refused_as_it_is() {
        let state = tempfile::tempdir().unwrap();
        for there in [0o775, 0o757, 0o1777] {
            fs::set_permissions(state.path(), fs::Permissions::from_mode(there)).unwrap();
            let fault = Folder::open(state.path(), InstallationId::new()).unwrap_err();
            assert!(fault.to_string().contains("can be written by others"), "{fault}");
            assert_eq!(
                (mode(state.path()), fs::read_dir(state.path()).unwrap().count()),
                (there, 0)
            );
        }
        if geteuid().is_root() {
            fs::set_permissions(state.path(), fs::Permissions::from_mode(0o755)).unwrap();
            std::os::unix::fs::chown(state.path(), Some(54321), None).unwrap();
            let fault = Folder::open(state.path(), InstallationId::new()).unwrap_err();
            assert!(fault.to_string().contains("belongs to user 54321"), "{fault}");
            assert_eq!(
                (mode(state.path()), fs::read_dir(state.path()).unwrap().count()),
                (0o755, 0)
            );
        }
    }

    #[test]
    fn a_network_file_system_is_refused() {
        let state = tempfile::tempdir().unwrap();
        refuse_network(state.path(), file_system_type(state.path()).unwrap()).unwrap();
        for (number, name) in [(0x6969, "NFS"), (0x6573_5546, "FUSE"), (0xff53_4d42, "CIFS")] {
            let fault = refuse_network(state.path(), number).unwrap_err();
            let words = fault.to_string();
            assert!(matches!(fault, Fault::Settings(_)) && words.contains(name), "{words}");
        }
        // What is asked of the kernel is the file system's number, not another field of statfs(2).
        assert_eq!(file_system_type(Path::new("/proc")).unwrap(), 0x9fa0);
    }

    #[test]
    fn no_path_is_made_of_what_is_no_handle_or_name() {
        let state = tempfile::tempdir().unwrap();
        let folder = Folder::open(state.path(), InstallationId::new()).unwrap();
        for wrong in [
            "",
            "..",
            "../../etc",
            "0123456789abcdef0123456789abcdeF",
            "0123456789abcdef0123456789abcde/",
        ] {
            assert!(folder.thing(&Handle(wrong.to_owned())).is_none(), "{wrong}");
            assert!(folder.named(wrong).unwrap().is_none(), "{wrong}");
        }
    }

    #[test]
    fn what_a_crash_left_half_made_is_swept() {
        let state = tempfile::tempdir().unwrap();
        let installation = InstallationId::new();
        let folder = Folder::open(state.path(), installation).unwrap();
        let (dead, dead_aside) = folder.new_thing();
        let (live, live_aside) = folder.new_thing();
        drop(lock::take_new(&dead.lock, b"").unwrap());
        let _held = lock::take_new(&live.lock, b"").unwrap();
        for aside in [&dead_aside, &live_aside] {
            fs::create_dir_all(aside.join("closed")).unwrap();
            fs::set_permissions(aside.join("closed"), fs::Permissions::from_mode(0o000)).unwrap();
        }
        Folder::open(state.path(), installation).unwrap();
        assert!(!dead_aside.exists() && !dead.lock.exists());
        assert!(live_aside.exists() && live.lock.exists());
    }
}
