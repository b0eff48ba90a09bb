//! Who changes the ring, and a gateway, are killed at each step of a change: alone, and together.

use super::party::{Party, parameter};
use super::ring_site::{RingSite, TAKER, check_retained, join_in, of_giver_in, retain, topics};
use super::ring_steps::{Halt, Step, Stepping};
use super::site::NAMES;
use crate::simulation::random::Random;
use gateway::proto::mqtt::QoS;
use gateway::proto::partition::PartitionId;
use rustix::process::Signal;
use std::collections::BTreeSet;

/// When somebody is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    At(Step),
    /// The change is written, gateways hold what moves, and cannot drain: one that gives stands still.
    Holding,
    /// The takeover is written, and gateways have let go what they held.
    LetGo,
}

const MOMENTS: [Moment; 14] = [
    Moment::At(Step::Planned),
    Moment::At(Step::Copying),
    Moment::At(Step::Copied),
    Moment::At(Step::Written),
    Moment::Holding,
    Moment::At(Step::Drained),
    Moment::At(Step::EndsKnown),
    Moment::At(Step::CopiedAgain),
    Moment::At(Step::MakingGroups),
    Moment::At(Step::GroupsMade),
    Moment::At(Step::EndsWritten),
    Moment::At(Step::GatesClosed),
    Moment::At(Step::TakenOver),
    Moment::LetGo,
];

impl Moment {
    fn step(self) -> Step {
        match self {
            Self::At(step) => step,
            Self::Holding => Step::Written,
            Self::LetGo => Step::TakenOver,
        }
    }

    /// A change is under way.
    fn is_within(self) -> bool {
        (Step::Written..Step::TakenOver).contains(&self.step())
    }
}

/// Who is killed, and what is done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    /// Who changes the ring; it is begun again at once.
    Coordinator,
    /// The same; gateways call the change off by themselves before it is begun again.
    CoordinatorForLong,
    /// A gateway, which comes back before the next step.
    Gateway,
    /// The same behind it.
    GatewayForLong,
    /// A gateway that is said to be dead, and comes back when all is done.
    GatewayForgotten,
    Both,
}

const VICTIMS: [Victim; 6] = [
    Victim::Coordinator,
    Victim::CoordinatorForLong,
    Victim::Gateway,
    Victim::GatewayForLong,
    Victim::GatewayForgotten,
    Victim::Both,
];

impl Victim {
    fn has_coordinator(self) -> bool {
        matches!(self, Self::Coordinator | Self::CoordinatorForLong | Self::Both)
    }

    fn has_gateway(self) -> bool {
        !matches!(self, Self::Coordinator | Self::CoordinatorForLong)
    }
}

/// One of those that give topics when the fourth gets some.
const GIVER: PartitionId = PartitionId(1);
/// Topics of each kind: those that move, and those that stay.
const TOPICS: usize = 6;
/// Retained ones have one publisher each.
const RETAINED_TOPICS: usize = 4;
/// A share is held for so many seconds at most, where gateways are to call the change off.
const HOLD_S: u64 = 6;
/// The same where nobody waits for that.
const LONG_HOLD_S: u64 = 60;
/// Kills of a run that nobody asked to be longer: each is of one there and one back.
const KILLS_DEFAULT: usize = 1;
/// Kills at one site: a table remembers 32 takeovers, and each kill is of one there and one back.
const PER_SITE: usize = 14;
/// A change may be called off before it comes to where it is to be stopped, on busy cores.
const ATTEMPTS: usize = 5;

struct Scene {
    site: RingSite,
    party: Party,
    moves: Vec<&'static str>,
    stays: Vec<&'static str>,
    /// The only member of a group, which is away while the ring changes.
    member: usize,
    /// Publishers of retained messages whose topics move, which rest until somebody is killed.
    resting: [usize; 2],
}

