//! The progress engine of one process: the executor, its links, and who moves them on.
//!
//! Whoever waits drives: a thread in a call polls the links and runs the plans itself, since waking
//! another thread costs tens of microseconds. It spins briefly, yields for a bounded time, then
//! blocks in epoll_wait(2). At most one thread blocks there (the *sleeper*); others that wait meanwhile
//! sleep on a condition variable and are woken when an op ends. A background thread takes over only
//! while nobody waits and asynchronous ops are open, and looks in every 20 ms otherwise.

pub(crate) mod diagnosis;
pub(crate) mod links;
mod recover;
mod sleep;
mod views;
mod wait;

use crate::bootstrap::{ControlEvents, Joined, News, Ready};
use crate::config::Config;
use crate::control::Control;
use crate::planner::Planned;
use links::LinkState;
use ronde_algorithms::AnyPlan;
use ronde_algorithms::kernels::CpuKernels;
use ronde_core::call::Call;
use ronde_core::collective::{CommitGroupId, Executor, Limits, Links, NewOp, OpHandle};
use ronde_core::error::{Aborted, Error, Misuse, Outcome, Result};
use ronde_core::membership::{CallProgress, Follower, FromMember, MemberInfo, QUORUM_SILENCES, Rejoin};
use ronde_core::memory::Arena;
use ronde_core::{Instant, MemberId, PeerId, Rank, Tag};
use sleep::{Waker, Watched};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;
use views::Registered;
pub(crate) use views::{Current, GroupCell};

/// How long the engine waits for the coordinator's verdict before it fails ops on its own: at least so long, and
/// so many times as long as a member may be silent: another coordinator may have to be found first, of which one says
/// nothing, and that one may wait for a quorum.
const VERDICT_PATIENCE: Duration = Duration::from_secs(5);
const VERDICT_SILENCES: u32 = QUORUM_SILENCES + 4;
/// How often at most heartbeats are told how far the ops are.
const PUBLISH_EVERY: Duration = Duration::from_millis(50);
/// A call that takes longer asks those it waits for how they make it.
const ASK_AFTER: Duration = Duration::from_secs(1);
/// How long a call to abort waits until the job has ended.
const ABORT_PATIENCE: Duration = Duration::from_millis(500);
/// Scratch memory comes in multiples of this, and so much is kept for the next calls.
const SCRATCH_STEP: usize = 4 << 10;
const MOST_SPARE: usize = 64 << 20;
/// While data moves, time is looked at every so many turns.
const TURNS_BETWEEN_LOOKS: u32 = 256;
/// How often the background thread looks in when no op is open.
const IDLE_TICK: Duration = Duration::from_millis(20);

type Callback = Box<dyn FnOnce(&Result<Outcome>) + Send>;

/// What the lock protects.
pub(crate) struct Inner {
    pub(crate) executor: Executor<AnyPlan>,
    pub(crate) links: Links,
    pub(crate) link_states: Vec<LinkState>,
    /// Which view this process is in.
    follower: Follower,
    me: PeerId,
    groups: Vec<Registered>,
    callbacks: Vec<(OpHandle, Callback)>,
    /// Memory that belongs to an op until its result is taken.
    scratch: Vec<(OpHandle, Arena)>,
    spare_scratch: Vec<Arena>,
    /// Peers that have left in order.
    gone: Vec<usize>,
    sleeping: bool,
    /// Of each link while somebody sleeps, kept for its memory.
    watched: Vec<Watched>,
    /// When a report was made that the coordinator has not answered yet, the error if it never does, and
    /// the peer whose link it is about.
    pending_verdict: Option<(Instant, Error, Option<usize>)>,
    /// The coordinator was lost, and no other has been heard of yet.
    seeks_coordinator: bool,
    /// Turns of whoever drives.
    turns: u32,
    /// When the heartbeat was last told how far the ops are.
    published: Instant,
    /// A call waits for long, and links are probed meanwhile.
    watches_links: bool,
    /// When it was last looked whether the other sides answer.
    looked_for_silence: Instant,
    failed: bool,
}

