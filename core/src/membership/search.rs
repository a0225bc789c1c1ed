//! A member that has lost its coordinator looks for another.
//!
//! One that a process of the job hosted is succeeded by the lowest rank that lives: that one starts a coordinator, the others
//! go there. One that ran alone is asked for again at its address. Whoever is not there yet (it may not have
//! noticed) is asked again, whoever cannot be reached is passed over.

use super::{MemberInfo, Rejoin};
use crate::{Instant, MemberId, PeerId};
use std::collections::BTreeSet;
use std::time::Duration;

/// Pause before one who is not the coordinator yet is asked again.
const PAUSE: Duration = Duration::from_millis(5);
/// A process that ends closes its connections and what it listens on within so long of each other.
const ENDING: Duration = Duration::from_millis(100);
/// A member that cannot be reached at all for so many times as long as one may be silent is passed over.
const PATIENCE: u32 = 2;
/// So many times as long as a member may be silent is looked for another host. One that ran alone is waited for
/// as long as it takes: operations need it only after a loss.
const LIMIT: u32 = 15;
/// Pause before one that ran alone is asked for again.
const LONG_PAUSE: Duration = Duration::from_millis(100);

/// What to do next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Ask where the coordinator ran alone.
    AskAgain(Box<Rejoin>),
    /// Ask this member.
    Ask(MemberInfo, Box<Rejoin>),
    /// Host the coordinator from now on, unless this process does already, and ask there.
    Host(MemberInfo, Box<Rejoin>),
    /// There is nobody left to ask.
    GiveUp,
}

/// Why one who was asked has not taken the member in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Absence {
    /// It lives, but is no coordinator.
    NotYet,
    /// Nobody listens there: its process has ended.
    Ended,
    /// The job has failed there, and the process lives on: it will be no coordinator, but that proves nothing.
    Failed,
    /// It does not answer.
    Silent,
}

/// Whom to ask, from the loss of one coordinator until the next is found.
#[derive(Clone, Debug)]
pub struct Search {
    me: PeerId,
    /// The coordinator before may live: it only said nothing any more, or ended nothing but the connection. Then it may have given
    /// this member up.
    may_live: bool,
    /// It is not known whether its process has ended with the connection: it is asked first, and says so if it goes on without
    /// this member.
    unseen: bool,
    suspect_after: Duration,
    since: Instant,
    asked: Option<MemberId>,
    /// Who has ended for certain. Of one that does not answer others may go on.
    dead: BTreeSet<MemberId>,
    passed_over: BTreeSet<MemberId>,
    /// Of these, one only did not answer: the others may go on with it.
    passed_the_silent: bool,
    /// Who does not answer, since when.
    unanswered: Option<(MemberId, Instant)>,
}

impl Search {
    /// Begins when the coordinator was lost. `silent`: that one may live.
    pub fn new(me: PeerId, silent: bool, suspect_after: Duration, now: Instant) -> Search {
        Search {
            me,
            may_live: silent,
            unseen: !silent,
            suspect_after,
            since: now,
            asked: None,
            dead: BTreeSet::new(),
            passed_over: BTreeSet::new(),
            passed_the_silent: false,
            unanswered: None,
        }
    }

    /// Whom to ask, as the member stands now ([`super::Follower::rejoin`], [`super::Follower::heirs`]).
    pub fn next(&mut self, mut rejoin: Rejoin, heirs: Vec<MemberInfo>, now: Instant) -> Step {
        let host = rejoin.view.host_info().filter(|_| self.unseen);
        if let Some(host) = host.cloned() {
            self.asked = Some(host.id);
            return Step::Ask(host, Box::new(rejoin));
        }
        if !self.may_live {
            rejoin.dead.extend(rejoin.view.host);
        }
        rejoin.dead.extend(&self.dead);
        if !rejoin.view.is_hosted() {
            self.asked = None;
            return Step::AskAgain(Box::new(rejoin));
        }
        let limit = self.suspect_after * (LIMIT + (PATIENCE + 1) * heirs.len() as u32);
        let heir = heirs.into_iter().find(|m| !self.passed_over.contains(&m.id));
        let Some(heir) = heir.filter(|_| now.since(self.since) < limit) else { return Step::GiveUp };
        self.asked = Some(heir.id);
        match heir.peer == self.me {
            true => Step::Host(heir, Box::new(rejoin)),
            false => Step::Ask(heir, Box::new(rejoin)),
        }
    }

