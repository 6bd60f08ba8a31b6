//! A registry's credentials from the `auths` of Docker's config.json.

use std::{collections::HashMap, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bollard::auth::DockerCredentials;
use robata_core::{Error, ErrorKind, Result};
use serde::Deserialize;

/// Docker Hub's name in image references, and its key in config.json.
const HUB: &str = "docker.io";
const HUB_KEY: &str = "index.docker.io";

#[derive(Default, Deserialize)]
struct ConfigJson {
    #[serde(default)]
    auths: HashMap<String, Auth>,
}

#[derive(Default, Deserialize)]
struct Auth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
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

/// The credentials for an image's registry, if the file holds any.
pub(crate) fn find(config_json: &Path, image: &str) -> Result<Option<DockerCredentials>> {
    let text = match std::fs::read_to_string(config_json) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(config_json).with_source(error)),
    };
    let config: ConfigJson = serde_json::from_str(&text).map_err(|error| unreadable(config_json).with_source(error))?;
    let registry = registry(image);
    let found = config.auths.into_iter().find(|(key, _)| {
        let host = host_of(key);
        host == registry || (registry == HUB && host == HUB_KEY)
    });
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
                Error::new(
                    ErrorKind::Invalid,
                    "docker.credentials",
                    format!(
                        "{}: \"auth\" of {key:?} is not base64 of user:password",
                        config_json.display()
                    ),
                )
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
    // Somebody may be writing it at this moment.
    Error::new(
        ErrorKind::Unavailable,
        "docker.credentials",
        format!("cannot read {}", path.display()),
    )
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

    #[test]
    fn credentials_are_found_by_the_image() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.json");
        assert!(find(&file, "busybox").unwrap().is_none());
        let text = r#"{"auths": {"https://index.docker.io/v1/": {"auth": "dTpwOnE="}, "r.example.com": {"username": "a", "password": "b"}, "bad.example.com": {"auth": "?"}}, "credsStore": "x"}"#;
        std::fs::write(&file, text).unwrap();
        let hub = find(&file, "busybox").unwrap().unwrap();
        assert_eq!(
            (hub.username.as_deref(), hub.password.as_deref()),
            (Some("u"), Some("p:q"))
        );
        let own = find(&file, "r.example.com/x:1").unwrap().unwrap();
        assert_eq!(own.username.as_deref(), Some("a"));
        assert!(find(&file, "other.example.com/x").unwrap().is_none());
        assert_eq!(find(&file, "bad.example.com/x").unwrap_err().kind(), ErrorKind::Invalid);
    }
}
