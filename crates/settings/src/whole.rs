//! What can only be judged with all settings at hand.

use robata_core::{
    ExecutorName,
    definition::docker::{capability, is_path},
};

use crate::{
    adapters::{DockerSettings, ExecutorSettings, LogSettings, QueueSettings, StoreSettings},
    auth::TlsSettings,
    error::{Errors, Place, Problem},
    listen::Listen,
    provenance::Entry,
    secrets::SecretsSettings,
    tables::Settings,
};

/// Every mistake between settings, or none.
pub(crate) fn check(settings: &Settings, entries: &[Entry]) -> Result<(), Errors> {
    let mut found = Vec::new();
    listeners(settings, &mut found);
    access(settings, &mut found);
    services(settings, &mut found);
    for (key, why) in settings.degraded.mistakes() {
        found.push((format!("degraded.{key}"), why.to_owned()));
    }
    logs(settings, &mut found);
    executors(settings, &mut found);
    queues(settings, &mut found);
    if found.is_empty() {
        return Ok(());
    }
    let problem = |(key, message): (String, String)| Problem {
        place: entries
            .iter()
            // A table that is wrong as a whole stands where its first key does.
            .find(|entry| entry.key == key || entry.key.strip_prefix(&key).is_some_and(|rest| rest.starts_with('.')))
            .map_or(Place::Default, |entry| entry.place.clone()),
        key,
        message,
        nearest: None,
    };
    Err(Errors(found.into_iter().map(problem).collect()))
}

type Found = Vec<(String, String)>;

fn listeners(settings: &Settings, found: &mut Found) {
    for (key, listen) in [
        ("server.listen", &settings.server.listen),
        ("worker.listen", &settings.worker.listen),
    ] {
        if let Some(why) = listen.refused(settings.auth.admin_token.is_some()) {
            found.push((key.to_owned(), why));
        }
    }
    if settings.server.listen == Listen::Off {
        let message = "the API must listen somewhere: use 127.0.0.1:PORT or unix:/PATH";
        found.push(("server.listen".to_owned(), message.to_owned()));
    }
}

fn access(settings: &Settings, found: &mut Found) {
    if let Some(mistake) = settings.auth.mistake() {
        found.push(("auth.admin_token".to_owned(), mistake));
    }
    for key in settings.server.tls.iter().flat_map(TlsSettings::missing) {
        found.push((format!("server.tls.{key}"), "must name a file in PEM".to_owned()));
    }
}

fn services(settings: &Settings, found: &mut Found) {
    if let StoreSettings::Postgres(postgres) = &settings.store {
        let is_url = |url: &str| url.starts_with("postgres://") || url.starts_with("postgresql://");
        if !is_url(&postgres.url) {
            let message = "must be an address as postgres://USER:PASSWORD@HOST:5432/NAME (secret: ROBATA_STORE__POSTGRES__URL_FILE names a file that holds it)";
            found.push(("store.postgres.url".to_owned(), message.to_owned()));
        }
        if let Some(url) = &postgres.listen_url
            && url != "off"
            && !is_url(url)
        {
            let message = "must be an address as postgres://…, or \"off\"";
            found.push(("store.postgres.listen_url".to_owned(), message.to_owned()));
        }
        for (key, connections) in [
            ("master_connections", postgres.master_connections),
            ("worker_connections", postgres.worker_connections),
        ] {
            if connections == 0 {
                found.push((format!("store.postgres.{key}"), "must be 1 or more".to_owned()));
            }
        }
    }
    if let QueueSettings::Redis(redis) = &settings.queue {
        let schemes = ["redis://", "rediss://", "redis+unix://", "unix://"];
        let is_url = |url: &str| schemes.iter().any(|scheme| url.trim().starts_with(scheme));
        if !redis.url.split(',').all(is_url) {
            let message = "must be an address as redis://USER:PASSWORD@HOST:6379/0, or rediss:// for TLS (secret: ROBATA_QUEUE__REDIS__URL_FILE names a file that holds it)";
            found.push(("queue.redis.url".to_owned(), message.to_owned()));
        }
    }
    if let QueueSettings::Rabbitmq(rabbitmq) = &settings.queue {
        let is_url = |url: &str| {
            ["amqp://", "amqps://"]
                .iter()
                .any(|scheme| url.trim().starts_with(scheme))
        };
        if !rabbitmq.url.split(',').all(is_url) {
            let message = "must be an address as amqp://USER:PASSWORD@HOST:5672/VHOST, or amqps:// for TLS (secret: ROBATA_QUEUE__RABBITMQ__URL_FILE names a file that holds it)";
            found.push(("queue.rabbitmq.url".to_owned(), message.to_owned()));
        }
        for (key, here, other) in [
            ("certificate", &rabbitmq.certificate, &rabbitmq.key),
            ("key", &rabbitmq.key, &rabbitmq.certificate),
        ] {
            if here.is_some() && other.is_none() {
                let message = "certificate and key go together, or neither";
                found.push((format!("queue.rabbitmq.{key}"), message.to_owned()));
            }
        }
    }
    if let QueueSettings::Sqs(sqs) = &settings.queue {
        let keys = (sqs.access_key_id.is_some(), sqs.secret_access_key.is_some());
        of_amazon("queue.sqs", sqs.endpoint.as_deref(), keys, found);
    }
}