/// One process's part in a job.
pub(crate) struct Engine {
    inner: Mutex<Inner>,
    /// Woken when an op ends or the sleeper returns.
    ended: Condvar,
    waiters: AtomicUsize,
    /// Waits so far, and how long they spin.
    waits: AtomicU32,
    spins: AtomicU32,
    announced: Arc<Announced>,
    waker: Arc<Waker>,
    start: std::time::Instant,
    pub(crate) control: Arc<Control>,
    /// Links to newcomers.
    ready: Ready,
    pub(crate) kernels: &'static CpuKernels,
    pub(crate) registry: Arc<ronde_shm::Registry>,
    pub(crate) timeout: Duration,
    verdict_patience: Duration,
    /// How long a member may be silent.
    suspect_after: Duration,
    oversubscribed: AtomicBool,
    stop: AtomicBool,
}

/// The mailbox between the control thread and the engine.
#[derive(Default)]
pub(crate) struct Announced {
    failed: AtomicBool,
    error: Mutex<Option<Error>>,
    queue: Mutex<VecDeque<News>>,
    news: AtomicBool,
    waker: Mutex<Option<Arc<Waker>>>,
    /// Woken when the background thread should look.
    background: Condvar,
    /// What the next heartbeat says; a copy, since who drives holds the engine's lock most of the time.
    progress: Mutex<CallProgress>,
    /// Woken when there is an error.
    ended: Condvar,
    /// Why this process ends the job, if it does, and whether it has said so.
    aborting: Mutex<Option<String>>,
    abort_said: AtomicBool,
    /// Once there is one.
    engine: Mutex<std::sync::Weak<Engine>>,
}

impl Announced {
    fn wake(&self) {
        self.news.store(true, Ordering::Release);
        if let Some(waker) = &*lock(&self.waker) {
            waker.wake();
        }
        self.background.notify_all();
    }
}

impl ControlEvents for Announced {
    fn failed(&self, error: Error) {
        lock(&self.error).get_or_insert(error);
        self.failed.store(true, Ordering::Release);
        self.ended.notify_all();
        self.wake();
    }

