//! The limits of the core, as the configuration resolved them.

use super::shard_state::events::EventKinds;
use ipnet::IpNet;
use std::net::IpAddr;

/// Every bound `ShardState` enforces; the configuration documents ranges and costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest packet accepted, bytes; announced as Maximum Packet Size.
    pub maximum_packet_size_bytes: u32,
    /// Largest CONNECT accepted, bytes: what a stranger can make us hold.
    pub connect_packet_bytes_max: u32,
    /// Seconds from accept to a complete CONNECT.
    pub connect_timeout_s: u32,
    /// Inbound QoS 1 and 2 messages not yet acknowledged, a session; announced as Receive Maximum.
    pub receive_maximum: u16,
    /// Outbound QoS 1 and 2 messages not yet acknowledged, a session; the client's own Receive
    /// Maximum may lower it.
    pub inflight_max: u16,
    /// Messages noted for a session that cannot take them yet; beyond it the session replays.
    pub pending_max: u32,
    /// Bytes waiting to be sent on one connection before it takes no more messages.
    pub client_write_bytes_max: usize,
    /// Topic aliases a client may set; announced as Topic Alias Maximum.
    pub topic_alias_maximum_in: u16,
    /// Topic aliases we set towards a client at most.
    pub topic_alias_maximum_out: u16,
    /// Subscriptions one session may hold.
    pub subscriptions_per_session_max: u32,
    /// Bytes that the subscriptions of one session may take in its record.
    pub subscription_bytes_max: u32,
    /// Shared subscriptions one session may hold.
    pub shared_per_session_max: u32,
    /// Whether it is asked who a client is, before anything else of its CONNECT counts.
    pub authenticate: bool,
    /// Clients that wait for the word of who they are.
    pub authentications_waiting_max: u32,
    /// Whether a session is for the user only that made it.
    pub sessions_bound: bool,
    /// Whether a client of which the user is known has to have its name as client id.
    pub client_id_is_user_name: bool,
    /// Any gateway can go on with a session.
    pub sessions_anywhere: bool,
    /// CONNECT packets a second; 0 for any number.
    pub connect_rate_max: u32,
    /// CONNECT packets a second from one address; 0 for any number.
    pub address_connect_rate_max: u32,
    /// CONNECT packets that wait for their turn.
    pub connects_waiting_max: u32,
    /// Milliseconds they wait at most.
    pub connect_wait_max_ms: u32,
    /// Milliseconds a turn of the event loop takes on average from which on CONNECT packets wait; 0
    /// for never.
    pub overload_lag_ms: u32,
    /// PUBLISH packets a second of one client; 0 for any number.
    pub publish_rate_max: u32,
    /// Bytes of PUBLISH packets a second of one client; 0 for any number.
    pub publish_bytes_rate_max: u32,
    /// PUBLISH packets a second to one client; 0 for any number.
    pub deliver_rate_max: u32,
    /// Bytes of PUBLISH packets a second to one client; 0 for any number.
    pub deliver_bytes_rate_max: u32,
    /// Seconds a client may be faster all the time before it is let go; 0 for ever.
    pub publish_rate_grace_s: u16,
    /// CONNECT packets of one client in `flapping_window_s`; 0 for any number.
    pub flapping_connects_max: u16,
    /// CONNECT packets with wrong credentials from one address in `flapping_window_s`; 0 for any
    /// number.
    pub address_failures_max: u16,
    /// Seconds in which they are counted.
    pub flapping_window_s: u16,
    /// Seconds for which a client with more is not let in.
    pub flapping_ban_s: u32,
    /// Client ids that are not let in.
    pub banned_client_ids: Vec<String>,
    /// Addresses from where nobody is let in.
    pub banned_addresses: Vec<IpNet>,
    /// Topic filters no session may subscribe to, without `$share/`; compared by literal equality.
    pub subscribe_refused: Vec<String>,
    /// Filters of topics that no session is sent anything of: what is published there is for applications
    /// behind the upstream.
    pub uplink: Vec<String>,
    /// Whether there are shared subscriptions; announced as Shared Subscription Available.
    pub shared_subscriptions: bool,
    /// Bytes of a client identifier.
    pub client_id_bytes_max: u16,
    /// Bytes of a topic name or filter.
    pub topic_bytes_max: u16,
    /// Levels of a topic name or filter.
    pub topic_levels_max: u16,
    /// Longest session expiry granted, seconds; `u32::MAX` grants "never".
    pub session_expiry_max_s: u32,
    /// Longest keep alive granted, seconds; 0 grants what is asked for.
    pub keep_alive_max_s: u16,
    /// Retained messages asked for at a time, a session.
    pub retained_page_max: u32,
    /// Questions for retained messages of new subscriptions that are under way, a shard.
    pub retained_looks_max: u32,
    /// Connections of a shard told a second that the node ends; 0 tells all at once.
    pub goodbyes_per_s: u32,
    /// Where clients are sent when the node ends. Source: MQTT 5.0 §4.11.
    pub server_reference: Option<Box<str>>,
    /// Of what happens to clients, what applications are told.
    pub events: EventKinds,
    /// Of that, so much a second and shard.
    pub events_rate_max: u32,
    /// Outbound QoS 2 steps recorded before a session's whole state is recorded anew.
    pub qos2_deltas_max: u16,
}

impl Limits {
    /// Whether it matters where a connection comes from.
    #[must_use]
    pub fn wants_origin(&self) -> bool {
        self.authenticate || self.address_connect_rate_max > 0 || !self.banned_addresses.is_empty()
    }

    /// Whether nobody is let in from there.
    #[must_use]
    pub fn is_banned(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.banned_addresses.iter().any(|range| range.contains(&address))
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            maximum_packet_size_bytes: 1024 * 1024,
            connect_packet_bytes_max: 64 * 1024,
            connect_timeout_s: 10,
            receive_maximum: 1_024,
            inflight_max: 1_024,
            pending_max: 1_024,
            client_write_bytes_max: 1024 * 1024,
            topic_alias_maximum_in: 32,
            topic_alias_maximum_out: 32,
            subscriptions_per_session_max: 10_000,
            subscription_bytes_max: u32::MAX,
            shared_per_session_max: 64,
            authenticate: false,
            authentications_waiting_max: 16_384,
            sessions_bound: true,
            client_id_is_user_name: false,
            sessions_anywhere: false,
            connect_rate_max: 0,
            address_connect_rate_max: 0,
            connects_waiting_max: 16_384,
            connect_wait_max_ms: 5_000,
            overload_lag_ms: 250,
            publish_rate_max: 0,
            publish_bytes_rate_max: 0,
            publish_rate_grace_s: 60,
            deliver_rate_max: 0,
            deliver_bytes_rate_max: 0,
            flapping_connects_max: 0,
            address_failures_max: 0,
            flapping_window_s: 60,
            flapping_ban_s: 300,
            banned_client_ids: Vec::new(),
            banned_addresses: Vec::new(),
            subscribe_refused: Vec::new(),
            uplink: Vec::new(),
            shared_subscriptions: true,
            client_id_bytes_max: u16::MAX,
            topic_bytes_max: u16::MAX,
            topic_levels_max: 128,
            session_expiry_max_s: u32::MAX,
            keep_alive_max_s: 0,
            retained_page_max: 1_024,
            retained_looks_max: 1_024,
            goodbyes_per_s: 0,
            server_reference: None,
            events: EventKinds::default(),
            events_rate_max: 10_000,
            qos2_deltas_max: 256,
        }
    }
}
