//! A coordinator is lost, and another takes its place: in a member, or at the same address.
//!
//! The members say where they stand ([`Rejoin`]). Who does not come in time, or has died, is lost with the
//! coordinator; what the one before had decided and told only to some is done for all. Then everything goes on as
//! after any other loss. It takes a quorum of every view that some may be in, so that of two parts of a network
//! only one goes on: more than half of the members, the dead included, or exactly half with the lowest rank that
//! did not host the coordinator; or everybody who is not dead.

use super::round::Round;
use super::views::NextView;
use super::{Coordinator, CoordinatorOptions, Effect, Member, State, VERSION};
use crate::error::PeerLost;
use crate::membership::{Hello, MemberInfo, Rejoin, ToMember, Verdict, View};
use crate::planted::{self, Bug};
use crate::recovery::Wishes;
use crate::{Epoch, Incarnation, Instant, MemberId, PeerId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// A coordinator that takes the place of another waits so many times as long as a member may be silent for the
/// rest of the members once it has a quorum…
const REST: u32 = 2;
/// …and so many times as long for a quorum; then it ends the job for those who have come.
pub const QUORUM_SILENCES: u32 = 10;

/// Members that have come to a successor.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub(super) struct Gathered {
    since: Option<Instant>,
    rejoined: BTreeMap<MemberId, Rejoin>,
    /// By which connection each of them came last.
    connections: BTreeMap<MemberId, u64>,
    /// Members that have left in order since they came: what they know still counts.
    left: BTreeMap<MemberId, Rejoin>,
    /// Members to whom somebody's link has ended, and when it was last asked for whether they have ended too:
    /// whoever gives a member up ends its links, so that alone proves nothing.
    suspected: BTreeMap<PeerId, Option<Instant>>,
    /// Those of them that have.
    dead: BTreeSet<PeerId>,
    /// Of these, who lived for so long without having come that it may have gone on without those who are here.
    late: BTreeSet<PeerId>,
    /// What is to end, as some of them say, in the order in which they did. What they were told by the one before they report.
    wishes: Vec<(MemberId, Wishes)>,
}

impl Coordinator {
    /// One that takes the place of another.
    pub fn successor(options: CoordinatorOptions) -> Coordinator {
        let mut coordinator = Coordinator::new(options);
        coordinator.state = State::Succeeding(Gathered::default());
        coordinator
    }

    /// A member that had another coordinator has come.
    pub(super) fn rejoin(&mut self, connection: u64, rejoin: Rejoin, now: Instant) {
        let is_here = !matches!(self.state, State::SteppedDown);
        if !is_here || self.members.contains_key(&connection) || !rejoin.is_sound() {
            return self.effects.push(Effect::Close(connection));
        }
        // One that was started again at its address knows nothing of the job that it had.
        if matches!(self.state, State::Gathering) && rejoin.version == VERSION {
            self.state = State::Succeeding(Gathered::default());
            // Whoever asked it before wants to join that job.
            if !self.members.is_empty() {
                self.newcomers_since = Some((now, now));
            }
        }
        let Some(rank) = rejoin.view.rank_of(rejoin.peer) else {
            return self.effects.push(Effect::Close(connection));
        };
        let id = rejoin.view.members[rank.index()].id;
        self.may_ask.remove(&rejoin.peer);
        let known = self.connection_of(id).map(|connection| &self.members[&connection]);
        if known.is_some_and(|m| m.hello.info.peer == rejoin.peer && m.asked > rejoin.asked) {
            // It has given this connection up.
            return self.effects.push(Effect::Close(connection));
        }
        if let Some(earlier) = self.unaware(id, &rejoin) {
            return self.take_in_again(earlier, connection, id, rejoin, now);
        }
        let gathered = match &self.state {
            State::Succeeding(gathered) if rejoin.version == VERSION => gathered,
            State::Failed(verdict) => {
                let verdict = verdict.clone();
                return self.expel(connection, verdict);
            }
            _ => return self.expel(connection, Verdict::Deposed(self.epoch)),
        };
        // The number of one that is gone may be another's now: of the two the one of the later view is a member.
        if let Some(twin) = gathered.rejoined.get(&id).filter(|twin| twin.peer != rejoin.peer) {
            let verdict = Verdict::Deposed(twin.epoch.max(rejoin.epoch));
            if twin.view.generation >= rejoin.view.generation {
                return self.expel(connection, verdict);
            }
            let earlier = gathered.connections.get(&id).copied();
            earlier.into_iter().for_each(|earlier| self.expel(earlier, verdict.clone()));
        }
        self.take_in(connection, id, rejoin, now);
    }

