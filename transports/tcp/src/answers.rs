//! Whether the machines behind connections still answer.
//!
//! A path may end without a word: a firewall forgets a connection, a cable is pulled, a route changes. The kernel gives such a
//! connection up after a quarter of an hour. Its table of connections tells much sooner, and it tells a machine that does
//! not answer from a process that does not read: the kernel of the latter acknowledges what comes and answers to
//! probes for room. (`TCP_USER_TIMEOUT` does not tell these apart.)

use rustix::fs::fstat;
use std::collections::HashMap;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];
/// The tables have a row for each connection of the machine: they are read so often at most, for all links together.
const FRESH: Duration = Duration::from_millis(100);

/// The number by which the tables name a connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Inode(u64);

impl Inode {
    /// `None` if the system does not tell: then nothing is known of the connection.
    pub(crate) fn of(socket: &TcpStream) -> Option<Inode> {
        fstat(socket.as_fd()).ok().map(|stat| Inode(stat.st_ino))
    }
}

/// What the tables said: how often in a row something was sent again, or room was asked for, and no answer came.
type Unanswered = HashMap<Inode, u32>;

static LAST: Mutex<Option<(Instant, Unanswered)>> = Mutex::new(None);

/// The largest count of these connections; 0 if all are answered.
pub(crate) fn unanswered(sockets: impl Iterator<Item = Inode>) -> u32 {
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if last.as_ref().is_none_or(|(read, _)| read.elapsed() >= FRESH) {
        let tables = TABLES.iter().filter_map(|path| std::fs::read_to_string(path).ok());
        *last = Some((Instant::now(), tables.flat_map(|table| parse(&table)).collect()));
    }
    let counts = last.as_ref().map(|(_, counts)| counts);
    sockets.filter_map(|inode| counts?.get(&inode).copied()).max().unwrap_or(0)
}

/// Connections whose other side has left something unanswered, from a table as proc(5) describes it: the seventh column counts what
/// was sent again, the ninth what probes for room got no answer, the tenth is the inode.
fn parse(table: &str) -> Unanswered {
    let row = |line: &str| {
        let mut columns = line.split_ascii_whitespace().skip(6);
        let again = u32::from_str_radix(columns.next()?, 16).ok()?;
        let probes: u32 = columns.nth(1)?.parse().ok()?;
        let inode = columns.next()?.parse().ok()?;
        Some((Inode(inode), again.max(probes)))
    };
    table.lines().skip(1).filter_map(row).filter(|(_, unanswered)| *unanswered > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_table_names_what_is_not_answered() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            \x20  0: 0100007F:72D8 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 9001 1 0000 100 0 0 10 0\n\
            \x20  1: 0200010A:72D8 0100010A:A1B2 01 00000140:00000000 01:00000A3C 0000000B     0        0 9002 3 0000 20 4 1 10 -1\n\
            \x20  2: 0200010A:72D9 0100010A:A1B3 01 00010000:00000000 04:000001F0 00000000     0        6 9003 2 0000 20 4 1 10 -1\n\
            \x20  3: 0200010A:72DA cut off\n";
        assert_eq!(parse(table), Unanswered::from([(Inode(9002), 11), (Inode(9003), 6)]));
        assert_eq!(parse(""), Unanswered::new());
    }

    #[test]
    fn a_process_that_does_not_read_is_answered_for() {
        use std::io::Write;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_far, _) = listener.accept().unwrap();
        near.set_nonblocking(true).unwrap();
        while near.write(&[1; 65536]).is_ok() {}
        // Long enough for several probes.
        std::thread::park_timeout(Duration::from_secs(2));
        assert_eq!(unanswered(Inode::of(&near).into_iter()), 0);
    }
}
