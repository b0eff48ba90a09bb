//! What a client's behaviour can break, and how it hears of it.

use super::events::End;
use super::{ConnectionStage, Context, NO_SESSION, ShardState};
use crate::proto::access::Refusal;
use crate::proto::mqtt::{
    Connack, DecodeError, Disconnect, PacketType, Properties, Property, ProtocolVersion, ReasonCode,
};
use crate::proto::output::{Action, ConnectionId};

/// Why a connection is ended by us although its packets can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// The first packet is another.
    #[error("the first packet is not CONNECT")]
    ExpectedConnect,
    /// CONNECT on a connection that has a session.
    #[error("second CONNECT on a connection")]
    SecondConnect,
    /// It is not known who the client is.
    #[error("not authenticated: {0:?}")]
    NotAuthenticated(Refusal),
    /// The client id or the address is not let in.
    #[error("banned")]
    Banned,
    /// Too many CONNECTs from one address.
    #[error("connection rate exceeded")]
    ConnectionRateExceeded,
    /// Too many PUBLISH packets, for too long.
    #[error("message rate too high")]
    MessageRateTooHigh,
    /// Too many bytes of PUBLISH packets, for too long.
    #[error("byte rate too high")]
    ByteRateTooHigh,
    /// The client is known and may not do this.
    #[error("not authorized")]
    NotAuthorized,
    /// AUTH without an authentication method in CONNECT, with another, or when none was to come.
    #[error("AUTH out of turn")]
    UnexpectedAuth,
    /// No packet for one and a half keep alives.
    #[error("keep alive timeout")]
    KeepAliveTimeout,
    /// More unacknowledged QoS 1 and 2 messages than our Receive Maximum.
    #[error("receive maximum exceeded")]
    ReceiveMaximumExceeded,
    /// A topic alias above our Topic Alias Maximum.
    #[error("topic alias {alias} is too high")]
    TopicAliasInvalid {
        /// As received.
        alias: u16,
    },
    /// No topic name, and a topic alias that was not set. Source: MQTT 5.0 §3.3.4.
    #[error("topic alias {alias} is not set")]
    TopicAliasNotSet {
        /// As received.
        alias: u16,
    },
    /// A topic name with wildcards or with too many levels.
    #[error("topic name not accepted")]
    TopicNameInvalid,
    /// Another connection has the session now.
    #[error("session taken over")]
    SessionTakenOver,
    /// Who runs the server ended the connection.
    #[error("ended by an administrator")]
    AdministrativeAction,
    /// The node ends.
    #[error("server shutting down")]
    ServerShuttingDown,
    /// The node ends, and clients are told where to go.
    #[error("server moved")]
    ServerMoved,
    /// The client is to go to another gateway, for balance.
    #[error("use another server")]
    UseAnotherServer,
    /// DISCONNECT asks for a session that CONNECT did not ask for.
    #[error("session expiry interval raised from 0 in DISCONNECT")]
    SessionExpiryRaised,
    /// CONNECT without a client id that needs one, or one that is too long.
    #[error("client identifier not valid")]
    ClientIdentifierNotValid,
    /// CONNECT asks for enhanced authentication, which is not on offer.
    #[error("bad authentication method")]
    BadAuthenticationMethod,
    /// PUBLISH with more properties than the upstream can store.
    #[error("properties too large")]
    PropertiesTooLarge,
    /// The client takes no packets as large as CONNACK.
    #[error("maximum packet size below that of CONNACK")]
    ConnackTooLarge,
    /// CONNECT needs a new session and the node has `sessions_max`.
    #[error("no more sessions")]
    SessionQuotaExceeded,
    /// What is stored of the session could not be read.
    #[error("session store unavailable")]
    StoreUnavailable,
    /// DISCONNECT arrived with a reason only a server may give, or similar.
    #[error("packet not allowed here")]
    NotAllowedHere,
}