    fn take_in(&mut self, connection: u64, id: MemberId, rejoin: Rejoin, now: Instant) {
        let State::Succeeding(gathered) = &mut self.state else { return };
        let Some(info) = rejoin.view.member(id) else { return };
        let asked = rejoin.asked;
        let member = Member { unaware: true, asked, ..Member::new(hello_of(info), Some(id), now) };
        self.members.insert(connection, member);
        gathered.since.get_or_insert(now);
        let dead = rejoin.dead.clone();
        gathered.rejoined.insert(id, rejoin);
        gathered.suspect(id, &dead);
        if let Some(before) = gathered.connections.insert(id, connection)
            && self.members.remove(&before).is_some()
        {
            self.effects.push(Effect::Close(before));
        }
        // It knows now that it came to the right place.
        let host = self.options.host;
        self.effects.push(Effect::Send(connection, ToMember::Welcome { host }));
        self.succeed_if_due(now);
    }

    /// By which connection this member came before this coordinator took over, if it may not know that it was taken in.
    fn unaware(&self, id: MemberId, rejoin: &Rejoin) -> Option<u64> {
        let recovers = matches!(self.state, State::Recovering(_)) && rejoin.version == VERSION;
        let earlier = self.connection_of(id).filter(|_| recovers && !self.gone.contains(&id))?;
        let member = &self.members[&earlier];
        (member.unaware && member.hello.info.peer == rejoin.peer && rejoin.epoch < self.epoch)
            .then_some(earlier)
    }

    /// It did not wait for the answer, which took long, and has not heard what followed.
    fn take_in_again(&mut self, earlier: u64, connection: u64, id: MemberId, rejoin: Rejoin, now: Instant) {
        let Some(member) = self.members.remove(&earlier) else { return };
        self.closed.remove(&rejoin.peer);
        self.members.insert(connection, Member { asked: rejoin.asked, heard: now, ..member });
        self.effects.push(Effect::Close(earlier));
        let host = self.options.host;
        self.effects.push(Effect::Send(connection, ToMember::Welcome { host }));
        let it = BTreeMap::from([(id, rejoin)]);
        if let Some(next) = self.next.as_ref().filter(|next| next.armed).map(|next| next.view.clone()) {
            self.arm_where_it_is_not(&next, &it);
        }
        self.activate_where_it_was_lost(&it);
        if let State::Recovering(round) = &self.state {
            self.effects.push(Effect::Send(connection, round.prepare(self.epoch)));
        }
    }

    /// The view that a member is in.
    pub(super) fn view_of(&self, id: MemberId) -> &View {
        match &self.state {
            State::Succeeding(gathered) => {
                gathered.rejoined.get(&id).map_or(&self.view, |rejoin| &rejoin.view)
            }
            _ => &self.view,
        }
    }

    /// It waits for the members of the one before.
    pub fn is_succeeding(&self) -> bool {
        matches!(self.state, State::Succeeding(_))
    }

    /// When a successor has waited long enough, for the rest or for a quorum.
    pub(super) fn succession_deadline(&self) -> Option<Instant> {
        let State::Succeeding(gathered) = &self.state else { return None };
        let since = gathered.since?;
        let patience = if gathered.has_quorum() { REST } else { QUORUM_SILENCES };
        Some(since.after(self.options.suspect_after * patience))
    }

