//! Every limit, in one table: key, type, unit, default, range, and what it costs.
//!
//! The table is the only place that states them. Documentation, `[limits]` in the file, `--limit`
//! on the command line, checks and `check-config` are made from it. Relations between limits are
//! in [`relations`](super::relations).

use std::time::Duration;

/// One row of the table, for code that walks over all limits.
#[derive(Clone, Copy, Debug)]
pub struct LimitSpec {
    /// The key in `[limits]`.
    pub key: &'static str,
    /// What the number counts.
    pub unit: &'static str,
    /// Used when nobody gave one.
    pub default: u64,
    /// The lowest value allowed.
    pub min: u64,
    /// The highest value allowed.
    pub max: u64,
    /// Whether the value must be a power of two.
    pub power_of_two: bool,
    /// What it is, what happens at it, and what it costs: paragraphs of lines, the last one of them
    /// with the cost.
    pub text: &'static str,
}

impl LimitSpec {
    /// Its paragraphs, each on one line.
    pub fn paragraphs(&self) -> impl Iterator<Item = String> {
        let paragraphs = self.text.split("\n\n");
        paragraphs.map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "))
    }
}

/// Declares [`Limits`] and [`LIMITS`] from one list.
///
/// A row reads `key: type, unit, default, min to max;` with an optional `, power of two`.
macro_rules! limits {
    (@power_of_two) => { false };
    (@power_of_two power of two) => { true };
    ($(
        $(#[doc = $doc:literal])+
        $key:ident: $type:ty, $unit:literal, $default:literal, $min:literal to $max:literal
            $(, $power:ident $of:ident $two:ident)?;
    )+) => {
        /// The limits in force. See each field for unit, default, range and cost.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Limits {
            $(
                $(#[doc = $doc])+
                #[doc = ""]
                #[doc = concat!(
                    "Unit: ", $unit, ". Default ", stringify!($default),
                    ", range ", stringify!($min), " to ", stringify!($max), "."
                )]
                pub $key: $type,
            )+
        }

        /// All limits in the order of the documentation.
        pub const LIMITS: &[LimitSpec] = &[$(
            LimitSpec {
                key: stringify!($key),
                unit: $unit,
                default: $default,
                min: $min,
                max: $max,
                power_of_two: limits!(@power_of_two $($power $of $two)?),
                text: concat!($($doc, "\n"),+),
            },
        )+];

        $(const _: () = {
            let (min, default, max): (u64, u64, u64) = ($min, $default, $max);
            assert!(
                min <= default && default <= max && max <= <$type>::MAX as u64,
                concat!(stringify!($key), ": the default is in the range, the range in the type")
            );
        };)+

        impl Limits {
            /// Builds the limits, asking `value_of` once for each row of [`LIMITS`], in order.
            ///
            /// `value_of` answers with a value inside the row's range.
            pub(super) fn from_values(mut value_of: impl FnMut(&'static LimitSpec) -> u64) -> Self {
                let mut rows = LIMITS.iter();
                Self {
                    $($key: {
                        let row = rows.next().expect("one row a field");
                        let value = value_of(row);
                        <$type>::try_from(value).expect("a value in range fits the type")
                    },)+
                }
            }

            /// Every limit with its value, in the order of [`LIMITS`].
            pub fn values(&self) -> impl Iterator<Item = (&'static LimitSpec, u64)> {
                LIMITS.iter().zip([$(u64::from(self.$key),)+])
            }
        }
    };
}

