//! Having the image: found, or pulled once for all who wait for it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use bollard::{models::ImageInspect, query_parameters::CreateImageOptions};
use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, Shared, WeakShared},
};
use robata_core::{
    Error, ErrorKind, Result,
    definition::{DockerOptions, PullPolicy},
    executor::Progress,
};
use tokio::time::timeout;

use crate::{
    credentials::{self, Found},
    engine::Engine,
    error::{Fault, is_room},
    keep,
};

const OPERATION: &str = "docker.pull";

/// An error that several waiters get.
#[derive(Clone, Debug)]
struct SharedError(ErrorKind, String);

type Pull = BoxFuture<'static, Result<(), SharedError>>;

/// Pulls under way, by image. Each lives as long as somebody waits for it: when the last waiter goes, the connection is
/// closed and the engine gives the pull up.
#[derive(Default)]
pub(crate) struct Pulls(Mutex<HashMap<String, WeakShared<Pull>>>);

impl std::fmt::Debug for Pulls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pulls")
    }
}

impl Pulls {
    /// The image, pulled where the policy says so.
    pub(crate) async fn image(
        &self,
        engine: &Arc<Engine>,
        image: &str,
        docker: &DockerOptions,
        progress: Option<&Progress>,
    ) -> Result<ImageInspect> {
        let (policy, platform) = (docker.pull, docker.platform.as_deref());
        if policy != PullPolicy::Always
            && let Some(found) = inspect(engine, image).await?
            && platform.is_none_or(|platform| is_of(&found, platform))
        {
            return Ok(found);
        }
        if policy == PullPolicy::Never {
            let platform = platform.map_or_else(String::new, |platform| format!(" for {platform}"));
            let message = format!("no such image here: {image}{platform}, and pull = \"never\"");
            return Err(Error::new(ErrorKind::ImagePull, OPERATION, message));
        }
        if let Some(Progress(tell)) = progress {
            tell(&format!("pulling {image}"));
        }
        self.pull(engine, image, platform.unwrap_or_default())
            .await
            .map_err(|SharedError(kind, message)| Error::new(kind, OPERATION, message))?;
        let found = inspect(engine, image).await?;
        found.ok_or_else(|| {
            let message = format!("the image {image} went away after it was pulled");
            Error::new(ErrorKind::Unavailable, OPERATION, message)
        })
    }

    fn pull(&self, engine: &Arc<Engine>, image: &str, platform: &str) -> Shared<Pull> {
        // No reference has a space.
        let key = format!("{image} {platform}");
        let mut pulls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A pull that has ended answers nobody else: its image may be gone again, or be another by now.
        if let Some(pull) = pulls.get(&key).and_then(WeakShared::upgrade)
            && pull.peek().is_none()
        {
            return pull;
        }
        pulls.retain(|_, pull| pull.upgrade().is_some());
        let pull = pull(Arc::clone(engine), image.to_owned(), platform.to_owned());
        let pull = pull.boxed().shared();
        if let Some(weak) = pull.downgrade() {
            pulls.insert(key, weak);
        }
        pull
    }
}

pub(crate) async fn inspect(engine: &Engine, image: &str) -> Result<Option<ImageInspect>> {
    match engine.call(|client| client.inspect_image(image)).await {
        Ok(found) => Ok(Some(found)),
        Err(fault) if fault.status() == Some(404) => Ok(None),
        Err(fault) if fault.status() == Some(400) => Err(fault.of_kind(ErrorKind::StartRefused, OPERATION)),
        Err(fault) => Err(fault.into_error(OPERATION)),
    }
}

/// Whether an image is of a platform, `os/architecture[/variant]`; without a variant any will do.
fn is_of(found: &ImageInspect, platform: &str) -> bool {
    let mut asked = platform.split('/');
    let same = |found: &Option<String>, asked: Option<&str>| {
        let found = found.as_deref().filter(|text| !text.is_empty());
        asked.is_none_or(|asked| found.is_none_or(|found| found.eq_ignore_ascii_case(asked)))
    };
    same(&found.os, asked.next()) && same(&found.architecture, asked.next()) && same(&found.variant, asked.next())
}

