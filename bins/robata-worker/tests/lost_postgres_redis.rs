//! A host that is away for longer than `lost_after` while its jobs run on: the one case in which a second attempt may run
//! beside the first (PROTOCOL H6). What is lost stays lost, and is stopped as soon as its realm returns.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, too")]

mod support;

use std::{fs, net::SocketAddr, path::PathBuf};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;
use support::{Site, daemon::Daemon, eventually, proxy::Proxy};

/// How a host is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Away {
    /// Its worker is frozen, and wakes.
    Asleep,
    /// Its worker lives and does not reach the store, and then does.
    CutOff,
    /// Its worker is dead, and another one comes.
    Dead,
}

const FOLDER: &str = "ROBATA_EXECUTORS__PROCESS__PROCESS__FOLDER";
const LOST_AFTER: &str = "ROBATA_EXECUTORS__PROCESS__PROCESS__LOST_AFTER";
const FENCE: &str = "ROBATA_EXECUTORS__PROCESS__PROCESS__FENCE";
/// Its worker stops what it runs one minute before: a second after its lease's end.
const FENCED: [(&str, &str); 2] = [(LOST_AFTER, "61s"), (FENCE, "true")];

/// A host: a worker with a realm and a way to the store of its own.
struct Host<'a> {
    site: &'a Site,
    folder: PathBuf,
    way: Proxy,
    more: &'a [(&'a str, &'a str)],
    worker: Daemon,
}

impl<'a> Host<'a> {
    async fn start(site: &'a Site, name: &str, more: &'a [(&'a str, &'a str)]) -> Self {
        let url = site.database_url();
        let (_, server) = url.rsplit_once('@').unwrap();
        let server: SocketAddr = server.split('/').next().unwrap().parse().unwrap();
        let (folder, way) = (site.file(name), Proxy::to(server).await);
        let worker = worker(site, &folder, &way, more).await;
        Self {
            site,
            folder,
            way,
            more,
            worker,
        }
    }

    async fn goes(&mut self, away: Away) {
        match away {
            Away::Asleep => self.worker.signal(Signal::SIGSTOP),
            Away::CutOff => self.way.cut().await,
            Away::Dead => {
                self.worker.signal(Signal::SIGKILL);
                self.worker.ended().await;
            }
        }
    }

    async fn returns(&mut self, away: Away) {
        match away {
            Away::Asleep => self.worker.signal(Signal::SIGCONT),
            Away::CutOff => self.way.mend().await,
            Away::Dead => self.worker = worker(self.site, &self.folder, &self.way, self.more).await,
        }
    }

    /// What its realm holds of attempts.
    fn things(&self) -> usize {
        let installations = fs::read_dir(&self.folder).unwrap().flatten();
        let things = installations.filter_map(|folder| fs::read_dir(folder.path().join("things")).ok());
        things.flatten().count()
    }
}

async fn worker(site: &Site, folder: &std::path::Path, way: &Proxy, more: &[(&str, &str)]) -> Daemon {
    let url = site.database_url();
    let (user, server) = url.rsplit_once('@').unwrap();
    let (_, database) = server.split_once('/').unwrap();
    let url = format!("{user}@{}/{database}", way.address);
    let own = [
        (FOLDER, folder.to_str().unwrap()),
        ("ROBATA_STORE__POSTGRES__URL", &url),
    ];
    site.worker(&[], &[&own, more].concat()).await
}

/// What the attempts wrote down: word, number, process.
fn journal(site: &Site) -> Vec<(String, u32, i32)> {
    let text = fs::read_to_string(site.file("journal")).unwrap_or_default();
    let lines = text.lines().map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        (
            words[0].to_owned(),
            words[1].parse().unwrap(),
            words[2].parse().unwrap(),
        )
    });
    lines.collect()
}

fn runs(process: i32) -> bool {
    kill(Pid::from_raw(process), None).is_ok()
}

/// A job whose first attempt runs: its id, and the process.
async fn begin(site: &Site, master: &str) -> (String, i32) {
    let text = format!(
        "note() {{ echo \"$1 $ROBATA_ATTEMPT $$\" >> {}; }}; note begin; while [ ! -e {} ]; do sleep 0.1; done; note end",
        site.file("journal").display(),
        site.file("go").display()
    );
    let retry = json!({"retry": {"max_attempts": 1, "platform": 5, "base": "1s", "jitter": "none"}});
    site.define(master, "long", &text, &retry).await;
    let id = site.enqueue(master, "long").await;
    site.until(master, &id, "running").await;
    let began = eventually("the first attempt runs", || async { journal(site).first().cloned() }).await;
    (id, began.2)
}

