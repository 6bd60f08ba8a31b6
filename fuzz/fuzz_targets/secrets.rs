//! A file of secrets: a value is its line's rest, and no complaint repeats one.
#![no_main]

use std::{
    collections::BTreeSet,
    fs,
    sync::{Arc, OnceLock},
};

use libfuzzer_sys::fuzz_target;
use robata_adapters::secret_source;
use robata_core::{AppName, ErrorKind, SecretName, secret::Secrets};
use robata_settings::SecretsSettings;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

/// A value that stands in each file, and in no complaint.
const SECRET: &str = "a-value-that-nobody-may-see";

struct Here {
    folder: TempDir,
    runtime: Runtime,
    source: Arc<dyn Secrets>,
    app: AppName,
}

fn here() -> &'static Here {
    static HERE: OnceLock<Here> = OnceLock::new();
    HERE.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        Here {
            runtime: Builder::new_current_thread().enable_time().build().expect("a runtime"),
            source: secret_source(&SecretsSettings::File(folder.path().join("secrets"))),
            app: AppName::new("shop").expect("a name"),
            folder,
        }
    })
}

fuzz_target!(|file: &[u8]| {
    let here = here();
    let file = [file, b"\nshop/own=", SECRET.as_bytes()].concat();
    fs::write(here.folder.path().join("secrets"), &file).expect("a file of secrets");
    for name in ["url", "key"] {
        let prefix = format!("shop/{name}=");
        let rests: Vec<_> = file
            .split(|byte| *byte == b'\n')
            .filter_map(|line| line.strip_prefix(prefix.as_bytes()))
            .collect();
        let names = BTreeSet::from([SecretName::new(name).expect("a name")]);
        match here.runtime.block_on(here.source.resolve(&here.app, &names)) {
            Ok(values) => {
                let values: Vec<_> = values.values().map(|value| value.expose().as_bytes()).collect();
                assert_eq!(values, rests);
            }
            Err(error) => {
                let words = error.full().to_string();
                match error.kind() {
                    ErrorKind::NotFound => assert!(rests.is_empty() && words.contains(name)),
                    ErrorKind::Invalid => assert!(rests.len() == 1 && words.contains(name)),
                    _ => assert!(
                        words.contains("line ") || words.contains("1 MiB"),
                        "without a place: {words}"
                    ),
                }
                assert!(!words.contains(SECRET), "a value is told: {words}");
            }
        }
    }
});