    fn is_over(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    fn forget(&self) {
        lock(&self.queue).clear();
        *lock(&self.error) = None;
        self.failed.store(false, Ordering::Release);
    }

    fn tell(&self, news: News) {
        lock(&self.queue).push_back(news);
        self.wake();
    }

    fn rejoin(&self) -> Option<(Rejoin, Vec<MemberInfo>)> {
        let engine = lock(&self.engine).upgrade()?;
        Some(engine.rejoin())
    }

    fn hears_nothing(&self) {
        let engine = lock(&self.engine).upgrade();
        if let Some(engine) = engine {
            let inner = &mut *lock(&engine.inner);
            // A plan that came before this is no sign that others reckon with this member.
            engine.poll(inner);
            inner.follower.hears_nothing();
        }
    }

    fn say_again(&self) {
        let engine = lock(&self.engine).upgrade();
        if let Some(engine) = engine {
            engine.say_again();
        }
    }

    fn links_have_news(&self) {
        self.wake();
    }

    fn progress(&self) -> CallProgress {
        *lock(&self.progress)
    }

    fn hosted_by(&self, host: Option<MemberId>) {
        let engine = lock(&self.engine).upgrade();
        if let Some(engine) = engine {
            lock(&engine.inner).follower.hosted_by(host);
        }
    }
}

/// A call that was checked, but for the call itself, which is large to move about.
pub(crate) struct Prepared {
    pub(crate) current: Arc<Current>,
    pub(crate) planned: Planned,
    pub(crate) now: Instant,
    pub(crate) deadline: Instant,
    pub(crate) scratch: Option<Arena>,
    pub(crate) commit_group: Option<CommitGroupId>,
}

/// A lock whose poison means nothing: every critical section leaves the state consistent or fails
/// the group.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Engine {
    /// Joins the job and starts the engine. Gives the group of all peers.
    pub(crate) fn join(config: &Config) -> Result<(Arc<Engine>, Arc<GroupCell>)> {
        let announced = Arc::new(Announced::default());
        let Joined { view, peer, linker, control, deadline } =
            crate::bootstrap::join(config, announced.clone())?;
        let epoch = view.epoch;
        // What led to this view is past.
        lock(&announced.queue).retain(|news| match news {
            News::View(earlier) => earlier.epoch > epoch,
            News::Armed(earlier) => *earlier > epoch,
            _ => true,
        });
        let (registry, ready) = (linker.registry.clone(), linker.ready());
        let waker = Arc::new(Waker::new()?);
        *lock(&announced.waker) = Some(waker.clone());
        let limits = Limits { digests: config.digests_due(), ..Limits::default() };
        // Who joins later reckons with more members: a receiver takes what any of them may send.
        let unentered_bytes =
            limits.unentered_bytes.min((128 << 20) / view.members.len().max(1)).max(512 << 10);
        let engine = Arc::new(Engine {
            inner: Mutex::new(Inner {
                executor: Executor::new(0, Limits { unentered_bytes, ..limits }),
                links: Vec::new(),
                link_states: Vec::new(),
                follower: Follower::new(view.clone()),
                me: peer,
                groups: Vec::new(),
                callbacks: Vec::new(),
                scratch: Vec::new(),
                spare_scratch: Vec::new(),
                gone: Vec::new(),
                sleeping: false,
                watched: Vec::new(),
                pending_verdict: None,
                seeks_coordinator: false,
                turns: 0,
                published: Instant(0),
                watches_links: false,
                looked_for_silence: Instant(0),
                failed: false,
            }),
            ended: Condvar::new(),
            waiters: AtomicUsize::new(0),
            waits: AtomicU32::new(0),
            spins: AtomicU32::new(wait::SPINS),
            announced,
            waker,
            start: std::time::Instant::now(),
            oversubscribed: AtomicBool::new(false),
            control,
            ready,
            kernels: CpuKernels::detect(),
            registry,
            timeout: config.timeout,
            verdict_patience: VERDICT_PATIENCE.max(config.suspect_after() * VERDICT_SILENCES),
            suspect_after: config.suspect_after(),
            stop: AtomicBool::new(false),
        });
        let world = engine.begin(&view)?;
        *lock(&engine.announced.engine) = Arc::downgrade(&engine);
        engine.clone().spawn_background()?;
        let control = engine.control.clone();
        std::thread::Builder::new()
            .name("ronde-linker".into())
            .spawn(move || linker.follow(&control, view))
            .map_err(|e| Error::resource(format!("cannot start the thread that makes links: {e}")))?;
        if let Err(error) = engine.control.await_active(epoch, deadline) {
            engine.control.say(&FromMember::Leave);
            engine.stop();
            return Err(error);
        }
        Ok((engine, world))
    }

    /// Time since the engine started.
    pub(crate) fn now(&self) -> Instant {
        Instant(self.start.elapsed().as_nanos() as u64)
    }

    /// The error that ended the job here, if any.
    pub(crate) fn failure(&self) -> Option<Error> {
        match self.announced.failed.load(Ordering::Acquire) {
            true => lock(&self.announced.error).clone(),
            false => None,
        }
    }

    /// Starts an op; `scratch` stays with it until it ends.
    pub(crate) fn start(&self, prepared: Prepared, call: Call) -> Result<OpHandle> {
        self.start_locked(&mut lock(&self.inner), prepared, call)
    }

    fn start_locked(&self, inner: &mut Inner, prepared: Prepared, mut call: Call) -> Result<OpHandle> {
        if let Some(error) = self.failure() {
            return Err(error);
        }
        let Prepared { current, planned, now, deadline, scratch, commit_group } = prepared;
        inner.refuse_past(&current)?;
        let source = inner.executor.redirect(current.index, &call);
        call.stand_ins = inner.executor.stand_ins(current.index, &call);
        let plan = match source {
            Some(peer) => current.planner.plan(&Call { peer, ..call.clone() })?.plan,
            None if !call.stand_ins.is_empty() => current.planner.plan(&call)?.plan,
            None => current.planner.renew(planned, &call)?,
        };
        let new = NewOp { group: current.index, call, plan, source, now, deadline, commit_group };
        let executor = &mut inner.executor;
        let handle = self.contain(|| executor.start(new, &mut inner.links, self.kernels));
        let handle = handle.unwrap_or_else(|panic| {
            self.panicked(inner, &panic);
            Err(panic)
        })?;
        for peer in 0..inner.gone.len() {
            let peer = inner.gone[peer];
            self.check_left(inner, peer);
        }
        if let Some(scratch) = scratch {
            inner.scratch.push((handle, scratch));
        }
        if inner.sleeping {
            self.waker.wake();
        }
        Ok(handle)
    }

