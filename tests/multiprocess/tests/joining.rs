//! Joining: the three ways to start, and everything that can go wrong before there is a group. Ranks are
//! threads here, since a process may hold several.

use ronde::{Config, Error, Group, ReduceOp, Result, RondeId, Store};
use ronde_multiprocess::{free_port, not_checked};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

fn at(port: u16) -> Config {
    Config::new().coordinator(format!("127.0.0.1:{port}")).connect_timeout(Duration::from_secs(20))
}

/// Joins with each of these configurations at once.
fn join_all(configs: Vec<Config>) -> Vec<Result<Group>> {
    let threads: Vec<_> = configs.into_iter().map(|c| std::thread::spawn(move || c.join())).collect();
    threads.into_iter().map(|t| t.join().expect("no panic")).collect()
}

/// Runs a sum over the groups, checks it on each, and closes them.
fn expect_working(groups: Vec<Result<Group>>, count: usize) {
    let n = groups.len() as u64;
    let threads: Vec<_> = groups
        .into_iter()
        .map(|group| {
            let group = group.expect("join");
            std::thread::spawn(move || {
                assert_eq!(u64::from(group.size()), n);
                let mut data: Vec<u64> = (0..count as u64).map(|i| i + u64::from(group.rank())).collect();
                let _ = group.all_reduce(&mut data, ReduceOp::Sum).expect("all-reduce");
                assert!(data.iter().zip(0..).all(|(&x, i)| x == n * i + n * (n - 1) / 2));
                group.close().expect("close");
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().expect("a rank"));
}

fn errors(groups: Vec<Result<Group>>) -> Vec<String> {
    let text = |g: Result<Group>| g.err().map(|e| e.to_string()).unwrap_or_else(|| "it joined".into());
    groups.into_iter().map(text).collect()
}

#[test]
fn by_an_id_that_any_rank_made() {
    let id = RondeId::create(&Config::new()).unwrap();
    let copy = RondeId::from_bytes(id.as_bytes()).unwrap();
    let ranks = (0..3u32).map(|r| Config::new().id(&copy).rank(r).size(3)).collect();
    expect_working(join_all(ranks), 1000);
}

#[test]
fn an_id_serves_one_job_and_its_token_is_its_own() {
    let (a, b) = (RondeId::create(&Config::new()).unwrap(), RondeId::create(&Config::new()).unwrap());
    assert_ne!(a.as_bytes(), b.as_bytes());
    let one = |id: &RondeId| Config::new().id(id).rank(0).size(1);
    expect_working(join_all(vec![one(&a)]), 5);
    expect_working(join_all(vec![one(&b)]), 5);
    let again = one(&a).connect_timeout(Duration::from_millis(300)).join().map(drop);
    assert!(matches!(again, Err(Error::Join(_))), "{again:?}");
}

#[derive(Default)]
struct Memory {
    values: Mutex<HashMap<String, Vec<u8>>>,
    changed: Condvar,
}

impl Store for Memory {
    fn set(&self, key: &str, value: &[u8]) -> Result<()> {
        self.values.lock().unwrap().insert(key.into(), value.into());
        self.changed.notify_all();
        Ok(())
    }

    fn get(&self, key: &str, patience: Duration) -> Result<Vec<u8>> {
        let values = self.values.lock().unwrap();
        let (values, _) =
            self.changed.wait_timeout_while(values, patience, |v| !v.contains_key(key)).unwrap();
        values.get(key).cloned().ok_or_else(|| Error::join(format!("nobody set {key}")))
    }
}

#[test]
fn over_a_store() {
    let store = Arc::new(Memory::default());
    let ranks = (0..4u32).map(|r| Config::new().store(store.clone()).rank(r).size(4)).collect();
    expect_working(join_all(ranks), 1);
}

/// A store that tells others of a value some time before the one who sets it goes on.
#[derive(Default)]
struct Slow(Memory);

impl Store for Slow {
    fn set(&self, key: &str, value: &[u8]) -> Result<()> {
        self.0.set(key, value)?;
        // What must not happen gets the time to happen: there is nothing to wait for.
        std::thread::park_timeout(Duration::from_millis(50));
        Ok(())
    }

    fn get(&self, key: &str, patience: Duration) -> Result<Vec<u8>> {
        self.0.get(key, patience)
    }
}

/// Ranks that are threads of one process: another one must not take the listener, at the port that is rank 0's alone.
#[test]
fn rank_0_hosts_what_it_put_into_a_store() {
    let (store, port) = (Arc::new(Slow::default()), free_port());
    let rank = |rank: u32| {
        let config = Config::new().store(store.clone()).rank(rank).size(3);
        if rank == 0 { config.ports(port, port) } else { config }
    };
    let ranks = (0..3).map(|number| rank(number).connect_timeout(Duration::from_secs(10))).collect();
    expect_working(join_all(ranks), 1);
}

#[test]
fn a_store_that_fails_or_stays_empty_is_an_error() {
    let store = Arc::new(Memory::default());
    let waiting = Config::new().store(store.clone()).rank(1).size(2);
    let error = waiting.connect_timeout(Duration::from_millis(200)).join().map(drop).unwrap_err();
    assert!(error.to_string().contains("nobody set"), "{error}");
    let unranked = Config::new().store(store).size(2).join().map(drop).unwrap_err();
    assert!(unranked.to_string().contains("rank"), "{unranked}");
}

/// The ranks must choose alike whatever each of them was told.
#[test]
fn the_costs_of_rank_0_decide_on_every_rank() {
    let port = free_port();
    // Latency is everything, or bytes are.
    let costs = ["shm=1000,1,1,1 tcp=1000,1,1,1", "shm=0.01,0.01,9999,1 tcp=0.01,0.01,9999,1"];
    let chosen = |first: usize| -> Vec<&'static str> {
        let config = |r: u32| {
            let costs = costs[(first + r as usize) % 2].parse().unwrap();
            at(port).rank(r).size(3).costs(costs)
        };
        let ranks = join_all((0..3).map(config).collect()).into_iter().map(|group| {
            std::thread::spawn(move || {
                let group = group.unwrap();
                let outcome = group.all_reduce(&mut vec![1f32; 100_000], ReduceOp::Sum).unwrap();
                group.close().unwrap();
                outcome.algorithm
            })
        });
        let ranks: Vec<_> = ranks.collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    };
    assert_eq!(chosen(0), ["one-shot"; 3]);
    assert_eq!(chosen(1), ["two-shot"; 3]);
}

#[test]
fn over_ip_version_6() {
    if TcpListener::bind(("::1", 0)).is_err() {
        return not_checked("jobs over IPv6: this machine has none");
    }
    let port = TcpListener::bind(("::1", 0)).unwrap().local_addr().unwrap().port();
    let config = |r| {
        let config = Config::new().coordinator(format!("[::1]:{port}")).rank(r).size(3);
        config.transports(["tcp"]).unwrap()
    };
    expect_working(join_all((0..3).map(config).collect()), 5000);
}

#[test]
fn an_address_of_version_6_without_a_port_is_advertised() {
    let Ok(free) = TcpListener::bind(("::1", 0)) else {
        return not_checked("addresses of IPv6: this machine has none");
    };
    let port = free.local_addr().unwrap().port();
    drop(free);
    let config = |(rank, address)| {
        let config = Config::new().coordinator(format!("[::1]:{port}")).rank(rank).size(2);
        config.advertise(address).transports(["tcp"]).unwrap()
    };
    expect_working(join_all([(0, "::1"), (1, "[::1]")].map(config).to_vec()), 5000);
}

#[test]
fn several_streams_to_each_peer() {
    let port = free_port();
    // Not all ranks need the same number.
    let config = |r: u32| at(port).rank(r).size(3).streams(1 + 2 * r as u8).transports(["tcp"]).unwrap();
    expect_working(join_all((0..3).map(config).collect()), 1 << 20);
}

#[test]
fn ranks_by_order_of_arrival() {
    let port = free_port();
    expect_working(join_all((0..4).map(|_| at(port).size(4)).collect()), 3);
}

#[test]
fn a_wrong_token_is_refused_at_once() {
    let port = free_port();
    let started = Instant::now();
    let host = at(port).rank(0).size(2).token("right").connect_timeout(Duration::from_secs(2));
    let texts = errors(join_all(vec![host, at(port).rank(1).size(2).token("wrong")]));
    assert!(texts[1].contains("token"), "{texts:?}");
    assert!(texts[0].contains("1 of 2 ranks have come") && texts[0].contains("[1]"), "{texts:?}");
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn impossible_sizes_and_ranks_are_named_on_every_rank() {
    for (a, b, word) in [((0, 2), (1, 3), "size"), ((0, 2), (0, 2), "rank 0"), ((0, 2), (2, 2), "rank 2")] {
        let port = free_port();
        let started = Instant::now();
        let config = |(rank, size)| at(port).rank(rank).size(size);
        let texts = errors(join_all(vec![config(a), config(b)]));
        for text in &texts {
            assert!(text.contains(word), "{a:?} {b:?}: {texts:?}");
        }
        assert!(started.elapsed() < Duration::from_secs(10), "{a:?} {b:?}");
    }
}

#[test]
fn a_job_of_nobody_is_refused() {
    let started = Instant::now();
    for config in [at(free_port()).size(0), at(free_port()).rank(0).size(0), Config::new().size(0)] {
        let text = config.join().map(drop).unwrap_err().to_string();
        assert!(text.contains("at least one rank"), "{text}");
    }
    assert!(RondeId::create(&Config::new().size(0)).is_err());
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}

#[test]
fn no_coordinator_names_the_address() {
    let port = free_port();
    let error = at(port).rank(1).size(2).connect_timeout(Duration::from_millis(300)).join().map(drop);
    let text = error.unwrap_err().to_string();
    assert!(text.contains(&format!("127.0.0.1:{port}")), "{text}");
}

#[test]
fn another_program_on_the_port_is_no_coordinator() {
    // One that says nothing, one that answers with garbage.
    for answer in [&b""[..], &[0x5a; 4096]] {
        let foreign = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = foreign.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let mut kept = Vec::new();
            while let Ok((mut stream, _)) = foreign.accept() {
                let _ = stream.write_all(answer);
                kept.push(stream);
            }
        });
        let started = Instant::now();
        let error = at(port).rank(0).size(2).connect_timeout(Duration::from_millis(500)).join().map(drop);
        let text = error.unwrap_err().to_string();
        assert!(text.contains(&port.to_string()), "{text}");
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    }
}

/// Whoever listens there answers everybody so.
fn answering(answer: &'static [u8]) -> u16 {
    let foreign = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = foreign.local_addr().unwrap().port();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = foreign.accept() {
            let _ = stream.read_exact(&mut [0; 64]);
            let _ = stream.write_all(answer);
        }
    });
    port
}

