//! Which addresses a request may reach.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use url::{Host, Url};

/// The longest allow-list entry that makes sense: a host name (RFC 1035).
const HOST_MAX: usize = 253;

/// Refuses addresses that are not public, unless they are on its list.
#[derive(Clone, Debug, Default)]
pub(crate) struct Guard {
    networks: Vec<Network>,
    hosts: Vec<String>,
}

/// A network: its address and how many of its leading bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    bits: u8,
}

/// An address that a request may not reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Guarded {
    host: String,
    address: IpAddr,
}

impl fmt::Display for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Guarded { host, address } = self;
        write!(
            f,
            "`{host}` is the address {address}, which is not public; to let it through, add it to the worker's `allow`"
        )
    }
}

impl std::error::Error for Guarded {}

impl Guard {
    /// A guard with this list of networks, addresses and host names to let through.
    pub(crate) fn new(allow: &[String]) -> Result<Self, String> {
        let mut guard = Guard::default();
        for entry in allow {
            match parse_network(entry) {
                Ok(Some(network)) => guard.networks.push(network),
                Ok(None) => guard.hosts.push(entry.to_ascii_lowercase()),
                Err(why) => return Err(format!("`allow`: `{entry}` {why}")),
            }
        }
        Ok(guard)
    }

    /// Checks a URL whose host is an address. A name is checked when it is resolved.
    pub(crate) fn check_url(&self, url: &Url) -> Result<(), Guarded> {
        let address = match url.host() {
            Some(Host::Ipv4(address)) => IpAddr::V4(address),
            Some(Host::Ipv6(address)) => IpAddr::V6(address),
            _ => return Ok(()),
        };
        self.check(&address.to_string(), address)
    }

    /// Checks an address that a host stands for.
    pub(crate) fn check(&self, host: &str, address: IpAddr) -> Result<(), Guarded> {
        if is_public(address) || self.allows(host, address) {
            return Ok(());
        }
        Err(Guarded { host: host.to_owned(), address })
    }

    fn allows(&self, host: &str, address: IpAddr) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host);
        self.hosts.iter().any(|name| name.eq_ignore_ascii_case(host))
            || self.networks.iter().any(|network| network.has(address))
    }
}

/// A network or address; `None` for a host name.
fn parse_network(entry: &str) -> Result<Option<Network>, &'static str> {
    let (address, bits) = match entry.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (entry, None),
    };
    let address = address.trim_start_matches('[').trim_end_matches(']');
    let Ok(address) = address.parse::<IpAddr>() else {
        let is_host = bits.is_none()
            && (1..=HOST_MAX).contains(&entry.len())
            && entry.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
        return if is_host { Ok(None) } else { Err("is no network, address or host name") };
    };
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = match bits {
        None => most,
        Some(bits) => {
            bits.parse().ok().filter(|bits| *bits <= most).ok_or("has no prefix length that fits")?
        }
    };
    Ok(Some(Network { address, bits }))
}

impl Network {
    fn has(self, address: IpAddr) -> bool {
        match (self.address, plain(address)) {
            (IpAddr::V4(net), IpAddr::V4(address)) => {
                let shift = 32 - u32::from(self.bits);
                u32::from(net).checked_shr(shift) == u32::from(address).checked_shr(shift)
            }
            (IpAddr::V6(net), IpAddr::V6(address)) => {
                let shift = 128 - u32::from(self.bits);
                u128::from(net).checked_shr(shift) == u128::from(address).checked_shr(shift)
            }
            _ => false,
        }
    }
}

/// The IPv4 address inside an IPv6 one that is another way to write it.
fn plain(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => embedded(v6).map_or(address, IpAddr::V4),
        v4 => v4,
    }
}

/// The IPv4 address that an IPv6 address leads to: mapped and compatible (RFC 4291), NAT64 (RFC 6052), 6to4
/// (RFC 3056).
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let parts = address.segments();
    let last = || Some(Ipv4Addr::from((u32::from(parts[6]) << 16) | u32::from(parts[7])));
    match parts {
        [0, 0, 0, 0, 0, 0xffff, _, _] => last(),
        [0, 0, 0, 0, 0, 0, high, _] if high != 0 => last(),
        [0x64, 0xff9b, 0, 0, 0, 0, _, _] => last(),
        [0x2002, high, low, ..] => Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low))),
        _ => None,
    }
}

