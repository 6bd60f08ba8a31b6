//! The client's side: the server and the token that requests carry.

use std::env::VarError;

use robata_client::{Client, ClientError};

use crate::{args::Connection, fault::Usage};

impl Connection {
    /// A client of the chosen server. No settings file is read.
    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        let token = match std::env::var("ROBATA_TOKEN") {
            Ok(token) => Some(token).filter(|token| !token.is_empty()),
            Err(VarError::NotPresent) => None,
            Err(VarError::NotUnicode(_)) => return Err(Usage("ROBATA_TOKEN: is no text".to_owned()).into()),
        };
        Client::new(&self.server, token.as_deref()).map_err(|error| {
            let what = match error {
                ClientError::InvalidToken => "ROBATA_TOKEN: ",
                _ => "",
            };
            Usage(format!("{what}{error}")).into()
        })
    }
}