#[test]
fn what_is_another_version_or_not_ronde_is_named_at_once() {
    let other = b"RONDE\0\x09\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let web = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
    for (answer, words) in [
        (&other[..], ["version 9", "version 5", "use one version of Ronde"]),
        (&web[..], ["not Ronde", "HTTP/1.1", "400"]),
    ] {
        let port = answering(answer);
        for rank in 0..2 {
            let started = Instant::now();
            let text = at(port).rank(rank).size(2).join().map(drop).unwrap_err().to_string();
            assert!(words.iter().all(|word| text.contains(word)), "{text}");
            assert!(text.contains(&format!("127.0.0.1:{port}")), "{text}");
            assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
        }
    }
}

#[test]
fn another_version_is_told_which_one_this_is() {
    let port = free_port();
    let host = std::thread::spawn(move || at(port).rank(0).size(2).join());
    let mut other = loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => break stream,
            Err(_) => std::thread::yield_now(),
        }
    };
    let mut preamble = *b"RONDE\0\x09\x01\0\0\x01\0\0\0\0\0................................................";
    preamble[40] = 0xff;
    other.write_all(&preamble).unwrap();
    let mut answer = Vec::new();
    other.read_to_end(&mut answer).unwrap();
    assert_eq!((&answer[..7], answer.len()), (&b"RONDE\0\x05"[..], 32));
    // Those of this version meet nevertheless.
    let last = at(port).rank(1).size(2).join();
    expect_working(vec![host.join().unwrap(), last], 10);
}

