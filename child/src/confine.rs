//! What a child is held to: limits, privileges, a user. Worked out once for an entry, applied in each child between
//! its making and exec.

use std::{
    ffi::{CString, OsString},
    io,
};

use ganger_core::{ByteSize, Period};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    account::{self, Account},
    cgroup::Hold,
    spawn::{Spawner, Step},
    text::Text,
};

/// How far a command may go. Each holds for one process, but `memory` and `processes` for all of a job together where a
/// control group is delegated to ganger.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Processor time, in whole seconds: then SIGXCPU, and SIGKILL 5 s later.
    pub cpu: Option<Period>,
    /// Memory. Where a control group keeps it, the whole job is killed beyond; else what a process asks for beyond is
    /// refused to it (RLIMIT_DATA).
    pub memory: Option<ByteSize>,
    /// Open files.
    pub open_files: Option<u64>,
    /// Processes and threads. Without a control group all of its user's are counted, and it does not bind root: it
    /// takes a `user`.
    pub processes: Option<u64>,
    /// The size of a file that it writes: beyond, SIGXFSZ.
    pub file_size: Option<ByteSize>,
    /// The size of a core dump. Default: none is written.
    pub core: ByteSize,
}

/// How long after SIGXCPU a process that goes on is killed, in seconds.
const CPU_GRACE: u64 = 5;

impl Limits {
    /// What of them cannot work.
    pub fn fault(&self) -> Option<String> {
        let none = |given: bool, name| given.then(|| format!("`limits.{name}` must be more than nothing"));
        none(self.cpu.is_some_and(|cpu| cpu.get().is_zero()), "cpu")
            .or(none(self.memory.is_some_and(|memory| memory.get() == 0), "memory"))
            .or(none(self.open_files == Some(0), "open_files"))
            .or(none(self.processes == Some(0), "processes"))
    }

    /// The limit of processor time in seconds.
    pub fn cpu_seconds(&self) -> Option<u64> {
        self.cpu.map(|cpu| cpu.get().as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX))
    }

    /// What of them no control group keeps.
    fn rlimits(&self, hold: Option<&Hold>) -> Vec<Rlimit> {
        let memory = self.memory.filter(|_| !hold.is_some_and(Hold::keeps_memory));
        let processes = self.processes.filter(|_| !hold.is_some_and(Hold::keeps_processes));
        let cpu = self.cpu_seconds().map(|soft| (soft, soft.saturating_add(CPU_GRACE)));
        let same = |value: u64| (value, value);
        [
            ("cpu", libc::RLIMIT_CPU, cpu),
            ("memory", libc::RLIMIT_DATA, memory.map(|memory| same(memory.get()))),
            ("open_files", libc::RLIMIT_NOFILE, self.open_files.map(same)),
            ("processes", libc::RLIMIT_NPROC, processes.map(same)),
            ("file_size", libc::RLIMIT_FSIZE, self.file_size.map(|size| same(size.get()))),
            ("core", libc::RLIMIT_CORE, Some(same(self.core.get()))),
        ]
        .into_iter()
        .filter_map(|(name, resource, value)| {
            let (rlim_cur, rlim_max) = value?;
            Some(Rlimit { name, resource: resource as i32, value: libc::rlimit { rlim_cur, rlim_max } })
        })
        .collect()
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Rlimit {
    name: &'static str,
    pub(crate) resource: i32,
    pub(crate) value: libc::rlimit,
}

/// What the config says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted<'a> {
    /// Limits.
    pub limits: Option<&'a Limits>,
    /// The nice value: -20 to 19.
    pub nice: Option<i32>,
    /// Whether it, and what it starts, can gain no privilege by exec (setuid programs).
    pub no_new_privs: bool,
    /// The user it runs as, by name or number.
    pub user: Option<&'a Text>,
    /// The group it runs as. Default: the user's own, with all that the user is in.
    pub group: Option<&'a Text>,
}

/// What each child of an entry is held to.
#[derive(Clone, Debug)]
pub struct Confinement {
    pub(crate) limits: Vec<Rlimit>,
    pub(crate) nice: Option<i32>,
    pub(crate) no_new_privs: bool,
    pub(crate) account: Option<Account>,
    /// What holds for a child and all that it starts together.
    pub(crate) hold: Option<Hold>,
}