    /// Takes over once everybody is here who can be, or has had time enough.
    pub(super) fn succeed_if_due(&mut self, now: Instant) {
        let State::Succeeding(gathered) = &mut self.state else { return };
        let probes = gathered.probes(now, self.options.heartbeat);
        self.effects.extend(probes.into_iter().map(Effect::Probe));
        let Some(since) = gathered.since else { return };
        let waited = now.since(since);
        let limit = |times: u32| self.options.suspect_after * times;
        if gathered.has_quorum() && (gathered.is_complete() || waited >= limit(REST)) {
            return self.take_over(now);
        }
        if waited >= limit(QUORUM_SILENCES) {
            let count = gathered.count();
            self.fail(Verdict::NoQuorum { here: count.here as u32, of: count.of as u32 });
        }
    }

    fn take_over(&mut self, now: Instant) {
        let State::Succeeding(gathered) = std::mem::replace(&mut self.state, State::Active) else { return };
        self.unproven = gathered.missing();
        self.closed.clear();
        let (mut rejoined, left) = (gathered.rejoined, gathered.left);
        self.epoch = rejoined.values().chain(left.values()).map(|r| r.epoch).max().unwrap_or_default();
        let Some(newest) = newest(rejoined.values().chain(left.values())).cloned() else { return };
        self.turn_away_those_of_the_past(&mut rejoined, &newest);
        let Some(view) = rejoined.values().map(|r| &r.view).min_by_key(|view| view.generation).cloned()
        else {
            return;
        };
        let all_views = rejoined.values().flat_map(|r| [Some(&r.view), r.armed.as_ref()]).flatten();
        let next =
            all_views.max_by_key(|view| view.generation).filter(|next| next.generation > view.generation);
        let known = |id: MemberId| view.member(id).is_some() || next.is_some_and(|n| n.member(id).is_some());
        let knew = left.values().filter(|r| is_current(r, &newest));
        let gone = rejoined.values().chain(knew).flat_map(|r| &r.gone).chain(left.keys());
        self.gone = gone.copied().filter(|&id| known(id)).collect();
        let everybody = view.members.iter().chain(next.iter().flat_map(|next| &next.members));
        self.gone.extend(everybody.map(|m| m.id).filter(|id| !rejoined.contains_key(id)));
        self.fenced.clone_from(&self.gone);
        // Also if its own process has not come, or has left: there are others that may take this one's place.
        let own = |view: &View| Some(view.members[view.rank_of(self.options.host?)?.index()].clone());
        let host = next.and_then(own).or_else(|| own(&view));
        let next = next.map(|next| next.clone().hosted_by(host.as_ref()));
        self.expel_the_gone(&mut rejoined, &view);
        // What the others are to go on without cannot end it for them.
        let counts = |id: &MemberId| rejoined.contains_key(id) || left.contains_key(id);
        let wishes = gathered.wishes.into_iter().find(|(id, _)| counts(id));
        let wishes = wishes.map(|(_, wishes)| wishes).unwrap_or_default();
        self.next = next.map(|next| {
            self.arm_where_it_is_not(&next, &rejoined);
            NextView::armed(next, now)
        });
        let lost_host = view.host;
        let incarnation = Incarnation(view.incarnation.0 + 1);
        self.view = View { incarnation, host: host.map(|host| host.id), home: None, ..view };
        self.ticked = now;
        self.members.values_mut().for_each(|member| member.heard = now);
        let waits = |(_, r): &(&MemberId, &Rejoin)| r.view.generation == self.view.generation;
        let before: BTreeSet<MemberId> = rejoined.iter().filter(waits).map(|(id, _)| *id).collect();
        self.activate_where_it_was_lost(&rejoined);
        let told = rejoined.into_values().chain(left.into_values()).flat_map(|r| r.lost).collect();
        self.prepare_without_the_gone(lost_host, told, wishes, now);
        self.wait_for_safe_point_of(before);
    }

