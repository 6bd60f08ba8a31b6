//! Image references, read as the engine reads them, and the patterns that allow them.
//!
//! A pattern is compared part by part, registry with registry and tag with tag, so that no text of one part can pass for
//! another: neither `registry.example.com.evil.org/x` nor `evil.org/registry.example.com/x` is
//! `registry.example.com/*`, and `registry:5000/x` is not `registry:*`.

use super::glob;

/// The registry of references that name none, and the folder of its images without one
/// (<https://github.com/distribution/reference/blob/main/normalize.go>).
const HUB: &str = "docker.io";
const OFFICIAL: &str = "library/";
const LATEST: &str = "latest";
/// As the engine's own bounds (<https://github.com/distribution/reference/blob/main/regexp.go>, `NameTotalLengthMax`).
const LONGEST_NAME: usize = 255;
const LONGEST_TAG: usize = 128;

/// An image reference with everything that it leaves out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The registry, as `docker.io` or `127.0.0.1:5000`; empty where the engine may take the text for the id of an image that
    /// it has, wherever that came from (`sha256:…`, or hexadecimal digits alone): only the pattern `*` allows that.
    pub registry: String,
    /// The repository in it, as `library/busybox`.
    pub repository: String,
    /// The tag; `None` where a digest stands alone.
    pub tag: Option<String>,
    /// The digest, as `sha256:…`; the engine goes by it and not by a tag beside it.
    pub digest: Option<String>,
}

impl Reference {
    /// Reads a reference; `None` for what the engine would not take for one.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest).filter(|digest| is_digest(digest))?),
            None => (text, ""),
        };
        let (name, tag) = split_tag(name);
        if digest.is_empty() && is_id(name, tag) {
            return Some(Self {
                registry: String::new(),
                repository: text.to_owned(),
                tag: None,
                digest: None,
            });
        }
        let (registry, repository) = split_registry(name, false);
        let good_tag = |tag: &str| {
            let mut bytes = tag.bytes();
            bytes
                .next()
                .is_some_and(|first| first.is_ascii_alphanumeric() || first == b'_')
                && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
                && tag.len() <= LONGEST_TAG
        };
        let good = registry.is_none_or(is_registry)
            && !repository.is_empty()
            && repository.split('/').all(is_component)
            && tag.is_none_or(good_tag);
        let (registry, repository) = whole(registry, repository);
        // What the engine adds to a short name counts, too.
        let short = registry.len() + 1 + repository.len() <= LONGEST_NAME;
        (good && short).then(|| Self {
            registry,
            repository,
            tag: match (tag, digest) {
                (None, "") => Some(LATEST.to_owned()),
                (tag, _) => tag.map(str::to_owned),
            },
            digest: (!digest.is_empty()).then(|| digest.to_owned()),
        })
    }
}

/// Whether a pattern allows an image. `*` stands for any text of its part:
///
/// - `*`: every image.
/// - `registry.example.com/*`, `*.example.com/*`, `shop/*`: what is before the first slash is the registry where it has a
///   dot, a colon or a `*`, or is `localhost`; else the registry is Docker Hub.
/// - `shop/app`: that repository's `latest` alone. `shop/app:*`: all of its tags and digests. `shop/app:1.*`: these tags,
///   and never a reference that has a digest beside them, for the engine goes by the digest. `shop/app@sha256:…`: this one.
#[must_use]
pub fn image_allowed(pattern: &str, image: &Reference) -> bool {
    if pattern == "*" {
        return true;
    }
    if image.registry.is_empty() {
        return false;
    }
    let (name, digest) = match pattern.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (pattern, None),
    };
    let (name, tag) = split_tag(name);
    let (registry, repository) = split_registry(name, true);
    // `*:2` is of any registry.
    let (registry, repository) = match registry {
        None if repository == "*" => ("*".to_owned(), "*".to_owned()),
        registry => whole(registry, repository),
    };
    if !glob(&registry, &image.registry) || !glob(&repository, &image.repository) {
        return false;
    }
    let any = tag == Some("*") || (tag.is_none() && digest.is_none() && name.ends_with('*'));
    match (digest, &image.digest) {
        _ if any => true,
        (Some(pattern), Some(digest)) => glob(pattern, digest),
        (None, None) => glob(tag.unwrap_or(LATEST), image.tag.as_deref().unwrap_or_default()),
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// The name, and the tag after the last colon that is not a port's.
fn split_tag(name: &str) -> (&str, Option<&str>) {
    match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (name, None),
    }
}

/// The registry, where the name has one, and the repository (`splitDockerDomain` in the reference's normalize.go).
fn split_registry(name: &str, pattern: bool) -> (Option<&str>, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.chars().any(|letter| letter.is_ascii_uppercase())
                || (pattern && first.contains('*')) =>
        {
            (Some(first), rest)
        }
        _ => (None, name),
    }
}

