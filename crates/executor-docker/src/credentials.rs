//! A registry's credentials as Docker's config.json says: by a helper, or in its `auths`.

use std::{collections::HashMap, path::Path, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bollard::auth::DockerCredentials;
use robata_core::{Error, ErrorKind, Result};
use serde::Deserialize;

use crate::credential_helper::{self, Login};

/// Docker Hub's name in image references, and its key in config.json.
const HUB: &str = "docker.io";
const HUB_KEY: &str = "index.docker.io";
/// Docker Hub as helpers know it.
const HUB_ADDRESS: &str = "https://index.docker.io/v1/";
/// The user's name where a helper's secret is an identity token (docker/cli, `native_store.go`).
const TOKEN: &str = "<token>";

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConfigJson {
    #[serde(default)]
    auths: HashMap<String, Auth>,
    #[serde(default)]
    cred_helpers: HashMap<String, String>,
    creds_store: Option<String>,
}

/// What there is for a registry.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) credentials: Option<DockerCredentials>,
    /// Why a helper that may have had some could not be asked.
    pub(crate) trouble: Option<String>,
}

#[derive(Default, Deserialize)]
struct Auth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl Auth {
    /// Where a helper keeps the credentials, an entry only says that somebody is logged in.
    fn holds(&self) -> bool {
        [&self.auth, &self.username, &self.identitytoken, &self.registrytoken]
            .into_iter()
            .any(|text| text.as_deref().is_some_and(|text| !text.is_empty()))
    }
}

/// The registry's host in an image reference: `docker.io` where it names none.
///
/// The rule is the engine's: the part before the first slash is a host if it has a dot or a colon, or is `localhost`
/// (<https://github.com/distribution/reference/blob/main/normalize.go>, `splitDockerDomain`).
pub(crate) fn registry(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => HUB,
    }
}

/// The credentials for an image's registry, if there are any: the registry's own helper's, else the store's, else those in
/// the file itself. A helper may take so long.
///
/// A helper that fails is no error: it may be meant for other registries, and the image be everybody's.
pub(crate) async fn find(config_json: &Path, image: &str, limit: Duration) -> Result<Found> {
    let text = match std::fs::read_to_string(config_json) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Found::default()),
        Err(error) => return Err(unreadable(config_json).with_source(error)),
    };
    let config: ConfigJson = serde_json::from_str(&text).map_err(|error| malformed(config_json, &error))?;
    let registry = registry(image);
    let own = config.cred_helpers.iter().find(|(key, _)| is_of(key, registry));
    let helper = own.map(|(_, name)| name).or(config.creds_store.as_ref());
    let mut trouble = None;
    if let Some(helper) = helper.filter(|name| !name.is_empty()) {
        let address = if registry == HUB { HUB_ADDRESS } else { registry };
        match credential_helper::ask(helper, address, limit).await {
            Ok(Some(login)) => {
                return Ok(Found {
                    credentials: Some(credentials(login, address)),
                    trouble: None,
                });
            }
            Ok(None) => {}
            Err(words) => {
                tracing::warn!(registry, words, "a credential helper failed");
                trouble = Some(words);
            }
        }
    }
    let credentials = in_file(config, registry, config_json)?;
    Ok(Found { credentials, trouble })
}

fn credentials(login: Login, address: &str) -> DockerCredentials {
    let token = login.username == TOKEN;
    DockerCredentials {
        username: (!token).then_some(login.username),
        password: (!token).then(|| login.secret.clone()),
        identitytoken: token.then_some(login.secret),
        serveraddress: Some(address.to_owned()),
        ..DockerCredentials::default()
    }
}

/// Whether a key of config.json is of this registry.
fn is_of(key: &str, registry: &str) -> bool {
    let host = host_of(key);
    host == registry || (registry == HUB && host == HUB_KEY)
}

fn in_file(config: ConfigJson, registry: &str, config_json: &Path) -> Result<Option<DockerCredentials>> {
    let found = config
        .auths
        .into_iter()
        .find(|(key, auth)| is_of(key, registry) && auth.holds());
    let Some((key, auth)) = found else {
        return Ok(None);
    };
    let (username, password) = match auth.auth.as_deref().filter(|auth| !auth.is_empty()) {
        None => (auth.username, auth.password),
        Some(encoded) => {
            let decoded = STANDARD.decode(encoded).ok();
            let text = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
            // The engine's own files end the password with NULs at times (docker/cli, decodeAuth).
            let pair = text.as_deref().and_then(|text| text.split_once(':'));
            let (user, password) = pair.ok_or_else(|| {
                let path = config_json.display();
                unusable(format!("{path}: \"auth\" of {key:?} is not base64 of user:password"))
            })?;
            let password = password.trim_end_matches('\0').to_owned();
            (Some(user.to_owned()), Some(password))
        }
    };
    Ok(Some(DockerCredentials {
        username,
        password,
        identitytoken: auth.identitytoken.filter(|token| !token.is_empty()),
        registrytoken: auth.registrytoken.filter(|token| !token.is_empty()),
        serveraddress: Some(key),
        ..DockerCredentials::default()
    }))
}

