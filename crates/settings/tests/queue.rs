//! What carries references to jobs: `[queue.rabbitmq]`, `[queue.sqs]`.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, too")]

use robata_settings::{Defaults, Errors, Loaded, QueueSettings, Sources};

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
fn a_rabbitmq_takes_the_default_queues_place_and_its_password_is_not_shown() {
    let loaded =
        load("[queue.rabbitmq]\nurl = \"amqps://anna:hunter2@one/own,amqps://anna:hunter2@two/own\"\n").unwrap();
    let QueueSettings::Rabbitmq(rabbitmq) = &loaded.settings.queue else {
        panic!("{:?}", loaded.settings.queue);
    };
    assert!(rabbitmq.url.contains("hunter2@two"), "{}", rabbitmq.url);
    let shown = format!("{:?}", loaded.provenance());
    assert!(shown.contains("@two/own") && !shown.contains("hunter2"), "{shown}");
}

#[test]
fn what_is_wrong_about_a_rabbitmq_is_told_with_its_key() {
    let told = load("[queue.rabbitmq]\nurl = \"redis://x\"\ncertificate = \"/c\"\n").unwrap_err();
    let told = told.to_string();
    assert!(
        told.contains("queue.rabbitmq.url: must be an address as amqp://"),
        "{told}"
    );
    assert!(
        told.contains("queue.rabbitmq.certificate: certificate and key go together"),
        "{told}"
    );
    let told = load("[queue.rabbitmq]\nulr = \"amqp://x\"\n").unwrap_err().to_string();
    assert!(
        told.contains("[queue.rabbitmq] has url, ca, certificate, key"),
        "{told}"
    );
}

#[test]
fn sqs_takes_the_default_queues_place_and_what_is_not_set_is_amazons_own_to_find() {
    let loaded = load("[queue.sqs]\nregion = \"eu-central-1\"\n").unwrap();
    let QueueSettings::Sqs(sqs) = &loaded.settings.queue else {
        panic!("{:?}", loaded.settings.queue);
    };
    assert!(sqs.create && sqs.keys().is_none() && sqs.endpoint.is_none());
    assert_eq!(sqs.region.as_deref(), Some("eu-central-1"));
    let text = "[queue.sqs]\naccess_key_id = \"AKID\"\nsecret_access_key = \"hunter2\"\ncreate = false\n";
    let loaded = load(text).unwrap();
    let QueueSettings::Sqs(sqs) = &loaded.settings.queue else {
        panic!("{:?}", loaded.settings.queue);
    };
    assert!(!sqs.create);
    assert_eq!(sqs.keys(), Some(("AKID".to_owned(), "hunter2".to_owned())));
    let shown = format!("{:?} {:?}", loaded.provenance(), loaded.settings.queue);
    assert!(shown.contains("AKID") && !shown.contains("hunter2"), "{shown}");
}

#[test]
fn what_is_wrong_about_sqs_is_told_with_its_key() {
    let told = load("[queue.sqs]\nendpoint = \"x\"\naccess_key_id = \"a\"\n")
        .unwrap_err()
        .to_string();
    assert!(
        told.contains("queue.sqs.endpoint: must be an address as https://"),
        "{told}"
    );
    assert!(told.contains("queue.sqs.secret_access_key: must be set"), "{told}");
    let told = load("[queue.sqs]\nurl = \"x\"\n").unwrap_err().to_string();
    assert!(
        told.contains("[queue.sqs] has region, endpoint, access_key_id"),
        "{told}"
    );
}
