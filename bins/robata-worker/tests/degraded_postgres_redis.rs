//! The degraded path end to end (PROTOCOL I1 to I3), through real masters and a real worker: the store away under load, the
//! broker away under load, and both. A broker of the test's own or one that the runner started, each behind a proxy that is cut
//! or held still.
//!
//! An outage lasts `ROBATA_TEST_OUTAGE_SECS` seconds, 10 unless set; by hand: 120.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, too")]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use support::{Site, daemon::Daemon, eventually, proxy::Proxy, service};
use tokio::{task::JoinSet, time::interval};

/// Clients that enqueue at once, and how often each does.
const CLIENTS: u64 = 4;
const PACE: Duration = Duration::from_millis(200);
/// A request that the store hangs in goes by the other path after one second; a slow machine needs more for all of it.
const SOON: Duration = Duration::from_secs(6);
/// What is known to be away is not waited for.
const AT_ONCE: Duration = Duration::from_secs(3);

fn outage() -> Duration {
    let seconds = std::env::var("ROBATA_TEST_OUTAGE_SECS").ok();
    Duration::from_secs(seconds.map_or(10, |text| text.parse().expect("ROBATA_TEST_OUTAGE_SECS is a number")))
}

/// A Redis of the test's own that is durable enough for whole jobs.
struct Redis {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Redis {
    fn start() -> Self {
        // In memory where that can be: each write is synced, and a disk that others fill may take seconds for it.
        let folder = tempfile::tempdir_in("/dev/shm")
            .or_else(|_| tempfile::tempdir())
            .unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .args(["--appendonly", "yes", "--appendfsync", "always"])
            .args(["--maxmemory-policy", "noeviction", "--dir"])
            .arg(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self {
            child,
            port,
            _folder: folder,
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// HOST:PORT of an address as `scheme://user:password@HOST:PORT/more`, and the address with another one in its place.
fn server_of(url: &str) -> SocketAddr {
    let (_, rest) = url.split_once("://").unwrap();
    let server = rest.split('/').next().unwrap();
    let server = server.rsplit('@').next().unwrap().replace("localhost", "127.0.0.1");
    server.parse().unwrap_or_else(|error| panic!("{server}: {error}"))
}

fn at(url: &str, address: SocketAddr) -> String {
    let (scheme, rest) = url.split_once("://").unwrap();
    let (server, path) = rest.split_once('/').unwrap_or((rest, ""));
    let login = server
        .rsplit_once('@')
        .map(|(login, _)| format!("{login}@"))
        .unwrap_or_default();
    format!("{scheme}://{login}{address}/{path}")
}

/// Two masters and a worker, whose ways to store and broker can be cut.
struct Rig {
    site: Site,
    store: Proxy,
    broker: Proxy,
    masters: Vec<String>,
    daemons: Vec<Daemon>,
    _redis: Option<Redis>,
}

impl Rig {
    /// `table` makes the settings of the queue from the broker's address.
    async fn new(broker: &str, redis: Option<Redis>, table: impl FnOnce(&str) -> String) -> Self {
        let postgres = service("ROBATA_TEST_POSTGRES_URL");
        let (server, _) = postgres.rsplit_once('/').unwrap();
        let store = Proxy::to(server_of(&postgres)).await;
        let proxy = Proxy::to(server_of(broker)).await;
        let table = table(at(broker, proxy.address).trim_end_matches('/'));
        let site = Site::over_queue(&table, at(server, store.address).trim_end_matches('/')).await;
        let ((one, first), (two, second)) = (site.master().await, site.master().await);
        let worker = site.worker(&[], &[]).await;
        let rig = Self {
            site,
            store,
            broker: proxy,
            masters: vec![first, second],
            daemons: vec![one, two, worker],
            _redis: redis,
        };
        let seen = rig.site.file("seen");
        let text = format!(
            "echo \"$ROBATA_PAYLOAD $ROBATA_JOB_ID $ROBATA_ATTEMPT\" >> {}",
            seen.display()
        );
        rig.site.define(&rig.masters[0], "note", &text, &json!({})).await;
        for master in &rig.masters {
            // It has looked at the broker, and knows the definition.
            rig.path_is(master, "normal").await;
            let id = rig.site.enqueue(master, "note").await;
            rig.site.until(master, &id, "succeeded").await;
        }
        fs::remove_file(seen).unwrap();
        rig
    }

    async fn redis() -> Self {
        let redis = Redis::start();
        let url = format!("redis://127.0.0.1:{}", redis.port);
        let up = format!("127.0.0.1:{}", redis.port);
        eventually("redis is up", || async {
            tokio::net::TcpStream::connect(&up).await.ok()
        })
        .await;
        Self::new(&url, Some(redis), |url| format!("[queue.redis]\nurl = \"{url}\"")).await
    }

    async fn rabbitmq() -> Self {
        let url = service("ROBATA_TEST_RABBITMQ_URL");
        Self::new(&url, None, |url| format!("[queue.rabbitmq]\nurl = \"{url}\"")).await
    }

    async fn sqs() -> Self {
        let url = service("ROBATA_TEST_SQS_URL");
        Self::new(&url, None, |url| {
            format!(
                "[queue.sqs]\nregion = \"us-east-1\"\nendpoint = \"{url}\"\naccess_key_id = \"test\"\nsecret_access_key = \"test\""
            )
        })
        .await
    }

    async fn path_is(&self, master: &str, path: &str) {
        let wanted = format!("the path in use is {path}");
        eventually(format!("{master}: {wanted}"), || async {
            let (_, body) = self.site.get(&format!("{master}/readyz")).await;
            let body: Value = serde_json::from_str(&body).unwrap();
            let need = body["needs"]
                .as_array()?
                .iter()
                .find(|need| need["name"] == "enqueue")
                .cloned()?;
            (need["message"] == wanted.as_str()).then_some(())
        })
        .await;
    }

    async fn enqueue(&self, master: &str, number: u64, key: Option<&str>) -> (u16, Value) {
        let mut body = json!({"app": "shop", "job": "note", "payload": number});
        if let Some(key) = key {
            body["idempotency_key"] = key.into();
        }
        self.site.post(&format!("{master}/api/v1/jobs"), &body).await
    }

    /// Every job has succeeded at its first attempt, and each number was seen once.
    async fn each_ran_once(&self, load: &Load) {
        let accepted = load.accepted.lock().unwrap().clone();
        assert!(accepted.len() > 20, "too little load: {}", accepted.len());
        let mut jobs = BTreeMap::<u64, BTreeSet<String>>::new();
        for (number, id) in &accepted {
            let job = eventually(format!("{id} has succeeded"), || async {
                let (status, text) = self.site.get(&format!("{}/api/v1/jobs/{id}", self.masters[0])).await;
                let job: Value = serde_json::from_str(&text).unwrap();
                assert!(status == 200 || status == 503, "{id}: {status} {text}");
                (job["state"] == "succeeded").then_some(job)
            })
            .await;
            assert_eq!(job["attempts"].as_array().unwrap().len(), 1, "{job:#}");
            jobs.entry(*number)
                .or_default()
                .insert(job["id"].as_str().unwrap().to_owned());
        }
        let mut seen = BTreeMap::<u64, usize>::new();
        for line in fs::read_to_string(self.site.file("seen")).unwrap().lines() {
            *seen
                .entry(line.split(' ').next().unwrap().parse().unwrap())
                .or_default() += 1;
        }
        for (number, ids) in &jobs {
            assert_eq!(ids.len(), 1, "one key made {ids:?}");
            assert_eq!(seen.get(number), Some(&1), "the job {number} ({ids:?}) ran so often");
        }
        // What was answered otherwise may have been taken all the same, but nothing ran twice.
        assert!(seen.values().all(|times| *times == 1), "{seen:?}");
        let aside = self.site.json(&format!("{}/api/v1/set-aside", self.masters[0])).await;
        assert!(aside["messages"].as_array().is_some_and(Vec::is_empty), "{aside}");
    }
}

/// Clients that enqueue until they are told to stop.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    next: AtomicU64,
    /// Answers with 2xx: the job's number and the id that was answered.
    accepted: Mutex<Vec<(u64, String)>>,
    /// Every answer: when it was asked for, its status, and how long it took.
    answers: Mutex<Vec<(Instant, u16, Duration)>>,
}

impl Load {
    /// Each third job has a key, and is asked for again by the other master half a second later.
    async fn client(self: Arc<Self>, rig: Arc<Rig>) {
        let mut again = Vec::new();
        let mut ticks = interval(PACE);
        while !self.stop.load(Ordering::SeqCst) {
            ticks.tick().await;
            let number = self.next.fetch_add(1, Ordering::SeqCst);
            let key = number.is_multiple_of(3).then(|| format!("key {number}"));
            self.ask(&rig, number, key.as_deref(), 0).await;
            again.extend(key.map(|key| (number, key)));
            if again.len() > 3 {
                let (number, key) = again.remove(0);
                self.ask(&rig, number, Some(&key), 1).await;
            }
        }
        // Those that are left are asked for once the outage is over.
        for (number, key) in again {
            self.ask(&rig, number, Some(&key), 1).await;
        }
    }

    async fn ask(&self, rig: &Rig, number: u64, key: Option<&str>, turn: u64) {
        let begun = Instant::now();
        let master = &rig.masters[usize::try_from((number + turn) % 2).unwrap()];
        let (status, answer) = rig.enqueue(master, number, key).await;
        self.answers.lock().unwrap().push((begun, status, begun.elapsed()));
        if status < 300 {
            let id = answer["id"]
                .as_str()
                .unwrap_or_else(|| panic!("no id in {answer}"))
                .to_owned();
            id.parse::<robata_core::JobId>().unwrap();
            self.accepted.lock().unwrap().push((number, id));
        } else {
            assert_eq!(status, 503, "{answer}");
        }
    }

    /// The statuses of what was asked for between these moments, and the longest answer.
    fn between(&self, from: Instant, to: Instant) -> (BTreeMap<u16, usize>, Duration) {
        let answers = self.answers.lock().unwrap();
        let (mut statuses, mut longest) = (BTreeMap::new(), Duration::ZERO);
        for (_, status, took) in answers.iter().filter(|(begun, ..)| (from..to).contains(begun)) {
            *statuses.entry(*status).or_default() += 1;
            longest = longest.max(*took);
        }
        (statuses, longest)
    }
}

fn begin(rig: &Arc<Rig>) -> (Arc<Load>, JoinSet<()>) {
    let load = Arc::new(Load::default());
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(Arc::clone(&load).client(Arc::clone(rig)));
    }
    (load, clients)
}

async fn end(load: &Load, mut clients: JoinSet<()>) {
    load.stop.store(true, Ordering::SeqCst);
    while let Some(done) = clients.join_next().await {
        done.unwrap();
    }
}

/// Lets so much of the load come.
async fn lasts(load: &Load, time: Duration) {
    let until = Instant::now() + time;
    eventually_within(time + support::DEADLINE, "time passes under load", || {
        Instant::now() >= until && load.next.load(Ordering::SeqCst) > 0
    })
    .await;
}

async fn eventually_within(within: Duration, what: &str, mut is: impl FnMut() -> bool) {
    let begun = Instant::now();
    let mut ticks = interval(Duration::from_millis(50));
    while !is() {
        assert!(begun.elapsed() < within, "not within {within:?}: {what}");
        ticks.tick().await;
    }
}

/// How the way to a server is lost.
#[derive(Clone, Copy, Debug)]
enum Loss {
    /// Connections end, and new ones are refused.
    Cut,
    /// Nothing is answered any more; what was asked is answered late.
    Frozen,
}

impl Loss {
    async fn begin(self, proxy: &mut Proxy) {
        match self {
            Self::Cut => proxy.cut().await,
            Self::Frozen => proxy.freeze(),
        }
    }

    async fn end(self, proxy: &mut Proxy) {
        match self {
            Self::Cut => proxy.mend().await,
            Self::Frozen => proxy.thaw(),
        }
    }
}

/// The proxies beside the rig, so that the load can go on while they are cut.
fn apart(mut rig: Rig, with: impl FnOnce(&mut Rig) -> Proxy) -> (Arc<Rig>, Proxy) {
    let proxy = with(&mut rig);
    (Arc::new(rig), proxy)
}

/// The store is away under load: every enqueue is answered 202, and each job runs once when it is back.
async fn the_store_is_away(rig: Rig, loss: Loss) {
    let stand_in = Proxy::to(([127, 0, 0, 1], 1).into()).await;
    let (rig, mut store) = apart(rig, |rig| std::mem::replace(&mut rig.store, stand_in));
    let (load, clients) = begin(&rig);
    lasts(&load, Duration::from_secs(2)).await;
    let lost = Instant::now();
    loss.begin(&mut store).await;
    for master in &rig.masters {
        rig.path_is(master, "degraded").await;
        assert_eq!(rig.site.get(&format!("{master}/readyz")).await.0, 200);
    }
    let open = Instant::now();
    lasts(&load, outage()).await;
    let back = Instant::now();
    // Taken back before that: who asks at this very moment may be answered either way.
    let (while_open, longest) = load.between(open, back.checked_sub(Duration::from_secs(1)).unwrap());
    assert_eq!(while_open.keys().collect::<Vec<_>>(), [&202], "{while_open:?}");
    assert!(longest < AT_ONCE, "{longest:?}");
    let (at_its_begin, longest) = load.between(lost, open);
    assert!(!at_its_begin.contains_key(&503), "{at_its_begin:?}");
    assert!(longest < SOON, "{longest:?}");
    // An id that was accepted is not called unknown.
    let (_, accepted) = load.accepted.lock().unwrap().last().unwrap().clone();
    let (status, text) = rig
        .site
        .get(&format!("{}/api/v1/jobs/{accepted}", rig.masters[1]))
        .await;
    assert!(status == 503 && text.contains("not_yet_taken_in"), "{status} {text}");
    loss.end(&mut store).await;
    for master in &rig.masters {
        rig.path_is(master, "normal").await;
    }
    lasts(&load, Duration::from_secs(2)).await;
    end(&load, clients).await;
    rig.each_ran_once(&load).await;
    let (statuses, _) = load.between(lost, Instant::now());
    assert!(statuses[&202] > 20, "{statuses:?}");
    // An id of that time that nobody has is not there once all was read.
    eventually("an unknown id is unknown", || async {
        let unknown = robata_core::JobId::new();
        let (status, _) = rig.site.get(&format!("{}/api/v1/jobs/{unknown}", rig.masters[0])).await;
        (status == 404).then_some(())
    })
    .await;
    let metrics = rig.site.get(&format!("{}/metrics", rig.masters[0])).await.1;
    assert!(metrics.contains("robata_accepting{path=\"normal\"} 1"), "{metrics}");
    assert!(metrics.contains("robata_accept_waiting"), "{metrics}");
}

/// The broker is away under load: every enqueue is answered 201, and the line catches up by itself.
async fn the_broker_is_away(rig: Rig) {
    let stand_in = Proxy::to(([127, 0, 0, 1], 1).into()).await;
    let (rig, mut broker) = apart(rig, |rig| std::mem::replace(&mut rig.broker, stand_in));
    let (load, clients) = begin(&rig);
    lasts(&load, Duration::from_secs(1)).await;
    broker.cut().await;
    let lost = Instant::now();
    lasts(&load, outage()).await;
    let (statuses, longest) = load.between(lost, Instant::now());
    assert!(
        statuses.keys().all(|status| [200, 201].contains(status)),
        "{statuses:?}"
    );
    assert!(longest < SOON, "{longest:?}");
    broker.mend().await;
    end(&load, clients).await;
    rig.each_ran_once(&load).await;
}

/// Both are away: 503 at once; and whichever is back first takes jobs.
async fn both_are_away(mut rig: Rig) {
    let master = rig.masters[0].clone();
    rig.broker.cut().await;
    rig.store.cut().await;
    rig.path_is(&master, "none").await;
    assert_eq!(rig.site.get(&format!("{master}/readyz")).await.0, 503);
    for number in 0..20 {
        let begun = Instant::now();
        let (status, answer) = rig.enqueue(&master, number, None).await;
        assert!(status == 503 && answer["code"] == "unavailable", "{status} {answer}");
        assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    }
    rig.broker.mend().await;
    let first = eventually("the broker takes jobs", || async {
        let (status, job) = rig.enqueue(&master, 100, None).await;
        assert!([202, 503].contains(&status), "{status} {job}");
        (status == 202).then(|| job["id"].as_str().unwrap().to_owned())
    })
    .await;
    rig.store.mend().await;
    rig.path_is(&master, "normal").await;
    rig.site.until(&master, &first, "succeeded").await;
    let (status, job) = rig.enqueue(&master, 101, None).await;
    assert_eq!(status, 201, "{job}");
    rig.site.until(&master, job["id"].as_str().unwrap(), "succeeded").await;
    assert!(rig.daemons.iter_mut().all(Daemon::runs));
}

#[tokio::test]
async fn redis_takes_every_job_while_the_store_hangs() {
    the_store_is_away(Rig::redis().await, Loss::Frozen).await;
}

#[tokio::test]
async fn redis_takes_every_job_while_the_store_is_gone() {
    the_store_is_away(Rig::redis().await, Loss::Cut).await;
}

#[tokio::test]
async fn redis_away_keeps_no_job_out_of_the_store() {
    the_broker_is_away(Rig::redis().await).await;
}

#[tokio::test]
async fn redis_and_the_store_away_is_503_at_once() {
    both_are_away(Rig::redis().await).await;
}

#[tokio::test]
async fn rabbitmq_takes_every_job_while_the_store_hangs() {
    the_store_is_away(Rig::rabbitmq().await, Loss::Frozen).await;
}

#[tokio::test]
async fn rabbitmq_away_keeps_no_job_out_of_the_store() {
    the_broker_is_away(Rig::rabbitmq().await).await;
}

#[tokio::test]
async fn rabbitmq_and_the_store_away_is_503_at_once() {
    both_are_away(Rig::rabbitmq().await).await;
}

#[tokio::test]
async fn sqs_takes_every_job_while_the_store_hangs() {
    the_store_is_away(Rig::sqs().await, Loss::Frozen).await;
}