/// Connections that say nothing, garbage, or half of a preamble do not keep anybody out.
#[test]
fn strangers_at_the_door_do_not_keep_members_out() {
    let port = free_port();
    let host = at(port).rank(0).size(3);
    let joining = std::thread::spawn(move || host.join());
    let mut strangers = Vec::new();
    while strangers.len() < 600 {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { continue };
        match strangers.len() % 3 {
            0 => {}
            1 => drop(stream.write_all(&[0xff; 200])),
            _ => drop(stream.write_all(b"RONDE\0\x02\x01")),
        }
        strangers.push(stream);
    }
    let mut groups = join_all(vec![at(port).rank(1).size(3), at(port).rank(2).size(3)]);
    groups.insert(0, joining.join().unwrap());
    expect_working(groups, 100);
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = at(free_port()).rank(1).size(2).ports(port, port).join().map(drop).unwrap_err();
    assert!(matches!(error, Error::Resource(_)), "{error:?}");
    assert!(error.to_string().contains(&port.to_string()) && error.to_string().contains("RONDE_PORT"));
}

#[test]
fn no_transport_in_common_is_named() {
    let (port, started) = (free_port(), Instant::now());
    let config = |r, t| at(port).rank(r).size(2).transports([t]).unwrap();
    let texts = errors(join_all(vec![config(0, "tcp"), config(1, "shm")]));
    assert!(texts[1].contains("RONDE_TRANSPORTS"), "{texts:?}");
    // The other does not wait for its deadline.
    assert!(texts[0].contains("rank 1 was lost") || texts[0].contains("peer 1"), "{texts:?}");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[test]
fn beyond_loopback_takes_an_explicit_word() {
    let error = Config::new().coordinator("192.0.2.1:7000").rank(1).size(2).join().map(drop).unwrap_err();
    assert!(error.to_string().contains("RONDE_INSECURE"), "{error}");
    let id = RondeId::create(&Config::new().insecure(true).interfaces("=nosuch0"));
    assert!(id.unwrap_err().to_string().contains("RONDE_SOCKET_IFNAME"));
}

/// The next job at the same address: members come while the one before it is still ending.
#[test]
fn one_job_after_another_at_one_address() {
    let port = free_port();
    let ranks: Vec<_> = (0..3u32)
        .map(|rank| {
            std::thread::spawn(move || {
                for round in 0..8u32 {
                    let group = at(port).rank(rank).size(3).join().unwrap();
                    let mut data = [round + rank];
                    let _ = group.all_reduce(&mut data, ReduceOp::Sum).unwrap();
                    assert_eq!(data, [3 * round + 3]);
                    group.close().unwrap();
                }
            })
        })
        .collect();
    ranks.into_iter().for_each(|rank| rank.join().unwrap());
}

#[test]
fn blocks_that_are_not_equal_are_named() {
    let port = free_port();
    let uneven = |group: Result<Group>| {
        let group = group?;
        for (send, recv) in [(3, 3), (4, 2), (2, 4)] {
            let mut output = vec![0u32; recv];
            let text = group.all_to_all(&vec![7u32; send], &mut output).unwrap_err().to_string();
            assert!(text.contains(&format!("{send} elements")) && text.contains("2 ranks"), "{text}");
            assert!(output.iter().all(|element| *element == 0));
        }
        Ok(group)
    };
    let groups = join_all((0..2).map(|rank| at(port).rank(rank).size(2)).collect());
    expect_working(groups.into_iter().map(uneven).collect(), 10);
}

#[test]
fn nobody_knows_how_many_there_are() {
    let alone = at(free_port()).rank(0).connect_timeout(Duration::from_millis(300));
    let text = alone.join().map(drop).unwrap_err().to_string();
    assert!(text.contains("how many ranks") && text.contains("RONDE_SIZE"), "{text}");
}
