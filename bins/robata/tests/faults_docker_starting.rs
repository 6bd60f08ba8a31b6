//! Cancel in the moment of starting (FAULTS G1), through the real binary: a gate before the engine holds one request of
//! the start, so that the attempt is neither prepared nor running for as long as the test needs.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, too")]

#[path = "support/engine_watch.rs"]
mod engine_watch;
mod support;

use engine_watch::{EngineWatch, engine};
use robata_testkit::{checker::Line, gate::Gate};
use serde_json::Value;
use support::{Options, Server, eventually};

struct Stage {
    watch: EngineWatch,
    gate: Gate,
    server: Server,
    _folder: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        let (host, image) = engine();
        let folder = tempfile::tempdir().unwrap();
        let gate = Gate::before(&host, &folder.path().join("engine.sock")).unwrap();
        let watch = EngineWatch::start();
        let server = Server::with(Options {
            executors: vec!["docker".into()],
            env: vec![("DOCKER_HOST".into(), gate.host().to_owned())],
            ..Options::default()
        });
        server.apply(&format!(
            "[apps.t]\nimage = {image:?}\ndocker = {{ network = \"none\" }}\n[apps.t.jobs.long]\ncommand = [\"sleep\", \"600\"]\ngrace_period = \"1s\"\n"
        ));
        Self {
            watch,
            gate,
            server,
            _folder: folder,
        }
    }

    /// A job whose start waits at the gate with this request, and was asked to be cancelled there.
    fn cancelled_at(&self, method: &str, path: &str) -> String {
        self.gate.hold(method, path);
        let id = self.server.enqueue(&["t/long"]);
        eventually("the start is held", || self.gate.held());
        let job = self.server.job(&id);
        assert_eq!(job["attempts"][0]["state"], "starting", "{job:#}");
        self.server.run(&["jobs", "cancel", &id]).ok();
        id
    }

    /// It ended once and as cancelled, after so many starts in the engine, and nothing is left of it.
    fn ends(&self, id: &str, starts: usize) {
        let job = self.server.until(id, "cancelled");
        assert_eq!(job["reason"], "cancelled", "{job:#}");
        let attempts = job["attempts"].as_array().unwrap();
        assert_eq!(attempts.len(), 1, "never a second attempt: {job:#}");
        assert_ne!(attempts[0]["state"], Value::from("running"), "{job:#}");
        let installation = self.server.installation();
        eventually("nothing is left in the engine", || {
            self.watch.left_of(&installation).is_empty().then_some(())
        });
        let lines = self.watch.lines();
        let of = |wanted: fn(&Line) -> Option<String>| {
            let jobs = lines.iter().filter_map(wanted);
            jobs.filter(|job| job == id).count()
        };
        let begun = of(|line| match line {
            Line::Begin(attempt, _) => Some(attempt.job.to_string()),
            Line::End(..) => None,
        });
        assert_eq!(begun, starts, "{lines:?}");
    }
}

#[test]
fn docker_a_job_cancelled_while_its_container_is_being_created_never_runs() {
    let stage = Stage::new();
    let id = stage.cancelled_at("POST", "/containers/create");
    stage.server.until(&id, "cancelled");
    // The engine makes it all the same, late: it is found and removed.
    stage.gate.pass();
    stage.ends(&id, 0);
}

#[test]
fn docker_a_job_cancelled_while_its_start_is_under_way_is_stopped_once_it_runs() {
    let stage = Stage::new();
    let id = stage.cancelled_at("POST", "/start");
    stage.gate.pass();
    stage.ends(&id, 1);
}

#[test]
fn docker_a_job_cancelled_whose_start_the_engine_never_heard_never_runs() {
    let stage = Stage::new();
    let id = stage.cancelled_at("POST", "/start");
    stage.gate.lose();
    stage.ends(&id, 0);
}
