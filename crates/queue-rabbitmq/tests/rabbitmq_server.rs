//! The broker itself breaks, runs out of memory, refuses; each test with a node of its own.

#[expect(dead_code, reason = "each test binary uses a part of it")]
mod broker;
mod server;

use std::{cell::RefCell, collections::BTreeSet, time::Duration};

use anyhow::Result;
use broker::{
    traffic::{MESSAGES, Traffic},
    *,
};
use robata_core::{
    ErrorKind, Retry,
    queue::{Message, Queue, Receive},
};
use robata_queue_rabbitmq::{Identity, RabbitMqConfig, RabbitMqQueue};
use robata_testkit::case::until;
use server::Server;
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_killed_in_the_middle_of_everything_loses_nothing() -> Result<()> {
    let mut server = Server::start("").await?;
    let line = line("killed");
    let key = server.queue()?.broker_key(&line).await?;
    let traffic = Traffic::start(server.queue()?, &[server.queue()?, server.queue()?], &line);
    for share in 1..=2 {
        traffic.came(MESSAGES * share / 4).await?;
        server.kill()?;
        server.start_again().await?;
    }
    traffic.finish().await?;
    // A stream is back a moment later than a quorum queue.
    let queue = server.queue()?;
    let after = insist("the key", async || queue.broker_key(&line).await).await?;
    assert_eq!(after, key, "nothing was lost");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_an_operator_closes_again_and_again_lose_nothing() -> Result<()> {
    let server = Server::start("").await?;
    let line = line("closed");
    let traffic = Traffic::start(server.queue()?, &[server.queue()?, server.queue()?], &line);
    for share in 1..=4 {
        traffic.came(MESSAGES * share / 8).await?;
        server.control(&["close_all_connections", "a test"]).await?;
    }
    traffic.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_made_a_moment_before_the_broker_is_killed_is_kept() -> Result<()> {
    let mut server = Server::start("").await?;
    let queue = server.queue()?;
    for turn in 0..3 {
        let line = line(&format!("new{turn}"));
        queue.publish(&line, numbered(0..10)).await?;
        let key = queue.broker_key(&line).await?;
        server.kill()?;
        server.start_again().await?;
        let got = collect(&queue, &line, 10).await?;
        insist("acknowledge", async || queue.acknowledge(&got).await).await?;
        insist("publish", async || queue.publish(&line, numbered(0..1)).await).await?;
        let after = insist("the key", async || queue.broker_key(&line).await).await?;
        assert_eq!(after, key, "nothing was lost");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_does_not_answer_is_told_and_keeps_no_other_line_back() -> Result<()> {
    let server = Server::start("").await?;
    let (queue, mute, other) = (server.queue()?, line("mute"), line("other"));
    for line in [&mute, &other] {
        queue.publish(line, numbered(0..2)).await?;
    }
    // So looks a queue without a leader: whatever it is asked, nobody answers.
    let process = "'%2F_robata.test.line.mute/docker'";
    server.control(&["eval", &format!("sys:suspend({process}).")]).await?;
    let error = queue.publish(&mute, numbered(2..3)).await.expect_err("nobody confirms");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.message().contains("robata.test.line.mute/docker"), "{error:?}");
    assert!(error.message().contains("no leader"), "{error:?}");
    queue.publish(&other, numbered(2..3)).await?;
    let both = |wait| Receive {
        lines: vec![(mute.clone(), 1), (other.clone(), 1)],
        max: 10,
        wait,
    };
    let came = RefCell::new(BTreeSet::new());
    until("the other line is served", SOON, async || {
        let got = queue.receive(both(Duration::from_millis(200))).await?;
        for delivery in &got {
            assert_eq!(delivery.line, other);
            came.borrow_mut().insert(number(delivery)?);
        }
        queue.acknowledge(&got).await?;
        Ok((came.borrow().len() == 3).then_some(()))
    })
    .await?;
    let error = queue.receive(want(&mute, 1, SOON)).await.expect_err("nobody answers");
    assert!(error.message().contains("no leader"), "{error:?}");
    server.control(&["eval", &format!("sys:resume({process}).")]).await?;
    let came = RefCell::new(BTreeSet::new());
    until("the line is served again", SOON * 2, async || {
        // What hung in the broker may end the connection once more.
        let Ok(got) = queue.receive(both(Duration::from_millis(200))).await else {
            return Ok(None);
        };
        for delivery in &got {
            came.borrow_mut().insert(number(delivery)?);
        }
        drop(queue.acknowledge(&got).await);
        let came = came.borrow();
        Ok((came.contains(&0) && came.contains(&1)).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_larger_than_the_broker_takes_is_told_as_invalid() -> Result<()> {
    let server = Server::start("max_message_size = 1000").await?;
    let (queue, line) = (server.queue()?, line("large"));
    let large = Message {
        body: vec![0; 2000].into(),
        ..Message::default()
    };
    let error = queue.publish(&line, vec![large]).await.expect_err("it is too large");
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
    assert!(error.message().contains("max_message_size"), "{error:?}");
    queue.publish(&line, numbered(0..1)).await?;
    Ok(())
}

/// How an alarm is raised and ended.
const ALARMS: [[&[&str]; 2]; 2] = [
    [
        &["set_vm_memory_high_watermark", "absolute", "1"],
        &["set_vm_memory_high_watermark", "0.8"],
    ],
    [&["set_disk_free_limit", "900000GB"], &["set_disk_free_limit", "50MB"]],
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_out_of_memory_or_disk_takes_nothing_says_so_and_lets_messages_out() -> Result<()> {
    let server = Server::start("").await?;
    for [on, off] in ALARMS {
        let (queue, line) = (server.queue()?, line(on[0]));
        queue.publish(&line, numbered(0..6)).await?;
        let held = collect(&queue, &line, 2).await?;
        server.control(on).await?;
        until("it takes nothing", SOON, async || {
            let begun = Instant::now();
            let published = queue.publish(&line, numbered(100..101)).await;
            assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
            Ok(published.is_err().then_some(()))
        })
        .await?;
        let error = queue.publish(&line, numbered(101..102)).await.expect_err("an alarm");
        assert_eq!(error.kind(), ErrorKind::NoCapacity, "{error:?}");
        assert!(matches!(error.retry(), Retry::After(_)), "{error:?}");
        // What is there goes out and comes back: else the memory would stay full for ever.
        let begun = Instant::now();
        queue.acknowledge(&held[..1]).await?;
        queue.give_back(held[1..].to_vec()).await?;
        let got = collect(&queue, &line, 5).await?;
        queue.acknowledge(&got).await?;
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        server.control(off).await?;
        insist("publish", async || queue.publish(&line, numbered(200..201)).await).await?;
        until("it comes", SOON, async || {
            let got = queue.receive(want(&line, 10, Duration::from_millis(200))).await?;
            let came = got.iter().map(number).collect::<Result<Vec<_>>>()?;
            queue.acknowledge(&got).await?;
            Ok(came.contains(&200).then_some(()))
        })
        .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_beyond_the_brokers_patience_comes_again_and_harms_nobody() -> Result<()> {
    let server = Server::start("").await?;
    let (queue, line) = (server.queue()?, line("patience"));
    queue.publish(&line, numbered(0..2)).await?;
    // Half an hour in the field; looked at each minute there.
    for setting in ["consumer_timeout, 1000", "channel_tick_interval, 200"] {
        let set = format!("application:set_env(rabbit, {setting}).");
        server.control(&["eval", &set]).await?;
    }
    let slow = collect(&queue, &line, 1).await?;
    let others = std::cell::Cell::new(0);
    until("it comes again", SOON, async || {
        // Others work on the same connection all this time.
        let got = queue.receive(want(&line, 1, Duration::from_millis(100))).await?;
        let Some(delivery) = got.first() else { return Ok(None) };
        others.set(others.get() + 1);
        let same = number(delivery)? == number(&slow[0])?;
        queue.acknowledge(&got).await?;
        Ok(same.then_some(()))
    })
    .await?;
    assert!(others.get() >= 2, "the other message did not come");
    let error = queue.acknowledge(&slow).await.expect_err("it was another's");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(queue.receive(want(&line, 1, Duration::ZERO)).await?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_a_virtual_host_and_a_permission_are_told_apart() -> Result<()> {
    let server = Server::start("").await?;
    for words in [
        &["add_user", "anna", "secret"][..],
        &["add_vhost", "own"],
        &["add_vhost", "other"],
        // As the README says it.
        &[
            "set_permissions",
            "-p",
            "own",
            "anna",
            r"^robata\.",
            r"^(amq\.default$|robata\.)",
            r"^robata\.",
        ],
        &["set_permissions", "-p", "other", "anna", "^$", "^$", "^$"],
    ] {
        server.control(words).await?;
    }
    let at = |login: &str, vhost: &str| {
        RabbitMqQueue::connect(RabbitMqConfig {
            url: format!("amqp://{login}@127.0.0.1:{}/{vhost}", server.node.port()),
            ..server.config()
        })
    };
    let line = line("permitted");
    for (login, vhost, words) in [
        ("anna:wrong", "own", "refuses the user or the password"),
        ("nobody:secret", "own", "refuses the user or the password"),
        ("anna:secret", "missing", "no such virtual host"),
        ("anna:secret", "%2f", "no such virtual host, or it is not for this user"),
        ("anna:secret", "other", "permissions"),
    ] {
        let queue = at(login, vhost)?;
        let error = queue.publish(&line, numbered(0..1)).await.expect_err(words);
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{login} {vhost}: {error:?}");
        assert!(error.message().contains(words), "{login} {vhost}: {error:?}");
        assert!(matches!(error.retry(), Retry::After(_)), "{login} {vhost}: {error:?}");
        assert!(!error.full().contains("secret"), "{}", error.full());
    }
    let queue = at("anna:secret", "own")?;
    let facts = queue.check().await?;
    assert!(facts.version.contains('.'), "{facts:?}");
    queue.publish(&line, numbered(0..3)).await?;
    let key = queue.broker_key(&line).await?;
    let got = collect(&queue, &line, 3).await?;
    queue.give_back(got).await?;
    queue.acknowledge(&collect(&queue, &line, 3).await?).await?;
    // The same line in another virtual host is another one.
    let root = server.queue()?;
    assert_eq!(root.depth(&line).await?.waiting, 0);
    assert_ne!(root.broker_key(&line).await?, key);
    let left = server.control(&["list_queues", "-p", "own", "name", "type"]).await?;
    assert!(!left.contains("trial"), "the check has left something behind: {left}");
    assert!(left.contains("robata.test.line.permitted/docker\tquorum"), "{left}");
    assert!(left.contains("robata.test.key.permitted/docker\tstream"), "{left}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_needs_the_right_authority_and_the_clients_certificate_where_it_is_asked_for() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let write = |name: &str, text: String| -> Result<String> {
        let path = folder.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    };
    let mut parameters = rcgen::CertificateParams::new(Vec::new())?;
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    parameters.key_usages = vec![
        rcgen::KeyUsagePurpose::KeyCertSign,
        rcgen::KeyUsagePurpose::DigitalSignature,
    ];
    parameters
        .distinguished_name
        .push(rcgen::DnType::CommonName, "test authority");
    let authority_key = rcgen::KeyPair::generate()?;
    let authority_pem = parameters.clone().self_signed(&authority_key)?.pem();
    let authority = rcgen::Issuer::new(parameters, authority_key);
    let signed = |name: &str, purpose| -> Result<(String, String)> {
        let mut parameters = rcgen::CertificateParams::new(vec![name.to_owned()])?;
        parameters.extended_key_usages = vec![purpose];
        let key = rcgen::KeyPair::generate()?;
        Ok((parameters.signed_by(&key, &authority)?.pem(), key.serialize_pem()))
    };
    let (certificate, key) = signed("localhost", rcgen::ExtendedKeyUsagePurpose::ServerAuth)?;
    let (client_certificate, client_key) = signed("client", rcgen::ExtendedKeyUsagePurpose::ClientAuth)?;
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let settings = format!(
        "listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.cacertfile = {}\nssl_options.certfile = {}\n\
         ssl_options.keyfile = {}\nssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true",
        write("ca.pem", authority_pem.clone())?,
        write("server.pem", certificate)?,
        write("server.key", key)?,
    );
    let server = Server::start(&settings).await?;
    let config = RabbitMqConfig {
        url: format!("amqps://guest:guest@localhost:{port}"),
        ca_pem: Some(authority_pem.into_bytes()),
        identity: Some(Identity {
            certificates_pem: client_certificate.into_bytes(),
            key_pem: client_key.into_bytes(),
        }),
        ..server.config()
    };
    let (queue, line) = (RabbitMqQueue::connect(config.clone())?, line("tls"));
    queue.publish(&line, numbered(0..3)).await?;
    queue.acknowledge(&collect(&queue, &line, 3).await?).await?;
    for (wrong, what) in [
        (
            RabbitMqConfig {
                ca_pem: None,
                ..config.clone()
            },
            "an unknown authority",
        ),
        (
            RabbitMqConfig {
                identity: None,
                ..config.clone()
            },
            "no certificate of our own",
        ),
        (
            RabbitMqConfig {
                url: format!("amqps://guest:guest@127.0.0.1:{port}"),
                ..config.clone()
            },
            "another name than the certificate's",
        ),
    ] {
        let begun = Instant::now();
        let error = RabbitMqQueue::connect(wrong)?.depth(&line).await.expect_err(what);
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{what}: {error:?}");
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "{what}: {:?}",
            begun.elapsed()
        );
    }
    Ok(())
}
