//! The JetStream upstream under faults: gateways, servers and the network between them, from a seed.

mod directed;
mod former;
mod leases;
mod lost_tail;
mod moved;
mod nats_server;
mod ring_change;
mod takeover;
mod world;

use super::run_all;
use super::seeds;
use super::world::{Broken, with_tenants};
use world::{Weather, World};

/// Seeds of a run that nobody asked to be longer.
const SEEDS_DEFAULT: u64 = 80;
/// Steps of one seed.
const STEPS: u32 = 1_500;

const STORM: Weather =
    Weather { crash: 2, cut: 8, link: 5, server: 5, election: 4, loses_tails: false };

fn run(seed: u64, weather: Weather) -> Result<usize, Broken> {
    let gateways = usize::try_from(1 + seed % 2).unwrap();
    let mut world = World::new(gateways, seed);
    world.populate(3, 4);
    for _ in 0..STEPS {
        world.step(weather)?;
    }
    world.calm_down()?;
    world.check_retained()?;
    world.check_rest()?;
    world.leave()?;
    Ok(world.ledger.acknowledged_count())
}

#[test]
fn promises_hold_whatever_happens_to_links_and_servers() {
    let seeds = seeds(SEEDS_DEFAULT);
    let count = seeds.clone().count();
    let acknowledged = run_all(seeds, |seed| run(seed, STORM));
    assert!(acknowledged > count * 20, "only {acknowledged} messages in {count} runs");
}

/// Two tenants with equal client ids, which publish and subscribe to the same, retained messages too.
#[test]
fn tenants_never_meet_whatever_happens_to_links_and_servers() {
    let run = |seed: u64| {
        let gateways = usize::try_from(1 + seed % 2).unwrap();
        let mut world = World::with_settings(gateways, seed, false, with_tenants);
        populate_tenants(&mut world);
        for _ in 0..STEPS {
            world.step(STORM)?;
        }
        world.calm_down()?;
        for tenant in TENANTS {
            world.tenant = tenant;
            world.check_retained()?;
        }
        world.check_rest()?;
        world.leave()?;
        Ok(world.ledger.acknowledged_count())
    };
    let seeds = seeds(SEEDS_DEFAULT / 2);
    let count = seeds.clone().count();
    let acknowledged = run_all(seeds, run);
    assert!(acknowledged > count * 20, "only {acknowledged} messages in {count} runs");
}

const TENANTS: [&str; 2] = ["acme", "zen"];

fn populate_tenants(world: &mut World) {
    for tenant in TENANTS {
        world.tenant = tenant;
        world.populate(2, 3);
    }
}

fn run_shared(seed: u64, weather: Weather) -> Result<usize, Broken> {
    let mut world = World::with(2, seed, true);
    world.populate(3, 4);
    for _ in 0..STEPS {
        world.step(weather)?;
    }
    world.calm_down()?;
    world.check_rest()?;
    world.leave()?;
    Ok(world.ledger.acknowledged_count())
}

/// In the middle of a storm, again and again: what gateways know of retained messages is never too old.
#[test]
fn who_subscribes_gets_what_was_retained_before() {
    let run = |seed: u64| {
        let mut world = World::new(2, seed);
        world.populate(3, 0);
        for _ in 0..8 {
            for _ in 0..STEPS / 8 {
                world.step(STORM)?;
            }
            world.heal_and_check_retained()?;
        }
        Ok(world.ledger.acknowledged_count())
    };
    let seeds = seeds(SEEDS_DEFAULT / 2);
    let count = seeds.clone().count();
    let acknowledged = run_all(seeds, run);
    assert!(acknowledged > count * 20, "only {acknowledged} messages in {count} runs");
}

/// Clients come back to any of two gateways, which die now and then.
#[test]
fn sessions_are_the_same_at_any_gateway() {
    let seeds = seeds(SEEDS_DEFAULT);
    let count = seeds.clone().count();
    let acknowledged = run_all(seeds, |seed| run_shared(seed, STORM));
    assert!(acknowledged > count * 10, "only {acknowledged} messages in {count} runs");
}

/// Records of two tenants' sessions with equal client ids are two.
#[test]
fn tenants_never_meet_at_any_gateway() {
    let run = |seed: u64| {
        let mut world = World::with_settings(2, seed, true, with_tenants);
        populate_tenants(&mut world);
        for _ in 0..STEPS {
            world.step(STORM)?;
        }
        world.calm_down()?;
        world.check_rest()?;
        world.leave()?;
        Ok(world.ledger.acknowledged_count())
    };
    let seeds = seeds(SEEDS_DEFAULT / 2);
    let count = seeds.clone().count();
    let acknowledged = run_all(seeds, run);
    assert!(acknowledged > count * 10, "only {acknowledged} messages in {count} runs");
}

#[test]
fn a_storm_that_once_doubled_a_message_does_not() {
    run_all(89..90, |seed| run(seed, STORM));
}