/// Whether an address is one of the public Internet (the special-purpose registries of RFC 6890).
fn is_public(address: IpAddr) -> bool {
    match plain(address) {
        IpAddr::V4(v4) => is_public_v4(v4),
        // Only global unicast is; of it, what is set aside: Teredo and the other protocol assignments, documentation.
        IpAddr::V6(v6) => {
            let parts = v6.segments();
            let documentation = (parts[0] == 0x2001 && parts[1] == 0xdb8) || parts[0] == 0x3fff;
            let protocols = parts[0] == 0x2001 && parts[1] < 0x200;
            parts[0] & 0xe000 == 0x2000 && !documentation && !protocols
        }
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = matches!(
        (a, b, c),
        (0 | 10 | 127, _, _)
            | (100, 64..=127, _)
            | (169, 254, _)
            | (172, 16..=31, _)
            | (192, 168, _)
            | (192, 0, 0 | 2)
            | (192, 88, 99)
            | (198, 18 | 19, _)
            | (198, 51, 100)
            | (203, 0, 113)
            | (224..=255, _, _)
    );
    !special
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(guard: &Guard, url: &str) -> bool {
        guard.check_url(&Url::parse(url).unwrap()).is_ok()
    }

    #[test]
    fn s3_no_spelling_of_a_private_address_gets_through() {
        let guard = Guard::default();
        let private = [
            "http://127.0.0.1/",
            "http://127.1/",
            "http://2130706433/",
            "http://0x7f000001/",
            "http://0177.0.0.1/",
            "http://0/",
            "http://[::1]/",
            "http://[::]/",
            "http://[::ffff:127.0.0.1]/",
            "http://[::ffff:a9fe:a9fe]/",
            "http://[::127.0.0.1]/",
            "http://[64:ff9b::7f00:1]/",
            "http://[2002:7f00:1::]/",
            "http://[2001:0:1::]/",
            "http://[fe80::1]/",
            "http://[fd00::1]/",
            "http://[ff02::1]/",
            "http://169.254.169.254/latest/meta-data",
            "http://10.0.0.1/",
            "http://172.31.0.1/",
            "http://192.168.1.1/",
            "http://100.64.0.1/",
            "http://255.255.255.255/",
            "http://１２７.0.0.1/",
        ];
        for url in private {
            assert!(!check(&guard, url), "{url}");
        }
        for url in
            ["http://93.184.216.34/", "http://172.32.0.1/", "http://[2606:4700::1111]/", "http://8.8.8.8/"]
        {
            assert!(check(&guard, url), "{url}");
        }
    }

    #[test]
    fn lets_through_what_is_on_its_list() {
        let allow = ["10.1.0.0/16", "::1", "intranet.example", "127.0.0.1", "fd00::/8"].map(str::to_owned);
        let guard = Guard::new(&allow).unwrap();
        for url in [
            "http://10.1.2.3/",
            "http://[::1]/",
            "http://127.0.0.1/",
            "http://[::ffff:10.1.0.9]/",
            "http://[fd12::1]/",
        ] {
            assert!(check(&guard, url), "{url}");
        }
        for url in ["http://10.2.0.1/", "http://127.0.0.2/", "http://[fe80::1]/"] {
            assert!(!check(&guard, url), "{url}");
        }
        let address = IpAddr::from([192, 168, 0, 1]);
        assert!(guard.check("Intranet.example.", address).is_ok());
        assert!(guard.check("other.example", address).is_err());
        let everything = Guard::new(&["0.0.0.0/0".to_owned()]).unwrap();
        assert!(check(&everything, "http://127.0.0.1/"));
    }

    #[test]
    fn says_what_is_no_network() {
        for entry in ["10.0.0.0/33", "a b", "", "10.0.0.0/x", "example.org/8"] {
            assert!(Guard::new(&[entry.to_owned()]).unwrap_err().contains(entry), "{entry}");
        }
    }
}