    /// Whether the coordinator before may live, and have given this member up, or another may have taken its place that cannot be
    /// reached: then this one is cut off ([`super::Follower::hears_nothing`]).
    pub fn is_cut_off(&self) -> bool {
        self.may_live || self.passed_the_silent
    }

    /// Who was asked last is not the coordinator. Gives the pause before the next step.
    pub fn not_found(&mut self, absence: Absence, now: Instant) -> Duration {
        let Some(asked) = self.asked else { return LONG_PAUSE };
        if self.unseen {
            // A process that is just ending may take connections for a moment.
            let is_ending = absence == Absence::NotYet && now.since(self.since) < ENDING;
            self.unseen = is_ending;
            self.may_live = !is_ending && absence != Absence::Ended;
            return PAUSE;
        }
        match absence {
            Absence::NotYet => self.unanswered = None,
            Absence::Failed => {
                self.passed_over.insert(asked);
            }
            Absence::Ended => {
                self.dead.insert(asked);
                self.passed_over.insert(asked);
            }
            Absence::Silent => {
                let since = self.unanswered.filter(|(id, _)| *id == asked).map_or(now, |(_, since)| since);
                self.unanswered = Some((asked, since));
                if now.since(since) > self.suspect_after * PATIENCE {
                    self.passed_over.insert(asked);
                    self.passed_the_silent = true;
                }
            }
        }
        PAUSE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::{Follower, MachineId, View};

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: u64) -> Instant {
        Instant(0).after(SECOND * seconds as u32)
    }

    fn peer(id: u32) -> PeerId {
        PeerId([id as u8; 16])
    }

    /// Member 2 of four; the first hosts the coordinator, unless that runs alone.
    fn follower(host: Option<u32>) -> Follower {
        let info = |id| MemberInfo {
            peer: peer(id),
            id: MemberId(id),
            host: String::new(),
            addresses: vec![],
            machine: MachineId::default(),
            user: 0,
            pid: 0,
            transports: vec![],
            costs: String::new(),
        };
        let members = (0..4).map(info).collect();
        Follower::new(View { members, host: host.map(MemberId), ..View::default() })
    }

    /// For a coordinator that is silent, or whose process has ended.
    fn search(silent: bool) -> Search {
        Search::new(peer(2), silent, SECOND, at(0))
    }

    /// The host is asked first where only the connection has ended.
    fn ask_host(search: &mut Search, member: &Follower, answers: &[(u64, Absence)]) {
        for &(ms, absence) in answers {
            let now = Instant(ms * 1_000_000);
            assert_eq!(next(search, member, now), Some((0, vec![], false)));
            search.not_found(absence, now);
        }
    }

    /// Who is asked, who is said to be dead, and whether this member is to host.
    fn next(search: &mut Search, member: &Follower, now: Instant) -> Option<(u32, Vec<u32>, bool)> {
        let dead = |rejoin: &Rejoin| rejoin.dead.iter().map(|id| id.0).collect();
        match search.next(member.rejoin(peer(2), Vec::new()), member.heirs(), now) {
            Step::Ask(heir, rejoin) => Some((heir.id.0, dead(&rejoin), false)),
            Step::Host(me, rejoin) => Some((me.id.0, dead(&rejoin), true)),
            Step::AskAgain(_) => panic!("a member hosted it"),
            Step::GiveUp => None,
        }
    }

    #[test]
    fn who_has_ended_is_dead_and_the_next_is_asked() {
        let (mut search, member) = (search(false), follower(Some(0)));
        ask_host(&mut search, &member, &[(0, Absence::NotYet), (99, Absence::Ended)]);
        assert!(!search.is_cut_off());
        assert_eq!(next(&mut search, &member, at(0)), Some((1, vec![0], false)));
        search.not_found(Absence::NotYet, at(0));
        assert_eq!(next(&mut search, &member, at(0)), Some((1, vec![0], false)), "it may not have noticed");
        search.not_found(Absence::Ended, at(0));
        assert_eq!(next(&mut search, &member, at(0)), Some((2, vec![0, 1], true)));
    }

