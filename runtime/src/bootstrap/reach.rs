//! What a process would use to be found, without asking anybody.

use super::listener::listening_address;
use super::{addresses_for_peers, coordinator_addresses};
use crate::config::Config;
use ronde_core::error::{Error, Result};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

/// Where a process would listen and be found if it joined ([`Config::reach`]).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reach {
    /// Addresses of the coordinator, in the order in which they are tried.
    pub coordinator: Vec<SocketAddr>,
    /// Address at which the process listens.
    pub listens_at: IpAddr,
    /// Addresses that the others are given. Port 0 stands for that of the process, which it gets when it joins.
    pub peers: Vec<SocketAddr>,
    /// What decided on these.
    pub source: AddressSource,
}

/// Why others are given the addresses that they are ([`Reach::source`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AddressSource {
    /// They were named ([`Config::advertise`]).
    Advertised,
    /// They are those of the interfaces that were selected ([`Config::interfaces`]).
    Interfaces,
    /// The coordinator is reached from there.
    Route,
}

impl Config {
    /// What a process with this configuration would use to be found, as far as it can be known without asking anybody: an error
    /// is one that it would get as well.
    pub fn reach(&self) -> Result<Reach> {
        let coordinator = coordinator_addresses(self)?;
        let first = coordinator.first().map_or(IpAddr::from(Ipv4Addr::LOCALHOST), SocketAddr::ip);
        let listens_at = listening_address(first);
        let way = || coordinator.iter().map(|address| local_end(*address)).reduce(Result::or);
        let local = || way().unwrap_or(Ok(first));
        let (peers, source) = addresses_for_peers(self, SocketAddr::new(listens_at, 0), local)?;
        Ok(Reach { coordinator, listens_at, peers, source })
    }
}

/// This machine's address on the way to another. Connecting a UDP socket asks the routing table and sends nothing.
pub(super) fn local_end(to: SocketAddr) -> Result<IpAddr> {
    let unspecified = match to {
        SocketAddr::V4(_) => IpAddr::from([0u8; 4]),
        SocketAddr::V6(_) => IpAddr::from([0u16; 8]),
    };
    let ask = || -> io::Result<IpAddr> {
        let socket = UdpSocket::bind((unspecified, 0))?;
        socket.connect(to)?;
        Ok(socket.local_addr()?.ip())
    };
    ask().map_err(|e| Error::join(format!("{to} is out of reach: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(config: Config) -> Result<Vec<String>> {
        config.reach().map(|reach| reach.peers.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn settings_decide_in_the_order_of_joining() {
        let local = Config::new().coordinator("127.0.0.1:29400");
        assert_eq!(reach(local.clone()).unwrap(), ["127.0.0.1:0"]);
        assert_eq!(reach(local.clone().interfaces("none-of-these")).unwrap(), ["127.0.0.1:0"]);
        assert_eq!(reach(local.advertise("192.0.2.7:4000")).unwrap(), ["192.0.2.7:4000"]);
        // Beyond this machine the interfaces are asked.
        let beyond = Config::new().coordinator("192.0.2.1:29400").insecure(true);
        let error = reach(beyond.clone().interfaces("none-of-these")).unwrap_err().to_string();
        assert!(error.contains("RONDE_SOCKET_IFNAME"), "{error}");
        assert!(reach(beyond.interfaces("=lo").ipv4(true)).unwrap().contains(&"127.0.0.1:0".into()));
    }

    #[test]
    fn what_joining_refuses_is_refused() {
        let beyond = Config::new().coordinator("192.0.2.1:29400");
        assert!(reach(beyond.clone()).unwrap_err().to_string().contains("RONDE_INSECURE"));
        assert_eq!(
            beyond.insecure(true).advertise("192.0.2.7").reach().unwrap().listens_at,
            IpAddr::from([0u8; 4])
        );
        let of_other_family = Config::new().coordinator("[::1]:29400").ipv4(true);
        assert!(reach(of_other_family).unwrap_err().to_string().contains("RONDE_SOCKET_FAMILY"));
    }

    #[test]
    fn a_job_of_one_stays_on_loopback() {
        assert_eq!(Config::new().reach().unwrap().listens_at, IpAddr::from(Ipv4Addr::LOCALHOST));
        assert!(Config::new().size(2).reach().is_err());
    }
}