async fn a_host_that_returns_stops_what_was_lost(away: Away) {
    let site = Site::new().await;
    let (_master, master) = site.master_with(&[(LOST_AFTER, "2s")]).await;
    let mut first = Host::start(&site, "first", &[]).await;
    let (id, began) = begin(&site, &master).await;
    let second = Host::start(&site, "second", &[]).await;

    first.goes(away).await;
    eventually("a second attempt runs", || async {
        (journal(&site).len() == 2).then_some(())
    })
    .await;
    let job = site.until(&master, &id, "running").await;
    let attempts = job["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 2, "{job:#}");
    assert_eq!(
        (&attempts[0]["state"], &attempts[0]["reason"]),
        (&json!("lost"), &json!("lost"))
    );
    assert_ne!(attempts[0]["realm"], attempts[1]["realm"]);
    // Nobody who could stop it is there.
    assert!(runs(began), "the first attempt runs on");

    first.returns(away).await;
    eventually("what was lost is stopped", || async { (!runs(began)).then_some(()) }).await;
    eventually("it is removed", || async { (first.things() == 0).then_some(()) }).await;
    let job = site.job(&master, &id).await;
    assert_eq!(job["attempts"][1]["state"], "running", "{job:#}");
    fs::write(site.file("go"), "").unwrap();
    let job = site.until(&master, &id, "succeeded").await;
    assert_eq!(job["state"], "succeeded");
    assert_eq!(job["attempts"].as_array().unwrap().len(), 2, "{job:#}");
    assert_eq!(job["attempts"][0]["state"], "lost", "lost is final: {job:#}");
    let lines = journal(&site);
    let told: Vec<(&str, u32)> = lines.iter().map(|(word, number, _)| (word.as_str(), *number)).collect();
    assert_eq!(told, [("begin", 1), ("begin", 2), ("end", 2)]);
    eventually("nothing is left", || async { (second.things() == 0).then_some(()) }).await;
}

#[tokio::test]
async fn a_host_that_slept_longer_than_lost_after_stops_what_was_lost() {
    a_host_that_returns_stops_what_was_lost(Away::Asleep).await;
}

#[tokio::test]
async fn a_host_that_was_cut_off_longer_than_lost_after_stops_what_was_lost() {
    a_host_that_returns_stops_what_was_lost(Away::CutOff).await;
}

#[tokio::test]
async fn a_host_whose_worker_was_dead_longer_than_lost_after_stops_what_was_lost() {
    a_host_that_returns_stops_what_was_lost(Away::Dead).await;
}

#[tokio::test]
async fn a_fenced_host_that_is_cut_off_stops_its_attempt_before_it_may_be_lost() {
    let site = Site::new().await;
    let (_master, master) = site.master_with(&FENCED).await;
    let mut host = Host::start(&site, "fenced", &FENCED).await;
    let (id, began) = begin(&site, &master).await;
    host.goes(Away::CutOff).await;
    eventually("it is stopped", || async { (!runs(began)).then_some(()) }).await;
    let job = site.job(&master, &id).await;
    assert_eq!(
        job["attempts"][0]["state"], "running",
        "nobody could tell anybody yet: {job:#}"
    );
    host.returns(Away::CutOff).await;
    eventually("a second attempt runs", || async {
        (journal(&site).len() == 2).then_some(())
    })
    .await;
    let job = site.job(&master, &id).await;
    let first = &job["attempts"][0];
    assert_eq!(
        (&first["state"], &first["reason"]),
        (&json!("failed"), &json!("platform")),
        "{job:#}"
    );
    assert_eq!(first["counted"], false);
    fs::write(site.file("go"), "").unwrap();
    let job = site.until(&master, &id, "succeeded").await;
    assert_eq!(job["attempts"].as_array().unwrap().len(), 2, "{job:#}");
    eventually("nothing is left", || async { (host.things() == 0).then_some(()) }).await;
}