    /// Opens a commit group on a group of this generation.
    pub(crate) fn open_commit_group(
        &self,
        current: &Current,
        tag: Tag,
        most_kept: usize,
    ) -> Result<CommitGroupId> {
        let mut inner = lock(&self.inner);
        inner.refuse_past(current)?;
        inner.executor.open_commit_group(current.index, tag, most_kept)
    }

    /// Starts the seal of a commit group; what its calls keep of memory stays until that has ended.
    ///
    /// One that cannot be sealed never becomes final, and no other call on any rank stands for it: that ends the job. An error is
    /// returned once nothing uses the buffers any more.
    pub(crate) fn start_seal(&self, prepared: Prepared, seal: Call, calls: &[OpHandle]) -> Result<OpHandle> {
        let mut inner = lock(&self.inner);
        let handle = match self.start_locked(&mut inner, prepared, seal) {
            Ok(handle) => handle,
            Err(error) => {
                if self.failure().is_none() {
                    self.panicked(&mut inner, &error);
                }
                self.drive(inner, |inner| inner.failed.then_some(()));
                return Err(error);
            }
        };
        let kept = inner.scratch.iter_mut().filter(|(op, _)| calls.contains(op));
        kept.for_each(|(op, _)| *op = handle);
        Ok(handle)
    }

    /// Some commit group waits for its seal.
    pub(crate) fn has_unsealed(&self) -> bool {
        lock(&self.inner).executor.has_unsealed()
    }

    /// Memory that [`Engine::start`] can keep for an op.
    pub(crate) fn take_scratch(&self, bytes: usize) -> Arena {
        let len = bytes.next_multiple_of(SCRATCH_STEP);
        let mut inner = lock(&self.inner);
        let fits = |arena: &Arena| arena.len() >= bytes && arena.len() <= 2 * len;
        match inner.spare_scratch.iter().position(fits) {
            Some(at) => inner.spare_scratch.swap_remove(at),
            None => Arena::new(len),
        }
    }

    /// Lets the background thread take an asynchronous op over.
    pub(crate) fn hand_to_background(&self) {
        if self.waiters.load(Ordering::Relaxed) == 0 {
            self.announced.background.notify_one();
        }
    }

    /// Takes a receive back.
    pub(crate) fn cancel(&self, handle: OpHandle) -> bool {
        let mut inner = lock(&self.inner);
        let cancelled = inner.executor.cancel(handle);
        drop(self.run_callbacks(inner));
        if cancelled {
            self.ended.notify_all();
            self.waker.wake();
        }
        cancelled
    }

    /// Calls `f` when the op ends.
    pub(crate) fn on_complete(&self, handle: OpHandle, f: Callback) {
        let mut inner = lock(&self.inner);
        inner.callbacks.push((handle, f));
        drop(self.run_callbacks(inner));
        self.hand_to_background();
    }

    /// Name of the transport to each member, empty for one's own, and how often its connections were made again.
    pub(crate) fn links(&self) -> Vec<(&'static str, u32)> {
        let inner = &*lock(&self.inner);
        let both = inner.link_states.iter().zip(&inner.links);
        both.map(|(state, link)| (state.transport, link.as_ref().map_or(0, |link| link.reconnections())))
            .collect()
    }

