//! Pairs of TCP links over loopback.

use crate::Pair;
use crate::end::LINK;
use ronde_tcp::{TcpLink, TcpOptions};
use std::net::{TcpListener, TcpStream};

/// Makes pairs of TCP links.
#[derive(Clone, Debug)]
pub struct TcpPair {
    /// Connections of each link.
    pub streams: usize,
    /// Options of both ends.
    pub options: TcpOptions,
}

impl TcpPair {
    /// Connects two links over loopback.
    pub fn connect(&self) -> Pair {
        let (near, far) = (0..self.streams).map(|_| tcp_sockets()).unzip();
        Pair::new(self.link(near), self.link(far))
    }

    fn link(&self, sockets: Vec<TcpStream>) -> Box<TcpLink> {
        Box::new(TcpLink::new(LINK, sockets, &self.options).expect("connected sockets"))
    }
}

/// Two connected sockets.
pub fn tcp_sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let near = TcpStream::connect(listener.local_addr().expect("bound")).expect("the listener listens");
    let (far, _) = listener.accept().expect("a connection waits");
    (near, far)
}
