//! What comes to the Docker executor from outside: Docker's config.json, and an engine's log entries from a position on.
//!
//! Behind a NUL byte, or with none, an input is a config.json; before it, a position and entries, a line each, of which the
//! first byte says the stream.
#![no_main]

#[path = "../../crates/executor-docker/src/credential_helper.rs"]
mod credential_helper;
#[path = "../../crates/executor-docker/src/credentials.rs"]
#[expect(dead_code, reason = "the executor itself is not here")]
mod credentials;
#[path = "../../crates/executor-docker/src/log_lines.rs"]
#[expect(dead_code, reason = "the executor itself is not here")]
mod log_lines;
#[path = "../../crates/executor-docker/src/missing.rs"]
#[expect(dead_code, reason = "the executor itself is not here")]
mod missing;

use std::{fs, sync::OnceLock, time::Duration};

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use log_lines::{Lines, Place};
use robata_core::executor::{Position, Stream};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

const IMAGES: [&str; 3] = ["busybox", "r.example.com/shop:1", "127.0.0.1:5000/shop"];

fuzz_target!(|data: &[u8]| {
    let end = data.iter().position(|byte| *byte == 0);
    credentials(end.map_or(data, |end| &data[end + 1..]));
    log(&data[..end.unwrap_or(0)]);
});

fn credentials(config: &[u8]) {
    static HERE: OnceLock<(TempDir, Runtime)> = OnceLock::new();
    let (folder, runtime) = HERE.get_or_init(|| {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        (tempfile::tempdir().expect("a folder"), runtime)
    });
    let path = folder.path().join("config.json");
    fs::write(&path, config).expect("a config.json");
    for image in IMAGES {
        match runtime.block_on(credentials::find(&path, image, Duration::from_secs(1))) {
            Ok(found) => {
                if let Some(credentials) = found.credentials {
                    assert!(credentials.serveraddress.is_some(), "of no registry");
                }
            }
            Err(error) => assert!(error.message().contains("config.json"), "without a place: {error}"),
        }
    }
}

fn log(data: &[u8]) {
    let mut lines = data.split_inclusive(|byte| *byte == b'\n');
    let position = lines.next().unwrap_or_default().trim_ascii_end();
    let Ok(position) = std::str::from_utf8(position) else {
        return;
    };
    let Ok(place) = Place::read(&Position(position.to_owned())) else {
        return;
    };
    comes_back(&place);
    let since = place.since();
    let mut log = Lines::new(place, since);
    for line in lines {
        let (stream, entry) = match line.split_first() {
            Some((b'e', entry)) => (Stream::Stderr, entry),
            Some((_, entry)) => (Stream::Stdout, entry),
            None => continue,
        };
        // What follows one that cannot be read is not read.
        if log.entry(stream, &Bytes::copy_from_slice(entry)).is_err() {
            break;
        }
        comes_back(&log.place);
    }
    comes_back(&log.end());
}

/// A place that is kept is read again as it was.
fn comes_back(place: &Place) {
    assert_eq!(Place::read(&place.position()).as_ref(), Ok(place));
}