    /// The coordinator before had told some members that a view is armed: so it is for all.
    fn arm_where_it_is_not(&mut self, next: &View, rejoined: &BTreeMap<MemberId, Rejoin>) {
        let shared = Arc::new(next.clone());
        for (id, rejoin) in rejoined {
            let has_it = [Some(&rejoin.view), rejoin.armed.as_ref()].into_iter().flatten();
            if has_it.into_iter().all(|view| view.epoch != next.epoch)
                && let Some(connection) = self.connection_of(*id)
            {
                self.effects.push(Effect::Send(connection, ToMember::Arm(shared.clone())));
            }
        }
    }

    /// Newcomers may not have heard that a view is in effect which others are in.
    fn activate_where_it_was_lost(&mut self, rejoined: &BTreeMap<MemberId, Rejoin>) {
        let generation = self.view.generation;
        let (before, ahead): (Vec<MemberId>, Vec<MemberId>) =
            rejoined.keys().partition(|id| rejoined[id].view.generation == generation);
        let connections = before.iter().filter_map(|&id| self.connection_of(id)).collect();
        self.send_to(connections, &ToMember::Activate(self.view.epoch));
        if ahead.iter().any(|&id| self.view.member(id).is_some()) {
            self.activate_newcomers();
        }
    }

    /// Who is neither in the newest view that took effect anywhere nor in the one before it was given up long ago.
    fn turn_away_those_of_the_past(&mut self, rejoined: &mut BTreeMap<MemberId, Rejoin>, newest: &View) {
        let epoch = self.epoch;
        rejoined.retain(|&id, r| {
            if is_current(r, newest) {
                return true;
            }
            if let Some(connection) = self.connection_of(id) {
                self.expel(connection, Verdict::Deposed(epoch));
            }
            false
        });
    }

    /// The coordinator before had given some of those up who come, and they have not heard of it.
    fn expel_the_gone(&mut self, rejoined: &mut BTreeMap<MemberId, Rejoin>, view: &View) {
        let epoch = self.epoch;
        rejoined.retain(|&id, _| {
            let Some(connection) = self.connection_of(id).filter(|_| self.gone.contains(&id)) else {
                return true;
            };
            // Of the view that was only armed the members of the one before know nothing.
            let lost = lost_with_coordinator(view, id, None, epoch);
            let verdict = lost.map_or(Verdict::Deposed(epoch), Verdict::PeerLost);
            self.expel(connection, verdict);
            false
        });
    }

    /// Of a member that has come: it has passed a safe point meanwhile.
    pub(super) fn rejoined_and_entered(&mut self, id: MemberId, epoch: Epoch) {
        if let State::Succeeding(gathered) = &mut self.state
            && let Some(rejoin) = gathered.rejoined.get_mut(&id)
            && let Some(view) = rejoin.armed.take_if(|view| view.epoch == epoch)
        {
            rejoin.view = view;
        }
    }

    /// Of a member that has come: it has left in order.
    pub(super) fn rejoined_and_left(&mut self, id: MemberId) {
        if let State::Succeeding(gathered) = &mut self.state
            && let Some(rejoin) = gathered.rejoined.remove(&id)
        {
            gathered.left.insert(id, rejoin);
        }
    }

    /// A member that has come says that its link to another has ended.
    pub(super) fn is_suspected_by(&mut self, accuser: MemberId, id: MemberId) {
        if let State::Succeeding(gathered) = &mut self.state {
            gathered.suspect(accuser, &[id]);
        }
        self.succeed_if_due(self.ticked);
    }

    /// A member that has come hears a farewell that it had not heard when it came.
    pub(super) fn rejoined_and_is_ended_by(&mut self, connection: u64, member: MemberId) {
        let id = self.members.get(&connection).and_then(|m| m.id);
        if let State::Succeeding(gathered) = &mut self.state
            && !gathered.left.contains_key(&member)
            && let Some(rejoin) = id.and_then(|id| gathered.rejoined.get_mut(&id))
        {
            rejoin.cut_off |= !rejoin.gone.contains(&member) && !planted::has(Bug::NobodyIsCutOff);
        }
    }

