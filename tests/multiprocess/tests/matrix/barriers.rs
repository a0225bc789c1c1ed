//! Barriers: nobody leaves one before all have come.

use ronde::{Call, CallOptions, Tolerance};
use ronde_multiprocess::{is_child, run};
use std::fs::{File, create_dir_all, metadata, remove_dir_all};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const FOLDER: &str = "RONDE_TEST_FOLDER";
const ROUNDS: u64 = 200;

/// Before a barrier each rank makes a file of its own one byte longer; after it all files have that length.
#[test]
fn barrier_rank() {
    if !is_child() {
        return;
    }
    let folder = PathBuf::from(std::env::var_os(FOLDER).expect("set by the parent"));
    let group = ronde::Config::from_env().and_then(|config| config.join()).expect("join");
    let (me, n) = (u64::from(group.rank()), u64::from(group.size()));
    let mut own = File::create(folder.join(me.to_string())).expect("a file");
    for round in 1..=ROUNDS {
        let come = Instant::now() + Duration::from_micros(if round % n == me { 200 } else { 0 });
        while Instant::now() < come {
            std::hint::spin_loop();
        }
        own.write_all(b".").expect("a byte");
        let tolerance = if round % 2 == 0 { Tolerance::None } else { Tolerance::Recover };
        let options = CallOptions { tolerance, strict_commit: round % 3 == 0, ..CallOptions::default() };
        let _ = group.run(Call { options, ..Call::EMPTY }).expect("a barrier");
        for rank in 0..n {
            let length = metadata(folder.join(rank.to_string())).map_or(0, |file| file.len());
            assert!(length >= round, "rank {me} left barrier {round} before rank {rank} came");
        }
    }
    group.close().expect("close");
}

#[test]
fn barriers() {
    if is_child() {
        return;
    }
    for transport in ["tcp", "shm"] {
        for ranks in [1, 2, 3, 4, 5, 8] {
            let name = format!("barriers-{}-{transport}-{ranks}", std::process::id());
            let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
            create_dir_all(&folder).expect("a folder");
            let path = folder.to_str().expect("the build's folder has a plain name");
            run("barriers::barrier_rank", ranks, &[("RONDE_TRANSPORTS", transport), (FOLDER, path)]);
            remove_dir_all(&folder).expect("it is there");
        }
    }
}