    /// Ends this process's part without telling anybody.
    pub(crate) fn stop(&self) {
        // Nothing here is the child's to end: it shares its sockets with the parent.
        if self.control.is_forked() {
            return;
        }
        self.say_unsaid_abort();
        self.stop.store(true, Ordering::Release);
        self.announced.background.notify_all();
        let mut inner = lock(&self.inner);
        let closed = Error::Misuse(Misuse::Closed);
        lock(&self.announced.error).get_or_insert(closed.clone());
        self.announced.failed.store(true, Ordering::Release);
        inner.fail(&closed);
        // Those who wait for these ops, in whatever way, hear of their end.
        drop(self.run_callbacks(inner));
        self.ended.notify_all();
        self.waker.wake();
        self.control.shutdown();
    }

    /// Ends the job for everybody with a reason. Mostly it has ended when this returns, so that the process may end.
    pub(crate) fn abort(self: &Arc<Engine>, reason: &str) {
        let until = std::time::Instant::now() + ABORT_PATIENCE;
        lock(&self.announced.aborting).get_or_insert_with(|| reason.to_owned());
        self.announced.wake();
        // Neither whoever drives, in an operator of the user perhaps, nor a full socket keeps the caller for long.
        let (engine, (said, hear)) = (self.clone(), mpsc::channel::<()>());
        let speak = move || {
            engine.say_abort();
            drop(said);
        };
        match std::thread::Builder::new().name("ronde-abort".into()).spawn(speak) {
            Ok(_) => drop(hear.recv_timeout(ABORT_PATIENCE)),
            Err(_) => self.say_abort(),
        }
        // The others are asked first how far they are, which needs a coordinator: it may be in this process.
        let left = until.saturating_duration_since(std::time::Instant::now());
        let error = lock(&self.announced.error);
        drop(self.announced.ended.wait_timeout_while(error, left, |error| error.is_none()));
    }

    /// Tells the coordinator that this process has aborted the job, if it has: also one that may not have heard.
    fn say_abort(&self) {
        let reason = lock(&self.announced.aborting).clone();
        if let Some(reason) = reason {
            self.control.say(&FromMember::Abort { reason });
            self.announced.abort_said.store(true, Ordering::Release);
        }
    }

    /// Before this process leaves in whatever way.
    fn say_unsaid_abort(&self) {
        if !self.announced.abort_said.load(Ordering::Acquire) {
            self.say_abort();
        }
    }

    /// The job ends, once the coordinator says so.
    fn await_abort(&self, inner: &mut Inner) {
        let reason = lock(&self.announced.aborting).clone();
        if let Some(reason) = reason {
            let error = Error::Aborted(Arc::new(Aborted::Requested { rank: inner.rank(), reason }));
            inner.pending_verdict.get_or_insert((self.now(), error, None));
        }
    }

    /// Sees that no peer needs anything more from here, then leaves.
    pub(crate) fn close(&self) -> Result<()> {
        if self.control.is_forked() {
            let text = "this process was forked from the one that joined: only that one may use the group";
            return Err(Misuse::Other(text.into()).into());
        }
        self.say_unsaid_abort();
        let until = std::time::Instant::now() + Duration::from_secs(1);
        self.drain(until);
        let has_ended = self.failure().is_some() || lock(&self.inner).executor.ended_by().is_some();
        let left = match has_ended {
            true => Ok(()),
            false => self.control.leave(Duration::from_secs(2)),
        };
        self.end_links();
        let left = left.and_then(|()| match self.control.see_the_others_off(self.timeout) {
            true => Ok(()),
            false => Err(Error::resource(format!(
                "this process hosts the coordinator, and others have not left the job after {:.0} s: \
                 it ends for them now. Let the rank that hosts close last, or run `ronde coordinator`",
                self.timeout.as_secs_f64()
            ))),
        });
        self.stop();
        left
    }

    /// Waits until the peers need nothing of the log, and everything that was sent has left.
    fn drain(&self, until: std::time::Instant) {
        loop {
            let mut inner = lock(&self.inner);
            let links_are_settled = inner.links.iter().flatten().all(|link| link.is_settled());
            let sent = !inner.executor.has_unsent() && links_are_settled;
            if sent && inner.executor.log_is_empty() || self.failure().is_some() {
                return;
            }
            {
                // Asks once about each entry that becomes the oldest.
                let inner = &mut *inner;
                inner.executor.ask_for_acknowledgement(&mut inner.links);
            }
            self.poll(&mut inner);
            let now = std::time::Instant::now();
            // A connection may be just being made again.
            let until = if links_are_settled { until } else { until + self.suspect_after };
            if now >= until {
                return;
            }
            drop(self.sleep(inner, (until - now).min(Duration::from_millis(5))));
        }
    }