/// A key of `auths` is a host, or an address with scheme and path.
fn host_of(key: &str) -> &str {
    let key = key.split_once("://").map_or(key, |(_, rest)| rest);
    key.split('/').next().unwrap_or(key)
}

fn unreadable(path: &Path) -> Error {
    unusable(format!("cannot read {}", path.display()))
}

/// Where it is wrong, and nothing of what stands there: the reader's own words may repeat a password.
fn malformed(path: &Path, error: &serde_json::Error) -> Error {
    let (path, line, column) = (path.display(), error.line(), error.column());
    unusable(format!(
        "cannot read {path}: line {line}, column {column} is not as Docker writes it"
    ))
}

/// The operator's fault and never a job's; and somebody may be writing the file at this moment.
fn unusable(words: String) -> Error {
    Error::new(ErrorKind::Unavailable, "docker.credentials", words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_is_what_the_engine_takes_it_for() {
        for (image, host) in [
            ("busybox", HUB),
            ("library/busybox:1", HUB),
            ("localhost/x", "localhost"),
            ("127.0.0.1:5000/a/b:1", "127.0.0.1:5000"),
            ("registry.example.com/shop@sha256:00", "registry.example.com"),
        ] {
            assert_eq!(registry(image), host, "{image}");
        }
    }

    async fn found(file: &Path, image: &str) -> Result<Option<DockerCredentials>> {
        let found = find(file, image, Duration::from_secs(5)).await?;
        assert_eq!(found.trouble, None);
        Ok(found.credentials)
    }

    #[tokio::test]
    async fn credentials_are_found_by_the_image() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.json");
        assert!(found(&file, "busybox").await.unwrap().is_none());
        let text = r#"{"auths": {"https://index.docker.io/v1/": {"auth": "dTpwOnE="}, "r.example.com": {"username": "a", "password": "b"}, "bad.example.com": {"auth": "?"}, "elsewhere.example.com": {}}}"#;
        std::fs::write(&file, text).unwrap();
        let hub = found(&file, "busybox").await.unwrap().unwrap();
        assert_eq!(
            (hub.username.as_deref(), hub.password.as_deref()),
            (Some("u"), Some("p:q"))
        );
        let own = found(&file, "r.example.com/x:1").await.unwrap().unwrap();
        assert_eq!(own.username.as_deref(), Some("a"));
        assert!(found(&file, "other.example.com/x").await.unwrap().is_none());
        assert!(found(&file, "elsewhere.example.com/x").await.unwrap().is_none());
        let bad = found(&file, "bad.example.com/x").await.unwrap_err();
        assert_eq!(bad.kind(), ErrorKind::Unavailable);
    }

    #[tokio::test]
    async fn a_file_that_is_wrong_is_told_by_the_place_and_without_a_word_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.json");
        for (text, place) in [
            (r#"{"auths": {"r.example.com": "hunter2"}}"#, "line 1"),
            ("{\"auths\": {\"r.example.com\":\n{\"auth\": [\"hunter2\"]}}}", "line 2"),
            (
                r#"{"auths": {"r.example.com": {"auth": "aHVudGVyMg=="}}}"#,
                "\"auth\" of \"r.example.com\"",
            ),
            (r#"{"credHelpers": {"r.example.com": ["hunter2"]}}"#, "line 1"),
            (r#"{"auths": {"r.example.com": {"password": "hunter2""#, "line 1"),
            ("hunter2", "line 1"),
        ] {
            std::fs::write(&file, text).unwrap();
            let error = found(&file, "r.example.com/x").await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
            let told = format!("{error:?}");
            assert!(told.contains(place) && told.contains("config.json"), "{told}");
            assert!(!told.contains("hunter2") && !told.contains("aHVudGVy"), "{told}");
        }
    }

    #[tokio::test]
    async fn a_helper_that_cannot_be_asked_is_told_and_the_file_still_counts() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.json");
        let text = r#"{"auths": {"r.example.com": {"username": "a", "password": "b"}}, "credsStore": "robata-test-none",
                       "credHelpers": {"own.example.com": "robata-test-other", "none.example.com": ""}}"#;
        std::fs::write(&file, text).unwrap();
        let ask = async |image: &str| find(&file, image, Duration::from_secs(5)).await.unwrap();
        let store = ask("r.example.com/x").await;
        assert!(store.trouble.unwrap().contains("docker-credential-robata-test-none"));
        assert_eq!(store.credentials.unwrap().username.as_deref(), Some("a"));
        let own = ask("own.example.com/x").await;
        assert!(own.trouble.unwrap().contains("docker-credential-robata-test-other"));
        assert!(ask("none.example.com/x").await.trouble.is_none());
    }

    #[test]
    fn an_identity_token_is_no_password() {
        let login = |username: &str| Login {
            username: username.to_owned(),
            secret: "s".to_owned(),
        };
        let token = credentials(login("<token>"), "r.example.com");
        assert_eq!(
            (token.identitytoken.as_deref(), token.password, token.username),
            (Some("s"), None, None)
        );
        let user = credentials(login("u"), "r.example.com");
        assert_eq!((user.identitytoken, user.password.as_deref()), (None, Some("s")));
    }
}
