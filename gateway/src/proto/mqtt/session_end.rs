//! DISCONNECT and AUTH, which share one shape, and the two pings, which have none.
//!
//! Source: MQTT 5.0 §3.12-3.15; MQTT 3.1.1 §3.12-3.14.

use super::encode::{properties_bytes, put_fixed_header, put_properties};
use super::properties::id;
use super::property_rules::{PropertySet, read_properties};
use super::reader::Reader;
use super::{
    Auth, DecodeContext, DecodeError, Disconnect, PacketType, Properties, ProtocolVersion,
    ReasonCode, Role,
};

impl<'a> Disconnect<'a> {
    /// Reads the bytes behind the fixed header.
    ///
    /// Wire shape: nothing before 5.0; in 5.0 Reason Code (byte) and properties, where the
    /// properties, or both, may be left out.
    ///
    /// # Errors
    ///
    /// - [`DecodeError::ReasonCodeNotAllowed`], [`DecodeError::SessionExpiryIntervalFromServer`]
    /// - what is wrong with a field or the property block.
    ///
    /// # Source
    ///
    /// MQTT 5.0 §3.14.2; MQTT 3.1.1 §3.14.2.
    pub(super) fn decode(body: &'a [u8], context: DecodeContext) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let mut disconnect =
            Self { reason_code: ReasonCode::Success, properties: Properties::NONE };
        if context.version.is_v5() && !reader.is_empty() {
            let code = reader.u8()?;
            disconnect.reason_code = ReasonCode::from_byte(code)
                .filter(|&code| may_disconnect_with(code, context.role))
                .ok_or(DecodeError::ReasonCodeNotAllowed {
                    packet_type: PacketType::Disconnect,
                    code,
                })?;
            if !reader.is_empty() {
                disconnect.properties = disconnect_properties(&mut reader, context.role)?;
            }
        }
        reader.finish()?;
        Ok(disconnect)
    }

    /// Appends the packet to `out`: 2 bytes for a normal disconnection without properties, and
    /// always before 5.0, where only a client sends it.
    pub fn encode(&self, version: ProtocolVersion, out: &mut Vec<u8>) {
        let has_properties = version.is_v5() && !self.properties.is_empty();
        let has_code =
            version.is_v5() && (has_properties || self.reason_code != ReasonCode::Success);
        let mut remaining_bytes = usize::from(has_code);
        if has_properties {
            remaining_bytes += properties_bytes(self.properties, version);
        }
        put_fixed_header(PacketType::Disconnect, remaining_bytes, out);
        if has_code {
            out.push(self.reason_code as u8);
        }
        if has_properties {
            put_properties(self.properties, version, out);
        }
    }
}

impl<'a> Auth<'a> {
    /// Reads the bytes behind the fixed header.
    ///
    /// Wire shape: Reason Code (byte) and properties; both may be left out together, which says
    /// Success.
    ///
    /// # Errors
    ///
    /// - [`DecodeError::ReasonCodeNotAllowed`]: a client does not say Success, a server does not
    ///   ask to authenticate again.
    /// - [`DecodeError::AuthenticationMethodMissing`]
    /// - what is wrong with a field or the property block.
    ///
    /// # Source
    ///
    /// MQTT 5.0 §3.15.2.
    pub(super) fn decode(body: &'a [u8], role: Role) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let code = if reader.is_empty() { ReasonCode::Success as u8 } else { reader.u8()? };
        let reason_code = ReasonCode::from_byte(code)
            .filter(|&code| may_authenticate_with(code, role))
            .ok_or(DecodeError::ReasonCodeNotAllowed { packet_type: PacketType::Auth, code })?;
        if body.is_empty() {
            return Ok(Self { reason_code, properties: Properties::NONE });
        }
        let (properties, seen) = read_properties(&mut reader, PropertySet::AUTH)?;
        if !seen.contains(id::AUTHENTICATION_METHOD) {
            return Err(DecodeError::AuthenticationMethodMissing);
        }
        reader.finish()?;
        Ok(Self { reason_code, properties })
    }