    /// A process that was asked for ([`Effect::Probe`]) has ended: connections to it are refused.
    pub fn handle_ended(&mut self, peer: PeerId, now: Instant) {
        self.notice_own_pause(now);
        if let State::Succeeding(gathered) = &mut self.state
            && gathered.dead.insert(peer)
            && gathered.since.is_some_and(|since| now.since(since) >= self.options.suspect_after)
        {
            gathered.late.insert(peer);
        }
        self.closed_one_has_ended(peer, now);
        self.succeed_if_due(now);
    }

    /// A member went away again before this coordinator took over.
    pub(super) fn rejoined_no_more(&mut self, id: MemberId, connection: u64) {
        if let State::Succeeding(gathered) = &mut self.state
            && gathered.connections.get(&id) == Some(&connection)
        {
            gathered.rejoined.remove(&id);
        }
    }

    /// Everybody freezes and reports, also if nobody is lost: some may wait for the plan of the one before. What
    /// that has told some of a loss the others hear in the same words.
    fn prepare_without_the_gone(
        &mut self,
        lost_host: Option<MemberId>,
        told: Vec<PeerLost>,
        wishes: Wishes,
        now: Instant,
    ) {
        let epoch = Epoch(self.epoch.0 + 1);
        let lost_in = |view: &View, id| {
            let info = view.member(id)?;
            let known = told.iter().find(|lost| (lost.member, lost.peer) == (id, info.peer));
            known.cloned().or_else(|| lost_with_coordinator(view, id, lost_host, epoch))
        };
        let lost_of = |&id| self.views().find_map(|view| lost_in(view, id));
        let lost: Vec<PeerLost> = self.gone.iter().filter_map(lost_of).collect();
        self.start(Round::of(lost, wishes), now);
    }

    /// A member heard nothing of this coordinator for too long and looks for another. If enough others do so too
    /// they have one, and this one ends.
    pub(super) fn succeeded(&mut self, connection: u64, now: Instant) {
        let Some(id) = self.members.get(&connection).and_then(|m| m.id) else { return };
        if self.is_unarmed_newcomer(id) {
            return self.drop_newcomer(id, "it heard nothing of the coordinator", now);
        }
        if !self.runs() || self.gone.contains(&id) {
            return;
        }
        self.unproven.insert(id);
        match self.count(&BTreeSet::from([id])).has_quorum() {
            true => self.lose(id, "it heard nothing of the coordinator and looks for another", now),
            false => self.fail(Verdict::Deposed(Epoch(self.epoch.0 + 1))),
        }
    }

    /// Who is left if a member is given up that may live; nothing if no other part of the job can go on: a
    /// coordinator that runs alone has no rival, and who is on the host's machine cannot be cut off from it.
    pub(super) fn count_without(&self, lost: MemberId) -> Option<Count> {
        let info = |id| self.lasting_views().find_map(|view| view.member(id));
        let lost_machine = &info(lost)?.machine;
        let host = self.view.host.and_then(info).or(self.view.home.as_deref());
        let is_with_host = !self.view.is_hosted() || host.is_some_and(|host| host.machine == *lost_machine);
        (!is_with_host).then(|| self.count(&BTreeSet::from([lost])))
    }

    /// Who is left, of all who may live of the view that took effect last and of the one that is armed.
    pub(super) fn count(&self, without: &BTreeSet<MemberId>) -> Count {
        let may_live = |id: &MemberId| !self.gone.contains(id) || self.unproven.contains(id);
        let is_here = |id: &MemberId| !without.contains(id) && !self.unproven.contains(id);
        let count = |view: &View| {
            let base: Vec<MemberId> = view.members.iter().map(|m| m.id).filter(may_live).collect();
            let here: BTreeSet<MemberId> = base.iter().copied().filter(is_here).collect();
            Count::new(&base, &here, self.view.host)
        };
        Count::least(self.lasting_views().map(count))
    }

    /// The view in effect, and the one that is armed.
    fn lasting_views(&self) -> impl Iterator<Item = &View> {
        let armed = self.next.iter().filter(|next| next.armed).map(|next| &next.view);
        std::iter::once(&self.view).chain(armed)
    }
}

