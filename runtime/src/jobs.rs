//! The coordinators of one process: that of its own job, or those of all jobs that come, by their names.
//!
//! Whoever has connected says first to which job it belongs. The coordinator of each job runs on a thread of its own,
//! so that one job that fails or is slow is no matter of the others.

use crate::bootstrap::{Errand, Reconnections};
use crate::config::Config;
use crate::control::{read_message, write_message};
use crate::coordinator::{Addresses, Event, Served, Shell};
use crate::engine::lock;
use crate::session::{Session, Talk, Way};
use ronde_core::error::{Error, Result};
use ronde_core::membership::{Coordinator, CoordinatorOptions, Effect, FromMember, ToMember};
use ronde_core::{Instant, PeerId};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::time::Duration;

/// Jobs that one process coordinates at a time.
const MOST_JOBS: usize = 1024;
/// Longest name of a job, in bytes.
pub(crate) const LONGEST_NAME: usize = 128;
/// How long somebody who was turned away has to hear it, and how many bytes it may have sent meanwhile.
const FAREWELL: Duration = Duration::from_millis(500);
const MAX_UNREAD: u64 = 64 << 10;
/// Within so many times as long as a member may be silent all have found a coordinator that was started again.
const SEARCH: u32 = 2;
/// How long a coordinator whose host gives up waits for its members to hear of it.
const LAST_WAIT: Duration = Duration::from_millis(500);

/// The coordinators of this process.
pub(crate) struct Coordinators {
    connections: mpsc::SyncSender<Visitor>,
    jobs: Arc<Jobs>,
}

/// Somebody who has connected for a coordinator.
pub(crate) struct Visitor {
    pub(crate) stream: TcpStream,
    pub(crate) peer: PeerId,
    pub(crate) errand: Errand,
    /// Where it comes back to.
    pub(crate) reconnections: Arc<Reconnections>,
}

struct Jobs {
    options: CoordinatorOptions,
    /// The only job, if there is only one.
    only: Option<String>,
    /// Where this process listens since in the place of a coordinator that has ended.
    taken_over: Addresses,
    /// When this process began to listen.
    since: std::time::Instant,
    /// How long somebody who has connected may take to say what for: connections are few.
    first_word: Duration,
    /// Number of the next connection.
    next: AtomicU64,
    running: Mutex<Running>,
    changed: Condvar,
}

#[derive(Default)]
struct Running {
    /// Where the events of each job go.
    queues: BTreeMap<String, mpsc::SyncSender<Event>>,
    /// Jobs that there have been, but for those of which nobody stayed until they formed.
    started: u64,
    /// Names of jobs that have ended here: who belonged to one of those and did not hear of its end comes too late.
    ended: BTreeSet<String>,
}

impl Coordinators {
    /// That of the job of a configuration.
    pub(crate) fn start(config: &Config) -> Result<Coordinators> {
        let coordinators = Coordinators::new(config, Some(config.job.clone()), Addresses::default())?;
        coordinators.jobs.begin(&config.job, Coordinator::new(options(config)))?;
        Ok(coordinators)
    }

    /// One that takes the place of another, which was lost. `taken_over`: where this process listens since, in
    /// the place of one that has ended.
    pub(crate) fn succeed(config: &Config, host: PeerId, taken_over: Addresses) -> Result<Coordinators> {
        let coordinators = Coordinators::new(config, Some(config.job.clone()), taken_over)?;
        let options = CoordinatorOptions { host: Some(host), ..options(config) };
        coordinators.jobs.begin(&config.job, Coordinator::successor(options))?;
        Ok(coordinators)
    }

    /// Those of all jobs that come.
    pub(crate) fn of_all_jobs(config: &Config) -> Result<Coordinators> {
        Coordinators::new(config, None, Addresses::default())
    }

    fn new(config: &Config, only: Option<String>, taken_over: Addresses) -> Result<Coordinators> {
        config.refuse_size_0()?;
        let (connections, incoming) = mpsc::sync_channel::<Visitor>(1024);
        let jobs = Arc::new(Jobs {
            options: options(config),
            only,
            taken_over,
            since: std::time::Instant::now(),
            first_word: config.connect_timeout,
            next: AtomicU64::new(0),
            running: Mutex::default(),
            changed: Condvar::new(),
        });
        let arrive = jobs.clone();
        std::thread::Builder::new()
            .name("ronde-arrivals".into())
            .spawn(move || incoming.iter().for_each(|visitor| arrive.clone().connected(visitor)))
            .map_err(|e| Error::resource(format!("cannot start the coordinator: {e}")))?;
        Ok(Coordinators { connections, jobs })
    }

    /// Where accepted control connections go.
    pub(crate) fn connections(&self) -> mpsc::SyncSender<Visitor> {
        self.connections.clone()
    }

    /// Waits until there has been a job, and all have ended.
    pub(crate) fn wait(&self) {
        let _ = self.jobs.wait_until(None);
    }

