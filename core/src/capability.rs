//! What a provider can do, as data: it selects the conformance tests, refuses what would be ignored, and is
//! shown by `ganger plugin show`.

use schemars::JsonSchema;
use serde::Serialize;

use crate::{Job, Refused};

/// What a provider can do. Start from [`Capabilities::NONE`] and name what holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Capabilities {
    /// Leases only types that the exchange has room for. Without it a claim yields what comes, and what has no
    /// room is parked.
    pub filter: bool,
    /// Holds jobs until their `run_at`.
    pub schedule: bool,
    /// Orders by `priority`.
    pub priority: bool,
    /// Honours `unique`.
    pub unique: bool,
    /// Honours `limit`.
    pub limit: bool,
    /// Honours `after`.
    pub after: bool,
    /// Remembers an exchange: the same token again gets the same answer.
    pub repeat: bool,
    /// A wait may claim by itself ([`Provider::wait_and_claim`](crate::Provider::wait_and_claim)). Needs `repeat`.
    pub wait_and_claim: bool,
    /// Stores follow-up jobs in the same step as a settlement.
    pub follow: bool,
    /// Takes jobs in ([`Sink`](crate::Sink)).
    pub sink: bool,
    /// Lists, shows and changes stored jobs ([`Admin`](crate::Admin)).
    pub admin: bool,
    /// Brings back jobs that its predecessor's interrupted runs left behind ([`Admin::recover`](crate::Admin::recover)).
    pub recover: bool,
    /// Finds a job by its id without a search.
    pub find: bool,
    /// What it acknowledged survives the end of every process.
    pub durable: bool,
}

impl Capabilities {
    /// Can only lease.
    pub const NONE: Capabilities = Capabilities {
        filter: false,
        schedule: false,
        priority: false,
        unique: false,
        limit: false,
        after: false,
        repeat: false,
        wait_and_claim: false,
        follow: false,
        sink: false,
        admin: false,
        recover: false,
        find: false,
        durable: false,
    };

    /// The names of what it can do, for people.
    pub fn names(&self) -> Vec<&'static str> {
        [
            ("filter", self.filter),
            ("schedule", self.schedule),
            ("priority", self.priority),
            ("unique", self.unique),
            ("limit", self.limit),
            ("after", self.after),
            ("repeat", self.repeat),
            ("wait_and_claim", self.wait_and_claim),
            ("follow", self.follow),
            ("sink", self.sink),
            ("admin", self.admin),
            ("recover", self.recover),
            ("find", self.find),
            ("durable", self.durable),
        ]
        .into_iter()
        .filter_map(|(name, can)| can.then_some(name))
        .collect()
    }

    /// Refuses, by name, a field that the provider would have to ignore: nothing is accepted and ignored.
    ///
    /// # Errors
    /// [`Refused`] naming the first such field.
    pub fn admit(&self, job: &Job) -> Result<(), Refused> {
        let rare = job.rare();
        let fields = [
            ("unique", rare.unique.is_some() && !self.unique),
            ("limit", rare.limit.is_some() && !self.limit),
            ("after", !rare.after.is_empty() && !self.after),
        ];
        match fields.into_iter().find(|(_, unsupported)| *unsupported) {
            None => Ok(()),
            Some((field, _)) => Err(Refused::unsupported(format!(
                "this provider does not support `{field}` yet: leave the field out"
            ))),
        }
    }
}
