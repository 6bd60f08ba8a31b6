//! The faults, in a schedule that follows from the seed.

use std::{collections::BTreeSet, fmt, fs, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep},
};

use crate::{
    broker::Broker,
    chance::Chance,
    clock::now,
    fleet::{Daemon, Fleet},
    proxy::Mode,
    servers::Postgres,
    table,
};

/// After so long a storm the run is left in peace for [`CALM`], so that what works undisturbed is seen, too. Then one
/// worker dies, and stays dead for [`DEATH`]: long enough for the others to notice it and to adopt what it had.
const STORM: Duration = Duration::from_secs(45);
const CALM: Duration = Duration::from_secs(22);
const DEATH: Duration = Duration::from_secs(25);
/// Two outages of the database are at least so far apart, or nothing would ever get done.
const BETWEEN_OUTAGES: Duration = Duration::from_secs(30);

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    KillMaster,
    KillWorker,
    StopMaster,
    StopWorker,
    CutStore,
    CutBroker,
    CutEngine,
    KillBroker,
    StopBroker,
    EmptyBroker,
    CloseConnections,
    RestartPostgres,
    FillDisk,
    JumpClock,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::KillMaster => "kill -9 of a master",
            Self::KillWorker => "kill -9 of a worker",
            Self::StopMaster => "SIGSTOP of a master",
            Self::StopWorker => "SIGSTOP of a worker",
            Self::CutStore => "database cut off",
            Self::CutBroker => "broker cut off",
            Self::CutEngine => "Docker engine cut off",
            Self::KillBroker => "broker killed",
            Self::StopBroker => "SIGSTOP of the broker",
            Self::EmptyBroker => "broker emptied",
            Self::CloseConnections => "broker closed all connections",
            Self::RestartPostgres => "PostgreSQL crashed",
            Self::FillDisk => "log disk full",
            Self::JumpClock => "a master's clock off by an hour",
        })
    }
}

/// As often as they come; to these come those that the broker can have, and the engine.
const MIX: [Fault; 16] = [
    Fault::KillMaster,
    Fault::KillMaster,
    Fault::KillWorker,
    Fault::KillWorker,
    Fault::KillWorker,
    Fault::StopMaster,
    Fault::StopWorker,
    Fault::StopWorker,
    Fault::CutStore,
    Fault::CutStore,
    Fault::CutStore,
    Fault::CutBroker,
    Fault::CutBroker,
    Fault::RestartPostgres,
    Fault::FillDisk,
    Fault::JumpClock,
];
const OF_THE_ENGINE: [Fault; 2] = [Fault::CutEngine, Fault::CutEngine];

/// A fault that was, in milliseconds since 1970.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    pub(crate) fault: Fault,
    pub(crate) how: String,
    pub(crate) begin: i64,
    pub(crate) end: i64,
    /// The process that was killed or stopped.
    pub(crate) pid: Option<u32>,
}

/// Does the faults.
#[derive(Debug)]
pub(crate) struct Storm {
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) postgres: Arc<Mutex<Postgres>>,
    pub(crate) broker: Arc<Mutex<Broker>>,
    pub(crate) windows: Arc<Mutex<Vec<Window>>>,
    /// The log disk has an end.
    pub(crate) small_disk: bool,
    /// What a fault is befalling now.
    busy: std::sync::Mutex<BTreeSet<String>>,
}

impl Storm {
    pub(crate) fn new(fleet: Arc<Fleet>, postgres: Postgres, broker: Broker, small_disk: bool) -> Self {
        Self {
            fleet,
            postgres: Arc::new(Mutex::new(postgres)),
            broker: Arc::new(Mutex::new(broker)),
            windows: Arc::default(),
            small_disk,
            busy: std::sync::Mutex::default(),
        }
    }

    /// Rages for so long, then heals all.
    pub(crate) async fn run(self: Arc<Self>, mut chance: Chance, lasting: Duration) -> Result<()> {
        let begin = Instant::now();
        let mut outage = begin;
        let mut tasks = tokio::task::JoinSet::new();
        let mut calm_at = begin + STORM;
        let mut mix = MIX.to_vec();
        mix.extend(self.broker.lock().await.faults());
        if self.fleet.has_engine() {
            mix.extend(OF_THE_ENGINE);
        }
        while begin.elapsed() < lasting {
            if Instant::now() > calm_at {
                while let Some(done) = tasks.join_next().await {
                    done??;
                }
                self.fleet.heal().await?;
                sleep(CALM).await;
                self.strike(Fault::KillWorker, &mut chance, Some(DEATH)).await?;
                calm_at = Instant::now() + STORM;
                continue;
            }
            let fault = *chance.pick(&mix);
            if fault != Fault::RestartPostgres || outage.elapsed() > BETWEEN_OUTAGES {
                if fault == Fault::RestartPostgres {
                    outage = Instant::now();
                }
                let storm = Arc::clone(&self);
                let mut chance = chance.fork();
                tasks.spawn(async move {
                    let done = storm.strike(fault, &mut chance, None).await;
                    done.with_context(|| format!("could not do: {fault}"))
                });
            }
            sleep(chance.millis(500, 5000)).await;
            while let Some(done) = tasks.try_join_next() {
                done??;
            }
        }
        while let Some(done) = tasks.join_next().await {
            done??;
        }
        self.fleet.heal().await
    }