    /// The same, for so long at most; false if some go on.
    pub(crate) fn wait_for(&self, patience: Duration) -> bool {
        self.jobs.wait_until(Some(std::time::Instant::now() + patience))
    }
}

impl Drop for Coordinators {
    fn drop(&mut self) {
        let _ = self.wait_for(LAST_WAIT);
        for queue in lock(&self.jobs.running).queues.values() {
            // Only a queue that is full does not take it, and then the machine is ending too.
            let _ = queue.try_send(Event::Stop);
        }
    }
}

/// The end of a job, also where its coordinator panics.
struct End {
    jobs: Arc<Jobs>,
    job: String,
    formed: bool,
}

impl Drop for End {
    fn drop(&mut self) {
        let running = &mut *lock(&self.jobs.running);
        running.queues.remove(&self.job);
        if !self.formed {
            running.started -= 1;
        } else if self.jobs.only.is_none() {
            // Of very many the first by name are forgotten: they are only refused a little later.
            if running.ended.len() >= MOST_JOBS {
                running.ended.pop_first();
            }
            running.ended.insert(std::mem::take(&mut self.job));
        }
        self.jobs.changed.notify_all();
    }
}

fn options(config: &Config) -> CoordinatorOptions {
    CoordinatorOptions {
        size: config.size,
        min_peers: config.min_peers,
        max_peers: config.max_peers,
        shrink_only: config.shrink_only,
        // A long path takes several round trips to each member.
        link_patience: config.suspect_after() * 10,
        suspect_after: config.suspect_after(),
        heartbeat: config.heartbeat,
        ..CoordinatorOptions::default()
    }
}

