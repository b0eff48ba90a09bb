//! Wills of clients whose gateway is killed, frozen or cut off: they come, once, from another.

use super::super::world::{Broken, with_tenants};
use super::super::{run_all, seeds};
use super::world::{LEASE, World};
use gateway::proto::mqtt::QoS;
use std::time::Duration;

const SEEDS_DEFAULT: u64 = 40;
/// Steps of one seed.
const STEPS: u32 = 300;
/// Where wills are left, in both partitions.
const TOPICS: [&str; 4] = ["a/1", "a/2", "b/1", "b/2"];

impl World {
    /// Two gateways, watchers of all wills, and clients that leave some.
    fn with_mortals(seed: u64) -> Self {
        let mut world = Self::with(2, seed, true);
        world.add_mortals();
        world
    }

    /// The same of two tenants, with equal client ids and equal wills.
    fn with_mortals_of_tenants(seed: u64) -> Self {
        let mut world = Self::with_settings(2, seed, true, with_tenants);
        for tenant in ["acme", "zen"] {
            world.tenant = tenant;
            world.add_mortals();
        }
        world
    }

    fn add_mortals(&mut self) {
        for number in 0..2 {
            let wanted = vec![
                ("a/+", QoS::ExactlyOnce),
                ("+/1", QoS::ExactlyOnce),
                ("b/2", QoS::ExactlyOnce),
            ];
            let wanted = if number == 0 { vec![("#", QoS::ExactlyOnce)] } else { wanted };
            self.add(format!("watcher-{number}"), true, wanted, false);
        }
        for number in 0..5 {
            let wanted = vec![("r/1", QoS::AtLeastOnce)];
            let mortal = self.add(format!("mortal-{number}"), true, wanted, false);
            self.actors[mortal].will_topic = Some(TOPICS[number % TOPICS.len()]);
        }
    }

    fn mortal(&mut self) -> usize {
        let mortals = |world: &Self| {
            let actors = world.actors.iter().enumerate();
            let mortals = actors.filter(|(_, actor)| actor.will_topic.is_some());
            mortals.map(|(place, _)| place).collect::<Vec<_>>()
        };
        let mortals = mortals(self);
        *self.random.pick(&mortals)
    }

    /// What can move does, for a while.
    fn go_on(&mut self) -> Result<(), Broken> {
        self.tell_all();
        for _ in 0..10 {
            for actor in 0..self.actors.len() {
                while self.actors[actor].client.has_answers() {
                    self.actors[actor].client.answer_one();
                }
            }
            self.exchange()?;
            self.pump();
            for gateway in 0..2 {
                while !self.is_frozen(gateway) && self.node(gateway).perform_one() {}
            }
            self.exchange()?;
        }
        Ok(())
    }

    fn step_of_fate(&mut self) -> Result<(), Broken> {
        let mortal = self.mortal();
        match self.random.below(100) {
            0..15 if self.is_connected(mortal) && !self.is_frozen_at(mortal) => self.cut(mortal),
            0..15 => self.connect(mortal),
            15..25 => self.connect(mortal),
            25..29 => {
                let gateway = usize::try_from(self.random.below(2)).unwrap();
                self.crash(gateway);
            }
            29..34 if !self.has_frozen() => self.freeze(1),
            34..39 => self.thaw(),
            39..43 if self.cut_off.is_none() => self.cut_off(1),
            43..48 => self.cut_off = None,
            48..58 => self.vanish(mortal),
            58..62 => self.hurt_a_link(),
            _ => {
                let most_ms = *self.random.pick(&[100, 2_000, 12_000]);
                for _ in 0..4 {
                    let some_ms = 1 + self.random.below(most_ms / 4);
                    self.advance(Duration::from_millis(some_ms));
                    self.go_on()?;
                }
            }
        }
        let watchers = |actor: &usize| self.actors[*actor].will_topic.is_none();
        for watcher in (0..self.actors.len()).filter(watchers).collect::<Vec<_>>() {
            if !self.is_connected(watcher) && self.random.below(3) == 0 {
                self.connect(watcher);
            }
            if self.is_frozen_at(watcher) && self.random.below(3) == 0 {
                self.vanish(watcher);
            }
        }
        match self.random.below(3) {
            0 => self.exchange(),
            _ => self.go_on(),
        }
    }

