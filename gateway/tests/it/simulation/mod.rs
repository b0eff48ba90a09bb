//! Nothing acknowledged is lost and QoS 2 is never doubled: whole nodes under faults from a seed.
//!
//! `SEEDS=1000 cargo test simulation` runs so many seeds, `SEEDS=500..1000` those; `SEED=17` runs that one
//! again, and `TRACE=1` prints what happens in it.

pub(crate) mod client;
mod crashes;
mod disk;
mod jetstream;
pub(crate) mod ledger;
pub(crate) mod random;
mod tenants;
mod world;

use world::{Broken, Weather, World, some_settings, with_tenants};

/// Seeds of a run that nobody asked to be longer.
const SEEDS_DEFAULT: u64 = 60;
/// Steps of one seed.
const STEPS: u32 = 2_500;

const STORM: Weather = Weather { crash: 3, cut: 12, disk: 6, ignore_syncs: false };

/// The seeds to run: `SEED`, or those that `SEEDS` says.
fn seeds(default: u64) -> std::ops::Range<u64> {
    let text = |name| std::env::var(name).unwrap_or_default();
    if let Ok(seed) = text("SEED").parse() {
        return seed..seed + 1;
    }
    let seeds = text("SEEDS");
    let (first, end) = seeds.split_once("..").unwrap_or(("0", &seeds));
    first.parse().unwrap_or(0)..end.parse().unwrap_or(default)
}

/// One run: storm, calm, and everyone leaves. Returns how many messages were acknowledged.
fn run(seed: u64, weather: Weather) -> Result<usize, Broken> {
    run_with(seed, weather, |world| world.populate(3, 4))
}

fn run_with(
    seed: u64,
    weather: Weather,
    populate: impl FnOnce(&mut World),
) -> Result<usize, Broken> {
    let shards = u16::try_from(1 + seed % 3).unwrap();
    let world = World::new(some_settings(shards, seed), weather.ignore_syncs);
    run_in(world, weather, populate)
}

fn run_in(
    mut world: World,
    weather: Weather,
    populate: impl FnOnce(&mut World),
) -> Result<usize, Broken> {
    populate(&mut world);
    for _ in 0..STEPS {
        world.step(weather)?;
    }
    world.calm_down()?;
    world.leave()?;
    Ok(world.ledger.acknowledged_count())
}

/// Says which seed it was that panicked.
struct SaidOnPanic(u64);

impl Drop for SaidOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("SEED={} panicked", self.0);
        }
    }
}

/// Runs `run` for every seed and fails with all that broke a promise, the first in full.
fn run_all(
    seeds: std::ops::Range<u64>,
    mut run: impl FnMut(u64) -> Result<usize, Broken>,
) -> usize {
    let mut done = 0;
    let mut broken = Vec::new();
    for seed in seeds {
        let _seed = SaidOnPanic(seed);
        match run(seed) {
            Ok(count) => done += count,
            Err(Broken(what)) => broken.push((seed, what)),
        }
    }
    if let Some((_, first)) = broken.first() {
        let line = |(seed, what): &(u64, String)| {
            format!("SEED={seed} {}", what.lines().next().unwrap_or_default())
        };
        let all: Vec<_> = broken.iter().map(line).collect();
        panic!("{first}\n{}", all.join("\n"));
    }
    done
}

#[test]
fn promises_hold_in_any_weather() {
    let seeds = seeds(SEEDS_DEFAULT);
    let count = seeds.clone().count();
    let acknowledged = run_all(seeds, |seed| run(seed, STORM));
    assert!(acknowledged > count * 20, "only {acknowledged} messages in {count} runs");
}

/// Two tenants with equal client ids, which publish and subscribe to the same.
#[test]
fn tenants_never_meet_in_any_weather() {
    let seeds = seeds(SEEDS_DEFAULT);
    let count = seeds.clone().count();
    let acknowledged = run_all(seeds, |seed| {
        let shards = u16::try_from(1 + seed % 3).unwrap();
        let settings = with_tenants(some_settings(shards, seed));
        run_in(World::new(settings, false), STORM, |world| {
            for tenant in ["acme", "zen"] {
                world.tenant = tenant;
                world.populate(2, 3);
                world.populate_groups(0, 3);
            }
        })
    });
    assert!(acknowledged > count * 20, "only {acknowledged} messages in {count} runs");
}

/// As above for shared subscriptions: each message reaches one member of each group, at QoS 2 once.
#[test]
fn promises_to_groups_hold_in_any_weather() {
    let seeds = seeds(SEEDS_DEFAULT);
    let count = seeds.clone().count();
    let acknowledged =
        run_all(seeds, |seed| run_with(seed, STORM, |world| world.populate_groups(3, 5)));
    assert!(acknowledged > count * 20, "only {acknowledged} messages in {count} runs");
}