impl ProtocolError {
    /// The Reason Code for DISCONNECT.
    #[must_use]
    pub fn reason_code(self) -> ReasonCode {
        match self {
            Self::ExpectedConnect
            | Self::SecondConnect
            | Self::UnexpectedAuth
            | Self::SessionExpiryRaised
            | Self::TopicAliasNotSet { .. }
            | Self::NotAllowedHere => ReasonCode::ProtocolError,
            Self::KeepAliveTimeout => ReasonCode::KeepAliveTimeout,
            Self::ReceiveMaximumExceeded => ReasonCode::ReceiveMaximumExceeded,
            Self::TopicAliasInvalid { .. } => ReasonCode::TopicAliasInvalid,
            Self::TopicNameInvalid => ReasonCode::TopicNameInvalid,
            Self::SessionTakenOver => ReasonCode::SessionTakenOver,
            Self::AdministrativeAction => ReasonCode::AdministrativeAction,
            Self::ServerShuttingDown => ReasonCode::ServerShuttingDown,
            Self::ServerMoved => ReasonCode::ServerMoved,
            Self::UseAnotherServer => ReasonCode::UseAnotherServer,
            Self::ClientIdentifierNotValid => ReasonCode::ClientIdentifierNotValid,
            Self::ConnackTooLarge | Self::PropertiesTooLarge => ReasonCode::PacketTooLarge,
            Self::SessionQuotaExceeded => ReasonCode::QuotaExceeded,
            Self::StoreUnavailable => ReasonCode::ServerUnavailable,
            Self::BadAuthenticationMethod => ReasonCode::BadAuthenticationMethod,
            Self::NotAuthenticated(refusal) => refusal.reason_code(),
            Self::NotAuthorized => ReasonCode::NotAuthorized,
            Self::Banned => ReasonCode::Banned,
            Self::ConnectionRateExceeded => ReasonCode::ConnectionRateExceeded,
            Self::MessageRateTooHigh => ReasonCode::MessageRateTooHigh,
            Self::ByteRateTooHigh => ReasonCode::QuotaExceeded,
        }
    }

    /// The Reason Code for CONNACK, which has not all that DISCONNECT has. Source: MQTT 5.0 §3.2.2.2,
    /// table 3-1.
    #[must_use]
    pub fn connack_reason_code(self) -> ReasonCode {
        match self {
            Self::ServerShuttingDown => ReasonCode::ServerUnavailable,
            Self::SessionTakenOver | Self::AdministrativeAction => ReasonCode::UnspecifiedError,
            error => error.reason_code(),
        }
    }

    /// The Connect Return Code before 5.0, where there is one. Source: MQTT 3.1.1 §3.2.2.3.
    fn connect_return_code(self) -> Option<u8> {
        match self {
            Self::ClientIdentifierNotValid => Some(2),
            Self::ServerShuttingDown
            | Self::ServerMoved
            | Self::SessionQuotaExceeded
            | Self::StoreUnavailable
            | Self::ConnectionRateExceeded
            | Self::NotAuthenticated(Refusal::Unavailable | Refusal::Busy) => Some(3),
            Self::NotAuthenticated(Refusal::BadCredentials) => Some(4),
            Self::NotAuthenticated(
                Refusal::NoCredentials | Refusal::Banned | Refusal::BadProof | Refusal::BadMethod,
            )
            | Self::Banned
            | Self::NotAuthorized => Some(5),
            _ => None,
        }
    }

    /// Whether the client is to blame, and is counted.
    fn is_fault(self) -> bool {
        !matches!(
            self,
            Self::SessionTakenOver
                | Self::AdministrativeAction
                | Self::ServerShuttingDown
                | Self::ServerMoved
                | Self::UseAnotherServer
                | Self::SessionQuotaExceeded
                | Self::StoreUnavailable
                | Self::NotAuthenticated(_)
                | Self::NotAuthorized
                | Self::Banned
                | Self::ConnectionRateExceeded
                | Self::MessageRateTooHigh
                | Self::ByteRateTooHigh
        )
    }
}

