//! Credential helpers with a real private registry: right, wrong, none, failing, hanging, and identity tokens.

#[expect(dead_code, reason = "this test binary uses a part of it")]
mod support;

use std::{
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use robata_core::{
    Error, ErrorKind, InstallationId,
    definition::PullPolicy,
    executor::{Executor, Prepared, Spec},
};
use robata_executor_docker::{DockerConfig, DockerExecutor};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The folder of helpers, in the PATH of the process that a test begins again as.
const HELPERS: &str = "ROBATA_TEST_HELPERS";
/// What no error may tell.
const SECRET: &str = "hunter2";

/// The folder of helpers; `None` where the test was begun again with them in its PATH, and is over.
fn helpers(test: &str) -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os(HELPERS) {
        return Some(folder.into());
    }
    let folder = tempfile::tempdir().expect("a folder");
    let (user, password) = (
        support::variable("ROBATA_TEST_REGISTRY_USER"),
        support::variable("ROBATA_TEST_REGISTRY_PASSWORD"),
    );
    let login = |user: &str, secret: &str| format!(r#"printf '{{"Username":"{user}","Secret":"{secret}"}}'"#);
    for (name, script) in [
        (
            "right",
            format!(
                "printf '%s %s' \"$1\" \"$(cat)\" >{}/asked; {}",
                folder.path().display(),
                login(&user, &password)
            ),
        ),
        ("wrong", login(&user, SECRET)),
        (
            "none",
            "echo 'credentials not found in native keychain'; exit 1".to_owned(),
        ),
        (
            "failing",
            format!("echo 'the vault is sealed' >&2; {}; exit 3", login(&user, SECRET)),
        ),
        (
            "hanging",
            format!("echo $$ >{}/pid; sleep 1000 & wait", folder.path().display()),
        ),
        ("garbage", format!("echo {SECRET}")),
        ("flood", "yes".to_owned()),
        ("token", login("<token>", "refresh-me")),
    ] {
        let file = folder.path().join(format!("docker-credential-{name}"));
        std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).expect("write");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).expect("permissions");
    }
    let path = format!("{}:{}", folder.path().display(), support::variable("PATH"));
    let status = std::process::Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", test, "--nocapture"])
        .env(HELPERS, folder.path())
        .env("PATH", path)
        .status()
        .expect("begin again");
    assert!(status.success());
    None
}

struct Registry {
    config: DockerConfig,
    registry: String,
    image: String,
    folder: tempfile::TempDir,
}

impl Registry {
    fn new() -> Self {
        let registry = support::variable("ROBATA_TEST_REGISTRY_AUTH");
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = support::config(InstallationId::new());
        config.config_json = Some(folder.path().join("config.json"));
        Self {
            image: format!("{registry}/robata-test/busybox:1"),
            config,
            registry,
            folder,
        }
    }

    fn write(&self, config_json: &serde_json::Value) {
        std::fs::write(self.folder.path().join("config.json"), config_json.to_string()).expect("write");
    }

    async fn pull(&self) -> Result<Prepared, Error> {
        let mut spec: Spec = support::sh("exit 0");
        spec.image = Some(self.image.clone());
        spec.docker.pull = PullPolicy::Always;
        let executor = DockerExecutor::connect(self.config.clone()).expect("connect");
        let made = executor.prepare(support::request(spec)).await;
        support::empty(&self.config).await;
        made
    }

    /// With this helper for the registry.
    async fn pull_by(&self, helper: &str) -> Result<Prepared, Error> {
        self.write(&serde_json::json!({"credHelpers": {&self.registry: helper}}));
        self.pull().await
    }
}

#[tokio::test]
async fn a_private_registry_is_pulled_from_with_the_login_of_a_helper() {
    let Some(folder) = helpers("a_private_registry_is_pulled_from_with_the_login_of_a_helper") else {
        return;
    };
    let registry = Registry::new();
    registry.pull_by("right").await.expect("pulled");
    let asked = std::fs::read_to_string(folder.join("asked")).expect("it was asked");
    assert_eq!(asked, format!("get {}", registry.registry));
    // The same as the store of all registries; one of the registry's own goes before it, and an entry of `auths` that
    // only says that somebody is logged in counts as none.
    registry.write(&serde_json::json!({"auths": {&registry.registry: {}}, "credsStore": "right"}));
    registry.pull().await.expect("pulled");
    registry.write(&serde_json::json!({"credHelpers": {&registry.registry: "right"}, "credsStore": "wrong"}));
    registry.pull().await.expect("pulled");
    // A helper that has nothing leaves the file's own.
    let auths = serde_json::json!({&registry.registry: {
        "username": support::variable("ROBATA_TEST_REGISTRY_USER"),
        "password": support::variable("ROBATA_TEST_REGISTRY_PASSWORD"),
    }});
    registry.write(&serde_json::json!({"auths": auths, "credsStore": "none"}));
    registry.pull().await.expect("pulled");
}

#[tokio::test]
async fn a_wrong_or_missing_login_of_a_helper_is_refused_by_the_registry() {
    if helpers("a_wrong_or_missing_login_of_a_helper_is_refused_by_the_registry").is_none() {
        return;
    }
    let registry = Registry::new();
    for helper in ["wrong", "none"] {
        let error = registry.pull_by(helper).await.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::ImagePull, "{helper}: {error:?}");
        assert!(!error.full().contains(SECRET), "{error:?}");
    }
}

