//! A rolling upgrade under load, there and back (PROTOCOL V1): two masters and three workers of this release are replaced
//! one by one by those of the next, and then the other way round. Nothing is lost, and nothing is started twice.
//!
//! `ROBATA_TEST_NEXT` names the folder with the next release's programs: this one's, built with the feature `next-format`.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, too")]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sqlx::Row as _;
use support::{Site, daemon::Daemon, eventually};
use tokio::{task::JoinHandle, time::interval};

/// How often each client enqueues, and how many there are.
const PACE: Duration = Duration::from_millis(400);
const CLIENTS: usize = 2;
/// One job in so many runs long enough to be left to others by one worker after another.
const LONG: usize = 12;

/// Which release's programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Release {
    This,
    Next,
}

fn next_release() -> PathBuf {
    let folder = std::env::var_os("ROBATA_TEST_NEXT")
        .map(PathBuf::from)
        .unwrap_or_else(|| {
            panic!("ROBATA_TEST_NEXT is not set: `tests/run upgrade` builds the next release and sets it")
        });
    for name in ["robata", "robata-master", "robata-worker"] {
        let program = folder.join(name);
        assert!(program.is_file(), "{} is not there", program.display());
    }
    folder
}

/// The load: what was accepted, and who may be asked.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    masters: Mutex<Vec<String>>,
    accepted: Mutex<Vec<String>>,
    refused: Mutex<Vec<String>>,
}

impl Load {
    /// Asks one master after another until one takes the job, by a key: what was taken without an answer is not made twice.
    async fn client(self: Arc<Self>, site: Arc<Site>, client: usize) {
        let mut ticks = interval(PACE);
        let mut number = 0;
        while !self.stop.load(Ordering::SeqCst) {
            ticks.tick().await;
            number += 1;
            let job = if number % LONG == client { "long" } else { "short" };
            let body =
                json!({"app": "shop", "job": job, "payload": {}, "idempotency_key": format!("{client}/{number}")});
            let id = eventually("a master takes the job", || async {
                for master in self.masters() {
                    match site.try_post(&format!("{master}/api/v1/jobs"), &body).await {
                        Some((200..=201, job)) => return Some(job["id"].as_str().unwrap().to_owned()),
                        // It ends just now, or has ended.
                        None | Some((503, _)) => {}
                        Some(other) => {
                            self.refused.lock().unwrap().push(format!("{other:?}"));
                        }
                    }
                }
                None
            });
            let id = id.await;
            self.accepted.lock().unwrap().push(id);
        }
    }

    fn masters(&self) -> Vec<String> {
        self.masters.lock().unwrap().clone()
    }

    fn count(&self) -> usize {
        self.accepted.lock().unwrap().len()
    }
}

struct Rig {
    site: Arc<Site>,
    next: PathBuf,
    load: Arc<Load>,
    clients: Vec<JoinHandle<()>>,
    masters: Vec<(Daemon, String)>,
    workers: Vec<Daemon>,
}

impl Rig {
    async fn new() -> Self {
        let next = next_release();
        let site = Arc::new(Site::new().await);
        let mut rig = Self {
            site,
            next,
            load: Arc::default(),
            clients: Vec::new(),
            masters: Vec::new(),
            workers: Vec::new(),
        };
        for _ in 0..2 {
            rig.start_master(Release::This).await;
        }
        for _ in 0..3 {
            rig.start_worker(Release::This).await;
        }
        let ran = rig.site.file("ran");
        let note = format!("echo \"$ROBATA_JOB_ID $ROBATA_ATTEMPT\" >> {}", ran.display());
        let master = rig.masters[0].1.clone();
        rig.site.define(&master, "short", &note, &json!({})).await;
        let long = format!("{note}; sleep 8");
        rig.site.define(&master, "long", &long, &json!({})).await;
        for client in 0..CLIENTS {
            let load = Arc::clone(&rig.load);
            rig.clients
                .push(tokio::spawn(load.client(Arc::clone(&rig.site), client)));
        }
        rig
    }

    async fn start_master(&mut self, release: Release) {
        let master = match release {
            Release::This => self.site.begun("robata-master", &[]),
            Release::Next => self
                .site
                .begun_of(&self.next, "robata-master", &["--listen", "127.0.0.1:0"]),
        };
        let url = master.url().await;
        self.load.masters.lock().unwrap().push(url.clone());
        self.masters.push((master, url));
    }

    async fn start_worker(&mut self, release: Release) {
        let worker = match release {
            Release::This => self.site.worker(&[], &[]).await,
            Release::Next => {
                let worker = self.site.begun_of(&self.next, "robata-worker", &[]);
                worker.until("working").await;
                worker
            }
        };
        self.workers.push(worker);
    }

