//! Where logs are kept: `[logs.folder]` and `[logs.s3]`.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, too")]

use robata_settings::{Defaults, Errors, Loaded, LogSettings, Sources};

fn load(text: &str) -> Result<Loaded, Errors> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("robata.toml");
    std::fs::write(&path, text).unwrap();
    Sources {
        defaults: Defaults {
            data_folder: "/data".into(),
            host: "here".into(),
            cores: 2,
        },
        file: Some(path),
        variables: Vec::new(),
        flags: Vec::new(),
    }
    .load()
}

#[test]
fn a_bucket_takes_the_default_folders_place_and_its_secret_is_not_shown() {
    let text =
        "[logs.s3]\nbucket = \"b\"\nprefix = \"p/q\"\naccess_key_id = \"the-id\"\nsecret_access_key = \"hunter2\"\n";
    let loaded = load(text).unwrap();
    let LogSettings::S3(s3) = &loaded.settings.logs else {
        panic!("{:?}", loaded.settings.logs);
    };
    assert_eq!((s3.bucket.as_str(), s3.prefix.as_str()), ("b", "p/q"));
    assert_eq!(s3.keys(), Some(("the-id".to_owned(), "hunter2".to_owned())));
    let shown = format!("{:?}{:?}", loaded.settings.logs, loaded.provenance());
    assert!(shown.contains("the-id") && !shown.contains("hunter2"), "{shown}");
}

#[test]
fn a_bucket_without_keys_takes_them_from_the_environment() {
    let LogSettings::S3(s3) = load("[logs.s3]\nbucket = \"b\"\n").unwrap().settings.logs else {
        panic!("it is a bucket");
    };
    assert_eq!((s3.keys(), s3.endpoint, s3.region), (None, None, None));
}

#[test]
fn mistakes_of_a_bucket_are_told_with_their_places() {
    let told = |text: &str| load(text).unwrap_err().to_string();
    let text = told("[logs.s3]\nendpoint = \"minio:9000\"\nsecret_access_key = \"hunter2\"\n");
    for part in [
        "logs.s3.bucket: must name a bucket",
        "robata.toml:2: logs.s3.endpoint: must be an address as https://HOST:PORT",
        "logs.s3.access_key_id: must be set where the other half",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert!(!text.contains("hunter2"), "{text}");
    let text = told("[logs.s3]\nbucket = \"b\"\n[logs.folder]\npath = \"/l\"\n");
    assert!(text.contains("logs: takes one adapter"), "{text}");
}
