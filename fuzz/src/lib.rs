//! What several targets need.

use std::net::{TcpListener, TcpStream};
use std::sync::OnceLock;

/// Two ends of a connection. One listener serves all: ports of listeners that went away stay taken for a minute.
pub fn sockets() -> (TcpStream, TcpStream) {
    static LISTENER: OnceLock<TcpListener> = OnceLock::new();
    let listener = LISTENER.get_or_init(|| TcpListener::bind("127.0.0.1:0").expect("loopback"));
    let near = TcpStream::connect(listener.local_addr().expect("bound")).expect("listening");
    (near, listener.accept().expect("connected").0)
}