    /// A new master in the place of the oldest.
    async fn replace_master(&mut self, release: Release) {
        self.start_master(release).await;
        let (mut old, url) = self.masters.remove(0);
        self.load.masters.lock().unwrap().retain(|other| *other != url);
        old.signal(Signal::SIGTERM);
        old.ended().await;
    }

    /// A new worker in the place of the oldest, which leaves what it runs to the others.
    async fn replace_worker(&mut self, release: Release) {
        self.goes_on().await;
        self.start_worker(release).await;
        let mut old = self.workers.remove(0);
        old.signal(Signal::SIGTERM);
        old.ended().await;
    }

    /// Jobs are accepted and end, and some run.
    async fn goes_on(&self) {
        let before = self.load.count();
        eventually("jobs come in", || async {
            (self.load.count() > before + 4).then_some(())
        })
        .await;
        let ended = self.count("SELECT count(*) FROM robata.jobs WHERE state > 2").await;
        eventually("jobs end", || async {
            let now = self.count("SELECT count(*) FROM robata.jobs WHERE state > 2").await;
            (now > ended + 2).then_some(())
        })
        .await;
        eventually("a long job runs", || async {
            let running = "SELECT count(*) FROM robata.attempts WHERE state = 1";
            (self.count(running).await > 0).then_some(())
        })
        .await;
    }

    async fn count(&self, query: &'static str) -> i64 {
        let mut database = self.site.database().await;
        sqlx::query(query).fetch_one(&mut database).await.unwrap().get(0)
    }

    async fn format(&self) -> i64 {
        self.count("SELECT value::bigint FROM robata.meta WHERE name = 'format'")
            .await
    }

    /// What the masters' and the workers' metrics say of formats.
    async fn told(&self, name: &str) -> Vec<String> {
        let mut told = Vec::new();
        for (_, url) in &self.masters {
            let (_, metrics) = self.site.get(&format!("{url}/metrics")).await;
            let line = metrics.lines().find(|line| line.starts_with(name));
            told.push(
                line.and_then(|line| line.rsplit(' ').next())
                    .unwrap_or("nothing")
                    .to_owned(),
            );
        }
        told
    }