impl Scene {
    fn start(sessions: &str) -> Self {
        let site = RingSite::start();
        let mut party = Party::new(site.nodes_with_short_leases(sessions).into());
        if sessions == "shared" {
            party.roam();
        }
        let (moves, stays) = topics("t/", TOPICS);
        join_in(&mut party, &moves, &stays);
        let (retained_moves, retained_stays) = topics("r/", RETAINED_TOPICS);
        let first = party.peer_count();
        retain(&mut party, &retained_moves, &retained_stays);
        let member = party.peer_count();
        party.subscriber(0, &[("$share/g/t/#", QoS::ExactlyOnce)]);
        party.all_subscribed();
        // One with each QoS.
        Self { site, party, moves, stays, member, resting: [first, first + 2] }
    }

    /// Kills somebody at a moment of a change, which is completed all the same.
    fn kill(&mut self, command: &str, moment: Moment, victim: Victim) {
        let what = format!("ring {command}: {victim:?} killed: {moment:?}");
        eprintln!("{what}");
        let before = self.site.ring();
        self.party.send_away(self.member);
        self.rest();
        self.go_on("before");
        let hold_s = if victim == Victim::CoordinatorForLong { HOLD_S } else { LONG_HOLD_S };
        let (changing, halt) = self.until(command, moment, hold_s);
        self.strike(changing, halt, moment, victim);
        self.resting.iter().for_each(|peer| self.party.set_resting(*peer, false));
        self.site.change_at_last(&mut self.party, command);

        let ring = self.site.ring();
        assert_eq!(ring.takeovers().len(), before.takeovers().len() + 1, "{what}");
        let has_share = ring.weight_of(TAKER) > Some(0);
        assert_eq!((has_share, ring.change()), (command == "add", None), "{what}");
        self.go_on("changed");
        self.party.call_back();
        self.party.all_arrived();
        let (moves, stays) = topics("r/", RETAINED_TOPICS);
        check_retained(&self.party, &[moves, stays].concat());
    }

    /// Some of what is retained does not change for now: before the change is written it is copied up to where
    /// streams ended when they were looked at. What is published all the time may each time be behind that, and
    /// is copied only when it is held.
    fn rest(&mut self) {
        let Self { party, resting, .. } = self;
        let (moves, _) = topics("r/", RETAINED_TOPICS);
        let of_resting = [[moves[0]], [moves[2]]];
        party.go_on("something is retained", true, |party| {
            of_resting.iter().all(|topic| party.ledger.acknowledged_on(topic) > 0)
        });
        resting.iter().for_each(|peer| party.set_resting(*peer, true));
        party.go_on("some rest", true, |party| resting.iter().all(|peer| party.is_idle(*peer)));
    }

    /// Begins a change, and stops it at a moment.
    fn until(&mut self, command: &str, moment: Moment, hold_s: u64) -> (Stepping, Halt) {
        let Self { site, party, moves, .. } = self;
        for _ in 0..ATTEMPTS {
            let mut changing = site.step_through(command, hold_s);
            if moment == Moment::Holding {
                let Some(halt) = changing.halt_at(party, Step::Copied) else { continue };
                let giver = if command == "add" { GIVER } else { TAKER };
                site.signal(giver, Signal::STOP);
                let given = match giver {
                    TAKER => moves.clone(),
                    giver => of_giver_in(&NAMES, moves, giver),
                };
                let from = party.ledger.count();
                party.go_on("publishing to who stands still", true, |party| {
                    party.somebody_waits_for(&given, from)
                });
                halt.go_on();
            }
            let Some(halt) = changing.halt_at(party, moment.step()) else {
                site.signal(GIVER, Signal::CONT);
                site.signal(TAKER, Signal::CONT);
                continue;
            };
            assert_eq!(halt.step, moment.step());
            match moment {
                Moment::Holding | Moment::LetGo => {
                    party.go_on("gateways hear of it", true, |_| site.all_go_by_it());
                }
                Moment::At(Step::TakenOver) => {
                    party.go_on("it is written", true, |_| site.ring().change().is_none());
                }
                Moment::At(_) => {}
            }
            return (changing, halt);
        }
        panic!("ring {command} did not come to {moment:?}");
    }

