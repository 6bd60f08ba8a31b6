//! Where the values of secrets are looked for in what a server says.
#![allow(dead_code, reason = "each test binary uses its own part of this")]

use std::fs;

use crate::{
    secrecy::found_in,
    support::{Server, eventually},
};

/// Waits until every attempt of a job is finalised: then nothing is kept of it but what is kept for good.
pub(crate) fn finalised(server: &Server, id: &str) {
    eventually("its log is sealed", || {
        let attempts = server.job(id)["attempts"].as_array()?.clone();
        attempts
            .iter()
            .all(|attempt| attempt["log"]["state"] != "open")
            .then_some(())
    });
    eventually("nothing is left of what ran", || {
        let things = server.data().join("executors/process");
        let left = |kind: &str| fs::read_dir(things.join(kind)).map_or(0, Iterator::count);
        (left("things") + left("names") == 0).then_some(())
    });
}

/// Fails where the value is in any answer about this job, or in what the server said.
pub(crate) fn nowhere_told(server: &Server, id: &str) {
    for args in [
        &["jobs", "show", id][..],
        &["jobs", "list"],
        &["jobs", "logs", id],
        &["--output", "json", "jobs", "logs", id],
        &["--output", "json", "jobs", "show", id],
        &["--output", "json", "apps", "list"],
        &["--output", "json", "apps", "show", "t"],
        &["--output", "json", "queues", "list"],
        &["--output", "json", "workers", "list"],
    ] {
        let ran = server.run(args).ok();
        assert_eq!(found_in(ran.stdout.as_bytes()), None, "{args:?}: {}", ran.stdout);
        assert_eq!(found_in(ran.stderr.as_bytes()), None, "{args:?}: {}", ran.stderr);
    }
    let said = format!("{}{:?}", server.stderr(), server.events());
    assert_eq!(found_in(said.as_bytes()), None, "{said}");
}
