//! Starts the job's main process. The one place with unsafe code: what runs between fork and exec.

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::{self, PipeReader, Read, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::{
    sys::{
        prctl,
        resource::{Resource as Limit, setrlimit},
        signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask},
        stat::{Mode, umask},
    },
    unistd::{AccessFlags, Gid, Pid, Uid, access, getpid, getppid, setgid, setgroups, setsid, setuid},
};

use crate::order::{Order, Resource};

/// Why the main process could not be started, in the system's own words.
#[derive(Debug)]
pub(super) struct Refusal {
    doing: String,
    error: io::Error,
}

impl Refusal {
    fn new(doing: impl Into<String>, error: impl Into<io::Error>) -> Self {
        Self {
            doing: doing.into(),
            error: error.into(),
        }
    }

    pub(super) fn words(&self) -> String {
        format!("cannot {}: {}", self.doing, self.error)
    }

    /// The system's own code, as `ENOENT`.
    pub(super) fn code(&self) -> String {
        match self.error.raw_os_error() {
            Some(number) => format!("{:?}", nix::errno::Errno::from_raw(number)),
            None => format!("{:?}", self.error.kind()),
        }
    }
}

/// Gives all signals their default effect and blocks none: what the worker was started with is not the job's.
#[expect(
    unsafe_code,
    reason = "sigaction may install handlers, which must be async-signal-safe; the default is none"
)]
pub(super) fn reset_signals() {
    for one in Signal::iterator() {
        if !matches!(one, Signal::SIGKILL | Signal::SIGSTOP) {
            // SAFETY: no handler is installed, and none was that anybody here relies on: one thread, just begun.
            let _previous = unsafe { signal(one, SigHandler::SigDfl) };
        }
    }
    let _blocked = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}

/// Starts the main process.
pub(super) fn spawn(order: &Order) -> Result<Pid, Refusal> {
    let program = order.argv.first().map_or("", String::as_str);
    let output = |name: &str| {
        OpenOptions::new()
            .append(true)
            .open(name)
            .map_err(|error| Refusal::new(format!("open {name}"), error))
    };
    let (mut steps, told) = io::pipe().map_err(|error| Refusal::new("start", error))?;
    let setup = Setup::new(order, told)?;
    let mut command = Command::new(program);
    command
        .args(order.argv.iter().skip(1).map(OsStr::new))
        .env_clear()
        .envs(&order.environment)
        .stdin(Stdio::null())
        .stdout(output("stdout")?)
        .stderr(output("stderr")?);
    before_exec(&mut command, setup);
    match command.spawn() {
        Ok(child) => Ok(Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX))),
        Err(error) => {
            drop(command);
            let doing = step(&mut steps).unwrap_or_else(|| format!("run {program}"));
            Err(Refusal::new(doing, error))
        }
    }
}

/// At which step it failed; `None`: at the exec itself.
fn step(steps: &mut PipeReader) -> Option<String> {
    let mut text = String::new();
    steps.read_to_string(&mut text).ok()?;
    (!text.is_empty()).then_some(text)
}

#[expect(
    unsafe_code,
    reason = "only between fork and exec can a process limit itself before it is another's program"
)]
fn before_exec(command: &mut Command, setup: Setup) {
    // SAFETY: the closure runs in the child of a fork of this process, which has one thread: no lock can be held by
    // another, so that the child may do all that its parent may. (Elsewhere only async-signal-safe calls were allowed.)
    unsafe { command.pre_exec(move || setup.apply()) };
}

/// What the child does to itself, with all that it needs prepared.
struct Setup {
    groups: Vec<File>,
    limits: Vec<(Resource, u64)>,
    ids: Option<(Uid, Gid, Vec<Gid>)>,
    folder: PathBuf,
    /// The thing's own folder, which another user must be able to reach by its path.
    own: PathBuf,
    neutral: bool,
    parent: Pid,
    told: io::PipeWriter,
}

impl Setup {
    fn new(order: &Order, told: io::PipeWriter) -> Result<Self, Refusal> {
        let mut groups = Vec::with_capacity(order.groups.len());
        for group in &order.groups {
            groups.push(group.make().map_err(|fault| match fault {
                crate::error::Fault::Io { doing, path, source } => Refusal::new(format!("{doing} {path}"), source),
                fault => Refusal::new(fault.to_string(), io::ErrorKind::Other),
            })?);
        }
        Ok(Self {
            groups,
            limits: order.limits.clone(),
            ids: order.user.as_ref().map(|ids| {
                let groups = ids.groups.iter().copied().map(Gid::from_raw).collect();
                (Uid::from_raw(ids.user), Gid::from_raw(ids.group), groups)
            }),
            folder: order.working_dir.clone().unwrap_or_else(|| PathBuf::from("work")),
            own: std::env::current_dir().map_err(|error| Refusal::new("find its folder", error))?,
            neutral: is_protected(),
            parent: getpid(),
            told,
        })
    }

    fn apply(&self) -> io::Result<()> {
        let Err((step, error)) = self.steps() else {
            return Ok(());
        };
        // If this fails the error is still told, without the step.
        let _step_is_extra = (&self.told).write_all(step.as_bytes());
        Err(error)
    }

    fn steps(&self) -> Result<(), (String, io::Error)> {
        let at = |step: &str| {
            let step = step.to_owned();
            move |errno: nix::errno::Errno| (step, io::Error::from(errno))
        };
        for mut group in &self.groups {
            group
                .write_all(b"0")
                .map_err(|error| ("enter the control group".to_owned(), error))?;
        }
        // A session of its own: `kill 0` in a job must not reach its supervisor.
        setsid().map_err(at("make a session"))?;
        reset_signals();
        umask(Mode::from_bits_truncate(0o022));
        if self.neutral {
            fs::write("/proc/self/oom_score_adj", "0").map_err(|error| ("set oom_score_adj".to_owned(), error))?;
        }
        for (resource, limit) in &self.limits {
            let kind = match resource {
                Resource::OpenFiles => Limit::RLIMIT_NOFILE,
                Resource::CpuSeconds => Limit::RLIMIT_CPU,
                Resource::AddressSpace => Limit::RLIMIT_AS,
            };
            setrlimit(kind, *limit, *limit).map_err(at(&format!("set {kind:?} to {limit}")))?;
        }
        if let Some((user, group, groups)) = &self.ids {
            setgroups(groups).map_err(at("set the groups"))?;
            setgid(*group).map_err(at("become the group"))?;
            setuid(*user).map_err(at("become the user"))?;
            // Its payload and home are known to it by their paths.
            let own = self.own.display();
            access(&self.own, AccessFlags::X_OK).map_err(at(&format!(
                "pass as user {user} to its own folder (chmod o+x what is above it) {own}"
            )))?;
        }
        prctl::set_no_new_privs().map_err(at("give up new privileges"))?;
        // After the ids: to change them clears it.
        prctl::set_pdeathsig(Signal::SIGKILL).map_err(at("follow the supervisor in death"))?;
        if getppid() != self.parent {
            return Err((
                "start without a supervisor".to_owned(),
                io::Error::from(nix::errno::Errno::ESRCH),
            ));
        }
        let folder: &Path = &self.folder;
        nix::unistd::chdir(folder).map_err(at(&format!("enter the working folder {}", folder.display())))
    }
}

/// Whether the worker is protected from the kernel's choice when memory is out; its jobs are not to be.
fn is_protected() -> bool {
    fs::read_to_string("/proc/self/oom_score_adj")
        .is_ok_and(|text| text.trim().parse::<i32>().is_ok_and(|score| score < 0))
}
