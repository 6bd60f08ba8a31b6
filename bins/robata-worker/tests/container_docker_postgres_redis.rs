//! A worker as the first process of a real container, whose end would end its jobs: told to stop it drains, without any
//! setting that says so (`robata-daemon`, container.rs).
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, too")]
#![expect(clippy::print_stderr, reason = "what a container said belongs to a failed test")]

mod support;

use std::{fs, path::Path, process::Command};

use serde_json::{Value, json};
use support::{Site, eventually, service};

fn docker(args: &[&str]) -> String {
    let output = Command::new("docker")
        .args(["-H", &service("ROBATA_TEST_DOCKER_HOST")])
        .args(args)
        .output()
        .expect("docker's client is there where its engine is");
    assert!(output.status.success(), "docker {args:?}: {output:?}");
    // `docker logs` keeps both streams apart.
    String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
}

/// The program's libraries, its loader among them.
fn libraries(program: &Path) -> Vec<String> {
    let output = Command::new("ldd").arg(program).output().expect("ldd is there");
    let text = String::from_utf8(output.stdout).unwrap();
    let files = text.split_whitespace().filter(|word| word.starts_with('/'));
    files.map(str::to_owned).collect()
}

/// A container with the worker as its first process; gone with the test.
struct Contained(String);

impl Contained {
    fn start(site: &Site) -> Self {
        let program = Path::new(env!("CARGO_BIN_EXE_robata-worker"));
        let settings = fs::read_to_string(site.config()).unwrap();
        let own: String = settings
            .lines()
            .filter(|line| !line.starts_with("on_sigterm"))
            .map(|line| format!("{line}\n"))
            .collect();
        assert_ne!(settings.lines().count(), own.lines().count(), "{settings}");
        let config = site.file("container.toml");
        fs::write(&config, own).unwrap();
        let data = site.data().to_str().unwrap();
        let mut mounts = vec![
            format!("{data}:{data}"),
            format!("{}:/robata-worker:ro", program.display()),
        ];
        mounts.extend(libraries(program).iter().map(|file| format!("{file}:{file}:ro")));
        let mut args = vec![
            "run",
            "--detach",
            "--network",
            "host",
            "--env",
            "ROBATA_TELEMETRY__LOG=json",
        ];
        for mount in &mounts {
            args.extend(["--volume", mount]);
        }
        let image = service("ROBATA_TEST_IMAGE");
        let config = config.to_str().unwrap();
        args.extend([&image, "/robata-worker", "--executor", "process", "--config", config]);
        Self(docker(&args).trim().to_owned())
    }

    fn said(&self, event: &str) -> Option<Value> {
        let said = docker(&["logs", &self.0]);
        let mut lines = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.find(|line| line["event"] == event)
    }

    async fn until(&self, event: &str) -> Value {
        eventually(format!("the worker in the container says {event}"), || async {
            assert!(
                self.runs() || self.said(event).is_some(),
                "{}",
                docker(&["logs", &self.0])
            );
            self.said(event)
        })
        .await
    }

    fn runs(&self) -> bool {
        docker(&["inspect", "--format", "{{.State.Running}}", &self.0]).trim() == "true"
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the container said:\n{}", docker(&["logs", &self.0]));
        }
        docker(&["rm", "--force", "--volumes", &self.0]);
    }
}

#[tokio::test]
async fn told_to_stop_a_worker_in_a_container_drains_without_being_set_to() {
    let site = Site::new().await;
    let (_master, master) = site.master().await;
    let worker = Contained::start(&site);
    assert_eq!(worker.until("working").await["on_sigterm"], "Drain");
    let (begun, go) = (site.file("begun"), site.file("go"));
    let text = format!(
        "echo begun; touch {}; while [ ! -e {} ]; do sleep 0.05; done; echo over",
        begun.display(),
        go.display()
    );
    site.define(&master, "wait", &text, &json!({})).await;
    let id = site.enqueue(&master, "wait").await;
    eventually("the job runs in the container", || async {
        begun.exists().then_some(())
    })
    .await;

    docker(&["kill", "--signal", "TERM", &worker.0]);
    worker.until("draining").await;
    let later = site.enqueue(&master, "wait").await;
    assert!(worker.runs(), "it waits for its job");
    fs::write(&go, "").unwrap();
    let job = site.until(&master, &id, "succeeded").await;
    assert_eq!(job["attempts"].as_array().unwrap().len(), 1, "{job:#}");
    eventually("the container ends", || async { (!worker.runs()).then_some(()) }).await;
    assert!(worker.said("drained").is_some());
    let code = docker(&["inspect", "--format", "{{.State.ExitCode}}", &worker.0]);
    assert_eq!(code.trim(), "0");
    assert_eq!(
        site.job(&master, &later).await["state"],
        "queued",
        "it took nothing new"
    );
    let log = site.get(&format!("{master}/api/v1/jobs/{id}/logs")).await.1;
    assert_eq!(log, "begun\nover\n");
}
