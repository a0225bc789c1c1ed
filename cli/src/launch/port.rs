//! A loopback port that stays free until a child binds it.

use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};

/// Reserves a port on 127.0.0.1 for a later listener.
///
/// A port that was merely free a moment ago may be handed to anybody before the child binds it. So one
/// connection is made over it here and closed first by the listening side: the port is then in
/// TIME_WAIT, which the kernel skips when it picks ports, while a listener that sets SO_REUSEADDR (as
/// all of ours do) may still bind it.
pub(crate) fn reserve_loopback_port() -> io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let client = TcpStream::connect(address)?;
    let (server, _) = listener.accept()?;
    drop(listener);
    drop(server);
    drop(client);
    Ok(address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_can_be_bound_and_is_not_given_out() {
        let port = reserve_loopback_port().unwrap();
        let others: Vec<u16> = (0..64).map(|_| reserve_loopback_port().unwrap()).collect();
        assert!(!others.contains(&port));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        assert_eq!(listener.local_addr().unwrap().port(), port);
    }
}