#[tokio::test]
async fn a_helper_that_fails_is_told_beside_the_registrys_refusal_and_is_waited_for() {
    if helpers("a_helper_that_fails_is_told_beside_the_registrys_refusal_and_is_waited_for").is_none() {
        return;
    }
    let mut registry = Registry::new();
    for (helper, words) in [
        ("failing", "docker-credential-failing ended with 3: the vault is sealed"),
        ("garbage", "the answer of docker-credential-garbage is no login"),
        ("flood", "docker-credential-flood said more than 64 KiB"),
        ("not-there", "docker-credential-not-there is not in the PATH"),
    ] {
        let error = registry.pull_by(helper).await.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{helper}: {error:?}");
        assert!(error.full().contains(words), "{words} is not in {error:?}");
        assert!(!error.full().contains(SECRET), "{error:?}");
    }
    // An image that is everybody's needs no helper.
    registry.registry = support::variable("ROBATA_TEST_REGISTRY");
    registry.image = format!("{}/robata-test/busybox:1", registry.registry);
    registry.pull_by("failing").await.expect("pulled");
}

#[tokio::test]
async fn a_helper_that_hangs_is_given_up_in_time_with_its_children_and_the_registry_asked_without() {
    let test = "a_helper_that_hangs_is_given_up_in_time_with_its_children_and_the_registry_asked_without";
    let Some(folder) = helpers(test) else {
        return;
    };
    let mut registry = Registry::new();
    registry.config.call_timeout = Duration::from_secs(5);
    let begun = Instant::now();
    let error = registry.pull_by("hanging").await.expect_err("refused");
    assert!(begun.elapsed() < support::STATE, "{:?}", begun.elapsed());
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(
        error
            .full()
            .contains("docker-credential-hanging did not answer within 5 s"),
        "{error:?}"
    );
    let group = std::fs::read_to_string(folder.join("pid")).expect("it ran");
    ended(group.trim()).await;
}

/// Waits until no process of a group is left.
async fn ended(group: &str) {
    let begun = Instant::now();
    let of_group = |stat: &str| {
        // The command's name is in brackets and may hold anything; state, parent and group follow it.
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let mut fields = rest.split_whitespace();
        fields.next() != Some("Z") && fields.nth(1) == Some(group)
    };
    loop {
        let entries = std::fs::read_dir("/proc").expect("proc").flatten();
        let mut stats = entries.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
        if !stats.any(|stat| of_group(&stat)) {
            return;
        }
        assert!(begun.elapsed() < support::STATE, "processes of the helper are left");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn an_identity_token_of_a_helper_is_exchanged_at_the_registry() {
    if helpers("an_identity_token_of_a_helper_is_exchanged_at_the_registry").is_none() {
        return;
    }
    let (port, asked, serve) = token_registry().await;
    let mut registry = Registry::new();
    registry.registry = format!("127.0.0.1:{port}");
    registry.image = format!("127.0.0.1:{port}/robata-test/busybox:1");
    let error = registry.pull_by("token").await.expect_err("it has no images");
    assert_eq!(error.kind(), ErrorKind::ImagePull, "{error:?}");
    let asked = asked.lock().unwrap().clone();
    let exchange = asked.iter().find(|request| request.starts_with("POST /token"));
    let exchange = exchange.unwrap_or_else(|| panic!("no exchange: {asked:#?}"));
    assert!(exchange.contains("grant_type=refresh_token"), "{exchange}");
    assert!(exchange.contains("refresh_token=refresh-me"), "{exchange}");
    let manifest = asked.iter().find(|request| request.contains("/manifests/1"));
    assert!(manifest.is_some_and(|request| request.to_lowercase().contains("authorization: bearer granted")));
    serve.abort();
}

/// A registry without images that takes tokens, and what it was asked.
async fn token_registry() -> (u16, Arc<Mutex<Vec<String>>>, tokio::task::JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let heard = Arc::clone(&asked);
    let serve = tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let heard = Arc::clone(&heard);
            tokio::spawn(async move {
                while let Some(request) = request(&mut socket).await {
                    let answer = answer(&request, port);
                    heard.lock().expect("a lock").push(request);
                    if socket.write_all(answer.as_bytes()).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    (port, asked, serve)
}

/// One request, head and body.
async fn request(socket: &mut tokio::net::TcpStream) -> Option<String> {
    let mut read = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&read).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
            if body.len() >= length.unwrap_or(0_usize) {
                return Some(text);
            }
        }
        let mut some = [0; 4096];
        match socket.read(&mut some).await {
            Ok(count) if count > 0 => read.extend_from_slice(&some[..count]),
            _ => return None,
        }
    }
}

fn answer(request: &str, port: u16) -> String {
    let whole = |status: &str, more: &str, body: &str| {
        let length = body.len();
        format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{more}content-length: {length}\r\n\r\n{body}")
    };
    let granted = request.to_lowercase().contains("authorization: bearer granted");
    if request.starts_with("POST /token") {
        whole(
            "200 OK",
            "",
            r#"{"access_token":"granted","token_type":"Bearer","expires_in":300,"scope":""}"#,
        )
    } else if !granted {
        let realm =
            format!("www-authenticate: Bearer realm=\"http://127.0.0.1:{port}/token\",service=\"robata-test\"\r\n");
        whole(
            "401 Unauthorized",
            &realm,
            r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#,
        )
    } else if request.starts_with("GET /v2/ ") {
        whole("200 OK", "", "{}")
    } else {
        whole(
            "404 Not Found",
            "",
            r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#,
        )
    }
}
