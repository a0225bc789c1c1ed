//! Connections that are waited for until a moment, also where the other side says a byte now and then.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// What one wait of a connection can be limited on.
pub(crate) trait Limited {
    fn limit_reads(&self, limit: Option<Duration>) -> io::Result<()>;
    fn limit_writes(&self, limit: Option<Duration>) -> io::Result<()>;
}

impl Limited for TcpStream {
    fn limit_reads(&self, limit: Option<Duration>) -> io::Result<()> {
        self.set_read_timeout(limit)
    }

    fn limit_writes(&self, limit: Option<Duration>) -> io::Result<()> {
        self.set_write_timeout(limit)
    }
}

impl Limited for UnixStream {
    fn limit_reads(&self, limit: Option<Duration>) -> io::Result<()> {
        self.set_read_timeout(limit)
    }

    fn limit_writes(&self, limit: Option<Duration>) -> io::Result<()> {
        self.set_write_timeout(limit)
    }
}

/// A connection, and until when.
pub(crate) struct Until<'a, S>(pub(crate) &'a S, pub(crate) Instant);

impl<S: Limited> Until<'_, S> {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.1.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }

    /// From here on the connection has all the time there is.
    pub(crate) fn lift(self) -> io::Result<()> {
        self.0.limit_reads(None)?;
        self.0.limit_writes(None)
    }
}

impl<'a, S: Limited> Read for Until<'a, S>
where
    &'a S: Read,
{
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.limit_reads(self.left()?)?;
        let mut stream = self.0;
        stream.read(bytes)
    }
}

impl<'a, S: Limited> Write for Until<'a, S>
where
    &'a S: Write,
{
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.limit_writes(self.left()?)?;
        let mut stream = self.0;
        stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut stream = self.0;
        stream.flush()
    }
}