fn whole(registry: Option<&str>, repository: &str) -> (String, String) {
    let registry = match registry {
        None | Some("index.docker.io") => HUB,
        Some(registry) => registry,
    };
    let official = registry == HUB && !repository.contains('/') && repository != "*";
    let folder = if official { OFFICIAL } else { "" };
    (registry.to_owned(), format!("{folder}{repository}"))
}

/// Whether the engine looks for an image by this id, or the beginning of one, where no image has the name (`GetImage` in
/// moby's `daemon/images/image.go`, and its `digestset`).
fn is_id(name: &str, tag: Option<&str>) -> bool {
    let hex = |text: &str| {
        let digit = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f');
        !text.is_empty() && text.bytes().all(digit)
    };
    match tag {
        None => hex(name),
        Some(tag) => name == "sha256" && hex(tag),
    }
}

/// Letters and digits, joined by a dot, one or two underscores, or dashes.
fn is_component(part: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let joined = |joint: &str| matches!(joint, "." | "_" | "__") || joint.bytes().all(|byte| byte == b'-');
    let bytes = part.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    good(*first)
        && good(*last)
        && part
            .split(|letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit())
            .all(|joint| joint.is_empty() || joined(joint))
}

/// A host with an optional port; the engine's grammar, and IPv6 in brackets.
fn is_registry(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let part = |part: &str| {
        let bytes = part.as_bytes();
        bytes.first().is_some_and(u8::is_ascii_alphanumeric)
            && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let six = |text: &str| text.parse::<std::net::Ipv6Addr>().is_ok();
    let good = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => six(address),
        None => host.split('.').all(part),
    };
    good && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// `algorithm:hex`, of at least 32 digits.
fn is_digest(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else {
        return false;
    };
    !algorithm.is_empty()
        && algorithm
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'.' | b'_' | b'-'))
        && hex.len() >= 32
        && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn allows(pattern: &str, image: &str) -> bool {
        image_allowed(
            pattern,
            &Reference::read(image).unwrap_or_else(|| panic!("{image} is none")),
        )
    }

    #[test]
    fn a_reference_is_read_with_what_it_leaves_out() {
        let read = |text: &str| {
            let read = Reference::read(text).unwrap();
            format!("{} {} {:?}", read.registry, read.repository, read.tag)
        };
        assert_eq!(read("busybox"), "docker.io library/busybox Some(\"latest\")");
        assert_eq!(
            read("index.docker.io/library/busybox:1"),
            "docker.io library/busybox Some(\"1\")"
        );
        assert_eq!(read("shop/app:1"), "docker.io shop/app Some(\"1\")");
        assert_eq!(read("localhost/app"), "localhost app Some(\"latest\")");
        assert_eq!(read("127.0.0.1:5000/a/b:x-1"), "127.0.0.1:5000 a/b Some(\"x-1\")");
        assert_eq!(read("[::1]:5000/a"), "[::1]:5000 a Some(\"latest\")");
        assert_eq!(read("Shop/app"), "Shop app Some(\"latest\")");
        assert_eq!(read(&format!("shop/app@{DIGEST}")), "docker.io shop/app None");
    }

    #[test]
    fn what_the_engine_would_not_take_is_no_reference() {
        for bad in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "a b",
            "a\n",
            "A",
            "a/B",
            "a:",
            "a:-x",
            "a:b:c",
            "a@",
            "a@sha256:00",
            "../x",
            "a/../b",
            "registry.example.com/../x",
            "registry.example.com/./x",
            "r.example.com/x:1/y",
            "a..b/c",
            "a___b",
            "-a",
            "a-",
            "a/b_",
            "http://r.example.com/x",
            "user@r.example.com/x",
            "r.example.com:x/a",
            "r.example.com:/a",
            "a?b",
            "a#b",
            "a%2fb",
            "*",
            "shop/*",
        ] {
            assert_eq!(Reference::read(bad), None, "{bad:?}");
        }
        assert_eq!(Reference::read(&"z".repeat(256)), None);
        // With the 18 characters of docker.io/library/ before it.
        assert!(Reference::read(&"z".repeat(237)).is_some());
        assert_eq!(Reference::read(&"z".repeat(238)), None);
        assert_eq!(Reference::read(&format!("a:{}", "b".repeat(129))), None);
    }

    #[test]
    fn a_registry_is_allowed_by_its_whole_name_only() {
        let pattern = "registry.example.com/*";
        for image in [
            "registry.example.com/shop",
            "registry.example.com/shop:1",
            "registry.example.com/team/shop:1",
            &format!("registry.example.com/shop:1@{DIGEST}"),
        ] {
            assert!(allows(pattern, image), "{image}");
        }
        for image in [
            "registry.example.com.evil.org/x",
            "evil.org/registry.example.com/x",
            "evil.org/registry.example.com/x:registry.example.com",
            "registry.example.com:5000/x",
            "REGISTRY.example.com/x",
            "aregistry.example.com/x",
            "registry.example.co/x",
            "busybox",
            "registry/x",
        ] {
            assert!(!allows(pattern, image), "{image}");
        }
        // Without a slash it is an image of Docker Hub, and no registry's prefix.
        assert!(!allows("registry.example.com*", "registry.example.com.evil.org/x"));
        assert!(allows("*.example.com/*", "a.example.com/x") && !allows("*.example.com/*", "evil.org/a.example.com/x"));
        assert!(!allows("registry:*", "registry:5000/evil") && allows("registry:*", "registry:2"));
    }

    #[test]
    fn docker_hub_is_meant_where_no_registry_is_named() {
        for (pattern, image) in [
            ("busybox", "busybox"),
            ("busybox:*", "docker.io/library/busybox:1"),
            ("docker.io/*", "busybox:1"),
            ("docker.io/library/*", "busybox:1"),
            ("library/busybox:latest", "busybox"),
            ("shop/*", "docker.io/shop/app:1"),
            ("*", "r.example.com/x"),
            ("*:2", "r.example.com/x:2"),
            ("*/robata-test/*", "127.0.0.1:5000/robata-test/busybox:1"),
        ] {
            assert!(allows(pattern, image), "{pattern} {image}");
        }
        for (pattern, image) in [
            ("busybox", "shop/busybox"),
            ("busybox", "r.example.com/busybox"),
            ("shop/*", "shop.example.com/x"),
            ("shop/*", "shopping/x"),
            ("localhost/*", "localhost.evil.org/x"),
            ("*:2", "r.example.com/x:3"),
            ("", "busybox"),
        ] {
            assert!(!allows(pattern, image), "{pattern} {image}");
        }
    }

    #[test]
    fn what_may_be_the_id_of_any_image_of_the_engine_is_allowed_where_all_are() {
        for id in [
            "990e77a7c689",
            "sha256:990e77a7",
            "cafe",
            "sha256:990e77a7c689990e77a7c689990e77a7c689990e77a7c689990e77a7c689990e",
        ] {
            assert!(allows("*", id), "{id}");
            for pattern in ["docker.io/*", "library/*", "*/*", "sha256:*", "*:latest", "cafe", id] {
                assert!(!allows(pattern, id), "{pattern} {id}");
            }
        }
        assert!(allows("cafe:*", "cafe:latest") && allows("docker.io/*", "docker.io/library/cafe"));
    }

    #[test]
    fn a_tag_says_nothing_of_a_digest_beside_it() {
        let pinned = format!("shop/app:1@{DIGEST}");
        assert!(allows("shop/app:1", "shop/app:1") && allows("shop/app:1*", "shop/app:1.2"));
        assert!(
            !allows("shop/app:1", "shop/app")
                && !allows("shop/app", "shop/app:1")
                && allows("shop/app", "shop/app:latest")
        );
        assert!(!allows("shop/app:1", &pinned) && !allows("shop/app:1*", &pinned));
        assert!(allows("shop/app:*", &pinned) && allows("shop/*", &pinned));
        assert!(allows(&format!("shop/app@{DIGEST}"), &pinned) && allows("shop/app@sha256:*", &pinned));
        assert!(!allows("shop/app@sha256:ff*", &pinned) && !allows("shop/app@sha256:*", "shop/app:1"));
    }

    proptest! {
        #[test]
        fn what_one_registry_is_allowed_no_other_gets(image in "[a-z0-9./:@_-]{0,40}") {
            if let Some(read) = Reference::read(&image) {
                let allowed = image_allowed("registry.example.com/*", &read);
                prop_assert_eq!(allowed, image.starts_with("registry.example.com/"), "{}", image);
            }
        }

        #[test]
        fn what_is_read_names_the_same_image_when_it_is_written_in_full(image in "([a-z]{1,3}[.:/]?){1,4}[a-z0-9]{1,3}(:[a-z0-9]{1,3})?") {
            if let Some(read) = Reference::read(&image).filter(|read| !read.registry.is_empty()) {
                let tag = read.tag.clone().unwrap_or_default();
                let full = format!("{}/{}:{tag}", read.registry, read.repository);
                prop_assert_eq!(Reference::read(&full), Some(read.clone()), "{}", image);
                // A pattern without a star allows what it says.
                prop_assert!(image_allowed(&full, &read));
            }
        }
    }
}
