//! The client's side: the server and the token that requests carry.

use robata_client::Client;

use crate::{args::Connection, fault::Usage};

impl Connection {
    /// A client of the chosen server. No settings file is read.
    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        let token = std::env::var("ROBATA_TOKEN").ok().filter(|token| !token.is_empty());
        Client::new(&self.server, token.as_deref()).map_err(|error| Usage(error.to_string()).into())
    }
}
