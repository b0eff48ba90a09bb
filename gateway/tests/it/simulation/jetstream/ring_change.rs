//! A sub-cluster takes its share over, or gives it back, while clients publish, gateways crash and freeze,
//! links and servers fail; and whoever changes the ring may die at any step.

use super::super::{run_all, seeds};
use super::nats_server::StoredMessage;
use super::world::{World, ring, ring_that_was_set, set_ring};
use super::{STEPS, STORM};
use crate::simulation::world::Broken;
use gateway::proto::bridge::ring::Ring;
use gateway::proto::bridge::ring_change::Change;
use gateway::proto::bridge::ring_table::RingTable;
use gateway::proto::bridge::topic_subject::TopicPrefix;
use gateway::proto::partition::{PartitionId, Sequence};
use gateway::upstream::jetstream::control::ControlNews;
use std::sync::Arc;

/// Of the ring with a third member.
const EPOCH_OF_THREE: u64 = 2;

/// Of each kind of change; one takes 4 s where code is not optimised, ten times as long as where it is.
const SEEDS_DEFAULT: u64 = 6;

/// What is to be changed, one after the other: whose weight, and what it is to be.
pub(super) type Plan = &'static [(u16, u16)];

/// The member that has nothing at first takes its share over.
const ADD: Plan = &[(2, 1)];
/// And what may follow: it gives it back, has it again, or another one gives its own, with and without it.
const THERE_AND_BACK: [Plan; 5] = [
    &[(2, 1), (2, 0)],
    &[(2, 1), (2, 0), (2, 1), (2, 0)],
    &[(2, 1), (1, 0), (2, 0), (1, 1)],
    &[(1, 0)],
    &[(1, 0), (1, 1), (1, 0)],
];
/// Where sessions are shared, those that were there at first keep some.
const THERE_AND_BACK_SHARED: [Plan; 2] = [&[(2, 1), (2, 0)], &[(2, 1), (2, 0), (2, 1), (2, 0)]];

/// Who changes the ring: what it has come to is in the ring, but for what it has seen itself.
#[derive(Debug)]
pub(super) struct Coordinator {
    pub(super) plan: Plan,
    /// It died while a change was under way.
    is_dead: bool,
    /// How often a change was called off, and how often when its ends were known.
    called_off: u64,
    called_off_late: u64,
}

impl Default for Coordinator {
    fn default() -> Self {
        Self { plan: ADD, is_dead: false, called_off: 0, called_off_late: 0 }
    }
}

impl World {
    /// A gateway hears which ring is in force.
    pub(super) fn tell_ring(&mut self, gateway: usize) {
        if self.is_frozen(gateway) || self.cut_off == Some(gateway) {
            return;
        }
        if let Some((table, ring)) = ring_that_was_set() {
            self.node(gateway).tell(ControlNews::Ring(Arc::new(table), ring));
        }
    }

    fn write_ring(&mut self, table: &RingTable, what: &str) {
        self.note(format!("ring of epoch {}: {what}", table.epoch()));
        set_ring(Some(table));
    }

    pub(super) fn is_void(&self, server: usize, at: u64, subject: &[u8]) -> bool {
        let Some((_, ring)) = ring_that_was_set() else { return false };
        let partition = PartitionId(u16::try_from(server).unwrap());
        let topic = topic_of(subject);
        topic.is_some_and(|topic| ring.is_void(&topic, partition, Sequence(at)))
    }

    /// Where a message is in order among those of its topic.
    pub(super) fn order(&self, server: usize, at: u64, subject: &[u8]) -> (usize, u64) {
        let Some((_, ring)) = ring_that_was_set() else { return (server, at) };
        let partition = PartitionId(u16::try_from(server).unwrap());
        let topic = topic_of(subject).unwrap_or_default();
        let (changes, sequence) = ring.order(&topic, (partition, Sequence(at)));
        (changes, sequence.0)
    }

    /// What is to be done next.
    fn next_change(&self) -> Option<Change> {
        let table = ring();
        if self.servers.len() < 3 {
            return None;
        }
        let (partition, weight) = *self.coordinator.plan.get(table.takeovers().len())?;
        Some(Change { partition: PartitionId(partition), weight, hold_s: 30 })
    }

    fn all_have_seen(&self, epoch: u64) -> bool {
        self.gateways.iter().all(|node| {
            let node = node.as_ref().expect("it is only gone while it crashes");
            node.shard(0).jetstream().expect("it has links").ring_report().seen() >= epoch
        })
    }

