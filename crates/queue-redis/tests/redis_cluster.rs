//! A cluster of real servers: whichever node is asked first, through failovers, dead nodes and slots that move.

#[expect(dead_code, reason = "each test binary uses a part of it")]
mod server;

use std::{
    collections::BTreeSet,
    net::TcpListener,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use robata_core::{ErrorKind, Retry, job::Line, queue::Queue};
use robata_queue_redis::{RedisConfig, RedisQueue};
use robata_testkit::case::until;
use server::*;

/// Three masters, and a replica of the one that has the test's keys.
struct Cluster {
    nodes: Vec<Server>,
    /// Of these, the one with the keys.
    owner: usize,
    replica: Server,
    slot: u16,
}

const OPTIONS: &[&str] = &[
    "--cluster-enabled",
    "yes",
    "--cluster-node-timeout",
    "1500",
    "--cluster-replica-validity-factor",
    "0",
    "--repl-diskless-sync-delay",
    "0",
];

/// A port whose companion for the nodes among themselves, 10,000 above, is free, too.
fn node_port() -> Result<u16> {
    loop {
        let port = free_port()?;
        if let Some(companion) = port.checked_add(10_000)
            && TcpListener::bind(("127.0.0.1", companion)).is_ok()
        {
            return Ok(port);
        }
    }
}

impl Cluster {
    async fn start() -> Result<Self> {
        let mut nodes = Vec::new();
        for _ in 0..4 {
            nodes.push(Server::start_at(node_port()?, OPTIONS).await?);
        }
        for (index, node) in nodes.iter().enumerate() {
            node.run::<()>(&format!("CLUSTER SET-CONFIG-EPOCH {}", index + 1))
                .await?;
        }
        for (index, node) in nodes.iter().take(3).enumerate() {
            let slots: Vec<String> = (0..16_384)
                .filter(|slot| slot * 3 / 16_384 == index)
                .map(|slot| slot.to_string())
                .collect();
            node.run::<()>(&format!("CLUSTER ADDSLOTS {}", slots.join(" "))).await?;
        }
        for other in &nodes[1..] {
            nodes[0]
                .run::<()>(&format!("CLUSTER MEET 127.0.0.1 {}", other.port))
                .await?;
        }
        for node in &nodes {
            until("all nodes know each other", SOON, async || {
                let info: String = node.run("CLUSTER INFO").await?;
                let good = info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:4");
                Ok(good.then_some(()))
            })
            .await?;
        }
        let slot: u16 = nodes[0].run("CLUSTER KEYSLOT {robata:test}").await?;
        let owner = usize::from(slot) * 3 / 16_384;
        let replica = nodes.pop().context("the fourth")?;
        let id: String = nodes[owner].run("CLUSTER MYID").await?;
        replica.run::<()>(&format!("CLUSTER REPLICATE {id}")).await?;
        until("the replica has a copy", SOON, async || {
            let info: String = replica.run("INFO replication").await?;
            Ok(info.contains("master_link_status:up").then_some(()))
        })
        .await?;
        // The masters vote for a replica only once they know that it is one.
        for node in &nodes {
            until("all masters know the replica", SOON, async || {
                let replicas: Vec<String> = node.run(&format!("CLUSTER REPLICAS {id}")).await?;
                Ok((!replicas.is_empty()).then_some(()))
            })
            .await?;
        }
        Ok(Self {
            nodes,
            owner,
            replica,
            slot,
        })
    }

    fn owner(&self) -> &Server {
        &self.nodes[self.owner]
    }

    /// A master without the keys.
    fn other(&self) -> &Server {
        &self.nodes[(self.owner + 1) % 3]
    }

    /// Waits until the replica has become the owner of the slot.
    async fn until_the_replica_serves(&self) -> Result<()> {
        until("the replica is a master", SOON, async || {
            let info: String = self.replica.run("INFO replication").await?;
            let state: String = self.replica.run("CLUSTER INFO").await?;
            let good = info.contains("role:master") && state.contains("cluster_state:ok");
            Ok(good.then_some(()))
        })
        .await
    }
}

fn config(server: &Server) -> RedisConfig {
    RedisConfig {
        response_timeout: Duration::from_secs(1),
        connect_timeout: Duration::from_secs(1),
        ..server.config()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_node_leads_to_the_one_that_has_the_keys() -> Result<()> {
    let cluster = Cluster::start().await?;
    for asked in [cluster.other(), &cluster.replica, cluster.owner()] {
        let (queue, one, two) = (RedisQueue::connect(config(asked))?, line("one"), line("two"));
        assert_eq!(queue.check().await?.cluster, Some(true));
        let key = queue.broker_key(&one).await?;
        queue.publish(&one, numbered(0..5)).await?;
        queue.publish(&two, numbered(5..10)).await?;
        let mut request = want(&one, 20, SOON);
        request.lines.push((two.clone(), 1));
        let got = queue.receive(request).await?;
        assert_eq!(got.len(), 10);
        queue.acknowledge(&got[..9]).await?;
        queue.give_back(got[9..].to_vec()).await?;
        let back = collect(&queue, &got[9].line, 1).await?;
        queue.acknowledge(&back).await?;
        // A dropped receive ends, and takes nothing along.
        let waits = tokio::time::timeout(Duration::from_millis(100), queue.receive(want(&one, 5, SOON))).await;
        assert!(waits.is_err());
        queue.publish(&one, numbered(20..21)).await?;
        assert_eq!(collect(&queue, &one, 1).await?.len(), 1);
        assert_eq!(queue.broker_key(&one).await?, key);
        // Another takes over when this one is gone.
        drop(queue);
        let heir = RedisQueue::connect(config(asked))?;
        let left = collect(&heir, &one, 1).await?;
        assert_eq!(number(&left[0])?, 20);
        heir.acknowledge(&left).await?;
        assert_eq!(heir.depth(&one).await?.waiting, 0);
    }
    Ok(())
}

/// Publishes one message after another, and notes which ones the broker took.
async fn publish_until(queue: RedisQueue, line: Line, stop: Arc<AtomicBool>, taken: Arc<Mutex<BTreeSet<usize>>>) {
    let mut next = 0;
    while !stop.load(Ordering::SeqCst) {
        match queue.publish(&line, numbered(next..next + 1)).await {
            Ok(()) => {
                taken.lock().expect("nobody panics with it").insert(next);
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        next += 1;
    }
}

async fn more(taken: &Mutex<BTreeSet<usize>>, count: usize) -> Result<()> {
    let len = || taken.lock().expect("nobody panics with it").len();
    let before = len();
    until("more is published", SOON, async || {
        Ok((len() >= before + count).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_under_load_loses_nothing_that_was_published() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    // Of all nodes it knows only the one that will be gone.
    let (queue, line) = (RedisQueue::connect(config(cluster.owner()))?, line("failover"));
    let (stop, taken) = (Arc::new(AtomicBool::new(false)), Arc::default());
    let publishing = tokio::spawn(publish_until(
        queue.clone(),
        line.clone(),
        Arc::clone(&stop),
        Arc::clone(&taken),
    ));
    let mut got = BTreeSet::new();
    let all_of = |got: &mut BTreeSet<usize>, deliveries: &[robata_core::queue::Delivery]| -> Result<()> {
        for delivery in deliveries {
            got.insert(number(delivery)?);
        }
        Ok(())
    };
    // Somebody waits for a message all the time, at the old master first.
    let receiver = queue.clone();
    let (from, until_stopped) = (line.clone(), Arc::clone(&stop));
    let receiving = tokio::spawn(async move {
        let mut all = Vec::new();
        while !until_stopped.load(Ordering::SeqCst) {
            let Ok(deliveries) = receiver.receive(want(&from, 100, Duration::from_millis(500))).await else {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            };
            // What cannot be acknowledged now is acknowledged later, or comes again.
            drop(receiver.acknowledge(&deliveries).await);
            all.extend(deliveries);
        }
        all
    });
    more(&taken, 200).await?;
    // In agreement: the old master stops its writers until the replica has all.
    cluster.replica.run::<()>("CLUSTER FAILOVER").await?;
    cluster.until_the_replica_serves().await?;
    more(&taken, 200).await?;
    // The only node of the settings dies: the cluster has named the others.
    let owner = cluster.owner;
    cluster.nodes[owner].kill()?;
    more(&taken, 200).await?;
    stop.store(true, Ordering::SeqCst);
    publishing.await?;
    all_of(&mut got, &receiving.await?)?;
    while !taken.lock().expect("nobody panics with it").is_subset(&got) {
        let deliveries = collect(&queue, &line, 1).await?;
        all_of(&mut got, &deliveries)?;
        queue.acknowledge(&deliveries).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_dies_is_followed_to_its_heir() -> Result<()> {
    let mut cluster = Cluster::start().await?;
    let (queue, line) = (RedisQueue::connect(config(cluster.owner()))?, line("dies"));
    queue.publish(&line, numbered(0..10)).await?;
    let copied: i64 = {
        let mut link = cluster.owner().link().await?;
        // Only what this very connection wrote is waited for, and with it all that came before.
        redis::cmd("SET")
            .arg("{robata:test}mark")
            .arg(1)
            .query_async::<()>(&mut link)
            .await?;
        redis::cmd("WAIT").arg(1).arg(5000).query_async(&mut link).await?
    };
    ensure!(copied == 1, "the replica has no copy");
    let owner = cluster.owner;
    cluster.nodes[owner].kill()?;
    let error = queue
        .publish(&line, numbered(10..11))
        .await
        .expect_err("nobody serves yet");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    insist("the heir serves", async || queue.publish(&line, numbered(10..11)).await).await?;
    assert_eq!(collect(&queue, &line, 11).await?.len(), 11);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_moves_to_another_node_is_followed() -> Result<()> {
    let cluster = Cluster::start().await?;
    let (from, to, slot) = (cluster.owner(), cluster.other(), cluster.slot);
    let (queue, old, new) = (RedisQueue::connect(config(from))?, line("old"), line("new"));
    let key = queue.broker_key(&old).await?;
    queue.publish(&old, numbered(0..3)).await?;
    let held = collect(&queue, &old, 1).await?;
    let (from_id, to_id): (String, String) = (from.run("CLUSTER MYID").await?, to.run("CLUSTER MYID").await?);
    to.run::<()>(&format!("CLUSTER SETSLOT {slot} IMPORTING {from_id}"))
        .await?;
    from.run::<()>(&format!("CLUSTER SETSLOT {slot} MIGRATING {to_id}"))
        .await?;
    // Between two nodes: what is still there is served, what is not is told, and will be.
    queue.publish(&old, numbered(3..4)).await?;
    let error = queue
        .publish(&new, numbered(4..5))
        .await
        .expect_err("neither here nor there");
    assert_eq!(
        (error.kind(), error.retry()),
        (ErrorKind::Unavailable, Retry::Yes),
        "{error:?}"
    );
    assert!(error.message().contains("moving"), "{error:?}");
    let keys: Vec<String> = from.run(&format!("CLUSTER GETKEYSINSLOT {slot} 100")).await?;
    ensure!(!keys.is_empty(), "nothing to move");
    from.run::<String>(&format!(
        "MIGRATE 127.0.0.1 {}  0 5000 KEYS {}",
        to.port,
        keys.join(" ")
    ))
    .await?;
    for node in [to, from] {
        node.run::<()>(&format!("CLUSTER SETSLOT {slot} NODE {to_id}")).await?;
    }
    // Without a failed call: the old node has not even begun what it refused.
    queue.publish(&new, numbered(4..5)).await?;
    queue.acknowledge(&held).await?;
    let mut numbers = Vec::new();
    for delivery in collect(&queue, &old, 3).await? {
        numbers.push(number(&delivery)?);
    }
    assert_eq!(numbers, [1, 2, 3]);
    assert_eq!(number(&collect(&queue, &new, 1).await?[0])?, 4);
    assert_eq!(queue.broker_key(&old).await?, key);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_is_told_and_left_as_soon_as_there_is_a_primary() -> Result<()> {
    let (one, two) = (Server::start(&[]).await?, Server::start(&[]).await?);
    two.run::<()>(&format!("REPLICAOF 127.0.0.1 {}", one.port)).await?;
    until("the replica has a copy", SOON, async || {
        let info: String = two.run("INFO replication").await?;
        Ok(info.contains("master_link_status:up").then_some(()))
    })
    .await?;
    let line = line("replica");
    // Behind the one address of the settings stands a replica: told clearly, and tried again.
    let alone = RedisQueue::connect(config(&two))?;
    let error = alone
        .publish(&line, numbered(0..1))
        .await
        .expect_err("it takes no writes");
    assert_eq!(
        (error.kind(), error.retry()),
        (ErrorKind::Unavailable, Retry::Yes),
        "{error:?}"
    );
    assert!(error.message().contains("replica"), "{error:?}");
    let error = alone
        .receive(want(&line, 1, SOON))
        .await
        .expect_err("it takes no writes");
    assert!(error.message().contains("replica"), "{error:?}");
    // Where both are named, whoever takes writes serves.
    let both = RedisQueue::connect(RedisConfig {
        url: format!("{},{}", two.url(), one.url()),
        ..config(&two)
    })?;
    both.publish(&line, numbered(0..1)).await?;
    let waiting = tokio::spawn({
        let (both, line) = (both.clone(), line.clone());
        async move {
            // The first is there; the second comes from the other server.
            collect(&both, &line, 2).await
        }
    });
    until("it was received", SOON, async || {
        Ok((both.depth(&line).await?.unacknowledged == 1).then_some(()))
    })
    .await?;
    let copied: i64 = {
        let mut link = one.link().await?;
        // Only what this very connection wrote is waited for.
        redis::cmd("SET")
            .arg("mark")
            .arg(1)
            .query_async::<()>(&mut link)
            .await?;
        redis::cmd("WAIT").arg(1).arg(5000).query_async(&mut link).await?
    };
    ensure!(copied == 1, "the replica has no copy");
    // They change places, while a receive waits.
    two.run::<()>("REPLICAOF NO ONE").await?;
    one.run::<()>(&format!("REPLICAOF 127.0.0.1 {}", two.port)).await?;
    insist("publish", async || both.publish(&line, numbered(1..2)).await).await?;
    let got = waiting.await??;
    both.acknowledge(&got).await?;
    // And the first one needs nothing but time.
    insist("publish", async || alone.publish(&line, numbered(2..3)).await).await?;
    assert_eq!(number(&collect(&alone, &line, 1).await?[0])?, 2);
    Ok(())
}
