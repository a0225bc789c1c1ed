//! Whether the machines behind connections still answer.
//!
//! A path may end without a word: a firewall forgets a connection, a cable is pulled, a route changes. The kernel gives such a
//! connection up after a quarter of an hour. Its table of connections tells much sooner, and it tells a machine that does
//! not answer from a process that does not read: the kernel of the latter acknowledges what comes and answers to
//! probes for room. (`TCP_USER_TIMEOUT` does not tell these apart.) Kernels before 6.6 may also drop what finds no memory when a
//! process that does not read is sent very many small frames.

use rustix::fs::fstat;
use std::collections::HashMap;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::time::{Duration, Instant};

const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];
/// The tables have a row for each connection of the machine: they are read so often at most, for all links together.
const FRESH: Duration = Duration::from_millis(250);

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

static LAST: Mutex<Option<(Instant, Option<Unanswered>)>> = Mutex::new(None);

/// The largest count of these connections; 0 if all are answered. `None` if it is not known now.
pub(crate) fn unanswered(sockets: impl Iterator<Item = Inode>) -> Option<u32> {
    // Not waited for: another thread may be reading, and in a process that was forked meanwhile nobody would ever be done.
    let mut last = LAST.try_lock().ok()?;
    if last.as_ref().is_none_or(|(read, _)| read.elapsed() >= FRESH) {
        let tables = TABLES.iter().filter_map(|path| std::fs::read_to_string(path).ok());
        let rows: Vec<_> = tables.flat_map(|table| parse(&table).collect::<Vec<_>>()).collect();
        // Where the tables cannot be read there is not even this process's listener.
        let counts = (!rows.is_empty()).then(|| rows.into_iter().filter(|(_, count)| *count > 0).collect());
        *last = Some((Instant::now(), counts));
    }
    let (_, counts) = last.as_ref()?;
    let counts = counts.as_ref()?;
    Some(sockets.filter_map(|inode| counts.get(&inode).copied()).max().unwrap_or(0))
}

/// How much each connection's other side has left unanswered, from a table as proc(5) describes it: the seventh column counts what
/// was sent again, the ninth what probes got no answer, the tenth is the inode.
fn parse(table: &str) -> impl Iterator<Item = (Inode, u32)> {
    let row = |line: &str| {
        let mut columns = line.split_ascii_whitespace().skip(6);
        let again = u32::from_str_radix(columns.next()?, 16).ok()?;
        let probes: u32 = columns.nth(1)?.parse().ok()?;
        let inode = columns.next()?.parse().ok()?;
        Some((Inode(inode), again.max(probes)))
    };
    table.lines().skip(1).filter_map(row)
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
        let rows: Vec<(Inode, u32)> = parse(table).collect();
        assert_eq!(rows, [(Inode(9001), 0), (Inode(9002), 11), (Inode(9003), 6)]);
        assert_eq!(parse("").count(), 0);
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
        let inode = Inode::of(&near).unwrap();
        let table = std::fs::read_to_string(TABLES[0]).unwrap();
        assert!(parse(&table).any(|row| row == (inode, 0)), "{inode:?}: {table}");
        assert_eq!(unanswered([inode].into_iter()), Some(0));
    }
}