    /// Does one fault, for so long or for as long as chance has it.
    async fn strike(&self, fault: Fault, chance: &mut Chance, lasting: Option<Duration>) -> Result<()> {
        let targets: Vec<&Daemon> = match fault {
            Fault::KillMaster | Fault::StopMaster => self.fleet.masters().collect(),
            Fault::KillWorker | Fault::StopWorker | Fault::CutEngine => self.fleet.workers().collect(),
            Fault::CutStore | Fault::CutBroker => self.fleet.daemons.iter().collect(),
            Fault::JumpClock => self.fleet.masters().filter(|master| master.has_own_clock()).collect(),
            _ => Vec::new(),
        };
        let daemon = (!targets.is_empty()).then(|| *chance.pick(&targets));
        let target = match (fault, daemon) {
            (_, Some(daemon)) => daemon.name.clone(),
            (Fault::KillBroker | Fault::StopBroker | Fault::EmptyBroker | Fault::CloseConnections, _) => {
                "broker".to_owned()
            }
            (Fault::RestartPostgres, _) => "postgres".to_owned(),
            (Fault::FillDisk, _) if self.small_disk => "disk".to_owned(),
            _ => return Ok(()),
        };
        if !self.busy().insert(target.clone()) {
            return Ok(());
        }
        let mut window = Window {
            fault,
            how: String::new(),
            begin: now(),
            end: 0,
            pid: daemon.and_then(Daemon::pid),
        };
        let done = match daemon {
            Some(daemon) => self.befall(fault, daemon, &mut window, chance, lasting).await,
            None => self.befall_servers(fault, &mut window, chance).await,
        };
        window.end = now();
        table::say(&format!("{fault}: {target} {}", window.how));
        self.windows.lock().await.push(window);
        self.busy().remove(&target);
        done
    }

    fn busy(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.busy.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    async fn befall(
        &self,
        fault: Fault,
        daemon: &Daemon,
        window: &mut Window,
        chance: &mut Chance,
        lasting: Option<Duration>,
    ) -> Result<()> {
        match fault {
            Fault::KillMaster | Fault::KillWorker => {
                let down = lasting.unwrap_or_else(|| chance.millis(0, 20_000));
                window.how = format!("down for {:.1} s", down.as_secs_f64());
                daemon.kill()?;
                sleep(down).await;
                daemon.start()?;
            }
            Fault::StopMaster | Fault::StopWorker => {
                let asleep = chance.millis(500, 30_000);
                window.how = format!("asleep for {:.1} s", asleep.as_secs_f64());
                daemon.signal(Signal::SIGSTOP)?;
                sleep(asleep).await;
                daemon.signal(Signal::SIGCONT)?;
            }
            Fault::CutStore | Fault::CutBroker | Fault::CutEngine => {
                let cut = match fault {
                    Fault::CutStore => &daemon.store.cut,
                    Fault::CutBroker => &daemon.broker.cut,
                    _ => daemon.engine.as_ref().context("a way to the engine")?,
                };
                let mode = *chance.pick(&[Mode::Refuse, Mode::Hold, Mode::HoldToClient, Mode::HoldToServer]);
                let lasting = chance.millis(200, 20_000);
                window.how = format!("{mode:?} for {:.1} s", lasting.as_secs_f64());
                cut.set(mode);
                sleep(lasting).await;
                cut.set(Mode::Pass);
            }
            Fault::JumpClock => {
                let by = if chance.percent(50) { 3600 } else { -3600 };
                window.how = format!("{by:+} s");
                daemon.shift_clock(by)?;
                sleep(chance.millis(2000, 15_000)).await;
                daemon.shift_clock(0)?;
            }
            _ => {}
        }
        Ok(())
    }

    async fn befall_servers(&self, fault: Fault, window: &mut Window, chance: &mut Chance) -> Result<()> {
        match fault {
            Fault::KillBroker | Fault::StopBroker => {
                let down = chance.millis(0, 8000);
                let what = if fault == Fault::StopBroker { "asleep" } else { "down" };
                window.how = format!("{what} for {:.1} s", down.as_secs_f64());
                let mut broker = self.broker.lock().await;
                broker.crash()?;
                sleep(down).await;
                broker.resume().await?;
            }
            Fault::EmptyBroker => self.broker.lock().await.empty().await?,
            Fault::CloseConnections => self.broker.lock().await.close_connections().await?,
            Fault::RestartPostgres => {
                let down = chance.millis(0, 20_000);
                window.how = format!("down for {:.1} s", down.as_secs_f64());
                let mut postgres = self.postgres.lock().await;
                postgres.crash()?;
                sleep(down).await;
                postgres.resume().await?;
            }
            Fault::FillDisk => {
                let full = chance.millis(1000, 10_000);
                window.how = format!("full for {:.1} s", full.as_secs_f64());
                let path = self.fleet.logs.join("filler");
                // It ends with "no space left", as it should.
                let filled = fs::write(&path, vec![0; 1 << 30]);
                ensure!(filled.is_err(), "the disk took a whole GiB");
                sleep(full).await;
                fs::remove_file(&path)?;
            }
            _ => {}
        }
        Ok(())
    }
}
