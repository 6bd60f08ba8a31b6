//! Which addresses may serve: those of the settings, those that a cluster has named, and the one that served last. All keys
//! of an installation lie in one slot, so that one node serves at a time, and no client for clusters is needed.

use redis::{ConnectionAddr, ConnectionInfo, FromRedisValue, Value};

/// So many nodes of a cluster are remembered.
const REMEMBERED: usize = 100;

/// Host and port.
pub(crate) type Place = (String, u16);

/// What is known of addresses.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    /// The one that served last, unless somebody is just trying it.
    serving: Option<ConnectionInfo>,
    /// Its address, to tell when another one serves.
    last: Option<String>,
    /// What a cluster has named.
    learnt: Vec<Place>,
    /// Where the next round begins: an address that hangs must not keep the others from being tried.
    turn: usize,
}

impl Nodes {
    /// The addresses in the order in which to try them: the one that served, then all others from where the last round
    /// got stuck.
    pub(crate) fn round(&mut self, seeds: &[ConnectionInfo]) -> Vec<ConnectionInfo> {
        let mut all = seeds.to_vec();
        if let Some(model) = seeds.first() {
            all.extend(self.learnt.iter().map(|place| at(model, place)));
        }
        let begin = self.turn % all.len().max(1);
        all.rotate_left(begin);
        let mut round: Vec<ConnectionInfo> = self.serving.take().into_iter().collect();
        for info in all {
            if !round.iter().any(|other| other.addr() == info.addr()) {
                round.push(info);
            }
        }
        round
    }

    /// An address is being tried: the next round does not begin with it.
    pub(crate) fn tries(&mut self) {
        self.turn = self.turn.wrapping_add(1);
    }

    /// This one serves; answers whether another one did before.
    pub(crate) fn serves(&mut self, info: &ConnectionInfo) -> bool {
        let address = info.addr().to_string();
        let is_other = self.last.as_ref().is_some_and(|last| *last != address);
        self.last = Some(address);
        self.serving = Some(info.clone());
        self.turn = 0;
        is_other
    }

    /// The one that served last.
    pub(crate) fn serving(&self) -> Option<&ConnectionInfo> {
        self.serving.as_ref()
    }

    /// The nodes that a cluster has named, in place of those that it named before.
    pub(crate) fn learn(&mut self, places: Vec<Place>) {
        self.learnt = places;
    }
}

/// The same login, TLS and times at another address.
pub(crate) fn at(model: &ConnectionInfo, (host, port): &Place) -> ConnectionInfo {
    let addr = match model.addr() {
        ConnectionAddr::TcpTls {
            insecure, tls_params, ..
        } => ConnectionAddr::TcpTls {
            host: host.clone(),
            port: *port,
            insecure: *insecure,
            tls_params: tls_params.clone(),
        },
        _ => ConnectionAddr::Tcp(host.clone(), *port),
    };
    model.clone().set_addr(addr)
}

/// The host of an address; none where it is no host's.
fn host(info: &ConnectionInfo) -> Option<&str> {
    match info.addr() {
        ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => Some(host),
        _ => None,
    }
}

/// A node that does not know by which name it is reached says nothing or `?`: it is the host that was asked.
fn named<'a>(said: &'a str, asked: &'a ConnectionInfo) -> Option<&'a str> {
    match said {
        "" | "?" => host(asked),
        said => Some(said),
    }
}

/// The place in `HOST:PORT`, as `MOVED` says it; an IPv6 address stands there without brackets.
pub(crate) fn place(text: &str, asked: &ConnectionInfo) -> Option<Place> {
    let (said, port) = text.rsplit_once(':')?;
    Some((named(said, asked)?.to_owned(), port.parse().ok()?))
}