limits! {
    /// Connections this node carries at once. One more is closed right after it was accepted.
    ///
    /// Cost: some 3.9 KB of kernel memory for a TCP socket and up to 512 bytes of ours, each.
    connections_max: u32, "connections a node", 1_000_000, 1 to 16_000_000;
    /// The largest packet a client may send, fixed header included; announced in a 5.0 CONNACK.
    ///
    /// Cost: a connection in the middle of sending a packet holds the part that has arrived.
    maximum_packet_size_bytes: u32, "bytes a packet", 1_048_576, 1_024 to 268_435_460;
    /// The largest CONNECT, before anyone knows who is asking.
    ///
    /// Cost: as `maximum_packet_size_bytes`, for strangers.
    connect_packet_bytes_max: u32, "bytes a packet", 65_536, 256 to 268_435_460;
    /// How long a new connection may take until its CONNECT is complete.
    ///
    /// Cost: a silent stranger holds a socket for this long.
    connect_timeout_s: u16, "seconds", 10, 1 to 600;
    /// CONNECT packets a shard looks at in a second, with a second's worth at once. Those beyond wait,
    /// see `connects_waiting_max`. 0 for any number.
    ///
    /// Cost: none.
    connect_rate_max: u32, "CONNECT packets a second and shard", 0, 0 to 1_000_000;
    /// CONNECT packets from one address (of IPv6, one /64) that a shard looks at in a second, with a
    /// second's worth at once. One beyond is refused with Connection rate exceeded (5.0) or Server
    /// unavailable (before); with TLS or WebSocket it is closed before its handshake, without a word.
    /// Behind a balancer the address is the one in its PROXY header. Each shard counts by itself, so a
    /// node of n shards may take up to n times as many. 0 for any number.
    ///
    /// Cost: some 60 bytes for each of at most 65,536 addresses.
    address_connect_rate_max: u32, "CONNECT packets a second, address and shard", 0, 0 to 1_000_000;
    /// Connections whose CONNECT waits for its turn. One more is refused with Server busy (5.0) or
    /// Server unavailable (before).
    ///
    /// Cost: a CONNECT each.
    connects_waiting_max: u32, "connections a shard", 16_384, 1 to 1_000_000;
    /// How long a CONNECT waits for its turn; then it is refused as beyond `connects_waiting_max`.
    ///
    /// Cost: none.
    connect_wait_max_ms: u32, "milliseconds", 5_000, 100 to 600_000;
    /// CONNECT packets wait while a turn of a shard's event loop takes longer than this on average:
    /// those who are connected come first. It is over at a quarter of it. 0 turns it off.
    ///
    /// Cost: none.
    overload_lag_ms: u32, "milliseconds", 250, 0 to 60_000;
    /// PUBLISH packets a client may send in a second, with a second's worth at once. A faster one is
    /// not read for a while. 0 for any number.
    ///
    /// Cost: some 100 bytes a client that publishes.
    publish_rate_max: u32, "PUBLISH packets a second and client", 0, 0 to 1_000_000_000;
    /// Bytes of PUBLISH packets a client may send in a second, with a second's worth at once; a larger
    /// packet passes and is waited for afterwards. 0 for any number.
    ///
    /// Cost: as `publish_rate_max`.
    publish_bytes_rate_max: u32, "bytes a second and client", 0, 0 to 4_294_967_295;
    /// A client that would be faster than the rates all that time is disconnected with Message rate too
    /// high or Quota exceeded (5.0). 0 for never.
    ///
    /// Cost: none.
    publish_rate_grace_s: u16, "seconds", 60, 0 to 65_535;
    /// PUBLISH packets a client is sent in a second, with a second's worth at once. What is beyond waits
    /// in the log, or is dropped and counted at QoS 0, as for a client that reads too slowly. 0 for any
    /// number.
    ///
    /// Cost: some 100 bytes a client that is sent to, and what it has not got is read from the log.
    deliver_rate_max: u32, "PUBLISH packets a second and client", 0, 0 to 1_000_000_000;
    /// Bytes of PUBLISH packets a client is sent in a second, as `deliver_rate_max`; a larger packet
    /// passes and is waited for afterwards. 0 for any number.
    ///
    /// Cost: as `deliver_rate_max`.
    deliver_bytes_rate_max: u32, "bytes a second and client", 0, 0 to 4_294_967_295;
    /// CONNECT packets of one client id in `flapping_window_s`. With one more the client is not let in
    /// for `flapping_ban_s`: Banned (5.0), not authorized (before). Where clients prove who they are,
    /// those of each user are counted apart, and only once it is known who sent them: who names the
    /// client id of another keeps that one from nothing. 0 for any number.
    ///
    /// Cost: some 150 bytes for each of at most 65,536 client ids a shard.
    flapping_connects_max: u16, "CONNECT packets a client id", 0, 0 to 65_535;
    /// CONNECT packets with wrong credentials from one address (of IPv6, one /64) in
    /// `flapping_window_s`. With one more nobody is let in from there for `flapping_ban_s`, as if in
    /// `banned_addresses`. Clients behind one address translation share it. Each shard counts by itself:
    /// who names client ids of several shards may try that often at each, so at a node of n shards up to
    /// n times. 0 for any number.
    ///
    /// Cost: some 80 bytes for each of at most 65,536 addresses a shard.
    address_failures_max: u16, "CONNECT packets an address and shard", 0, 0 to 65_535;
    /// In which `flapping_connects_max` and `address_failures_max` are counted.
    ///
    /// Cost: none.
    flapping_window_s: u16, "seconds", 60, 1 to 65_535;
    /// How long a client that connects too often, or an address with wrong credentials too often, is not
    /// let in.
    ///
    /// Cost: none.
    flapping_ban_s: u32, "seconds", 300, 1 to 4_294_967_295;
    /// Clients that wait for the word of who they are. One more is refused with Server busy (5.0) or
    /// Server unavailable (before).
    ///
    /// Cost: some 300 bytes and the CONNECT, each.
    authentications_waiting_max: u32, "connections a shard", 16_384, 1 to 1_000_000;
    /// Threads that find out who clients are. More of them help where passwords take long to hash,
    /// and take cores from the shards.
    ///
    /// Cost: a thread each.
    authentication_threads: u16, "threads a node", 1, 1 to 64;
    /// Users whose password was right and need not be hashed again when it comes again. 0 turns it
    /// off.
    ///
    /// Cost: some 200 bytes each.
    authentication_cache_max: u32, "users a node", 65_536, 0 to 100_000_000;
    /// How long an answer to a question over HTTP may take. Then the client hears Server unavailable.
    ///
    /// Cost: a place among `http_auth_concurrency_max` for this long.
    http_auth_timeout_ms: u32, "milliseconds", 3_000, 10 to 60_000;
    /// Questions over HTTP under way. Others wait, up to `authentications_waiting_max`.
    ///
    /// Cost: a connection each.
    http_auth_concurrency_max: u16, "questions a node", 64, 1 to 4_096;
    /// How long a client that was allowed over HTTP is let in again without a question, with the same
    /// client id, user name, password, certificate and address. 0 asks every time.
    ///
    /// Cost: some 200 bytes for each of `authentication_cache_max` clients; who is not allowed any
    /// more gets in for so long.
    http_auth_cache_s: u32, "seconds", 60, 0 to 86_400;
    /// The largest password file and ACL file.
    ///
    /// Cost: some four times a file in memory, twice while it is read anew.
    access_file_bytes_max: u32, "bytes a file", 268_435_456, 1_024 to 4_294_967_295;
    /// How long a new connection may take until its transport is set up: PROXY header, TLS handshake,
    /// WebSocket request.
    /// `connect_timeout_s` begins then.
    ///
    /// Cost: a silent stranger holds a socket, and some 10 KB with TLS, for this long.
    handshake_timeout_s: u16, "seconds", 10, 1 to 600;
    /// Bytes a new connection may send until its transport is set up.
    ///
    /// Cost: itself, for strangers. A client's certificate chain is most of what is sent.
    handshake_bytes_max: u32, "bytes a connection", 65_536, 4_096 to 16_777_216;
    /// What connections may hold all together whose transport is not set up, whose CONNECT is not
    /// complete or waits for its turn, or who wait for the word of who they are: bytes they have sent, and
    /// 12 KiB for TLS that has begun. Who would hold more beyond this is closed without a word.
    ///
    /// Cost: itself, for strangers. 512 MiB are some 40,000 TLS handshakes at a time.
    strangers_bytes_max: u64, "bytes a node", 536_870_912, 1_048_576 to 1_099_511_627_776;
    /// How long a shard goes on with TLS handshakes before it looks after the connections that are
    /// set up. One step is taken whatever it takes: some 0.3 ms with an ECDSA key, 1 to 2 ms with RSA.
    ///
    /// Cost: what a storm of handshakes may add to the latency of those connected.
    handshake_slice_us: u32, "microseconds", 1_000, 0 to 1_000_000;
    /// Payload bytes of one WebSocket frame. A larger one closes the connection with code 1009.
    ///
    /// Cost: none. Payload is taken as it comes, and a packet is bounded by
    /// `maximum_packet_size_bytes`.
    websocket_frame_bytes_max: u32, "bytes a frame", 16_777_216, 125 to 2_147_483_647;
    /// How long what was sent to a peer may stay unacknowledged before its connection is given up
    /// (TCP_USER_TIMEOUT). 0 leaves it to the kernel, which tries for some 15 minutes.
    ///
    /// Cost: a vanished client to which something was sent holds its socket for this long.
    tcp_user_timeout_s: u32, "seconds", 300, 0 to 86_400;
    /// How long a connection may be silent before the kernel asks whether its peer is there. One that
    /// does not answer is asked five times before it is given up: in a fifth of this time and six minutes
    /// at most, or, if `tcp_user_timeout_s` is longer than this, until that is over. If this is not longer
    /// than 1.75 times `tcp_user_timeout_s`, that is waited for. 0 turns it off: right for devices that
    /// sleep longer and keep their connection.
    ///
    /// Cost: a packet to each silent client this often, which wakes a sleeping radio. A vanished client
    /// without keep alive holds its socket for this long.
    tcp_keepalive_s: u32, "seconds", 1_800, 0 to 32_767;
    /// How long a TLS session can be taken up again without a full handshake. 0 turns that off.
    ///
    /// Cost: whoever gets hold of a ticket key can read the sessions of this long.
    tls_ticket_lifetime_s: u32, "seconds", 43_200, 0 to 604_800;
    /// QoS 1 and 2 messages of one client that are not yet acknowledged: Receive Maximum in a
    /// 5.0 CONNACK; a 3.1.1 client that has as many open is not read until one is answered.
    ///
    /// Cost: 16 bytes a message in flight, while it is.
    receive_maximum: u16, "messages a connection", 1_024, 1 to 65_535;
    /// QoS 1 and 2 messages sent to one client and not yet acknowledged by it. A lower Receive
    /// Maximum of the client wins.
    ///
    /// Cost: 16 bytes a message in flight, while it is; the message stays in the log.
    inflight_max: u16, "messages a session", 1_024, 1 to 65_535;
    /// Messages noted for a subscriber that cannot take more just now. Beyond that it stops
    /// taking live messages and replays from its cursor when it drains.
    ///
    /// Cost: 16 bytes a message noted; the message stays in the log.
    pending_max: u32, "messages a session", 1_024, 0 to 1_048_576;
    /// Bytes that wait for one client's socket. Beyond that QoS 0 is dropped and counted, and
    /// QoS 1 and 2 wait in the log.
    ///
    /// Cost: itself, for a client that reads slower than it is sent to.
    client_write_bytes_max: u32, "bytes a connection", 1_048_576, 4_096 to 1_073_741_824;
    /// Topic aliases a client may define; announced in a 5.0 CONNACK. 0 refuses them.
    ///
    /// Cost: a topic name an alias in use.
    topic_alias_maximum_in: u16, "aliases a connection", 32, 0 to 65_535;
    /// Topic aliases the gateway defines towards a client; a lower Topic Alias Maximum of the
    /// client wins.
    ///
    /// Cost: a topic name an alias in use.
    topic_alias_maximum_out: u16, "aliases a connection", 32, 0 to 65_535;
    /// Topic filters one session may hold. One more is answered with Quota Exceeded.
    ///
    /// Cost: some 100 bytes and the filter, each.
    subscriptions_per_session_max: u32, "filters a session", 10_000, 1 to 1_000_000;
    /// Shared subscriptions one session may hold, among `subscriptions_per_session_max`. One more is
    /// answered with Quota Exceeded.
    ///
    /// Cost: what all its groups together give a member that does not take it waits in memory, up to
    /// some five times `shared_inflight_max` messages.
    shared_per_session_max: u32, "filters a session", 64, 1 to 10_000;
    /// Groups of shared subscriptions (`$share/ShareName/filter`, each pair of share name and filter
    /// is one). One more is answered with Quota Exceeded.
    ///
    /// Cost: some 500 bytes each, and up to 16 bytes for each of `pending_max` messages noted.
    shared_groups_max: u32, "groups a shard", 16_384, 1 to 1_000_000;
    /// Sessions in one group, offline ones included. One more is answered with Quota Exceeded.
    ///
    /// Cost: some 80 bytes each while online.
    shared_members_max: u32, "sessions a group", 10_000, 1 to 1_000_000;
    /// QoS 1 and 2 messages one member of a group was given and has not acknowledged. Beyond that
    /// other members get them. `inflight_max` and the client's own Receive Maximum may lower it.
    ///
    /// Cost: some 40 bytes a message, and the message where the member does not take it at once.
    shared_inflight_max: u16, "messages a member", 64, 1 to 65_535;
    /// Levels of a topic name or filter, counted as slashes plus one.
    ///
    /// Cost: bounds the work of matching one message.
    topic_levels_max: u16, "levels", 128, 8 to 32_768;
    /// The longest a session outlives its connection; a client that asks for more gets this much
    /// and is told so. 4294967295 is for ever, as in MQTT 5.0.
    ///
    /// Cost: disk, for the session's record and what the log keeps for it.
    session_expiry_max_s: u32, "seconds", 4_294_967_295, 0 to 4_294_967_295;
    /// The longest keep alive granted; a 5.0 client that asks for more, or for none, is given this
    /// one (Server Keep Alive). 0 grants what was asked for. Before 5.0 the client's own holds.
    ///
    /// Cost: how long a vanished client holds its socket, times one and a half.
    keep_alive_max_s: u16, "seconds", 0, 0 to 65_535;
    /// Sessions, connected and stored. A CONNECT that needs a new one beyond is answered with Quota
    /// Exceeded (5.0) or Server unavailable (before); to an existing one a client always comes back.
    ///
    /// Cost: some 200 bytes of disk and the filters, each; no memory while offline.
    sessions_max: u32, "sessions a node", 10_000_000, 1 to 1_000_000_000;
    /// Topics with a retained message. A PUBLISH that needs one more is answered with Quota Exceeded
    /// (5.0, QoS 1 and 2), or else delivered and not retained. Replacing and deleting always work.
    ///
    /// May be exceeded by retained wills, and by one message of each connection whose PUBLISH is
    /// looked at in the same moment.
    ///
    /// Cost: disk.
    retained_messages_max: u32, "messages a node", 10_000_000, 0 to 1_000_000_000;
    /// Bytes of all retained messages, topic names included. At it, as `retained_messages_max`;
    /// replacing a message by a larger one may exceed it, too.
    ///
    /// Cost: itself, on disk.
    retained_bytes_max: u64, "bytes a node", 10_737_418_240, 0 to 1_099_511_627_776;
    /// Questions for the retained messages of new subscriptions that are under way. The next ones wait
    /// their turn.
    ///
    /// Cost: some 1 KB each; those that wait, 60 bytes.
    retained_looks_max: u32, "questions a shard", 1_024, 1 to 65_536;
    /// Events of clients (`events`) that a shard tells in a second. What is beyond is counted and not
    /// told.
    ///
    /// Cost: some 400 bytes each, on the way to the servers.
    events_rate_max: u32, "events a second and shard", 10_000, 1 to 1_000_000;
    /// Bytes appended to a shard's log and not yet committed. Beyond that its publishers are
    /// not read.
    ///
    /// Cost: itself, in memory.
    append_bytes_max: u32, "bytes a shard", 16_777_216, 65_536 to 1_073_741_824;
    /// Bytes of publishes that a shard holds while a change of the ring moves their topics. Beyond that
    /// publishers to these topics are not read until it is done; one publish may go beyond.
    ///
    /// Cost: itself, in memory, with `--nats` and while it moves.
    held_bytes_max: u32, "bytes a shard", 16_777_216, 65_536 to 1_073_741_824;
    /// The newest committed bytes of a shard's log that stay in memory for sessions that are
    /// nearly up to date.
    ///
    /// Cost: itself, in memory.
    tail_bytes_max: u32, "bytes a shard", 8_388_608, 65_536 to 1_073_741_824;
    /// The size at which a log starts its next segment file; also the step of retention.
    ///
    /// Cost: disk. With `durability = "memory"`, memory, two or three segments a shard also when no
    /// session is behind; the default is 8 MiB then, or a sixteenth of memory shared by the shards
    /// if that is less.
    segment_bytes: u32, "bytes a segment", 67_108_864, 65_536 to 1_073_741_824;
    /// What the logs of all shards may take. When it is full of what sessions still need,
    /// publishers are held.
    ///
    /// Cost: itself, on disk; with `durability = "memory"`, in memory, and then a quarter of it if
    /// that is less.
    retention_bytes: u64, "bytes a node", 10_737_418_240, 131_072 to 1_125_899_906_842_624;
    /// The age at which a segment goes, needed or not: a session further behind loses the rest,
    /// which is counted and reported.
    ///
    /// Cost: disk, up to `retention_bytes`.
    retention_age_s: u32, "seconds", 604_800, 60 to 4_294_967_295;
    /// Receive buffers in a shard's pool. A connection with nothing to say holds none.
    ///
    /// Cost: times `receive_buffer_bytes`, in memory.
    receive_buffers: u16, "buffers a shard", 256, 16 to 32_768, power of two;
    /// The size of one receive buffer.
    ///
    /// Cost: times `receive_buffers`, in memory.
    receive_buffer_bytes: u32, "bytes a buffer", 16_384, 1_024 to 1_048_576;
    /// Connections the kernel completes for a shard before the shard accepts them; the kernel
    /// caps it at `net.core.somaxconn`.
    ///
    /// Cost: kernel memory during a storm.
    backlog: u16, "connections a shard", 65_535, 16 to 65_535;
    /// Batches one shard may have under way to another. Beyond that they gather in one more batch
    /// on the sender's side, which goes when there is room: see `mesh_bytes_max`.
    ///
    /// Cost: 32 bytes each, for each pair of shards from the start on; the messages are shared, not
    /// copied.
    mesh_batches_max: u16, "batches a pair of shards", 1_024, 2 to 32_768;
    /// Bytes in the batch that gathers for a shard whose `mesh_batches_max` are under way. Beyond
    /// that the sending shard holds its publishers, and QoS 0 for that shard is dropped and counted.
    ///
    /// What is in its log already comes on top, so up to `append_bytes_max` more.
    ///
    /// Cost: itself, in memory, unless the log's tail has it anyway. The first pair at the limit holds
    /// the shard's publishers, so all of them at once are warned of at start and not refused.
    mesh_bytes_max: u32, "bytes a pair of shards", 16_777_216, 65_536 to 1_073_741_824;
    /// Requests and folds that wait for the storage thread, a shard. Beyond that the shard holds
    /// its publishers.
    ///
    /// Cost: some 100 bytes each.
    storage_queue_max: u32, "requests a shard", 65_536, 64 to 1_048_576;
    /// Words of the table that tells which shards have interest in a topic.
    ///
    /// Cost: 8 bytes each. Too few make shards look at messages that do not concern them.
    interest_slots: u32, "words a node", 1_048_576, 1_024 to 1_073_741_824, power of two;
    /// The filter that tells of which client ids a session may be stored, so that the CONNECT of any
    /// other need not ask the storage thread.
    ///
    /// Cost: a page where a stored session falls, itself at most: with as many stored sessions as
    /// bytes or fewer, this is all the memory they take. With more, most are asked for in vain.
    session_filter_bytes: u32, "bytes a node", 4_194_304, 1_024 to 1_073_741_824, power of two;
    /// What waiting for more may add to the way of a message from shard to shard while messages come
    /// in a stream: shards then wake by the clock, not for each message, so that one costs less CPU.
    /// 0 turns it off. A lone client that waits for each answer is not delayed.
    ///
    /// Cost: itself, in latency; with `durability = "fsync"` or `"interval"` as much again for each write
    /// and sync of the log.
    gather_wait_us: u32, "microseconds", 1_000, 0 to 10_000;
    /// Clients told a second that the gateway ends, so that whoever they connect to next can keep
    /// up. 0 tells all at once.
    ///
    /// Cost: how long it takes to end: with a million clients and the default, 100 s.
    drain_connections_per_s: u32, "connections a second a node", 10_000, 0 to 10_000_000;
    /// How long, once all are told, clients may take to go and sessions to be saved.
    ///
    /// Cost: none. What was acknowledged is safe however short it is.
    shutdown_timeout_s: u16, "seconds", 5, 0 to 3_600;
    /// How long, with `gateway upgrade`, the new process may take to say that it can take over, before
    /// anything is done. Then it is ended, and the old one has gone on all the time.
    ///
    /// Cost: none.
    upgrade_start_max_s: u16, "seconds", 30, 1 to 3_600;
    /// How long clients may be kept waiting for what is under way to end before they are handed over.
    /// Then the old process goes on with them.
    ///
    /// Cost: none; messages are late by as much.
    upgrade_pause_max_s: u16, "seconds", 10, 1 to 600;
    /// How long the new process may take with clients and data directory before it can go on. Then it
    /// is ended, and the old one goes on with them.
    ///
    /// Cost: none; messages are late by as much.
    upgrade_take_max_s: u16, "seconds", 60, 1 to 3_600;
    /// How often, with `sessions = "shared"`, a shard renews its lease in each sub-cluster, and the
    /// right to its sessions with it.
    ///
    /// Cost: a write a shard and sub-cluster this often, and a look at its sessions in memory.
    session_lease_renew_s: u16, "seconds", 5, 1 to 60;
    /// How old a lease is when its gateway counts as dead: another then publishes the wills of its
    /// clients. The same for all gateways, and less than `duplicate_window_s`. A gateway that stands still
    /// longer than that disconnects its clients when it goes on.
    ///
    /// Cost: how late wills are after a gateway died.
    session_lease_timeout_s: u16, "seconds", 20, 3 to 600;
}

impl Limits {
    /// `connect_timeout_s` as a duration.
    #[must_use]
    pub fn connect_timeout(&self) -> Duration {
        Duration::from_secs(self.connect_timeout_s.into())
    }

    /// `handshake_timeout_s` as a duration.
    #[must_use]
    pub fn handshake_timeout(&self) -> Duration {
        Duration::from_secs(self.handshake_timeout_s.into())
    }

    /// `retention_age_s` as a duration.
    #[must_use]
    pub fn retention_age(&self) -> Duration {
        Duration::from_secs(self.retention_age_s.into())
    }

    /// `gather_wait_us` as a duration.
    #[must_use]
    pub fn gather_wait(&self) -> Duration {
        Duration::from_micros(self.gather_wait_us.into())
    }

    /// `shutdown_timeout_s` as a duration.
    #[must_use]
    pub fn shutdown_timeout(&self) -> Duration {
        Duration::from_secs(self.shutdown_timeout_s.into())
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::from_values(|limit| limit.default)
    }
}
