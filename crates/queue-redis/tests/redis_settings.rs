//! What the server is set to, and what others wrote: told clearly, refused where messages are in danger.

#[expect(dead_code, reason = "each test binary uses a part of it")]
mod server;

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context, Result};
use robata_core::{ErrorKind, Retry, queue::Queue};
use robata_queue_redis::{Eviction, Persistence, RedisConfig, RedisQueue, WholeJobs};
use server::*;

/// What an ACL user needs, as the README says it.
const NEEDED: &str = "+evalsha +eval +script|load +xadd +xack +xdel +xreadgroup +xgroup|create +xgroup|destroy \
    +xgroup|delconsumer +xpending +xrange +xlen +xinfo|groups +xinfo|consumers +xinfo|stream +set +pexpire +exists +multi +exec";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_may_evict_messages_is_refused_until_it_is_set_right() -> Result<()> {
    let server = Server::start(&["--maxmemory-policy", "allkeys-lru"]).await?;
    let (queue, line) = (server.queue()?, line("evict"));
    let error = queue.publish(&line, numbered(0..1)).await.expect_err("it may evict");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.message().contains("maxmemory-policy is allkeys-lru"), "{error:?}");
    let warned = RedisQueue::connect(RedisConfig {
        eviction: Eviction::Warn,
        ..server.config()
    })?;
    warned.publish(&line, numbered(0..1)).await?;
    assert!(matches!(warned.whole_jobs(), WholeJobs::Refused(why) if why.contains("noeviction")));
    server.run::<()>("CONFIG SET maxmemory-policy noeviction").await?;
    insist("publish", async || queue.publish(&line, numbered(1..2)).await).await?;
    // And back: what was good is asked again.
    server.run::<()>("CONFIG SET maxmemory-policy volatile-ttl").await?;
    let error = queue.check().await.expect_err("it may evict again");
    assert!(error.message().contains("volatile-ttl"), "{error:?}");
    queue
        .publish(&line, numbered(1..2))
        .await
        .expect_err("it may evict again");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn persistence_is_told_as_it_is_at_run_time() -> Result<()> {
    let mut server = Server::start(&["--appendonly", "no"]).await?;
    let (queue, line) = (server.queue()?, line("durable"));
    assert_eq!(queue.whole_jobs(), WholeJobs::Unknown);
    let facts = queue.check().await?;
    assert!(facts.version.is_some_and(|version| version.contains('.')));
    assert!(!queue.capabilities().durable);
    assert!(matches!(queue.whole_jobs(), WholeJobs::Refused(why) if why.contains("appendonly is not yes")));
    server.run::<()>("CONFIG SET appendonly yes").await?;
    queue.check().await?;
    assert!(queue.capabilities().durable);
    assert!(matches!(queue.whole_jobs(), WholeJobs::Refused(why) if why.contains("appendfsync is not always")));
    server.run::<()>("CONFIG SET appendfsync always").await?;
    queue.check().await?;
    assert_eq!(queue.whole_jobs(), WholeJobs::Allowed);
    // A new connection asks by itself.
    server.kill()?;
    server.start_again(&["--appendonly", "no"]).await?;
    insist("publish", async || queue.publish(&line, numbered(0..1)).await).await?;
    assert!(matches!(queue.whole_jobs(), WholeJobs::Refused(_)));
    assert!(!queue.capabilities().durable);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_managed_server_is_judged_by_what_it_lets_be_asked() -> Result<()> {
    let line = line("managed");
    // As managed services have it: no CONFIG.
    let server = Server::start(&["--appendonly", "yes", "--rename-command", "CONFIG", ""]).await?;
    let queue = server.queue()?;
    let facts = queue.check().await?;
    assert_eq!((facts.appendonly, facts.fsync_always), (Some(true), None));
    assert_eq!(facts.eviction_policy.as_deref(), Some("noeviction"));
    assert!(
        matches!(queue.whole_jobs(), WholeJobs::Refused(why) if why == "the server does not tell whether appendfsync is always")
    );
    queue.publish(&line, numbered(0..1)).await?;
    let server = Server::start(&["--maxmemory-policy", "volatile-lru", "--rename-command", "CONFIG", ""]).await?;
    let error = server.queue()?.check().await.expect_err("it may evict");
    assert!(error.message().contains("managed service"), "{error:?}");
    // Where nothing is told, nothing is taken for granted, and lines are served all the same.
    let mut options = Vec::new();
    for command in ["CONFIG", "INFO", "HELLO"] {
        options.extend(["--rename-command", command, ""]);
    }
    let server = Server::start(&options).await?;
    let queue = server.queue()?;
    let facts = queue.check().await?;
    assert_eq!(
        (facts.version, facts.appendonly, facts.eviction_policy),
        (None, None, None)
    );
    assert!(!queue.capabilities().durable);
    queue.publish(&line, numbered(0..1)).await?;
    assert_eq!(collect(&queue, &line, 1).await?.len(), 1);
    Ok(())
}

fn user(server: &Server, name: &str) -> RedisConfig {
    RedisConfig {
        url: format!("redis://{name}:secret@127.0.0.1:{}", server.port),
        ..server.config()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_with_the_rights_of_the_readme_and_no_others_can_do_all() -> Result<()> {
    let server = Server::start(&[]).await?;
    let rule = format!("ACL SETUSER anna on >secret ~{{robata:test}}:* {NEEDED}");
    let words: Vec<&str> = rule.split_whitespace().collect();
    server.run::<()>(&words.join(" ")).await?;
    let (queue, line) = (RedisQueue::connect(user(&server, "anna"))?, line("acl"));
    queue.broker_key(&line).await?;
    queue.publish(&line, numbered(0..4)).await?;
    let got = collect(&queue, &line, 4).await?;
    queue.acknowledge(&got[..2]).await?;
    queue.give_back(got[2..].to_vec()).await?;
    assert_eq!(queue.depth(&line).await?.waiting, 2);
    collect(&queue, &line, 2).await?;
    // Without CLIENT UNBLOCK a dropped receive ends with its connection, and loses nothing either.
    let waits = tokio::time::timeout(Duration::from_millis(100), queue.receive(want(&line, 1, SOON))).await;
    assert!(waits.is_err());
    queue.publish(&line, numbered(4..5)).await?;
    let got = collect(&queue, &line, 1).await?;
    assert_eq!(number(&got[0])?, 4);
    // Neither CONFIG nor INFO is allowed: nothing is taken for granted, and the operator's word counts.
    assert!(!queue.capabilities().durable);
    assert!(matches!(queue.whole_jobs(), WholeJobs::Refused(why) if why.contains("does not tell")));
    let told = RedisQueue::connect(RedisConfig {
        persistence: Persistence::Known {
            appendonly: true,
            fsync_always: true,
            noeviction: true,
        },
        ..user(&server, "anna")
    })?;
    told.check().await?;
    assert_eq!(told.whole_jobs(), WholeJobs::Allowed);
    // The dead are buried with these rights, too.
    drop((queue, told));
    let heir = RedisQueue::connect(user(&server, "anna"))?;
    assert_eq!(collect(&heir, &line, 3).await?.len(), 3);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_right_and_a_wrong_password_are_told_clearly() -> Result<()> {
    let server = Server::start(&[]).await?;
    let line = line("rights");
    server
        .run::<()>("ACL SETUSER bob on >secret ~* +@all -xadd -xreadgroup")
        .await?;
    let queue = RedisQueue::connect(user(&server, "bob"))?;
    let error = queue
        .publish(&line, numbered(0..1))
        .await
        .expect_err("XADD is forbidden");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(matches!(error.retry(), Retry::After(_)), "{error:?}");
    assert!(
        error.message().contains("ACL") && error.full().contains("xadd"),
        "{}",
        error.full()
    );
    let error = queue
        .receive(want(&line, 1, SOON))
        .await
        .expect_err("XREADGROUP is forbidden");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    // Each release has words of its own for it.
    let said = ["can't run this command", "'xreadgroup'"];
    assert!(
        error.message().contains("(ACL; ") && said.iter().any(|words| error.full().contains(words)),
        "{}",
        error.full()
    );
    server.run::<()>("ACL SETUSER bob >other <secret").await?;
    let queue = RedisQueue::connect(user(&server, "bob"))?;
    let error = queue
        .publish(&line, numbered(0..1))
        .await
        .expect_err("the password is wrong");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.full().contains("password"), "{}", error.full());
    assert!(!format!("{queue:?} {}", error.full()).contains("secret"));
    Ok(())
}

fn openssl(folder: &Path, arguments: &str) -> Result<()> {
    let output = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(folder)
        .output()
        .context("openssl must be on the PATH to make certificates")?;
    anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_with_an_own_authority_works_and_another_is_refused() -> Result<()> {
    let folder = tempfile::TempDir::new()?;
    for name in ["ca", "other"] {
        openssl(
            folder.path(),
            &format!(
                "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -keyout {name}.key -out {name}.pem -subj /CN={name}"
            ),
        )?;
    }
    std::fs::write(folder.path().join("names"), "subjectAltName=IP:127.0.0.1,DNS:localhost")?;
    openssl(
        folder.path(),
        "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout s.key -out s.csr -subj /CN=redis",
    )?;
    openssl(
        folder.path(),
        "x509 -req -in s.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out s.pem",
    )?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    let port = free_port()?;
    let server = Server::start(&[
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &path("s.pem"),
        "--tls-key-file",
        &path("s.key"),
        "--tls-ca-cert-file",
        &path("ca.pem"),
        "--tls-auth-clients",
        "no",
    ])
    .await?;
    let config = |authority: &str| -> Result<RedisConfig> {
        Ok(RedisConfig {
            url: format!("rediss://localhost:{port}"),
            ca_pem: Some(std::fs::read(folder.path().join(authority))?),
            ..server.config()
        })
    };
    let line = line("tls");
    let queue = RedisQueue::connect(config("ca.pem")?)?;
    queue.publish(&line, numbered(0..1)).await?;
    assert_eq!(collect(&queue, &line, 1).await?.len(), 1);
    let stranger = RedisQueue::connect(config("other.pem")?)?;
    let error = stranger
        .publish(&line, numbered(0..1))
        .await
        .expect_err("nobody knows this authority");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.full().to_lowercase().contains("certificate"), "{}", error.full());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_somebody_else_wrote_is_delivered_with_what_it_has() -> Result<()> {
    let server = Server::start(&[]).await?;
    let (queue, line) = (server.queue()?, line("foreign"));
    queue.publish(&line, numbered(0..1)).await?;
    server
        .run::<String>("XADD {robata:test}:line:foreign/docker * task mail to anna")
        .await?;
    queue.publish(&line, numbered(1..2)).await?;
    let got = collect(&queue, &line, 3).await?;
    let foreign = &got[1].message;
    assert!(foreign.body.is_empty());
    assert_eq!(foreign.attributes.get("foreign:task").map(String::as_str), Some("mail"));
    assert_eq!(foreign.attributes.get("foreign:to").map(String::as_str), Some("anna"));
    // It is settled like any other, and unchanged where it is given back.
    queue.give_back(vec![got[1].clone()]).await?;
    let again = collect(&queue, &line, 1).await?;
    assert_eq!(&again[0].message, foreign);
    queue.acknowledge(&got).await?;
    queue.acknowledge(&again).await?;
    let depth = queue.depth(&line).await?;
    assert_eq!((depth.waiting, depth.unacknowledged), (0, 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_no_stream_is_told_and_keeps_no_other_line_back() -> Result<()> {
    let server = Server::start(&[]).await?;
    let (queue, wrong, good) = (server.queue()?, line("wrong"), line("good"));
    server.run::<()>("SET {robata:test}:line:wrong/docker text").await?;
    for error in [
        queue.publish(&wrong, numbered(0..1)).await.expect_err("publish"),
        queue
            .receive(want(&wrong, 1, Duration::ZERO))
            .await
            .expect_err("receive"),
        queue.broker_key(&wrong).await.map(drop).expect_err("broker key"),
        queue.depth(&wrong).await.map(drop).expect_err("depth"),
    ] {
        assert_eq!(error.kind(), ErrorKind::Internal, "{error:?}");
        assert!(
            error.full().contains("WRONGTYPE") || error.full().contains("wrong kind"),
            "{}",
            error.full()
        );
    }
    queue.publish(&good, numbered(0..3)).await?;
    let mut request = want(&wrong, 10, Duration::ZERO);
    request.lines.push((good.clone(), 1));
    assert_eq!(queue.receive(request).await?.len(), 3);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_options_are_refused_at_once() -> Result<()> {
    for (config, word) in [
        (RedisConfig::new("http://host", "a"), "address"),
        (RedisConfig::new("redis://a,b", "a"), "address"),
        (RedisConfig::new("redis://a,", "a"), "address"),
        (RedisConfig::new("redis://a", "a}b"), "installation"),
        (RedisConfig::new("redis://a", ""), "installation"),
    ] {
        let error = RedisQueue::connect(config).expect_err(word);
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.message().contains(word), "{error:?}");
    }
    Ok(())
}