impl Confinement {
    /// Works out what is wanted, and tries it in a child that does nothing else. `None` where nothing is wanted.
    ///
    /// # Errors
    /// What cannot be had, and why: there is no such user, or ganger may not.
    pub fn new(wanted: Wanted<'_>) -> Result<Option<Confinement>, String> {
        let account = account::of(wanted.user, wanted.group)?;
        let uid = account.as_ref().map_or(rustix::process::geteuid().as_raw(), |account| account.uid);
        let hold = wanted.limits.map_or(Ok(None), Hold::new);
        let processes = wanted.limits.and_then(|limits| limits.processes);
        if processes.is_some() && uid == 0 && !matches!(&hold, Ok(Some(hold)) if hold.keeps_processes()) {
            let why =
                hold.err().map(|why| format!(" (a control group would bind it: {why})")).unwrap_or_default();
            return Err(format!(
                "`limits.processes` does not bind root: name a `user` for the commands{why}"
            ));
        }
        let hold = hold.ok().flatten();
        let confinement = Confinement {
            limits: wanted.limits.map(|limits| limits.rlimits(hold.as_ref())).unwrap_or_default(),
            nice: wanted.nice,
            no_new_privs: wanted.no_new_privs,
            account,
            hold,
        };
        if confinement.limits.is_empty()
            && wanted.nice.is_none()
            && !wanted.no_new_privs
            && confinement.account.is_none()
        {
            return Ok(None);
        }
        match Spawner::new().try_out(Some(&confinement), None) {
            Ok(()) => Ok(Some(confinement)),
            Err(error) => Err(error.to_string()),
        }
    }

    /// This process's environment, as it is for the user that children run as: HOME and USER are that one's.
    pub fn variables(confinement: Option<&Confinement>) -> Vec<(OsString, OsString)> {
        let mut variables: Vec<_> = std::env::vars_os().collect();
        if let Some(account) = confinement.and_then(|confinement| confinement.account.as_ref()) {
            variables.retain(|(name, _)| name != "HOME" && name != "USER");
            let own = [("HOME", &account.home), ("USER", &account.name)];
            let own = own.into_iter().filter_map(|(name, value)| Some((name.into(), value.clone()?)));
            variables.extend(own);
        }
        variables
    }

    /// Whose a file must be for the children to open it anew: user and group.
    pub fn owner(&self) -> Option<(u32, u32)> {
        self.account.as_ref().map(|account| (account.uid, account.gid))
    }

    /// The error of a step that failed in a child.
    pub(crate) fn error_of(&self, step: Step, errno: i32) -> io::Error {
        let error = io::Error::from_raw_os_error(errno);
        let what = match step {
            Step::Limit(at) => match self.limits.get(at) {
                Some(limit) => {
                    let bound = bound(limit.resource).unwrap_or_default();
                    format!("`limits.{}` cannot be {}{bound}", limit.name, limit.value.rlim_max)
                }
                None => "a limit cannot be set".to_owned(),
            },
            Step::Nice => format!("`nice` cannot be {}", self.nice.unwrap_or_default()),
            Step::User => "`user` and `group` cannot be set: ganger must run as root for that".to_owned(),
            Step::NoNewPrivs => "`no_new_privs` cannot be set".to_owned(),
            Step::Place => return crate::cgroup::refused(error),
            // What stops a job for now, or is the program's own.
            Step::Files | Step::Exec => return error,
        };
        io::Error::new(error.kind(), format!("{what} ({error})"))
    }
}

/// What binds this process itself. Root has other bounds, which each limit keeps to itself.
fn bound(resource: i32) -> Option<String> {
    let limit = crate::sys::hard_limit(resource).filter(|_| !rustix::process::geteuid().is_root())?;
    Some(format!(": ganger itself is allowed no more than {limit}"))
}

/// A text for the C library.
pub(crate) fn c_text(what: &str, text: &str) -> Result<CString, String> {
    CString::new(text).map_err(|_| format!("`{what}` has a NUL byte in it"))
}