async fn pull(engine: Arc<Engine>, image: String, platform: String) -> Result<(), SharedError> {
    let shared = |error: Error| SharedError(error.kind(), error.full());
    let Found { credentials, trouble } = match &engine.config.config_json {
        Some(file) => credentials::find(file, &image, engine.config.call_timeout)
            .await
            .map_err(shared)?,
        None => Found::default(),
    };
    let before = keep::before(&engine, &image).await.map_err(shared)?;
    let client = match engine.client().await {
        Ok(client) => client,
        Err(fault) => return Err(shared(fault.into_error(OPERATION))),
    };
    let options = CreateImageOptions {
        from_image: Some(with_tag(&image)),
        platform,
        ..CreateImageOptions::default()
    };
    let mut answers = client.create_image(Some(options), None, credentials);
    loop {
        match timeout(engine.config.pull_stall, answers.next()).await {
            Ok(None) => break,
            Ok(Some(Ok(_))) => {}
            Ok(Some(Err(error))) => return Err(without(trouble, refusal(&image, engine.fault(error)))),
            Err(_) => {
                let secs = engine.config.pull_stall.as_secs();
                let message = format!("pulling {image}: the engine has said nothing for {secs} s");
                return Err(SharedError(ErrorKind::Unavailable, message));
            }
        }
    }
    // The image is there: that it is not remembered as ours only keeps it for ever.
    if let Some(before) = before
        && let Err(error) = before.remember(&engine, &image).await
    {
        tracing::warn!(image, error = %error.full(), "cannot remember that this image was pulled for a job; it will not be removed");
    }
    Ok(())
}

/// A refusal of a pull that went without the credentials which a helper may have had: that passes.
fn without(trouble: Option<String>, refused: SharedError) -> SharedError {
    match (trouble, refused) {
        (Some(trouble), SharedError(ErrorKind::ImagePull, message)) => {
            let message = format!("{message}; it was asked for without the helper's credentials: {trouble}");
            SharedError(ErrorKind::Unavailable, message)
        }
        (_, refused) => refused,
    }
}

/// Without a tag the engine would pull every tag that there is.
fn with_tag(image: &str) -> String {
    let name = image.rsplit('/').next().unwrap_or(image);
    if name.contains([':', '@']) {
        image.to_owned()
    } else {
        format!("{image}:latest")
    }
}

/// Only what the registry calls missing or forbidden is the image's fault; everything else may pass.
fn refusal(image: &str, fault: Fault) -> SharedError {
    let words = fault.words();
    let message = format!("cannot pull {image}: {words}");
    let kind = match &fault {
        Fault::Refused { status: 400, .. } => ErrorKind::StartRefused,
        Fault::Refused { .. } if is_room(&words) => ErrorKind::NoCapacity,
        Fault::Refused { status, .. } if is_missing_or_forbidden(*status, &words) => ErrorKind::ImagePull,
        _ => {
            return SharedError(ErrorKind::Unavailable, {
                let full = fault.into_error(OPERATION).full();
                format!("cannot pull {image}: {full}")
            });
        }
    };
    SharedError(kind, message)
}

/// The engine hands the registry's answers on as words; its status is often a plain 500.
fn is_missing_or_forbidden(status: u16, words: &str) -> bool {
    const PASSING: [&str; 9] = [
        "toomanyrequests",
        "too many requests",
        "no such host",
        "connection refused",
        "connection reset",
        "i/o timeout",
        "tls handshake",
        "unexpected http status: 5",
        "no space left on device",
    ];
    const LASTING: [&str; 10] = [
        "manifest unknown",
        "not found",
        "name unknown",
        "repository does not exist",
        "access denied",
        "unauthorized",
        "authentication required",
        "no basic auth credentials",
        "denied:",
        "no matching manifest",
    ];
    let words = words.to_lowercase();
    let says = |list: &[&str]| list.iter().any(|part| words.contains(part));
    !says(&PASSING) && (status == 404 || status == 401 || status == 403 || says(&LASTING))
}

/// The digest by which a registry knows the image, else the id that the engine gave it.
pub(crate) fn digest(image: &ImageInspect) -> Option<String> {
    let digests = image.repo_digests.iter().flatten();
    let mut known = digests.filter_map(|name| name.split_once('@').map(|(_, digest)| digest));
    known.next().map(str::to_owned).or_else(|| image.id.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_without_a_tag_means_latest() {
        assert_eq!(with_tag("busybox"), "busybox:latest");
        assert_eq!(with_tag("127.0.0.1:5000/a/b"), "127.0.0.1:5000/a/b:latest");
        assert_eq!(with_tag("a/b:1"), "a/b:1");
        assert_eq!(with_tag("a/b@sha256:00"), "a/b@sha256:00");
    }

    #[test]
    fn only_missing_and_forbidden_are_the_images_fault() {
        for lasting in [
            "manifest for x:1 not found: manifest unknown: manifest unknown",
            "pull access denied for x, repository does not exist or may require 'docker login'",
            "Get https://r/v2/x/manifests/1: no basic auth credentials",
            "unauthorized: authentication required",
        ] {
            assert!(is_missing_or_forbidden(500, lasting), "{lasting}");
        }
        for passing in [
            "toomanyrequests: You have reached your pull rate limit. not found",
            "Get https://r/v2/: dial tcp: lookup r: no such host",
            "received unexpected HTTP status: 503 Service Unavailable",
            "Get http://r/v2/: net/http: TLS handshake timeout",
            "Get http://r/v2/: dial tcp 127.0.0.1:9: connect: connection refused",
        ] {
            assert!(!is_missing_or_forbidden(500, passing), "{passing}");
        }
    }
}