impl Jobs {
    /// False if the time is up before.
    fn wait_until(&self, until: Option<std::time::Instant>) -> bool {
        let mut running = lock(&self.running);
        while running.started == 0 || !running.queues.is_empty() {
            let Some(until) = until else {
                running = self.changed.wait(running).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = until.saturating_duration_since(std::time::Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.changed.wait_timeout(running, left);
            running = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Starts the coordinator of a job.
    fn begin(self: &Arc<Jobs>, name: &str, machine: Coordinator) -> Result<mpsc::SyncSender<Event>> {
        self.begin_in(&mut lock(&self.running), name, machine)
    }

    fn begin_in(
        self: &Arc<Jobs>,
        running: &mut Running,
        name: &str,
        machine: Coordinator,
    ) -> Result<mpsc::SyncSender<Event>> {
        let (events, queue) = mpsc::sync_channel(4096);
        let mut shell = Shell::new(machine, events.clone(), self.taken_over.clone(), self.only.is_none());
        let (jobs, job) = (self.clone(), name.to_owned());
        std::thread::Builder::new()
            .name("ronde-coordinator".into())
            .spawn(move || {
                // Not before: its end takes the lock that whoever cannot start this thread holds.
                let mut end = End { jobs, job, formed: true };
                end.formed = shell.run(&queue);
                // Whoever comes from now on is of the next job of this name.
                drop(queue);
                drop(end);
            })
            .map_err(|e| Error::resource(format!("cannot start the coordinator: {e}")))?;
        running.queues.insert(name.to_owned(), events.clone());
        running.started += 1;
        Ok(events)
    }

    /// Somebody has connected: reads what it says, for the coordinator of its job.
    fn connected(self: Arc<Jobs>, visitor: Visitor) {
        let spawned = std::thread::Builder::new().name("ronde-member".into()).spawn(move || {
            let Visitor { stream, peer, errand, reconnections } = visitor;
            let mut talk = Talk::new(stream, errand.session());
            if let Some((name, first)) = self.first_message(&mut talk) {
                self.serve(talk, peer, &reconnections, &name, first);
            }
        });
        if let Err(error) = spawned {
            tracing::warn!("somebody who has connected cannot be served: {error}");
        }
    }

    /// Its job and what it says first, if it does in time.
    fn first_message(&self, talk: &mut Talk) -> Option<(String, FromMember)> {
        let deadline = std::time::Instant::now() + self.first_word;
        first_message(|| talk.hear(deadline))
    }

    fn serve(
        self: &Arc<Jobs>,
        talk: Talk,
        peer: PeerId,
        reconnections: &Reconnections,
        name: &str,
        first: FromMember,
    ) {
        let queue = match self.queue(name, &first) {
            Ok(Some(queue)) => queue,
            Ok(None) => return self.describe_none(&talk.stream),
            Err(why) => {
                let _ = write_message(&talk.stream, &*why);
                return end_after_words(&talk.stream);
            }
        };
        let connection = self.next.fetch_add(1, Ordering::Relaxed);
        if talk.stream.set_read_timeout(None).is_err() {
            return;
        }
        let way = Way::Waits(addresses_of(&first), self.taken_over.clone(), self.options.suspect_after);
        let session = Arc::new(Session::new(talk, way));
        if let Some(id) = session.id() {
            reconnections.keep(id, peer, &session);
        }
        if queue.send(Event::Connected(connection, Served(session.clone()))).is_err() {
            return;
        }
        let mut message = first;
        loop {
            if matches!(message, FromMember::Leave | FromMember::Succeeded) {
                // It does not come back.
                session.finish();
            }
            if queue.send(Event::Message(connection, message)).is_err() {
                break;
            }
            match read_message(&*session) {
                Ok(next) => message = next,
                Err(_) => break,
            }
        }
        session.finish();
        let _ = queue.send(Event::Closed(connection));
    }

    /// Where the events of a job go; the first who wants to join it starts its coordinator.
    fn queue(
        self: &Arc<Jobs>,
        name: &str,
        first: &FromMember,
    ) -> std::result::Result<Option<mpsc::SyncSender<Event>>, Box<ToMember>> {
        let mut running = lock(&self.running);
        // Else it would be taken for a member of a job whose coordinator was started again.
        if matches!(first, FromMember::Rejoin(_)) && running.ended.contains(name) {
            return Err(Box::new(ToMember::TryLater));
        }
        if let Some(queue) = running.queues.get(name) {
            return Ok(Some(queue.clone()));
        }
        if let Some(only) = &self.only {
            return Err(Box::new(match only == name {
                true => ToMember::TryLater,
                false => ToMember::NotHere(format!(
                    "the coordinator there is that of {}, not of {}: see RONDE_JOB and RONDE_COORDINATOR",
                    named(only),
                    named(name)
                )),
            }));
        }
        if !matches!(first, FromMember::Hello(_) | FromMember::Rejoin(_)) {
            return Ok(None);
        }
        if running.queues.len() >= MOST_JOBS {
            let why = format!("the coordinator there serves {MOST_JOBS} jobs already");
            return Err(Box::new(ToMember::NotHere(why)));
        }
        // This process may have been started in the place of one that had the job.
        let most = (self.options.suspect_after * SEARCH).min(self.first_word / 2);
        let rejoin_patience = most.saturating_sub(self.since.elapsed());
        let options = CoordinatorOptions { rejoin_patience, ..self.options.clone() };
        let begun = self.begin_in(&mut running, name, Coordinator::new(options));
        begun.map(Some).map_err(|error| Box::new(ToMember::NotHere(error.to_string())))
    }

    /// How a job is of which nobody has come yet.
    fn describe_none(&self, stream: &TcpStream) {
        let mut machine = Coordinator::new(self.options.clone());
        machine.handle_message(0, FromMember::Status, Instant(0));
        for effect in machine.take_effects() {
            if let Effect::Send(_, status) = effect {
                let _ = write_message(stream, &status);
            }
        }
        end_after_words(stream);
    }
}

/// To which job somebody belongs, and what it says first.
pub(crate) fn first_message(
    mut next: impl FnMut() -> io::Result<FromMember>,
) -> Option<(String, FromMember)> {
    match next().ok()? {
        FromMember::Job(name) if is_name(&name) => Some((name, next().ok()?)),
        FromMember::Job(_) => None,
        first => Some((String::new(), first)),
    }
}

/// Where the process of somebody who says this first listens.
fn addresses_of(first: &FromMember) -> Vec<SocketAddr> {
    match first {
        FromMember::Hello(hello) => hello.info.addresses.clone(),
        FromMember::Rejoin(rejoin) => {
            let own = rejoin.view.members.iter().find(|member| member.peer == rejoin.peer);
            own.map_or_else(Vec::new, |member| member.addresses.clone())
        }
        _ => Vec::new(),
    }
}

/// Ends a connection so that what was said last arrives: one that is closed with bytes unread is reset.
pub(crate) fn end_after_words(stream: &TcpStream) {
    let _ = stream.shutdown(Shutdown::Write);
    let _ = stream.set_read_timeout(Some(FAREWELL));
    let _ = std::io::copy(&mut stream.take(MAX_UNREAD), &mut std::io::sink());
}

/// Whether a job may be called that.
pub(crate) fn is_name(name: &str) -> bool {
    name.len() <= LONGEST_NAME && !name.chars().any(char::is_control)
}

fn named(job: &str) -> String {
    if job.is_empty() { "a job without a name".into() } else { format!("job \"{job}\"") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::Identity;
    use crate::control::tests::one_who_dribbles;
    use std::time::Instant as Clock;

    #[test]
    fn who_says_a_byte_now_and_then_is_given_up() {
        let patience = Duration::from_millis(100);
        let jobs = Coordinators::of_all_jobs(&Config::new().connect_timeout(patience)).unwrap();
        let (stream, dribbles) = one_who_dribbles(&FromMember::Job("x".repeat(2 << 20)));
        let since = Clock::now();
        let (peer, errand) = (PeerId::default(), Errand::CONTROL);
        let reconnections = Reconnections::new(&Identity::new("", peer), &Config::new());
        jobs.connections().send(Visitor { stream, peer, errand, reconnections }).unwrap();
        dribbles.join().unwrap();
        assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
    }
}
