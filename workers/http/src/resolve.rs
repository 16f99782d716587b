//! Finds the addresses of a host, and checks them: a request goes to the address that was checked.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use tokio::sync::Semaphore;
use tower_service::Service;

use crate::guard::Guard;

/// How long an answer serves further connections: a burst of new ones asks once.
const FRESH: Duration = Duration::from_secs(5);

/// How many hosts are remembered.
const HOSTS_MAX: usize = 1_024;

/// How many questions may be open at once: each holds a thread (`getaddrinfo` blocks).
const LOOKUPS_MAX: usize = 16;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// When a name was resolved, and to what.
type Known = (Instant, Arc<[SocketAddr]>);

/// The system's resolver with a short memory, behind a guard.
#[derive(Clone)]
pub(crate) struct Resolver(Arc<Inner>);

struct Inner {
    guard: Option<Guard>,
    known: Mutex<HashMap<Name, Known>>,
    lookups: Semaphore,
}

impl Resolver {
    pub(crate) fn new(guard: Option<Guard>) -> Self {
        let lookups = Semaphore::new(LOOKUPS_MAX);
        Resolver(Arc::new(Inner { guard, known: Mutex::default(), lookups }))
    }
}

impl Inner {
    fn remembered(&self, name: &Name) -> Option<Arc<[SocketAddr]>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(name).filter(|(at, _)| at.elapsed() < FRESH).map(|(_, addresses)| addresses.clone())
    }

    fn remember(&self, name: Name, addresses: Arc<[SocketAddr]>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= HOSTS_MAX {
            known.retain(|_, (at, _)| at.elapsed() < FRESH);
        }
        if known.len() < HOSTS_MAX {
            known.insert(name, (Instant::now(), addresses));
        }
    }

    async fn resolve(&self, name: Name) -> Result<Addresses, Error> {
        if let Some(addresses) = self.remembered(&name) {
            return Ok(Addresses { addresses, next: 0 });
        }
        let _permit = self.lookups.acquire().await?;
        // Whoever was before us may have asked the same.
        if let Some(addresses) = self.remembered(&name) {
            return Ok(Addresses { addresses, next: 0 });
        }
        let found: Vec<SocketAddr> = GaiResolver::new().call(name.clone()).await?.collect();
        let addresses: Arc<[SocketAddr]> = self.checked(&name, found)?.into();
        self.remember(name, addresses.clone());
        Ok(Addresses { addresses, next: 0 })
    }

    /// Those addresses that may be reached; an error if there is none.
    fn checked(&self, name: &Name, found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Error> {
        if found.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("`{name}` has no address")).into());
        }
        let Some(guard) = &self.guard else { return Ok(found) };
        let mut refused = None;
        let mut allowed = Vec::with_capacity(found.len());
        for address in found {
            match guard.check(name.as_str(), address.ip()) {
                Ok(()) => allowed.push(address),
                Err(why) => refused = Some(why),
            }
        }
        match refused {
            Some(why) if allowed.is_empty() => Err(why.into()),
            _ => Ok(allowed),
        }
    }
}

/// The addresses of a host.
pub(crate) struct Addresses {
    addresses: Arc<[SocketAddr]>,
    next: usize,
}

impl Iterator for Addresses {
    type Item = SocketAddr;

    fn next(&mut self) -> Option<SocketAddr> {
        let address = self.addresses.get(self.next).copied();
        self.next += 1;
        address
    }
}

impl Service<Name> for Resolver {
    type Response = Addresses;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Addresses, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let inner = self.0.clone();
        Box::pin(async move { inner.resolve(name).await })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::Guarded;

    async fn resolve(guard: Option<Guard>, host: &str) -> Result<Vec<SocketAddr>, Error> {
        Resolver::new(guard).call(host.parse()?).await.map(Iterator::collect)
    }

    #[tokio::test]
    async fn s3_a_name_of_a_private_address_is_refused_unless_it_is_on_the_list() {
        let error = resolve(Some(Guard::default()), "localhost").await.unwrap_err();
        assert!(error.downcast_ref::<Guarded>().is_some(), "{error}");
        let allowed = Guard::new(&["localhost".to_owned()]).unwrap();
        assert!(!resolve(Some(allowed), "localhost").await.unwrap().is_empty());
        assert!(!resolve(None, "localhost").await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn asks_once_for_a_burst() {
        let mut resolver = Resolver::new(None);
        let name: Name = "localhost".parse().unwrap();
        let first: Vec<_> = resolver.call(name.clone()).await.unwrap().collect();
        let kept = resolver.0.remembered(&name).unwrap();
        assert_eq!(first, kept.to_vec());
    }
}
