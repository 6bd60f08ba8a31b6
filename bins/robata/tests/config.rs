//! The examples in `config/` parse, and `robata config` says what is in force.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, too")]

mod support;

use std::{collections::BTreeSet, fs, path::PathBuf};

use robata_client::definitions::{self, Format};
use robata_core::definition::Document;
use robata_settings::{Defaults, Sources};
use support::{Running, robata};

fn examples() -> Vec<PathBuf> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../config");
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 2, "{files:?}");
    files
}

fn sources(file: Option<PathBuf>) -> Sources {
    Sources {
        defaults: Defaults {
            data_folder: "/var/lib/robata".into(),
            host: "this-machine".into(),
            cores: 2,
        },
        file,
        variables: Vec::new(),
        flags: Vec::new(),
    }
}

#[test]
fn every_example_parses() {
    for file in examples() {
        let text = fs::read_to_string(&file).unwrap();
        // Definitions have apps; all other examples are settings.
        if text.contains("[apps.") {
            let source = definitions::read(&text, Format::Toml).unwrap();
            let document = Document::read(&source.document);
            assert!(document.is_ok(), "{}: {document:?}", file.display());
        } else if let Err(errors) = sources(Some(file)).load() {
            panic!("{errors}");
        }
    }
}

#[test]
fn the_embedded_example_has_every_setting_with_its_default() {
    let folder = tempfile::tempdir().unwrap();
    let text = include_str!("../../../config/embedded.toml");
    // Each setting stands there as a comment: `#key = value`. Prose begins with `# `.
    let set: String = text
        .lines()
        .map(|line| {
            line.strip_prefix('#')
                .filter(|rest| !rest.starts_with(' '))
                .unwrap_or(line)
        })
        .map(|line| format!("{line}\n"))
        .collect();
    let file = folder.path().join("set.toml");
    fs::write(&file, &set).unwrap();
    let loaded = sources(Some(file))
        .load()
        .unwrap_or_else(|errors| panic!("{errors}\n{set}"));
    let defaults = sources(None).load().unwrap();
    assert_eq!(
        robata_settings::Settings {
            definitions: defaults.settings.definitions.clone(),
            executors: unset(&loaded),
            ..loaded.settings.clone()
        },
        defaults.settings
    );
    let told: BTreeSet<_> = loaded
        .provenance()
        .iter()
        .filter(|entry| entry.place == robata_settings::Place::Default)
        .map(|entry| entry.key.clone())
        .collect();
    assert!(told.is_empty(), "settings that the example leaves out: {told:?}");
}

/// The executors with what has no default taken out again.
fn unset(
    loaded: &robata_settings::Loaded,
) -> std::collections::BTreeMap<robata_core::ExecutorName, robata_settings::ExecutorSettings> {
    let mut executors = loaded.settings.executors.clone();
    for executor in executors.values_mut() {
        if let robata_settings::ExecutorSettings::Docker(docker) = executor {
            docker.config_json = None;
            docker.max = robata_settings::MaxSettings::default();
        }
    }
    executors
}

#[test]
fn config_prints_each_value_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("robata.toml");
    fs::write(&file, "[limits]\nlabels = 7\n").unwrap();
    let mut command = robata();
    command
        .args(["config", "--listen", "127.0.0.1:9"])
        .env("ROBATA_CONFIG", &file);
    command
        .env("ROBATA_WORKER__HOST", "elsewhere")
        .env("XDG_DATA_HOME", "/data");
    let ran = Running::start(command).end();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for part in [
        "server.listen = \"127.0.0.1:9\"  # flag --listen",
        &format!("limits.labels = 7  # {}:2", file.display()),
        "worker.host = \"elsewhere\"  # variable ROBATA_WORKER__HOST",
        "data.folder = \"/data/robata\"  # default",
    ] {
        assert!(ran.stdout.contains(part), "{part} is not in\n{}", ran.stdout);
    }
}
