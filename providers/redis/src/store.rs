//! One store: a family of keys on one server, and the connections to it.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use ganger_core::{Clock, ProviderContext, ProviderError};

use crate::{
    RedisConfig,
    bell::Bell,
    error::CallError,
    keep::Keeps,
    link::{Link, Server},
    overflow::Overflow,
    renew::Lone,
    script::{Call, Holders, Script},
};

/// The names of the keys.
pub(crate) struct Keys {
    /// What the names of all keys of ganger's own begin with.
    pub(crate) prefix: String,
    /// The producers' lists, in their order.
    pub(crate) lists: Vec<String>,
}

impl Keys {
    /// The keys that belong to these lists. All share the hash tag of the first list's name, so that a cluster keeps
    /// them together.
    pub(crate) fn of(lists: Vec<String>) -> Keys {
        let first = lists.first().map(String::as_str).unwrap_or_default();
        let has_tag = first
            .split_once('{')
            .and_then(|(_, rest)| rest.split_once('}'))
            .is_some_and(|(tag, _)| !tag.is_empty());
        let prefix = if has_tag { format!("ganger:{first}:") } else { format!("ganger:{{{first}}}:") };
        Keys { prefix, lists }
    }

    /// The name of a key or channel of ganger's own.
    pub(crate) fn own(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

/// A store as one manager has it open.
pub(crate) struct Store {
    pub(crate) keys: Keys,
    weights: Option<Mutex<Weights>>,
    pub(crate) server: Arc<Server>,
    /// For exchanges, and the looks before a wait.
    pub(crate) work: Link,
    /// For renewals, which nothing else may hold up.
    pub(crate) keep: Link,
    /// For all that people and producers ask.
    pub(crate) side: Link,
    pub(crate) bell: Bell,
    /// Who this manager is, to the store: two entries of one config are two.
    pub(crate) manager: String,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) keeps: Keeps,
    pub(crate) lone: Lone,
    /// Who must have what the sink acknowledges.
    pub(crate) holders: Holders,
    turn: AtomicU64,
    /// Whether it was said which of the server's settings lose jobs.
    pub(crate) warned: AtomicBool,
    /// Moves jobs to disk, where the options ask for it.
    pub(crate) overflow: Option<Overflow>,
}

impl Store {
    pub(crate) fn new(config: &RedisConfig, cx: &ProviderContext) -> Result<Store, ProviderError> {
        if let Some(fault) = config.fault() {
            return Err(ProviderError::fatal(fault));
        }
        let client = config.client()?;
        let keys = Keys::of(config.lists());
        let overflow = config.overflow(&client, &keys.prefix);
        let server = Arc::new(Server::new(client));
        let bell = Bell::start(&server, &keys);
        Ok(Store {
            weights: config.weights().map(|weights| Mutex::new(Weights::new(weights))),
            work: Link::new(server.clone()),
            keep: Link::new(server.clone()),
            side: Link::new(server.clone()),
            server,
            bell,
            manager: format!("{:016x}:{}", cx.incarnation, cx.name),
            clock: cx.clock.clone(),
            keys,
            keeps: Keeps::default(),
            lone: Lone::default(),
            holders: Holders { replicas: config.replicas, synced: config.synced },
            turn: AtomicU64::new(0),
            warned: AtomicBool::new(false),
            overflow,
        })
    }

    /// A number that is another one each time.
    pub(crate) fn turn(&self) -> u64 {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    /// A call of a script on ganger's own keys.
    pub(crate) fn script(&self, script: &'static Script) -> Call {
        script.on([self.keys.prefix.as_str()].into_iter())
    }

    /// A call of a script on ganger's own keys and the producers' lists, in the order whose turn it is.
    pub(crate) fn script_on_lists(&self, script: &'static Script) -> Call {
        let lists = &self.keys.lists;
        let first = match &self.weights {
            None => 0,
            Some(weights) => weights.lock().unwrap_or_else(PoisonError::into_inner).next(),
        };
        let in_turn = lists[first..].iter().chain(&lists[..first]).map(String::as_str);
        let keys: Vec<&str> = std::iter::once(self.keys.prefix.as_str()).chain(in_turn).collect();
        script.on(keys.into_iter())
    }

    /// An error of a call, for the manager.
    pub(crate) fn error(&self, doing: &str, error: CallError) -> ProviderError {
        error.at(&self.server.name, doing)
    }

    pub(crate) async fn close(&self) {
        if let Some(overflow) = &self.overflow {
            overflow.close().await;
        }
        self.bell.stop();
        for link in [&self.work, &self.keep, &self.side] {
            link.close().await;
        }
    }
}

/// Whose turn it is to be first, smoothly: a list of weight 3 beside one of weight 1 is first three times of four.
struct Weights {
    weights: Vec<i64>,
    credits: Vec<i64>,
}

impl Weights {
    fn new(weights: Vec<u32>) -> Self {
        let weights: Vec<i64> = weights.into_iter().map(i64::from).collect();
        Weights { credits: vec![0; weights.len()], weights }
    }

    fn next(&mut self) -> usize {
        self.credits.iter_mut().zip(&self.weights).for_each(|(credit, weight)| *credit += weight);
        let first = (0..self.credits.len()).max_by_key(|at| (self.credits[*at], -(*at as i64))).unwrap_or(0);
        self.credits[first] -= self.weights.iter().sum::<i64>();
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_keys_share_the_hash_tag_of_the_lists_name() {
        let prefix = |list: &str| Keys::of(vec![list.to_owned()]).prefix;
        assert_eq!(prefix("jobs"), "ganger:{jobs}:");
        assert_eq!(prefix("jobs{eu}"), "ganger:jobs{eu}:");
    }

    #[test]
    fn a_list_comes_first_as_often_as_its_weight_says() {
        let mut weights = Weights::new(vec![3, 1]);
        let turns: Vec<usize> = (0..8).map(|_| weights.next()).collect();
        assert_eq!(turns, [0, 0, 1, 0, 0, 0, 1, 0]);
    }
}
