//! The places of secrets, as an operator makes them.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, too")]

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    time::{Duration, Instant},
};

use robata_core::{AppName, Error, ErrorKind, Result, SecretName};
use robata_settings::SecretsSettings;

/// The value of one secret of the app `shop`.
async fn ask(settings: &SecretsSettings, name: &str) -> Result<String> {
    let (app, name) = (AppName::new("shop").unwrap(), SecretName::new(name).unwrap());
    let found = robata_adapters::secret_source(settings)
        .resolve(&app, &BTreeSet::from([name.clone()]))
        .await?;
    Ok(found[&name].expose().to_owned())
}

async fn refused(settings: &SecretsSettings, name: &str) -> (ErrorKind, String) {
    let error: Error = ask(settings, name).await.unwrap_err();
    let words = format!("{error:?}");
    assert!(!words.contains("hunter2"), "{words}");
    (error.kind(), words)
}

fn script(folder: &Path, text: &str) -> SecretsSettings {
    let path = folder.join("get-secret");
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    // By the shell: a file that was just written may be busy while another test forks.
    SecretsSettings::Command(["/bin/sh".to_owned(), path.display().to_string(), "--flag; x".to_owned()].into())
}

#[tokio::test]
async fn a_folder_has_one_file_for_each_secret() {
    let folder = tempfile::tempdir().unwrap();
    let settings = SecretsSettings::Folder(folder.path().to_owned());
    fs::create_dir(folder.path().join("shop")).unwrap();
    fs::write(folder.path().join("shop/url"), "hunter2\n\n").unwrap();
    assert_eq!(ask(&settings, "url").await.unwrap(), "hunter2\n");
    // A changed value is the next answer.
    fs::write(folder.path().join("shop/url"), "another").unwrap();
    assert_eq!(ask(&settings, "url").await.unwrap(), "another");
    // As Kubernetes mounts it.
    fs::create_dir(folder.path().join("shop/..data")).unwrap();
    fs::write(folder.path().join("shop/..data/linked"), "behind a link").unwrap();
    symlink("..data/linked", folder.path().join("shop/linked")).unwrap();
    assert_eq!(ask(&settings, "linked").await.unwrap(), "behind a link");
}

#[tokio::test]
async fn what_is_not_in_the_folder_is_missing_and_a_folder_that_is_not_there_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let settings = SecretsSettings::Folder(folder.path().to_owned());
    for make in [false, true] {
        if make {
            fs::create_dir_all(folder.path().join("shop/url")).unwrap();
        }
        let (kind, words) = refused(&settings, "url").await;
        assert_eq!(kind, ErrorKind::NotFound);
        let path = folder.path().join("shop/url").display().to_string();
        assert!(words.contains("url of app shop") && words.contains(&path), "{words}");
    }
    let (kind, _) = refused(&SecretsSettings::Folder(folder.path().join("not/mounted")), "url").await;
    assert_eq!(kind, ErrorKind::Unavailable);
}

/// As root nothing is forbidden: a link to itself stands for what cannot be opened, for whatever reason.
#[tokio::test]
async fn what_cannot_be_read_now_is_waited_for_and_told_with_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    symlink("itself", path("itself")).unwrap();
    fs::create_dir(path("shop")).unwrap();
    symlink("url", path("shop/url")).unwrap();
    for (settings, told) in [
        (SecretsSettings::Folder(path("itself")), path("itself/shop/url")),
        (SecretsSettings::Folder(folder.path().to_owned()), path("shop/url")),
        (SecretsSettings::File(path("itself")), path("itself")),
        (
            SecretsSettings::File(folder.path().to_owned()),
            folder.path().to_owned(),
        ),
    ] {
        let (kind, words) = refused(&settings, "url").await;
        assert_eq!(kind, ErrorKind::Unavailable, "{words}");
        assert!(words.contains(&told.display().to_string()), "{words}");
    }
}

#[test]
fn no_name_leads_out_of_a_folder() {
    for name in [
        "..",
        ".",
        "",
        "/etc/passwd",
        "../x",
        "a/../b",
        "a/b",
        "..data",
        "a..b",
        ".hidden",
        "a\0b",
        "a b",
        "\u{e9}",
    ] {
        assert!(SecretName::new(name).is_err(), "{name:?}");
    }
    for app in ["..", ".", "", "a/b", "../x", "a\0"] {
        assert!(AppName::new(app).is_err(), "{app:?}");
    }
}

