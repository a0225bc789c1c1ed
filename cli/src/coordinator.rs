//! `ronde coordinator`: the service that decides who belongs to a job, as a process of its own.

use crate::args::CoordinatorArgs;
use crate::exit::Failure;
use crate::say::complain;
use anyhow::Result;
use ronde::Config;
use std::net::{SocketAddr, ToSocketAddrs};
use std::process::ExitCode;

/// Serves jobs and returns when they have ended, unless it is to go on.
pub(crate) fn run(args: &CoordinatorArgs) -> Result<ExitCode> {
    let address = resolve(&args.listen)?;
    let mut config = Config::from_env()?;
    if let Some(size) = args.size {
        config = config.size(size);
    }
    if let Some(peers) = args.min_peers {
        config = config.min_peers(peers);
    }
    if let Some(peers) = args.max_peers {
        config = config.max_peers(peers);
    }
    let ranks = args.size.map_or(String::new(), |size| format!(" for {size} ranks"));
    complain!("ronde: coordinator at {address}{ranks}; members use RONDE_COORDINATOR={address}\n");
    ronde::serve_coordinator(&config, address, args.keep)?;
    complain!("ronde: all jobs have ended\n");
    Ok(ExitCode::SUCCESS)
}

fn resolve(text: &str) -> Result<SocketAddr, Failure> {
    let mut found = text
        .to_socket_addrs()
        .map_err(|e| Failure::usage(format!("\"{text}\" is no address to listen on (host:port): {e}")))?;
    let address = found.next().ok_or_else(|| Failure::usage(format!("\"{text}\" has no address")))?;
    match address.port() {
        0 => Err(Failure::usage("members must know the port: name one other than 0")),
        _ => Ok(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_families() {
        assert_eq!(resolve("127.0.0.1:4000").unwrap().to_string(), "127.0.0.1:4000");
        assert_eq!(resolve("[::1]:4000").unwrap().to_string(), "[::1]:4000");
        for text in ["127.0.0.1", "127.0.0.1:0", "nowhere:x", ""] {
            assert!(resolve(text).is_err(), "{text}");
        }
    }
}