/// The nodes in an answer of `CLUSTER SLOTS`: `[[first, last, [host, port, …]…]…]`
/// (<https://redis.io/docs/latest/commands/cluster-slots/>). What cannot be read is left out.
pub(crate) fn places(answer: Value, asked: &ConnectionInfo) -> Vec<Place> {
    let list = |value| match value {
        Value::Array(values) => values,
        _ => Vec::new(),
    };
    let mut places: Vec<Place> = Vec::new();
    for node in list(answer)
        .into_iter()
        .flat_map(|range| list(range).into_iter().skip(2))
    {
        let mut fields = list(node).into_iter();
        let (Some(said), Some(port)) = (fields.next(), fields.next()) else {
            continue;
        };
        let said = String::from_redis_value(said).unwrap_or_default();
        let port = i64::from_redis_value(port)
            .ok()
            .and_then(|port| u16::try_from(port).ok());
        let (Some(host), Some(port)) = (named(&said, asked), port) else {
            continue;
        };
        let place = (host.to_owned(), port);
        if places.len() < REMEMBERED && !places.contains(&place) {
            places.push(place);
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use redis::IntoConnectionInfo as _;

    use super::*;

    fn info(url: &str) -> ConnectionInfo {
        url.into_connection_info().unwrap()
    }

    fn addresses(round: &[ConnectionInfo]) -> Vec<String> {
        round.iter().map(|info| info.addr().to_string()).collect()
    }

    #[test]
    fn the_one_that_served_is_tried_first_and_one_that_hung_last() {
        let seeds = [info("redis://a:1"), info("redis://b:2")];
        let mut nodes = Nodes::default();
        nodes.learn(vec![("b".into(), 2), ("c".into(), 3)]);
        assert_eq!(addresses(&nodes.round(&seeds)), ["a:1", "b:2", "c:3"]);
        assert!(!nodes.serves(&info("redis://c:3")));
        assert_eq!(addresses(&nodes.round(&seeds)), ["c:3", "a:1", "b:2"]);
        // Whoever served and is being tried is nobody's first choice until it serves again.
        nodes.tries();
        assert_eq!(addresses(&nodes.round(&seeds)), ["b:2", "c:3", "a:1"]);
        assert!(nodes.serves(&seeds[1]), "another one serves");
        assert!(!nodes.serves(&seeds[1]));
    }

    #[test]
    fn a_place_keeps_login_and_tls_of_the_address_that_is_known() {
        let learnt = at(&info("rediss://me:pw@a:1"), &("b".into(), 2));
        assert!(matches!(learnt.addr(), ConnectionAddr::TcpTls { host, port: 2, .. } if host == "b"));
        assert_eq!(learnt.redis_settings().username(), Some("me"));
        assert!(matches!(
            at(&info("redis://a"), &("b".into(), 2)).addr(),
            ConnectionAddr::Tcp(..)
        ));
    }

    #[test]
    fn where_a_slot_has_gone_is_read_as_nodes_say_it() {
        let asked = info("redis://here:1");
        for (text, there) in [
            ("there:6381", Some(("there", 6381))),
            ("::1:6381", Some(("::1", 6381))),
            (":6381", Some(("here", 6381))),
            ("?:6381", Some(("here", 6381))),
            ("there", None),
            ("there:x", None),
        ] {
            let there = there.map(|(host, port)| (host.to_owned(), port));
            assert_eq!(place(text, &asked), there, "{text}");
        }
    }

    #[test]
    fn the_nodes_of_a_cluster_are_read_once_each_and_what_is_none_is_left_out() {
        let node = |host: Value, port| Value::Array(vec![host, Value::Int(port), Value::Nil]);
        let text = |text: &str| Value::BulkString(text.into());
        let range = |nodes: Vec<Value>| {
            let mut range = vec![Value::Int(0), Value::Int(1)];
            range.extend(nodes);
            Value::Array(range)
        };
        let answer = Value::Array(vec![
            range(vec![node(text("a"), 1), node(text("b"), 2)]),
            range(vec![
                node(text("a"), 1),
                node(Value::Nil, 3),
                node(text("c"), -1),
                Value::Nil,
            ]),
        ]);
        let places = places(answer, &info("redis://here:1"));
        assert_eq!(places, [("a".into(), 1), ("b".into(), 2), ("here".into(), 3)]);
        assert!(super::places(Value::Nil, &info("redis://here:1")).is_empty());
    }
}