    /// Whoever changes the ring goes one step further, or dies.
    pub(super) fn coordinate(&mut self, may_die: bool) {
        let table = ring();
        if table.members().len() < self.servers.len() {
            let joined = table.joined(["c2"].into_iter()).unwrap().unwrap();
            self.write_ring(&joined, "a member has come");
            return;
        }
        if !self.all_have_seen(EPOCH_OF_THREE) {
            return;
        }
        let Some(change) = self.next_change() else { return };
        // The last step is soon made.
        let one_in = if table.coming().is_some() { 6 } else { 32 };
        if may_die && self.random.below(one_in) == 0 && table.change().is_some() {
            self.coordinator.is_dead = true;
        }
        if self.coordinator.is_dead {
            // Its time is over: a gateway calls off what it has begun, and it is begun anew.
            self.coordinator.is_dead = false;
            self.coordinator.called_off += 1;
            self.coordinator.called_off_late += u64::from(table.coming().is_some());
            self.write_ring(&table.called_off(), "called off");
            return;
        }
        if table.change().is_none() {
            let changing = table.changing(change).unwrap();
            let ring = Ring::new(&changing);
            if self.has_all_servers() {
                self.clear_stale(&ring);
                self.copy_retained(&ring);
                self.write_ring(&changing, "the share is held");
            }
            return;
        }
        let has_drained = |world: &Self, gateway: usize| {
            let node = world.gateways[gateway].as_ref().expect("it is only gone while it crashes");
            let report = node.shard(0).jetstream().expect("it has links").ring_report();
            report.drained() == table.epoch()
        };
        if !(0..self.gateways.len()).all(|gateway| has_drained(self, gateway)) {
            return;
        }
        if table.coming().is_some() {
            self.write_ring(&table.taken_over().unwrap(), "taken over");
        } else if self.has_all_servers() {
            self.copy_retained(&ring_that_was_set().expect("it changes").1);
            let end = |of: PartitionId| {
                let model = &self.servers[usize::from(of.0)].model;
                Some(Sequence(model.messages.last + 1))
            };
            self.write_ring(&table.cut(end).unwrap(), "its ends are known");
        }
    }

    fn has_all_servers(&self) -> bool {
        let is_there = |server: &super::world::Server| {
            server.is_up && !server.is_unreachable && server.model.has_streams
        };
        self.servers.iter().all(is_there)
    }

    /// What is retained where topics are about to come is of before.
    fn clear_stale(&mut self, changing: &Ring) {
        for taker in changing.takers() {
            let server = usize::from(taker.0);
            let kept = &self.servers[server].model.retained.kept;
            let is_stale = |message: &StoredMessage| {
                let topic = retained_topic(server, message);
                let is_copy = memchr::memmem::find(&message.headers, b"Gateway-From:").is_some();
                let is_there = !message.payload.is_empty() || !is_copy;
                (changing.coming_owner(&topic) == Some(*taker) && is_there)
                    .then(|| changing.owner(&topic))
            };
            let stale = kept.iter().filter_map(|(at, one)| Some((*at, is_stale(one)?)));
            for (at, giver) in stale.collect::<Vec<_>>() {
                self.servers[server].model.retained.clear(at, &format!("{}.0", giver.0));
            }
        }
    }

    /// Copies what is retained of what moves.
    fn copy_retained(&mut self, changing: &Ring) {
        for giver in 0..self.servers.len() {
            let kept = self.servers[giver].model.retained.kept.values().cloned();
            for message in kept.collect::<Vec<_>>() {
                let topic = retained_topic(giver, &message);
                let Some(taker) = changing.coming_owner(&topic) else { continue };
                if usize::from(changing.owner(&topic).0) != giver {
                    continue;
                }
                let place = place_of_retained(giver, &message);
                let from = format!("{}.{}", place.0.0, place.1.0);
                let to = format!("retained.{}.mqtt.{}", taker.0, topic.replace('/', "."));
                let order = |place| changing.order(&topic, place);
                let is_earlier = |there: &StoredMessage| {
                    there.header("Gateway-From").is_some()
                        && order(place_of_retained(usize::from(taker.0), there)) < order(place)
                };
                let target = &mut self.servers[usize::from(taker.0)].model.retained;
                target.copy(to.as_bytes(), &from, &message, is_earlier);
            }
        }
    }

    /// All that was to be changed is.
    pub(super) fn finish_change(&mut self) -> Result<(), Broken> {
        for _ in 0..240 {
            if self.next_change().is_none() {
                return Ok(());
            }
            self.coordinate(false);
            self.calm_second()?;
        }
        Err(self.broken("the share is never taken over"))
    }
}

fn topic_of(subject: &[u8]) -> Option<String> {
    let mut topic = Vec::new();
    TopicPrefix::new("mqtt").unwrap().topic(subject, &mut topic).map(str::to_owned).ok()
}

/// The topic of a retained message.
fn retained_topic(server: usize, message: &StoredMessage) -> String {
    let subject = std::str::from_utf8(&message.subject).unwrap();
    subject.strip_prefix(&format!("retained.{server}.mqtt.")).unwrap().replace('.', "/")
}

