//! Doors for fuzz targets to what reads the words of strangers; no part of the interface.

use crate::bootstrap::{self, Errand, Family, Identity, InterfaceFilter, Purpose};
use crate::config::Config;
use crate::control::{NoView, Rendezvous};
use crate::jobs;
use crate::session::Talk;
use ronde_core::PeerId;
use ronde_core::error::Result;
use ronde_core::membership::{FromMember, Hello, View};
use std::cell::Cell;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

/// The listener's side of a connection: who has come, whether for the coordinator, as which of how many streams, and whether they
/// resume.
pub fn receive<S: Read + Write>(stream: &mut S, token: &str) -> io::Result<(PeerId, bool, u8, u8, bool)> {
    let identity = Identity::new(token, PeerId::default());
    let introduction = bootstrap::receive(stream, &identity)?;
    let Errand { purpose, stream, streams, resumes, .. } = introduction.errand;
    Ok((introduction.peer, purpose == Purpose::Control, stream, streams, resumes))
}

/// The side that connects.
pub fn introduce<S: Read + Write>(stream: &mut S, token: &str) -> io::Result<()> {
    bootstrap::introduce(stream, &Identity::new(token, PeerId::default()), Errand::DATA)
}

/// What a coordinator hears first on a connection: the name of a job, and a message.
pub fn first_message(mut stream: impl Read) -> Option<(String, FromMember)> {
    jobs::first_message(|| crate::control::read_message(&mut stream))
}

/// What a coordinator hears after that.
pub fn next_message(stream: impl Read) -> io::Result<FromMember> {
    crate::control::read_message(stream)
}

/// The first view of a member that says this, from a coordinator that may be anybody.
pub fn await_view(stream: TcpStream, hello: Hello, deadline: Instant) -> Result<View> {
    let joining = Rendezvous::new(Talk::new(stream, None), "", hello, deadline)?;
    joining.await_view(&Cell::new(false)).map(|(view, _)| view).map_err(NoView::into_error)
}

/// The addresses of a coordinator that is called this.
pub fn coordinator(text: &str) -> Result<Vec<SocketAddr>> {
    bootstrap::coordinator_addresses(&Config::new().coordinator(text).insecure(true))
}

/// The addresses that a process gives for itself.
pub fn advertised(text: &str) -> io::Result<Vec<SocketAddr>> {
    bootstrap::advertised(text, 1)
}

/// Whether a filter allows an interface, and what a name says of address families.
pub fn interface(filter: &str, name: &str) -> (bool, bool) {
    (InterfaceFilter::parse(filter).allows(name), Family::parse(name).is_some())
}

/// A job of this name.
pub fn job(name: &str) -> Result<Config> {
    Config::new().job(name)
}