    fn spawn_background(self: Arc<Engine>) -> Result<()> {
        let weak = Arc::downgrade(&self);
        std::thread::Builder::new()
            .name("ronde-progress".into())
            .spawn(move || {
                while let Some(engine) = weak.upgrade() {
                    if engine.stop.load(Ordering::Acquire) {
                        return;
                    }
                    engine.background_round();
                }
            })
            .map(drop)
            .map_err(|e| Error::resource(format!("cannot start the progress thread: {e}")))
    }

    fn background_round(&self) {
        let mut inner = lock(&self.inner);
        if self.waiters.load(Ordering::Relaxed) > 0 || inner.executor.open_ops() == 0 {
            let waited = self.announced.background.wait_timeout(inner, IDLE_TICK);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        if self.waiters.load(Ordering::Relaxed) > 0 {
            return;
        }
        let moved = self.poll(&mut inner);
        self.check_time(&mut inner);
        let open = inner.executor.open_ops() > 0;
        let inner = self.run_callbacks(inner);
        if open && !moved {
            drop(self.sleep(inner, IDLE_TICK));
        }
    }

    /// Runs the callbacks of ended ops outside the lock.
    fn run_callbacks<'a>(&'a self, mut inner: MutexGuard<'a, Inner>) -> MutexGuard<'a, Inner> {
        while let Some(at) = inner.callbacks.iter().position(|(op, _)| inner.executor.has_ended(*op)) {
            let (handle, callback) = inner.callbacks.swap_remove(at);
            let result = inner.take(handle);
            drop(inner);
            if let Some(result) = result {
                // Any thread may be the one to call: it is not the callback's to end.
                if catch_unwind(AssertUnwindSafe(|| callback(&result))).is_err() {
                    tracing::error!("the callback of an operation panicked");
                }
                // Somebody may wait for what the callback did.
                self.ended.notify_all();
            }
            inner = lock(&self.inner);
        }
        inner
    }

    /// Moves everything that can be moved. Returns whether anything did.
    fn poll(&self, inner: &mut Inner) -> bool {
        self.contain(|| self.poll_once(inner)).unwrap_or_else(|panic| {
            self.panicked(inner, &panic);
            true
        })
    }

    fn poll_once(&self, inner: &mut Inner) -> bool {
        if self.announced.news.load(Ordering::Acquire) {
            self.hear(inner);
        }
        let mut moved = self.poll_links(inner);
        moved |= inner.executor.advance(&mut inner.links, self.kernels);
        self.end_failed_links(inner);
        for effect in inner.executor.take_effects() {
            self.report_effect(inner, effect);
        }
        self.fail_if_over(inner);
        moved
    }

    /// Runs what may call a user's operator; a panic in there becomes an error.
    fn contain<T>(&self, run: impl FnOnce() -> T) -> Result<T> {
        catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            let text = text.unwrap_or_else(|| "no message".to_owned());
            Error::internal(format!("a panic inside an operation (a user-defined operator?): {text}"))
        })
    }

    /// A panic may have left an op between two states: the job ends, here at once.
    fn panicked(&self, inner: &mut Inner, error: &Error) {
        self.control.say(&FromMember::Abort { reason: error.to_string() });
        self.announced.failed(error.clone());
        if !inner.failed {
            inner.fail(error);
        }
        self.ended.notify_all();
    }

    /// Takes in what the control thread announced.
    fn hear(&self, inner: &mut Inner) {
        let announced = &self.announced;
        announced.news.store(false, Ordering::Release);
        while let Some(news) = { lock(&announced.queue).pop_front() } {
            match news {
                News::Left(member) => self.left(inner, member),
                News::Prepare(round) => self.freeze(inner, round),
                News::Resume(plan, shrink) => self.resume(inner, &plan, shrink),
                News::View(view) => inner.follower.propose(view),
                News::Armed(epoch) => {
                    if inner.follower.arm(epoch).is_some() {
                        self.arm(inner);
                    }
                }
                News::Arm(view) => {
                    inner.follower.arm_view(view);
                    self.arm(inner);
                }
                News::Shrink(epoch) => {
                    inner.follower.shrink(epoch);
                    self.arm(inner);
                }
            }
        }
        self.await_abort(inner);
        if let Some(error) = self.failure()
            && !inner.failed
        {
            self.warn_of_calls(inner, &error);
            inner.fail(&error);
            if inner.executor.ended_by().is_some() {
                self.control.is_over();
            }
            self.ended.notify_all();
        }
    }

    fn left(&self, inner: &mut Inner, member: MemberId) {
        let at = member.index();
        if at >= inner.link_states.len() {
            return;
        }
        inner.follower.has_left(member);
        inner.link_states[at].left = true;
        inner.gone.push(at);
        inner.executor.peer_left(at);
        // A link that ended because its peer left in order needs no verdict.
        inner.pending_verdict.take_if(|(.., about)| *about == Some(at));
        self.check_left(inner, at);
    }

    /// Fails the job here if the coordinator did not answer a report in time; reports overdue ops.
    fn check_time(&self, inner: &mut Inner) {
        if inner.failed {
            return;
        }
        let now = self.now();
        if now.since(inner.published) > PUBLISH_EVERY {
            inner.published = now;
            *lock(&self.announced.progress) = inner.executor.progress(now);
            let before = Instant(now.0.saturating_sub(ASK_AFTER.as_nanos() as u64));
            inner.executor.ask_the_missing(before, &mut inner.links);
            let waits = inner.executor.has_waited_since(before);
            self.watch_links(inner, now, waits);
        }
        if let Some((since, error, _)) = &inner.pending_verdict {
            // Once the job has ended nobody is left to ask, except of one who takes the place of a coordinator that some have not heard
            // the end of: its loss is noticed after one silence.
            let has_ended = inner.executor.ended_by().is_some() && !inner.seeks_coordinator;
            let patience = if has_ended { self.suspect_after * 3 / 2 } else { self.verdict_patience };
            if now.since(*since) > patience {
                let error = error.clone();
                self.announced.failed(error);
            }
            return;
        }
        if inner.executor.next_deadline().is_some_and(|deadline| deadline <= now)
            && let Some(overdue) = inner.executor.overdue(now)
        {
            let (report, error) = inner.timeout_report(&overdue);
            if inner.executor.end_untouched(&overdue, &error) {
                return self.ended.notify_all();
            }
            self.control.say(&report);
            inner.pending_verdict = Some((now, error, None));
        }
    }
}

