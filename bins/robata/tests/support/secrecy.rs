//! Secrets for the servers of a test, and how their values are looked for afterwards.
#![allow(dead_code, reason = "each test binary uses its own part of this")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};

/// No other text of a test or program has it, nor any part of it.
pub(crate) const VALUE: &str = "zQ7vX3kJ9wPm4TyR8bLs";

/// Prints the value in every way that is masked, in pieces too, and proves that it has it.
pub(crate) const PRINTS: &str = r#"
[ ${#SECRET} = 20 ] || exit 9
echo "plain $SECRET"; echo "plain $SECRET" >&2
printf '%s' "$SECRET" | base64
printf 'user:%s@host' "$SECRET" | base64
printf 'a%s' "$SECRET" | base64
printf '%s' zQ7vX3kJ9w; sleep 0.3; printf '%s\n' Pm4TyR8bLs
env
echo done
"#;

/// A folder of secrets for one app.
#[derive(Debug)]
pub(crate) struct Vault {
    folder: tempfile::TempDir,
    app: &'static str,
}

impl Vault {
    /// For the app `t`.
    pub(crate) fn new() -> Self {
        Self::of("t")
    }

    pub(crate) fn of(app: &'static str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join(app)).expect("a folder of the app");
        let vault = Self { folder, app };
        vault.set("value", VALUE);
        vault
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn set(&self, name: &str, value: &str) {
        // At once: a reader sees the old one or the new one.
        let (path, aside) = (self.path().join(self.app).join(name), self.path().join("aside"));
        fs::write(&aside, format!("{value}\n")).expect("a file");
        fs::rename(aside, path).expect("in its place");
    }

    /// The setting by which an executor of this kind finds it.
    pub(crate) fn setting(&self, executor: &str, kind: &str) -> (String, String) {
        let name = format!("ROBATA_EXECUTORS__{executor}__{kind}__SECRETS__FOLDER").to_ascii_uppercase();
        (name, self.path().display().to_string())
    }
}

/// What must be found nowhere.
fn needles() -> Vec<String> {
    vec![
        VALUE.to_owned(),
        STANDARD.encode(VALUE),
        URL_SAFE_NO_PAD.encode(VALUE),
        // Inside longer text: the characters that are the value's alone, in each alignment.
        STANDARD.encode(format!("{VALUE}x"))[..26].to_owned(),
        STANDARD.encode(format!("a{VALUE}"))[2..27].to_owned(),
        STANDARD.encode(format!("aa{VALUE}"))[3..29].to_owned(),
        VALUE[..12].to_owned(),
        VALUE[8..].to_owned(),
        // As databases print bytes.
        VALUE.bytes().map(|byte| format!("{byte:02x}")).collect(),
    ]
}

/// What of the value is in this, if anything is.
pub(crate) fn found_in(bytes: &[u8]) -> Option<String> {
    needles()
        .into_iter()
        .find(|needle| bytes.windows(needle.len()).any(|window| window == needle.as_bytes()))
}

/// The files below a folder that have it; database, its log, lock files and all.
pub(crate) fn found_below(folder: &Path) -> Vec<(PathBuf, String)> {
    let (mut found, mut folders, mut files) = (Vec::new(), vec![folder.to_owned()], 0);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let (path, kind) = (entry.path(), entry.file_type().expect("its kind"));
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                files += 1;
                let bytes = fs::read(&path).unwrap_or_default();
                found.extend(found_in(&bytes).map(|needle| (path, needle)));
            }
        }
    }
    assert!(files > 3, "only {files} files were looked at");
    found
}