/// The newest view that took effect anywhere.
fn newest<'a>(rejoined: impl Iterator<Item = &'a Rejoin>) -> Option<&'a View> {
    rejoined.map(|r| &r.view).max_by_key(|view| view.generation)
}

/// A member of that view which has passed the safe point to it, or will.
fn is_current(rejoin: &Rejoin, newest: &View) -> bool {
    let follows = rejoin.view.generation.0 + 1 == newest.generation.0;
    newest.rank_of(rejoin.peer).is_some() && (rejoin.view.epoch == newest.epoch || follows)
}

fn hello_of(info: &MemberInfo) -> Hello {
    Hello {
        version: VERSION,
        rank: None,
        size: None,
        min_peers: None,
        newcomer: false,
        hosts_coordinator: false,
        info: info.clone(),
    }
}

fn lost_with_coordinator(
    view: &View,
    id: MemberId,
    lost_host: Option<MemberId>,
    epoch: Epoch,
) -> Option<PeerLost> {
    let why = if lost_host == Some(id) {
        "it hosted the coordinator, and its process ended or was cut off"
    } else {
        "it did not come to the new coordinator, or had gone before"
    };
    view.lost(id, why, Duration::ZERO, epoch)
}

/// How many members there are, of how many that could be.
pub(super) struct Count {
    pub(super) here: usize,
    pub(super) of: usize,
    /// The member whose side wins where both have half.
    tie_break: bool,
}

impl Count {
    /// Of the counts of several views the one that decides: some members may know of none but the first of these
    /// views, so each has to have its quorum.
    fn least(counts: impl Iterator<Item = Count>) -> Count {
        let mut least = Count { here: 0, of: 0, tie_break: false };
        for count in counts {
            least = count;
            if !least.has_quorum() {
                break;
            }
        }
        least
    }

    /// `base` in the order of ranks.
    fn new(base: &[MemberId], here: &BTreeSet<MemberId>, host: Option<MemberId>) -> Count {
        let tie = base.iter().find(|&&id| Some(id) != host);
        Count {
            here: base.iter().filter(|id| here.contains(id)).count(),
            of: base.len(),
            tie_break: tie.is_some_and(|id| here.contains(id)),
        }
    }

    pub(super) fn has_quorum(&self) -> bool {
        let tie_break = self.tie_break || planted::has(Bug::HalvesNeedNoTieBreak);
        2 * self.here > self.of
            || 2 * self.here == self.of && tie_break
            || planted::has(Bug::QuorumsAreNotNeeded)
    }
}

impl Gathered {
    /// The first wish of a member stands.
    pub(super) fn wish(&mut self, id: MemberId, wishes: Wishes) {
        if !self.wishes.iter().any(|(known, _)| *known == id) {
            self.wishes.push((id, wishes));
        }
    }

    /// Why the job is to end, if it is.
    pub(super) fn first_verdict(&self) -> Option<Verdict> {
        self.wishes.iter().find_map(|(_, wishes)| wishes.ending.clone())
    }

    /// Links of a member to these have ended just now.
    fn suspect(&mut self, accuser: MemberId, members: &[MemberId]) {
        let Some(rejoin) = self.rejoined.get(&accuser) else { return };
        let views = [Some(&rejoin.view), rejoin.armed.as_ref()];
        let known = |id: &MemberId| views.into_iter().flatten().find_map(|view| view.member(*id));
        self.suspected.extend(members.iter().filter_map(known).map(|info| (info.peer, None)));
        if planted::has(Bug::LinksThatEndProveDeaths) {
            self.dead.extend(members.iter().filter_map(known).map(|info| info.peer));
        }
    }

