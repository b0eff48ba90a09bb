//! `GET /metrics`: every family, from what the shards report. Totals of a node are sums over `shard`.

use super::AdminState;
use super::exposition::{Exposition, Kind};
use super::process::Process;
use super::server::fault;
use crate::config::{Config, LIMITS};
use crate::node::NodeReport;
use crate::proto::engine_counters::EngineCounters;
use crate::proto::mqtt::PacketType;
use crate::proto::packet_counts::PacketCounts;
use crate::upstream::embedded::log::Health;
use crate::upstream::inquiry::ShardReport;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use std::fmt::Display;
use std::sync::Arc;

const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The handler of the route.
pub(super) async fn serve(State(state): State<Arc<AdminState>>) -> Response {
    let Some(node) = state.node.load_full() else {
        return (StatusCode::SERVICE_UNAVAILABLE, fault("starting")).into_response();
    };
    let shards = node.reports().await;
    let (config, in_force) = (&state.config, state.in_force.load());
    let text = text(config, &in_force, node.node_report(), &shards, Process::read());
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response()
}

/// The whole text. A shard that did not answer has no samples: it has not started over.
fn text(
    config: &Config,
    in_force: &toml::Table,
    node: NodeReport,
    shards: &[Option<Box<ShardReport>>],
    process: Option<Process>,
) -> String {
    let mut out = Exposition::default();
    write_node(config, node, &mut out);
    write_limits(in_force, &mut out);
    out.family("gateway_shard_responding", Kind::Gauge, "1 if the shard answered this scrape.");
    for (shard, report) in (0_u16..).zip(shards) {
        out.sample(&[("shard", &shard)], u8::from(report.is_some()));
    }
    let reports: Vec<Numbered<'_>> = (0..)
        .zip(shards)
        .filter_map(|(shard, report)| Some(Numbered { shard, report: report.as_deref()? }))
        .collect();
    let mut families = Families { reports: &reports, out };
    families.connections();
    families.packets();
    families.faults();
    families.messages();
    families.engine();
    families.logs();
    families.upstream();
    families.memory(config);
    let mut out = families.out;
    if let Some(process) = process {
        process.write(&mut out);
    }
    out.into_text()
}

fn write_node(config: &Config, node: NodeReport, out: &mut Exposition) {
    let upstream = if config.nats.is_empty() { "embedded" } else { "jetstream" };
    let labels: [(_, &dyn Display); 4] = [
        ("version", &env!("CARGO_PKG_VERSION")),
        ("upstream", &upstream),
        ("durability", &config.durability),
        ("gateway_id", &config.gateway_id),
    ];
    out.family("gateway_build_info", Kind::Gauge, "Always 1; what runs is in the labels.");
    out.sample(&labels, 1);
    let gauges = [
        ("gateway_stored_sessions", "Sessions, connected and stored.", node.sessions),
        ("gateway_retained_messages", "Retained messages.", node.retained.messages),
        ("gateway_retained_bytes", "Bytes of retained messages, with topics.", node.retained.bytes),
        ("gateway_storage_queue", "Requests that wait for the storage thread.", node.storage_queue),
    ];
    for (name, help, value) in gauges {
        out.family(name, Kind::Gauge, help);
        out.sample(&[], value);
    }
}

fn write_limits(in_force: &toml::Table, out: &mut Exposition) {
    out.family("gateway_limit", Kind::Gauge, "Every limit in force, by its key.");
    let limits = in_force.get("limits").and_then(toml::Value::as_table);
    for limit in LIMITS {
        let value = limits.and_then(|limits| limits.get(limit.key)?.as_integer());
        if let Some(value) = value {
            out.sample(&[("key", &limit.key), ("unit", &limit.unit)], value);
        }
    }
}

#[derive(Clone, Copy)]
struct Numbered<'r> {
    shard: u16,
    report: &'r ShardReport,
}

struct Families<'r> {
    reports: &'r [Numbered<'r>],
    out: Exposition,
}

