//! What can be chosen about the sockets of a link.

use rustix::net::sockopt;
use std::io;
use std::net::TcpStream;
use std::time::Duration;

/// Congestion control of a link's sockets. A refusal by the kernel is ignored: the system's choice stays.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Congestion {
    /// Reno within one host, where pacing by BBR costs a third of the bandwidth and up to four
    /// fifths for large operations; the system's choice elsewhere. The default.
    ///
    /// Reno and Cubic forget half of their window for every 200 ms without data (Linux,
    /// `tcp_slow_start_after_idle`): the first MiB afterwards took 1-5 ms instead of 0.25 ms. A
    /// frame every 100 ms or so, however small, avoids that.
    #[default]
    Auto,
    /// The system's choice.
    System,
    /// The named algorithm, for example `"bbr"` for long links with loss.
    Named(String),
}

/// Options of a [`TcpLink`](crate::TcpLink).
#[derive(Clone, Debug)]
pub struct TcpOptions {
    /// Congestion control. Default: [`Congestion::Auto`].
    pub congestion: Congestion,
    /// Bytes of the receive block of each stream, a multiple of 64 and at least 4096 (other values
    /// are rounded up). Larger blocks take more small frames per system call, and copy more of a
    /// large payload whose header was not expected. Default: 64 KiB.
    pub receive_block: usize,
    /// Time after which unacknowledged bytes end the connection (`TCP_USER_TIMEOUT`). Default: none,
    /// since the kernel also counts the time for which a live but busy peer does not read.
    pub user_timeout: Option<Duration>,
    /// Idle time after which the kernel probes the peer (`SO_KEEPALIVE`). It only finds hosts that
    /// vanished and costs nothing on the data path. Default: 15 s.
    pub keepalive: Option<Duration>,
}

impl Default for TcpOptions {
    fn default() -> TcpOptions {
        TcpOptions {
            congestion: Congestion::Auto,
            receive_block: 64 << 10,
            user_timeout: None,
            keepalive: Some(Duration::from_secs(15)),
        }
    }
}

impl TcpOptions {
    /// Prepares a connected socket.
    pub(crate) fn apply(&self, socket: &TcpStream) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        self.apply_congestion(socket);
        if let Some(timeout) = self.user_timeout {
            let millis = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
            sockopt::set_tcp_user_timeout(socket, millis)?;
        }
        keep_alive(socket, self.keepalive)
    }

    fn apply_congestion(&self, socket: &TcpStream) {
        let wanted = match &self.congestion {
            Congestion::Auto if within_host(socket) => "reno",
            Congestion::Auto | Congestion::System => return,
            Congestion::Named(name) => name,
        };
        // A kernel without it, or one that keeps it from this user, serves with its own choice.
        let _ = sockopt::set_tcp_congestion(socket, wanted);
    }
}

/// Has the kernel ask the peer's after so long without a word, and again as often; not at all without a time.
pub(crate) fn keep_alive(socket: &TcpStream, idle: Option<Duration>) -> io::Result<()> {
    sockopt::set_socket_keepalive(socket, idle.is_some())?;
    if let Some(idle) = idle {
        let idle = idle.max(Duration::from_secs(1));
        sockopt::set_tcp_keepidle(socket, idle)?;
        sockopt::set_tcp_keepintvl(socket, idle)?;
    }
    Ok(())
}

fn within_host(socket: &TcpStream) -> bool {
    match (socket.local_addr(), socket.peer_addr()) {
        (Ok(local), Ok(peer)) => peer.ip().is_loopback() || local.ip() == peer.ip(),
        _ => false,
    }
}
