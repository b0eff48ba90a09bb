//! The ring for people: which sub-cluster has which part of the topics.

use super::fault::ControlFault;
use super::names::stream_name;
use super::registration::{self, Registered};
use super::ring_key::RingKey;
use super::settings::ControlSettings;
use super::sub_cluster::SubCluster;
use crate::proto::bridge::ring::Ring;
use crate::proto::bridge::ring_table::RingTable;
use std::fmt::Write as _;
use std::io;
use std::time::Duration;

/// How long the sub-cluster that has the ring may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Reads the ring and writes it as a table. Changes nothing. Blocks for at most ten seconds.
///
/// # Errors
///
/// No sub-cluster is configured, or the one that has the ring does not answer, or has none.
pub fn show_ring(settings: &ControlSettings) -> io::Result<String> {
    let home = settings.sub_clusters.iter().min_by(|a, b| a.name.cmp(&b.name));
    let Some(home) = home else {
        return Err(io::Error::other("there is no ring without sub-clusters: give --nats"));
    };
    let sub_cluster = SubCluster::new(&settings.gateway_id, home.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tasks = tokio::task::LocalSet::new();
    let read = async {
        tokio::time::timeout(PATIENCE, async {
            let client = sub_cluster.connect_once().await?;
            let Some(key) = RingKey::find_bucket(&client).await? else { return Ok(None) };
            let gateways = registration::registered(&client, &key, 0).await?;
            Ok(key.read_last().await?.map(|(table, _)| (table, gateways)))
        })
        .await
    };
    match tasks.block_on(&runtime, read) {
        Ok(Ok(Some((table, gateways)))) => Ok(written(&table) + &gateways_written(&gateways)),
        Ok(Ok(None)) => {
            Err(failed(&home.name, &"there is no ring yet; the first gateway makes it"))
        }
        Ok(Err(fault)) => Err(failed(&home.name, &(&fault as &ControlFault))),
        Err(_) => Err(failed(&home.name, &"no answer within 10 s")),
    }
}

fn gateways_written(gateways: &[Registered]) -> String {
    let mut text = String::new();
    for gateway in gateways {
        let name = gateway.gateway();
        match &gateway.state {
            Some(state) => writeln!(text, "gateway {name} goes by epoch {}", state.seen),
            None => writeln!(text, "gateway {name} says what is not understood"),
        }
        .expect("writing to a string cannot fail");
    }
    text
}

fn failed(sub_cluster: &str, why: &dyn std::fmt::Display) -> io::Error {
    io::Error::other(format!("sub-cluster {sub_cluster}: {why}"))
}

fn written(table: &RingTable) -> String {
    let ring = Ring::new(table);
    let mut text = format!("epoch {}\n", table.epoch());
    text.push_str("partition  sub-cluster  stream  weight  topics\n");
    for member in table.members() {
        let slots = (0..Ring::SLOT_COUNT).filter(|slot| ring.slot_owner(*slot) == member.partition);
        let per_mille = slots.count() * 1_000 / usize::from(Ring::SLOT_COUNT);
        let (stream, partition) = (stream_name(member.partition), member.partition.0);
        writeln!(
            text,
            "{partition}  {}  {stream}  {}  {}.{} %",
            member.sub_cluster,
            member.weight,
            per_mille / 10,
            per_mille % 10
        )
        .expect("writing to a string cannot fail");
    }
    for takeover in table.takeovers() {
        let own = stream_name(takeover.partition);
        let others = takeover.ends.iter().filter(|(of, _)| *of != takeover.partition);
        let is_removal = takeover.weight_before > 0;
        let word = if is_removal { "from" } else { "before" };
        let others = others.map(|(of, end)| format!("{} {word} {}", stream_name(*of), end.0));
        let others = others.collect::<Vec<_>>().join(", ");
        match takeover.end_in(takeover.partition).filter(|_| is_removal) {
            Some(end) => writeln!(text, "{own} gave what it had before {} to {others}", end.0),
            None => writeln!(text, "{own} took over from {others}"),
        }
        .expect("writing to a string cannot fail");
    }
    if let Some(change) = table.change() {
        let (taker, hold_s) = (stream_name(change.partition), change.hold_s);
        let what = if change.weight > 0 { "take its share over" } else { "give its share away" };
        writeln!(text, "{taker} is about to {what}: that is held, for {hold_s} s at most")
            .expect("writing to a string cannot fail");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::bridge::ring_change::Change;
    use crate::proto::bridge::ring_table::Member;
    use crate::proto::partition::{PartitionId, Sequence};

    #[test]
    fn a_ring_is_a_line_a_partition() {
        let member = |partition, weight, sub_cluster: &str| Member {
            partition: PartitionId(partition),
            weight,
            sub_cluster: sub_cluster.to_owned(),
        };
        let table = RingTable::new(4, vec![member(0, 1, "a"), member(7, 3, "b")]).unwrap();
        let text = written(&table);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.first(), Some(&"epoch 4"));
        assert!(lines.get(2).is_some_and(|line| line.starts_with("0  a  MQTT_0  1  2")), "{text}");
        assert!(lines.get(3).is_some_and(|line| line.starts_with("7  b  MQTT_7  3  7")), "{text}");
    }

    #[test]
    fn what_was_changed_and_is_being_changed_is_told() {
        let member = |partition, sub_cluster: &str| Member {
            partition: PartitionId(partition),
            weight: 1,
            sub_cluster: sub_cluster.to_owned(),
        };
        let table = RingTable::new(4, vec![member(0, "a"), member(1, "b")]).unwrap();
        let change = |weight| Change { partition: PartitionId(1), weight, hold_s: 9 };
        let cut = |table: &RingTable| table.cut(|of| Some(Sequence(5 + u64::from(of.0)))).unwrap();
        let changing = table.changing(change(0)).unwrap();
        let text = written(&changing);
        let last = "MQTT_1 is about to give its share away: that is held, for 9 s at most\n";
        assert!(text.ends_with(last), "{text}");
        let removed = cut(&changing).taken_over().unwrap();
        let text = written(&removed);
        assert!(text.ends_with("MQTT_1 gave what it had before 6 to MQTT_0 from 5\n"), "{text}");
        let changing = removed.changing(change(1)).unwrap();
        let text = written(&changing);
        let last = "MQTT_1 is about to take its share over: that is held, for 9 s at most\n";
        assert!(text.ends_with(last), "{text}");
        let text = written(&cut(&changing).taken_over().unwrap());
        assert!(text.ends_with("MQTT_1 took over from MQTT_0 before 5\n"), "{text}");
    }
}
