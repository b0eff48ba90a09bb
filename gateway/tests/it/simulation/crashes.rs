//! A crash after every single file operation of a fixed script, in both directions of QoS 1 and 2.

use super::world::{Broken, World, some_settings};
use gateway::proto::mqtt::QoS;
use std::time::Duration;

/// Publishes twice with each QoS, and lets a second pass between, so that floors are recorded.
const SCRIPT: [QoS; 4] = [QoS::ExactlyOnce, QoS::AtLeastOnce, QoS::ExactlyOnce, QoS::AtLeastOnce];
/// More file operations than the script has.
const OPERATIONS_MAX: u32 = 500;

/// Two subscribers of their own, or two members of a group.
const PLAIN: [(&str, QoS); 2] = [("#", QoS::ExactlyOnce), ("a/+", QoS::AtLeastOnce)];
const SHARED: [(&str, QoS); 2] =
    [("$share/g/#", QoS::ExactlyOnce), ("$share/g/#", QoS::ExactlyOnce)];

/// Runs the script with a crash after `operations` file operations. Returns whether it came to that.
fn run(shards: u16, filters: [(&'static str, QoS); 2], operations: u32) -> Result<bool, Broken> {
    let mut world = World::new(some_settings(shards, u64::from(shards)), false);
    let publisher = world.add("p".to_owned(), true, Vec::new(), true);
    for (name, filter) in ["s2", "s1"].into_iter().zip(filters) {
        world.add(name.to_owned(), true, vec![filter], false);
    }
    let mut left = operations;
    let mut script = SCRIPT.iter();
    loop {
        world.converse()?;
        if left == 0 {
            world.crash();
            world.calm_down()?;
            world.leave()?;
            return Ok(true);
        }
        if world.node().perform_one() {
            left -= 1;
            continue;
        }
        let Some(qos) = script.next() else { break };
        world.node().advance(Duration::from_secs(1));
        world.converse()?;
        world.publish(publisher, "a/1", *qos);
    }
    world.calm_down()?;
    Ok(false)
}

#[test]
fn a_crash_between_any_two_writes_breaks_no_promise() {
    for (shards, filters) in [(1, PLAIN), (2, PLAIN), (1, SHARED), (2, SHARED)] {
        for operations in 0.. {
            match run(shards, filters, operations) {
                Ok(true) => assert!(operations < OPERATIONS_MAX, "the script does not end"),
                Ok(false) => {
                    assert!(operations > 30, "the script has only {operations} operations");
                    break;
                }
                Err(Broken(what)) => {
                    panic!("{shards} shards, {filters:?}, operation {operations}: {what}")
                }
            }
        }
    }
}