    fn is_frozen_at(&self, actor: usize) -> bool {
        self.is_frozen(self.actors[actor].gateway)
    }

    fn hurt_a_link(&mut self) {
        let whole = self.pipes.iter().filter(|pipe| !self.is_frozen(pipe.gateway)).count();
        if whole > 0 {
            let which = usize::try_from(self.random.below(whole as u64)).unwrap();
            let mut places =
                (0..self.pipes.len()).filter(|at| !self.is_frozen(self.pipes[*at].gateway));
            let pipe = places.nth(which).expect("there are so many");
            self.cut_link(pipe);
        }
    }
}

fn run(mut world: World) -> Result<usize, Broken> {
    for _ in 0..3 {
        world.calm_second()?;
    }
    for _ in 0..STEPS {
        world.step_of_fate()?;
    }
    world.calm_down()?;
    Ok(world.ledger.acknowledged_count())
}

#[test]
fn wills_come_once_whatever_becomes_of_gateways() {
    let seeds = seeds(SEEDS_DEFAULT);
    let count = seeds.clone().count();
    let wills = run_all(seeds, |seed| run(World::with_mortals(seed)));
    assert!(wills > count * 5, "only {wills} wills in {count} runs");
}

#[test]
fn wills_stay_in_their_tenant_whoever_publishes_them() {
    let seeds = seeds(SEEDS_DEFAULT);
    let count = seeds.clone().count();
    let wills = run_all(seeds, |seed| run(World::with_mortals_of_tenants(seed)));
    assert!(wills > count * 5, "only {wills} wills in {count} runs");
}

fn calm(seed: u64) -> World {
    let mut world = World::with_mortals(seed);
    for _ in 0..25 {
        world.calm_second().unwrap_or_else(|Broken(what)| panic!("{what}"));
    }
    world
}

fn seconds(world: &mut World, count: u32) {
    for _ in 0..count {
        world.go_on().unwrap_or_else(|Broken(what)| panic!("{what}"));
        world.advance(Duration::from_secs(1));
    }
}

/// The second gateway is frozen for longer than its lease, and goes on: its clients are elsewhere, or
/// hear that it is not theirs any more, and it publishes none of their wills.
#[test]
fn a_gateway_that_was_frozen_publishes_nothing_under_its_former_claim() {
    for seed in 0..8 {
        let mut world = calm(seed);
        let frozen: Vec<usize> = (2..7).filter(|actor| world.actors[*actor].gateway == 1).collect();
        world.freeze(1);
        seconds(&mut world, 60);
        assert!(
            world.node(0).shard(0).jetstream().unwrap().report().counters.sessions_adopted
                >= frozen.len() as u64,
            "{frozen:?}"
        );
        // Half of them are gone by then.
        for actor in frozen.iter().step_by(2) {
            world.vanish(*actor);
        }
        world.thaw();
        seconds(&mut world, 5);
        let lost = world.node(1).shard(0).jetstream().unwrap().report().counters.leases_lost;
        assert!(lost > 0, "{seed}");
        for actor in frozen {
            assert!(!world.is_connected(actor), "{seed}: {actor} is still there");
        }
        world.calm_down().unwrap_or_else(|Broken(what)| panic!("{seed}: {what}"));
    }
}

/// Nobody is dead only because a sub-cluster was away for long.
#[test]
fn a_sub_cluster_that_was_away_takes_no_session_from_anybody() {
    let mut world = calm(3);
    for server in 0..2 {
        world.stop_server(server, false);
    }
    seconds(&mut world, 90);
    for server in &mut world.servers {
        server.is_up = true;
    }
    seconds(&mut world, 60);
    for gateway in 0..2 {
        let counters = world.node(gateway).shard(0).jetstream().unwrap().report().counters;
        assert_eq!((counters.sessions_adopted, counters.leases_lost), (0, 0), "{gateway}");
    }
    assert!((0..7).all(|actor| world.is_connected(actor)));
    let timeout = u32::try_from(LEASE.timeout.as_secs()).unwrap();
    seconds(&mut world, timeout);
    world.calm_down().unwrap_or_else(|Broken(what)| panic!("{what}"));
}
