#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]

mod account;
mod cgroup;
mod confine;
mod end;
mod environment;
mod group;
mod keep;
mod marked;
mod over;
mod program;
mod spawn;
mod strings;
mod sys;
mod text;
mod umask;
mod watch;

pub use cgroup::Over;
pub use confine::{Confinement, Limits, Wanted};
pub use end::{Killer, describe};
pub use environment::{Base, OWN, RUN, check_name};
pub use group::{Ask, Group, StopSignal};
pub use keep::{End, Keeper};
pub use program::{Refusal, explain, find, may_pass};
pub use spawn::Spawn;
pub use strings::{Nul, Strings};
pub use sys::{Reaped, await_end, has_ended, listen_to_children};
pub use text::{Env, Text, shortened};
pub use umask::Umask;
pub use watch::Watch;
