//! One connection, to the server that serves this installation's keys, and how that server is found.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionInfo, IntoConnectionInfo, TlsCertificates, Value,
    aio::MultiplexedConnection, io::tcp::TcpSettings,
};

use crate::{
    RedisConfig,
    error::Fault,
    keys::Keys,
    nodes::{self, Nodes},
};

/// How often one node may send us to another, until they are taken not to know.
const REDIRECTS: usize = 5;

/// One connection; clones share it.
pub(crate) type Link = MultiplexedConnection;

/// Where connections come from.
pub(crate) struct Source {
    seeds: Vec<ConnectionInfo>,
    nodes: Mutex<Nodes>,
    /// A key in the slot of all others, under which nothing ever is.
    probe: String,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // An address' own words hold the password.
        f.debug_struct("Source").field("addresses", &self.seeds.len()).finish()
    }
}

impl Source {
    /// Reads addresses and certificates; no server need be up for it.
    pub(crate) fn new(config: &RedisConfig) -> Result<Self, Fault> {
        let seeds = config.url.split(',').map(|url| seed(url.trim(), config));
        Ok(Self::of(seeds.collect::<Result<_, _>>()?, config))
    }

    /// The address of a client that somebody made.
    pub(crate) fn of_client(client: &Client, config: &RedisConfig) -> Self {
        Self::of(vec![client.get_connection_info().clone()], config)
    }

    fn of(seeds: Vec<ConnectionInfo>, config: &RedisConfig) -> Self {
        Self {
            seeds,
            nodes: Mutex::default(),
            probe: Keys::new(&config.installation).probe(),
        }
    }

    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new connection to whoever serves: the first address that takes writes to this installation's keys, or whom one
    /// of them names. Answers are waited for by whoever asks, not by the connection.
    pub(crate) async fn open(&self, config: &RedisConfig) -> Result<Link, Fault> {
        let opening = async {
            let mut told: Option<Fault> = None;
            let round = self.nodes().round(&self.seeds);
            for info in round {
                self.nodes().tries();
                let fault = match self.follow(info, config).await {
                    Ok(link) => return Ok(link),
                    Err(fault) => fault,
                };
                // What a server says tells more than an address where there is none.
                if told.as_ref().is_none_or(|told| !told.is_answer() && fault.is_answer()) {
                    told = Some(fault);
                }
            }
            Err(told.unwrap_or(Fault::Silent(config.connect_timeout)))
        };
        match tokio::time::timeout(config.connect_timeout, opening).await {
            Ok(opened) => opened,
            Err(_) => Err(Fault::Silent(config.connect_timeout)),
        }
    }

    /// Connects to this address, and to where it says that the keys are.
    async fn follow(&self, mut info: ConnectionInfo, config: &RedisConfig) -> Result<Link, Fault> {
        let mut redirects = 0;
        loop {
            let mut link = connect(&info, config).await?;
            // A write that changes nothing: neither a replica nor a node without the keys takes it. Whatever else is
            // wrong here, whoever asks is told by his own question.
            let mut probe = redis::cmd("XDEL");
            probe.arg(&self.probe).arg("0-0");
            let fault = match probe.query_async::<Value>(&mut link).await {
                Ok(_) => None,
                Err(error) => Some(Fault::Redis(error)).filter(Fault::ends_connection),
            };
            let Some(fault) = fault else {
                if self.nodes().serves(&info) {
                    tracing::info!(address = %info.addr(), "redis: another server serves now");
                }
                return Ok(link);
            };
            match fault.moved_to().and_then(|text| nodes::place(text, &info)) {
                Some(place) if redirects < REDIRECTS => {
                    redirects += 1;
                    info = nodes::at(&info, &place);
                }
                _ => return Err(fault),
            }
        }
    }

    /// Asks a cluster for its nodes, so that it is found again when those of the settings are gone.
    pub(crate) async fn learn(&self, link: &mut Link, config: &RedisConfig) -> Result<(), Fault> {
        let mut slots = redis::cmd("CLUSTER");
        slots.arg("SLOTS");
        let asked = tokio::time::timeout(config.response_timeout, slots.query_async::<Value>(link)).await;
        match asked.map_err(|_| Fault::Silent(config.response_timeout))? {
            Ok(answer) => {
                let mut nodes = self.nodes();
                if let Some(asked) = nodes.serving().or(self.seeds.first()).cloned() {
                    nodes.learn(nodes::places(answer, &asked));
                }
                Ok(())
            }
            Err(error) => match Fault::Redis(error) {
                fault if fault.ends_connection() => Err(fault),
                // An ACL may forbid it: then the addresses of the settings must do.
                _ => Ok(()),
            },
        }
    }
}

fn seed(url: &str, config: &RedisConfig) -> Result<ConnectionInfo, Fault> {
    let info = url.into_connection_info().map_err(Fault::Address)?;
    let mut redis = info.redis_settings().clone();
    if let Some(username) = &config.username {
        redis = redis.set_username(username);
    }
    if let Some(password) = &config.password {
        redis = redis.set_password(password);
    }
    // A publication must not wait for another one's packet.
    let info = info
        .set_redis_settings(redis)
        .set_tcp_settings(TcpSettings::default().set_nodelay(true));
    let client = match config.ca_pem.clone() {
        Some(root_cert) => Client::build_with_tls(
            info,
            TlsCertificates {
                client_tls: None::<ClientTlsConfig>,
                root_cert: Some(root_cert),
            },
        ),
        None => Client::open(info),
    };
    Ok(client.map_err(Fault::Address)?.get_connection_info().clone())
}

async fn connect(info: &ConnectionInfo, config: &RedisConfig) -> Result<Link, Fault> {
    let options = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(config.connect_timeout))
        .set_response_timeout(None);
    let client = Client::open(info.clone()).map_err(Fault::Address)?;
    Ok(client.get_multiplexed_async_connection_with_config(&options).await?)
}