impl Families<'_> {
    /// A family with one value a shard.
    fn each(
        &mut self,
        name: &'static str,
        kind: Kind,
        help: &str,
        value: impl Fn(&ShardReport) -> u64,
    ) {
        self.out.family(name, kind, help);
        for Numbered { shard, report } in self.reports {
            self.out.sample(&[("shard", shard)], value(report));
        }
    }

    fn counter(&mut self, name: &'static str, help: &str, value: impl Fn(&ShardReport) -> u64) {
        self.each(name, Kind::Counter, help, value);
    }

    fn gauge(&mut self, name: &'static str, help: &str, value: impl Fn(&ShardReport) -> u64) {
        self.each(name, Kind::Gauge, help, value);
    }

    /// A family with several values a shard, told apart by `label`.
    fn by<const N: usize>(
        &mut self,
        (name, kind, help): (&'static str, Kind, &str),
        label: &'static str,
        values: impl Fn(&ShardReport) -> [(&'static str, u64); N],
    ) {
        self.out.family(name, kind, help);
        for Numbered { shard, report } in self.reports {
            for (text, value) in values(report) {
                self.out.sample(&[("shard", shard), (label, &text)], value);
            }
        }
    }

    fn connections(&mut self) {
        let help = "Client connections, by what carries them and what they wait for.";
        self.out.family("gateway_connections", Kind::Gauge, help);
        for Numbered { shard, report } in self.reports {
            for (transport, stages) in report.gauges.connections.named() {
                let states = [
                    ("expect_connect", stages.expect_connect),
                    ("expect_identity", stages.expect_identity),
                    ("expect_proof", stages.expect_proof),
                    ("expect_session", stages.expect_session),
                    ("connected", stages.connected),
                    ("closing", stages.closing),
                ];
                for (state, count) in states {
                    let labels: [(_, &dyn Display); 3] =
                        [("shard", shard), ("transport", &transport), ("state", &state)];
                    self.out.sample(&labels, count);
                }
            }
        }
        let help = "Sessions in memory: connected, and on their way to the store.";
        self.gauge("gateway_sessions", help, |report| report.gauges.sessions);
        let help = "Distinct topic filters subscribed to.";
        self.gauge("gateway_topic_filters", help, |report| report.gauges.filters);
        let help = "CONNECT packets accepted.";
        self.counter("gateway_connects_total", help, |report| report.counters.connects);
        let help = "Connections accepted from listeners.";
        self.counter("gateway_accepted_total", help, |report| report.engine.counters.accepted);
        let help = "Connections closed at once because connections_max were open.";
        self.counter("gateway_refused_total", help, |report| report.engine.counters.refused);
        let help = "Connections handed over to the shard of their client id.";
        self.counter("gateway_handed_over_total", help, |report| report.engine.counters.departed);
        let help = "Connections that ended, by how.";
        self.by(("gateway_closed_total", Kind::Counter, help), "reason", |report| {
            closed(&report.engine.counters)
        });
        let help =
            "Connections closed at once: on a listener for balancers, and from none of them.";
        self.counter("gateway_refused_no_balancer_total", help, |report| {
            report.engine.counters.refused_no_balancer
        });
        let help = "TLS handshakes, full or with a ticket.";
        self.by(("gateway_tls_handshakes_total", Kind::Counter, help), "kind", |report| {
            let counters = &report.engine.counters;
            [("full", counters.tls_full), ("resumed", counters.tls_resumed)]
        });
        let help = "CONNECT packets refused because the node had sessions_max.";
        self.counter("gateway_sessions_refused_total", help, |r| r.counters.sessions_refused);
    }

    fn packets(&mut self) {
        type Directed =
            (&'static str, &'static str, fn(&ShardReport) -> &PacketCounts, &'static str);
        let directions: [Directed; 2] = [
            (
                "gateway_packets_received_total",
                "gateway_packet_bytes_received_total",
                |report| &report.counters.received,
                "received",
            ),
            (
                "gateway_packets_sent_total",
                "gateway_packet_bytes_sent_total",
                |report| &report.sent.packets,
                "sent",
            ),
        ];
        for (packets_name, bytes_name, counts, direction) in directions {
            let help = format!("MQTT packets {direction}, by type.");
            self.out.family(packets_name, Kind::Counter, &help);
            for (shard, packet_type, packets, _) in self.packet_counts(counts) {
                self.out.sample(&[("shard", &shard), ("type", &packet_type)], packets);
            }
            let help = format!("Bytes of MQTT packets {direction}, by type.");
            self.out.family(bytes_name, Kind::Counter, &help);
            for (shard, packet_type, _, bytes) in self.packet_counts(counts) {
                self.out.sample(&[("shard", &shard), ("type", &packet_type)], bytes);
            }
        }
        let by_qos = |[q0, q1, q2]: [u64; 3]| [("0", q0), ("1", q1), ("2", q2)];
        let help = "PUBLISH packets received, by QoS.";
        self.by(("gateway_publish_received_total", Kind::Counter, help), "qos", |report| {
            by_qos(report.counters.publish_received)
        });
        let help = "PUBLISH packets sent, by QoS.";
        self.by(("gateway_publish_sent_total", Kind::Counter, help), "qos", |report| {
            by_qos(report.counters.publish_sent)
        });
        let help = "Bytes received on sockets, those of links included.";
        self.counter("gateway_received_bytes_total", help, |r| r.engine.counters.received_bytes);
        let help = "Bytes sent on sockets, those of links included.";
        self.counter("gateway_sent_bytes_total", help, |r| r.engine.counters.sent_bytes);
    }

    fn packet_counts(
        &self,
        counts: fn(&ShardReport) -> &PacketCounts,
    ) -> Vec<(u16, &'static str, u64, u64)> {
        let of_shard = |&Numbered { shard, report }: &Numbered<'_>| {
            let named =
                |(packet_type, packets, bytes)| (shard, name_of(packet_type), packets, bytes);
            counts(report).of_each().map(named).collect::<Vec<_>>()
        };
        self.reports.iter().flat_map(of_shard).collect()
    }

    fn faults(&mut self) {
        let help = "Packets that broke the protocol.";
        self.counter("gateway_protocol_faults_total", help, |report| report.counters.faults);
        let help = "Connections that sent no whole CONNECT within connect_timeout_s.";
        self.counter("gateway_connect_timeouts_total", help, |r| r.counters.connect_timeouts);
        let help = "Reason Codes of failure sent, by value; those never sent are left out.";
        self.out.family("gateway_reason_codes_sent_total", Kind::Counter, help);
        for Numbered { shard, report } in self.reports {
            for (code, count) in report.sent.failures().filter(|(_, count)| *count > 0) {
                let (value, name) =
                    (format!("0x{:02x}", code as u8), snake_case(&format!("{code:?}")));
                let labels: [(_, &dyn Display); 3] =
                    [("shard", shard), ("code", &value), ("name", &name)];
                self.out.sample(&labels, count);
            }
        }
        let help = "Return codes of CONNACK that refuse clients before 5.0.";
        self.out.family("gateway_return_codes_sent_total", Kind::Counter, help);
        for Numbered { shard, report } in self.reports {
            for (code, count) in report.sent.refusals() {
                self.out.sample(&[("shard", shard), ("code", &code)], count);
            }
        }
        let help = "What clients were not allowed to do, by what.";
        self.by(("gateway_denied_total", Kind::Counter, help), "what", |report| {
            let counters = &report.counters;
            [
                ("connect", counters.connects_denied),
                ("client_id", counters.client_ids_denied),
                ("session_of_another_user", counters.sessions_denied),
                ("publish", counters.publish_denied),
                ("will", counters.will_denied),
                ("subscribe", counters.subscribe_denied),
                ("read", counters.read_denied),
                ("banned_or_too_often", counters.connects_turned_away),
                ("stay", counters.let_go),
                ("authenticate_again", counters.reauthentications_denied),
            ]
        });
        let help = "Clients that have proven anew who they are while they were connected.";
        self.counter("gateway_reauthentications_total", help, |r| r.counters.reauthentications);
        let help = "Clients sent to other gateways by `gateway rebalance`.";
        self.counter("gateway_clients_sent_elsewhere_total", help, |r| r.counters.sent_elsewhere);
        let help = "CONNECT packets that had to wait for their turn.";
        self.counter("gateway_connects_delayed_total", help, |r| r.counters.connects_delayed);
        let help = "How often a client was not sent to for a while, because of its rate.";
        self.counter("gateway_deliver_paced_total", help, |r| r.counters.deliver_paced);
        let help = "How often a client was not read for a while because it publishes too fast.";
        self.counter("gateway_publish_paced_total", help, |r| r.counters.publish_paced);
        let help = "How often the event loop became so late that CONNECT packets wait.";
        self.counter("gateway_overloads_total", help, |r| r.counters.overloads);
        let help = "Questions the keyed store could not answer.";
        self.counter("gateway_store_failures_total", help, |r| r.counters.store_failures);
        let help = "Stored sessions that could not be read.";
        self.counter("gateway_unreadable_sessions_total", help, |r| r.counters.unreadable_sessions);
        let help = "Messages not retained because of retained_messages_max or retained_bytes_max.";
        self.counter("gateway_retained_refused_total", help, |r| r.counters.retained_refused);
        let help = "Subscriptions that got not all retained messages because the store failed.";
        self.counter("gateway_retained_given_up_total", help, |r| r.counters.retained_given_up);
    }

    fn events(&mut self) {
        let links = |report: &ShardReport| report.jetstream.as_ref().map(|links| links.counters);
        let help = "Events of clients that were told to applications.";
        self.counter("gateway_events_total", help, |report| {
            links(report).map_or(0, |links| links.events)
        });
        let help = "Events of clients that were not told, by why.";
        self.by(("gateway_events_dropped_total", Kind::Counter, help), "reason", |report| {
            [
                ("over_rate", report.counters.events_over_rate),
                ("link_away", links(report).map_or(0, |links| links.events_dropped)),
            ]
        });
    }

    fn messages(&mut self) {
        self.events();
        let help = "Messages not delivered to a client, by why.";
        self.by(("gateway_dropped_total", Kind::Counter, help), "reason", |report| {
            let counters = &report.counters;
            let links = report.jetstream.as_ref().map(|links| links.counters).unwrap_or_default();
            [
                ("slow_client", counters.dropped_slow),
                ("packet_too_large", counters.dropped_too_large),
                ("expired", counters.dropped_expired),
                ("shard_full", report.embedded.mesh_dropped),
                ("link_away", links.dropped),
                ("unreadable", links.unreadable),
                ("gone_from_log", counters.unfetchable),
            ]
        });
        let help = "Sessions that were away longer than what they missed is kept.";
        self.counter("gateway_sessions_clamped_total", help, |report| report.counters.clamped);
        let help = "Sessions with messages on their way.";
        self.gauge("gateway_outbound_sessions", help, |r| r.gauges.outbound.sessions);
        let help = "QoS 1 and 2 messages sent and not acknowledged.";
        self.gauge("gateway_in_flight", help, |report| report.gauges.outbound.in_flight);
        let help = "Messages noted for clients that cannot take more.";
        self.gauge("gateway_pending", help, |report| report.gauges.outbound.queued);
        let help = "Sessions that are behind and read from the log.";
        self.gauge("gateway_sessions_behind", help, |report| report.gauges.outbound.behind);
        let help = "What the session furthest behind has to read: messages of a JetStream partition, \
                    bytes of an embedded log.";
        self.gauge("gateway_replay_lag_max", help, |report| report.gauges.outbound.lag_max);
        let help = "What all sessions that are behind have to read, in the same unit.";
        self.gauge("gateway_replay_lag", help, |report| report.gauges.outbound.lag_sum);
    }

    fn engine(&mut self) {
        let help = "How long a turn of the event loop took: what comes meanwhile waits as long.";
        self.out.family("gateway_loop_seconds", Kind::Histogram, help);
        for Numbered { shard, report } in self.reports {
            self.out.histogram(&[("shard", shard)], &report.engine.counters.sweeps);
        }
        let help = "Calls of io_uring_enter.";
        self.counter("gateway_ring_enters_total", help, |report| report.engine.counters.enters);
        let help = "Completions of io_uring.";
        self.counter("gateway_ring_completions_total", help, |r| r.engine.counters.completions);
        let help = "Times the shard went to sleep with nothing to do.";
        self.counter("gateway_sleeps_total", help, |report| report.engine.counters.parks);
        let help = "Receives that found no receive buffer.";
        self.counter("gateway_starved_total", help, |report| report.engine.counters.starved);
    }

    fn logs(&mut self) {
        let help = "Committed bytes of a log, on disk or with durability memory in memory.";
        self.each_log("gateway_log_bytes", Kind::Gauge, help, |log| log.retained_bytes);
        let help = "Bytes appended to a log and not committed.";
        self.each_log("gateway_log_uncommitted_bytes", Kind::Gauge, help, |l| l.uncommitted_bytes);
        let help = "0 while the log's disk is full or fails.";
        self.each_log("gateway_log_healthy", Kind::Gauge, help, |log| {
            u64::from(log.health == Health::Good)
        });
        let help = "Damaged stretches and failed reads of a log.";
        self.each_log("gateway_log_read_failures_total", Kind::Counter, help, |l| l.read_failures);
        let help = "Requests of the shard that the storage thread's queue has no room for.";
        self.gauge("gateway_storage_waiting", help, |report| report.embedded.store_waiting);
    }

    fn each_log(
        &mut self,
        name: &'static str,
        kind: Kind,
        help: &str,
        value: impl Fn(&crate::upstream::embedded::report::LogReport) -> u64,
    ) {
        self.out.family(name, kind, help);
        for Numbered { shard, report } in self.reports {
            for log in &report.embedded.logs {
                self.out.sample(&[("shard", shard), ("partition", &log.partition.0)], value(log));
            }
        }
    }

    fn upstream(&mut self) {
        let help = "From a QoS 1 or 2 message's arrival until the upstream has stored it.";
        self.out.family("gateway_upstream_ack_seconds", Kind::Histogram, help);
        for Numbered { shard, report } in self.reports {
            match &report.jetstream {
                None => {
                    let own = report.embedded.logs.first().map_or(*shard, |log| log.partition.0);
                    let labels: [(_, &dyn Display); 2] = [("shard", shard), ("partition", &own)];
                    self.out.histogram(&labels, &report.embedded.commits);
                }
                Some(jetstream) => {
                    for one in &jetstream.partitions {
                        let partition = &one.partition.0;
                        let labels: [(_, &dyn Display); 2] =
                            [("shard", shard), ("partition", partition)];
                        self.out.histogram(&labels, &one.acknowledgements);
                    }
                }
            }
        }
        let help =
            "1 while the shard's publishers are held because the local log is behind or full.";
        self.gauge("gateway_publishers_held", help, |r| u64::from(r.embedded.is_congested));
        type PartitionValue = fn(&crate::upstream::jetstream::report::PartitionReport) -> u64;
        let gauges: [(_, _, PartitionValue); 6] = [
            ("gateway_link_up", "1 while the link to the partition's leader is there.", |one| {
                u64::from(one.is_linked)
            }),
            ("gateway_link_held", "1 while publishers of its topics are held.", |one| {
                u64::from(one.is_congested)
            }),
            ("gateway_link_unacknowledged", "Publishes on their way to the partition.", |one| {
                one.unacknowledged
            }),
            ("gateway_link_unacknowledged_bytes", "Bytes of these publishes.", |one| {
                one.unacknowledged_bytes
            }),
            ("gateway_link_pending_bytes", "Bytes the link's socket has not taken.", |one| {
                one.pending_bytes
            }),
            (
                "gateway_feed_lag",
                "Messages stored that the shard may not have been given yet.",
                |one| one.feed_lag,
            ),
        ];
        for (name, help, value) in gauges {
            self.out.family(name, Kind::Gauge, help);
            for Numbered { shard, report } in self.reports {
                for one in report.jetstream.iter().flat_map(|links| &links.partitions) {
                    let labels: [(_, &dyn Display); 3] = [
                        ("shard", shard),
                        ("partition", &one.partition.0),
                        ("sub_cluster", &one.sub_cluster),
                    ];
                    self.out.sample(&labels, value(one));
                }
            }
        }
        let links = |report: &ShardReport| report.jetstream.as_ref().map(|links| links.counters);
        let help = "Links lost.";
        self.counter("gateway_links_lost_total", help, move |report| {
            links(report).map_or(0, |counters| counters.links_lost)
        });
        let help = "Links of which no server said in time that it has read them to their end.";
        self.counter("gateway_former_links_given_up_total", help, move |report| {
            links(report).map_or(0, |counters| counters.former_links_given_up)
        });
        let help = "Streams that were found to have lost their end, a shard each.";
        self.counter("gateway_tails_lost_total", help, move |report| {
            links(report).map_or(0, |counters| counters.tails_lost)
        });
        let help = "Sequences of the last messages known that were lost with the end of a stream.";
        self.counter("gateway_messages_lost_total", help, move |report| {
            links(report).map_or(0, |counters| counters.messages_lost)
        });
        let help = "Sessions of gateways that were dead, looked after by this one.";
        self.counter("gateway_sessions_adopted_total", help, move |report| {
            links(report).map_or(0, |counters| counters.sessions_adopted)
        });
        let help = "Leases on sessions that another gateway has taken: clients were disconnected.";
        self.counter("gateway_session_leases_lost_total", help, move |report| {
            links(report).map_or(0, |counters| counters.leases_lost)
        });
        let help =
            "Looks for retained messages of a new subscription, by whether a server was asked.";
        self.by(("gateway_retained_looks_total", Kind::Counter, help), "answered", move |report| {
            let counters = links(report).unwrap_or_default();
            [("known", counters.retained_known), ("asked", counters.retained_asked)]
        });
        let help = "Publishes that a server refused for now.";
        self.counter("gateway_link_refusals_total", help, move |report| {
            links(report).map_or(0, |counters| counters.refused)
        });
    }

    fn memory(&mut self, config: &Config) {
        let limits = &config.limits;
        let receive = u64::from(limits.receive_buffers) * u64::from(limits.receive_buffer_bytes);
        let help = "Memory of a shard by purpose; receive_buffers is what they may touch.";
        self.by(("gateway_memory_bytes", Kind::Gauge, help), "purpose", |report| {
            let embedded = &report.embedded;
            let tails: u64 = embedded.logs.iter().map(|log| log.tail_bytes).sum();
            let uncommitted: u64 = embedded.logs.iter().map(|log| log.uncommitted_bytes).sum();
            let links = report.jetstream.iter().flat_map(|links| &links.partitions);
            [
                ("receive_buffers", receive),
                ("sending", report.outbox_bytes),
                ("connections_and_sessions", report.gauges.table_bytes),
                ("log_tails", tails + embedded.remote_tail_bytes),
                ("log_uncommitted", uncommitted),
                ("link_messages", links.map(|one| one.kept_bytes + one.unacknowledged_bytes).sum()),
            ]
        });
    }
}

fn closed(counters: &EngineCounters) -> [(&'static str, u64); 11] {
    [
        ("by_peer", counters.closed_by_peer),
        ("reset", counters.closed_by_reset),
        ("by_gateway", counters.closed_on_request),
        ("packet_too_large", counters.closed_partial_too_large),
        ("deadline", counters.closed_by_deadline),
        ("failed", counters.closed_failed),
        ("handshake", counters.closed_handshake),
        ("tls", counters.closed_tls),
        ("websocket", counters.closed_websocket),
        ("proxy", counters.closed_proxy),
        ("strangers", counters.closed_strangers),
    ]
}

fn name_of(packet_type: PacketType) -> &'static str {
    match packet_type {
        PacketType::Connect => "connect",
        PacketType::Connack => "connack",
        PacketType::Publish => "publish",
        PacketType::Puback => "puback",
        PacketType::Pubrec => "pubrec",
        PacketType::Pubrel => "pubrel",
        PacketType::Pubcomp => "pubcomp",
        PacketType::Subscribe => "subscribe",
        PacketType::Suback => "suback",
        PacketType::Unsubscribe => "unsubscribe",
        PacketType::Unsuback => "unsuback",
        PacketType::Pingreq => "pingreq",
        PacketType::Pingresp => "pingresp",
        PacketType::Disconnect => "disconnect",
        PacketType::Auth => "auth",
    }
}

/// `ServerBusy` as `server_busy`.
fn snake_case(name: &str) -> String {
    let mut text = String::with_capacity(name.len() + 4);
    for character in name.chars() {
        if character.is_ascii_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.push(character.to_ascii_lowercase());
    }
    text
}