fn logs(settings: &Settings, found: &mut Found) {
    let LogSettings::S3(s3) = &settings.logs else { return };
    if s3.bucket.is_empty() {
        let message = "must name a bucket, which must be there";
        found.push(("logs.s3.bucket".to_owned(), message.to_owned()));
    }
    let keys = (s3.access_key_id.is_some(), s3.secret_access_key.is_some());
    of_amazon("logs.s3", s3.endpoint.as_deref(), keys, found);
}

/// What services of Amazon have in common: an address in place of Amazon's, and the halves of an access key.
fn of_amazon(table: &str, endpoint: Option<&str>, keys: (bool, bool), found: &mut Found) {
    let is_url = |url: &str| ["http://", "https://"].iter().any(|scheme| url.starts_with(scheme));
    if endpoint.is_some_and(|endpoint| !is_url(endpoint)) {
        let message = "must be an address as https://HOST:PORT";
        found.push((format!("{table}.endpoint"), message.to_owned()));
    }
    let missing = match keys {
        (false, true) => "access_key_id",
        (true, false) => "secret_access_key",
        _ => return,
    };
    let message = "must be set where the other half of the access key is";
    found.push((format!("{table}.{missing}"), message.to_owned()));
}

fn executors(settings: &Settings, found: &mut Found) {
    if let Some(name) = &settings.definitions.default_executor
        && !settings.executors.contains_key(name)
    {
        let names: Vec<_> = settings.executors.keys().map(ExecutorName::as_str).collect();
        found.push((
            "definitions.default_executor".to_owned(),
            format!("there is no executor {name}; there are {}", names.join(", ")),
        ));
    }
    for (name, executor) in &settings.executors {
        if let ExecutorSettings::Docker(docker) = executor {
            policy(&format!("executors.{name}.docker"), docker, found);
        }
        let kind = match executor {
            ExecutorSettings::Docker(_) => "docker",
            ExecutorSettings::Process(_) => "process",
        };
        if executor.slots() == 0 {
            found.push((format!("executors.{name}.{kind}.slots"), "must be 1 or more".to_owned()));
        }
        if let Some(SecretsSettings::Command(argv)) = executor.secrets()
            && argv.first().is_none_or(String::is_empty)
        {
            let message = "must name a program, as [\"/usr/local/bin/get-secret\"]; app and name are added to it";
            found.push((format!("executors.{name}.{kind}.secrets.command"), message.to_owned()));
        }
        if executor.fence().is_some_and(|after| after.is_zero()) {
            let message = "must be more than 1m where fence = true: what runs is stopped one minute before";
            found.push((format!("executors.{name}.{kind}.lost_after"), message.to_owned()));
        }
    }
    if settings.executors.is_empty() {
        let message = "none is left: name at least one, as [executors.process.process]";
        found.push(("executors".to_owned(), message.to_owned()));
    }
}

/// What an operator wrote and could not mean.
fn policy(table: &str, docker: &DockerSettings, found: &mut Found) {
    let mut wrong = |key: &str, message: String| found.push((format!("{table}.{key}"), message));
    for mount in &docker.mounts {
        if mount.what != "/" && !is_path(mount.what.strip_suffix('/').unwrap_or(&mount.what)) {
            wrong(
                "mounts",
                format!("{mount} must be a whole path without `.` and `..`, as /srv/data:ro"),
            );
        }
    }
    for volume in &docker.volumes {
        if volume.what.contains('/') {
            wrong("volumes", format!("{volume} is no volume's name: paths go into mounts"));
        }
    }
    for device in docker.devices.iter().filter(|device| !device.starts_with("/dev/")) {
        wrong("devices", format!("{device:?} is no device, as /dev/fuse"));
    }
    for name in docker.cap_add.iter().filter(|name| capability(name).is_none()) {
        wrong("cap_add", format!("{name:?} is no capability, as NET_ADMIN"));
    }
}

fn queues(settings: &Settings, found: &mut Found) {
    let worker = &settings.worker;
    for (queue, weight) in &worker.queues {
        if *weight == 0 {
            found.push((format!("worker.queues.{queue}"), "must be 1 or more".to_owned()));
        }
    }
    if !worker.queues.is_empty() && !worker.queues_strict.is_empty() {
        let message = "queues with weights and queues in strict order exclude each other: keep one of worker.queues and worker.queues_strict";
        found.push(("worker.queues_strict".to_owned(), message.to_owned()));
    }
}