    /// Who is to be asked for now. One that is just ending may have to be asked for again.
    fn probes(&mut self, now: Instant, every: Duration) -> Vec<MemberInfo> {
        let is_due = |asked: &Option<Instant>| asked.is_none_or(|asked| now.since(asked) >= every);
        let due = self.suspected.iter().filter(|(peer, asked)| is_due(asked) && !self.dead.contains(peer));
        let here: BTreeSet<PeerId> = self.rejoined.values().map(|r| r.peer).collect();
        let due: BTreeSet<PeerId> = due.map(|(peer, _)| *peer).filter(|peer| !here.contains(peer)).collect();
        if due.is_empty() {
            return Vec::new();
        }
        self.suspected.extend(due.iter().map(|&peer| (peer, Some(now))));
        let views = self.rejoined.values().flat_map(|r| [Some(&r.view), r.armed.as_ref()]).flatten();
        let infos = views.flat_map(|view| &view.members).filter(|info| due.contains(&info.peer));
        infos.map(|info| (info.peer, info.clone())).collect::<BTreeMap<_, _>>().into_values().collect()
    }

    /// The views that are in effect somewhere or armed, for those of their members who have not left for certain.
    /// Some who are not here may know of none but the first.
    fn bases(&self) -> Vec<Vec<&MemberInfo>> {
        let views = self.current().flat_map(|(_, r)| [Some(&r.view), r.armed.as_ref()]).flatten();
        let views: BTreeMap<Epoch, &View> = views.map(|view| (view.epoch, view)).collect();
        let is_settled = |info: &&MemberInfo| {
            let id = &info.id;
            let knows = |(_, r): (_, &Rejoin)| r.gone.contains(id) && !r.unsettled.contains(id);
            let is_dead = self.dead.contains(&info.peer) && planted::has(Bug::TheDeadDoNotCount);
            self.left.contains_key(id) || self.current().any(knows) || is_dead
        };
        views.values().map(|view| view.members.iter().filter(|info| !is_settled(info)).collect()).collect()
    }

    /// Those who have come and are not long past, also if they have left since.
    fn current(&self) -> impl Iterator<Item = (MemberId, &Rejoin)> {
        let all = self.rejoined.iter().chain(&self.left);
        let newest = newest(all.clone().map(|(_, r)| r));
        let is_current = move |r: &Rejoin| newest.is_some_and(|newest| is_current(r, newest));
        all.filter(move |(_, r)| is_current(r)).map(|(id, r)| (*id, r))
    }

    /// Who may live elsewhere, and go on there.
    fn missing(&self) -> BTreeSet<MemberId> {
        let is_missing = |info: &&MemberInfo| {
            !self.dead.contains(&info.peer) && self.rejoined.get(&info.id).is_none_or(|r| r.peer != info.peer)
        };
        self.bases().into_iter().flatten().filter(is_missing).map(|info| info.id).collect()
    }

    /// Who is here, and can stay, of all who count. The dead do: they may have gone on with some of those who are
    /// missing before they died.
    fn count(&self) -> Count {
        let gone: BTreeSet<MemberId> = self.current().flat_map(|(_, r)| &r.gone).copied().collect();
        let stays = |id: &MemberId| self.rejoined.contains_key(id) && !gone.contains(id);
        let here: BTreeSet<MemberId> = self.current().map(|(id, _)| id).filter(stays).collect();
        let host = self.current().max_by_key(|(_, r)| (r.epoch, r.view.generation));
        let host = host.and_then(|(_, r)| r.view.host);
        let ids = |base: Vec<&MemberInfo>| base.into_iter().map(|info| info.id).collect::<Vec<_>>();
        Count::least(self.bases().into_iter().map(|base| Count::new(&ids(base), &here, host)))
    }

    fn is_complete(&self) -> bool {
        self.missing().is_empty()
    }

    /// Also where all others are dead, if some who are here were with them until then. Another coordinator takes longer to give up
    /// who does not come to it than the death of the others may take to be seen here; one that runs alone has no rival.
    fn has_quorum(&self) -> bool {
        let count = self.count();
        let was_with_them = || self.current().any(|(_, r)| !r.cut_off);
        let has_rivals = || self.current().any(|(_, r)| r.view.is_hosted());
        let is_late = |info: &MemberInfo| self.late.contains(&info.peer);
        let died_in_time = || !has_rivals() || !self.bases().into_iter().flatten().any(is_late);
        count.has_quorum() || count.here > 0 && self.is_complete() && was_with_them() && died_in_time()
    }
}