/// Where it was stored, itself a copy or not.
fn place_of_retained(server: usize, message: &StoredMessage) -> (PartitionId, Sequence) {
    let text = |name| Some(std::str::from_utf8(message.header(name)?).unwrap());
    let from = text("Gateway-From").and_then(|from| from.split_once('.'));
    let (server, sequence) = match from {
        Some((server, sequence)) => (server.parse().unwrap(), sequence),
        None => (u16::try_from(server).unwrap(), text("Gateway-Sequence").unwrap()),
    };
    (PartitionId(server), Sequence(sequence.parse().unwrap()))
}

/// What starts from now on finds two members, and a third without topics.
pub(super) fn begin_with_three_members() {
    set_ring(Some(&two().joined(["c2"].into_iter()).unwrap().unwrap()));
}

fn two() -> RingTable {
    RingTable::new(EPOCH_OF_THREE - 1, super::world::two_members()).unwrap()
}

/// What starts from now on finds the ring that everything begins with.
pub(super) fn end() {
    set_ring(None);
}

fn run(seed: u64, has_sessions: bool, plan: Plan, seen: &mut Seen) -> Result<usize, Broken> {
    // The third is a member from the start, or it comes while everything runs.
    let comes_late = seed % 3 == 2;
    if comes_late {
        set_ring(Some(&two()))
    } else {
        begin_with_three_members()
    }
    let gateways = usize::try_from(1 + seed % 2).unwrap();
    let mut world = World::with(if has_sessions { 2 } else { gateways }, seed, has_sessions);
    if comes_late {
        world.add_server();
    }
    world.coordinator.plan = plan;
    world.populate(3, 4);
    for step in 0..STEPS {
        world.step(STORM)?;
        if step > STEPS / 5 && world.random.below(4) == 0 {
            world.coordinate(true);
        }
        if world.random.below(6) == 0 {
            let gateway = world.random.below(world.gateways.len() as u64);
            world.tell_ring(usize::try_from(gateway).unwrap());
        }
        if world.gateways.len() > 1 && world.random.below(100) == 0 {
            if world.has_frozen() { world.thaw() } else { world.freeze(1) }
        }
    }
    seen.in_storm += usize::from(!ring().takeovers().is_empty());
    seen.more_in_storm += usize::from(ring().takeovers().len() > 1);
    seen.called_off += world.coordinator.called_off;
    seen.called_off_late += world.coordinator.called_off_late;
    world.calm_down()?;
    if !has_sessions {
        world.check_retained()?;
    }
    let mut all = world.servers.iter().enumerate().flat_map(|(server, one)| {
        one.model.messages.kept.iter().map(move |(at, one)| (server, *at, one.subject.clone()))
    });
    let has_moved = all.any(|(server, at, subject)| world.order(server, at, &subject).0 > 1);
    seen.moved += usize::from(has_moved);
    world.check_rest()?;
    world.leave()?;
    Ok(world.ledger.acknowledged_count())
}

#[derive(Default)]
struct Seen {
    /// Runs in which a share was taken over while things went wrong, and in which more than one was.
    in_storm: usize,
    more_in_storm: usize,
    /// Changes called off, and those of them whose ends were known.
    called_off: u64,
    called_off_late: u64,
    /// Runs in which somebody published to what had moved.
    moved: usize,
}

fn run_seeds(has_sessions: bool, plans: &[Plan]) {
    let seeds = seeds(SEEDS_DEFAULT);
    let count = seeds.clone().count();
    let mut seen = Seen::default();
    let acknowledged = run_all(seeds, |seed| {
        // The number of gateways follows from the seed, too.
        let plan = plans[usize::try_from(seed / 2).unwrap() % plans.len()];
        run(seed, has_sessions, plan, &mut seen)
    });
    end();
    assert!(
        count <= 20 || acknowledged > count * 10,
        "only {acknowledged} messages in {count} runs"
    );
    if count > 20 {
        let Seen { in_storm, more_in_storm, called_off, called_off_late, moved } = seen;
        let of_one = plans.iter().filter(|plan| plan.len() == 1).count();
        let of_more = count * (plans.len() - of_one) / plans.len();
        assert!(in_storm > count / 5, "only {in_storm} of {count} took over in a storm");
        assert!(more_in_storm >= of_more / 16, "only {more_in_storm} of {of_more} more than once");
        assert!(called_off > count as u64 / 4, "only {called_off} called off in {count}");
        assert!(called_off_late > count as u64 / 16, "only {called_off_late} with ends in {count}");
        assert!(moved > count / 2, "only {moved} of {count} published to what had moved");
    }
}

#[test]
fn a_share_is_taken_over_in_any_weather() {
    run_seeds(false, &[ADD]);
}

/// The same while clients go from gateway to gateway, and their sessions stay where they are.
#[test]
fn a_share_is_taken_over_while_sessions_are_shared() {
    run_seeds(true, &[ADD]);
}

#[test]
fn a_share_goes_back_in_any_weather() {
    run_seeds(false, &THERE_AND_BACK);
}

#[test]
fn a_share_goes_back_while_sessions_are_shared() {
    run_seeds(true, &THERE_AND_BACK_SHARED);
}