impl ShardState {
    /// Ends a connection for `error`, telling the client why where its version has words for it.
    pub(super) fn refuse(
        &mut self,
        id: ConnectionId,
        error: ProtocolError,
        context: &mut Context<'_>,
    ) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        self.note_going(id, error);
        self.note_ending(id, || End::by_us(error.reason_code(), &error));
        if error.is_fault() {
            self.counters.faults += 1;
            self.note_fault(id, &error, context);
        }
        let is_unknown = connection.stage != ConnectionStage::Connected
            && matches!(error, ProtocolError::NotAuthenticated(_));
        self.counters.connects_denied += u64::from(is_unknown);
        let is_wrong = matches!(
            error,
            ProtocolError::NotAuthenticated(Refusal::BadCredentials | Refusal::BadProof)
        );
        if is_unknown
            && is_wrong
            && let (_, Some(peer)) = self.strangers.describe(id.index)
        {
            self.count_failure(peer.ip(), context.now);
        }
        let is_turned_away =
            matches!(error, ProtocolError::Banned | ProtocolError::ConnectionRateExceeded);
        self.counters.connects_turned_away += u64::from(is_turned_away);
        if is_turned_away || is_unknown {
            self.note_turned_away(id, error, context);
        }
        match connection.stage {
            ConnectionStage::Connected => {
                self.write_disconnect(id, error.reason_code(), context);
            }
            ConnectionStage::ExpectConnect
            | ConnectionStage::ExpectIdentity
            | ConnectionStage::ExpectProof
            | ConnectionStage::ExpectSession => {
                let version = connection.version;
                let code = match (version, error) {
                    (_, ProtocolError::ExpectedConnect | ProtocolError::KeepAliveTimeout) => None,
                    // CONNACK answers a CONNECT, and there was none.
                    (_, ProtocolError::ServerShuttingDown | ProtocolError::ServerMoved)
                        if connection.stage == ConnectionStage::ExpectConnect =>
                    {
                        None
                    }
                    (ProtocolVersion::V5, error) => Some(error.connack_reason_code() as u8),
                    (_, error) => error.connect_return_code(),
                };
                if let Some(code) = code {
                    let mut properties = Vec::new();
                    if version == ProtocolVersion::V5 {
                        self.put_server_reference(error.connack_reason_code(), &mut properties);
                    }
                    write_refusal(code, version, &properties, id, context);
                }
            }
            ConnectionStage::Vacant | ConnectionStage::Closing => return,
        }
        self.end_connection(id, context);
    }

    /// Ends a connection whose bytes are no MQTT.
    pub(super) fn handle_malformed(
        &mut self,
        id: ConnectionId,
        error: DecodeError,
        context: &mut Context<'_>,
    ) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        self.counters.faults += 1;
        self.note_fault(id, &error, context);
        self.note_going(id, error);
        self.note_ending(id, || End::by_us(error.reason_code(), &error));
        match connection.stage {
            ConnectionStage::Connected => self.write_disconnect(id, error.reason_code(), context),
            ConnectionStage::ExpectConnect => {
                // MQTT 5.0 [MQTT-3.1.2-2]; MQTT 3.1.1 [MQTT-3.1.2-2]: each in its own form.
                if let DecodeError::UnsupportedProtocolVersion { level } = error {
                    let (version, code) = if level > 4 {
                        (ProtocolVersion::V5, ReasonCode::UnsupportedProtocolVersion as u8)
                    } else {
                        (ProtocolVersion::V3_1_1, 1)
                    };
                    write_refusal(code, version, &[], id, context);
                }
            }
            ConnectionStage::ExpectIdentity
            | ConnectionStage::ExpectProof
            | ConnectionStage::ExpectSession
            | ConnectionStage::Vacant
            | ConnectionStage::Closing => {}
        }
        self.end_connection(id, context);
    }

    /// Where to go instead, behind the Reason Codes that say so. Source: MQTT 5.0 §4.11.
    fn put_server_reference(&self, reason_code: ReasonCode, out: &mut Vec<u8>) {
        if let Some(reference) = &self.limits.server_reference
            && matches!(reason_code, ReasonCode::ServerMoved | ReasonCode::UseAnotherServer)
        {
            Property::ServerReference(reference).encode(out);
        }
    }

    /// Marks the connection as closing and lets its session know.
    pub(super) fn end_connection(&mut self, id: ConnectionId, context: &mut Context<'_>) {
        let Some(connection) = self.connection_mut(id) else {
            return;
        };
        let session = std::mem::replace(&mut connection.session, NO_SESSION);
        self.set_stage(id.index, ConnectionStage::Closing);
        self.keep_alives.clear(id.index);
        self.forget_stranger(id.index);
        context.actions.push(Action::Close(id));
        if session != NO_SESSION {
            self.connection_lost(session, id, context);
        }
    }

    /// DISCONNECT, to a client that knows it from servers. Source: MQTT 5.0 §3.14.
    pub(super) fn write_disconnect(
        &self,
        id: ConnectionId,
        reason_code: ReasonCode,
        context: &mut Context<'_>,
    ) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        if connection.version == ProtocolVersion::V5 {
            let mut properties = Vec::new();
            self.put_server_reference(reason_code, &mut properties);
            let session = self.session(connection.session);
            let bytes_max = session.map_or(0, |one| one.connected.maximum_packet_size as usize);
            // A packet that is too large for the client would be lost with all it says.
            // MQTT 5.0 [MQTT-3.1.2-24].
            if properties.len() + DISCONNECT_FIXED_BYTES > bytes_max {
                properties.clear();
            }
            let properties = Properties::from_validated(&properties);
            let disconnect = Disconnect { reason_code, properties };
            let encode = |out: &mut _| disconnect.encode(connection.version, out);
            context.outbox.write(id.index, PacketType::Disconnect, encode);
            context.outbox.sent.add_code(reason_code as u8);
        }
    }
}

