//! Two real workers and one container (PROTOCOL H1, X1): the first is frozen between its attempt's prepare and start, the
//! other takes the attempt over, and the first wakes and goes on. A gate before its engine holds the very request, or a
//! proxy before its store the recording of what was prepared.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, too")]

mod support;

use std::process::Command;

use nix::sys::signal::Signal;
use robata_testkit::gate::Gate;
use serde_json::{Value, json};
use support::{Site, daemon::Daemon, eventually, proxy::Proxy, service};

/// What the engine itself says, asked by its own client.
struct Engine {
    installation: String,
    /// In seconds, by the clock that the engine goes by, too.
    since: String,
}

impl Engine {
    fn says(args: &[&str]) -> String {
        let output = Command::new("docker")
            .args(["-H", &service("ROBATA_TEST_DOCKER_HOST")])
            .args(args)
            .output()
            .expect("docker's client is there where its engine is");
        assert!(output.status.success(), "docker {args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn ours(&self) -> String {
        format!("label=robata.installation={}", self.installation)
    }

    /// The attempts whose containers were started, in order.
    fn started(&self) -> Vec<String> {
        let until = Self::says(&["info", "--format", "{{.SystemTime}}"]);
        let said = Self::says(&[
            "events",
            "--since",
            &self.since,
            "--until",
            &until,
            "--filter",
            "event=start",
            "--filter",
            &self.ours(),
            "--format",
            "{{index .Actor.Attributes \"robata.attempt\"}}",
        ]);
        said.lines().map(str::to_owned).collect()
    }

    fn containers(&self) -> String {
        Self::says(&["ps", "-aq", "--filter", &self.ours()])
    }
}

struct Stage {
    site: Site,
    master: String,
    _master: Daemon,
    gate: Gate,
    /// Before the store of the first worker alone.
    store: Proxy,
    first: Daemon,
    engine: Engine,
}

impl Stage {
    /// A worker behind the gate, and a job whose start waits there with this request.
    async fn held_at(method: &str, path: &str) -> (Self, String) {
        let since = Engine::says(&["info", "--format", "{{.SystemTime}}"]);
        let site = Site::new().await;
        let gate = Gate::before(&service("ROBATA_TEST_DOCKER_HOST"), &site.file("engine.sock")).unwrap();
        let (daemon, master) = site.master().await;
        let url = site.database_url();
        let (user, rest) = url.split_once('@').unwrap();
        let (server, database) = rest.split_once('/').unwrap();
        let store = Proxy::to(server.parse().unwrap()).await;
        let url = format!("{user}@{}/{database}", store.address);
        let through = [
            ("ROBATA_EXECUTORS__DOCKER__DOCKER__HOST", gate.host()),
            ("ROBATA_STORE__POSTGRES__URL", &url),
        ];
        let first = site.worker(&["--executor", "docker"], &through).await;
        let installation = first.until("working").await["installation"]
            .as_str()
            .unwrap()
            .to_owned();
        let image = service("ROBATA_TEST_IMAGE");
        let more = json!({"executor": "docker", "image": image, "docker": {"network": "none"}});
        site.define(&master, "tells", "echo attempt $ROBATA_ATTEMPT", &more)
            .await;
        gate.hold(method, path);
        let id = site.enqueue(&master, "tells").await;
        let stage = Self {
            site,
            master,
            _master: daemon,
            gate,
            store,
            first,
            engine: Engine { installation, since },
        };
        eventually("the start is held", || async { stage.gate.held() }).await;
        (stage, id)
    }

    /// The first worker is frozen; once the job is done it wakes, after its request was heard: late, and from one who sleeps.
    async fn freezes(self, id: &str) {
        self.first.signal(Signal::SIGSTOP);
        let wakes = |stage: &Self| {
            stage.gate.pass();
            stage.first.signal(Signal::SIGCONT);
        };
        self.goes_through(id, wakes).await;
    }

    /// The second takes over and runs the job; then the first wakes.
    async fn goes_through(mut self, id: &str, wakes: impl FnOnce(&Self)) {
        let mut second = self.site.worker(&["--executor", "docker"], &[]).await;
        let job = self.site.until(&self.master, id, "succeeded").await;
        let attempts = job["attempts"].as_array().unwrap();
        assert_eq!(attempts.len(), 2, "{job:#}");
        assert_eq!(
            (&attempts[0]["state"], &attempts[0]["reason"], &attempts[0]["counted"]),
            (&json!("error"), &json!("platform"), &json!(false)),
            "{job:#}"
        );
        wakes(&self);
        // Only the one that was frozen can run this one: when it has, it is wide awake.
        second.signal(Signal::SIGTERM);
        second.ended().await;
        let other = self.site.enqueue(&self.master, "tells").await;
        self.site.until(&self.master, &other, "succeeded").await;

        let again = self.site.job(&self.master, id).await;
        let known = |job: &Value| {
            let attempts = job["attempts"].as_array().unwrap().iter();
            let told = attempts.map(|attempt| (attempt["state"].clone(), attempt["reason"].clone()));
            (job["state"].clone(), told.collect::<Vec<_>>())
        };
        assert_eq!(known(&again), known(&job), "nothing was changed by the one that woke");
        // The second left at once: where it had no time to bring the log home, the first does.
        let logs = format!("{}/api/v1/jobs/{id}/logs", self.master);
        eventually("the log is whole", || async {
            (self.site.get(&logs).await.1 == "attempt 2\n").then_some(())
        })
        .await;
        eventually("no container is left", || async {
            self.engine.containers().is_empty().then_some(())
        })
        .await;
        // One container a job that ran, whatever was asked for and when: the last look, when nobody acts any more.
        assert_eq!(self.first_ends().await, Some(0));
        let started = self.engine.started();
        let of = |id: &str| started.iter().filter(|attempt| attempt.starts_with(id)).count();
        assert_eq!((of(id), of(&other), started.len()), (1, 1, 2), "{started:?}");
    }

    async fn first_ends(&mut self) -> Option<i32> {
        self.first.signal(Signal::SIGTERM);
        self.first.ended().await.code()
    }
}

#[tokio::test]
async fn a_worker_frozen_between_prepare_and_start_starts_nothing_when_it_wakes() {
    let (stage, id) = Stage::held_at("POST", "/start").await;
    stage.freezes(&id).await;
}

#[tokio::test]
async fn a_worker_frozen_within_prepare_starts_nothing_when_it_wakes_and_what_it_made_is_removed() {
    let (stage, id) = Stage::held_at("POST", "/containers/create").await;
    stage.freezes(&id).await;
}

#[tokio::test]
async fn a_worker_whose_recording_arrives_when_another_has_taken_over_starts_nothing() {
    let (stage, id) = Stage::held_at("POST", "/containers/create").await;
    stage.store.freeze();
    // It is prepared, and nobody is told: its record, and its heartbeats, are on their way to the store.
    stage.gate.pass();
    eventually("it is prepared", || async {
        (!stage.engine.containers().is_empty()).then_some(())
    })
    .await;
    stage.goes_through(&id, |stage| stage.store.thaw()).await;
}
