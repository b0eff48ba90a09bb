//! Looking at the sessions of a shard, for operators. Each call does a bounded amount of work: a page
//! looks at [`LOOKED_AT_MAX`] places of the slab at most and says where the next one begins.

use super::{Context, ProtocolError, SessionSlot, ShardState, gauges};
use crate::proto::mqtt::ProtocolVersion;
use crate::proto::output::{ConnectionId, Outbox};
use crate::proto::routing::{FilterId, PackedOptions, Subscriber, SubscriberKind};
use crate::proto::session::{InFlight, NEVER_EXPIRES, Outbound, Session, Stage};
use crate::proto::time::Timestamp;
use serde::Serialize;
use std::net::{IpAddr, SocketAddr};

/// Sessions looked at for one page.
pub const LOOKED_AT_MAX: usize = 1_024;
/// Sessions in a page.
pub const ROWS_MAX: usize = 100;
/// Subscriptions, messages and so on shown of one session.
const PARTS_MAX: usize = 1_000;

/// Where a client's connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// `tcp`, `tls`, `ws` or `wss`.
    pub transport: &'static str,
    /// When it was accepted, milliseconds since the Unix epoch.
    pub since_ms: u64,
}

/// What lies around the state and is shown with it.
pub struct Around<'a> {
    /// Bytes that wait for clients.
    pub outbox: &'a Outbox,
    /// Where connections come from.
    pub peer: &'a dyn Fn(ConnectionId) -> Option<Peer>,
}

/// Which sessions.
#[derive(Clone, Debug, Default)]
pub struct SessionsQuery {
    /// Where the page begins: `next` of the page before, 0 for the first.
    pub from: u32,
    /// What the client id begins with.
    pub prefix: String,
    /// The mountpoint of the client's tenant.
    pub mountpoint: Option<String>,
    /// The client's address.
    pub address: Option<IpAddr>,
    /// The client's user name.
    pub user: Option<String>,
    /// Only those that have so much to read from the log, or more.
    pub lag_min: u64,
    /// Rows wanted; at most [`ROWS_MAX`] come.
    pub rows_max: usize,
}

/// A page of sessions.
#[derive(Debug, Default)]
pub struct SessionsPage {
    /// In the order of the slab.
    pub rows: Vec<SessionRow>,
    /// Where the next page begins, `None` after the last.
    pub next: Option<u32>,
}

/// A session in one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SessionRow {
    /// Client Identifier.
    pub client_id: String,
    /// The mountpoint of the client's tenant. Topics and filters are shown as they are stored, below it.
    pub mountpoint: Option<String>,
    /// Its home.
    pub shard: u16,
    /// `online`, `connecting`, or `saving` until the session of a client that is gone is stored.
    pub stage: &'static str,
    /// Of MQTT.
    pub version: &'static str,
    /// The client's connection.
    pub peer: Option<Peer>,
    /// The user name that was authenticated.
    pub user: Option<String>,
    /// Clean Start, or Clean Session.
    pub clean_start: bool,
    /// Topic filters, shared ones included.
    pub subscriptions: usize,
    /// QoS 1 and 2 messages sent and not acknowledged.
    pub in_flight: usize,
    /// Messages noted until there is room.
    pub pending: usize,
    /// Bytes that its socket has not taken.
    pub waiting_bytes: usize,
    /// How far it is behind, over all partitions: messages of JetStream, bytes of an embedded log.
    pub lag: u64,
}