/// Of a DISCONNECT: fixed header, Reason Code, Property Length.
const DISCONNECT_FIXED_BYTES: usize = 8;

fn write_refusal(
    code: u8,
    version: ProtocolVersion,
    properties: &[u8],
    id: ConnectionId,
    context: &mut Context<'_>,
) {
    let properties = Properties::from_validated(properties);
    let connack = Connack { session_present: false, code, properties };
    context.outbox.write(id.index, PacketType::Connack, |out| connack.encode(version, out));
    match version {
        ProtocolVersion::V5 => context.outbox.sent.add_code(code),
        _ => context.outbox.sent.add_return_code(code),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// MQTT 5.0 §3.2.2.2, table 3-1, but for Success.
    const OF_CONNACK: [u8; 21] = [
        0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97,
        0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
    ];

    #[test]
    fn connack_has_only_codes_of_its_own() {
        for error in [
            ProtocolError::NotAuthenticated(Refusal::Busy),
            ProtocolError::Banned,
            ProtocolError::ConnectionRateExceeded,
            ProtocolError::NotAuthorized,
            ProtocolError::UnexpectedAuth,
            ProtocolError::SessionTakenOver,
            ProtocolError::AdministrativeAction,
            ProtocolError::ServerShuttingDown,
            ProtocolError::ServerMoved,
            ProtocolError::UseAnotherServer,
            ProtocolError::ClientIdentifierNotValid,
            ProtocolError::BadAuthenticationMethod,
            ProtocolError::PropertiesTooLarge,
            ProtocolError::ConnackTooLarge,
            ProtocolError::SessionQuotaExceeded,
            ProtocolError::StoreUnavailable,
            ProtocolError::NotAllowedHere,
        ] {
            let code = error.connack_reason_code() as u8;
            assert!(OF_CONNACK.contains(&code), "{error}: {code:#x}");
        }
    }
}