    /// Appends the packet to `out`: 2 bytes for Success without properties.
    pub fn encode(&self, out: &mut Vec<u8>) {
        if self.reason_code == ReasonCode::Success && self.properties.is_empty() {
            return put_fixed_header(PacketType::Auth, 0, out);
        }
        let remaining_bytes = 1 + properties_bytes(self.properties, ProtocolVersion::V5);
        put_fixed_header(PacketType::Auth, remaining_bytes, out);
        out.push(self.reason_code as u8);
        put_properties(self.properties, ProtocolVersion::V5, out);
    }
}

/// Appends a PINGREQ to `out`. Source: MQTT 5.0 §3.12; MQTT 3.1.1 §3.12.
pub fn encode_pingreq(out: &mut Vec<u8>) {
    put_fixed_header(PacketType::Pingreq, 0, out);
}

/// Appends a PINGRESP to `out`. Source: MQTT 5.0 §3.13; MQTT 3.1.1 §3.13.
pub fn encode_pingresp(out: &mut Vec<u8>) {
    put_fixed_header(PacketType::Pingresp, 0, out);
}

fn disconnect_properties<'a>(
    reader: &mut Reader<'a>,
    role: Role,
) -> Result<Properties<'a>, DecodeError> {
    let (properties, seen) = read_properties(reader, PropertySet::DISCONNECT)?;
    match role {
        Role::Client if seen.contains(id::SESSION_EXPIRY_INTERVAL) => {
            Err(DecodeError::SessionExpiryIntervalFromServer)
        }
        Role::Client | Role::Server => Ok(properties),
    }
}

/// Whether the peer of a reader in `role` may send DISCONNECT with `code`.
///
/// Source: MQTT 5.0 table 3-10, "Sent by".
fn may_disconnect_with(code: ReasonCode, role: Role) -> bool {
    match code {
        ReasonCode::Success
        | ReasonCode::UnspecifiedError
        | ReasonCode::MalformedPacket
        | ReasonCode::ProtocolError
        | ReasonCode::ImplementationSpecificError
        | ReasonCode::TopicNameInvalid
        | ReasonCode::ReceiveMaximumExceeded
        | ReasonCode::TopicAliasInvalid
        | ReasonCode::PacketTooLarge
        | ReasonCode::MessageRateTooHigh
        | ReasonCode::QuotaExceeded
        | ReasonCode::AdministrativeAction
        | ReasonCode::PayloadFormatInvalid => true,
        ReasonCode::DisconnectWithWillMessage => role == Role::Server,
        ReasonCode::NotAuthorized
        | ReasonCode::ServerBusy
        | ReasonCode::ServerShuttingDown
        | ReasonCode::KeepAliveTimeout
        | ReasonCode::SessionTakenOver
        | ReasonCode::TopicFilterInvalid
        | ReasonCode::RetainNotSupported
        | ReasonCode::QosNotSupported
        | ReasonCode::UseAnotherServer
        | ReasonCode::ServerMoved
        | ReasonCode::SharedSubscriptionsNotSupported
        | ReasonCode::ConnectionRateExceeded
        | ReasonCode::MaximumConnectTime
        | ReasonCode::SubscriptionIdentifiersNotSupported
        | ReasonCode::WildcardSubscriptionsNotSupported => role == Role::Client,
        ReasonCode::GrantedQos1
        | ReasonCode::GrantedQos2
        | ReasonCode::NoMatchingSubscribers
        | ReasonCode::NoSubscriptionExisted
        | ReasonCode::ContinueAuthentication
        | ReasonCode::Reauthenticate
        | ReasonCode::UnsupportedProtocolVersion
        | ReasonCode::ClientIdentifierNotValid
        | ReasonCode::BadUserNameOrPassword
        | ReasonCode::ServerUnavailable
        | ReasonCode::Banned
        | ReasonCode::BadAuthenticationMethod
        | ReasonCode::PacketIdentifierInUse
        | ReasonCode::PacketIdentifierNotFound => false,
    }
}