/// A session in full, but for message contents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SessionView {
    /// What a list shows, too.
    #[serde(flatten)]
    pub row: SessionRow,
    /// Milliseconds of silence after which the connection is closed; 0: any.
    pub silence_max_ms: u32,
    /// Milliseconds since the last packet came.
    pub silent_ms: Option<u64>,
    /// Seconds the session outlives its connection, `null` for ever.
    pub session_expiry_s: Option<u32>,
    /// The client's Receive Maximum, or ours.
    pub receive_maximum: u16,
    /// What the client takes, bytes.
    pub maximum_packet_size: u32,
    /// See ARCHITECTURE.md, "Sessions, cursors, going live".
    pub follows_floor: bool,
    /// QoS 1 and 2 messages received and not acknowledged.
    pub inbound_unacknowledged: u16,
    /// Open QoS 2 exchanges of the client.
    pub inbound_qos2: usize,
    /// The first ones.
    pub filters: Vec<SubscriptionView>,
    /// The first ones.
    pub messages_in_flight: Vec<InFlightView>,
    /// Partitions it reads from the log.
    pub behind: Vec<BehindView>,
    /// Its will, without the payload.
    pub will: Option<WillView>,
}

/// A subscription.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SubscriptionView {
    /// With `$share/ShareName/` in front of a shared one.
    pub filter: String,
    /// Maximum QoS.
    pub qos: u8,
    /// No Local.
    pub no_local: bool,
    /// Retain As Published.
    pub retain_as_published: bool,
    /// 0 for none.
    pub identifier: u32,
}

/// A message in flight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InFlightView {
    /// Ours.
    pub packet_id: u16,
    /// As in `session::InFlightStep`.
    pub step: String,
    /// Where its content is.
    pub partition: u16,
    /// See `partition`.
    pub sequence: u64,
}

/// A partition a session is behind in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BehindView {
    /// Which.
    pub partition: u16,
    /// Where it reads on.
    pub cursor: u64,
    /// How far that is from the end.
    pub lag: u64,
}

/// A will.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WillView {
    /// Will Topic.
    pub topic: String,
    /// Will QoS.
    pub qos: u8,
    /// Will Retain.
    pub retain: bool,
    /// Will Delay Interval, seconds.
    pub delay_s: u32,
    /// Of the payload.
    pub payload_bytes: usize,
}

/// Who gets a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscribersPage {
    /// The first ones.
    pub subscribers: Vec<SubscriberView>,
    /// All of them.
    pub count: usize,
    /// Groups that get the topic, too: of each message one member. Filled in by whoever has them.
    pub groups: Vec<GroupView>,
}

/// A group of a shared subscription that matches a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GroupView {
    /// Its ShareName.
    pub share_name: String,
    /// Its topic filter.
    pub filter: String,
    /// Clients of this gateway that take its messages now.
    pub members: usize,
}

impl GroupView {
    /// Of a group named `ShareName/filter`.
    #[must_use]
    pub fn new(name: &str, members: usize) -> Self {
        let (share_name, filter) = name.split_once('/').unwrap_or((name, ""));
        Self { share_name: share_name.to_owned(), filter: filter.to_owned(), members }
    }
}

/// One subscription that matches a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SubscriberView {
    /// Whose.
    pub client_id: String,
    /// The mountpoint of the client's tenant.
    pub mountpoint: Option<String>,
    /// Its home.
    pub shard: u16,
    /// Maximum QoS.
    pub qos: u8,
    /// 0 for none.
    pub identifier: u32,
}

impl ShardState {
    /// A page of sessions in memory that match.
    #[must_use]
    pub fn sessions_page(&self, query: &SessionsQuery, around: &Around<'_>) -> SessionsPage {
        let rows_max = query.rows_max.min(ROWS_MAX);
        let mut page = SessionsPage::default();
        let from = query.from as usize;
        let end = from.saturating_add(LOOKED_AT_MAX).min(self.sessions.len());
        for place in from..end {
            if page.rows.len() == rows_max {
                page.next = u32::try_from(place).ok();
                return page;
            }
            let session = self.sessions.get(place).and_then(|slot| slot.session.as_deref());
            let found = session.filter(|one| {
                let is_of = |wanted: &String| one.mountpoint() == Some(wanted);
                one.own_client_id().starts_with(&query.prefix)
                    && query.mountpoint.as_ref().is_none_or(is_of)
            });
            let row = found.map(|session| self.row(session, around));
            page.rows.extend(row.filter(|row| {
                let address = row.peer.map(|peer| peer.address.ip().to_canonical());
                row.lag >= query.lag_min
                    && (query.address.is_none() || query.address == address)
                    && (query.user.is_none() || query.user == row.user)
            }));
        }
        page.next = (end < self.sessions.len()).then(|| u32::try_from(end).ok()).flatten();
        page
    }

