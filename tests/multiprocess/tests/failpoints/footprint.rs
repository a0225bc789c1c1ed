//! What a process holds of the system: descriptors, threads, memory that is shared.

use rustix::net::{AddressFamily, sockopt};
use rustix::process::{PidfdFlags, PidfdGetfdFlags};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// Names of shared memory that a link is made of, as the system shows them.
const RING: &str = "memfd:ronde-ring";
/// Descriptors of a link: its socket, or where connections are made again what watches that, and two duplicates to wait with.
const LINK_DESCRIPTORS: usize = 3;
/// Descriptors of the coordinator for each member.
const MEMBER_SOCKETS: usize = 1;
/// Threads of a coordinator besides: for arrivals and for itself. The address that it takes over has one more.
const COORDINATOR_THREADS: usize = 2;
/// How long what belonged to the lost may take to go.
const PATIENCE: Duration = Duration::from_secs(5);

fn entries(folder: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

/// Descriptors of a process: number and what it is.
fn descriptors(process: &str) -> Vec<(String, String)> {
    let folder = format!("/proc/{process}/fd");
    let target = |name: String| {
        let target = fs::read_link(format!("{folder}/{name}")).ok()?;
        Some((name, target.to_string_lossy().into_owned()))
    };
    entries(&folder).into_iter().filter_map(target).collect()
}

/// Ports of both ends of every TCP connection of this machine, the local one first, and its socket.
fn connections() -> BTreeMap<(u16, u16), String> {
    let table = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let port = |address: &str| u16::from_str_radix(address.rsplit_once(':')?.1, 16).ok();
    let row = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let inode = words.get(9).filter(|inode| **inode != "0")?;
        Some(((port(words[1])?, port(words[2])?), format!("socket:[{inode}]")))
    };
    table.lines().skip(1).filter_map(row).collect()
}

/// This process's sockets that are connected to another. A duplicate counts like the first.
pub(crate) fn sockets_to(process: u32) -> Vec<OwnedFd> {
    let me = rustix::process::getpid();
    let Ok(myself) = rustix::process::pidfd_open(me, PidfdFlags::empty()) else { return Vec::new() };
    let connections = connections();
    let theirs: BTreeSet<String> = descriptors(&process.to_string()).into_iter().map(|(_, t)| t).collect();
    let mut found = Vec::new();
    for (number, target) in descriptors("self") {
        let Ok(number) = number.parse() else { continue };
        if !target.starts_with("socket:") {
            continue;
        }
        // A duplicate is an owned descriptor, which the number alone is not.
        let Ok(socket) = rustix::process::pidfd_getfd(&myself, number, PidfdGetfdFlags::empty()) else {
            continue;
        };
        let is_to_it = match sockopt::socket_domain(&socket) {
            Ok(AddressFamily::UNIX) => sockopt::socket_peercred(&socket)
                .is_ok_and(|peer| peer.pid.as_raw_nonzero().get() as u32 == process),
            Ok(_) => ports(&socket)
                .and_then(|(here, there)| connections.get(&(there, here)))
                .is_some_and(|socket| theirs.contains(socket)),
            Err(_) => false,
        };
        if is_to_it {
            found.push(socket);
        }
    }
    found
}

fn ports(socket: &OwnedFd) -> Option<(u16, u16)> {
    let stream = TcpStream::from(socket.as_fd().try_clone_to_owned().ok()?);
    Some((stream.local_addr().ok()?.port(), stream.peer_addr().ok()?.port()))
}

/// How much there is of what.
#[derive(Clone, Debug)]
struct Counts {
    sockets: usize,
    other_descriptors: usize,
    threads: usize,
    /// Pieces of the address space.
    rings: usize,
}

impl Counts {
    fn now() -> Counts {
        let descriptors = descriptors("self");
        let sockets = descriptors.iter().filter(|(_, target)| target.starts_with("socket:")).count();
        // The folder that is being read is one too.
        let others = descriptors.iter().filter(|(_, target)| !target.ends_with("/fd")).count() - sockets;
        let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
        Counts {
            sockets,
            other_descriptors: others,
            threads: entries("/proc/self/task").len(),
            rings: maps.lines().filter(|line| line.contains(RING)).count(),
        }
    }

    fn is_within(&self, expected: &Counts) -> bool {
        // A connection that proved itself, or was turned away, and its thread may have been counted before.
        self.threads <= expected.threads
            && self.sockets <= expected.sockets
            && (self.other_descriptors, self.rings) == (expected.other_descriptors, expected.rings)
    }
}

/// What a process holds before some are lost.
pub(crate) struct Footprint {
    counts: Counts,
    rank: u32,
    ranks: u32,
    /// It was not the host of the coordinator at first.
    has_succeeded: bool,
    /// Ranks with which it shares memory.
    shares: Vec<u32>,
    /// Connections are made again.
    reconnects: bool,
}

impl Footprint {
    /// For a rank of so many, as it was at first and is now, and the ranks with which it shares memory.
    pub(crate) fn now(
        (first_rank, rank): (u32, u32),
        ranks: u32,
        shares: Vec<u32>,
        reconnects: bool,
    ) -> Footprint {
        let has_succeeded = first_rank > 0;
        Footprint { counts: Counts::now(), rank, ranks, has_succeeded, shares, reconnects }
    }

    /// Waits until all that was kept for these ranks is gone, and nothing has come instead.
    pub(crate) fn expect_without(&self, lost: &[u32]) -> Result<(), String> {
        let until = Instant::now() + PATIENCE;
        let expected = self.expected(lost);
        loop {
            let now = Counts::now();
            if now.is_within(&expected) {
                return Ok(());
            }
            if Instant::now() > until {
                let before = &self.counts;
                return Err(format!("without {lost:?} it has {now:?}, not {expected:?}; before: {before:?}"));
            }
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }

    /// What may be left.
    fn expected(&self, lost: &[u32]) -> Counts {
        let mut expected = self.counts.clone();
        let shared = self.shares.iter().filter(|rank| lost.contains(rank)).count();
        expected.rings -= shared * expected.rings / self.shares.len().max(1);
        if self.reconnects {
            expected.sockets -= lost.len();
            expected.other_descriptors -= lost.len() * LINK_DESCRIPTORS;
        } else {
            expected.sockets -= lost.len() * LINK_DESCRIPTORS;
        }
        let left = self.ranks as usize - lost.len();
        let hosts = self.rank == 0;
        let succeeds = lost.contains(&0) && (0..self.rank).all(|rank| lost.contains(&rank));
        if hosts {
            expected.sockets -= lost.len() * MEMBER_SOCKETS;
            expected.threads -= lost.len();
        } else if succeeds {
            expected.sockets += left * MEMBER_SOCKETS;
            expected.threads += left + COORDINATOR_THREADS;
        }
        // The address of a host that sleeps is free once that has ended, and is taken over then.
        let may_take_over = usize::from(succeeds || hosts && self.has_succeeded);
        expected.sockets += may_take_over;
        expected.threads += may_take_over;
        expected
    }
}