/// Whether the peer of a reader in `role` may send AUTH with `code`.
///
/// Source: MQTT 5.0 table 3-11, "Sent by".
fn may_authenticate_with(code: ReasonCode, role: Role) -> bool {
    match role {
        Role::Server => {
            matches!(code, ReasonCode::ContinueAuthentication | ReasonCode::Reauthenticate)
        }
        Role::Client => matches!(code, ReasonCode::Success | ReasonCode::ContinueAuthentication),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(version: ProtocolVersion, role: Role) -> DecodeContext {
        DecodeContext { version, maximum_packet_size: 1024, role }
    }

    #[track_caller]
    fn check_disconnect(reason_code: ReasonCode, properties: &[u8], wire: &[u8]) {
        let disconnect =
            Disconnect { reason_code, properties: Properties::from_validated(properties) };
        let mut out = Vec::new();
        disconnect.encode(ProtocolVersion::V5, &mut out);
        assert_eq!(out, wire);
        let context = context(ProtocolVersion::V5, Role::Server);
        assert_eq!(Disconnect::decode(&wire[2..], context), Ok(disconnect));
    }

    #[test]
    fn disconnect_writes_no_more_than_needed() {
        check_disconnect(ReasonCode::Success, &[], &[0xE0, 0]);
        check_disconnect(ReasonCode::DisconnectWithWillMessage, &[], &[0xE0, 1, 4]);
        let expiry = [0x11, 0, 0, 0, 9];
        check_disconnect(ReasonCode::Success, &expiry, &[0xE0, 7, 0, 5, 0x11, 0, 0, 0, 9]);
        let mut out = Vec::new();
        let busy = Disconnect { reason_code: ReasonCode::ServerBusy, properties: Properties::NONE };
        busy.encode(ProtocolVersion::V3_1_1, &mut out);
        assert_eq!(out, [0xE0, 0]);
    }

    #[test]
    fn disconnect_codes_depend_on_the_side() {
        let v5 = ProtocolVersion::V5;
        for (role, code, allowed) in [
            (Role::Server, 0x04, true),
            (Role::Client, 0x04, false),
            (Role::Server, 0x8B, false),
            (Role::Client, 0x8B, true),
            (Role::Server, 0x93, true),
            (Role::Client, 0x01, false),
            (Role::Client, 0x05, false),
        ] {
            let body = [code];
            let decoded = Disconnect::decode(&body, context(v5, role));
            assert_eq!(decoded.is_ok(), allowed, "{role:?} {code:#x}");
        }
        let from_server = Disconnect::decode(&[0, 5, 0x11, 0, 0, 0, 9], context(v5, Role::Client));
        assert_eq!(from_server, Err(DecodeError::SessionExpiryIntervalFromServer));
        let v3 = Disconnect::decode(&[0], context(ProtocolVersion::V3_1_1, Role::Server));
        assert_eq!(v3, Err(DecodeError::TrailingBytes { count: 1 }));
    }

    #[test]
    fn auth_names_its_method() {
        let wire = [0xF0, 6, 0x18, 4, 0x15, 0, 1, b'm'];
        let auth = Auth {
            reason_code: ReasonCode::ContinueAuthentication,
            properties: Properties::from_validated(&wire[4..]),
        };
        let mut out = Vec::new();
        auth.encode(&mut out);
        assert_eq!(out, wire);
        assert_eq!(Auth::decode(&wire[2..], Role::Server), Ok(auth));
        let missing = Err(DecodeError::AuthenticationMethodMissing);
        assert_eq!(Auth::decode(&[0x19, 0], Role::Server), missing);
        let packet_type = PacketType::Auth;
        let from_client = Err(DecodeError::ReasonCodeNotAllowed { packet_type, code: 0 });
        assert_eq!(Auth::decode(&[], Role::Server), from_client);
        assert!(Auth::decode(&[], Role::Client).is_ok());
    }
}
