//! What a disk can do: lie, be full, and rot.

use super::world::{Broken, Weather, World, some_settings};
use super::{STORM, run, seeds};
use crate::sim::SimSettings;
use gateway::proto::mqtt::QoS;
use gateway::proto::partition::PartitionId;
use gateway::proto::time::Timestamp;
use gateway::upstream::embedded::log::files::Files as _;
use gateway::upstream::embedded::log::{Durability, LogLimits, RecoveryReport, recover};
use std::time::Duration;

/// Within so many seeds a disk that ignores `fdatasync` must have been caught.
const LIES_UNNOTICED_MAX: u64 = 20;

/// The simulation is worth nothing if it does not see what it is made to see.
#[test]
fn a_disk_that_does_not_sync_is_caught() {
    let weather = Weather { ignore_syncs: true, ..STORM };
    let is_loss = |what: &str| what.starts_with("missing: [\n") || what.contains("session is lost");
    let mut broken = (0..LIES_UNNOTICED_MAX).filter_map(|seed| run(seed, weather).err());
    assert!(broken.any(|Broken(what)| is_loss(&what)), "{LIES_UNNOTICED_MAX} seeds saw no loss");
}

fn one_of_each(seed: u64) -> (World, usize) {
    let mut world = World::new(some_settings(1, seed), false);
    let publisher = world.add("p".to_owned(), true, Vec::new(), true);
    world.add("s".to_owned(), true, vec![("#", QoS::ExactlyOnce)], false);
    (world, publisher)
}

/// Publishers wait while the disk is full, and go on by themselves when it is not.
#[test]
fn a_full_disk_holds_publishers_and_loses_nothing() {
    for seed in seeds(8) {
        let (mut world, publisher) = one_of_each(seed);
        world.settle().unwrap();
        world.node().files.capacity_bytes = 0;
        for _ in 0..3 {
            world.publish(publisher, "a/1", QoS::AtLeastOnce);
            world.publish(publisher, "a/1", QoS::ExactlyOnce);
            world.settle().unwrap();
            world.node().advance(Duration::from_millis(500));
        }
        assert_eq!(world.ledger.acknowledged_count(), 0, "SEED={seed}: nothing was written");
        if seed % 2 == 1 {
            world.crash();
        }
        world.calm_down().unwrap_or_else(|Broken(what)| panic!("SEED={seed}: {what}"));
        assert_eq!(world.ledger.acknowledged_count(), 6, "SEED={seed}: all are written now");
    }
}

/// A flipped bit is reported, and what it damaged is not delivered as something else.
#[test]
fn a_flipped_bit_is_found_and_never_served() {
    for seed in seeds(40) {
        let (mut world, publisher) = one_of_each(seed);
        world.settle().unwrap();
        world.cut(1);
        for _ in 0..8 {
            world.publish(publisher, "a/1", QoS::AtLeastOnce);
            world.converse_as(publisher).unwrap();
        }
        let node = world.node();
        let SimSettings { log_limits, .. } = node.settings.clone();
        let names = node.files.list().unwrap();
        let name = names.iter().find(|name| name.ends_with(".log")).unwrap().clone();
        let length = usize::try_from(node.files.length(&name).unwrap()).unwrap();
        let bit = usize::try_from(node.files.below(length as u64 * 8)).unwrap();
        assert!(node.files.flip_bit(&name, bit));
        let report = report_of(node, log_limits);
        assert!(
            report.flaws + report.cut_bytes + report.unreadable_segments > 0 || bit < 8 * 4_096,
            "SEED={seed}: bit {bit} of {length} bytes: {report:?}"
        );
        world.crash();
        // The record of the session may be what was damaged; what comes must be what was sent.
        if let Err(Broken(what)) = world.settle() {
            assert!(what.contains("the session is lost"), "SEED={seed}: {what}");
        }
    }
}

fn report_of(node: &mut crate::sim::SimNode, limits: LogLimits) -> RecoveryReport {
    let mut files = node.files.clone();
    let durability = Durability::Fsync;
    recover(&mut files, PartitionId(0), durability, limits, Timestamp(1)).unwrap().report
}
