//! Limits that change while clients are connected: bans, rates, and what is only compared when something
//! is asked for. What a client was told at its CONNECT stays as it was for the connection.

use super::{ConnectionStage, Context, ProtocolError, ShardState};
use crate::proto::limits::Limits;
use crate::proto::output::ConnectionId;
use std::net::IpAddr;
use std::rc::Rc;

impl ShardState {
    /// Takes over from `new` what can change, and nothing else. Who is connected and banned now is let
    /// go; `address_of` knows where connections come from.
    pub fn handle_limits_changed(
        &mut self,
        new: &Limits,
        address_of: &dyn Fn(ConnectionId) -> Option<IpAddr>,
        context: &mut Context<'_>,
    ) {
        let limits = &mut self.limits;
        limits.connect_rate_max = new.connect_rate_max;
        limits.address_connect_rate_max = new.address_connect_rate_max;
        limits.connects_waiting_max = new.connects_waiting_max;
        limits.connect_wait_max_ms = new.connect_wait_max_ms;
        limits.overload_lag_ms = new.overload_lag_ms;
        limits.publish_rate_max = new.publish_rate_max;
        limits.publish_bytes_rate_max = new.publish_bytes_rate_max;
        limits.publish_rate_grace_s = new.publish_rate_grace_s;
        limits.deliver_rate_max = new.deliver_rate_max;
        limits.deliver_bytes_rate_max = new.deliver_bytes_rate_max;
        limits.flapping_connects_max = new.flapping_connects_max;
        limits.address_failures_max = new.address_failures_max;
        limits.flapping_window_s = new.flapping_window_s;
        limits.flapping_ban_s = new.flapping_ban_s;
        limits.client_id_is_user_name = new.client_id_is_user_name;
        limits.connect_packet_bytes_max = new.connect_packet_bytes_max;
        limits.connect_timeout_s = new.connect_timeout_s;
        limits.topic_alias_maximum_out = new.topic_alias_maximum_out;
        limits.subscriptions_per_session_max = new.subscriptions_per_session_max;
        limits.shared_per_session_max = new.shared_per_session_max;
        limits.topic_levels_max = new.topic_levels_max;
        limits.session_expiry_max_s = new.session_expiry_max_s;
        limits.keep_alive_max_s = new.keep_alive_max_s;
        limits.goodbyes_per_s = new.goodbyes_per_s;
        limits.banned_client_ids.clone_from(&new.banned_client_ids);
        limits.banned_addresses.clone_from(&new.banned_addresses);
        limits.subscribe_refused.clone_from(&new.subscribe_refused);
        limits.events = new.events;
        limits.events_rate_max = new.events_rate_max;
        limits.server_reference.clone_from(&new.server_reference);
        if !limits.wants_origin() {
            // Nobody forgets them one by one any more.
            self.strangers.forget_origins();
        }
        self.admission.limits_changed(&self.limits);
        self.let_banned_go(address_of, context);
    }

    fn let_banned_go(
        &mut self,
        address_of: &dyn Fn(ConnectionId) -> Option<IpAddr>,
        context: &mut Context<'_>,
    ) {
        for client_id in self.limits.banned_client_ids.clone() {
            // Of every tenant: nothing finds those by their client id.
            let sessions = self.sessions.iter().filter_map(|slot| slot.session.as_deref());
            let mounted =
                sessions.filter(|one| one.is_mounted() && one.own_client_id() == client_id);
            let mut names: Vec<Rc<str>> = mounted.map(|one| Rc::clone(&one.client_id)).collect();
            names.push(client_id.into());
            for name in names {
                self.counters.let_go += u64::from(self.kick(&name, context));
            }
        }
        if self.limits.banned_addresses.is_empty() {
            return;
        }
        let count = u32::try_from(self.connections.len()).expect("connections have u32 places");
        for index in 0..count {
            let Some(connection) = self.connections.get(index as usize).copied() else { continue };
            let id = ConnectionId { index, generation: connection.generation };
            if !address_of(id).is_some_and(|address| self.limits.is_banned(address)) {
                continue;
            }
            match connection.stage {
                ConnectionStage::Connected => {
                    self.counters.let_go += 1;
                    self.refuse(id, ProtocolError::AdministrativeAction, context);
                }
                ConnectionStage::ExpectConnect
                | ConnectionStage::ExpectIdentity
                | ConnectionStage::ExpectProof
                | ConnectionStage::ExpectSession => self.end_connection(id, context),
                ConnectionStage::Vacant | ConnectionStage::Closing => {}
            }
        }
    }
}
