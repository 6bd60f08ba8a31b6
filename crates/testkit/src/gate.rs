//! A way to a Docker engine that can hold one request: whoever asks is between asking and being heard for as long as a
//! test needs, and then the request is passed on, late, or lost. All other requests pass.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

/// Stands before an engine until the test's process ends.
#[derive(Debug)]
pub struct Gate {
    host: String,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    wanted: Option<(String, String)>,
    held: Option<String>,
    verdict: Option<Verdict>,
}

#[derive(Clone, Copy, Debug)]
enum Verdict {
    Pass,
    Lose,
}

impl Gate {
    /// Listens at the socket `at`, and passes everything on to the engine at `engine` (`unix:///PATH`).
    pub fn before(engine: &str, at: &Path) -> io::Result<Self> {
        let engine = engine
            .strip_prefix("unix://")
            .ok_or_else(|| io::Error::other(format!("the gate needs an engine at a Unix socket, not {engine}")))?;
        let engine = PathBuf::from(engine);
        let listener = UnixListener::bind(at)?;
        let shared = Arc::<Shared>::default();
        let own = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let (engine, shared) = (engine.clone(), Arc::clone(&own));
                // A connection that fails is the client's to tell.
                thread::spawn(move || pass(&client, &engine, &shared));
            }
        });
        Ok(Self {
            host: format!("unix://{}", at.display()),
            shared,
        })
    }

    /// The address at which it stands.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Has it hold the next request of this method whose path, without its query, ends so: `("POST", "/start")`.
    pub fn hold(&self, method: &str, path: &str) {
        *self.shared.state() = State {
            wanted: Some((method.to_owned(), path.to_owned())),
            ..State::default()
        };
    }

    /// The first line of the request that is held, once one is.
    #[must_use]
    pub fn held(&self) -> Option<String> {
        self.shared.state().held.clone()
    }

    /// Passes the held request on, and lets the engine's answer through.
    pub fn pass(&self) {
        self.judge(Verdict::Pass);
    }

    /// Ends the held request's connection; the engine never hears of it.
    pub fn lose(&self) {
        self.judge(Verdict::Lose);
    }

    fn judge(&self, verdict: Verdict) {
        self.shared.state().verdict = Some(verdict);
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds what is wanted until it is judged; whether to pass it on.
    fn admits(&self, bytes: &[u8]) -> bool {
        let mut state = self.state();
        let Some(line) = first_line(bytes).filter(|line| state.wants(line)) else {
            return true;
        };
        state.wanted = None;
        state.held = Some(line.to_owned());
        loop {
            match state.verdict {
                Some(Verdict::Pass) => return true,
                Some(Verdict::Lose) => return false,
                None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

impl State {
    fn wants(&self, line: &str) -> bool {
        let mut words = line.split(' ');
        let (Some(method), Some(target)) = (words.next(), words.next()) else {
            return false;
        };
        let path = target.split('?').next().unwrap_or(target);
        let wanted = self.wanted.as_ref();
        wanted.is_some_and(|(wanted, end)| wanted == method && path.ends_with(end.as_str()))
    }
}

/// The first line of a request's head: a client sends each head whole, and only after the answer before.
fn first_line(bytes: &[u8]) -> Option<&str> {
    let end = bytes.iter().position(|byte| *byte == b'\r')?;
    let line = std::str::from_utf8(&bytes[..end]).ok()?;
    line.ends_with(" HTTP/1.1").then_some(line)
}

fn pass(client: &UnixStream, engine: &Path, shared: &Shared) -> io::Result<()> {
    let engine = UnixStream::connect(engine)?;
    let (mut answers, mut back) = (engine.try_clone()?, client.try_clone()?);
    thread::spawn(move || {
        // Either side's end is the connection's.
        let _ = io::copy(&mut answers, &mut back);
        let _ = back.shutdown(Shutdown::Both);
    });
    let asked = forward(client, &engine, shared);
    let _ = client.shutdown(Shutdown::Both);
    let _ = engine.shutdown(Shutdown::Both);
    asked
}

fn forward(mut client: &UnixStream, mut engine: &UnixStream, shared: &Shared) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = client.read(&mut buffer)?;
        if count == 0 || !shared.admits(&buffer[..count]) {
            return Ok(());
        }
        engine.write_all(&buffer[..count])?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_wants_a_request_by_its_method_and_the_end_of_its_path() {
        let state = State {
            wanted: Some(("POST".into(), "/start".into())),
            ..State::default()
        };
        assert!(state.wants("POST /v1.41/containers/x/start HTTP/1.1"));
        assert!(state.wants("POST /v1.41/containers/x/start?a=b HTTP/1.1"));
        for other in [
            "GET /v1.41/containers/x/start HTTP/1.1",
            "POST /v1.41/containers/x/stop?start HTTP/1.1",
        ] {
            assert!(!state.wants(other), "{other}");
        }
        assert_eq!(
            first_line(b"POST /a HTTP/1.1\r\nhost: x\r\n\r\n"),
            Some("POST /a HTTP/1.1")
        );
        assert_eq!(first_line(b"a file's bytes\r\n"), None);
    }
}
