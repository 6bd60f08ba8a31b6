//! The programs of one shape: `robata up`, or a master and a worker apart.

use std::{net::TcpListener, process::ExitStatus};

use nix::sys::signal::Signal;

use super::{Site, daemon::Daemon, eventually};

/// What runs over a site.
pub(crate) struct Rig {
    pub(crate) site: Site,
    /// Of the API.
    pub(crate) url: String,
    /// Where both are one program, there is no master.
    _master: Option<Daemon>,
    worker: Daemon,
}

impl Rig {
    pub(crate) async fn start(site: Site) -> Self {
        if site.is_embedded() {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            let address = listener.local_addr().expect("its address").to_string();
            drop(listener);
            let worker = site.up(&address);
            let rig = Self {
                url: format!("http://{address}"),
                site,
                _master: None,
                worker,
            };
            rig.until_it_answers().await;
            return rig;
        }
        let (master, url) = site.master().await;
        Self {
            url,
            _master: Some(master),
            worker: site.worker(&[], &[]).await,
            site,
        }
    }

    async fn until_it_answers(&self) {
        eventually(format!("{} answers", self.url), || async {
            self.site
                .try_get(&format!("{}/healthz", self.url))
                .await
                .filter(|status| *status == 200)
        })
        .await;
    }

    /// Kill -9, and another one of the same settings.
    pub(crate) async fn kill_worker_and_start_another(&mut self) -> ExitStatus {
        self.worker.signal(Signal::SIGKILL);
        let status = self.worker.ended().await;
        self.worker = if self.site.is_embedded() {
            self.site.up(self.url.trim_start_matches("http://"))
        } else {
            self.site.worker(&[], &[]).await
        };
        self.until_it_answers().await;
        status
    }
}
