//! Accepting jobs by the broker while the store does not serve (PROTOCOL I1, I2): what is answered, how soon, and what becomes
//! of the ids.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use reqwest::Method;
use robata_api::{DegradedConfig, DegradedPath};
use robata_core::{
    ErrorKind, JobId, Role,
    accept::{AcceptStore as _, TakenIn, WholeJob},
    job::Line,
    queue::Receive,
    store::JobStore as _,
};
use robata_queue_memory::{MemoryConfig, MemoryQueue};
use robata_testkit::{
    engine::{Fault, Faults, Moment},
    faulty_queue::FaultyQueue,
    faulty_store::FaultyStore,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::server::{Server, document, id, refused, start_with_path, until};

pub(crate) const MAIL: &str = r#"{"app": "shop", "job": "mail", "payload": {"a": 1.50}}"#;
/// What is answered without waiting for anything that does not answer takes less, on a slow machine, too.
const AT_ONCE: Duration = Duration::from_millis(900);
pub(crate) const AWAY: Fault = Fault::Refuse(ErrorKind::Unavailable);

/// A server with the shop's definitions, a store and a broker that can be made to fail.
pub(crate) struct Site {
    pub(crate) server: Server,
    pub(crate) broker: Arc<FaultyQueue>,
    pub(crate) faults: Arc<Faults>,
}

pub(crate) async fn site() -> Site {
    site_with(|_| ()).await
}

pub(crate) async fn site_with(configure: impl FnOnce(&mut DegradedConfig)) -> Site {
    let faults = Arc::new(Faults::default());
    let broker = Arc::new(FaultyQueue {
        queue: Arc::new(MemoryQueue::new(MemoryConfig::default())),
        faults: Arc::clone(&faults),
        whole_jobs: AtomicBool::new(true),
        takes: AtomicUsize::new(usize::MAX),
    });
    let mut config = DegradedConfig::default();
    // Not so short that a slow machine's store seems to hang.
    config.hang = Duration::from_secs(3);
    configure(&mut config);
    let before = |store| {
        Arc::new(FaultyStore {
            store: Arc::new(store),
            faults: Arc::clone(&faults),
            deaf: false,
        }) as Arc<_>
    };
    let queue = Arc::clone(&broker);
    let path = DegradedPath { queue, config };
    let server = start_with_path(|_| (), before, Some(path)).await;
    server.apply(document()).await;
    // It remembers what the store said last.
    server.mail().await;
    Site { server, broker, faults }
}

impl Site {
    /// The store answers nothing well from now on.
    pub(crate) fn store_fails(&self) {
        for call in STORE {
            self.faults.fail(call, AWAY, usize::MAX);
        }
    }

    pub(crate) fn store_heals(&self) {
        for call in STORE {
            self.faults.heal(call);
        }
    }

    pub(crate) async fn accepted(&self, body: &str) -> Value {
        let response = self.server.post("/api/v1/jobs", body).await;
        let status = response.status();
        let job: Value = response.json().await.unwrap();
        assert_eq!(status, 202, "{job}");
        job
    }

    /// What a master's reader does.
    pub(crate) async fn take_in(&self) -> Vec<(JobId, TakenIn)> {
        let request = Receive {
            lines: vec![(Line::accept(), 1)],
            max: 100,
            wait: Duration::ZERO,
        };
        let deliveries = self.broker.queue.receive(request).await.unwrap();
        let jobs: Vec<_> = deliveries
            .iter()
            .map(|delivery| WholeJob::read(&delivery.message.body).unwrap())
            .collect();
        let ids: Vec<_> = jobs.iter().map(|whole| whole.job.id).collect();
        let fates = self.server.store.take_in(jobs).await.unwrap();
        self.broker.queue.acknowledge(&deliveries).await.unwrap();
        ids.into_iter().zip(fates.into_iter().map(Result::unwrap)).collect()
    }

    /// Waits until the path in use is this one.
    pub(crate) async fn path_is(&self, path: &str) {
        let wanted = format!("robata_accepting{{path=\"{path}\"}} 1");
        until(&wanted, || async {
            self.metrics().await.lines().any(|line| line == wanted)
        })
        .await;
    }

    async fn metrics(&self) -> String {
        self.server.get("/metrics").await.text().await.unwrap()
    }

    async fn status_of(&self, id: JobId) -> (u16, String) {
        let response = self.server.get(&format!("/api/v1/jobs/{id}")).await;
        let status = response.status().as_u16();
        let body: Value = response.json().await.unwrap();
        (status, body["code"].as_str().unwrap_or_default().to_owned())
    }
}

const STORE: [&str; 9] = [
    "store.enqueue",
    "store.check",
    "store.catalog",
    "store.tokens",
    "store.job",
    "store.cancel",
    "store.replays",
    "store.note_outage",
    "store.may_come",
];

#[tokio::test]
async fn a_store_that_fails_loses_no_enqueue_and_is_not_asked_for_ever() {
    let site = site().await;
    site.store_fails();
    let before = site.faults.calls("store.enqueue");
    let mut ids = Vec::new();
    for _ in 0..10 {
        let job = site.accepted(MAIL).await;
        assert_eq!((&job["state"], &job["queue"]), (&json!("queued"), &json!("shop")));
        assert_eq!(job["waiting"]["reason"], "unpublished");
        ids.push(id(&job));
    }
    assert_eq!(site.faults.calls("store.enqueue") - before, 3, "then it is open");
    site.store_heals();
    site.path_is("normal").await;
    site.server.mail().await;
    let taken = site.take_in().await;
    assert_eq!(taken.iter().map(|(id, _)| *id).collect::<Vec<_>>(), ids);
    assert!(taken.iter().all(|(_, fate)| *fate == TakenIn::Made), "{taken:?}");
    let job: Value = site
        .server
        .get(&format!("/api/v1/jobs/{}", ids[0]))
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(job["payload"].to_string(), r#"{"a":1.5}"#);
    let metrics = site.metrics().await;
    let line = "robata_enqueued_total{result=\"accepted\"} 10";
    assert!(metrics.lines().any(|found| found == line), "{metrics}");
}

#[tokio::test]
async fn a_store_that_hangs_is_waited_for_once_and_its_late_write_makes_no_second_job() {
    let site = site_with(|config| config.hang = Duration::from_millis(300)).await;
    let gate = site.faults.hold("store.enqueue", Moment::Begin);
    let check = site.faults.hold("store.check", Moment::Begin);
    let key = r#"{"app": "shop", "job": "mail", "idempotency_key": "k"}"#;
    let begun = Instant::now();
    let first = id(&site.accepted(key).await);
    assert!(begun.elapsed() >= Duration::from_millis(300));
    let begun = Instant::now();
    for _ in 0..5 {
        site.accepted(MAIL).await;
    }
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    assert_eq!(gate.reached(), 1);
    drop((gate, check));
    site.path_is("normal").await;
    // The client did not get its answer, and sends it again: by the other path now.
    let again = site.server.post("/api/v1/jobs", key).await;
    assert_eq!(again.status(), 201);
    let again = id(&again.json().await.unwrap());
    let taken = site.take_in().await;
    assert_eq!(taken[0], (first, TakenIn::Alias(again)));
    assert_eq!(taken.len(), 6);
    let job: Value = site
        .server
        .get(&format!("/api/v1/jobs/{first}"))
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(id(&job), again);
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_and_its_copy_in_the_broker_are_one_job() {
    let site = site().await;
    site.faults.fail("store.enqueue", Fault::LoseAnswer, 1);
    let first = id(&site.accepted(MAIL).await);
    assert!(site.server.store.job(first).await.is_ok(), "the store has it");
    assert_eq!(site.take_in().await, [(first, TakenIn::WasThere)]);
}

#[tokio::test]
async fn those_who_wait_for_the_store_are_let_go_once_it_is_known_to_hang() {
    let site = site_with(|config| config.hang = Duration::from_millis(600)).await;
    let _held = (
        site.faults.hold("store.enqueue", Moment::Begin),
        site.faults.hold("store.check", Moment::Begin),
    );
    let begun = Instant::now();
    let first = site.accepted(MAIL);
    let later = async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        let begun = Instant::now();
        site.accepted(MAIL).await;
        begun.elapsed()
    };
    let (_, later) = tokio::join!(first, later);
    assert!(later < Duration::from_millis(580), "{later:?} of {:?}", begun.elapsed());
}

#[tokio::test]
async fn with_neither_store_nor_broker_the_answer_is_503_at_once() {
    let site = site().await;
    site.store_fails();
    site.faults.fail("queue.publish", AWAY, usize::MAX);
    site.faults.fail("queue.depth", AWAY, usize::MAX);
    for _ in 0..6 {
        let begun = Instant::now();
        let problem = refused(site.server.post("/api/v1/jobs", MAIL).await, 503, "unavailable").await;
        assert!(
            problem.detail.contains("neither the store nor the broker"),
            "{problem:?}"
        );
        assert!(problem.retry_after.is_some() && begun.elapsed() < AT_ONCE);
    }
    let ready = site.server.get("/readyz").await;
    assert_eq!(ready.status(), 503);
    let ready: Value = ready.json().await.unwrap();
    assert_eq!(
        ready["needs"][0],
        json!({"name": "enqueue", "ok": false, "required": true, "message": "the path in use is none"})
    );
    for call in ["queue.publish", "queue.depth"] {
        site.faults.heal(call);
    }
    site.path_is("degraded").await;
    site.accepted(MAIL).await;
    let ready = site.server.client.ready().await.unwrap();
    assert!(ready.ready && ready.needs[0].message.as_deref() == Some("the path in use is degraded"));
    assert!(
        ready
            .needs
            .iter()
            .any(|need| need.name == "store" && !need.ok && !need.required)
    );
    site.store_heals();
    site.path_is("normal").await;
    let ready = site.server.client.ready().await.unwrap();
    assert_eq!(ready.needs[0].message.as_deref(), Some("the path in use is normal"));
}

#[tokio::test]
async fn a_broker_that_hangs_holds_nobody_for_long() {
    let site = site().await;
    site.store_fails();
    let _held = site.faults.hold("queue.publish", Moment::Begin);
    let begun = Instant::now();
    let tries = (0..50).map(|_| site.server.post("/api/v1/jobs", MAIL));
    for response in futures::future::join_all(tries).await {
        refused(response, 503, "unavailable").await;
    }
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_broker_that_is_not_durable_enough_takes_no_job() {
    let site = site().await;
    site.broker.whole_jobs.store(false, Ordering::SeqCst);
    site.store_fails();
    for _ in 0..4 {
        refused(site.server.post("/api/v1/jobs", MAIL).await, 503, "unavailable").await;
    }
    assert_eq!(site.faults.calls("queue.publish"), 0);
    assert_eq!(site.server.get("/readyz").await.status(), 503);
    // It says otherwise now: it was asked again.
    site.broker.whole_jobs.store(true, Ordering::SeqCst);
    site.accepted(MAIL).await;
}

#[tokio::test]
async fn what_is_not_known_from_memory_or_too_large_is_503_with_its_reason() {
    let site = site_with(|config| {
        config.max_job_bytes = 2_000;
        config.max_outage_bytes = 5_000;
    })
    .await;
    site.store_fails();
    for body in [
        r#"{"app": "nobody", "job": "mail"}"#,
        r#"{"app": "shop", "job": "other"}"#,
        r#"{"app": "shop", "job": "mail", "env": {"LOCALE": "de"}}"#,
    ] {
        let problem = refused(site.server.post("/api/v1/jobs", body).await, 503, "unavailable").await;
        assert!(problem.detail.contains("the store does not serve"), "{problem:?}");
    }
    // What is wrong whatever the store says is wrong now, too.
    refused(
        site.server
            .post("/api/v1/jobs", r#"{"app": "shop", "job": "mail", "priority": 101}"#)
            .await,
        422,
        "invalid",
    )
    .await;
    let large = json!({"app": "shop", "job": "mail", "payload": "x".repeat(2_000)}).to_string();
    let problem = refused(site.server.post("/api/v1/jobs", &large).await, 503, "unavailable").await;
    assert!(problem.detail.contains("at most 2000"), "{problem:?}");
    let fits = json!({"app": "shop", "job": "mail", "payload": "x".repeat(1_500)}).to_string();
    for _ in 0..2 {
        site.accepted(&fits).await;
    }
    let problem = refused(site.server.post("/api/v1/jobs", &fits).await, 503, "unavailable").await;
    assert!(problem.detail.contains("used up"), "{problem:?}");
}

#[tokio::test]
async fn an_id_that_is_not_known_yet_is_503_until_the_broker_was_read_to_its_end() {
    let site = site().await;
    let before = site.server.mail().await;
    let never = JobId::new();
    assert_eq!(site.status_of(never).await.0, 404);
    site.store_fails();
    let mut accepted = site.accepted(MAIL).await;
    for _ in 0..3 {
        accepted = site.accepted(MAIL).await;
    }
    let (accepted, beside) = (id(&accepted), JobId::new());
    let not_yet = (503, "not_yet_taken_in".to_owned());
    // The store cannot be asked: of no job anything can be told.
    for id in [accepted, beside, before] {
        assert_eq!(site.status_of(id).await, not_yet);
        let cancel = site.server.post(&format!("/api/v1/jobs/{id}/cancel"), "").await;
        refused(cancel, 503, "not_yet_taken_in").await;
    }
    // It serves, and knows nothing of an outage yet.
    for call in STORE.iter().filter(|call| **call != "store.note_outage") {
        site.faults.heal(call);
    }
    site.path_is("normal").await;
    assert_eq!(site.status_of(before).await.0, 200);
    for id in [accepted, beside] {
        assert_eq!(site.status_of(id).await, not_yet);
    }
    assert_eq!(site.status_of(never).await.0, 404);
    assert!(site.server.store.outages().await.unwrap().is_empty());
    site.faults.heal("store.note_outage");
    until("the outage is noted", || async {
        !site.server.store.outages().await.unwrap().is_empty()
    })
    .await;
    for path in ["", "/logs"] {
        let response = site.server.get(&format!("/api/v1/jobs/{beside}{path}")).await;
        refused(response, 503, "not_yet_taken_in").await;
    }
    site.take_in().await;
    assert_eq!(site.status_of(accepted).await.0, 200);
    assert_eq!(site.status_of(beside).await, not_yet);
    let open = site.server.store.outages().await.unwrap();
    site.server.store.outages_over(&open).await.unwrap();
    assert_eq!(site.status_of(JobId::new()).await.0, 404);
}

#[tokio::test]
async fn each_job_of_a_batch_goes_by_itself_and_an_atomic_one_and_a_one_off_need_the_store() {
    let site = site().await;
    site.store_fails();
    let batch = json!({"jobs": [
        {"app": "shop", "job": "mail"},
        {"app": "shop", "job": "unknown"},
        {"app": "shop", "job": "mail", "priority": 1000},
        {"app": "shop", "job": "resize", "delay_seconds": 60},
    ]});
    for _ in 0..4 {
        let response = site.server.post("/api/v1/jobs/batch", &batch.to_string()).await;
        assert_eq!(response.status(), 200);
        let answer: Value = response.json().await.unwrap();
        let results = answer["results"].as_array().unwrap();
        let told: Vec<_> = results
            .iter()
            .map(|result| result["status"].as_u64().unwrap())
            .collect();
        assert_eq!(told, [202, 503, 422, 202], "{answer}");
        assert_eq!(results[3]["job"]["state"], "scheduled");
    }
    let atomic = json!({"atomic": true, "jobs": [{"app": "shop", "job": "mail"}]}).to_string();
    let problem = refused(
        site.server.post("/api/v1/jobs/batch", &atomic).await,
        503,
        "unavailable",
    )
    .await;
    assert!(problem.detail.contains("atomic"), "{problem:?}");
    let problem = refused(
        site.server
            .post("/api/v1/apps/shop/run", r#"{"command": ["true"]}"#)
            .await,
        503,
        "unavailable",
    )
    .await;
    assert!(problem.detail.contains("one-off"), "{problem:?}");
    site.store_heals();
    let taken = site.take_in().await;
    assert_eq!(taken.len(), 8);
}

#[tokio::test]
async fn tokens_that_are_remembered_are_good_on_this_path_and_others_are_not_called_bad() {
    let site = site().await;
    let token = site.server.token("ci", Role::Enqueue, Some("shop")).await;
    let enqueue = |token: &'static str, body: &'static str| {
        let server = &site.server;
        async move { server.send_as(token, Method::POST, "/api/v1/jobs", body).await }
    };
    let token: &'static str = token.leak();
    until("the token is known", || async {
        enqueue(token, MAIL).await.status() == 201
    })
    .await;
    site.store_fails();
    for _ in 0..5 {
        assert_eq!(enqueue(token, MAIL).await.status(), 202);
    }
    let foreign = enqueue(token, r#"{"app": "other", "job": "mail"}"#).await;
    refused(foreign, 404, "unknown_app").await;
    refused(enqueue("rbt_new", MAIL).await, 503, "unavailable").await;
    site.store_heals();
    let taken = site.take_in().await;
    assert_eq!(taken.len(), 5);
}