    fn strike(&mut self, mut changing: Stepping, halt: Halt, moment: Moment, victim: Victim) {
        let Self { site, party, .. } = self;
        let node = usize::try_from(party.random.below(2)).unwrap();
        if victim.has_coordinator() {
            changing.command.kill();
        }
        if victim.has_gateway() {
            party.nodes[node].kill();
        }
        if moment == Moment::Holding {
            site.signal(GIVER, Signal::CONT);
            site.signal(TAKER, Signal::CONT);
        }
        match victim {
            Victim::Coordinator => drop(halt),
            Victim::CoordinatorForLong => {
                drop(halt);
                if moment.is_within() {
                    party.go_on("it is called off", true, |_| site.ring().change().is_none());
                }
            }
            Victim::Both => {
                drop(halt);
                party.nodes[node].start_again();
            }
            Victim::Gateway => {
                party.nodes[node].start_again();
                changing.let_go(halt);
            }
            Victim::GatewayForLong => {
                changing.let_go(halt);
                party.publish_until_acknowledged("with one gateway", 40);
                party.nodes[node].start_again();
            }
            Victim::GatewayForgotten => {
                let forgotten = site.command(&["ring", "forget", ["g1", "g2"][node]]).end();
                assert!(forgotten.0, "{}", forgotten.1);
                changing.let_go(halt);
            }
        }
        if !victim.has_coordinator() {
            let (went_well, said) = changing.end(party);
            // A request that is held here until a gateway is back may be given up before; the next command goes on.
            assert!(went_well || said.contains("timed out"), "{said}");
        }
        if victim == Victim::GatewayForgotten {
            party.nodes[node].start_again();
        }
    }

    /// Publishers go on, of what moves and of what stays.
    fn go_on(&mut self, what: &str) {
        let Self { party, moves, stays, .. } = self;
        let ends = [moves, stays].map(|topics| (party.ledger.acknowledged_on(topics) + 20, topics));
        party.go_on(what, true, |party| {
            ends.iter().all(|(end, topics)| party.ledger.acknowledged_on(topics) >= *end)
        });
    }
}

/// `RING_KILLS` says how many of all kinds with each kind of sessions; without it one is tried with one.
/// `SEED` says which, and `RING_FROM` how many are left out before them: with one seed, all can be tried in
/// several runs. `RING_SESSIONS` names the only kind of sessions.
#[test]
fn killed_at_each_moment_a_change_is_made_all_the_same() {
    let count = MOMENTS.len() * VICTIMS.len();
    let seed = parameter("SEED", u64::from(std::process::id()));
    let mut random = Random::new(seed);
    let first = usize::try_from(random.below(count as u64)).unwrap();
    let kills = usize::try_from(parameter("RING_KILLS", 0)).unwrap().min(count);
    let only = std::env::var("RING_SESSIONS").ok();
    let sessions = match (&only, kills) {
        (Some(only), _) => vec![only.as_str()],
        (None, 0) => vec![*random.pick(&["local", "shared"])],
        (None, _) => vec!["local", "shared"],
    };
    let kills = if kills == 0 { KILLS_DEFAULT } else { kills };
    let from = usize::try_from(parameter("RING_FROM", 0)).unwrap();
    let kinds = (from..from + kills).map(|kill| kind((first + kill * STRIDE) % count));
    let kinds: Vec<_> = kinds.collect();
    for (sessions, kinds) in sessions
        .iter()
        .flat_map(|sessions| kinds.chunks(PER_SITE).map(move |kinds| (sessions, kinds)))
    {
        eprintln!("sessions: {sessions}");
        let mut scene = Scene::start(sessions);
        for (moment, victim) in kinds {
            for command in ["add", "remove"] {
                scene.kill(command, *moment, *victim);
            }
        }
    }
}

/// Each moment with each victim.
fn kind(number: usize) -> (Moment, Victim) {
    let (round, moment) = (number / MOMENTS.len(), number % MOMENTS.len());
    (MOMENTS[moment], VICTIMS[(round + moment) % VICTIMS.len()])
}

/// So that those of one run differ in both.
const STRIDE: usize = 37;

#[test]
fn each_moment_is_tried_with_each_victim() {
    let count = MOMENTS.len() * VICTIMS.len();
    let kinds: BTreeSet<String> =
        (0..count).map(|number| format!("{:?}", kind(number * STRIDE % count))).collect();
    assert_eq!(kinds.len(), count);
}
