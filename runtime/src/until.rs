//! Connections that are waited for until a moment, also where the other side says a byte now and then.

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// A connection, and until when.
pub(crate) struct Until<'a, S>(pub(crate) &'a S, pub(crate) Instant);

impl<S: AsFd> Until<'_, S> {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.1.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }

    /// From here on the connection has all the time there is.
    pub(crate) fn lift(self) -> io::Result<()> {
        set_socket_timeout(self.0, Timeout::Recv, None)?;
        Ok(set_socket_timeout(self.0, Timeout::Send, None)?)
    }
}

impl<'a, S: AsFd> Read for Until<'a, S>
where
    &'a S: Read,
{
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        set_socket_timeout(self.0, Timeout::Recv, self.left()?)?;
        let mut stream = self.0;
        stream.read(bytes)
    }
}

impl<'a, S: AsFd> Write for Until<'a, S>
where
    &'a S: Write,
{
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        set_socket_timeout(self.0, Timeout::Send, self.left()?)?;
        let mut stream = self.0;
        stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut stream = self.0;
        stream.flush()
    }
}
