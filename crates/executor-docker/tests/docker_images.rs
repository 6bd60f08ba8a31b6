//! Images: present, pulled, missing, forbidden, and a registry that cannot be reached.

#[expect(dead_code, reason = "this test binary uses a part of it")]
mod support;

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use robata_core::{
    ErrorKind, InstallationId,
    definition::PullPolicy,
    executor::{Executor, Progress, Spec},
    finish::End,
};
use robata_executor_docker::{DockerConfig, DockerExecutor};

fn executor(config: &DockerConfig) -> DockerExecutor {
    DockerExecutor::connect(config.clone()).expect("connect")
}

fn of_image(image: &str, pull: PullPolicy) -> Spec {
    let mut spec = support::sh("exit 0");
    spec.image = Some(image.to_owned());
    spec.docker.pull = pull;
    spec
}

fn config_json(folder: &Path, registry: &str, user: &str, password: &str) -> std::path::PathBuf {
    let file = folder.join("config.json");
    let auth = STANDARD.encode(format!("{user}:{password}"));
    std::fs::write(&file, format!(r#"{{"auths": {{"{registry}": {{"auth": "{auth}"}}}}}}"#)).expect("write");
    file
}

async fn forget_image(config: &DockerConfig, image: &str) {
    let options = bollard::query_parameters::RemoveImageOptions {
        force: true,
        ..Default::default()
    };
    // Absent already is as good.
    support::client(config)
        .remove_image(image, Some(options), None)
        .await
        .ok();
}

#[tokio::test]
async fn an_image_is_pulled_from_a_registry_where_it_is_absent_and_the_waiting_is_told() {
    let config = support::config(InstallationId::new());
    let image = format!("{}/robata-test/busybox:1", support::variable("ROBATA_TEST_REGISTRY"));
    forget_image(&config, &image).await;
    let executor = executor(&config);
    let told = Arc::new(Mutex::new(Vec::new()));
    let mut request = support::request(of_image(&image, PullPolicy::IfAbsent));
    let teller = Arc::clone(&told);
    request.progress = Some(Progress(Arc::new(move |words| {
        teller.lock().unwrap().push(words.to_owned())
    })));
    let made = executor.prepare(request.clone()).await.expect("prepare");
    assert_eq!(*told.lock().unwrap(), [format!("pulling {image}")]);
    assert!(made.image_digest.expect("a digest").starts_with("sha256:"));
    // It is there now: nothing is pulled, and nothing told.
    request.name += "-2";
    executor.prepare(request).await.expect("prepare again");
    assert_eq!(told.lock().unwrap().len(), 1);
    support::empty(&config).await;
    forget_image(&config, &image).await;
}

#[tokio::test]
async fn many_prepares_of_an_absent_image_share_a_pull_from_the_registry() {
    let config = support::config(InstallationId::new());
    let image = format!("{}/robata-test/busybox:1", support::variable("ROBATA_TEST_REGISTRY"));
    let executor = executor(&config);
    let prepares = (0..6).map(|_| executor.prepare(support::request(of_image(&image, PullPolicy::Always))));
    for made in futures::future::join_all(prepares).await {
        made.expect("prepare");
    }
    support::empty(&config).await;
}

#[tokio::test]
async fn an_image_that_is_missing_in_the_registry_is_refused_with_the_engines_words() {
    let config = support::config(InstallationId::new());
    let registry = support::variable("ROBATA_TEST_REGISTRY");
    let executor = executor(&config);
    for image in [
        format!("{registry}/robata-test/nothing:1"),
        format!("{registry}/robata-test/busybox:no-such-tag"),
    ] {
        let error = executor
            .prepare(support::request(of_image(&image, PullPolicy::IfAbsent)))
            .await
            .expect_err("missing");
        assert_eq!(error.kind(), ErrorKind::ImagePull, "{error:?}");
        assert!(error.message().contains("not found"), "{error}");
        assert!(error.message().contains(&image), "{error}");
    }
}

#[tokio::test]
async fn an_image_that_is_absent_is_not_pulled_where_the_policy_is_never() {
    let config = support::config(InstallationId::new());
    let spec = of_image("robata-test/never-here:1", PullPolicy::Never);
    let error = executor(&config)
        .prepare(support::request(spec))
        .await
        .expect_err("absent");
    assert_eq!(error.kind(), ErrorKind::ImagePull, "{error:?}");
}

#[tokio::test]
async fn a_reference_that_is_none_is_refused_as_described_wrongly() {
    let config = support::config(InstallationId::new());
    let spec = of_image("NOT A REFERENCE", PullPolicy::IfAbsent);
    let error = executor(&config)
        .prepare(support::request(spec))
        .await
        .expect_err("no reference");
    assert_eq!(error.kind(), ErrorKind::StartRefused, "{error:?}");
}

#[tokio::test]
async fn a_private_registry_takes_the_credentials_of_config_json_and_refuses_others() {
    let folder = tempfile::tempdir().unwrap();
    let registry = support::variable("ROBATA_TEST_REGISTRY_AUTH");
    let image = format!("{registry}/robata-test/busybox:1");
    let mut config = support::config(InstallationId::new());
    forget_image(&config, &image).await;
    let pull = || support::request(of_image(&image, PullPolicy::Always));

    let error = executor(&config).prepare(pull()).await.expect_err("no credentials");
    assert_eq!(error.kind(), ErrorKind::ImagePull, "{error:?}");

    let user = support::variable("ROBATA_TEST_REGISTRY_USER");
    config.config_json = Some(config_json(folder.path(), &registry, &user, "wrong"));
    let running = executor(&config);
    let error = running.prepare(pull()).await.expect_err("wrong credentials");
    assert_eq!(error.kind(), ErrorKind::ImagePull, "{error:?}");
    assert!(!error.full().contains("wrong"), "a password is never told: {error:?}");

    // A login while we run counts at once.
    let password = support::variable("ROBATA_TEST_REGISTRY_PASSWORD");
    config_json(folder.path(), &registry, &user, &password);
    let handle = running.prepare(pull()).await.expect("right credentials").handle;
    running.start(&handle).await.expect("start");
    assert_eq!(support::ending(&running, &handle).await.end, End::Exited(0));
    support::empty(&config).await;
    forget_image(&config, &image).await;
}

#[tokio::test]
async fn a_registry_that_cannot_be_reached_is_waiting_and_not_the_images_fault() {
    let config = support::config(InstallationId::new());
    // A port that was free a moment ago: nobody listens there.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let spec = of_image(&format!("127.0.0.1:{port}/robata-test/busybox:1"), PullPolicy::IfAbsent);
    let error = executor(&config)
        .prepare(support::request(spec))
        .await
        .expect_err("nobody there");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.full().contains("connection refused"), "{error:?}");
}

/// A registry that answers with what it is told to, or takes connections and says nothing.
async fn fake_registry(
    answer: Option<&'static str>,
) -> (u16, tokio::sync::watch::Receiver<usize>, tokio::task::JoinHandle<()>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let (open, opened) = tokio::sync::watch::channel(0);
    let open = Arc::new(open);
    let serve = tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let open = Arc::clone(&open);
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                open.send_modify(|count| *count += 1);
                while socket.read(&mut buffer).await.is_ok_and(|read| read > 0) {
                    if let Some(answer) = answer {
                        socket.write_all(answer.as_bytes()).await.ok();
                    }
                }
                open.send_modify(|count| *count -= 1);
            });
        }
    });
    (port, opened, serve)
}