    /// It has given this member up, or something between them has ended the connection.
    #[test]
    fn a_host_that_lives_is_not_dead() {
        let (mut search, member) = (search(false), follower(Some(0)));
        ask_host(
            &mut search,
            &member,
            &[(0, Absence::NotYet), (99, Absence::NotYet), (101, Absence::NotYet)],
        );
        assert!(search.is_cut_off());
        assert_eq!(next(&mut search, &member, at(0)), Some((1, vec![], false)));
        search.not_found(Absence::Ended, at(0));
        assert_eq!(next(&mut search, &member, at(0)), Some((2, vec![1], true)));
    }

    /// Its own connection to the coordinator that it hosts ended: it asks there again, and starts no other.
    #[test]
    fn a_host_asks_itself_again() {
        let (mut search, mut member) = (search(false), follower(Some(0)));
        member.hosted_by(Some(MemberId(2)));
        assert_eq!(next(&mut search, &member, at(0)), Some((2, vec![], false)));
    }

    #[test]
    fn who_does_not_answer_is_passed_over_but_not_dead() {
        let (mut search, member) = (search(true), follower(Some(0)));
        for second in 1..=4 {
            assert_eq!(next(&mut search, &member, at(second)), Some((1, vec![], false)));
            search.not_found(Absence::Silent, at(second));
        }
        assert_eq!(next(&mut search, &member, at(4)), Some((2, vec![], true)));
    }

    /// The others may go on with the one that does not answer here.
    #[test]
    fn who_passes_the_silent_over_is_cut_off() {
        for (absence, is_cut_off) in
            [(Absence::Silent, true), (Absence::Ended, false), (Absence::Failed, false)]
        {
            let (mut search, member) = (search(false), follower(Some(0)));
            ask_host(&mut search, &member, &[(0, Absence::Ended)]);
            for second in 1..=4 {
                next(&mut search, &member, at(second));
                search.not_found(absence, at(second));
            }
            assert_eq!(search.is_cut_off(), is_cut_off, "{absence:?}");
        }
    }

    #[test]
    fn in_whom_the_job_has_failed_is_passed_over_at_once_but_not_dead() {
        let (mut search, member) = (search(true), follower(Some(0)));
        assert_eq!(next(&mut search, &member, at(0)), Some((1, vec![], false)));
        search.not_found(Absence::Failed, at(0));
        assert_eq!(next(&mut search, &member, at(0)), Some((2, vec![], true)));
    }

    #[test]
    fn who_answers_now_and_then_is_not_passed_over() {
        let (mut search, member) = (search(true), follower(Some(0)));
        for second in 1..=10 {
            assert_eq!(next(&mut search, &member, at(second)), Some((1, vec![], false)));
            let absence = if second % 3 == 0 { Absence::NotYet } else { Absence::Silent };
            search.not_found(absence, at(second));
        }
    }

    #[test]
    fn the_search_for_a_host_ends() {
        let (mut search, mut member) = (search(true), follower(Some(0)));
        member.has_left(MemberId(1));
        member.has_left(MemberId(3));
        assert_eq!(next(&mut search, &member, at(17)), Some((2, vec![], true)));
        assert_eq!(next(&mut search, &member, at(18)), None, "one heir is worth three seconds more");
    }

    #[test]
    fn one_that_ran_alone_is_waited_for_without_limit() {
        let (mut search, member) = (search(false), follower(None));
        for second in [0, 1000] {
            let step = search.next(member.rejoin(peer(2), Vec::new()), member.heirs(), at(second));
            assert!(matches!(step, Step::AskAgain(rejoin) if rejoin.dead.is_empty()));
            assert_eq!(search.not_found(Absence::Ended, at(second)), LONG_PAUSE);
        }
    }
}