    /// Everything about a session in memory, but for message contents.
    #[must_use]
    pub fn session_view(
        &self,
        client_id: &str,
        now: Timestamp,
        around: &Around<'_>,
    ) -> Option<SessionView> {
        let index = self.find_client(client_id)?;
        let session = self.session(index)?;
        let connected = &session.connected;
        let last_received =
            session.connection.and_then(|id| self.connection(id)?.last_received.into());
        let outbound = session.outbound.as_deref();
        let own = session.subscriptions.iter().take(PARTS_MAX);
        let shared = session.shared.iter().map(|one| {
            view_subscription(format!("$share/{}", one.name), one.options, one.identifier)
        });
        Some(SessionView {
            row: self.row(session, around),
            silence_max_ms: connected.silence_max_ms,
            silent_ms: last_received.map(|at: Timestamp| now.millis_since(at)),
            session_expiry_s: Some(connected.session_expiry_s).filter(|s| *s != NEVER_EXPIRES),
            receive_maximum: connected.window,
            maximum_packet_size: connected.maximum_packet_size,
            follows_floor: session.follows_floor,
            inbound_unacknowledged: session.inbound_unacknowledged,
            inbound_qos2: session.inbound.as_ref().map_or(0, |inbound| inbound.qos2.len()),
            filters: own.filter_map(|one| self.subscription(index, *one)).chain(shared).collect(),
            messages_in_flight: outbound
                .iter()
                .flat_map(|outbound| outbound.in_flight.iter().take(PARTS_MAX))
                .map(InFlightView::from)
                .collect(),
            behind: outbound.iter().flat_map(|outbound| self.behind(outbound)).collect(),
            will: session.will.as_ref().map(|will| WillView {
                topic: will.topic.to_string(),
                qos: will.qos as u8,
                retain: will.retain,
                delay_s: will.delay_s,
                payload_bytes: will.payload.len(),
            }),
        })
    }

    /// Who of this shard gets messages of `topic`. Costs what a message of this topic costs.
    #[must_use]
    pub fn subscribers(&self, topic: &str) -> SubscribersPage {
        let mut matches = Vec::new();
        self.tree.matches(topic, &mut matches);
        let view = |subscriber: &Subscriber| {
            let session = self.session(subscriber.session)?;
            Some(SubscriberView {
                client_id: session.own_client_id().to_owned(),
                mountpoint: session.mountpoint().map(str::to_owned),
                shard: self.shard.0,
                qos: subscriber.options.qos() as u8,
                identifier: subscriber.identifier,
            })
        };
        let subscribers = matches.iter().take(PARTS_MAX).filter_map(view).collect();
        SubscribersPage { subscribers, count: matches.len(), groups: Vec::new() }
    }

    /// The sessions that were furthest behind, or had most on their way, when that was looked at last:
    /// at most a second ago. Slowest first.
    #[must_use]
    pub fn slowest(&self, around: &Around<'_>) -> Vec<SessionRow> {
        let sessions = self.slowest.iter().filter_map(|one| {
            let SessionSlot { epoch, session } = self.sessions.get(one.session as usize)?;
            session.as_deref().filter(|_| *epoch == one.epoch)
        });
        sessions.map(|session| self.row(session, around)).collect()
    }

    /// Those that publish most, with estimates of messages and bytes a second.
    #[must_use]
    pub fn talkers(&self, now: Timestamp, around: &Around<'_>) -> Vec<(SessionRow, f64, f64)> {
        let talkers = self.talkers.rates(now).filter_map(|(ticket, messages, bytes)| {
            let slot = self.sessions.get(ticket.session as usize)?;
            let session = slot.session.as_deref().filter(|_| slot.epoch == ticket.epoch)?;
            Some((self.row(session, around), messages, bytes))
        });
        talkers.collect()
    }

