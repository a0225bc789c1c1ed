//! Which addresses of this machine to use.

use if_addrs::Interface;
use ronde_core::error::{Error, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Address families that may be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Family {
    /// Both.
    #[default]
    Any,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
}

impl Family {
    /// `AF_INET`, `AF_INET6`, as NCCL spells them, or `4` and `6`.
    pub(crate) fn parse(text: &str) -> Option<Family> {
        match text {
            "AF_INET" | "4" => Some(Family::V4),
            "AF_INET6" | "6" => Some(Family::V6),
            _ => None,
        }
    }

    /// The loopback address to prefer.
    pub(crate) fn loopback(self) -> IpAddr {
        match self {
            Family::Any | Family::V4 => Ipv4Addr::LOCALHOST.into(),
            Family::V6 => Ipv6Addr::LOCALHOST.into(),
        }
    }

    /// True if this address may be used.
    pub(crate) fn allows(self, address: IpAddr) -> bool {
        match self {
            Family::Any => true,
            Family::V4 => address.is_ipv4(),
            Family::V6 => address.is_ipv6(),
        }
    }
}

/// Interfaces by name, in NCCL's syntax.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct InterfaceFilter {
    exclude: bool,
    exact: bool,
    names: Vec<String>,
}

impl InterfaceFilter {
    /// `eth,ib`: prefixes; `=eth0`: exact names; `^docker` and `^=docker0`: all but these.
    pub(crate) fn parse(text: &str) -> InterfaceFilter {
        let (exclude, text) = text.strip_prefix('^').map_or((false, text), |rest| (true, rest));
        let (exact, text) = text.strip_prefix('=').map_or((false, text), |rest| (true, rest));
        let names =
            text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
        InterfaceFilter { exclude, exact, names }
    }

    /// True if nothing was asked for.
    pub(crate) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// True if an interface of this name may be used.
    pub(crate) fn allows(&self, name: &str) -> bool {
        let listed =
            self.names.iter().any(|n| if self.exact { n == name } else { name.starts_with(n.as_str()) });
        self.names.is_empty() || listed != self.exclude
    }

    /// The addresses of this machine that it selects, with this port; loopback only if it was named.
    pub(crate) fn addresses(&self, family: Family, port: u16) -> Result<Vec<SocketAddr>> {
        let interfaces = if_addrs::get_if_addrs()
            .map_err(|e| Error::resource(format!("this machine's interfaces cannot be listed: {e}")))?;
        let named = !self.is_empty() && !self.exclude;
        let usable =
            |i: &&Interface| family.allows(i.ip()) && !is_link_local(i.ip()) && (named || !i.is_loopback());
        let chosen = interfaces.iter().filter(|i| self.allows(&i.name)).filter(usable);
        let chosen: Vec<SocketAddr> = chosen.map(|i| SocketAddr::new(i.ip(), port)).collect();
        if chosen.is_empty() {
            let mut names: Vec<&str> = interfaces.iter().map(|i| i.name.as_str()).collect();
            names.dedup();
            return Err(Error::join(format!(
                "no interface has an address that RONDE_SOCKET_IFNAME and RONDE_SOCKET_FAMILY allow; this machine has {}",
                names.join(", ")
            )));
        }
        Ok(chosen)
    }
}

/// Link-local addresses mean nothing without the interface, which the others cannot know.
fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_syntax_of_the_field() {
        let allows = |filter: &str, name: &str| InterfaceFilter::parse(filter).allows(name);
        assert!(allows("", "anything"));
        assert!(allows("eth", "eth0") && !allows("eth", "ib0"));
        assert!(allows("eth, ib", "ib0"));
        assert!(allows("=eth0", "eth0") && !allows("=eth", "eth0"));
        assert!(
            !allows("^docker,lo", "docker0") && !allows("^docker,lo", "lo") && allows("^docker,lo", "eth0")
        );
        assert!(!allows("^=eth0", "eth0") && allows("^=eth0", "eth01"));
    }

    #[test]
    fn loopback_only_by_name() {
        let found = InterfaceFilter::parse("=lo").addresses(Family::V4, 7).unwrap();
        assert!(found.iter().all(|a| a.ip().is_loopback() && a.port() == 7), "{found:?}");
        let others = InterfaceFilter::parse("").addresses(Family::Any, 7).unwrap_or_default();
        assert!(others.iter().all(|a| !a.ip().is_loopback()), "{others:?}");
    }

    #[test]
    fn nothing_found_says_what_there_is() {
        let error = InterfaceFilter::parse("=nosuch0").addresses(Family::Any, 7).unwrap_err().to_string();
        assert!(error.contains("RONDE_SOCKET_IFNAME") && error.contains("lo"), "{error}");
    }
}