    /// What `robata doctor` finds about formats.
    async fn doctor(&self) -> String {
        let mut doctor = support::daemon::program("robata");
        let doctor = doctor
            .args(["--output", "json", "doctor", "--config"])
            .arg(self.site.config())
            .output()
            .await
            .unwrap();
        let report: Value = serde_json::from_slice(&doctor.stdout).unwrap();
        let check = report["checks"]
            .as_array()
            .unwrap()
            .iter()
            .find(|check| check["name"] == "store, formats");
        check.unwrap_or_else(|| panic!("{report:#}"))["message"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// Formats of requests frozen from now on.
    async fn newest_request(&self) -> i64 {
        let after = self
            .count("SELECT coalesce(max(attempt), 0) FROM robata.start_requests")
            .await;
        let query = "SELECT attempt, format::bigint, request::json ->> 'format' FROM robata.start_requests
                     WHERE attempt > $1 ORDER BY attempt DESC LIMIT 1";
        eventually("a request is frozen", || async {
            let mut database = self.site.database().await;
            let row = sqlx::query(query)
                .bind(after)
                .fetch_optional(&mut database)
                .await
                .unwrap()?;
            let format: i64 = row.get(1);
            assert_eq!(row.get::<String, _>(2), format.to_string());
            Some(format)
        })
        .await
    }

    async fn end(mut self) {
        self.load.stop.store(true, Ordering::SeqCst);
        for client in std::mem::take(&mut self.clients) {
            client.await.unwrap();
        }
        assert_eq!(*self.load.refused.lock().unwrap(), Vec::<String>::new());
        let accepted = self.load.accepted.lock().unwrap().clone();
        assert!(accepted.len() > 100, "too little load: {}", accepted.len());
        let master = self.masters[0].1.clone();
        let mut attempts = BTreeMap::new();
        for id in &accepted {
            let job = eventually(format!("{id} has succeeded"), || async {
                let job = self.site.job(&master, id).await;
                (job["state"] == "succeeded").then_some(job)
            })
            .await;
            let own = job["attempts"].as_array().unwrap();
            // Nothing explains a second one: no job failed, and no realm was away.
            assert_eq!(own.len(), 1, "{job:#}");
            attempts.insert(id.clone(), 1);
        }
        let mut ran = BTreeMap::<String, usize>::new();
        for line in fs::read_to_string(self.site.file("ran")).unwrap().lines() {
            let (job, attempt) = line.split_once(' ').unwrap();
            assert_eq!(attempt, "1", "{line}");
            *ran.entry(job.to_owned()).or_default() += 1;
        }
        assert_eq!(ran, attempts, "each attempt is started exactly once");
        let adopted = self.count("SELECT count(*) FROM robata.attempts WHERE epoch > 1").await;
        assert!(adopted > 2, "attempts adopted: {adopted}");
        let aside = self.site.json(&format!("{master}/api/v1/set-aside")).await;
        assert!(aside["messages"].as_array().is_some_and(Vec::is_empty), "{aside}");
        let orphans = "SELECT count(*) FROM robata.attempts WHERE finalised_at IS NULL";
        eventually("every attempt is finalised", || async {
            (self.count(orphans).await == 0).then_some(())
        })
        .await;
    }
}

/// Asks a worker to drain, and waits until it has left: what it holds in the newer format nobody of the older release takes.
async fn drain(rig: &Rig, mut worker: Daemon, id: &str) {
    let url = format!("{}/api/v1/workers/{id}/drain", rig.masters[0].1);
    let (status, answer) = rig.site.post(&url, &json!({})).await;
    assert!(status < 300, "{status} {answer}");
    worker.ended().await;
}

/// Live workers that read this format, by their ids and pids.
async fn workers_of(rig: &Rig, format: u64) -> BTreeMap<u64, String> {
    let list = rig.site.json(&format!("{}/api/v1/workers", rig.masters[0].1)).await;
    let live = list["workers"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|worker| worker["ended_at"].is_null());
    live.filter(|worker| worker["format"] == format)
        .map(|worker| {
            (
                worker["pid"].as_u64().unwrap(),
                worker["id"].as_str().unwrap().to_owned(),
            )
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_there_and_back_under_load_loses_nothing_and_starts_nothing_twice() {
    let mut rig = Rig::new().await;
    rig.goes_on().await;
    assert_eq!((rig.format().await, rig.newest_request().await), (1, 1));

    // There: masters first, whose next release brings the tables up to date; then the workers, one by one.
    for _ in 0..2 {
        rig.replace_master(Release::Next).await;
        assert_eq!(rig.format().await, 1);
    }
    for left in [2, 1, 0] {
        rig.replace_worker(Release::Next).await;
        if left > 0 {
            assert_eq!(
                (rig.format().await, rig.newest_request().await),
                (1, 1),
                "{left} old workers are left"
            );
            assert_eq!(
                rig.doctor().await,
                "mixed: an upgrade is under way; the format in use is 1, the newest 2"
            );
        }
    }
    eventually("the format 2 is in use", || async {
        (rig.format().await == 2).then_some(())
    })
    .await;
    eventually("the masters have heard of it", || async {
        (rig.told("robata_format_in_use").await == ["2", "2"]).then_some(())
    })
    .await;
    assert_eq!(rig.told("robata_format_own").await, ["2", "2"]);
    rig.goes_on().await;
    assert_eq!(rig.newest_request().await, 2);
    assert_eq!(workers_of(&rig, 2).await.len(), 3);

    // Back: an old master over the newer tables puts the old format in use at once.
    rig.start_master(Release::This).await;
    eventually("the format 1 is in use again", || async {
        (rig.format().await == 1).then_some(())
    })
    .await;
    let fell = Instant::now();
    assert_eq!(
        rig.newest_request().await,
        1,
        "{:?} after the format fell",
        fell.elapsed()
    );
    // Old workers, which leave what was frozen in the format 2 to the new ones, and take the rest.
    for _ in 0..3 {
        rig.start_worker(Release::This).await;
    }
    // One of the new ones leaves what it runs: the others of its release take all of it, the old ones what they read.
    let mut left = rig.workers.remove(0);
    left.signal(Signal::SIGTERM);
    left.ended().await;
    eventually("what is in the format 2 is adopted by those who read it", || async {
        let orphans = "SELECT count(*) FROM robata.attempts a JOIN robata.start_requests r ON r.attempt = a.seq
            JOIN robata.workers w ON w.incarnation = a.holder WHERE w.ended_at IS NOT NULL AND r.format = 2";
        (rig.count(orphans).await == 0).then_some(())
    })
    .await;
    let by_old = "SELECT count(*) FROM robata.attempts a JOIN robata.start_requests r ON r.attempt = a.seq
        JOIN robata.workers w ON w.incarnation = a.holder WHERE w.format < r.format";
    assert_eq!(rig.count(by_old).await, 0, "a worker holds what it does not read");
    rig.goes_on().await;
    let ids = workers_of(&rig, 2).await;
    assert_eq!(ids.len(), 2);
    for _ in 0..2 {
        let worker = rig.workers.remove(0);
        let id = ids[&u64::from(worker.pid())].clone();
        drain(&rig, worker, &id).await;
    }
    rig.replace_master(Release::This).await;
    rig.replace_master(Release::This).await;
    rig.goes_on().await;
    assert_eq!((rig.format().await, rig.newest_request().await), (1, 1));
    rig.end().await;
}
