//! Whether the folders can be written, by whom they are held, and what they stand on.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use nix::sys::statfs::statfs;
use robata_adapters::probe;
use robata_core::file_system;
use robata_settings::{ExecutorSettings, LogSettings, Settings, StoreSettings};

use super::Check;

/// Less free space than this is told.
const FREE_BYTES: u64 = 1 << 30;

pub(super) fn check(settings: &Settings, running: bool) -> Vec<Check> {
    let mut checks = Vec::new();
    if let StoreSettings::Sqlite(sqlite) = &settings.store {
        checks.extend(database(settings, &sqlite.folder, running));
    }
    if let LogSettings::Folder(logs) = &settings.logs {
        checks.push(writable("log folder", &logs.path, "logs.folder.path"));
    }
    for (name, executor) in &settings.executors {
        if let ExecutorSettings::Process(process) = executor {
            let what = format!("executor {name}, folder");
            let key = format!("executors.{name}.process.folder");
            checks.push(writable(&what, &process.folder, &key));
            checks.extend(stands_on(&what, &process.folder, "the supervisors'"));
        }
    }
    checks
}

/// The folder of a database that one process holds by a lock.
fn database(settings: &Settings, folder: &Path, running: bool) -> Vec<Check> {
    let mut checks = vec![match probe::store_holder(settings) {
        Some(holder) if running => Check::ok("data folder", format!("in use by the Robata that runs here ({holder})")),
        Some(holder) => Check::warn(
            "data folder",
            format!("{} is in use by another process ({holder})", folder.display()),
            "a second `robata up` needs a folder of its own: --data-dir FOLDER",
        ),
        None => writable("data folder", folder, "store.sqlite.folder (or --data-dir)"),
    }];
    checks.extend(stands_on("data folder", folder, "SQLite's"));
    checks
}

/// Really writes; what was made for it is removed again.
fn writable(name: &str, folder: &Path, key: &str) -> Check {
    let made = first_missing(folder);
    let tried = fs::create_dir_all(folder).and_then(|()| try_file(folder));
    if let Some(made) = made {
        remove_made(folder, &made);
    }
    match tried {
        Ok(()) => Check::ok(name, format!("{} can be written", folder.display())),
        Err(error) => Check::fail(
            name,
            format!("{} cannot be written: {error}", folder.display()),
            format!("give it to this user, or set {key} to another folder"),
        ),
    }
}

fn try_file(folder: &Path) -> io::Result<()> {
    let path = folder.join(format!(".doctor-{}", std::process::id()));
    let written = fs::File::create(&path).and_then(|mut file| {
        file.write_all(b"robata doctor")?;
        file.sync_all()
    });
    match fs::remove_file(&path) {
        Err(error) if written.is_ok() => Err(error),
        _ => written,
    }
}

/// The outermost folder on the way that is not there yet.
fn first_missing(folder: &Path) -> Option<PathBuf> {
    folder
        .ancestors()
        .take_while(|path| !path.exists())
        .last()
        .map(Path::to_owned)
}

/// Removes the folders from `folder` up to `top`, as far as they are empty.
fn remove_made(folder: &Path, top: &Path) {
    for path in folder.ancestors() {
        if fs::remove_dir(path).is_err() || path == top {
            return;
        }
    }
}

/// What is wrong with the file system below a folder, if something is.
fn stands_on(name: &str, folder: &Path, whose: &str) -> Vec<Check> {
    let there = folder.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let found = match statfs(there) {
        Ok(found) => found,
        Err(error) => {
            return vec![Check::warn(
                name,
                format!("cannot look at its file system: {error}"),
                "look at it by hand (`df`)",
            )];
        }
    };
    let mut checks = Vec::new();
    // The type of the number differs between C libraries.
    if let Some(kind) = file_system::network(found.filesystem_type().0 as i64) {
        checks.push(Check::fail(
            name,
            format!(
                "{} is on a network file system ({kind}), where {whose} locks cannot be relied on",
                there.display()
            ),
            "use a folder on a local disk",
        ));
    }
    let free = found
        .blocks_available()
        .saturating_mul(u64::try_from(found.block_size()).unwrap_or(0));
    if free < FREE_BYTES {
        checks.push(Check::warn(
            name,
            format!("only {} MiB are free in {}", free >> 20, there.display()),
            "make room: nothing is accepted on a full disk",
        ));
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn trying_a_folder_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a/b/c");
        assert_eq!(writable("x", &deep, "k").verdict, Verdict::Ok);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert_eq!(writable("x", folder.path(), "k").verdict, Verdict::Ok);
        assert!(folder.path().exists());
    }

    #[test]
    fn a_folder_below_a_file_cannot_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let check = writable("data folder", &file.join("x"), "data.folder");
        assert_eq!(check.verdict, Verdict::Fail);
        assert!(check.todo.unwrap().contains("data.folder"));
    }
}
