//! Pairs of TCP links whose connections are cut again and again, and that go on with others.

use crate::end::LINK;
use crate::{Pair, tcp_sockets};
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use ronde_core::Segment;
use ronde_core::frame::Header;
use ronde_core::transport::{Capabilities, Link, LinkFailure, Receiver, Submit, ViewToken, WakeSource};
use ronde_tcp::{Cut, Delivery, Mailbox, Resumption, TcpLink, TcpOptions};
use rustix::net::sockopt;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Makes pairs of links that take streams up again.
#[derive(Clone, Debug)]
pub struct CutPair {
    /// Connections of each link.
    pub streams: usize,
    /// In one poll of so many a connection is cut.
    pub one_poll_in: Option<u32>,
    /// Of what is cut, and how.
    pub seed: u64,
}

/// What is between the two ends.
struct Between {
    mailboxes: [Mailbox; 2],
    /// Both ends of each stream's connection: while these are open, closing a link's own says nothing to the peer.
    /// The lock is compiled with the tests: one that two threads want at once is taken within the standard library, which
    /// the thread sanitizer does not see.
    sockets: Mutex<Vec<Option<(TcpStream, TcpStream)>>>,
    cuts: bool,
    /// Connections made after the first.
    made: AtomicU32,
}

impl CutPair {
    /// Connects two links over loopback.
    pub fn connect(&self) -> Pair {
        self.connect_counted().0
    }

    /// The same, and how many connections have taken the place of others.
    pub fn connect_counted(&self) -> (Pair, impl Fn() -> u32 + use<>) {
        let (near, far): (Vec<_>, Vec<_>) = (0..self.streams).map(|_| tcp_sockets()).unzip();
        let both = near.iter().zip(&far).map(|both| self.one_poll_in.map(|_| duplicates(both)));
        let between = Arc::new(Between {
            mailboxes: [Mailbox::default(), Mailbox::default()],
            sockets: Mutex::new(both.collect()),
            cuts: self.one_poll_in.is_some(),
            made: AtomicU32::new(0),
        });
        let [near, far] = [(0, near), (1, far)].map(|(side, sockets)| self.link(&between, side, sockets));
        let count = between.clone();
        (Pair::new(near, far), move || count.made.load(Ordering::Relaxed))
    }

    fn link(&self, between: &Arc<Between>, side: usize, sockets: Vec<TcpStream>) -> Box<dyn Link> {
        let redialing = between.clone();
        let redial = move |cut| match side {
            0 => redialing.connect_again(cut),
            _ => redialing.nudge(cut),
        };
        let resumption = Resumption { redial: Box::new(redial), mailbox: between.mailboxes[side].clone() };
        let link = TcpLink::resumable(LINK, sockets, &TcpOptions::default(), resumption);
        Box::new(CutLink {
            inner: link.expect("connected sockets"),
            between: between.clone(),
            one_poll_in: self.one_poll_in,
            rng: SmallRng::seed_from_u64(self.seed.wrapping_mul(2) + side as u64),
        })
    }
}

fn duplicates((near, far): (&TcpStream, &TcpStream)) -> (TcpStream, TcpStream) {
    (near.try_clone().expect("a descriptor"), far.try_clone().expect("a descriptor"))
}

fn given_up(cut: Cut) -> Delivery {
    Delivery::GivenUp { stream: cut.stream, connection: cut.connection, failure: LinkFailure::PeerDied }
}

impl Between {
    fn connect_again(self: &Arc<Between>, cut: Cut) {
        let (near, far) = tcp_sockets();
        let both = self.cuts.then(|| duplicates((&near, &far)));
        self.sockets.lock()[usize::from(cut.stream)] = both;
        self.made.fetch_add(1, Ordering::Relaxed);
        let (stream, connection) = (cut.stream, cut.connection + 1);
        let between = self.clone();
        let answer = Box::new(move |_: &TcpStream, received| {
            // Of no use to an end that is closed.
            let _ = between.mailboxes[0].deliver(Delivery::Connected {
                stream,
                connection,
                received,
                socket: near,
            });
            Ok(())
        });
        let offer = Delivery::Offered { stream, connection, received: cut.received, socket: far, answer };
        if self.mailboxes[1].deliver(offer).is_err() {
            let _ = self.mailboxes[0].deliver(given_up(cut));
        }
    }

    fn nudge(&self, cut: Cut) {
        let nudge = Delivery::Nudged { stream: cut.stream, connection: cut.connection };
        if self.mailboxes[0].deliver(nudge).is_err() {
            let _ = self.mailboxes[1].deliver(given_up(cut));
        }
    }

    fn cut(&self, rng: &mut SmallRng) {
        let mut sockets = self.sockets.lock();
        let at = rng.random_range(0..sockets.len());
        let Some((near, far)) = sockets[at].take() else { return };
        let victim = if rng.random() { near } else { far };
        if rng.random() {
            // What is in its send buffer is lost when it is closed.
            let _ = sockopt::set_socket_linger(&victim, Some(Duration::ZERO));
        }
        let how = [Shutdown::Both, Shutdown::Read, Shutdown::Write][rng.random_range(0..3)];
        let _ = victim.shutdown(how);
    }
}

/// A link over connections that are cut.
struct CutLink {
    inner: TcpLink,
    between: Arc<Between>,
    one_poll_in: Option<u32>,
    rng: SmallRng,
}

impl Link for CutLink {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn submit(&mut self, header: &Header, payload: &Segment, cookie: u64) -> Submit {
        self.inner.submit(header, payload, cookie)
    }

    fn poll(&mut self, receiver: &mut dyn Receiver) -> Result<bool, LinkFailure> {
        if self.one_poll_in.is_some_and(|polls| self.rng.random_range(0..polls) == 0) {
            self.between.cut(&mut self.rng);
        }
        self.inner.poll(receiver)
    }

    fn release(&mut self, token: ViewToken) {
        self.inner.release(token);
    }

    fn fence(&mut self, is_over: &dyn Fn(&Header) -> bool) {
        self.inner.fence(is_over);
    }

    fn reconnect(&mut self) -> bool {
        self.inner.reconnect()
    }

    fn prepare_sleep(&mut self) -> bool {
        self.inner.prepare_sleep()
    }

    fn wake_source(&self) -> Option<WakeSource> {
        self.inner.wake_source()
    }

    fn close(&mut self) {
        self.inner.close();
    }
}
