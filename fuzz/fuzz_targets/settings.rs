//! The settings reader: a file, then lines NAME=VALUE of an environment behind a NUL byte.
#![no_main]

use std::{fs, path::PathBuf, sync::OnceLock};

use libfuzzer_sys::fuzz_target;
use robata_settings::{Defaults, Loaded, Place, Sources};
use tempfile::TempDir;

/// Set in each environment, and shown nowhere.
const SECRET: &str = "a-token-that-nobody-may-see";

fn folder() -> &'static TempDir {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    FOLDER.get_or_init(|| tempfile::tempdir().expect("a folder"))
}

fuzz_target!(|input: &str| {
    let (text, environment) = input.split_once('\0').unwrap_or((input, ""));
    let file = folder().path().join("robata.toml");
    fs::write(&file, text).expect("a file of settings");
    let mut variables: Vec<_> = environment
        .lines()
        .filter_map(|line| line.split_once('='))
        .enumerate()
        .map(|(number, (name, value))| (name.to_owned(), value_of(name, value, number)))
        .collect();
    variables.push(("ROBATA_AUTH__ADMIN_TOKEN".to_owned(), SECRET.to_owned()));
    let sources = Sources {
        defaults: Defaults {
            data_folder: PathBuf::from("/var/lib/robata"),
            host: "host".to_owned(),
            cores: 2,
        },
        file: Some(file),
        variables,
        flags: Vec::new(),
    };
    match sources.load() {
        Ok(loaded) => {
            let shown = shown(&loaded);
            assert!(!shown.contains(SECRET), "{shown}");
            let again = sources.load().expect("what was good is good");
            assert_eq!(self::shown(&again), shown);
            assert_eq!(again.settings, loaded.settings);
        }
        Err(errors) => {
            assert!(!errors.0.is_empty());
            let told = errors.to_string();
            assert!(!told.contains(SECRET), "{told}");
            for problem in &errors.0 {
                assert!(!problem.message.is_empty());
                // What is missing stands nowhere; its key says where it should.
                let found = problem.place != Place::Default || !problem.key.is_empty();
                assert!(found, "nobody finds it: {told}");
                if let Place::File { line, .. } = problem.place {
                    assert!((1..=text.lines().count() + 1).contains(&line), "{told}");
                }
            }
        }
    }
});

/// A `…_FILE` names a file that holds the value: never one of this machine's own.
fn value_of(name: &str, value: &str, number: usize) -> String {
    if !name.ends_with("_FILE") {
        return value.to_owned();
    }
    let path = folder().path().join(number.to_string());
    fs::write(&path, value).expect("a value's file");
    path.display().to_string()
}

fn shown(loaded: &Loaded) -> String {
    let entries: Vec<_> = loaded.provenance().iter().map(ToString::to_string).collect();
    format!("{}\n{:?}", entries.join("\n"), loaded.settings)
}
