//! A member's connection to the coordinator.

use crate::bootstrap::{ControlEvents, Found, Listener, News, Round, Succession};
use crate::config::Config;
use crate::engine::lock;
use crate::session::{Session, Talk};
use ronde_core::error::{Error, Result};
use ronde_core::membership::{FromMember, Hello, MAX_MESSAGE_BYTES, ToMember, Verdict, View, decode, encode};
use ronde_core::{Epoch, PeerId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a control message may take to leave.
const WRITE_PATIENCE: Duration = Duration::from_secs(2);

/// Writes one message.
pub(crate) fn write_message<T: Serialize>(mut stream: &TcpStream, message: &T) -> io::Result<()> {
    let bytes = encode(message).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
    stream.write_all(&bytes)
}

/// Writes the first message of a connection to a coordinator, after the name of the job if that has one.
pub(crate) fn introduce(talk: &mut Talk, job: &str, message: &FromMember) -> io::Result<()> {
    if !job.is_empty() {
        talk.say(&FromMember::Job(job.to_owned()))?;
    }
    talk.say(message)
}

/// Reads one message.
pub(crate) fn read_message<T: DeserializeOwned>(mut stream: impl Read) -> io::Result<T> {
    let mut length = [0u8; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    let malformed = |e| io::Error::new(io::ErrorKind::InvalidData, e);
    if length > MAX_MESSAGE_BYTES {
        return Err(malformed(ronde_core::membership::MessageError::TooLong(length)));
    }
    // Grows with what really comes, not with what the length claims.
    let mut body = Vec::new();
    stream.take(length as u64).read_to_end(&mut body)?;
    if body.len() < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    decode(&body).map_err(malformed)
}

/// A member that has said hello and is not active yet.
pub(crate) struct Rendezvous {
    talk: Talk,
    deadline: Instant,
    gathered: String,
    /// The coordinator has said something.
    heard: bool,
    /// The job runs already: this process waits for its members to take it in.
    pending: bool,
}

/// Why there is no view.
pub(crate) enum NoView {
    /// The coordinator is that of a job that is ending: the next one will be there soon.
    Later(Error),
    Never(Error),
}

impl NoView {
    pub(crate) fn into_error(self) -> Error {
        match self {
            NoView::Later(error) | NoView::Never(error) => error,
        }
    }
}

impl From<Error> for NoView {
    fn from(error: Error) -> NoView {
        NoView::Never(error)
    }
}

impl Rendezvous {
    pub(crate) fn new(mut talk: Talk, job: &str, hello: Hello, deadline: Instant) -> Result<Rendezvous> {
        let failed = |e: io::Error| Error::join(format!("the coordinator does not listen: {e}"));
        talk.stream.set_write_timeout(Some(WRITE_PATIENCE)).map_err(failed)?;
        let knows_how_many = hello.newcomer || hello.size.is_some() || hello.min_peers.is_some();
        introduce(&mut talk, job, &FromMember::Hello(hello)).map_err(failed)?;
        let gathered = match knows_how_many {
            true => "nobody else has come",
            false => "nobody has said how many ranks the job has (RONDE_SIZE or RONDE_MIN_PEERS)",
        };
        Ok(Rendezvous { talk, deadline, gathered: gathered.into(), heard: false, pending: false })
    }

    fn next(&mut self) -> Result<ToMember, NoView> {
        match self.talk.hear(self.deadline) {
            Err(_) if self.pending && Instant::now() < self.deadline => {
                Err(NoView::Later(Error::join("the job ended before this process could join it")))
            }
            Ok(ToMember::TryLater) => Err(NoView::Later(Error::join(
                "the coordinator still serves the job before, which some of its ranks have left and others not: \
                 end those, or use another address",
            ))),
            Ok(ToMember::NotHere(why)) => Err(NoView::Later(Error::join(why))),
            Ok(ToMember::Refused(text)) => Err(Error::join(text).into()),
            Ok(ToMember::Verdict(verdict)) => Err(Error::from(verdict).into()),
            Ok(message) => {
                self.heard = true;
                Ok(message)
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                Err(Error::join(format!("not joined in time: {}", self.gathered)).into())
            }
            Err(e) => {
                let lost = Error::join(format!("the coordinator was lost while joining: {e}"));
                // One that ends before it says a word was about to end anyway.
                Err(if self.heard { NoView::Never(lost) } else { NoView::Later(lost) })
            }
        }
    }

    /// Waits until everybody is here or, where the job runs already, until its members take this one in.
    pub(crate) fn await_view(mut self, was_pending: &std::cell::Cell<bool>) -> Result<(View, Talk), NoView> {
        loop {
            match self.next()? {
                ToMember::View(view) if view.is_sound() => {
                    return Ok((Arc::unwrap_or_clone(view), self.talk));
                }
                ToMember::Pending { members } => {
                    self.pending = true;
                    was_pending.set(true);
                    self.gathered =
                        format!("the job runs with {members} peers, which have not taken this one in");
                }
                ToMember::Gathering { joined, size, missing } => {
                    let named = match missing.is_empty() {
                        true => String::new(),
                        false => format!("; missing are ranks {missing:?}"),
                    };
                    self.gathered = format!("{joined} of {size} ranks have come{named}");
                }
                _ => {}
            }
        }
    }
}

#[derive(Default)]
struct Progress {
    /// The view that was proposed last, until somebody makes its links.
    proposed: Option<View>,
    proposed_epoch: Epoch,
    /// The view whose links are up everywhere.
    armed: Option<Epoch>,
    /// The view that is in effect.
    activated: Option<Epoch>,
    failure: Option<Error>,
    coordinator_lost: bool,
    released: bool,
    ended: bool,
}

/// The beats of this process, as it saw them itself.
struct Beats {
    last: Instant,
    /// After the last pause.
    since: Option<Instant>,
}

impl Beats {
    fn new(now: Instant) -> Beats {
        Beats { last: now, since: None }
    }

    fn note(&mut self, now: Instant, pause: Duration) {
        if now.duration_since(self.last) >= pause {
            self.since = Some(now);
        }
        self.last = now;
    }

    /// Whether it was stopped until now, or until not so long ago: what it reads may be from before.
    fn had_a_pause(&self, now: Instant, recently: Duration) -> bool {
        let is_stale = now.duration_since(self.last) >= recently / 2;
        is_stale || self.since.is_some_and(|since| now.duration_since(since) < recently)
    }
}

struct Shared {
    /// To the coordinator there is now.
    session: Mutex<Arc<Session>>,
    peer: PeerId,
    writing: Mutex<()>,
    /// When this process last beat, and since when it has without a pause: one that was stopped may have been given up.
    beats: Mutex<Beats>,
    suspect_after: Duration,
    progress: Mutex<Progress>,
    changed: Condvar,
    /// Kept until the end: it may host the coordinator.
    listener: Mutex<Option<Listener>>,
    succession: Succession,
}

/// The control connection of a member that has a view.
pub(crate) struct Control {
    /// The process that joined; one forked from it shares the sockets, and must leave them alone.
    process: u32,
    shared: Arc<Shared>,
}

impl Control {
    /// Beats, and listens to the coordinator, from the moment there is a view: opening the links may take
    /// longer than a member may be silent, and others may be lost meanwhile.
    pub(crate) fn start(
        talk: Talk,
        view: &View,
        succession: Succession,
        listener: Listener,
        config: &Config,
        events: Arc<dyn ControlEvents>,
    ) -> Result<Control> {
        let failed = |e: io::Error| Error::resource(format!("cannot start the control connection: {e}"));
        let session = succession.session(talk, WRITE_PATIENCE).map_err(failed)?;
        let peer = succession.peer();
        let shared = Arc::new(Shared {
            session: Mutex::new(Arc::new(session)),
            peer,
            writing: Mutex::new(()),
            beats: Mutex::new(Beats::new(Instant::now())),
            suspect_after: config.suspect_after(),
            progress: Mutex::new(Progress { proposed_epoch: view.epoch, ..Progress::default() }),
            changed: Condvar::new(),
            listener: Mutex::new(Some(listener)),
            succession,
        });
        let (reader, first, heard) = (shared.clone(), view.clone(), events.clone());
        let read = move || reader.follow_coordinators(&*events, &first);
        std::thread::Builder::new().name("ronde-control".into()).spawn(read).map_err(failed)?;
        let (beater, every) = (shared.clone(), config.heartbeat);
        let beat = move || beater.beat(every, &*heard);
        std::thread::Builder::new().name("ronde-heartbeat".into()).spawn(beat).map_err(failed)?;
        Ok(Control { process: std::process::id(), shared })
    }

    /// True in a child of the process that joined.
    pub(crate) fn is_forked(&self) -> bool {
        self.process != std::process::id()
    }

    /// What ended the job, if anything did.
    pub(crate) fn failure(&self) -> Option<Error> {
        lock(&self.shared.progress).failure.clone()
    }

    /// Tells the coordinator; a broken connection is noticed by the reader.
    pub(crate) fn say(&self, message: &FromMember) {
        self.shared.send(message);
    }

    /// The view that was proposed last.
    pub(crate) fn proposed(&self) -> Epoch {
        lock(&self.shared.progress).proposed_epoch
    }

    /// Whether the job failed here for want of a coordinator.
    pub(crate) fn has_lost_coordinator(&self) -> bool {
        lock(&self.shared.progress).coordinator_lost
    }

    /// Waits until all links of a view are up, on every side. Gives the view that takes its place, if one does.
    pub(crate) fn await_armed(&self, epoch: Epoch, deadline: Instant) -> Result<Option<View>> {
        self.wait(deadline, "not all members could connect to each other", |progress| {
            match progress.armed == Some(epoch) || progress.activated == Some(epoch) {
                true => Some(None),
                false => progress.proposed.take().map(Some),
            }
        })
    }

    /// Waits until a view is in effect.
    pub(crate) fn await_active(&self, epoch: Epoch, deadline: Instant) -> Result<()> {
        let why = "the members have not passed a safe point (update) meanwhile";
        self.wait(deadline, why, |progress| (progress.activated == Some(epoch)).then_some(()))
    }

    /// The next view that is proposed after this one; `None` when the job ends.
    pub(crate) fn await_proposal(&self, after: Epoch) -> Option<View> {
        let mut progress = lock(&self.shared.progress);
        loop {
            if progress.ended || progress.failure.is_some() {
                return None;
            }
            if let Some(view) = progress.proposed.take_if(|view| view.epoch > after) {
                return Some(view);
            }
            progress = self.shared.changed.wait(progress).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn wait<T>(
        &self,
        deadline: Instant,
        why: &str,
        mut done: impl FnMut(&mut Progress) -> Option<T>,
    ) -> Result<T> {
        let mut progress = lock(&self.shared.progress);
        loop {
            // First: a group that formed and failed at once is the affair of its first call.
            if let Some(done) = done(&mut progress) {
                return Ok(done);
            }
            if let Some(error) = &progress.failure {
                return Err(error.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::join(format!("not joined in time: {why}")));
            }
            let waited = self.shared.changed.wait_timeout(progress, left);
            progress = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Leaves in order and waits for the coordinator's word.
    pub(crate) fn leave(&self, patience: Duration) -> Result<()> {
        self.shared.send(&FromMember::Leave);
        let deadline = Instant::now() + patience;
        let mut progress = lock(&self.shared.progress);
        while !progress.released && !progress.ended {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::resource("the coordinator did not answer when this peer left"));
            }
            let waited = self.shared.changed.wait_timeout(progress, left);
            progress = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// Where the coordinator is in this process: waits until the others have left too, since they need it.
    /// False if some are still there after so long.
    pub(crate) fn see_the_others_off(&self, patience: Duration) -> bool {
        lock(&self.shared.listener).as_ref().is_none_or(|listener| listener.wait_for_the_job_until(patience))
    }

    /// The job has ended by agreement, and nobody needs this member any more.
    pub(crate) fn is_over(&self) {
        self.shared.session().shutdown(Shutdown::Both);
    }

    /// Ends the threads and the listener.
    pub(crate) fn shutdown(&self) {
        if self.is_forked() {
            return;
        }
        lock(&self.shared.progress).ended = true;
        self.shared.changed.notify_all();
        self.shared.session().shutdown(Shutdown::Both);
        let listener = lock(&self.shared.listener).take();
        drop(listener);
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// Why the words of a coordinator end.
enum End {
    /// This member has left, or the job has failed.
    Over,
    /// The coordinator was lost; true if it only said nothing any more, and may live.
    Lost(bool),
}

impl Shared {
    fn session(&self) -> Arc<Session> {
        lock(&self.session).clone()
    }

    fn send(&self, message: &FromMember) {
        let _one_at_a_time = lock(&self.writing);
        if let Err(error) = self.session().say(message) {
            tracing::debug!("the coordinator cannot be told: {error}");
        }
    }

    fn beat(&self, every: Duration, events: &dyn ControlEvents) {
        let mut progress = lock(&self.progress);
        while !progress.ended {
            let waited = self.changed.wait_timeout(progress, every);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
            lock(&self.beats).note(Instant::now(), self.suspect_after / 2);
            self.send(&FromMember::Heartbeat(events.progress()));
            progress = lock(&self.progress);
        }
    }

    /// Listens to the coordinator and, when that is lost, to the one that takes its place.
    fn follow_coordinators(&self, events: &dyn ControlEvents, first: &View) {
        while let End::Lost(silent) = self.read_until_the_end(events) {
            if events.is_over() {
                break;
            }
            if self.session().was_ended() {
                // Its coordinator lives and has given it up.
                events.hears_nothing();
            }
            let had_a_pause = || lock(&self.beats).had_a_pause(Instant::now(), self.suspect_after);
            if silent {
                // If it lives and hears this, it knows that it is not the coordinator any more.
                self.send(&FromMember::Succeeded);
            }
            self.session().shutdown(Shutdown::Both);
            let is_over = || {
                let progress = lock(&self.progress);
                progress.ended || progress.released || events.is_over()
            };
            match self.succession.find(events, &self.listener, silent, &had_a_pause, &is_over) {
                Found::Coordinator(talk) => match self.succession.session(talk, WRITE_PATIENCE) {
                    Ok(session) => {
                        *lock(&self.session) = Arc::new(session);
                        events.say_again();
                    }
                    // Its connection has ended already: the next read says so.
                    Err(error) => tracing::debug!("the coordinator that was found is gone: {error}"),
                },
                Found::Verdict(verdict) => {
                    self.failed(events, self.in_my_eyes(verdict));
                    break;
                }
                Found::Nothing if is_over() => break,
                Found::Nothing => {
                    lock(&self.progress).coordinator_lost = true;
                    // Of the coordinators that there have been, the last one is named.
                    let now = events.rejoin().map(|(rejoin, _)| rejoin.view);
                    self.failed(events, coordinator_lost(now.as_ref().unwrap_or(first), self.peer));
                    break;
                }
            }
        }
        self.note(|progress| progress.ended = true);
        // Nothing more is said on it: lets the coordinator end too.
        self.session().shutdown(Shutdown::Both);
        // The process may live on: who looks for a coordinator does not wait for one here.
        lock(&self.listener).iter().for_each(Listener::job_has_ended);
    }

    fn read_until_the_end(&self, events: &dyn ControlEvents) -> End {
        let session = self.session();
        loop {
            match read_message(&*session) {
                Ok(ToMember::Verdict(verdict)) => {
                    self.failed(events, self.in_my_eyes(verdict));
                    return End::Over;
                }
                Ok(ToMember::Refused(text)) => {
                    self.failed(events, Error::join(text));
                    return End::Over;
                }
                Ok(ToMember::Activate(epoch)) => self.note(|progress| progress.activated = Some(epoch)),
                Ok(ToMember::View(view) | ToMember::Arm(view))
                    if !view.is_sound() || view.rank_of(self.peer).is_none() =>
                {
                    tracing::warn!("the coordinator sent a view that cannot be");
                    return End::Lost(false);
                }
                Ok(ToMember::View(view)) => {
                    let view = Arc::unwrap_or_clone(view);
                    events.tell(News::View(view.clone()));
                    self.note(|progress| {
                        progress.proposed_epoch = view.epoch;
                        progress.proposed = Some(view);
                    });
                }
                Ok(ToMember::Armed(epoch)) => {
                    events.tell(News::Armed(epoch));
                    self.note(|progress| progress.armed = Some(epoch));
                }
                Ok(ToMember::Arm(view)) => events.tell(News::Arm(Arc::unwrap_or_clone(view))),
                Ok(ToMember::Shrink(epoch)) => events.tell(News::Shrink(epoch)),
                Ok(ToMember::Left(member)) => events.tell(News::Left(member)),
                Ok(ToMember::Prepare { epoch, lost, held, ending }) => {
                    events.tell(News::Prepare(Round { epoch, lost, held, ending }));
                }
                Ok(ToMember::Resume { plan, shrink, .. }) => {
                    let ending = plan.ending.clone();
                    events.tell(News::Resume(plan, shrink));
                    if let Some(verdict) = ending {
                        // The engine sees it through: what is final goes on. If this coordinator is lost before all have heard of
                        // the end, another needs to know how far the calls are here.
                        self.note(|progress| progress.failure = Some((*verdict).into()));
                    }
                }
                Ok(ToMember::Released) => {
                    session.finish();
                    self.note(|progress| progress.released = true);
                }
                Ok(_) => {}
                Err(error) => {
                    let progress = lock(&self.progress);
                    let silent = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
                    return if progress.released || progress.ended { End::Over } else { End::Lost(silent) };
                }
            }
        }
    }

    fn failed(&self, events: &dyn ControlEvents, error: Error) {
        // The engine first: whoever sees the failure may try again at once, with an engine that has forgotten.
        events.failed(error.clone());
        self.note(|progress| progress.failure = Some(error));
    }

    /// A verdict that names this very peer means that the others went on without it.
    fn in_my_eyes(&self, verdict: Verdict) -> Error {
        match verdict {
            Verdict::PeerLost(lost) if lost.peer == self.peer => {
                Error::Expelled { epoch: lost.epoch, reason: lost.reason.into() }
            }
            other => other.into(),
        }
    }

    fn note(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut lock(&self.progress));
        self.changed.notify_all();
    }
}

/// What every member says when the coordinator is gone: the same words, from the view alone.
fn coordinator_lost(view: &View, me: PeerId) -> Error {
    let host = view.host.and_then(|host| view.member(host));
    let host = host.filter(|member| member.peer != me).map(|member| member.id);
    let why = "it hosted the coordinator, and the control connections to it ended";
    let epoch = Epoch(view.epoch.0 + 1);
    match host.and_then(|host| view.lost(host, why, Duration::ZERO, epoch)) {
        Some(lost) => Error::PeerLost(Arc::new(lost)),
        None => Error::join("the coordinator was lost; the job cannot go on without it"),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    /// A connection, and who says on its other end a byte every now and then, of a message that takes many minutes. The
    /// thread ends with the connection, or when it is clear that nobody gives it up.
    pub(crate) fn one_who_dribbles(message: &impl serde::Serialize) -> (TcpStream, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        let message = encode(message).unwrap();
        assert!(message.len() > 1 << 20, "{} bytes", message.len());
        let dribbles = std::thread::spawn(move || {
            let begun = Instant::now();
            for byte in message.chunks(1) {
                if near.write_all(byte).is_err() || begun.elapsed() > Duration::from_secs(30) {
                    return;
                }
                std::thread::park_timeout(Duration::from_millis(1));
            }
        });
        (far, dribbles)
    }

    #[test]
    fn who_was_stopped_knows_it() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let at = |tenths: u32| start + second * tenths / 10;
        let mut beats = Beats::new(start);
        for tenths in [2, 4, 6, 8] {
            beats.note(at(tenths), second / 2);
        }
        assert!(!beats.had_a_pause(at(10), second));
        // Stopped: what comes first after it, and shortly after the next beat.
        assert!(beats.had_a_pause(at(40), second));
        beats.note(at(40), second / 2);
        beats.note(at(42), second / 2);
        assert!(beats.had_a_pause(at(43), second));
        for tenths in 43..=51 {
            beats.note(at(tenths), second / 2);
        }
        assert!(!beats.had_a_pause(at(51), second));
    }

    #[test]
    fn a_coordinator_that_says_a_byte_now_and_then_is_not_waited_for() {
        let missing = (0..1 << 20).collect();
        let (stream, dribbles) = one_who_dribbles(&ToMember::Gathering { joined: 1, size: 2, missing });
        let deadline = Instant::now() + Duration::from_millis(100);
        let mut rendezvous = Rendezvous {
            talk: Talk::new(stream, None),
            deadline,
            gathered: "nobody".into(),
            heard: false,
            pending: false,
        };
        let failed = rendezvous.next().unwrap_err().into_error();
        assert!(deadline.elapsed() < Duration::from_secs(20));
        assert!(failed.to_string().contains("in time"), "{failed}");
        drop(rendezvous);
        dribbles.join().unwrap();
    }
}
