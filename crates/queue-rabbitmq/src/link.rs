//! A connection that is made at first use and again after its end, with back-off. There are two of them: what is published
//! must not hold up what is received and settled, for a broker in need reads nothing more from whoever publishes.

use std::{fmt, sync::Arc, time::Duration};

use lapin::{tcp::OwnedTLSConfig, uri::AMQPUri};
use tokio::{sync::Mutex, time::Instant};

use crate::{
    RabbitMqConfig,
    connect::{self, Live},
    error::Fault,
    greet::greet,
};

/// After a first failure; doubled by each further one.
const REST: Duration = Duration::from_millis(100);
const LONGEST_REST: Duration = Duration::from_secs(2);

/// One connection, or when to try for it again.
pub(crate) struct Link {
    addresses: Vec<AMQPUri>,
    tls: OwnedTLSConfig,
    /// The connection's name at the broker.
    name: String,
    connect_timeout: Duration,
    response_timeout: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    live: Option<Arc<Live>>,
    /// Which address is tried first: the one that served last.
    first: usize,
    failures: u32,
    rest: Option<(Instant, String)>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // An address' own words hold the password.
        f.debug_struct("Link").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Link {
    /// Reads addresses and certificates; no broker need be up for it.
    pub(crate) fn new(config: &RabbitMqConfig, what: &str) -> Result<Self, Fault> {
        Ok(Self {
            addresses: connect::addresses(config)?,
            tls: connect::tls(config)?,
            name: format!("robata.{} {what}", config.installation),
            connect_timeout: config.connect_timeout,
            response_timeout: config.response_timeout,
            state: Mutex::default(),
        })
    }

    /// The connection; a new one where there is none. Within a rest after failures, that failure again.
    pub(crate) async fn get(&self) -> Result<Arc<Live>, Fault> {
        let mut state = self.state.lock().await;
        if let Some(live) = state.live.as_ref().filter(|live| live.is_good()) {
            return Ok(Arc::clone(live));
        }
        state.live = None;
        if let Some((until, last)) = &state.rest {
            let left = until.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                let last = last.clone();
                return Err(Fault::Resting { last, left });
            }
        }
        match self.open(state.first).await {
            Ok((address, live)) => {
                state.failures = 0;
                state.rest = None;
                state.first = address;
                let live = Arc::new(live);
                state.live = Some(Arc::clone(&live));
                Ok(live)
            }
            Err(fault) => {
                let rest = REST.saturating_mul(1 << state.failures.min(10)).min(LONGEST_REST);
                state.failures = state.failures.saturating_add(1);
                state.rest = Some((Instant::now() + jittered(rest), full(&fault)));
                Err(fault)
            }
        }
    }

    /// Tries one address after the other.
    async fn open(&self, first: usize) -> Result<(usize, Live), Fault> {
        let mut told: Option<Fault> = None;
        let count = self.addresses.len();
        for index in (0..count).map(|step| (first + step) % count) {
            match self.open_one(&self.addresses[index]).await {
                Ok(live) => return Ok((index, live)),
                // What a broker says tells more than an address where there is none.
                Err(fault) => {
                    if told.as_ref().is_none_or(|told| told.reply().is_none()) {
                        told = Some(fault);
                    }
                }
            }
        }
        Err(told.unwrap_or(Fault::OtherProtocol))
    }

    async fn open_one(&self, address: &AMQPUri) -> Result<Live, Fault> {
        let version = greet(address, &self.tls, self.connect_timeout).await?;
        let uri = address.clone();
        let opening = Live::open(uri, self.tls.clone(), self.name.clone(), version, self.response_timeout);
        let opened = tokio::time::timeout(self.connect_timeout, opening).await;
        opened.unwrap_or(Err(Fault::Silent(self.connect_timeout)))
    }
}

fn full(fault: &Fault) -> String {
    match std::error::Error::source(fault) {
        Some(source) => format!("{fault}: {source}"),
        None => fault.to_string(),
    }
}

/// Between half of it and all of it, so that many clients do not come at once.
fn jittered(time: Duration) -> Duration {
    let random = u32::from(uuid::Uuid::new_v4().as_bytes()[0]);
    time / 2 + time / 2 * random / 255
}
