//! An opaque id that one process makes and the user hands to the others.

use super::handshake::{Identity, fill_random};
use super::listener::{Listener, bind_free_port};
use super::waiting::Inbox;
use super::{new_peer_id, refuse_open_networks};
use crate::config::Config;
use crate::engine::lock;
use crate::jobs::Coordinators;
use ronde_core::error::{Error, Result};
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;

/// Where a coordinator listens and the token that it wants, as at most 256 bytes of text.
///
/// ```no_run
/// // In one process, whatever its rank:
/// let id = ronde::RondeId::create(&ronde::Config::new())?;
/// // Hand `id.as_bytes()` to the others; then in all of them:
/// let group = ronde::Config::new().id(&id).rank(0).size(1).join()?;
/// # Ok::<(), ronde::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct RondeId(String);

/// What was started to host the coordinator of an id.
pub(super) struct Host {
    pub(super) identity: Identity,
    pub(super) listener: Listener,
    pub(super) inbox: Inbox,
}

/// Hosts of ids that were made here and have not been joined here yet, with the process that made them: a
/// child made by fork has a copy of this table, but not of the threads that serve.
static HOSTS: Mutex<Vec<(u32, RondeId, Host)>> = Mutex::new(Vec::new());

/// Start of every id, with its version.
const PREFIX: &str = "ronde1;";

impl RondeId {
    /// Bytes of an id at most.
    pub const MAX_BYTES: usize = 256;

    /// Starts a coordinator in this process and returns its id. It serves one job and ends with it,
    /// or with this process. A token is made up unless `config` has one. The coordinator listens on
    /// loopback only unless `config` allows more ([`Config::insecure`]).
    pub fn create(config: &Config) -> Result<RondeId> {
        let token = if config.token.is_empty() { random_token()? } else { config.token.clone() };
        let identity = Identity::new(&token, new_peer_id()?);
        let mut addresses = match (config.insecure, config.family.loopback()) {
            (true, _) => config.interfaces.addresses(config.family, 0)?,
            (false, loopback) => vec![SocketAddr::new(loopback, 0)],
        };
        let first = addresses.first().map_or(IpAddr::from([127, 0, 0, 1]), SocketAddr::ip);
        let (listener, inbox) = Listener::new(
            config,
            &identity,
            bind_free_port(config, first)?,
            Some(Coordinators::start(config)?),
        )?;
        // The socket is bound to all addresses of one family.
        addresses.retain(|a| a.is_ipv4() == first.is_ipv4());
        addresses.iter_mut().for_each(|a| a.set_port(listener.port()));
        let id = RondeId::new(&addresses, &token)?;
        lock(&HOSTS).push((std::process::id(), id.clone(), Host { identity, listener, inbox }));
        Ok(id)
    }

    /// The host of this id, if it was made in this process and nobody took it yet.
    pub(super) fn take_host(&self) -> Option<Host> {
        let mut hosts = lock(&HOSTS);
        let at = hosts.iter().position(|(pid, id, _)| *pid == std::process::id() && id == self)?;
        Some(hosts.swap_remove(at).2)
    }

    /// Ends the coordinator of this id, if it was made in this process and this process has not joined with it: for a job that does
    /// not come to be, or has another.
    pub fn discard(&self) {
        drop(self.take_host());
    }

    fn new(addresses: &[SocketAddr], token: &str) -> Result<RondeId> {
        let mut list = String::new();
        for address in addresses {
            let more = format!("{}{address}", if list.is_empty() { "" } else { "," });
            if PREFIX.len() + list.len() + more.len() + 1 + token.len() <= Self::MAX_BYTES {
                list += &more;
            }
        }
        if list.is_empty() {
            return Err(Error::join("no address fits into the id; use a shorter token"));
        }
        Ok(RondeId(format!("{PREFIX}{list};{token}")))
    }

    /// The bytes to hand to the other processes. They contain the token: keep them as secret as that.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Reads what [`RondeId::as_bytes`] gave; trailing zero bytes are ignored.
    pub fn from_bytes(bytes: &[u8]) -> Result<RondeId> {
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let text = std::str::from_utf8(&bytes[..end]).ok().filter(|text| text.len() <= Self::MAX_BYTES);
        let id = RondeId(text.unwrap_or_default().to_owned());
        match id.parts() {
            Some(_) => Ok(id),
            None => Err(Error::join("these bytes are no Ronde id")),
        }
    }

    fn parts(&self) -> Option<(Vec<SocketAddr>, &str)> {
        let (list, token) = self.0.strip_prefix(PREFIX)?.split_once(';')?;
        let addresses = list.split(',').map(str::parse).collect::<Result<Vec<_>, _>>().ok()?;
        Some((addresses, token))
    }

    /// Where the coordinator listens; refuses what leaves the machine unless that is allowed.
    pub(super) fn addresses(&self, config: &Config) -> Result<Vec<SocketAddr>> {
        let addresses = self.parts().map(|(addresses, _)| addresses).unwrap_or_default();
        addresses.iter().try_for_each(|address| refuse_open_networks(config, *address))?;
        Ok(addresses)
    }

    /// The token it wants.
    pub(super) fn token(&self) -> &str {
        self.parts().map_or("", |(_, token)| token)
    }
}

impl std::fmt::Debug for RondeId {
    /// Without the token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RondeId({:?})", self.parts().map(|(addresses, _)| addresses))
    }
}

fn random_token() -> Result<String> {
    let mut bytes = [0u8; 24];
    fill_random(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_there_and_back() {
        let addresses: Vec<SocketAddr> = vec!["127.0.0.1:7".parse().unwrap(), "[::1]:8".parse().unwrap()];
        let id = RondeId::new(&addresses, "a;token").unwrap();
        let mut padded = id.as_bytes().to_vec();
        padded.resize(RondeId::MAX_BYTES, 0);
        let back = RondeId::from_bytes(&padded).unwrap();
        assert_eq!(back, id);
        assert_eq!((back.addresses(&Config::new()).unwrap(), back.token()), (addresses, "a;token"));
        assert!(!format!("{back:?}").contains("token"));
    }

    #[test]
    fn what_is_discarded_serves_no_more() {
        let config = Config::new().connect_timeout(std::time::Duration::from_millis(50));
        let id = RondeId::create(&config).unwrap();
        let address = id.addresses(&config).unwrap()[0];
        assert!(std::net::TcpStream::connect(address).is_ok());
        id.discard();
        let refused = std::net::TcpStream::connect(address).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        id.discard();
        assert!(config.id(&id).rank(0).size(1).join().is_err());
    }

    #[test]
    fn keeps_to_its_length_and_refuses_garbage() {
        let many: Vec<SocketAddr> = (0..100).map(|port| SocketAddr::from(([10, 0, 0, 1], port))).collect();
        let id = RondeId::new(&many, "token").unwrap();
        assert!(id.as_bytes().len() <= RondeId::MAX_BYTES);
        assert!(id.addresses(&Config::new().insecure(true)).unwrap().len() > 5);
        assert!(id.addresses(&Config::new()).is_err());
        assert!(RondeId::new(&many, &"x".repeat(250)).is_err());
        for garbage in [&b""[..], b"ronde1;", b"ronde1;nowhere;t", b"\xff\xfe", &[b'a'; 300]] {
            assert!(RondeId::from_bytes(garbage).is_err());
        }
    }
}
