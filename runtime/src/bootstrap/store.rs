//! Starting over a key-value store that a framework already has.

use super::id::{Host, RondeId};
use crate::config::Config;
use ronde_core::error::{Error, Result};
use std::time::{Duration, Instant};

/// A key-value store that all processes of the job reach, for example a framework's own.
///
/// One store may serve several jobs, one after another or at once, if each gives its keys another prefix.
pub trait Store: Send + Sync {
    /// Sets a key.
    fn set(&self, key: &str, value: &[u8]) -> Result<()>;

    /// The value of a key, waiting for it at most for `patience`; an error if it is not set by then.
    fn get(&self, key: &str, patience: Duration) -> Result<Vec<u8>>;
}

/// The key that the id travels under.
const KEY: &str = "ronde/id";

/// Rank 0 makes the id, puts it into the store and hosts the coordinator; the others wait for it.
pub(super) fn exchange(
    store: &dyn Store,
    config: &Config,
    deadline: Instant,
) -> Result<(RondeId, Option<Host>)> {
    match config.rank {
        Some(0) => {
            let id = RondeId::create(config)?;
            // Before others know of the id: a rank that is a thread of this process would take it. It ends with an error,
            // since nobody can join an id that nobody was told.
            let host = id.take_host();
            store.set(KEY, id.as_bytes())?;
            Ok((id, host))
        }
        Some(_) => {
            let value = store.get(KEY, deadline.saturating_duration_since(Instant::now()))?;
            Ok((RondeId::from_bytes(&value)?, None))
        }
        None => Err(Error::join("starting over a store needs a rank in every process")),
    }
}
