//! A registry's credentials from a program, as Docker's own client asks for them: `docker-credential-NAME get`
//! (<https://github.com/docker/docker-credential-helpers>, `client/client.go`).

use std::{process::Stdio, time::Duration};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
    time::timeout,
};

/// More than this is no answer of a helper.
const MOST_BYTES: u64 = 64 << 10;
/// So much of a helper's complaint is told.
const MOST_CHARS: usize = 300;
/// What a helper says where it has nothing (`credentials/error.go`).
const NOTHING: &str = "credentials not found in native keychain";

/// What a helper answered.
#[derive(Deserialize)]
pub(crate) struct Login {
    #[serde(rename = "Username", default)]
    pub(crate) username: String,
    #[serde(rename = "Secret", default)]
    pub(crate) secret: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// A helper's processes, which end with the asking.
struct Family {
    child: Child,
    group: Option<Pid>,
}

impl Drop for Family {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            // It may have ended already.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

/// Asks the helper of this name for a registry's login; `None` where it says that it has none. The words of an error hold
/// nothing that a helper printed as its answer.
pub(crate) async fn ask(name: &str, registry: &str, limit: Duration) -> Result<Option<Login>, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if !name.bytes().all(plain) {
        return Err(format!("{name:?} is no credential helper's name"));
    }
    let program = format!("docker-credential-{name}");
    let mut command = Command::new(&program);
    command
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    // Our own settings hold passwords that are none of its business.
    for (variable, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"ROBATA_")) {
        command.env_remove(variable);
    }
    let child = command.spawn().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => format!("{program} is not in the PATH"),
        _ => format!("cannot run {program}: {error}"),
    })?;
    let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
    let mut family = Family { child, group };
    let (code, said, complained) = match timeout(limit, talk(&mut family.child, registry)).await {
        Ok(talked) => talked.map_err(|error| format!("cannot talk to {program}: {error}"))?,
        Err(_) => return Err(format!("{program} did not answer within {} s", limit.as_secs_f32())),
    };
    // It has ended by itself, and its id may be another's by now.
    family.group = None;
    if said.len() as u64 > MOST_BYTES || complained.len() as u64 > MOST_BYTES {
        return Err(format!("{program} said more than {} KiB", MOST_BYTES >> 10));
    }
    if code == Some(0) {
        let read = serde_json::from_slice::<Login>(&said).ok();
        return match read.filter(|login| !login.secret.is_empty()) {
            Some(login) => Ok(Some(login)),
            None => Err(format!("the answer of {program} is no login")),
        };
    }
    let words = words(&said, &complained);
    if words.contains(NOTHING) {
        return Ok(None);
    }
    let end = code.map_or_else(|| "was killed".to_owned(), |code| format!("ended with {code}"));
    Err(format!("{program} {end}: {words}"))
}

type Talked = (Option<i32>, Vec<u8>, Vec<u8>);

async fn talk(child: &mut Child, registry: &str) -> std::io::Result<Talked> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let asked = async {
        if let Some(mut stdin) = stdin {
            // One that does not listen says what it has to say all the same.
            let _ = stdin.write_all(registry.as_bytes()).await;
        }
    };
    let ((), said, complained) = tokio::join!(asked, some(stdout), some(stderr));
    let status = child.wait().await?;
    Ok((status.code(), said?, complained?))
}

/// All that is said, to just over the most that it may be.
async fn some(stream: Option<impl AsyncRead + Unpin>) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        stream.take(MOST_BYTES + 1).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

/// A helper's complaint in a line; what may be an answer after all is left out.
fn words(said: &[u8], complained: &[u8]) -> String {
    let clean = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        let secret = text.contains("Secret") || text.contains('{');
        let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let line: String = line
            .chars()
            .filter(|letter| !letter.is_control())
            .take(MOST_CHARS)
            .collect();
        if secret { String::new() } else { line }
    };
    let both = [clean(said), clean(complained)];
    let told: Vec<_> = both
        .iter()
        .filter(|words| !words.is_empty())
        .map(String::as_str)
        .collect();
    if told.is_empty() {
        "it said nothing that can be told".to_owned()
    } else {
        told.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_is_told_in_a_line_and_an_answer_never() {
        assert_eq!(
            words(b"no  such\nregion\x1b[0m\n", b"exit status 1"),
            "no such region[0m; exit status 1"
        );
        let answer = br#"{"Username":"u","Secret":"hunter2"}"#;
        assert_eq!(words(answer, answer), "it said nothing that can be told");
        assert_eq!(words(&[b'x'; 4096], b"").len(), MOST_CHARS);
    }

    #[tokio::test]
    async fn a_name_that_is_a_path_is_not_run() {
        for bad in ["../../bin/sh", "a/b", "a b"] {
            let told = ask(bad, "r.example.com", Duration::from_secs(1)).await.unwrap_err();
            assert!(told.contains("no credential helper's name"), "{told}");
        }
        let told = ask("robata-test-none", "r.example.com", Duration::from_secs(1))
            .await
            .unwrap_err();
        assert_eq!(told, "docker-credential-robata-test-none is not in the PATH");
    }
}
