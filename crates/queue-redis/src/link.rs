//! One connection, to a server or to a cluster, and how it is made.

use std::fmt;

use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionInfo, IntoConnectionInfo, Pipeline, RedisFuture,
    TlsCertificates, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    cluster::ClusterClient,
    cluster_async::ClusterConnection,
    io::tcp::TcpSettings,
};

use crate::{RedisConfig, error::Fault};

/// Where connections come from.
pub(crate) enum Source {
    Server(Box<Client>),
    Cluster(Box<ClusterClient>),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A client's own words hold the password.
        f.write_str(match self {
            Self::Server(_) => "Server",
            Self::Cluster(_) => "Cluster",
        })
    }
}

impl Source {
    /// Reads addresses and certificates; no server need be up for it.
    pub(crate) fn new(config: &RedisConfig) -> Result<Self, Fault> {
        let tls = config.ca_pem.clone().map(|root_cert| TlsCertificates {
            client_tls: None::<ClientTlsConfig>,
            root_cert: Some(root_cert),
        });
        let nodes: Vec<&str> = config.url.split(',').map(str::trim).collect();
        if !config.cluster && nodes.len() > 1 {
            return Err(Fault::Config(
                "more than one address is for a cluster only (cluster)".to_owned(),
            ));
        }
        let infos = nodes
            .into_iter()
            .map(|url| Ok(address(url.into_connection_info().map_err(Fault::Address)?, config)))
            .collect::<Result<Vec<_>, Fault>>()?;
        if config.cluster {
            let mut builder = ClusterClient::builder(infos)
                .connection_timeout(config.connect_timeout)
                // A blocked read is bounded by whoever waits for it.
                .response_timeout(config.block_slice() + config.response_timeout)
                .overall_response_timeout(None)
                .retries(3);
            if let Some(tls) = tls {
                builder = builder.certs(tls);
            }
            return Ok(Self::Cluster(Box::new(builder.build().map_err(Fault::Address)?)));
        }
        let Some(info) = infos.into_iter().next() else {
            return Err(Fault::Config("there is no address of Redis (url)".to_owned()));
        };
        let client = match tls {
            Some(tls) => Client::build_with_tls(info, tls),
            None => Client::open(info),
        };
        Ok(Self::Server(Box::new(client.map_err(Fault::Address)?)))
    }

    /// A new connection. Answers are waited for by whoever asks, not by the connection.
    pub(crate) async fn open(&self, config: &RedisConfig) -> Result<Link, Fault> {
        let opening = async {
            match self {
                Self::Server(client) => {
                    let options = AsyncConnectionConfig::new()
                        .set_connection_timeout(Some(config.connect_timeout))
                        .set_response_timeout(None);
                    let link = client.get_multiplexed_async_connection_with_config(&options).await?;
                    Ok(Link::Server(link))
                }
                Self::Cluster(client) => Ok(Link::Cluster(client.get_async_connection().await?)),
            }
        };
        match tokio::time::timeout(config.connect_timeout, opening).await {
            Ok(opened) => opened.map_err(Fault::Redis),
            Err(_) => Err(Fault::Silent(config.connect_timeout)),
        }
    }
}

fn address(info: ConnectionInfo, config: &RedisConfig) -> ConnectionInfo {
    let mut redis = info.redis_settings().clone();
    if let Some(username) = &config.username {
        redis = redis.set_username(username);
    }
    if let Some(password) = &config.password {
        redis = redis.set_password(password);
    }
    // A publication must not wait for another one's packet.
    info.set_redis_settings(redis)
        .set_tcp_settings(TcpSettings::default().set_nodelay(true))
}

/// One connection; clones share it.
#[derive(Clone)]
pub(crate) enum Link {
    Server(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Link")
    }
}

impl ConnectionLike for Link {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Server(link) => link.req_packed_command(cmd),
            Self::Cluster(link) => link.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Server(link) => link.req_packed_commands(pipeline, offset, count),
            Self::Cluster(link) => link.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Server(link) => link.get_db(),
            Self::Cluster(link) => link.get_db(),
        }
    }
}