    /// Ends the connection of a client, with Administrative action. Whether it had one.
    pub fn kick(&mut self, client_id: &str, context: &mut Context<'_>) -> bool {
        let index = self.find_client(client_id);
        let session = index.and_then(|index| self.session(index));
        let Some(id) = session.and_then(|session| session.connection) else {
            return false;
        };
        self.refuse(id, ProtocolError::AdministrativeAction, context);
        true
    }

    /// From here on the packets of this client are told to [`Traces`](crate::proto::trace::Traces)
    /// under `number`, those of later connections, too.
    pub fn trace(&mut self, client_id: &str, number: u32, context: &mut Context<'_>) {
        self.traced.push((client_id.into(), number));
        if let Some(index) = self.find_client(client_id) {
            self.trace_again(index, context);
        }
    }

    /// Trace `number` is over.
    pub fn end_trace(&mut self, number: u32, outbox: &mut Outbox) {
        self.traced.retain(|one| one.1 != number);
        outbox.traces.end(number);
    }

    /// A session has a connection: traces it if its client is.
    pub(super) fn trace_again(&self, index: u32, context: &mut Context<'_>) {
        let Some(session) = self.session(index) else {
            return;
        };
        let traced = self.traced.iter().find(|one| *one.0 == *session.client_id);
        if let (Some((_, number)), Some(id)) = (traced, session.connection) {
            let version = session.connected.version;
            context.outbox.traces.begin(id.index, *number, version, context.now);
        }
    }

    fn row(&self, session: &Session, around: &Around<'_>) -> SessionRow {
        let outbound = session.outbound.as_deref();
        let connection = session.connection;
        SessionRow {
            client_id: session.own_client_id().to_owned(),
            mountpoint: session.mountpoint().map(str::to_owned),
            shard: self.shard.0,
            stage: match session.stage {
                Stage::ExpectState => "connecting",
                Stage::Online => "online",
                Stage::ExpectSaved => "saving",
            },
            version: match session.connected.version {
                ProtocolVersion::V3_1 => "3.1",
                ProtocolVersion::V3_1_1 => "3.1.1",
                ProtocolVersion::V5 => "5.0",
            },
            peer: connection.and_then(|id| (around.peer)(id)),
            user: session
                .identity
                .as_ref()
                .and_then(|one| one.user_name.as_deref().map(Into::into)),
            clean_start: session.connected.clean_start,
            subscriptions: session.subscriptions.len() + session.shared.len(),
            in_flight: outbound.map_or(0, |outbound| outbound.in_flight.len()),
            pending: outbound.map_or(0, |outbound| outbound.queue.len()),
            waiting_bytes: connection.map_or(0, |id| around.outbox.pending_bytes(id.index)),
            lag: outbound.map_or(0, |one| self.behind(one).map(|behind| behind.lag).sum()),
        }
    }

    fn behind(&self, outbound: &Outbound) -> impl Iterator<Item = BehindView> {
        outbound.behind.iter().map(|behind| BehindView {
            partition: behind.partition.0,
            cursor: behind.cursor.0,
            lag: gauges::distance(behind.cursor, self.watermark(behind.partition)),
        })
    }

    fn subscription(&self, session: u32, filter: FilterId) -> Option<SubscriptionView> {
        let subscriber = self.tree.subscriber(filter, SubscriberKind::Session, session)?;
        let mut text = String::new();
        self.tree.write_filter(filter, &mut text);
        Some(view_subscription(text, subscriber.options, subscriber.identifier))
    }
}

fn view_subscription(filter: String, options: PackedOptions, identifier: u32) -> SubscriptionView {
    SubscriptionView {
        filter,
        qos: options.qos() as u8,
        no_local: options.no_local(),
        retain_as_published: options.retain_as_published(),
        identifier,
    }
}

impl From<&InFlight> for InFlightView {
    fn from(message: &InFlight) -> Self {
        Self {
            packet_id: message.packet_id.get(),
            step: format!("{:?}", message.step),
            partition: message.partition.0,
            sequence: message.sequence.0,
        }
    }
}
