//! Whether the places of secrets are there, and nobody else can read them. No value is read, and no command is run.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use robata_settings::{ExecutorSettings, SecretsSettings, Settings};

use super::Check;

/// Others may read it, or change it.
const READABLE: u32 = 0o004;
const WRITABLE: u32 = 0o002;
const ENTERABLE: u32 = 0o001;
/// So many files of a folder are looked at.
const FILES: usize = 10_000;

pub(super) fn check(settings: &Settings) -> Vec<Check> {
    let executors = settings.executors.iter();
    executors
        .filter_map(|(name, executor)| {
            let kind = match executor {
                ExecutorSettings::Docker(_) => "docker",
                ExecutorSettings::Process(_) => "process",
            };
            let key = format!("executors.{name}.{kind}.secrets");
            let what = format!("executor {name}, secrets");
            Some(match executor.secrets()? {
                SecretsSettings::Folder(path) => folder(&what, &format!("{key}.folder"), path),
                SecretsSettings::File(path) => file(&what, &format!("{key}.file"), path),
                SecretsSettings::Command(argv) => command(
                    &what,
                    &format!("{key}.command"),
                    argv.first().map_or("", String::as_str),
                ),
            })
        })
        .collect()
}

fn not_there(what: &str, key: &str, path: &Path, why: &std::io::Error) -> Check {
    Check::fail(
        what,
        format!("{} cannot be used: {why}", path.display()),
        format!("make it (mount it) where the worker runs, for this user; or set {key} to another"),
    )
}

/// The permissions of what a path leads to.
fn mode(path: &Path) -> std::io::Result<u32> {
    Ok(fs::metadata(path)?.permissions().mode())
}

fn folder(what: &str, key: &str, path: &Path) -> Check {
    let read = mode(path).and_then(|mode| Ok((mode, fs::read_dir(path)?)));
    let (own, apps) = match read {
        Ok(read) => read,
        Err(why) => return not_there(what, key, path, &why),
    };
    let open = |path: &PathBuf| mode(path).is_ok_and(|mode| mode & (READABLE | WRITABLE) != 0);
    let secrets = apps
        .flatten()
        .filter(|app| mode(&app.path()).is_ok_and(|mode| mode & ENTERABLE != 0))
        .flat_map(|app| fs::read_dir(app.path()).into_iter().flatten().flatten())
        .map(|secret| secret.path())
        .filter(|path| path.is_file())
        .take(FILES);
    // Where nobody else can enter, files are as open as they like.
    let open: Vec<_> = if own & ENTERABLE == 0 {
        Vec::new()
    } else {
        secrets.filter(open).collect()
    };
    match open.first() {
        Some(first) => Check::warn(
            what,
            format!(
                "others on this machine can read or change {} ({} of such files)",
                first.display(),
                open.len()
            ),
            format!("chmod o= {}", path.display()),
        ),
        None => Check::ok(what, format!("the folder {} is there, for nobody else", path.display())),
    }
}

fn file(what: &str, key: &str, path: &Path) -> Check {
    match fs::File::open(path).and_then(|_| mode(path)) {
        Err(why) => not_there(what, key, path, &why),
        Ok(mode) if mode & (READABLE | WRITABLE) != 0 => Check::warn(
            what,
            format!("others on this machine can read or change {}", path.display()),
            format!("chmod o= {}", path.display()),
        ),
        Ok(_) => Check::ok(what, format!("the file {} is there, for nobody else", path.display())),
    }
}

fn command(what: &str, key: &str, program: &str) -> Check {
    let found = if program.contains('/') {
        Some(PathBuf::from(program))
    } else {
        let paths = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&paths)
            .map(|folder| folder.join(program))
            .find(|path| path.is_file())
    };
    let looked = found.ok_or_else(|| std::io::Error::new(std::io::ErrorKind::NotFound, "it is in no folder of PATH"));
    let looked = looked.and_then(|path| Ok((mode(&path)?, path)));
    match looked {
        Err(why) => not_there(what, key, Path::new(program), &why),
        Ok((mode, path)) if mode & 0o111 == 0 || !path.is_file() => Check::fail(
            what,
            format!("{} is no program", path.display()),
            format!("set {key} to one; a script needs chmod +x"),
        ),
        Ok((mode, path)) if mode & WRITABLE != 0 => Check::warn(
            what,
            format!("others on this machine can change {}", path.display()),
            format!("chmod o-w {}", path.display()),
        ),
        Ok((_, path)) => Check::ok(what, format!("the command {} is there; it was not run", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_folder_is_fine_where_nobody_else_can_read_in_it() {
        let outer = tempfile::tempdir().unwrap();
        let path = outer.path().join("secrets");
        assert_eq!(folder("s", "k", &path).verdict, Verdict::Fail);
        fs::create_dir_all(path.join("shop")).unwrap();
        let secret = path.join("shop/url");
        fs::write(&secret, "hunter2").unwrap();
        for (own, app, file, verdict) in [
            (0o755, 0o755, 0o644, Verdict::Warn),
            (0o755, 0o755, 0o602, Verdict::Warn),
            (0o755, 0o755, 0o640, Verdict::Ok),
            (0o755, 0o750, 0o644, Verdict::Ok),
            (0o750, 0o755, 0o644, Verdict::Ok),
        ] {
            for (path, mode) in [(&secret, file), (&path.join("shop"), app), (&path, own)] {
                set(path, mode);
            }
            let check = folder("s", "k", &path);
            assert_eq!(check.verdict, verdict, "{own:o} {app:o} {file:o}");
            assert!(!format!("{check:?}").contains("hunter2"));
        }
    }

    #[test]
    fn a_file_is_fine_where_nobody_else_can_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secrets.env");
        assert_eq!(file("s", "k", &path).verdict, Verdict::Fail);
        fs::write(&path, "").unwrap();
        for (mode, verdict) in [(0o644, Verdict::Warn), (0o600, Verdict::Ok), (0o640, Verdict::Ok)] {
            set(&path, mode);
            assert_eq!(file("s", "k", &path).verdict, verdict);
        }
    }

    #[test]
    fn a_command_is_looked_for_and_not_run() {
        let folder = tempfile::tempdir().unwrap();
        let (path, ran) = (folder.path().join("get-secret"), folder.path().join("ran"));
        let shown = path.display().to_string();
        assert_eq!(command("s", "k", &shown).verdict, Verdict::Fail);
        fs::write(&path, format!("#!/bin/sh\n: > {}\n", ran.display())).unwrap();
        for (mode, verdict) in [(0o600, Verdict::Fail), (0o702, Verdict::Warn), (0o755, Verdict::Ok)] {
            set(&path, mode);
            assert_eq!(command("s", "k", &shown).verdict, verdict);
        }
        assert!(!ran.exists());
        assert_eq!(command("s", "k", "sh").verdict, Verdict::Ok);
        assert_eq!(command("s", "k", "no-such-program").verdict, Verdict::Fail);
    }
}
