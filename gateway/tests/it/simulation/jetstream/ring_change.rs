//! A sub-cluster takes its share over while clients publish, gateways crash and freeze, links and servers
//! fail; and whoever changes the ring may die at any step.

use super::super::{run_all, seeds};
use super::world::{World, ring, ring_that_was_set, set_ring};
use super::{SEEDS_DEFAULT, STEPS, STORM};
use crate::simulation::world::Broken;
use gateway::proto::bridge::ring::Ring;
use gateway::proto::bridge::ring_change::Change;
use gateway::proto::bridge::ring_table::RingTable;
use gateway::proto::bridge::topic_subject::TopicPrefix;
use gateway::proto::partition::{PartitionId, Sequence};
use gateway::upstream::jetstream::control::ControlNews;
use std::sync::Arc;

const TAKER: PartitionId = PartitionId(2);

/// Who changes the ring: what it has come to is in the ring, but for what it has seen itself.
#[derive(Debug, Default)]
pub(super) struct Coordinator {
    /// It died while a change was under way.
    is_dead: bool,
    /// How often a change was called off.
    called_off: u64,
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
        let mut topic = Vec::new();
        let partition = PartitionId(u16::try_from(server).unwrap());
        let topic = TopicPrefix::new("mqtt").unwrap().topic(subject, &mut topic).map(str::to_owned);
        topic.is_ok_and(|topic| ring.is_void(&topic, partition, Sequence(at)))
    }

    /// Whoever changes the ring goes one step further, or dies.
    pub(super) fn coordinate(&mut self, may_die: bool) {
        let table = ring();
        if !table.takeovers().is_empty() || table.members().len() < 3 {
            return;
        }
        if may_die && self.random.below(8) == 0 && table.change().is_some() {
            self.coordinator.is_dead = true;
        }
        if self.coordinator.is_dead {
            // Its time is over: a gateway calls off what it has begun, and it is begun anew.
            self.coordinator.is_dead = false;
            self.coordinator.called_off += 1;
            self.write_ring(&table.called_off(), "called off");
            return;
        }
        let Some(change) = table.change() else {
            // "a/1", "b/1" and "r/2" of both givers, the last of which has retained messages.
            let change = Change { partition: TAKER, weight: 1, hold_s: 30 };
            let changing = table.changing(change).unwrap();
            let ring = Ring::new(&changing);
            if self.copy_retained(&ring) {
                self.write_ring(&changing, "the share is held");
            }
            return;
        };
        let has_drained = |world: &Self, gateway: usize| {
            let node = world.gateways[gateway].as_ref().expect("it is only gone while it crashes");
            let report = node.shard(0).jetstream().expect("it has links").ring_report();
            report.drained() == table.epoch()
        };
        if (0..self.gateways.len()).all(|gateway| has_drained(self, gateway))
            && ring_that_was_set().is_some_and(|(_, ring)| self.copy_retained(&ring))
        {
            let end = |giver: PartitionId| {
                let model = &self.servers[usize::from(giver.0)].model;
                (giver != change.partition).then_some(Sequence(model.messages.last + 1))
            };
            let taken = table.taken_over(end).unwrap();
            self.write_ring(&taken, "taken over");
        }
    }

    /// Copies what is retained of what moves, if all servers can be asked.
    fn copy_retained(&mut self, changing: &Ring) -> bool {
        let is_there = |server: &super::world::Server| {
            server.is_up && !server.is_unreachable && server.model.has_streams
        };
        if !self.servers.iter().all(is_there) {
            return false;
        }
        for giver in 0..2 {
            let kept = self.servers[giver].model.retained.kept.values().cloned();
            for message in kept.collect::<Vec<_>>() {
                let subject = String::from_utf8(message.subject.clone()).unwrap();
                let levels = subject.strip_prefix(&format!("retained.{giver}.mqtt.")).unwrap();
                if changing.is_held(&levels.replace('.', "/")) {
                    let place = message.header("Gateway-Sequence").unwrap();
                    let from = format!("{giver}.{}", String::from_utf8_lossy(place));
                    let to = format!("retained.2.mqtt.{levels}");
                    self.servers[2].model.retained.copy(to.as_bytes(), &from, &message);
                }
            }
        }
        true
    }

    /// A change that was begun is completed.
    pub(super) fn finish_change(&mut self) -> Result<(), Broken> {
        for _ in 0..60 {
            if ring().members().len() < 3 || !ring().takeovers().is_empty() {
                return Ok(());
            }
            self.coordinate(false);
            self.calm_second()?;
        }
        Err(self.broken("the share is never taken over"))
    }
}

/// What starts from now on finds two members, and a third without topics.
pub(super) fn begin_with_three_members() {
    let first = RingTable::new(1, super::world::two_members()).unwrap();
    set_ring(Some(&first.joined(["c2"].into_iter()).unwrap().unwrap()));
}

/// What starts from now on finds the ring that everything begins with.
pub(super) fn end() {
    set_ring(None);
}

fn run(seed: u64, has_sessions: bool, seen: &mut Seen) -> Result<usize, Broken> {
    begin_with_three_members();
    let gateways = usize::try_from(1 + seed % 2).unwrap();
    let mut world = World::with(if has_sessions { 2 } else { gateways }, seed, has_sessions);
    world.populate(3, 4);
    for step in 0..STEPS {
        world.step(STORM)?;
        if step > STEPS / 5 && world.random.below(12) == 0 {
            world.coordinate(true);
        }
        if world.random.below(12) == 0 {
            let gateway = world.random.below(world.gateways.len() as u64);
            world.tell_ring(usize::try_from(gateway).unwrap());
        }
        if world.gateways.len() > 1 && world.random.below(100) == 0 {
            if world.has_frozen() { world.thaw() } else { world.freeze(1) }
        }
    }
    seen.in_storm += usize::from(!ring().takeovers().is_empty());
    seen.called_off += world.coordinator.called_off;
    world.calm_down()?;
    if !has_sessions {
        world.check_retained()?;
    }
    let stored = world.servers[2].model.messages.kept.len();
    seen.moved += usize::from(stored > 0);
    world.check_rest()?;
    world.leave()?;
    Ok(world.ledger.acknowledged_count())
}

#[derive(Default)]
struct Seen {
    /// Runs in which the share was taken over while things went wrong.
    in_storm: usize,
    /// Changes called off.
    called_off: u64,
    /// Runs in which somebody published to what had moved.
    moved: usize,
}

fn run_seeds(has_sessions: bool) {
    let seeds = seeds(SEEDS_DEFAULT);
    let count = seeds.clone().count();
    let mut seen = Seen::default();
    let acknowledged = run_all(seeds, |seed| run(seed, has_sessions, &mut seen));
    end();
    assert!(
        count <= 20 || acknowledged > count * 10,
        "only {acknowledged} messages in {count} runs"
    );
    if count > 20 {
        let Seen { in_storm, called_off, moved } = seen;
        assert!(in_storm > count / 4, "only {in_storm} of {count} took over in a storm");
        assert!(called_off > count as u64 / 4, "only {called_off} called off in {count}");
        assert!(moved > count / 2, "only {moved} of {count} published to what had moved");
    }
}

#[test]
fn a_share_is_taken_over_in_any_weather() {
    run_seeds(false);
}

/// The same while clients go from gateway to gateway, and their sessions stay where they are.
#[test]
fn a_share_is_taken_over_while_sessions_are_shared() {
    run_seeds(true);
}