impl Inner {
    /// A call was begun before a safe point, and comes after it.
    fn refuse_past(&self, current: &Current) -> Result<()> {
        if self.executor.is_past(current.index, current.formation) {
            let text = "the group passed a safe point (update) while this call was being made: make no calls from \
                        other threads meanwhile";
            return Err(Misuse::Other(text.into()).into());
        }
        Ok(())
    }

    /// This process's rank in the job.
    fn rank(&self) -> Rank {
        self.follower.view().rank_of(self.me).unwrap_or_default()
    }

    /// The rank in the job of a member.
    fn rank_of(&self, member: MemberId) -> Rank {
        self.follower.view().rank_of_member(member).unwrap_or(Rank(member.0))
    }

    /// The result of an op if it has ended; its scratch goes back.
    pub(crate) fn take(&mut self, handle: OpHandle) -> Option<Result<Outcome>> {
        let result = self.executor.take(handle)?;
        let spent = self.scratch.extract_if(.., |(op, _)| *op == handle);
        self.spare_scratch.extend(spent.map(|(_, arena)| arena));
        while self.spare_scratch.iter().map(Arena::len).sum::<usize>() > MOST_SPARE {
            self.spare_scratch.remove(0);
        }
        Some(result)
    }

    /// Ends everything with one error.
    fn fail(&mut self, error: &Error) {
        self.failed = true;
        self.executor.fail_all(&mut self.links, error);
    }
}