#[tokio::test]
async fn too_many_requests_at_a_registry_are_waiting() {
    let config = support::config(InstallationId::new());
    let body = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}"#;
    let answer = format!(
        "HTTP/1.1 429 Too Many Requests\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let (port, _, serve) = fake_registry(Some(answer.leak())).await;
    let spec = of_image(&format!("127.0.0.1:{port}/robata-test/busybox:1"), PullPolicy::IfAbsent);
    let error = executor(&config)
        .prepare(support::request(spec))
        .await
        .expect_err("refused for now");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    serve.abort();
}

#[tokio::test]
async fn dropping_a_prepare_aborts_its_pull_from_the_registry() {
    let config = support::config(InstallationId::new());
    let (port, mut open, serve) = fake_registry(None).await;
    let executor = executor(&config);
    let spec = of_image(&format!("127.0.0.1:{port}/robata-test/busybox:1"), PullPolicy::IfAbsent);
    let mut prepare = Box::pin(executor.prepare(support::request(spec)));
    tokio::select! {
        made = &mut prepare => panic!("the registry says nothing: {made:?}"),
        connected = open.wait_for(|open| *open > 0) => { connected.unwrap(); }
    }
    drop(prepare);
    tokio::time::timeout(support::STATE, open.wait_for(|open| *open == 0))
        .await
        .expect("the engine hangs up")
        .unwrap();
    serve.abort();
}