#[tokio::test]
async fn what_no_environment_can_hold_is_refused_and_nothing_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let settings = SecretsSettings::Folder(folder.path().to_owned());
    fs::create_dir(folder.path().join("shop")).unwrap();
    let long = format!("hunter2{}", "x".repeat(32 << 10));
    for (name, bytes) in [
        ("nul", &b"hunter2\0x"[..]),
        ("bytes", b"hunter2\xff"),
        ("long", long.as_bytes()),
    ] {
        fs::write(folder.path().join("shop").join(name), bytes).unwrap();
        assert_eq!(refused(&settings, name).await.0, ErrorKind::Invalid, "{name}");
    }
    nix::unistd::mkfifo(&folder.path().join("shop/fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let asked = Instant::now();
    assert_eq!(refused(&settings, "fifo").await.0, ErrorKind::NotFound);
    assert!(asked.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_file_has_one_line_for_each_secret() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secrets.env");
    let settings = SecretsSettings::File(path.clone());
    assert_eq!(refused(&settings, "url").await.0, ErrorKind::Unavailable);
    fs::write(&path, "blog/url=hunter2\nshop/url=postgres://u:p=@h\n").unwrap();
    assert_eq!(ask(&settings, "url").await.unwrap(), "postgres://u:p=@h");
    let (kind, words) = refused(&settings, "other").await;
    assert_eq!(kind, ErrorKind::NotFound);
    assert!(
        words.contains("shop/other in ") && words.contains("secrets.env"),
        "{words}"
    );
    fs::write(&path, "shop/url=x\nhunter2\n").unwrap();
    let (kind, words) = refused(&settings, "url").await;
    assert_eq!(kind, ErrorKind::Unavailable);
    assert!(words.contains("line 2"), "{words}");
}

#[tokio::test]
async fn a_command_gets_app_and_name_as_arguments_and_no_settings_of_ours() {
    const SETTING: &str = "ROBATA_STORE__POSTGRES__URL";
    if std::env::var_os(SETTING).is_none() {
        // The same again, in a process that has a setting of ours in its environment.
        let again = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "a_command_gets_app_and_name_as_arguments_and_no_settings_of_ours",
            ])
            .env(SETTING, "postgres://robata:hunter2@h/db")
            .output()
            .unwrap();
        assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stdout));
        assert!(String::from_utf8_lossy(&again.stdout).contains("1 passed"));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let settings = script(
        folder.path(),
        "printf '%s|' \"$@\"; env | grep ^ROBATA_; echo \"${HOME:+home}\"",
    );
    let value = ask(&settings, "url").await.unwrap();
    assert_eq!(value, "--flag; x|shop|url|home");
}

#[tokio::test]
async fn a_command_says_that_a_secret_is_not_there_or_that_it_cannot_tell() {
    let folder = tempfile::tempdir().unwrap();
    let settings = script(folder.path(), "echo \"no $2/$3\" >&2; exit 66");
    let (kind, words) = refused(&settings, "url").await;
    assert_eq!(kind, ErrorKind::NotFound);
    assert!(words.contains("no shop/url"), "{words}");
    let settings = script(
        folder.path(),
        "echo hunter2; echo \"permission denied for hunter2\" >&2; exit 1",
    );
    let (kind, words) = refused(&settings, "url").await;
    assert_eq!(kind, ErrorKind::Unavailable);
    assert!(
        words.contains("permission denied for ***") && words.contains("exit status: 1"),
        "{words}"
    );
    let settings = SecretsSettings::Command(vec!["/no/such/program".to_owned()]);
    assert_eq!(refused(&settings, "url").await.0, ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_command_is_bounded_in_time_and_output_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let pid = folder.path().join("pid");
    let hangs = format!("echo hunter2; sleep 1000 & echo $! > {}; wait", pid.display());
    let (settings, asked) = (script(folder.path(), &hangs), Instant::now());
    let (kind, words) = refused(&settings, "url").await;
    assert_eq!(kind, ErrorKind::Unavailable);
    assert!(
        words.contains("within 10 s") && asked.elapsed() < Duration::from_secs(20),
        "{words}"
    );
    let pid: i32 = fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
        assert!(Instant::now() < deadline, "the command's own process {pid} is left");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // What a pipe holds, and what it does not.
    for (bytes, then) in [(40_000, ""), (4_000_000, ""), (4_000_000, "; exit 1")] {
        let settings = script(folder.path(), &format!("head -c {bytes} /dev/zero | tr '\\0' x{then}"));
        let (kind, words) = refused(&settings, "url").await;
        assert_eq!(kind, ErrorKind::Invalid, "{words}");
        assert!(words.contains("more than 32 KiB"), "{words}");
    }
    // Much that it complains, and no value.
    let settings = script(folder.path(), "head -c 4000000 /dev/zero | tr '\\0' x >&2; exit 1");
    let (kind, words) = refused(&settings, "url").await;
    assert_eq!(kind, ErrorKind::Unavailable, "{words}");
    assert!(words.len() < 1000, "{words}");
}
